"""What a traffic generator or a sink is to do, and how a stream's packets look.

A spec is a frozen value that goes to `agent` as one JSON object, its class named by "kind". Every
packet of a stream starts with a header that lets the sink count and time it::

    0   4 bytes  "oqst"
    4   u32      stream, chosen by the sender's spec
    8   u64      sequence number, from 0
    16  u64      when it was sent, CLOCK_REALTIME nanoseconds

in network byte order; the rest is zeros. Sender and sink share one machine and so one clock, and
the one-way delay is the difference; a step of that clock during a run shows as a step of the
delay.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from dataclasses import dataclass
from typing import Any

HEADER = struct.Struct("!4sIQQ")
MAGIC = b"oqst"

# What IP and UDP add to a payload.
OVERHEAD_BYTES = {4: 20 + 8, 6: 40 + 8}


@dataclass(frozen=True, slots=True)
class Marking:
    """A change of the traffic class byte of a socket that goes on sending.

    Attributes:
        at_s: When, seconds after the first packet.
        dscp: The code point from then on, 0 to 63.
        ecn: The two bits below it, 0 to 3.
    """

    at_s: float
    dscp: int
    ecn: int = 0


@dataclass(frozen=True, slots=True)
class UdpSource:
    """A stream of equal packets, equally spaced.

    Attributes:
        destination: Address of the sink, IPv4 or IPv6.
        port: Its port.
        rate_bps: Bits a second of IP packets, headers included.
        duration_s: How long it lasts.
        payload_bytes: What UDP carries, at least the header's 24 bytes.
        stream: Tells this stream from others at the same sink.
        markings: Changes of the traffic class; one at 0 marks from the first packet on.
        spin_us: The last so many microseconds before each packet are spent awake: exact to a few
            microseconds, at the price of a processor. Without, a timer that is late delays the
            packet and not those after it.
    """

    destination: str
    port: int
    rate_bps: int
    duration_s: float
    payload_bytes: int = 1200
    stream: int = 0
    markings: tuple[Marking, ...] = ()
    spin_us: int = 0

    def __post_init__(self) -> None:
        if self.payload_bytes < HEADER.size:
            raise ValueError(f"a stream's payload holds {HEADER.size} bytes at least")
        if self.rate_bps <= 0:
            raise ValueError("a stream needs a rate")


@dataclass(frozen=True, slots=True)
class UdpSink:
    """A receiver that counts and times streams.

    Attributes:
        address: Where it listens.
        port: Its port; 0 for one of the kernel's choice, told in the report "ready".
        progress_ms: Time between two reports of progress.
        samples: How many delay samples a stream's final report may hold.
    """

    address: str
    port: int = 0
    progress_ms: int = 100
    samples: int = 1000


@dataclass(frozen=True, slots=True)
class TcpSource:
    """A connection that sends as fast as it can.

    Attributes:
        destination: Address of the sink.
        port: Its port.
        duration_s: How long it lasts.
        rate_bps: The kernel's pacing rate, bits a second of payload; 0 for none.
        congestion: Congestion control by the kernel's name; empty for the system's choice.
        dscp: Its code point.
        progress_ms: Time between two reports of progress.
    """

    destination: str
    port: int
    duration_s: float
    rate_bps: int = 0
    congestion: str = ""
    dscp: int = 0
    progress_ms: int = 100


@dataclass(frozen=True, slots=True)
class TcpSink:
    """A receiver that counts bytes of any number of connections; attributes as `UdpSink`'s."""

    address: str
    port: int = 0
    progress_ms: int = 100


Spec = UdpSource | UdpSink | TcpSource | TcpSink

_KINDS: dict[str, type[Spec]] = {
    "udp_source": UdpSource,
    "udp_sink": UdpSink,
    "tcp_source": TcpSource,
    "tcp_sink": TcpSink,
}


def to_json(spec: Spec) -> str:
    """Write a spec as one line of JSON."""
    kind = next(kind for kind, cls in _KINDS.items() if type(spec) is cls)
    return json.dumps({"kind": kind} | dataclasses.asdict(spec))


def from_json(text: str) -> Spec:
    """Read a spec.

    Raises:
        ValueError: Not JSON, not an object, an unknown kind, or fields that kind does not have.
    """
    fields: Any = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("a spec is a JSON object")
    kind = fields.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"a spec's kind is one of {', '.join(_KINDS)}, not {kind!r}")
    try:
        if "markings" in fields:
            fields["markings"] = tuple(Marking(**marking) for marking in fields["markings"])
        return _KINDS[kind](**fields)
    except TypeError as error:
        raise ValueError(f"{kind}: {error}") from error

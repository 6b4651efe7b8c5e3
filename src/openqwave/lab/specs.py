"""What a traffic generator or a sink is to do, and how a stream's packets look.

A spec is a frozen value that goes to `agent` as one JSON object, its class named by "kind". Every
packet of a stream starts with a header that lets the sink count and time it::

    0   4 bytes  "oqst"
    4   u16      stream, chosen by the sender's spec
    6   u16      phase of the sender's timeline, from 0
    8   u64      sequence number within the phase, from 0
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

from openqwave.model.flow import TrafficType

HEADER = struct.Struct("!4sHHQQ")
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
class FlowStep:
    """The sender puts its own socket in a flow, by the library, and goes on sending.

    The calls are those of a streaming program: add the socket as best effort to a non-adaptive
    flow (QOSAddSocketToFlow), then set the traffic type (QOSSetFlow).

    Attributes:
        at_s: When, seconds after the first packet.
        traffic_type: What the flow carries.
        until_s: When the flow ends; None for the end of the stream.
    """

    at_s: float
    traffic_type: TrafficType
    until_s: float | None = None


@dataclass(frozen=True, slots=True)
class Bursts:
    """A stream that goes and pauses, as `crosstraffic` says of on-off traffic.

    Attributes:
        peak_bps: Rate within a burst, above the stream's average.
        on_ms: Mean length of a burst; the pauses follow from the two rates.
        is_heavy_tailed: Whether the lengths are Pareto's, with a few very long ones, in place of
            exponential.
    """

    peak_bps: int
    on_ms: float = 50.0
    is_heavy_tailed: bool = False


@dataclass(frozen=True, slots=True)
class UdpSource:
    """A stream of equal packets: equally spaced, at random, or in bursts.

    Attributes:
        destination: Address of the sink, IPv4 or IPv6.
        port: Its port.
        rate_bps: Bits a second of IP packets, headers included.
        duration_s: How long it lasts.
        payload_bytes: What UDP carries, at least the header's 24 bytes.
        stream: Tells this stream from others at the same sink.
        markings: Changes of the traffic class; one at 0 marks from the first packet on.
        flows: Flows that the socket is put in.
        phases: When a new phase begins, seconds after the first packet: sender and sink count
            each phase apart.
        start_monotonic_ns: When the first packet is due, CLOCK_MONOTONIC, so that several
            streams can have one timeline; 0 for at once. A stream that is ready later than that
            leaves out what it missed.
        is_random: The intervals are exponentially distributed about the rate's, so that packets
            arrive as a Poisson process. Two evenly spaced streams can fall in step, and then a
            full queue has room for the one each time and never for the other.
        bursts: The packets come in bursts at a higher rate, with pauses between; None for no
            pauses. Excludes `is_random`.
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
    flows: tuple[FlowStep, ...] = ()
    phases: tuple[float, ...] = ()
    start_monotonic_ns: int = 0
    is_random: bool = False
    bursts: Bursts | None = None
    spin_us: int = 0

    def __post_init__(self) -> None:
        if self.payload_bytes < HEADER.size:
            raise ValueError(f"a stream's payload holds {HEADER.size} bytes at least")
        if self.rate_bps <= 0:
            raise ValueError("a stream needs a rate")
        if not 0 <= self.stream <= 0xFFFF:
            raise ValueError(f"a stream's number has 16 bits, not {self.stream}")
        if self.bursts and self.is_random:
            raise ValueError("a stream comes at random or in bursts, not both")
        if self.bursts and (self.bursts.peak_bps <= self.rate_bps or self.bursts.on_ms <= 0):
            raise ValueError("bursts have a length, and a rate above the stream's average")


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
        if "flows" in fields:
            fields["flows"] = tuple(_flow_step(**step) for step in fields["flows"])
        if fields.get("bursts") is not None:
            fields["bursts"] = Bursts(**fields["bursts"])
        if "phases" in fields:
            fields["phases"] = tuple(fields["phases"])
        return _KINDS[kind](**fields)
    except TypeError as error:
        raise ValueError(f"{kind}: {error}") from error


def _flow_step(at_s: float, traffic_type: int, until_s: float | None = None) -> FlowStep:
    return FlowStep(at_s, TrafficType(traffic_type), until_s)

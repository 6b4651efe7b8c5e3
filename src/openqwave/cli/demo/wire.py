"""What arrived at the receiver's interface: marks, times and numbers as the kernel saw them.

The books of the receiving program say what it got; these say what the network delivered, and
with which marks. A packet of the demo names its stream, its phase and the time it was sent, so
each can be accounted for by itself. Delays are the kernel's time of arrival less the sender's
stamp, taken right before the call that sends.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

from openqwave.lab.accounts import StreamAccount, quantiles
from openqwave.lab.capture import CapturedPacket
from openqwave.lab.specs import HEADER, MAGIC


@dataclass(frozen=True, slots=True)
class Span:
    """One stream over some time.

    Attributes:
        rate_bps: Bits a second of IP packets that arrived.
        median_ns: The median of their one-way delays; None if none arrived.
    """

    rate_bps: float
    median_ns: int | None


@dataclass(slots=True)
class Track:
    """Every packet of one stream that arrived, in order.

    Attributes:
        arrived_ns: Times of arrival, CLOCK_REALTIME.
        delay_ns: One-way delays.
        ip_bytes: Lengths of the IP packets.
        dscp: The last packet's code point; None before the first.
        phase: The last packet's phase.
    """

    arrived_ns: array[int] = field(default_factory=lambda: array("q"))
    delay_ns: array[int] = field(default_factory=lambda: array("q"))
    ip_bytes: array[int] = field(default_factory=lambda: array("q"))
    dscp: int | None = None
    phase: int = 0

    def span(self, from_ns: int, until_ns: int) -> Span:
        """Return what arrived from one time to another, CLOCK_REALTIME."""
        first, end = bisect_left(self.arrived_ns, from_ns), bisect_left(self.arrived_ns, until_ns)
        ip_bytes = sum(self.ip_bytes[first:end])
        median_ns = quantiles(self.delay_ns[first:end]).get("p50")
        return Span(ip_bytes * 8e9 / (until_ns - from_ns), median_ns)


class Wire:
    """Books on everything that a capture has shown.

    Attributes:
        tracks: By stream.
        accounts: By stream and phase.
    """

    def __init__(self, streams: Iterable[int]) -> None:
        self.tracks = {stream: Track() for stream in streams}
        self.accounts: dict[tuple[int, int], StreamAccount] = {}

    def enter(self, packets: Iterable[CapturedPacket]) -> None:
        """Enter what was captured; strangers are left out."""
        for packet in packets:
            if not packet.payload.startswith(MAGIC) or len(packet.payload) < HEADER.size:
                continue
            _, stream, phase, sequence, sent_ns = HEADER.unpack_from(packet.payload)
            track = self.tracks.get(stream)
            if track is None:
                continue
            track.arrived_ns.append(packet.time_ns)
            track.delay_ns.append(packet.time_ns - sent_ns)
            track.ip_bytes.append(packet.length_bytes)
            track.dscp, track.phase = packet.dscp, phase
            key = (stream, phase)
            account = self.accounts.get(key)
            if account is None:
                account = self.accounts[key] = StreamAccount()
            traffic_class = packet.dscp << 2 | packet.ecn
            account.add(sequence, sent_ns, packet.time_ns, traffic_class, packet.length_bytes)

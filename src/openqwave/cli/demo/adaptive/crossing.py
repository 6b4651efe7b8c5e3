"""Each packet of the streams at both ends of the link: how long it took, and its mark.

Two captures, one at the interface that it leaves by and one where it arrives. Both are stamped by
the kernel, with one clock, so the difference is what the link took and nothing of the programs'
time is in it. A packet is known by its stream, phase and number.

Times here are CLOCK_REALTIME, as captures have them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from openqwave.lab.accounts import quantiles
from openqwave.lab.specs import HEADER, MAGIC

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from openqwave.lab.capture import CapturedPacket

_Key = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Passed:
    """One stream over some time.

    Attributes:
        rate_bps: Bits a second of IP packets that arrived.
        delays_ns: Quantiles of their one-way delays, as `lab.accounts` names them; empty if none
            arrived.
    """

    rate_bps: float
    delays_ns: dict[str, int]


@dataclass(slots=True)
class Track:
    """All packets of one stream that arrived, in order.

    Attributes:
        arrived_ns: When.
        delay_ns: How long they were on the link.
        ip_bytes: Lengths of the IP packets.
        left: How many left the near host, by phase.
        came: How many arrived, by phase.
        dscps: How many arrived with each code point, by phase.
    """

    arrived_ns: array[int] = field(default_factory=lambda: array("q"))
    delay_ns: array[int] = field(default_factory=lambda: array("q"))
    ip_bytes: array[int] = field(default_factory=lambda: array("q"))
    left: Counter[int] = field(default_factory=Counter)
    came: Counter[int] = field(default_factory=Counter)
    dscps: dict[int, Counter[int]] = field(default_factory=dict)

    def span(self, from_ns: int, until_ns: int) -> Passed:
        """What arrived from one time to another."""
        first, end = bisect_left(self.arrived_ns, from_ns), bisect_left(self.arrived_ns, until_ns)
        ip_bytes = sum(self.ip_bytes[first:end])
        return Passed(ip_bytes * 8e9 / (until_ns - from_ns), quantiles(self.delay_ns[first:end]))

    @property
    def lost(self) -> int:
        """Packets that left and did not arrive."""
        return self.left.total() - self.came.total()


class Crossing:
    """Books on both ends.

    Attributes:
        tracks: By stream.
    """

    def __init__(self, streams: Iterable[int]) -> None:
        self.tracks = {stream: Track() for stream in streams}
        self._under_way: dict[_Key, int] = {}

    def enter(self, left: Iterable[CapturedPacket], arrived: Iterable[CapturedPacket]) -> None:
        """Enter what was captured; what arrived has to have been taken before what left."""
        for key, packet in self._ours(left):
            self._under_way[key] = packet.time_ns
            self.tracks[key[0]].left[key[1]] += 1
        for key, packet in self._ours(arrived):
            left_ns = self._under_way.pop(key, None)
            if left_ns is None:
                continue
            stream, phase, _ = key
            track = self.tracks[stream]
            track.arrived_ns.append(packet.time_ns)
            track.delay_ns.append(packet.time_ns - left_ns)
            track.ip_bytes.append(packet.length_bytes)
            track.came[phase] += 1
            track.dscps.setdefault(phase, Counter())[packet.dscp] += 1

    def _ours(self, packets: Iterable[CapturedPacket]) -> Iterator[tuple[_Key, CapturedPacket]]:
        for packet in packets:
            if not packet.payload.startswith(MAGIC) or len(packet.payload) < HEADER.size:
                continue
            _, stream, phase, sequence, _ = HEADER.unpack_from(packet.payload)
            if stream in self.tracks:
                yield (stream, phase, sequence), packet

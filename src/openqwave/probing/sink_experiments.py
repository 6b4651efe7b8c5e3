"""What a sink does with the probes of one connection: time a train, watch a group arrive.

Both follow MS-QLPB to the letter where it is clear (3.2.5.4, 3.2.5.5). Sequence numbers are
compared without regard to their 32 bits' wrapping, as there: a connection never gets that far,
and one that begins at the end of the range loses a train.
"""

from __future__ import annotations

import itertools

from openqwave.probing.sink_reports import Refused
from openqwave.wire.qlpb import TICK_NS, Observation, PacketPairProbe, RouteCheckProbe

# A delta is 64 bits on the wire.
_MAX_TICKS = (1 << 64) - 1


class TrainTimer:
    """Times the packets of one train after another (MS-QLPB 3.2.5.5).

    The packet with the F flag begins a train, whatever came before. Every other one has to be
    the next in order, of the same train size and of the same length, or it does not count; so a
    packet that is lost or late leaves its train without a result.

    Args:
        max_packets: Longest train that is timed.
    """

    __slots__ = ("_first", "_max_packets", "_ticks")

    def __init__(self, max_packets: int) -> None:
        self._max_packets = max_packets
        self._first: PacketPairProbe | None = None
        self._ticks: list[int] = []

    def receive(self, probe: PacketPairProbe, stamp_ns: int) -> tuple[int, ...] | Refused | None:
        """Take a packet.

        Args:
            probe: What it says.
            stamp_ns: When the kernel got it.

        Returns:
            The train's deltas in nanoseconds, rounded so that they add up, with its last packet;
            why the packet does not count; or None if there is nothing to say yet.
        """
        if probe.train_size == 0:
            return None  # It was sent to load the path (2.2.2.3).
        tick = stamp_ns // TICK_NS
        if probe.is_first:
            self._first, self._ticks = None, []
            if probe.train_size > self._max_packets:
                return Refused.TRAIN_TOO_LONG
            self._first, self._ticks = probe, [tick]
            return None
        first, ticks = self._first, self._ticks
        if (
            first is None
            or probe.sequence != first.sequence + len(ticks)
            or probe.train_size != first.train_size
        ):
            return Refused.OUT_OF_TRAIN
        if probe.size_bytes != first.size_bytes:
            return Refused.MIXED_SIZES
        ticks.append(tick)
        if len(ticks) < first.train_size:
            return None
        self._first, self._ticks = None, []
        deltas = [later - earlier for earlier, later in itertools.pairwise(ticks)]
        if not all(0 <= delta <= _MAX_TICKS for delta in deltas):
            return Refused.CLOCK_STEPPED
        return tuple(delta * TICK_NS for delta in deltas)


class GroupWatch:
    """Sees whether prioritised packets overtake others, or large ones are lost (3.2.5.4).

    A group's last packet goes at high priority and alone carries the size of the group. If all
    came before it, nothing is amiss. If some come after it, it overtook them. If the oversized
    packet never came, a device on the way does not pass frames with a tag.
    """

    __slots__ = ("_consecutive", "_high_sequence", "_high_train", "_oversized", "_sequence")

    def __init__(self) -> None:
        self._sequence = 0
        self._consecutive = 0
        # The last packet of high priority that came while others of its group were missing.
        self._high_sequence = 0
        self._high_train = 0
        # The last oversized packet.
        self._oversized = 0

    def receive(self, probe: RouteCheckProbe) -> Observation | None:
        """Take a packet; return what is to be reported, if anything is."""
        sequence, train_size = probe.sequence, probe.train_size
        self._consecutive = self._consecutive + 1 if sequence == self._sequence + 1 else 1
        self._sequence = sequence
        if train_size == 0:
            if self._high_sequence - self._high_train < sequence < self._high_sequence:
                self._forget_group()
                self._oversized = 0
                return Observation.INVERSION
            if probe.is_oversized and sequence > self._high_sequence:
                self._oversized = sequence
            return None
        if self._consecutive >= train_size:
            self._forget_group()
            self._oversized = 0
            return Observation.NO_ISSUE
        if self._oversized == 0 or self._oversized + train_size <= sequence:
            # The oversized packet stays remembered here, unlike above.
            self._forget_group()
            return Observation.LOSS
        self._high_sequence, self._high_train = sequence, train_size
        return None

    def _forget_group(self) -> None:
        self._high_sequence = self._high_train = self._consecutive = 0

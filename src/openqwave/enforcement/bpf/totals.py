"""What the kernel's program has counted of all flows together, those that have ended among them.

The counters of a flow stay in its slot when it ends, and begin anew when the slot is given out
again. So the sum over all slots ever used, with what was in those that began anew, is all that was
ever counted, whenever somebody asks, and an end of a flow costs nothing.
"""

from __future__ import annotations

from typing import Final

from openqwave.enforcement.bpf import layout, syscalls
from openqwave.model.traffic import FlowTraffic

_KEY_BYTES: Final = layout.SLOT.size
_SIZE: Final = layout.METER_STATE.size
_FIELDS: Final = _SIZE // 8


class Totals:
    """Sums of the array of counters.

    Attributes:
        slots: The highest slot that was ever given out.
        retired: What was counted in slots before they began anew.
    """

    def __init__(self, meters: int) -> None:
        """Begin with nothing.

        Args:
            meters: The descriptor of the array, which remains the caller's.
        """
        self._meters = meters
        self.slots = 0
        self.retired = FlowTraffic()

    def retire(self, slot: int) -> None:
        """Keep what a slot's last flow has sent: its counters are about to begin anew.

        Raises:
            OSError: The kernel could not be asked.
        """
        raw = syscalls.lookup(self._meters, layout.SLOT.pack(slot), _SIZE)
        if raw is not None:
            _, *counts, _ = layout.METER_STATE.unpack(raw)
            if any(counts):
                self.retired = together(self.retired, FlowTraffic(*counts))

    def read(self, first: int, count: int) -> tuple[FlowTraffic, int]:
        """What was counted in a range of slots together.

        Args:
            first: The first slot, from 1 on.
            count: How many at most; a thousand take a fifth of a millisecond.

        Returns:
            The sum, and the slot to go on with; 0 where there is none.

        Raises:
            OSError: The kernel could not be asked.
        """
        count = min(count, self.slots + 1 - first)
        if count <= 0:
            return FlowTraffic(), 0
        before = layout.SLOT.pack(first - 1)
        raw = syscalls.lookup_batch(self._meters, before, _KEY_BYTES, _SIZE, count)[1]
        following = first + count
        return _sum_of(raw), following if following <= self.slots else 0


def together(one: FlowTraffic, other: FlowTraffic) -> FlowTraffic:
    """Both."""
    return FlowTraffic(
        one.packets + other.packets,
        one.bytes + other.bytes,
        one.excess_packets + other.excess_packets,
        one.excess_bytes + other.excess_bytes,
        one.dropped_packets + other.dropped_packets,
    )


def _sum_of(raw: bytes) -> FlowTraffic:
    numbers = memoryview(raw).cast("Q")
    # The first field is when the meter is even, the last one whose it is.
    return FlowTraffic(*[sum(numbers[field::_FIELDS]) for field in range(1, _FIELDS - 1)])

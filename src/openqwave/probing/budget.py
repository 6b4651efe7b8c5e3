"""What experiments on a path may cost: a share of it on average, and bursts of a size.

**The average** is taken over a sliding window of five minutes: a hundredth of the capacity and at
most 1 Mbit/s, unless policy says otherwise. A window that long has room for what is worth it: on a
link of 20 Mbit/s it allows 7.5 MB, of which a thorough measurement takes 0.7 MB within three
seconds, a third of the link for that time. Under a limit that holds for every second no first
answer could be accurate.

**A burst** is what leaves together, which is one train: at most 100 kB of IP packets.

The share is of the capacity that was believed when something was sent: a path that becomes slower
does not owe what was right before, or nothing could be sent at the time when most is to be learned.
So the books are kept in time: what was sent is the time in which its share would have been earned.
What was sent before any capacity was known is of the capacity that is asked about.

**Before the capacity is known** a slow path is assumed, on which the first pairs of packets cost
little; each belief about the capacity then opens what it allows.

Spending is remembered in slots, each forgotten as a whole when the last of it is older than the
window: memory is bounded, and the error is on the careful side.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from openqwave.model.errors import InvalidParameter

MILLION = 1_000_000
_BIT_NS = 8 * 1_000_000_000

# The slowest path on which adaptive flows make sense; half of its window is the first pairs, a
# step of trains of 32 packets, and a margin.
UNKNOWN_BPS = 1_000_000
# A pace is not for less than this part of the window: it would change all the time.
LEAST_HORIZON_PART = 0.1
# Parts of the window: what is held against the path for too long is a sixtieth of it.
SLOTS = 60


@dataclass(slots=True)
class _Slot:
    """What was spent in a part of the window.

    Attributes:
        end_ns: Of that part.
        earning_ns: The time in which the shares of what was sent are earned.
        open_bytes: What was sent while the capacity was not known.
    """

    end_ns: int
    earning_ns: float = 0.0
    open_bytes: int = 0

    def spent_ns(self, byte_ns: float) -> float:
        """All of it, as time; a byte of what is open takes so long."""
        return self.earning_ns + self.open_bytes * byte_ns


class Budget:
    """The budget of one path; see the module's text.

    Args:
        share_ppm: Of the capacity, in millionths, on average.
        most_bps: And not more than this, bits a second of IP packets.
        burst_bytes: What may leave together.
        window_ns: What the average is taken over.

    Raises:
        InvalidParameter: A number that allows nothing.
    """

    def __init__(
        self,
        share_ppm: int = 10_000,
        most_bps: int = 1_000_000,
        burst_bytes: int = 100_000,
        window_ns: int = 300_000_000_000,
    ) -> None:
        if window_ns < SLOTS:
            raise InvalidParameter("a budget of nothing")
        self.allow(share_ppm, most_bps, burst_bytes)
        self._window_ns = window_ns
        self._slots: deque[_Slot] = deque()

    def allow(self, share_ppm: int, most_bps: int, burst_bytes: int) -> None:
        """Allow more, or less, from now on; what was sent is not owed anew.

        Args and errors are those of the budget itself.
        """
        if not 0 < share_ppm <= MILLION:
            raise InvalidParameter(f"a share is 1 to {MILLION} millionths, not {share_ppm}")
        if min(most_bps, burst_bytes) <= 0:
            raise InvalidParameter("a budget of nothing")
        self._share_ppm = share_ppm
        self._most_bps = most_bps
        self.burst_bytes = burst_bytes

    def is_untouched(self, now_ns: int) -> bool:
        """Was nothing sent in the last window?"""
        self._forget(now_ns)
        return not self._slots

    def rate_bps(self, capacity_bps: float | None) -> float:
        """What may be sent on average, bits a second; None for a capacity that is not known."""
        known_bps = UNKNOWN_BPS if capacity_bps is None else capacity_bps
        return min(float(self._most_bps), max(1.0, known_bps * self._share_ppm / MILLION))

    def whole_bytes(self, capacity_bps: float | None) -> int:
        """What may be sent in a window."""
        return int(self.rate_bps(capacity_bps) * self._window_ns / _BIT_NS)

    def spend(self, size_bytes: int, capacity_bps: float | None = None, *, now_ns: int) -> None:
        """Note what was sent.

        Args:
            size_bytes: IP packets, headers included.
            capacity_bps: As it is believed now; None while it is not known.
            now_ns: The time; not before the last one.
        """
        self._forget(now_ns)
        if not self._slots or self._slots[-1].end_ns <= now_ns:
            self._slots.append(_Slot(now_ns + self._window_ns // SLOTS))
        slot = self._slots[-1]
        if capacity_bps is None:
            slot.open_bytes += size_bytes
        else:
            slot.earning_ns += size_bytes * _BIT_NS / self.rate_bps(capacity_bps)

    def allowed_bytes(self, capacity_bps: float | None, *, now_ns: int) -> int:
        """What is left of the window now; 0 where it was overdrawn."""
        self._forget(now_ns)
        byte_ns = _BIT_NS / self.rate_bps(capacity_bps)
        return max(0, int((self._window_ns - self._spent_ns(capacity_bps)) / byte_ns))

    def pace_bps(self, capacity_bps: float | None, *, now_ns: int) -> float:
        """What can be sent all the time from now on, bits a second.

        It lasts until a third of what was sent is forgotten: for as long as the window right after
        a first measurement, and a third of that where the same was sent all the time, which is
        then three quarters of the average.
        """
        left = self.allowed_bytes(capacity_bps, now_ns=now_ns)
        part_ns = self._spent_ns(capacity_bps) / 3
        horizon_ns = float(self._window_ns)
        for slot in self._slots:
            part_ns -= slot.spent_ns(_BIT_NS / self.rate_bps(capacity_bps))
            if part_ns <= 0:
                horizon_ns = self._window_ns - (now_ns - slot.end_ns)
                break
        horizon_ns = max(LEAST_HORIZON_PART * self._window_ns, min(self._window_ns, horizon_ns))
        return left * _BIT_NS / horizon_ns

    def _spent_ns(self, capacity_bps: float | None) -> float:
        byte_ns = _BIT_NS / self.rate_bps(capacity_bps)
        return sum(slot.spent_ns(byte_ns) for slot in self._slots)

    def _forget(self, now_ns: int) -> None:
        while self._slots and self._slots[0].end_ns <= now_ns - self._window_ns:
            self._slots.popleft()

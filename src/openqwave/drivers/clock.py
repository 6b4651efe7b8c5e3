"""Time, and whether the machine slept.

CLOCK_MONOTONIC stands still while the machine is suspended, CLOCK_BOOTTIME does not
(clock_gettime(2)), so their difference is the time spent asleep.
"""

from __future__ import annotations

from time import CLOCK_BOOTTIME, clock_gettime_ns, monotonic_ns
from typing import Protocol


class Clock(Protocol):
    """A source of time."""

    def read(self) -> tuple[int, int]:
        """Monotonic time now, and the time spent suspended since the start; nanoseconds.

        Two clocks are read one after the other, so the second figure trembles by what lies
        between the readings; it can come out too small, never too large.
        """


class SystemClock:
    """The kernel's clocks."""

    def read(self) -> tuple[int, int]:
        """CLOCK_MONOTONIC, and CLOCK_BOOTTIME less CLOCK_MONOTONIC."""
        since_start_ns = clock_gettime_ns(CLOCK_BOOTTIME)
        now_ns = monotonic_ns()
        return now_ns, since_start_ns - now_ns

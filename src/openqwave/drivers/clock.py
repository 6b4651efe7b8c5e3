"""Time, and whether the machine slept.

CLOCK_MONOTONIC stands still while the machine is suspended, CLOCK_BOOTTIME does not
(clock_gettime(2)), so their difference is the time spent asleep.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of time."""

    def now_ns(self) -> int:
        """Monotonic time, nanoseconds."""

    def asleep_ns(self) -> int:
        """Time the machine spent suspended since it started, nanoseconds.

        Two clocks are read one after the other, so the figure trembles by what lies
        between the readings.
        """


class SystemClock:
    """The kernel's clocks."""

    def now_ns(self) -> int:
        """CLOCK_MONOTONIC."""
        return time.monotonic_ns()

    def asleep_ns(self) -> int:
        """CLOCK_BOOTTIME less CLOCK_MONOTONIC."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()

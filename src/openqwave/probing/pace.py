"""When small probes leave: at a fixed period, or at random with the same mean.

The specification's fixed period finds a periodic disturbance always or never. Intervals that are
exponentially distributed see the path as it is on average: Poisson arrivals see time averages
(Wolff, Operations Research 30, 1982).
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING

from openqwave.model.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Callable

_NS_PER_S = 1_000_000_000

# Probes a second. At the least pace a queue comes and goes unseen, and what is seen is whether the
# path is there; faster than the most, the probes are a load of their own (2000 of them are 1 Mbit/s
# on IPv4). The specification's pace is 1000 (MS-QLPB 3.1.4.3).
MIN_PER_SECOND = 1
MAX_PER_SECOND = 2_000
PER_SECOND = 1_000

# An exponential interval is cut at ten times the mean, which 1 in 22 000 exceeds: a longer
# silence would look like a path that has died.
_LONGEST_MEANS = 10

# A probe at random that is later than this is left out. Its driver was busy, most likely with a
# train of the same measurement, and all probes of that time would leave right behind it and see
# its queue. Ordinary lateness is a third of it.
MOST_LATE_NS = 300_000

# Probes that may leave together because the driver was late.
AT_ONCE = 2


class Spacing(enum.Enum):
    """How the time between probes is chosen."""

    PERIODIC = "all the same"
    POISSON = "exponentially distributed"


class Pace:
    """The schedule of probes.

    Args:
        random: Uniform in [0, 1), for exponential intervals.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._per_second = PER_SECOND
        self._spacing = Spacing.PERIODIC
        self._next_ns: int | None = None

    @property
    def next_ns(self) -> int | None:
        """When the next probe is due; None before the first was."""
        return self._next_ns

    def start(self, *, now_ns: int) -> None:
        """The first probe is due at once (3.1.4.3)."""
        self._next_ns = now_ns

    def set_rate(self, per_second: int, spacing: Spacing, *, now_ns: int) -> None:
        """Change the pace, from the next probe on.

        Raises:
            InvalidParameter: The rate is not between 1 and 2000.
        """
        if not MIN_PER_SECOND <= per_second <= MAX_PER_SECOND:
            raise InvalidParameter(
                f"{MIN_PER_SECOND} to {MAX_PER_SECOND} probes a second, not {per_second}"
            )
        self._per_second, self._spacing = per_second, spacing
        if self._next_ns is not None:
            # Never later than was due, or a pace that is set often would stop the probes.
            self._next_ns = min(self._next_ns, now_ns + self._interval_ns())

    def take_due(self, *, now_ns: int) -> tuple[list[int], int]:
        """Take what is to be sent now.

        Returns:
            When each of at most `AT_ONCE` probes was due, and how many others were due so long
            ago that they are left out: together they would be a burst that measures itself.
        """
        due: list[int] = []
        if self._next_ns is None:
            return due, 0
        late = 0
        while self._next_ns <= now_ns:
            if self._spacing is Spacing.POISSON and now_ns - self._next_ns > MOST_LATE_NS:
                late += 1
            elif len(due) == AT_ONCE:
                skipped = 1 + (now_ns - self._next_ns) * self._per_second // _NS_PER_S
                self._next_ns = now_ns + self._interval_ns()
                return due, late + skipped
            else:
                due.append(self._next_ns)
            self._next_ns += self._interval_ns()
        return due, late

    def _interval_ns(self) -> int:
        mean_ns = _NS_PER_S // self._per_second
        if self._spacing is Spacing.PERIODIC:
            return mean_ns
        means = min(-math.log(1.0 - self._random()), _LONGEST_MEANS)
        # Not 0, or the schedule would stand still.
        return max(1, int(means * mean_ns))

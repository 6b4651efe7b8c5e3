"""What is in the picture of a path that the service knows: series over time, from looks at it.

The service tells what holds now, so each look speaks for the time until the next. What came and
went between two is not seen. Rates are in Mbit/s; what is not known is not a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from openqwave.cli.overview.paths import state_of
from openqwave.cli.overview.words import clean

if TYPE_CHECKING:
    from openqwave.ipc.messages import PathRow

NS_PER_S: Final = 1e9
MBPS: Final = 1e6
MS: Final = 1e6

# Of a path that the service does not list any more, beside the words of `state_of`.
GONE: Final = "gone"
# Numbers whose age is less than it was, and the time since, by so much are others: both clocks are
# looked at, one after the other.
YOUNGER_S: Final = 0.2
# More points of a line would lie over each other.
MOST_POINTS: Final = 3_000


@dataclass(frozen=True, slots=True)
class Look:
    """One look, as far as it is drawn; see `PathRow` for the numbers.

    Attributes:
        time_s: When, from the first look.
        state: How it stood with the path, in a word.
        is_new: The numbers were measured since the look before.
    """

    time_s: float
    state: str
    capacity: float = math.nan
    available: float = math.nan
    low: float = math.nan
    held: float = math.nan
    own: float = math.nan
    rtt_ms: float = math.nan
    is_new: bool = False


@dataclass(slots=True)
class Looks:
    """All looks at one path.

    Attributes:
        host: Its far end, as the service writes it.
        looks: In order of time.
        last: What was listed last; None if nothing ever was.
        reasons: Why the path was congested or not measured, with the seconds that it was said.
    """

    host: str
    looks: list[Look] = field(default_factory=list)
    last: PathRow | None = None
    reasons: dict[tuple[str, str], float] = field(default_factory=dict)
    _age_s: float = math.inf
    _reason: tuple[str, str] | None = None

    def add(self, time_s: float, row: PathRow | None) -> None:
        """Take what was seen.

        Args:
            time_s: When, from the first look.
            row: The path; None if it was not listed.
        """
        self._count_reason(time_s)
        if row is None:
            self.looks.append(Look(time_s, GONE))
            self._age_s, self._reason = math.inf, None
            return
        age_s = math.inf if row.age_ns is None else row.age_ns / NS_PER_S
        passed_s = time_s - self.looks[-1].time_s if self.looks else 0.0
        state, _ = state_of(row)
        self.looks.append(
            Look(
                time_s,
                state,
                _scaled(row.capacity_bps, MBPS),
                _scaled(row.available_bps, MBPS),
                _scaled(row.available_low_bps, MBPS),
                row.held_bps / MBPS,
                _scaled(row.own_bps, MBPS),
                _scaled(row.rtt_ns, MS),
                # Of the first look it is not known.
                is_new=len(self.looks) > 0 and age_s < self._age_s + passed_s - YOUNGER_S,
            )
        )
        self.last, self._age_s = row, age_s
        reason = row.obstacle or (row.congestion_reason if row.congested else "")
        self._reason = (state, clean(reason)) if reason else None
        if self._reason is not None:
            self.reasons.setdefault(self._reason, 0.0)

    def _count_reason(self, time_s: float) -> None:
        if self._reason is not None:
            self.reasons[self._reason] += time_s - self.looks[-1].time_s

    @property
    def span_s(self) -> float:
        """From the first look to the last."""
        return self.looks[-1].time_s if self.looks else 0.0

    def spans(self, state: str) -> list[tuple[float, float]]:
        """When it stood so with the path: from and to, seconds."""
        found: list[tuple[float, float]] = []
        for number, look in enumerate(self.looks):
            if look.state != state:
                continue
            until_s = self.looks[min(number + 1, len(self.looks) - 1)].time_s
            if found and found[-1][1] == look.time_s:
                found[-1] = found[-1][0], until_s
            else:
                found.append((look.time_s, until_s))
        return found

    def lasted_s(self, state: str) -> float:
        """How long it stood so with the path."""
        return sum(until_s - from_s for from_s, until_s in self.spans(state))

    def points(self) -> Sequence[Look]:
        """What lines are drawn through: all looks, or evenly some of very many, and the last."""
        step = -(-len(self.looks) // MOST_POINTS) or 1
        return self.looks[::-1][::step][::-1]


def _scaled(number: int | None, unit: float) -> float:
    return math.nan if number is None else number / unit

"""What is in the picture of a measurement: series over time, from its samples and nothing else.

`series` makes of a `history` what the three panels show.

**Time.** All series count from the first packet. Results are put where the last sample came that
they rest on: a small probe when it was back, a train when its last packet was due at the sink.

**Delays.** The two clocks are taken out as the estimators do (`estimate.clocks`), each minute by
itself: quartz wanders over longer times. So the fastest probe of each minute waits for nothing, and
a queue that stands for a whole minute is not seen.

**Probes behind trains.** The measurement is load itself. A probe that was sent while a train of its
own was still on its way through the narrow link waits for that train; these are told apart.

**Results.** During the first measurement each point is what would have been said had it ended
there. Afterwards, of a path that is watched, it is what was said.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from openqwave.cli.plot.history import History, known_ns
from openqwave.estimate.arrivals import knee_of, spread_of
from openqwave.estimate.clocks import align
from openqwave.estimate.dispersion import LinkKind
from openqwave.estimate.idle import DRAIN_FACTOR
from openqwave.estimate.path import report
from openqwave.estimate.samples import Gap, Sample, Train
from openqwave.model.estimates import Estimate, PathReport

NS_PER_S: Final = 1e9
MBPS: Final = 1e6
MS: Final = 1e6

# Clocks are taken out of the delays of so much time at once.
WINDOW_NS: Final = 60_000_000_000
# Points of the first measurement's course: each costs an estimate, 20 ms at most of one of three
# seconds. Of longer measurements there are fewer, so that drawing takes about a second.
MOST_POINTS, LEAST_POINTS, POINT_BUDGET = 28, 7, 60_000
# More dots than this are drawn as what most of them say in columns, of which there are so many.
MOST_DOTS, COLUMNS = 6_000, 240


@dataclass(frozen=True, slots=True)
class Belief:
    """A result as far as it is drawn.

    Attributes:
        known_s: When it was known.
        capacity: Of the narrow link; None where it is not known.
        available: What of it is free, likewise.
    """

    known_s: float
    capacity: Estimate | None
    available: Estimate | None


@dataclass(frozen=True, slots=True)
class Dots:
    """Values at times.

    Attributes:
        times_s: When.
        values: What.
    """

    times_s: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, time_s: float, value: float) -> None:
        """Add one."""
        self.times_s.append(time_s)
        self.values.append(value)


@dataclass(frozen=True, slots=True)
class Columns:
    """What most of very many dots say, by columns.

    Attributes:
        times_s: The middles of the columns that hold any.
        low: Nineteen in twenty are at or above this.
        middle: The median.
        high: Nineteen in twenty are at or below this.
    """

    times_s: list[float]
    low: list[float]
    middle: list[float]
    high: list[float]


@dataclass(frozen=True, slots=True)
class Rates:
    """What trains arrived at, in Mbit/s, and when those were sent that tell no rate.

    Attributes:
        pairs: Two packets, sent together.
        trains: More than two.
        paced: Trains that were sent with spaces between their packets.
        heads: The fast beginnings of trains on a token bucket; their slow ends are in `trains`.
        clumped_s: All packets arrived at once.
        lost_s: No arrival is known.
    """

    pairs: Dots = field(default_factory=Dots)
    trains: Dots = field(default_factory=Dots)
    paced: Dots = field(default_factory=Dots)
    heads: Dots = field(default_factory=Dots)
    clumped_s: list[float] = field(default_factory=list)
    lost_s: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Series:
    """Everything that is drawn; times are seconds from the first packet.

    Attributes:
        span_s: When the last of it was.
        there: What probes waited on their way to the sink, beyond the fastest, ms.
        behind: Those of them that were sent behind a train of the measurement.
        back: What probes waited on their way back.
        lost_s: When those were sent that did not come back.
        probe_count: How many probes were sent.
        rates: What trains arrived at.
        beliefs: What was concluded, in order.
        watched_from_s: When the first measurement ended, if more followed.
        report: The last result.
    """

    span_s: float
    there: Dots
    behind: Dots
    back: Dots
    lost_s: list[float]
    probe_count: int
    rates: Rates
    beliefs: list[Belief]
    watched_from_s: float | None
    report: PathReport


def series(history: History) -> Series:
    """Make of a history what is drawn.

    Raises:
        ValueError: There is no result in it.
    """
    last = history.last_report()
    trains = history.trains()
    gaps = list(history.gaps())
    sent_ns = [*(train.sent_ns[0] for train in trains), *(gap.sent_ns for gap in gaps)]
    start_ns = min(sent_ns, default=0)
    beliefs = [
        *_beliefs_of(history.measured, start_ns),
        *(
            []
            if history.first is None
            else [_belief(history.first_known_ns, start_ns, history.first)]
        ),
        *(_belief(known_ns, start_ns, found) for known_ns, found in history.later),
    ]
    there, behind, back = _delays(gaps, trains, last, start_ns)
    lost_s = [(gap.sent_ns - start_ns) / NS_PER_S for gap in gaps if gap.is_lost]
    last_s = (max(sent_ns, default=0) - start_ns) / NS_PER_S
    return Series(
        span_s=max(last_s, beliefs[-1].known_s),
        there=there,
        behind=behind,
        back=back,
        lost_s=lost_s,
        probe_count=len(gaps),
        rates=_rates(trains, last.link == LinkKind.BUCKET.value, start_ns),
        beliefs=beliefs,
        watched_from_s=(history.first_known_ns - start_ns) / NS_PER_S if history.later else None,
        report=last,
    )


def _belief(known_ns: int, start_ns: int, found: PathReport) -> Belief:
    capacity, available = found.capacity_bps, found.available_bps
    return Belief(
        max(0.0, (known_ns - start_ns) / NS_PER_S),
        capacity if isinstance(capacity, Estimate) else None,
        available if isinstance(available, Estimate) else None,
    )


def _beliefs_of(samples: Sequence[Sample], start_ns: int) -> Iterator[Belief]:
    """What would have been said had the measurement ended earlier."""
    known = list(accumulate(map(known_ns, samples), max))
    if not known:
        return
    points = max(LEAST_POINTS, min(MOST_POINTS, POINT_BUDGET // len(known)))
    told = 0
    for point in range(1, points):
        until_ns = start_ns + (known[-1] - start_ns) * point // points
        count = bisect_right(known, until_ns)
        if told < count < len(known):
            told = count
            yield _belief(until_ns, start_ns, report(samples[:count]))


def _delays(
    gaps: Sequence[Gap], trains: Sequence[Train], last: PathReport, start_ns: int
) -> tuple[Dots, Dots, Dots]:
    """What probes waited: there, there behind a train of the measurement, and back."""
    capacity = last.capacity_bps
    busy = _Busy(trains, capacity.value if isinstance(capacity, Estimate) else None)
    there, behind, back = Dots(), Dots(), Dots()
    for window in _windows(gaps):
        for wait in align(window).waits:
            time_s = (wait.sent_ns - start_ns) / NS_PER_S
            (behind if busy.holds(wait.sent_ns) else there).add(time_s, wait.there_ns / MS)
            back.add(time_s, wait.back_ns / MS)
    return there, behind, back


def _windows(gaps: Iterable[Gap]) -> Iterator[list[Gap]]:
    """Probes of so much time at once as clocks are straight."""
    window: list[Gap] = []
    for gap in gaps:
        if window and gap.sent_ns - window[0].sent_ns >= WINDOW_NS:
            yield window
            window = []
        window.append(gap)
    if window:
        yield window


class _Busy:
    """When trains of the measurement were on their way through the narrow link.

    They stand in one queue, each behind what is left of those before it.

    Args:
        trains: In any order.
        capacity_bps: Of that link; None where it is not known.
    """

    def __init__(self, trains: Iterable[Train], capacity_bps: int | None) -> None:
        in_order = sorted(trains, key=lambda train: train.sent_ns[0])
        self._begins = [train.sent_ns[0] for train in in_order]
        self._ends: list[int] = []
        free_ns, end_ns = 0, 0
        for train in in_order:
            begin_ns = train.sent_ns[0]
            if capacity_bps:
                work_ns = round(len(train.sent_ns) * train.packet_bytes * 8e9 / capacity_bps)
                free_ns = max(free_ns, begin_ns) + work_ns
            # Under load it takes longer than by itself.
            passed_ns = begin_ns + round(DRAIN_FACTOR * max(0, free_ns - begin_ns))
            # And a train may still be passing when a later one has passed.
            end_ns = max(end_ns, train.sent_ns[-1], begin_ns + sum(train.deltas_ns), passed_ns)
            self._ends.append(end_ns)

    def holds(self, time_ns: int) -> bool:
        """Is a time within one?"""
        before = bisect_right(self._begins, time_ns) - 1
        return before >= 0 and time_ns <= self._ends[before]


def _rates(trains: Iterable[Train], is_bucket: bool, start_ns: int) -> Rates:
    found = Rates()
    for train in trains:
        time_s = (train.sent_ns[0] - start_ns) / NS_PER_S
        if train.is_lost:
            found.lost_s.append(time_s)
            continue
        knee = knee_of(train) if is_bucket and not train.gap_ns else None
        spread = spread_of(train)
        if knee is not None:
            found.heads.add(time_s, knee.head_bps / MBPS)
            found.trains.add(time_s, knee.tail_bps / MBPS)
        elif spread is None:
            found.clumped_s.append(time_s)
        elif train.gap_ns:
            found.paced.add(time_s, spread.rate_bps / MBPS)
        elif len(train.sent_ns) == 2:
            found.pairs.add(time_s, spread.rate_bps / MBPS)
        else:
            found.trains.add(time_s, spread.rate_bps / MBPS)
    return found


def columns(dots: Dots, span_s: float) -> Columns | None:
    """What most of very many dots say; None where there are few enough to draw each.

    Args:
        dots: In the order of their times.
        span_s: How much time a picture shows.
    """
    if len(dots.values) <= MOST_DOTS or span_s <= 0:
        return None
    found = Columns([], [], [], [])
    inside: dict[int, list[float]] = {}
    for time_s, value in zip(dots.times_s, dots.values, strict=True):
        inside.setdefault(min(COLUMNS - 1, math.floor(time_s / span_s * COLUMNS)), []).append(value)
    for number, values in sorted(inside.items()):
        values.sort()
        found.times_s.append((number + 0.5) * span_s / COLUMNS)
        found.low.append(values[len(values) // 20])
        found.middle.append(values[len(values) // 2])
        found.high.append(values[len(values) - 1 - len(values) // 20])
    return found

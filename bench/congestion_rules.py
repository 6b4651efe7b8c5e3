"""Rules that say from small probes' delays whether a path is congested: ours and four others.

All are given the same samples, one each 10 ms on average, and are asked after each. The others are
the rules of programs that are in use, or of textbooks, with their own constants; their programs
give them samples of their own, fewer or more, and do more with the answer than tell it. What is
compared is what each rule makes of one and the same path, not the programs.

===============  =====================================================================
`Openqwave`      `estimate.congestion.PathCongestion`, which knows the capacity
`CakeAutorate`   cake-autorate: three of the last six samples 30 ms above a baseline
`Nada`           RFC 8698: everything within a tenth of a second 10 ms above the least
`Cusum`          Page's cumulative sum, half a deviation of slack, five to tell
`Trendline`      Google's congestion control: the slope of the delay, above an adaptive bound
===============  =====================================================================
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from openqwave.estimate.congestion import PathCongestion
from openqwave.estimate.samples import Gap

MS, S = 1_000_000, 1_000_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One small probe.

    Attributes:
        at_ns: When it was complete: it came back, or was given up.
        sent_ns: When it left.
        delay_ns: What it took to the far end; 0 if it did not come back.
        gap: The same as the library's rule has it.
    """

    at_ns: int
    sent_ns: int
    delay_ns: int
    gap: Gap


class Rule(Protocol):
    """Judges a path."""

    @property
    def is_congested(self) -> bool:
        """What it says now."""

    def observe(self, sample: Sample) -> None:
        """Take the next sample."""


class Openqwave:
    """The library's own rule."""

    def __init__(self, capacity_bps: int) -> None:
        self._judge = PathCongestion()
        self._judge.set_capacity_bps(capacity_bps)

    @property
    def is_congested(self) -> bool:
        """What it says now."""
        return self._judge.verdict.is_congested is True

    def observe(self, sample: Sample) -> None:
        """Take the next sample."""
        self._judge.observe(sample.gap)


class CakeAutorate:
    """cake-autorate's detection of bufferbloat (defaults.sh: 30 ms, three of six samples).

    The baseline of the delay rises by a thousandth of the difference with each sample above it, and
    falls by nine tenths of it with each below.
    """

    BAD_NS, WINDOW, ENOUGH = 30 * MS, 6, 3
    RISE, FALL = 0.001, 0.9

    def __init__(self) -> None:
        self._baseline_ns: float | None = None
        self._bad: deque[bool] = deque(maxlen=self.WINDOW)

    @property
    def is_congested(self) -> bool:
        """What it says now."""
        return sum(self._bad) >= self.ENOUGH

    def observe(self, sample: Sample) -> None:
        """Take the next sample."""
        if not sample.delay_ns:
            return
        if self._baseline_ns is None:
            self._baseline_ns = sample.delay_ns
        above_ns = sample.delay_ns - self._baseline_ns
        self._baseline_ns += (self.RISE if above_ns > 0 else self.FALL) * above_ns
        self._bad.append(sample.delay_ns - self._baseline_ns > self.BAD_NS)


class Nada:
    """The bound under which NADA takes a path for free (RFC 8698 section 6.3: QEPS of 10 ms).

    Congested is what has shown no sample below it for a tenth of a second.
    """

    QEPS_NS, WINDOW_NS = 10 * MS, 100 * MS

    def __init__(self) -> None:
        self._least_ns: int | None = None
        self._free_at_ns = 0
        self._now_ns = 0

    @property
    def is_congested(self) -> bool:
        """What it says now."""
        return self._now_ns - self._free_at_ns > self.WINDOW_NS

    def observe(self, sample: Sample) -> None:
        """Take the next sample."""
        self._now_ns = sample.at_ns
        if not self._free_at_ns:
            self._free_at_ns = sample.at_ns
        if not sample.delay_ns:
            return
        if self._least_ns is None or sample.delay_ns < self._least_ns:
            self._least_ns = sample.delay_ns
        if sample.delay_ns - self._least_ns <= self.QEPS_NS:
            self._free_at_ns = sample.at_ns


class Cusum:
    """A cumulative sum with reference value and interval of a textbook (Page, 1954).

    Mean and deviation are learned over ten seconds while nothing is told. The way back is a sum of
    its own, downwards, by the same measures.
    """

    SLACK, INTERVAL = 0.5, 5.0
    LEARNING_NS, ENOUGH = 10 * S, 100
    LEAST_DEVIATION_NS = 0.5 * MS

    def __init__(self) -> None:
        self._count = 0
        self._mean_ns = self._variance = self._sum = 0.0
        self._last_ns = 0
        self.is_congested = False

    def observe(self, sample: Sample) -> None:
        """Take the next sample."""
        if not sample.delay_ns:
            return
        self._count += 1
        passed_ns, self._last_ns = sample.at_ns - self._last_ns, sample.at_ns
        if not self.is_congested:
            weight = max(1 / self._count, min(1.0, passed_ns / self.LEARNING_NS))
            off_ns = sample.delay_ns - self._mean_ns
            self._mean_ns += weight * off_ns
            self._variance += weight * (off_ns * (sample.delay_ns - self._mean_ns) - self._variance)
        if self._count < self.ENOUGH:
            return
        deviation_ns = max(self.LEAST_DEVIATION_NS, self._variance**0.5)
        deviations = (sample.delay_ns - self._mean_ns) / deviation_ns
        change = self.SLACK - deviations if self.is_congested else deviations - self.SLACK
        if self.is_congested:
            change += self.SLACK
        self._sum = max(0.0, self._sum + change)
        if self._sum > self.INTERVAL:
            self.is_congested, self._sum = not self.is_congested, 0.0


class Trendline:
    """The slope of the delay, as WebRTC judges it (libwebrtc, trendline_estimator.cc).

    The constants are its own: smoothing 0.9, twenty samples, gain 4, a bound of 12.5 ms that
    adapts, and 10 ms above it before it is told. It asks whether a queue grows, not whether one
    stands.
    """

    SMOOTHING, WINDOW, GAIN, MOST_DELTAS = 0.9, 20, 4.0, 60
    UP, DOWN, LEAST, MOST, FAR = 0.0087, 0.039, 6.0, 600.0, 15.0
    OVERUSING_MS, LONGEST_MS = 10.0, 100.0

    def __init__(self) -> None:
        self._last: Sample | None = None
        self._first_ns = 0
        self._deltas = 0
        self._accumulated = self._smoothed = 0.0
        self._points: deque[tuple[float, float]] = deque(maxlen=self.WINDOW)
        self._bound = 12.5
        self._over_ms: float | None = None
        self._overs = 0
        self._before = 0.0
        self.is_congested = False

    def observe(self, sample: Sample) -> None:
        """Take the next sample."""
        if not sample.delay_ns:
            return
        last, self._last = self._last, sample
        if last is None:
            self._first_ns = sample.sent_ns
            return
        # What arrives out of order has no spacing.
        sent_ms = (sample.sent_ns - last.sent_ns) / MS
        if sent_ms <= 0:
            return
        self._deltas += 1
        self._accumulated += (sample.delay_ns - last.delay_ns) / MS
        self._smoothed += (1 - self.SMOOTHING) * (self._accumulated - self._smoothed)
        arrived_ms = (sample.sent_ns + sample.delay_ns - self._first_ns) / MS
        self._points.append((arrived_ms, self._smoothed))
        slope = self._slope() if len(self._points) == self.WINDOW else self._before
        self._judge(slope, sent_ms)

    def _slope(self) -> float:
        count = len(self._points)
        mean_x = sum(x for x, _ in self._points) / count
        mean_y = sum(y for _, y in self._points) / count
        below = sum((x - mean_x) ** 2 for x, _ in self._points)
        above = sum((x - mean_x) * (y - mean_y) for x, y in self._points)
        return above / below if below else 0.0

    def _judge(self, slope: float, passed_ms: float) -> None:
        trend = min(self._deltas, self.MOST_DELTAS) * slope * self.GAIN
        if trend > self._bound:
            self._over_ms = passed_ms / 2 if self._over_ms is None else self._over_ms + passed_ms
            self._overs += 1
            if self._over_ms > self.OVERUSING_MS and self._overs > 1 and slope >= self._before:
                self._over_ms, self._overs = 0.0, 0
                self.is_congested = True
        else:
            self._over_ms, self._overs = None, 0
            self.is_congested = False
        self._before = slope
        if abs(trend) <= self._bound + self.FAR:
            factor = self.DOWN if abs(trend) < self._bound else self.UP
            self._bound += factor * (abs(trend) - self._bound) * min(passed_ms, self.LONGEST_MS)
            self._bound = max(self.LEAST, min(self.MOST, self._bound))


def rules(capacity_bps: int) -> dict[str, Rule]:
    """All of them, anew."""
    return {
        "openqwave": Openqwave(capacity_bps),
        "cake-autorate": CakeAutorate(),
        "NADA": Nada(),
        "CUSUM": Cusum(),
        "GCC trendline": Trendline(),
    }

"""A path that is watched: estimates that follow it with little traffic.

A first measurement knows a path well. Afterwards few samples come, a batch of small probes and a
train or two each second, and each alone says little. `Tracker` weighs every new answer against
what is believed, by a Kalman filter of one state: the available bandwidth, which wanders. That is
the filter of BART (Ekelin, Nilsson, Hartikainen, Johnsson, Mangs, Melander, Bjorkman, "Real-time
measurement of end-to-end available bandwidth using Kalman filtering", NOMS 2006), whose two states
are the slope and the intercept of the strain line; here the slope, 1/C, comes from trains sent back
to back, so that one state is left. Between answers the belief's variance grows by what the load of
a path changes in the time. An answer that is far off may be an error, or the path has changed: it
moves nothing and makes the belief as uncertain as it is far off, so that the next answer decides.

The capacity is the mode of the last trains, and starts anew when two in a row say otherwise, and
the same.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from openqwave.estimate.arrivals import spread_of
from openqwave.estimate.clocks import align
from openqwave.estimate.dispersion import CONFIDENCE, COVERAGE_FACTOR, Capacity, LinkKind, capacity
from openqwave.estimate.idle import idle_share
from openqwave.estimate.loss import loss_ppm
from openqwave.estimate.path import report
from openqwave.estimate.rtt import jitter_back, jitter_there, round_trip
from openqwave.estimate.samples import Gap, Sample, Train
from openqwave.estimate.strain import cross_bps
from openqwave.model.estimates import Doubt, Estimate, Estimated, Inconclusive, PathReport

# How much the load wanders in a second, as a part of the capacity and one standard deviation:
# home and office links carry a few flows, and each that comes or goes moves them by more.
WANDER_PER_S = 0.05
# An answer this many standard deviations off is not an error.
FAR_OFF = 3.0
# One train at half load meets other traffic that varies by as much: its standard error, as a part
# of the capacity.
TRAIN_ERROR = 0.25
# Small probes that are judged together: some second's worth of a watch.
BATCH = 60
# Trains sent back to back that are remembered; and a rate that differs from what they say by this
# part, twice, is that of another path.
TRAINS_KEPT, NEW_CAPACITY = 9, 0.2
# Small probes that are remembered for round trip, jitter and loss: ten seconds of a watch.
GAPS_KEPT = 600
NS_PER_S = 1e9


class Tracker:
    """A Kalman filter of one state; see the module's text. Rates are bits a second.

    Args:
        value_bps: What is believed.
        error_bps: Its standard error.
        at_ns: When.

    Attributes:
        is_startled: Whether the last answer was far off.
    """

    def __init__(self, value_bps: float, error_bps: float, *, at_ns: int) -> None:
        self.value_bps = value_bps
        self._variance = error_bps**2
        self._at_ns = at_ns
        self.is_startled = False

    @property
    def error_bps(self) -> float:
        """Standard error of the value."""
        return math.sqrt(self._variance)

    def observe(
        self, value_bps: float, error_bps: float, capacity_bps: float, *, at_ns: int
    ) -> None:
        """Weigh an answer against the belief.

        Args:
            value_bps: The answer.
            error_bps: Its standard error; not 0.
            capacity_bps: What the wandering is a part of.
            at_ns: When; not before the last one.
        """
        elapsed_s = max(0, at_ns - self._at_ns) / NS_PER_S
        self._at_ns = max(self._at_ns, at_ns)
        self._variance += (WANDER_PER_S * capacity_bps) ** 2 * elapsed_s
        variance = error_bps**2
        surprise = value_bps - self.value_bps
        self.is_startled = abs(surprise) > FAR_OFF * math.sqrt(self._variance + variance)
        if self.is_startled:
            self._variance = surprise**2
            return
        gain = self._variance / (self._variance + variance)
        self.value_bps += gain * surprise
        self._variance *= 1 - gain


class PathWatch:
    """Follows a path from the samples of a first measurement on.

    Args:
        samples: Those of the measurement, in the order of sending.
        supports_priority: What its route check found.
    """

    def __init__(self, samples: Iterable[Sample], supports_priority: bool | None) -> None:
        kept = list(samples)
        self._supports_priority = supports_priority
        self._gaps = deque((one for one in kept if isinstance(one, Gap)), GAPS_KEPT)
        trains = [one for one in kept if isinstance(one, Train)]
        self._trains = deque((one for one in trains if one.gap_ns == 0), TRAINS_KEPT)
        self._batch: list[Gap] = []
        self._recent: list[Train] = []
        self._odd: Train | None = None
        self._capacity: Capacity = capacity(trains)
        self._tracker: Tracker | None = None
        first = report(kept, supports_priority).available_bps
        if isinstance(first, Estimate) and self._gaps:
            error = (first.high - first.low) / (2 * COVERAGE_FACTOR)
            self._tracker = Tracker(first.value, max(1.0, error), at_ns=self._gaps[-1].sent_ns)

    @property
    def capacity_bps(self) -> Estimated:
        """The capacity that is believed now, bits a second; cheaper than a report."""
        return self._capacity.estimate

    @property
    def is_in_doubt(self) -> bool:
        """Did the last train sent back to back tell of another capacity?"""
        return self._odd is not None

    @property
    def is_startled(self) -> bool:
        """Was the last answer about the available bandwidth far from what is believed?"""
        return self._tracker is not None and self._tracker.is_startled

    def skip(self) -> None:
        """Judge what comes from now on apart from what came before."""
        self._batch, self._recent = [], []

    def observe(self, sample: Sample) -> None:
        """Take one more sample, in the order of sending."""
        if isinstance(sample, Gap):
            self._gaps.append(sample)
            self._batch.append(sample)
            if len(self._batch) >= BATCH:
                self._judge_batch()
            return
        self._recent.append(sample)
        if sample.is_lost:
            return
        if sample.gap_ns == 0:
            self._judge_capacity(sample)
        else:
            self._judge_paced(sample)

    def _answer(self, value_bps: float, error_bps: float, at_ns: int) -> None:
        limit = self._capacity.estimate
        if isinstance(limit, Inconclusive):
            return
        if self._tracker is None:
            self._tracker = Tracker(value_bps, error_bps, at_ns=at_ns)
        else:
            self._tracker.observe(value_bps, error_bps, limit.value, at_ns=at_ns)

    def _judge_batch(self) -> None:
        batch, self._batch = self._batch, []
        trains, self._recent = self._recent, []
        limit = self._capacity.estimate
        if isinstance(limit, Inconclusive) or self._capacity.kind is LinkKind.BUCKET:
            return
        share = idle_share(batch, trains, limit.value, self._capacity.reach_ns)
        if not isinstance(share, Inconclusive):
            error = max(share.error, WANDER_PER_S / 5) * limit.value
            self._answer(share.share * limit.value, error, batch[-1].sent_ns)

    def _judge_paced(self, train: Train) -> None:
        limit = self._capacity.estimate
        if isinstance(limit, Inconclusive):
            return
        cross = cross_bps(train, limit.value)
        if cross is not None:
            available = max(0.0, limit.value - max(0.0, cross))
            self._answer(available, TRAIN_ERROR * limit.value, train.sent_ns[-1])

    def _judge_capacity(self, train: Train) -> None:
        spread, limit = spread_of(train), self._capacity.estimate
        if spread is None:
            return
        is_odd = isinstance(limit, Estimate) and (
            abs(spread.rate_bps / limit.value - 1) > NEW_CAPACITY
        )
        if is_odd and self._odd is not None and _agree(self._odd, spread.rate_bps):
            # Twice in a row and alike: what was known is of another path.
            self._trains = deque([self._odd], TRAINS_KEPT)
            self._tracker = None
        elif is_odd:
            self._odd = train
            return
        self._odd = train if is_odd else None
        self._trains.append(train)
        found = capacity(list(self._trains))
        if isinstance(found.estimate, Estimate) or len(self._trains) > 2:
            self._capacity = found
        else:
            self._capacity = _of_few(self._trains)

    def report(self) -> PathReport:
        """Say what is believed now."""
        alignment = align(self._gaps)
        return PathReport(
            capacity_bps=self._capacity.estimate,
            available_bps=self._available(),
            rtt_ns=round_trip(self._gaps),
            jitter_there_ns=jitter_there(alignment),
            jitter_back_ns=jitter_back(alignment),
            loss_ppm=loss_ppm(self._gaps),
            supports_priority=self._supports_priority,
            link=self._capacity.kind.value,
            boost_bps=self._capacity.boost_bps,
            drift_ppm=alignment.drift_ppm,
        )

    def _available(self) -> Estimated:
        limit = self._capacity.estimate
        if isinstance(limit, Inconclusive):
            return Inconclusive(limit.doubt, "the capacity is not known")
        if self._tracker is None:
            return Inconclusive(Doubt.TOO_FEW, "the path has changed")
        margin = COVERAGE_FACTOR * self._tracker.error_bps
        value = min(float(limit.value), max(0.0, self._tracker.value_bps))
        return Estimate(
            round(value),
            max(0, round(value - margin)),
            min(limit.high, round(value + margin)),
            CONFIDENCE,
            "tracked",
        )


def _agree(train: Train, rate_bps: float) -> bool:
    """Does a train have about a rate? Two that a stalled receiver got at once have any two."""
    spread = spread_of(train)
    return spread is not None and abs(spread.rate_bps / rate_bps - 1) <= NEW_CAPACITY


def _of_few(trains: Iterable[Train]) -> Capacity:
    """The capacity by one or two trains, right after a change; wide bounds."""
    rates = [spread.rate_bps for train in trains if (spread := spread_of(train)) is not None]
    value = sum(rates) / len(rates)
    return Capacity(
        Estimate(
            round(value),
            round(value * (1 - NEW_CAPACITY)),
            round(value * (1 + NEW_CAPACITY)),
            CONFIDENCE,
            "the last trains",
        ),
        LinkKind.QUEUE,
    )

"""A path's report from all of its samples: which method holds here, what their difference says.

**Capacity** comes from trains sent back to back (`dispersion`), corrected for the other traffic
that came between their packets because they were not sent infinitely fast: ``C = R (1 + X/R_in)``.

**Available bandwidth** comes twice: from the idle share of small probes (`idle`) and from trains
paced at the capacity (`strain`). They fail in different places. Idle time sees every moment of the
measurement, and every queue of the path, also those that are not at the narrow link; trains see
few moments, and only what shares the narrow link with them. So where they agree within their
errors, they are weighed by them; where trains find more room, the waiting was elsewhere: the
trains' number stands, and the bounds hold both, because it may be that another link than the narrow
one has the least room, of which trains at the narrow link's rate see only a part. Where trains
find less room than there is idle time, nothing in these models explains it, and the bounds hold
both or, far apart, nothing is claimed.

**Links without a rate.** On a token bucket idle time is credit, and the load is hidden as long as
there is credit: nothing is claimed for the available bandwidth. Where stations take turns, what a new flow would get is what long trains did get, with the widest bounds.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from openqwave.estimate.clocks import align
from openqwave.estimate.dispersion import (
    CONFIDENCE,
    COVERAGE_FACTOR,
    Capacity,
    LinkKind,
    capacity,
    densest_half,
    spread_of,
)
from openqwave.estimate.idle import IdleShare, idle_share
from openqwave.estimate.rtt import jitter_back, jitter_there, round_trip
from openqwave.estimate.samples import Gap, Sample, Train
from openqwave.estimate.strain import Load, load, offered_bps
from openqwave.model.estimates import (
    Doubt,
    Estimate,
    Estimated,
    Inconclusive,
    PathReport,
)

# A train keeps the narrow link busy for its own time, and what queued behind it for up to three
# times as long at three quarters load: small probes of that time measure the train.
SHADOW_FACTOR = 4
# What is claimed of each method at best, as a part of the capacity and one standard error: the
# models are that good where their assumptions hold, not better.
IDLE_FLOOR, STRAIN_FLOOR = 0.01, 0.015
# Two methods agree when they differ by no more than so many of their common errors, and this
# part of the capacity.
AGREEING_ERRORS, AGREEING_PART = 2.5, 0.03
# Trains that find so much less room than there is idle time, as a part of the capacity, leave
# nothing to believe in.
CONTRADICTION = 0.3
# A correction of the capacity by more than this was not measured but made up.
LARGEST_CORRECTION = 0.2
# Long trains of a link shared by turns scatter, and the number of stations changes: the bounds
# are this part of the value and not less.
TURNS_MARGIN = 0.35
# Trains shorter than this spend a good part of their time on the first access.
LEAST_TURNS_PACKETS = 24
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class _Answer:
    """A method's answer, bits a second."""

    value: float
    error: float


def report(samples: Iterable[Sample], supports_priority: bool | None = None) -> PathReport:
    """Say what samples say of a path.

    Args:
        samples: In the order of sending.
        supports_priority: What the route check found; None if it was not tried.
    """
    trains: list[Train] = []
    gaps: list[Gap] = []
    for sample in samples:
        if isinstance(sample, Train):
            trains.append(sample)
        else:
            gaps.append(sample)
    raw = capacity(trains)
    alignment = align(gaps)
    found, available = _both(raw, trains, gaps)
    return PathReport(
        capacity_bps=found.estimate,
        available_bps=available,
        rtt_ns=round_trip(gaps),
        jitter_there_ns=jitter_there(alignment),
        jitter_back_ns=jitter_back(alignment),
        loss_ppm=_loss(gaps),
        supports_priority=supports_priority,
        link=found.kind.value,
        boost_bps=found.boost_bps,
        drift_ppm=alignment.drift_ppm,
    )


def _both(
    raw: Capacity, trains: Sequence[Train], gaps: Sequence[Gap]
) -> tuple[Capacity, Estimated]:
    """The capacity, corrected by the load, and the available bandwidth."""
    if raw.kind is LinkKind.CONTENTION:
        return raw, _share_by_turns(trains)
    if isinstance(raw.estimate, Inconclusive):
        return raw, Inconclusive(raw.estimate.doubt, "the capacity is not known")
    first = _available(raw.estimate.value, raw, trains, gaps)
    corrected = _corrected(raw, first, trains)
    if corrected is raw or isinstance(corrected.estimate, Inconclusive):
        return raw, first
    return corrected, _available(corrected.estimate.value, corrected, trains, gaps)


def _corrected(raw: Capacity, available: Estimated, trains: Sequence[Train]) -> Capacity:
    """Add what came between the packets of trains that were not sent infinitely fast."""
    estimate = raw.estimate
    if isinstance(estimate, Inconclusive) or isinstance(available, Inconclusive):
        return raw
    rates = sorted(offered_bps(train) for train in trains if train.gap_ns == 0)
    cross = max(0.0, estimate.value - available.value)
    part = cross / rates[len(rates) // 2]
    if not 0.005 < part < LARGEST_CORRECTION:
        return raw
    # Pieces of trains are partly free of it already, so the lower bound stays where it was.
    value = estimate.value * (1 + part)
    return Capacity(
        Estimate(
            round(value),
            estimate.low,
            round(estimate.high * (1 + part)),
            estimate.confidence,
            estimate.method,
        ),
        raw.kind,
        raw.boost_bps,
        raw.scatter,
    )


def _available(
    capacity_bps: int, found: Capacity, trains: Sequence[Train], gaps: Sequence[Gap]
) -> Estimated:
    if found.kind is LinkKind.BUCKET:
        return Inconclusive(Doubt.BURST_CREDIT)
    lone = _outside(gaps, trains, capacity_bps)
    # Aligned without what met the trains, so that their queues do not bend the base line.
    share = idle_share(lone, align(lone), capacity_bps)
    strained = load(trains, capacity_bps)
    if isinstance(share, Inconclusive):
        if isinstance(strained, Inconclusive):
            return Inconclusive(share.doubt, f"{share.detail}; {strained.detail}")
        return _bounded(_of_strain(strained, capacity_bps), capacity_bps, "paced trains")
    idle = _of_idle(share, capacity_bps)
    if isinstance(strained, Inconclusive):
        return _bounded(idle, capacity_bps, "idle share")
    return _agreed(idle, _of_strain(strained, capacity_bps), capacity_bps)


def _agreed(idle: _Answer, strain: _Answer, capacity_bps: int) -> Estimated:
    """One answer from two methods, or bounds that hold both."""
    difference = strain.value - idle.value
    limit = AGREEING_ERRORS * math.hypot(idle.error, strain.error) + AGREEING_PART * capacity_bps
    if abs(difference) <= limit:
        weight = strain.error**2 / (idle.error**2 + strain.error**2)
        both = _Answer(
            weight * idle.value + (1 - weight) * strain.value,
            math.hypot(weight * idle.error, (1 - weight) * strain.error),
        )
        return _bounded(both, capacity_bps, "idle share and paced trains")
    if difference < -CONTRADICTION * capacity_bps:
        return Inconclusive(
            Doubt.UNSTEADY,
            f"idle time says {idle.value / 1e6:.1f} Mbit/s, trains {strain.value / 1e6:.1f}",
        )
    apart = [_bounded(answer, capacity_bps, "") for answer in (idle, strain)]
    value = strain.value if difference > 0 else (idle.value + strain.value) / 2
    return Estimate(
        round(value),
        min(one.low for one in apart),
        max(one.high for one in apart),
        CONFIDENCE,
        "paced trains, against the idle share",
    )


def _of_idle(share: IdleShare, capacity_bps: int) -> _Answer:
    return _Answer(share.share * capacity_bps, capacity_bps * math.hypot(share.error, IDLE_FLOOR))


def _of_strain(strained: Load, capacity_bps: int) -> _Answer:
    return _Answer(
        strained.available_bps, math.hypot(strained.error_bps, STRAIN_FLOOR * capacity_bps)
    )


def _bounded(answer: _Answer, capacity_bps: int, method: str) -> Estimate:
    margin = COVERAGE_FACTOR * answer.error
    return Estimate(
        round(answer.value),
        max(0, round(answer.value - margin)),
        min(capacity_bps, round(answer.value + margin)),
        CONFIDENCE,
        method,
    )


def _share_by_turns(trains: Sequence[Train]) -> Estimated:
    """What long trains got where stations take turns."""
    rates = [
        spread.rate_bps
        for train in trains
        if not train.is_lost
        and len(train.sent_ns) >= LEAST_TURNS_PACKETS
        and (spread := spread_of(train)) is not None
    ]
    if len(rates) < 3:
        return Inconclusive(Doubt.CONTENTION, f"{len(rates)} long trains")
    value, half_width = densest_half(rates)
    margin = max(TURNS_MARGIN * value, COVERAGE_FACTOR * half_width)
    return Estimate(
        round(value),
        max(0, round(value - margin)),
        round(value + margin),
        CONFIDENCE,
        "share of long trains",
    )


def _outside(gaps: Sequence[Gap], trains: Sequence[Train], capacity_bps: int) -> list[Gap]:
    """The probes that met no train of the same measurement."""
    starts: list[int] = []
    ends: list[int] = []
    for train in trains:
        work_ns = len(train.sent_ns) * train.packet_bytes * 8e9 / capacity_bps
        span_ns = max(work_ns, train.sent_ns[-1] - train.sent_ns[0])
        starts.append(train.sent_ns[0])
        end_ns = train.sent_ns[0] + round(SHADOW_FACTOR * span_ns)
        ends.append(max(end_ns, ends[-1]) if ends else end_ns)
    kept = []
    for gap in gaps:
        before = bisect_right(starts, gap.sent_ns)
        if before == 0 or gap.sent_ns > ends[before - 1]:
            kept.append(gap)
    return kept


def _loss(gaps: Sequence[Gap]) -> Estimated:
    """Share of the probes that did not come back, of a million, with Wilson's bounds."""
    if not gaps:
        return Inconclusive(Doubt.NO_SAMPLES)
    count = len(gaps)
    share = sum(gap.is_lost for gap in gaps) / count
    # Wilson, 1927: bounds that stay within 0 and 1 and are not zero wide where nothing was lost.
    z = COVERAGE_FACTOR
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count)
    reach *= math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Estimate(
        round(share * MILLION),
        max(0, round((middle - reach) * MILLION)),
        min(MILLION, round((middle + reach) * MILLION)),
        CONFIDENCE,
        "echo",
    )

"""A path's report from all of its samples: which method holds here, what their difference says.

**Capacity** comes from trains sent back to back (`dispersion`). Other traffic that came between
their packets, because they were not sent infinitely fast, makes it seem smaller by up to X/R_in,
of which pieces of trains are nearly free: it widens the upper bound, and at high rates, where they
are not, half of it is added.

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
there is credit: nothing is claimed for the available bandwidth. Where stations take turns, what a
new flow would get is what long trains did get, with the widest bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from openqwave.estimate.arrivals import spread_of
from openqwave.estimate.clocks import Alignment, align
from openqwave.estimate.dispersion import (
    CONFIDENCE,
    COVERAGE_FACTOR,
    Capacity,
    LinkKind,
    capacity,
    densest_half,
)
from openqwave.estimate.idle import DRAIN_FACTOR, IdleShare, idle_share
from openqwave.estimate.loss import loss_ppm
from openqwave.estimate.rtt import jitter_back, jitter_there, quantile, round_trip
from openqwave.estimate.samples import Gap, Sample, Train
from openqwave.estimate.strain import Load, load, offered_bps
from openqwave.model.estimates import (
    Doubt,
    Estimate,
    Estimated,
    Inconclusive,
    PathReport,
)

# What is claimed of each method at best, as a part of the capacity and one standard error: the
# models are that good where their assumptions hold, not better.
IDLE_FLOOR, STRAIN_FLOOR = 0.02, 0.02
# Two methods agree when they differ by no more than so many of their common errors, and this
# part of the capacity.
AGREEING_ERRORS, AGREEING_PART = 3.0, 0.05
# Trains that find so much less room than there is idle time, as a part of the capacity, leave
# nothing to believe in.
CONTRADICTION = 0.3
# Timing that varies by a third of the longest train's span makes any rate out of it; of fewer
# probes nothing is concluded.
SHAKEN, LEAST_ALIGNED = 3, 20
# Above this rate pieces of trains hold more than five packets, and modes do not tell one packet
# between them from none.
MIXED_ABOVE_BPS = 400_000_000
# Paced trains that may be lost beyond what single losses explain.
MOST_LOST_PART = 0.1
# Trains that are jostled by a queue elsewhere find somewhat less room than there is.
ELSEWHERE_MARGIN = 0.15
# Long trains of a link shared by turns scatter, and the number of stations changes: the bounds
# are this part of the value and not less.
TURNS_MARGIN = 0.35
# Trains shorter than this spend a good part of their time on the first access.
LEAST_TURNS_PACKETS = 24


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
    if _is_shaken(trains, alignment):
        raw = Capacity(
            Inconclusive(Doubt.TOO_FAST, "this host or the sink's was not run in time"), raw.kind
        )
    found, available = _both(raw, trains, gaps)
    return PathReport(
        capacity_bps=found.estimate,
        available_bps=available,
        rtt_ns=round_trip(gaps),
        jitter_there_ns=jitter_there(alignment),
        jitter_back_ns=jitter_back(alignment),
        loss_ppm=loss_ppm(gaps),
        supports_priority=supports_priority,
        link=found.kind.value,
        boost_bps=found.boost_bps,
        drift_ppm=alignment.drift_ppm,
    )


def _is_shaken(trains: Sequence[Train], alignment: Alignment) -> bool:
    """Does timing vary by as much as trains last, even for the best quarter of the probes?

    A loaded link leaves probes that met nothing in one direction at least; hosts that are too busy
    to send, carry and stamp packets leave none.
    """
    spans = sorted(sum(train.deltas_ns) for train in trains if not train.is_lost)
    if not spans or len(alignment.waits) < LEAST_ALIGNED:
        return False
    best_ns = min(
        quantile(sorted(wait.there_ns for wait in alignment.waits), 0.25),
        quantile(sorted(wait.back_ns for wait in alignment.waits), 0.25),
    )
    return best_ns * SHAKEN > spans[-1]


def _both(
    found: Capacity, trains: Sequence[Train], gaps: Sequence[Gap]
) -> tuple[Capacity, Estimated]:
    """The capacity, its bounds widened by the load, and the available bandwidth."""
    if found.kind is LinkKind.CONTENTION:
        return found, _share_by_turns(trains)
    estimate = found.estimate
    if isinstance(estimate, Inconclusive):
        return found, Inconclusive(estimate.doubt, "the capacity is not known")
    if found.kind is LinkKind.BUCKET:
        return found, Inconclusive(Doubt.BURST_CREDIT)
    available = _available(estimate, found.reach_ns, trains, gaps)
    if isinstance(available, Inconclusive):
        return found, available
    sent_bps = median(offered_bps(train) for train in trains if train.gap_ns == 0)
    # C = R (1 + X/R_in) with X the part of C that is used, solved for C.
    used = max(0.0, 1 - available.value / estimate.value)
    whole = 1 / max(0.5, 1 - used * estimate.value / sent_bps)
    widened = replace(estimate, high=round(estimate.high * whole))
    if estimate.value > MIXED_ABOVE_BPS:
        # Pieces of trains are too long there to be free of it: between none and all of it.
        widened = replace(widened, value=round(estimate.value * (1 + whole) / 2))
        available = _available(widened, found.reach_ns, trains, gaps)
    return replace(found, estimate=widened), available


def _available(
    capacity_bps: Estimate, reach_ns: int, trains: Sequence[Train], gaps: Sequence[Gap]
) -> Estimated:
    limit = capacity_bps.value
    share = _idle_all_along(gaps, trains, limit, reach_ns)
    strained = load(trains, limit)
    if isinstance(share, Inconclusive):
        if isinstance(strained, Inconclusive):
            return Inconclusive(share.doubt, f"{share.detail}; {strained.detail}")
        return _bounded(_of_strain(strained, limit), capacity_bps, "paced trains")
    idle = _of_idle(share, limit)
    if isinstance(strained, Inconclusive) or _lost_the_loaded(trains, gaps):
        return _bounded(idle, capacity_bps, "idle share")
    return _agreed(idle, _of_strain(strained, limit), capacity_bps)


def _idle_all_along(
    gaps: Sequence[Gap], trains: Sequence[Train], capacity_bps: int, reach_ns: int
) -> IdleShare | Inconclusive:
    """The idle share of the whole time in which trains were sent.

    The small probes' rate changes once, with the first paced train, when the capacity is known: so
    it is two shares, weighed by their time. Where there was no budget for paced trains, it changes
    when the last train has left the link.
    """
    sent = [train.sent_ns[0] for train in trains]
    paced = [train.sent_ns[0] for train in trains if train.gap_ns]
    change_ns = math.inf
    if paced:
        change_ns = paced[0]
    elif trains:
        last = trains[-1]
        link_ns = len(last.sent_ns) * last.packet_bytes * 8e9 / capacity_bps
        change_ns = last.sent_ns[-1] + DRAIN_FACTOR * link_ns
    cuts = [sent[0] if sent else 0, change_ns, math.inf]
    shares: list[tuple[IdleShare, int]] = []
    refusal = Inconclusive(Doubt.TOO_FEW, "no small probes")
    for since_ns, until_ns in pairwise(cuts):
        part = [gap for gap in gaps if since_ns <= gap.sent_ns < until_ns]
        share = idle_share(part, trains, capacity_bps, reach_ns)
        if isinstance(share, Inconclusive):
            refusal = share
        else:
            shares.append((share, part[-1].sent_ns - part[0].sent_ns))
    # The second part is the longer one: without it, the first says little.
    if not shares or (refusal.doubt is not Doubt.TOO_FEW and len(shares) == 1):
        return refusal
    whole_ns = sum(time_ns for _, time_ns in shares)
    return IdleShare(
        share=sum(share.share * time_ns for share, time_ns in shares) / whole_ns,
        error=math.hypot(*(share.error * time_ns / whole_ns for share, time_ns in shares)),
        residual=max(share.residual for share, _ in shares),
        probe_count=sum(share.probe_count for share, _ in shares),
        noise_ns=max(share.noise_ns for share, _ in shares),
    )


def _lost_the_loaded(trains: Sequence[Train], gaps: Sequence[Gap]) -> bool:
    """Are more paced trains lost than single losses explain?

    Then they were lost to a full queue, and those that arrived are those that met little traffic.
    """
    paced = [train for train in trains if train.gap_ns]
    lost = sum(train.is_lost for train in paced)
    single = sum(gap.is_lost for gap in gaps) / max(1, len(gaps))
    explained = sum(1 - (1 - single) ** len(train.sent_ns) for train in paced)
    return lost > 1.5 * explained + MOST_LOST_PART * len(paced)


def _agreed(idle: _Answer, strain: _Answer, capacity_bps: Estimate) -> Estimated:
    """One answer from two methods, or bounds that hold both."""
    whole = capacity_bps.value
    difference = strain.value - idle.value
    if abs(difference) <= AGREEING_ERRORS * math.hypot(idle.error, strain.error) + (
        AGREEING_PART * whole
    ):
        weight = strain.error**2 / (idle.error**2 + strain.error**2)
        both = _Answer(
            weight * idle.value + (1 - weight) * strain.value,
            math.hypot(weight * idle.error, (1 - weight) * strain.error),
        )
        return _bounded(both, capacity_bps, "idle share and paced trains")
    if difference < -CONTRADICTION * whole:
        return Inconclusive(
            Doubt.UNSTEADY,
            f"idle time says {idle.value / 1e6:.1f} Mbit/s, trains {strain.value / 1e6:.1f}",
        )
    apart = [_bounded(answer, capacity_bps, "") for answer in (idle, strain)]
    value = strain.value if difference > 0 else (idle.value + strain.value) / 2
    high = max(*(one.high for one in apart), round(value + ELSEWHERE_MARGIN * whole))
    return Estimate(
        round(value),
        min(one.low for one in apart),
        min(high, capacity_bps.high),
        CONFIDENCE,
        "paced trains, against the idle share",
    )


def _of_idle(share: IdleShare, capacity_bps: int) -> _Answer:
    return _Answer(share.share * capacity_bps, capacity_bps * math.hypot(share.error, IDLE_FLOOR))


def _of_strain(strained: Load, capacity_bps: int) -> _Answer:
    return _Answer(
        strained.available_bps, math.hypot(strained.error_bps, STRAIN_FLOOR * capacity_bps)
    )


def _bounded(answer: _Answer, capacity_bps: Estimate, method: str) -> Estimate:
    # What is free is a part of the capacity, whose own bounds it inherits.
    inherited = answer.value / capacity_bps.value * (capacity_bps.high - capacity_bps.low) / 2
    margin = math.hypot(COVERAGE_FACTOR * answer.error, inherited)
    return Estimate(
        round(answer.value),
        max(0, round(answer.value - margin)),
        min(capacity_bps.high, round(answer.value + margin)),
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

"""Round-trip time and one-way jitter of a path, from probes that were sent back.

The round trip of a probe is the time until it was back, less the time that it spent at the sink;
both differences are taken on one clock each, so the clocks need not agree. Reported is the median,
bounded by the 5th and the 95th percentile of the samples: what nine in ten packets see. Jitter
is the one-way packet delay variation of RFC 5481 section 4.2, the delay beyond the fastest
packet's; the value is its 95th percentile.
"""

from __future__ import annotations

from collections.abc import Sequence

from openqwave.estimate.clocks import Alignment
from openqwave.estimate.samples import Gap
from openqwave.model.estimates import Doubt, Estimate, Estimated, Inconclusive

# Fewer have no percentiles worth the name.
LEAST_SAMPLES = 5
# The bounds hold nine samples of ten, by construction.
COVERED = 0.9


def quantile(ordered: Sequence[int], share: float) -> int:
    """The value that a share of an ordered sequence lies at or below."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _estimate(values: Sequence[int], value_at: float, method: str) -> Estimated:
    if len(values) < LEAST_SAMPLES:
        doubt = Doubt.TOO_FEW if values else Doubt.NO_SAMPLES
        return Inconclusive(doubt, f"{len(values)} probes came back")
    ordered = sorted(values)
    return Estimate(
        value=quantile(ordered, value_at),
        low=quantile(ordered, 0.05),
        high=quantile(ordered, 0.95),
        confidence=COVERED,
        method=method,
    )


def round_trip(gaps: Sequence[Gap]) -> Estimated:
    """Estimate the round-trip time in nanoseconds from probes; lost ones are left out."""
    trips = [
        (gap.received_ns - gap.sent_ns) - (gap.sink_sent_ns - gap.sink_received_ns)
        for gap in gaps
        if not gap.is_lost
    ]
    return _estimate(trips, 0.5, "echo")


def jitter_there(alignment: Alignment) -> Estimated:
    """Estimate the variation of the delay to the sink, in nanoseconds."""
    return _estimate([wait.there_ns for wait in alignment.waits], 0.95, "delay variation")


def jitter_back(alignment: Alignment) -> Estimated:
    """Estimate the variation of the delay from the sink, in nanoseconds."""
    return _estimate([wait.back_ns for wait in alignment.waits], 0.95, "delay variation")

"""Two clocks: from stamps of both ends to the time that packets spent in queues.

**Model.** A probe leaves at `s` on the initiator's clock and reaches the sink at `r` on the
sink's. With a propagation time `d` and a queueing time `q >= 0`::

    r - s = d + q + offset(s)        there
    r' - s' = d' + q' - offset(s')   and back

The offset of the clocks is unknown and drifts: quartz by up to 100 ppm, a clock under NTP's
discipline by up to 500 ppm (RFC 5905 section 11.3), which in two seconds is a millisecond, more
than a full packet takes at 100 Mbit/s. So a straight line is fitted below the delays: of all lines
that no sample lies under, the one with the least sum of distances. It is found without search:
it is the edge of the lower convex hull that stands over the samples' mean time (Zhang, Liu, Xia,
"Clock Synchronization Algorithms for Network Measurements", INFOCOM 2002, section III, for the
criterion of Moon, Skelly and Towsley, INFOCOM 1999). Drift is the same in both directions with
the sign changed, so the direction whose samples lie closer to their line decides for both.

**Steps.** When somebody sets a clock, the delay there jumps by as much as the delay back falls,
and their sum does not move; a queue that grows moves one of them and the sum. Samples are cut into
segments at such steps, and each has its own line.

**How it fails.** A queue that never empties during a segment counts as propagation. A queue that
grows all the time looks like drift if the way back is loaded as well; the drift is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from openqwave.estimate.samples import Gap

# Twice the largest frequency error that NTP corrects (RFC 5905 section 11.3: 500 ppm): both
# clocks may be off. A steeper line is a queue, not a clock.
MAX_DRIFT_PPM = 1000
# A step is told from queueing by the medians of so many samples on either side: one late sample
# must not make a step, and half of them are still few enough to find two steps in a second.
STEP_WINDOW = 8
# Clocks that are off by less than this are slewed, not stepped (ntpd steps from 128 ms on,
# chrony and hypervisors from less); and no queue of interest drains by it in both directions.
LEAST_STEP_NS = 1_000_000
# The step has to stand out of the samples' own spread, and out of the change of the round trip.
STEP_PROMINENCE = 4
# The base is the delay that this part of the samples stays below: a single stamp that is wrong
# would otherwise make all the others wait.
FASTEST_PART = 0.01
# Fewer samples have no line of their own.
LEAST_SEGMENT = 4


@dataclass(frozen=True, slots=True)
class Queueing:
    """What one probe waited in queues, beyond the fastest of its segment.

    Attributes:
        sent_ns: When it left, initiator's clock.
        there_ns: Its wait on the way to the sink.
        back_ns: Its wait on the way back.
    """

    sent_ns: int
    there_ns: int
    back_ns: int


@dataclass(frozen=True, slots=True)
class Alignment:
    """The delays of a run of probes with the clocks taken out.

    Attributes:
        waits: In the order of sending.
        drift_ppm: How much faster the sink's clock runs; of the longest segment.
        step_count: How often a clock was set.
    """

    waits: tuple[Queueing, ...]
    drift_ppm: float
    step_count: int


def align(gaps: Sequence[Gap]) -> Alignment:
    """Take offset, drift and steps of the clocks out of the delays.

    Args:
        gaps: Probes in the order of sending; lost ones are left out.

    Returns:
        Queueing times of those that came back. Segments of fewer than `LEAST_SEGMENT` probes
        are left out.
    """
    returned = [gap for gap in gaps if not gap.is_lost]
    waits: list[Queueing] = []
    drift, longest = 0.0, 0
    cuts = _steps(returned)
    for first, end in zip([0, *cuts], [*cuts, len(returned)], strict=True):
        segment = returned[first:end]
        if len(segment) < LEAST_SEGMENT:
            continue
        found, drift_here = _align_segment(segment)
        waits += found
        if len(segment) > longest:
            longest, drift = len(segment), drift_here
    return Alignment(tuple(waits), drift * 1e6, len(cuts))


def _align_segment(segment: Sequence[Gap]) -> tuple[list[Queueing], float]:
    start_ns = segment[0].sent_ns
    times = [float(gap.sent_ns - start_ns) for gap in segment]
    first = segment[0]
    # Differences to the first: the offset may be decades, and a float holds 53 bits.
    offset_there = first.sink_received_ns - first.sent_ns
    offset_back = first.received_ns - first.sink_sent_ns
    there = [float(gap.sink_received_ns - gap.sent_ns - offset_there) for gap in segment]
    back = [float(gap.received_ns - gap.sink_sent_ns - offset_back) for gap in segment]
    lines = [(_slope_below(times, there), there, 1.0), (_slope_below(times, back), back, -1.0)]
    slope, _, sign = min(lines, key=lambda line: _mean_distance(times, line[1], line[0]))
    drift = max(-MAX_DRIFT_PPM / 1e6, min(MAX_DRIFT_PPM / 1e6, sign * slope))
    there = _above_base(times, there, drift)
    back = _above_base(times, back, -drift)
    waits = [
        Queueing(gap.sent_ns, round(out_ns), round(home_ns))
        for gap, out_ns, home_ns in zip(segment, there, back, strict=True)
    ]
    return waits, drift


def _above_base(times: Sequence[float], delays: Sequence[float], slope: float) -> list[float]:
    level = [delay - slope * time for time, delay in zip(times, delays, strict=True)]
    base = sorted(level)[int(FASTEST_PART * len(level))]
    return [max(0.0, value - base) for value in level]


def _mean_distance(times: Sequence[float], delays: Sequence[float], slope: float) -> float:
    return sum(_above_base(times, delays, slope)) / len(times)


def _slope_below(times: Sequence[float], delays: Sequence[float]) -> float:
    """Slope of the line below all points that is nearest to them: a hull's edge."""
    hull: list[tuple[float, float]] = []
    for point in sorted(zip(times, delays, strict=True)):
        while len(hull) >= 2 and _turns_down(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    middle = sum(times) / len(times)
    for (left, low), (right, high) in pairwise(hull):
        if left <= middle <= right and right > left:
            return (high - low) / (right - left)
    return 0.0


def _turns_down(
    first: tuple[float, float], second: tuple[float, float], third: tuple[float, float]
) -> bool:
    """Does the middle point lie on or above the line from the first to the third?"""
    return (second[1] - first[1]) * (third[0] - first[0]) >= (third[1] - first[1]) * (
        second[0] - first[0]
    )


def _steps(gaps: Sequence[Gap]) -> list[int]:
    """Indexes at which a clock had been set since the probe before."""
    offsets = [
        ((gap.sink_received_ns - gap.sent_ns) - (gap.received_ns - gap.sink_sent_ns)) / 2
        for gap in gaps
    ]
    trips = [
        (gap.sink_received_ns - gap.sent_ns) + (gap.received_ns - gap.sink_sent_ns) for gap in gaps
    ]
    cuts: list[int] = []
    index = STEP_WINDOW
    while index + STEP_WINDOW <= len(gaps):
        # Cheap first: most neighbours differ by less than any step.
        jump = abs(offsets[index] - offsets[index - 1])
        if jump > LEAST_STEP_NS and _is_step(offsets, trips, index):
            cuts.append(index)
            index += STEP_WINDOW
        else:
            index += 1
    return cuts


def _is_step(offsets: Sequence[float], trips: Sequence[int], index: int) -> bool:
    before = offsets[index - STEP_WINDOW : index]
    after = offsets[index : index + STEP_WINDOW]
    size = abs(median(after) - median(before))
    trip_change = abs(
        median(trips[index : index + STEP_WINDOW]) - median(trips[index - STEP_WINDOW : index])
    )
    spread = max(_spread(before), _spread(after))
    return size > LEAST_STEP_NS and size > STEP_PROMINENCE * max(spread, trip_change)


def _spread(values: Sequence[float]) -> float:
    """Middle half of some values."""
    ordered = sorted(values)
    return ordered[len(ordered) * 3 // 4] - ordered[len(ordered) // 4]

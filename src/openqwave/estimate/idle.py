"""The share of time a path stands idle, from the one-way delays of small probes.

**Idea.** A small packet that finds the narrow link idle and its queue empty takes the base delay;
one that finds it busy waits. With probes at random times the share that does not wait is the
share of time the link is idle (Poisson arrivals see time averages: Wolff, Operations Research
30(2), 1982), and that share of the capacity is the available bandwidth. This holds for any
arrival process of the other traffic and for any length of its bursts, which is what makes the
method precise where trains, which see a few milliseconds each, have to be lucky. It is ProbeGap
of Lakshminarayanan, Padmanabhan and Padhye ("Bandwidth Estimation in Broadband Access Networks",
IMC 2004, section 4), with another way to find the threshold.

**From delays to a share.** ProbeGap looks for a knee in the distribution of delays. At 100 Mbit/s a
full packet takes 120 us and the hosts' own noise is 10 to 30 us, and there is no knee to see. But
the shape of the distribution is known. Below the time `D` of one full packet, waits have about a
uniform density: a probe that comes in the middle of a packet waits for the rest of it (exactly
uniform for a lone packet; for Poisson arrivals the M/D/1 queue's (1-r)exp(rx/D), whose slope over
the lower part of the range is nearly constant). So with N the distribution of the noise::

    F(x) = p N(x) + c Integral(0..x) N        for x up to a part of D

which is linear in the wanted share `p` and in the density `c`: least squares over the lower part
of the distribution gives both. What the noise looks like is tried out: it has the shape of the
delays on the way back, where probes meet the same hosts' interrupts and schedulers and mostly no
queue, or it is exponential, and either may be wider or narrower; what leaves the least of the
distribution unexplained is taken. Noise that would fill most of the fitted range is not tried,
because then it could be taken for the waits themselves.

**What is taken out.** The measurement is load itself. A queue conserves work: whatever was sent in
the window, probes and trains, made the link busy for exactly its own time, be it at once or later.
So nothing has to be left out near trains; their work is added to what was found idle. While a train
is being paced nothing else is sent, and the link is known to be busy: that time counts as such.
Probes lost while their neighbours waited met a full queue: they count as busy. Probes lost at
random say nothing and are left out.

**Coalesced stamps.** Where a receiver delivers in clumps, a probe that comes alone waits for the
whole timer and one that comes into an open clump for a part of it. Only probes that come alone are
used: their extra delay is constant and belongs to the base.

**How it fails.** On links whose service is not a rate but turns (Wi-Fi) or credit (token buckets),
idle time is not bandwidth. If the other traffic's packets are much smaller than full ones, waits
are shorter than `D` and some look like noise: the estimate is then too high where noise is not
far below the time of such a packet. Above some hundreds of Mbit/s noise is longer than a packet,
and `share` refuses.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from openqwave.estimate.clocks import Alignment, align
from openqwave.estimate.rtt import quantile
from openqwave.estimate.samples import Gap, Train
from openqwave.model.estimates import Doubt, Inconclusive

# The largest packet of the other traffic, as nearly all traffic above some load has it.
FULL_PACKET_BYTES = 1500
# The part of a full packet's time over which the density of waits counts as constant: smaller is
# less biased by M/D/1's curvature (0.6: at most 1 % of the capacity), larger less noisy.
LINEAR_PART = 0.6
# Points of the distribution that are fitted; more of them change nothing.
POINTS = 40
# The noise's 75th percentile as a part of the fitted range: wider ones are not tried, and where the
# way back is noisier than that by itself, and no narrower noise fits, shares came out anywhere.
WIDEST_NOISE = 0.35
# An answer is not believed when half of the noise on the way back is wider than the first part of
# the fitted range, and the answer rests on the widest noise that is tried, or on few probes that
# did not wait: fewer than the second part, times that noise in ranges.
HALF_NOISE, LEAST_LEVEL = 0.2, 0.3
# Widths that are tried, as powers of this ratio: a tenth more or less does not change the answer.
WIDTH_RATIO, WIDTHS = 1.25, 16
# Share of probes whose fit leaves more than this is refused, in units of the share; a good fit
# leaves 0.002 to 0.015 with 100 to 2,000 probes.
WORST_RESIDUAL = 0.05
# Fewer probes cannot tell a share: 40 leave 8 % of standard error at half load.
LEAST_PROBES = 40
# The fit has two unknowns, and finding the level costs as much again as counting alone: the error
# of counting, times this. Found by simulation at 2 to 300 Mbit/s, idle to 75 % load.
FIT_INFLATION = 1.6
# A timer that runs for longer than this many packets' times is opened by other packets of this host
# so often that hardly any probe is known to come alone.
MOST_CLUMP = 5
# Under load a train takes longer to leave than by itself: twice as long at half load.
DRAIN_FACTOR = 2.0
# Noise differs between the two directions by some part of itself, and what of it is taken for waits
# is missing from the share: this part of the noise, measured in full packets.
NOISE_FACTOR = 0.05
# A fit that leaves something is wrong by as much again, where it is extrapolated.
RESIDUAL_FACTOR = 1.5


@dataclass(frozen=True, slots=True)
class IdleShare:
    """How much of the time a path would be idle without the measurement.

    Attributes:
        share: Of the time, 0 to 1.
        error: Standard error of the share.
        residual: What the fit leaves; root mean square, in units of the share.
        probe_count: How many probes it rests on.
        noise_ns: Three quarters of the noise lie below this.
    """

    share: float
    error: float
    residual: float
    probe_count: int
    noise_ns: float


def idle_share(
    gaps: Sequence[Gap], trains: Sequence[Train], capacity_bps: int, reach_ns: int = 0
) -> IdleShare | Inconclusive:
    """Find the share of time in which the path carried nothing of others.

    Args:
        gaps: Small probes in the order of sending, with one mean rate, lost ones included.
        trains: All trains that were sent, lost ones included; those of another time are left out.
        capacity_bps: Of the narrow link, bits a second of IP packets.
        reach_ns: A probe sent this long after another packet comes alone, also where a receiver's
            timer holds packets back; 0 for no timer.

    Returns:
        The share, or why it cannot be told.
    """
    if len(gaps) < LEAST_PROBES:
        return Inconclusive(Doubt.TOO_FEW, f"{len(gaps)} small probes")
    since_ns, until_ns = gaps[0].sent_ns, gaps[-1].sent_ns
    trains = [train for train in trains if since_ns <= train.sent_ns[0] <= until_ns]
    packet_ns = FULL_PACKET_BYTES * 8e9 / capacity_bps
    if reach_ns > MOST_CLUMP * packet_ns:
        return Inconclusive(
            Doubt.COALESCED, f"the receiver holds packets back for {reach_ns / 1e3:.0f} us"
        )
    seen = _apart(gaps, trains, reach_ns, packet_ns)
    alignment = align(seen)
    waits = sorted(wait.there_ns for wait in alignment.waits)
    noise = sorted(wait.back_ns for wait in alignment.waits)
    if len(waits) < LEAST_PROBES:
        return Inconclusive(Doubt.TOO_FEW, f"{len(waits)} small probes came back")
    span_ns = LINEAR_PART * packet_ns
    count = len(waits) + _lost_in_a_queue(seen, alignment, packet_ns)
    level, residual, noise_ns = _best_fit(waits, noise, span_ns, count)
    # A fit at the edge of what is tried, beside noise that may be wider, is no fit.
    half_ns = quantile(noise, 0.5)
    is_widest = noise_ns >= WIDEST_NOISE * span_ns or level < LEAST_LEVEL * half_ns / span_ns
    if is_widest and half_ns > HALF_NOISE * span_ns:
        return Inconclusive(
            Doubt.TOO_FAST,
            f"a packet takes {packet_ns / 1e3:.0f} us, and timing varies by "
            f"{quantile(noise, 0.75) / 1e3:.0f}",
        )
    if residual > WORST_RESIDUAL:
        return Inconclusive(
            Doubt.UNSTEADY, f"the delays do not look like a queue's (residual {residual:.3f})"
        )
    counting = FIT_INFLATION * _counting_error(alignment, packet_ns, level, count)
    window_ns = until_ns - since_ns
    unseen = sum(train.sent_ns[-1] - train.sent_ns[0] for train in trains) / window_ns
    own_bytes = sum(len(train.sent_ns) * train.packet_bytes for train in trains)
    own_bytes += sum(gap.packet_bytes for gap in gaps)
    share = level * (1 - unseen) + own_bytes * 8e9 / window_ns / capacity_bps
    error = math.hypot(counting, RESIDUAL_FACTOR * residual, NOISE_FACTOR * noise_ns / packet_ns)
    return IdleShare(min(1.0, share), error, residual, count, noise_ns)


def _apart(
    gaps: Sequence[Gap], trains: Sequence[Train], reach_ns: int, packet_ns: float
) -> list[Gap]:
    """Leave out what was sent during a train, or into a clump that another packet opened."""
    starts = [train.sent_ns[0] for train in trains]
    ends = [train.sent_ns[-1] for train in trains]
    # A train that was sent at once arrives over the time that the link needs, or longer.
    arrived = [
        max(end, start + DRAIN_FACTOR * len(train.sent_ns) * packet_ns)
        for train, start, end in zip(trains, starts, ends, strict=True)
    ]
    kept = []
    last_ns: float = gaps[0].sent_ns - reach_ns
    for gap in gaps:
        before = bisect_right(starts, gap.sent_ns) - 1
        if before >= 0:
            last_ns = max(last_ns, arrived[before])
        is_alone = not reach_ns or gap.sent_ns - last_ns >= reach_ns
        if is_alone and (before < 0 or gap.sent_ns > ends[before]):
            kept.append(gap)
        last_ns = max(last_ns, gap.sent_ns)
    return kept


def _best_fit(
    waits: Sequence[int], back: Sequence[int], span_ns: float, count: int
) -> tuple[float, float, float]:
    """Level, residual and noise width that explain the waits best; input is sorted."""
    points = [span_ns * (turn + 1) / POINTS for turn in range(POINTS)]
    found = [bisect_right(waits, x) / count for x in points]
    sums = [0, *accumulate(back)]
    back_ns = max(1, quantile(back, 0.75))

    def like_back(x: float, scale: float) -> tuple[float, float]:
        below = bisect_right(back, x / scale)
        return below / len(back), (below * x - sums[below] * scale) / len(back) / span_ns

    def exponential(x: float, scale: float) -> tuple[float, float]:
        tail = math.exp(-x / scale)
        return 1 - tail, (x - scale * (1 - tail)) / span_ns

    best = (0.0, math.inf, 0.0)
    for shape, unit_ns in ((like_back, float(back_ns)), (exponential, math.log(4))):
        for turn in range(WIDTHS):
            width_ns = WIDEST_NOISE * span_ns / WIDTH_RATIO**turn
            columns = [shape(x, width_ns / unit_ns) for x in points]
            level, residual = _fit(found, columns)
            if residual < best[1]:
                best = level, residual, width_ns
    return best


def _fit(found: Sequence[float], columns: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Level and residual of the two-column least squares: steps and ramps."""
    ss = sum(step * step for step, _ in columns)
    sr = sum(step * ramp for step, ramp in columns)
    rr = sum(ramp * ramp for _, ramp in columns)
    sf = sum(step * value for (step, _), value in zip(columns, found, strict=True))
    rf = sum(ramp * value for (_, ramp), value in zip(columns, found, strict=True))
    determinant = ss * rr - sr * sr
    # Both are counts: neither can be negative.
    level = max(0.0, (sf * rr - rf * sr) / determinant) if determinant > 0 else 0.0
    density = (rf - sr * level) / rr if rr > 0 else 0.0
    if density < 0:
        level, density = sf / ss, 0.0
    residual = math.sqrt(
        sum(
            (value - level * step - density * ramp) ** 2
            for (step, ramp), value in zip(columns, found, strict=True)
        )
        / len(found)
    )
    return min(1.0, level), residual


def _lost_in_a_queue(gaps: Sequence[Gap], alignment: Alignment, packet_ns: float) -> int:
    """How many probes were lost while both their neighbours waited."""
    if not alignment.waits:
        return 0
    times = [wait.sent_ns for wait in alignment.waits]
    lost = 0
    for gap in gaps:
        if not gap.is_lost:
            continue
        after = bisect_left(times, gap.sent_ns)
        # One on each side: after the last that came back, the sink may be gone.
        neighbours = alignment.waits[max(0, after - 1) : after + 1]
        if len(neighbours) == 2 and all(wait.there_ns > 2 * packet_ns for wait in neighbours):
            lost += 1
    return lost


def _counting_error(alignment: Alignment, packet_ns: float, level: float, count: int) -> float:
    """Standard error of a share that was counted by probes one after the other.

    Half the mean square of successive differences (von Neumann, 1941) is p(1-p) for probes that
    are independent, and less where the load changes slowly compared to them: then they
    follow it, and the time between them hides nothing.
    """
    is_idle = [wait.there_ns < LINEAR_PART * packet_ns / 2 for wait in alignment.waits]
    changes = sum(one != other for one, other in pairwise(is_idle))
    # A run without any change still leaves room for one.
    variance = max(changes, 1) / 2 / max(1, len(is_idle) - 1)
    return math.sqrt(min(variance, max(level * (1 - level), 0.01)) / count)

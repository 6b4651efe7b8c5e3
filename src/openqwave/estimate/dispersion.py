"""Capacity of the narrow link, from the spacing of packets that were sent together.

**Idea.** Packets that reach the narrow link faster than it sends leave it one after the other, and
arrive spaced by the time that it needs for one: capacity = size / spacing (Jacobson 1988; Dovrolis,
Ramanathan, Moore, "What do packet dispersion techniques measure?", INFOCOM 2001). One pair says
little. Other packets that come between the two widen the spacing; a queue behind the narrow link,
which holds the first packet up until the second has caught up, closes it; and the stamps themselves
are late by what the receiving host does.

**Trains.** The spacing of a whole train averages the stamps' noise over its length, and a train
that arrives at the narrow link in a fraction of the time that it needs to leave (it was sent at
the rate of the sender's own link) gives other traffic no time to come between. The rate of a
whole train is then the capacity; otherwise it is the fluid queue's ``R_out = R_in C / (R_in + X)``,
with X the other traffic's rate and R_in the rate at which the train arrived. Trains are as long as
the queue that they make allows (see `probing.measurement`).

**Two views.** Of the whole trains' rates, the mean of the shortest interval that holds half of them
(the "shorth", Andrews et al., Robust Estimates of Location, 1972): noise averages out and so does
what a queue behind the narrow link does, but a train that had already been pulled apart before the
narrow link is always mixed with other traffic there. Of pieces of trains, the fastest of the modes
of their rates: pieces with nothing between their packets all have the capacity, and those with
one, two, three packets between lie well apart. Where the two agree the answer is good. Where the
pieces are faster, the single spacings tell why: none closer than the pieces' mode, and trains
were mixed before the narrow link; some much closer, and a queue behind it pushed them together,
which longer pieces outlast, and then the bounds hold both views.

**Clumps.** A receiver whose interrupts are coalesced stamps several packets with one time: that of
the first, and a timer. Then only the first packet of a clump carries information, and a train's
rate is taken from the first packet of a clump to the first packet of the last; not of the first
clump, which another packet may have opened. A link that
sends packets in aggregates makes clumps as well, but of the time it took to send them: there the
rate is that of the packets behind the first clump. The two are told apart by the time between
clumps, which a timer makes even and sending makes as uneven as the clumps are. Where packets come
one by one, both ways of counting are the same.

**Token buckets.** A shaper that has been idle lets a burst pass at a higher rate than it sustains.
The arrivals of a train that is longer than the burst have a knee: a fast head and a slow tail. The
tail is what flows get; the head is reported as the boost. A burst larger than the longest train
cannot be seen.

**Contention.** Where stations take turns (802.11), every access costs time, and packets that wait
are sent together: the rate of a train grows with its length, and no length gives the rate of a
queue. This is recognised by pairs and short trains that are far slower than long ones, by a time
that an access costs and noise does not. Clumps that come unevenly without that are a jitter that
is longer than the train, and nothing is claimed.
"""

from __future__ import annotations

import enum
import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import sub
from statistics import fmean, median, pstdev

from openqwave.estimate.arrivals import Spread, knee_of, spread_of
from openqwave.estimate.samples import Train
from openqwave.model.estimates import Doubt, Estimate, Estimated, Inconclusive

# When this share of the spacings is inside clumps, stamps are coalesced: at 0.3, three in ten.
COALESCED_SHARE = 0.3
# Times between clumps of a timer vary by less than this part of their mean: the timer, and up to
# one packet's time until it is started again.
EVEN_CLUMPS = 0.45
# Clumps of so many packets in the mean, in trains of twice as many or more, are aggregates of a
# link that is shared by turns: a timer of 1 ms collects as many only above 100 Mbit/s, and jitter
# hardly ever.
AGGREGATE_PACKETS = 12
# One knee may be an accident.
LEAST_KNEES = 2
# Shorter trains that are faster than the longest by this ratio had credit. Noise of their stamps
# makes some of them faster, but not by half.
CREDIT_RATIO = 1.6
# Long trains faster than short ones by this ratio: the link is shared by turns. Two packets of
# 1,500 bytes on an idle 802.11 link get less than half of what long trains get; noise of stamps
# averages to a few percent over the short trains of a measurement.
GROWTH_RATIO = 1.35
# And by at least this time for each packet of a pair: the shortest access of 802.11 (a short frame
# space, a mean backoff of 7.5 slots of 9 us, a preamble of 20 us, an acknowledgement) takes longer.
LEAST_ACCESS_NS = 60_000
# "Short" and "long" of the comparison, in packets, and how many short ones it needs.
SHORT_PACKETS, LONG_PACKETS, LEAST_SHORT = 4, 12, 2
# Pieces of trains last at least this long: ten times the noise of stamps on an ordinary host.
PIECE_NS = 150_000
# And hold at least so many spacings, so that one packet behind the narrow link does not make a
# mode of its own; where a queue behind it is certain, at least the second number.
LEAST_PIECE, LONG_PIECE = 3, 6
# Width of a mode in parts of its value: less than one full packet in a piece of ten.
MODE_WIDTH = 0.06
# The fastest mode counts when it has this part of the highest one's density.
MODE_PROMINENCE = 0.5
# Whole trains and pieces agree within this.
AGREEMENT = 0.05
# Spacings below this part of the pieces' were pushed together behind the narrow link. Taken at the
# tenth percentile of all spacings.
PUSHED_PART = 0.9
# Fewer trains have no mode.
LEAST_TRAINS = 3
# Rates scattered wider than this, in parts of the value, are no measurement.
WIDEST_SCATTER = 0.35
# The stamps of MS-QLPB have a resolution of 100 ns; a train's span is known to twice that. On top
# comes what every link here showed in agreement with its own counters: headers that a link
# counts and IP does not, bursts, noise that does not average out.
SYSTEMATIC_PART = 0.01
# The interval is two standard errors either way, and the systematic part.
COVERAGE_FACTOR = 2.0
CONFIDENCE = 0.95
# A probe that comes alone comes after this many times the mean of a receiver's timer, at least: the
# packet that started it had been on its way before.
CLUMP_REACH = 1.5


class LinkKind(enum.Enum):
    """What the trains say of the narrow link; the value is for people."""

    QUEUE = "a queue with a rate"
    COALESCED = "a queue with a rate, stamped in clumps"
    BUCKET = "a token bucket"
    CONTENTION = "shared by turns"


@dataclass(frozen=True, slots=True)
class Capacity:
    """What trains say of the narrow link.

    Attributes:
        estimate: Its rate, bits a second of IP packets; of a token bucket, the sustained one.
        kind: What kind of link it is.
        boost_bps: The rate of the head of a train on a token bucket; 0 on other links.
        clump_ns: How long the receiver's timer holds packets back; 0 where it does not.
    """

    estimate: Estimated
    kind: LinkKind
    boost_bps: int = 0
    clump_ns: int = 0

    @property
    def reach_ns(self) -> int:
        """A probe sent this long after another packet comes alone, also through such a timer."""
        return round(CLUMP_REACH * self.clump_ns)


def densest_half(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of the shortest interval that holds half of some values."""
    ordered = sorted(values)
    size = len(ordered) // 2 + 1
    first = min(range(len(ordered) - size + 1), key=lambda i: ordered[i + size - 1] - ordered[i])
    inside = ordered[first : first + size]
    return fmean(inside), (inside[-1] - inside[0]) / 2


def capacity(trains: Sequence[Train]) -> Capacity:
    """Estimate the capacity from trains that were sent back to back.

    Args:
        trains: In the order of sending; lost ones and paced ones are left out.

    Returns:
        The capacity, `Inconclusive` where trains are few or contradict each other.
    """
    back_to_back = [train for train in trains if train.gap_ns == 0 and not train.is_lost]
    bucket = _bucket(back_to_back)
    if bucket is not None:
        return bucket
    spreads = [
        (spread, len(train.sent_ns))
        for train in back_to_back
        if (spread := spread_of(train)) is not None
    ]
    clumps = [spread.clump_packets for spread, length in spreads if length >= 2 * AGGREGATE_PACKETS]
    if clumps and median(clumps) >= AGGREGATE_PACKETS:
        return Capacity(
            Inconclusive(Doubt.CONTENTION, "packets arrive in large aggregates"),
            LinkKind.CONTENTION,
        )
    if len(spreads) < LEAST_TRAINS:
        doubt = Doubt.LOSSES if len(trains) > 2 * len(back_to_back) else Doubt.TOO_FEW
        if len(back_to_back) >= LEAST_TRAINS:
            doubt = Doubt.COALESCED
        return Capacity(
            Inconclusive(doubt, f"{len(spreads)} of {len(trains)} trains were spread out"),
            LinkKind.QUEUE,
        )
    without_credit = _without_credit(spreads)
    if without_credit is not None:
        return without_credit
    # Of the longest there has to be another: one train alone may have met anything.
    longest = sorted(length for _, length in spreads)[-2]
    long = [spread for spread, length in spreads if length >= max(2, longest * 2 // 3)]
    if len(long) < LEAST_TRAINS:
        long = [spread for spread, length in sorted(spreads, key=lambda s: -s[1])[:LEAST_TRAINS]]
    whole_bps, half_width = densest_half([spread.rate_bps for spread in long])
    packet_ns = back_to_back[0].packet_bytes * 8e9 / whole_bps
    if _grows(spreads, whole_bps, packet_ns, longest):
        return Capacity(
            Inconclusive(Doubt.CONTENTION, "long trains are much faster than short ones"),
            LinkKind.CONTENTION,
        )
    if median(spread.clumped_share for spread in long) > COALESCED_SHARE:
        return _coalesced(long)
    pieces = [train for train in back_to_back if len(train.sent_ns) >= max(4, longest * 2 // 3)]
    if pieces:
        found = _both_views(pieces, whole_bps, half_width)
    else:
        found = _bounded(whole_bps, half_width, len(long), "trains")
    return Capacity(found, LinkKind.QUEUE)


def _coalesced(spreads: Sequence[Spread]) -> Capacity:
    """The capacity of a path whose receiver stamps in clumps, if a timer makes them."""
    intervals = [interval for spread in spreads for interval in spread.intervals_ns]
    mean = fmean(intervals) if intervals else 0.0
    if len(intervals) < 2 * LEAST_TRAINS or pstdev(intervals) > EVEN_CLUMPS * mean:
        return Capacity(
            Inconclusive(Doubt.UNSTEADY, "packets arrive in uneven clumps"), LinkKind.QUEUE
        )
    value, half_width = densest_half([spread.timed_bps for spread in spreads])
    found = _bounded(value, half_width, len(spreads), "trains, by clumps")
    return Capacity(found, LinkKind.COALESCED, clump_ns=round(mean))


def _both_views(trains: Sequence[Train], whole_bps: float, half_width: float) -> Estimated:
    """Weigh the rate of whole trains against the fastest mode of their pieces."""
    packet_ns = trains[0].packet_bytes * 8e9 / whole_bps
    shortest = min(len(train.deltas_ns) for train in trains)
    size = min(shortest, max(LEAST_PIECE, math.ceil(PIECE_NS / packet_ns)))
    pieces_bps = _fastest_mode(trains, size)
    if abs(pieces_bps / whole_bps - 1) <= AGREEMENT:
        value = pieces_bps if packet_ns < PIECE_NS else whole_bps
        return _bounded(value, half_width, len(trains), "trains")
    if pieces_bps < whole_bps:
        return _between(whole_bps, pieces_bps, whole_bps)
    spacings = sorted(delta for train in trains for delta in train.deltas_ns)
    tenth_ns = spacings[len(spacings) // 10]
    if packet_ns >= PIECE_NS / 3 and tenth_ns >= PUSHED_PART * trains[0].packet_bytes * 8e9 / (
        pieces_bps
    ):
        return _bounded(pieces_bps, half_width, len(trains), "pieces of trains")
    longer_bps = _fastest_mode(trains, min(shortest, max(LONG_PIECE, size)))
    return _between(longer_bps, whole_bps, pieces_bps)


def _between(value: float, one: float, other: float) -> Estimate:
    """A value whose bounds hold two views that disagree."""
    low, high = min(value, one, other), max(value, one, other)
    margin = SYSTEMATIC_PART * value
    return Estimate(
        round(value), round(low - margin), round(high + margin), CONFIDENCE, "trains, in two views"
    )


def _fastest_mode(trains: Sequence[Train], size: int) -> float:
    """The fastest of the prominent rates of pieces of `size` spacings, bits a second."""
    times = sorted(
        math.log(span)
        for train in trains
        for sums in [[0, *accumulate(train.deltas_ns)]]
        for span in map(sub, sums[size:], sums)
        if span > 0
    )
    step = MODE_WIDTH / 4
    count = int((times[-1] - times[0]) / step) + 1
    grid = [times[0] + turn * step for turn in range(count + 1)]
    heights = [_density(times, place) for place in grid]
    enough = MODE_PROMINENCE * max(heights)
    peak = next(
        place
        for number, place in enumerate(grid)
        if heights[number] >= enough
        and heights[number] >= max(heights[max(0, number - 1) : number + 2])
    )
    around = times[bisect_left(times, peak - MODE_WIDTH) : bisect_right(times, peak + MODE_WIDTH)]
    return size * trains[0].packet_bytes * 8e9 / math.exp(median(around))


def _density(ordered: Sequence[float], place: float) -> float:
    """Triangular kernel density of ordered values at a place, in samples."""
    first = bisect_left(ordered, place - MODE_WIDTH)
    end = bisect_right(ordered, place + MODE_WIDTH)
    return sum(1 - abs(value - place) / MODE_WIDTH for value in ordered[first:end])


def _bounded(value: float, half_width: float, count: int, method: str) -> Estimated:
    scatter = half_width / value
    if scatter > WIDEST_SCATTER:
        return Inconclusive(Doubt.UNSTEADY, f"half of the trains lie within {scatter:.0%} only")
    # The half that lies closest is narrower than the whole: of a normal distribution its half
    # width is 0.67 standard deviations.
    error = half_width / 0.67 / math.sqrt(count)
    margin = COVERAGE_FACTOR * error + SYSTEMATIC_PART * value
    return Estimate(round(value), round(value - margin), round(value + margin), CONFIDENCE, method)


def _grows(
    spreads: Sequence[tuple[Spread, int]], long_bps: float, packet_ns: float, longest: int
) -> bool:
    """Are short trains far slower than long ones, by what an access costs?"""
    short = [spread.rate_bps for spread, length in spreads if length <= SHORT_PACKETS]
    if longest < LONG_PACKETS or len(short) < LEAST_SHORT:
        return False
    short_ns = packet_ns * long_bps / median(short)
    return short_ns > GROWTH_RATIO * packet_ns and short_ns - packet_ns > LEAST_ACCESS_NS


def _without_credit(spreads: Sequence[tuple[Spread, int]]) -> Capacity | None:
    """The capacity of a token bucket whose credit was used up when the longest trains came.

    Shorter trains passed on that credit and were far faster. The longest arrive evenly: one that
    its receiver was late for does not.
    """
    longest = max(length for _, length in spreads)
    long = [spread for spread, length in spreads if length >= longest * 2 // 3]
    shorter = [
        spread.rate_bps
        for spread, length in spreads
        if length > SHORT_PACKETS and length * 3 < longest * 2
    ]
    value, half_width = densest_half([spread.rate_bps for spread in long])
    is_even = median(spread.clumped_share for spread in long) <= COALESCED_SHARE
    if not is_even or not shorter or median(shorter) <= CREDIT_RATIO * value:
        return None
    found = _bounded(value, half_width, len(long), "trains")
    return Capacity(found, LinkKind.BUCKET, boost_bps=round(median(shorter)))


def _bucket(trains: Sequence[Train]) -> Capacity | None:
    """The capacity of a token bucket, if trains long enough to empty it have a knee."""
    knees = [(len(train.sent_ns), knee) for train in trains if (knee := knee_of(train))]
    if len(knees) < LEAST_KNEES:
        return None
    shortest = min(length for length, _ in knees)
    long = sum(len(train.sent_ns) >= shortest for train in trains)
    if 2 * len(knees) < long:
        return None
    tail, half_width = densest_half([knee.tail_bps for _, knee in knees])
    return Capacity(
        _bounded(tail, half_width, len(knees), "tails of long trains"),
        LinkKind.BUCKET,
        boost_bps=round(median(knee.head_bps for _, knee in knees)),
    )

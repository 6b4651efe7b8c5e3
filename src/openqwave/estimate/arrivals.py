"""What the arrivals of one train show: its rate, its clumps, and the end of a burst's credit.

A train is judged here by itself, from the spacing of its arrivals; what many of them say together
is `dispersion`'s. A *clump* is a run of packets that arrive much closer together than the train's
mean. A *knee* is where a fast head goes over into a slow, even tail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from openqwave.estimate.samples import Train

# A spacing below this part of the train's mean belongs to a clump. Packets of one size cannot
# leave a link closer than the mean, except behind it; noise of half a packet's time passes.
CLUMP_PART = 0.25
# Handing over the packets of one clump takes a receiver some 30 us at times: where packets are
# further apart than twice that, the limit may be wider.
LOOSE_CLUMP_PART, LOOSE_ABOVE_NS = 0.4, 60_000
# A train that is sent at once takes longer to arrive than to leave, by this factor, or it has met
# no link that is slower than its sender.
LEAST_SPREADING = 1.3
# A knee needs a head and a tail that each have a slope.
LEAST_HEAD, LEAST_TAIL = 4, 6
# Most spacings of a tail lie within this part of their mean.
EVEN_TAIL = 0.5
# A head faster than its tail by less than this may be noise of short heads.
KNEE_RATIO = 1.4


@dataclass(frozen=True, slots=True)
class Spread:
    """One train's arrivals, as clumps.

    Attributes:
        rate_bps: Rate of the packets behind the first clump, bits a second of IP packets.
        timed_bps: Rate from the first packet of the second clump to the first of the last; of the
            first clump where there are only two.
        clumped_share: Share of the spacings that lie inside clumps.
        intervals_ns: Times between the starts of clumps.
        clump_packets: Packets in a clump, in the mean.
    """

    rate_bps: float
    timed_bps: float
    clumped_share: float
    intervals_ns: tuple[int, ...]
    clump_packets: float


def spread_of(train: Train) -> Spread | None:
    """Return the spread of a train; None if all of it arrived in one clump.

    A train that was sent at once and arrived about as fast as it was sent is one clump as well: no
    link that is slower than its sender lets it pass like that, but one that collects packets does.
    """
    deltas = train.deltas_ns
    total_ns = sum(deltas)
    if not train.gap_ns and total_ns < LEAST_SPREADING * (train.sent_ns[-1] - train.sent_ns[0]):
        return None
    mean_ns = total_ns / len(deltas) if deltas else 0.0
    limit_ns = mean_ns * (CLUMP_PART if mean_ns < LOOSE_ABOVE_NS else LOOSE_CLUMP_PART)
    starts = [0, *(index + 1 for index, delta in enumerate(deltas) if delta > limit_ns)]
    if len(starts) < 2:
        return None
    bits = train.packet_bytes * 8e9
    intervals = tuple(sum(deltas[one:other]) for one, other in pairwise(starts))
    return Spread(
        rate_bps=(len(deltas) + 1 - starts[1]) * bits / total_ns,
        timed_bps=_timed(starts, intervals) * bits,
        clumped_share=1 - (len(starts) - 1) / len(deltas),
        intervals_ns=intervals,
        clump_packets=(len(deltas) + 1) / len(starts),
    )


@dataclass(frozen=True, slots=True)
class Knee:
    """A train that went over from one rate to a lower one.

    Attributes:
        head_bps: The rate before.
        tail_bps: The rate after.
        head_packets: How many packets had the first rate.
    """

    head_bps: float
    tail_bps: float
    head_packets: int


def _timed(starts: Sequence[int], intervals_ns: Sequence[int]) -> float:
    """Packets a nanosecond from a clump's first packet to the last clump's first.

    The first clump of a train may have been opened by a packet of somebody else's.
    """
    first = 1 if len(starts) > 2 else 0
    return (starts[-1] - starts[first]) / sum(intervals_ns[first:])


def knee_of(train: Train) -> Knee | None:
    """Look for the end of a token bucket's burst in a train; None where there is none."""
    deltas = train.deltas_ns
    arrivals = [0, *accumulate(deltas)]
    best: tuple[float, int] | None = None
    for split in range(LEAST_HEAD, len(deltas) - LEAST_TAIL + 1):
        # The two lines from the ends to the split: how far is the curve off?
        head = arrivals[split] / split
        tail = (arrivals[-1] - arrivals[split]) / (len(deltas) - split)
        if tail <= KNEE_RATIO * head:
            continue
        off = sum(abs(arrivals[i] - head * i) for i in range(split)) + sum(
            abs(arrivals[i] - arrivals[split] - tail * (i - split))
            for i in range(split, len(arrivals))
        )
        if best is None or off < best[0]:
            best = off, split
    if best is None:
        return None
    split = best[1]
    one_line = arrivals[-1] / len(deltas)
    off_one = sum(abs(arrival - one_line * i) for i, arrival in enumerate(arrivals))
    # Noise makes knees too, but they explain little of the curve.
    if best[0] > off_one / 3:
        return None
    # A bucket's tail is even, a clump after another is not.
    tail_ns = (arrivals[-1] - arrivals[split]) / (len(deltas) - split)
    even = sum(abs(delta / tail_ns - 1) < EVEN_TAIL for delta in deltas[split:])
    if 2 * even < len(deltas) - split:
        return None
    bits = train.packet_bytes * 8e9
    # The packet at the knee itself waited for a part of its tokens only.
    after = split + 1
    return Knee(
        head_bps=bits * split / max(1, arrivals[split]),
        tail_bps=bits * (len(deltas) - after) / max(1, arrivals[-1] - arrivals[after]),
        head_packets=split,
    )

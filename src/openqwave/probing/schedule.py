"""How long trains are, how many of them, and how fast small probes go: decided by what is believed.

Everything here follows from three wishes that pull in different directions. A train should be long,
because noise averages out over it. It should be short, because its packets wait in the narrow
link's queue, and everybody else's packets wait behind them. And all of it together should cost
little. The belief is the capacity as far as it is known, bits a second of IP packets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from openqwave.estimate.dispersion import Capacity, LinkKind
from openqwave.wire.qlpb import PACKET_PAIR_MAX_IP_BYTES

# The largest probe of the protocol: large packets mean few of them for the same time.
PACKET_BYTES = PACKET_PAIR_MAX_IP_BYTES
# The queue that one train may make at the narrow link: a voice packet that meets it is late by
# this, which is less than jitter buffers are made for, and meets it rarely.
QUEUE_NS = 5_000_000
# Below 8 Mbit/s three packets already take longer; fewer have no rate worth the name.
SHORTEST = 3
# 96 packets are 144 kB: more than most token buckets hold, and 1.2 ms at a gigabit, where the
# noise of stamps is then some percent.
LONGEST = 96
# Above this rate a train of `LONGEST` is needed and costs time instead of money; below, bytes are
# counted. 120 Mbit/s, so that links sold as 100 are below.
FAST_BPS = 120_000_000
# Below `FAST_BPS` one train back to back has at most so many packets, so that several of them fit
# into the budget, and the first part of the measurement costs at most so much.
LONGEST_COUNTED = 40
STEADY_BYTES = 300_000
# Pairs to begin with: to compare long trains with, of which some on a shared link say nothing.
FIRST_PAIRS = 4
# Trains of the full length: fewer have no mode, more add nothing where they agree.
LEAST_STEADY, MOST_STEADY = 5, 10

# Paced trains: 17 packets are BART's (see `estimate.strain`), and 16 spacings.
PACED_PACKETS = 17
# A paced train lasts at least so long, a hundred times the noise of stamps, and where a receiver's
# timer makes clumps, so many of them.
PACED_NS = 2_000_000
CLUMPS = 8
# But not longer than this: at half load it leaves half of it as a queue.
LONGEST_PACED_NS = 8_000_000
LEAST_PACED = 5
# How many, at most, in a measurement.
MOST_PACED, MOST_PACED_FAST = 20, 50
# What they cost together, below `FAST_BPS`.
PACED_BYTES = 340_000

# On a token bucket: so many trains, each with so many packets beyond the burst. Twelve spacings
# have a slope, and their queue is what a train of `QUEUE_NS` makes.
BUCKET_TRAINS, BUCKET_TAIL = 4, 13

# Small probes: this part of a link's capacity, within limits. The largest is the protocol's one a
# millisecond; the least still gives a hundred in the time of a measurement.
PROBE_SHARE, PROBE_SHARE_SLOW = 0.015, 0.04
SLOW_BPS = 5_000_000
LEAST_PROBES, MOST_PROBES, FIRST_PROBES = 60, 1000, 200
# Where bytes are short there may be fewer; without any there is no round trip.
FEWEST_PROBES = 10
# Of what may still be sent: this part for the capacity, and of the rest this part for paced trains;
# small probes cost less than trains, and tell more where trains are few.
STEADY_PART, PACED_PART = 0.6, 0.7


@dataclass(frozen=True, slots=True)
class Series:
    """Trains of one kind.

    Attributes:
        count: How many.
        packets: In each.
        gap_ns: Their spacing; 0 for back to back.
    """

    count: int
    packets: int
    gap_ns: int = 0


def packet_ns(belief_bps: float) -> float:
    """How long one probe packet takes at the narrow link."""
    return PACKET_BYTES * 8e9 / belief_bps


def longest_packets(belief_bps: float) -> int:
    """The longest train whose queue is within `QUEUE_NS`."""
    longest = LONGEST if belief_bps > FAST_BPS else LONGEST_COUNTED
    return max(SHORTEST, min(longest, int(QUEUE_NS / packet_ns(belief_bps))))


def ramp(
    step: int, belief_bps: float | None, last_packets: int, most_packets: int = LONGEST
) -> Series | None:
    """The next step on the way to long trains; None when they are long enough.

    The first step needs no belief. Each later one is at most four times as long as the one before,
    because a token bucket that has not run dry yet makes a link look fast.

    Args:
        step: From 0.
        belief_bps: The capacity as the trains so far have it.
        last_packets: Length of the last step's trains.
        most_packets: Longer ones did not arrive.
    """
    if step == 0:
        # Enough short ones to compare long ones with (see `dispersion`).
        return Series(FIRST_PAIRS, 2)
    if belief_bps is None:
        # They arrived, and all at once: the link is fast, or collects packets.
        longest = min(LONGEST, most_packets)
        return Series(2, min(longest, 4 * last_packets)) if last_packets < longest else None
    # A train that goes on while the queue allows it sees the end of a burst's credit.
    following = min(LONGEST, most_packets, int(QUEUE_NS / packet_ns(belief_bps)), 4 * last_packets)
    return Series(1, following) if following > last_packets * 5 // 4 else None


def steady(belief_bps: float, most_packets: int, is_quick: bool) -> Series:
    """Trains of full length, for the capacity; arguments as for `ramp`."""
    packets = min(longest_packets(belief_bps), max(SHORTEST, most_packets))
    if is_quick:
        return Series(3, packets)
    if belief_bps > FAST_BPS:
        return Series(MOST_STEADY, packets)
    affordable = STEADY_BYTES // (packets * PACKET_BYTES)
    return Series(max(LEAST_STEADY, min(MOST_STEADY, affordable)), packets)


def beyond(knee_packets: int, most_packets: int = LONGEST) -> Series:
    """Trains that empty a token bucket, and what follows them for a while.

    Args:
        knee_packets: How many packets a full bucket lets pass.
        most_packets: Longer ones are not wanted.
    """
    # The bucket was not full when the knee was seen: trains before had used a part of it.
    return Series(BUCKET_TRAINS, min(most_packets, knee_packets * 4 // 3 + BUCKET_TAIL))


def paced(
    belief_bps: float,
    found: Capacity,
    window_ns: int,
    is_quick: bool,
    most_packets: int = LONGEST,
) -> Series:
    """Trains offered at the capacity, for what is available of it.

    Args:
        belief_bps: The capacity.
        found: What the trains before said of the link.
        window_ns: The time they are spread over: trains take at most a tenth of it, so that the
            small probes between them see the path without them.
        is_quick: Whether a rough answer is wanted soon.
        most_packets: Longer ones are not wanted.
    """
    gap_ns = packet_ns(belief_bps)
    span_ns: float
    if found.kind is LinkKind.CONTENTION:
        # Every access of such a link carries dozens of packets: long trains, and few of them.
        return Series(4, most_packets)
    if found.kind is LinkKind.BUCKET:
        return Series(0, PACED_PACKETS)
    longest = max(LEAST_PACED, int(LONGEST_PACED_NS / gap_ns))
    span_ns = max(PACED_NS, CLUMPS * found.clump_ns)
    packets = max(PACED_PACKETS, min(most_packets, int(span_ns / gap_ns)))
    packets = min(packets, longest, most_packets)
    span_ns = packets * gap_ns
    count = MOST_PACED_FAST
    if belief_bps <= FAST_BPS:
        count = min(MOST_PACED, PACED_BYTES // (packets * PACKET_BYTES))
    count = min(count, int(window_ns / 10 / span_ns))
    return Series(max(4, count // (3 if is_quick else 1)), packets, round(gap_ns))


def affordable(series: Series, left_bytes: float) -> Series:
    """As many trains of a kind as some bytes pay; no more than are wanted."""
    count = min(series.count, left_bytes / (series.packets * PACKET_BYTES))
    return replace(series, count=int(count))


def probes_per_second(
    belief_bps: float | None, probe_bytes: int, most_bps: float = math.inf
) -> int:
    """How many small probes a second.

    Args:
        belief_bps: The capacity.
        probe_bytes: The size of each.
        most_bps: What they may cost together.
    """
    if belief_bps is None:
        return FIRST_PROBES
    share = PROBE_SHARE_SLOW if belief_bps < SLOW_BPS else PROBE_SHARE
    wanted = max(LEAST_PROBES, min(MOST_PROBES, int(share * belief_bps / (8 * probe_bytes))))
    return max(FEWEST_PROBES, int(min(wanted, most_bps / (8 * probe_bytes))))

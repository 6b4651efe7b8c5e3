"""Samples made from a known truth, for the estimators' tests.

A queue is computed by Lindley's recursion and nothing else, so that the answers do not depend on
the lab's model of a path.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from random import Random

from openqwave.estimate.samples import Gap, Train

US, MS, S = 1_000, 1_000_000, 1_000_000_000
MBIT = 1_000_000
FULL_BYTES = 1500
# Both clocks read something like this, decades from 0 and from each other.
NOW_NS = 1_700_000_000 * S
OFFSET_NS = 86_400 * S
ONE_WAY_NS = 5 * MS
SENDING_NS = 1_500


def packet_ns(rate_bps: float, size_bytes: int = FULL_BYTES) -> float:
    """What a packet takes at a rate."""
    return size_bytes * 8e9 / rate_bps


def poisson(rate_bps: float, random: Random, size_bytes: int = FULL_BYTES) -> Iterator[float]:
    """Times of packets that come at random; none at rate 0."""
    now_ns = 0.0
    while rate_bps:
        now_ns += random.expovariate(1 / packet_ns(rate_bps, size_bytes))
        yield now_ns


def constant(rate_bps: float, random: Random, size_bytes: int = FULL_BYTES) -> Iterator[float]:
    """Times of packets that come equally spaced; none at rate 0."""
    if rate_bps:
        spacing_ns = packet_ns(rate_bps, size_bytes)
        yield from itertools.count(random.random() * spacing_ns, spacing_ns)


class Queue:
    """A queue with a rate that others use as well: first come, first served, endless.

    Args:
        rate_bps: Of the link.
        others: When packets of others come.
        others_bytes: Their size.
    """

    def __init__(
        self, rate_bps: float, others: Iterator[float], others_bytes: int = FULL_BYTES
    ) -> None:
        self._rate_bps = rate_bps
        self._others = others
        self._others_ns = packet_ns(rate_bps, others_bytes)
        self._next_ns = next(others, float("inf"))
        self._free_ns = 0.0

    def wait_ns(self, at_ns: float) -> float:
        """How long a packet would wait that came at a time; times do not go back."""
        while self._next_ns <= at_ns:
            self._free_ns = max(self._free_ns, self._next_ns) + self._others_ns
            self._next_ns = next(self._others, float("inf"))
        return max(0.0, self._free_ns - at_ns)

    def send(self, at_ns: float, size_bytes: int = FULL_BYTES) -> float:
        """When a packet has left that comes at a time."""
        self._free_ns = at_ns + self.wait_ns(at_ns) + packet_ns(self._rate_bps, size_bytes)
        return self._free_ns


def train(
    deltas_ns: Sequence[float],
    *,
    gap_ns: int = 0,
    at_ns: int = 0,
    packet_bytes: int = FULL_BYTES,
    spacing_ns: float | None = None,
) -> Train:
    """A train that left in time and arrived with some spacings."""
    if spacing_ns is None:
        spacing_ns = gap_ns or SENDING_NS
    sent = tuple(NOW_NS + at_ns + round(turn * spacing_ns) for turn in range(len(deltas_ns) + 1))
    return Train(packet_bytes, gap_ns, sent, tuple(map(round, deltas_ns)))


def lost_train(packets: int, *, gap_ns: int = 0, at_ns: int = 0) -> Train:
    """A train of which nothing was heard."""
    whole = train([0.0] * (packets - 1), gap_ns=gap_ns, at_ns=at_ns)
    return Train(whole.packet_bytes, gap_ns, whole.sent_ns)


def passed(
    *queues: Queue,
    packets: int,
    at_ns: float,
    spacing_ns: float = SENDING_NS,
    gap_ns: int = 0,
    noise: Random | None = None,
    noise_ns: float = 5 * US,
) -> Train:
    """A train that was sent at a time through one queue after the other.

    Stamps are late by `noise_ns` on average, exponentially, and keep the order.
    """
    arrivals = [at_ns + turn * spacing_ns for turn in range(packets)]
    for queue in queues:
        arrivals = [queue.send(time_ns) for time_ns in arrivals]
    if noise is not None:
        late = [time_ns + noise.expovariate(1 / noise_ns) for time_ns in arrivals]
        arrivals = list(itertools.accumulate(late, max))
    deltas = [other - one for one, other in itertools.pairwise(arrivals)]
    return train(deltas, gap_ns=gap_ns, at_ns=round(at_ns), spacing_ns=spacing_ns)


def gap(
    sequence: int,
    at_ns: float,
    there_ns: float = 0.0,
    back_ns: float = 0.0,
    *,
    offset_ns: float = OFFSET_NS,
    packet_bytes: int = 60,
) -> Gap:
    """A small probe that waited on both ways, beyond the line's delay.

    Args:
        sequence: Its number.
        at_ns: When it left, from the start.
        there_ns: What it waited on the way to the sink.
        back_ns: And back.
        offset_ns: What the sink's clock reads more, while the probe is under way.
        packet_bytes: Its size.
    """
    sent_ns = NOW_NS + round(at_ns)
    reached_ns = sent_ns + ONE_WAY_NS + round(there_ns)
    left_ns = reached_ns + 20 * US
    return Gap(
        sequence,
        packet_bytes,
        sent_ns,
        reached_ns + round(offset_ns),
        left_ns + round(offset_ns),
        left_ns + ONE_WAY_NS + round(back_ns),
    )


def lost_gap(sequence: int, at_ns: float, *, packet_bytes: int = 60) -> Gap:
    """A small probe that did not come back."""
    return Gap(sequence, packet_bytes, NOW_NS + round(at_ns))


def random_times(per_second: float, seconds: float, random: Random) -> list[float]:
    """When small probes leave: at random, with a mean rate."""
    times, now_ns = [], 0.0
    while (now_ns := now_ns + random.expovariate(per_second / S)) < seconds * S:
        times.append(now_ns)
    return times

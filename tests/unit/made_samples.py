"""Samples made from a known truth, for the estimators' tests.

A queue is computed by Lindley's recursion and nothing else, so that the answers do not depend on
the lab's model of a path.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from random import Random

from openqwave.estimate.samples import Gap, Sample, Train

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


Others = Callable[[float, Random], Iterator[float]]


def left_over(
    rate_bps: float, load: float, seconds: float, random: Random, others: Others = poisson
) -> float:
    """The share of the time that others leave; the same by the same seed as a queue is given."""
    came = others(load * rate_bps, random)
    count = sum(1 for _ in itertools.takewhile(lambda at_ns: at_ns < seconds * S, came))
    return 1 - count * packet_ns(rate_bps) / (seconds * S)


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


def measured(
    rate_bps: int,
    load: float = 0.0,
    *,
    seed: int = 1,
    elsewhere: Queue | None = None,
    noise_ns: float = 5 * US,
    probe_bytes: int = 60,
) -> list[Sample]:
    """A whole measurement through a queue that others use, in the order of sending.

    Pairs and long trains back to back in the first 0.4 s, then paced ones until 2.7 s, and small
    probes all the time, which also wait in a queue elsewhere that trains do not meet.
    """
    random = Random(seed)
    queue = Queue(rate_bps, poisson(load * rate_bps, Random(seed + 100)))
    gap_ns = round(packet_ns(rate_bps))
    long = max(3, min(40, int(8 * MS / gap_ns)))
    agenda: list[tuple[float, int, int]] = []
    for turn, packets in enumerate([2, 2, 2, 2, 8, *[long] * 6]):
        agenda.append((20.0 * MS + 32.0 * MS * turn, packets, 0))
    # Paced trains take a tenth of the time.
    paced = max(5, min(17, int(8 * MS / gap_ns)))
    count = min(20, int(230 * MS / (paced * gap_ns)))
    agenda += [
        (400 * MS + 2300 * MS * (turn + random.random() / 2) / count, paced, gap_ns)
        for turn in range(count)
    ]
    agenda += [(at_ns, 0, 0) for at_ns in random_times(300, 2.7, random)]
    samples: list[Sample] = []
    busy_until_ns = 0.0
    for number, (at_ns, packets, spacing_ns) in enumerate(sorted(agenda)):
        if packets:
            samples.append(
                passed(
                    queue,
                    packets=packets,
                    at_ns=at_ns,
                    spacing_ns=spacing_ns or SENDING_NS,
                    gap_ns=spacing_ns,
                    noise=random,
                    noise_ns=noise_ns,
                )
            )
            busy_until_ns = at_ns + packets * (spacing_ns or SENDING_NS)
        elif at_ns > busy_until_ns:
            # Nothing else is sent while a train is.
            there_ns = queue.wait_ns(at_ns) + random.expovariate(1 / noise_ns)
            if elsewhere is not None:
                there_ns += elsewhere.wait_ns(at_ns)
            back_ns = random.expovariate(1 / noise_ns)
            samples.append(gap(number, at_ns, there_ns, back_ns, packet_bytes=probe_bytes))
    return samples

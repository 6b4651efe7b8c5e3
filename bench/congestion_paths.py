"""Simulated paths for `congestion.py`: overloads that come and go, and a steady load.

The lab's model of a link, without hosts: small probes leave at random moments, 100 a second, and
the watch's train of eight packets once a second; stamps are late by a few microseconds. On the link
is a stream that holds 8 Mbit/s, and the packets of others, at random.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from bench.congestion_rules import MS, S, Sample
from bench.congestion_score import SETTLED_NS, Onset
from openqwave.estimate.samples import Gap
from openqwave.lab.links import Cross, CrossKind, PathSpec, Stage
from openqwave.lab.pathmodel import PathModel

MBIT = 1_000_000
LINK_BPS, OWN_BPS, OWN_BYTES = 20 * MBIT, 8 * MBIT, 1228
# 100 ms of the link, as home routers' queues are.
QUEUE_BYTES = LINK_BPS // 8 // 10
DELAY_NS = 5 * MS
LOADS = (1.05, 1.2, 1.5, 2.0)
STEADY_LOAD = 0.85
OVERLOAD_NS = 3 * S
# From one onset to the next, at least, and as much as that again at random.
EVERY_NS, MORE_NS = 8 * S, 2 * S

PER_SECOND, PROBE_BYTES = 100, 60
TRAIN_PACKETS, TRAIN_BYTES, TRAIN_SPACING_NS = 8, 1500, 1_500
LOST_AFTER_NS, HOLDING_NS, LATE_NS = 200 * MS, 20_000, 5_000
EPOCH_NS = 1_795_651_200 * S
# A probe that took no longer than this beyond the least found no queue.
EMPTY_NS = MS


def stage(*cross: Cross) -> Stage:
    """The link on the way there."""
    return Stage(rate_bps=LINK_BPS, queue_bytes=QUEUE_BYTES, delay_ns=DELAY_NS, cross=cross)


def others(load: float, start_ns: int = 0, stop_ns: int | None = None) -> Cross:
    """What others send, such that the stream and they make a load."""
    rate_bps = round(load * LINK_BPS) - OWN_BPS
    return Cross(CrossKind.POISSON, rate_bps, start_ns=start_ns, stop_ns=stop_ns)


def _own() -> Cross:
    return Cross(CrossKind.CONSTANT, OWN_BPS, packet_bytes=OWN_BYTES)


def emptied_ns(times: Sequence[tuple[int, int]], least_ns: int, after_ns: int) -> int | None:
    """When the queue was first empty: the packet that found it so left then.

    Args:
        times: When packets left, and their delays; in order.
        least_ns: The delay without a queue.
        after_ns: From when on to look.
    """
    for sent_ns, delay_ns in times:
        if sent_ns >= after_ns and delay_ns < least_ns + EMPTY_NS:
            return sent_ns
    return None


def overloads(count: int, seed: int) -> tuple[list[Sample], list[Onset], list[tuple[int, int]]]:
    """A path with so many onsets; its samples, the onsets, and the times without a queue."""
    source = random.Random(f"overloads {seed}")
    planned: list[tuple[float, int]] = []
    time_ns = 2 * EVERY_NS
    for number in range(count):
        planned.append((LOADS[number % len(LOADS)], time_ns))
        time_ns += EVERY_NS + source.randrange(MORE_NS)
    cross = [others(load, at_ns, at_ns + OVERLOAD_NS) for load, at_ns in planned]
    samples = probe(stage(_own(), *cross), time_ns, seed)
    times = sorted((one.sent_ns, one.delay_ns) for one in samples if one.delay_ns)
    least_ns = min(delay_ns for _, delay_ns in times)
    onsets = []
    for load, at_ns in planned:
        ended_ns = emptied_ns(times, least_ns, at_ns + OVERLOAD_NS)
        if ended_ns is None:
            raise RuntimeError("the queue did not drain")
        onsets.append(Onset(load, at_ns, at_ns + OVERLOAD_NS, ended_ns))
    return samples, onsets, between(onsets, EVERY_NS // 2, time_ns)


def between(onsets: Sequence[Onset], begin_ns: int, end_ns: int) -> list[tuple[int, int]]:
    """From when until when there is no overload, and the last one is over."""
    begins = [begin_ns, *(one.emptied_ns + SETTLED_NS for one in onsets)]
    ends = [*(one.onset_ns for one in onsets), end_ns]
    return list(zip(begins, ends, strict=True))


def steady(minutes: float, seed: int) -> tuple[list[Sample], list[tuple[int, int]]]:
    """A path at a steady load, all of it at random, which is harder than with a paced stream."""
    cross = Cross(CrossKind.POISSON, round(STEADY_LOAD * LINK_BPS))
    end_ns = round(minutes * 60 * S) + 5 * S
    return probe(stage(cross), end_ns, seed), [(5 * S, end_ns)]


def probe(there: Stage, end_ns: int, seed: int) -> list[Sample]:
    """Send probes and trains; samples come in the order of completion."""
    source = random.Random(f"probes {seed}")
    agenda: list[tuple[int, bool]] = []
    time_ns = 0.0
    while (time_ns := time_ns + source.expovariate(PER_SECOND / S)) < end_ns:
        agenda.append((int(time_ns), True))
    for start_ns in range(S // 2, end_ns, S):
        first_ns = start_ns + source.randrange(100 * MS)
        agenda += [(first_ns + turn * TRAIN_SPACING_NS, False) for turn in range(TRAIN_PACKETS)]
    agenda.sort()
    way = PathModel(PathSpec((there,)), seed)
    for number, (sent_ns, is_probe) in enumerate(agenda):
        way.offer(sent_ns, number, PROBE_BYTES if is_probe else TRAIN_BYTES)
    came = {number: due_ns for due_ns, number in way.deliver(end_ns + 60 * S)}
    samples = []
    for number, (sent_ns, is_probe) in enumerate(agenda):
        if not is_probe:
            continue
        gap = Gap(number, PROBE_BYTES, EPOCH_NS + sent_ns)
        if number not in came:
            samples.append(Sample(sent_ns + LOST_AFTER_NS, sent_ns, 0, gap))
            continue
        reached_ns = came[number] + round(source.expovariate(1 / LATE_NS))
        back_ns = reached_ns + HOLDING_NS + DELAY_NS + round(source.expovariate(1 / LATE_NS))
        gap = Gap(
            number,
            PROBE_BYTES,
            EPOCH_NS + sent_ns,
            EPOCH_NS + reached_ns,
            EPOCH_NS + reached_ns + HOLDING_NS,
            EPOCH_NS + back_ns,
        )
        samples.append(Sample(back_ns, sent_ns, reached_ns - sent_ns, gap))
    return sorted(samples, key=lambda one: one.at_ns)

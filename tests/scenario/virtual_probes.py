"""Small probes through a simulated path, without sessions: what a detector is fed for minutes.

Probes leave at random moments, and once a second the watch's train, whose packets only take their
place in the queue. Both directions are the lab's model; stamps are late as with `virtual.Hosts`,
and the clocks are those that it names. Probes come in the order of completion: one that is lost
when it has been waited for, as `probing.gaps` does at the least.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from openqwave.estimate.congestion import PathCongestion
from openqwave.estimate.samples import Gap
from openqwave.lab.links import PathSpec, Stage
from openqwave.lab.pathmodel import PathModel
from openqwave.model.estimates import Congestion
from tests.scenario.virtual import EPOCH_NS, MS, Hosts, S

PROBE_BYTES, TRAIN_BYTES = 60, 1500
LOST_AFTER_NS = 200 * MS
HOLDING_NS = 20_000
PLAIN_BACK = Stage(delay_ns=5 * MS)
ORDINARY = Hosts()


@dataclass(frozen=True)
class Probe:
    """One small probe and the truth about it.

    Attributes:
        gap: What is seen of it.
        sent_ns: When it left, from the start.
        done_ns: When it was complete.
        delay_ns: What it took to the sink; 0 if it did not get there.
    """

    gap: Gap
    sent_ns: int
    done_ns: int
    delay_ns: int


def probes(
    *there: Stage,
    seconds: float,
    seed: int,
    back: Stage = PLAIN_BACK,
    hosts: Hosts = ORDINARY,
    per_second: int = 100,
    train_ns: int = S,
    train_packets: int = 8,
) -> list[Probe]:
    """Send probes and trains for some time.

    Args:
        there: The path to the sink.
        seconds: How long.
        seed: Everything that is random follows from it.
        back: The way back.
        hosts: What they do to stamps and clocks.
        per_second: How many probes, on average.
        train_ns: From one train to the next.
        train_packets: Of each train; 0 for none.
    """
    source = random.Random(seed)
    end_ns = round(seconds * S)
    agenda = [(time_ns, True) for time_ns in _moments(source, per_second, end_ns)]
    for start_ns in range(S // 2, end_ns if train_packets else 0, train_ns):
        first_ns = start_ns + source.randrange(100 * MS)
        agenda += [(first_ns + turn * hosts.sending_ns, False) for turn in range(train_packets)]
    agenda.sort()
    way = PathModel(PathSpec(there), seed)
    for number, (time_ns, is_probe) in enumerate(agenda):
        way.offer(time_ns, number, PROBE_BYTES if is_probe else TRAIN_BYTES)
    came = _arrivals(way, end_ns, source, hosts, {n for n, (_, one) in enumerate(agenda) if one})
    home = PathModel(PathSpec((back,)), seed + 1)
    for number, (_, stamp_ns) in came.items():
        home.offer(stamp_ns + HOLDING_NS, number, PROBE_BYTES)
    returned = _arrivals(home, end_ns, source, hosts, set(came))
    done = []
    for number, (time_ns, is_probe) in enumerate(agenda):
        if not is_probe:
            continue
        gap = Gap(number, PROBE_BYTES, EPOCH_NS + time_ns)
        done_ns, delay_ns = time_ns + LOST_AFTER_NS, 0
        if number in came:
            delay_ns = came[number][0] - time_ns
        if number in returned:
            reached_ns = came[number][1]
            done_ns = returned[number][1]
            gap = replace(
                gap,
                sink_received_ns=sink_clock(hosts, reached_ns),
                sink_sent_ns=sink_clock(hosts, reached_ns + HOLDING_NS),
                received_ns=EPOCH_NS + done_ns,
            )
        done.append(Probe(gap, time_ns, done_ns, delay_ns))
    return sorted(done, key=lambda probe: probe.done_ns)


def _moments(source: random.Random, per_second: int, end_ns: int) -> Iterator[int]:
    time_ns = 0.0
    while (time_ns := time_ns + source.expovariate(per_second / S)) < end_ns:
        yield int(time_ns)


def _arrivals(
    way: PathModel, end_ns: int, source: random.Random, hosts: Hosts, wanted: set[int]
) -> dict[int, tuple[int, int]]:
    """When each came out and its stamp, which keeps the order."""
    found: dict[int, tuple[int, int]] = {}
    last_ns = 0
    for due_ns, number in way.deliver(end_ns + 60 * S):
        if number in wanted and isinstance(number, int):
            late_ns = round(source.expovariate(1 / hosts.lateness_ns))
            if source.random() < hosts.stall:
                late_ns += source.randrange(hosts.stall_ns)
            last_ns = max(last_ns, due_ns + late_ns)
            found.setdefault(number, (due_ns, last_ns))
    return found


def sink_clock(hosts: Hosts, time_ns: int) -> int:
    """What the sink's clock reads at a time, as in `virtual`."""
    stepped_ns = hosts.step_ns if hosts.step_ns and time_ns >= hosts.step_at_ns else 0
    return EPOCH_NS - 3 * S + time_ns + round(time_ns * hosts.drift_ppm / 1e6) + stepped_ns


def set_here(all_probes: Iterable[Probe], at_ns: int, step_ns: int) -> list[Probe]:
    """The same where this host's clock was set at a time, also for probes under way."""

    def stepped(probe: Probe) -> Probe:
        gap = probe.gap
        if probe.sent_ns >= at_ns:
            gap = replace(gap, sent_ns=gap.sent_ns + step_ns)
        if not gap.is_lost and probe.done_ns >= at_ns:
            gap = replace(gap, received_ns=gap.received_ns + step_ns)
        return replace(probe, gap=gap)

    # What came back before it was sent is no sample (`probing.gaps`).
    return [
        one
        for one in map(stepped, all_probes)
        if one.gap.is_lost or one.gap.received_ns >= one.gap.sent_ns
    ]


@dataclass(frozen=True)
class Told:
    """A verdict that differs from the one before, and when it was told."""

    at_ns: int
    verdict: Congestion


def judged(
    all_probes: Iterable[Probe], capacity_bps: int | None, judge: PathCongestion | None = None
) -> list[Told]:
    """What is told as the probes come back: first that the path is known, as a rule."""
    judge = judge or PathCongestion()
    judge.set_capacity_bps(capacity_bps)
    told: list[Told] = []
    last: bool | None = None
    for probe in all_probes:
        judge.observe(probe.gap)
        verdict = judge.verdict
        if verdict.is_congested is not last:
            last = verdict.is_congested
            told.append(Told(probe.done_ns, verdict))
    return told

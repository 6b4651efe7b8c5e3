"""Congestion told through simulated paths: when, when it is over, and not without cause."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise
from statistics import median

import pytest

from openqwave.lab.links import Contention, Cross, CrossKind, Stage, TokenBucket
from openqwave.model.estimates import CongestionReason
from tests.scenario.virtual import MS, Hosts, S
from tests.scenario.virtual_paths import MBIT, cross, link
from tests.scenario.virtual_probes import Probe, Told, judged, probes, set_here

RATE = 20 * MBIT
KINDS = (CrossKind.POISSON, CrossKind.CONSTANT)
ONSET_NS, END_NS = 5 * S, 8 * S
STILL = [False]
ONCE = [False, True, False]


def verdicts(told: list[Told]) -> list[bool | None]:
    return [one.verdict.is_congested for one in told]


def loaded(
    load: float,
    before: float = 0.0,
    kind: CrossKind = CrossKind.POISSON,
    *,
    rate_bps: int = RATE,
    queue_ms: int = 50,
    start_ns: int = ONSET_NS,
    stop_ns: int = END_NS,
) -> Stage:
    """A link whose load rises for some time."""
    more = Cross(kind, round((load - before) * rate_bps), start_ns=start_ns, stop_ns=stop_ns)
    stage = link(rate_bps, before, queue_ms=queue_ms)
    return replace(stage, cross=(*stage.cross, more))


def emptied_ns(all_probes: list[Probe], after_ns: int) -> int:
    """When the queue was first empty again: the probe that found it so left then."""
    least_ns = min(one.delay_ns for one in all_probes if one.delay_ns)
    return min(
        one.sent_ns
        for one in all_probes
        if one.sent_ns >= after_ns and 0 < one.delay_ns < least_ns + MS
    )


# -- onset and relief -----------------------------------------------------------------


@cache
def onsets(load: float) -> tuple[list[float], list[float]]:
    """In milliseconds: from the onset until it is told, and from the empty queue likewise."""
    on: list[float] = []
    off: list[float] = []
    for seed, kind in enumerate(KINDS * 4):
        for before in (0.0, 0.5, 0.85):
            sent = probes(loaded(load, before, kind), seconds=10, seed=seed)
            told = judged(sent, RATE)
            assert verdicts(told[:2]) == [False, True]
            assert told[1].verdict.reason is CongestionReason.DELAY
            assert told[1].at_ns > ONSET_NS
            assert told[-1].verdict.is_congested is False
            on.append((told[1].at_ns - ONSET_NS) / MS)
            if verdicts(told) == ONCE:
                off.append((told[-1].at_ns - emptied_ns(sent, END_NS)) / MS)
    return on, off


# At 105 % the queue grows by 50 ms in a second, and by chance it wanders by as much.
@pytest.mark.parametrize(
    ("load", "median_ms", "worst_ms"),
    [(1.05, 450, 1300), (1.1, 320, 800), (1.2, 240, 450), (1.5, 180, 260), (2.0, 150, 220)],
)
def test_overload_is_told_soon(load: float, median_ms: float, worst_ms: float) -> None:
    on, _ = onsets(load)
    assert median(on) < median_ms
    assert max(on) < worst_ms


def test_half_of_all_overloads_are_told_in_a_fifth_of_a_second() -> None:
    assert median(time for load in (1.05, 1.1, 1.2, 1.5, 2.0) for time in onsets(load)[0]) < 230


@pytest.mark.parametrize("load", [1.05, 1.1, 1.2, 1.5, 2.0])
def test_relief_is_told_soon_after_the_queue_is_empty(load: float) -> None:
    _, off = onsets(load)
    # At 105 % the queue may be empty in between.
    assert len(off) >= 16
    assert max(off) < 400


@pytest.mark.parametrize("load", [1.1, 1.5])
def test_fewer_probes_tell_the_same_later(load: float) -> None:
    for seed in range(6):
        stage = loaded(load, 0.5, KINDS[seed % 2])
        told = judged(probes(stage, seconds=10, seed=seed, per_second=20, train_ns=5 * S), RATE)
        assert verdicts(told) == ONCE
        assert told[1].at_ns < ONSET_NS + S
        assert told[2].at_ns < END_NS + 1500 * MS


@pytest.mark.parametrize(
    ("rate_bps", "per_second", "within_ms"), [(1, 7, 3000), (5, 50, 1500), (100, 100, 300)]
)
def test_other_rates_in_their_own_time(rate_bps: int, per_second: int, within_ms: int) -> None:
    for seed in range(3):
        stage = loaded(1.3, 0.3, rate_bps=rate_bps * MBIT, queue_ms=400, stop_ns=15 * S)
        # A train of eight is a tenth of a second's traffic at 1 Mbit/s; the watch's is shorter.
        count = 8 if rate_bps > 5 else 0
        sent = probes(stage, seconds=22, seed=seed, per_second=per_second, train_packets=count)
        told = judged(sent, rate_bps * MBIT)
        assert verdicts(told) == ONCE
        assert told[1].at_ns < ONSET_NS + within_ms * MS


# -- no false notice ------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "seed"), [(KINDS[0], 1), (KINDS[0], 2), (KINDS[1], 3)])
def test_ten_minutes_of_much_load_are_no_congestion(kind: CrossKind, seed: int) -> None:
    sent = probes(link(RATE, 0.85, kind, queue_ms=300), seconds=600, seed=seed)
    assert verdicts(judged(sent, RATE)) == STILL


JITTERY = link(RATE, 0.5)
STEADY: dict[str, tuple[Stage, Stage | None, Hosts]] = {
    "idle": (link(RATE), None, Hosts()),
    "jitter": (
        replace(JITTERY, jitter_ns=16 * MS),
        Stage(delay_ns=5 * MS, jitter_ns=16 * MS),
        Hosts(),
    ),
    "much jitter": (
        replace(JITTERY, jitter_ns=40 * MS),
        Stage(delay_ns=5 * MS, jitter_ns=40 * MS),
        Hosts(),
    ),
    "loss": (replace(link(RATE, 0.85), loss=0.01), None, Hosts()),
    "much loss": (
        replace(link(RATE, 0.5), loss=0.025),
        Stage(delay_ns=5 * MS, loss=0.025),
        Hosts(),
    ),
    "fast clock": (link(RATE, 0.85), None, Hosts(drift_ppm=500)),
    "slow clock": (link(RATE, 0.85), None, Hosts(drift_ppm=-500)),
    "bucket": (
        Stage(
            rate_bps=100 * MBIT,
            bucket=TokenBucket(RATE, 64_000),
            queue_bytes=125_000,
            delay_ns=5 * MS,
            cross=cross(RATE, 0.85),
        ),
        None,
        Hosts(),
    ),
    "bursts": (link(RATE, 0.5, CrossKind.ONOFF), None, Hosts()),
    "stalls": (link(RATE, 0.5), None, Hosts(stall=0.05, stall_ns=5 * MS)),
    "coalesced": (replace(link(RATE, 0.5), coalesce_ns=MS), None, Hosts()),
}


@pytest.mark.parametrize("name", STEADY)
@pytest.mark.parametrize("capacity_bps", [RATE, None])
def test_a_path_that_is_as_ever_is_not_congested(name: str, capacity_bps: int | None) -> None:
    there, back, hosts = STEADY[name]
    sent = probes(there, seconds=100, seed=11, back=back or Stage(delay_ns=5 * MS), hosts=hosts)
    assert verdicts(judged(sent, capacity_bps)) == STILL


@pytest.mark.parametrize("stations", [1, 2, 3])
def test_waiting_for_a_turn_is_no_congestion(stations: int) -> None:
    stage = Stage(
        rate_bps=100 * MBIT,
        contention=Contention(),
        delay_ns=5 * MS,
        cross=tuple(Cross(CrossKind.POISSON, 60 * MBIT) for _ in range(stations)),
    )
    sent = probes(stage, seconds=30, seed=stations)
    assert verdicts(judged(sent, 40 * MBIT)) == STILL


@pytest.mark.parametrize("step_ms", [-3000, -100, -15, 15, 100, 3000])
def test_a_clock_that_is_set_is_no_congestion(step_ms: int) -> None:
    hosts = Hosts(step_at_ns=12 * S, step_ns=step_ms * MS)
    assert (
        verdicts(judged(probes(link(RATE, 0.85), seconds=30, seed=4, hosts=hosts), RATE)) == STILL
    )
    far = replace(link(RATE, 0.5), delay_ns=60 * MS)
    sent = set_here(probes(far, seconds=30, seed=5), 12 * S, step_ms * MS)
    assert verdicts(judged(sent, RATE)) == STILL


def test_one_burst_on_an_idle_link_is_none() -> None:
    burst = Cross(CrossKind.CONSTANT, 100 * MBIT, start_ns=ONSET_NS, stop_ns=ONSET_NS + 12 * MS)
    longest_ns = 0
    for seed in range(10):
        sent = probes(replace(link(RATE, queue_ms=60), cross=(burst,)), seconds=10, seed=seed)
        longest_ns = max(longest_ns, *(one.delay_ns for one in sent))
        assert verdicts(judged(sent, RATE)) == STILL
    assert longest_ns > 50 * MS


def test_one_burst_at_much_load_is_told_once_at_most() -> None:
    # It takes a third of a second to drain.
    burst = Cross(CrossKind.CONSTANT, 100 * MBIT, start_ns=ONSET_NS, stop_ns=ONSET_NS + 12 * MS)
    for seed in range(5):
        stage = link(RATE, 0.85, queue_ms=60)
        sent = probes(replace(stage, cross=(*stage.cross, burst)), seconds=10, seed=seed)
        assert verdicts(judged(sent, RATE)) in (STILL, ONCE)


@pytest.mark.parametrize("load", [0.95, 1.0])
def test_what_hovers_at_the_level_changes_seldom(load: float) -> None:
    changes = 0
    for seed in range(4):
        sent = probes(link(RATE, load, queue_ms=200), seconds=60, seed=seed)
        told = judged(sent, RATE)
        changes += len(told) - 1
        for one, other in pairwise(told):
            if one.verdict.is_congested:
                assert other.at_ns - one.at_ns > 200 * MS
    # Once in five seconds, where the queue itself comes and goes.
    assert changes < 48


# -- what stands ----------------------------------------------------------------------

TWO_MINUTES = loaded(1.2, 0.3, CrossKind.CONSTANT, start_ns=5 * S, stop_ns=125 * S)


@pytest.mark.parametrize(
    "hosts",
    [
        Hosts(),
        Hosts(drift_ppm=500),
        Hosts(drift_ppm=-500),
        Hosts(step_at_ns=60 * S, step_ns=100 * MS),
        Hosts(step_at_ns=60 * S, step_ns=-100 * MS),
        Hosts(step_at_ns=60 * S, step_ns=-25 * MS),
    ],
    ids=["still", "fast", "slow", "forward", "backward", "a little backward"],
)
def test_a_full_flat_queue_stays_congested(hosts: Hosts) -> None:
    told = judged(probes(TWO_MINUTES, seconds=130, seed=6, hosts=hosts), RATE)
    assert verdicts(told) == ONCE
    assert told[2].at_ns > 125 * S
    assert told[2].at_ns < 126 * S


def test_few_probes_stand_a_step_as_well() -> None:
    hosts = Hosts(step_at_ns=60 * S, step_ns=-100 * MS)
    sent = probes(TWO_MINUTES, seconds=130, seed=6, hosts=hosts, per_second=20)
    told = judged(sent, RATE)
    assert verdicts(told) == ONCE
    assert told[2].at_ns > 125 * S


def test_a_bucket_runs_out() -> None:
    stage = Stage(
        rate_bps=100 * MBIT,
        bucket=TokenBucket(RATE, 250_000),
        queue_bytes=125_000,
        delay_ns=5 * MS,
        cross=(*cross(RATE, 0.5), Cross(CrossKind.POISSON, RATE, start_ns=20 * S, stop_ns=25 * S)),
    )
    told = judged(probes(stage, seconds=30, seed=3), RATE)
    assert verdicts(told) == ONCE
    # The credit of 250 kB lasts for 0.2 s.
    assert 20 * S < told[1].at_ns < 20.7 * S


def test_overload_shows_through_jitter() -> None:
    back = Stage(delay_ns=5 * MS, jitter_ns=16 * MS)
    for seed in range(5):
        stage = replace(loaded(1.2), jitter_ns=16 * MS)
        told = judged(probes(stage, seconds=12, seed=seed, back=back), RATE)
        assert verdicts(told) == ONCE
        assert told[1].at_ns < ONSET_NS + 600 * MS
        assert told[2].at_ns < END_NS + 1500 * MS


def test_the_way_back_is_another_path() -> None:
    sent = probes(link(RATE, 0.3), seconds=12, seed=7, back=loaded(1.5))
    assert max(one.done_ns - one.sent_ns for one in sent) > 55 * MS
    assert verdicts(judged(sent, RATE)) == STILL
    sent = probes(loaded(1.5), seconds=14, seed=7, back=loaded(1.5, start_ns=7 * S, stop_ns=11 * S))
    told = judged(sent, RATE)
    assert verdicts(told) == ONCE
    assert told[2].at_ns < END_NS + 600 * MS


# -- losses ---------------------------------------------------------------------------


def lossy(share: float, seed: int) -> list[Probe]:
    """A path that loses more for five seconds, without a queue."""
    calm = probes(replace(link(RATE, 0.3), loss=0.01), seconds=30, seed=seed)
    bad = probes(replace(link(RATE, 0.3), loss=share), seconds=30, seed=seed)
    during = [one for one in bad if 10 * S <= one.sent_ns < 15 * S]
    others = [one for one in calm if not 10 * S <= one.sent_ns < 15 * S]
    return sorted([*others, *during], key=lambda probe: probe.done_ns)


@pytest.mark.parametrize(
    ("share", "median_ms", "worst_ms"), [(0.5, 400, 600), (0.3, 650, 900), (0.2, 1000, 2000)]
)
def test_loss_without_a_queue_is_told(share: float, median_ms: float, worst_ms: float) -> None:
    on: list[float] = []
    for seed in range(7):
        told = judged(lossy(share, seed), RATE)
        assert verdicts(told) == ONCE
        assert told[1].verdict.reason is CongestionReason.PROBE_LOSS
        on.append((told[1].at_ns - 10 * S) / MS)
        assert 15 * S < told[2].at_ns < 16.5 * S
    assert median(on) < median_ms
    assert max(on) < worst_ms


def test_losses_of_a_queue_do_not_outlast_it() -> None:
    stage = replace(loaded(2.0, 0.3), loss=0.0)
    sent = probes(stage, seconds=12, seed=8)
    # Small packets find room where large ones do not; here they are dropped alike.
    worst_ns = max(one.delay_ns for one in sent)
    dropped = [
        replace(one, gap=replace(one.gap, sink_received_ns=0, sink_sent_ns=0, received_ns=0))
        if one.delay_ns > worst_ns - 2 * MS and one.gap.sequence % 2
        else one
        for one in sent
    ]
    assert sum(one.gap.is_lost for one in dropped) > 50
    late = [
        replace(one, done_ns=one.sent_ns + 200 * MS) if one.gap.is_lost else one for one in dropped
    ]
    told = judged(sorted(late, key=lambda probe: probe.done_ns), RATE)
    assert verdicts(told) == ONCE
    assert told[1].verdict.reason is CongestionReason.DELAY
    assert told[2].at_ns - emptied_ns(sent, END_NS) < 400 * MS


def test_a_sink_that_has_gone_is_not_congestion() -> None:
    sent = [
        replace(
            one,
            done_ns=one.sent_ns + 200 * MS,
            gap=replace(one.gap, sink_received_ns=0, sink_sent_ns=0, received_ns=0),
        )
        if one.sent_ns > 5 * S
        else one
        for one in probes(link(RATE, 0.3), seconds=15, seed=9)
    ]
    assert verdicts(judged(sent, RATE)) == STILL

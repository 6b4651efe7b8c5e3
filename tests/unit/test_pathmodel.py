"""The path on its virtual clock, against formulas and against counts made here."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from dataclasses import replace
from statistics import fmean

import pytest

from openqwave.lab.crosstraffic import arrivals
from openqwave.lab.links import Contention, Cross, CrossKind, PathSpec, Stage, TokenBucket
from openqwave.lab.pathmodel import PathModel, capacity_bps, fair_share_bps

MBIT = 1_000_000
MS = 1_000_000
S = 1_000_000_000
PACKET_NS = 600_000  # 1500 bytes at 20 Mbit/s.
BURSTS = {"peak_bps": 20 * MBIT, "on_ns": 5 * MS}


def path(*stages: Stage, seed: int = 1) -> PathModel:
    return PathModel(PathSpec(stages), seed)


def run(
    model: PathModel, times_ns: Iterable[int], size_bytes: int = 1500
) -> list[tuple[int, object]]:
    """Offer numbered frames at some times, look when the model asks, return what comes out."""
    out = []
    for number, time_ns in enumerate(times_ns):
        while (due_ns := model.next_due_ns()) is not None and due_ns < time_ns:
            out += model.deliver(due_ns)
        model.offer(time_ns, number, size_bytes)
    while (due_ns := model.next_due_ns()) is not None:
        out += model.deliver(due_ns)
    return out


def times_of(out: list[tuple[int, object]]) -> list[int]:
    return [due_ns for due_ns, _ in out]


def numbers_of(out: list[tuple[int, object]]) -> list[object]:
    return [number for _, number in out]


def gaps_of(out: list[tuple[int, object]]) -> list[int]:
    return [later - sooner for sooner, later in itertools.pairwise(times_of(out))]


# -- rate, queue, delay ---------------------------------------------------------------


def test_the_rate_is_exact() -> None:
    # 1 Gbit/s, 100 bytes: 0.8 us each, which whole nanoseconds and floats both hold; 7 does not.
    for rate_bps, size_bytes in ((1000 * MBIT, 100), (7 * MBIT, 1500)):
        out = run(path(Stage(rate_bps=rate_bps, queue_bytes=10**8)), [5] * 5000, size_bytes)
        assert len(out) == 5000
        for count in (1, 1000, 5000):
            exact_ns = 5 + count * size_bytes * 8e9 / rate_bps
            assert abs(out[count - 1][0] - exact_ns) <= 1


def test_an_idle_link_delays_by_its_delay_and_the_packet_itself() -> None:
    out = run(path(Stage(rate_bps=20 * MBIT, delay_ns=10 * MS)), [0, S, 2 * S])
    assert times_of(out) == [PACKET_NS + 10 * MS + at for at in (0, S, 2 * S)]


def test_without_a_rate_nothing_waits() -> None:
    model = path(Stage(delay_ns=3 * MS))
    assert times_of(run(model, [0, 0, 1])) == [3 * MS, 3 * MS, 3 * MS + 1]
    truth = model.truth(0, S)
    assert (truth.capacity_bps, truth.available_bps, truth.narrow) == (0, 0, -1)


def test_nothing_is_due_before_its_time() -> None:
    model = path(Stage(rate_bps=20 * MBIT))
    assert model.next_due_ns() is None
    model.offer(0, "frame", 1500)
    assert model.next_due_ns() == PACKET_NS
    assert model.deliver(PACKET_NS - 1) == []
    assert model.deliver(PACKET_NS) == [(PACKET_NS, "frame")]
    assert model.next_due_ns() is None


def test_the_start_may_be_any_time() -> None:
    start_ns = 10**18
    stage = Stage(rate_bps=20 * MBIT, cross=(Cross(CrossKind.POISSON, 10 * MBIT),))
    late, early = PathModel(PathSpec((stage,)), 1, start_ns), path(stage)
    times_ns = [0, 7 * MS, 8 * MS]
    assert times_of(run(late, [start_ns + at for at in times_ns])) == [
        start_ns + due for due in times_of(run(early, times_ns))
    ]
    carried = late.carried(0, start_ns, start_ns + S)
    assert (carried.since_ns, carried.until_ns) == (start_ns, start_ns + S)
    assert replace(carried, since_ns=0, until_ns=S) == early.carried(0, 0, S)
    with pytest.raises(ValueError, match="the path is younger"):
        late.carried(0, start_ns - 1, start_ns + S)


def test_late_looks_change_nothing() -> None:
    stages = (
        Stage(rate_bps=20 * MBIT, delay_ns=MS, cross=(Cross(CrossKind.POISSON, 8 * MBIT),)),
        Stage(rate_bps=25 * MBIT, reorder=0.2, cross=(Cross(CrossKind.POISSON, 8 * MBIT),)),
        Stage(
            rate_bps=50 * MBIT,
            contention=Contention(aggregate_frames=4),
            cross=(Cross(CrossKind.POISSON, 8 * MBIT),),
        ),
        Stage(rate_bps=30 * MBIT, cross=(Cross(CrossKind.POISSON, 8 * MBIT),)),
    )
    times_ns = range(0, S, 3 * MS + 17)
    late = path(*stages)
    for number, time_ns in enumerate(times_ns):
        late.offer(time_ns, number, 1500)
    assert late.deliver(2 * S) == run(path(*stages), times_ns)


def test_the_next_stage_sees_exact_departures() -> None:
    out = run(path(Stage(rate_bps=20 * MBIT), Stage(rate_bps=10 * MBIT)), [0] * 10)
    assert gaps_of(out) == [2 * PACKET_NS] * 9
    assert out[0][0] == 3 * PACKET_NS
    # Behind the narrow stage a wide one leaves the spacing alone.
    out = run(path(Stage(rate_bps=10 * MBIT), Stage(rate_bps=20 * MBIT)), [0] * 10)
    assert gaps_of(out) == [2 * PACKET_NS] * 9


def test_the_queue_holds_so_many_bytes() -> None:
    model = path(Stage(rate_bps=20 * MBIT, queue_bytes=15_000))
    assert numbers_of(run(model, [0] * 20)) == list(range(10))
    # Each millisecond 2500 bytes leave: room for one packet more, then again for two.
    assert model.carried(0, 0, S).dropped == 10
    model = path(Stage(rate_bps=20 * MBIT, queue_bytes=15_000))
    assert len(run(model, [0] * 20 + [PACKET_NS] * 5)) == 11


def test_an_earlier_time_counts_as_the_latest() -> None:
    model = path(Stage(rate_bps=20 * MBIT))
    model.offer(S, 0, 1500)
    model.offer(0, 1, 1500)
    assert times_of(model.deliver(2 * S)) == [S + PACKET_NS, S + 2 * PACKET_NS]


# -- cross traffic --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "bursts", "tolerance"),
    [
        (CrossKind.CONSTANT, {}, 0.0002),
        (CrossKind.POISSON, {}, 0.015),
        (CrossKind.ONOFF, BURSTS, 0.04),
        # An infinite variance: the average of a run is a guess.
        (CrossKind.PARETO_ONOFF, BURSTS, 0.25),
    ],
)
def test_cross_traffic_has_its_average_rate(
    kind: CrossKind, bursts: dict[str, int], tolerance: float
) -> None:
    cross = Cross(kind, 8 * MBIT, 500, **bursts)
    model = path(Stage(rate_bps=100 * MBIT, queue_bytes=10**7, cross=(cross,)))
    carried = model.carried(0, 0, 30 * S)
    assert carried.cross_bps == pytest.approx(8 * MBIT, rel=tolerance)
    assert carried.cross_dropped == 0
    assert carried.frames == 0


@pytest.mark.parametrize("kind", [CrossKind.ONOFF, CrossKind.PARETO_ONOFF])
def test_bursts_run_at_their_peak(kind: CrossKind) -> None:
    cross = Cross(kind, 8 * MBIT, 500, **BURSTS)
    times = list(itertools.islice(arrivals(cross, "seed"), 20_000))
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    peak_gap_ns = 500 * 8e9 / (20 * MBIT)
    pauses = sum(gap > peak_gap_ns + 1 for gap in gaps)
    assert min(gaps) > peak_gap_ns - 1
    # 5 ms of 25 packets; some few Pareto bursts are very long.
    assert len(times) / pauses == pytest.approx(25, rel=0.25)


def test_short_bursts_have_their_average_too() -> None:
    # Half a packet's time on average: most bursts pass without any.
    cross = Cross(CrossKind.ONOFF, 8 * MBIT, 500, peak_bps=20 * MBIT, on_ns=100_000)
    model = path(Stage(rate_bps=100 * MBIT, cross=(cross,)))
    assert model.carried(0, 0, 30 * S).cross_bps == pytest.approx(8 * MBIT, rel=0.02)


def test_bursts_are_under_way_from_the_start() -> None:
    cross = Cross(CrossKind.ONOFF, 8 * MBIT, 500, **BURSTS)
    early = sum(
        sum(1 for _ in itertools.takewhile(lambda t: t < 2 * MS, arrivals(cross, f"{seed}")))
        for seed in range(3000)
    )
    assert early / 3000 == pytest.approx(8 * MBIT * 0.002 / 4000, rel=0.05)


def test_cross_traffic_starts_and_stops() -> None:
    cross = Cross(CrossKind.CONSTANT, 8 * MBIT, start_ns=S, stop_ns=2 * S)
    model = path(Stage(rate_bps=20 * MBIT, cross=(cross,)))
    assert model.carried(0, 0, S).cross_bytes == 0
    assert model.carried(0, S, 3 * S).cross_bytes == pytest.approx(MBIT, abs=1500)
    assert model.carried(0, 2 * S + 2 * MS, 3 * S).cross_bytes == 0


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_the_mean_wait_is_that_of_m_d_1(load: float) -> None:
    # Rare, tiny probes see the time average of the queue.
    cross = Cross(CrossKind.POISSON, round(20 * MBIT * load))
    model = path(Stage(rate_bps=20 * MBIT, queue_bytes=10**7, cross=(cross,)))
    source = random.Random(5)
    times_ns = list(itertools.accumulate(int(source.expovariate(1e-7)) for _ in range(20_000)))
    waits_ns = [
        out[0] - time_ns - 400
        for out, time_ns in zip(run(model, times_ns, 1), times_ns, strict=True)
    ]
    assert fmean(waits_ns) == pytest.approx(PACKET_NS * load / (2 * (1 - load)), rel=0.05)


def test_own_packets_wait_as_in_m_d_1() -> None:
    source = random.Random(6)
    times_ns = list(itertools.accumulate(int(source.expovariate(1e-6)) for _ in range(50_000)))
    out = run(path(Stage(rate_bps=20 * MBIT, queue_bytes=10**7)), times_ns)
    waits_ns = [due_ns - at - PACKET_NS for due_ns, at in zip(times_of(out), times_ns, strict=True)]
    assert fmean(waits_ns) == pytest.approx(PACKET_NS * 0.6 / (2 * 0.4), rel=0.05)


@pytest.mark.parametrize("bucket", [None, TokenBucket(20 * MBIT, 1500)])
def test_a_full_queue_drops_cross_traffic_as_well(bucket: TokenBucket | None) -> None:
    cross = (Cross(CrossKind.POISSON, 15 * MBIT), Cross(CrossKind.CONSTANT, 15 * MBIT, 300))
    rate_bps = 0 if bucket else 20 * MBIT
    model = path(Stage(rate_bps=rate_bps, bucket=bucket, queue_bytes=30_000, cross=cross))
    carried = model.carried(0, S, 11 * S)
    assert carried.cross_bps == pytest.approx(20 * MBIT, rel=0.002)
    assert carried.cross_dropped > 1000


def test_cross_traffic_leaves_behind_its_stage() -> None:
    cross = (Cross(CrossKind.CONSTANT, 10 * MBIT),)
    model = path(Stage(rate_bps=20 * MBIT, cross=cross), Stage(rate_bps=12 * MBIT))
    out = run(model, range(0, S, 2 * MS))
    # 6 Mbit/s of our own: the second stage has nothing to queue but what the first clumps.
    delays_ns = [due - 2 * MS * number for number, due in enumerate(times_of(out))]
    assert max(delays_ns) <= 2 * PACKET_NS + MS
    assert model.carried(1, 0, S).cross_bytes == 0


# -- token bucket ---------------------------------------------------------------------


def test_a_bucket_passes_its_burst_at_the_peak_and_then_its_rate() -> None:
    stage = Stage(
        rate_bps=100 * MBIT, queue_bytes=10**6, bucket=TokenBucket(10 * MBIT, burst_bytes=60_000)
    )
    gaps = gaps_of(run(path(stage), [0] * 200))
    # The burst and what flows in meanwhile: 60000 / (1 - 0.1) bytes, 44 packets.
    assert gaps[:43] == [120_000] * 43
    assert all(abs(gap - 1_200_000) <= 1 for gap in gaps[45:])
    assert 120_000 <= gaps[44] <= 1_200_000


def test_a_bucket_fills_up_again_to_its_size_and_no_more() -> None:
    stage = Stage(queue_bytes=10**6, bucket=TokenBucket(12 * MBIT, burst_bytes=15_000))
    out = run(path(stage), [0] * 20 + [100 * S] * 20)
    first = [due - 0 for due in times_of(out)[:20]]
    assert first == [0] * 10 + [MS * count for count in range(1, 11)]
    assert [due - 100 * S for due in times_of(out)[20:]] == first


def test_a_bucket_queue_holds_so_many_bytes() -> None:
    stage = Stage(queue_bytes=15_000, bucket=TokenBucket(12 * MBIT, burst_bytes=15_000))
    model = path(stage)
    assert len(run(model, [0] * 40)) == 20
    assert model.carried(0, 0, S).dropped == 20


# -- the line -------------------------------------------------------------------------


def test_lost_packets_have_taken_their_time() -> None:
    model = path(Stage(rate_bps=20 * MBIT, loss=0.1, queue_bytes=10**8))
    out = run(model, [0] * 20_000)
    assert len(out) == pytest.approx(18_000, rel=0.01)
    assert all(due == (int(str(number)) + 1) * PACKET_NS for due, number in out)
    carried = model.carried(0, 0, 20 * S)
    assert carried.lost == 20_000 - len(out)
    assert (carried.dropped, carried.frames) == (0, 20_000)


def test_losses_are_booked_when_they_happen_also_without_a_rate() -> None:
    model = path(Stage(loss=0.5))
    out = run(model, range(0, 10 * S, 10 * MS))
    for since_ns, until_ns in ((0, 5 * S), (5 * S, 10 * S)):
        carried = model.carried(0, since_ns, until_ns)
        assert carried.frames == 500
        arrived = sum(since_ns <= due_ns < until_ns for due_ns, _ in out)
        assert carried.lost == 500 - arrived > 0


def test_jitter_is_spread_evenly_and_keeps_the_order() -> None:
    spaced = run(path(Stage(delay_ns=MS, jitter_ns=MS)), range(0, 10 * S, 2 * MS))
    extra_ns = [due - 2 * MS * number - MS for number, due in enumerate(times_of(spaced))]
    assert 0 <= min(extra_ns) < 0.01 * MS
    assert 0.99 * MS < max(extra_ns) <= MS
    assert fmean(extra_ns) == pytest.approx(MS / 2, rel=0.03)
    dense = run(path(Stage(delay_ns=MS, jitter_ns=MS)), range(0, S, MS // 10))
    assert numbers_of(dense) == list(range(10_000))
    assert times_of(dense) == sorted(times_of(dense))


def test_a_share_is_overtaken() -> None:
    stage = Stage(delay_ns=MS, reorder=0.1, reorder_ns=2 * MS + 1)
    out = run(path(stage), range(0, 10_000 * MS, MS))
    held = [number for due, number in out if due > (int(str(number)) + 1) * MS]
    assert len(out) == 10_000
    assert len(held) == pytest.approx(1000, rel=0.1)
    assert times_of(out) == sorted(times_of(out))
    order = {number: place for place, number in enumerate(numbers_of(out))}
    alone = [one for one in map(int, map(str, held)) if not {one + 1, one + 2} & set(held)]
    overtaken = [one for one in alone if one + 2 in order and order[one + 2] < order[one]]
    assert len(overtaken) == len(alone) > 100


def test_a_share_comes_twice() -> None:
    out = run(path(Stage(rate_bps=20 * MBIT, queue_bytes=10**8, duplicate=0.25)), [0] * 10_000)
    assert len(out) == pytest.approx(12_500, rel=0.02)
    assert sorted(set(map(int, map(str, numbers_of(out))))) == list(range(10_000))


def test_deliveries_come_in_clumps() -> None:
    out = run(
        path(Stage(rate_bps=100 * MBIT, coalesce_ns=250_000)), range(0, 120_000 * 100, 120_000)
    )
    # Packets every 120 us: the one that opens a clump, and those 120 and 240 us later.
    assert numbers_of(out) == list(range(100))
    clumps = [list(group) for _, group in itertools.groupby(times_of(out))]
    assert [len(clump) for clump in clumps] == [3] * 33 + [1]
    assert [clump[0] for clump in clumps[:3]] == [120_000 + 250_000 + 360_000 * n for n in range(3)]


def test_clumps_are_of_what_arrives_also_out_of_order() -> None:
    stage = Stage(reorder=0.3, reorder_ns=3 * MS, coalesce_ns=MS)
    out = run(path(stage), range(0, S, MS // 4))
    assert len(out) == 4000
    assert times_of(out) == sorted(times_of(out))
    clumps = sorted(set(times_of(out)))
    assert all(later - sooner > MS for sooner, later in itertools.pairwise(clumps))


# -- a shared medium ------------------------------------------------------------------

WIFI = Contention(access_ns=100_000, backoff_ns=100_000, aggregate_frames=8)


def test_a_lone_packet_pays_for_its_access() -> None:
    out = run(path(Stage(rate_bps=60 * MBIT, contention=WIFI)), range(0, 1000 * MS, MS))
    delays_ns = [due - number * MS for number, due in enumerate(times_of(out))]
    assert 300_000 <= min(delays_ns) < 302_000
    assert 398_000 < max(delays_ns) <= 400_000


def test_what_waits_is_carried_together() -> None:
    model = path(Stage(rate_bps=60 * MBIT, contention=WIFI))
    out = run(model, [0] * 20)
    clumps = [len(list(group)) for _, group in itertools.groupby(times_of(out))]
    assert clumps == [8, 8, 4]
    assert numbers_of(out) == list(range(20))
    first, second, third = sorted(set(times_of(out)))
    assert 1_700_000 <= second - first <= 1_800_000
    assert 900_000 <= third - second <= 1_000_000


def test_a_greedy_station_saturates_the_medium() -> None:
    # 8 packets in 8 x 200 us and an access of 150 us on average.
    expected_bps = 8 * 12_000 / (8 * 200e-6 + 150e-6)
    assert capacity_bps(Stage(rate_bps=60 * MBIT, contention=WIFI)) == pytest.approx(
        expected_bps, rel=0.005
    )
    model = path(Stage(rate_bps=60 * MBIT, contention=WIFI, queue_bytes=30_000))
    out = run(model, range(0, 2 * S, 150_000))
    assert len(out) * 12_000 / 2 == pytest.approx(expected_bps, rel=0.01)


@pytest.mark.parametrize(("cross_bps", "share"), [(10 * MBIT, None), (60 * MBIT, 0.5)])
def test_stations_share_the_medium(cross_bps: int, share: float | None) -> None:
    stage = Stage(
        rate_bps=60 * MBIT, contention=WIFI, cross=(Cross(CrossKind.CONSTANT, cross_bps),)
    )
    alone_bps = capacity_bps(stage)
    got_bps = fair_share_bps(stage)
    if share:
        assert got_bps == pytest.approx(alone_bps * share, rel=0.01)
    else:
        # Less than what the others leave over: their accesses carry few packets and cost as much.
        assert alone_bps / 2 < got_bps < alone_bps - cross_bps
    model = path(stage)
    truth = model.truth(0, 4 * S)
    assert truth.capacity_bps == alone_bps
    assert truth.fair_share_bps == got_bps
    assert truth.available_bps == alone_bps - truth.carried[0].cross_bps


def test_a_shared_medium_books_what_it_carries() -> None:
    cross = (Cross(CrossKind.CONSTANT, 8 * MBIT, start_ns=S + 5 * MS, stop_ns=2 * S + 5 * MS),)
    model = path(Stage(rate_bps=60 * MBIT, contention=WIFI, cross=cross))
    run(model, range(0, 4 * S, 10 * MS))
    for second, cross_bytes in enumerate((0, MBIT, 0)):
        carried = model.carried(0, second * S + 5 * MS, (second + 1) * S + 5 * MS)
        assert carried.frames == 100
        assert carried.cross_bytes == pytest.approx(cross_bytes, abs=3000)


def test_three_stations_take_turns() -> None:
    cross = (Cross(CrossKind.POISSON, 60 * MBIT), Cross(CrossKind.POISSON, 50 * MBIT))
    stage = Stage(rate_bps=60 * MBIT, contention=WIFI, cross=cross)
    assert fair_share_bps(stage) == pytest.approx(capacity_bps(stage) / 3, rel=0.02)


def test_a_station_has_its_own_queue() -> None:
    stage = Stage(
        rate_bps=60 * MBIT,
        contention=WIFI,
        queue_bytes=15_000,
        cross=(Cross(CrossKind.CONSTANT, 100 * MBIT),),
    )
    model = path(stage)
    assert len(run(model, [0] * 30)) == 10
    carried = model.carried(0, 0, S)
    assert carried.dropped == 20
    assert carried.cross_dropped > 1000


# -- determinism ----------------------------------------------------------------------


def everything() -> tuple[Stage, ...]:
    return (
        Stage(
            rate_bps=30 * MBIT,
            delay_ns=MS,
            jitter_ns=MS,
            loss=0.1,
            duplicate=0.1,
            reorder=0.1,
            coalesce_ns=100_000,
            cross=tuple(
                Cross(kind, 3 * MBIT, **(BURSTS if "onoff" in kind else {})) for kind in CrossKind
            ),
        ),
        Stage(
            rate_bps=60 * MBIT,
            contention=WIFI,
            cross=(Cross(CrossKind.PARETO_ONOFF, MBIT, **BURSTS),),
        ),
    )


def test_the_same_seed_gives_the_same_fate() -> None:
    times_ns = range(0, S, MS)
    first = run(path(*everything(), seed=7), times_ns)
    assert run(path(*everything(), seed=7), times_ns) == first
    assert run(path(*everything(), seed=8), times_ns) != first


def test_looking_and_asking_change_nothing() -> None:
    times_ns = range(0, S, MS)
    plain, watched = path(*everything()), path(*everything())
    out = []
    for number, time_ns in enumerate(times_ns):
        watched.advance(time_ns)
        out += watched.deliver(time_ns)
        watched.truth(0, time_ns)
        watched.offer(time_ns, number, 1500)
    out += watched.deliver(9 * S)
    assert run(plain, times_ns) == out


# -- books ----------------------------------------------------------------------------


def test_the_truth_is_what_a_count_of_its_own_says() -> None:
    cross = Cross(CrossKind.POISSON, 12 * MBIT, stop_ns=4 * S)
    model = path(Stage(rate_bps=20 * MBIT, queue_bytes=30_000, cross=(cross,)))
    offers_ns = range(0, 4 * S, 900_000)
    out = run(model, offers_ns)
    # The same queue, waited in one by one; at one moment, cross traffic goes first.
    events = [(time_ns, 0) for time_ns in arrivals(cross, "1/0/0")]
    events += [(float(time_ns), 1) for time_ns in offers_ns]
    free_ns = 0.0
    left: tuple[list[float], list[float]] = ([], [])
    dropped = [0, 0]
    for time_ns, whose in sorted(events):
        waiting_bytes = max(0.0, free_ns - time_ns) * 20 * MBIT / 8e9
        if waiting_bytes + 1500 > 30_000:
            dropped[whose] += 1
            continue
        free_ns = max(free_ns, time_ns) + PACKET_NS
        left[whose].append(free_ns)
    assert times_of(out) == [int(time_ns) for time_ns in left[1]]
    assert dropped[0] > 0 < dropped[1]
    for since_ns, until_ns in ((0, 4 * S), (S, 2 * S), (1500 * MS, 1501 * MS), (3 * S, 3 * S)):
        carried = model.carried(0, since_ns, until_ns)
        counts = [sum(since_ns <= at < until_ns for at in each) for each in left]
        assert carried.cross_bytes == 1500 * counts[0]
        assert (carried.frames, carried.frame_bytes) == (counts[1], 1500 * counts[1])
    carried = model.carried(0, 0, 5 * S)
    assert (carried.dropped, carried.cross_dropped) == (dropped[1], dropped[0])
    truth = model.truth(S, 2 * S)
    in_use_bps = 12_000 * sum(S <= at < 2 * S for at in left[0])
    assert truth.available_bps == 20 * MBIT - in_use_bps
    assert (truth.capacity_bps, truth.fair_share_bps) == (20 * MBIT, truth.available_bps)


def test_the_narrow_stage_need_not_be_the_tight_one() -> None:
    model = path(
        Stage(rate_bps=100 * MBIT),
        Stage(rate_bps=20 * MBIT, cross=(Cross(CrossKind.CONSTANT, 2 * MBIT),)),
        Stage(delay_ns=MS),
        Stage(rate_bps=50 * MBIT, cross=(Cross(CrossKind.CONSTANT, 40 * MBIT),)),
        Stage(rate_bps=90 * MBIT, bucket=TokenBucket(30 * MBIT, 60_000)),
    )
    truth = model.truth(S, 3 * S)
    assert (truth.narrow, truth.tight) == (1, 3)
    assert truth.capacity_bps == 20 * MBIT
    assert truth.available_bps == pytest.approx(10 * MBIT, rel=0.001)
    assert (truth.since_ns, truth.until_ns) == (S, 3 * S)


def test_a_bucket_s_capacity_is_what_it_sustains() -> None:
    cross = (Cross(CrossKind.CONSTANT, 5 * MBIT),)
    model = path(Stage(rate_bps=90 * MBIT, bucket=TokenBucket(30 * MBIT, 60_000), cross=cross))
    truth = model.truth(S, 3 * S)
    assert truth.capacity_bps == 30 * MBIT
    assert truth.available_bps == pytest.approx(25 * MBIT, rel=0.001)


def test_the_books_remember_a_minute() -> None:
    cross = (Cross(CrossKind.CONSTANT, MBIT),)
    model = path(Stage(rate_bps=20 * MBIT, cross=cross))
    whole = model.carried(0, 0, 50 * S).cross_bytes
    assert whole == pytest.approx(50 * MBIT / 8, abs=1500)
    model.advance(100 * S)
    assert model.carried(0, 41 * S, 100 * S).cross_bytes == pytest.approx(59 * MBIT / 8, abs=1500)
    with pytest.raises(ValueError, match="remembers 60 s"):
        model.carried(0, 20 * S, 100 * S)
    with pytest.raises(ValueError, match="ends after it begins"):
        model.carried(0, 100 * S, 99 * S)


def test_a_window_ends_where_it_is_told() -> None:
    model = path(Stage(rate_bps=20 * MBIT))
    run(model, [0, 0])
    # They leave after 0.6 and 1.2 ms.
    assert [model.carried(0, 0, until_ns).frames for until_ns in (MS - 1, MS, 2 * MS)] == [0, 1, 2]


def test_a_long_silence_is_remembered_as_such() -> None:
    model = path(Stage(rate_bps=20 * MBIT))
    assert len(run(model, [0, 300 * S])) == 2
    assert model.carried(0, 250 * S, 299 * S).frames == 0
    assert model.carried(0, 250 * S, 301 * S).frames == 1

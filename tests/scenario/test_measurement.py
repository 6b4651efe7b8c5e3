"""Whole measurements of simulated paths, beside the truth that the paths tell of themselves.

What is demanded of one measurement leaves room for chance, because its bounds are those of 19 in
20: the truth lies within twice the stated bounds, and no error is gross. What is demanded of all
of them together is what is claimed: bounds that hold, small errors in the middle.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from statistics import median

import pytest

from openqwave.estimate.dispersion import LinkKind
from openqwave.estimate.samples import to_json
from openqwave.lab.links import Contention, Cross, CrossKind, Stage, TokenBucket
from openqwave.lab.pathmodel import PathModel
from openqwave.model.estimates import Doubt, Estimate, Estimated, Inconclusive
from openqwave.probing import schedule
from openqwave.probing.measurement import Measurement
from openqwave.probing.outcomes import Failed, Failure
from openqwave.probing.progress import QUICK, Measured, Phase, Progressed, Restraint, Wish
from tests.scenario.virtual import MS, Bystander, Hosts, S, VirtualWorld
from tests.scenario.virtual_paths import (
    MBIT,
    WHOLE,
    Case,
    Found,
    cross,
    finish,
    gaps_of,
    link,
    measure,
    path,
    quick,
    trains_of,
    world_of,
)
from tests.scenario.virtual_sinks import ClosingSink, Death, MortalSink, SinkWithoutProbegap

US = 1000
POISSON, CONSTANT = CrossKind.POISSON, CrossKind.CONSTANT
ONOFF, PARETO = CrossKind.ONOFF, CrossKind.PARETO_ONOFF

# Of one measurement, as parts of the capacity.
GROSS_CAPACITY, GROSS_AVAILABLE = 0.10, 0.20
# Of all together: the median, and what nine of ten are below.
MEDIAN, NINE_OF_TEN_CAPACITY, NINE_OF_TEN_AVAILABLE = 0.03, 0.08, 0.12
BOUNDS_HOLD = 0.85


def holds(found: Estimated, truth: int, stretch: float = 1.0) -> bool:
    """Is the truth within the bounds, or so many times as far from the value; or nothing stated?"""
    if isinstance(found, Inconclusive):
        return True
    low = found.value - stretch * (found.value - found.low)
    high = found.value + stretch * (found.high - found.value)
    return low <= truth <= high


def stated(found: Estimated) -> Estimate:
    assert isinstance(found, Estimate), found
    assert 0 <= found.low <= found.value <= found.high
    return found


def told(found: Found) -> str:
    """All of it, for a test that fails."""
    report, truth = found.report, found.truth
    return f"{report.capacity_bps} of {truth.capacity_bps}, {report.available_bps} of {truth}"


# -- links with a rate, and all kinds of traffic --------------------------------------

DELAYS_MS = {2: 100, 10: 1, 20: 10, 50: 40, 100: 5, 300: 20, 1000: 2}
LOADS = [(0.0, POISSON), (0.25, POISSON), (0.5, CONSTANT), (0.5, ONOFF), (0.75, POISSON)]
# Those that are more work are measured with fewer kinds.
FEW_LOADS = [(0.0, POISSON), (0.5, POISSON), (0.75, CONSTANT)]


def plain(rate: int, load: float, kind: CrossKind) -> Case:
    name = f"{rate}M-{kind if load else 'idle'}-{load}"
    return Case(name, path(link(rate * MBIT, load, kind, delay_ns=DELAYS_MS[rate] * MS)))


PLAIN = [
    plain(rate, load, kind)
    for rate in DELAYS_MS
    for load, kind in (LOADS if rate <= 20 else FEW_LOADS if rate <= 300 else FEW_LOADS[:2])
]


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_a_link_with_a_rate_is_measured(case: Case) -> None:
    found = measure(case)
    report, truth = found.report, found.truth
    capacity, available = stated(report.capacity_bps), stated(report.available_bps)
    assert abs(capacity.value / truth.capacity_bps - 1) < GROSS_CAPACITY, told(found)
    off = abs(available.value - truth.available_bps)
    is_known_to_be_rough = holds(available, truth.available_bps)
    assert off < GROSS_AVAILABLE * truth.capacity_bps or is_known_to_be_rough, told(found)
    assert holds(capacity, truth.capacity_bps, 2), told(found)
    assert holds(available, truth.available_bps, 2), told(found)
    assert report.link == LinkKind.QUEUE.value
    assert report.boost_bps == 0
    # The rest of the report.
    round_trip = 2 * case.spec.forward.stages[0].delay_ns
    assert round_trip <= stated(report.rtt_ns).low <= round_trip + 40 * MS
    assert stated(report.loss_ppm).low == 0
    assert report.drift_ppm == pytest.approx(case.hosts.drift_ppm, abs=20)
    assert report.supports_priority is not None


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_time_and_bytes_are_what_is_wished(case: Case) -> None:
    found = measure(case)
    is_fast = found.truth.capacity_bps > schedule.FAST_BPS
    limit_ns = case.wish.fast_duration_ns if is_fast else case.wish.duration_ns
    assert found.measured.elapsed_ns <= limit_ns + 10 * MS
    assert found.elapsed_ns <= (5 if is_fast else 3) * S
    if not is_fast:
        assert found.measured.sent_bytes <= 1_000_000
    # What is told to have been sent is what the path carried.
    books = found.world.there.carried(0, 0, found.elapsed_ns)
    sent_bytes = found.measured.sent_bytes
    # Small probes may be on their way when it ends.
    assert 0 <= sent_bytes - books.frame_bytes <= books.dropped * 1500 + 0.02 * sent_bytes


def errors(cases: list[Case]) -> tuple[list[float], list[float]]:
    capacity, available = [], []
    for case in cases:
        found = measure(case)
        whole = found.truth.capacity_bps
        capacity.append(abs(stated(found.report.capacity_bps).value - whole) / whole)
        value = stated(found.report.available_bps).value
        available.append(abs(value - found.truth.available_bps) / whole)
    return capacity, available


def nine_of_ten(values: list[float]) -> float:
    return sorted(values)[int(0.9 * len(values))]


def test_errors_of_all_together_are_small() -> None:
    capacity, available = errors(PLAIN)
    assert median(capacity) < MEDIAN
    assert nine_of_ten(capacity) < NINE_OF_TEN_CAPACITY
    assert median(available) < MEDIAN
    assert nine_of_ten(available) < NINE_OF_TEN_AVAILABLE


def test_bounds_are_narrow_enough_to_be_of_use() -> None:
    widths = []
    for case in PLAIN:
        found = measure(case)
        available = stated(found.report.available_bps)
        widths.append((available.high - available.low) / found.truth.capacity_bps)
    assert median(widths) < 0.2


# -- what it may cost -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "allowed_bytes"),
    [(0.5, 45_000), (1, 70_000), (1, 40_000), (5, 60_000), (20, 120_000), (100, 300_000)],
)
def test_it_costs_no_more_than_it_may_and_is_good_for_something(
    rate: float, allowed_bytes: int
) -> None:
    found = []
    for seed in range(1, 4):
        beliefs: list[float | None] = []

        def allowance(belief_bps: float | None, beliefs: list[float | None] = beliefs) -> float:
            beliefs.append(belief_bps)
            return allowed_bytes

        case = Case(
            "allowed", path(link(round(rate * MBIT), 0.3)), wish=Wish(checks_priority=False)
        )
        uniform = random.Random(seed).random
        restraint = Restraint(allowance=allowance)
        session = Measurement(case.wish, random=uniform, restraint=restraint)
        world = VirtualWorld(session, case.spec, seed=seed)
        end = finish(world).measured
        assert end.sent_bytes <= 1.05 * allowed_bytes
        assert beliefs[0] is None
        assert stated(end.report.capacity_bps).value == pytest.approx(rate * MBIT, rel=0.05)
        assert beliefs[-1] == pytest.approx(rate * MBIT, rel=0.1)
        found.append(stated(end.report.available_bps).value / rate / MBIT)
    assert median(found) == pytest.approx(0.7, abs=0.12)


def test_trains_back_to_back_leave_room_for_others() -> None:
    times = []
    for drain_factor in (2, 10):
        restraint = Restraint(drain_factor=drain_factor)
        session = Measurement(WHOLE, random=random.Random(1).random, restraint=restraint)
        trains = trains_of(finish(VirtualWorld(session, path(link(R)))))
        starts = [one.sent_ns[0] for one in trains if not one.gap_ns and len(one.sent_ns) == 8]
        times.append(median(after - before for before, after in itertools.pairwise(starts)))
    # A train takes 4.8 ms.
    assert 9 * MS <= times[0] <= 30 * MS
    assert 47 * MS <= times[1] <= 70 * MS


def test_trains_are_no_longer_than_wished() -> None:
    for stage in (link(300 * MBIT, 0.3), bucket(5 * MBIT, 30_000, 100 * MBIT), turns(16)):
        restraint = Restraint(longest_packets=30)
        session = Measurement(WHOLE, random=random.Random(1).random, restraint=restraint)
        found = finish(VirtualWorld(session, path(stage)))
        assert max(len(train.sent_ns) for train in trains_of(found)) == 30


# -- traps ----------------------------------------------------------------------------

R = 20 * MBIT
SLOW = link(R, 0.5)
FAST = link(100 * MBIT, 0.5)


def bucket(rate_bps: int, burst_bytes: int, peak_bps: int, load: float = 0.0) -> Stage:
    return Stage(
        rate_bps=peak_bps,
        queue_bytes=200_000,
        delay_ns=5 * MS,
        bucket=TokenBucket(rate_bps, burst_bytes),
        cross=cross(rate_bps, load),
    )


def turns(frames: int, load: float = 0.0) -> Stage:
    return Stage(
        rate_bps=60 * MBIT,
        queue_bytes=300_000,
        delay_ns=2 * MS,
        contention=Contention(aggregate_frames=frames),
        cross=cross(60 * MBIT, load),
    )


# What may be said instead of a number.
ANY_DOUBT = {Doubt.UNSTEADY, Doubt.COALESCED, Doubt.CONTENTION, Doubt.TOO_FAST, Doubt.LOSSES}
TRAPS = [
    # Loss, order, duplicates, jitter.
    Case("loss of 0.5 %", path(replace(SLOW, loss=0.005))),
    Case("loss of 2 %", path(replace(SLOW, loss=0.02))),
    Case("loss of 2 % at 100 Mbit/s", path(replace(FAST, loss=0.02))),
    Case("loss of 2 % both ways", path(replace(SLOW, loss=0.02), back=replace(SLOW, loss=0.02))),
    Case("reordering of 5 %", path(replace(SLOW, reorder=0.05))),
    Case("duplicates", path(replace(SLOW, duplicate=0.02))),
    Case("jitter of 0.2 ms", path(replace(SLOW, jitter_ns=200 * US))),
    Case("jitter of 8 ms, idle", path(replace(link(R), jitter_ns=8 * MS))),
    Case("jitter of 8 ms", path(replace(SLOW, jitter_ns=8 * MS))),
    # Receivers that deliver in clumps.
    *(
        Case(
            f"clumps of {clump_us} us at {rate} Mbit/s, load {load}",
            path(replace(link(rate * MBIT, load), coalesce_ns=clump_us * US)),
        )
        for clump_us, rate, load in (
            (50, 100, 0.5),
            (250, 20, 0.5),
            (250, 100, 0.0),
            (250, 100, 0.5),
            (1000, 20, 0.0),
            (1000, 100, 0.5),
        )
    ),
    # Other links on the way.
    Case("traffic before the narrow link", path(link(100 * MBIT, 0.5, delay_ns=0), link(R))),
    Case("traffic behind the narrow link", path(link(R), link(100 * MBIT, 0.5, delay_ns=0))),
    Case(
        "traffic everywhere",
        path(link(100 * MBIT, 0.5, delay_ns=0), SLOW, link(100 * MBIT, 0.5)),
    ),
    Case("narrow behind tight", path(link(50 * MBIT, 0.8, delay_ns=0), link(R))),
    # Queues that hold no train.
    Case("queue of 10 packets", path(replace(link(R), queue_bytes=15_000))),
    Case("queue of 10 packets, load 0.5", path(replace(SLOW, queue_bytes=15_000))),
    Case("queue of 10 packets, load 0.75", path(replace(link(R, 0.75), queue_bytes=15_000))),
    Case("queue of 10 packets at 100 Mbit/s", path(replace(FAST, queue_bytes=15_000))),
    # Clocks and hosts.
    *(
        Case(f"drift of {ppm} ppm", path(SLOW), hosts=Hosts(drift_ppm=ppm))
        for ppm in (100, 500, -500)
    ),
    Case("a step back", path(SLOW), hosts=Hosts(step_at_ns=1500 * MS, step_ns=-50 * MS)),
    Case("a small step", path(SLOW), hosts=Hosts(step_at_ns=S, step_ns=5 * MS)),
    Case("a step of a minute", path(SLOW), hosts=Hosts(step_at_ns=900 * MS, step_ns=60 * S)),
    Case("a sender that is held up", path(SLOW), hosts=Hosts(held_up=0.3)),
    Case("a receiver that stalls", path(SLOW), hosts=Hosts(stall=0.03, stall_ns=2 * MS)),
    Case("late stamps", path(SLOW), hosts=Hosts(lateness_ns=40 * US)),
    # Traffic of other kinds, other versions, other delays.
    Case("bursts of all lengths", path(link(R, 0.5, PARETO))),
    Case("small packets", path(replace(SLOW, cross=(Cross(POISSON, R // 2, 300),)))),
    Case("IPv6", path(SLOW), wish=Wish(version=6)),
    Case("a way back that is slow", path(SLOW, back=link(2 * MBIT))),
    Case("a way back that is loaded", path(SLOW, back=link(R, 0.7))),
    Case("a sink that closes after a summary", path(SLOW), make_sink=ClosingSink),
    Case("a sink without probegap", path(SLOW), make_sink=SinkWithoutProbegap),
    # Token buckets and turns.
    Case("burst of 10 packets", path(bucket(R, 15_000, 1000 * MBIT))),
    Case("burst of 10 packets, load 0.5", path(bucket(R, 15_000, 1000 * MBIT, 0.5))),
    Case("burst of 64 KiB", path(bucket(R, 65_536, 1000 * MBIT))),
    Case("burst of 64 KiB, load 0.5", path(bucket(R, 65_536, 1000 * MBIT, 0.5))),
    Case("burst of 64 KiB, peak 100 Mbit/s", path(bucket(R, 65_536, 100 * MBIT))),
    Case("burst of 64 KiB at 100 Mbit/s", path(bucket(100 * MBIT, 65_536, 1000 * MBIT))),
    Case("burst of one packet or two", path(bucket(R, 3_000, 1000 * MBIT))),
    Case("8 frames a turn", path(turns(8))),
    Case("32 frames a turn", path(turns(32))),
]
BY_NAME = {case.name: case for case in TRAPS}


# Where a wrong number is stated at times; each with the reason.
KNOWN = {
    "traffic fills the idle time of a fast link": [
        plain(300, 0.5, ONOFF),
    ],
    "a burst outlasts the trains": [
        Case("burst of 20 packets, peak 40 Mbit/s", path(bucket(R, 30_000, 40 * MBIT))),
    ],
    "clumps of a timer look like aggregates": [
        Case("clumps longer than trains", path(replace(link(1000 * MBIT), coalesce_ns=3 * MS))),
    ],
    "turns of a loaded medium look like a rate": [
        Case("8 frames a turn, load 0.3", path(turns(8, 0.3))),
    ],
}


def free_of(found: Found) -> int:
    """What a new flow would get: the fair share where stations take turns."""
    stages = found.world.there.spec.stages
    truth = found.truth
    return truth.fair_share_bps if any(one.contention for one in stages) else truth.available_bps


@pytest.mark.parametrize("case", TRAPS, ids=str)
def test_a_trap_is_seen_through_or_seen(case: Case) -> None:
    found = measure(case)
    report, truth = found.report, found.truth
    assert holds(report.capacity_bps, truth.capacity_bps, 2), told(found)
    assert holds(report.available_bps, free_of(found), 2), told(found)
    for one in (report.capacity_bps, report.available_bps):
        if isinstance(one, Inconclusive):
            assert one.doubt in ANY_DOUBT | {Doubt.BURST_CREDIT}
    # The budget is kept, whatever happens.
    assert found.elapsed_ns <= (5 if truth.capacity_bps > schedule.FAST_BPS else 3) * S
    if truth.capacity_bps <= 100 * MBIT:
        assert found.measured.sent_bytes <= 1_150_000


@pytest.mark.parametrize(
    "cases", [pytest.param(cases, id=reason) for reason, cases in KNOWN.items()]
)
@pytest.mark.xfail(strict=False, reason="not seen through yet; see the list")
def test_a_trap_that_is_known_is_seen_through_or_seen(cases: list[Case]) -> None:
    wrong = [
        f"{case}, seed {seed}: {told(found)}"
        for case in cases
        for seed in (1, 2)
        for found in [measure(case, seed)]
        if not holds(found.report.capacity_bps, found.truth.capacity_bps, 2)
        or not holds(found.report.available_bps, free_of(found), 2)
    ]
    assert wrong == []


def test_stated_bounds_hold_as_often_as_is_claimed() -> None:
    found = [measure(case) for case in PLAIN + TRAPS]
    capacity = [
        holds(one.report.capacity_bps, one.truth.capacity_bps)
        for one in found
        if isinstance(one.report.capacity_bps, Estimate)
    ]
    available = [
        holds(one.report.available_bps, free_of(one))
        for one in found
        if isinstance(one.report.available_bps, Estimate)
    ]
    assert min(len(capacity), len(available)) > 50
    assert sum(capacity) >= BOUNDS_HOLD * len(capacity)
    assert sum(available) >= BOUNDS_HOLD * len(available)


def test_few_traps_are_left_without_an_answer() -> None:
    open_ones = [
        case.name
        for case in TRAPS
        if isinstance(measure(case).report.capacity_bps, Inconclusive)
        and isinstance(measure(case).report.available_bps, Inconclusive)
    ]
    assert len(open_ones) <= 0.2 * len(TRAPS), open_ones


def is_told_as_a_bucket(found: Found) -> bool:
    report = found.report
    return (
        report.link == LinkKind.BUCKET.value
        and isinstance(report.capacity_bps, Estimate)
        and abs(report.capacity_bps.value / found.truth.capacity_bps - 1) < 0.08
        and report.boost_bps > 2 * report.capacity_bps.high
        and isinstance(report.available_bps, Inconclusive)
        and report.available_bps.doubt is Doubt.BURST_CREDIT
    )


@pytest.mark.parametrize(
    "name",
    ["burst of 10 packets", "burst of 64 KiB, load 0.5", "burst of 64 KiB at 100 Mbit/s"],
)
def test_of_a_bucket_the_sustained_rate_and_the_boost_are_told(name: str) -> None:
    found = measure(BY_NAME[name])
    assert is_told_as_a_bucket(found), told(found)


@pytest.mark.xfail(strict=False, reason="a bucket that was not full when its knee was found")
def test_of_a_bucket_that_trains_had_half_emptied_the_rate_is_told() -> None:
    for seed in (1, 2):
        found = measure(BY_NAME["burst of 64 KiB"], seed)
        assert is_told_as_a_bucket(found), told(found)


@pytest.mark.parametrize("name", ["8 frames a turn", "32 frames a turn"])
def test_where_stations_take_turns_a_share_is_told(name: str) -> None:
    report = measure(BY_NAME[name]).report
    assert report.link == LinkKind.CONTENTION.value
    assert isinstance(report.capacity_bps, Inconclusive)
    assert stated(report.available_bps).value == pytest.approx(
        measure(BY_NAME[name]).truth.fair_share_bps, rel=0.2
    )


@pytest.mark.parametrize("name", [one for one in BY_NAME if one.startswith("loss of 2 %")])
def test_loss_is_told(name: str) -> None:
    loss = stated(measure(BY_NAME[name]).report.loss_ppm)
    expected = 39_600 if "both" in name else 20_000
    assert loss.low < expected < loss.high
    assert loss.value == pytest.approx(expected, rel=0.6)


@pytest.mark.parametrize("name", [one for one in BY_NAME if one.startswith("drift of")])
def test_drift_is_told(name: str) -> None:
    found = measure(BY_NAME[name])
    assert found.report.drift_ppm == pytest.approx(BY_NAME[name].hosts.drift_ppm, abs=20)


def test_a_sender_that_is_held_up_loses_its_trains_not_its_honesty() -> None:
    found = measure(BY_NAME["a sender that is held up"])
    late = [
        train
        for train in trains_of(found)
        if any(
            sent_ns - train.sent_ns[0] > number * train.gap_ns + MS
            for number, sent_ns in enumerate(train.sent_ns)
            if train.gap_ns
        )
    ]
    assert late, "nobody was held up"
    assert holds(found.report.available_bps, found.truth.available_bps, 1.5)


def test_without_probegap_trains_answer() -> None:
    report = measure(BY_NAME["a sink without probegap"]).report
    assert stated(report.available_bps).method == "paced trains"
    assert isinstance(report.rtt_ns, Inconclusive)
    assert isinstance(report.jitter_there_ns, Inconclusive)


def test_on_a_path_of_ipv6_packets_are_as_large() -> None:
    found = measure(BY_NAME["IPv6"])
    assert {train.packet_bytes for train in trains_of(found)} == {schedule.PACKET_BYTES}
    assert {gap.packet_bytes for gap in gaps_of(found)} == {80}


# -- a sink that goes away ------------------------------------------------------------


def dying(at_ms: int, how: Death) -> Case:
    return Case(f"{how.name} {at_ms}", path(SLOW), make_sink=lambda: MortalSink(at_ms * MS, how))


@pytest.mark.parametrize("how", list(Death))
@pytest.mark.parametrize("at_ms", [200, 500, 1000, 2000])
def test_a_sink_that_goes_away_ends_a_measurement_in_order(at_ms: int, how: Death) -> None:
    found = finish(world_of(dying(at_ms, how), 1))
    assert isinstance(found.end, Measured)
    assert found.elapsed_ns <= 3 * S
    assert found.world.session.next_timer_ns() is None
    assert holds(found.report.capacity_bps, found.truth.capacity_bps, 2)
    if at_ms >= 500:
        # What was found until then is told.
        assert stated(found.report.capacity_bps).value == pytest.approx(R, rel=0.05)


@pytest.mark.xfail(strict=False, reason="probes that nobody answered count as a full queue")
def test_what_was_free_before_the_sink_went_is_not_told_wrong() -> None:
    wrong = [
        told(found)
        for how in Death
        for seed in (1, 2)
        for found in [finish(world_of(dying(1000, how), seed))]
        if not holds(found.report.available_bps, found.truth.available_bps, 2)
    ]
    assert wrong == []


def test_a_sink_that_goes_before_it_has_said_anything() -> None:
    never = finish(world_of(dying(0, Death.SILENT), 1))
    assert isinstance(never.end, Failed)
    assert never.end.reason is Failure.NO_AGREEMENT
    closed = finish(world_of(dying(40, Death.CLOSED), 1))
    assert isinstance(closed.end, Failed)
    assert closed.end.reason is Failure.CLOSED
    silent = finish(world_of(dying(40, Death.SILENT), 1))
    assert isinstance(silent.end, Measured)
    assert isinstance(silent.report.capacity_bps, Inconclusive)
    assert isinstance(silent.report.available_bps, Inconclusive)
    assert silent.elapsed_ns <= 3 * S


# -- quick ----------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [2, 10, 20, 50, 100, 300, 1000])
def test_quick_is_quick_and_right_on_an_idle_link(rate: int) -> None:
    case = quick(Case(f"quick {rate}", path(link(rate * MBIT))), QUICK)
    found = measure(case)
    assert found.elapsed_ns <= 800 * MS
    capacity, available = stated(found.report.capacity_bps), stated(found.report.available_bps)
    assert abs(capacity.value - rate * MBIT) < 0.1 * rate * MBIT, told(found)
    assert abs(available.value - rate * MBIT) < 0.1 * rate * MBIT, told(found)
    assert found.report.supports_priority is None
    assert found.measured.sent_bytes <= (1_000_000 if rate <= 100 else 5_000_000)


@pytest.mark.parametrize("seed", [1, 2])
def test_quick_under_load_claims_no_more_than_it_knows(seed: int) -> None:
    found = measure(quick(Case("quick, loaded", path(SLOW)), QUICK), seed)
    assert found.elapsed_ns <= 800 * MS
    assert holds(found.report.capacity_bps, found.truth.capacity_bps, 2), told(found)
    assert holds(found.report.available_bps, found.truth.available_bps, 2), told(found)


# -- what others notice ---------------------------------------------------------------


def with_ping(case: Case, seed: int = 1) -> tuple[Found, list[int]]:
    """Measure beside tiny packets each millisecond: how much later than alone each came."""
    world = world_of(case, seed)
    ping = world.accompany(range(0, 5 * S, MS), 1)
    found = finish(world)
    return found, rises(case, ping, seed)


def rises(case: Case, other: Bystander, seed: int, size_bytes: int = 1) -> list[int]:
    """What each packet waited more than on the same path without a measurement."""
    alone = PathModel(case.spec.forward, seed)
    found = []
    for number, sent_ns in other.sent_ns.items():
        alone.offer(sent_ns, number, size_bytes)
        for due_ns, _ in alone.deliver(sent_ns + 10 * S):
            if number in other.delays_ns:
                found.append(other.delays_ns[number] - (due_ns - sent_ns))
    return sorted(found)


@pytest.mark.parametrize("rate", [4, 20, 100, 1000])
def test_on_an_idle_link_no_queue_is_longer_than_the_budget(rate: int) -> None:
    _, rise = with_ping(Case(f"ping {rate}", path(link(rate * MBIT))))
    # The route check and the pairs are sent before anything is believed, and a probe may come on
    # top: two packets' time.
    spare_ns = 2 * schedule.packet_ns(rate * MBIT)
    assert rise[-1] <= max(schedule.QUEUE_NS, 3 * schedule.packet_ns(rate * MBIT)) + spare_ns
    assert rise[len(rise) * 95 // 100] <= 5 * MS


@pytest.mark.parametrize(("rate", "load"), [(20, 0.25), (20, 0.5), (100, 0.5)])
def test_a_ping_on_a_loaded_link_hardly_waits_longer(rate: int, load: float) -> None:
    _, rise = with_ping(Case(f"ping {rate} {load}", path(link(rate * MBIT, load))))
    assert rise[len(rise) * 95 // 100] <= 5 * MS
    assert rise[len(rise) // 2] <= 500 * US


def test_nobody_loses_a_packet_to_a_measurement() -> None:
    for case in [one for one in PLAIN if one.name.startswith("20M") and "0.75" not in one.name]:
        found = measure(case)
        books = found.world.there.carried(0, 0, found.elapsed_ns)
        assert (books.dropped, books.cross_dropped) == (0, 0)


# -- the course of it -----------------------------------------------------------------


def again(case: Case, seed: int = 1) -> Found:
    return finish(world_of(case, seed))


def test_the_same_seed_gives_the_same_samples() -> None:
    for case in (BY_NAME["loss of 2 %"], BY_NAME["burst of 10 packets"]):
        lines = [list(map(to_json, found.samples)) for found in (measure(case), again(case))]
        assert lines[0] == lines[1]
        assert len(lines[0]) > 100
        assert list(map(to_json, again(case, 2).samples)) != lines[0]


def test_progress_is_told_in_order() -> None:
    found = measure(Case("progress", path(SLOW)))
    told_of = [event for event in found.world.events if isinstance(event, Progressed)]
    assert len(told_of) >= 8
    order = list(Phase)
    places = [order.index(event.phase) for event in told_of]
    assert places == sorted(places)
    for before, after in itertools.pairwise(told_of):
        assert before.elapsed_ns < after.elapsed_ns
        assert before.sent_bytes <= after.sent_bytes
    assert told_of[-1].capacity_bps == pytest.approx(R, rel=0.05)
    assert (told_of[-1].rtt_ns or 0) >= 10 * MS


def test_it_ends_once_and_is_then_silent() -> None:
    world = world_of(Case("silence", path(SLOW)), 1)
    finish(world)
    count = len(world.events)
    world.go_on(world.now_ns + 5 * S)
    assert len(world.events) == count
    assert world.session.next_timer_ns() is None
    assert world.session.effects_to_send(now_ns=world.now_ns) == []
    assert world.sink.counts.open_sessions == 0


def test_closing_it_in_the_middle_is_its_end() -> None:

    world = world_of(Case("closed", path(SLOW)), 1)
    session = world.session
    assert isinstance(session, Measurement)
    world.at(S, session.close)
    session.start(now_ns=0)
    world.go_on(1)
    world.go_on(4 * S)
    assert session.phase is Phase.OVER
    assert not any(isinstance(event, Measured) for event in world.events)
    assert world.sink.counts.open_sessions == 0

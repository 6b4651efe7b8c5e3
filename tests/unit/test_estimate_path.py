"""The whole report: which method speaks, how two are weighed, and why nothing is said."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest

from openqwave.estimate.dispersion import COVERAGE_FACTOR, LinkKind, capacity
from openqwave.estimate.idle import IdleShare, idle_share
from openqwave.estimate.loss import MILLION
from openqwave.estimate.path import (
    IDLE_FLOOR,
    LEAST_TURNS_PACKETS,
    STRAIN_FLOOR,
    TURNS_MARGIN,
    report,
)
from openqwave.estimate.samples import Gap, Sample, Train
from openqwave.estimate.strain import Load, load, offered_bps
from openqwave.model.estimates import Doubt, Estimate, Estimated, Inconclusive
from tests.unit.made_samples import (
    MBIT,
    MS,
    NOW_NS,
    US,
    Queue,
    gap,
    left_over,
    lost_gap,
    measured,
    packet_ns,
    poisson,
    train,
)

RATE = 20 * MBIT
BOTH, APART = "idle share and paced trains", "paced trains, against the idle share"


def split(samples: list[Sample]) -> tuple[list[Train], list[Gap]]:
    trains = [one for one in samples if isinstance(one, Train)]
    return trains, [one for one in samples if isinstance(one, Gap)]


def stated(found: Estimated) -> Estimate:
    assert isinstance(found, Estimate), found
    assert found.low <= found.value <= found.high
    return found


def doubt_of(found: Estimated) -> Doubt:
    assert isinstance(found, Inconclusive), found
    return found.doubt


# -- a queue with a rate --------------------------------------------------------------


@pytest.mark.parametrize("rate_bps", [10 * MBIT, 20 * MBIT, 60 * MBIT])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75])
def test_what_is_free_is_found(rate_bps: int, share: float) -> None:
    held = 0
    for seed in range(4):
        found = report(measured(rate_bps, share, seed=seed))
        available = stated(found.available_bps)
        free_bps = left_over(rate_bps, share, 2.7, Random(seed + 100)) * rate_bps
        assert stated(found.capacity_bps).value == pytest.approx(rate_bps, rel=0.04)
        assert available.value == pytest.approx(free_bps, abs=0.12 * rate_bps)
        held += available.low <= free_bps <= available.high
    assert held >= 3


def test_two_methods_that_agree_are_weighed_by_their_errors() -> None:
    samples = measured(RATE, 0.5)
    trains, gaps = split(samples)
    found = report(samples)
    whole = capacity(trains).estimate
    assert isinstance(whole, Estimate)
    # The probes before the first paced train, and those after it, by their time.
    turn_ns = min(one.sent_ns[0] for one in trains if one.gap_ns)
    since_ns = trains[0].sent_ns[0]
    parts = [
        [one for one in gaps if since_ns <= one.sent_ns < turn_ns],
        [one for one in gaps if one.sent_ns >= turn_ns],
    ]
    shares = [idle_share(part, trains, whole.value) for part in parts]
    times = [part[-1].sent_ns - part[0].sent_ns for part in parts]
    assert all(isinstance(one, IdleShare) for one in shares)
    known = [one for one in shares if isinstance(one, IdleShare)]
    share = sum(one.share * time for one, time in zip(known, times, strict=True)) / sum(times)
    spread = math.hypot(
        *(one.error * time / sum(times) for one, time in zip(known, times, strict=True))
    )
    strained = load(trains, whole.value)
    assert isinstance(strained, Load)
    # Inverse variances.
    precise = [
        1 / (whole.value**2 * (spread**2 + IDLE_FLOOR**2)),
        1 / (strained.error_bps**2 + (STRAIN_FLOOR * whole.value) ** 2),
    ]
    mean = (precise[0] * share * whole.value + precise[1] * strained.available_bps) / sum(precise)
    available = stated(found.available_bps)
    assert available.method == BOTH
    assert available.value == pytest.approx(mean, rel=0.001)
    inherited = mean / whole.value * (whole.high - whole.low) / 2
    margin = math.sqrt(COVERAGE_FACTOR**2 / sum(precise) + inherited**2)
    assert available.high - available.value == pytest.approx(margin, rel=0.01)
    assert available.value - available.low == pytest.approx(margin, rel=0.01)


def test_load_widens_the_capacitys_upper_bound() -> None:
    # What comes between the packets of a train while it arrives makes the link look slower.
    samples = measured(RATE, 0.5)
    trains, _ = split(samples)
    before, found = capacity(trains).estimate, report(samples)
    assert isinstance(before, Estimate)
    after, available = stated(found.capacity_bps), stated(found.available_bps)
    sent_bps = offered_bps(trains[0])
    mixed = (before.value - available.value) / sent_bps * before.value
    assert mixed > 0
    assert (after.value, after.low) == (before.value, before.low)
    assert after.high - before.high == pytest.approx(mixed, rel=0.05)


def test_waiting_elsewhere_is_not_load_at_the_narrow_link() -> None:
    elsewhere = Queue(30 * MBIT, poisson(15 * MBIT, Random(5)))
    samples = measured(RATE, 0.25, elsewhere=elsewhere)
    trains, _ = split(samples)
    available = stated(report(samples).available_bps)
    assert available.method == APART
    strained = load(trains, stated(capacity(trains).estimate).value)
    assert isinstance(strained, Load)
    assert available.value == pytest.approx(strained.available_bps, rel=0.001)
    # And the bounds hold what idle time says, which is half of 0.75.
    assert available.low < 0.45 * RATE
    assert available.high > 0.75 * RATE


def with_cross(samples: list[Sample], cross: float) -> list[Sample]:
    """The same with paced trains that met so much other traffic, as a part of the capacity."""
    return [
        replace(one, deltas_ns=tuple(round(one.gap_ns * (1 + cross)) for _ in one.deltas_ns))
        if isinstance(one, Train) and one.gap_ns
        else one
        for one in samples
    ]


def test_trains_that_find_less_room_than_there_is_idle_time() -> None:
    some = stated(report(with_cross(measured(RATE), 0.2)).available_bps)
    assert some.low <= 0.8 * RATE
    assert some.high >= 0.97 * RATE
    assert doubt_of(report(with_cross(measured(RATE), 0.6)).available_bps) is Doubt.UNSTEADY


def test_without_small_probes_trains_speak() -> None:
    trains, _ = split(measured(RATE, 0.5))
    found = report(trains)
    assert stated(found.available_bps).method == "paced trains"
    assert stated(found.available_bps).value == pytest.approx(0.5 * RATE, abs=0.2 * RATE)
    for unknown in (found.rtt_ns, found.jitter_there_ns, found.jitter_back_ns, found.loss_ppm):
        assert doubt_of(unknown) is Doubt.NO_SAMPLES


def test_without_paced_trains_probes_speak() -> None:
    samples = [one for one in measured(RATE, 0.5) if isinstance(one, Gap) or not one.gap_ns]
    available = stated(report(samples).available_bps)
    assert available.method == "idle share"
    assert available.value == pytest.approx(0.5 * RATE, abs=0.15 * RATE)


def test_without_both_nothing_is_available() -> None:
    trains, gaps = split(measured(RATE, 0.5))
    steady = [one for one in trains if not one.gap_ns]
    found = report([*steady, *gaps[:10]])
    stated(found.capacity_bps)
    assert doubt_of(found.available_bps) is Doubt.TOO_FEW


def lose(samples: list[Sample], every: int, *, trains: bool, gaps: bool) -> list[Sample]:
    """Lose every so-manieth paced train, and as many small probes as one packet of it."""
    kept: list[Sample] = []
    paced = 0
    for turn, one in enumerate(samples):
        if isinstance(one, Train):
            paced += bool(one.gap_ns)
            is_lost = trains and bool(one.gap_ns) and paced % every == 0
            kept.append(replace(one, deltas_ns=()) if is_lost else one)
        elif gaps and turn % (17 * every) == 0:
            kept.append(Gap(one.sequence, one.packet_bytes, one.sent_ns))
        else:
            kept.append(one)
    return kept


def test_trains_that_a_full_queue_swallowed_leave_the_lucky_ones() -> None:
    samples = measured(RATE, 0.5)
    biased = report(lose(samples, 2, trains=True, gaps=False))
    assert stated(biased.available_bps).method == "idle share"


def test_trains_that_single_losses_explain_are_no_bias() -> None:
    samples = measured(RATE, 0.5)
    found = report(lose(samples, 3, trains=True, gaps=True))
    assert stated(found.available_bps).method == BOTH


# -- links without a rate -------------------------------------------------------------


def test_on_a_bucket_nothing_is_claimed_to_be_free() -> None:
    fast, slow = packet_ns(500 * MBIT), packet_ns(RATE)
    _, gaps = split(measured(RATE))
    trains = [train([fast], at_ns=turn * 20 * MS) for turn in range(4)]
    trains += [train([fast] * 20 + [slow] * 15, at_ns=(100 + turn * 40) * MS) for turn in range(4)]
    found = report([*trains, *gaps])
    assert found.link == LinkKind.BUCKET.value
    assert stated(found.capacity_bps).value == pytest.approx(RATE, rel=0.02)
    assert found.boost_bps == pytest.approx(500 * MBIT, rel=0.1)
    assert doubt_of(found.available_bps) is Doubt.BURST_CREDIT


def by_turns(long_packets: int, count: int) -> list[Sample]:
    trains = [train([packet_ns(20 * MBIT)], at_ns=turn * 20 * MS) for turn in range(4)]
    trains += [
        train([packet_ns(rate * MBIT)] * (long_packets - 1), at_ns=(100 + turn * 40) * MS)
        for turn, rate in enumerate([50, 52, 54, 55, 56, 58][:count])
    ]
    return list(trains)


def test_where_stations_take_turns_the_share_of_long_trains_is_told() -> None:
    found = report(by_turns(96, 6))
    assert found.link == LinkKind.CONTENTION.value
    assert doubt_of(found.capacity_bps) is Doubt.CONTENTION
    share = stated(found.available_bps)
    assert 52 * MBIT <= share.value <= 56 * MBIT
    assert share.high - share.value >= 0.999 * TURNS_MARGIN * share.value
    assert share.value - share.low >= 0.999 * TURNS_MARGIN * share.value


def test_short_trains_tell_no_share() -> None:
    found = report(by_turns(LEAST_TURNS_PACKETS - 1, 6))
    assert doubt_of(found.capacity_bps) is Doubt.CONTENTION
    assert doubt_of(found.available_bps) is Doubt.CONTENTION


ONE_CLUMP = [train([0] * 12, at_ns=turn * 20 * MS) for turn in range(8)]
TWO_TRAINS = [train([packet_ns(RATE)] * 12, at_ns=turn * 20 * MS) for turn in range(2)]


@pytest.mark.parametrize(
    ("trains", "doubts"),
    [
        (TWO_TRAINS, [Doubt.TOO_FEW]),
        # Or timing that is coarser than the trains are long.
        (ONE_CLUMP, [Doubt.COALESCED, Doubt.TOO_FAST]),
    ],
)
def test_without_a_capacity_nothing_is_available(trains: list[Train], doubts: list[Doubt]) -> None:
    _, gaps = split(measured(RATE))
    found = report([*trains, *gaps])
    assert doubt_of(found.capacity_bps) in doubts
    assert doubt_of(found.available_bps) is doubt_of(found.capacity_bps)
    # What probes tell is told all the same.
    stated(found.rtt_ns)
    stated(found.loss_ppm)


def test_hosts_that_were_not_run_in_time_make_no_rate() -> None:
    random = Random(1)
    trains = [one for one in measured(300 * MBIT) if isinstance(one, Train)]
    shaken = [
        gap(turn, turn * 5 * MS, random.random() * 20 * MS, random.random() * 20 * MS)
        for turn in range(500)
    ]
    found = report([*trains, *shaken])
    assert doubt_of(found.capacity_bps) is Doubt.TOO_FAST
    assert doubt_of(found.available_bps) is Doubt.TOO_FAST


# -- the rest -------------------------------------------------------------------------


def test_of_nothing_nothing_is_known() -> None:
    found = report([])
    assert all(
        isinstance(one, Inconclusive)
        for one in (
            found.capacity_bps,
            found.available_bps,
            found.rtt_ns,
            found.jitter_there_ns,
            found.jitter_back_ns,
            found.loss_ppm,
        )
    )
    assert (found.supports_priority, found.boost_bps, found.drift_ppm) == (None, 0, 0.0)


@pytest.mark.parametrize("supports", [True, False, None])
def test_the_route_checks_answer_is_handed_on(supports: bool | None) -> None:
    assert report(measured(RATE), supports).supports_priority is supports


def test_drift_is_told() -> None:
    gaps = [gap(turn, turn * 10 * MS, offset_ns=turn * 10 * MS * 60e-6) for turn in range(200)]
    assert report(gaps).drift_ppm == pytest.approx(60, abs=1)


@pytest.mark.parametrize(("lost", "count"), [(0, 1), (0, 400), (1, 1), (3, 400), (40, 400), (9, 9)])
def test_bounds_of_loss_are_wilsons(lost: int, count: int) -> None:
    gaps = [
        lost_gap(turn, turn * MS) if turn < lost else gap(turn, turn * MS, turn * US)
        for turn in range(count)
    ]
    found = stated(report(gaps).loss_ppm)
    share = lost / count
    assert found.value == pytest.approx(share * MILLION, abs=1)
    # By definition, the shares at which what was seen is just so many standard errors off.
    for bound in (found.low, found.high):
        p = bound / MILLION
        if 0 < p < 1:
            off = abs(share - p) / math.sqrt(p * (1 - p) / count)
            assert off == pytest.approx(COVERAGE_FACTOR, rel=0.01)
    assert 0 <= found.low < found.high <= MILLION


def test_what_is_reported_does_not_depend_on_the_clocks_origin() -> None:
    samples = measured(RATE, 0.5)
    shift_ns = 123_456_789 * MS

    def later(one: Sample) -> Sample:
        if isinstance(one, Train):
            return replace(one, sent_ns=tuple(time_ns + shift_ns for time_ns in one.sent_ns))
        return Gap(
            one.sequence,
            one.packet_bytes,
            one.sent_ns + shift_ns,
            one.sink_received_ns - NOW_NS // 2,
            one.sink_sent_ns - NOW_NS // 2,
            one.received_ns + shift_ns,
        )

    assert report(map(later, samples)) == report(samples)

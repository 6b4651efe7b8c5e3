"""Paced trains: the fluid queue's formula and what becomes of many trains, computed here again."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from random import Random
from statistics import fmean

import pytest

from openqwave.estimate.samples import Train
from openqwave.estimate.strain import (
    EXACT_PART,
    LEAST_TRAINS,
    MOST_LATE_PART,
    Load,
    cross_bps,
    load,
    offered_bps,
)
from openqwave.model.estimates import Doubt, Inconclusive
from tests.unit.made_samples import (
    MBIT,
    MS,
    Queue,
    constant,
    lost_train,
    packet_ns,
    passed,
    poisson,
    train,
)

CAPACITY = 20 * MBIT
GAP_NS = round(packet_ns(CAPACITY))


def fluid(offered: float, cross: float, capacity: float = CAPACITY, packets: int = 17) -> Train:
    """A train through a queue that serves two fluids in proportion to their rates.

    While a packet of L bits is offered, in L / r, the queue gains L and X L / r of others, and all
    of it takes (L + X L / r) / C.
    """
    bits = 12_000.0
    spacing_s = (bits + cross * bits / offered) / capacity
    gap_ns = round(bits / offered * 1e9)
    return train([spacing_s * 1e9] * (packets - 1), gap_ns=gap_ns)


def found_load(trains: list[Train], capacity_bps: int = CAPACITY) -> Load:
    found = load(trains, capacity_bps)
    assert isinstance(found, Load)
    return found


@pytest.mark.parametrize("offered", [18 * MBIT, 20 * MBIT, 25 * MBIT])
@pytest.mark.parametrize("share", [0.15, 0.3, 0.6, 0.9])
def test_the_fluid_queue_is_turned_around(offered: int, share: float) -> None:
    # Above what is available, or the queue would not be busy all the time.
    cross = max(share * CAPACITY, CAPACITY - offered)
    assert cross_bps(fluid(offered, cross), CAPACITY) == pytest.approx(cross, rel=0.001)


def test_a_train_that_leaves_as_it_came_met_nobody() -> None:
    assert cross_bps(fluid(CAPACITY, 0.0), CAPACITY) == pytest.approx(0, abs=0.001 * CAPACITY)


def test_offered_is_bits_over_time() -> None:
    assert offered_bps(train([0] * 4, spacing_ns=1 * MS, packet_bytes=1000)) == pytest.approx(8e6)


def test_all_at_once_has_a_rate_all_the_same() -> None:
    assert offered_bps(train([0] * 4, spacing_ns=0)) > 1e12


@pytest.mark.parametrize("part", [0.5, 1 - MOST_LATE_PART - 0.02])
def test_a_train_that_its_own_sender_held_up_says_nothing(part: float) -> None:
    late = train([GAP_NS] * 16, gap_ns=GAP_NS, spacing_ns=GAP_NS / part)
    assert cross_bps(late, CAPACITY) is None
    in_time = train([GAP_NS] * 16, gap_ns=GAP_NS, spacing_ns=GAP_NS / (1 - MOST_LATE_PART + 0.02))
    assert cross_bps(in_time, CAPACITY) is not None


def test_a_train_in_one_clump_says_nothing() -> None:
    assert cross_bps(train([0] * 16, gap_ns=GAP_NS), CAPACITY) is None


def test_a_receivers_clumps_are_taken_out() -> None:
    # Four packets at a time: the spacing is right from clump to clump only.
    deltas = [4 * GAP_NS if turn % 4 == 3 else 0 for turn in range(16)]
    cross = cross_bps(train(deltas, gap_ns=GAP_NS), CAPACITY)
    assert cross == pytest.approx(0, abs=0.001 * CAPACITY)


@pytest.mark.parametrize("seed", range(10))
def test_late_stamps_are_not_traffic(seed: int) -> None:
    # Any packets but the last ones are late by up to three packets' time, every other one.
    random = Random(seed)
    plain = fluid(CAPACITY, 0.5 * CAPACITY, packets=24)
    arrivals = [0, *accumulate(plain.deltas_ns)]
    late = [time_ns + random.choice([0, random.randrange(3 * GAP_NS)]) for time_ns in arrivals[:-4]]
    stamps = list(accumulate([*late, *arrivals[-4:]], max))
    disturbed = train([other - one for one, other in pairwise(stamps)], gap_ns=GAP_NS)
    assert cross_bps(disturbed, CAPACITY) == pytest.approx(0.5 * CAPACITY, rel=0.3)


def test_a_receiver_that_stood_still_is_not_traffic() -> None:
    stood = train([GAP_NS] * 5 + [100 * GAP_NS] + [GAP_NS] * 10, gap_ns=GAP_NS)
    assert cross_bps(stood, CAPACITY) is None


def test_many_trains_are_their_mean_and_its_standard_error() -> None:
    random = Random(1)
    crosses = [random.uniform(0.2, 0.8) * CAPACITY for _ in range(12)]
    found = found_load([fluid(CAPACITY, cross) for cross in crosses])
    mean = sum(crosses) / 12
    squares = sum((cross - mean) ** 2 for cross in crosses)
    assert found.train_count == 12
    assert found.available_bps == pytest.approx(CAPACITY - mean, rel=0.002)
    assert found.error_bps == pytest.approx(math.sqrt(squares / 11 / 12), rel=0.01)


def test_what_cannot_be_used_is_left_out() -> None:
    good = [fluid(CAPACITY, part * CAPACITY) for part in (0.2, 0.4, 0.5, 0.6)]
    bad = [
        lost_train(17, gap_ns=GAP_NS),
        # Back to back, and offered far below the capacity.
        train([GAP_NS] * 16),
        fluid(EXACT_PART * CAPACITY * 0.9, 0.5 * CAPACITY),
        train([GAP_NS] * 16, gap_ns=GAP_NS, spacing_ns=2 * GAP_NS),
    ]
    assert load([*bad, *good], CAPACITY) == load(good, CAPACITY)


@pytest.mark.parametrize("count", range(LEAST_TRAINS))
def test_too_few_are_refused(count: int) -> None:
    found = load([fluid(CAPACITY, 0.5 * CAPACITY)] * count, CAPACITY)
    assert isinstance(found, Inconclusive)
    assert found.doubt is Doubt.TOO_FEW


def test_less_than_nothing_and_more_than_all_is_not_available() -> None:
    assert found_load([fluid(CAPACITY, 1.5 * CAPACITY)] * 5).available_bps == 0
    # A capacity that was taken for too small makes the other traffic negative.
    assert found_load([fluid(CAPACITY, 0.0)] * 5, 15 * MBIT).available_bps == 15 * MBIT


@pytest.mark.parametrize("rate_bps", [2 * MBIT, 20 * MBIT, 100 * MBIT])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("kind", [poisson, constant])
def test_trains_through_a_queue_find_what_is_free(
    rate_bps: int, share: float, kind: object
) -> None:
    errors, held = [], 0
    for seed in range(6):
        random = Random(seed)
        others = (poisson if kind is poisson else constant)(share * rate_bps, random)
        queue = Queue(rate_bps, others)
        gap_ns = round(packet_ns(rate_bps))
        at_ns, trains = 0.0, []
        for _ in range(20):
            at_ns += 40 * gap_ns * (1 + random.random()) + 60 * gap_ns * share
            trains.append(
                passed(
                    queue, packets=17, at_ns=at_ns, spacing_ns=gap_ns, gap_ns=gap_ns, noise=random
                )
            )
        found = found_load(trains, rate_bps)
        error = (found.available_bps - (1 - share) * rate_bps) / rate_bps
        errors.append(error)
        held += abs(error) <= 2 * found.error_bps / rate_bps + 0.02
    assert abs(fmean(errors)) < 0.06
    assert max(map(abs, errors)) < 0.25
    assert held >= 5

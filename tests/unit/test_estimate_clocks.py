"""Offset, drift and steps of clocks are taken out of delays, and nothing else is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from random import Random

import pytest

from openqwave.estimate.clocks import LEAST_SEGMENT, MAX_DRIFT_PPM, STEP_WINDOW, align
from openqwave.estimate.samples import Gap
from tests.unit.made_samples import (
    MBIT,
    MS,
    OFFSET_NS,
    US,
    Queue,
    S,
    gap,
    lost_gap,
    packet_ns,
    poisson,
    random_times,
)

Wait = Callable[[float], float]


def no_wait(_: float) -> float:
    return 0.0


def probes(
    times: Sequence[float],
    there: Wait = no_wait,
    back: Wait = no_wait,
    *,
    drift_ppm: float = 0.0,
    steps: Sequence[tuple[float, float]] = (),
) -> list[Gap]:
    """Probes that wait as told, against a sink's clock that drifts and is set at times."""

    def offset_ns(at_ns: float) -> float:
        stepped = sum(size_ns for time_ns, size_ns in steps if at_ns >= time_ns)
        return OFFSET_NS + at_ns * drift_ppm / 1e6 + stepped

    return [
        gap(number, at_ns, there(at_ns), back(at_ns), offset_ns=offset_ns(at_ns))
        for number, at_ns in enumerate(times)
    ]


def noise(seed: int, mean_ns: float = 5 * US) -> Wait:
    random = Random(seed)
    return lambda _: random.expovariate(1 / mean_ns)


def loaded(seed: int, load: float = 0.5, rate_bps: float = 20 * MBIT) -> Wait:
    return Queue(rate_bps, poisson(load * rate_bps, Random(seed))).wait_ns


def both(*waits: Wait) -> Wait:
    return lambda at_ns: sum(wait(at_ns) for wait in waits)


# -- drift ----------------------------------------------------------------------------


@pytest.mark.parametrize("drift_ppm", [0, 100, -100, 500, -500])
@pytest.mark.parametrize("load", [0.0, 0.5, 0.75])
@pytest.mark.parametrize("seed", [1, 2])
def test_drift_is_taken_out(drift_ppm: float, load: float, seed: int) -> None:
    times = random_times(200, 2.5, Random(seed))
    still = probes(times, both(loaded(seed, load), noise(seed)), noise(seed + 1))
    moved = probes(
        times, both(loaded(seed, load), noise(seed)), noise(seed + 1), drift_ppm=drift_ppm
    )
    found, plain = align(moved), align(still)
    assert found.drift_ppm == pytest.approx(drift_ppm, abs=10)
    assert found.step_count == 0
    assert len(found.waits) == len(times)
    for one, other in zip(found.waits, plain.waits, strict=True):
        # 500 ppm make 1250 us in this time.
        assert abs(one.there_ns - other.there_ns) < 30 * US
        assert abs(one.back_ns - other.back_ns) < 30 * US


@pytest.mark.parametrize("seed", range(3))
def test_waits_are_what_was_waited(seed: int) -> None:
    times = random_times(200, 2.5, Random(seed))
    queue = loaded(seed)
    waited = [queue(at_ns) for at_ns in times]
    by_time = dict(zip(times, waited, strict=True))
    found = align(probes(times, lambda at_ns: by_time[at_ns], drift_ppm=77))
    for wait, true_ns in zip(found.waits, waited, strict=True):
        assert abs(wait.there_ns - true_ns) < 10 * US
        assert wait.back_ns < 10 * US


@pytest.mark.parametrize("is_there", [True, False])
def test_the_quieter_direction_knows_the_drift(is_there: bool) -> None:
    # A queue that grows by 2 ms a second looks like drift to its own direction.
    times = random_times(200, 2.0, Random(1))
    grows: Wait = lambda at_ns: at_ns * 0.002  # noqa: E731 - one line is what it is
    disturbed = both(grows, loaded(4, 0.6))
    directions = (disturbed, noise(2)) if is_there else (noise(2), disturbed)
    found = align(probes(times, *directions, drift_ppm=30))
    assert found.drift_ppm == pytest.approx(30, abs=10)


def test_a_steeper_slope_than_a_clocks_is_a_queue() -> None:
    times = [turn * 5.0 * MS for turn in range(200)]
    steep = align(probes(times, drift_ppm=5 * MAX_DRIFT_PPM))
    assert abs(steep.drift_ppm) == pytest.approx(MAX_DRIFT_PPM)
    steep = align(probes(times, drift_ppm=-5 * MAX_DRIFT_PPM))
    assert steep.drift_ppm == pytest.approx(-MAX_DRIFT_PPM)


def slope_by_trying(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least sum of distances to a line below all points, by all pairs: (mean distance, slope)."""
    best: tuple[float, float] | None = None
    for (x, y), (other_x, other_y) in itertools.combinations(points, 2):
        slope = (other_y - y) / (other_x - x)
        distances = [value - (y + slope * (time - x)) for time, value in points]
        if min(distances) > -1e-3:
            mean = sum(distances) / len(distances)
            best = min(best or (mean, slope), (mean, slope))
    assert best is not None
    return best


@pytest.mark.parametrize("seed", range(200))
def test_the_line_is_the_best_of_all_lines(seed: int) -> None:
    random = Random(seed)
    count = random.randrange(LEAST_SEGMENT, 2 * STEP_WINDOW)
    times = sorted(random.sample(range(0, 1000 * MS, 1000), count))
    there = [random.randrange(200 * US) for _ in times]
    back = [random.randrange(200 * US) for _ in times]
    gaps = [gap(turn, *values) for turn, values in enumerate(zip(times, there, back, strict=True))]
    distance, slope = slope_by_trying(list(zip(map(float, times), map(float, there), strict=True)))
    other_distance, other = slope_by_trying(
        list(zip(map(float, times), map(float, back), strict=True))
    )
    expected = slope if distance <= other_distance else -other
    limit = MAX_DRIFT_PPM / 1e6
    assert align(gaps).drift_ppm == pytest.approx(max(-limit, min(limit, expected)) * 1e6, abs=0.01)


# -- steps ----------------------------------------------------------------------------


@pytest.mark.parametrize("size_ns", [3 * MS, -3 * MS, 50 * MS, -50 * MS, 20 * S, -20 * S])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_step_is_found_and_both_sides_have_their_waits(size_ns: int, seed: int) -> None:
    times = random_times(200, 2.5, Random(seed))
    # A full packet at 100 Mbit/s is far below a step, as queues have to be.
    queue = loaded(seed, 0.5, 100 * MBIT)
    waited = {at_ns: queue(at_ns) for at_ns in times}
    found = align(
        probes(times, waited.__getitem__, noise(seed), drift_ppm=20, steps=[(1.1 * S, size_ns)])
    )
    assert found.step_count == 1
    assert found.drift_ppm == pytest.approx(20, abs=15)
    assert len(found.waits) == len(times)
    for at_ns, wait in zip(times, found.waits, strict=True):
        assert abs(wait.there_ns - waited[at_ns]) < 50 * US


def test_two_steps_within_a_second_are_two() -> None:
    times = random_times(60, 2.5, Random(3))
    steps = [(0.9 * S, 40 * MS), (1.5 * S, -25 * MS)]
    found = align(probes(times, noise(1), noise(2), steps=steps))
    assert found.step_count == 2
    assert max(wait.there_ns for wait in found.waits) < 200 * US


def test_a_queue_that_drains_when_a_clock_is_set_hides_nothing() -> None:
    times = [turn * 5.0 * MS for turn in range(400)]
    # 3 ms of queue are gone in the moment in which the clock is set by 40 ms.
    full: Wait = lambda at_ns: 3.0 * MS if 0.5 * S <= at_ns < S else 0.0  # noqa: E731
    for size_ns in (40 * MS, -40 * MS):
        found = align(probes(times, both(full, noise(1)), noise(2), steps=[(1.0 * S, size_ns)]))
        assert found.step_count == 1
        for at_ns, wait in zip(times, found.waits, strict=True):
            assert abs(wait.there_ns - full(at_ns)) < 100 * US


NO_STEPS: dict[str, tuple[Wait, Wait]] = {
    "a queue that fills at once": (lambda at: 20.0 * MS if at > S else 0.0, noise(1)),
    "a queue that drains at once": (lambda at: 20.0 * MS if at < S else 0.0, noise(1)),
    "the same on the way back": (noise(1), lambda at: 20.0 * MS if at < S else 0.0),
    "another route both ways": (lambda at: 8.0 * MS if at > S else 0.0,) * 2,
    "one late stamp": (lambda at: 30.0 * MS if at == 205 * 5.0 * MS else 0.0, noise(1)),
    "a few late stamps": (lambda at: 30.0 * MS if at % (35 * MS) == 0 else 0.0, noise(1)),
    "load at 2 Mbit/s": (loaded(5, 0.7, 2 * MBIT), noise(1)),
    "load at 2 Mbit/s both ways": (loaded(5, 0.7, 2 * MBIT), loaded(6, 0.7, 2 * MBIT)),
    "jitter of 8 ms both ways": (
        lambda at: (at * 7919) % (8 * MS),
        lambda at: (at * 104729) % (8 * MS),
    ),
    "bursts": (lambda at: 15.0 * MS if at // (100 * MS) % 2 else 0.0, noise(1)),
}


@pytest.mark.parametrize("name", NO_STEPS)
def test_what_is_no_step_is_not_taken_for_one(name: str) -> None:
    times = [turn * 5.0 * MS for turn in range(400)]
    found = align(probes(times, *NO_STEPS[name]))
    assert found.step_count == 0
    assert len(found.waits) == len(times)


# -- what is left out -----------------------------------------------------------------


def test_lost_probes_are_left_out() -> None:
    gaps = probes([turn * 5.0 * MS for turn in range(100)], noise(1), noise(2))
    thinned = [
        lost_gap(turn, turn * 5 * MS) if turn % 3 == 0 else gaps[turn] for turn in range(100)
    ]
    kept = [gaps[turn] for turn in range(100) if turn % 3]
    assert align(thinned) == align(kept)
    assert [wait.sent_ns for wait in align(thinned).waits] == [one.sent_ns for one in kept]


@pytest.mark.parametrize("count", range(LEAST_SEGMENT))
def test_too_few_have_no_line(count: int) -> None:
    found = align(probes([turn * 5.0 * MS for turn in range(count)]))
    assert found.waits == ()
    assert found.drift_ppm == 0.0


def test_one_stamp_that_is_early_does_not_make_the_others_wait() -> None:
    times = [turn * 5.0 * MS for turn in range(300)]
    early: Wait = lambda at_ns: -2.0 * MS if at_ns == 150 * 5 * MS else 0.0  # noqa: E731
    found = align(probes(times, both(noise(1), early), noise(2)))
    middle = sorted(wait.there_ns for wait in found.waits)[150]
    assert middle < 50 * US


def test_all_at_one_time_is_no_slope() -> None:
    found = align(probes([0.0] * 10, noise(1), noise(2)))
    assert found.drift_ppm == 0.0
    assert packet_ns(100 * MBIT) > max(wait.there_ns for wait in found.waits)

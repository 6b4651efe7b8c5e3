"""Round trip and jitter against the definition of a quantile."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from openqwave.estimate.clocks import align
from openqwave.estimate.rtt import (
    LEAST_SAMPLES,
    jitter_back,
    jitter_there,
    quantile,
    round_trip,
)
from openqwave.model.estimates import Doubt, Estimate, Inconclusive
from tests.unit.made_samples import MS, ONE_WAY_NS, US, gap, lost_gap


def is_quantile(value: int, values: Sequence[int], share: float) -> bool:
    """At least that share lies at the value or below, and no more lies below it."""
    at_or_below = sum(one <= value for one in values) / len(values)
    below = sum(one < value for one in values) / len(values)
    return value in values and below <= share <= at_or_below


@pytest.mark.parametrize("count", [1, 2, 5, 19, 20, 21, 100, 997])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95, 1.0])
def test_a_quantile_is_one(count: int, share: float) -> None:
    random = Random(count)
    values = sorted(random.randrange(count) for _ in range(count))
    assert is_quantile(quantile(values, share), values, share)


@pytest.mark.parametrize("count", [LEAST_SAMPLES, 20, 333])
def test_the_round_trip_is_the_median_between_two_quantiles(count: int) -> None:
    random = Random(count)
    waits = [round(random.expovariate(1 / (300 * US))) for _ in range(2 * count)]
    gaps = [gap(turn, turn * MS, *waits[2 * turn : 2 * turn + 2]) for turn in range(count)]
    trips = [2 * ONE_WAY_NS + sum(waits[2 * turn : 2 * turn + 2]) for turn in range(count)]
    found = round_trip(gaps)
    assert isinstance(found, Estimate)
    assert is_quantile(found.value, trips, 0.5)
    assert is_quantile(found.low, trips, 0.05)
    assert is_quantile(found.high, trips, 0.95)
    inside = sum(found.low <= trip <= found.high for trip in trips)
    assert inside >= found.confidence * count


def test_time_at_the_sink_and_clocks_do_not_count() -> None:
    plain = round_trip([gap(turn, turn * MS) for turn in range(9)])
    odd = round_trip([gap(turn, turn * MS, offset_ns=turn * 777 * MS) for turn in range(9)])
    assert isinstance(plain, Estimate)
    assert plain.value == 2 * ONE_WAY_NS
    assert odd == plain


def test_lost_probes_are_left_out() -> None:
    gaps = [gap(turn, turn * MS, turn * US) for turn in range(40)]
    with_losses = [one for each in gaps for one in (each, lost_gap(1000, 1.0))]
    assert round_trip(with_losses) == round_trip(gaps)


def test_few_have_no_percentiles() -> None:
    gaps = [gap(turn, turn * MS) for turn in range(LEAST_SAMPLES - 1)]
    few, none = round_trip(gaps), round_trip([lost_gap(1, 0.0)])
    assert isinstance(few, Inconclusive)
    assert few.doubt is Doubt.TOO_FEW
    assert isinstance(none, Inconclusive)
    assert none.doubt is Doubt.NO_SAMPLES


def test_jitter_is_the_delay_beyond_the_fastest_each_way() -> None:
    random = Random(3)
    waits = [(random.randrange(4 * MS), random.randrange(200 * US)) for _ in range(500)]
    gaps = [gap(turn, turn * MS, *both) for turn, both in enumerate(waits)]
    alignment = align(gaps)
    for found, direction in ((jitter_there(alignment), 0), (jitter_back(alignment), 1)):
        assert isinstance(found, Estimate)
        least = min(both[direction] for both in waits)
        ordered = sorted(both[direction] - least for both in waits)
        # The base is not exactly the fastest one, and drift is fitted.
        assert found.value == pytest.approx(ordered[475], abs=0.05 * ordered[-1])
        assert found.low == pytest.approx(ordered[25], abs=0.05 * ordered[-1])
        assert found.high >= found.value


def test_a_still_path_has_no_jitter() -> None:
    found = jitter_there(align([gap(turn, turn * MS) for turn in range(50)]))
    assert isinstance(found, Estimate)
    assert found.value == found.high == 0


def test_jitter_of_nothing_is_not_known() -> None:
    found = jitter_back(align([]))
    assert isinstance(found, Inconclusive)
    assert found.doubt is Doubt.NO_SAMPLES

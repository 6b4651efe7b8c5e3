"""One train by itself: its rate, its clumps, and the knee of a token bucket."""

from __future__ import annotations

from random import Random

import pytest

from openqwave.estimate.arrivals import knee_of, spread_of
from tests.unit.made_samples import MBIT, US, packet_ns, train

PACKET_NS = packet_ns(20 * MBIT)


def test_a_trains_rate_is_its_bits_over_its_time() -> None:
    found = spread_of(train([100 * US, 120 * US, 110 * US], packet_bytes=1000))
    assert found is not None
    assert found.rate_bps == pytest.approx(3 * 8000 / 330e-6)
    # From the second packet on, whose clump nobody else can have opened.
    assert found.timed_bps == pytest.approx(2 * 8000 / 230e-6)
    assert found.clumped_share == 0
    assert found.intervals_ns == (100 * US, 120 * US, 110 * US)


def test_of_clumps_only_what_was_sent_after_the_first_counts() -> None:
    # Clumps of 2, 3 and 1 packets; the first one's own sending was not timed.
    found = spread_of(train([0, 240 * US, 0, 0, 360 * US], packet_bytes=1500))
    assert found is not None
    assert found.rate_bps == pytest.approx(4 * 12_000 / 600e-6)
    # From the first of the second to the first of the last: three packets' bits lie between.
    assert found.timed_bps == pytest.approx(3 * 12_000 / 360e-6)
    assert found.clumped_share == pytest.approx(3 / 5)
    assert found.intervals_ns == (240 * US, 360 * US)


def test_packets_far_closer_than_the_others_are_one_clump() -> None:
    close = spread_of(train([5 * US, 240 * US, 4 * US, 6 * US, 345 * US], packet_bytes=1500))
    assert close is not None
    assert close.clumped_share == pytest.approx(3 / 5)
    assert close.intervals_ns == (245 * US, 355 * US)
    assert close.rate_bps == pytest.approx(4 * 12_000 / 600e-6)


@pytest.mark.parametrize("deltas", [(), (0,), (0, 0, 0, 0)])
def test_one_clump_has_no_spread(deltas: tuple[int, ...]) -> None:
    assert spread_of(train(deltas)) is None


@pytest.mark.parametrize("head", [6, 10, 20])
@pytest.mark.parametrize("tail", [8, 12, 30])
@pytest.mark.parametrize("boost", [2, 5, 50])
def test_a_knee_is_found_where_it_is(head: int, tail: int, boost: int) -> None:
    slow_ns = packet_ns(20 * MBIT)
    found = knee_of(train([slow_ns / boost] * head + [slow_ns] * tail))
    assert found is not None
    assert found.head_packets == pytest.approx(head, abs=1)
    assert found.tail_bps == pytest.approx(20 * MBIT, rel=0.01)
    assert found.head_bps == pytest.approx(boost * 20 * MBIT, rel=0.35)


@pytest.mark.parametrize(
    "deltas",
    [
        [],
        [PACKET_NS] * 3,
        [PACKET_NS] * 30,
        [0] * 30,
        # Slow, then fast, is no bucket that runs dry; one late packet is none either.
        [PACKET_NS] * 15 + [PACKET_NS / 5] * 15,
        [PACKET_NS] * 15 + [20 * PACKET_NS] + [PACKET_NS] * 14,
        # Fast, and then in clumps, which is no even tail.
        [PACKET_NS / 10] * 10 + [0, 0, 0, 5 * PACKET_NS] * 5,
        # Clump after clump.
        [10 * PACKET_NS if turn % 10 == 9 else 0 for turn in range(30)],
    ],
)
def test_what_has_no_knee_has_none(deltas: list[float]) -> None:
    assert knee_of(train(deltas)) is None


@pytest.mark.parametrize("seed", range(30))
def test_noise_makes_no_knee(seed: int) -> None:
    random = Random(seed)
    deltas = [PACKET_NS + random.gauss(0, PACKET_NS / 6) for _ in range(40)]
    assert knee_of(train(deltas)) is None

"""How many trains, how long, how many probes: steps on the way, and kinds of links."""

from __future__ import annotations

import itertools
import math

import pytest

from openqwave.estimate.dispersion import Capacity, LinkKind
from openqwave.model.estimates import Doubt, Inconclusive
from openqwave.probing import schedule
from openqwave.probing.pace import MAX_PER_SECOND, MIN_PER_SECOND
from openqwave.probing.schedule import Series
from openqwave.probing.trains import OPEN

MBIT = 1_000_000
S = 1_000_000_000
WINDOW_NS = 2_300_000_000


def found(kind: LinkKind = LinkKind.QUEUE, clump_ns: int = 0) -> Capacity:
    return Capacity(Inconclusive(Doubt.NO_SAMPLES), kind, clump_ns=clump_ns)


def steps_of(belief_bps: float, most: int = schedule.LONGEST) -> list[Series]:
    """The whole ramp on a link with a rate."""
    steps: list[Series] = []
    packets = 0
    while (
        series := schedule.ramp(len(steps), belief_bps if steps else None, packets, most)
    ) is not None:
        steps.append(series)
        packets = series.packets
        assert len(steps) < 20
    return steps


def test_a_packet_takes_its_bits_over_the_rate() -> None:
    assert schedule.packet_ns(11.968 * MBIT) == pytest.approx(1_000_000)


def test_the_ramp_begins_with_pairs_whatever_is_believed() -> None:
    assert steps_of(20 * MBIT)[0].packets == 2
    assert schedule.ramp(0, 1e9, 0) == schedule.ramp(0, None, 0)


@pytest.mark.parametrize("rate", [1, 5, 20, 100, 1000, 10_000])
def test_each_step_is_longer_and_at_most_four_times(rate: int) -> None:
    lengths = [series.packets for series in steps_of(rate * MBIT)]
    for before, after in itertools.pairwise(lengths):
        assert before < after <= 4 * before
    assert lengths[-1] <= schedule.LONGEST


def test_the_ramp_of_a_fast_link_reaches_the_longest_train() -> None:
    assert steps_of(1000 * MBIT)[-1].packets == schedule.LONGEST


def test_what_did_not_arrive_is_not_tried_longer() -> None:
    assert max(series.packets for series in steps_of(1000 * MBIT, most=20)) == 20
    assert schedule.steady(1000 * MBIT, 20, False).packets == 20


def test_trains_that_arrive_all_at_once_grow_to_the_longest() -> None:
    lengths, packets = [], 2
    for step in range(1, 10):
        series = schedule.ramp(step, None, packets)
        if series is None:
            break
        packets = series.packets
        lengths.append(packets)
    assert lengths == [8, 32, schedule.LONGEST]


def test_quick_means_less() -> None:
    for rate in (2, 20, 100, 1000):
        whole = schedule.steady(rate * MBIT, schedule.LONGEST, False)
        quick = schedule.steady(rate * MBIT, schedule.LONGEST, True)
        assert quick.count < whole.count
        assert quick.packets == whole.packets
        paced = schedule.paced(rate * MBIT, found(), WINDOW_NS, False)
        hasty = schedule.paced(rate * MBIT, found(), WINDOW_NS, True)
        assert hasty.count <= paced.count


def test_paced_trains_go_at_the_capacity() -> None:
    for rate in (2, 20, 100, 1000):
        series = schedule.paced(rate * MBIT, found(), WINDOW_NS, False)
        assert series.gap_ns == pytest.approx(schedule.packet_ns(rate * MBIT), abs=1)


def test_paced_trains_outlast_clumps() -> None:
    plain = schedule.paced(300 * MBIT, found(), WINDOW_NS, False)
    clumped = schedule.paced(300 * MBIT, found(LinkKind.COALESCED, 300_000), WINDOW_NS, False)
    assert clumped.packets > plain.packets
    assert clumped.packets * clumped.gap_ns >= 0.9 * schedule.CLUMPS * 300_000


def test_where_stations_take_turns_long_trains_go_at_once() -> None:
    series = schedule.paced(50 * MBIT, found(LinkKind.CONTENTION), WINDOW_NS, False)
    assert series.gap_ns == 0
    assert series.packets == schedule.LONGEST
    assert series.count >= 3


def test_on_a_bucket_no_paced_train_is_sent() -> None:
    assert schedule.paced(50 * MBIT, found(LinkKind.BUCKET), WINDOW_NS, False).count == 0


@pytest.mark.parametrize("knee", [4, 10, 40, 90])
def test_a_bucket_is_emptied_and_seen_empty(knee: int) -> None:
    series = schedule.beyond(knee)
    assert knee < series.packets <= schedule.LONGEST
    assert series.count >= 2, "one knee may be an accident"
    if knee + 10 < schedule.LONGEST:
        assert series.packets >= knee + 10


def test_probes_are_a_small_part_and_within_what_may_be_sent() -> None:
    for rate in (0.1, 1, 5, 20, 100, 1000):
        wanted = schedule.probes_per_second(rate * MBIT, 60)
        assert MIN_PER_SECOND <= wanted <= MAX_PER_SECOND
    assert schedule.probes_per_second(100 * MBIT, 60) == schedule.MOST_PROBES
    # Larger packets, fewer of them.
    assert schedule.probes_per_second(20 * MBIT, 80) < schedule.probes_per_second(20 * MBIT, 60)
    assert MIN_PER_SECOND <= schedule.probes_per_second(None, 60) <= MAX_PER_SECOND


def test_no_train_is_longer_than_a_session_may_send() -> None:
    assert OPEN.train_packets >= schedule.LONGEST


@pytest.mark.parametrize("kind", [LinkKind.QUEUE, LinkKind.CONTENTION])
def test_no_train_is_longer_than_wanted(kind: LinkKind) -> None:
    for rate in (2, 20, 300, 1000):
        assert schedule.paced(rate * MBIT, found(kind), WINDOW_NS, False, 15).packets <= 15
    assert schedule.beyond(90, 66).packets == 66


def test_trains_are_as_many_as_can_be_paid() -> None:
    series = Series(10, 8, 5)
    each_bytes = 8 * schedule.PACKET_BYTES
    assert schedule.affordable(series, math.inf) == series
    assert schedule.affordable(series, 3.5 * each_bytes) == Series(3, 8, 5)
    assert schedule.affordable(series, each_bytes - 1).count == 0


def test_probes_cost_no_more_than_they_may() -> None:
    assert schedule.probes_per_second(20 * MBIT, 60, 48_000) == 100
    assert schedule.probes_per_second(20 * MBIT, 60, 0) == schedule.FEWEST_PROBES

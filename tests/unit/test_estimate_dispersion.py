"""Capacity from trains whose truth is known: plain ones, and each way in which they mislead."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from random import Random
from statistics import fmean

import pytest

from openqwave.estimate.dispersion import (
    CONFIDENCE,
    LEAST_TRAINS,
    Capacity,
    LinkKind,
    capacity,
    densest_half,
)
from openqwave.estimate.samples import Train
from openqwave.model.estimates import Doubt, Estimate, Inconclusive
from tests.unit.made_samples import (
    MBIT,
    MS,
    US,
    Queue,
    constant,
    lost_train,
    packet_ns,
    passed,
    poisson,
    train,
)

RATES = [2 * MBIT, 20 * MBIT, 100 * MBIT, 300 * MBIT, 1000 * MBIT]
PACKET_NS = packet_ns(20 * MBIT)
LENGTHS = [2, 2, 2, 2, 8, 13, 13, 13, 13, 13, 13]


def lengths(rate_bps: float) -> list[int]:
    """Pairs, a ramp, and long trains: what a measurement sends on such a link."""
    long = max(3, min(96 if rate_bps > 120 * MBIT else 40, int(8 * MS / packet_ns(rate_bps))))
    return [2, 2, 2, 2, max(3, long // 3), *[long] * 7]


def through(
    rate_bps: float,
    load: float = 0.0,
    *,
    seed: int = 1,
    before: tuple[float, float] | None = None,
    behind: tuple[float, float] | None = None,
    noise_ns: float = 5 * US,
) -> list[Train]:
    """Trains through a link with a rate and a load; one before it and one behind it may be, too."""
    random = Random(seed)

    def queue(link: tuple[float, float]) -> Queue:
        return Queue(link[0], poisson(link[0] * link[1], random))

    links = [link for link in (before, (rate_bps, load), behind) if link is not None]
    queues = [queue(link) for link in links]
    at_ns = 0.0
    trains = []
    for packets in lengths(rate_bps):
        at_ns += 20 * MS + 3 * packets * packet_ns(rate_bps)
        trains.append(
            passed(*queues, packets=packets, at_ns=at_ns, noise=random, noise_ns=noise_ns)
        )
    return trains


def estimate_of(found: Capacity) -> Estimate:
    assert isinstance(found.estimate, Estimate), found
    estimate = found.estimate
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate.confidence == CONFIDENCE
    return estimate


def doubt_of(found: Capacity) -> Doubt:
    assert isinstance(found.estimate, Inconclusive), found
    return found.estimate.doubt


@pytest.mark.parametrize("seed", range(20))
def test_the_densest_half_is_the_shortest_interval_with_half_of_all(seed: int) -> None:
    random = Random(seed)
    values = [random.gauss(100, 20) for _ in range(random.randrange(1, 30))]
    size = len(values) // 2 + 1
    ordered = sorted(values)
    widths = {
        ordered[end - 1] - ordered[end - size]: ordered[end - size : end]
        for end in range(size, len(values) + 1)
    }
    inside = widths[min(widths)]
    mean, half_width = densest_half(values)
    assert mean == pytest.approx(fmean(inside))
    assert half_width == pytest.approx((inside[-1] - inside[0]) / 2)


# -- a queue with a rate --------------------------------------------------------------


@pytest.mark.parametrize("rate_bps", RATES)
def test_without_noise_the_rate_is_exact(rate_bps: int) -> None:
    trains = [train([packet_ns(rate_bps)] * (packets - 1)) for packets in lengths(rate_bps)]
    found = capacity(trains)
    estimate = estimate_of(found)
    assert estimate.value == pytest.approx(rate_bps, rel=0.001)
    assert estimate.low < rate_bps < estimate.high
    # Nothing varies, and still not everything is claimed.
    assert 0.005 < (estimate.high - estimate.low) / rate_bps < 0.05
    assert (found.kind, found.boost_bps, found.clump_ns) == (LinkKind.QUEUE, 0, 0)


@pytest.mark.parametrize("rate_bps", RATES)
@pytest.mark.parametrize("load", [0.0, 0.25, 0.5, 0.75])
def test_other_traffic_at_the_narrow_link_is_seen_through(rate_bps: int, load: float) -> None:
    held = 0
    for seed in range(5):
        found = capacity(through(rate_bps, load, seed=seed))
        estimate = estimate_of(found)
        # What comes between while the train arrives is its share of the sending rate, 8 Gbit/s.
        mixed = load * rate_bps / 8e9
        assert estimate.value == pytest.approx(rate_bps, rel=0.03 + 2 * mixed)
        assert found.kind is LinkKind.QUEUE
        held += estimate.low <= rate_bps <= estimate.high * (1 + mixed)
    assert held >= 4


@pytest.mark.parametrize("load", [0.3, 0.6])
@pytest.mark.parametrize("seed", range(5))
def test_packets_mixed_in_before_the_narrow_link(load: float, seed: int) -> None:
    # A train leaves the first link at 100 Mbit/s at best, mixed with other traffic there.
    trains = through(20 * MBIT, seed=seed, before=(100 * MBIT, load))
    estimate = estimate_of(capacity(trains))
    assert estimate.value == pytest.approx(20 * MBIT, rel=0.03)
    assert estimate.low <= 20 * MBIT <= estimate.high


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_packets_pushed_together_behind_the_narrow_link(load: float) -> None:
    stated = 0
    for seed in range(6):
        found = capacity(through(20 * MBIT, seed=seed, behind=(50 * MBIT, load)))
        # Pairs that were all pulled apart there look like turns, which is refused.
        if isinstance(found.estimate, Estimate):
            estimate = estimate_of(found)
            assert estimate.value == pytest.approx(20 * MBIT, rel=0.06)
            assert estimate.low <= 20 * MBIT <= estimate.high
            stated += 1
    assert stated >= 4


def test_paced_trains_and_lost_ones_do_not_count() -> None:
    trains = through(20 * MBIT)
    others = [train([2 * MS] * 16, gap_ns=600 * US), lost_train(13), lost_train(13, gap_ns=600_000)]
    assert capacity([*trains, *others]) == capacity(trains)


@pytest.mark.parametrize("order", range(3))
def test_the_order_of_trains_does_not_matter(order: int) -> None:
    trains = through(100 * MBIT, 0.5)
    shuffled = Random(order).sample(trains, len(trains))
    assert capacity(shuffled).estimate == capacity(trains).estimate


def test_bounds_are_wider_where_trains_scatter_more() -> None:
    quiet = estimate_of(capacity(through(20 * MBIT)))
    noisy = estimate_of(capacity(through(20 * MBIT, noise_ns=150 * US)))
    assert noisy.high - noisy.low > 1.5 * (quiet.high - quiet.low)


# -- clumps ---------------------------------------------------------------------------


def clumped(arrivals: Sequence[float], timer_ns: float) -> list[float]:
    """Spacings of stamps when the first packet of a clump starts a timer and all wait for it."""
    stamps = []
    fires_ns = -1.0
    for time_ns in arrivals:
        if time_ns > fires_ns:
            fires_ns = time_ns + timer_ns
        stamps.append(fires_ns)
    return [other - one for one, other in itertools.pairwise(stamps)]


def coalesced(rate_bps: float, timer_ns: float, load: float, seed: int) -> list[Train]:
    trains = []
    for each in through(rate_bps, load, seed=seed, noise_ns=1):
        arrivals = [0.0, *itertools.accumulate(each.deltas_ns)]
        trains.append(Train(1500, 0, each.sent_ns, tuple(map(round, clumped(arrivals, timer_ns)))))
    return trains


@pytest.mark.parametrize("timer_us", [250, 500, 1000])
@pytest.mark.parametrize("load", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_a_receivers_timer_is_seen_through(timer_us: int, load: float, seed: int) -> None:
    found = capacity(coalesced(100 * MBIT, timer_us * US, load, seed))
    if isinstance(found.estimate, Inconclusive):
        assert doubt_of(found) in (Doubt.UNSTEADY, Doubt.COALESCED)
        assert timer_us == 1000, "five clumps a train are enough"
        return
    estimate = estimate_of(found)
    assert estimate.value == pytest.approx(100 * MBIT, rel=0.06)
    assert estimate.low * 0.98 <= 100 * MBIT <= estimate.high * 1.03
    assert found.kind is LinkKind.COALESCED
    assert found.clump_ns == pytest.approx(timer_us * US, rel=0.6)


@pytest.mark.parametrize("timer_us", [20, 50])
def test_a_timer_shorter_than_a_packet_changes_nothing(timer_us: int) -> None:
    found = capacity(coalesced(100 * MBIT, timer_us * US, 0.0, 1))
    assert found.kind is LinkKind.QUEUE
    assert estimate_of(found).value == pytest.approx(100 * MBIT, rel=0.02)


def test_trains_that_arrive_in_one_clump_say_nothing() -> None:
    found = capacity([train([0] * 12) for _ in range(8)])
    assert doubt_of(found) is Doubt.COALESCED


def test_a_timer_longer_than_the_trains_is_refused() -> None:
    found = capacity(coalesced(1000 * MBIT, 5 * MS, 0.0, 1))
    assert doubt_of(found) is Doubt.COALESCED


def aggregates(rate_bps: float, access_ns: float, most: int, seed: int) -> list[Train]:
    """Trains over a link where each access takes a time and then carries what waited for it."""
    random = Random(seed)
    trains = []
    for packets in [2, 2, 2, 2, 8, *[32] * 4, *[96] * 5]:
        arrivals: list[float] = []
        now_ns, left = 0.0, packets
        while left:
            # The first packet finds the link free and does not wait for the others.
            count = min(left, most) if arrivals else 1
            left -= count
            now_ns += access_ns * random.uniform(0.7, 1.6) + count * packet_ns(rate_bps)
            arrivals += [now_ns] * count
        trains.append(train([other - one for one, other in itertools.pairwise(arrivals)]))
    return trains


@pytest.mark.parametrize("seed", range(3))
def test_one_packet_a_turn_is_a_rate(seed: int) -> None:
    mean_ns = packet_ns(60 * MBIT) + 150 * US * 1.15
    estimate = estimate_of(capacity(aggregates(60 * MBIT, 150 * US, 1, seed)))
    assert estimate.value == pytest.approx(12_000e9 / mean_ns, rel=0.05)


@pytest.mark.parametrize("most", [8, 32])
@pytest.mark.parametrize("seed", range(3))
def test_turns_are_told_from_a_rate(most: int, seed: int) -> None:
    found = capacity(aggregates(60 * MBIT, 150 * US, most, seed))
    assert found.kind is LinkKind.CONTENTION
    assert doubt_of(found) is Doubt.CONTENTION


def test_long_trains_that_are_far_faster_than_pairs_are_turns() -> None:
    slow, fast = packet_ns(30 * MBIT), packet_ns(60 * MBIT)
    trains = [train([slow]) for _ in range(4)] + [train([fast] * 31) for _ in range(6)]
    found = capacity(trains)
    assert found.kind is LinkKind.CONTENTION
    assert doubt_of(found) is Doubt.CONTENTION


def test_pairs_that_are_slow_by_less_than_an_access_are_noise() -> None:
    slow, fast = packet_ns(300 * MBIT) * 1.6, packet_ns(300 * MBIT)
    trains = [train([slow]) for _ in range(4)] + [train([fast] * 95) for _ in range(8)]
    found = capacity(trains)
    assert found.kind is LinkKind.QUEUE
    assert estimate_of(found).value == pytest.approx(300 * MBIT, rel=0.01)


# -- token buckets --------------------------------------------------------------------


def bucket(
    trains: Sequence[tuple[float, int]], burst_bytes: int, rate_bps: float, peak_bps: float
) -> list[Train]:
    """Trains, each at a time, through a bucket that is full at the start."""
    tokens, tokens_ns, free_ns = float(burst_bytes), 0.0, 0.0
    found = []
    for at_ns, packets in trains:
        arrivals = []
        for turn in range(packets):
            start_ns = max(free_ns, at_ns + turn * 1500)
            tokens = min(burst_bytes, tokens + (start_ns - tokens_ns) * rate_bps / 8e9)
            if tokens < 1500:
                start_ns += (1500 - tokens) / rate_bps * 8e9
                tokens = 1500.0
            tokens, tokens_ns = tokens - 1500, start_ns
            free_ns = start_ns + packet_ns(peak_bps)
            arrivals.append(free_ns)
        deltas = [other - one for one, other in itertools.pairwise(arrivals)]
        found.append(train(deltas, at_ns=round(at_ns)))
    return found


@pytest.mark.parametrize("burst_bytes", [15_000, 30_000, 65_536])
@pytest.mark.parametrize("rate_bps", [20 * MBIT, 50 * MBIT])
@pytest.mark.parametrize("peak_bps", [200 * MBIT, 1000 * MBIT])
def test_of_a_bucket_the_sustained_rate_is_told(
    burst_bytes: int, rate_bps: int, peak_bps: int
) -> None:
    beyond = burst_bytes // 1500 + 20
    times = [(turn * 60.0 * MS, packets) for turn, packets in enumerate([2, 2, 2, 2, 8])]
    times += [(400 * MS + turn * 60.0 * MS, beyond) for turn in range(4)]
    found = capacity(bucket(times, burst_bytes, rate_bps, peak_bps))
    assert found.kind is LinkKind.BUCKET
    estimate = estimate_of(found)
    assert estimate.value == pytest.approx(rate_bps, rel=0.05)
    assert found.boost_bps == pytest.approx(peak_bps, rel=0.5)
    assert found.boost_bps > 1.5 * estimate.high


def test_of_a_bucket_that_long_trains_found_empty_credit_is_told_by_the_shorter() -> None:
    fast, slow = packet_ns(900 * MBIT), packet_ns(20 * MBIT)
    trains = [train([fast]) for _ in range(4)] + [train([fast] * 7), train([fast] * 23)]
    trains += [train([slow] * 39) for _ in range(5)]
    found = capacity(trains)
    assert found.kind is LinkKind.BUCKET
    assert estimate_of(found).value == pytest.approx(20 * MBIT, rel=0.02)
    assert found.boost_bps == pytest.approx(900 * MBIT, rel=0.1)


# -- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize("count", range(LEAST_TRAINS))
def test_too_few_trains_are_no_capacity(count: int) -> None:
    found = capacity([train([600 * US] * 12) for _ in range(count)])
    assert doubt_of(found) is Doubt.TOO_FEW


def test_too_many_lost_ones_are_losses() -> None:
    trains = [train([600 * US] * 12) for _ in range(2)] + [lost_train(13) for _ in range(9)]
    assert doubt_of(capacity(trains)) is Doubt.LOSSES


@pytest.mark.parametrize("seed", range(10))
def test_jitter_longer_than_the_trains_is_refused(seed: int) -> None:
    # Each packet is late by up to 20 packets' time, and the order is kept.
    random = Random(seed)
    trains = []
    for packets in LENGTHS:
        late = [turn * PACKET_NS + random.random() * 20 * PACKET_NS for turn in range(packets)]
        kept = list(itertools.accumulate(late, max))
        trains.append(train([other - one for one, other in itertools.pairwise(kept)]))
    found = capacity(trains)
    if isinstance(found.estimate, Estimate):
        assert found.estimate.low <= 20 * MBIT <= found.estimate.high
        assert found.estimate.high > 1.3 * found.estimate.low, "bounds that claim little"


@pytest.mark.parametrize("rates", [[5, 5, 5, 40, 40, 40], [10, 20, 30, 40, 50, 60]])
def test_trains_that_contradict_each_other_are_refused(rates: list[int]) -> None:
    trains = [train([packet_ns(rate * MBIT)] * 12) for rate in rates for _ in range(2)]
    found = capacity(trains)
    if isinstance(found.estimate, Estimate):
        assert found.estimate.high > 1.5 * found.estimate.low
    else:
        assert found.estimate.doubt is Doubt.UNSTEADY


@pytest.mark.parametrize("place", [0, 5, 11])
def test_one_huge_spacing_in_a_train_spoils_that_train_alone(place: int) -> None:
    trains = [train([PACKET_NS] * 12) for _ in range(8)]
    late = [PACKET_NS] * 12
    late[place] = 2_000 * MS
    estimate = estimate_of(capacity([*trains, train(late)]))
    assert estimate.value == pytest.approx(20 * MBIT, rel=0.02)
    assert estimate.low <= 20 * MBIT <= estimate.high


@pytest.mark.parametrize("share", [1, 2])
def test_a_few_zero_spacings_do_no_harm(share: int) -> None:
    # A stamp that came late: its packet and the next one share a time.
    deltas = [PACKET_NS] * 12
    for place in range(share):
        deltas[3 + 5 * place : 5 + 5 * place] = [2 * PACKET_NS, 0]
    estimate = estimate_of(capacity([train(deltas) for _ in range(8)]))
    assert estimate.value == pytest.approx(20 * MBIT, rel=0.03)


@pytest.mark.parametrize(
    "deltas", [[0] * 12, [1] * 12, [0] * 11 + [1], [10**15] * 12, [10**15] + [0] * 11, [1, 10**15]]
)
def test_absurd_spacings_break_nothing(deltas: list[float]) -> None:
    alone = capacity([train(deltas) for _ in range(9)])
    assert isinstance(alone.estimate, (Estimate, Inconclusive))
    with_others = capacity([train(deltas), *[train([PACKET_NS] * 12) for _ in range(8)]])
    assert isinstance(with_others.estimate, (Estimate, Inconclusive))


def test_nothing_is_no_capacity() -> None:
    assert isinstance(capacity([]).estimate, Inconclusive)


def test_constant_traffic_in_step_with_nothing() -> None:
    # Cross traffic equally spaced, at half load: pieces of trains all have one or two in between.
    random = Random(7)
    queue = Queue(20 * MBIT, constant(10 * MBIT, random))
    at_ns, trains = 0.0, []
    for packets in lengths(20 * MBIT):
        at_ns += 40 * MS + random.random() * MS
        trains.append(passed(queue, packets=packets, at_ns=at_ns, noise=random))
    estimate = estimate_of(capacity(trains))
    assert estimate.value == pytest.approx(20 * MBIT, rel=0.03)
    assert estimate.low <= 20 * MBIT <= estimate.high * 1.01

"""The idle share from delays whose queue is known, with noise, own load, losses and clumps."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from openqwave.estimate.idle import LEAST_PROBES, IdleShare, idle_share
from openqwave.estimate.samples import Gap, Train
from openqwave.model.estimates import Doubt, Inconclusive
from tests.unit.made_samples import (
    MBIT,
    MS,
    NOW_NS,
    US,
    Others,
    Queue,
    constant,
    gap,
    left_over,
    lost_gap,
    packet_ns,
    poisson,
    random_times,
    train,
)

RATE = 20 * MBIT
SECONDS = 3.0


def probes(
    rate_bps: float,
    load: float,
    *,
    seed: int = 1,
    others: Others = poisson,
    noise_ns: float = 5 * US,
    per_second: float = 250,
    probe_bytes: int = 0,
) -> list[Gap]:
    """Probes at random times through a queue that others use; of no size, so no load.

    Both ways have noise of the same kind.
    """
    random = Random(seed)
    queue = Queue(rate_bps, others(load * rate_bps, Random(seed + 100)))

    def late() -> float:
        return random.expovariate(1 / noise_ns)

    return [
        gap(number, at_ns, queue.wait_ns(at_ns) + late(), late(), packet_bytes=probe_bytes)
        for number, at_ns in enumerate(random_times(per_second, SECONDS, random))
    ]


def share_of(
    gaps: list[Gap], trains: list[Train] | None = None, rate_bps: int = RATE, clump_ns: int = 0
) -> IdleShare:
    found = idle_share(gaps, trains or [], rate_bps, clump_ns)
    assert isinstance(found, IdleShare), found
    assert 0 <= found.share <= 1
    assert found.error > 0
    return found


def doubt_of(found: IdleShare | Inconclusive) -> Doubt:
    assert isinstance(found, Inconclusive), found
    return found.doubt


# -- a known queue --------------------------------------------------------------------


@pytest.mark.parametrize("load", [0.0, 0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("others", [poisson, constant], ids=["M/D/1", "D/D/1"])
@pytest.mark.parametrize(
    ("rate_bps", "noise_us"),
    [
        (2 * MBIT, 5),
        (20 * MBIT, 20),
        (20 * MBIT, 50),
        (100 * MBIT, 2),
        (100 * MBIT, 10),
    ],
)
def test_the_share_is_what_others_leave(
    load: float, others: Others, rate_bps: int, noise_us: int
) -> None:
    errors, held = [], 0
    for seed in range(5):
        gaps = probes(rate_bps, load, seed=seed, others=others, noise_ns=noise_us * US)
        found = share_of(gaps, rate_bps=rate_bps)
        error = found.share - left_over(rate_bps, load, SECONDS, Random(seed + 100), others)
        errors.append(error)
        held += abs(error) <= 2 * found.error + 0.01
    assert abs(sum(errors)) / 5 < 0.06
    assert max(map(abs, errors)) < 0.16
    # Two standard errors are to hold 19 of 20. Traffic that never bunches is the worst case.
    assert held >= (4 if others is poisson else 3) or load > 0.5


def test_more_probes_are_surer() -> None:
    few = share_of(probes(RATE, 0.5, per_second=100))
    many = share_of(probes(RATE, 0.5, per_second=900))
    assert many.probe_count > 8 * few.probe_count
    assert many.error < few.error


def test_how_wide_the_noise_is_is_told() -> None:
    for noise_us in (5, 50):
        found = share_of(probes(RATE, 0.5, noise_ns=noise_us * US))
        # Three quarters of an exponential distribution lie below 1.39 of its mean.
        assert found.noise_ns == pytest.approx(1.39 * noise_us * US, rel=0.2)


def test_drift_of_the_clocks_does_not_matter() -> None:
    plain = probes(RATE, 0.5)

    def drifted(one: Gap) -> Gap:
        ahead_ns = (one.sent_ns - NOW_NS) * 300 // 1_000_000
        return Gap(
            one.sequence,
            one.packet_bytes,
            one.sent_ns,
            one.sink_received_ns + ahead_ns,
            one.sink_sent_ns + ahead_ns,
            one.received_ns,
        )

    found = share_of([drifted(one) for one in plain])
    assert found.share == pytest.approx(share_of(plain).share, abs=0.01)


# -- own load -------------------------------------------------------------------------


def test_what_probes_were_themselves_is_added_back() -> None:
    gaps = probes(RATE, 0.5)
    sized = [
        Gap(one.sequence, 600, one.sent_ns, one.sink_received_ns, one.sink_sent_ns, one.received_ns)
        for one in gaps
    ]
    window_ns = gaps[-1].sent_ns - gaps[0].sent_ns
    own = len(gaps) * 600 * 8e9 / window_ns / RATE
    assert own > 0.05
    assert share_of(sized).share == pytest.approx(share_of(gaps).share + own, abs=1e-6)


def test_what_trains_were_is_added_back_and_their_time_is_known() -> None:
    # A window without probes, in which a paced train went.
    gaps = [one for one in probes(RATE, 0.5) if not 1000 * MS < one.sent_ns - NOW_NS < 1040 * MS]
    paced = train([600 * US] * 49, gap_ns=600 * US, at_ns=1001 * MS)
    window_ns = gaps[-1].sent_ns - gaps[0].sent_ns
    alone = share_of(gaps).share
    busy = (paced.sent_ns[-1] - paced.sent_ns[0]) / window_ns
    own = 50 * 1500 * 8e9 / window_ns / RATE
    assert share_of(gaps, [paced]).share == pytest.approx(alone * (1 - busy) + own, abs=1e-6)


def test_trains_of_another_time_do_not_count() -> None:
    gaps = probes(RATE, 0.5)
    late = train([600 * US] * 49, gap_ns=600 * US, at_ns=10_000 * MS)
    assert share_of(gaps, [late]) == share_of(gaps)


def test_probes_during_a_train_do_not_count() -> None:
    gaps = probes(RATE, 0.5)
    paced = train([600 * US] * 160, gap_ns=600 * US, at_ns=1000 * MS)
    inside = [one for one in gaps if paced.sent_ns[0] <= one.sent_ns <= paced.sent_ns[-1]]
    assert len(inside) > 10
    assert share_of(gaps, [paced]).probe_count == len(gaps) - len(inside)


@pytest.mark.parametrize("seed", range(4))
def test_trains_in_the_queue_change_nothing(seed: int) -> None:
    """The whole of it: trains that fill the queue, probes among them, and the share of others."""
    random = Random(seed)
    queue = Queue(RATE, poisson(0.5 * RATE, Random(seed + 100)))
    starts = [150.0 * MS * turn + random.random() * 50 * MS for turn in range(1, 19)]
    times = sorted(
        [(at_ns, 13) for at_ns in starts]
        + [(at_ns, 0) for at_ns in random_times(300, SECONDS, random)]
    )
    gaps, trains = [], []
    for number, (at_ns, packets) in enumerate(times):
        if packets:
            arrivals = [queue.send(at_ns + turn * 1500) for turn in range(packets)]
            deltas = [other - one for one, other in itertools.pairwise(arrivals)]
            trains.append(train(deltas, at_ns=round(at_ns)))
        else:
            wait_ns = queue.wait_ns(at_ns) + random.expovariate(1 / (5 * US))
            back_ns = random.expovariate(1 / (5 * US))
            gaps.append(gap(number, at_ns, wait_ns, back_ns, packet_bytes=0))
    assert share_of(gaps, trains).share == pytest.approx(0.5, abs=0.1)


# -- losses ---------------------------------------------------------------------------


def test_probes_lost_at_random_say_nothing() -> None:
    gaps = probes(RATE, 0.0)
    thinned = [
        lost_gap(one.sequence, one.sent_ns - NOW_NS, packet_bytes=0) if turn % 10 == 5 else one
        for turn, one in enumerate(gaps)
    ]
    assert share_of(thinned).share == pytest.approx(share_of(gaps).share, abs=0.01)
    assert share_of(thinned).probe_count == sum(not one.is_lost for one in thinned)


def test_probes_lost_while_their_neighbours_waited_met_a_full_queue() -> None:
    # Half of the time the queue is full, and then every other probe is lost.
    full_ns = 20 * packet_ns(RATE)
    gaps = []
    for number, at_ns in enumerate(random_times(300, SECONDS, Random(2))):
        is_full = at_ns // (100 * MS) % 2 == 1
        if is_full and number % 2:
            gaps.append(lost_gap(number, at_ns, packet_bytes=0))
        else:
            gaps.append(gap(number, at_ns, full_ns if is_full else 0.0, packet_bytes=0))
    returned = [one for one in gaps if not one.is_lost]
    # Without the lost ones two thirds would seem idle.
    assert share_of(returned).share == pytest.approx(0.67, abs=0.05)
    found = share_of(gaps)
    assert found.share == pytest.approx(0.5, abs=0.05)
    assert found.probe_count > 0.9 * len(gaps)


# -- clumps ---------------------------------------------------------------------------


@pytest.mark.parametrize("load", [0.0, 0.5])
def test_a_receivers_timer_is_not_a_queue(load: float) -> None:
    # The first packet that comes starts a timer; others' packets come to other machines.
    rate_bps, timer_ns = 100 * MBIT, 250 * US
    random = Random(1)
    queue = Queue(rate_bps, poisson(load * rate_bps, random))
    gaps, fires_ns = [], -1.0
    for number, at_ns in enumerate(random_times(600, SECONDS, Random(2))):
        came_ns = at_ns + queue.wait_ns(at_ns) + random.expovariate(1 / (3 * US))
        if came_ns > fires_ns:
            fires_ns = came_ns + timer_ns
        back_ns = random.expovariate(1 / (3 * US))
        gaps.append(gap(number, at_ns, fires_ns - at_ns, back_ns, packet_bytes=0))
    found = share_of(gaps, rate_bps=rate_bps, clump_ns=round(1.5 * timer_ns))
    assert found.share == pytest.approx(1 - load, abs=0.12)
    # Only those that came alone.
    assert found.probe_count < len(gaps)


# -- what is refused ------------------------------------------------------------------


def test_too_few_probes_are_refused() -> None:
    gaps = probes(RATE, 0.5)
    assert doubt_of(idle_share([], [], RATE)) is Doubt.TOO_FEW
    assert doubt_of(idle_share(gaps[: LEAST_PROBES - 1], [], RATE)) is Doubt.TOO_FEW
    lost = [lost_gap(one.sequence, one.sent_ns - NOW_NS) for one in gaps]
    assert doubt_of(idle_share(lost, [], RATE)) is Doubt.TOO_FEW


NOISY = [(20, 150), (20, 600), (100, 30), (100, 120), (300, 20), (1000, 20), (10_000, 20)]


def test_noise_that_is_not_far_below_a_packet_is_refused_or_seen_through() -> None:
    wrong = []
    for (rate, noise_us), load, seed in itertools.product(NOISY, [0.0, 0.5], range(3)):
        gaps = probes(rate * MBIT, load, seed=seed, noise_ns=noise_us * US)
        found = idle_share(gaps, [], rate * MBIT)
        if isinstance(found, Inconclusive):
            assert found.doubt in (Doubt.TOO_FAST, Doubt.UNSTEADY)
        elif (
            abs(found.share - left_over(rate * MBIT, load, SECONDS, Random(seed + 100)))
            > 3 * found.error + 0.02
        ):
            wrong.append((rate, noise_us, load, seed, found.share, found.error))
    assert wrong == []


def test_a_way_back_that_is_never_still_does_not_mislead() -> None:
    random = Random(3)
    queue = Queue(100 * MBIT, poisson(50 * MBIT, Random(101)))
    back = Queue(5 * MBIT, poisson(3 * MBIT, Random(9)))
    gaps = [
        gap(
            number,
            at_ns,
            queue.wait_ns(at_ns) + random.expovariate(1 / (5 * US)),
            back.wait_ns(at_ns) + random.expovariate(1 / (5 * US)),
            packet_bytes=0,
        )
        for number, at_ns in enumerate(random_times(400, SECONDS, random))
    ]
    found = idle_share(gaps, [], 100 * MBIT)
    if isinstance(found, IdleShare):
        truth = left_over(100 * MBIT, 0.5, SECONDS, Random(101))
        assert found.share == pytest.approx(truth, abs=3 * found.error + 0.02)


@pytest.mark.parametrize("part", [0.2, 0.4])
def test_waits_of_one_length_are_not_a_queues(part: float) -> None:
    # Half of the probes wait not at all and half of them a part of a packet's time.
    gaps = [
        gap(number, at_ns, part * packet_ns(RATE) * (number % 2), packet_bytes=0)
        for number, at_ns in enumerate(random_times(250, SECONDS, Random(1)))
    ]
    assert doubt_of(idle_share(gaps, [], RATE)) is Doubt.UNSTEADY


@pytest.mark.parametrize("seed", range(5))
def test_delays_of_no_queue_are_not_claimed_to_be_one(seed: int) -> None:
    # A jitter of two packets' time on the way there, and none of the probes meets a queue.
    random = Random(seed)
    gaps = [
        gap(number, at_ns, random.triangular(0, 2 * packet_ns(RATE)), 0.0, packet_bytes=0)
        for number, at_ns in enumerate(random_times(250, SECONDS, random))
    ]
    found = idle_share(gaps, [], RATE)
    # It is like a busy queue, or like nothing; it must not look idle.
    assert isinstance(found, Inconclusive) or found.share < 0.2

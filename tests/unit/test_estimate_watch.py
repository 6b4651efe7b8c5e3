"""A watched path: the tracker against a filter written in another form, and changes of the path."""

from __future__ import annotations

import math
from random import Random

import pytest

from openqwave.estimate.dispersion import LinkKind
from openqwave.estimate.path import report
from openqwave.estimate.samples import Gap, Sample, Train
from openqwave.estimate.watch import BATCH, FAR_OFF, WANDER_PER_S, PathWatch, Tracker
from openqwave.model.estimates import Doubt, Estimate, Inconclusive, PathReport
from tests.unit.made_samples import (
    MBIT,
    MS,
    US,
    Queue,
    S,
    gap,
    lost_gap,
    lost_train,
    measured,
    packet_ns,
    passed,
    poisson,
    random_times,
    train,
)

CAPACITY = 20 * MBIT


# -- the filter -----------------------------------------------------------------------


class Informed:
    """The same filter by information: inverse variances add up, weighted values add up."""

    def __init__(self, value: float, error: float) -> None:
        self.information = 1 / error**2
        self.weighted = value / error**2

    def wait(self, seconds: float) -> None:
        value, variance = self.weighted / self.information, 1 / self.information
        variance += (WANDER_PER_S * CAPACITY) ** 2 * seconds
        self.information, self.weighted = 1 / variance, value / variance

    def observe(self, value: float, error: float) -> None:
        self.information += 1 / error**2
        self.weighted += value / error**2


@pytest.mark.parametrize("seed", range(10))
def test_answers_are_weighed_as_kalman_would(seed: int) -> None:
    random = Random(seed)
    tracker = Tracker(10 * MBIT, 1 * MBIT, at_ns=0)
    other = Informed(10 * MBIT, 1 * MBIT)
    now_ns = 0
    for _ in range(50):
        step_ns = random.randrange(2 * S)
        now_ns += step_ns
        error = random.uniform(0.5, 5) * MBIT
        # Near enough to be an answer about the same load.
        value = tracker.value_bps + random.uniform(-1, 1) * error
        tracker.observe(value, error, CAPACITY, at_ns=now_ns)
        other.wait(step_ns / S)
        other.observe(value, error)
        assert tracker.value_bps == pytest.approx(other.weighted / other.information)
        assert tracker.error_bps == pytest.approx(math.sqrt(1 / other.information))


def test_what_is_not_heard_of_becomes_uncertain() -> None:
    early, late = Tracker(10e6, 0.1e6, at_ns=0), Tracker(10e6, 0.1e6, at_ns=0)
    early.observe(11e6, 1e6, CAPACITY, at_ns=1 * MS)
    late.observe(11e6, 1e6, CAPACITY, at_ns=100 * S)
    assert early.value_bps < 10.1e6
    assert late.value_bps > 10.9e6


def test_time_that_goes_back_is_no_time() -> None:
    one, other = Tracker(10e6, 1e6, at_ns=5 * S), Tracker(10e6, 1e6, at_ns=5 * S)
    one.observe(11e6, 1e6, CAPACITY, at_ns=3 * S)
    other.observe(11e6, 1e6, CAPACITY, at_ns=5 * S)
    assert (one.value_bps, one.error_bps) == (other.value_bps, other.error_bps)


def test_one_answer_far_off_moves_nothing_and_makes_unsure() -> None:
    tracker = Tracker(15e6, 0.3e6, at_ns=0)
    tracker.observe(3e6, 0.5e6, CAPACITY, at_ns=1 * MS)
    assert tracker.value_bps == 15e6
    assert tracker.error_bps == pytest.approx(12e6)
    # It was an error: the next ones say the old thing, and all is well again.
    for turn in range(3):
        tracker.observe(15e6, 0.5e6, CAPACITY, at_ns=(2 + turn) * MS)
    assert tracker.value_bps == pytest.approx(15e6, rel=0.02)
    assert tracker.error_bps < 0.5e6


@pytest.mark.parametrize(("before", "after"), [(15e6, 3e6), (3e6, 15e6), (18e6, 0.0)])
@pytest.mark.parametrize("error", [0.2e6, 0.5e6, 1e6])
def test_a_jump_is_followed_within_three_answers(before: float, after: float, error: float) -> None:
    tracker = Tracker(before, error, at_ns=0)
    for turn in range(10):
        tracker.observe(before, error, CAPACITY, at_ns=turn * S)
    for turn in range(3):
        tracker.observe(after, error, CAPACITY, at_ns=(10 + turn) * S)
    assert abs(tracker.value_bps - after) < 0.1 * abs(before - after)
    assert abs(tracker.value_bps - after) < 2 * tracker.error_bps


def test_what_is_far_off_depends_on_both_errors() -> None:
    near, far = (Tracker(10e6, 1e6, at_ns=0) for _ in range(2))
    limit = FAR_OFF * math.hypot(1e6, 2e6)
    near.observe(10e6 + 0.99 * limit, 2e6, CAPACITY, at_ns=0)
    far.observe(10e6 + 1.01 * limit, 2e6, CAPACITY, at_ns=0)
    assert near.value_bps > 10e6
    assert far.value_bps == 10e6
    assert far.is_startled
    assert not near.is_startled
    # The next answer decides, and then nothing is startling any more.
    far.observe(10e6 + limit, 2e6, CAPACITY, at_ns=1)
    assert not far.is_startled


# -- a path ---------------------------------------------------------------------------


def watching(load: float = 0.5, seed: int = 1) -> PathWatch:
    return PathWatch(measured(CAPACITY, load, seed=seed), None)


def later(
    rate_bps: int, load: float, seconds: float, *, seed: int = 2, start_s: float = 3.0
) -> list[Sample]:
    """What a watch of some seconds sees: small probes, and by turns a train of each kind."""
    random = Random(seed)
    queue = Queue(rate_bps, poisson(load * rate_bps, Random(seed + 100)))
    gap_ns = round(packet_ns(rate_bps))
    agenda = [(at_ns, 0, 0) for at_ns in random_times(60, seconds, random)]
    agenda += [
        ((turn + random.random() / 2) * S, 8, gap_ns if turn % 2 else 0)
        for turn in range(int(seconds))
    ]
    samples: list[Sample] = []
    for number, (at_ns, packets, spacing_ns) in enumerate(sorted(agenda)):
        shift_ns = start_s * S
        if packets:
            made = passed(
                queue,
                packets=packets,
                at_ns=at_ns,
                spacing_ns=spacing_ns or 1500,
                gap_ns=spacing_ns,
            )
            moved = tuple(sent_ns + round(shift_ns) for sent_ns in made.sent_ns)
            samples.append(Train(made.packet_bytes, made.gap_ns, moved, made.deltas_ns))
        else:
            wait_ns = queue.wait_ns(at_ns) + random.expovariate(1 / (5 * US))
            back_ns = random.expovariate(1 / (5 * US))
            samples.append(gap(10_000 + number, shift_ns + at_ns, wait_ns, back_ns))
    return samples


def followed(watch: PathWatch, samples: list[Sample]) -> PathReport:
    for one in samples:
        watch.observe(one)
    return watch.report()


def stated(found: object) -> Estimate:
    assert isinstance(found, Estimate), found
    assert found.low <= found.value <= found.high
    return found


def test_it_begins_with_what_the_measurement_found() -> None:
    found = watching().report()
    assert stated(found.capacity_bps).value == pytest.approx(CAPACITY, rel=0.02)
    assert stated(found.available_bps).value == pytest.approx(0.5 * CAPACITY, abs=0.1 * CAPACITY)
    assert stated(found.rtt_ns).value > 0


@pytest.mark.parametrize("load", [0.0, 0.25, 0.5, 0.75])
def test_what_does_not_change_is_believed_on(load: float) -> None:
    watch = watching(load)
    held = 0
    for turn in range(8):
        found = followed(watch, later(CAPACITY, load, 2, seed=turn, start_s=3 + 2 * turn))
        assert stated(found.capacity_bps).value == pytest.approx(CAPACITY, rel=0.03)
        available = stated(found.available_bps)
        assert available.value == pytest.approx((1 - load) * CAPACITY, abs=0.15 * CAPACITY)
        held += available.low <= (1 - load) * CAPACITY <= available.high
    assert held >= 6


@pytest.mark.parametrize(("before", "after"), [(0.2, 0.7), (0.7, 0.2)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_another_load_is_followed(before: float, after: float, seed: int) -> None:
    watch = watching(before, seed)
    found = followed(watch, later(CAPACITY, after, 4, seed=seed))
    available = stated(found.available_bps)
    assert available.value == pytest.approx((1 - after) * CAPACITY, abs=0.2 * CAPACITY)
    assert stated(found.capacity_bps).value == pytest.approx(CAPACITY, rel=0.03)


@pytest.mark.parametrize("ratio", [0.25, 4])
def test_another_capacity_is_believed_after_two_trains(ratio: float) -> None:
    watch = watching()
    rate_bps = round(CAPACITY * ratio)
    other = train([packet_ns(rate_bps)] * 7, at_ns=4 * S)
    watch.observe(other)
    assert stated(watch.report().capacity_bps).value == pytest.approx(CAPACITY, rel=0.05)
    watch.observe(train([packet_ns(rate_bps)] * 7, at_ns=5 * S))
    found = watch.report()
    capacity = stated(found.capacity_bps)
    assert capacity.value == pytest.approx(rate_bps, rel=0.05)
    assert capacity.low <= rate_bps <= capacity.high
    # What was available of the other path says nothing about this one.
    assert isinstance(found.available_bps, Inconclusive)
    assert found.available_bps.doubt is Doubt.TOO_FEW


def test_one_odd_train_is_an_odd_train() -> None:
    watch = watching()
    before = watch.report().capacity_bps
    for turn in range(5):
        rate = 5 if turn % 2 else 20
        watch.observe(train([packet_ns(rate * MBIT)] * 7, at_ns=(4 + turn) * S))
    after = stated(watch.report().capacity_bps)
    assert after.value == pytest.approx(stated(before).value, rel=0.05)


def test_trains_that_a_stalled_receiver_got_at_once_are_no_path() -> None:
    watch = watching()
    before = stated(watch.report().capacity_bps)
    for turn, rate in enumerate([3740, 780, 100, 2000]):
        watch.observe(train([packet_ns(rate * MBIT)] * 7, at_ns=(4 + turn) * S))
        assert watch.is_in_doubt
    assert watch.report().capacity_bps == before
    # The last of them, and one like it, would be.
    watch.observe(train([packet_ns(2000 * MBIT)] * 7, at_ns=8 * S))
    assert stated(watch.report().capacity_bps).value == pytest.approx(2000 * MBIT, rel=0.05)


def test_after_a_change_the_new_load_is_found() -> None:
    watch = watching()
    found = followed(watch, later(4 * CAPACITY, 0.25, 8))
    assert stated(found.capacity_bps).value == pytest.approx(4 * CAPACITY, rel=0.05)
    available = stated(found.available_bps)
    assert available.value == pytest.approx(3 * CAPACITY, abs=0.8 * CAPACITY)


def test_lost_samples_change_no_belief() -> None:
    watch = watching()
    before = watch.report()
    for turn in range(3):
        watch.observe(lost_train(8, at_ns=(4 + turn) * S))
        watch.observe(lost_train(8, gap_ns=600 * US, at_ns=(4 + turn) * S + 500 * MS))
    after = watch.report()
    assert after.capacity_bps == before.capacity_bps
    assert after.available_bps == before.available_bps


def test_loss_is_told_of_the_last_probes_alone() -> None:
    watch = watching()
    assert stated(watch.report().loss_ppm).value == 0
    for turn in range(10 * BATCH):
        at_ns = 3 * S + turn * 16 * MS
        watch.observe(lost_gap(turn, at_ns) if turn % 2 else gap(turn, at_ns))
    assert stated(watch.report().loss_ppm).value == pytest.approx(500_000, rel=0.01)
    for turn in range(10 * BATCH):
        watch.observe(gap(turn, 13 * S + turn * 16 * MS))
    assert stated(watch.report().loss_ppm).value == 0


def test_nothing_to_begin_with_is_no_belief() -> None:
    watch = PathWatch([], True)
    found = watch.report()
    assert isinstance(found.capacity_bps, Inconclusive)
    assert isinstance(found.available_bps, Inconclusive)
    assert found.supports_priority is True
    found = followed(watch, later(CAPACITY, 0.5, 12))
    assert stated(found.capacity_bps).value == pytest.approx(CAPACITY, rel=0.05)
    assert stated(found.available_bps).value == pytest.approx(0.5 * CAPACITY, abs=0.2 * CAPACITY)


def test_it_forgets_what_is_old() -> None:
    # Ten minutes: what is kept must not grow with them. 600 probes are ten seconds.
    watch = watching()
    for turn in range(2000):
        watch.observe(gap(turn, 3 * S + turn * 16 * MS, 5 * MS, 5 * MS))
    trip = stated(watch.report().rtt_ns)
    assert trip.low == trip.high


def test_an_answer_far_off_is_told_of_until_the_next() -> None:
    watch = watching(load=0.2)
    assert not watch.is_startled
    told = []
    for sample in later(CAPACITY, 0.8, 6):
        watch.observe(sample)
        told.append(watch.is_startled)
    assert any(told)
    assert not told[-1]
    assert not PathWatch([], None).is_startled


def test_what_came_before_is_not_judged_with_what_comes_after() -> None:
    # A part of a batch in another load: forgotten, the next batch is clean.
    kept, skipped = watching(load=0.2), watching(load=0.2)
    loaded = [one for one in later(CAPACITY, 0.9, 1) if isinstance(one, Gap)][: BATCH - 10]
    for watch in (kept, skipped):
        for sample in loaded:
            watch.observe(sample)
    skipped.skip()
    quiet = [one for one in later(CAPACITY, 0.2, 4, start_s=5) if isinstance(one, Gap)]
    for watch in (kept, skipped):
        for sample in quiet[:BATCH]:
            watch.observe(sample)
    assert stated(kept.report().available_bps) != stated(skipped.report().available_bps)
    assert stated(skipped.report().available_bps).value == pytest.approx(
        0.8 * CAPACITY, abs=0.1 * CAPACITY
    )
    assert not skipped.is_startled


def test_samples_are_not_kept_for_the_caller() -> None:
    samples = measured(CAPACITY, 0.5)
    gaps = [one for one in samples if isinstance(one, Gap)]
    watch = PathWatch(iter(samples), None)
    assert len(gaps) > 300
    assert stated(watch.report().rtt_ns).value > 0


def test_a_receivers_timer_keeps_small_probes_out_as_in_a_measurement() -> None:
    # Clumps of four packets of 120 us: it is reached for one and a half of them, six packets.
    deltas_ns = [delta * US for delta in [0, 0, 0, 480] * 6]
    trains = [train(deltas_ns, at_ns=turn * 100 * MS) for turn in range(9)]
    quiet = [gap(turn, 1 * S + turn * 16 * MS) for turn in range(4 * BATCH)]
    watch = PathWatch(trains, None)
    found = followed(watch, [*quiet])
    assert stated(found.capacity_bps).value == pytest.approx(100 * MBIT, rel=0.1)
    assert found.link == LinkKind.COALESCED.value
    assert isinstance(report([*trains, *quiet]).available_bps, Inconclusive)
    assert isinstance(found.available_bps, Inconclusive)

"""For every belief a measurement keeps its budgets; for every sample nothing breaks."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwave.estimate.clocks import align
from openqwave.estimate.dispersion import Capacity, LinkKind, capacity
from openqwave.estimate.path import report
from openqwave.estimate.samples import Gap, Sample, Train, from_json, to_json
from openqwave.estimate.watch import PathWatch
from openqwave.model.estimates import Doubt, Estimate, Inconclusive, PathReport
from openqwave.probing import schedule
from openqwave.probing.progress import QUICK, Wish
from openqwave.probing.schedule import Series

MBIT = 1_000_000
NS_PER_S = 1_000_000_000
PROBE_BYTES = 60
# What a measurement may cost on links to 100 Mbit/s; and the part of what a link carries in the
# time. The fewest trains that tell anything cost so much on any link, however slow.
MOST_BYTES = 1_000_000
MOST_PART = 0.35
FEWEST_BYTES = 105_000

BELIEFS = st.floats(math.log(0.1 * MBIT), math.log(10_000 * MBIT)).map(math.exp)


def known(kind: LinkKind = LinkKind.QUEUE) -> Capacity:
    return Capacity(Inconclusive(Doubt.NO_SAMPLES), kind)


def bytes_of(series: Series) -> int:
    return series.count * series.packets * schedule.PACKET_BYTES


def ramp_of(belief_bps: float) -> list[Series]:
    steps: list[Series] = []
    while True:
        last = steps[-1].packets if steps else 0
        step = schedule.ramp(len(steps), belief_bps if steps else None, last)
        if step is None:
            return steps
        steps.append(step)
        assert len(steps) < 10


# -- queues ---------------------------------------------------------------------------


@given(BELIEFS)
def test_no_train_back_to_back_makes_a_queue_beyond_the_budget(belief_bps: float) -> None:
    for series in [*ramp_of(belief_bps), schedule.steady(belief_bps, schedule.LONGEST, False)]:
        queue_ns = series.packets * schedule.packet_ns(belief_bps)
        # Where three packets are too many, three are sent all the same.
        assert queue_ns <= schedule.QUEUE_NS or series.packets <= schedule.SHORTEST


@given(BELIEFS, st.booleans())
def test_paced_trains_leave_less_than_the_budget_at_half_load(
    belief_bps: float, is_quick: bool
) -> None:
    # Offered at the capacity, the queue grows by what others send: at half load by half of it.
    series = schedule.paced(belief_bps, known(), 2 * NS_PER_S, is_quick)
    span_ns = series.packets * schedule.packet_ns(belief_bps)
    assert span_ns <= schedule.LONGEST_PACED_NS or series.packets <= schedule.LEAST_PACED
    assert schedule.LONGEST_PACED_NS / 2 <= schedule.QUEUE_NS
    assert series.packets >= 2


# -- bytes and time -------------------------------------------------------------------


@given(BELIEFS)
def test_steady_trains_cost_what_they_may(belief_bps: float) -> None:
    series = schedule.steady(belief_bps, schedule.LONGEST, False)
    assert schedule.LEAST_STEADY <= series.count <= schedule.MOST_STEADY
    if belief_bps <= schedule.FAST_BPS and series.count > schedule.LEAST_STEADY:
        assert bytes_of(series) <= schedule.STEADY_BYTES


@given(BELIEFS, st.integers(100_000_000, 5 * NS_PER_S), st.booleans())
def test_paced_trains_cost_what_they_may(belief_bps: float, window_ns: int, is_quick: bool) -> None:
    series = schedule.paced(belief_bps, known(), window_ns, is_quick)
    assert 4 <= series.count <= schedule.MOST_PACED_FAST
    if series.count > 4:
        # The small probes between them are to see the path without them.
        assert series.count * series.packets * series.gap_ns <= window_ns / 10 * 1.01
        if belief_bps <= schedule.FAST_BPS:
            assert bytes_of(series) <= schedule.PACED_BYTES
            assert series.count <= schedule.MOST_PACED


@given(BELIEFS)
def test_small_probes_are_a_small_load(belief_bps: float) -> None:
    wanted = schedule.probes_per_second(belief_bps, PROBE_BYTES)
    assert schedule.LEAST_PROBES <= wanted <= schedule.MOST_PROBES
    if wanted > schedule.LEAST_PROBES:
        is_slow = belief_bps < schedule.SLOW_BPS
        share = schedule.PROBE_SHARE_SLOW if is_slow else schedule.PROBE_SHARE
        assert wanted * PROBE_BYTES * 8 <= share * belief_bps * 1.001


@pytest.mark.parametrize("wish", [Wish(), QUICK], ids=["whole", "quick"])
@given(belief_bps=BELIEFS)
def test_a_measurement_costs_what_it_may(wish: Wish, belief_bps: float) -> None:
    is_fast = belief_bps > schedule.FAST_BPS
    duration_ns = wish.fast_duration_ns if is_fast else wish.duration_ns
    trains = [*ramp_of(belief_bps)]
    trains.append(schedule.steady(belief_bps, schedule.LONGEST, wish.is_quick))
    trains.append(schedule.paced(belief_bps, known(), duration_ns, wish.is_quick))
    probes = schedule.probes_per_second(belief_bps, PROBE_BYTES) * duration_ns / NS_PER_S
    cost = sum(map(bytes_of, trains)) + probes * PROBE_BYTES
    if belief_bps <= 100 * MBIT:
        assert cost <= MOST_BYTES
    carried = belief_bps / 8 * duration_ns / NS_PER_S
    if not wish.is_quick:
        assert cost <= max(MOST_PART * carried, FEWEST_BYTES)


@pytest.mark.parametrize("kind", list(LinkKind))
@given(belief_bps=BELIEFS)
def test_on_any_kind_of_link_trains_can_be_sent(kind: LinkKind, belief_bps: float) -> None:
    series = schedule.paced(belief_bps, known(kind), 2 * NS_PER_S, False)
    assert series.count >= 0
    assert 2 <= series.packets <= schedule.LONGEST
    assert series.gap_ns >= 0


# -- samples --------------------------------------------------------------------------

TIMES = st.integers(0, 2**63 - 1)
DELTAS = st.integers(0, 10**13)


@st.composite
def trains(draw: st.DrawFn) -> Train:
    sent = tuple(sorted(draw(st.lists(TIMES, min_size=2, max_size=40))))
    count = len(sent) - 1
    deltas = draw(st.one_of(st.just([]), st.lists(DELTAS, min_size=count, max_size=count)))
    gap_ns = draw(st.sampled_from([0, 0, 1, 600_000, 10**9]))
    return Train(draw(st.integers(60, 1500)), gap_ns, sent, tuple(deltas))


GAPS = st.builds(
    Gap,
    sequence=st.integers(0, 2**40),
    packet_bytes=st.integers(1, 1500),
    sent_ns=TIMES,
    sink_received_ns=TIMES,
    sink_sent_ns=TIMES,
    received_ns=st.one_of(st.just(0), TIMES),
)
SAMPLES = st.lists(st.one_of(trains(), GAPS), max_size=30)


@given(st.one_of(trains(), GAPS))
def test_a_sample_survives_its_line(sample: Sample) -> None:
    line = to_json(sample)
    assert from_json(line) == sample
    assert from_json(json.dumps(json.loads(line))) == sample


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner)
    ),
    max_leaves=5,
)
NAMES = st.sampled_from(["packet_bytes", "gap_ns", "sent_ns", "deltas_ns", "sequence", "other"])
OBJECTS = st.tuples(
    st.sampled_from(["train", "gap", "end", None]), st.dictionaries(NAMES, VALUES)
).map(lambda both: json.dumps({"kind": both[0]} | both[1]))


@given(st.one_of(st.text(max_size=60), VALUES.map(json.dumps), OBJECTS))
def test_what_is_no_sample_is_refused_in_one_way(line: str) -> None:
    try:
        sample = from_json(line)
    except ValueError:
        return
    assert isinstance(sample, (Train, Gap))


def is_sound(found: PathReport) -> bool:
    estimates = (
        found.capacity_bps,
        found.available_bps,
        found.rtt_ns,
        found.jitter_there_ns,
        found.jitter_back_ns,
        found.loss_ppm,
    )
    return all(
        isinstance(one, Inconclusive) or one.low <= one.value <= one.high for one in estimates
    ) and math.isfinite(found.drift_ppm)


@given(SAMPLES)
def test_a_report_of_anything_is_a_report(samples: list[Sample]) -> None:
    assert is_sound(report(samples))


@given(st.lists(GAPS, max_size=40))
def test_any_probes_can_be_aligned(gaps: list[Gap]) -> None:
    found = align(gaps)
    assert len(found.waits) <= sum(not one.is_lost for one in gaps)
    assert all(wait.there_ns >= 0 and wait.back_ns >= 0 for wait in found.waits)


@given(st.lists(trains(), max_size=20))
def test_any_trains_have_a_capacity_or_a_doubt(given_trains: list[Train]) -> None:
    found = capacity(given_trains)
    if isinstance(found.estimate, Estimate):
        assert found.estimate.low <= found.estimate.value <= found.estimate.high


@given(SAMPLES, SAMPLES)
def test_a_watch_of_anything_goes_on(before: list[Sample], after: list[Sample]) -> None:
    watch = PathWatch(before, None)
    for sample in after:
        watch.observe(sample)
    assert is_sound(watch.report())

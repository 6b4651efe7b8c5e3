"""What a stream beside a measurement notices of it, in virtual time.

A paced stream of 2 Mbit/s, as of a game or a call with pictures, and a measurement share a link
of 20 Mbit/s. The stream's delays with the measurement are compared with those without it, on the
same link with the same traffic of others.
"""

from __future__ import annotations

import functools

import pytest

from openqwave.lab.links import CrossKind
from openqwave.lab.pathmodel import PathModel
from openqwave.model.estimates import Estimate
from tests.scenario.virtual import MS, Bystander, S
from tests.scenario.virtual_paths import MBIT, Case, finish, link, path, world_of

STREAM_BPS = 2 * MBIT
SIZE_BYTES = 1000
INTERVAL_NS = SIZE_BYTES * 8 * S // STREAM_BPS
# It began before the measurement, at no particular moment, and goes on after it.
OFFSET_NS = 1_700_000
LENGTH_NS = 4 * S


@functools.cache
def beside(load: float, kind: CrossKind, seed: int) -> tuple[Bystander, Bystander, Estimate]:
    """The stream beside a measurement and alone, and what the measurement says is free."""
    case = Case(f"{kind} {load}", path(link(20 * MBIT, load, kind)))
    times = range(OFFSET_NS, LENGTH_NS, INTERVAL_NS)
    world = world_of(case, seed)
    stream = world.accompany(times, SIZE_BYTES)
    available = finish(world).report.available_bps
    assert isinstance(available, Estimate)
    world.go_on(LENGTH_NS + S)
    alone, model = Bystander(), PathModel(case.spec.forward, seed)
    for number, time_ns in enumerate(times):
        alone.sent_ns[number] = time_ns
        model.offer(time_ns, number, SIZE_BYTES)
        for due_ns, frame in model.deliver(time_ns + S):
            assert isinstance(frame, int)
            alone.delays_ns[frame] = due_ns - alone.sent_ns[frame]
    return stream, alone, available


def ninety_ninth(stream: Bystander) -> int:
    ordered = sorted(stream.delays_ns.values())
    return ordered[len(ordered) * 99 // 100]


SEEDS = [1, 2, 3]


def rise_ns(load: float, kind: CrossKind, seed: int) -> int:
    """How much higher the stream's 99th percentile is; nothing is lost."""
    stream, alone, _ = beside(load, kind, seed)
    assert len(stream.sent_ns) == len(range(OFFSET_NS, LENGTH_NS, INTERVAL_NS))
    assert stream.delays_ns.keys() == stream.sent_ns.keys(), "packets were lost"
    assert alone.delays_ns.keys() == stream.sent_ns.keys()
    return ninety_ninth(stream) - ninety_ninth(alone)


@pytest.mark.parametrize(
    ("load", "kind"),
    [(0.0, CrossKind.POISSON), (0.25, CrossKind.POISSON), (0.5, CrossKind.CONSTANT)],
)
def test_a_stream_loses_nothing_and_no_train_adds_more_than_itself(
    load: float, kind: CrossKind
) -> None:
    # A train fills the queue by 5 ms at most, and others come on top.
    assert max(rise_ns(load, kind, seed) for seed in SEEDS) < 8 * MS


def test_a_stream_on_a_link_of_its_own_hardly_notices() -> None:
    assert max(rise_ns(0.0, CrossKind.POISSON, seed) for seed in SEEDS) < 5 * MS


def test_the_stream_is_seen_as_other_traffic() -> None:
    for load in (0.0, 0.5):
        _, _, available = beside(load, CrossKind.CONSTANT, 4)
        free_bps = 20 * MBIT * (1 - load) - STREAM_BPS
        assert abs(available.value - free_bps) < 2 * MBIT
        assert available.low - MBIT / 2 <= free_bps <= available.high + MBIT / 2

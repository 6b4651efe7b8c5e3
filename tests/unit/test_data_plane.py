"""Plans into the program's tables: what stands there, and that a plan leaves all or nothing."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwave.enforcement.bpf.backend import DataPlane
from openqwave.enforcement.bpf.presence import Presence
from openqwave.enforcement.bpf.table import FlowTable
from openqwave.enforcement.shaping.queues import DepartureTimes
from openqwave.enforcement.shaping.shapers import Leaf, Shaped, Shapers
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.flow import UNTOUCHED, Transport, Treatment
from openqwave.model.queues import Hop, hop_to
from openqwave.model.traffic import FlowTraffic
from openqwave.subsystem.effects import Applied, Share, SocketPlan

VOICE, BULK = Treatment(56, 6), Treatment(8, 1)
SHAPED, SLOWER = Treatment(40, 5, 8_000_000), Treatment(40, 5, 4_000_000)
METERED = Treatment(40, 5, 8_000_000, excess_is_remarked=True)
ENDS = [Endpoint(bytes([192, 0, 2, number]), 5_000) for number in range(1, 6)]


@dataclass
class Tables:
    """The tables, as dictionaries; a call fails when its turn has come."""

    most: int = 100
    fails_in: int = -1
    treatments: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    sockets: dict[int, tuple[int | None, bool]] = field(default_factory=dict)
    destinations: dict[tuple[int, Endpoint], int] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)
    writes: int = 0

    def _turn(self) -> None:
        self.writes += 1
        self.fails_in -= 1
        if self.fails_in == 0:
            raise OSError(errno.E2BIG, "no room")

    def new_slot(self) -> int:
        self._turn()
        slot = next(number for number in itertools.count(1) if number not in self.used)
        if slot > self.most:
            raise OSError(errno.ENOSPC, "no slot")
        self.used.add(slot)
        return slot

    def free_slot(self, slot: int) -> None:
        assert slot in self.used
        assert all(default != slot for default, _ in self.sockets.values())
        assert slot not in self.destinations.values()
        self.used.remove(slot)
        self.treatments.pop(slot, None)

    def write_treatment(
        self, slot: int, treatment: Treatment, *how: object, **more: object
    ) -> None:
        self._turn()
        assert slot in self.used
        self.treatments[slot] = (treatment, how, tuple(more.items()))

    def read_treatments(self, slots: Collection[int]) -> dict[int, Treatment]:
        return {slot: self.treatments[slot][0] for slot in slots}

    def read_meters(self, slots: Collection[int]) -> dict[int, FlowTraffic]:
        return {slot: FlowTraffic(packets=slot) for slot in slots}

    def put_socket(self, cookie: int, default: int | None, has_destinations: bool = False) -> None:
        self._turn()
        assert default is None or default in self.treatments
        self.sockets[cookie] = (default, has_destinations)

    def drop_socket(self, cookie: int) -> None:
        self.sockets.pop(cookie, None)

    def put_destinations(self, cookie: int, slots: Mapping[Endpoint, int]) -> None:
        for end, slot in slots.items():
            # In the middle of many, some have been put.
            self._turn()
            assert slot in self.treatments
            self.destinations[cookie, end] = slot

    def drop_destinations(self, cookie: int, ends: Collection[Endpoint]) -> None:
        for end in ends:
            self.destinations.pop((cookie, end), None)

    def written(self, slot: int) -> tuple[Treatment, object, dict[str, object]]:
        treatment, how, more = self.treatments[slot]
        return treatment, how, dict(more)

    def entries(self) -> Any:  # noqa: ANN401 - as `FlowTable.entries`
        return self

    def seen(self) -> tuple[Any, ...]:
        """What a packet could find."""
        return dict(self.sockets), dict(self.destinations), dict(self.treatments), set(self.used)


class Still:
    """A program that nothing happens to."""

    is_closed = False

    def lingers(self, cookie: int) -> bool:
        return cookie == 1

    def take_gone(self, lingers: Callable[[int], bool]) -> Collection[int]:
        return [cookie for cookie in (1, 2) if not lingers(cookie)]

    def reconcile(self) -> None:
        pass

    def tags_at(self, interface: int) -> bool:
        return interface == 1

    def close(self) -> None:
        self.is_closed = True


class Queues:
    """Gives leaves, or departure times, or refuses those above a rate."""

    def __init__(self) -> None:
        self.held: dict[int, tuple[int, frozenset[Hop]]] = {}
        self.changes: dict[int, Shaped | Refusal] = {}
        self.with_leaves = True
        self.grants = 0
        self.refuses = False

    def grant(self, flow_id: int, rate_bps: int, hops: Collection[Hop]) -> Shaped | Refusal:
        if self.refuses:
            return Refusal(ErrorCode.ERROR_NOT_SUPPORTED, "no queue")
        self.grants += 1
        assert len(set(hops)) == len(hops)
        self.held[flow_id] = rate_bps, frozenset(hops)
        return Leaf(0x10000 + flow_id) if self.with_leaves else DepartureTimes(10**9)

    def end(self, flow_id: int) -> None:
        self.held.pop(flow_id, None)

    def reconcile(self) -> Mapping[int, Shaped | Refusal]:
        return self.changes

    def observe(self) -> Mapping[int, int]:
        return {flow_id: rate for flow_id, (rate, _) in self.held.items()}

    def clean_up(self) -> None:
        self.held.clear()


class Rig:
    """A data plane over such tables."""

    def __init__(self) -> None:
        self.tables, self.queues, self.life = Tables(), Queues(), Still()
        self.plane = DataPlane(
            cast("FlowTable", self.tables),
            cast("Presence", self.life),
            cast("Shapers", self.queues),
        )

    def apply(self, *plans: SocketPlan) -> Applied | Refusal:
        return self.plane.apply(plans)


def plan(
    cookie: int,
    *shares: tuple[int, Treatment, tuple[Endpoint, ...]],
    transport: Transport = Transport.UDP,
    bound: int = 0,
) -> SocketPlan:
    told = tuple(Share(*each[:2], 1, each[2]) for each in shares)
    return SocketPlan(cookie, told, transport, 7, bound)


def hops(*ends: Endpoint, bound: int = 0) -> frozenset[Hop]:
    return frozenset(hop_to(end, bound) for end in ends)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_change_of_type_is_one_write(rig: Rig) -> None:
    ends = tuple(Endpoint(number.to_bytes(4, "big"), 1) for number in range(1, 1_001))
    rig.apply(plan(1, (10, VOICE, ends)))
    before = rig.tables.writes
    rig.apply(plan(1, (10, BULK, ends)))
    assert rig.tables.writes == before + 1
    rig.apply(plan(1, (10, BULK, ends)))
    assert rig.tables.writes == before + 1


def test_tcp_goes_by_its_socket(rig: Rig) -> None:
    rig.apply(plan(1, (10, VOICE, (ENDS[0],)), transport=Transport.TCP))
    assert rig.tables.sockets == {1: (1, False)}
    assert rig.tables.destinations == {}


def test_a_destination_changes_flows(rig: Rig) -> None:
    rig.apply(plan(1, (10, VOICE, (ENDS[0], ENDS[1])), (11, BULK, (ENDS[2],))))
    rig.apply(plan(1, (10, VOICE, (ENDS[0],)), (11, BULK, (ENDS[2], ENDS[1]))))
    assert rig.tables.destinations == {(1, ENDS[0]): 1, (1, ENDS[1]): 2, (1, ENDS[2]): 2}


def test_one_more_of_thousands_is_no_look_at_each(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = [Endpoint(number.to_bytes(4, "big"), 1) for number in range(1, 1_001)]
    rig.apply(plan(1, (10, VOICE, tuple(ends))))
    looked: list[int] = []
    hashed = Endpoint.__hash__

    def look(end: Endpoint) -> int:
        looked.append(end.port)
        return hashed(end)

    monkeypatch.setattr(Endpoint, "__hash__", look)
    rig.apply(plan(1, (10, VOICE, (*ends, ENDS[0]))))
    rig.apply(plan(1, (10, VOICE, (*ends[:500], *ends[501:], ENDS[0]))))
    assert len(looked) < 50
    monkeypatch.undo()
    assert len(rig.tables.destinations) == 1_000
    assert (1, ends[500]) not in rig.tables.destinations
    assert (1, ENDS[0]) in rig.tables.destinations


def test_a_rate_is_held_wherever_the_flow_goes(rig: Rig) -> None:
    rig.apply(plan(1, (10, SHAPED, (ENDS[0],))), plan(2, (10, SHAPED, (ENDS[1],))))
    assert rig.queues.held == {10: (8_000_000, hops(*ENDS[:2]))}
    # Of one socket's plan alone, the other's destinations are known still.
    rig.apply(plan(1, (10, SLOWER, (ENDS[0], ENDS[2]))))
    assert rig.queues.held == {10: (4_000_000, hops(*ENDS[:3]))}
    rig.apply(plan(1, (10, VOICE, (ENDS[0],))), plan(2, (10, VOICE, (ENDS[1],))))
    assert rig.queues.held == {}
    assert rig.tables.treatments[1] == (VOICE, (), ())


def test_sockets_that_are_bound_differently_are_held_where_each_leaves(rig: Rig) -> None:
    rig.apply(
        plan(1, (10, SHAPED, (ENDS[0],))),
        plan(2, (10, SHAPED, (ENDS[0],)), bound=3),
        plan(3, (10, SHAPED, (ENDS[1],)), bound=4),
    )
    assert rig.queues.held == {
        10: (8_000_000, hops(ENDS[0]) | hops(ENDS[0], bound=3) | hops(ENDS[1], bound=4))
    }
    rig.apply(plan(2, (10, SHAPED, (ENDS[0],)), bound=5))
    rig.apply(SocketPlan(3, ()))
    assert rig.queues.held == {10: (8_000_000, hops(ENDS[0]) | hops(ENDS[0], bound=5))}


def test_tcp_that_shares_a_rate_is_held_where_it_goes(rig: Rig) -> None:
    tcp = Transport.TCP
    for cookie in (1, 2, 3):
        rig.apply(plan(cookie, (10, SHAPED, (ENDS[cookie],)), transport=tcp))
    assert rig.queues.held == {10: (8_000_000, hops(*ENDS[1:4]))}
    rig.apply(SocketPlan(2, ()))
    assert rig.queues.held == {10: (8_000_000, hops(ENDS[1], ENDS[3]))}


def test_another_port_of_a_host_asks_the_queues_nothing(rig: Rig) -> None:
    ends = [Endpoint(ENDS[0].packed, port) for port in range(1, 1_002)]
    rig.apply(plan(1, (10, SHAPED, tuple(ends[:1_000]))))
    rig.apply(plan(1, (10, SHAPED, tuple(ends))))
    rig.apply(plan(1, (10, SHAPED, tuple(ends[1:]))))
    assert rig.queues.grants == 1
    assert rig.queues.held == {10: (8_000_000, hops(ends[0]))}
    rig.apply(plan(1, (10, SHAPED, (*ends[1:], ENDS[1]))))
    assert rig.queues.held == {10: (8_000_000, hops(ends[0], ENDS[1]))}


def test_what_is_undone_leaves_the_ways_as_they_were(rig: Rig) -> None:
    rig.apply(plan(1, (10, SHAPED, (ENDS[0], ENDS[1]))), plan(2, (10, SHAPED, (ENDS[0],))))
    before = dict(rig.queues.held)
    more = plan(1, (10, SHAPED, (ENDS[0], ENDS[2], ENDS[3])))
    for turn in (1, 2, 3):
        rig.tables.fails_in = turn
        if isinstance(rig.apply(more), Refusal):
            assert rig.queues.held == before
            # None is counted twice, or not at all.
            rig.apply(plan(1, (10, SHAPED, (ENDS[4],))))
            assert rig.queues.held == {10: (8_000_000, hops(ENDS[0], ENDS[4]))}
            rig.apply(plan(1, (10, SHAPED, (ENDS[0], ENDS[1]))))
    rig.tables.fails_in = -1
    assert rig.queues.held == before


def test_a_rate_that_cannot_be_held_keeps_the_one_before(rig: Rig) -> None:
    rig.apply(plan(1, (10, SHAPED, (ENDS[0],))))
    before, held = rig.tables.seen(), dict(rig.queues.held)
    rig.queues.refuses = True
    outcome = rig.apply(plan(1, (10, SLOWER, (ENDS[0],))))
    assert isinstance(outcome, Refusal)
    assert outcome.detail == "no queue"
    assert rig.tables.seen() == before
    rig.queues.refuses = False
    assert rig.queues.held in (held, {10: (8_000_000, hops(*ENDS[:1]))})


def test_a_rate_is_given_up_only_when_all_is_done(rig: Rig) -> None:
    rig.apply(plan(1, (10, SHAPED, (ENDS[0],))))
    before = rig.tables.seen(), dict(rig.queues.held)
    rig.tables.most = 1
    outcome = rig.apply(plan(1, (10, VOICE, (ENDS[0],))), plan(2, (11, VOICE, (ENDS[0],))))
    assert isinstance(outcome, Refusal)
    assert outcome.code == ErrorCode.ERROR_NO_SYSTEM_RESOURCES
    assert "most_flows" in outcome.detail
    assert (rig.tables.seen(), rig.queues.held) == before


def test_what_others_do_to_the_queues_is_followed(rig: Rig) -> None:
    rig.apply(plan(1, (10, SHAPED, (ENDS[0],))))
    assert rig.tables.written(1) == (SHAPED, (0x1000A,), {})
    rig.queues.changes = {10: DepartureTimes(10**9)}
    rig.plane.reconcile()
    assert rig.tables.written(1) == (SHAPED, (), {"is_delayed": True, "horizon_ns": 10**9})
    rig.queues.changes = {10: Refusal(ErrorCode.ERROR_NOT_SUPPORTED, "eth0 has a root queue")}
    rig.plane.reconcile()
    assert rig.tables.written(1) == (SHAPED, (), {})
    assert "eth0 has a root queue" in rig.plane.explain(1)[1]
    # And when the flow ends, so does what is remembered of its rate.
    rig.apply(SocketPlan(1, ()))
    assert rig.queues.held == {}


@pytest.mark.parametrize("is_noticed", [False, True])
def test_flows_leave_though_queues_fail_others(rig: Rig, is_noticed: bool) -> None:
    """A rate that others took away is no reason to go on marking what has ended."""
    rig.apply(plan(1, (10, SHAPED, (ENDS[0],)), (11, VOICE, (ENDS[1],))))
    refusal = Refusal(ErrorCode.ERROR_NOT_SUPPORTED, "no queue")
    rig.queues.refuses, rig.queues.changes = True, {10: refusal}
    if is_noticed:
        rig.plane.reconcile()
    before = rig.tables.written(1)
    assert rig.apply(plan(1, (10, SHAPED, (ENDS[0],)))) == Applied()
    assert rig.tables.destinations == {(1, ENDS[0]): 1}
    assert rig.tables.written(1) == before
    # But nothing that is new comes to a flow that is not held.
    assert rig.apply(plan(1, (10, SHAPED, tuple(ENDS[:2])))) == refusal
    assert rig.tables.destinations == {(1, ENDS[0]): 1}


def test_a_rate_forgets_where_a_closed_socket_sent(rig: Rig) -> None:
    """Else the flow loses its rate when there is no route there any more."""
    rig.apply(plan(1, (10, SHAPED, (ENDS[0],))), plan(2, (10, SHAPED, (ENDS[1],))))
    rig.apply(SocketPlan(2, ()))
    assert rig.queues.held == {10: (8_000_000, hops(*ENDS[:1]))}
    rig.apply(plan(2, (10, SHAPED, (ENDS[1],))))
    rig.apply(plan(2, (11, VOICE, (ENDS[1],))))
    assert rig.queues.held == {10: (8_000_000, hops(*ENDS[:1]))}


def test_what_is_said_of_a_socket(rig: Rig) -> None:
    rig.apply(plan(1, (10, VOICE, (ENDS[0],))), plan(2, (11, METERED, (ENDS[1],))))
    rig.apply(plan(3, (12, UNTOUCHED, (ENDS[1],))))
    assert "marks by socket and destination" in rig.plane.explain(1)[1]
    assert "marks otherwise what is above the rate" in rig.plane.explain(2)[1]
    assert "changes nothing" in rig.plane.explain(3)[1]
    assert rig.plane.traffic([10, 12, 99]) == {10: FlowTraffic(1), 12: FlowTraffic(3)}


def test_streams_linger(rig: Rig) -> None:
    rig.apply(plan(1, (10, VOICE, (ENDS[0],)), transport=Transport.TCP))
    rig.apply(plan(2, (11, VOICE, (ENDS[0],))))
    assert rig.plane.take_gone() == [2]
    assert (rig.plane.outlives(1), rig.plane.outlives(2)) == (True, False)


def test_after_the_end_there_is_nothing(rig: Rig) -> None:
    rig.apply(plan(1, (10, SHAPED, (ENDS[0],))))
    rig.plane.clean_up()
    assert rig.life.is_closed
    assert rig.queues.held == {}
    assert rig.plane.observe() == {}
    assert rig.plane.traffic([10]) == {}
    assert isinstance(rig.apply(plan(1, (10, VOICE, (ENDS[0],)))), Refusal)


def test_queues_go_though_a_filter_stays(rig: Rig) -> None:
    def fail() -> None:
        raise OSError(errno.EIO, "no")

    rig.apply(plan(1, (10, SHAPED, (ENDS[0],))))
    rig.life.close = fail  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no"):
        rig.plane.clean_up()
    assert rig.queues.held == {}


treatments = st.sampled_from([VOICE, BULK, SHAPED, SLOWER, METERED, UNTOUCHED])


@st.composite
def many_plans(draw: st.DrawFn) -> tuple[SocketPlan, ...]:
    """Plans as the engine makes them: a flow has one treatment, a destination one flow."""
    how = {flow: draw(treatments) for flow in (10, 11, 12)}
    plans = []
    for cookie in draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=3, unique=True)):
        of_end = draw(st.dictionaries(st.sampled_from(ENDS), st.sampled_from([10, 11, 12])))
        is_tcp = len(of_end) == 1 and cookie == 3
        shares = [
            (flow, how[flow], tuple(end for end, whose in of_end.items() if whose == flow))
            for flow in sorted(set(of_end.values()))
        ]
        transport = Transport.TCP if is_tcp else Transport.UDP
        plans.append(plan(cookie, *shares, transport=transport))
    return tuple(plans)


@given(st.lists(st.tuples(many_plans(), st.integers(-1, 12)), max_size=12), st.booleans())
def test_all_or_nothing(steps: list[tuple[tuple[SocketPlan, ...], int]], with_leaves: bool) -> None:
    rig = Rig()
    rig.queues.with_leaves = with_leaves
    wanted: dict[int, SocketPlan] = {}
    for plans, fails_in in steps:
        before, held = rig.tables.seen(), dict(rig.queues.held)
        rig.tables.fails_in = fails_in if fails_in > 0 else -1
        outcome = rig.plane.apply(plans)
        rig.tables.fails_in = -1
        if isinstance(outcome, Refusal):
            assert rig.tables.seen() == before
            assert {flow: rate for flow, (rate, _) in rig.queues.held.items()} == {
                flow: rate for flow, (rate, _) in held.items()
            }
            continue
        wanted |= {each.cookie: each for each in plans}
        _check(rig, wanted)


def _check(rig: Rig, wanted: Mapping[int, SocketPlan]) -> None:
    """Do the tables lead every packet where it is wanted, and hold nothing else?"""
    tables = rig.tables
    flows = {share.flow_id for each in wanted.values() for share in each.shares}
    assert len(tables.used) == len(flows)
    assert tables.sockets.keys() == {each.cookie for each in wanted.values() if each.shares}
    for each in wanted.values():
        expected = {end: share for share in each.shares for end in share.destinations}
        listed = {end for cookie, end in tables.destinations if cookie == each.cookie}
        if each.shares and each.transport is Transport.TCP:
            slot, has_destinations = tables.sockets[each.cookie]
            assert (slot is not None, has_destinations, listed) == (True, False, set())
        else:
            assert listed == expected.keys()

"""A failed call changes nothing: after a refused plan the engine is exactly as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.flow import NoticeKind, TrafficType
from openqwave.model.path import LinkType, PathFacts
from openqwave.subsystem import requests as rq
from openqwave.subsystem.effects import Applied, Apply, SocketPlan, StartExperiments
from tests.unit.driven import (
    NO_MECHANISM,
    ROOT,
    STRANGER,
    A,
    B,
    C,
    Driven,
    add,
    facts,
    notify,
    query,
    rate,
    view,
)

REFUSALS = [
    NO_MECHANISM,
    Refusal(ErrorCode.ERROR_ACCESS_DENIED, "rights"),
    Refusal(ErrorCode.ERROR_IO_DEVICE, "kernel"),
]


class Populated(Driven):
    """Two processes, three handles, flows of all kinds; one socket in several flows."""

    def __init__(self) -> None:
        super().__init__()
        self.mine, self.also_mine, self.theirs = self.open(), self.open(), self.open(STRANGER)
        self.first = self.flow(self.mine, 1, A)
        self.join(self.mine, self.first, 1, B)
        self.join(self.mine, self.first, 2, A)
        self.second = self.flow(self.also_mine, 1, C)
        self.adaptive = self.flow(self.mine, 3, A, is_adaptive=True)
        self.other = self.flow(self.theirs, 4, B, TrafficType.BACKGROUND)
        self.grant(self.mine, rate(self.adaptive, 5_000))
        self.see(A, view(is_congested=False, available_bps=1))
        self.waiting = self.waits(self.mine, notify(self.adaptive, NoticeKind.CONGESTED))

    def picture(self) -> dict[str, Any]:
        """Everything that can be seen of the engine without changing it."""
        flows = {self.first, self.second, self.adaptive, self.other}
        flows |= set(self.enumerated(self.mine))
        return {
            "enumerated": self.enumerated(self.mine),
            "sockets": sorted(self.engine.sockets()),
            "handles": self.engine.handle_ids(),
            "plans": dict(self.mechanism.plans),
            "asked of flows": {
                (flow, question, handle): self.result(handle, query(flow, question, ROOT))
                for flow in flows
                for question in rq.Question
                for handle in (self.mine, self.theirs)
            },
            "owned": {
                (flow, handle): self.result(handle, notify(flow, NoticeKind.AVAILABLE, 0))
                for flow in flows
                for handle in self.engine.handle_ids()
            },
            "waiting": self.waiting in self.answers,
        }

    def plan_of(self, cookie: int) -> SocketPlan:
        """What the engine wants of a socket now, read from a change that is refused."""
        flow = {1: self.first, 2: self.first, 3: self.adaptive, 4: self.other}[cookie]
        handle = self.theirs if cookie == 4 else self.mine
        self.mechanism.refusals.append(NO_MECHANISM)
        self.ask(handle, rate(flow, 999))
        return next(plan for plan in self.mechanism.applied[-1] if plan.cookie == cookie)


# Every request that can change something, by what it does.
CHANGES: dict[str, Callable[[Populated], tuple[int, rq.Request]]] = {
    "new flow": lambda it: (it.mine, add(0, facts(9), A)),
    "new flow of a known socket": lambda it: (it.mine, add(0, facts(2), B)),
    "join": lambda it: (it.mine, add(it.first, facts(9), A)),
    "join with another destination": lambda it: (it.mine, add(it.first, facts(1), C)),
    "takeover of a whole flow": lambda it: (it.mine, add(0, facts(3), A)),
    "takeover from another process": lambda it: (it.mine, add(0, facts(4), B)),
    "takeover of one pair": lambda it: (it.mine, add(0, facts(1), A)),
    "takeover of the last pair by joining": lambda it: (it.mine, add(it.first, facts(1), C)),
    "takeover of a socket's only pair": lambda it: (it.mine, add(0, facts(2), A)),
    "remove flow": lambda it: (it.mine, rq.RemoveSocket(it.first, None)),
    "remove adaptive flow": lambda it: (it.mine, rq.RemoveSocket(it.adaptive, None)),
    "remove socket": lambda it: (it.mine, rq.RemoveSocket(it.first, 1)),
    "remove last socket": lambda it: (it.also_mine, rq.RemoveSocket(it.second, 1)),
    "type": lambda it: (it.mine, rq.SetTrafficType(it.first, TrafficType.BACKGROUND)),
    "rate": lambda it: (it.mine, rate(it.first, 1_000)),
    "rate 0": lambda it: (it.mine, rate(it.adaptive, 0)),
    "lower rate": lambda it: (it.mine, rate(it.adaptive, 4_000)),
    "dscp": lambda it: (it.mine, rq.SetDscp(it.first, 46, ROOT)),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.code.name)
def test_refused(name: str, refusal: Refusal) -> None:
    # "A failed call changes nothing."
    it = Populated()
    before = it.picture()
    it.mechanism.refusals.append(refusal)
    handle, request = CHANGES[name](it)
    assert it.refusal(handle, request) is refusal.code
    assert it.picture() == before


@pytest.mark.parametrize("name", CHANGES)
def test_granted_after_being_refused(name: str) -> None:
    it, fresh = Populated(), Populated()
    it.mechanism.refusals.append(NO_MECHANISM)
    handle, request = CHANGES[name](it)
    it.ask(handle, request)
    it.grant(handle, request)
    fresh.grant(*CHANGES[name](fresh))
    # A refused new flow may have used up an id, so ids are compared by how many there are.
    assert len(it.enumerated(it.mine)) == len(fresh.enumerated(fresh.mine))
    assert sorted(it.engine.sockets()) == sorted(fresh.engine.sockets())
    assert it.mechanism.observe() == fresh.mechanism.observe()


@pytest.mark.parametrize("name", CHANGES)
def test_the_order_of_flows_and_destinations_survives(name: str) -> None:
    # Plans list a socket's flows oldest first, and mechanisms may read the order.
    it = Populated()
    before = {cookie: it.plan_of(cookie) for cookie in (1, 2, 3, 4)}
    it.mechanism.refusals.append(NO_MECHANISM)
    it.ask(*CHANGES[name](it))
    assert {cookie: it.plan_of(cookie) for cookie in (1, 2, 3, 4)} == before


def test_a_plan_lists_each_socket_once() -> None:
    it = Populated()
    it.grant(it.mine, rate(it.first, 1_000))
    cookies = [plan.cookie for plan in it.mechanism.applied[-1]]
    assert sorted(cookies) == [1, 2]


# -- the driver was interrupted -------------------------------------------------------

ABANDONED = CHANGES | {"close": lambda it: (it.mine, rq.CloseHandle())}


@pytest.mark.parametrize("name", ABANDONED)
def test_abandoned(name: str) -> None:
    """Half a change is no change, not even one that cannot be refused."""
    it = Populated()
    before = it.picture()
    *_, last = it.engine.receive_request(10**6, *ABANDONED[name](it), now_ns=it.now_ns)
    assert isinstance(last, Apply)
    it.mechanism.apply(last.plans)
    it.mechanism.apply(it.engine.abandon())
    assert it.picture() == before
    it.grant(*ABANDONED[name](it))


def test_an_interest_outlives_an_abandoned_close() -> None:
    driven = Driven()
    handle = driven.open()
    driven.flow(handle, 1)
    way = PathFacts(A.host(), 1, "eth0", b"", b"", 1500, LinkType.WIRED)
    driven.grant(handle, rq.StartTracking(A.host(), None, way))
    driven.engine.receive_request(10**6, handle, rq.CloseHandle(), now_ns=driven.now_ns)
    driven.engine.abandon()
    driven.wait(300 * 10**9)
    assert driven.experiments == [StartExperiments(way)]
    driven.grant(handle, rq.StopTracking(A.host()))


# -- the two steps --------------------------------------------------------------------


def open_change() -> Driven:
    """An engine that waits for the outcome of a plan."""
    driven = Driven()
    handle = driven.open()
    effects = driven.engine.receive_request(1, handle, add(0, facts()), now_ns=0)
    assert [type(effect) for effect in effects] == [Apply]
    return driven


# "Between the two the engine accepts nothing else [...]; asking in between is the driver's
# mistake and raises RuntimeError."
@pytest.mark.parametrize("what", ["request", "sockets gone", "path view", "interruption"])
def test_nothing_comes_in_between(what: str) -> None:
    driven = open_change()
    inputs: dict[str, Callable[[], object]] = {
        "request": lambda: driven.engine.receive_request(2, 1, rq.CloseHandle(), now_ns=0),
        "sockets gone": lambda: driven.engine.receive_sockets_gone([1], now_ns=1),
        "path view": lambda: driven.engine.receive_path_view(A, view(is_congested=True), now_ns=1),
        "interruption": lambda: driven.engine.receive_interruption(now_ns=1),
    }
    with pytest.raises(RuntimeError):
        inputs[what]()


def test_an_outcome_needs_a_plan() -> None:
    driven = Driven()
    with pytest.raises(RuntimeError):
        driven.engine.receive_applied(Applied())


def test_gone_sockets_leave_their_flows() -> None:
    driven = Driven()
    handle = driven.open()
    flow = driven.flow(handle, 1)
    driven.join(handle, flow, 2)
    driven.mechanism.gone.add(1)
    assert driven.grant(handle, rq.SetTrafficType(flow, TrafficType.BACKGROUND)) is None
    assert driven.engine.sockets() == (2,)
    driven.mechanism.gone.add(2)
    request = rq.SetTrafficType(flow, TrafficType.VOICE)
    assert driven.refusal(handle, request) is ErrorCode.ERROR_NOT_FOUND
    assert driven.enumerated(handle) == ()


def test_gone_sockets_leave_other_flows_too() -> None:
    driven = Driven()
    handle = driven.open()
    first, second = driven.flow(handle, 1, A), driven.flow(handle, 1, B)
    driven.mechanism.gone.add(1)
    assert driven.refusal(handle, rq.RemoveSocket(first, 2)) is ErrorCode.ERROR_INVALID_PARAMETER
    driven.grant(handle, rq.RemoveSocket(first, None))
    assert driven.enumerated(handle) == ()
    request = rq.SetTrafficType(second, TrafficType.VOICE)
    assert driven.refusal(handle, request) is ErrorCode.ERROR_NOT_FOUND


def test_adding_a_socket_that_is_gone() -> None:
    driven = Driven()
    handle = driven.open()
    driven.mechanism.gone.add(1)
    request = add(0, facts(1), A)
    assert driven.refusal(handle, request) is ErrorCode.ERROR_NOT_FOUND
    assert driven.engine.sockets() == ()


def test_forgetting_sockets_that_nobody_knows() -> None:
    driven = Driven()
    driven.forget(7, 8)
    assert driven.engine.sockets() == ()


def test_holds() -> None:
    driven = Driven()
    handle = driven.open()
    flow = driven.flow(handle, 1)
    assert driven.engine.holds(1)
    assert not driven.engine.holds(2)
    driven.grant(handle, rq.RemoveSocket(flow, None))
    assert not driven.engine.holds(1)

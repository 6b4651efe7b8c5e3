"""Requests that wait: when they are answered, and that each is answered exactly once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import pytest

from openqwave.admission.policy import Limits, Policy
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Fundamentals, PathView
from openqwave.model.flow import NoticeKind, TrafficType
from openqwave.model.path import LinkType, PathFacts
from openqwave.subsystem import requests as rq
from openqwave.subsystem.effects import StartExperiments
from tests.unit.driven import (
    NO_MECHANISM,
    STRANGER,
    A,
    B,
    Driven,
    add,
    endpoint,
    facts,
    notify,
    query,
    rate,
    view,
)

CALM, CONGESTED, UNKNOWN = view(is_congested=False), view(is_congested=True), view()
KINDS = list(NoticeKind)


class Adaptive(Driven):
    """With one adaptive flow to A, whose path is known."""

    def __init__(self, seen: PathView | None = UNKNOWN, policy: Policy | None = None) -> None:
        super().__init__(policy)
        self.handle = self.open()
        self.flow_id = self.flow(self.handle, is_adaptive=True)
        if seen is not None:
            self.see(A, seen)

    def wait_for(self, kind: NoticeKind) -> int:
        """A pending request of a kind, on a path of which nothing is known."""
        return self.waits(self.handle, notify(self.flow_id, kind, RATE[kind]))


RATE = {NoticeKind.CONGESTED: None, NoticeKind.UNCONGESTED: None, NoticeKind.AVAILABLE: 1_000_000}
# A view on which the condition holds, and one on which it does not.
FULFILLED = {
    NoticeKind.CONGESTED: CONGESTED,
    NoticeKind.UNCONGESTED: CALM,
    NoticeKind.AVAILABLE: view(available_bps=1_000_000),
}
UNFULFILLED = {
    NoticeKind.CONGESTED: CALM,
    NoticeKind.UNCONGESTED: CONGESTED,
    NoticeKind.AVAILABLE: view(available_bps=999_999),
}
by_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@by_kind
def test_a_condition_that_holds_is_answered_at_once(kind: NoticeKind) -> None:
    # "the path is, or becomes, congested"
    driven = Adaptive(FULFILLED[kind])
    assert driven.grant(driven.handle, notify(driven.flow_id, kind, RATE[kind])) is None


@by_kind
@pytest.mark.parametrize("seen", ["unfulfilled", "unknown"])
def test_a_condition_that_comes_true_answers_once(kind: NoticeKind, seen: str) -> None:
    # "One-shot."
    driven = Adaptive(UNFULFILLED[kind] if seen == "unfulfilled" else UNKNOWN)
    waiting = driven.wait_for(kind)
    driven.see(A, UNFULFILLED[kind])
    assert waiting not in driven.answers
    driven.see(A, FULFILLED[kind])
    assert driven.answers[waiting] is None
    # `Driven` fails if it were answered again.
    driven.see(A, UNFULFILLED[kind])
    driven.see(A, FULFILLED[kind])


@by_kind
def test_a_view_of_another_host_answers_nothing(kind: NoticeKind) -> None:
    driven = Adaptive()
    waiting = driven.wait_for(kind)
    driven.see(B, FULFILLED[kind])
    assert waiting not in driven.answers


@by_kind
def test_the_port_of_a_view_does_not_matter(kind: NoticeKind) -> None:
    # "Paths to the same destination are measured once"; a client is "a destination host,
    # identified by address and family alone".
    driven = Adaptive()
    waiting = driven.wait_for(kind)
    driven.see(endpoint("192.0.2.1", 1), FULFILLED[kind])
    assert driven.answers[waiting] is None


@by_kind
def test_only_one_of_a_kind_may_wait(kind: NoticeKind) -> None:
    # By contract: "A second pending request of the same kind on the flow: ERROR_ALREADY_EXISTS."
    driven = Adaptive()
    waiting = driven.wait_for(kind)
    again = notify(driven.flow_id, kind, RATE[kind])
    assert driven.refusal(driven.handle, again) is ErrorCode.ERROR_ALREADY_EXISTS
    driven.see(A, FULFILLED[kind])
    assert driven.answers[waiting] is None
    assert driven.grant(driven.handle, again) is None


def test_the_kinds_wait_side_by_side() -> None:
    driven = Adaptive()
    waiting = {kind: driven.wait_for(kind) for kind in KINDS}
    driven.see(A, view(is_congested=True, available_bps=5))
    assert [kind for kind in KINDS if waiting[kind] in driven.answers] == [NoticeKind.CONGESTED]


def test_two_flows_of_a_path_are_told_together() -> None:
    driven = Adaptive()
    other = driven.flow(driven.handle, 2, A, is_adaptive=True)
    waiting = [
        driven.wait_for(NoticeKind.CONGESTED),
        driven.waits(driven.handle, notify(other, NoticeKind.CONGESTED)),
    ]
    driven.see(A, CONGESTED)
    assert [driven.answers[one] for one in waiting] == [None, None]


@by_kind
@pytest.mark.parametrize("seen", [None, UNKNOWN], ids=["no view", "view"])
@pytest.mark.parametrize("is_adaptive", [False, True], ids=["non-adaptive", "adaptive"])
def test_what_cannot_be_noticed(kind: NoticeKind, seen: PathView | None, is_adaptive: bool) -> None:
    # By contract: "Non-adaptive or unmeasurable: ERROR_NOT_SUPPORTED."
    driven = Driven()
    handle = driven.open()
    flow = driven.flow(handle, is_adaptive=is_adaptive)
    driven.see(A, seen)
    request = notify(flow, kind, RATE[kind])
    if is_adaptive and seen is not None:
        driven.waits(handle, request)
    else:
        assert driven.refusal(handle, request) is ErrorCode.ERROR_NOT_SUPPORTED


@by_kind
def test_a_path_that_gets_unmeasurable_answers(kind: NoticeKind) -> None:
    driven = Adaptive()
    waiting = driven.wait_for(kind)
    driven.see(A, None)
    assert driven.code_of(waiting) is ErrorCode.ERROR_NOT_SUPPORTED


@pytest.mark.parametrize("held", [0, 500_000])
@pytest.mark.parametrize("extra", [-1, 0])
def test_available_needs_more_than_is_held(held: int, extra: int) -> None:
    # By contract: "Available with a rate at or below the present contract: ERROR_INVALID_PARAMETER"
    driven = Adaptive(view(available_bps=held))
    if held:
        driven.grant(driven.handle, rate(driven.flow_id, held))
    request = notify(driven.flow_id, NoticeKind.AVAILABLE, held + extra)
    assert driven.refusal(driven.handle, request) is ErrorCode.ERROR_INVALID_PARAMETER
    driven.waits(driven.handle, notify(driven.flow_id, NoticeKind.AVAILABLE, held + 1))


def test_available_without_a_rate() -> None:
    driven = Adaptive()
    request = notify(driven.flow_id, NoticeKind.AVAILABLE, None)
    assert driven.refusal(driven.handle, request) is ErrorCode.ERROR_INVALID_PARAMETER


# -- the end of a request -------------------------------------------------------------


@by_kind
def test_cancelled(kind: NoticeKind) -> None:
    # "The cancelled operation completes in the normal way with ERROR_OPERATION_ABORTED."
    driven = Adaptive()
    waiting = driven.wait_for(kind)
    assert driven.grant(driven.handle, rq.Cancel(waiting)) is None
    assert driven.code_of(waiting) is ErrorCode.ERROR_OPERATION_ABORTED
    # By contract: "Null or not a pending operation of this handle: ERROR_INVALID_PARAMETER."
    assert driven.refusal(driven.handle, rq.Cancel(waiting)) is ErrorCode.ERROR_INVALID_PARAMETER
    driven.wait_for(kind)


def test_a_completion_wins_over_a_later_cancel() -> None:
    # "A completion that is already under way wins, and exactly one of the two happens."
    driven = Adaptive()
    waiting = driven.wait_for(NoticeKind.CONGESTED)
    driven.see(A, CONGESTED)
    assert driven.refusal(driven.handle, rq.Cancel(waiting)) is ErrorCode.ERROR_INVALID_PARAMETER
    assert driven.answers[waiting] is None


def test_cancel_is_for_the_own_handle() -> None:
    driven = Adaptive()
    waiting = driven.wait_for(NoticeKind.CONGESTED)
    for other in (driven.open(), driven.open(STRANGER)):
        assert driven.refusal(other, rq.Cancel(waiting)) is ErrorCode.ERROR_INVALID_PARAMETER
    assert waiting not in driven.answers


@pytest.mark.parametrize("request_id", [0, -1, 1, 999])
def test_cancel_of_nothing(request_id: int) -> None:
    driven = Adaptive()
    request = rq.Cancel(request_id)
    assert driven.refusal(driven.handle, request) is ErrorCode.ERROR_INVALID_PARAMETER


@pytest.mark.parametrize(
    "how", ["close", "remove flow", "remove socket", "takeover", "sockets gone", "interruption"]
)
@pytest.mark.parametrize("count", [1, 3], ids=["one waiting", "three waiting"])
def test_the_end_of_a_flow_aborts(how: str, count: int) -> None:
    driven = Adaptive()
    waiting = [driven.wait_for(kind) for kind in KINDS[:count]]
    match how:
        case "close":
            # "completes its pending operations with ERROR_OPERATION_ABORTED"
            driven.grant(driven.handle, rq.CloseHandle())
        case "remove flow":
            driven.grant(driven.handle, rq.RemoveSocket(driven.flow_id, None))
        case "remove socket":
            driven.grant(driven.handle, rq.RemoveSocket(driven.flow_id, 1))
        case "takeover":
            driven.flow(driven.open())
        case "sockets gone":
            driven.forget(1)
        case "interruption":
            driven.interrupt()
    aborted = ErrorCode.ERROR_OPERATION_ABORTED
    assert [driven.code_of(one) for one in waiting] == [aborted] * count
    # None of them is left to be answered again.
    driven.see(A, view(is_congested=True, available_bps=10**9))
    driven.see(A, CALM)


def test_a_socket_found_gone_aborts() -> None:
    driven = Adaptive()
    waiting = driven.wait_for(NoticeKind.CONGESTED)
    driven.mechanism.gone.add(1)
    asked = driven.ask(driven.handle, rq.SetTrafficType(driven.flow_id, TrafficType.CONTROL))
    assert driven.code_of(waiting) is ErrorCode.ERROR_OPERATION_ABORTED
    # The caller believes in the flow and has to hear that it is gone.
    assert driven.code_of(asked) is ErrorCode.ERROR_NOT_FOUND


@pytest.mark.parametrize("how", ["remove flow", "remove socket", "takeover"])
def test_an_ending_that_is_undone_keeps_requests_waiting(how: str) -> None:
    # "A failed call changes nothing."
    driven = Adaptive()
    waiting = [driven.wait_for(kind) for kind in KINDS]
    driven.mechanism.refusals.append(NO_MECHANISM)
    requests: dict[str, rq.Request] = {
        "remove flow": rq.RemoveSocket(driven.flow_id, None),
        "remove socket": rq.RemoveSocket(driven.flow_id, 1),
        "takeover": add(0, facts()),
    }
    refusal = driven.refusal(driven.handle, requests[how])
    assert refusal is NO_MECHANISM.code
    assert not set(waiting) & set(driven.answers)
    driven.see(A, view(is_congested=True))
    assert driven.answers[waiting[0]] is None
    driven.see(A, view(available_bps=10**9))
    assert driven.answers[waiting[2]] is None
    assert waiting[1] not in driven.answers
    # And once it really ends, the last one is aborted.
    driven.grant(driven.handle, rq.RemoveSocket(driven.flow_id, None))
    assert driven.code_of(waiting[1]) is ErrorCode.ERROR_OPERATION_ABORTED


# -- estimates ------------------------------------------------------------------------


def test_fundamentals_of_what_is_known() -> None:
    # By contract: "Known in part: success with the Set flags telling which."
    driven = Adaptive(view(bottleneck_bps=10_000_000, rtt_ns=5))
    answer = driven.grant(driven.handle, query(driven.flow_id, rq.Question.FUNDAMENTALS))
    assert answer == Fundamentals(10_000_000, None, 5)


def test_fundamentals_of_nothing_known() -> None:
    # By contract: "Nothing known yet: ERROR_NO_DATA (the sample waits on this)."
    driven = Adaptive(UNKNOWN)
    ask = query(driven.flow_id, rq.Question.FUNDAMENTALS)
    assert driven.refusal(driven.handle, ask) is ErrorCode.ERROR_NO_DATA


@pytest.mark.parametrize("is_adaptive", [False, True], ids=["non-adaptive", "unmeasurable"])
def test_fundamentals_of_what_cannot_be_measured(is_adaptive: bool) -> None:
    # By contract: "Fundamentals on a non-adaptive flow or an unmeasurable path:
    # ERROR_NOT_SUPPORTED."
    driven = Driven()
    handle = driven.open()
    flow = driven.flow(handle, is_adaptive=is_adaptive)
    if not is_adaptive:
        driven.see(A, view(bottleneck_bps=1))
    ask = query(flow, rq.Question.FUNDAMENTALS)
    assert driven.refusal(handle, ask) is ErrorCode.ERROR_NOT_SUPPORTED


def test_a_mapped_peers_path_is_the_ipv4_hosts() -> None:
    # "A socket connected to an IPv4-mapped peer with null DestAddr is an IPv4 flow."
    driven = Driven()
    handle = driven.open()
    peer = endpoint("::ffff:192.0.2.1")
    flow = driven.grant(handle, add(0, facts(version=6, peer=peer), None, is_adaptive=True))
    assert isinstance(flow, int)
    driven.see(A, view(rtt_ns=7))
    answer = driven.grant(handle, query(flow, rq.Question.FUNDAMENTALS))
    assert answer == Fundamentals(rtt_ns=7)


# -- admission ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "available", "asked", "is_granted"),
    [
        # "granted when the path's available bandwidth, plus what this flow already holds
        # there, covers the request"
        (0, 1_000_000, 1_000_000, True),
        (0, 1_000_000, 1_000_001, False),
        (500_000, 500_000, 1_000_000, True),
        (500_000, 500_000, 1_000_001, False),
        # "A decrease is always granted."
        (500_000, 0, 499_999, True),
        (500_000, 0, 500_000, True),
        (500_000, 0, 500_001, False),
    ],
)
def test_admission(held: int, available: int, asked: int, is_granted: bool) -> None:
    driven = Adaptive(None)
    if held:
        driven.grant(driven.handle, rate(driven.flow_id, held))
    driven.see(A, view(available_bps=available))
    before = driven.treatment()
    result = driven.ask(driven.handle, rate(driven.flow_id, asked))
    if is_granted:
        assert driven.answers[result] is None
        assert driven.treatment().rate_bps == asked
    else:
        # "Refused: ERROR_NETWORK_BUSY. A first request that is refused leaves the flow
        # running unmarked and unshaped; a refused increase leaves the old contract in force".
        assert driven.code_of(result) is ErrorCode.ERROR_NETWORK_BUSY
        assert driven.treatment() == before


def test_no_admission_where_nothing_can_be_measured() -> None:
    # By contract: "shaping and marking work without admission (Microsoft's sample depends on it)"
    driven = Adaptive(None)
    driven.grant(driven.handle, rate(driven.flow_id, 10**12))
    assert driven.treatment().dscp == 56


def test_non_adaptive_flows_are_not_admitted() -> None:
    driven = Driven()
    handle = driven.open()
    flow = driven.flow(handle)
    driven.see(A, view(available_bps=1))
    driven.grant(handle, rate(flow, 10**9))
    assert driven.treatment().rate_bps == 10**9


def test_the_recovery_after_busy() -> None:
    # "The recovery that must work, end to end, after ERROR_NETWORK_BUSY".
    driven = Adaptive(view(bottleneck_bps=10_000_000, available_bps=4_000_000))
    handle, flow = driven.handle, driven.flow_id
    assert driven.refusal(handle, rate(flow, 8_000_000)) is ErrorCode.ERROR_NETWORK_BUSY
    seen = driven.grant(handle, query(flow, rq.Question.FUNDAMENTALS))
    assert isinstance(seen, Fundamentals)
    assert seen.available_bps is not None
    driven.grant(handle, rate(flow, seen.available_bps * 9 // 10))
    assert driven.treatment().dscp == 56
    driven.see(A, view(bottleneck_bps=10_000_000, available_bps=400_000))
    waiting = driven.waits(handle, notify(flow, NoticeKind.AVAILABLE, 8_000_000))
    driven.see(A, view(bottleneck_bps=10_000_000, available_bps=4_400_000))
    assert driven.answers[waiting] is None
    # "An Available notification promises that the same SetFlow, made at once, is granted".
    driven.grant(handle, rate(flow, 8_000_000))


def test_two_requests_for_the_last_megabit_have_one_winner() -> None:
    # "reservations that are admitted but not yet in use count as used"
    driven = Adaptive(view(available_bps=1_000_000))
    other = driven.flow(driven.handle, 2, A, is_adaptive=True)
    driven.grant(driven.handle, rate(driven.flow_id, 1_000_000))
    assert driven.refusal(driven.handle, rate(other, 1_000_000)) is ErrorCode.ERROR_NETWORK_BUSY


def test_a_reservation_is_in_the_next_estimate() -> None:
    # Once the path was measured with the traffic on it, the estimate speaks for itself.
    driven = Adaptive(view(available_bps=1_000_000))
    other = driven.flow(driven.handle, 2, A, is_adaptive=True)
    driven.grant(driven.handle, rate(driven.flow_id, 600_000))
    assert driven.refusal(driven.handle, rate(other, 500_000)) is ErrorCode.ERROR_NETWORK_BUSY
    driven.grant(driven.handle, rate(other, 400_000))
    driven.see(A, view(available_bps=500_000))
    driven.grant(driven.handle, rate(other, 900_000))
    assert (
        driven.refusal(driven.handle, rate(driven.flow_id, 600_001)) is ErrorCode.ERROR_NETWORK_BUSY
    )


def test_reservations_on_other_paths_do_not_count() -> None:
    driven = Adaptive(view(available_bps=1_000_000))
    driven.see(B, view(available_bps=1_000_000))
    other = driven.flow(driven.handle, 2, B, is_adaptive=True)
    for flow in (driven.flow_id, other):
        driven.grant(driven.handle, rate(flow, 1_000_000))


def test_an_own_reservation_is_not_granted_twice() -> None:
    # Raised by a million, the path has nothing left until it is measured again.
    driven = Adaptive(view(available_bps=1_000_000))
    driven.grant(driven.handle, rate(driven.flow_id, 1_000_000))
    raised = rate(driven.flow_id, 1_000_001)
    assert driven.refusal(driven.handle, raised) is ErrorCode.ERROR_NETWORK_BUSY
    driven.grant(driven.handle, rate(driven.flow_id, 1_000_000))


@pytest.mark.parametrize("spare", [0, 999_999, 1_000_000, 5_000_000])
def test_available_promises_that_the_rate_is_granted(spare: int) -> None:
    # "An Available notification promises that the same SetFlow, made at once, is granted".
    driven = Adaptive(view(available_bps=500_000))
    other = driven.flow(driven.handle, 2, A, is_adaptive=True)
    driven.grant(driven.handle, rate(other, 300_000))
    waiting = driven.wait_for(NoticeKind.AVAILABLE)
    driven.see(A, view(available_bps=spare))
    is_promised = waiting in driven.answers
    result = driven.ask(driven.handle, rate(driven.flow_id, 1_000_000))
    assert (driven.answers[result] is None) == is_promised == (spare >= 1_000_000)


def test_a_rate_on_a_path_of_which_nothing_is_known_yet() -> None:
    # "Not enough known yet: a synchronous call waits for the running experiments up to a
    # limit [decision: 2 s] and then answers ERROR_RETRY"
    driven = Adaptive(UNKNOWN)
    request = driven.waits(driven.handle, rate(driven.flow_id, 1_000_000))
    driven.wait(2 * 10**9 - 1)
    assert request not in driven.answers
    driven.wait(1)
    assert driven.code_of(request) is ErrorCode.ERROR_RETRY


# -- how many may wait ----------------------------------------------------------------


def test_pending_operations_are_limited_per_process() -> None:
    driven = Adaptive(UNKNOWN, Policy(limits=Limits(pending_operations=2)))
    waiting = [driven.wait_for(kind) for kind in KINDS[:2]]
    third = notify(driven.flow_id, KINDS[2], RATE[KINDS[2]])
    assert driven.refusal(driven.handle, third) is ErrorCode.ERROR_NO_SYSTEM_RESOURCES
    stranger = driven.open(STRANGER)
    flow = driven.flow(stranger, 2, A, is_adaptive=True)
    driven.waits(stranger, notify(flow, KINDS[0]))
    driven.grant(driven.handle, rq.Cancel(waiting[0]))
    driven.waits(driven.handle, third)


# -- cost -----------------------------------------------------------------------------


def calls_of(body: Callable[[], object]) -> int:
    """How many Python functions are called: a cost that no busy machine changes."""
    count = 0

    def profile(_: object, event: str, __: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        body()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("what", ["a view", "a request", "a rate"])
def test_cost_is_in_proportion(what: str) -> None:
    # Everything stands still while the engine thinks, and the quotas allow 4,096 to wait and
    # 16,384 flows. A view may cost in proportion to who waits, and nothing may cost more.
    costs = []
    for count in (50, 100):
        driven = Driven()
        handle = driven.open()
        flows = [driven.flow(handle, cookie, A, is_adaptive=True) for cookie in range(1, count + 2)]
        driven.see(A, view(available_bps=0))
        for flow in flows[1:]:
            driven.waits(handle, notify(flow, NoticeKind.AVAILABLE, 1_000_000))
        match what:
            case "a view":
                cost = calls_of(partial(driven.see, A, view(available_bps=1)))
            case "a request":
                request = notify(flows[0], NoticeKind.AVAILABLE, 1_000_000)
                cost = calls_of(partial(driven.ask, handle, request))
            case _:
                cost = calls_of(partial(driven.ask, handle, rate(flows[0], 1)))
        costs.append(cost)
    # Twice as many may cost twice as much.
    assert costs[1] <= 2.5 * costs[0], costs


@pytest.mark.parametrize("what", ["granted", "refused", "lowered", "a view", "a flow"])
def test_cost_does_not_grow_with_flows(what: str) -> None:
    # On a path with experiments all flows but the one that asks hold nothing, and nobody waits.
    way = PathFacts(A.host(), 2, "eth0", b"", b"", 1500, LinkType.WIRED)
    costs = []
    for count in (100, 10_000):
        driven = Driven()
        handle = driven.open()
        flows = [driven.flow(handle, cookie, A, is_adaptive=True) for cookie in range(1, count + 1)]
        driven.carry_out(driven.engine.receive_path(A, way, now_ns=driven.now_ns))
        assert driven.experiments == [StartExperiments(way)]
        driven.see(A, view(available_bps=1_000_000))
        driven.grant(handle, rate(flows[-1], 2))
        match what:
            case "a view":
                cost = calls_of(partial(driven.see, A, view(available_bps=1)))
            case "a flow":
                cost = calls_of(partial(driven.flow, handle, count + 1, A, is_adaptive=True))
            case _:
                rate_bps = {"granted": 3, "refused": 1_000_001, "lowered": 1}[what]
                request_id = driven.asked + 1
                cost = calls_of(partial(driven.ask, handle, rate(flows[-1], rate_bps)))
                assert isinstance(driven.answers[request_id], Refusal) == (what == "refused")
        costs.append(cost)
    assert costs[0] == costs[1]

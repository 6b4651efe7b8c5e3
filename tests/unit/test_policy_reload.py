"""A policy that changes while flows, contracts, requests and paths are there."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

import openqwave as qw
from openqwave.admission.policy import (
    QUEUE_BULK,
    QUEUE_INTERACTIVE,
    WINDOWS_MARKS,
    Experiments,
    Limits,
    Marks,
    Policy,
)
from openqwave.admission.rights import Credentials
from openqwave.client.embedded import Embedded
from openqwave.drivers.clock import SystemClock
from openqwave.drivers.sockets import own_namespace
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Unmeasurable
from openqwave.model.flow import (
    UNTOUCHED,
    NoticeKind,
    PacketPriority,
    Shaping,
    TrafficType,
    Treatment,
)
from openqwave.model.path import LinkType, PathFacts
from openqwave.probing.sink_limits import SinkLimits
from openqwave.subsystem import requests as rq
from openqwave.subsystem.effects import Applied, Apply, SocketPlan
from tests.patience import until
from tests.unit.driven import (
    NO_MECHANISM,
    OWNER,
    ROOT,
    USER,
    A,
    B,
    Driven,
    Mechanism,
    add,
    endpoint,
    facts,
    notify,
    query,
    rate,
    view,
)
from tests.unit.loopback import Bench, options_of
from tests.unit.own_subsystem import open_in, own_subsystem
from tests.unit.surveying_stage import (
    HERE,
    MBIT,
    PATIENCE_S,
    Stage,
    Ways,
    ended,
    impatiently,
    staged,
    threads,
    told,
)
from tests.unit.test_process_end import in_child

S = 1_000_000_000
VOICE, VIDEO = TrafficType.VOICE, TrafficType.AUDIO_VIDEO

# RFC 4594: voice is EF, video is AF41, background CS1 as it was.
OTHER_MARKS = Policy(marks={**WINDOWS_MARKS, VOICE: Marks(46, 6), VIDEO: Marks(34, 5)})
NO_MARKS = Policy(marks=dict.fromkeys(TrafficType))

EF, CS7 = Treatment(46, QUEUE_INTERACTIVE), Treatment(56, QUEUE_INTERACTIVE)


class Picky(Mechanism):
    """Refuses every plan that holds one of some sockets, whole."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: Collection[int] = ()

    def apply(self, plans: tuple[SocketPlan, ...]) -> Applied | Refusal:  # type: ignore[override]  # as for `Mechanism`
        if any(plan.cookie in self.refused for plan in plans):
            self.applied.append(plans)
            return NO_MECHANISM
        return super().apply(plans)


class Ruled(Driven):
    """An engine with a handle, whose policy the test changes."""

    def __init__(self, policy: Policy | None = None) -> None:
        super().__init__(policy)
        self.mechanism = self.picky = Picky()
        self.handle = self.open()

    def obey(self, policy: Policy) -> list[tuple[int, ...]]:
        """Change the policy; which sockets were in which plans."""
        self.mechanism.applied.clear()
        self.carry_out(self.engine.receive_policy(policy, now_ns=self.now_ns))
        return [tuple(plan.cookie for plan in plans) for plans in self.mechanism.applied]

    def priority(self, flow_id: int) -> PacketPriority:
        found = self.grant(self.handle, query(flow_id, rq.Question.PACKET_PRIORITY))
        assert isinstance(found, PacketPriority)
        return found


# -- marks ----------------------------------------------------------------------------


def test_flows_get_the_marks_of_their_types() -> None:
    driven = Ruled()
    voice = driven.flow(driven.handle, 1)
    driven.flow(driven.handle, 2, traffic_type=VIDEO)
    driven.flow(driven.handle, 3, traffic_type=TrafficType.BACKGROUND)
    driven.flow(driven.handle, 4, traffic_type=TrafficType.BEST_EFFORT)
    # All in one plan, and none of those for whom nothing changes.
    assert driven.obey(OTHER_MARKS) == [(1, 2)]
    assert driven.treatment(1) == EF
    assert driven.treatment(2) == Treatment(34, QUEUE_INTERACTIVE)
    assert driven.treatment(3) == Treatment(8, QUEUE_BULK)
    assert driven.treatment(4) == UNTOUCHED
    assert driven.priority(voice) == PacketPriority(46, 0, 0, 0)
    # The new policy holds for what comes, too.
    driven.flow(driven.handle, 5)
    assert driven.treatment(5) == EF
    assert driven.obey(OTHER_MARKS) == []
    assert driven.obey(NO_MARKS) == [(1, 2, 3, 5)]
    assert [driven.treatment(cookie) for cookie in range(1, 6)] == [UNTOUCHED] * 5
    assert driven.obey(Policy()) == [(1, 2, 3, 5)]
    assert driven.treatment(1) == CS7


def test_what_was_asked_of_a_flow_stays() -> None:
    driven = Ruled()
    exact = driven.flow(driven.handle, 1)
    driven.grant(driven.handle, rq.SetDscp(exact, 10, ROOT))
    shaped = driven.flow(driven.handle, 2)
    driven.grant(driven.handle, rate(shaped, 5_000, Shaping.SHAPE_ONLY))
    ended = driven.flow(driven.handle, 3)
    driven.grant(driven.handle, rate(ended, 0))
    adaptive = driven.flow(driven.handle, 4, is_adaptive=True)
    held = driven.flow(driven.handle, 5)
    driven.grant(driven.handle, rate(held, 6_000))
    assert driven.obey(OTHER_MARKS) == [(5,)]
    assert driven.treatment(1).dscp == 10
    assert driven.treatment(2) == Treatment(None, None, 5_000)
    assert driven.treatment(3) == driven.treatment(4) == UNTOUCHED
    assert driven.treatment(5) == Treatment(46, QUEUE_INTERACTIVE, 6_000)
    # And comes by the new policy where it is asked for again.
    driven.grant(driven.handle, rq.SetTrafficType(exact, VOICE))
    driven.grant(driven.handle, rate(adaptive, 7_000))
    assert driven.treatment(1) == EF
    assert driven.treatment(4) == Treatment(46, QUEUE_INTERACTIVE, 7_000)
    assert driven.grant(driven.handle, query(held, rq.Question.OUTGOING_RATE)) == 6_000


def test_a_socket_that_refuses_is_left_as_it_was_and_no_other() -> None:
    driven = Ruled()
    flows = {cookie: driven.flow(driven.handle, cookie) for cookie in range(1, 101)}
    driven.picky.refused = {17, 64}
    plans = driven.obey(OTHER_MARKS)
    for cookie, flow_id in flows.items():
        expected = 56 if cookie in driven.picky.refused else 46
        assert driven.treatment(cookie).dscp == expected
        # What is told is what is so.
        assert driven.priority(flow_id).conformant_dscp == expected
    # One plan for all; then each refusal is found by halves.
    assert plans[0] == tuple(range(1, 101))
    assert len(plans) <= 1 + 2 * 2 * 7
    # Whatever is done with the flow next asks for the new marks, and so does the next policy.
    assert (
        driven.refusal(driven.handle, rq.SetTrafficType(flows[17], VOICE))
        is ErrorCode.ERROR_NOT_SUPPORTED
    )
    assert driven.priority(flows[17]).conformant_dscp == 56
    driven.picky.refused = {64}
    driven.grant(driven.handle, rq.SetTrafficType(flows[17], VOICE))
    assert driven.treatment(17) == EF
    driven.picky.refused = ()
    assert driven.obey(OTHER_MARKS) == [(64,)]
    assert driven.treatment(64) == EF
    assert driven.engine.entry_count == Ruled().engine.entry_count + 2 * len(flows)


def test_all_may_refuse() -> None:
    driven = Ruled()
    flows = [driven.flow(driven.handle, cookie) for cookie in range(1, 8)]
    driven.picky.refused = range(1, 8)
    driven.obey(OTHER_MARKS)
    assert [driven.treatment(cookie) for cookie in range(1, 8)] == [CS7] * 7
    driven.picky.refused = ()
    for flow_id in flows:
        driven.grant(driven.handle, rq.RemoveSocket(flow_id, None))
    assert driven.mechanism.observe() == {}


def test_flows_that_share_sockets_change_together_or_not_at_all() -> None:
    driven = Ruled()
    # 1 and 2 share socket 11, 2 and 3 share socket 12; 4 is alone, and so is 5.
    first = driven.flow(driven.handle, 10)
    driven.join(driven.handle, first, 11)
    second = driven.flow(driven.handle, 11, B)
    driven.join(driven.handle, second, 12)
    third = driven.flow(driven.handle, 12, B)
    driven.join(driven.handle, third, 13)
    for cookie in (14, 15):
        driven.flow(driven.handle, cookie)
    driven.picky.refused = {13, 15}
    driven.obey(OTHER_MARKS)
    for cookie in (10, 11, 12, 13):
        shares = driven.mechanism.plans[cookie].shares
        assert {share.treatment.dscp for share in shares} == {56}
    assert (driven.treatment(14).dscp, driven.treatment(15).dscp) == (46, 56)
    # Where somebody else is in the way, all of them do, in one plan.
    driven.picky.refused = {15}
    assert {10, 11, 12, 13} in map(set, driven.obey(OTHER_MARKS))
    for cookie in (10, 11, 12, 13):
        shares = driven.mechanism.plans[cookie].shares
        assert {share.treatment.dscp for share in shares} == {46}


def test_sockets_that_turn_out_to_be_gone() -> None:
    driven = Ruled()
    flows = [driven.flow(driven.handle, cookie) for cookie in (1, 2)]
    driven.mechanism.gone = {1}
    driven.obey(OTHER_MARKS)
    assert driven.enumerated(driven.handle) == (flows[1],)
    assert driven.treatment(2) == EF


def test_flows_that_end_while_others_are_asked_again() -> None:
    driven = Ruled()
    for cookie in (1, 2, 3, 4):
        driven.flow(driven.handle, cookie)
    driven.picky.refused, driven.mechanism.gone = {2}, {3}
    driven.obey(OTHER_MARKS)
    assert driven.engine.sockets() == (1, 2, 4)
    assert [driven.treatment(cookie).dscp for cookie in (1, 2, 4)] == [46, 56, 46]


def test_an_interrupted_driver_goes_on_with_the_next_input() -> None:
    driven = Ruled()
    flows = [driven.flow(driven.handle, cookie) for cookie in (1, 2)]
    (wanted,) = driven.engine.receive_policy(OTHER_MARKS, now_ns=driven.now_ns)
    assert isinstance(wanted, Apply)
    # Half of it was done.
    driven.mechanism.apply(wanted.plans[:1])
    undone = driven.engine.abandon()
    assert {plan.cookie: plan.shares[0].treatment for plan in undone} == {1: CS7, 2: CS7}
    driven.mechanism.apply(undone)
    assert driven.treatment(1) == CS7
    driven.grant(driven.handle, rq.RemoveSocket(flows[1], None))
    assert driven.treatment(1) == EF
    assert driven.mechanism.observe().keys() == {1}
    assert not driven.engine.receive_sockets_gone((), now_ns=driven.now_ns)


# -- limits ---------------------------------------------------------------------------


def limited(**limits: int) -> Policy:
    return Policy(limits=Limits(**limits))


FULL = ErrorCode.ERROR_NO_SYSTEM_RESOURCES


def test_handles_above_a_lowered_limit_stay() -> None:
    driven = Ruled()
    handles = [driven.handle, *(driven.open() for _ in range(3))]
    driven.obey(limited(handles=2))
    refusal = driven.engine.open_handle(OWNER)
    assert isinstance(refusal, Refusal)
    assert refusal.code is FULL
    assert [driven.engine.refuse_handle(one) for one in handles] == [None] * 4
    for handle in handles[1:3]:
        driven.grant(handle, rq.CloseHandle())
    assert isinstance(driven.engine.open_handle(OWNER), Refusal)
    driven.grant(handles[3], rq.CloseHandle())
    driven.open()
    driven.obey(limited(handles=3))
    driven.open()


def test_flows_above_a_lowered_limit_stay() -> None:
    driven = Ruled()
    flows = [driven.flow(driven.handle, cookie) for cookie in (1, 2, 3)]
    driven.obey(limited(flows=2))
    assert driven.refusal(driven.handle, add(0, facts(4))) is FULL
    assert driven.treatment(3) == CS7
    driven.grant(driven.handle, rq.SetTrafficType(flows[2], VIDEO))
    for flow_id in flows[:2]:
        driven.grant(driven.handle, rq.RemoveSocket(flow_id, None))
    driven.flow(driven.handle, 4)
    assert driven.refusal(driven.handle, add(0, facts(5))) is FULL


def test_destinations_above_a_lowered_limit_stay() -> None:
    driven = Ruled()
    flow = driven.flow(driven.handle, 1)
    driven.join(driven.handle, flow, 1, B)
    driven.obey(limited(destinations_per_flow=1))
    third = replace(A, port=7)
    assert driven.refusal(driven.handle, add(flow, facts(1), third)) is FULL
    # What is there already is no news.
    driven.join(driven.handle, flow, 1, B)
    driven.obey(limited(destinations_per_flow=3))
    driven.join(driven.handle, flow, 1, third)


def way(to: str = "A", interface: int = 1) -> PathFacts:
    host = (A if to == "A" else B).host()
    return PathFacts(host, interface, f"eth{interface}", b"", b"", 1500, LinkType.WIRED)


def test_tracked_hosts_above_a_lowered_limit_stay() -> None:
    driven = Ruled()
    track_a, track_b = (rq.StartTracking(found.host, None, found) for found in (way(), way("B")))
    driven.grant(driven.handle, track_a)
    driven.obey(limited(tracked_hosts=1))
    driven.grant(driven.handle, track_a)
    assert driven.refusal(driven.handle, track_b) is FULL
    driven.obey(limited(tracked_hosts=2))
    driven.grant(driven.handle, track_b)
    driven.obey(limited(tracked_hosts=1))
    driven.grant(driven.handle, track_a)
    driven.grant(driven.handle, rq.StopTracking(A.host()))
    assert driven.refusal(driven.handle, track_a) is FULL


def test_requests_above_a_lowered_limit_go_on_waiting() -> None:
    driven = Ruled()
    driven.see(A, view(is_congested=None))
    flow = driven.flow(driven.handle, is_adaptive=True)
    waiting = [
        driven.waits(driven.handle, notify(flow, kind))
        for kind in (NoticeKind.CONGESTED, NoticeKind.UNCONGESTED)
    ]
    driven.obey(limited(pending_operations=1))
    available = notify(flow, NoticeKind.AVAILABLE, 1_000)
    assert driven.refusal(driven.handle, available) is FULL
    driven.see(A, view(is_congested=True))
    assert driven.answers[waiting[0]] is None
    assert driven.refusal(driven.handle, available) is FULL
    driven.grant(driven.handle, rq.Cancel(waiting[1]))
    driven.waits(driven.handle, available)


# -- rights and rates -----------------------------------------------------------------


def test_the_operators_are_those_of_the_new_group() -> None:
    driven = Ruled()
    flow = driven.flow(driven.handle)
    nets, admins = (Credentials(7, False, frozenset({group})) for group in ("netdev", "qosadm"))
    driven.grant(driven.handle, rq.SetDscp(flow, 1, nets))
    driven.obey(Policy(operators_group="qosadm"))
    refused = driven.refusal(driven.handle, rq.SetDscp(flow, 2, nets))
    assert refused is ErrorCode.ERROR_ACCESS_DENIED
    driven.grant(driven.handle, rq.SetDscp(flow, 3, admins))
    assert driven.treatment().dscp == 3


def test_the_default_rate_is_that_of_the_new_policy() -> None:
    driven = Ruled()
    flow = driven.flow(driven.handle)
    driven.grant(driven.handle, rate(flow, None))
    driven.obey(Policy(default_minimum_bps=32_000))
    # What was granted stays.
    assert driven.treatment().rate_bps == 64_000
    driven.grant(driven.handle, rate(flow, None))
    assert driven.treatment().rate_bps == 32_000


# -- paths ----------------------------------------------------------------------------


def aged(seconds: float) -> Policy:
    return Policy(experiments=Experiments(estimate_age_ns=round(seconds * S)))


def test_estimates_age_by_the_new_policy() -> None:
    driven = Ruled()
    driven.see(A, view(available_bps=1_000))
    flow = driven.flow(driven.handle, is_adaptive=True)
    driven.wait(10 * S)
    fundamentals = query(flow, rq.Question.FUNDAMENTALS)
    driven.grant(driven.handle, fundamentals)
    driven.obey(aged(9))
    assert driven.refusal(driven.handle, fundamentals) is ErrorCode.ERROR_NO_DATA
    # A rate that waits for better knowledge is granted by what is good enough now.
    asked = driven.waits(driven.handle, rate(flow, 900))
    driven.obey(aged(11))
    assert driven.answers[asked] is None
    assert driven.treatment().rate_bps == 900


def test_contracts_stay_and_count() -> None:
    driven = Ruled()
    driven.see(A, view(available_bps=1_000))
    first, second = (driven.flow(driven.handle, cookie, is_adaptive=True) for cookie in (1, 2))
    driven.grant(driven.handle, rate(first, 600))
    driven.obey(OTHER_MARKS)
    assert driven.treatment(1) == Treatment(46, QUEUE_INTERACTIVE, 600)
    assert driven.refusal(driven.handle, rate(second, 500)) is ErrorCode.ERROR_NETWORK_BUSY
    driven.grant(driven.handle, rate(second, 400))


def test_calls_wait_for_as_long_as_the_policy_says_under_which_they_were_made() -> None:
    driven = Ruled(Policy(experiments=Experiments(answer_ns=2 * S)))
    driven.grant(driven.handle, replace(add(0, facts(1), A, is_adaptive=True), path=way()))
    (flow,) = driven.enumerated(driven.handle)
    before = driven.waits(driven.handle, rate(flow, 1))
    driven.obey(Policy(experiments=Experiments(answer_ns=1 * S)))
    after = driven.waits(driven.handle, rate(flow, 2))
    driven.wait(S)
    assert driven.code_of(after) is ErrorCode.ERROR_RETRY
    assert before not in driven.answers
    driven.wait(S)
    assert driven.code_of(before) is ErrorCode.ERROR_RETRY
    driven.obey(Policy(experiments=Experiments(answer_ns=0)))
    assert driven.refusal(driven.handle, rate(flow, 3)) is ErrorCode.ERROR_RETRY


@pytest.mark.parametrize("how", ["flow", "handle"])
def test_paths_stay_warm_for_as_long_as_the_new_policy_says(how: str) -> None:
    def warm(seconds: int) -> Policy:
        return Policy(experiments=Experiments(warm_ns=seconds * S))

    driven = Ruled(warm(100))
    handle = driven.open()
    if how == "flow":
        driven.grant(handle, replace(add(0, facts(1), A, is_adaptive=True), path=way()))
    else:
        driven.grant(handle, rq.StartTracking(A.host(), None, way()))
    driven.grant(handle, rq.CloseHandle())
    driven.wait(40 * S)
    driven.obey(warm(50))
    assert len(driven.engine.tracked_hosts()) == 1
    driven.wait(10 * S - 1)
    assert len(driven.engine.tracked_hosts()) == 1
    driven.wait(1)
    assert driven.engine.tracked_hosts() == ()
    # And for longer, where that is what it says.
    driven.grant(driven.handle, rq.StartTracking(A.host(), None, way()))
    driven.grant(driven.handle, rq.StopTracking(A.host()))
    driven.obey(warm(70))
    driven.wait(70 * S - 1)
    assert len(driven.engine.tracked_hosts()) == 1
    driven.wait(1)
    assert driven.engine.tracked_hosts() == ()


def test_what_a_closed_handle_tracked_can_be_stopped_for_as_long_as_it_is_warm() -> None:
    driven = Ruled()
    handle = driven.open()
    driven.grant(handle, rq.StartTracking(A.host(), None, way()))
    driven.obey(Policy(experiments=Experiments(warm_ns=10 * S)))
    driven.grant(handle, rq.CloseHandle())
    driven.wait(10 * S - 1)
    driven.grant(driven.handle, rq.StopTracking(A.host()))


def test_a_policy_that_says_the_same_changes_nothing() -> None:
    driven = Ruled()
    driven.see(A, view(available_bps=1_000, is_congested=False))
    flow = driven.flow(driven.handle, is_adaptive=True)
    driven.grant(driven.handle, rate(flow, 500))
    waiting = driven.waits(driven.handle, notify(flow, NoticeKind.CONGESTED))
    before, due_ns = driven.engine.entry_count, driven.engine.next_timer_ns()
    wanted = list(driven.experiments)
    assert driven.obey(Policy()) == []
    assert waiting not in driven.answers
    assert (driven.engine.entry_count, driven.engine.next_timer_ns()) == (before, due_ns)
    assert driven.experiments == wanted
    assert driven.grant(driven.handle, query(flow, rq.Question.OUTGOING_RATE, USER)) == 500


# -- a runtime ------------------------------------------------------------------------

HIS = Experiments(answer_ns=int(PATIENCE_S * 1e9), warm_ns=1_000_000)


@pytest.fixture
def stage(fd_guard: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    del fd_guard
    with impatiently(monkeypatch), staged(monkeypatch) as made:
        yield made


@pytest.fixture
def host(stage: Stage) -> Iterator[Embedded]:
    del stage
    with own_subsystem(Policy(experiments=HIS), clock=cast("Any", SystemClock())) as made:
        yield made


def test_programs_that_only_mark_get_other_marks_and_no_thread(
    host: Embedded, sockets: Bench
) -> None:
    sock = sockets.make("udp4 connected")
    open_in(host).add_socket(sock, traffic_type=VOICE, adaptive=False)
    assert options_of(sock).tos == 56 << 2
    host.set_policy(OTHER_MARKS)
    assert options_of(sock).tos == 46 << 2
    host.set_policy(NO_MARKS)
    assert (options_of(sock).tos, options_of(sock).priority) == (0, 0)
    assert threads() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"allowed": ("10.0.0.0/8", "the office")},
        {"forbidden": ("10.0.0.0/33",)},
        {"share_ppm": 0},
        {"most_bps": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("is_measured", [False, True])
def test_a_policy_that_is_wrong_changes_nothing(
    host: Embedded, sockets: Bench, stage: Stage, wrong: dict[str, Any], is_measured: bool
) -> None:
    sock = sockets.make("udp4 connected")
    qos = open_in(host)
    if is_measured:
        qos.track("127.0.0.1")
        stage.latest()
    qos.add_socket(sock, traffic_type=VOICE, adaptive=False)
    with pytest.raises(qw.InvalidParameter):
        host.set_policy(replace(OTHER_MARKS, experiments=replace(HIS, **wrong)))
    assert options_of(sock).tos == 56 << 2
    qos.track("127.0.0.2")
    assert stage.latest(1 + is_measured).session.budget.rate_bps(10 * MBIT) == 100_000
    assert stage.allowed == [[()]]
    assert Ways.networks == [((), ())]


def test_what_experiments_may_cost_changes_while_they_run(host: Embedded, stage: Stage) -> None:
    qos = open_in(host)
    qos.track("127.0.0.1")
    first = stage.latest().session.budget
    first.spend(1_000_000, 10 * MBIT, now_ns=time.monotonic_ns())
    spent = first.whole_bytes(10 * MBIT) - first.allowed_bytes(
        10 * MBIT, now_ns=time.monotonic_ns()
    )
    assert spent == pytest.approx(1_000_000, rel=0.01)
    host.set_policy(
        Policy(experiments=replace(HIS, share_ppm=2_000, most_bps=15_000, burst_bytes=20_000))
    )
    until(lambda: first.burst_bytes == 20_000)
    assert first.rate_bps(5 * MBIT) == 10_000
    assert first.rate_bps(10 * MBIT) == 15_000
    # What was sent took its share of the window, and is not owed once more.
    left = first.allowed_bytes(10 * MBIT, now_ns=time.monotonic_ns())
    assert 1 - left / first.whole_bytes(10 * MBIT) == pytest.approx(1_000_000 / 3_750_000, rel=0.01)
    qos.track("127.0.0.2")
    second = stage.latest(2).session.budget
    assert (second.rate_bps(10 * MBIT), second.burst_bytes) == (15_000, 20_000)


def test_who_may_take_part_changes_while_experiments_run(host: Embedded, stage: Stage) -> None:
    qos = open_in(host)
    qos.track("127.0.0.1")
    stage.latest()
    allowed, forbidden = ("198.51.100.0/24",), ("203.0.113.0/24",)
    host.set_policy(Policy(experiments=replace(HIS, allowed=allowed, forbidden=forbidden)))
    until(lambda: stage.allowed == [[(), allowed]])
    assert Ways.networks == [((), ()), (allowed, forbidden)]
    # One host goes on, with what it runs.
    assert not stage.latest().is_cancelled
    qos.close()
    ended()
    # What is begun later begins with it.
    open_in(host).track("127.0.0.1")
    stage.latest(2)
    assert stage.allowed[1:] == [[allowed]]
    assert Ways.networks[2:] == [(allowed, forbidden)]


CLOSED = Refusal(ErrorCode.ERROR_ACCESS_DISABLED_BY_POLICY, "the administrator forbids it")
BEHIND = Unmeasurable("it is behind a router")


def test_what_is_allowed_begins_and_what_is_forbidden_ends(
    host: Embedded, stage: Stage, sockets: Bench
) -> None:
    qos = open_in(host)
    flow = qos.add_socket(sockets.make("tcp4 connected"), traffic_type=VOICE)
    run = stage.latest()
    run.mailbox.put(told(6 * MBIT))
    until(lambda: flow.path().age_ns is not None)
    flow.set_rate(2 * MBIT)
    Ways.otherwise[HERE] = CLOSED
    host.set_policy(Policy(experiments=replace(HIS, forbidden=("127.0.0.0/8",))))
    until(lambda: run.is_cancelled)
    with pytest.raises(qw.DisabledByPolicy):
        flow.set_rate(3 * MBIT)
    assert flow.rate_bps() == 2 * MBIT
    # Nothing is measured any more, and yet the next policy is heard.
    time.sleep(0.1)
    Ways.otherwise.clear()
    host.set_policy(Policy(experiments=HIS))
    assert stage.latest(2).peer == HERE


def test_a_policy_begins_the_thread_where_nothing_was_measured(
    host: Embedded, stage: Stage, sockets: Bench
) -> None:
    Ways.otherwise[HERE] = BEHIND
    flow = open_in(host).add_socket(sockets.make("tcp4 connected"))
    with pytest.raises(qw.NotSupported, match="router"):
        flow.fundamentals()
    assert threads() == []
    Ways.otherwise.clear()
    host.set_policy(Policy(experiments=replace(HIS, allowed=("127.0.0.0/8",))))
    assert stage.latest().peer == HERE


def test_hosts_of_other_networks_stay_unknown(host: Embedded, stage: Stage, sockets: Bench) -> None:
    qos = open_in(host)
    flow = qos.add_socket(sockets.make("tcp4 connected"), traffic_type=VOICE)
    first = stage.latest()
    first.mailbox.put(told(6 * MBIT))
    until(lambda: flow.path().age_ns is not None)
    # A process in another network namespace asks for hosts by these names.
    foreign = own_namespace() + 1
    unknown = endpoint("127.0.0.9")
    for to in (HERE, unknown):
        found = host.find_path(to, foreign)
        assert isinstance(found, Unmeasurable)
        assert found.is_of_caller
    handle_id = host.open_handle_for(7)
    assert isinstance(handle_id, int)
    for cookie, to in enumerate((HERE, unknown)):
        destination = replace(to, port=5004)
        request = add(0, facts(cookie + 1), destination, is_adaptive=True)
        found = host.find_path(to, foreign)
        assert type(host.submit(handle_id, replace(request, path=found))) is int
    host.set_policy(OTHER_MARKS)
    # Who is here is followed as ever; the other's path is nobody's here.
    Ways.otherwise[HERE] = BEHIND
    host.set_policy(Policy(experiments=HIS))
    until(lambda: first.is_cancelled)
    assert "router" in flow.path().obstacle
    assert len(stage.runs) == 1


def test_a_runtime_of_another_process_obeys_nobody(host: Embedded, sockets: Bench) -> None:
    sock = sockets.make("udp4 connected")
    open_in(host).add_socket(sock, traffic_type=VOICE, adaptive=False)

    def body() -> int:
        host.set_policy(OTHER_MARKS)
        host.notice_time()
        host.sweep()
        host.serve_sink(SinkLimits())
        host.stop_sink()
        return 0 if options_of(sock).tos == 56 << 2 and threads() == [] else 1

    assert in_child(body) == 0
    assert options_of(sock).tos == 56 << 2

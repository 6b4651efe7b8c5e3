"""One path's life: what is known of it, who wants it measured, and when that is tried again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.estimates import (
    Congestion,
    CongestionReason,
    FlowCounters,
    Fundamentals,
    Unmeasurable,
)
from openqwave.model.flow import NoticeKind
from openqwave.model.path import FirstHop, LinkType, PathFacts, PathStatus
from openqwave.subsystem import requests as rq
from openqwave.subsystem.effects import (
    Experiment,
    MeasureAfresh,
    SetEffort,
    StartExperiments,
    StopExperiments,
)
from openqwave.subsystem.usage import LinkLoad
from tests.unit.driven import (
    NO_MECHANISM,
    USER,
    A,
    B,
    Driven,
    add,
    facts,
    notify,
    query,
    rate,
    view,
)

MS, S = 1_000_000, 1_000_000_000
HOST = A.host()
WARM_NS = 120 * S
BROKE = Refusal(ErrorCode.ERROR_UNEXP_NET_ERR, "the connection broke")
SLOW = Refusal(ErrorCode.ERROR_TIMEOUT, "nobody answered in time")
DOWN = Refusal(ErrorCode.ERROR_ADAP_HDW_ERR, "the interface is down")
NO_SINK = Unmeasurable("no sink answers")
NOT_HERE = Unmeasurable("this host has no room for it", is_of_this_host=True)
NOT_ALLOWED = Unmeasurable("a router is on the way")
CONGESTED = Congestion(True, CongestionReason.DELAY)


def way(interface: int = 1, gateway: bytes = b"", mtu_bytes: int = 1500) -> PathFacts:
    return PathFacts(HOST, interface, "eth0", b"", gateway, mtu_bytes, LinkType.WIRED)


WAY = way()


class Located(Driven):
    """An engine with a handle, and paths that it is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.handle = self.open()
        self._cookie = 0

    def joins(self, found: rq.Found | None = WAY, handle: int = 0) -> int:
        """A new adaptive flow on the path."""
        self._cookie += 1
        flow_id = self.grant(
            handle or self.handle,
            replace(add(0, facts(self._cookie), A, is_adaptive=True), path=found),
        )
        assert isinstance(flow_id, int)
        return flow_id

    def leaves(self, flow_id: int) -> None:
        self.grant(self.handle, rq.RemoveSocket(flow_id, None))

    def track(self, handle: int = 0, found: rq.Found = WAY) -> object:
        return self.result(handle or self.handle, rq.StartTracking(HOST, None, found))

    def untrack(self, handle: int = 0) -> object:
        return self.result(handle or self.handle, rq.StopTracking(HOST))

    def locates(self, found: rq.Found) -> None:
        self.carry_out(self.engine.receive_path(HOST, found, now_ns=self.now_ns))

    def ends(self, why: Unmeasurable | Refusal = BROKE) -> None:
        self.carry_out(self.engine.receive_experiments_ended(HOST, why, now_ns=self.now_ns))

    def tells(self, congestion: Congestion) -> None:
        self.carry_out(self.engine.receive_congestion(HOST, congestion, now_ns=self.now_ns))

    def took(self) -> list[Experiment]:
        """What was wanted of experiments since the last time this was asked."""
        wanted, self.experiments = self.experiments, []
        return wanted

    def status(self, flow_id: int) -> PathStatus:
        found = self.grant(self.handle, query(flow_id, rq.Question.PATH))
        assert isinstance(found, PathStatus)
        return found

    def free_bps(self, flow_id: int) -> int | None:
        found = self.grant(self.handle, query(flow_id, rq.Question.FUNDAMENTALS))
        assert isinstance(found, Fundamentals)
        return found.available_bps


START, STOP = StartExperiments(WAY), StopExperiments(HOST)


# -- what can be known ----------------------------------------------------------------


def test_of_a_path_that_nobody_told_of_nothing_can_be_known() -> None:
    driven = Located()
    flow = driven.joins(None)
    assert driven.took() == []
    assert driven.refusal(driven.handle, query(flow, rq.Question.FUNDAMENTALS)) is (
        ErrorCode.ERROR_NOT_SUPPORTED
    )
    # A rate is granted all the same: nobody can tell.
    driven.grant(driven.handle, rate(flow, 10**12))


def test_of_a_path_that_is_told_of_something_will_be_known() -> None:
    driven = Located()
    flow = driven.joins()
    assert driven.took() == [START]
    assert driven.refusal(driven.handle, query(flow, rq.Question.FUNDAMENTALS)) is (
        ErrorCode.ERROR_NO_DATA
    )
    driven.waits(driven.handle, rate(flow, 1))
    driven.see(A, view(available_bps=20))
    assert driven.free_bps(flow) == 19


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (DOWN, ErrorCode.ERROR_ADAP_HDW_ERR),
        (SLOW, ErrorCode.ERROR_TIMEOUT),
        (NOT_ALLOWED, ErrorCode.ERROR_NOT_SUPPORTED),
        (NOT_HERE, ErrorCode.ERROR_NOT_SUPPORTED),
    ],
)
def test_of_a_path_with_an_obstacle_it_is_told(
    found: Unmeasurable | Refusal, code: ErrorCode
) -> None:
    driven = Located()
    flow = driven.joins(found)
    assert driven.took() == []
    assert driven.refusal(driven.handle, query(flow, rq.Question.FUNDAMENTALS)) is code
    text = found.detail if isinstance(found, Refusal) else found.reason
    assert driven.status(flow).obstacle == text


def test_what_was_known_stays_known_for_its_age_while_something_is_wrong() -> None:
    driven = Located()
    flow = driven.joins()
    driven.see(A, view(available_bps=20))
    driven.locates(DOWN)
    driven.wait(30 * S)
    assert driven.free_bps(flow) == 20
    # But nothing is granted on it, or promised.
    assert driven.refusal(driven.handle, rate(flow, 1)) is ErrorCode.ERROR_ADAP_HDW_ERR
    driven.waits(driven.handle, notify(flow, NoticeKind.AVAILABLE, 1))
    driven.now_ns += 1
    assert driven.refusal(driven.handle, query(flow, rq.Question.FUNDAMENTALS)) is (
        ErrorCode.ERROR_ADAP_HDW_ERR
    )


def test_what_cannot_be_measured_any_more_is_forgotten() -> None:
    driven = Located()
    flow = driven.joins()
    driven.see(A, view(available_bps=20, is_congested=True))
    notice = driven.waits(driven.handle, notify(flow, NoticeKind.UNCONGESTED))
    driven.locates(NOT_ALLOWED)
    assert driven.code_of(notice) is ErrorCode.ERROR_NOT_SUPPORTED
    assert driven.took()[-1] == STOP
    assert driven.refusal(driven.handle, query(flow, rq.Question.FUNDAMENTALS)) is (
        ErrorCode.ERROR_NOT_SUPPORTED
    )
    assert driven.status(flow).congestion == Congestion()


def test_nobody_is_told_of_what_nobody_wants() -> None:
    driven = Located()
    driven.locates(WAY)
    driven.tells(CONGESTED)
    driven.ends()
    assert driven.took() == []
    assert driven.engine.entry_count == 2
    # A view that was on its way as the path was given up is kept for no longer than one.
    driven.see(A, view(available_bps=20))
    driven.wait(WARM_NS)
    assert driven.engine.entry_count == 2


# -- interest ---------------------------------------------------------------------------


def test_the_first_interest_begins_and_the_last_ends_after_a_while() -> None:
    driven = Located()
    first = driven.joins()
    assert driven.took() == [START]
    second = driven.joins()
    assert driven.track() is None
    driven.leaves(first)
    driven.leaves(second)
    driven.wait(2 * WARM_NS)
    assert driven.took() == []
    assert driven.untrack() is None
    driven.wait(WARM_NS - 1)
    assert driven.took() == []
    driven.wait(1)
    assert driven.took() == [STOP]
    assert driven.engine.tracked_hosts() == ()


def test_an_interest_that_returns_finds_the_path_warm() -> None:
    driven = Located()
    driven.leaves(driven.joins())
    driven.see(A, view(available_bps=20))
    driven.wait(WARM_NS - 1)
    driven.see(A, view(available_bps=30))
    flow = driven.joins()
    driven.wait(WARM_NS)
    assert driven.took() == [START]
    driven.see(A, view(available_bps=30))
    assert driven.free_bps(flow) == 30


def test_it_is_warm_for_as_long_after_the_last_of_many() -> None:
    driven = Located()
    for _ in range(3):
        flow = driven.joins()
        driven.wait(100 * S)
        driven.leaves(flow)
        driven.wait(100 * S)
    assert driven.took() == [START]
    driven.wait(20 * S)
    assert driven.took() == [STOP]


def test_each_handle_has_an_interest_of_its_own() -> None:
    driven = Located()
    other = driven.open()
    assert driven.track() is None
    assert driven.track() is None
    assert driven.track(other) is None
    assert driven.untrack() is None
    assert isinstance(driven.untrack(), Refusal)
    driven.wait(2 * WARM_NS)
    assert driven.took() == [START]
    driven.grant(other, rq.CloseHandle())
    driven.wait(WARM_NS)
    assert driven.took() == [STOP]


def test_what_a_closed_handle_tracked_may_be_stopped_by_anybody_for_a_while() -> None:
    driven = Located()
    other = driven.open()
    assert driven.track(other) is None
    driven.grant(other, rq.CloseHandle())
    driven.wait(WARM_NS - 1)
    assert driven.untrack() is None
    assert isinstance(driven.untrack(), Refusal)


def test_a_flow_that_was_refused_is_no_interest() -> None:
    driven = Located()
    driven.mechanism.refusals = [NO_MECHANISM]
    request = replace(add(0, facts(), A, is_adaptive=True), path=WAY)
    assert driven.result(driven.handle, request) == NO_MECHANISM
    assert driven.took() == []
    driven.wait(WARM_NS)
    assert driven.engine.tracked_hosts() == ()


def test_experiments_that_do_not_run_are_asked_for_nothing() -> None:
    driven = Located()
    flow = driven.joins(None)
    driven.see(A, view(available_bps=20))
    fresh = rq.QueryFlow(flow, rq.Question.FUNDAMENTALS, USER, is_fresh=True)
    driven.waits(driven.handle, fresh)
    assert driven.took() == []


def test_effort_is_for_who_holds_or_waits() -> None:
    driven = Located()
    flow = driven.joins()
    driven.see(A, view(available_bps=20, is_congested=False))
    driven.took()
    driven.grant(driven.handle, rate(flow, 10))
    assert driven.took() == [SetEffort(HOST, True)]
    notice = driven.waits(driven.handle, notify(flow, NoticeKind.CONGESTED))
    driven.grant(driven.handle, rate(flow, 0))
    assert driven.took() == []
    driven.grant(driven.handle, rq.Cancel(notice))
    assert driven.took() == [SetEffort(HOST, False)]
    fresh = rq.QueryFlow(flow, rq.Question.FUNDAMENTALS, USER, is_fresh=True)
    driven.waits(driven.handle, fresh)
    assert driven.took() == [MeasureAfresh(HOST), SetEffort(HOST, True)]


def test_experiments_that_begin_anew_have_to_be_told_of_the_effort_again() -> None:
    driven = Located()
    flow = driven.joins()
    driven.see(A, view(available_bps=20))
    driven.grant(driven.handle, rate(flow, 10))
    driven.took()
    driven.ends()
    driven.wait(S)
    assert driven.took() == [START, SetEffort(HOST, True)]


# -- failure ----------------------------------------------------------------------------


def test_pauses_double_up_to_a_minute() -> None:
    driven = Located()
    driven.joins()
    for pause_s in (1, 2, 4, 8, 16, 32, 60, 60):
        driven.took()
        driven.ends()
        driven.wait(pause_s * S - 1)
        assert driven.took() == []
        driven.wait(1)
        assert driven.took() == [START]


def test_a_success_makes_the_next_pause_short() -> None:
    driven = Located()
    driven.joins()
    for _ in range(4):
        driven.ends()
        driven.wait(60 * S)
    driven.see(A, view(available_bps=20))
    driven.took()
    driven.ends()
    driven.wait(S)
    assert driven.took() == [START]


def test_a_host_without_a_sink_is_asked_again_in_a_minute() -> None:
    driven = Located()
    flow = driven.joins()
    driven.ends(NO_SINK)
    driven.took()
    assert driven.track() == Refusal(
        ErrorCode.ERROR_HOST_UNREACHABLE,
        f"no sink answers at {HOST.address}; run `qwave sink` there",
    )
    # Nobody will ever know, so nobody waits.
    driven.grant(driven.handle, rate(flow, 10**12))
    driven.wait(60 * S - 1)
    assert driven.took() == []
    driven.wait(1)
    assert driven.took()[0] == START


def test_what_is_wrong_here_is_not_a_missing_sink() -> None:
    driven = Located()
    driven.joins()
    driven.ends(NOT_HERE)
    refusal = driven.track()
    assert isinstance(refusal, Refusal)
    assert refusal.code is ErrorCode.ERROR_NOT_SUPPORTED


def test_a_sink_that_was_there_is_about_to_come_back() -> None:
    driven = Located()
    flow = driven.joins()
    driven.see(A, view(available_bps=20))
    notice = driven.waits(driven.handle, notify(flow, NoticeKind.AVAILABLE, 30))
    driven.ends(NO_SINK)
    assert notice not in driven.answers
    assert driven.refusal(driven.handle, rate(flow, 30)) is ErrorCode.ERROR_UNEXP_NET_ERR
    driven.wait(60 * S)
    driven.took()
    driven.ends(NO_SINK)
    # Still: an obstacle that was told stays one, until the path is measured.
    assert driven.status(flow).obstacle.startswith("the experiments broke off")


def test_whoever_waits_is_told_when_half_a_minute_has_failed() -> None:
    driven = Located()
    flow = driven.joins()
    driven.see(A, view(available_bps=20))
    notice = driven.waits(driven.handle, notify(flow, NoticeKind.CONGESTED))
    began_ns = driven.now_ns
    while notice not in driven.answers:
        driven.ends(BROKE)
        due_ns = driven.engine.next_timer_ns()
        assert due_ns is not None
        driven.wait(due_ns - driven.now_ns)
    assert driven.now_ns - began_ns == 31 * S
    assert driven.answers[notice] == BROKE


def test_a_call_for_a_rate_does_not_wait_for_what_failed() -> None:
    driven = Located()
    flow = driven.joins()
    waits = [
        driven.waits(driven.handle, request)
        for request in (
            rate(flow, 10),
            rq.QueryFlow(flow, rq.Question.FUNDAMENTALS, USER, is_fresh=True),
        )
    ]
    driven.ends(SLOW)
    # What is asked of a host is refused by its name; what is asked of numbers by theirs.
    assert [driven.code_of(one) for one in waits] == [
        ErrorCode.ERROR_HOST_UNREACHABLE,
        ErrorCode.ERROR_TIMEOUT,
    ]


def test_what_failed_is_not_tried_at_every_call() -> None:
    driven = Located()
    driven.joins()
    driven.ends()
    driven.took()
    driven.joins()
    driven.locates(way(mtu_bytes=1400))
    assert driven.took() == []
    driven.wait(S)
    # And by what is known then.
    assert driven.took() == [StartExperiments(way(mtu_bytes=1400))]


def test_another_way_is_tried_at_once() -> None:
    driven = Located()
    driven.joins()
    for _ in range(4):
        driven.ends()
        driven.wait(60 * S)
    driven.ends(NO_SINK)
    driven.took()
    driven.locates(way(2))
    assert driven.took() == [StartExperiments(way(2))]
    driven.wait(60 * S)
    assert driven.took() == []
    driven.ends()
    driven.wait(S)
    assert driven.took() == [StartExperiments(way(2))]


def test_the_end_of_what_did_not_run_is_no_failure() -> None:
    driven = Located()
    driven.joins()
    driven.ends()
    driven.took()
    driven.ends()
    driven.wait(S)
    assert driven.took() == [START]


@pytest.mark.parametrize("why", [BROKE, NO_SINK])
def test_an_interest_after_a_pause_that_nobody_waited_for_begins_anew(
    why: Unmeasurable | Refusal,
) -> None:
    driven = Located()
    flow = driven.joins()
    driven.ends(why)
    driven.leaves(flow)
    driven.took()
    driven.wait(60 * S)
    assert driven.took() == []
    driven.joins()
    assert driven.took() == [START]
    driven.wait(60 * S)
    assert driven.took() == []


def test_a_host_that_had_no_sink_can_be_tracked_after_a_pause_that_nobody_waited_for() -> None:
    driven = Located()
    flow = driven.joins()
    driven.ends(NO_SINK)
    driven.leaves(flow)
    assert isinstance(driven.track(), Refusal)
    driven.wait(60 * S)
    driven.took()
    assert driven.track() is None
    assert driven.took() == [START]


def test_a_pause_ends_with_its_path() -> None:
    driven = Located()
    driven.leaves(driven.joins())
    driven.wait(100 * S)
    driven.took()
    driven.ends(NO_SINK)
    driven.wait(100 * S)
    assert driven.took() == []
    assert driven.engine.next_timer_ns() is None
    driven.joins()
    driven.ends()
    driven.interrupt()
    assert driven.engine.next_timer_ns() is None


# -- congestion -------------------------------------------------------------------------


def test_nothing_is_free_of_a_path_that_is_congested() -> None:
    driven = Located()
    flow = driven.joins()
    driven.see(A, view(available_bps=20, is_congested=False))
    driven.tells(CONGESTED)
    assert driven.free_bps(flow) == 0
    assert driven.refusal(driven.handle, rate(flow, 1)) is ErrorCode.ERROR_NETWORK_BUSY
    driven.see(A, view(available_bps=20, is_congested=True))
    assert driven.free_bps(flow) == 0


def test_numbers_from_before_the_relief_are_not_believed_for_five_seconds() -> None:
    driven = Located()
    flow = driven.joins()
    driven.see(A, view(available_bps=20, is_congested=True))
    began_ns = driven.now_ns
    driven.wait(S)
    driven.tells(Congestion(False))
    old = replace(view(available_bps=20, is_congested=False), since_ns=began_ns)
    for elapsed_ns, free_bps in ((0, 0), (5 * S - 1, 0), (1, 20)):
        driven.wait(elapsed_ns)
        driven.see(A, old)
        assert driven.free_bps(flow) == free_bps


@pytest.mark.parametrize(("late_ns", "free_bps"), [(200 * MS, 20), (200 * MS + 1, 0)])
def test_numbers_since_the_relief_are_believed_though_it_is_told_late(
    late_ns: int, free_bps: int
) -> None:
    driven = Located()
    flow = driven.joins()
    driven.see(A, view(available_bps=20, is_congested=True))
    driven.wait(S)
    driven.tells(Congestion(False))
    since_ns = driven.now_ns - late_ns
    driven.see(A, replace(view(available_bps=20, is_congested=False), since_ns=since_ns))
    assert driven.free_bps(flow) == free_bps


def test_a_verdict_that_ends_with_the_experiments_is_not_held_any_more() -> None:
    driven = Located()
    flow = driven.joins()
    driven.see(A, view(available_bps=20, is_congested=True))
    driven.ends()
    assert driven.status(flow).congestion == Congestion()


def count(driven: Located, cookie: int, rate_bps: int) -> None:
    """Let one of the flows send for long enough that it is counted."""
    for turn in range(51):
        sent_bytes = turn * rate_bps // 8 // 5
        counters = {
            one: FlowCounters(sent_bytes=sent_bytes if one == cookie else 0)
            for one in driven.engine.watched_sockets()
        }
        driven.carry_out(driven.engine.receive_counters(counters, {}, now_ns=driven.now_ns))
        driven.now_ns += S // 5


def test_a_verdict_does_not_bring_back_what_was_given_up() -> None:
    """The traffic of a contract that ended may go on, whatever is said of queues."""
    driven = Located()
    uses, holds, asks = driven.joins(), driven.joins(), driven.joins()
    driven.see(A, view(available_bps=20_000))
    driven.grant(driven.handle, rate(uses, 10_000))
    driven.grant(driven.handle, rate(holds, 10_000))
    count(driven, 1, 10_000)
    driven.see(A, view(available_bps=11_000))
    assert driven.free_bps(asks) == pytest.approx(1_000, abs=2)
    driven.grant(driven.handle, rate(uses, 0))
    driven.tells(Congestion(False))
    assert driven.free_bps(asks) == pytest.approx(1_000, abs=2)


def test_a_verdict_does_not_free_what_was_counted() -> None:
    driven = Located()
    uses, asks = driven.joins(), driven.joins()
    driven.see(A, view(available_bps=20_000, bottleneck_bps=20_000))
    driven.grant(driven.handle, rate(uses, 10_000))
    count(driven, 1, 10_000)
    driven.see(A, view(available_bps=17_000, bottleneck_bps=20_000))
    assert driven.free_bps(asks) == pytest.approx(10_000, abs=2)
    driven.grant(driven.handle, rate(uses, 0))
    driven.tells(Congestion(False))
    assert driven.free_bps(asks) == pytest.approx(10_000, abs=2)


# -- the way ----------------------------------------------------------------------------


def held(driven: Located, hop: FirstHop) -> int:
    return driven.engine._ledger.total_held_bps(hop)  # noqa: SLF001 - no other way to see it


def test_contracts_burden_the_first_hop_of_the_way_as_it_is_now() -> None:
    driven = Located()
    flow = driven.joins()
    driven.see(A, view(available_bps=20))
    driven.grant(driven.handle, rate(flow, 10))
    assert held(driven, FirstHop(1)) == 10
    driven.took()
    driven.locates(way(1, b"gate"))
    assert driven.took() == [STOP, StartExperiments(way(1, b"gate")), SetEffort(HOST, True)]
    assert (held(driven, FirstHop(1)), held(driven, FirstHop(1, b"gate"))) == (0, 10)
    # What was measured is of the way that was.
    assert driven.refusal(driven.handle, query(flow, rq.Question.FUNDAMENTALS)) is (
        ErrorCode.ERROR_NO_DATA
    )
    driven.grant(driven.handle, rate(flow, 0))
    assert held(driven, FirstHop(1, b"gate")) == 0


def test_a_contract_that_is_put_back_burdens_the_way_as_it_is_now() -> None:
    driven = Located()
    flow = driven.joins()
    driven.see(A, view(available_bps=20))
    driven.grant(driven.handle, rate(flow, 10))
    # A flow that would take its socket over tells of another way, and is refused.
    driven.mechanism.refusals = [NO_MECHANISM]
    request = replace(add(0, facts(1), A, is_adaptive=True), path=way(2))
    assert driven.result(driven.handle, request) == NO_MECHANISM
    assert (held(driven, FirstHop(1)), held(driven, FirstHop(2))) == (0, 10)


def test_contracts_from_before_a_way_was_told_of_burden_it_too() -> None:
    driven = Located()
    flow = driven.joins(None)
    driven.grant(driven.handle, rate(flow, 10))
    driven.locates(WAY)
    assert held(driven, FirstHop(1)) == 10


def test_the_same_way_changes_nothing() -> None:
    driven = Located()
    flow = driven.joins()
    driven.see(A, view(available_bps=20))
    driven.took()
    driven.locates(way(mtu_bytes=1400))
    assert driven.took() == []
    assert driven.free_bps(flow) == 20
    known = driven.status(flow).facts
    assert known is not None
    assert known.mtu_bytes == 1400


@pytest.mark.parametrize("found", [DOWN, NOT_ALLOWED])
def test_what_failed_is_not_tried_again_where_it_may_not_be(found: Unmeasurable | Refusal) -> None:
    driven = Located()
    driven.joins()
    driven.ends()
    driven.locates(found)
    driven.took()
    driven.wait(600 * S)
    assert driven.took() == []
    driven.locates(WAY)
    assert driven.took() == [START]


def test_an_interface_that_comes_back_is_tried_at_once() -> None:
    driven = Located()
    driven.joins()
    driven.locates(DOWN)
    driven.wait(300 * S)
    assert driven.took() == [START, STOP]
    driven.locates(WAY)
    assert driven.took() == [START]


# -- what goes on in the interface --------------------------------------------------------


def counts(driven: Located, *interfaces: int) -> None:
    """Let interfaces of a known speed be counted."""
    counted = {cookie: FlowCounters(sent_bytes=0) for cookie in driven.engine.watched_sockets()}
    loads = {interface: LinkLoad(0, speed_bps=100) for interface in interfaces}
    driven.carry_out(driven.engine.receive_counters(counted, loads, now_ns=driven.now_ns))


def knows(driven: Located, hop: FirstHop) -> bool:
    return driven.engine._ledger.is_known(hop)  # noqa: SLF001 - no other way to see it


def test_of_a_first_hop_nothing_is_kept_when_its_last_path_is_dropped() -> None:
    driven = Located()
    flow = driven.joins()
    counts(driven, 1)
    assert knows(driven, FirstHop(1))
    driven.leaves(flow)
    driven.wait(WARM_NS)
    assert driven.engine.entry_count == 2


def test_of_a_first_hop_nothing_is_kept_when_its_last_path_leaves_another_way() -> None:
    driven = Located()
    flow = driven.joins()
    driven.see(A, view(available_bps=20))
    driven.grant(driven.handle, rate(flow, 10))
    counts(driven, 1)
    driven.locates(way(2))
    assert not knows(driven, FirstHop(1))
    counts(driven, 2)
    assert knows(driven, FirstHop(2))


def test_of_a_first_hop_all_is_kept_while_another_path_leaves_by_it() -> None:
    driven = Located()
    flow = driven.joins()
    counts(driven, 1)
    found = replace(WAY, host=B.host())
    driven.grant(driven.handle, rq.StartTracking(B.host(), None, found))
    driven.leaves(flow)
    driven.wait(WARM_NS)
    assert driven.engine.tracked_hosts() == (B.host(),)
    assert knows(driven, FirstHop(1))

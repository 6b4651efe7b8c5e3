"""The Windows face where it has to wait: rates of paths too little known, fresh numbers, notices.

The world's surveyor is a stand-in that measures nothing (`Onlooker`): what is found of paths the
tests say. Its thread is the real one, so calls that wait for a limited time end as they do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from ctypes import byref, sizeof
from typing import Any

import pytest

from openqwave.admission.policy import Experiments, Policy
from openqwave.admission.rights import Credentials
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.qos2 import (
    ERROR_HOST_UNREACHABLE,
    ERROR_INSUFFICIENT_BUFFER,
    ERROR_INVALID_PARAMETER,
    ERROR_IO_PENDING,
    ERROR_NETWORK_BUSY,
    ERROR_NOT_FOUND,
    ERROR_NOT_SUPPORTED,
    ERROR_OPERATION_ABORTED,
    ERROR_RETRY,
    ERROR_TIMEOUT,
    ERROR_UNEXP_NET_ERR,
    FALSE,
    OVERLAPPED,
    QOS_FLOW_FUNDAMENTALS,
    QOS_FLOWRATE_OUTGOING,
    QOS_QUERYFLOW_FRESH,
    STATUS_PENDING,
    TRUE,
    UINT64,
    ULONG,
    WAIT_OBJECT_0,
    GetLastError,
    GetOverlappedResult,
    QOSCancel,
    QOSCloseHandle,
    QOSNotifyAvailable,
    QOSNotifyCongested,
    QOSNotifyFlow,
    QOSNotifyUncongested,
    QOSQueryFlow,
    QOSQueryFlowFundamentals,
    QOSQueryOutgoingRate,
    QOSRemoveSocketFromFlow,
    QOSSetFlow,
    QOSSetOutgoingRate,
    SetEvent,
    SetLastError,
    WaitForSingleObject,
    events,
)
from openqwave.runtime import surveying
from tests.conformance.conftest import via
from tests.conformance.world import (
    AVAILABLE_BPS,
    BLANK,
    HELD_BPS,
    MEASURED,
    RunningClock,
    World,
    host_of,
    open_world,
)

__all__ = ["via"]

# Longer than any machine needs to do what is awaited; a test that reaches it has failed.
LONG_S = 30
LONG_MS = 1_000 * LONG_S
LONG_NS = 1_000_000_000 * LONG_S
# A limit that is worth waiting for.
SHORT_NS = 60_000_000

WANTED_BPS = HELD_BPS + 1_000_000

pytestmark = pytest.mark.usefixtures("fd_guard")


@pytest.fixture
def w() -> Iterator[World]:
    with open_world() as world:
        yield world


@pytest.fixture
def patient() -> Iterator[World]:
    """A world whose time runs, and whose calls wait longer than anything takes."""
    yield from running(LONG_NS)


@pytest.fixture
def hasty() -> Iterator[World]:
    """A world whose time runs, and whose calls wait for a moment."""
    yield from running(SHORT_NS)


def running(answer_ns: int) -> Iterator[World]:
    strangers = set(threading.enumerate())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surveying, "_LINGER_S", 0.02)
        policy = Policy(experiments=Experiments(answer_ns=answer_ns, warm_ns=1_000_000))
        with open_world(policy, RunningClock()) as world:
            yield world
        for thread in set(threading.enumerate()) - strangers:
            thread.join(LONG_S)


def see(w: World, available_bps: int | None, since_ns: int | None = None) -> None:
    w.see(MEASURED, available_bps, is_congested=False, since_ns=since_ns)


def set_rate(w: World, bps: int, overlapped: OVERLAPPED | None = None) -> tuple[int, int]:
    """The call on the flow that has a contract; its result and the last error."""
    SetLastError(0)
    rate = QOS_FLOWRATE_OUTGOING(bps, 1, 0)
    target = None if overlapped is None else byref(overlapped)
    result = QOSSetFlow(w.handle, w.measured, QOSSetOutgoingRate, 16, byref(rate), 0, target)
    return result, GetLastError()


def rate_of(w: World) -> int:
    rate: Any = UINT64()
    assert QOSQueryFlow(
        w.handle, w.measured, QOSQueryOutgoingRate, byref(ULONG(8)), byref(rate), 0, None
    )
    return int(rate.value)


def outcome(w: World, overlapped: Any) -> tuple[int, int]:  # noqa: ANN401 - fields of ctypes
    """Result and error of an operation that is over."""
    SetLastError(0)
    result = GetOverlappedResult(w.handle, byref(overlapped), None, FALSE)
    return result, GetLastError()


def is_told(overlapped: Any, timeout_ms: int = 0) -> bool:  # noqa: ANN401 - fields of ctypes
    return WaitForSingleObject(overlapped.hEvent, timeout_ms) == WAIT_OBJECT_0


def ask_unknown(w: World, bps: int = WANTED_BPS, *, manual: bool = True) -> OVERLAPPED:
    """A rate that waits, because of the path nothing is known."""
    see(w, None)
    overlapped = w.overlapped(manual=manual)
    assert set_rate(w, bps, overlapped) == (FALSE, ERROR_IO_PENDING)
    return overlapped


# -- QOSSetFlow -----------------------------------------------------------------------

ANSWERS: dict[str, tuple[Callable[[World], None], tuple[int, int], int]] = {
    "granted": (lambda w: see(w, AVAILABLE_BPS), (TRUE, 0), WANTED_BPS),
    "busy": (lambda w: see(w, 0), (FALSE, ERROR_NETWORK_BUSY), HELD_BPS),
    # By contract: "shaping and marking work without admission".
    "unmeasurable": (
        lambda w: w.subsystem.receive_path_view(host_of(MEASURED), None),
        (TRUE, 0),
        WANTED_BPS,
    ),
}


# "an overlapped one completes when known"; "Granted: contract and marks apply before success is
# returned."
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_rate_waits_until_it_can_be_decided(
    w: World, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell, expected, rate_bps = ANSWERS[answer]
    see(w, None)
    overlapped: Any = w.overlapped()
    SetEvent(overlapped.hEvent)
    assert set_rate(w, WANTED_BPS, overlapped) == (FALSE, ERROR_IO_PENDING)
    # Beginning resets the event.
    assert not is_told(overlapped)
    assert overlapped.Internal == STATUS_PENDING
    assert rate_of(w) == HELD_BPS
    pacing = w.tcp.getsockopt(1, 47)
    # Words that decide nothing.
    see(w, None)
    assert not is_told(overlapped)

    seen: list[object] = []
    set_event = events.Event.set

    def woken(event: events.Event) -> None:
        seen.append((outcome(w, overlapped), rate_of(w), w.tcp.getsockopt(1, 47) > pacing))
        set_event(event)

    monkeypatch.setattr(events.Event, "set", woken)
    tell(w)
    # Whoever is woken finds everything in place, and is woken once.
    assert seen == [(expected, rate_bps, rate_bps > HELD_BPS)]
    assert is_told(overlapped)
    assert overlapped.InternalHigh == 0


def test_a_rate_that_the_kernel_cannot_hold_completes_so(w: World) -> None:
    # "Kernel refused the marks or shaping [...] for lack of the mechanism: ERROR_NOT_SUPPORTED":
    # also where that is found out later. Nothing delays UDP on loopback.
    overlapped = w.overlapped()
    rate = QOS_FLOWRATE_OUTGOING(1_000_000, 1, 0)
    assert not QOSSetFlow(
        w.handle, w.blank, QOSSetOutgoingRate, 16, byref(rate), 0, byref(overlapped)
    )
    assert GetLastError() == ERROR_IO_PENDING
    w.see(BLANK, AVAILABLE_BPS, is_congested=False)
    assert outcome(w, overlapped) == (FALSE, ERROR_NOT_SUPPORTED)


def test_an_overlapped_is_reused_for_the_next_rate(w: World) -> None:
    # "An OVERLAPPED may be reused after completion."
    overlapped = w.overlapped(manual=False)
    for bps, available_bps, expected in (
        (WANTED_BPS, AVAILABLE_BPS, (TRUE, 0)),
        (WANTED_BPS + 1_000, 0, (FALSE, ERROR_NETWORK_BUSY)),
        (WANTED_BPS + 1_000, AVAILABLE_BPS, (TRUE, 0)),
    ):
        see(w, None)
        assert set_rate(w, bps, overlapped) == (FALSE, ERROR_IO_PENDING)
        # But not before: which of the two would QOSCancel mean?
        assert set_rate(w, bps, overlapped) == (FALSE, ERROR_INVALID_PARAMETER)
        see(w, available_bps)
        assert is_told(overlapped)
        assert outcome(w, overlapped) == expected
    # One that finishes at once uses it as well.
    assert set_rate(w, 1_000_000, overlapped) == (TRUE, 0)
    assert is_told(overlapped)
    assert rate_of(w) == 1_000_000


def test_a_cancelled_rate_is_not_granted_later(w: World) -> None:
    overlapped = ask_unknown(w, manual=False)
    assert QOSCancel(w.handle, byref(overlapped))
    # Exactly once: an auto-reset event lets one wait through for each.
    assert is_told(overlapped)
    assert outcome(w, overlapped) == (FALSE, ERROR_OPERATION_ABORTED)
    assert not QOSCancel(w.handle, byref(overlapped))
    assert GetLastError() == ERROR_INVALID_PARAMETER
    see(w, AVAILABLE_BPS)
    assert not is_told(overlapped)
    assert rate_of(w) == HELD_BPS


@pytest.mark.parametrize("end", ["close", "remove", "sleep"])
def test_the_end_of_handle_or_flow_aborts_a_rate_that_waits(w: World, end: str) -> None:
    overlapped, query = ask_unknown(w, manual=False), fresh(w)
    pacing = w.tcp.getsockopt(1, 47)
    match end:
        case "close":
            assert QOSCloseHandle(w.handle)
        case "remove":
            assert QOSRemoveSocketFromFlow(w.handle, None, w.measured, 0)
        case "sleep":
            w.sleep()
            assert w.new_handle()
    for aborted in (overlapped, query.overlapped):
        assert is_told(aborted)
        assert outcome(w, aborted) == (FALSE, ERROR_OPERATION_ABORTED)
    see(w, AVAILABLE_BPS)
    assert not is_told(overlapped)
    # What it asked for is not done to the socket after all.
    assert w.tcp.getsockopt(1, 47) != pacing
    assert w.tcp.getsockopt(0, 1) == 0


def test_of_a_cancel_and_a_grant_exactly_one_happens(w: World) -> None:
    # "A completion that is already under way wins, and exactly one of the two happens."
    won = {TRUE: 0, FALSE: 0}
    with ThreadPoolExecutor(1) as pool:
        for turn in range(200):
            assert set_rate(w, HELD_BPS)[0]
            overlapped = ask_unknown(w, manual=False)
            barrier = threading.Barrier(2)

            def complete(barrier: threading.Barrier = barrier) -> None:
                barrier.wait()
                see(w, AVAILABLE_BPS)

            other = pool.submit(complete)
            barrier.wait()
            if turn % 2:
                # On one processor the other thread would have to be lucky.
                time.sleep(0)
            cancelled = QOSCancel(w.handle, byref(overlapped))
            error = GetLastError()
            assert is_told(overlapped, LONG_MS)
            other.result(LONG_S)
            assert not is_told(overlapped)
            if cancelled:
                assert outcome(w, overlapped) == (FALSE, ERROR_OPERATION_ABORTED)
                assert rate_of(w) == HELD_BPS
            else:
                assert error == ERROR_INVALID_PARAMETER
                assert outcome(w, overlapped) == (TRUE, 0)
                assert rate_of(w) == WANTED_BPS
            won[cancelled] += 1
    assert sum(won.values()) == 200


# "a synchronous call waits for the running experiments up to a limit [decision: 2 s] and then
# answers ERROR_RETRY"
def test_a_blocking_rate_waits_for_its_limit(hasty: World) -> None:
    see(hasty, None)
    began_ns = time.monotonic_ns()
    assert set_rate(hasty, WANTED_BPS) == (FALSE, ERROR_RETRY)
    assert SHORT_NS <= time.monotonic_ns() - began_ns < LONG_NS
    assert rate_of(hasty) == HELD_BPS
    # Nothing is left behind that would be granted now.
    see(hasty, AVAILABLE_BPS)
    assert rate_of(hasty) == HELD_BPS


def test_an_overlapped_rate_has_no_limit(hasty: World) -> None:
    overlapped = ask_unknown(hasty)
    assert not is_told(overlapped, 3 * SHORT_NS // 1_000_000)
    see(hasty, AVAILABLE_BPS)
    assert outcome(hasty, overlapped) == (TRUE, 0)


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_view_wakes_a_blocking_rate(patient: World, answer: str) -> None:
    tell, expected, rate_bps = ANSWERS[answer]
    see(patient, None)
    began_ns = time.monotonic_ns()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(set_rate, patient, WANTED_BPS)
        until_waiting(patient, asked)
        tell(patient)
        assert asked.result(LONG_S) == expected
    assert time.monotonic_ns() - began_ns < LONG_NS
    assert rate_of(patient) == rate_bps


def test_closing_wakes_a_blocking_rate(patient: World) -> None:
    see(patient, None)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(set_rate, patient, WANTED_BPS)
        until_waiting(patient, asked)
        assert QOSCloseHandle(patient.handle)
        assert asked.result(LONG_S) == (FALSE, ERROR_OPERATION_ABORTED)


def until_waiting(w: World, asked: Future[Any]) -> None:
    """Block until a request of a limited time waits: it has a timer."""
    while w.subsystem.until_timer_s() is None:
        assert not asked.done()
        time.sleep(0.001)


# -- QOSQueryFlow ---------------------------------------------------------------------


class Fresh:
    """A query for fresh fundamentals, with everything that it takes."""

    def __init__(self, w: World, flow_id: int, overlapped: OVERLAPPED | None) -> None:
        self.size: Any = ULONG(64)
        self.room: Any = (QOS_FLOW_FUNDAMENTALS * 2)()
        self.overlapped: Any = overlapped
        SetLastError(0)
        self.result = QOSQueryFlow(
            w.handle,
            flow_id,
            QOSQueryFlowFundamentals,
            byref(self.size),
            byref(self.room),
            QOS_QUERYFLOW_FRESH,
            None if overlapped is None else byref(overlapped),
        )
        self.error = GetLastError()

    @property
    def available_bps(self) -> int | None:
        found = self.room[0]
        return found.AvailableBandwidth if found.AvailableBandwidthSet else None


def fresh(w: World) -> Fresh:
    """One that waits."""
    query = Fresh(w, w.measured, w.overlapped(manual=False))
    assert (query.result, query.error) == (FALSE, ERROR_IO_PENDING)
    return query


# By contract: "QOS_QUERYFLOW_FRESH [...]: only data measured after the call"
def test_old_data_do_not_answer(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    w.clock.now += 1_000
    asked_ns = w.clock.now
    query = fresh(w)
    for since_ns in (None, 0, asked_ns - 1):
        w.clock.now += 1_000
        see(w, 1_000_000, since_ns)
        assert not is_told(query.overlapped)
    assert (query.available_bps, query.size.value) == (None, 64)
    seen: list[object] = []
    set_event = events.Event.set

    def woken(event: events.Event) -> None:
        overlapped: Any = query.overlapped
        seen.append((query.available_bps, query.size.value, overlapped.InternalHigh))
        seen.append(outcome(w, overlapped))
        set_event(event)

    monkeypatch.setattr(events.Event, "set", woken)
    see(w, 2_000_000, asked_ns)
    # The buffers first, then the event.
    assert seen == [(2_000_000, 40, 40), (TRUE, 0)]
    assert is_told(query.overlapped)


def test_a_fresh_answer_does_not_touch_what_lies_behind(w: World) -> None:
    query = fresh(w)
    see(w, 2_000_000, w.clock.now)
    assert query.available_bps == 2_000_000
    assert bytes(query.room[1]) == bytes(sizeof(QOS_FLOW_FUNDAMENTALS))


def test_several_may_wait_for_fresh_numbers(w: World) -> None:
    first = fresh(w)
    w.clock.now += 10
    second = fresh(w)
    see(w, 1_000_000, w.clock.now - 5)
    assert (is_told(first.overlapped), is_told(second.overlapped)) == (True, False)
    see(w, 3_000_000, w.clock.now)
    assert (first.available_bps, second.available_bps) == (1_000_000, 3_000_000)


def test_a_fresh_query_can_be_cancelled(w: World) -> None:
    query = fresh(w)
    assert QOSCancel(w.handle, byref(query.overlapped))
    assert outcome(w, query.overlapped) == (FALSE, ERROR_OPERATION_ABORTED)
    see(w, 2_000_000, w.clock.now)
    assert (query.available_bps, query.size.value) == (None, 64)


def test_a_blocking_fresh_query(patient: World) -> None:
    see(patient, 1_000_000, time.monotonic_ns())
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(Fresh, patient, patient.measured, None)
        until_waiting(patient, asked)
        see(patient, 2_000_000, 1)
        assert not asked.done()
        see(patient, 3_000_000, time.monotonic_ns())
        query = asked.result(LONG_S)
    assert (query.result, query.error) == (TRUE, 0)
    assert (query.available_bps, query.size.value) == (3_000_000, 40)


# By contract: "not to be had in time: ERROR_RETRY, experiments timed out: ERROR_TIMEOUT"
@pytest.mark.parametrize("is_known", [True, False])
def test_a_blocking_fresh_query_waits_for_its_limit(hasty: World, is_known: bool) -> None:
    if is_known:
        see(hasty, 1_000_000)
    else:
        # Another way there: experiments on it run, and have told nothing yet.
        hasty.subsystem.receive_path_view(host_of(MEASURED), None)
        hasty.lead(MEASURED)
    began_ns = time.monotonic_ns()
    query = Fresh(hasty, hasty.measured, None)
    assert (query.result, query.error) == (FALSE, ERROR_RETRY if is_known else ERROR_TIMEOUT)
    assert SHORT_NS <= time.monotonic_ns() - began_ns < LONG_NS
    assert (query.available_bps, query.size.value) == (None, 64)


@pytest.mark.parametrize("size", [0, 39])
def test_a_fresh_query_with_too_little_room_does_not_wait(w: World, size: int) -> None:
    overlapped: Any = w.overlapped()
    cell: Any = ULONG(size)
    assert not QOSQueryFlow(
        w.handle,
        w.measured,
        QOSQueryFlowFundamentals,
        byref(cell),
        byref(QOS_FLOW_FUNDAMENTALS()) if size else None,
        QOS_QUERYFLOW_FRESH,
        byref(overlapped),
    )
    assert (GetLastError(), cell.value) == (ERROR_INSUFFICIENT_BUFFER, 40)
    assert overlapped.Internal != STATUS_PENDING
    assert not QOSCancel(w.handle, byref(overlapped))


# At a service, one process cannot pass for two.
@pytest.mark.parametrize("via", ["embedded"], indirect=True)
def test_fresh_is_not_for_flows_of_others(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # "ignored for flows of others", which an administrator may query.
    see(w, 5_000_000)
    monkeypatch.setattr(w.subsystem, "_pid", 1)
    stranger = w.new_handle()
    monkeypatch.setattr(w, "handle", stranger)
    for is_administrator in (False, True):
        monkeypatch.setattr(
            "openqwave.runtime.session.own_credentials",
            lambda is_it=is_administrator: Credentials(1000, is_it, frozenset()),
        )
        query = Fresh(w, w.measured, w.overlapped())
        if is_administrator:
            assert (query.result, query.error, query.available_bps) == (TRUE, 0, 5_000_000)
        else:
            assert (query.result, query.error) == (FALSE, ERROR_NOT_FOUND)


# -- QOSNotifyFlow --------------------------------------------------------------------


def available(w: World, bps: int, overlapped: OVERLAPPED | None) -> tuple[int, int]:
    SetLastError(0)
    target = None if overlapped is None else byref(overlapped)
    result = QOSNotifyFlow(
        w.handle, w.measured, QOSNotifyAvailable, byref(ULONG(8)), byref(UINT64(bps)), 0, target
    )
    return result, GetLastError()


def test_what_a_query_said_to_be_free_is_granted(w: World) -> None:
    query = fresh(w)
    see(w, 2_000_000, w.clock.now)
    assert query.available_bps == 2_000_000
    wanted_bps = HELD_BPS + 2_000_000
    assert available(w, wanted_bps, None) == (TRUE, 0)
    # The numbers fall; what was said a moment ago is honoured once.
    see(w, 500_000, w.clock.now)
    assert set_rate(w, wanted_bps) == (TRUE, 0)
    assert set_rate(w, wanted_bps + 1) == (FALSE, ERROR_NETWORK_BUSY)


# "An Available notification promises that the same SetFlow, made at once, is granted"
def test_available_comes_true_after_busy(w: World) -> None:
    wanted_bps = HELD_BPS + AVAILABLE_BPS + 1_000_000
    assert set_rate(w, wanted_bps) == (FALSE, ERROR_NETWORK_BUSY)
    overlapped = w.overlapped(manual=False)
    assert available(w, wanted_bps, overlapped) == (FALSE, ERROR_IO_PENDING)
    see(w, AVAILABLE_BPS + 999_999)
    assert not is_told(overlapped)
    see(w, AVAILABLE_BPS + 1_000_000)
    assert outcome(w, overlapped) == (TRUE, 0)
    see(w, AVAILABLE_BPS)
    assert set_rate(w, wanted_bps) == (TRUE, 0)


def test_notices_between_two_views(w: World) -> None:
    w.lead(MEASURED)
    kinds = {True: QOSNotifyCongested, False: QOSNotifyUncongested}
    for is_congested in (True, False, True):
        overlapped = w.pending(w.handle, w.measured, kinds[is_congested])
        w.turn(MEASURED, is_congested=not is_congested)
        w.turn(MEASURED, is_congested=None)
        assert outcome(w, overlapped)[0] == FALSE
        w.turn(MEASURED, is_congested=is_congested)
        assert is_told(overlapped)
        assert outcome(w, overlapped) == (TRUE, 0)


# While a path is congested nothing of it is free, and no quote of before holds.
def test_a_notice_of_congestion_ends_promises(w: World) -> None:
    w.lead(MEASURED)
    query = fresh(w)
    see(w, 2_000_000, w.clock.now)
    assert query.available_bps == 2_000_000
    overlapped = w.pending(w.handle, w.measured, QOSNotifyCongested)
    w.turn(MEASURED, is_congested=True)
    assert outcome(w, overlapped) == (TRUE, 0)
    assert set_rate(w, HELD_BPS + 1) == (FALSE, ERROR_NETWORK_BUSY)


# A sink may be restarted, so a notice outlives a failure; nobody waits for ever, though.
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (ErrorCode.ERROR_TIMEOUT, ERROR_HOST_UNREACHABLE),
        (ErrorCode.ERROR_HOST_UNREACHABLE, ERROR_HOST_UNREACHABLE),
        (ErrorCode.ERROR_UNEXP_NET_ERR, ERROR_UNEXP_NET_ERR),
    ],
)
def test_why_a_notice_will_not_come(w: World, code: ErrorCode, error: int) -> None:
    w.lead(MEASURED)
    overlapped = w.pending(w.handle, w.measured, QOSNotifyCongested)
    w.stop(MEASURED, Refusal(code, "the experiments ended"))
    assert not is_told(overlapped)
    w.clock.now += 31_000_000_000
    w.subsystem.handle_timers()
    w.stop(MEASURED, Refusal(code, "and again"))
    assert outcome(w, overlapped) == (FALSE, error)

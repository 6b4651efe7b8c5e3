"""Operations that complete later: completions, cancels, closes, and the races between them."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Iterator
from ctypes import addressof, byref, sizeof
from types import FrameType
from typing import Any

import pytest

from openqwave.qos2 import (
    ERROR_INVALID_PARAMETER,
    ERROR_IO_INCOMPLETE,
    ERROR_IO_PENDING,
    ERROR_OPERATION_ABORTED,
    FALSE,
    OVERLAPPED,
    QOS_FLOW_FUNDAMENTALS,
    STATUS_PENDING,
    TRUE,
    UINT64,
    ULONG,
    WAIT_OBJECT_0,
    WAIT_TIMEOUT,
    CloseHandle,
    CreateEvent,
    GetLastError,
    GetOverlappedResult,
    HasOverlappedIoCompleted,
    QOSCancel,
    QOSCloseHandle,
    QOSNotifyAvailable,
    QOSNotifyCongested,
    QOSNotifyFlow,
    QOSNotifyUncongested,
    QOSQueryFlow,
    QOSQueryFlowFundamentals,
    QOSRemoveSocketFromFlow,
    QOSSetFlow,
    QOSSetTrafficType,
    SetEvent,
    SetLastError,
    WaitForSingleObject,
)
from tests.conformance.conftest import via
from tests.conformance.world import AVAILABLE_BPS, HELD_BPS, MEASURED, World, open_world

__all__ = ["via"]

# Longer than any machine needs to do what is awaited; a test that reaches it has failed.
LONG_MS = 30_000

pytestmark = pytest.mark.usefixtures("fd_guard")


@pytest.fixture
def w() -> Iterator[World]:
    with open_world() as world:
        yield world


def congest(w: World) -> None:
    w.see(MEASURED, AVAILABLE_BPS, is_congested=True)


def relieve(w: World, available_bps: int = AVAILABLE_BPS) -> None:
    w.see(MEASURED, available_bps, is_congested=False)


def outcome(w: World, overlapped: Any) -> tuple[int, int]:  # noqa: ANN401 - fields of ctypes
    """Result and error of an operation that is over."""
    SetLastError(0)
    result = GetOverlappedResult(w.handle, byref(overlapped), None, FALSE)
    return result, GetLastError()


@pytest.mark.parametrize("manual", [True, False])
def test_completion_writes_everything_before_it_sets_the_event(w: World, manual: bool) -> None:
    overlapped: Any = w.overlapped(manual=manual)
    SetEvent(overlapped.hEvent)
    assert not QOSNotifyFlow(
        w.handle, w.measured, QOSNotifyCongested, None, None, 0, byref(overlapped)
    )
    assert GetLastError() == ERROR_IO_PENDING
    # Beginning resets the event.
    assert WaitForSingleObject(overlapped.hEvent, 0) == WAIT_TIMEOUT
    assert overlapped.Internal == STATUS_PENDING
    assert not HasOverlappedIoCompleted(byref(overlapped))
    assert outcome(w, overlapped) == (FALSE, ERROR_IO_INCOMPLETE)
    relieve(w)
    assert WaitForSingleObject(overlapped.hEvent, 0) == WAIT_TIMEOUT
    overlapped.InternalHigh = 7
    congest(w)
    assert WaitForSingleObject(overlapped.hEvent, 0) == WAIT_OBJECT_0
    assert (overlapped.Internal, overlapped.InternalHigh) == (0, 0)
    assert HasOverlappedIoCompleted(byref(overlapped))
    assert outcome(w, overlapped) == (TRUE, 0)


def test_operation_that_finishes_at_once_returns_true(w: World) -> None:
    overlapped: Any = w.overlapped()
    fundamentals: Any = QOS_FLOW_FUNDAMENTALS()
    size: Any = ULONG(sizeof(fundamentals) + 8)
    assert QOSQueryFlow(
        w.handle,
        w.measured,
        QOSQueryFlowFundamentals,
        byref(size),
        byref(fundamentals),
        0,
        byref(overlapped),
    )
    assert size.value == 40
    assert (overlapped.Internal, overlapped.InternalHigh) == (0, 40)
    assert WaitForSingleObject(overlapped.hEvent, 0) == WAIT_OBJECT_0
    count: Any = ULONG()
    assert GetOverlappedResult(w.handle, byref(overlapped), byref(count), TRUE)
    assert count.value == 40
    assert (fundamentals.BottleneckBandwidthSet, fundamentals.BottleneckBandwidth) == (
        1,
        20_000_000,
    )
    assert (fundamentals.AvailableBandwidthSet, fundamentals.AvailableBandwidth) == (
        1,
        AVAILABLE_BPS,
    )
    # 1.5 ms, in microseconds.
    assert (fundamentals.RTTSet, fundamentals.RTT) == (1, 1_500)


def test_unknown_fundamentals_have_their_flags_off(w: World) -> None:
    w.see(MEASURED, None, is_congested=None)
    fundamentals: Any = QOS_FLOW_FUNDAMENTALS(AvailableBandwidthSet=1, AvailableBandwidth=1)
    assert QOSQueryFlow(w.handle, w.measured, 0, byref(ULONG(40)), byref(fundamentals), 0, None)
    assert (fundamentals.AvailableBandwidthSet, fundamentals.AvailableBandwidth) == (0, 0)
    assert fundamentals.BottleneckBandwidthSet == 1


def test_call_that_fails_at_once_leaves_the_overlapped_alone(w: World) -> None:
    overlapped: Any = w.overlapped()
    overlapped.Internal, overlapped.InternalHigh = 77, 88
    SetEvent(overlapped.hEvent)
    assert not QOSSetFlow(w.handle, 1, QOSSetTrafficType, 4, byref(ULONG(1)), 0, byref(overlapped))
    assert (overlapped.Internal, overlapped.InternalHigh) == (77, 88)
    assert WaitForSingleObject(overlapped.hEvent, 0) == WAIT_OBJECT_0


def test_overlapped_without_an_event(w: World) -> None:
    overlapped = OVERLAPPED()
    assert not QOSNotifyFlow(
        w.handle, w.measured, QOSNotifyCongested, None, None, 0, byref(overlapped)
    )
    congest(w)
    assert outcome(w, overlapped) == (TRUE, 0)


def test_low_bits_of_the_event_s_handle_do_not_count(w: World) -> None:
    event = w.event()
    overlapped = OVERLAPPED(hEvent=event | 1)
    assert not QOSNotifyFlow(
        w.handle, w.measured, QOSNotifyCongested, None, None, 0, byref(overlapped)
    )
    congest(w)
    assert WaitForSingleObject(event, 0) == WAIT_OBJECT_0


def test_overlapped_and_event_may_be_reused_after_completion(w: World) -> None:
    overlapped = w.overlapped(manual=False)
    for _ in range(3):
        relieve(w)
        assert not QOSNotifyFlow(
            w.handle, w.measured, QOSNotifyCongested, None, None, 0, byref(overlapped)
        )
        assert GetLastError() == ERROR_IO_PENDING
        congest(w)
        assert WaitForSingleObject(overlapped.hEvent, 0) == WAIT_OBJECT_0
        assert not QOSNotifyFlow(
            w.handle, w.measured, QOSNotifyUncongested, None, None, 0, byref(overlapped)
        )
        relieve(w)
        assert WaitForSingleObject(overlapped.hEvent, 0) == WAIT_OBJECT_0


def test_program_may_drop_what_it_passed(w: World) -> None:
    event = w.event()
    address = 0

    def begin() -> int:
        overlapped = OVERLAPPED(hEvent=event)
        rate = UINT64(HELD_BPS + AVAILABLE_BPS + 1)
        assert not QOSNotifyFlow(
            w.handle,
            w.measured,
            QOSNotifyAvailable,
            byref(ULONG(8)),
            byref(rate),
            0,
            byref(overlapped),
        )
        return addressof(overlapped)

    address = begin()
    gc.collect()
    # The memory is still the operation's: nothing new is put there.
    others = [OVERLAPPED() for _ in range(1_000)]
    assert address not in {addressof(other) for other in others}
    relieve(w, AVAILABLE_BPS + 1)
    assert WaitForSingleObject(event, 0) == WAIT_OBJECT_0
    assert all(other.Internal == 0 for other in others)


def test_event_closed_while_pending_is_no_harm(w: World) -> None:
    overlapped = OVERLAPPED(hEvent=CreateEvent(None, 1, 0, None))
    assert not QOSNotifyFlow(
        w.handle, w.measured, QOSNotifyCongested, None, None, 0, byref(overlapped)
    )
    assert CloseHandle(overlapped.hEvent)
    bystander = w.event()
    congest(w)
    assert outcome(w, overlapped) == (TRUE, 0)
    assert WaitForSingleObject(bystander, 0) == WAIT_TIMEOUT


def test_an_operation_is_cancelled_on_its_own_handle_alone(w: World) -> None:
    # By contract: "not a pending operation of this handle: ERROR_INVALID_PARAMETER". What the two
    # handles call their operations are numbers, and some of them are the same.
    one, two = handles = w.new_handle(), w.new_handle()
    flows: list[tuple[int, int]] = []
    for handle in handles * 6:
        sock = w.udp()
        sock.connect((MEASURED, 9))
        flows.append((handle, w.flow(handle, sock, None, 0)))
    pending = [(handle, w.pending(handle, flow, QOSNotifyCongested)) for handle, flow in flows]
    for handle, overlapped in pending:
        SetLastError(0)
        assert not QOSCancel(one if handle == two else two, byref(overlapped))
        assert GetLastError() == ERROR_INVALID_PARAMETER
    assert not any(HasOverlappedIoCompleted(byref(overlapped)) for _, overlapped in pending)
    for handle, overlapped in pending:
        assert QOSCancel(handle, byref(overlapped))


def test_cancel_completes_in_the_normal_way(w: World) -> None:
    overlapped = w.pending(w.handle, w.measured, QOSNotifyCongested)
    SetLastError(5)
    assert (QOSCancel(w.handle, byref(overlapped)), GetLastError()) == (TRUE, 5)
    assert WaitForSingleObject(overlapped.hEvent, 0) == WAIT_OBJECT_0
    assert outcome(w, overlapped) == (FALSE, ERROR_OPERATION_ABORTED)
    assert not QOSCancel(w.handle, byref(overlapped))
    assert GetLastError() == ERROR_INVALID_PARAMETER
    # The kind is free again.
    assert w.pending(w.handle, w.measured, QOSNotifyCongested) is not overlapped


@pytest.mark.parametrize("end", ["close", "remove"])
def test_end_of_handle_or_flow_aborts(w: World, end: str) -> None:
    overlapped = w.pending(w.handle, w.measured, QOSNotifyCongested)
    if end == "close":
        assert QOSCloseHandle(w.handle)
    else:
        assert QOSRemoveSocketFromFlow(w.handle, None, w.measured, 0)
    assert WaitForSingleObject(overlapped.hEvent, 0) == WAIT_OBJECT_0
    assert outcome(w, overlapped) == (FALSE, ERROR_OPERATION_ABORTED)


def test_get_overlapped_result_waits(w: World) -> None:
    overlapped = w.overlapped(manual=False)
    assert not QOSNotifyFlow(
        w.handle, w.measured, QOSNotifyCongested, None, None, 0, byref(overlapped)
    )
    results: list[int] = []
    waiter = threading.Thread(
        target=lambda: results.append(GetOverlappedResult(w.handle, byref(overlapped), None, TRUE))
    )
    waiter.start()
    congest(w)
    waiter.join(LONG_MS / 1000)
    assert results == [TRUE]


def test_get_overlapped_result_of_a_mark_nobody_made(w: World) -> None:
    overlapped = OVERLAPPED(Internal=STATUS_PENDING)
    assert not GetOverlappedResult(w.handle, byref(overlapped), None, TRUE)
    assert GetLastError() == ERROR_INVALID_PARAMETER
    assert not GetOverlappedResult(w.handle, None, None, TRUE)
    assert GetLastError() == ERROR_INVALID_PARAMETER
    assert not HasOverlappedIoCompleted(None)


@pytest.mark.parametrize("end", ["congested", "close"])
def test_without_overlapped_the_call_blocks(w: World, end: str) -> None:
    results: list[tuple[int, int]] = []
    began = threading.Event()

    def block() -> None:
        began.set()
        SetLastError(5)
        result = QOSNotifyFlow(w.handle, w.measured, QOSNotifyCongested, None, None, 0, None)
        results.append((result, GetLastError()))

    blocked = threading.Thread(target=block)
    blocked.start()
    began.wait()
    # A second request of the kind is refused only once the first is pending.
    overlapped = OVERLAPPED()
    while not QOSNotifyFlow(
        w.handle, w.measured, QOSNotifyCongested, None, None, 0, byref(overlapped)
    ):
        if GetLastError() != ERROR_IO_PENDING:
            break
        assert QOSCancel(w.handle, byref(overlapped))
    if end == "congested":
        congest(w)
    else:
        assert QOSCloseHandle(w.handle)
    blocked.join(LONG_MS / 1000)
    assert results == [(TRUE, 5) if end == "congested" else (FALSE, ERROR_OPERATION_ABORTED)]


class Interrupted(Exception):
    """What a signal handler of the program raises."""


def test_interrupted_call_leaves_no_request_behind(w: World) -> None:
    is_over = threading.Event()

    def interrupt(_number: int, frame: FrameType | None) -> None:
        # Only out of the wait for the answer; the next signal comes soon.
        if frame is not None and frame.f_code is threading.Condition.wait.__code__:
            raise Interrupted

    def send_signals(main: int) -> None:
        # One that arrives just before the wait begins does not end it.
        while not is_over.wait(0.01):
            signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    sender = threading.Thread(target=send_signals, args=(threading.get_ident(),))
    sender.start()
    try:
        with pytest.raises(Interrupted):
            QOSNotifyFlow(w.handle, w.measured, QOSNotifyCongested, None, None, 0, None)
    finally:
        is_over.set()
        sender.join()
        signal.signal(signal.SIGUSR1, before)
    assert w.pending(w.handle, w.measured, QOSNotifyCongested) is not None


def test_of_a_cancel_and_a_completion_exactly_one_happens(w: World) -> None:
    # "A completion that is already under way wins, and exactly one of the two happens."
    won = {TRUE: 0, FALSE: 0}
    for _ in range(300):
        relieve(w)
        overlapped: Any = w.overlapped()
        assert not QOSNotifyFlow(
            w.handle, w.measured, QOSNotifyCongested, None, None, 0, byref(overlapped)
        )
        barrier = threading.Barrier(2)

        def complete(barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            congest(w)

        other = threading.Thread(target=complete)
        other.start()
        barrier.wait()
        cancelled = QOSCancel(w.handle, byref(overlapped))
        error = GetLastError()
        assert WaitForSingleObject(overlapped.hEvent, LONG_MS) == WAIT_OBJECT_0
        other.join()
        if cancelled:
            assert outcome(w, overlapped) == (FALSE, ERROR_OPERATION_ABORTED)
        else:
            assert error == ERROR_INVALID_PARAMETER
            assert outcome(w, overlapped) == (TRUE, 0)
        won[cancelled] += 1
    assert sum(won.values()) == 300

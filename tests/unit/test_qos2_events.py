"""Events, waits, the last error and the library objects."""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections.abc import Callable, Iterator

import pytest

from openqwave.qos2 import (
    ERROR_INVALID_HANDLE,
    ERROR_INVALID_PARAMETER,
    ERROR_NOT_SUPPORTED,
    FALSE,
    HANDLE,
    INFINITE,
    TRUE,
    WAIT_FAILED,
    WAIT_OBJECT_0,
    WAIT_TIMEOUT,
    CloseHandle,
    CreateEvent,
    FormatError,
    GetLastError,
    ResetEvent,
    SetEvent,
    SetLastError,
    WaitForMultipleObjects,
    WaitForSingleObject,
    WinDLL,
    WinError,
    WSAGetLastError,
    WSASetLastError,
    event_fileno,
    get_last_error,
    qwave,
    set_last_error,
    windll,
)

# Longer than any machine needs to do what is awaited; a test that reaches it has failed.
LONG_MS = 30_000

New = Callable[..., int]

pytestmark = pytest.mark.usefixtures("fd_guard")


@pytest.fixture
def new() -> Iterator[New]:
    """Make events that are closed at the end."""
    made: list[int] = []

    def event(*, manual: bool = True, is_set: bool = False) -> int:
        made.append(CreateEvent(None, manual, is_set, None))
        return made[-1]

    yield event
    for handle in made:
        CloseHandle(handle)


def test_manual_event_stays_set_until_reset(new: New) -> None:
    event = new()
    assert WaitForSingleObject(event, 0) == WAIT_TIMEOUT
    assert SetEvent(event) == SetEvent(event) == TRUE
    assert WaitForSingleObject(event, 0) == WAIT_OBJECT_0
    assert WaitForSingleObject(event, INFINITE) == WAIT_OBJECT_0
    assert ResetEvent(event) == ResetEvent(event) == TRUE
    assert WaitForSingleObject(event, 1) == WAIT_TIMEOUT


def test_auto_reset_event_ends_one_wait(new: New) -> None:
    event = new(manual=False, is_set=True)
    SetEvent(event)
    assert WaitForSingleObject(HANDLE(event), LONG_MS) == WAIT_OBJECT_0
    assert WaitForSingleObject(event, 0) == WAIT_TIMEOUT


def test_wait_is_ended_by_another_thread(new: New) -> None:
    event = new(manual=False)
    results: list[int] = []
    waiter = threading.Thread(target=lambda: results.append(WaitForSingleObject(event, LONG_MS)))
    waiter.start()
    SetEvent(event)
    waiter.join()
    assert results == [WAIT_OBJECT_0]


def test_one_set_ends_one_of_many_waits(new: New) -> None:
    event, over = new(manual=False), new()
    results: list[int] = []

    def wait() -> None:
        results.append(WaitForMultipleObjects(2, (event, over), FALSE, LONG_MS))

    waiters = [threading.Thread(target=wait) for _ in range(4)]
    for waiter in waiters:
        waiter.start()
    for _ in range(2):
        SetEvent(event)
        # Taken by somebody, once.
        while WaitForSingleObject(event, 0) == WAIT_OBJECT_0:
            SetEvent(event)
            os.sched_yield()
    SetEvent(over)
    for waiter in waiters:
        waiter.join()
    assert len(results) == 4
    assert set(results) <= {WAIT_OBJECT_0, WAIT_OBJECT_0 + 1}


def test_first_of_several(new: New) -> None:
    events = (HANDLE * 3)(new(), new(manual=False), new(manual=False))
    assert WaitForMultipleObjects(3, events, FALSE, 0) == WAIT_TIMEOUT
    SetEvent(events[2])
    SetEvent(events[1])
    assert WaitForMultipleObjects(3, events, FALSE, LONG_MS) == WAIT_OBJECT_0 + 1
    assert WaitForMultipleObjects(3, events, FALSE, LONG_MS) == WAIT_OBJECT_0 + 2
    assert WaitForMultipleObjects(3, events, FALSE, 0) == WAIT_TIMEOUT


def test_all_are_taken_together_or_not_at_all(new: New) -> None:
    first, second = new(manual=False, is_set=True), new(manual=False)
    assert WaitForMultipleObjects(2, [first, second], TRUE, 1) == WAIT_TIMEOUT
    assert WaitForSingleObject(first, 0) == WAIT_OBJECT_0
    SetEvent(first)
    results: list[int] = []
    waiter = threading.Thread(
        target=lambda: results.append(WaitForMultipleObjects(2, [first, second], TRUE, LONG_MS))
    )
    waiter.start()
    SetEvent(second)
    waiter.join()
    assert results == [WAIT_OBJECT_0]
    assert WaitForMultipleObjects(2, [first, second], FALSE, 0) == WAIT_TIMEOUT


def test_bad_handles_and_counts(new: New) -> None:
    event = new()
    bad: list[tuple[Callable[[], int], int, int]] = [
        (lambda: WaitForSingleObject(0, 0), WAIT_FAILED, ERROR_INVALID_HANDLE),
        (lambda: WaitForSingleObject("event", 0), WAIT_FAILED, ERROR_INVALID_HANDLE),
        (lambda: WaitForSingleObject(event, "long"), WAIT_FAILED, ERROR_INVALID_PARAMETER),
        (lambda: WaitForMultipleObjects(0, [], 0, 0), WAIT_FAILED, ERROR_INVALID_PARAMETER),
        (lambda: WaitForMultipleObjects(2, [event], 0, 0), WAIT_FAILED, ERROR_INVALID_PARAMETER),
        (
            lambda: WaitForMultipleObjects(65, [event] * 65, 0, 0),
            WAIT_FAILED,
            ERROR_INVALID_PARAMETER,
        ),
        (
            lambda: WaitForMultipleObjects(2, [event, event], TRUE, 0),
            WAIT_FAILED,
            ERROR_INVALID_PARAMETER,
        ),
        (lambda: WaitForMultipleObjects(1, None, 0, 0), WAIT_FAILED, ERROR_INVALID_PARAMETER),
        (
            lambda: WaitForMultipleObjects(2, [event, 0x0BAD], 0, 0),
            WAIT_FAILED,
            ERROR_INVALID_HANDLE,
        ),
        (lambda: SetEvent(None), FALSE, ERROR_INVALID_HANDLE),
        (lambda: ResetEvent(-1), FALSE, ERROR_INVALID_HANDLE),
        (lambda: CloseHandle(event + 1_000_000), FALSE, ERROR_INVALID_HANDLE),
        (lambda: CloseHandle(1.5), FALSE, ERROR_INVALID_HANDLE),
        (lambda: CreateEvent(None, "yes", 0, None), FALSE, ERROR_INVALID_PARAMETER),
        (lambda: CreateEvent(None, 1, 0, "name"), FALSE, ERROR_NOT_SUPPORTED),
        (lambda: event_fileno(0), -1, ERROR_INVALID_HANDLE),
    ]
    for number, (call, result, error) in enumerate(bad):
        SetLastError(0)
        assert (call(), GetLastError()) == (result, error), number


def test_closed_event_is_unknown_and_its_number_never_comes_back(new: New) -> None:
    event = new()
    assert CloseHandle(event) == TRUE
    assert CloseHandle(event) == FALSE
    assert new() != event
    assert WaitForSingleObject(event, 0) == WAIT_FAILED


def test_closing_under_a_wait_does_not_disturb_it(new: New) -> None:
    event, other = new(), new()
    results: list[int] = []
    waiter = threading.Thread(
        target=lambda: results.append(WaitForMultipleObjects(2, [event, other], FALSE, LONG_MS))
    )
    waiter.start()
    CloseHandle(event)
    SetEvent(other)
    waiter.join()
    # The wait began before the close, or found the handle gone.
    assert results in ([WAIT_OBJECT_0 + 1], [WAIT_FAILED])


def test_descriptor_is_readable_while_set(new: New) -> None:
    event = new()
    poll = select.poll()
    poll.register(event_fileno(event), select.POLLIN)
    assert poll.poll(0) == []
    SetEvent(event)
    assert poll.poll(0) == poll.poll(0) == [(event_fileno(event), select.POLLIN)]


def test_asyncio_waits_on_the_descriptor(new: New) -> None:
    event = new(manual=False)

    async def main() -> int:
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[int] = loop.create_future()

        def wake() -> None:
            loop.remove_reader(event_fileno(event))
            woken.set_result(WaitForSingleObject(event, 0))

        loop.add_reader(event_fileno(event), wake)
        loop.run_in_executor(None, SetEvent, event)
        async with asyncio.timeout(LONG_MS / 1000):
            return await woken

    assert asyncio.run(main()) == WAIT_OBJECT_0
    assert WaitForSingleObject(event, 0) == WAIT_TIMEOUT


def test_last_error_is_one_slot_with_two_names_for_each_thread() -> None:
    SetLastError(5)
    assert (GetLastError(), WSAGetLastError(), get_last_error()) == (5, 5, 5)
    WSASetLastError(10_035)
    assert GetLastError() == 10_035
    assert (set_last_error(-1), GetLastError()) == (10_035, 0xFFFF_FFFF)
    seen: list[int] = []
    other = threading.Thread(target=lambda: seen.append(GetLastError()))
    other.start()
    other.join()
    assert seen == [0]


def test_errors_have_names() -> None:
    SetLastError(ERROR_NOT_SUPPORTED)
    error = WinError()
    assert (error.winerror, FormatError()) == (50, "ERROR_NOT_SUPPORTED")
    assert str(error) == "[WinError 50] ERROR_NOT_SUPPORTED"
    assert str(WinError(12_345)) == "[WinError 12345] error 12345"
    assert isinstance(error, OSError)


def test_libraries_by_name(new: New) -> None:
    library = WinDLL("C:\\Windows\\System32\\QWAVE.DLL", use_last_error=True)
    library.QOSCloseHandle.argtypes = [HANDLE]
    library.QOSCloseHandle.restype = None
    assert library.QOSCloseHandle(0) == FALSE
    assert get_last_error() == ERROR_INVALID_PARAMETER
    assert library["QOSCloseHandle"] is library.QOSCloseHandle
    assert windll.qwave is qwave
    assert windll.LoadLibrary("kernel32.dll").SetEvent(new()) == TRUE
    # So clients find out that a function or a library is missing.
    with pytest.raises(AttributeError, match="QDLHPathDiagnostics"):
        library.QDLHPathDiagnostics(0)
    with pytest.raises(FileNotFoundError, match="traffic"):
        WinDLL("traffic.dll")
    with pytest.raises(AttributeError):
        windll.traffic  # noqa: B018 - looking is what fails


def test_errcheck_has_the_last_word() -> None:
    library = WinDLL("qwave")

    def check(result: int, function: object, arguments: tuple[object, ...]) -> int:
        assert function is library.QOSCloseHandle
        if not result:
            raise WinError(get_last_error())
        return len(arguments)

    library.QOSCloseHandle.errcheck = check
    with pytest.raises(OSError, match="ERROR_INVALID_PARAMETER"):
        library.QOSCloseHandle(0)

"""Events, and waiting for them: the part of kernel32 that overlapped operations need.

An event is an eventfd(2): set is a write, reset is a read, and a wait is a poll. So the
same event can be waited on by `WaitForSingleObject` and, through `event_fileno`, by
select, epoll and asyncio: its descriptor is readable while the event is set.

The counter of an eventfd remembers how often it was written, an event does not: one read
takes it all, so any number of sets before it count as one, as they should.

An auto-reset event is taken by the wait that it ends. Taking from several events at once
(`WaitForMultipleObjects` for all of them) must be one step, so whoever takes holds a lock.

An event lives as long as somebody uses it: its handle, a wait, a pending operation. Its
descriptor is closed after the last one, because a closed number is given to the next
file opened, and a late `SetEvent` would write there.

Names are not supported: events are for one process. `lpEventAttributes` is ignored;
descriptors are not inherited.
"""

from __future__ import annotations

import itertools
import os
import select
import threading
import time
from ctypes import Array, _Pointer
from typing import Final

from openqwave.model.codes import TRUE, ErrorCode
from openqwave.qos2.arguments import BadArgument, integer
from openqwave.qos2.constants import (
    INFINITE,
    MAXIMUM_WAIT_OBJECTS,
    WAIT_FAILED,
    WAIT_OBJECT_0,
    WAIT_TIMEOUT,
)
from openqwave.qos2.lasterror import fail
from openqwave.runtime.forks import reset_in_children

_NS_PER_MS = 1_000_000

# Windows numbers handles in fours and lets programs set the two low bits (a set lowest
# bit in OVERLAPPED.hEvent keeps completions off a port), so they are not looked at.
_HANDLE_STEP = 4
_TAG_BITS = 0b11

# All handles of this package come from here, so that one kind is never taken for another.
# No number is used twice.
_numbers = itertools.count(0x100, _HANDLE_STEP)


def new_handle() -> int:
    """A handle's number: not 0, never given out before."""
    return next(_numbers)


class Event:
    """One event; made with one user, its handle."""

    __slots__ = ("_users", "is_manual", "number")

    def __init__(self, *, is_manual: bool, is_set: bool) -> None:
        self.number = os.eventfd(int(is_set), os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.is_manual = is_manual
        self._users = 1

    def hold(self) -> Event:
        """Keep it alive until `release`."""
        with _lock:
            self._users += 1
        return self

    def release(self) -> None:
        """End a use; the last one closes the descriptor."""
        with _lock:
            self._users -= 1
            if self._users == 0:
                os.close(self.number)

    def set(self) -> None:
        """End waits, now or later."""
        try:
            os.eventfd_write(self.number, 1)
        except BlockingIOError:
            # The counter is full; then it is set already.
            return

    def reset(self) -> None:
        """Make waits wait."""
        try:
            os.eventfd_read(self.number)
        except BlockingIOError:
            # It was not set.
            return

    def is_set(self) -> bool:
        """Would a wait end at once?"""
        poll = select.poll()
        poll.register(self.number, select.POLLIN)
        return bool(poll.poll(0))


_lock = threading.RLock()
_events: Final[dict[int, Event]] = {}


def _reset() -> None:
    """In a forked child: the descriptors are shared with the parent and stay usable."""
    global _lock  # noqa: PLW0603 - a thread that is not here may hold the old one
    _lock = threading.RLock()


def held_event(handle: object) -> Event:
    """The event of a handle, to be released after use.

    Raises:
        BadArgument: ERROR_INVALID_HANDLE: there is no such event.
    """
    try:
        number = integer(handle) & ~_TAG_BITS
    except BadArgument:
        raise BadArgument(ErrorCode.ERROR_INVALID_HANDLE) from None
    with _lock:
        event = _events.get(number)
        if event is None:
            raise BadArgument(ErrorCode.ERROR_INVALID_HANDLE)
        return event.hold()


def CreateEventW(
    lpEventAttributes: object,
    bManualReset: object,
    bInitialState: object,
    lpName: object,
) -> int:
    """Make an event.

    Args:
        lpEventAttributes: Ignored.
        bManualReset: Whether it stays set until reset; otherwise the wait that it ends
            resets it.
        bInitialState: Whether it begins set.
        lpName: None; named events are not supported (ERROR_NOT_SUPPORTED).

    Returns:
        Its handle, or 0.
    """
    del lpEventAttributes
    if lpName is not None:
        return fail(ErrorCode.ERROR_NOT_SUPPORTED)
    try:
        event = Event(is_manual=bool(integer(bManualReset)), is_set=bool(integer(bInitialState)))
    except BadArgument as bad:
        return fail(bad.code)
    except OSError:
        # The process or the system is out of descriptors.
        return fail(ErrorCode.ERROR_NO_SYSTEM_RESOURCES)
    reset_in_children(_reset)
    handle = new_handle()
    _events[handle] = event
    return handle


CreateEvent = CreateEventA = CreateEventW


def CloseHandle(hObject: object) -> int:
    """Give up an event's handle; waits and pending operations that use it go on.

    The handles of QOSCreateHandle are closed by QOSCloseHandle, not here.
    """
    try:
        number = integer(hObject)
    except BadArgument:
        return fail(ErrorCode.ERROR_INVALID_HANDLE)
    event = _events.pop(number, None)
    if event is None:
        return fail(ErrorCode.ERROR_INVALID_HANDLE)
    event.release()
    return TRUE


def SetEvent(hEvent: object) -> int:
    """Set an event; setting it twice is setting it once."""
    try:
        event = held_event(hEvent)
    except BadArgument as bad:
        return fail(bad.code)
    event.set()
    event.release()
    return TRUE


def ResetEvent(hEvent: object) -> int:
    """Make an event unset."""
    try:
        event = held_event(hEvent)
    except BadArgument as bad:
        return fail(bad.code)
    event.reset()
    event.release()
    return TRUE


def event_fileno(hEvent: object) -> int:
    """The descriptor of an event: readable while the event is set.

    It belongs to the event: wait on it, and do not read or close it. Whoever was woken by
    an auto-reset event takes it with ``WaitForSingleObject(hEvent, 0)``.

    Returns:
        The file number, or -1 with ERROR_INVALID_HANDLE.
    """
    try:
        event = held_event(hEvent)
    except BadArgument as bad:
        fail(bad.code)
        return -1
    event.release()
    return event.number


def WaitForSingleObject(hHandle: object, dwMilliseconds: object) -> int:
    """Wait until an event is set.

    Args:
        hHandle: The event.
        dwMilliseconds: How long; INFINITE for ever.

    Returns:
        WAIT_OBJECT_0, WAIT_TIMEOUT, or WAIT_FAILED with a last error.
    """
    try:
        return _wait([held_event(hHandle)], dwMilliseconds, needs_all=False)
    except BadArgument as bad:
        fail(bad.code)
        return WAIT_FAILED


def WaitForMultipleObjects(
    nCount: object, lpHandles: object, bWaitAll: object, dwMilliseconds: object
) -> int:
    """Wait until one event of several, or all of them, are set.

    Args:
        nCount: How many, 1 to 64.
        lpHandles: An array of handles, a pointer to one, or a sequence.
        bWaitAll: Wait for all; they are taken together or not at all.
        dwMilliseconds: How long; INFINITE for ever.

    Returns:
        WAIT_OBJECT_0 plus the index of the first that was set, WAIT_TIMEOUT, or
        WAIT_FAILED with a last error.
    """
    held: list[Event] = []
    try:
        count = integer(nCount)
        if not 1 <= count <= MAXIMUM_WAIT_OBJECTS:
            raise BadArgument
        handles = _handles(lpHandles, count)
        needs_all = bool(integer(bWaitAll))
        if needs_all and len(set(handles)) < count:
            raise BadArgument
        for handle in handles:
            held.append(held_event(handle))  # noqa: PERF401 - those before a bad one are let go of
    except BadArgument as bad:
        for event in held:
            event.release()
        fail(bad.code)
        return WAIT_FAILED
    try:
        return _wait(held, dwMilliseconds, needs_all=needs_all)
    except BadArgument as bad:
        fail(bad.code)
        return WAIT_FAILED


def _handles(argument: object, count: int) -> list[int]:
    if isinstance(argument, _Pointer) and not bool(argument):
        raise BadArgument
    if not isinstance(argument, (Array, _Pointer, list, tuple)):
        raise BadArgument
    try:
        return [integer(argument[index]) for index in range(count)]
    except IndexError:
        raise BadArgument from None


def _wait(events: list[Event], dwMilliseconds: object, *, needs_all: bool) -> int:
    """Wait for held events, and release them."""
    try:
        milliseconds = integer(dwMilliseconds) & INFINITE
        end_ns = time.monotonic_ns() + milliseconds * _NS_PER_MS
        while True:
            taken = _take_all(events) if needs_all else _take_first(events)
            if taken is not None:
                return WAIT_OBJECT_0 + taken
            # A set event would end the poll at once while others are waited for.
            awaited = [event for event in events if not (needs_all and event.is_set())]
            if not awaited:
                continue
            poll = select.poll()
            for event in awaited:
                poll.register(event.number, select.POLLIN)
            if milliseconds == INFINITE:
                poll.poll()
                continue
            left_ns = end_ns - time.monotonic_ns()
            if left_ns <= 0:
                return WAIT_TIMEOUT
            poll.poll(-(-left_ns // _NS_PER_MS))
    finally:
        for event in events:
            event.release()


def _take_first(events: list[Event]) -> int | None:
    with _lock:
        for index, event in enumerate(events):
            if event.is_set():
                _take(event)
                return index
    return None


def _take_all(events: list[Event]) -> int | None:
    with _lock:
        if all(event.is_set() for event in events):
            for event in events:
                _take(event)
            return 0
    return None


def _take(event: Event) -> None:
    if not event.is_manual:
        event.reset()


__all__ = [
    "CloseHandle",
    "CreateEvent",
    "CreateEventA",
    "CreateEventW",
    "ResetEvent",
    "SetEvent",
    "WaitForMultipleObjects",
    "WaitForSingleObject",
    "event_fileno",
]

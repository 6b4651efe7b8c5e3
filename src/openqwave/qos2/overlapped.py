"""Overlapped operations: begun by one call, completed later, once.

An operation that cannot be answered at once stays with the subsystem. Until it completes,
its OVERLAPPED reads STATUS_PENDING, and the OVERLAPPED and the buffers of the call are
kept referenced here, so that a program may drop its own references as long as the memory
is ctypes'. A completion writes the buffers, then ``InternalHigh`` (bytes) and ``Internal``
(the Win32 error), and sets the event last: whoever is woken finds everything in place and
may use the OVERLAPPED for the next operation.

One OVERLAPPED holds one operation at a time. Using it for a second one while the first is
pending would leave it open which of them `QOSCancel` means, and is refused with
ERROR_INVALID_PARAMETER. An ``hEvent`` that is no event is refused with
ERROR_INVALID_HANDLE; 0 means that nobody wants to be woken.

A call that fails at once leaves the OVERLAPPED and its event as they were.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from openqwave.model.codes import FALSE, TRUE, ErrorCode
from openqwave.model.errors import Refusal
from openqwave.qos2.abi import OVERLAPPED
from openqwave.qos2.arguments import BadArgument, address_of, integer, required
from openqwave.qos2.constants import STATUS_PENDING
from openqwave.qos2.events import held_event
from openqwave.qos2.lasterror import fail
from openqwave.qos2.troubles import named
from openqwave.runtime.pending import Pending

if TYPE_CHECKING:
    from openqwave.qos2.events import Event
    from openqwave.qos2.handles import OpenHandle
    from openqwave.qos2.troubles import Names
    from openqwave.subsystem.effects import Value

_OVERLAPPED_BYTES = ctypes.sizeof(OVERLAPPED)
_DWORD_BYTES = 4

# Writes a result into the program's buffers and says how many bytes it was.
Deliver = Callable[[Any], int]


def _no_bytes(value: object) -> int:
    del value
    return 0


class Operation:
    """One call's OVERLAPPED, from the call to the completion.

    Attributes:
        opened: The handle that it is pending on; None before.
        request_id: What that calls the operation.
        is_done: Set when it has completed.
    """

    __slots__ = (
        "_address",
        "_deliver",
        "_event",
        "_fields",
        "_kept",
        "_names",
        "is_done",
        "opened",
        "request_id",
    )

    def __init__(self, address: int, deliver: Deliver, kept: object, names: Names) -> None:
        """Take hold of an OVERLAPPED.

        Raises:
            BadArgument: It holds a pending operation, or its event is none.
        """
        self.opened: OpenHandle | None = None
        self.request_id = 0
        self.is_done = threading.Event()
        self._address = address
        self._deliver = deliver
        self._kept = kept
        self._names = names
        self._fields: Any = OVERLAPPED.from_address(address)
        if address in _pending:
            raise BadArgument
        handle = self._fields.hEvent
        self._event: Event | None = held_event(handle) if handle else None

    def let_go(self) -> None:
        """End without a trace: the call failed at once."""
        if self._event is not None:
            self._event.release()

    def begin(self, opened: OpenHandle, pending: Pending) -> None:
        """Leave it with the subsystem; it may complete before this returns."""
        self.opened = opened
        self.request_id = pending.request_id
        with _lock:
            self._fields.InternalHigh = 0
            self._fields.Internal = STATUS_PENDING
            if self._event is not None:
                self._event.reset()
            _pending[self._address] = self
        pending.future.add_done_callback(self._receive)

    def complete(self, result: Value | Refusal) -> None:
        """Write the result where the program looks for it, then wake it."""
        with _lock:
            if self.request_id:
                del _pending[self._address]
            if isinstance(result, Refusal):
                count, error = 0, named(result.code, self._names)
            else:
                count, error = self._deliver(result), 0
            self._fields.InternalHigh = count
            self._fields.Internal = error
        self._kept = None
        self.is_done.set()
        if self._event is not None:
            self._event.set()
            self._event.release()

    def _receive(self, future: Future[Value | Refusal]) -> None:
        self.complete(future.result())


_lock = threading.RLock()
_pending: Final[dict[int, Operation]] = {}


def reset_after_fork() -> None:
    """In a forked child: what is pending is the parent's."""
    global _lock  # noqa: PLW0603 - a thread that is not here may hold the old one
    _lock = threading.RLock()
    _pending.clear()


def operation_for(
    Overlapped: object,
    names: Names,
    deliver: Deliver = _no_bytes,
    kept: object = None,
) -> Operation | None:
    """The operation for a call's OVERLAPPED argument; None for null, where the call blocks.

    Args:
        Overlapped: The argument.
        names: What the function calls a path's troubles.
        deliver: Writes the result into the program's buffers.
        kept: What must stay referenced until the completion.

    Raises:
        BadArgument: It is no OVERLAPPED, holds a pending operation, or has no event.
    """
    if Overlapped is None:
        return None
    address = address_of(Overlapped, _OVERLAPPED_BYTES)
    return Operation(address, deliver, (Overlapped, kept), names) if address else None


def answer(
    opened: OpenHandle,
    operation: Operation | None,
    result: Value | Refusal | Pending,
    names: Names,
    deliver: Deliver = _no_bytes,
) -> int:
    """What the function returns for a result; blocks for one that comes later.

    Args:
        opened: The handle of the call.
        operation: For the call's OVERLAPPED, if it has one.
        result: What the subsystem answered.
        names: What the function calls a path's troubles.
        deliver: Writes the result into the program's buffers.
    """
    if isinstance(result, Pending):
        if operation is not None:
            operation.begin(opened, result)
            return fail(ErrorCode.ERROR_IO_PENDING)
        result = opened.session.finish(result)
    if isinstance(result, Refusal):
        if operation is not None:
            operation.let_go()
        return fail(named(result.code, names))
    if operation is None:
        deliver(result)
    else:
        operation.complete(result)
    return TRUE


def pending_request(opened: OpenHandle, Overlapped: object) -> int:
    """The request of a handle that is pending in an OVERLAPPED.

    Raises:
        BadArgument: There is none, or it is another handle's.
    """
    address = required(Overlapped, _OVERLAPPED_BYTES)
    with _lock:
        operation = _pending.get(address)
    if operation is None or operation.opened is not opened:
        raise BadArgument
    return operation.request_id


def HasOverlappedIoCompleted(lpOverlapped: object) -> int:
    """Is the operation of an OVERLAPPED over?"""
    try:
        address = required(lpOverlapped, _OVERLAPPED_BYTES)
    except BadArgument as bad:
        return fail(bad.code)
    fields: Any = OVERLAPPED.from_address(address)
    return FALSE if fields.Internal == STATUS_PENDING else TRUE


def GetOverlappedResult(
    hFile: object, lpOverlapped: object, lpNumberOfBytesTransferred: object, bWait: object
) -> int:
    """How an overlapped operation ended.

    Args:
        hFile: The handle that the operation was begun on; not looked at, because results
            can be read after the handle is closed.
        lpOverlapped: The operation.
        lpNumberOfBytesTransferred: A DWORD for the bytes, or None.
        bWait: Wait for its end; else one that is pending is ERROR_IO_INCOMPLETE. A wait
            takes an auto-reset event with it.

    Returns:
        TRUE when the operation succeeded. FALSE when it failed, with its error as the last
        error.
    """
    del hFile
    try:
        address = required(lpOverlapped, _OVERLAPPED_BYTES)
        count_address = address_of(lpNumberOfBytesTransferred, _DWORD_BYTES)
        must_wait = bool(integer(bWait))
        fields: Any = OVERLAPPED.from_address(address)
        with _lock:
            operation = _pending.get(address)
            is_pending = fields.Internal == STATUS_PENDING
        if is_pending:
            if not must_wait:
                return fail(ErrorCode.ERROR_IO_INCOMPLETE)
            if operation is None:
                # The program wrote the mark itself: nothing will ever take it away.
                return fail(ErrorCode.ERROR_INVALID_PARAMETER)
            operation.is_done.wait()
            _take_event(fields.hEvent)
    except BadArgument as bad:
        return fail(bad.code)
    if count_address:
        ctypes.c_uint32.from_address(count_address).value = fields.InternalHigh
    return fail(fields.Internal) if fields.Internal else TRUE


def _take_event(handle: int | None) -> None:
    if handle:
        event = held_event(handle)
        if not event.is_manual:
            event.reset()
        event.release()


__all__ = ["GetOverlappedResult", "HasOverlappedIoCompleted"]

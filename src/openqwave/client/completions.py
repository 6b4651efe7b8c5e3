"""Operations that are begun without waiting, and a file number that tells of their ends.

For programs with an event loop of their own (select, epoll, GLib): the number becomes readable
when an operation has completed, and `Completions.take` gives those that have. An operation is a
future. The list holds it weakly: whoever wants to know which one has completed keeps it anyway,
and who looks at the futures alone does not pay for a list that nobody takes.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import weakref
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any

from openqwave.drivers.readiness import Wake
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import InvalidHandle, Refusal, error_of
from openqwave.runtime.pending import Pending

if TYPE_CHECKING:
    from collections.abc import Callable

    from openqwave.client.session import AnySession


class Operation(Future[None]):
    """One operation; cancelling it withdraws it."""

    def __init__(self, session: AnySession, completions: Completions) -> None:
        super().__init__()
        self._session = session
        self._request_id = 0
        self._is_unwanted = False
        self._notifying = threading.Lock()
        self._is_notified = False
        self.add_done_callback(completions.add)

    def begin(self, request: Callable[[], Refusal | Pending | None]) -> None:
        """Make the request; it may complete at once."""
        answer: Refusal | Pending | None = None
        try:
            answer = request()
            if isinstance(answer, Pending):
                self._request_id = answer.request_id
                answer.future.add_done_callback(self._receive)
                return
        except BaseException:
            if isinstance(answer, Pending):
                self._session.cancel(answer.request_id)
            raise
        self._end(answer)

    def cancel(self) -> bool:
        """Withdraw the operation.

        Returns:
            Whether it has ended by that; a completion that is under way already wins.
        """
        if not self.done():
            self._is_unwanted = True
            if self._session.cancel(self._request_id) is None:
                self._withdraw()
        return self.cancelled()

    def _receive(self, future: Future[Any]) -> None:
        self._end(future.result())

    def _end(self, result: Refusal | None) -> None:
        is_abort = isinstance(result, Refusal) and result.code is ErrorCode.ERROR_OPERATION_ABORTED
        if is_abort and self._is_unwanted:
            self._withdraw()
            return
        with contextlib.suppress(InvalidStateError):
            if isinstance(result, Refusal):
                self.set_exception(error_of(result))
            else:
                self.set_result(None)

    def _withdraw(self) -> None:
        if super().cancel():
            with self._notifying:
                if not self._is_notified:
                    self._is_notified = True
                    # Else those who wait for several futures are not told.
                    self.set_running_or_notify_cancel()


class Completions:
    """What has completed of a handle's operations."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._completed: weakref.WeakValueDictionary[int, Future[None]]
        self._completed = weakref.WeakValueDictionary()
        self._wake: Wake | None = None
        self._release: Callable[[], object] | None = None
        self._is_closed = False

    def begin(
        self, session: AnySession, request: Callable[[], Refusal | Pending | None]
    ) -> Future[None]:
        """Begin an operation.

        Args:
            session: The handle's calls.
            request: The one that begins it.
        """
        operation = Operation(session, self)
        operation.begin(request)
        return operation

    def add(self, operation: Future[None]) -> None:
        """An operation has completed."""
        with self._lock:
            self._completed[next(self._numbers)] = operation
            if self._wake is not None:
                self._wake.send()

    def take(self) -> list[Future[None]]:
        """The operations that have completed since the last time, in that order."""
        with self._lock:
            if self._wake is not None:
                self._wake.take()
            taken = list(self._completed.values())
            self._completed.clear()
        return taken

    def fileno(self) -> int:
        """A file number that is readable while there is something to take.

        Raises:
            InvalidHandle: The handle is closed.
        """
        with self._lock:
            if self._is_closed:
                raise InvalidHandle("the handle is closed")
            if self._wake is None:
                self._wake = Wake()
                self._release = weakref.finalize(self, self._wake.close)
                if self._completed:
                    self._wake.send()
            return self._wake.fd

    def close(self) -> None:
        """Close the file number; what has completed can still be taken."""
        with self._lock:
            self._is_closed = True
            self._wake = None
            if self._release is not None:
                self._release()

"""One connection to the service, shared by the threads of a program.

**Who reads.** The thread that asks sends its request and reads the socket itself until its answer
is there: to wake another thread for that would cost more than the whole round trip. While one
reads, others that ask wait, and are given their answers, or the reading when it is free. Only
while something is to come that no call waits for (see `underway`) a thread of the connection's
own reads when nobody else does; with the last of it, it ends. Results that nobody waits for here
are handed over (see `deliveries`) after who read them has let go of the reading.

**The end** of the connection, whatever ended it, loses the handle: calls are refused with
ERROR_DEVICE_REINITIALIZATION_NEEDED from then on, and what is pending is aborted. A service that
does not answer in time counts as gone.

A forked child's copy of a connection is closed there, so that the parent's death is its end.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
import threading
import time
import weakref
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, TypeVar

from openqwave.client.deliveries import Deliveries
from openqwave.client.packets import READ_BYTES, is_readable, send_packet, set_patience
from openqwave.client.underway import NOTHING, Slot, UnderWay
from openqwave.ipc import messages as ms
from openqwave.ipc.values import nothing_of
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import QosError, Refusal
from openqwave.runtime.forks import fork_count, reset_in_children, watch_forks
from openqwave.runtime.steps import WRONG_PROCESS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from openqwave.client.dialing import Dialled
    from openqwave.runtime.pending import Pending

_T = TypeVar("_T")

# Every request is answered, refused or postponed in its turn, which takes milliseconds on a host
# that is busy; what takes longer than this never comes.
ANSWER_PATIENCE_S: Final = 10.0

# How much to receive, and how often: once.
_ONE_PACKET: Final = (READ_BYTES,)

# The other end is closed. What it said last can still be read.
_CLOSED_THERE: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN})
# Nothing was sent, and that is not the service's fault.
_EXHAUSTED: Final = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})

_CLOSED: Final = Refusal(ErrorCode.ERROR_INVALID_HANDLE, "the handle is closed")
# What is no matter of a handle that is being closed.
_LOSSES: Final = frozenset(
    {ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED, ErrorCode.ERROR_INVALID_HANDLE}
)


class Connection:
    """See the module's text.

    Attributes:
        welcome: What the service said at the beginning.
        next_id: Makes numbers for requests.
    """

    def __init__(self, dialled: Dialled, patience_s: float = ANSWER_PATIENCE_S) -> None:
        """Take over a connection.

        Args:
            dialled: It.
            patience_s: How long an answer may take.
        """
        self.welcome = dialled.welcome
        self.next_id = itertools.count(1).__next__
        self._forks = watch_forks()
        self._path = dialled.path
        self._sock = dialled.sock
        self._end = dialled.end
        self._patience_s = patience_s
        # Held while a request gets its place and is sent, so that they go out in order.
        self._sending = threading.Lock()
        # Guards all that follows; never held while waiting for anything.
        self._lock = threading.Lock()
        self._deliveries = Deliveries()
        self._under_way = UnderWay(
            dialled.end, self._deliveries, attend=self._attend, withdraw=self._withdraw
        )
        # A slot, the connection for its own thread, or None.
        self._reader: object = None
        self._background: threading.Thread | None = None
        self._gate: SimpleQueue[None] = SimpleQueue()
        self._is_closed = False
        set_patience(self._sock, patience_s)
        reset_in_children(_close_copies)
        _live.add(self)

    def refusal(self) -> Refusal | None:
        """Why nothing can be asked any more, as far as is known here."""
        return WRONG_PROCESS if self._forks != fork_count() else self._under_way.lost

    def ask(
        self,
        message: ms.Request,
        convert: Callable[[bytes], _T],
        descriptors: Sequence[int] = (),
        undo: Callable[[_T], object] | None = None,
    ) -> _T | Refusal | Pending:
        """Ask the service for something.

        Args:
            message: The request, with an id from `next_id`.
            convert: From the answer's JSON to its value; raises ProtocolError.
            descriptors: What goes along.
            undo: Called with a value that nobody gets, because the call was interrupted.

        Returns:
            The value, a refusal, or a pending request.
        """
        slot = Slot(message.id, convert, undo)
        try:
            refusal = self._send(slot, message, descriptors)
            if refusal is not None:
                return refusal
            self._await(slot)
            self._deliveries.settle()
            return slot.answer
        except BaseException:
            self._leave(slot)
            raise

    def abort(self, request_id: int) -> None:
        """A pending request was cancelled: its end need not be waited for."""
        with self._lock:
            self._under_way.abort(request_id)
        self._deliveries.settle()

    def close(self) -> Refusal | None:
        """End the handle and wait until its flows have ended; one that was lost is let go of."""
        if self._forks != fork_count():
            return WRONG_PROCESS
        was_closed = self._is_closed
        answer = _CLOSED if was_closed else self.ask(ms.Close(self.next_id()), nothing_of)
        # What follows may be done twice, where it was interrupted.
        with self._sending, self._lock:
            self._finish(_CLOSED)
            self._under_way.lost = _CLOSED
            self._is_closed = True
            self._hand_on(None)
        self._deliveries.settle()
        if isinstance(answer, Refusal) and (was_closed or answer.code not in _LOSSES):
            return answer
        return None

    def close_copy(self) -> None:
        """In a forked child: the connection is the parent's."""
        self._sock.close()

    # -- out ------------------------------------------------------------------------------

    def _send(
        self, slot: Slot[Any], message: ms.Request, descriptors: Sequence[int]
    ) -> Refusal | None:
        """Send a request; where nobody reads, the caller is to."""
        if self._forks != fork_count():
            # Before the locks: another thread may have held them when the process forked.
            return WRONG_PROCESS
        is_close = type(message) is ms.Close
        under_way = self._under_way
        with self._sending:
            with self._lock:
                if under_way.is_over or (under_way.lost is not None and not is_close):
                    return under_way.lost
                try:
                    data = self._end.request(message)
                except QosError as error:
                    if not is_close:
                        return Refusal(error.code, error.detail)
                    # It was asked for before, and interrupted. No words are needed for it.
                    data = b""
                under_way.add(slot)
                if self._reader is None:
                    self._reader = slot
            refusal = self._transmit(data, descriptors)
            slot.is_sent = True
        if refusal is not None:
            with self._lock:
                under_way.drop(slot)
                self._stop_reading(slot)
        return refusal

    def _transmit(self, data: bytes, descriptors: Sequence[int]) -> Refusal | None:
        """Hand one packet to the kernel; why not, if it does not take it."""
        try:
            if not data:
                self._sock.shutdown(socket.SHUT_WR)
            else:
                send_packet(self._sock, data, descriptors)
        except OSError as error:
            if error.errno in _CLOSED_THERE:
                return None
            if error.errno in _EXHAUSTED:
                why = f"the service cannot be asked: {error.strerror}"
                return Refusal(ErrorCode.ERROR_NO_SYSTEM_RESOURCES, why)
            with self._lock:
                self._break_off(self._hang() if error.errno == errno.EAGAIN else str(error))
                return self._under_way.lost
        return None

    # -- in -------------------------------------------------------------------------------

    def _await(self, slot: Slot[Any]) -> None:
        """Return when a request has its answer; reads, if nobody else does."""
        until_s = time.monotonic() + self._patience_s
        patience_s: float | None = None
        while slot.answer is NOTHING:
            with self._lock:
                is_reader = self._reader is None or self._reader is slot
                if is_reader:
                    self._reader, slot.gate = slot, None
                elif slot.gate is None:
                    slot.gate = SimpleQueue()
                if slot.answer is not NOTHING:
                    break
            if is_reader:
                self._read(slot, patience_s)
                # Not waiting for other threads': they may wait for this one to read.
                self._deliveries.hand_over()
            elif slot.gate is not None:
                # Whoever reads lets others read when it has its answer, or no patience any more.
                slot.gate.get()
            patience_s = max(0.0, until_s - time.monotonic())
        if self._reader is slot:
            with self._lock:
                self._stop_reading(slot)

    def _read(self, reader: object, patience_s: float | None) -> None:
        """Take one packet in and do what it says; then another thread may read.

        Args:
            reader: Who reads: a slot, or the connection for its own thread.
            patience_s: How long to wait; None for as long as the socket itself does.
        """
        trouble = ""
        try:
            if patience_s is None or is_readable(self._sock, patience_s):
                # In one step of the interpreter: Ctrl-C comes before it, or after.
                self._under_way.inbox.extend(map(self._sock.recv, _ONE_PACKET))
            else:
                trouble = self._hang()
        except BlockingIOError:
            trouble = self._hang()
        except ConnectionResetError:
            # It closed with requests unread; what it said before that comes now.
            return
        except OSError as error:
            trouble = str(error)
        with self._lock:
            self._take_in()
            is_done = not isinstance(reader, Slot) or reader.answer is not NOTHING
            if trouble and not is_done:
                self._break_off(trouble)
            if is_done or self._deliveries or self._under_way.is_over:
                self._stop_reading(reader)

    def _hang(self) -> str:
        return f"the service has not answered for {self._patience_s:g} s"

    # -- with the lock ----------------------------------------------------------------------

    def _take_in(self) -> None:
        why = self._under_way.take_in()
        if why:
            self._break_off(why)

    def _break_off(self, why: str) -> None:
        detail = f"{why} ({self._path}); close the handle and open a new one"
        self._finish(Refusal(ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED, detail))

    def _finish(self, refusal: Refusal) -> None:
        """The connection is of no use any more."""
        if not self._under_way.is_over:
            with contextlib.suppress(OSError):
                # Wakes whoever reads. The service, if it is there after all, ends the handle.
                self._sock.shutdown(socket.SHUT_RDWR)
            self._under_way.end(refusal)
            self._wake_background()

    def _stop_reading(self, reader: object) -> None:
        if self._reader is reader:
            self._reader = None
        self._hand_on(reader)

    def _hand_on(self, leaving: object) -> None:
        """Have another thread read, if nobody does."""
        if self._reader is not None:
            return
        if self._is_closed:
            self._sock.close()
            return
        waiting = [slot for slot in self._under_way.slots.values() if slot is not leaving]
        for slot in waiting:
            if slot.gate is not None:
                slot.wake()
                return
        # Who has asked and does not wait yet comes to it by itself.
        if not waiting and leaving is not self:
            self._wake_background()

    # -- what no call waits for ---------------------------------------------------------------

    def _leave(self, slot: Slot[Any]) -> None:
        """After Ctrl-C in the middle of a call."""
        with self._lock:
            self._take_in()
            if self._under_way.leave(slot):
                self._deliveries.add(self._overtake)
            self._stop_reading(slot)
            # Where there is no thread, whoever asks next comes to it.
            with contextlib.suppress(RuntimeError):
                if self._under_way.expects_more:
                    self._attend()
                if self._deliveries:
                    # Not by the connection's own, which may be reading.
                    _thread(self._deliveries.hand_over).start()

    def _withdraw(self, request_id: int) -> None:
        """Cancel a pending request that nobody knows of."""
        self.ask(ms.Cancel(self.next_id(), request_id), nothing_of)

    def _overtake(self) -> None:
        """Ask something whose answer comes after those to all earlier requests."""
        self.ask(ms.Check(self.next_id()), nothing_of)

    def _attend(self) -> None:
        """Have somebody read while no call does; with the lock.

        Raises:
            RuntimeError: There is no thread to be had.
        """
        self._wake_background()
        if self._background is not None:
            return
        thread = self._background = _thread(self._run)
        try:
            # Ctrl-C ends the wait for the thread's first word, and not the thread.
            thread.start()
        except Exception:
            self._background = None
            raise

    def _wake_background(self) -> None:
        if self._background is not None and self._gate.empty():
            self._gate.put(None)

    def _run(self) -> None:
        """The connection's own thread."""
        try:
            while True:
                self._deliveries.hand_over()
                with self._lock:
                    if not self._under_way.expects_more:
                        self._background = None
                        return
                    # Calls that wait come first: they have less patience.
                    calls = self._under_way.slots.values()
                    is_reader = self._reader in (None, self) and not any(c.gate for c in calls)
                    if is_reader:
                        self._reader = self
                if is_reader:
                    self._read(self, None)
                else:
                    self._gate.get()
        finally:
            with self._lock:
                if self._background is threading.current_thread():
                    self._background = None
                self._stop_reading(self)


def _thread(work: Callable[[], None]) -> threading.Thread:
    return threading.Thread(target=work, name="openqwave-answers", daemon=True)


_live: Final[weakref.WeakSet[Connection]] = weakref.WeakSet()


def _close_copies() -> None:
    for connection in list(_live):
        connection.close_copy()
    _live.clear()

"""Requests that are under way, and what becomes of their answers.

A request is first waited for by the call that made it; the service answers, refuses or postpones
it at once, in the order of the requests. One that was postponed is pending, and its result comes
whenever it comes. A call that was interrupted leaves its request as an orphan: the answer is read
and, where it brought something that nobody knows of (a new flow, a pending request), that is
ended again. An orphan that the answer to a later request overtakes was never sent.

Ctrl-C can come between any two steps here as well. So a packet is the first of the inbox until
everything that it says was done, and doing that twice is the same as doing it once.

Nothing here locks; `openqwave.client.connection` does.
"""

from __future__ import annotations

import contextlib
from collections import deque
from concurrent.futures import InvalidStateError
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from openqwave.ipc import messages as ms
from openqwave.ipc.asking import (
    Answered,
    Farewelled,
    HandleLost,
    Postponed,
    Refusing,
    refusal_told,
)
from openqwave.ipc.errors import ProtocolError
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.runtime.pending import Pending
from openqwave.subsystem.notices import ABORTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from openqwave.client.deliveries import Deliveries
    from openqwave.ipc.asking import ClientEnd, Event
    from openqwave.runtime.pending import Result

_T = TypeVar("_T")

# No answer yet; None is one.
NOTHING: Final[Any] = object()


class Slot(Generic[_T]):
    """One request whose answer a call waits for, or waited for when it was interrupted.

    Attributes:
        id: The request's.
        convert: From the answer's JSON to its value; raises ProtocolError.
        undo: What to do about a value that nobody gets.
        answer: What the call returns; `NOTHING` so far.
        place: Among all requests of the connection, counted from 1.
        is_sent: It has certainly been sent.
        gate: Woken when there is something for the call to do; None while it does not wait.
    """

    __slots__ = ("answer", "convert", "gate", "id", "is_sent", "place", "undo")

    def __init__(
        self,
        request_id: int,
        convert: Callable[[bytes], _T],
        undo: Callable[[_T], object] | None = None,
    ) -> None:
        self.id = request_id
        self.convert = convert
        self.undo = undo
        self.answer: _T | Refusal | Pending = NOTHING
        self.place = 0
        self.is_sent = False
        self.gate: SimpleQueue[None] | None = None

    def wake(self) -> None:
        """There is something to do."""
        if self.gate is not None:
            self.gate.put(None)


class UnderWay:
    """See the module's text.

    Attributes:
        inbox: Packets that were received; the first is being taken in.
        lost: Why the handle is of no use any more; None while it is.
        is_over: The connection is of no use any more, either.
        slots: By request, what calls wait for.
        orphans: By request, what nobody waits for any more.
    """

    def __init__(
        self,
        end: ClientEnd,
        deliveries: Deliveries,
        *,
        attend: Callable[[], None],
        withdraw: Callable[[int], object],
    ) -> None:
        """Begin without requests.

        Args:
            end: The connection's state.
            deliveries: Hands over what nobody waits for here.
            attend: See to it that somebody reads what comes later; raises RuntimeError where
                there is no thread to be had.
            withdraw: Cancels a pending request.
        """
        self.inbox: deque[bytes] = deque()
        self.lost: Refusal | None = None
        self.is_over = False
        self.slots: dict[int, Slot[Any]] = {}
        self.orphans: dict[int, Slot[Any]] = {}
        self._end = end
        self._deliveries = deliveries
        self._attend = attend
        self._withdraw = withdraw
        self._pending: dict[int, tuple[Pending, Callable[[bytes], Any]]] = {}
        self._places = 0
        # The packet that was last begun to be taken in.
        self._begun = b""

    @property
    def expects_more(self) -> bool:
        """Does something come that no call waits for?"""
        return not self.is_over and bool(self._pending or self.orphans)

    def add(self, slot: Slot[Any]) -> None:
        """A call is about to make a request."""
        self._places += 1
        slot.place = self._places
        self.slots[slot.id] = slot

    def drop(self, slot: Slot[Any]) -> None:
        """It could not make it."""
        self.slots.pop(slot.id, None)

    def leave(self, slot: Slot[Any]) -> bool:
        """The call was interrupted; may its request not have been sent?"""
        answer = slot.answer
        if answer is NOTHING:
            if slot.id not in self.slots:
                return False
            self.orphans[slot.id] = slot
            self.slots.pop(slot.id, None)
            return not slot.is_sent
        if isinstance(answer, Pending):
            self._pending.pop(slot.id, None)
            self._deliveries.add(partial(self._withdraw, slot.id))
        elif not isinstance(answer, Refusal):
            self._undo(slot, answer)
        return False

    # -- packets ----------------------------------------------------------------------------

    def take_in(self) -> str:
        """Do what the packets in the inbox say.

        Returns:
            Why the connection has ended; empty if it has not.
        """
        while self.inbox and not self.is_over:
            data = self.inbox[0]
            if not data:
                return "the service ended the connection"
            try:
                events = self._events_in(data)
                if events and isinstance(events[-1], Farewelled):
                    # It refuses what is open as well, each by itself; one word for all will do.
                    return f"the service said: {events[-1].refusal.detail}"
                for event in events:
                    self._apply(event)
            except ProtocolError as error:
                return f"the service broke the control protocol: {error.reason}"
            del self.inbox[0]
        return ""

    def _events_in(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        if data is self._begun:
            # It was interrupted when it was taken in, and perhaps half of that was done.
            events += _meaning(data)
        else:
            self._begun = data
            self._end.receive_packet(data)
        while (event := self._end.next_event()) is not None:
            events.append(event)
        return events

    def _apply(self, event: Event) -> None:
        match event:
            case Answered(request_id, raw):
                self._answer(request_id, raw)
            case Refusing(request_id, refusal):
                if refusal.code is ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED:
                    self.lose(refusal)
                self._answer(request_id, refusal)
            case Postponed(request_id):
                self._postpone(request_id)
            case HandleLost(refusal):
                self.lose(refusal)

    def _answer(self, request_id: int, answer: bytes | Refusal) -> None:
        slot = self.slots.get(request_id)
        if slot is not None:
            if slot.answer is NOTHING:
                slot.answer = answer if isinstance(answer, Refusal) else slot.convert(answer)
            self._dismiss(slot)
            return
        orphan = self.orphans.get(request_id)
        if orphan is None:
            self._finish(request_id, answer)
            return
        if not isinstance(answer, Refusal):
            self._undo(orphan, orphan.convert(answer))
        self.orphans.pop(request_id, None)

    def _postpone(self, request_id: int) -> None:
        slot = self.slots.get(request_id)
        if slot is None:
            if request_id in self.orphans:
                self._deliveries.add(partial(self._withdraw, request_id))
                self.orphans.pop(request_id, None)
            return
        if slot.answer is NOTHING:
            pending = Pending(request_id)
            self._pending[request_id] = pending, slot.convert
            try:
                self._attend()
            except RuntimeError as error:
                self._pending.pop(request_id, None)
                self._deliveries.add(partial(self._withdraw, request_id))
                slot.answer = Refusal(
                    ErrorCode.ERROR_NO_SYSTEM_RESOURCES, f"nobody can wait for the path: {error}"
                )
            else:
                slot.answer = pending
        self._dismiss(slot)

    def _dismiss(self, slot: Slot[Any]) -> None:
        """A call has its answer, and so have requests before it, if they were sent."""
        slot.wake()
        self.slots.pop(slot.id, None)
        if self.orphans:
            for orphan in [one for one in self.orphans.values() if one.place < slot.place]:
                self.orphans.pop(orphan.id, None)

    def _undo(self, slot: Slot[Any], value: object) -> None:
        if slot.undo is not None:
            self._deliveries.add(partial(slot.undo, value))

    # -- what is pending ----------------------------------------------------------------------

    def abort(self, request_id: int) -> None:
        """A pending request was cancelled."""
        self._finish(request_id, ABORTED)

    def _finish(self, request_id: int, answer: bytes | Refusal) -> None:
        found = self._pending.get(request_id)
        if found is not None:
            pending, convert = found
            result = answer if isinstance(answer, Refusal) else convert(answer)
            self._deliveries.add(partial(_tell, pending, result))
            self._pending.pop(request_id, None)

    # -- the end ------------------------------------------------------------------------------

    def lose(self, refusal: Refusal) -> None:
        """The handle is of no use any more."""
        if self.lost is None:
            self.lost = refusal
        # What the orphans brought is lost as well.
        self.orphans.clear()
        for request_id in list(self._pending):
            self._finish(request_id, ABORTED)

    def end(self, refusal: Refusal) -> None:
        """The connection is of no use any more."""
        self.lose(refusal)
        for slot in list(self.slots.values()):
            if slot.answer is NOTHING:
                slot.answer = self.lost
            self._dismiss(slot)
        self.is_over = True


def _meaning(data: bytes) -> list[Event]:
    """What a packet means by itself."""
    match ms.decode_reply(data):
        case ms.Answer(id=request_id, value=raw):
            return [Answered(request_id, bytes(raw))]
        case ms.Refused(id=request_id, code=code, name=name, detail=detail):
            return [Refusing(request_id, refusal_told(code, name, detail))]
        case ms.Pending(id=request_id):
            return [Postponed(request_id)]
        case ms.Lost(code=code, name=name, detail=detail):
            return [HandleLost(refusal_told(code, name, detail))]
        case ms.Farewell(code=code, name=name, detail=detail):
            return [Farewelled(refusal_told(code, name, detail))]
        case ms.Welcome():
            return []


def _tell(pending: Pending, result: Result) -> None:
    with contextlib.suppress(InvalidStateError):
        pending.future.set_result(result)

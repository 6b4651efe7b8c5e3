"""A handle of the service: the calls of a session as requests on a connection.

What of the arguments the kernel has to be asked for is asked by the service, from the socket that
goes along. What cannot be said in a request (an address that is none, a number out of all ranges)
is sent as something that is certainly wrong, so that the service refuses it in the contract's
order, where a handle that was lost comes first.

One connection is one handle. It is never made anew behind the program's back: a handle that is
lost stays lost.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from openqwave.client.connection import ANSWER_PATIENCE_S, Connection
from openqwave.client.lending import Lender
from openqwave.ipc import messages as ms
from openqwave.ipc.errors import ProtocolError
from openqwave.ipc.pages import page_of
from openqwave.ipc.values import (
    flow_id_of,
    fundamentals_of,
    nothing_of,
    packet_priority_of,
    path_status_of,
    rate_of,
    traffic_of,
)
from openqwave.model.errors import Refusal
from openqwave.runtime.pending import Pending, finish
from openqwave.subsystem.requests import Question

if TYPE_CHECKING:
    from collections.abc import Callable

    from openqwave.client.dialing import Dialled
    from openqwave.drivers.sockets import SocketLike
    from openqwave.model.endpoint import Endpoint
    from openqwave.model.flow import NoticeKind, RateReason, Shaping, TrafficType
    from openqwave.runtime.session import FlowAnswer

_T = TypeVar("_T")

# Larger numbers go into no packet; as the largest of these, they are as wrong.
_MAX_UNSIGNED: Final = (1 << 64) - 1
_MAX_NUMBER: Final = (1 << 31) - 1
_NO_NUMBER: Final = -1

# Stands for an address that is none.
_NO_ADDRESS: Final = ""

# By question: its word, and what reads the answer.
_QUESTIONS: Final[dict[Question, tuple[str, Callable[[bytes], Any]]]] = {
    Question.FUNDAMENTALS: ("fundamentals", fundamentals_of),
    Question.PACKET_PRIORITY: ("packet_priority", packet_priority_of),
    Question.OUTGOING_RATE: ("outgoing_rate", rate_of),
    Question.PATH: ("path", path_status_of),
    Question.TRAFFIC: ("traffic", traffic_of),
}


class RemoteSession:
    """One handle of the service; see `openqwave.client.session.AnySession` for every call."""

    __slots__ = ("_connection", "_lender")

    def __init__(self, dialled: Dialled, patience_s: float = ANSWER_PATIENCE_S) -> None:
        """Take over a connection that was welcomed.

        Args:
            dialled: It.
            patience_s: How long an answer may take before the service counts as gone.
        """
        self._connection = Connection(dialled, patience_s)
        self._lender = Lender() if dialled.welcome.lends else None

    @property
    def is_local(self) -> bool:
        """Always false: the engine is the service's."""
        return False

    def refuse(self) -> Refusal | None:
        """Is the handle fit for use? None means yes."""
        connection = self._connection
        return connection.refusal() or self._ask(ms.Check(connection.next_id()), nothing_of)

    def add_socket(
        self,
        flow_id: int,
        sock: SocketLike,
        destination: Endpoint | Refusal | None,
        traffic_type: TrafficType,
        *,
        is_adaptive: bool,
    ) -> int | Refusal:
        """Put a socket into a flow; the value is the flow's id."""
        number = _number_of(sock)
        message = ms.AddSocket(
            self._connection.next_id(),
            _whole(flow_id),
            int(traffic_type),
            is_adaptive,
            *_address_of(destination),
            number,
        )
        # Who joins a flow knows of it.
        undo = None if flow_id else partial(self._end_unknown, sock)
        brought = () if number == _NO_NUMBER else (number,)
        result: int | Refusal = self._ask(message, flow_id_of, brought, undo)
        if isinstance(result, Refusal):
            return _about(destination, result)
        if self._lender is not None:
            self._lender.add(result, sock)
        return result

    def _end_unknown(self, sock: SocketLike, flow_id: int) -> None:
        """A flow whose maker was interrupted before it knew of it."""
        if self._lender is not None:
            self._lender.add(flow_id, sock)
        self.remove_socket(flow_id, None)

    def remove_socket(self, flow_id: int, sock: SocketLike | None) -> Refusal | None:
        """Take a socket out of a flow; None takes them all and ends the flow."""
        request_id = self._connection.next_id()
        if sock is None:
            message = ms.RemoveSocket(request_id, _whole(flow_id), True)
            result = self._ask_with_sockets(flow_id, message, nothing_of)
        else:
            number = _number_of(sock)
            message = ms.RemoveSocket(request_id, _whole(flow_id), False)
            lent = () if number == _NO_NUMBER else (number,)
            result = self._ask(message, nothing_of, lent)
        if result is None and self._lender is not None:
            self._lender.remove(flow_id, sock)
        return result

    def set_traffic_type(self, flow_id: int, traffic_type: TrafficType) -> Refusal | None:
        """Change the flow's traffic type."""
        message = ms.SetTrafficType(self._connection.next_id(), _whole(flow_id), int(traffic_type))
        return self._ask_with_sockets(flow_id, message, nothing_of)

    def set_rate(
        self,
        flow_id: int,
        rate_bps: int | None,
        shaping: Shaping,
        reason: RateReason,
        *,
        is_overlapped: bool = False,
        is_self_paced: bool = False,
    ) -> Refusal | Pending | None:
        """Change the flow's contract; pending while too little is known of the path."""
        message = ms.SetRate(
            self._connection.next_id(),
            _whole(flow_id),
            None if rate_bps is None else _whole(rate_bps),
            int(shaping),
            int(reason),
            is_overlapped,
            is_self_paced,
        )
        if self._lender is None:
            return self._connection.ask(message, nothing_of)
        with self._lender.lend(flow_id) as descriptors:
            return self._connection.ask(message, nothing_of, descriptors)

    def set_dscp(self, flow_id: int, dscp: int) -> Refusal | None:
        """Mark the flow with one exact code point."""
        message = ms.SetDscp(self._connection.next_id(), _whole(flow_id), _whole(dscp))
        return self._ask_with_sockets(flow_id, message, nothing_of)

    def query(
        self,
        flow_id: int,
        question: Question,
        *,
        is_fresh: bool = False,
        is_overlapped: bool = False,
    ) -> FlowAnswer | Refusal | Pending:
        """Ask about a flow; pending while what was asked for afresh is measured."""
        word, convert = _QUESTIONS[question]
        message = ms.Query(
            self._connection.next_id(), _whole(flow_id), word, is_fresh, is_overlapped
        )
        return cast("FlowAnswer | Refusal | Pending", self._connection.ask(message, convert))

    def notify(
        self, flow_id: int, kind: NoticeKind, rate_bps: int | None
    ) -> Refusal | Pending | None:
        """Be told once when a condition holds."""
        message = ms.Notify(
            self._connection.next_id(),
            _whole(flow_id),
            int(kind),
            None if rate_bps is None else _whole(rate_bps),
        )
        return self._connection.ask(message, nothing_of)

    def finish(self, result: _T | Refusal | Pending) -> _T | Refusal:
        """The result, waited for; a program that is interrupted leaves no request behind."""
        return finish(result, self.cancel)

    def start_tracking(self, host: Endpoint | Refusal) -> Refusal | None:
        """Take an interest in the path to a host."""
        address, _, scope_id = _address_of(host)
        message = ms.StartTracking(self._connection.next_id(), address or _NO_ADDRESS, scope_id)
        return _about(host, self._ask(message, nothing_of))

    def stop_tracking(self, host: Endpoint | Refusal) -> Refusal | None:
        """Lose the interest."""
        address, _, scope_id = _address_of(host)
        message = ms.StopTracking(self._connection.next_id(), address or _NO_ADDRESS, scope_id)
        return _about(host, self._ask(message, nothing_of))

    def enumerate_flows(self) -> tuple[int, ...] | Refusal:
        """The ids of all flows, ascending."""
        found: list[int] = []
        has_more = True
        while has_more:
            after = found[-1] if found else 0
            page = self._ask(
                ms.EnumerateFlows(self._connection.next_id(), after), partial(_ids_above, after)
            )
            if isinstance(page, Refusal):
                return page
            ids, has_more = page
            found += ids
        return tuple(found)

    def cancel(self, request_id: int) -> Refusal | None:
        """Abort a pending request of this handle."""
        result = self._ask(ms.Cancel(self._connection.next_id(), _whole(request_id)), nothing_of)
        if result is None:
            self._connection.abort(request_id)
        return result

    def close(self) -> Refusal | None:
        """End the handle and everything made through it."""
        if self._lender is not None:
            # Without their sockets, the service could not give them their own options back.
            for flow_id in self._lender.flow_ids():
                self.remove_socket(flow_id, None)
        return self._connection.close()

    def _ask_with_sockets(
        self, flow_id: int, message: ms.Request, convert: Callable[[bytes], _T]
    ) -> _T | Refusal:
        if self._lender is None:
            return self._ask(message, convert)
        with self._lender.lend(flow_id) as descriptors:
            return self._ask(message, convert, descriptors)

    def _ask(
        self,
        message: ms.Request,
        convert: Callable[[bytes], _T],
        descriptors: tuple[int, ...] | list[int] = (),
        undo: Callable[[_T], object] | None = None,
    ) -> _T | Refusal:
        """Ask something that is answered at once; if it is postponed after all, wait."""
        result: _T | Refusal | Pending
        result = self._connection.ask(message, convert, descriptors, undo)
        return self.finish(result)


def _whole(number: int) -> int:
    """A number as it can be sent."""
    return number if -1 <= number <= _MAX_UNSIGNED else -1


def _number_of(sock: SocketLike) -> int:
    """The file number of what stands for a socket; -1 for what has none."""
    try:
        number: object = sock if isinstance(sock, int) else sock.fileno()
    except (OSError, TypeError, ValueError, AttributeError):
        return _NO_NUMBER
    if not isinstance(number, int) or not 0 <= number <= _MAX_NUMBER:
        return _NO_NUMBER
    return int(number)


def _address_of(target: Endpoint | Refusal | None) -> tuple[str | None, int, int]:
    """A destination's address, port and scope as they are sent."""
    if target is None:
        return None, 0, 0
    if isinstance(target, Refusal):
        return _NO_ADDRESS, 0, 0
    return str(target.address), target.port, target.scope_id


def _about(target: Endpoint | Refusal | None, result: _T | Refusal) -> _T | Refusal:
    """A refusal; of a destination that is none, in the words of whoever saw it."""
    if isinstance(target, Refusal) and isinstance(result, Refusal) and result.code is target.code:
        return target
    return result


def _ids_above(after: int, raw: bytes) -> tuple[tuple[int, ...], bool]:
    ids, has_more = page_of(raw, int)
    # Whoever follows pages that do not ascend may follow them for ever.
    if any(one >= two for one, two in pairwise((after, *ids))):
        raise ProtocolError("flows do not ascend")
    return ids, has_more

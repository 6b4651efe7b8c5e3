"""From a client's request to the call of a session, and from its result to an answer.

What a request names by numbers (traffic types, shaping, addresses) is turned into values of the
model here. A number that names nothing is an argument that is refused in the contract's order: a
handle that is lost comes first.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from openqwave.ipc import messages as ms
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import endpoint_at
from openqwave.model.errors import Refusal
from openqwave.model.flow import NoticeKind, RateReason, Shaping, TrafficType
from openqwave.runtime.pending import Pending
from openqwave.subsystem.requests import Question

if TYPE_CHECKING:
    from collections.abc import Callable

    from openqwave.drivers.sockets import SocketLike
    from openqwave.model.endpoint import Endpoint
    from openqwave.runtime.session import FlowAnswer, Session

# What no process has as a file number: stands for a socket that did not come.
NO_SOCKET = -1

_TRAFFIC_TYPES = {int(member): member for member in TrafficType}
_SHAPINGS = {int(member): member for member in Shaping}
_REASONS = {int(member): member for member in RateReason}
_KINDS = {int(member): member for member in NoticeKind}
_QUESTIONS = {
    "fundamentals": Question.FUNDAMENTALS,
    "packet_priority": Question.PACKET_PRIORITY,
    "outgoing_rate": Question.OUTGOING_RATE,
    "path": Question.PATH,
    "traffic": Question.TRAFFIC,
}

Outcome: TypeAlias = "FlowAnswer | Refusal | Pending | None"
_E = TypeVar("_E", bound="IntEnum | Enum")
_K = TypeVar("_K", int, str)


class BadArgument(Exception):
    """A number or a word of a request names nothing; the text says which."""


def _member(members: dict[_K, _E], number: _K, what: str) -> _E:
    member = members.get(number)
    if member is None:
        raise BadArgument(f"{number!r} is no {what}")
    return member


def _endpoint(address: str, port: int, scope_id: int) -> Endpoint | Refusal:
    try:
        return endpoint_at(ip_address(address), port, scope_id)
    except ValueError as error:
        return Refusal(ErrorCode.ERROR_INVALID_PARAMETER, f"no destination: {error}")


def _add_socket(session: Session, message: ms.AddSocket, sock: SocketLike) -> Outcome:
    destination = (
        None
        if message.address is None
        else _endpoint(message.address, message.port, message.scope_id)
    )
    kind = _member(_TRAFFIC_TYPES, message.traffic_type, "traffic type")
    return session.add_socket(message.flow, sock, destination, kind, is_adaptive=message.adaptive)


def _remove_socket(session: Session, message: ms.RemoveSocket, sock: SocketLike) -> Outcome:
    return session.remove_socket(message.flow, None if message.whole else sock)


def _set_traffic_type(session: Session, message: ms.SetTrafficType, _: SocketLike) -> Outcome:
    kind = _member(_TRAFFIC_TYPES, message.traffic_type, "traffic type")
    return session.set_traffic_type(message.flow, kind)


def _set_rate(session: Session, message: ms.SetRate, _: SocketLike) -> Outcome:
    return session.set_rate(
        message.flow,
        message.rate_bps,
        _member(_SHAPINGS, message.shaping, "way to shape"),
        _member(_REASONS, message.reason, "reason for a rate"),
        is_overlapped=message.overlapped,
        is_self_paced=message.self_paced,
    )


def _set_dscp(session: Session, message: ms.SetDscp, _: SocketLike) -> Outcome:
    return session.set_dscp(message.flow, message.dscp)


def _query(session: Session, message: ms.Query, _: SocketLike) -> Outcome:
    question = _member(_QUESTIONS, message.question, "question")
    return session.query(
        message.flow, question, is_fresh=message.fresh, is_overlapped=message.overlapped
    )


def _notify(session: Session, message: ms.Notify, _: SocketLike) -> Outcome:
    kind = _member(_KINDS, message.kind, "kind of notice")
    return session.notify(message.flow, kind, message.rate_bps)


def _start_tracking(session: Session, message: ms.StartTracking, _: SocketLike) -> Outcome:
    return session.start_tracking(_endpoint(message.address, 0, message.scope_id))


def _stop_tracking(session: Session, message: ms.StopTracking, _: SocketLike) -> Outcome:
    return session.stop_tracking(_endpoint(message.address, 0, message.scope_id))


def _check(session: Session, _: ms.Check, __: SocketLike) -> Outcome:
    return session.refuse()


# What is a call on a session, by the type of the request. The rest concerns a connection (cancel,
# close) or the whole host (lists), and is `openqwave.service.peers`'.
_CALLS: dict[type, Callable[..., Outcome]] = {
    ms.AddSocket: _add_socket,
    ms.RemoveSocket: _remove_socket,
    ms.SetTrafficType: _set_traffic_type,
    ms.SetRate: _set_rate,
    ms.SetDscp: _set_dscp,
    ms.Query: _query,
    ms.Notify: _notify,
    ms.StartTracking: _start_tracking,
    ms.StopTracking: _stop_tracking,
    ms.Check: _check,
}


def call(session: Session, message: ms.Request, sock: SocketLike) -> Outcome:
    """Make the call that a request asks for.

    Args:
        session: The peer's handle.
        message: One of the kinds that are calls.
        sock: The socket that came with it, or `NO_SOCKET`.

    Returns:
        The result, a refusal, or a pending operation.
    """
    try:
        return _CALLS[type(message)](session, message, sock)
    except BadArgument as bad:
        return session.refuse() or Refusal(ErrorCode.ERROR_INVALID_PARAMETER, str(bad))


def is_call(message: ms.Request) -> bool:
    """Is it a call on a session?"""
    return type(message) in _CALLS


def name_of(message: ms.Hello | ms.Request) -> str:
    """What the protocol calls a request: its `type`."""
    return str(message.__struct_config__.tag)

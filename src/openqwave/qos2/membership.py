"""QOSAddSocketToFlow, QOSRemoveSocketFromFlow and QOSEnumerateFlows: what flows there are.

Sockets are socket objects, file numbers, or anything with a ``fileno``. Where Windows
takes SOCKET 0 as "none", 0 and None do so here; file number 0 can be a socket on Linux,
and to take it alone out of a flow its socket object has to be named.
"""

from __future__ import annotations

import ctypes
import socket
from typing import TYPE_CHECKING, cast

from openqwave.model.codes import QOS_NON_ADAPTIVE_FLOW, TRUE, ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.flow import TrafficType
from openqwave.qos2.arguments import BadArgument, address_of, flow_number, integer, ulong
from openqwave.qos2.handles import opened_by, refuse
from openqwave.qos2.lasterror import fail
from openqwave.qos2.sockaddrs import endpoint_at

if TYPE_CHECKING:
    from openqwave.drivers.sockets import SocketLike

_ULONG = ctypes.c_uint32
_ULONG_BYTES = ctypes.sizeof(_ULONG)
_TRAFFIC_TYPES = {int(member): member for member in TrafficType}


def _socket_like(argument: object) -> SocketLike:
    """What stands for a socket; whether it is one, the kernel says."""
    if type(argument) is int or isinstance(argument, socket.socket):
        return argument
    if argument is None:
        raise BadArgument
    if hasattr(argument, "fileno"):
        return cast("SocketLike", argument)
    return integer(argument)


def traffic_type_of(number: int) -> TrafficType:
    """The traffic type of a QOS_TRAFFIC_TYPE number.

    Raises:
        BadArgument: There is none.
    """
    traffic_type = _TRAFFIC_TYPES.get(number)
    if traffic_type is None:
        raise BadArgument
    return traffic_type


def QOSAddSocketToFlow(
    QOSHandle: object,
    Socket: object,
    DestAddr: object,
    TrafficType: object,
    Flags: object,
    FlowId: object,
) -> int:
    """Put a socket, towards one destination, into a flow.

    Args:
        QOSHandle: The handle.
        Socket: A TCP or UDP socket.
        DestAddr: A sockaddr, or None for a connected socket's peer.
        TrafficType: For a new flow; not looked at when joining one.
        Flags: 0 for an adaptive flow, or QOS_NON_ADAPTIVE_FLOW.
        FlowId: A QOS_FLOWID: 0 to make a flow and receive its id, else the flow to join.

    Returns:
        TRUE, or FALSE with a last error; then nothing has changed.
    """
    opened = opened_by(QOSHandle)
    if opened is None:
        return fail(ErrorCode.ERROR_INVALID_HANDLE)
    try:
        cell = ulong(FlowId)
        destination = endpoint_at(DestAddr)
        sock = _socket_like(Socket)
        flags = integer(Flags)
        if flags & ~QOS_NON_ADAPTIVE_FLOW:
            raise BadArgument
        flow_id = cell.value
        kind = traffic_type_of(0 if flow_id else integer(TrafficType))
    except BadArgument as bad:
        return refuse(opened, bad.code)
    result = opened.session.add_socket(
        flow_id, sock, destination, kind, is_adaptive=not flags & QOS_NON_ADAPTIVE_FLOW
    )
    if isinstance(result, Refusal):
        return fail(result.code)
    cell.value = result
    return TRUE


def QOSRemoveSocketFromFlow(
    QOSHandle: object, Socket: object, FlowId: object, Flags: object
) -> int:
    """Take a socket out of a flow; the flow ends with its last one.

    Args:
        QOSHandle: The handle.
        Socket: The socket; 0 or None takes them all and ends the flow.
        FlowId: The flow.
        Flags: 0.

    Returns:
        TRUE, or FALSE with a last error; then nothing has changed.
    """
    opened = opened_by(QOSHandle)
    if opened is None:
        return fail(ErrorCode.ERROR_INVALID_HANDLE)
    try:
        sock = None if Socket is None else _socket_like(Socket)
        flow_id = flow_number(FlowId)
        if integer(Flags):
            raise BadArgument
    except BadArgument as bad:
        return refuse(opened, bad.code)
    # A plain number alone can be 0; a socket object that holds number 0 names itself.
    whole = sock is None or (type(sock) is int and sock == 0)
    refusal = opened.session.remove_socket(flow_id, None if whole else sock)
    return TRUE if refusal is None else fail(refusal.code)


def QOSEnumerateFlows(QOSHandle: object, Size: object, Buffer: object) -> int:
    """List the ids of all flows, ascending; administrators only.

    Args:
        QOSHandle: The handle.
        Size: A ULONG: the bytes of the buffer; receives the bytes written or needed.
        Buffer: An array of QOS_FLOWID; may be None where Size says 0.

    Returns:
        TRUE, or FALSE with a last error, ERROR_INSUFFICIENT_BUFFER for a buffer that is
        too small.
    """
    opened = opened_by(QOSHandle)
    if opened is None:
        return fail(ErrorCode.ERROR_INVALID_HANDLE)
    try:
        cell = ulong(Size)
        size = cell.value
        if size and not address_of(Buffer, 0):
            raise BadArgument
    except BadArgument as bad:
        return refuse(opened, bad.code)
    flow_ids = opened.session.enumerate_flows()
    if isinstance(flow_ids, Refusal):
        return fail(flow_ids.code)
    needed = len(flow_ids) * _ULONG_BYTES
    if size < needed:
        cell.value = needed
        return fail(ErrorCode.ERROR_INSUFFICIENT_BUFFER)
    try:
        address = address_of(Buffer, needed)
    except BadArgument as bad:
        return fail(bad.code)
    if needed:
        (_ULONG * len(flow_ids)).from_address(address)[:] = [*flow_ids]
    cell.value = needed
    return TRUE


__all__ = ["QOSAddSocketToFlow", "QOSEnumerateFlows", "QOSRemoveSocketFromFlow"]

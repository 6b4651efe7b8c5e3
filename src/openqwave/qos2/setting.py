"""QOSSetFlow: type, rate, exact mark."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from openqwave.model.codes import QOS_OUTGOING_DEFAULT_MINIMUM_BANDWIDTH, TRUE, ErrorCode
from openqwave.model.flow import RateReason, Shaping
from openqwave.qos2.abi import QOS_FLOWRATE_OUTGOING
from openqwave.qos2.arguments import BadArgument, flow_number, integer, octets, ulong
from openqwave.qos2.enumerations import (
    QOSSetOutgoingDSCPValue,
    QOSSetOutgoingRate,
    QOSSetTrafficType,
)
from openqwave.qos2.handles import opened_by, refuse
from openqwave.qos2.lasterror import fail
from openqwave.qos2.membership import traffic_type_of
from openqwave.qos2.overlapped import answer, operation_for
from openqwave.qos2.troubles import IN_SET_FLOW

if TYPE_CHECKING:
    from openqwave.client.session import AnySession
    from openqwave.model.errors import Refusal
    from openqwave.runtime.pending import Pending

_NUMBER_BYTES = ctypes.sizeof(ctypes.c_uint32)
_RATE_BYTES = ctypes.sizeof(QOS_FLOWRATE_OUTGOING)

_SHAPINGS = {int(member): member for member in Shaping}
_REASONS = {int(member): member for member in RateReason}

# Called with whether the program is told later, where it cannot be told at once.
_Change: TypeAlias = "Callable[[bool], Refusal | Pending | None]"


def _number(Buffer: object) -> int:
    if isinstance(Buffer, bytes):
        return int.from_bytes(octets(Buffer, _NUMBER_BYTES), sys.byteorder)
    return ulong(Buffer).value


def _type_change(session: AnySession, flow_id: int, Buffer: object) -> _Change:
    traffic_type = traffic_type_of(_number(Buffer))
    return lambda _: session.set_traffic_type(flow_id, traffic_type)


def _rate_change(session: AnySession, flow_id: int, Buffer: object) -> _Change:
    rate = QOS_FLOWRATE_OUTGOING.from_buffer_copy(octets(Buffer, _RATE_BYTES))
    shaping, reason = _SHAPINGS.get(rate.ShapingBehavior), _REASONS.get(rate.Reason)
    if shaping is None or reason is None:
        raise BadArgument
    is_default = rate.Bandwidth == QOS_OUTGOING_DEFAULT_MINIMUM_BANDWIDTH
    rate_bps = None if is_default else rate.Bandwidth
    return lambda is_overlapped: session.set_rate(
        flow_id, rate_bps, shaping, reason, is_overlapped=is_overlapped
    )


def _dscp_change(session: AnySession, flow_id: int, Buffer: object) -> _Change:
    dscp = _number(Buffer)
    return lambda _: session.set_dscp(flow_id, dscp)


# The operations, by their numbers: the size of their data, and what reads it.
_OPERATIONS: dict[int, tuple[int, Callable[[AnySession, int, object], _Change]]] = {
    QOSSetTrafficType.value: (_NUMBER_BYTES, _type_change),
    QOSSetOutgoingRate.value: (_RATE_BYTES, _rate_change),
    QOSSetOutgoingDSCPValue.value: (_NUMBER_BYTES, _dscp_change),
}


def QOSSetFlow(
    QOSHandle: object,
    FlowId: object,
    Operation: object,
    Size: object,
    Buffer: object,
    Flags: object,
    Overlapped: object,
) -> int:
    """Change how a flow's traffic is treated.

    Args:
        QOSHandle: The handle.
        FlowId: The flow.
        Operation: QOSSetTrafficType, QOSSetOutgoingRate or QOSSetOutgoingDSCPValue.
        Size: The bytes of the operation's data, exactly.
        Buffer: The data: QOS_TRAFFIC_TYPE, QOS_FLOWRATE_OUTGOING, or DWORD of 0 to 63.
        Flags: 0.
        Overlapped: An OVERLAPPED, or None to wait.

    Returns:
        TRUE: the traffic is treated as asked. FALSE with ERROR_IO_PENDING: the OVERLAPPED
        will tell. FALSE with another last error: nothing has changed.
    """
    opened = opened_by(QOSHandle)
    if opened is None:
        return fail(ErrorCode.ERROR_INVALID_HANDLE)
    try:
        known = _OPERATIONS.get(integer(Operation))
        if known is None:
            raise BadArgument
        size, read = known
        if integer(Size) != size:
            raise BadArgument
        change = read(opened.session, flow_number(FlowId), Buffer)
        if integer(Flags):
            raise BadArgument
        operation = operation_for(Overlapped, IN_SET_FLOW, kept=Buffer)
    except BadArgument as bad:
        return refuse(opened, bad.code)
    result = change(operation is not None)
    if operation is None and result is None:
        return TRUE
    return answer(opened, operation, result, IN_SET_FLOW)


__all__ = ["QOSSetFlow"]

"""QOSQueryFlow: what is known of a flow and its path."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from openqwave.model.codes import QOS_QUERYFLOW_FRESH, ErrorCode
from openqwave.model.estimates import Fundamentals
from openqwave.model.flow import PacketPriority
from openqwave.qos2.abi import QOS_FLOW_FUNDAMENTALS, QOS_PACKET_PRIORITY, UINT64
from openqwave.qos2.arguments import BadArgument, flow_number, integer, required, ulong
from openqwave.qos2.enumerations import (
    QOSQueryFlowFundamentals,
    QOSQueryOutgoingRate,
    QOSQueryPacketPriority,
)
from openqwave.qos2.handles import opened_by, refuse
from openqwave.qos2.lasterror import fail
from openqwave.qos2.overlapped import answer, operation_for
from openqwave.qos2.troubles import IN_QUERY_FLOW
from openqwave.subsystem.requests import Question

if TYPE_CHECKING:
    from collections.abc import Callable

_NS_PER_US = 1_000
_LARGEST_ULONG = 0xFFFF_FFFF
_LARGEST_UINT64 = (1 << 64) - 1


def _fundamentals(value: Fundamentals) -> QOS_FLOW_FUNDAMENTALS:
    def bandwidth(bps: int | None) -> int:
        return min(bps or 0, _LARGEST_UINT64)

    return QOS_FLOW_FUNDAMENTALS(
        BottleneckBandwidthSet=value.bottleneck_bps is not None,
        BottleneckBandwidth=bandwidth(value.bottleneck_bps),
        AvailableBandwidthSet=value.available_bps is not None,
        AvailableBandwidth=bandwidth(value.available_bps),
        RTTSet=value.rtt_ns is not None,
        RTT=min((value.rtt_ns or 0) // _NS_PER_US, _LARGEST_ULONG),
    )


def _packet_priority(value: PacketPriority) -> QOS_PACKET_PRIORITY:
    return QOS_PACKET_PRIORITY(
        value.conformant_dscp,
        value.non_conformant_dscp,
        value.conformant_pcp,
        value.non_conformant_pcp,
    )


# The operations, by their numbers: the question, its answer's size, the answer as Windows
# has it.
_OPERATIONS: dict[int, tuple[Question, int, Callable[[Any], Any]]] = {
    QOSQueryFlowFundamentals.value: (
        Question.FUNDAMENTALS,
        ctypes.sizeof(QOS_FLOW_FUNDAMENTALS),
        _fundamentals,
    ),
    QOSQueryPacketPriority.value: (
        Question.PACKET_PRIORITY,
        ctypes.sizeof(QOS_PACKET_PRIORITY),
        _packet_priority,
    ),
    QOSQueryOutgoingRate.value: (Question.OUTGOING_RATE, ctypes.sizeof(UINT64), UINT64),
}


def QOSQueryFlow(
    QOSHandle: object,
    FlowId: object,
    Operation: object,
    Size: object,
    Buffer: object,
    Flags: object,
    Overlapped: object,
) -> int:
    """Ask about a flow.

    Args:
        QOSHandle: The handle.
        FlowId: The flow.
        Operation: QOSQueryFlowFundamentals, QOSQueryPacketPriority or QOSQueryOutgoingRate.
        Size: A ULONG: the bytes of the buffer; receives the bytes written or needed.
        Buffer: Receives QOS_FLOW_FUNDAMENTALS, QOS_PACKET_PRIORITY or UINT64.
        Flags: 0, or QOS_QUERYFLOW_FRESH with fundamentals: only what was measured after
            the call counts, and is waited for.
        Overlapped: An OVERLAPPED, or None to wait.

    Returns:
        TRUE, or FALSE with a last error.
    """
    opened = opened_by(QOSHandle)
    if opened is None:
        return fail(ErrorCode.ERROR_INVALID_HANDLE)
    try:
        number = integer(Operation)
        known = _OPERATIONS.get(number)
        if known is None:
            raise BadArgument
        question, needed, shape = known
        size = ulong(Size)
        if size.value < needed:
            size.value = needed
            raise BadArgument(ErrorCode.ERROR_INSUFFICIENT_BUFFER)
        address = required(Buffer, needed)
        flags = integer(Flags)
        is_fresh = flags == QOS_QUERYFLOW_FRESH and question is Question.FUNDAMENTALS
        if flags and not is_fresh:
            raise BadArgument

        def deliver(value: Any) -> int:  # noqa: ANN401 - goes with the question
            ctypes.memmove(address, ctypes.byref(shape(value)), needed)
            size.value = needed
            return needed

        flow_id = flow_number(FlowId)
        operation = operation_for(Overlapped, IN_QUERY_FLOW, deliver, (Size, Buffer))
    except BadArgument as bad:
        return refuse(opened, bad.code)
    result = opened.session.query(
        flow_id, question, is_fresh=is_fresh, is_overlapped=operation is not None
    )
    return answer(opened, operation, result, IN_QUERY_FLOW, deliver)


__all__ = ["QOSQueryFlow"]

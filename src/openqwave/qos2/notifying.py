"""QOSNotifyFlow and QOSCancel: being told, and not wanting to be told any more."""

from __future__ import annotations

import ctypes

from openqwave.model.codes import TRUE, ErrorCode
from openqwave.model.flow import NoticeKind
from openqwave.qos2.arguments import BadArgument, flow_number, integer, locate, required, ulong
from openqwave.qos2.handles import opened_by, refuse
from openqwave.qos2.lasterror import fail
from openqwave.qos2.overlapped import answer, operation_for, pending_request
from openqwave.qos2.troubles import IN_NOTIFY_FLOW

_UINT64 = ctypes.c_uint64
_UINT64_BYTES = ctypes.sizeof(_UINT64)
_KINDS = {int(member): member for member in NoticeKind}


def _rate(Size: object, Buffer: object) -> int:
    """The rate that QOSNotifyAvailable waits for, bits per second."""
    size = ulong(Size)
    if size.value < _UINT64_BYTES:
        size.value = _UINT64_BYTES
        raise BadArgument(ErrorCode.ERROR_INSUFFICIENT_BUFFER)
    return _UINT64.from_address(required(Buffer, _UINT64_BYTES)).value


def QOSNotifyFlow(
    QOSHandle: object,
    FlowId: object,
    Operation: object,
    Size: object,
    Buffer: object,
    Flags: object,
    Overlapped: object,
) -> int:
    """Be told once when a condition on a flow's path holds.

    Args:
        QOSHandle: The handle.
        FlowId: The flow.
        Operation: QOSNotifyCongested, QOSNotifyUncongested or QOSNotifyAvailable.
        Size: For QOSNotifyAvailable a ULONG of 8 or more, else None.
        Buffer: For QOSNotifyAvailable a UINT64, bits per second with headers, else None.
        Flags: 0.
        Overlapped: An OVERLAPPED, or None to block until the condition holds.

    Returns:
        TRUE: it holds. FALSE with ERROR_IO_PENDING: the OVERLAPPED will tell. FALSE with
        another last error otherwise.
    """
    opened = opened_by(QOSHandle)
    if opened is None:
        return fail(ErrorCode.ERROR_INVALID_HANDLE)
    try:
        kind = _KINDS.get(integer(Operation))
        if kind is None:
            raise BadArgument
        if kind is NoticeKind.AVAILABLE:
            rate_bps = _rate(Size, Buffer)
        elif locate(Size)[0] or locate(Buffer)[0]:
            raise BadArgument
        else:
            rate_bps = None
        if integer(Flags):
            raise BadArgument
        flow_id = flow_number(FlowId)
        operation = operation_for(Overlapped, IN_NOTIFY_FLOW, kept=(Size, Buffer))
    except BadArgument as bad:
        return refuse(opened, bad.code)
    result = opened.session.notify(flow_id, kind, rate_bps)
    return answer(opened, operation, result, IN_NOTIFY_FLOW)


def QOSCancel(QOSHandle: object, Overlapped: object) -> int:
    """Abort a pending operation of this handle: it completes with ERROR_OPERATION_ABORTED.

    Args:
        QOSHandle: The handle.
        Overlapped: The OVERLAPPED that the operation was begun with.

    Returns:
        TRUE, or FALSE with ERROR_INVALID_PARAMETER for what is not pending (any more).
    """
    opened = opened_by(QOSHandle)
    if opened is None:
        return fail(ErrorCode.ERROR_INVALID_HANDLE)
    try:
        request_id = pending_request(opened, Overlapped)
    except BadArgument as bad:
        return refuse(opened, bad.code)
    # Whether it has completed since, the subsystem says.
    refusal = opened.session.cancel(request_id)
    return TRUE if refusal is None else fail(refusal.code)


__all__ = ["QOSCancel", "QOSNotifyFlow"]

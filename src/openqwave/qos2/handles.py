"""QOSCreateHandle and QOSCloseHandle, and what a handle's number stands for.

A handle is a number that nothing can be read from. It is good in the process that made
it; a forked child starts without handles.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

from openqwave.client.opening import open_session
from openqwave.model.codes import (
    QOS_VERSION_MAJOR,
    QOS_VERSION_MINOR,
    TRUE,
    ErrorCode,
)
from openqwave.model.errors import QosError
from openqwave.qos2.abi import QOS_VERSION
from openqwave.qos2.arguments import BadArgument, integer, required
from openqwave.qos2.events import new_handle
from openqwave.qos2.lasterror import fail
from openqwave.qos2.overlapped import reset_after_fork
from openqwave.runtime.forks import reset_in_children

if TYPE_CHECKING:
    from openqwave.client.session import AnySession

_HANDLE_BYTES = ctypes.sizeof(ctypes.c_void_p)
_VERSION_BYTES = ctypes.sizeof(QOS_VERSION)


class OpenHandle:
    """One open handle.

    Attributes:
        session: Its calls.
    """

    __slots__ = ("session",)

    def __init__(self, session: AnySession) -> None:
        self.session = session


_opened: Final[dict[int, OpenHandle]] = {}


def _reset() -> None:
    _opened.clear()
    reset_after_fork()


def opened_by(QOSHandle: object) -> OpenHandle | None:
    """What a handle argument stands for; None when it is no open handle of this process."""
    if type(QOSHandle) is not int:
        try:
            QOSHandle = integer(QOSHandle)
        except BadArgument:
            return None
    return _opened.get(QOSHandle)


def refuse(opened: OpenHandle, code: ErrorCode) -> int:
    """Fail for an argument, in the contract's order: a handle that was lost comes first."""
    lost = opened.session.refuse()
    return fail(code if lost is None else lost.code)


def QOSCreateHandle(Version: object, QOSHandle: object) -> int:
    """Open a handle to the subsystem.

    Args:
        Version: A QOS_VERSION of {1, 0}.
        QOSHandle: A HANDLE that receives the handle.

    Returns:
        TRUE, or FALSE with ERROR_INVALID_PARAMETER or ERROR_NO_SYSTEM_RESOURCES.
    """
    try:
        version = QOS_VERSION.from_address(required(Version, _VERSION_BYTES))
        target = ctypes.c_void_p.from_address(required(QOSHandle, _HANDLE_BYTES))
    except BadArgument as bad:
        return fail(bad.code)
    if (version.MajorVersion, version.MinorVersion) != (QOS_VERSION_MAJOR, QOS_VERSION_MINOR):
        return fail(ErrorCode.ERROR_INVALID_PARAMETER)
    try:
        session, _ = open_session()
    except QosError as error:
        return fail(error.code)
    reset_in_children(_reset)
    handle = new_handle()
    _opened[handle] = OpenHandle(session)
    target.value = handle
    return TRUE


def QOSCloseHandle(QOSHandle: object) -> int:
    """Close a handle: its flows end, its pending operations are aborted.

    Returns:
        TRUE, or FALSE with ERROR_INVALID_PARAMETER for what is no open handle.
    """
    try:
        number = integer(QOSHandle)
    except BadArgument as bad:
        return fail(bad.code)
    # Taken out first, so that of two threads that close it one finds it.
    opened = _opened.pop(number, None)
    if opened is None or opened.session.close() is not None:
        return fail(ErrorCode.ERROR_INVALID_PARAMETER)
    return TRUE


__all__ = ["QOSCloseHandle", "QOSCreateHandle"]

"""Bad news, in two forms: refusals inside the subsystem, exceptions for its callers.

Inside the pure rooms a refusal is a value, `Refusal`, so that the engine can weigh it,
send it and test it. At the Python faces it becomes an exception. Every exception derives
from `QosError`, carries its Win32 code (so the Windows face needs no table of its own)
and has a builtin second parent, so that an ordinary ``except PermissionError`` or
``except TimeoutError`` does what its author expects.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import ClassVar

from openqwave.model.codes import ErrorCode


@dataclass(frozen=True, slots=True)
class Refusal:
    """The subsystem's no: the Win32 code and a sentence that says what to do."""

    code: ErrorCode
    detail: str


class QosError(Exception):
    """The root of every error of openqwave.

    Attributes:
        code: The Win32 error number that the Windows face reports.
        detail: What went wrong and what to do about it.
    """

    code: ClassVar[ErrorCode] = ErrorCode.ERROR_GEN_FAILURE

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        """The Win32 name of the error, then the detail."""
        return f"{self.code.name}: {self.detail}" if self.detail else self.code.name


class QosSystemError(QosError, OSError):
    """The errors that an ``except OSError`` catches; `errno` holds the nearest POSIX number."""

    posix_errno: ClassVar[int] = errno.EIO

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.errno = self.posix_errno
        self.strerror = detail


class GeneralFailure(QosError, RuntimeError):
    """The subsystem failed in a way that it cannot name."""

    code = ErrorCode.ERROR_GEN_FAILURE


class AccessDenied(QosSystemError, PermissionError):
    """The caller lacks the right that the operation needs."""

    code = ErrorCode.ERROR_ACCESS_DENIED
    posix_errno = errno.EACCES


class InvalidHandle(QosError, ValueError):
    """The handle is unknown, closed, or of another process."""

    code = ErrorCode.ERROR_INVALID_HANDLE


class NotEnoughMemory(QosError, MemoryError):
    """Memory ran out."""

    code = ErrorCode.ERROR_NOT_ENOUGH_MEMORY


class NotSupported(QosError, NotImplementedError):
    """The mechanism or the measurement that the operation needs is not there."""

    code = ErrorCode.ERROR_NOT_SUPPORTED


class NetworkBusy(QosSystemError):
    """The path cannot carry the rate that was asked for."""

    code = ErrorCode.ERROR_NETWORK_BUSY
    posix_errno = errno.EBUSY


class AdapterFailed(QosSystemError):
    """The network interface failed or was removed."""

    code = ErrorCode.ERROR_ADAP_HDW_ERR
    posix_errno = errno.ENETDOWN


class UnexpectedNetworkError(QosSystemError, ConnectionError):
    """The connection to the sink broke."""

    code = ErrorCode.ERROR_UNEXP_NET_ERR
    posix_errno = errno.ECONNRESET


class BadNetworkName(QosSystemError):
    """The address is on this link and nobody answers to it."""

    code = ErrorCode.ERROR_BAD_NET_NAME
    posix_errno = errno.EHOSTDOWN


class InvalidParameter(QosError, ValueError):
    """An argument is outside of what the call accepts."""

    code = ErrorCode.ERROR_INVALID_PARAMETER


class InsufficientBuffer(QosError, BufferError):
    """The buffer is too small for the answer."""

    code = ErrorCode.ERROR_INSUFFICIENT_BUFFER


class Busy(QosSystemError, BlockingIOError):
    """The subsystem is occupied with this flow."""

    code = ErrorCode.ERROR_BUSY
    posix_errno = errno.EBUSY


class AlreadyExists(QosSystemError, FileExistsError):
    """A request of this kind is already pending on the flow."""

    code = ErrorCode.ERROR_ALREADY_EXISTS
    posix_errno = errno.EEXIST


class NoData(QosError, LookupError):
    """There is nothing to report yet."""

    code = ErrorCode.ERROR_NO_DATA


class OperationAborted(QosError, RuntimeError):
    """The pending operation was cancelled, or its flow or handle ended."""

    code = ErrorCode.ERROR_OPERATION_ABORTED


class OperationPending(QosSystemError, BlockingIOError):
    """The operation goes on; its result comes later."""

    code = ErrorCode.ERROR_IO_PENDING
    posix_errno = errno.EINPROGRESS


class ServiceUnavailable(QosSystemError, ConnectionError):
    """The service was insisted on and is not to be had."""

    code = ErrorCode.ERROR_SERVICE_DEPENDENCY_FAIL
    posix_errno = errno.ECONNREFUSED


class DeviceError(QosSystemError):
    """Talking to the kernel failed."""

    code = ErrorCode.ERROR_IO_DEVICE
    posix_errno = errno.EIO


class ReinitializationNeeded(QosSystemError, ConnectionResetError):
    """The handle died with the service, a suspend or the interface: close it, open anew."""

    code = ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED
    posix_errno = errno.ECONNRESET


class FlowNotFound(QosError, KeyError):
    """No flow of that id belongs to this handle."""

    code = ErrorCode.ERROR_NOT_FOUND


class ConnectionWasRefused(QosSystemError, ConnectionRefusedError):
    """The far end refused the experiments' connection."""

    code = ErrorCode.ERROR_CONNECTION_REFUSED
    posix_errno = errno.ECONNREFUSED


class HostUnreachable(QosSystemError):
    """No route leads to the destination, or it does not answer."""

    code = ErrorCode.ERROR_HOST_UNREACHABLE
    posix_errno = errno.EHOSTUNREACH


class RetryLater(QosSystemError, BlockingIOError):
    """Experiments are under way and have not told enough yet."""

    code = ErrorCode.ERROR_RETRY
    posix_errno = errno.EAGAIN


class DisabledByPolicy(QosSystemError, PermissionError):
    """The administrator's policy forbids the path."""

    code = ErrorCode.ERROR_ACCESS_DISABLED_BY_POLICY
    posix_errno = errno.EPERM


class NoSystemResources(QosSystemError):
    """A quota of the subsystem is used up."""

    code = ErrorCode.ERROR_NO_SYSTEM_RESOURCES
    posix_errno = errno.EDQUOT


class TimedOut(QosSystemError, TimeoutError):
    """The answer did not come in time."""

    code = ErrorCode.ERROR_TIMEOUT
    posix_errno = errno.ETIMEDOUT


class ResourceDisabled(QosSystemError):
    """The subsystem is switched off on this host."""

    code = ErrorCode.ERROR_RESOURCE_DISABLED
    posix_errno = errno.ENODEV


_CLASS_OF: dict[ErrorCode, type[QosError]] = {
    cls.code: cls
    for cls in (
        GeneralFailure,
        AccessDenied,
        InvalidHandle,
        NotEnoughMemory,
        NotSupported,
        NetworkBusy,
        AdapterFailed,
        UnexpectedNetworkError,
        BadNetworkName,
        InvalidParameter,
        InsufficientBuffer,
        Busy,
        AlreadyExists,
        NoData,
        OperationAborted,
        OperationPending,
        ServiceUnavailable,
        DeviceError,
        ReinitializationNeeded,
        FlowNotFound,
        ConnectionWasRefused,
        HostUnreachable,
        RetryLater,
        DisabledByPolicy,
        NoSystemResources,
        TimedOut,
        ResourceDisabled,
    )
}


# Errors of the operating system that mean "a quota is used up" rather than "it is broken".
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_FORBIDDEN = frozenset({errno.EPERM, errno.EACCES})
_MISSING = frozenset({errno.ENOPROTOOPT, errno.EOPNOTSUPP})


def refusal_of_os_error(error: OSError, doing: str) -> Refusal:
    """The refusal for an error of the operating system.

    Args:
        error: What it raised.
        doing: What was being done, as the beginning of a sentence.

    Returns:
        ERROR_ACCESS_DENIED for lack of rights, ERROR_NOT_SUPPORTED for lack of the
        mechanism, ERROR_NO_SYSTEM_RESOURCES when descriptors or memory ran out,
        ERROR_IO_DEVICE for the rest.
    """
    if error.errno in _FORBIDDEN:
        code = ErrorCode.ERROR_ACCESS_DENIED
    elif error.errno in _MISSING:
        code = ErrorCode.ERROR_NOT_SUPPORTED
    elif error.errno in _EXHAUSTED:
        code = ErrorCode.ERROR_NO_SYSTEM_RESOURCES
    else:
        code = ErrorCode.ERROR_IO_DEVICE
    return Refusal(code, f"{doing}: {error.strerror or error}")


def error_of(refusal: Refusal) -> QosError:
    """The exception for a refusal.

    Args:
        refusal: What the subsystem answered.

    Returns:
        An instance of the class for its code; `GeneralFailure` for a code without one.
    """
    return _CLASS_OF.get(refusal.code, GeneralFailure)(refusal.detail)

"""The last error: one number for each thread, read after a function has failed.

Winsock's WSAGetLastError reads the same slot, as on Windows; programs use either after a
QOS2 call. A success leaves the number as it was.
"""

from __future__ import annotations

import ctypes
import threading

from openqwave.model.codes import FALSE, ErrorCode


class _Slot(threading.local):
    """What each thread has; it starts at ERROR_SUCCESS."""

    code = 0


class WindowsError(OSError):
    """What a program raises for a last error.

    Attributes:
        winerror: The Win32 error number; ``errno`` stays None, for the number is not a
            POSIX one.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.winerror = code
        self.strerror = text

    def __str__(self) -> str:
        """As Windows' Python prints it."""
        return f"[WinError {self.winerror}] {self.strerror}"


_slot = _Slot()


def fail(code: int) -> int:
    """Set the last error and return FALSE."""
    _slot.code = int(code)
    return FALSE


def GetLastError() -> int:
    """The number that this thread's last failure left."""
    return _slot.code


def SetLastError(dwErrCode: int) -> None:
    """Put a number in the slot.

    Args:
        dwErrCode: An int or a ctypes number; its lower 32 bits count.
    """
    number = dwErrCode.value if isinstance(dwErrCode, ctypes._SimpleCData) else dwErrCode  # noqa: SLF001 - ctypes has no public name for its number types
    _slot.code = int(number) & 0xFFFF_FFFF


def get_last_error() -> int:
    """`GetLastError` under the name that ctypes has for it."""
    return _slot.code


def set_last_error(value: int) -> int:
    """`SetLastError` under the name that ctypes has for it; returns the number before."""
    before = _slot.code
    SetLastError(value)
    return before


def FormatError(code: int | None = None) -> str:
    """The name of an error, the last one if none is given."""
    number = _slot.code if code is None else code
    try:
        return ErrorCode(number).name
    except ValueError:
        return f"error {number}"


def WinError(code: int | None = None, descr: str | None = None) -> WindowsError:
    """An exception for an error, to be raised; as ``ctypes.WinError`` on Windows."""
    number = _slot.code if code is None else code
    return WindowsError(number, descr or FormatError(number))


WSAGetLastError = GetLastError
WSASetLastError = SetLastError

__all__ = [
    "FormatError",
    "GetLastError",
    "SetLastError",
    "WSAGetLastError",
    "WSASetLastError",
    "WinError",
    "WindowsError",
    "get_last_error",
    "set_last_error",
]

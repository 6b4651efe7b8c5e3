"""Windows' libraries, as far as this package holds them: ``WinDLL("qwave")``, ``windll.qwave``.

A ctypes program for Windows loads qwave.dll and calls its functions by attribute. Here
the libraries are names for the functions of this package. Argument and result types may
be declared as ctypes lets one declare them; they are kept and not needed, because the
functions understand every form of argument anyway. ``errcheck`` works as in ctypes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from openqwave.qos2 import (
    events,
    handles,
    lasterror,
    membership,
    notifying,
    overlapped,
    querying,
    setting,
    tracking,
)

_LIBRARIES: Final[dict[str, dict[str, Callable[..., Any]]]] = {
    "qwave": {
        function.__name__: function
        for function in (
            handles.QOSCreateHandle,
            handles.QOSCloseHandle,
            tracking.QOSStartTrackingClient,
            tracking.QOSStopTrackingClient,
            membership.QOSEnumerateFlows,
            membership.QOSAddSocketToFlow,
            membership.QOSRemoveSocketFromFlow,
            setting.QOSSetFlow,
            querying.QOSQueryFlow,
            notifying.QOSNotifyFlow,
            notifying.QOSCancel,
        )
    },
    "kernel32": {
        "CloseHandle": events.CloseHandle,
        "CreateEventA": events.CreateEventA,
        "CreateEventW": events.CreateEventW,
        "GetLastError": lasterror.GetLastError,
        "GetOverlappedResult": overlapped.GetOverlappedResult,
        "ResetEvent": events.ResetEvent,
        "SetEvent": events.SetEvent,
        "SetLastError": lasterror.SetLastError,
        "WaitForMultipleObjects": events.WaitForMultipleObjects,
        "WaitForSingleObject": events.WaitForSingleObject,
    },
    "ws2_32": {
        "WSAGetLastError": lasterror.WSAGetLastError,
        "WSASetLastError": lasterror.WSASetLastError,
    },
}


class Function:
    """One function of a library.

    Attributes:
        argtypes: As the program declared them; not needed.
        restype: As the program declared it; not needed.
        errcheck: Called with the result, the function and the arguments; what it returns
            is the call's result.
    """

    def __init__(self, name: str, body: Callable[..., Any]) -> None:
        self.__name__ = name
        self._body = body
        self.argtypes: Any = None
        self.restype: Any = None
        self.errcheck: Callable[[Any, Function, tuple[Any, ...]], Any] | None = None

    def __call__(self, *arguments: Any) -> Any:  # noqa: ANN401 - as ctypes
        """Call it."""
        result = self._body(*arguments)
        if self.errcheck is None:
            return result
        return self.errcheck(result, self, arguments)


class WinDLL:
    """A library by its Windows name.

    Args:
        name: ``qwave``, ``kernel32`` or ``ws2_32``, with or without ``.dll`` and a folder.
        use_last_error: Accepted; the last error is always kept for each thread.

    Raises:
        FileNotFoundError: There is no such library here, as ctypes says it on Windows.
    """

    def __init__(self, name: str, *, use_last_error: bool = False) -> None:
        del use_last_error
        base = name.replace("\\", "/").rpartition("/")[2].lower().removesuffix(".dll")
        functions = _LIBRARIES.get(base)
        if functions is None:
            raise FileNotFoundError(f"there is no library {name!r} here, only {[*_LIBRARIES]}")
        self._name = name
        for function, body in functions.items():
            setattr(self, function, Function(function, body))

    def __getattr__(self, name: str) -> Function:
        """Reached for what the library does not have."""
        raise AttributeError(f"function {name!r} not found in {self._name!r}")

    def __getitem__(self, name: str) -> Function:
        """A function by its name."""
        function: Function = getattr(self, name)
        return function


class Loader:
    """``windll``: libraries by attribute, each loaded once."""

    def __getattr__(self, name: str) -> WinDLL:
        """Load a library."""
        try:
            library = WinDLL(name)
        except FileNotFoundError as error:
            raise AttributeError(str(error)) from None
        setattr(self, name, library)
        return library

    def LoadLibrary(self, name: str) -> WinDLL:
        """Load a library anew."""
        return WinDLL(name)


windll = Loader()
qwave = windll.qwave

__all__ = ["WinDLL", "qwave", "windll"]

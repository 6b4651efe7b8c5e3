"""Descriptors that come from other processes, and may be of anything.

What a client passes, or what stands under a number of its own, is its choice: a pipe, a terminal,
a file of a file system that answers when it likes. One question can be put to all of them without
waiting for anybody, because the kernel refuses it before it asks the file: getsockopt(2). The
option asked for is SO_COOKIE, which tells at once whether it is the right socket.
"""

from __future__ import annotations

import array
import ctypes
import os
import socket
from typing import TYPE_CHECKING

from openqwave.drivers.closing import close_socket
from openqwave.drivers.sockets import SO_COOKIE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from openqwave.drivers.processes import Process

_getsockopt = ctypes.CDLL(None, use_errno=True).getsockopt
_getsockopt.argtypes = [
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
]

_SOCKET = socket.SOL_SOCKET
_COOKIE_BYTES = 8


class CookieReader:
    """Reads cookies of descriptors that may be of anything; for one thread at a time."""

    __slots__ = ("_arguments", "_cookie", "_length")

    def __init__(self) -> None:
        self._cookie, self._length = ctypes.c_uint64(), ctypes.c_uint32(_COOKIE_BYTES)
        self._arguments = ctypes.addressof(self._cookie), ctypes.addressof(self._length)

    def read(self, descriptor: int) -> int:
        """The cookie.

        Raises:
            OSError: ENOTSOCK for what is no socket.
        """
        if _getsockopt(descriptor, _SOCKET, SO_COOKIE, *self._arguments) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return self._cookie.value


class LentSocket(socket.socket):
    """A descriptor that a client passed.

    Attributes:
        process: Who passed it; None if that is not known.
        number: The client's own number of it, or -1: where to look for it later.
        cookie: The kernel's name for the socket.
    """

    __slots__ = ("cookie", "number", "process")

    def __init__(self, descriptor: int, process: Process | None = None, number: int = -1) -> None:
        """Take a descriptor over.

        Args:
            descriptor: What was passed. Where this raises, it is still the caller's to close.
            process: Who passed it.
            number: The client's own number of it.

        Raises:
            OSError: It is of no socket.
        """
        # Before anything else is asked, because it may be of anything.
        self.cookie = CookieReader().read(descriptor)
        self.process = process
        self.number = number
        super().__init__(fileno=descriptor)

    def close(self) -> None:
        """Let go of the client's socket, without waiting for anything."""
        close_socket(self)


def descriptors_in(ancillary: Iterable[tuple[int, int, bytes]]) -> tuple[int, ...]:
    """The descriptors that came with a packet, each open here now and the caller's to close.

    Args:
        ancillary: As `socket.socket.recvmsg` gives it.
    """
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == _SOCKET and kind == socket.SCM_RIGHTS:
            # What was cut off in the middle of a number was not opened.
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return tuple(found)

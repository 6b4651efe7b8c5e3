"""The kernel's word on which sockets were closed.

Sockets that somebody has an interest in are announced when they are taken apart
(SKNLGRP_INET_UDP_DESTROY and its sisters, linux/sock_diag.h), with their cookies; it needs no
rights, and costs nothing where nobody listens. The kernel forgets to tell when the listener does
not read: what is missed is found by whoever looks after sockets otherwise.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from typing import Final

_NETLINK_SOCK_DIAG = 4
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
# TCP and UDP of IPv4, then of IPv6.
_GROUPS: Final = (1, 2, 3, 4)
# struct nlmsghdr; in it struct inet_diag_msg: four bytes, ports, two addresses, interface, cookie.
_HEAD = struct.Struct("=IHHII")
_COOKIE = struct.Struct("=II")
_COOKIE_AT = 16 + 4 + 4 + 16 + 16 + 4
_MESSAGE_BYTES: Final = 1 << 15
# A thousand closed sockets are some 300 kB of the kernel's accounts.
_ROOM_BYTES: Final = 1 << 20


class ClosedSockets:
    """Listens in the network namespace in which it was made."""

    def __init__(self) -> None:
        """Begin to listen; a kernel that tells nothing of this is no error.

        Raises:
            OSError: No descriptor is left.
        """
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM_BYTES)
        # A socket without a number of its own is taken for the sender, and left out.
        self._socket.bind((0, 0))
        for group in _GROUPS:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def take(self) -> set[int]:
        """The cookies of those closed since last asked."""
        taken: set[int] = set()
        while True:
            try:
                data = self._socket.recv(_MESSAGE_BYTES)
            except BlockingIOError:
                return taken
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue
            at = 0
            while at + _COOKIE_AT + 8 <= len(data):
                length = _HEAD.unpack_from(data, at)[0]
                low, high = _COOKIE.unpack_from(data, at + _COOKIE_AT)
                taken.add(high << 32 | low)
                at += max(16, length) + 3 & ~3

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

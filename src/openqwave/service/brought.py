"""What comes with packets and has to go again: sockets that were lent, and the connection itself.

A program's sockets are lent for as long as its request takes.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Final

from openqwave.drivers.closing import close_safely
from openqwave.drivers.passing import LentSocket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openqwave.drivers.processes import Process

# The queue of a connection holds ten packets by default (net.unix.max_dgram_qlen); whoever has
# sent more than this does not read what is said.
_UNREAD_AT_MOST: Final = 64


class Brought:
    """What came with one packet; whatever nobody takes is closed in the end."""

    __slots__ = ("_numbers", "_process", "_sockets")

    def __init__(self, descriptors: Sequence[int], process: Process | None) -> None:
        """Take descriptors over.

        Args:
            descriptors: What came.
            process: Who passed it.
        """
        self._numbers = list(descriptors)
        self._process = process
        self._sockets: list[LentSocket] = []

    def sockets(self) -> list[LentSocket]:
        """What came, as sockets; anything else is closed."""
        for number in self._numbers:
            try:
                self._sockets.append(LentSocket(number, self._process))
            except OSError:
                close_safely(number)
        self._numbers.clear()
        return self._sockets

    def take(self) -> int:
        """The first, whatever it is, now the caller's to close; -1 where nothing came."""
        return self._numbers.pop(0) if self._numbers else -1

    def give_away(self) -> None:
        """The sockets are somebody else's to close."""
        self._sockets = []

    def let_go(self) -> None:
        """Close what is left."""
        close_all(self._numbers)
        let_go(self._sockets)


def close_all(descriptors: Sequence[int]) -> None:
    """Close what nobody asked for."""
    for number in descriptors:
        close_safely(number)


def let_go(sockets: Sequence[LentSocket]) -> None:
    """Close what is needed no more."""
    for sock in sockets:
        with contextlib.suppress(OSError):
            sock.close()


# With most packets nothing comes.
NOTHING: Final = Brought((), None)


def hang_up(sock: socket.socket) -> None:
    """Close a connection, so that what was said last is read.

    What a peer sent and nobody read would make the kernel tell it of a broken connection first.
    Descriptors that come with it are dropped by the kernel.
    """
    with contextlib.suppress(OSError):
        for _ in range(_UNREAD_AT_MOST):
            if not sock.recv(1, socket.MSG_DONTWAIT):
                break
    sock.close()

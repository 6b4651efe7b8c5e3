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


def sockets_of(descriptors: Sequence[int], process: Process | None) -> list[LentSocket]:
    """What was passed, as sockets; anything else is closed."""
    found: list[LentSocket] = []
    for number in descriptors:
        try:
            found.append(LentSocket(number, process))
        except OSError:
            close_safely(number)
    return found


def close_all(descriptors: Sequence[int]) -> None:
    """Close what nobody asked for."""
    for number in descriptors:
        close_safely(number)


def let_go(sockets: Sequence[LentSocket]) -> None:
    """Close what is needed no more."""
    for sock in sockets:
        with contextlib.suppress(OSError):
            sock.close()


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

"""Sockets that came with a packet: a program's, lent for as long as its request takes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from openqwave.drivers.closing import close_safely
from openqwave.drivers.passing import LentSocket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openqwave.drivers.processes import Process


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

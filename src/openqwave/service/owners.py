"""The processes at the other ends: each is held once, for as long as it has connections.

A connection alone does not tell that its owner has died: a forked child may hold a copy of it. So
each process is watched by its pidfd, and what becomes readable there is its end. A pid is given
again; who had it before stays known by its own pidfd, until its end has been seen to.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Final

from openqwave.drivers.processes import process_of

if TYPE_CHECKING:
    import socket

    from openqwave.drivers.processes import Process
    from openqwave.service.peers import Peer

_NONE: Final = -1


class Owners:
    """Processes by their pidfds, with their connections."""

    def __init__(self, epoll: select.epoll) -> None:
        """Begin with none.

        Args:
            epoll: Watches them.
        """
        self._epoll = epoll
        self._known: dict[int, tuple[Process, set[Peer]]] = {}
        self._newest: dict[int, int] = {}

    def take_hold(self, sock: socket.socket) -> Process | None:
        """The process that connected; to be let go of.

        Raises:
            OSError: There is no descriptor left for it.
        """
        process = process_of(sock)
        if process is None:
            return None
        known = self._known.get(self._newest.get(process.pid, _NONE))
        if known is not None and known[0].is_alive():
            process.close()
            return known[0]
        number = process.fileno()
        self._known[number] = process, set()
        self._newest[process.pid] = number
        self._epoll.register(number, select.EPOLLIN)
        return process

    def add(self, process: Process, peer: Peer) -> None:
        """A connection of a process that is held."""
        self._known[process.fileno()][1].add(peer)

    def let_go(self, process: Process, peer: Peer | None = None) -> None:
        """A connection is no more, or never was; without any, nothing is held of a process."""
        number = process.fileno()
        known = self._known.get(number)
        if known is None:
            return
        if peer is not None:
            known[1].discard(peer)
        if not known[1]:
            del self._known[number]
            if self._newest.get(process.pid) == number:
                del self._newest[process.pid]
            self._epoll.unregister(number)
            process.close()

    def find(self, number: int) -> tuple[Process, list[Peer]] | None:
        """The process with a pidfd, and its connections; None if it is nobody's."""
        known = self._known.get(number)
        return None if known is None else (known[0], list(known[1]))

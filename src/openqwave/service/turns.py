"""Whose packet is read next, when many have sent one.

The service reads one packet at a time. Whoever sends a thousand must not make another wait for
a thousand: turns go round the users, within a user round its processes, and within a process
round its connections. So a user with two thousand connections delays another user's packet by
one of its own, and no more (round robin with one packet a turn: fair queueing where every
packet costs about the same; Nagle, RFC 970 section 4).
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Turns(Generic[_T]):
    """Connections that have something to read."""

    __slots__ = ("_processes", "_users", "_waiting")

    def __init__(self) -> None:
        # Each level holds what has somebody waiting, in the order of their turns.
        self._users: deque[int] = deque()
        self._processes: dict[int, deque[int]] = {}
        self._waiting: dict[tuple[int, int], deque[_T]] = {}

    def __bool__(self) -> bool:
        return bool(self._users)

    def add(self, uid: int, pid: int, connection: _T) -> None:
        """A connection has something to read; it waits behind the others of its process."""
        key = (uid, pid)
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(connection)
            return
        self._waiting[key] = deque((connection,))
        processes = self._processes.get(uid)
        if processes is not None:
            processes.append(pid)
            return
        self._processes[uid] = deque((pid,))
        self._users.append(uid)

    def take(self) -> _T | None:
        """The connection whose turn it is, which waits no longer; None where nobody waits."""
        if not self._users:
            return None
        uid = self._users.popleft()
        processes = self._processes[uid]
        pid = processes.popleft()
        waiting = self._waiting[uid, pid]
        connection = waiting.popleft()
        if waiting:
            processes.append(pid)
        else:
            del self._waiting[uid, pid]
        if processes:
            self._users.append(uid)
        else:
            del self._processes[uid]
        return connection

"""Sockets that other processes have already: fetched one after the other, and let go of again.

What the kernel notes of a socket it notes when that is made. Of those that were there before, it
can be told by a descriptor, which is fetched from a process that has one (pidfd_getfd(2)). A socket
that several processes hold is met in each of them.

A process is named by a number that may be given again, so it is held by a pidfd first and looked at
then: what still is what was meant is it for as long as it is held.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from openqwave.drivers.passing import LentSocket
from openqwave.drivers.processes import Process
from openqwave.model.sockets import OutOfReach

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_PREFIX: Final = "socket:["
_INET: Final = frozenset({socket.AF_INET, socket.AF_INET6})


@dataclass(frozen=True, slots=True)
class Reached:
    """What came of a search.

    Attributes:
        sockets: How many were given.
        unreachable: How many processes had some that could not be fetched.
    """

    sockets: int = 0
    unreachable: int = 0

    def __add__(self, other: Reached) -> Reached:
        """Both together."""
        return Reached(self.sockets + other.sockets, self.unreachable + other.unreachable)


def each_socket(
    pids: Iterable[int],
    is_meant: Callable[[int], bool],
    give: Callable[[int, int], None],
    most_s: float = float("inf"),
) -> Reached:
    """Give a descriptor of each TCP or UDP socket of processes, for as long as the call takes.

    Args:
        pids: The processes.
        is_meant: Is it one of those that are meant? Asked once it cannot become another one.
        give: Called with the process and the descriptor; what it raises of OSError counts as not
            reached.
        most_s: Where it takes longer it is given up, and the process at which it was counts as not
            reached, as do those that come after it as one.
    """
    end_s = time.monotonic() + most_s
    found = Reached()
    for pid in pids:
        if time.monotonic() > end_s:
            return found + Reached(0, 1)
        process = Process.of_pid(pid)
        if process is None:
            continue
        with process:
            if is_meant(pid) and process.is_alive():
                found += _of_process(process, give, end_s)
    return found


def _of_process(process: Process, give: Callable[[int, int], None], end_s: float) -> Reached:
    count, is_reached = 0, True
    try:
        numbers = _numbers_of(process.pid, end_s)
    except FileNotFoundError:
        return Reached()
    except OSError:
        return Reached(0, 1)
    for number in numbers:
        if time.monotonic() > end_s:
            return Reached(count, 1)
        try:
            fetched = process.fetch(number)
        except OutOfReach:
            return Reached(count, 1)
        except OSError:
            is_reached = False
            continue
        if fetched is None:
            continue
        try:
            sock = LentSocket(fetched)
        except OSError:
            # Another file stands there by now.
            os.close(fetched)
            continue
        try:
            if sock.family in _INET:
                give(process.pid, sock.fileno())
                count += 1
        except OSError:
            is_reached = False
        finally:
            sock.close()
    return Reached(count, int(not is_reached))


def _numbers_of(pid: int, end_s: float) -> list[int]:
    found: list[int] = []
    folder = os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(folder):
            # Whoever is late is told so at the first of these.
            if found and time.monotonic() > end_s:
                break
            try:
                link = os.readlink(name, dir_fd=folder)
            except FileNotFoundError:
                continue
            if link.startswith(_PREFIX):
                found.append(int(name))
    finally:
        os.close(folder)
    return found


def all_pids() -> list[int]:
    """All processes that can be seen, but this one."""
    own = str(os.getpid())
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and name != own]

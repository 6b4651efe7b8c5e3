"""Other processes: held by a pidfd, and what can be had of their descriptors.

A pid is a number that is given again to a stranger; a pidfd (pidfd_open(2)) stays with its
process. Whoever connects by AF_UNIX leaves one behind (SO_PEERPIDFD, Linux 6.5); before, it is
made from the pid in SO_PEERCRED, and who exits and is replaced between `connect` and that moment
is taken for another.

**Fetching.** pidfd_getfd(2), Linux 5.6, copies a descriptor out of another process. It asks for
the right to trace that process: CAP_SYS_PTRACE, or the same user where no Yama forbids it.
What comes is what stands under the number *now*, which may be another file than was meant; it is
the caller's to look before it touches it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
from pathlib import Path
from typing import Self

from openqwave.drivers.closing import close_safely
from openqwave.model.sockets import OutOfReach

# asm-generic/socket.h; the socket module has no name for it.
_SO_PEERPIDFD = 77
_UCRED = struct.Struct("3i")

# One number on every architecture that Python runs on (asm-generic/unistd.h).
_NR_PIDFD_GETFD = 438

# linux/capability.h.
_CAP_SYS_PTRACE = 19

# What no process has a descriptor under: fs.nr_open ends below it.
_IMPOSSIBLE_NUMBER = (1 << 31) - 1

_WHAT_TO_DO = "give qwaved CAP_SYS_PTRACE"

# Nothing stands under that number; there is no such process any more.
_NOTHING_THERE = frozenset({errno.EBADF, errno.ESRCH})

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_uint]
_syscall.restype = ctypes.c_long


class Process:
    """One process, for as long as it is wanted to be told from later ones of its pid.

    Attributes:
        pid: Its number in this pid namespace.
        rest_until_ns: No search through its descriptors before (monotonic time).
    """

    __slots__ = ("_pidfd", "pid", "rest_until_ns")

    def __init__(self, pid: int, pidfd: int) -> None:
        """Take a process over.

        Args:
            pid: Its number.
            pidfd: A descriptor of it, closed by `close`.
        """
        self.pid = pid
        self.rest_until_ns = 0
        self._pidfd = pidfd

    @classmethod
    def of_pid(cls, pid: int) -> Self | None:
        """The process that has the number now; None if there is none."""
        try:
            return cls(pid, os.pidfd_open(pid))
        except OSError as error:
            if error.errno in _EXHAUSTED:
                raise
            return None

    def fileno(self) -> int:
        """The pidfd, readable once the process has ended; -1 after `close`."""
        return self._pidfd

    def is_alive(self) -> bool:
        """Does it still run? Not after `close`."""
        if self._pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)

    def fetch(self, number: int) -> int | None:
        """A copy of one of its descriptors, which the caller closes.

        Args:
            number: Its file number there; 0 or above.

        Returns:
            The number here; None when there is nothing under it, or the process has ended.

        Raises:
            OutOfReach: This process may not fetch from it; the text says what would help.
            OSError: There is no descriptor left for it.
        """
        fetched: int = _syscall(_NR_PIDFD_GETFD, self._pidfd, number, 0)
        if fetched >= 0:
            return fetched
        code = ctypes.get_errno()
        if code in _NOTHING_THERE:
            return None
        raise _error_of(code, self.pid)

    def refuse_fetching(self) -> str:
        """Why none of its descriptors can be had, as a sentence; empty if they can."""
        try:
            fetched = self.fetch(_IMPOSSIBLE_NUMBER)
        except OutOfReach as error:
            return str(error.strerror)
        if fetched is not None:
            close_safely(fetched)
        return ""

    def close(self) -> None:
        """Let go of it; harmless when done before."""
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def peer_ids(sock: socket.socket) -> tuple[int, int, int]:
    """Pid, effective uid and gid of whoever connected, as the kernel wrote them down then.

    Args:
        sock: A connected AF_UNIX socket.
    """
    pid, uid, gid = _UCRED.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    )
    return pid, uid, gid


def process_of(sock: socket.socket) -> Process | None:
    """The process that connected.

    Args:
        sock: A connected AF_UNIX socket.

    Returns:
        None if it is gone, or in a pid namespace that this one cannot see into.

    Raises:
        OSError: There is no descriptor left for it.
    """
    pid = peer_ids(sock)[0]
    if pid <= 0:
        return None
    try:
        return Process(pid, sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise
        # Before Linux 6.5 nothing else tells; later ones say so of who is gone already.
        return Process.of_pid(pid) if error.errno == errno.ENOPROTOOPT else None


def _error_of(code: int, pid: int) -> OSError:
    """What a failure to fetch means."""
    if code == errno.EPERM:
        return OutOfReach(
            errno.EPERM,
            f"sockets of process {pid} cannot be reached without its help: {_WHAT_TO_DO}",
        )
    if code == errno.ENOSYS:
        return OutOfReach(
            errno.EOPNOTSUPP, "before Linux 5.6 no process reaches the sockets of another"
        )
    return OSError(code, os.strerror(code))


def holds_capability(who: int | str, capability: int) -> bool:
    """Is a capability in somebody's effective set?

    Args:
        who: A process, as /proc names it.
        capability: Its number in linux/capability.h.

    Raises:
        OSError: There is no such process, or it may not be looked at.
    """
    status = Path(f"/proc/{who}/status").read_text(encoding="utf-8", errors="replace")
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & 1 << capability)
    return False


def refuse_tracing() -> str:
    """Why sockets of other users' processes cannot be reached; empty where they can."""
    if holds_capability("thread-self", _CAP_SYS_PTRACE):
        return ""
    return f"sockets of other users' processes cannot be reached without their help: {_WHAT_TO_DO}"

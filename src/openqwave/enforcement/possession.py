"""A file that one process has at a time, and that its death sets free.

The lock is flock(2), which goes with the last descriptor. That is not always with the process: one
that was killed can be kept from its end by a file system that does not answer (FUSE is waited for
when a descriptor is closed, and no signal ends that), and keeps all it had. Such a process runs no
instruction any more. So who has the file is written in it, and from one who is in the middle of
its end the file is taken over: as a copy, in the file's place.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
import struct
from pathlib import Path

# A pid.
_OWNER = struct.Struct("=I")

# PF_EXITING of linux/sched.h among the flags in /proc/PID/stat (proc(5), field 9, and the first
# that follows the name is field 3); SIGKILL among the signals that wait.
_FLAGS_AT = 6
_IS_EXITING = 4
_WAITING = ("SigPnd:", "ShdPnd:")
_KILLED = 1 << (signal.SIGKILL - 1)


def open_alone(path: Path, owner_at: int) -> int:
    """Open a file that no other process has, or make it; for its owner only.

    Args:
        path: Where it is.
        owner_at: Where in it stands who has it; see `possess`.

    Returns:
        Its file number; closing it gives it up.

    Raises:
        OSError: It cannot be had; EAGAIN where another process has it.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        if _lock(descriptor):
            return descriptor
        owner = os.pread(descriptor, _OWNER.size, owner_at)
        if len(owner) == _OWNER.size and _is_ending(_OWNER.unpack(owner)[0]):
            return _take_over(descriptor, path)
        raise BlockingIOError(errno.EAGAIN, "another process has it", str(path))
    except BaseException:
        os.close(descriptor)
        raise


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _take_over(descriptor: int, path: Path) -> int:
    """Put a copy in the file's place; closes what it was."""
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    copy = os.open(f"{path}.new", flags, 0o600)
    try:
        if not _lock(copy):
            raise BlockingIOError(errno.EAGAIN, "another process takes it over", str(path))
        size = os.fstat(descriptor).st_size
        os.posix_fallocate(copy, 0, size)
        with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as whole:
            os.pwrite(copy, whole, 0)
        os.replace(f"{path}.new", path)
    except BaseException:
        os.close(copy)
        raise
    os.close(descriptor)
    return copy


def _is_ending(pid: int) -> bool:
    """Was a process killed, and is kept from its end?"""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    # The name, in parentheses, may hold anything.
    if int(stat.rpartition(")")[2].split()[_FLAGS_AT]) & _IS_EXITING:
        return True
    waiting = (line.split()[1] for line in status.splitlines() if line.startswith(_WAITING))
    return any(int(signals, 16) & _KILLED for signals in waiting)


def possess(descriptor: int, owner_at: int) -> None:
    """Write down that this process has the file."""
    os.pwrite(descriptor, _OWNER.pack(os.getpid()), owner_at)

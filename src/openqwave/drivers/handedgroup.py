"""A control group (version 2) whose directory somebody handed over, held until nobody is in it.

**What it is.** A descriptor of a stranger may be of a file system that answers when it likes, so it
is asked one question only which no file system is waited for (statx(2) with AT_STATX_DONT_SYNC):
its device and inode. All mounts of the hierarchy are one device, and the inode is the group's
number. From then on it is the kernel's own directory.

**When it ends.** ``cgroup.events`` says whether processes are in the group or below it, and
is ready with POLLPRI when that may have changed (cgroups(7)); reading it takes that back.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import stat
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from openqwave.drivers.cgroups import is_ours
from openqwave.drivers.closing import close_safely
from openqwave.model.cgroups import group_in

if TYPE_CHECKING:
    from collections.abc import Generator

    from openqwave.model.cgroups import GroupMount

# linux/stat.h and linux/fcntl.h.
_AT_EMPTY_PATH: Final = 0x1000
_AT_STATX_DONT_SYNC: Final = 0x4000
_STATX_BASIC_STATS: Final = 0x07FF
# Room for what later kernels add.
_STATX_BYTES: Final = 256

_EVENTS: Final = "cgroup.events"
_PROCESSES: Final = "cgroup.procs"
_POPULATED: Final = b"populated 1"

# How many folders are looked at for one whose place nothing tells: a tenth of a second. Of a run
# that is not found the place is not shown, and the next start does not take it up.
_MOST_FOLDERS: Final = 1_000

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Statx(ctypes.Structure):
    """struct statx, as far as it is looked at."""

    _fields_ = (
        ("mask", ctypes.c_uint32),
        ("blksize", ctypes.c_uint32),
        ("attributes", ctypes.c_uint64),
        ("nlink", ctypes.c_uint32),
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("mode", ctypes.c_uint16),
        ("spare", ctypes.c_uint16),
        ("ino", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("attributes_mask", ctypes.c_uint64),
        ("times", ctypes.c_uint8 * 64),
        ("rdev_major", ctypes.c_uint32),
        ("rdev_minor", ctypes.c_uint32),
        ("dev_major", ctypes.c_uint32),
        ("dev_minor", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 112),
    )


class NoGroup(Exception):
    """What was handed over is no directory of a control group; the text says what it is."""


class HandedGroup:
    """A group whose directory is held open.

    Attributes:
        number: The kernel's number of it.
        uid: The user that it belongs to.
        path: As ``/proc/PID/cgroup`` has it; empty where it cannot be seen from here.
        is_gone: It was removed, as `is_populated` has found.
    """

    def __init__(self, directory: int, mount: GroupMount, likely: int = 0) -> None:
        """Take a descriptor over.

        Args:
            directory: What was handed over, which is closed with this, and where this raises.
            mount: Where groups are here.
            likely: A process that is probably in it, which tells where it is at once; 0 for none.

        Raises:
            NoGroup: It is something else, or its path is no text.
            OSError: It is no more, or there is no descriptor to be had.
        """
        self._mount = mount
        self._directory = self._events = -1
        self.is_gone = False
        try:
            found = _look(directory)
            device = os.stat(mount.point).st_dev
            if (found.dev_major, found.dev_minor) != (os.major(device), os.minor(device)):
                raise NoGroup("it is of another file system than the cgroups (v2) of this host")
            if not stat.S_ISDIR(found.mode):
                raise NoGroup("it is a file of a cgroup, not its directory")
            self.number: int = found.ino
            self.uid: int = found.uid
            # One that can be read, whatever the other was opened for.
            self._directory = _opened(".", directory)
            self._events = os.open(_EVENTS, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
            self.path = self._find(likely)
            if not _is_text(self.path):
                raise NoGroup("its path is no UTF-8, and could not be told to anybody")
        except BaseException:
            self.close()
            raise
        finally:
            close_safely(directory)

    @classmethod
    def at(cls, path: str, mount: GroupMount) -> Self:
        """The group at a path.

        Raises:
            NoGroup: It cannot be seen from here.
            OSError: There is none, or there is no descriptor to be had.
        """
        folder = mount.folder_of(path)
        if folder is None:
            raise NoGroup(f"{path} is not below {mount.point}")
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return cls(number, mount)

    def fileno(self) -> int:
        """Ready with POLLPRI when `is_populated` may have changed; -1 after `close`."""
        return self._events

    def is_populated(self) -> bool:
        """Are processes in it, or below?"""
        try:
            return _POPULATED in os.pread(self._events, 256, 0)
        except OSError as error:
            # It was removed, and that takes its being empty.
            if error.errno == errno.ENODEV:
                self.is_gone = True
                return False
            raise

    def processes(self) -> Generator[int, None, None]:
        """The processes that are in it and below, group by group, those of here only."""
        waiting = deque([_opened(".", self._directory)])
        try:
            while waiting:
                folder = waiting.popleft()
                try:
                    yield from _processes_of(folder)
                    waiting += _folders_below(folder)
                finally:
                    os.close(folder)
        finally:
            for folder in waiting:
                os.close(folder)

    def holds(self, pid: int) -> bool:
        """Is a process in it or below, now?"""
        where = _group_of(pid)
        base = self.path.rstrip("/")
        return bool(self.path) and where is not None and f"{where}/".startswith(f"{base}/")

    def remove(self) -> bool:
        """Remove it, where it was made for a run, is empty and may be; whether it is gone."""
        folder = self._mount.folder_of(self.path) if self.path else None
        if folder is None:
            return False
        with contextlib.suppress(OSError):
            if os.stat(folder).st_ino == self.number and is_ours(Path(folder)):
                os.rmdir(folder)
                return True
        return False

    def close(self) -> None:
        """Let go of it; harmless when done before."""
        for number in (self._directory, self._events):
            if number >= 0:
                os.close(number)
        self._directory = self._events = -1

    def _find(self, likely: int) -> str:
        """Where it is: where the likely process is, where its descriptor is, or else looked for.

        The two are the choice of whoever handed it over, and looking takes time: only so far.
        """
        mount = self._mount
        guess = _group_of(likely) if likely > 0 else None
        if guess is not None and self._is_at(mount.folder_of(guess)):
            return guess
        opened = os.readlink(f"/proc/self/fd/{self._directory}")
        if f"{opened}/".startswith(f"{mount.point.rstrip('/')}/") and self._is_at(opened):
            return self._group_at(opened)
        for folder, _, _ in itertools.islice(os.walk(mount.point), _MOST_FOLDERS):
            if self._is_at(folder):
                return self._group_at(folder)
        return ""

    def _group_at(self, folder: str) -> str:
        base = self._mount.root.rstrip("/")
        return base + folder.removeprefix(self._mount.point.rstrip("/")) or "/"

    def _is_at(self, folder: str | None) -> bool:
        if folder is None:
            return False
        try:
            return os.stat(folder).st_ino == self.number
        except OSError:
            return False


def _is_text(path: str) -> bool:
    """Can it be written in a file or an answer? Whoever makes a group names it as he likes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _look(directory: int) -> _Statx:
    found = _Statx()
    flags = _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC
    if _libc.statx(directory, b"", flags, _STATX_BASIC_STATS, ctypes.byref(found)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return found


def _group_of(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            return group_in(file.read())
    except OSError:
        return None


def _processes_of(folder: int) -> list[int]:
    try:
        number = os.open(_PROCESSES, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
        with open(number, encoding="ascii") as file:
            # 0 is a process of another pid namespace, which cannot be seen from here.
            return [pid for line in file if (pid := int(line))]
    except OSError:
        # A group of threads has no list of its own; one that was removed has none either.
        return []


def _folders_below(folder: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        with os.scandir(folder) as entries:
            names = [each.name for each in entries if each.is_dir(follow_symlinks=False)]
        for name in names:
            with contextlib.suppress(OSError):
                found.append(_opened(name, folder))
    return found


def _opened(name: str, above: int) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=above)

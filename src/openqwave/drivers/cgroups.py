"""Control groups (version 2) that hold one program and what it starts.

A socket belongs for ever to the group of the process that made it, and an accepted one to that of
its listener; so whoever is in a group of its own is told from everybody else by the kernel itself.
A group is a folder. It is made below the one that the process is in already, so that whatever
holds for that one (limits, an administrator's rules) goes on to hold, and whoever counts or kills
the processes of that one still finds them.

**Rights.** Making one takes the right to write to the folder above: root, or whoever it was
delegated to, which is what systemd does for a user's own manager and not for the session of a
login. Moving a process takes the right to write ``cgroup.procs`` of the new group and of the
deepest group that is above both; whose process it is, the kernel does not ask.

**What is left.** A group without processes and groups below it can be removed, and not before.
Whoever made one is often gone by then, because it has become the program. So the service removes
it, and who makes the next one beside it sweeps up: names tell the groups of this module.

Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst, kernel/cgroup/cgroup.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from pathlib import Path
from typing import Final, Self

from openqwave.drivers.families import living_thread, look_up
from openqwave.model.cgroups import DELETED, GroupMount, group_in, group_mount

_MOUNTS: Final = "/proc/self/mountinfo"
_PROCESSES: Final = "cgroup.procs"
_THREADS: Final = "cgroup.threads"

# What was made for a command, or for a process that ran already; and for which one: its number, and
# when it was started, because numbers are given again, and mean others in a container.
_OURS: Final = re.compile(r"qwave-(?:run|attach)-(?P<pid>\d{1,10})-(?P<start>\d{1,20})-[0-9a-f]{8}")
_TELLING_BYTES: Final = 4

_MOUNT_ONE: Final = (
    "no cgroup v2 hierarchy is mounted; mount one (mount -t cgroup2 none /sys/fs/cgroup/unified)"
)


class CgroupTrouble(Exception):
    """What was wanted of a group cannot be had; the text says why, and what would help."""


class NotAllowed(CgroupTrouble):
    """This user may not make a group there; somewhere else it may be possible."""


class NoSuchProcess(CgroupTrouble):
    """There is no process of that number, or it has ended."""


class Group:
    """One group, with its folder held open; close it, or use it in a ``with`` statement.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        """Open a group that is there.

        Raises:
            OSError: It is not, or may not be looked at.
        """
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def fileno(self) -> int:
        """A descriptor of the folder."""
        return self._fd

    def take(self, pid: int) -> None:
        """Move a process here, with all its threads; it need not have been elsewhere.

        Args:
            pid: Its number, or that of one of its threads.

        Raises:
            NoSuchProcess: It has ended.
            CgroupTrouble: The kernel does not move it.
        """
        try:
            fd = os.open(_PROCESSES, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._fd)
            try:
                os.write(fd, str(pid).encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise _why_not_moved(error, pid, self.path) from error

    def threads(self) -> list[int]:
        """The threads that are in it, not those in groups below.

        Of processes, the kernel lists those whose first thread is in it, and that may have ended.

        Raises:
            OSError: It is not there any more.
        """
        fd = os.open(_THREADS, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
        with open(fd, encoding="ascii") as file:
            return [int(line) for line in file]

    def remove(self) -> bool:
        """Remove it if it is empty; whether it is gone. Not to be used afterwards."""
        self.close()
        return _is_removed(self.path)

    def close(self) -> None:
        """Let go of it; harmless when done before."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def mounted() -> GroupMount:
    """Where groups are.

    Raises:
        CgroupTrouble: Nowhere.
    """
    try:
        text = Path(_MOUNTS).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise CgroupTrouble(f"{_MOUNTS} cannot be read: {error.strerror}; mount /proc") from error
    mount = group_mount(text)
    if mount is None:
        raise CgroupTrouble(_MOUNT_ONE)
    return mount


def folder_of(mount: GroupMount, pid: int) -> Path:
    """The folder of the group that a process is in.

    Args:
        mount: Where groups are.
        pid: The process.

    Raises:
        NoSuchProcess: There is none.
        CgroupTrouble: It is in no group that can be seen from here.
    """
    try:
        file = Path(f"/proc/{living_thread(pid)}/cgroup")
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise NoSuchProcess(f"there is no process {pid}") from error
    group = group_in(text)
    folder = None if group is None else mount.folder_of(group.removesuffix(DELETED))
    if folder is not None:
        return Path(folder)
    raise CgroupTrouble(
        f"the cgroup of process {pid} is not below {mount.point}, where this container has its "
        "own; do it outside"
    )


def make(parent: Path, kind: str, pid: int) -> Group:
    """Make a group, and sweep up what others have left beside it.

    Args:
        parent: The folder that it is to be in.
        kind: ``run`` or ``attach``.
        pid: Whom it is for.

    Raises:
        NoSuchProcess: It has ended.
        NotAllowed: This user may not.
        CgroupTrouble: The kernel makes none.
    """
    sweep(parent)
    kin = look_up(pid)
    if kin is None:
        raise NoSuchProcess(f"there is no process {pid}")
    path = parent / f"qwave-{kind}-{pid}-{kin.started}-{secrets.token_hex(_TELLING_BYTES)}"
    try:
        path.mkdir()
    except OSError as error:
        raise _why_not_made(error, parent) from error
    try:
        return Group(path)
    except OSError as error:
        _is_removed(path)
        raise CgroupTrouble(f"{path} cannot be opened: {error.strerror}") from error


def is_ours(path: Path) -> bool:
    """Does the name of a folder say that this module made it?"""
    return _OURS.fullmatch(path.name) is not None


def sweep(parent: Path) -> None:
    """Remove empty groups whose process is gone; others of the kind are left to whoever is in."""
    try:
        names = os.listdir(parent)
    except OSError:
        return
    for name in names:
        found = _OURS.fullmatch(name)
        if found is None:
            continue
        # Who has made one and not entered it yet is there; and not gone is who became a command.
        kin = look_up(int(found["pid"]))
        if kin is None or kin.started != int(found["start"]):
            _is_removed(parent / name)


def _is_removed(path: Path) -> bool:
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        # In use, or another user's.
        return False
    return True


def _why_not_made(error: OSError, parent: Path) -> CgroupTrouble:
    text = f"no cgroup can be made below {parent}: {error.strerror or error}"
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return NotAllowed(f"{text}; it belongs to {_owner_of(parent)}")
        case errno.EROFS:
            return NotAllowed(f"{text}; it is mounted read-only")
        case errno.EAGAIN:
            return CgroupTrouble(
                f"{text}; as many are there as are allowed (cgroup.max.descendants, "
                "cgroup.max.depth)"
            )
        case errno.ENOENT:
            return CgroupTrouble(f"{text}; it was removed meanwhile, try again")
    return CgroupTrouble(text)


def _owner_of(folder: Path) -> str:
    with contextlib.suppress(OSError):
        uid = folder.stat().st_uid
        return "root" if uid == 0 else f"user {uid}"
    return "somebody else"


def _why_not_moved(error: OSError, pid: int, path: Path) -> CgroupTrouble:
    text = f"process {pid} cannot be moved to {path}: {error.strerror or error}"
    match error.errno:
        case errno.ESRCH:
            return NoSuchProcess(f"process {pid} has ended")
        case errno.EACCES | errno.EPERM:
            return NotAllowed(f"{text}; root may")
        case errno.EOPNOTSUPP:
            return CgroupTrouble(f"{text}; the cgroup above is for threads (cgroup.type)")
        case errno.EBUSY:
            return CgroupTrouble(
                f"{text}; controllers are enabled for the groups below it (cgroup.subtree_control)"
            )
        case errno.ENOENT | errno.ENODEV:
            return CgroupTrouble(f"{text}; the cgroup was removed meanwhile, try again")
        case errno.EINVAL:
            return CgroupTrouble(f"{text}; it is a thread of the kernel")
    return CgroupTrouble(text)

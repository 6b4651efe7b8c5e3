"""Where control groups (cgroups(7), version 2) stand in the file system, told from the mounts.

A process names its group by a path below the root that it can see (``/proc/PID/cgroup``); the
file system has it below a mount point. A container's mount may begin in the middle of the
hierarchy, and then the part of the name that leads there is not part of the path.

Sources: cgroups(7), proc_pid_mountinfo(5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# The unified hierarchy's line of /proc/PID/cgroup.
_UNIFIED: Final = "0::"
# What the kernel puts behind the name of a group, or of a file, that is not there any more.
DELETED: Final = " (deleted)"

# Mountinfo writes blanks and backslashes in a path as a backslash and so many octal digits.
_OCTAL_DIGITS: Final = 3


@dataclass(frozen=True, slots=True)
class GroupMount:
    """A mount of the unified hierarchy.

    Attributes:
        point: Where it is.
        root: The group that stands there.
    """

    point: str
    root: str

    def folder_of(self, group: str) -> str | None:
        """Where a group is in the file system.

        Args:
            group: As processes name it, from ``/`` on.

        Returns:
            Its folder; None if the mount does not show it.
        """
        base = self.root.rstrip("/")
        is_below = group == base or group.startswith(f"{base}/")
        if not is_below or ".." in group.split("/"):
            return None
        return f"{self.point}{group.removeprefix(base)}".rstrip("/") or "/"


def group_in(text: str) -> str | None:
    """The group that a process is in, as it is written: with `DELETED` behind one that has gone.

    Args:
        text: What ``/proc/PID/cgroup`` says.

    Returns:
        Its path; None on a host without the unified hierarchy.
    """
    # Whoever makes a group names it as he likes, but for ends of lines.
    for line in text.split("\n"):
        if line.startswith(_UNIFIED):
            return line.removeprefix(_UNIFIED)
    return None


def group_mount(mounts: str) -> GroupMount | None:
    """Where the unified hierarchy is mounted, as far as it can be seen.

    Args:
        mounts: What ``/proc/self/mountinfo`` says.

    Returns:
        Of several mounts the one nearest to the root; None if there is none.
    """
    found: list[tuple[int, str, str]] = []
    for line in mounts.splitlines():
        fields = line.split(" ")
        if "-" not in fields[6:] or fields[fields.index("-", 6) + 1] != "cgroup2":
            continue
        root, point = map(_plain, fields[3:5])
        found.append((0 if root == "/" else 1 + root.count("/"), point, root))
    if not found:
        return None
    _, point, root = min(found)
    return GroupMount(point, root)


def _plain(path: str) -> str:
    """A path as it is, from how mountinfo writes it."""
    first, *rest = path.split("\\")
    return first + "".join(
        [chr(int(each[:_OCTAL_DIGITS], 8)) + each[_OCTAL_DIGITS:] for each in rest]
    )

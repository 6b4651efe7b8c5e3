"""Moving a process and its descendants into a cgroup, while they go on starting others.

What a process starts is born in the cgroup that the process is in. So parents are moved before
their children, and whoever was born outside meanwhile is found by looking again, until nobody is
left. Lost is who was started by somebody who was outside and ended before the next look.

Descendants that stand in other cgroups than the process were put there by somebody who looks for
them there (a service manager, a container's runtime, another run); they stay.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from openqwave.drivers.cgroups import CgroupTrouble, Group, NoSuchProcess, folder_of
from openqwave.drivers.families import family_of
from openqwave.model.value import value

if TYPE_CHECKING:
    from pathlib import Path

    from openqwave.model.cgroups import GroupMount

# Each look finds what was started since the last, and each takes some milliseconds.
_MOST_LOOKS: Final = 100


@value
class Gathered:
    """Who was moved, and who was not.

    Attributes:
        inside: Processes that are in the cgroup, or below it.
        elsewhere: Descendants that stay in cgroups of their own.
    """

    inside: tuple[int, ...]
    elsewhere: tuple[int, ...]


def gather(mount: GroupMount, group: Group, parent: Path, pid: int) -> Gathered:
    """Move a process and its descendants.

    Args:
        mount: Where cgroups are.
        group: Where to.
        parent: From where: the cgroup above it.
        pid: The process.

    Raises:
        NoSuchProcess: The process has ended.
        CgroupTrouble: Somebody cannot be moved, or they multiply faster than they are moved.
    """
    for _ in range(_MOST_LOOKS):
        family = family_of(pid)
        if not family:
            raise NoSuchProcess(f"process {pid} has ended")
        inside, outside, elsewhere = _sorted(mount, group, parent, family)
        if not outside:
            return Gathered(tuple(inside), tuple(elsewhere))
        for each in outside:
            _take(group, each, pid)
    raise CgroupTrouble(
        f"process {pid} starts others faster than they can be moved; hold it (kill -STOP {pid}), "
        "attach to it, and let it go on (kill -CONT)"
    )


def _sorted(
    mount: GroupMount, group: Group, parent: Path, family: list[int]
) -> tuple[list[int], list[int], list[int]]:
    inside: list[int] = []
    outside: list[int] = []
    elsewhere: list[int] = []
    for each in family:
        if each == os.getpid():
            # Whose shell is attached to; it ends at once.
            continue
        try:
            folder = folder_of(mount, each)
        except NoSuchProcess:
            continue
        except CgroupTrouble:
            elsewhere.append(each)
            continue
        if folder.is_relative_to(group.path):
            inside.append(each)
        else:
            (outside if folder == parent else elsewhere).append(each)
    return inside, outside, elsewhere


def _take(group: Group, each: int, pid: int) -> None:
    try:
        group.take(each)
    except NoSuchProcess:
        if each == pid:
            raise


def send_back(group: Group, parent: Path) -> None:
    """Move everybody who is in a cgroup to the one above, and remove it.

    Raises:
        CgroupTrouble: Somebody stays; the text says why.
    """
    with Group(parent) as before:
        for _ in range(_MOST_LOOKS):
            left = group.threads()
            if not left:
                break
            for each in left:
                # With it go the others of its process.
                _take(before, each, pid=0)
    if not group.remove():
        raise CgroupTrouble(
            f"{group.path} cannot be removed yet: processes or other cgroups are in it"
        )

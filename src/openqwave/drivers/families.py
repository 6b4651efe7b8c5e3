"""Processes and what they have started, as /proc has them at one moment.

Who started a process is known as long as that one lives; then the kernel names another one, and
who it was is forgotten. So a program that has gone into the background by itself is nobody's
descendant.

Source: proc_pid_stat(5).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# PF_KTHREAD of linux/sched.h, in the ninth field.
_IS_KERNEL_THREAD: Final = 0x0020_0000
# Of the fields behind the name, which is in parentheses and may hold anything.
_STATE, _PARENT, _FLAGS, _THREADS, _STARTED = 0, 1, 6, 17, 19
_ENDED: Final = frozenset("ZX")


@dataclass(frozen=True, slots=True)
class Kin:
    """One process.

    Attributes:
        pid: Its number.
        parent: Who started it, or looks after it now.
        started: When, in ticks since the machine did; tells it from others of its number.
        is_kernel: It is a thread of the kernel.
        has_ended: It only waits for its parent to hear of its end. One whose first thread alone
            has ended goes on.
    """

    pid: int
    parent: int
    started: int
    is_kernel: bool
    has_ended: bool


def look_up(pid: int) -> Kin | None:
    """A process by its number, or by that of one of its threads; None if there is none."""
    leader = _leader_of(pid)
    fields = _fields_of(leader)
    if not fields:
        return None
    return Kin(
        leader,
        int(fields[_PARENT]),
        int(fields[_STARTED]),
        bool(int(fields[_FLAGS]) & _IS_KERNEL_THREAD),
        fields[_STATE] in _ENDED and int(fields[_THREADS]) <= 1,
    )


def living_thread(pid: int) -> int:
    """A thread of a process that runs: the first one, which has its number, or else another.

    Where a process is, is where its threads are; one that has ended stays where it was.
    """
    try:
        threads = sorted(map(int, os.listdir(f"/proc/{pid}/task")))
    except OSError:
        return pid
    for thread in (pid, *threads):
        fields = _fields_of(thread)
        if fields and fields[_STATE] not in _ENDED:
            return thread
    return pid


def family_of(pid: int) -> list[int]:
    """A process and its descendants that run now, parents before their children.

    Args:
        pid: The process; one that has ended has no family.
    """
    children: dict[int, list[int]] = {}
    there = False
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        kin = look_up(int(name))
        if kin is None or kin.has_ended:
            continue
        children.setdefault(kin.parent, []).append(kin.pid)
        there = there or kin.pid == pid
    # In the order in which they are met, which grows as it is walked.
    family = {pid: None} if there else {}
    waiting = list(family)
    for each in waiting:
        # What was read one after the other can go round in circles, if numbers were given again.
        found = [child for child in children.get(each, []) if child not in family]
        family |= dict.fromkeys(found)
        waiting += found
    return waiting


def user_of(pid: int) -> int | None:
    """The effective uid of a process; None if there is none."""
    for line in _status_of(pid):
        if line.startswith("Uid:"):
            return int(line.split()[2])
    return None


def _fields_of(thread: int) -> list[str]:
    """What /proc has of a thread, from its state on; nothing if there is none."""
    try:
        text = Path(f"/proc/{thread}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _leader_of(pid: int) -> int:
    """The process that a thread is of."""
    for line in _status_of(pid):
        if line.startswith("Tgid:"):
            return int(line.split()[1])
    return pid


def _status_of(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.splitlines()

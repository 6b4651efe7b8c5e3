"""Sockets that were there before rules came: whose they are is told to the kernel once.

Their users and cgroups the kernel knows by itself. What runs in the process that made one it did
not note, so all processes are looked through, and those that run a program of a rule are taken for
the makers of the sockets that they hold. A socket that one process made and another one was given
is taken for either's; what the kernel noted by itself stays as it is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from openqwave.drivers.heldsockets import Reached, all_pids, each_socket
from openqwave.drivers.programs import program_file
from openqwave.enforcement.claims import Executable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from openqwave.drivers.programs import ProgramFile
    from openqwave.enforcement.claims import ProgramMarks


def former_files(paths: Collection[str]) -> list[tuple[str, int]]:
    """Files that are not at a path any more, and that processes run which began before.

    Args:
        paths: Those of programs that rules name.

    Returns:
        Each path with the number of such a file.
    """
    found: set[tuple[str, int]] = set()
    for pid in all_pids():
        file = _file_of(pid)
        if file is not None and file.is_deleted and file.path in paths:
            found.add((file.path, file.inode))
    return sorted(found)


def tell_makers(marks: ProgramMarks, programs: Collection[Executable]) -> Reached:
    """Tell the kernel which sockets processes hold that run these programs.

    Args:
        marks: Notes it.
        programs: The programs.

    Returns:
        How many sockets were told of, and how many processes could not be looked into.
    """
    blind = 0
    makers: dict[int, Executable] = {}
    for pid in all_pids():
        try:
            file = program_file(pid)
        except PermissionError:
            blind += 1
            continue
        if file is not None and _is_one_of(file, programs):
            makers[pid] = Executable(os.path.basename(file.path), file.inode)

    def is_meant(pid: int) -> bool:
        file = _file_of(pid)
        return file is not None and file.inode == makers[pid].inode

    reached = each_socket(makers, is_meant, lambda pid, fd: marks.know_socket(fd, makers[pid]))
    return reached + Reached(0, blind)


def claim_sockets(
    marks: ProgramMarks,
    claim_id: int,
    pids: Iterable[int],
    is_meant: Callable[[int], bool],
    most_s: float,
) -> Reached:
    """Let the sockets that processes have already belong to a run.

    Args:
        marks: Carries it out.
        claim_id: The run's.
        pids: The processes.
        is_meant: Is one still of the run?
        most_s: As many as there is time for.
    """
    return each_socket(pids, is_meant, lambda _, fd: marks.claim_socket(fd, claim_id), most_s)


def _file_of(pid: int) -> ProgramFile | None:
    try:
        return program_file(pid)
    except PermissionError:
        return None


def _is_one_of(file: ProgramFile, programs: Collection[Executable]) -> bool:
    name = os.path.basename(file.path)
    return Executable(name) in programs or Executable(name, file.inode) in programs

"""`qwave attach`: the same for a process that runs already and for its descendants, and its end.

A cgroup is made below that of the process, and the processes are moved there. What they open from
then on belongs to it; sockets that they have already belong to the cgroup in which they were made
for ever, so the service claims these one by one (it fetches their descriptors). The end moves the
processes back to the cgroup above and removes theirs; sockets follow at once, because the service
claims them no more.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from openqwave.cli.overview.words import clean, counted
from openqwave.cli.run.asking import TROUBLE, sentence_of, start
from openqwave.cli.run.gathering import Gathered, gather, send_back
from openqwave.client.programs import open_programs
from openqwave.drivers.cgroups import (
    CgroupTrouble,
    Group,
    NoSuchProcess,
    NotAllowed,
    folder_of,
    is_ours,
    make,
    mounted,
)
from openqwave.drivers.families import look_up, user_of
from openqwave.drivers.programs import NoProcess, process_program

if TYPE_CHECKING:
    from collections.abc import Callable

    from openqwave.cli.run.wishes import Wish
    from openqwave.ipc.messages import ProgramRow, StartedRun

DONE, CANNOT = 0, 2

# What documents are in; raised when a reader of the present ones would read another wrongly.
FORMAT: Final = 1

_INIT: Final = 1
_RULE: Final = "rule"


def run_attach(pid: int, wish: Wish, *, as_json: bool) -> int:
    """Put a process and its descendants into a run; return the exit status."""
    return _told(lambda: _attach(pid, wish, as_json=as_json))


def run_end(run: int, *, as_json: bool) -> int:
    """End a run; return the exit status."""
    return _told(lambda: _end(run, as_json=as_json))


def _told(work: Callable[[], None]) -> int:
    try:
        work()
    except TROUBLE as error:
        _tell(sentence_of(error))
    else:
        return DONE
    return CANNOT


def _attach(pid: int, wish: Wish, *, as_json: bool) -> None:
    pid = _checked(pid)
    mount = mounted()
    name = wish.name or _name_of(pid)
    with open_programs() as programs:
        parent = folder_of(mount, pid)
        try:
            group = make(parent, "attach", pid)
        except NotAllowed as error:
            raise NotAllowed(
                f"{error}; run `sudo qwave attach`, or start the program with `qwave run`"
            ) from error
        try:
            gathered = gather(mount, group, parent, pid)
            started = start(programs, group, wish, name=name, pid=pid, adopt=True)
        except BaseException:
            _undo(group, parent)
            raise
        with group:
            _say_attached(name, pid, started, gathered, group, as_json=as_json)


def _checked(pid: int) -> int:
    """The process that is meant; raises why it cannot be had."""
    kin = look_up(pid)
    if kin is None:
        raise NoSuchProcess(f"there is no process {pid}")
    pid = kin.pid
    if kin.is_kernel:
        raise NotAllowed(f"process {pid} is a thread of the kernel, whose sockets are the kernel's")
    if pid == _INIT:
        raise NotAllowed("process 1 is the one that everything descends from; attach to others")
    if pid == os.getpid():
        raise NotAllowed(f"process {pid} is this command itself")
    if kin.has_ended:
        raise NoSuchProcess(f"process {pid} has ended")
    uid = user_of(pid)
    if os.geteuid() not in (0, uid):
        raise NotAllowed(
            f"process {pid} is another user's ({uid}), and only root attaches to such: "
            "run `sudo qwave attach`"
        )
    return pid


def _name_of(pid: int) -> str:
    try:
        program = process_program(pid).program
    except NoProcess as error:
        raise NoSuchProcess(str(error)) from error
    return program.name or f"process {pid}"


def _undo(group: Group, parent: Path) -> None:
    """Have everything as it was; what failed before is told, and not that this does."""
    try:
        send_back(group, parent)
    except (CgroupTrouble, OSError):
        group.remove()


def _end(run: int, *, as_json: bool) -> None:
    with open_programs() as programs:
        rows = [each for each in programs.programs() if each.kind != _RULE and each.number == run]
        if not rows:
            raise NoSuchProcess(
                f"there is no run {run}; `qwave flows` lists those that you may end"
            )
        programs.end_run(run)
    stays = _restored(rows[0])
    if as_json:
        _write_document({"command": "attach", "ended": run, "stays": stays or None})
        return
    _write(f"Run {run} of {rows[0].name} has ended.")
    if stays:
        _write(f"Its processes stay in their cgroup until they end: {stays}.")


def _restored(row: ProgramRow) -> str:
    """Move processes of a run that has ended back; why they stay where they were, if they do."""
    folder = mounted().folder_of(row.cgroup)
    path = Path(row.cgroup) if folder is None or not Path(folder).is_dir() else Path(folder)
    if not is_ours(path):
        return f"{row.cgroup} was not made by qwave"
    try:
        send_back(Group(path), path.parent)
    except FileNotFoundError:
        # Everybody has gone, and the service has removed it.
        return ""
    except OSError as error:
        return f"{path}: {error.strerror}"
    except CgroupTrouble as error:
        return str(error)
    return ""


def _say_attached(
    name: str, pid: int, started: StartedRun, gathered: Gathered, group: Group, *, as_json: bool
) -> None:
    if as_json:
        _write_document(
            {
                "command": "attach",
                "run": started.run,
                "name": name,
                "pid": pid,
                "dscp": started.dscp,
                "words": started.words,
                "cgroup": str(group.path),
                "processes": list(gathered.inside),
                "elsewhere": list(gathered.elsewhere),
                "adopted": started.adopted,
                "unreachable": started.unreachable,
            }
        )
        return
    count = len(gathered.inside)
    phrases = ["1 process" if count == 1 else f"{count:,} processes"]
    phrases.append(f"{counted(started.adopted, 'socket')} that were there before")
    if started.dscp is not None:
        phrases.append(f"DSCP {started.dscp}")
    _write(f"Run {started.run} of {name}: {', '.join(phrases)}.")
    _write(f"By {started.words}.")
    if started.unreachable:
        _write(
            f"Sockets of {started.unreachable:,} of them could not be reached; what these open "
            "from now on is treated."
        )
    if gathered.elsewhere:
        numbers = ", ".join(map(str, gathered.elsewhere))
        _write(f"In cgroups of their own, and left there: {numbers}.")
    _write(f"`qwave attach --end {started.run}` ends it.")


def _tell(message: str) -> None:
    sys.stderr.write(f"qwave attach: {clean(message)}\n")


def _write(line: str) -> None:
    sys.stdout.write(f"{clean(line)}\n")


def _write_document(fields: dict[str, object]) -> None:
    sys.stdout.write(json.dumps({"format": FORMAT} | fields, indent=2) + "\n")

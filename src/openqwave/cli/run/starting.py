"""`qwave run`: a cgroup of its own, the service asked to treat what is in it, and then the command.

This process becomes the command (execve(2)), so its exit status, its signals, its terminal and its
descriptors are the command's own, and nothing of this program is left beside it. The service holds
the run until the cgroup is empty, whoever is the last one in it. Exit statuses of this program
itself are those of env(1), timeout(1) and the like, which commands keep clear of.

The cgroup is entered before the service is asked: it looks at whether anybody is in. Whatever
fails, the process goes back to where it was and the cgroup is removed.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from openqwave.cli.overview.words import clean
from openqwave.cli.run.asking import TROUBLE, sentence_of, start
from openqwave.cli.run.scopes import become_in_scope
from openqwave.client.programs import open_programs
from openqwave.drivers.cgroups import CgroupTrouble, Group, NotAllowed, folder_of, make, mounted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from openqwave.cli.run.wishes import Wish

# This program failed; the command is there and cannot be executed; it is not there.
FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127

_PROGRAM: Final = "qwave run"
# What runs a file that is no program and says of none (execvp(3)).
_SHELL: Final = "/bin/sh"
# What the interpreter ignores, and whoever is executed by it would, too.
_IGNORED_HERE: Final = (signal.SIGPIPE, signal.SIGXFSZ)


class CannotBecome(Exception):
    """The command cannot be executed.

    Attributes:
        status: The exit status that says so.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def run_command(
    wish: Wish, command: Sequence[str], *, is_verbose: bool = False, is_in_scope: bool = False
) -> int:
    """Become the command.

    Args:
        wish: What its traffic is to get.
        command: Its name and its arguments.
        is_verbose: Say on standard error how that is carried out.
        is_in_scope: systemd has been asked for a place before.

    Returns:
        The exit status where that failed; what failed has been told on standard error.
    """
    try:
        _become(wish, command, is_verbose=is_verbose, is_in_scope=is_in_scope)
    except CannotBecome as error:
        _tell(str(error))
        return error.status
    except TROUBLE as error:
        _tell(sentence_of(error))
    return FAILED


def _become(wish: Wish, command: Sequence[str], *, is_verbose: bool, is_in_scope: bool) -> NoReturn:
    path = path_of(command[0])
    mount = mounted()
    with open_programs() as programs:
        pid = os.getpid()
        parent = folder_of(mount, pid)
        try:
            group = make(parent, "run", pid)
        except NotAllowed as error:
            if is_in_scope:
                raise
            become_in_scope(wish, command, error, own_environment(), is_verbose=is_verbose)
        try:
            group.take(pid)
            started = start(programs, group, wish, name=os.path.basename(path), pid=pid)
            try:
                if is_verbose:
                    _tell(f"run {started.run}: {started.words}")
                execute(path, command, own_environment())
            except BaseException:
                programs.end_run(started.run)
                raise
        except BaseException:
            _leave(group, parent, pid)
            raise


def _leave(group: Group, parent: Path, pid: int) -> None:
    """Go back to where this process was; what failed before is told, and not that this does."""
    try:
        with Group(parent) as before:
            before.take(pid)
    except (CgroupTrouble, OSError):
        # It ends here; then whoever makes the next one removes this one.
        pass
    group.remove()


def path_of(name: str) -> str:
    """Where a command is.

    Args:
        name: Its path, or what is looked for where the shell would.

    Raises:
        CannotBecome: Nowhere, or it cannot be executed.
    """
    places = [name] if "/" in name else [os.path.join(each, name) for each in os.get_exec_path()]
    found = [each for each in places if os.path.exists(each)] if name else []
    for each in found:
        if os.path.isfile(each) and os.access(each, os.X_OK, effective_ids=True):
            return each
    if found:
        code = errno.EISDIR if os.path.isdir(found[0]) else errno.EACCES
        raise CannotBecome(f"{found[0]}: {os.strerror(code)}", NOT_EXECUTABLE)
    raise CannotBecome(f"{name}: {os.strerror(errno.ENOENT)}", NOT_FOUND)


def execute(path: str, command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Become a program.

    Args:
        path: Where it is.
        command: Its name and its arguments.
        environment: Its environment.

    Raises:
        CannotBecome: The kernel does not take it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    before = {number: signal.signal(number, signal.SIG_DFL) for number in _IGNORED_HERE}
    try:
        try:
            os.execve(path, list(command), environment)  # noqa: S606 - there is no shell
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            os.execve(_SHELL, [_SHELL, path, *command[1:]], environment)  # noqa: S606 - there is no shell
    except OSError as error:
        status = NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
        raise CannotBecome(f"{path}: {error.strerror}", status) from error
    except ValueError as error:
        raise CannotBecome(f"{path}: {error}", NOT_EXECUTABLE) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def own_environment() -> dict[str, str]:
    """The environment that this process was given, without what the interpreter has added.

    In a locale without a coding of characters it sets ``LC_CTYPE`` (PEP 538), which programs that
    were started by it would see.
    """
    environment = dict(os.environ)
    try:
        given = Path("/proc/self/environ").read_bytes()
    except OSError:
        return environment
    if not any(each.startswith(b"LC_CTYPE=") for each in given.split(b"\0")):
        environment.pop("LC_CTYPE", None)
    return environment


def _tell(message: str) -> None:
    sys.stderr.write(f"{_PROGRAM}: {clean(message)}\n")

"""The commands of `qwave service`, from the check of rights to the exit status."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from openqwave.cli.interruption import Interrupted, Interruption
from openqwave.cli.service import reporting
from openqwave.cli.service.installing import install
from openqwave.cli.service.layout import Layout
from openqwave.cli.service.looking import look
from openqwave.cli.service.removing import uninstall
from openqwave.cli.service.supervision import supervisor_of
from openqwave.cli.service.troubles import CANNOT_RUN, DONE, FAILED, NOT_RUNNING, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable

    from openqwave.cli.service.supervision import Supervisor


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for.

    Attributes:
        root: The file system that is meant.
        prefix: What the program goes below.
        as_json: Tell it as an object.
    """

    root: Path
    prefix: Path
    as_json: bool = False


def run_install(options: Options) -> int:
    """Install, and return the exit status."""

    def run(layout: Layout, supervisor: Supervisor | None, interruption: Interruption) -> int:
        _need_root("install", layout)
        done = install(layout, supervisor, interruption)
        reporting.tell_installed(done, layout, as_json=options.as_json)
        return DONE

    return _run(options, run, "all is as it was before")


def run_uninstall(options: Options) -> int:
    """Take it away, and return the exit status."""

    def run(layout: Layout, supervisor: Supervisor | None, interruption: Interruption) -> int:
        _need_root("uninstall", layout)
        done = uninstall(layout, supervisor, interruption)
        reporting.tell_removed(done, layout, as_json=options.as_json)
        return DONE

    return _run(options, run, "run it again to take away the rest")


def run_status(options: Options) -> int:
    """Tell how it is, and return the exit status."""

    def run(layout: Layout, supervisor: Supervisor | None, _: Interruption) -> int:
        seen = look(layout, supervisor)
        reporting.tell_seen(seen, layout, as_json=options.as_json)
        is_well = seen.record is not None if supervisor is None else seen.status is not None
        return DONE if is_well else NOT_RUNNING

    return _run(options, run, "")


def _run(
    options: Options,
    action: Callable[[Layout, Supervisor | None, Interruption], int],
    left: str,
) -> int:
    """Do it, and say in words why it was not done.

    Args:
        options: What was asked for.
        action: Does it.
        left: What is there after it was not done.
    """
    with Interruption() as interruption:
        try:
            layout = _layout(options)
            supervisor = supervisor_of(layout, interruption) if layout.is_this_host else None
            return action(layout, supervisor, interruption)
        except Trouble as trouble:
            is_left = left and trouble.status == FAILED and trouble.is_undone
            rest = f"\n{left.capitalize()}." if is_left else ""
            sys.stderr.write(f"{trouble}{rest}\n")
            return trouble.status
        except Interrupted as interrupted:
            sys.stderr.write(f"Interrupted; {left}.\n" if left else "Interrupted.\n")
            return interrupted.status
        except BrokenPipeError:
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            rest = f"\n{left.capitalize()}." if left else ""
            sys.stderr.write(f"{where}{error.strerror or error}{rest}\n")
            return FAILED


def _layout(options: Options) -> Layout:
    for name, path in (("--root", options.root), ("--prefix", options.prefix)):
        if not path.is_absolute() or ".." in path.parts:
            raise Trouble(f"{name} has to be an absolute path, not {str(path)!r}", CANNOT_RUN)
    if not options.root.is_dir():
        raise Trouble(f"--root {options.root} is no directory", CANNOT_RUN)
    return Layout(options.root, options.prefix)


def _need_root(command: str, layout: Layout) -> None:
    # Another root is whoever's it is.
    if layout.is_this_host and os.geteuid() != 0:
        again = shlex.join(["sudo", sys.argv[0], *sys.argv[1:]])
        raise Trouble(f"qwave service {command} needs root: {again}", CANNOT_RUN)

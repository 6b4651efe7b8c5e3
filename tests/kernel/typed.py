"""Typing what a page shows, in a shell on a machine of its own, and a fresh copy of the project."""

from __future__ import annotations

import os
import queue
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from tests.kernel.machine import TIMEOUT_S
from tests.pages import ROOT, Block, is_as_shown, session

if TYPE_CHECKING:
    from tests.kernel.machine import Machine

# A package index may be slow.
INSTALLING_TIMEOUT_S = 300
MOMENT_S = 1.0
MARKER = "<<typed>>"
# What bash says when a job was killed and there is no terminal whose settings could be kept.
NO_TERMINAL = re.compile(r"^bash: .* tcsetattr: .*\n", re.MULTILINE)
# A file is made of a block of Python by a comment like this in its first line.
FILE_MARK = "# "
USER = "anna"
TOOLS = ("setpriv", "useradd")
# Ordinary users do not look everywhere.
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def checkout(directory: Path) -> None:
    """The project as it is fetched, before anything is typed."""
    directory.mkdir()
    for path in ROOT.iterdir():
        if not path.name.startswith("."):
            (directory / path.name).symlink_to(path)


def is_open(path: Path) -> bool:
    """May everybody read what is there?"""
    real = path.resolve()
    return all(each.stat().st_mode & 0o005 == 0o005 for each in (real, *real.parents))


def python_for_all() -> str | None:
    """A Python that everybody may run and that makes environments; None where there is none."""
    for name in ("python3", "/usr/bin/python3"):
        found = shutil.which(name)
        if found is not None and is_open(Path(found)):
            fits = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))"
            done = subprocess.run(
                [found, "-c", fits], capture_output=True, timeout=TIMEOUT_S, check=False
            )
            if done.returncode == 0:
                return found
    return None


def make_environment(command: str, directory: Path) -> str:
    """Type what makes the environment; skips the test where no package index is reached.

    Not on the machine, which has no network but its own. Returns what was printed.
    """
    assert command.startswith("scripts/venv.sh ")
    done = subprocess.run(
        ["sh", "-c", command],  # noqa: S607 - as people do
        cwd=directory,
        env={**os.environ, "PYTHON": python_for_all() or "python3"},
        capture_output=True,
        text=True,
        timeout=INSTALLING_TIMEOUT_S,
        check=False,
    )
    if "Could not find a version" in done.stderr:
        pytest.skip("no package index is reached")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def which_all(programs: Sequence[str]) -> bool:
    """Are all of these there?"""
    return all(shutil.which(name, path=PATH) for name in programs)


def ordinary_user(machine: Machine, directory: Path) -> str | None:
    """Make a user, who may use sudo, and whose a directory is from then on.

    None where such a user could not read the project or run its Python: then root does what pages
    say, and `sudo` there changes nothing.
    """
    if not (is_open(ROOT) and is_open(directory) and python_for_all() and which_all(TOOLS)):
        return None
    make = f"""
        useradd -M -d {directory.parent} -s /bin/bash {USER} &&
        echo '{USER} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{USER} &&
        chmod 440 /etc/sudoers.d/{USER} && chown {USER}: {directory} {directory.parent}
    """
    done = machine.run("sh", "-c", make)
    assert done.status == 0, done.errors
    return USER


class Shell:
    """An interactive bash on a machine, without a user's own settings.

    Attributes:
        directory: Where it began.
    """

    def __init__(
        self,
        machine: Machine,
        directory: Path,
        path: Sequence[str] = (),
        user: str | None = None,
    ) -> None:
        self.directory = directory
        search = f'PATH="{":".join([*path, "$PATH"])}"'
        become = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}"]
        line = f"cd {directory} && {search} exec bash --noprofile --norc --noediting -i"
        self._process = machine.popen(
            [*become, *(["--init-groups"] if become else []), "sh", "-c", line],
            {
                # With the packages of the page's environment, not with this one's.
                "PYTHONPATH": "",
                "PS1": "",
                "PS2": "",
                "HISTFILE": "",
                "LC_ALL": "C.UTF-8",
                "HOME": str(directory.parent),
            },
            stdin=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        # Away with what it says of having no terminal. Jobs are told of as on one.
        self.type("PS1= PS2=; set -m")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.kill()
        self._process.wait(TIMEOUT_S)
        self._process.stdin.close()
        # What it has started holds the other end, where a page was not followed to its end; it
        # goes with the machine.
        self._reader.join(MOMENT_S)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)

    def type(self, typed: str) -> tuple[str, int]:
        """Type a command; returns all that is printed until it is done, and its exit status."""
        assert self._process.stdin is not None
        self._process.stdin.write(f'{typed}\necho "{MARKER}$?"\n')
        self._process.stdin.flush()
        printed = ""
        end_s = time.monotonic() + TIMEOUT_S
        while True:
            try:
                printed += self._lines.get(timeout=max(0.0, end_s - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"not done in {TIMEOUT_S} s: {typed}\n{printed}")
            if MARKER in printed:
                before, _, status = printed.rpartition(MARKER)
                return NO_TERMINAL.sub("", before), int(status)

    def follow(self, blocks: Sequence[Block], differing: Sequence[tuple[str, str]] = ()) -> None:
        """Do what a page says: save its programs, type its sessions, compare what is printed.

        Args:
            blocks: Blocks of Python that begin with a comment that names a file, and sessions.
            differing: What differs from one time to another, see `is_as_shown`.
        """
        for block in blocks:
            if block.language == "python":
                name = block.first.removeprefix(FILE_MARK)
                assert name.endswith(".py"), block
                (self.directory / name).write_text(block.text, encoding="utf-8")
                continue
            for command in session(block):
                printed, status = self.type(command.typed)
                where = f"{block.page}:{block.line}: {command.typed}"
                assert "Traceback" not in printed, f"{where}\n{printed}"
                assert is_as_shown(printed, command.shown, differing), (
                    f"{where} (exit status {status}) prints\n{printed}\nand the page shows\n"
                    + "\n".join(command.shown)
                )


def needs(*programs: str) -> None:
    """Skip a test that needs programs which are not there."""
    if missing := [name for name in programs if shutil.which(name) is None]:
        pytest.skip(f"needs {', '.join(missing)} (scripts/tools.sh installs what it can)")

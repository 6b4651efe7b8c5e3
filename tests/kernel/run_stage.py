"""Where tests of `qwave run` and `qwave attach` take place: a cgroup that has to be empty again.

Commands are started in it, so that what they make is made below it and nowhere else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from openqwave.client.programs import open_programs
from openqwave.model.cgroups import group_mount
from tests.kernel.service_stage import reaching
from tests.kernel.unchanged import PATIENCE_S
from tests.patience import until

if TYPE_CHECKING:
    from openqwave.ipc.messages import ProgramRow
    from openqwave.lab.topology import Host
    from tests.kernel.service_stage import Qwaved

VOICE, AUDIO_VIDEO, BACKGROUND = 56, 40, 8
CONFIG = '[enforcement]\nbackend = "bpf"\nqueues = "install"\n[sink]\nenabled = false\n'
# Enters a cgroup and becomes a command.
_ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


@dataclass(frozen=True)
class Ground:
    """A cgroup for tests.

    Attributes:
        path: Its folder.
        own: Cgroups below it that tests have made themselves.
    """

    path: Path
    own: list[Path] = field(default_factory=list)

    def make(self, name: str, owner: int = 0) -> Path:
        """Make a cgroup below, and give it to a user as systemd does."""
        folder = self.path / name
        folder.mkdir()
        self.own.append(folder)
        for each in (folder, folder / "cgroup.procs", folder / "cgroup.subtree_control"):
            os.chown(each, owner, owner)
        return folder

    def entering(self, *command: str, group: str = "") -> list[str]:
        """A command that is started in it, or in one below."""
        return ["sh", "-c", _ENTER, str(self.path / group), *command]

    def run(self, *options: str, group: str = "") -> list[str]:
        """What goes before a command that is to be run by `qwave run`."""
        return self.entering(*QWAVE, "run", *options, "--", group=group)

    def below(self) -> list[str]:
        """The names of the cgroups that were made below it, and below those of the tests."""
        return [each.name for each in self._folders() if each not in self.own]

    def processes(self) -> list[int]:
        """Who is in it, and in those below."""
        found = []
        for folder in (self.path, *self._folders()):
            # One that is removed meanwhile had nobody.
            with contextlib.suppress(FileNotFoundError):
                found += [int(line) for line in (folder / "cgroup.procs").read_text().split()]
        return found

    def _folders(self) -> list[Path]:
        return [Path(where, each) for where, below, _ in os.walk(self.path) for each in below]


QWAVE = [sys.executable, "-m", "openqwave.cli"]


@contextlib.contextmanager
def ground() -> Iterator[Ground]:
    """A cgroup that is there for a test, and nothing must be left in."""
    mount = group_mount(Path("/proc/self/mountinfo").read_text())
    if mount is None or not os.access(mount.point, os.W_OK):
        pytest.skip("needs a cgroup v2 hierarchy that may be written to")
    found = Ground(Path(mount.point) / f"openqwave-test-{os.getpid()}-{secrets.token_hex(4)}")
    found.path.mkdir()
    try:
        yield found
        until(lambda: not found.processes(), f"left behind: {found.processes()}")
        until(lambda: not found.below(), f"left behind: {found.below()}")
    finally:
        _clear(found.path)


def _clear(path: Path) -> None:
    """Remove a cgroup with everything and everybody in it."""
    for where, _, _ in os.walk(path, topdown=False):
        for pid in Path(where, "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        until(partial(_is_removed, where), f"{where} cannot be removed")


def _is_removed(folder: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        try:
            os.rmdir(folder)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
    return True


def programs_of(service: Qwaved) -> Sequence[ProgramRow]:
    """The runs and rules that the service lists to root."""
    with reaching(service.socket), open_programs() as programs:
        return programs.programs()


def until_none(service: Qwaved) -> None:
    """Wait until the service holds no run any more."""
    until(lambda: not programs_of(service), "a run does not end")


def start(
    host: Host,
    argv: list[str],
    service: Qwaved | str,
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
) -> subprocess.Popen[str]:
    """Start a command that finds the service, or whatever is at a path."""
    path = service if isinstance(service, str) else service.socket
    env = os.environ | {"QWAVE_SOCKET": path}
    return host.popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, env=env)


def finished(host: Host, argv: list[str], service: Qwaved | str) -> tuple[int, str, str]:
    """Run a command to its end: its exit status, and what it has said."""
    process = start(host, argv, service, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def as_user(uid: int, *argv: str) -> list[str]:
    """A command of another user, who may read what root may: the interpreter can be in its home."""
    caps = "-all,+dac_read_search"
    return [
        *("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"),
        *(f"--inh-caps={caps}", f"--ambient-caps={caps}"),
        *argv,
    ]

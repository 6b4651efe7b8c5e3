"""A machine to install on: a host of the lab with files and processes of its own.

Its /etc, /usr/local and /var are this machine's until something is written there, which goes into
memory (overlayfs); its /run is empty. Its processes are in a pid namespace of their own, and end
with it. So a test may make users and start services, and leaves nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import openqwave
from openqwave.drivers.cgroups import CgroupTrouble, folder_of, mounted, sweep

if TYPE_CHECKING:
    from openqwave.lab.hosts import Host

SOURCE = Path(openqwave.__file__).parents[1]
# Far longer than anything takes that is to end by itself.
TIMEOUT_S = 60.0

_UNSHARE = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]

# The first process, which does what the first process of a system does: it waits for others.
_FIRST = """
set -e
mount -t tmpfs tmpfs "$0"
for each in etc usr/local var; do
    up=$0/$each/upper work=$0/$each/work
    mkdir -p "$up" "$work"
    mount -t overlay overlay -o "lowerdir=/$each,upperdir=$up,workdir=$work" "/$each"
done
mount -t tmpfs -o mode=755 tmpfs /run
mount -t proc proc /proc
exec "$@"
"""
_WAIT = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
print("up", flush=True)
while signal.sigwait([signal.SIGCHLD]):
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass
"""

# What is there: every path, and what the files that say who is a user hold.
SNAPSHOT = """
import os
def snapshot():
    found = {}
    tops = ("/etc", "/usr/local", "/var/lib/qwave", "/var/log", "/run")
    for directory, _, names in (each for top in tops for each in os.walk(top)):
        found[directory] = ""
        for name in names:
            path = os.path.join(directory, name)
            # Copies that the tools for users keep of what was before, and their lock.
            if not (path.startswith("/etc/") and name.endswith(("-", ".pwd.lock"))):
                found[path] = ""
    for name in ("passwd", "group", "shadow", "gshadow"):
        with open(f"/etc/{name}", encoding="utf-8") as file:
            found[f"/etc/{name}"] = file.read()
    return found
"""


@dataclass(frozen=True)
class Done:
    """What a command left."""

    status: int
    output: str
    errors: str

    @property
    def told(self) -> Any:  # noqa: ANN401 - JSON
        return json.loads(self.output)


class Machine:
    """A machine that is up."""

    def __init__(self, first: subprocess.Popen[str]) -> None:
        self._enter = [
            "nsenter",
            f"--mount=/proc/{first.pid}/ns/mnt",
            f"--net=/proc/{first.pid}/ns/net",
            f"--pid=/proc/{first.pid}/ns/pid_for_children",
        ]

    def popen(
        self,
        argv: list[str],
        environment: Mapping[str, str] | None = None,
        *,
        stdin: int = subprocess.DEVNULL,
        stderr: int = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Start something on it, as root."""
        variables = {**os.environ, "PYTHONPATH": str(SOURCE), "COLUMNS": "80"}
        # It may name this machine's own service, or none.
        variables.pop("QWAVE_SOCKET", None)
        return subprocess.Popen(
            [*self._enter, *argv],
            env={**variables, **(environment or {})},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def run(self, *argv: str, environment: Mapping[str, str] | None = None) -> Done:
        """Run something on it to its end."""
        process = self.popen(list(argv), environment)
        output, errors = process.communicate(timeout=TIMEOUT_S)
        assert "Traceback" not in errors, errors
        return Done(process.returncode, output, errors)

    def service(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Done:
        """Run a command of `qwave service`."""
        argv = [sys.executable, "-m", "openqwave.cli", "service", *arguments]
        return self.run(*argv, environment=environment)

    def python(self, script: str, *arguments: str) -> Done:
        """Run a script of Python."""
        return self.run(sys.executable, "-c", script, *arguments)

    def read(self, path: str) -> str:
        """What a file holds there."""
        done = self.run("cat", path)
        assert done.status == 0, done.errors
        return done.output

    def snapshot(self) -> dict[str, str]:
        """What is there."""
        done = self.python(f"{SNAPSHOT}\nimport json; print(json.dumps(snapshot()))")
        assert done.status == 0, done.errors
        found: dict[str, str] = done.told
        return found


@contextmanager
def booted(host: Host, directory: Path) -> Iterator[Machine]:
    """A machine on a host of the lab.

    Args:
        host: Has its network.
        directory: An empty one, where its memory is mounted.
    """
    for tool in ("unshare", "nsenter", "mount"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    first = host.popen(
        [*_UNSHARE, "sh", "-c", _FIRST, str(directory), sys.executable, "-c", _WAIT],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert first.stdout is not None
        if not first.stdout.readline():
            assert first.stderr is not None
            pytest.skip(f"no machine can be made here: {first.stderr.read().strip()}")
        yield Machine(first)
    finally:
        first.kill()
        first.communicate(timeout=TIMEOUT_S)
        # Its service is not root, and leaves it to the next run to remove what one was in.
        with suppress(CgroupTrouble):
            sweep(folder_of(mounted(), os.getpid()))

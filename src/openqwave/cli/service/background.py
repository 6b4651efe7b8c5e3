"""A service without a service manager: a program in the background that root has started.

It gets what the unit would give it: its user, the capabilities that the unit names and no others
(setpriv(1)), its directories, and standard error in a file. It is ready when it answers.

Which process it is stands in a file in the service's own directory, where the service's user could
write another's number. So before a signal is sent the process is held (pidfd) and looked at: it has
to be that user's and run the program.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from openqwave.cli.service.asking import ask
from openqwave.cli.service.layout import USER
from openqwave.cli.service.placing import write_whole
from openqwave.cli.service.troubles import Trouble

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openqwave.cli.interruption import Interruption
    from openqwave.cli.service.layout import Layout

# As long as systemd waits (DefaultTimeoutStartSec=, less what nobody waits for in person).
START_S: Final = 30.0
# TimeoutStopSec= of the unit.
STOP_S: Final = 15.0
# How soon it is noticed that it answers.
_STEP_S: Final = 0.05
# The end of its log says why it ended.
_LOG_LINES: Final = 5

# linux/capability.h; all that the unit may name.
_NUMBERS: Final = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_PTRACE": 19,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}


def capabilities_of(unit: str) -> list[str]:
    """The capabilities that a unit gives its program."""
    found = re.findall(r"^AmbientCapabilities=(.*)$", unit, re.MULTILINE)
    return [name for line in found for name in line.split()]


def missing_capabilities(wanted: list[str]) -> list[str]:
    """Those that this process does not have itself, as in most containers."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    held = -1
    for name in ("CapPrm", "CapBnd"):
        found = re.search(rf"^{name}:\s*([0-9a-f]+)$", status, re.MULTILINE)
        held &= int(found[1], 16) if found else 0
    return [name for name in wanted if not held >> _NUMBERS[name] & 1]


class Background:
    """Starts and stops the program itself.

    Attributes:
        socket: Where it answers.
    """

    name = "qwave"

    def __init__(self, layout: Layout, socket: Path, interruption: Interruption) -> None:
        """Be ready to start it.

        Args:
            layout: Where it is.
            socket: Where it will answer.
            interruption: Asked while it is waited for.
        """
        self._layout = layout
        self.socket = socket
        self._interruption = interruption

    def pid(self) -> int | None:
        """The program's process; None if it does not run."""
        with self._held() as held:
            return None if held is None else held[0]

    def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            Trouble: It ended, or was not ready in time; it does not run then.
            Interrupted: A signal came; likewise.
        """
        # RuntimeDirectory= and StateDirectory= of the unit.
        _make_directory(self._layout.run, 0o755)
        _make_directory(self._layout.state, 0o700)
        with contextlib.ExitStack() as undo:
            process = self._spawn()
            undo.callback(_end, process)
            number = f"{process.pid}\n".encode()
            write_whole(self._layout.pid_file, number, 0o644)
            undo.callback(self._layout.pid_file.unlink, missing_ok=True)
            self._wait_ready(process)
            undo.pop_all()
        # It goes on without this command.
        process.returncode = 0

    def restart(self) -> None:
        """Stop it if it runs, and start it."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """Stop it, if it runs."""
        with self._held() as held:
            if held is not None:
                _, pidfd = held
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
                if not select.select([pidfd], [], [], STOP_S)[0]:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    select.select([pidfd], [], [], STOP_S)
        self._layout.pid_file.unlink(missing_ok=True)

    def forget(self) -> None:
        """Nothing is remembered beyond the file."""

    def log_tail(self) -> str:
        """The last that it said."""
        try:
            text = self._layout.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-_LOG_LINES:])

    def _spawn(self) -> subprocess.Popen[bytes]:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise Trouble("setpriv is not here, which takes rights away (it is in util-linux)")
        unit = (self._layout.units / "qwaved.service").read_text(encoding="utf-8")
        wanted = capabilities_of(unit)
        missing = missing_capabilities(wanted)
        given = [f"+cap_{_NUMBERS[each]}" for each in wanted if each not in missing]
        held = ",".join(["-all", *given])
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        log = os.open(self._layout.log, flags, 0o640)
        try:
            return subprocess.Popen(
                [
                    setpriv,
                    f"--reuid={USER}",
                    f"--regid={USER}",
                    "--init-groups",
                    f"--inh-caps={held}",
                    f"--ambient-caps={held}",
                    f"--bounding-set={held}",
                    "--no-new-privs",
                    str(self._layout.program),
                ],
                env={"PATH": os.defpath},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,
            )
        finally:
            os.close(log)

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s:
            status = ask(self.socket, _STEP_S).status
            # Another may answer at the place, and this one is about to find that out.
            if status is not None and status.pid == process.pid:
                return
            self._interruption.pause(_STEP_S)
            if process.poll() is not None:
                raise Trouble(f"qwaved ended as soon as it was started\n{self.log_tail()}".rstrip())
        raise Trouble(f"qwaved was not ready after {START_S:g} s\n{self.log_tail()}".rstrip())

    @contextlib.contextmanager
    def _held(self) -> Iterator[tuple[int, int] | None]:
        """The program's process and a hold on it, so that its number stays its own."""
        try:
            pid = int(self._layout.pid_file.read_bytes()[:32])
            pidfd = os.pidfd_open(pid)
        except (OSError, ValueError, OverflowError):
            yield None
            return
        try:
            is_ended = bool(select.select([pidfd], [], [], 0)[0])
            yield (pid, pidfd) if not is_ended and self._is_ours(pid) else None
        finally:
            os.close(pidfd)

    def _is_ours(self, pid: int) -> bool:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
            uid = pwd.getpwnam(USER).pw_uid
        except (OSError, KeyError):
            return False
        users = re.search(r"^Uid:\s*(\d+)", status, re.MULTILINE)
        is_user = users is not None and int(users[1]) == uid
        # Until it has become the program it is setpriv, as root, which ends as the program does.
        return os.fsencode(self._layout.program) in command and is_user


def _make_directory(path: Path, mode: int) -> None:
    """Make a directory of the service's user, unless it is there."""
    user = pwd.getpwnam(USER)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        os.chown(path, user.pw_uid, user.pw_gid)
        path.chmod(mode)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

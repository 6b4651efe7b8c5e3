"""Who starts the service and keeps it: systemd where it runs, else this command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from openqwave.cli.service.asking import socket_of
from openqwave.cli.service.background import Background
from openqwave.cli.service.troubles import Trouble

if TYPE_CHECKING:
    from openqwave.cli.interruption import Interruption
    from openqwave.cli.service.layout import Layout

# sd_booted(3).
_BOOTED: Final = Path("/run/systemd/system")
_SERVICE: Final = "qwaved.service"
_UNITS: Final = ("qwaved.socket", _SERVICE)
# Longer than it takes to stop and start; systemd has limits of its own.
_PATIENCE_S: Final = 120.0
_LOG_LINES: Final = "5"


class Supervisor(Protocol):
    """Starts, stops and knows the program.

    Attributes:
        name: Who it is.
        socket: Where the program answers.
    """

    name: str
    socket: Path

    def pid(self) -> int | None:
        """The program's process; None if it does not run."""

    def start(self) -> None:
        """Start it now and, if that can be had, whenever the host starts.

        Raises:
            Trouble: It does not run.
        """

    def restart(self) -> None:
        """Start it anew, since what is placed has changed.

        Raises:
            Trouble: It does not run.
        """

    def stop(self) -> None:
        """Stop it, and start it no more; harmless if it does not run."""

    def forget(self) -> None:
        """What was placed is gone."""

    def log_tail(self) -> str:
        """The last that the program said."""


def supervisor_of(layout: Layout, interruption: Interruption) -> Supervisor:
    """Who it is on this host."""
    if _BOOTED.is_dir() and shutil.which("systemctl") is not None:
        return Systemd()
    return Background(layout, socket_of(layout), interruption)


class Systemd:
    """The units, by systemctl(1)."""

    name = "systemd"
    # ListenSequentialPacket= of qwaved.socket; what the configuration says is for without it.
    socket = Path("/run/qwave/qwaved.sock")

    def pid(self) -> int | None:
        """The service's main process."""
        shown = self._run("show", "--property=MainPID", "--value", _SERVICE, may_fail=True).strip()
        return int(shown) if shown.isdecimal() and int(shown) else None

    def start(self) -> None:
        """Enable the units and start them."""
        self._run("daemon-reload")
        self._run("enable", "--now", *_UNITS)

    def restart(self) -> None:
        """Start the service anew; who connects meanwhile waits."""
        self._run("daemon-reload")
        self._run("enable", *_UNITS)
        self._run("restart", *_UNITS)

    def stop(self) -> None:
        """Disable the units and stop them."""
        self._run("disable", "--now", *reversed(_UNITS), may_fail=True)

    def forget(self) -> None:
        """Let systemd notice that the units are gone."""
        self._run("daemon-reload", may_fail=True)
        self._run("reset-failed", *_UNITS, may_fail=True)

    def log_tail(self) -> str:
        """The last of the journal."""
        tool = shutil.which("journalctl")
        if tool is None:
            return ""
        return subprocess.run(
            [tool, "--unit", _SERVICE, "--lines", _LOG_LINES, "--output", "cat", "--no-pager"],
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        ).stdout.rstrip()

    def _run(self, *arguments: str, may_fail: bool = False) -> str:
        done = subprocess.run(
            ["systemctl", "--no-pager", *arguments],  # noqa: S607 - root's own path
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        if done.returncode != 0 and not may_fail:
            said = (done.stderr or done.stdout).strip()
            raise Trouble(
                f"systemctl {' '.join(arguments)} failed: {said}\n{self.log_tail()}".rstrip()
            )
        return done.stdout

"""What a service manager is told: ready, reloading, stopping, still alive.

The protocol is sd_notify(3)'s: datagrams of NAME=VALUE lines to the AF_UNIX socket that
NOTIFY_SOCKET names, a path or, with "@" before it, an abstract name. Nothing of it is needed to
serve: without a service manager nothing is sent, and what cannot be sent is logged and no more.

The watchdog (WATCHDOG_USEC) wants a word at least so often; half the time leaves room for one that
is late. Whoever calls `keep_alive` does so from the loop that serves clients, so that a loop that
hangs is noticed.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

_log = logging.getLogger("openqwave.service")

# A child is not to speak for this process.
_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

_NS_PER_US: Final = 1_000


class Notifier:
    """Speaks to a service manager, if there is one.

    Attributes:
        watchdog_ns: How often the watchdog is told that all is well; None if there is none.
    """

    def __init__(
        self,
        environment: MutableMapping[str, str] | None = None,
        *,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Look who is to be told.

        Args:
            environment: Names the service manager's socket, and forgets it; this process's
                when None.
            now_ns: Monotonic time.
        """
        variables = os.environ if environment is None else environment
        name, interval_us, pid = (variables.pop(each, "") for each in _VARIABLES)
        self._address = _address_of(name)
        self._now_ns = now_ns
        self._told_ns: int | None = None
        self._has_failed = False
        self.watchdog_ns = None if self._address is None else _watchdog_ns(interval_us, pid)

    def ready(self, status: str) -> None:
        """Serving, from now on or again.

        Args:
            status: A line for people.
        """
        self._send("READY=1", _status(status))

    def reloading(self) -> None:
        """Reading the configuration again; `ready` says when that is over."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={self._now_ns() // _NS_PER_US}")

    def stopping(self) -> None:
        """On the way to the end."""
        self._send("STOPPING=1")

    def tell(self, status: str) -> None:
        """Say a line for people."""
        self._send(_status(status))

    def keep_alive(self) -> None:
        """Tell the watchdog that all is well, if it is time to; cheap, to be called often."""
        if self.watchdog_ns is None:
            return
        now_ns = self._now_ns()
        if self._told_ns is None or now_ns - self._told_ns >= self.watchdog_ns:
            self._told_ns = now_ns
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                # A service manager that does not read must not keep clients waiting.
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if not self._has_failed:
                _log.warning(
                    "the service manager cannot be told %s: %s; further failures are not logged",
                    lines[0],
                    error,
                )
            self._has_failed = True
        else:
            self._has_failed = False


def _address_of(name: str) -> str | None:
    if not name:
        return None
    if name[0] == "@":
        return "\0" + name[1:]
    if name[0] == "/":
        return name
    _log.warning("NOTIFY_SOCKET is %r, which is no AF_UNIX socket; nobody is told anything", name)
    return None


def _watchdog_ns(interval_us: str, pid: str) -> int | None:
    """Half the watchdog's interval, where it watches this process."""
    if not interval_us or (pid and pid != str(os.getpid())):
        return None
    if not interval_us.isdecimal() or int(interval_us) == 0:
        _log.warning("WATCHDOG_USEC is %r, which is no time; the watchdog is not fed", interval_us)
        return None
    return int(interval_us) * _NS_PER_US // 2


def _status(text: str) -> str:
    # A line break would begin another variable.
    return "STATUS=" + " ".join(text.split())

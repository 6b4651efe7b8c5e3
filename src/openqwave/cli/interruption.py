"""Ctrl-C while something runs that has to be taken down in order.

An exception in the middle of anything would be the language's way; it can hit a lock, a finaliser
or the clean-up itself. Here a signal only makes a request, and work that goes on for long asks for
it between its steps. Signals that are ignored, as in a background job of a plain shell, stay so.
"""

from __future__ import annotations

import select
import signal
from typing import Self

from openqwave.lab.reporting import Stop

# Ctrl-C, the polite end, and the end of the terminal.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """A signal asked for the end.

    Attributes:
        status: The exit status that says so: 128 and the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class Interruption:
    """Takes signals as requests for the length of a `with` block; for the main thread.

    What waits with it may be in any thread.
    """

    def __init__(self) -> None:
        self._stop = Stop()
        self._number = 0
        self._handlers: dict[int, signal._HANDLER] = {}

    def _receive(self, number: int, _: object) -> None:
        self._number = self._number or number
        self._stop.request()

    @property
    def fd(self) -> int:
        """Becomes readable, and stays so, when the end is asked for."""
        return self._stop.fd

    def interrupt(self) -> None:
        """Ask for the end as a signal would; from any thread."""
        self._receive(signal.SIGTERM, None)

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self._number:
            raise Interrupted(self._number)

    def pause(self, timeout_s: float) -> None:
        """Wait; raise `Interrupted` as soon as a signal comes."""
        self._stop.wait(timeout_s)
        self.check()

    def wait_readable(self, fd: int, timeout_s: float | None = None) -> bool:
        """Wait for a descriptor; raise `Interrupted` as soon as a signal comes.

        Returns:
            Whether it is readable; not so after the time-out.
        """
        ready, _, _ = select.select([fd, self._stop.fd], [], [], timeout_s)
        self.check()
        return fd in ready

    def wait_writable(self, fd: int, timeout_s: float) -> bool:
        """Wait until a descriptor can be written to; as `wait_readable`."""
        _, ready, _ = select.select([self._stop.fd], [fd], [], timeout_s)
        self.check()
        return fd in ready

    def __enter__(self) -> Self:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._stop.close()

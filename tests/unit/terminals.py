"""A command on a pseudo-terminal: what it writes, and what of that stands on the screen."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from typing import Self

import pyte

from tests.unit.fake_service import FakeService

# What runs in the background is born ignoring SIGINT.
INTERRUPTIBLE = (
    "import signal\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from openqwave.cli.main import run\n"
    "run()\n"
)
# Any other program, in place of `qwave`.
ANOTHER = "import os, sys\nos.execvp(sys.argv[1], sys.argv[1:])\n"
# Ctrl-C is a signal to those whose terminal it is.
_ON_A_TERMINAL = "import fcntl, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"


_UTF8 = {"PYTHONIOENCODING": "utf-8"}


def environment(service: FakeService, **more: str) -> dict[str, str]:
    return environment_at(str(service.path), **more)


def environment_at(socket: str, **more: str) -> dict[str, str]:
    """What a program is told that is to find the service at a socket."""
    kept = {name: text for name, text in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    return kept | {"QWAVE_SOCKET": socket, "TERM": "xterm-256color", **_UTF8} | more


class Terminal:
    """A command on a terminal of some size."""

    def __init__(
        self,
        arguments: list[str],
        env: dict[str, str],
        *,
        columns: int = 80,
        lines: int = 24,
        script: str = INTERRUPTIBLE,
    ) -> None:
        self._master, slave = pty.openpty()
        self.set_size(columns, lines)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _ON_A_TERMINAL + script, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=env,
            start_new_session=True,
        )
        os.close(slave)
        self.text = ""

    def set_size(self, columns: int, lines: int) -> None:
        """Have the kernel tell it of a size."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def is_readable(self, timeout_s: float) -> bool:
        return bool(select.select([self._master], [], [], timeout_s)[0])

    def read_until(self, count: int, word: str) -> None:
        """Read until a word was there so often."""
        end_s = time.monotonic() + 30
        while self.text.count(word) < count:
            assert time.monotonic() < end_s, self.text
            if not self.read():
                raise AssertionError(self.text)

    def read(self) -> bool:
        if not self.is_readable(30):
            return False
        try:
            data = os.read(self._master, 65_536)
        except OSError:
            # The other end is closed.
            return False
        self.text += self._decoder.decode(data)
        return bool(data)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def end(self) -> int:
        while self.read():
            pass
        status = self.process.wait(30)
        os.close(self._master)
        return status


class Screen(Terminal):
    """A command on a terminal whose screen can be read, and that can change its size.

    Attributes:
        patience_s: How long something may take to stand there.
    """

    patience_s = 30.0

    def __init__(
        self,
        arguments: list[str],
        env: dict[str, str],
        *,
        columns: int = 80,
        lines: int = 24,
        script: str = INTERRUPTIBLE,
    ) -> None:
        super().__init__(arguments, env, columns=columns, lines=lines, script=script)
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.Stream(self._screen)
        self._fed = 0

    @property
    def lines(self) -> list[str]:
        """What stands there now."""
        new = self.text[self._fed :]
        # A sequence whose end has not come yet is left for the next time.
        new = re.sub(r"\x1b(\[[^@-~]*)?$", "", new)
        self._fed += len(new)
        # What asks for a keyboard's or a terminal's ways, which the emulator takes for text.
        self._stream.feed(re.sub(r"\x1b\[([<>=][0-9;]*u|\?[0-9;]*(u|\$p))", "", new))
        return [line.rstrip() for line in self._screen.display]

    @property
    def page(self) -> str:
        """The same as one text."""
        return "\n".join(self.lines)

    def wait_for(self, holds: Callable[[str], bool] | str) -> str:
        """Read until a word stands there, or something holds of what does; return that."""
        end_s = time.monotonic() + self.patience_s
        while True:
            page = self.page
            if holds in page if isinstance(holds, str) else holds(page):
                return page
            assert time.monotonic() < end_s, page
            if self.is_readable(0.1) and not self.read():
                raise AssertionError(f"it ended:\n{page}")

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size, as a window manager does."""
        self._screen.resize(lines, columns)
        self.set_size(columns, lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.end()

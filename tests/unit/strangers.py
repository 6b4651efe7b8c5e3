"""Other processes that do as they are told: clients of the service, or the service itself.

A stranger connects to the test as clients connect to the service, runs the Python that it is sent
and answers with what that leaves in ``result``. Descriptors go along both ways: those that it gets
are ``given``, those that it puts into ``passing`` come with the answer.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import openqwave
from openqwave.drivers.passing import LentSocket
from openqwave.drivers.processes import Process, process_of
from tests.patience import until

PATIENCE_S = 20.0
_MOST_BYTES = 65_536
_MOST_DESCRIPTORS = 64
_SPACE = socket.CMSG_SPACE(_MOST_DESCRIPTORS * 4)

_PROGRAM = """
import array, json, os, signal, socket, struct, sys, time
address = sys.argv[1]
sys.path[:0] = sys.argv[2:]
def connect():
    global control
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.connect("\\0" + address)
def serve():
    here = globals()
    while True:
        given = array.array("i")
        text, ancillary, _, _ = control.recvmsg(65536, socket.CMSG_SPACE(256))
        for level, kind, data in ancillary:
            given.frombytes(data)
        if not text:
            os._exit(0)
        here.update(given=list(given), result=None, passing=[])
        exec(text, here)
        passing = array.array("i", here["passing"])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passing)] if passing else []
        control.sendmsg([json.dumps(here["result"]).encode()], rights)
def fork():
    pid = os.fork()
    if pid == 0:
        control.close()
        connect()
        serve()
    return pid
connect()
serve()
"""

_names = itertools.count()


class Stranger:
    """One other process.

    Attributes:
        process: The process, as the service holds it.
    """

    def __init__(self, control: socket.socket, accept: Callable[[], socket.socket]) -> None:
        self._control = control
        self._accept = accept
        process = process_of(control)
        assert process is not None
        self.process = process

    def run(self, code: str, given: Sequence[int] = ()) -> Any:  # noqa: ANN401 - what JSON has
        """Run some code there and return what it leaves in `result`."""
        return self.run_and_get(code, given)[0]

    def run_and_get(self, code: str, given: Sequence[int] = ()) -> tuple[Any, list[int]]:
        """The same, with the descriptors that come along."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", given))]
        self._control.sendmsg([textwrap.dedent(code).encode()], rights if given else [])
        text, ancillary, _, _ = self._control.recvmsg(_MOST_BYTES, _SPACE)
        assert text, f"the other process ended at: {code}"
        got = array.array("i")
        for _, _, data in ancillary:
            got.frombytes(data)
        return json.loads(text), list(got)

    def make(self, code: str) -> int:
        """Make a socket there, which `code` is an expression for; its number."""
        number: int = self.run(f"n = ({code}).detach(); result = n")
        return number

    def make_udp(self) -> int:
        """A UDP socket that is connected to nobody; its number."""
        return self.make("socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")

    def lend(self, number: int, *, is_named: bool = True) -> LentSocket:
        """Have a descriptor passed, as a client does."""
        _, (descriptor,) = self.run_and_get(f"passing = [{number}]")
        return LentSocket(descriptor, self.process, number if is_named else -1)

    def move(self, number: int) -> int:
        """Have a descriptor moved to another number."""
        moved: int = self.run(f"result = os.dup({number}); os.close({number})")
        return moved

    def close(self, *numbers: int) -> None:
        """Have descriptors closed."""
        self.run(f"[os.close(n) for n in {list(numbers)}]")

    def fork(self) -> Stranger:
        """A child of it, with copies of all that it has."""
        self.run("result = fork()")
        return Stranger(self._accept(), self._accept)

    def kill(self) -> None:
        """End it as nobody can refuse, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        until(lambda: not self.process.is_alive())

    def let_go(self) -> None:
        """Close what this side has of it."""
        self._control.close()
        self.process.close()


class Strangers:
    """Starts other processes, and ends them."""

    def __init__(self) -> None:
        self._address = f"openqwave-test-{os.getpid()}-{next(_names)}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(f"\0{self._address}")
        self._listener.listen()
        self._listener.settimeout(PATIENCE_S)
        self._started: list[subprocess.Popen[bytes]] = []
        self._accepted: list[socket.socket] = []
        self._strangers: list[Stranger] = []

    def start(self) -> Stranger:
        """One more; it can import openqwave and the tests."""
        source = Path(openqwave.__file__).parents[1]
        paths = [str(source), str(Path(__file__).parents[2]), *sys.path]
        self._started.append(
            subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PROGRAM, self._address, *filter(None, paths)],
                stdin=subprocess.DEVNULL,
            )
        )
        return self._take(self._accept())

    def fork(self, parent: Stranger) -> Stranger:
        """A child of one of them."""
        child = parent.fork()
        self._strangers.append(child)
        return child

    def _take(self, control: socket.socket) -> Stranger:
        stranger = Stranger(control, self._accept)
        self._strangers.append(stranger)
        return stranger

    def _accept(self) -> socket.socket:
        control, _ = self._listener.accept()
        control.settimeout(PATIENCE_S)
        self._accepted.append(control)
        return control

    def close(self) -> None:
        for stranger in self._strangers:
            stranger.let_go()
        for control in self._accepted:
            control.close()
        self._listener.close()
        for process in self._started:
            with process:
                process.kill()


@contextlib.contextmanager
def strangers() -> Iterator[Strangers]:
    made = Strangers()
    try:
        yield made
    finally:
        made.close()


def needs_fetching(process: Process) -> None:
    """Skip where nothing can be fetched from another process."""
    reason = process.refuse_fetching()
    if reason:
        pytest.skip(reason)

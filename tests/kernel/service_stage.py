"""The service and its clients as processes of their own, for tests.

`Qwaved` runs the service until the test ends, or is killed; `Actor` is a process that does what it
is told, as any user: a forked copy of the test process that has become that user.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import openqwave as qw

if TYPE_CHECKING:
    from openqwave.lab.hosts import Host

# A bound for what takes a fraction of a second.
TIMEOUT_S = 30.0
NOBODY, DAEMON = 65_534, 1


class Qwaved:
    """The service in a folder of its own.

    Attributes:
        socket: Where it listens.
        policy: The folder of its policy files.
        process: The running program.
    """

    def __init__(self, folder: Path, host: Host | None = None, config: str = "") -> None:
        self._host = host
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        self._folder = folder
        self.socket = str(folder / "qwaved.sock")
        self.config = folder / "qwaved.toml"
        self.policy = folder / "policy.d"
        self.policy.mkdir(exist_ok=True)
        self.log = folder / "log"
        self.write_config(config)
        self.process: subprocess.Popen[Any] | None = None
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.bind(str(folder / "notify.sock"))
        self._notices.settimeout(0.2)

    def write_config(self, text: str) -> None:
        service = f'[service]\nstate_directory = "{self._folder}/state"\n'
        (self._folder / "state").mkdir(exist_ok=True)
        self.config.write_text(service + text)

    def obey(self, policy: str) -> None:
        """Have it read a policy file in the place of the former, and wait until it has."""
        (self.policy / "50-test.toml").write_text(policy)
        if self.process is not None:
            self.signal(signal.SIGHUP)
            self.wait_for(b"READY=1")

    def start(self) -> Self:
        """Run it, and wait until it says that it is ready."""
        with self.log.open("ab") as log:
            argv = [sys.executable, "-m", "openqwave.service", "--config", str(self.config)]
            argv += ["--policy", str(self.policy)]
            argv += ["--socket", self.socket, "--run-directory", str(self._folder)]
            enter = contextlib.nullcontext() if self._host is None else self._host.enter()
            with enter:
                self.process = subprocess.Popen(
                    argv,
                    stderr=log,
                    env=os.environ | {"NOTIFY_SOCKET": self._notices.getsockname()},
                )
        self.wait_for(b"READY=1")
        return self

    def wait_for(self, notice: bytes) -> None:
        """Wait until it tells its manager something; what it told before is forgotten."""
        assert self.process is not None
        while True:
            with contextlib.suppress(TimeoutError):
                if notice in self._notices.recv(4_096):
                    return
            assert self.process.poll() is None, self.log.read_text()

    def kill(self) -> None:
        """End it without a word, as a crash does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it if it runs."""
        if self.process is not None:
            self.kill()
        self._notices.close()

    def stop(self) -> int:
        """End it in order; its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(TIMEOUT_S)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def descriptors(self) -> int:
        """How many it has open."""
        assert self.process is not None
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def resident_bytes(self) -> int:
        """Its resident memory."""
        assert self.process is not None
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")

    def open(self) -> qw.Qos:
        """A handle of this process at the service."""
        with reaching(self.socket):
            return qw.open(service=True)

    def show(self, what: str, *arguments: str) -> Any:  # noqa: ANN401 - whatever JSON holds
        """What `qwave flows`, `paths` or `status` says, as root."""
        done = subprocess.run(
            [sys.executable, "-m", "openqwave.cli", what, "--json", *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=os.environ | {"QWAVE_SOCKET": self.socket},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@contextlib.contextmanager
def public_folder() -> Iterator[Path]:
    """A folder that every user may look into, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="qwaved-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextlib.contextmanager
def reaching(path: str) -> Iterator[None]:
    """Let the library find the service at a socket."""
    before = os.environ.get("QWAVE_SOCKET")
    os.environ["QWAVE_SOCKET"] = path
    try:
        yield
    finally:
        if before is None:
            del os.environ["QWAVE_SOCKET"]
        else:
            os.environ["QWAVE_SOCKET"] = before


@contextlib.contextmanager
def running(host: Host | None = None, config: str = "") -> Iterator[Qwaved]:
    """The service, to the end of the test; it must end in order."""
    with public_folder() as folder:
        service = Qwaved(folder, host, config)
        try:
            yield service.start()
            assert service.stop() == 0, service.log.read_text()
            assert "Traceback" not in service.log.read_text(), service.log.read_text()
        finally:
            service.close()


class Actor:
    """A process that calls what it is told, with state of its own.

    What is called gets the state first, a dictionary that lives as long as the process.

    Attributes:
        pid: The process.
    """

    def __init__(
        self,
        uid: int = 0,
        groups: Sequence[int] = (),
        *,
        host: Host | None = None,
        service: str = "",
    ) -> None:
        ours, theirs = Pipe()
        enter = contextlib.nullcontext() if host is None else host.enter()
        with enter:
            self.pid = os.fork()
            if self.pid == 0:
                ours.close()
                _live(theirs, uid, groups, service)
        theirs.close()
        self._pipe = ours
        self.is_running = True

    def begin(self, function: Callable[..., Any], *arguments: object) -> None:
        """Have something called; `end` gets the result."""
        self._pipe.send((function, arguments))

    def end(self) -> Any:  # noqa: ANN401 - whatever was called returns
        """The result of what was begun; raises what it raised."""
        assert self._pipe.poll(TIMEOUT_S), "the actor hangs"
        result, error, text = self._pipe.recv()
        if error is not None:
            error.add_note(text)
            raise error
        return result

    def call(self, function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401
        """Have something called; its result."""
        self.begin(function, *arguments)
        return self.end()

    def kill(self) -> None:
        """End it without a word."""
        if self.is_running:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._pipe.close()
            self.is_running = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _live(pipe: Connection, uid: int, groups: Sequence[int], service: str) -> None:
    """What an actor does until it is killed or nobody tells it anything any more."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.environ["QWAVE_SOCKET"] = service
        if uid:
            os.setgroups(list(groups))
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        state: dict[str, Any] = {}
        while True:
            function, arguments = pipe.recv()
            try:
                pipe.send((function(state, *arguments), None, ""))
            except Exception as error:  # noqa: BLE001 - the test raises it
                pipe.send((None, _plain(error), traceback.format_exc()))
    finally:
        os._exit(0)


def _plain(error: Exception) -> Exception:
    """An error that can be sent to another process."""
    if isinstance(error, qw.QosError):
        return type(error)(error.detail)
    return RuntimeError(repr(error))

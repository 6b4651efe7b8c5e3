"""The service in a thread of the test's own process, with a subsystem that the test can reach."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from unittest import mock

from openqwave.admission.policy import Policy
from openqwave.client import connection
from openqwave.client.whereabouts import SOCKET_VARIABLE
from openqwave.drivers.clock import Clock
from openqwave.drivers.links import Links
from openqwave.drivers.reaching import ReachableSockets
from openqwave.enforcement.socket_options import SocketOptions
from openqwave.ipc import messages as ms
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.runtime.runtime import Runtime
from openqwave.service.peers import Peer
from openqwave.service.server import Server
from openqwave.subsystem.effects import Effect
from openqwave.subsystem.engine import Engine

# A bound for what takes milliseconds.
PATIENCE_S = 20.0


class Served(Runtime):
    """A subsystem that a test's main thread tells things.

    Attributes:
        after_telling: What that thread does next; its clients learn of it later.
    """

    after_telling: Callable[[], None] | None = None

    def tell(self, tell: Callable[[Engine, int], list[Effect]]) -> None:
        super().tell(tell)
        if self.after_telling and threading.current_thread() is threading.main_thread():
            self.after_telling()


class OwnService:
    """A running service.

    Attributes:
        runtime: Its subsystem.
        server: What serves it.
        path: Where it listens.
    """

    def __init__(self, policy: Policy, clock: Clock | None, path: str) -> None:
        # However many processes a machine has, all are looked through in one go: what is left for
        # later would be a folder that is open, and options that are not given back yet.
        directory = ReachableSockets(lambda: 0)
        self.runtime = Served(
            policy,
            directory,
            SocketOptions(directory, Links()),
            clock=clock,
            # As of an embedded one: no small numbers, which tests take for flows of nobody.
            first_flow_id=os.getpid() << 10 | 1,
        )
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(path)
        self._listener.listen(16)
        self.server = Server(
            self.runtime, directory, [self._listener], version="a test's own", show=_show_nothing
        )
        self._thread = threading.Thread(target=self.server.run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End it in order."""
        self._listener.close()
        if self._thread.is_alive():
            self.server.do(self.server.stop)
            self._thread.join(PATIENCE_S)
            assert not self._thread.is_alive()
        # Nothing stays warm.
        self.runtime.close()


def _show_nothing(server: Server, peer: Peer, request: ms.Request, descriptor: int) -> Refusal:
    del server, peer, request, descriptor
    return Refusal(ErrorCode.ERROR_NOT_SUPPORTED, "nothing is shown")


@contextlib.contextmanager
def own_service(policy: Policy | None = None, clock: Clock | None = None) -> Iterator[OwnService]:
    """A service that handles of this process are opened at, until the end of the block."""
    with tempfile.TemporaryDirectory() as folder:
        # Anybody may come: tests become other users.
        os.chmod(folder, 0o755)  # noqa: S103 - that is the point
        service = OwnService(policy or Policy(), clock, f"{folder}/qwaved.sock")
        os.chmod(service.path, 0o666)  # noqa: S103 - likewise
        service.start()
        try:
            with mock.patch.dict(os.environ, {SOCKET_VARIABLE: service.path}):
                yield service
        finally:
            service.stop()


def close_connections() -> None:
    """What the end of a process does to its handles: the kernel closes them, without a word."""
    for made in list(connection._live):  # noqa: SLF001 - a process that ends does not ask
        made.close_copy()

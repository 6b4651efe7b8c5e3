"""One connection to the service, to look and for nothing else.

Everything blocks for as long as the service has patience with, and ends at once when a signal
asks for the end; so the socket itself never blocks. A connection is a handle, which ends with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from typing import TYPE_CHECKING, Final, Self

from openqwave.client.whereabouts import SOCKET_VARIABLE, socket_path
from openqwave.ipc import messages as ms
from openqwave.ipc.asking import Answered, ClientEnd, Farewelled, Refusing, Welcomed
from openqwave.ipc.errors import ProtocolError
from openqwave.ipc.pages import page_of
from openqwave.ipc.programs import PROGRAMS
from openqwave.ipc.refusals import REFUSALS
from openqwave.ipc.values import status_of
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import QosError, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openqwave.cli.interruption import Interruption
    from openqwave.ipc.asking import Event

# A service answers within milliseconds, and a busy one within a second.
PATIENCE_S: Final = 5.0
# The service accepts connections in turns; while its queue is full, this is how often to try.
_RETRY_S: Final = 0.05

# One byte more than an answer may have: what fills it was cut.
_READ_BYTES: Final = ms.MAX_ANSWER_BYTES + 1


class NoService(Exception):
    """No service takes this program in; the message says why."""


class ServiceFailed(Exception):
    """The service took this program in and then did not do what it was asked for."""


class HandleWasLost(ServiceFailed):
    """The handle is lost, as by a suspend, or the service is gone; another one may be had."""


def wanted_path() -> str:
    """Where the service is looked for.

    Raises:
        NoService: Nowhere.
    """
    path = socket_path()
    if not path:
        raise NoService(f"{SOCKET_VARIABLE} is empty, which means that no service is wanted")
    return path


class Service:
    """A connection; see the module's text.

    Everything raises `Interrupted` when a signal comes.
    """

    def __init__(
        self, path: str, interruption: Interruption, patience_s: float = PATIENCE_S
    ) -> None:
        """Connect.

        Args:
            path: The service's socket.
            interruption: May end any wait.
            patience_s: How long each answer may take.

        Raises:
            NoService: No service answers there.
        """
        self._path = path
        self._interruption = interruption
        self._patience_s = patience_s
        self._end = ClientEnd("qwave")
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            self._connect()
            self._send(self._end.hello())
            event = self._next_event(self._deadline())
        except ServiceFailed as error:
            self.close()
            raise NoService(str(error)) from error
        except BaseException:
            self.close()
            raise
        if not isinstance(event, Welcomed):
            self.close()
            said = event.refusal.detail if isinstance(event, Farewelled) else "no welcome"
            raise NoService(f"the service at {path} said: {said}")
        self._features = event.welcome.features

    def _connect(self) -> None:
        end_s = self._deadline()
        while True:
            try:
                self._sock.connect(self._path)
            except BlockingIOError:
                if time.monotonic() > end_s:
                    raise ServiceFailed(f"the service at {self._path} takes nobody in") from None
                self._interruption.pause(_RETRY_S)
            except (OSError, ValueError) as error:
                raise NoService(_why(error, self._path)) from error
            else:
                return

    # -- questions --------------------------------------------------------------------

    def flows(self) -> list[ms.FlowRow]:
        """All flows that this user may see, by ascending ids."""
        found: list[ms.FlowRow] = []
        more = True
        while more:
            after = found[-1].flow if found else 0
            raw = self._ask(ms.ListFlows(self._end.next_id(), after))
            with _understanding():
                rows, more = page_of(raw, ms.FlowRow)
            if rows and rows[0].flow <= after:
                raise ServiceFailed("the service lists the same flows again")
            found += rows
        return found

    def paths(self) -> list[ms.PathRow]:
        """All paths."""
        found: list[ms.PathRow] = []
        more = True
        while more:
            raw = self._ask(ms.ListPaths(self._end.next_id(), len(found)))
            with _understanding():
                rows, more = page_of(raw, ms.PathRow)
            found += rows
        return found

    def programs(self) -> list[ms.ProgramRow]:
        """Runs that this user may see, and the policy's rules."""
        if PROGRAMS not in self._features:
            return []
        found: list[ms.ProgramRow] = []
        more = True
        while more:
            raw = self._ask(ms.ListPrograms(self._end.next_id(), len(found)))
            with _understanding():
                rows, more = page_of(raw, ms.ProgramRow)
            found += rows
        return found

    def status(self) -> ms.StatusRow:
        """How the service is."""
        raw = self._ask(ms.AskStatus(self._end.next_id()))
        with _understanding():
            return status_of(raw)

    def sees_all(self) -> bool:
        """Does the service show this user what is other users'?"""
        return self.status().sees_all

    @property
    def remembers_refusals(self) -> bool:
        """Does the service know what it refused? Earlier ones do not."""
        return REFUSALS in self._features

    def refusals(self, after: int = 0) -> list[ms.RefusalRow]:
        """What was refused and this user may see, the oldest first.

        Args:
            after: Only what has a higher number.
        """
        if not self.remembers_refusals:
            return []
        found: list[ms.RefusalRow] = []
        more = True
        while more:
            raw = self._ask(ms.ListRefusals(self._end.next_id(), after))
            with _understanding():
                rows, more = page_of(raw, ms.RefusalRow)
            if rows and rows[0].number <= after:
                raise ServiceFailed("the service lists the same refusals again")
            found += rows
            after = found[-1].number if found else after
        return found

    # -- packets ----------------------------------------------------------------------

    def _ask(self, message: ms.Request) -> bytes:
        end_s = self._deadline()
        try:
            packet = self._end.request(message)
        except QosError as error:
            raise _failure(Refusal(error.code, error.detail)) from error
        self._send(packet)
        while True:
            match self._next_event(end_s):
                case Answered(request_id=request_id, raw=raw) if request_id == message.id:
                    return raw
                case Refusing(request_id=request_id, refusal=refusal) if request_id == message.id:
                    raise _failure(refusal)
                case _:
                    continue

    def _deadline(self) -> float:
        return time.monotonic() + self._patience_s

    def _send(self, packet: bytes) -> None:
        """Send a packet; there is room for it, because the one before was answered."""
        try:
            self._sock.send(packet, socket.MSG_NOSIGNAL)
        except OSError:
            # What the service said last may say why; it is read next.
            return

    def _next_event(self, end_s: float) -> Event:
        while (event := self._end.next_event()) is None:
            left_s = end_s - time.monotonic()
            if left_s <= 0 or not self._interruption.wait_readable(self._sock.fileno(), left_s):
                raise ServiceFailed(
                    f"the service at {self._path} does not answer within {self._patience_s:g} s"
                )
            with _understanding():
                self._end.receive_packet(self._read())
        return event

    def _read(self) -> bytes:
        try:
            return self._sock.recv(_READ_BYTES)
        except OSError:
            # As the other end's death may look.
            return b""

    def close(self) -> None:
        """End the connection, and the handle with it; harmless when done before."""
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def _understanding() -> Iterator[None]:
    try:
        yield
    except ProtocolError as error:
        raise ServiceFailed(f"the service cannot be understood: {error.reason}") from error


def _failure(refusal: Refusal) -> ServiceFailed:
    text = f"the service refuses: {refusal.detail}"
    if refusal.code is ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED:
        return HandleWasLost(text)
    return ServiceFailed(text)


def _why(error: OSError | ValueError, path: str) -> str:
    if isinstance(error, OSError):
        match error.errno:
            case errno.ENOENT:
                return f"there is no {path}"
            case errno.ECONNREFUSED:
                return f"nobody listens at {path}"
            case errno.EACCES | errno.EPERM:
                return f"this user may not connect to {path}"
            case errno.EPROTOTYPE:
                return f"what listens at {path} is something else"
            case code if code:
                return f"{path}: {os.strerror(code)}"
    return f"{path}: {error}"

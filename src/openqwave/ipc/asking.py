"""The program's end of a connection: requests in, packets out; packets in, events out.

`ClientEnd.receive_packet` raises `ProtocolError` for what a service may not say; nothing more can
be believed then, and the connection is to be closed.

Each request ends once, with `Answered` or `Refusing`. Those that are still open when the
connection ends, however it ends, are ended here: with ERROR_OPERATION_ABORTED when the handle
was closed, else with what the farewell said, or ERROR_DEVICE_REINITIALIZATION_NEEDED without one.

::

    end = ClientEnd("my program")
    sock.send(end.hello())
    end.receive_packet(sock.recv(MAX_ANSWER_BYTES))   # an empty packet is the connection's end
    end.next_event()                                  # Welcomed
    sock.send(end.request(Check(end.next_id())))
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType
from typing import Final, TypeAlias

from openqwave.ipc import messages as ms
from openqwave.ipc.errors import ProtocolError
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import InvalidParameter, Refusal, error_of
from openqwave.model.value import value

_GONE: Final = Refusal(
    ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED,
    "the service is gone and the handle with it: close it and open a new one",
)
_BROKEN: Final = Refusal(
    ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED,
    "the service broke the control protocol: close the handle and open a new one",
)
_ABORTED: Final = Refusal(ErrorCode.ERROR_OPERATION_ABORTED, "the handle was closed")
_CLOSED: Final = Refusal(ErrorCode.ERROR_INVALID_HANDLE, "the handle is closed")


class State(Enum):
    """What a connection is."""

    NEW = auto()
    GREETING = auto()  # Hello was said.
    OPEN = auto()
    LOST = auto()  # The handle is lost; what remains is to close it.
    CLOSING = auto()  # Close was asked for.
    OVER = auto()


# What the service may say without having been asked, and what it leads to. Answers, refusals and
# "pending" go by the requests that are open; the end of a request to close leads to OVER.
TRANSITIONS: Final[Mapping[tuple[State, type], State]] = MappingProxyType(
    {
        (State.GREETING, ms.Welcome): State.OPEN,
        (State.GREETING, ms.Farewell): State.OVER,
        (State.OPEN, ms.Lost): State.LOST,
        (State.OPEN, ms.Farewell): State.OVER,
        (State.LOST, ms.Farewell): State.OVER,
        # It may have been on its way when close was asked for.
        (State.CLOSING, ms.Lost): State.CLOSING,
        (State.CLOSING, ms.Farewell): State.OVER,
    }
)


@value
class Welcomed:
    """The service is ready for requests."""

    welcome: ms.Welcome


@value
class Answered:
    """A request ended with what it asked for, as JSON: see `openqwave.ipc.values`."""

    request_id: int
    raw: bytes


@value
class Refusing:
    """A request ended with a refusal."""

    request_id: int
    refusal: Refusal


@value
class Postponed:
    """A request waits; its end comes later."""

    request_id: int


@value
class HandleLost:
    """The handle is lost: requests but close will be refused so."""

    refusal: Refusal


@value
class Farewelled:
    """The connection is over without having been closed from here; the last event."""

    refusal: Refusal


Event: TypeAlias = Welcomed | Answered | Refusing | Postponed | HandleLost | Farewelled


class ClientEnd:
    """The program's end of one connection; see the module's text.

    Attributes:
        refusal: Why nothing more can be asked; None while something can.
    """

    __slots__ = ("_events", "_features", "_last_id", "_open", "_program", "_state", "refusal")

    def __init__(self, program: str, features: tuple[str, ...] = ms.FEATURES) -> None:
        """Begin.

        Args:
            program: What the program calls itself; the service gets its first 64 characters.
            features: The optional parts of the protocol that the program can make use of.
        """
        self._program = program[: ms.MAX_PROGRAM_CHARS]
        self._features = features
        self._state = State.NEW
        self._events: deque[Event] = deque()
        # The requests that have not ended, in order: is it one to close, was it postponed?
        self._open: dict[int, tuple[bool, bool]] = {}
        self._last_id = 0
        self.refusal: Refusal | None = None

    @property
    def is_over(self) -> bool:
        """Has the connection ended?"""
        return self._state is State.OVER

    # -- packets out ----------------------------------------------------------------------

    def hello(self) -> bytes:
        """The first packet.

        Raises:
            RuntimeError: It was said already.
        """
        if self._state is not State.NEW:
            raise RuntimeError("hello is said once")
        self._state = State.GREETING
        return ms.encode_packet(ms.Hello(ms.PROTOCOL_VERSION, self._features, self._program))

    def next_id(self) -> int:
        """A number for the next request."""
        self._last_id += 1
        return self._last_id

    def request(self, message: ms.Request) -> bytes:
        """A request's packet; it is under way from here on.

        Raises:
            InvalidParameter: It is longer than a packet may be.
            InvalidHandle: Close was asked for before.
            QosError: The connection is over; the error says why.
            ValueError: A request of the same id is under way.
            RuntimeError: The service has not said welcome.
        """
        if self.refusal is not None:
            raise error_of(self.refusal)
        if self._state in (State.NEW, State.GREETING):
            raise RuntimeError("requests come after the welcome")
        if message.id in self._open:
            raise ValueError(f"request {message.id} is under way")
        packet = ms.encode_packet(message)
        if len(packet) > ms.MAX_REQUEST_BYTES:
            raise InvalidParameter(
                f"the request has {len(packet)} bytes, and a packet {ms.MAX_REQUEST_BYTES}"
            )
        is_close = isinstance(message, ms.Close)
        if is_close:
            self._state = State.CLOSING
            self.refusal = _CLOSED
        self._open[message.id] = is_close, False
        return packet

    # -- packets in -------------------------------------------------------------------------

    def receive_packet(self, data: bytes) -> None:
        """Take one packet in.

        Args:
            data: The packet; empty for the end of the connection.

        Raises:
            ProtocolError: It is not for the service to say. Requests that are open are refused
                by it, among the events.
        """
        if self._state is State.OVER:
            return
        if not data:
            self._end(_GONE)
            return
        try:
            if len(data) > ms.MAX_ANSWER_BYTES:
                raise ProtocolError(f"a packet of more than {ms.MAX_ANSWER_BYTES} bytes")
            self._take(ms.decode_reply(data))
        except ProtocolError:
            self._end(_BROKEN)
            raise

    def _take(self, message: ms.Reply) -> None:
        match message:
            case ms.Answer(id=request_id, value=raw):
                self._finish(Answered(request_id, bytes(raw)))
            case ms.Refused(id=request_id, code=code, name=name, detail=detail):
                self._finish(Refusing(request_id, refusal_told(code, name, detail)))
            case ms.Pending(id=request_id):
                is_close, was_postponed = self._of(request_id)
                if was_postponed:
                    raise ProtocolError(f"request {request_id} is pending twice")
                self._open[request_id] = is_close, True
                self._events.append(Postponed(request_id))
            case _:
                self._turn(message)

    def _turn(self, message: ms.Welcome | ms.Lost | ms.Farewell) -> None:
        state = TRANSITIONS.get((self._state, type(message)))
        if state is None:
            raise ProtocolError(
                f"{type(message).__name__} out of turn: the connection is {self._state.name}"
            )
        if isinstance(message, ms.Welcome):
            if message.version > ms.PROTOCOL_VERSION:
                raise ProtocolError(f"version {message.version} was not offered")
            if not set(message.features) <= set(self._features):
                raise ProtocolError("features that were not offered")
            self._state = state
            self._events.append(Welcomed(message))
            return
        refusal = refusal_told(message.code, message.name, message.detail)
        if isinstance(message, ms.Lost):
            self._state = state
            self._events.append(HandleLost(refusal))
        else:
            self._end(refusal)

    def _of(self, request_id: int) -> tuple[bool, bool]:
        found = self._open.get(request_id)
        if found is None:
            raise ProtocolError(f"request {request_id} is not under way")
        return found

    def _finish(self, event: Answered | Refusing) -> None:
        is_close, _ = self._of(event.request_id)
        del self._open[event.request_id]
        if is_close:
            self._state = State.OVER
            self._abandon(_ABORTED)
        self._events.append(event)

    def _abandon(self, refusal: Refusal) -> None:
        self._events += [Refusing(request_id, refusal) for request_id in self._open]
        self._open.clear()

    def _end(self, refusal: Refusal) -> None:
        self._state = State.OVER
        self.refusal = refusal
        self._abandon(refusal)
        self._events.append(Farewelled(refusal))

    def next_event(self) -> Event | None:
        """What the packets mean, in order; None when everything was told."""
        return self._events.popleft() if self._events else None


def refusal_told(code: int, name: str, detail: str) -> Refusal:
    """A refusal from the fields that packets have of it.

    Args:
        code: The Win32 error number; one of later times becomes ERROR_GEN_FAILURE.
        name: Its name.
        detail: The sentence.
    """
    try:
        return Refusal(ErrorCode(code), detail)
    except ValueError:
        return Refusal(ErrorCode.ERROR_GEN_FAILURE, f"{name} ({code}): {detail}")

"""The service's end of one connection: packets in, events out; answers in, packets out.

It holds the peer to the protocol and bounds what it can cost. What breaks the protocol ends the
connection: a farewell is queued, `Violated` is the last event, and whatever comes or is answered
after that is dropped. Nothing here raises because of what a peer sent.

A peer may ask faster than it reads. Its answers are queued up to `PeerLimits.pause_bytes`; then
`is_backed_up` asks the server to read no more from it, so a peer that never reads stops itself.
Only answers to requests that were pending can be queued beyond that, and there is an end to
those, too.

Each request ends once: with the first of `answer` and `refuse` that names it. A second one is
dropped, as is one for a request that the end of the connection has ended.

::

    end = ServiceEnd(PeerLimits())
    end.receive_packet(data, len(descriptors), is_cut=bool(flags & (MSG_TRUNC | MSG_CTRUNC)))
    while (event := end.next_event()) is not None:
        ...                                    # Opened: end.welcome(...), Asked: end.answer(...)
    while (packet := end.next_packet()) is not None:
        sock.send(packet)
        end.packet_sent()
    if end.is_over:
        sock.close()
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec import Raw

from openqwave.ipc import messages as ms
from openqwave.ipc.errors import ProtocolError
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.value import value

if TYPE_CHECKING:
    from collections.abc import Iterable

# A sentence; some quote what was asked for.
_MAX_DETAIL_CHARS: Final = 1_024


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """What one connection may cost.

    Attributes:
        outstanding: Requests that are not answered yet; more are refused. The engine lets 4,096
            of a process wait, so its own refusal, which says more, comes first.
        pause_bytes: With more than this queued, nothing more is read. Hundreds of answers, and
            that after what the kernel holds.
        queue_bytes: With more than this queued the connection ends. Above what 4,096 requests
            that are aborted together are told.
    """

    outstanding: int = 4_096 + 64
    pause_bytes: int = 32 * 1_024
    queue_bytes: int = 1_024 * 1_024


class State(Enum):
    """What a connection is."""

    NEW = auto()
    GREETED = auto()  # It said hello, and was not welcomed yet.
    OPEN = auto()
    LOST = auto()  # The handle is lost; what remains is to close it.
    CLOSING = auto()  # It asked to close, and was not answered yet.
    OVER = auto()

    # Each is one object. Python's own goes by the name, and takes long.
    __hash__ = object.__hash__


class Step(Enum):
    """What moves it on, from either end."""

    HELLO = auto()
    WELCOME = auto()
    REQUEST = auto()
    LOSE = auto()
    CLOSE = auto()

    __hash__ = object.__hash__


# Whatever is not here, the end that does it may not do. From every state a farewell, the answer
# to close, a violation and the end of the connection lead to OVER.
TRANSITIONS: Final[Mapping[tuple[State, Step], State]] = MappingProxyType(
    {
        (State.NEW, Step.HELLO): State.GREETED,
        (State.GREETED, Step.WELCOME): State.OPEN,
        (State.OPEN, Step.REQUEST): State.OPEN,
        (State.OPEN, Step.LOSE): State.LOST,
        (State.OPEN, Step.CLOSE): State.CLOSING,
        (State.LOST, Step.REQUEST): State.LOST,
        (State.LOST, Step.CLOSE): State.CLOSING,
    }
)
# Requests about a flow, which descriptors of the flow's sockets may be lent for.
_LENDING: Final = frozenset(
    {ms.RemoveSocket, ms.SetTrafficType, ms.SetRate, ms.SetDscp, ms.Query, ms.Notify}
)
_STEP_OF: Final[dict[type, Step]] = {ms.Hello: Step.HELLO, ms.Close: Step.CLOSE}


@value
class Opened:
    """The peer said hello; `ServiceEnd.welcome` or `ServiceEnd.say_farewell` is due."""

    hello: ms.Hello


@value
class Asked:
    """The peer asks for something; one end for its id is due."""

    request: ms.Request


@value
class Violated:
    """The peer broke the protocol; the last event."""

    reason: str


Event: TypeAlias = Opened | Asked | Violated


class ServiceEnd:
    """The service's end of one connection; see the module's text.

    Attributes:
        queued_bytes: What waits to be sent.
    """

    __slots__ = (
        "_closing_id",
        "_events",
        "_limits",
        "_loss",
        "_offered",
        "_outstanding",
        "_packets",
        "_state",
        "queued_bytes",
    )

    def __init__(self, limits: PeerLimits) -> None:
        self._limits = limits
        self._state = State.NEW
        self._events: deque[Event] = deque()
        self._packets: deque[bytes] = deque()
        # The requests that have not ended: was the peer told that they wait?
        self._outstanding: dict[int, bool] = {}
        self._offered: tuple[str, ...] = ()
        self._loss: Refusal | None = None
        self._closing_id = 0
        self.queued_bytes = 0

    @property
    def is_over(self) -> bool:
        """Does nothing more come of it, but what is queued?"""
        return self._state is State.OVER

    @property
    def is_backed_up(self) -> bool:
        """Is so much queued that nothing more should be read?"""
        return self.queued_bytes > self._limits.pause_bytes

    @property
    def outstanding(self) -> int:
        """How many requests have not ended."""
        return len(self._outstanding)

    # -- packets in ---------------------------------------------------------------------

    def receive_packet(self, data: bytes, descriptors: int = 0, *, is_cut: bool = False) -> None:
        """Take one packet in.

        Args:
            data: The packet; empty for the end of the connection, which cannot be told from an
                empty packet.
            descriptors: How many came along. Closing them is the caller's, always.
            is_cut: The packet or its descriptors did not fit into the buffer.
        """
        if self._state is State.OVER:
            return
        if is_cut or len(data) > ms.MAX_REQUEST_BYTES:
            self._violate(
                f"a packet of more than {ms.MAX_REQUEST_BYTES} bytes, or of more "
                f"than {ms.MAX_DESCRIPTORS} descriptors"
            )
        elif data:
            self._take(data, descriptors)
        elif descriptors:
            self._violate("descriptors without a message")
        else:
            self._end()

    def _take(self, data: bytes, descriptors: int) -> None:
        try:
            message = ms.decode_request(data)
        except ProtocolError as error:
            self._violate(error.reason)
            return
        kind = type(message)
        state = TRANSITIONS.get((self._state, _STEP_OF.get(kind, Step.REQUEST)))
        if state is None:
            self._violate(f"{kind.__name__} out of turn: the connection is {self._state.name}")
            return
        if descriptors and descriptors > _most_descriptors(message):
            self._violate(f"{descriptors} descriptors with {kind.__name__}")
            return
        if isinstance(message, ms.Hello):
            self._state = state
            self._offered = message.features
            self._events.append(Opened(message))
            return
        if message.id in self._outstanding:
            self._violate(f"request {message.id} is under way already")
            return
        # Before anything is queued, which may be the end of the connection.
        self._state = state
        if not self._is_refused(message):
            self._outstanding[message.id] = False
            self._events.append(Asked(message))

    def _is_refused(self, message: ms.Request) -> bool:
        """Refuse here what is not the service's to answer."""
        if isinstance(message, ms.Close):
            self._closing_id = message.id
            return False
        if self._loss is not None:
            self._send_refused(message.id, self._loss)
            return True
        if len(self._outstanding) < self._limits.outstanding:
            return False
        self._send_refused(
            message.id,
            Refusal(
                ErrorCode.ERROR_NO_SYSTEM_RESOURCES,
                f"{self._limits.outstanding} requests of this connection are under way",
            ),
        )
        return True

    def next_event(self) -> Event | None:
        """What the packets mean, in order; None when everything was told."""
        return self._events.popleft() if self._events else None

    # -- what the service says ------------------------------------------------------------

    def welcome(self, *, service: str, lends: bool, features: Iterable[str] = ms.FEATURES) -> None:
        """Answer `Opened`.

        Args:
            service: What the service is, for people.
            lends: Descriptors are asked for with each request about a flow.
            features: The optional parts that the service knows; told are those that the peer
                knows, too.

        Raises:
            RuntimeError: Not after hello.
        """
        if self._state is State.OVER:
            return
        state = TRANSITIONS.get((self._state, Step.WELCOME))
        if state is None:
            raise RuntimeError(f"a welcome is out of turn: the connection is {self._state.name}")
        self._state = state
        both = tuple(one for one in features if one in self._offered)
        self._queue(ms.encode_packet(ms.Welcome(ms.PROTOCOL_VERSION, both, service, lends)))

    def answer(self, request_id: int, value_json: bytes) -> None:
        """End a request with what it asked for.

        Args:
            request_id: The request.
            value_json: The value (`openqwave.ipc.values`). One that does not fit into a packet
                makes a refusal, ERROR_INSUFFICIENT_BUFFER.
        """
        if request_id not in self._outstanding:
            return
        packet = ms.encode_packet(ms.Answer(request_id, Raw(value_json)))
        if len(packet) > ms.MAX_ANSWER_BYTES:
            self.refuse(
                request_id,
                Refusal(
                    ErrorCode.ERROR_INSUFFICIENT_BUFFER,
                    f"the answer has {len(packet)} bytes, and a packet {ms.MAX_ANSWER_BYTES}",
                ),
            )
            return
        del self._outstanding[request_id]
        self._queue(packet)
        if request_id == self._closing_id:
            self._end()

    def refuse(self, request_id: int, refusal: Refusal) -> None:
        """End a request with a refusal."""
        if request_id not in self._outstanding:
            return
        del self._outstanding[request_id]
        self._send_refused(request_id, refusal)
        if request_id == self._closing_id:
            self._end()

    def postpone(self, request_id: int) -> None:
        """Tell that a request waits; its end follows later."""
        if self._outstanding.get(request_id) is False:
            self._outstanding[request_id] = True
            self._queue(ms.encode_packet(ms.Pending(request_id)))

    def lose(self, refusal: Refusal) -> None:
        """Tell that the handle is lost; later requests but close are refused so.

        Requests that are pending still have to be ended.
        """
        state = TRANSITIONS.get((self._state, Step.LOSE))
        if state is None:
            # There is no handle yet, or soon none any more, or it was said already.
            return
        self._state = state
        self._loss = refusal
        self._queue(ms.encode_packet(ms.Lost(*_told(refusal))))

    def say_farewell(self, refusal: Refusal) -> None:
        """Tell why the service closes the connection; nothing follows."""
        if self._state is not State.OVER:
            self._end()
            self._put(ms.encode_packet(ms.Farewell(*_told(refusal))))

    # -- packets out ----------------------------------------------------------------------

    def next_packet(self) -> bytes | None:
        """The packet to be sent next; None when all were."""
        return self._packets[0] if self._packets else None

    def packet_sent(self) -> None:
        """`next_packet` was sent."""
        self.queued_bytes -= len(self._packets.popleft())

    # -- inside -----------------------------------------------------------------------------

    def _send_refused(self, request_id: int, refusal: Refusal) -> None:
        self._queue(ms.encode_packet(ms.Refused(request_id, *_told(refusal))))

    def _queue(self, packet: bytes) -> None:
        self._put(packet)
        if self.queued_bytes > self._limits.queue_bytes:
            self._violate(f"{self.queued_bytes} bytes of answers were not read")

    def _put(self, packet: bytes) -> None:
        self._packets.append(packet)
        self.queued_bytes += len(packet)

    def _violate(self, reason: str) -> None:
        if self._state is State.OVER:
            return
        self._events.append(Violated(reason))
        self.say_farewell(
            Refusal(ErrorCode.ERROR_INVALID_PARAMETER, f"the control protocol was broken: {reason}")
        )

    def _end(self) -> None:
        self._state = State.OVER
        self._outstanding.clear()


def _most_descriptors(message: ms.Hello | ms.Request) -> int:
    """How many descriptors may come with a packet."""
    if isinstance(message, ms.AddSocket | ms.StartRun) or (
        isinstance(message, ms.RemoveSocket) and not message.whole
    ):
        return 1
    return ms.MAX_DESCRIPTORS if type(message) in _LENDING else 0


def _told(refusal: Refusal) -> tuple[int, str, str]:
    """A refusal's fields in packets."""
    return int(refusal.code), refusal.code.name, refusal.detail[:_MAX_DETAIL_CHARS]

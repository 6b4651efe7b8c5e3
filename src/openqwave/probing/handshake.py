"""The connection that packet pair and route check begin with, and what both have in common.

A session connects to the sink's TCP port, says what experiment it wants, and waits for the sink's
agreement, 250 ms in the specification (MS-QLPB 3.1.4.1, 3.1.4.2). The probes then travel over
UDP, and the connection carries nothing but the sink's summaries. How long connecting itself may
take is left open there.

The states and what leads from one to another are the table `TRANSITIONS`. Whatever is not in it
is a report that crossed with a decision of ours (a connection that came about after it was given
up, bytes that arrived after the end) and changes nothing.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from openqwave.model.errors import InvalidParameter
from openqwave.probing.outcomes import FAILURE_TO_CONNECT, Ended, Failed, Failure
from openqwave.probing.session import (
    Arrival,
    CloseReason,
    CloseStream,
    Effect,
    Event,
    OpenStream,
    SendStream,
    SendTrain,
)
from openqwave.wire.qlpb import (
    Direction,
    HandshakeSuccess,
    MalformedMessage,
    StreamDecoder,
    StreamMessage,
    encode_stream,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

# A lost SYN is repeated after 1 s and again after 3 s, and Linux gives up looking for a
# neighbour after 3 s: its reason is better than our time-out.
CONNECT_NS = 4_000_000_000


class State(enum.Enum):
    """Where a session stands."""

    NEW = "not started"
    CONNECTING = "the connection is being made"
    SHAKING = "the sink was asked"
    OPEN = "the sink agreed"
    OVER = "nothing happens any more"


class Step(enum.Enum):
    """What moves a session on."""

    STARTED = "begin"
    CONNECTED = "the connection is there"
    AGREED = "the sink's success message came"
    RECONNECTING = "the connection is gone and worth another"
    ENDED = "a failure, a result, or the consumer's wish"


TRANSITIONS: Mapping[tuple[State, Step], State] = MappingProxyType(
    {
        (State.NEW, Step.STARTED): State.CONNECTING,
        (State.CONNECTING, Step.CONNECTED): State.SHAKING,
        (State.SHAKING, Step.AGREED): State.OPEN,
        (State.OPEN, Step.RECONNECTING): State.CONNECTING,
        (State.NEW, Step.ENDED): State.OVER,
        (State.CONNECTING, Step.ENDED): State.OVER,
        (State.SHAKING, Step.ENDED): State.OVER,
        (State.OPEN, Step.ENDED): State.OVER,
    }
)


class StreamSession:
    """A session that begins with a handshake over TCP.

    Args:
        stream: The session's key in effects and events.
        hello: The handshake that asks for the experiment.
        handshake_ns: How long the sink may take to agree.
        max_deltas: Of the longest summary that can be true.
    """

    def __init__(
        self, stream: int, hello: StreamMessage, *, handshake_ns: int, max_deltas: int
    ) -> None:
        self._stream = stream
        self._hello = encode_stream(hello)
        self._handshake_ns = handshake_ns
        self._max_deltas = max_deltas
        self._state = State.NEW
        self._has_stream = False
        self._local_port = 0
        self._decoder = StreamDecoder(Direction.TO_INITIATOR, max_deltas)
        # Until when to be connected, or agreed with; None while neither is waited for.
        self._deadline_ns: int | None = None
        self._effects: list[Effect] = []
        self._events: deque[Event] = deque()

    @property
    def state(self) -> State:
        """Where the session stands."""
        return self._state

    # -- the verbs of a session -------------------------------------------------------

    def start(self, *, now_ns: int) -> None:
        """Connect to the sink.

        Raises:
            InvalidParameter: It was started before.
        """
        if not self._connect(Step.STARTED, now_ns):
            raise InvalidParameter("a session is started once")

    def close(self) -> None:
        """End in order, now; what was not answered yet is not answered any more."""
        self._end(Ended(self._stream))

    def receive_connected(self, stream: int, local_port: int, *, now_ns: int) -> None:
        """The connection is there: ask the sink."""
        if stream != self._stream or not self._take(Step.CONNECTED):
            return
        self._local_port = local_port
        self._decoder = StreamDecoder(Direction.TO_INITIATOR, self._max_deltas)
        self._deadline_ns = now_ns + self._handshake_ns
        self._effects.append(SendStream(stream, self._hello))

    def receive_stream(self, stream: int, data: bytes, *, now_ns: int) -> None:
        """Bytes of the sink's messages came."""
        if stream != self._stream or self._state not in (State.SHAKING, State.OPEN):
            return
        fault = None
        messages: Sequence[StreamMessage]
        try:
            messages = self._decoder.feed(data)
        except MalformedMessage as error:
            messages, fault = error.decoded, error.detail
        for message in messages:
            self._receive(message, now_ns)
        if fault is not None:
            self._fail(Failure.MALFORMED, fault)

    def receive_closed(self, stream: int, reason: CloseReason, *, now_ns: int) -> None:
        """The connection is gone, or was not to be had."""
        if stream != self._stream or not self._has_stream:
            return
        self._has_stream = False
        if self._state is State.OPEN:
            self._lose_connection(reason, now_ns)
        elif self._state is State.SHAKING:
            self._fail(Failure.DECLINED, reason.value)
        else:
            self._fail(FAILURE_TO_CONNECT[reason], reason.value)

    def receive_datagram(self, data: bytes, arrival: Arrival, *, now_ns: int) -> None:
        """Nothing: the experiment is answered over the connection."""

    def receive_sent(self, train: SendTrain, stamps_ns: tuple[int, ...], *, now_ns: int) -> None:
        """Nothing, unless the experiment wants the stamps."""

    def receive_unsent(
        self,
        train: SendTrain,
        index: int,
        reason: str,
        *,
        now_ns: int,  # noqa: ARG002 - the verb's form
    ) -> None:
        """A probe could not be sent."""
        self._give_up(train, f"packet {index + 1} of {len(train.payloads)}: {reason}")

    def effects_to_send(self, *, now_ns: int) -> list[Effect]:
        """Take what is to be done now, in order."""
        if self._state is State.OPEN:
            self._release(now_ns)
        taken, self._effects = self._effects, []
        return taken

    def next_event(self) -> Event | None:
        """Take the oldest event; None when there is none."""
        return self._events.popleft() if self._events else None

    def next_timer_ns(self) -> int | None:
        """When `handle_timer` is due; None for never."""
        if self._state is State.OVER:
            return None
        timers = list(self._timers_ns())
        if self._deadline_ns is not None:
            timers.append(self._deadline_ns)
        return min(timers, default=None)

    def handle_timer(self, *, now_ns: int) -> None:
        """Give up what took too long."""
        if self._deadline_ns is not None and now_ns >= self._deadline_ns:
            is_connecting = self._state is State.CONNECTING
            self._fail(Failure.CONNECT_TIMED_OUT if is_connecting else Failure.NO_AGREEMENT)
        if self._state is not State.OVER:
            self._expire(now_ns)

    # -- what an experiment adds ------------------------------------------------------

    def _begin(self, now_ns: int) -> None:
        """The sink agreed."""
        raise NotImplementedError

    def _receive_summary(self, message: StreamMessage, now_ns: int) -> None:
        """A message other than success came after the agreement."""
        raise NotImplementedError

    def _give_up(self, train: SendTrain, reason: str) -> None:
        """A probe of a train could not be sent."""
        raise NotImplementedError

    def _lose_connection(self, reason: CloseReason, now_ns: int) -> None:
        """The connection ended after the agreement."""
        raise NotImplementedError

    def _release(self, now_ns: int) -> None:
        """Add the probes that are due to the effects."""
        raise NotImplementedError

    def _timers_ns(self) -> Iterator[int]:
        """When something is due, apart from the connection."""
        raise NotImplementedError

    def _expire(self, now_ns: int) -> None:
        """Give up what took too long, apart from the connection."""
        raise NotImplementedError

    # -- what an experiment uses ------------------------------------------------------

    def _take(self, step: Step) -> bool:
        """Move on; False if the step leads nowhere from here."""
        following = TRANSITIONS.get((self._state, step))
        if following is None:
            return False
        self._state = following
        self._deadline_ns = None
        return True

    def _connect(self, step: Step, now_ns: int) -> bool:
        if not self._take(step):
            return False
        self._has_stream = True
        self._deadline_ns = now_ns + CONNECT_NS
        self._effects.append(OpenStream(self._stream))
        return True

    def _receive(self, message: StreamMessage, now_ns: int) -> None:
        if isinstance(message, HandshakeSuccess):
            if self._take(Step.AGREED):
                self._begin(now_ns)
            else:
                self._fail(Failure.UNEXPECTED, "a handshake was answered twice")
        elif self._state is State.SHAKING:
            self._fail(Failure.UNEXPECTED, "a summary came before the sink agreed")
        elif self._state is State.OPEN:
            self._receive_summary(message, now_ns)

    def _fail(self, reason: Failure, detail: str = "") -> None:
        self._end(Failed(self._stream, reason, detail))

    def _end(self, event: Event) -> None:
        """Say the last word, once."""
        if not self._take(Step.ENDED):
            return
        if self._has_stream:
            self._has_stream = False
            self._effects.append(CloseStream(self._stream))
        self._events.append(event)

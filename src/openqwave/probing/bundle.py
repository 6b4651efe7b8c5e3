"""Several sessions as one: inputs find the session they are for, outputs come out together.

Whoever wants more than one experiment at once derives from `Bundle`, adds sessions, and hears
their events by `_hear`; the driver sees one session.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

from openqwave.probing.session import Event, SendTrain

if TYPE_CHECKING:
    from openqwave.probing.session import Arrival, CloseReason, Effect, Session


class Bundle(ABC):
    """Sessions by their stream's key; see the module's text.

    Args:
        headers_bytes: What IP and UDP add to each payload, for the books.
    """

    def __init__(self, headers_bytes: int) -> None:
        self._headers_bytes = headers_bytes
        self._sessions: dict[int, Session] = {}
        self._events: deque[Event] = deque()
        self._sent_bytes = 0

    @property
    def sent_bytes(self) -> int:
        """Bytes of IP packets that were sent for experiments; the TCP connections not counted."""
        return self._sent_bytes

    @abstractmethod
    def _hear(self, event: Event, now_ns: int) -> None:
        """A session inside has something to say."""

    def _hear_of(self, key: int, event: Event, now_ns: int) -> None:  # noqa: ARG002 - for owners
        """The session of a key has something to say; for those to whom it matters which."""
        self._hear(event, now_ns)

    @abstractmethod
    def _own_timer_ns(self) -> int | None:
        """When `_handle_own_timer` is due, apart from what the sessions inside wait for."""

    @abstractmethod
    def _handle_own_timer(self, now_ns: int) -> None:
        """Something may be due."""

    def _drain(self, now_ns: int) -> None:
        """Hear everything; hearing one session may make another one speak."""
        spoken = True
        while spoken:
            spoken = False
            for key, session in list(self._sessions.items()):
                while (event := session.next_event()) is not None:
                    spoken = True
                    self._hear_of(key, event, now_ns)

    def _session_of(self, stream: int) -> Session | None:
        """Whose a stream is; None for one of a session that is over and gone."""
        return self._sessions.get(stream)

    def receive_connected(self, stream: int, local_port: int, *, now_ns: int) -> None:
        """A stream that was to be opened is open."""
        if (session := self._session_of(stream)) is not None:
            session.receive_connected(stream, local_port, now_ns=now_ns)
            self._drain(now_ns)

    def receive_stream(self, stream: int, data: bytes, *, now_ns: int) -> None:
        """Bytes came over a stream."""
        if (session := self._session_of(stream)) is not None:
            session.receive_stream(stream, data, now_ns=now_ns)
            self._drain(now_ns)

    def receive_closed(self, stream: int, reason: CloseReason, *, now_ns: int) -> None:
        """A stream could not be opened, or has ended."""
        if (session := self._session_of(stream)) is not None:
            session.receive_closed(stream, reason, now_ns=now_ns)
            self._drain(now_ns)

    def receive_datagram(self, data: bytes, arrival: Arrival, *, now_ns: int) -> None:
        """A datagram came from the sink; whose it is, its content tells."""
        for session in list(self._sessions.values()):
            session.receive_datagram(data, arrival, now_ns=now_ns)
        self._drain(now_ns)

    def receive_sent(self, train: SendTrain, stamps_ns: tuple[int, ...], *, now_ns: int) -> None:
        """All of a train has left."""
        if (session := self._session_of(train.stream)) is not None:
            session.receive_sent(train, stamps_ns, now_ns=now_ns)
            self._drain(now_ns)

    def receive_unsent(self, train: SendTrain, index: int, reason: str, *, now_ns: int) -> None:
        """A datagram of a train could not be sent, nor those after it."""
        if (session := self._session_of(train.stream)) is not None:
            session.receive_unsent(train, index, reason, now_ns=now_ns)
            self._drain(now_ns)

    def effects_to_send(self, *, now_ns: int) -> list[Effect]:
        """Take what is to be done now, in order."""
        effects = [
            effect
            for session in self._sessions.values()
            for effect in session.effects_to_send(now_ns=now_ns)
        ]
        for effect in effects:
            if isinstance(effect, SendTrain):
                self._sent_bytes += sum(map(len, effect.payloads))
                self._sent_bytes += self._headers_bytes * len(effect.payloads)
        self._drain(now_ns)
        return effects

    def next_event(self) -> Event | None:
        """Take the oldest event; None when there is none."""
        return self._events.popleft() if self._events else None

    def next_timer_ns(self) -> int | None:
        """When `handle_timer` is due; None for never."""
        timers = [session.next_timer_ns() for session in self._sessions.values()]
        timers.append(self._own_timer_ns())
        return min((timer for timer in timers if timer is not None), default=None)

    def handle_timer(self, *, now_ns: int) -> None:
        """The time has come for one of the sessions, or for the whole."""
        for session in list(self._sessions.values()):
            session.handle_timer(now_ns=now_ns)
        self._drain(now_ns)
        self._handle_own_timer(now_ns)
        self._drain(now_ns)

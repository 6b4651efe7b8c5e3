"""Sinks that do not do what a sink should, for measurements in virtual time."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from openqwave.probing.session import CloseStream, SendStream
from openqwave.probing.sink import Reply, Sink
from openqwave.wire.qlpb import MessageId

if TYPE_CHECKING:
    from openqwave.model.endpoint import Endpoint
    from openqwave.probing.session import Arrival
    from openqwave.probing.sink import SinkEffect


class ClosingSink(Sink):
    """Ends a packet pair with its summary, as one place of the specification says."""

    def effects_to_send(self, *, now_ns: int) -> list[SinkEffect]:
        effects: list[SinkEffect] = []
        for effect in super().effects_to_send(now_ns=now_ns):
            effects.append(effect)
            if isinstance(effect, SendStream) and is_pair_summary(effect.data):
                self.receive_closed(effect.stream, now_ns=now_ns)
                effects.append(CloseStream(effect.stream))
        return effects


def is_pair_summary(data: bytes) -> bool:
    return data[0] == MessageId.PACKET_PAIR_SUMMARY


class SinkWithoutProbegap(Sink):
    """Answers trains and no small probe."""

    def effects_to_send(self, *, now_ns: int) -> list[SinkEffect]:
        effects = super().effects_to_send(now_ns=now_ns)
        return [effect for effect in effects if not isinstance(effect, Reply)]


class Death(enum.Enum):
    """How a sink goes away."""

    SILENT = "the cable is pulled"
    CLOSED = "the program ends, and its kernel closes the connections"


class MortalSink(Sink):
    """Works until a time.

    Args:
        dies_ns: When.
        how: And how.
    """

    def __init__(self, dies_ns: int, how: Death) -> None:
        super().__init__()
        self._dies_ns = dies_ns
        self._how = how
        self._is_dead = False
        self._mine: dict[int, None] = {}

    def receive_connection(
        self, connection: int, peer: Endpoint, interface_speed_bps: int = 0, *, now_ns: int
    ) -> None:
        if now_ns < self._dies_ns:
            self._mine[connection] = None
            super().receive_connection(connection, peer, interface_speed_bps, now_ns=now_ns)

    def receive_stream(self, connection: int, data: bytes, *, now_ns: int) -> None:
        if now_ns < self._dies_ns:
            super().receive_stream(connection, data, now_ns=now_ns)

    def receive_closed(self, connection: int, *, now_ns: int) -> None:
        self._mine.pop(connection, None)
        if now_ns < self._dies_ns:
            super().receive_closed(connection, now_ns=now_ns)

    def receive_datagram(
        self, data: bytes, peer: Endpoint, arrival: Arrival, *, now_ns: int
    ) -> None:
        if now_ns < self._dies_ns:
            super().receive_datagram(data, peer, arrival, now_ns=now_ns)

    def next_timer_ns(self) -> int | None:
        if self._is_dead:
            return None
        due_ns = super().next_timer_ns()
        return self._dies_ns if due_ns is None else min(due_ns, self._dies_ns)

    def effects_to_send(self, *, now_ns: int) -> list[SinkEffect]:
        effects = super().effects_to_send(now_ns=now_ns)
        if now_ns < self._dies_ns:
            return effects
        is_first, self._is_dead = not self._is_dead, True
        if is_first and self._how is Death.CLOSED:
            return [CloseStream(connection) for connection in self._mine]
        return []

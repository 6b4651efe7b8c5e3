"""Sessions, sinks and far ends that do what a test wrote, for experiment hosts on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from openqwave.drivers.experiments import Running
from openqwave.lab.namespaces import Namespace, loopback_up
from openqwave.model.endpoint import Endpoint
from openqwave.probing.session import (
    Arrival,
    CloseReason,
    CloseStream,
    Effect,
    Event,
    SendStream,
    SendTrain,
)
from openqwave.probing.sink import SinkEffect
from openqwave.probing.sink_reports import Refused

PORT = 2177

# Everything here takes milliseconds; this is for a machine that stands still.
PATIENCE_S = 20.0


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """A network where nobody else has port 2177, if this process may make one."""
    try:
        namespace = Namespace.create()
    except OSError:
        yield
        return
    with namespace:
        namespace.run(loopback_up)
        with namespace.enter():
            yield


@dataclass(frozen=True, slots=True)
class Told(Event):
    """A verb of a session was called.

    Attributes:
        what: The verb.
        details: Its arguments.
        now_ns: The time it was told.
        thread: In which thread.
    """

    what: str
    details: tuple[object, ...]
    now_ns: int
    thread: str


class Script:
    """A session that begins with some effects, and answers what it is told with others."""

    def __init__(
        self,
        *effects: Effect,
        answer: Callable[[Told], Sequence[Effect]] = lambda _: (),
        lasts_ns: int = 0,
    ) -> None:
        self.effects = list(effects)
        self.answer = answer
        self.lasts_ns = lasts_ns
        self.timer_ns: int | None = None
        self.events: deque[Event] = deque()

    def tell(self, what: str, now_ns: int, *details: object) -> None:
        told = Told(what, details, now_ns, threading.current_thread().name)
        self.events.append(told)
        self.effects += self.answer(told)

    def start(self, *, now_ns: int) -> None:
        if self.lasts_ns:
            self.timer_ns = now_ns + self.lasts_ns
        self.tell("start", now_ns)

    def receive_connected(self, stream: int, local_port: int, *, now_ns: int) -> None:
        self.tell("connected", now_ns, stream, local_port)

    def receive_stream(self, stream: int, data: bytes, *, now_ns: int) -> None:
        self.tell("stream", now_ns, stream, data)

    def receive_closed(self, stream: int, reason: CloseReason, *, now_ns: int) -> None:
        self.tell("closed", now_ns, stream, reason)

    def receive_datagram(self, data: bytes, arrival: Arrival, *, now_ns: int) -> None:
        self.tell("datagram", now_ns, data, arrival)

    def receive_sent(self, train: SendTrain, stamps_ns: tuple[int, ...], *, now_ns: int) -> None:
        self.tell("sent", now_ns, train, stamps_ns)

    def receive_unsent(self, train: SendTrain, index: int, reason: str, *, now_ns: int) -> None:
        self.tell("unsent", now_ns, train, index, reason)

    def effects_to_send(self, *, now_ns: int) -> list[Effect]:
        del now_ns
        taken, self.effects = self.effects, []
        return taken

    def next_event(self) -> Event | None:
        return self.events.popleft() if self.events else None

    def next_timer_ns(self) -> int | None:
        return self.timer_ns

    def handle_timer(self, *, now_ns: int) -> None:
        due_ns, self.timer_ns = self.timer_ns, None
        self.tell("timer", now_ns, due_ns)


class ScriptedSink:
    """A sink that answers connections and datagrams with what the test wrote."""

    def __init__(
        self,
        answer: Callable[[Told], Sequence[SinkEffect]] = lambda _: (),
    ) -> None:
        self.answer = answer
        self.effects: list[SinkEffect] = []
        self.events: deque[Event] = deque()

    def tell(self, what: str, now_ns: int, *details: object) -> None:
        told = Told(what, details, now_ns, threading.current_thread().name)
        self.events.append(told)
        self.effects += self.answer(told)

    def receive_connection(
        self, connection: int, peer: Endpoint, interface_speed_bps: int = 0, *, now_ns: int
    ) -> None:
        self.tell("connection", now_ns, connection, peer, interface_speed_bps)

    def receive_stream(self, connection: int, data: bytes, *, now_ns: int) -> None:
        self.tell("stream", now_ns, connection, data)

    def receive_closed(self, connection: int, *, now_ns: int) -> None:
        self.tell("closed", now_ns, connection)

    def receive_datagram(
        self, data: bytes, peer: Endpoint, arrival: Arrival, *, now_ns: int
    ) -> None:
        self.tell("datagram", now_ns, data, peer, arrival)

    def refuse(self, reason: Refused, peer: Endpoint, detail: str = "", *, now_ns: int) -> None:
        self.tell("refused", now_ns, reason, peer, detail)

    def effects_to_send(self, *, now_ns: int) -> list[SinkEffect]:
        del now_ns
        taken, self.effects = self.effects, []
        return taken

    def next_event(self) -> Event | None:
        return self.events.popleft() if self.events else None

    def next_timer_ns(self) -> int | None:
        return None

    def handle_timer(self, *, now_ns: int) -> None:
        raise AssertionError(now_ns)


def wait_for(running: Running, what: str) -> Told:
    """The next time that a verb was called; others before it are passed over."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        event = running.next_event(PATIENCE_S)
        assert event is not None, f"over before {what}"
        assert isinstance(event, Told)
        if event.what == what:
            return event
    raise AssertionError(f"no {what}")


def verbs(running: Running) -> list[str]:
    """Everything that was called until the end."""
    return [event.what for event in running if isinstance(event, Told)]


def echo_all(told: Told) -> Sequence[SendStream | CloseStream]:
    """A sink's answer: bytes go back; the word "end" ends the connection."""
    if told.what != "stream":
        return ()
    connection, data = told.details
    assert isinstance(connection, int)
    assert isinstance(data, bytes)
    return (CloseStream(connection),) if data == b"end" else (SendStream(connection, data),)


class FarEnd:
    """A far end made of plain sockets: a TCP listener and a UDP socket on port 2177."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.create_server((host, PORT), family=family)
        self.listener.settimeout(PATIENCE_S)
        self.datagrams = socket.socket(family, socket.SOCK_DGRAM)
        self.datagrams.bind((host, PORT))
        self.datagrams.settimeout(PATIENCE_S)
        if family == socket.AF_INET:
            self.datagrams.setsockopt(socket.IPPROTO_IP, 13, 1)  # IP_RECVTOS

    def accept(self) -> socket.socket:
        accepted, _ = self.listener.accept()
        accepted.settimeout(PATIENCE_S)
        return accepted

    def receive(self, count: int) -> list[tuple[bytes, int, int]]:
        """Payload, traffic class and source port of so many datagrams."""
        found = []
        for _ in range(count):
            data, control, _, name = self.datagrams.recvmsg(2048, 64)
            octets = [value[0] for _, _, value in control]
            found.append((data, octets[0] if octets else 0, name[1]))
        return found

    def close(self) -> None:
        self.listener.close()
        self.datagrams.close()


@contextlib.contextmanager
def far_end(host: str = "127.0.0.1") -> Iterator[FarEnd]:
    made = FarEnd(host)
    try:
        yield made
    finally:
        made.close()

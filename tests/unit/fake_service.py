"""A service in a thread that answers what a test wrote down: lists, the status, and bad manners."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from openqwave.drivers.readiness import Wake
from openqwave.ipc import messages as ms
from openqwave.ipc.serving import Asked, Opened, PeerLimits, ServiceEnd
from openqwave.ipc.values import status_to_json
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal

LOST = Refusal(ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED, "the machine slept")

STATUS = ms.StatusRow(
    service="qwaved 0.1",
    version="0.1",
    protocol=1,
    pid=4711,
    uptime_ns=3_725_000_000_000,
    socket="/run/qwave/qwaved.sock",
    config_file="/etc/qwave/qwaved.toml",
    handles=2,
    flows=3,
    paths=1,
    peers=2,
    lends=False,
    backend=ms.BackendRow(name="socket options", reason="no kernel data plane"),
    sink=ms.SinkRow(on=True),
    memory=ms.MemoryRow(path="/var/lib/qwave/paths.sqlite3", state="good"),
    counters={"protocol violations": 3},
)


@dataclass
class Script:
    """What the service says.

    Attributes:
        flows: What is listed at each look (counted from 0).
        paths: What is listed.
        programs: Likewise.
        refusals: What was refused, by ascending numbers.
        status: How it is.
        page_rows: How many rows a page has.
        is_administrator: Whether the asker may see all.
        answers: What comes instead of an answer to requests of a type: bytes are the value, a
            refusal is told, None is silence.
        features: The optional parts of the protocol that it knows.
        greeting: Said instead of a welcome; None is silence.
        loses_after: The handle is lost after so many requests; 0 for never.
        drops_after: The connection ends after so many.
    """

    flows: Callable[[int], Sequence[ms.FlowRow]] = lambda _: ()
    paths: Sequence[ms.PathRow] = ()
    programs: Sequence[ms.ProgramRow] = ()
    refusals: Sequence[ms.RefusalRow] = ()
    status: ms.StatusRow = STATUS
    page_rows: int = 100
    is_administrator: bool = True
    answers: dict[type, bytes | Refusal | None] = field(default_factory=dict)
    features: Sequence[str] = ms.FEATURES
    greeting: Refusal | str | None = ""
    loses_after: int = 0
    drops_after: int = 0


class FakeService:
    """Serves a script.

    Attributes:
        path: Its socket.
        asked: All requests, in order.
        connections: How many there were.
        looks: How often flows were listed from the beginning.
    """

    def __init__(self, path: Path, script: Script) -> None:
        self.path = path
        self.script = script
        self.asked: list[ms.Request] = []
        self.connections = 0
        self.looks = 0
        self._wake = Wake()
        self._is_ending = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen()
        self._ends: dict[socket.socket, ServiceEnd] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._is_ending = True
        self._wake.send()
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._wake.close()

    def _run(self) -> None:
        try:
            while not self._is_ending:
                socks = [self._listener, *self._ends]
                numbers = [self._wake.fd, *[sock.fileno() for sock in socks]]
                ready, _, _ = select.select(numbers, [], [])
                for sock in socks:
                    if sock.fileno() in ready:
                        self._take(sock)
        finally:
            for sock in (self._listener, *self._ends):
                sock.close()

    def _take(self, sock: socket.socket) -> None:
        if sock is self._listener:
            self._ends[sock.accept()[0]] = ServiceEnd(PeerLimits())
            self.connections += 1
        else:
            self._serve(sock)

    def _serve(self, sock: socket.socket) -> None:
        end = self._ends[sock]
        try:
            data = sock.recv(ms.MAX_REQUEST_BYTES + 1)
        except ConnectionResetError:
            # It went without reading an answer.
            data = b""
        end.receive_packet(data)
        while (event := end.next_event()) is not None:
            match event:
                case Opened():
                    self._greet(end)
                case Asked(request):
                    self._count(sock, end, request)
                case _:
                    pass
        with contextlib.suppress(OSError):
            while (packet := end.next_packet()) is not None:
                sock.send(packet, socket.MSG_NOSIGNAL)
                end.packet_sent()
        if not data or end.is_over:
            del self._ends[sock]
            sock.close()

    def _greet(self, end: ServiceEnd) -> None:
        greeting = self.script.greeting
        if isinstance(greeting, Refusal):
            end.say_farewell(greeting)
        elif greeting is not None:
            end.welcome(service="a fake", lends=False, features=self.script.features)

    def _count(self, sock: socket.socket, end: ServiceEnd, request: ms.Request) -> None:
        self.asked.append(request)
        if len(self.asked) == self.script.drops_after:
            sock.shutdown(socket.SHUT_RDWR)
            return
        if len(self.asked) == self.script.loses_after:
            end.lose(LOST)
            end.refuse(request.id, LOST)
            return
        answer = self._answer(request)
        if isinstance(answer, Refusal):
            end.refuse(request.id, answer)
        elif answer is not None:
            end.answer(request.id, answer)

    def _answer(self, request: ms.Request) -> bytes | Refusal | None:
        script = self.script
        if type(request) in script.answers:
            return script.answers[type(request)]
        match request:
            case ms.ListFlows(after=after):
                self.looks += after == 0
                rows = [row for row in script.flows(self.looks - 1) if row.flow > after]
                return _page("flows", rows, script.page_rows)
            case ms.ListPaths(after=after):
                return _page("paths", script.paths[after:], script.page_rows)
            case ms.ListPrograms(after=after):
                return _page("programs", script.programs[after:], script.page_rows)
            case ms.AskStatus():
                status = msgspec.structs.replace(script.status, sees_all=script.is_administrator)
                return status_to_json(status)
            case ms.ListRefusals(after=after):
                refused = [row for row in script.refusals if row.number > after]
                return _page("refusals", refused, script.page_rows)
            case _:
                raise AssertionError(f"nobody expected {request}")


def _page(name: str, rows: Sequence[object], most: int) -> bytes:
    return msgspec.json.encode({name: rows[:most], "more": len(rows) > most})


@contextlib.contextmanager
def fake_service(directory: Path, script: Script) -> Iterator[FakeService]:
    service = FakeService(directory / "qwaved.sock", script)
    try:
        yield service
    finally:
        service.close()

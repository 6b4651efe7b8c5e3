"""The service's loop: connections come, ask, and end in every way there is."""

from __future__ import annotations

import array
import contextlib
import errno
import logging
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from openqwave.admission.policy import Policy
from openqwave.drivers import processes
from openqwave.ipc import messages as ms
from openqwave.ipc.asking import (
    Answered,
    ClientEnd,
    Event,
    Farewelled,
    HandleLost,
    Postponed,
    Refusing,
    Welcomed,
)
from openqwave.ipc.serving import PeerLimits
from openqwave.model.codes import ErrorCode
from openqwave.model.estimates import Congestion
from openqwave.service import server as server_module
from tests.conftest import open_descriptors
from tests.patience import until
from tests.unit.driven import endpoint, view
from tests.unit.loopback import options_of
from tests.unit.own_service import OwnService, own_service
from tests.unit.own_subsystem import FakeClock

PATIENCE_S = 20.0
VOICE, VOICE_TOS = 4, 56 << 2
HERE = endpoint("127.0.0.1", 0)


_clients: list[Client] = []


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    """Close the connections that a test that failed has left."""
    yield
    for client in _clients:
        client.close()
    _clients.clear()


class Client:
    """One connection, used as the protocol has it or not."""

    def __init__(self, path: str, *, says_hello: bool = True) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(PATIENCE_S)
        _clients.append(self)
        self.sock.connect(path)
        self.end = ClientEnd("a test")
        if says_hello:
            self.sock.send(self.end.hello())
            assert isinstance(self.event(), Welcomed)

    def event(self) -> Event:
        """The next thing that the service says."""
        while (event := self.end.next_event()) is None:
            packet = self.sock.recv(ms.MAX_ANSWER_BYTES)
            assert packet, "the service closed the connection"
            self.end.receive_packet(packet)
        return event

    def send(self, request: ms.Request, *descriptors: int) -> None:
        rights = array.array("i", descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        self.sock.sendmsg([self.end.request(request)], ancillary)

    def ask(self, request: ms.Request, *descriptors: int) -> Event:
        self.send(request, *descriptors)
        return self.event()

    def add(self, sock: socket.socket, *, is_adaptive: bool = False) -> int:
        """A flow of a socket."""
        number = sock.fileno()
        request = ms.AddSocket(self.end.next_id(), 0, VOICE, is_adaptive, None, 0, number=number)
        event = self.ask(request, number)
        assert isinstance(event, Answered), event
        return int(bytes(event.raw))

    def is_closed(self) -> bool:
        """Did the service close the connection? What it said before is dropped."""
        with contextlib.suppress(ConnectionResetError):
            while self.sock.recv(ms.MAX_ANSWER_BYTES):
                pass
        return True

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def service() -> Iterator[OwnService]:
    with own_service() as service:
        yield service


@pytest.fixture
def udp() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", 9))
        yield sock


def flow_count(service: OwnService) -> int:
    return service.runtime.look(lambda engine: engine.flow_count)


def peer_count(service: OwnService) -> int:
    return len(list(service.server.peers()))


# -- what else is watched --------------------------------------------------------------


def test_a_watch_that_fails_is_tried_again_and_ends_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    read: list[bytes] = []
    faults = [OSError(errno.EIO, "once"), ValueError("twice")]
    with ExitStack() as stack:
        reader, writer = os.pipe()
        stack.callback(os.close, reader)
        stack.callback(os.close, writer)

        def hear() -> None:
            if faults:
                raise faults.pop(0)
            read.append(os.read(reader, 8))

        service = stack.enter_context(own_service())
        client = Client(service.path)
        service.server.watch(reader, hear)
        os.write(writer, b"heard")
        until(lambda: read == [b"heard"])
        assert service.server.incidents.counts["failed looks"] == 2
        assert "ValueError" in caplog.text
        event = client.ask(ms.EnumerateFlows(client.end.next_id(), 0))
        assert isinstance(event, Answered | Refusing)


# -- the ways to end ------------------------------------------------------------------


def test_close_gives_options_back_before_it_answers(
    service: OwnService, udp: socket.socket
) -> None:
    before = options_of(udp)
    client = Client(service.path)
    client.add(udp)
    assert options_of(udp).tos == VOICE_TOS
    assert isinstance(client.ask(ms.Close(client.end.next_id())), Answered)
    assert options_of(udp) == before
    assert client.is_closed()
    client.close()


def test_the_end_of_a_connection_ends_its_flows(service: OwnService, udp: socket.socket) -> None:
    before = options_of(udp)
    client = Client(service.path)
    client.add(udp)
    client.close()
    until(lambda: options_of(udp) == before)
    until(lambda: peer_count(service) == 0)
    until(lambda: flow_count(service) == 0)


def test_the_end_of_a_process_ends_its_flows_whoever_has_its_connection(
    service: OwnService, udp: socket.socket
) -> None:
    """A fork of a client that was killed still holds the connection."""
    before = options_of(udp)
    alive_reading, alive_writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        client = Client(service.path)
        client.add(udp)
        if os.fork() == 0:
            os.close(alive_reading)
            os.write(alive_writing, str(os.getpid()).encode())
            signal.pause()
            os._exit(0)
        signal.pause()
        os._exit(0)
    os.close(alive_writing)
    survivor = int(os.read(alive_reading, 20))
    try:
        assert options_of(udp).tos == VOICE_TOS
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        until(lambda: options_of(udp) == before)
        assert flow_count(service) == 0
        # The fork is there all the while: its end of the pipe is not closed.
        assert not select.select([alive_reading], [], [], 0)[0]
    finally:
        os.kill(survivor, signal.SIGKILL)
        os.close(alive_reading)


def test_the_end_of_the_service_gives_everything_back(udp: socket.socket) -> None:
    before = options_of(udp)
    with own_service() as service:
        client = Client(service.path)
        client.add(udp)
        assert options_of(udp).tos == VOICE_TOS
    assert options_of(udp) == before
    assert client.is_closed()
    client.close()


# -- the rules ------------------------------------------------------------------------


def test_a_violation_is_told_and_ends_the_connection(
    service: OwnService, udp: socket.socket
) -> None:
    before = options_of(udp)
    client = Client(service.path)
    client.add(udp)
    client.sock.send(b"{")
    event = client.event()
    assert isinstance(event, Farewelled)
    assert event.refusal.code is ErrorCode.ERROR_INVALID_PARAMETER
    assert client.is_closed()
    until(lambda: options_of(udp) == before)
    assert service.server.incidents.counts["protocol violation"] == 1
    client.close()


def test_who_says_nothing_is_put_out(service: OwnService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_HELLO_NS", 0)
    silent = Client(service.path, says_hello=False)
    talking = Client(service.path)
    assert silent.is_closed()
    assert isinstance(talking.ask(ms.Check(talking.end.next_id())), Answered)
    assert service.server.incidents.counts["connections without a word"] == 1
    silent.close()
    talking.close()


def held_processes() -> int:
    """How many processes this one holds by their pidfds."""
    return sum("pidfd" in what for what in open_descriptors().values())


@pytest.mark.parametrize("question", ["peer_ids", "identify"])
def test_of_who_cannot_be_identified_nothing_is_kept(
    service: OwnService, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOBUFS, "no memory")

    before = held_processes()
    with monkeypatch.context() as patch:
        patch.setattr(f"openqwave.service.peers.{question}", fail)
        client = Client(service.path, says_hello=False)
        with contextlib.suppress(BrokenPipeError):
            client.sock.send(client.end.hello())
        assert client.is_closed()
    until(lambda: held_processes() == before)
    assert service.server.incidents.counts["connections that failed"] == 1
    Client(service.path).close()


@pytest.mark.parametrize(("connections", "is_user"), [(2, False), (8_192, True)])
def test_there_is_room_for_so_many(
    service: OwnService, connections: int, is_user: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = service.server.limits
    service.server.limits = replace(limits, connections=connections, connections_per_user=2)
    if is_user:
        peer_ids = processes.peer_ids
        monkeypatch.setattr(
            "openqwave.service.peers.peer_ids", lambda sock: (peer_ids(sock)[0], 1_234, 1_234)
        )
    first, second = Client(service.path), Client(service.path)
    third = Client(service.path, says_hello=False)
    with contextlib.suppress(BrokenPipeError):
        third.sock.send(third.end.hello())
    event = third.event()
    assert isinstance(event, Farewelled)
    assert event.refusal.code is ErrorCode.ERROR_NO_SYSTEM_RESOURCES
    first.close()
    until(lambda: peer_count(service) == 1)
    fourth = Client(service.path)
    for client in (second, third, fourth):
        client.close()


def test_root_is_not_turned_away_for_being_many(service: OwnService) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    service.server.limits = replace(service.server.limits, connections_per_user=1)
    clients = [Client(service.path) for _ in range(3)]
    for client in clients:
        client.close()


def test_a_request_that_the_service_fails_at_is_its_own_trouble(
    service: OwnService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(service.path)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("openqwave.service.peers.call", fail)
        event = client.ask(ms.Check(client.end.next_id()))
    assert isinstance(event, Refusing)
    assert event.refusal.code is ErrorCode.ERROR_GEN_FAILURE
    assert "ZeroDivisionError" in caplog.text
    assert isinstance(client.ask(ms.Check(client.end.next_id())), Answered)
    client.close()


def test_what_is_no_socket_is_refused_and_closed(service: OwnService) -> None:
    client = Client(service.path)
    reading, writing = os.pipe()
    request = ms.AddSocket(client.end.next_id(), 0, VOICE, False, "127.0.0.1", 9, number=reading)
    event = client.ask(request, reading)
    assert isinstance(event, Refusing)
    assert event.refusal.code is ErrorCode.ERROR_INVALID_PARAMETER
    os.close(reading)
    # Nobody has the other end any more.
    poll = select.poll()
    poll.register(writing, 0)
    assert poll.poll(1_000 * PATIENCE_S)
    os.close(writing)
    client.close()


def test_numbers_that_name_nothing_are_refused(service: OwnService, udp: socket.socket) -> None:
    client = Client(service.path)
    flow = client.add(udp)
    next_id = client.end.next_id
    wrong: list[ms.Request] = [
        ms.SetTrafficType(next_id(), flow, 6),
        ms.SetTrafficType(next_id(), flow, -1),
        ms.SetRate(next_id(), flow, 1_000_000, 3, 0),
        ms.SetRate(next_id(), flow, 1_000_000, 0, 9),
        ms.Query(next_id(), flow, "everything"),
        ms.Notify(next_id(), flow, 3, None),
        ms.StartTracking(next_id(), "localhost"),
        ms.StopTracking(next_id(), "127.0.0.1", -1),
    ]
    for request in wrong:
        event = client.ask(request)
        assert isinstance(event, Refusing), request
        assert event.refusal.code is ErrorCode.ERROR_INVALID_PARAMETER, request
    assert options_of(udp).tos == VOICE_TOS
    client.close()


# -- what comes later -----------------------------------------------------------------


def test_notices_come_by_themselves(service: OwnService, udp: socket.socket) -> None:
    client = Client(service.path)
    service.runtime.receive_path_view(HERE, view())
    flow = client.add(udp, is_adaptive=True)
    service.runtime.receive_path_view(HERE, view(available_bps=5_000_000))
    congested, cancelled = client.end.next_id(), client.end.next_id()
    assert client.ask(ms.Notify(congested, flow, 0, None)) == Postponed(congested)
    assert client.ask(ms.Notify(cancelled, flow, 2, 10**9)) == Postponed(cancelled)
    service.runtime.tell(
        lambda engine, now_ns: engine.receive_congestion(HERE, Congestion(True), now_ns=now_ns)
    )
    event = client.event()
    assert isinstance(event, Answered)
    assert event.request_id == congested
    client.send(ms.Cancel(client.end.next_id(), cancelled))
    ends = {type(each): each for each in (client.event(), client.event())}
    assert set(ends) == {Answered, Refusing}
    refusing = ends[Refusing]
    assert isinstance(refusing, Refusing)
    assert (refusing.request_id, refusing.refusal.code) == (
        cancelled,
        ErrorCode.ERROR_OPERATION_ABORTED,
    )
    client.close()


def test_who_reads_nothing_is_counted_when_notices_pile_up(service: OwnService) -> None:
    service.server.limits = replace(
        service.server.limits, peer=PeerLimits(pause_bytes=100, queue_bytes=400)
    )
    client = Client(service.path)
    service.runtime.receive_path_view(HERE, view())
    with ExitStack() as stack:
        for _ in range(20):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.connect(("127.0.0.1", 9))
            flow = client.add(sock, is_adaptive=True)
            request = ms.Notify(client.end.next_id(), flow, 0, None)
            assert client.ask(request) == Postponed(request.id)
        client.sock.setblocking(False)
        (peer,) = service.server.peers()

        def is_backed_up() -> bool:
            with contextlib.suppress(BlockingIOError):
                while True:
                    client.send(ms.Check(client.end.next_id()))
            return not peer.wants_to_read

        until(is_backed_up)
        service.runtime.tell(
            lambda engine, now_ns: engine.receive_congestion(HERE, Congestion(True), now_ns=now_ns)
        )
        until(lambda: peer_count(service) == 0)
        assert service.server.incidents.counts["protocol violation"] == 1
        # A connection is gone from the list before its flows are.
        until(lambda: flow_count(service) == 0)


def test_a_request_that_is_not_pending_cannot_be_cancelled(service: OwnService) -> None:
    client = Client(service.path)
    event = client.ask(ms.Cancel(client.end.next_id(), 77))
    assert isinstance(event, Refusing)
    assert event.refusal.code is ErrorCode.ERROR_INVALID_PARAMETER
    client.close()


def test_a_sleep_is_told_to_those_who_do_not_ask(udp: socket.socket) -> None:
    clock = FakeClock()
    with own_service(Policy(), clock) as service:
        client = Client(service.path)
        client.add(udp)
        clock.sleep()
        event = client.event()
        assert isinstance(event, HandleLost)
        assert event.refusal.code is ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED
        assert options_of(udp).tos == 0
        refusing = client.ask(ms.Check(client.end.next_id()))
        assert isinstance(refusing, Refusing)
        assert refusing.refusal.code is ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED
        assert isinstance(client.ask(ms.Close(client.end.next_id())), Answered)
        client.close()


# -- many -----------------------------------------------------------------------------


def test_descriptors_are_closed_before_the_answer(service: OwnService) -> None:
    """The far end of a connection sees its end as soon as the application closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far = listener.accept()[0]
    far.settimeout(PATIENCE_S)
    client = Client(service.path)
    client.add(near)
    near.close()
    assert far.recv(1) == b""
    far.close()
    client.close()


def test_many_at_once_get_their_own_answers(service: OwnService) -> None:
    wrong: list[object] = []

    def work() -> None:
        try:
            client = Client(service.path)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.connect(("127.0.0.1", 9))
                flow = client.add(sock)
                for kind in (1, 3, 4) * 20:
                    event = client.ask(ms.SetTrafficType(client.end.next_id(), flow, kind))
                    assert isinstance(event, Answered)
                    assert options_of(sock).tos >> 2 == {1: 8, 3: 40, 4: 56}[kind]
            client.close()
        except BaseException as error:  # noqa: BLE001 - reported by the test
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert wrong == []
    until(lambda: peer_count(service) == 0)


def test_nothing_is_logged_where_nothing_is_wrong(
    service: OwnService, udp: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        client = Client(service.path)
        client.add(udp)
        client.ask(ms.Close(client.end.next_id()))
        client.close()
    assert caplog.records == []

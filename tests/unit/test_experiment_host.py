"""The thread that runs sessions and a sink: what they ask for is done, what happens is told."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import cast

import pytest

from openqwave.drivers import initiating, mailbox, streams
from openqwave.drivers.experiment_loop import ExperimentLoop
from openqwave.drivers.experiments import ExperimentHost, Running, parse_peer
from openqwave.drivers.mailbox import Mailbox
from openqwave.drivers.ports import PortTaken, holder_of
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import (
    GeneralFailure,
    HostUnreachable,
    InvalidParameter,
    OperationAborted,
    TimedOut,
)
from openqwave.probing.packet_pair import (
    OPEN,
    Ended,
    PacketPairInitiator,
    Ready,
    TrainMeasured,
    TrainPlan,
)
from openqwave.probing.probegap import GapReturned, ProbegapInitiator
from openqwave.probing.route_check import RouteChecked, RouteCheckInitiator
from openqwave.probing.session import (
    Channel,
    CloseReason,
    CloseStream,
    Effect,
    OpenStream,
    SendStream,
    SendTrain,
)
from openqwave.probing.sink import Sink
from openqwave.probing.sink_reports import SessionClosed, SessionOpened
from tests.conftest import open_descriptors
from tests.unit.experiment_stage import (
    PATIENCE_S,
    PORT,
    FarEnd,
    Script,
    ScriptedSink,
    Told,
    echo_all,
    far_end,
    own_network,
    verbs,
    wait_for,
)

LOOPBACK = "127.0.0.1"
each_address = pytest.mark.parametrize("address", [LOOPBACK, "::1"])


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    with own_network():
        yield


@pytest.fixture
def host(fd_guard: None, network: None) -> Iterator[ExperimentHost]:
    del fd_guard, network
    with ExperimentHost() as made:
        yield made


@pytest.fixture
def far(host: ExperimentHost) -> Iterator[FarEnd]:
    del host
    with far_end() as made:
        yield made


def scripted_sink(answer: ScriptedSink) -> Sink:
    """A stand-in has the face of a sink, and not its class."""
    return cast("Sink", answer)


# -- connections ----------------------------------------------------------------------


def test_a_connection_from_its_making_to_its_end(host: ExperimentHost, far: FarEnd) -> None:
    def answer(told: Told) -> Sequence[Effect]:
        return (SendStream(7, b"hello"),) if told.what == "connected" else ()

    running = host.run(Script(OpenStream(7), answer=answer), LOOPBACK)
    with far.accept() as accepted:
        assert accepted.recv(100) == b"hello"
        connected = wait_for(running, "connected")
        assert connected.details == (7, accepted.getpeername()[1])
        assert connected.thread == "openqwave-experiments"
        accepted.sendall(b"one")
        assert wait_for(running, "stream").details == (7, b"one")
        accepted.sendall(b"two")
        assert wait_for(running, "stream").details == (7, b"two")
    assert wait_for(running, "closed").details == (7, CloseReason.BY_PEER)
    assert running.next_event(PATIENCE_S) is None
    assert running.is_over
    assert running.next_event() is None


def test_a_connection_is_closed_on_request(host: ExperimentHost, far: FarEnd) -> None:
    def answer(told: Told) -> Sequence[Effect]:
        return (SendStream(1, b"bye"), CloseStream(1)) if told.what == "connected" else ()

    running = host.run(Script(OpenStream(1), answer=answer), LOOPBACK)
    with far.accept() as accepted:
        assert accepted.recv(10) == b"bye"
        assert accepted.recv(10) == b""
    assert verbs(running) == ["start", "connected"]


def test_cancelling_closes_connections(host: ExperimentHost, far: FarEnd) -> None:
    running = host.run(Script(OpenStream(1)), LOOPBACK)
    with far.accept() as accepted:
        wait_for(running, "connected")
        running.cancel()
        assert accepted.recv(10) == b""
    assert verbs(running) == []


def test_a_closed_port_refuses(host: ExperimentHost) -> None:
    running = host.run(Script(OpenStream(1)), LOOPBACK)
    assert wait_for(running, "closed").details == (1, CloseReason.REFUSED)


def test_a_peer_that_resets(host: ExperimentHost, far: FarEnd) -> None:
    running = host.run(Script(OpenStream(1)), LOOPBACK)
    with far.accept() as accepted:
        wait_for(running, "connected")
        # Closing with a linger of nothing resets the connection.
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert wait_for(running, "closed").details == (1, CloseReason.BROKEN)


def test_a_silent_peer_is_given_up(host: ExperimentHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initiating, "_CONNECT_NS", 100_000_000)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((LOOPBACK, PORT), backlog=0))
        # Once one connection waits to be accepted, requests for others are not answered.
        for _ in range(2):
            other = stack.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(listener.getsockname())
        running = host.run(Script(OpenStream(1)), LOOPBACK)
        assert wait_for(running, "closed").details == (1, CloseReason.TIMED_OUT)


# More than the kernel keeps for a connection.
LARGE = bytes(range(256)) * 32_768


def allow_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a stream keep all of it, though the kernel takes little."""
    init = streams.Stream.__init__

    def made(self: streams.Stream, sock: socket.socket, *, is_connecting: bool = False) -> None:
        init(self, sock, is_connecting=is_connecting)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)

    monkeypatch.setattr(streams.Stream, "__init__", made)
    monkeypatch.setattr(streams, "OUTPUT_BYTES", 2 * len(LARGE))


def read_all(sock: socket.socket) -> bytes:
    """Read as much as `LARGE` has."""
    data = bytearray()
    while len(data) < len(LARGE) and (part := sock.recv(65_536)):
        data += part
    return bytes(data)


def test_what_the_kernel_does_not_take_at_once_follows(
    host: ExperimentHost, far: FarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow_large(monkeypatch)

    def answer(told: Told) -> Sequence[Effect]:
        return (SendStream(1, LARGE),) if told.what == "connected" else ()

    far.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    running = host.run(Script(OpenStream(1), answer=answer), LOOPBACK)
    with far.accept() as accepted:
        wait_for(running, "connected")
        assert read_all(accepted) == LARGE
        accepted.sendall(b"thanks")
        assert wait_for(running, "stream").details == (1, b"thanks")


def test_writing_to_what_is_gone_is_no_error(host: ExperimentHost) -> None:
    def answer(told: Told) -> Sequence[Effect]:
        return (SendStream(1, b"x"), CloseStream(1)) if told.what == "closed" else ()

    running = host.run(Script(OpenStream(1), SendStream(1, b"y"), answer=answer), LOOPBACK)
    assert verbs(running) == ["start", "closed"]


# -- trains ---------------------------------------------------------------------------


def test_trains_leave_by_their_channels_in_order(host: ExperimentHost, far: FarEnd) -> None:
    trains = (
        SendTrain(3, 1, Channel.PRIORITY, (b"a",)),
        SendTrain(3, 2, Channel.BEST_EFFORT, (b"b", b"c", b"d"), wants_stamps=False),
        SendTrain(3, 3, Channel.PRIORITY, (b"e",), gap_ns=1000),
    )
    running = host.run(Script(*trains), LOOPBACK)
    found = far.receive(5)
    assert [(data, octet) for data, octet, _ in found] == [
        (b"a", 160),
        (b"b", 0),
        (b"c", 0),
        (b"d", 0),
        (b"e", 160),
    ]
    best_effort, priority = (
        {port for _, octet, port in found if not octet},
        {port for _, octet, port in found if octet},
    )
    assert len(best_effort) == len(priority) == 1
    assert not {PORT, *best_effort} & priority
    assert PORT not in best_effort
    first = wait_for(running, "sent")
    assert first.details[0] == trains[0]
    assert isinstance(first.details[1], tuple)
    assert abs(first.details[1][0] - time.time_ns()) < PATIENCE_S * 1e9
    assert wait_for(running, "sent").details[0] == trains[2]
    assert verbs(running) == []


def test_a_train_that_cannot_be_sent(host: ExperimentHost, far: FarEnd) -> None:
    train = SendTrain(1, 9, Channel.BEST_EFFORT, (b"a", bytes(65_508), b"c"))
    running = host.run(Script(train), LOOPBACK)
    told = wait_for(running, "unsent")
    assert told.details == (train, 1, "it is larger than the interface takes")
    assert far.receive(1)[0][0] == b"a"
    assert verbs(running) == []


def test_a_slow_train_lets_others_live(host: ExperimentHost, far: FarEnd) -> None:
    # Half a second from the first datagram to the last.
    slow = SendTrain(1, 1, Channel.BEST_EFFORT, (b"slow",) * 6, gap_ns=100_000_000)
    sending = host.run(Script(slow), LOOPBACK)
    wait_for(sending, "start")
    running = host.run(Script(OpenStream(1)), LOOPBACK)
    with far.accept() as accepted:
        wait_for(running, "connected")
        accepted.sendall(b"x")
        told = wait_for(running, "stream")
    # Many more turns than the train has datagrams.
    last_ns = max(sending.do(lambda now_ns: now_ns) for _ in range(50))
    sent = wait_for(sending, "sent")
    assert told.now_ns < last_ns < sent.now_ns
    stamps = cast("tuple[int, ...]", sent.details[1])
    assert stamps[-1] - stamps[0] > 450_000_000


def test_other_threads_give_way_while_something_is_due_soon(
    host: ExperimentHost, far: FarEnd
) -> None:
    def interval_s(_: object) -> float:
        return sys.getswitchinterval()

    usual_s = sys.getswitchinterval()
    waiting = host.run(Script(lasts_ns=3_600_000_000_000), LOOPBACK)
    assert host.call(interval_s) == usual_s
    train = SendTrain(1, 1, Channel.BEST_EFFORT, (b"x",) * 20, gap_ns=15_000_000)
    sending = host.run(Script(train), LOOPBACK)
    far.receive(2)
    assert sending.do(interval_s) < usual_s
    wait_for(sending, "sent")
    # The turn in which the train ended may not be over yet.
    waiting.do(interval_s)
    assert waiting.do(interval_s) == usual_s
    assert sys.getswitchinterval() == usual_s


def test_one_train_at_a_time(host: ExperimentHost, far: FarEnd) -> None:
    with contextlib.ExitStack() as stack:
        for name in (b"a", b"b", b"c"):
            train = SendTrain(1, 1, Channel.BEST_EFFORT, (name,) * 4, gap_ns=2_000_000)
            stack.callback(host.run(Script(train), LOOPBACK).cancel)
        assert b"".join(data for data, _, _ in far.receive(12)) == b"aaaabbbbcccc"


def test_a_cancelled_train_is_not_sent_on(host: ExperimentHost, far: FarEnd) -> None:
    gap_ns = 50_000_000
    train = SendTrain(1, 1, Channel.BEST_EFFORT, (b"never",) * 1000, gap_ns=gap_ns)
    running = host.run(Script(train), LOOPBACK)
    far.receive(2)
    running.cancel()
    assert verbs(running) == ["start"]
    last = SendTrain(1, 1, Channel.BEST_EFFORT, (b"last",))
    host.run(Script(last), LOOPBACK)
    while (data := far.receive(1)[0][0]) != b"last":
        assert data == b"never"


# -- time, and the end ----------------------------------------------------------------


def test_a_timer_is_not_early(host: ExperimentHost) -> None:
    for lasts_ns in (50_000, 500_000, 5_000_000):
        running = host.run(Script(lasts_ns=lasts_ns), LOOPBACK)
        start, timer = wait_for(running, "start"), wait_for(running, "timer")
        assert timer.details == (start.now_ns + lasts_ns,)
        assert start.now_ns + lasts_ns <= timer.now_ns < start.now_ns + PATIENCE_S * 1e9
        assert running.next_event(PATIENCE_S) is None


def test_a_session_that_waits_for_nothing_is_over(host: ExperimentHost) -> None:
    assert verbs(host.run(Script(), LOOPBACK)) == ["start"]


def test_waiting_for_an_event_has_an_end(host: ExperimentHost) -> None:
    running = host.run(Script(lasts_ns=3_600_000_000_000), LOOPBACK)
    wait_for(running, "start")
    for timeout_s in (0, 0.01):
        with pytest.raises(TimedOut):
            running.next_event(timeout_s)
    running.cancel()
    assert running.is_over
    running.cancel()
    assert running.next_event() is None
    with pytest.raises(OperationAborted):
        running.do(lambda now_ns: now_ns)


def test_a_consumer_acts_in_the_hosts_thread(host: ExperimentHost, far: FarEnd) -> None:
    script = Script(lasts_ns=3_600_000_000_000)
    running = host.run(script, LOOPBACK)

    def act(now_ns: int) -> str:
        script.effects.append(SendTrain(1, 1, Channel.BEST_EFFORT, (b"asked for",)))
        assert now_ns <= time.monotonic_ns()
        return threading.current_thread().name

    assert running.do(act) == "openqwave-experiments"
    assert far.receive(1)[0][0] == b"asked for"

    def fail(_: int) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        running.do(fail)
    assert running.do(lambda _: 5) == 5
    running.do(lambda now_ns: script.handle_timer(now_ns=now_ns))
    assert verbs(running) == ["start", "sent", "timer"]


def test_events_that_nobody_reads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "_KEPT_EVENTS", 3)
    box = Mailbox()
    told = [Told(str(turn), (), 0, "") for turn in range(5)]
    for event in told:
        box.put(event)
    box.close()
    assert list(box) == told[:3]
    assert box.lost_events == 2
    assert box.take() is None


# -- the sink -------------------------------------------------------------------------


@each_address
def test_the_sink_answers_connections(host: ExperimentHost, address: str) -> None:
    serving = host.serve(scripted_sink(ScriptedSink(echo_all)))
    assert serving.versions == (4, 6)
    with socket.create_connection((address, PORT), PATIENCE_S) as peer:
        told = wait_for(serving, "connection")
        connection, endpoint, speed_bps = told.details
        assert endpoint == Endpoint(parse_peer(address).packed, peer.getsockname()[1])
        assert speed_bps == 0
        peer.sendall(b"ping")
        assert peer.recv(10) == b"ping"
        assert wait_for(serving, "stream").details == (connection, b"ping")
        peer.sendall(b"end")
        assert peer.recv(10) == b""
    with socket.create_connection((address, PORT), PATIENCE_S):
        second = wait_for(serving, "connection").details[0]
        assert second != connection
    assert wait_for(serving, "closed").details == (second,)
    serving.cancel()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, PORT), PATIENCE_S)


def test_a_peer_that_never_reads_is_given_up(host: ExperimentHost) -> None:
    sent: list[int] = []

    def answer(told: Told) -> Sequence[SendStream]:
        if told.what != "stream":
            return ()
        connection = cast("int", told.details[0])
        sent.append(16_384)
        return (SendStream(connection, bytes(16_384)),)

    serving = host.serve(scripted_sink(ScriptedSink(answer)))
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(PATIENCE_S)
        peer.connect((LOOPBACK, PORT))
        deadline = time.monotonic() + PATIENCE_S
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < deadline:
                peer.sendall(b"?")
                # Nothing is read: only whether the far end still listens.
                if peer.fileno() < 0 or not _is_connected(peer):
                    break
        wait_for(serving, "closed")
    # What the kernel keeps, both ways, and what is kept here.
    assert sum(sent) < 8 * streams.OUTPUT_BYTES
    with socket.create_connection((LOOPBACK, PORT), PATIENCE_S) as other:
        other.sendall(b"?")
        assert other.recv(1) == b"\0"


def _is_connected(peer: socket.socket) -> bool:
    # TCP_INFO begins with the state; 1 is established.
    return peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1


def test_a_peer_that_reads_late_gets_everything(
    host: ExperimentHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow_large(monkeypatch)

    def answer(told: Told) -> Sequence[SendStream]:
        connection = cast("int", told.details[0])
        return (SendStream(connection, LARGE),) if told.what == "stream" else ()

    serving = host.serve(scripted_sink(ScriptedSink(answer)))
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(PATIENCE_S)
        peer.connect((LOOPBACK, PORT))
        peer.sendall(b"?")
        wait_for(serving, "stream")
        assert read_all(peer) == LARGE


def test_without_descriptors_accepting_rests(host: ExperimentHost) -> None:
    serving = host.serve(scripted_sink(ScriptedSink(echo_all)))
    with socket.socket() as peer:
        peer.settimeout(PATIENCE_S)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_descriptors()) + 1, limits[1]))
        fillers = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    fillers.append(os.dup(peer.fileno()))
            peer.connect((LOOPBACK, PORT))
            wall_ns, used_ns = host.call(lambda _: (time.monotonic_ns(), time.thread_time_ns()))
            with pytest.raises(TimedOut):
                serving.next_event(0.2)
            now_ns, use_ns = host.call(lambda _: (time.monotonic_ns(), time.thread_time_ns()))
            # The listener is ready all the while, and the thread does not run in circles.
            assert use_ns - used_ns < (now_ns - wall_ns) / 4
        finally:
            for filler in fillers:
                os.close(filler)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        # It is taken when there is room again.
        peer.sendall(b"x")
        assert peer.recv(1) == b"x"
        wait_for(serving, "connection")


def test_a_host_serves_one_sink(host: ExperimentHost) -> None:
    first = host.serve(Sink())
    with pytest.raises(InvalidParameter):
        host.serve(Sink())
    first.cancel()
    host.serve(Sink())


# -- the real ones, on one port -------------------------------------------------------


@each_address
def test_a_sink_and_all_sessions_share_a_port(host: ExperimentHost, address: str) -> None:
    version = 6 if ":" in address else 4
    serving = host.serve(Sink())
    pair = PacketPairInitiator(1, version, random=random.random, limits=OPEN)
    gap = ProbegapInitiator(2, version, random=random.random)
    route = RouteCheckInitiator(3, version, random=random.random)
    running = [host.run(session, address) for session in (pair, gap, route)]

    plans = [TrainPlan(8, 1496, gap_ns) for gap_ns in (0, 200_000, 2_000_000)]
    for plan in plans:
        running[0].do(lambda _, plan=plan: pair.queue_train(plan))  # type: ignore[misc]  # its own plan
    assert isinstance(running[0].next_event(PATIENCE_S), Ready)
    for number, plan in enumerate(plans):
        measured = running[0].next_event(PATIENCE_S)
        assert isinstance(measured, TrainMeasured), measured
        assert (measured.number, measured.plan) == (number, plan)
        assert len(measured.train.deltas_ns) == 7
        assert len(measured.train.sent_ns) == 8
    running[0].do(lambda _: pair.close())
    assert list(running[0]) == [Ended(1)]

    checked = running[2].next_event(PATIENCE_S)
    assert isinstance(checked, RouteChecked)
    assert checked.supported

    gaps = [running[1].next_event(PATIENCE_S) for _ in range(20)]
    returned = [event.gap for event in gaps if isinstance(event, GapReturned)]
    assert len(returned) >= 10
    for one in returned:
        # One clock, so all four stamps are in order, to the resolution of the wire.
        assert one.sent_ns // 100 <= one.sink_received_ns // 100
        assert one.sink_received_ns <= one.sink_sent_ns
        assert one.sink_sent_ns // 100 <= one.received_ns // 100
    running[1].do(lambda _: gap.stop())
    assert list(running[1])[-1] == Ended(2)
    serving.cancel()
    kinds = {type(event) for event in serving}
    assert {SessionOpened, SessionClosed} <= kinds


def test_a_probe_that_returns_is_the_sessions_alone(host: ExperimentHost) -> None:
    sink = ScriptedSink()
    serving = host.serve(scripted_sink(sink))
    # Byte 6 marks a probe on its way back; both leave from port 2177 and arrive there.
    running = host.run(
        Script(
            SendTrain(1, 1, Channel.GAP, (b"\x06back",)),
            SendTrain(1, 2, Channel.GAP, (b"\x05out",)),
            lasts_ns=3_600_000_000_000,
        ),
        LOOPBACK,
    )
    assert wait_for(running, "datagram").details[0] == b"\x06back"
    told = wait_for(serving, "datagram")
    assert told.details[:2] == (b"\x05out", Endpoint(parse_peer(LOOPBACK).packed, PORT))
    running.cancel()
    # Nobody waits for it any more: the sink counts it.
    host.run(Script(SendTrain(1, 1, Channel.GAP, (b"\x06late",))), "127.0.0.2")
    assert wait_for(serving, "datagram").details[0] == b"\x06late"


def test_what_was_not_read_in_time_is_told(host: ExperimentHost) -> None:
    serving = host.serve(scripted_sink(ScriptedSink()))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.connect((LOOPBACK, PORT))

        def flood(loop: ExperimentLoop) -> int:
            """In the host's thread, which cannot read meanwhile: more than the buffer holds."""
            for _ in range(20_000):
                other.send(bytes(1400))
            return loop.dropped

        dropped = host.call(flood)
    assert dropped > 0
    assert host.dropped_datagrams() == dropped
    serving.cancel()
    assert host.dropped_datagrams() == dropped


def test_without_a_sink_everything_from_the_peer_is_the_sessions(host: ExperimentHost) -> None:
    running = host.run(
        Script(
            SendTrain(1, 1, Channel.GAP, (b"garbage",)),
            lasts_ns=3_600_000_000_000,
        ),
        LOOPBACK,
    )
    assert wait_for(running, "datagram").details[0] == b"garbage"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.sendto(b"\x06other port", (LOOPBACK, PORT))
    again = SendTrain(1, 2, Channel.GAP, (b"again",))
    script = Script(again, lasts_ns=3_600_000_000_000)
    host.run(script, LOOPBACK)
    assert wait_for(running, "datagram").details[0] == b"again"


def test_a_session_may_go_on_for_as_long_as_it_wants(host: ExperimentHost) -> None:
    def answer(told: Told) -> Sequence[Effect]:
        if told.what != "sent":
            return ()
        last = cast("SendTrain", told.details[0]).number
        return (SendTrain(1, last + 1, Channel.GAP, (b"x",)),) if last < 100 else ()

    running = host.run(Script(SendTrain(1, 1, Channel.GAP, (b"x",)), answer=answer), LOOPBACK)
    assert verbs(running).count("sent") == 100


# -- somebody else's port -------------------------------------------------------------

HOLDER = f"""
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    udp.bind(("", {PORT}))
    print("ready", flush=True)
    sys.stdin.read()
"""

SECOND = """
import random
from openqwave.drivers.experiments import ExperimentHost
from openqwave.drivers.ports import PortTaken
from openqwave.probing.probegap import ProbegapInitiator
from openqwave.probing.sink import Sink
with ExperimentHost() as host:
    try:
        host.serve(Sink())
    except PortTaken as error:
        print(error)
    try:
        host.run(ProbegapInitiator(1, 4, random=random.random), "127.0.0.1")
    except PortTaken as error:
        print(error)
"""


def test_a_second_process_is_told_who_the_first_is(host: ExperimentHost) -> None:
    host.serve(Sink())
    done = subprocess.run(
        [sys.executable, "-c", SECOND], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    name = name_of(os.getpid())
    for message in (first, second):
        assert f"UDP port {PORT} is held by {name} (process {os.getpid()})" in message


def name_of(pid: int) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
        return file.read().strip()


def test_a_strangers_port(host: ExperimentHost) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "ready\n"
            with pytest.raises(PortTaken, match=rf"\(process {holder.pid}\)") as caught:
                host.serve(Sink())
            assert isinstance(caught.value, OSError)
            running = host.run(Script(SendTrain(1, 1, Channel.GAP, (b"x",))), "::1")
            # The stranger holds IPv4 alone.
            assert verbs(running) == ["start", "sent"]
        finally:
            holder.communicate()


def test_two_hosts_of_one_process(host: ExperimentHost) -> None:
    host.serve(Sink())
    with ExperimentHost() as other, pytest.raises(PortTaken, match="this process itself"):
        other.serve(Sink())
    assert holder_of("tcp", PORT) == "this process itself"


def test_a_port_that_nobody_has() -> None:
    assert holder_of("udp", 2) == ""


# -- failure --------------------------------------------------------------------------


class Broken(Script):
    def handle_timer(self, *, now_ns: int) -> None:
        raise ZeroDivisionError(now_ns)


def test_a_session_that_breaks_ends_alone(host: ExperimentHost, far: FarEnd) -> None:
    other = host.run(Script(OpenStream(1)), LOOPBACK)
    running = host.run(Broken(OpenStream(1), lasts_ns=1000), LOOPBACK)
    wait_for(running, "start")
    for _ in range(2):
        with pytest.raises(GeneralFailure, match="ZeroDivisionError") as caught:
            list(running)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with far.accept() as accepted:
        accepted.sendall(b"x")
        assert wait_for(other, "stream").details == (1, b"x")


def test_a_session_that_cannot_start(host: ExperimentHost) -> None:
    session = PacketPairInitiator(1, 4, random=random.random)
    session.start(now_ns=0)
    with pytest.raises(InvalidParameter):
        host.run(session, LOOPBACK)


def test_a_sink_that_breaks_ends_alone(host: ExperimentHost) -> None:
    def answer(told: Told) -> Sequence[SendStream]:
        if told.what == "connection":
            raise ZeroDivisionError
        return ()

    serving = host.serve(scripted_sink(ScriptedSink(answer)))
    with socket.create_connection((LOOPBACK, PORT), PATIENCE_S) as peer:
        with pytest.raises(GeneralFailure, match="ZeroDivisionError"):
            list(serving)
        assert peer.recv(1) == b""
    host.serve(Sink())


def test_a_thread_that_breaks_is_heard_of(monkeypatch: pytest.MonkeyPatch, fd_guard: None) -> None:
    del fd_guard
    host = ExperimentHost()
    host.start()
    running = host.run(Script(lasts_ns=3_600_000_000_000), LOOPBACK)
    wait_for(running, "start")

    def turn(_self: ExperimentLoop) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ExperimentLoop, "turn", turn)
    with contextlib.suppress(GeneralFailure):
        # Wakes the thread, so that it comes to the next turn.
        running.do(lambda _: None)
    with pytest.raises(GeneralFailure, match="ZeroDivisionError"):
        running.next_event(PATIENCE_S)
    with pytest.raises(GeneralFailure, match="ZeroDivisionError"):
        host.run(Script(), LOOPBACK)
    with pytest.raises(GeneralFailure, match="ZeroDivisionError"):
        host.close()
    host.close()


def test_a_host_that_cannot_start(fd_guard: None) -> None:
    del fd_guard
    host = ExperimentHost(allowed=["nonsense"])
    with pytest.raises(InvalidParameter, match="nonsense"):
        host.start()
    with pytest.raises(OperationAborted):
        host.run(Script(), LOOPBACK)
    host.close()


def test_hosts_are_started_once_and_closed_for_good(fd_guard: None) -> None:
    del fd_guard
    before = set(threading.enumerate())
    host = ExperimentHost()
    with pytest.raises(OperationAborted, match="not been started"):
        host.run(Script(), LOOPBACK)
    with host:
        with pytest.raises(InvalidParameter, match="once"):
            host.start()
        running = host.run(Script(OpenStream(1), lasts_ns=3_600_000_000_000), LOOPBACK)
        serving = host.serve(Sink())
    assert running.is_over
    assert serving.is_over
    assert list(serving) == []
    with pytest.raises(OperationAborted, match="closed"):
        host.run(Script(), LOOPBACK)
    running.cancel()
    host.close()
    # Threads of earlier tests may be ending still.
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("192.0.2.1", Endpoint(b"\xc0\0\2\1", 0)),
        ("::1", Endpoint(bytes(15) + b"\1", 0)),
        ("fe80::1%lo", Endpoint(b"\xfe\x80" + bytes(13) + b"\1", 0, 1)),
        ("fe80::1%3", Endpoint(b"\xfe\x80" + bytes(13) + b"\1", 0, 3)),
    ],
)
def test_peers_as_text(text: str, endpoint: Endpoint) -> None:
    assert parse_peer(text) == endpoint


@pytest.mark.parametrize("text", ["", "localhost", "192.0.2", "fe80::1%nothing9"])
def test_what_is_no_peer(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_peer(text)


def test_a_peer_without_a_route(host: ExperimentHost) -> None:
    with pytest.raises(HostUnreachable):
        host.run(Script(), "fe80::1%lo")


# -- signals and forks ----------------------------------------------------------------


def signal_later(number: int) -> threading.Timer:
    """Send this thread a signal when it waits, most likely; if it comes earlier, all the same."""
    timer = threading.Timer(0.05, signal.pthread_kill, [threading.get_ident(), number])
    timer.start()
    return timer


def wait_interrupted(host: ExperimentHost) -> Running:
    """Wait for what does not come, until Ctrl-C does."""
    running = host.run(Script(OpenStream(1), lasts_ns=3_600_000_000_000), LOOPBACK)
    wait_for(running, "closed")
    timer = signal_later(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            running.next_event(PATIENCE_S)
    finally:
        timer.join()
    return running


def test_ctrl_c_while_waiting(host: ExperimentHost) -> None:
    running = wait_interrupted(host)
    host.close()
    assert running.is_over


def test_a_signals_handler_may_close(fd_guard: None) -> None:
    del fd_guard
    host = ExperimentHost()
    before = signal.signal(signal.SIGUSR1, lambda *_: host.close())
    try:
        host.start()
        running = host.run(Script(lasts_ns=3_600_000_000_000), LOOPBACK)
        wait_for(running, "start")
        timer = signal_later(signal.SIGUSR1)
        assert running.next_event(PATIENCE_S) is None
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    host.close()


@pytest.fixture
def foreign() -> dict[int, str]:
    """Descriptors that are open before the host's; name it first."""
    return open_descriptors()


def test_a_forked_child_has_no_part_in_it(foreign: dict[int, str], host: ExperimentHost) -> None:
    serving = host.serve(scripted_sink(ScriptedSink(echo_all)))
    running = host.run(Script(lasts_ns=3_600_000_000_000), LOOPBACK)
    with warnings.catch_warnings():
        # Later versions of Python warn of what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os._exit(_child_status(foreign, host, running))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    # The parent's goes on.
    with socket.create_connection((LOOPBACK, PORT), PATIENCE_S) as peer:
        peer.sendall(b"still there")
        assert peer.recv(20) == b"still there"
    serving.cancel()
    running.cancel()
    # And what it closes is closed: nobody has a copy.
    assert holder_of("udp", PORT) == ""


def _child_status(foreign: dict[int, str], host: ExperimentHost, running: Running) -> int:
    """What the child finds: 0 if all is as it should be."""
    try:
        left = dict(open_descriptors().items() - foreign.items())
        kinds = {name.partition(":")[0] for name in left.values()}
        if {"socket", "anon_inode"} & kinds:
            return 1
        for call in (running.next_event, running.cancel, lambda: host.run(Script(), LOOPBACK)):
            try:
                call()
            except OperationAborted:
                continue
            if call != running.cancel:
                return 2
        host.close()
    except BaseException:  # noqa: BLE001 - the exit status tells
        return 3
    return 0

"""The subsystem inside the process: sleep, closed sockets, full tables, locks."""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

import openqwave as qw
from openqwave.admission.policy import Limits, Policy
from openqwave.client.embedded import Embedded
from openqwave.enforcement.memory import Memory
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.runtime.pending import Pending
from tests.unit.driven import Mechanism, endpoint, view
from tests.unit.loopback import PORT, UNPACED, Bench, options_of, pacing_of
from tests.unit.own_subsystem import FakeClock, open_in, own_subsystem

HERE = endpoint("127.0.0.1", 0)
VOICE = qw.TrafficType.VOICE
PATIENCE_S = 20.0


# -- sleep ----------------------------------------------------------------------------


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_a_suspend_loses_the_handle(sockets: Bench, clock: FakeClock) -> None:
    # "After the service restarts, the machine slept, [...] the first call on an old handle
    # answers ERROR_DEVICE_REINITIALIZATION_NEEDED, and so does every later one but
    # QOSCloseHandle, which succeeds."
    sock = sockets.make("udp4 connected")
    with own_subsystem(clock=clock) as host:
        qos = open_in(host)
        flow = qos.add_socket(sock, traffic_type=VOICE, adaptive=False)
        clock.sleep()
        for _ in range(2):
            with pytest.raises(ConnectionResetError) as caught:
                flow.rate_bps()
            assert type(caught.value) is qw.ReinitializationNeeded
        assert options_of(sock).tos == 0
        qos.close()
        with pytest.raises(qw.InvalidHandle):
            flow.rate_bps()
        again = open_in(host)
        again.add_socket(sock, traffic_type=VOICE, adaptive=False)
        assert options_of(sock).tos == 56 << 2


@pytest.mark.parametrize("was_open", [False, True], ids=["none open", "one open"])
def test_a_handle_opened_after_a_suspend_is_alive(
    sockets: Bench, clock: FakeClock, was_open: bool
) -> None:
    # "the first call on an *old* handle": this one is new.
    with own_subsystem(clock=clock) as host:
        old = open_in(host)
        if not was_open:
            old.close()
        clock.sleep()
        new = open_in(host)
        new.add_socket(sockets.make("udp4 connected"), traffic_type=VOICE, adaptive=False)
        if was_open:
            with pytest.raises(qw.ReinitializationNeeded):
                old.add_socket(sockets.make("udp4 connected"))


def test_closing_first_after_a_suspend(sockets: Bench, clock: FakeClock) -> None:
    sock = sockets.make("udp4 connected")
    with own_subsystem(clock=clock) as host:
        qos = open_in(host)
        qos.add_socket(sock, traffic_type=VOICE, adaptive=False)
        clock.sleep()
        qos.close()
        assert options_of(sock).tos == 0
        open_in(host).add_socket(sock, traffic_type=VOICE, adaptive=False)
        assert options_of(sock).tos == 56 << 2


def test_clocks_that_tremble_are_no_suspend(sockets: Bench, clock: FakeClock) -> None:
    with own_subsystem(clock=clock) as host:
        flow = open_in(host).add_socket(sockets.make("udp4 connected"), adaptive=False)
        for step_ns in (1_000, -1_000, 50_000_000, -90_000_000, 100_000_000):
            clock.asleep += step_ns
            assert flow.packet_priority().conformant_dscp == 0


def test_a_suspend_aborts_what_waits(sockets: Bench, clock: FakeClock) -> None:
    # "Pending operations of such a handle complete with ERROR_OPERATION_ABORTED."
    with own_subsystem(clock=clock) as host:
        qos = open_in(host)
        host.receive_path_view(HERE, view())
        flow = qos.add_socket(sockets.make("udp4 connected"))
        pending = qos.session.notify(flow.id, qw.NoticeKind.CONGESTED, None)
        assert isinstance(pending, Pending)
        clock.sleep()
        with pytest.raises(qw.ReinitializationNeeded):
            flow.fundamentals()
        result = pending.future.result(0)
        assert isinstance(result, Refusal)
        assert result.code is ErrorCode.ERROR_OPERATION_ABORTED


# -- sockets that the application closed ----------------------------------------------


def test_a_full_quota_forgets_closed_sockets(sockets: Bench) -> None:
    with own_subsystem(Policy(limits=Limits(flows=2))) as host:
        qos = open_in(host)
        first = [sockets.make("udp4 connected") for _ in range(2)]
        for sock in first:
            qos.add_socket(sock, traffic_type=VOICE, adaptive=False)
        third = sockets.make("udp4 connected")
        # By contract: "Quota per client exceeded: ERROR_NO_SYSTEM_RESOURCES."
        with pytest.raises(qw.NoSystemResources):
            qos.add_socket(third, traffic_type=VOICE, adaptive=False)
        assert options_of(third).tos == 0
        first[0].close()
        qos.add_socket(third, traffic_type=VOICE, adaptive=False)
        assert options_of(third).tos == 56 << 2
        assert options_of(first[1]).tos == 56 << 2


def test_forgetting_a_socket_aborts_what_waits(sockets: Bench) -> None:
    with own_subsystem(Policy(limits=Limits(flows=1))) as host:
        qos = open_in(host)
        host.receive_path_view(HERE, view())
        sock = sockets.make("udp4 connected")
        flow = qos.add_socket(sock)
        pending = qos.session.notify(flow.id, qw.NoticeKind.CONGESTED, None)
        assert isinstance(pending, Pending)
        sock.close()
        qos.add_socket(sockets.make("udp4 connected"))
        result = pending.future.result(0)
        assert isinstance(result, Refusal)
        assert result.code is ErrorCode.ERROR_OPERATION_ABORTED


def test_the_mechanism_forgets_closed_sockets_too(sockets: Bench) -> None:
    # A program that makes and closes a thousand sockets a minute must not fill memory.
    mechanism = Memory()
    with own_subsystem(Policy(limits=Limits(flows=3)), backend=mechanism) as host:
        qos = open_in(host)
        for _ in range(20):
            sock = sockets.make("udp4 connected")
            qos.add_socket(sock, traffic_type=VOICE, adaptive=False)
            sock.close()
        assert len(mechanism.observe()) <= 3


# -- descriptors run out --------------------------------------------------------------


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """For a while no descriptor can be opened by this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    limit = max(map(int, os.listdir("/proc/self/fd"))) + 8
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                break
        yield
    finally:
        for number in taken:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# A socket is found by its number, so each use of it needs a descriptor for a moment.
CALLS: dict[str, Callable[[qw.Qos, qw.Flow, socket.socket], object]] = {
    "set type": lambda _, flow, __: flow.set_traffic_type(qw.TrafficType.BACKGROUND),
    "remove flow": lambda _, flow, __: flow.session.remove_socket(flow.id, None),
    "remove socket": lambda _, flow, sock: flow.remove_socket(sock),
    "add another": lambda qos, _, sock: qos.add_socket(sock.fileno(), ("127.0.0.2", PORT)),
    "query": lambda _, flow, __: flow.packet_priority(),
}


@pytest.mark.parametrize("name", CALLS)
def test_running_out_of_descriptors_breaks_nothing(sockets: Bench, name: str) -> None:
    sock = sockets.make("udp4")
    with own_subsystem() as host:
        qos = open_in(host)
        flow = qos.add_socket(
            sock.fileno(), ("127.0.0.1", PORT), traffic_type=VOICE, adaptive=False
        )
        outcome: object = None
        with no_descriptors_left():
            try:
                outcome = CALLS[name](qos, flow, sock)
            except qw.QosError as error:
                outcome = error
        # The socket is open, so it cannot have been taken for a closed one, and an
        # unreachable host is not the trouble either.
        assert not isinstance(outcome, (qw.FlowNotFound, qw.HostUnreachable)), outcome
        # Whatever was said then, now things work, and the mark goes with the handle.
        if isinstance(outcome, (qw.QosError, Refusal)):
            assert flow.packet_priority().conformant_dscp == 56
        qos.close()
        assert options_of(sock).tos == 0


# -- locks ----------------------------------------------------------------------------


def test_answers_are_handed_over_without_the_lock(sockets: Bench) -> None:
    # "Answers to *other* requests are handed over after the lock is let go, so that nobody's
    # callback can come back in."
    sock = sockets.make("udp4 connected")
    with own_subsystem() as host, ThreadPoolExecutor(1) as pool:
        qos, other = open_in(host), open_in(host)
        host.receive_path_view(HERE, view())
        flow = qos.add_socket(sock)
        pending = qos.session.notify(flow.id, qw.NoticeKind.CONGESTED, None)
        assert isinstance(pending, Pending)
        opened: list[int | Refusal] = []

        def elsewhere(_: object) -> None:
            opened.append(pool.submit(host.open_handle).result(PATIENCE_S))

        pending.future.add_done_callback(elsewhere)
        other.add_socket(sock)
        assert len(opened) == 1


class Blocking(Memory):
    """A mechanism that is busy until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.is_busy, self.may_go_on = threading.Event(), threading.Event()


def test_a_fork_while_a_call_is_under_way(sockets: Bench) -> None:
    """The child's calls answer at once, though the parent's lock was held when it was made."""
    sock = sockets.make("udp4")
    is_inside, may_leave = threading.Event(), threading.Event()

    class Clock(FakeClock):
        def read(self) -> tuple[int, int]:
            if threading.current_thread() is not threading.main_thread():
                is_inside.set()
                may_leave.wait(PATIENCE_S)
            return super().read()

    calls: list[Callable[[qw.Qos], object]] = [
        lambda qos: qos.flow_ids(),
        lambda qos: qos.add_socket(sock, ("127.0.0.1", PORT)),
        lambda qos: qos.track("127.0.0.1"),
    ]
    with own_subsystem(clock=Clock()) as host, ThreadPoolExecutor(1) as pool:
        qos = open_in(host)
        under_way = pool.submit(qos.flow_ids)
        assert is_inside.wait(PATIENCE_S)
        outcomes = []
        for call in calls:
            child = os.fork()
            if child == 0:
                _answer_in_child(lambda call=call: call(qos))  # type: ignore[misc]  # binds now
            outcomes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        may_leave.set()
        under_way.result(PATIENCE_S)
    # 0: ERROR_INVALID_HANDLE; -14: the alarm, because the call hung.
    assert outcomes == [0, 0, 0]


def _answer_in_child(call: Callable[[], object]) -> None:
    import signal

    code = 3
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(3)
    try:
        call()
    except qw.InvalidHandle:
        code = 0
    finally:
        os._exit(code)


@pytest.mark.usefixtures("fd_guard")
def test_closing_the_host_closes_every_handle() -> None:
    host = Embedded(clock=FakeClock())
    with ExitStack() as stack:
        made = [
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(3)
        ]
        for sock in made:
            open_in(host).add_socket(sock, ("127.0.0.1", PORT), traffic_type=VOICE, adaptive=False)
        host.close()
        assert [options_of(sock).tos for sock in made] == [0, 0, 0]
        host.close()


def test_ids_of_processes_are_apart() -> None:
    with own_subsystem() as host, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        flow = open_in(host).add_socket(sock, ("127.0.0.1", PORT))
        assert flow.id >> 10 == os.getpid()


def test_handles_are_limited() -> None:
    with own_subsystem(Policy(limits=Limits(handles=1))) as host:
        open_in(host)
        with pytest.raises(qw.NoSystemResources):
            open_in(host)


@pytest.mark.parametrize("how", ["close", "with"])
def test_a_close_that_the_kernel_refuses_is_heard(sockets: Bench, how: str) -> None:
    # "Never a silent success: success means the traffic is treated as asked." Only a flow that
    # has ended already may be closed without a word.
    sock = sockets.make("udp4 connected")
    mechanism = Mechanism()
    with own_subsystem(backend=mechanism) as host:
        flow = open_in(host).add_socket(sock, traffic_type=VOICE, adaptive=False)
        mechanism.refusals = [Refusal(ErrorCode.ERROR_ACCESS_DENIED, "rights were dropped")]
        ends: dict[str, Callable[[], None]] = {
            "close": flow.close,
            "with": lambda: flow.__exit__(None, None, None),
        }
        with pytest.raises(qw.AccessDenied):
            ends[how]()
        assert flow.packet_priority().conformant_dscp == 56
        flow.close()
        flow.close()


def test_a_listening_socket_leaves_no_marks_on_what_it_accepts() -> None:
    # "No kernel state of the flow outlives it." The kernel copies a listener's options to the
    # connections that it accepts, where nobody looks for them.
    with own_subsystem() as host, socket.create_server(("127.0.0.1", 0)) as listener:
        qos = open_in(host)
        try:
            flow = qos.add_socket(listener, ("127.0.0.1", PORT), traffic_type=VOICE, adaptive=False)
            flow.set_rate(1_000_000)
        except (qw.InvalidParameter, qw.NotSupported):
            assert options_of(listener).tos == 0
            return
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            flow.close()
            assert (options_of(accepted).tos, pacing_of(accepted)) == (0, UNPACED)

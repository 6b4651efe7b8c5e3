"""The blocking face where it has to wait: for rates, for fresh numbers; and self-paced programs.

Nothing is measured: what is known of the path to 127.0.0.1, the tests say.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import cast

import pytest

import openqwave as qw
from openqwave.admission.policy import Experiments, Policy
from openqwave.client.embedded import Embedded
from openqwave.drivers.clock import SystemClock
from openqwave.model.estimates import Congestion, CongestionReason, Fundamentals, PathView
from openqwave.model.path import PathStatus
from openqwave.runtime import surveying
from tests.unit.driven import endpoint, view
from tests.unit.loopback import UNPACED, Bench, options_of, pacing_of
from tests.unit.own_subsystem import FakeClock, open_in, own_subsystem

HERE = endpoint("127.0.0.1", 0)
MBIT = 1_000_000
PATIENCE_S = 20.0
SHORT_S = 0.06


@pytest.fixture
def answer_s() -> float:
    """How long calls wait; longer than anything takes."""
    return PATIENCE_S


@pytest.fixture
def host(answer_s: float, fd_guard: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Embedded]:
    """A subsystem in which time runs."""
    del fd_guard
    strangers = set(threading.enumerate())
    monkeypatch.setattr(surveying, "_LINGER_S", 0.02)
    policy = Policy(experiments=Experiments(answer_ns=int(answer_s * 1e9), warm_ns=1_000_000))
    with own_subsystem(policy, clock=cast("FakeClock", SystemClock())) as made:
        yield made
    for thread in set(threading.enumerate()) - strangers:
        thread.join(PATIENCE_S)


def adaptive(host: Embedded, sock: socket.socket) -> qw.Flow:
    """A flow of whose path nothing is known, but that somebody measures it."""
    flow = open_in(host).add_socket(sock, traffic_type=qw.TrafficType.VOICE)
    host.receive_path_view(HERE, view())
    return flow


@pytest.fixture
def flow(host: Embedded, sockets: Bench) -> qw.Flow:
    return adaptive(host, sockets.make("tcp4 connected"))


def fresh_view(available_bps: int) -> PathView:
    return PathView(Fundamentals(available_bps=available_bps), since_ns=time.monotonic_ns())


def pending_count(host: Embedded) -> int:
    return host.look(lambda engine: len(engine._pending))  # noqa: SLF001 - no other way to see that nothing is left


def while_waiting(host: Embedded, call: Callable[[], object], tell: Callable[[], object]) -> object:
    """Make a call that waits, tell something then, and return what the call does."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(call)
        while pending_count(host) == 0:
            if asked.done():
                break
            time.sleep(0.001)
        assert not asked.done(), asked
        tell()
        return asked.result(PATIENCE_S)


def test_a_rate_waits_for_what_it_needs(host: Embedded, flow: qw.Flow) -> None:
    while_waiting(
        host,
        lambda: flow.set_rate(5 * MBIT),
        lambda: host.receive_path_view(HERE, view(available_bps=5 * MBIT)),
    )
    assert flow.rate_bps() == 5 * MBIT


@pytest.mark.parametrize("end", ["flow", "handle"])
@pytest.mark.parametrize("what", ["rate", "fresh"])
def test_the_end_aborts(host: Embedded, sockets: Bench, end: str, what: str) -> None:
    qos = open_in(host)
    flow = qos.add_socket(sockets.make("tcp4 connected"))
    host.receive_path_view(HERE, view())
    with pytest.raises(qw.OperationAborted):
        while_waiting(
            host,
            lambda: flow.set_rate(MBIT) if what == "rate" else flow.fundamentals(fresh=True),
            flow.close if end == "flow" else qos.close,
        )


@pytest.mark.parametrize("answer_s", [SHORT_S])
def test_calls_wait_for_so_long(host: Embedded, flow: qw.Flow) -> None:
    calls: list[Callable[[], object]] = [
        lambda: flow.set_rate(MBIT),
        lambda: flow.set_rate(None),
        lambda: flow.fundamentals(fresh=True),
    ]
    for call in calls:
        began_s = time.monotonic()
        with pytest.raises(qw.RetryLater):
            call()
        assert SHORT_S <= time.monotonic() - began_s < PATIENCE_S
        assert pending_count(host) == 0


def test_fresh_numbers(host: Embedded, flow: qw.Flow) -> None:
    host.receive_path_view(HERE, fresh_view(MBIT))

    def tell() -> None:
        host.receive_path_view(HERE, view(available_bps=2 * MBIT))
        assert flow.fundamentals().available_bps == 2 * MBIT
        host.receive_path_view(HERE, fresh_view(3 * MBIT))

    found = while_waiting(host, lambda: flow.fundamentals(fresh=True), tell)
    assert found == Fundamentals(None, 3 * MBIT, None)


# "a program that is interrupted leaves no request behind"
@pytest.mark.parametrize("what", ["rate", "fresh", "congested"])
def test_ctrl_c_leaves_no_request_behind(host: Embedded, flow: qw.Flow, what: str) -> None:
    calls: dict[str, Callable[[], object]] = {
        "rate": lambda: flow.set_rate(5 * MBIT),
        "fresh": lambda: flow.fundamentals(fresh=True),
        "congested": flow.wait_congested,
    }
    is_over = threading.Event()

    def interrupt(_number: int, frame: FrameType | None) -> None:
        # Only out of the wait for the answer; the next signal comes soon.
        if frame is not None and frame.f_code is threading.Condition.wait.__code__:
            raise KeyboardInterrupt

    def send_signals(main: int) -> None:
        while pending_count(host) == 0 and not is_over.is_set():
            time.sleep(0.001)
        # One that arrives just before the wait begins does not end it.
        while not is_over.wait(0.01):
            signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    sender = threading.Thread(target=send_signals, args=(threading.get_ident(),))
    sender.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            calls[what]()
    finally:
        is_over.set()
        sender.join()
        signal.signal(signal.SIGUSR1, before)
    assert pending_count(host) == 0
    host.receive_path_view(HERE, view(available_bps=5 * MBIT, is_congested=False))
    with pytest.raises(qw.NoData):
        flow.rate_bps()


def test_what_is_believed_of_a_path(host: Embedded, flow: qw.Flow) -> None:
    known = flow.path()
    assert (known.host, known.fundamentals, known.obstacle) == (HERE, Fundamentals(), "")
    congestion = Congestion(False)
    host.receive_path_view(
        HERE,
        PathView(Fundamentals(20 * MBIT, 8 * MBIT, 3), congestion, 7 * MBIT, 0.9, None, 4_711),
    )
    flow.set_rate(2 * MBIT)
    status = flow.path()
    assert status.age_ns is not None
    assert 0 <= status.age_ns < PATIENCE_S * 1e9
    assert status == PathStatus(
        HERE,
        None,
        Fundamentals(20 * MBIT, 8 * MBIT, 3),
        7 * MBIT,
        0.9,
        status.age_ns,
        congestion,
        2 * MBIT,
        None,
        4_711,
        "",
    )
    verdict = Congestion(True, CongestionReason.PROBE_LOSS, "3 of 20")
    host.tell(lambda engine, now_ns: engine.receive_congestion(HERE, verdict, now_ns=now_ns))
    assert flow.path().congestion == verdict
    host.receive_path_view(HERE, None)
    assert (flow.path().age_ns, flow.path().fundamentals) == (None, Fundamentals())
    assert "cannot be measured" in flow.path().obstacle


def test_a_flow_that_does_not_adapt_has_no_path(host: Embedded, sockets: Bench) -> None:
    plain = open_in(host).add_socket(sockets.make("udp4 connected"), adaptive=False)
    with pytest.raises(qw.NotSupported):
        plain.path()
    plain.close()
    with pytest.raises(qw.FlowNotFound):
        plain.path()


@pytest.mark.parametrize("kind", ["udp4 connected", "tcp4 connected"])
def test_a_program_that_paces_itself(host: Embedded, sockets: Bench, kind: str) -> None:
    sock = sockets.make(kind)
    flow = adaptive(host, sock)
    host.receive_path_view(HERE, view(available_bps=5 * MBIT))
    # Admitted as any other,
    with pytest.raises(qw.NetworkBusy):
        flow.set_rate(6 * MBIT, self_paced=True)
    assert options_of(sock).tos == 0
    flow.set_rate(5 * MBIT, self_paced=True)
    # marked, and not held to it by the kernel.
    assert (options_of(sock).tos, pacing_of(sock)) == (56 << 2, UNPACED)
    assert flow.rate_bps() == 5 * MBIT
    assert flow.pacer().reserve(625, now_ns=10**9) == 0
    assert flow.pacer(MBIT).reserve(1, now_ns=10**9) == 0
    # There is no excess that could be marked otherwise; the contract stays.
    with pytest.raises(qw.InvalidParameter):
        flow.set_rate(MBIT, shaping=qw.Shaping.USE_NON_CONFORMANT_MARKINGS, self_paced=True)
    assert flow.rate_bps() == 5 * MBIT
    # The other way: now the kernel holds it, where it can.
    if kind.startswith("tcp"):
        flow.set_rate(4 * MBIT)
        assert pacing_of(sock) < UNPACED
        flow.set_rate(3 * MBIT, self_paced=True)
        assert pacing_of(sock) == UNPACED
    else:
        with pytest.raises(qw.NotSupported):
            flow.set_rate(4 * MBIT)
        assert flow.rate_bps() == 5 * MBIT
    flow.set_rate(0)
    assert options_of(sock).tos == 0


def test_a_self_paced_rate_waits_as_any_other(host: Embedded, sockets: Bench) -> None:
    sock = sockets.make("udp4 connected")
    flow = adaptive(host, sock)
    while_waiting(
        host,
        lambda: flow.set_rate(5 * MBIT, self_paced=True),
        lambda: host.receive_path_view(HERE, view(available_bps=5 * MBIT)),
    )
    assert options_of(sock).tos == 56 << 2


@pytest.mark.parametrize("timeout_s", [0, 0.02])
def test_waits_time_out(host: Embedded, flow: qw.Flow, timeout_s: float) -> None:
    calls: list[Callable[[], None]] = [
        lambda: flow.wait_congested(timeout_s),
        lambda: flow.wait_uncongested(timeout_s),
        lambda: flow.wait_available(MBIT, timeout_s),
    ]
    for call in calls:
        began_s = time.monotonic()
        with pytest.raises(qw.TimedOut):
            call()
        assert timeout_s <= time.monotonic() - began_s < PATIENCE_S
        assert pending_count(host) == 0

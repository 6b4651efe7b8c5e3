"""Operations that are begun without waiting, and event loops of other kinds."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import select
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future

import pytest

import openqwave as qw
from openqwave.model.errors import Refusal
from openqwave.model.estimates import PathView
from tests.unit.driven import endpoint, view
from tests.unit.loopback import Bench
from tests.unit.places import place, subsystem

__all__ = ["place"]

HERE = endpoint("127.0.0.1", 0)
MBIT = 1_000_000
PATIENCE_S = 20.0


def see(seen: PathView | None) -> None:
    subsystem().receive_path_view(HERE, seen)


def pending_count() -> int:
    return subsystem().look(lambda engine: len(engine._pending))  # noqa: SLF001 - no other way to see that nothing is left


@pytest.fixture
def qos(fd_guard: None, place: str) -> Iterator[qw.Qos]:
    del fd_guard, place
    see(view())
    with qw.open() as opened:
        yield opened
    see(None)


@pytest.fixture
def flow(qos: qw.Qos, sockets: Bench) -> qw.Flow:
    return qos.add_socket(sockets.make("tcp4 connected"), traffic_type=qw.TrafficType.VOICE)


def is_readable(number: int, timeout_s: float = 0) -> bool:
    return bool(select.select([number], [], [], timeout_s)[0])


def test_an_epoll_loop(qos: qw.Qos, flow: qw.Flow) -> None:
    # As the docstrings and the pages have it.
    waiting = {flow.when_congested(): "congested", flow.when_available(5 * MBIT): "available"}
    told: list[str] = []
    steps = iter([view(is_congested=True), view(is_congested=False, available_bps=5 * MBIT)])
    with select.epoll() as poll:
        poll.register(qos.fileno(), select.EPOLLIN)
        assert poll.poll(0) == []
        while waiting:
            see(next(steps))
            ((number, _),) = poll.poll(PATIENCE_S)
            assert number == qos.fileno()
            for operation in qos.completed():
                operation.result()
                told.append(waiting.pop(operation))
            assert poll.poll(0) == []
    assert told == ["congested", "available"]
    assert pending_count() == 0


def test_what_holds_already_completes_at_once(qos: qw.Qos, flow: qw.Flow) -> None:
    see(view(is_congested=False))
    operation = flow.when_uncongested()
    assert operation.done()
    # The number is asked for afterwards, and tells of it all the same.
    assert is_readable(qos.fileno())
    assert qos.completed() == [operation]
    assert qos.completed() == []
    assert not is_readable(qos.fileno())
    assert operation.result() is None


ERRORS: dict[str, type[qw.QosError]] = {
    "not adaptive": qw.NotSupported,
    "twice": qw.AlreadyExists,
    "below": qw.InvalidParameter,
    "no flow": qw.FlowNotFound,
}


@pytest.mark.parametrize("what", ERRORS)
def test_refusals_are_the_results(qos: qw.Qos, flow: qw.Flow, sockets: Bench, what: str) -> None:
    see(view(available_bps=5 * MBIT))
    match what:
        case "not adaptive":
            plain = qos.add_socket(sockets.make("tcp4 connected"), adaptive=False)
            operation = plain.when_congested()
        case "twice":
            first = flow.when_congested()
            operation = flow.when_congested()
            assert first.cancel()
        case "below":
            flow.set_rate(MBIT)
            operation = flow.when_available(MBIT)
        case _:
            flow.close()
            operation = flow.when_congested()
    with pytest.raises(ERRORS[what]):
        operation.result(PATIENCE_S)
    assert operation in qos.completed()
    with pytest.raises(qw.InvalidParameter):
        flow.when_available(1.5)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("how", ["flow", "handle"])
def test_the_end_completes(qos: qw.Qos, flow: qw.Flow, how: str) -> None:
    operation = flow.when_congested()
    number = qos.fileno()
    if how == "flow":
        flow.close()
        assert is_readable(number, PATIENCE_S)
    else:
        qos.close()
    with pytest.raises(qw.OperationAborted):
        operation.result(PATIENCE_S)
    assert qos.completed() == [operation]


def test_withdrawing(qos: qw.Qos, flow: qw.Flow) -> None:
    operation = flow.when_congested()
    seen: list[Future[None]] = []
    operation.add_done_callback(seen.append)
    assert operation.cancel()
    assert operation.cancel()
    assert operation.cancelled()
    assert seen == [operation]
    assert pending_count() == 0
    assert is_readable(qos.fileno())
    assert qos.completed() == [operation]
    with pytest.raises(CancelledError):
        operation.result()
    # Those who wait for several are told as well.
    assert concurrent.futures.wait([operation], 0).done == {operation}
    # It is withdrawn: the next is no second one.
    assert flow.when_congested().cancel()


def test_what_has_completed_is_not_withdrawn(qos: qw.Qos, flow: qw.Flow) -> None:
    operation = flow.when_congested()
    see(view(is_congested=True))
    assert operation.result(PATIENCE_S) is None
    assert not operation.cancel()
    assert qos.completed() == [operation]


def test_of_a_completion_and_a_withdrawal_one_wins(qos: qw.Qos, flow: qw.Flow) -> None:
    outcomes = set()
    for _ in range(60):
        see(view(is_congested=False))
        operation = flow.when_congested()
        start = threading.Barrier(2, timeout=PATIENCE_S)

        def tell(start: threading.Barrier = start) -> None:
            start.wait()
            see(view(is_congested=True))

        teller = threading.Thread(target=tell)
        teller.start()
        start.wait()
        is_withdrawn = operation.cancel()
        teller.join()
        if not is_withdrawn:
            assert operation.result(PATIENCE_S) is None
        assert qos.completed() == [operation]
        outcomes.add(is_withdrawn)
    assert pending_count() == 0
    assert outcomes <= {True, False}


def test_nobody_pays_for_a_list_that_nobody_takes(qos: qw.Qos, flow: qw.Flow) -> None:
    see(view(is_congested=True))
    kept = flow.when_congested()
    for _ in range(20):
        assert flow.when_congested().result() is None
    gc.collect()
    assert qos.completed() == [kept]


def test_callbacks_may_go_on(qos: qw.Qos, flow: qw.Flow) -> None:
    done = threading.Event()
    told: list[object] = []

    def again(operation: Future[None]) -> None:
        told.append(operation.result())
        following = flow.when_uncongested()
        following.add_done_callback(lambda _: done.set())

    flow.when_congested().add_done_callback(again)
    see(view(is_congested=True))
    see(view(is_congested=False))
    assert done.wait(PATIENCE_S)
    assert told == [None]
    assert qos.backend.name in ("embedded", "service")


def test_ctrl_c_between_the_request_and_the_operation(
    flow: qw.Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("openqwave.client.completions.Operation._receive", property(interrupt))
        with pytest.raises(KeyboardInterrupt):
            flow.when_congested()
    assert pending_count() == 0


def test_the_number_is_one_until_the_handle_is_closed(qos: qw.Qos) -> None:
    number = qos.fileno()
    assert qos.fileno() == number
    # select and the like take the handle itself.
    assert select.select([qos], [], [], 0) == ([], [], [])
    qos.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    with pytest.raises(qw.InvalidHandle):
        qos.fileno()
    assert qos.completed() == []


def test_a_handle_that_is_dropped_leaves_no_number(qos: qw.Qos) -> None:
    with qw.open(embedded=True) as other:
        number = other.fileno()
        other.session.close()
    del other
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    assert isinstance(qos.session.refuse(), Refusal | None)


# -- handles that are opened anew ---------------------------------------------------------------


def lose() -> None:
    """As a suspend does."""
    subsystem().tell(lambda engine, now_ns: engine.receive_interruption(now_ns=now_ns))


@pytest.fixture
def reopened(
    qos: qw.Qos, flow: qw.Flow, sockets: Bench
) -> Callable[[], tuple[qw.Flow, Future[None]]]:
    """Loses the handle while something is pending, and opens it anew."""

    def act() -> tuple[qw.Flow, Future[None]]:
        operation = flow.when_congested()
        marked = qos.add_socket(
            sockets.make("udp4 connected"), traffic_type=qw.TrafficType.VOICE, adaptive=False
        )
        lose()
        with pytest.raises(qw.ReinitializationNeeded):
            marked.packet_priority()
        qos.reopen()
        return marked, operation

    return act


def test_reopening(
    qos: qw.Qos,
    flow: qw.Flow,
    sockets: Bench,
    reopened: Callable[[], tuple[qw.Flow, Future[None]]],
    place: str,
) -> None:
    number = qos.fileno()
    old, operation = reopened()
    assert qos.backend.name == place
    with pytest.raises(qw.OperationAborted):
        operation.result(PATIENCE_S)
    assert qos.fileno() == number
    assert is_readable(number)
    assert qos.completed() == [operation]
    # What was made before has ended, and is not added again.
    for ended in (old, flow):
        with pytest.raises(qw.InvalidHandle):
            ended.set_traffic_type(qw.TrafficType.VOICE)
        ended.close()
    assert subsystem().look(lambda engine: engine.sockets()) == ()
    sock = sockets.make("udp4 connected")
    fresh = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
    assert fresh.packet_priority().conformant_dscp == 56
    assert sock.getsockopt(0, 1) == 56 << 2


def test_reopening_what_is_closed_or_good(qos: qw.Qos, sockets: Bench) -> None:
    sock = sockets.make("udp4 connected")
    for _ in range(2):
        qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
        qos.reopen()
        assert sock.getsockopt(0, 1) == 0
    qos.close()


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("place", ["service"], indirect=True)
def test_reopening_makes_the_same_choice(monkeypatch: pytest.MonkeyPatch, sockets: Bench) -> None:
    with qw.open() as either, qw.open(service=True) as insisting:
        path = os.environ["QWAVE_SOCKET"]
        monkeypatch.setenv("QWAVE_SOCKET", path + "-not")
        either.reopen()
        assert either.backend.name == "embedded"
        either.add_socket(sockets.make("udp4 connected"), adaptive=False).close()
        with pytest.raises(qw.ServiceUnavailable):
            insisting.reopen()
        # Closed, and to be opened later.
        with pytest.raises(qw.InvalidHandle):
            insisting.flow_ids()
        monkeypatch.setenv("QWAVE_SOCKET", path)
        insisting.reopen()
        insisting.add_socket(sockets.make("udp4 connected"), adaptive=False).close()

"""A handle of the service: what is asked, what becomes of the answers, and of the connection."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from openqwave.client import connection, deliveries
from openqwave.client.remote import RemoteSession
from openqwave.drivers.sockets import SocketLike
from openqwave.ipc import messages as ms
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Fundamentals
from openqwave.model.flow import NoticeKind, PacketPriority, RateReason, Shaping, TrafficType
from openqwave.model.traffic import FlowTraffic
from openqwave.runtime.pending import Pending
from openqwave.subsystem.requests import Question
from tests.unit.far_end import PATIENCE_S, FarEnd, Reply, dialled, joined

ADDRESS = Endpoint(socket.inet_aton("192.0.2.1"), 5004)
LINK_LOCAL = Endpoint(socket.inet_pton(socket.AF_INET6, "fe80::1"), 5004, 3)
NO_ADDRESS = Refusal(ErrorCode.ERROR_INVALID_PARAMETER, "'example' is no destination")
BUSY = Refusal(ErrorCode.ERROR_NETWORK_BUSY, "6 Mbit/s are free")
SLEPT = Refusal(ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED, "the machine slept")
LOST = ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED
PENDING = "pending"

Joined = tuple[RemoteSession, FarEnd]
Call = Callable[[RemoteSession], object]


@pytest.fixture
def both() -> Iterator[Joined]:
    with joined() as made:
        yield made


@pytest.fixture
def udp() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        yield sock


def add(session: RemoteSession, sock: SocketLike, flow_id: int = 0) -> int | Refusal:
    return session.add_socket(flow_id, sock, ADDRESS, TrafficType.VOICE, is_adaptive=False)


def wait_for(session: RemoteSession, flow_id: int = 1) -> Pending:
    """A request that is pending."""
    result = session.notify(flow_id, NoticeKind.CONGESTED, None)
    assert isinstance(result, Pending)
    return result


def code_of(result: object) -> ErrorCode:
    assert isinstance(result, Refusal), result
    return result.code


def own_threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "openqwave-answers"]


def await_no_thread() -> None:
    """The threads of connections end by themselves."""
    for thread in own_threads():
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


# -- what is asked ------------------------------------------------------------------------

RATE = (Shaping.SHAPE_ONLY, RateReason.CONGESTION)
CALLS: dict[str, tuple[Call, ms.Request, bytes, object]] = {
    "set type": (
        lambda s: s.set_traffic_type(7, TrafficType.AUDIO_VIDEO),
        ms.SetTrafficType(1, 7, 3),
        b"null",
        None,
    ),
    "set rate": (
        lambda s: s.set_rate(7, 5_000_000, *RATE),
        ms.SetRate(1, 7, 5_000_000, 0, 2),
        b"null",
        None,
    ),
    "set default rate": (
        lambda s: s.set_rate(7, None, *RATE, is_overlapped=True, is_self_paced=True),
        ms.SetRate(1, 7, None, 0, 2, overlapped=True, self_paced=True),
        b"null",
        None,
    ),
    "set DSCP": (lambda s: s.set_dscp(7, 46), ms.SetDscp(1, 7, 46), b"null", None),
    "fundamentals": (
        lambda s: s.query(7, Question.FUNDAMENTALS, is_fresh=True),
        ms.Query(1, 7, "fundamentals", fresh=True),
        b'{"bottleneck_bps":5,"available_bps":null,"rtt_ns":3,"more":[1]}',
        Fundamentals(5, None, 3),
    ),
    "priority": (
        lambda s: s.query(7, Question.PACKET_PRIORITY, is_overlapped=True),
        ms.Query(1, 7, "packet_priority", overlapped=True),
        b'{"conformant_dscp":40,"non_conformant_dscp":0,"conformant_pcp":5,"non_conformant_pcp":0}',
        PacketPriority(40, 0, 5, 0),
    ),
    "rate": (
        lambda s: s.query(7, Question.OUTGOING_RATE),
        ms.Query(1, 7, "outgoing_rate"),
        b"64000",
        64_000,
    ),
    "traffic": (
        lambda s: s.query(7, Question.TRAFFIC),
        ms.Query(1, 7, "traffic"),
        b'{"packets":9,"bytes":900,"excess_packets":2,"excess_bytes":60,"dropped_packets":1}',
        FlowTraffic(9, 900, 2, 60, 1),
    ),
    "notify": (
        lambda s: s.notify(7, NoticeKind.AVAILABLE, 9),
        ms.Notify(1, 7, 2, 9),
        b"null",
        None,
    ),
    "remove": (lambda s: s.remove_socket(7, None), ms.RemoveSocket(1, 7, True), b"null", None),
    "track": (
        lambda s: s.start_tracking(LINK_LOCAL.host()),
        ms.StartTracking(1, "fe80::1", 3),
        b"null",
        None,
    ),
    "untrack": (
        lambda s: s.stop_tracking(ADDRESS.host()),
        ms.StopTracking(1, "192.0.2.1"),
        b"null",
        None,
    ),
    "enumerate": (
        lambda s: s.enumerate_flows(),
        ms.EnumerateFlows(1),
        b'{"flows":[3,4,9],"more":false}',
        (3, 4, 9),
    ),
    "cancel": (lambda s: s.cancel(5), ms.Cancel(1, 5), b"null", None),
    "check": (lambda s: s.refuse(), ms.Check(1), b"null", None),
    # Too large for a packet, and as wrong as the largest that is not.
    "no DSCP": (lambda s: s.set_dscp(7, 10**30), ms.SetDscp(1, 7, -1), b"null", None),
    "no rate": (
        lambda s: s.set_rate(7, -(10**30), *RATE),
        ms.SetRate(1, 7, -1, 0, 2),
        b"null",
        None,
    ),
    "no flow": (
        lambda s: s.set_traffic_type(10**30, TrafficType.VOICE),
        ms.SetTrafficType(1, -1, 4),
        b"null",
        None,
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_requests_and_answers(both: Joined, name: str) -> None:
    session, far = both
    call, request, value, result = CALLS[name]
    far.replies[type(request)] = value
    assert call(session) == result
    assert far.asked == [request]
    assert far.brought == {1: []}


@pytest.mark.parametrize("name", CALLS)
def test_refusals_are_results(both: Joined, name: str) -> None:
    session, far = both
    call, request, _, _ = CALLS[name]
    far.replies[type(request)] = BUSY
    assert call(session) == BUSY
    assert session.refuse() is None or name == "check"


def test_a_socket_and_where_it_goes(both: Joined, udp: socket.socket) -> None:
    session, far = both
    six = session.add_socket(0, udp, LINK_LOCAL, TrafficType.CONTROL, is_adaptive=True)
    peer = session.add_socket(6, udp, None, TrafficType.VOICE, is_adaptive=False)
    number = udp.fileno()
    assert (six, peer) == (1, 6)
    assert far.asked == [
        ms.AddSocket(1, 0, 5, True, "fe80::1", 5004, 3, number),
        ms.AddSocket(2, 6, 4, False, None, 0, 0, number),
    ]


def test_a_destination_that_is_none_is_refused_in_its_turn(
    both: Joined, udp: socket.socket
) -> None:
    session, far = both
    calls: list[tuple[type, Call]] = [
        (
            ms.AddSocket,
            lambda s: s.add_socket(0, udp, NO_ADDRESS, TrafficType.VOICE, is_adaptive=False),
        ),
        (ms.StartTracking, lambda s: s.start_tracking(NO_ADDRESS)),
        (ms.StopTracking, lambda s: s.stop_tracking(NO_ADDRESS)),
    ]
    for kind, call in calls:
        far.replies[kind] = Refusal(ErrorCode.ERROR_INVALID_PARAMETER, "no destination: ''")
        # In the words of who saw it.
        assert call(session) == NO_ADDRESS
        request = far.asked[-1]
        assert isinstance(request, ms.AddSocket | ms.StartTracking | ms.StopTracking)
        assert request.address == ""
        # But what comes first comes first.
        far.replies[kind] = BUSY
        assert call(session) == BUSY


class HasFileno:
    def __init__(self, number: object) -> None:
        self.number = number

    def __repr__(self) -> str:
        return f"HasFileno({self.number!r})"

    def fileno(self) -> Any:  # noqa: ANN401 - whatever a program returns there
        if isinstance(self.number, Exception):
            raise self.number
        return self.number


@pytest.mark.parametrize("form", ["object", "number", "fileno"])
def test_descriptors_go_along(both: Joined, udp: socket.socket, form: str) -> None:
    session, far = both
    number = udp.fileno()
    given: SocketLike = {"object": udp, "number": number, "fileno": HasFileno(number)}[form]  # type: ignore[assignment]
    inode = os.fstat(number).st_ino
    assert add(session, given) == 1
    assert session.remove_socket(1, given) is None
    assert far.brought == {1: [inode], 2: [inode]}
    assert far.asked[-1] == ms.RemoveSocket(2, 1, False)


@pytest.mark.parametrize(
    "sock",
    [
        -1,
        10**30,
        12_345,
        HasFileno(-1),
        HasFileno("3"),
        HasFileno(ValueError("closed")),
        HasFileno(OSError("gone")),
        "text",
        None,
    ],
    ids=repr,
)
def test_what_is_no_descriptor_stays_behind(both: Joined, sock: Any) -> None:  # noqa: ANN401
    session, far = both
    unreadable = Refusal(ErrorCode.ERROR_INVALID_PARAMETER, "no socket came")
    far.replies[ms.AddSocket] = far.replies[ms.RemoveSocket] = unreadable
    assert add(session, sock) == unreadable
    if sock is not None:
        assert session.remove_socket(7, sock) == unreadable
        assert far.asked[-1] == ms.RemoveSocket(2, 7, False)
    assert all(inodes == [] for inodes in far.brought.values())


def test_pages_are_followed(both: Joined) -> None:
    session, far = both
    pages = {0: b'{"flows":[1,5],"more":true}', 5: b'{"flows":[6],"more":true}'}

    def page(request: ms.Request) -> Reply:
        assert isinstance(request, ms.EnumerateFlows)
        return pages.get(request.after, b'{"flows":[],"more":false}')

    far.replies[ms.EnumerateFlows] = page
    assert session.enumerate_flows() == (1, 5, 6)


# -- what comes later -----------------------------------------------------------------------


def test_a_pending_request_ends(both: Joined) -> None:
    session, far = both
    far.replies[ms.Query] = far.replies[ms.Notify] = PENDING
    one, two = wait_for(session), wait_for(session)
    asked = session.query(7, Question.OUTGOING_RATE, is_fresh=True)
    assert isinstance(asked, Pending)
    assert len({one.request_id, two.request_id, asked.request_id}) == 3
    far.answer(asked.request_id, b"5")
    far.refuse(two.request_id, BUSY)
    far.answer(one.request_id)
    assert asked.future.result(PATIENCE_S) == 5
    assert two.future.result(PATIENCE_S) == BUSY
    assert one.future.result(PATIENCE_S) is None
    await_no_thread()
    assert session.refuse() is None


def test_no_thread_without_need(both: Joined) -> None:
    session, far = both
    assert session.refuse() is None
    assert own_threads() == []
    far.replies[ms.Notify] = PENDING
    pending = wait_for(session)
    assert len(own_threads()) == 1
    assert wait_for(session) is not pending
    assert len(own_threads()) == 1


def test_calls_go_on_while_something_is_pending(both: Joined) -> None:
    session, far = both
    far.replies[ms.Notify] = PENDING
    pending = wait_for(session)
    for number in range(50):
        assert session.set_dscp(7, number) is None
        assert far.asked[-1] == ms.SetDscp(2 + number, 7, number)
    assert not pending.future.done()
    far.answer(pending.request_id)
    assert pending.future.result(PATIENCE_S) is None


def test_cancelling_completes_before_it_returns(both: Joined) -> None:
    session, far = both
    far.replies[ms.Notify] = PENDING
    pending = wait_for(session)
    assert session.cancel(pending.request_id) is None
    # The service's own word on it comes later.
    assert code_of(pending.future.result(0)) is ErrorCode.ERROR_OPERATION_ABORTED
    assert session.refuse() is None
    await_no_thread()


def test_what_has_completed_is_not_cancelled(both: Joined) -> None:
    session, far = both
    far.replies[ms.Notify] = PENDING
    far.replies[ms.Cancel] = unknown = Refusal(ErrorCode.ERROR_INVALID_PARAMETER, "not pending")
    pending = wait_for(session)
    assert session.cancel(pending.request_id) == unknown
    far.answer(pending.request_id)
    assert pending.future.result(PATIENCE_S) is None


def test_finishing_waits(both: Joined) -> None:
    session, far = both
    far.replies[ms.SetRate] = PENDING
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(lambda: session.finish(session.set_rate(7, 5, *RATE)))
        far.answer(far.await_request(ms.SetRate).id)
        assert asking.result(PATIENCE_S) is None
    assert session.finish(BUSY) == BUSY


def test_a_callback_may_come_back_with_calls(both: Joined) -> None:
    session, far = both
    far.replies[ms.Notify] = PENDING
    results: list[object] = []
    done = threading.Event()

    def come_back(_: object) -> None:
        results.append(session.set_dscp(7, 1))
        results.append(session.notify(7, NoticeKind.UNCONGESTED, None))
        done.set()

    # By the connection's own thread.
    pending = wait_for(session)
    pending.future.add_done_callback(come_back)
    far.answer(pending.request_id)
    assert done.wait(PATIENCE_S)
    # By the thread of a call: it cancels, and is told.
    second = results[1]
    assert isinstance(second, Pending)
    second.future.add_done_callback(come_back)
    assert session.cancel(second.request_id) is None
    assert results[0] is None
    assert results[2] is None


def test_a_callback_that_takes_its_time_holds_nobody_up(
    both: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, far = both
    far.replies[ms.Notify] = PENDING
    may_go_on = threading.Event()
    is_called = threading.Event()

    def dawdle(_: object) -> None:
        is_called.set()
        may_go_on.wait(PATIENCE_S)

    one, two = wait_for(session), wait_for(session)
    one.future.add_done_callback(dawdle)
    far.answer(one.request_id)
    assert is_called.wait(PATIENCE_S)
    # One call waits a little for the callback, and no other; and somebody reads meanwhile.
    monkeypatch.setattr(deliveries, "_PATIENCE_S", 0.05)
    assert session.refuse() is None
    monkeypatch.setattr(deliveries, "_PATIENCE_S", PATIENCE_S)
    began_s = time.monotonic()
    far.answer(two.request_id)
    assert session.refuse() is None
    assert time.monotonic() - began_s < PATIENCE_S / 2
    assert two.future.result(PATIENCE_S) is None
    may_go_on.set()
    await_no_thread()


def test_a_call_does_not_overtake_what_came_before_its_answer(both: Joined) -> None:
    session, far = both
    far.replies[ms.Notify] = PENDING
    pending = wait_for(session)
    is_told = threading.Event()

    def take_note(_: object) -> None:
        # Longer than the call takes to return.
        time.sleep(0.05)
        is_told.set()

    def end_first(_: ms.Request) -> Reply:
        far.answer(pending.request_id)
        return b"null"

    pending.future.add_done_callback(take_note)
    far.replies[ms.SetDscp] = end_first
    assert session.set_dscp(7, 1) is None
    assert is_told.is_set()


def test_threads_get_their_own_answers(both: Joined) -> None:
    session, far = both
    far.replies[ms.Query] = lambda request: b"%d" % request.id
    far.replies[ms.Notify] = PENDING
    pending = wait_for(session)

    def ask(number: int) -> bool:
        del number
        result = session.query(7, Question.OUTGOING_RATE)
        return isinstance(result, int)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(800)))
    assert len({request.id for request in far.asked}) == 801
    far.answer(pending.request_id)
    await_no_thread()


def test_answers_wait_for_nobody_elses(both: Joined) -> None:
    session, far = both
    # The first who asks reads; its answer is the last.
    far.replies[ms.SetDscp] = None
    with ThreadPoolExecutor(3) as pool:
        slow = pool.submit(session.set_dscp, 7, 1)
        first = far.await_request(ms.SetDscp)
        quick = [pool.submit(session.set_traffic_type, 7, TrafficType.VOICE) for _ in range(2)]
        assert [one.result(PATIENCE_S) for one in quick] == [None, None]
        assert not slow.done()
        far.answer(first.id)
        assert slow.result(PATIENCE_S) is None


def test_reading_is_handed_on(both: Joined) -> None:
    session, far = both
    far.replies[ms.SetDscp] = far.replies[ms.SetTrafficType] = None
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(session.set_dscp, 7, 1)
        one = far.await_request(ms.SetDscp)
        second = pool.submit(session.set_traffic_type, 7, TrafficType.VOICE)
        two = far.await_request(ms.SetTrafficType)
        far.answer(one.id)
        assert first.result(PATIENCE_S) is None
        far.answer(two.id)
        assert second.result(PATIENCE_S) is None


def test_nobody_can_wait(both: Joined, monkeypatch: pytest.MonkeyPatch) -> None:
    session, far = both
    far.replies[ms.Notify] = PENDING

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        result = session.notify(7, NoticeKind.CONGESTED, None)
    assert code_of(result) is ErrorCode.ERROR_NO_SYSTEM_RESOURCES
    far.await_until(lambda: far.pending == set())
    assert isinstance(far.asked[-1], ms.Cancel)
    assert session.refuse() is None


# -- the end --------------------------------------------------------------------------------


def is_lost(session: RemoteSession, far: FarEnd, word: str) -> None:
    """A handle that is lost: every call says so, without asking, and closing succeeds."""
    count = len(far.asked)
    for call, *_ in CALLS.values():
        result = call(session)
        assert isinstance(result, Refusal)
        assert result.code is LOST
        assert word in result.detail
    assert session.add_socket(0, 0, None, TrafficType.VOICE, is_adaptive=True) == session.refuse()
    assert len(far.asked) == count
    assert session.close() is None
    assert far.is_ended.wait(PATIENCE_S)
    assert code_of(session.close()) is ErrorCode.ERROR_INVALID_HANDLE
    assert code_of(session.refuse()) is ErrorCode.ERROR_INVALID_HANDLE
    assert code_of(session.set_dscp(7, 1)) is ErrorCode.ERROR_INVALID_HANDLE
    await_no_thread()


# What a service does with a request of its own accord, and a word of what is said of it.
ENDS: dict[str, tuple[Callable[[FarEnd, ms.Request], None], str]] = {
    "hangs up": (lambda far, _: far.hang_up(), "ended the connection"),
    "says farewell": (lambda far, _: far.say_farewell(BUSY), "6 Mbit/s are free"),
    "garbage": (lambda far, _: far.send(b"\xff{"), "broke the control protocol"),
    "empty object": (lambda far, _: far.send(b"{}"), "broke the control protocol"),
    "too long": (lambda far, _: far.send(b" " * (ms.MAX_ANSWER_BYTES + 1)), "broke the control"),
    "welcome again": (
        lambda far, _: far.send(ms.encode_packet(ms.Welcome(1, (), "x", False))),
        "broke the control protocol",
    ),
    "answers another": (lambda far, request: far.answer(request.id + 7), "broke the control"),
    "wrong value": (lambda far, request: far.answer(request.id, b'"x"'), "broke the control"),
    "loses": (lambda far, _: far.lose(SLEPT), "the machine slept"),
    "refuses as lost": (lambda far, request: far.refuse(request.id, SLEPT), "the machine slept"),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_end_while_a_call_waits(both: Joined, how: str) -> None:
    session, far = both
    end, word = ENDS[how]
    far.replies[ms.Notify] = PENDING
    pending = wait_for(session)

    def do(request: ms.Request) -> Reply:
        end(far, request)
        return SLEPT if how == "loses" else None

    far.replies[ms.SetDscp] = do
    result = session.set_dscp(7, 46)
    assert code_of(result) is LOST
    # What was pending is aborted by then.
    assert code_of(pending.future.result(0)) is ErrorCode.ERROR_OPERATION_ABORTED
    is_lost(session, far, word)


@pytest.mark.parametrize(
    "how", [how for how in ENDS if how not in ("answers another", "wrong value")]
)
def test_the_end_while_something_is_pending(both: Joined, how: str) -> None:
    session, far = both
    end, word = ENDS[how]
    far.replies[ms.Notify] = PENDING
    pending = wait_for(session)
    end(far, far.asked[0])
    result = pending.future.result(PATIENCE_S)
    assert code_of(result) in (ErrorCode.ERROR_OPERATION_ABORTED, LOST)
    await_no_thread()
    is_lost(session, far, word)


@pytest.mark.parametrize("how", ["hangs up", "says farewell", "garbage", "loses"])
def test_the_end_while_nothing_happens(both: Joined, how: str) -> None:
    session, far = both
    end, word = ENDS[how]
    end(far, ms.Check(1))
    if how == "loses":
        # As the service says from then on.
        far.replies[ms.Check] = SLEPT
    assert code_of(session.refuse()) is LOST
    is_lost(session, far, word)


def test_a_farewell_is_read_though_nothing_can_be_sent(both: Joined) -> None:
    session, far = both
    far.say_farewell(BUSY)
    far.close()
    assert code_of(session.set_dscp(7, 1)) is LOST
    is_lost(session, far, "6 Mbit/s are free")


@pytest.mark.parametrize("what", ["one", "followers", "pending"])
def test_a_service_that_hangs(what: str) -> None:
    with joined(patience_s=0.1) as (session, far):
        far.replies[ms.Notify] = PENDING
        pending = wait_for(session) if what == "pending" else None
        far.replies[ms.SetDscp] = None
        with ThreadPoolExecutor(3) as pool:
            calls = [pool.submit(session.set_dscp, 7, 1) for _ in range(3 if what != "one" else 1)]
            results = [one.result(PATIENCE_S) for one in calls]
        assert [code_of(result) for result in results] == [LOST] * len(calls)
        if pending is not None:
            assert code_of(pending.future.result(0)) is ErrorCode.ERROR_OPERATION_ABORTED
        # It learns of it when it wakes up.
        assert far.is_ended.wait(PATIENCE_S)
        is_lost(session, far, "has not answered for 0.1 s")


def test_pending_requests_may_take_longer_than_an_answer() -> None:
    with joined(patience_s=0.05) as (session, far):
        far.replies[ms.Notify] = PENDING
        pending = wait_for(session)
        with pytest.raises(TimeoutError):
            pending.future.result(0.2)
        far.answer(pending.request_id)
        assert pending.future.result(PATIENCE_S) is None


def test_a_service_that_reads_nothing() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with far:
        session = RemoteSession(dialled(near), 0.1)
        near.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                near.send(b"x" * 4_096)
        near.setblocking(True)
        assert code_of(session.set_dscp(7, 1)) is LOST
        assert session.close() is None


def test_pages_that_do_not_ascend_end_it(both: Joined) -> None:
    session, far = both
    far.replies[ms.EnumerateFlows] = b'{"flows":[5,6],"more":true}'
    assert code_of(session.enumerate_flows()) is LOST
    assert len(far.asked) == 2


def test_without_room_nothing_is_sent_and_nothing_lost(
    both: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, far = both

    def fail(*_: object) -> None:
        raise OSError(109, "Too many references: cannot splice")

    with monkeypatch.context() as patch:
        patch.setattr(connection, "send_packet", fail)
        assert code_of(session.set_dscp(7, 1)) is ErrorCode.ERROR_NO_SYSTEM_RESOURCES
    assert far.asked == []
    assert session.set_dscp(7, 1) is None


def test_closing(both: Joined) -> None:
    session, far = both
    far.replies[ms.Notify] = PENDING
    pending = wait_for(session)
    assert session.close() is None
    assert isinstance(far.asked[-1], ms.Close)
    assert code_of(pending.future.result(0)) is ErrorCode.ERROR_OPERATION_ABORTED
    assert far.is_ended.wait(PATIENCE_S)
    assert code_of(session.close()) is ErrorCode.ERROR_INVALID_HANDLE
    await_no_thread()


def test_a_lost_handle_is_closed_in_order(both: Joined) -> None:
    session, far = both
    far.lose(SLEPT)
    far.replies[ms.Check] = SLEPT
    assert session.refuse() == SLEPT
    assert session.close() is None
    assert isinstance(far.asked[-1], ms.Close)


def test_a_handle_that_is_dropped_is_closed() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end = FarEnd(far)
    session = RemoteSession(dialled(near))
    assert session.refuse() is None
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        del near, session
        gc.collect()
    assert end.is_ended.wait(PATIENCE_S)
    assert [one.category for one in seen] == [ResourceWarning]
    end.close()


# -- forks ------------------------------------------------------------------------------------


def in_child(work: Callable[[], object]) -> None:
    """Do something in a forked child, which has to end well."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_forked_child_has_no_handle(both: Joined) -> None:
    session, far = both
    far.replies[ms.Notify] = PENDING
    pending = wait_for(session)

    def child() -> None:
        for call, *_ in CALLS.values():
            assert code_of(call(session)) is ErrorCode.ERROR_INVALID_HANDLE
        assert code_of(add(session, 0)) is ErrorCode.ERROR_INVALID_HANDLE
        assert code_of(session.close()) is ErrorCode.ERROR_INVALID_HANDLE

    in_child(child)
    assert session.refuse() is None
    far.answer(pending.request_id)
    assert pending.future.result(PATIENCE_S) is None
    assert not far.is_ended.is_set()


def test_the_parents_end_is_the_connections(both: Joined) -> None:
    session, far = both
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        # Until the parent has seen what it wants to see.
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    try:
        # As the parent's death does, without a word.
        session._connection.close_copy()  # noqa: SLF001 - what a dead process cannot ask for
        assert far.is_ended.wait(PATIENCE_S)
    finally:
        os.close(writing)
        os.waitpid(pid, 0)


# -- descriptors that are lent ------------------------------------------------------------------


@pytest.fixture
def lending() -> Iterator[Joined]:
    with joined(lends=True) as made:
        yield made


def inode_of(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def test_a_flows_sockets_come_along(lending: Joined, udp: socket.socket) -> None:
    session, far = lending
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second:
        flow_id = add(session, udp)
        assert isinstance(flow_id, int)
        # By its number, which is not kept open either.
        assert add(session, second.fileno(), flow_id) == flow_id
        assert add(session, udp, flow_id) == flow_id
        other = add(session, udp)
        inodes = [inode_of(udp), inode_of(second)]
        for call in (
            partial(session.set_traffic_type, flow_id, TrafficType.VOICE),
            partial(session.set_rate, flow_id, 5, *RATE),
            partial(session.set_dscp, flow_id, 1),
        ):
            assert call() is None
            assert far.brought[far.asked[-1].id] == inodes
        assert session.notify(flow_id, NoticeKind.CONGESTED, None) is None
        assert far.brought[far.asked[-1].id] == []
        assert session.remove_socket(flow_id, second) is None
        assert session.set_dscp(flow_id, 1) is None
        assert far.brought[far.asked[-1].id] == inodes[:1]
        assert session.remove_socket(flow_id, None) is None
        assert far.brought[far.asked[-1].id] == inodes[:1]
        assert session.set_dscp(flow_id, 1) is None
        assert far.brought[far.asked[-1].id] == []
        assert isinstance(other, int)
        assert session.set_dscp(other, 1) is None
        assert far.brought[far.asked[-1].id] == inodes[:1]


def test_a_socket_that_is_closed_is_lent_no_more(lending: Joined) -> None:
    session, far = lending
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    flow_id = add(session, sock)
    assert isinstance(flow_id, int)
    number = sock.detach()
    os.close(number)
    # Another one under its number.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        assert stranger.fileno() == number
        assert session.set_dscp(flow_id, 1) is None
    assert far.brought[far.asked[-1].id] == []


def test_no_more_than_a_packet_takes(lending: Joined) -> None:
    session, far = lending
    socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(20)]
    flow_id = add(session, socks[0])
    assert isinstance(flow_id, int)
    for sock in socks[1:]:
        add(session, sock, flow_id)
    assert session.set_dscp(flow_id, 1) is None
    assert far.brought[far.asked[-1].id] == [inode_of(sock) for sock in socks[: ms.MAX_DESCRIPTORS]]
    for sock in socks:
        sock.close()


def test_closing_ends_the_flows_first(lending: Joined, udp: socket.socket) -> None:
    session, far = lending
    flows = [add(session, udp), add(session, udp)]
    assert session.close() is None
    *_, one, two, close = far.asked
    assert [type(request) for request in (one, two, close)] == [
        ms.RemoveSocket,
        ms.RemoveSocket,
        ms.Close,
    ]
    assert [request.flow for request in (one, two) if isinstance(request, ms.RemoveSocket)] == flows
    assert far.brought[one.id] == far.brought[two.id] == [inode_of(udp)]


def test_nothing_is_lent_without_need(both: Joined, udp: socket.socket) -> None:
    session, far = both
    flow_id = add(session, udp)
    assert isinstance(flow_id, int)
    session.set_dscp(flow_id, 1)
    session.close()
    assert far.brought[far.asked[-2].id] == far.brought[far.asked[-1].id] == []
    assert [type(request) for request in far.asked] == [ms.AddSocket, ms.SetDscp, ms.Close]

"""The face for asyncio over a service that takes its time: the loop goes on, nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import openqwave as qw
from openqwave import aio
from openqwave.client import dialing, sync
from openqwave.client.opening import Backend
from openqwave.client.remote import RemoteSession
from openqwave.ipc import messages as ms
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from tests.unit.far_end import PATIENCE_S, FarEnd, joined
from tests.unit.loopback import Bench
from tests.unit.places import place, subsystem
from tests.unit.test_client_remote import await_no_thread
from tests.unit.test_opening import WELCOME, Listener, listen

__all__ = ["listen", "place"]

BACKEND = Backend("service", "a test's own")
LATE = Refusal(ErrorCode.ERROR_INVALID_PARAMETER, "not pending")
PRIORITY = (
    b'{"conformant_dscp":0,"non_conformant_dscp":0,"conformant_pcp":0,"non_conformant_pcp":0}'
)


class Stage:
    """A handle, a flow of it and the far end."""

    def __init__(self, session: RemoteSession, far: FarEnd, sock: socket.socket) -> None:
        self.far = far
        self.sock = sock
        handle = sync.Qos(session, BACKEND)
        self.qos = aio.Qos(handle)
        self.flow = aio.Flow(sync.Flow(session, 7))


@pytest.fixture
def stage() -> Iterator[Stage]:
    with (
        joined() as (session, far),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        yield Stage(session, far, sock)
    await_no_thread()


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await body()

    asyncio.run(main())


async def until(holds: Callable[[], bool]) -> None:
    """Come round until something is so that a thread does."""
    for _ in range(int(PATIENCE_S * 1_000)):
        if holds():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it was never so")


# Every coroutine: how it is called, what it asks, and the answer.
CALLS: dict[str, tuple[Callable[[Stage], Coroutine[Any, Any, Any]], type, bytes]] = {
    "add": (lambda s: s.qos.add_socket(s.sock), ms.AddSocket, b"9"),
    "flow ids": (lambda s: s.qos.flow_ids(), ms.EnumerateFlows, b'{"flows":[],"more":false}'),
    "track": (lambda s: s.qos.track("192.0.2.1"), ms.StartTracking, b"null"),
    "untrack": (lambda s: s.qos.untrack("192.0.2.1"), ms.StopTracking, b"null"),
    "close": (lambda s: s.qos.close(), ms.Close, b"null"),
    "join": (lambda s: s.flow.add_socket(s.sock), ms.AddSocket, b"7"),
    "remove": (lambda s: s.flow.remove_socket(s.sock), ms.RemoveSocket, b"null"),
    "end": (lambda s: s.flow.close(), ms.RemoveSocket, b"null"),
    "type": (
        lambda s: s.flow.set_traffic_type(qw.TrafficType.VOICE),
        ms.SetTrafficType,
        b"null",
    ),
    "rate": (lambda s: s.flow.set_rate(5), ms.SetRate, b"null"),
    "DSCP": (lambda s: s.flow.set_dscp(5), ms.SetDscp, b"null"),
    "fundamentals": (lambda s: s.flow.fundamentals(), ms.Query, b"{}"),
    "path": (lambda s: s.flow.path(), ms.Query, b'{"host":"192.0.2.1"}'),
    "priority": (lambda s: s.flow.packet_priority(), ms.Query, PRIORITY),
    "rate asked": (lambda s: s.flow.rate_bps(), ms.Query, b"5"),
    "congested": (lambda s: s.flow.wait_congested(), ms.Notify, b"null"),
    "uncongested": (lambda s: s.flow.wait_uncongested(), ms.Notify, b"null"),
    "available": (lambda s: s.flow.wait_available(5), ms.Notify, b"null"),
    # What is wrong with an argument comes after what is wrong with the handle, which is asked.
    "wrong rate": (lambda s: refused(s.flow.set_rate(1.5)), ms.Check, b"null"),  # type: ignore[arg-type]
    "wrong type": (lambda s: refused(s.flow.set_traffic_type(9)), ms.Check, b"null"),  # type: ignore[arg-type]
    "wrong wait": (lambda s: refused(s.flow.wait_available("x")), ms.Check, b"null"),  # type: ignore[arg-type]
}


async def refused(call: Coroutine[Any, Any, object]) -> None:
    with pytest.raises(qw.InvalidParameter):
        await call


@pytest.mark.parametrize("name", CALLS)
def test_the_loop_goes_on_while_a_service_is_asked(stage: Stage, name: str) -> None:
    call, kind, value = CALLS[name]
    stage.far.replies[kind] = None

    async def body() -> None:
        calling = asyncio.create_task(call(stage))
        await until(lambda: bool(stage.far.asked))
        # The loop came round to this, and the call is not answered.
        assert not calling.done()
        (request,) = stage.far.asked
        assert type(request) is kind
        stage.far.answer(request.id, value)
        await calling

    run(body)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("moment", ["before the answer", "after it", "twice"])
def test_a_cancelled_call_leaves_nothing(stage: Stage, name: str, moment: str) -> None:
    call, kind, value = CALLS[name]
    is_made = kind is ms.AddSocket and name == "add"
    stage.far.replies[kind] = None
    if is_made:
        stage.far.flows.add(9)

    async def body() -> None:
        calling = asyncio.create_task(call(stage))
        await until(lambda: bool(stage.far.asked))
        request = stage.far.asked[0]
        if moment == "after it":
            stage.far.answer(request.id, value)
            # The thread has its answer, and the loop does not come round to take it.
            time.sleep(0.02)  # noqa: ASYNC251 - that is the point
        calling.cancel()
        if moment == "before the answer":
            # The loop goes on, and the task ends when it is known what became of the call.
            await asyncio.sleep(0.005)
            assert not calling.done()
            stage.far.answer(request.id, value)
        if moment == "twice":
            await asyncio.sleep(0.001)
            calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        if moment == "before the answer" and is_made:
            assert stage.far.flows == set()
        if moment == "twice":
            stage.far.answer(request.id, value)

    # The loop's end waits for its threads.
    run(body)
    stage.far.await_until(lambda: stage.far.flows == stage.far.pending == set())


@pytest.mark.parametrize("name", ["rate", "fundamentals", "congested", "available"])
def test_a_cancelled_wait_is_withdrawn(stage: Stage, name: str) -> None:
    call, kind, _ = CALLS[name]
    stage.far.replies[kind] = "pending"

    async def body() -> None:
        waiting = asyncio.create_task(call(stage))
        await until(lambda: bool(stage.far.pending))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(body)
    stage.far.await_until(lambda: stage.far.pending == set())


def test_a_request_that_is_postponed_after_it_was_cancelled(stage: Stage) -> None:
    stage.far.replies[ms.SetRate] = None

    async def body() -> None:
        setting = asyncio.create_task(stage.flow.set_rate(5))
        await until(lambda: bool(stage.far.asked))
        setting.cancel()
        await asyncio.sleep(0.001)
        request = stage.far.asked[0]
        stage.far.pending.add(request.id)
        stage.far.send(ms.encode_packet(ms.Pending(request.id)))
        with pytest.raises(asyncio.CancelledError):
            await setting

    run(body)
    stage.far.await_until(lambda: stage.far.pending == set())


def test_a_loop_that_ends_leaves_nothing(stage: Stage) -> None:
    stage.far.replies[ms.Notify] = "pending"

    async def body() -> None:
        waiting = asyncio.create_task(stage.flow.wait_congested())
        await until(lambda: bool(stage.far.pending))
        assert not waiting.done()

    run(body)
    stage.far.await_until(lambda: stage.far.pending == set())


def test_a_timeout_withdraws(stage: Stage) -> None:
    stage.far.replies[ms.Notify] = "pending"

    async def body() -> None:
        with pytest.raises(qw.TimedOut):
            await stage.flow.wait_congested(0.01)
        stage.far.await_until(lambda: stage.far.pending == set())

    run(body)


def test_a_notice_in_the_moment_of_the_timeout_wins(stage: Stage) -> None:
    stage.far.replies[ms.Notify] = "pending"

    stage.far.replies[ms.Cancel] = LATE

    async def body() -> None:
        waiting = asyncio.create_task(stage.flow.wait_congested(0.01))
        await until(lambda: len(stage.far.asked) == 2)
        notify, cancel = stage.far.asked
        assert isinstance(cancel, ms.Cancel)
        # It has completed, which the program is told after this was refused; the loop goes on.
        await asyncio.sleep(0.005)
        assert not waiting.done()
        stage.far.answer(notify.id)
        await waiting

    run(body)


def test_a_handle_that_is_lost_while_tasks_wait(stage: Stage) -> None:
    stage.far.replies[ms.Notify] = "pending"

    async def body() -> None:
        waiting = [
            asyncio.create_task(stage.flow.wait_congested()),
            asyncio.create_task(stage.flow.wait_available(5)),
        ]
        await until(lambda: len(stage.far.pending) == 2)
        stage.far.hang_up()
        for task in waiting:
            with pytest.raises(qw.OperationAborted):
                await task
        with pytest.raises(qw.ReinitializationNeeded):
            await stage.flow.set_dscp(1)
        await stage.flow.close()
        await stage.qos.close()

    run(body)


# -- opening ------------------------------------------------------------------------------------


def test_the_loop_goes_on_while_a_handle_is_opened(listen: Callable[..., Listener]) -> None:
    listener = listen(WELCOME)

    async def body() -> None:
        async with aio.open(service=True) as qos:
            assert qos.backend.name == "service"
            await qos.track("192.0.2.1")

    run(body)
    assert listener.is_over.wait(PATIENCE_S)


def test_a_handle_that_is_opened_for_nobody_is_closed(
    listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = listen(WELCOME)
    dial = dialing.dial
    reached: list[object] = []

    def slow(path: str) -> object:
        reached.append(path)
        # Until the task that opens it is cancelled.
        time.sleep(0.02)
        return dial(path)

    monkeypatch.setattr(dialing, "dial", slow)

    async def body() -> None:
        opened = asyncio.ensure_future(aio.open(service=True))
        await until(lambda: bool(reached))
        opened.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opened

    run(body)
    assert listener.is_over.wait(PATIENCE_S)


def test_reopening(place: str, sockets: Bench) -> None:
    sock = sockets.make("udp4 connected")

    async def body() -> None:
        async with aio.open() as qos:
            old = await qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
            subsystem().tell(lambda engine, now_ns: engine.receive_interruption(now_ns=now_ns))
            with pytest.raises(qw.ReinitializationNeeded):
                await old.packet_priority()
            await qos.reopen()
            assert qos.backend.name == place
            assert sock.getsockopt(0, 1) == 0
            with pytest.raises(qw.InvalidHandle):
                await old.packet_priority()
            await old.close()
            async with await qos.add_socket(
                sock, traffic_type=qw.TrafficType.VOICE, adaptive=False
            ) as fresh:
                assert (await fresh.packet_priority()).conformant_dscp == 56

    run(body)


def test_a_handle_that_cannot_be_reopened(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if place == "embedded":
        return

    async def body() -> None:
        qos = await aio.open(service=True)
        monkeypatch.setenv("QWAVE_SOCKET", "/nowhere")
        with pytest.raises(qw.ServiceUnavailable):
            await qos.reopen()
        with contextlib.suppress(qw.InvalidHandle):
            await qos.track("192.0.2.1")
        await qos.close()

    run(body)

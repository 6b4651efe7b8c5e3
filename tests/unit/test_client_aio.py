"""The face for asyncio: the same, with tasks."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest

import openqwave as qw
from openqwave import aio
from openqwave.model.estimates import PathView
from tests.unit.driven import endpoint, view
from tests.unit.loopback import UNPACED, Bench, options_of, pacing_of
from tests.unit.places import place, subsystem

HERE = endpoint("127.0.0.1", 0)
VOICE = qw.TrafficType.VOICE
PATIENCE_S = 20.0

__all__ = ["place"]


def see(seen: PathView | None) -> None:
    subsystem().receive_path_view(HERE, seen)


@pytest.fixture(autouse=True)
def measured(place: str) -> Iterator[None]:
    """The path to 127.0.0.1 as if somebody measured it."""
    del place
    see(view())
    yield
    see(None)


def run(body: Callable[[aio.Qos], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine with a handle, in a loop that complains of what blocks or is left."""

    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), aio.open() as qos:
            await body(qos)

    asyncio.run(main(), debug=True)


async def pending(flow: aio.Flow, waiting: asyncio.Task[Any]) -> None:
    """Give a task its turn until its request is pending on the flow."""
    for _ in range(100):
        await asyncio.sleep(0)
        if waiting.done():
            break
        try:
            await flow.wait_congested(0)
        except qw.AlreadyExists:
            return
        except qw.TimedOut:
            continue
    pytest.fail(f"nothing pending: {waiting}")


# For programs with an event loop of their own; here the loop is asyncio's.
FOREIGN = {"fileno", "completed", "when_available", "when_congested", "when_uncongested"}


def test_the_names_are_those_of_the_blocking_face() -> None:
    for ours, theirs in ((aio.Qos, qw.Qos), (aio.Flow, qw.Flow)):
        public = {name for name in vars(theirs) if not name.startswith("_")} - FOREIGN
        missing = public - {name for name in vars(ours) if not name.startswith("_")}
        assert missing == set()
        for name in public:
            call = getattr(theirs, name)
            if not inspect.isfunction(call):
                continue
            mine = getattr(ours, name)
            assert (
                inspect.signature(call).parameters.keys()
                == inspect.signature(mine).parameters.keys()
            )


def test_flows(sockets: Bench, place: str) -> None:
    sock, second = sockets.make("tcp4 connected"), sockets.make("udp4 connected")

    async def body(qos: aio.Qos) -> None:
        async with await qos.add_socket(sock, traffic_type=VOICE, adaptive=False) as flow:
            assert options_of(sock).tos == 56 << 2
            await flow.add_socket(second)
            await flow.remove_socket(second)
            await flow.set_traffic_type(qw.TrafficType.BACKGROUND)
            assert options_of(sock).tos == 8 << 2
            assert (await flow.packet_priority()).conformant_dscp == 8
            await flow.set_rate(8_000_000)
            assert await flow.rate_bps() == 8_000_000
            assert pacing_of(sock) < UNPACED
            assert flow.pacer().reserve(1, now_ns=10**9) == 0
        assert (options_of(sock).tos, pacing_of(sock)) == (0, UNPACED)
        assert qos.backend.name == place

    run(body)


def test_a_transports_socket() -> None:
    async def body(qos: aio.Qos) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("127.0.0.1", 9)
        )
        sock = transport.get_extra_info("socket")
        flow = await qos.add_socket(sock, traffic_type=VOICE, adaptive=False)
        assert sock.getsockopt(0, 1) == 56 << 2
        await flow.close()
        assert sock.getsockopt(0, 1) == 0
        transport.close()
        await asyncio.sleep(0)

    run(body)


def test_awaiting_instead_of_entering(sockets: Bench) -> None:
    sock = sockets.make("udp4 connected")

    async def main() -> None:
        qos = await aio.open()
        await qos.add_socket(sock, traffic_type=VOICE, adaptive=False)
        assert options_of(sock).tos == 56 << 2
        await qos.close()
        async with qos:
            pass

    asyncio.run(main(), debug=True)
    assert options_of(sock).tos == 0


def test_an_exception_unmarks(sockets: Bench) -> None:
    sock = sockets.make("udp4 connected")

    async def body(qos: aio.Qos) -> None:
        await qos.add_socket(sock, traffic_type=VOICE, adaptive=False)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(body)
    assert options_of(sock).tos == 0


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda qos, _: qos.add_socket(-1), qw.InvalidParameter),
        (lambda qos, _: qos.track("0.0.0.0"), qw.InvalidParameter),  # noqa: S104
        (lambda qos, _: qos.untrack("127.0.0.1"), qw.InvalidParameter),
        (lambda _, flow: flow.rate_bps(), qw.NoData),
        (lambda _, flow: flow.fundamentals(), qw.NoData),
        (lambda _, flow: flow.set_dscp(64), qw.InvalidParameter),
        (lambda _, flow: flow.set_rate(-1), qw.InvalidParameter),
        (lambda _, flow: flow.remove_socket(-1), qw.InvalidParameter),
        (lambda _, flow: flow.wait_available(0), qw.InvalidParameter),
    ],
)
def test_errors(
    sockets: Bench,
    call: Callable[[aio.Qos, aio.Flow], Awaitable[object]],
    error: type[qw.QosError],
) -> None:
    async def body(qos: aio.Qos) -> None:
        flow = await qos.add_socket(sockets.make("udp4 connected"))
        with pytest.raises(error):
            await call(qos, flow)

    run(body)


@pytest.mark.parametrize("place", ["embedded"], indirect=True)
def test_service_wanted() -> None:
    async def main() -> None:
        with pytest.raises(qw.ServiceUnavailable):
            await aio.open(service=True)
        with pytest.raises(qw.ServiceUnavailable):
            await aio.open(service=True).__aenter__()

    asyncio.run(main())


def test_tracking() -> None:
    async def body(qos: aio.Qos) -> None:
        await qos.track("127.0.0.1")
        await qos.untrack("127.0.0.1")
        with pytest.raises(qw.InvalidParameter):
            await qos.untrack("127.0.0.1")

    run(body)


# -- waiting --------------------------------------------------------------------------


def test_waiting(sockets: Bench) -> None:
    async def body(qos: aio.Qos) -> None:
        flow = await qos.add_socket(sockets.make("udp4 connected"))
        waiting = [
            asyncio.create_task(flow.wait_congested()),
            asyncio.create_task(flow.wait_available(5)),
        ]
        await pending(flow, waiting[0])
        see(view(is_congested=True, available_bps=5))
        await waiting[0]
        assert not waiting[1].done()
        see(view(is_congested=False, available_bps=5))
        await waiting[1]
        await flow.wait_uncongested()

    run(body)


def test_told_from_another_thread(sockets: Bench) -> None:
    async def body(qos: aio.Qos) -> None:
        flow = await qos.add_socket(sockets.make("udp4 connected"))
        waiting = asyncio.create_task(flow.wait_congested())
        await pending(flow, waiting)
        await asyncio.to_thread(see, view(is_congested=True))
        await waiting

    run(body)


@pytest.mark.parametrize("timeout_s", [0, 0.01])
def test_a_timeout_cancels_the_operation(sockets: Bench, timeout_s: float) -> None:
    async def body(qos: aio.Qos) -> None:
        flow = await qos.add_socket(sockets.make("udp4 connected"))
        for _ in range(2):
            with pytest.raises(qw.TimedOut):
                await flow.wait_congested(timeout_s)
        see(view(is_congested=True))
        await flow.wait_congested(timeout_s)

    run(body)


def test_an_outer_timeout_cancels_the_operation(sockets: Bench) -> None:
    async def body(qos: aio.Qos) -> None:
        flow = await qos.add_socket(sockets.make("udp4 connected"))
        with pytest.raises(TimeoutError) as caught:
            await asyncio.wait_for(flow.wait_congested(), 0.01)
        assert not isinstance(caught.value, qw.QosError), "it is the caller's own timeout"
        with pytest.raises(qw.TimedOut):
            await flow.wait_congested(0)

    run(body)


def test_cancelling_a_task_cancels_the_operation(sockets: Bench) -> None:
    async def body(qos: aio.Qos) -> None:
        flow = await qos.add_socket(sockets.make("udp4 connected"))
        waiting = asyncio.create_task(flow.wait_congested())
        await pending(flow, waiting)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        # It would be ERROR_ALREADY_EXISTS if the operation were still pending.
        with pytest.raises(qw.TimedOut):
            await flow.wait_congested(0)

    run(body)


def test_a_cancelled_task_group_leaves_nothing_pending(sockets: Bench) -> None:
    async def body(qos: aio.Qos) -> None:
        flow = await qos.add_socket(sockets.make("udp4 connected"))

        async def fail() -> None:
            await asyncio.sleep(0)
            raise ZeroDivisionError

        async def together() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(flow.wait_congested())
                group.create_task(flow.wait_available(9))
                group.create_task(fail())

        with pytest.raises(ExceptionGroup):
            await together()
        for wait in (flow.wait_congested(0), flow.wait_available(9, 0)):
            with pytest.raises(qw.TimedOut):
                await wait

    run(body)


@pytest.mark.parametrize("how", ["flow", "handle"])
def test_the_end_aborts(sockets: Bench, how: str) -> None:
    async def body(qos: aio.Qos) -> None:
        flow = await qos.add_socket(sockets.make("udp4 connected"))
        waiting = asyncio.create_task(flow.wait_congested())
        await pending(flow, waiting)
        await (flow.close() if how == "flow" else qos.close())
        with pytest.raises(qw.OperationAborted):
            await waiting

    run(body)


def test_notices(sockets: Bench) -> None:
    # Every turn of the path, beginning with the first congestion.
    async def body(qos: aio.Qos) -> None:
        flow = await qos.add_socket(sockets.make("udp4 connected"))
        see(view(is_congested=False))
        seen: list[qw.NoticeKind] = []
        changed = asyncio.Event()

        async def turn(now: PathView) -> None:
            changed.clear()
            see(now)
            await changed.wait()

        async def watch() -> None:
            async for kind in flow.notices():
                seen.append(kind)
                changed.set()

        watching = asyncio.create_task(watch())
        await pending(flow, watching)
        await turn(view(is_congested=True))
        # No turn: nothing is known, then it is congested still.
        see(view())
        see(view(is_congested=True))
        await turn(view(is_congested=False))
        await turn(view(is_congested=True))
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching
        congested, uncongested = qw.NoticeKind.CONGESTED, qw.NoticeKind.UNCONGESTED
        assert seen == [congested, uncongested, congested]
        # Leaving the loop leaves nothing pending.
        see(view())
        with pytest.raises(qw.TimedOut):
            await flow.wait_congested(0)

    run(body)


def test_closing_the_notices(sockets: Bench) -> None:
    async def body(qos: aio.Qos) -> None:
        flow = await qos.add_socket(sockets.make("udp4 connected"))
        see(view(is_congested=True))
        notices = flow.notices()
        assert await anext(notices) is qw.NoticeKind.CONGESTED
        assert inspect.isasyncgen(notices)
        await notices.aclose()
        plain = await qos.add_socket(sockets.make("udp4 connected"), adaptive=False)
        with pytest.raises(qw.NotSupported):
            await anext(plain.notices())

    run(body)


def test_notices_end_with_the_flow(sockets: Bench) -> None:
    async def body(qos: aio.Qos) -> None:
        flow = await qos.add_socket(sockets.make("udp4 connected"))

        async def watch() -> None:
            async for _ in flow.notices():
                pytest.fail("nothing happened")

        watching = asyncio.create_task(watch())
        await pending(flow, watching)
        await flow.close()
        with pytest.raises(qw.OperationAborted):
            await watching

    run(body)


def test_a_loop_that_ends_while_somebody_waits(sockets: Bench) -> None:
    # asyncio.run cancels what is left; nothing of it may stay pending in the subsystem.
    sock = sockets.make("udp4 connected")

    async def main() -> aio.Qos:
        qos = await aio.open()
        flow = await qos.add_socket(sock)
        task = asyncio.create_task(flow.wait_congested())
        await pending(flow, task)
        return qos

    qos = asyncio.run(main())
    see(view(is_congested=True))
    asyncio.run(qos.close())
    assert options_of(sock).tos == 0

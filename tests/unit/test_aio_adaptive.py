"""The face for asyncio where it has to wait: rates, fresh numbers, turns of the path.

Nothing is measured: what is known of the path to 127.0.0.1, the tests say.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import openqwave as qw
from openqwave import aio
from openqwave.model.estimates import Congestion, Fundamentals, PathView
from openqwave.runtime.session import Session
from tests.unit.driven import endpoint, view
from tests.unit.loopback import Bench, options_of, pacing_of
from tests.unit.places import place, subsystem

HERE = endpoint("127.0.0.1", 0)
MBIT = 1_000_000
PATIENCE_S = 20.0

__all__ = ["place"]


def see(seen: PathView | None) -> None:
    subsystem().receive_path_view(HERE, seen)


def turn(is_congested: bool | None) -> None:
    now = Congestion(is_congested)
    subsystem().tell(lambda engine, now_ns: engine.receive_congestion(HERE, now, now_ns=now_ns))


def measured_now(available_bps: int) -> PathView:
    return PathView(Fundamentals(available_bps=available_bps), since_ns=time.monotonic_ns())


@pytest.fixture(autouse=True)
def measured(place: str) -> Iterator[None]:
    """The path to 127.0.0.1 as if somebody measured it, with nothing found yet."""
    del place
    see(view())
    yield
    see(None)


def run(body: Callable[[aio.Flow], Coroutine[Any, Any, None]], sockets: Bench) -> None:
    """Run a coroutine with an adaptive flow; a loop that complains of what blocks or is left."""
    sock = sockets.make("tcp4 connected")

    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), aio.open() as qos:
            await body(await qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE))

    asyncio.run(main(), debug=True)
    assert options_of(sock).tos == 0


def pending_count() -> int:
    return subsystem().look(lambda engine: len(engine._pending))  # noqa: SLF001 - no other way to see that nothing is left


async def pending(count: int, *waiting: asyncio.Task[Any]) -> None:
    """Give tasks their turns until so many requests are pending."""
    while pending_count() != count:
        for task in waiting:
            if task.done():
                task.result()
        await asyncio.sleep(0.001)


# -- rates ----------------------------------------------------------------------------


def test_a_rate_waits_for_what_it_needs(sockets: Bench) -> None:
    async def body(flow: aio.Flow) -> None:
        setting = asyncio.create_task(flow.set_rate(5 * MBIT))
        await pending(1, setting)
        see(view(available_bps=5 * MBIT))
        await setting
        assert await flow.rate_bps() == 5 * MBIT
        with pytest.raises(qw.NetworkBusy):
            await flow.set_rate(11 * MBIT)

    run(body, sockets)


def test_a_rate_that_is_refused_later(sockets: Bench) -> None:
    async def body(flow: aio.Flow) -> None:
        setting = asyncio.create_task(flow.set_rate(5 * MBIT))
        await pending(1, setting)
        see(view(available_bps=5 * MBIT - 1))
        with pytest.raises(qw.NetworkBusy):
            await setting
        with pytest.raises(qw.NoData):
            await flow.rate_bps()

    run(body, sockets)


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_a_cancelled_rate_is_withdrawn(
    sockets: Bench, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancels: list[object] = []
    cancel = Session.cancel
    monkeypatch.setattr(
        Session, "cancel", lambda session, request: cancels.append(cancel(session, request))
    )

    async def body(flow: aio.Flow) -> None:
        setting = asyncio.create_task(flow.set_rate(5 * MBIT))
        await pending(1, setting)
        if how == "cancel":
            setting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await setting
        else:
            with pytest.raises(TimeoutError) as caught:
                await asyncio.wait_for(setting, 0.001)
            assert not isinstance(caught.value, qw.QosError), "it is the caller's own timeout"
        # The other thread may have something to do with it yet; no limit has ended it.
        await pending(0)
        assert None in cancels
        see(view(available_bps=5 * MBIT))
        with pytest.raises(qw.NoData):
            await flow.rate_bps()

    run(body, sockets)


class Gate:
    """Holds up `Session.set_rate` in the thread that makes it, before or after its work."""

    def __init__(self, patch: pytest.MonkeyPatch, *, is_after: bool) -> None:
        self.is_reached, self.may_go_on = threading.Event(), threading.Event()
        work = Session.set_rate

        def set_rate(*args: Any, **named: Any) -> Any:  # noqa: ANN401 - as it is
            answer = work(*args, **named) if is_after else None
            self.is_reached.set()
            self.may_go_on.wait(PATIENCE_S)
            return answer or work(*args, **named)

        patch.setattr(Session, "set_rate", set_rate)


# The thread cannot be stopped, and its request must not be left behind, to be granted later.
@pytest.mark.parametrize("moment", ["before it asked", "after it asked", "when it was done"])
def test_cancelling_while_the_other_thread_asks(
    sockets: Bench, monkeypatch: pytest.MonkeyPatch, moment: str, place: str
) -> None:
    gate = Gate(monkeypatch, is_after=moment != "before it asked")
    sock = sockets.make("tcp4 connected")

    async def main() -> aio.Qos:
        qos = await aio.open()
        flow = await qos.add_socket(sock)
        setting = asyncio.create_task(flow.set_rate(5 * MBIT))
        await asyncio.to_thread(gate.is_reached.wait, PATIENCE_S)
        if moment == "when it was done":
            gate.may_go_on.set()
            # Its answer waits for this loop, which does not come round.
            time.sleep(0.05)  # noqa: ASYNC251 - that is the point
        setting.cancel()
        if place == "service":
            # A task ends when a service has answered what it asked.
            gate.may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await setting
        gate.may_go_on.set()
        return qos

    # The loop's end waits for its threads; the handle is still open.
    qos = asyncio.run(main())
    assert pending_count() == 0
    before = pacing_of(sock)
    see(view(available_bps=5 * MBIT))
    assert pacing_of(sock) == before
    asyncio.run(qos.close())


def test_a_loop_that_ends_while_a_rate_waits(sockets: Bench) -> None:
    sock = sockets.make("tcp4 connected")

    async def main() -> aio.Qos:
        qos = await aio.open()
        flow = await qos.add_socket(sock)
        setting = asyncio.create_task(flow.set_rate(5 * MBIT))
        await pending(1, setting)
        return qos

    qos = asyncio.run(main(), debug=True)
    assert pending_count() == 0
    before = pacing_of(sock)
    see(view(available_bps=5 * MBIT))
    assert pacing_of(sock) == before
    asyncio.run(qos.close())


# -- fresh numbers --------------------------------------------------------------------


def test_fresh_numbers(sockets: Bench) -> None:
    async def body(flow: aio.Flow) -> None:
        see(measured_now(MBIT))
        asking = asyncio.create_task(flow.fundamentals(fresh=True))
        await pending(1, asking)
        see(view(available_bps=2 * MBIT))
        await asyncio.sleep(0)
        assert not asking.done()
        assert (await flow.fundamentals()).available_bps == 2 * MBIT
        see(measured_now(3 * MBIT))
        assert (await asking).available_bps == 3 * MBIT

    run(body, sockets)


def test_cancelled_fresh_numbers(sockets: Bench) -> None:
    async def body(flow: aio.Flow) -> None:
        asking = [asyncio.create_task(flow.fundamentals(fresh=True)) for _ in range(2)]
        await pending(2, *asking)
        asking[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking[0]
        await pending(1)
        see(measured_now(3 * MBIT))
        assert (await asking[1]).available_bps == 3 * MBIT

    run(body, sockets)


# -- notices --------------------------------------------------------------------------


def test_turns_of_the_path(sockets: Bench) -> None:
    async def body(flow: aio.Flow) -> None:
        turns: asyncio.Queue[qw.NoticeKind] = asyncio.Queue()

        async def consume() -> None:
            async for notice in flow.notices():
                await turns.put(notice)

        consuming = asyncio.create_task(consume())
        await pending(1, consuming)
        for _ in range(4):
            for is_congested, notice in (
                (True, qw.NoticeKind.CONGESTED),
                (False, qw.NoticeKind.UNCONGESTED),
            ):
                await pending(1, consuming)
                # From another thread, as the surveyor does.
                await asyncio.to_thread(turn, is_congested)
                assert await turns.get() is notice
                # Told again and again it is no turn.
                turn(is_congested)
        await pending(1, consuming)
        consuming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consuming
        assert turns.empty()
        # A service is told by another thread.
        await pending(0)

    run(body, sockets)


def test_turns_that_nobody_waited_for_are_one(sockets: Bench) -> None:
    # A consumer that is busy hears where the path is now, not each turn that it missed.
    async def body(flow: aio.Flow) -> None:
        notices = flow.notices()
        turn(True)
        assert await anext(notices) is qw.NoticeKind.CONGESTED
        for is_congested in (False, True, False):
            turn(is_congested)
        assert await anext(notices) is qw.NoticeKind.UNCONGESTED
        following = asyncio.ensure_future(anext(notices))
        await pending(1)
        assert not following.done()
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
        # A service is told by another thread.
        await pending(0)

    run(body, sockets)


def test_two_tasks_wait_for_different_kinds(sockets: Bench) -> None:
    async def body(flow: aio.Flow) -> None:
        turn(False)
        congested = asyncio.create_task(flow.wait_congested())
        available = asyncio.create_task(flow.wait_available(5 * MBIT))
        rate = asyncio.create_task(flow.set_rate(4 * MBIT))
        await pending(3, congested, available, rate)
        with pytest.raises(qw.AlreadyExists):
            await flow.wait_congested()
        turn(True)
        await congested
        assert not available.done()
        assert not rate.done()
        # Nothing of a congested path is free; then 4 of 8 are taken, and it may be raised.
        see(view(is_congested=False, available_bps=8 * MBIT))
        await rate
        await available
        await flow.set_rate(5 * MBIT)

    run(body, sockets)


@pytest.mark.parametrize("kind", qw.NoticeKind, ids=lambda kind: kind.name)
def test_timeouts_leave_nothing(sockets: Bench, kind: qw.NoticeKind) -> None:
    async def body(flow: aio.Flow) -> None:
        waits: dict[qw.NoticeKind, Callable[[float], Coroutine[Any, Any, None]]] = {
            qw.NoticeKind.CONGESTED: flow.wait_congested,
            qw.NoticeKind.UNCONGESTED: flow.wait_uncongested,
            qw.NoticeKind.AVAILABLE: lambda timeout_s: flow.wait_available(MBIT, timeout_s),
        }
        for timeout_s in (0, 0.02):
            began_s = time.monotonic()
            with pytest.raises(qw.TimedOut):
                await waits[kind](timeout_s)
            assert time.monotonic() - began_s >= timeout_s
            # A service is told by another thread.
        await pending(0)

    run(body, sockets)

"""The Python face for asyncio: the same names as coroutines.

Inside the process, calls that only touch a socket's options take microseconds and are made in the
loop's thread. Setting a rate may ask the kernel about interfaces for milliseconds and is made in
another thread, as is every call to the service, which somebody else may keep busy. Waiting is a
pending operation whose answer the loop is told of; when the waiting task is cancelled, so is the
operation. A task that is cancelled while another thread calls for it leaves nothing behind.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar, cast

from openqwave.client import sync
from openqwave.client.withdrawing import in_thread, leave, to_the_end
from openqwave.model.errors import Refusal, TimedOut
from openqwave.model.flow import NoticeKind, RateReason, Shaping, TrafficType
from openqwave.runtime.pending import Pending
from openqwave.subsystem.requests import Question

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator

    from openqwave.client.addresses import Address, Host
    from openqwave.client.pacer import Pacer
    from openqwave.client.session import AnySession
    from openqwave.drivers.sockets import SocketLike
    from openqwave.model.estimates import Fundamentals
    from openqwave.model.flow import PacketPriority
    from openqwave.model.path import PathStatus
    from openqwave.model.traffic import FlowTraffic

_T = TypeVar("_T")


def open(*, embedded: bool = False, service: bool = False) -> Opening:  # noqa: A001 - as sync.open
    """Open a handle, to be awaited or entered with ``async with``.

    Args:
        embedded: Insist on the engine inside this process.
        service: Insist on the service.

    Raises:
        ServiceUnavailable: ERROR_SERVICE_DEPENDENCY_FAIL, when awaited.
    """
    return Opening(embedded=embedded, service=service)


class Opening:
    """A handle that is about to be opened."""

    def __init__(self, *, embedded: bool, service: bool) -> None:
        self._embedded = embedded
        self._service = service
        self._opened: Qos | None = None

    def __await__(self) -> Generator[None, None, Qos]:
        return self._open().__await__()

    async def _open(self) -> Qos:
        # To connect may take seconds, if a service starts by it.
        opening = partial(sync.open, embedded=self._embedded, service=self._service)
        return Qos(await in_thread(opening, sync.Qos.close, is_quick=False))

    async def __aenter__(self) -> Qos:
        self._opened = await self
        return self._opened

    async def __aexit__(self, *_: object) -> None:
        if self._opened is not None:
            await self._opened.close()


class Qos:
    """One handle; see `openqwave.client.sync.Qos` for every call.

    Attributes:
        backend: Where the subsystem runs, and why.
    """

    def __init__(self, handle: sync.Qos) -> None:
        self._handle = handle
        self.backend = handle.backend

    async def add_socket(
        self,
        sock: SocketLike,
        destination: Address | None = None,
        *,
        traffic_type: TrafficType = TrafficType.BEST_EFFORT,
        adaptive: bool = True,
    ) -> Flow:
        """Make a flow of a socket's traffic to one destination.

        A transport's socket does: ``transport.get_extra_info("socket")``.
        """
        session = self._handle.session
        add = partial(
            self._handle.add_socket,
            sock,
            destination,
            traffic_type=traffic_type,
            adaptive=adaptive,
        )
        flow = await _call(session, add, lambda made: session.remove_socket(made.id, None))
        return Flow(flow)

    async def flow_ids(self) -> tuple[int, ...]:
        """The ids of all flows of the subsystem, ascending."""
        return await _call(self._handle.session, self._handle.flow_ids)

    async def track(self, host: Host) -> None:
        """Begin light experiments on the path to a host."""
        await _call(self._handle.session, partial(self._handle.track, host))

    async def untrack(self, host: Host) -> None:
        """Lose the interest in a path."""
        await _call(self._handle.session, partial(self._handle.untrack, host))

    async def reopen(self) -> None:
        """Open the handle anew after it was lost; flows made before have ended."""
        try:
            await in_thread(self._handle.reopen, is_quick=False)
        finally:
            self.backend = self._handle.backend

    async def close(self) -> None:
        """End the handle and its flows."""
        await _call(self._handle.session, self._handle.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Flow:
    """One flow; see `openqwave.client.sync.Flow` for every call.

    Attributes:
        id: Its number.
    """

    def __init__(self, flow: sync.Flow) -> None:
        self._flow = flow
        self.id = flow.id

    async def add_socket(self, sock: SocketLike, destination: Address | None = None) -> None:
        """Let another socket, or another destination of the same, join the flow."""
        await self._call(partial(self._flow.add_socket, sock, destination))

    async def remove_socket(self, sock: SocketLike) -> None:
        """Take a socket out; the flow ends with its last one."""
        await self._call(partial(self._flow.remove_socket, sock))

    async def close(self) -> None:
        """End the flow."""
        await self._call(self._flow.close)

    async def set_traffic_type(self, traffic_type: TrafficType) -> None:
        """Change what the flow carries, and so its marks."""
        await self._call(partial(self._flow.set_traffic_type, traffic_type))

    async def set_rate(
        self,
        rate_bps: int | None,
        *,
        shaping: Shaping = Shaping.SHAPE_AND_MARK,
        reason: RateReason = RateReason.NOT_APPLICABLE,
        self_paced: bool = False,
    ) -> None:
        """Ask for a rate; cancelling the task that waits for experiments withdraws it."""
        session = self._flow.session

        def ask() -> Refusal | Pending | None:
            wanted_bps = (
                None if rate_bps is None else sync.whole(session, rate_bps, "a rate in bit/s")
            )
            excess = sync.member_of(session, Shaping, shaping)
            why = sync.member_of(session, RateReason, reason)
            return session.set_rate(self.id, wanted_bps, excess, why, is_self_paced=self_paced)

        answer = await in_thread(ask, self._withdraw, is_quick=session.is_local)
        await self._finish(answer, None)

    async def set_dscp(self, dscp: int) -> None:
        """Mark with one exact code point."""
        await self._call(partial(self._flow.set_dscp, dscp))

    async def fundamentals(self, *, fresh: bool = False) -> Fundamentals:
        """What is known of the path; `fresh` waits for what is measured after the call."""
        session = self._flow.session
        ask = partial(session.query, self.id, Question.FUNDAMENTALS, is_fresh=fresh)
        answer = await _call(session, ask, self._withdraw)
        return cast("Fundamentals", await self._finish(answer, None))

    async def path(self) -> PathStatus:
        """Everything that is believed of the path."""
        return await self._call(self._flow.path)

    async def packet_priority(self) -> PacketPriority:
        """The marks that are really applied."""
        return await self._call(self._flow.packet_priority)

    async def rate_bps(self) -> int:
        """The contract's rate."""
        return await self._call(self._flow.rate_bps)

    async def traffic(self) -> FlowTraffic:
        """What the kernel counted of the flow."""
        return await self._call(self._flow.traffic)

    async def wait_congested(self, timeout_s: float | None = None) -> None:
        """Wait until the path is congested."""
        await self._wait(NoticeKind.CONGESTED, None, timeout_s)

    async def wait_uncongested(self, timeout_s: float | None = None) -> None:
        """Wait until the path is not congested."""
        await self._wait(NoticeKind.UNCONGESTED, None, timeout_s)

    async def wait_available(self, rate_bps: int, timeout_s: float | None = None) -> None:
        """Wait until the flow could be raised to a rate."""
        await self._wait(NoticeKind.AVAILABLE, rate_bps, timeout_s)

    async def notices(self) -> AsyncIterator[NoticeKind]:
        """Every turn of the path, congested and uncongested, beginning with the first congestion.

        Raises:
            NotSupported: The path cannot be measured, or the flow is not adaptive.
            OperationAborted: The flow or its handle ended.
        """
        kind = NoticeKind.CONGESTED
        while True:
            await self._wait(kind, None, None)
            yield kind
            kind = NoticeKind.UNCONGESTED if kind is NoticeKind.CONGESTED else NoticeKind.CONGESTED

    def pacer(self, rate_bps: int | None = None) -> Pacer:
        """A pacer for a sender that holds itself to a rate.

        Without a rate the contract's is asked for, which holds up the loop for a round trip where
        the service is asked; ``await flow.rate_bps()`` does not.
        """
        return self._flow.pacer(rate_bps)

    async def _wait(self, kind: NoticeKind, rate_bps: int | None, timeout_s: float | None) -> None:
        session = self._flow.session

        def ask() -> Refusal | Pending | None:
            wanted_bps = (
                None if rate_bps is None else sync.whole(session, rate_bps, "a rate in bit/s")
            )
            return session.notify(self.id, kind, wanted_bps)

        await self._finish(await _call(session, ask, self._withdraw), timeout_s)

    async def _finish(self, answer: _T | Refusal | Pending, timeout_s: float | None) -> _T:
        """The value of an answer, waited for; whoever stops waiting withdraws the request."""
        session = self._flow.session
        if not isinstance(answer, Pending):
            return sync.value_of(answer)
        cancel = partial(session.cancel, answer.request_id)
        waiting = asyncio.wrap_future(answer.future)
        try:
            # Unlike asyncio.timeout, this is not confused by cancellations that the task has
            # survived, which Python before 3.11.3 counts wrongly.
            await asyncio.wait([waiting], timeout=timeout_s)
        except asyncio.CancelledError:
            if session.is_local:
                cancel()
            else:
                await to_the_end(cancel)
            raise
        if not waiting.done():
            if not isinstance(await _call(session, cancel), Refusal):
                raise TimedOut(f"not so within {timeout_s} s")
            # A notice that comes in the moment of the timeout wins, and is on its way.
            await asyncio.wait([waiting])
        return cast("_T", sync.value_of(answer.future.result()))

    def _withdraw(self, answer: object) -> None:
        """Cancel a request that nobody will wait for."""
        if isinstance(answer, Pending):
            self._flow.session.cancel(answer.request_id)

    async def _call(self, call: Callable[[], _T]) -> _T:
        return await _call(self._flow.session, call)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _call(
    session: AnySession, call: Callable[[], _T], undo: Callable[[_T], object] = leave
) -> _T:
    """Make a call that takes microseconds, unless it is another process that is called."""
    if session.is_local:
        return call()
    return await in_thread(call, undo, is_quick=False)

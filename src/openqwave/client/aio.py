"""The Python face for asyncio: the same names as coroutines.

Calls that only touch a socket's options take microseconds and are made in the loop's
thread. Setting a rate may ask the kernel about interfaces for milliseconds and is made in
another thread. Waiting is a pending operation whose answer the loop is told of; when the
waiting task is cancelled, so is the operation.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Self, TypeVar, cast

from openqwave.client import sync
from openqwave.model.errors import Refusal, TimedOut
from openqwave.model.flow import NoticeKind, RateReason, Shaping, TrafficType
from openqwave.runtime.pending import Pending
from openqwave.subsystem.notices import ABORTED
from openqwave.subsystem.requests import Question

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator

    from openqwave.client.addresses import Address, Host
    from openqwave.client.pacer import Pacer
    from openqwave.drivers.sockets import SocketLike
    from openqwave.model.estimates import Fundamentals
    from openqwave.model.flow import PacketPriority
    from openqwave.model.path import PathStatus
    from openqwave.runtime.session import Session

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
        return Qos(sync.open(embedded=self._embedded, service=self._service))

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
        return Flow(
            self._handle.add_socket(sock, destination, traffic_type=traffic_type, adaptive=adaptive)
        )

    async def flow_ids(self) -> tuple[int, ...]:
        """The ids of all flows of the subsystem, ascending."""
        return self._handle.flow_ids()

    async def track(self, host: Host) -> None:
        """Begin light experiments on the path to a host."""
        self._handle.track(host)

    async def untrack(self, host: Host) -> None:
        """Lose the interest in a path."""
        self._handle.untrack(host)

    async def close(self) -> None:
        """End the handle and its flows."""
        self._handle.close()

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
        self._flow.add_socket(sock, destination)

    async def remove_socket(self, sock: SocketLike) -> None:
        """Take a socket out; the flow ends with its last one."""
        self._flow.remove_socket(sock)

    async def close(self) -> None:
        """End the flow."""
        self._flow.close()

    async def set_traffic_type(self, traffic_type: TrafficType) -> None:
        """Change what the flow carries, and so its marks."""
        self._flow.set_traffic_type(traffic_type)

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
        if rate_bps is not None:
            rate_bps = sync.whole(session, rate_bps, "a rate in bit/s")
        excess = sync.member_of(session, Shaping, shaping)
        why = sync.member_of(session, RateReason, reason)
        asking = _Asking(
            session,
            lambda: session.set_rate(self.id, rate_bps, excess, why, is_self_paced=self_paced),
        )
        try:
            answer = await asyncio.to_thread(asking.ask)
        except asyncio.CancelledError:
            asking.withdraw()
            raise
        await self._finish(answer, None)

    async def set_dscp(self, dscp: int) -> None:
        """Mark with one exact code point."""
        self._flow.set_dscp(dscp)

    async def fundamentals(self, *, fresh: bool = False) -> Fundamentals:
        """What is known of the path; `fresh` waits for what is measured after the call."""
        session = self._flow.session
        answer = session.query(self.id, Question.FUNDAMENTALS, is_fresh=fresh)
        return cast("Fundamentals", await self._finish(answer, None))

    async def path(self) -> PathStatus:
        """Everything that is believed of the path."""
        return self._flow.path()

    async def packet_priority(self) -> PacketPriority:
        """The marks that are really applied."""
        return self._flow.packet_priority()

    async def rate_bps(self) -> int:
        """The contract's rate."""
        return self._flow.rate_bps()

    async def wait_congested(self, timeout_s: float | None = None) -> None:
        """Wait until the path is congested."""
        await self._wait(NoticeKind.CONGESTED, None, timeout_s)

    async def wait_uncongested(self, timeout_s: float | None = None) -> None:
        """Wait until the path is not congested."""
        await self._wait(NoticeKind.UNCONGESTED, None, timeout_s)

    async def wait_available(self, rate_bps: int, timeout_s: float | None = None) -> None:
        """Wait until the flow could be raised to a rate."""
        wanted_bps = sync.whole(self._flow.session, rate_bps, "a rate in bit/s")
        await self._wait(NoticeKind.AVAILABLE, wanted_bps, timeout_s)

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
        """A pacer for a sender that holds itself to a rate."""
        return self._flow.pacer(rate_bps)

    async def _wait(self, kind: NoticeKind, rate_bps: int | None, timeout_s: float | None) -> None:
        await self._finish(self._flow.session.notify(self.id, kind, rate_bps), timeout_s)

    async def _finish(self, answer: _T | Refusal | Pending, timeout_s: float | None) -> _T:
        """The value of an answer, waited for; whoever stops waiting withdraws the request."""
        session: Session = self._flow.session
        if not isinstance(answer, Pending):
            return sync.value_of(answer)
        waiting = asyncio.wrap_future(answer.future)
        try:
            # Unlike asyncio.timeout, this is not confused by cancellations that the task has
            # survived, which Python before 3.11.3 counts wrongly.
            await asyncio.wait([waiting], timeout=timeout_s)
        except asyncio.CancelledError:
            session.cancel(answer.request_id)
            raise
        # A notice that comes in the moment of the timeout wins: then nothing is pending.
        if not waiting.done() and not isinstance(session.cancel(answer.request_id), Refusal):
            raise TimedOut(f"not so within {timeout_s} s")
        return cast("_T", sync.value_of(answer.future.result()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Asking:
    """A request that another thread makes, and that may be withdrawn meanwhile.

    The thread goes on when the task that waits for it is cancelled, and nobody takes its answer.
    It leaves the answer before it looks whether that is still wanted, and whoever withdraws says
    so before looking for the answer: one of the two finds the other.
    """

    def __init__(self, session: Session, request: Callable[[], Refusal | Pending | None]) -> None:
        self._session = session
        self._request = request
        self._answer: Refusal | Pending | None = None
        self._withdrawn = threading.Event()

    def ask(self) -> Refusal | Pending | None:
        """Make the request; in the other thread."""
        if self._withdrawn.is_set():
            return ABORTED
        self._answer = self._request()
        if self._withdrawn.is_set():
            self._cancel()
        return self._answer

    def withdraw(self) -> None:
        """Want no answer any more; in the task's."""
        self._withdrawn.set()
        self._cancel()

    def _cancel(self) -> None:
        if isinstance(self._answer, Pending):
            self._session.cancel(self._answer.request_id)

"""The Python face, blocking: `open`, `Qos`, `Flow`.

Every call that fails raises a `QosError` of the class that goes with its Win32 code and
changes nothing.
"""

from __future__ import annotations

from concurrent.futures import TimeoutError as FutureTimeout
from enum import IntEnum
from functools import partial
from operator import index
from typing import TYPE_CHECKING, Self, TypeVar, cast

from openqwave.client.addresses import Address, Host, endpoint_of, host_of
from openqwave.client.completions import Completions
from openqwave.client.opening import open_session
from openqwave.client.pacer import Pacer
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import QosError, Refusal, TimedOut, error_of
from openqwave.model.estimates import Fundamentals
from openqwave.model.flow import NoticeKind, PacketPriority, RateReason, Shaping, TrafficType
from openqwave.runtime.pending import Pending
from openqwave.subsystem.requests import Question

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from openqwave.client.opening import Backend
    from openqwave.client.session import AnySession
    from openqwave.drivers.sockets import SocketLike
    from openqwave.model.path import PathStatus
    from openqwave.model.traffic import FlowTraffic
    from openqwave.runtime.session import FlowAnswer

# What the subsystem says of a flow that is no more.
_ENDED_ALREADY = frozenset(
    {
        ErrorCode.ERROR_NOT_FOUND,
        ErrorCode.ERROR_INVALID_HANDLE,
        ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED,
    }
)

_T = TypeVar("_T")
_E = TypeVar("_E", bound=IntEnum)


def value_of(result: _T | Refusal) -> _T:
    """The value of an answer; raises what was refused."""
    if isinstance(result, Refusal):
        raise error_of(result)
    return result


def open(*, embedded: bool = False, service: bool = False) -> Qos:  # noqa: A001 - the face's name
    """Open a handle to the subsystem.

    It is the service's if one answers at ``QWAVE_SOCKET``, or where the service's unit listens,
    ``/run/qwave/qwaved.sock``; else the engine inside this process does the same as far as an
    ordinary user can. An empty ``QWAVE_SOCKET`` means that no service is wanted.

    Args:
        embedded: Insist on the engine inside this process.
        service: Insist on the service.

    Returns:
        The handle; close it, or use it in a ``with`` statement. Its `backend` says which it is,
        and why.

    Raises:
        ServiceUnavailable: ERROR_SERVICE_DEPENDENCY_FAIL.
        NoSystemResources: This process holds too many handles.
    """
    opener = partial(open_session, embedded=embedded, service=service)
    return Qos(*opener(), opener=opener)


class Qos:
    """One handle; everything made through it ends with it.

    Attributes:
        backend: Where the subsystem runs, and why.
        session: The handle's calls below this face.
    """

    def __init__(
        self,
        session: AnySession,
        backend: Backend,
        *,
        opener: Callable[[], tuple[AnySession, Backend]] = open_session,
    ) -> None:
        self.session = session
        self.backend = backend
        self._opener = opener
        self._completions = Completions()

    def add_socket(
        self,
        sock: SocketLike,
        destination: Address | None = None,
        *,
        traffic_type: TrafficType = TrafficType.BEST_EFFORT,
        adaptive: bool = True,
    ) -> Flow:
        """Make a flow of a socket's traffic to one destination (QOSAddSocketToFlow).

        Args:
            sock: A TCP or UDP socket, or its file number.
            destination: (host, port); None for a connected socket's peer.
            traffic_type: What the flow carries.
            adaptive: True: nothing changes on the wire until a rate is admitted.
                False: marked from now on; more sockets and destinations can join.

        Raises:
            InvalidParameter: No socket, or a destination that does not fit it.
            NotSupported: Neither TCP nor UDP; or the socket is in a flow of other marks.
            HostUnreachable: No route leads there.
            NoSystemResources: A quota is used up.
        """
        kind = member_of(self.session, TrafficType, traffic_type)
        target = None if destination is None else endpoint_of(destination)
        result = self.session.add_socket(0, sock, target, kind, is_adaptive=adaptive)
        return Flow(self.session, value_of(result), self._completions)

    def flow_ids(self) -> tuple[int, ...]:
        """The ids of all flows of the subsystem, ascending (QOSEnumerateFlows).

        Raises:
            AccessDenied: The caller is no administrator.
        """
        return value_of(self.session.enumerate_flows())

    def track(self, host: Host) -> None:
        """Begin light experiments on the path to a host (QOSStartTrackingClient).

        Raises:
            InvalidParameter: No address of one host.
            HostUnreachable: No route leads there.
            NotSupported: The path cannot be measured.
        """
        value_of(self.session.start_tracking(host_of(host)))

    def untrack(self, host: Host) -> None:
        """Lose the interest in a path (QOSStopTrackingClient).

        Raises:
            InvalidParameter: The host is not tracked.
        """
        value_of(self.session.stop_tracking(host_of(host)))

    def fileno(self) -> int:
        """A file number for select, epoll and the like.

        It is readable when operations that were begun with `Flow.when_available`,
        `Flow.when_congested` or `Flow.when_uncongested` have completed; `completed` gives them.
        It is the same one until the handle is closed, and is not to be read or closed.

        Raises:
            InvalidHandle: The handle is closed.
            OSError: There is no file number to be had.
        """
        return self._completions.fileno()

    def completed(self) -> list[Future[None]]:
        """The operations that have completed since the last call; never waits.

        Each comes once, those that were cancelled too, if the program still holds it.
        """
        return self._completions.take()

    def reopen(self) -> None:
        """Open the handle anew after it was lost (ReinitializationNeeded).

        The old handle is closed, whatever its state, and a new one is opened by the same choice
        as the first: `backend` may be another one now. Nothing is added again. Flows of the old
        handle have ended: their calls raise InvalidHandle, and closing them does nothing; tracked
        hosts are forgotten. The file number stays.

        Raises:
            ServiceUnavailable: The service was insisted on, and there is none; the handle is
                closed then, and may be opened again later.
            NoSystemResources: Too many handles are open.
        """
        self.session.close()
        self.session, self.backend = self._opener()

    def close(self) -> None:
        """End the handle and its flows; sockets get their own options back.

        Closing twice is harmless.
        """
        self.session.close()
        self._completions.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Flow:
    """One flow; ends with `close`, its handle, or its last socket.

    Attributes:
        id: Its number, as the Windows face has it.
        session: The handle's calls below this face.
    """

    def __init__(
        self, session: AnySession, flow_id: int, completions: Completions | None = None
    ) -> None:
        self.session = session
        self.id = flow_id
        self._completions = completions or Completions()

    def add_socket(self, sock: SocketLike, destination: Address | None = None) -> None:
        """Let another socket, or another destination of the same, join the flow.

        Raises:
            InvalidParameter: The flow is adaptive, or as for `Qos.add_socket`.
            NotSupported: As for `Qos.add_socket`.
            HostUnreachable: No route leads there.
            NoSystemResources: A quota is used up.
        """
        target = None if destination is None else endpoint_of(destination)
        # A flow that is joined keeps its traffic type; the argument is not looked at.
        kind = TrafficType.BEST_EFFORT
        value_of(self.session.add_socket(self.id, sock, target, kind, is_adaptive=False))

    def remove_socket(self, sock: SocketLike) -> None:
        """Take a socket out; the flow ends with its last one (QOSRemoveSocketFromFlow).

        Raises:
            FlowNotFound: The flow has ended.
            InvalidParameter: The socket is not in the flow.
        """
        refusal = self.session.remove_socket(self.id, sock)
        if refusal is not None:
            raise error_of(refusal)

    def close(self) -> None:
        """End the flow; one that has ended already, itself or with its handle, is left at that.

        Raises:
            DeviceError: The kernel refused to give a socket's options back.
        """
        refusal = self.session.remove_socket(self.id, None)
        if refusal is not None and refusal.code not in _ENDED_ALREADY:
            raise error_of(refusal)

    def set_traffic_type(self, traffic_type: TrafficType) -> None:
        """Change what the flow carries, and so its marks; cancels an exact DSCP.

        Raises:
            FlowNotFound: The flow has ended.
            NotSupported: The socket is in another flow too, whose marks would differ.
        """
        value_of(
            self.session.set_traffic_type(
                self.id, member_of(self.session, TrafficType, traffic_type)
            )
        )

    def set_rate(
        self,
        rate_bps: int | None,
        *,
        shaping: Shaping = Shaping.SHAPE_AND_MARK,
        reason: RateReason = RateReason.NOT_APPLICABLE,
        self_paced: bool = False,
    ) -> None:
        """Ask for a rate; once granted, traffic is treated accordingly.

        Args:
            rate_bps: Bits per second with IP and transport headers; 0 ends the contract
                and with it marking; None asks for the policy's small default share.
            shaping: What happens to the excess.
            reason: Why it changes.
            self_paced: The program holds itself to the rate, for instance with `pacer`: the rate
                is admitted and the packets are marked, and nothing delays them. For UDP where
                the kernel has no means to.

        On a path of which too little is known yet the call waits for experiments, two seconds
        by the default policy.

        Raises:
            NetworkBusy: The path cannot carry it; a contract in force stays.
            RetryLater: Not enough was found out of the path in time.
            HostUnreachable: The host is gone.
            UnexpectedNetworkError: The experiments broke off.
            DisabledByPolicy: No rate is granted there.
            NotSupported: The excess cannot be treated so here.
            FlowNotFound: The flow has ended.
            InvalidParameter: The rate is out of range.
        """
        if rate_bps is not None:
            rate_bps = whole(self.session, rate_bps, "a rate in bit/s")
        excess = member_of(self.session, Shaping, shaping)
        why = member_of(self.session, RateReason, reason)
        answer = self.session.set_rate(self.id, rate_bps, excess, why, is_self_paced=self_paced)
        value_of(self.session.finish(answer))

    def set_dscp(self, dscp: int) -> None:
        """Mark with one exact code point.

        Args:
            dscp: 0 to 63.

        Raises:
            AccessDenied: Needs an administrator or the operators' group.
            NotSupported: The flow is adaptive.
            InvalidParameter: Out of range.
            FlowNotFound: The flow has ended.
        """
        value_of(self.session.set_dscp(self.id, whole(self.session, dscp, "a DSCP")))

    def fundamentals(self, *, fresh: bool = False) -> Fundamentals:
        """What is known of the path: capacity, available bandwidth, round-trip time.

        What is said to be available is free beyond what flows hold, this one included; a rate
        up to it and what this flow holds is granted if it is asked for at once.

        Args:
            fresh: Wait for numbers that are measured after the call.

        Raises:
            NotSupported: The path cannot be measured.
            NoData: Nothing is known yet.
            RetryLater: Nothing can be said yet, or nothing fresh was to be had in time.
            TimedOut: The experiments have not found out anything.
            FlowNotFound: The flow has ended.
        """
        return cast("Fundamentals", self._ask(Question.FUNDAMENTALS, is_fresh=fresh))

    def path(self) -> PathStatus:
        """Everything that is believed of the path, with its age and its doubts.

        Raises:
            NotSupported: The flow is not adaptive.
            FlowNotFound: The flow has ended.
        """
        return cast("PathStatus", self._ask(Question.PATH))

    def packet_priority(self) -> PacketPriority:
        """The marks that are really applied.

        Raises:
            FlowNotFound: The flow has ended.
        """
        return cast("PacketPriority", self._ask(Question.PACKET_PRIORITY))

    def rate_bps(self) -> int:
        """The contract's rate.

        Raises:
            NoData: No rate is set.
            FlowNotFound: The flow has ended.
        """
        return cast("int", self._ask(Question.OUTGOING_RATE))

    def traffic(self) -> FlowTraffic:
        """What the kernel counted of the flow: packets and bytes, within the contract and above.

        Raises:
            NotSupported: Nothing counts them: marks are by options of the socket.
            FlowNotFound: The flow has ended.
        """
        return cast("FlowTraffic", self._ask(Question.TRAFFIC))

    def wait_congested(self, timeout_s: float | None = None) -> None:
        """Wait until the path is congested; see `wait_available`."""
        self._wait(NoticeKind.CONGESTED, None, timeout_s)

    def wait_uncongested(self, timeout_s: float | None = None) -> None:
        """Wait until the path is not congested; see `wait_available`."""
        self._wait(NoticeKind.UNCONGESTED, None, timeout_s)

    def wait_available(self, rate_bps: int, timeout_s: float | None = None) -> None:
        """Wait until the flow could be raised to a rate.

        Args:
            rate_bps: Above the present contract.
            timeout_s: How long to wait; None for ever.

        Raises:
            TimedOut: The time is over; the operation is cancelled.
            NotSupported: The path cannot be measured, or the flow is not adaptive.
            InvalidParameter: The rate is not above the present contract.
            AlreadyExists: Somebody waits for the same on this flow.
            OperationAborted: The flow or its handle ended.
            FlowNotFound: The flow has ended.
        """
        wanted_bps = whole(self.session, rate_bps, "a rate in bit/s")
        self._wait(NoticeKind.AVAILABLE, wanted_bps, timeout_s)

    def when_available(self, rate_bps: int) -> Future[None]:
        """Begin to wait until the flow could be raised to a rate, and return at once.

        Args:
            rate_bps: Above the present contract.

        Returns:
            A future that completes when it is so. What `wait_available` raises, its `result`
            does; its `cancel` withdraws the operation. The handle's `Qos.fileno` tells of its
            completion. Callbacks of the future are called by the thread that learns of it.

        Raises:
            InvalidParameter: The rate is no whole number.
        """
        wanted_bps = whole(self.session, rate_bps, "a rate in bit/s")
        return self._begin(NoticeKind.AVAILABLE, wanted_bps)

    def when_congested(self) -> Future[None]:
        """Begin to wait until the path is congested; see `when_available`."""
        return self._begin(NoticeKind.CONGESTED, None)

    def when_uncongested(self) -> Future[None]:
        """Begin to wait until the path is not congested; see `when_available`."""
        return self._begin(NoticeKind.UNCONGESTED, None)

    def pacer(self, rate_bps: int | None = None) -> Pacer:
        """A pacer for a sender that holds itself to a rate.

        Args:
            rate_bps: The rate; None for the contract's.

        Raises:
            NoData: No rate is given and none is set.
        """
        return Pacer(self.rate_bps() if rate_bps is None else rate_bps)

    def _ask(self, question: Question, *, is_fresh: bool = False) -> FlowAnswer:
        session = self.session
        asked = session.query(self.id, question, is_fresh=is_fresh)
        return cast("FlowAnswer", value_of(session.finish(asked)))

    def _begin(self, kind: NoticeKind, rate_bps: int | None) -> Future[None]:
        session = self.session
        return self._completions.begin(session, lambda: session.notify(self.id, kind, rate_bps))

    def _wait(self, kind: NoticeKind, rate_bps: int | None, timeout_s: float | None) -> None:
        answer = self.session.notify(self.id, kind, rate_bps)
        if not isinstance(answer, Pending):
            value_of(answer)
            return
        try:
            result = answer.future.result(timeout_s)
        except FutureTimeout:
            if not isinstance(self.session.cancel(answer.request_id), Refusal):
                raise TimedOut(f"not so within {timeout_s} s") from None
            # The notice came in this very moment, and wins.
            result = answer.future.result()
        except BaseException:
            self.session.cancel(answer.request_id)
            raise
        value_of(result)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def member_of(session: AnySession, kind: type[_E], value: int) -> _E:
    """A member of an enumeration, from itself or its number.

    Raises:
        InvalidHandle: The handle is closed, which comes before everything else.
        InvalidParameter: There is no such member.
    """
    if type(value) is kind:
        return value
    try:
        return kind(value)
    except ValueError as error:
        raise _bad_argument(session, str(error)) from None


def whole(session: AnySession, value: int, what: str) -> int:
    """A number without a fraction; anything else would be cut off silently further down.

    Raises:
        InvalidHandle: The handle is closed, which comes before everything else.
        InvalidParameter: It is not an integer.
    """
    try:
        return index(value)
    except TypeError:
        raise _bad_argument(session, f"{what} is a whole number, not {value!r}") from None


def _bad_argument(session: AnySession, detail: str) -> QosError:
    """What is wrong with an argument; but a handle that is closed comes first."""
    return error_of(session.refuse() or Refusal(ErrorCode.ERROR_INVALID_PARAMETER, detail))

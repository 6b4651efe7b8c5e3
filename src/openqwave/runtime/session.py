"""One handle, as calls: where arguments become requests.

This is the edge of the engine. What has to be asked of the kernel before the engine can
judge (the socket, the route, the caller's credentials) is asked here; what was wrong
travels inside the request, so that the engine reports errors in the contract's order.
Results are values, refusals included; the Python faces raise them, the Windows face turns
them into numbers.

The engine's answers are typed by their request; the casts here say which answer goes with
which request, once, for all faces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias, TypeVar, cast

from openqwave.drivers.credentials import own_credentials
from openqwave.drivers.routes import refuse_route
from openqwave.drivers.sockets import own_namespace
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Fundamentals, Unmeasurable
from openqwave.model.flow import PacketPriority
from openqwave.model.path import PathFacts, PathStatus
from openqwave.runtime.pending import Pending, finish
from openqwave.subsystem import requests as rq
from openqwave.subsystem.destinations import refuse_host

if TYPE_CHECKING:
    from openqwave.admission.rights import Credentials
    from openqwave.drivers.sockets import SocketLike
    from openqwave.model.flow import NoticeKind, RateReason, Shaping, TrafficType
    from openqwave.model.sockets import SocketFacts
    from openqwave.model.traffic import FlowTraffic
    from openqwave.runtime.runtime import Runtime


# What the questions about a flow are answered with.
FlowAnswer: TypeAlias = "Fundamentals | PacketPriority | PathStatus | FlowTraffic | int"


_T = TypeVar("_T")


class Caller(Protocol):
    """Whose calls they are, in the kernel's words."""

    def credentials(self) -> Credentials:
        """What rights are judged by, now."""

    def namespace(self) -> int:
        """The kernel's name for the network namespace the caller is in."""


class ThisProcess:
    """The caller of a subsystem that is inside its own process."""

    def credentials(self) -> Credentials:
        """See `Caller.credentials`."""
        return own_credentials()

    def namespace(self) -> int:
        """See `Caller.namespace`."""
        return own_namespace()


_THIS_PROCESS = ThisProcess()


class Session:
    """One handle of a subsystem.

    Attributes:
        handle_id: Its number.
        is_local: Always true: the engine is in this process.
    """

    is_local: ClassVar[bool] = True

    __slots__ = ("_caller", "_host", "handle_id")

    def __init__(self, host: Runtime, handle_id: int, caller: Caller = _THIS_PROCESS) -> None:
        self._host = host
        self.handle_id = handle_id
        self._caller = caller

    def refuse(self) -> Refusal | None:
        """Is the handle fit for use? None means yes."""
        return self._host.refuse_handle(self.handle_id)

    def add_socket(
        self,
        flow_id: int,
        sock: SocketLike,
        destination: Endpoint | Refusal | None,
        traffic_type: TrafficType,
        *,
        is_adaptive: bool,
    ) -> int | Refusal:
        """Put a socket into a flow; the value is the flow's id."""
        facts = self._host.directory.describe(sock)
        if isinstance(facts, Refusal):
            request = rq.AddSocket(flow_id, facts, destination, traffic_type, is_adaptive, None)
            return cast("Refusal", self._host.submit(self.handle_id, request))
        # A connected socket was given its route when it was connected.
        route = (
            refuse_route(destination, namespace=facts.namespace, interface=facts.interface)
            if facts.peer is None and isinstance(destination, Endpoint)
            else None
        )
        path = self._path(facts, destination) if is_adaptive and route is None else None
        request = rq.AddSocket(flow_id, facts, destination, traffic_type, is_adaptive, route, path)
        result = self._host.submit(self.handle_id, request, (facts.cookie, sock))
        return cast("int | Refusal", result)

    def _path(self, facts: SocketFacts, destination: Endpoint | Refusal | None) -> rq.Found | None:
        """The way that an adaptive flow's packets take."""
        target = destination or facts.peer
        # A handle that is closed looks for nothing, and opens nothing for it.
        if (
            self.refuse() is not None
            or target is None
            or isinstance(target, Refusal)
            or target.is_unspecified
        ):
            return None
        # A connected socket's is not asked for; it is the caller's, if it is not a stranger's.
        namespace = facts.namespace or self._caller.namespace()
        found = self._host.find_path(target.unmapped(), namespace, facts.interface)
        if facts.interface and isinstance(found, PathFacts):
            usual = self._host.find_path(target.unmapped(), namespace)
            if not isinstance(usual, PathFacts) or usual.interface != found.interface:
                return Unmeasurable(
                    "the socket is bound to an interface that experiments do not use",
                    is_of_caller=True,
                )
        return found

    def remove_socket(self, flow_id: int, sock: SocketLike | None) -> Refusal | None:
        """Take a socket out of a flow; None takes them all and ends the flow."""
        if sock is None:
            result = self._host.submit(self.handle_id, rq.RemoveSocket(flow_id, None))
            return cast("Refusal | None", result)
        cookie = self._host.directory.cookie_of(sock)
        brought = (cookie, sock) if type(cookie) is int else None
        request = rq.RemoveSocket(flow_id, cookie)
        result = self._host.submit(self.handle_id, request, brought)
        return cast("Refusal | None", result)

    def set_traffic_type(self, flow_id: int, traffic_type: TrafficType) -> Refusal | None:
        """Change the flow's traffic type."""
        result = self._host.submit(self.handle_id, rq.SetTrafficType(flow_id, traffic_type))
        return cast("Refusal | None", result)

    def set_rate(
        self,
        flow_id: int,
        rate_bps: int | None,
        shaping: Shaping,
        reason: RateReason,
        *,
        is_overlapped: bool = False,
        is_self_paced: bool = False,
    ) -> Refusal | Pending | None:
        """Change the flow's contract; pending while too little is known of the path."""
        request = rq.SetRate(flow_id, rate_bps, shaping, reason, is_overlapped, is_self_paced)
        result = self._limited(self._host.submit(self.handle_id, request))
        return cast("Refusal | Pending | None", result)

    def set_dscp(self, flow_id: int, dscp: int) -> Refusal | None:
        """Mark the flow with one exact code point."""
        result = self._host.submit(
            self.handle_id, rq.SetDscp(flow_id, dscp, self._caller.credentials())
        )
        return cast("Refusal | None", result)

    def query(
        self,
        flow_id: int,
        question: rq.Question,
        *,
        is_fresh: bool = False,
        is_overlapped: bool = False,
    ) -> FlowAnswer | Refusal | Pending:
        """Ask about a flow; pending while what was asked for afresh is measured."""
        request = rq.QueryFlow(
            flow_id, question, self._caller.credentials(), is_fresh, is_overlapped
        )
        result = self._limited(self._host.submit(self.handle_id, request))
        return cast("FlowAnswer | Refusal | Pending", result)

    def notify(
        self, flow_id: int, kind: NoticeKind, rate_bps: int | None
    ) -> Refusal | Pending | None:
        """Be told once when a condition holds."""
        result = self._host.submit(self.handle_id, rq.NotifyFlow(flow_id, kind, rate_bps))
        return cast("Refusal | Pending | None", result)

    def _limited(self, result: _T | Pending) -> _T | Pending | Refusal:
        """Have somebody see to it that a request waits for no longer than it may."""
        if not isinstance(result, Pending):
            return result
        try:
            self._host.see_to_timers()
        except BaseException as error:
            is_withdrawn = self.cancel(result.request_id) is None
            if not isinstance(error, OSError | RuntimeError):
                raise
            if is_withdrawn:
                return Refusal(
                    ErrorCode.ERROR_NO_SYSTEM_RESOURCES, f"nobody can wait for the path: {error}"
                )
        return result

    def finish(self, result: _T | Refusal | Pending) -> _T | Refusal:
        """The result, waited for; a program that is interrupted leaves no request behind."""
        return finish(result, self.cancel)

    def start_tracking(self, host: Endpoint | Refusal) -> Refusal | None:
        """Take an interest in the path to a host."""
        route: Refusal | None = None
        path: rq.Found | None = None
        if not isinstance(host, Refusal) and refuse_host(host) is None and self.refuse() is None:
            path = self._host.find_path(host, self._caller.namespace())
            route = refuse_route(host)
            if isinstance(path, Refusal) and path.code is ErrorCode.ERROR_HOST_UNREACHABLE:
                route = route or path
        result = self._host.submit(self.handle_id, rq.StartTracking(host, route, path))
        return cast("Refusal | None", result)

    def stop_tracking(self, host: Endpoint | Refusal) -> Refusal | None:
        """Lose the interest."""
        result = self._host.submit(self.handle_id, rq.StopTracking(host))
        return cast("Refusal | None", result)

    def enumerate_flows(self) -> tuple[int, ...] | Refusal:
        """The ids of all flows, ascending."""
        result = self._host.submit(self.handle_id, rq.EnumerateFlows(self._caller.credentials()))
        return cast("tuple[int, ...] | Refusal", result)

    def cancel(self, request_id: int) -> Refusal | None:
        """Abort a pending request of this handle."""
        result = self._host.submit(self.handle_id, rq.Cancel(request_id))
        return cast("Refusal | None", result)

    def close(self) -> Refusal | None:
        """End the handle and everything made through it."""
        result = self._host.submit(self.handle_id, rq.CloseHandle())
        return cast("Refusal | None", result)

"""The engine: one input and the time in, a list of effects out.

The engine is driven by five things: a request, the outcome of an `Apply`, sockets that
turned out to be gone, a new view of a path, an interruption (the machine slept). It
reads no clock, opens nothing and calls nobody; the same engine sits inside the library
and inside the service.

A request that needs the kernel takes two steps. The first changes the registry, and
answers `Apply` with the desired state; the second, `receive_applied`, either keeps the
change and answers, or undoes it and answers why. Between the two the engine accepts
nothing else, because the kernel work is a handful of system calls that the driver does
at once; asking in between is the driver's mistake and raises RuntimeError.

Checks go in the order of the contract: handle, flow id, rights, state. What the caller's
edge found wrong with a socket, an address or a route is reported in its turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from openqwave.admission.rights import refuse_enumeration, refuse_exact_dscp
from openqwave.model.codes import DSCP_MAX, ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.flow import Contract, PacketPriority
from openqwave.model.value import value
from openqwave.subsystem import requests as rq
from openqwave.subsystem.destinations import captured_destination
from openqwave.subsystem.effects import Answer, Applied, Apply, Effect, SocketPlan, Value
from openqwave.subsystem.flows import Flow, Marking, Settings, plain_settings
from openqwave.subsystem.notices import Notices
from openqwave.subsystem.registry import Handle, Registry
from openqwave.subsystem.tracking import Tracking

if TYPE_CHECKING:
    from collections.abc import Iterable

    from openqwave.admission.policy import Policy
    from openqwave.model.endpoint import Endpoint
    from openqwave.model.estimates import PathView

# Rates travel as 64-bit unsigned numbers.
_MAX_RATE_BPS = (1 << 64) - 1


@value
class _Change:
    """A registry change that waits for the kernel.

    `flow_id` names the flow that the caller believes in: should all its sockets turn out
    to be gone, the caller must hear so. `is_final` marks what cannot be refused any more.
    """

    cookies: tuple[int, ...]
    value: Value
    flow_id: int = 0
    is_final: bool = False


@value
class _Waiting:
    """The request stays open until a later input answers it."""


_WAITING: Final = _Waiting()

_Outcome: TypeAlias = "_Change | _Waiting | Refusal | Value"


def _no(code: ErrorCode, detail: str) -> Refusal:
    return Refusal(code, detail)


def _no_flow(flow_id: int) -> Refusal:
    return _no(ErrorCode.ERROR_NOT_FOUND, f"no flow {flow_id} belongs to this handle")


class Engine:
    """Handles, flows, contracts, operations; see the module's text for how to drive it."""

    def __init__(self, policy: Policy, *, first_flow_id: int = 1) -> None:
        """Start with nothing.

        Args:
            policy: The administrator's decisions.
            first_flow_id: Where flow ids start; embedded engines start apart from each
                other so that one process's id is not by chance another's.
        """
        self._policy = policy
        self._registry = Registry(policy, first_flow_id)
        self._notices = Notices(self._registry)
        self._tracking = Tracking(self._notices, policy.limits)
        self._open_change: tuple[int | None, _Change] | None = None
        # Answers to other requests than the one at hand, and flows whose waiting requests
        # become such answers once the change that ends them is kept.
        self._answers: list[Answer] = []
        self._ending: list[Flow] = []

    # -- inputs ---------------------------------------------------------------------

    def open_handle(self, owner: int) -> int | Refusal:
        """Begin a client's connection.

        Args:
            owner: The process, as the driver names it.

        Returns:
            The handle's id, or ERROR_NO_SYSTEM_RESOURCES.
        """
        if len(self._registry.handles_of(owner)) >= self._policy.limits.handles:
            return _no(
                ErrorCode.ERROR_NO_SYSTEM_RESOURCES,
                f"this process holds {self._policy.limits.handles} handles already; close some",
            )
        return self._registry.open_handle(owner).handle_id

    def receive_request(
        self, request_id: int, handle_id: int, request: rq.Request, *, now_ns: int
    ) -> list[Effect]:
        """One request of a client.

        Args:
            request_id: The driver's name for it; `Answer` carries it back.
            handle_id: Through which handle.
            request: What is asked.
            now_ns: Monotonic time.

        Returns:
            Effects to carry out in order.
        """
        self._require_settled()
        handle = self._registry.handles.get(handle_id)
        if handle is None or handle.is_lost:
            if handle is not None and type(request) is rq.CloseHandle:
                return self._begin(request_id, self._close(handle, now_ns))
            return self._begin(request_id, self.refuse_handle(handle_id))
        return self._begin(request_id, self._handle(request_id, handle, request, now_ns))

    def refuse_handle(self, handle_id: int) -> Refusal | None:
        """Is the handle fit for use? None means yes."""
        handle = self._registry.handles.get(handle_id)
        if handle is None:
            return _no(ErrorCode.ERROR_INVALID_HANDLE, "the handle is closed or was never open")
        if handle.is_lost:
            return _no(
                ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED,
                "the handle was lost to a suspend or a restart: close it and open a new one",
            )
        return None

    def receive_applied(self, outcome: Applied | Refusal) -> list[Answer]:
        """How the kernel took the plan of the last `Apply`; brings answers and nothing else."""
        if self._open_change is None:
            raise RuntimeError("an outcome came without a plan")
        request_id, change = self._open_change
        self._open_change = None
        if isinstance(outcome, Applied):
            return self._settle(request_id, change, outcome.gone)
        if change.is_final:
            return self._settle(request_id, change, frozenset())
        return self._answer(request_id, outcome)

    def abandon(self) -> tuple[SocketPlan, ...]:
        """Undo the change at hand, after the driver was interrupted in the middle of it.

        Returns:
            What is wanted of the sockets concerned now, to be applied once more.
        """
        opened, self._open_change = self._open_change, None
        self._registry.roll_back()
        self._ending.clear()
        cookies = () if opened is None else opened[1].cookies
        return tuple([self._registry.plan(cookie) for cookie in dict.fromkeys(cookies)])

    def receive_sockets_gone(self, cookies: Iterable[int]) -> list[Answer]:
        """Sockets that the application closed; flows that held only them end."""
        self._require_settled()
        for cookie in cookies:
            self._forget_socket(cookie)
        return self._flush()

    def receive_path_view(self, host: Endpoint, view: PathView | None) -> list[Answer]:
        """What is known of the path to a host now; None when it can no longer be measured."""
        self._require_settled()
        return [*self._notices.receive_view(host, view)]

    def receive_interruption(self) -> list[Effect]:
        """The machine slept: every handle is lost, every flow ends."""
        self._require_settled()
        cookies: list[int] = []
        for handle in self._registry.handles.values():
            handle.is_lost = True
            for flow in tuple(handle.flows.values()):
                cookies += self._end(flow)
        return self._begin(None, _Change(tuple(cookies), None, is_final=True))

    def sockets(self) -> tuple[int, ...]:
        """The cookies of all sockets in flows, for a driver that looks after the closed."""
        return self._registry.sockets()

    def holds(self, cookie: int) -> bool:
        """Is the socket in a flow?"""
        return bool(self._registry.flows_of_socket(cookie))

    def handle_ids(self) -> tuple[int, ...]:
        """All open handles, for a driver that ends."""
        return tuple(self._registry.handles)

    def _require_settled(self) -> None:
        if self._open_change is not None:
            raise RuntimeError("an input came before the last plan's outcome")

    # -- the two steps of a change --------------------------------------------------

    def _begin(self, request_id: int | None, outcome: _Outcome) -> list[Effect]:
        """From a handler's outcome to effects."""
        if isinstance(outcome, _Change):
            if not outcome.cookies:
                return [*self._settle(request_id, outcome, frozenset())]
            self._open_change = (request_id, outcome)
            plan, cookies = self._registry.plan, outcome.cookies
            if len(cookies) == 1:
                return [Apply((plan(cookies[0]),))]
            # A socket can be in several flows that end together.
            return [Apply(tuple([plan(cookie) for cookie in dict.fromkeys(cookies)]))]
        if isinstance(outcome, _Waiting):
            return [*self._flush()]
        return [*self._answer(request_id, outcome)]

    def _answer(self, request_id: int | None, result: Value | Refusal) -> list[Answer]:
        """The end of a request that changed nothing, or whose change is undone."""
        if isinstance(result, Refusal):
            self._registry.roll_back()
            self._ending.clear()
        answers = self._flush()
        if request_id is not None:
            answers.append(Answer(request_id, result))
        return answers

    def _settle(
        self, request_id: int | None, change: _Change, gone: frozenset[int]
    ) -> list[Answer]:
        """Keep a change, drop sockets that turned out to be gone, answer."""
        for cookie in gone:
            self._forget_socket(cookie)
        answers = self._flush()
        if request_id is not None:
            if change.flow_id and change.flow_id not in self._registry.flows:
                refusal = _no(
                    ErrorCode.ERROR_NOT_FOUND,
                    f"flow {change.flow_id} ended: the application closed its last socket",
                )
                answers.append(Answer(request_id, refusal))
            else:
                answers.append(Answer(request_id, change.value))
        return answers

    def _flush(self) -> list[Answer]:
        """Keep what was changed and hand out the answers that gathered."""
        self._registry.journal.clear()
        if self._ending:
            for flow in self._ending:
                self._answers += self._notices.abort(flow)
            self._ending.clear()
        answers = self._answers
        if answers:
            self._answers = []
            return answers
        return []

    def _end(self, flow: Flow) -> tuple[int, ...]:
        """End a flow; its waiting requests will be answered as aborted."""
        self._ending.append(flow)
        return self._registry.end_flow(flow)

    def _forget_socket(self, cookie: int) -> None:
        for flow in self._registry.flows_of_socket(cookie):
            self._registry.take_socket(flow, cookie)
            if not flow.sockets:
                self._end(flow)

    # -- requests -------------------------------------------------------------------

    def _handle(
        self, request_id: int, handle: Handle, request: rq.Request, now_ns: int
    ) -> _Outcome:
        match request:
            case rq.AddSocket():
                return self._add_socket(handle, request)
            case rq.RemoveSocket():
                return self._remove_socket(handle, request)
            case rq.SetTrafficType() | rq.SetRate() | rq.SetDscp():
                flow = handle.flows.get(request.flow_id)
                return _no_flow(request.flow_id) if flow is None else self._set(flow, request)
            case rq.QueryFlow():
                return self._query(handle, request)
            case rq.NotifyFlow():
                return self._notify(request_id, handle, request)
            case rq.StartTracking():
                return self._tracking.start(handle, request)
            case rq.StopTracking():
                return self._tracking.stop(handle, request, now_ns=now_ns)
            case rq.EnumerateFlows():
                refusal = refuse_enumeration(request.caller)
                return tuple(sorted(self._registry.flows)) if refusal is None else refusal
            case rq.Cancel():
                return self._cancel(handle, request)
            case rq.CloseHandle():
                return self._close(handle, now_ns)

    def _add_socket(self, handle: Handle, request: rq.AddSocket) -> _Outcome:
        flow = handle.flows.get(request.flow_id)
        if request.flow_id and (flow is None or flow.is_adaptive or request.is_adaptive):
            return _no(
                ErrorCode.ERROR_INVALID_PARAMETER,
                f"flow {request.flow_id} cannot be joined: it must be a non-adaptive flow of "
                "this handle, and the call must say non-adaptive",
            )
        facts = request.socket
        if isinstance(facts, Refusal):
            return facts
        if isinstance(request.destination, Refusal):
            return request.destination
        destination = captured_destination(facts, request.destination)
        if isinstance(destination, Refusal):
            return destination
        if flow is not None and destination in flow.sockets.get(facts.cookie, ()):
            return flow.flow_id
        if request.route is not None:
            return request.route
        limits = self._policy.limits
        if flow is None:
            if self._registry.flow_count(handle.owner, at_least=limits.flows) >= limits.flows:
                return _no(
                    ErrorCode.ERROR_NO_SYSTEM_RESOURCES,
                    f"this process holds {limits.flows} flows already; remove some",
                )
            marking = Marking.UNADMITTED if request.is_adaptive else Marking.BY_TYPE
            flow = self._registry.new_flow(
                handle,
                plain_settings(request.traffic_type, marking),
                is_adaptive=request.is_adaptive,
            )
        elif len(flow.sockets.get(facts.cookie, ())) >= limits.destinations_per_flow:
            return _no(
                ErrorCode.ERROR_NO_SYSTEM_RESOURCES,
                f"the flow holds {limits.destinations_per_flow} destinations of this socket",
            )
        for other in self._registry.flows_of_socket(facts.cookie):
            # The newer flow takes over a pair that another flow holds.
            if other is not flow and destination in other.sockets[facts.cookie]:
                self._registry.take(other, facts.cookie, destination)
                if not other.sockets:
                    self._end(other)
        self._registry.put(flow, facts.cookie, destination)
        return _Change((facts.cookie,), flow.flow_id, flow.flow_id)

    def _remove_socket(self, handle: Handle, request: rq.RemoveSocket) -> _Outcome:
        flow = handle.flows.get(request.flow_id)
        if flow is None:
            return _no_flow(request.flow_id)
        cookie = request.cookie
        if isinstance(cookie, Refusal):
            return cookie
        if cookie is None:
            return _Change(self._end(flow), None)
        if cookie not in flow.sockets:
            return _no(
                ErrorCode.ERROR_INVALID_PARAMETER,
                f"the socket is not in flow {flow.flow_id}",
            )
        if len(flow.sockets) == 1:
            return _Change(self._end(flow), None)
        self._registry.take_socket(flow, cookie)
        return _Change((cookie,), None)

    def _set(self, flow: Flow, request: rq.SetTrafficType | rq.SetRate | rq.SetDscp) -> _Outcome:
        match request:
            case rq.SetTrafficType():
                settings = flow.settings.with_type(request.traffic_type)
            case rq.SetRate():
                outcome = self._settings_for_rate(flow, request)
                if isinstance(outcome, Refusal):
                    return outcome
                settings = outcome
            case rq.SetDscp():
                if not 0 <= request.dscp <= DSCP_MAX:
                    return _no(
                        ErrorCode.ERROR_INVALID_PARAMETER,
                        f"a DSCP is 0 to {DSCP_MAX}, not {request.dscp}",
                    )
                refusal = refuse_exact_dscp(request.caller, self._policy)
                if refusal is not None:
                    return refusal
                if flow.is_adaptive:
                    return _no(
                        ErrorCode.ERROR_NOT_SUPPORTED,
                        "an exact DSCP needs a non-adaptive flow",
                    )
                settings = flow.settings.with_dscp(request.dscp)
        self._registry.change(flow, settings)
        return _Change(tuple(flow.sockets), None, flow.flow_id)

    def _settings_for_rate(self, flow: Flow, request: rq.SetRate) -> Settings | Refusal:
        rate_bps = request.rate_bps
        if rate_bps is None:
            rate_bps = self._policy.default_minimum_bps
        if rate_bps == 0:
            return flow.settings.without_contract(is_adaptive=flow.is_adaptive)
        if not 0 < rate_bps <= _MAX_RATE_BPS:
            return _no(
                ErrorCode.ERROR_INVALID_PARAMETER,
                f"a rate is 0 to {_MAX_RATE_BPS} bit/s, not {rate_bps}",
            )
        refusal = self._notices.refuse_rate(flow, rate_bps)
        if refusal is not None:
            return refusal
        return flow.settings.with_contract(Contract(rate_bps, request.shaping, request.reason))

    def _query(self, handle: Handle, request: rq.QueryFlow) -> _Outcome:
        flow = self._registry.flows.get(request.flow_id)
        if flow is None or (flow.owner != handle.owner and not request.caller.is_administrator):
            return _no_flow(request.flow_id)
        match request.question:
            case rq.Question.FUNDAMENTALS:
                return self._notices.fundamentals(flow)
            case rq.Question.PACKET_PRIORITY:
                dscp = flow.treatment.dscp
                # No path is proven to carry tags, and nothing here re-marks excess.
                return PacketPriority(dscp or 0, 0, 0, 0)
            case rq.Question.OUTGOING_RATE:
                contract = flow.settings.contract
                if contract is None:
                    return _no(ErrorCode.ERROR_NO_DATA, "no rate is set on the flow")
                return contract.rate_bps

    def _notify(self, request_id: int, handle: Handle, request: rq.NotifyFlow) -> _Outcome:
        flow = handle.flows.get(request.flow_id)
        if flow is None:
            return _no_flow(request.flow_id)
        if self._notices.pending_count(handle.owner) >= self._policy.limits.pending_operations:
            return _no(
                ErrorCode.ERROR_NO_SYSTEM_RESOURCES, "too many requests are pending; cancel some"
            )
        is_due = self._notices.ask(request_id, flow, request.kind, request.rate_bps)
        if isinstance(is_due, Refusal):
            return is_due
        return None if is_due else _WAITING

    def _cancel(self, handle: Handle, request: rq.Cancel) -> _Outcome:
        aborted = self._notices.cancel(handle, request.request_id)
        if aborted is None:
            return _no(
                ErrorCode.ERROR_INVALID_PARAMETER,
                "this is no pending operation of the handle",
            )
        self._answers.append(aborted)
        return None

    def _close(self, handle: Handle, now_ns: int) -> _Outcome:
        cookies: list[int] = []
        for flow in tuple(handle.flows.values()):
            cookies += self._end(flow)
        self._tracking.let_go(handle, now_ns=now_ns)
        del self._registry.handles[handle.handle_id]
        return _Change(tuple(cookies), None, is_final=True)

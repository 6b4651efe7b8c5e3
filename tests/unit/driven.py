"""The engine with a mechanism in memory, a clock that is set, and an account of its answers.

The account is the point: every request must be answered exactly once, whatever happens.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from openqwave.admission.policy import Policy
from openqwave.admission.rights import Credentials
from openqwave.enforcement.memory import Memory
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Congestion, Fundamentals, PathView
from openqwave.model.flow import (
    NoticeKind,
    RateReason,
    Shaping,
    TrafficType,
    Transport,
    Treatment,
)
from openqwave.model.sockets import SocketFacts
from openqwave.model.traffic import FlowTraffic
from openqwave.subsystem import requests as rq
from openqwave.subsystem.effects import (
    Answer,
    Applied,
    Apply,
    Effect,
    Experiment,
    MeasureAfresh,
    ReadTraffic,
    SetEffort,
    SocketPlan,
    StartExperiments,
    StopExperiments,
    Value,
)
from openqwave.subsystem.engine import Engine

ROOT = Credentials(0, has_net_admin=True, groups=frozenset({"root"}))
USER = Credentials(1000, has_net_admin=False, groups=frozenset({"users"}))
OWNER, STRANGER = 100, 200

NO_MECHANISM = Refusal(ErrorCode.ERROR_NOT_SUPPORTED, "the mechanism cannot")


def endpoint(host: str, port: int = 5004, scope_id: int = 0) -> Endpoint:
    return Endpoint(ip_address(host).packed, port, scope_id)


A, B, C = endpoint("192.0.2.1"), endpoint("192.0.2.2"), endpoint("192.0.2.3")
A6 = endpoint("2001:db8::1")


def facts(
    cookie: int = 1,
    *,
    version: int = 4,
    transport: Transport = Transport.UDP,
    peer: Endpoint | None = None,
    interface: int = 0,
) -> SocketFacts:
    return SocketFacts(cookie, transport, version, peer, interface=interface)


def view(
    *,
    bottleneck_bps: int | None = None,
    available_bps: int | None = None,
    rtt_ns: int | None = None,
    is_congested: bool | None = None,
) -> PathView:
    fundamentals = Fundamentals(bottleneck_bps, available_bps, rtt_ns)
    return PathView(fundamentals, Congestion(is_congested))


class Mechanism(Memory):
    """Memory that can be told to refuse, or to find sockets gone."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals: list[Refusal] = []
        self.gone: set[int] = set()
        self.applied: list[tuple[SocketPlan, ...]] = []

    def apply(self, plans: tuple[SocketPlan, ...]) -> Applied | Refusal:  # type: ignore[override]  # Memory never refuses, mechanisms may
        self.applied.append(plans)
        if self.refusals:
            return self.refusals.pop()
        gone = frozenset(plan.cookie for plan in plans) & self.gone
        super().apply(tuple(plan for plan in plans if plan.cookie not in gone))
        for cookie in gone:
            self.plans.pop(cookie, None)
        return Applied(gone)


class Driven:
    """Drives an engine as a driver does."""

    def __init__(self, policy: Policy | None = None, *, first_flow_id: int = 1) -> None:
        self.engine = Engine(policy or Policy(), first_flow_id=first_flow_id)
        self.mechanism = Mechanism()
        self.now_ns = 10**12
        self.answers: dict[int, Value | Refusal] = {}
        self.asked = 0
        self.experiments: list[Experiment] = []

    # -- inputs ---------------------------------------------------------------------

    def open(self, owner: int = OWNER) -> int:
        handle = self.engine.open_handle(owner)
        assert isinstance(handle, int)
        return handle

    def ask(self, handle: int, request: rq.Request) -> int:
        """Put a request; returns its id."""
        self.asked += 1
        request_id = self.asked
        self.carry_out(self.engine.receive_request(request_id, handle, request, now_ns=self.now_ns))
        return request_id

    def carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case StartExperiments() | StopExperiments() | SetEffort() | MeasureAfresh():
                    self.experiments.append(effect)
                case Apply(plans):
                    self.carry_out(self.engine.receive_applied(self.mechanism.apply(plans)))
                case ReadTraffic(request_id, _):
                    # The mechanism counts nothing.
                    self.carry_out([Answer(request_id, FlowTraffic())])
                case Answer(request_id, result):
                    assert 1 <= request_id <= self.asked, "an answer to no request"
                    assert request_id not in self.answers, "a request was answered twice"
                    self.answers[request_id] = result

    def see(self, host: Endpoint, seen: PathView | None) -> None:
        self.carry_out(self.engine.receive_path_view(host, seen, now_ns=self.now_ns))

    def wait(self, elapsed_ns: int) -> None:
        """Let time pass, with every timer on the way."""
        until_ns = self.now_ns + elapsed_ns
        while (due_ns := self.engine.next_timer_ns()) is not None and due_ns <= until_ns:
            self.now_ns = max(self.now_ns, due_ns)
            self.carry_out(self.engine.handle_timer(now_ns=self.now_ns))
        self.now_ns = until_ns

    def forget(self, *cookies: int) -> None:
        self.carry_out(self.engine.receive_sockets_gone(cookies, now_ns=self.now_ns))

    def interrupt(self) -> None:
        self.carry_out(self.engine.receive_interruption(now_ns=self.now_ns))

    # -- answers --------------------------------------------------------------------

    def result(self, handle: int, request: rq.Request) -> Value | Refusal:
        """The answer to a request that is answered at once."""
        return self.answers[self.ask(handle, request)]

    def refusal(self, handle: int, request: rq.Request) -> ErrorCode:
        """Why a request was refused."""
        result = self.result(handle, request)
        assert isinstance(result, Refusal), f"granted with {result!r}"
        assert result.detail
        return result.code

    def grant(self, handle: int, request: rq.Request) -> Value:
        result = self.result(handle, request)
        assert not isinstance(result, Refusal), result
        return result

    def waits(self, handle: int, request: rq.Request) -> int:
        """The id of a request that is not answered yet."""
        request_id = self.ask(handle, request)
        assert request_id not in self.answers, self.answers[request_id]
        return request_id

    def code_of(self, request_id: int) -> ErrorCode:
        result = self.answers[request_id]
        assert isinstance(result, Refusal)
        return result.code

    # -- requests by name -----------------------------------------------------------

    def flow(
        self,
        handle: int,
        cookie: int = 1,
        destination: Endpoint | None = A,
        traffic_type: TrafficType = TrafficType.VOICE,
        *,
        is_adaptive: bool = False,
    ) -> int:
        flow_id = self.grant(
            handle, add(0, facts(cookie), destination, traffic_type, is_adaptive=is_adaptive)
        )
        assert isinstance(flow_id, int)
        return flow_id

    def join(self, handle: int, flow_id: int, cookie: int, destination: Endpoint = A) -> None:
        assert self.grant(handle, add(flow_id, facts(cookie), destination)) == flow_id

    def treatment(self, cookie: int = 1) -> Treatment:
        return self.mechanism.observe().get(cookie, Treatment())

    def enumerated(self, handle: int) -> tuple[int, ...]:
        ids = self.grant(handle, rq.EnumerateFlows(ROOT))
        assert isinstance(ids, tuple)
        return ids


def add(
    flow_id: int,
    socket: SocketFacts | Refusal,
    destination: Endpoint | Refusal | None = A,
    traffic_type: TrafficType = TrafficType.VOICE,
    *,
    is_adaptive: bool = False,
    route: Refusal | None = None,
) -> rq.AddSocket:
    return rq.AddSocket(flow_id, socket, destination, traffic_type, is_adaptive, route)


def rate(
    flow_id: int, rate_bps: int | None, shaping: Shaping = Shaping.SHAPE_AND_MARK
) -> rq.SetRate:
    return rq.SetRate(flow_id, rate_bps, shaping, RateReason.NOT_APPLICABLE)


def query(flow_id: int, question: rq.Question, caller: Credentials = USER) -> rq.QueryFlow:
    return rq.QueryFlow(flow_id, question, caller)


def notify(flow_id: int, kind: NoticeKind, rate_bps: int | None = None) -> rq.NotifyFlow:
    return rq.NotifyFlow(flow_id, kind, rate_bps)

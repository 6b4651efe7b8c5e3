"""Any sequence of inputs on measured paths: what always holds, whatever happens.

* Contracts never exceed what was granted: each increase on a measured path was covered by what was
  free of it by the last view, less what of the contracts was not in use, or by what the flow had
  been told to be free within the last second, less what was granted since. What flows said to be
  free is exactly that.
* No operation completes twice, or never: a request that may wait for a limited time is answered by
  then, one that waits for a condition when it holds and not before, and all once everything is
  closed; except the one in whose midst the driver was interrupted.
* No timer is lost: experiments are begun once, go on while somebody wants them and for two minutes
  more, are begun again after they failed, and not where they must not be. They are told of the
  effort that is wanted.
* A failed call changes nothing, and nor does half of one.
* Memory returns to its start.

The model keeps the books of each path in the plainest way. What flows really send is taken from the
engine, because `test_usage` holds that to account. The second interface's speed is known, so there
less may be granted; the first one's is not, and there the books have to be right to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from openqwave.admission.policy import Limits, Policy
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.estimates import (
    Congestion,
    CongestionReason,
    FlowCounters,
    Fundamentals,
    PathView,
    Unmeasurable,
)
from openqwave.model.flow import NoticeKind, RateReason, Shaping, TrafficType
from openqwave.model.path import LinkType, PathFacts, PathStatus
from openqwave.subsystem import requests as rq
from openqwave.subsystem.effects import (
    Applied,
    MeasureAfresh,
    SetEffort,
    SocketPlan,
    StartExperiments,
    StopExperiments,
    Value,
)
from openqwave.subsystem.usage import LinkLoad
from tests.unit.driven import (
    NO_MECHANISM,
    OWNER,
    STRANGER,
    USER,
    A,
    B,
    Driven,
    Mechanism,
    add,
    facts,
    notify,
    query,
    rate,
)

S = 10**9
HOSTS = [A.host(), B.host()]
LIMITS = Limits(handles=3, flows=6, tracked_hosts=2, pending_operations=10)
POLICY = Policy(limits=LIMITS)
ANSWER_NS, WARM_NS = POLICY.experiments.answer_ns, POLICY.experiments.warm_ns
AGE_NS = POLICY.experiments.estimate_age_ns
# How long what was said to be free is honoured, and the longest pause after a failure.
QUOTE_NS, LONGEST_PAUSE_NS = S, 60 * S
# What was measured before the end of a congestion is not believed for so long; and how late word of
# that end may come.
STALE_NS, TOLD_LATE_NS = 5 * S, S // 5
CAPACITY_BPS = 5_000
# Only of the second interface the speed is known.
SPEEDS = {1: 0, 2: 4_000}

PICK = st.integers(0, 63)
HOST = st.integers(0, 1)
RATES = st.sampled_from([0, 1, 400, 500, 1_000, 1_500])
AVAILABLE = st.sampled_from([None, 0, 500, 1_000, 2_000])
VERDICTS = st.sampled_from([None, False, False, True])
TIMES = st.sampled_from([S // 10] * 3 + [S] * 3 + [2 * S, 2 * S, 31 * S, 121 * S])
INTERFACES = st.sampled_from([1, 1, 1, 2])
RARELY = st.sampled_from([False] * 11 + [True])
SOMETIMES = st.sampled_from([False] * 5 + [True])

BROKE = Refusal(ErrorCode.ERROR_UNEXP_NET_ERR, "it broke")
SLOW = Refusal(ErrorCode.ERROR_TIMEOUT, "it took too long")
DOWN = Refusal(ErrorCode.ERROR_ADAP_HDW_ERR, "the interface is down")
NO_SINK = Unmeasurable("no sink answers")
NOT_ALLOWED = Unmeasurable("a router is on the way")
Obstacle = Unmeasurable | Refusal


def way(host: Endpoint, interface: int) -> PathFacts:
    return PathFacts(host, interface, "eth0", b"", b"", 1500, LinkType.WIRED)


class Interrupted(BaseException):
    """Ctrl-C."""


class Interruptible(Mechanism):
    """A mechanism in whose midst Ctrl-C may come, with half of the plans written."""

    is_armed = False

    def apply(self, plans: tuple[SocketPlan, ...]) -> Applied | Refusal:  # type: ignore[override]  # as its base
        if self.is_armed:
            self.is_armed = False
            super().apply(plans[: len(plans) // 2])
            raise Interrupted
        return super().apply(plans)


@dataclass
class Asked:
    """A request that is not answered yet."""

    flow_id: int
    request: rq.SetRate | rq.QueryFlow | rq.NotifyFlow
    asked_ns: int
    limit_ns: int | None


@dataclass
class ModelPath:
    """The books of a path.

    Attributes:
        way: The way there.
        obstacle: Why it is not measured now.
        is_blocked: It is by the way that it must not be.
        runs: Experiments were begun, and have not ended.
        is_alert: And were told to be.
        retry_by_ns: When they have to have been begun again.
        view: What is known.
        seen_ns: Since when.
        verdict: What was last said of its queues.
        calm_ns: When a congestion ended, while older numbers are not believed.
        free_bps: What is free by the view and the verdict.
        own_seen_bps: What of the contracts was in use when the view came.
        own_bps: The same, less what was given up since.
        granted_bps: All increases so far.
        life: How often it was forgotten.
    """

    way: PathFacts | None = None
    obstacle: Obstacle | None = NO_SINK
    is_blocked: bool = False
    runs: bool = False
    is_alert: bool = False
    retry_by_ns: int | None = None
    view: PathView | None = None
    seen_ns: int = 0
    verdict: bool | None = None
    calm_ns: int | None = None
    free_bps: int | None = None
    own_seen_bps: int = 0
    own_bps: int = 0
    is_counted: bool = False
    granted_bps: int = 0
    life: int = 0

    def judge(self, verdict: bool | None, now_ns: int) -> None:
        if self.verdict and verdict is False:
            self.calm_ns = now_ns
        self.verdict = verdict

    def settle(self) -> None:
        """What is free, from now on."""
        known = None if self.view is None else self.view.fundamentals.available_bps
        if known is None:
            self.free_bps = None
        elif self.verdict or self.calm_ns is not None:
            self.free_bps = 0
        elif self.is_counted:
            self.free_bps = max(0, min(known, CAPACITY_BPS - self.own_seen_bps))
        else:
            self.free_bps = known

    def forget(self) -> None:
        self.view = self.verdict = self.calm_ns = self.free_bps = None
        self.own_bps = 0
        self.life += 1

    def clear(self) -> None:
        self.obstacle = self.retry_by_ns = None
        self.is_blocked = False

    def locate(self, found: rq.Found | None) -> None:
        if isinstance(found, PathFacts):
            is_tried = self.runs or self.obstacle is None or self.retry_by_ns is not None
            is_another = self.way is not None and not found.is_same_way(self.way)
            self.way = found
            if is_another or not is_tried:
                self.clear()
            if is_another:
                self.forget()
        elif found is not None and (self.view is None or self.way is not None):
            self.clear()
            self.obstacle, self.is_blocked = found, True
            if isinstance(found, Unmeasurable):
                self.forget()


@dataclass
class Promise:
    """What a flow was told to be free."""

    spare_bps: int
    granted_bps: int
    life: int
    until_ns: int


@dataclass
class ModelFlow:
    """An adaptive flow."""

    handle: int
    host: Endpoint
    cookie: int
    held_bps: int = 0
    promise: Promise | None = None
    sent_bytes: int = 0
    # What it sends, in percent of its contract.
    share: int = 0


@dataclass
class Model:
    """Everything together."""

    flows: dict[int, ModelFlow] = field(default_factory=dict)
    paths: dict[Endpoint, ModelPath] = field(
        default_factory=lambda: {host: ModelPath() for host in HOSTS}
    )
    asked: dict[int, Asked] = field(default_factory=dict)
    tracked: set[tuple[int, Endpoint]] = field(default_factory=set)

    def total_bps(self, host: Endpoint) -> int:
        return sum(flow.held_bps for flow in self.flows.values() if flow.host == host)

    def spare_bps(self, host: Endpoint) -> int | None:
        path = self.paths[host]
        if path.free_bps is None:
            return None
        return path.free_bps - (self.total_bps(host) - path.own_bps)

    def known_bps(self, host: Endpoint, now_ns: int) -> int | None:
        """What is spare by numbers that are not too old."""
        path = self.paths[host]
        if path.view is None or now_ns - path.seen_ns > AGE_NS:
            return None
        return self.spare_bps(host)

    def is_wanted(self, host: Endpoint) -> bool:
        return any(flow.host == host for flow in self.flows.values()) or any(
            to == host for _, to in self.tracked
        )

    def hold(self, flow: ModelFlow, rate_bps: int) -> None:
        path, change_bps = self.paths[flow.host], rate_bps - flow.held_bps
        if change_bps > 0:
            path.granted_bps += change_bps
        else:
            path.own_bps = max(0, path.own_bps + change_bps)
        flow.held_bps = rate_bps

    def promise(self, flow: ModelFlow, now_ns: int) -> None:
        path, spare_bps = self.paths[flow.host], self.spare_bps(flow.host)
        assert spare_bps is not None
        flow.promise = Promise(spare_bps, path.granted_bps, path.life, now_ns + QUOTE_NS)


class AdaptiveMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.driven = Driven(POLICY)
        self.mechanism = self.driven.mechanism = Interruptible()
        self.model = Model()
        self.handles: list[int] = []
        self.cookies = 0
        self.left_bytes = dict.fromkeys(SPEEDS, 0)
        # How many answers were looked at, and the requests that were interrupted.
        self.looked_at = 0
        self.interrupted: set[int] = set()
        self.idle_since_ns = dict.fromkeys(HOSTS, 0)
        self.was_wanted = dict.fromkeys(HOSTS, False)

    # -- what comes of a step -----------------------------------------------------------

    @contextmanager
    def troubled(
        self, *, refuses: bool = False, gone: int = 0, interrupts: bool = False
    ) -> Iterator[None]:
        """Let the mechanism, if it is asked, refuse, find a socket gone, or be interrupted."""
        mechanism = self.mechanism
        mechanism.refusals = [NO_MECHANISM] if refuses else []
        mechanism.gone = {gone} if gone else set()
        mechanism.is_armed = interrupts
        try:
            yield
        except Interrupted:
            mechanism.refusals, mechanism.gone = [], set()
            mechanism.apply(self.driven.engine.abandon())
        mechanism.refusals, mechanism.gone, mechanism.is_armed = [], set(), False

    def ask(
        self,
        handle: int,
        request: rq.Request,
        *,
        refuses: bool = False,
        gone: int = 0,
        interrupts: bool = False,
    ) -> Value | Refusal | type[Interrupted]:
        """Put a request that is answered at once, unless it is interrupted."""
        with self.troubled(refuses=refuses, gone=gone, interrupts=interrupts):
            self.driven.ask(handle, request)
        request_id = self.driven.asked
        if request_id not in self.driven.answers:
            self.interrupted.add(request_id)
            return Interrupted
        return self.driven.answers[request_id]

    def ask_to_wait(
        self,
        handle: int,
        flow_id: int,
        request: rq.SetRate | rq.QueryFlow | rq.NotifyFlow,
        *,
        is_limited: bool,
        refuses: bool = False,
        gone: int = 0,
        interrupts: bool = False,
    ) -> None:
        """Put one that may wait."""
        now_ns, request_id = self.driven.now_ns, self.driven.asked + 1
        limit_ns = now_ns + ANSWER_NS if is_limited else None
        asked = self.model.asked[request_id] = Asked(flow_id, request, now_ns, limit_ns)
        mechanism = self.mechanism
        with self.troubled(refuses=refuses, gone=gone, interrupts=interrupts):
            self.driven.ask(handle, request)
        if interrupts and not mechanism.is_armed and request_id not in self.driven.answers:
            # It waits, or it is the one that was interrupted: what waits can be cancelled.
            cancelled = self.driven.result(handle, rq.Cancel(request_id))
            if isinstance(cancelled, Refusal) and request_id not in self.driven.answers:
                self.interrupted.add(request_id)
                assert self.model.asked.pop(request_id) is asked

    @invariant()
    def books_are_right(self) -> None:
        """Take what came of the step, and hold it to the rules."""
        model, driven = self.model, self.driven
        self.take_experiments()
        kept = driven.enumerated(self.watcher) if self.watcher else ()
        for flow_id, flow in list(model.flows.items()):
            if flow_id not in kept:
                model.hold(flow, 0)
                del model.flows[flow_id]
        for request_id, result in list(driven.answers.items())[self.looked_at :]:
            asked = model.asked.pop(request_id, None)
            if asked is not None and asked.flow_id in model.flows:
                self.take_answer(asked, model.flows[asked.flow_id], result)
        self.looked_at = len(driven.answers)
        hosts = driven.engine.tracked_hosts()
        for host in HOSTS:
            if host not in hosts:
                assert not model.paths[host].runs
                model.paths[host] = ModelPath(life=model.paths[host].life + 1)
        for flow_id, flow in model.flows.items():
            rate_bps = driven.result(flow.handle, query(flow_id, rq.Question.OUTGOING_RATE))
            if isinstance(rate_bps, Refusal):
                assert rate_bps.code is ErrorCode.ERROR_NO_DATA
                rate_bps = 0
            assert rate_bps == flow.held_bps

    @property
    def watcher(self) -> int:
        return self.handles[0] if self.handles else 0

    def take_experiments(self) -> None:
        for effect in self.driven.experiments:
            match effect:
                case StartExperiments(found):
                    path = self.model.paths[found.host]
                    assert not path.runs, "begun twice"
                    assert found == path.way
                    assert not path.is_blocked, "begun where they must not be"
                    if not self.was_wanted[found.host]:
                        # The pause ended with nobody there, and all begins anew.
                        path.clear()
                    path.runs, path.retry_by_ns = True, None
                case StopExperiments(host):
                    path = self.model.paths[host]
                    assert path.runs, "ended, and not begun"
                    path.runs = path.is_alert = False
                case SetEffort(host, is_alert):
                    path = self.model.paths[host]
                    assert path.runs
                    assert path.is_alert is not is_alert
                    path.is_alert = is_alert
                case MeasureAfresh(host):
                    assert self.model.paths[host].runs
        self.driven.experiments.clear()

    def take_answer(self, asked: Asked, flow: ModelFlow, result: Value | Refusal) -> None:
        if isinstance(result, Refusal):
            return
        match asked.request:
            case rq.SetRate(rate_bps=rate_bps):
                assert rate_bps is not None
                if rate_bps > flow.held_bps:
                    self.check_grant(flow, rate_bps - flow.held_bps)
                self.model.hold(flow, rate_bps)
            case rq.QueryFlow(is_fresh=is_fresh):
                assert isinstance(result, Fundamentals)
                self.check_numbers(asked, flow, result, is_fresh=is_fresh)
            case rq.NotifyFlow():
                assert self.is_so(asked), "told of what is not so"
                if asked.request.kind is NoticeKind.AVAILABLE:
                    self.model.promise(flow, self.driven.now_ns)

    def check_grant(self, flow: ModelFlow, increase_bps: int) -> None:
        """Was what was granted there?"""
        path, now_ns = self.model.paths[flow.host], self.driven.now_ns
        assert not isinstance(path.obstacle, Refusal), "granted where something is wrong"
        if isinstance(path.obstacle, Unmeasurable) and path.view is None:
            # Nobody can tell.
            return
        spare_bps = self.model.known_bps(flow.host, now_ns)
        assert spare_bps is not None, "granted without knowing"
        promise = flow.promise
        if (
            promise is not None
            and now_ns <= promise.until_ns
            and promise.life == path.life
            and not path.verdict
        ):
            since_bps = path.granted_bps - promise.granted_bps
            spare_bps = max(spare_bps, promise.spare_bps - since_bps)
        assert increase_bps <= spare_bps, "granted what was not there"

    def check_numbers(
        self, asked: Asked, flow: ModelFlow, told: Fundamentals, *, is_fresh: bool
    ) -> None:
        path, now_ns = self.model.paths[flow.host], self.driven.now_ns
        assert path.view is not None
        known = path.view.fundamentals
        assert (told.bottleneck_bps, told.rtt_ns) == (known.bottleneck_bps, known.rtt_ns)
        if is_fresh:
            assert path.view.since_ns is not None
            assert path.view.since_ns >= asked.asked_ns, "measured before it was asked for"
        else:
            assert now_ns - path.seen_ns <= AGE_NS
        spare_bps = self.model.spare_bps(flow.host)
        if known.available_bps is None or spare_bps is None:
            assert told.available_bps is None
            return
        assert told.available_bps is not None
        assert told.available_bps <= max(0, spare_bps)
        if path.way is None or not SPEEDS[path.way.interface]:
            assert told.available_bps == max(0, spare_bps)
        self.model.promise(flow, now_ns)

    def is_so(self, asked: Asked) -> bool:
        """Does what a request waits for hold?"""
        flow = self.model.flows[asked.flow_id]
        path = self.model.paths[flow.host]
        assert isinstance(asked.request, rq.NotifyFlow)
        match asked.request.kind:
            case NoticeKind.CONGESTED:
                return path.verdict is True
            case NoticeKind.UNCONGESTED:
                return path.verdict is False
            case NoticeKind.AVAILABLE:
                spare_bps = self.model.known_bps(flow.host, self.driven.now_ns)
                wanted_bps = asked.request.rate_bps or 0
                return (
                    path.obstacle is None
                    and spare_bps is not None
                    and wanted_bps - flow.held_bps <= spare_bps
                )

    # -- handles and flows ----------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        for owner in (OWNER, STRANGER):
            self.handles.append(self.driven.open(owner))
        for turn in range(3):
            self.make_flow(turn, turn % 2, 1, is_told=True, refuses=False, interrupts=False)
        self.books_are_right()
        for to in range(2):
            self.see(to, 1_000, False, 0, refuses=False, is_gone=False, interrupts=False)

    def handle(self, pick: int) -> int:
        return self.handles[pick % len(self.handles)] if self.handles else 0

    def flow(self, pick: int) -> tuple[int, int]:
        """A handle and its flow; flow 0 where there is none."""
        if not self.model.flows:
            return self.handle(pick), 0
        flow_id = list(self.model.flows)[pick % len(self.model.flows)]
        return self.model.flows[flow_id].handle, flow_id

    @rule(happens=RARELY)
    def open_handle(self, happens: bool) -> None:
        if happens and len(self.handles) < LIMITS.handles:
            self.handles.append(self.driven.open(OWNER))

    @rule(
        pick=PICK,
        to=HOST,
        interface=INTERFACES,
        is_told=st.sampled_from([True] * 7 + [False]),
        refuses=SOMETIMES,
        interrupts=RARELY,
    )
    def make_flow(
        self, pick: int, to: int, interface: int, is_told: bool, refuses: bool, interrupts: bool
    ) -> None:
        self.cookies += 1
        found = way(HOSTS[to], interface) if is_told else None
        self.add(self.handle(pick), self.cookies, HOSTS[to], found, refuses, interrupts)

    def add(
        self,
        handle: int,
        cookie: int,
        host: Endpoint,
        found: rq.Found | None,
        refuses: bool,
        interrupts: bool,
    ) -> None:
        request = replace(
            add(0, facts(cookie), Endpoint(host.packed, 5004), is_adaptive=True), path=found
        )
        answer = self.ask(handle, request, refuses=refuses, interrupts=interrupts)
        if isinstance(answer, Refusal) and answer != NO_MECHANISM:
            return
        # The way is so whatever became of the flow.
        self.model.paths[host].locate(found)
        if isinstance(answer, int):
            self.model.flows[answer] = ModelFlow(handle, host, cookie)

    @rule(pick=PICK, by=PICK, is_adaptive=st.booleans(), interface=INTERFACES, refuses=SOMETIMES)
    def take_over(
        self, pick: int, by: int, is_adaptive: bool, interface: int, refuses: bool
    ) -> None:
        """A newer flow takes the socket of an adaptive one, which ends."""
        _, flow_id = self.flow(pick)
        if pick >= 16 or not flow_id:
            return
        flow, handle = self.model.flows[flow_id], self.handle(by)
        if is_adaptive:
            found = way(flow.host, interface)
            self.add(handle, flow.cookie, flow.host, found, refuses, interrupts=False)
            return
        destination = Endpoint(flow.host.packed, 5004)
        request = add(0, facts(flow.cookie), destination, TrafficType.BACKGROUND)
        answer = self.ask(handle, request, refuses=refuses)
        if isinstance(answer, int):
            # Rates of flows that are not adaptive are nobody's business here.
            self.ask(handle, rate(answer, 10**9))
            self.ask(handle, rq.RemoveSocket(answer, None))

    @rule(pick=PICK, refuses=SOMETIMES, interrupts=SOMETIMES)
    def remove(self, pick: int, refuses: bool, interrupts: bool) -> None:
        handle, flow_id = self.flow(pick)
        if pick >= 16:
            return
        self.ask(handle, rq.RemoveSocket(flow_id, None), refuses=refuses, interrupts=interrupts)

    @rule(pick=PICK)
    def lose_socket(self, pick: int) -> None:
        cookies = self.driven.engine.sockets()
        if cookies and pick < 4:
            cookie = cookies[pick % len(cookies)]
            self.driven.forget(cookie)
            self.mechanism.plans.pop(cookie, None)

    @rule(pick=PICK, happens=RARELY, refuses=SOMETIMES, interrupts=SOMETIMES)
    def close(self, pick: int, happens: bool, refuses: bool, interrupts: bool) -> None:
        if not happens or len(self.handles) < 2:
            return
        handle = self.handle(pick)
        cookies = [flow.cookie for flow in self.model.flows.values() if flow.handle == handle]
        answer = self.ask(handle, rq.CloseHandle(), refuses=refuses, interrupts=interrupts)
        if answer is Interrupted:
            return
        assert answer is None
        if refuses:
            # It cannot be refused, and what the mechanism keeps then is its own affair.
            for cookie in cookies:
                self.mechanism.plans.pop(cookie, None)
        self.handles.remove(handle)
        self.model.tracked = {entry for entry in self.model.tracked if entry[0] != handle}

    @rule(happens=RARELY, interrupts=st.booleans())
    def interrupt(self, happens: bool, interrupts: bool) -> None:
        """The machine slept."""
        if not happens:
            return
        with self.troubled(interrupts=interrupts):
            self.driven.interrupt()
        # Where that was interrupted, the driver finds that the machine slept again.
        self.driven.interrupt()
        for handle in self.handles:
            self.ask(handle, rq.CloseHandle())
        self.handles = [self.driven.open(OWNER)]
        self.model.tracked.clear()

    @rule(pick=PICK, to=HOST, interface=INTERFACES, starts=st.booleans())
    def track(self, pick: int, to: int, interface: int, starts: bool) -> None:
        handle, host = self.handle(pick), HOSTS[to]
        if not starts:
            if self.ask(handle, rq.StopTracking(host)) is None:
                self.model.tracked.discard((handle, host))
            return
        found = way(host, interface)
        answer = self.ask(handle, rq.StartTracking(host, None, found))
        self.model.paths[host].locate(found)
        if answer is None:
            self.model.tracked.add((handle, host))

    # -- what is asked of flows -----------------------------------------------------------

    @rule(
        pick=PICK,
        rate_bps=RATES,
        is_overlapped=st.booleans(),
        is_self_paced=st.booleans(),
        refuses=SOMETIMES,
        is_gone=RARELY,
        interrupts=RARELY,
    )
    def set_rate(
        self,
        pick: int,
        rate_bps: int,
        is_overlapped: bool,
        is_self_paced: bool,
        refuses: bool,
        is_gone: bool,
        interrupts: bool,
    ) -> None:
        handle, flow_id = self.flow(pick)
        self.ask_to_wait(
            handle,
            flow_id,
            rq.SetRate(
                flow_id,
                rate_bps,
                Shaping.SHAPE_AND_MARK,
                RateReason.NOT_APPLICABLE,
                is_overlapped,
                is_self_paced,
            ),
            is_limited=not is_overlapped,
            refuses=refuses,
            gone=self.model.flows[flow_id].cookie if is_gone and flow_id else 0,
            interrupts=interrupts,
        )

    @rule(pick=PICK, is_fresh=st.booleans(), is_overlapped=st.booleans())
    def query(self, pick: int, is_fresh: bool, is_overlapped: bool) -> None:
        handle, flow_id = self.flow(pick)
        request = rq.QueryFlow(flow_id, rq.Question.FUNDAMENTALS, USER, is_fresh, is_overlapped)
        self.ask_to_wait(handle, flow_id, request, is_limited=not is_overlapped)

    @rule(pick=PICK, kind=st.sampled_from(NoticeKind), rate_bps=RATES)
    def ask_notice(self, pick: int, kind: NoticeKind, rate_bps: int) -> None:
        handle, flow_id = self.flow(pick)
        asked_bps = rate_bps if kind is NoticeKind.AVAILABLE else None
        request = notify(flow_id, kind, asked_bps)
        self.ask_to_wait(handle, flow_id, request, is_limited=False)

    @rule(pick=PICK, back=st.integers(0, 40))
    def cancel(self, pick: int, back: int) -> None:
        self.ask(self.handle(pick), rq.Cancel(max(1, self.driven.asked - back)))

    # -- what is told of paths --------------------------------------------------------------

    def tell_path(
        self,
        host: Endpoint,
        tell: Callable[[], object],
        *,
        refuses: bool = False,
        is_gone: bool = False,
        interrupts: bool = False,
    ) -> None:
        """Tell something by which requests that wait may be decided."""
        gone = [flow.cookie for flow in self.model.flows.values() if flow.host == host]
        with self.troubled(
            refuses=refuses, gone=gone[-1] if gone and is_gone else 0, interrupts=interrupts
        ):
            tell()
        self.books_are_right()
        if interrupts:
            # Who was about to be granted a rate has another turn with the next input.
            return
        for asked in self.model.asked.values():
            flow = self.model.flows.get(asked.flow_id)
            if flow is None or flow.host != host:
                continue
            if isinstance(asked.request, rq.NotifyFlow):
                assert not self.is_so(asked), "not told of what is so"
            elif isinstance(asked.request, rq.SetRate):
                known_bps = self.model.known_bps(host, self.driven.now_ns)
                assert known_bps is None, "not decided though all is known"

    @rule(
        to=HOST,
        available=AVAILABLE,
        verdict=VERDICTS,
        age_s=st.integers(0, 4),
        refuses=SOMETIMES,
        is_gone=RARELY,
        interrupts=RARELY,
    )
    def see(
        self,
        to: int,
        available: int | None,
        verdict: bool | None,
        age_s: int,
        refuses: bool,
        is_gone: bool,
        interrupts: bool,
    ) -> None:
        """What a session that runs has found, some of it before now."""
        host, now_ns = HOSTS[to], self.driven.now_ns
        path, model = self.model.paths[host], self.model
        if not path.runs:
            return
        path.clear()
        congestion = Congestion(verdict, CongestionReason.DELAY if verdict else None)
        seen = PathView(
            Fundamentals(CAPACITY_BPS, available, 1), congestion, since_ns=now_ns - age_s * S
        )
        own_bps = self.own_bps(host)
        path.view, path.seen_ns = seen, now_ns
        path.judge(verdict, now_ns)
        if path.calm_ns is not None and (
            now_ns - age_s * S >= path.calm_ns - TOLD_LATE_NS or now_ns >= path.calm_ns + STALE_NS
        ):
            path.calm_ns = None
        total_bps = model.total_bps(host)
        path.is_counted = own_bps is not None
        path.own_seen_bps = total_bps if own_bps is None else min(own_bps, total_bps)
        path.settle()
        if path.free_bps is not None:
            path.own_bps = path.own_seen_bps
        self.tell_path(
            host,
            lambda: self.driven.see(host, seen),
            refuses=refuses,
            is_gone=is_gone,
            interrupts=interrupts,
        )

    def own_bps(self, host: Endpoint) -> int | None:
        """What the flows of a path are counted to send."""
        for flow_id, flow in self.model.flows.items():
            if flow.host == host:
                status = self.driven.grant(flow.handle, query(flow_id, rq.Question.PATH))
                assert isinstance(status, PathStatus)
                assert status.held_bps == self.model.total_bps(host)
                return status.own_bps
        return 0

    @rule(
        first=PICK,
        second=PICK,
        rates=st.tuples(RATES, RATES),
        is_overlapped=st.booleans(),
        then=AVAILABLE,
        refuses=SOMETIMES,
        is_gone=SOMETIMES,
        interrupts=st.booleans(),
    )
    def wait_for_one_view(
        self,
        first: int,
        second: int,
        rates: tuple[int, int],
        is_overlapped: bool,
        then: int | None,
        refuses: bool,
        is_gone: bool,
        interrupts: bool,
    ) -> None:
        """Two rates wait for numbers, which decide about both."""
        _, flow_id = self.flow(first)
        if not flow_id:
            return
        to = HOSTS.index(self.model.flows[flow_id].host)
        self.see(to, None, False, 0, refuses=False, is_gone=False, interrupts=False)
        for pick, rate_bps in zip((first, second), rates, strict=True):
            self.set_rate(pick, rate_bps, is_overlapped, False, False, False, False)
            self.books_are_right()
        self.see(to, then, False, 0, refuses=refuses, is_gone=is_gone, interrupts=interrupts)

    @rule(
        first=PICK,
        second=PICK,
        is_notice=st.booleans(),
        takes=RATES,
        then=AVAILABLE,
        elapsed_ns=st.sampled_from([0, QUOTE_NS, QUOTE_NS + 1]),
    )
    def use_what_was_told(
        self,
        first: int,
        second: int,
        is_notice: bool,
        takes: int,
        then: int | None,
        elapsed_ns: int,
    ) -> None:
        """A flow is told what is free; another takes some, the numbers fall, and it asks for it."""
        _, flow_id = self.flow(first)
        if not flow_id:
            return
        flow = self.model.flows[flow_id]
        told_bps = self.model.known_bps(flow.host, self.driven.now_ns)
        if told_bps is None:
            return
        if is_notice:
            self.ask_notice(first, NoticeKind.AVAILABLE, flow.held_bps + max(1, told_bps))
        else:
            self.query(first, is_fresh=False, is_overlapped=False)
        self.books_are_right()
        self.set_rate(second, takes, False, False, False, False, False)
        self.books_are_right()
        self.see(HOSTS.index(flow.host), then, False, 0, False, False, False)
        self.driven.wait(elapsed_ns)
        self.books_are_right()
        if flow_id in self.model.flows:
            rate_bps = flow.held_bps + max(0, told_bps)
            self.set_rate(first, rate_bps, False, False, False, False, False)

    @rule(to=HOST, verdict=VERDICTS)
    def tell(self, to: int, verdict: bool | None) -> None:
        host, path = HOSTS[to], self.model.paths[HOSTS[to]]
        if not path.runs:
            return
        path.judge(verdict, self.driven.now_ns)
        path.settle()
        engine, now_ns = self.driven.engine, self.driven.now_ns
        congestion = Congestion(verdict)
        self.tell_path(
            host,
            lambda: self.driven.carry_out(
                engine.receive_congestion(host, congestion, now_ns=now_ns)
            ),
        )

    @rule(to=HOST, why=st.sampled_from([BROKE, SLOW, NO_SINK]), happens=SOMETIMES)
    def end(self, to: int, why: Obstacle, happens: bool) -> None:
        host, path = HOSTS[to], self.model.paths[HOSTS[to]]
        if not happens:
            return
        engine, now_ns = self.driven.engine, self.driven.now_ns
        if path.runs:
            was_measured = path.view is not None or isinstance(path.obstacle, Refusal)
            path.obstacle = BROKE if isinstance(why, Refusal) or was_measured else why
            path.runs = path.is_alert = False
            path.verdict = None
            path.retry_by_ns = now_ns + LONGEST_PAUSE_NS
        self.driven.carry_out(engine.receive_experiments_ended(host, why, now_ns=now_ns))

    @rule(
        to=HOST,
        interface=INTERFACES,
        trouble=st.sampled_from([None, None, None, DOWN, NOT_ALLOWED]),
        happens=SOMETIMES,
    )
    def move(self, to: int, interface: int, trouble: Obstacle | None, happens: bool) -> None:
        """Packets to a host leave another way, or none."""
        host, engine, now_ns = HOSTS[to], self.driven.engine, self.driven.now_ns
        if not happens:
            return
        found = trouble or way(host, interface)
        if host in engine.tracked_hosts():
            self.model.paths[host].locate(found)
        self.driven.carry_out(engine.receive_path(host, found, now_ns=now_ns))

    # -- time, and what is sent in it -------------------------------------------------------

    @rule(pick=PICK, share=st.sampled_from([0, 50, 100, 200]))
    def send(self, pick: int, share: int) -> None:
        _, flow_id = self.flow(pick)
        if flow_id:
            self.model.flows[flow_id].share = share

    @rule(
        elapsed_ns=st.sampled_from([S // 10] * 3 + [S] * 3 + [2 * S, 2 * S, 31 * S, 121 * S]),
        is_late=SOMETIMES,
    )
    def wait(self, elapsed_ns: int, is_late: bool) -> None:
        driven = self.driven
        if is_late:
            driven.now_ns += elapsed_ns
            driven.carry_out(driven.engine.handle_timer(now_ns=driven.now_ns))
        else:
            driven.wait(elapsed_ns)
        due_ns = driven.engine.next_timer_ns()
        assert due_ns is None or due_ns > driven.now_ns
        self.books_are_right()
        self.count(elapsed_ns)

    def count(self, elapsed_ns: int) -> None:
        """Flows with odd sockets are TCP's, whose bytes are counted."""
        watched = self.driven.engine.watched_sockets()
        counters: dict[int, FlowCounters] = {}
        for flow in self.model.flows.values():
            sent_bytes = flow.held_bps * flow.share // 100 * elapsed_ns // (8 * S)
            flow.sent_bytes += sent_bytes
            path = self.model.paths[flow.host]
            if path.way is not None:
                self.left_bytes[path.way.interface] += sent_bytes
            if flow.cookie in watched:
                is_tcp = flow.cookie % 2
                counters[flow.cookie] = FlowCounters(flow.sent_bytes if is_tcp else None)
        loads = {
            interface: LinkLoad(left_bytes, SPEEDS[interface])
            for interface, left_bytes in self.left_bytes.items()
        }
        now_ns = self.driven.now_ns
        self.driven.carry_out(self.driven.engine.receive_counters(counters, loads, now_ns=now_ns))

    # -- what always holds ------------------------------------------------------------------

    @invariant()
    def limits_are_kept(self) -> None:
        now_ns = self.driven.now_ns
        for request_id, asked in self.model.asked.items():
            if request_id not in self.driven.answers and asked.limit_ns is not None:
                assert now_ns < asked.limit_ns, "a request waits for longer than it may"

    @invariant()
    def experiments_follow_the_interest(self) -> None:
        self.books_are_right()
        now_ns = self.driven.now_ns
        for host, path in self.model.paths.items():
            self.was_wanted[host] = is_wanted = self.model.is_wanted(host)
            if is_wanted or not path.runs:
                self.idle_since_ns[host] = now_ns
            else:
                assert now_ns - self.idle_since_ns[host] <= WARM_NS, "they go on for nobody"
            if path.is_blocked:
                assert not path.runs, "they run where they must not"
            elif is_wanted and path.way is not None:
                is_paused = path.retry_by_ns is not None and now_ns < path.retry_by_ns
                assert path.runs or is_paused, "they do not run though somebody wants them"
            if path.runs:
                waits = any(
                    asked.flow_id in self.model.flows
                    and self.model.flows[asked.flow_id].host == host
                    for asked in self.model.asked.values()
                )
                assert path.is_alert == (waits or self.model.total_bps(host) > 0)

    def teardown(self) -> None:
        for handle in self.handles:
            self.driven.ask(handle, rq.CloseHandle())
        # No request is left open, though nobody measures any more.
        every = set(range(1, self.driven.asked + 1))
        assert set(self.driven.answers) == every - self.interrupted
        assert not self.mechanism.observe()
        self.driven.wait(WARM_NS + S)
        assert self.driven.engine.tracked_hosts() == ()
        assert self.driven.engine.next_timer_ns() is None
        assert self.driven.engine.entry_count == 0


AdaptiveMachine.TestCase.settings = settings(max_examples=400, stateful_step_count=50)
TestAdaptive = AdaptiveMachine.TestCase

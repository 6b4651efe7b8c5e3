"""Any sequence of inputs: the engine against a model of the contract.

The model knows which flow holds which (socket, destination) pairs, what was set on it, by
which policy it is marked, and who waits. After each step everything that can be asked of the
engine is asked and compared, and the plans that the mechanism holds have to be those of the
model. At random the mechanism refuses, or finds sockets gone; then a refused call has to have
changed nothing.

Nothing waits for experiments here, and no numbers get old: that is `test_adaptive_machine`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from openqwave.admission.policy import (
    WINDOWS_MARKS,
    Experiments,
    Limits,
    Marks,
    Policy,
    queue_priority,
)
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.flow import UNTOUCHED, NoticeKind, Shaping, TrafficType, Treatment
from openqwave.subsystem import requests as rq
from openqwave.subsystem.effects import SocketPlan
from tests.unit.driven import (
    NO_MECHANISM,
    OWNER,
    ROOT,
    STRANGER,
    USER,
    A,
    B,
    Driven,
    add,
    facts,
    notify,
    query,
    rate,
    view,
)

Pair = tuple[int, Endpoint]

COOKIES = st.integers(1, 4)
DESTINATIONS = st.sampled_from([A, B])
TYPES = st.sampled_from(TrafficType)
# Rates around what the views below leave to spare.
RATES = st.sampled_from([0, 1, 500, 1_000, 1_500, 2_000, None])
SHAPINGS = st.sampled_from(Shaping)
AVAILABLE = st.sampled_from([None, 0, 1_000])
CONGESTION = st.sampled_from([None, False, True])

# Which flow or request a step is about: an index into the living ones, through the handle that
# owns it; now and then (see `pick_flow`) one that is not there, or through another handle.
PICK = st.integers(0, 63)
REFUSES = st.sampled_from([False, False, False, True])
# What ends much at once is rare, or nothing would live long enough to be interesting.
RARELY = st.sampled_from([False] * 15 + [True])

# Small, so that they are reached.
LIMITS = Limits(handles=3, flows=5, destinations_per_flow=2, tracked_hosts=1, pending_operations=3)
LOWER_LIMITS = Limits(
    handles=2, flows=3, destinations_per_flow=1, tracked_hosts=1, pending_operations=1
)
# Some types are marked otherwise, some not at all, and two alike that were not.
OTHER_MARKS: Mapping[TrafficType, Marks | None] = {
    **WINDOWS_MARKS,
    TrafficType.BEST_EFFORT: Marks(8, 2),
    TrafficType.AUDIO_VIDEO: Marks(34, 4),
    TrafficType.VOICE: None,
}

IMPATIENT = Experiments(answer_ns=0, estimate_age_ns=10**18)
# Longer than what was said to be free is honoured for.
STEP_NS = 2 * 10**9

# An id that no flow has.
NO_FLOW = 1 << 31

ABORTED = ErrorCode.ERROR_OPERATION_ABORTED


@dataclass
class ModelFlow:
    """What the contract says a flow is."""

    handle: int
    owner: int
    is_adaptive: bool
    kind: TrafficType
    pairs: dict[Pair, None] = field(default_factory=dict)
    dscp: int | None = None
    rate_bps: int | None = None
    shaping: Shaping = Shaping.SHAPE_AND_MARK
    # Adaptive and not admitted yet, or ended by a rate of 0.
    is_off: bool = False
    # The far end of an adaptive flow's path.
    host: Endpoint | None = None
    waiting: dict[NoticeKind, int] = field(default_factory=dict)
    # Those of the policy under which it was last changed.
    marks: Mapping[TrafficType, Marks | None] = field(default_factory=lambda: WINDOWS_MARKS)

    def treatment(self, by: Mapping[TrafficType, Marks | None] | None = None) -> Treatment:
        if self.is_off:
            return UNTOUCHED
        marks = (self.marks if by is None else by)[self.kind]
        dscp = self.dscp if self.dscp is not None else None if marks is None else marks.dscp
        if self.rate_bps is not None and self.shaping is Shaping.SHAPE_ONLY:
            dscp = None
        return Treatment(
            dscp,
            None if dscp is None else queue_priority(dscp),
            self.rate_bps,
            self.rate_bps is not None and self.shaping is Shaping.USE_NON_CONFORMANT_MARKINGS,
        )


class EngineMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.driven = Driven(Policy(limits=LIMITS, experiments=IMPATIENT))
        self.limits, self.marks = LIMITS, WINDOWS_MARKS
        self.open: dict[int, int] = {}
        self.lost: set[int] = set()
        self.model: dict[int, ModelFlow] = {}
        self.views: dict[Endpoint, tuple[int | None, bool | None] | None] = {A: None, B: None}
        # Requests that the model says are answered, and how (None for success).
        self.expected: dict[int, ErrorCode | None] = {}
        self.rates_asked: dict[int, int | None] = {}
        self.ended: list[int] = []
        # What of the contracts was in use when the path was seen, as far as it may still be.
        self.own_bps = {A: 0, B: 0}

    # -- the model ------------------------------------------------------------------

    def end(self, flow_id: int) -> None:
        flow = self.model.pop(flow_id)
        self.ended.append(flow_id)
        self.give_up(flow, flow.rate_bps or 0)
        for request_id in flow.waiting.values():
            self.expected[request_id] = ABORTED

    def give_up(self, flow: ModelFlow, rate_bps: int) -> None:
        """What a contract gives up is found by the next view, and not assumed to be free."""
        if flow.host is not None:
            self.own_bps[flow.host] = max(0, self.own_bps[flow.host] - rate_bps)

    def held_bps(self, host: Endpoint) -> int:
        return sum(flow.rate_bps or 0 for flow in self.model.values() if flow.host == host)

    def drop_pairs(self, flow_id: int, pairs: list[Pair]) -> None:
        flow = self.model[flow_id]
        for pair in pairs:
            flow.pairs.pop(pair, None)
        if not flow.pairs:
            self.end(flow_id)

    def holders(self, cookie: int) -> list[int]:
        return [
            flow_id
            for flow_id, flow in self.model.items()
            if any(p[0] == cookie for p in flow.pairs)
        ]

    def lose_sockets(self, cookies: set[int]) -> None:
        for cookie in cookies:
            for flow_id in self.holders(cookie):
                pairs = [pair for pair in self.model[flow_id].pairs if pair[0] == cookie]
                self.drop_pairs(flow_id, pairs)

    def own(self, handle: int, flow_id: int) -> ModelFlow | None:
        flow = self.model.get(flow_id)
        return flow if flow is not None and flow.handle == handle else None

    def handle_refusal(self, handle: int) -> ErrorCode | None:
        if handle not in self.open:
            return ErrorCode.ERROR_INVALID_HANDLE
        if handle in self.lost:
            return ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED
        return None

    def view_of(self, flow: ModelFlow) -> tuple[int | None, bool | None] | None:
        return None if flow.host is None else self.views[flow.host]

    def holds(self, flow: ModelFlow, kind: NoticeKind, rate_bps: int | None) -> bool:
        seen = self.view_of(flow)
        assert seen is not None
        is_congested = seen[1]
        match kind:
            case NoticeKind.CONGESTED:
                return is_congested is True
            case NoticeKind.UNCONGESTED:
                return is_congested is False
            case NoticeKind.AVAILABLE:
                assert rate_bps is not None
                return self.admission(flow, rate_bps) is None

    def admission(self, flow: ModelFlow, rate_bps: int) -> ErrorCode | None:
        """Can the path of a flow carry a rate? None means yes."""
        seen, held = self.view_of(flow), flow.rate_bps or 0
        if seen is None or rate_bps <= held:
            return None
        available = seen[0]
        if available is None:
            return ErrorCode.ERROR_RETRY
        # Of a congested path nothing is free, whatever was found before.
        free = 0 if seen[1] else available
        # "reservations that are admitted but not yet in use count as used": what was granted
        # since the path was seen is in no estimate.
        assert flow.host is not None
        unused = self.held_bps(flow.host) - self.own_bps[flow.host]
        return None if rate_bps <= held + free - unused else ErrorCode.ERROR_NETWORK_BUSY

    def pick_handle(self, pick: int) -> int:
        """An open handle, or now and then one that never was."""
        handles = list(self.open)
        return handles[pick % len(handles)] if handles and pick % 16 != 15 else 999

    def pick_flow(self, pick: int) -> tuple[int, int]:
        """A flow with its handle; now and then an ended one, or another handle."""
        flows = list(self.model)
        if not flows or pick % 16 == 15:
            return self.pick_handle(pick // 16), self.ended[-1] if self.ended else NO_FLOW
        flow_id = flows[pick % len(flows)]
        if pick % 16 == 14:
            return self.pick_handle(pick // 16), flow_id
        return self.model[flow_id].handle, flow_id

    # -- steps ----------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        for owner in (OWNER, OWNER, STRANGER):
            self.open_handle(owner)
        for host in (A, B):
            self.path_view(host, 1_000, None, is_lost=False)
        for cookie, is_adaptive in ((1, False), (2, True), (3, True)):
            self.add_new(cookie, cookie, A, TrafficType.VOICE, is_adaptive, refuses=False)

    def refused_by_chance(self, refuses: bool) -> None:
        self.driven.mechanism.refusals = [NO_MECHANISM] if refuses else []

    def check(self, handle: int, request: rq.Request, expected: ErrorCode | None) -> bool:
        """Put a request; was it granted? Its refusal has to be the one that is expected."""
        self.driven.now_ns += STEP_NS
        result = self.driven.result(handle, request)
        refused = self.handle_refusal(handle) or expected
        if refused is None:
            if isinstance(result, Refusal):
                # What is left is the mechanism's refusal, which the step arranged.
                assert result == NO_MECHANISM, result
                return False
            return True
        assert isinstance(result, Refusal), (request, result)
        assert result.code is refused, (request, result)
        return False

    @rule(owner=st.sampled_from([OWNER, STRANGER]))
    def open_handle(self, owner: int) -> None:
        handle = self.driven.engine.open_handle(owner)
        if sum(other == owner for other in self.open.values()) >= self.limits.handles:
            assert isinstance(handle, Refusal)
            assert handle.code is ErrorCode.ERROR_NO_SYSTEM_RESOURCES
            return
        assert isinstance(handle, int)
        self.open[handle] = owner

    @rule(
        pick=PICK,
        cookie=COOKIES,
        destination=DESTINATIONS,
        kind=TYPES,
        is_adaptive=st.booleans(),
        refuses=REFUSES,
    )
    def add_new(
        self,
        pick: int,
        cookie: int,
        destination: Endpoint,
        kind: TrafficType,
        is_adaptive: bool,
        refuses: bool,
    ) -> None:
        handle = self.pick_handle(pick)
        self.refused_by_chance(refuses)
        owner = self.open.get(handle)
        held = sum(flow.owner == owner for flow in self.model.values())
        expected = ErrorCode.ERROR_NO_SYSTEM_RESOURCES if held >= self.limits.flows else None
        request = add(0, facts(cookie), destination, kind, is_adaptive=is_adaptive)
        if not self.check(handle, request, expected):
            return
        flow_id = self.driven.answers[self.driven.asked]
        assert isinstance(flow_id, int)
        assert flow_id not in self.model
        self.take_over(cookie, destination, None)
        self.model[flow_id] = ModelFlow(
            handle,
            self.open[handle],
            is_adaptive,
            kind,
            {(cookie, destination): None},
            is_off=is_adaptive,
            host=destination if is_adaptive else None,
            marks=self.marks,
        )

    def take_over(self, cookie: int, destination: Endpoint, by: int | None) -> None:
        for other in self.holders(cookie):
            if other != by and (cookie, destination) in self.model[other].pairs:
                self.drop_pairs(other, [(cookie, destination)])

    @rule(
        pick=PICK,
        cookie=COOKIES,
        destination=DESTINATIONS,
        is_adaptive=st.sampled_from([False, False, False, True]),
        refuses=REFUSES,
    )
    def join(
        self,
        pick: int,
        cookie: int,
        destination: Endpoint,
        is_adaptive: bool,
        refuses: bool,
    ) -> None:
        handle, flow_id = self.pick_flow(pick)
        flow = self.own(handle, flow_id)
        expected = None
        if flow is None or flow.is_adaptive or is_adaptive:
            expected = ErrorCode.ERROR_INVALID_PARAMETER
        elif (cookie, destination) not in flow.pairs and sum(
            pair[0] == cookie for pair in flow.pairs
        ) >= self.limits.destinations_per_flow:
            expected = ErrorCode.ERROR_NO_SYSTEM_RESOURCES
        self.refused_by_chance(refuses)
        request = add(flow_id, facts(cookie), destination, is_adaptive=is_adaptive)
        if self.check(handle, request, expected):
            self.take_over(cookie, destination, flow_id)
            self.model[flow_id].pairs[cookie, destination] = None

    @rule(pick=PICK, refuses=REFUSES)
    def remove_flow(self, pick: int, refuses: bool) -> None:
        handle, flow_id = self.pick_flow(pick)
        self.refused_by_chance(refuses)
        expected = None if self.own(handle, flow_id) else ErrorCode.ERROR_NOT_FOUND
        if self.check(handle, rq.RemoveSocket(flow_id, None), expected):
            self.end(flow_id)

    @rule(pick=PICK, cookie=COOKIES, refuses=REFUSES)
    def remove_socket(self, pick: int, cookie: int, refuses: bool) -> None:
        handle, flow_id = self.pick_flow(pick)
        self.refused_by_chance(refuses)
        flow = self.own(handle, flow_id)
        expected = None
        if flow is None:
            expected = ErrorCode.ERROR_NOT_FOUND
        elif not any(pair[0] == cookie for pair in flow.pairs):
            expected = ErrorCode.ERROR_INVALID_PARAMETER
        if self.check(handle, rq.RemoveSocket(flow_id, cookie), expected):
            pairs = [pair for pair in self.model[flow_id].pairs if pair[0] == cookie]
            self.drop_pairs(flow_id, pairs)

    @rule(pick=PICK, kind=TYPES, refuses=REFUSES)
    def set_type(self, pick: int, kind: TrafficType, refuses: bool) -> None:
        handle, flow_id = self.pick_flow(pick)
        self.refused_by_chance(refuses)
        flow = self.own(handle, flow_id)
        expected = None if flow else ErrorCode.ERROR_NOT_FOUND
        if self.check(handle, rq.SetTrafficType(flow_id, kind), expected):
            assert flow is not None
            flow.kind, flow.dscp, flow.marks = kind, None, self.marks
            flow.is_off = flow.is_off and flow.is_adaptive

    @rule(
        pick=PICK,
        dscp=st.sampled_from([-1, 0, 8, 46, 63, 64]),
        has_rights=st.booleans(),
        refuses=REFUSES,
    )
    def set_dscp(self, pick: int, dscp: int, has_rights: bool, refuses: bool) -> None:
        handle, flow_id = self.pick_flow(pick)
        self.refused_by_chance(refuses)
        flow = self.own(handle, flow_id)
        expected = None
        if flow is None:
            expected = ErrorCode.ERROR_NOT_FOUND
        elif not 0 <= dscp <= 63:
            expected = ErrorCode.ERROR_INVALID_PARAMETER
        elif not has_rights:
            expected = ErrorCode.ERROR_ACCESS_DENIED
        elif flow.is_adaptive:
            expected = ErrorCode.ERROR_NOT_SUPPORTED
        request = rq.SetDscp(flow_id, dscp, ROOT if has_rights else USER)
        if self.check(handle, request, expected):
            assert flow is not None
            flow.dscp, flow.is_off, flow.marks = dscp, False, self.marks

    @rule(pick=PICK, rate_bps=RATES, shaping=SHAPINGS, refuses=REFUSES)
    def set_rate(self, pick: int, rate_bps: int | None, shaping: Shaping, refuses: bool) -> None:
        handle, flow_id = self.pick_flow(pick)
        self.refused_by_chance(refuses)
        flow = self.own(handle, flow_id)
        wanted = 64_000 if rate_bps is None else rate_bps
        expected = None
        if flow is None:
            expected = ErrorCode.ERROR_NOT_FOUND
        elif wanted:
            expected = self.admission(flow, wanted)
        if self.check(handle, rate(flow_id, rate_bps, shaping), expected):
            assert flow is not None
            self.give_up(flow, max(0, (flow.rate_bps or 0) - wanted))
            flow.marks = self.marks
            if wanted:
                flow.rate_bps, flow.shaping = wanted, shaping
                flow.is_off = False
            else:
                flow.rate_bps, flow.dscp, flow.is_off = None, None, True

    @rule(
        pick=PICK,
        kind=st.sampled_from(NoticeKind),
        rate_bps=st.sampled_from([1, 1_000, 2_000, 10_000]),
    )
    def notify(self, pick: int, kind: NoticeKind, rate_bps: int) -> None:
        handle, flow_id = self.pick_flow(pick)
        flow = self.own(handle, flow_id)
        refused = self.handle_refusal(handle)
        asked = rate_bps if kind is NoticeKind.AVAILABLE else None
        pending = sum(
            len(other.waiting)
            for other in self.model.values()
            if flow is not None and other.owner == flow.owner
        )
        if refused is None:
            if flow is None:
                refused = ErrorCode.ERROR_NOT_FOUND
            elif pending >= self.limits.pending_operations:
                refused = ErrorCode.ERROR_NO_SYSTEM_RESOURCES
            elif self.view_of(flow) is None:
                refused = ErrorCode.ERROR_NOT_SUPPORTED
            elif asked is not None and asked <= (flow.rate_bps or 0):
                refused = ErrorCode.ERROR_INVALID_PARAMETER
            elif kind in flow.waiting:
                refused = ErrorCode.ERROR_ALREADY_EXISTS
        request_id = self.driven.ask(handle, notify(flow_id, kind, asked))
        if refused is not None:
            self.expected[request_id] = refused
        elif flow is not None:
            if self.holds(flow, kind, asked):
                self.expected[request_id] = None
            else:
                flow.waiting[kind] = request_id
                self.rates_asked[request_id] = asked

    @rule(pick=PICK, is_own=st.booleans())
    def cancel(self, pick: int, is_own: bool) -> None:
        waiting = [
            (flow.handle, request_id)
            for flow in self.model.values()
            for request_id in flow.waiting.values()
        ]
        handle, request_id = (
            waiting[pick % len(waiting)] if waiting else (self.pick_handle(pick), 1)
        )
        if not is_own:
            handle = self.pick_handle(pick)
        flow = next(
            (
                flow
                for flow in self.model.values()
                if flow.handle == handle and request_id in flow.waiting.values()
            ),
            None,
        )
        expected = None if flow else ErrorCode.ERROR_INVALID_PARAMETER
        if self.check(handle, rq.Cancel(request_id), expected):
            assert flow is not None
            self.expected[request_id] = ABORTED
            flow.waiting = {k: r for k, r in flow.waiting.items() if r != request_id}

    @rule(host=DESTINATIONS, available=AVAILABLE, is_congested=CONGESTION, is_lost=RARELY)
    def path_view(
        self, host: Endpoint, available: int | None, is_congested: bool | None, is_lost: bool
    ) -> None:
        self.views[host] = None if is_lost else (available, is_congested)
        self.own_bps[host] = self.held_bps(host)
        self.driven.see(
            host, None if is_lost else view(available_bps=available, is_congested=is_congested)
        )
        for flow in self.model.values():
            if flow.host != host:
                continue
            for kind, request_id in list(flow.waiting.items()):
                asked = self.rates_asked[request_id]
                if is_lost:
                    self.expected[request_id] = ErrorCode.ERROR_NOT_SUPPORTED
                elif self.holds(flow, kind, asked):
                    self.expected[request_id] = None
                else:
                    continue
                del flow.waiting[kind]

    @rule(cookies=st.sets(COOKIES, max_size=2), happens=RARELY)
    def sockets_gone(self, cookies: set[int], happens: bool) -> None:
        if not happens:
            return
        self.driven.forget(*cookies)
        for cookie in cookies:
            self.driven.mechanism.plans.pop(cookie, None)
        self.lose_sockets(cookies)

    @rule(pick=PICK, cookie=COOKIES, kind=TYPES)
    def found_gone(self, pick: int, cookie: int, kind: TrafficType) -> None:
        """A change during which the mechanism finds a socket gone."""
        handle, flow_id = self.pick_flow(pick)
        flow = self.own(handle, flow_id)
        if self.handle_refusal(handle) or flow is None:
            return
        self.driven.mechanism.refusals = []
        self.driven.mechanism.gone = {cookie}
        request_id = self.driven.ask(handle, rq.SetTrafficType(flow_id, kind))
        self.driven.mechanism.gone = set()
        flow.kind, flow.dscp, flow.marks = kind, None, self.marks
        flow.is_off = flow.is_off and flow.is_adaptive
        if any(pair[0] == cookie for pair in flow.pairs):
            self.lose_sockets({cookie})
        ended = flow_id not in self.model
        self.expected[request_id] = ErrorCode.ERROR_NOT_FOUND if ended else None

    @rule(pick=PICK, refuses=REFUSES, happens=RARELY)
    def close_handle(self, pick: int, refuses: bool, happens: bool) -> None:
        handle = self.pick_handle(pick)
        if not happens and handle not in self.lost:
            return
        self.refused_by_chance(refuses)
        request_id = self.driven.ask(handle, rq.CloseHandle())
        # A close cannot be refused: what the mechanism keeps then is its own affair.
        self.expected[request_id] = None if handle in self.open else self.handle_refusal(handle)
        owned = [flow_id for flow_id, flow in self.model.items() if flow.handle == handle]
        touched = {pair[0] for flow_id in owned for pair in self.model[flow_id].pairs}
        for flow_id in owned:
            self.end(flow_id)
        self.open.pop(handle, None)
        self.lost.discard(handle)
        if self.driven.mechanism.refusals == [] and refuses and touched:
            self.settle(touched)

    @rule(
        marks=st.sampled_from([WINDOWS_MARKS, OTHER_MARKS]),
        limits=st.sampled_from([LIMITS, LOWER_LIMITS]),
        refuses=REFUSES,
    )
    def obey(
        self, marks: Mapping[TrafficType, Marks | None], limits: Limits, refuses: bool
    ) -> None:
        """Another policy; a refusal of some is no refusal of the others."""
        self.marks, self.limits = marks, limits
        due = [flow for flow in self.model.values() if flow.treatment() != flow.treatment(marks)]
        self.refused_by_chance(refuses)
        policy = Policy(marks, limits=limits, experiments=IMPATIENT)
        driven = self.driven
        driven.carry_out(driven.engine.receive_policy(policy, now_ns=driven.now_ns))
        # The first plan is refused; what can be cut in two has its parts taken.
        is_refused = refuses and bool(due)
        assert driven.mechanism.refusals == ([NO_MECHANISM] if refuses and not due else [])
        if not is_refused or not self.are_joined(due):
            for flow in self.model.values():
                flow.marks = marks

    def are_joined(self, flows: list[ModelFlow]) -> bool:
        """Do flows share sockets, one with another, so that none stands apart?"""
        sockets = [{cookie for cookie, _ in flow.pairs} for flow in flows]
        joined = sockets.pop()
        while touching := [one for one in sockets if one & joined]:
            joined = joined.union(*touching)
            sockets = [one for one in sockets if one not in touching]
        return not sockets

    @rule(happens=RARELY)
    def interrupt(self, happens: bool) -> None:
        if not happens:
            return
        self.driven.mechanism.refusals = []
        self.driven.interrupt()
        for flow_id in list(self.model):
            self.end(flow_id)
        self.lost = set(self.open)
        # Nothing that was known before the machine slept holds.
        self.views = {A: None, B: None}

    def settle(self, cookies: set[int]) -> None:
        """Bring the mechanism, which refused, to what it would hold."""
        plans = self.driven.mechanism.plans
        for cookie in cookies & plans.keys():
            # A socket that other handles' flows hold as well stays theirs.
            holders = self.holders(cookie)
            left = [share for share in plans[cookie].shares if share.flow_id in holders]
            if left:
                plans[cookie] = SocketPlan(cookie, tuple(left))
            else:
                del plans[cookie]

    # -- what always holds ----------------------------------------------------------

    @invariant()
    def answers_are_the_models(self) -> None:
        for request_id, expected in self.expected.items():
            result = self.driven.answers[request_id]
            if expected is None:
                assert result is None, (request_id, result)
            else:
                assert isinstance(result, Refusal)
                assert result.code is expected, (request_id, result, expected)
        for flow in self.model.values():
            for request_id in flow.waiting.values():
                assert request_id not in self.driven.answers

    @invariant()
    def sockets_are_the_models(self) -> None:
        held = {pair[0] for flow in self.model.values() for pair in flow.pairs}
        assert set(self.driven.engine.sockets()) == held
        for cookie in range(1, 5):
            assert self.driven.engine.holds(cookie) == (cookie in held)
        assert set(self.driven.engine.handle_ids()) == set(self.open)

    @invariant()
    def plans_are_the_models(self) -> None:
        for cookie in range(1, 5):
            holders = self.holders(cookie)
            plan = self.driven.mechanism.plans.get(cookie)
            if not holders:
                assert plan is None, plan
                continue
            assert plan is not None
            assert {share.flow_id: share.treatment for share in plan.shares} == {
                flow_id: self.model[flow_id].treatment() for flow_id in holders
            }

    @invariant()
    def queries_are_the_models(self) -> None:
        alive = [handle for handle in self.open if handle not in self.lost]
        if not alive:
            return
        assert self.driven.enumerated(alive[0]) == tuple(sorted(self.model))
        for flow_id, flow in self.model.items():
            result = self.driven.result(alive[0], query(flow_id, rq.Question.OUTGOING_RATE, ROOT))
            if flow.rate_bps is None:
                assert isinstance(result, Refusal)
                assert result.code is ErrorCode.ERROR_NO_DATA
            else:
                assert result == flow.rate_bps

    def teardown(self) -> None:
        self.driven.mechanism.refusals = []
        for handle in list(self.open):
            self.driven.ask(handle, rq.CloseHandle())
        assert self.driven.engine.sockets() == ()
        assert self.driven.engine.handle_ids() == ()
        # Every request was answered, exactly once (`Driven` sees to the latter).
        assert set(self.driven.answers) == set(range(1, self.driven.asked + 1))


EngineMachine.TestCase.settings = settings(max_examples=400, stateful_step_count=40)
TestEngine = EngineMachine.TestCase

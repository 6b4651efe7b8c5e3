"""Any sequence of inputs on measured paths: what always holds, whatever happens.

* Contracts never exceed what was granted: after an increase on a measured path, all contracts there
  together are within what was said to be free of it, now or, as quotes are honoured, within the
  last second; and nothing grows on a congested path.
* No operation completes twice, or never: a request that may wait for a limited time is answered by
  then, and all are once everything is closed.
* No timer is lost: experiments are begun once, end when nobody has wanted them for two minutes, and
  are begun again after they failed.
* Memory returns to its start.

Nothing is sent here, so contracts are never in use, and all of them count as used.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

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
from openqwave.model.flow import NoticeKind, RateReason, Shaping
from openqwave.model.path import LinkType, PathFacts
from openqwave.subsystem import requests as rq
from openqwave.subsystem.effects import MeasureAfresh, SetEffort, StartExperiments, StopExperiments
from openqwave.subsystem.usage import LinkLoad
from tests.unit.driven import (
    NO_MECHANISM,
    OWNER,
    STRANGER,
    USER,
    A,
    B,
    Driven,
    add,
    facts,
    notify,
)

S = 10**9
HOSTS = [Endpoint(A.packed, 0), Endpoint(B.packed, 0)]
LIMITS = Limits(handles=3, flows=6, tracked_hosts=2, pending_operations=6)
POLICY = Policy(limits=LIMITS)
ANSWER_NS, WARM_NS = POLICY.experiments.answer_ns, POLICY.experiments.warm_ns
# A quote is honoured for a second.
QUOTE_NS = S

PICK = st.integers(0, 63)
HOST = st.integers(0, 1)
RATES = st.sampled_from([0, 1, 400, 500, 1_000, 1_500])
AVAILABLE = st.sampled_from([None, 0, 500, 1_000, 2_000])
RARELY = st.sampled_from([False] * 11 + [True])


def way(host: Endpoint, interface: int) -> PathFacts:
    return PathFacts(host, interface, "eth0", b"", b"", 1500, LinkType.WIRED)


TROUBLES = [
    Unmeasurable("no sink answers"),
    Refusal(ErrorCode.ERROR_UNEXP_NET_ERR, "it broke"),
    Refusal(ErrorCode.ERROR_TIMEOUT, "it took too long"),
]


class AdaptiveMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.driven = Driven(POLICY)
        self.start_count = self.driven.engine.entry_count
        self.handles: list[int] = []
        self.flows: dict[int, tuple[int, Endpoint]] = {}
        self.cookie = 0
        self.running: set[Endpoint] = set()
        self.measured: set[Endpoint] = set()
        self.congested: set[Endpoint] = set()
        # What was free of each path, since when; the last of them is so now.
        self.free: dict[Endpoint, deque[tuple[int, int]]] = {host: deque() for host in HOSTS}
        self.held: dict[int, int] = {}
        self.limits_ns: dict[int, int] = {}
        self.interested_ns: dict[Endpoint, int] = {}
        self.tracked: set[tuple[int, Endpoint]] = set()

    # -- what the engine wants --------------------------------------------------------

    def look(self) -> None:
        """Take the effects of a step, and hold them to the rules."""
        for effect in self.driven.experiments:
            match effect:
                case StartExperiments(found):
                    assert found.host not in self.running, "begun twice"
                    self.running.add(found.host)
                case StopExperiments(host):
                    assert host in self.running, "ended, and not begun"
                    self.running.discard(host)
                    self.forget(host)
                case SetEffort(host) | MeasureAfresh(host):
                    assert host in self.running
        self.driven.experiments.clear()
        before, self.held = self.held, self.asked_rates()
        for flow_id, rate_bps in self.held.items():
            host = self.flows[flow_id][1]
            if rate_bps > before.get(flow_id, 0) and host in self.measured:
                assert host not in self.congested, "granted on a congested path"
                total = sum(self.held[one] for one, (_, to) in self.flows.items() if to == host)
                assert total <= self.most_free(host), (host, total, self.free[host])

    def asked_rates(self) -> dict[int, int]:
        """The contract of each flow that still is; the others are forgotten."""
        rates: dict[int, int] = {}
        for flow_id, (handle, _) in list(self.flows.items()):
            answer = self.driven.result(
                handle, rq.QueryFlow(flow_id, rq.Question.OUTGOING_RATE, USER)
            )
            if isinstance(answer, Refusal):
                if answer.code is not ErrorCode.ERROR_NO_DATA:
                    del self.flows[flow_id]
                    continue
                answer = 0
            assert isinstance(answer, int)
            rates[flow_id] = answer
        return rates

    def most_free(self, host: Endpoint) -> int:
        """The most that was said to be free of a path within a quote's time."""
        since_ns = self.driven.now_ns - QUOTE_NS
        said = self.free[host]
        while len(said) > 1 and said[1][0] < since_ns:
            said.popleft()
        return max(free_bps for _, free_bps in said)

    def forget(self, host: Endpoint) -> None:
        self.measured.discard(host)
        self.congested.discard(host)
        self.free[host].clear()

    # -- steps ------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        for owner in (OWNER, STRANGER):
            self.handles.append(self.driven.open(owner))
        for turn in range(3):
            self.make_flow(turn, turn % 2, 1)
        self.see(0, 1_000, False, 0)

    def handle(self, pick: int) -> int:
        return self.handles[pick % len(self.handles)] if self.handles else 0

    def flow(self, pick: int) -> tuple[int, int]:
        """A handle and its flow; flow 0 where there is none."""
        if not self.flows:
            return self.handle(pick), 0
        flow_id = list(self.flows)[pick % len(self.flows)]
        return self.flows[flow_id][0], flow_id

    @rule(happens=RARELY)
    def open_handle(self, happens: bool) -> None:
        if happens and len(self.handles) < LIMITS.handles:
            self.handles.append(self.driven.open(OWNER))

    @rule(pick=PICK, to=HOST, interface=st.sampled_from([1, 1, 1, 2]))
    def make_flow(self, pick: int, to: int, interface: int) -> None:
        handle, host = self.handle(pick), HOSTS[to]
        self.cookie += 1
        request = replace(
            add(0, facts(self.cookie), Endpoint(host.packed, 5004), is_adaptive=True),
            path=way(host, interface),
        )
        answer = self.driven.result(handle, request)
        if isinstance(answer, int):
            self.flows[answer] = handle, host

    @rule(
        pick=PICK,
        rate_bps=RATES,
        is_overlapped=st.booleans(),
        refuses=st.sampled_from([False, False, False, True]),
    )
    def set_rate(self, pick: int, rate_bps: int, is_overlapped: bool, refuses: bool) -> None:
        handle, flow_id = self.flow(pick)
        self.driven.mechanism.refusals = [NO_MECHANISM] if refuses else []
        request = rq.SetRate(
            flow_id, rate_bps, Shaping.SHAPE_AND_MARK, RateReason.NOT_APPLICABLE, is_overlapped
        )
        asked = self.driven.ask(handle, request)
        self.driven.mechanism.refusals = []
        if not is_overlapped:
            self.limits_ns[asked] = self.driven.now_ns + ANSWER_NS

    @rule(pick=PICK, is_fresh=st.booleans(), is_overlapped=st.booleans())
    def query(self, pick: int, is_fresh: bool, is_overlapped: bool) -> None:
        handle, flow_id = self.flow(pick)
        question = rq.Question.FUNDAMENTALS
        asked = self.driven.ask(
            handle, rq.QueryFlow(flow_id, question, USER, is_fresh, is_overlapped)
        )
        if not is_overlapped:
            self.limits_ns[asked] = self.driven.now_ns + ANSWER_NS

    @rule(pick=PICK, kind=st.sampled_from(NoticeKind), rate_bps=RATES)
    def ask_notice(self, pick: int, kind: NoticeKind, rate_bps: int) -> None:
        handle, flow_id = self.flow(pick)
        asked = rate_bps if kind is NoticeKind.AVAILABLE else None
        self.driven.ask(handle, notify(flow_id, kind, asked))

    @rule(pick=PICK, back=st.integers(0, 8))
    def cancel(self, pick: int, back: int) -> None:
        self.driven.ask(self.handle(pick), rq.Cancel(max(1, self.driven.asked - back)))

    @rule(pick=PICK)
    def remove(self, pick: int) -> None:
        handle, flow_id = self.flow(pick)
        self.driven.ask(handle, rq.RemoveSocket(flow_id, None))

    @rule(pick=PICK, to=HOST, starts=st.booleans())
    def track(self, pick: int, to: int, starts: bool) -> None:
        handle, host = self.handle(pick), HOSTS[to]
        if starts:
            answer = self.driven.result(handle, rq.StartTracking(host, None, way(host, 1)))
            if answer is None:
                self.tracked.add((handle, host))
        elif self.driven.result(handle, rq.StopTracking(host)) is None:
            self.tracked.discard((handle, host))

    @rule(pick=PICK, happens=RARELY)
    def close(self, pick: int, happens: bool) -> None:
        if happens and self.handles:
            handle = self.handle(pick)
            self.driven.ask(handle, rq.CloseHandle())
            self.handles.remove(handle)
            self.tracked = {entry for entry in self.tracked if entry[0] != handle}
            self.flows = {
                flow_id: entry for flow_id, entry in self.flows.items() if entry[0] != handle
            }

    @rule(pick=PICK)
    def lose_socket(self, pick: int) -> None:
        cookies = self.driven.engine.sockets()
        if cookies and pick < 4:
            cookie = cookies[pick % len(cookies)]
            self.driven.forget(cookie)
            self.driven.mechanism.plans.pop(cookie, None)

    @rule(to=HOST, available=AVAILABLE, is_congested=st.booleans(), age_s=st.integers(0, 4))
    def see(self, to: int, available: int | None, is_congested: bool, age_s: int) -> None:
        """What a session that runs has found, some of it before now."""
        host, now_ns = HOSTS[to], self.driven.now_ns
        if host not in self.running:
            return
        self.count()
        self.judge(host, is_congested)
        self.measured.add(host)
        # A path that is congested, or was until a moment ago, may have less to give than this.
        self.free[host].append((now_ns, available or 0))
        verdict = Congestion(is_congested, CongestionReason.DELAY if is_congested else None)
        since_ns = now_ns - age_s * S
        self.driven.see(
            host,
            PathView(Fundamentals(5_000, available, 1), verdict, since_ns=since_ns),
        )

    def judge(self, host: Endpoint, is_congested: bool) -> None:
        if is_congested:
            self.congested.add(host)
        else:
            self.congested.discard(host)

    @rule(to=HOST, is_congested=st.booleans())
    def tell(self, to: int, is_congested: bool) -> None:
        host = HOSTS[to]
        if host not in self.running:
            return
        self.judge(host, is_congested)
        self.driven.carry_out(
            self.driven.engine.receive_congestion(
                host, Congestion(is_congested), now_ns=self.driven.now_ns
            )
        )

    @rule(to=HOST, trouble=st.sampled_from(TROUBLES))
    def end(self, to: int, trouble: Unmeasurable | Refusal) -> None:
        host = HOSTS[to]
        if host not in self.running:
            return
        self.running.discard(host)
        self.congested.discard(host)
        self.driven.carry_out(
            self.driven.engine.receive_experiments_ended(host, trouble, now_ns=self.driven.now_ns)
        )

    @rule(to=HOST, interface=st.integers(1, 3), happens=RARELY)
    def move(self, to: int, interface: int, happens: bool) -> None:
        """Packets to a host leave another way, or none."""
        host = HOSTS[to]
        if not happens:
            return
        found: rq.Found = way(host, interface)
        if interface == 3:
            found = Refusal(ErrorCode.ERROR_ADAP_HDW_ERR, "the interface is down")
        self.driven.carry_out(
            self.driven.engine.receive_path(host, found, now_ns=self.driven.now_ns)
        )

    def count(self) -> None:
        counters = {
            cookie: FlowCounters(sent_bytes=0) for cookie in self.driven.engine.watched_sockets()
        }
        loads = {1: LinkLoad(0), 2: LinkLoad(0)}
        self.driven.carry_out(
            self.driven.engine.receive_counters(counters, loads, now_ns=self.driven.now_ns)
        )

    @rule(elapsed_ns=st.sampled_from([S // 10, S, 2 * S, 31 * S, 121 * S]))
    def wait(self, elapsed_ns: int) -> None:
        self.driven.wait(elapsed_ns)

    @rule(happens=RARELY)
    def interrupt(self, happens: bool) -> None:
        if not happens:
            return
        self.driven.interrupt()
        for handle in self.handles:
            self.driven.ask(handle, rq.CloseHandle())
        self.handles = [self.driven.open(OWNER)]
        self.flows.clear()
        self.tracked.clear()

    # -- what always holds --------------------------------------------------------------

    @invariant()
    def effects_and_contracts(self) -> None:
        self.look()

    @invariant()
    def limits_are_kept(self) -> None:
        now_ns = self.driven.now_ns
        for asked, limit_ns in list(self.limits_ns.items()):
            if asked in self.driven.answers:
                del self.limits_ns[asked]
            else:
                assert now_ns < limit_ns, "a request waits for longer than it may"

    @invariant()
    def experiments_follow_the_interest(self) -> None:
        now_ns = self.driven.now_ns
        for host in HOSTS:
            is_wanted = any(to == host for _, to in self.flows.values()) or any(
                to == host for _, to in self.tracked
            )
            if is_wanted or host not in self.running:
                self.interested_ns[host] = now_ns
            else:
                assert now_ns - self.interested_ns[host] <= WARM_NS

    def teardown(self) -> None:
        for handle in self.handles:
            self.driven.ask(handle, rq.CloseHandle())
        self.flows.clear()
        # No request is left open, though nobody measures any more.
        assert set(self.driven.answers) == set(range(1, self.driven.asked + 1))
        self.driven.wait(2 * WARM_NS)
        self.look()
        assert not self.running, "experiments go on for nobody"
        assert self.driven.engine.next_timer_ns() is None
        assert self.driven.engine.entry_count == self.start_count


AdaptiveMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=50)
TestAdaptive = AdaptiveMachine.TestCase

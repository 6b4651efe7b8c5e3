"""Stories: programs, their flows, paths and time, told in a few words.

A `Story` holds the real engine with a mechanism in memory, on a clock that only the story moves.
To each host there is a path of one of two kinds:

    scripted    `Story()`: the path says what it is told to say. For what the engine decides.
    measured    `Story(link(20 * MBIT))`: the real `Tracking` and the real `Sink`, joined by the
                lab's model of a path, tell the engine what they find, as `runtime.surveying` does.
                For what needs the measurement. Flows' packets, and those of others, are on the
                same link.

Both kinds carry out what the engine wants of experiments, and count what flows send five times a
second. A story reads like this::

    story = Story()
    path = story.path
    path.says(available=20 * MBIT)
    first, second = story.flow(), story.flow()
    first.asks(12 * MBIT).is_granted()
    second.asks(12 * MBIT).is_refused(ErrorCode.ERROR_NETWORK_BUSY)

Every answer is asserted to come once, and to a request; what is asked returns an `Asked`, with
which the story goes on. Times are nanoseconds (`MS`, `S`).
"""

from __future__ import annotations

import enum
import heapq
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeGuard

from openqwave.admission.policy import Policy
from openqwave.lab.links import DuplexSpec, PathSpec, Stage
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
from openqwave.model.flow import (
    UNTOUCHED,
    NoticeKind,
    RateReason,
    Shaping,
    TrafficType,
    Transport,
    Treatment,
)
from openqwave.model.path import LinkType, PathFacts, PathStatus
from openqwave.model.sockets import SocketFacts
from openqwave.probing.budget import Budget
from openqwave.probing.outcomes import Ended, Failed
from openqwave.probing.progress import CongestionTold, Wish
from openqwave.probing.progress import Estimated as Told
from openqwave.probing.session import (
    Arrival,
    CloseReason,
    Event,
    SendTrain,
)
from openqwave.probing.session import Effect as Sending
from openqwave.probing.sink import Sink
from openqwave.probing.tempo import Effort
from openqwave.probing.tracking import Tracking
from openqwave.subsystem import requests as rq
from openqwave.subsystem.effects import (
    Answer,
    Apply,
    Effect,
    Experiment,
    MeasureAfresh,
    SetEffort,
    StartExperiments,
    StopExperiments,
    Value,
)
from openqwave.subsystem.engine import Engine
from openqwave.subsystem.findings import obstacle_of, view_of
from openqwave.subsystem.usage import LinkLoad
from tests.scenario.virtual import Hosts, VirtualWorld
from tests.scenario.virtual_paths import ORDINARY
from tests.unit.driven import ROOT, USER, Mechanism, endpoint

MS, S = 1_000_000, 1_000_000_000
# How often what flows send is counted.
COUNT_NS = 200 * MS
PACKET_BYTES = 1500
# How long a kernel tries to connect to nobody, by the driver's limit.
CONNECT_NS = 3 * S

HOSTS = ("192.0.2.1", "192.0.2.2", "192.0.2.3")
CONGESTED = Congestion(True, CongestionReason.DELAY)
CALM = Congestion(False)


# -- what is asked --------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A request that was put.

    Attributes:
        story: Where.
        request_id: Its name.
        by: Through which handle.
        asked_ns: When.
    """

    story: Story
    request_id: int
    by: Program
    asked_ns: int

    @property
    def is_answered(self) -> bool:
        return self.request_id in self.story.answers

    @property
    def took_ns(self) -> int:
        """From the request to its answer."""
        return self.story.answered_ns[self.request_id] - self.asked_ns

    def result(self, within_ns: int = 0) -> Value | Refusal:
        """The answer, which is there already, or comes within so long from now."""
        self.story.goes_on_until(self.story.now_ns + within_ns, lambda: self.is_answered)
        assert self.is_answered, f"not answered {within_ns / S} s later"
        return self.story.answers[self.request_id]

    def is_granted(self, within_ns: int = 0) -> Asked:
        result = self.result(within_ns)
        assert not isinstance(result, Refusal), result
        return self

    # A notice that comes is a request that is granted.
    is_told = is_granted

    def is_refused(self, code: ErrorCode, within_ns: int = 0) -> Asked:
        result = self.result(within_ns)
        assert isinstance(result, Refusal), f"granted with {result!r}"
        assert result.code is code, result
        assert result.detail
        return self

    def is_aborted(self) -> Asked:
        return self.is_refused(ErrorCode.ERROR_OPERATION_ABORTED)

    def waits(self) -> Asked:
        """It has no answer yet."""
        assert not self.is_answered, self.story.answers[self.request_id]
        return self

    def is_cancelled(self) -> Asked:
        return self.by.puts(rq.Cancel(self.request_id))


# -- programs and flows ---------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """A program with one handle."""

    story: Story
    handle_id: int

    def puts(self, request: rq.Request) -> Asked:
        """Put a request."""
        return self.story.put(self, request)

    def tracks(self, path: StoryPath) -> Asked:
        route = path.found if _is_without_route(path.found) else None
        return self.puts(rq.StartTracking(path.host, route, path.found))

    def stops_tracking(self, path: StoryPath) -> Asked:
        return self.puts(rq.StopTracking(path.host))

    def asks_about(self, flow: StoryFlow, *, is_root: bool = False) -> Asked:
        """Ask for the fundamentals of a flow, which may be another program's."""
        caller = ROOT if is_root else USER
        request = rq.QueryFlow(flow.flow_id, rq.Question.FUNDAMENTALS, caller, is_root)
        return self.puts(request)

    def closes(self) -> None:
        self.puts(rq.CloseHandle()).is_granted()

    def flow(
        self,
        path: StoryPath | None = None,
        *,
        traffic_type: TrafficType = TrafficType.AUDIO_VIDEO,
        transport: Transport = Transport.UDP,
        is_adaptive: bool = True,
    ) -> StoryFlow:
        """A new flow with a socket of its own."""
        path = path or self.story.path
        asked = self.adds(
            path, traffic_type=traffic_type, transport=transport, is_adaptive=is_adaptive
        )
        flow_id = asked.result()
        assert isinstance(flow_id, int), flow_id
        flow = StoryFlow(self, path, flow_id, self.story.last_cookie, Sender(path, transport))
        self.story.flows.append(flow)
        return flow

    def adds(
        self,
        path: StoryPath,
        *,
        traffic_type: TrafficType = TrafficType.AUDIO_VIDEO,
        transport: Transport = Transport.UDP,
        is_adaptive: bool = True,
    ) -> Asked:
        """Ask for such a flow."""
        self.story.last_cookie += 1
        cookie = self.story.last_cookie
        return self.puts(
            rq.AddSocket(
                0,
                SocketFacts(cookie, transport, path.host.version, None),
                Endpoint(path.host.packed, 5000 + cookie),
                traffic_type,
                is_adaptive,
                path.found if _is_without_route(path.found) else None,
                path.found if is_adaptive else None,
            )
        )


def _is_without_route(found: rq.Found) -> TypeGuard[Refusal]:
    return isinstance(found, Refusal) and found.code is ErrorCode.ERROR_HOST_UNREACHABLE


@dataclass(frozen=True)
class StoryFlow:
    """A flow, and what its program does with it."""

    program: Program
    path: StoryPath
    flow_id: int
    cookie: int
    sender: Sender

    # -- what its program asks --------------------------------------------------------

    def asks(
        self,
        rate_bps: int | None,
        *,
        is_overlapped: bool = False,
        shaping: Shaping = Shaping.SHAPE_AND_MARK,
    ) -> Asked:
        """Ask for a contract."""
        reason = RateReason.NOT_APPLICABLE
        request = rq.SetRate(self.flow_id, rate_bps, shaping, reason, is_overlapped)
        return self.program.puts(request)

    def gives_up_its_contract(self) -> None:
        self.asks(0).is_granted()

    def becomes(self, traffic_type: TrafficType) -> None:
        self.program.puts(rq.SetTrafficType(self.flow_id, traffic_type)).is_granted()

    def wants_to_hear_of_congestion(self) -> Asked:
        return self.program.puts(rq.NotifyFlow(self.flow_id, NoticeKind.CONGESTED))

    def wants_to_hear_of_relief(self) -> Asked:
        return self.program.puts(rq.NotifyFlow(self.flow_id, NoticeKind.UNCONGESTED))

    def wants_to_hear_when(self, rate_bps: int) -> Asked:
        """Have it said when the flow could have a rate."""
        return self.program.puts(rq.NotifyFlow(self.flow_id, NoticeKind.AVAILABLE, rate_bps))

    def queries(self, *, fresh: bool = False, is_overlapped: bool = False) -> Asked:
        """Ask for the fundamentals."""
        question = rq.Question.FUNDAMENTALS
        request = rq.QueryFlow(self.flow_id, question, USER, fresh, is_overlapped)
        return self.program.puts(request)

    def sees(self, **how: bool) -> Fundamentals:
        """The fundamentals, known at once."""
        found = self.queries(**how).result()
        assert isinstance(found, Fundamentals), found
        return found

    @property
    def free_bps(self) -> int:
        """What it is told to be available."""
        free_bps = self.sees().available_bps
        assert free_bps is not None
        return free_bps

    def ends(self) -> None:
        """Its program takes it out; what it sent is sent no more."""
        self.sender.stop()
        self.program.puts(rq.RemoveSocket(self.flow_id, None)).is_granted()

    # -- what it is -------------------------------------------------------------------

    @property
    def treatment(self) -> Treatment:
        return self.program.story.mechanism.observe().get(self.cookie, Treatment())

    @property
    def dscp(self) -> int | None:
        return self.treatment.dscp

    @property
    def is_untouched(self) -> bool:
        return self.treatment == UNTOUCHED

    @property
    def contract_bps(self) -> int | None:
        """What it holds, as its program is told; None without a contract."""
        asked = self.program.puts(rq.QueryFlow(self.flow_id, rq.Question.OUTGOING_RATE, USER))
        found = asked.result()
        if isinstance(found, Refusal):
            assert found.code is ErrorCode.ERROR_NO_DATA
            return None
        assert isinstance(found, int)
        return found

    # -- its packets ------------------------------------------------------------------

    def sends(self, rate_bps: int) -> None:
        """Send so much from now on."""
        self.sender.send(rate_bps)

    def stops(self) -> None:
        self.sender.stop()


class Sender:
    """Sends packets on a path, equally spaced, or only counts them where there is no link."""

    def __init__(self, path: StoryPath, transport: Transport = Transport.UDP) -> None:
        self._path = path
        self._transport = transport
        self._rate_bps = 0
        self._since_ns = path.story.now_ns
        self._turn = 0
        self._sent_bytes = self._lost = self._marked = 0.0
        self._loss = self._marks = 0.0
        self._rtt_ns: int | None = None

    def send(self, rate_bps: int) -> None:
        """Another rate from now on."""
        self._settle()
        self._turn += 1
        self._rate_bps = rate_bps
        if rate_bps:
            self._path.accompany(self._times(self._turn, PACKET_BYTES * 8 * S // rate_bps))

    def stop(self) -> None:
        self.send(0)

    def suffer(self, *, loss: float = 0.0, marks: float = 0.0, rtt_ns: int | None = None) -> None:
        """What the kernel sees of its packets from now on: parts of them, and the round trip."""
        self._settle()
        self._loss, self._marks, self._rtt_ns = loss, marks, rtt_ns

    def _times(self, turn: int, spacing_ns: int) -> Iterator[int]:
        time_ns = self._path.story.now_ns
        while self._turn == turn:
            time_ns += spacing_ns
            yield time_ns

    def _settle(self) -> None:
        now_ns = self._path.story.now_ns
        sent = self._rate_bps * (now_ns - self._since_ns) / (8 * S)
        self._since_ns = now_ns
        self._sent_bytes += sent
        self._lost += sent / PACKET_BYTES * self._loss
        self._marked += sent / PACKET_BYTES * self._marks

    @property
    def sent_bytes(self) -> int:
        self._settle()
        return int(self._sent_bytes)

    @property
    def counters(self) -> FlowCounters:
        """What the kernel counts of it."""
        if self._transport is Transport.UDP:
            return FlowCounters()
        return FlowCounters(
            sent_bytes=self.sent_bytes,
            delivered_packets=int(self._sent_bytes / PACKET_BYTES - self._lost),
            delivered_ce_packets=int(self._marked),
            lost_packets=int(self._lost),
            rtt_ns=self._rtt_ns,
            least_rtt_ns=None if self._rtt_ns is None else 10 * MS,
        )


# -- paths ----------------------------------------------------------------------------


class StoryPath:
    """A path to one host; see the module's text for its two kinds."""

    def __init__(self, story: Story, number: int, world: StoryWorld | None) -> None:
        self.story = story
        self.world = world
        self.host = endpoint(HOSTS[number], 0)
        self.found: rq.Found = self._facts(interface=1)
        # What was wanted of its experiments, with the time.
        self.wanted: list[tuple[int, Experiment]] = []
        self._is_running = self._is_alert = False
        self.probe_bytes = 0
        self._verdict = Congestion()
        self._budget = Budget()
        self._session: Tracking | None = None
        self._starts = 0

    def _facts(
        self, *, interface: int, speed_bps: int = 0, source: str = "192.0.2.100"
    ) -> PathFacts:
        name, packed = f"eth{interface}", endpoint(source).packed
        return PathFacts(self.host, interface, name, packed, b"", 1500, LinkType.WIRED, speed_bps)

    def runs(self) -> bool:
        """Are there experiments?"""
        return self._is_running

    def is_alert(self) -> bool:
        """Are they to be quick?"""
        return self._is_alert

    @property
    def facts(self) -> PathFacts | None:
        return self.found if isinstance(self.found, PathFacts) else None

    # -- what routes say --------------------------------------------------------------

    def is_reached_by(self, interface: int, *, speed_bps: int = 0) -> None:
        """Routes change: the host is reached by another interface."""
        self.tell_route(self._facts(interface=interface, speed_bps=speed_bps))

    def is_reached_from(self, source: str) -> None:
        """This host has another address now."""
        self.tell_route(self._facts(interface=1, source=source))

    def fails(self, code: ErrorCode) -> None:
        """Routes change: the host cannot be reached, for a reason."""
        self.tell_route(Refusal(code, "something is wrong with the way there"))

    def is_not_to_be_measured(self) -> None:
        self.tell_route(Unmeasurable("the host is behind a router"))

    def tell_route(self, found: rq.Found) -> None:
        """What is found of the way there from now on; the engine is told where it asked."""
        self.found = found
        self.story.carry_out(
            self.story.engine.receive_path(self.host, found, now_ns=self.story.now_ns)
        )

    # -- what a scripted path says ----------------------------------------------------

    def says(
        self,
        *,
        available: int | None = None,
        capacity: int | None = 20_000_000,
        rtt_ns: int | None = 10 * MS,
        congested: bool | None = None,
        measured_since_ns: int | None = None,
    ) -> None:
        """A new view, all of it measured just now unless it is said otherwise."""
        if congested is not None:
            self._verdict = CONGESTED if congested else CALM
        now_ns = self.story.now_ns
        since_ns = now_ns if measured_since_ns is None else measured_since_ns
        view = PathView(
            Fundamentals(capacity, available, rtt_ns), self._verdict, None, 0.0, since_ns
        )
        self._tell_view(view)

    def was_remembered(
        self, *, available: int | None, seconds_ago: float, capacity: int | None = 20_000_000
    ) -> None:
        """As experiments begin, it is recalled what an earlier run of the service measured."""
        since_ns = self.story.now_ns - round(seconds_ago * S)
        view = PathView(Fundamentals(capacity, available, 10 * MS), since_ns=since_ns)
        engine, now_ns = self.story.engine, self.story.now_ns
        self.story.carry_out(engine.receive_recalled(self.host, view, now_ns=now_ns))

    def is_congested(self) -> None:
        """The verdict changes, between two views."""
        self._tell_congestion(CONGESTED)

    def is_calm(self) -> None:
        self._tell_congestion(CALM)

    def breaks(self, why: Unmeasurable | Refusal) -> None:
        """The experiments end by themselves."""
        self._tell_end(why)

    # -- what the engine hears --------------------------------------------------------

    def _tell_view(self, view: PathView) -> None:
        engine, now_ns = self.story.engine, self.story.now_ns
        self.story.carry_out(engine.receive_path_view(self.host, view, now_ns=now_ns))

    def _tell_congestion(self, verdict: Congestion) -> None:
        self._verdict = verdict
        engine, now_ns = self.story.engine, self.story.now_ns
        self.story.carry_out(engine.receive_congestion(self.host, verdict, now_ns=now_ns))

    def _tell_end(self, why: Unmeasurable | Refusal) -> None:
        self._is_running, self._session = False, None
        self._verdict = Congestion()
        engine, now_ns = self.story.engine, self.story.now_ns
        self.story.carry_out(engine.receive_experiments_ended(self.host, why, now_ns=now_ns))

    def hear(self, event: Event) -> None:
        """As `runtime.surveying` hears a session."""
        match event:
            case Told():
                self._tell_view(view_of(event, self._verdict))
            case CongestionTold(congestion=congestion):
                self._tell_congestion(congestion)
            case Failed() | Ended():
                self._tell_end(obstacle_of(self.host, event))

    # -- what the engine wants --------------------------------------------------------

    def carry_out(self, effect: Experiment) -> None:
        """Experiments are to be begun, ended, or made otherwise."""
        self.wanted.append((self.story.now_ns, effect))
        match effect:
            case StartExperiments():
                assert not self._is_running, "experiments were begun twice"
                self._is_running, self._is_alert = True, False
                self._verdict = Congestion()
                self._start()
            case StopExperiments():
                assert self._is_running, "experiments were ended that did not run"
                self._is_running = self._is_alert = False
                session, self._session = self._session, None
                self._act(lambda: None if session is None else session.close())
            case SetEffort(is_alert=is_alert):
                assert self._is_running
                self._is_alert = is_alert
                effort, session = Effort.ALERT if is_alert else Effort.LIGHT, self._session
                self._act(lambda: _set_effort(session, effort, self.story.now_ns))
            case MeasureAfresh():
                assert self._is_running
                session = self._session
                self._act(lambda: _measure_afresh(session, self.story.now_ns))

    def _start(self) -> None:
        world = self.world
        if world is None:
            return
        self._starts += 1
        source = random.Random(f"{self.story.seed}/{self._starts}")
        session = _Counted(Wish(checks_priority=False), self._budget, random=source.random)
        session.path = self
        self._session = session
        self._act(lambda: world.begin(session))

    def _act(self, action: Callable[[], None]) -> None:
        if self.world is not None:
            self.world.at(self.story.now_ns, action)

    def step(self) -> None:
        """Do what is next on the link, and hand on what the session has said of it."""
        if self.world is None:
            return
        self.world.step()
        while self.world.events:
            event = self.world.events.pop(0)
            # What a session says after it was ended is not heard.
            if self._is_running:
                self.hear(event)

    # -- what is on the wire ----------------------------------------------------------

    def accompany(self, times_ns: Iterable[int]) -> None:
        """Have packets sent, where there is a link to send them on."""
        if self.world is not None:
            self.world.accompany(times_ns, PACKET_BYTES)

    def others(self, rate_bps: int) -> Sender:
        """Somebody else sends so much on the link, and is not counted here."""
        sender = Sender(self)
        sender.send(rate_bps)
        return sender

    # -- what is believed -------------------------------------------------------------

    def counts_of(self, kind: type[Experiment]) -> int:
        """How often something was wanted."""
        return sum(isinstance(effect, kind) for _, effect in self.wanted)

    @property
    def held_bps(self) -> int:
        """What contracts hold of it, by its flows' own account."""
        return sum(
            flow.contract_bps or 0
            for flow in self.story.flows
            if flow.path is self and flow.flow_id in self.story.living
        )

    def status(self, flow: StoryFlow) -> PathStatus:
        """What a flow is told of it."""
        found = flow.program.puts(rq.QueryFlow(flow.flow_id, rq.Question.PATH, USER)).result()
        assert isinstance(found, PathStatus), found
        return found


def _set_effort(session: Tracking | None, effort: Effort, now_ns: int) -> None:
    if session is not None:
        session.set_effort(effort, now_ns=now_ns)


def _measure_afresh(session: Tracking | None, now_ns: int) -> None:
    if session is not None:
        session.measure_afresh(now_ns=now_ns)


class _Counted(Tracking):
    """Tracking whose packets are counted as they leave, apart from its own books."""

    path: StoryPath

    def effects_to_send(self, *, now_ns: int) -> list[Sending]:
        effects = super().effects_to_send(now_ns=now_ns)
        for effect in effects:
            if isinstance(effect, SendTrain):
                self.path.probe_bytes += sum(28 + len(payload) for payload in effect.payloads)
        return effects


# -- the far end ----------------------------------------------------------------------


class FarEnd(enum.Enum):
    """What is there."""

    LISTENS = "a sink"
    REFUSES = "a host where no program has the port"
    IS_DARK = "nobody answers to anything"


class Nobody:
    """A session that has nothing to do."""

    def start(self, *, now_ns: int) -> None: ...

    def receive_connected(self, stream: int, local_port: int, *, now_ns: int) -> None: ...

    def receive_stream(self, stream: int, data: bytes, *, now_ns: int) -> None: ...

    def receive_closed(self, stream: int, reason: CloseReason, *, now_ns: int) -> None: ...

    def receive_datagram(self, data: bytes, arrival: Arrival, *, now_ns: int) -> None: ...

    def receive_sent(self, train: SendTrain, stamps_ns: tuple[int, ...], *, now_ns: int) -> None:
        pass

    def receive_unsent(self, train: SendTrain, index: int, reason: str, *, now_ns: int) -> None:
        pass

    def effects_to_send(self, *, now_ns: int) -> list[Sending]:
        del now_ns
        return []

    def next_event(self) -> Event | None:
        return None

    def next_timer_ns(self) -> int | None:
        return None

    def handle_timer(self, *, now_ns: int) -> None: ...


class _NoSink(Sink):
    """A host where no sink runs: what comes is not heard."""

    def receive_datagram(
        self, data: bytes, peer: Endpoint, arrival: Arrival, *, now_ns: int
    ) -> None:
        pass


class StoryWorld(VirtualWorld):
    """A world whose sink can go and come, and that is driven from outside."""

    def __init__(self, spec: DuplexSpec | PathSpec, *, seed: int, hosts: Hosts) -> None:
        super().__init__(Nobody(), spec, seed=seed, hosts=hosts)
        self.far_end = FarEnd.LISTENS

    def next_ns(self) -> int | None:
        """When `step` has something to do."""
        return self._agenda[0][0] if self._agenda else None

    def step(self) -> None:
        """Do what is next."""
        self._step()

    def sink_ends(self, far_end: FarEnd = FarEnd.REFUSES) -> None:
        """The sink ends, and its kernel closes its connections unless all of the host is gone."""
        self.far_end, self.sink = far_end, _NoSink()
        if far_end is FarEnd.REFUSES:
            for connection in list(self._connection_of.values()):
                self._at(self.now_ns + self.delay_back_ns, self._session_closed(connection))

    def sink_begins(self) -> None:
        """A new sink, or one at a host that had none."""
        self.far_end, self.sink = FarEnd.LISTENS, Sink()

    def _connect(self, stream: int) -> None:
        if self.far_end is FarEnd.LISTENS:
            super()._connect(stream)
            return
        connection = self._connection_of[stream] = next(self._connections)
        is_dark = self.far_end is FarEnd.IS_DARK
        reason = CloseReason.TIMED_OUT if is_dark else CloseReason.REFUSED
        after_ns = CONNECT_NS if is_dark else self.delay_there_ns + self.delay_back_ns

        def failed() -> None:
            if self._connection_of.get(stream) == connection:
                del self._connection_of[stream]
                self.session.receive_closed(stream, reason, now_ns=self.now_ns)

        self._at(self.now_ns + after_ns, failed)


# -- the story ------------------------------------------------------------------------


@dataclass(order=True)
class _Planned:
    time_ns: int
    number: int
    action: Callable[[], None] = field(compare=False)


class Story:
    """An engine, paths and time; see the module's text.

    Args:
        specs: A link, or a whole path, to each host that is measured; none for scripted paths.
        policy: The administrator's decisions.
        seed: Everything that is random follows from it.
        hosts: What the machines do to timing.
    """

    def __init__(
        self,
        *specs: Stage | DuplexSpec,
        policy: Policy | None = None,
        seed: int = 1,
        hosts: Hosts = ORDINARY,
    ) -> None:
        self.engine = Engine(policy or Policy())
        self.mechanism = Mechanism()
        self.seed = seed
        self.now_ns = 0
        self.answers: dict[int, Value | Refusal] = {}
        self.answered_ns: dict[int, int] = {}
        self.flows: list[StoryFlow] = []
        self.last_cookie = 0
        self._asked = 0
        self._planned: list[_Planned] = []
        self._numbers = itertools.count()
        self._count_ns = 0
        duplexes = [
            DuplexSpec(PathSpec((spec,))) if isinstance(spec, Stage) else spec for spec in specs
        ]
        worlds = [StoryWorld(spec, seed=seed, hosts=hosts) for spec in duplexes]
        self.paths = [
            StoryPath(self, number, worlds[number] if worlds else None)
            for number in range(len(worlds) or len(HOSTS))
        ]
        self._owners = itertools.count(100)
        self.program = self.another_program()

    @property
    def path(self) -> StoryPath:
        """The path to the first host."""
        return self.paths[0]

    @property
    def world(self) -> StoryWorld:
        """What is on that path, where it is measured."""
        assert self.path.world is not None
        return self.path.world

    @property
    def living(self) -> tuple[int, ...]:
        """The ids of all flows."""
        found = self.another_program().puts(rq.EnumerateFlows(ROOT)).result()
        assert isinstance(found, tuple)
        return found

    def another_program(self) -> Program:
        """A program of its own, with a handle."""
        handle_id = self.engine.open_handle(next(self._owners))
        assert isinstance(handle_id, int)
        return Program(self, handle_id)

    def flow(
        self,
        path: StoryPath | None = None,
        *,
        traffic_type: TrafficType = TrafficType.AUDIO_VIDEO,
        transport: Transport = Transport.UDP,
        is_adaptive: bool = True,
    ) -> StoryFlow:
        """A flow of the first program's."""
        return self.program.flow(
            path, traffic_type=traffic_type, transport=transport, is_adaptive=is_adaptive
        )

    def sleeps(self) -> None:
        """The machine was suspended."""
        self.carry_out(self.engine.receive_interruption(now_ns=self.now_ns))

    def makes_anew(self, *interfaces: int) -> None:
        """Interfaces were taken out, and others of the same names put in."""
        self.carry_out(self.engine.receive_interfaces_recreated(interfaces, now_ns=self.now_ns))

    def obeys(self, policy: Policy) -> None:
        """The administrator has decided anew."""
        self.carry_out(self.engine.receive_policy(policy, now_ns=self.now_ns))

    # -- the engine -------------------------------------------------------------------

    def put(self, by: Program, request: rq.Request) -> Asked:
        """Put a request of a program."""
        self._asked += 1
        asked = Asked(self, self._asked, by, self.now_ns)
        self.carry_out(
            self.engine.receive_request(self._asked, by.handle_id, request, now_ns=self.now_ns)
        )
        return asked

    def carry_out(self, effects: Iterable[Effect]) -> None:
        """Do what the engine wants."""
        for effect in effects:
            match effect:
                case StartExperiments(facts):
                    self._path_to(facts.host).carry_out(effect)
                case StopExperiments(host) | SetEffort(host) | MeasureAfresh(host):
                    self._path_to(host).carry_out(effect)
                case Apply(plans):
                    self.carry_out(self.engine.receive_applied(self.mechanism.apply(plans)))
                case Answer(request_id, result):
                    assert 1 <= request_id <= self._asked, "an answer to no request"
                    assert request_id not in self.answers, "a request was answered twice"
                    self.answers[request_id] = result
                    self.answered_ns[request_id] = self.now_ns

    def _path_to(self, host: Endpoint) -> StoryPath:
        return next(path for path in self.paths if path.host == host)

    def _count(self) -> None:
        """Tell the engine what flows, and experiments, have sent."""
        wanted = set(self.engine.watched_sockets())
        if not wanted:
            return
        counters = {
            flow.cookie: flow.sender.counters for flow in self.flows if flow.cookie in wanted
        }
        loads: dict[int, LinkLoad] = {}
        for path in self.paths:
            facts = path.facts
            if facts is not None:
                sent = path.probe_bytes + sum(
                    flow.sender.sent_bytes for flow in self.flows if flow.path is path
                )
                before = loads.get(facts.interface, LinkLoad(0))
                speed_bps = max(before.speed_bps, facts.speed_bps)
                loads[facts.interface] = LinkLoad(before.sent_bytes + sent, speed_bps)
        self.carry_out(self.engine.receive_counters(counters, loads, now_ns=self.now_ns))

    # -- time -------------------------------------------------------------------------

    def passes(self, elapsed_ns: int) -> None:
        """Time passes."""
        self.goes_on_until(self.now_ns + elapsed_ns)

    def at(self, time_ns: int, action: Callable[[], None]) -> None:
        """Have something happen at a time."""
        heapq.heappush(self._planned, _Planned(time_ns, next(self._numbers), action))

    def goes_on_until(self, until_ns: int, is_over: Callable[[], bool] = lambda: False) -> None:
        """Go on until a time, or until something is so."""
        until_ns = max(until_ns, self.now_ns)
        while not is_over():
            due_ns, act = self._next()
            if due_ns > until_ns:
                self.now_ns = until_ns
                return
            self.now_ns = max(self.now_ns, due_ns)
            act()

    def _next(self) -> tuple[int, Callable[[], None]]:
        # The earliest; of the same time what is named first.
        due_ns, act = self._count_ns, self._count_in_turn
        engine_ns = self.engine.next_timer_ns()
        if engine_ns is not None and engine_ns <= due_ns:
            due_ns, act = engine_ns, self._engine_timer
        if self._planned and self._planned[0].time_ns <= due_ns:
            due_ns, act = self._planned[0].time_ns, self._do_planned
        for path in self.paths:
            if path.world is not None:
                world_ns = path.world.next_ns()
                if world_ns is not None and world_ns <= due_ns:
                    due_ns, act = world_ns, path.step
        return due_ns, act

    def _count_in_turn(self) -> None:
        self._count_ns = self.now_ns + COUNT_NS
        if any(path.runs() for path in self.paths):
            self._count()

    def _engine_timer(self) -> None:
        self.carry_out(self.engine.handle_timer(now_ns=self.now_ns))

    def _do_planned(self) -> None:
        heapq.heappop(self._planned).action()

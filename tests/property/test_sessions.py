"""Any sequence of inputs, nonsense included: the initiators keep what they promise.

Whatever a sink sends and a driver reports, in whatever order: no exception, one last event and
silence after it, each train answered once, no train that is larger or earlier than was asked for,
and no timer that stays in the past. (That nothing grows is tested by `test_hostile_sink`.)
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from openqwave.probing.outcomes import Ended, Failed
from openqwave.probing.packet_pair import (
    OPEN,
    PAGE,
    PacketPairInitiator,
    Ready,
    TrainLost,
    TrainMeasured,
    TrainPlan,
)
from openqwave.probing.probegap import (
    Discount,
    GapLost,
    GapReturned,
    ProbegapInitiator,
    Spacing,
)
from openqwave.probing.route_check import RouteChecked, RouteCheckInitiator
from openqwave.probing.session import (
    Arrival,
    CloseReason,
    CloseStream,
    Event,
    OpenStream,
    SendStream,
    SendTrain,
    Session,
)
from openqwave.wire.qlpb import (
    HandshakeSuccess,
    Observation,
    PacketPairProbe,
    PacketPairSummary,
    ProbegapProbe,
    RouteCheckProbe,
    RouteCheckSummary,
    decode_datagram,
    encode_datagram,
    encode_stream,
)

MS, S = 1_000_000, 1_000_000_000
STREAM = 3
REAL_NS = 1_700_000_000 * S

# What ends much is rare, or nothing would live long enough to be interesting.
RARELY = st.sampled_from([False] * 15 + [True])
MOSTLY = st.sampled_from([True] * 7 + [False])
PAUSES = st.sampled_from([*[0, 1, 100_000, 1 * MS, 20 * MS] * 4, 300 * MS, 5 * S])
PICK = st.integers(0, 63)
GARBAGE = st.binary(max_size=40)
DELTAS = st.sampled_from([0, 100, 100, 100, 100_000, 5 * MS, 11 * S, (1 << 64) * 100 - 100])
TICKS = st.sampled_from([0, 1, 10**9, 10**9, 10**9, 10**9, 10**9 + 1, (1 << 64) - 1])


# The earliest time of a plan counts from when it is queued.
PLANS = st.builds(
    TrainPlan,
    packets=st.integers(2, 8),
    packet_bytes=st.sampled_from([40, 700, 1_496]),
    gap_ns=st.sampled_from([0, 0, 1 * MS]),
    not_before_ns=st.sampled_from([0, 0, 1 * MS, 100 * MS]),
)


class SessionMachine(RuleBasedStateMachine):
    """A session, its driver, and everything that can happen to both."""

    LAST: tuple[type[Event], ...] = (Ended, Failed)

    def __init__(self) -> None:
        super().__init__()
        self.session: Session = self.make()
        self.now_ns = 1_000 * S
        self.is_connecting = False
        self.is_connected = False
        self.is_agreed = False
        self.sent: list[SendTrain] = []
        self.events: list[Event] = []
        self.session.start(now_ns=self.now_ns)
        self.settle()

    def make(self) -> Session:
        raise NotImplementedError

    # -- the driver -------------------------------------------------------------------

    def settle(self) -> None:
        for _ in range(100):
            events = []
            while (event := self.session.next_event()) is not None:
                events.append(event)
            self.events += events
            effects = self.session.effects_to_send(now_ns=self.now_ns)
            for effect in effects:
                self.carry_out(effect)
            if not effects and not events:
                return
        raise AssertionError("there is always more to be done")

    def carry_out(self, effect: object) -> None:
        assert not self.is_over or isinstance(effect, CloseStream)
        match effect:
            case OpenStream(stream):
                assert stream == STREAM
                assert not any((self.is_connecting, self.is_connected))
                self.is_connecting, self.is_agreed = True, False
            case SendStream(stream):
                assert stream == STREAM
                assert self.is_connected
            case CloseStream(stream):
                assert stream == STREAM
                assert self.is_connecting or self.is_connected
                self.is_connecting = self.is_connected = False
            case SendTrain():
                self.check_train(effect)
                self.sent.append(effect)
            case _:
                raise AssertionError(effect)

    def check_train(self, train: SendTrain) -> None:
        assert train.number not in {other.number for other in self.sent}

    @property
    def is_over(self) -> bool:
        return any(isinstance(event, self.LAST) for event in self.events)

    def picked(self, pick: int) -> SendTrain:
        """One of the trains that were sent, the latest ones more often."""
        return self.sent[-1 - pick % min(4 + pick % 5, len(self.sent))]

    @rule(pause_ns=PAUSES)
    def wait(self, pause_ns: int) -> None:
        self.now_ns += pause_ns
        self.settle()

    @rule()
    def wait_for_timer(self) -> None:
        due_ns = self.session.next_timer_ns()
        if due_ns is not None:
            self.now_ns = max(self.now_ns, due_ns)
            self.session.handle_timer(now_ns=self.now_ns)
            self.settle()

    @rule()
    def call_timer_early(self) -> None:
        self.session.handle_timer(now_ns=self.now_ns)
        self.settle()

    @precondition(lambda self: self.sent)
    @rule(pick=PICK, is_true=MOSTLY, shift_ns=st.sampled_from([10, -10 * S, 10 * S]))
    def report_sent(self, pick: int, shift_ns: int, *, is_true: bool) -> None:
        train = self.picked(pick)
        step = 1 if is_true or pick % 2 else -1
        first_ns = REAL_NS + self.now_ns + (0 if is_true else shift_ns)
        stamps = tuple(first_ns + i * step * 1_000 for i in range(len(train.payloads)))
        self.session.receive_sent(train, stamps, now_ns=self.now_ns)
        self.settle()

    @precondition(lambda self: self.sent)
    @rule(pick=PICK, really=RARELY)
    def report_unsent(self, pick: int, *, really: bool) -> None:
        if really:
            self.session.receive_unsent(self.picked(pick), 0, "no", now_ns=self.now_ns)
            self.settle()

    @rule(data=GARBAGE)
    def receive_garbage(self, data: bytes) -> None:
        self.session.receive_datagram(data, Arrival(REAL_NS), now_ns=self.now_ns)
        self.settle()

    # -- what has to hold -------------------------------------------------------------

    @invariant()
    def nothing_follows_the_last_event(self) -> None:
        last = [event for event in self.events if isinstance(event, self.LAST)]
        assert len(last) <= 1
        assert not last or self.events[-1] is last[0]
        if last:
            assert self.session.next_timer_ns() is None
            assert not any((self.is_connecting, self.is_connected))

    @invariant()
    def timers_do_not_stay_in_the_past(self) -> None:
        due_ns = self.session.next_timer_ns()
        if due_ns is not None and due_ns <= self.now_ns:
            self.session.handle_timer(now_ns=self.now_ns)
            self.settle()
            due_ns = self.session.next_timer_ns()
            assert due_ns is None or due_ns > self.now_ns

    def teardown(self) -> None:
        """Whatever happened, time alone brings every session that cannot go on to its end."""
        for _ in range(10_000):
            due_ns = self.session.next_timer_ns()
            if due_ns is None:
                break
            self.now_ns = max(self.now_ns, due_ns)
            self.session.handle_timer(now_ns=self.now_ns)
            self.settle()
        assert self.is_over
        self.nothing_follows_the_last_event()


class StreamMachine(SessionMachine):
    """A session with a connection."""

    @initialize(goes_well=MOSTLY)
    def shake_hands(self, *, goes_well: bool) -> None:
        if goes_well:
            self.connect(really=True)
            self.agree(4)

    @rule(really=st.booleans())
    def connect(self, *, really: bool) -> None:
        """A driver answers what was asked for, or too late."""
        if really and self.is_connecting:
            self.is_connecting, self.is_connected = False, True
        elif self.is_connecting or self.is_connected:
            return
        self.session.receive_connected(STREAM, 50_000, now_ns=self.now_ns)
        self.settle()

    @precondition(lambda self: self.is_connecting or self.is_connected)
    @rule(reason=st.sampled_from(CloseReason), really=RARELY)
    def close(self, reason: CloseReason, *, really: bool) -> None:
        if really and (self.is_connecting or self.is_connected):
            self.is_connecting = self.is_connected = False
            self.session.receive_closed(STREAM, reason, now_ns=self.now_ns)
            self.settle()

    @rule(cut=st.integers(0, 4))
    def agree(self, cut: int) -> None:
        data = encode_stream(HandshakeSuccess())
        if self.is_connected and not self.is_agreed:
            self.is_agreed = True
            self.stream(data[:cut])
            self.stream(data[cut:])

    @rule(data=GARBAGE, really=RARELY)
    def receive_stream_of_garbage(self, data: bytes, *, really: bool) -> None:
        if really:
            self.stream(data)

    @rule(observation=st.sampled_from(Observation), really=RARELY)
    def receive_route_check_summary(self, observation: Observation, *, really: bool) -> None:
        if really:
            self.stream(encode_stream(RouteCheckSummary(observation)))

    def stream(self, data: bytes) -> None:
        self.session.receive_stream(STREAM, data, now_ns=self.now_ns)
        self.settle()


class PairMachine(StreamMachine):
    """Packet pair, within limits that are reached."""

    LIMITS = replace(OPEN, trains=12, in_flight=3, train_packets=8, reconnects=2)

    def __init__(self) -> None:
        self.plans: dict[int, TrainPlan] = {}
        super().__init__()

    def make(self) -> PacketPairInitiator:
        self.pair = PacketPairInitiator(STREAM, 4, random=Random(1).random, limits=self.LIMITS)
        return self.pair

    @initialize(plans=st.lists(PLANS, max_size=4))
    def queue_some(self, plans: list[TrainPlan]) -> None:
        for plan in plans:
            self.queue(plan)

    @rule(plan=PLANS)
    def queue(self, plan: TrainPlan) -> None:
        if self.pair.trains_left and not self.is_over:
            later = replace(plan, not_before_ns=self.now_ns + plan.not_before_ns)
            self.plans[self.pair.queue_train(later)] = later
            self.settle()

    def check_train(self, train: SendTrain) -> None:
        super().check_train(train)
        plan = self.plans[train.number]
        probes = [decode_datagram(data) for data in train.payloads]
        first = 1 + sum(len(other.payloads) for other in self.sent)
        assert [
            (probe.sequence, probe.is_first, probe.train_size, probe.size_bytes)
            for probe in probes
            if isinstance(probe, PacketPairProbe)
        ] == [
            (first + i, i == 0, plan.packets, plan.packet_bytes - 28) for i in range(plan.packets)
        ]
        assert train.gap_ns == plan.gap_ns
        assert self.now_ns >= plan.not_before_ns
        answered = {event.number for event in self.of_trains()}
        under_way = {other.number for other in self.sent} - answered
        assert len(under_way) < self.LIMITS.in_flight

    @precondition(lambda self: self.sent)
    @rule(pick=PICK, delta_ns=DELTAS, is_true=MOSTLY, closes=RARELY)
    def summarise(self, pick: int, delta_ns: int, *, is_true: bool, closes: bool) -> None:
        train = self.picked(pick)
        probe = decode_datagram(train.payloads[0])
        count, sequence = len(train.payloads) - 1, probe.sequence
        if not is_true:
            count, sequence = (count + 1, sequence) if pick % 2 else (count, sequence + pick)
        deltas = (delta_ns,) + (100,) * (count - 1)
        self.stream(encode_stream(PacketPairSummary(sequence, 10**9, deltas)))
        if closes:
            self.close(CloseReason.BY_PEER, really=True)
            self.connect(really=True)
            self.agree(0)

    @precondition(lambda self: self.sent)
    @rule()
    def answer(self) -> None:
        """What an honest sink and a good driver do with the oldest train."""
        answered = {event.number for event in self.of_trains()}
        under_way = [train for train in self.sent if train.number not in answered]
        for train in under_way[:1]:
            stamps = tuple(REAL_NS + i for i in range(len(train.payloads)))
            self.session.receive_sent(train, stamps, now_ns=self.now_ns)
            self.now_ns += 10 * MS
            probe = decode_datagram(train.payloads[0])
            deltas = (100_000,) * (len(train.payloads) - 1)
            self.stream(encode_stream(PacketPairSummary(probe.sequence, 10**9, deltas)))

    @rule(really=RARELY)
    def end(self, *, really: bool) -> None:
        if really:
            self.pair.close()
            self.settle()

    def of_trains(self) -> list[TrainMeasured | TrainLost]:
        return [event for event in self.events if isinstance(event, TrainMeasured | TrainLost)]

    @invariant()
    def trains_are_answered_once(self) -> None:
        numbers = [event.number for event in self.of_trains()]
        assert len(set(numbers)) == len(numbers)
        for event in self.of_trains():
            assert event.plan is self.plans[event.number]
            plan, train = event.plan, event.train
            assert train.packet_bytes == plan.packet_bytes
            assert len(train.sent_ns) in (0, plan.packets)
            if isinstance(event, TrainMeasured):
                assert len(train.deltas_ns) == plan.packets - 1
                assert len(train.sent_ns) == plan.packets
                assert max(train.deltas_ns) <= 10 * S
            else:
                assert train.is_lost

    @invariant()
    def ready_comes_once(self) -> None:
        assert sum(isinstance(event, Ready) for event in self.events) <= 1

    def teardown(self) -> None:
        super().teardown()
        answered = {event.number for event in self.of_trains()}
        # The last event speaks for the others.
        assert answered <= set(self.plans)


class SpecifiedPairMachine(PairMachine):
    """The same with the specification's numbers, which are few."""

    LIMITS = replace(PAGE, train_packets=8)


class RouteCheckMachine(StreamMachine):
    """Route check."""

    LAST = (Ended, Failed, RouteChecked)

    def make(self) -> RouteCheckInitiator:
        return RouteCheckInitiator(STREAM, 6, random=Random(1).random)

    def check_train(self, train: SendTrain) -> None:
        super().check_train(train)
        assert len(self.sent) < 15
        for data in train.payloads:
            probe = decode_datagram(data)
            assert isinstance(probe, RouteCheckProbe)
            assert probe.train_size == (0 if probe.sequence % 5 else 5)

    @precondition(lambda self: self.sent)
    @rule(observation=st.sampled_from([*[Observation.NO_ISSUE] * 4, *Observation]))
    def summarise(self, observation: Observation) -> None:
        self.stream(encode_stream(RouteCheckSummary(observation)))

    @invariant()
    def the_verdict_follows_from_the_summaries(self) -> None:
        for event in self.events:
            if isinstance(event, RouteChecked):
                last = event.summaries[-1] if event.summaries else None
                assert len(event.summaries) <= 5
                assert event.supported <= (last in (Observation.NO_ISSUE, Observation.INVERSION))
                assert Observation.INVERSION not in event.summaries[:-1]


class GapMachine(SessionMachine):
    """Probegap."""

    def make(self) -> ProbegapInitiator:
        self.gap = ProbegapInitiator(STREAM, 4, random=Random(1).random)
        return self.gap

    def check_train(self, train: SendTrain) -> None:
        super().check_train(train)
        (payload,) = train.payloads
        probe = decode_datagram(payload)
        assert isinstance(probe, ProbegapProbe)
        assert probe.sequence == len(self.sent) + 1
        assert probe.initiator_sent_ticks <= self.now_ns // 100

    @rule(per_second=st.sampled_from([10, 1_000, 2_000]), spacing=st.sampled_from(Spacing))
    def set_rate(self, per_second: int, spacing: Spacing) -> None:
        self.gap.set_rate(per_second, spacing, now_ns=self.now_ns)
        self.settle()

    @precondition(lambda self: self.sent)
    @rule(
        pick=PICK,
        received=TICKS,
        sent=TICKS,
        is_true=MOSTLY,
        shift_ns=st.sampled_from([10, 10 * S, -10 * S]),
    )
    def reply(self, pick: int, received: int, sent: int, shift_ns: int, *, is_true: bool) -> None:
        probe = decode_datagram(self.picked(pick).payloads[0])
        assert isinstance(probe, ProbegapProbe)
        ticks = probe.initiator_sent_ticks + (0 if is_true else pick % 2)
        sequence = probe.sequence + (0 if is_true else pick % 4)
        reply = ProbegapProbe(sequence, ticks, received, sent, is_returned=True)
        arrival = Arrival(REAL_NS + self.now_ns + (0 if is_true else shift_ns))
        self.session.receive_datagram(encode_datagram(reply), arrival, now_ns=self.now_ns)
        self.settle()

    @precondition(lambda self: self.sent)
    @rule(stamp_first=st.booleans())
    def answer(self, *, stamp_first: bool) -> None:
        """What an honest sink and a good driver do."""
        stamp_ns = REAL_NS + self.now_ns
        train = self.picked(0)
        if stamp_first:
            self.report_sent(0, 0, is_true=True)
        self.now_ns += 1 * MS
        # Answered before new probes are taken, so that it is still the latest.
        probe = decode_datagram(train.payloads[0])
        assert isinstance(probe, ProbegapProbe)
        reply = ProbegapProbe(
            probe.sequence, probe.initiator_sent_ticks, 10**9, 10**9, is_returned=True
        )
        arrival = Arrival(REAL_NS + self.now_ns)
        self.session.receive_datagram(encode_datagram(reply), arrival, now_ns=self.now_ns)
        if not stamp_first:
            self.session.receive_sent(train, (stamp_ns,), now_ns=self.now_ns)
        self.settle()

    @rule(really=RARELY)
    def stop(self, *, really: bool) -> None:
        if really:
            self.gap.stop()
            self.settle()

    @invariant()
    def probes_are_answered_once(self) -> None:
        gaps = [event.gap for event in self.events if isinstance(event, GapReturned | GapLost)]
        numbers = [gap.sequence for gap in gaps]
        assert len(set(numbers)) == len(numbers) <= len(self.sent)
        for event in self.events:
            match event:
                case GapReturned(gap):
                    assert gap.sink_sent_ns - gap.sink_received_ns >= 0
                    assert gap.received_ns - gap.sent_ns >= 0
                    assert not gap.is_lost
                case GapLost(gap):
                    assert gap.is_lost

    def teardown(self) -> None:
        self.gap.stop()
        self.settle()
        super().teardown()
        if any(isinstance(event, Ended) for event in self.events):
            told = sum(isinstance(event, GapReturned | GapLost) for event in self.events)
            assert told + self.gap.counts.get(Discount.UNSTAMPED, 0) == len(self.sent)


SETTINGS = settings(max_examples=80, stateful_step_count=50)

TestPair = PairMachine.TestCase
TestPair.settings = SETTINGS
TestSpecifiedPair = SpecifiedPairMachine.TestCase
TestSpecifiedPair.settings = SETTINGS
TestRouteCheck = RouteCheckMachine.TestCase
TestRouteCheck.settings = SETTINGS
TestGap = GapMachine.TestCase
TestGap.settings = SETTINGS

"""Packet pair's initiator, in virtual time. Sections are those of [MS-QLPB]."""

from __future__ import annotations

from dataclasses import replace

import pytest

from openqwave.model.errors import InvalidParameter
from openqwave.probing.handshake import CONNECT_NS, TRANSITIONS, State, Step
from openqwave.probing.outcomes import Ended, Failed, Failure
from openqwave.probing.packet_pair import (
    OPEN,
    PAGE,
    PacketPairInitiator,
    PairLimits,
    Ready,
    Stray,
    TrainFate,
    TrainLost,
    TrainMeasured,
    TrainPlan,
)
from openqwave.probing.payloads import Filler
from openqwave.probing.session import Channel, CloseReason, Session
from openqwave.probing.trains import Flight
from openqwave.wire.qlpb import (
    FlagOrder,
    HandshakeSuccess,
    PacketPairHandshake,
    PacketPairProbe,
    PacketPairSummary,
    RouteCheckSummary,
    encode_stream,
)
from openqwave.wire.qlpb import Observation as Seen
from tests.unit.driven_session import (
    LINE_NS,
    MS,
    PORT,
    REAL_NS,
    START_NS,
    STREAM,
    US,
    DrivenSession,
    S,
    Sink,
    random,
)

PLAN = TrainPlan(packets=16, packet_bytes=1_250)
# What 1250 bytes take at the sink's 100 Mbit/s.
PACKET_NS = 100 * US
# The handshake of the sink in virtual time: connecting and asking, a round trip each.
AGREED_NS = 4 * MS


class Pair:
    """An initiator with its driver."""

    def __init__(
        self, limits: PairLimits = OPEN, *, sink: Sink | None = None, version: int = 4
    ) -> None:
        self.session = PacketPairInitiator(STREAM, version, random=random(), limits=limits)
        self.sink = sink or Sink()
        self.driven = DrivenSession(self.session, self.sink)

    def queue(self, *plans: TrainPlan) -> list[int]:
        return [self.session.queue_train(plan) for plan in plans]

    def start(self, *plans: TrainPlan, for_ns: int = 200 * MS) -> DrivenSession:
        self.queue(*plans)
        self.driven.start(for_ns=for_ns)
        return self.driven


def paced(plan: TrainPlan, at_ns: int) -> TrainPlan:
    """The plan, not before a time counted from the start."""
    return replace(plan, not_before_ns=START_NS + at_ns)


def test_it_has_the_face_of_a_session() -> None:
    session: Session = PacketPairInitiator(STREAM, 4, random=random())
    assert session.next_timer_ns() is None
    assert session.effects_to_send(now_ns=START_NS) == []
    assert session.next_event() is None


# -- the handshake --------------------------------------------------------------------


def test_the_handshake_asks_for_packet_pair() -> None:
    # 3.1.4.2, 3.1.5.1.
    pair = Pair()
    driven = pair.start()
    assert pair.sink.hellos == [encode_stream(PacketPairHandshake())]
    assert driven.only(Ready) == Ready(STREAM, PORT)
    assert driven.time_of(Ready) == AGREED_NS


@pytest.mark.parametrize(("limits", "wait_ns"), [(PAGE, 250 * MS), (OPEN, 2 * S)])
def test_the_sink_has_so_long_to_agree(limits: PairLimits, wait_ns: int) -> None:
    # 3.1.4.2: 250 ms from sending the handshake, one shot.
    pair = Pair(limits)
    pair.sink.agrees_after_ns = None
    driven = pair.start(PLAN, for_ns=10 * S)
    assert driven.only(Failed).reason is Failure.NO_AGREEMENT
    connected_ns = pair.sink.round_trip_ns
    assert driven.time_of(Failed) == connected_ns + wait_ns
    assert driven.closed == [START_NS + connected_ns + wait_ns]
    assert driven.trains == []


def test_agreement_at_the_last_moment_counts() -> None:
    pair = Pair(PAGE)
    pair.sink.agrees_after_ns = 250 * MS - pair.sink.round_trip_ns - 1
    driven = pair.start(PLAN)
    driven.run(100 * MS)
    assert driven.of(Ready)
    assert driven.of(TrainMeasured)


def test_connecting_is_given_up() -> None:
    # Not in the specification; a driver that never answers must not hold the session.
    pair = Pair()
    pair.sink.delay_ns = 100 * S
    driven = pair.start(for_ns=20 * S)
    assert driven.only(Failed).reason is Failure.CONNECT_TIMED_OUT
    assert driven.time_of(Failed) == CONNECT_NS
    assert driven.closed == [START_NS + CONNECT_NS]


@pytest.mark.parametrize(
    ("reason", "failure"),
    [
        (CloseReason.REFUSED, Failure.NO_SINK),
        (CloseReason.UNREACHABLE, Failure.UNREACHABLE),
        (CloseReason.TIMED_OUT, Failure.CONNECT_TIMED_OUT),
        (CloseReason.BY_PEER, Failure.DECLINED),
        (CloseReason.BROKEN, Failure.DECLINED),
    ],
)
def test_no_connection_says_why(reason: CloseReason, failure: Failure) -> None:
    pair = Pair()
    pair.sink.refuses = reason
    driven = pair.start(PLAN)
    assert driven.only(Failed) == Failed(STREAM, failure, reason.value)
    # There is nothing to close.
    assert driven.closed == []
    assert pair.session.next_timer_ns() is None


def test_a_sink_may_decline_by_closing() -> None:
    # 2.2.2.2: it answers, or closes, or stays silent.
    pair = Pair()
    pair.sink.agrees_after_ns = None
    pair.driven.after(3 * MS, pair.driven.drop)
    driven = pair.start(PLAN)
    assert driven.only(Failed).reason is Failure.DECLINED
    assert driven.closed == []


@pytest.mark.parametrize(
    ("data", "failure"),
    [
        (b"\x1e\x00\x00\x02", Failure.MALFORMED),
        (b"\x96\x00\x00\x01", Failure.MALFORMED),
        (b"GET / HTTP/1.1\r\n", Failure.MALFORMED),
        (encode_stream(PacketPairHandshake()), Failure.MALFORMED),
        (encode_stream(PacketPairSummary(1, 1, (1,))), Failure.UNEXPECTED),
        (encode_stream(RouteCheckSummary(Seen.NO_ISSUE)), Failure.UNEXPECTED),
    ],
)
def test_only_success_is_agreement(data: bytes, failure: Failure) -> None:
    # 3.1.5.1: anything else, and any invalid field, fails the request.
    pair = Pair()
    pair.sink.agrees_after_ns = None
    pair.driven.after(3 * MS, lambda: pair.driven.deliver(data))
    driven = pair.start(PLAN)
    assert driven.only(Failed).reason is failure
    assert driven.only(Failed).detail
    assert len(driven.closed) == 1


def test_success_cut_anywhere_is_agreement() -> None:
    pair = Pair()
    pair.sink.agrees_after_ns = None
    for i, byte in enumerate(encode_stream(HandshakeSuccess())):
        pair.driven.after(3 * MS + i * MS, lambda byte=byte: pair.driven.deliver(bytes([byte])))  # type: ignore[misc]  # mypy has no types for defaults
    assert pair.start().time_of(Ready) == 6 * MS


def test_success_twice_is_nonsense() -> None:
    pair = Pair()
    success = encode_stream(HandshakeSuccess())
    pair.driven.after(10 * MS, lambda: pair.driven.deliver(success))
    assert pair.start().only(Failed).reason is Failure.UNEXPECTED


def test_transitions_are_complete() -> None:
    # Every state but the last can end, nothing leaves the last, all are reached.
    assert {state for state, step in TRANSITIONS if step is Step.ENDED} == set(State) - {State.OVER}
    assert not any(state is State.OVER for state, _ in TRANSITIONS)
    assert set(TRANSITIONS.values()) == set(State) - {State.NEW}


# -- trains ---------------------------------------------------------------------------


def test_a_train_is_numbered_packet_by_packet() -> None:
    # 3.2.5.5: consecutive within a train, F on its first (2.2.2.3). 3.1.4.2: the first is 1.
    pair = Pair()
    driven = pair.start(PLAN, TrainPlan(2, 100))
    first = [PacketPairProbe(PORT, 16, i + 1, i == 0, 1_250 - 28) for i in range(16)]
    second = [PacketPairProbe(PORT, 2, i + 17, i == 0, 100 - 28) for i in range(2)]
    assert driven.probes == first + second
    assert {train.channel for _, train in driven.trains} == {Channel.BEST_EFFORT}


@pytest.mark.parametrize(("version", "headers_bytes"), [(4, 28), (6, 48)])
def test_sizes_are_of_ip_packets(version: int, headers_bytes: int) -> None:
    pair = Pair(version=version)
    sizes = (headers_bytes + 12, 700, 1_496)
    driven = pair.start(*(TrainPlan(2, size) for size in sizes))
    assert [len(train.payloads[0]) + headers_bytes for _, train in driven.trains] == list(sizes)


def test_filler_is_not_twice_the_same() -> None:
    # 3.1.6.4: fresh filler for each probe.
    driven = Pair().start(TrainPlan(16, 1_496), TrainPlan(16, 1_496))
    fillers = [data[12:] for _, train in driven.trains for data in train.payloads]
    assert len({filler[:16] for filler in fillers}) == len(fillers)
    assert all(len(set(filler)) > 200 for filler in fillers)


def test_fillers_are_as_long_as_wanted() -> None:
    filler = Filler(random())
    taken = [filler.take(1_460) for _ in range(5_000)]
    assert {len(one) for one in taken} == {1_460}
    assert len(set(taken)) == 2_048


@pytest.mark.parametrize(
    ("order", "flags"), [(FlagOrder.MSB_FIRST, 0x80), (FlagOrder.LSB_FIRST, 0x01)]
)
def test_the_flag_goes_where_it_is_wanted(order: FlagOrder, flags: int) -> None:
    session = PacketPairInitiator(STREAM, 4, random=random(), limits=OPEN, order=order)
    session.queue_train(PLAN)
    driven = DrivenSession(session, Sink())
    driven.start(for_ns=100 * MS)
    assert [data[1] for data in driven.trains[0][1].payloads] == [flags] + [0] * 15


def test_a_train_that_arrives_is_measured() -> None:
    pair = Pair()
    driven = pair.start(PLAN)
    measured = driven.only(TrainMeasured)
    assert (measured.number, measured.plan) == (0, PLAN)
    assert measured.interface_speed_bps == pair.sink.speed_bps
    assert measured.train.deltas_ns == (PACKET_NS,) * 15
    sent_ns = REAL_NS + START_NS + AGREED_NS
    assert measured.train.sent_ns == tuple(sent_ns + i * LINE_NS for i in range(16))
    assert (measured.train.packet_bytes, measured.train.gap_ns) == (1_250, 0)


def test_trains_are_pipelined() -> None:
    # The sink's answer takes 100 ms; trains do not wait for it.
    pair = Pair()
    pair.sink.delay_ns = 50 * MS
    plans = [paced(PLAN, 300 * MS + i * 10 * MS) for i in range(5)]
    driven = pair.start(*plans, for_ns=500 * MS)
    assert driven.sent_at == [300 * MS + i * 10 * MS for i in range(5)]
    assert [event.number for event in driven.of(TrainMeasured)] == [0, 1, 2, 3, 4]


def test_a_train_waits_for_its_time() -> None:
    driven = Pair().start(paced(PLAN, 150 * MS), paced(PLAN, 10 * MS))
    # In the order in which they were queued, so the second is late.
    assert driven.sent_at == [150 * MS, 150 * MS]


def test_a_train_may_be_queued_at_any_time() -> None:
    pair = Pair()
    driven = pair.start(PLAN)
    assert pair.queue(PLAN) == [1]
    driven.settle()
    assert driven.sent_at == [AGREED_NS, 200 * MS]


def test_a_paced_train_is_over_before_the_next_begins() -> None:
    plan = TrainPlan(11, 1_250, gap_ns=3 * MS)
    driven = Pair().start(plan, PLAN)
    assert driven.sent_at == [AGREED_NS, AGREED_NS + 30 * MS]
    assert driven.trains[0][1].gap_ns == 3 * MS
    assert [event.train.gap_ns for event in driven.of(TrainMeasured)] == [3 * MS, 0]


def test_so_many_trains_are_under_way() -> None:
    pair = Pair(replace(OPEN, in_flight=2))
    pair.sink.delay_ns = 20 * MS
    driven = pair.start(*[TrainPlan(2, 100)] * 4, for_ns=500 * MS)
    first_ns = driven.sent_at[0]
    answered_ns = driven.events[1][0] - START_NS
    assert driven.sent_at == [first_ns, first_ns, answered_ns, answered_ns]
    assert answered_ns > first_ns + 40 * MS
    assert len(driven.of(TrainMeasured)) == 4


@pytest.mark.parametrize(
    "plan",
    [
        TrainPlan(1, 1_250),
        TrainPlan(OPEN.train_packets + 1, 1_250),
        TrainPlan(16, 39),
        TrainPlan(16, 1_497),
        TrainPlan(16, 1_250, gap_ns=-1),
        TrainPlan(16, 1_250, gap_ns=10 * S + 1),
    ],
)
def test_impossible_trains_are_refused(plan: TrainPlan) -> None:
    with pytest.raises(InvalidParameter):
        Pair().session.queue_train(plan)


def test_the_smallest_packet_depends_on_the_header() -> None:
    with pytest.raises(InvalidParameter):
        Pair(version=6).session.queue_train(TrainPlan(2, 59))
    assert Pair(version=6).session.queue_train(TrainPlan(2, 60)) == 0


@pytest.mark.parametrize("version", [0, 5])
def test_other_versions_of_ip_are_refused(version: int) -> None:
    with pytest.raises(InvalidParameter):
        PacketPairInitiator(STREAM, version, random=random())


@pytest.mark.parametrize(
    "change", [{"train_packets": 1}, {"train_packets": 65_536}, {"trains": 1 << 22}]
)
def test_impossible_limits_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(InvalidParameter):
        replace(OPEN, **change)


def test_a_session_starts_once() -> None:
    pair = Pair()
    pair.start()
    with pytest.raises(InvalidParameter):
        pair.session.start(now_ns=START_NS)


def test_each_packet_has_a_stamp() -> None:
    pair = Pair()
    driven = pair.start(PLAN)
    with pytest.raises(InvalidParameter):
        pair.session.receive_sent(driven.trains[0][1], (1, 2), now_ns=driven.now_ns)


# -- a request as specified -----------------------------------------------------------


def test_a_specified_request_sends_its_array_three_times() -> None:
    # 3.1.6.4: up to 3 trains, 20 ms apart, answered or not; the numbers go on.
    pair = Pair(PAGE)
    pair.sink.loses = lambda _: True
    driven = pair.start(PLAN, PLAN, PLAN, for_ns=5 * S)
    assert driven.sent_at == [AGREED_NS, AGREED_NS + 20 * MS, AGREED_NS + 40 * MS]
    assert [probe.sequence for probe in driven.probes] == list(range(1, 49))


def test_a_specified_request_ends_when_the_consumer_is_satisfied() -> None:
    # 3.1.5.3: the estimation callback's success finishes the request.
    pair = Pair(PAGE)
    pair.queue(PLAN, PLAN, PLAN)
    driven = pair.driven
    driven.start()
    while not driven.of(TrainMeasured):
        driven.run(1 * MS)
    pair.session.close()
    driven.settle()
    driven.run(5 * S)
    assert len(driven.trains) == 1
    assert driven.only(Ended) == Ended(STREAM)
    assert len(driven.closed) == 1


def test_a_specified_request_without_any_summary_fails() -> None:
    # 3.1.5.1.2, 3.1.6.4: 1500 ms from the agreement, and no summary.
    pair = Pair(PAGE)
    pair.sink.loses = lambda _: True
    driven = pair.start(PLAN, PLAN, PLAN, for_ns=5 * S)
    assert driven.only(Failed).reason is Failure.NO_SUMMARY
    assert driven.time_of(Failed) == AGREED_NS + 1_500 * MS
    assert len(driven.closed) == 1


def test_a_specified_request_with_a_summary_ends_in_order() -> None:
    # 3.1.6.4: the last estimate is forced. Summaries are counted, which 3.1.5.3 forgets.
    pair = Pair(PAGE)
    pair.sink.loses = lambda sequence: sequence > 16
    driven = pair.start(PLAN, PLAN, PLAN, for_ns=5 * S)
    assert driven.of(Failed) == []
    assert driven.time_of(Ended) == AGREED_NS + 1_500 * MS
    assert [event.number for event in driven.of(TrainMeasured)] == [0]


def test_a_specified_request_has_three_trains() -> None:
    pair = Pair(PAGE)
    assert pair.session.trains_left == 3
    pair.queue(PLAN, PLAN, PLAN)
    assert pair.session.trains_left == 0
    with pytest.raises(InvalidParameter):
        pair.session.queue_train(PLAN)


def test_trains_that_are_due_after_the_end_are_not_sent() -> None:
    pair = Pair(PAGE)
    driven = pair.start(paced(PLAN, 1_600 * MS), for_ns=5 * S)
    assert driven.trains == []
    assert driven.only(Failed).reason is Failure.NO_SUMMARY


def test_a_late_driver_sends_nothing_after_the_end() -> None:
    pair = Pair(PAGE)
    driven = pair.start(paced(PLAN, 1_000 * MS), for_ns=100 * MS)
    driven.now_ns = START_NS + AGREED_NS + PAGE.session_ns
    driven.settle()
    assert driven.trains == []


def test_a_packet_that_cannot_be_sent_fails_the_request() -> None:
    # 3.1.6.4.
    pair = Pair(PAGE)
    pair.driven.refuses = lambda _: (3, "message too long")
    driven = pair.start(PLAN)
    failed = driven.only(Failed)
    assert failed.reason is Failure.UNSENT
    assert "packet 4 of 16: message too long" in failed.detail
    assert len(driven.closed) == 1


# -- summaries ------------------------------------------------------------------------


def test_summaries_come_back_to_back_and_in_pieces() -> None:
    # TCP has no boundaries.
    class Slow(Sink):
        def summarise(
            self, driven: DrivenSession, summary: PacketPairSummary, after_ns: int
        ) -> None:
            data = encode_stream(summary)
            driven.after(after_ns, lambda: driven.deliver(data[:20]))
            driven.after(after_ns, lambda: driven.deliver(data[20:]))

    driven = Pair(sink=Slow()).start(*[TrainPlan(9, 500)] * 4)
    assert len(driven.of(TrainMeasured)) == 4


def test_a_summary_of_another_experiment_fails() -> None:
    pair = Pair()
    foreign = encode_stream(RouteCheckSummary(Seen.NO_ISSUE))
    pair.driven.after(10 * MS, lambda: pair.driven.deliver(foreign))
    assert pair.start(PLAN).only(Failed).reason is Failure.UNEXPECTED


def test_a_summary_before_any_train_fails() -> None:
    # 3.1.5.3: nothing is expected yet.
    pair = Pair()
    summary = encode_stream(PacketPairSummary(1, 1, (1,) * 15))
    pair.driven.after(10 * MS, lambda: pair.driven.deliver(summary))
    assert pair.start(paced(PLAN, 20 * MS)).only(Failed).reason is Failure.UNEXPECTED


def test_what_came_before_a_fault_counts() -> None:
    class Broken(Sink):
        def summarise(
            self, driven: DrivenSession, summary: PacketPairSummary, after_ns: int
        ) -> None:
            data = encode_stream(summary) + b"\xff"
            driven.after(after_ns, lambda: driven.deliver(data))

    driven = Pair(sink=Broken()).start(PLAN)
    assert [type(event) for _, event in driven.events] == [Ready, TrainMeasured, Failed]


def test_the_first_summary_of_a_train_stands() -> None:
    # Also while the transmit stamps are still to come.
    class Repeating(Sink):
        def summarise(
            self, driven: DrivenSession, summary: PacketPairSummary, after_ns: int
        ) -> None:
            super().summarise(driven, summary, after_ns)
            super().summarise(driven, replace(summary, deltas_ns=(100,) * 15), after_ns + 1)

    pair = Pair(sink=Repeating())
    pair.driven.stamps_after_ns = 50 * MS
    driven = pair.start(PLAN)
    assert driven.only(TrainMeasured).train.deltas_ns == (PACKET_NS,) * 15
    assert pair.session.counts == {Stray.STRANGE: 1}


def test_no_two_packets_are_ten_seconds_apart() -> None:
    # Even if that much time has passed.
    flight = Flight(0, TrainPlan(2, 100, gap_ns=10 * S), 1, START_NS)
    later_ns = START_NS + 11 * S
    assert flight.doubt_of_deltas((10 * S,), now_ns=later_ns) is None
    assert flight.doubt_of_deltas((10 * S + 100,), now_ns=later_ns)


# -- loss -----------------------------------------------------------------------------


def test_a_later_summary_shows_a_loss() -> None:
    pair = Pair()
    pair.sink.loses = lambda sequence: sequence == 5
    driven = pair.start(PLAN, PLAN, PLAN)
    lost = driven.only(TrainLost)
    assert (lost.number, lost.plan, lost.reason) == (0, PLAN, TrainFate.OVERTAKEN)
    assert len(lost.train.sent_ns) == 16
    assert lost.train.is_lost
    assert driven.time_of(TrainLost) == driven.events[-1][0] - START_NS
    assert [event.number for event in driven.of(TrainMeasured)] == [1, 2]


def test_the_first_train_is_given_a_second() -> None:
    pair = Pair()
    pair.sink.loses = lambda _: True
    driven = pair.start(PLAN, for_ns=3 * S)
    assert driven.only(TrainLost).reason is TrainFate.TIMED_OUT
    assert driven.time_of(TrainLost) == AGREED_NS + 15 * LINE_NS + 1 * S


def last_and_lost(pair: Pair, plan: TrainPlan, *, at_ns: int = 1 * S) -> int:
    """How long a train is waited for after its last packet, once its path is known."""
    pair.sink.loses = lambda sequence: sequence > 16
    driven = pair.start(PLAN, paced(plan, at_ns), for_ns=20 * S)
    assert driven.only(TrainLost).reason is TrainFate.TIMED_OUT
    gap_ns = plan.gap_ns or LINE_NS
    return driven.time_of(TrainLost) - at_ns - gap_ns * (plan.packets - 1)


def test_on_a_fast_path_loss_shows_after_50_ms() -> None:
    assert last_and_lost(Pair(), PLAN) == 50 * MS


def test_a_paced_train_is_given_its_own_time_too() -> None:
    plan = TrainPlan(11, 1_250, gap_ns=20 * MS)
    assert last_and_lost(Pair(), plan) == 50 * MS


def test_on_a_slow_path_loss_shows_after_four_times_the_delay() -> None:
    pair = Pair()
    pair.sink.delay_ns = 100 * MS
    # From the last packet sent to the summary: both ways, the bottleneck, and its spreading.
    seen_ns = 200 * MS + 16 * PACKET_NS - 15 * LINE_NS
    spread_ns = 15 * PACKET_NS
    assert last_and_lost(pair, PLAN) == 4 * (seen_ns + spread_ns)


def test_a_longer_train_on_a_slow_link_is_given_longer() -> None:
    # 128 packets of 1250 bytes take 640 ms at 2 Mbit/s: the wait for 16 would be too short.
    pair = Pair()
    pair.sink.rate_bps = 2_000_000
    driven = pair.start(PLAN, paced(TrainPlan(128, 1_250), 300 * MS), for_ns=3 * S)
    assert [event.number for event in driven.of(TrainMeasured)] == [0, 1]


def test_the_wait_is_bounded() -> None:
    pair = Pair()
    pair.sink.delay_ns, pair.sink.rate_bps = 400 * MS, 1_000_000
    assert last_and_lost(pair, PLAN, at_ns=5 * S) == 4 * S


def test_a_late_summary_is_counted_and_teaches() -> None:
    # The path becomes slow: 300 ms, after 2 ms. The first is given up, the third is waited for.
    pair = Pair()
    driven = pair.start(PLAN)
    pair.sink.delay_ns = 150 * MS
    for _ in range(2):
        pair.queue(PLAN)
        driven.run(1 * S)
    assert [event.number for event in driven.of(TrainMeasured)] == [0, 2]
    assert [event.number for event in driven.of(TrainLost)] == [1]
    assert pair.session.counts == {Stray.LATE: 1}


# -- transmit stamps ------------------------------------------------------------------


def test_stamps_may_come_after_the_summary() -> None:
    pair = Pair()
    pair.driven.stamps_after_ns = 500 * MS
    driven = pair.start(PLAN, for_ns=2 * S)
    assert driven.only(TrainMeasured).train.deltas_ns == (PACKET_NS,) * 15
    assert driven.time_of(TrainMeasured) == AGREED_NS + 15 * LINE_NS + 500 * MS


def test_without_stamps_a_train_is_lost() -> None:
    pair = Pair()
    pair.driven.stamps_after_ns = None
    driven = pair.start(PLAN, for_ns=3 * S)
    lost = driven.only(TrainLost)
    assert lost.reason is TrainFate.UNSTAMPED
    assert (lost.train.sent_ns, lost.train.deltas_ns) == ((), ())
    assert driven.time_of(TrainLost) == AGREED_NS + 1 * S


@pytest.mark.parametrize(
    "stamps_ns", [(REAL_NS, REAL_NS - 1), (REAL_NS, REAL_NS + 20 * MS)], ids=["back", "forth"]
)
def test_a_step_of_the_clock_spoils_a_train(stamps_ns: tuple[int, ...]) -> None:
    pair = Pair()
    pair.driven.stamps_after_ns = None
    driven = pair.start(TrainPlan(2, 100), for_ns=10 * MS)
    pair.session.receive_sent(driven.trains[0][1], stamps_ns, now_ns=driven.now_ns)
    driven.settle()
    assert driven.only(TrainLost).reason is TrainFate.CLOCK_STEPPED


def test_stamps_of_a_train_that_was_given_up_are_ignored() -> None:
    pair = Pair()
    pair.driven.stamps_after_ns = 2 * S
    driven = pair.start(PLAN, for_ns=5 * S)
    assert [type(event) for _, event in driven.events] == [Ready, TrainLost]


# -- the connection ends --------------------------------------------------------------


def test_closing_before_any_answer_fails() -> None:
    pair = Pair()
    pair.sink.loses = lambda _: True
    pair.driven.after(30 * MS, pair.driven.drop)
    driven = pair.start(PLAN)
    assert driven.only(TrainLost).reason is TrainFate.DISCONNECTED
    assert driven.only(Failed) == Failed(STREAM, Failure.CLOSED, CloseReason.BY_PEER.value)
    assert driven.closed == []


def test_a_sink_that_closes_after_each_summary_is_reconnected_to() -> None:
    # 3.2.5.5 taken at its word. The trains are far enough apart to lose none.
    pair = Pair(PAGE)
    pair.sink.closes_after_summary = True
    driven = pair.start(PLAN, PLAN, PLAN, for_ns=1 * S)
    assert [type(event) for _, event in driven.events] == [Ready, *[TrainMeasured] * 3, Ended]
    # The consumer is told once.
    assert driven.only(Ready) == Ready(STREAM, PORT)


def test_probes_carry_the_port_of_their_connection() -> None:
    pair = Pair(PAGE)
    pair.sink.closes_after_summary = True
    driven = pair.start(PLAN, PLAN, PLAN, for_ns=1 * S)
    ports = [probe.initiator_port for probe in driven.probes if isinstance(probe, PacketPairProbe)]
    assert ports == [PORT] * 16 + [PORT + 1] * 16 + [PORT + 2] * 16
    # All trains were answered, so the third closing ends the session.
    assert driven.of(Ended) == [Ended(STREAM)]
    assert len(driven.opened) == 3


def test_after_a_closing_trains_go_one_by_one() -> None:
    # What is under way at the first closing is lost (the sixth left when the first had been
    # reported and the closing was not seen yet), and nothing after that.
    pair = Pair(replace(OPEN, trains=20, in_flight=5))
    pair.sink.closes_after_summary = True
    driven = pair.start(*[PLAN] * 20, for_ns=3 * S)
    assert [event.number for event in driven.of(TrainLost)] == [1, 2, 3, 4, 5]
    assert {event.reason for event in driven.of(TrainLost)} == {TrainFate.DISCONNECTED}
    assert [event.number for event in driven.of(TrainMeasured)] == [0, *range(6, 20)]
    assert driven.of(Ended) == [Ended(STREAM)]


def test_one_by_one_goes_on_with_a_sink_that_stays() -> None:
    pair = Pair(replace(OPEN, trains=5))
    pair.sink.closes_after_summary = True
    driven = pair.start(PLAN, for_ns=100 * MS)
    pair.sink.closes_after_summary = False
    pair.queue(*[PLAN] * 4)
    driven.settle()
    driven.run(500 * MS)
    assert len(driven.opened) == 2
    assert [event.number for event in driven.of(TrainMeasured)] == [0, 1, 2, 3, 4]


def test_a_reported_train_outlives_the_connection() -> None:
    pair = Pair()
    pair.sink.closes_after_summary = True
    pair.driven.stamps_after_ns = 50 * MS
    driven = pair.start(PLAN)
    assert len(driven.opened) == 2
    assert driven.only(TrainMeasured).number == 0
    assert driven.of(TrainLost) == []


def test_reconnecting_is_bounded() -> None:
    pair = Pair(replace(OPEN, reconnects=2))
    pair.sink.closes_after_summary = True
    driven = pair.start(*(paced(PLAN, i * 100 * MS) for i in range(8)), for_ns=3 * S)
    assert len(driven.opened) == 3
    assert driven.only(Failed).reason is Failure.CLOSED
    assert len(driven.of(TrainMeasured)) == 3


def test_a_second_connection_has_to_be_answered_too() -> None:
    pair = Pair()
    pair.sink.closes_after_summary = True
    driven = pair.start(PLAN)
    assert len(driven.opened) == 2
    driven.drop()
    driven.settle()
    assert driven.only(Failed).reason is Failure.CLOSED


def test_reconnecting_may_fail() -> None:
    pair = Pair()
    pair.sink.closes_after_summary = True
    driven = pair.start(PLAN, for_ns=7 * MS)
    pair.sink.refuses = CloseReason.REFUSED
    driven.run(1 * S)
    assert len(driven.opened) == 2
    assert driven.only(Failed).reason is Failure.NO_SINK


def test_the_end_comes_while_reconnecting_too() -> None:
    # The session's time counts from the first agreement (3.1.5.1.2).
    pair = Pair(PAGE)
    pair.sink.closes_after_summary = True
    driven = pair.start(PLAN, for_ns=7 * MS)
    pair.sink.delay_ns = 5 * S
    driven.run(3 * S)
    assert driven.time_of(Ended) == AGREED_NS + 1_500 * MS


# -- the end --------------------------------------------------------------------------


def test_after_the_end_nothing_happens() -> None:
    pair = Pair()
    driven = pair.start(PLAN)
    pair.session.close()
    driven.settle()
    told = len(driven.events)
    assert pair.session.queue_train(PLAN) == 1
    pair.session.close()
    pair.session.handle_timer(now_ns=driven.now_ns)
    pair.session.receive_connected(STREAM, PORT, now_ns=driven.now_ns)
    pair.session.receive_stream(STREAM, b"\xff" * 100, now_ns=driven.now_ns)
    pair.session.receive_closed(STREAM, CloseReason.BROKEN, now_ns=driven.now_ns)
    pair.session.receive_unsent(driven.trains[0][1], 0, "late", now_ns=driven.now_ns)
    driven.settle()
    assert len(driven.events) == told
    assert pair.session.next_timer_ns() is None
    assert pair.session.state is State.OVER


def test_after_the_end_stamps_complete_nothing() -> None:
    pair = Pair()
    pair.driven.stamps_after_ns = 50 * MS
    pair.driven.after(30 * MS, lambda: pair.driven.deliver(b"\xff"))
    driven = pair.start(PLAN)
    assert [type(event) for _, event in driven.events] == [Ready, Failed]


@pytest.mark.parametrize("after_ns", [None, 0, 3 * MS])
def test_a_session_can_be_closed_before_it_is_agreed_to(after_ns: int | None) -> None:
    pair = Pair()
    pair.queue(PLAN)
    if after_ns is not None:
        pair.driven.start(for_ns=after_ns)
    pair.session.close()
    pair.driven.settle()
    assert pair.driven.only(Ended) == Ended(STREAM)
    assert len(pair.driven.closed) == (after_ns is not None)
    pair.driven.run(10 * S)
    assert pair.driven.trains == []


def test_other_streams_are_not_its_own() -> None:
    pair = Pair()
    driven = pair.start(PLAN)
    for other in (STREAM - 1, STREAM + 1):
        pair.session.receive_stream(other, b"\xff", now_ns=driven.now_ns)
        pair.session.receive_closed(other, CloseReason.BROKEN, now_ns=driven.now_ns)
    driven.settle()
    assert driven.of(Failed) == []


def test_a_measurement_of_ours_ends_by_itself() -> None:
    driven = Pair().start(PLAN, for_ns=100 * S)
    assert driven.time_of(Ended) == AGREED_NS + OPEN.session_ns

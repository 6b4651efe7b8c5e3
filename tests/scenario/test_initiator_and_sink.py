"""Both ends of every experiment, joined by a path in virtual time.

The path is one queue with one rate and one delay. It can lose packets, it can let those with
priority pass the others, and it can drop those that a tag would make too long.
"""

from __future__ import annotations

import itertools
from ipaddress import ip_address
from random import Random

import pytest

from openqwave.model.endpoint import Endpoint
from openqwave.probing import sink as far
from openqwave.probing.outcomes import Ended, Failed, Failure
from openqwave.probing.packet_pair import (
    OPEN,
    PAGE,
    PacketPairInitiator,
    PairLimits,
    TrainFate,
    TrainLost,
    TrainMeasured,
    TrainPlan,
)
from openqwave.probing.probegap import GapLost, GapReturned, ProbegapInitiator, Spacing
from openqwave.probing.route_check import RouteChecked, RouteCheckInitiator, Verdict
from openqwave.probing.session import (
    Arrival,
    Channel,
    CloseReason,
    CloseStream,
    Event,
    SendStream,
    SendTrain,
    Session,
)
from openqwave.probing.sink_limits import SinkLimits
from openqwave.probing.sink_reports import SessionClosed, SessionOpened
from openqwave.wire.qlpb import PORT as WELL_KNOWN_PORT
from openqwave.wire.qlpb import ROUTE_CHECK_MAX_IP_BYTES, FlagOrder, Observation
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
)

VERSIONS = pytest.mark.parametrize("version", [4, 6])
ORDERS = pytest.mark.parametrize("order", list(FlagOrder))

ADDRESSES = {4: "192.0.2.1", 6: "2001:db8::1"}
PORTS = {Channel.BEST_EFFORT: 40_001, Channel.PRIORITY: 40_002, Channel.GAP: WELL_KNOWN_PORT}
HEADERS_BYTES = {4: 28, 6: 48}

# The sink's clock against the initiator's.
OFFSET_NS = 90 * S
# From the arrival of a probe to its way back.
AT_SINK_NS = 30 * US


class Path(Sink):
    """A path with the real sink at its end.

    Attributes:
        sink: That sink.
        loses: Which datagrams get lost, by their place among all that were sent.
        has_priority: Whether tagged packets pass the others.
        drops_long: Whether full-sized packets with a tag are dropped.
    """

    def __init__(self, version: int, limits: SinkLimits | None = None) -> None:
        super().__init__()
        self.sink = far.Sink(limits)
        self.version = version
        self.packed = ip_address(ADDRESSES[version]).packed
        self.loses = lambda _: False
        self.has_priority = False
        self.drops_long = False
        self._free_ns = dict.fromkeys(Channel, 0)
        self._sent = itertools.count()

    # -- what the initiator's driver does ---------------------------------------------

    def receive_connection(self, driven: DrivenSession) -> None:
        connection = len(driven.opened)
        peer = Endpoint(self.packed, PORT + connection - 1)

        def accept() -> None:
            self.sink.receive_connection(connection, peer, self.speed_bps, now_ns=driven.now_ns)
            self._settle(driven)

        driven.after(self.delay_ns, accept)
        driven.after(self.round_trip_ns, driven.connect)

    def receive_stream(self, driven: DrivenSession, data: bytes) -> None:
        connection = len(driven.opened)

        def receive() -> None:
            self.sink.receive_stream(connection, data, now_ns=driven.now_ns)
            self._settle(driven)

        driven.after(self.delay_ns, receive)

    def receive_closed(self, driven: DrivenSession) -> None:
        connection = len(driven.opened)

        def close() -> None:
            self.sink.receive_closed(connection, now_ns=driven.now_ns)

        driven.after(self.delay_ns, close)

    def receive_train(self, driven: DrivenSession, train: SendTrain, left: list[int]) -> None:
        for data, left_ns in zip(train.payloads, left, strict=True):
            size_bytes = len(data) + HEADERS_BYTES[self.version]
            is_long = size_bytes == ROUTE_CHECK_MAX_IP_BYTES
            is_tagged = train.channel is Channel.PRIORITY
            if self.loses(next(self._sent)) or (self.drops_long and is_long and is_tagged):
                continue
            queue = train.channel if self.has_priority else Channel.BEST_EFFORT
            # Two queues that know nothing of each other: near enough for who comes first.
            free_ns = max(self._free_ns[queue], left_ns) + size_bytes * 8 * S // self.rate_bps
            self._free_ns[queue] = free_ns
            self._arrive(driven, train.channel, data, free_ns + self.delay_ns)

    # -- what the sink's driver does --------------------------------------------------

    def _arrive(self, driven: DrivenSession, channel: Channel, data: bytes, at_ns: int) -> None:
        peer = Endpoint(self.packed, PORTS[channel])
        arrival = Arrival(REAL_NS + OFFSET_NS + at_ns)

        def receive() -> None:
            self.sink.receive_datagram(data, peer, arrival, now_ns=driven.now_ns)
            self._settle(driven)

        driven.after(at_ns - driven.now_ns, receive)

    def _settle(self, driven: DrivenSession) -> None:
        for effect in self.sink.effects_to_send(now_ns=driven.now_ns):
            match effect:
                case SendStream(connection, data) if connection == len(driven.opened):
                    driven.over_this_connection(
                        self.delay_ns,
                        lambda data=data: driven.deliver(data),  # type: ignore[misc]  # mypy has no types for defaults
                    )
                case CloseStream(connection) if connection == len(driven.opened):
                    driven.over_this_connection(self.delay_ns, driven.drop)
                case far.Reply(peer):
                    assert peer.port == WELL_KNOWN_PORT
                    sent_ns = driven.now_ns + AT_SINK_NS
                    data = effect.encode(REAL_NS + OFFSET_NS + sent_ns)
                    driven.after(AT_SINK_NS + self.delay_ns, lambda data=data: driven.reply(data))  # type: ignore[misc]  # mypy has no types for defaults
                case _:
                    raise AssertionError(effect)


def drive(session: Session, path: Path) -> DrivenSession:
    return DrivenSession(session, path)


def pair(
    version: int, order: FlagOrder = FlagOrder.MSB_FIRST, limits: PairLimits = OPEN
) -> PacketPairInitiator:
    return PacketPairInitiator(STREAM, version, random=Random(1).random, limits=limits, order=order)


# -- packet pair ----------------------------------------------------------------------


@VERSIONS
@ORDERS
def test_trains_show_the_bottleneck(version: int, order: FlagOrder) -> None:
    session, path = pair(version, order), Path(version)
    sizes = [HEADERS_BYTES[version] + 12, 576, 1_496]
    for i, (packets, size) in enumerate(itertools.product([2, 16, 128], sizes)):
        session.queue_train(TrainPlan(packets, size, not_before_ns=START_NS + i * 50 * MS))
    driven = drive(session, path)
    driven.start(for_ns=1 * S)
    measured = driven.of(TrainMeasured)
    assert [event.number for event in measured] == list(range(9))
    for event in measured:
        # Packets of a few bytes leave no faster than the host sends them.
        spacing_ns = max(event.plan.packet_bytes * 8 * S // path.rate_bps, LINE_NS)
        # The wire has units of 100 ns; one packet waits for the next unit at most.
        assert len(event.train.deltas_ns) == event.plan.packets - 1
        assert all(abs(delta - spacing_ns) <= 100 for delta in event.train.deltas_ns)
        assert event.interface_speed_bps == path.speed_bps
    session.close()
    driven.settle()
    driven.run(10 * MS)
    assert driven.events[-1][1] == Ended(STREAM)
    counts = path.sink.counts
    assert (counts.trains, counts.open_sessions) == (9, 0)
    assert not any(counts.refused.values())


@VERSIONS
def test_a_paced_train_below_the_rate_keeps_its_spacing(version: int) -> None:
    session = pair(version)
    session.queue_train(TrainPlan(32, 1_250, gap_ns=200 * US))
    driven = drive(session, Path(version))
    driven.start(for_ns=100 * MS)
    assert driven.only(TrainMeasured).train.deltas_ns == (200 * US,) * 31


@VERSIONS
def test_a_specified_request_is_served(version: int) -> None:
    session, path = pair(version, limits=PAGE), Path(version)
    for _ in range(3):
        session.queue_train(TrainPlan(16, 1_496))
    driven = drive(session, path)
    driven.start(for_ns=2 * S)
    assert len(driven.of(TrainMeasured)) == 3
    assert driven.events[-1][1] == Ended(STREAM)
    opened, *_, closed = sink_events(path)
    assert isinstance(opened, SessionOpened)
    assert isinstance(closed, SessionClosed)
    assert closed.results == 3


def sink_events(path: Path) -> list[Event]:
    events = []
    while (event := path.sink.next_event()) is not None:
        events.append(event)
    return events


@VERSIONS
def test_a_train_with_a_loss_is_lost_alone(version: int) -> None:
    session, path = pair(version), Path(version)
    for i in range(6):
        session.queue_train(TrainPlan(16, 1_000, not_before_ns=START_NS + i * 20 * MS))
    # The first packet of the second, one of the fourth, and the last of the last.
    path.loses = lambda place: place in (16, 50, 95)
    driven = drive(session, path)
    driven.start(for_ns=1 * S)
    assert [event.number for event in driven.of(TrainMeasured)] == [0, 2, 4]
    assert [(event.number, event.reason) for event in driven.of(TrainLost)] == [
        (1, TrainFate.OVERTAKEN),
        (3, TrainFate.OVERTAKEN),
        (5, TrainFate.TIMED_OUT),
    ]


def test_trains_longer_than_the_sink_times_are_lost() -> None:
    session = pair(4)
    path = Path(4, SinkLimits(train_packets=64))
    for packets in (65, 64):
        session.queue_train(TrainPlan(packets, 100))
    driven = drive(session, path)
    driven.start(for_ns=1 * S)
    assert [event.number for event in driven.of(TrainLost)] == [0]
    assert [event.number for event in driven.of(TrainMeasured)] == [1]


def test_a_sink_that_is_full_declines() -> None:
    path = Path(4, SinkLimits(sessions=1, sessions_per_peer=1))
    path.sink.receive_connection(99, Endpoint(path.packed, 1), now_ns=START_NS)
    driven = drive(pair(4), path)
    driven.start(for_ns=1 * S)
    assert driven.only(Failed) == Failed(STREAM, Failure.DECLINED, CloseReason.BY_PEER.value)


# -- route check ----------------------------------------------------------------------


def check(version: int, order: FlagOrder, path: Path) -> RouteChecked:
    session = RouteCheckInitiator(STREAM, version, random=Random(1).random, order=order)
    driven = drive(session, path)
    driven.start(for_ns=2 * S)
    assert path.sink.counts.open_sessions == 0
    return driven.only(RouteChecked)


@VERSIONS
@ORDERS
def test_a_path_without_queues_carries_priority(version: int, order: FlagOrder) -> None:
    result = check(version, order, Path(version))
    assert result == RouteChecked(True, (Observation.NO_ISSUE,) * 5, Verdict.IN_ORDER)


@VERSIONS
@ORDERS
def test_a_path_with_priority_shows_it(version: int, order: FlagOrder) -> None:
    path = Path(version)
    path.has_priority, path.rate_bps = True, 10_000_000
    result = check(version, order, path)
    assert result == RouteChecked(True, (Observation.INVERSION,), Verdict.OVERTOOK)


@VERSIONS
@ORDERS
def test_a_path_that_drops_long_tagged_packets_does_not(version: int, order: FlagOrder) -> None:
    path = Path(version)
    path.drops_long = True
    result = check(version, order, path)
    assert result == RouteChecked(False, (Observation.LOSS,) * 2, Verdict.LOST_TWICE)


def test_one_loss_does_not_decide() -> None:
    path = Path(4)
    # The oversized probe of the second group.
    path.loses = lambda place: place == 5
    result = check(4, FlagOrder.MSB_FIRST, path)
    assert result.verdict is Verdict.IN_ORDER
    assert result.summaries.count(Observation.LOSS) == 1


def test_a_path_that_loses_everything_says_nothing() -> None:
    path = Path(4)
    path.loses = lambda _: True
    result = check(4, FlagOrder.MSB_FIRST, path)
    assert result == RouteChecked(False, (), Verdict.SILENT)


# -- probegap -------------------------------------------------------------------------


@VERSIONS
def test_probes_come_back_with_the_sinks_stamps(version: int) -> None:
    session = ProbegapInitiator(STREAM, version, random=Random(1).random)
    path = Path(version)
    path.loses = lambda place: place % 50 == 49
    driven = drive(session, path)
    driven.start(for_ns=1 * S)
    session.stop()
    driven.run(3 * S)
    returned = driven.of(GapReturned)
    assert len(returned) + len(driven.of(GapLost)) == len(driven.trains) == 1_001
    assert [event.gap.sequence for event in driven.of(GapLost)] == list(range(50, 1_001, 50))
    sending_ns = (32 + HEADERS_BYTES[version]) * 8 * S // path.rate_bps
    for event in returned:
        gap = event.gap
        there_ns = gap.sink_received_ns - OFFSET_NS - gap.sent_ns
        back_ns = gap.received_ns + OFFSET_NS - gap.sink_sent_ns
        # The wire cuts parts of 100 ns off.
        assert path.delay_ns + sending_ns - 100 < there_ns <= path.delay_ns + sending_ns
        assert path.delay_ns <= back_ns < path.delay_ns + 100
        assert gap.sink_sent_ns - gap.sink_received_ns == pytest.approx(AT_SINK_NS, abs=100)
    assert path.sink.counts.gaps == len(returned)
    assert session.counts == {}


def test_random_spacing_is_served_too() -> None:
    session = ProbegapInitiator(STREAM, 4, random=Random(1).random)
    session.set_rate(500, Spacing.POISSON, now_ns=START_NS)
    driven = drive(session, Path(4))
    driven.start(for_ns=2 * S)
    session.stop()
    driven.run(1 * S)
    assert 900 < len(driven.of(GapReturned)) == len(driven.trains) < 1_100


def test_a_measured_path_serves_two_experiments_at_once() -> None:
    # Trains and probes share the queue, and the probes see the trains in it.
    path = Path(4)
    path.rate_bps = 10_000_000
    gaps = ProbegapInitiator(STREAM, 4, random=Random(1).random)
    probing = drive(gaps, path)
    trains = pair(4)
    trains.queue_train(TrainPlan(16, 1_250))
    sending = drive(trains, path)
    sending.start(for_ns=0)
    probing.start(for_ns=0)
    for _ in range(200):
        sending.run(1 * MS)
        probing.run(1 * MS)
    assert sending.only(TrainMeasured).train.deltas_ns == (1 * MS,) * 15
    delays = [event.gap.received_ns - event.gap.sent_ns for event in probing.of(GapReturned)]
    assert max(delays) > min(delays) + 10 * MS

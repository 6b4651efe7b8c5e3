"""A session in virtual time: a driver that carries its effects out, and a sink for it to meet.

The driver holds sessions to their face: effects and events are taken until there are none, and
a timer that stays in the past after it was handled is a failure.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

from openqwave.probing.session import (
    Arrival,
    Channel,
    CloseReason,
    CloseStream,
    Event,
    OpenStream,
    SendStream,
    SendTrain,
    Session,
)
from openqwave.wire.qlpb import (
    TICK_NS,
    Direction,
    HandshakeSuccess,
    Observation,
    PacketPairProbe,
    PacketPairSummary,
    ProbegapProbe,
    RouteCheckProbe,
    RouteCheckSummary,
    StreamDecoder,
    decode_datagram,
    encode_datagram,
    encode_stream,
)

_E = TypeVar("_E", bound=Event)

US, MS, S = 1_000, 1_000_000, 1_000_000_000

START_NS = 5_000 * S
# Added to the time of the sessions: the clock of the stamps, of which they know nothing.
REAL_NS = 1_700_000_000 * S
STREAM, PORT = 7, 49_200

# Back to back, packets leave this far apart.
LINE_NS = 1 * US


def random() -> Callable[[], float]:
    return Random(7).random


class DrivenSession:
    """Carries out what a session wants, against `sink`.

    Attributes:
        now_ns: The time that the session is told.
        events: What it reported, with the time.
        trains: What it sent, with the time.
        opened: When it connected.
        closed: When it closed its connection.
        stamps_after_ns: How late the transmit stamps are; None for never.
        refuses: Says which datagram of a train cannot be sent, and why.
    """

    def __init__(self, session: Session, sink: Sink) -> None:
        self.session = session
        self.sink = sink
        self.now_ns = START_NS
        self.events: list[tuple[int, Event]] = []
        self.trains: list[tuple[int, SendTrain]] = []
        self.opened: list[int] = []
        self.closed: list[int] = []
        self.stamps_after_ns: int | None = 0
        self.refuses: Callable[[SendTrain], tuple[int, str] | None] = lambda _: None
        self._is_connected = False
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()

    # -- time -----------------------------------------------------------------------

    def start(self, *, for_ns: int = 0) -> None:
        self.session.start(now_ns=self.now_ns)
        self.settle()
        self.run(for_ns)

    def after(self, delay_ns: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now_ns + delay_ns, next(self._order), action))

    def over_this_connection(self, delay_ns: int, action: Callable[[], None]) -> None:
        """Do it after a delay, unless the connection is another or none by then."""
        opened = len(self.opened)

        def act() -> None:
            if self._is_connected and len(self.opened) == opened:
                action()

        self.after(delay_ns, act)

    def run(self, for_ns: int) -> None:
        """Let time pass."""
        until_ns = self.now_ns + for_ns
        while True:
            timer_ns = self.session.next_timer_ns()
            agenda_ns = self._agenda[0][0] if self._agenda else None
            due_ns = min((due for due in (timer_ns, agenda_ns) if due is not None), default=None)
            if due_ns is None or due_ns > until_ns:
                break
            self.now_ns = max(self.now_ns, due_ns)
            if agenda_ns is not None and agenda_ns <= self.now_ns:
                heapq.heappop(self._agenda)[2]()
                self.settle()
            else:
                self.session.handle_timer(now_ns=self.now_ns)
                self.settle()
                again_ns = self.session.next_timer_ns()
                assert again_ns is None or again_ns > self.now_ns, "a timer stays in the past"
        self.now_ns = until_ns

    def settle(self) -> None:
        """Carry out effects and take events until there are none."""
        while effects := self.session.effects_to_send(now_ns=self.now_ns):
            for effect in effects:
                match effect:
                    case OpenStream(stream):
                        assert stream == STREAM
                        assert not self._is_connected
                        self.opened.append(self.now_ns)
                        self.sink.receive_connection(self)
                    case SendStream(stream, data):
                        assert stream == STREAM
                        self.sink.receive_stream(self, data)
                    case CloseStream(stream):
                        assert stream == STREAM
                        self.closed.append(self.now_ns)
                        self._is_connected = False
                        self.sink.receive_closed(self)
                    case SendTrain():
                        self._send(effect)
        while (event := self.session.next_event()) is not None:
            self.events.append((self.now_ns, event))

    def _send(self, train: SendTrain) -> None:
        assert train.stream == STREAM
        self.trains.append((self.now_ns, train))
        refused = self.refuses(train)
        if refused is not None:
            index, reason = refused
            self.session.receive_unsent(train, index, reason, now_ns=self.now_ns)
            return
        gap_ns = train.gap_ns or LINE_NS
        left = [self.now_ns + i * gap_ns for i in range(len(train.payloads))]
        if train.wants_stamps and self.stamps_after_ns is not None:
            self.after(
                left[-1] - self.now_ns + self.stamps_after_ns, lambda: self.report_sent(train, left)
            )
        self.sink.receive_train(self, train, left)

    def report_sent(self, train: SendTrain, left: Sequence[int]) -> None:
        stamps = tuple(REAL_NS + time for time in left)
        self.session.receive_sent(train, stamps, now_ns=self.now_ns)

    # -- what a sink does -----------------------------------------------------------

    def connect(self) -> None:
        self._is_connected = True
        # A new connection has a new port.
        port = PORT + len(self.opened) - 1
        self.session.receive_connected(STREAM, port, now_ns=self.now_ns)

    def deliver(self, data: bytes) -> None:
        if self._is_connected:
            self.session.receive_stream(STREAM, data, now_ns=self.now_ns)

    def drop(self, reason: CloseReason = CloseReason.BY_PEER) -> None:
        """End the connection from the far side, or refuse it."""
        self._is_connected = False
        self.session.receive_closed(STREAM, reason, now_ns=self.now_ns)

    def reply(self, data: bytes, *, stamp_ns: int | None = None) -> None:
        arrival = Arrival(REAL_NS + self.now_ns if stamp_ns is None else stamp_ns)
        self.session.receive_datagram(data, arrival, now_ns=self.now_ns)

    # -- what happened --------------------------------------------------------------

    def of(self, kind: type[_E]) -> list[_E]:
        """The events of a kind."""
        return [event for _, event in self.events if isinstance(event, kind)]

    def only(self, kind: type[_E]) -> _E:
        (event,) = self.of(kind)
        return event

    def time_of(self, kind: type[Event]) -> int:
        """When the only event of a kind came, counted from the start."""
        (time_ns,) = [time_ns for time_ns, event in self.events if isinstance(event, kind)]
        return time_ns - START_NS

    @property
    def sent_at(self) -> list[int]:
        """When each train was sent, counted from the start."""
        return [time_ns - START_NS for time_ns, _ in self.trains]

    @property
    def probes(self) -> list[PacketPairProbe | RouteCheckProbe | ProbegapProbe]:
        return [decode_datagram(data) for _, train in self.trains for data in train.payloads]


class Sink:
    """Answers as specified, at the end of a path with one rate, one delay and no queue but its own.

    Tests change what they are about, by attribute or by overriding a step.

    Attributes:
        delay_ns: One way.
        rate_bps: Of the bottleneck.
        refuses: How connecting fails; None if it does not.
        agrees_after_ns: How long the handshake takes beyond the delay; None for never.
        closes_after_summary: Whether the specification is taken at its word (3.2.5.5).
        loses: Sequence numbers that do not arrive.
        observations: What is said of each group of a route check; None for nothing.
    """

    def __init__(self) -> None:
        self.delay_ns = 1 * MS
        self.rate_bps = 100_000_000
        self.speed_bps = 1_000_000_000
        self.clock_ns = 3 * S
        self.headers_bytes = 28
        self.refuses: CloseReason | None = None
        self.agrees_after_ns: int | None = 0
        self.closes_after_summary = False
        self.loses: Callable[[int], bool] = lambda _: False
        self.observations: list[Observation | None] = []
        self.hellos: list[bytes] = []

    @property
    def round_trip_ns(self) -> int:
        return 2 * self.delay_ns

    def receive_connection(self, driven: DrivenSession) -> None:
        refuses = self.refuses
        if refuses is not None:
            driven.after(self.round_trip_ns, lambda: driven.drop(refuses))
        else:
            driven.after(self.round_trip_ns, driven.connect)

    def receive_stream(self, driven: DrivenSession, data: bytes) -> None:
        assert len(StreamDecoder(Direction.TO_SINK).feed(data)) == 1
        self.hellos.append(data)
        if self.agrees_after_ns is not None:
            success = encode_stream(HandshakeSuccess())
            driven.over_this_connection(
                self.round_trip_ns + self.agrees_after_ns, lambda: driven.deliver(success)
            )

    def receive_closed(self, driven: DrivenSession) -> None:
        """The session closed its connection."""

    def receive_train(self, driven: DrivenSession, train: SendTrain, left: list[int]) -> None:
        probes = [decode_datagram(data) for data in train.payloads]
        match probes[0]:
            case PacketPairProbe():
                self.time_train(driven, [p for p in probes if isinstance(p, PacketPairProbe)], left)
            case RouteCheckProbe() as probe if probe.train_size:
                self.judge_group(driven)
            case ProbegapProbe() as probe if not self.loses(probe.sequence):
                assert train.channel is Channel.GAP
                self.return_gap(driven, probe)
            case _:
                return

    # -- packet pair ----------------------------------------------------------------

    def arrivals(self, probes: Sequence[PacketPairProbe], left: Sequence[int]) -> list[int]:
        """When packets reach the sink."""
        times: list[int] = []
        free_ns = 0
        for probe, left_ns in zip(probes, left, strict=True):
            bits = 8 * (probe.size_bytes + self.headers_bytes)
            free_ns = max(free_ns, left_ns) + bits * S // self.rate_bps
            times.append(free_ns + self.delay_ns)
        return times

    def time_train(
        self, driven: DrivenSession, probes: list[PacketPairProbe], left: list[int]
    ) -> None:
        times = self.arrivals(probes, left)
        if any(self.loses(probe.sequence) for probe in probes):
            return
        deltas = tuple(later - sooner for sooner, later in itertools.pairwise(times))
        summary = PacketPairSummary(probes[0].sequence, self.speed_bps, deltas)
        self.summarise(driven, summary, times[-1] + self.delay_ns - driven.now_ns)

    def summarise(self, driven: DrivenSession, summary: PacketPairSummary, after_ns: int) -> None:
        data = encode_stream(summary)
        driven.over_this_connection(after_ns, lambda: driven.deliver(data))
        if self.closes_after_summary:
            driven.over_this_connection(after_ns, driven.drop)

    # -- route check ----------------------------------------------------------------

    def judge_group(self, driven: DrivenSession) -> None:
        observation = self.observations.pop(0) if self.observations else None
        if observation is not None:
            data = encode_stream(RouteCheckSummary(observation))
            driven.over_this_connection(self.round_trip_ns, lambda: driven.deliver(data))

    # -- probegap -------------------------------------------------------------------

    def return_gap(self, driven: DrivenSession, probe: ProbegapProbe) -> None:
        received_ns = driven.now_ns + self.delay_ns + self.clock_ns
        reply = self.stamped(probe, received_ns // TICK_NS, (received_ns + 20 * US) // TICK_NS)
        data = encode_datagram(reply)
        driven.after(self.round_trip_ns + 20 * US, lambda: driven.reply(data))

    def stamped(self, probe: ProbegapProbe, received: int, sent: int) -> ProbegapProbe:
        """The reply, before it is sent."""
        return ProbegapProbe(
            probe.sequence, probe.initiator_sent_ticks, received, sent, b"", is_returned=True
        )

"""A measurement and a sink joined by a simulated path, in virtual time.

Both ends are the real sessions; between them is the link model of the lab, with its queues and
its cross traffic, and around it what hosts do to timing: packets that are sent together leave
some time apart, receivers stamp late, sometimes very late, and clocks disagree, drift and are set.
TCP carries nothing but small messages and takes the path's delay. Everything follows from the
seed.

Others may use the path as well: a `Bystander` has its packets on the way to the sink and knows what
became of them. And the path can change while a session runs.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address

from openqwave.lab.links import DuplexSpec, PathSpec
from openqwave.lab.pathmodel import PathModel, Truth
from openqwave.model.endpoint import Endpoint
from openqwave.probing.outcomes import Failed
from openqwave.probing.payloads import headers_bytes
from openqwave.probing.session import (
    Arrival,
    Channel,
    CloseReason,
    CloseStream,
    Effect,
    Event,
    OpenStream,
    SendStream,
    SendTrain,
    Session,
)
from openqwave.probing.sink import Reply, Sink, SinkEffect
from openqwave.wire.qlpb import PORT

MS = 1_000_000
S = 1_000_000_000
# Where virtual time begins, and the wall clock of the initiator then: 2026-11-25.
EPOCH_NS = 1_795_651_200 * S
# Local ports of the initiator's channels and connections.
PORTS = {Channel.BEST_EFFORT: 40_001, Channel.PRIORITY: 40_002, Channel.GAP: PORT}
FIRST_STREAM_PORT = 50_000
ADDRESSES = {4: "192.0.2.1", 6: "2001:db8::1"}

# What may have something to do, or another time to be woken at, after something has happened. Most
# of what happens is a packet that goes a little further, of which nobody else learns. Bits, and no
# enum.Flag, because it is asked for every packet, and that takes a microsecond each time.
NOTHING, SESSION, SINK, THERE, BACK = 0, 1, 2, 4, 8
ALL = SESSION | SINK | THERE | BACK


@dataclass(frozen=True)
class Hosts:
    """What the two machines do to timing.

    Attributes:
        sending_ns: Between packets that are sent back to back.
        lateness_ns: Mean of the stamps' lateness, exponentially distributed.
        stall: How often a stamp is late by up to `stall_ns`.
        stall_ns: Because the receiver was not run.
        drift_ppm: How much faster the sink's clock runs.
        step_at_ns: When the sink's clock is set, from the start.
        step_ns: By how much.
        held_up: How often the sender is not run for `held_up_ns` in the middle of a train.
        held_up_ns: How long that is.
    """

    sending_ns: int = 1_500
    lateness_ns: int = 5_000
    stall: float = 0.005
    stall_ns: int = 300_000
    drift_ppm: float = 20.0
    step_at_ns: int = 0
    step_ns: int = 0
    held_up: float = 0.0
    held_up_ns: int = 4 * MS


@dataclass
class Bystander:
    """Somebody else's packets on the way to the sink.

    Attributes:
        sent_ns: When each was offered, by number.
        delays_ns: The one-way delays of those that came out, by number; without hosts' noise.
    """

    sent_ns: dict[int, int] = field(default_factory=dict)
    delays_ns: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Probe:
    """A frame of the session's; source None for what the sink sends back."""

    payload: bytes
    source: int | None


@dataclass(frozen=True)
class _Other:
    """A frame of a bystander's."""

    owner: Bystander
    number: int


class VirtualWorld:
    """One initiator session, one sink, two directions of a path.

    Args:
        session: What runs.
        spec: The path.
        seed: Everything that is random follows from it.
        hosts: What they do to timing.
        sink: The far end.
        version: Of IP.
    """

    def __init__(
        self,
        session: Session,
        spec: DuplexSpec | PathSpec,
        *,
        seed: int = 1,
        hosts: Hosts = Hosts(),
        sink: Sink | None = None,
        version: int = 4,
    ) -> None:
        self.session = session
        self.sink = sink or Sink()
        self.hosts = hosts
        self._seed = seed
        self._lay(spec, 0)
        self.events: list[Event] = []
        self.now_ns = 0
        self._random = random.Random(seed)
        self._agenda: list[tuple[int, int, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._initiator = Endpoint(ip_address(ADDRESSES[version]).packed, 0)
        self._headers_bytes = headers_bytes(version)
        self._stamps = {True: 0, False: 0}
        self._ports = itertools.count(FIRST_STREAM_PORT)
        # A stream's key may be used again; a connection is a new one each time.
        self._connections = itertools.count(1)
        self._connection_of: dict[int, int] = {}
        self._wake_ns: dict[str, int] = {}
        # Sending is one thread's work: what it sends next waits for what it sends now.
        self._free_ns = 0

    # -- running ----------------------------------------------------------------------

    def run(self, until_ns: int = 20 * S, last: tuple[type[Event], ...] = (Failed,)) -> Event:
        """Start the session and go on until an event of some kinds, which is returned."""
        self.session.start(now_ns=self.now_ns)
        self._stirred = ALL
        self._serve()
        while self._agenda and self._agenda[0][0] <= until_ns:
            self._step()
            if self.events and isinstance(self.events[-1], last):
                return self.events[-1]
        raise AssertionError(f"no {last} until {self.now_ns / S:.3f} s")

    def begin(self, session: Session) -> None:
        """Start another session, in the place of the one before."""
        self.session = session
        session.start(now_ns=self.now_ns)
        self._stirred = ALL
        self._serve()

    def go_on(self, until_ns: int) -> None:
        """Go on with a session that has been started, until a time."""
        # Meanwhile anything may have been done to it.
        self._stirred = ALL
        while self._agenda and self._agenda[0][0] <= until_ns:
            self._step()
        self.now_ns = max(self.now_ns, until_ns)

    def at(self, time_ns: int, action: Callable[[], None]) -> None:
        """Have something done at a time."""
        self._at(time_ns, action)

    def accompany(self, times_ns: Iterable[int], size_bytes: int) -> Bystander:
        """Have somebody send packets of a size, IP headers included, to where the sink is."""
        other = Bystander()
        times = enumerate(times_ns)

        def send_next() -> None:
            number, time_ns = next(times, (0, None))
            if time_ns is not None:

                def offer() -> None:
                    other.sent_ns[number] = self.now_ns
                    self.there.offer(self.now_ns, _Other(other, number), size_bytes)
                    send_next()

                self._at(time_ns, offer, THERE)

        send_next()
        return other

    def change(self, spec: DuplexSpec | PathSpec) -> None:
        """Replace the path; what is under way on the old one still arrives as it would have."""
        for path in (self.there, self.back):
            while (due_ns := path.next_due_ns()) is not None:
                self._take_out(path, due_ns)
        self._lay(spec, self.now_ns)

    def _lay(self, spec: DuplexSpec | PathSpec, start_ns: int) -> None:
        duplex = spec if isinstance(spec, DuplexSpec) else DuplexSpec(spec)
        self.there = PathModel(duplex.forward, self._seed, start_ns)
        self.back = PathModel(duplex.backward, self._seed + 1, start_ns)
        self.delay_there_ns = sum(stage.delay_ns for stage in duplex.forward.stages)
        self.delay_back_ns = sum(stage.delay_ns for stage in duplex.backward.stages)
        self._stirred = ALL

    def _step(self) -> None:
        self.now_ns, _, stirred, action = heapq.heappop(self._agenda)
        self._stirred |= stirred
        action()
        self._serve()

    def truth(self, since_ns: int, until_ns: int) -> Truth:
        """What the way to the sink could and did carry; of the path that is there now."""
        return self.there.truth(since_ns, until_ns)

    def _at(self, time_ns: int, action: Callable[[], None], stirred: int = ALL) -> None:
        due_ns = max(time_ns, self.now_ns)
        heapq.heappush(self._agenda, (due_ns, next(self._number), stirred, action))

    def _serve(self) -> None:
        """Carry out everything that is to be done now, and be woken for the rest."""
        if self._stirred & (SESSION | SINK):
            self._serve_ends()
        stirred, self._stirred = self._stirred, NOTHING
        if stirred & SESSION:
            self._wake("session", self.session.next_timer_ns(), self._session_timer)
        if stirred & SINK:
            self._wake("sink", self.sink.next_timer_ns(), self._sink_timer)
        if stirred & THERE:
            self._wake("there", self.there.next_due_ns(), lambda: self._deliver(True))
        if stirred & BACK:
            self._wake("back", self.back.next_due_ns(), lambda: self._deliver(False))

    def _serve_ends(self) -> None:
        if self._stirred & SESSION:
            while effects := self.session.effects_to_send(now_ns=self.now_ns):
                for effect in effects:
                    self._carry_out(effect)
            while (event := self.session.next_event()) is not None:
                self.events.append(event)
        if self._stirred & SINK:
            while answers := self.sink.effects_to_send(now_ns=self.now_ns):
                for answer in answers:
                    self._carry_back(answer)
            while self.sink.next_event() is not None:
                pass

    def _carry_out(self, effect: Effect) -> None:
        there_ns = self.now_ns + self.delay_there_ns
        match effect:
            case OpenStream(stream):
                self._connect(stream)
            case SendStream(stream, data) if stream in self._connection_of:
                self._at(there_ns, self._to_sink(self._connection_of[stream], data), SINK)
            case CloseStream(stream) if stream in self._connection_of:
                self._at(there_ns, self._sink_closed(self._connection_of.pop(stream)), SINK)
            case SendTrain():
                self._send(effect)

    def _carry_back(self, answer: SinkEffect) -> None:
        back_ns = self.now_ns + self.delay_back_ns
        match answer:
            case SendStream(connection, data):
                self._at(back_ns, self._to_session(connection, data), SESSION)
            case CloseStream(connection):
                self._at(back_ns, self._session_closed(connection), SESSION)
            case Reply():
                self._offer(False, _Probe(answer.encode(self._sink_clock(self.now_ns)), None))

    def _wake(self, name: str, time_ns: int | None, action: Callable[[], None]) -> None:
        if time_ns is None:
            return
        time_ns = max(time_ns, self.now_ns)
        if self._wake_ns.get(name, -1) == time_ns:
            return
        self._wake_ns[name] = time_ns

        def woken() -> None:
            # An earlier wake may have been asked for since; then this one is stale.
            if self._wake_ns.get(name) == time_ns:
                self._wake_ns[name] = -1
                action()

        self._at(time_ns, woken, NOTHING)

    def _session_timer(self) -> None:
        self._stirred |= SESSION
        self.session.handle_timer(now_ns=self.now_ns)

    def _sink_timer(self) -> None:
        self._stirred |= SINK
        self.sink.handle_timer(now_ns=self.now_ns)

    # -- TCP --------------------------------------------------------------------------

    def _connect(self, stream: int) -> None:
        port = next(self._ports)
        connection = self._connection_of[stream] = next(self._connections)
        peer = Endpoint(self._initiator.packed, port)

        def accepted() -> None:
            self.sink.receive_connection(connection, peer, 1_000_000_000, now_ns=self.now_ns)

        def connected() -> None:
            if self._connection_of.get(stream) == connection:
                self.session.receive_connected(stream, port, now_ns=self.now_ns)

        self._at(self.now_ns + self.delay_there_ns, accepted, SINK)
        self._at(self.now_ns + self.delay_there_ns + self.delay_back_ns, connected, SESSION)

    def _stream_of(self, connection: int) -> int | None:
        """The session's key of a connection that it still has."""
        streams = self._connection_of.items()
        return next((stream for stream, one in streams if one == connection), None)

    def _to_sink(self, connection: int, data: bytes) -> Callable[[], None]:
        return lambda: self.sink.receive_stream(connection, data, now_ns=self.now_ns)

    def _to_session(self, connection: int, data: bytes) -> Callable[[], None]:
        def received() -> None:
            stream = self._stream_of(connection)
            if stream is not None:
                self.session.receive_stream(stream, data, now_ns=self.now_ns)

        return received

    def _sink_closed(self, connection: int) -> Callable[[], None]:
        return lambda: self.sink.receive_closed(connection, now_ns=self.now_ns)

    def _session_closed(self, connection: int) -> Callable[[], None]:
        def closed() -> None:
            stream = self._stream_of(connection)
            if stream is not None:
                del self._connection_of[stream]
                self.session.receive_closed(stream, CloseReason.BY_PEER, now_ns=self.now_ns)

        return closed

    # -- UDP --------------------------------------------------------------------------

    def _send(self, train: SendTrain) -> None:
        start_ns = max(self.now_ns, self._free_ns)
        spacing_ns = train.gap_ns or self.hosts.sending_ns
        times = [start_ns + turn * spacing_ns for turn in range(len(train.payloads))]
        if len(times) > 1 and self.hosts.held_up and self._random.random() < self.hosts.held_up:
            # What was due meanwhile leaves at once.
            held = self._random.randrange(1, len(times))
            free_ns = times[held] + self.hosts.held_up_ns
            for turn in range(held, len(times)):
                times[turn] = free_ns = max(times[turn], free_ns)
                free_ns += self.hosts.sending_ns
        self._free_ns = times[-1]
        source = PORTS[train.channel]
        for time_ns, payload in zip(times, train.payloads, strict=True):
            self._at(time_ns, self._offered(_Probe(payload, source)), THERE)

        def sent() -> None:
            stamps = tuple(EPOCH_NS + time_ns for time_ns in times)
            self.session.receive_sent(train, stamps, now_ns=self.now_ns)

        self._at(times[-1], sent, SESSION)

    def _offered(self, probe: _Probe) -> Callable[[], None]:
        return lambda: self._offer(True, probe)

    def _offer(self, is_there: bool, probe: _Probe) -> None:
        self._stirred |= THERE if is_there else BACK
        path = self.there if is_there else self.back
        path.offer(self.now_ns, probe, len(probe.payload) + self._headers_bytes)

    def _deliver(self, is_there: bool) -> None:
        self._take_out(self.there if is_there else self.back, self.now_ns)

    def _take_out(self, path: PathModel, until_ns: int) -> None:
        is_there = path is self.there
        self._stirred |= THERE if is_there else BACK
        for due_ns, frame in path.deliver(until_ns):
            if isinstance(frame, _Other):
                other = frame.owner
                other.delays_ns.setdefault(frame.number, due_ns - other.sent_ns[frame.number])
                continue
            assert isinstance(frame, _Probe)
            late_ns = round(self._random.expovariate(1 / self.hosts.lateness_ns))
            if self._random.random() < self.hosts.stall:
                late_ns += self._random.randrange(self.hosts.stall_ns)
            # Stamps keep the order of arrival: what is behind a late one is late as well.
            stamp_ns = self._stamps[is_there] = max(self._stamps[is_there], due_ns + late_ns)
            self._at(stamp_ns, self._arrived(frame, stamp_ns), SINK if is_there else SESSION)

    def _arrived(self, probe: _Probe, stamp_ns: int) -> Callable[[], None]:
        def arrived() -> None:
            if probe.source is None:
                arrival = Arrival(EPOCH_NS + stamp_ns)
                self.session.receive_datagram(probe.payload, arrival, now_ns=self.now_ns)
            else:
                peer = Endpoint(self._initiator.packed, probe.source)
                arrival = Arrival(self._sink_clock(stamp_ns))
                self.sink.receive_datagram(probe.payload, peer, arrival, now_ns=self.now_ns)

        return arrived

    def _sink_clock(self, time_ns: int) -> int:
        hosts = self.hosts
        stepped_ns = hosts.step_ns if hosts.step_ns and time_ns >= hosts.step_at_ns else 0
        return EPOCH_NS - 3 * S + time_ns + round(time_ns * hosts.drift_ppm / 1e6) + stepped_ns

"""A measurement and a sink joined by a simulated path, in virtual time.

Both ends are the real sessions; between them is the link model of the lab, with its queues and
its cross traffic, and around it what hosts do to timing: packets that are sent together leave
some time apart, receivers stamp late, sometimes very late, and clocks disagree, drift and are set.
TCP carries nothing but small messages and takes the path's delay. Everything follows from the
seed.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from openqwave.lab.links import DuplexSpec, PathSpec
from openqwave.lab.pathmodel import PathModel, Truth
from openqwave.model.endpoint import Endpoint
from openqwave.probing.outcomes import Failed
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
from openqwave.probing.sink import Reply, Sink
from openqwave.wire.qlpb import PORT

MS = 1_000_000
S = 1_000_000_000
# Where virtual time begins, and the wall clock of the initiator then: 2026-11-25.
EPOCH_NS = 1_795_651_200 * S
# Local ports of the initiator's channels and connections.
PORTS = {Channel.BEST_EFFORT: 40_001, Channel.PRIORITY: 40_002, Channel.GAP: PORT}
FIRST_STREAM_PORT = 50_000
HEADERS_BYTES = 28


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
        silent_streams: Whether the sink's host takes connections at all.
    """

    sending_ns: int = 1_500
    lateness_ns: int = 5_000
    stall: float = 0.005
    stall_ns: int = 300_000
    drift_ppm: float = 20.0
    step_at_ns: int = 0
    step_ns: int = 0


class VirtualWorld:
    """One initiator session, one sink, two directions of a path."""

    def __init__(
        self,
        session: Session,
        spec: DuplexSpec | PathSpec,
        *,
        seed: int = 1,
        hosts: Hosts = Hosts(),
        sink: Sink | None = None,
    ) -> None:
        duplex = spec if isinstance(spec, DuplexSpec) else DuplexSpec(spec)
        self.session = session
        self.sink = sink or Sink()
        self.hosts = hosts
        self.there = PathModel(duplex.forward, seed)
        self.back = PathModel(duplex.backward, seed + 1)
        self.delay_there_ns = sum(stage.delay_ns for stage in duplex.forward.stages)
        self.delay_back_ns = sum(stage.delay_ns for stage in duplex.backward.stages)
        self.events: list[Event] = []
        self.now_ns = 0
        self._random = random.Random(seed)
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._initiator = Endpoint(ip_address("192.0.2.1").packed, 0)
        self._stamps = {id(self.there): 0, id(self.back): 0}
        self._ports = itertools.count(FIRST_STREAM_PORT)
        self._open: set[int] = set()
        self._wake_ns: dict[str, int] = {}
        # Sending is one thread's work: what it sends next waits for what it sends now.
        self._free_ns = 0

    # -- running ----------------------------------------------------------------------

    def run(self, until_ns: int = 20 * S, last: tuple[type[Event], ...] = (Failed,)) -> Event:
        """Start the session and go on until an event of some kinds, which is returned."""
        self.session.start(now_ns=self.now_ns)
        self._serve()
        while self._agenda and self._agenda[0][0] <= until_ns:
            self.now_ns, _, action = heapq.heappop(self._agenda)
            action()
            self._serve()
            if self.events and isinstance(self.events[-1], last):
                return self.events[-1]
        raise AssertionError(f"no {last} until {self.now_ns / S:.3f} s")

    def truth(self, since_ns: int, until_ns: int) -> Truth:
        return self.there.truth(since_ns, until_ns)

    def _at(self, time_ns: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (max(time_ns, self.now_ns), next(self._number), action))

    def _serve(self) -> None:
        """Carry out everything that is to be done now, and be woken for the rest."""
        now_ns = self.now_ns
        busy = True
        while busy:
            busy = False
            for effect in self.session.effects_to_send(now_ns=now_ns):
                busy = True
                match effect:
                    case OpenStream(stream):
                        self._connect(stream)
                    case SendStream(stream, data):
                        self._at(now_ns + self.delay_there_ns, self._to_sink(stream, data))
                    case CloseStream(stream):
                        self._open.discard(stream)
                        self._at(now_ns + self.delay_there_ns, self._sink_closed(stream))
                    case SendTrain():
                        self._send(effect)
            for answer in self.sink.effects_to_send(now_ns=now_ns):
                busy = True
                match answer:
                    case SendStream(stream, data):
                        self._at(now_ns + self.delay_back_ns, self._to_session(stream, data))
                    case CloseStream(stream):
                        self._at(now_ns + self.delay_back_ns, self._session_closed(stream))
                    case Reply():
                        stamp_ns = self._sink_clock(now_ns)
                        self._offer(self.back, answer.encode(stamp_ns), None)
            while (event := self.session.next_event()) is not None:
                self.events.append(event)
            while self.sink.next_event() is not None:
                pass
        self._wake("session", self.session.next_timer_ns(), self._session_timer)
        self._wake("sink", self.sink.next_timer_ns(), self._sink_timer)
        self._wake("there", self.there.next_due_ns(), lambda: self._deliver(self.there))
        self._wake("back", self.back.next_due_ns(), lambda: self._deliver(self.back))

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

        self._at(time_ns, woken)

    def _session_timer(self) -> None:
        self.session.handle_timer(now_ns=self.now_ns)

    def _sink_timer(self) -> None:
        self.sink.handle_timer(now_ns=self.now_ns)

    # -- TCP --------------------------------------------------------------------------

    def _connect(self, stream: int) -> None:
        port = next(self._ports)
        self._open.add(stream)
        peer = Endpoint(self._initiator.packed, port)

        def accepted() -> None:
            self.sink.receive_connection(stream, peer, 1_000_000_000, now_ns=self.now_ns)

        def connected() -> None:
            self.session.receive_connected(stream, port, now_ns=self.now_ns)

        self._at(self.now_ns + self.delay_there_ns, accepted)
        self._at(self.now_ns + self.delay_there_ns + self.delay_back_ns, connected)

    def _to_sink(self, stream: int, data: bytes) -> Callable[[], None]:
        return lambda: self.sink.receive_stream(stream, data, now_ns=self.now_ns)

    def _to_session(self, stream: int, data: bytes) -> Callable[[], None]:
        return lambda: self.session.receive_stream(stream, data, now_ns=self.now_ns)

    def _sink_closed(self, stream: int) -> Callable[[], None]:
        return lambda: self.sink.receive_closed(stream, now_ns=self.now_ns)

    def _session_closed(self, stream: int) -> Callable[[], None]:
        def closed() -> None:
            if stream in self._open:
                self.session.receive_closed(stream, CloseReason.BY_PEER, now_ns=self.now_ns)

        return closed

    # -- UDP --------------------------------------------------------------------------

    def _send(self, train: SendTrain) -> None:
        start_ns = max(self.now_ns, self._free_ns)
        spacing_ns = train.gap_ns or self.hosts.sending_ns
        times = [start_ns + turn * spacing_ns for turn in range(len(train.payloads))]
        self._free_ns = times[-1]
        source = PORTS[train.channel]
        for time_ns, payload in zip(times, train.payloads, strict=True):
            self._at(time_ns, self._offered(payload, source))

        def sent() -> None:
            stamps = tuple(EPOCH_NS + time_ns for time_ns in times)
            self.session.receive_sent(train, stamps, now_ns=self.now_ns)

        self._at(times[-1], sent)

    def _offered(self, payload: bytes, source: int) -> Callable[[], None]:
        return lambda: self._offer(self.there, payload, source)

    def _offer(self, path: PathModel, payload: bytes, source: int | None) -> None:
        path.offer(self.now_ns, (payload, source), len(payload) + HEADERS_BYTES)

    def _deliver(self, path: PathModel) -> None:
        for due_ns, frame in path.deliver(self.now_ns):
            assert isinstance(frame, tuple)
            payload, source = frame
            late_ns = round(self._random.expovariate(1 / self.hosts.lateness_ns))
            if self._random.random() < self.hosts.stall:
                late_ns += self._random.randrange(self.hosts.stall_ns)
            # Stamps keep the order of arrival: what is behind a late one is late as well.
            stamp_ns = self._stamps[id(path)] = max(self._stamps[id(path)], due_ns + late_ns)
            self._at(stamp_ns, self._arrived(payload, source, stamp_ns))

    def _arrived(self, payload: bytes, source: int | None, stamp_ns: int) -> Callable[[], None]:
        def arrived() -> None:
            if source is None:
                arrival = Arrival(EPOCH_NS + stamp_ns)
                self.session.receive_datagram(payload, arrival, now_ns=self.now_ns)
            else:
                peer = Endpoint(self._initiator.packed, source)
                arrival = Arrival(self._sink_clock(stamp_ns))
                self.sink.receive_datagram(payload, peer, arrival, now_ns=self.now_ns)

        return arrived

    def _sink_clock(self, time_ns: int) -> int:
        hosts = self.hosts
        stepped_ns = hosts.step_ns if hosts.step_ns and time_ns >= hosts.step_at_ns else 0
        return EPOCH_NS - 3 * S + time_ns + round(time_ns * hosts.drift_ppm / 1e6) + stepped_ns

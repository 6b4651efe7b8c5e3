"""The sink: the far end of packet pair, route check, probegap and discard (MS-QLPB 3.2).

A driver owns the sockets: it listens on port 2177 of TCP and UDP, decides who is allowed at all,
and hands in what comes. The sink answers with effects, to be carried out in order: bytes for a
connection (`SendStream`), the end of one (`CloseStream`), a probe to be sent back (`Reply`).

**A connection** begins unknown. Its handshake makes it an experiment, or a discard, whose bytes
are thrown away; `TRANSITIONS` has every message that is in order, and all else ends the
connection. It then lasts until the peer closes it, although one place of the specification says
that a packet pair ends with its first summary: its own example goes on, and so do initiators.

**A probe** of packet pair or route check finds its connection by its sender's address and the
TCP port that it carries. A probegap probe needs none; it is answered if it comes from port 2177
and at no other, so that a forged sender makes the sink hit nothing but another sink's port.

Whatever is wrong with a datagram, it is counted and otherwise ignored. What peers can make the
sink keep or do is bounded by `SinkLimits`.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, TypeAlias

from openqwave.model.value import value
from openqwave.probing.session import CloseStream, SendStream
from openqwave.probing.sink_limits import Rates, SinkLimits
from openqwave.probing.sink_refusals import Refusals
from openqwave.probing.sink_reports import (
    Experiment,
    Refused,
    RouteCheckSummarised,
    SessionClosed,
    SessionOpened,
    SinkCounts,
    TrainTimed,
)
from openqwave.probing.sink_sessions import TRANSITIONS, PeerKey, SinkSession
from openqwave.wire import qlpb
from openqwave.wire.faults import Fault, MalformedMessage

if TYPE_CHECKING:
    from openqwave.model.endpoint import Endpoint
    from openqwave.probing.session import Arrival, Event

# Stamps are unsigned 64 bits on the wire.
_TICKS_MASK = (1 << 64) - 1

_SUCCESS = qlpb.encode_stream(qlpb.HandshakeSuccess())


@value
class Reply:
    """Send a probe back, from port 2177.

    Attributes:
        peer: To whom.
        probe: As it came.
        received_stamp_ns: When it came, CLOCK_REALTIME.
        local: The address that it came to, packed, from which the answer has to go: a host has
            several, and the initiator knows one of them. Empty if unknown.
    """

    peer: Endpoint
    probe: qlpb.ProbegapProbe
    received_stamp_ns: int
    local: bytes = b""

    def encode(self, sent_stamp_ns: int) -> bytes:
        """Write it, with the time: to be called right before it is sent.

        Args:
            sent_stamp_ns: CLOCK_REALTIME, like the stamp of its arrival.
        """
        probe = self.probe
        return qlpb.encode_datagram(
            qlpb.ProbegapProbe(
                probe.sequence,
                probe.initiator_sent_ticks,
                self.received_stamp_ns // qlpb.TICK_NS & _TICKS_MASK,
                sent_stamp_ns // qlpb.TICK_NS & _TICKS_MASK,
                probe.filler,
                is_returned=True,
            )
        )


SinkEffect: TypeAlias = SendStream | CloseStream | Reply


class Sink:
    """Answers experiments; see the module's text.

    Args:
        limits: What is granted at most.
    """

    def __init__(self, limits: SinkLimits | None = None) -> None:
        self._limits = limits = limits or SinkLimits()
        self._sessions: dict[int, SinkSession] = {}
        self._by_key: dict[PeerKey, SinkSession] = {}
        self._of_peer: Counter[bytes] = Counter()
        self._rates = Rates(limits)
        self._refusals = Refusals()
        # No session is due before this.
        self._timer_ns: int | None = None
        self._effects: list[SinkEffect] = []
        self._events: deque[Event] = deque()
        self._connections = self._datagrams = self._trains = self._groups = self._gaps = 0
        self._discarded_bytes = self._lost_events = 0

    @property
    def counts(self) -> SinkCounts:
        """What was done and refused up to now."""
        return SinkCounts(
            self._connections,
            len(self._sessions),
            self._datagrams,
            self._trains,
            self._groups,
            self._gaps,
            self._discarded_bytes,
            self._lost_events,
            self._refusals.counts(),
        )

    # -- connections ------------------------------------------------------------------

    def receive_connection(
        self, connection: int, peer: Endpoint, interface_speed_bps: int = 0, *, now_ns: int
    ) -> None:
        """A peer has connected to port 2177 of TCP.

        Args:
            connection: Names the connection in all that follows; not in use.
            peer: The other end.
            interface_speed_bps: Of the interface that it comes in by, to be told to the
                initiator; of a wireless one, 60 % of the link's (MS-QLPB 3.2.5.5); 0 if unknown.
            now_ns: The time.
        """
        self._connections += 1
        peer = peer.unmapped()
        if len(self._sessions) >= self._limits.sessions:
            self.refuse(Refused.TOO_MANY_SESSIONS, peer, now_ns=now_ns)
            self._effects.append(CloseStream(connection))
            return
        if self._of_peer[peer.packed] >= self._limits.sessions_per_peer:
            self.refuse(Refused.TOO_MANY_OF_PEER, peer, now_ns=now_ns)
            self._effects.append(CloseStream(connection))
            return
        session = SinkSession(connection, peer, interface_speed_bps, self._limits, now_ns)
        self._sessions[connection] = session
        self._of_peer[peer.packed] += 1
        if self._of_peer[peer.packed] == 1:
            self._rates.hold(peer.packed)
        self._wake_at(session.deadline_ns)

    def receive_stream(self, connection: int, data: bytes, *, now_ns: int) -> None:
        """Bytes came over a connection, cut anywhere; ignored if the sink has closed it."""
        session = self._sessions.get(connection)
        if session is None:
            return
        session.received_bytes += len(data)
        if session.experiment is not Experiment.DISCARD:
            fault: Fault | None = None
            try:
                messages = session.decoder.feed(data)
            except MalformedMessage as error:
                messages, fault = list(error.decoded), error.fault
            for message in messages:
                if not self._receive_message(session, message, now_ns):
                    return
            if fault is not None:
                is_other = fault is Fault.OTHER_PROTOCOL
                reason = Refused.OTHER_PROTOCOL if is_other else Refused.MALFORMED_STREAM
                self._end(session, reason, now_ns, fault.value)
                return
        if session.experiment is Experiment.DISCARD:
            self._discard(session, now_ns)
        if session.experiment is not Experiment.UNKNOWN:
            session.deadline_ns = now_ns + self._limits.idle_ns

    def receive_closed(self, connection: int, *, now_ns: int) -> None:
        """The peer closed a connection, it broke, or it does not take what is sent."""
        del now_ns
        session = self._sessions.get(connection)
        if session is not None:
            self._forget(session, None)

    def _receive_message(
        self, session: SinkSession, message: qlpb.StreamMessage, now_ns: int
    ) -> bool:
        """Take a step of the table; tell whether the connection is still there."""
        experiment = TRANSITIONS.get((session.experiment, type(message)))
        if experiment is None:
            self._end(session, Refused.UNEXPECTED_MESSAGE, now_ns)
            return False
        session.experiment = experiment
        if experiment is not Experiment.DISCARD:
            self._by_key[session.key] = session
            self._effects.append(SendStream(session.connection, _SUCCESS))
        self._tell(SessionOpened(session.connection, session.peer, experiment))
        return True

    def _discard(self, session: SinkSession, now_ns: int) -> None:
        discarded_bytes = session.received_bytes - qlpb.HEADER_BYTES
        self._discarded_bytes += discarded_bytes - session.discarded_bytes
        session.discarded_bytes = discarded_bytes
        if discarded_bytes > self._limits.discard_bytes:
            self._end(session, Refused.TOO_MUCH_TO_DISCARD, now_ns)

    def _end(self, session: SinkSession, reason: Refused, now_ns: int, detail: str = "") -> None:
        """Close a connection of our own accord."""
        self.refuse(reason, session.peer, detail, now_ns=now_ns)
        self._effects.append(CloseStream(session.connection))
        self._forget(session, reason)

    def _forget(self, session: SinkSession, reason: Refused | None) -> None:
        address = session.peer.packed
        del self._sessions[session.connection]
        # A peer that lost its connection may have the same port again before we hear of it.
        if self._by_key.get(session.key) is session:
            del self._by_key[session.key]
        self._of_peer[address] -= 1
        if not self._of_peer[address]:
            del self._of_peer[address]
            self._rates.release(address)
        if session.experiment is not Experiment.UNKNOWN:
            self._tell(
                SessionClosed(
                    session.connection,
                    session.peer,
                    session.experiment,
                    reason,
                    session.results,
                    session.discarded_bytes,
                )
            )

    # -- datagrams --------------------------------------------------------------------

    def receive_datagram(
        self, data: bytes, peer: Endpoint, arrival: Arrival, *, now_ns: int
    ) -> None:
        """A datagram came to port 2177 of UDP.

        Args:
            data: What it carried.
            peer: Who sent it.
            arrival: What the kernel says of it; times of trains and probes are its stamps.
            now_ns: The time.
        """
        self._datagrams += 1
        sender = peer.unmapped()
        reason = self._rates.take(sender.packed, now_ns)
        if reason is not None:
            self.refuse(reason, peer, now_ns=now_ns)
            return
        try:
            probe = qlpb.decode_datagram(data)
        except MalformedMessage as error:
            self.refuse(Refused.MALFORMED_DATAGRAM, peer, error.fault.value, now_ns=now_ns)
            return
        if isinstance(probe, qlpb.ProbegapProbe):
            self._receive_gap(probe, peer, arrival, now_ns)
        else:
            self._receive_probe(probe, data, sender, arrival, now_ns)

    def _receive_gap(
        self, probe: qlpb.ProbegapProbe, peer: Endpoint, arrival: Arrival, now_ns: int
    ) -> None:
        if probe.is_returned:
            self.refuse(Refused.RETURNED_PROBE, peer, now_ns=now_ns)
        elif peer.port != qlpb.PORT:
            self.refuse(Refused.REFLECTION, peer, now_ns=now_ns)
        else:
            self._gaps += 1
            self._effects.append(Reply(peer, probe, arrival.stamp_ns, arrival.local))

    def _receive_probe(
        self,
        probe: qlpb.PacketPairProbe | qlpb.RouteCheckProbe,
        data: bytes,
        sender: Endpoint,
        arrival: Arrival,
        now_ns: int,
    ) -> None:
        session = self._by_key.get((sender.packed, sender.scope_id, probe.initiator_port))
        if session is None:
            self.refuse(Refused.NO_SESSION, sender, now_ns=now_ns)
            return
        if (session.experiment, type(probe)) not in TRANSITIONS:
            self.refuse(Refused.WRONG_EXPERIMENT, sender, now_ns=now_ns)
            return
        session.deadline_ns = now_ns + self._limits.idle_ns
        if session.order is None:
            session.order = qlpb.flag_order_of(data)
        if isinstance(probe, qlpb.RouteCheckProbe):
            observation = session.group.receive(probe)
            if observation is not None:
                self._summarise_group(session, observation)
            return
        result = session.train.receive(probe, arrival.stamp_ns)
        if isinstance(result, Refused):
            self.refuse(result, sender, now_ns=now_ns)
        elif result is not None:
            self._summarise_train(session, probe, result)

    def _summarise_group(self, session: SinkSession, observation: qlpb.Observation) -> None:
        summary = qlpb.RouteCheckSummary(observation)
        data = qlpb.encode_stream(summary, session.order or qlpb.FlagOrder.MSB_FIRST)
        self._effects.append(SendStream(session.connection, data))
        self._groups += 1
        session.results += 1
        self._tell(RouteCheckSummarised(session.connection, session.peer, observation))

    def _summarise_train(
        self, session: SinkSession, last: qlpb.PacketPairProbe, deltas_ns: tuple[int, ...]
    ) -> None:
        sequence = last.sequence - len(deltas_ns)
        summary = qlpb.PacketPairSummary(sequence, session.interface_speed_bps, deltas_ns)
        self._effects.append(SendStream(session.connection, qlpb.encode_stream(summary)))
        self._trains += 1
        session.results += 1
        self._tell(
            TrainTimed(
                session.connection,
                session.peer,
                sequence,
                last.train_size,
                last.size_bytes,
                sum(deltas_ns),
            )
        )

    # -- refusals, effects, events, time ----------------------------------------------

    def refuse(self, reason: Refused, peer: Endpoint, detail: str = "", *, now_ns: int) -> None:
        """Count something that is not served; the driver's own refusals come in here, too.

        Args:
            reason: Why.
            peer: Who wanted it.
            detail: What is known beyond the reason.
            now_ns: The time.
        """
        event = self._refusals.count(reason, peer, detail, now_ns)
        if event is not None:
            self._tell(event)

    def effects_to_send(self, *, now_ns: int) -> list[SinkEffect]:
        """Take what is to be done now, in order."""
        del now_ns
        effects, self._effects = self._effects, []
        return effects

    def next_event(self) -> Event | None:
        """Take the oldest event; None when there is none."""
        return self._events.popleft() if self._events else None

    def next_timer_ns(self) -> int | None:
        """When `handle_timer` is due; None for never."""
        times = (self._timer_ns, self._refusals.next_timer_ns())
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, *, now_ns: int) -> None:
        """End the sessions whose time is over, and tell the refusals that were held back."""
        for session in list(self._sessions.values()):
            if session.deadline_ns <= now_ns:
                unknown = session.experiment is Experiment.UNKNOWN
                self._end(session, Refused.NO_HANDSHAKE if unknown else Refused.IDLE, now_ns)
        # Deadlines move with every probe, so the earliest is looked for here, not there.
        self._timer_ns = min((one.deadline_ns for one in self._sessions.values()), default=None)
        for event in self._refusals.due(now_ns):
            self._tell(event)

    def _wake_at(self, deadline_ns: int) -> None:
        if self._timer_ns is None or deadline_ns < self._timer_ns:
            self._timer_ns = deadline_ns

    def _tell(self, event: Event) -> None:
        if len(self._events) >= self._limits.events:
            self._events.popleft()
            self._lost_events += 1
        self._events.append(event)

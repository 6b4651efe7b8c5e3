"""Initiator of probegap: small probes that the sink sends back with its own two stamps.

There is no handshake: probes of 32 bytes leave from UDP port 2177, one a millisecond in the
specification (MS-QLPB 3.1.4.3, 3.1.6.5), and come back. Each that does is one round-trip time
and one sample of delay in each direction, up to the unknown offset of the clocks. The pace is
the specification's until another is set.

Where the specification leaves something open, this is done: sequence numbers begin at 1; results
are found by the sequence number, so a lost reply does not shift the ones after it. The send time
in a probe is that of the schedule, as specified; the session keeps the kernel's transmit stamp
for itself. A wrong reply is counted and does not end the session, although 3.1.5.4 says so:
anybody on the link could end it.

**What a hostile sink can do**: lose probes, and claim times that fit into the round trip. Its
replies, however many, change counters and the entries of one ring of `_RING` probes.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from types import MappingProxyType
from typing import TYPE_CHECKING

from openqwave.model.errors import InvalidParameter
from openqwave.probing.gaps import (
    Discount,
    Fate,
    GapLost,
    GapProbe,
    GapReturned,
    LossTimer,
)
from openqwave.probing.outcomes import Ended, Failed, Failure
from openqwave.probing.pace import Pace, Spacing
from openqwave.probing.payloads import probegap_packet_bytes
from openqwave.probing.session import Arrival, Channel, CloseReason, Effect, Event, SendTrain
from openqwave.wire.qlpb import (
    TICK_NS,
    MalformedMessage,
    ProbegapProbe,
    decode_datagram,
    encode_datagram,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "Discount",
    "Ended",
    "Failed",
    "Failure",
    "GapLost",
    "GapReturned",
    "ProbegapInitiator",
    "Spacing",
]

# The longest wait for a probe at the highest pace, 4000, and a margin. A power of two, so that
# places in the ring stay in step with sequence numbers when those pass 2**32.
_RING = 4_096
_SEQUENCES = 1 << 32


class State(enum.Enum):
    """Where a session stands."""

    NEW = "not started"
    RUNNING = "probes are sent"
    DRAINING = "no more are sent, some may come back"
    OVER = "nothing happens any more"


class Step(enum.Enum):
    """What moves a session on."""

    STARTED = "begin"
    STOPPED = "the consumer has enough"
    ENDED = "a failure, the last probe answered, or the consumer's wish"


TRANSITIONS: Mapping[tuple[State, Step], State] = MappingProxyType(
    {
        (State.NEW, Step.STARTED): State.RUNNING,
        (State.NEW, Step.STOPPED): State.DRAINING,
        (State.RUNNING, Step.STOPPED): State.DRAINING,
        (State.NEW, Step.ENDED): State.OVER,
        (State.RUNNING, Step.ENDED): State.OVER,
        (State.DRAINING, Step.ENDED): State.OVER,
    }
)


class ProbegapInitiator:
    """One probegap session. See the module's text.

    Args:
        stream: The session's key in effects and events.
        version: Of IP towards the sink, 4 or 6.
        random: Uniform in [0, 1), for exponential intervals.
        first_sequence: Number of the first probe.

    Raises:
        InvalidParameter: No such version of IP.
    """

    def __init__(
        self, stream: int, version: int, *, random: Callable[[], float], first_sequence: int = 1
    ) -> None:
        self._stream = stream
        self._packet_bytes = probegap_packet_bytes(version)
        self._state = State.NEW
        self._pace = Pace(random)
        self._loss_timer = LossTimer()
        # Sequence numbers here go on counting; on the wire they have 32 bits.
        self._next = first_sequence
        self._oldest = first_sequence
        self._ring: list[GapProbe | None] = [None] * _RING
        self._effects: list[Effect] = []
        self._events: deque[Event] = deque()
        self._counts: Counter[Discount] = Counter()

    @property
    def state(self) -> State:
        """Where the session stands."""
        return self._state

    @property
    def counts(self) -> Mapping[Discount, int]:
        """What came, or went, and was no sample, by reason."""
        return dict(self._counts)

    # -- what the consumer wants ------------------------------------------------------

    def start(self, *, now_ns: int) -> None:
        """Begin; the first probe is due at once (3.1.4.3).

        Raises:
            InvalidParameter: It was started before.
        """
        if not self._take(Step.STARTED):
            raise InvalidParameter("a session is started once")
        self._pace.start(now_ns=now_ns)

    def set_rate(
        self, per_second: int, spacing: Spacing = Spacing.PERIODIC, *, now_ns: int
    ) -> None:
        """Change the pace, from the next probe on.

        Args:
            per_second: Probes a second, 1 to 2000.
            spacing: How the time between them is chosen.
            now_ns: The time.

        Raises:
            InvalidParameter: The rate is out of its range.
        """
        self._pace.set_rate(per_second, spacing, now_ns=now_ns)

    def stop(self) -> None:
        """Send no more; the session ends when what is under way is back or lost."""
        if self._take(Step.STOPPED):
            self._end_when_drained()

    def close(self) -> None:
        """End in order, now; what is under way is forgotten."""
        self._end(Ended(self._stream))

    # -- the verbs of a session -------------------------------------------------------

    def receive_connected(self, stream: int, local_port: int, *, now_ns: int) -> None:
        """Nothing: the experiment has no connection."""

    def receive_stream(self, stream: int, data: bytes, *, now_ns: int) -> None:
        """Nothing."""

    def receive_closed(self, stream: int, reason: CloseReason, *, now_ns: int) -> None:
        """Nothing."""

    def receive_datagram(self, data: bytes, arrival: Arrival, *, now_ns: int) -> None:
        """A probe came back, or something that pretends to be one."""
        if self._state is State.OVER:
            return
        matched = self._match(data)
        if isinstance(matched, Discount):
            self._counts[matched] += 1
            return
        probe, reply = matched
        probe.reply, probe.received_ns, probe.replied_ns = reply, arrival.stamp_ns, now_ns
        self._complete(probe)

    def receive_sent(
        self,
        train: SendTrain,
        stamps_ns: tuple[int, ...],
        *,
        now_ns: int,  # noqa: ARG002 - the verb's form
    ) -> None:
        """A probe has left.

        Raises:
            InvalidParameter: There is not exactly one stamp.
        """
        if len(stamps_ns) != 1:
            raise InvalidParameter(f"{len(stamps_ns)} stamps of one probe")
        probe = self._probe(train.number)
        if probe is None or probe.sent_ns is not None or self._state is State.OVER:
            return
        probe.sent_ns = stamps_ns[0]
        self._complete(probe)

    def receive_unsent(
        self,
        train: SendTrain,
        index: int,  # noqa: ARG002 - the verb's form
        reason: str,
        *,
        now_ns: int,  # noqa: ARG002 - the verb's form
    ) -> None:
        """A probe could not be sent, which ends the session (3.1.6.5)."""
        self._end(Failed(self._stream, Failure.UNSENT, f"probe {train.number}: {reason}"))

    def effects_to_send(self, *, now_ns: int) -> list[Effect]:
        """Take what is to be done now, in order."""
        if self._state is State.RUNNING:
            due, skipped = self._pace.take_due(now_ns=now_ns)
            for due_ns in due:
                self._send(due_ns, now_ns)
            if skipped:
                self._counts[Discount.SKIPPED] += skipped
        taken, self._effects = self._effects, []
        return taken

    def next_event(self) -> Event | None:
        """Take the oldest event; None when there is none."""
        return self._events.popleft() if self._events else None

    def next_timer_ns(self) -> int | None:
        """When `handle_timer` is due; None for never."""
        if self._state is State.OVER:
            return None
        send_ns = self._pace.next_ns if self._state is State.RUNNING else None
        waiting = self._first_waiting()
        lost_ns = None if waiting is None else waiting.released_ns + self._loss_timer.wait_ns
        return min((due for due in (send_ns, lost_ns) if due is not None), default=None)

    def handle_timer(self, *, now_ns: int) -> None:
        """Give up the probes that took too long."""
        if self._state is State.OVER:
            return
        given_up_ns = now_ns - self._loss_timer.wait_ns
        while (waiting := self._first_waiting()) is not None and waiting.released_ns <= given_up_ns:
            self._lose(waiting)
        self._end_when_drained()

    # -- one probe --------------------------------------------------------------------

    def _send(self, due_ns: int, now_ns: int) -> None:
        sequence = self._next
        self._next += 1
        overwritten = self._ring[sequence % _RING]
        if overwritten is not None and overwritten.fate is Fate.WAITING:
            self._lose(overwritten)
        ticks = due_ns // TICK_NS
        self._ring[sequence % _RING] = GapProbe(sequence, self._packet_bytes, ticks, now_ns)
        payload = encode_datagram(ProbegapProbe(sequence % _SEQUENCES, ticks))
        self._effects.append(SendTrain(self._stream, sequence, Channel.GAP, (payload,)))

    def _match(self, data: bytes) -> tuple[GapProbe, ProbegapProbe] | Discount:
        """The probe that a datagram answers and the answer, or why it answers none."""
        try:
            reply = decode_datagram(data)
        except MalformedMessage:
            return Discount.MALFORMED
        if not isinstance(reply, ProbegapProbe) or not reply.is_returned:
            return Discount.NOT_RETURNED
        probe = self._ring[reply.sequence % _RING]
        if probe is None or probe.sequence % _SEQUENCES != reply.sequence:
            return Discount.UNKNOWN
        if probe.reply is not None:
            return Discount.REPEATED
        if reply.initiator_sent_ticks != probe.ticks or reply.filler:
            return Discount.ALTERED
        return probe, reply

    def _complete(self, probe: GapProbe) -> None:
        """Report a probe if its reply and its transmit stamp are both there."""
        gap = probe.gap
        if gap is None or probe.reply is None:
            return
        if not probe.can_be_true(gap):
            # It says nothing; another, true one may yet come.
            probe.reply = None
            self._counts[Discount.IMPLAUSIBLE] += 1
            return
        self._loss_timer.learn(gap.received_ns - gap.sent_ns)
        if probe.fate is Fate.LOST:
            self._counts[Discount.LATE] += 1
            return
        probe.fate = Fate.RETURNED
        self._events.append(GapReturned(gap))
        self._end_when_drained()

    def _lose(self, probe: GapProbe) -> None:
        probe.fate = Fate.LOST
        gap = probe.gap
        if gap is None:
            self._counts[Discount.UNSTAMPED] += 1
        else:
            self._events.append(GapLost(gap))

    def _probe(self, sequence: int) -> GapProbe | None:
        """A probe that was sent and is still remembered."""
        probe = self._ring[sequence % _RING]
        return probe if probe is not None and probe.sequence == sequence else None

    def _first_waiting(self) -> GapProbe | None:
        """The oldest probe that is neither back nor lost."""
        while self._oldest < self._next:
            probe = self._probe(self._oldest)
            if probe is not None and probe.fate is Fate.WAITING:
                return probe
            self._oldest += 1
        return None

    # -- the end ----------------------------------------------------------------------

    def _take(self, step: Step) -> bool:
        """Move on; False if the step leads nowhere from here."""
        following = TRANSITIONS.get((self._state, step))
        if following is None:
            return False
        self._state = following
        return True

    def _end(self, event: Event) -> None:
        """Say the last word, once."""
        if self._take(Step.ENDED):
            self._events.append(event)

    def _end_when_drained(self) -> None:
        if self._state is State.DRAINING and self._first_waiting() is None:
            self._end(Ended(self._stream))

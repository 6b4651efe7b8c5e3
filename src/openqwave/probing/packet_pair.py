"""Initiator of packet pair: sends trains, and hears from the sink how they arrived.

After the handshake the consumer's trains are sent in the order in which they were queued, each
when its time and the limits' spacing have come. A train does not wait for the report of the one
before; reports are told apart by the sequence number of a train's first packet (MS-QLPB 2.2.2.7).
The sink reports only trains that arrived whole and in order (3.2.5.5), so silence is the report
of loss.

A specified request, one array of probes sent up to three times 20 ms apart until the consumer's
estimate stands (3.1.6.4), is a session with the limits `PAGE` and the same plan queued three
times; the consumer closes it when it knows enough.

Where the specification contradicts itself, this is what is done: packets are numbered one by one
over the whole session (3.1.6.4 against 3.2.5.5) and are of one size within a train (3.1.1 against
3.2.5.5); a summary counts whenever it comes (3.1.5.3) and every good one is counted, so that a
session with one ends in order (3.1.6.4). A sink that ends its session after each summary
(3.2.5.5 against 4.1) is reconnected to, and from then on trains are sent one at a time, because
those under way would be lost.

**What a hostile sink can do**: end the session, and tell lies that fit the time that has passed.
It cannot make the session remember more than the limits' number of trains in flight and
`_LATE_REMEMBERED` more.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from typing import TYPE_CHECKING

from openqwave.model.errors import InvalidParameter
from openqwave.probing.handshake import State, Step, StreamSession
from openqwave.probing.outcomes import Ended, Failed, Failure
from openqwave.probing.patience import FIRST_WAIT_NS, Patience
from openqwave.probing.payloads import Filler, headers_bytes, smallest_packet_bytes
from openqwave.probing.session import Channel, CloseReason, SendTrain
from openqwave.probing.trains import (
    MAX_GAP_NS,
    MIN_PACKETS,
    OPEN,
    PAGE,
    Flight,
    PairLimits,
    Ready,
    TrainFate,
    TrainLost,
    TrainMeasured,
    TrainPlan,
)
from openqwave.wire.qlpb import (
    PACKET_PAIR_MAX_IP_BYTES,
    FlagOrder,
    PacketPairHandshake,
    PacketPairProbe,
    PacketPairSummary,
    StreamMessage,
    encode_datagram,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = [
    "OPEN",
    "PAGE",
    "Ended",
    "Failed",
    "Failure",
    "PacketPairInitiator",
    "PairLimits",
    "Ready",
    "Stray",
    "TrainFate",
    "TrainLost",
    "TrainMeasured",
    "TrainPlan",
]

# Trains that were given up and may yet be reported: four times as many as are ever under way, so
# that a path which stood still and then delivers everything is not taken for a liar.
_LATE_REMEMBERED = 256

# A sink that closes after a summary does so at once; the next train waits this long for it,
# the specification's pause between trains (3.1.6.4).
_CLOSE_GRACE_NS = 20_000_000

# Summaries that belong to no train before the session is ended. An honest sink sends none; the
# allowance is for one that repeats itself.
_STRANGE_ALLOWED = 16


class Stray(enum.Enum):
    """Summaries that are no samples; counted."""

    LATE = "of a train that was given up"
    STRANGE = "of no train, or of one that was reported before"
    IMPLAUSIBLE = "cannot be true"


class PacketPairInitiator(StreamSession):
    """One packet pair session. See the module's text.

    Args:
        stream: The session's key in effects and events.
        version: Of IP towards the sink, 4 or 6.
        random: Uniform in [0, 1), for the filler.
        limits: How far it goes.
        order: Where the F flag goes in its byte.

    Raises:
        InvalidParameter: No such version of IP.
    """

    def __init__(
        self,
        stream: int,
        version: int,
        *,
        random: Callable[[], float],
        limits: PairLimits = PAGE,
        order: FlagOrder = FlagOrder.MSB_FIRST,
    ) -> None:
        super().__init__(
            stream,
            PacketPairHandshake(),
            handshake_ns=limits.handshake_ns,
            max_deltas=limits.train_packets - 1,
        )
        self._limits = limits
        self._order = order
        self._headers_bytes = headers_bytes(version)
        self._smallest_bytes = smallest_packet_bytes(version)
        self._filler = Filler(random)
        self._queue: deque[tuple[int, TrainPlan]] = deque()
        self._queued = 0
        # The first sequence number is 1 (3.1.4.2).
        self._sequence = 1
        self._flights: dict[int, Flight] = {}
        self._late: dict[int, Flight] = {}
        self._patience = Patience()
        self._next_send_ns = 0
        self._end_ns: int | None = None
        self._summaries = 0
        self._is_answered = False
        self._is_one_at_a_time = False
        self._reconnects = 0
        self._counts: Counter[Stray] = Counter()

    @property
    def counts(self) -> Mapping[Stray, int]:
        """What came and was no sample, by reason."""
        return dict(self._counts)

    @property
    def trains_left(self) -> int:
        """How many more trains may be queued."""
        return self._limits.trains - self._queued

    def queue_train(self, plan: TrainPlan) -> int:
        """Have a train sent, after those that were queued before.

        It is answered once, by `TrainMeasured`, by `TrainLost`, or by the session's last event.
        After the session's end it is not sent.

        Args:
            plan: What to send, and when at the earliest.

        Returns:
            The train's number in events, from 0.

        Raises:
            InvalidParameter: A number of the plan is out of its range, or the limits' trains
                have all been queued.
        """
        if not MIN_PACKETS <= plan.packets <= self._limits.train_packets:
            raise InvalidParameter(
                f"a train has {MIN_PACKETS} to {self._limits.train_packets} packets, "
                f"not {plan.packets}"
            )
        if not self._smallest_bytes <= plan.packet_bytes <= PACKET_PAIR_MAX_IP_BYTES:
            raise InvalidParameter(
                f"a packet has {self._smallest_bytes} to {PACKET_PAIR_MAX_IP_BYTES} bytes, "
                f"not {plan.packet_bytes}"
            )
        if not 0 <= plan.gap_ns <= MAX_GAP_NS:
            raise InvalidParameter(f"packets are 0 to {MAX_GAP_NS} ns apart, not {plan.gap_ns}")
        if not self.trains_left:
            raise InvalidParameter(f"a session has {self._limits.trains} trains at most")
        number = self._queued
        self._queued += 1
        if self._state is not State.OVER:
            self._queue.append((number, plan))
        return number

    def receive_sent(self, train: SendTrain, stamps_ns: tuple[int, ...], *, now_ns: int) -> None:
        """All packets of a train have left.

        Raises:
            InvalidParameter: There is not one stamp for each packet.
        """
        if len(stamps_ns) != len(train.payloads):
            raise InvalidParameter(f"{len(stamps_ns)} stamps of {len(train.payloads)} packets")
        flight = self._flights.get(train.number)
        if self._state is State.OVER or flight is None:
            return
        if flight.reported_sent_ns is None:
            flight.reported_sent_ns, flight.sent_ns = now_ns, stamps_ns
            self._complete(flight, now_ns)

    # -- the connection ---------------------------------------------------------------

    def _begin(self, now_ns: int) -> None:
        self._is_answered = False
        if self._end_ns is None:
            self._end_ns = now_ns + self._limits.session_ns
            self._events.append(Ready(self._stream, self._local_port))

    def _lose_connection(self, reason: CloseReason, now_ns: int) -> None:
        for flight in list(self._flights.values()):
            if not flight.deltas_ns:
                self._lose(flight, TrainFate.DISCONNECTED)
        if not self._is_answered:
            self._fail(Failure.CLOSED, reason.value)
        elif not (self.trains_left or self._queue or self._flights):
            self._end(Ended(self._stream))
        elif self._reconnects == self._limits.reconnects:
            self._fail(Failure.CLOSED, f"{reason.value}, {self._reconnects + 1} times")
        else:
            self._reconnects += 1
            self._is_one_at_a_time = True
            self._connect(Step.RECONNECTING, now_ns)

    def _give_up(self, train: SendTrain, reason: str) -> None:
        """A packet could not be sent, which ends the session (3.1.6.4)."""
        self._fail(Failure.UNSENT, f"train {train.number}, {reason}")

    # -- sending ----------------------------------------------------------------------

    def _due_ns(self) -> int | None:
        """When the next train is to be sent; None while none can be."""
        allowed = 1 if self._is_one_at_a_time else self._limits.in_flight
        if self._state is not State.OPEN or not self._queue or len(self._flights) >= allowed:
            return None
        return max(self._queue[0][1].not_before_ns, self._next_send_ns)

    def _release(self, now_ns: int) -> None:
        if self._end_ns is None or now_ns >= self._end_ns:
            return
        while (due_ns := self._due_ns()) is not None and due_ns <= now_ns:
            number, plan = self._queue.popleft()
            flight = Flight(number, plan, self._sequence, now_ns)
            self._sequence += plan.packets
            self._flights[number] = flight
            self._next_send_ns = now_ns + plan.span_ns + self._limits.spacing_ns
            payloads = self._payloads(flight)
            self._effects.append(
                SendTrain(self._stream, number, Channel.BEST_EFFORT, payloads, plan.gap_ns)
            )

    def _payloads(self, flight: Flight) -> tuple[bytes, ...]:
        plan, first = flight.plan, flight.first
        size_bytes = plan.packet_bytes - self._headers_bytes
        return tuple(
            encode_datagram(
                PacketPairProbe(
                    self._local_port, plan.packets, sequence, sequence == first, size_bytes
                ),
                self._filler.take(size_bytes),
                self._order,
            )
            for sequence in range(first, first + plan.packets)
        )

    # -- summaries --------------------------------------------------------------------

    def _receive_summary(self, message: StreamMessage, now_ns: int) -> None:
        if not isinstance(message, PacketPairSummary):
            self._fail(Failure.UNEXPECTED, "a summary of another experiment")
            return
        sequence, deltas_ns = message.sequence, message.deltas_ns
        flight = self._flight_of(sequence)
        if flight is None or flight.deltas_ns:
            self._receive_stray(message, now_ns)
            return
        # Trains go out in order and are reported in order, so those before are not to come.
        for earlier in list(self._flights.values()):
            if earlier.first < sequence and not earlier.deltas_ns:
                self._lose(earlier, TrainFate.OVERTAKEN)
        self._is_answered = True
        doubt = flight.doubt_of_deltas(deltas_ns, now_ns=now_ns)
        if doubt is not None:
            self._counts[Stray.IMPLAUSIBLE] += 1
            self._lose(flight, TrainFate.IMPLAUSIBLE, doubt)
            return
        self._summaries += 1
        if self._is_one_at_a_time:
            self._next_send_ns = max(self._next_send_ns, now_ns + _CLOSE_GRACE_NS)
        flight.deltas_ns = deltas_ns
        flight.interface_speed_bps = message.interface_speed_bps
        self._learn(flight, deltas_ns, now_ns)
        self._complete(flight, now_ns)

    def _receive_stray(self, summary: PacketPairSummary, now_ns: int) -> None:
        late = self._late.pop(summary.sequence, None)
        if late is not None:
            self._counts[Stray.LATE] += 1
            if late.doubt_of_deltas(summary.deltas_ns, now_ns=now_ns) is None:
                self._learn(late, summary.deltas_ns, now_ns)
            return
        self._counts[Stray.STRANGE] += 1
        if self._sequence == 1:
            self._fail(Failure.UNEXPECTED, "a summary came before any train was sent")
        elif self._counts[Stray.STRANGE] > _STRANGE_ALLOWED:
            self._fail(Failure.UNEXPECTED, f"{_STRANGE_ALLOWED + 1} summaries of no train")

    def _learn(self, flight: Flight, deltas_ns: tuple[int, ...], now_ns: int) -> None:
        # Without the driver's word on when it left, a train teaches nothing about delay.
        if flight.reported_sent_ns is not None:
            delay_ns = now_ns - flight.reported_sent_ns
            self._patience.learn(flight.plan, delay_ns, sum(deltas_ns))

    def _flight_of(self, sequence: int) -> Flight | None:
        flights = self._flights.values()
        return next((flight for flight in flights if flight.first == sequence), None)

    # -- what became of trains --------------------------------------------------------

    def _complete(self, flight: Flight, now_ns: int) -> None:
        """Report a train if the sink's report and the stamps are both there."""
        if not flight.deltas_ns or flight.reported_sent_ns is None:
            return
        if flight.has_stepped_clock(now_ns=now_ns):
            self._lose(flight, TrainFate.CLOCK_STEPPED)
            return
        del self._flights[flight.number]
        self._events.append(
            TrainMeasured(flight.number, flight.plan, flight.train, flight.interface_speed_bps)
        )

    def _lose(self, flight: Flight, reason: TrainFate, detail: str = "") -> None:
        del self._flights[flight.number]
        if not flight.deltas_ns and reason is not TrainFate.IMPLAUSIBLE:
            self._late[flight.first] = flight
            if len(self._late) > _LATE_REMEMBERED:
                del self._late[next(iter(self._late))]
        flight.deltas_ns = ()
        self._events.append(TrainLost(flight.number, flight.plan, flight.train, reason, detail))
        flight.sent_ns = ()

    # -- time -------------------------------------------------------------------------

    def _deadline_of(self, flight: Flight) -> int:
        """When a train is given up."""
        if flight.reported_sent_ns is None or flight.deltas_ns:
            return flight.released_ns + flight.plan.span_ns + FIRST_WAIT_NS
        return flight.reported_sent_ns + self._patience.wait_ns(flight.plan)

    def _timers_ns(self) -> Iterator[int]:
        yield from map(self._deadline_of, self._flights.values())
        if self._end_ns is not None:
            yield self._end_ns
        due_ns = self._due_ns()
        if due_ns is not None:
            yield due_ns

    def _expire(self, now_ns: int) -> None:
        if self._end_ns is not None and now_ns >= self._end_ns:
            if self._summaries:
                self._end(Ended(self._stream))
            else:
                self._fail(Failure.NO_SUMMARY)
            return
        for flight in list(self._flights.values()):
            if now_ns >= self._deadline_of(flight):
                is_reported = bool(flight.deltas_ns) or flight.reported_sent_ns is None
                self._lose(flight, TrainFate.UNSTAMPED if is_reported else TrainFate.TIMED_OUT)

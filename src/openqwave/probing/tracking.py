"""One path, for as long as somebody is interested in it.

A quick measurement gives a first answer within a second, and a thorough one a better answer three
seconds later. Beside the thorough one a watch has begun, which goes on from then: its small probes
never stop, so that congestion is seen at any time, and its few trains and these probes keep the
estimates fresh. When the path seems to have changed, it is measured quickly again, beside the
watch, which rests meanwhile and goes on from what was found. The path seems to have changed when

* a train tells of another capacity than is believed,
* an answer about the available bandwidth is far from what is believed,
* congestion is over,

or when somebody wants to know afresh. All of this stays within a `Budget`: what it leaves decides
how much the watch sends (see `tempo`), and what a measurement may cost.

**Its end.** The watch's end is the whole's; so is that of the first measurement, and that of one
that cannot reach the sink while nothing comes back to the watch. Others that fail are tried again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from openqwave.estimate.congestion import PathCongestion
from openqwave.estimate.samples import Gap
from openqwave.estimate.watch import TRAINS_KEPT
from openqwave.model.estimates import Congestion, Estimate, PathReport
from openqwave.probing import schedule
from openqwave.probing.bundle import Bundle
from openqwave.probing.measurement import Measurement
from openqwave.probing.outcomes import Ended, Failed
from openqwave.probing.patience import MAX_WAIT_NS
from openqwave.probing.payloads import headers_bytes, probegap_packet_bytes
from openqwave.probing.progress import QUICK, Measured, Sampled, Wish
from openqwave.probing.session import Effect, Event, OpenStream, SendStream, Session
from openqwave.probing.tempo import WANTED, Effort, affordable
from openqwave.probing.watching import Watch, Watched
from openqwave.wire.qlpb import FlagOrder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from openqwave.estimate.samples import Sample
    from openqwave.probing.budget import Budget

__all__ = ["CongestionTold", "Effort", "Estimated", "Tracking"]

S = 1_000_000_000

# Each session inside has keys of its own, and small probes with numbers of their own, so that what
# comes late for one is never taken for another's.
KEYS, SEQUENCES = 8, 1 << 24

# A first answer is wanted within 0.9 s, the connection's set-up included.
QUICK_NS = 750_000_000
# A thorough one on fast links within 4.5 s from the beginning; see `Wish`.
THOROUGH_FAST_NS = 3_500_000_000

# Of what is left: what each of the first measurements may take, and one for a change.
FIRST_PART, CHANGE_PART = 0.5, 0.25
# And this part of the whole is not touched for changes: a watch that has lost its pace to them
# would miss the next one.
RESERVED_PART = 0.15
# A measurement that may cost less says nothing: four pairs, three trains of three, and probes.
LEAST_BYTES = 30_000
# From the end of a measurement to the next one for a change. A watch follows changes by itself, and
# a load that comes and goes every second has no present value.
SPACING_NS = 2 * S
# And where it is wanted afresh.
AFRESH_SPACING_NS = 200_000_000
# How often the tempo is looked at.
TEMPO_NS = S
# Small probes that are lost without one that comes back, after which the sink is looked for.
SILENT_PROBES = 30
# Trains that are lost in a row while small probes come back: the sink may have begun anew and know
# of no connection.
DEAF_TRAINS = 5
# What the TCP connections send: a segment without data, with the options that Linux sets.
SEGMENT_BYTES = 60
# To connect and to close: SYN, ACK, FIN, and the ACK of the other side's FIN.
STREAM_SEGMENTS = 4


@dataclass(frozen=True, slots=True)
class Estimated(Event):
    """What is believed of the path now.

    Attributes:
        report: The numbers.
        since_ns: All that they rest on was measured after this time (`now_ns`).
        sent_bytes: Of IP packets, since the beginning.
    """

    report: PathReport
    since_ns: int
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class CongestionTold(Event):
    """The verdict has changed, or is the first."""

    congestion: Congestion


class Tracking(Bundle):
    """Tracks a path; see the module's text.

    Events: `Estimated`, `CongestionTold`, and at the end `Failed` or `Ended`.

    Args:
        wish: What the thorough measurement is to find out.
        budget: What all of it may cost; used by nobody else.
        random: Uniform in [0, 1).
        order: Where flags go in their byte.
    """

    def __init__(
        self,
        wish: Wish,
        budget: Budget,
        *,
        random: Callable[[], float],
        order: FlagOrder = FlagOrder.MSB_FIRST,
    ) -> None:
        super().__init__(headers_bytes(wish.version))
        longest = max(schedule.SHORTEST, budget.burst_bytes // schedule.PACKET_BYTES)
        self._wish = replace(
            wish,
            longest_packets=min(wish.longest_packets, longest),
            fast_duration_ns=min(wish.fast_duration_ns, THOROUGH_FAST_NS),
        )
        self._quick_wish = replace(
            QUICK,
            version=wish.version,
            duration_ns=QUICK_NS,
            fast_duration_ns=QUICK_NS,
            longest_packets=self._wish.longest_packets,
        )
        self._budget = budget
        self._random = random
        self._order = order
        self._probe_bytes = probegap_packet_bytes(wish.version)
        self._congestion = PathCongestion()
        self._told: bool | None = None
        self._effort = Effort.LIGHT
        self._tempo = WANTED[self._effort]
        self._tempo_ns: int | None = None
        # By number; a stream's key is the number times `KEYS`, and the session's own.
        self._number = 0
        self._over: list[int] = []
        self._measurement: Measurement | None = None
        self._is_quick = True
        self._samples: list[Sample] = []
        self._measuring_ns = 0
        self._since_ns = 0
        self._watch: Watch | None = None
        # When trains were heard of on which the watch's capacity rests.
        self._train_times_ns: deque[int] = deque(maxlen=TRAINS_KEPT)
        self._capacity_bps: int | None = None
        self._is_available_known = False
        self._supports_priority: bool | None = None
        self._wants_thorough = True
        self._wants_change = False
        self._wants_afresh = False
        self._is_afresh = False
        self._measured_ns = 0
        self._retry_ns = 0
        # In a row, without one that came back.
        self._lost_probes = self._lost_trains = 0
        self._is_over = False

    # -- what the owner wants ---------------------------------------------------------

    def start(self, *, now_ns: int) -> None:
        """Begin."""
        self._tempo_ns = now_ns + TEMPO_NS
        self._measure(is_quick=True, now_ns=now_ns)

    def close(self) -> None:
        """End in order, now."""
        self._end(Ended(0))

    def set_effort(self, effort: Effort, *, now_ns: int) -> None:
        """Follow the path more or less closely from now on."""
        self._effort = effort
        self._adapt(now_ns)

    def measure_afresh(self, *, now_ns: int) -> None:
        """Have an `Estimated` made of what is measured from now on, as soon as the budget allows.

        A thorough measurement that is under way is given up for it, and made again afterwards.
        """
        self._wants_afresh = True
        self._consider(now_ns)

    # -- what the sessions inside say -------------------------------------------------

    def _session_of(self, stream: int) -> Session | None:
        return self._sessions.get(stream // KEYS)

    def _hear(self, event: Event, now_ns: int) -> None:
        """Nothing; see `_hear_of`."""

    def _hear_of(self, key: int, event: Event, now_ns: int) -> None:
        session = self._sessions[key]
        if self._is_over or (session is not self._watch and session is not self._measurement):
            return
        match event:
            case Sampled(sample=sample) if session is self._watch:
                self._take_watched(sample, now_ns)
            case Sampled(sample=sample):
                self._samples.append(sample)
                if self._watch is None and isinstance(sample, Gap):
                    self._judge(sample)
            case Watched(report=report) if self._measurement is None:
                self._believe(report)
                self._tell(report)
            case Measured(report=report):
                self._end_measurement(report, now_ns)
            case Failed() | Ended() if session is self._watch or self._watch is None:
                self._end(event)
            case Failed() | Ended():
                self._lose_measurement(event, now_ns)
            case _:
                pass

    def _take_watched(self, sample: Sample, now_ns: int) -> None:
        if isinstance(sample, Gap):
            self._lost_probes = self._lost_probes + 1 if sample.is_lost else 0
            self._judge(sample)
        else:
            self._lost_trains = self._lost_trains + 1 if sample.is_lost else 0
            if not sample.is_lost and not sample.gap_ns:
                self._train_times_ns.append(now_ns - MAX_WAIT_NS)
        self._consider(now_ns)

    def _judge(self, gap: Gap) -> None:
        self._congestion.observe(gap)
        verdict = self._congestion.verdict
        if verdict.is_congested is None or verdict.is_congested is self._told:
            return
        self._wants_change |= self._told is True
        self._told = verdict.is_congested
        self._events.append(CongestionTold(verdict))

    def _end_measurement(self, report: PathReport, now_ns: int) -> None:
        samples, is_afresh = self._samples, self._is_afresh
        self._drop_measurement()
        self._measured_ns = now_ns
        if not self._is_quick:
            self._wants_thorough = False
            self._supports_priority = report.supports_priority
        report = replace(report, supports_priority=self._supports_priority)
        # What says less than is known changes nothing, unless there is nothing yet.
        is_available_known = isinstance(report.available_bps, Estimate)
        is_better = isinstance(report.capacity_bps, Estimate) and (
            is_available_known or not self._is_available_known
        )
        watch = self._watch
        if watch is not None and not is_better:
            watch.go_on()
            self._wants_afresh |= is_afresh
            self._retry_ns = now_ns + SPACING_NS
        else:
            self._believe(report)
            self._train_times_ns.extend([self._measuring_ns] * TRAINS_KEPT)
            self._tell(report)
            if watch is None or self._lost_trains >= DEAF_TRAINS:
                self._begin_watch(samples, now_ns)
            else:
                watch.go_on(samples, self._supports_priority)
        self._adapt(now_ns)
        self._consider(now_ns)

    def _lose_measurement(self, event: Event, now_ns: int) -> None:
        if self._watch is None or self._lost_probes >= SILENT_PROBES:
            self._end(event)
            return
        self._wants_afresh |= self._is_afresh
        self._drop_measurement()
        self._watch.go_on()
        self._retry_ns = now_ns + SPACING_NS

    def _believe(self, report: PathReport) -> None:
        self._is_available_known = isinstance(report.available_bps, Estimate)
        if isinstance(report.capacity_bps, Estimate):
            self._capacity_bps = report.capacity_bps.value
            self._congestion.set_capacity_bps(self._capacity_bps)

    def _tell(self, report: PathReport) -> None:
        self._since_ns = max(self._since_ns, self._train_times_ns[0])
        self._events.append(Estimated(report, self._since_ns, self._sent_bytes))

    # -- the sessions inside ----------------------------------------------------------

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _begin_watch(self, samples: Sequence[Sample], now_ns: int) -> None:
        if self._watch is not None:
            self._drop(self._watch)
        number = self._next_number()
        self._watch = Watch(
            samples,
            self._wish,
            self._supports_priority,
            random=self._random,
            order=self._order,
            base=number * KEYS,
            first_sequence=number * SEQUENCES + 1,
            tempo=self._tempo,
        )
        self._lost_probes = self._lost_trains = 0
        self._sessions[number] = self._watch
        self._watch.start(now_ns=now_ns)

    def _measure(self, *, is_quick: bool, now_ns: int) -> None:
        number = self._next_number()
        self._is_quick, self._measuring_ns = is_quick, now_ns
        self._measurement = measurement = Measurement(
            self._quick_wish if is_quick else self._wish,
            random=self._random,
            order=self._order,
            base=number * KEYS,
            first_sequence=number * SEQUENCES + 1,
            allowance=self._allowance,
        )
        if self._watch is not None:
            self._watch.rest()
        self._sessions[number] = measurement
        measurement.start(now_ns=now_ns)

    def _drop_measurement(self) -> None:
        if self._measurement is not None:
            self._drop(self._measurement)
            self._measurement = None
        self._samples, self._is_afresh = [], False

    def _drop(self, session: Measurement | Watch) -> None:
        """Have a session closed; it is forgotten when that has been done."""
        session.close()
        self._over += [key for key, one in self._sessions.items() if one is session]

    def _end(self, event: Event) -> None:
        if self._is_over:
            return
        self._is_over, self._tempo_ns = True, None
        self._drop_measurement()
        if self._watch is not None:
            self._drop(self._watch)
        self._events.append(event)

    # -- what is done when ------------------------------------------------------------

    def _consider(self, now_ns: int) -> None:
        """Measure, if that is wanted and may be."""
        watch, measurement = self._watch, self._measurement
        if self._is_over or watch is None or now_ns < self._retry_ns:
            return
        if measurement is not None and (self._is_quick or not self._wants_afresh):
            return
        is_silent = self._lost_probes >= SILENT_PROBES
        since_ns = now_ns - self._measured_ns
        is_afresh = self._wants_afresh and since_ns >= AFRESH_SPACING_NS
        is_changed = (
            since_ns >= SPACING_NS
            and self._told is not True
            and (watch.has_changed or self._wants_change or self._lost_trains >= DEAF_TRAINS)
        )
        is_quick = is_afresh or is_changed or is_silent
        if not (is_quick or self._wants_thorough):
            return
        # Nothing is sent but a connection's first segment before the sink is found to be there.
        if not is_silent and self._affordable_bytes(is_quick, now_ns) < LEAST_BYTES:
            return
        self._drop_measurement()
        self._is_afresh = is_afresh
        if is_quick:
            self._wants_afresh = self._wants_change = False
        self._measure(is_quick=is_quick, now_ns=now_ns)

    def _affordable_bytes(self, is_change: bool, now_ns: int) -> float:
        """What a measurement that begins now may cost."""
        left = self._budget.allowed_bytes(self._capacity_bps, now_ns=now_ns)
        return self._part(left, self._capacity_bps, is_change)

    def _part(self, left_bytes: float, capacity_bps: float | None, is_change: bool) -> float:
        if not is_change:
            return FIRST_PART * left_bytes
        reserve = RESERVED_PART * self._budget.whole_bytes(capacity_bps)
        return CHANGE_PART * max(0.0, left_bytes - reserve)

    def _allowance(self, belief_bps: float | None) -> float:
        """What the measurement that runs may cost in all, if the capacity is this."""
        own = 0 if self._measurement is None else self._measurement.sent_bytes
        if belief_bps is None:
            # What was known is the best guess until the first trains are back.
            belief_bps = self._capacity_bps
        left = self._budget.allowed_bytes(belief_bps, now_ns=self._measuring_ns) + own
        return self._part(left, belief_bps, self._is_quick and self._watch is not None)

    def _adapt(self, now_ns: int) -> None:
        """Let the watch send what effort and budget allow."""
        train_bytes = schedule.SHORTEST * schedule.PACKET_BYTES
        if self._watch is not None:
            train_bytes = self._watch.train_bytes
        tempo = affordable(
            self._effort,
            self._budget.allowed_bytes(self._capacity_bps, now_ns=now_ns),
            probe_bytes=self._probe_bytes,
            train_bytes=train_bytes,
        )
        if tempo.is_about(self._tempo):
            return
        self._tempo = tempo
        if self._watch is not None:
            self._watch.set_tempo(tempo, now_ns=now_ns)

    def _own_timer_ns(self) -> int | None:
        return self._tempo_ns

    def _handle_own_timer(self, now_ns: int) -> None:
        if self._tempo_ns is not None and now_ns >= self._tempo_ns:
            self._tempo_ns = now_ns + TEMPO_NS
            self._adapt(now_ns)
            self._consider(now_ns)

    # -- the books --------------------------------------------------------------------

    def effects_to_send(self, *, now_ns: int) -> list[Effect]:
        """Take what is to be done now, in order."""
        over, self._over = self._over, []
        before = self._sent_bytes
        effects = super().effects_to_send(now_ns=now_ns)
        for key in over:
            del self._sessions[key]
        spent = self._sent_bytes - before
        for effect in effects:
            match effect:
                case OpenStream():
                    spent += STREAM_SEGMENTS * SEGMENT_BYTES
                case SendStream(data=data):
                    spent += SEGMENT_BYTES + len(data)
                case _:
                    pass
        self._spend(spent, now_ns)
        return effects

    def receive_stream(self, stream: int, data: bytes, *, now_ns: int) -> None:
        """Bytes came over a stream, which TCP acknowledges."""
        self._spend(SEGMENT_BYTES, now_ns)
        super().receive_stream(stream, data, now_ns=now_ns)

    def _spend(self, size_bytes: int, now_ns: int) -> None:
        if size_bytes:
            self._budget.spend(size_bytes, self._capacity_bps, now_ns=now_ns)

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
from dataclasses import replace
from typing import TYPE_CHECKING

from openqwave.estimate.congestion import PathCongestion
from openqwave.estimate.samples import Gap
from openqwave.estimate.watch import TRAINS_KEPT
from openqwave.model.estimates import Estimate, PathReport
from openqwave.probing import schedule
from openqwave.probing.bundle import Bundle
from openqwave.probing.measurement import Measurement
from openqwave.probing.outcomes import Ended, Failed
from openqwave.probing.patience import MAX_WAIT_NS
from openqwave.probing.payloads import headers_bytes, probegap_packet_bytes
from openqwave.probing.progress import (
    CongestionTold,
    Estimated,
    Measured,
    Restraint,
    Sampled,
    Wish,
    tracked,
)
from openqwave.probing.session import Effect, Event, Session
from openqwave.probing.spending import Purpose, Spending
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

# From the end of a measurement to the next one for a change. A watch follows changes by itself, and
# a load that comes and goes every second has no present value.
SPACING_NS = 2 * S
# And where it is wanted afresh.
AFRESH_SPACING_NS = 200_000_000
# Trains back to back take half of what is free, as far as it is known, and at least so much that
# there is time for them; see `Restraint`.
LEAST_DRAIN, MOST_DRAIN = 2.0, 12.0
# How often the tempo is looked at.
TEMPO_NS = S
# Small probes that are lost without one that comes back, after which the sink is looked for.
SILENT_PROBES = 30
# Trains that are lost in a row while small probes come back: the sink may have begun anew and know
# of no connection.
DEAF_TRAINS = 5


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
        self._quick_wish, self._wish = tracked(wish)
        self._spending = Spending(budget)
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
        self._purpose = Purpose.FIRST
        self._samples: list[Sample] = []
        self._measuring_ns = 0
        self._since_ns = 0
        self._watch: Watch | None = None
        # When trains were heard of on which the watch's capacity rests.
        self._train_times_ns: deque[int] = deque(maxlen=TRAINS_KEPT)
        self._is_available_known = False
        self._drain_factor = LEAST_DRAIN
        self._supports_priority: bool | None = None
        self._wants_thorough = True
        self._wants_change = self._wants_afresh = self._is_afresh = False
        self._measured_ns = 0
        self._retry_ns = 0
        # In a row, without one that came back.
        self._lost_probes = self._lost_trains = 0
        self._is_over = False

    # -- what the owner wants ---------------------------------------------------------

    def start(self, *, now_ns: int) -> None:
        """Begin."""
        self._tempo_ns = now_ns + TEMPO_NS
        self._measure(Purpose.FIRST, now_ns)

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
        if self._told:
            # What could not be measured before, or was measured in a queue, is to be now.
            self._wants_change, self._retry_ns = True, 0
        self._told = verdict.is_congested
        self._events.append(CongestionTold(verdict))

    def _end_measurement(self, report: PathReport, now_ns: int) -> None:
        samples, is_afresh = self._samples, self._is_afresh
        self._drop_measurement()
        self._measured_ns = now_ns
        if self._purpose is Purpose.THOROUGH:
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
            capacity_bps = self._spending.capacity_bps = report.capacity_bps.value
            self._congestion.set_capacity_bps(capacity_bps)
            if isinstance(report.available_bps, Estimate):
                wanted = 2 * capacity_bps / max(1, report.available_bps.value)
                self._drain_factor = max(LEAST_DRAIN, min(MOST_DRAIN, wanted))

    def _tell(self, report: PathReport) -> None:
        self._since_ns = max(self._since_ns, self._train_times_ns[0])
        self._events.append(Estimated(report, self._since_ns, self._sent_bytes))

    # -- the sessions inside ----------------------------------------------------------

    def _begin_watch(self, samples: Sequence[Sample], now_ns: int) -> None:
        if self._watch is not None:
            self._drop(self._watch)
        self._number = number = self._number + 1
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

    def _measure(self, purpose: Purpose, now_ns: int) -> None:
        self._number = number = self._number + 1
        self._purpose, self._measuring_ns = purpose, now_ns
        self._measurement = measurement = Measurement(
            self._wish if purpose is Purpose.THOROUGH else self._quick_wish,
            random=self._random,
            order=self._order,
            base=number * KEYS,
            first_sequence=number * SEQUENCES + 1,
            restraint=Restraint(
                self._spending.longest_packets, self._drain_factor, self._allowance
            ),
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
        is_thorough = measurement is not None and self._purpose is Purpose.THOROUGH
        if measurement is not None and not (is_thorough and self._wants_afresh):
            return
        is_silent = self._lost_probes >= SILENT_PROBES
        since_ns = now_ns - self._measured_ns
        is_afresh = self._wants_afresh and since_ns >= AFRESH_SPACING_NS
        is_changed = (
            since_ns >= SPACING_NS
            and self._told is not True
            and (watch.has_changed or self._wants_change or self._lost_trains >= DEAF_TRAINS)
        )
        if is_afresh or is_changed or is_silent:
            purpose = Purpose.CHANGE
        elif self._wants_thorough and measurement is None:
            purpose = Purpose.THOROUGH
        else:
            return
        # Nothing is sent but a connection's first segment before the sink is found to be there.
        if not (is_silent or self._spending.can_measure(purpose, now_ns=now_ns)):
            return
        self._drop_measurement()
        if purpose is Purpose.CHANGE:
            self._is_afresh = self._wants_afresh
            self._wants_afresh = self._wants_change = False
        self._measure(purpose, now_ns)

    def _allowance(self, belief_bps: float | None) -> float:
        """What the measurement that runs may cost in all, if the capacity is this."""
        own = 0 if self._measurement is None else self._measurement.sent_bytes
        return self._spending.allowance(self._purpose, belief_bps, own, now_ns=self._measuring_ns)

    def _adapt(self, now_ns: int) -> None:
        """Let the watch send what effort and budget allow."""
        train_bytes = schedule.SHORTEST * schedule.PACKET_BYTES
        if self._watch is not None:
            train_bytes = self._watch.train_bytes
        tempo = affordable(
            self._effort,
            self._spending.pace_bps(now_ns=now_ns),
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
        self._spending.note(self._sent_bytes - before, effects, now_ns=now_ns)
        return effects

    def receive_stream(self, stream: int, data: bytes, *, now_ns: int) -> None:
        """Bytes came over a stream."""
        self._spending.note_heard(now_ns=now_ns)
        super().receive_stream(stream, data, now_ns=now_ns)

"""A whole measurement of a path: which experiment when, within a time and a budget, and the result.

Three experiments run at once, each a session of its own. Small probes (`probegap`) go all the time,
at random times. Trains (`packet_pair`) go in steps, which are the phases::

    RAMP     pairs first, then longer and longer trains back to back, until the queue that one
             makes, or its length, is at its limit; each step waits for the one before
    STEADY   several trains of that length: the capacity
    LOAD     trains paced at the capacity, at random times, spread over the rest of the time;
             between them the small probes see the path as it is without them
    SETTLE   nothing more is sent; what is under way is waited for, as long as it takes to come
    OVER

The route check runs first, beside the connection's set-up, and the ramp waits for it, because its
groups of full packets would be taken for other traffic.

What ends early ends well: a sink that goes away in the middle, or a path on which no long train
survives, gives a report of what was found until then.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from openqwave.estimate.arrivals import knee_of, spread_of
from openqwave.estimate.dispersion import capacity
from openqwave.estimate.path import report
from openqwave.estimate.samples import Gap, Train
from openqwave.estimate.strain import LEAST_TRAINS
from openqwave.model.estimates import Estimate
from openqwave.probing import schedule
from openqwave.probing.bundle import Bundle
from openqwave.probing.outcomes import Ended, Failed
from openqwave.probing.packet_pair import (
    OPEN,
    PacketPairInitiator,
    Ready,
    TrainLost,
    TrainMeasured,
    TrainPlan,
)
from openqwave.probing.payloads import headers_bytes, probegap_packet_bytes
from openqwave.probing.probegap import GapLost, GapReturned, ProbegapInitiator, Spacing
from openqwave.probing.progress import QUICK, Measured, Phase, Progressed, Restraint, Sampled, Wish
from openqwave.probing.route_check import RouteChecked, RouteCheckInitiator, Verdict
from openqwave.probing.schedule import Series
from openqwave.probing.session import Event
from openqwave.wire.qlpb import FlagOrder

if TYPE_CHECKING:
    from collections.abc import Callable

    from openqwave.estimate.samples import Sample

__all__ = ["QUICK", "Measured", "Measurement", "Phase", "Progressed", "Sampled", "Wish"]

# Keys of the sessions inside.
PAIR, GAP, ROUTE = 1, 2, 3

# Trains leave at least so far apart, and as much again at random: two trains in step with a
# periodic disturbance would both meet it or both not.
SPACING_NS = 5_000_000
# A step whose trains are all lost is tried again with half the length; so often at most.
MOST_RETRIES = 4
# Where a link seems fast, so many trains of the full length are sent before they are looked at;
# and if their rate is lower than was believed by this factor, no more.
CAREFUL_TRAINS, TOO_SLOW = 2, 1.6
# The last train leaves so much before the end, and a longest round trip.
SETTLE_NS = 40_000_000
# The last small probes may take so much longer than any before.
PROBES_NS = 5_000_000
# How often `Progressed` is told.
PROGRESS_NS = 250_000_000


class Measurement(Bundle):
    """One measurement; see the module's text. Its last event is `Measured` or `Failed`.

    Args:
        wish: What is wanted.
        random: Uniform in [0, 1).
        order: Where flags go in their byte.
        base: What is added to `PAIR`, `GAP` and `ROUTE`, for an owner of several sessions.
        first_sequence: Number of the first small probe.
        restraint: How far it goes.
    """

    def __init__(
        self,
        wish: Wish,
        *,
        random: Callable[[], float],
        order: FlagOrder = FlagOrder.MSB_FIRST,
        base: int = 0,
        first_sequence: int = 1,
        restraint: Restraint | None = None,
    ) -> None:
        super().__init__(headers_bytes(wish.version))
        self._wish = wish
        self._random = random
        self._probe_bytes = probegap_packet_bytes(wish.version)
        self._restraint = restraint or Restraint()
        version = wish.version
        self._keys = pair, gap, route = base + PAIR, base + GAP, base + ROUTE
        self._pair = PacketPairInitiator(pair, version, random=random, limits=OPEN, order=order)
        self._gap = ProbegapInitiator(gap, version, random=random, first_sequence=first_sequence)
        self._sessions = {pair: self._pair, gap: self._gap}
        self._route: RouteCheckInitiator | None = None
        if wish.checks_priority:
            self._route = RouteCheckInitiator(route, version, random=random, order=order)
            self._sessions[route] = self._route
        self._phase = Phase.CONNECT
        self._is_ready = False
        self._is_route_checked = not wish.checks_priority
        self._supports_priority: bool | None = None
        self._samples: list[Sample] = []
        # Trains that were queued and not yet answered, by number.
        self._outstanding: set[int] = set()
        self._step = 0
        self._step_trains: list[Train] = []
        self._step_packets = 0
        self._steady = Series(0, 0)
        self._retries = 0
        self._longest = self._restraint.longest_packets
        # How many packets a token bucket let pass, if there is one.
        self._knee_packets = 0
        self._belief_bps: float | None = None
        self._rtt_ns: int | None = None
        self._longest_rtt_ns = 0
        self._start_ns = 0
        self._progress_ns = 0
        self._phase_end_ns: int | None = None

    @property
    def phase(self) -> Phase:
        """Where it stands."""
        return self._phase

    def start(self, *, now_ns: int) -> None:
        """Begin; small probes follow when the sink has agreed to trains."""
        self._start_ns = now_ns
        self._progress_ns = now_ns + PROGRESS_NS
        for session in (self._pair, self._route):
            if session is not None:
                session.start(now_ns=now_ns)

    def close(self) -> None:
        """End at once, without a result."""
        self._phase = Phase.OVER
        self._pair.close()
        self._gap.close()
        if self._route is not None:
            self._route.close()

    # -- what the sessions say --------------------------------------------------------

    def _hear(self, event: Event, now_ns: int) -> None:
        pair, _, route = self._keys
        match event:
            case Ready():
                # Small probes need no agreement, but who does not agree is not to be bothered.
                self._gap.start(now_ns=now_ns)
                self._gap.set_rate(schedule.FIRST_PROBES, Spacing.POISSON, now_ns=now_ns)
                self._is_ready = True
                self._leave_connect(now_ns)
            case TrainMeasured(number=number, train=train) | TrainLost(number=number, train=train):
                self._take_train(number, train, now_ns)
            case GapReturned(gap=gap) | GapLost(gap=gap):
                self._take_gap(gap)
            case RouteChecked(supported=supported, verdict=verdict):
                # A sink that says nothing of tags has not said that they are lost.
                self._supports_priority = None if verdict is Verdict.SILENT else supported
                self._end_route_check(now_ns)
            case Failed(stream=stream) if stream == route:
                self._end_route_check(now_ns)
            case Failed(stream=stream) | Ended(stream=stream) if stream == pair:
                self._lose_pair(event, now_ns)
            case _:  # The other sessions' ends: what they found is here already.
                pass

    def _lose_pair(self, event: Event, now_ns: int) -> None:
        if self._phase is Phase.CONNECT:
            self.close()
            self._events.append(event)
        else:
            self._finish(now_ns)

    def _end_route_check(self, now_ns: int) -> None:
        self._is_route_checked = True
        self._leave_connect(now_ns)

    def _keep(self, sample: Sample) -> None:
        if self._phase is not Phase.OVER:
            self._samples.append(sample)
            self._events.append(Sampled(sample))

    def _take_gap(self, gap: Gap) -> None:
        self._keep(gap)
        if not gap.is_lost:
            self._rtt_ns = gap.received_ns - gap.sent_ns
            self._longest_rtt_ns = max(self._longest_rtt_ns, self._rtt_ns)

    def _take_train(self, number: int, train: Train, now_ns: int) -> None:
        self._outstanding.discard(number)
        if train.sent_ns:
            self._keep(train)
            self._step_trains.append(train)
        if self._outstanding:
            return
        if self._phase is Phase.RAMP:
            self._end_step(now_ns)
        elif self._phase is Phase.STEADY:
            self._go_on_steadily(now_ns)
        elif self._phase is Phase.SETTLE:
            self._await_probes(now_ns)

    # -- phases -----------------------------------------------------------------------

    def _leave_connect(self, now_ns: int) -> None:
        if self._phase is Phase.CONNECT and self._is_ready and self._is_route_checked:
            self._phase = Phase.RAMP
            self._next_step(now_ns)

    def _end_step(self, now_ns: int) -> None:
        """All trains of a step are answered: believe the longest that arrived, or go back."""
        arrived = [train for train in self._step_trains if not train.is_lost]
        self._step_trains = []
        if arrived:
            self._believe(arrived)
        else:
            # Perhaps bad luck, perhaps a queue that is shorter than the train.
            self._retries += 1
            self._step -= 1
            self._longest = max(schedule.SHORTEST, self._step_packets // 2)
        if self._retries > MOST_RETRIES:
            self._settle(now_ns)
        else:
            self._next_step(now_ns)

    def _believe(self, trains: list[Train]) -> None:
        spreads = [spread for train in trains if (spread := spread_of(train)) is not None]
        if spreads:
            self._belief_bps = median(spread.rate_bps for spread in spreads)
        knees = [knee for train in trains if (knee := knee_of(train)) is not None]
        if knees:
            self._belief_bps = median(knee.tail_bps for knee in knees)
            self._knee_packets = max(knee.head_packets for knee in knees)

    def _next_step(self, now_ns: int) -> None:
        series = schedule.ramp(self._step, self._belief_bps, self._step_packets, self._longest)
        if self._knee_packets:
            self._phase = Phase.STEADY
            self._steady = schedule.beyond(self._knee_packets, self._restraint.longest_packets)
            self._go_on_steadily(now_ns)
        elif series is not None and series == schedule.affordable(series, self._left_bytes()):
            self._step += 1
            self._step_packets = series.packets
            self._queue(series, now_ns)
        elif self._belief_bps is None:
            self._settle(now_ns)
        else:
            self._phase = Phase.STEADY
            self._steady = schedule.steady(self._belief_bps, self._longest, self._wish.is_quick)
            self._go_on_steadily(now_ns)

    def _go_on_steadily(self, now_ns: int) -> None:
        """Send the next trains of the full length, as long as they arrive as expected."""
        trains, self._step_trains = self._step_trains, []
        arrived = [spread for train in trains if (spread := spread_of(train)) is not None]
        belief = self._belief_bps or 0.0
        is_slow = bool(arrived) and median(one.rate_bps for one in arrived) * TOO_SLOW < belief
        if is_slow or (trains and not arrived) or not self._steady.count:
            # Perhaps a token bucket has run dry: more of the same would only fill its queue.
            self._begin_load(now_ns)
            return
        left = schedule.STEADY_PART * self._left_bytes()
        count = schedule.affordable(self._steady, left).count
        if not count:
            self._begin_load(now_ns)
            return
        if belief > schedule.FAST_BPS:
            count = min(count, CAREFUL_TRAINS)
        self._steady = replace(self._steady, count=self._steady.count - count)
        self._queue(replace(self._steady, count=count), now_ns)

    def _begin_load(self, now_ns: int) -> None:
        found = capacity([sample for sample in self._samples if isinstance(sample, Train)])
        if isinstance(found.estimate, Estimate):
            self._belief_bps = found.estimate.value
        if self._belief_bps is None:
            self._settle(now_ns)
            return
        self._phase = Phase.LOAD
        self._phase_end_ns = self._end_ns() - SETTLE_NS - self._longest_rtt_ns
        window_ns = max(0, self._phase_end_ns - now_ns)
        is_quick, longest = self._wish.is_quick, self._restraint.longest_packets
        left = self._left_bytes()
        probes_bps = (1 - schedule.PACED_PART) * left * 8e9 / max(1, window_ns)
        probes = schedule.probes_per_second(self._belief_bps, self._probe_bytes, probes_bps)
        self._gap.set_rate(probes, Spacing.POISSON, now_ns=now_ns)
        series = schedule.affordable(
            schedule.paced(self._belief_bps, found, window_ns, is_quick, longest),
            schedule.PACED_PART * left,
        )
        # Too few say nothing: then small probes have to do.
        count = series.count if series.count >= LEAST_TRAINS else 0
        for turn in range(count):
            # Evenly spread, and at random within its part: random enough to meet periodic
            # traffic at any phase, even enough to miss no part of the time.
            at_ns = now_ns + round(window_ns * (turn + self._random()) / count)
            self._queue_train(series, at_ns)

    def _settle(self, now_ns: int) -> None:
        self._phase = Phase.SETTLE
        self._phase_end_ns = None
        self._gap.stop()
        if not self._outstanding:
            self._await_probes(now_ns)

    def _await_probes(self, now_ns: int) -> None:
        """Wait for the last small probes, which nobody reports as lost so soon."""
        self._phase_end_ns = now_ns + self._longest_rtt_ns + PROBES_NS

    def _finish(self, now_ns: int) -> None:
        if self._phase is Phase.OVER:
            return
        self.close()
        found = report(self._samples, self._supports_priority)
        self._events.append(Measured(found, now_ns - self._start_ns, self._sent_bytes))

    # -- sending ----------------------------------------------------------------------

    def _left_bytes(self) -> float:
        """What may still be sent; asked while no train is queued."""
        allowance = self._restraint.allowance
        if allowance is None:
            return math.inf
        return max(0.0, allowance(self._belief_bps) - self._sent_bytes)

    def _queue(self, series: Series, now_ns: int) -> None:
        """Queue trains one after the other, each when the one before has drained."""
        drain_ns = SPACING_NS
        if self._belief_bps is not None:
            packet_ns = schedule.packet_ns(self._belief_bps)
            drain_ns += round(self._restraint.drain_factor * series.packets * packet_ns)
        at_ns = now_ns
        for _ in range(series.count):
            at_ns += round(self._random() * SPACING_NS)
            self._queue_train(series, at_ns)
            at_ns += drain_ns

    def _queue_train(self, series: Series, at_ns: int) -> None:
        plan = TrainPlan(series.packets, schedule.PACKET_BYTES, series.gap_ns, at_ns)
        self._outstanding.add(self._pair.queue_train(plan))

    # -- time -------------------------------------------------------------------------

    def _end_ns(self) -> int:
        is_fast = self._belief_bps is not None and self._belief_bps > schedule.FAST_BPS
        duration_ns = self._wish.fast_duration_ns if is_fast else self._wish.duration_ns
        return self._start_ns + duration_ns

    def _deadline_ns(self) -> int | None:
        """When the phase ends by itself; the sessions inside end `CONNECT`."""
        if self._phase is Phase.CONNECT:
            return None
        if self._phase_end_ns is None:
            return self._end_ns()
        return min(self._phase_end_ns, self._end_ns())

    def _own_timer_ns(self) -> int | None:
        if self._phase is Phase.OVER:
            return None
        deadline_ns = self._deadline_ns()
        return self._progress_ns if deadline_ns is None else min(self._progress_ns, deadline_ns)

    def _handle_own_timer(self, now_ns: int) -> None:
        if self._phase is Phase.OVER:
            return
        if now_ns >= self._progress_ns:
            self._progress_ns = now_ns + PROGRESS_NS
            belief = None if self._belief_bps is None else round(self._belief_bps)
            elapsed_ns = now_ns - self._start_ns
            self._events.append(
                Progressed(self._phase, elapsed_ns, self._sent_bytes, belief, self._rtt_ns)
            )
        deadline_ns = self._deadline_ns()
        if deadline_ns is None or now_ns < deadline_ns:
            return
        if self._phase is Phase.LOAD and now_ns < self._end_ns():
            self._settle(now_ns)
        else:
            self._finish(now_ns)

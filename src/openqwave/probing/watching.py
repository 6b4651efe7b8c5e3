"""A path that is watched: small probes at random, and a train a second, as long as somebody wants.

It begins where a `measurement` ended, with that one's samples, and keeps their estimates fresh (see
`estimate.watch`). Each second one train is sent, at a random time within it, by turns back to back
for the capacity and paced at it for what is available. Together with the small probes that is half
a percent of a link of 20 Mbit/s, and less of faster ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from openqwave.estimate.samples import Gap, Train
from openqwave.estimate.watch import PathWatch
from openqwave.model.estimates import Estimate, PathReport
from openqwave.probing import schedule
from openqwave.probing.bundle import Bundle
from openqwave.probing.measurement import GAP, PAIR, Sampled, Wish
from openqwave.probing.outcomes import Ended, Failed
from openqwave.probing.packet_pair import (
    OPEN,
    PacketPairInitiator,
    Ready,
    TrainLost,
    TrainMeasured,
    TrainPlan,
)
from openqwave.probing.payloads import headers_bytes
from openqwave.probing.probegap import GapLost, GapReturned, ProbegapInitiator, Spacing
from openqwave.probing.session import Event
from openqwave.wire.qlpb import FlagOrder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from openqwave.estimate.samples import Sample

# A report, and a train, this often.
PERIOD_NS = 1_000_000_000
# Small probes a second: 30 kbit/s on IPv4, and a batch of the estimator's each second.
PROBES = 60
# Trains of a watch: long enough to have a rate, and half the queue that a measurement's make.
MOST_PACKETS = 8
# A watch goes on for as long as somebody wants it; these limits are a month's.
LIMITS = replace(OPEN, session_ns=30 * 86_400_000_000_000, trains=3_000_000)


@dataclass(frozen=True, slots=True)
class Watched(Event):
    """What is believed now; once a second.

    Attributes:
        report: The numbers.
        elapsed_ns: Since the watch began.
        sent_bytes: Of IP packets, since then.
    """

    report: PathReport
    elapsed_ns: int
    sent_bytes: int


class Watch(Bundle):
    """Watches a path. Events: `Watched`, `measurement.Sampled`, and at the end `Failed` or `Ended`.

    Args:
        samples: Of the measurement before.
        wish: The same measurement's.
        supports_priority: What it found.
        random: Uniform in [0, 1).
        order: Where flags go in their byte.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        wish: Wish,
        supports_priority: bool | None = None,
        *,
        random: Callable[[], float],
        order: FlagOrder = FlagOrder.MSB_FIRST,
    ) -> None:
        super().__init__(headers_bytes(wish.version))
        self._random = random
        self._path = PathWatch(samples, supports_priority)
        self._pair = PacketPairInitiator(
            PAIR, wish.version, random=random, limits=LIMITS, order=order
        )
        self._gap = ProbegapInitiator(GAP, wish.version, random=random)
        self._sessions = {PAIR: self._pair, GAP: self._gap}
        self._start_ns = 0
        self._report_ns: int | None = None
        self._is_ready = False
        self._turn = 0

    def start(self, *, now_ns: int) -> None:
        """Begin."""
        self._start_ns = now_ns
        self._report_ns = now_ns + PERIOD_NS
        for session in self._sessions.values():
            session.start(now_ns=now_ns)
        self._gap.set_rate(PROBES, Spacing.POISSON, now_ns=now_ns)

    def close(self) -> None:
        """End."""
        self._report_ns = None
        self._pair.close()
        self._gap.close()

    def _hear(self, event: Event, now_ns: int) -> None:
        match event:
            case Ready():
                self._is_ready = True
                self._send_train(now_ns)
            case TrainMeasured(train=train) | TrainLost(train=train):
                self._keep(train)
            case GapReturned(gap=gap) | GapLost(gap=gap):
                self._keep(gap)
            case Failed(stream=stream) | Ended(stream=stream) if stream == PAIR:
                self.close()
                self._events.append(event)
            case _:  # Small probes may fail alone; trains go on.
                pass

    def _keep(self, sample: Train | Gap) -> None:
        if isinstance(sample, Gap) or sample.sent_ns:
            self._path.observe(sample)
            self._events.append(Sampled(sample))

    def _send_train(self, now_ns: int) -> None:
        capacity_bps = self._path.capacity_bps
        belief_bps = capacity_bps.value if isinstance(capacity_bps, Estimate) else None
        packets, gap_ns = schedule.SHORTEST, 0
        if belief_bps is not None:
            packets = min(MOST_PACKETS, schedule.longest_packets(belief_bps))
            # Another capacity is believed when two trains in a row say so.
            is_paced = self._turn % 2 and not self._path.is_in_doubt
            gap_ns = round(schedule.packet_ns(belief_bps)) if is_paced else 0
        self._turn += 1
        at_ns = now_ns + round(self._random() * PERIOD_NS / 2)
        self._pair.queue_train(TrainPlan(packets, schedule.PACKET_BYTES, gap_ns, at_ns))

    def _own_timer_ns(self) -> int | None:
        return self._report_ns

    def _handle_own_timer(self, now_ns: int) -> None:
        if self._report_ns is None or now_ns < self._report_ns:
            return
        # Not one for each second that was slept through.
        self._report_ns = max(self._report_ns, now_ns) + PERIOD_NS
        elapsed_ns = now_ns - self._start_ns
        self._events.append(Watched(self._path.report(), elapsed_ns, self._sent_bytes))
        if self._is_ready and self._pair.trains_left:
            self._send_train(now_ns)

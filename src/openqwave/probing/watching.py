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
from openqwave.probing.tempo import Tempo
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


ORDINARY = Tempo(PROBES, PERIOD_NS, PERIOD_NS)


@dataclass(frozen=True, slots=True)
class Watched(Event):
    """What is believed now; once in a while.

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
        base: What is added to `PAIR` and `GAP`, for an owner of several sessions.
        first_sequence: Number of the first small probe.
        tempo: How much is sent, and how often a report made.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        wish: Wish,
        supports_priority: bool | None = None,
        *,
        random: Callable[[], float],
        order: FlagOrder = FlagOrder.MSB_FIRST,
        base: int = 0,
        first_sequence: int = 1,
        tempo: Tempo = ORDINARY,
    ) -> None:
        super().__init__(headers_bytes(wish.version))
        self._random = random
        self._path = PathWatch(samples, supports_priority)
        self._pair_key, gap_key = base + PAIR, base + GAP
        self._pair = PacketPairInitiator(
            self._pair_key, wish.version, random=random, limits=LIMITS, order=order
        )
        self._gap = ProbegapInitiator(
            gap_key, wish.version, random=random, first_sequence=first_sequence
        )
        self._sessions = {self._pair_key: self._pair, gap_key: self._gap}
        self._tempo = tempo
        self._start_ns = 0
        self._report_ns: int | None = None
        self._train_ns: int | None = None
        self._is_resting = False
        self._turn = 0

    @property
    def capacity_bps(self) -> int | None:
        """The capacity that is believed now; None for none."""
        found = self._path.capacity_bps
        return found.value if isinstance(found, Estimate) else None

    @property
    def has_changed(self) -> bool:
        """Did the last answer tell of another path, or of another load?"""
        return self._path.is_in_doubt or self._path.is_startled

    @property
    def train_bytes(self) -> int:
        """What its next train costs."""
        return self._packets() * schedule.PACKET_BYTES

    def start(self, *, now_ns: int) -> None:
        """Begin."""
        self._start_ns = now_ns
        self._report_ns = now_ns + self._tempo.report_ns
        for session in self._sessions.values():
            session.start(now_ns=now_ns)
        self._gap.set_rate(self._tempo.probes, Spacing.POISSON, now_ns=now_ns)

    def close(self) -> None:
        """End."""
        self._report_ns = self._train_ns = None
        self._pair.close()
        self._gap.close()

    def set_tempo(self, tempo: Tempo, *, now_ns: int) -> None:
        """Send more or less from now on."""
        if tempo.probes != self._tempo.probes:
            self._gap.set_rate(tempo.probes, Spacing.POISSON, now_ns=now_ns)
        # What is due stays due: a tempo that is set often must not put it off.
        if self._report_ns is not None:
            self._report_ns = min(self._report_ns, now_ns + tempo.report_ns)
        if self._train_ns is not None:
            earlier_ns = self._train_ns + tempo.train_ns - self._tempo.train_ns
            self._train_ns = max(now_ns, earlier_ns)
        self._tempo = tempo

    def rest(self) -> None:
        """Send no trains and conclude nothing, while somebody else measures the path.

        Small probes go on, for the samples that they are.
        """
        self._is_resting = True

    def go_on(
        self,
        samples: Sequence[Sample] = (),
        supports_priority: bool | None = None,
    ) -> None:
        """Watch again.

        Args:
            samples: Of the measurement that was made meanwhile, to begin anew with; none for what
                was believed before.
            supports_priority: What is known of that now.
        """
        self._is_resting = False
        if samples:
            self._path = PathWatch(samples, supports_priority)
        else:
            self._path.skip()

    def _hear(self, event: Event, now_ns: int) -> None:
        match event:
            case Ready():
                self._train_ns = now_ns
            case TrainMeasured(train=train) | TrainLost(train=train):
                self._keep(train)
            case GapReturned(gap=gap) | GapLost(gap=gap):
                self._keep(gap)
            case Failed(stream=stream) | Ended(stream=stream) if stream == self._pair_key:
                self.close()
                self._events.append(event)
            case _:  # Small probes may fail alone; trains go on.
                pass

    def _keep(self, sample: Train | Gap) -> None:
        if isinstance(sample, Gap) or sample.sent_ns:
            if not self._is_resting:
                self._path.observe(sample)
            self._events.append(Sampled(sample))

    def _packets(self) -> int:
        belief_bps = self.capacity_bps
        if belief_bps is None:
            return schedule.SHORTEST
        return min(MOST_PACKETS, schedule.longest_packets(belief_bps))

    def _send_train(self, now_ns: int) -> None:
        belief_bps, gap_ns = self.capacity_bps, 0
        # Another capacity is believed when two trains in a row say so.
        if belief_bps is not None and self._turn % 2 and not self._path.is_in_doubt:
            gap_ns = round(schedule.packet_ns(belief_bps))
        self._turn += 1
        at_ns = now_ns + round(self._random() * self._tempo.train_ns / 2)
        self._pair.queue_train(TrainPlan(self._packets(), schedule.PACKET_BYTES, gap_ns, at_ns))

    def _own_timer_ns(self) -> int | None:
        train_ns = None if self._is_resting else self._train_ns
        return min((due for due in (self._report_ns, train_ns) if due is not None), default=None)

    def _handle_own_timer(self, now_ns: int) -> None:
        # Not one for each period that was slept through.
        if self._report_ns is not None and now_ns >= self._report_ns:
            self._report_ns = now_ns + self._tempo.report_ns
            elapsed_ns = now_ns - self._start_ns
            self._events.append(Watched(self._path.report(), elapsed_ns, self._sent_bytes))
        is_due = self._train_ns is not None and now_ns >= self._train_ns
        if is_due and not self._is_resting:
            self._train_ns = now_ns + self._tempo.train_ns
            if self._pair.trains_left:
                self._send_train(now_ns)

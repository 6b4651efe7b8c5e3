"""A path that carries frames on a virtual clock: no sockets, no clock of its own, same by seed.

Whoever has a clock, real or not, offers frames at a time, asks when to look again, and takes what
is due. Stages are computed ahead as far as what they do is certain (see `queues`); what is not is
kept until the clock gets there: accesses to a shared medium, and packets behind a reordering line,
which are sorted by time again before the next stage sees them.

The path keeps books of what each stage carried, and from them tells the *truth* that an estimate
is compared with::

    capacity     least rate of all stages: the sustained rate of a bucket; of a shared medium what
                 one greedy station carries alone with full packets
    available    least rate that cross traffic left over in a window of time
    fair share   least of what a greedy flow gets: on a shared medium its station's turns, elsewhere
                 what is left over (cross traffic here does not give way)

For a shared medium nothing of this is computed from a formula: the medium is run with a greedy
station, without and with its cross traffic.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from openqwave.lab.crosstraffic import arrivals
from openqwave.lab.links import FULL_PACKET_BYTES, Contention, PathSpec, Stage
from openqwave.lab.queues import NEVER, BucketQueue, OpenGate, RateQueue, SharedMedium, Take
from openqwave.lab.tally import Carried, Tally


class _Line:
    """What follows the rate: loss, duplicates, delay, jitter, reordering."""

    def __init__(self, stage: Stage, source: random.Random, tally: Tally, deliver: Take) -> None:
        self._stage = stage
        self._uniform = source.random
        self._tally = tally
        self._deliver = deliver
        self._last_ns = 0.0

    def take_plain(self, time_ns: float, frame: object, size_bytes: int) -> None:
        """Delay a packet and nothing else."""
        self._deliver(time_ns + self._stage.delay_ns, frame, size_bytes)

    def take(self, time_ns: float, frame: object, size_bytes: int) -> None:
        """Do to a packet all that the stage says."""
        stage, uniform = self._stage, self._uniform
        if uniform() < stage.loss:
            self._tally.lost += 1
            return
        time_ns += stage.delay_ns + uniform() * stage.jitter_ns
        if uniform() < stage.reorder:
            time_ns += stage.reorder_ns
        else:
            self._last_ns = time_ns = max(time_ns, self._last_ns)
        self._deliver(time_ns, frame, size_bytes)
        if uniform() < stage.duplicate:
            self._deliver(time_ns, frame, size_bytes)


class _Sorter:
    """Brings packets into the order of their times, by waiting until the clock is there."""

    def __init__(self, deliver: Take) -> None:
        self._deliver = deliver
        self._held: list[tuple[float, int, object, int]] = []
        self._number = itertools.count()

    def take(self, time_ns: float, frame: object, size_bytes: int) -> None:
        """Hold a packet."""
        heapq.heappush(self._held, (time_ns, next(self._number), frame, size_bytes))

    def advance(self, now_ns: float) -> None:
        """Let go of the packets up to a time, that time included."""
        while self._held and self._held[0][0] <= now_ns:
            time_ns, _, frame, size_bytes = heapq.heappop(self._held)
            self._deliver(time_ns, frame, size_bytes)

    def next_ns(self) -> float:
        """Say when to call `advance`."""
        return self._held[0][0] if self._held else NEVER


class _Coalescer:
    """Delivers in clumps: a timer from the first packet on, and all that came at its end."""

    def __init__(self, coalesce_ns: int, deliver: Take) -> None:
        self._coalesce_ns = coalesce_ns
        self._deliver = deliver
        self._timer_ns = -1.0

    def take(self, time_ns: float, frame: object, size_bytes: int) -> None:
        """Put a packet into the clump that is open, or open one."""
        if time_ns > self._timer_ns:
            self._timer_ns = time_ns + self._coalesce_ns
        self._deliver(self._timer_ns, frame, size_bytes)


@dataclass(frozen=True, slots=True)
class Truth:
    """What a path could and did carry in a window of time; rates 0 where nothing limits it.

    Attributes:
        since_ns: Begin of the window, whole milliseconds from the start of the model.
        until_ns: Its end, likewise.
        capacity_bps: Rate of the narrow stage.
        available_bps: What the cross traffic of the tight stage left over.
        fair_share_bps: What a greedy flow would get.
        narrow: Number of the stage with the least capacity; -1 if none has a rate.
        tight: Number of the stage with the least available; likewise.
        carried: The books of each stage.
    """

    since_ns: int
    until_ns: int
    capacity_bps: int
    available_bps: int
    fair_share_bps: int
    narrow: int
    tight: int
    carried: tuple[Carried, ...]


class PathModel:
    """One direction of a link; see the module's text.

    Times given are nanoseconds on any one clock and do not go back: an earlier one counts as the
    latest.
    """

    def __init__(self, spec: PathSpec, seed: int, start_ns: int = 0) -> None:
        """Start with empty queues and full buckets.

        Args:
            spec: What the path is like.
            seed: The same offers meet the same fate for the same seed.
            start_ns: When the model, and its cross traffic, starts.
        """
        self.spec = spec
        self.start_ns = start_ns
        self._now_ns = 0
        self._due: deque[tuple[int, object]] = deque()
        self._tallies = [Tally() for _ in spec.stages]
        # In the order of the path: what one lets go may be the next one's to hold.
        self._waiting: list[SharedMedium | _Sorter] = []
        self._movers: list[RateQueue | BucketQueue | SharedMedium | _Sorter] = []
        take: Take = self._arrive
        for number in reversed(range(len(spec.stages))):
            take = self._build(spec.stages[number], f"{seed}/{number}", self._tallies[number], take)
        self._waiting.reverse()
        self._movers.reverse()
        self._take = take

    def _build(self, stage: Stage, seed: str, tally: Tally, deliver: Take) -> Take:
        """Build one stage from its end to its begin; return its begin."""
        source = random.Random(seed)  # noqa: S311 - nobody gains by guessing it
        if stage.coalesce_ns:
            deliver = _Coalescer(stage.coalesce_ns, deliver).take
        if stage.reorder:
            sorter = _Sorter(deliver)
            self._waiting.append(sorter)
            self._movers.append(sorter)
            deliver = sorter.take
        if stage.loss or stage.duplicate or stage.jitter_ns or stage.reorder:
            deliver = _Line(stage, source, tally, deliver).take
        elif stage.delay_ns:
            deliver = _Line(stage, source, tally, deliver).take_plain
        cross = [arrivals(each, f"{seed}/{index}") for index, each in enumerate(stage.cross)]
        queue: RateQueue | BucketQueue | SharedMedium
        if stage.contention:
            queue = SharedMedium(stage, stage.contention, cross, source, tally, deliver)
            self._waiting.append(queue)
        elif stage.bucket:
            queue = BucketQueue(stage, stage.bucket, cross, tally, deliver)
        elif stage.rate_bps:
            queue = RateQueue(stage, cross, tally, deliver)
        else:
            return OpenGate(tally, deliver).take
        self._movers.append(queue)
        return queue.take

    def _arrive(self, time_ns: float, frame: object, _: int) -> None:
        self._due.append((int(time_ns) + self.start_ns, frame))

    def offer(self, now_ns: int, frame: object, size_bytes: int) -> None:
        """Put a frame on the path.

        Args:
            now_ns: When.
            frame: Anything; it comes out as it is.
            size_bytes: Size of its IP packet.
        """
        now_ns -= self.start_ns
        if now_ns > self._now_ns:
            self._now_ns = now_ns
        self._take(self._now_ns, frame, size_bytes)

    def next_due_ns(self) -> int | None:
        """When to call `deliver` again; None if nothing is on its way.

        A frame may be due then, or it is decided then when one is: never later than that.
        """
        next_ns = min((one.next_ns() for one in self._waiting), default=NEVER)
        decision_ns = None if next_ns == NEVER else -int(-next_ns // 1) + self.start_ns
        if not self._due:
            return decision_ns
        due_ns = self._due[0][0]
        return due_ns if decision_ns is None else min(due_ns, decision_ns)

    def deliver(self, now_ns: int) -> list[tuple[int, object]]:
        """Take the frames that have come out up to a time, each with when it was due, in order."""
        if self._waiting:
            self._now_ns = max(self._now_ns, now_ns - self.start_ns)
            for each in self._waiting:
                each.advance(self._now_ns)
        due = self._due
        out = []
        while due and due[0][0] <= now_ns:
            out.append(due.popleft())
        return out

    def advance(self, now_ns: int) -> None:
        """Make the cross traffic up to a time, so that little is left to do when frames come."""
        self._now_ns = max(self._now_ns, now_ns - self.start_ns)
        for each in self._movers:
            each.advance(self._now_ns)

    def carried(self, stage: int, since_ns: int, until_ns: int) -> Carried:
        """Return what a stage carried between two moments, of which the later is not to come.

        Raises:
            ValueError: The window ends before it begins, or began more than a minute ago, or
                before the model.
        """
        start_ns = self.start_ns
        if since_ns < start_ns:
            raise ValueError(f"the path is younger: it started at {start_ns}")
        self.advance(until_ns)
        found = self._tallies[stage].between(since_ns - start_ns, until_ns - start_ns)
        return replace(
            found, since_ns=found.since_ns + start_ns, until_ns=found.until_ns + start_ns
        )

    def truth(self, since_ns: int, until_ns: int) -> Truth:
        """Return what the path could and did carry between two moments; errors as `carried`."""
        return truth(
            self.spec,
            [self.carried(number, since_ns, until_ns) for number in range(len(self.spec.stages))],
        )


def truth(spec: PathSpec, carried: Sequence[Carried]) -> Truth:
    """Tell the truth about a path from the books of its stages."""
    capacities = {
        number: capacity_bps(stage) for number, stage in enumerate(spec.stages) if stage.has_queue
    }
    window = carried[0].since_ns, carried[0].until_ns
    if not capacities:
        return Truth(*window, 0, 0, 0, -1, -1, tuple(carried))
    left_bps = {
        number: max(0, capacity - carried[number].cross_bps)
        for number, capacity in capacities.items()
    }
    shares = [
        fair_share_bps(spec.stages[number]) if spec.stages[number].contention else left
        for number, left in left_bps.items()
    ]
    narrow = min(capacities, key=capacities.__getitem__)
    tight = min(left_bps, key=left_bps.__getitem__)
    return Truth(
        *window,
        capacities[narrow],
        left_bps[tight],
        min(shares),
        narrow,
        tight,
        tuple(carried),
    )


def capacity_bps(stage: Stage) -> int:
    """Return the sustained rate of a stage with a queue; see the module's text."""
    if stage.contention:
        return _greedy_bps(stage.rate_bps, stage.contention)
    return stage.bucket.rate_bps if stage.bucket else stage.rate_bps


def fair_share_bps(stage: Stage) -> int:
    """Return what a greedy station gets of a shared medium, with the stage's cross traffic."""
    if stage.contention is None:
        raise ValueError("the stage is no shared medium")
    return _greedy_share_bps(
        Stage(
            rate_bps=stage.rate_bps,
            queue_bytes=stage.queue_bytes,
            contention=stage.contention,
            cross=tuple(replace(cross, start_ns=0, stop_ns=None) for cross in stage.cross),
        )
    )


# Some thousand accesses: the random waits average out to a part in a few hundred.
_GREEDY_NS = 4_000_000_000


def _greedy_bps(rate_bps: int, contention: Contention) -> int:
    return _greedy_share_bps(Stage(rate_bps=rate_bps, contention=contention))


@functools.cache
def _greedy_share_bps(stage: Stage) -> int:
    """Run a shared medium with a station that always has enough to send."""
    if stage.contention is None:
        raise ValueError("the stage is no shared medium")
    ready = 2 * stage.contention.aggregate_frames
    stage = replace(stage, queue_bytes=max(stage.queue_bytes, ready * FULL_PACKET_BYTES))
    model = PathModel(PathSpec((stage,)), 0)
    for _ in range(ready):
        model.offer(0, None, FULL_PACKET_BYTES)
    # Something is always on its way.
    while (now_ns := model.next_due_ns() or 0) < _GREEDY_NS:
        for due_ns, _ in model.deliver(now_ns):
            model.offer(due_ns, None, FULL_PACKET_BYTES)
    return model.carried(0, 0, _GREEDY_NS).frame_bytes * 8_000_000_000 // _GREEDY_NS

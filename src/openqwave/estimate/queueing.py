"""What each small probe waits in queues on the way there, told as it comes back.

`clocks` looks back over many probes and fits a line; here an answer is wanted for the probe that
has just come back. Beyond their least of the last ten seconds, the delay there has risen by `a`,
and the round trip by `b`::

    a = queue there + error of the clocks since      b = queue there + queue back

The round trip is a difference of one clock, less one of the other, so neither drift nor a step
moves it; the delay there does not see the way back. Neither is less than the queue there while the
clocks agree, and the smaller one is taken. A clock that falls behind lowers `a` and its least
together. So clocks that drift or are set cannot make a queue, whatever they do.

**Holding.** A queue that stands for longer than the memory would become the least itself. While
one is known to stand, the least is held. A clock that falls behind would then make the queue seem
to melt away: `a` is given what clocks may drift apart in the time, up to `b`; and a step, by which
`a` falls while `b` does not, is found by medians as in `clocks`, and taken out of what is held.

**Clock steps on this host** meet probes under way, whose round trip is then short by the step. So
the least round trip is not the very least: it has to show in three of the memory's slices.

**How it fails.** A queue that was there from the first probe on, and never empties, is taken for
the line. A step while a queue stands is only found if it is four times the jitter; and a queue on
the way back counts while a clock has lately been set forward.
"""

from __future__ import annotations

from collections import deque
from statistics import median

from openqwave.estimate.clocks import LEAST_STEP_NS, STEP_PROMINENCE, STEP_WINDOW
from openqwave.estimate.samples import Gap

# Long enough that a queue at 95 % of load empties meanwhile (packets of 1500 bytes at 1 Mbit/s:
# some seconds), short enough that a longer route is soon the ordinary one.
MEMORY_NS = 10_000_000_000
# Probes that are under way when a clock is set are within two slices, on paths of up to 250 ms.
SLICE_NS = 250_000_000
# The least round trip is what so many slices have shown; fewer while there are few slices.
LEAST_SLICES = 3
# A pause in the probes, or a clock that is set, passes for no more than this.
LONGEST_PAUSE_NS = 5_000_000_000
# What clocks may drift apart while a queue is held to stand: NTP corrects no more (RFC 5905 section
# 11.3). Two that both need that much, in opposite directions, are not worth what it costs: with
# jitter on the way back, the allowance delays the end of what stood for long.
HELD_DRIFT_PPM = 500

MILLION = 1_000_000


class Queueing:
    """Tells the wait of one probe after the other; see the module's text.

    Attributes:
        now_ns: Time that has passed by the probes' sending, from the first one; never goes back.
        is_held: Whether the least delays are held.
    """

    def __init__(self) -> None:
        self.now_ns = 0
        self.is_held = False
        self._sent_ns: int | None = None
        # Begin, least delay there and least round trip, of each slice.
        self._slices: deque[tuple[int, int, int]] = deque()
        self._least = (0, 0)
        self._held_ns = 0
        # While held: waits by the delay there, and by the round trip.
        self._recent: deque[tuple[int, int]] = deque(maxlen=2 * STEP_WINDOW)

    def age_ns(self, gap: Gap) -> int:
        """How long before the last probe that came back another one was sent."""
        return 0 if self._sent_ns is None else max(0, self._sent_ns - gap.sent_ns)

    def wait_ns(self, gap: Gap) -> int:
        """Take a probe that came back; returns what it waited on the way there."""
        if self._sent_ns is not None:
            self.now_ns += min(max(0, gap.sent_ns - self._sent_ns), LONGEST_PAUSE_NS)
        self._sent_ns = gap.sent_ns
        there_ns = gap.sink_received_ns - gap.sent_ns
        trip_ns = gap.received_ns - gap.sent_ns - (gap.sink_sent_ns - gap.sink_received_ns)
        self._remember(there_ns, trip_ns)
        least_there_ns, least_trip_ns = self._least
        if not self.is_held:
            least_there_ns, least_trip_ns = self._least = self._least_of_slices()
        there_ns -= least_there_ns
        trip_ns -= least_trip_ns
        if self.is_held:
            there_ns -= self._step_ns(there_ns, trip_ns)
            there_ns += self._drift_ns
        return max(0, min(there_ns, trip_ns))

    def hold(self) -> None:
        """A queue stands: what is least now stays so."""
        self.is_held, self._held_ns = True, self.now_ns
        self._recent.clear()

    def release(self, *, is_kept: bool) -> None:
        """The queue is gone, or it is taken for the line.

        Args:
            is_kept: Whether what was held counts as seen in all of the memory.
        """
        self.is_held = False
        if is_kept:
            there_ns, trip_ns = self._least
            drift_ns = self._drift_ns
            # What is held of the delay there may be off by now; too low is the safe side.
            self._slices = deque(
                (begin_ns, min(one_ns, there_ns - drift_ns), min(other_ns, trip_ns))
                for begin_ns, one_ns, other_ns in self._slices
            )

    @property
    def _drift_ns(self) -> int:
        """What the clocks may have drifted apart since the least has been held."""
        return (self.now_ns - self._held_ns) * HELD_DRIFT_PPM // MILLION

    def _remember(self, there_ns: int, trip_ns: int) -> None:
        slices = self._slices
        if slices and self.now_ns - slices[-1][0] < SLICE_NS:
            begin_ns, one_ns, other_ns = slices[-1]
            slices[-1] = (begin_ns, min(one_ns, there_ns), min(other_ns, trip_ns))
            return
        slices.append((self.now_ns, there_ns, trip_ns))
        while self.now_ns - slices[0][0] > MEMORY_NS:
            slices.popleft()

    def _least_of_slices(self) -> tuple[int, int]:
        trips = sorted(trip_ns for _, _, trip_ns in self._slices)
        place = min(LEAST_SLICES, 1 + len(trips) // 4) - 1
        return min(there_ns for _, there_ns, _ in self._slices), trips[place]

    def _step_ns(self, there_ns: int, trip_ns: int) -> int:
        """By how much a clock has been set in the middle of the last probes; it is taken out."""
        recent = self._recent
        recent.append((there_ns, trip_ns))
        if len(recent) < 2 * STEP_WINDOW:
            return 0
        # A queue there moves this half as much as the round trip, a queue back likewise.
        offsets = [one_ns - other_ns / 2 for one_ns, other_ns in recent]
        trips = [other_ns for _, other_ns in recent]
        before, after = offsets[:STEP_WINDOW], offsets[STEP_WINDOW:]
        step_ns = round(median(after) - median(before))
        trip_ns = round(abs(median(trips[STEP_WINDOW:]) - median(trips[:STEP_WINDOW])))
        spread_ns = max(_middle_half(before), _middle_half(after))
        if abs(step_ns) <= max(LEAST_STEP_NS, STEP_PROMINENCE * max(trip_ns, spread_ns)):
            return 0
        self._least = (self._least[0] + step_ns, self._least[1])
        recent.clear()
        return step_ns


def _middle_half(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) * 3 // 4] - ordered[len(ordered) // 4]

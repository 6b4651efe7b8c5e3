"""Whether a path is congested: told within a fifth of a second or so, and as soon when it is over.

**A standing queue.** Bursts make queues on every path; they drain. What tells a queue that stands
is the least wait over some time, not the mean (Nichols, Jacobson, "Controlling Queue Delay", 2012;
RFC 8289 section 3). What a probe waits is told by `queueing`, and when it has waited for long by
`evidence`. The slack is so many packet times of the narrow link, because that is the unit of
random queues; and more where the path itself is unsteady, as Wi-Fi is.

Simulated with 20 Mbit/s, 100 probes a second at random moments, and packets of others at random:
no notice in two hours at 85 % of load, and told after 370 ms at 105 %, 280 at 110 %, 200 at 120 %,
155 at 150 % and 130 at 200 % (medians). A detector that is faster at 105 % gives false notices at
85 %: in 200 ms the arrivals of the one are no more than four standard deviations from the other's.

**Losses.** Where a queue is too short to be seen, or a policer drops, small probes are lost. Each
that is lost or not is evidence for the loss that the path has always had, or for three times as
much, 15 % at least (`evidence`); random loss is thus no congestion. Losses while a queue stands are
the queue's and count no more. That a probe is lost is known when it has been waited for, 200 ms at
least (`probing.gaps`): half lost is told after some 350 ms, a third after 500, 15 % after one to
two seconds, and the end of it after half a second to one and a half. A sink that is silent is not
congestion.

**A flow's own packets.** A TCP flow under contract is paced below what was admitted, and makes no
queue by itself. If its packets wait, are lost or marked nevertheless, others have filled the path.
A flow that is not held to a rate fills the path alone until its packets wait; it counts as
congested all the same, for it is the one that could send less. Waiting in this host for want of
room in the window is no congestion. UDP flows have no such counters.

**How it fails.** Longer routes look like a queue that is full and flat: they are told as congested,
and taken for the ordinary after five minutes. Queues shorter than the slack are only seen by what
they drop, which may be large packets alone; then a flow's own packets tell. A path that was
congested from the first probe on is taken for calm until its queue has been empty once.
"""

from __future__ import annotations

from collections import deque

from openqwave.estimate.evidence import Losses, Standing
from openqwave.estimate.queueing import Queueing
from openqwave.estimate.samples import Gap
from openqwave.model.estimates import Congestion, CongestionReason, FlowCounters

MS = 1_000_000
S = 1_000_000_000

# -- queues that stand ----------------------------------------------------------------

# The least wait is taken over so long, and so many probes: the watch's own train is past (eight
# packets, 5 ms at 20 Mbit/s), and one probe that met a burst says nothing.
WINDOW_NS, WINDOW_PROBES = 20 * MS, 3
# Slack in packet times. Of 8, 10 and 12 ms at 20 Mbit/s the first tells 105 % soonest, at the same
# number of false notices.
FULL_BYTES = 1500
SLACK_PACKETS = 13.3
# Below the least slack are interrupts, timers and busy hosts. The most is what conversations bear:
# at 1 Mbit/s five packets, which random queues reach at any load worth the name.
LEAST_SLACK_NS, MOST_SLACK_NS = 2 * MS, 60 * MS
# Where no capacity is known yet: that of 20 Mbit/s. NADA has 10 ms (RFC 8698, QEPS).
UNKNOWN_SLACK_NS = 8 * MS
# Patience in slacks. In twelve runs of ten minutes at 85 % of load and 20 Mbit/s the sum came to
# 21 of them at most; bounds so that a few probes are needed, and nobody waits forever.
PATIENCE_SLACKS = 22
LEAST_PATIENCE_NS, MOST_PATIENCE_NS = 100 * MS, 400 * MS
# How long a queue has to be gone until it is over: at 100 probes a second, some 25 of them.
CALM_NS = 250 * MS
# One probe speaks for no more time than this, so that it takes several, however few are sent.
# Twice as many to say that it is over: until then a step of a clock has been found (`queueing`).
LONGEST_STEP_NS, LONGEST_CALM_STEP_NS = 50 * MS, 25 * MS
# The path's own unsteadiness is the mean of the least waits and four times their mean deviation,
# which jitter exceeds less often than once in a thousand; learned over ten seconds.
DEVIATIONS = 4
LEARNING_NS = 10 * S
# What stands for so long is the path.
USUAL_NS = 300 * S
# So many probes, over so long, before anything is said.
ENOUGH_PROBES, ENOUGH_NS = 30, 500 * MS

# -- losses ---------------------------------------------------------------------------

# The least share of probes that is looked for. Overload by a fifth drops more, and chance is told
# from it by a few dozen probes.
CONGESTED_SHARE = 0.15
# More in a row count as so many: a sink that has gone loses all.
LONGEST_RUN = 4

# -- flows ----------------------------------------------------------------------------

# Wait of a flow's segments: an acknowledgement that is delayed until the second segment comes adds
# 20 ms at the least pace that is judged, half of it on the mean.
FLOW_SLACK_NS, FLOW_PATIENCE_NS = 25 * MS, 200 * MS
BUSY_PER_S = 50
# Counters come this often at least; a flow that pauses for longer tells nothing.
FLOW_STEP_NS, FLOW_PAUSE_NS = 200 * MS, 2 * S
FLOW_CALM_NS = 500 * MS
# TCP sends less with each loss: by RFC 5348 section 3.1, 5 % leave less than 1 Mbit/s where
# the round trip is 50 ms. Told for a second after the last of it, because losses come in bursts.
FLOW_SHARE, FLOW_LOSS_NS = 0.05, S
# A mark does not come by chance, and one alone is how queues of a few milliseconds are managed.
ECN_MARKS, ECN_NS = 3, S
# Fewer delivered packets say nothing.
ENOUGH_PACKETS = 20


class PathCongestion:
    """Judges a path by small probes; see the module's text."""

    def __init__(self) -> None:
        self._queueing = Queueing()
        self._base_slack_ns = UNKNOWN_SLACK_NS
        self._standing = Standing(UNKNOWN_SLACK_NS, 0, CALM_NS)
        self._losses = Losses(CONGESTED_SHARE)
        # When each was sent and what it waited.
        self._window: deque[tuple[int, int]] = deque()
        self._least_ns = 0
        self._count = self._lost_run = 0
        self._mean_ns = self._deviation_ns = 0.0
        # Since when it is congested, and until when a queue has stood, by the queueing's time.
        self._since_ns = 0
        self._stood_until_ns = 0
        self._adjust()

    def set_capacity_bps(self, capacity_bps: int | None) -> None:
        """Set the capacity of the narrow link, whose packet time is the unit; None if unknown."""
        slack_ns = UNKNOWN_SLACK_NS
        if capacity_bps:
            slack_ns = round(SLACK_PACKETS * FULL_BYTES * 8 * S / capacity_bps)
            slack_ns = min(MOST_SLACK_NS, max(LEAST_SLACK_NS, slack_ns))
        self._base_slack_ns = slack_ns
        self._adjust()

    @property
    def verdict(self) -> Congestion:
        """What is held now."""
        if self._standing.is_standing:
            detail = f"{self._least_ns / MS:.1f} ms, where {self._standing.slack_ns / MS:.1f} pass"
            return Congestion(True, CongestionReason.DELAY, detail)
        if self._losses.is_lossy:
            share, usual = self._losses.seen_share, self._losses.usual_share
            detail = f"{share:.0%}, where {usual:.0%} are usual"
            return Congestion(True, CongestionReason.PROBE_LOSS, detail)
        return Congestion(False) if self._is_ready else Congestion()

    @property
    def _is_ready(self) -> bool:
        return self._count >= ENOUGH_PROBES and self._queueing.now_ns >= ENOUGH_NS

    def observe(self, gap: Gap) -> None:
        """Take a probe that has come back or was given up."""
        if gap.is_lost:
            self._lost_run += 1
            if self._lost_run <= LONGEST_RUN:
                self._count_loss(gap, lost=1)
            return
        before_ns = self._queueing.now_ns
        wait_ns = self._queueing.wait_ns(gap)
        now_ns = self._queueing.now_ns
        self._count += 1
        self._window.append((now_ns, wait_ns))
        while len(self._window) > WINDOW_PROBES and self._window[0][0] < now_ns - WINDOW_NS:
            self._window.popleft()
        self._least_ns = min(wait_ns for _, wait_ns in self._window)
        self._judge_queue(now_ns - before_ns)
        self._lost_run = 0
        self._count_loss(gap, lost=0)
        is_congested = self._standing.is_standing or self._losses.is_lossy
        if is_congested and now_ns - self._since_ns > USUAL_NS:
            self._get_used()

    def _judge_queue(self, passed_ns: int) -> None:
        standing = self._standing
        if not standing.is_standing:
            self._learn(passed_ns)
        if not self._is_ready:
            return
        stood = standing.is_standing
        standing.observe(
            self._least_ns, min(passed_ns, LONGEST_STEP_NS), min(passed_ns, LONGEST_CALM_STEP_NS)
        )
        now_ns = self._queueing.now_ns
        if standing.is_standing and not stood:
            self._queueing.hold()
            self._losses.clear()
            self._since_ns = now_ns
        elif stood and not standing.is_standing:
            self._queueing.release(is_kept=True)
            self._stood_until_ns = now_ns

    def _learn(self, passed_ns: int) -> None:
        """Learn how unsteady the path is by itself."""
        weight = 1 / self._count
        if self._is_ready:
            weight = min(passed_ns, LONGEST_STEP_NS) / LEARNING_NS
        lesson_ns = min(self._least_ns, MOST_SLACK_NS)
        self._mean_ns += weight * (lesson_ns - self._mean_ns)
        self._deviation_ns += weight * (abs(lesson_ns - self._mean_ns) - self._deviation_ns)
        self._adjust()

    def _adjust(self) -> None:
        noise_ns = min(MOST_SLACK_NS, round(self._mean_ns + DEVIATIONS * self._deviation_ns))
        base_ns = self._base_slack_ns
        self._standing.slack_ns = max(base_ns, noise_ns)
        patience_ns = PATIENCE_SLACKS * base_ns
        self._standing.patience_ns = min(MOST_PATIENCE_NS, max(LEAST_PATIENCE_NS, patience_ns))

    def _count_loss(self, gap: Gap, lost: int) -> None:
        sent_ns = self._queueing.now_ns - self._queueing.age_ns(gap)
        is_the_queues = self._standing.is_standing or sent_ns <= self._stood_until_ns
        if is_the_queues or not self._is_ready:
            return
        was_lossy = self._losses.is_lossy
        self._losses.observe(lost, 1 - lost)
        if self._losses.is_lossy and not was_lossy:
            self._since_ns = self._queueing.now_ns

    def _get_used(self) -> None:
        """What has been so for minutes is the path."""
        if self._standing.is_standing:
            self._standing.clear()
            self._queueing.release(is_kept=False)
            self._stood_until_ns = self._queueing.now_ns
        if self._losses.is_lossy:
            self._losses.accept()


class FlowCongestion:
    """Judges a TCP flow by what its socket counts; see the module's text.

    Of UDP, and of flows that send nothing, nothing is known.
    """

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._last: tuple[int, FlowCounters] | None = None
        self._queue = Standing(FLOW_SLACK_NS, FLOW_PATIENCE_NS, FLOW_CALM_NS)
        self._losses = Losses(FLOW_SHARE)
        self._lossy_until_ns, self._lossy_share = 0, 0.0
        # When some of the packets were marked, and how many.
        self._marks: deque[tuple[int, int]] = deque()
        self._is_lossy = self._is_marked = False
        self._packets = self._wait_ns = self._heard_ns = self._busy_ns = 0

    @property
    def verdict(self) -> Congestion:
        """What is held now."""
        if self._is_marked:
            return Congestion(True, CongestionReason.ECN)
        if self._is_lossy:
            detail = f"{self._lossy_share:.0%} of them"
            return Congestion(True, CongestionReason.FLOW_LOSS, detail)
        if self._queue.is_standing:
            detail = f"for {self._wait_ns / MS:.1f} ms"
            return Congestion(True, CongestionReason.FLOW_QUEUE, detail)
        return Congestion(False) if self._packets >= ENOUGH_PACKETS else Congestion()

    def observe(self, counters: FlowCounters, *, now_ns: int) -> None:
        """Take what the kernel has counted so far, five to ten times a second.

        Args:
            counters: Of one socket; where they fall, they are of another one.
            now_ns: The time.
        """
        if self._last is None:
            self._last, self._heard_ns = (now_ns, counters), now_ns
            return
        last_ns, last = self._last
        delivered = counters.delivered_packets - last.delivered_packets
        lost = counters.lost_packets - last.lost_packets
        marked = counters.delivered_ce_packets - last.delivered_ce_packets
        if min(delivered, lost, marked) < 0 or now_ns - self._heard_ns > FLOW_PAUSE_NS:
            self._restart()
            self._last, self._heard_ns = (now_ns, counters), now_ns
            return
        self._last = now_ns, counters
        if not delivered and not lost:
            # The round trip that the kernel remembers is an old one.
            return
        self._heard_ns = now_ns
        self._packets += delivered
        self._judge_losses(lost, delivered, now_ns)
        self._judge_marks(marked, now_ns)
        self._judge_queue(counters, delivered, now_ns, now_ns - last_ns)

    def _judge_losses(self, lost: int, delivered: int, now_ns: int) -> None:
        self._losses.observe(lost, delivered)
        if self._losses.is_lossy:
            self._lossy_until_ns = now_ns + FLOW_LOSS_NS
            self._lossy_share = self._losses.seen_share
        self._is_lossy = now_ns < self._lossy_until_ns

    def _judge_marks(self, marked: int, now_ns: int) -> None:
        self._marks.append((now_ns, marked))
        while self._marks[0][0] <= now_ns - ECN_NS:
            self._marks.popleft()
        count = sum(marked for _, marked in self._marks)
        self._is_marked = count >= ECN_MARKS or (self._is_marked and count > 0)

    def _judge_queue(
        self, counters: FlowCounters, delivered: int, now_ns: int, passed_ns: int
    ) -> None:
        if counters.rtt_ns is None or counters.least_rtt_ns is None:
            return
        if delivered * S >= BUSY_PER_S * passed_ns:
            self._busy_ns = now_ns
            self._wait_ns = counters.rtt_ns - counters.least_rtt_ns
            step_ns = min(passed_ns, FLOW_STEP_NS)
            self._queue.observe(self._wait_ns, step_ns, step_ns)
        elif now_ns - self._busy_ns > FLOW_PAUSE_NS:
            # So few packets do not fill a queue, and their acknowledgements are delayed.
            self._queue.clear()

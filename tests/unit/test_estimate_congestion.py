"""Congestion of paths and flows, from samples made by hand."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest

from openqwave.estimate import congestion, evidence
from openqwave.estimate.clocks import STEP_WINDOW
from openqwave.estimate.congestion import FlowCongestion, PathCongestion
from openqwave.estimate.evidence import Losses, Standing
from openqwave.estimate.queueing import Queueing
from openqwave.estimate.samples import Gap
from openqwave.model.estimates import Congestion, CongestionReason, FlowCounters
from tests.unit.made_samples import MBIT, MS, S, gap, lost_gap

EVERY_NS = 10 * MS


# -- what a probe waits ---------------------------------------------------------------


class Waits:
    """A probe every 10 ms."""

    def __init__(self) -> None:
        self.queueing = Queueing()
        self.turn = 0

    def take(
        self, there_ms: float, back_ms: float = 0.0, offset_ms: float = 0.0, count: int = 1
    ) -> float:
        """Probes that all wait the same; in milliseconds, what is told of the last one."""
        found = 0
        for _ in range(count):
            one = gap(
                self.turn,
                self.turn * EVERY_NS,
                there_ms * MS,
                back_ms * MS,
                offset_ns=round(offset_ms * MS),
            )
            found = self.queueing.wait_ns(one)
            self.turn += 1
        return found / MS


def test_the_wait_is_what_lies_above_the_least() -> None:
    waits = Waits()
    assert waits.take(3.0, count=10) == 0
    assert waits.take(8.0) == 5
    assert waits.take(1.0) == 0
    assert waits.take(8.0) == pytest.approx(7)


def test_the_way_back_does_not_count() -> None:
    waits = Waits()
    waits.take(0.0, count=10)
    assert waits.take(0.0, 20.0) == 0
    assert waits.take(5.0, 20.0) == 5


@pytest.mark.parametrize("step_ms", [-500.0, -7.0, 7.0, 500.0])
def test_a_clock_that_is_set_makes_no_wait(step_ms: float) -> None:
    waits = Waits()
    waits.take(0.0, count=200)
    assert waits.take(0.0, offset_ms=step_ms) == 0
    assert waits.take(0.0, offset_ms=step_ms, count=100) == 0
    # And a queue is seen nevertheless.
    assert waits.take(6.0, offset_ms=step_ms) == pytest.approx(6)


def test_a_probe_that_was_under_way_when_this_hosts_clock_was_set_makes_no_base() -> None:
    waits = Waits()
    waits.take(0.0, count=200)
    under_way = gap(200, 200 * EVERY_NS)
    under_way = replace(under_way, received_ns=under_way.received_ns - 8 * MS)
    waits.queueing.wait_ns(under_way)
    waits.turn += 1
    # From now on the sink seems to be late by as much, so this must not seem a queue.
    assert waits.take(0.0, offset_ms=8.0, count=100) == 0


def test_the_least_is_forgotten_after_ten_seconds() -> None:
    waits = Waits()
    waits.take(0.0, count=100)
    assert waits.take(4.0, count=850) == 4
    assert waits.take(4.0, count=200) == 0


def test_what_is_held_is_not_forgotten() -> None:
    waits = Waits()
    waits.take(0.0, count=100)
    waits.queueing.hold()
    assert waits.take(4.0, count=3000) == 4
    waits.queueing.release(is_kept=True)
    assert waits.take(4.0) == 4
    waits.queueing.hold()
    waits.queueing.release(is_kept=False)
    waits.take(4.0, count=1100)
    assert waits.take(4.0) == 0


def test_what_stood_and_is_taken_for_the_line_is_forgotten_at_once() -> None:
    waits = Waits()
    waits.take(0.0, count=100)
    waits.queueing.hold()
    waits.take(4.0, count=1100)
    waits.queueing.release(is_kept=False)
    assert waits.take(4.0) == 0


@pytest.mark.parametrize("ppm", [-500, 500])
def test_drift_moves_nothing_that_is_held(ppm: int) -> None:
    waits = Waits()
    waits.take(0.0, count=100)
    waits.queueing.hold()
    for second in range(120):
        told = waits.take(30.0, offset_ms=second * ppm / 1000, count=100)
        assert told == pytest.approx(30, abs=0.6)


@pytest.mark.parametrize("step_ms", [-300.0, -25.0, 25.0])
def test_a_step_moves_nothing_that_is_held(step_ms: float) -> None:
    waits = Waits()
    waits.take(0.0, count=100)
    waits.queueing.hold()
    waits.take(20.0, count=50)
    waits.take(20.0, offset_ms=step_ms, count=2 * STEP_WINDOW)
    assert waits.take(20.0, offset_ms=step_ms) == pytest.approx(20, abs=0.1)
    # What drains afterwards is seen to be gone.
    assert waits.take(0.0, offset_ms=step_ms, count=20) < 0.5


def test_what_was_held_before_is_no_step() -> None:
    waits = Waits()
    waits.take(0.0, count=100)
    waits.queueing.hold()
    waits.take(20.0, 40.0, count=16)
    waits.queueing.release(is_kept=True)
    waits.queueing.hold()
    assert waits.take(60.0, count=16) == pytest.approx(60, abs=0.1)


def test_a_clock_that_fell_behind_while_a_queue_stood_hides_no_later_one() -> None:
    waits = Waits()
    waits.take(0.0, count=100)
    waits.queueing.hold()
    for second in range(100):
        waits.take(30.0, offset_ms=-second / 2, count=100)
    waits.queueing.release(is_kept=True)
    assert waits.take(20.0, offset_ms=-50.0) == pytest.approx(20, abs=0.6)


def test_what_the_sink_keeps_a_probe_does_not_count() -> None:
    waits = Waits()
    waits.take(0.0, count=200)
    kept = gap(200, 200 * EVERY_NS, offset_ns=2 * 86_400 * S)
    kept = replace(
        kept, sink_sent_ns=kept.sink_sent_ns + 15 * MS, received_ns=kept.received_ns + 15 * MS
    )
    assert waits.queueing.wait_ns(kept) == 0


def test_a_queue_that_drains_is_no_step() -> None:
    waits = Waits()
    waits.take(0.0, count=100)
    waits.queueing.hold()
    waits.take(40.0, count=50)
    assert waits.take(0.0, count=30) < 0.1
    # And one that is now on the way back is not there.
    assert waits.take(0.0, 40.0, count=30) < 0.7


def test_time_passes_with_the_probes_and_never_back() -> None:
    waits = Queueing()
    waits.wait_ns(gap(0, 0))
    waits.wait_ns(gap(1, 3 * MS))
    assert waits.now_ns == 3 * MS
    waits.wait_ns(gap(2, -86_400 * S))
    assert waits.now_ns == 3 * MS
    waits.wait_ns(gap(3, 1 * S))
    assert waits.now_ns == 3 * MS + 5 * S
    assert waits.age_ns(lost_gap(4, 0.8 * S)) == 200 * MS
    assert waits.age_ns(lost_gap(5, 1.1 * S)) == 0


# -- the tests ------------------------------------------------------------------------


def told_after(standing: Standing, wait_ms: float, *, most: int = 10_000) -> int:
    """How many milliseconds of a wait it takes."""
    for count in range(most):
        if standing.is_standing:
            return count
        standing.observe(round(wait_ms * MS), MS, MS)
    return most


@pytest.mark.parametrize(
    ("wait_ms", "after_ms"), [(15, 200), (20, 100), (30, 25), (40, 17), (110, 5), (10, 10_000)]
)
def test_what_stands_higher_is_told_sooner(wait_ms: int, after_ms: int) -> None:
    assert told_after(Standing(10 * MS, 100 * MS, 50 * MS), wait_ms) == after_ms


def test_what_sinks_below_the_slack_pays_back() -> None:
    standing = Standing(10 * MS, 100 * MS, 50 * MS)
    for _ in range(1000):
        standing.observe(20 * MS, 10 * MS, 0)
        standing.observe(0, 10 * MS, 0)
    assert not standing.is_standing
    # Down to nothing and not below it.
    assert told_after(standing, 20) == 100


def test_calm_is_told_when_it_lasts() -> None:
    standing = Standing(10 * MS, 100 * MS, 50 * MS)
    assert told_after(standing, 20) == 100
    for _ in range(100):
        # At three quarters of the slack nothing is over; what is lost again counts back.
        standing.observe(round(7.5 * MS), MS, MS)
        assert standing.is_standing
    for _ in range(30):
        standing.observe(0, MS, MS)
    for _ in range(20):
        standing.observe(8 * MS, MS, MS)
    for _ in range(39):
        standing.observe(7 * MS, MS, MS)
        assert standing.is_standing
    standing.observe(7 * MS, MS, MS)
    assert not standing.is_standing
    # It begins anew.
    assert told_after(standing, 20) == 100


def is_lossy(losses: Losses) -> bool:
    return losses.is_lossy


def counted(losses: Losses, lost: int, returned: int, turns: int) -> int | None:
    """After how many turns it is lossy; None for never."""
    for turn in range(turns):
        if losses.is_lossy:
            return turn
        losses.observe(lost, 0)
        losses.observe(0, returned)
    return None


def test_the_usual_loss_is_learned() -> None:
    losses = Losses(0.15)
    assert losses.usual_share == pytest.approx(0.02)
    assert counted(losses, 1, 19, 200) is None
    assert losses.usual_share == pytest.approx(0.05, abs=0.003)
    assert counted(losses, 0, 20, 500) is None
    assert losses.usual_share == evidence.LEAST_SHARE
    # And the latest 20 seconds are most of it.
    assert counted(losses, 1, 19, 200) is None
    assert losses.usual_share == pytest.approx(0.05, abs=0.01)


def test_more_than_the_usual_loss_is_told() -> None:
    losses = Losses(0.15)
    counted(losses, 1, 99, 50)
    # Odds of 15 to 1 for each, less those that arrive.
    each = log(15) + 2 * log(0.85 / 0.99)
    assert counted(losses, 1, 2, 50) == pytest.approx(log(1e6) / each, abs=1)
    assert losses.seen_share == pytest.approx(1 / 3, abs=0.1)


def test_three_times_the_usual_is_looked_for() -> None:
    losses = Losses(0.15)
    counted(losses, 1, 9, 300)
    # 19 % is no nearer to 30 than to 10.
    assert counted(losses, 3, 13, 60) is None
    assert counted(losses, 4, 6, 100) is not None


def test_loss_is_over_when_enough_arrive() -> None:
    losses = Losses(0.15)
    counted(losses, 1, 99, 50)
    counted(losses, 1, 1, 50)
    losses.observe(0, 12)
    losses.observe(1, 0)
    losses.observe(0, 12)
    assert is_lossy(losses)
    # Odds of 10 000 to 1, less and less for each: what was seen fades.
    arrived = 12
    while is_lossy(losses):
        losses.observe(0, 1)
        arrived += 1
    assert 40 < arrived < 90
    assert losses.seen_share == 0


def test_what_arrives_before_it_is_lossy_does_not_count_for_its_end() -> None:
    losses = Losses(0.15)
    counted(losses, 1, 99, 50)
    counted(losses, 1, 1, 50)
    for _ in range(20):
        losses.observe(1, 0)
    arrived = 0
    while is_lossy(losses):
        losses.observe(0, 1)
        arrived += 1
    assert 15 < arrived < 45


def test_loss_goes_on() -> None:
    losses = Losses(0.15)
    counted(losses, 1, 99, 50)
    counted(losses, 1, 3, 100)
    for _ in range(500):
        losses.observe(1, 6)
        assert is_lossy(losses)
    assert losses.seen_share == pytest.approx(1 / 7, abs=0.02)


def test_what_is_seen_is_what_was_seen_lately() -> None:
    losses = Losses(0.15)
    counted(losses, 1, 99, 50)
    counted(losses, 1, 1, 50)
    for _ in range(1000):
        losses.observe(1, 1)
    for _ in range(120):
        losses.observe(1, 4)
    assert is_lossy(losses)
    assert losses.seen_share == pytest.approx(0.2, abs=0.08)


def test_loss_that_is_as_usual_again_is_over() -> None:
    losses = Losses(0.15)
    counted(losses, 1, 4, 500)
    assert counted(losses, 4, 1, 50) is not None
    turns = 0
    while is_lossy(losses) and turns < 100:
        losses.observe(1, 4)
        turns += 1
    assert turns < 60


def test_loss_can_become_usual() -> None:
    losses = Losses(0.15)
    counted(losses, 1, 99, 50)
    counted(losses, 1, 3, 100)
    losses.accept()
    assert not is_lossy(losses)
    assert losses.usual_share > 0.15
    assert counted(losses, 1, 5, 400) is None


# -- a path ---------------------------------------------------------------------------


class Watched:
    """A path of 20 Mbit/s that is probed every 10 ms."""

    def __init__(self, capacity_bps: int | None = 20 * MBIT, calm: int = 200) -> None:
        self.judge = PathCongestion()
        self.judge.set_capacity_bps(capacity_bps)
        self.turn = 0
        self.pass_by(0.0, calm)

    def next_gap(self, wait_ms: float = 0.0) -> Gap:
        self.turn += 1
        return gap(self.turn, self.turn * EVERY_NS, wait_ms * MS)

    def pass_by(self, wait_ms: float, count: int) -> None:
        for _ in range(count):
            self.judge.observe(self.next_gap(wait_ms))

    def lose(self, count: int) -> None:
        for _ in range(count):
            self.turn += 1
            self.judge.observe(lost_gap(self.turn, self.turn * EVERY_NS))

    def until(self, is_congested: bool, wait_ms: float, most: int = 100_000) -> int:
        """How many probes of a wait it takes until that is told."""
        for count in range(most):
            if self.is_congested() is is_congested:
                return count
            self.pass_by(wait_ms, 1)
        return most

    def is_congested(self) -> bool | None:
        return self.judge.verdict.is_congested


def test_nothing_is_said_before_enough_was_seen() -> None:
    few = Watched(calm=0)
    assert few.judge.verdict == Congestion()
    assert few.until(False, 0.0) == 51
    # Nor of many in a short time.
    judge = PathCongestion()
    for turn in range(400):
        judge.observe(gap(turn, turn * MS))
    assert judge.verdict == Congestion()
    # Nor of few in a long one, nor of a sink that was never heard.
    judge = PathCongestion()
    for turn in range(29):
        judge.observe(gap(turn, turn * 50 * MS))
    assert judge.verdict == Congestion()
    for turn in range(100):
        judge.observe(lost_gap(100 + turn, (100 + turn) * 50 * MS))
    assert judge.verdict == Congestion()


def test_a_standing_queue_is_told_with_its_figures() -> None:
    path = Watched()
    # Twice the slack of 8 ms takes 176 ms, once the window is full.
    assert path.until(True, 16.0) == pytest.approx(20, abs=1)
    verdict = path.judge.verdict
    assert verdict.reason is CongestionReason.DELAY
    assert verdict.detail == "16.0 ms, where 8.0 pass"
    assert path.until(False, 0.0) == 25
    assert path.judge.verdict == Congestion(False)


@pytest.mark.parametrize(
    ("capacity_bps", "slack_ms"),
    [(20 * MBIT, 8.0), (5 * MBIT, 31.9), (MBIT, 60.0), (1000 * MBIT, 2.0), (None, 8.0), (0, 8.0)],
)
def test_the_slack_is_so_many_packets_within_bounds(
    capacity_bps: int | None, slack_ms: float
) -> None:
    path = Watched(capacity_bps)
    assert path.until(True, 0.95 * slack_ms, 1000) == 1000
    path = Watched(capacity_bps)
    assert path.until(True, 1.3 * slack_ms, 1000) < 1000
    assert path.judge.verdict.detail.endswith(f"where {slack_ms:.1f} pass")


def test_patience_has_bounds() -> None:
    # 22 slacks would be 44 ms and 1320.
    assert Watched(1000 * MBIT).until(True, 4.0) == pytest.approx(12, abs=1)
    assert Watched(MBIT).until(True, 120.0) == pytest.approx(42, abs=1)


def test_the_capacity_may_become_known_later() -> None:
    path = Watched(None)
    path.judge.set_capacity_bps(5 * MBIT)
    assert path.until(True, 25.0, 30) == 30
    path.judge.set_capacity_bps(20 * MBIT)
    assert path.until(True, 25.0, 30) < 20


def test_the_least_of_a_window_counts() -> None:
    path = Watched()
    for _ in range(200):
        path.pass_by(40.0, 2)
        path.pass_by(1.0, 1)
    assert path.is_congested() is False
    # However many come in a moment.
    path = Watched()
    for turn in range(200):
        at_ns = (path.turn + 1) * EVERY_NS + turn * 18 * MS
        for small in range(6):
            wait_ms = 1.0 if small == 0 else 40.0
            path.judge.observe(gap(10_000 + turn, at_ns + small * 3 * MS, wait_ms * MS))
    assert path.is_congested() is False


def test_one_probe_speaks_for_little_time() -> None:
    judge = PathCongestion()
    for turn in range(40):
        judge.observe(gap(turn, turn * S))
    told, calm = 0, 0
    for turn in range(40, 80):
        judge.observe(gap(turn, turn * S, 16 * MS))
        told += judge.verdict.is_congested is False
    for turn in range(80, 120):
        judge.observe(gap(turn, turn * S))
        calm += judge.verdict.is_congested is True
    # Two that fill the window, and 176 ms in steps of 50; 250 ms in steps of 25.
    assert told == 5
    assert calm == 9


def test_an_unsteady_path_gets_more_slack() -> None:
    path = Watched(calm=0)
    for turn in range(3000):
        path.pass_by(20.0 * (turn // 7 % 2), 1)
    assert path.is_congested() is False
    assert path.until(True, 22.0, 40) == 40
    path = Watched(calm=3000)
    assert path.until(True, 22.0, 40) < 15


def test_what_is_learned_is_bounded() -> None:
    path = Watched(calm=0)
    for turn in range(6000):
        path.pass_by(150.0 * (turn // 40 % 2), 1)
    assert path.until(True, 150.0, 100) < 100
    assert path.judge.verdict.detail == "150.0 ms, where 60.0 pass"


def test_a_queue_that_is_told_teaches_nothing() -> None:
    path = Watched()
    path.pass_by(4000.0, 300)
    assert path.until(False, 0.0) == 25
    assert path.until(True, 16.0) < 30


def test_a_queue_that_comes_back_is_told() -> None:
    path = Watched()
    path.until(True, 30.0)
    path.pass_by(30.0, 1500)
    assert path.until(False, 0.0) == 25
    assert path.until(True, 30.0) < 15


def test_what_stands_stays_for_minutes_and_not_forever() -> None:
    path = Watched()
    path.until(True, 30.0)
    assert path.until(False, 30.0) == pytest.approx(30_000, abs=2)
    # It is the path now, and what comes on top of it is told.
    assert path.until(True, 30.0, 3000) == 3000
    assert path.until(True, 60.0) < 20


def test_probes_that_are_lost_are_told() -> None:
    path = Watched()
    while path.is_congested() is False:
        path.lose(2)
        path.pass_by(0.0, 2)
    assert path.judge.verdict.reason is CongestionReason.PROBE_LOSS
    assert path.judge.verdict.detail == "50%, where 3% are usual"
    assert 10 <= path.until(False, 0.0) <= 40


def test_silence_is_not_congestion() -> None:
    path = Watched()
    path.lose(1000)
    assert path.is_congested() is False
    path.pass_by(0.0, 100)
    path.lose(1000)
    assert path.is_congested() is False


def test_losses_of_a_queue_are_the_queues() -> None:
    path = Watched()
    path.until(True, 30.0)
    for _ in range(100):
        path.lose(1)
        path.pass_by(30.0, 1)
    sent_then = [lost_gap(path.turn - turn, (path.turn - turn) * EVERY_NS) for turn in range(40)]
    path.until(False, 0.0)
    for one in sent_then:
        path.judge.observe(one)
        path.pass_by(0.0, 1)
    assert path.is_congested() is False


def test_a_queue_is_the_reason_of_losses_before_it() -> None:
    path = Watched()
    while path.is_congested() is False:
        path.lose(1)
        path.pass_by(0.0, 2)
    path.until(True, 30.0)
    for _ in range(40):
        path.pass_by(30.0, 1)
    assert path.judge.verdict.reason is CongestionReason.DELAY
    # Nothing of them is left.
    assert path.until(False, 0.0) == 25


def test_loss_that_stays_becomes_usual() -> None:
    path = Watched()
    count = 0
    while path.is_congested() is not True:
        path.lose(1)
        path.pass_by(0.0, 4)
    while path.is_congested() is not False:
        path.lose(1)
        path.pass_by(0.0, 4)
        count += 5
    assert count * EVERY_NS == pytest.approx(congestion.USUAL_NS, rel=0.01)
    for _ in range(1000):
        path.lose(1)
        path.pass_by(0.0, 4)
    assert path.is_congested() is False


# -- a flow ---------------------------------------------------------------------------


class Sender:
    """A TCP flow whose counters are read every 100 ms; 400 packets a second."""

    def __init__(self, calm: int = 20, *, every_ns: int = 100 * MS) -> None:
        self.judge = FlowCongestion()
        self.now_ns = 7 * S
        self.every_ns = every_ns
        self.counters = FlowCounters(0, 1000, 10, 5, 20 * MS, 20 * MS)
        self.judge.observe(self.counters, now_ns=self.now_ns)
        self.go_on(calm)

    def go_on(
        self, count: int, *, delivered: int = 40, lost: int = 0, marked: int = 0, wait_ms: int = 0
    ) -> None:
        for _ in range(count):
            self.now_ns += self.every_ns
            self.counters = replace(
                self.counters,
                delivered_packets=self.counters.delivered_packets + delivered,
                lost_packets=self.counters.lost_packets + lost,
                delivered_ce_packets=self.counters.delivered_ce_packets + marked,
                rtt_ns=(20 + wait_ms) * MS,
            )
            self.judge.observe(self.counters, now_ns=self.now_ns)

    def is_congested(self) -> bool | None:
        return self.judge.verdict.is_congested

    def until(
        self, is_congested: bool | None, *, delivered: int = 40, lost: int = 0, wait_ms: int = 0
    ) -> int:
        for count in range(1000):
            if self.judge.verdict.is_congested is is_congested:
                return count
            self.go_on(1, delivered=delivered, lost=lost, wait_ms=wait_ms)
        return 1000


def test_a_flow_is_calm_after_some_packets() -> None:
    assert Sender(0).judge.verdict == Congestion()
    flow = Sender(0)
    flow.go_on(1, delivered=19)
    assert flow.judge.verdict == Congestion()
    flow.go_on(1, delivered=1)
    assert flow.judge.verdict == Congestion(False)


def test_udp_is_not_judged() -> None:
    judge = FlowCongestion()
    for turn in range(100):
        judge.observe(FlowCounters(waiting_bytes=9000), now_ns=turn * 100 * MS)
    assert judge.verdict == Congestion()


def test_a_round_trip_that_is_not_known_is_not_judged() -> None:
    judge = FlowCongestion()
    for turn in range(100):
        counters = FlowCounters(0, 100 * turn, rtt_ns=90 * MS)
        judge.observe(counters, now_ns=turn * 100 * MS)
        judge.observe(replace(counters, rtt_ns=None), now_ns=turn * 100 * MS)
    assert judge.verdict == Congestion(False)


def test_a_flow_whose_packets_wait_is_congested() -> None:
    flow = Sender()
    assert flow.until(True, wait_ms=50) == 2
    assert flow.judge.verdict.reason is CongestionReason.FLOW_QUEUE
    assert flow.judge.verdict.detail == "for 50.0 ms"
    assert flow.until(False, wait_ms=20) == 1000
    assert flow.until(False, wait_ms=18) == 5


@pytest.mark.parametrize("wait_ms", [10, 25])
def test_a_short_wait_is_none(wait_ms: int) -> None:
    assert Sender().until(True, wait_ms=wait_ms) == 1000


def test_counters_that_come_late_speak_for_little_time() -> None:
    flow = Sender(every_ns=S)
    # 200 ms each; the patience is as long at twice the slack.
    assert flow.until(True, delivered=400, wait_ms=37) == 3


def test_few_packets_tell_nothing_of_queues() -> None:
    flow = Sender()
    assert flow.until(True, delivered=4, wait_ms=60) == 1000
    # And what was told is dropped some time after the flow has slowed down.
    flow = Sender()
    flow.until(True, wait_ms=60)
    assert flow.until(False, delivered=4, wait_ms=60) == 21


def test_nothing_delivered_tells_nothing() -> None:
    flow = Sender()
    flow.go_on(20, delivered=0, wait_ms=90)
    assert flow.judge.verdict == Congestion(False)
    flow.go_on(1, delivered=0, wait_ms=90)
    assert flow.judge.verdict == Congestion()


def test_a_flow_that_loses_is_congested() -> None:
    flow = Sender()
    assert 1 < flow.until(True, lost=4) <= 6
    assert flow.judge.verdict.reason is CongestionReason.FLOW_LOSS
    assert flow.judge.verdict.detail.endswith("% of them")
    assert not flow.judge.verdict.detail.startswith("0%")
    flow.go_on(30, lost=4)
    assert flow.is_congested()
    # A second after the loss is over.
    assert 10 <= flow.until(False) <= 16


def test_random_loss_is_the_flows_usual_one() -> None:
    flow = Sender()
    for _ in range(300):
        flow.go_on(1, lost=1)
        flow.go_on(1, lost=0)
        assert flow.is_congested() is False


def test_marked_packets_are_congestion() -> None:
    flow = Sender()
    flow.go_on(1, marked=2)
    assert flow.is_congested() is False
    flow.go_on(1, marked=1)
    assert flow.judge.verdict == Congestion(True, CongestionReason.ECN)
    # One in a second goes on with it, none in a second ends it.
    flow.go_on(8)
    flow.go_on(1, marked=1)
    flow.go_on(9)
    assert flow.is_congested()
    flow.go_on(1)
    assert flow.judge.verdict == Congestion(False)
    # Once in a second is nothing.
    for _ in range(20):
        flow.go_on(1, marked=2)
        flow.go_on(10)
        assert flow.is_congested() is False


@pytest.mark.parametrize("name", ["delivered_packets", "lost_packets", "delivered_ce_packets"])
def test_another_socket_begins_anew(name: str) -> None:
    flow = Sender()
    flow.until(True, wait_ms=60)
    flow.counters = replace(flow.counters, **{name: 0})
    flow.go_on(1, delivered=0)
    assert flow.judge.verdict == Congestion()
    flow.go_on(1)
    assert flow.judge.verdict == Congestion(False)

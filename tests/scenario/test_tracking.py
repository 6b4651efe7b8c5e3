"""A path that is tracked in virtual time: first answers, changes, the budget, and the end."""

from __future__ import annotations

import bisect
import functools
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from openqwave.estimate.samples import Gap
from openqwave.lab.links import Cross, CrossKind, DuplexSpec
from openqwave.model.endpoint import Endpoint
from openqwave.model.estimates import Congestion, CongestionReason, Estimate, Estimated
from openqwave.probing import tracking as module
from openqwave.probing.budget import Budget
from openqwave.probing.outcomes import Ended, Failed
from openqwave.probing.progress import CongestionTold, Wish
from openqwave.probing.progress import Estimated as Told
from openqwave.probing.session import (
    Arrival,
    CloseReason,
    CloseStream,
    Effect,
    Event,
    OpenStream,
    SendTrain,
)
from openqwave.probing.sink import Sink, SinkEffect
from openqwave.probing.tempo import WANTED, Effort
from openqwave.probing.tracking import Tracking
from tests.scenario.virtual import MS, Hosts, S, VirtualWorld
from tests.scenario.virtual_paths import MBIT, link, path
from tests.scenario.virtual_sinks import Death, MortalSink, SinkWithoutProbegap

R = 20 * MBIT
WISH = Wish(checks_priority=False)
STEP_NS = 20 * MS
HEADERS_BYTES = 28


class Recorded(Tracking):
    """Remembers what was asked for, with the time."""

    def __init__(self, wish: Wish, budget: Budget, *, random: Callable[[], float]) -> None:
        super().__init__(wish, budget, random=random)
        self.effects: list[tuple[int, Effect]] = []
        # When trains went, and what had gone with each.
        self.times_ns: list[int] = []
        self.sums: list[int] = []

    def effects_to_send(self, *, now_ns: int) -> list[Effect]:
        effects = super().effects_to_send(now_ns=now_ns)
        for effect in effects:
            self.effects.append((now_ns, effect))
            if isinstance(effect, SendTrain):
                size = HEADERS_BYTES * len(effect.payloads) + sum(map(len, effect.payloads))
                self.times_ns.append(now_ns)
                self.sums.append(size + (self.sums[-1] if self.sums else 0))
        return effects

    def trains(self, least_packets: int = 1) -> list[tuple[int, SendTrain]]:
        return [
            (now_ns, effect)
            for now_ns, effect in self.effects
            if isinstance(effect, SendTrain) and len(effect.payloads) >= least_packets
        ]

    def wire_bytes(self, since_ns: int, until_ns: int) -> int:
        """IP packets of UDP, as they go to the path, from the one time to before the other."""
        return self._sent_until(until_ns) - self._sent_until(since_ns)

    def _sent_until(self, time_ns: int) -> int:
        before = bisect.bisect_left(self.times_ns, time_ns)
        return self.sums[before - 1] if before else 0


@dataclass
class Followed:
    """A path that is tracked, in one world.

    Attributes:
        world: Where it runs.
        tracking: The session.
        told: What it said, each with its time, to within `STEP_NS`.
    """

    world: VirtualWorld
    tracking: Recorded
    told: list[tuple[int, Event]] = field(default_factory=list)

    def until(self, time_ns: int) -> None:
        while self.world.now_ns < time_ns:
            self.world.go_on(min(time_ns, self.world.now_ns + STEP_NS))
            self.told += [(self.world.now_ns, event) for event in self.world.events]
            self.world.events.clear()

    def act(self, action: Callable[[], None]) -> None:
        """Do something with the session, now."""
        self.world.at(self.world.now_ns, action)

    def estimates(self, since_ns: int = 0) -> list[tuple[int, Told]]:
        return [
            (now_ns, event)
            for now_ns, event in self.told
            if isinstance(event, Told) and now_ns >= since_ns
        ]

    def ends(self) -> list[Event]:
        return [event for _, event in self.told if isinstance(event, (Failed, Ended))]


def follow(
    spec: DuplexSpec,
    effort: Effort = Effort.ALERT,
    *,
    seed: int = 1,
    sink: Sink | None = None,
    hosts: Hosts | None = None,
    wish: Wish = WISH,
    budget: Budget | None = None,
) -> Followed:
    """Begin to track a path."""
    session = Recorded(wish, budget or Budget(), random=random.Random(seed).random)
    session.set_effort(effort, now_ns=0)
    world = VirtualWorld(session, spec, seed=seed, hosts=hosts or Hosts(), sink=sink)
    world.begin(session)
    return Followed(world, session)


def stated(found: Estimated) -> Estimate:
    assert isinstance(found, Estimate), found
    assert 0 <= found.low <= found.value <= found.high
    return found


def plus(load: float, *others: Cross, rate_bps: int = R) -> DuplexSpec:
    """A link with a steady load, and other traffic that comes and goes."""
    stage = link(rate_bps, load)
    return path(replace(stage, cross=(*stage.cross, *others)))


def flow(rate_bps: int, start_ns: int, stop_ns: int) -> Cross:
    return Cross(CrossKind.CONSTANT, rate_bps, start_ns=start_ns, stop_ns=stop_ns)


# -- first answers --------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.5, 1, 5, 20, 100, 300])
def test_a_first_answer_comes_within_a_second_and_a_better_one_soon(rate: float) -> None:
    rate_bps = round(rate * MBIT)
    followed = follow(path(link(rate_bps, 0.3)))
    followed.until(5 * S)
    (first_ns, first), (second_ns, second) = followed.estimates()[:2]
    assert first_ns <= 1200 * MS
    assert second_ns <= 4500 * MS
    # In half a second a slow link carries few packets of others, and their number varies.
    for told, part in ((first, 0.25), (second, 0.2 if rate < 2 else 0.1)):
        capacity, available = stated(told.report.capacity_bps), stated(told.report.available_bps)
        assert capacity.value == pytest.approx(rate_bps, rel=0.05)
        assert available.value == pytest.approx(0.7 * rate_bps, abs=part * rate_bps)
        assert stated(told.report.rtt_ns).low >= 10 * MS
    assert first.since_ns <= first_ns - 500 * MS
    assert second.since_ns >= first_ns - STEP_NS
    # A burst is one train: full packets, at most 100 kB of them.
    longest = max(len(train.payloads) for _, train in followed.tracking.trains())
    assert longest * 1496 <= 100_000
    assert longest >= (60 if rate == 300 else 3)


def test_it_goes_on_with_an_estimate_a_second() -> None:
    followed = follow(path(link(R, 0.5)))
    followed.until(15 * S)
    later = followed.estimates(since_ns=5 * S)
    assert 9 <= len(later) <= 11
    for _, told in later:
        assert stated(told.report.capacity_bps).value == pytest.approx(R, rel=0.05)
        assert stated(told.report.available_bps).value == pytest.approx(R / 2, abs=0.2 * R)
    sent = [told.sent_bytes for _, told in followed.estimates()]
    assert sent == sorted(sent)
    assert sent[-1] == pytest.approx(followed.tracking.wire_bytes(0, 15 * S), abs=20_000)
    assert followed.tracking.sent_bytes == followed.tracking.wire_bytes(0, 16 * S)


def test_what_an_estimate_rests_on_grows_younger() -> None:
    followed = follow(path(link(R, 0.3)))
    followed.until(40 * S)
    times = [(now_ns, told.since_ns) for now_ns, told in followed.estimates()]
    assert all(since_ns < now_ns for now_ns, since_ns in times)
    assert [since_ns for _, since_ns in times] == sorted(since_ns for _, since_ns in times)
    # Nine trains back to back, one each two seconds.
    assert times[-1][0] - times[-1][1] <= 25 * S


@pytest.mark.parametrize("checks", [True, False])
def test_tags_are_looked_at_once_if_that_is_wished(checks: bool) -> None:
    followed = follow(path(link(R, 0.2)), wish=Wish(checks_priority=checks))
    followed.until(9 * S)
    followed.tracking.measure_afresh(now_ns=followed.world.now_ns)
    followed.until(12 * S)
    found = [told.report.supports_priority is not None for _, told in followed.estimates()]
    # Not in the first answer, and known from the second on, also when it is measured quickly.
    assert found == [False, *[checks] * (len(found) - 1)]
    marked = [train for _, train in followed.tracking.trains() if train.channel.value == "priority"]
    assert bool(marked) is checks


# -- changes --------------------------------------------------------------------------

CHANGE_NS, RELIEF_NS = 8 * S, 14 * S


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_another_load_is_told_within_two_and_a_half_seconds(seed: int) -> None:
    followed = follow(plus(0.1, flow(12 * MBIT, CHANGE_NS, RELIEF_NS)), seed=seed)
    followed.until(18 * S)
    for change_ns, truth in ((CHANGE_NS, 6 * MBIT), (RELIEF_NS, 18 * MBIT)):
        told_ns = next(
            now_ns
            for now_ns, told in followed.estimates(since_ns=change_ns)
            if abs(stated(told.report.available_bps).value - truth) < 0.15 * R
        )
        assert told_ns <= change_ns + 2500 * MS
        # By a measurement, of which all is of the time after the change.
        told = dict(followed.estimates())[told_ns]
        assert told.since_ns >= change_ns


def test_another_capacity_is_told() -> None:
    followed = follow(path(link(R, 0.3)))
    followed.world.at(CHANGE_NS, lambda: followed.world.change(path(link(R // 4, 0.3))))
    followed.until(CHANGE_NS + 6 * S)
    told = followed.estimates()[-1][1]
    assert stated(told.report.capacity_bps).value == pytest.approx(R // 4, rel=0.1)
    assert stated(told.report.available_bps).value == pytest.approx(0.7 * R / 4, abs=0.2 * R / 4)
    # What was sent when the path was faster leaves something to be sent now.
    assert len(followed.tracking.trains()) > 50
    before = followed.tracking.wire_bytes(0, CHANGE_NS + 6 * S)
    followed.until(CHANGE_NS + 20 * S)
    assert followed.tracking.wire_bytes(CHANGE_NS + 6 * S, CHANGE_NS + 20 * S) > 20_000
    assert before < 1_875_000


@pytest.mark.parametrize("seed", [1, 3, 4])
def test_a_busy_path_is_not_congested_by_being_measured(seed: int) -> None:
    followed = follow(path(link(R, 0.85)), seed=seed)
    followed.until(7 * S)
    told = [event.congestion for _, event in followed.told if isinstance(event, CongestionTold)]
    assert [one.is_congested for one in told] == [False]


class Scripted:
    """Stands in for the detector: congested while round trips are long."""

    def __init__(self) -> None:
        self.verdict = Congestion()
        self.capacity_bps: int | None = None

    def observe(self, gap: Gap) -> None:
        if not gap.is_lost:
            is_long = gap.received_ns - gap.sent_ns > 40 * MS
            reason = CongestionReason.DELAY if is_long else None
            self.verdict = Congestion(is_long, reason)

    def set_capacity_bps(self, capacity_bps: int | None) -> None:
        self.capacity_bps = capacity_bps


def test_congestion_is_told_when_it_changes_and_its_end_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PathCongestion", Scripted)
    followed = follow(plus(0.3, flow(18 * MBIT, CHANGE_NS, RELIEF_NS)))
    followed.until(17 * S)
    verdicts = [
        (now_ns, event.congestion.is_congested)
        for now_ns, event in followed.told
        if isinstance(event, CongestionTold)
    ]
    assert verdicts[0][1] is False
    assert verdicts[0][0] < 200 * MS
    assert {found for _, found in verdicts} == {True, False}
    assert all(one[1] is not two[1] for one, two in itertools.pairwise(verdicts))
    relief_ns = verdicts[-1][0]
    assert verdicts[-1][1] is False
    assert relief_ns >= RELIEF_NS
    # While it was congested nothing but the watch's own was sent; then a measurement at once.
    opened = [ns for ns, effect in followed.tracking.effects if isinstance(effect, OpenStream)]
    assert not [ns for ns in opened if CHANGE_NS + S < ns < RELIEF_NS]
    told_ns, told = next(
        (now_ns, told)
        for now_ns, told in followed.estimates(since_ns=relief_ns)
        if told.since_ns >= relief_ns - STEP_NS
    )
    assert told_ns <= relief_ns + S
    assert stated(told.report.available_bps).value == pytest.approx(0.7 * R, abs=0.15 * R)


def open_streams(followed: Followed) -> list[int]:
    """Streams that are still open."""
    effects = [effect for _, effect in followed.tracking.effects]
    closed = {effect.stream for effect in effects if isinstance(effect, CloseStream)}
    opened = [effect.stream for effect in effects if isinstance(effect, OpenStream)]
    return [stream for stream in opened if stream not in closed]


def test_afresh_is_what_was_measured_after_it_was_asked() -> None:
    followed = follow(path(link(R, 0.5)))
    # Beside the thorough measurement, and while the path is watched.
    for asked_ns in (1500 * MS, 9 * S):
        followed.until(asked_ns)
        followed.tracking.measure_afresh(now_ns=asked_ns)
        followed.until(asked_ns + 1200 * MS)
        told = followed.estimates()[-1][1]
        assert told.since_ns >= asked_ns
        assert stated(told.report.available_bps).value == pytest.approx(R / 2, abs=0.2 * R)
        # Nothing but small probes and the measurement's own.
        watching = open_streams(followed)[0]
        until_ns = next(ns for ns, told in followed.estimates() if told.since_ns >= asked_ns)
        assert not [
            train
            for ns, train in followed.tracking.trains(2)
            if train.stream == watching and asked_ns + S // 2 < ns < until_ns - STEP_NS
        ]
    # The thorough one was made after all.
    assert max(ns for ns, train in followed.tracking.trains(8) if train.gap_ns) < 11 * S
    assert [told for _, told in followed.estimates() if told.since_ns >= 2 * S]


def test_who_asks_all_the_time_gets_what_the_budget_allows() -> None:
    followed = follow(path(link(5 * MBIT, 0.3)))
    for second in range(1, 100):
        followed.until(second * S)
        followed.tracking.measure_afresh(now_ns=second * S)
    sent = followed.tracking.wire_bytes(0, 100 * S)
    assert sent < 0.9 * 1_875_000
    # And the watch has kept a pace.
    probes = [ns for ns, train in followed.tracking.trains() if len(train.payloads) == 1]
    assert len([ns for ns in probes if ns > 90 * S]) > 100


# -- effort and budget ----------------------------------------------------------------


def test_effort_sets_the_pace() -> None:
    followed = follow(path(link(R, 0.3)), Effort.LIGHT)
    followed.until(30 * S)
    followed.tracking.set_effort(Effort.ALERT, now_ns=30 * S)
    followed.until(50 * S)
    followed.tracking.set_effort(Effort.LIGHT, now_ns=50 * S)
    followed.until(70 * S)
    for since_s, until_s, effort in ((5, 30, Effort.LIGHT), (31, 50, Effort.ALERT), (51, 70, None)):
        tempo = WANTED[effort or Effort.LIGHT]
        seconds = until_s - since_s
        sent = [
            len(train.payloads)
            for ns, train in followed.tracking.trains()
            if since_s * S <= ns < until_s * S
        ]
        assert sent.count(1) == pytest.approx(tempo.probes * seconds, rel=0.2)
        long = [packets for packets in sent if packets > 1]
        assert set(long) == {8}
        assert len(long) == pytest.approx(seconds * S / tempo.train_ns, abs=1.5)
        reports = [ns for ns, _ in followed.estimates() if since_s * S <= ns < until_s * S]
        assert len(reports) == pytest.approx(seconds * S / tempo.report_ns, abs=1.5)


def coming_and_going(rate_bps: int, until_ns: int) -> DuplexSpec:
    """Six tenths more load each other ten seconds."""
    starts = range(5 * S, until_ns, 20 * S)
    others = [flow(round(0.6 * rate_bps), start_ns, start_ns + 10 * S) for start_ns in starts]
    return plus(0.2, *others, rate_bps=rate_bps)


@functools.cache
def for_a_while(
    rate_bps: int, effort: Effort, changes: bool, seconds: int, window_s: int
) -> Followed:
    """Track a path for so long; looked at by more than one test."""
    spec = coming_and_going(rate_bps, seconds * S) if changes else path(link(rate_bps))
    followed = follow(spec, effort, budget=Budget(window_ns=window_s * S))
    followed.until(seconds * S)
    return followed


# Five minutes of a fast link are much work: there the window is shorter, and so is everything.
@pytest.mark.parametrize(
    ("rate", "effort", "changes", "seconds", "window_s"),
    [
        (0.5, Effort.ALERT, False, 320, 300),
        (1, Effort.LIGHT, False, 320, 300),
        (1, Effort.ALERT, True, 400, 300),
        (5, Effort.LIGHT, False, 60, 30),
        (5, Effort.ALERT, True, 300, 300),
        (20, Effort.ALERT, True, 300, 300),
        (20, Effort.LIGHT, False, 60, 30),
        (20, Effort.ALERT, False, 60, 30),
        (100, Effort.ALERT, True, 30, 15),
        (300, Effort.ALERT, True, 30, 15),
    ],
)
def test_a_window_costs_a_hundredth_at_most(
    rate: float, effort: Effort, changes: bool, seconds: int, window_s: int
) -> None:
    rate_bps = round(rate * MBIT)
    end_ns = seconds * S
    followed = for_a_while(rate_bps, effort, changes, seconds, window_s)
    allowed = min(rate_bps // 100, MBIT) * window_s // 8
    for until_ns in range(S, end_ns + 1, S):
        sent = followed.tracking.wire_bytes(until_ns - window_s * S, until_ns)
        assert sent <= allowed, until_ns
    # Nor does it stop.
    assert followed.tracking.trains()[-1][0] > end_ns - 10 * S
    assert max(len(train.payloads) for _, train in followed.tracking.trains()) * 1496 <= 100_000


def test_loads_that_come_and_go_are_followed_all_the_time() -> None:
    followed = for_a_while(R, Effort.ALERT, True, 300, 300)
    right = []
    for now_ns, told in followed.estimates(since_ns=9 * S):
        phase_ns = (now_ns - 5 * S) % (10 * S)
        if phase_ns > 3 * S:
            truth = (0.2 if (now_ns - 5 * S) % (20 * S) < 10 * S else 0.8) * R
            right.append(abs(stated(told.report.available_bps).value - truth) < 0.2 * R)
    assert len(right) > 150
    assert sum(right) >= 0.9 * len(right)


# -- what comes late, and the end -----------------------------------------------------


def test_what_comes_late_for_a_session_that_is_over_is_ignored() -> None:
    followed = follow(path(link(R, 0.3)))
    followed.until(S)
    tracking, now_ns = followed.tracking, followed.world.now_ns
    # The first measurement is over: here are its keys, its trains and its probes.
    streams = [effect.stream for _, effect in tracking.effects if isinstance(effect, OpenStream)]
    trains = [train for _, train in tracking.trains() if train.stream < 2 * module.KEYS]
    assert len(streams) == len(set(streams)) == 3
    numbers = [train.number for _, train in tracking.trains() if len(train.payloads) == 1]
    assert len(numbers) == len(set(numbers))
    tracking.receive_connected(streams[0], 40_000, now_ns=now_ns)
    tracking.receive_stream(streams[0], b"\x00" * 40, now_ns=now_ns)
    tracking.receive_closed(streams[0], CloseReason.BROKEN, now_ns=now_ns)
    for train in trains[-3:]:
        tracking.receive_sent(train, (1,) * len(train.payloads), now_ns=now_ns)
        tracking.receive_unsent(train, 0, "late", now_ns=now_ns)
    probe = next(train for train in reversed(trains) if len(train.payloads) == 1)
    tracking.receive_datagram(probe.payloads[0], Arrival(now_ns), now_ns=now_ns)
    assert tracking.next_event() is None
    followed.until(8 * S)
    assert followed.ends() == []
    told = followed.estimates()[-1][1]
    assert stated(told.report.available_bps).value == pytest.approx(0.7 * R, abs=0.15 * R)


def test_nobody_at_the_other_end_is_a_failure() -> None:
    followed = follow(path(link(R)), sink=MortalSink(0, Death.SILENT))
    followed.until(10 * S)
    assert [type(event) for _, event in followed.told] == [Failed]
    assert followed.tracking.next_timer_ns() is None


@pytest.mark.parametrize("how", list(Death))
@pytest.mark.parametrize("dies_ns", [2 * S, 8 * S])
def test_a_sink_that_goes_away_is_a_failure(how: Death, dies_ns: int) -> None:
    followed = follow(path(link(R, 0.3)), sink=MortalSink(dies_ns, how))
    followed.until(dies_ns + 15 * S)
    (end,) = followed.ends()
    assert isinstance(end, Failed)
    assert followed.told[-1][1] is end
    assert followed.tracking.next_timer_ns() is None
    assert followed.tracking.effects_to_send(now_ns=followed.world.now_ns) == []
    assert followed.world.session.next_event() is None


class Rebooted(Sink):
    """Forgets its connections at a time without a word, and answers as ever."""

    def __init__(self, reboots_ns: int) -> None:
        super().__init__()
        self._reboots_ns = reboots_ns
        self._known: set[int] = set()

    def receive_connection(
        self, connection: int, peer: Endpoint, interface_speed_bps: int = 0, *, now_ns: int
    ) -> None:
        self._known.add(connection)
        super().receive_connection(connection, peer, interface_speed_bps, now_ns=now_ns)

    def receive_stream(self, connection: int, data: bytes, *, now_ns: int) -> None:
        if connection in self._known:
            super().receive_stream(connection, data, now_ns=now_ns)

    def receive_closed(self, connection: int, *, now_ns: int) -> None:
        if connection in self._known:
            super().receive_closed(connection, now_ns=now_ns)

    def effects_to_send(self, *, now_ns: int) -> list[SinkEffect]:
        if now_ns >= self._reboots_ns:
            self._reboots_ns = 1 << 62
            for connection in sorted(self._known):
                super().receive_closed(connection, now_ns=now_ns)
            self._known.clear()
        return super().effects_to_send(now_ns=now_ns)


class Unwilling(Sink):
    """Has no time for another session for a while; those that it has go on."""

    def __init__(self, since_ns: int, until_ns: int) -> None:
        super().__init__()
        self._busy_ns = range(since_ns, until_ns)
        self._refused: set[int] = set()

    def receive_connection(
        self, connection: int, peer: Endpoint, interface_speed_bps: int = 0, *, now_ns: int
    ) -> None:
        if now_ns in self._busy_ns:
            self._refused.add(connection)
        else:
            super().receive_connection(connection, peer, interface_speed_bps, now_ns=now_ns)

    def receive_stream(self, connection: int, data: bytes, *, now_ns: int) -> None:
        if connection not in self._refused:
            super().receive_stream(connection, data, now_ns=now_ns)

    def receive_closed(self, connection: int, *, now_ns: int) -> None:
        if connection not in self._refused:
            super().receive_closed(connection, now_ns=now_ns)


def test_a_measurement_that_fails_beside_a_watch_is_made_again() -> None:
    followed = follow(path(link(R, 0.3)), sink=Unwilling(6 * S, 9 * S))
    followed.until(6500 * MS)
    followed.tracking.measure_afresh(now_ns=6500 * MS)
    followed.until(15 * S)
    assert followed.ends() == []
    told_ns, told = next(
        (now_ns, told) for now_ns, told in followed.estimates() if told.since_ns >= 6500 * MS
    )
    assert told_ns > 9 * S
    assert told.since_ns > 8500 * MS
    # It did not ask all the time.
    opened = [ns for ns, effect in followed.tracking.effects if isinstance(effect, OpenStream)]
    assert len([ns for ns in opened if ns > 6 * S]) <= 4


def test_a_sink_that_has_begun_anew_is_found_again() -> None:
    followed = follow(path(link(R, 0.3)), sink=Rebooted(6 * S))
    followed.until(20 * S)
    assert followed.ends() == []
    # Trains are reported again, so the estimates rest on them.
    told = followed.estimates()[-1][1]
    assert told.since_ns > 7 * S
    followed.until(60 * S)
    assert followed.estimates()[-1][1].since_ns > 30 * S


def test_it_is_closed_in_order_beside_a_measurement_and_a_watch() -> None:
    for close_ns in (300 * MS, 2 * S, 7 * S):
        followed = follow(path(link(R, 0.3)))
        followed.until(close_ns)
        followed.act(followed.tracking.close)
        followed.until(close_ns + S)
        assert followed.ends() == [Ended(0)]
        assert isinstance(followed.told[-1][1], Ended)
        assert followed.tracking.next_timer_ns() is None
        assert followed.world.sink.counts.open_sessions == 0
        assert followed.tracking.trains()[-1][0] <= close_ns


def test_a_sink_that_answers_no_small_probe_is_tracked_by_trains_until_it_is_looked_for() -> None:
    followed = follow(path(link(R, 0.3)), sink=SinkWithoutProbegap())
    followed.until(12 * S)
    # Its connection can be made, so it is there.
    assert followed.ends() == []
    assert stated(followed.estimates()[-1][1].report.capacity_bps).value == pytest.approx(
        R, rel=0.05
    )


def test_a_clock_that_is_set_changes_nothing() -> None:
    hosts = Hosts(drift_ppm=-80, step_at_ns=9 * S, step_ns=300 * MS)
    followed = follow(path(link(R, 0.5)), hosts=hosts)
    followed.until(15 * S)
    for _, told in followed.estimates():
        assert stated(told.report.available_bps).value == pytest.approx(R / 2, abs=0.2 * R)


def test_the_same_seed_gives_the_same() -> None:
    told = []
    for _ in range(2):
        followed = follow(plus(0.1, flow(12 * MBIT, 6 * S, 9 * S)), seed=5)
        followed.until(10 * S)
        told.append(followed.told)
    assert told[0] == told[1]

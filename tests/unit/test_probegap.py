"""Probegap's initiator, in virtual time. Sections are those of [MS-QLPB]."""

from __future__ import annotations

import itertools
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from openqwave.estimate.samples import Gap
from openqwave.model.errors import InvalidParameter
from openqwave.probing.gaps import LossTimer
from openqwave.probing.outcomes import Ended, Failed, Failure
from openqwave.probing.pace import AT_ONCE, MAX_PER_SECOND, MIN_PER_SECOND
from openqwave.probing.probegap import (
    TRANSITIONS,
    Discount,
    GapLost,
    GapReturned,
    ProbegapInitiator,
    Spacing,
    State,
    Step,
)
from openqwave.probing.session import Channel, SendTrain, Session
from openqwave.wire.qlpb import (
    TICK_NS,
    PacketPairProbe,
    ProbegapProbe,
    decode_datagram,
    encode_datagram,
)
from tests.unit.driven_session import (
    MS,
    REAL_NS,
    START_NS,
    STREAM,
    US,
    DrivenSession,
    S,
    Sink,
    random,
)

AT_SINK_NS = 20 * US


class Gaps:
    """An initiator with its driver."""

    def __init__(self, *, sink: Sink | None = None, version: int = 4, seed: int = 7) -> None:
        self.session = ProbegapInitiator(STREAM, version, random=Random(seed).random)
        self.sink = sink or Sink()
        self.driven = DrivenSession(self.session, self.sink)

    def start(self, *, for_ns: int = 100 * MS) -> DrivenSession:
        self.driven.start(for_ns=for_ns)
        return self.driven

    def one(self) -> tuple[SendTrain, ProbegapProbe]:
        """Send one probe and no more, to a sink that says nothing."""
        self.sink.loses = lambda _: True
        self.driven.stamps_after_ns = None
        self.driven.start()
        self.session.stop()
        ((_, train),) = self.driven.trains
        probe = decode_datagram(train.payloads[0])
        assert isinstance(probe, ProbegapProbe)
        return train, probe

    @property
    def intervals(self) -> list[int]:
        return [later - sooner for sooner, later in itertools.pairwise(self.driven.sent_at)]


def test_it_has_the_face_of_a_session() -> None:
    session: Session = ProbegapInitiator(STREAM, 4, random=random())
    assert session.next_timer_ns() is None
    assert session.effects_to_send(now_ns=START_NS) == []


# -- what is sent ---------------------------------------------------------------------


def test_a_probe_a_millisecond_the_first_at_once() -> None:
    # 3.1.4.3, 3.1.2.3: a recurring timer of 1 ms that starts at once.
    driven = Gaps().start(for_ns=10 * MS)
    assert driven.sent_at == [i * MS for i in range(11)]
    assert driven.opened == []


def test_a_probe_is_32_bytes_with_the_time_of_the_schedule() -> None:
    # 3.1.6.5, 2.2.2.6: the expected time in units of 100 ns, no sink stamps, no filler.
    gaps = Gaps()
    gaps.session.set_rate(1_000, now_ns=START_NS)
    driven = gaps.start(for_ns=2 * MS)
    ticks = [(START_NS + i * MS) // TICK_NS for i in range(3)]
    assert driven.probes == [ProbegapProbe(1 + i, ticks[i]) for i in range(3)]
    assert {len(train.payloads[0]) for _, train in driven.trains} == {32}
    assert {train.channel for _, train in driven.trains} == {Channel.GAP}
    assert {len(train.payloads) for _, train in driven.trains} == {1}


def test_a_late_probe_carries_the_time_it_was_due() -> None:
    gaps = Gaps()
    driven = gaps.start()
    driven.now_ns += 1_300 * US
    driven.settle()
    assert driven.sent_at[-1] == 101_300 * US
    last = driven.probes[-1]
    assert isinstance(last, ProbegapProbe)
    assert last.initiator_sent_ticks == (START_NS + 101 * MS) // TICK_NS


@pytest.mark.parametrize("per_second", [10, 50, 2_000])
def test_the_pace_can_be_set_before(per_second: int) -> None:
    gaps = Gaps()
    gaps.session.set_rate(per_second, now_ns=START_NS)
    gaps.start(for_ns=1 * S)
    assert set(gaps.intervals) == {1 * S // per_second}


def test_the_pace_can_be_changed() -> None:
    gaps = Gaps()
    driven = gaps.start(for_ns=100 * MS)
    gaps.session.set_rate(10, now_ns=driven.now_ns)
    driven.run(1 * S)
    # The probe that was due next comes when it was due.
    assert gaps.intervals[100:] == [1 * MS, *[100 * MS] * 9]
    gaps.session.set_rate(2_000, now_ns=driven.now_ns)
    driven.run(2 * MS)
    assert driven.sent_at[-4:] == [1_100 * MS + i * 500 * US for i in range(1, 5)]


def test_setting_the_pace_all_the_time_does_not_stop_the_probes() -> None:
    gaps = Gaps()
    gaps.session.set_rate(10, now_ns=START_NS)
    driven = gaps.start(for_ns=0)
    for _ in range(1_000):
        gaps.session.set_rate(10, now_ns=driven.now_ns)
        driven.run(1 * MS)
    assert gaps.intervals == [100 * MS] * 10


@pytest.mark.parametrize("per_second", [MIN_PER_SECOND - 1, MAX_PER_SECOND + 1, 0, -1])
def test_other_paces_are_refused(per_second: int) -> None:
    with pytest.raises(InvalidParameter):
        Gaps().session.set_rate(per_second, now_ns=START_NS)


def test_intervals_can_be_exponential() -> None:
    gaps = Gaps()
    gaps.session.set_rate(200, Spacing.POISSON, now_ns=START_NS)
    gaps.start(for_ns=50 * S)
    intervals = gaps.intervals
    mean_ns = sum(intervals) / len(intervals)
    assert mean_ns == pytest.approx(5 * MS, rel=0.05)
    # An exponential distribution: of its mean, e^-1 of all are longer, e^-3 three times.
    for means, share in [(0.5, 0.6065), (1, 0.3679), (3, 0.0498)]:
        longer = sum(interval > means * 5 * MS for interval in intervals)
        assert longer / len(intervals) == pytest.approx(share, abs=0.02)


def test_exponential_intervals_are_cut_at_ten_means() -> None:
    almost_one = 1 - 2**-53
    session = ProbegapInitiator(STREAM, 4, random=lambda: almost_one)
    session.set_rate(100, Spacing.POISSON, now_ns=START_NS)
    driven = DrivenSession(session, Sink())
    driven.start(for_ns=1 * S)
    assert driven.sent_at == [i * 100 * MS for i in range(11)]


def test_exponential_intervals_are_never_nothing() -> None:
    session = ProbegapInitiator(STREAM, 4, random=lambda: 0.0)
    session.set_rate(100, Spacing.POISSON, now_ns=START_NS)
    driven = DrivenSession(session, Sink())
    driven.start()
    assert len(driven.trains) <= AT_ONCE


def test_a_late_driver_sends_no_burst() -> None:
    gaps = Gaps()
    driven = gaps.start(for_ns=10 * MS)
    sent = len(driven.trains)
    driven.now_ns += 500 * MS
    driven.settle()
    assert len(driven.trains) == sent + AT_ONCE
    assert gaps.session.counts[Discount.SKIPPED] == 500 - AT_ONCE
    driven.settle()
    driven.run(5 * MS)
    assert driven.sent_at[-5:] == [510 * MS + i * MS for i in range(1, 6)]


# -- what comes back ------------------------------------------------------------------


@pytest.mark.parametrize(("version", "packet_bytes"), [(4, 60), (6, 80)])
def test_a_probe_that_comes_back_is_a_sample(version: int, packet_bytes: int) -> None:
    gaps = Gaps(version=version)
    gaps.driven.start()
    gaps.session.stop()
    gaps.driven.run(10 * MS)
    sink = gaps.sink
    received_ns = START_NS + sink.clock_ns + sink.delay_ns
    assert gaps.driven.only(GapReturned).gap == Gap(
        sequence=1,
        packet_bytes=packet_bytes,
        sent_ns=REAL_NS + START_NS,
        sink_received_ns=received_ns,
        sink_sent_ns=received_ns + AT_SINK_NS,
        received_ns=REAL_NS + START_NS + sink.round_trip_ns + AT_SINK_NS,
    )


def test_the_true_time_is_the_kernels() -> None:
    # Not the one in the probe.
    gaps = Gaps()
    train, probe = gaps.one()
    stamp_ns = REAL_NS + START_NS + 40 * US
    gaps.session.receive_sent(train, (stamp_ns,), now_ns=START_NS + 50 * US)
    gaps.driven.now_ns += 1 * MS
    gaps.driven.reply(encode_datagram(gaps.sink.stamped(probe, 10_000, 10_001)))
    gaps.driven.settle()
    assert gaps.driven.only(GapReturned).gap.sent_ns == stamp_ns


def test_the_stamp_may_come_after_the_reply() -> None:
    gaps = Gaps()
    gaps.driven.stamps_after_ns = 50 * MS
    driven = gaps.start(for_ns=100 * MS)
    returned = driven.of(GapReturned)
    assert [event.gap.sequence for event in returned] == list(range(1, 52))
    assert {event.gap.received_ns - event.gap.sent_ns for event in returned} == {
        gaps.sink.round_trip_ns + AT_SINK_NS
    }


def test_replies_may_be_reordered() -> None:
    class Shuffling(Sink):
        def return_gap(self, driven: DrivenSession, probe: ProbegapProbe) -> None:
            self.delay_ns = (1 + probe.sequence * 7 % 5) * MS
            super().return_gap(driven, probe)

    driven = Gaps(sink=Shuffling()).start(for_ns=200 * MS)
    sequences = [event.gap.sequence for event in driven.of(GapReturned)]
    assert sequences != sorted(sequences)
    assert len(set(sequences)) == len(sequences) > 180


# -- what does not come back ----------------------------------------------------------


def lost_after(gaps: Gaps) -> int:
    """How long a probe is waited for, once the path is known."""
    driven = gaps.start(for_ns=5 * S)
    gaps.sink.loses = lambda _: True
    last = driven.trains[-1][0]
    gaps.session.stop()
    driven.run(10 * S)
    (*_, lost) = driven.of(GapLost)
    assert lost.gap.sequence == driven.probes[-1].sequence
    return next(time_ns for time_ns, event in driven.events if event is lost) - last


def test_the_first_probe_is_given_a_second() -> None:
    gaps = Gaps()
    gaps.sink.loses = lambda _: True
    driven = gaps.start(for_ns=1_500 * MS)
    lost = driven.of(GapLost)[0]
    assert lost.gap == Gap(1, 60, REAL_NS + START_NS)
    assert lost.gap.is_lost
    assert next(t for t, event in driven.events if event is lost) == START_NS + 1 * S


def test_a_lost_probe_does_not_shift_the_others() -> None:
    # 3.1.5.4 falls behind with every loss; here results go by their number.
    gaps = Gaps()
    gaps.sink.loses = lambda sequence: sequence % 10 == 0
    driven = gaps.start(for_ns=1 * S)
    returned = [event.gap.sequence for event in driven.of(GapReturned)]
    lost = [event.gap.sequence for event in driven.of(GapLost)]
    assert all(sequence % 10 for sequence in returned)
    assert len(returned) > 890
    assert lost == list(range(10, 10 * len(lost) + 1, 10))
    assert len(lost) > 70


def test_on_a_fast_path_loss_shows_after_200_ms() -> None:
    gaps = Gaps()
    gaps.sink.loses = lambda sequence: sequence > 5_000
    assert lost_after(gaps) == 200 * MS


def test_on_a_slow_path_loss_shows_after_four_round_trips() -> None:
    gaps = Gaps()
    gaps.sink.delay_ns = 100 * MS
    gaps.sink.loses = lambda sequence: sequence > 4_700
    assert lost_after(gaps) == 4 * (200 * MS + AT_SINK_NS)


def test_the_wait_is_bounded() -> None:
    gaps = Gaps()
    gaps.sink.delay_ns = 400 * MS
    gaps.sink.loses = lambda sequence: sequence > 4_000
    assert lost_after(gaps) == 2 * S


def test_a_path_that_becomes_slow_is_not_dead() -> None:
    gaps = Gaps()
    driven = gaps.start(for_ns=1 * S)
    gaps.sink.delay_ns = 400 * MS
    driven.run(2 * S)
    assert gaps.session.counts[Discount.LATE] > 100
    before = len(driven.of(GapReturned))
    lost = len(driven.of(GapLost))
    driven.run(2 * S)
    # All is waited for again.
    assert len(driven.of(GapReturned)) - before == 2_000
    assert len(driven.of(GapLost)) == lost


def test_a_probe_without_a_stamp_is_no_sample() -> None:
    gaps = Gaps()
    gaps.driven.stamps_after_ns = None
    driven = gaps.start(for_ns=1_500 * MS)
    assert driven.events == []
    assert gaps.session.counts[Discount.UNSTAMPED] == 501


def test_a_probe_that_cannot_be_sent_ends_the_session() -> None:
    # 3.1.6.5.
    gaps = Gaps()
    driven = gaps.start()
    driven.refuses = lambda _: (0, "network is down")
    driven.run(10 * MS)
    failed = driven.only(Failed)
    assert failed.reason is Failure.UNSENT
    assert "network is down" in failed.detail
    sent = len(driven.trains)
    driven.run(1 * S)
    assert len(driven.trains) == sent


def test_the_wait_follows_the_smoothed_round_trip() -> None:
    # RFC 6298 section 2.3: an eighth of what is new.
    timer = LossTimer()
    timer.learn(100 * MS)
    assert timer.wait_ns == 400 * MS
    timer.learn(180 * MS)
    assert timer.wait_ns == 440 * MS
    timer.learn(30 * MS)
    assert timer.wait_ns == 400 * MS


def test_a_driver_that_forgets_the_time_loses_the_oldest() -> None:
    # Without its timer the ring would overflow.
    gaps = Gaps()
    gaps.sink.loses = lambda _: True
    gaps.session.set_rate(2_000, now_ns=START_NS)
    gaps.session.start(now_ns=START_NS)
    driven = gaps.driven
    for i in range(4_097):
        driven.now_ns = START_NS + i * 500 * US
        driven.settle()
        driven.report_sent(driven.trains[-1][1], [driven.now_ns])
    assert driven.only(GapLost).gap.sequence == 1


def test_numbers_pass_32_bits() -> None:
    first = (1 << 32) - 50
    session = ProbegapInitiator(STREAM, 4, random=random(), first_sequence=first)
    driven = DrivenSession(session, Sink())
    driven.start(for_ns=100 * MS)
    sent = [probe.sequence for probe in driven.probes if isinstance(probe, ProbegapProbe)]
    assert sent == [*range(first, 1 << 32), *range(51)]
    returned = [event.gap.sequence for event in driven.of(GapReturned)]
    assert returned == list(range(first, first + 98))
    assert session.counts == {}


# -- what is wrong --------------------------------------------------------------------


def honest(gaps: Gaps) -> tuple[SendTrain, ProbegapProbe]:
    """A probe that left, and its honest reply 1 ms later, before it is delivered."""
    train, probe = gaps.one()
    gaps.session.receive_sent(train, (REAL_NS + START_NS,), now_ns=START_NS)
    gaps.driven.now_ns += 1 * MS
    return train, gaps.sink.stamped(probe, 50_000, 50_000 + 2_000)


def told(gaps: Gaps, reply: ProbegapProbe | bytes, *, stamp_ns: int | None = None) -> None:
    data = reply if isinstance(reply, bytes) else encode_datagram(reply)
    gaps.driven.reply(data, stamp_ns=stamp_ns)
    gaps.driven.settle()


def assert_refused(gaps: Gaps, reply: ProbegapProbe, reason: Discount) -> None:
    """Nothing but a count came of it, and the honest reply still counts."""
    assert gaps.driven.events == []
    assert gaps.session.counts == {reason: 1}
    told(gaps, reply)
    assert len(gaps.driven.of(GapReturned)) == 1


CHANGES: dict[str, tuple[dict[str, Any], Discount]] = {
    "another number": ({"sequence": 2}, Discount.UNKNOWN),
    "a number of the same place in the ring": ({"sequence": 1 + 4_096}, Discount.UNKNOWN),
    "another time": ({"initiator_sent_ticks": 1}, Discount.ALTERED),
    "filler": ({"filler": b"x"}, Discount.ALTERED),
    "sent before received": ({"sink_sent_ticks": 50_000 - 1}, Discount.IMPLAUSIBLE),
    "no stamps": ({"sink_received_ticks": 0, "sink_sent_ticks": 0}, Discount.IMPLAUSIBLE),
    "longer at the sink than away": (
        {"sink_sent_ticks": 50_000 + 10_100},
        Discount.IMPLAUSIBLE,
    ),
    "absurd": ({"sink_sent_ticks": (1 << 64) - 1}, Discount.IMPLAUSIBLE),
    "not returned": ({"is_returned": False}, Discount.NOT_RETURNED),
}


@pytest.mark.parametrize(("change", "reason"), CHANGES.values(), ids=list(CHANGES))
def test_a_wrong_reply_is_counted(change: dict[str, Any], reason: Discount) -> None:
    # 3.1.5.4 fails the request; anybody on the link could end it then.
    gaps = Gaps()
    _, reply = honest(gaps)
    told(gaps, replace(reply, **change))
    assert_refused(gaps, reply, reason)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Discount.MALFORMED),
        (b"\x06\x00\x00\x02", Discount.MALFORMED),
        (b"\x06\x00\x00\x01" + bytes(28), Discount.MALFORMED),
        (b"\xff" * 40, Discount.MALFORMED),
        (encode_datagram(PacketPairProbe(1, 2, 3)), Discount.NOT_RETURNED),
    ],
)
def test_garbage_is_counted(data: bytes, reason: Discount) -> None:
    gaps = Gaps()
    _, reply = honest(gaps)
    told(gaps, data)
    assert_refused(gaps, reply, reason)


@pytest.mark.parametrize("stamp_ns", [-1, 2 * MS + 2 * US, 3_600 * S], ids=["back", "bit", "hour"])
def test_a_step_of_this_hosts_clock_is_no_sample(stamp_ns: int) -> None:
    gaps = Gaps()
    _, reply = honest(gaps)
    told(gaps, replace(reply, sink_sent_ticks=50_000), stamp_ns=REAL_NS + START_NS + stamp_ns)
    assert_refused(gaps, reply, Discount.IMPLAUSIBLE)


def test_replies_count_once() -> None:
    class Twice(Sink):
        def return_gap(self, driven: DrivenSession, probe: ProbegapProbe) -> None:
            super().return_gap(driven, probe)
            super().return_gap(driven, probe)

    gaps = Gaps(sink=Twice())
    driven = gaps.start(for_ns=100 * MS)
    returned = driven.of(GapReturned)
    assert len({event.gap.sequence for event in returned}) == len(returned) == 98
    assert gaps.session.counts == {Discount.REPEATED: 98}


def test_a_tick_and_a_drift_are_forgiven() -> None:
    # The sink's stamps have 100 ns; its clock may be a little fast.
    gaps = Gaps()
    _, reply = honest(gaps)
    told(gaps, replace(reply, sink_sent_ticks=50_000 + 10_000 + 2))
    assert len(gaps.driven.of(GapReturned)) == 1


# -- the end --------------------------------------------------------------------------


def test_stopping_waits_for_what_is_under_way() -> None:
    gaps = Gaps()
    gaps.sink.delay_ns = 20 * MS
    driven = gaps.start(for_ns=100 * MS)
    gaps.session.stop()
    driven.settle()
    assert driven.of(Ended) == []
    driven.run(1 * S)
    assert driven.sent_at[-1] == 100 * MS
    assert len(driven.of(GapReturned)) == 101
    assert driven.events[-1][1] == Ended(STREAM)
    assert driven.session.next_timer_ns() is None


def test_stopping_does_not_wait_for_ever() -> None:
    gaps = Gaps()
    gaps.sink.loses = lambda _: True
    driven = gaps.start(for_ns=0)
    gaps.session.stop()
    driven.run(10 * S)
    assert [type(event) for _, event in driven.events] == [GapLost, Ended]
    assert driven.time_of(Ended) == 1 * S


def test_after_the_end_stamps_complete_nothing() -> None:
    gaps = Gaps()
    gaps.driven.stamps_after_ns = 50 * MS
    gaps.driven.after(30 * MS, gaps.session.close)
    assert [event for _, event in gaps.start().events] == [Ended(STREAM)]


def test_the_first_stamp_of_a_probe_stands() -> None:
    gaps = Gaps()
    train, reply = honest(gaps)
    gaps.session.receive_sent(train, (REAL_NS + START_NS + 1,), now_ns=START_NS)
    told(gaps, reply)
    assert gaps.driven.only(GapReturned).gap.sent_ns == REAL_NS + START_NS


@pytest.mark.parametrize("is_started", [False, True])
def test_closing_ends_at_once(is_started: bool) -> None:
    gaps = Gaps()
    gaps.sink.loses = lambda _: True
    if is_started:
        gaps.start()
    gaps.session.close()
    gaps.session.close()
    gaps.session.stop()
    gaps.driven.settle()
    assert [event for _, event in gaps.driven.events] == [Ended(STREAM)]
    gaps.driven.reply(b"late")
    gaps.driven.run(5 * S)
    assert len(gaps.driven.events) == 1
    assert gaps.session.counts == {}
    assert gaps.session.state is State.OVER


def test_stopping_before_the_start_ends_it() -> None:
    gaps = Gaps()
    gaps.session.stop()
    gaps.driven.settle()
    assert gaps.driven.only(Ended) == Ended(STREAM)


def test_a_session_starts_once() -> None:
    gaps = Gaps()
    gaps.start()
    with pytest.raises(InvalidParameter):
        gaps.session.start(now_ns=START_NS)


def test_a_probe_has_one_stamp() -> None:
    gaps = Gaps()
    train, _ = gaps.one()
    with pytest.raises(InvalidParameter):
        gaps.session.receive_sent(train, (1, 2), now_ns=START_NS)


def test_transitions_are_complete() -> None:
    assert {state for state, step in TRANSITIONS if step is Step.ENDED} == set(State) - {State.OVER}
    assert not any(state is State.OVER for state, _ in TRANSITIONS)
    assert set(TRANSITIONS.values()) == set(State) - {State.NEW}

"""Sinks that mean ill: the initiators neither fail nor hang nor grow, and say what they saw.

What a session keeps is weighed from outside: every object that can be reached from it, in bytes.
"""

from __future__ import annotations

import enum
import gc
import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from random import Random
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

import pytest

from openqwave.probing.outcomes import Ended, Failed, Failure
from openqwave.probing.packet_pair import (
    OPEN,
    PAGE,
    PacketPairInitiator,
    PairLimits,
    Stray,
    TrainFate,
    TrainLost,
    TrainMeasured,
    TrainPlan,
)
from openqwave.probing.probegap import Discount, GapLost, GapReturned, ProbegapInitiator
from openqwave.probing.route_check import RouteChecked, RouteCheckInitiator
from openqwave.probing.session import Session
from openqwave.wire.qlpb import (
    HandshakeSuccess,
    Observation,
    PacketPairSummary,
    ProbegapProbe,
    RouteCheckSummary,
    encode_datagram,
    encode_stream,
)
from tests.unit.driven_session import MS, START_NS, STREAM, DrivenSession, S, Sink

PLAN = TrainPlan(16, 1_250)
# One train every 20 ms for two seconds.
PLANS = [replace(PLAN, not_before_ns=START_NS + i * 20 * MS) for i in range(100)]

SUCCESS = encode_stream(HandshakeSuccess())

_CODE = type, ModuleType, FunctionType, MethodType, BuiltinFunctionType, enum.Enum


def weight_bytes(session: Session) -> int:
    """The size of all that a session keeps, but for code and members of enums."""
    seen, todo, total = set[int](), list[object]([session]), 0
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, _CODE):
            continue
        seen.add(id(one))
        total += sys.getsizeof(one)
        todo += gc.get_referents(one)
    return total


def pair(limits: PairLimits = OPEN) -> PacketPairInitiator:
    session = PacketPairInitiator(STREAM, 4, random=Random(1).random, limits=limits)
    for plan in PLANS[: session.trains_left]:
        session.queue_train(plan)
    return session


def gaps() -> ProbegapInitiator:
    return ProbegapInitiator(STREAM, 4, random=Random(1).random)


def last_word(driven: DrivenSession) -> Ended | Failed | RouteChecked:
    """The only last event, which is the last; nothing is waited for after it."""
    last = [event for _, event in driven.events if isinstance(event, Ended | Failed | RouteChecked)]
    (word,) = last
    assert driven.events[-1][1] is word
    assert driven.session.next_timer_ns() is None
    return word


def failure(driven: DrivenSession) -> Failure:
    word = last_word(driven)
    assert isinstance(word, Failed)
    return word.reason


def numbers(driven: DrivenSession) -> list[int]:
    """The trains that were answered."""
    return [
        event.number for _, event in driven.events if isinstance(event, TrainMeasured | TrainLost)
    ]


class Talker(Sink):
    """Says something of its own in place of each summary."""

    def __init__(self, says: Callable[[PacketPairSummary], bytes]) -> None:
        super().__init__()
        self.says = says

    def summarise(self, driven: DrivenSession, summary: PacketPairSummary, after_ns: int) -> None:
        data = self.says(summary)
        driven.over_this_connection(after_ns, lambda: driven.deliver(data))


# -- lies about trains ----------------------------------------------------------------

LIES: dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]] = {
    "one too few": lambda deltas: deltas[1:],
    "one too many": lambda deltas: (*deltas, 100),
    "one in all": lambda deltas: deltas[:1],
    "longer than it took": lambda deltas: (*deltas[1:], 10 * MS),
    "more than ten seconds apart": lambda deltas: (*deltas[1:], 10 * S + 100),
    "as much as fits": lambda deltas: (*deltas[1:], ((1 << 64) - 1) * 100),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=list(LIES))
def test_impossible_times_are_no_sample(lie: Callable[[tuple[int, ...]], tuple[int, ...]]) -> None:
    def says(summary: PacketPairSummary) -> bytes:
        return encode_stream(replace(summary, deltas_ns=lie(summary.deltas_ns)))

    session = pair()
    driven = DrivenSession(session, Talker(says))
    driven.start(for_ns=3 * S)
    lost = driven.of(TrainLost)
    assert [event.number for event in lost] == list(range(100))
    assert {event.reason for event in lost} == {TrainFate.IMPLAUSIBLE}
    assert all(event.detail and event.train.is_lost for event in lost)
    assert session.counts == {Stray.IMPLAUSIBLE: 100}
    driven.run(100 * S)
    # A session without one good summary came to nothing.
    assert failure(driven) is Failure.NO_SUMMARY


def test_a_report_from_before_a_train_was_over_is_no_sample() -> None:
    class Seer(Sink):
        def summarise(
            self, driven: DrivenSession, summary: PacketPairSummary, after_ns: int
        ) -> None:
            super().summarise(driven, replace(summary, deltas_ns=(100,) * 10), after_ns // 2)

    session = pair()
    driven = DrivenSession(session, Seer())
    driven.start(for_ns=3 * S)
    session.queue_train(TrainPlan(11, 1_250, gap_ns=5 * MS))
    driven.settle()
    driven.run(1 * S)
    (*_, lost) = driven.of(TrainLost)
    assert (lost.number, lost.reason) == (100, TrainFate.IMPLAUSIBLE)
    assert "before it was sent" in lost.detail


def test_the_other_trains_of_a_liar_count() -> None:
    turn = itertools.count()

    def says(summary: PacketPairSummary) -> bytes:
        deltas = (100,) if next(turn) % 2 else summary.deltas_ns
        return encode_stream(replace(summary, deltas_ns=deltas))

    driven = DrivenSession(pair(), Talker(says))
    driven.start(for_ns=3 * S)
    assert [event.number for event in driven.of(TrainMeasured)] == list(range(0, 100, 2))
    assert [event.number for event in driven.of(TrainLost)] == list(range(1, 100, 2))


# -- wrong sequence -------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1, 15, 100_000, (1 << 32) - 1])
def test_summaries_of_no_train_are_counted_and_then_enough(shift: int) -> None:
    def says(summary: PacketPairSummary) -> bytes:
        return encode_stream(replace(summary, sequence=(summary.sequence + shift) % (1 << 32)))

    session = pair()
    driven = DrivenSession(session, Talker(says))
    driven.start(for_ns=5 * S)
    assert failure(driven) is Failure.UNEXPECTED
    assert session.counts[Stray.STRANGE] == 17
    assert driven.of(TrainMeasured) == []


def test_repeated_summaries_count_once() -> None:
    def says(summary: PacketPairSummary) -> bytes:
        return encode_stream(summary) * 2

    session = pair()
    driven = DrivenSession(session, Talker(says))
    driven.start(for_ns=5 * S)
    assert failure(driven) is Failure.UNEXPECTED
    assert numbers(driven) == list(range(17))


def test_summaries_backwards_leave_each_train_with_one_answer() -> None:
    held: list[bytes] = []

    def says(summary: PacketPairSummary) -> bytes:
        held.append(encode_stream(summary))
        if len(held) < 5:
            return b""
        data = b"".join(reversed(held))
        held.clear()
        return data

    session = pair()
    driven = DrivenSession(session, Talker(says))
    driven.start(for_ns=5 * S)
    assert sorted(numbers(driven)) == list(range(100))
    assert len(driven.of(TrainMeasured)) == 20
    assert session.counts == {Stray.LATE: 80}


# -- endless data ---------------------------------------------------------------------

STREAMS = {
    "zeros": bytes(1_000),
    "success": SUCCESS * 250,
    "strange summaries": encode_stream(PacketPairSummary(77, 1, (100,) * 15)) * 10,
    "summaries that never end": encode_stream(PacketPairSummary(1, 1, (100,) * 60_000))[:1_000],
    "text": b"HTTP/1.1 200 OK\r\n" * 60,
    "groups": encode_stream(RouteCheckSummary(Observation.NO_ISSUE)) * 250,
}


@pytest.mark.parametrize("data", STREAMS.values(), ids=list(STREAMS))
@pytest.mark.parametrize("agrees", [False, True])
@pytest.mark.parametrize("kind", ["pair", "route check"])
def test_endless_data_ends_a_session(kind: str, data: bytes, *, agrees: bool) -> None:
    session: Session = (
        pair() if kind == "pair" else RouteCheckInitiator(STREAM, 4, random=Random(1).random)
    )
    driven = DrivenSession(session, Sink())
    driven.sink.agrees_after_ns = 0 if agrees else None
    for i in range(1_000):
        driven.after(3 * MS + i * 10_000, lambda: driven.deliver(data))
    driven.start()
    before = weight_bytes(session)
    driven.run(1 * S)
    last_word(driven)
    assert weight_bytes(session) < before + 60_000
    assert len(driven.closed) == 1


def test_a_byte_at_a_time_is_no_way_to_stay() -> None:
    # A summary of the longest train, never finished: it is kept, and the session ends on time.
    session = pair(replace(OPEN, session_ns=2 * S))
    data = iter(encode_stream(PacketPairSummary(1, 1, (100,) * (OPEN.train_packets - 1))))
    driven = DrivenSession(session, Talker(lambda _: b""))
    for i in range(2_000):
        driven.after(10 * MS + i * MS, lambda: driven.deliver(bytes([next(data)])))
    driven.start(for_ns=1_900 * MS)
    assert weight_bytes(session) < 200_000
    assert {event.reason for event in driven.of(TrainLost)} == {TrainFate.TIMED_OUT}
    driven.run(2 * S)
    assert failure(driven) is Failure.NO_SUMMARY


# -- silence --------------------------------------------------------------------------


@pytest.mark.parametrize("bytes_sent", [0, 1, 15, 16, 100, 135])
def test_silence_in_the_middle_of_a_summary(bytes_sent: int) -> None:
    turn = itertools.count()

    def says(summary: PacketPairSummary) -> bytes:
        sent = next(turn)
        data = encode_stream(summary)
        return data if sent < 5 else data[:bytes_sent] if sent == 5 else b""

    driven = DrivenSession(pair(), Talker(says))
    driven.start(for_ns=3 * S)
    assert [event.number for event in driven.of(TrainMeasured)] == list(range(5))
    assert [event.number for event in driven.of(TrainLost)] == list(range(5, 100))
    driven.run(OPEN.session_ns)
    assert last_word(driven) == Ended(STREAM)


def test_silence_costs_no_memory_of_trains() -> None:
    plans = [
        TrainPlan(128, 100, not_before_ns=START_NS + i * 20 * MS) for i in range(2 * 256 + 100)
    ]
    session = PacketPairInitiator(STREAM, 4, random=Random(1).random, limits=OPEN)
    driven = DrivenSession(session, Talker(lambda _: b""))
    driven.start(for_ns=10 * MS)
    before = weight_bytes(session)
    for plan in plans:
        session.queue_train(plan)
        driven.settle()
        driven.run(20 * MS)
    driven.run(5 * S)
    assert len(driven.of(TrainLost)) == len(plans)
    # What was given up is remembered, without its stamps, and not all of it.
    assert weight_bytes(session) - before < 256 * 700


# -- closing --------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [PAGE, OPEN])
@pytest.mark.parametrize("closes_at", range(0, 60, 3))
def test_closing_at_any_time(closes_at: int, limits: PairLimits) -> None:
    # Tenths of the milliseconds in which it connects, agrees, and answers its first trains.
    session = pair(limits)
    driven = DrivenSession(session, Sink())
    driven.sink.delay_ns = 5 * MS
    driven.start(for_ns=closes_at * MS)
    driven.drop()
    driven.settle()
    driven.run(100 * S)
    last_word(driven)
    answered = numbers(driven)
    assert len(set(answered)) == len(answered)
    assert len(driven.opened) in (1, 2)


@pytest.mark.parametrize("closes_at", range(0, 60, 3))
def test_closing_a_route_check_at_any_time(closes_at: int) -> None:
    driven = DrivenSession(RouteCheckInitiator(STREAM, 4, random=Random(1).random), Sink())
    driven.sink.delay_ns = 5 * MS
    driven.start(for_ns=closes_at * MS)
    driven.drop()
    driven.settle()
    driven.run(2 * S)
    assert failure(driven) in (Failure.CLOSED, Failure.DECLINED)


def test_closing_after_each_summary_for_ever() -> None:
    session = pair()
    driven = DrivenSession(session, Sink())
    driven.sink.closes_after_summary = True
    driven.start(for_ns=100 * S)
    assert failure(driven) is Failure.CLOSED
    assert len(driven.opened) == OPEN.reconnects + 1


def test_agreeing_and_closing_for_ever() -> None:
    class Fickle(Sink):
        def receive_stream(self, driven: DrivenSession, data: bytes) -> None:
            super().receive_stream(driven, data)
            driven.over_this_connection(self.round_trip_ns + 1, driven.drop)

    driven = DrivenSession(pair(), Fickle())
    driven.start(for_ns=100 * S)
    assert failure(driven) is Failure.CLOSED
    assert len(driven.opened) == 1


# -- probegap -------------------------------------------------------------------------


def flood(driven: DrivenSession, count: int) -> None:
    """Replies to probes that were and were not sent, with all kinds of times."""
    source = Random(count)
    for _ in range(count):
        reply = ProbegapProbe(
            source.randrange(1 << 12) if source.random() < 0.5 else source.randrange(1 << 32),
            source.randrange(driven.now_ns // 50),
            source.randrange(1 << 64),
            source.randrange(1 << 64),
            b"" if source.random() < 0.5 else source.randbytes(20),
            source.random() < 0.9,
        )
        data = encode_datagram(reply)
        driven.reply(data[: source.choice([len(data)] * 9 + [10])])


def test_a_flood_of_replies_changes_nothing() -> None:
    session = gaps()
    driven = DrivenSession(session, Sink())
    driven.start(for_ns=5 * S)
    before = weight_bytes(session)
    for _ in range(100):
        flood(driven, 300)
        driven.settle()
        driven.run(10 * MS)
    assert weight_bytes(session) < before * 1.1
    assert sum(session.counts.values()) == 30_000
    # All probes but the last few came back, once each.
    returned = [event.gap.sequence for event in driven.of(GapReturned)]
    assert returned == list(range(1, len(returned) + 1))
    assert len(driven.trains) - len(returned) <= 3
    assert driven.of(GapLost) == []


def test_replies_with_the_wildest_times_are_no_samples() -> None:
    last = (1 << 64) - 1

    class Liar(Sink):
        def stamped(self, probe: ProbegapProbe, received: int, sent: int) -> ProbegapProbe:
            lies = [
                (received, sent),
                (0, 0),
                (0, sent),
                (sent, received),
                (received, last),
                (last, received),
                (received, received + self.round_trip_ns // 100 + 1_000),
            ]
            return super().stamped(probe, *lies[probe.sequence % len(lies)])

    session = gaps()
    driven = DrivenSession(session, Liar())
    driven.start(for_ns=3 * S)
    session.stop()
    driven.run(5 * S)
    assert last_word(driven) == Ended(STREAM)
    assert all(event.gap.sequence % 7 == 0 for event in driven.of(GapReturned))
    assert all(event.gap.sequence % 7 for event in driven.of(GapLost))
    assert len(driven.of(GapReturned)) + len(driven.of(GapLost)) == len(driven.trains)
    assert session.counts == {Discount.IMPLAUSIBLE: len(driven.of(GapLost))}


def test_silence_costs_no_memory_of_probes() -> None:
    session = gaps()
    session.set_rate(2_000, now_ns=START_NS)
    driven = DrivenSession(session, Sink())
    driven.sink.loses = lambda _: True
    driven.start(for_ns=3 * S)
    before = weight_bytes(session)
    driven.run(3 * S)
    assert weight_bytes(session) < before * 1.1
    # The bound: 4096 probes and the ring.
    assert before < 4_096 * 300

"""The route check's initiator, in virtual time. Sections are those of [MS-QLPB]."""

from __future__ import annotations

import itertools

import pytest

from openqwave.model.errors import InvalidParameter
from openqwave.probing.outcomes import Ended, Failed, Failure
from openqwave.probing.route_check import (
    DECISIONS,
    LAST_DECISIONS,
    RouteChecked,
    RouteCheckInitiator,
    Verdict,
)
from openqwave.probing.session import Channel, CloseReason, SendTrain, Session
from openqwave.wire.qlpb import (
    FlagOrder,
    Observation,
    PacketPairSummary,
    RouteCheckHandshake,
    RouteCheckProbe,
    RouteCheckSummary,
    encode_stream,
)
from tests.unit.driven_session import (
    MS,
    PORT,
    STREAM,
    DrivenSession,
    S,
    Sink,
    random,
)

# The handshake of the sink in virtual time: connecting and asking, a round trip each.
AGREED_NS = 4 * MS

NONE, ORDER, OVERTAKEN, LOSS = (
    None,
    Observation.NO_ISSUE,
    Observation.INVERSION,
    Observation.LOSS,
)


def check(
    observations: list[Observation | None],
    *,
    version: int = 4,
    order: FlagOrder = FlagOrder.MSB_FIRST,
    sink: Sink | None = None,
) -> DrivenSession:
    """A route check whose sink says this of each group in turn."""
    sink = sink or Sink()
    sink.observations = observations
    session: Session = RouteCheckInitiator(STREAM, version, random=random(), order=order)
    return DrivenSession(session, sink)


def checked(observations: list[Observation | None]) -> RouteChecked:
    driven = check(observations)
    driven.start(for_ns=2 * S)
    assert len(driven.closed) == 1
    assert driven.session.next_timer_ns() is None
    return driven.only(RouteChecked)


# -- what is sent ---------------------------------------------------------------------


def test_the_handshake_asks_for_a_route_check() -> None:
    # 3.1.4.1.
    driven = check([])
    driven.start(for_ns=10 * MS)
    assert driven.sink.hellos == [encode_stream(RouteCheckHandshake())]


@pytest.mark.parametrize(("version", "headers_bytes"), [(4, 28), (6, 48)])
def test_a_group_has_five_probes(version: int, headers_bytes: int) -> None:
    # 3.1.6.2; with the larger header of IPv6, packets of the same size have less filler.
    driven = check([], version=version)
    driven.start(for_ns=10 * MS)
    full_bytes, over_bytes = 1_496 - headers_bytes, 1_500 - headers_bytes
    assert driven.probes == [
        RouteCheckProbe(PORT, 0, 1, is_oversized=True, size_bytes=over_bytes),
        RouteCheckProbe(PORT, 0, 2, size_bytes=full_bytes),
        RouteCheckProbe(PORT, 0, 3, size_bytes=full_bytes),
        RouteCheckProbe(PORT, 0, 4, size_bytes=12),
        RouteCheckProbe(PORT, 5, 5, size_bytes=12),
    ]
    assert [(train.channel, len(train.payloads), train.gap_ns) for _, train in driven.trains] == [
        (Channel.PRIORITY, 1, 0),
        (Channel.BEST_EFFORT, 3, 0),
        (Channel.PRIORITY, 1, 0),
    ]


@pytest.mark.parametrize(
    ("order", "flags"), [(FlagOrder.MSB_FIRST, 0x80), (FlagOrder.LSB_FIRST, 0x01)]
)
def test_the_flag_goes_where_it_is_wanted(order: FlagOrder, flags: int) -> None:
    driven = check([], order=order)
    driven.start(for_ns=10 * MS)
    sent = [data[1] for _, train in driven.trains for data in train.payloads]
    assert sent == [flags, 0, 0, 0, 0]


def test_five_groups_20_ms_apart() -> None:
    # 3.1.6.2: at most 5, answered or not, numbered 1-5, 6-10, ... 21-25.
    driven = check([])
    driven.start(for_ns=2 * S)
    starts = [AGREED_NS + i * 20 * MS for i in range(5)]
    assert driven.sent_at == [time_ns for time_ns in starts for _ in range(3)]
    assert [probe.sequence for probe in driven.probes] == list(range(1, 26))
    assert [probe.is_oversized for probe in probes(driven)] == [True, *[False] * 4] * 5
    assert [probe.train_size for probe in probes(driven)] == [0, 0, 0, 0, 5] * 5
    numbers = [train.number for _, train in driven.trains]
    assert len(set(numbers)) == len(numbers)


def probes(driven: DrivenSession) -> list[RouteCheckProbe]:
    return [probe for probe in driven.probes if isinstance(probe, RouteCheckProbe)]


def test_a_late_driver_sends_nothing_after_the_end() -> None:
    driven = check([])
    driven.start(for_ns=10 * MS)
    driven.now_ns += 1 * S
    driven.settle()
    assert len(driven.trains) == 3
    driven.run(0)
    assert driven.only(RouteChecked).verdict is Verdict.SILENT


def test_nothing_is_sent_after_the_result() -> None:
    driven = check([OVERTAKEN])
    driven.start(for_ns=2 * S)
    assert len(driven.trains) == 3


# -- the verdict ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observations", "verdict"),
    [
        # 3.1.5.2, step 3.
        ([OVERTAKEN], Verdict.OVERTOOK),
        ([LOSS, OVERTAKEN], Verdict.OVERTOOK),
        ([ORDER, LOSS, ORDER, OVERTAKEN], Verdict.OVERTOOK),
        # Step 4: two losses in a row.
        ([LOSS, LOSS], Verdict.LOST_TWICE),
        ([ORDER, LOSS, NONE, LOSS], Verdict.LOST_TWICE),
        # Step 6, read with the example of 4.1.
        ([ORDER] * 5, Verdict.IN_ORDER),
        ([LOSS, ORDER, LOSS, ORDER, LOSS], Verdict.LOST_LAST),
        ([ORDER, LOSS, ORDER, LOSS, ORDER], Verdict.IN_ORDER),
    ],
)
def test_a_summary_can_decide(observations: list[Observation | None], verdict: Verdict) -> None:
    told = tuple(seen for seen in observations if seen is not None)
    result = checked(list(observations))
    assert result.verdict is verdict
    assert result.summaries == told
    assert result.supported is (verdict in (Verdict.OVERTOOK, Verdict.IN_ORDER))
    assert result.reason == verdict.value


@pytest.mark.parametrize(
    ("observations", "verdict"),
    [
        ([], Verdict.SILENT),
        ([NONE, ORDER, NONE, NONE, NONE], Verdict.IN_ORDER),
        ([ORDER, NONE, NONE, NONE, LOSS], Verdict.LOST_LAST),
        ([ORDER, ORDER, ORDER, ORDER], Verdict.IN_ORDER),
    ],
)
def test_the_last_summary_decides_at_the_end(
    observations: list[Observation | None], verdict: Verdict
) -> None:
    # 3.1.6.2, 3.1.5.1.1: 400 ms after the agreement.
    driven = check(observations)
    driven.start(for_ns=2 * S)
    assert driven.only(RouteChecked).verdict is verdict
    assert driven.time_of(RouteChecked) == AGREED_NS + 400 * MS


def test_the_fifth_summary_decides_at_once() -> None:
    driven = check([ORDER] * 5)
    driven.start(for_ns=2 * S)
    assert driven.time_of(RouteChecked) == AGREED_NS + 80 * MS + driven.sink.round_trip_ns


def test_every_sequence_of_observations_has_a_decision() -> None:
    before_the_end = {ORDER, LOSS}
    assert set(DECISIONS) == set(itertools.product([None, *before_the_end], Observation))
    assert set(LAST_DECISIONS) == {None, *before_the_end}
    undecided = {seen for (_, seen), verdict in DECISIONS.items() if verdict is None}
    assert undecided == before_the_end


def test_summaries_may_come_in_a_heap() -> None:
    # 3.1.5.2 allows one for each group; they count whenever they come.
    driven = check([])
    summary = encode_stream(RouteCheckSummary(LOSS))
    driven.after(30 * MS, lambda: driven.deliver(summary + summary))
    driven.start(for_ns=2 * S)
    assert driven.only(RouteChecked).verdict is Verdict.LOST_TWICE


# -- failures -------------------------------------------------------------------------


def test_the_sink_has_250_ms_to_agree() -> None:
    # 3.1.4.1.
    driven = check([])
    driven.sink.agrees_after_ns = None
    driven.start(for_ns=2 * S)
    assert driven.only(Failed).reason is Failure.NO_AGREEMENT
    assert driven.time_of(Failed) == driven.sink.round_trip_ns + 250 * MS
    assert driven.trains == []


def test_a_summary_before_any_probe_fails() -> None:
    # 3.1.5.2, step 1; here it comes together with the agreement.
    class Hasty(Sink):
        def receive_stream(self, driven: DrivenSession, data: bytes) -> None:
            super().receive_stream(driven, data)
            summary = encode_stream(RouteCheckSummary(OVERTAKEN))
            driven.over_this_connection(
                self.round_trip_ns - 1, lambda: driven.deliver(b"\x1e\x00\x00\x01" + summary)
            )

    driven = check([], sink=Hasty())
    driven.start(for_ns=2 * S)
    assert driven.only(Failed).reason is Failure.UNEXPECTED
    assert driven.trains == []


@pytest.mark.parametrize(
    ("data", "failure"),
    [
        (b"\x14\xc0\x00\x01", Failure.MALFORMED),
        (b"\x14\x00\x00\x02", Failure.MALFORMED),
        (b"\x1e\x00\x00\x01", Failure.UNEXPECTED),
        (encode_stream(PacketPairSummary(1, 1, (1,))), Failure.UNEXPECTED),
        (encode_stream(PacketPairSummary(1, 1, (1, 1))), Failure.MALFORMED),
    ],
)
def test_other_messages_fail(data: bytes, failure: Failure) -> None:
    # 3.1.5.2, step 2.
    driven = check([ORDER])
    driven.after(30 * MS, lambda: driven.deliver(data))
    driven.start(for_ns=2 * S)
    assert driven.only(Failed).reason is failure
    assert driven.of(RouteChecked) == []


def test_closing_fails() -> None:
    driven = check([ORDER])
    driven.after(30 * MS, driven.drop)
    driven.start(for_ns=2 * S)
    assert driven.only(Failed) == Failed(STREAM, Failure.CLOSED, CloseReason.BY_PEER.value)
    assert driven.closed == []


def nth_unsent(number: int) -> DrivenSession:
    """A check in which the train of that number cannot be sent."""

    def refuses(train: SendTrain) -> tuple[int, str] | None:
        return (0, "message too long") if train.number == number else None

    driven = check([ORDER] * 5)
    driven.refuses = refuses
    driven.start(for_ns=2 * S)
    return driven


@pytest.mark.parametrize("group", [0, 3])
def test_an_oversized_probe_that_cannot_be_sent_is_a_result(group: int) -> None:
    # 3.1.6.2: the stack refuses oversized frames.
    driven = nth_unsent(3 * group)
    result = driven.only(RouteChecked)
    assert (result.supported, result.verdict) == (False, Verdict.UNSENT)
    assert len(driven.closed) == 1


@pytest.mark.parametrize("part", [1, 2])
def test_another_probe_that_cannot_be_sent_is_a_failure(part: int) -> None:
    driven = nth_unsent(part)
    assert driven.only(Failed).reason is Failure.UNSENT
    assert "message too long" in driven.only(Failed).detail
    assert driven.of(RouteChecked) == []


def test_it_can_be_closed() -> None:
    driven = check([])
    driven.start(for_ns=10 * MS)
    session = driven.session
    assert isinstance(session, RouteCheckInitiator)
    session.close()
    driven.settle()
    driven.run(2 * S)
    assert [event for _, event in driven.events] == [Ended(STREAM)]
    assert len(driven.trains) == 3


def test_other_versions_of_ip_are_refused() -> None:
    with pytest.raises(InvalidParameter):
        RouteCheckInitiator(STREAM, 5, random=random())

"""Groups of five at the sink (MS-QLPB 3.2.5.4)."""

from __future__ import annotations

import pytest

from openqwave.model.endpoint import Endpoint
from openqwave.probing.sink_reports import Refused, RouteCheckSummarised, SessionClosed
from openqwave.wire import qlpb
from openqwave.wire.qlpb import FlagOrder, Observation
from tests.unit.driven_sink import HOST, OTHER, ROUTE, TCP_PORT, DrivenSink

FINE, OVERTAKEN, LOST = Observation


def probe(sequence: int) -> qlpb.RouteCheckProbe:
    """What an initiator sends with that number, in groups of five (3.1.6.2)."""
    position = (sequence - 1) % 5 + 1
    size_bytes = {1: 1472, 2: 1468, 3: 1468, 4: 12, 5: 12}[position]
    train_size = 5 if position == 5 else 0
    return qlpb.RouteCheckProbe(TCP_PORT, train_size, sequence, position == 1, size_bytes)


# Order of arrival, and after which arrival (the first is 0) what summary is sent.
TRACES = [
    ((1, 2, 3, 4, 5), {4: FINE}),
    ((1, 5, 2, 3, 4), {2: OVERTAKEN}),
    ((1, 2, 3, 5, 4), {4: OVERTAKEN}),
    ((2, 3, 4, 5), {3: LOST}),
    ((5,), {0: LOST}),
    ((5, 2, 3, 4), {0: LOST}),
    ((5, 1, 2, 3, 4), {0: LOST}),
    ((1, 2, 4, 5), {}),
    ((1, 2, 4, 5, 6, 7, 8, 9, 10), {8: FINE}),
    ((1, 2, 3, 4, 6, 7, 8, 9, 10), {8: FINE}),
    ((1, 2, 4, 5, 7, 8, 9, 10), {7: LOST}),
    ((2, 3, 4, 5, 7, 8, 9, 10), {3: LOST, 7: LOST}),
    # Five groups, all in order, as in the example of 4.1.
    (tuple(range(1, 26)), {4: FINE, 9: FINE, 14: FINE, 19: FINE, 24: FINE}),
]


@pytest.mark.parametrize(("arrivals", "expected"), TRACES, ids=[str(t[0]) for t in TRACES])
def test_traces(arrivals: tuple[int, ...], expected: dict[int, Observation]) -> None:
    driven = DrivenSink()
    connection = driven.open(ROUTE)
    driven.events()
    found = {}
    for index, sequence in enumerate(arrivals):
        driven.probe(probe(sequence))
        for message in driven.messages(connection):
            assert isinstance(message, qlpb.RouteCheckSummary)
            found[index] = message.observation
    assert found == expected
    assert driven.sink.counts.groups == len(expected)
    peer = Endpoint(HOST, TCP_PORT)
    assert driven.events() == [
        RouteCheckSummarised(connection, peer, seen) for seen in expected.values()
    ]
    driven.hang_up(connection)
    (closed,) = driven.events()
    assert isinstance(closed, SessionClosed)
    assert closed.results == len(expected)


def test_groups_numbered_from_any_number_are_the_same() -> None:
    # 3.1.6.2 can be read as counting from 2.
    driven = DrivenSink()
    connection = driven.open(ROUTE)
    for number in range(1, 6):
        one = probe(number)
        driven.probe(
            qlpb.RouteCheckProbe(
                TCP_PORT, one.train_size, number + 1, one.is_oversized, one.size_bytes
            )
        )
    assert driven.messages(connection) == [qlpb.RouteCheckSummary(FINE)]


@pytest.mark.parametrize(
    ("order", "data"), [(FlagOrder.MSB_FIRST, "14 80 00 01"), (FlagOrder.LSB_FIRST, "14 02 00 01")]
)
def test_the_answer_is_in_the_peers_order(order: FlagOrder, data: str) -> None:
    driven = DrivenSink()
    connection = driven.open(ROUTE)
    # The first group's flag shows the order; the second's loss has to be told in it.
    for sequence in (1, 2, 3, 4, 5, 7, 8, 9, 10):
        driven.probe(probe(sequence), order=order)
    assert driven.sent(connection).hex(" ") == f"14 00 00 01 {data}"


def test_without_a_flag_the_first_reading_is_taken() -> None:
    driven = DrivenSink()
    connection = driven.open(ROUTE)
    for sequence in (2, 3, 4, 5):
        driven.probe(probe(sequence), order=FlagOrder.LSB_FIRST)
    assert driven.sent(connection) == b"\x14\x80\x00\x01"


def test_sessions_are_told_apart_by_port_and_address() -> None:
    driven = DrivenSink()
    first, second = driven.open(ROUTE), driven.open(ROUTE, port=TCP_PORT + 1)
    third = driven.open(ROUTE, OTHER)
    for sequence in range(1, 6):
        one = probe(sequence)
        driven.probe(one)
        if sequence != 1:
            driven.probe(
                qlpb.RouteCheckProbe(TCP_PORT + 1, one.train_size, sequence, size_bytes=12)
            )
    assert driven.messages(first) == [qlpb.RouteCheckSummary(FINE)]
    assert driven.messages(second) == [qlpb.RouteCheckSummary(LOST)]
    assert driven.messages(third) == []


def test_a_train_of_one_is_refused() -> None:
    driven = DrivenSink()
    driven.open(ROUTE)
    driven.datagram(bytes.fromhex("02 00 00 01 c0 30 00 01 00 00 00 05"))
    assert driven.refused == {Refused.MALFORMED_DATAGRAM: 1}


def test_the_ends_of_the_numbers() -> None:
    last = (1 << 32) - 1
    driven = DrivenSink()
    connection = driven.open(ROUTE)
    for sequence in (last - 1, last, 0, 1):
        for train_size in (0, 2, 0xFFFF):
            for oversized in (False, True):
                driven.probe(qlpb.RouteCheckProbe(TCP_PORT, train_size, sequence, oversized))
    # Whatever it makes of them, it is still there and goes on.
    driven.sent(connection)
    for sequence in range(101, 106):
        driven.probe(probe(sequence))
    assert driven.messages(connection) == [qlpb.RouteCheckSummary(FINE)]

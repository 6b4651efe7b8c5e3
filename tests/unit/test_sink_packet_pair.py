"""Trains at the sink (MS-QLPB 3.2.5.5)."""

from __future__ import annotations

import pytest

from openqwave.model.endpoint import Endpoint
from openqwave.probing.session import Arrival
from openqwave.probing.sink_limits import SinkLimits
from openqwave.probing.sink_reports import Refused, TrainTimed
from openqwave.wire import qlpb
from openqwave.wire.qlpb import FlagOrder
from tests.unit.driven_sink import (
    HOST,
    OTHER,
    PAIR,
    SECOND,
    SPEED_BPS,
    STAMP_NS,
    TCP_PORT,
    DrivenSink,
)

PEER = Endpoint(HOST, TCP_PORT)


def train(
    packets: int, start: int = 1, size_bytes: int = 1468, port: int = TCP_PORT
) -> list[qlpb.PacketPairProbe]:
    """The packets of a train, in order."""
    return [
        qlpb.PacketPairProbe(port, packets, start + index, index == 0, size_bytes)
        for index in range(packets)
    ]


def send(
    driven: DrivenSink,
    probes: list[qlpb.PacketPairProbe],
    gap_ns: int = 120_000,
    start_ns: int = STAMP_NS,
) -> None:
    """Let packets come, evenly spaced."""
    for index, probe in enumerate(probes):
        driven.probe(probe, start_ns + index * gap_ns)


@pytest.fixture
def driven() -> DrivenSink:
    """A sink with one connection, number 1."""
    made = DrivenSink()
    made.open(PAIR)
    made.events()
    return made


def summary(start: int, *deltas_ns: int) -> qlpb.PacketPairSummary:
    return qlpb.PacketPairSummary(start, SPEED_BPS, deltas_ns)


def test_a_train_is_timed(driven: DrivenSink) -> None:
    probes = train(4, start=17)
    for probe, stamp_ns in zip(probes, (0, 120_000, 241_500, 500_000), strict=True):
        assert driven.sent(1) == b""
        driven.probe(probe, STAMP_NS + stamp_ns)
    assert driven.sent(1).hex(" ") == (
        "0a 00 00 01 00 00 00 11 3b 9a ca 00 00 00 00 03"
        " 00 00 00 00 00 00 04 b0 00 00 00 00 00 00 04 bf 00 00 00 00 00 00 0a 19"
    )
    assert driven.events() == [TrainTimed(1, PEER, 17, 4, 1468, 500_000)]
    assert driven.sink.counts.trains == 1
    assert driven.refused == {}


def test_train_after_train_on_one_connection(driven: DrivenSink) -> None:
    # One place of the specification ends the session with the first summary; its example, and
    # initiators, go on.
    for number in range(5):
        send(driven, train(16, 1 + 16 * number))
    assert driven.messages(1) == [summary(1 + 16 * n, *[120_000] * 15) for n in range(5)]


def test_parts_of_a_tick_do_not_add_up_to_an_error(driven: DrivenSink) -> None:
    gap_ns = 12_345
    send(driven, train(100), gap_ns, STAMP_NS + 67)
    (message,) = driven.messages(1)
    assert isinstance(message, qlpb.PacketPairSummary)
    assert {delta % 100 for delta in message.deltas_ns} == {0}
    assert abs(sum(message.deltas_ns) - 99 * gap_ns) < 100
    assert all(abs(delta - gap_ns) < 100 for delta in message.deltas_ns)


def test_the_least_significant_order_is_understood(driven: DrivenSink) -> None:
    for probe in train(2):
        driven.probe(probe, order=FlagOrder.LSB_FIRST)
    assert driven.messages(1) == [summary(1, 0)]


@pytest.mark.parametrize("lost", range(16))
def test_a_lost_packet_silences_its_train_alone(driven: DrivenSink, lost: int) -> None:
    probes = train(16)
    del probes[lost]
    send(driven, probes)
    assert driven.sent(1) == b""
    after = 15 - lost
    assert driven.refused == ({Refused.OUT_OF_TRAIN: after} if after else {})
    send(driven, train(16, 17))
    assert driven.messages(1) == [summary(17, *[120_000] * 15)]


def test_a_reordered_packet_silences_its_train_alone(driven: DrivenSink) -> None:
    probes = train(5)
    probes[2], probes[3] = probes[3], probes[2]
    # The third comes late but in turn, and is taken; the fifth then is not the next.
    send(driven, probes)
    assert driven.refused == {Refused.OUT_OF_TRAIN: 2}
    send(driven, train(5, 6))
    assert driven.messages(1) == [summary(6, *[120_000] * 4)]


def test_a_duplicate_changes_nothing(driven: DrivenSink) -> None:
    probes = [probe for probe in train(4) for _ in range(2)]
    # A second first packet begins the train again: its time counts.
    send(driven, probes, gap_ns=1000)
    assert driven.messages(1) == [summary(1, 1000, 2000, 2000)]
    # The copy of the last one, too, comes too late to be of the train.
    assert driven.refused == {Refused.OUT_OF_TRAIN: 3}


def test_the_first_packet_alone_begins_a_train(driven: DrivenSink) -> None:
    send(driven, train(4)[1:])
    assert driven.refused == {Refused.OUT_OF_TRAIN: 3}
    send(driven, train(8, 5)[:5])
    send(driven, train(2, 10))
    assert driven.messages(1) == [summary(10, 120_000)]


def test_packets_of_a_train_have_one_size(driven: DrivenSink) -> None:
    probes = train(4)
    probes[2] = qlpb.PacketPairProbe(TCP_PORT, 4, 3, size_bytes=1467)
    send(driven, probes)
    assert driven.refused == {Refused.MIXED_SIZES: 1, Refused.OUT_OF_TRAIN: 1}
    # Another train may have another.
    send(driven, train(4, 5, size_bytes=100))
    assert driven.messages(1) == [summary(5, *[120_000] * 3)]


def test_packets_of_a_train_tell_one_train_size(driven: DrivenSink) -> None:
    send(driven, [*train(4)[:2], qlpb.PacketPairProbe(TCP_PORT, 5, 3, size_bytes=1468)])
    assert driven.refused == {Refused.OUT_OF_TRAIN: 1}
    driven.probe(train(4)[2], STAMP_NS + 1_000_000)
    driven.probe(train(4)[3], STAMP_NS + 1_120_000)
    assert driven.messages(1) == [summary(1, 120_000, 880_000, 120_000)]


def test_a_train_of_none_loads_the_path_and_one_is_refused(driven: DrivenSink) -> None:
    send(driven, train(3)[:2])
    # Neither disturbs the train; the flag on them means nothing.
    driven.probe(qlpb.PacketPairProbe(TCP_PORT, 0, 3, is_first=True))
    driven.datagram(bytes.fromhex("01 80 00 01 c0 30 00 01 00 00 00 03"))
    driven.probe(train(3)[2], STAMP_NS + 240_000)
    assert driven.messages(1) == [summary(1, 120_000, 120_000)]
    assert driven.refused == {Refused.MALFORMED_DATAGRAM: 1}


def test_probes_find_their_connection_by_address_and_port(driven: DrivenSink) -> None:
    send(driven, train(2, port=TCP_PORT + 1))
    for probe in train(2):
        driven.probe(probe, address=OTHER)
    assert driven.refused == {Refused.NO_SESSION: 4}
    # The port that they are sent from is of no account; 2177 is a mistake that harms nobody.
    for probe, port in zip(train(2), (1, 2177), strict=True):
        driven.probe(probe, port=port)
    assert driven.messages(1) == [summary(1, 0)]


def test_a_link_local_peer_is_another_one_on_another_link() -> None:
    driven = DrivenSink()
    address = bytes.fromhex("fe80000000000000000000000000000a")
    for connection, scope_id in ((11, 2), (12, 3)):
        peer = Endpoint(address, TCP_PORT, scope_id)
        driven.sink.receive_connection(connection, peer, now_ns=driven.now_ns)
        driven.feed(connection, PAIR)
        driven.sent(connection)
    for probe in train(2):
        driven.sink.receive_datagram(
            qlpb.encode_datagram(probe),
            Endpoint(address, 50_000, 3),
            Arrival(STAMP_NS),
            now_ns=driven.now_ns,
        )
    driven.feed(12, b"")
    assert driven.messages(12) == [qlpb.PacketPairSummary(1, 0, (0,))]
    assert driven.sent(11) == b""


def test_a_closed_connection_has_no_probes(driven: DrivenSink) -> None:
    send(driven, train(3)[:2])
    driven.hang_up(1)
    send(driven, train(3)[2:])
    assert driven.refused == {Refused.NO_SESSION: 1}


@pytest.mark.parametrize(
    "stamps_ns",
    [
        (STAMP_NS, STAMP_NS - 1000),
        (STAMP_NS, 0),
        (0, 1 << 80),
        (-(1 << 80), STAMP_NS),
    ],
)
def test_a_clock_that_steps_spoils_the_train(
    driven: DrivenSink, stamps_ns: tuple[int, int]
) -> None:
    for probe, stamp_ns in zip(train(2), stamps_ns, strict=True):
        driven.probe(probe, stamp_ns)
    assert driven.sent(1) == b""
    assert driven.refused == {Refused.CLOCK_STEPPED: 1}
    send(driven, train(2, 3))
    assert driven.messages(1) == [summary(3, 120_000)]


def test_stamps_may_be_equal_and_anywhere(driven: DrivenSink) -> None:
    for start_ns in (0, -1000, 1 << 63):
        send(driven, train(3), 0, start_ns)
        assert driven.messages(1) == [summary(1, 0, 0)]


def test_the_longest_train() -> None:
    driven = DrivenSink(SinkLimits(train_packets=32))
    connection = driven.open(PAIR)
    send(driven, train(32), 100)
    assert driven.messages(connection) == [summary(1, *[100] * 31)]
    # A longer one is refused, and so ends the one before it.
    send(driven, train(32, 100)[:31])
    driven.probe(train(33, 200)[0])
    send(driven, train(32, 100)[31:])
    assert driven.sent(connection) == b""
    assert driven.refused == {Refused.TRAIN_TOO_LONG: 1, Refused.OUT_OF_TRAIN: 1}


def test_numbers_do_not_wrap(driven: DrivenSink) -> None:
    last = (1 << 32) - 1
    send(driven, [train(3, last - 2)[i] for i in range(3)])
    assert driven.messages(1) == [summary(last - 2, 120_000, 120_000)]
    # As in the specification, which compares without wrapping: this train cannot be completed.
    first = qlpb.PacketPairProbe(TCP_PORT, 2, last, True, 1468)
    send(driven, [first, qlpb.PacketPairProbe(TCP_PORT, 2, 0, False, 1468)])
    assert driven.sent(1) == b""
    assert driven.refused == {Refused.OUT_OF_TRAIN: 1}


def test_speed_is_told_as_it_was_given() -> None:
    for speed_bps, told in ((0, 0), (54_000_000, 54_000_000), (10**10, 0xFFFF_FFFF)):
        driven = DrivenSink()
        driven.sink.receive_connection(9, PEER, speed_bps, now_ns=driven.now_ns)
        driven.feed(9, PAIR)
        driven.sent(9)
        send(driven, train(2))
        assert driven.messages(9) == [qlpb.PacketPairSummary(1, told, (120_000,))]


def test_stamps_are_the_kernels_not_the_drivers(driven: DrivenSink) -> None:
    # However late the driver reads.
    for index, probe in enumerate(train(3)):
        driven.now_ns += 10 * SECOND
        driven.probe(probe, STAMP_NS + 1000 * index)
    assert driven.messages(1) == [summary(1, 1000, 1000)]

"""MS-QLPB's messages beside their bytes, written out by hand from the specification's layouts.

The specification has no dumps of its own. Where it leaves the place of a flag open, both readings
are here, the most significant bit first.
"""

from __future__ import annotations

import pytest

from openqwave.model.codes import ErrorCode
from openqwave.model.errors import InvalidParameter, QosError
from openqwave.wire import qlpb
from openqwave.wire.faults import Fault, MalformedMessage
from openqwave.wire.qlpb import Direction, FlagOrder, MessageId, Observation

MSB, LSB = FlagOrder.MSB_FIRST, FlagOrder.LSB_FIRST
TO_SINK, TO_INITIATOR = Direction.TO_SINK, Direction.TO_INITIATOR

# -- over TCP: section of MS-QLPB, who sends, message, most significant first, least first ------

STREAM: list[tuple[str, Direction, qlpb.StreamMessage, str, str]] = [
    ("2.2.2.1", TO_SINK, qlpb.Discard(), "00 00 00 01", "00 00 00 01"),
    ("2.2.2.2", TO_SINK, qlpb.PacketPairHandshake(), "01 00 00 01", "01 00 00 01"),
    ("2.2.2.4", TO_SINK, qlpb.RouteCheckHandshake(), "02 00 00 01", "02 00 00 01"),
    ("2.2.2.9", TO_INITIATOR, qlpb.HandshakeSuccess(), "1e 00 00 01", "1e 00 00 01"),
    (
        "2.2.2.8, no issue",
        TO_INITIATOR,
        qlpb.RouteCheckSummary(Observation.NO_ISSUE),
        "14 00 00 01",
        "14 00 00 01",
    ),
    (
        "2.2.2.8, inversion",
        TO_INITIATOR,
        qlpb.RouteCheckSummary(Observation.INVERSION),
        "14 40 00 01",
        "14 01 00 01",
    ),
    (
        "2.2.2.8, loss",
        TO_INITIATOR,
        qlpb.RouteCheckSummary(Observation.LOSS),
        "14 80 00 01",
        "14 02 00 01",
    ),
    (
        "2.2.2.7, three probes at 100 Mbit/s",
        TO_INITIATOR,
        qlpb.PacketPairSummary(1, 100_000_000, (120_000, 121_500)),
        *2
        * (
            "0a 00 00 01 00 00 00 01 05 f5 e1 00 00 00 00 02"
            " 00 00 00 00 00 00 04 b0 00 00 00 00 00 00 04 bf",
        ),
    ),
    (
        "2.2.2.7, two probes, every field at its end",
        TO_INITIATOR,
        qlpb.PacketPairSummary(0xFFFF_FFFF, 0xFFFF_FFFF, (0xFFFF_FFFF_FFFF_FFFF * 100,)),
        *2 * ("0a 00 00 01 ff ff ff ff ff ff ff ff 00 00 00 01 ff ff ff ff ff ff ff ff",),
    ),
]

# -- over UDP -------------------------------------------------------------------------

DATAGRAMS: list[tuple[str, qlpb.DatagramMessage, str, str]] = [
    (
        "2.2.2.3, first of sixteen",
        qlpb.PacketPairProbe(49_200, 16, 1, is_first=True),
        "01 80 00 01 c0 30 00 10 00 00 00 01",
        "01 01 00 01 c0 30 00 10 00 00 00 01",
    ),
    (
        "2.2.2.3, second of sixteen",
        qlpb.PacketPairProbe(49_200, 16, 2),
        *2 * ("01 00 00 01 c0 30 00 10 00 00 00 02",),
    ),
    (
        "2.2.2.3, only there to load the path",
        qlpb.PacketPairProbe(49_200, 0, 3),
        *2 * ("01 00 00 01 c0 30 00 00 00 00 00 03",),
    ),
    (
        "2.2.2.3, filled",
        qlpb.PacketPairProbe(1, 0xFFFF, 0xFFFF_FFFF, is_first=True, size_bytes=17),
        "01 80 00 01 00 01 ff ff ff ff ff ff f0 0d f0 0d f0",
        "01 01 00 01 00 01 ff ff ff ff ff ff f0 0d f0 0d f0",
    ),
    (
        "2.2.2.5, the oversized one, here with little in it",
        qlpb.RouteCheckProbe(49_200, 0, 1, is_oversized=True, size_bytes=14),
        "02 80 00 01 c0 30 00 00 00 00 00 01 f0 0d",
        "02 01 00 01 c0 30 00 00 00 00 00 01 f0 0d",
    ),
    (
        "2.2.2.5, the last of a group",
        qlpb.RouteCheckProbe(49_200, 5, 5),
        *2 * ("02 00 00 01 c0 30 00 05 00 00 00 05",),
    ),
    (
        "2.2.2.6, to the sink",
        qlpb.ProbegapProbe(7, 0x01D0_0000_0000_0000),
        *2
        * (
            "05 00 00 02 00 00 00 07 01 d0 00 00 00 00 00 00"
            " 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
        ),
    ),
    (
        "2.2.2.6, back again",
        qlpb.ProbegapProbe(
            7, 0x01D0_0000_0000_0000, 0x0102_0304_0506_0708, 0xFFFF_FFFF_FFFF_FFFF, b"abc", True
        ),
        *2
        * (
            "06 00 00 02 00 00 00 07 01 d0 00 00 00 00 00 00"
            " 01 02 03 04 05 06 07 08 ff ff ff ff ff ff ff ff 61 62 63",
        ),
    ),
]

each_stream = pytest.mark.parametrize(
    ("direction", "message", "msb", "lsb"), [row[1:] for row in STREAM], ids=[r[0] for r in STREAM]
)
each_datagram = pytest.mark.parametrize(
    ("message", "msb", "lsb"), [row[1:] for row in DATAGRAMS], ids=[r[0] for r in DATAGRAMS]
)


def test_every_kind_of_message_is_here() -> None:
    numbers = {int(row[3][:2], 16) for row in STREAM} | {int(row[2][:2], 16) for row in DATAGRAMS}
    assert numbers == set(MessageId)


@each_stream
def test_stream_messages(
    direction: Direction, message: qlpb.StreamMessage, msb: str, lsb: str
) -> None:
    assert qlpb.encode_stream(message).hex(" ") == msb
    assert qlpb.encode_stream(message, LSB).hex(" ") == lsb
    for text in (msb, lsb):
        assert qlpb.StreamDecoder(direction).feed(bytes.fromhex(text)) == [message]


@each_datagram
def test_datagrams(message: qlpb.DatagramMessage, msb: str, lsb: str) -> None:
    filler = b"\xf0\x0d"
    assert qlpb.encode_datagram(message, filler).hex(" ") == msb
    assert qlpb.encode_datagram(message, filler, LSB).hex(" ") == lsb
    for text in (msb, lsb):
        assert qlpb.decode_datagram(bytes.fromhex(text)) == message


def test_a_probe_without_filler_is_filled_with_zeros() -> None:
    probe = qlpb.RouteCheckProbe(1, 0, 2, size_bytes=1472)
    assert qlpb.encode_datagram(probe)[12:] == bytes(1460)


def test_reserved_bits_are_ignored() -> None:
    # Reserved bytes of header and summary, and flags of messages that have none.
    summary = "0a ff ff 01 00 00 00 09 00 00 00 05 ff ff 00 01 00 00 00 00 00 00 00 03"
    decoder = qlpb.StreamDecoder(TO_INITIATOR)
    assert decoder.feed(bytes.fromhex(f"1e ff ff 01 {summary}")) == [
        qlpb.HandshakeSuccess(),
        qlpb.PacketPairSummary(9, 5, (300,)),
    ]
    probe = qlpb.decode_datagram(bytes.fromhex("05 ff ff 02") + bytes(28))
    assert probe == qlpb.ProbegapProbe(0, 0)


@pytest.mark.parametrize("flags", [0x80, 0x01, 0x40, 0xFF])
def test_any_flag_is_the_flag(flags: int) -> None:
    probe = qlpb.decode_datagram(bytes([1, flags, 0, 1, 0, 1, 0, 2, 0, 0, 0, 3]))
    assert probe == qlpb.PacketPairProbe(1, 2, 3, is_first=True)


@pytest.mark.parametrize(
    ("flags", "order"), [(0x80, MSB), (0x01, LSB), (0x00, None), (0x81, None), (0x40, None)]
)
def test_a_peers_order_shows_in_its_flags(flags: int, order: FlagOrder | None) -> None:
    assert qlpb.flag_order_of(bytes([2, flags, 0, 1])) is order
    assert qlpb.flag_order_of(bytes([2, flags])) is None


# Reserved bits in the middle say nothing about the observation.
@pytest.mark.parametrize(("flags", "seen"), [(0x3C, 0), (0x44, 1), (0x21, 1), (0xA0, 2), (0x0A, 2)])
def test_observations_are_found_at_either_end(flags: int, seen: int) -> None:
    decoder = qlpb.StreamDecoder(TO_INITIATOR)
    assert decoder.feed(bytes([0x14, flags, 0, 1])) == [qlpb.RouteCheckSummary(Observation(seen))]


# -- faults ---------------------------------------------------------------------------

BAD_DATAGRAMS = [
    ("", Fault.TOO_SHORT),
    ("01 80 00", Fault.TOO_SHORT),
    ("01 80 00 01 c0 30 00 10 00 00 00", Fault.TOO_SHORT),
    ("02 80 00 01 c0 30 00 05 00 00 00", Fault.TOO_SHORT),
    ("05 00 00 02" + 27 * " 00", Fault.TOO_SHORT),
    ("06 00 00 02" + 27 * " 00", Fault.TOO_SHORT),
    ("01 80 00 02 c0 30 00 10 00 00 00 01", Fault.WRONG_VERSION),
    ("02 80 00 00 c0 30 00 10 00 00 00 01", Fault.WRONG_VERSION),
    ("05 00 00 01" + 28 * " 00", Fault.WRONG_VERSION),
    ("06 00 00 03" + 28 * " 00", Fault.WRONG_VERSION),
    ("01 80 00 01 c0 30 00 01 00 00 00 01", Fault.TRAIN_SIZE_INVALID),
    ("02 00 00 01 c0 30 00 01 00 00 00 01", Fault.TRAIN_SIZE_INVALID),
    ("00 00 00 01", Fault.WRONG_TRANSPORT),
    ("1e 00 00 01", Fault.WRONG_TRANSPORT),
    ("14 00 00 01", Fault.WRONG_TRANSPORT),
    ("03 00 00 01", Fault.UNKNOWN_ID),
    ("96 00 00 01", Fault.OTHER_PROTOCOL),
]


@pytest.mark.parametrize(("text", "fault"), BAD_DATAGRAMS)
def test_bad_datagrams_are_refused_by_name(text: str, fault: Fault) -> None:
    data = bytes.fromhex(text)
    with pytest.raises(MalformedMessage) as caught:
        qlpb.decode_datagram(data)
    assert caught.value.fault is fault
    assert caught.value.evidence == data[:16]


BAD_STREAMS = [
    (TO_SINK, "1e", Fault.WRONG_DIRECTION),
    (TO_SINK, "0a", Fault.WRONG_DIRECTION),
    (TO_SINK, "14", Fault.WRONG_DIRECTION),
    (TO_SINK, "05", Fault.WRONG_TRANSPORT),
    (TO_SINK, "96", Fault.OTHER_PROTOCOL),
    (TO_SINK, "47", Fault.UNKNOWN_ID),
    (TO_SINK, "01 00 00 02", Fault.WRONG_VERSION),
    (TO_SINK, "00 00 00 02", Fault.WRONG_VERSION),
    (TO_INITIATOR, "00", Fault.WRONG_DIRECTION),
    (TO_INITIATOR, "01", Fault.WRONG_DIRECTION),
    (TO_INITIATOR, "02", Fault.WRONG_DIRECTION),
    (TO_INITIATOR, "06", Fault.WRONG_TRANSPORT),
    (TO_INITIATOR, "96", Fault.OTHER_PROTOCOL),
    (TO_INITIATOR, "ff", Fault.UNKNOWN_ID),
    (TO_INITIATOR, "1e 00 00 00", Fault.WRONG_VERSION),
    (TO_INITIATOR, "14 c0 00 01", Fault.OBSERVATION_INVALID),
    (TO_INITIATOR, "14 03 00 01", Fault.OBSERVATION_INVALID),
    (TO_INITIATOR, "14 41 00 01", Fault.OBSERVATION_INVALID),
    (TO_INITIATOR, "0a 00 00 01" + 10 * " 00" + " 00 00", Fault.TRAIN_SIZE_INVALID),
    (TO_INITIATOR, "0a 00 00 01" + 10 * " 00" + " ff ff", Fault.TRAIN_SIZE_INVALID),
]


@pytest.mark.parametrize(("direction", "text", "fault"), BAD_STREAMS)
def test_bad_streams_are_refused_by_name(direction: Direction, text: str, fault: Fault) -> None:
    decoder = qlpb.StreamDecoder(direction)
    with pytest.raises(MalformedMessage) as caught:
        decoder.feed(bytes.fromhex(text))
    assert caught.value.fault is fault
    assert decoder.pending_bytes == 0


def test_a_longer_train_than_any_that_was_sent_is_refused() -> None:
    summary = qlpb.PacketPairSummary(1, 0, (100,) * 31)
    assert qlpb.StreamDecoder(TO_INITIATOR, 31).feed(qlpb.encode_stream(summary)) == [summary]
    with pytest.raises(MalformedMessage) as caught:
        # The number is enough: none of the deltas is waited for.
        qlpb.StreamDecoder(TO_INITIATOR, 30).feed(qlpb.encode_stream(summary)[:16])
    assert caught.value.fault is Fault.TRAIN_TOO_LONG


def test_a_fault_comes_with_what_was_in_order_and_stays() -> None:
    decoder = qlpb.StreamDecoder(TO_INITIATOR)
    with pytest.raises(MalformedMessage) as caught:
        decoder.feed(bytes.fromhex("1e 00 00 01 14 80 00 01 96 01"))
    assert caught.value.decoded == (
        qlpb.HandshakeSuccess(),
        qlpb.RouteCheckSummary(Observation.LOSS),
    )
    assert caught.value.evidence == b"\x96\x01"
    with pytest.raises(MalformedMessage) as again:
        decoder.feed(bytes.fromhex("1e 00 00 01"))
    assert again.value.fault is Fault.OTHER_PROTOCOL
    assert again.value.decoded == ()


def test_a_fault_is_an_error_of_ours_and_of_python() -> None:
    error = MalformedMessage(Fault.UNKNOWN_ID, b"GET / HTTP/1.1\r\nHost: nobody")
    assert isinstance(error, QosError)
    assert isinstance(error, ValueError)
    assert error.code is ErrorCode.ERROR_UNEXP_NET_ERR
    assert str(error) == (
        "ERROR_UNEXP_NET_ERR: no message has this number: "
        "47 45 54 20 2f 20 48 54 54 50 2f 31 2e 31 0d 0a"
    )


def test_what_follows_a_discard_is_not_read() -> None:
    decoder = qlpb.StreamDecoder(TO_SINK)
    assert decoder.feed(bytes.fromhex("00 00 00 01 96 96")) == [qlpb.Discard()]
    assert decoder.feed(bytes(100_000)) == []
    assert decoder.pending_bytes == 0


# -- what cannot be written -----------------------------------------------------------


def test_speed_stops_at_its_fields_end() -> None:
    fast = qlpb.encode_stream(qlpb.PacketPairSummary(1, 10_000_000_000, (100,)))
    assert fast[8:12] == b"\xff\xff\xff\xff"


def test_parts_of_a_tick_are_left_out() -> None:
    data = qlpb.encode_stream(qlpb.PacketPairSummary(1, 1, (199,)))
    assert qlpb.StreamDecoder(TO_INITIATOR).feed(data) == [qlpb.PacketPairSummary(1, 1, (100,))]


@pytest.mark.parametrize(
    "message",
    [
        qlpb.PacketPairSummary(1, 1, ()),
        qlpb.PacketPairSummary(1, 1, (0,) * 65_535),
        qlpb.PacketPairSummary(1, 1, (-100,)),
        qlpb.PacketPairSummary(1 << 32, 1, (100,)),
        qlpb.PacketPairSummary(1, -1, (100,)),
    ],
)
def test_summaries_that_do_not_fit(message: qlpb.PacketPairSummary) -> None:
    with pytest.raises(InvalidParameter):
        qlpb.encode_stream(message)


@pytest.mark.parametrize(
    "message",
    [
        qlpb.PacketPairProbe(1, 1, 1),
        qlpb.PacketPairProbe(65_536, 2, 1),
        qlpb.PacketPairProbe(1, 65_536, 1),
        qlpb.PacketPairProbe(1, 2, 1 << 32),
        qlpb.PacketPairProbe(1, 2, 1, size_bytes=11),
        qlpb.RouteCheckProbe(1, 1, 1),
        qlpb.RouteCheckProbe(-1, 2, 1),
        qlpb.ProbegapProbe(1, -1),
        qlpb.ProbegapProbe(1, 0, 1 << 64),
    ],
)
def test_probes_that_do_not_fit(message: qlpb.DatagramMessage) -> None:
    with pytest.raises(InvalidParameter):
        qlpb.encode_datagram(message)

"""What is written is read again, and it never matters where a connection's bytes are cut."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from openqwave.wire import qlpb
from openqwave.wire.faults import MalformedMessage
from openqwave.wire.qlpb import Direction, FlagOrder, Observation

U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
TRAIN_SIZES = st.integers(0, 0xFFFF).filter(lambda size: size != 1)
SIZES = st.integers(qlpb.PROBE_MIN_BYTES, 1472)
ORDERS = st.sampled_from(FlagOrder)

PROBES: st.SearchStrategy[qlpb.DatagramMessage] = st.one_of(
    st.builds(qlpb.PacketPairProbe, U16, TRAIN_SIZES, U32, st.booleans(), SIZES),
    st.builds(qlpb.RouteCheckProbe, U16, TRAIN_SIZES, U32, st.booleans(), SIZES),
    st.builds(qlpb.ProbegapProbe, U32, U64, U64, U64, st.binary(max_size=64), st.booleans()),
)
DELTAS = st.lists(U64.map(lambda ticks: ticks * qlpb.TICK_NS), min_size=1, max_size=40).map(tuple)
SUMMARIES: st.SearchStrategy[qlpb.StreamMessage] = st.one_of(
    st.builds(qlpb.HandshakeSuccess),
    st.builds(qlpb.RouteCheckSummary, st.sampled_from(Observation)),
    st.builds(qlpb.PacketPairSummary, U32, U32, DELTAS),
)
HANDSHAKES: st.SearchStrategy[qlpb.StreamMessage] = st.one_of(
    st.builds(qlpb.PacketPairHandshake), st.builds(qlpb.RouteCheckHandshake)
)


@given(PROBES, st.binary(max_size=8), ORDERS)
def test_probes(message: qlpb.DatagramMessage, filler: bytes, order: FlagOrder) -> None:
    data = qlpb.encode_datagram(message, filler, order)
    assert qlpb.decode_datagram(data) == message
    if not isinstance(message, qlpb.ProbegapProbe):
        assert len(data) == message.size_bytes
        assert qlpb.flag_order_of(data) in (order, None)


def fed(
    direction: Direction, pieces: list[bytes]
) -> tuple[list[qlpb.StreamMessage], MalformedMessage | None]:
    """What a decoder makes of a connection, up to its first fault."""
    decoder, messages = qlpb.StreamDecoder(direction), list[qlpb.StreamMessage]()
    for piece in pieces:
        try:
            messages += decoder.feed(piece)
        except MalformedMessage as error:
            return [*messages, *error.decoded], error
    return messages, None


@st.composite
def cut(draw: st.DrawFn, whole: bytes) -> list[bytes]:
    """The bytes in pieces, some of them empty."""
    places = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    edges = [0, *places, len(whole)]
    return [whole[start:end] for start, end in itertools.pairwise(edges)]


@given(st.data(), st.lists(SUMMARIES, max_size=6), ORDERS)
def test_what_a_sink_sends(
    data: st.DataObject, messages: list[qlpb.StreamMessage], order: FlagOrder
) -> None:
    whole = b"".join(qlpb.encode_stream(message, order) for message in messages)
    assert fed(Direction.TO_INITIATOR, [whole]) == (messages, None)
    assert fed(Direction.TO_INITIATOR, data.draw(cut(whole))) == (messages, None)
    assert fed(Direction.TO_INITIATOR, [bytes((byte,)) for byte in whole]) == (messages, None)


@given(st.data(), st.lists(HANDSHAKES, max_size=4), st.none() | st.binary(max_size=40))
def test_what_an_initiator_sends(
    data: st.DataObject, messages: list[qlpb.StreamMessage], thrown_away: bytes | None
) -> None:
    whole = b"".join(qlpb.encode_stream(message) for message in messages)
    if thrown_away is not None:
        messages = [*messages, qlpb.Discard()]
        whole += qlpb.encode_stream(qlpb.Discard()) + thrown_away
    assert fed(Direction.TO_SINK, data.draw(cut(whole))) == (messages, None)
    assert fed(Direction.TO_SINK, [bytes((byte,)) for byte in whole]) == (messages, None)


@given(st.data(), st.sampled_from(Direction), st.lists(SUMMARIES, max_size=3), st.binary())
def test_faults_are_the_same_however_they_are_cut(
    data: st.DataObject,
    direction: Direction,
    messages: list[qlpb.StreamMessage],
    garbage: bytes,
) -> None:
    whole = b"".join(map(qlpb.encode_stream, messages)) + garbage
    expected, error = fed(direction, [whole])
    for pieces in (data.draw(cut(whole)), [bytes((byte,)) for byte in whole]):
        found, other = fed(direction, pieces)
        assert found == expected
        assert (other and other.fault) == (error and error.fault)


@given(st.integers(1, 200), st.lists(SUMMARIES, max_size=4))
def test_a_decoder_keeps_no_more_than_one_message(
    step: int, messages: list[qlpb.StreamMessage]
) -> None:
    whole = b"".join(map(qlpb.encode_stream, messages))
    decoder = qlpb.StreamDecoder(Direction.TO_INITIATOR, max_deltas=40)
    for start in range(0, len(whole), step):
        decoder.feed(whole[start : start + step])
        assert decoder.pending_bytes < 16 + 8 * 40

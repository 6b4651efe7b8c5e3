"""Garbage for the decoders of MS-QLPB: a message or `MalformedMessage` comes out, nothing else.

The targets are functions of bytes that raise when something is wrong, so a coverage-guided
fuzzer can call them as they are. Here they get a corpus of good messages, the same with a few
bytes changed, and bytes of Hypothesis' choice.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwave.wire import qlpb
from openqwave.wire.faults import EVIDENCE_BYTES, Fault, MalformedMessage
from openqwave.wire.qlpb import Direction, FlagOrder, Observation

Target = Callable[[bytes], None]

# Small, so that the fuzzer reaches the limit; a train of nine packets.
MAX_DELTAS = 8


def fuzz_datagram(data: bytes) -> None:
    """Any datagram is a probe that says the same when written again, or malformed."""
    try:
        message = qlpb.decode_datagram(data)
    except MalformedMessage as error:
        evidence = error.evidence
    else:
        _fuzz_again(message, data)
        return
    assert evidence == data[:EVIDENCE_BYTES]


def _fuzz_again(message: qlpb.DatagramMessage, data: bytes) -> None:
    order = qlpb.flag_order_of(data) or FlagOrder.MSB_FIRST
    again = qlpb.encode_datagram(message, data[qlpb.PROBE_MIN_BYTES :], order)
    # The reserved byte, and flags that mean nothing, are not kept.
    assert (again[0], again[3:]) == (data[0], data[3:])
    assert qlpb.decode_datagram(again) == message


def _read(direction: Direction, pieces: list[bytes]) -> tuple[list[object], Fault | None]:
    decoder, messages = qlpb.StreamDecoder(direction, MAX_DELTAS), list[object]()
    for piece in pieces:
        try:
            messages += decoder.feed(piece)
        except MalformedMessage as error:
            return [*messages, *error.decoded], error.fault
        assert decoder.pending_bytes < 16 + 8 * MAX_DELTAS
    return messages, None


def _fuzz_stream(direction: Direction, data: bytes) -> None:
    whole = _read(direction, [data])
    assert whole == _read(direction, [data[at : at + 1] for at in range(len(data))])


def fuzz_stream_to_sink(data: bytes) -> None:
    """A connection's bytes give the same messages and fault whole and one by one."""
    _fuzz_stream(Direction.TO_SINK, data)


def fuzz_stream_to_initiator(data: bytes) -> None:
    """The same for what a sink sends."""
    _fuzz_stream(Direction.TO_INITIATOR, data)


PROBES: list[qlpb.DatagramMessage] = [
    qlpb.PacketPairProbe(49_200, 16, 1, True),
    qlpb.PacketPairProbe(49_200, 0, 2, False, 40),
    qlpb.RouteCheckProbe(49_200, 0, 1, True, 30),
    qlpb.RouteCheckProbe(49_200, 5, 5),
    qlpb.ProbegapProbe(7, 1 << 60),
    qlpb.ProbegapProbe(7, 1 << 60, 5, 6, b"filler", True),
]
CONNECTIONS: list[list[qlpb.StreamMessage]] = [
    [qlpb.Discard()],
    [qlpb.PacketPairHandshake(), qlpb.RouteCheckHandshake()],
    [qlpb.HandshakeSuccess(), *map(qlpb.RouteCheckSummary, Observation)],
    [qlpb.HandshakeSuccess(), qlpb.PacketPairSummary(1, 10**9, (100, 200))],
    [qlpb.PacketPairSummary(1, 10**9, (100,) * MAX_DELTAS)],
    [qlpb.PacketPairSummary(1, 10**9, (100,) * (MAX_DELTAS + 1))],
]
CORPUS = [
    b"",
    b"\x96\x01\x00\x00",
    b"GET / HTTP/1.1\r\n",
    bytes(1500),
    b"\xff" * 1500,
    *(qlpb.encode_datagram(probe, order=order) for probe in PROBES for order in FlagOrder),
    *(
        b"".join(qlpb.encode_stream(message, order) for message in messages)
        for messages in CONNECTIONS
        for order in FlagOrder
    ),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good message with some bytes changed, some left out and some more at the end."""
    data = bytearray(draw(st.sampled_from(CORPUS)) + draw(st.sampled_from(CORPUS)))
    for _ in range(draw(st.integers(0, 4))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        start = draw(st.integers(0, len(data)))
        del data[start : start + draw(st.integers(1, 8))]
    return bytes(data) + draw(st.binary(max_size=8))


# The same bytes everywhere and always; one example costs microseconds.
FIXED = settings(derandomize=True, deadline=None, database=None)

each_target = pytest.mark.parametrize(
    "target", [fuzz_datagram, fuzz_stream_to_sink, fuzz_stream_to_initiator]
)


@each_target
@pytest.mark.parametrize("data", CORPUS, ids=range(len(CORPUS)))
def test_corpus(target: Target, data: bytes) -> None:
    target(data)
    # Cut short anywhere, and with another first byte.
    for end in range(min(len(data), 64)):
        target(data[:end])
    for number in range(256):
        target(bytes((number,)) + data[1:])


@each_target
@given(data=mutated() | st.binary(max_size=200))
@settings(FIXED, max_examples=1500)
def test_garbage(target: Target, data: bytes) -> None:
    target(data)

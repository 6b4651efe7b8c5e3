"""Initiators that mean ill: the sink neither fails nor grows, and honest peers are still served.

What the sink keeps is weighed from outside: every object that can be reached from it, in bytes.
"""

from __future__ import annotations

import gc
import random
import sys
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwave.probing.sink import Sink
from openqwave.probing.sink_limits import SinkLimits
from openqwave.probing.sink_reports import Refused
from openqwave.wire import qlpb
from tests.unit.driven_sink import (
    DISCARD,
    HOST,
    PAIR,
    ROUTE,
    SECOND,
    STAMP_NS,
    DrivenSink,
)

# Small enough to be reached in a moment.
LIMITS = SinkLimits(
    sessions=16,
    sessions_per_peer=4,
    peer_datagrams_per_s=2_000,
    peer_burst=500,
    datagrams_per_s=5_000,
    strangers_per_s=2_500,
    burst=1_000,
    peers=64,
    train_packets=128,
    discard_bytes=100_000,
    events=100,
)

# What the limits add up to: each session with a train all but complete, each address with its
# bucket, each event. Python's objects are heavy: 32 bytes a number, 100 and more an event.
WEIGHT_BYTES = 16 * (2_000 + 128 * 50) + 64 * 300 + 100 * 400 + 20_000

_CODE = type, ModuleType, FunctionType, MethodType, BuiltinFunctionType


def weight_bytes(sink: Sink) -> int:
    """The size of all that a sink keeps, but for classes, functions and members of enums."""
    seen, todo, total = set[int](), [sink], 0
    while todo:
        one: object = todo.pop()
        if id(one) in seen or isinstance(one, (*_CODE, Refused)):
            continue
        seen.add(id(one))
        total += sys.getsizeof(one)
        todo += gc.get_referents(one)
    return total


def address(number: int) -> bytes:
    """One of 65,536 hosts."""
    return bytes((10, 66, number >> 8 & 255, number & 255))


@pytest.fixture
def driven() -> DrivenSink:
    """A sink with small limits."""
    return DrivenSink(LIMITS)


def check_honest(driven: DrivenSink) -> None:
    """An honest peer gets all it wants, when those before it are gone or silent for a while."""
    driven.wait(60 * SECOND)
    assert driven.sink.counts.open_sessions == 0
    pair, route = driven.open(PAIR), driven.open(ROUTE, port=2)
    for number in range(1, 17):
        driven.probe(qlpb.PacketPairProbe(49_200, 16, number, number == 1), number * 1000)
    assert driven.messages(pair) == [qlpb.PacketPairSummary(1, 10**9, (1000,) * 15)]
    for number in range(1, 6):
        driven.probe(qlpb.RouteCheckProbe(2, 5 if number == 5 else 0, number, number == 1))
    assert driven.messages(route) == [qlpb.RouteCheckSummary(qlpb.Observation.NO_ISSUE)]
    before = len(driven.replies)
    driven.probe(qlpb.ProbegapProbe(1, 2), port=qlpb.PORT)
    assert len(driven.replies) == before + 1
    assert weight_bytes(driven.sink) <= WEIGHT_BYTES


def test_the_weight_is_felt() -> None:
    # Scales that show nothing would pass every test below.
    driven = DrivenSink(LIMITS)
    empty = weight_bytes(driven.sink)
    driven.open(PAIR)
    one = weight_bytes(driven.sink)
    assert one > empty + 500
    for number in range(1, 101):
        probe = qlpb.PacketPairProbe(49_200, 128, number, number == 1)
        driven.probe(probe, STAMP_NS + number * 1000)
    assert weight_bytes(driven.sink) > one + 100 * 32
    assert weight_bytes(DrivenSink(LIMITS).sink) == empty


def test_thousands_of_connections_of_one_host(driven: DrivenSink) -> None:
    for port in range(5_000):
        driven.connect(port=port)
    assert driven.sink.counts.open_sessions == 4
    assert driven.refused == {Refused.TOO_MANY_OF_PEER: 4_996}
    assert len(driven.closed) == 4_996
    assert weight_bytes(driven.sink) <= WEIGHT_BYTES
    check_honest(driven)


def test_thousands_of_connections_of_thousands_of_hosts(driven: DrivenSink) -> None:
    for number in range(5_000):
        connection = driven.connect(address(number))
        driven.feed(connection, PAIR)
    assert driven.sink.counts.open_sessions == 16
    assert weight_bytes(driven.sink) <= WEIGHT_BYTES
    check_honest(driven)


def test_connections_that_come_and_go(driven: DrivenSink) -> None:
    for number in range(5_000):
        driven.hang_up(driven.open((PAIR, ROUTE, DISCARD)[number % 3], address(number)))
        driven.hang_up(driven.connect(address(number)))
    assert driven.sink.counts.open_sessions == 0
    assert driven.refused == {}
    assert weight_bytes(driven.sink) <= WEIGHT_BYTES
    check_honest(driven)


def test_silent_connections_and_half_handshakes(driven: DrivenSink) -> None:
    for round_ in range(20):
        for number in range(16):
            connection = driven.connect(address(number))
            driven.feed(connection, PAIR[: number % 4])
        assert driven.sink.counts.open_sessions == 16
        driven.wait(5 * SECOND)
        assert driven.sink.counts.open_sessions == 0
        assert driven.refused == {Refused.NO_HANDSHAKE: 16 * (round_ + 1)}
    check_honest(driven)


def test_a_handshake_that_never_ends(driven: DrivenSink) -> None:
    # One byte every second keeps no place longer than any other way.
    connection = driven.connect()
    for byte in PAIR[:3]:
        driven.feed(connection, bytes((byte,)))
        driven.wait(SECOND)
    driven.wait(2 * SECOND)
    assert driven.closed == [connection]


@pytest.mark.parametrize("data", [bytes(1 << 20), b"\x01" * (1 << 20), b"\xff" * (1 << 20)])
@pytest.mark.parametrize("hello", [b"", PAIR, ROUTE, DISCARD])
def test_endless_data(driven: DrivenSink, hello: bytes, data: bytes) -> None:
    connection = driven.connect()
    driven.feed(connection, hello)
    for start in range(0, len(data), 1 << 14):
        if connection in driven.closed:
            break
        driven.feed(connection, data[start : start + (1 << 14)])
        assert weight_bytes(driven.sink) <= WEIGHT_BYTES
    assert connection in driven.closed
    assert driven.sink.counts.discarded_bytes <= 100_000 + (1 << 14)
    check_honest(driven)


def test_trains_that_never_end(driven: DrivenSink) -> None:
    for number in range(16):
        port = 100 + number
        driven.open(PAIR, address(number // 4), port)
        # All but the last packet of the longest train that is timed.
        for sequence in range(1, 128):
            probe = qlpb.PacketPairProbe(port, 128, sequence, sequence == 1)
            driven.probe(probe, STAMP_NS + sequence * 1000, address=address(number // 4))
            driven.now_ns += 500_000
    heavy = weight_bytes(driven.sink)
    assert 16 * 127 * 32 < heavy <= WEIGHT_BYTES
    # And then those packets again and again, and beginnings without an end.
    for number in range(20_000):
        sequence = number % 127 + 1
        first = number % 3 == 0
        probe = qlpb.PacketPairProbe(100, 128, sequence, first)
        driven.probe(probe, STAMP_NS + number * 1000, address=address(0))
        driven.now_ns += 500_000
    assert weight_bytes(driven.sink) <= heavy + 10_000
    assert driven.sink.counts.trains == 0
    check_honest(driven)


def test_the_longest_train_that_can_be_announced(driven: DrivenSink) -> None:
    driven.open(PAIR)
    for sequence in range(10_000):
        driven.probe(qlpb.PacketPairProbe(49_200, 0xFFFF, sequence, sequence == 0))
        driven.now_ns += 500_000
    assert driven.refused == {Refused.TRAIN_TOO_LONG: 1, Refused.OUT_OF_TRAIN: 9_999}
    check_honest(driven)


def test_a_flood_from_one_address(driven: DrivenSink) -> None:
    probe = qlpb.encode_datagram(qlpb.ProbegapProbe(1, 2))
    for _ in range(50_000):
        driven.datagram(probe, port=qlpb.PORT)
        driven.now_ns += 20_000
    # A second of it: the burst and the rate.
    assert len(driven.replies) <= 500 + 2_000
    assert driven.refused[Refused.PEER_TOO_FAST] >= 47_000
    assert weight_bytes(driven.sink) <= WEIGHT_BYTES
    check_honest(driven)


def test_a_flood_from_forged_addresses(driven: DrivenSink) -> None:
    connection = driven.open(PAIR)
    probe = qlpb.encode_datagram(qlpb.ProbegapProbe(1, 2))
    sequence = 0
    for number in range(50_000):
        driven.datagram(probe, address(number), qlpb.PORT)
        driven.now_ns += 20_000
        if number % 100 == 0:
            # Who has a connection is served meanwhile.
            sequence += 2
            for one in (sequence, sequence + 1):
                driven.probe(qlpb.PacketPairProbe(49_200, 2, one, one == sequence))
    assert len(driven.messages(connection)) == 500
    assert len(driven.replies) <= 1_000 + 2_500
    assert weight_bytes(driven.sink) <= WEIGHT_BYTES
    check_honest(driven)


def test_refusals_do_not_fill_a_log(driven: DrivenSink) -> None:
    lines = 0
    for number in range(20_000):
        driven.datagram(b"garbage", address(number % 50))
        driven.now_ns += 1_000_000
        lines += len(driven.events())
        due_ns = driven.sink.next_timer_ns()
        if due_ns is not None and due_ns <= driven.now_ns:
            driven.sink.handle_timer(now_ns=driven.now_ns)
    assert driven.refused == {Refused.MALFORMED_DATAGRAM: 20_000}
    assert 19 <= lines <= 21


def test_numbers_at_their_ends(driven: DrivenSink) -> None:
    last = (1 << 32) - 1
    connections = {PAIR: driven.open(PAIR), ROUTE: driven.open(ROUTE, port=2)}
    for sequence in (last, 0, last - 1, last, 0, 1, last):
        for train_size in (0, 2, 3, 0xFFFF):
            for flag in (True, False):
                driven.probe(qlpb.PacketPairProbe(49_200, train_size, sequence, flag), port=0)
                driven.probe(qlpb.RouteCheckProbe(2, train_size, sequence, flag), port=0xFFFF)
    driven.probe(qlpb.ProbegapProbe(last, (1 << 64) - 1), (1 << 64) - 1, port=qlpb.PORT)
    assert driven.replies[-1].encode((1 << 64) - 1)[4:8] == b"\xff" * 4
    assert not set(driven.closed) & set(connections.values())
    check_honest(driven)


# -- anything at all ------------------------------------------------------------------

PIECES = [
    b"",
    PAIR,
    ROUTE,
    DISCARD,
    PAIR[:2],
    PAIR[2:],
    qlpb.encode_stream(qlpb.HandshakeSuccess()),
    qlpb.encode_stream(qlpb.PacketPairSummary(1, 2, (100,))),
    b"\x96\x00\x00\x01",
    bytes(5_000),
]


def one_datagram(choice: random.Random) -> bytes:
    """A probe that may be in order, or bytes that cannot be."""
    port, sequence = choice.randrange(4), choice.choice([0, 1, 2, 3, (1 << 32) - 1])
    size = choice.choice([0, 0, 2, 2, 3, 128, 129, 0xFFFF])
    probe: qlpb.DatagramMessage
    match choice.randrange(5):
        case 0:
            probe = qlpb.PacketPairProbe(port, size, sequence, choice.random() < 0.4)
        case 1:
            probe = qlpb.RouteCheckProbe(port, size, sequence, choice.random() < 0.4)
        case 2:
            probe = qlpb.ProbegapProbe(sequence, 1, is_returned=choice.random() < 0.4)
        case 3:
            return choice.randbytes(choice.randrange(60))
        case _:
            whole = qlpb.encode_datagram(qlpb.ProbegapProbe(sequence, 1))
            return whole[: choice.randrange(33)]
    return qlpb.encode_datagram(probe)


def torment(driven: DrivenSink, choice: random.Random, steps: int) -> None:
    """Do anything that a peer can do, in any order."""
    for _ in range(steps):
        # The newest connections, mostly; some that are over, and one that never was.
        connection = driven.sink.counts.connections + 1 - choice.randrange(20)
        host, port = address(choice.randrange(6)), choice.randrange(4)
        match choice.randrange(20):
            case 0 | 1:
                driven.connect(host, port)
            case 2 | 3 | 4:
                driven.feed(connection, choice.choice(PIECES))
            case 5:
                driven.feed(connection, choice.randbytes(choice.randrange(40)))
            case 6:
                driven.hang_up(connection)
            case 7:
                for sequence in (5, 6):
                    probe = qlpb.PacketPairProbe(port, 2, sequence, sequence == 5)
                    driven.probe(probe, address=host)
            case 8:
                driven.wait(choice.choice([1, 1_000, 1_000_000, SECOND, 20 * SECOND]))
            case _:
                stamp_ns = choice.choice([0, -1, STAMP_NS, driven.now_ns, 1 << 70])
                source = choice.choice([1, qlpb.PORT])
                driven.datagram(one_datagram(choice), host, source, stamp_ns)
        driven.closed.clear()
        driven.replies.clear()


@pytest.mark.parametrize("seed", range(5))
def test_anything_for_long(driven: DrivenSink, seed: int) -> None:
    choice = random.Random(seed)
    for _ in range(20):
        torment(driven, choice, 500)
        assert weight_bytes(driven.sink) <= WEIGHT_BYTES
        assert driven.sink.counts.open_sessions <= 16
    counts = driven.sink.counts
    # All of it was reached: this is no sink that refuses everything.
    assert min(counts.trains, counts.groups, counts.gaps, counts.discarded_bytes) > 0
    driven.closed.clear()
    check_honest(driven)


@given(st.lists(st.binary(max_size=40), max_size=20), st.lists(st.binary(max_size=40)))
@settings(derandomize=True, deadline=None, database=None)
def test_garbage_everywhere(pieces: list[bytes], datagrams: list[bytes]) -> None:
    driven = DrivenSink(LIMITS)
    connection = driven.connect()
    for piece in pieces:
        driven.feed(connection, piece)
    for datagram in datagrams:
        driven.datagram(datagram, HOST, qlpb.PORT)
    check_honest(driven)

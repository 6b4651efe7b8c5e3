"""Probes that are sent back (MS-QLPB 3.2.5.6), and how many datagrams are let in."""

from __future__ import annotations

import pytest

from openqwave.model.endpoint import Endpoint
from openqwave.probing.sink_limits import Rates, SinkLimits, TokenBucket
from openqwave.probing.sink_reports import Refused
from openqwave.wire import qlpb
from tests.unit.driven_sink import HOST, OTHER, PAIR, SECOND, STAMP_NS, DrivenSink

PORT = qlpb.PORT
PROBE = qlpb.ProbegapProbe(7, 0x01D0_0000_0000_0000, filler=b"filler")


def test_a_probe_comes_back_with_its_times() -> None:
    driven = DrivenSink()
    # The stamps of the sink's that an initiator sends mean nothing.
    driven.probe(
        qlpb.ProbegapProbe(7, 0x01D0_0000_0000_0000, 5, 6, b"filler"), STAMP_NS + 199, port=PORT
    )
    (reply,) = driven.replies
    assert reply.peer == Endpoint(HOST, PORT)
    assert (
        reply.encode(STAMP_NS + 10_099)
        == bytes.fromhex("06 00 00 02 00 00 00 07 01 d0 00 00 00 00 00 00")
        + (STAMP_NS // 100 + 1).to_bytes(8)
        + (STAMP_NS // 100 + 100).to_bytes(8)
        + b"filler"
    )
    assert driven.sink.counts.gaps == 1
    assert driven.events() == []


def test_a_reply_is_as_long_as_its_probe() -> None:
    driven = DrivenSink()
    for size in (0, 1, 1436):
        driven.probe(qlpb.ProbegapProbe(1, 2, filler=b"x" * size), port=PORT)
    assert [len(reply.encode(0)) for reply in driven.replies] == [32, 33, 1468]


@pytest.mark.parametrize("stamp_ns", [0, -100, 1 << 70])
def test_silly_stamps_fit(stamp_ns: int) -> None:
    driven = DrivenSink()
    driven.probe(PROBE, stamp_ns, port=PORT)
    assert len(driven.replies[0].encode(stamp_ns)) == 38


@pytest.mark.parametrize("port", [0, 53, 2176, 2178, 50_000])
def test_no_other_port_is_answered(port: int) -> None:
    driven = DrivenSink()
    driven.probe(PROBE, port=port)
    assert driven.replies == []
    assert driven.refused == {Refused.REFLECTION: 1}


def test_returned_probes_are_not_answered() -> None:
    # Two sinks would answer each other for ever.
    driven = DrivenSink()
    driven.probe(qlpb.ProbegapProbe(1, 2, 3, 4, is_returned=True), port=PORT)
    assert driven.replies == []
    assert driven.refused == {Refused.RETURNED_PROBE: 1}


def test_malformed_probes_are_not_answered() -> None:
    driven = DrivenSink()
    good = qlpb.encode_datagram(PROBE)
    for data in (b"", good[:31], good[:3] + b"\x01" + good[4:]):
        driven.datagram(data, port=PORT)
    assert driven.replies == []
    assert driven.refused == {Refused.MALFORMED_DATAGRAM: 3}


def test_no_connection_is_needed_and_none_is_disturbed() -> None:
    driven = DrivenSink()
    connection = driven.open(PAIR)
    driven.probe(PROBE, port=PORT)
    driven.probe(PROBE, address=OTHER, port=PORT)
    assert [reply.peer.packed for reply in driven.replies] == [HOST, OTHER]
    assert driven.sent(connection) == b""


# -- how many -------------------------------------------------------------------------


def test_a_bucket_lets_a_burst_through_and_then_the_rate() -> None:
    bucket = TokenBucket(per_s=1000, burst=5)
    assert [bucket.take(0) for _ in range(6)] == [True] * 5 + [False]
    # One more for each millisecond, and none of those that were refused is owed.
    taken = sum(bucket.take(now_ns) for now_ns in range(0, SECOND, 100_000))
    assert taken == 999
    # A pause is saved up to the burst.
    later = [bucket.take(10 * SECOND) for _ in range(6)]
    assert later == [True] * 5 + [False]


def test_a_peer_sends_so_fast() -> None:
    driven = DrivenSink(SinkLimits(peer_datagrams_per_s=1000, peer_burst=5))
    for _ in range(20):
        driven.probe(PROBE, port=PORT)
    assert len(driven.replies) == 5
    assert driven.refused == {Refused.PEER_TOO_FAST: 15}
    # Others are not concerned, and a millisecond is worth one.
    driven.probe(PROBE, address=OTHER, port=PORT)
    driven.now_ns += 1_000_000
    driven.probe(PROBE, port=PORT)
    driven.probe(PROBE, port=PORT)
    assert len(driven.replies) == 7


def test_garbage_counts_as_well() -> None:
    driven = DrivenSink(SinkLimits(peer_burst=5))
    for _ in range(5):
        driven.datagram(b"garbage")
    driven.probe(PROBE, port=PORT)
    assert driven.replies == []
    assert driven.refused == {Refused.MALFORMED_DATAGRAM: 5, Refused.PEER_TOO_FAST: 1}


def test_all_send_so_fast() -> None:
    driven = DrivenSink(SinkLimits(datagrams_per_s=1000, strangers_per_s=1000, burst=10))
    for last in range(1, 51):
        driven.probe(PROBE, address=bytes((192, 0, 2, last)), port=PORT)
    assert len(driven.replies) == 10
    assert driven.refused == {Refused.ALL_TOO_FAST: 40}


def test_peers_with_connections_send_so_fast_in_all() -> None:
    driven = DrivenSink(SinkLimits(datagrams_per_s=1000, burst=10))
    for address in (HOST, OTHER):
        driven.open(PAIR, address)
        for _ in range(10):
            driven.probe(PROBE, address=address, port=PORT)
    assert [reply.peer.packed for reply in driven.replies] == [HOST] * 10
    assert driven.refused == {Refused.ALL_TOO_FAST: 10}


def test_connecting_again_and_again_makes_no_peer_faster() -> None:
    driven = DrivenSink(SinkLimits(peer_burst=5))
    for port in range(6):
        driven.probe(PROBE, port=PORT)
        connection = driven.open(PAIR, port=port)
        if port % 2:
            driven.hang_up(connection)
    assert len(driven.replies) == 5
    assert driven.refused == {Refused.PEER_TOO_FAST: 1}


def test_strangers_leave_the_rest_to_peers_with_a_connection() -> None:
    # 1,000 forged senders a second and one true one, for a second.
    limits = SinkLimits(datagrams_per_s=200, strangers_per_s=100, burst=10)
    driven = DrivenSink(limits)
    driven.open(PAIR)
    for number in range(1000):
        driven.now_ns += 1_000_000
        driven.probe(PROBE, address=bytes((10, 0, number >> 8, number & 255)), port=PORT)
        if number % 20 == 0:
            driven.probe(PROBE, port=PORT)
    answered = [reply.peer.packed for reply in driven.replies]
    assert answered.count(HOST) == 50
    # The burst and a second's worth.
    assert 100 <= len(answered) - 50 <= 110


def test_so_many_addresses_are_remembered() -> None:
    rates = Rates(SinkLimits(peers=100, peer_burst=2))
    true = bytes((10, 9, 9, 9))
    rates.hold(true)
    assert [rates.take(true, 0) for _ in range(3)] == [None, None, Refused.PEER_TOO_FAST]
    for number in range(10_000):
        rates.take(bytes((10, 0, number >> 8, number & 255)), 0)
        assert rates.remembered <= 101
    # Nobody is forgotten who has a connection, nor a guilty one for hanging up.
    assert rates.take(true, 0) is Refused.PEER_TOO_FAST
    rates.release(true)
    assert rates.take(true, 0) is Refused.PEER_TOO_FAST
    rates.hold(true)
    assert rates.take(true, 0) is Refused.PEER_TOO_FAST
    assert rates.remembered <= 101


def test_who_sends_often_is_remembered_longest() -> None:
    rates = Rates(SinkLimits(peers=10, peer_burst=1, strangers_per_s=10**6))
    busy = bytes((10, 9, 9, 9))
    assert rates.take(busy, 0) is None
    for number in range(100):
        rates.take(bytes((10, 0, 0, number)), 0)
        assert rates.take(busy, 0) is Refused.PEER_TOO_FAST

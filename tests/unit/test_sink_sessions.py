"""Connections at the sink: what each message makes of them, and how they end."""

from __future__ import annotations

import pytest

from openqwave.model.endpoint import MAPPED_PREFIX, Endpoint
from openqwave.probing.sink_limits import SinkLimits
from openqwave.probing.sink_reports import (
    Experiment,
    RefusalsSeen,
    Refused,
    SessionClosed,
    SessionOpened,
)
from openqwave.probing.sink_sessions import TRANSITIONS
from openqwave.wire import qlpb
from tests.unit.driven_sink import (
    DISCARD,
    HOST,
    MS,
    OTHER,
    PAIR,
    ROUTE,
    SECOND,
    SUCCESS,
    TCP_PORT,
    DrivenSink,
)

HELLOS = {
    Experiment.PACKET_PAIR: PAIR,
    Experiment.ROUTE_CHECK: ROUTE,
    Experiment.DISCARD: DISCARD,
}
PEER = Endpoint(HOST, TCP_PORT)


def prepared(experiment: Experiment) -> tuple[DrivenSink, int]:
    """A sink with one connection of that kind."""
    driven = DrivenSink()
    if experiment is Experiment.UNKNOWN:
        return driven, driven.connect()
    return driven, driven.open(HELLOS[experiment])


# -- the table ------------------------------------------------------------------------

# All that can come over a connection, or with its port in a probe.
INPUTS: dict[str, type | None] = {
    "discard": qlpb.Discard,
    "packet pair": qlpb.PacketPairHandshake,
    "route check": qlpb.RouteCheckHandshake,
    "malformed": None,
    "packet pair probe": qlpb.PacketPairProbe,
    "route check probe": qlpb.RouteCheckProbe,
}
BYTES = {"discard": DISCARD, "packet pair": PAIR, "route check": ROUTE, "malformed": SUCCESS}
PROBES: dict[str, qlpb.DatagramMessage] = {
    "packet pair probe": qlpb.PacketPairProbe(TCP_PORT, 2, 1, is_first=True),
    "route check probe": qlpb.RouteCheckProbe(TCP_PORT, 0, 1),
}

# By hand from figure 4 and sections 3.2.4.2 to 3.2.5.5: what each state makes of each input.
# None ends the connection, a reason leaves it as it was.
UNKNOWN, PACKET_PAIR, ROUTE_CHECK, DISCARDED = Experiment
EXPECTED: dict[Experiment, dict[str, Experiment | Refused | None]] = {
    UNKNOWN: {
        "discard": DISCARDED,
        "packet pair": PACKET_PAIR,
        "route check": ROUTE_CHECK,
        "malformed": None,
        "packet pair probe": Refused.NO_SESSION,
        "route check probe": Refused.NO_SESSION,
    },
    PACKET_PAIR: {
        "discard": None,
        "packet pair": None,
        "route check": None,
        "malformed": None,
        "packet pair probe": PACKET_PAIR,
        "route check probe": Refused.WRONG_EXPERIMENT,
    },
    ROUTE_CHECK: {
        "discard": None,
        "packet pair": None,
        "route check": None,
        "malformed": None,
        "packet pair probe": Refused.WRONG_EXPERIMENT,
        "route check probe": ROUTE_CHECK,
    },
    DISCARDED: {
        # Thrown away unread.
        "discard": DISCARDED,
        "packet pair": DISCARDED,
        "route check": DISCARDED,
        "malformed": DISCARDED,
        "packet pair probe": Refused.NO_SESSION,
        "route check probe": Refused.NO_SESSION,
    },
}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("state", Experiment)
def test_every_input_in_every_state(state: Experiment, name: str) -> None:
    driven, connection = prepared(state)
    driven.events()
    if name in BYTES:
        driven.feed(connection, BYTES[name])
    else:
        driven.probe(PROBES[name])
    expected = EXPECTED[state][name]
    if expected is None:
        assert driven.closed == [connection]
        assert driven.sink.counts.open_sessions == 0
        assert sum(driven.refused.values()) == 1
        return
    assert driven.closed == []
    if isinstance(expected, Refused):
        assert driven.refused == {expected: 1}
        return
    assert driven.refused == {}
    opened = [event for event in driven.events() if isinstance(event, SessionOpened)]
    assert opened == ([] if expected is state else [SessionOpened(connection, PEER, expected)])
    # And the table says so, too, but for what is thrown away unread.
    if state is not Experiment.DISCARD:
        kind = INPUTS[name]
        assert kind is not None
        assert TRANSITIONS[state, kind] is expected


def test_the_table_has_nothing_else() -> None:
    listed = {
        (state, INPUTS[name])
        for state, row in EXPECTED.items()
        for name, expected in row.items()
        if isinstance(expected, Experiment) and state is not Experiment.DISCARD
    }
    assert set(TRANSITIONS) == listed


# -- handshakes -----------------------------------------------------------------------


@pytest.mark.parametrize("hello", [PAIR, ROUTE])
def test_a_handshake_cut_anywhere(hello: bytes) -> None:
    for cut in range(1, 4):
        driven = DrivenSink()
        connection = driven.connect()
        driven.feed(connection, hello[:cut])
        assert driven.sent(connection) == b""
        driven.feed(connection, hello[cut:])
        assert driven.sent(connection) == SUCCESS


def test_a_discard_is_not_answered_and_its_bytes_are_counted() -> None:
    driven = DrivenSink()
    connection = driven.connect()
    # Cut within the message, and with the first bytes right behind it.
    driven.feed(connection, DISCARD[:2])
    driven.feed(connection, DISCARD[2:] + b"abc")
    driven.feed(connection, PAIR + bytes(10_000))
    assert driven.sent(connection) == b""
    assert driven.sink.counts.discarded_bytes == 3 + 4 + 10_000
    driven.hang_up(connection)
    assert driven.events() == [
        SessionOpened(connection, PEER, Experiment.DISCARD),
        SessionClosed(connection, PEER, Experiment.DISCARD, None, 0, 10_007),
    ]


def test_what_was_in_order_counts_before_what_was_not() -> None:
    # The same whether both come at once or one after the other.
    for pieces in ([PAIR + b"\xff"], [PAIR, b"\xff"]):
        driven = DrivenSink()
        connection = driven.connect()
        for piece in pieces:
            driven.feed(connection, piece)
        assert driven.sent(connection) == SUCCESS
        assert driven.closed == [connection]
        assert driven.refused == {Refused.MALFORMED_STREAM: 1}


def test_a_second_handshake_ends_the_first() -> None:
    driven = DrivenSink()
    connection = driven.connect()
    driven.feed(connection, PAIR + PAIR + PAIR)
    assert driven.sent(connection) == SUCCESS
    assert driven.closed == [connection]
    assert driven.refused == {Refused.UNEXPECTED_MESSAGE: 1}
    assert SessionClosed(
        connection, PEER, Experiment.PACKET_PAIR, Refused.UNEXPECTED_MESSAGE, 0, 0
    ) in (driven.events())


def test_another_protocol_on_the_port_is_told_by_name() -> None:
    driven = DrivenSink()
    connection = driven.connect()
    driven.feed(connection, b"\x96\x00\x00\x01")
    assert driven.refused == {Refused.OTHER_PROTOCOL: 1}
    assert driven.closed == [connection]


def test_what_comes_after_the_end_is_ignored() -> None:
    driven, connection = prepared(Experiment.PACKET_PAIR)
    driven.feed(connection, b"\xff")
    driven.feed(connection, PAIR)
    driven.hang_up(connection)
    driven.hang_up(77)
    driven.feed(77, PAIR)
    assert driven.closed == [connection]
    assert driven.sent(connection) == b""
    assert sum(driven.refused.values()) == 1


def test_an_address_of_either_dress_is_the_same_peer() -> None:
    # A listener for both families tells IPv4 peers as mapped addresses.
    driven = DrivenSink()
    connection = driven.open(PAIR, MAPPED_PREFIX + HOST)
    driven.probe(qlpb.PacketPairProbe(TCP_PORT, 2, 1, is_first=True))
    driven.probe(qlpb.PacketPairProbe(TCP_PORT, 2, 2), address=MAPPED_PREFIX + HOST)
    assert len(driven.messages(connection)) == 1


def test_a_port_that_is_used_again_belongs_to_the_newer_connection() -> None:
    driven = DrivenSink()
    older, newer = driven.open(PAIR), driven.open(PAIR)
    driven.hang_up(older)
    driven.probe(qlpb.PacketPairProbe(TCP_PORT, 2, 1, is_first=True))
    driven.probe(qlpb.PacketPairProbe(TCP_PORT, 2, 2))
    assert len(driven.messages(newer)) == 1
    assert driven.messages(older) == []


# -- time -----------------------------------------------------------------------------


def test_who_says_nothing_is_hung_up_on() -> None:
    driven = DrivenSink()
    connection = driven.connect()
    driven.wait(4 * SECOND)
    # Half a handshake is no handshake, and buys no time.
    driven.feed(connection, PAIR[:3])
    driven.wait(SECOND - 1)
    assert driven.closed == []
    driven.wait(1)
    assert driven.closed == [connection]
    assert driven.refused == {Refused.NO_HANDSHAKE: 1}
    # Nothing was opened, so nothing was closed.
    assert driven.events() == [RefusalsSeen(Refused.NO_HANDSHAKE, PEER, 1)]


@pytest.mark.parametrize("experiment", HELLOS)
def test_a_silent_session_ends(experiment: Experiment) -> None:
    driven, connection = prepared(experiment)
    driven.wait(60 * SECOND - 1)
    assert driven.closed == []
    driven.wait(1)
    assert driven.closed == [connection]
    assert driven.refused == {Refused.IDLE: 1}
    assert driven.sink.counts.open_sessions == 0
    closed = SessionClosed(connection, PEER, experiment, Refused.IDLE, 0, 0)
    assert closed in driven.events()


def test_probes_and_bytes_keep_a_session() -> None:
    driven = DrivenSink()
    pair, route = driven.open(PAIR), driven.open(ROUTE, port=TCP_PORT + 1)
    flood, silent = driven.open(DISCARD, port=TCP_PORT + 2), driven.open(PAIR, OTHER)
    for sequence in range(1, 5):
        driven.wait(59 * SECOND)
        driven.probe(qlpb.PacketPairProbe(TCP_PORT, 0, sequence))
        driven.probe(qlpb.RouteCheckProbe(TCP_PORT + 1, 0, sequence))
        driven.feed(flood, b"x")
    assert driven.closed == [silent]
    driven.wait(60 * SECOND)
    assert sorted(driven.closed) == sorted([silent, pair, route, flood])


def test_refused_probes_do_not_keep_a_session() -> None:
    driven = DrivenSink()
    connection = driven.open(PAIR)
    driven.wait(59 * SECOND)
    driven.probe(qlpb.RouteCheckProbe(TCP_PORT, 0, 1))
    driven.probe(qlpb.PacketPairProbe(TCP_PORT, 0, 1), address=OTHER)
    driven.wait(SECOND)
    assert driven.closed == [connection]


def test_no_timer_without_sessions() -> None:
    driven = DrivenSink()
    assert driven.sink.next_timer_ns() is None
    connection = driven.open(PAIR)
    # The handshake's time is over at latest then; the session's is not.
    assert driven.sink.next_timer_ns() == driven.now_ns + 5 * SECOND
    driven.wait(5 * SECOND)
    assert driven.sink.next_timer_ns() == driven.now_ns + 55 * SECOND
    driven.hang_up(connection)
    driven.wait(60 * SECOND)
    assert driven.sink.next_timer_ns() is None


# -- limits ---------------------------------------------------------------------------


def test_a_peer_has_so_many_sessions() -> None:
    driven = DrivenSink(SinkLimits(sessions_per_peer=2))
    first, second = driven.open(PAIR), driven.connect(port=1)
    third = driven.connect(port=2)
    assert driven.closed == [third]
    assert driven.refused == {Refused.TOO_MANY_OF_PEER: 1}
    # The other dress of the address is no other peer.
    driven.connect(MAPPED_PREFIX + HOST, 3)
    assert driven.refused == {Refused.TOO_MANY_OF_PEER: 2}
    driven.open(PAIR, OTHER)
    for over in (first, second):
        driven.hang_up(over)
        driven.open(ROUTE)


def test_there_are_so_many_sessions() -> None:
    driven = DrivenSink(SinkLimits(sessions=3, sessions_per_peer=2))
    connections = [driven.connect(HOST, 1), driven.connect(HOST, 2), driven.connect(OTHER, 3)]
    late = driven.connect(OTHER, 4)
    assert driven.closed == [late]
    assert driven.refused == {Refused.TOO_MANY_SESSIONS: 1}
    driven.hang_up(connections[0])
    driven.open(PAIR, OTHER)
    assert driven.sink.counts.connections == 5
    assert driven.sink.counts.open_sessions == 3


def test_so_much_is_thrown_away() -> None:
    driven = DrivenSink(SinkLimits(discard_bytes=1000))
    connection = driven.open(DISCARD)
    driven.feed(connection, bytes(1000))
    assert driven.closed == []
    driven.feed(connection, b"x")
    assert driven.closed == [connection]
    assert driven.refused == {Refused.TOO_MUCH_TO_DISCARD: 1}
    # Counted from each connection's beginning.
    driven.feed(driven.open(DISCARD), bytes(1000))
    assert driven.sink.counts.discarded_bytes == 2001


def test_events_that_nobody_reads_are_bounded() -> None:
    driven = DrivenSink(SinkLimits(events=10))
    for port in range(20):
        driven.hang_up(driven.open(PAIR, port=port))
    assert driven.sink.counts.lost_events == 30
    events = driven.events()
    assert len(events) == 10
    assert isinstance(events[-1], SessionClosed)
    assert events[-1].peer.port == 19


def test_refusals_are_told_once_a_second() -> None:
    driven = DrivenSink()
    for _ in range(1000):
        driven.sink.refuse(Refused.OFF_LINK, PEER, now_ns=driven.now_ns)
    driven.sink.refuse(Refused.IDLE, PEER, now_ns=driven.now_ns)
    first = RefusalsSeen(Refused.OFF_LINK, PEER, 1)
    assert driven.events() == [first, RefusalsSeen(Refused.IDLE, PEER, 1)]
    driven.wait(500 * MS)
    other = Endpoint(OTHER, 5)
    driven.sink.refuse(Refused.OFF_LINK, other, "again", now_ns=driven.now_ns)
    assert driven.events() == []
    assert driven.sink.next_timer_ns() == driven.now_ns + 500 * MS
    driven.wait(500 * MS)
    assert driven.events() == [RefusalsSeen(Refused.OFF_LINK, other, 1000, "again")]
    assert driven.refused == {Refused.OFF_LINK: 1001, Refused.IDLE: 1}
    # A second of silence later the next is told at once.
    assert driven.sink.next_timer_ns() is None
    driven.wait(SECOND)
    driven.sink.refuse(Refused.OFF_LINK, PEER, now_ns=driven.now_ns)
    assert driven.events() == [first]


def test_each_reason_is_told_in_its_own_time() -> None:
    driven = DrivenSink()
    for reason in (Refused.OFF_LINK, Refused.NO_SESSION):
        for _ in range(3):
            driven.sink.refuse(reason, PEER, now_ns=driven.now_ns)
        driven.wait(300 * MS)
    driven.events()
    driven.wait(400 * MS)
    assert driven.events() == [RefusalsSeen(Refused.OFF_LINK, PEER, 2)]
    driven.wait(300 * MS)
    assert driven.events() == [RefusalsSeen(Refused.NO_SESSION, PEER, 2)]

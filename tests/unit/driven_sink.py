"""A sink, with its driver's part told in single lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openqwave.model.endpoint import Endpoint
from openqwave.probing.session import Arrival, CloseStream, SendStream
from openqwave.probing.sink import Reply, Sink
from openqwave.probing.sink_limits import SinkLimits
from openqwave.wire import qlpb

if TYPE_CHECKING:
    from openqwave.probing.session import Event
    from openqwave.probing.sink_reports import Refused

MS = 1_000_000
SECOND = 1_000_000_000

# RFC 5737: addresses for examples.
HOST = bytes((192, 0, 2, 1))
OTHER = bytes((192, 0, 2, 2))
TCP_PORT = 49_200
# Any but 2177, as the specification wants it of probes with a session.
UDP_PORT = 50_000

# A day in 2026 on the sink's clock; not the driver's.
STAMP_NS = 1_780_000_000 * SECOND

SPEED_BPS = 1_000_000_000

PAIR = qlpb.encode_stream(qlpb.PacketPairHandshake())
ROUTE = qlpb.encode_stream(qlpb.RouteCheckHandshake())
DISCARD = qlpb.encode_stream(qlpb.Discard())
SUCCESS = qlpb.encode_stream(qlpb.HandshakeSuccess())


class DrivenSink:
    """A sink on a clock that the test moves.

    Attributes:
        sink: The sink.
        now_ns: The time.
        closed: Connections that the sink has closed.
        replies: Probes that it sent back.
    """

    def __init__(self, limits: SinkLimits | None = None) -> None:
        self.sink = Sink(limits)
        self.now_ns = 5 * SECOND
        self.closed: list[int] = []
        self.replies: list[Reply] = []
        self._sent: dict[int, bytes] = {}
        self._next = 0

    # -- what happens to it -----------------------------------------------------------

    def connect(self, address: bytes = HOST, port: int = TCP_PORT) -> int:
        """Let a peer connect."""
        self._next += 1
        peer = Endpoint(address, port)
        self.sink.receive_connection(self._next, peer, SPEED_BPS, now_ns=self.now_ns)
        self._carry_out()
        return self._next

    def open(self, hello: bytes, address: bytes = HOST, port: int = TCP_PORT) -> int:
        """Let a peer connect and be agreed with."""
        connection = self.connect(address, port)
        self.feed(connection, hello)
        assert self.sent(connection) == (b"" if hello == DISCARD else SUCCESS)
        return connection

    def feed(self, connection: int, data: bytes) -> None:
        """Let bytes come over a connection."""
        self.sink.receive_stream(connection, data, now_ns=self.now_ns)
        self._carry_out()

    def hang_up(self, connection: int) -> None:
        """Let the peer close a connection."""
        self.sink.receive_closed(connection, now_ns=self.now_ns)
        self._carry_out()

    def datagram(
        self, data: bytes, address: bytes = HOST, port: int = UDP_PORT, stamp_ns: int = STAMP_NS
    ) -> None:
        """Let a datagram come."""
        peer = Endpoint(address, port)
        self.sink.receive_datagram(data, peer, Arrival(stamp_ns), now_ns=self.now_ns)
        self._carry_out()

    def probe(
        self,
        probe: qlpb.DatagramMessage,
        stamp_ns: int = STAMP_NS,
        *,
        address: bytes = HOST,
        port: int = UDP_PORT,
        order: qlpb.FlagOrder = qlpb.FlagOrder.MSB_FIRST,
    ) -> None:
        """Let a probe come."""
        self.datagram(qlpb.encode_datagram(probe, order=order), address, port, stamp_ns)

    def wait(self, duration_ns: int) -> None:
        """Let time pass, with the timers that fall due."""
        end_ns = self.now_ns + duration_ns
        while (due_ns := self.sink.next_timer_ns()) is not None and due_ns <= end_ns:
            self.now_ns = max(self.now_ns, due_ns)
            self.sink.handle_timer(now_ns=self.now_ns)
            self._carry_out()
            again_ns = self.sink.next_timer_ns()
            assert again_ns is None or again_ns > self.now_ns, "a timer that is due for ever"
        self.now_ns = end_ns

    def _carry_out(self) -> None:
        for effect in self.sink.effects_to_send(now_ns=self.now_ns):
            match effect:
                case SendStream(stream, data):
                    assert stream not in self.closed
                    self._sent[stream] = self._sent.get(stream, b"") + data
                case CloseStream(stream):
                    assert stream not in self.closed
                    self.closed.append(stream)
                case Reply():
                    self.replies.append(effect)

    # -- what comes of it -------------------------------------------------------------

    def sent(self, connection: int) -> bytes:
        """Take what was sent over a connection."""
        return self._sent.pop(connection, b"")

    def messages(self, connection: int) -> list[qlpb.StreamMessage]:
        """Take what was sent over a connection, as messages."""
        return qlpb.StreamDecoder(qlpb.Direction.TO_INITIATOR).feed(self.sent(connection))

    def events(self) -> list[Event]:
        """Take all events."""
        return list(iter(self.sink.next_event, None))

    @property
    def refused(self) -> dict[Refused, int]:
        """The reasons that something was refused for, and how often."""
        return {reason: count for reason, count in self.sink.counts.refused.items() if count}

"""Messages of MS-QLPB in packets as they pass.

A probe is one datagram. Messages of TCP may be cut anywhere, so each direction of a connection is
put together: bytes are taken in the order of their numbers, repeated ones once. Where bytes are
missing, or a connection was there before the capture, the next segment is taken to begin with a
message, as it does in practice, since messages are sent one at a time; if it does not, that is
said and the direction is silent until its next beginning.

Kept are at most `MOST` directions, the longest idle leave first, with the bytes of one message
each.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TypeAlias

from openqwave.model.value import value
from openqwave.wire import qlpb
from openqwave.wire.faults import MalformedMessage
from openqwave.wire.packets import TCP, UDP, Address, Packet

# Sixteen times what a sink serves at once, both ways.
MOST = 2_048
# A sink's longest train has 2,048 packets, so a direction keeps 16 kB at most.
MAX_DELTAS = 2_047

_SYN, _FIN, _RST = 0x02, 0x01, 0x04
_NUMBERS = 1 << 32


@value
class Undecoded:
    """Bytes on the port that are no message, and why."""

    why: str


@value
class Discarded:
    """Bytes that a sink throws away, behind a message that said so."""

    length_bytes: int


Event: TypeAlias = qlpb.StreamMessage | qlpb.DatagramMessage | Undecoded | Discarded
_Ends: TypeAlias = tuple[Address, int, Address, int]


def is_qlpb(packet: Packet) -> bool:
    """Is it of the protocol's port?"""
    return packet.ports is not None and qlpb.PORT in packet.ports and packet.protocol in (TCP, UDP)


@dataclass(slots=True)
class _Stream:
    """One direction of a connection.

    Attributes:
        direction: Who sends.
        decoder: Puts its messages together.
        expected: The number of the next byte; None until one was seen.
        is_guess: Whether it was begun in the middle.
        is_silent: Whether nothing in it can be known any more.
        discards: Whether what follows is thrown away.
    """

    direction: qlpb.Direction
    decoder: qlpb.StreamDecoder
    expected: int | None = None
    is_guess: bool = True
    is_silent: bool = False
    discards: bool = False


@dataclass(slots=True)
class Conversations:
    """Finds the messages of each packet in turn."""

    _streams: OrderedDict[_Ends, _Stream] = field(default_factory=OrderedDict)

    def events_of(self, packet: Packet) -> list[Event]:
        """The messages that a packet is, or completes."""
        if not is_qlpb(packet) or packet.ports is None:
            return []
        if packet.protocol == UDP:
            return [_datagram(packet)]
        ends = (packet.source, packet.ports[0], packet.destination, packet.ports[1])
        stream = self._streams.get(ends)
        if stream is None or packet.flags & _SYN:
            direction = _direction(packet.ports)
            stream = _Stream(direction, qlpb.StreamDecoder(direction, MAX_DELTAS))
            self._streams[ends] = stream
            if len(self._streams) > MOST:
                self._streams.popitem(last=False)
        self._streams.move_to_end(ends)
        if packet.flags & _SYN:
            stream.expected, stream.is_guess = (packet.sequence + 1) % _NUMBERS, False
            return []
        events = _segment(stream, packet) if packet.payload_bytes else []
        if packet.flags & (_FIN | _RST):
            del self._streams[ends]
        return events


def _direction(ports: tuple[int, int]) -> qlpb.Direction:
    to_sink = ports[1] == qlpb.PORT
    return qlpb.Direction.TO_SINK if to_sink else qlpb.Direction.TO_INITIATOR


def _datagram(packet: Packet) -> Event:
    try:
        message = qlpb.decode_datagram(packet.payload)
    except MalformedMessage as error:
        return Undecoded(error.fault.value)
    return message


def _segment(stream: _Stream, packet: Packet) -> list[Event]:
    """The messages that a segment with content completes."""
    data, start = packet.payload, packet.sequence
    if stream.expected is not None:
        # Numbers go round; what is less than half of them ahead is later.
        ahead = (start - stream.expected) % _NUMBERS
        if ahead >= _NUMBERS // 2:
            seen = _NUMBERS - ahead
            if seen >= packet.payload_bytes:
                return []
            data, start = data[seen:], stream.expected
        elif ahead and not stream.discards:
            _begin_again(stream)
    stream.expected = (packet.sequence + packet.payload_bytes) % _NUMBERS
    if stream.discards:
        return [Discarded((stream.expected - start) % _NUMBERS)]
    if stream.is_silent:
        return []
    events = _feed(stream, data)
    if len(packet.payload) < packet.payload_bytes and not stream.discards:
        # The rest was not kept by whoever captured it.
        _begin_again(stream)
    return events


def _begin_again(stream: _Stream) -> None:
    """What comes next is behind a gap."""
    stream.decoder = qlpb.StreamDecoder(stream.direction, MAX_DELTAS)
    stream.is_guess, stream.is_silent = True, False


def _feed(stream: _Stream, data: bytes) -> list[Event]:
    events: list[Event]
    try:
        events = [*stream.decoder.feed(data)]
    except MalformedMessage as error:
        stream.is_silent = True
        why = "the beginning is not in the capture" if stream.is_guess else error.fault.value
        return [*error.decoded, Undecoded(why)]
    stream.discards = any(isinstance(each, qlpb.Discard) for each in events)
    return events

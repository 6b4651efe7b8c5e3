"""Handshakes and summaries, as bytes of TCP."""

from __future__ import annotations

import struct

from openqwave.model.errors import InvalidParameter
from openqwave.wire.faults import EVIDENCE_BYTES, Fault, MalformedMessage
from openqwave.wire.qlpb.messages import (
    HEADER_BYTES,
    MAX_DELTAS,
    MAX_SPEED_BPS,
    QDP_ID,
    SUMMARY_MIN_BYTES,
    TICK_NS,
    Direction,
    Discard,
    FlagOrder,
    HandshakeSuccess,
    MessageId,
    Observation,
    PacketPairHandshake,
    PacketPairSummary,
    RouteCheckHandshake,
    RouteCheckSummary,
    StreamMessage,
)

_SUMMARY = struct.Struct("!BBBBIIBBH")
_DELTA_BYTES = 8

# The messages that are a header and nothing else.
_BARE: dict[int, StreamMessage] = {
    MessageId.DISCARD: Discard(),
    MessageId.PACKET_PAIR: PacketPairHandshake(),
    MessageId.ROUTE_CHECK: RouteCheckHandshake(),
    MessageId.HANDSHAKE_SUCCESS: HandshakeSuccess(),
}
_BARE_BYTES: dict[StreamMessage, bytes] = {
    message: bytes((number, 0, 0, 1)) for number, message in _BARE.items()
}

# 2.1: who sends what over TCP, and what to think of the rest.
_SENT = {
    Direction.TO_SINK: {MessageId.DISCARD, MessageId.PACKET_PAIR, MessageId.ROUTE_CHECK},
    Direction.TO_INITIATOR: {
        MessageId.PACKET_PAIR_SUMMARY,
        MessageId.ROUTE_CHECK_SUMMARY,
        MessageId.HANDSHAKE_SUCCESS,
    },
}
_FAULT_OF_ID = dict.fromkeys(MessageId, Fault.WRONG_DIRECTION) | {
    MessageId.PROBEGAP: Fault.WRONG_TRANSPORT,
    MessageId.PROBEGAP_RETURNED: Fault.WRONG_TRANSPORT,
    QDP_ID: Fault.OTHER_PROTOCOL,
}


def encode_stream(message: StreamMessage, order: FlagOrder = FlagOrder.MSB_FIRST) -> bytes:
    """Write a message of TCP.

    Args:
        message: A speed above `MAX_SPEED_BPS` is written as that, parts of 100 ns are left out.
        order: Where the observation goes in its byte.

    Raises:
        InvalidParameter: A field does not fit, or a summary has no deltas or too many.
    """
    if isinstance(message, PacketPairSummary):
        return _encode_summary(message)
    if isinstance(message, RouteCheckSummary):
        seen = int(message.observation)
        flags = seen << 6 if order is FlagOrder.MSB_FIRST else seen
        return bytes((MessageId.ROUTE_CHECK_SUMMARY, flags, 0, 1))
    return _BARE_BYTES[message]


def _encode_summary(message: PacketPairSummary) -> bytes:
    count = len(message.deltas_ns)
    if not 1 <= count <= MAX_DELTAS:
        raise InvalidParameter(f"a summary holds 1 to {MAX_DELTAS} deltas, not {count}")
    speed_bps = min(message.interface_speed_bps, MAX_SPEED_BPS)
    number = MessageId.PACKET_PAIR_SUMMARY
    try:
        head = _SUMMARY.pack(number, 0, 0, 1, message.sequence, speed_bps, 0, 0, count)
        ticks = (delta_ns // TICK_NS for delta_ns in message.deltas_ns)
        return head + struct.pack(f"!{count}Q", *ticks)
    except struct.error as error:
        raise InvalidParameter(f"the summary does not fit its fields: {error}") from error


class StreamDecoder:
    """Puts the messages of one direction of a connection together, cut anywhere.

    It keeps the bytes of one unfinished message and no more: at most 16 and 8 for each delta
    that it accepts. After a fault, or once a Discard has come, it keeps nothing.

    Args:
        direction: Who sends.
        max_deltas: Longest summary that is accepted. An initiator knows the longest train that
            it sent; anything longer is a lie that need not be stored (half a megabyte each).
    """

    def __init__(self, direction: Direction, max_deltas: int = MAX_DELTAS) -> None:
        self._sent = _SENT[direction]
        self._max_deltas = max_deltas
        self._pending = bytearray()
        self._fault: Fault | None = None
        self._is_discarding = False

    @property
    def pending_bytes(self) -> int:
        """How many bytes of an unfinished message are kept."""
        return len(self._pending)

    def feed(self, data: bytes) -> list[StreamMessage]:
        """Take bytes as they came; return the messages that they complete.

        Raises:
            MalformedMessage: The peer broke the protocol, now or in an earlier call. What these
                bytes completed before the fault is in its `decoded`.
        """
        if self._fault is not None:
            raise MalformedMessage(self._fault, data)
        messages: list[StreamMessage] = []
        if self._is_discarding:
            return messages
        pending, start = self._pending, 0
        pending += data
        try:
            while size := self._size_at(start):
                message = self._message_at(start)
                messages.append(message)
                start += size
                if isinstance(message, Discard):
                    self._is_discarding = True
                    start = len(pending)
        except MalformedMessage as error:
            self._fault = error.fault
            self._pending = bytearray()
            raise MalformedMessage(error.fault, error.evidence, messages) from None
        del pending[:start]
        return messages

    def _size_at(self, start: int) -> int:
        """The size of the message there; 0 while it is not complete. Faults show at once."""
        pending = self._pending
        have = len(pending) - start
        if not have:
            return 0
        number = pending[start]
        if number not in self._sent:
            raise self._malformed(_FAULT_OF_ID.get(number, Fault.UNKNOWN_ID), start)
        if have < HEADER_BYTES:
            return 0
        if pending[start + 3] != 1:
            raise self._malformed(Fault.WRONG_VERSION, start)
        if number != MessageId.PACKET_PAIR_SUMMARY:
            return HEADER_BYTES
        if have < SUMMARY_MIN_BYTES:
            return 0
        deltas = int.from_bytes(pending[start + 14 : start + SUMMARY_MIN_BYTES])
        if not 1 <= deltas <= MAX_DELTAS:
            raise self._malformed(Fault.TRAIN_SIZE_INVALID, start)
        if deltas > self._max_deltas:
            raise self._malformed(Fault.TRAIN_TOO_LONG, start)
        size = SUMMARY_MIN_BYTES + deltas * _DELTA_BYTES
        return size if have >= size else 0

    def _message_at(self, start: int) -> StreamMessage:
        pending = self._pending
        number = pending[start]
        if number == MessageId.PACKET_PAIR_SUMMARY:
            _, _, _, _, sequence, speed_bps, _, _, count = _SUMMARY.unpack_from(pending, start)
            ticks = struct.unpack_from(f"!{count}Q", pending, start + SUMMARY_MIN_BYTES)
            return PacketPairSummary(sequence, speed_bps, tuple(tick * TICK_NS for tick in ticks))
        if number == MessageId.ROUTE_CHECK_SUMMARY:
            # Two bits at one end of the byte or the other; both ends at once mean nothing.
            first, last = pending[start + 1] >> 6, pending[start + 1] & 3
            if (first and last) or 3 in (first, last):
                raise self._malformed(Fault.OBSERVATION_INVALID, start)
            return RouteCheckSummary(Observation(first | last))
        return _BARE[number]

    def _malformed(self, fault: Fault, start: int) -> MalformedMessage:
        return MalformedMessage(fault, self._pending[start : start + EVIDENCE_BYTES])

"""Probes, as bytes of UDP."""

from __future__ import annotations

import struct

from openqwave.model.errors import InvalidParameter
from openqwave.wire.faults import Fault, MalformedMessage
from openqwave.wire.qlpb.messages import (
    HEADER_BYTES,
    PROBE_MIN_BYTES,
    PROBEGAP_MIN_BYTES,
    QDP_ID,
    DatagramMessage,
    FlagOrder,
    MessageId,
    PacketPairProbe,
    ProbegapProbe,
    RouteCheckProbe,
)

_PROBE = struct.Struct("!BBBBHHI")
_PROBEGAP = struct.Struct("!BBBBIQQQ")

_ORDERS = {order.value: order for order in FlagOrder}

# What else can be known of a datagram that is no probe.
_FAULT_OF_ID = dict.fromkeys(MessageId, Fault.WRONG_TRANSPORT) | {QDP_ID: Fault.OTHER_PROTOCOL}


def encode_datagram(
    message: DatagramMessage, filler: bytes = b"", order: FlagOrder = FlagOrder.MSB_FIRST
) -> bytes:
    """Write a probe.

    Args:
        message: The probe; one of packet pair or route check is filled up to its `size_bytes`.
        filler: What to fill it with, repeated or cut; zeros if empty. A probegap probe has its
            own.
        order: Where the F or O flag goes in its byte.

    Raises:
        InvalidParameter: A field does not fit, the size leaves no room for the header, or the
            train is of one packet.
    """
    try:
        if isinstance(message, ProbegapProbe):
            number = MessageId.PROBEGAP_RETURNED if message.is_returned else MessageId.PROBEGAP
            sink = message.sink_received_ticks, message.sink_sent_ticks
            sent = message.initiator_sent_ticks
            return _PROBEGAP.pack(number, 0, 0, 2, message.sequence, sent, *sink) + message.filler
        if isinstance(message, PacketPairProbe):
            number, flag = MessageId.PACKET_PAIR, message.is_first
        else:
            number, flag = MessageId.ROUTE_CHECK, message.is_oversized
        flags = order.value if flag else 0
        port, train_size = message.initiator_port, message.train_size
        head = _PROBE.pack(number, flags, 0, 1, port, train_size, message.sequence)
    except struct.error as error:
        raise InvalidParameter(f"the probe does not fit its fields: {error}") from error
    missing = message.size_bytes - PROBE_MIN_BYTES
    if missing < 0:
        raise InvalidParameter(f"a probe has {PROBE_MIN_BYTES} bytes at least")
    if message.train_size == 1:
        raise InvalidParameter("a train has at least two packets, or 0 for none")
    filler = filler or b"\0"
    return head + (filler * (missing // len(filler) + 1))[:missing]


# -- from bytes -----------------------------------------------------------------------


def decode_datagram(data: bytes) -> DatagramMessage:
    """Read a probe, of either direction.

    Args:
        data: What UDP carried. More than the message needs is filler.

    Raises:
        MalformedMessage: It is no probe, too short, or says what no probe may say.
    """
    if len(data) < HEADER_BYTES:
        raise MalformedMessage(Fault.TOO_SHORT, data)
    number = data[0]
    if number == MessageId.PROBEGAP or number == MessageId.PROBEGAP_RETURNED:
        if data[3] != 2:
            raise MalformedMessage(Fault.WRONG_VERSION, data)
        if len(data) < PROBEGAP_MIN_BYTES:
            raise MalformedMessage(Fault.TOO_SHORT, data)
        _, _, _, _, sequence, sent, sink_received, sink_sent = _PROBEGAP.unpack_from(data)
        return ProbegapProbe(
            sequence,
            sent,
            sink_received,
            sink_sent,
            bytes(data[PROBEGAP_MIN_BYTES:]),
            number == MessageId.PROBEGAP_RETURNED,
        )
    if number != MessageId.PACKET_PAIR and number != MessageId.ROUTE_CHECK:
        raise MalformedMessage(_FAULT_OF_ID.get(number, Fault.UNKNOWN_ID), data)
    if data[3] != 1:
        raise MalformedMessage(Fault.WRONG_VERSION, data)
    if len(data) < PROBE_MIN_BYTES:
        raise MalformedMessage(Fault.TOO_SHORT, data)
    _, flags, _, _, port, train_size, sequence = _PROBE.unpack_from(data)
    if train_size == 1:
        raise MalformedMessage(Fault.TRAIN_SIZE_INVALID, data)
    kind = PacketPairProbe if number == MessageId.PACKET_PAIR else RouteCheckProbe
    return kind(port, train_size, sequence, flags != 0, len(data))


def flag_order_of(data: bytes) -> FlagOrder | None:
    """Tell where a peer puts its flags, from the bytes of a probe; None if they do not say."""
    return _ORDERS.get(data[1]) if len(data) >= HEADER_BYTES else None

"""MS-QLPB, the layer 3 probing protocol of qWAVE: its messages as values and as bytes.

An initiator asks a sink for experiments on port 2177. Handshakes and summaries travel over TCP,
probes over UDP; the two are one experiment because a probe carries the TCP port of its
connection. Every message begins with four bytes (MS-QLPB 2.2.1.1)::

    0   u8   number of the message
    1   u8   flags
    2   u8   reserved: sent as 0, ignored
    3   u8   version: 2 for probegap, 1 for everything else

in network byte order, like all that follows. A datagram that is longer than its message carries
filler, which nobody validates. TCP has no message boundaries, so its messages have exact lengths.

**Where a flag is in its byte** the specification does not say: its figures can be read with the
most or the least significant bit first. Because all other bits are sent as zero, both can be
understood at once (`FlagOrder`), and only sending needs a choice; the figures of the sister
protocols speak for the most significant.

**Times** on the wire are unsigned 64-bit numbers of 100 ns. Stamps stay in these ticks here,
since they must come back unchanged; the deltas of a summary are nanoseconds, multiples of 100.

Nonsense is `MalformedMessage`: no other exception leaves the decoders, whatever the bytes.

==============  ==================================================================
`messages`      the messages as values, and the protocol's numbers
`datagrams`     probes to bytes and back
`stream`        handshakes and summaries to bytes and back, cut anywhere
==============  ==================================================================
"""

from __future__ import annotations

from openqwave.wire.faults import Fault, MalformedMessage
from openqwave.wire.qlpb.datagrams import decode_datagram, encode_datagram, flag_order_of
from openqwave.wire.qlpb.messages import (
    HEADER_BYTES,
    MAX_DELTAS,
    MAX_SPEED_BPS,
    PACKET_PAIR_MAX_IP_BYTES,
    PORT,
    PROBE_MIN_BYTES,
    PROBEGAP_MIN_BYTES,
    ROUTE_CHECK_MAX_IP_BYTES,
    SUMMARY_MIN_BYTES,
    TICK_NS,
    DatagramMessage,
    Direction,
    Discard,
    FlagOrder,
    HandshakeSuccess,
    MessageId,
    Observation,
    PacketPairHandshake,
    PacketPairProbe,
    PacketPairSummary,
    ProbegapProbe,
    RouteCheckHandshake,
    RouteCheckProbe,
    RouteCheckSummary,
    StreamMessage,
)
from openqwave.wire.qlpb.stream import StreamDecoder, encode_stream

__all__ = [
    "HEADER_BYTES",
    "MAX_DELTAS",
    "MAX_SPEED_BPS",
    "PACKET_PAIR_MAX_IP_BYTES",
    "PORT",
    "PROBEGAP_MIN_BYTES",
    "PROBE_MIN_BYTES",
    "ROUTE_CHECK_MAX_IP_BYTES",
    "SUMMARY_MIN_BYTES",
    "TICK_NS",
    "DatagramMessage",
    "Direction",
    "Discard",
    "Fault",
    "FlagOrder",
    "HandshakeSuccess",
    "MalformedMessage",
    "MessageId",
    "Observation",
    "PacketPairHandshake",
    "PacketPairProbe",
    "PacketPairSummary",
    "ProbegapProbe",
    "RouteCheckHandshake",
    "RouteCheckProbe",
    "RouteCheckSummary",
    "StreamDecoder",
    "StreamMessage",
    "decode_datagram",
    "encode_datagram",
    "encode_stream",
    "flag_order_of",
]

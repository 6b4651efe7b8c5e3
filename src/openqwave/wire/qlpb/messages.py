"""The messages of MS-QLPB as values, and its numbers.

Stamps are the wire's ticks of 100 ns, because a sink has to return an initiator's unchanged. The
deltas of a summary are nanoseconds, multiples of 100 once they have been on the wire.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

from openqwave.model.value import value

# MS-QLPB 1.9 and 2.1; registered as "qwave", TCP and UDP.
PORT = 2177

# The frame with an 802.1Q tag of 4 bytes added must fit in Ethernet's 1514 (2.2.2.3);
# the oversized probe of a route check is there to find out what happens when it does not.
PACKET_PAIR_MAX_IP_BYTES = 1496
ROUTE_CHECK_MAX_IP_BYTES = 1500

HEADER_BYTES = 4
PROBE_MIN_BYTES = 12
PROBEGAP_MIN_BYTES = 32
SUMMARY_MIN_BYTES = 16

# Train_Size is 16 bits, so a summary never holds more deltas than this.
MAX_DELTAS = 0xFFFF - 1

# The stamps' unit.
TICK_NS = 100

# Interface_Speed is 32 bits; a faster interface is reported as this fast.
MAX_SPEED_BPS = 0xFFFF_FFFF


class MessageId(enum.IntEnum):
    """The first byte of a message; TCP and UDP share 1 and 2."""

    DISCARD = 0x00
    PACKET_PAIR = 0x01
    ROUTE_CHECK = 0x02
    PROBEGAP = 0x05
    PROBEGAP_RETURNED = 0x06
    PACKET_PAIR_SUMMARY = 0x0A
    ROUTE_CHECK_SUMMARY = 0x14
    HANDSHAKE_SUCCESS = 0x1E


# MS-QDP 2.2.1.1: the first byte by which a connection to the shared port is known as its own.
QDP_ID = 0x96


class FlagOrder(enum.Enum):
    """Which bit of the flags byte comes first; the value is a set F or O flag."""

    MSB_FIRST = 0x80
    LSB_FIRST = 0x01


class Observation(enum.IntEnum):
    """What a sink saw of one group of a route check; 3 is reserved."""

    NO_ISSUE = 0
    INVERSION = 1
    LOSS = 2


class Direction(enum.Enum):
    """Who sends over a connection's direction."""

    TO_SINK = "initiator to sink"
    TO_INITIATOR = "sink to initiator"


# -- messages over TCP ----------------------------------------------------------------


@value
class Discard:
    """Whatever follows on the connection is to be thrown away unread."""


@value
class PacketPairHandshake:
    """May packet pair probes be sent?"""


@value
class RouteCheckHandshake:
    """May route check probes be sent?"""


@value
class HandshakeSuccess:
    """They may."""


@value
class RouteCheckSummary:
    """How one group of probes arrived."""

    observation: Observation


@value
class PacketPairSummary:
    """How one train arrived.

    Attributes:
        sequence: That of the train's first probe.
        interface_speed_bps: Of the interface it came in by; the wire ends at `MAX_SPEED_BPS`.
        deltas_ns: Each probe's arrival less that of the one before; one less than the train.
    """

    sequence: int
    interface_speed_bps: int
    deltas_ns: tuple[int, ...]


# -- messages over UDP ----------------------------------------------------------------


@value
class PacketPairProbe:
    """One packet of a train.

    Attributes:
        initiator_port: TCP port of the initiator's connection.
        train_size: Packets in the train; 0 for a packet that only loads the path; never 1.
        sequence: Consecutive within a train, unique in the connection.
        is_first: The F flag, on the first packet of a train.
        size_bytes: All that UDP carries, header and filler.
    """

    initiator_port: int
    train_size: int
    sequence: int
    is_first: bool = False
    size_bytes: int = PROBE_MIN_BYTES


@value
class RouteCheckProbe:
    """One packet of a group.

    Attributes:
        initiator_port: TCP port of the initiator's connection.
        train_size: Packets in the group, on the last one; 0 on the others; never 1.
        sequence: Consecutive in the connection.
        is_oversized: The O flag, on a packet that is as large as the link allows without a tag.
        size_bytes: All that UDP carries, header and filler.
    """

    initiator_port: int
    train_size: int
    sequence: int
    is_oversized: bool = False
    size_bytes: int = PROBE_MIN_BYTES


@value
class ProbegapProbe:
    """A probe on its way to the sink or back; stamps are ticks of 100 ns.

    Attributes:
        sequence: The initiator's number for it, returned unchanged.
        initiator_sent_ticks: When it was to be sent, initiator's clock, returned unchanged.
        sink_received_ticks: When it came, sink's clock; 0 on the way out.
        sink_sent_ticks: When it went back, sink's clock; 0 on the way out.
        filler: What follows the stamps, returned byte for byte.
        is_returned: Whether it is on its way back.
    """

    sequence: int
    initiator_sent_ticks: int
    sink_received_ticks: int = 0
    sink_sent_ticks: int = 0
    filler: bytes = b""
    is_returned: bool = False


StreamMessage: TypeAlias = (
    Discard
    | PacketPairHandshake
    | RouteCheckHandshake
    | HandshakeSuccess
    | RouteCheckSummary
    | PacketPairSummary
)
DatagramMessage: TypeAlias = PacketPairProbe | RouteCheckProbe | ProbegapProbe

"""What a flow is asked to be: its traffic type, its rate contract, its treatment.

A flow is traffic from one or more sockets of one process, to one destination each, that
shares one traffic type, one rate contract and one set of marks. An *adaptive* flow is
admitted against what its path can carry; a *non-adaptive* one is marked and shaped only.

A `Contract` is what was asked; a `Treatment` is what the kernel must do about it. The
step between them is policy (`openqwave.admission`) and bookkeeping
(`openqwave.subsystem`); enforcement reads treatments and nothing else.

Rates are bits per second and count the IP and transport headers, not the link layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


class TrafficType(IntEnum):
    """What kind of traffic a flow carries; the numbers are QOS_TRAFFIC_TYPE's."""

    BEST_EFFORT = 0
    BACKGROUND = 1
    EXCELLENT_EFFORT = 2
    AUDIO_VIDEO = 3
    VOICE = 4
    CONTROL = 5


class Shaping(IntEnum):
    """What happens to packets above the contract; the numbers are QOS_SHAPING's."""

    SHAPE_ONLY = 0
    SHAPE_AND_MARK = 1
    USE_NON_CONFORMANT_MARKINGS = 2


class RateReason(IntEnum):
    """Why a rate changes; the numbers are QOS_FLOWRATE_REASON's."""

    NOT_APPLICABLE = 0
    CONTENT_CHANGE = 1
    CONGESTION = 2
    HIGHER_CONTENT_ENCODING = 3
    USER_CAUSED = 4


class NoticeKind(IntEnum):
    """What a flow can be told; the numbers are QOS_NOTIFY_FLOW's."""

    CONGESTED = 0
    UNCONGESTED = 1
    AVAILABLE = 2


class Transport(Enum):
    """The protocols that a flow can hold; the values are their IP protocol numbers."""

    TCP = 6
    UDP = 17


@dataclass(frozen=True, slots=True)
class Contract:
    """What a flow may send, and what becomes of the excess.

    Attributes:
        rate_bps: Bits per second with IP and transport headers; above 0.
        shaping: What happens to the excess.
        reason: Why the rate was asked for; kept for people, decides nothing.
        is_self_paced: The program holds itself to the rate, and nothing else does.
    """

    rate_bps: int
    shaping: Shaping
    reason: RateReason = RateReason.NOT_APPLICABLE
    is_self_paced: bool = False


@dataclass(frozen=True, slots=True)
class PacketPriority:
    """The four marks that a flow's packets really carry (QOS_PACKET_PRIORITY).

    A mark of 0 is also what an untouched packet is reported with: the application's own
    bits are its own affair.
    """

    conformant_dscp: int
    non_conformant_dscp: int
    conformant_pcp: int
    non_conformant_pcp: int


@dataclass(frozen=True, slots=True)
class Treatment:
    """What the kernel must do with a flow's packets.

    Attributes:
        dscp: 0 to 63, or None to leave the packets as the application made them.
        queue_priority: skb priority 0 to 6 for the local queues, or None.
        rate_bps: Rate to hold the flow to, or None.
        excess_is_remarked: The excess is re-marked rather than delayed: DSCP 0, and 802.1p 0
            where packets are tagged.
        pcp: 802.1p priority of a tag, 0 to 7; None for no tag.
    """

    dscp: int | None = None
    queue_priority: int | None = None
    rate_bps: int | None = None
    excess_is_remarked: bool = False
    pcp: int | None = None


# Packets as the application made them.
UNTOUCHED = Treatment()

"""What is known of a path.

Unknowns are values: a path that cannot be measured is `Unmeasurable` with the reason,
and each of the `Fundamentals` may be None. Bandwidths are bits per second with IP and
transport headers, so that they compare with rates; round-trip times are nanoseconds.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias


class Doubt(enum.Enum):
    """Why a number is not given; the value is a sentence for people."""

    NO_SAMPLES = "nothing was measured"
    TOO_FEW = "too few samples arrived"
    LOSSES = "too many packets were lost"
    UNSTEADY = "the samples contradict each other"
    COALESCED = "the receiver stamps packets in clumps"
    CONTENTION = "the link is shared by turns, as Wi-Fi is: no single rate holds"
    BURST_CREDIT = "bursts pass faster than the link can sustain, which hides its load"
    TOO_FAST = "the link is too fast for this host's timing"
    IMPLAUSIBLE = "the sink's answers cannot be true"
    NOT_TRIED = "it was not asked for"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with what is claimed of it.

    Attributes:
        value: The best single number, in the unit that the name of the field says.
        low: The truth is claimed to be at least this.
        high: And at most this.
        confidence: How often such a claim is right, 0 to 1.
        method: How it was found, in a word or two.
    """

    value: int
    low: int
    high: int
    confidence: float
    method: str


@dataclass(frozen=True, slots=True)
class Inconclusive:
    """The samples cannot support a number.

    Attributes:
        doubt: Why.
        detail: The figures behind it, as a sentence.
    """

    doubt: Doubt
    detail: str = ""


Estimated: TypeAlias = Estimate | Inconclusive


@dataclass(frozen=True, slots=True)
class PathReport:
    """Everything that a measurement found out about a path.

    Attributes:
        capacity_bps: Of the narrow link, bits a second of IP packets.
        available_bps: What of it is free; on a link that is shared by turns, the share that a
            new flow would get.
        rtt_ns: Round-trip time.
        jitter_there_ns: Variation of the one-way delay to the sink.
        jitter_back_ns: And from it.
        loss_ppm: Small probes that did not come back, of a million.
        supports_priority: Whether the path carries 802.1p tags; None where it is not known.
        link: What kind of link the narrow one is, in words.
        boost_bps: The rate that bursts get, where it is higher than the capacity; else 0.
        drift_ppm: How much faster the sink's clock runs.
    """

    capacity_bps: Estimated
    available_bps: Estimated
    rtt_ns: Estimated
    jitter_there_ns: Estimated
    jitter_back_ns: Estimated
    loss_ppm: Estimated
    supports_priority: bool | None
    link: str
    boost_bps: int = 0
    drift_ppm: float = 0.0


@dataclass(frozen=True, slots=True)
class Unmeasurable:
    """No estimates exist for the path, and none are under way.

    Attributes:
        reason: Why, as a sentence.
        is_of_this_host: What is in the way is here, so a sink may well answer there.
        is_of_caller: It is so for who asks, whose packets leave another way than everybody's.
    """

    reason: str
    is_of_this_host: bool = False
    is_of_caller: bool = False


@dataclass(frozen=True, slots=True)
class Fundamentals:
    """The three numbers of a path; None where it is not known.

    Attributes:
        bottleneck_bps: Capacity of the narrowest link.
        available_bps: What of it is free now.
        rtt_ns: Round-trip time.
    """

    bottleneck_bps: int | None = None
    available_bps: int | None = None
    rtt_ns: int | None = None


class CongestionReason(enum.Enum):
    """What a verdict of congestion rests on; the value is a sentence for people."""

    DELAY = "a queue stands on the way"
    PROBE_LOSS = "small probes are lost"
    FLOW_LOSS = "the flow's own packets are lost"
    FLOW_QUEUE = "the flow's own packets wait in queues"
    ECN = "routers mark the flow's packets as having met congestion"


@dataclass(frozen=True, slots=True)
class Congestion:
    """A verdict on a path.

    Attributes:
        is_congested: Whether queues stand or packets are lost; None while unknown.
        reason: What it rests on; None unless congested.
        detail: The figures behind it, as a sentence; may be empty.
    """

    is_congested: bool | None = None
    reason: CongestionReason | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class FlowCounters:
    """What the kernel counted for one socket, since it was made, and how it fares now.

    Attributes:
        sent_bytes: Payload handed to the network, repetitions included; None where the kernel
            does not count it (UDP).
        delivered_packets: Segments that the peer has; 0 for UDP.
        delivered_ce_packets: Those of them that a router had marked (ECN CE).
        lost_packets: Segments sent again.
        rtt_ns: Smoothed round-trip time; None where it is not known.
        least_rtt_ns: The least one that the kernel remembers; None likewise.
        waiting_bytes: What the application wrote and this host has not sent yet.
    """

    sent_bytes: int | None = None
    delivered_packets: int = 0
    delivered_ce_packets: int = 0
    lost_packets: int = 0
    rtt_ns: int | None = None
    least_rtt_ns: int | None = None
    waiting_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PathView:
    """A measured path as the engine sees it now.

    Attributes:
        fundamentals: The estimates.
        congestion: Whether queues stand or packets are lost.
        available_low_bps: The available bandwidth is claimed to be at least this; None if unknown.
        confidence: How often such claims are right, 0 to 1; 0 where nothing is claimed.
        since_ns: Everything in it was measured after this monotonic time; None if that is not
            known.
        sent_bytes: What experiments on the path have sent since they began, IP headers included.
        carries_tags: Whether the path carries 802.1p tags, by probes that had some; None where that
            was not tried.
    """

    fundamentals: Fundamentals
    congestion: Congestion = Congestion()
    available_low_bps: int | None = None
    confidence: float = 0.0
    since_ns: int | None = None
    sent_bytes: int = 0
    carries_tags: bool | None = None

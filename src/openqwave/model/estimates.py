"""What is known of a path.

Unknowns are values: a path that has no measurement is `Unmeasurable` with the reason,
and each part of `PathView` may be None. Bandwidths are bits per second with IP and
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
    """No estimates exist for the path, and none are under way; `reason` says why."""

    reason: str


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


@dataclass(frozen=True, slots=True)
class PathView:
    """A measured path as the engine sees it now.

    Attributes:
        fundamentals: The estimates.
        is_congested: Whether queues grow or packets are lost; None while unknown.
    """

    fundamentals: Fundamentals
    is_congested: bool | None = None

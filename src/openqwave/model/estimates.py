"""What is known of a path.

Unknowns are values: a path that has no measurement is `Unmeasurable` with the reason,
and each part of `PathView` may be None. Bandwidths are bits per second with IP and
transport headers, so that they compare with rates; round-trip times are nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass


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

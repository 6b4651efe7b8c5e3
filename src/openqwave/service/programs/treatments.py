"""What was asked for a program that asks for nothing, as what the kernel is to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from openqwave.admission.policy import queue_priority
from openqwave.model.flow import Treatment

if TYPE_CHECKING:
    from openqwave.admission.policy import Policy
    from openqwave.model.flow import TrafficType

WAITS: Final = "waits"
WITHOUT_PRIORITY: Final = "is sent with the marks of best effort"


@dataclass(frozen=True, slots=True)
class Wish:
    """What traffic is to get; None leaves it as it is.

    Attributes:
        traffic_type: Marks as of this type.
        dscp: An exact code point, which comes before that of the type.
        rate_bps: Bits per second with IP and transport headers, of all its sockets together.
        hold_back: What is above the rate waits, where that can be had.
    """

    traffic_type: TrafficType | None = None
    dscp: int | None = None
    rate_bps: int | None = None
    hold_back: bool = False

    @property
    def excess(self) -> str:
        """What is asked to become of packets above the rate, in words."""
        if self.rate_bps is None:
            return ""
        return WAITS if self.hold_back else WITHOUT_PRIORITY


def treatment_of(wish: Wish, policy: Policy) -> Treatment:
    """What the kernel is to do for a wish, with the marks that its policy has."""
    dscp = wish.dscp
    if dscp is None and wish.traffic_type is not None:
        dscp = policy.dscp_of(wish.traffic_type)
    return Treatment(
        dscp=dscp,
        queue_priority=None if dscp is None else queue_priority(dscp),
        rate_bps=wish.rate_bps,
        excess_is_remarked=wish.rate_bps is not None and not wish.hold_back,
    )


def is_withheld(wish: Wish, policy: Policy) -> bool:
    """Would a user's program have marks if it had a rate, too?

    A rate that a run is held to is the contract of a flow that is not adaptive.
    """
    return (
        wish.dscp is None
        and wish.rate_bps is None
        and wish.traffic_type is not None
        and policy.withholds(wish.traffic_type)
    )

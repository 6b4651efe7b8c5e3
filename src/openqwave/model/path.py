"""The way to a host, as this host's routes have it.

A path is known by the host at its far end. What lies on the way there, as far as this host can
tell, are the facts here; they change with routes, links, neighbours and addresses, and when they
do, what was measured is of another path.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from openqwave.model.value import value

if TYPE_CHECKING:
    from openqwave.model.endpoint import Endpoint
    from openqwave.model.estimates import Congestion, Fundamentals


class LinkType(enum.Enum):
    """What an interface is; the value is a word for people."""

    WIRED = "wired"
    WIRELESS = "wireless"
    LOOPBACK = "loopback"
    TUNNEL = "tunnel"


@value
class FirstHop:
    """The link that paths share on leaving this host.

    Attributes:
        interface: Its index.
        gateway: The router's address, packed; empty where the far end is on the link.
    """

    interface: int
    gateway: bytes = b""


@value
class PathFacts:
    """How packets to a host leave.

    Attributes:
        host: The far end; port 0.
        interface: Index of the outgoing interface.
        interface_name: Its name.
        source: The local address, packed; empty if unknown.
        gateway: The next router's address, packed; empty where the host is on the link.
        mtu_bytes: Largest IP packet.
        link_type: What the interface is.
        speed_bps: What the interface can carry by its driver's word; 0 if unknown.
    """

    host: Endpoint
    interface: int
    interface_name: str
    source: bytes
    gateway: bytes
    mtu_bytes: int
    link_type: LinkType
    speed_bps: int = 0

    @property
    def is_on_link(self) -> bool:
        """Is the host reached without a router?"""
        return not self.gateway

    @property
    def may_carry_tags(self) -> bool:
        """Could 802.1p tags get to the far end: is it on a wired link?"""
        return self.is_on_link and self.link_type is LinkType.WIRED

    def is_same_way(self, other: PathFacts) -> bool:
        """Do packets leave alike? What one may hold is learnt by and by, and does not count."""
        return (self.interface, self.source, self.gateway) == (
            other.interface,
            other.source,
            other.gateway,
        )

    @property
    def first_hop(self) -> FirstHop:
        """What other paths share with this one."""
        return FirstHop(self.interface, self.gateway)


@value
class PathStatus:
    """What is believed of a path now, for people and programs that show it.

    Attributes:
        host: The far end; port 0.
        facts: The way there; None where it was never told.
        fundamentals: The estimates; every part None where nothing is known.
        available_low_bps: The available bandwidth is claimed to be at least this; None if unknown.
        confidence: How often such claims are right, 0 to 1.
        age_ns: How old the estimates are; None where there are none.
        congestion: Whether queues stand or packets are lost.
        held_bps: What contracts hold of the path.
        own_bps: What flows under contract send; None while nobody counts.
        sent_bytes: What experiments have sent there, IP headers included.
        obstacle: Why nothing is measured now, as a sentence; empty where it is.
    """

    host: Endpoint
    facts: PathFacts | None
    fundamentals: Fundamentals
    available_low_bps: int | None
    confidence: float
    age_ns: int | None
    congestion: Congestion
    held_bps: int
    own_bps: int | None
    sent_bytes: int
    obstacle: str

"""Which packets are asked for."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

from openqwave.cli.capture.conversations import is_qlpb
from openqwave.model.value import value
from openqwave.wire.packets import Packet

Network: TypeAlias = IPv4Network | IPv6Network


@value
class Filter:
    """All that is set has to hold.

    Attributes:
        host: One end is in this network.
        port: One end has this port.
        is_marked: DSCP or the priority of 802.1p is not 0.
        is_qlpb: It is of the protocol's port.
    """

    host: Network | None = None
    port: int | None = None
    is_marked: bool = False
    is_qlpb: bool = False

    def takes(self, packet: Packet) -> bool:
        """Is the packet asked for?"""
        if self.host is not None and not (
            packet.source in self.host or packet.destination in self.host
        ):
            return False
        if self.port is not None and self.port not in (packet.ports or ()):
            return False
        if self.is_qlpb and not is_qlpb(packet):
            return False
        has_priority = packet.tag is not None and packet.tag.pcp != 0
        return not self.is_marked or packet.dscp != 0 or has_priority

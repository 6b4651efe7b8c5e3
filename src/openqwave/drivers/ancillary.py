"""What the kernel says of a datagram beside its payload, in control messages, by IP version.

Each socket asks for the same messages for every datagram, so they lie in the same places; a
`Layout` finds the places once. Layouts of the messages: ip(7), ipv6(7), socket(7), cmsg(3).
"""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from openqwave.drivers.batches import CONTROL_BYTES
from openqwave.drivers.stamps import SO_TIMESTAMPING

if TYPE_CHECKING:
    from openqwave.drivers.batches import ReceiveBatch
    from openqwave.model.endpoint import Endpoint

# linux/in.h: no name in the module.
IP_PKTINFO = 8

# Where in an int its low byte lies.
_LOW_BYTE = 0 if sys.byteorder == "little" else 3
# struct in_pktinfo: interface, local address, and one that is not looked at; struct in6_pktinfo.
_IN_PKTINFO = struct.Struct("=i4s4x")
_IN6_PKTINFO = struct.Struct("=16si")


class Layout(NamedTuple):
    """Where the data lies in the control messages of a datagram; 0 for what is not there."""

    stamp_at: int
    class_at: int
    hops_at: int
    local_at: int


@dataclass(frozen=True, slots=True)
class Family:
    """The numbers that differ between IPv4 and IPv6.

    Attributes:
        level: Of the messages.
        traffic_class: The message with DSCP and ECN; also the option that sets them.
        class_at: Where the octet lies in it: IPv4's is a byte, IPv6's an int.
        hops_control: The message with TTL or hop limit, an int.
        local_control: The message with the local address.
        local_at: Where the address lies in it.
        local_bytes: The address's length.
    """

    level: int
    traffic_class: int
    class_at: int
    hops_control: int
    local_control: int
    local_at: int
    local_bytes: int

    def layout_of(self, batch: ReceiveBatch, slot: int, used_bytes: int) -> Layout:
        """Find the places in the control data of one message.

        Args:
            batch: What was received.
            slot: Which message.
            used_bytes: The length of its control data.
        """
        start = slot * CONTROL_BYTES
        stamp_at = class_at = hops_at = local_at = 0
        for level, kind, at in batch.control_messages(slot, used_bytes):
            if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPING:
                stamp_at = at - start
            elif level != self.level:
                continue
            elif kind == self.traffic_class:
                class_at = at - start + self.class_at
            elif kind == self.hops_control:
                hops_at = at - start + _LOW_BYTE
            elif kind == self.local_control:
                local_at = at - start + self.local_at
        return Layout(stamp_at, class_at, hops_at, local_at)


FAMILIES = {
    4: Family(
        level=socket.IPPROTO_IP,
        traffic_class=socket.IP_TOS,
        class_at=0,
        hops_control=socket.IP_TTL,
        local_control=IP_PKTINFO,
        # After the interface.
        local_at=4,
        local_bytes=4,
    ),
    6: Family(
        level=socket.IPPROTO_IPV6,
        traffic_class=socket.IPV6_TCLASS,
        class_at=_LOW_BYTE,
        hops_control=socket.IPV6_HOPLIMIT,
        local_control=socket.IPV6_PKTINFO,
        local_at=0,
        local_bytes=16,
    ),
}


def source_control(local: bytes, peer: Endpoint) -> bytes:
    """The data of a `Family.local_control` message that has a datagram come from an address.

    Args:
        local: One of this host's, packed.
        peer: Where the datagram goes. The routes choose the interface, as they would without
            this; a link-local peer names it.
    """
    if len(local) == 4:
        return _IN_PKTINFO.pack(0, local)
    return _IN6_PKTINFO.pack(local, peer.scope_id)

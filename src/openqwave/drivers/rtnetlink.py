"""The kernel's routes and links, read from a netlink socket, and word of their changes.

One question (RTM_GETROUTE, a dump) brings all routes of the network namespace in a few messages.
Layouts: rtnetlink(7), linux/rtnetlink.h, linux/if_link.h; see `openqwave.drivers.netlink`.

Read are the tables "main" and "local". A host that is reached by policy routing only is not found
there and counts as far away.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypeAlias

from openqwave.drivers.netlink import Attributes, Netlink, attribute, attributes, drain, number

Network: TypeAlias = IPv4Network | IPv6Network

# struct rtmsg: family, destination's and source's length, TOS, table, protocol, scope, type,
# flags. struct rtnexthop: length, flags, hops, interface. struct ifinfomsg: family, hardware,
# interface, flags, change. struct ndmsg: family, interface, state, flags, type.
ROUTE = struct.Struct("=BBBBBBBBI")
_HOP = struct.Struct("=HBBi")
LINK = struct.Struct("=BxHiII")
NEIGHBOUR = struct.Struct("=B3xiHBB")
_U16 = struct.Struct("=H")
_U32 = struct.Struct("=I")
_ALIGN = 4

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_GETROUTE = 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30

RTN_UNICAST, RTN_LOCAL = 1, 2
_RT_TABLES = frozenset({254, 255})
RTA_DST = 1
RTA_OIF = 4
RTA_GATEWAY = 5
_RTA_PRIORITY = 6
_RTA_MULTIPATH = 9
_RTA_TABLE = 15
_RTA_VIA = 18
RTA_ENCAP_TYPE = 21

# linux/neighbour.h
NUD_INCOMPLETE, NUD_FAILED = 0x01, 0x20
NDA_DST = 1

_IFLA_IFNAME = 3
_IFLA_MTU = 4
_IFLA_STATS64 = 23
_IFLA_EXT_MASK = 29
# RTEXT_FILTER_SKIP_STATS: the counters are half of a link's description.
_WITHOUT_COUNTERS = attribute(_IFLA_EXT_MASK, _U32.pack(8))
# struct rtnl_link_stats64 up to tx_bytes.
_COUNTERS = struct.Struct("=24xQ")
# IFF_UP, IFF_RUNNING, IFF_LOWER_UP: switched on, usable by its own word (RFC 2863), with a
# carrier. The last is there at once; the kernel works out the second in the background.
_UP_FLAGS = 0x1 | 0x40 | 0x1_0000

# RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE. Links too: an interface that
# goes down takes its IPv4 routes along without a word.
_ROUTE_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
# And RTMGRP_TC.
_OUTGOING_GROUPS = _ROUTE_GROUPS | 0x8


@dataclass(frozen=True, slots=True)
class Route:
    """One way.

    Attributes:
        network: Whom it leads to.
        metric: Lower is preferred among routes to the same network.
        gateway: The next router's address as text, or a word that says why there is none; empty
            where the destination is on the link.
        interface: Index of the interface; 0 for none, and for this host's own addresses.
    """

    network: Network
    metric: int = 0
    gateway: str = ""
    interface: int = 0


def _hops(found: Attributes) -> Iterator[tuple[int, Attributes]]:
    """Interface and attributes of each next hop: several if the route is shared."""
    shared = found.get(_RTA_MULTIPATH)
    if shared is None:
        yield number(found, RTA_OIF), found
        return
    at = 0
    while at + _HOP.size <= len(shared):
        length, _, _, interface = _HOP.unpack_from(shared, at)
        if length < _HOP.size:
            return
        yield interface, attributes(shared[at + _HOP.size : at + length])
        at += length + _ALIGN - 1 & -_ALIGN


def _address(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def gateway_of(hop: Attributes) -> bytes:
    """The packed address of the router of a next hop; empty where there is none."""
    if RTA_GATEWAY in hop:
        return hop[RTA_GATEWAY]
    # struct rtvia: the address's family, then the address, of the other IP version.
    return hop.get(_RTA_VIA, b"")[_U16.size :]


def _gateway(kind: int, found: Attributes) -> str:
    if kind not in (RTN_UNICAST, RTN_LOCAL):
        return "none: the route leads nowhere"
    for _, hop in _hops(found):
        if RTA_ENCAP_TYPE in hop:
            return "a tunnel"
        gateway = gateway_of(hop)
        if gateway:
            return _address(gateway)
    return ""


def _to_route(data: bytes) -> Route | None:
    family, bits, _, _, table, _, _, kind, _ = ROUTE.unpack_from(data)
    found = attributes(data[ROUTE.size :])
    # The header's field has 8 bits.
    if (number(found, _RTA_TABLE) or table) not in _RT_TABLES:
        return None
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    size = 4 if family == socket.AF_INET else 16
    destination = found.get(RTA_DST, bytes(size))
    interface, _ = next(_hops(found), (0, {}))
    return Route(
        ip_network((destination, bits)),
        number(found, _RTA_PRIORITY),
        _gateway(kind, found),
        0 if kind == RTN_LOCAL else interface,
    )


def read_routes() -> list[Route]:
    """The routes of the calling thread's network namespace.

    Raises:
        OSError: The kernel could not be asked.
    """
    question = ROUTE.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0, 0)
    with Netlink(socket.NETLINK_ROUTE) as netlink:
        routes = map(_to_route, netlink.dump(RTM_GETROUTE, question))
        return [route for route in routes if route is not None]


@dataclass(frozen=True, slots=True)
class LinkState:
    """One interface.

    Attributes:
        index: Its number.
        name: Its name.
        is_up: Whether packets can leave: it is switched on, and has a carrier where it needs one.
        mtu_bytes: The largest IP packet.
        hardware: What it is, by ARPHRD_ number.
        tx_bytes: What has left it, link headers included; 0 where that was not asked for.
    """

    index: int
    name: str
    is_up: bool
    mtu_bytes: int
    hardware: int
    tx_bytes: int = 0


def to_link(body: bytes) -> LinkState:
    """Read the body of a message about a link."""
    _, hardware, index, flags, _ = LINK.unpack_from(body)
    found = attributes(body[LINK.size :])
    counters = found.get(_IFLA_STATS64, b"")
    return LinkState(
        index,
        found.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace"),
        flags & _UP_FLAGS == _UP_FLAGS,
        number(found, _IFLA_MTU),
        hardware,
        _COUNTERS.unpack_from(counters)[0] if len(counters) >= _COUNTERS.size else 0,
    )


def link_question(interface: int = 0) -> bytes:
    """The body of a question about a link; without its counters. 0 is for a list of them all."""
    return LINK.pack(socket.AF_UNSPEC, 0, interface, 0, 0) + _WITHOUT_COUNTERS


def read_links() -> dict[int, LinkState]:
    """The interfaces of the calling thread's network namespace, by index, with their counters.

    Raises:
        OSError: The kernel could not be asked.
    """
    question = LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    with Netlink(socket.NETLINK_ROUTE) as netlink:
        links = map(to_link, netlink.dump(RTM_GETLINK, question))
        return {link.index: link for link in links}


def settled(link: LinkState) -> LinkState:
    """A link without its counters: what does not change by itself."""
    return LinkState(link.index, link.name, link.is_up, link.mtu_bytes, link.hardware)


def announced_link(kind: int, body: bytes) -> LinkState | None:
    """Read an announcement of RTMGRP_LINK; None for what is none of an interface itself.

    A bridge announces its ports in the same group, in the same words.
    """
    if kind not in (RTM_NEWLINK, RTM_DELLINK) or body[0] != socket.AF_UNSPEC:
        return None
    return to_link(body)


class Changes:
    """Hears of changes in the calling thread's network namespace."""

    def __init__(self, groups: int) -> None:
        """Begin to hear.

        Args:
            groups: Of what: RTMGRP_ flags of linux/rtnetlink.h.

        Raises:
            OSError: The kernel could not be asked.
        """
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        try:
            self._socket.bind((0, groups))
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Readable where something has happened."""
        return self._socket.fileno()

    def have_happened(self) -> bool:
        """Has anything been announced since the last question?

        Raises:
            OSError: The kernel could not be asked.
        """
        # What it was does not matter, so its beginning is enough.
        return sum(1 for _ in drain(self._socket, 1)) > 0

    def close(self) -> None:
        """Hear no more; harmless when done before."""
        self._socket.close()


class RouteChanges(Changes):
    """Hears of changes of links, addresses and routes."""

    def __init__(self) -> None:
        """Begin to hear; errors as with `Changes`."""
        super().__init__(_ROUTE_GROUPS)


class OutgoingChanges(Changes):
    """Hears of all that decides where packets leave, and through which queues and filters."""

    def __init__(self) -> None:
        """Begin to hear; errors as with `Changes`."""
        super().__init__(_OUTGOING_GROUPS)

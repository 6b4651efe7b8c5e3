"""The kernel's routes, read from a netlink socket, and word of their changes.

One question (RTM_GETROUTE, a dump) brings all routes of the network namespace in a few messages;
they are read here rather than by the netlink library, whose import alone takes longer than a
quick measurement has (0.2 s), and whose questions need a thread each. Layouts: netlink(7),
rtnetlink(7), linux/netlink.h, linux/rtnetlink.h; all in the host's byte order.

Read are the tables "main" and "local". A host that is reached by policy routing only is not found
there and counts as far away.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypeAlias

Network: TypeAlias = IPv4Network | IPv6Network
_Attributes: TypeAlias = dict[int, bytes]

# struct nlmsghdr: length, type, flags, sequence, port. struct rtmsg: family, destination's and
# source's length, TOS, table, protocol, scope, type, flags. struct rtattr: length, type. struct
# rtnexthop: length, flags, hops, interface.
_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_HOP = struct.Struct("=HBBi")
_INT = struct.Struct("=i")
_U16 = struct.Struct("=H")
_ALIGN = 4

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_RTM_GETROUTE = 26
_NLM_F_REQUEST = 0x1
_NLM_F_DUMP = 0x300
# The routes changed while they were read.
_NLM_F_DUMP_INTR = 0x10
# The upper bits of an attribute's type are flags.
_ATTRIBUTE_MASK = 0x3FFF

_RTN_UNICAST, _RTN_LOCAL = 1, 2
_RT_TABLES = frozenset({254, 255})
_RTA_DST = 1
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RTA_PRIORITY = 6
_RTA_MULTIPATH = 9
_RTA_TABLE = 15
_RTA_VIA = 18
_RTA_ENCAP_TYPE = 21

# RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE. Links too: an interface that
# goes down takes its IPv4 routes along without a word.
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400

# The kernel fills up to 32 KiB at once if there is room for it.
_BUFFER_BYTES = 65_536
# Routes that change every time they are read are used as they are.
_TRIES = 3


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


def _attributes(data: bytes) -> _Attributes:
    found: _Attributes = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _ATTRIBUTE_MASK] = data[at + _ATTRIBUTE.size : at + length]
        at += length + _ALIGN - 1 & -_ALIGN
    return found


def _hops(attributes: _Attributes) -> Iterator[tuple[int, _Attributes]]:
    """Interface and attributes of each next hop: several if the route is shared."""
    shared = attributes.get(_RTA_MULTIPATH)
    if shared is None:
        yield _number(attributes, _RTA_OIF), attributes
        return
    at = 0
    while at + _HOP.size <= len(shared):
        length, _, _, interface = _HOP.unpack_from(shared, at)
        if length < _HOP.size:
            return
        yield interface, _attributes(shared[at + _HOP.size : at + length])
        at += length + _ALIGN - 1 & -_ALIGN


def _number(attributes: _Attributes, kind: int) -> int:
    data = attributes.get(kind)
    if data is None:
        return 0
    number: int = _INT.unpack_from(data)[0]
    return number


def _address(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _gateway(kind: int, attributes: _Attributes) -> str:
    if kind not in (_RTN_UNICAST, _RTN_LOCAL):
        return "none: the route leads nowhere"
    for _, hop in _hops(attributes):
        if _RTA_ENCAP_TYPE in hop:
            return "a tunnel"
        if _RTA_GATEWAY in hop:
            return _address(hop[_RTA_GATEWAY])
        if _RTA_VIA in hop:
            # struct rtvia: the address's family, then the address, of the other IP version.
            return _address(hop[_RTA_VIA][_U16.size :])
    return ""


def _to_route(data: bytes) -> Route | None:
    family, bits, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(data)
    attributes = _attributes(data[_ROUTE.size :])
    # The header's field has 8 bits.
    if (_number(attributes, _RTA_TABLE) or table) not in _RT_TABLES:
        return None
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    size = 4 if family == socket.AF_INET else 16
    destination = attributes.get(_RTA_DST, bytes(size))
    interface, _ = next(_hops(attributes), (0, {}))
    return Route(
        ip_network((destination, bits)),
        _number(attributes, _RTA_PRIORITY),
        _gateway(kind, attributes),
        0 if kind == _RTN_LOCAL else interface,
    )


def _messages(sock: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and body of the messages of an answer, without its end."""
    while True:
        data = sock.recv(_BUFFER_BYTES)
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
            body = data[at + _HEADER.size : at + length]
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                code = -_INT.unpack_from(body)[0]
                raise OSError(code, os.strerror(code))
            yield kind, flags, body
            at += length + _ALIGN - 1 & -_ALIGN


def read_routes() -> list[Route]:
    """The routes of the calling thread's network namespace.

    Raises:
        OSError: The kernel could not be asked.
    """
    question = _ROUTE.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0, 0)
    routes: list[Route] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        for turn in range(_TRIES):
            header = _HEADER.pack(
                _HEADER.size + len(question), _RTM_GETROUTE, _NLM_F_REQUEST | _NLM_F_DUMP, turn, 0
            )
            sock.send(header + question)
            routes, was_interrupted = [], False
            for _, flags, body in _messages(sock):
                was_interrupted |= bool(flags & _NLM_F_DUMP_INTR)
                route = _to_route(body)
                if route is not None:
                    routes.append(route)
            if not was_interrupted:
                break
    return routes


class RouteChanges:
    """Hears of changes of links, addresses and routes in the calling thread's namespace."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        try:
            self._socket.bind((0, _GROUPS))
        except BaseException:
            self._socket.close()
            raise

    def have_happened(self) -> bool:
        """Has anything been announced since the last question?

        Raises:
            OSError: The kernel could not be asked.
        """
        announced = False
        while True:
            try:
                # What it was does not matter, so its beginning is enough.
                self._socket.recv(1)
            except BlockingIOError:
                return announced
            except OSError as error:
                # More was announced than the socket holds.
                if error.errno != errno.ENOBUFS:
                    raise
            announced = True

    def close(self) -> None:
        """Hear no more; harmless when done before."""
        self._socket.close()

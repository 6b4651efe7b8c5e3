"""Which hosts are on this host's links, and what lies between here and the others.

Experiments stay on the link by default, and a datagram that pretends to come from a neighbour
must not cost a question to the kernel. So the routing table is held here, as prefixes by length,
and asked as the kernel asks it: the longest prefix that holds the address decides, the lowest
metric among equals.

**On the link** is what a route without a gateway leads to: neighbours' networks, this host's own
addresses, loopback. A default route is not one, whatever device it names, and neither is a prefix
so short that it can only be a default in disguise (VPNs write 0.0.0.0/1 and 128.0.0.0/1). IPv6
link-local addresses always are.

**Freshness.** The kernel announces changes; the table is read again when something was announced,
and not more often than every `LOOK_NS`.

**Speed** of an interface comes from its driver (ETHTOOL_GSET). A wireless interface has none
there and tells the rate of its radio instead (SIOCGIWRATE), of which 60 % is counted, as MS-QLPB
3.2.5.5 has it. Both are questions to the network namespace of the socket that asks; /sys would
answer for the namespace in which it was mounted.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Self

from openqwave.drivers.rtnetlink import Network, Route, RouteChanges, read_routes
from openqwave.model.errors import InvalidParameter, error_of, refusal_of_os_error

if TYPE_CHECKING:
    from openqwave.model.endpoint import Endpoint

# How long a change may go unnoticed; a roaming host needs longer to get an address.
LOOK_NS = 2_000_000_000

# The shortest prefix that can be a link's, by IP version. 10.0.0.0/8 is the largest private
# network; nobody has an IPv6 link of more than a /16.
_SHORTEST_LINK_BITS = {4: 8, 6: 16}

# linux/sockios.h, linux/ethtool.h, linux/wireless.h
_SIOCETHTOOL = 0x8946
_ETHTOOL_GSET = 1
_SIOCGIWRATE = 0x8B21
# struct ifreq: a name, then a union that is filled up to the size of struct ifmap.
_NAME_BYTES = 16
_REQUEST_BYTES = 40
# struct ethtool_cmd up to the upper half of the speed.
_SETTINGS = struct.Struct("=I8xH14xH12x")
_SPEED_UNKNOWN_MBPS = 0xFFFF_FFFF
_RATE = struct.Struct("=i")
_BPS_PER_MBPS = 1_000_000
# What a wireless link carries of its radio's rate.
_WIRELESS_PERCENT = 60


class RouteTable:
    """Routes by destination; does not change."""

    def __init__(self, routes: Iterable[Route]) -> None:
        # By IP version: length of the prefix, its bits as a number, the route.
        self._by_length: dict[int, dict[int, dict[int, Route]]] = {4: {}, 6: {}}
        for route in routes:
            network = route.network
            bits = network.max_prefixlen - network.prefixlen
            found = self._by_length[network.version].setdefault(bits, {})
            key = int(network.network_address) >> bits
            if key not in found or route.metric < found[key].metric:
                found[key] = route
        for version, tables in self._by_length.items():
            self._by_length[version] = dict(sorted(tables.items()))

    def best(self, packed: bytes) -> Route | None:
        """The route to an address, by its packed bytes; None where there is none."""
        number = int.from_bytes(packed, "big")
        for bits, routes in self._by_length[4 if len(packed) == 4 else 6].items():
            route = routes.get(number >> bits)
            if route is not None:
                return route
        return None


@dataclass(frozen=True, slots=True)
class InterfaceSpeed:
    """What an interface can carry, by its driver's word.

    Attributes:
        speed_bps: Bits per second, 60 % of the radio's rate for a wireless one; 0 if unknown.
        is_wireless: Whether it is a radio.
    """

    speed_bps: int = 0
    is_wireless: bool = False


def interface_speed(
    sock: socket.socket,
    name: str,
    ask: Callable[[socket.socket, int, bytes], bytes] = fcntl.ioctl,
) -> InterfaceSpeed:
    """Ask an interface's driver how fast it is.

    Args:
        sock: Any socket of the interface's network namespace.
        name: Its name there.
        ask: The system call ioctl.
    """
    settings = ctypes.create_string_buffer(_SETTINGS.pack(_ETHTOOL_GSET, 0, 0), _SETTINGS.size)
    field = name.encode().ljust(_NAME_BYTES, b"\0")
    # What a driver has no answer to it refuses in one of many ways; each means "unknown".
    with contextlib.suppress(OSError):
        answer = ask(sock, _SIOCGIWRATE, field.ljust(_REQUEST_BYTES, b"\0"))
        rate_bps: int = _RATE.unpack_from(answer, _NAME_BYTES)[0]
        return InterfaceSpeed(max(0, rate_bps) * _WIRELESS_PERCENT // 100, True)
    with contextlib.suppress(OSError):
        where = struct.pack("@P", ctypes.addressof(settings))
        ask(sock, _SIOCETHTOOL, (field + where).ljust(_REQUEST_BYTES, b"\0"))
        lower: int
        upper: int
        _, lower, upper = _SETTINGS.unpack(settings.raw)
        mbps = upper << 16 | lower
        return InterfaceSpeed(0 if mbps == _SPEED_UNKNOWN_MBPS else mbps * _BPS_PER_MBPS)
    return InterfaceSpeed()


def interface_speed_bps(
    interface: int, ask: Callable[[socket.socket, int, bytes], bytes] = fcntl.ioctl
) -> int:
    """What an interface can carry, by its driver's word.

    Args:
        interface: Its index in the calling thread's network namespace.
        ask: The system call ioctl.

    Returns:
        Bits per second, 60 % of the radio's rate for a wireless one; 0 if it is unknown.
    """
    try:
        name = socket.if_indextoname(interface)
    except OSError:
        # Gone since the routes were read.
        return 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return interface_speed(sock, name, ask).speed_bps


def table_of(networks: Iterable[str | Network]) -> RouteTable:
    """A table that has a route to each of some networks, and no other.

    Raises:
        InvalidParameter: One of them is no network.
    """
    return RouteTable(
        Route(network if isinstance(network, Network) else _network(network))
        for network in networks
    )


def is_of_a_link(version: int, prefix_bits: int) -> bool:
    """May a route to a prefix of this length be to a link's own network? See the module's text."""
    return prefix_bits >= _SHORTEST_LINK_BITS[version]


class Adjacency:
    """Answers where a peer is; for one thread."""

    def __init__(
        self,
        allowed: Sequence[str | Network] = (),
        *,
        read: Callable[[], list[Route]] = read_routes,
    ) -> None:
        """Read the routes, and begin to hear of changes.

        Args:
            allowed: Networks whose hosts may take part in experiments though they are not on
                the link.
            read: Where routes come from.

        Raises:
            InvalidParameter: An allowed network is none.
            QosError: The kernel could not be asked.
        """
        self._allowed = table_of(allowed)
        self._read = read
        self._speeds_bps: dict[int, int] = {}
        self._look_ns = 0
        try:
            self._changes = RouteChanges()
        except OSError as error:
            raise error_of(refusal_of_os_error(error, "routes cannot be watched")) from error
        try:
            self.refresh()
        except BaseException:
            self._changes.close()
            raise

    def allow(self, networks: Sequence[str | Network]) -> None:
        """Allow the hosts of these networks from now on, and of no others.

        Raises:
            InvalidParameter: One of them is none; then nothing changes.
        """
        self._allowed = table_of(networks)

    def refresh(self) -> None:
        """Read the routes again.

        Raises:
            QosError: The kernel could not be asked; what was known stays.
        """
        try:
            # Before reading: what changes meanwhile is announced afterwards.
            self._changes.have_happened()
            self._routes = RouteTable(self._read())
        except OSError as error:
            raise error_of(refusal_of_os_error(error, "the routes cannot be read")) from error
        self._speeds_bps = {}
        self._look_ns = time.monotonic_ns() + LOOK_NS

    def _route(self, peer: Endpoint) -> Route | None:
        now_ns = time.monotonic_ns()
        if now_ns >= self._look_ns:
            self._look_ns = now_ns + LOOK_NS
            if self._changes.have_happened():
                self.refresh()
        return self._routes.best(peer.packed)

    def is_on_link(self, peer: Endpoint) -> bool:
        """Can the peer be reached without a router?

        Raises:
            QosError: The routes changed and could not be read again.
        """
        peer = peer.unmapped()
        if peer.is_link_local:
            return True
        route = self._route(peer)
        return (
            route is not None
            and not route.gateway
            and is_of_a_link(peer.version, route.network.prefixlen)
        )

    def is_allowed(self, peer: Endpoint) -> bool:
        """May the peer take part: is it on the link, or in an allowed network?

        Raises:
            QosError: As `is_on_link`.
        """
        peer = peer.unmapped()
        return self._allowed.best(peer.packed) is not None or self.is_on_link(peer)

    def gateway_of(self, peer: Endpoint) -> str:
        """The router on the way to a peer, as words for a message; empty if it is on the link.

        Raises:
            QosError: As `is_on_link`.
        """
        if self.is_on_link(peer):
            return ""
        route = self._route(peer.unmapped())
        if route is None:
            return "none: no route leads there"
        return route.gateway or "whatever the default route's interface leads to"

    def interface_speed_bps(self, peer: Endpoint) -> int:
        """Speed of the interface towards a peer, see `interface_speed_bps`; 0 if unknown.

        Raises:
            QosError: As `is_on_link`.
        """
        peer = peer.unmapped()
        route = None if peer.is_link_local else self._route(peer)
        interface = peer.scope_id if route is None else route.interface
        if interface not in self._speeds_bps:
            self._speeds_bps[interface] = interface_speed_bps(interface) if interface else 0
        return self._speeds_bps[interface]

    def close(self) -> None:
        """Hear no more; harmless when done before."""
        self._changes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _network(text: str) -> Network:
    """A network in CIDR notation; an IPv4-mapped one is IPv4's."""
    try:
        network = ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidParameter(f"{text!r} is no network: {error}") from error
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network

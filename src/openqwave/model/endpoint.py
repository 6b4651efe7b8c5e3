"""Where packets go: one address, one port.

Addresses are kept as their packed bytes, because that is what the kernel compares and
what hashes fast; text is made when somebody reads it. An IPv4-mapped IPv6 address
(``::ffff:a.b.c.d``, RFC 4291 section 2.5.5.2) is a way for an IPv6 socket to speak IPv4:
its packets are IPv4 packets. `Endpoint.unmapped` says which they will be.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from openqwave.model.value import value

# RFC 4291 section 2.5.5.2: ten bytes of zero, two of ones, then the IPv4 address.
MAPPED_PREFIX = bytes(10) + b"\xff\xff"


# Ports are 16 bits on the wire; interface indices 32 in a sockaddr_in6.
_MAX_PORT = 65_535
_MAX_SCOPE_ID = (1 << 32) - 1


def address_text(packed: bytes) -> str:
    """A packed address as people write it; empty for none."""
    return str(ip_address(packed)) if packed else ""


@value
class Endpoint:
    """One end of a path: packed address, port, and the scope of a link-local address.

    Attributes:
        packed: 4 bytes for IPv4, 16 for IPv6, network order.
        port: 0 to 65535, host order; 0 where only the host matters.
        scope_id: Interface index for IPv6 link-local addresses, else 0.
    """

    packed: bytes
    port: int
    scope_id: int = 0

    @property
    def version(self) -> int:
        """4 or 6."""
        return 4 if len(self.packed) == 4 else 6

    @property
    def address(self) -> IPv4Address | IPv6Address:
        """The address as the standard library's value."""
        return IPv4Address(self.packed) if len(self.packed) == 4 else IPv6Address(self.packed)

    @property
    def is_mapped(self) -> bool:
        """Is this an IPv4 address dressed as IPv6?"""
        return len(self.packed) == 16 and self.packed.startswith(MAPPED_PREFIX)

    @property
    def is_unspecified(self) -> bool:
        """Does the address name nobody (0.0.0.0 or ::)?"""
        return not any(self.packed)

    @property
    def is_multicast(self) -> bool:
        """Does the address name a group (224.0.0.0/4, ff00::/8)?"""
        first = self.packed[0]
        return first & 0xF0 == 0xE0 if len(self.packed) == 4 else first == 0xFF

    @property
    def is_link_local(self) -> bool:
        """Is it an IPv6 link-local unicast address (fe80::/10), which needs a scope?"""
        packed = self.packed
        return len(packed) == 16 and packed[0] == 0xFE and packed[1] & 0xC0 == 0x80

    def unmapped(self) -> Endpoint:
        """The endpoint that packets on the wire will carry."""
        if len(self.packed) == 16 and self.is_mapped:
            return Endpoint(self.packed[12:], self.port)
        return self

    def host(self) -> Endpoint:
        """The same host, any port: what tracking and measuring go by."""
        return Endpoint(self.packed, 0, self.scope_id)

    def __str__(self) -> str:
        """``192.0.2.1:5004`` or ``[2001:db8::1%3]:5004``."""
        if self.version == 4:
            return f"{self.address}:{self.port}"
        scope = f"%{self.scope_id}" if self.scope_id else ""
        return f"[{self.address}{scope}]:{self.port}"


def endpoint_at(ip: IPv4Address | IPv6Address, port: int, scope_id: int) -> Endpoint:
    """An endpoint from its parts.

    Raises:
        ValueError: The port or the scope id is out of range.
    """
    if not (0 <= port <= _MAX_PORT and 0 <= scope_id <= _MAX_SCOPE_ID):
        raise ValueError("the port or the scope id is out of range")
    return Endpoint(ip.packed, port, scope_id)

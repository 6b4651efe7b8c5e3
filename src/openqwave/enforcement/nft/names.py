"""What a socket's packets look like from outside: protocol, local address and port.

A socket bound to no address has one for each packet, by its route; it is looked up without. It
stays so when it gets an address later: what it sends is found just as well.
"""

from __future__ import annotations

import socket

from openqwave.enforcement.nft.elements import Place, key_of, link_key
from openqwave.enforcement.nft.ruleset import container_name
from openqwave.model.endpoint import MAPPED_PREFIX, Endpoint
from openqwave.model.flow import Transport
from openqwave.model.value import value


@value
class LocalName:
    """One socket.

    Attributes:
        transport: TCP or UDP.
        address: Its own address as packets carry it; None where any may be used.
        port: Its own port; 0 where it has none yet.
        priority: What it wants to be its packets' priority.
    """

    transport: Transport
    address: bytes | None
    port: int
    priority: int


def name_of(sock: socket.socket) -> LocalName:
    """What the kernel says of a socket.

    Raises:
        OSError: It is closed.
    """
    protocol = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
    family = sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
    priority = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY)
    host, port = sock.getsockname()[:2]
    packed = socket.inet_pton(family, host.partition("%")[0])
    if packed.startswith(MAPPED_PREFIX):
        packed = packed[len(MAPPED_PREFIX) :]
    return LocalName(Transport(protocol), packed if any(packed) else None, port, priority)


def place_to(name: LocalName, destination: Endpoint) -> Place | None:
    """Where the element of a socket's packets to a peer stands, were they marked.

    Args:
        name: The socket.
        destination: The peer; an IPv4-mapped address means IPv4 packets.

    Returns:
        The place, or None where the socket's address is of the other version: it sends nothing.
    """
    peer = destination.unmapped()
    if name.address is not None and len(name.address) != len(peer.packed):
        return None
    key = key_of(name.address, name.port, peer.packed, peer.port)
    is_link = bool(peer.scope_id)
    container = container_name(
        name.transport.name.lower(),
        peer.version,
        is_link=is_link,
        is_exact=name.address is not None,
        is_counted=False,
    )
    return container, link_key(peer.scope_id, key) if is_link else key

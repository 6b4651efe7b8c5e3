"""Which destination a socket is added with: the rules of QOSAddSocketToFlow, pure.

The destination is captured at the call. A connected socket may leave it out; if it names
one, it must be the peer. An address has to be of the socket's own family: an IPv4 address
on an IPv6 socket and an IPv4-mapped one are refused, as on Windows; programs that serve
IPv4 peers through an IPv6 socket connect it and leave the address out, and then the flow
is an IPv4 flow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal

if TYPE_CHECKING:
    from openqwave.model.endpoint import Endpoint
    from openqwave.model.sockets import SocketFacts


def _invalid(detail: str) -> Refusal:
    return Refusal(ErrorCode.ERROR_INVALID_PARAMETER, detail)


def captured_destination(facts: SocketFacts, given: Endpoint | None) -> Endpoint | Refusal:
    """The destination that the flow keeps, as packets on the wire will carry it.

    Args:
        facts: The socket.
        given: What the caller named; None for the connected peer.

    Returns:
        The destination, or ERROR_INVALID_PARAMETER with what is wrong about it.
    """
    peer = facts.peer
    if given is None:
        if peer is None:
            return _invalid("the socket is not connected: name the destination")
        return peer.unmapped()
    if given.version != facts.version:
        return _invalid(
            f"{given} is not an IPv{facts.version} address, which this socket needs; "
            "for an IPv4 peer of an IPv6 socket connect it and leave the destination out"
        )
    if given.is_mapped:
        return _invalid(f"{given} is an IPv4-mapped address; connect the socket and leave it out")
    if given.is_unspecified or given.port == 0:
        return _invalid(f"{given} does not name both a host and a port")
    if peer is not None:
        if (given.packed, given.port) != (peer.packed, peer.port):
            return _invalid(f"the socket is connected to {peer}, not to {given}")
        return peer
    return given


def refuse_host(host: Endpoint) -> Refusal | None:
    """Is this a host whose path could be tracked? None means yes."""
    if host.is_unspecified or host.is_multicast or host.is_mapped:
        return _invalid(f"{host.address} does not name one host by its own address")
    return None

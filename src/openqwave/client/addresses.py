"""Destinations as Python programs write them."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint, endpoint_at
from openqwave.model.errors import Refusal

Host: TypeAlias = "str | IPv4Address | IPv6Address"

# As `socket.connect` takes them: (host, port), for IPv6 also (host, port, flow
# information, scope id), of which the flow information is ignored.
Address: TypeAlias = "tuple[Host, int] | tuple[Host, int, int, int]"


def endpoint_of(address: Address) -> Endpoint | Refusal:
    """An endpoint from an address tuple.

    Args:
        address: (host, port) or (host, port, flow information, scope id). The host is an
            address, not a name: looking names up can block for seconds.

    Returns:
        The endpoint, or ERROR_INVALID_PARAMETER with what is wrong.
    """
    try:
        host, port, *rest = address
        ip = ip_address(host)
        scope_id = rest[1] if len(rest) == 2 else _scope_in(ip)
        if len(rest) not in (0, 2) or not all(isinstance(n, int) for n in (port, scope_id)):
            raise ValueError("expected (host, port) or (host, port, flowinfo, scope_id)")
        return endpoint_at(ip, port, scope_id)
    except (OSError, TypeError, ValueError) as error:
        return Refusal(
            ErrorCode.ERROR_INVALID_PARAMETER,
            f"{address!r} is no destination: {error}; give a numeric address and a port",
        )


def _scope_in(ip: IPv4Address | IPv6Address) -> int:
    """The interface of an address written as ``fe80::1%eth0`` or ``fe80::1%2``."""
    scope = getattr(ip, "scope_id", None)
    if scope is None:
        return 0
    return int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)


def host_of(host: Host) -> Endpoint | Refusal:
    """A host without a port, for what concerns whole paths."""
    return endpoint_of((host, 0))

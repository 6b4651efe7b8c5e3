"""Is there a way to a destination? Asked of the kernel by connecting a datagram socket.

Connecting UDP sends nothing; it makes the kernel look up a route and fails when there is
none. It needs no rights and costs a few microseconds, where a netlink question costs
more than a hundred. The lookup honours what the application bound its socket to
(SO_BINDTODEVICE); it does not honour policy routing by SO_MARK, which is rare and needs
rights.

Each question has a socket of its own: one that was connected before keeps the source
address of the first answer, and asks from there ever after.

A socket of another network namespace than the caller's cannot be asked about without
rights; then the question is left open, and the kernel's own answer comes when the
application sends.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from openqwave.drivers.sockets import SO_BINDTOIFINDEX, namespace_of
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal, refusal_of_os_error

if TYPE_CHECKING:
    from openqwave.model.endpoint import Endpoint

# What connect() says of an address that cannot be a destination at all; everything else
# that it refuses with is the lack of a route in one form or another.
_MALFORMED = frozenset({errno.EINVAL, errno.EAFNOSUPPORT})


def refuse_route(
    destination: Endpoint, *, namespace: int | None = None, interface: int = 0
) -> Refusal | None:
    """Does a route lead there? None means yes, or that it cannot be told.

    Args:
        destination: Where packets go.
        namespace: That of the application's socket; None for the caller's own.
        interface: The one its socket is bound to, or 0.

    Returns:
        ERROR_HOST_UNREACHABLE without a route; ERROR_INVALID_PARAMETER for a link-local
        address without a scope; ERROR_NO_SYSTEM_RESOURCES without descriptors.
    """
    is_v4 = destination.version == 4
    try:
        with socket.socket(
            socket.AF_INET if is_v4 else socket.AF_INET6, socket.SOCK_DGRAM
        ) as probe:
            if namespace is not None and namespace_of(probe) != namespace:
                return None
            if interface:
                probe.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, interface)
            if is_v4:
                # Without it a broadcast address is refused for want of rights.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                probe.connect((socket.inet_ntoa(destination.packed), destination.port))
            else:
                host = socket.inet_ntop(socket.AF_INET6, destination.packed)
                probe.connect((host, destination.port, 0, destination.scope_id))
    except OSError as error:
        if error.errno in _MALFORMED and destination.is_link_local:
            return Refusal(
                ErrorCode.ERROR_INVALID_PARAMETER,
                f"{destination} is a link-local address: it needs the scope id of an interface",
            )
        refusal = refusal_of_os_error(error, "the route cannot be looked up")
        if refusal.code == ErrorCode.ERROR_NO_SYSTEM_RESOURCES:
            return refusal
        return Refusal(
            ErrorCode.ERROR_HOST_UNREACHABLE,
            f"no route to {destination.address}: {error.strerror}",
        )
    return None

"""What the subsystem needs to know of an application's socket.

The cookie is the kernel's own name for a socket (SO_COOKIE): unique while the system
runs, the same through every descriptor of the socket, readable without rights. File
numbers are reused within microseconds; a cookie is never.
"""

from __future__ import annotations

from openqwave.model.endpoint import Endpoint
from openqwave.model.flow import Transport
from openqwave.model.value import value


@value
class SocketFacts:
    """One socket, as the kernel describes it at the call.

    Attributes:
        cookie: The kernel's name for the socket.
        transport: TCP or UDP.
        version: 4 for an IPv4 socket, 6 for an IPv6 one (dual-stack or not).
        peer: What it is connected to, as the socket says it (perhaps IPv4-mapped).
        namespace: The kernel's name for its network namespace; 0 where it has none.
        interface: Index of the interface it is bound to, or 0. Both are asked only for a
            socket without a peer: a connected one has its route. The service asks for both
            always: sockets may be of other namespaces than its own, and it holds flows to
            rates where their packets leave.
    """

    cookie: int
    transport: Transport
    version: int
    peer: Endpoint | None
    namespace: int = 0
    interface: int = 0


class OutOfReach(OSError):
    """A socket may be there, but it cannot be had now; the text says why and what would help."""


class Elsewhere(OutOfReach):
    """The process that brought the socket has it no more; whether another has is not known yet."""

"""Is there a way to a destination? Asked of the kernel by connecting a datagram socket.

Connecting UDP sends nothing; it makes the kernel look up a route and fails when there is
none. It needs no rights and costs a microsecond, where a netlink question costs fifty.
The lookup honours what the application bound its socket to (SO_BINDTODEVICE); it does
not honour policy routing by SO_MARK, which is rare and needs rights.

A probe socket holds its network namespace alive, so at most one namespace's probes are
kept, and `close` lets go of them. A socket of another namespace than the caller's cannot
be asked about without rights; then the question is left open and the kernel's own answer
comes when the application sends.
"""

from __future__ import annotations

import contextlib
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


class RouteProbe:
    """Looks up routes for one network namespace at a time."""

    def __init__(self) -> None:
        self._namespace = -1
        self._probes: dict[tuple[int, int], socket.socket] = {}

    def refuse(
        self, destination: Endpoint, *, namespace: int | None = None, interface: int = 0
    ) -> Refusal | None:
        """Does a route lead there? None means yes, or that it cannot be told.

        Args:
            destination: Where packets go.
            namespace: That of the application's socket; None for the caller's own.
            interface: The one its socket is bound to, or 0.

        Returns:
            ERROR_HOST_UNREACHABLE without a route; ERROR_INVALID_PARAMETER for an address
            that cannot be a destination, such as a link-local one without a scope.
        """
        version = destination.version
        try:
            probe = self._probe(namespace, version, interface)
            if probe is None:
                return None
            if version == 4:
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

    def close(self) -> None:
        """Let go of the probes and with them of their namespace."""
        for probe in self._probes.values():
            probe.close()
        self._probes.clear()
        self._namespace = -1

    def _probe(self, namespace: int | None, version: int, interface: int) -> socket.socket | None:
        if namespace is not None and namespace == self._namespace:
            known = self._probes.get((version, interface))
            if known is not None:
                return known
        probe = self._open(version, interface)
        own_namespace = namespace_of(probe)
        if namespace is not None and own_namespace != namespace:
            probe.close()
            return None
        if own_namespace != self._namespace:
            self.close()
            self._namespace = own_namespace
        stale = self._probes.pop((version, interface), None)
        if stale is not None:
            stale.close()
        self._probes[version, interface] = probe
        return probe

    @staticmethod
    def _open(version: int, interface: int) -> socket.socket:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        probe = socket.socket(family, socket.SOCK_DGRAM)
        with contextlib.ExitStack() as stack:
            stack.callback(probe.close)
            if version == 4:
                # Without it connecting to a broadcast address is refused for want of rights.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            if interface:
                probe.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, interface)
            stack.pop_all()
        return probe

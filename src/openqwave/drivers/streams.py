"""TCP connections of the experiments: they carry handshakes and summaries, a few bytes each.

Nagle's algorithm is off and each message is written in one call, because the protocol wants its
messages contiguous (MS-QLPB 2.1) and at once. What the kernel does not take is kept up to
`OUTPUT_BYTES`; a peer that does not read is given up then, instead of being waited for.

TTL or hop limit are those of the probes: 1 towards a peer on the link.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from openqwave.model.endpoint import Endpoint
from openqwave.probing.session import CloseReason

if TYPE_CHECKING:
    from typing import Self

# What a peer may leave unread here, and as much again in the kernel. The longest summary, of
# 2,048 packets, has 16 kB.
OUTPUT_BYTES = 65_536
# One read's worth: a flood of a peer that times its writes is taken in 10,000 reads a second.
_INPUT_BYTES = 65_536

_CLOSE_REASONS = {
    errno.ECONNREFUSED: CloseReason.REFUSED,
    errno.ENETUNREACH: CloseReason.UNREACHABLE,
    errno.EHOSTUNREACH: CloseReason.UNREACHABLE,
    errno.EHOSTDOWN: CloseReason.UNREACHABLE,
    errno.ENETDOWN: CloseReason.UNREACHABLE,
    errno.ENODEV: CloseReason.UNREACHABLE,
    errno.EADDRNOTAVAIL: CloseReason.UNREACHABLE,
    errno.EPERM: CloseReason.UNREACHABLE,
    errno.EACCES: CloseReason.UNREACHABLE,
    errno.ETIMEDOUT: CloseReason.TIMED_OUT,
}


def close_reason(code: int) -> CloseReason:
    """Why a connection is gone, by the number of the system's error."""
    return _CLOSE_REASONS.get(code, CloseReason.BROKEN)


def family_of(version: int) -> socket.AddressFamily:
    """The address family of an IP version."""
    return socket.AF_INET if version == 4 else socket.AF_INET6


def set_hops(sock: socket.socket, hops: int) -> None:
    """Give all packets of a socket a TTL or hop limit."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)


def address_of(peer: Endpoint) -> tuple[str, int] | tuple[str, int, int, int]:
    """A peer as the socket module names it."""
    if peer.version == 4:
        return socket.inet_ntoa(peer.packed), peer.port
    host = socket.inet_ntop(socket.AF_INET6, peer.packed)
    return host, peer.port, 0, peer.scope_id


def local_name(port: int, address: Endpoint | None) -> tuple[str, int] | tuple[str, int, int, int]:
    """What a socket is bound to for a port of one address of this host, or of all."""
    if address is None:
        return "", port
    return address_of(Endpoint(address.packed, port, address.scope_id))


def endpoint_of(name: tuple[str, int] | tuple[str, int, int, int]) -> Endpoint:
    """A name of the socket module as a peer."""
    if len(name) == 2:
        return Endpoint(socket.inet_aton(name[0]), name[1])
    host = name[0].partition("%")[0]
    return Endpoint(socket.inet_pton(socket.AF_INET6, host), name[1], name[3])


def listen(
    version: int, port: int, hops: int, backlog: int, address: Endpoint | None = None
) -> socket.socket:
    """A listening socket of one family.

    Args:
        version: 4 or 6; an IPv6 socket takes IPv6 only.
        port: Where.
        hops: TTL or hop limit of its answers, and at first of what it accepts.
        backlog: Connections that may wait to be accepted.
        address: The one address of this host to listen at; None for all.

    Raises:
        OSError: The port is taken, or the family or the address is not there.
    """
    sock = socket.socket(family_of(version), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # Connections of an earlier run that the kernel still remembers are no obstacle.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        set_hops(sock, hops)
        sock.bind(local_name(port, address))
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


class Stream:
    """One connection, being made or there.

    Attributes:
        is_connecting: Whether it is being made.
        is_waiting: Whether something is left to be written when there is room.
    """

    def __init__(self, sock: socket.socket, *, is_connecting: bool = False) -> None:
        """Take a socket over, which does not block; it is closed with this."""
        self.is_connecting = is_connecting
        self._socket = sock
        self._output = bytearray()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, OUTPUT_BYTES)

    @classmethod
    def connect(cls, peer: Endpoint, hops: int) -> Self:
        """Begin to connect.

        Raises:
            OSError: It failed at once.
        """
        sock = socket.socket(family_of(peer.version), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            set_hops(sock, hops)
            stream = cls(sock, is_connecting=True)
            code = sock.connect_ex(address_of(peer))
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, errno.errorcode.get(code, "unknown"))
        except BaseException:
            sock.close()
            raise
        return stream

    @property
    def is_waiting(self) -> bool:
        """Is something left to be written when there is room?"""
        return bool(self._output)

    @property
    def local_port(self) -> int:
        """Its port here."""
        port: int = self._socket.getsockname()[1]
        return port

    def fileno(self) -> int:
        """The file number; -1 once closed."""
        return self._socket.fileno()

    def finish_connecting(self) -> CloseReason | None:
        """It is ready: it is there, or this is why it is not."""
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            return close_reason(code)
        self.is_connecting = False
        return None

    def read(self) -> bytes | CloseReason:
        """What has come, empty if nothing; or why nothing will come any more."""
        try:
            data = self._socket.recv(_INPUT_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            return close_reason(error.errno or 0)
        return data or CloseReason.BY_PEER

    def write(self, data: bytes = b"") -> CloseReason | None:
        """Write, after what is still waiting; return why it cannot be done.

        A peer that leaves more than `OUTPUT_BYTES` unread counts as broken.
        """
        self._output += data
        try:
            while self._output:
                sent = self._socket.send(self._output)
                del self._output[:sent]
        except BlockingIOError:
            return CloseReason.BROKEN if len(self._output) > OUTPUT_BYTES else None
        except OSError as error:
            return close_reason(error.errno or 0)
        return None

    def close(self) -> None:
        """Close it; what the kernel has taken is still sent. Harmless when done before."""
        self._socket.close()

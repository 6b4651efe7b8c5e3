"""Applications' sockets: described at the call, found again later, never kept open.

**Describing.** Everything is asked of the kernel (SO_DOMAIN, SO_TYPE, SO_PROTOCOL,
SO_COOKIE, getpeername), because a Python object or a file number can be mistaken.

**Finding again.** A mark has to be changed or taken off long after the call that set it,
and a copy of the descriptor kept in between would hold the application's connection open
after the application closed it: the peer would wait for an end that never comes. So only
names are kept: a weak reference to the socket object where there is one, the file number,
and the socket's cookie. A file number is reused within microseconds; whatever is found is
therefore asked for its cookie first. A bare number is duplicated for the duration of the
work, so that nothing else can slip under it in between; a socket object needs none of
that, because its methods fail once it is closed. If both names lead nowhere (the
application duplicated the descriptor and closed the first), all of the process's
descriptors are searched for the cookie.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import weakref
from collections.abc import Callable
from typing import Protocol, TypeAlias, TypeVar

from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal, refusal_of_os_error
from openqwave.model.flow import Transport
from openqwave.model.sockets import SocketFacts
from openqwave.model.value import value

# asm-generic/socket.h; the socket module has no names for them.
SO_COOKIE = 57
SO_BINDTOIFINDEX = 62
SO_NETNS_COOKIE = 71
_COOKIE_BYTES = 8

# Names of the socket module cost a look-up each, and these are used for every call.
_SOCKET, _DOMAIN, _TYPE = socket.SOL_SOCKET, socket.SO_DOMAIN, socket.SO_TYPE
_PROTOCOL = socket.SO_PROTOCOL

_VERSIONS = {int(socket.AF_INET): 4, int(socket.AF_INET6): 6}
_TRANSPORTS = {
    (int(socket.SOCK_STREAM), socket.IPPROTO_TCP): Transport.TCP,
    (int(socket.SOCK_DGRAM), socket.IPPROTO_UDP): Transport.UDP,
}

# What the kernel says of a number that is no descriptor, or one of something else.
_NO_SOCKET = frozenset({errno.EBADF, errno.ENOTSOCK})

_T = TypeVar("_T")


class HasFileno(Protocol):
    """Anything that stands for a descriptor, such as asyncio's transport sockets."""

    def fileno(self) -> int:
        """The file number, or -1 when closed."""


SocketLike: TypeAlias = "socket.socket | HasFileno | int"


class _Copy(socket.socket):
    """A duplicate descriptor of ours, to be closed after use."""


@value
class _Name:
    """How to find a socket again."""

    number: int
    holder: weakref.ref[socket.socket] | None


def _copy_of(number: int) -> _Copy:
    copied = os.dup(number)
    try:
        return _Copy(fileno=copied)
    except BaseException:
        os.close(copied)
        raise


def read_cookie(sock: socket.socket) -> int:
    """The kernel's name for a socket.

    Raises:
        OSError: It is closed.
    """
    cookie = sock.getsockopt(_SOCKET, SO_COOKIE, _COOKIE_BYTES)
    return int.from_bytes(cookie, sys.byteorder)


def namespace_of(sock: socket.socket) -> int:
    """The kernel's name for the socket's network namespace; 0 where it has none."""
    try:
        cookie = sock.getsockopt(_SOCKET, SO_NETNS_COOKIE, _COOKIE_BYTES)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            # Before Linux 5.14 nothing tells namespaces apart by their sockets.
            return 0
        raise
    return int.from_bytes(cookie, sys.byteorder)


def interface_of(sock: socket.socket) -> int:
    """The index of the interface that the socket is bound to; 0 for none."""
    return sock.getsockopt(_SOCKET, SO_BINDTOIFINDEX)


def own_namespace() -> int:
    """The same name of the calling thread's network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return namespace_of(sock)


def _peer_of(sock: socket.socket, version: int) -> Endpoint | None:
    try:
        name = sock.getpeername()
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            return None
        raise
    if version == 4:
        return Endpoint(socket.inet_aton(name[0]), name[1])
    host = name[0].partition("%")[0]
    return Endpoint(socket.inet_pton(socket.AF_INET6, host), name[1], name[3])


def describe_socket(sock: socket.socket) -> SocketFacts | Refusal:
    """What the kernel says of a socket; ERROR_NOT_SUPPORTED for what cannot be in flows.

    Raises:
        OSError: It is closed.
    """
    ask = sock.getsockopt
    version = _VERSIONS.get(ask(_SOCKET, _DOMAIN))
    transport = _TRANSPORTS.get((ask(_SOCKET, _TYPE), ask(_SOCKET, _PROTOCOL)))
    if version is None or transport is None:
        return Refusal(
            ErrorCode.ERROR_NOT_SUPPORTED,
            "only TCP and UDP sockets of IPv4 or IPv6 can be in flows",
        )
    peer = _peer_of(sock, version)
    if peer is not None:
        return SocketFacts(read_cookie(sock), transport, version, peer)
    interface = interface_of(sock)
    if transport is Transport.TCP and ask(_SOCKET, socket.SO_ACCEPTCONN):
        # What it accepts would inherit its options, and nobody would give them back.
        return Refusal(
            ErrorCode.ERROR_NOT_SUPPORTED,
            "a listening socket sends nothing; add the sockets that it accepts",
        )
    return SocketFacts(read_cookie(sock), transport, version, None, namespace_of(sock), interface)


def ask_socket(sock: SocketLike, question: Callable[[socket.socket], _T]) -> _T | Refusal:
    """Put a question to whatever stands for a socket.

    Args:
        sock: A socket object, a file number, or anything with a file number.
        question: What is asked of it, or of a copy for the moment.

    Returns:
        The answer; ERROR_INVALID_PARAMETER for what is no open socket.
    """
    try:
        if isinstance(sock, socket.socket):
            return question(sock)
        with _copy_of(sock if isinstance(sock, int) else sock.fileno()) as copied:
            return question(copied)
    except (OSError, OverflowError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_SOCKET:
            return refusal_of_os_error(error, "the socket cannot be read")
        return Refusal(
            ErrorCode.ERROR_INVALID_PARAMETER, f"{sock!r} is not an open socket: {error}"
        )


class SocketDirectory:
    """The sockets that are in flows, by cookie."""

    def __init__(self) -> None:
        self._names: dict[int, _Name] = {}
        # The socket that the call at hand names: read a moment ago, and a method of a
        # socket object that is closed meanwhile fails, so it need not be looked for.
        self._in_hand: tuple[int, socket.socket] | None = None

    def describe(self, sock: SocketLike) -> SocketFacts | Refusal:
        """What the kernel says of a socket.

        Args:
            sock: A socket object, a file number, or anything with a file number.

        Returns:
            The facts; ERROR_INVALID_PARAMETER for what is no open socket;
            ERROR_NOT_SUPPORTED for protocols that cannot be in flows.
        """
        return ask_socket(sock, describe_socket)

    def cookie_of(self, sock: SocketLike) -> int | Refusal:
        """The kernel's name for a socket; ERROR_INVALID_PARAMETER for what is none."""
        return ask_socket(sock, read_cookie)

    def remember(self, cookie: int, sock: SocketLike) -> None:
        """Keep the names by which the socket can be found again."""
        if isinstance(sock, socket.socket):
            self._names[cookie] = _Name(sock.fileno(), weakref.ref(sock))
        else:
            self._names[cookie] = _Name(sock if isinstance(sock, int) else sock.fileno(), None)

    def take_in_hand(self, cookie: int, sock: SocketLike) -> None:
        """Remember the socket that a call names, and spare the search for it until `put_down`."""
        if cookie not in self._names:
            self.remember(cookie, sock)
        if isinstance(sock, socket.socket):
            self._in_hand = cookie, sock

    def put_down(self) -> None:
        """The call that named a socket is over."""
        self._in_hand = None

    def forget(self, cookie: int) -> None:
        """Drop the names; the socket is in no flow any more."""
        self._names.pop(cookie, None)

    def is_gone(self, cookie: int) -> bool:
        """Has the application closed the last descriptor of the socket?

        Raises:
            OSError: It could not be looked for, for want of descriptors.
        """
        sock = self.borrow(cookie)
        self.give_back(sock)
        return sock is None

    def borrow(self, cookie: int) -> socket.socket | None:
        """The socket, to be used at once and given back; None when it is gone.

        Raises:
            OSError: It could not be looked for, for want of descriptors.
        """
        if self._in_hand is not None and self._in_hand[0] == cookie:
            return self._in_hand[1]
        name = self._names.get(cookie)
        if name is None:
            return None
        holder = name.holder
        if holder is not None:
            sock = holder()
            if sock is not None and _matches(sock, cookie):
                return sock
        return _copy_if(name.number, cookie) or self._search(cookie)

    def give_back(self, sock: socket.socket | None) -> None:
        """End the use; closes a copy, leaves the application's own object alone."""
        if isinstance(sock, _Copy):
            sock.close()

    def _search(self, cookie: int) -> socket.socket | None:
        """Look through all descriptors of the process."""
        for entry in os.listdir("/proc/self/fd"):
            sock = _copy_if(int(entry), cookie)
            if sock is not None:
                self._names[cookie] = _Name(int(entry), None)
                return sock
        return None


def _matches(sock: socket.socket, cookie: int) -> bool:
    try:
        return read_cookie(sock) == cookie
    except OSError:
        # Closed since: then it does not match.
        return False


def _copy_if(number: int, cookie: int) -> _Copy | None:
    """A copy of the descriptor if it is that socket."""
    try:
        sock = _copy_of(number)
    except OSError as error:
        if error.errno in _NO_SOCKET:
            return None
        raise
    if _matches(sock, cookie):
        return sock
    sock.close()
    return None

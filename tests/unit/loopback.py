"""Real sockets on loopback, and their options as numbers."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass

SO_MAX_PACING_RATE = 47
UNPACED = (1 << 64) - 1

# Discard (RFC 863): nobody listens there, and nothing is sent to it but by name.
PORT = 9


@dataclass(frozen=True)
class Options:
    """Everything that openqwave may change on a socket."""

    tos: int
    tclass: int | None
    priority: int
    pacing: int


def options_of(sock: socket.socket) -> Options:
    is_v6 = sock.family == socket.AF_INET6
    return Options(
        sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS),
        sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS) if is_v6 else None,
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY),
        pacing_of(sock),
    )


def pacing_of(sock: socket.socket) -> int:
    """SO_MAX_PACING_RATE as the kernel keeps it, bytes per second."""
    raw = sock.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 8)
    assert len(raw) == 8
    return int.from_bytes(raw, sys.byteorder)


def set_pacing(sock: socket.socket, bytes_per_s: int) -> None:
    raw = bytes_per_s.to_bytes(8, sys.byteorder)
    sock.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, raw)


def set_tos(sock: socket.socket, value: int) -> None:
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, value)


def set_tclass(sock: socket.socket, value: int) -> None:
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, value)


def set_priority(sock: socket.socket, value: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, value)


# What each kind of socket is: family, type, and what it is connected to.
KINDS: dict[str, tuple[socket.AddressFamily, socket.SocketKind, str | None]] = {
    "udp4": (socket.AF_INET, socket.SOCK_DGRAM, None),
    "udp4 connected": (socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1"),
    "udp6": (socket.AF_INET6, socket.SOCK_DGRAM, None),
    "udp6 connected": (socket.AF_INET6, socket.SOCK_DGRAM, "::1"),
    "udp6 to mapped": (socket.AF_INET6, socket.SOCK_DGRAM, "::ffff:127.0.0.1"),
    "tcp4": (socket.AF_INET, socket.SOCK_STREAM, None),
    "tcp4 connected": (socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1"),
    "tcp6": (socket.AF_INET6, socket.SOCK_STREAM, None),
    "tcp6 connected": (socket.AF_INET6, socket.SOCK_STREAM, "::1"),
    "tcp6 to mapped": (socket.AF_INET6, socket.SOCK_STREAM, "::ffff:127.0.0.1"),
}


class Bench:
    """Makes sockets, and closes them and their peers."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def make(self, kind: str) -> socket.socket:
        family, type_, peer = KINDS[kind]
        sock = self._stack.enter_context(socket.socket(family, type_))
        if peer is None:
            return sock
        if type_ == socket.SOCK_DGRAM:
            sock.connect((peer, PORT))
            return sock
        with socket.create_server(
            ("::", 0) if family == socket.AF_INET6 else ("127.0.0.1", 0),
            family=family,
            dualstack_ipv6=family == socket.AF_INET6,
        ) as listener:
            sock.connect((peer, listener.getsockname()[1]))
            far, _ = listener.accept()
            self._stack.enter_context(far)
        return sock

    def close(self) -> None:
        self._stack.close()


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    made = Bench()
    try:
        yield made
    finally:
        made.close()


def destination_of(kind: str) -> tuple[str, int] | None:
    """The destination to give for a socket of a kind; None where it is connected."""
    family, _, peer = KINDS[kind]
    if peer is not None:
        return None
    return ("127.0.0.1" if family == socket.AF_INET else "::1", PORT)

"""The stage for Windows programs that are told again in ctypes.

A program makes its calls through `Stage.qwave`, a library loaded as ctypes loads
qwave.dll, from sockets of host "left"; what it sent is read off the wire at host "right".
The stage notes every call and how it ended, and looks after what no program may do:

* a success that touches the last error,
* packets whose ECN bits are not the application's,
* a flow, a mark or a queue priority that is left when the program is over.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from ctypes import Structure, byref
from enum import Enum
from typing import Any, Self
from unittest import mock

import pytest

from openqwave.client import opening
from openqwave.client.embedded import Embedded
from openqwave.drivers.clock import Clock
from openqwave.lab.capture import CapturedPacket, Direction
from openqwave.lab.topology import Host
from openqwave.qos2 import (
    AF_INET,
    AF_INET6,
    HANDLE,
    QOS_VERSION,
    SOCKADDR_IN,
    SOCKADDR_IN6,
    ULONG,
    FormatError,
    GetLastError,
    QOSCloseHandle,
    QOSCreateHandle,
    QOSEnumerateFlows,
    SetLastError,
    WinDLL,
    WinError,
)
from openqwave.runtime.runtime import Runtime
from tests.unit.own_service import close_connections, own_service

# RFC 3168 section 5. ECT_0 is what the sockets of the stage carry from the start: the
# application's half of the octet.
NOT_ECT, ECT_1, ECT_0, CE = range(4)

# Longer than any send or receive here can take.
TIMEOUT_S = 10.0

VERSION = QOS_VERSION(1, 0)

_FUNCTIONS = (
    "QOSCreateHandle",
    "QOSCloseHandle",
    "QOSStartTrackingClient",
    "QOSStopTrackingClient",
    "QOSEnumerateFlows",
    "QOSAddSocketToFlow",
    "QOSRemoveSocketFromFlow",
    "QOSSetFlow",
    "QOSQueryFlow",
    "QOSNotifyFlow",
    "QOSCancel",
)

Address = tuple[str, int]


class Family(Enum):
    """How a socket and its peer speak IP."""

    V4 = "IPv4"
    V6 = "IPv6"
    # An IPv6 socket and an IPv4-mapped peer: IPv4 packets.
    MAPPED = "mapped"

    @property
    def number(self) -> socket.AddressFamily:
        return socket.AF_INET if self is Family.V4 else socket.AF_INET6

    def address_of(self, host: Host) -> str:
        prefix = "::ffff:" if self is Family.MAPPED else ""
        return host.ipv6 if self is Family.V6 else f"{prefix}{host.ipv4}"


EVERY = pytest.mark.parametrize("family", list(Family), ids=lambda family: family.value)
BOTH = pytest.mark.parametrize("family", [Family.V4, Family.V6], ids=lambda family: family.value)


def sockaddr(address: Address) -> Structure:
    """A sockaddr as Windows has it: IPv6 is family 23."""
    host, port = address
    if ":" in host:
        v6 = SOCKADDR_IN6(sin6_family=AF_INET6, sin6_port=socket.htons(port))
        v6.sin6_addr.Byte[:] = socket.inet_pton(socket.AF_INET6, host)
        return v6
    v4 = SOCKADDR_IN(sin_family=AF_INET, sin_port=socket.htons(port))
    v4.sin_addr.S_addr = int.from_bytes(socket.inet_aton(host), sys.byteorder)
    return v4


def is_mapped(address: Address) -> bool:
    return address[0].startswith("::ffff:")


def disconnect(sock: socket.socket) -> None:
    """What Windows programs do with an all-zero address; Linux wants AF_UNSPEC for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(sock.fileno(), bytes(16), 16) != 0:
        raise OSError(ctypes.get_errno(), "cannot disconnect")


def set_ecn(sock: socket.socket, ecn: int) -> None:
    """The application's half of the octet, by the options that a socket has for it."""
    options = [(socket.IPPROTO_IP, socket.IP_TOS)]
    if sock.family == socket.AF_INET6:
        options.append((socket.IPPROTO_IPV6, socket.IPV6_TCLASS))
    for level, option in options:
        sock.setsockopt(level, option, sock.getsockopt(level, option) & 0xFC | ecn)


def options_of(sock: socket.socket) -> tuple[int, int, int]:
    """IP_TOS, IPV6_TCLASS, SO_PRIORITY: all that a mark can leave on a socket."""
    # The ECN bits of a connection are TCP's own, which writes them as it goes.
    mask = 0xFC if sock.type == socket.SOCK_STREAM else 0xFF
    tclass = 0
    if sock.family == socket.AF_INET6:
        tclass = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS) & mask
    return (
        sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) & mask,
        tclass,
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY),
    )


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Be "nobody", effectively, and back: without the rights of an administrator."""
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


class _Seen(threading.local):
    """The last error as each thread's previous call left it."""

    code = 0


class Stage:
    """Where one program runs.

    Attributes:
        qwave: The library.
        calls: The calls so far: the function without "QOS", and the error of a failed one.
    """

    def __init__(
        self, left: Host, right: Host, *, via: str = "embedded", clock: Clock | None = None
    ) -> None:
        self.left, self.right = left, right
        self.calls: list[str] = []
        self.qwave = WinDLL("qwave.dll", use_last_error=True)
        self._seen = _Seen()
        self._seen.code = GetLastError()
        self._via, self._clock = via, clock
        self._sockets: list[tuple[socket.socket, tuple[int, int, int]]] = []
        self._resources = contextlib.ExitStack()
        for name in _FUNCTIONS:
            self.qwave[name].errcheck = self._note

    def __enter__(self) -> Self:
        # The capture before the sockets, so that it sees all they send.
        self._capture = self.right.capture(Direction.INCOMING)
        self._resources.enter_context(self.left.enter())
        self._subsystem = self._open_subsystem()
        return self

    def _open_subsystem(self) -> Runtime:
        """The one of the process, or of a service; of this stage alone."""
        enter = self._resources.enter_context
        if self._via == "service":
            # Its thread is where this one is: on the left.
            return enter(own_service(clock=self._clock)).runtime
        host = Embedded(clock=self._clock)
        enter(mock.patch.object(opening, "process_subsystem", return_value=host))
        # What fails in a test must not live on in the next one.
        self._resources.callback(host.close)
        return host

    def __exit__(self, kind: object, *_: object) -> None:
        with self._resources:
            if kind is None:
                assert flows() == [], "a flow outlives its program"
                for sock, options in self._sockets:
                    if sock.fileno() >= 0:
                        left_over = options_of(sock)
                        assert left_over == options, f"a mark outlives its flow: {left_over}"

    def _note(self, result: int, function: Any, arguments: object) -> int:  # noqa: ANN401 - as ctypes
        del arguments
        error = GetLastError()
        name = function.__name__.removeprefix("QOS")
        assert result in (0, 1)
        if result:
            assert error == self._seen.code, f"{name} succeeded and changed the last error"
        self._seen.code = error
        self.calls.append(name if result else f"{name}: {FormatError(error)}")
        return result

    # -- sockets --------------------------------------------------------------------

    def open(self, family: Family, kind: socket.SocketKind = socket.SOCK_DGRAM) -> socket.socket:
        """A socket of the program, with ECT(0) as its own ECN bits."""
        sock = self._resources.enter_context(socket.socket(family.number, kind))
        sock.settimeout(TIMEOUT_S)
        if family is Family.MAPPED:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        set_ecn(sock, ECT_0 if kind == socket.SOCK_DGRAM else NOT_ECT)
        self._sockets.append((sock, options_of(sock)))
        return sock

    def peer(self, family: Family) -> Address:
        """Somebody on the right who takes datagrams; each time another port."""
        with self.right.enter():
            taker = self._resources.enter_context(socket.socket(family.number, socket.SOCK_DGRAM))
        taker.bind((family.address_of(self.right), 0))
        return family.address_of(self.right), taker.getsockname()[1]

    def connected(
        self, family: Family, kind: socket.SocketKind = socket.SOCK_DGRAM
    ) -> socket.socket:
        """A socket of the program that is connected to somebody on the right."""
        if kind == socket.SOCK_DGRAM:
            sock = self.open(family)
            sock.connect(self.peer(family))
            return sock
        # With RFC 3168 negotiated, TCP itself sets ECT(0) on what carries data.
        for host in (self.left, self.right):
            host.sysctl({"net/ipv4/tcp_ecn": 1})
        with self.right.enter():
            listener = self._resources.enter_context(socket.socket(family.number, kind))
        listener.settimeout(TIMEOUT_S)
        listener.bind((family.address_of(self.right), 0))
        listener.listen()
        sock = self.open(family, kind)
        # Every send a segment.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect((family.address_of(self.right), listener.getsockname()[1]))
        self._accepted = self._resources.enter_context(listener.accept()[0])
        self._accepted.settimeout(TIMEOUT_S)
        # A connection gets these at its end of the handshake.
        self._sockets[-1] = (sock, options_of(sock))
        return sock

    def take(self, count: int) -> None:
        """Read what came over the connection that `connected` made last, bytes."""
        while count > 0:
            got = len(self._accepted.recv(count))
            assert got, "the connection ended"
            count -= got

    def accept_options(self, sock: socket.socket) -> None:
        """From here on, what the socket has is what its application gave it."""
        self._sockets = [pair for pair in self._sockets if pair[0] is not sock]
        self._sockets.append((sock, options_of(sock)))

    # -- what was seen --------------------------------------------------------------

    def packets(self, count: int, where: Callable[[CapturedPacket], bool]) -> list[CapturedPacket]:
        """What has passed since the last look, at least so many that are wanted."""
        return self._capture.wait_for(count, TIMEOUT_S, where)

    def seen(self, count: int, ecn: int = ECT_0) -> list[tuple[str, int]]:
        """What carried data since the last look: what it said, and its DSCP.

        Args:
            count: How many packets that must be; more are a failure too.
            ecn: The ECN bits that each must have.
        """
        found = self.packets(count, lambda packet: bool(packet.payload))
        assert {packet.ecn for packet in found} <= {ecn}
        assert len(found) == count
        return [(packet.payload.rstrip(b"\0").decode(), packet.dscp) for packet in found]

    def end_process(self) -> None:
        """What the end of the process does: every handle that is still open is closed."""
        if self._via == "embedded":
            self._subsystem.close()
            return
        close_connections()
        until_s = time.monotonic() + TIMEOUT_S
        while self._subsystem.is_open():
            assert time.monotonic() < until_s, "the service has not seen it"
            time.sleep(0.001)


def flows() -> list[int]:
    """The ids of all flows, asked through a handle that is made for it."""
    handle, size, last_error = HANDLE(), ULONG(0), GetLastError()
    if not QOSCreateHandle(byref(QOS_VERSION(1, 0)), byref(handle)):
        raise WinError(GetLastError())
    try:
        if QOSEnumerateFlows(handle, byref(size), None):
            return []
        buffer = (ULONG * (size.value // ctypes.sizeof(ULONG)))()
        if not QOSEnumerateFlows(handle, byref(size), buffer):
            raise WinError(GetLastError())
        return [*buffer]
    finally:
        QOSCloseHandle(handle)
        # The program's, as if nobody had asked.
        SetLastError(last_error)

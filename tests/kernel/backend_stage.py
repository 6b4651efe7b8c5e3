"""One backend on a host of its own, sockets beside it, and what of their packets arrives."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Final

from openqwave.drivers.links import Links
from openqwave.drivers.sockets import SocketDirectory, own_namespace, read_cookie
from openqwave.enforcement.backend import Backend
from openqwave.enforcement.memory import Memory
from openqwave.enforcement.socket_options import SocketOptions
from openqwave.enforcement.wishes import Wishes
from openqwave.lab.capture import Capture, CapturedPacket, Direction
from openqwave.lab.topology import Host, Lab
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint, endpoint_at
from openqwave.model.errors import Refusal
from openqwave.model.flow import Transport, Treatment
from openqwave.service.kernel import Kernel
from openqwave.subsystem.effects import Applied, Share, SocketPlan

PATIENCE_S = 20.0
# More than any case has.
MOST_FLOWS: Final = 3

MEMORY: Final = "memory"
OPTIONS: Final = "socket options"
TCX: Final = "BPF by TCX"
CLSACT: Final = "BPF by clsact"
NFTABLES: Final = "nftables"
BACKENDS: Final = (MEMORY, OPTIONS, TCX, CLSACT, NFTABLES)

_WISHES: Final = {
    OPTIONS: Wishes("socket-options"),
    TCX: Wishes("bpf", MOST_FLOWS, may_install_queues=True),
    CLSACT: Wishes("bpf", MOST_FLOWS, may_install_queues=True),
    NFTABLES: Wishes("nftables"),
}
_WITH_TCX: Final = {TCX: True, CLSACT: False}


class Declined(Exception):
    """A backend cannot do a case; `code` is what it refused with, None where it let it be."""

    def __init__(self, code: ErrorCode | None, why: str) -> None:
        super().__init__(why)
        self.code = code


class Stage:
    """A backend, and two hosts.

    Attributes:
        kind: Which backend, of `BACKENDS`.
        backend: It.
        near: Where it is, and the sockets.
        far: Where packets go.
    """

    def __init__(self, kind: str, near: Host, far: Host, stack: contextlib.ExitStack) -> None:
        self.kind, self.near, self.far = kind, near, far
        self._stack = stack
        stack.enter_context(near.enter())
        self._namespace = own_namespace()
        self._sockets = SocketDirectory()
        self._kernel: Kernel | None = None
        # Those of IPv6 that speak IPv4.
        self._mapped: set[socket.socket] = set()
        self.backend: Backend
        if kind == MEMORY:
            self.backend = Memory()
        else:
            options = SocketOptions(self._sockets, Links())
            self._kernel = Kernel(
                _WISHES[kind], options, self._sockets, with_tcx=_WITH_TCX.get(kind)
            )
            self.backend = self._kernel.chosen
            stack.callback(self._kernel.close)
        self._capture = stack.enter_context(far.capture(Direction.INCOMING))

    @property
    def has_wire(self) -> bool:
        """Is anything asked of the kernel?"""
        return self.kind != MEMORY

    # -- sockets ----------------------------------------------------------------------

    def address(self, network: str, port: int) -> Endpoint:
        """A place at the far host."""
        return place(self.far.ipv6 if network == "v6" else self.far.ipv4, port)

    def udp(self, network: str = "v4", *, is_bound: bool = True) -> socket.socket:
        """A socket that is connected to nobody."""
        family = socket.AF_INET if network == "v4" else socket.AF_INET6
        sock = self._stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        if is_bound:
            sock.bind(("", 0))
        sock.settimeout(PATIENCE_S)
        self._sockets.remember(read_cookie(sock), sock)
        if network == "mapped":
            self._mapped.add(sock)
        return sock

    def tcp(self) -> tuple[socket.socket, socket.socket, Endpoint]:
        """A connection: the near end, the far end, and where it goes."""
        with self.far.enter():
            listener = self._stack.enter_context(socket.create_server((self.far.ipv4, 0)))
        near = self._stack.enter_context(socket.create_connection(listener.getsockname()[:2]))
        far = self._stack.enter_context(listener.accept()[0])
        for sock in (near, far):
            sock.settimeout(PATIENCE_S)
        self._sockets.remember(read_cookie(near), near)
        return near, far, place(*near.getpeername()[:2])

    def send(self, sock: socket.socket, port: int, count: int = 1, size: int = 100) -> None:
        """Send to a place at the far host, as this socket's kind does."""
        host = self.far.ipv4
        if sock.family == socket.AF_INET6:
            host = self.far.ipv6 if sock not in self._mapped else f"::ffff:{host}"
        for _ in range(count):
            sock.sendto(bytes(size), (host, port))

    # -- plans ------------------------------------------------------------------------

    def plan(
        self,
        sock: socket.socket,
        *flows: tuple[int, Treatment, tuple[Endpoint, ...]],
        sockets_in_flow: int = 1,
    ) -> SocketPlan:
        """All that is wanted of a socket: flows by number, how, and whereto."""
        is_tcp = sock.type == socket.SOCK_STREAM
        return SocketPlan(
            read_cookie(sock),
            tuple(Share(flow, how, sockets_in_flow, to) for flow, how, to in flows),
            Transport.TCP if is_tcp else Transport.UDP,
            self._namespace,
        )

    def apply(self, *plans: SocketPlan) -> Applied:
        """Have plans carried out; a refusal is how a backend declines."""
        outcome = self.backend.apply(plans)
        if isinstance(outcome, Refusal):
            assert outcome.detail
            raise Declined(outcome.code, outcome.detail)
        return outcome

    # -- what arrives -----------------------------------------------------------------

    def arrived(
        self, port: int, count: int = 1, where: Callable[[CapturedPacket], bool] | None = None
    ) -> list[CapturedPacket]:
        """The next packets to a port of the far host; those to other ports are left out."""

        def is_meant(packet: CapturedPacket) -> bool:
            return packet.destination_port == port and (where is None or where(packet))

        return self._capture.wait_for(count, PATIENCE_S, is_meant)

    def marks(self, sock: socket.socket, port: int, count: int = 1) -> list[tuple[int, int]]:
        """DSCP and ECN of packets that are sent now, as they arrive."""
        self.send(sock, port, count)
        return [(packet.dscp, packet.ecn) for packet in self.arrived(port, count)]

    @property
    def capture(self) -> Capture:
        """Everything that arrives."""
        return self._capture


def place(address: str, port: int) -> Endpoint:
    """An address and a port."""
    return endpoint_at(ip_address(address), port, 0)


def tc(*words: str) -> str:
    """Run tc in the calling thread's network namespace."""
    command = [shutil.which("tc") or "/sbin/tc", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def stage(kind: str) -> Iterator[Stage]:
    """A backend on a host of its own."""
    with Lab() as lab, contextlib.ExitStack() as stack:
        near, far = lab.host("near"), lab.host("far")
        lab.link(near, far)
        yield Stage(kind, near, far, stack)

"""What the tests of shaping share: a host whose interface is to shape, and one that looks."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from openqwave.drivers.netlink import NLM_F_CREATE, NLM_F_REPLACE, Netlink, attribute
from openqwave.drivers.outlets import Outlets
from openqwave.drivers.qdiscs import Qdiscs
from openqwave.enforcement.shaping.shapers import Shapers
from openqwave.model.endpoint import Endpoint
from openqwave.model.queues import Hop

if TYPE_CHECKING:
    from openqwave.enforcement.shaping.shapers import Driver
    from openqwave.lab.capture import CapturedPacket
    from openqwave.lab.topology import Host
    from openqwave.model.queues import Queue

PORT = 5004
HEADERS_BYTES = 28
PATIENCE_S = 60
# linux/rtnetlink.h
RTM_NEWQDISC = 36
TCA_KIND = 1


def endpoint(address: str, port: int = PORT) -> Endpoint:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return Endpoint(socket.inet_pton(family, address), port)


def hop(address: str, interface: int = 0) -> Hop:
    return Hop(endpoint(address).packed, interface)


class WithoutFq(Qdiscs):
    """A kernel without fq, wherever the test runs."""

    def install_fq(self, *_: Any, **__: Any) -> None:  # noqa: ANN401 - whatever it is asked
        raise FileNotFoundError(errno.ENOENT, "no fq")


@dataclass
class Ground:
    """The left host's queues, and who changes them."""

    left: Host
    right: Host
    netlink: Netlink
    qdiscs: Qdiscs
    outlets: Outlets
    shapers: Shapers

    @property
    def interface(self) -> int:
        return self.left.interface.index

    @property
    def peer(self) -> Hop:
        return hop(self.right.ipv4)

    def queues(self) -> list[Queue]:
        return self.qdiscs.queues()

    def root(self) -> Queue:
        (root,) = [queue for queue in self.qdiscs.queues(self.interface) if queue.is_root]
        return root

    def put_queue(self, interface: int, handle: int, parent: int, kind: str) -> None:
        """Make a queue, with its defaults, as an administrator does: over whatever is there."""
        body = struct.pack("=B3xiIII", 0, interface, handle, parent, 0)
        body += attribute(TCA_KIND, kind.encode() + b"\0")
        self.netlink.change(RTM_NEWQDISC, body, NLM_F_CREATE | NLM_F_REPLACE)

    def another(
        self, driver: Driver | None = None, may_install: Collection[str] | None = None
    ) -> Shapers:
        """Shapers of another process, as it were."""
        return Shapers(driver or self.qdiscs, self.outlets, may_install)

    @contextlib.contextmanager
    def sender(self, priority: int = 0, buffer_bytes: int = 0) -> Iterator[socket.socket]:
        """A blocking socket that is connected to the right host, where somebody listens."""
        with self.left.enter():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with self.right.enter():
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock, receiver:
            receiver.bind((self.right.ipv4, PORT))
            if buffer_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, priority)
            sock.connect((self.right.ipv4, PORT))
            yield sock


@contextlib.contextmanager
def ground_of(
    left: Host, right: Host, may_install: Collection[str] | None = None
) -> Iterator[Ground]:
    with contextlib.ExitStack() as resources:
        with left.enter():
            netlink = resources.enter_context(Netlink(socket.NETLINK_ROUTE))
            outlets = Outlets(netlink)
        resources.callback(outlets.close)
        qdiscs = Qdiscs(netlink)
        shapers = Shapers(qdiscs, outlets, may_install)
        yield Ground(left, right, netlink, qdiscs, outlets, shapers)


def of_the_flow(packet: CapturedPacket) -> bool:
    return packet.destination_port == PORT


def numbered(number: int, size: int) -> bytes:
    """A payload that tells its place."""
    return number.to_bytes(4, "big") + bytes(size - 4)


def numbers(packets: Collection[CapturedPacket]) -> list[int]:
    return [int.from_bytes(packet.payload[:4], "big") for packet in packets]


def rate_bps(packets: list[CapturedPacket]) -> float:
    """Bits per second of IP packets, by the kernel's stamps."""
    sent = sum(packet.length_bytes for packet in packets[1:])
    return sent * 8e9 / (packets[-1].time_ns - packets[0].time_ns)


def gaps_ns(packets: list[CapturedPacket]) -> list[int]:
    """The times between neighbours, smallest first."""
    times = [packet.time_ns for packet in packets]
    return sorted(after - before for before, after in pairwise(times))

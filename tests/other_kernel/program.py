"""The egress program on a lab's hosts, attached one way or the other, and flows in its table.

No service: what is tested is what becomes of packets in a kernel, and the tables are written by
hand. How the service attaches and what it writes is tested where that is.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import pytest

from openqwave.drivers.filters import Filters
from openqwave.drivers.netlink import Netlink
from openqwave.enforcement.bpf import syscalls
from openqwave.enforcement.bpf.program import EgressProgram, Sizes
from openqwave.enforcement.missing import MechanismMissing
from openqwave.model.endpoint import Endpoint

if TYPE_CHECKING:
    from openqwave.lab.topology import Host
    from openqwave.model.flow import Treatment
    from openqwave.model.traffic import FlowTraffic

# <asm-generic/socket.h>
SO_COOKIE = 57

# Room for a test's flows; a guest has little memory.
SIZES = Sizes(flows=64, sockets=64, destinations=64, claimants=16, fragmented=64)

NAME, PRIORITY = "test", 1

BOTH_WAYS = pytest.mark.parametrize("way", ["tcx", "clsact"])


def cookie_of(sock: socket.socket) -> int:
    """What the kernel calls a socket."""
    return int(struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0])


def endpoint(address: str, port: int) -> Endpoint:
    """An address as the table has it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return Endpoint(socket.inet_pton(family, address), port)


class Program:
    """The program, loaded; a context manager that takes away what it attached."""

    def __init__(self) -> None:
        """Skips the test where the kernel, or a right, is not enough."""
        self._closing = ExitStack()
        try:
            self._program = self._closing.enter_context(EgressProgram.load(SIZES))
        except MechanismMissing as error:
            pytest.skip(str(error))
        self.table = self._program.table

    def attach(self, host: Host, interface: str, way: str, *, may_tag: bool = True) -> None:
        """Attach it to an exit; skips the test where the kernel has no such way."""
        programs = self._program.programs
        fd = programs.egress if may_tag else programs.egress_untagged
        if way == "tcx":
            try:
                link = host.run(
                    lambda: syscalls.link_create(
                        fd, socket.if_nametoindex(interface), syscalls.TCX_EGRESS
                    )
                )
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                pytest.skip("this kernel has no TCX (Linux 6.6)")
            self._closing.callback(os.close, link)
            return
        with host.enter():
            index = socket.if_nametoindex(interface)
            netlink = self._closing.enter_context(Netlink(socket.NETLINK_ROUTE))
        # Gone with the host, at the latest.
        Filters(netlink).add_with_clsact(index, fd, NAME, PRIORITY)

    def flow(
        self,
        sock: socket.socket,
        treatment: Treatment,
        *destinations: Endpoint,
        is_delayed: bool = False,
    ) -> int:
        """Put a socket, or some of its destinations, in a new flow; its slot."""
        slot = self.table.new_slot()
        self.table.write_treatment(slot, treatment, is_delayed=is_delayed)
        cookie = cookie_of(sock)
        if destinations:
            self.table.put_destinations(cookie, dict.fromkeys(destinations, slot))
            self.table.put_socket(cookie, None, has_destinations=True)
        else:
            self.table.put_socket(cookie, slot)
        return slot

    def counted(self, slot: int) -> FlowTraffic:
        """What it has counted of a flow."""
        return self.table.read_meters([slot])[slot]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

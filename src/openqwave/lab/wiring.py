"""Interfaces, addresses and routes of a namespace, by netlink.

Each function works in the calling thread's namespace. pyroute2 runs an event loop under its
synchronous calls and ties a connection to its thread, so a conversation is opened where it is
needed and closed with it, which takes a millisecond.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pyroute2 import IPRoute

from openqwave.lab.offloads import disable_offloads
from openqwave.lab.refusals import explained

if TYPE_CHECKING:
    from openqwave.lab.hosts import Interface
    from openqwave.lab.namespaces import Namespace

IPV4_PREFIX_BITS = 24
IPV6_PREFIX_BITS = 64

# <linux/if_addr.h>, <linux/neighbour.h>
IFA_F_NODAD = 0x02
NUD_PERMANENT = 0x80

# 120 ms of 1 Gbit/s: what a link emulator may sleep before frames are lost outside its books.
TAP_QUEUE_FRAMES = 10_000

# The kernel's carrier work takes milliseconds; a machine that needs longer is broken.
CARRIER_TIMEOUT_S = 5.0


def make_veth(
    names: Sequence[str], macs: Sequence[str], mtu_bytes: int, peer: Namespace
) -> tuple[int, int]:
    """Make a veth pair, one end here and one in another namespace; return their indexes."""
    with IPRoute() as netlink, explained("a pair of virtual Ethernet devices (module veth)"):
        netlink.link(
            "add",
            kind="veth",
            ifname=names[0],
            address=macs[0],
            mtu=mtu_bytes,
            peer={
                "ifname": names[1],
                "address": macs[1],
                "mtu": mtu_bytes,
                "net_ns_fd": peer.fileno(),
            },
        )
    return socket.if_nametoindex(names[0]), peer.run(socket.if_nametoindex, names[1])


def adopt_tap(name: str, mac: str, mtu_bytes: int) -> int:
    """Give a tap its address, its MTU and a queue that never fills; return its index."""
    index = socket.if_nametoindex(name)
    with IPRoute() as netlink:
        netlink.link("set", index=index, address=mac, mtu=mtu_bytes, txqlen=TAP_QUEUE_FRAMES)
    return index


def bring_up(near: Interface, far: Interface) -> None:
    """Give an end of a link its addresses and its only neighbour, and bring it up."""
    disable_offloads(near.name)
    with IPRoute() as netlink:
        netlink.link("set", index=near.index, state="up")
        netlink.addr("add", index=near.index, address=near.ipv4, prefixlen=IPV4_PREFIX_BITS)
        netlink.addr(
            "add",
            index=near.index,
            address=near.ipv6,
            prefixlen=IPV6_PREFIX_BITS,
            flags=IFA_F_NODAD,
        )
        for address in (far.ipv4, far.ipv6):
            netlink.neigh(
                "add", dst=address, lladdr=far.mac, ifindex=near.index, state=NUD_PERMANENT
            )


def await_carrier(interface: Interface) -> None:
    """Wait until an interface is seen to be up; what is sent before is dropped.

    Raises:
        TimeoutError: It does not come up, which its other end, being down, would explain.
    """
    deadline = time.monotonic() + CARRIER_TIMEOUT_S
    with IPRoute() as netlink:
        while netlink.get_links(interface.index)[0].get_attr("IFLA_OPERSTATE") != "UP":
            if time.monotonic() > deadline:
                raise TimeoutError(f"{interface.name} of {interface.host.name} does not come up")
            time.sleep(0.001)


def add_routes(routes: Iterable[tuple[str, str]]) -> None:
    """Add routes, each a network in CIDR notation and the gateway to it."""
    with IPRoute() as netlink:
        for network, gateway in routes:
            netlink.route("add", dst=network, gateway=gateway)

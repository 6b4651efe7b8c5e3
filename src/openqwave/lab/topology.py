"""Hosts, links and routers: a private internet inside one process.

Model. A host is a network namespace, a link a veth pair between two of them, a router a host that
forwards. Link number n is the networks 10.(n // 256).(n % 256).0/24 and fd00:0:0:n::/64; the host
named first has address 1 in both, the other 2. After each link every host learns a route to every
network it can reach through routers, the shortest way, so nothing needs configuring.

What would disturb an experiment is absent. Neighbours are permanent entries, so no ARP or
neighbour discovery waits in the queue that is being measured, or is lost in it. IPv6 addresses
skip duplicate address detection and are usable at once; no router is solicited. Offloads are off
(see `offloads`). The interfaces are up, seen to be up, when `Lab.link` returns: the kernel
notices a new carrier in the background, and drops what is sent before.

Left in: multicast listener reports, a few per interface in its first second, and the kernel's
own delivery inside one machine, which takes a microsecond and no bandwidth where no `Bottleneck`
stands.

All netlink is spoken in threads made for it, so a caller may itself be a coroutine (see `wiring`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Self

from openqwave.lab import wiring
from openqwave.lab.emulation import EmulatedLink, Emulator
from openqwave.lab.hosts import Host, Interface, Link
from openqwave.lab.links import DuplexSpec
from openqwave.lab.namespaces import Namespace, loopback_up
from openqwave.lab.processes import Children
from openqwave.lab.shape import Bottleneck
from openqwave.lab.taps import open_tap

__all__ = ["Host", "Interface", "Lab", "Link"]

# Ethernet's, so that packets have the size they have on most paths.
MTU_BYTES = 1500


# accept_dad counts if either the interface's or "all" allows it, hence both; disable_ipv6 is
# cleared because container runtimes set it and new namespaces may inherit it.
_QUIET_IPV6 = {
    f"net/ipv6/conf/{scope}/{name}": value
    for scope in ("all", "default")
    for name, value in (
        ("disable_ipv6", 0),
        ("accept_dad", 0),
        ("accept_ra", 0),
        ("router_solicitations", 0),
    )
}
_FORWARDING = {
    "net/ipv4/ip_forward": 1,
    "net/ipv6/conf/all/forwarding": 1,
    "net/ipv6/conf/default/forwarding": 1,
}


class Lab:
    """A set of hosts, and everything started on them; gone at the end of its `with` block.

    It is gone as well at the end of the process, however that comes: the namespaces are held by
    descriptors, the child processes by `tether`.
    """

    def __init__(self) -> None:
        self._hosts: dict[str, Host] = {}
        self._links: list[Link] = []
        self._resources = contextlib.ExitStack()
        self._children = Children()
        self._resources.callback(self._children.close)
        self._routed: set[tuple[Host, Link]] = set()

    @property
    def hosts(self) -> Mapping[str, Host]:
        """The hosts and routers by name."""
        return MappingProxyType(self._hosts)

    def host(self, name: str) -> Host:
        """Add a host.

        Raises:
            ValueError: The name is taken.
            PermissionError: Namespaces cannot be made; `namespaces.availability` says why.
        """
        return self._add(name, forwards=False)

    def router(self, name: str) -> Host:
        """Add a host that forwards IPv4 and IPv6; errors as with `host`."""
        return self._add(name, forwards=True)

    def _add(self, name: str, *, forwards: bool) -> Host:
        if name in self._hosts:
            raise ValueError(f"the lab has a host {name} already")
        namespace = self._resources.enter_context(Namespace.create())
        host = Host(name, namespace, self._children, self._resources, forwards=forwards)
        self._hosts[name] = host
        host.sysctl(_QUIET_IPV6 | (_FORWARDING if forwards else {}))
        host.run(loopback_up)
        return host

    def link(
        self,
        a: Host,
        b: Host,
        *,
        a_to_b: Bottleneck | None = None,
        b_to_a: Bottleneck | None = None,
        mtu_bytes: int = MTU_BYTES,
    ) -> Link:
        """Join two hosts, give both ends addresses, and tell everybody the way.

        Args:
            a: The host that gets address 1.
            b: The host that gets address 2.
            a_to_b: What limits the direction from a to b; None for nothing. It stands at a's
                end, so a should be a router: a host that is held up by its own interface shows
                its programs a full socket instead of a lossy path.
            b_to_a: The same for the other direction.
            mtu_bytes: Largest IP packet, 1280 to 65535.
        """
        names, macs = self._next_names(a, b)
        indexes = a.run(wiring.make_veth, names, macs, mtu_bytes, b.namespace)
        link = Link(*self._interfaces((a, b), names, macs, indexes))
        self._join(link)
        for end in (link.a, link.b):
            end.host.run(wiring.await_carrier, end)
        if a_to_b is not None:
            link.a.shape(a_to_b)
        if b_to_a is not None:
            link.b.shape(b_to_a)
        return link

    def emulated_link(
        self,
        a: Host,
        b: Host,
        spec: DuplexSpec,
        *,
        seed: int = 1,
        cpu: int | None = None,
        is_realtime: bool = False,
    ) -> EmulatedLink:
        """Join two hosts as `link` does, by a link that behaves as a model says.

        Args:
            a: The host that gets address 1, where the model's way forward begins.
            b: The host that gets address 2.
            spec: What the link is like.
            seed: What is random happens the same way for the same seed and the same times.
            cpu: The processor that the emulator is to stay on; None for any. It is most
                punctual where everything else keeps off it (`os.sched_setaffinity` before).
            is_realtime: Whether it is to go before ordinary processes. Of use only on a processor
                of its own, and granted only to root; `EmulatedLink.counters` tells.

        Raises:
            OSError: Taps cannot be had.
            EmulatorError: The emulator did not start.
        """
        names, macs = self._next_names(a, b)
        hosts = (a, b)
        with contextlib.ExitStack() as taps:
            fds = []
            for host, name in zip(hosts, names, strict=True):
                fds.append(host.run(open_tap, name))
                taps.callback(os.close, fds[-1])
            indexes = [
                host.run(wiring.adopt_tap, name, mac, MTU_BYTES)
                for host, name, mac in zip(hosts, names, macs, strict=True)
            ]
            emulator = Emulator(a, fds, spec, seed, cpu, is_realtime=is_realtime)
        near, far = self._interfaces(hosts, names, macs, indexes)
        link = EmulatedLink(near, far, emulator)
        self._join(link)
        return link

    def _next_names(self, a: Host, b: Host) -> tuple[list[str], list[str]]:
        """Return the names and the Ethernet addresses of the next link's ends."""
        number = len(self._links) + 1
        return (
            [f"eth{len(host.links)}" for host in (a, b)],
            [f"02:00:00:{number >> 8:02x}:{number & 255:02x}:{end:02x}" for end in (1, 2)],
        )

    def _interfaces(
        self,
        hosts: Sequence[Host],
        names: Sequence[str],
        macs: Sequence[str],
        indexes: Sequence[int],
    ) -> tuple[Interface, Interface]:
        number = len(self._links) + 1
        near, far = (
            Interface(
                host,
                names[end],
                indexes[end],
                macs[end],
                f"10.{number >> 8}.{number & 255}.{end + 1}",
                f"fd00:0:0:{number:x}::{end + 1}",
            )
            for end, host in enumerate(hosts)
        )
        return near, far

    def _join(self, link: Link) -> None:
        """Bring a link up, and tell everybody the way."""
        for near, far in ((link.a, link.b), (link.b, link.a)):
            near.host.run(wiring.bring_up, near, far)
        self._links.append(link)
        for end in (link.a, link.b):
            end.host.links.append(link)
        self._spread_routes()

    def _spread_routes(self) -> None:
        """Give every host the routes it lacks, one netlink conversation a host."""
        for host in self._hosts.values():
            missing = [
                (link, gateway)
                for link, gateway in _reachable(host)
                if (host, link) not in self._routed
            ]
            if missing:
                host.run(
                    wiring.add_routes,
                    [
                        route
                        for link, gateway in missing
                        for route in (
                            (link.ipv4_network, gateway.ipv4),
                            (link.ipv6_network, gateway.ipv6),
                        )
                    ],
                )
                self._routed.update((host, link) for link, _ in missing)

    def close(self) -> None:
        """End every process of the lab, close its captures and let go of its namespaces."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _reachable(host: Host) -> Iterator[tuple[Link, Interface]]:
    """Walk outwards from a host, breadth first: the links behind routers, and the next hop."""
    seen = set(host.links)
    frontier = [(far.host, far) for far in (link.seen_from(host)[1] for link in host.links)]
    for node, gateway in frontier:
        if not node.forwards:
            continue
        for link in node.links:
            if link not in seen:
                seen.add(link)
                yield link, gateway
                frontier.append((link.seen_from(node)[1].host, gateway))

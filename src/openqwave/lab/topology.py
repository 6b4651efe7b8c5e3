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
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import ParamSpec, Self, TypeVar

from openqwave.lab import shape, wiring
from openqwave.lab.capture import Capture, Direction
from openqwave.lab.namespaces import Namespace, loopback_up
from openqwave.lab.processes import Children, Redirection
from openqwave.lab.shape import Bottleneck, QueueCounters
from openqwave.lab.wiring import IPV4_PREFIX_BITS, IPV6_PREFIX_BITS

P = ParamSpec("P")
R = TypeVar("R")

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


@dataclass(frozen=True, slots=True)
class Interface:
    """One end of a link.

    Attributes:
        host: Whose it is.
        name: Its name there, `eth0` upwards.
        index: Its index there.
        mac: Its Ethernet address.
        ipv4: Its address on the link's IPv4 network.
        ipv6: Its address on the link's IPv6 network.
    """

    host: Host = field(repr=False)
    name: str
    index: int
    mac: str
    ipv4: str
    ipv6: str

    def shape(self, bottleneck: Bottleneck | None) -> None:
        """Give what leaves here a rate, a queue and a priority; None takes them away.

        What waits in a queue that is replaced is lost.
        """
        self.host.run(shape.install, self.index, bottleneck)

    def queues(self) -> Mapping[str, QueueCounters]:
        """Read the counters of the queues of `shape`: "default" and perhaps "priority"."""
        return self.host.run(shape.counters, self.index)

    def try_qdisc(self, kind: str) -> bool:
        """Make a queueing discipline, as it comes, the root; False where the kernel has none."""
        return self.host.run(shape.try_qdisc, self.index, kind)

    def capture(self, direction: Direction | None = None) -> Capture:
        """Watch what passes here from now on, until it is closed or the lab is; see `Capture`."""
        with self.host.enter():
            capture = Capture(self.name, direction)
        self.host.at_close(capture.close)
        return capture


@dataclass(frozen=True, slots=True)
class Link:
    """Two interfaces joined: `a` at the host named first."""

    a: Interface
    b: Interface

    @property
    def ipv4_network(self) -> str:
        """The link's IPv4 network in CIDR notation."""
        return f"{self.a.ipv4.rpartition('.')[0]}.0/{IPV4_PREFIX_BITS}"

    @property
    def ipv6_network(self) -> str:
        """The link's IPv6 network in CIDR notation."""
        return f"{self.a.ipv6.removesuffix('1')}/{IPV6_PREFIX_BITS}"

    def seen_from(self, host: Host) -> tuple[Interface, Interface]:
        """Return the near and the far interface for a host on this link."""
        return (self.a, self.b) if self.a.host is host else (self.b, self.a)


class Host:
    """A machine of the lab. Made by `Lab.host` and `Lab.router`.

    Attributes:
        name: What the lab calls it.
        namespace: Its network.
        forwards: Whether it is a router.
        links: The links it is on, in the order they were made.
    """

    def __init__(
        self,
        name: str,
        namespace: Namespace,
        children: Children,
        resources: contextlib.ExitStack,
        *,
        forwards: bool,
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.forwards = forwards
        self.links: list[Link] = []
        self._children = children
        self._resources = resources

    def __repr__(self) -> str:
        return f"<{'router' if self.forwards else 'host'} {self.name}>"

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """Its interfaces, `eth0` first, without loopback."""
        return tuple(link.seen_from(self)[0] for link in self.links)

    @property
    def interface(self) -> Interface:
        """Its one interface; ValueError where it has none or several."""
        if len(self.links) != 1:
            raise ValueError(f"{self.name} has {len(self.links)} interfaces: name one")
        return self.interfaces[0]

    @property
    def addresses(self) -> tuple[str, ...]:
        """All its addresses, each interface's IPv4 before its IPv6."""
        return tuple(address for end in self.interfaces for address in (end.ipv4, end.ipv6))

    @property
    def ipv4(self) -> str:
        """The IPv4 address of its one interface."""
        return self.interface.ipv4

    @property
    def ipv6(self) -> str:
        """The IPv6 address of its one interface."""
        return self.interface.ipv6

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function in a thread that lives on this host; its result or exception is yours."""
        return self.namespace.run(function, *args, **kwargs)

    def enter(self) -> contextlib.AbstractContextManager[None]:
        """Put the calling thread on this host for a `with` block; sockets made there stay."""
        return self.namespace.enter()

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: Redirection = None,
        stdout: Redirection = None,
        stderr: Redirection = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a program on this host, as `subprocess.Popen` in text mode; it dies with the lab.

        A program that does not exist ends with status 1 and says so on its standard error.
        """
        return self._children.start(
            self.namespace, argv, stdin=stdin, stdout=stdout, stderr=stderr, env=env
        )

    def capture(self, direction: Direction | None = None) -> Capture:
        """Watch what passes its one interface from now on; see `Interface.capture`."""
        return self.interface.capture(direction)

    def at_close(self, callback: Callable[[], None]) -> None:
        """Have something called when the lab closes, before its processes are ended."""
        self._resources.callback(callback)

    def sysctl(self, settings: Mapping[str, int | str]) -> None:
        """Write kernel settings below /proc/sys/net that belong to this host.

        Args:
            settings: Path below /proc/sys to value, as in {"net/ipv4/ip_forward": 1}.

        Raises:
            OSError: The kernel has no such setting, or /proc/sys is mounted read-only.
        """

        def write() -> None:
            for path, value in settings.items():
                Path("/proc/sys", path).write_text(str(value), encoding="ascii")

        self.run(write)


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
        number = len(self._links) + 1
        names = [f"eth{len(host.links)}" for host in (a, b)]
        macs = [f"02:00:00:{number >> 8:02x}:{number & 255:02x}:{end:02x}" for end in (1, 2)]
        indexes = a.run(wiring.make_veth, names, macs, mtu_bytes, b.namespace)
        near, far = (
            Interface(
                host,
                names[end],
                indexes[end],
                macs[end],
                f"10.{number >> 8}.{number & 255}.{end + 1}",
                f"fd00:0:0:{number:x}::{end + 1}",
            )
            for end, host in enumerate((a, b))
        )
        a.run(wiring.bring_up, near, far)
        b.run(wiring.bring_up, far, near)
        for host, interface in ((a, near), (b, far)):
            host.run(wiring.await_carrier, interface)
        link = Link(near, far)
        self._links.append(link)
        for host in (a, b):
            host.links.append(link)
        self._spread_routes()
        if a_to_b is not None:
            near.shape(a_to_b)
        if b_to_a is not None:
            far.shape(b_to_a)
        return link

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

"""What a lab consists of: hosts, their interfaces, and the links that join these.

`topology.Lab` makes them; see there for the model.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

from openqwave.lab import shape
from openqwave.lab.capture import Capture, Direction
from openqwave.lab.namespaces import Namespace
from openqwave.lab.processes import Children, Redirection
from openqwave.lab.shape import Bottleneck, QueueCounters
from openqwave.lab.wiring import IPV4_PREFIX_BITS, IPV6_PREFIX_BITS

P = ParamSpec("P")
R = TypeVar("R")


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
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[str]:
        """Start a program on this host, as `subprocess.Popen` in text mode; it dies with the lab.

        A program that does not exist ends with status 1 and says so on its standard error.
        """
        return self._children.start(
            self.namespace,
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            pass_fds=pass_fds,
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

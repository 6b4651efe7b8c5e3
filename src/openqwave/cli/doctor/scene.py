"""What is seen of the host before anything is judged: its interfaces, the service, rights.

Nothing is changed. What is loaded to be tried is closed at once, by whoever tries it.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from openqwave.cli.doctor.checks.interfaces import Seen
from openqwave.cli.overview.asking import NoService, Service, ServiceFailed, wanted_path
from openqwave.drivers.adjacency import interface_speed
from openqwave.drivers.filters import Filters
from openqwave.drivers.netlink import Netlink
from openqwave.drivers.offloads import read_offloads
from openqwave.drivers.qdiscs import Qdiscs
from openqwave.drivers.rtnetlink import read_links, read_routes
from openqwave.service.config import Config, ConfigError, load

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from openqwave.cli.interruption import Interruption
    from openqwave.ipc.rows import StatusRow
    from openqwave.model.queues import Queue

# A service that is well answers within milliseconds; the whole command has two seconds.
_PATIENCE_S: Final = 0.8
_LOOPBACK: Final = 772
_IPV6_ADDRESSES: Final = "/proc/thread-self/net/if_inet6"


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface that is looked at.

    Attributes:
        index: Its number.
        seen: What was seen of it.
    """

    index: int
    seen: Seen

    @property
    def name(self) -> str:
        """Its name."""
        return self.seen.name


@dataclass(frozen=True, slots=True)
class Scene:
    """The host.

    Attributes:
        status: What the service says of itself; None where none answers.
        no_service: Why not.
        config: What the service is configured as; the defaults where that cannot be read.
        config_trouble: Why it cannot be read; empty if it can.
        interfaces: Those that lead out of this host, or to the one that was named.
        queues: All queues.
        user: Who looks.
        held: Their effective capabilities, a bit each.
    """

    status: StatusRow | None
    no_service: str
    config: Config
    config_trouble: str
    interfaces: Sequence[Interface]
    queues: Sequence[Queue]
    user: str
    held: int

    def queues_of(self, interface: Interface) -> list[Queue]:
        """The queues of one interface."""
        return [queue for queue in self.queues if queue.interface == interface.index]

    def may_install(self, name: str) -> bool:
        """Does the configuration let the service put a queue at an interface?"""
        wishes = self.config.enforcement
        return wishes.may_install_queues and (not wishes.interfaces or name in wishes.interfaces)

    def members(self) -> list[str] | None:
        """Who is in the operators' group; None if there is none."""
        try:
            return list(grp.getgrnam(self.config.policy.operators_group).gr_mem)
        except KeyError:
            return None


@dataclass(frozen=True, slots=True)
class ServiceSeen:
    """The service, as far as it answers; see `Scene`."""

    status: StatusRow | None
    no_service: str
    config: Config
    config_trouble: str


def ask_service(interruption: Interruption) -> ServiceSeen:
    """Ask the service how it is, and read its configuration.

    Raises:
        Interrupted: A signal came.
    """
    status, reason = _status(interruption)
    return ServiceSeen(status, reason, *_config(status))


def look(towards: int | None, service: ServiceSeen) -> Scene:
    """Look at the host.

    Args:
        towards: Only at the interface of this number; None for those of default routes or, where
            there is none, for all that are up.
        service: What was seen of the service.

    Raises:
        OSError: The kernel could not be asked.
    """
    with Netlink(socket.NETLINK_ROUTE) as netlink:
        queues = Qdiscs(netlink).queues()
        interfaces = _interfaces(netlink, towards)
    held = held_by("thread-self") or 0
    return Scene(
        service.status,
        service.no_service,
        service.config,
        service.config_trouble,
        interfaces,
        queues,
        _user(),
        held,
    )


def held_by(process: int | str) -> int | None:
    """The effective capabilities of a process, a bit each; None where they cannot be seen."""
    with contextlib.suppress(OSError, ValueError):
        text = Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return None


def _status(interruption: Interruption) -> tuple[StatusRow | None, str]:
    try:
        with Service(wanted_path(), interruption, _PATIENCE_S) as service:
            return service.status(), ""
    except (NoService, ServiceFailed) as none:
        return None, str(none)


def _config(status: StatusRow | None) -> tuple[Config, str]:
    """The configuration that is in force; where no service runs, that of the next one."""
    try:
        if status is None:
            return load(), ""
        return (load(Path(status.config_file)) if status.config_file else Config()), ""
    except ConfigError as error:
        return Config(), str(error).partition("\n")[0]


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _interfaces(netlink: Netlink, towards: int | None) -> list[Interface]:
    links = read_links()
    kinds = {each.index: each.kind for each in Filters(netlink).exits()}
    wanted = _wanted(towards, {index for index, link in links.items() if link.is_up})
    with_ipv6 = _with_ipv6()
    found = []
    for index, link in sorted(links.items()):
        is_loopback = link.hardware == _LOOPBACK
        if index not in wanted or (is_loopback and towards is None):
            continue
        speed = interface_speed(netlink.socket, link.name)
        seen = Seen(
            link.name,
            kinds.get(index, ""),
            link.hardware,
            is_up=link.is_up or is_loopback,
            is_wireless=speed.is_wireless,
            has_ipv6=link.name in with_ipv6,
            offloads=read_offloads(link.name),
        )
        found.append(Interface(index, seen))
    return found


def _wanted(towards: int | None, up: Collection[int]) -> Collection[int]:
    if towards is not None:
        return {towards}
    by_default = {
        route.interface
        for route in read_routes()
        if route.network.prefixlen == 0 and route.interface and not route.gateway.startswith("none")
    }
    return by_default or up


def _with_ipv6() -> set[str]:
    """Names of the interfaces that have an IPv6 address."""
    try:
        text = Path(_IPV6_ADDRESSES).read_text(encoding="ascii", errors="replace")
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES):
            raise
        return set()
    return {line.split()[-1] for line in text.splitlines() if line}

"""Which flows, paths and refusals are wanted: by user, process and host.

A host is wanted by its addresses. A flow goes there if its path does, or one of the destinations
that the service names; of a flow with very many it names a few.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from openqwave.ipc.messages import FlowRow, PathRow, ProgramRow, RefusalRow

Address: TypeAlias = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be shown; None stands for all.

    Attributes:
        user: A user's name or number.
        pid: A process.
        hosts: The addresses of a host.
    """

    user: str | None = None
    pid: int | None = None
    hosts: frozenset[Address] | None = None

    @property
    def is_all(self) -> bool:
        """Is nothing left out?"""
        return self == Wanted()

    def takes_flow(self, row: FlowRow) -> bool:
        """Is a flow to be shown?"""
        if self.user is not None and self.user not in (row.user, str(row.uid)):
            return False
        if self.pid is not None and self.pid != row.pid:
            return False
        if self.hosts is None:
            return True
        ends = [end for one in row.sockets for end in one.destinations]
        if row.host is not None:
            ends.append(row.host)
        return any(address_in(end) in self.hosts for end in ends)

    def takes_program(self, row: ProgramRow) -> bool:
        """Is a run or a rule to be shown? Where its traffic goes is not known."""
        if self.user is not None and self.user not in (row.user, str(row.uid)):
            return False
        return self.hosts is None and self.pid in (None, row.pid)

    def takes_refusal(self, row: RefusalRow) -> bool:
        """Is something that was refused to be shown?"""
        if self.user is not None and self.user not in (row.user, str(row.uid)):
            return False
        if self.pid is not None and self.pid != row.pid:
            return False
        return self.hosts is None or (row.host is not None and address_in(row.host) in self.hosts)

    def takes_path(self, row: PathRow) -> bool:
        """Is a path to be shown?"""
        return self.hosts is None or address_in(row.host) in self.hosts


def place_of(host: str) -> tuple[int, int]:
    """Where a host stands in a list: IPv4 before IPv6, by number, and last what is no address."""
    address = address_in(host)
    return (7, 0) if address is None else (address.version, int(address))


def address_in(text: str) -> Address | None:
    """The address in ``192.0.2.1:5004``, ``[2001:db8::1%3]:5004`` or one that stands alone."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None

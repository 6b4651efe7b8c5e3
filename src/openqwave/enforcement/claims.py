"""What is wanted of traffic of programs that ask for nothing themselves.

A *claim* is a treatment for whatever leads to it. Two things do:

* a **rule**: conditions on who made a socket (user, executable, cgroup) and on its packets
  (protocol, addresses, ports). The order of rules says which one holds where several do;
* a **run**: cgroups, all of whose sockets belong to the claim, and sockets that were there before
  and are named one by one.

A flow of a socket's own comes before its run, and its run before rules. Which rule stands before
which, and what names mean (users, units, paths), is decided before; here are only facts that the
kernel can compare: numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from openqwave.admission.rules import Network, Ports
    from openqwave.model.errors import Refusal
    from openqwave.model.flow import Transport, Treatment
    from openqwave.model.traffic import FlowTraffic

# The kernel keeps which rules may hold for a socket in one word.
MOST_RULES: Final = 64


@dataclass(frozen=True, slots=True)
class Executable:
    """A program's file.

    Attributes:
        name: The last part of its path.
        inode: The file's number in its file system; None for any file of that name.
    """

    name: str
    inode: int | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A treatment that several things may lead to.

    Attributes:
        claim_id: A number of whoever claims, above 0; has nothing to do with those of flows.
        treatment: What becomes of the packets. A rate is one for all of them together.
        may_delay: What is above the rate is to wait, where queues can have it wait; else, and
            where they cannot, it gets the marks of best effort.
    """

    claim_id: int
    treatment: Treatment
    may_delay: bool = False


@dataclass(frozen=True, slots=True)
class RuleClaim:
    """Traffic that meets all conditions; None asks nothing, and an empty set is met by nobody.

    Attributes:
        claim: What it gets.
        users: Numbers of those who own the socket.
        programs: Executables of the processes that make sockets; connections that a listener
            accepts are its own.
        groups: Numbers of cgroups (v2: the inode of the directory) that the socket was made in, or
            below.
        protocol: TCP or UDP.
        local: The packet's source address.
        remote: Its destination.
        local_ports: Its source port.
        remote_ports: The port of its destination.
    """

    claim: Claim
    users: frozenset[int] | None = None
    programs: frozenset[Executable] | None = None
    groups: frozenset[int] | None = None
    protocol: Transport | None = None
    local: Network | None = None
    remote: Network | None = None
    local_ports: Ports | None = None
    remote_ports: Ports | None = None


@dataclass(frozen=True, slots=True)
class RunClaim:
    """All sockets of a run.

    Attributes:
        claim: What they get.
        groups: Numbers of cgroups that the socket was made in, or below; of several claims the
            one of the deepest holds.
    """

    claim: Claim
    groups: frozenset[int]


class ProgramMarks(Protocol):
    """A mechanism that can tell traffic by who made the socket."""

    @property
    def program_conditions(self) -> str:
        """Why rules that name executables cannot be had; empty where they can.

        The first question may take some milliseconds: the kernel is asked.
        """

    def carry_out(self, rules: Sequence[RuleClaim], runs: Sequence[RunClaim]) -> Refusal | None:
        """Make the kernel so; all or nothing, and doing it twice changes nothing the second time.

        Sockets that are open follow with their next packet. Claims that stay keep their counters.

        Args:
            rules: The best first: of those whose conditions are met, the first holds.
            runs: In any order.

        Returns:
            None, or why everything is as before: ERROR_NO_SYSTEM_RESOURCES where tables are full
            or there are more than `MOST_RULES` rules, ERROR_NOT_SUPPORTED for executables where
            `program_conditions` says why.
        """

    def claim_socket(self, fd: int, claim_id: int) -> None:
        """Let a socket belong to a run, with what it accepts from now on, wherever it was made.

        It ends with the run's claim.

        Args:
            fd: A descriptor of the socket.
            claim_id: Of a run that was carried out.

        Raises:
            OSError: It is no socket, or the claim is not in force (ENOENT), or memory is short.
        """

    def know_socket(self, fd: int, executable: Executable) -> None:
        """Say which program made a socket that was there before.

        Of one whose maker is known already, nothing changes.

        Args:
            fd: A descriptor of the socket.
            executable: With its inode.

        Raises:
            OSError: It is no socket, or memory is short.
        """

    def traffic_of(self, claim_ids: Collection[int]) -> Mapping[int, FlowTraffic]:
        """What was counted of claims, since each was first carried out; unknown ones are missing.

        Raises:
            OSError: The kernel could not be asked.
        """

    def explain_claim(self, claim_id: int) -> tuple[str, str]:
        """What carries out a claim, in a word or two, and how; empty for one not in force."""

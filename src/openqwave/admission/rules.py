"""Rules for programs that ask for nothing: which of them holds for some traffic, and why.

A rule has conditions and says what traffic gets that meets all of them. One rule at most
holds for a packet; rules are never added up. Which one it is goes by how closely they
describe the traffic, as with Windows' policy-based QoS (Microsoft, "Manage QoS Policy",
section "QoS Policy Precedence Rules"), in this order:

1. one that names a user before one that does not (a policy of the user there);
2. one that names a program before one that does not, by path before by bare name;
3. one that names a unit or cgroup before one that does not, the deeper one first. Windows
   has no such thing; it says which program runs, but less closely than its file does;
4. the one with more of five conditions: local address, remote address, local port, remote
   port, protocol;
5. with equally many, the one that has the first of them, in that order, which the other
   has not;
6. with the same ones, the one that is narrower in the first of them, in that order, in
   which they differ: the longer prefix, the smaller range of ports;
7. what describes traffic equally closely: the one that stands later. Windows leaves that
   open; with settings it is so, too.

What is not known of the traffic (the user of a program that does not run) meets no
condition about it, and the decision says so. Sources: the page named above.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openqwave.model.flow import TrafficType, Transport

Network: TypeAlias = IPv4Network | IPv6Network
Address: TypeAlias = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Ports:
    """A range of ports.

    Attributes:
        low: The first, from 1.
        high: The last, not below the first, to 65535.
    """

    low: int
    high: int

    @property
    def count(self) -> int:
        """How many there are."""
        return self.high - self.low + 1

    def __str__(self) -> str:
        """``5004`` or ``5004-5010``."""
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


@dataclass(frozen=True, slots=True)
class Conditions:
    """What traffic has to be; None asks nothing.

    Attributes:
        program: The executable's absolute path, or its bare name.
        user: The name or the number of the user whose process it is.
        unit: A systemd unit that the process is in, or in a unit of. One of a user's own manager
            counts only where the user is named, too: users call theirs as they like.
        cgroup: A cgroup, as ``/proc/PID/cgroup`` has it, that the process is in or below.
        protocol: TCP or UDP.
        local: This host's address.
        remote: The peer's address.
        local_ports: This host's port.
        remote_ports: The peer's port.
    """

    program: str | None = None
    user: str | None = None
    unit: str | None = None
    cgroup: str | None = None
    protocol: Transport | None = None
    local: Network | None = None
    remote: Network | None = None
    local_ports: Ports | None = None
    remote_ports: Ports | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What traffic gets; None leaves it as it is.

    Attributes:
        dscp: An exact code point, 0 to 63; comes before that of the type.
        traffic_type: Marks as of this type.
        rate_bps: Bits per second with IP and transport headers; above 0.
    """

    dscp: int | None = None
    traffic_type: TrafficType | None = None
    rate_bps: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        name: No other rule has it.
        conditions: Which traffic it is for.
        grant: What that gets.
        origin: Where it is written, as ``FILE:LINE``; for people.
    """

    name: str
    conditions: Conditions
    grant: Grant
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Program:
    """Whose traffic it is, as far as that is known; None is not.

    Attributes:
        path: The executable's absolute path, links resolved.
        name: Its last part; known without the path for a program that is only named.
        user: The user's name.
        uid: And number.
        cgroup: The process's cgroup.
    """

    path: str | None = None
    name: str | None = None
    user: str | None = None
    uid: int | None = None
    cgroup: str | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """Packets of one socket to one destination; what is None is not known.

    Attributes:
        program: Who sends them.
        protocol: TCP or UDP.
        local: From which address.
        remote: To which; IPv4 peers of an IPv6 socket as IPv4.
        local_port: From which port.
        remote_port: To which.
    """

    program: Program
    protocol: Transport | None = None
    local: Address | None = None
    remote: Address | None = None
    local_port: int | None = None
    remote_port: int | None = None


@dataclass(frozen=True, slots=True)
class Loser:
    """A rule that does not hold.

    Attributes:
        rule: It.
        matches: It is for this traffic, but another one is before it.
        reason: Why not, as part of a sentence.
    """

    rule: Rule
    matches: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Which rule holds.

    Attributes:
        winner: It; None if no rule is for this traffic.
        reason: Why it does, as part of a sentence.
        losers: All others: first those that match, best first, then the rest as they stand.
    """

    winner: Rule | None
    reason: str
    losers: tuple[Loser, ...]


# The five conditions on packets, from the one that counts most.
_PARTS = ("local", "remote", "local_ports", "remote_ports", "protocol")
_PART_WORDS = ("a local address", "a remote address", "a local port", "a remote port", "a protocol")

Closeness: TypeAlias = "tuple[tuple[int, ...], ...]"


def decide(rules: Sequence[Rule], traffic: Traffic) -> Decision:
    """Which of the rules holds for some traffic.

    Args:
        rules: In the order in which they stand.
        traffic: What is to be sent.
    """
    matching: list[tuple[Closeness, int, Rule]] = []
    unmatched: list[Loser] = []
    for index, rule in enumerate(rules):
        misfit = mismatch(rule.conditions, traffic)
        if misfit is None:
            matching.append((closeness(rule.conditions, traffic.program), index, rule))
        else:
            unmatched.append(Loser(rule, matches=False, reason=misfit))
    if not matching:
        return Decision(None, "no rule is for this traffic", tuple(unmatched))
    matching.sort(reverse=True)
    (best, _, winner), *others = matching
    losers = [
        Loser(rule, matches=True, reason=f"{winner.name!r} {_advantage(best, worse)}")
        for worse, _, rule in others
    ]
    reason = "no other rule is for this traffic"
    if others:
        worse, _, second = others[0]
        reason = f"before {second.name!r}, it {_advantage(best, worse)}"
    return Decision(winner, reason, (*losers, *unmatched))


def mismatch(conditions: Conditions, traffic: Traffic) -> str | None:
    """Which condition traffic does not meet; None if it meets all.

    The first of several is told: the program, its user, its place, then the five of packets.
    """
    return _misfit_of_program(conditions, traffic.program) or _misfit_of_packets(
        conditions, traffic
    )


def _misfit_of_program(conditions: Conditions, program: Program) -> str | None:
    wanted = conditions.program
    if wanted is not None:
        found = program.path if wanted.startswith("/") else program.name
        if found != wanted:
            return _misfit("program", wanted, found)
    wanted = conditions.user
    if wanted is not None and wanted not in (program.user, _text(program.uid)):
        return _misfit("user", wanted, program.user or _text(program.uid))
    if conditions.unit is not None and not _depth_of_unit(conditions, program):
        return _misfit("unit", conditions.unit, program.cgroup)
    if conditions.cgroup is not None and not cgroup_depth(conditions.cgroup, program.cgroup):
        return _misfit("cgroup", conditions.cgroup, program.cgroup)
    return None


def _misfit_of_packets(conditions: Conditions, traffic: Traffic) -> str | None:
    protocol = conditions.protocol
    if protocol is not None and protocol is not traffic.protocol:
        found = None if traffic.protocol is None else traffic.protocol.name.lower()
        return _misfit("protocol", protocol.name.lower(), found)
    for name, network, address in (
        ("local", conditions.local, traffic.local),
        ("remote", conditions.remote, traffic.remote),
    ):
        # An address of the other family is in no network of this one.
        if network is not None and (address is None or address not in network):
            return _misfit(name, str(network), _text(address))
    for name, ports, port in (
        ("local_ports", conditions.local_ports, traffic.local_port),
        ("remote_ports", conditions.remote_ports, traffic.remote_port),
    ):
        if ports is not None and (port is None or not ports.low <= port <= ports.high):
            return _misfit(name, str(ports), _text(port))
    return None


def _misfit(name: str, wanted: str, found: str | None) -> str:
    return f"{name} is {wanted} there, and here {'not known' if found is None else found}"


def _text(found: object) -> str | None:
    return None if found is None else str(found)


def _depth_of_unit(conditions: Conditions, program: Program) -> int:
    of_users = conditions.user is not None
    return unit_depth(conditions.unit or "", program.cgroup, of_users=of_users)


def unit_depth(unit: str, cgroup: str | None, *, of_users: bool = True) -> int:
    """How deep below the root a unit is whose process is in a cgroup; 0 if it is in none.

    systemd names the cgroup of a unit after it, and those of its parts go below.

    Args:
        unit: Its name.
        cgroup: Where the process is.
        of_users: Units of users' own managers count, too. What is below ``user@UID.service`` any
            user may name as he likes, so a rule that names no user must not go by it.
    """
    if cgroup is None:
        return 0
    parts = cgroup.strip("/").split("/")
    if not of_users:
        managers = [at for at, part in enumerate(parts) if _is_users_manager(part)]
        parts = parts[: managers[0] + 1] if managers else parts
    return len(parts) - parts[::-1].index(unit) if unit in parts else 0


def _is_users_manager(part: str) -> bool:
    return part.startswith("user@") and part.endswith(".service")


def cgroup_depth(wanted: str, cgroup: str | None) -> int:
    """How deep a cgroup is that another is or is below; 0 if it is not. The root has depth 1."""
    if cgroup is None:
        return 0
    above = wanted.strip("/")
    is_below = not above or f"{cgroup.strip('/')}/".startswith(f"{above}/")
    below_root = len(above.split("/")) if above else 0
    return below_root + 1 if is_below else 0


def closeness(conditions: Conditions, program: Program) -> Closeness:
    """What rules for the same traffic are compared by, from what counts most."""
    path_or_name = 0 if conditions.program is None else 1 + conditions.program.startswith("/")
    # A cgroup's depth counts the root, a unit's does not.
    depths = [
        0 if conditions.unit is None else _depth_of_unit(conditions, program) + 1,
        0 if conditions.cgroup is None else cgroup_depth(conditions.cgroup, program.cgroup),
    ]
    has = tuple(int(getattr(conditions, part) is not None) for part in _PARTS)
    return (
        (int(conditions.user is not None),),
        (path_or_name,),
        (max(depths),),
        (sum(has),),
        has,
        (
            _narrowness(conditions.local),
            _narrowness(conditions.remote),
            _fewness(conditions.local_ports),
            _fewness(conditions.remote_ports),
        ),
    )


def _narrowness(network: Network | None) -> int:
    return -1 if network is None else network.prefixlen


def _fewness(ports: Ports | None) -> int:
    return 0 if ports is None else -ports.count


def _advantage(better: Closeness, worse: Closeness) -> str:
    """Why one rule is before another that matches, too; goes with "it"."""
    for step, (one, other) in enumerate(zip(better, worse, strict=True)):
        if one == other:
            continue
        first = next(
            at for at, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]
        )
        match step:
            case 0:
                return "names a user"
            case 1 if other[0]:
                return "names the program by its path"
            case 1:
                return "names the program"
            case 2 if other[0]:
                return "names the deeper unit or cgroup"
            case 2:
                return "names a unit or cgroup"
            case 3:
                return f"has {one[0]} conditions on packets instead of {other[0]}"
            case 4:
                return f"has {_PART_WORDS[first]}, which counts more"
            case _:
                return f"is narrower in {_PART_WORDS[first]}"
    return "describes it as closely and stands later"

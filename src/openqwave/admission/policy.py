"""The administrator's decisions, as one value.

The default is what Windows does, restated: which DSCP and 802.1p value each traffic type
gets, how large the share is that a flow gets when it names no rate, how much one client
may hold. A policy is data; the engine asks it and never decides by itself.

Local queue priority is the third mark. Linux's classic queues (pfifo_fast, prio, and the
bands of fq) sort packets by ``skb->priority`` through the same 16-entry table,
``1 2 2 2 1 2 0 0 1 ...`` (include/net/pkt_sched.h, sch_generic.c): 0 and 4 share the
middle band, **5 falls into the lowest one**, 6 and 7 lead. So a stream that carries the
802.1p value 5 must not carry socket priority 5: on an ordinary interface it would be
queued behind everything else. Only 0 to 6 can be set without rights, which leaves three
useful levels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from openqwave.model.flow import TrafficType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openqwave.admission.rules import Rule

_NS_PER_S = 1_000_000_000

# TC_PRIO_BULK, TC_PRIO_BESTEFFORT and TC_PRIO_INTERACTIVE of linux/pkt_sched.h: the
# lowest, middle and highest band of the table above.
QUEUE_BULK = 2
QUEUE_NORMAL = 0
QUEUE_INTERACTIVE = 6

# RFC 8325 section 4.3 puts CS3 (24) and every code point above it that is in use into the
# video and voice access categories; RFC 8622 names 1 and RFC 3662 names CS1 (8) for
# traffic that yields to all other.
_FIRST_INTERACTIVE_DSCP = 24
_LOWER_EFFORT_DSCPS = (1, 8)


def queue_priority(dscp: int) -> int:
    """The local queue priority that goes with a code point.

    Args:
        dscp: 0 to 63.

    Returns:
        An skb priority that any user may set: `QUEUE_BULK`, `QUEUE_NORMAL` or
        `QUEUE_INTERACTIVE`.
    """
    if dscp >= _FIRST_INTERACTIVE_DSCP:
        return QUEUE_INTERACTIVE
    return QUEUE_BULK if dscp in _LOWER_EFFORT_DSCPS else QUEUE_NORMAL


@dataclass(frozen=True, slots=True)
class Marks:
    """What the packets of a traffic type carry.

    Attributes:
        dscp: Code point, 0 to 63.
        pcp: 802.1p priority, 0 to 7, for paths that were shown to carry tags.
    """

    dscp: int
    pcp: int


# The documented values of QOS_TRAFFIC_TYPE; a best-effort packet is not touched at all.
WINDOWS_MARKS: Mapping[TrafficType, Marks | None] = MappingProxyType(
    {
        TrafficType.BEST_EFFORT: None,
        TrafficType.BACKGROUND: Marks(8, 2),
        TrafficType.EXCELLENT_EFFORT: Marks(40, 5),
        TrafficType.AUDIO_VIDEO: Marks(40, 5),
        TrafficType.VOICE: Marks(56, 7),
        TrafficType.CONTROL: Marks(56, 7),
    }
)


# What gives way to other traffic, or asks nothing of it, takes nothing from anybody.
_MODEST_TYPES = (TrafficType.BEST_EFFORT, TrafficType.BACKGROUND)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one client may hold, so that a leak in it is its own trouble.

    The numbers are far above what any known program holds (one handle and one flow per
    peer) and far below what would be felt: a flow costs about a kilobyte.

    Those of users are not for administrators, who may change them. Contracts are limited only where
    the administrator says so: None is no limit.
    """

    handles: int = 256
    flows: int = 16_384
    # One socket may serve many peers: a conference server holds one destination for each.
    destinations_per_flow: int = 16_384
    tracked_hosts: int = 1_024
    pending_operations: int = 4_096
    # A quarter of what the kernel's tables have room for (`openqwave.enforcement.wishes`), so that
    # one program alone does not have others refused.
    destinations: int = 32_768
    # Of all processes of a user: half of what the tables have room for, so that nobody alone, with
    # however many programs, has others refused.
    flows_per_user: int = 32_768
    destinations_per_user: int = 65_536
    # Programs of a user that are spoken for (`qwave run`), each of which has a cgroup.
    runs_per_user: int = 256
    # What contracts may hold together: those of a user, those towards one far host, as a rate and
    # as a share of what its path carries, and those that leave by one interface, of its speed;
    # shares are of a million.
    contracts_per_user_bps: int | None = None
    contracts_per_host_bps: int | None = None
    contracts_per_host_ppm: int | None = None
    contracts_per_interface_ppm: int | None = None

    @property
    def are_for_paths(self) -> bool:
        """Is anything limited of hosts or interfaces?"""
        return not (
            self.contracts_per_host_bps is None
            and self.contracts_per_host_ppm is None
            and self.contracts_per_interface_ppm is None
        )


@dataclass(frozen=True, slots=True)
class Experiments:
    """How paths may be measured.

    Attributes:
        share_ppm: The part of a path's capacity that experiments take on average, of a million.
        most_bps: And the most, whatever the capacity.
        burst_bytes: The most that leaves at once.
        allowed: Networks beyond the link whose hosts may be measured, in CIDR notation.
        forbidden: Networks to which no rate is granted at all.
        estimate_age_ns: What is older is as if unknown.
        answer_ns: How long a call waits for experiments.
        warm_ns: How long experiments go on after the last interest.
    """

    # The contract's figures (section 5).
    share_ppm: int = 10_000
    most_bps: int = 1_000_000
    burst_bytes: int = 100_000
    allowed: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    # Six reports of the slowest pace: one that does not come is no reason to know nothing.
    estimate_age_ns: int = 30 * _NS_PER_S
    answer_ns: int = 2 * _NS_PER_S
    # Two minutes cover the restart of a program.
    warm_ns: int = 120 * _NS_PER_S


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything an administrator decides about flows."""

    marks: Mapping[TrafficType, Marks | None] = field(default_factory=lambda: WINDOWS_MARKS)
    # 64 kbit/s: a voice call, or the signalling of anything larger.
    default_minimum_bps: int = 64_000
    # Debian's group for people who may configure networks; Windows has "Network
    # Configuration Operators".
    operators_group: str = "netdev"
    limits: Limits = Limits()
    experiments: Experiments = Experiments()
    # Marks above best effort are for flows with a contract only. Windows asks for that where its
    # administrator does, and not by itself: programs that only mark would get nothing.
    priority_needs_contract: bool = False
    # For programs that ask for nothing themselves, in the order in which they stand.
    rules: tuple[Rule, ...] = ()

    def dscp_of(self, traffic_type: TrafficType) -> int | None:
        """The code point of a traffic type, or None where packets stay untouched."""
        marks = self.marks[traffic_type]
        return None if marks is None else marks.dscp

    def pcp_of(self, traffic_type: TrafficType) -> int | None:
        """The 802.1p priority of a traffic type, or None where packets stay untouched."""
        marks = self.marks[traffic_type]
        return None if marks is None else marks.pcp

    def withholds(self, traffic_type: TrafficType) -> bool:
        """Does a flow get the marks of a type only while it has a contract?"""
        return (
            self.priority_needs_contract
            and traffic_type not in _MODEST_TYPES
            and self.marks[traffic_type] is not None
        )

"""What leads to a flow's slot, and what stands there, as the service remembers it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import takewhile
from operator import is_
from typing import TYPE_CHECKING, Final

from openqwave.enforcement.bpf.words import BY_FQ, BY_LEAF, MARKS, METERS
from openqwave.enforcement.shaping.queues import DepartureTimes
from openqwave.enforcement.shaping.shapers import Leaf
from openqwave.model.flow import UNTOUCHED, Treatment
from openqwave.model.queues import hop_to
from openqwave.model.value import value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from openqwave.enforcement.shaping.shapers import Shaped
    from openqwave.model.endpoint import Endpoint
    from openqwave.model.queues import Hop
    from openqwave.subsystem.effects import SocketPlan

# How exact rates are kept: 1 in 80 at 100 Gbit/s, and whole bytes.
_ROUNDING: Final = 80
_BITS: Final = 8


@value
class Ways:
    """What leads from a socket to slots.

    Attributes:
        default: Where all goes that has no entry of its own; None for nowhere.
        destinations: By slot, the destinations whose packets go there.
        peers: To whom it sends what goes where all goes.
        interface: Index of the interface that it is bound to; 0 for none.
    """

    default: int | None
    destinations: Mapping[int, tuple[Endpoint, ...]]
    peers: tuple[Endpoint, ...] = ()
    interface: int = 0

    def slots(self) -> set[int]:
        """All that it leads to."""
        return set(self.destinations) if self.default is None else {self.default}

    def ends(self, slot: int) -> tuple[Endpoint, ...]:
        """To whom it sends what goes to a slot."""
        return self.peers if self.default == slot else self.destinations.get(slot, ())


NOWHERE: Final = Ways(None, {})


@dataclass(slots=True)
class Flow:
    """A flow's slot.

    Attributes:
        flow_id: The flow.
        slot: Its number.
        treatment: What stands there; None for nothing yet.
        shaped: How the queues hold it to its rate; None where they do not.
        unshaped: Why they do not any more; empty where they do, or nobody wants it.
        sockets: The cookies of those that lead there.
        hops: Whereto they send, and how often it is named.
    """

    flow_id: int
    slot: int
    treatment: Treatment | None = None
    shaped: Shaped | None = None
    unshaped: str = ""
    sockets: set[int] = field(default_factory=set)
    hops: dict[Hop, int] = field(default_factory=dict)

    @property
    def is_delayed(self) -> bool:
        """Is what is above its rate to wait?"""
        wanted = self.treatment or UNTOUCHED
        return wanted.rate_bps is not None and not wanted.excess_is_remarked

    def count(self, moves: Mapping[Hop, int]) -> None:
        """Note by how much more, or less, hops are named."""
        for hop, more in moves.items():
            named = self.hops.get(hop, 0) + more
            if named:
                self.hops[hop] = named
            else:
                self.hops.pop(hop, None)


def moves(
    ends: tuple[Endpoint, ...], bound: int, others: tuple[Endpoint, ...], other_bound: int
) -> dict[Hop, int]:
    """By how much more, or less, hops are named after one socket's destinations have changed.

    Args:
        ends: To whom it sends.
        bound: The interface that it is bound to; 0 for none.
        others: To whom it is to send.
        other_bound: The interface that it is bound to then.
    """
    gone, new = ends, others
    if bound == other_bound:
        gone, new = _middles(ends, others)
    counts: dict[Hop, int] = {}
    for changed, interface, step in ((gone, bound, -1), (new, other_bound, 1)):
        for end in changed:
            hop = hop_to(end, interface)
            counts[hop] = counts.get(hop, 0) + step
    return counts


def changed_hops(
    flow: Flow, plans: tuple[SocketPlan, ...], held: Mapping[int, Ways]
) -> tuple[list[Hop], set[Hop]]:
    """The hops that a flow comes to have by some plans, and those that it loses.

    Args:
        flow: As it is before.
        plans: Of sockets that are in it, or others.
        held: What leads from sockets before, by cookie.
    """
    named: dict[Hop, int] = {}
    for plan in plans:
        ways = held.get(plan.cookie, NOWHERE)
        mine = (each.destinations for each in plan.shares if each.flow_id == flow.flow_id)
        moved = moves(ways.ends(flow.slot), ways.interface, next(mine, ()), plan.interface)
        for hop, more in moved.items():
            named[hop] = named.get(hop, flow.hops.get(hop, 0)) + more
    new = [hop for hop, count in named.items() if count and hop not in flow.hops]
    return new, {hop for hop, count in named.items() if not count and hop in flow.hops}


def differing(one: Ways, other: Ways) -> dict[Endpoint, int]:
    """Where destinations lead by one, of the slots that the other does not list alike.

    One that comes or goes costs no look at each of thousands: what both lists begin and end with is
    left out.
    """
    return {
        end: slot
        for slot, ends in one.destinations.items()
        for end in _middles(ends, other.destinations.get(slot, ()))[0]
    }


def _middles(
    ends: tuple[Endpoint, ...], others: tuple[Endpoint, ...]
) -> tuple[tuple[Endpoint, ...], tuple[Endpoint, ...]]:
    """What either list has between their common beginning and their common end."""
    shorter = min(len(ends), len(others))
    if ends[:shorter] == others[:shorter]:
        # The usual change, one more at the end, is found without a step of Python's for each.
        return ends[shorter:], others[shorter:]
    first = _length_alike(ends, others)
    last = min(_length_alike(reversed(ends), reversed(others)), shorter - first)
    return ends[first : len(ends) - last], others[first : len(others) - last]


def _length_alike(one: Iterable[Endpoint], other: Iterable[Endpoint]) -> int:
    return sum(takewhile(bool, map(is_, one, other)))


def as_asked(found: Treatment, flow: Flow, held_bps: Mapping[int, int]) -> Treatment:
    """What stands in the kernel, in the words in which it was asked for.

    Args:
        found: What the program does.
        flow: Whose packets.
        held_bps: What the queues hold flows to.
    """
    asked = flow.treatment or UNTOUCHED
    rate_bps = found.rate_bps
    if not found.excess_is_remarked:
        rate_bps = held_bps.get(flow.flow_id)
    if rate_bps is not None and asked.rate_bps is not None:
        # Kept as the time that a byte takes, or as whole bytes per second.
        is_near = abs(rate_bps - asked.rate_bps) <= asked.rate_bps / _ROUNDING + _BITS
        rate_bps = asked.rate_bps if is_near else rate_bps
    priority = found.queue_priority
    if isinstance(flow.shaped, Leaf) and priority == flow.shaped.classid:
        priority = asked.queue_priority
    return replace(found, rate_bps=rate_bps, queue_priority=priority)


def explained(flow: Flow) -> tuple[str, ...]:
    """What is done to a flow's packets, in parts of a sentence; nothing for nothing."""
    treatment = flow.treatment or UNTOUCHED
    if treatment.dscp is None and treatment.rate_bps is None:
        return ()
    match flow.shaped:
        case DepartureTimes():
            how = BY_FQ
        case Leaf():
            how = BY_LEAF
        case _ if flow.unshaped:
            how = f"and does not hold the flow to its rate: {flow.unshaped}"
        case _ if treatment.excess_is_remarked:
            how = METERS
        case _:
            return (MARKS,)
    return MARKS, how

"""What leads to a flow's slot, and what stands there, as the service remembers it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import takewhile
from operator import is_
from typing import TYPE_CHECKING, Final

from openqwave.enforcement.shaping.queues import DepartureTimes
from openqwave.enforcement.shaping.shapers import Leaf
from openqwave.model.flow import UNTOUCHED, Treatment
from openqwave.model.value import value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from openqwave.enforcement.shaping.shapers import Shaped
    from openqwave.model.endpoint import Endpoint

_MARKS: Final = "a program at the exits of interfaces marks by socket and destination"
COUNTS: Final = "a program at the exits of interfaces counts, and changes nothing"
_METERS: Final = "and marks otherwise what is above the rate"
_BY_FQ: Final = "and gives packets departure times, for which the fq queue holds them back"
_BY_LEAF: Final = "and puts packets in a queue that holds them to the rate"

# How exact rates are kept: 1 in 80 at 100 Gbit/s, and whole bytes.
_ROUNDING: Final = 80
_BITS: Final = 8


@value
class Ways:
    """What leads from a socket to slots.

    Attributes:
        default: Where all goes that has no entry of its own; None for nowhere.
        destinations: By slot, the destinations whose packets go there.
    """

    default: int | None
    destinations: Mapping[int, tuple[Endpoint, ...]]

    def slots(self) -> set[int]:
        """All that it leads to."""
        return set(self.destinations) if self.default is None else {self.default}


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
        sockets: By the cookie of those that lead there, to whom they send.
    """

    flow_id: int
    slot: int
    treatment: Treatment | None = None
    shaped: Shaped | None = None
    unshaped: str = ""
    sockets: dict[int, tuple[Endpoint, ...]] = field(default_factory=dict)

    @property
    def is_delayed(self) -> bool:
        """Is what is above its rate to wait?"""
        wanted = self.treatment or UNTOUCHED
        return wanted.rate_bps is not None and not wanted.excess_is_remarked


def together(sockets: Mapping[int, tuple[Endpoint, ...]]) -> tuple[Endpoint, ...]:
    """All destinations, each once."""
    return tuple({end: None for ends in sockets.values() for end in ends})


def differing(one: Ways, other: Ways) -> dict[Endpoint, int]:
    """Where destinations lead by one, of the slots that the other does not list alike.

    One that comes or goes costs no look at each of thousands: what both lists begin and end with is
    left out.
    """
    return {
        end: slot
        for slot, ends in one.destinations.items()
        for end in _middle(ends, other.destinations.get(slot, ()))
    }


def _middle(ends: tuple[Endpoint, ...], others: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """What is between the common beginning of two lists and their common end."""
    shorter = min(len(ends), len(others))
    first = _length_alike(ends, others)
    last = min(_length_alike(reversed(ends), reversed(others)), shorter - first)
    return ends[first : len(ends) - last]


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
            how = _BY_FQ
        case Leaf():
            how = _BY_LEAF
        case _ if flow.unshaped:
            how = f"and does not hold the flow to its rate: {flow.unshaped}"
        case _ if treatment.excess_is_remarked:
            how = _METERS
        case _:
            return (_MARKS,)
    return _MARKS, how

"""One flow: which sockets, what was asked of it, and what follows for its packets.

What marks a flow's packets is a small state machine, kept as a table:

    UNADMITTED   adaptive, no rate admitted yet: nothing changes on the wire
    BY_TYPE      the policy's marks for the traffic type
    BY_DSCP      one exact code point
    ENDED        a rate of 0 ended shaping and marking, until a type or rate is set

Where policy wants a contract before priority, the marks of a type above best effort are withheld
from a flow without one. That is no state of the machine, so that a policy that changes finds every
flow where it would have been. An exact code point is not withheld: it has a right of its own.

A contract that only shapes leaves packets unmarked whatever the state (the SDK header's
word against the web page's). One that re-marks what is above its rate gives such packets DSCP 0,
and 802.1p 0 where the others have a tag.

Where packets are marked, they also get a priority tag (802.1p) if the flow is adaptive and its
path was shown to carry tags; which paths were is for `paths` to say.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING

from openqwave.admission.policy import Policy, queue_priority
from openqwave.model.flow import (
    UNTOUCHED,
    Contract,
    PacketPriority,
    Shaping,
    TrafficType,
    Treatment,
)
from openqwave.model.value import value

if TYPE_CHECKING:
    from openqwave.admission.ledger import Quote
    from openqwave.model.endpoint import Endpoint
    from openqwave.model.flow import Transport


class Marking(IntEnum):
    """Where a flow's marks come from."""

    UNADMITTED = 0
    BY_TYPE = 1
    BY_DSCP = 2
    ENDED = 3


# Nothing changes on the wire.
_UNTOUCHED = frozenset((Marking.UNADMITTED, Marking.ENDED))


class MarkingInput(IntEnum):
    """What can change where the marks come from."""

    SET_TYPE = 0
    SET_DSCP = 1
    SET_RATE = 2
    END_CONTRACT = 3


# Adaptive flows are refused SET_DSCP before this table is asked.
MARKING_TABLE: dict[tuple[Marking, MarkingInput], Marking] = {
    (Marking.BY_TYPE, MarkingInput.SET_TYPE): Marking.BY_TYPE,
    (Marking.BY_TYPE, MarkingInput.SET_DSCP): Marking.BY_DSCP,
    (Marking.BY_TYPE, MarkingInput.SET_RATE): Marking.BY_TYPE,
    (Marking.BY_TYPE, MarkingInput.END_CONTRACT): Marking.ENDED,
    (Marking.BY_DSCP, MarkingInput.SET_TYPE): Marking.BY_TYPE,
    (Marking.BY_DSCP, MarkingInput.SET_DSCP): Marking.BY_DSCP,
    (Marking.BY_DSCP, MarkingInput.SET_RATE): Marking.BY_DSCP,
    (Marking.BY_DSCP, MarkingInput.END_CONTRACT): Marking.ENDED,
    (Marking.ENDED, MarkingInput.SET_TYPE): Marking.BY_TYPE,
    (Marking.ENDED, MarkingInput.SET_DSCP): Marking.BY_DSCP,
    (Marking.ENDED, MarkingInput.SET_RATE): Marking.BY_TYPE,
    (Marking.ENDED, MarkingInput.END_CONTRACT): Marking.ENDED,
    (Marking.UNADMITTED, MarkingInput.SET_TYPE): Marking.UNADMITTED,
    (Marking.UNADMITTED, MarkingInput.SET_RATE): Marking.BY_TYPE,
    (Marking.UNADMITTED, MarkingInput.END_CONTRACT): Marking.UNADMITTED,
}


@cache
def _marked(dscp: int, pcp: int | None) -> Treatment:
    """Marks and nothing else: one of a few hundred values, made once."""
    return Treatment(dscp, queue_priority(dscp), pcp=pcp)


@value
class Settings:
    """All that was asked of a flow and is in force."""

    traffic_type: TrafficType
    marking: Marking
    dscp: int | None = None
    contract: Contract | None = None

    def with_type(self, traffic_type: TrafficType) -> Settings:
        """A new type cancels an exact DSCP; an admitted rate stays."""
        marking = MARKING_TABLE[self.marking, MarkingInput.SET_TYPE]
        if self.contract is None:
            return plain_settings(traffic_type, marking)
        return Settings(traffic_type, marking, None, self.contract)

    def with_dscp(self, dscp: int) -> Settings:
        """One exact code point; the type stays for the day the DSCP is cancelled."""
        marking = MARKING_TABLE[self.marking, MarkingInput.SET_DSCP]
        return replace(self, marking=marking, dscp=dscp)

    def with_contract(self, contract: Contract) -> Settings:
        """A granted rate."""
        marking = MARKING_TABLE[self.marking, MarkingInput.SET_RATE]
        return replace(self, marking=marking, contract=contract)

    def without_contract(self, *, is_adaptive: bool) -> Settings:
        """Rate 0: no shaping, no marking."""
        marking = MARKING_TABLE[self.marking, MarkingInput.END_CONTRACT]
        if is_adaptive:
            # With its admission gone an adaptive flow is where it began.
            marking = Marking.UNADMITTED
        return Settings(self.traffic_type, marking)

    def is_withheld(self, policy: Policy) -> bool:
        """Would the packets have marks if there were a contract?"""
        return (
            self.contract is None
            and self.marking is Marking.BY_TYPE
            and policy.withholds(self.traffic_type)
        )

    def treatment(self, policy: Policy, *, carries_tags: bool = False) -> Treatment:
        """What the kernel must do with the packets.

        Args:
            policy: What has which marks.
            carries_tags: The flow's path was shown to carry 802.1p tags.
        """
        if self.marking in _UNTOUCHED:
            return UNTOUCHED
        contract = self.contract
        if contract is None and policy.priority_needs_contract and self.is_withheld(policy):
            return UNTOUCHED
        dscp = self.dscp if self.marking is Marking.BY_DSCP else policy.dscp_of(self.traffic_type)
        pcp = policy.pcp_of(self.traffic_type) if carries_tags else None
        if contract is None:
            return UNTOUCHED if dscp is None else _marked(dscp, pcp)
        if contract.shaping is Shaping.SHAPE_ONLY:
            dscp = pcp = None
        return Treatment(
            dscp,
            None if dscp is None else queue_priority(dscp),
            None if contract.is_self_paced else contract.rate_bps,
            contract.shaping is Shaping.USE_NON_CONFORMANT_MARKINGS,
            pcp,
        )


@cache
def plain_settings(traffic_type: TrafficType, marking: Marking) -> Settings:
    """Settings without a DSCP or a contract: one of a few dozen values, made once."""
    return Settings(traffic_type, marking)


@dataclass(slots=True, eq=False)
class Flow:
    """A flow as the engine keeps it.

    Attributes:
        flow_id: Its id; never 0.
        handle_id: The handle that owns it.
        owner: The process that owns the handle.
        is_adaptive: Admitted against its path; one socket, one destination.
        settings: What is in force.
        treatment: What follows for its packets.
        sockets: For each socket (by cookie) its destinations in the order they came, each with
            the transport that leads there.
        host: The far end of an adaptive flow's path, from its first socket on.
        quote: What was last said to be free for it, and is honoured for a moment.
        is_untagged: No mechanism puts the tags of its treatment on its packets.
    """

    flow_id: int
    handle_id: int
    owner: int
    is_adaptive: bool
    settings: Settings
    treatment: Treatment
    sockets: dict[int, dict[Endpoint, Transport]] = field(default_factory=dict)
    host: Endpoint | None = None
    quote: Quote | None = None
    is_untagged: bool = False

    @property
    def held_bps(self) -> int:
        """The contract's rate; 0 without one."""
        contract = self.settings.contract
        return 0 if contract is None else contract.rate_bps

    @property
    def marks(self) -> PacketPriority:
        """What its packets really carry; those above its contract, if any are told apart, zeros."""
        treatment = self.treatment
        pcp = 0 if treatment.pcp is None or self.is_untagged else treatment.pcp
        return PacketPriority(treatment.dscp or 0, 0, pcp, 0)

    def path_host(self) -> Endpoint:
        """The far end of an adaptive flow's path."""
        if self.host is None:
            raise RuntimeError("a flow without a path was asked for its path")
        return self.host

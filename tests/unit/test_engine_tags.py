"""Which flows get 802.1p tags: "only where all three hold" (qos2-semantics, section 2)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from openqwave.admission.policy import Marks, Policy
from openqwave.model.errors import Refusal
from openqwave.model.estimates import PathView, Unmeasurable
from openqwave.model.flow import PacketPriority, Shaping, TrafficType, Treatment
from openqwave.model.path import LinkType, PathFacts
from openqwave.subsystem import requests as rq
from openqwave.subsystem.effects import Applied, SocketPlan
from tests.unit.driven import NO_MECHANISM, A, B, Driven, Mechanism, query, rate, view

if TYPE_CHECKING:
    from openqwave.subsystem.requests import Found

ON_LINK = PathFacts(A.host(), 2, "eth0", b"", b"", 1500, LinkType.WIRED)
PLENTY = view(available_bps=100_000_000)
TAGS, NO_TAGS = replace(PLENTY, carries_tags=True), replace(PLENTY, carries_tags=False)
VOICE, TAGGED = Treatment(56, 6, 1_000), Treatment(56, 6, 1_000, pcp=7)


class Untagging(Mechanism):
    """A mechanism without tags."""

    def apply(self, plans: tuple[SocketPlan, ...]) -> Applied | Refusal:  # type: ignore[override]  # as its base
        outcome = super().apply(plans)
        if isinstance(outcome, Refusal):
            return outcome
        shares = [share for plan in plans for share in plan.shares]
        wanted = [share.flow_id for share in shares if share.treatment.pcp is not None]
        return Applied(outcome.gone, frozenset(wanted))


class Tagged(Driven):
    """One adaptive flow with a granted rate, on a way of which something was seen."""

    def __init__(
        self,
        seen: PathView = TAGS,
        way: PathFacts = ON_LINK,
        mechanism: Mechanism | None = None,
        policy: Policy | None = None,
    ) -> None:
        super().__init__(policy)
        self.mechanism = mechanism or self.mechanism
        self.handle = self.open()
        self.flow_id = self.flow(self.handle, is_adaptive=True)
        self.find(way)
        self.see(A, seen)
        self.grant(self.handle, rate(self.flow_id, 1_000))

    def find(self, way: Found) -> None:
        self.carry_out(self.engine.receive_path(A, way, now_ns=self.now_ns))

    def marks(self) -> object:
        return self.grant(self.handle, query(self.flow_id, rq.Question.PACKET_PRIORITY))


def test_tags_where_all_three_hold() -> None:
    driven = Tagged()
    assert driven.treatment() == TAGGED
    assert driven.marks() == PacketPriority(56, 0, 7, 0)


@pytest.mark.parametrize(
    ("seen", "way"),
    [
        (PLENTY, ON_LINK),
        (NO_TAGS, ON_LINK),
        (TAGS, replace(ON_LINK, gateway=b"\x0a\0\0\1")),
        (TAGS, replace(ON_LINK, link_type=LinkType.WIRELESS)),
        (TAGS, replace(ON_LINK, link_type=LinkType.LOOPBACK)),
        (TAGS, replace(ON_LINK, link_type=LinkType.TUNNEL)),
    ],
    ids=["not tried", "not carried", "over a router", "Wi-Fi", "loopback", "a tunnel"],
)
def test_no_tags_otherwise(seen: PathView, way: PathFacts) -> None:
    driven = Tagged(seen, way)
    assert driven.treatment() == VOICE
    assert driven.marks() == PacketPriority(56, 0, 0, 0)


def test_a_flow_that_is_not_adaptive_gets_none() -> None:
    driven = Tagged()
    driven.flow(driven.handle, 2, A)
    assert driven.treatment(2) == Treatment(56, 6)


def test_a_path_to_another_host_proves_nothing() -> None:
    driven = Tagged(PLENTY)
    driven.flow(driven.handle, 2, B, is_adaptive=True)
    driven.carry_out(
        driven.engine.receive_path(B, replace(ON_LINK, host=B.host()), now_ns=driven.now_ns)
    )
    driven.see(B, TAGS)
    assert driven.treatment() == VOICE


def test_nothing_is_tagged_before_a_rate_is_admitted() -> None:
    driven = Driven()
    handle = driven.open()
    driven.flow(handle, is_adaptive=True)
    driven.carry_out(driven.engine.receive_path(A, ON_LINK, now_ns=driven.now_ns))
    driven.see(A, TAGS)
    assert driven.treatment() == Treatment()


def test_only_shaped_packets_go_without() -> None:
    driven = Tagged()
    driven.grant(driven.handle, rate(driven.flow_id, 1_000, Shaping.SHAPE_ONLY))
    assert driven.treatment() == Treatment(rate_bps=1_000)


def test_excess_keeps_a_tag_of_priority_0() -> None:
    driven = Tagged()
    driven.grant(driven.handle, rate(driven.flow_id, 1_000, Shaping.USE_NON_CONFORMANT_MARKINGS))
    assert driven.treatment() == Treatment(56, 6, 1_000, excess_is_remarked=True, pcp=7)
    # "A non-conformant packet gets DSCP 0 and 802.1p 0."
    assert driven.marks() == PacketPriority(56, 0, 7, 0)


def test_the_priority_follows_type_and_policy() -> None:
    driven = Tagged()
    driven.grant(driven.handle, rq.SetTrafficType(driven.flow_id, TrafficType.BACKGROUND))
    assert driven.treatment() == Treatment(8, 2, 1_000, pcp=2)
    policy = Policy(marks={kind: Marks(46, 3) for kind in TrafficType})
    driven.carry_out(driven.engine.receive_policy(policy, now_ns=driven.now_ns))
    assert driven.treatment() == Treatment(46, 6, 1_000, pcp=3)


# What ends a proof, and what is left of the flow then.
ENDS = {
    "the route check says no": lambda it: it.see(A, NO_TAGS),
    "it was not tried again": lambda it: it.see(A, PLENTY),
    "nobody can measure": lambda it: it.see(A, None),
    "another way": lambda it: it.find(replace(ON_LINK, interface=3)),
    "a router came in between": lambda it: it.find(replace(ON_LINK, gateway=b"\x0a\0\0\1")),
    "the link became wireless": lambda it: it.find(replace(ON_LINK, link_type=LinkType.WIRELESS)),
    "trouble on the way": lambda it: it.find(NO_MECHANISM),
    "not to be measured any more": lambda it: it.find(Unmeasurable("policy")),
    "the experiments ended": lambda it: it.carry_out(
        it.engine.receive_experiments_ended(A, NO_MECHANISM, now_ns=it.now_ns)
    ),
}


@pytest.mark.parametrize("why", ENDS)
def test_what_ends_the_proof(why: str) -> None:
    driven = Tagged()
    ENDS[why](driven)
    assert driven.treatment() == VOICE
    assert driven.marks() == PacketPriority(56, 0, 0, 0)
    assert len(driven.mechanism.applied) == 3


@pytest.mark.parametrize("why", ["trouble on the way", "the experiments ended"])
def test_experiments_that_begin_again_prove_it_again(why: str) -> None:
    driven = Tagged()
    ENDS[why](driven)
    driven.wait(2_000_000_000)
    driven.find(ON_LINK)
    # They run, and the numbers of before still count; the proof of before does not.
    assert driven.treatment() == VOICE
    driven.see(A, TAGS)
    assert driven.treatment() == TAGGED


def test_a_verdict_that_comes_late_changes_the_flows() -> None:
    driven = Tagged(PLENTY)
    other = driven.flow(driven.handle, 2, A, TrafficType.AUDIO_VIDEO, is_adaptive=True)
    driven.grant(driven.handle, rate(other, 2_000))
    driven.see(A, TAGS)
    assert (driven.treatment(1), driven.treatment(2)) == (TAGGED, Treatment(40, 6, 2_000, pcp=5))
    # Both at once, and nothing the second time.
    count = len(driven.mechanism.applied)
    assert {plan.cookie for plan in driven.mechanism.applied[-1]} == {1, 2}
    driven.see(A, TAGS)
    assert len(driven.mechanism.applied) == count


def test_a_refused_change_leaves_the_flow_as_it_is() -> None:
    driven = Tagged(PLENTY)
    driven.mechanism.refusals.append(NO_MECHANISM)
    driven.see(A, TAGS)
    assert driven.treatment() == VOICE
    assert driven.marks() == PacketPriority(56, 0, 0, 0)
    # And is asked for again with the next change of the flow.
    driven.grant(driven.handle, rate(driven.flow_id, 1_000))
    assert driven.treatment() == TAGGED


def test_marks_say_what_is_really_applied() -> None:
    # "QOSQueryPacketPriority reports what is really applied."
    driven = Tagged(mechanism=Untagging())
    assert driven.treatment() == TAGGED
    assert driven.marks() == PacketPriority(56, 0, 0, 0)
    driven.mechanism = Mechanism()
    driven.grant(driven.handle, rate(driven.flow_id, 1_000))
    assert driven.marks() == PacketPriority(56, 0, 7, 0)


def test_nothing_is_kept_of_a_path_that_ended() -> None:
    driven = Tagged()
    driven.interrupt()
    driven.grant(driven.handle, rq.CloseHandle())
    driven.engine.take_lost()
    assert driven.engine.entry_count == 0

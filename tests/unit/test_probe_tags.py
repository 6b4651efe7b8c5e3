"""Tags for the probes that find out about tags, and what may be concluded from them."""

from __future__ import annotations

import pytest

from openqwave.admission.policy import Policy
from openqwave.drivers.sockets import SocketDirectory
from openqwave.model.estimates import Congestion, PathReport
from openqwave.model.flow import Transport, Treatment
from openqwave.probing.tracking import Estimated
from openqwave.runtime.probetags import ProbeTags
from openqwave.runtime.runtime import Runtime
from openqwave.subsystem.effects import Applied, Share, SocketPlan
from openqwave.subsystem.findings import view_of
from tests.unit.driven import NO_MECHANISM, A, Mechanism
from tests.unit.surveying_stage import UNKNOWN

# MS-QLPB 3.1.1: "SHOULD be DSCP 0x28 (40, CS5) and 802.1p 5, if supported".
SHARE = Share(0, Treatment(40, 6, pcp=5), 1, (A,))
COOKIE, NAMESPACE, HERE, ELSEWHERE = 7, 4_026_531_840, 2, 3


class Tagging(Mechanism):
    """Tags at one interface; says of nothing else that it does."""

    outcome = Applied()

    def tags_at(self, interface: int) -> bool:
        return interface == HERE

    def apply(self, plans: tuple[SocketPlan, ...]) -> Applied | object:  # type: ignore[override]  # as its base
        done = super().apply(plans)
        return done if done != Applied() else self.outcome


def tags(mechanism: Mechanism, interface: int = HERE) -> ProbeTags:
    return ProbeTags(Runtime(Policy(), SocketDirectory(), mechanism), interface)


def test_probes_are_tagged_as_flows_are() -> None:
    mechanism = Tagging()
    probes = tags(mechanism)
    probes.tag(COOKIE, NAMESPACE, A)
    assert mechanism.plans == {COOKIE: SocketPlan(COOKIE, (SHARE,), Transport.UDP, NAMESPACE)}
    assert probes.were_tagged
    probes.untag(COOKIE)
    assert mechanism.plans == {}


def test_where_nothing_is_tagged_nothing_is_tried() -> None:
    mechanism = Tagging()
    probes = tags(mechanism, ELSEWHERE)
    probes.tag(COOKIE, NAMESPACE, A)
    probes.untag(COOKIE)
    assert (mechanism.applied, probes.were_tagged) == ([], False)


@pytest.mark.parametrize(
    "outcome", [Applied(frozenset({COOKIE})), Applied(untagged=frozenset({0})), NO_MECHANISM]
)
def test_what_did_not_become_of_it(outcome: object) -> None:
    mechanism = Tagging()
    mechanism.outcome = outcome  # type: ignore[assignment]  # a refusal among them
    probes = tags(mechanism)
    probes.tag(COOKIE, NAMESPACE, A)
    assert not probes.were_tagged


@pytest.mark.parametrize("supported", [True, False, None])
def test_probes_without_tags_say_nothing_of_tags(supported: bool | None) -> None:
    report = PathReport(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, supported, "wire")
    told = Estimated(report, 0, 0)
    assert view_of(told, Congestion()).carries_tags is None
    assert view_of(told, Congestion(), were_tagged=True).carries_tags is supported

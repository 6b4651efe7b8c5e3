"""Rules as claims: what they come to here, in which order, and why one is not carried out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_network
from typing import cast

import pytest

from openqwave.admission.policy import Policy
from openqwave.admission.rules import Conditions, Grant, Ports, Rule
from openqwave.drivers.grouptree import GroupTree
from openqwave.enforcement.claims import MOST_RULES, Claim, Executable, RuleClaim
from openqwave.model.flow import TrafficType, Transport, Treatment
from openqwave.service.programs import conditions
from openqwave.service.programs.conditions import HostNames
from openqwave.service.programs.ruling import Ruler, Ruling

INODES = {"/usr/bin/app": 7}
USERS = {"ann": frozenset({1_000})}


class Tree:
    """Cgroups by path, as a test has them."""

    def __init__(self, **groups: int) -> None:
        self.groups = {"/" + path.replace("__", "/"): number for path, number in groups.items()}

    def named(self, names: Iterable[str]) -> Mapping[str, Collection[str]]:
        return {
            name: {path for path in self.groups if path.rpartition("/")[2] == name}
            for name in names
        }

    def ids_of(self, path: str) -> frozenset[int]:
        return frozenset({self.groups[path]} if path in self.groups else ())


@pytest.fixture
def ruler(monkeypatch: pytest.MonkeyPatch) -> Ruler:
    monkeypatch.setattr(conditions, "_look_up", lambda name: USERS.get(name, frozenset()))

    def find(path: str) -> tuple[int | None, str]:
        return INODES.get(path), "" if path in INODES else f"there is no {path}"

    return Ruler(HostNames(find))


def rule(name: str, grant: Grant | None = None, **asked: object) -> Rule:
    return Rule(name, Conditions(**asked), grant or Grant(dscp=10), f"file:{name}")  # type: ignore[arg-type]  # each by its key


def ruling_of(
    ruler: Ruler, *rules: Rule, tree: Tree | None = None, no_programs: str = ""
) -> Ruling:
    return ruler.rule(Policy(rules=rules), cast("GroupTree | None", tree), no_programs)


def reasons(ruling: Ruling) -> dict[str, tuple[str, str]]:
    return {each.rule.name: (each.waits_for, each.obstacle) for each in ruling.states}


def test_every_condition(ruler: Ruler) -> None:
    network = ip_network("192.0.2.0/24")
    ports = Ports(5_000, 5_010)
    whole = rule(
        "whole",
        user="ann",
        program="/usr/bin/app",
        cgroup="/a",
        protocol=Transport.UDP,
        local=network,
        remote=network,
        local_ports=ports,
        remote_ports=ports,
    )
    ruling = ruling_of(ruler, whole, tree=Tree(a=3))
    assert ruling.claims == (
        RuleClaim(
            Claim(1, Treatment(10, 0)),
            frozenset({1_000}),
            frozenset({Executable("app", 7)}),
            frozenset({3}),
            Transport.UDP,
            network,
            network,
            ports,
            ports,
        ),
    )
    assert reasons(ruling) == {"whole": ("", "")}
    assert ruling.programs == {Executable("app", 7)}


def test_no_condition_asks_nothing(ruler: Ruler) -> None:
    assert ruling_of(ruler, rule("all")).claims == (RuleClaim(Claim(1, Treatment(10, 0))),)


@pytest.mark.parametrize(
    ("grant", "treatment", "may_delay"),
    [
        (Grant(dscp=46), Treatment(46, 6), False),
        (Grant(traffic_type=TrafficType.VOICE), Treatment(56, 6), False),
        (Grant(dscp=8, traffic_type=TrafficType.VOICE), Treatment(8, 2), False),
        (Grant(traffic_type=TrafficType.BEST_EFFORT), Treatment(), False),
        (Grant(rate_bps=5_000), Treatment(rate_bps=5_000), True),
        (Grant(dscp=0, rate_bps=5_000), Treatment(0, 0, 5_000), True),
    ],
)
def test_grants(ruler: Ruler, grant: Grant, treatment: Treatment, may_delay: bool) -> None:
    (claim,) = ruling_of(ruler, rule("one", grant)).claims
    assert claim.claim == Claim(1, treatment, may_delay)


def test_the_best_comes_first(ruler: Ruler) -> None:
    rules = (rule("all"), rule("app", program="app"), rule("ann", user="ann"))
    ruling = ruling_of(ruler, *rules)
    assert [each.rule.name for each in ruling.states] == ["ann", "app", "all"]
    assert [each.claim.claim_id for each in ruling.claims] == [3, 2, 1]


def test_a_rule_keeps_its_number_as_long_as_its_name(ruler: Ruler) -> None:
    first = ruling_of(ruler, rule("one"), rule("two", user="ann"))
    assert {each.rule.name: each.claim_id for each in first.states} == {"one": 1, "two": 2}
    second = ruling_of(ruler, rule("two", Grant(dscp=20)), rule("three"))
    assert {each.rule.name: each.claim_id for each in second.states} == {"two": 2, "three": 3}
    third = ruling_of(ruler, rule("one"))
    assert third.states[0].claim_id == 4


def test_what_is_not_there_is_waited_for(ruler: Ruler) -> None:
    ruling = ruling_of(
        ruler,
        rule("bob", user="bob"),
        rule("gone", program="/usr/bin/gone"),
        rule("unit", unit="a.service"),
        rule("both", unit="a.service", cgroup="/x"),
        rule("cgroup", cgroup="/y"),
        tree=Tree(),
    )
    assert ruling.claims == ()
    assert reasons(ruling) == {
        "bob": ("there is no user bob", ""),
        "gone": ("there is no /usr/bin/gone", ""),
        "unit": ("no unit a.service runs now", ""),
        "both": ("no unit a.service runs in /x now", ""),
        "cgroup": ("there is no cgroup /y now", ""),
    }


def test_what_cannot_be_had_is_said(ruler: Ruler) -> None:
    ruling = ruling_of(
        ruler,
        rule("app", program="app"),
        rule("unit", unit="a.service"),
        rule("cgroup", cgroup="/y"),
        rule("all"),
        no_programs="no BTF",
    )
    assert [each.claim.claim_id for each in ruling.claims] == [4]
    found = reasons(ruling)
    assert found.pop("app") == ("", "no BTF")
    assert found.pop("all") == ("", "")
    assert all("cgroup v2" in obstacle for _, obstacle in found.values())
    assert ruling.programs == set()


def test_no_more_than_there_is_room_for(ruler: Ruler) -> None:
    rules = [rule(f"{number}", local_ports=Ports(1, 1 + number)) for number in range(70)]
    ruling = ruling_of(ruler, *rules)
    assert len(ruling.claims) == MOST_RULES == 64
    # The narrower come first, so the widest are left out.
    left = {name for name, (_, obstacle) in reasons(ruling).items() if "64 rules" in obstacle}
    assert left == {f"{number}" for number in range(64, 70)}


def test_a_unit_at_two_depths_is_one_rule_with_one_number(ruler: Ruler) -> None:
    tree = Tree(**{"a.service": 1, "x__a.service": 2, "y__a.service": 3})
    deep = rule("deep", cgroup="/x")
    ruling = ruling_of(ruler, rule("unit", unit="a.service"), deep, tree=Tree(**{"a.service": 1}))
    assert [each.groups for each in ruling.claims] == [frozenset({1})]
    tree.groups["/x"] = 4
    ruling = ruling_of(ruler, rule("unit", unit="a.service"), deep, tree=tree)
    assert [(each.claim.claim_id, each.groups) for each in ruling.claims] == [
        (1, frozenset({2, 3})),
        (2, frozenset({4})),
        (1, frozenset({1})),
    ]
    assert reasons(ruling) == {"unit": ("", ""), "deep": ("", "")}

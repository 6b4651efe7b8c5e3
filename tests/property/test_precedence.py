"""The order of all rules has first, for any traffic, the one that holds for it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import accumulate

from hypothesis import given, settings
from hypothesis import strategies as st

from openqwave.admission.precedence import Placed, best_first
from openqwave.admission.rules import (
    Conditions,
    Grant,
    Ports,
    Program,
    Rule,
    Traffic,
    cgroup_depth,
    decide,
    mismatch,
)
from openqwave.model.flow import Transport

# Few words, so that much meets much; a unit may be in another of its name.
NAMES = ("a.slice", "b.service", "c.scope", "plain")
CGROUPS = st.lists(st.sampled_from(NAMES), max_size=4).map(lambda parts: "/" + "/".join(parts))
NETWORKS = st.sampled_from(["192.0.2.0/24", "192.0.2.1/32", "0.0.0.0/0"]).map(ip_network)
PORTS = st.sampled_from([Ports(1, 65_535), Ports(5_000, 5_010), Ports(5_004, 5_004)])
TRANSPORTS = st.sampled_from([Transport.TCP, Transport.UDP])


def maybe(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | strategy


RULES = st.lists(
    st.builds(
        Conditions,
        program=maybe(st.sampled_from(["app", "/usr/bin/app", "other"])),
        user=maybe(st.sampled_from(["ann", "1000", "bob"])),
        unit=maybe(st.sampled_from(NAMES[:3])),
        cgroup=maybe(CGROUPS),
        protocol=maybe(TRANSPORTS),
        local=maybe(NETWORKS),
        remote=maybe(NETWORKS),
        local_ports=maybe(PORTS),
        remote_ports=maybe(PORTS),
    ),
    max_size=8,
).map(lambda each: [Rule(f"rule {n}", one, Grant(dscp=n)) for n, one in enumerate(each)])
TRAFFIC = st.builds(
    Traffic,
    st.builds(
        Program,
        path=st.sampled_from(["/usr/bin/app", "/opt/app", "/usr/bin/other"]),
        user=st.sampled_from(["ann", "bob"]),
        uid=st.sampled_from([1000, 1001]),
        cgroup=CGROUPS,
    ).map(lambda program: replace(program, name=str(program.path).rpartition("/")[2])),
    TRANSPORTS,
    st.sampled_from(["192.0.2.1", "198.51.100.7"]).map(ip_address),
    st.sampled_from(["192.0.2.1", "192.0.2.9"]).map(ip_address),
    st.sampled_from([5_000, 5_004, 9]),
    st.sampled_from([5_000, 5_004, 9]),
)


def units_of(cgroups: list[str]) -> dict[str, set[str]]:
    """Where each unit is, in a tree that has these cgroups."""
    found: dict[str, set[str]] = {}
    for cgroup in cgroups:
        parts = [part for part in cgroup.split("/") if part]
        for path in accumulate(parts, lambda above, part: f"{above}/{part}"):
            found.setdefault(path.rpartition("/")[2], set()).add(f"/{path}")
    return found


def holds_for(placed: Placed, traffic: Traffic) -> bool:
    """Does traffic meet all that a rule asks, its place by the cgroups that were worked out?"""
    rest = replace(placed.rule.conditions, unit=None, cgroup=None)
    if mismatch(rest, traffic) is not None:
        return False
    if placed.cgroups is None:
        return True
    return any(cgroup_depth(each, traffic.program.cgroup) for each in placed.cgroups)


@settings(deadline=None, max_examples=500)
@given(RULES, TRAFFIC, st.lists(CGROUPS, max_size=4))
def test_the_first_that_matches_is_the_one_that_holds(
    rules: list[Rule], traffic: Traffic, others: list[str]
) -> None:
    cgroup = traffic.program.cgroup
    assert cgroup is not None
    order = best_first(rules, units_of([cgroup, *others]))
    first = next((placed.rule for placed in order if holds_for(placed, traffic)), None)
    assert first is decide(rules, traffic).winner


def rule(**conditions: object) -> Rule:
    return Rule(str(conditions), Conditions(**conditions), Grant(dscp=1))  # type: ignore[arg-type]  # each by its key


def test_a_unit_has_a_place_for_each_depth() -> None:
    units = {"b.service": {"/b.service", "/x/b.service", "/y/b.service", "/x/b.service/b.service"}}
    named, deep = rule(unit="b.service"), rule(cgroup="/x/y/z")
    order = best_first([named, deep], units)
    assert order == (
        Placed(deep, frozenset({"/x/y/z"})),
        Placed(named, frozenset({"/x/b.service/b.service"})),
        Placed(named, frozenset({"/x/b.service", "/y/b.service"})),
        Placed(named, frozenset({"/b.service"})),
    )


def test_a_unit_and_a_cgroup_are_both_asked_for() -> None:
    units = {"b.service": {"/x/b.service"}}
    for cgroup, place in (
        ("/x", "/x/b.service"),
        ("/x/", "/x/b.service"),
        ("/", "/x/b.service"),
        ("/x/b.service/deeper", "/x/b.service/deeper"),
    ):
        (placed,) = best_first([rule(unit="b.service", cgroup=cgroup)], units)
        assert placed.cgroups == frozenset({place})
    assert best_first([rule(unit="b.service", cgroup="/y")], units) == ()
    assert best_first([rule(unit="c.scope")], units) == ()


def test_of_equals_the_later_one_is_first() -> None:
    rules = [rule(user="ann"), rule(user="bob")]
    assert [placed.rule for placed in best_first(rules, {})] == rules[::-1]

"""Rules in the order in which they hold, before there is any traffic.

`openqwave.admission.rules.decide` compares the rules that are for some traffic. What carries rules
out for every packet wants one order for all of them, in which the first that matches is the same
one. Nearly all that counts stands in the rule itself; one thing does not. How deep a unit is shows
only where it is, so a rule that names one is placed once for each depth at which there are units of
that name, with the cgroups of that depth.

A rule that names a unit and a cgroup asks for both, which is the deeper one of the two if that is
below the other, and nothing otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from openqwave.admission.rules import Closeness, Program, closeness, unit_depth

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from openqwave.admission.rules import Conditions, Rule


@dataclass(frozen=True, slots=True)
class Placed:
    """A rule with its place in the order.

    Attributes:
        rule: It.
        cgroups: What its unit and its cgroup come to: traffic has to be of processes in or below
            one of these. None where it asks for neither.
    """

    rule: Rule
    cgroups: frozenset[str] | None = None


def best_first(rules: Sequence[Rule], units: Mapping[str, Collection[str]]) -> tuple[Placed, ...]:
    """The order in which rules hold: of those that are for some traffic, the first one does.

    Args:
        rules: In the order in which they stand.
        units: The cgroups of each unit that a rule names, as ``/proc/PID/cgroup`` has them. Rules
            about a unit that has none are for no traffic, and are left out.
    """
    found: list[tuple[Closeness, int, Placed]] = []
    for index, rule in enumerate(rules):
        conditions = rule.conditions
        if conditions.unit is None and conditions.cgroup is None:
            found.append((closeness(conditions, Program()), index, Placed(rule)))
            continue
        by_rank: dict[Closeness, set[str]] = {}
        for cgroup in _places(conditions, units):
            by_rank.setdefault(closeness(conditions, Program(cgroup=cgroup)), set()).add(cgroup)
        found += [(rank, index, Placed(rule, frozenset(each))) for rank, each in by_rank.items()]
    found.sort(key=lambda each: each[:2], reverse=True)
    return tuple(placed for _, _, placed in found)


def _places(conditions: Conditions, units: Mapping[str, Collection[str]]) -> Iterator[str]:
    """The cgroups that the conditions on a unit and a cgroup come to."""
    wanted = conditions.cgroup
    if conditions.unit is None:
        if wanted is not None:
            yield _plain(wanted)
        return
    of_users = conditions.user is not None
    for found in units.get(conditions.unit, ()):
        if not unit_depth(conditions.unit, found, of_users=of_users):
            continue
        if wanted is None or is_below(found, wanted):
            yield _plain(found)
        elif is_below(wanted, found):
            yield _plain(wanted)


def is_below(cgroup: str, above: str) -> bool:
    """Is a cgroup in another one, or that one itself?"""
    top = above.strip("/")
    return not top or f"{cgroup.strip('/')}/".startswith(f"{top}/")


def _plain(cgroup: str) -> str:
    """A cgroup as the kernel writes it."""
    return "/" + cgroup.strip("/")

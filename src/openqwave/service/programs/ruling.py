"""Rules of the policy as claims, the best first; and of each whether it is carried out, or why not.

What the kernel compares are numbers, so a rule that names what is not there now (a program, a unit,
a user) is for no traffic until it is. That, and what this host has no means for, is kept as each
rule's reason, because a rule that silently does nothing is worse than none.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from openqwave.admission.precedence import best_first
from openqwave.enforcement.claims import MOST_RULES, Claim, RuleClaim
from openqwave.service.programs.treatments import Wish, treatment_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from openqwave.admission.policy import Policy
    from openqwave.admission.precedence import Placed
    from openqwave.admission.rules import Rule
    from openqwave.drivers.grouptree import GroupTree
    from openqwave.enforcement.claims import Executable
    from openqwave.service.programs.conditions import HostNames

_TOO_MANY: Final = (
    f"{MOST_RULES} rules are carried out at most, and as many come before it; a unit that is at "
    "several depths counts for each"
)
_NO_GROUPS: Final = "this host has no unified hierarchy (cgroup v2), by which units are known"


@dataclass(frozen=True, slots=True)
class RuleState:
    """One rule, and what comes of it.

    Attributes:
        rule: It.
        claim_id: Its number for the kernel; stays as long as there is a rule of that name.
        wish: What it gives.
        waits_for: What is not there that it names, so that it is for no traffic now; else empty.
        obstacle: Why it cannot be carried out here; else empty.
    """

    rule: Rule
    claim_id: int
    wish: Wish
    waits_for: str = ""
    obstacle: str = ""


@dataclass(frozen=True, slots=True)
class Ruling:
    """All rules at one moment.

    Attributes:
        claims: What the kernel is to compare, the best first.
        states: Each rule, the best first; those for no traffic come at the end.
        programs: The executables that claims name.
    """

    claims: tuple[RuleClaim, ...] = ()
    states: tuple[RuleState, ...] = ()
    programs: frozenset[Executable] = frozenset()


class Ruler:
    """Makes claims of rules; see the module's text."""

    def __init__(self, names: HostNames, new_id: Callable[[], int] | None = None) -> None:
        """Begin without rules.

        Args:
            names: Looks users and programs up.
            new_id: Gives numbers of claims; its own when None.
        """
        self._names = names
        self._new_id = new_id or itertools.count(1).__next__
        self._ids: dict[str, int] = {}

    def rule(self, policy: Policy, tree: GroupTree | None, no_programs: str) -> Ruling:
        """What the rules of a policy come to now.

        Args:
            policy: It.
            tree: Where cgroups are; None where they are not known.
            no_programs: Why rules that name programs cannot be had; empty where they can.
        """
        rules = policy.rules
        self._ids = {rule.name: self._ids.get(rule.name) or self._new_id() for rule in rules}
        units = {rule.conditions.unit for rule in rules} - {None}
        named = {} if tree is None else tree.named(name for name in units if name is not None)
        claims: list[RuleClaim] = []
        states: dict[str, RuleState] = {}
        for placed in best_first(rules, named):
            rule = placed.rule
            made, state = self._claim(placed, policy, tree, no_programs)
            if made is not None and len(claims) == MOST_RULES:
                made, state = None, self._state(rule, obstacle=_TOO_MANY)
            if made is not None:
                claims.append(made)
            # A unit at several depths: one place that is in force is enough to be told so.
            before = states.get(rule.name)
            if before is None or (made is not None and before.waits_for):
                states[rule.name] = state
        for rule in rules:
            if rule.name not in states:
                reason = self._why_nowhere(rule, tree)
                states[rule.name] = (
                    self._state(rule, obstacle=reason)
                    if tree is None
                    else self._state(rule, waits_for=reason)
                )
        programs = frozenset(one for claim in claims for one in claim.programs or ())
        return Ruling(tuple(claims), tuple(states.values()), programs)

    def _claim(
        self, placed: Placed, policy: Policy, tree: GroupTree | None, no_programs: str
    ) -> tuple[RuleClaim | None, RuleState]:
        rule, conditions = placed.rule, placed.rule.conditions
        users = programs = groups = None
        if conditions.user is not None:
            users = self._names.users(conditions.user)
            if not users:
                return None, self._state(rule, waits_for=f"there is no user {conditions.user}")
        if conditions.program is not None:
            if no_programs:
                return None, self._state(rule, obstacle=no_programs)
            programs = self._names.programs(conditions.program)
            if not programs:
                why = self._names.why_missing(conditions.program)
                return None, self._state(rule, waits_for=why)
        if placed.cgroups is not None:
            if tree is None:
                return None, self._state(rule, obstacle=_NO_GROUPS)
            groups = frozenset(one for path in placed.cgroups for one in tree.ids_of(path))
            if not groups:
                return None, self._state(rule, waits_for=self._why_nowhere(rule, tree))
        state = self._state(rule)
        return (
            RuleClaim(
                claim=Claim(
                    state.claim_id,
                    treatment_of(state.wish, policy),
                    may_delay=state.wish.hold_back,
                ),
                users=users,
                programs=programs,
                groups=groups,
                protocol=conditions.protocol,
                local=conditions.local,
                remote=conditions.remote,
                local_ports=conditions.local_ports,
                remote_ports=conditions.remote_ports,
            ),
            state,
        )

    def _state(self, rule: Rule, *, waits_for: str = "", obstacle: str = "") -> RuleState:
        grant = rule.grant
        wish = Wish(
            grant.traffic_type, grant.dscp, grant.rate_bps, hold_back=grant.rate_bps is not None
        )
        return RuleState(rule, self._ids[rule.name], wish, waits_for, obstacle)

    def _why_nowhere(self, rule: Rule, tree: GroupTree | None) -> str:
        if tree is None:
            return _NO_GROUPS
        unit, cgroup = rule.conditions.unit, rule.conditions.cgroup
        if unit is None:
            return f"there is no cgroup {cgroup} now"
        if cgroup is None:
            return f"no unit {unit} runs now"
        return f"no unit {unit} runs in {cgroup} now"


def names_in(rules: Sequence[Rule]) -> tuple[set[str], set[str]]:
    """The users and the programs that rules name."""
    users = {user for each in rules if (user := each.conditions.user) is not None}
    programs = {program for each in rules if (program := each.conditions.program) is not None}
    return users, programs


def places_in(rules: Sequence[Rule]) -> tuple[frozenset[str], frozenset[str]]:
    """The units and the cgroups that rules name, these as the kernel writes them."""
    units = {unit for each in rules if (unit := each.conditions.unit) is not None}
    cgroups = {cgroup for each in rules if (cgroup := each.conditions.cgroup) is not None}
    return frozenset(units), frozenset("/" + each.strip("/") for each in cgroups)

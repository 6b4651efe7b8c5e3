"""What is no mistake in rules, and may not be what was meant."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from openqwave.admission.rules import Conditions, Rule


def doubts_about(rules: Sequence[Rule]) -> Iterator[tuple[str, str]]:
    """Where each doubt is, as ``FILE:LINE``, and what it is."""
    seen: dict[Conditions, Rule] = {}
    for rule in rules:
        same = seen.get(rule.conditions)
        if same is not None:
            yield (
                same.origin,
                f"rule {same.name!r} is for the same traffic as {rule.name!r} at {rule.origin}, "
                "which stands later and always holds",
            )
        seen[rule.conditions] = rule
        yield from ((rule.origin, f"rule {rule.name!r}: {each}") for each in _of_one(rule))


def _of_one(rule: Rule) -> Iterator[str]:
    program, user = rule.conditions.program, rule.conditions.user
    if program is not None and program.startswith("/"):
        real = os.path.realpath(program)
        if not os.path.lexists(program):
            yield f"there is no {program}"
        elif real != program:
            yield f"processes are known by the file itself, and {program} leads to {real}"
    if user is not None and not user.isdecimal():
        try:
            pwd.getpwnam(user)
        except KeyError:
            yield f"there is no user {user}"

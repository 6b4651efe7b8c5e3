"""Which rules are carried out now: asked of the service, where one runs.

Files say what is wanted. Whether the service has read them, and can do what they want, only the
service knows; so each rule of the files is compared with what the service lists, and what is not
the same there is not in force.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from openqwave.admission.precedence import is_below
from openqwave.cli.overview.words import clean, counted
from openqwave.client.programs import open_programs
from openqwave.model.errors import QosError
from openqwave.service.rulefiles import asks_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from openqwave.admission.policy import Policy
    from openqwave.admission.rules import Grant, Rule
    from openqwave.ipc.messages import ProgramRow

_RULE: Final = "rule"
_OTHERWISE: Final = (
    "the service that runs does not have it so; `systemctl reload qwaved` has it read its files"
)


@dataclass(frozen=True, slots=True)
class State:
    """How it stands with one rule.

    Attributes:
        is_in_force: The service carries it out.
        words: How, or why not.
    """

    is_in_force: bool
    words: str


@dataclass(frozen=True, slots=True)
class InForce:
    """What the service has.

    Attributes:
        no_service: Why it could not be asked; empty where it could.
        rows: Its rules, by name.
        runs: Programs that are run by `qwave run`, or attached to; those that this user may see.
    """

    no_service: str = ""
    rows: Mapping[str, ProgramRow] = field(default_factory=dict)
    runs: tuple[ProgramRow, ...] = ()

    def state_of(self, rule: Rule, policy: Policy) -> State:
        """How it stands with a rule of the files.

        Args:
            rule: It.
            policy: Of the same files, which has the marks of types.
        """
        if self.no_service:
            return State(False, f"no service carries it out: {self.no_service}")
        row = self.rows.get(rule.name)
        if row is None or not _is_same(rule, row, policy):
            return State(False, _OTHERWISE)
        if not row.backend:
            return State(False, clean(row.reason))
        reason = clean(row.reason)
        return State(True, clean(row.backend) + (f": {reason}" if reason else ""))

    def run_of(self, cgroup: str | None) -> ProgramRow | None:
        """The run that what is made in a cgroup belongs to, the innermost; None for none."""
        if cgroup is None:
            return None
        over = [row for row in self.runs if row.cgroup and is_below(cgroup, row.cgroup)]
        return max(over, key=lambda row: row.cgroup.count("/"), default=None)

    def lines_of(self, rules: Sequence[Rule], policy: Policy) -> Iterator[str]:
        """What is to be told of all rules of the files, in a few lines; nothing where none are."""
        if not rules:
            return
        if self.no_service:
            yield f"No rule is carried out now, because no service is to be had: {self.no_service}"
            return
        states = [(rule, self.state_of(rule, policy)) for rule in rules]
        for rule, state in states:
            if not state.is_in_force:
                yield f"{rule.origin}: rule {rule.name!r} is not in force: {state.words}"
        count = sum(state.is_in_force for _, state in states)
        yield f"In force: {count} of {counted(len(rules), 'rule')}"


def ask() -> InForce:
    """Ask the service; that there is none is an answer, too."""
    try:
        with open_programs() as programs:
            rows = programs.programs()
    except QosError as error:
        return InForce(no_service=error.detail)
    rules = {row.name: row for row in rows if row.kind == _RULE}
    return InForce(rows=rules, runs=tuple(row for row in rows if row.kind != _RULE))


def dscp_of(grant: Grant, policy: Policy) -> int | None:
    """The code point that a grant amounts to; None leaves packets as they are."""
    if grant.dscp is not None or grant.traffic_type is None:
        return grant.dscp
    return policy.dscp_of(grant.traffic_type)


def document_of(state: State) -> dict[str, Any]:
    """A state as JSON."""
    return {"in_force": state.is_in_force, "how": state.words}


def _is_same(rule: Rule, row: ProgramRow, policy: Policy) -> bool:
    grant = rule.grant
    return (row.asks, row.dscp, row.rate_bps) == (
        asks_of(rule),
        dscp_of(grant, policy),
        grant.rate_bps,
    )

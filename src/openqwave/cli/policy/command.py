"""`qwave policy check`, `show`, `explain`, in order: read the files, work it out, write it.

Whatever is wrong with the files is written to standard error, a line for each mistake.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from openqwave.admission.rules import decide
from openqwave.cli.overview.words import clean, counted
from openqwave.cli.policy import inforce
from openqwave.cli.policy.doubts import doubts_about
from openqwave.cli.policy.explaining import document_of, lines_of, rule_line
from openqwave.cli.policy.question import Question, look_up
from openqwave.cli.policy.values import values_of
from openqwave.drivers.programs import NoProcess
from openqwave.service.config import Config, ConfigError, load
from openqwave.service.rulefiles import row_of

GOOD, REFUSED, CANNOT_RUN, NO_RULE = 0, 1, 2, 3

# What documents are in; raised when a reader of the present ones would read another wrongly.
FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Where:
    """Which files are meant.

    Attributes:
        config: The configuration; None for the host's.
        policy: The directory of policy files, or the files; None for the host's.
    """

    config: Path | None = None
    policy: Path | Sequence[Path] | None = None


def run_check(where: Where) -> int:
    """Say what is wrong; return the exit status."""
    config = _loaded(where)
    if config is None:
        return REFUSED
    rules = config.policy.rules
    for origin, doubt in doubts_about(rules):
        _write(f"{origin}: {doubt}")
    if rules:
        for line in inforce.ask().lines_of(rules, config.policy):
            _write(line)
    _write(f"{counted(len(config.files), 'file')}, {counted(len(rules), 'rule')}: good")
    return GOOD


def run_show(where: Where, *, as_json: bool) -> int:
    """Show each value and where it comes from; return the exit status."""
    config = _loaded(where)
    if config is None:
        return REFUSED
    if as_json:
        _write_document(_policy_document(config))
        return GOOD
    for each in config.files:
        _write(f"# {each}")
    values = [(each.key, json.dumps(each.value), each.source) for each in values_of(config)]
    widths = [max(len(row[column]) for row in values) for column in (0, 1)]
    for key, value, source in values:
        _write(f"{key:{widths[0]}}  {value:{widths[1]}}  {source}")
    if config.policy.rules:
        _write("")
        known = inforce.ask()
    for rule in config.policy.rules:
        _write(f"rule {rule.name!r}, {rule.origin}")
        _write(f"  {rule_line(rule)}")
        state = known.state_of(rule, config.policy)
        _write(f"  {'in force' if state.is_in_force else 'not in force'}: {state.words}")
    return GOOD


def _policy_document(config: Config) -> dict[str, Any]:
    policy = config.policy
    known = inforce.ask() if policy.rules else inforce.InForce()
    states = [(rule, known.state_of(rule, policy)) for rule in policy.rules]
    return {
        "format": FORMAT,
        "command": "policy show",
        "files": [str(each) for each in config.files],
        "values": [
            {
                "key": each.key,
                "value": each.value,
                "file": None if each.origin is None else str(each.origin.path),
                "line": None if each.origin is None else each.origin.line,
                "profile": each.profile or None,
            }
            for each in values_of(config)
        ],
        "rules": [
            {"name": rule.name, "origin": rule.origin, **row_of(rule), **inforce.document_of(state)}
            for rule, state in states
        ],
        "rules_are_carried_out": bool(states) and all(each.is_in_force for _, each in states),
    }


def run_explain(where: Where, question: Question, *, as_json: bool) -> int:
    """Say which rule would hold; return the exit status."""
    config = _loaded(where)
    if config is None:
        return REFUSED
    try:
        asked = look_up(question)
    except NoProcess as error:
        sys.stderr.write(f"{str(error)[:1].upper()}{str(error)[1:]}.\n")
        return CANNOT_RUN
    decision = decide(config.policy.rules, asked.traffic)
    known = inforce.ask()
    state = None
    if decision.winner is not None:
        state = known.state_of(decision.winner, config.policy)
    run = known.run_of(asked.traffic.program.cgroup)
    if as_json:
        head = {"format": FORMAT, "command": "policy explain"}
        _write_document(head | document_of(asked, decision, config.policy, state, run))
    else:
        for line in lines_of(asked, decision, config.policy, state, run):
            _write(line)
    return NO_RULE if decision.winner is None else GOOD


def _loaded(where: Where) -> Config | None:
    """The configuration; None if it was refused, which has been told."""
    try:
        return load(where.config, where.policy)
    except ConfigError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"{clean(line)}\n")
        return None


def _write(line: str) -> None:
    sys.stdout.write(f"{clean(line)}\n")


def _write_document(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, indent=2) + "\n")

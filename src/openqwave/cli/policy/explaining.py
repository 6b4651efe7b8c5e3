"""Which rule would hold, for people and for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from openqwave.cli.policy import inforce
from openqwave.cli.policy.inforce import dscp_of
from openqwave.service.rulefiles import asks_of, row_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address, IPv6Address

    from openqwave.admission.policy import Policy
    from openqwave.admission.rules import Decision, Grant, Rule
    from openqwave.cli.policy.inforce import State
    from openqwave.cli.policy.question import Asked
    from openqwave.ipc.messages import ProgramRow

_GRANTS = ("dscp", "traffic_type", "rate_kbps")


def rule_line(rule: Rule) -> str:
    """What a rule says, in one line."""
    row = row_of(rule)
    gives = [f"{key} = {json.dumps(row[key])}" for key in row if key in _GRANTS]
    return f"{asks_of(rule)} -> {', '.join(gives)}"


def lines_of(
    asked: Asked,
    decision: Decision,
    policy: Policy,
    state: State | None,
    run: ProgramRow | None,
) -> Iterator[str]:
    """The answer as people read it.

    Args:
        asked: What was asked, with what is known of it.
        decision: Which rule would hold.
        policy: Has the marks of types.
        state: How it stands with that rule; None where none would.
        run: The run that it is part of, which comes before all rules; None for none.
    """
    program, traffic = asked.traffic.program, asked.traffic
    name = program.path or program.name or "?"
    process = "" if asked.pid is None else f"process {asked.pid}, "
    yield f"{process}{name}, user {program.user or '?'}, cgroup {program.cgroup or '?'}"
    yield (
        f"{_protocol(asked)} from {_end(traffic.local, traffic.local_port)} "
        f"to {_end(traffic.remote, traffic.remote_port)}"
    )
    yield from (f"not known: {each}" for each in asked.unknown)
    yield ""
    winner = decision.winner
    if winner is None:
        yield f"No rule would hold: {decision.reason}."
    else:
        yield f"Rule {winner.name!r} would hold: {decision.reason}."
        yield f"  {winner.origin}"
        yield f"  {rule_line(winner)}"
        yield f"  its packets would carry {_marks_in_words(winner.grant, policy)}"
    if state is not None:
        yield f"  {'in force' if state.is_in_force else 'not in force'}: {state.words}"
    if run is not None:
        marks = "what the program gives them" if run.dscp is None else f"DSCP {run.dscp}"
        yield (
            f"Run {run.number} of {run.name!r}, which it is part of, comes before rules: "
            f"its packets carry {marks}."
        )
    for loser in decision.losers:
        verb = "is for this traffic, too, but" if loser.matches else "is not for this traffic:"
        yield f"Rule {loser.rule.name!r} {verb} {loser.reason}."
        yield f"  {loser.rule.origin}"


def document_of(
    asked: Asked,
    decision: Decision,
    policy: Policy,
    state: State | None,
    run: ProgramRow | None,
) -> dict[str, Any]:
    """The answer as JSON; see `lines_of`."""
    traffic, program, winner = asked.traffic, asked.traffic.program, decision.winner
    return {
        "pid": asked.pid,
        "program": program.path,
        "name": program.name,
        "user": program.user,
        "uid": program.uid,
        "cgroup": program.cgroup,
        "protocol": _protocol(asked),
        "local": _text(traffic.local),
        "local_port": traffic.local_port,
        "remote": _text(traffic.remote),
        "remote_port": traffic.remote_port,
        "not_known": list(asked.unknown),
        "winner": None
        if winner is None
        else {
            "name": winner.name,
            "origin": winner.origin,
            "rule": row_of(winner),
            "dscp": dscp_of(winner.grant, policy),
            **({} if state is None else inforce.document_of(state)),
        },
        "reason": decision.reason,
        "losers": [
            {
                "name": loser.rule.name,
                "origin": loser.rule.origin,
                "matches": loser.matches,
                "reason": loser.reason,
            }
            for loser in decision.losers
        ],
        "run": None if run is None else {"number": run.number, "name": run.name, "dscp": run.dscp},
        "rules_are_carried_out": state is not None and state.is_in_force,
    }


def _marks_in_words(grant: Grant, policy: Policy) -> str:
    dscp = dscp_of(grant, policy)
    return "what the program gives them" if dscp is None else f"DSCP {dscp}"


def _protocol(asked: Asked) -> str | None:
    protocol = asked.traffic.protocol
    return None if protocol is None else protocol.name.lower()


def _end(address: IPv4Address | IPv6Address | None, port: int | None) -> str:
    host = "?" if address is None else f"[{address}]" if address.version == 6 else str(address)
    return f"{host}:{'?' if port is None else port}"


def _text(address: IPv4Address | IPv6Address | None) -> str | None:
    return None if address is None else str(address)

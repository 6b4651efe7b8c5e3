"""Runs and rules as rows, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openqwave.ipc.messages import ProgramRow
from openqwave.service.access import user_name
from openqwave.service.programs.treatments import treatment_of
from openqwave.service.rulefiles import asks_of
from openqwave.service.views import counters_of, words_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openqwave.admission.policy import Policy
    from openqwave.model.flow import Treatment
    from openqwave.model.traffic import FlowTraffic
    from openqwave.service.programs.ruling import RuleState
    from openqwave.service.programs.runs import Run
    from openqwave.service.programs.treatments import Wish

RUN, ATTACH, RULE = "run", "attach", "rule"


def run_row(
    run: Run, policy: Policy, how: tuple[str, str], traffic: Mapping[int, FlowTraffic]
) -> ProgramRow:
    """One run.

    Args:
        run: It.
        policy: Has its marks.
        how: What carries it out, and how; or nothing, and why.
        traffic: What was counted, by claim.
    """
    saved = run.saved
    backend, reason = how
    return ProgramRow(
        kind=ATTACH if saved.adopt else RUN,
        number=saved.number,
        name=saved.program,
        user=user_name(saved.uid),
        uid=saved.uid,
        pid=saved.pid,
        cgroup=saved.cgroup,
        backend=backend,
        reason=reason,
        **_granted(run.wish, run.treatment(policy)),
        **counters_of(traffic.get(run.claim_id)),
    )


def rule_row(
    number: int,
    state: RuleState,
    policy: Policy,
    how: tuple[str, str],
    traffic: Mapping[int, FlowTraffic],
) -> ProgramRow:
    """One rule.

    Args:
        number: Its place in the order.
        state: It.
        policy: Has its marks.
        how: What carries it out, and how; or nothing, and why.
        traffic: What was counted, by claim.
    """
    rule = state.rule
    backend, reason = how
    return ProgramRow(
        kind=RULE,
        number=number,
        name=rule.name,
        user=rule.conditions.user or "",
        cgroup=rule.conditions.unit or rule.conditions.cgroup or "",
        asks=asks_of(rule),
        origin=rule.origin,
        backend=backend,
        reason=reason,
        **_granted(state.wish, treatment_of(state.wish, policy)),
        **counters_of(traffic.get(state.claim_id)),
    )


def _granted(wish: Wish, treatment: Treatment) -> dict[str, Any]:
    return {
        "traffic_type": None if wish.traffic_type is None else words_of(wish.traffic_type.name),
        "dscp": treatment.dscp,
        "priority": treatment.queue_priority,
        "rate_bps": treatment.rate_bps,
        "excess": wish.excess,
    }

"""A mechanism that tells programs' traffic, which remembers what it was told and does nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from openqwave.enforcement.claims import Executable, RuleClaim, RunClaim
from openqwave.model.errors import Refusal
from openqwave.model.traffic import FlowTraffic


class FakeMarks:
    """See the module's text.

    Attributes:
        rules: What is in force.
        runs: Likewise.
        orders: How often something was to be carried out.
        refusal: What the next orders are answered with.
        claimed: Sockets of runs, by claim.
        known: Executables of sockets.
        traffic: What was counted.
        program_conditions: Why rules that name executables cannot be had.
    """

    def __init__(self) -> None:
        self.rules: tuple[RuleClaim, ...] = ()
        self.runs: tuple[RunClaim, ...] = ()
        self.orders = 0
        self.refusal: Refusal | OSError | None = None
        self.claimed: list[int] = []
        self.known: list[Executable] = []
        self.traffic: dict[int, FlowTraffic] = {}
        self.program_conditions = ""

    def carry_out(self, rules: Sequence[RuleClaim], runs: Sequence[RunClaim]) -> Refusal | None:
        self.orders += 1
        if isinstance(self.refusal, OSError):
            raise self.refusal
        if self.refusal is None:
            self.rules, self.runs = tuple(rules), tuple(runs)
        return self.refusal

    def claim_socket(self, fd: int, claim_id: int) -> None:
        del fd
        self.claimed.append(claim_id)

    def know_socket(self, fd: int, executable: Executable) -> None:
        del fd
        self.known.append(executable)

    def traffic_of(self, claim_ids: Collection[int]) -> Mapping[int, FlowTraffic]:
        return {number: self.traffic[number] for number in claim_ids if number in self.traffic}

    def explain_claim(self, claim_id: int) -> tuple[str, str]:
        named = {each.claim.claim_id for each in self.rules}
        named |= {each.claim.claim_id for each in self.runs}
        return ("fake", f"claim {claim_id}") if claim_id in named else ("", "")

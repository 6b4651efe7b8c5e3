"""The reference mechanism: expresses everything, touches nothing.

It serves tests of the engine and shows what a plan means without a kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openqwave.model.flow import UNTOUCHED, Treatment
from openqwave.subsystem.effects import Applied, SocketPlan

if TYPE_CHECKING:
    from collections.abc import Mapping


class Memory:
    """A backend that remembers plans."""

    name = "memory"

    def __init__(self) -> None:
        self.plans: dict[int, SocketPlan] = {}

    def apply(self, plans: tuple[SocketPlan, ...]) -> Applied:
        """Remember the plans."""
        for plan in plans:
            if plan.shares:
                self.plans[plan.cookie] = plan
            else:
                self.plans.pop(plan.cookie, None)
        return Applied()

    def observe(self) -> Mapping[int, Treatment]:
        """The treatment of each socket's newest flow, where it is one."""
        return {
            cookie: plan.shares[-1].treatment
            for cookie, plan in self.plans.items()
            if plan.shares[-1].treatment != UNTOUCHED
        }

    def clean_up(self) -> None:
        """Forget everything."""
        self.plans.clear()

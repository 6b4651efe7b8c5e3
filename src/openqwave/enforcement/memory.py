"""The reference mechanism: expresses everything, touches nothing.

It serves tests of the engine and shows what a plan means without a kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openqwave.model.flow import UNTOUCHED, Treatment
from openqwave.subsystem.effects import Applied, SocketPlan

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from openqwave.model.traffic import FlowTraffic


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

    def tags_at(self, interface: int) -> bool:
        """Everywhere."""
        del interface
        return True

    def traffic(self, flow_ids: Collection[int]) -> Mapping[int, FlowTraffic]:
        """Nothing is sent."""
        del flow_ids
        return {}

    def explain(self, cookie: int) -> tuple[str, str]:
        """See `openqwave.enforcement.backend.Backend.explain`."""
        del cookie
        return self.name, "nothing is asked of the kernel"

    def take_gone(self) -> Collection[int]:
        """Nobody tells."""
        return ()

    def outlives(self, cookie: int) -> bool:  # noqa: ARG002 - none does
        """What is closed is not treated any more."""
        return False

    def reconcile(self) -> None:
        """Nobody else can change what is remembered."""

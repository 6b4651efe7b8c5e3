"""Counts of what enforcement was asked to do, and could not."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from openqwave.model.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from openqwave.enforcement.backend import Backend
    from openqwave.model.flow import Treatment
    from openqwave.model.traffic import FlowTraffic
    from openqwave.subsystem.effects import Applied, SocketPlan


class CountedBackend:
    """A backend whose outcomes are counted; see `openqwave.enforcement.backend.Backend`.

    Attributes:
        changes: How often it did what it was asked.
        errors: How often it did not, by the name of the error.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.changes = 0
        self.errors: Counter[str] = Counter()

    @property
    def name(self) -> str:
        """See `openqwave.enforcement.backend.Backend.name`."""
        return self._backend.name

    def apply(self, plans: tuple[SocketPlan, ...]) -> Applied | Refusal:
        """See `openqwave.enforcement.backend.Backend.apply`."""
        try:
            outcome = self._backend.apply(plans)
        except OSError:
            self.errors["os_error"] += 1
            raise
        if isinstance(outcome, Refusal):
            self.errors[error_name(outcome.code.name)] += 1
        else:
            self.changes += 1
        return outcome

    def observe(self) -> Mapping[int, Treatment]:
        """See `openqwave.enforcement.backend.Backend.observe`."""
        return self._backend.observe()

    def tags_at(self, interface: int) -> bool:
        """See `openqwave.enforcement.backend.Backend.tags_at`."""
        return self._backend.tags_at(interface)

    def traffic(self, flow_ids: Collection[int]) -> Mapping[int, FlowTraffic]:
        """See `openqwave.enforcement.backend.Backend.traffic`."""
        return self._backend.traffic(flow_ids)

    def explain(self, cookie: int) -> tuple[str, str]:
        """See `openqwave.enforcement.backend.Backend.explain`."""
        return self._backend.explain(cookie)

    def take_gone(self) -> Collection[int]:
        """See `openqwave.enforcement.backend.Backend.take_gone`."""
        return self._backend.take_gone()

    def outlives(self, cookie: int) -> bool:
        """See `openqwave.enforcement.backend.Backend.outlives`."""
        return self._backend.outlives(cookie)

    def reconcile(self) -> None:
        """See `openqwave.enforcement.backend.Backend.reconcile`."""
        self._backend.reconcile()

    def clean_up(self) -> None:
        """See `openqwave.enforcement.backend.Backend.clean_up`."""
        self._backend.clean_up()


def error_name(name: str) -> str:
    """An error's name as the value of a label: `network_busy`."""
    return name.removeprefix("ERROR_").lower()

"""Flows whose marks change because policy does, or what is known of their paths.

A plan is carried out whole or not at all, and one socket can be in the way: its owner wants two
things of it that were one before, or the kernel has taken a right away. That one is no reason to
leave a thousand others as they were. So all flows are put into one plan, and a plan that is refused
is cut in two, until what is refused cannot be cut: that keeps the marks that it has, and is asked
for again with the next change of the flow, or of policy. A refusal costs as many plans as it takes
to find it, which grows with the logarithm of how many flows there are.

Flows that share a socket are never cut apart: one of them may be impossible without the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from openqwave.model.endpoint import Endpoint
    from openqwave.subsystem.flows import Flow
    from openqwave.subsystem.registry import Registry


class Remarking:
    """What is left to be brought to a new policy; see the module's text.

    Attributes:
        portions: The flows that are left, each list in one go; read only.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.portions: list[list[Flow]] = []
        self._taken: list[Flow] = []

    @property
    def entry_count(self) -> int:
        """How many flows are kept."""
        return sum(map(len, self.portions)) + len(self._taken)

    def begin(self) -> None:
        """Policy has changed."""
        self.portions = [list(self._registry.flows.values())]

    def begin_towards(self, hosts: Iterable[Endpoint]) -> None:
        """What is known of the paths to some hosts has changed."""
        self.portions += [list(self._registry.flows_towards(host).values()) for host in hosts]

    def take(self) -> tuple[int, ...]:
        """Change the next flows; the cookies of their sockets, none if nothing is left."""
        registry = self._registry
        while self.portions:
            # What ended or was changed since has no need.
            flows = [flow for flow in self.portions.pop() if registry.is_due(flow)]
            if flows:
                self._taken = flows
                for flow in flows:
                    registry.change(flow, flow.settings)
                return tuple({cookie: None for flow in flows for cookie in flow.sockets})
        return ()

    def settle(self, *, is_applied: bool) -> None:
        """The kernel took what was taken, or refused, and it is about to be undone."""
        flows, self._taken = self._taken, []
        if is_applied:
            return
        groups = _joined(flows)
        half = len(groups) // 2
        if half:
            self.portions += [_flat(groups[half:]), _flat(groups[:half])]

    def put_back(self) -> None:
        """The driver was interrupted: what was taken, if anything, is undone and comes again."""
        if self._taken:
            self.portions.append(self._taken)
            self._taken = []


def _flat(groups: Iterable[list[Flow]]) -> list[Flow]:
    return [flow for group in groups for flow in group]


def _joined(flows: Iterable[Flow]) -> list[list[Flow]]:
    """Flows by what they share sockets with, and that shares with others."""
    group_of: dict[int, list[Flow]] = {}
    groups: dict[int, list[Flow]] = {}
    for flow in flows:
        group = [flow]
        for cookie in flow.sockets:
            other = group_of.get(cookie)
            if other is not None and other is not group:
                # The smaller joins the larger, so that no flow moves often.
                group, other = (other, group) if len(other) > len(group) else (group, other)
                groups.pop(id(other), None)
                group += other
                group_of.update((one, group) for moved in other for one in moved.sockets)
        group_of.update((cookie, group) for cookie in flow.sockets)
        groups[id(group)] = group
    return list(groups.values())

"""Users: which processes are whose, and how much they hold together.

The registry counts what each process holds, and a user has what his processes have. Adding that up
at every call would cost him, and everybody else in the queue, what he has of processes; so a sum
also says how many calls cannot reach the limit, and is not made again before there were so many. At
the limit it is made at each call.

A process has the user that it had when it opened the first of its handles, until it has none.
Administrators are no users here; no limit of this kind is theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from openqwave.admission.policy import Limits
    from openqwave.subsystem.registry import Registry


@dataclass(slots=True, eq=False)
class _User:
    """One of them.

    Attributes:
        uid: Who.
        owners: His processes.
        flows_left: So many more flows are not too many, at least.
        destinations_left: Likewise.
    """

    uid: int
    owners: dict[int, None] = field(default_factory=dict)
    flows_left: int = 0
    destinations_left: int = 0


class Users:
    """All that have handles; see the module's text."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._by_uid: dict[int, _User] = {}
        self._by_owner: dict[int, _User] = {}

    @property
    def entry_count(self) -> int:
        """How many users and processes are kept."""
        return len(self._by_uid) + len(self._by_owner)

    def uid_of(self, owner: int) -> int | None:
        """A process's user; None for an administrator's."""
        user = self._by_owner.get(owner)
        return None if user is None else user.uid

    def join(self, owner: int, uid: int | None) -> None:
        """A process has opened a handle.

        Args:
            owner: It.
            uid: Its user; None for an administrator.
        """
        if uid is None or owner in self._by_owner:
            return
        user = self._by_uid.get(uid)
        if user is None:
            user = self._by_uid[uid] = _User(uid)
        self._add(user, owner)

    def _add(self, user: _User, owner: int) -> None:
        self._by_uid[user.uid] = self._by_owner[owner] = user
        user.owners[owner] = None
        # It may hold something already.
        user.flows_left = user.destinations_left = 0

    def leave(self, owner: int) -> Callable[[], None] | None:
        """A process has closed a handle.

        Returns:
            What undoes it; None if it has others, or was nobody's.
        """
        user = self._by_owner.get(owner)
        if user is None or self._registry.holdings_of(owner).handles:
            return None
        del self._by_owner[owner], user.owners[owner]
        if not user.owners:
            del self._by_uid[user.uid]
        return lambda: self._add(user, owner)

    def count_anew(self) -> None:
        """Other limits hold."""
        for user in self._by_uid.values():
            user.flows_left = user.destinations_left = 0

    def find_full(self, owner: int, limits: Limits, *, is_flow: bool) -> str:
        """May one more destination be added? If so, it counts as added.

        Args:
            owner: The process that adds it.
            limits: What a user may have.
            is_flow: It is the first of a new flow.

        Returns:
            The limit that is in the way; empty for none.
        """
        user = self._by_owner.get(owner)
        if user is None:
            return ""
        if user.destinations_left <= 0:
            held = sum(self._registry.holdings_of(one).destinations for one in user.owners)
            user.destinations_left = limits.destinations_per_user - held
            if user.destinations_left <= 0:
                return "destinations_per_user"
        if is_flow:
            if user.flows_left <= 0:
                held = sum(self._registry.holdings_of(one).flows for one in user.owners)
                user.flows_left = limits.flows_per_user - held
                if user.flows_left <= 0:
                    return "flows_per_user"
            user.flows_left -= 1
        user.destinations_left -= 1
        return ""

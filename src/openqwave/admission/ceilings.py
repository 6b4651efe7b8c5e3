"""Ceilings: what contracts may hold together, however much there would be room for.

What a path can carry is measured, and the ledger says what is left of it. Policy may allow less: so
much for all contracts of a user, towards one host, or through one interface. A ceiling is a limit
on the sum of contracts and on nothing else; what is sent, by whom, and whether it was measured does
not matter to it. So it holds where nothing can be measured, too.

Users and interfaces are burdened by contracts as links are, and the ledger keeps their sums in the
same way; a host is one already. Who asks is judged by what all others hold and by what it holds
itself: what is granted once stays, also when the ceiling comes down.

Refusals have the code of what is used up. A user's share is a quota (ERROR_NO_SYSTEM_RESOURCES): it
says nothing of the network, and only that user can make room. A host's or an interface's is part of
what the path can do for this flow (ERROR_NETWORK_BUSY), and the same recovery leads on: ask what is
available, take less, be told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.value import value

if TYPE_CHECKING:
    from openqwave.admission.ledger import Ledger, Link


@value
class UserLink:
    """All that a user's contracts go over."""

    uid: int


@value
class InterfaceLink:
    """All that leaves by an interface, whichever router it goes to."""

    index: int


@value
class Ceiling:
    """One limit.

    Attributes:
        name: The key of the policy that has it.
        link: What contracts burden of which the sum is limited.
        limit_bps: How much they may hold together.
        whose: Which contracts they are, in words: "of this user".
    """

    name: str
    link: Link
    limit_bps: int
    whose: str

    @property
    def is_quota(self) -> bool:
        """Is it a user's share, and no part of what a path can do?"""
        return isinstance(self.link, UserLink)

    def room_bps(self, ledger: Ledger) -> int:
        """What may be granted beyond all that is held; negative where too much is."""
        return self.limit_bps - ledger.total_held_bps(self.link)

    def refuse(self, ledger: Ledger, held_bps: int, rate_bps: int) -> Refusal | None:
        """May a contract be made larger? None means yes.

        Args:
            ledger: Has the sums.
            held_bps: What its holder has.
            rate_bps: What it is to be.
        """
        room_bps = self.room_bps(ledger)
        if rate_bps - held_bps <= room_bps:
            return None
        most_bps = held_bps + max(0, room_bps)
        advice = f"ask for {most_bps} bit/s at most" if most_bps else "nothing is left of that"
        if self.is_quota:
            code, way_out = ErrorCode.ERROR_NO_SYSTEM_RESOURCES, "end contracts that are not needed"
        else:
            code, way_out = ErrorCode.ERROR_NETWORK_BUSY, f"be told when {rate_bps} bit/s are there"
        if rate_bps <= self.limit_bps:
            advice += f", or {way_out}"
        return Refusal(
            code,
            f"contracts {self.whose} hold {self.limit_bps - room_bps} of the {self.limit_bps} "
            f"bit/s that policy allows (limits.{self.name}); {advice}",
        )

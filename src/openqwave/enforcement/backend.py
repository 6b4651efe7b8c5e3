"""What every enforcement mechanism offers.

`apply` takes desired state and is all or nothing: either the kernel was seen to accept
every plan, or everything is as before and the refusal says why. Applying a plan twice
changes nothing the second time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from openqwave.model.errors import Refusal
    from openqwave.model.flow import Treatment
    from openqwave.model.traffic import FlowTraffic
    from openqwave.subsystem.effects import Applied, SocketPlan


class Backend(Protocol):
    """One mechanism that carries out plans."""

    @property
    def name(self) -> str:
        """What people call the mechanism."""

    def apply(self, plans: tuple[SocketPlan, ...]) -> Applied | Refusal:
        """Make the kernel so.

        Returns:
            `Applied` with the sockets that no longer exist, or a refusal:
            ERROR_NOT_SUPPORTED for what the mechanism cannot express or the kernel lacks,
            ERROR_ACCESS_DENIED for missing rights, ERROR_IO_DEVICE when the kernel took a
            value and reads back another.
        """

    def observe(self) -> Mapping[int, Treatment]:
        """What is in force by us, by socket cookie."""

    def clean_up(self) -> None:
        """Leave nothing of ours in the kernel: every socket is as its application had it."""

    def tags_at(self, interface: int) -> bool:
        """Do packets that leave by an interface get the 802.1p tags of their treatment?"""

    def traffic(self, flow_ids: Collection[int]) -> Mapping[int, FlowTraffic]:
        """What was counted of flows; those of which nothing is counted are missing."""

    def explain(self, cookie: int) -> tuple[str, str]:
        """What carries out the plan of a socket, in a word or two, and why it is that."""

    def take_gone(self) -> Collection[int]:
        """Cookies of sockets that the kernel said were closed, since this was asked last."""

    def outlives(self, cookie: int) -> bool:
        """Is a closed socket still to be treated, for what it has left to send?

        `take_gone` names it when that is over.
        """

    def reconcile(self) -> None:
        """Bring back what others took away, and go where packets leave now."""

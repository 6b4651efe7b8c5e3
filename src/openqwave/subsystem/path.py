"""One path, as the engine sees it; `paths` looks after all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from openqwave.model.errors import Refusal
from openqwave.model.estimates import Congestion, PathView, Unmeasurable
from openqwave.model.path import FirstHop, PathFacts

if TYPE_CHECKING:
    from openqwave.model.endpoint import Endpoint

# The first pause before experiments that failed are begun again: a sink may only have been
# restarted.
FIRST_PAUSE_NS = 1_000_000_000

Obstacle: TypeAlias = Unmeasurable | Refusal

_UNKNOWN: Final = Congestion()


@dataclass(frozen=True, slots=True)
class IdleEnds:
    """A timer: nobody has wanted the path for as long as it stays warm."""

    host: Endpoint


@dataclass(frozen=True, slots=True)
class PauseEnds:
    """A timer: experiments may be begun again."""

    host: Endpoint


@dataclass(slots=True, eq=False)
class Path:
    """One path; see `paths`.

    Attributes:
        host: Its far end.
        facts: The way there; None where it was never told.
        obstacle: Why it is not measured now; None where it is, or is about to be.
        has_no_sink: The obstacle is that nobody answers there.
        view: What is known.
        seen_ns: When that came.
        is_remembered: It was measured by another run of experiments, before they were begun.
        congestion: The verdict of the experiments.
        calm_ns: When a congestion ended, while older numbers are not to be believed.
        trackers: The handles that track the host.
        warm_until_ns: Until when anybody may stop tracking what a closed handle tracked.
        own_bps: What its flows under contract send; None while nobody counts.
        own_seen_bps: What they sent when the view came, of which it speaks.
        is_running: Experiments were asked for, and have not ended.
        is_alert: With which effort.
        idle_ns: Since when nobody has an interest; None while somebody has.
        pause_ns: How long the next pause before a new beginning is.
        failing_ns: Since when every beginning failed.
    """

    host: Endpoint
    facts: PathFacts | None = None
    obstacle: Obstacle | None = None
    has_no_sink: bool = False
    view: PathView | None = None
    seen_ns: int = 0
    is_remembered: bool = False
    congestion: Congestion = _UNKNOWN
    calm_ns: int | None = None
    trackers: set[int] = field(default_factory=set)
    warm_until_ns: int = 0
    own_bps: int | None = None
    own_seen_bps: int = 0
    is_running: bool = False
    is_alert: bool = False
    idle_ns: int | None = None
    pause_ns: int = FIRST_PAUSE_NS
    failing_ns: int | None = None

    @property
    def links(self) -> tuple[Endpoint] | tuple[Endpoint, FirstHop]:
        """The links of the ledger that the path's contracts burden."""
        if self.facts is None:
            return (self.host,)
        return (self.host, self.facts.first_hop)

    @property
    def carries_tags(self) -> bool:
        """Was it shown to carry 802.1p tags to its end, and is it still looked after?

        A router ends the tag, and Wi-Fi has priorities of its own, which follow the DSCP.
        """
        facts, view = self.facts, self.view
        return (
            self.is_running
            and view is not None
            and view.carries_tags is True
            and facts is not None
            and facts.may_carry_tags
        )

    @property
    def is_measurable(self) -> bool:
        """Could estimates be had?"""
        return self.view is not None or not isinstance(self.obstacle, Unmeasurable)

    @property
    def capacity_bps(self) -> int | None:
        """What it was measured to carry; None if unknown."""
        return None if self.view is None else self.view.fundamentals.bottleneck_bps

    @property
    def free_bps(self) -> int | None:
        """What of the path is free by its view and the last verdict."""
        known = None if self.view is None else self.view.fundamentals
        if known is None or known.available_bps is None:
            return None
        if self.congestion.is_congested or self.calm_ns is not None:
            return 0
        if known.bottleneck_bps is None or self.own_bps is None:
            return known.available_bps
        # What is counted is certain, and what probes find beside it is not: those of a host
        # that sends the load itself tend to leave when it does not.
        return max(0, min(known.available_bps, known.bottleneck_bps - self.own_seen_bps))

    def interface_before(self, facts: PathFacts) -> int | None:
        """The interface whose name another one has now, by the new facts; None if it is the same.

        Names are told anew when they change, so two numbers of one name are two interfaces.
        """
        before = self.facts
        if before is None or before.interface_name != facts.interface_name:
            return None
        return None if before.interface == facts.interface else before.interface


def cannot_measure(host: Endpoint) -> Unmeasurable:
    """Nobody told how, or offered to."""
    return Unmeasurable(f"the path to {host.address} cannot be measured")

"""Counting refusals, and telling of them without being driven to it.

Whoever floods a sink should not fill its log as well: of each reason the first refusal is told at
once, and what follows within a second is told in one event when that second is over. Counting
makes nothing that has to be kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from openqwave.probing.sink_reports import RefusalsSeen, Refused

if TYPE_CHECKING:
    from openqwave.model.endpoint import Endpoint

# One line of a log a second and reason can be read, and does not fill a disk in a night.
TELL_EVERY_NS = 1_000_000_000


class _Tally:
    """The refusals of one reason."""

    __slots__ = ("count", "detail", "peer", "quiet_until_ns", "told")

    def __init__(self) -> None:
        self.count = 0
        self.told = 0
        self.quiet_until_ns = 0
        self.peer: Endpoint | None = None
        self.detail = ""


class Refusals:
    """All of one sink."""

    def __init__(self) -> None:
        self._tallies = {reason: _Tally() for reason in Refused}
        self._timer_ns: int | None = None

    def counts(self) -> Mapping[Refused, int]:
        """How many there were up to now, of every reason."""
        return MappingProxyType({reason: tally.count for reason, tally in self._tallies.items()})

    def count(
        self, reason: Refused, peer: Endpoint, detail: str, now_ns: int
    ) -> RefusalsSeen | None:
        """Count one; return the event if it is to be told now."""
        tally = self._tallies[reason]
        tally.count += 1
        tally.peer, tally.detail = peer, detail
        if now_ns >= tally.quiet_until_ns:
            return _told(reason, tally, peer, now_ns)
        if self._timer_ns is None or tally.quiet_until_ns < self._timer_ns:
            self._timer_ns = tally.quiet_until_ns
        return None

    def next_timer_ns(self) -> int | None:
        """When `due` has something; None for never."""
        return self._timer_ns

    def due(self, now_ns: int) -> list[RefusalsSeen]:
        """Tell of those that were held back long enough."""
        if self._timer_ns is None or now_ns < self._timer_ns:
            return []
        events, waiting_ns = list[RefusalsSeen](), list[int]()
        for reason, tally in self._tallies.items():
            if tally.count == tally.told or tally.peer is None:
                continue
            if tally.quiet_until_ns <= now_ns:
                events.append(_told(reason, tally, tally.peer, now_ns))
            else:
                waiting_ns.append(tally.quiet_until_ns)
        self._timer_ns = min(waiting_ns, default=None)
        return events


def _told(reason: Refused, tally: _Tally, peer: Endpoint, now_ns: int) -> RefusalsSeen:
    event = RefusalsSeen(reason, peer, tally.count - tally.told, tally.detail)
    tally.told = tally.count
    tally.quiet_until_ns = now_ns + TELL_EVERY_NS
    return event

"""What is summed up of paths over time: congestion, and what experiments send.

The engine knows what is so now. Whoever wants to know for how long, and how much in all, looks once
a second: a congestion lasts for longer than that, and a path stays known for longer after its last
experiment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from openqwave.model.endpoint import Endpoint
    from openqwave.subsystem.views import PathTally

# What was not looked at for so long (a suspend) is not known to have been congested all along.
_LONGEST_NS: Final = 5_000_000_000


class PathSums:
    """Sums over all paths.

    Attributes:
        congestion_ns: For how long paths were congested; two at once count twice.
        probe_bytes: What experiments have sent, IP headers included.
        congested: How many paths are congested now.
        known: How many are known.
    """

    def __init__(self) -> None:
        self.congestion_ns = 0
        self.probe_bytes = 0
        self.congested = 0
        self.known = 0
        self._sent: dict[Endpoint, int] = {}
        self._looked_ns: int | None = None

    def take(self, tallies: Iterable[PathTally], *, now_ns: int) -> None:
        """Take what all paths are like now.

        Args:
            tallies: Each path.
            now_ns: Monotonic time.
        """
        since_ns = 0 if self._looked_ns is None else now_ns - self._looked_ns
        self._looked_ns = now_ns
        sent: dict[Endpoint, int] = {}
        congested = 0
        for tally in tallies:
            congested += tally.is_congested
            before = self._sent.get(tally.host, 0)
            # Experiments that begin anew begin at zero.
            self.probe_bytes += tally.sent_bytes - (before if before <= tally.sent_bytes else 0)
            sent[tally.host] = tally.sent_bytes
        self._sent = sent
        self.congested, self.known = congested, len(sent)
        if since_ns <= _LONGEST_NS:
            self.congestion_ns += congested * since_ns

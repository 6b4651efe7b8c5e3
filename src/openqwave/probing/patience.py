"""How long to wait for the report of a train.

Most losses show early, because a later train is reported first; the time-out is for the last
train and for a path that has gone dead. Too short, it calls a train lost that is queued behind
somebody's download; too long, it keeps a measurement waiting. The wait after the last packet
left is the path's delay, both ways and with its queues, plus what a slow link needs to carry
the train itself, and that grows with the train::

    wait = 4 x (longest delay seen + bytes of this train x slowest spreading seen)

between 50 ms and 4 s, and 1 s before anything was seen. A train that was reported after it had
been given up teaches all the same, so a path that becomes slow is not called dead for good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openqwave.probing.trains import TrainPlan

# As long as TCP waits for its first answer (RFC 6298 section 2.1).
FIRST_WAIT_NS = 1_000_000_000

# Below this, the scheduling of two busy hosts would look like loss.
MIN_WAIT_NS = 50_000_000

# No queue of a link that can be used at all is this long; and a sink that answers late on
# purpose cannot stretch the wait without end.
MAX_WAIT_NS = 4_000_000_000

# Queues grow while we measure, also by our own doing: the rule is the project's, generous because
# nothing but time is lost by waiting.
_MARGIN = 4


class Patience:
    """Learns from reports how long they take."""

    def __init__(self) -> None:
        self._delay_ns: int | None = None
        self._spread_ns_per_byte = 0.0

    def learn(self, plan: TrainPlan, delay_ns: int, dispersion_ns: int) -> None:
        """A report came.

        Args:
            plan: The train's.
            delay_ns: From its last packet to the report.
            dispersion_ns: From the first arrival to the last.
        """
        self._delay_ns = max(self._delay_ns or 0, delay_ns)
        spread = (dispersion_ns - plan.span_ns) / plan.size_bytes
        self._spread_ns_per_byte = max(self._spread_ns_per_byte, spread)

    def wait_ns(self, plan: TrainPlan) -> int:
        """How long after its last packet a train is to be given up."""
        if self._delay_ns is None:
            return FIRST_WAIT_NS
        spread_ns = int(plan.size_bytes * self._spread_ns_per_byte)
        return min(max(_MARGIN * (self._delay_ns + spread_ns), MIN_WAIT_NS), MAX_WAIT_NS)

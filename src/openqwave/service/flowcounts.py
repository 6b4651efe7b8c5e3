"""What a program in the kernel counts of flows, in the form in which sockets are counted.

So rates of flows come about as those of sockets do (`sending`): while somebody looks.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from openqwave.model.estimates import FlowCounters

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from openqwave.model.endpoint import Endpoint
    from openqwave.model.traffic import FlowTraffic
    from openqwave.runtime.runtime import Runtime


class FlowCounts:
    """Counts flows by their ids; see `sending.Counters`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def counters(self, flow_ids: Collection[int]) -> Mapping[int, FlowCounters]:
        """For each flow that is counted what it has sent: bytes of IP packets."""
        found: Mapping[int, FlowTraffic] = {}
        # Where the kernel cannot be asked, nothing is known.
        with contextlib.suppress(OSError):
            found = self._runtime.traffic(flow_ids)
        return {flow_id: FlowCounters(one.sent_bytes) for flow_id, one in found.items()}

    def local_of(self, flow_id: int) -> Endpoint | None:
        """Flows have no address."""
        del flow_id
        return None

    def close(self) -> None:
        """Nothing is open."""

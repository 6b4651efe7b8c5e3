"""Flows with what enforcement says of them: what carries out their treatment, and what it counted.

Engine and enforcement are looked at together, a page at a time, so that a row is of one moment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from openqwave.enforcement.backend import Backend
    from openqwave.model.traffic import FlowTraffic
    from openqwave.runtime.runtime import Runtime
    from openqwave.service.sending import SendingRates
    from openqwave.subsystem.engine import Engine
    from openqwave.subsystem.views import FlowView

_NO_TRAFFIC: Final[Mapping[int, FlowTraffic]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ShownFlow:
    """A flow with what enforcement says of it.

    Attributes:
        view: The flow.
        explained: What carries out its treatment, and how.
        traffic: What it has sent; None where nobody counts.
    """

    view: FlowView
    explained: tuple[str, str]
    traffic: FlowTraffic | None


@dataclass(frozen=True, slots=True)
class Rates:
    """Who counts what is sent, for those who look; None for nobody.

    Attributes:
        sockets: Counts sockets by their cookies.
        flows: Counts flows by their ids.
    """

    sockets: SendingRates | None = None
    flows: SendingRates | None = None

    def of(self, shown: ShownFlow) -> int | None:
        """What a flow sends now; None where it is not known."""
        view = shown.view
        if view.sending_bps is not None:
            return view.sending_bps
        if view.streams:
            # Its payload, as everywhere; by the kernel's program where sockets cannot be found.
            found = None if self.sockets is None else self.sockets.rate_bps(view.streams)
            if found is not None:
                return found
        if shown.traffic is None or self.flows is None:
            return None
        return self.flows.rate_bps((view.flow_id,))


NO_RATES: Final = Rates()


def page_of_flows(
    runtime: Runtime, after: int, limit: int, now_ns: int, owners: Collection[int] | None
) -> tuple[list[ShownFlow], bool]:
    """A page of flows by ascending ids, of one moment.

    Args:
        runtime: The subsystem.
        after: The page begins with the first flow whose id is above this.
        limit: How many at most.
        now_ns: Monotonic time.
        owners: Only the flows of these processes; all when None.

    Returns:
        The flows, and whether there are more after the last.
    """

    def look(engine: Engine, backend: Backend) -> tuple[list[ShownFlow], bool]:
        views, more = engine.flow_views(after, limit, now_ns=now_ns, owners=owners)
        traffic = _NO_TRAFFIC
        # Where the kernel cannot be asked, nothing is known.
        with contextlib.suppress(OSError):
            traffic = backend.traffic([view.flow_id for view in views])
        page = [
            ShownFlow(view, backend.explain(view.sockets[0].cookie), traffic.get(view.flow_id))
            for view in views
        ]
        return page, more

    return runtime.look_beside(look)

"""What can be seen of all flows and paths: for people and programs that look at a whole host.

A view is a value: what was so at one moment, whoever owns it and whatever happens next. Nothing
here changes anything, no quote is given, no path comes to be known by being looked at.

Views are made in pages, so that whoever looks at a hundred thousand flows holds nobody up: a page
has a number of flows at most, and fewer where these have very many sockets. Of a flow with many
sockets or destinations a few are named and the rest is counted.
"""

from __future__ import annotations

import enum
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

from openqwave.model.errors import Refusal
from openqwave.model.estimates import Unmeasurable
from openqwave.model.flow import Transport
from openqwave.model.value import value

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from openqwave.admission.policy import Policy
    from openqwave.model.endpoint import Endpoint
    from openqwave.model.flow import PacketPriority, TrafficType, Treatment
    from openqwave.model.path import PathStatus
    from openqwave.subsystem.flows import Flow, Settings
    from openqwave.subsystem.notices import Notices
    from openqwave.subsystem.path import Path
    from openqwave.subsystem.paths import Paths
    from openqwave.subsystem.registry import Registry
    from openqwave.subsystem.usage import Usage

# A flow's first sockets, and the first destinations of all of these together, are named: what a
# person can read, and more than nearly every program has.
SOCKETS_NAMED, DESTINATIONS_NAMED = 16, 16
# A page ends with the flow that brings its sockets to so many: counting the destinations of that
# many takes a tenth of a millisecond.
SOCKETS_OF_A_PAGE = 2_048


class PathState(enum.Enum):
    """How it stands with the path of a flow; the value is a word or two for people."""

    NONE = "none"
    BEGINNING = "measuring"
    MEASURED = "measured"
    CONGESTED = "congested"
    TROUBLED = "in trouble"
    UNMEASURABLE = "unmeasured"


@value
class SocketView:
    """One socket of a flow.

    Attributes:
        cookie: The kernel's name for it.
        transport: Its protocol.
        destinations: Where it sends, as far as they are named.
    """

    cookie: int
    transport: Transport
    destinations: tuple[Endpoint, ...]


@value
class FlowView:
    """One flow, as it stood at one moment.

    Attributes:
        flow_id: Its id.
        handle_id: The handle that owns it.
        owner: The process that owns the handle, as the driver names it.
        is_adaptive: Admitted against its path.
        settings: What was asked and is in force: type, where the marks come from, contract.
        treatment: What its packets get.
        marks: The marks that they carry, as a query of the flow says.
        sockets: The first of its sockets.
        socket_count: How many there are.
        destination_count: How many (socket, destination) pairs there are.
        host: The far end of an adaptive flow's path; None for others.
        path: How it stands with that.
        sending_bps: What it sends now, TCP's payload; None where the subsystem does not know.
        is_withheld: It gets no marks because policy wants a contract first.
    """

    flow_id: int
    handle_id: int
    owner: int
    is_adaptive: bool
    settings: Settings
    treatment: Treatment
    marks: PacketPriority
    sockets: tuple[SocketView, ...]
    socket_count: int
    destination_count: int
    host: Endpoint | None
    path: PathState
    sending_bps: int | None
    is_withheld: bool = False

    @property
    def streams(self) -> tuple[int, ...]:
        """The cookies of all its sockets where all are TCP and all are named; else none."""
        sockets = self.sockets
        if len(sockets) < self.socket_count:
            return ()
        cookies = [one.cookie for one in sockets if one.transport is Transport.TCP]
        return tuple(cookies) if len(cookies) == len(sockets) else ()


@value
class PathOverview:
    """One path, as it stood at one moment.

    Attributes:
        status: What is believed of it.
        state: The same in a word.
        flow_count: How many adaptive flows go there.
        tracker_count: How many handles track the host.
        is_remembered: Its numbers are of before experiments on it were begun.
    """

    status: PathStatus
    state: PathState
    flow_count: int
    tracker_count: int
    is_remembered: bool = False


@value
class PathTally:
    """What of one path is summed up over time.

    Attributes:
        host: The far end; port 0.
        is_congested: Queues stand there, or packets are lost.
        sent_bytes: What experiments have sent since they began, IP headers included.
    """

    host: Endpoint
    is_congested: bool
    sent_bytes: int


class Views:
    """Makes views of what the engine keeps; see the module's text."""

    def __init__(
        self, registry: Registry, paths: Paths, notices: Notices, usage: Usage, policy: Policy
    ) -> None:
        self._policy = policy
        self._registry = registry
        self._paths = paths
        self._notices = notices
        self._usage = usage

    def obey(self, policy: Policy) -> None:
        """Go by another policy from now on."""
        self._policy = policy

    def flows(
        self, after: int, limit: int, *, now_ns: int, owners: Collection[int] | None = None
    ) -> tuple[tuple[FlowView, ...], bool]:
        """A page of flows by ascending ids; see `engine.Engine.flow_views`."""
        found: list[FlowView] = []
        sockets = 0
        for flow in self._registry.flows_after(after, owners):
            if len(found) >= limit or sockets >= SOCKETS_OF_A_PAGE:
                return tuple(found), True
            found.append(self._flow(flow, now_ns))
            sockets += len(flow.sockets)
        return tuple(found), False

    def paths(
        self, after: int, limit: int, *, now_ns: int
    ) -> tuple[tuple[PathOverview, ...], bool]:
        """A page of paths; see `engine.Engine.path_views`."""
        found = [
            PathOverview(
                self._notices.path_status(path, path.congestion, now_ns),
                self._state(path, now_ns, is_congested=path.congestion.is_congested is True),
                len(self._registry.flows_towards(path.host)),
                len(path.trackers),
                path.is_remembered,
            )
            for path in islice(self._paths.all(), after, after + limit)
        ]
        return tuple(found), after + limit < len(self._paths)

    def count_flows(
        self, flow_ids: Iterable[int], now_ns: int
    ) -> Counter[tuple[TrafficType, PathState]]:
        """How many of some flows are of each type and state; see `engine.Engine.count_flows`."""
        flows = self._registry.flows
        return Counter(
            [
                (flow.settings.traffic_type, self._state_of(flow, now_ns))
                for flow in map(flows.get, flow_ids)
                if flow is not None
            ]
        )

    def path_tallies(self, after: int, limit: int) -> tuple[tuple[PathTally, ...], bool]:
        """A page of paths; see `engine.Engine.path_tallies`."""
        found = [
            PathTally(
                path.host,
                path.congestion.is_congested is True,
                0 if path.view is None else path.view.sent_bytes,
            )
            for path in islice(self._paths.all(), after, after + limit)
        ]
        return tuple(found), after + limit < len(self._paths)

    def _flow(self, flow: Flow, now_ns: int) -> FlowView:
        sockets: list[SocketView] = []
        room = DESTINATIONS_NAMED
        for cookie, destinations in islice(flow.sockets.items(), SOCKETS_NAMED):
            transport = next(iter(destinations.values()))
            named = tuple(islice(destinations, room))
            room -= len(named)
            sockets.append(SocketView(cookie, transport, named))
        return FlowView(
            flow.flow_id,
            flow.handle_id,
            flow.owner,
            flow.is_adaptive,
            flow.settings,
            flow.treatment,
            flow.marks,
            tuple(sockets),
            len(flow.sockets),
            sum(map(len, flow.sockets.values())),
            flow.host,
            self._state_of(flow, now_ns),
            self._usage.sending_bps(flow, now_ns),
            # Where the kernel refused to take marks away, the flow has them still.
            flow.treatment.dscp is None and flow.settings.is_withheld(self._policy),
        )

    def _state_of(self, flow: Flow, now_ns: int) -> PathState:
        path = None if flow.host is None else self._paths.find(flow.host)
        if path is None:
            return PathState.NONE
        is_congested = self._paths.congestion_of(flow).is_congested is True
        return self._state(path, now_ns, is_congested=is_congested)

    def _state(self, path: Path, now_ns: int, *, is_congested: bool) -> PathState:
        obstacle = path.obstacle
        if isinstance(obstacle, Refusal):
            return PathState.TROUBLED
        if isinstance(obstacle, Unmeasurable):
            return PathState.UNMEASURABLE
        if is_congested:
            return PathState.CONGESTED
        known = self._paths.view_of(path, now_ns)
        return PathState.BEGINNING if known is None else PathState.MEASURED

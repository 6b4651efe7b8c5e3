"""Who holds what: handles, flows, and which flows each socket is in.

Every change goes through here and is written to a journal, so that a call whose kernel
work fails can be undone to the last entry: a failed call changes nothing.

**Listing.** Whoever lists flows does so page by page, in the order of their ids, and no page may
cost what there is of flows. So each process has the ids of its flows in a list that is ascending
by itself, because ids are handed out so; a page begins where a binary search finds its place. Ids
of flows that have ended stay in it until they are a fifth of it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import merge
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from openqwave.subsystem.effects import Share, SocketPlan
from openqwave.subsystem.flows import Flow, Settings
from openqwave.subsystem.tags import Tags

if TYPE_CHECKING:
    from openqwave.admission.policy import Policy
    from openqwave.model.endpoint import Endpoint
    from openqwave.model.flow import Transport, Treatment
    from openqwave.model.sockets import SocketFacts

# Flow ids are 32-bit, 0 means "none" and all ones is what C programs use for "invalid".
_FLOW_IDS = (1 << 32) - 2

_NO_FLOWS: Mapping[int, Flow] = MappingProxyType({})


@dataclass(slots=True, eq=False)
class _Socket:
    """A socket that is in flows.

    Attributes:
        transport: Its protocol.
        namespace: The kernel's name for its network namespace; 0 where that is not known.
        interface: Index of the interface that it was bound to at the newest call; 0 for none.
        flows: The flows that it is in, by id, oldest first.
    """

    transport: Transport
    namespace: int
    interface: int
    flows: dict[int, Flow]


# Ids of ended flows are a fifth of a process's list at most, and a few: making it anew then costs
# each of them a handful of steps, and looking past them costs a page little.
_FEW_IDS = 256

_Undo: TypeAlias = Callable[[], None]


@dataclass(slots=True, eq=False)
class Handle:
    """One client's connection.

    Attributes:
        handle_id: Its id; never 0.
        owner: The process.
        flows: Its flows by id.
        tracked: The hosts it tracks.
        is_lost: It died of a suspend or a restart; only closing it is left.
    """

    handle_id: int
    owner: int
    flows: dict[int, Flow] = field(default_factory=dict)
    tracked: dict[Endpoint, None] = field(default_factory=dict)
    is_lost: bool = False


@dataclass(slots=True, eq=False)
class Holdings:
    """What one process holds.

    Attributes:
        handles: How many handles.
        flows: How many flows.
        destinations: How many destinations those have, for each socket.
        flow_ids: Their ids, ascending, and some of flows that have ended.
    """

    handles: int = 0
    flows: int = 0
    destinations: int = 0
    flow_ids: list[int] = field(default_factory=list)


_NOTHING: Final = Holdings()


class Registry:
    """All handles and flows, with an index from sockets to flows.

    Attributes:
        journal: How to undo what was changed; cleared when it is to be kept.
        handles: By id.
        flows: By id.
        touched: Hosts of whose adaptive flows one came, went or changed; whoever looks after
            paths empties it.
        tags: Which paths carry 802.1p tags.
    """

    def __init__(self, policy: Policy, first_flow_id: int) -> None:
        self._policy = policy
        self._next_flow_id = first_flow_id
        self._next_handle_id = 1
        self.journal: list[_Undo] = []
        self.handles: dict[int, Handle] = {}
        self.flows: dict[int, Flow] = {}
        self.touched: set[Endpoint] = set()
        self.tags = Tags()
        self._holdings: dict[int, Holdings] = {}
        self._sockets: dict[int, _Socket] = {}
        self._flows_towards: dict[Endpoint, dict[int, Flow]] = {}

    @property
    def entry_count(self) -> int:
        """How many entries are kept in all tables."""
        by_place = len(self._sockets) + len(self._flows_towards)
        under_way = len(self.journal) + len(self.touched) + self.tags.entry_count
        held = len(self._holdings) + len(self.handles) + len(self.flows)
        return held + by_place + under_way

    def open_handle(self, owner: int) -> Handle:
        """A new handle; not journalled, because nothing can fail after it."""
        handle = Handle(self._next_handle_id, owner)
        self._next_handle_id += 1
        self.handles[handle.handle_id] = handle
        self._holdings.setdefault(owner, Holdings()).handles += 1
        return handle

    def close_handle(self, handle: Handle) -> None:
        """Forget a handle that has no flows any more."""
        before = self.handles.copy()
        del self.handles[handle.handle_id]
        held = self._holdings[handle.owner]
        held.handles -= 1
        if not held.handles:
            del self._holdings[handle.owner]

        def undo() -> None:
            self.handles.clear()
            self.handles.update(before)
            held.handles += 1
            self._holdings[handle.owner] = held

        self.journal.append(undo)

    def holdings_of(self, owner: int) -> Holdings:
        """What one process holds; not to be changed."""
        return self._holdings.get(owner, _NOTHING)

    def flows_after(self, after: int, owners: Collection[int] | None = None) -> Iterator[Flow]:
        """Flows in the order of their ids; nothing may change before the last was taken.

        Args:
            after: Only those whose ids are above this.
            owners: Only those of these processes; of all when None.
        """
        holdings = self._holdings
        runs = [
            self._run(owner, holdings[owner].flow_ids, after)
            for owner in (holdings if owners is None else owners)
            if owner in holdings
        ]
        for flow_id in runs[0] if len(runs) == 1 else merge(*runs):
            yield self.flows[flow_id]

    def _run(self, owner: int, flow_ids: list[int], after: int) -> Iterator[int]:
        """The ids of one process's flows from a place on."""
        flows = self.flows
        for place in range(bisect_right(flow_ids, after), len(flow_ids)):
            flow_id = flow_ids[place]
            flow = flows.get(flow_id)
            # One that is long gone can be another process's since.
            if flow is not None and flow.owner == owner:
                yield flow_id

    def new_flow(self, handle: Handle, settings: Settings, *, is_adaptive: bool) -> Flow:
        """A flow without sockets yet."""
        flow_id = self._next_flow_id
        while flow_id in self.flows or flow_id == 0:
            flow_id = flow_id % _FLOW_IDS + 1
        self._next_flow_id = flow_id % _FLOW_IDS + 1
        treatment = settings.treatment(self._policy)
        flow = Flow(flow_id, handle.handle_id, handle.owner, is_adaptive, settings, treatment)
        self._insert(flow)
        self.journal.append(lambda: self._delete(flow))
        return flow

    def end_flow(self, flow: Flow) -> tuple[int, ...]:
        """Remove a flow with all its sockets; returns their cookies."""
        cookies = tuple(flow.sockets)
        before: list[tuple[int, _Socket, dict[int, Flow]]] = []
        held, destinations = self._holdings[flow.owner], 0
        for cookie, in_flow in flow.sockets.items():
            socket = self._sockets[cookie]
            before.append((cookie, socket, socket.flows.copy()))
            self._unlink(flow, cookie)
            destinations += len(in_flow)
        held.destinations -= destinations
        self._delete(flow)

        def undo() -> None:
            self._insert(flow)
            held.destinations += destinations
            for cookie, socket, flows in before:
                socket.flows = flows
                self._sockets[cookie] = socket

        self.journal.append(undo)
        return cookies

    def put(self, flow: Flow, facts: SocketFacts, destination: Endpoint) -> None:
        """Add a (socket, destination) pair to a flow."""
        cookie = facts.cookie
        socket = self._sockets.get(cookie)
        if socket is None:
            socket = _Socket(facts.transport, facts.namespace, facts.interface, {})
            self._sockets[cookie] = socket
        elif socket.interface != facts.interface:
            self._note_interface(socket, facts.interface)
        if cookie not in flow.sockets:
            flow.sockets[cookie] = {}
            socket.flows[flow.flow_id] = flow
        if flow.is_adaptive and flow.host is None:
            flow.host = destination.host()
            self._lead(flow, flow.host)
        flow.sockets[cookie][destination] = facts.transport
        self._holdings[flow.owner].destinations += 1
        self.journal.append(lambda: self._drop(flow, cookie, destination))

    def _note_interface(self, socket: _Socket, interface: int) -> None:
        """Learn that a socket is bound to another interface than before."""
        before, socket.interface = socket.interface, interface
        self.journal.append(lambda: setattr(socket, "interface", before))

    def take(self, flow: Flow, cookie: int, destination: Endpoint) -> None:
        """Remove a pair from a flow, which may be left empty."""
        self._keep_order(flow, cookie)
        self._drop(flow, cookie, destination)

    def take_socket(self, flow: Flow, cookie: int) -> None:
        """Remove all pairs of one socket from a flow, which may be left empty."""
        self._keep_order(flow, cookie)
        self._holdings[flow.owner].destinations -= len(flow.sockets.pop(cookie))
        self._unlink(flow, cookie)

    def obey(self, policy: Policy) -> None:
        """Treat what is changed from now on by another policy; see `is_due`."""
        self._policy = policy

    def is_due(self, flow: Flow) -> bool:
        """Do policy, or its path, want another treatment for a flow than it has?"""
        return (
            self.flows.get(flow.flow_id) is flow
            and self._treatment(flow, flow.settings) != flow.treatment
        )

    def change(self, flow: Flow, settings: Settings) -> None:
        """Put other settings in force."""
        before = flow.settings, flow.treatment
        flow.settings, flow.treatment = settings, self._treatment(flow, settings)
        if flow.host is not None:
            self.touched.add(flow.host)

        def undo() -> None:
            flow.settings, flow.treatment = before

        self.journal.append(undo)

    def _treatment(self, flow: Flow, settings: Settings) -> Treatment:
        # Only adaptive flows have a host.
        carries_tags = flow.host is not None and flow.host in self.tags.tagged
        return settings.treatment(self._policy, carries_tags=carries_tags)

    def note_tags(self, cookies: Iterable[int], untagged: Container[int]) -> None:
        """Learn which flows of some sockets get the tags of their treatment.

        Args:
            cookies: The sockets, for which a plan was carried out.
            untagged: Flows that get none.
        """
        for cookie in cookies:
            for flow in self.flows_of_socket(cookie):
                if flow.treatment.pcp is not None:
                    flow.is_untagged = flow.flow_id in untagged

    def roll_back(self) -> None:
        """Undo everything in the journal, the newest first."""
        while self.journal:
            self.journal.pop()()

    def flows_of_socket(self, cookie: int) -> tuple[Flow, ...]:
        """The flows that a socket is in, oldest first."""
        socket = self._sockets.get(cookie)
        return () if socket is None else tuple(socket.flows.values())

    def flows_towards(self, host: Endpoint) -> Mapping[int, Flow]:
        """The adaptive flows to a host, by id."""
        return self._flows_towards.get(host, _NO_FLOWS)

    def sockets(self) -> tuple[int, ...]:
        """The cookies of all sockets in flows."""
        return tuple(self._sockets)

    def plan(self, cookie: int) -> SocketPlan:
        """Everything wanted of one socket, as things stand now."""
        socket = self._sockets.get(cookie)
        if socket is None:
            return SocketPlan(cookie, ())
        shares = []
        for flow in socket.flows.values():
            destinations = tuple(flow.sockets[cookie])
            shares.append(Share(flow.flow_id, flow.treatment, len(flow.sockets), destinations))
        return SocketPlan(
            cookie, tuple(shares), socket.transport, socket.namespace, socket.interface
        )

    def _insert(self, flow: Flow) -> None:
        self.flows[flow.flow_id] = flow
        self.handles[flow.handle_id].flows[flow.flow_id] = flow
        held, flow_id = self._holdings[flow.owner], flow.flow_id
        held.flows += 1
        flow_ids = held.flow_ids
        if not flow_ids or flow_ids[-1] < flow_id:
            flow_ids.append(flow_id)
        else:
            # Ids began anew, or the end of a flow is undone, which may still be in the list.
            place = bisect_left(flow_ids, flow_id)
            if flow_ids[place] != flow_id:
                flow_ids.insert(place, flow_id)
        if flow.host is not None:
            self._lead(flow, flow.host)

    def _delete(self, flow: Flow) -> None:
        del self.flows[flow.flow_id]
        del self.handles[flow.handle_id].flows[flow.flow_id]
        held = self._holdings[flow.owner]
        held.flows -= 1
        flow_ids = held.flow_ids
        if flow_ids[-1] == flow.flow_id:
            flow_ids.pop()
        if 4 * len(flow_ids) > 5 * held.flows + _FEW_IDS:
            held.flow_ids = list(self._run(flow.owner, flow_ids, 0))
        if flow.host is not None:
            flows = self._flows_towards[flow.host]
            del flows[flow.flow_id]
            if not flows:
                del self._flows_towards[flow.host]
            self.touched.add(flow.host)

    def _lead(self, flow: Flow, host: Endpoint) -> None:
        """Know an adaptive flow by its path."""
        self._flows_towards.setdefault(host, {})[flow.flow_id] = flow
        self.touched.add(host)

    def _unlink(self, flow: Flow, cookie: int) -> None:
        flows = self._sockets[cookie].flows
        del flows[flow.flow_id]
        if not flows:
            del self._sockets[cookie]

    def _drop(self, flow: Flow, cookie: int, destination: Endpoint) -> None:
        destinations = flow.sockets[cookie]
        del destinations[destination]
        self._holdings[flow.owner].destinations -= 1
        if not destinations:
            del flow.sockets[cookie]
            self._unlink(flow, cookie)

    def _keep_order(self, flow: Flow, cookie: int) -> None:
        """Journal the memberships of a flow and a socket, in the order they stand in."""
        socket = self._sockets[cookie]
        sockets, flows = flow.sockets.copy(), socket.flows.copy()
        sockets[cookie] = sockets[cookie].copy()
        held = self._holdings[flow.owner]
        count = held.destinations

        def undo() -> None:
            held.destinations = count
            flow.sockets.clear()
            flow.sockets.update(sockets)
            socket.flows = flows
            self._sockets[cookie] = socket

        self.journal.append(undo)

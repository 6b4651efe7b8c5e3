"""The engine: one input and the time in, a list of effects out.

The engine is driven by what clients ask, by the outcome of an `Apply`, by sockets that
turned out to be gone, by what experiments and routes tell of paths, by what the kernel
counted for flows, by time, by a policy that changes, and by interruptions (the machine
slept, an interface was made anew). It reads no clock, opens nothing and calls nobody; the
same engine sits inside the library and inside the service.

A request that needs the kernel takes two steps. The first changes the registry, and
answers `Apply` with the desired state; the second, `receive_applied`, either keeps the
change and answers, or undoes it and answers why. Between the two the engine accepts
nothing else, because the kernel work is a handful of system calls that the driver does
at once; asking in between is the driver's mistake and raises RuntimeError. An `Apply` is
the last of the effects that it comes with; others may follow its outcome, among them
another `Apply`: one input can decide several requests that waited for it, one after the
other, so that no two of them are granted the same bandwidth.

Checks go in the order of the contract: handle, flow id, rights, state. What the caller's
edge found wrong with a socket, an address or a route is reported in its turn.
"""

from __future__ import annotations

from collections import deque
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from openqwave.admission.ledger import Ledger
from openqwave.admission.rights import refuse_enumeration, refuse_exact_dscp
from openqwave.model.codes import DSCP_MAX, ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.flow import Contract, NoticeKind, Shaping
from openqwave.model.value import value
from openqwave.subsystem import requests as rq
from openqwave.subsystem.destinations import captured_destination
from openqwave.subsystem.effects import (
    Answer,
    Applied,
    Apply,
    Effect,
    ReadTraffic,
    SocketPlan,
    Value,
)
from openqwave.subsystem.flows import Flow, Marking, Settings, plain_settings
from openqwave.subsystem.notices import ABORTED, RETRY, Notices, unmeasurable
from openqwave.subsystem.path import Path
from openqwave.subsystem.paths import Paths
from openqwave.subsystem.pending import WANT_OF, Pending, PendingRequests, Want
from openqwave.subsystem.quotas import Quotas
from openqwave.subsystem.registry import Handle, Registry
from openqwave.subsystem.remarking import Remarking
from openqwave.subsystem.timers import Timers
from openqwave.subsystem.tracking import Tracking
from openqwave.subsystem.usage import Usage
from openqwave.subsystem.views import Views

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Collection, Container, Iterable, Mapping

    from openqwave.admission.policy import Policy
    from openqwave.model.endpoint import Endpoint
    from openqwave.model.estimates import Congestion, FlowCounters, PathView, Unmeasurable
    from openqwave.model.flow import TrafficType
    from openqwave.model.path import PathFacts
    from openqwave.model.traffic import FlowTraffic
    from openqwave.subsystem.requests import Found
    from openqwave.subsystem.usage import LinkLoad
    from openqwave.subsystem.views import FlowView, PathOverview, PathState, PathTally

# Rates travel as 64-bit unsigned numbers.
_MAX_RATE_BPS = (1 << 64) - 1


@value
class _Change:
    """A registry change that waits for the kernel.

    `flow_id` names the flow that the caller believes in: should all its sockets turn out
    to be gone, the caller must hear so. `is_final` marks what cannot be refused any more,
    `is_remarking` what a new policy wants, or a path about which something else is known now.
    """

    cookies: tuple[int, ...]
    value: Value
    flow_id: int = 0
    is_final: bool = False
    is_remarking: bool = False


@value
class _Deadline:
    """A timer: a request has waited for as long as it may."""

    request_id: int


@value
class _Waiting:
    """The request stays open until a later input answers it, or the driver does."""


_WAITING: Final = _Waiting()

_Outcome: TypeAlias = "_Change | _Waiting | Refusal | Value"


def _no(code: ErrorCode, detail: str) -> Refusal:
    return Refusal(code, detail)


def _no_flow(flow_id: int) -> Refusal:
    return _no(ErrorCode.ERROR_NOT_FOUND, f"no flow {flow_id} belongs to this handle")


class Engine:
    """Handles, flows, contracts, operations; see the module's text for how to drive it."""

    def __init__(self, policy: Policy, *, first_flow_id: int = 1) -> None:
        """Start with nothing.

        Args:
            policy: The administrator's decisions.
            first_flow_id: Where flow ids start; embedded engines start apart from each
                other so that one process's id is not by chance another's.
        """
        self._policy = policy
        self._registry = Registry(policy, first_flow_id)
        self._ledger = Ledger()
        self._timers = Timers()
        self._pending = PendingRequests()
        self._quotas = Quotas(self._registry, self._ledger, policy.limits)
        self._paths = Paths(
            self._registry,
            self._pending,
            self._ledger,
            self._quotas,
            self._timers,
            policy.experiments,
        )
        self._notices = Notices(self._paths, self._ledger, self._quotas)
        self._tracking = Tracking(self._notices, self._paths, self._quotas, policy)
        self._usage = Usage(self._registry, self._paths, self._ledger)
        self._remarking = Remarking(self._registry)
        self._views = Views(self._registry, self._paths, self._notices, self._usage, policy)
        self._now_ns = 0
        self._open_change: tuple[int | None, _Change] | None = None
        # The request that had waited, of which that is the change, if it did.
        self._waited: Pending | None = None
        # Handles that were lost, of which nobody has been told.
        self._lost: dict[int, None] = {}
        # Answers to other requests than the one at hand, experiments that are to be begun or
        # ended, and flows whose waiting requests become answers once the change that ends them
        # is kept.
        self._effects: list[Effect] = []
        self._ending: list[Flow] = []
        # Requests that waited and may be answered now; each has its turn when all before it is
        # settled.
        self._turns: deque[Pending] = deque()

    # -- inputs ---------------------------------------------------------------------

    def open_handle(self, owner: int, uid: int | None = None) -> int | Refusal:
        """Begin a client's connection.

        Args:
            owner: The process, as the driver names it.
            uid: The user whose limits hold for it; None for none, as for administrators.

        Returns:
            The handle's id, or ERROR_NO_SYSTEM_RESOURCES.
        """
        refusal = self._quotas.refuse_handle(owner)
        if refusal is not None:
            return refusal
        self._quotas.join(owner, uid)
        return self._registry.open_handle(owner).handle_id

    def receive_request(
        self, request_id: int, handle_id: int, request: rq.Request, *, now_ns: int
    ) -> list[Effect]:
        """One request of a client.

        Args:
            request_id: The driver's name for it; `Answer` carries it back.
            handle_id: Through which handle.
            request: What is asked.
            now_ns: Monotonic time.

        Returns:
            Effects to carry out in order.
        """
        self._take_in(now_ns)
        handle = self._registry.handles.get(handle_id)
        if handle is None or handle.is_lost:
            if handle is not None and type(request) is rq.CloseHandle:
                return self._begin(request_id, self._close(handle))
            return self._begin(request_id, self.refuse_handle(handle_id))
        return self._begin(request_id, self._handle(request_id, handle, request))

    def refuse_handle(self, handle_id: int) -> Refusal | None:
        """Is the handle fit for use? None means yes."""
        handle = self._registry.handles.get(handle_id)
        if handle is None:
            return _no(ErrorCode.ERROR_INVALID_HANDLE, "the handle is closed or was never open")
        if handle.is_lost:
            return _no(
                ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED,
                "the handle was lost to a suspend, a restart or an interface that was made anew: "
                "close it and open a new one",
            )
        return None

    def receive_applied(self, outcome: Applied | Refusal) -> list[Effect]:
        """How the kernel took the plan of the last `Apply`; brings answers, and what follows."""
        if self._open_change is None:
            raise RuntimeError("an outcome came without a plan")
        request_id, change = self._open_change
        self._open_change = None
        if change.is_remarking:
            self._remarking.settle(is_applied=isinstance(outcome, Applied))
        if isinstance(outcome, Applied):
            if self._registry.tags.tagged:
                self._registry.note_tags(change.cookies, outcome.untagged)
            return self._settle(request_id, change, outcome.gone)
        if change.is_final:
            return self._settle(request_id, change, frozenset())
        return self._answer(request_id, outcome)

    def abandon(self) -> tuple[SocketPlan, ...]:
        """Undo the change at hand, after the driver was interrupted in the middle of it.

        Returns:
            What is wanted of the sockets concerned now, to be applied once more.
        """
        opened, self._open_change = self._open_change, None
        self._registry.roll_back()
        self._remarking.put_back()
        self._ending.clear()
        waited, self._waited = self._waited, None
        if waited is not None:
            self._wait_again(waited)
        cookies = () if opened is None else opened[1].cookies
        return tuple([self._registry.plan(cookie) for cookie in dict.fromkeys(cookies)])

    def receive_sockets_gone(self, cookies: Iterable[int], *, now_ns: int) -> list[Effect]:
        """Sockets that the application closed; flows that held only them end."""
        self._take_in(now_ns)
        for cookie in cookies:
            self._forget_socket(cookie)
        return self._go_on()

    def receive_path(self, host: Endpoint, found: Found, *, now_ns: int) -> list[Effect]:
        """How a host that somebody is interested in is reached now, or why it is not."""
        self._take_in(now_ns)
        path = self._paths.find(host)
        if path is None:
            return []
        self._effects += self._paths.locate(host, found)
        self._give_turns(path)
        return self._go_on()

    def receive_path_view(
        self, host: Endpoint, view: PathView | None, *, now_ns: int
    ) -> list[Effect]:
        """What is known of the path to a host now; None when it can no longer be measured."""
        self._take_in(now_ns)
        self._give_turns(self._paths.see(host, view, now_ns=now_ns))
        return self._go_on()

    def receive_recalled(self, host: Endpoint, view: PathView, *, now_ns: int) -> list[Effect]:
        """What was known of a path before experiments on it were begun.

        It counts like any view of its age, unless experiments have told more, or the machine slept
        or an interface was made anew since.

        Args:
            host: The path's far end.
            view: With the time when it was measured.
            now_ns: Monotonic time.
        """
        self._take_in(now_ns)
        self._give_turns(self._paths.recall(host, view, now_ns=now_ns))
        return self._go_on()

    def receive_congestion(
        self, host: Endpoint, congestion: Congestion, *, now_ns: int
    ) -> list[Effect]:
        """What the experiments on a path say of its queues, between two views."""
        self._take_in(now_ns)
        self._give_turns(self._paths.tell(host, congestion, now_ns=now_ns))
        return self._go_on()

    def receive_experiments_ended(
        self, host: Endpoint, why: Unmeasurable | Refusal, *, now_ns: int
    ) -> list[Effect]:
        """The experiments on a path ended by themselves."""
        self._take_in(now_ns)
        self._give_turns(self._paths.end_experiments(host, why, now_ns=now_ns))
        return self._go_on()

    def receive_counters(
        self,
        counters: Mapping[int, FlowCounters],
        loads: Mapping[int, LinkLoad],
        traffic: Mapping[int, FlowTraffic] = MappingProxyType({}),
        *,
        now_ns: int,
    ) -> list[Effect]:
        """What the kernel counted.

        Args:
            counters: By the cookie of a socket.
            loads: What leaves each interface, by its index.
            traffic: By the id of a flow of UDP, where somebody counts that.
            now_ns: When.
        """
        self._take_in(now_ns)
        for path in self._usage.take(counters, loads, traffic, now_ns=now_ns):
            self._give_turns(path)
        return self._go_on()

    def receive_policy(self, policy: Policy, *, now_ns: int) -> list[Effect]:
        """The administrator has decided anew; from now on everything is judged by that.

        Flows get the marks that it has for their types; where the kernel refuses, a flow keeps
        those that it has (see `remarking`). Nobody loses what was granted: contracts stay, and so
        does what is more than a limit allows now. Requests that wait are looked at again, and wait
        no longer than they were to. Which hosts may be measured is for whoever finds the ways to
        them, who has to tell of each host anew with `receive_path`.
        """
        self._take_in(now_ns)
        self._policy = policy
        self._registry.obey(policy)
        self._tracking.obey(policy)
        self._views.obey(policy)
        self._paths.obey(policy.experiments)
        self._quotas.obey(policy.limits, self._paths)
        self._remarking.begin()
        for path in self._paths.all():
            self._give_turns(path)
        return self._go_on()

    def receive_runs(self, rates: Mapping[int, tuple[int, int]], *, now_ns: int) -> list[Effect]:
        """What programs are held to that ask for nothing, all of it.

        Args:
            rates: User and rate by a number of a run, which is above 0; none of administrators.
            now_ns: Monotonic time.
        """
        self._take_in(now_ns)
        self._quotas.hold_runs(rates)
        return self._go_on()

    def refuse_run(self, uid: int, rate_bps: int) -> Refusal | None:
        """May a user's programs be held to a rate, beside all that he has? None means yes."""
        return self._quotas.refuse_run(uid, rate_bps)

    def receive_interruption(self, *, now_ns: int) -> list[Effect]:
        """The machine slept: every handle is lost, every flow ends."""
        return self._interrupt(self._registry.handles, tuple(self._paths.all()), now_ns)

    def receive_interfaces_recreated(
        self, interfaces: Container[int], *, now_ns: int
    ) -> list[Effect]:
        """Interfaces were replaced by others of the same names.

        Lost are the handles that have flows or tracked hosts on paths that led over the old ones,
        with all that they hold, as after a suspend. Of others' flows nothing is known to lead
        there.

        Args:
            interfaces: The indices of the old ones.
            now_ns: Monotonic time.
        """
        paths = [
            path
            for path in self._paths.all()
            if path.facts is not None and path.facts.interface in interfaces
        ]
        handle_ids: set[int] = set()
        for path in paths:
            flows = self._registry.flows_towards(path.host).values()
            handle_ids.update(path.trackers, (flow.handle_id for flow in flows))
        return self._interrupt(sorted(handle_ids), paths, now_ns)

    def _interrupt(
        self, handle_ids: Iterable[int], paths: Iterable[Path], now_ns: int
    ) -> list[Effect]:
        """Lose handles, and everything that is known of paths."""
        self._take_in(now_ns)
        cookies: list[int] = []
        for handle_id in handle_ids:
            handle = self._registry.handles[handle_id]
            if not handle.is_lost:
                handle.is_lost = True
                self._lost[handle_id] = None
            self._tracking.let_go(handle, now_ns=now_ns)
            handle.tracked.clear()
            for flow in tuple(handle.flows.values()):
                cookies += self._end(flow)
        self._effects += self._paths.interrupt(paths, now_ns)
        return self._begin(None, _Change(tuple(cookies), None, is_final=True))

    def take_lost(self) -> tuple[int, ...]:
        """Handles that were lost since the last call, and are open still."""
        lost = tuple(self._lost)
        self._lost.clear()
        return lost

    def next_timer_ns(self) -> int | None:
        """When `handle_timer` is due; None for never."""
        return self._timers.next_ns()

    def handle_timer(self, *, now_ns: int) -> list[Effect]:
        """The time has come for something, or passed."""
        self._take_in(now_ns)
        for reason in self._timers.take_due(now_ns):
            if isinstance(reason, _Deadline):
                pending = self._pending.find(reason.request_id)
                if pending is not None:
                    self._complete(pending, self._too_late(pending))
                continue
            experiments, path = self._paths.handle_timer(reason)
            self._effects += experiments
            self._give_turns(path)
        return self._go_on()

    # -- what a driver asks -----------------------------------------------------------

    @property
    def entry_count(self) -> int:
        """How many things are kept of handles, flows, paths, requests, time and counts."""
        return (
            self._registry.entry_count
            + self._paths.entry_count
            + self._pending.entry_count
            + self._usage.entry_count
            + self._ledger.entry_count
            + self._quotas.entry_count
            + self._remarking.entry_count
            + len(self._timers)
            + len(self._lost)
            + len(self._effects)
            + len(self._ending)
            + len(self._turns)
        )

    def watched_sockets(self) -> tuple[int, ...]:
        """The cookies of sockets whose counters are wanted: those in flows on measured paths."""
        return self._usage.sockets()

    def watched_datagram_flows(self) -> tuple[int, ...]:
        """The flows of UDP whose traffic is wanted: those on measured paths."""
        return self._usage.datagram_flows()

    def tracked_hosts(self) -> tuple[Endpoint, ...]:
        """The hosts whose paths are known of, measured or not."""
        return tuple([path.host for path in self._paths.all()])

    def tracked_paths(self) -> tuple[PathFacts, ...]:
        """The ways to those that are, or could be, measured."""
        return tuple([path.facts for path in self._paths.all() if path.facts is not None])

    def unlocated_hosts(self) -> tuple[Endpoint, ...]:
        """The hosts to whose paths no way was told that may be measured."""
        return tuple([path.host for path in self._paths.all() if path.facts is None])

    def flow_views(
        self, after: int, limit: int, *, now_ns: int, owners: Collection[int] | None = None
    ) -> tuple[tuple[FlowView, ...], bool]:
        """A page of all flows; see `views`.

        Args:
            after: The page begins with the first flow whose id is above this.
            limit: How many flows at most; fewer come where they have very many sockets.
            now_ns: Monotonic time.
            owners: Only the flows of these processes; all when None.

        Returns:
            The flows by ascending ids, and whether there are more after the last.
        """
        return self._views.flows(after, limit, now_ns=now_ns, owners=owners)

    def path_views(
        self, after: int, limit: int, *, now_ns: int
    ) -> tuple[tuple[PathOverview, ...], bool]:
        """A page of all paths in the order in which they came to be known.

        Args:
            after: How many are left out at the beginning.
            limit: How many at most.
            now_ns: Monotonic time.

        Returns:
            The paths, and whether there are more after the last.
        """
        return self._views.paths(after, limit, now_ns=now_ns)

    def flow_ids(self) -> tuple[int, ...]:
        """The ids of all flows, as they were made."""
        return tuple(self._registry.flows)

    def count_flows(
        self, flow_ids: Iterable[int], *, now_ns: int
    ) -> Counter[tuple[TrafficType, PathState]]:
        """How many of some flows are of each type and state; those that have ended are none.

        Args:
            flow_ids: Which; a microsecond each, and four where they have paths.
            now_ns: Monotonic time.
        """
        return self._views.count_flows(flow_ids, now_ns)

    def path_tallies(self, after: int, limit: int) -> tuple[tuple[PathTally, ...], bool]:
        """A page of what is summed up of all paths, in the order of `path_views`.

        Args:
            after: How many are left out at the beginning.
            limit: How many at most; a microsecond each.

        Returns:
            The paths, and whether there are more after the last.
        """
        return self._views.path_tallies(after, limit)

    @property
    def limits_reached(self) -> dict[str, int]:
        """How often each limit of the policy was in somebody's way, by its key."""
        return dict(self._quotas.reached)

    @property
    def flow_count(self) -> int:
        """How many flows there are."""
        return len(self._registry.flows)

    @property
    def path_count(self) -> int:
        """How many paths are known of."""
        return len(self._paths)

    def has_path(self, host: Endpoint) -> bool:
        """Is a path to the host known of?"""
        return self._paths.find(host) is not None

    def interface_before(self, facts: PathFacts) -> int | None:
        """The interface over which a path led that was made anew since, by facts of now."""
        path = self._paths.find(facts.host)
        return None if path is None else path.interface_before(facts)

    def sockets_beside(self, handle_id: int) -> tuple[int, ...]:
        """The cookies of all sockets of the process that owns a handle."""
        handle = self._registry.handles.get(handle_id)
        if handle is None:
            return ()
        flows = self._registry.flows_after(0, (handle.owner,))
        return tuple({cookie: None for flow in flows for cookie in flow.sockets})

    def sockets(self) -> tuple[int, ...]:
        """The cookies of all sockets in flows, for a driver that looks after the closed."""
        return self._registry.sockets()

    def holds(self, cookie: int) -> bool:
        """Is the socket in a flow?"""
        return bool(self._registry.flows_of_socket(cookie))

    def handle_ids(self) -> tuple[int, ...]:
        """All open handles, for a driver that ends."""
        return tuple(self._registry.handles)

    def _take_in(self, now_ns: int) -> None:
        """Begin with an input."""
        if self._open_change is not None:
            raise RuntimeError("an input came before the last plan's outcome")
        self._now_ns = now_ns

    # -- the two steps of a change --------------------------------------------------

    def _begin(self, request_id: int | None, outcome: _Outcome) -> list[Effect]:
        """From a handler's outcome to effects."""
        if isinstance(outcome, _Change):
            if not outcome.cookies:
                return self._settle(request_id, outcome, frozenset())
            self._open_change = (request_id, outcome)
            plan, cookies = self._registry.plan, outcome.cookies
            if len(cookies) == 1:
                return [Apply((plan(cookies[0]),))]
            # A socket can be in several flows that end together.
            return [Apply(tuple([plan(cookie) for cookie in dict.fromkeys(cookies)]))]
        if isinstance(outcome, _Waiting):
            return self._go_on()
        return self._answer(request_id, outcome)

    def _answer(self, request_id: int | None, result: Value | Refusal) -> list[Effect]:
        """The end of a request that changed nothing, or whose change is undone."""
        self._waited = None
        if isinstance(result, Refusal):
            self._registry.roll_back()
            self._ending.clear()
        if request_id is not None:
            self._effects.append(Answer(request_id, result))
        return self._go_on()

    def _settle(
        self, request_id: int | None, change: _Change, gone: frozenset[int]
    ) -> list[Effect]:
        """Keep a change, drop sockets that turned out to be gone, answer."""
        self._waited = None
        for cookie in gone:
            self._forget_socket(cookie)
        if request_id is not None:
            result: Value | Refusal = change.value
            if change.flow_id and change.flow_id not in self._registry.flows:
                result = _no(
                    ErrorCode.ERROR_NOT_FOUND,
                    f"flow {change.flow_id} ended: the application closed its last socket",
                )
            self._effects.append(Answer(request_id, result))
        return self._go_on()

    def _go_on(self) -> list[Effect]:
        """Keep what was changed, answer, and give those who waited their turns."""
        registry, effects = self._registry, self._effects
        registry.journal.clear()
        if self._ending:
            for flow in self._ending:
                self._paths.forget_flow(flow)
                self._usage.forget_flow(flow)
                for pending in self._pending.of_flow(flow):
                    self._complete(pending, ABORTED)
            self._ending.clear()
        if registry.tags.changed:
            self._remarking.begin_towards(registry.tags.take())
        if self._remarking.portions:
            cookies = self._remarking.take()
            if cookies:
                self._effects = []
                change = _Change(cookies, None, is_remarking=True)
                return [*effects, *self._begin(None, change)]
        while self._turns:
            pending = self._turns.popleft()
            if self._pending.find(pending.request_id) is not pending:
                continue
            outcome = self._resolve(pending)
            if isinstance(outcome, _Waiting):
                continue
            if isinstance(outcome, _Change):
                self._forget(pending)
                self._waited = pending
                self._effects = []
                return [*effects, *self._begin(pending.request_id, outcome)]
            self._complete(pending, outcome)
        if registry.touched:
            effects += self._paths.follow(self._now_ns)
        self._effects = []
        return effects

    def _end(self, flow: Flow) -> tuple[int, ...]:
        """End a flow; its waiting requests will be answered as aborted."""
        if flow.is_adaptive:
            # Nothing waits for, or is measured of, what has no path.
            self._ending.append(flow)
        if flow.is_adaptive or flow.held_bps:
            self._registry.journal.append(self._ledger.release(flow.flow_id))
        return self._registry.end_flow(flow)

    def _forget_socket(self, cookie: int) -> None:
        for flow in self._registry.flows_of_socket(cookie):
            self._registry.take_socket(flow, cookie)
            if not flow.sockets:
                self._end(flow)

    # -- requests that wait -----------------------------------------------------------

    def _give_turns(self, path: Path | None) -> None:
        """Look at what waits on a path again."""
        if path is not None:
            self._turns.extend(self._pending.of_host(path.host))

    def _wait(self, pending: Pending, *, limit_ns: int | None = None) -> _Waiting:
        self._pending.add(pending)
        self._registry.touched.add(pending.flow.path_host())
        if limit_ns is not None:
            self._timers.set(_Deadline(pending.request_id), self._now_ns + limit_ns)
        return _WAITING

    def _wait_again(self, pending: Pending) -> None:
        """Put back what was about to be granted; its turn comes with the next input."""
        limit_ns = self._policy.experiments.answer_ns
        is_limited = pending.request is not None and not pending.request.is_overlapped
        self._pending.add(pending)
        if is_limited:
            self._timers.set(_Deadline(pending.request_id), pending.asked_ns + limit_ns)
        self._turns.append(pending)

    def _forget(self, pending: Pending) -> None:
        self._pending.take(pending)
        self._timers.set(_Deadline(pending.request_id), None)
        self._registry.touched.add(pending.flow.path_host())

    def _complete(self, pending: Pending, result: Value | Refusal) -> None:
        self._forget(pending)
        self._effects.append(Answer(pending.request_id, result))

    def _too_late(self, pending: Pending) -> Refusal:
        """Why a request that has waited for as long as it may is refused."""
        path = self._paths.of_flow(pending.flow)
        if pending.want is Want.FRESH and path.view is None:
            return _no(ErrorCode.ERROR_TIMEOUT, "the experiments have not found out anything yet")
        return RETRY

    def _resolve(self, pending: Pending) -> _Outcome:
        """What has become of a request that waits."""
        flow, now_ns = pending.flow, self._now_ns
        path = self._paths.of_flow(flow)
        if pending.request is not None:
            return self._rate_outcome(flow, pending.request) or _WAITING
        if not path.is_measurable:
            return unmeasurable(path)
        if isinstance(path.obstacle, Refusal) and (
            pending.want is Want.FRESH or self._paths.has_given_up(path, now_ns)
        ):
            return path.obstacle
        if pending.want is Want.FRESH:
            view = path.view
            since_ns = None if view is None else view.since_ns
            if view is None or since_ns is None or since_ns < pending.asked_ns:
                return _WAITING
            return self._notices.fundamentals_of(flow, path, view, now_ns)
        return None if self._notices.holds(pending, now_ns) else _WAITING

    # -- requests -------------------------------------------------------------------

    def _handle(self, request_id: int, handle: Handle, request: rq.Request) -> _Outcome:
        match request:
            case rq.AddSocket():
                return self._add_socket(handle, request)
            case rq.RemoveSocket():
                return self._remove_socket(handle, request)
            case rq.SetTrafficType() | rq.SetRate() | rq.SetDscp():
                flow = handle.flows.get(request.flow_id)
                if flow is None:
                    return _no_flow(request.flow_id)
                return self._set(request_id, flow, request)
            case rq.QueryFlow():
                return self._query(request_id, handle, request)
            case rq.NotifyFlow():
                return self._notify(request_id, handle, request)
            case rq.StartTracking():
                return self._start_tracking(handle, request)
            case rq.StopTracking():
                return self._tracking.stop(handle, request, now_ns=self._now_ns)
            case rq.EnumerateFlows():
                refusal = refuse_enumeration(request.caller)
                return tuple(sorted(self._registry.flows)) if refusal is None else refusal
            case rq.Cancel():
                return self._cancel(handle, request)
            case rq.CloseHandle():
                return self._close(handle)

    def _add_socket(self, handle: Handle, request: rq.AddSocket) -> _Outcome:
        flow = handle.flows.get(request.flow_id)
        if request.flow_id and (flow is None or flow.is_adaptive or request.is_adaptive):
            return _no(
                ErrorCode.ERROR_INVALID_PARAMETER,
                f"flow {request.flow_id} cannot be joined: it must be a non-adaptive flow of "
                "this handle, and the call must say non-adaptive",
            )
        facts = request.socket
        if isinstance(facts, Refusal):
            return facts
        if isinstance(request.destination, Refusal):
            return request.destination
        destination = captured_destination(facts, request.destination)
        if isinstance(destination, Refusal):
            return destination
        if flow is not None and destination in flow.sockets.get(facts.cookie, ()):
            return flow.flow_id
        if request.route is not None:
            return request.route
        refusal = self._quotas.refuse_destination(handle.owner, flow, facts.cookie)
        if refusal is not None:
            return refusal
        if flow is None:
            marking = Marking.UNADMITTED if request.is_adaptive else Marking.BY_TYPE
            flow = self._registry.new_flow(
                handle,
                plain_settings(request.traffic_type, marking),
                is_adaptive=request.is_adaptive,
            )
        if flow.is_adaptive:
            # It is so, whatever becomes of the flow, and holds for the one that it takes over.
            self._effects += self._paths.locate(destination, request.path)
        for other in self._registry.flows_of_socket(facts.cookie):
            # The newer flow takes over a pair that another flow holds.
            if other is not flow and destination in other.sockets[facts.cookie]:
                self._registry.take(other, facts.cookie, destination)
                if not other.sockets:
                    self._end(other)
        self._registry.put(flow, facts, destination)
        return _Change((facts.cookie,), flow.flow_id, flow.flow_id)

    def _remove_socket(self, handle: Handle, request: rq.RemoveSocket) -> _Outcome:
        flow = handle.flows.get(request.flow_id)
        if flow is None:
            return _no_flow(request.flow_id)
        cookie = request.cookie
        if isinstance(cookie, Refusal):
            return cookie
        if cookie is None:
            return _Change(self._end(flow), None)
        if cookie not in flow.sockets:
            return _no(
                ErrorCode.ERROR_INVALID_PARAMETER,
                f"the socket is not in flow {flow.flow_id}",
            )
        if len(flow.sockets) == 1:
            return _Change(self._end(flow), None)
        self._registry.take_socket(flow, cookie)
        return _Change((cookie,), None)

    def _set(
        self, request_id: int, flow: Flow, request: rq.SetTrafficType | rq.SetRate | rq.SetDscp
    ) -> _Outcome:
        match request:
            case rq.SetTrafficType():
                return self._change(flow, flow.settings.with_type(request.traffic_type))
            case rq.SetRate():
                return self._rate_outcome(flow, request) or self._wait_for_rate(
                    request_id, flow, request
                )
            case rq.SetDscp():
                if not 0 <= request.dscp <= DSCP_MAX:
                    return _no(
                        ErrorCode.ERROR_INVALID_PARAMETER,
                        f"a DSCP is 0 to {DSCP_MAX}, not {request.dscp}",
                    )
                refusal = refuse_exact_dscp(
                    request.caller, self._policy, "the flow keeps the marks of its traffic type"
                )
                if refusal is not None:
                    return refusal
                if flow.is_adaptive:
                    return _no(
                        ErrorCode.ERROR_NOT_SUPPORTED,
                        "an exact DSCP needs a non-adaptive flow",
                    )
                return self._change(flow, flow.settings.with_dscp(request.dscp))

    def _change(self, flow: Flow, settings: Settings) -> _Change:
        self._registry.change(flow, settings)
        return _Change(tuple(flow.sockets), None, flow.flow_id)

    def _rate_outcome(self, flow: Flow, request: rq.SetRate) -> _Change | Refusal | None:
        """The change that grants a rate, or why it is refused; None while that is not known."""
        rate_bps = request.rate_bps
        if rate_bps is None:
            rate_bps = self._policy.default_minimum_bps
        if not 0 <= rate_bps <= _MAX_RATE_BPS:
            return _no(
                ErrorCode.ERROR_INVALID_PARAMETER,
                f"a rate is 0 to {_MAX_RATE_BPS} bit/s, not {rate_bps}",
            )
        if request.is_self_paced and request.shaping is Shaping.USE_NON_CONFORMANT_MARKINGS:
            return _no(
                ErrorCode.ERROR_INVALID_PARAMETER,
                "a program that paces itself has no excess to mark: ask for SHAPE_AND_MARK",
            )
        verdict = self._notices.judge_rate(flow, rate_bps, self._now_ns)
        if isinstance(verdict, Refusal):
            return verdict
        if not verdict:
            return None
        path = self._paths.of_flow(flow) if flow.is_adaptive else None
        undo = self._quotas.hold(flow, path, rate_bps)
        if undo is not None:
            self._registry.journal.append(undo)
        if rate_bps == 0:
            return self._change(flow, flow.settings.without_contract(is_adaptive=flow.is_adaptive))
        contract = Contract(rate_bps, request.shaping, request.reason, request.is_self_paced)
        return self._change(flow, flow.settings.with_contract(contract))

    def _wait_for_rate(self, request_id: int, flow: Flow, request: rq.SetRate) -> _Outcome:
        refusal = self._refuse_more(flow.owner)
        if refusal is not None:
            return refusal
        path = self._paths.of_flow(flow)
        if path.view is not None:
            # What is known is too old, or not enough.
            self._effects += self._paths.measure_afresh(path)
        limit_ns = None if request.is_overlapped else self._policy.experiments.answer_ns
        if limit_ns == 0:
            return RETRY
        pending = Pending(request_id, flow, Want.RATE, 0, self._now_ns, request)
        return self._wait(pending, limit_ns=limit_ns)

    def _refuse_more(self, owner: int) -> Refusal | None:
        """May a process have one more request wait? None means yes."""
        if self._pending.count(owner) < self._policy.limits.pending_operations:
            return None
        return self._quotas.refuse(
            "pending_operations", "too many requests are pending; cancel some"
        )

    def _query(self, request_id: int, handle: Handle, request: rq.QueryFlow) -> _Outcome:
        flow = self._registry.flows.get(request.flow_id)
        if flow is None or (flow.owner != handle.owner and not request.caller.is_administrator):
            return _no_flow(request.flow_id)
        match request.question:
            case rq.Question.FUNDAMENTALS:
                is_own = flow.owner == handle.owner
                if request.is_fresh and is_own:
                    return self._query_afresh(request_id, flow, request)
                return self._notices.fundamentals(flow, self._now_ns, is_own=is_own)
            case rq.Question.PACKET_PRIORITY:
                return flow.marks
            case rq.Question.OUTGOING_RATE:
                contract = flow.settings.contract
                if contract is None:
                    return _no(ErrorCode.ERROR_NO_DATA, "no rate is set on the flow")
                return contract.rate_bps
            case rq.Question.PATH:
                if not flow.is_adaptive:
                    return _no(ErrorCode.ERROR_NOT_SUPPORTED, "a non-adaptive flow has no path")
                return self._notices.status(flow, self._now_ns)
            case rq.Question.TRAFFIC:
                self._effects.append(ReadTraffic(request_id, flow.flow_id))
                return _WAITING

    def _query_afresh(self, request_id: int, flow: Flow, request: rq.QueryFlow) -> _Outcome:
        refusal = self._notices.refuse_waiting(flow)
        if refusal is not None:
            return refusal
        path = self._paths.of_flow(flow)
        if isinstance(path.obstacle, Refusal):
            return path.obstacle
        refusal = self._refuse_more(flow.owner)
        if refusal is not None:
            return refusal
        self._effects += self._paths.measure_afresh(path)
        limit_ns = None if request.is_overlapped else self._policy.experiments.answer_ns
        if limit_ns == 0:
            return RETRY
        return self._wait(Pending(request_id, flow, Want.FRESH, 0, self._now_ns), limit_ns=limit_ns)

    def _notify(self, request_id: int, handle: Handle, request: rq.NotifyFlow) -> _Outcome:
        flow = handle.flows.get(request.flow_id)
        if flow is None:
            return _no_flow(request.flow_id)
        refusal = self._refuse_more(handle.owner) or self._notices.refuse_waiting(flow)
        if refusal is not None:
            return refusal
        want, rate_bps = WANT_OF[request.kind], request.rate_bps or 0
        if request.kind is NoticeKind.AVAILABLE and rate_bps <= flow.held_bps:
            return _no(
                ErrorCode.ERROR_INVALID_PARAMETER,
                "ask for a rate above the flow's present contract",
            )
        if self._pending.has_kind(flow, want):
            return _no(
                ErrorCode.ERROR_ALREADY_EXISTS,
                "a request of this kind is pending on the flow; cancel it first",
            )
        pending = Pending(request_id, flow, want, rate_bps, self._now_ns)
        if self._notices.holds(pending, self._now_ns):
            return None
        return self._wait(pending)

    def _cancel(self, handle: Handle, request: rq.Cancel) -> _Outcome:
        pending = self._pending.find(request.request_id)
        if pending is None or pending.flow.handle_id != handle.handle_id:
            return _no(
                ErrorCode.ERROR_INVALID_PARAMETER,
                "this is no pending operation of the handle",
            )
        self._complete(pending, ABORTED)
        return None

    def _start_tracking(self, handle: Handle, request: rq.StartTracking) -> _Outcome:
        refusal = self._tracking.refuse(handle, request)
        if refusal is not None or isinstance(request.host, Refusal):
            return refusal
        host = request.host.host()
        self._effects += self._paths.locate(host, request.path)
        return self._tracking.start(handle, host)

    def _close(self, handle: Handle) -> _Outcome:
        cookies: list[int] = []
        for flow in tuple(handle.flows.values()):
            cookies += self._end(flow)
        self._lost.pop(handle.handle_id, None)
        self._tracking.let_go(handle, now_ns=self._now_ns)
        self._registry.journal.append(lambda: self._tracking.take_back(handle))
        self._registry.close_handle(handle)
        self._quotas.leave(handle.owner)
        return _Change(tuple(cookies), None, is_final=True)

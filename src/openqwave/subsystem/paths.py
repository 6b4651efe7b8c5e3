"""Paths: what is known of each, who wants to know, and what experiments that asks for.

A path is known by the host at its far end, and measured once, however many flows, handles and
tracked clients want it. What is known of it is one of::

    nothing          no way there was told of, or nobody can measure it: `obstacle` is Unmeasurable
    an obstacle      something is wrong with it now: `obstacle` is a Refusal; what was known before
                     stays known for its age
    under way        experiments run and have not told anything yet
    a view           numbers, with the time when they came

**Interest.** Each adaptive flow and each handle that tracks the host is one. With the first one
experiments begin; with the last one gone they go on at the least pace for a while (so a program
that restarts finds its paths measured), then they end. While flows hold contracts, or requests
wait, experiments are alert: congestion is to be told within a fraction of a second.

**Failure.** Experiments that end by themselves are begun again after a pause, which doubles each
time. A host without a sink is asked again seldom.

**What is free** of a path is told to the ledger with each view. While the path is congested
nothing is, whatever the last numbers say; and from relief on only numbers count that were measured
since, because those before speak of another path. Nor is it more than the capacity less what
flows under contract were counted to send.

**What is remembered** of a path from before experiments on it were begun counts like any view of
its age. Of what contracts hold now nothing is taken to be in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openqwave.estimate.congestion import FlowCongestion
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Congestion, PathView, Unmeasurable
from openqwave.model.path import PathFacts
from openqwave.subsystem.effects import (
    Experiment,
    MeasureAfresh,
    SetEffort,
    StartExperiments,
    StopExperiments,
)
from openqwave.subsystem.path import (
    FIRST_PAUSE_NS,
    IdleEnds,
    Obstacle,
    Path,
    PauseEnds,
    cannot_measure,
)
from openqwave.subsystem.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from openqwave.admission.ledger import Ledger
    from openqwave.admission.policy import Experiments
    from openqwave.model.endpoint import Endpoint
    from openqwave.subsystem.flows import Flow
    from openqwave.subsystem.pending import PendingRequests
    from openqwave.subsystem.quotas import Quotas
    from openqwave.subsystem.registry import Registry
    from openqwave.subsystem.requests import Found

NS_PER_S = 1_000_000_000
# The longest pause before experiments that failed are begun again: a connection a minute is
# nothing.
LONGEST_PAUSE_NS = 60 * NS_PER_S
# After so long without experiments nobody is left waiting for a notice: the restart of a sink, or
# of its host, is over by then.
GIVE_UP_NS = 30 * NS_PER_S
# Numbers that were measured before a congestion ended are not waited for longer than this: two
# reports of an alert watch and a measurement between.
STALE_NS = 5 * NS_PER_S
# Word of the end comes from another thread, and the measurement that it starts has begun by then. A
# queue has been gone for longer than this before its end is told (`estimate.congestion`).
TOLD_LATE_NS = 200_000_000


class Paths:
    """All paths; see the module's text."""

    def __init__(
        self,
        registry: Registry,
        pending: PendingRequests,
        ledger: Ledger,
        quotas: Quotas,
        timers: Timers,
        policy: Experiments,
    ) -> None:
        self._registry = registry
        self._pending = pending
        self._ledger = ledger
        self._quotas = quotas
        self._timers = timers
        self._policy = policy
        self._paths: dict[Endpoint, Path] = {}
        self._flow_congestion: dict[int, FlowCongestion] = {}
        # What was found before this says nothing; None before that ever happened.
        self._forgotten_ns: int | None = None

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def entry_count(self) -> int:
        """How many paths, and judges of flows, are kept."""
        return len(self._paths) + len(self._flow_congestion)

    def find(self, host: Endpoint) -> Path | None:
        """The path to a host; None where there never was an interest."""
        return self._paths.get(host.host())

    def of_flow(self, flow: Flow) -> Path:
        """The path of an adaptive flow."""
        return self._at(flow.path_host())

    def all(self) -> Iterable[Path]:
        """Each of them."""
        return self._paths.values()

    def _at(self, host: Endpoint) -> Path:
        path = self._paths.get(host)
        if path is None:
            path = self._paths[host] = Path(host, obstacle=cannot_measure(host))
            self._registry.touched.add(host)
        return path

    # -- what is known ----------------------------------------------------------------

    def locate(self, host: Endpoint, found: Found | None) -> list[Experiment]:
        """Learn how the host is reached, or why its path is not measured."""
        path = self._at(host.host())
        is_of_caller = isinstance(found, Unmeasurable) and found.is_of_caller
        if found is None or (path.facts is not None and is_of_caller):
            # Others' way is none the worse for it.
            return []
        effects: list[Experiment] = []
        if isinstance(found, PathFacts):
            # What failed a moment ago is tried again when its pause ends, not at every call.
            is_tried = path.is_running or path.obstacle is None or path.failing_ns is not None
            before = path.facts
            is_another = before is not None and not found.is_same_way(before)
            path.facts = found
            self._registry.tags.judge(path)
            if is_tried and not is_another:
                self._registry.touched.add(path.host)
                return []
            self._clear(path)
            if is_another:
                # What was measured is of the way that was.
                effects += self._stop(path)
                self._forget_view(path)
            for flow in self._registry.flows_towards(path.host).values():
                self._quotas.hold(flow, path, flow.held_bps)
            self._leave(before)
        elif path.view is None or path.facts is not None:
            # Nothing is begun again before there is a way that may be measured.
            self._clear(path)
            path.obstacle = found
            effects += self._stop(path)
            if isinstance(found, Unmeasurable):
                self._forget_view(path)
        self._registry.touched.add(path.host)
        return effects

    def see(self, host: Endpoint, view: PathView | None, *, now_ns: int) -> Path:
        """Take a new view; None where the path can no longer be measured."""
        path = self._at(host.host())
        if view is None:
            path.obstacle = path.obstacle or cannot_measure(path.host)
            self._forget_view(path)
            return path
        self._clear(path)
        path.view, path.seen_ns, path.is_remembered = view, now_ns, False
        self._registry.tags.judge(path)
        self._judge(path, view.congestion, now_ns)
        if path.calm_ns is not None and (
            view.since_ns is None
            or view.since_ns >= path.calm_ns - TOLD_LATE_NS
            or now_ns >= path.calm_ns + STALE_NS
        ):
            path.calm_ns = None
        held_bps = self._ledger.total_held_bps(path.host)
        # Where nobody counts, what is held is taken to be in use.
        path.own_seen_bps = held_bps if path.own_bps is None else min(path.own_bps, held_bps)
        self._ledger.see(path.host, path.free_bps, path.own_seen_bps)
        return path

    def recall(self, host: Endpoint, view: PathView, *, now_ns: int) -> Path | None:
        """Take what was known of the path before; None where that says nothing of now."""
        path, seen_ns = self._paths.get(host.host()), view.since_ns
        if path is None or path.view is not None or not path.is_running or seen_ns is None:
            return None
        is_forgotten = self._forgotten_ns is not None and seen_ns < self._forgotten_ns
        if is_forgotten or now_ns - seen_ns > self._policy.estimate_age_ns:
            return None
        path.view, path.seen_ns, path.is_remembered = view, seen_ns, True
        # Nothing says that what is held now was on the wire then.
        path.own_seen_bps = 0
        self._ledger.see(path.host, path.free_bps, 0)
        return path

    def tell(self, host: Endpoint, congestion: Congestion, *, now_ns: int) -> Path | None:
        """Take a new verdict of the experiments; None where they have told nothing else yet."""
        path = self._paths.get(host.host())
        if path is None:
            return None
        self._judge(path, congestion, now_ns)
        self._ledger.revise(path.host, path.free_bps)
        return path

    def _judge(self, path: Path, congestion: Congestion, now_ns: int) -> None:
        if path.congestion.is_congested and congestion.is_congested is False:
            path.calm_ns = now_ns
        path.congestion = congestion

    def _clear(self, path: Path) -> None:
        """Nothing is wrong with it, as far as is known now, and nothing has failed."""
        path.obstacle = None
        path.has_no_sink = False
        path.pause_ns, path.failing_ns = FIRST_PAUSE_NS, None
        self._timers.set(PauseEnds(path.host), None)

    def _forget_view(self, path: Path) -> None:
        path.view, path.is_remembered = None, False
        self._registry.tags.judge(path)
        path.congestion, path.calm_ns = Congestion(), None
        self._ledger.forget(path.host)

    def end_experiments(self, host: Endpoint, why: Obstacle, *, now_ns: int) -> Path | None:
        """They ended by themselves: nobody answers, or the connection broke."""
        path = self._paths.get(host.host())
        if path is None or not path.is_running:
            return None
        path.is_running = path.is_alert = False
        self._registry.tags.doubt(path)
        path.failing_ns = now_ns if path.failing_ns is None else path.failing_ns
        was_measured = path.view is not None or isinstance(path.obstacle, Refusal)
        if isinstance(why, Unmeasurable) and was_measured:
            # It was measured a moment ago: whoever answered may be about to come back.
            why = Refusal(ErrorCode.ERROR_UNEXP_NET_ERR, f"the experiments broke off: {why.reason}")
        path.obstacle = why
        path.has_no_sink = isinstance(why, Unmeasurable) and not why.is_of_this_host
        path.congestion = Congestion()
        if isinstance(why, Unmeasurable):
            path.pause_ns = LONGEST_PAUSE_NS
        self._timers.set(PauseEnds(path.host), now_ns + path.pause_ns)
        path.pause_ns = min(LONGEST_PAUSE_NS, 2 * path.pause_ns)
        return path

    def has_given_up(self, path: Path, now_ns: int) -> bool:
        """Have experiments failed for so long that nobody should wait for them?"""
        return path.failing_ns is not None and now_ns >= path.failing_ns + GIVE_UP_NS

    # -- what flows tell --------------------------------------------------------------

    def flow_congestion(self, flow: Flow) -> FlowCongestion:
        """The judge of a flow's own counters."""
        judge = self._flow_congestion.get(flow.flow_id)
        if judge is None:
            judge = self._flow_congestion[flow.flow_id] = FlowCongestion()
        return judge

    def congestion_of(self, flow: Flow) -> Congestion:
        """The verdict for a flow: its path's, or that of its own packets."""
        path = self._at(flow.path_host())
        if path.congestion.is_congested:
            return path.congestion
        judge = self._flow_congestion.get(flow.flow_id)
        own = Congestion() if judge is None else judge.verdict
        if own.is_congested or path.congestion.is_congested is None:
            return own
        return path.congestion

    def forget_flow(self, flow: Flow) -> None:
        """A flow has ended."""
        self._flow_congestion.pop(flow.flow_id, None)

    # -- what can be asked ------------------------------------------------------------

    def view_of(self, path: Path, now_ns: int) -> PathView | None:
        """What is known; None where it is too old."""
        is_old = now_ns - path.seen_ns > self._policy.estimate_age_ns
        return None if is_old else path.view

    # -- interest ---------------------------------------------------------------------

    def track(self, host: Endpoint, handle_id: int) -> None:
        """A handle takes an interest."""
        path = self._at(host)
        path.trackers.add(handle_id)
        self._registry.touched.add(path.host)

    def untrack(self, host: Endpoint, handle_id: int) -> None:
        """And loses it."""
        path = self._paths.get(host)
        if path is not None:
            path.trackers.discard(handle_id)
            self._registry.touched.add(path.host)

    def follow(self, now_ns: int) -> list[Experiment]:
        """Ask for the experiments that the interest in touched paths calls for."""
        effects: list[Experiment] = []
        touched = self._registry.touched
        while touched:
            path = self._paths.get(touched.pop())
            if path is not None:
                effects += self._follow(path, now_ns)
        return effects

    def _follow(self, path: Path, now_ns: int) -> list[Experiment]:
        flows = self._registry.flows_towards(path.host)
        if flows or path.trackers:
            path.idle_ns = None
            self._timers.set(IdleEnds(path.host), None)
        elif path.idle_ns is None:
            path.idle_ns = now_ns
            self._timers.set(IdleEnds(path.host), now_ns + self._policy.warm_ns)
        effects: list[Experiment] = []
        if not path.is_running and path.facts is not None and path.obstacle is None:
            if path.idle_ns is not None:
                return []
            path.is_running = True
            effects.append(StartExperiments(path.facts))
        if path.is_running:
            # A contract is held of the path itself at least, so nobody looks through all flows.
            is_alert = (
                self._pending.waits_on(path.host) or self._ledger.total_held_bps(path.host) > 0
            )
            if is_alert != path.is_alert:
                path.is_alert = is_alert
                effects.append(SetEffort(path.host, is_alert))
        return effects

    def measure_afresh(self, path: Path) -> list[Experiment]:
        """Somebody waits for numbers that are measured from now on."""
        return [MeasureAfresh(path.host)] if path.is_running else []

    def _stop(self, path: Path) -> list[Experiment]:
        if not path.is_running:
            return []
        path.is_running = path.is_alert = False
        self._registry.tags.doubt(path)
        return [StopExperiments(path.host)]

    def handle_timer(self, reason: Hashable) -> tuple[list[Experiment], Path | None]:
        """A timer of a path: what follows, and the path on which requests are to be looked at."""
        match reason:
            case IdleEnds(host):
                path = self._paths[host]
                effects = self._stop(path)
                self._drop(path)
                return effects, None
            case PauseEnds(host):
                path = self._paths[host]
                if path.idle_ns is not None:
                    # They are, as soon as somebody has an interest again.
                    self._clear(path)
                    return [], path
                if path.facts is None:
                    return [], path
                path.is_running = True
                self._registry.touched.add(host)
                return [StartExperiments(path.facts)], path
        return [], None

    def _drop(self, path: Path) -> None:
        self._timers.set(IdleEnds(path.host), None)
        self._timers.set(PauseEnds(path.host), None)
        self._ledger.forget(path.host)
        self._registry.tags.forget(path)
        del self._paths[path.host]
        self._leave(path.facts)

    def _leave(self, facts: PathFacts | None) -> None:
        """Know nothing of a first hop any more by which no path leaves."""
        if facts is not None:
            hop, paths = facts.first_hop, self._paths.values()
            if not any(path.facts is not None and path.facts.first_hop == hop for path in paths):
                self._ledger.forget(hop)

    def obey(self, policy: Experiments) -> None:
        """Go by another policy from now on; what is warm, since its last interest."""
        self._policy = policy
        for path in self._paths.values():
            if path.idle_ns is not None:
                self._timers.set(IdleEnds(path.host), path.idle_ns + policy.warm_ns)

    def interrupt(self, paths: Iterable[Path], now_ns: int) -> list[Experiment]:
        """Forget some paths, which nobody wants any more, and all that was found before now."""
        self._forgotten_ns = now_ns
        effects: list[Experiment] = []
        for path in paths:
            effects += self._stop(path)
            self._drop(path)
        return effects

"""The thread that measures paths for a subsystem.

The engine says which paths are to be measured, and how eagerly; here that is done. One thread
waits for everything that the engine has to be told of paths: what experiments found, routes and
links that changed, the kernel's counters, time. It is started when the first path is to be
measured, and ends when none is, so a program that only marks has no thread.

Experiments themselves happen in the thread of an `ExperimentHost`, and in the network namespace of
the thread that asked for the first one. Everything that is done for a caller of the subsystem is
put in a queue here: no caller waits for a connection.

**Failure.** Who waits for a path waits for this thread, so it lives on whatever goes wrong: a
session that cannot be begun ends alone, an experiment host that broke is replaced, and any other
error ends all experiments, of which the engine is told. The engine begins them again after a pause.
"""

from __future__ import annotations

import contextlib
import random
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from openqwave.drivers.experiments import ExperimentHost
from openqwave.drivers.mailbox import Mailbox
from openqwave.drivers.pathchanges import PathChanges
from openqwave.drivers.pathfinder import Pathfinder
from openqwave.drivers.readiness import Wake
from openqwave.drivers.rtnetlink import read_links
from openqwave.drivers.sockdiag import SocketDiagnosis
from openqwave.drivers.sockets import own_namespace
from openqwave.model.errors import QosError, Refusal
from openqwave.model.estimates import Congestion, Unmeasurable
from openqwave.probing.budget import Budget
from openqwave.probing.outcomes import Ended, Failed
from openqwave.probing.progress import Wish
from openqwave.probing.tracking import CongestionTold, Effort, Tracking
from openqwave.probing.tracking import Estimated as Told
from openqwave.subsystem.effects import (
    Experiment,
    MeasureAfresh,
    SetEffort,
    StartExperiments,
    StopExperiments,
)
from openqwave.subsystem.findings import HOST_IS_OVER, obstacle_of, obstacle_of_error, view_of
from openqwave.subsystem.usage import LinkLoad

if TYPE_CHECKING:
    from openqwave.admission.policy import Experiments
    from openqwave.drivers.experiments import Running
    from openqwave.model.endpoint import Endpoint
    from openqwave.model.path import PathFacts
    from openqwave.probing.session import Event
    from openqwave.runtime.runtime import Runtime
    from openqwave.subsystem.effects import Effect
    from openqwave.subsystem.engine import Engine
    from openqwave.subsystem.requests import Found

# How often counters are read while anything is measured: congestion that a flow's own packets
# show is then told within a few readings.
_COUNT_S = 0.2
# With thousands of flows counting takes long, and calls wait for it: the pause is so many times it.
_COUNT_PART = 10
# How long experiments go unasked-for before the thread ends: programs open and close flows.
_LINGER_S = 5.0

_Work: TypeAlias = "Callable[[], None]"


class _Forwarding(Mailbox):
    """A mailbox whose events go to the surveyor instead of waiting for a reader."""

    def __init__(self, surveyor: Surveyor, facts: PathFacts, number: int) -> None:
        super().__init__()
        self._surveyor = surveyor
        self._facts = facts
        self._number_here = number

    def put(self, event: Event) -> None:
        """Forward an event."""
        self._surveyor.do(lambda: self._surveyor.hear(self._facts, self._number_here, event))

    def close(self, error: BaseException | None = None) -> None:
        """Forward the end."""
        is_first = not self.is_closed
        super().close(error)
        if is_first:
            self._surveyor.do(lambda: self._surveyor.lose(self._facts, self._number_here, error))


class Surveyor:
    """Measures paths for a subsystem; see the module's text."""

    def __init__(self, subsystem: Runtime, policy: Experiments) -> None:
        self._subsystem = subsystem
        self._policy = policy
        self._pathfinder: Pathfinder | None = None
        self._work: deque[_Work] = deque()
        self._lock = threading.Lock()
        self._wake: Wake | None = None
        self._thread: threading.Thread | None = None
        self._experiments: ExperimentHost | None = None
        self._sessions: dict[Endpoint, tuple[int, Tracking, Running]] = {}
        self._budgets: dict[Endpoint, Budget] = {}
        self._verdicts: dict[Endpoint, Congestion] = {}
        self._diagnosis = SocketDiagnosis()
        self._number = 0
        self._namespace = 0
        # Hosts that were asked for from another namespace, of which this one knows no ways.
        self._foreign: set[Endpoint] = set()
        self._count_s = 0.0

    # -- for any thread ---------------------------------------------------------------

    def find(self, host: Endpoint, namespace: int, interface: int = 0) -> Found:
        """How a host is reached from a network namespace, as the kernel has it now."""
        try:
            with self._lock:
                if self._pathfinder is None:
                    self._pathfinder = Pathfinder(self._policy.allowed, self._policy.forbidden)
                    self._namespace = own_namespace()
                if namespace not in (0, self._namespace):
                    self._foreign.add(host)
                    return Unmeasurable("experiments happen in another network namespace")
                self._foreign.discard(host)
                return self._pathfinder.find(host, interface=interface)
        except QosError as error:
            return Unmeasurable(f"the way to {host.address} cannot be found out: {error.detail}")

    def rest(self) -> None:
        """Nobody has a handle any more: keep nothing open that nothing is measured with."""
        with self._lock:
            if self._thread is None and self._pathfinder is not None:
                self._pathfinder.close()
                self._pathfinder = None

    def carry_out(self, effect: Experiment) -> None:
        """Have something done about experiments, by the thread."""
        # Where no thread can be had now, it is done by the next one.
        with contextlib.suppress(OSError, RuntimeError):
            self.do(
                lambda: self._carry_out(effect), must_start=isinstance(effect, StartExperiments)
            )

    def wake(self) -> None:
        """Look at the engine's timers again; starts the thread, which waits for them.

        Raises:
            OSError: There is no descriptor for it.
            RuntimeError: There is no thread to be had.
        """
        self.do(lambda: None, must_start=True)

    def do(self, work: _Work, *, must_start: bool = False) -> None:
        """Have something done by the thread; where there is none, only what starts it."""
        with self._lock:
            if self._thread is None and not must_start and not self._work:
                return
            self._work.append(work)
            if self._thread is None:
                self._begin_thread()
            if self._wake is not None:
                self._wake.send()

    def _begin_thread(self) -> None:
        wake = Wake()
        thread = threading.Thread(
            target=self._run, args=(wake,), name="openqwave-paths", daemon=True
        )
        self._thread, self._wake = thread, wake
        try:
            # Ctrl-C ends the wait for the thread's first word, and not the thread.
            thread.start()
        except Exception:
            self._thread = self._wake = None
            wake.close()
            raise

    # -- the thread -------------------------------------------------------------------

    def _run(self, wake: Wake) -> None:
        changes: PathChanges | None = None
        poll = select.poll()
        poll.register(wake.fd, select.POLLIN)
        with contextlib.suppress(QosError):
            # Without it routes are looked up as flows are made, and not followed.
            changes = PathChanges()
            poll.register(changes.fileno(), select.POLLIN)
        idle_since_s = time.monotonic()
        try:
            while True:
                if self._sessions or self._work:
                    idle_since_s = time.monotonic()
                elif time.monotonic() - idle_since_s > _LINGER_S and self._may_end():
                    return
                poll.poll(1_000 * self._timeout_s())
                wake.take()
                try:
                    self._turn(changes)
                except Exception as error:  # noqa: BLE001 - told to everybody who waits
                    self._break(error)
        finally:
            if changes is not None:
                changes.close()
            self._leave(wake)

    def _turn(self, changes: PathChanges | None) -> None:
        """Do what there is to do."""
        self._drain()
        if changes is not None and changes.read():
            self._look_again(changes)
        if self._sessions and time.monotonic() >= self._count_s:
            began_s = time.monotonic()
            self._count()
            ended_s = time.monotonic()
            self._count_s = ended_s + max(_COUNT_S, _COUNT_PART * (ended_s - began_s))
        self._subsystem.handle_timers()

    def _break(self, error: Exception) -> None:
        """End all experiments, of which something went wrong."""
        for host in list(self._sessions):
            self._stop(host)
            self._tell_ended(host, obstacle_of_error(error))

    def _may_end(self) -> bool:
        """End the thread, unless somebody has just found something for it to do."""
        if self._subsystem.until_timer_s() is not None:
            return False
        with self._lock:
            if self._work:
                return False
            self._thread = self._wake = None
        return True

    def _leave(self, wake: Wake) -> None:
        """Close everything, but what the next thread uses, if there is one already."""
        experiments: ExperimentHost | None = None
        with self._lock:
            if self._wake is wake:
                self._thread = self._wake = None
            is_last = self._thread is None
            if is_last:
                experiments, self._experiments = self._experiments, None
        wake.close()
        if is_last:
            self._diagnosis.close()
            _close(experiments)
            if not self._subsystem.is_open():
                self.rest()

    def _timeout_s(self) -> float:
        longest_s = _COUNT_S if self._sessions else _LINGER_S
        due_s = self._subsystem.until_timer_s()
        return longest_s if due_s is None else min(longest_s, due_s)

    def _drain(self) -> None:
        while True:
            with self._lock:
                if not self._work:
                    return
                work = self._work.popleft()
            work()

    def _carry_out(self, effect: Experiment) -> None:
        match effect:
            case StartExperiments(facts):
                self._start(facts)
            case StopExperiments(host):
                self._stop(host)
            case SetEffort(host, is_alert):
                effort = Effort.ALERT if is_alert else Effort.LIGHT
                self._act(host, lambda session, now_ns: session.set_effort(effort, now_ns=now_ns))
            case MeasureAfresh(host):
                self._act(host, lambda session, now_ns: session.measure_afresh(now_ns=now_ns))

    def _act(self, host: Endpoint, action: Callable[[Tracking, int], None]) -> None:
        entry = self._sessions.get(host)
        if entry is not None:
            _, session, running = entry
            # The session may have ended this moment; then its end is on its way here.
            with contextlib.suppress(QosError):
                running.do(lambda now_ns: action(session, now_ns))

    def _start(self, facts: PathFacts) -> None:
        host = facts.host
        self._stop(host)
        self._number += 1
        policy = self._policy
        budget = self._budgets.setdefault(
            host, Budget(policy.share_ppm, policy.most_bps, policy.burst_bytes)
        )
        session = Tracking(
            Wish(version=host.version, checks_priority=facts.is_on_link),
            budget,
            random=random.SystemRandom().random,
        )
        mailbox = _Forwarding(self, facts, self._number)
        try:
            if self._experiments is None:
                experiments = ExperimentHost(policy.allowed)
                experiments.start()
                self._experiments = experiments
            running = self._experiments.run(session, host, mailbox)
        except Exception as error:  # noqa: BLE001 - told to everybody who waits
            if isinstance(error, QosError) and error.code in HOST_IS_OVER:
                broken, self._experiments = self._experiments, None
                _close(broken)
            self._tell_ended(host, obstacle_of_error(error))
            return
        self._sessions[host] = self._number, session, running

    def _stop(self, host: Endpoint) -> None:
        entry = self._sessions.pop(host, None)
        self._verdicts.pop(host, None)
        if entry is not None:
            with contextlib.suppress(QosError):
                entry[2].cancel()

    def _is_current(self, host: Endpoint, number: int) -> bool:
        entry = self._sessions.get(host)
        return entry is not None and entry[0] == number

    def hear(self, facts: PathFacts, number: int, event: Event) -> None:
        """A session has something to say; in the thread."""
        host = facts.host
        if not self._is_current(host, number):
            return
        match event:
            case Told():
                # What flows send belongs to what was measured beside them.
                self._count()
                view = view_of(event, self._verdicts.get(host, Congestion()))
                self._subsystem.receive_path_view(host, view)
            case CongestionTold(congestion=congestion):
                self._verdicts[host] = congestion
                self._subsystem.tell(
                    lambda engine, now_ns: engine.receive_congestion(
                        host, congestion, now_ns=now_ns
                    )
                )
            case Failed() | Ended():
                self._stop(host)
                self._tell_ended(host, obstacle_of(host, event))

    def lose(self, facts: PathFacts, number: int, error: BaseException | None) -> None:
        """A session is over; in the thread. Whoever said so before is not asked again."""
        if not self._is_current(facts.host, number):
            return
        self._stop(facts.host)
        self._tell_ended(facts.host, obstacle_of_error(error))

    def _look_again(self, changes: PathChanges) -> None:
        """Routes, links or neighbours have changed."""
        with self._lock:
            if self._pathfinder is not None:
                self._pathfinder.hear_failures(changes.take_failures())
        for host in self._subsystem.look(lambda engine: engine.tracked_hosts()):
            if host not in self._foreign:
                self._subsystem.tell(partial(_receive_path, host, self.find(host, 0)))

    def _count(self) -> None:
        cookies = self._subsystem.look(lambda engine: engine.watched_sockets())
        if not cookies:
            return
        with contextlib.suppress(OSError):
            # A kernel that cannot be asked counts nothing: contracts then count as unused.
            links = read_links()
            paths = self._subsystem.look(lambda engine: engine.tracked_paths())
            loads = {
                path.interface: LinkLoad(links[path.interface].tx_bytes, path.speed_bps)
                for path in paths
                if path.interface in links
            }
            counters = self._diagnosis.counters(cookies)
            self._subsystem.tell(
                lambda engine, now_ns: engine.receive_counters(counters, loads, now_ns=now_ns)
            )

    def _tell_ended(self, host: Endpoint, why: Unmeasurable | Refusal) -> None:
        self._subsystem.tell(
            lambda engine, now_ns: engine.receive_experiments_ended(host, why, now_ns=now_ns)
        )


def _receive_path(host: Endpoint, found: Found, engine: Engine, now_ns: int) -> list[Effect]:
    return engine.receive_path(host, found, now_ns=now_ns)


def _close(experiments: ExperimentHost | None) -> None:
    if experiments is not None:
        # One that broke says so; who used it has heard it already.
        with contextlib.suppress(QosError):
            experiments.close()

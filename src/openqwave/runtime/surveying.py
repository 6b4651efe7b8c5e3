"""The thread that measures paths for a subsystem.

The engine says which paths are to be measured, and how eagerly; here that is done. One thread
waits for everything that the engine has to be told of paths: what experiments found, routes and
links that changed, the kernel's counters, time. It is started when the first path is to be
measured, or a sink is to be served, and ends when nobody is interested in a path any more, so a
program that only marks has no thread.

Experiments themselves (`experimenting`) happen in the thread of an `ExperimentHost`, and in the
network namespace of the thread that asked for the first one. Everything that is done for a caller
of the subsystem is put in a queue here: no caller waits for a connection.

**An interface that is made anew** has its name and another number. Its routes lead to the same
hosts, but whatever was agreed on the old one is gone: so before any new way is told to the engine,
it is told of the interface. A path whose interface is only gone waits for one to come.

**Failure.** Who waits for a path waits for this thread, so it lives on whatever goes wrong: a
session that cannot be begun ends alone, an experiment host that broke is replaced, and any other
error ends all experiments, of which the engine is told. The engine begins them again after a pause.
A sink that ended is begun again likewise (`ownsink`).
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from openqwave.drivers.adjacency import table_of
from openqwave.drivers.pathchanges import Change, PathChanges
from openqwave.drivers.pathfinder import Pathfinder
from openqwave.drivers.readiness import Wake
from openqwave.drivers.rtnetlink import read_links
from openqwave.drivers.sockdiag import SocketDiagnosis
from openqwave.drivers.sockets import own_namespace
from openqwave.model.errors import QosError
from openqwave.model.estimates import Unmeasurable
from openqwave.model.path import PathFacts
from openqwave.probing.budget import Budget
from openqwave.runtime.experimenting import Experimenting, close_host
from openqwave.runtime.ownsink import OwnSink
from openqwave.subsystem.effects import Experiment, StartExperiments
from openqwave.subsystem.usage import LinkLoad

if TYPE_CHECKING:
    from openqwave.admission.policy import Experiments
    from openqwave.drivers.experiments import ExperimentHost
    from openqwave.model.endpoint import Endpoint
    from openqwave.probing.sink_limits import SinkLimits
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

# Hosts of other network namespaces that are remembered as such; the oldest go first.
_MOST_FOREIGN = 4_096

_Work: TypeAlias = "Callable[[], None]"


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
        self._experimenting = Experimenting(subsystem, policy, self.do, self._count)
        self._sink = OwnSink(self._experimenting.host, self._experimenting.lose_host, self._nudge)
        self._diagnosis = SocketDiagnosis()
        self._namespace = 0
        # Hosts that were asked for from another namespace, of which this one knows no ways.
        self._foreign: dict[Endpoint, None] = {}
        self._count_s = 0.0

    # -- for any thread ---------------------------------------------------------------

    def find(self, host: Endpoint, namespace: int, interface: int = 0) -> Found:
        """How a host is reached from a network namespace, as the kernel has it now."""
        found = self._find(host, namespace, interface)
        if isinstance(found, PathFacts) and not interface:
            before = self._subsystem.look(lambda engine: engine.interface_before(found))
            if before is not None:
                self._tell_recreated({before})
        return found

    def _find(self, host: Endpoint, namespace: int, interface: int) -> Found:
        try:
            with self._lock:
                if self._pathfinder is None:
                    self._pathfinder = Pathfinder(self._policy.allowed, self._policy.forbidden)
                    self._namespace = own_namespace()
                self._foreign.pop(host, None)
                if namespace not in (0, self._namespace):
                    self._foreign[host] = None
                    if len(self._foreign) > _MOST_FOREIGN:
                        del self._foreign[next(iter(self._foreign))]
                    return Unmeasurable(
                        "experiments happen in another network namespace", is_of_caller=True
                    )
                return self._pathfinder.find(host, interface=interface)
        except QosError as error:
            return Unmeasurable(f"the way to {host.address} cannot be found out: {error.detail}")

    def obey(self, policy: Experiments) -> None:
        """Go by another policy from now on; `locate_all` has the paths follow.

        Raises:
            InvalidParameter: A network is none, or a number allows nothing; nothing has changed.
        """
        Budget(policy.share_ppm, policy.most_bps, policy.burst_bytes)
        table_of((*policy.allowed, *policy.forbidden))
        with self._lock:
            self._policy = self._experimenting.policy = policy
            if self._pathfinder is not None:
                self._pathfinder.allow(policy.allowed, policy.forbidden)
        # Without a thread nothing runs that would have to follow.
        self.do(self._experimenting.obey)

    def locate_all(self) -> None:
        """Look up the ways to all hosts anew, by the thread."""
        must_start = bool(self._subsystem.look(lambda engine: engine.tracked_hosts()))
        # Where no thread can be had now, it is done by the next one.
        with contextlib.suppress(OSError, RuntimeError):
            self.do(self._locate_all, must_start=must_start)

    def serve_sink(self, limits: SinkLimits | None) -> None:
        """Serve a sink from now on, or none; see `Runtime.serve_sink`."""
        self._sink.want(limits)
        self.do(lambda: None, must_start=limits is not None)

    def sink_state(self) -> tuple[bool, str]:
        """See `Runtime.sink_state`."""
        return self._sink.state()

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
                lambda: self._experimenting.carry_out(effect),
                must_start=isinstance(effect, StartExperiments),
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

    def _nudge(self) -> None:
        self.do(lambda: None)

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
            # What changed between the question for which it was started and now was not heard.
            self._work.append(self._locate_measured)
        idle_since_s = time.monotonic()
        try:
            while True:
                if self._experimenting.is_busy or self._work:
                    idle_since_s = time.monotonic()
                elif time.monotonic() - idle_since_s > _LINGER_S and self._may_end():
                    return
                poll.poll(1_000 * self._timeout_s())
                wake.take()
                try:
                    self._turn(changes)
                except Exception as error:  # noqa: BLE001 - told to everybody who waits
                    self._experimenting.break_off(error)
        finally:
            if changes is not None:
                changes.close()
            self._leave(wake)

    def _turn(self, changes: PathChanges | None) -> None:
        """Do what there is to do."""
        self._drain()
        self._sink.tend()
        if changes is not None and (changed := changes.read()):
            self._look_again(changed, changes)
        if self._experimenting.is_busy and time.monotonic() >= self._count_s:
            began_s = time.monotonic()
            self._count()
            ended_s = time.monotonic()
            self._count_s = ended_s + max(_COUNT_S, _COUNT_PART * (ended_s - began_s))
        self._subsystem.handle_timers()

    def _may_end(self) -> bool:
        """End the thread, unless somebody has just found something for it to do."""
        subsystem = self._subsystem
        if subsystem.until_timer_s() is not None:
            return False
        if subsystem.look(lambda engine: engine.tracked_hosts()):
            # What cannot be measured now may be as soon as something changes.
            return False
        with self._lock:
            if self._work or self._sink.is_wanted:
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
                experiments = self._experimenting.take_host()
        wake.close()
        if is_last:
            self._diagnosis.close()
            close_host(experiments)
            if not self._subsystem.is_open():
                self.rest()

    def _timeout_s(self) -> float:
        longest_s = _COUNT_S if self._experimenting.is_busy else _LINGER_S
        dues_s = (self._subsystem.until_timer_s(), self._sink.until_due_s())
        return min((longest_s, *(due_s for due_s in dues_s if due_s is not None)))

    def _drain(self) -> None:
        while True:
            with self._lock:
                if not self._work:
                    return
                work = self._work.popleft()
            work()

    def _look_again(self, changed: Collection[Change], changes: PathChanges) -> None:
        """Routes, links or neighbours have changed."""
        with self._lock:
            if self._pathfinder is not None:
                self._pathfinder.hear_failures(changes.take_failures())
        if Change.LINKS in changed:
            self._look_for_recreated()
        self._locate_all()

    def _look_for_recreated(self) -> None:
        """Has another interface the name of one over which a path led?"""
        with contextlib.suppress(OSError):
            # A kernel that cannot be asked is asked for each way at least.
            links = read_links()
            names = {link.name for link in links.values()}
            paths = self._subsystem.look(lambda engine: engine.tracked_paths())
            self._tell_recreated(
                {
                    path.interface
                    for path in paths
                    if path.interface not in links and path.interface_name in names
                }
            )

    def _tell_recreated(self, interfaces: Collection[int]) -> None:
        if interfaces:
            self._subsystem.tell(
                lambda engine, now_ns: engine.receive_interfaces_recreated(
                    interfaces, now_ns=now_ns
                )
            )

    def _locate_all(self) -> None:
        self._locate_measured()
        for host in self._subsystem.look(lambda engine: engine.unlocated_hosts()):
            # Of another network namespace's this one knows nothing.
            if host not in self._foreign:
                self._locate(host)

    def _locate_measured(self) -> None:
        for facts in self._subsystem.look(lambda engine: engine.tracked_paths()):
            self._locate(facts.host)

    def _locate(self, host: Endpoint) -> None:
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
            datagrams = self._subsystem.look(lambda engine: engine.watched_datagram_flows())
            traffic = self._subsystem.traffic(datagrams) if datagrams else {}
            self._subsystem.tell(
                lambda engine, now_ns: engine.receive_counters(
                    counters, loads, traffic, now_ns=now_ns
                )
            )


def _receive_path(host: Endpoint, found: Found, engine: Engine, now_ns: int) -> list[Effect]:
    return engine.receive_path(host, found, now_ns=now_ns)

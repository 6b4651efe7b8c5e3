"""A reading of everything, a page at a time.

Whoever reads is another thread than the one that serves programs. It takes the runtime's lock for
a page of flows or paths, a few tenths of a millisecond, and gives way after each, so that however
much there is, a program waits for one page. What the loop counts is copied without a lock.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Final

from openqwave.enforcement.bpf.totals import together
from openqwave.model.flow import TrafficType
from openqwave.model.traffic import FlowTraffic
from openqwave.service.metrics import catalogue as ct
from openqwave.service.metrics.applying import error_name
from openqwave.service.metrics.exposition import Reading
from openqwave.service.metrics.paths import PathSums
from openqwave.service.views import host_text
from openqwave.subsystem.engine import Engine
from openqwave.subsystem.views import PathState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from openqwave.enforcement.bpf.totals import Totals
    from openqwave.runtime.runtime import Runtime
    from openqwave.service.kernel import Kernel
    from openqwave.service.metrics.applying import CountedBackend
    from openqwave.service.metrics.catalogue import Metric
    from openqwave.service.metrics.exposition import Sample
    from openqwave.service.programs.carrying import Carrying
    from openqwave.service.server import Server
    from openqwave.subsystem.views import PathOverview, PathTally

# How many are looked at while the lock is held: a fifth of a millisecond each.
FLOWS_AT_ONCE: Final = 200
PATHS_AT_ONCE: Final = 16
TALLIES_AT_ONCE: Final = 200
SLOTS_AT_ONCE: Final = 1_024

_NS_PER_S: Final = 1_000_000_000
_BITS: Final = 8


@dataclass(frozen=True, slots=True)
class Sources:
    """Where numbers are from.

    Attributes:
        version: Of the software.
        runtime: The subsystem.
        server: Serves programs.
        kernel: What the service has in the kernel.
        applying: Counts what enforcement does.
        carrying: Has runs and rules carried out.
    """

    version: str
    runtime: Runtime
    server: Server
    kernel: Kernel
    applying: CountedBackend
    carrying: Carrying


class Collecting:
    """Reads everything."""

    def __init__(self, sources: Sources, paths: int, pause: Callable[[], None]) -> None:
        """Begin with sums of nothing.

        Args:
            sources: Where numbers are from.
            paths: Of how many paths single numbers are given, at most.
            pause: Gives way; raises where nobody wants to know any more.
        """
        self._sources = sources
        self._paths = paths
        self._pause = pause
        self._sums = PathSums()
        self._traffic = FlowTraffic()
        self._started_s = _started_s()

    def look(self) -> None:
        """Sum up what is so now; to be called once a second."""
        tallies: list[PathTally] = []
        more = True
        while more:
            ask = partial(Engine.path_tallies, after=len(tallies), limit=TALLIES_AT_ONCE)
            page, more = self._sources.runtime.look(ask)
            tallies += page
            self._pause()
        # A page may begin anew where paths were forgotten meanwhile.
        once = {tally.host: tally for tally in tallies}
        self._sums.take(once.values(), now_ns=time.monotonic_ns())

    def read(self) -> Iterator[Reading]:
        """Every metric of which something is known, in their order."""
        began_ns = time.monotonic_ns()
        self.look()
        server, applying = self._sources.server, self._sources.applying
        yield _one(ct.SERVICE, 1, (self._sources.version,))
        yield _one(ct.ENFORCEMENT, 1, (applying.name.replace(" ", "_"),))
        connections, handles = server.sizes()
        yield _one(ct.CONNECTIONS, connections)
        yield _one(ct.HANDLES, handles)
        yield Reading(ct.FLOWS, tuple(self._flows()))
        yield from self._requests()
        counts = server.incidents.counts.copy()
        incidents = [((_slug(kind),), count) for kind, count in counts.items()]
        yield Reading(ct.INCIDENTS, tuple(incidents))
        yield _one(ct.CHANGES, applying.changes)
        errors = [((error,), count) for error, count in applying.errors.copy().items()]
        yield Reading(ct.ENFORCEMENT_ERRORS, tuple(errors))
        yield _one(ct.RECONCILE_ERRORS, self._sources.kernel.failures)
        yield _one(ct.UNSERVED, self._sources.kernel.unserved_count)
        yield from self._of_programs()
        yield from self._sent()
        yield from self._of_paths()
        yield _one(ct.COLLECTING, (time.monotonic_ns() - began_ns) / _NS_PER_S)
        yield from self._process()

    # -- flows and requests -------------------------------------------------------------

    def _flows(self) -> Iterator[Sample]:
        runtime, now_ns = self._sources.runtime, time.monotonic_ns()
        flow_ids = runtime.look(lambda engine: engine.flow_ids())
        counts: Counter[tuple[TrafficType, PathState]] = Counter()
        for at in range(0, len(flow_ids), FLOWS_AT_ONCE):
            page = flow_ids[at : at + FLOWS_AT_ONCE]
            counts += runtime.look(partial(Engine.count_flows, flow_ids=page, now_ns=now_ns))
            self._pause()
        for kind, state in product(TrafficType, PathState):
            yield (kind.name.lower(), _slug(state.value)), counts[kind, state]

    def _requests(self) -> Iterator[Reading]:
        requests = self._sources.server.requests
        results = [
            ((kind, "done" if error is None else error_name(error.name)), count)
            for (kind, error), count in requests.results().items()
        ]
        yield Reading(ct.REQUESTS, tuple(results))
        durations = [((kind,), each) for kind, each in requests.durations().items()]
        yield Reading(ct.DURATION, tuple(durations))

    def _of_programs(self) -> Iterator[Reading]:
        runs, rules, in_force = self._sources.carrying.counts
        yield _one(ct.RUNS, runs)
        states = ((("in_force",), in_force), (("not_in_force",), rules - in_force))
        yield Reading(ct.RULES, states)

    # -- what was sent ------------------------------------------------------------------

    def _sent(self) -> Iterator[Reading]:
        totals = self._sources.kernel.totals
        if totals is None:
            return
        # Where the kernel cannot be asked, it is as it was.
        with contextlib.suppress(OSError):
            self._traffic = _most(self._traffic, self._sum(totals))
        sent = self._traffic
        for metric, within, above in (
            (ct.PACKETS, sent.packets, sent.excess_packets),
            (ct.BYTES, sent.bytes, sent.excess_bytes),
        ):
            yield Reading(metric, ((("conformant",), within), (("excess",), above)))
        yield _one(ct.DROPPED, sent.dropped_packets)

    def _sum(self, totals: Totals) -> FlowTraffic:
        """All that was ever counted; too little where a slot began anew while others were read."""
        runtime = self._sources.runtime
        summed, at = totals.retired, 1

        def read(_: Engine, at: int) -> tuple[FlowTraffic, int]:
            return totals.read(at, SLOTS_AT_ONCE)

        while at:
            page, at = runtime.look(partial(read, at=at))
            summed = together(summed, page)
            self._pause()
        return summed

    # -- paths --------------------------------------------------------------------------

    def _of_paths(self) -> Iterator[Reading]:
        sums = self._sums
        shown = self._shown()
        yield _one(ct.PATHS, sums.known)
        yield _one(ct.PATHS_LEFT_OUT, max(0, sums.known - len(shown)))
        yield _one(ct.CONGESTED, sums.congested)
        yield _one(ct.CONGESTION, sums.congestion_ns / _NS_PER_S)
        yield _one(ct.PROBE_BYTES, sums.probe_bytes)
        for metric, ask in _OF_A_PATH:
            found = [(name, ask(view)) for name, view in shown.items()]
            samples = [(name, number) for name, number in found if number is not None]
            yield Reading(metric, tuple(samples))

    def _shown(self) -> dict[tuple[str, str], PathOverview]:
        """The paths of which single numbers are given, by their labels."""
        shown: dict[tuple[str, str], PathOverview] = {}
        after, more = 0, self._paths > 0
        while more and after < self._paths:
            limit = min(PATHS_AT_ONCE, self._paths - after)
            now_ns = time.monotonic_ns()
            ask = partial(Engine.path_views, after=after, limit=limit, now_ns=now_ns)
            views, more = self._sources.runtime.look(ask)
            after += len(views)
            for view in views:
                facts = view.status.facts
                name = "" if facts is None else facts.interface_name
                shown[host_text(view.status.host, facts), name] = view
            self._pause()
        return shown

    # -- the process --------------------------------------------------------------------

    def _process(self) -> Iterator[Reading]:
        yield _one(ct.CPU, time.process_time())
        yield _one(ct.STARTED, self._started_s)
        with contextlib.suppress(OSError):
            mapped, resident = Path("/proc/self/statm").read_text(encoding="ascii").split()[:2]
            yield _one(ct.RESIDENT, int(resident) * resource.getpagesize())
            yield _one(ct.VIRTUAL, int(mapped) * resource.getpagesize())
        with contextlib.suppress(OSError):
            yield _one(ct.DESCRIPTORS, len(os.listdir("/proc/self/fd")))
        yield _one(ct.MOST_DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _one(metric: Metric, number: float, labels: tuple[str, ...] = ()) -> Reading:
    return Reading(metric, ((labels, number),))


def _slug(words: str) -> str:
    return words.replace(" ", "_")


def _per_s(rate_bps: int | None) -> float | None:
    return None if rate_bps is None else rate_bps / _BITS


def _seconds(time_ns: int | None) -> float | None:
    return None if time_ns is None else time_ns / _NS_PER_S


def _is_congested(view: PathOverview) -> float | None:
    verdict = view.status.congestion.is_congested
    return None if verdict is None else int(verdict)


_OF_A_PATH: Final[tuple[tuple[Metric, Callable[[PathOverview], float | None]], ...]] = (
    (ct.PATH_CAPACITY, lambda view: _per_s(view.status.fundamentals.bottleneck_bps)),
    (ct.PATH_AVAILABLE, lambda view: _per_s(view.status.fundamentals.available_bps)),
    (ct.PATH_HELD, lambda view: _per_s(view.status.held_bps)),
    (ct.PATH_RTT, lambda view: _seconds(view.status.fundamentals.rtt_ns)),
    (ct.PATH_AGE, lambda view: _seconds(view.status.age_ns)),
    (ct.PATH_CONGESTED, _is_congested),
)


def _most(before: FlowTraffic, now: FlowTraffic) -> FlowTraffic:
    """What only grows: the larger of two readings, in each of their parts."""
    return FlowTraffic(
        max(before.packets, now.packets),
        max(before.bytes, now.bytes),
        max(before.excess_packets, now.excess_packets),
        max(before.excess_bytes, now.excess_bytes),
        max(before.dropped_packets, now.dropped_packets),
    )


def _started_s() -> float:
    """When the process was started, since 1970."""
    since_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        # Field 22 of proc(5); the second may hold spaces, and ends with the last bracket.
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
        ticks = int(fields.rpartition(")")[2].split()[19])
    except OSError:
        return time.time()
    return round(time.time() - since_boot_s + ticks / os.sysconf("SC_CLK_TCK"), 2)

"""Stand-ins for what measures: ways, sessions and hosts of experiments that do as a test says.

On loopback there is no path to measure: the ways there come from a stand-in for `Pathfinder`, which
would say that the address is this host's own. Sessions tell what the test wrote, and note what they
are told.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from openqwave.drivers.mailbox import Mailbox
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import OperationAborted
from openqwave.model.estimates import (
    Doubt,
    Estimate,
    Estimated,
    FlowCounters,
    Inconclusive,
    PathReport,
)
from openqwave.model.path import LinkType, PathFacts
from openqwave.probing.budget import Budget
from openqwave.probing.session import Event
from openqwave.probing.sink import Sink
from openqwave.probing.tracking import Effort
from openqwave.probing.tracking import Estimated as Told
from openqwave.runtime import experimenting, surveying
from tests.patience import until
from tests.unit.driven import endpoint

if TYPE_CHECKING:
    from openqwave.runtime.probetags import ProbeTags
    from openqwave.subsystem.requests import Found

HERE = endpoint("127.0.0.1", 0)
MBIT = 1_000_000
PATIENCE_S = 20.0
NAMES = ("openqwave-paths", "openqwave-experiments")


def way(host: Endpoint, interface: int = 1) -> PathFacts:
    return PathFacts(host, interface, "lo", host.packed, b"", 65_536, LinkType.LOOPBACK)


class Ways:
    """A stand-in for `Pathfinder`: every host is on the link, if the test does not say otherwise.

    Attributes:
        otherwise: What is found of hosts, where the test says so.
        interface: The number that the interface has now.
        networks: What was allowed and forbidden, each time that it was.
    """

    otherwise: ClassVar[dict[Endpoint, Found]] = {}
    interface: ClassVar[int] = 1
    networks: ClassVar[list[tuple[tuple[str, ...], tuple[str, ...]]]] = []

    def __init__(self, allowed: tuple[str, ...] = (), forbidden: tuple[str, ...] = ()) -> None:
        self.allow(allowed, forbidden)

    def allow(self, allowed: tuple[str, ...], forbidden: tuple[str, ...]) -> None:
        self.networks.append((allowed, forbidden))

    def find(self, host: Endpoint, *, interface: int = 0) -> Found:
        return self.otherwise.get(host) or way(host, interface or self.interface)

    def hear_failures(self, _: object) -> None:
        return

    def close(self) -> None:
        return


class Follower:
    """A stand-in for `Tracking`: notes what it is told."""

    def __init__(self, _: object, budget: Budget, **__: object) -> None:
        self.heard: list[object] = []
        self.budget = budget

    def set_effort(self, effort: Effort, *, now_ns: int) -> None:
        assert 0 < now_ns <= time.monotonic_ns()
        self.heard.append(effort)

    def measure_afresh(self, *, now_ns: int) -> None:
        assert 0 < now_ns <= time.monotonic_ns()
        self.heard.append("afresh")


class Run:
    """A stand-in for `Running`: one session that was begun."""

    def __init__(
        self,
        session: Follower,
        peer: Endpoint,
        mailbox: Mailbox,
        tags: ProbeTags | None,
    ) -> None:
        self.session, self.peer, self.mailbox, self.tags = session, peer, mailbox, tags
        self.is_cancelled = False

    def do(self, action: Callable[[int], object]) -> object:
        if self.mailbox.is_closed:
            raise OperationAborted("over")
        return action(time.monotonic_ns())

    def cancel(self) -> None:
        self.is_cancelled = True
        self.mailbox.close()


class Served(Run):
    """A stand-in for `Serving`: a sink that was begun."""

    def __init__(self, sink: Sink, mailbox: Mailbox) -> None:
        self.sink, self.mailbox = sink, mailbox
        self.is_cancelled = False

    @property
    def is_over(self) -> bool:
        return self.mailbox.is_closed


class Stage:
    """A stand-in for all `ExperimentHost`s; it is called as the class is.

    Attributes:
        runs: The sessions that were begun.
        sinks: The sinks.
        errors: What goes wrong with those that are to be begun next.
        answers: What each session says at once.
        allowed: Of each host, by turns, the networks that it was given.
    """

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.sinks: list[Served] = []
        self.sink_errors: list[Exception] = []
        self.allowed: list[list[tuple[str, ...]]] = []
        self.open_hosts = self.made_hosts = 0
        self.errors: list[Exception] = []
        self.answers: list[Event] = []
        self._lock = threading.Lock()

    def __call__(self, allowed: tuple[str, ...]) -> StagedHost:
        with self._lock:
            self.open_hosts += 1
            self.made_hosts += 1
            self.allowed.append([allowed])
        return StagedHost(self, self.allowed[-1])

    def latest(self, count: int = 1) -> Run:
        """The last of so many sessions that were begun."""
        until(lambda: len(self.runs) >= count)
        assert len(self.runs) == count
        return self.runs[-1]

    def sink(self, count: int = 1) -> Served:
        """The last of so many sinks that were begun."""
        until(lambda: len(self.sinks) >= count)
        assert len(self.sinks) == count
        return self.sinks[-1]


class StagedHost:
    """One of them."""

    def __init__(self, stage: Stage, allowed: list[tuple[str, ...]]) -> None:
        self.stage = stage
        self.allowed = allowed
        self.is_open = True

    def start(self) -> None:
        assert threading.current_thread().name == NAMES[0], "no caller waits for this"

    def run(
        self,
        session: Any,  # noqa: ANN401 - a stand-in
        peer: Endpoint,
        mailbox: Mailbox,
        tags: ProbeTags | None,
    ) -> Run:
        assert self.is_open
        if self.stage.errors:
            raise self.stage.errors.pop(0)
        run = Run(session, peer, mailbox, tags)
        self.stage.runs.append(run)
        for event in self.stage.answers:
            mailbox.put(event)
        return run

    def serve(self, sink: Sink, mailbox: Mailbox) -> Served:
        assert self.is_open
        assert threading.current_thread().name == NAMES[0]
        if self.stage.sink_errors:
            raise self.stage.sink_errors.pop(0)
        served = Served(sink, mailbox)
        self.stage.sinks.append(served)
        return served

    def call(self, action: Callable[[StagedHost], object]) -> object:
        assert self.is_open
        # The loop that it is told to do something with is itself.
        return action(self)

    def allow(self, networks: tuple[str, ...]) -> None:
        self.allowed.append(networks)

    def close(self) -> None:
        assert self.is_open, "closed twice"
        self.is_open = False
        with self.stage._lock:  # noqa: SLF001 - the stage's own
            self.stage.open_hosts -= 1


class Counters:
    """A stand-in for `SocketDiagnosis`."""

    error: Exception | None = None

    def counters(self, cookies: Collection[int]) -> dict[int, FlowCounters]:
        error, Counters.error = Counters.error, None
        if error is not None:
            raise error
        return dict.fromkeys(cookies, FlowCounters())

    def close(self) -> None:
        return


# Threads of the process's own subsystem may linger from other tests.
STRANGERS: set[threading.Thread] = set()


def threads() -> list[threading.Thread]:
    """The threads of what measures, as far as a test here began them."""
    return [
        thread
        for thread in threading.enumerate()
        if thread.name in NAMES and thread not in STRANGERS
    ]


def ended() -> None:
    """Wait until no thread is left of what measures."""
    until(lambda: not threads())


def number(value: int) -> Estimate:
    return Estimate(value, value - 1, value + 1, 0.9, "by hand")


UNKNOWN = Inconclusive(Doubt.NO_SAMPLES)


def told(available_bps: int | None, since_ns: int = 0) -> Told:
    available: Estimated = UNKNOWN if available_bps is None else number(available_bps)
    report = PathReport(
        number(20 * MBIT), available, number(1_500_000), UNKNOWN, UNKNOWN, UNKNOWN, None, "wire"
    )
    return Told(report, since_ns, 4_711)


@contextmanager
def impatiently(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The ways of loopback, or what the test says, and a thread that ends soon."""
    STRANGERS.update(threads())
    monkeypatch.setattr(Ways, "otherwise", {})
    monkeypatch.setattr(Ways, "interface", 1)
    monkeypatch.setattr(Ways, "networks", [])
    monkeypatch.setattr(surveying, "Pathfinder", Ways)
    monkeypatch.setattr(surveying, "_LINGER_S", 0.02)
    yield


@contextmanager
def staged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Sessions that do as the test says; afterwards everything has ended."""
    made = Stage()
    monkeypatch.setattr(experimenting, "ExperimentHost", made)
    monkeypatch.setattr(experimenting, "Tracking", Follower)
    monkeypatch.setattr(surveying, "SocketDiagnosis", Counters)
    yield made
    ended()
    assert made.open_hosts == 0

"""The thread that measures paths for the subsystem inside the process.

On loopback there is no path to measure: the ways there come from a stand-in for `Pathfinder`, which
would say that the address is this host's own. Most tests measure nothing either: stand-ins for
`ExperimentHost` and `Tracking` tell what the test wrote, and note what they are told. The tests of
the port, of descriptors, of forks and of the process's end run the real ones, in a network of
their own where the process may make one.
"""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

import openqwave as qw
from openqwave.admission.policy import Experiments, Policy
from openqwave.client.embedded import Embedded
from openqwave.drivers.clock import SystemClock
from openqwave.drivers.mailbox import Mailbox
from openqwave.drivers.pathchanges import PathChanges
from openqwave.drivers.ports import holder_of
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import GeneralFailure, OperationAborted
from openqwave.model.estimates import (
    Congestion,
    CongestionReason,
    Fundamentals,
    PathView,
)
from openqwave.model.path import PathFacts
from openqwave.probing.outcomes import Ended, Failed, Failure
from openqwave.probing.tracking import CongestionTold, Effort
from openqwave.runtime import experimenting, surveying
from tests.conftest import open_descriptors
from tests.patience import until
from tests.unit.driven import endpoint
from tests.unit.experiment_stage import PORT, own_network
from tests.unit.loopback import Bench, options_of
from tests.unit.own_subsystem import open_in, own_subsystem
from tests.unit.surveying_stage import (
    HERE,
    MBIT,
    NAMES,
    PATIENCE_S,
    Counters,
    Stage,
    ended,
    impatiently,
    staged,
    threads,
    told,
    way,
)
from tests.unit.test_process_end import in_child

POLICY = Policy(experiments=Experiments(answer_ns=int(PATIENCE_S * 1e9), warm_ns=1_000_000))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with impatiently(monkeypatch):
        yield


@pytest.fixture
def stage(fd_guard: None, impatient: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    del fd_guard, impatient
    with staged(monkeypatch) as made:
        yield made


@pytest.fixture
def host(stage: Stage) -> Iterator[Embedded]:
    del stage
    with own_subsystem(POLICY, clock=cast("Any", SystemClock())) as made:
        yield made


@pytest.fixture
def flow(host: Embedded, sockets: Bench) -> qw.Flow:
    return open_in(host).add_socket(
        sockets.make("tcp4 connected"), traffic_type=qw.TrafficType.VOICE
    )


# -- what is begun and ended ----------------------------------------------------------


def test_programs_that_only_mark_have_no_thread(
    host: Embedded, stage: Stage, sockets: Bench
) -> None:
    open_in(host).add_socket(sockets.make("udp4 connected"), adaptive=False)
    assert (threads(), stage.made_hosts) == ([], 0)


def test_experiments_begin_with_the_first_path(
    host: Embedded, stage: Stage, sockets: Bench
) -> None:
    qos = open_in(host)
    flows = [qos.add_socket(sockets.make("udp4 connected")) for _ in range(2)]
    run = stage.latest()
    assert run.peer == HERE
    # A path is measured once, however many want it; another one, by the same host.
    qos.track("127.0.0.2")
    assert stage.latest(2).peer == endpoint("127.0.0.2", 0)
    assert stage.made_hosts == 1
    assert len(threads()) == 1
    for flow in flows:
        flow.close()
    until(lambda: run.is_cancelled)
    assert not stage.runs[1].is_cancelled
    qos.close()
    ended()
    assert stage.runs[1].is_cancelled


def test_the_thread_begins_anew(host: Embedded, stage: Stage) -> None:
    for count in (1, 2, 3):
        with open_in(host) as qos:
            qos.track("127.0.0.1")
            stage.latest(count)
        ended()
    assert stage.made_hosts == 3


# -- what is told ---------------------------------------------------------------------


def test_estimates_become_views(flow: qw.Flow, stage: Stage) -> None:
    mailbox = stage.latest().mailbox
    with pytest.raises(qw.NoData):
        flow.fundamentals()
    mailbox.put(told(6 * MBIT))
    until(lambda: flow.path().age_ns is not None)
    status = flow.path()
    assert status.fundamentals == Fundamentals(20 * MBIT, 6 * MBIT, 1_500_000)
    assert (status.available_low_bps, status.confidence) == (6 * MBIT - 1, 0.9)
    assert (status.sent_bytes, status.obstacle) == (4_711, "")
    # What is not known stays unknown.
    mailbox.put(told(None))
    until(lambda: flow.path().fundamentals.available_bps is None)
    assert flow.fundamentals() == Fundamentals(20 * MBIT, None, 1_500_000)


def test_a_rate_waits_for_the_first_estimate(flow: qw.Flow, stage: Stage) -> None:
    with ThreadPoolExecutor(1) as pool:
        setting = pool.submit(flow.set_rate, 6 * MBIT)
        until(lambda: Effort.ALERT in stage.latest().session.heard)
        stage.latest().mailbox.put(told(6 * MBIT))
        setting.result(PATIENCE_S)
    assert flow.rate_bps() == 6 * MBIT


def test_verdicts_are_forwarded_and_outlive_estimates(flow: qw.Flow, stage: Stage) -> None:
    mailbox = stage.latest().mailbox
    verdict = Congestion(True, CongestionReason.DELAY, "40 ms")
    mailbox.put(CongestionTold(verdict))
    flow.wait_congested(PATIENCE_S)
    mailbox.put(told(6 * MBIT))
    until(lambda: flow.path().age_ns is not None)
    assert flow.path().congestion == verdict
    mailbox.put(CongestionTold(Congestion(False)))
    flow.wait_uncongested(PATIENCE_S)


MEANINGS: dict[Failure, type[qw.QosError]] = {
    Failure.NO_SINK: qw.NotSupported,
    Failure.DECLINED: qw.NotSupported,
    Failure.UNREACHABLE: qw.HostUnreachable,
    Failure.CONNECT_TIMED_OUT: qw.TimedOut,
    Failure.NO_AGREEMENT: qw.TimedOut,
    Failure.NO_SUMMARY: qw.TimedOut,
    Failure.CLOSED: qw.UnexpectedNetworkError,
    Failure.MALFORMED: qw.UnexpectedNetworkError,
    Failure.UNEXPECTED: qw.UnexpectedNetworkError,
    Failure.UNSENT: qw.UnexpectedNetworkError,
}


@pytest.mark.parametrize("reason", Failure, ids=lambda reason: reason.name)
def test_what_failures_mean(flow: qw.Flow, stage: Stage, reason: Failure) -> None:
    run = stage.latest()
    run.mailbox.put(Failed(1, reason, "it was so"))
    until(lambda: flow.path().obstacle != "")
    with pytest.raises(MEANINGS[reason]) as caught:
        flow.fundamentals()
    assert type(caught.value) is MEANINGS[reason]
    assert reason.value in str(caught.value)
    assert run.is_cancelled
    if MEANINGS[reason] is qw.NotSupported:
        assert "qwave sink" in str(caught.value)
        # "shaping and marking work without admission"
        flow.set_rate(MBIT)
    else:
        assert "it was so" in str(caught.value)
        with pytest.raises((qw.HostUnreachable, qw.UnexpectedNetworkError)):
            flow.set_rate(MBIT)


def test_an_end_in_order_is_a_failure_too(flow: qw.Flow, stage: Stage) -> None:
    stage.latest().mailbox.put(Ended(1))
    until(lambda: "ended" in flow.path().obstacle)
    with pytest.raises(qw.UnexpectedNetworkError):
        flow.fundamentals()


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (None, qw.UnexpectedNetworkError),
        (ZeroDivisionError("in a session"), qw.UnexpectedNetworkError),
        (GeneralFailure("the experiment host broke"), qw.UnexpectedNetworkError),
        (OperationAborted("the experiment host is closed"), qw.UnexpectedNetworkError),
        (qw.HostUnreachable("no route"), qw.HostUnreachable),
        (qw.AccessDenied("not for you"), qw.NotSupported),
        (qw.DisabledByPolicy("behind a router"), qw.NotSupported),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Exception) else "",
)
@pytest.mark.parametrize("moment", ["at the beginning", "later"])
def test_sessions_that_break(
    host: Embedded,
    stage: Stage,
    sockets: Bench,
    error: Exception | None,
    raised: type[qw.QosError],
    moment: str,
) -> None:
    if moment == "at the beginning":
        stage.errors = [error or ValueError("no session")]
    flow = open_in(host).add_socket(sockets.make("tcp4 connected"))
    if moment == "later":
        stage.latest().mailbox.close(error)
    until(lambda: flow.path().obstacle != "")
    with pytest.raises(raised) as caught:
        flow.fundamentals()
    assert type(caught.value) is raised


def test_a_host_that_broke_is_replaced(host: Embedded, stage: Stage, sockets: Bench) -> None:
    stage.errors = [GeneralFailure("the experiment host broke")]
    qos = open_in(host)
    flow = qos.add_socket(sockets.make("tcp4 connected"))
    until(lambda: flow.path().obstacle != "")
    qos.track("127.0.0.2")
    assert stage.latest().peer == endpoint("127.0.0.2", 0)
    assert (stage.made_hosts, stage.open_hosts) == (2, 1)


def test_the_thread_outlives_what_goes_wrong(flow: qw.Flow, stage: Stage, host: Embedded) -> None:
    run = stage.latest()
    run.mailbox.put(told(6 * MBIT))
    until(lambda: flow.path().age_ns is not None)
    Counters.error = ZeroDivisionError("of no use")
    until(lambda: "of no use" in flow.path().obstacle)
    assert run.is_cancelled
    with pytest.raises(qw.UnexpectedNetworkError):
        flow.set_rate(MBIT)
    # It begins again after a pause.
    second = stage.latest(2)
    second.mailbox.put(told(5 * MBIT))
    until(lambda: flow.path().obstacle == "")
    flow.set_rate(5 * MBIT)
    assert host.is_open()


def test_a_session_that_was_replaced_says_nothing(
    flow: qw.Flow, stage: Stage, host: Embedded
) -> None:
    first = stage.latest()
    forwarded = first.mailbox
    # The way leads over another interface now.
    host.tell(lambda engine, now_ns: engine.receive_path(HERE, way(HERE, 2), now_ns=now_ns))
    second = stage.latest(2)
    assert first.is_cancelled
    forwarded.put(told(MBIT))
    forwarded.put(CongestionTold(Congestion(True)))
    forwarded.put(Failed(1, Failure.CLOSED))
    forwarded.close(ZeroDivisionError("late"))
    second.mailbox.put(told(6 * MBIT))
    until(lambda: flow.path().age_ns is not None)
    status = flow.path()
    assert (status.fundamentals.available_bps, status.obstacle) == (6 * MBIT, "")
    assert status.congestion == Congestion()
    assert not second.is_cancelled


def test_effort_and_wishes_reach_the_session(flow: qw.Flow, stage: Stage) -> None:
    heard = stage.latest().session.heard
    stage.latest().mailbox.put(told(6 * MBIT))
    until(lambda: flow.path().age_ns is not None)
    assert heard == []
    flow.set_rate(MBIT)
    until(lambda: heard == [Effort.ALERT])
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(flow.fundamentals, fresh=True)
        until(lambda: heard == [Effort.ALERT, "afresh"])
        stage.latest().mailbox.put(told(5 * MBIT, time.monotonic_ns()))
        assert asking.result(PATIENCE_S).available_bps == 4 * MBIT
    flow.set_rate(0)
    until(lambda: heard == [Effort.ALERT, "afresh", Effort.LIGHT])


def test_a_wish_for_what_has_just_ended_is_no_harm(flow: qw.Flow, stage: Stage) -> None:
    run = stage.latest()
    run.mailbox.put(told(6 * MBIT))
    until(lambda: flow.path().age_ns is not None)
    # Closed in the experiments' thread; the word of it is on its way.
    Mailbox.close(run.mailbox)
    flow.set_rate(MBIT)
    run.mailbox.put(told(5 * MBIT))
    until(lambda: flow.path().fundamentals.available_bps == 5 * MBIT)


# -- what is remembered ---------------------------------------------------------------


class Remembering:
    """A memory that holds what a test says, and notes what it is told."""

    def __init__(self) -> None:
        self.known: dict[Endpoint, PathView] = {}
        self.kept: list[tuple[PathFacts, PathView]] = []
        self.asked: list[tuple[PathFacts, str]] = []
        self.error: Exception | None = None

    def recall(self, facts: PathFacts) -> PathView | None:
        self.asked.append((facts, threading.current_thread().name))
        if self.error is not None:
            raise self.error
        return self.known.get(facts.host)

    def keep(self, facts: PathFacts, view: PathView) -> None:
        assert threading.current_thread().name == NAMES[0]
        self.kept.append((facts, view))


@pytest.fixture
def memory(host: Embedded) -> Remembering:
    made = host._memory = Remembering()  # noqa: SLF001 - only the service has one
    return made


def test_what_is_remembered_is_known_as_experiments_begin(
    host: Embedded, memory: Remembering, stage: Stage, sockets: Bench
) -> None:
    since_ns = time.monotonic_ns() - 10**9
    memory.known[HERE] = PathView(Fundamentals(20 * MBIT, 6 * MBIT, 5), since_ns=since_ns)
    flow = open_in(host).add_socket(
        sockets.make("tcp4 connected"), traffic_type=qw.TrafficType.VOICE
    )
    # Nothing is measured yet.
    flow.set_rate(5 * MBIT)
    with pytest.raises(qw.NetworkBusy):
        flow.set_rate(7 * MBIT)
    age_ns = flow.path().age_ns
    assert age_ns is not None
    assert 10**9 <= age_ns < 10**9 * PATIENCE_S
    # Asked once, and by the thread that measures.
    assert memory.asked == [(way(HERE), NAMES[0])]
    assert memory.kept == []
    stage.latest().mailbox.put(told(9 * MBIT))
    until(lambda: flow.path().fundamentals.available_bps == 9 * MBIT)


def test_what_is_remembered_may_be_old_or_nothing(
    host: Embedded, memory: Remembering, stage: Stage, sockets: Bench
) -> None:
    memory.known[HERE] = PathView(Fundamentals(20 * MBIT, 6 * MBIT, 5), since_ns=0)
    qos = open_in(host)
    flow = qos.add_socket(sockets.make("tcp4 connected"))
    stage.latest()
    with pytest.raises(qw.NoData):
        flow.fundamentals()
    qos.track("127.0.0.2")
    stage.latest(2)
    assert [facts.host for facts, _ in memory.asked] == [HERE, endpoint("127.0.0.2", 0)]


def test_what_experiments_tell_is_kept(flow: qw.Flow, memory: Remembering, stage: Stage) -> None:
    mailbox = stage.latest().mailbox
    mailbox.put(CongestionTold(Congestion(False)))
    mailbox.put(told(6 * MBIT, 17))
    until(lambda: len(memory.kept) == 1)
    known = Fundamentals(20 * MBIT, 6 * MBIT, 1_500_000)
    view = PathView(known, Congestion(False), 6 * MBIT - 1, 0.9, 17, 4_711)
    assert memory.kept == [(way(HERE), view)]
    # A congestion between two estimates is kept with the last of them; its end is not, because
    # what is free then is still to be found out.
    verdict = Congestion(True, CongestionReason.DELAY, "40 ms")
    mailbox.put(CongestionTold(verdict))
    until(lambda: len(memory.kept) == 2)
    assert memory.kept[1] == (way(HERE), PathView(known, verdict, 6 * MBIT - 1, 0.9, 17, 4_711))
    mailbox.put(CongestionTold(Congestion(False)))
    until(lambda: flow.path().congestion.is_congested is False)
    assert len(memory.kept) == 2


def test_a_congestion_before_anything_is_known_is_not_kept(
    flow: qw.Flow, memory: Remembering, stage: Stage
) -> None:
    stage.latest().mailbox.put(CongestionTold(Congestion(True)))
    until(lambda: flow.path().congestion.is_congested is True)
    assert memory.kept == []


def test_a_memory_that_fails_fails_alone(
    host: Embedded, memory: Remembering, stage: Stage, sockets: Bench
) -> None:
    qos = open_in(host)
    qos.track("127.0.0.2")
    other = stage.latest()
    memory.error = ZeroDivisionError("in a memory")
    flow = qos.add_socket(sockets.make("tcp4 connected"))
    until(lambda: "in a memory" in flow.path().obstacle)
    memory.error = None
    # It begins again after a pause, as with every trouble.
    assert stage.latest(2).peer == HERE
    assert not other.is_cancelled


def test_books_of_paths_that_are_over_are_not_kept_for_ever(
    host: Embedded, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experimenting, "_MANY_BUDGETS", 3)
    for number in range(2, 12):
        with open_in(host) as qos:
            qos.track(f"127.0.0.{number}")
            run = stage.latest(number - 1)
            if number == 2:
                # What was spent is remembered for as long as it counts.
                run.session.budget.spend(1, None, now_ns=time.monotonic_ns())
        until(lambda run=run: run.is_cancelled)  # type: ignore[misc]
    budgets = host._surveyor._experimenting._budgets  # type: ignore[union-attr] # noqa: SLF001
    assert len(budgets) <= 4
    assert endpoint("127.0.0.2", 0) in budgets


# -- at once --------------------------------------------------------------------------


def test_many_threads_at_once(host: Embedded, stage: Stage, sockets: Bench) -> None:
    # Each begins what ends a moment later: threads and experiment hosts come and go meanwhile.
    stage.answers = [told(1_000 * MBIT)]
    socks = [sockets.make("tcp4 connected") for _ in range(6)]

    def work(sock: socket.socket) -> int:
        granted = 0
        for _ in range(25):
            with open_in(host) as qos:
                flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE)
                flow.set_rate(MBIT)
                granted += options_of(sock).tos == 56 << 2
            if granted % 8 == 0:
                time.sleep(0.03)
        return granted

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(len(socks)) as pool:
        patch.setattr(surveying, "_LINGER_S", 0.0)
        assert list(pool.map(work, socks)) == [25] * len(socks)
    assert [options_of(sock).tos for sock in socks] == [0] * len(socks)
    ended()
    assert stage.open_hosts == 0


def test_a_thread_that_begins_as_another_ends(
    host: Embedded, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The one that ends leaves alone what the other uses.
    is_ending, may_end = threading.Event(), threading.Event()

    class Changes(PathChanges):
        def close(self) -> None:
            super().close()
            is_ending.set()
            may_end.wait(PATIENCE_S)

    monkeypatch.setattr(surveying, "PathChanges", Changes)
    with open_in(host) as qos:
        qos.track("127.0.0.1")
        stage.latest()
    assert is_ending.wait(PATIENCE_S)
    with open_in(host) as qos:
        qos.track("127.0.0.1")
        second = stage.latest(2)
        may_end.set()
        until(lambda: len(threads()) == 1)
        assert (stage.open_hosts, second.is_cancelled) == (1, False)


def test_a_thread_that_cannot_be_had(
    host: Embedded, stage: Stage, sockets: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sock = sockets.make("tcp4 connected")
    with monkeypatch.context() as patch:
        patch.setattr(surveying, "Wake", failing(OSError(24, "Too many open files")))
        flow = open_in(host).add_socket(sock, traffic_type=qw.TrafficType.VOICE)
        for call in (lambda: flow.set_rate(MBIT), lambda: flow.fundamentals(fresh=True)):
            with pytest.raises(qw.NoSystemResources):
                call()
        assert threads() == []
    # What could not be begun then is now, and nothing was left waiting.
    stage.answers = [told(6 * MBIT)]
    with pytest.raises(qw.TimedOut):
        flow.wait_congested(0)
    flow.set_rate(5 * MBIT)
    assert stage.latest().peer == HERE


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_ctrl_c_as_the_thread_begins(
    host: Embedded, stage: Stage, sockets: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(threading.Thread):
        def start(self) -> None:
            super().start()
            raise KeyboardInterrupt

    qos = open_in(host)
    with monkeypatch.context() as patch:
        patch.setattr(threading, "Thread", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            qos.add_socket(sockets.make("tcp4 connected"))
    assert stage.latest().peer == HERE
    stage.latest().mailbox.put(told(6 * MBIT))
    flow = qos.add_socket(sockets.make("tcp4 connected"), traffic_type=qw.TrafficType.VOICE)
    flow.set_rate(MBIT)
    assert len(threads()) == 1


def test_ctrl_c_as_a_request_begins_to_wait(
    flow: qw.Flow, stage: Stage, host: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(surveying.Surveyor, "wake", failing(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            flow.set_rate(MBIT)
    stage.latest().mailbox.put(told(6 * MBIT))
    until(lambda: flow.path().age_ns is not None)
    assert flow.path().held_bps == 0
    assert host.until_timer_s() is None


# -- the real ones --------------------------------------------------------------------

OTHER = """
import sys
from openqwave.drivers.experiments import ExperimentHost
from openqwave.probing.sink import Sink
with ExperimentHost() as host:
    host.serve(Sink())
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def real(fd_guard: None, impatient: None) -> Iterator[Embedded]:
    del fd_guard, impatient
    with own_network():
        with own_subsystem(POLICY, clock=cast("Any", SystemClock())) as made:
            yield made
        ended()
        gc.collect()


def test_a_port_that_another_process_has(real: Embedded, sockets: Bench) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            qos = open_in(real)
            flow = qos.add_socket(sockets.make("tcp4 connected"))
            until(lambda: flow.path().obstacle != "")
            calls: list[Callable[[], object]] = [
                flow.fundamentals,
                lambda: flow.fundamentals(fresh=True),
                flow.wait_congested,
                lambda: qos.track("127.0.0.1"),
            ]
            for call in calls:
                with pytest.raises(qw.NotSupported, match=rf"\(process {other.pid}\)"):
                    call()
            flow.set_rate(MBIT)
        finally:
            other.communicate()


def test_nothing_stays_open(real: Embedded, sockets: Bench) -> None:
    before = open_descriptors()
    with open_in(real) as qos:
        flow = qos.add_socket(sockets.make("tcp4 connected"))
        until(lambda: len(threads()) == len(NAMES))
        until(lambda: "qwave sink" in flow.path().obstacle)
    ended()
    left = open_descriptors().items() - before.items()
    assert {what for _, what in left if not what.startswith("socket:")} == set()
    assert holder_of("udp", PORT) == ""


def test_a_forked_child_has_no_thread_and_no_handles(real: Embedded, sockets: Bench) -> None:
    qos = open_in(real)
    flow = qos.add_socket(sockets.make("tcp4 connected"))
    until(lambda: len(threads()) == len(NAMES))

    def body() -> int:
        if threads():
            return 1
        calls: list[Callable[[], object]] = [
            lambda: flow.set_rate(MBIT),
            lambda: flow.fundamentals(fresh=True),
            flow.path,
            flow.wait_congested,
            lambda: qos.track("127.0.0.2"),
            lambda: qos.add_socket(sockets.make("udp4 connected")),
        ]
        for call in calls:
            try:
                call()
            except qw.InvalidHandle:
                continue
            return 2
        return 1 if threads() else 0

    with warnings.catch_warnings():
        # Later versions of Python warn of what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        assert in_child(body) == 0
    # The parent's goes on.
    until(lambda: "qwave sink" in flow.path().obstacle)
    flow.set_rate(MBIT)


ADAPTIVE = """
import contextlib, socket, sys, threading
import openqwave as qw
from openqwave.runtime import experimenting, surveying
from openqwave.drivers.pathfinder import Pathfinder
from openqwave.model.path import LinkType, PathFacts
sys.path.insert(0, {root!r})
from tests.unit.surveying_stage import Ways
surveying.Pathfinder = Ways
listener = socket.create_server(("127.0.0.1", 0))
sock = socket.create_connection(listener.getsockname())
flow = qw.open().add_socket(sock, traffic_type=qw.TrafficType.VOICE)
while len(threading.enumerate()) < 3:
    pass
print(sorted(thread.name for thread in threading.enumerate()))
sock.detach(); listener.detach()
{body}
"""

ENDINGS = {
    "falls off the end": ("", 0),
    "sys.exit": ("sys.exit(7)", 7),
    "somebody waits": (
        # Told or not that it was aborted: the process may end before the thread runs again.
        "def wait():\n"
        "    with contextlib.suppress(qw.OperationAborted):\n"
        "        flow.wait_congested()\n"
        "threading.Thread(target=wait, daemon=True).start()",
        0,
    ),
    "a request is pending": (
        "flow.session.notify(flow.id, qw.NoticeKind.CONGESTED, None)",
        0,
    ),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_the_threads_do_not_hold_up_the_end(how: str) -> None:
    body, code = ENDINGS[how]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    program = ADAPTIVE.format(root=root, body=body)
    with own_network(), socket.create_server(("127.0.0.1", PORT)):
        # Somebody accepts there and says nothing, so that experiments are under way.
        began_s = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        took_s = time.monotonic() - began_s
    assert (done.returncode, done.stderr) == (code, "")
    assert "openqwave-experiments" in done.stdout
    # No linger, no warm path, no wait for an answer: those are seconds and minutes.
    assert took_s < 30

"""A sink that a runtime serves beside its own experiments: kept alive, told of, never in the way.

Most tests serve a stand-in, which ends when the test says so; those of the port serve a real one,
in a network of their own where the process may make one.
"""

from __future__ import annotations

import itertools
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from openqwave.admission.policy import Experiments, Policy
from openqwave.client.embedded import Embedded
from openqwave.drivers.clock import SystemClock
from openqwave.drivers.ports import PortTaken, holder_of
from openqwave.model.errors import GeneralFailure, QosError
from openqwave.probing.sink_limits import SinkLimits
from openqwave.runtime import ownsink, surveying
from tests.conftest import open_descriptors
from tests.patience import until
from tests.unit.experiment_stage import PORT, own_network
from tests.unit.own_subsystem import open_in, own_subsystem
from tests.unit.surveying_stage import (
    NAMES,
    PATIENCE_S,
    Stage,
    ended,
    impatiently,
    staged,
    threads,
)

POLICY = Policy(experiments=Experiments(answer_ns=int(PATIENCE_S * 1e9), warm_ns=1_000_000))
LIMITS = SinkLimits(sessions=3)
BROKEN = GeneralFailure("the experiment host broke: ZeroDivisionError()")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ownsink, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(ownsink, "LONGEST_PAUSE_S", 0.05)
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


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "openqwave.sink" and record.levelno >= logging.WARNING
    ]


# -- while it is wanted ---------------------------------------------------------------


def test_a_sink_is_served_while_it_is_wanted(host: Embedded, stage: Stage) -> None:
    assert host.sink_state() == (False, "")
    host.stop_sink()
    assert threads() == []
    host.serve_sink(LIMITS)
    served = stage.sink()
    until(lambda: host.sink_state() == (True, ""))
    # Nothing is measured, nobody has a handle, and the thread stays.
    time.sleep(0.1)
    assert len(threads()) == 1
    assert (stage.open_hosts, served.is_over, host.is_open()) == (1, False, False)
    host.stop_sink()
    assert host.sink_state() == (False, "")
    until(lambda: served.is_cancelled)
    ended()


def test_what_it_grants_is_what_was_said(host: Embedded, stage: Stage) -> None:
    host.serve_sink(LIMITS)
    first = stage.sink()
    # A configuration that is read again and says the same is no reason to begin anew.
    host.serve_sink(SinkLimits(sessions=3))
    host.set_policy(POLICY)
    until(lambda: stage.allowed == [[(), ()]])
    assert not first.is_over
    host.serve_sink(SinkLimits(sessions=4))
    second = stage.sink(2)
    assert first.is_cancelled
    assert [one.sink._limits.sessions for one in stage.sinks] == [3, 4]  # noqa: SLF001 - of no other use
    until(lambda: host.sink_state() == (True, ""))
    # Ended and begun in one go.
    host.stop_sink()
    host.serve_sink(LIMITS)
    stage.sink(3)
    assert second.is_cancelled
    until(lambda: host.sink_state() == (True, ""))


def test_experiments_and_a_sink_share_a_host(host: Embedded, stage: Stage) -> None:
    host.serve_sink(LIMITS)
    served = stage.sink()
    qos = open_in(host)
    qos.track("127.0.0.1")
    run = stage.latest()
    assert stage.made_hosts == 1
    qos.close()
    until(lambda: run.is_cancelled)
    time.sleep(0.05)
    assert not served.is_over
    with open_in(host) as again:
        again.track("127.0.0.1")
        second = stage.latest(2)
        host.stop_sink()
        until(lambda: served.is_cancelled)
        assert not second.is_cancelled
        assert stage.made_hosts == 1


def test_closing_the_runtime_ends_it(host: Embedded, stage: Stage) -> None:
    host.serve_sink(LIMITS)
    served = stage.sink()
    host.close()
    until(lambda: served.is_cancelled)
    assert host.sink_state() == (False, "")
    ended()


def test_what_it_tells_of_peers_is_not_kept(host: Embedded, stage: Stage) -> None:
    host.serve_sink(LIMITS)
    mailbox = stage.sink().mailbox
    for _ in range(1_000):
        mailbox.put(cast("Any", object()))
    assert mailbox.lost_events == 1_000
    mailbox.close()
    assert mailbox.take(0) is None


# -- when it ends by itself -----------------------------------------------------------


@pytest.mark.parametrize("error", [ZeroDivisionError("in a sink"), None], ids=repr)
def test_a_sink_that_ends_is_begun_again(
    host: Embedded,
    stage: Stage,
    error: Exception | None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(surveying, "_LINGER_S", 100.0)
    host.serve_sink(LIMITS)
    for count in (1, 2, 3):
        # Its end wakes the thread, which would sleep for long.
        stage.sink(count).mailbox.close(error)
    stage.sink(4)
    until(lambda: host.sink_state() == (True, ""))
    assert ("ZeroDivisionError" in told(caplog)[0]) == (error is not None)
    monkeypatch.setattr(surveying, "_LINGER_S", 0.02)
    # Nothing else ends with it.
    with open_in(host) as qos:
        qos.track("127.0.0.1")
        run = stage.latest()
        stage.sinks[3].mailbox.close(error)
        stage.sink(5)
        assert (stage.made_hosts, run.is_cancelled) == (1, False)
    host.stop_sink()


def test_a_host_that_broke_is_replaced_once(host: Embedded, stage: Stage) -> None:
    host.serve_sink(LIMITS)
    qos = open_in(host)
    qos.track("127.0.0.1")
    run, served = stage.latest(), stage.sink()
    # Everything on it ends; the session is begun again first, and makes the new host.
    served.mailbox.close(BROKEN)
    run.mailbox.close(BROKEN)
    stage.sink(2)
    second = stage.latest(2)
    until(lambda: host.sink_state() == (True, ""))
    time.sleep(0.05)
    assert (stage.made_hosts, stage.open_hosts) == (2, 1)
    assert not second.is_cancelled
    assert not stage.sinks[1].is_over


def test_a_host_that_is_already_replaced_is_left_alone(host: Embedded, stage: Stage) -> None:
    host.serve_sink(LIMITS)
    qos = open_in(host)
    qos.track("127.0.0.1")
    stage.latest()
    served = stage.sink()
    # The session finds out first, when it is begun again, and has a new host.
    stage.errors = [BROKEN]
    qos.track("127.0.0.2")
    until(lambda: stage.open_hosts == 0)
    qos.untrack("127.0.0.2")
    qos.track("127.0.0.3")
    until(lambda: len(stage.runs) == 2)
    assert stage.made_hosts == 2
    served.mailbox.close(BROKEN)
    stage.sink(2)
    assert (stage.made_hosts, stage.open_hosts) == (2, 1)
    assert not stage.runs[1].is_cancelled


def test_what_is_in_the_way_is_told_once_and_tried_again(
    host: Embedded, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    taken = "UDP port 2177 is held by qwave (process 7)"
    stage.sink_errors = [PortTaken(taken)] * 4
    host.serve_sink(LIMITS)
    until(lambda: host.sink_state() == (False, taken))
    stage.sink()
    until(lambda: host.sink_state() == (True, ""))
    assert told(caplog) == [f"no sink answers here: {taken}"]
    assert stage.sink_errors == []


def test_pauses_become_longer(
    host: Embedded, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownsink, "LONGEST_PAUSE_S", 0.08)
    times: list[float] = []

    class Noting(list[Exception]):
        def pop(self, index: Any = -1) -> Exception:  # noqa: ANN401 - as the list's
            times.append(time.monotonic())
            return super().pop(index)

    stage.sink_errors = Noting([PortTaken("no")] * 6)
    host.serve_sink(LIMITS)
    until(lambda: host.sink_state()[0])
    pauses = [after - before for before, after in itertools.pairwise(times)]
    least = (0.01, 0.02, 0.04, 0.08, 0.08)
    assert all(pause >= wanted for pause, wanted in zip(pauses, least, strict=True))
    # A sink that has lasted has nothing to do with what was before it.
    monkeypatch.setattr(ownsink, "LASTED_S", 0.0)
    host.serve_sink(LIMITS)
    monkeypatch.setattr(ownsink, "LONGEST_PAUSE_S", 100.0)
    until(lambda: host._surveyor._sink._pause_s == 0.01)  # type: ignore[union-attr] # noqa: SLF001
    stage.sink().mailbox.close()
    stage.sink(2)


def test_any_error_is_no_reason_to_end(
    host: Embedded, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.sink_errors = [ZeroDivisionError("a mistake"), cast("Any", QosError("of the kernel"))]
    host.serve_sink(LIMITS)
    stage.sink()
    until(lambda: host.sink_state() == (True, ""))
    assert len(told(caplog)) == 2


def test_one_that_is_not_wanted_any_more_is_not_tried_again(host: Embedded, stage: Stage) -> None:
    stage.sink_errors = [PortTaken("no")] * 10_000
    host.serve_sink(LIMITS)
    until(lambda: len(stage.sink_errors) < 9_999)
    host.stop_sink()
    ended()
    assert host.sink_state() == (False, "")
    assert stage.sinks == []


def test_before_it_is_known(host: Embedded, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    begin = ownsink.OwnSink.tend

    def wait(self: ownsink.OwnSink) -> None:
        goes_on.wait(PATIENCE_S)
        begin(self)

    monkeypatch.setattr(ownsink.OwnSink, "tend", wait)
    host.serve_sink(LIMITS)
    is_on, reason = host.sink_state()
    assert not is_on
    assert reason
    goes_on.set()
    stage.sink()


# -- the real one ---------------------------------------------------------------------


@pytest.fixture
def real(fd_guard: None, impatient: None) -> Iterator[Embedded]:
    del fd_guard, impatient
    with own_network():
        with own_subsystem(POLICY, clock=cast("Any", SystemClock())) as made:
            yield made
        ended()


def answers() -> bool:
    """Does a sink here accept connections?"""
    try:
        with socket.create_connection(("127.0.0.1", PORT), 1):
            return True
    except (ConnectionRefusedError, ConnectionResetError):
        # Reset is who was in the queue when the listener was closed.
        return False


def test_the_port_is_open_while_it_is_served(real: Embedded) -> None:
    before = open_descriptors()
    real.serve_sink(LIMITS)
    until(lambda: real.sink_state() == (True, ""))
    assert answers()
    assert holder_of("udp", PORT) == "this process itself"
    real.stop_sink()
    until(lambda: not answers())
    ended()
    left = open_descriptors().items() - before.items()
    assert {what for _, what in left if not what.startswith("socket:")} == set()
    assert holder_of("udp", PORT) == ""


OTHER = """
import sys
from openqwave.drivers.experiments import ExperimentHost
from openqwave.probing.sink import Sink
with ExperimentHost() as host:
    host.serve(Sink())
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_port_that_another_process_has_for_a_while(real: Embedded) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            real.serve_sink(LIMITS)
            until(lambda: f"(process {other.pid})" in real.sink_state()[1])
            assert not real.sink_state()[0]
        finally:
            other.communicate()
    until(lambda: real.sink_state() == (True, ""))
    assert answers()
    real.stop_sink()


def test_a_thread_of_experiments_that_breaks(real: Embedded) -> None:
    real.serve_sink(LIMITS)
    until(lambda: real.sink_state() == (True, ""))
    (thread,) = [one for one in threads() if one.name == NAMES[1]]
    surveyor = real._surveyor  # noqa: SLF001 - broken on purpose
    assert surveyor is not None
    runner = surveyor._experimenting.host()  # noqa: SLF001

    def fail() -> None:
        raise ZeroDivisionError("on purpose")

    runner.call(lambda loop: setattr(loop, "turn", fail))
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    until(lambda: surveyor._experimenting._host is not runner)  # noqa: SLF001
    until(lambda: real.sink_state() == (True, ""))
    assert answers()
    real.stop_sink()

"""Interfaces that are taken out and put in again, and machines that sleep, as a runtime learns it.

What becomes of handles, flows and paths then is told in `tests/scenario/test_stories_life.py`; here
is who notices, and when. The kernel's word of changes, and its list of links, are the test's; on
real links it is `tests/kernel/test_life_of_paths.py`.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Collection, Iterator
from typing import Any, ClassVar, cast

import pytest

import openqwave as qw
from openqwave.admission.policy import Experiments, Policy
from openqwave.client.embedded import Embedded
from openqwave.drivers.clock import SystemClock
from openqwave.drivers.pathchanges import Change
from openqwave.drivers.rtnetlink import LinkState
from openqwave.drivers.sockets import read_cookie
from openqwave.enforcement.memory import Memory
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Unmeasurable
from openqwave.runtime import surveying
from openqwave.runtime.pending import Pending
from openqwave.runtime.session import Session
from tests.patience import until
from tests.unit.driven import view
from tests.unit.loopback import Bench, options_of
from tests.unit.own_subsystem import FakeClock, open_in, own_subsystem
from tests.unit.surveying_stage import (
    HERE,
    MBIT,
    PATIENCE_S,
    Stage,
    Ways,
    ended,
    impatiently,
    staged,
    threads,
    told,
)

POLICY = Policy(experiments=Experiments(answer_ns=int(PATIENCE_S * 1e9), warm_ns=1_000_000))
DOWN = Refusal(ErrorCode.ERROR_ADAP_HDW_ERR, "the interface is gone")
LOST = ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED


class Kernel:
    """The links of a host, and word of their changes; the class is a stand-in for `PathChanges`."""

    links: ClassVar[dict[int, LinkState]] = {}
    words: ClassVar[list[frozenset[Change]]] = []
    fails: ClassVar[bool] = False
    reads: ClassVar[list[threading.Thread]] = []
    here: ClassVar[Kernel | None] = None

    def __init__(self) -> None:
        self._wake, self._far = os.pipe()
        Kernel.here = self

    def fileno(self) -> int:
        return self._wake

    def read(self) -> frozenset[Change]:
        words, Kernel.words = Kernel.words, []
        return frozenset().union(*words)

    def take_failures(self) -> list[tuple[int, bytes]]:
        return []

    def close(self) -> None:
        os.close(self._wake)
        os.close(self._far)

    @classmethod
    def has(cls, *links: tuple[int, str], says: Change | None = Change.LINKS) -> None:
        """These are there from now on."""
        cls.links = {
            index: LinkState(index, name, True, 1500, 1, 1_000 * index) for index, name in links
        }
        if says is not None:
            cls.says(says)

    @classmethod
    def says(cls, word: Change) -> None:
        """Something has changed; returns when that was seen to."""
        seen = len(cls.reads)
        cls.words.append(frozenset({word}))
        here = cls.here
        assert here is not None
        os.write(here._far, b"!")  # noqa: SLF001 - its own
        until(lambda: not cls.words)
        if word is Change.LINKS:
            until(lambda: len(cls.reads) > seen)

    @classmethod
    def read_links(cls) -> dict[int, LinkState]:
        cls.reads.append(threading.current_thread())
        if cls.fails:
            raise OSError(105, "No buffer space available")
        return cls.links


@pytest.fixture
def stage(fd_guard: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    del fd_guard
    with impatiently(monkeypatch), staged(monkeypatch) as made:
        monkeypatch.setattr(Kernel, "words", [])
        monkeypatch.setattr(Kernel, "reads", [])
        monkeypatch.setattr(Kernel, "fails", False)
        monkeypatch.setattr(Kernel, "links", {1: LinkState(1, "lo", True, 1500, 1)})
        monkeypatch.setattr(surveying, "PathChanges", Kernel)
        monkeypatch.setattr(surveying, "read_links", Kernel.read_links)
        yield made


@pytest.fixture
def host(stage: Stage) -> Iterator[Embedded]:
    del stage
    with own_subsystem(POLICY, clock=cast("Any", SystemClock())) as made:
        yield made


@pytest.fixture
def sock(sockets: Bench) -> socket.socket:
    return sockets.make("tcp4 connected")


@pytest.fixture
def qos(host: Embedded) -> qw.Qos:
    return open_in(host)


@pytest.fixture
def flow(qos: qw.Qos, sock: socket.socket, stage: Stage) -> qw.Flow:
    """One that holds a rate over interface 1, which is called lo."""
    made = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE)
    stage.latest().mailbox.put(told(6 * MBIT))
    until(lambda: made.path().age_ns is not None)
    made.set_rate(2 * MBIT)
    return made


def id_of(qos: qw.Qos) -> int:
    assert isinstance(qos.session, Session)
    return qos.session.handle_id


def is_lost(qos: qw.Qos) -> bool:
    refusal = qos.session.refuse()
    assert refusal is None or refusal.code is LOST
    return refusal is not None


# -- who notices ----------------------------------------------------------------------


def test_an_interface_of_the_same_name_is_noticed(
    host: Embedded, qos: qw.Qos, flow: qw.Flow, sock: socket.socket, stage: Stage
) -> None:
    waiting = qos.session.notify(flow.id, qw.NoticeKind.CONGESTED, None)
    assert isinstance(waiting, Pending)
    assert options_of(sock).tos == 56 << 2
    Ways.interface = 7
    Kernel.has((7, "lo"), (3, "eth0"))
    until(lambda: is_lost(qos))
    result = waiting.future.result(PATIENCE_S)
    assert isinstance(result, Refusal)
    assert result.code is ErrorCode.ERROR_OPERATION_ABORTED
    # Nobody asked for anything, and the socket is as it was.
    assert (options_of(sock).tos, options_of(sock).priority) == (0, 0)
    until(lambda: stage.latest().is_cancelled)
    assert host.take_lost() == [id_of(qos)]
    assert host.take_lost() == []
    with pytest.raises(qw.ReinitializationNeeded, match="made anew"):
        flow.set_rate(MBIT)
    qos.close()
    # A new handle finds the new one.
    again = open_in(host)
    fresh = again.add_socket(sock, traffic_type=qw.TrafficType.VOICE)
    assert stage.latest(2).peer == HERE
    status = fresh.path()
    assert status.facts is not None
    assert status.facts.interface == 7
    assert status.age_ns is None


def test_an_interface_that_is_gone_is_waited_for(
    host: Embedded, qos: qw.Qos, flow: qw.Flow, stage: Stage
) -> None:
    Ways.otherwise[HERE] = DOWN
    Kernel.has((3, "eth0"))
    until(lambda: stage.latest().is_cancelled)
    with pytest.raises(qw.AdapterFailed):
        flow.set_rate(3 * MBIT)
    assert flow.rate_bps() == 2 * MBIT
    # Nothing is measured, and yet somebody listens.
    time.sleep(0.1)
    assert len(threads()) == 1
    Kernel.has((3, "eth0"), (4, "eth1"))
    assert not is_lost(qos)
    Ways.otherwise.clear()
    Ways.interface = 9
    Kernel.has((3, "eth0"), (9, "lo"))
    until(lambda: is_lost(qos))
    assert host.take_lost() == [id_of(qos)]


def test_an_interface_that_comes_back_as_it_was_is_the_same(
    host: Embedded, qos: qw.Qos, flow: qw.Flow, stage: Stage
) -> None:
    Ways.otherwise[HERE] = DOWN
    Kernel.has((1, "lo"))
    until(lambda: stage.latest().is_cancelled)
    Ways.otherwise.clear()
    Kernel.has((1, "lo"))
    stage.latest(2).mailbox.put(told(6 * MBIT))
    until(lambda: flow.path().obstacle == "" and flow.path().age_ns is not None)
    flow.set_rate(3 * MBIT)
    assert host.take_lost() == []
    assert not is_lost(qos)


@pytest.mark.parametrize(
    "links", [((1, "lan0"), (8, "lo")), ((2, "eth0"),), ((1, "lo"), (8, "lo0"))], ids=str
)
def test_other_changes_of_links_lose_nobody(
    qos: qw.Qos, flow: qw.Flow, links: tuple[tuple[int, str], ...]
) -> None:
    # Another name for the same one; gone, and none of its name is there; one more.
    Kernel.has(*links)
    assert not is_lost(qos)
    assert flow.rate_bps() == 2 * MBIT


def test_only_links_are_looked_at_for_it(qos: qw.Qos, flow: qw.Flow) -> None:
    del flow
    Kernel.has((8, "lo"), says=None)
    Kernel.says(Change.ROUTES)
    Kernel.says(Change.NEIGHBOURS)
    assert not is_lost(qos)


def test_a_kernel_that_cannot_be_asked_is_asked_for_the_way(
    host: Embedded, qos: qw.Qos, flow: qw.Flow
) -> None:
    del flow
    Kernel.fails = True
    Ways.interface = 7
    Kernel.has((7, "lo"))
    until(lambda: is_lost(qos))
    assert host.take_lost() == [id_of(qos)]


def test_a_call_that_comes_first_notices(
    host: Embedded, qos: qw.Qos, flow: qw.Flow, sockets: Bench, sock: socket.socket
) -> None:
    # The kernel's word is on its way still.
    Ways.interface = 7
    with pytest.raises(qw.ReinitializationNeeded):
        qos.add_socket(sockets.make("tcp4 connected"))
    assert host.take_lost() == [id_of(qos)]
    assert options_of(sock).tos == 0
    with pytest.raises(qw.ReinitializationNeeded):
        flow.path()


def test_a_call_of_another_handle_notices(
    host: Embedded, qos: qw.Qos, flow: qw.Flow, sockets: Bench, stage: Stage
) -> None:
    del flow
    other = open_in(host)
    Ways.interface = 7
    theirs = other.add_socket(sockets.make("tcp4 connected"))
    assert is_lost(qos)
    assert not is_lost(other)
    assert stage.latest(2).peer == HERE
    facts = theirs.path().facts
    assert facts is not None
    assert facts.interface == 7


def test_a_socket_that_is_bound_elsewhere_says_nothing_of_it(
    host: Embedded, qos: qw.Qos, flow: qw.Flow
) -> None:
    del flow
    # Of another interface, whatever it is called here.
    host.find_path(HERE, 0, 5)
    assert not is_lost(qos)


def test_tracked_hosts_are_looked_at_too(host: Embedded, stage: Stage) -> None:
    qos = open_in(host)
    qos.track("127.0.0.2")
    stage.latest()
    bystander = open_in(host)
    Ways.interface = 7
    Kernel.has((7, "lo"))
    until(lambda: is_lost(qos))
    assert not is_lost(bystander)
    assert host.take_lost() == [id_of(qos)]


def test_lost_handles_end_with_the_thread_too(
    host: Embedded, qos: qw.Qos, flow: qw.Flow, stage: Stage
) -> None:
    del flow
    Ways.interface = 7
    Kernel.has((7, "lo"))
    until(lambda: is_lost(qos))
    # Nobody is interested in anything any more.
    ended()
    assert stage.open_hosts == 0
    qos.close()
    assert not host.is_open()


def test_what_changed_as_the_thread_began_is_noticed(host: Embedded, stage: Stage) -> None:
    # The way was found before anybody listened, and was another one when somebody did.
    class Late(Kernel):
        def __init__(self) -> None:
            super().__init__()
            Ways.interface = 7

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surveying, "PathChanges", Late)
        qos = open_in(host)
        qos.track("127.0.0.2")
        until(lambda: is_lost(qos))
    assert all(run.is_cancelled for run in stage.runs)


def test_a_path_that_cannot_be_measured_is_followed_while_others_are(
    host: Embedded, stage: Stage, sockets: Bench
) -> None:
    Ways.otherwise[HERE] = Unmeasurable("it is behind a router")
    qos = open_in(host)
    qos.track("127.0.0.2")
    flow = qos.add_socket(sockets.make("tcp4 connected"))
    with pytest.raises(qw.NotSupported, match="router"):
        flow.fundamentals()
    stage.latest()
    Ways.otherwise.clear()
    Kernel.says(Change.ROUTES)
    assert stage.latest(2).peer == HERE


# -- time, of which nobody tells ------------------------------------------------------


def test_a_suspend_is_noticed_though_nobody_calls(sockets: Bench) -> None:
    clock = FakeClock()
    sock = sockets.make("udp4 connected")
    with own_subsystem(POLICY, clock=clock) as host:
        qos = open_in(host)
        host.receive_path_view(HERE, view())
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
        adaptive = qos.add_socket(sockets.make("udp4 connected"))
        pending = qos.session.notify(adaptive.id, qw.NoticeKind.CONGESTED, None)
        assert isinstance(pending, Pending)
        host.notice_time()
        assert (options_of(sock).tos, host.take_lost()) == (56 << 2, [])
        clock.sleep()
        host.notice_time()
        assert options_of(sock).tos == 0
        assert pending.future.done()
        assert host.take_lost() == [id_of(qos)]
        host.notice_time()
        assert host.take_lost() == []
        with pytest.raises(qw.ReinitializationNeeded):
            flow.packet_priority()


def test_time_is_seen_to_though_nobody_calls(sockets: Bench) -> None:
    clock = FakeClock()
    policy = Policy(experiments=Experiments(answer_ns=2 * 10**9))
    with own_subsystem(policy, clock=clock) as host:
        qos = open_in(host)
        host.receive_path_view(HERE, view())
        flow = qos.add_socket(sockets.make("udp4 connected"))
        waiting = qos.session.set_rate(
            flow.id, MBIT, qw.Shaping.SHAPE_AND_MARK, qw.RateReason.NOT_APPLICABLE
        )
        assert isinstance(waiting, Pending)
        clock.now += 2 * 10**9 - 1
        host.notice_time()
        assert not waiting.future.done()
        clock.now += 1
        host.notice_time()
        result = waiting.future.result(0)
        assert isinstance(result, Refusal)
        assert result.code is ErrorCode.ERROR_RETRY


# -- sockets that were closed without a word ------------------------------------------


def rounds(host: Embedded, until_there_are: int) -> int:
    """Sweep until so many sockets are left; how often it took."""
    for count in range(1, 100):
        host.sweep()
        if len(host.look(lambda engine: engine.sockets())) == until_there_are:
            return count
    raise AssertionError("they are not found")


def test_closed_sockets_are_found_in_turn(sockets: Bench) -> None:
    with own_subsystem() as host:
        qos = open_in(host)
        socks = [sockets.make("udp4") for _ in range(5)]
        for sock in socks:
            qos.add_socket(sock, ("127.0.0.1", 9), adaptive=False)
        host.sweep()
        assert len(host.look(lambda engine: engine.sockets())) == 5
        for sock in socks[1:3]:
            sock.close()
        rounds(host, 3)
        assert options_of(socks[0]).tos == 0
        for sock in (socks[0], *socks[3:]):
            sock.close()
        rounds(host, 0)
        assert host.look(lambda engine: engine.flow_count) == 0


class Lasting(Memory):
    """Treats closed sockets for as long as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.lasting: set[int] = set()
        self.over: set[int] = set()

    def outlives(self, cookie: int) -> bool:
        return cookie in self.lasting

    def take_gone(self) -> Collection[int]:
        over, self.over = self.over, set()
        return over


def test_closed_sockets_that_have_something_to_send_are_not_swept(sockets: Bench) -> None:
    backend = Lasting()
    with own_subsystem(backend=backend) as host:
        qos = open_in(host)
        sock, other = sockets.make("udp4"), sockets.make("udp4")
        for each in (sock, other):
            qos.add_socket(
                each, ("127.0.0.1", 9), traffic_type=qw.TrafficType.VOICE, adaptive=False
            )
        cookie = read_cookie(sock)
        backend.lasting.add(cookie)
        sock.close()
        other.close()
        for _ in range(3):
            host.sweep()
        assert host.look(lambda engine: engine.sockets()) == (cookie,)
        assert cookie in backend.observe()
        backend.over.add(cookie)
        host.sweep()
        assert host.look(lambda engine: engine.sockets()) == ()
        assert backend.observe() == {}


def test_what_waits_on_a_closed_socket_is_aborted(sockets: Bench) -> None:
    with own_subsystem() as host:
        qos = open_in(host)
        host.receive_path_view(HERE, view())
        sock = sockets.make("udp4 connected")
        flow = qos.add_socket(sock)
        pending = qos.session.notify(flow.id, qw.NoticeKind.CONGESTED, None)
        assert isinstance(pending, Pending)
        sock.close()
        rounds(host, 0)
        result = pending.future.result(0)
        assert isinstance(result, Refusal)
        assert result.code is ErrorCode.ERROR_OPERATION_ABORTED

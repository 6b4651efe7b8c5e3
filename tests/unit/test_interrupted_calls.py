"""Ctrl-C in the middle of a call: half a change is no change, and the subsystem goes on."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

import openqwave as qw
from openqwave.client import embedded
from openqwave.client.embedded import Embedded
from openqwave.enforcement.socket_options import SocketOptions
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.runtime.pending import Pending
from openqwave.subsystem.effects import Applied, SocketPlan
from tests.unit.driven import endpoint, view
from tests.unit.loopback import Bench, options_of
from tests.unit.own_subsystem import FakeClock, open_in, own_subsystem


class Interrupted(SocketOptions):
    """Socket options; when armed, Ctrl-C comes just after they were written."""

    is_armed = False

    def apply(self, plans: tuple[SocketPlan, ...]) -> Applied | Refusal:
        outcome = super().apply(plans)
        if Interrupted.is_armed:
            Interrupted.is_armed = False
            raise KeyboardInterrupt
        return outcome


class Rig:
    """A handle of a subsystem, with one marked socket in one flow."""

    def __init__(self, host: Embedded, clock: FakeClock, sock: socket.socket) -> None:
        self.host, self.clock = host, clock
        self.qos = open_in(host)
        self.sock = sock
        self.flow = self.qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)

    def interrupt(self, call: Callable[[], object]) -> None:
        Interrupted.is_armed = True
        with pytest.raises(KeyboardInterrupt):
            call()
        assert not Interrupted.is_armed


@pytest.fixture
def rig(sockets: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(embedded, "SocketOptions", Interrupted)
    clock = FakeClock()
    with own_subsystem(clock=clock) as host:
        yield Rig(host, clock, sockets.make("udp6 connected"))


def test_a_change_of_type(rig: Rig) -> None:
    before = options_of(rig.sock)
    rig.interrupt(lambda: rig.flow.set_traffic_type(qw.TrafficType.BACKGROUND))
    assert options_of(rig.sock) == before
    assert rig.flow.packet_priority().conformant_dscp == 56
    rig.flow.set_traffic_type(qw.TrafficType.BACKGROUND)
    assert options_of(rig.sock).tos == 8 << 2


def test_an_add(rig: Rig, sockets: Bench) -> None:
    other = sockets.make("tcp4 connected")
    before = options_of(other)
    rig.interrupt(
        lambda: rig.qos.add_socket(other, traffic_type=qw.TrafficType.VOICE, adaptive=False)
    )
    assert options_of(other) == before


def test_a_remove(rig: Rig) -> None:
    marked = options_of(rig.sock)
    rig.interrupt(lambda: rig.flow.remove_socket(rig.sock))
    assert options_of(rig.sock) == marked
    rig.flow.remove_socket(rig.sock)
    assert options_of(rig.sock).tos == 0


def test_a_close(rig: Rig) -> None:
    marked = options_of(rig.sock)
    rig.interrupt(rig.qos.close)
    assert options_of(rig.sock) == marked
    assert rig.flow.packet_priority().conformant_dscp == 56
    rig.qos.close()
    assert options_of(rig.sock).tos == 0


def test_a_suspend(rig: Rig) -> None:
    rig.clock.sleep()
    rig.interrupt(rig.flow.packet_priority)
    with pytest.raises(qw.ReinitializationNeeded):
        rig.flow.packet_priority()
    assert options_of(rig.sock).tos == 0


# -- what others wait for -------------------------------------------------------------

HERE = endpoint("127.0.0.1", 0)


def waits(flow: qw.Flow, rate_bps: int, *, is_overlapped: bool) -> Pending:
    """A rate that waits, because nothing is known of the path."""
    shaping, reason = qw.Shaping.SHAPE_AND_MARK, qw.RateReason.NOT_APPLICABLE
    answer = flow.session.set_rate(flow.id, rate_bps, shaping, reason, is_overlapped=is_overlapped)
    assert isinstance(answer, Pending)
    return answer


@pytest.fixture
def adaptive(rig: Rig, sockets: Bench, monkeypatch: pytest.MonkeyPatch) -> qw.Flow:
    # Time is what the test says, and nobody else need wait for it.
    monkeypatch.setattr(Embedded, "see_to_timers", lambda _: None)
    flow = rig.qos.add_socket(sockets.make("tcp4 connected"), traffic_type=qw.TrafficType.VOICE)
    rig.host.receive_path_view(HERE, view(is_congested=False))
    return flow


@pytest.mark.parametrize("is_overlapped", [False, True])
def test_a_grant_to_who_waited(rig: Rig, adaptive: qw.Flow, is_overlapped: bool) -> None:
    pending = waits(adaptive, 1_000_000, is_overlapped=is_overlapped)
    seen = view(available_bps=1_000_000, is_congested=False)
    rig.interrupt(lambda: rig.host.receive_path_view(HERE, seen))
    # Nothing was granted, and it waits still; the next who comes gives it its turn.
    assert not pending.future.done()
    assert adaptive.path().held_bps == 0
    assert pending.future.result(0) is None
    assert adaptive.rate_bps() == 1_000_000


def test_a_limit_outlives_an_interrupted_grant(rig: Rig, adaptive: qw.Flow) -> None:
    pending = waits(adaptive, 1_000_000, is_overlapped=False)
    seen = view(available_bps=1_000_000, is_congested=False)
    rig.interrupt(lambda: rig.host.receive_path_view(HERE, seen))
    rig.clock.now += 3_000_000_000
    rig.host.handle_timers()
    assert isinstance(pending.future.result(0), Refusal)


def test_answers_that_others_got_before(rig: Rig, adaptive: qw.Flow) -> None:
    pending = waits(adaptive, 1_000_000, is_overlapped=False)
    rig.clock.now += 3_000_000_000
    # The time of the one is up as the other is interrupted.
    rig.interrupt(lambda: rig.flow.set_traffic_type(qw.TrafficType.BACKGROUND))
    result = pending.future.result(0)
    assert isinstance(result, Refusal)
    assert result.code is ErrorCode.ERROR_RETRY

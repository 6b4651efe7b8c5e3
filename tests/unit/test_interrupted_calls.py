"""Ctrl-C in the middle of a call: half a change is no change, and the subsystem goes on."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

import openqwave as qw
from openqwave.client import embedded
from openqwave.client.embedded import Embedded
from openqwave.enforcement.socket_options import SocketOptions
from openqwave.model.errors import Refusal
from openqwave.subsystem.effects import Applied, SocketPlan
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
        self.clock = clock
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


def test_a_suspend(rig: Rig) -> None:
    rig.clock.sleep()
    rig.interrupt(rig.flow.packet_priority)
    with pytest.raises(qw.ReinitializationNeeded):
        rig.flow.packet_priority()
    assert options_of(rig.sock).tos == 0

"""Rates are held where packets leave, whatever decides that; through the service."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

import openqwave as qw
from openqwave.lab.capture import Capture, Direction
from openqwave.lab.topology import Lab
from tests.kernel.backend_stage import tc
from tests.kernel.data_plane_stage import PATIENCE_S, open_socket, serving
from tests.kernel.shaping_stage import rate_bps

if TYPE_CHECKING:
    from openqwave.lab.topology import Host
    from tests.kernel.service_stage import Qwaved

pytestmark = [pytest.mark.kernel, pytest.mark.root]

PORT = 5_004
RATE_BPS = 1_000_000
COUNT = 50
VOICE_DSCP = 56


@pytest.fixture(scope="module")
def ground() -> Iterator[tuple[Host, Host, str, Qwaved]]:
    """Two hosts joined twice, and where the first link leads to."""
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab())
        left, right = lab.host("left"), lab.host("right")
        first = lab.link(left, right)
        lab.link(left, right)
        yield left, right, first.b.ipv4, stack.enter_context(serving(left))


@pytest.mark.parametrize("is_connected", [False, True], ids=["free", "connected"])
def test_a_socket_that_is_bound_to_an_interface(
    ground: tuple[Host, Host, str, Qwaved], is_connected: bool
) -> None:
    left, right, address, service = ground
    # The destination is the first link's; the socket leaves by the second all the same.
    bound, there = left.interfaces[1], right.interfaces[1]
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(open_socket(left))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bound.name.encode())
        if is_connected:
            sock.connect((address, PORT))
        qos = stack.enter_context(service.open())
        to = None if is_connected else (address, PORT)
        flow = qos.add_socket(sock, to, traffic_type=qw.TrafficType.VOICE, adaptive=False)
        flow.set_rate(RATE_BPS, shaping=qw.Shaping.SHAPE_AND_MARK)
        with right.enter():
            capture = stack.enter_context(Capture(there.name, Direction.INCOMING))
        for _ in range(COUNT):
            sock.sendto(bytes(972), (address, PORT)) if to else sock.send(bytes(972))
        seen = capture.wait_for(COUNT, PATIENCE_S, lambda each: each.destination_port == PORT)
    assert {packet.dscp for packet in seen} == {VOICE_DSCP}
    # A busy machine may be late, and early by no more than a timer's grain.
    assert 0.1 * RATE_BPS < rate_bps(seen) < 1.1 * RATE_BPS


def test_loopback_is_given_no_queue(ground: tuple[Host, Host, str, Qwaved]) -> None:
    left, _, _, service = ground
    with open_socket(left) as sock, service.open() as qos:
        # The own address is reached by loopback, too.
        for address in ("127.0.0.1", left.interfaces[0].ipv4):
            flow = qos.add_socket(
                sock, (address, PORT), traffic_type=qw.TrafficType.VOICE, adaptive=False
            )
            with pytest.raises(qw.NotSupported, match="to this host itself"):
                flow.set_rate(RATE_BPS, shaping=qw.Shaping.SHAPE_AND_MARK)
            # What needs no queue is there as elsewhere.
            flow.set_rate(RATE_BPS, shaping=qw.Shaping.USE_NON_CONFORMANT_MARKINGS)
            flow.close()
    with left.enter():
        assert "noqueue" in tc("qdisc", "show", "dev", "lo")

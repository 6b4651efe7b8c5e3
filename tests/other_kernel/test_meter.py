"""Excess told from what conforms, in virtual time, where the offered rate is exact."""

from __future__ import annotations

import socket
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from openqwave.model.flow import Treatment
from tests.other_kernel.program import BOTH_WAYS
from tests.other_kernel.streams import PORT, gap_ns, stream
from tests.other_kernel.times import is_virtual

if TYPE_CHECKING:
    from openqwave.lab.topology import Host
    from tests.other_kernel.program import Program

pytestmark = pytest.mark.kernel

MBPS = 1_000_000
RATE_BPS = 8 * MBPS
PACKETS = 2_000
METERED = Treatment(dscp=40, queue_priority=5, rate_bps=RATE_BPS, excess_is_remarked=True)


def conformant_share(right: Host, sock: socket.socket, offered_bps: int) -> float:
    """What part of a stream kept its mark; the rest has none, and nothing is lost."""
    found = stream(right, sock, offered_bps, PACKETS)
    assert found.lost == 0
    marks = Counter(packet.dscp for packet in found.packets)
    assert set(marks) <= {40, 0}
    # The burst that a flow may begin with.
    return marks[40] / PACKETS


@BOTH_WAYS
@pytest.mark.parametrize(("offered_bps", "share"), [(16 * MBPS, 0.5), (32 * MBPS, 0.25)])
def test_what_is_above_the_rate_is_marked_otherwise(
    pair: tuple[Host, Host], program: Program, way: str, offered_bps: int, share: float
) -> None:
    left, right = pair
    program.attach(left, left.interface.name, way)
    with left.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.connect((right.ipv4, PORT))
        slot = program.flow(sock, METERED)
        found = conformant_share(right, sock, offered_bps)
    counted = program.counted(slot)
    assert counted.packets + counted.excess_packets == PACKETS
    assert counted.packets == round(found * PACKETS)
    # The burst of 20 ms that a flow may begin with, on top of its rate.
    took_ns = PACKETS * gap_ns(offered_bps)
    expected = (took_ns + 20e6) / took_ns * share
    assert found == pytest.approx(expected, rel=0.01 if is_virtual() else 0.1)


def test_below_the_rate_all_keeps_its_mark(pair: tuple[Host, Host], program: Program) -> None:
    left, right = pair
    program.attach(left, left.interface.name, "clsact")
    with left.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.connect((right.ipv4, PORT))
        program.flow(sock, METERED)
        share = conformant_share(right, sock, RATE_BPS * 99 // 100)
    assert share == 1 if is_virtual() else share > 0.9

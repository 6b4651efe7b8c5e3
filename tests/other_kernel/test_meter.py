"""Excess told from what conforms, in virtual time, where the offered rate is exact."""

from __future__ import annotations

import socket
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from openqwave.enforcement.bpf.table import BURST_NS
from openqwave.model.flow import Treatment
from tests.other_kernel.program import BOTH_WAYS
from tests.other_kernel.streams import PORT, Arrived, gap_ns, stream
from tests.other_kernel.times import is_virtual

if TYPE_CHECKING:
    from openqwave.lab.topology import Host
    from tests.other_kernel.program import Program

pytestmark = pytest.mark.kernel

MBPS = 1_000_000
RATE_BPS = 8 * MBPS
PACKETS = 2_000
METERED = Treatment(dscp=40, queue_priority=5, rate_bps=RATE_BPS, excess_is_remarked=True)


def conformant(found: Arrived) -> int:
    """How many of a stream kept their mark; the rest has none, and nothing is lost."""
    assert found.lost == 0
    marks = Counter(packet.dscp for packet in found.packets)
    assert set(marks) <= {40, 0}
    return marks[40]


@BOTH_WAYS
@pytest.mark.parametrize("offered_bps", [16 * MBPS, 32 * MBPS])
def test_what_is_above_the_rate_is_marked_otherwise(
    pair: tuple[Host, Host], program: Program, way: str, offered_bps: int
) -> None:
    left, right = pair
    program.attach(left, left.interface.name, way)
    with left.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.connect((right.ipv4, PORT))
        slot = program.flow(sock, METERED)
        found = stream(right, sock, offered_bps, PACKETS)
    counted = program.counted(slot)
    assert (counted.packets, counted.excess_packets) == (
        conformant(found),
        PACKETS - conformant(found),
    )
    # What the rate lets pass in that time, and the burst that a flow may begin with.
    took_ns = found.packets[-1].time_ns - found.packets[0].time_ns
    expected = (took_ns + BURST_NS) / gap_ns(RATE_BPS)
    print(f"{conformant(found)} of {PACKETS} conform, expected {expected:.0f}")
    assert conformant(found) == pytest.approx(expected, rel=0.01 if is_virtual() else 0.2)


def test_below_the_rate_all_keeps_its_mark(pair: tuple[Host, Host], program: Program) -> None:
    left, right = pair
    program.attach(left, left.interface.name, "clsact")
    with left.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.connect((right.ipv4, PORT))
        program.flow(sock, METERED)
        found = stream(right, sock, RATE_BPS * 99 // 100, PACKETS)
    share = conformant(found) / PACKETS
    assert share == 1 if is_virtual() else share > 0.8

"""Rates of programs that know nothing of them, by `qwave run`, for all that they send together.

Bounds are wide: what a busy machine loses is not made up for.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kernel.run_stage import VOICE, Ground, finished, until_none
from tests.kernel.unchanged import PROGRAMS, Conversation, Wire, skip_without

if TYPE_CHECKING:
    from openqwave.lab.topology import Host
    from tests.kernel.service_stage import Qwaved

pytestmark = [pytest.mark.kernel, pytest.mark.root]

# What is held back can leave after its program has ended, so each test has a port of its own.
HELD, REMARKED, PORT = 5004, 5005, 5300

# Offers datagrams as fast as they are taken for a time; the last one says that it was.
FLOOD = """
import socket, sys, time
to, time_s = (sys.argv[1], int(sys.argv[2])), float(sys.argv[3])
socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
end = time.monotonic() + time_s
while time.monotonic() < end:
    for sock in socks:
        sock.sendto(bytes(972), to)
    time.sleep(0.001)
"""
RATE_BPS, FLOOD_S = 2_000_000, 2.0


def test_everything_together_is_held_back_to_a_rate(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground, wire: Wire
) -> None:
    left, right = hosts
    argv = [sys.executable, "-c", FLOOD, right.ipv4, str(HELD), str(FLOOD_S)]
    status, out, err = finished(
        left, [*place.run("--type=voice", "--rate=2mbit", "--verbose"), *argv], service
    )
    assert (status, out) == (0, ""), err
    until_none(service)
    packets = wire.of(HELD)
    assert {each.dscp for each in packets} == {VOICE}
    spent_s = (packets[-1].time_ns - packets[0].time_ns) / 1e9
    rate_bps = sum(each.length_bytes for each in packets) * 8 / spent_s
    # Some ten times as much was offered.
    assert RATE_BPS / 10 < rate_bps < RATE_BPS * 1.25, (rate_bps, err)


def test_what_is_above_the_rate_is_remarked(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground, wire: Wire
) -> None:
    left, right = hosts
    argv = [sys.executable, "-c", FLOOD, right.ipv4, str(REMARKED), str(FLOOD_S)]
    status, _, err = finished(
        left, [*place.run("--type=voice", "--rate=2mbit", "--remark"), *argv], service
    )
    assert (status, err) == (0, "")
    until_none(service)
    marks = wire.marks(REMARKED)
    assert set(marks) == {VOICE, 0}
    packets = wire.of(REMARKED)
    spent_s = (packets[-1].time_ns - packets[0].time_ns) / 1e9
    rate_bps = sum(each.length_bytes for each in packets if each.dscp) * 8 / spent_s
    assert RATE_BPS / 10 < rate_bps < RATE_BPS * 1.25
    assert marks[0] > marks[VOICE]


def test_tcp_is_held_to_the_rate_too(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground, wire: Wire, tmp_path: Path
) -> None:
    left, right = hosts
    iperf3 = PROGRAMS[0]
    skip_without(iperf3)
    conversation = Conversation(iperf3, tmp_path, PORT, right, left)
    server = conversation.serve()
    client = conversation.ask(
        *place.run("--type=voice", "--rate=1mbit"), env={"QWAVE_SOCKET": service.socket}
    )
    conversation.finish(client)
    server.kill()
    server.wait()
    until_none(service)
    packets = wire.of(PORT)
    assert {each.dscp for each in packets} == {VOICE}
    spent_s = (packets[-1].time_ns - packets[0].time_ns) / 1e9
    # More than 300 kB.
    assert 100_000 < sum(each.length_bytes for each in packets) * 8 / spent_s < 1_250_000

"""Rates of UDP held by fq, as an ordinary program asks for them (SO_MAX_PACING_RATE).

`tests/kernel/test_udp_pacing.py` tells the life of a rate. Here are its accuracy from 1 to
500 Mbit/s, which in virtual time is that of the mechanism and not of the machine, and who may
ask: anybody.
"""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest

import openqwave as qw
from openqwave.drivers.links import Links
from tests.kernel import nobody
from tests.other_kernel.devices import set_queue
from tests.other_kernel.streams import PORT, gap_ns, stream
from tests.other_kernel.times import is_virtual

if TYPE_CHECKING:
    from openqwave.lab.topology import Host

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(
        Links().linux_version() < (6, 7), reason="the rate is refused before Linux 6.7"
    ),
]

MBPS = 1_000_000


# fq's share of a turn is two full packets, so it lets them go in pairs; a share of one evens
# them out.
@pytest.mark.parametrize(("share", "in_a_turn"), [((), 2), (("quantum", "1514"), 1)])
@pytest.mark.parametrize("rate_bps", [1 * MBPS, 8 * MBPS, 100 * MBPS, 500 * MBPS])
def test_a_rate_is_exact(
    pair: tuple[Host, Host], rate_bps: int, share: tuple[str, ...], in_a_turn: int
) -> None:
    if not is_virtual() and rate_bps > 10 * MBPS:
        pytest.skip("a busy machine is late for so many packets")
    left, right = pair
    set_queue(left.interface, "fq", *share)
    with (
        left.enter(),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        qw.open(embedded=True) as qos,
    ):
        sock.connect((right.ipv4, PORT))
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.AUDIO_VIDEO, adaptive=False)
        flow.set_rate(rate_bps)
        found = stream(right, sock, 2 * rate_bps, 400)
    print(found)
    assert found.lost == 0
    assert {packet.dscp for packet in found.packets} == {40}
    assert found.rate_bps == pytest.approx(rate_bps, rel=0.02 if is_virtual() else 0.1)
    if is_virtual():
        assert found.gaps_ns[2] == pytest.approx(in_a_turn * gap_ns(rate_bps), rel=0.02)


# What a program of nobody's does, and what it prints.
PROGRAM = """
import json, socket, sys
import openqwave as qw
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, qw.open(embedded=True) as qos:
    sock.connect((sys.argv[1], int(sys.argv[2])))
    flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
    flow.set_rate(8_000_000)
    for _ in range(400):
        sock.send(bytes(1472))
    print(json.dumps(flow.rate_bps()))
"""


@pytest.mark.root
def test_anybody_may_ask(pair: tuple[Host, Host]) -> None:
    left, right = pair
    set_queue(left.interface, "fq")
    python = nobody.interpreter("openqwave")
    with right.enter():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, right.capture() as capture:
        receiver.bind((right.ipv4, PORT))
        status, output, errors = left.run(
            nobody.run, [python, "-c", PROGRAM, right.ipv4, str(PORT)]
        )
        assert (status, errors) == (0, "")
        assert json.loads(output) == 8 * MBPS
        packets = capture.wait_for(
            400, timeout_s=30, where=lambda packet: packet.destination_port == PORT
        )
    assert {packet.dscp for packet in packets} == {56}
    # What is left in the queue at the program's end goes out at its rate, too.
    took_ns = packets[-1].time_ns - packets[100].time_ns
    assert took_ns == pytest.approx(299 * gap_ns(8 * MBPS), rel=0.02 if is_virtual() else 0.1)

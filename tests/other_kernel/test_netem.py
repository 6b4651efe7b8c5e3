"""Paths measured, and followed, through the kernel's own emulator of networks, netem.

The lab's links are made by HTB, or by a program. netem is neither, and is what others measure
against. In virtual time it keeps its rate and its delay to the nanosecond, so what is found may be
compared closely there; in real time, as a busy machine allows.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

import openqwave as qw
from openqwave.lab.specs import UdpSink, UdpSource
from openqwave.lab.traffic import Agent
from tests.kernel.qwave import Sink, run
from tests.other_kernel import devices
from tests.other_kernel.devices import set_queue
from tests.other_kernel.times import is_virtual

if TYPE_CHECKING:
    from openqwave.lab.topology import Lab

pytestmark = pytest.mark.kernel

MBPS, MS = 1_000_000, 1_000_000
RATE_BPS = 50 * MBPS
DELAY_MS = 10
# netem counts a frame; less Ethernet's header, the rate counts IP bytes, as estimates do.
RATE = ("rate", f"{RATE_BPS}bit", "-14")
DELAY = ("delay", f"{DELAY_MS}ms")
# 240 ms of the rate: more than trains need.
ROOM = ("limit", "1000")

RECEIVER = "10.0.1.9"


class Path:
    """Two hosts and others on a switch whose port to the right host has the emulator.

    A switch, because measuring stays on the link. `left` has the first link's first address,
    `right` the address `RECEIVER` on the same network.
    """

    def __init__(self, lab: Lab, *forward: str) -> None:
        self.left, self.right = lab.host("left"), lab.host("right")
        self.others = lab.host("others")
        switch = lab.host("switch")
        self.near = lab.link(self.left, switch)
        self.far = lab.link(switch, self.right)
        busy = lab.link(self.others, switch)
        set_queue(self.far.a, "netem", *forward, *ROOM)
        set_queue(self.far.b, "netem", *DELAY, *ROOM)
        devices.or_skip(switch, "ip", "link", "add", "bridge", "type", "bridge")
        for port in (self.near.b, self.far.a, busy.b):
            devices.run(switch, "ip", "addr", "flush", "dev", port.name)
            devices.run(switch, "ip", "link", "set", port.name, "master", "bridge")
        devices.run(switch, "ip", "link", "set", "bridge", "up")
        for host, address in ((self.right, RECEIVER), (self.others, "10.0.1.8")):
            devices.run(host, "ip", "addr", "flush", "dev", host.interface.name)
            devices.run(host, "ip", "addr", "add", f"{address}/24", "dev", host.interface.name)

    def found(self) -> dict[str, Any]:
        """What `qwave probe` finds; "value" of each number."""
        with Sink(self.right):
            done = run(self.left, "probe", "--json", RECEIVER)
        assert done.status == 0, done.output + done.errors
        return {
            name: told["value"]
            for name, told in done.told.items()
            if isinstance(told, dict) and "value" in told
        }


def near(value: float, of: float) -> bool:
    """In virtual time within 2 %; in real time a fifth, as everywhere."""
    return abs(value - of) <= (0.02 if is_virtual() else 0.2) * of


def test_rate_and_delay_are_found(lab: Lab) -> None:
    found = Path(lab, *DELAY, *RATE).found()
    assert near(found["capacity_bps"], RATE_BPS)
    assert near(found["available_bps"], RATE_BPS)
    # A small probe takes some microseconds at this rate.
    assert 2 * DELAY_MS * MS <= found["rtt_ns"] < 2.2 * DELAY_MS * MS
    assert found["loss_ppm"] == 0


def test_loss_is_found(lab: Lab) -> None:
    found = Path(lab, *DELAY, *RATE, "loss", "5%").found()
    # Of some thousand probes: three standard deviations are 1.5 %.
    assert found["loss_ppm"] == pytest.approx(50_000, abs=25_000)
    assert near(found["capacity_bps"], RATE_BPS)


def test_what_others_leave_is_found(lab: Lab) -> None:
    path = Path(lab, *DELAY, *RATE)
    with Agent(path.right, UdpSink(RECEIVER)) as sink:
        load = UdpSource(RECEIVER, sink.port, 20 * MBPS, 8.0)
        with Agent(path.others, load):
            found = path.found()
    assert near(found["capacity_bps"], RATE_BPS)
    assert abs(found["available_bps"] - 30 * MBPS) < (3 if is_virtual() else 15) * MBPS


def test_a_full_path_is_told_and_its_end(lab: Lab) -> None:
    path = Path(lab, *DELAY, *RATE)
    with (
        Sink(path.right),
        path.left.enter(),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        qw.open(embedded=True) as qos,
    ):
        sock.connect((RECEIVER, 5004))
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.AUDIO_VIDEO)
        with path.right.enter():
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind((RECEIVER, 5004))
        until_known(flow)
        flow.set_rate(20 * MBPS, self_paced=True)
        with receiver, Agent(path.right, UdpSink(RECEIVER)) as sink:
            load = UdpSource(RECEIVER, sink.port, 60 * MBPS, 4.0)
            with Agent(path.others, load):
                begun_s = time.monotonic()
                flow.wait_congested(timeout_s=4.0)
                told_s = time.monotonic() - begun_s
                flow.set_rate(MBPS, reason=qw.RateReason.CONGESTION, self_paced=True)
            flow.wait_available(20 * MBPS, timeout_s=15.0)
            free_s = time.monotonic() - begun_s
    print(f"told after {told_s:.2f} s, free {free_s:.2f} s")
    assert 0 < told_s < 2.0
    assert free_s > told_s


def until_known(flow: qw.Flow) -> None:
    """Wait until the path has been measured."""
    for _ in range(100):
        try:
            flow.fundamentals()
        except (qw.NoData, qw.RetryLater):
            time.sleep(0.1)
        else:
            return
    pytest.fail("the path was not measured in ten seconds")

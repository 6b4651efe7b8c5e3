"""Adaptive flows on real links: admitted, refused, told, by what was measured on the wire.

A link of 20 Mbit/s between two hosts; on the far one `qwave sink`, on the near one a program with
all flows (`adaptive_program`). Times that are promised are asserted in virtual time, where no busy
machine moves them (`tests/scenario`), and here with ten times the room.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from openqwave.lab.shape import Bottleneck
from tests.kernel.qwave import TIMEOUT_S, Sink

if TYPE_CHECKING:
    from openqwave.lab.capture import CapturedPacket
    from openqwave.lab.hosts import Link
    from openqwave.lab.topology import Host, Lab

pytestmark = pytest.mark.kernel

MBPS = 1_000_000
RATE_BPS = 20 * MBPS
QUEUE_BYTES = RATE_BPS // 8 // 10
A, B, CROSS = 5001, 5002, 5003
# DSCP of audio and video.
MARKED = 40
# A machine that stands still for a moment makes a measurement come to nothing.
TRIES = 10


class Program:
    """The program on a host."""

    def __init__(self, host: Host) -> None:
        self._process = host.popen(
            [sys.executable, str(Path(__file__).with_name("adaptive_program.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def ask(self, call: str, name: str = "", **arguments: object) -> dict[str, Any]:
        """Have it call something; its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"call": call, "name": name, **arguments}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            pytest.fail(f"the program ended: {self._process.communicate()[1]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def value(self, call: str, name: str = "", **arguments: object) -> Any:  # noqa: ANN401
        """The value of a call that has to succeed."""
        answer = self.ask(call, name, **arguments)
        assert "error" not in answer, (answer, self.ask("path", name))
        return answer["value"]

    def error(self, call: str, name: str = "", **arguments: object) -> str:
        """The error of a call that has to fail."""
        answer = self.ask(call, name, **arguments)
        assert "error" in answer, answer
        return str(answer["error"])

    def admit(self, name: str, rate_bps: int) -> None:
        """Have a flow admitted to a rate that the path has room for.

        A machine that stands still for a moment makes a path look busy, or spoils a measurement,
        but not for long. Asked for first without waiting, as a program would.
        """
        if "error" in self.ask("rate", name, bps=rate_bps):
            self.value("available", name, bps=rate_bps, timeout_s=TIMEOUT_S)
            self.value("rate", name, bps=rate_bps)

    def end(self) -> None:
        _, errors = self._process.communicate(timeout=TIMEOUT_S)
        assert (self._process.returncode, errors) == (0, "")

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=TIMEOUT_S)


@contextmanager
def running(host: Host) -> Iterator[Program]:
    program = Program(host)
    try:
        yield program
        program.end()
    finally:
        program.kill()


@pytest.fixture
def link(lab: Lab) -> Link:
    """A link whose kernel holds to the rate, however busy the machine is."""
    bottleneck = Bottleneck(RATE_BPS, QUEUE_BYTES)
    return lab.link(lab.host("near"), lab.host("far"), a_to_b=bottleneck, b_to_a=bottleneck)


def towards(port: int) -> Callable[[CapturedPacket], bool]:
    """Is a packet one of the program's to a port?"""
    return lambda packet: packet.destination_port == port


def marks(seen: list[CapturedPacket]) -> set[int]:
    """The code points of packets."""
    return {packet.dscp for packet in seen}


def test_the_recovery_from_a_full_network(link: Link) -> None:
    # "The recovery that must work, end to end, after ERROR_NETWORK_BUSY: query the available
    # bandwidth, stream at the lower rate with priority, ask QOSNotifyAvailable for the wanted
    # rate, and when it fires set that rate again."
    near, far = link.a.host, link.b.host
    with Sink(far), running(near) as program, link.b.capture() as capture:
        program.value("flow", "a", to=[link.b.ipv4, A])
        program.value("flow", "b", to=[link.b.ipv4, B])
        program.admit("a", 12 * MBPS)
        program.value("send", "a", bps=12 * MBPS)
        program.value("send", "b", bps=MBPS)
        assert program.error("rate", "b", bps=12 * MBPS) == "ERROR_NETWORK_BUSY"
        capture.packets()
        # "A first request that is refused leaves the flow running unmarked and unshaped".
        assert marks(capture.wait_for(20, TIMEOUT_S, towards(B))) == {0}
        assert marks(capture.wait_for(20, TIMEOUT_S, towards(A))) == {MARKED}
        # 20 less the 12 that are reserved, whatever of them is in use by now.
        left_bps = program.value("query", "b")["available_bps"]
        assert abs(left_bps - 8 * MBPS) <= 0.15 * 8 * MBPS
        program.value("rate", "b", bps=left_bps)
        program.value("send", "b", bps=left_bps * 9 // 10)
        capture.packets()
        # What was on its way at the grant has left by the time that twenty more have come.
        seen = capture.wait_for(40, TIMEOUT_S, towards(B))
        assert marks(seen[20:]) == {MARKED}
        # Not at once, but when the first flow has ended.
        assert program.error("available", "b", bps=12 * MBPS, timeout_s=0.5) == "ERROR_TIMEOUT"
        program.value("close", "a")
        program.value("available", "b", bps=12 * MBPS, timeout_s=30)
        # "An Available notification promises that the same SetFlow, made at once, is granted".
        program.value("rate", "b", bps=12 * MBPS)


def test_congestion_is_told_and_relief(link: Link) -> None:
    # "Congested and uncongested come from measurements: rising one-way delay, loss on probes".
    near, far = link.a.host, link.b.host
    with Sink(far), running(near) as program:
        program.value("flow", "a", to=[link.b.ipv4, A])
        program.admit("a", 8 * MBPS)
        program.value("uncongested", "a", timeout_s=30)
        # Other traffic, a little more than the link has room for beside nothing at all.
        program.value("flow", "cross", to=[link.b.ipv4, CROSS])
        program.value("send", "cross", bps=RATE_BPS * 6 // 5)
        program.value("congested", "a", timeout_s=30)
        assert program.value("path", "a")["is_congested"] is True
        # The flow keeps what it holds, and gets no more.
        assert program.error("rate", "a", bps=9 * MBPS) == "ERROR_NETWORK_BUSY"
        program.value("rate", "a", bps=MBPS)
        program.value("close", "cross")
        program.value("uncongested", "a", timeout_s=30)
        program.value("available", "a", bps=8 * MBPS, timeout_s=30)
        program.value("rate", "a", bps=8 * MBPS)


def test_what_is_tracked_is_known_at_once(link: Link) -> None:
    near, far = link.a.host, link.b.host
    with Sink(far), running(near) as program:
        program.value("track", host=link.b.ipv4)
        program.value("flow", "a", to=[link.b.ipv4, A])
        program.admit("a", MBPS)
        # From here on nothing has to be waited for: ten times what was seen, 0.3 ms.
        took_s = [program.ask("rate", "a", bps=MBPS + turn)["took_s"] for turn in range(1, 50)]
        assert sorted(took_s)[len(took_s) // 2] < 0.003
        assert program.ask("query", "a")["took_s"] < 1
        for _ in range(TRIES):
            answer = program.ask("query", "a", fresh=True)
            if answer.get("error") != "ERROR_RETRY":
                break
        assert answer["value"]["rtt_ns"] > 0


def test_a_sink_that_goes_and_comes_back(link: Link) -> None:
    # By contract: "the sink's connection broke: ERROR_UNEXP_NET_ERR"
    near, far = link.a.host, link.b.host
    with running(near) as program:
        with Sink(far) as sink:
            program.value("flow", "a", to=[link.b.ipv4, A])
            program.admit("a", MBPS)
            sink.process.kill()
        for turn in range(1_000):
            answer = program.ask("rate", "a", bps=2 * MBPS + turn)
            if "error" in answer:
                break
        assert answer["error"] == "ERROR_UNEXP_NET_ERR"
        # "A decrease is always granted."
        program.value("rate", "a", bps=MBPS // 2)
        with Sink(far):
            # Whoever waits is told once it is measured again.
            program.value("available", "a", bps=3 * MBPS, timeout_s=TIMEOUT_S)
            program.value("rate", "a", bps=3 * MBPS)


def test_a_host_without_a_sink(link: Link) -> None:
    # "Adaptive towards a destination that cannot be measured (... no sink ...): the call succeeds,
    # and only what needs estimates answers ERROR_NOT_SUPPORTED; shaping and marking work without
    # admission".
    with running(link.a.host) as program, link.b.capture() as capture:
        program.value("flow", "a", to=[link.b.ipv4, A])
        program.value("rate", "a", bps=500 * MBPS)
        program.value("send", "a", bps=MBPS)
        assert marks(capture.wait_for(20, TIMEOUT_S, towards(A))) == {MARKED}
        assert program.error("query", "a") == "ERROR_NOT_SUPPORTED"
        assert program.error("congested", "a", timeout_s=1) == "ERROR_NOT_SUPPORTED"
        assert program.error("track", host=link.b.ipv4) == "ERROR_HOST_UNREACHABLE"

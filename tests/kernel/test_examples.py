"""The programs of `examples/` on two hosts: what they do on a path that fills up and is relieved.

Everything is told by the programs' lines of JSON and seen on the wire. What a busy machine may
delay is waited for, not timed: a link that a program makes stands still when its program does, and
then there is a queue that nobody has meant, and which the stream flees from like any other.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from examples import adaptive_media, adaptive_stream
from openqwave.drivers.links import Links
from openqwave.lab import taps
from openqwave.lab.capture import Direction
from openqwave.lab.links import Cross, CrossKind, DuplexSpec, PathSpec, Stage
from tests.kernel.qwave import BOTH, TIMEOUT_S, Sink, address_of

if TYPE_CHECKING:
    from openqwave.lab.capture import CapturedPacket
    from openqwave.lab.emulation import EmulatedLink
    from openqwave.lab.topology import Host, Lab

pytestmark = pytest.mark.kernel

needs_taps = pytest.mark.skipif(
    not os.access(taps.DEVICE, os.R_OK | os.W_OK), reason=f"{taps.DEVICE} is closed to us"
)

MBPS, MS = 1_000_000, 1_000_000
RATE_BPS = 20 * MBPS
# 50 ms of queue.
PLAIN = Stage(RATE_BPS, queue_bytes=RATE_BPS // 8 // 20, delay_ns=5 * MS)
OVERFILLED = replace(PLAIN, cross=(Cross(CrossKind.POISSON, RATE_BPS * 13 // 10),))
BACK = PathSpec((PLAIN,))
# EXCELLENT_EFFORT and AUDIO_VIDEO have the same.
MARK = 40

CONTENT_BPS = 8 * MBPS
# 1400 bytes of content have 28 of headers over IPv4.
WANTED_BPS = 8_160_000
STREAM, MEDIA = Path(adaptive_stream.__file__), Path(adaptive_media.__file__)
PORTS = {STREAM: adaptive_stream.PORT, MEDIA: adaptive_media.PORT}
# With headers of RTP, UDP and IPv6.
RUNGS_BPS = [rung.rate_bps(6) for rung in adaptive_media.LADDER]

# A shell's background job is born ignoring SIGINT, and so is what it starts.
INTERRUPTIBLE = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Example:
    """A program of `examples/` on a host.

    Attributes:
        events: What it has told so far, as far as it was looked at.
    """

    def __init__(self, host: Host, program: Path, *arguments: str) -> None:
        self.events: list[dict[str, Any]] = []
        self.process = host.popen(
            [sys.executable, "-c", INTERRUPTIBLE, str(program), *arguments, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def take(self, timeout_s: float) -> bool:
        """Wait a moment for something to be told; False where nothing was."""
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            return False
        assert line is not None, f"it ended: {self.events[-3:]} {self.errors()}"
        self.events.append(json.loads(line))
        return True

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def until(self, condition: Callable[[], object], meanwhile: Callable[[], None]) -> None:
        """Wait for what it tells to make something true."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while not condition():
            if time.monotonic() >= deadline_s:
                self.process.kill()
                pytest.fail(f"not told in {TIMEOUT_S} s: {self.events[-3:]} {self.errors()}")
            self.take(0.05)
            meanwhile()

    def wait_for(self, event: str) -> None:
        self.until(lambda: self.of_kind(event), lambda: None)

    def of_kind(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]

    def latest(self, event: str, key: str) -> Any:  # noqa: ANN401 - JSON
        found = self.of_kind(event)
        return found[-1][key] if found else None

    def end(self, number: int | None = None) -> str:
        """Let it end, by a signal or by itself; returns what it wrote to standard error."""
        if number is not None:
            self.process.send_signal(number)
        status = self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        while (line := self._lines.get()) is not None:
            self.events.append(json.loads(line))
        errors = self.errors()
        assert "Traceback" not in errors, errors
        assert status == 0, errors
        return errors


class Show:
    """A program streams from one host to another.

    Attributes:
        sender: The program that sends.
        receiver: The one that counts.
        packets: What was seen of the stream as it left.
    """

    def __init__(self, left: Host, right: Host, address: str, program: Path, *rest: str) -> None:
        self.packets: list[CapturedPacket] = []
        self._port = PORTS[program]
        self._capture = left.capture(Direction.OUTGOING)
        self.receiver = Example(right, program, "receive")
        self.receiver.wait_for("listening")
        self.sender = Example(left, program, "send", address, *rest)

    def look(self) -> None:
        self.packets += [
            packet for packet in self._capture.packets() if packet.destination_port == self._port
        ]

    def until(self, condition: Callable[[], object]) -> None:
        self.sender.until(condition, self.look)

    def is_at(self, event: str, rate_bps: int) -> Callable[[], bool]:
        """Is this the rate that was granted last?"""
        return lambda: self.sender.latest(event, "rate_bps") == rate_bps

    def arrives_at(self, least_bps: int) -> Callable[[], bool]:
        """Has so much come in a second that began after the last grant?"""
        since_ns = self.sender.latest("rate", "time_ns") + 1_000 * MS
        return lambda: any(
            second["time_ns"] > since_ns and second["rate_bps"] > least_bps
            for second in self.receiver.of_kind("second")
        )

    def is_marked(self) -> bool:
        self.look()
        return bool(self.packets) and self.packets[-1].dscp == MARK

    def end(self, number: int | None = None) -> None:
        assert self.sender.end(number) == ""
        self.look()
        assert self._capture.dropped == 0
        assert self.sender.events[-1]["event"] == "end"

    def assert_marks(self, event: str) -> None:
        """Marked from the first grant on, until the flow is over."""
        granted_ns = self.sender.of_kind(event)[0]["time_ns"]
        # What is told a little after it is so tells nothing of the moment between.
        assert all(packet.dscp == 0 for packet in self.packets if not self._is_after_grant(packet))
        later = [packet for packet in self.packets if packet.time_ns > granted_ns]
        assert {packet.dscp for packet in later[:-1]} == {MARK}
        # The last one was sent when the flow was over.
        assert later[-1].dscp == 0
        assert {packet.ecn for packet in self.packets} == {0}

    def _is_after_grant(self, packet: CapturedPacket) -> bool:
        first = next(each.time_ns for each in self.packets if each.dscp)
        return packet.time_ns >= first

    def assert_rates(self, event: str) -> None:
        """No more was on the wire than was granted, whatever it was."""
        grants = self.sender.of_kind(event)
        ends_ns = [grant["time_ns"] for grant in grants[1:]] + [self.packets[-1].time_ns]
        for grant, end_ns in zip(grants, ends_ns, strict=True):
            sent = [packet for packet in self.packets if grant["time_ns"] < packet.time_ns < end_ns]
            bits = 8 * sum(packet.length_bytes for packet in sent)
            # What a pacer makes up for, and what is sent before its change is told.
            allowed = grant["rate_bps"] * (end_ns - grant["time_ns"]) / 1e9 * 1.1 + 8 * 30_000
            assert bits <= allowed, grant


def reshape(link: EmulatedLink, stage: Stage) -> None:
    link.reshape(DuplexSpec(PathSpec((stage,)), BACK))


@needs_taps
def test_a_stream_adapts(lab: Lab) -> None:
    left, right = lab.host("left"), lab.host("right")
    link = lab.emulated_link(left, right, DuplexSpec(PathSpec((PLAIN,)), BACK))
    with Sink(right):
        show = Show(left, right, right.ipv4, STREAM, str(CONTENT_BPS))
        show.until(show.is_at("rate", WANTED_BPS))
        show.until(show.is_marked)
        show.receiver.until(show.arrives_at(CONTENT_BPS // 2), show.look)
        reshape(link, OVERFILLED)
        show.until(show.is_at("rate", WANTED_BPS // 10))
        count = len(show.packets)
        show.until(lambda: len(show.packets) > count)
        reshape(link, PLAIN)
        show.until(show.is_at("rate", WANTED_BPS))
        # Up to its rate again.
        show.receiver.until(show.arrives_at(CONTENT_BPS // 2), show.look)
        show.end(signal.SIGINT)
    show.receiver.end(signal.SIGINT)
    show.assert_marks("rate")
    show.assert_rates("rate")
    told = [each["event"] for each in show.sender.events]
    assert "congested" in told
    assert "available" in told[told.index("congested") :]
    cuts = [each for each in show.sender.of_kind("rate") if each["rate_bps"] < WANTED_BPS]
    assert "CONGESTION" in {cut["reason"] for cut in cuts}
    known = [each["capacity_bps"] for each in show.sender.of_kind("second")]
    assert any(bps is not None and abs(bps - RATE_BPS) < RATE_BPS // 4 for bps in known)


@needs_taps
def test_media_steps_down_and_up(lab: Lab) -> None:
    left, right = lab.host("left"), lab.host("right")
    link = lab.emulated_link(left, right, DuplexSpec(PathSpec((PLAIN,)), BACK))
    with Sink(right):
        show = Show(left, right, right.ipv6, MEDIA)
        show.until(show.is_at("step", RUNGS_BPS[-1]))
        reshape(link, OVERFILLED)
        show.until(show.is_at("step", RUNGS_BPS[0]))
        reshape(link, PLAIN)
        show.until(show.is_at("step", RUNGS_BPS[2]))
        count = len(show.packets)
        show.until(lambda: len(show.packets) > count)
        show.end(signal.SIGINT)
    show.assert_marks("step")
    show.assert_rates("step")
    assert {"congested", "relieved"} <= {each["event"] for each in show.sender.events}
    # One step at a time, but for those to the bottom.
    rungs = [each["rung"] for each in show.sender.of_kind("step")]
    assert rungs[0] == 0
    assert all(after in (0, before + 1) for before, after in pairwise(rungs))
    # As the receiver heard it; steps of a moment may be lost on the way.
    show.receiver.wait_for("end")
    heard = [each["rung"] for each in show.receiver.of_kind("step")]
    assert heard[0] == 0
    assert heard[-1] == rungs[-1]
    last = show.receiver.of_kind("second")[-1]
    media = [packet for packet in show.packets if packet.payload[:1] == b"\x80"]
    assert len(media) == len(show.packets) - 1
    assert last["received"] + last["lost"] <= len(media)
    # The overfilled queue has room for the seventh part of what comes, and for all before it.
    assert last["received"] > len(media) // 2
    assert 0 < last["jitter_ns"] < 100 * MS
    numbers = [int.from_bytes(packet.payload[2:4]) for packet in media]
    assert all((before + 1) % (1 << 16) == after for before, after in pairwise(numbers))
    show.receiver.end()


@BOTH
@pytest.mark.parametrize(
    ("program", "arguments", "event"),
    [(STREAM, (str(CONTENT_BPS),), "rate"), (MEDIA, (), "step")],
    ids=["stream", "media"],
)
def test_without_a_sink_there_are_marks(
    pair: tuple[Host, Host],
    program: Path,
    arguments: tuple[str, ...],
    event: str,
    version: int,
) -> None:
    left, right = pair
    show = Show(left, right, address_of(right, version), program, *arguments)
    show.until(show.is_marked)
    show.end(signal.SIGINT)
    show.assert_marks(event)
    show.assert_rates(event)
    (reason,) = {each["reason"] for each in show.sender.of_kind("unmeasured")}
    assert "no sink answers" in reason
    assert len(show.sender.of_kind(event)) == 1


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_to_this_host_itself(lab: Lab, address: str) -> None:
    host = lab.host("alone")
    for program, arguments in ((STREAM, (str(CONTENT_BPS),)), (MEDIA, ())):
        receiver = Example(host, program, "receive")
        receiver.wait_for("listening")
        sender = Example(host, program, "send", address, *arguments, "--seconds", "1")
        assert sender.end() == ""
        assert sender.latest("unmeasured", "reason")
        assert sender.of_kind("rate" if program is STREAM else "step")[0]["dscp"] == MARK
        # Media say goodbye, at which a receiver ends by itself; no signal may meet it there.
        receiver.end(signal.SIGINT if program is STREAM else None)


def test_where_the_kernel_paces_it_is_the_clock(pair: tuple[Host, Host]) -> None:
    from pyroute2 import IPRoute, NetlinkError

    left, right = pair

    def run_fq(index: int) -> bool:
        with IPRoute() as netlink:
            try:
                netlink.tc("replace", "fq", index)
            except NetlinkError:  # A kernel without it.
                return False
        return True

    is_paced = left.run(run_fq, left.interface.index) and Links().linux_version() >= (6, 7)
    show = Show(left, right, right.ipv4, STREAM, str(CONTENT_BPS))
    show.until(lambda: len(show.sender.of_kind("second")) > 1)
    show.end(signal.SIGINT)
    assert show.sender.latest("rate", "paced_by") == ("the kernel" if is_paced else "the program")
    show.assert_marks("rate")
    show.assert_rates("rate")
    assert show.sender.latest("second", "sent_bps") > WANTED_BPS // 10


@pytest.mark.parametrize("program", [STREAM, MEDIA], ids=["stream", "media"])
def test_nobody_receives(pair: tuple[Host, Host], program: Path) -> None:
    left, right = pair
    arguments = [str(CONTENT_BPS)] if program is STREAM else []
    process = left.popen(
        [sys.executable, str(program), "send", right.ipv4, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    (line,) = errors.splitlines()
    assert line.endswith(
        f"nobody receives at {right.ipv4}, port {PORTS[program]}: start it there first"
    )

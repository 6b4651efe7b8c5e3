"""Pictures of real paths: `qwave probe --plot`, and `qwave paths --plot` of a real service."""

from __future__ import annotations

import html
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import openqwave as qw
from openqwave.lab.shape import Bottleneck
from tests.kernel.qwave import TIMEOUT_S, Sink, finish, run, start
from tests.kernel.service_stage import running

if TYPE_CHECKING:
    from openqwave.lab.topology import Host, Lab

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(
        importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
    ),
]

MBPS = 1_000_000
RATE_BPS = 20 * MBPS
QUEUE_BYTES = RATE_BPS // 8 // 20


@pytest.fixture
def hosts(lab: Lab) -> tuple[Host, Host]:
    """Two hosts with a bottleneck of `RATE_BPS` between them, both ways."""
    left, right = lab.host("left"), lab.host("right")
    bottleneck = Bottleneck(RATE_BPS, QUEUE_BYTES)
    lab.link(left, right, a_to_b=bottleneck, b_to_a=bottleneck)
    return left, right


def words_of(picture: Path) -> str:
    text = picture.read_text(encoding="utf-8")
    return " ".join(map(html.unescape, re.findall(r"<text[^>]*>([^<]*)</text>", text)))


def test_a_measurement_and_its_recording_make_the_same_picture(
    hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    left, right = hosts
    record, live = tmp_path / "samples", tmp_path / "live.svg"
    one, other = tmp_path / "one.svg", tmp_path / "other.svg"
    with Sink(right):
        # A machine that stands still for some of the time spoils a measurement, but not so many.
        for _ in range(5):
            done = run(
                left,
                *("probe", "--json", "--plot", str(live), "--samples", str(record), right.ipv4),
            )
            assert done.status in (0, 3), done.errors
            assert done.errors.splitlines()[-1] == f"Picture: {live}"
            capacity = done.told["capacity_bps"]
            if capacity["value"] is not None:
                break
        else:
            pytest.fail(f"the capacity was never found: {done.output}")
    words = words_of(live)
    assert f"Path to {right.ipv4}, IPv4 capacity " in words
    # The title is what was told, and about the truth.
    shown = re.search(r"IPv4 capacity ([\d.]+) Mbit/s \(([\d.]+) to ([\d.]+)\)", words)
    assert shown is not None
    value, low, high = map(float, shown.groups())
    assert value == pytest.approx(capacity["value"] / MBPS, rel=0.02)
    assert low <= capacity["low"] / MBPS <= capacity["high"] / MBPS <= high
    assert value == pytest.approx(RATE_BPS / MBPS, rel=0.25)
    for name in ("to the sink", "from the sink", "pair, sent at once", "train, sent at once"):
        assert name in words
    for picture in (one, other):
        assert run(left, "probe", "--replay", str(record), "--plot", str(picture)).status in (0, 3)
    assert one.read_bytes() == other.read_bytes()
    assert words_of(one) == words.replace(f"Path to {right.ipv4}, IPv4", "A recorded path")


def test_ctrl_c_ends_a_watch_with_a_picture(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    left, right = hosts
    picture = tmp_path / "watch.svg"
    with Sink(right):
        process = start(
            left,
            *("probe", "--watch", "--json", "--seconds", "0.8", "--no-priority"),
            *("--plot", str(picture), right.ipv4),
            interruptible=True,
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        done = finish(process)
    assert done.status in (0, 3), done.errors
    assert done.errors.splitlines()[-1] == f"Picture: {picture}"
    elapsed_s = [json.loads(line)["elapsed_ns"] / 1e9 for line in lines]
    assert elapsed_s == sorted(elapsed_s)
    assert "the watch begins" in words_of(picture)
    assert os.listdir(tmp_path) == ["watch.svg"]


def test_ctrl_c_before_a_result_leaves_no_picture(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    left, right = hosts
    with Sink(right) as sink:
        process = start(
            left, "probe", "--plot", str(tmp_path / "no.png"), right.ipv4, interruptible=True
        )
        sink.wait_for("train")
        process.send_signal(signal.SIGINT)
        done = finish(process)
    assert (done.status, done.output) == (130, "")
    assert os.listdir(tmp_path) == []


@pytest.mark.root
def test_a_path_of_the_service_is_drawn(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    left, right = hosts
    picture = tmp_path / "path.svg"
    with (
        running(left) as service,
        Sink(right),
        service.open() as qos,
        left.enter(),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.connect((right.ipv4, 9))
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.AUDIO_VIDEO)
        # Which waits until it is known what there is.
        flow.set_rate(2 * MBPS, self_paced=True)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "openqwave.cli", "paths", right.ipv4),
                *("--plot", str(picture), "--for", "3", "--json"),
            ],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=os.environ | {"QWAVE_SOCKET": service.socket},
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, f"Picture: {picture}\n")
    (row,) = json.loads(done.stdout)["paths"]
    assert row["held_bps"] == 2 * MBPS
    words = words_of(picture)
    assert f"Path to {right.ipv4}: wired " in words
    assert "held by contracts 2.00" in words
    shown = re.search(r" of ([\d.]+) Mbit/s free, 2.00 held", words)
    assert shown is not None
    assert float(shown[1]) == pytest.approx(row["capacity_bps"] / MBPS, rel=0.01)
    assert float(shown[1]) == pytest.approx(RATE_BPS / MBPS, rel=0.25)
    assert "time since " in words

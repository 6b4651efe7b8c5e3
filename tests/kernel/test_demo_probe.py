"""The demo of measuring as a user runs it: what it finds, prints and draws, and leaves behind."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openqwave.cli.demo.probe.command import Options, run_demo
from openqwave.lab import taps
from tests.kernel.demo_stage import (
    TIMEOUT_S,
    assert_chart,
    assert_interruption_leaves_nothing,
)

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(
        not os.access(taps.DEVICE, os.R_OK | os.W_OK), reason=f"{taps.DEVICE} is closed to us"
    ),
]

MBPS = 1_000_000


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "chart.png"


@pytest.fixture(scope="module")
def ran(chart: Path) -> subprocess.CompletedProcess[str]:
    """One run with everything, for the tests that only look at it."""
    return subprocess.run(
        [sys.executable, "-m", "openqwave.cli", "demo", "probe", "--json", "--chart", str(chart)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.fixture
def told(ran: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(ran.stdout)
    return answer


def test_the_status_is_what_the_verdicts_say(
    ran: subprocess.CompletedProcess[str], told: dict[str, Any]
) -> None:
    # Whether this machine is calm enough for a good answer is not this test's business.
    verdicts = [verdict for link in told["links"] for verdict in link["verdicts"].values()]
    assert len(verdicts) == 6
    if "wrong" in verdicts:
        assert (ran.returncode, ran.stderr) == (1, "")
    elif "unjudged" in verdicts:
        assert ran.returncode == 2
        assert ran.stderr.startswith("This machine was too busy for a fair trial: ")
    else:
        assert (ran.returncode, ran.stderr) == (0, "")
    assert told["kept"] is (ran.returncode == 0)


def test_the_truth_is_the_links(told: dict[str, Any]) -> None:
    half, coalesced, bucket = told["links"]
    assert [link["truth"]["capacity_bps"] // MBPS for link in told["links"]] == [20, 100, 20]
    # Three thousand packets of others at random: their number varies by 2 %.
    assert 8 * MBPS < half["truth"]["available_bps"] < 12 * MBPS
    for idle in (coalesced, bucket):
        assert idle["truth"]["available_bps"] == idle["truth"]["capacity_bps"]
    for link in told["links"]:
        # The links carried what the measurement sent: the window is the right one.
        measured = link["measured"]
        assert 0 < link["truth"]["window_ns"] <= measured["elapsed_ns"]
        carried = link["truth"]["carried"][0]
        assert 0.7 * measured["sent_bytes"] < carried["frame_bytes"] < 1.1 * measured["sent_bytes"]


def test_each_verdict_is_what_the_numbers_say(told: dict[str, Any]) -> None:
    for link in told["links"]:
        for name, verdict in link["verdicts"].items():
            answer, truth = link["measured"][name], link["truth"][name]
            if answer["value"] is None:
                assert verdict == "not_known"
                assert answer["reason"]
            elif answer["low"] <= truth <= answer["high"]:
                assert verdict == "holds"
            else:
                assert verdict == ("unjudged" if link["punctuality"]["is_link_late"] else "wrong")


def test_what_is_measured_is_near_the_truth(told: dict[str, Any]) -> None:
    for link in told["links"]:
        if link["punctuality"]["is_link_late"]:
            continue
        answer, truth = link["measured"]["capacity_bps"], link["truth"]["capacity_bps"]
        if answer["value"] is not None:
            assert answer["value"] == pytest.approx(truth, rel=0.25), link["name"]
    half, coalesced, bucket = told["links"]
    # Nothing comes sooner than the lines allow.
    for link, line_ms in ((half, 20), (coalesced, 4), (bucket, 10)):
        assert link["measured"]["rtt_ns"]["low"] >= line_ms * 1_000_000
    # The load is hidden there, and no number is made up.
    if bucket["measured"]["link"] == "a token bucket":
        assert bucket["measured"]["available_bps"]["doubt"] == "burst_credit"


def test_the_chart_is_a_picture(told: dict[str, Any], chart: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed")
    assert told["chart"] == str(chart)
    # Nine empty panels are some 60 kB.
    assert_chart(chart, 80_000)


# ---- What it leaves


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(number: signal.Signals) -> None:
    # It measures when it says so.
    lines = ["20 Mbit/s, half of it used by others:", " s  "]
    # A link, a sink and a probe.
    assert_interruption_leaves_nothing(["demo", "probe"], number, lines=lines, children=3)


@pytest.mark.usefixtures("fd_guard")
def test_a_link_that_cannot_be_had_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(taps, "DEVICE", "/dev/no-such-device")
    processors = os.sched_getaffinity(0)
    assert run_demo(Options()) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("The demo could not run: no emulated link without /dev/no-such")
    assert output.err.count("\n") == 1
    assert os.sched_getaffinity(0) == processors


@pytest.mark.usefixtures("fd_guard")
def test_a_sink_that_cannot_run_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "openqwave.cli.demo.probe.stage.QWAVE",
        (sys.executable, "-c", "import sys; sys.exit('no port is free')"),
    )
    processors = os.sched_getaffinity(0)
    assert run_demo(Options()) == 2
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "The demo could not run: no port is free\n")
    assert os.sched_getaffinity(0) == processors

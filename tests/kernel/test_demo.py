"""The demo as a user runs it: what it promises, what it prints, and what it leaves behind."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from openqwave.cli.demo import figures
from openqwave.cli.demo.command import Options, run_demo
from openqwave.lab import namespaces
from tests.kernel import nobody
from tests.kernel.demo_stage import (
    TIMEOUT_S,
    assert_chart,
    assert_interruption_leaves_nothing,
)

pytestmark = pytest.mark.kernel

COMMAND = [sys.executable, "-m", "openqwave.cli", "demo"]
# Two halves of a second have 800 packets of the stream each.
SHORT = ["--seconds", "1"]


def demo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "COLUMNS": "80", **environment},
    )


def assert_promises(told: dict[str, Any]) -> None:
    before, after = told["without_flow"], told["in_flow"]
    stream = after["stream"]
    assert stream["lost_packets"] <= stream["sent_packets"] * 0.001
    assert stream["delay_p99_ns"] * 4 < before["stream"]["delay_p99_ns"]
    assert set(stream["wire_dscp"]) == {"40"}
    assert set(after["bulk"]["wire_dscp"]) == {"0"}
    assert [each["kept"] for each in told["verdicts"].values()] == [True, True, True]
    assert told["kept"] is True


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "chart.png"


@pytest.fixture(scope="module")
def ran(chart: Path) -> subprocess.CompletedProcess[str]:
    """One run with everything, for the tests that only look at it."""
    return demo("--json", "--seconds", "1.5", "--chart", str(chart))


def test_promises_are_kept(ran: subprocess.CompletedProcess[str]) -> None:
    assert (ran.returncode, ran.stderr) == (0, "")
    assert_promises(json.loads(ran.stdout))


def test_the_numbers_add_up(ran: subprocess.CompletedProcess[str]) -> None:
    told = json.loads(ran.stdout)
    assert told["format"] == 1
    assert set(told["versions"]) == {"openqwave", "python", "kernel"}
    assert told["flow"]["dscp"] == 40
    assert told["flow"]["traffic_type"] == "audio_video"
    assert told["flow"]["flow_id"] > 0
    assert told["measurement"]["uncaptured_packets"] == 0
    dropped = told["measurement"]["socket_drops"]
    for half in (told["without_flow"], told["in_flow"]):
        for each in half.values():
            assert each["sent_packets"] > 0
            assert each["lost_packets"] == each["sent_packets"] - each["received_packets"]
            # What the wire carried and what the program got, counted apart.
            arrived = sum(each["wire_dscp"].values())
            assert each["received_packets"] <= arrived <= each["received_packets"] + dropped
            assert 0 < each["delay_median_ns"] <= each["delay_p99_ns"] <= each["delay_max_ns"]
    # Without a flow nobody is marked, and a link that is full loses.
    assert set(told["without_flow"]["stream"]["wire_dscp"]) == {"0"}
    assert told["without_flow"]["stream"]["lost_percent"] > 1
    assert told["without_flow"]["bulk"]["lost_percent"] > 1
    # The whole was no more than the link carries, plus what its queue held at the turn.
    for half in (told["without_flow"], told["in_flow"]):
        total = sum(each["delivered_bps"] for each in half.values())
        assert total < 20_000_000 * 1.1


def test_the_chart_is_a_picture(ran: subprocess.CompletedProcess[str], chart: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed")
    assert json.loads(ran.stdout)["chart"] == str(chart)
    # An empty pair of axes is some 20 kB.
    assert_chart(chart)


def test_plain_output_is_plain(tmp_path: Path) -> None:
    done = demo(*SHORT, "--chart", str(tmp_path / "chart.svg"), NO_COLOR="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    # The path of the chart is in one piece, however long it is.
    assert max(len(line) for line in lines if not line.startswith("Chart: ")) <= 80
    assert any(
        re.match(r" +\d s QOSAddSocketToFlow, QOSSetFlow: flow \d+, DSCP 40", each)
        for each in lines
    )
    assert sum(each.startswith("ok ") for each in lines) == 3
    assert (tmp_path / "chart.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_a_line_a_second() -> None:
    done = demo("--seconds", "2", "--no-live")
    assert done.returncode == 0
    assert re.search(r"^ +\d s without a flow stream .* DSCP  0, bulk", done.stdout, re.MULTILINE)
    assert re.search(r"^ +\d s in a flow      stream .* DSCP 40, bulk", done.stdout, re.MULTILINE)


def on_terminal(arguments: list[str], columns: int) -> tuple[int, str]:
    """Run a program on a terminal of its own; return its status and all it wrote."""
    ours, theirs = pty.openpty()
    with ExitStack() as resources:
        resources.callback(os.close, ours)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        environment = {key: value for key, value in os.environ.items() if key not in UNWANTED}
        process = subprocess.Popen(
            arguments,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment | {"TERM": "xterm-256color"},
            start_new_session=True,
        )
        resources.callback(process.wait)
        os.close(theirs)
        written = bytearray()
        deadline = time.monotonic() + TIMEOUT_S
        while select.select([ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
            try:
                written += os.read(ours, 65_536)
            except OSError:  # Everybody has closed the other end.
                return process.wait(TIMEOUT_S), written.decode()
        process.kill()
    pytest.fail("the demo did not end")


# What would tell the program that its terminal is none, or wider than it is.
UNWANTED = ("NO_COLOR", "COLUMNS", "LINES", "CI", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


@pytest.mark.parametrize("columns", [80, 40])
def test_a_terminal_gets_a_live_view(columns: int) -> None:
    status, written = on_terminal([*COMMAND, *SHORT], columns)
    assert status == 0
    assert written.count("DSCP") > 5
    assert "█" in written
    # The cursor is given back.
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l") > -1


# ---- What cannot run


UNAVAILABLE = """
import os, sys
from pathlib import Path
from openqwave.lab.namespaces import enter_user_namespace

try:
    enter_user_namespace()
    for kind in ("user", "net"):
        Path(f"/proc/sys/user/max_{kind}_namespaces").write_text("0")
except OSError:
    sys.exit(77)
os.execv(sys.executable, [sys.executable, "-m", "openqwave.cli", "demo"])
"""


def test_without_namespaces_it_says_how_to_get_them() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNAVAILABLE],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("no user namespace to forbid namespaces in")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("The demo needs network namespaces: ")
    assert "sysctl -w user.max_user_namespaces=" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_kernel_that_refuses_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: int) -> None:
        raise OSError(28, "no room for another namespace")

    monkeypatch.setattr(namespaces, "_unshare", refuse)
    monkeypatch.setattr(
        "openqwave.cli.demo.command.availability",
        lambda: namespaces.Availability(namespaces.Rights.ROOT),
    )
    assert run_demo(Options(0.5)) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "The demo could not run: no room for another namespace\n"


@pytest.mark.usefixtures("fd_guard")
def test_a_broken_promise_is_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "MOST_OF_THE_DELAY", 0.0)
    assert run_demo(Options(0.5)) == 1
    output = capsys.readouterr().out
    assert [line[:4] for line in output.splitlines() if line.startswith(("ok ", "NOT "))] == [
        "ok  ",
        "NOT ",
        "ok  ",
    ]


def test_without_matplotlib_there_is_no_chart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("openqwave.cli.plot.target.can_draw", lambda: False)
    path = tmp_path / "chart.png"
    assert run_demo(Options(0.5, path, as_json=True)) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["chart"] is None
    assert output.err == "No chart: matplotlib is not installed; pip install 'openqwave[plot]'.\n"
    assert not path.exists()


# ---- Ctrl-C


@pytest.mark.parametrize(
    ("number", "to_group"),
    [(signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, False)],
)
def test_an_interruption_leaves_nothing(number: signal.Signals, to_group: bool) -> None:
    # Two senders and two receivers.
    assert_interruption_leaves_nothing(
        ["demo", "--seconds", "30"],
        number,
        lines=["without a flow"],
        children=4,
        to_group=to_group,
    )


# ---- Without root


ALLOWED = """
import sys
from openqwave.lab.namespaces import availability
sys.exit(not availability())
"""


@pytest.mark.root
def test_an_ordinary_user_runs_it() -> None:
    python = nobody.interpreter("pyroute2", "typer", "rich")
    if nobody.run([python, "-c", ALLOWED])[0]:
        pytest.skip("this system refuses user namespaces to ordinary users")
    status, output, errors = nobody.run([python, "-m", "openqwave.cli", "demo", "--json", *SHORT])
    assert (status, errors) == (0, "")
    assert_promises(json.loads(output))

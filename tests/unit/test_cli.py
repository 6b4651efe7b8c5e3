"""The command's outside: help, version, wrong options, Ctrl-C, and the demo's verdicts."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from rich.console import Console

from openqwave.cli import program
from openqwave.cli.demo.figures import Figures, Half
from openqwave.cli.demo.report import print_report
from openqwave.cli.demo.stage import AFTER, BEFORE, BULK, STREAM
from openqwave.cli.demo.wire import Track
from openqwave.cli.interruption import Interrupted, Interruption
from openqwave.cli.main import run
from tests.unit.commands import qwave


def test_version() -> None:
    command = [sys.executable, "-m", "openqwave.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"qwave {version('openqwave')}\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["qwave [OPTIONS] COMMAND", "demo", "--version"]),
        (["-h"], ["qwave [OPTIONS] COMMAND"]),
        (["demo", "--help"], ["--chart", "--seconds", "--json", "--no-live", "Exit status"]),
    ],
)
def test_help(arguments: list[str], words: list[str]) -> None:
    done = qwave(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(word in done.stdout for word in words)
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_without_a_command_there_is_help() -> None:
    done = qwave()
    assert done.returncode == 2
    assert "qwave [OPTIONS] COMMAND" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "nonsense"),
        (["--nonsense"], "--nonsense"),
        (["demo", "--nonsense"], "--nonsense"),
        (["demo", "--seconds", "soon"], "--seconds"),
        (["demo", "--seconds", "0.4"], "0.5 to 60"),
        (["demo", "--seconds", "61"], "0.5 to 60"),
        (["demo", "--seconds", "nan"], "0.5 to 60"),
        (["demo", "--seconds", "-1"], "0.5 to 60"),
        (["demo", "--chart", "/nonexistent/chart.png"], "cannot be written"),
        (["demo", "--chart", "/proc/chart.png"], "cannot be written"),
        (["demo", "--chart", "chart.jpeg"], ".png or .svg"),
        (["demo", "--chart", ""], ".png or .svg"),
    ],
)
def test_wrong_options_are_told(arguments: list[str], words: str) -> None:
    done = qwave(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_chart_in_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "directory.png"
    directory.mkdir()
    done = qwave("demo", "--chart", str(directory))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{directory}: cannot be written: Is a directory\n"


def test_help_loads_no_more_than_it_needs() -> None:
    code = (
        "import json, sys\n"
        "from openqwave.cli.main import run\n"
        "sys.argv = ['qwave', 'demo', '--help']\n"
        "try:\n"
        "    run()\n"
        "except SystemExit:\n"
        "    print('\\n' + json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "typer" in loaded
    assert not loaded & {"pyroute2", "matplotlib", "numpy", "openqwave.cli.demo"}


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_missing_package_is_named(missing: str) -> None:
    code = (
        "import sys\n"
        f"class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {missing!r}:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Without())\n"
        "from openqwave.cli.main import run\n"
        "sys.argv = ['qwave', 'demo']\n"
        "run()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(
        f"qwave needs {missing}, which is not installed: pip install 'openqwave[cli]'\n"
    )
    assert "Traceback" not in done.stderr


# ---- Ctrl-C


def test_an_early_interruption_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "app", interrupted)
    with pytest.raises(SystemExit) as left:
        run()
    assert left.value.code == 130
    assert capsys.readouterr().err == "Interrupted.\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_a_request(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with Interruption() as interruption:
            interruption.check()
            signal.raise_signal(number)
            for ask in (interruption.check, lambda: interruption.pause(60.0)):
                with pytest.raises(Interrupted) as asked:
                    ask()
                assert asked.value.status == 128 + number
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGINT)
            interruption.check()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# ---- Output that cannot be written


@pytest.mark.parametrize("arguments", [["--version"], ["probe", "--replay", "FILE"]])
def test_a_full_disk_is_told(arguments: list[str], tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    recording = tmp_path / "samples"
    recording.write_text('{"kind":"measurement","format":1,"wish":{"version":4}}\n')
    given = [each.replace("FILE", str(recording)) for each in arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "openqwave.cli", *given],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.endswith("qwave could not write its output: No space left on device\n")
    assert "Traceback" not in done.stderr


# ---- Verdicts


def half(received: int, dscp: int, p99_ns: int | None) -> Half:
    return Half(7000, received, 8_000_000, p99_ns, p99_ns, p99_ns, {dscp: received})


KEPT = Figures(
    half_s=9.0,
    flow={
        "event": "flow",
        "time_ns": 1,
        "flow_id": 77,
        "dscp": 40,
        "add_socket_ns": 300_000,
        "set_flow_ns": 90_000,
    },
    halves={
        (STREAM, BEFORE): half(4000, 0, 100_000_000),
        (STREAM, AFTER): half(6993, 40, 24_999_999),
        (BULK, BEFORE): half(3500, 0, 100_000_000),
        (BULK, AFTER): half(2500, 0, 160_000_000),
    },
    uncaptured=0,
    socket_drops=0,
    slipped_ns=0,
)

BROKEN = [
    ("loss", AFTER, STREAM, half(6992, 40, 1_000_000)),
    ("delay", AFTER, STREAM, half(6993, 40, 25_000_000)),
    ("delay", BEFORE, STREAM, half(0, 0, None)),
    ("marks", AFTER, STREAM, half(6993, 0, 1_000_000)),
    ("marks", AFTER, STREAM, replace(half(7000, 40, 1_000_000), dscps={40: 6999, 0: 1})),
    ("marks", AFTER, STREAM, replace(half(7000, 40, 1_000_000), dscps={})),
    ("marks", AFTER, BULK, half(2500, 40, 1_000_000)),
]


def changed(phase: int, stream: int, to: Half) -> Figures:
    return replace(KEPT, halves={**KEPT.halves, (stream, phase): to})


def test_promises_are_kept_up_to_their_bounds() -> None:
    assert [verdict.kept for verdict in KEPT.verdicts] == [True, True, True]
    assert KEPT.kept


@pytest.mark.parametrize(("name", "phase", "stream", "to"), BROKEN)
def test_each_promise_can_be_broken(name: str, phase: int, stream: int, to: Half) -> None:
    figures = changed(phase, stream, to)
    assert not figures.kept
    assert [verdict.name for verdict in figures.verdicts if not verdict.kept] == [name]
    assert figures.to_json()["verdicts"][name]["kept"] is False


def test_nothing_sent_keeps_no_promise() -> None:
    nothing = Half(0, 0, 0, None, None, None, {})
    assert not any(each.kept for each in changed(AFTER, STREAM, nothing).verdicts)


def printed(figures: Figures) -> str:
    output = io.StringIO()
    print_report(Console(file=output, width=80, highlight=False, markup=False), figures)
    return output.getvalue()


def test_the_report_fits_80_columns() -> None:
    text = printed(KEPT)
    assert max(map(len, text.splitlines())) <= 80
    rows = [line.split() for line in text.splitlines()]
    wanted = ["stream,", "in", "a", "flow", "7000", "6993", "7", "0.1", "25.0", "25.0", "40"]
    assert wanted in rows
    assert sum(line.startswith("ok ") for line in text.splitlines()) == 3
    assert "QOSAddSocketToFlow" in text
    assert "add_socket(" in text


def test_the_report_says_what_did_not_hold() -> None:
    figures = changed(AFTER, STREAM, replace(half(6000, 40, 1), dscps={0: 1, 40: 5999}))
    text = printed(replace(figures, slipped_ns=85_000_000))
    assert sum(line.startswith("NOT ") for line in text.splitlines()) == 2
    assert "1,000 of 7,000 packets lost" in text
    assert "0: 1, 40: 5999" in text
    assert "did not show what it promises" in " ".join(text.split())
    assert "fell 85 ms behind" in " ".join(text.split())


def test_a_span_holds_what_arrived_in_it() -> None:
    track = Track()
    for arrived_ns, delay_ns in ((10, 1), (20, 2), (30, 9), (40, 4)):
        track.arrived_ns.append(arrived_ns)
        track.delay_ns.append(delay_ns)
        track.ip_bytes.append(100)
    span = track.span(20, 40)
    assert (span.median_ns, span.rate_bps) == (2, 200 * 8e9 / 20)
    assert track.span(41, 50) == track.span(0, 10)
    assert track.span(0, 10).median_ns is None

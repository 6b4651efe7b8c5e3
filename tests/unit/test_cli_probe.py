"""`qwave probe` without a network: numbers as text, JSON, recordings, exit statuses, progress."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from openqwave.cli.interruption import Interruption
from openqwave.cli.probe import quick, recording, target
from openqwave.cli.probe.command import Options, run_probe, run_replay, wish_of
from openqwave.cli.probe.failures import of_event
from openqwave.cli.probe.outcome import Destination, Outcome
from openqwave.cli.probe.progress import LineView, LiveView, describe, view
from openqwave.cli.probe.rendering import line, shown, table
from openqwave.cli.probe.target import BadHostError, resolve
from openqwave.drivers.ports import PortTaken
from openqwave.estimate.samples import Gap
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import (
    DisabledByPolicy,
    GeneralFailure,
    HostUnreachable,
    QosError,
)
from openqwave.model.estimates import Doubt, Estimate, Inconclusive, PathReport
from openqwave.probing.measurement import (
    QUICK,
    Measured,
    Phase,
    Progressed,
    Sampled,
    Wish,
)
from openqwave.probing.outcomes import Ended, Failed, Failure
from tests.unit.commands import qwave
from tests.unit.scripted_probe import (
    KNOWN,
    MEASURED,
    SAMPLES,
    Scripted,
    ctrl_c,
    progressed,
    scripted_by,
    watched,
)

MBPS, MS, S = 1_000_000, 1_000_000, 1_000_000_000

UNKNOWN = replace(
    KNOWN,
    available_bps=Inconclusive(Doubt.BURST_CREDIT, "2 bursts"),
    supports_priority=None,
    link="a token bucket",
    boost_bps=480_000_000,
)
NOWHERE = PathReport(
    *(Inconclusive(Doubt.NO_SAMPLES),) * 5,
    loss_ppm=Estimate(1_000_000, 990_000, 1_000_000, 0.95, "echo"),
    supports_priority=False,
    link="a queue with a rate",
)
TO = Destination("there", "192.0.2.1", 4)


def outcome(report: PathReport, *, checked: bool = True) -> Outcome:
    return Outcome(report, 2_790_000_000, 1_016_000, TO, checked)


# ---- numbers


@pytest.mark.parametrize(
    ("value", "low", "high", "unit", "text"),
    [
        (98_734_000, 97_902_000, 99_511_000, MBPS, "98.7 97.9 99.6"),
        # Half of the distance is 3.54 of the unit: two digits; 3.56: one.
        (50_000_000, 46_460_000, 53_540_000, MBPS, "50.0 46.4 53.6"),
        (50_000_000, 46_440_000, 53_560_000, MBPS, "50 46 54"),
        (44_120_000, 30_000_000, 60_000_000, MBPS, "44 30 60"),
        (123_000_000, 60_000_000, 190_000_000, MBPS, "120 60 190"),
        # However wide the bounds, the value is not rounded away.
        (9_000_000, 0, 200_000_000, MBPS, "9 0 200"),
        # However narrow, four digits are enough.
        (98_734_567, 98_734_567, 98_734_567, MBPS, "98.73 98.73 98.74"),
        (1_234, 1_234, 1_234, MS, "0.001234 0.001234 0.001234"),
        (0, 0, 0, MS, "0.000 0.000 0.000"),
        (0, 0, 7_600, 10_000, "0.0 0.0 0.8"),
        (300_000, 100_000, 500_000, MBPS, "0.30 0.10 0.50"),
        (1_000_000_000, 997_000_000, 1_003_000_000, MBPS, "1000 997 1003"),
    ],
)
def test_digits_follow_the_bounds(value: int, low: int, high: int, unit: int, text: str) -> None:
    found = shown(Estimate(value, low, high, 0.9, "x"), unit)
    assert f"{found.value} {found.low} {found.high}" == text


def test_text_never_claims_more_than_the_estimate() -> None:
    random = Random(3)
    for _ in range(2000):
        value = round(10 ** random.uniform(0, 10))
        low = round(value * random.uniform(0, 1))
        high = round(value * random.uniform(1, 3))
        found = shown(Estimate(value, low, high, 0.9, "x"), MBPS)
        slack = 1e-6 * value / MBPS
        assert float(found.low) <= low / MBPS + slack
        assert float(found.high) >= high / MBPS - slack
        # And not much less: rounding may not widen the claim by a half.
        step = max(high - low, 0.001 * value) / MBPS
        assert float(found.high) - float(found.low) <= (high - low) / MBPS + 0.6 * step
        assert math.isclose(float(found.value), value / MBPS, abs_tol=0.3 * step + slack)


# ---- the table


def test_the_table() -> None:
    assert table(outcome(KNOWN)).splitlines() == [
        "path to there (192.0.2.1), IPv4",
        "capacity         98.7 Mbit/s   97.9 to 99.6     95 %  trains",
        "available        44.1 Mbit/s   41.3 to 46.7     95 %  idle share and paced",
        "                                                      trains",
        "round-trip time  1.23 ms       1.10 to 1.40     90 %  echo",
        "jitter there     0.11 ms       0.00 to 0.11     90 %  delay variation",
        "jitter back      0.09 ms       0.00 to 0.10     90 %  delay variation",
        "loss             0.0 %         0.0 to 0.8       95 %  echo",
        "priority tags    supported",
        "kind of link     a queue with a rate",
        "cost             1.02 MB sent in 2.8 s",
    ]


def test_what_is_not_known_says_why() -> None:
    text = table(outcome(UNKNOWN))
    assert (
        "available        not known: bursts pass faster than the link can sustain, which\n"
        "                 hides its load (2 bursts)\n"
    ) in text
    assert "priority tags    not known: the route check came to no result\n" in text
    assert "kind of link     a token bucket; bursts pass at 480 Mbit/s\n" in text
    assert "not known: it was not tried\n" in table(outcome(UNKNOWN, checked=False))
    assert "priority tags    not supported\n" in table(
        outcome(replace(KNOWN, supports_priority=False))
    )
    assert "kind of link     not known\n" in table(outcome(NOWHERE))


@pytest.mark.parametrize("doubt", list(Doubt))
@pytest.mark.parametrize("detail", ["", "some words " * 20])
def test_the_table_fits_80_columns(doubt: Doubt, detail: str) -> None:
    doubtful = Inconclusive(doubt, detail)
    report = replace(KNOWN, capacity_bps=doubtful, rtt_ns=doubtful, loss_ppm=doubtful)
    lines = table(outcome(report)).splitlines()
    assert max(map(len, lines)) <= 80
    assert all(each == each.rstrip() for each in lines)


def test_a_line_for_a_path_that_is_watched() -> None:
    assert line(outcome(KNOWN)) == (
        "    3 s  available 44.1 Mbit/s of 98.7 Mbit/s, round trip 1.23 ms, loss 0.0 %"
    )
    assert line(outcome(UNKNOWN)).startswith("    3 s  available ? of 98.7 Mbit/s")


# ---- JSON


def test_json() -> None:
    told = json.loads(json.dumps(outcome(UNKNOWN).to_json()))
    assert told == {
        "format": 1,
        "host": "there",
        "address": "192.0.2.1",
        "ip_version": 4,
        "is_conclusive": False,
        "capacity_bps": {
            "value": 98_734_000,
            "low": 97_902_000,
            "high": 99_511_000,
            "confidence": 0.95,
            "method": "trains",
        },
        "available_bps": {
            "value": None,
            "low": None,
            "high": None,
            "doubt": "burst_credit",
            "reason": "bursts pass faster than the link can sustain, which hides its load "
            "(2 bursts)",
        },
        "rtt_ns": told["rtt_ns"],
        "jitter_there_ns": told["jitter_there_ns"],
        "jitter_back_ns": told["jitter_back_ns"],
        "loss_ppm": told["loss_ppm"],
        "supports_priority": None,
        "priority_reason": "the route check came to no result",
        "link": "a token bucket",
        "boost_bps": 480_000_000,
        "clock_drift_ppm": 0.0,
        "elapsed_ns": 2_790_000_000,
        "sent_bytes": 1_016_000,
    }
    assert told["rtt_ns"]["value"] == 1_234_567
    assert told["loss_ppm"]["high"] == 7_600
    assert outcome(KNOWN).to_json()["priority_reason"] is None


# ---- a scripted driver


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return scripted_by(monkeypatch)


Output = pytest.CaptureFixture[str]
HERE = Options("127.0.0.1")


def test_measured_is_status_0(scripted: Scripted, capsys: Output) -> None:
    script = scripted(Sampled(SAMPLES[0]), progressed(2 * S), MEASURED)
    assert run_probe(HERE) == 0
    output = capsys.readouterr()
    assert output.out.startswith("path to 127.0.0.1, IPv4\ncapacity         98.7 Mbit/s")
    assert output.err == (
        "  2 s  measuring what is available, about 98.7 Mbit/s, round trip 1.23 ms, 400 kB sent\n"
    )
    assert (script.wish, script.allowed, script.is_open) == (Wish(), [], False)
    assert script.peer == Endpoint(bytes([127, 0, 0, 1]), 2177)


@pytest.mark.parametrize("report", [UNKNOWN, replace(KNOWN, capacity_bps=UNKNOWN.available_bps)])
def test_inconclusive_is_status_3(report: PathReport, scripted: Scripted, capsys: Output) -> None:
    scripted(Measured(report, S, 1000))
    assert run_probe(replace(HERE, as_json=True)) == 3
    output = capsys.readouterr()
    assert json.loads(output.out)["is_conclusive"] is False
    assert output.err == ""


@pytest.mark.parametrize("watches", [False, True])
def test_silence_has_a_hint(watches: bool, scripted: Scripted, capsys: Output) -> None:
    scripted(Measured(NOWHERE, S, 1000), ctrl_c)
    assert run_probe(replace(HERE, watches=watches)) == 3
    output = capsys.readouterr()
    assert output.err == "No probe was answered: does a firewall drop UDP port 2177?\n"
    # To the protocol silence means no; who hears nothing at all knows nothing.
    assert "priority tags    not known: no probe was answered\n" in output.out


@pytest.mark.parametrize("reason", list(Failure))
def test_no_sink_is_status_4(reason: Failure, scripted: Scripted, capsys: Output) -> None:
    scripted(Failed(1, reason, "three words of"))
    wanted = 2 if reason is Failure.UNSENT else 4
    assert run_probe(replace(HERE, as_json=True)) == wanted
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert "127.0.0.1" in output.err


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (Failure.NO_SINK, "refuses connections to TCP port 2177"),
        (Failure.CONNECT_TIMED_OUT, "is silent"),
        (Failure.UNREACHABLE, "cannot be reached"),
    ],
)
def test_why_there_is_no_sink(reason: Failure, words: str) -> None:
    message = str(of_event(Failed(1, reason), TO))
    assert words in message
    assert message.startswith("there (192.0.2.1) ")
    if reason is not Failure.UNREACHABLE:
        assert "`qwave sink`" in message


def test_a_sink_that_leaves_at_once(scripted: Scripted, capsys: Output) -> None:
    scripted(Ended(1))
    assert run_probe(HERE) == 4
    assert "closed the connection" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (DisabledByPolicy("192.0.2.9 is behind a router (10.0.0.1)"), 2, "(10.0.0.1). Measuring"),
        (HostUnreachable("no route to 192.0.2.9"), 4, "no route"),
        (GeneralFailure("the experiment broke"), 2, "the experiment broke"),
    ],
)
def test_what_the_driver_refuses(
    error: QosError, status: int, words: str, scripted: Scripted, capsys: Output
) -> None:
    scripted(refusal=error)
    assert run_probe(HERE) == status
    output = capsys.readouterr()
    assert output.out == ""
    assert words in output.err
    assert ("--off-link" in output.err) is isinstance(error, DisabledByPolicy)


def test_a_driver_that_fails_in_the_middle(scripted: Scripted, capsys: Output) -> None:
    scripted(progressed(1), PortTaken("UDP port 2177 is held by qwave (process 7)"))
    assert run_probe(HERE) == 2
    assert "held by qwave (process 7)" in capsys.readouterr().err


def test_ctrl_c_is_status_130(scripted: Scripted, capsys: Output, tmp_path: Path) -> None:
    script = scripted(progressed(S), ctrl_c)
    assert run_probe(replace(HERE, samples=tmp_path / "samples")) == 130
    assert capsys.readouterr().err.endswith("Interrupted.\n")
    assert not script.is_open


# ---- watching


WATCH = replace(HERE, watches=True)


@pytest.mark.parametrize(("last", "status"), [(KNOWN, 0), (UNKNOWN, 3)])
def test_a_watch_goes_on_until_ctrl_c(
    last: PathReport, status: int, scripted: Scripted, capsys: Output
) -> None:
    script = scripted(MEASURED, watched(1), watched(2, last), ctrl_c, watched(3))
    assert run_probe(WATCH) == status
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert lines[0] == "path to 127.0.0.1, IPv4"
    assert [each[:9] for each in lines[-2:]] == ["    4 s  ", "    5 s  "]
    assert "available 44.1 Mbit/s of 98.7 Mbit/s" in lines[-2]
    assert output.err == ""
    assert not script.is_open


def test_a_watch_ends_by_itself(scripted: Scripted, capsys: Output) -> None:
    scripted(MEASURED, *map(watched, range(1, 9)))
    assert run_probe(replace(WATCH, watch_s=6.0, as_json=True)) == 0
    told = [json.loads(each) for each in capsys.readouterr().out.splitlines()]
    # The measurement's own time and bytes count.
    assert [each["elapsed_ns"] for each in told] == [
        2_790_000_000,
        3_790_000_000,
        4_790_000_000,
        5_790_000_000,
    ]
    assert [each["sent_bytes"] for each in told] == [1_016_000, 1_017_000, 1_018_000, 1_019_000]


def test_a_watch_whose_sink_leaves(scripted: Scripted, capsys: Output) -> None:
    scripted(MEASURED, watched(1), Failed(1, Failure.CLOSED))
    assert run_probe(WATCH) == 4
    output = capsys.readouterr()
    assert output.out.splitlines()[-1].startswith("    4 s  ")
    assert output.err.startswith("127.0.0.1 closed the connection")


def test_ctrl_c_before_the_first_result_is_status_130(scripted: Scripted, capsys: Output) -> None:
    scripted(ctrl_c, MEASURED)
    assert run_probe(WATCH) == 130
    assert capsys.readouterr().out == ""


def test_a_watch_begins_with_the_samples_of_the_measurement(
    scripted: Scripted, tmp_path: Path
) -> None:
    path = tmp_path / "samples"
    script = scripted(*map(Sampled, SAMPLES[:5]), MEASURED, Sampled(SAMPLES[5]), watched(1), ctrl_c)
    assert run_probe(replace(WATCH, samples=path)) == 0
    assert script.watched_from == list(SAMPLES[:5])
    found = recording.read(path)
    assert found.samples == SAMPLES[:6]
    assert (found.elapsed_ns, found.sent_bytes) == (3_790_000_000, 1_017_000)


# ---- what is wished


def test_options_make_the_wish() -> None:
    assert wish_of(HERE, 6) == Wish(version=6)
    assert wish_of(replace(HERE, is_off_link=True), 4) == Wish(checks_priority=False)
    assert wish_of(replace(HERE, checks_priority=False), 4) == Wish(checks_priority=False)
    wish = wish_of(replace(HERE, seconds=1.5), 4)
    assert (wish.duration_ns, wish.fast_duration_ns) == (1_500_000_000, 1_500_000_000)


def test_off_link_allows_the_one_host(scripted: Scripted) -> None:
    script = scripted(MEASURED)
    assert run_probe(replace(HERE, is_off_link=True)) == 0
    assert script.allowed == ["127.0.0.1"]


def test_quick_takes_what_is_left_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "age_ns", lambda: 300_000_000)
    wish = wish_of(replace(HERE, is_quick=True), 4)
    assert wish == replace(QUICK, duration_ns=550_000_000, fast_duration_ns=550_000_000)
    monkeypatch.setattr(quick, "age_ns", lambda: 20_000_000)
    assert quick.duration_ns(QUICK.duration_ns) == QUICK.duration_ns
    monkeypatch.setattr(quick, "age_ns", lambda: 5 * S)
    assert quick.duration_ns(QUICK.duration_ns) == quick.LEAST_NS


def test_a_process_knows_its_age() -> None:
    code = (
        "import time; from openqwave.cli.probe.quick import age_ns;"
        "before = age_ns(); time.sleep(0.3); print(age_ns() - before, before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown_ns, before_ns = map(int, done.stdout.split())
    assert 290_000_000 <= grown_ns < 3 * S
    assert 0 < before_ns < 60 * S


# ---- progress


def test_a_line_a_second(capsys: Output) -> None:
    with LineView() as lines:
        for elapsed_ms in range(0, 3300, 250):
            lines.show(progressed(elapsed_ms * MS))
    output = capsys.readouterr()
    assert [each[:5] for each in output.err.splitlines()] == ["  1 s", "  2 s", "  3 s"]
    assert output.out == ""


def test_progress_says_what_is_known() -> None:
    assert describe(Progressed(Phase.CONNECT, 0, 0, None, None)) == "connecting, 0 kB sent"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    assert isinstance(view(S, is_quick=False), LineView)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    with view(S, is_quick=False) as bar:
        assert isinstance(bar, LiveView)
        bar.show(progressed(500 * MS))
    output = capsys.readouterr()
    assert "about 98.7 Mbit/s" in output.err
    assert output.out == ""


# ---- recordings


def test_a_recording_replays(scripted: Scripted, capsys: Output, tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    options = replace(HERE, samples=path, as_json=True)
    report = recording.Recording(Wish(), SAMPLES, supports_priority=True).outcome().report
    scripted(*map(Sampled, SAMPLES), Measured(report, 2 * S, 77))
    first = run_probe(options)
    told = json.loads(capsys.readouterr().out)
    assert run_replay(path, as_json=True) == first
    again = json.loads(capsys.readouterr().out)
    assert again == told | {"host": None, "address": None, "ip_version": None}
    assert again["rtt_ns"]["value"] == 299_000
    lines = [json.loads(each) for each in path.read_text(encoding="ascii").splitlines()]
    assert [each["kind"] for each in lines] == ["measurement", "train", "train"] + ["gap"] * 39 + [
        "end"
    ]
    assert lines[0]["wish"]["version"] == 4
    # Whom it was measured towards is nobody else's business.
    assert "127.0.0.1" not in path.read_text(encoding="ascii")


FIRST = '{"kind":"measurement","format":1,"openqwave":"1","wish":{"version":4}}\n'
GAP = '{"kind":"gap","sequence":1,"packet_bytes":60,"sent_ns":5}\n'
END = '{"kind":"end","supports_priority":true,"elapsed_ns":5,"sent_bytes":6}\n'


def test_a_recording_without_an_end_replays(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "samples"
    path.write_text(FIRST + GAP, encoding="ascii")
    assert recording.read(path) == recording.Recording(Wish(), (Gap(1, 60, 5),))
    assert run_replay(path, as_json=False) == 3
    assert "loss             100 %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("nonsense\n", "line 1: "),
        (GAP, "line 1: a recording begins"),
        (FIRST.replace("1,", "2,", 1), "line 1: format 2"),
        (FIRST.replace('{"version":4}', '{"version":"4"}'), "line 1: the wish"),
        (FIRST.replace("version", "elephant"), "line 1: "),
        (FIRST + GAP + "{}\n", "line 3: a sample's kind"),
        (FIRST + GAP.replace("5", '"5"'), "line 2: sent_ns"),
        (
            FIRST + GAP.replace("5", str(1 << 63)),
            "line 2: sent_ns of a sample is a whole number of 64",
        ),
        (FIRST + "[1]\n", "line 2: "),
        (FIRST + "5\n", "line 2: "),
        (FIRST + END + GAP, "line 3: something follows the end"),
        (FIRST + END.replace("true", "7"), "line 2: the end holds"),
        (FIRST + END.replace("6", "null"), "line 2: the end holds"),
        (FIRST + "\xff\n", "no recording"),
    ],
)
def test_what_is_no_recording_is_told(
    text: str, words: str, tmp_path: Path, capsys: Output
) -> None:
    path = tmp_path / "samples"
    path.write_text(text, encoding="latin-1")
    assert run_replay(path, as_json=True) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert words in output.err
    assert str(path) in output.err


def test_a_file_that_is_not_there(tmp_path: Path, capsys: Output) -> None:
    assert run_replay(tmp_path / "none", as_json=True) == 2
    assert capsys.readouterr().err.endswith("cannot be read: No such file or directory\n")


def test_a_file_that_cannot_be_written(scripted: Scripted, capsys: Output, tmp_path: Path) -> None:
    scripted(MEASURED)
    assert run_probe(replace(HERE, samples=tmp_path / "none" / "samples")) == 2
    assert "cannot be written: No such file or directory" in capsys.readouterr().err


def test_a_disk_that_is_full(scripted: Scripted, capsys: Output) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    scripted(*map(Sampled, SAMPLES), MEASURED)
    assert run_probe(replace(HERE, samples=Path("/dev/full"))) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "/dev/full: cannot be written: No space left on device\n"


# ---- whom


@pytest.fixture
def interruption() -> Iterator[Interruption]:
    with Interruption() as made:
        yield made


@pytest.mark.parametrize(
    ("host", "version", "endpoint", "address"),
    [
        ("192.0.2.1", None, Endpoint(bytes([192, 0, 2, 1]), 2177), "192.0.2.1"),
        ("::1", 6, Endpoint(bytes(15) + b"\1", 2177), "::1"),
        ("::ffff:192.0.2.1", 4, Endpoint(bytes([192, 0, 2, 1]), 2177), "192.0.2.1"),
        ("fe80::1%lo", None, Endpoint(b"\xfe\x80" + bytes(13) + b"\1", 2177, 1), "fe80::1%lo"),
    ],
)
def test_addresses(
    host: str, version: int | None, endpoint: Endpoint, address: str, interruption: Interruption
) -> None:
    found, destination = resolve(host, version, interruption)
    assert found == endpoint
    assert destination == Destination(host, address, endpoint.version)


@pytest.mark.parametrize(
    ("host", "version", "words"),
    [
        ("192.0.2.1", 6, "is an IPv4 address"),
        ("::1", 4, "is an IPv6 address"),
        ("fe80::1", None, "say which interface, as in fe80::1%eth0"),
        ("::", None, "no single host"),
        ("ff02::1%lo", None, "no single host"),
        ("a..b", None, "no name or address"),
        ("no\0name", None, "no address is found"),
    ],
)
def test_what_is_no_host(
    host: str, version: int | None, words: str, interruption: Interruption
) -> None:
    with pytest.raises(BadHostError, match=words):
        resolve(host, version, interruption)


def test_names_are_looked_up_once(
    monkeypatch: pytest.MonkeyPatch, interruption: Interruption
) -> None:
    asked = []

    def answer(host: str, family: socket.AddressFamily, flags: int = 0) -> list[Any]:
        if flags:
            raise socket.gaierror(socket.EAI_NONAME, "no number")
        asked.append((host, family, threading.current_thread() is threading.main_thread()))
        if host == "nobody":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(family, None, 0, "", ("192.0.2.7", 2177)), (family, None, 0, "", ("::1", 1, 0, 0))]

    monkeypatch.setattr(target, "_ask", answer)
    endpoint, destination = resolve("sink.example", 4, interruption)
    assert str(destination) == "sink.example (192.0.2.7)"
    assert endpoint.packed == bytes([192, 0, 2, 7])
    assert asked == [("sink.example", socket.AF_INET, False)]
    with pytest.raises(BadHostError, match="no IPv6 address is found for nobody: Name or service"):
        resolve("nobody", 6, interruption)


def test_ctrl_c_ends_a_look_up(
    monkeypatch: pytest.MonkeyPatch, scripted: Scripted, capsys: Output
) -> None:
    scripted(MEASURED)
    release = threading.Event()

    def answer(_: str, __: socket.AddressFamily, flags: int = 0) -> list[Any]:
        if flags:
            raise socket.gaierror(socket.EAI_NONAME, "no number")
        os.kill(os.getpid(), signal.SIGINT)
        release.wait(60)
        return []

    monkeypatch.setattr(target, "_ask", answer)
    try:
        assert run_probe(Options("slow.example")) == 130
    finally:
        release.set()
    assert capsys.readouterr().err == "Interrupted.\n"


# ---- the command line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Name a host"),
        (["host", "--replay", "file"], "Name a host"),
        (["host", "-4", "-6"], "exclude each other"),
        (["host", "--quick", "--seconds", "1"], "exclude each other"),
        (["host", "--for", "5"], "--for goes with --watch"),
        (["host", "--seconds", "nan"], "0.3 to 60"),
        (["host", "--seconds", "0.1"], "0.3 to 60"),
        (["host", "--watch", "--for", "-1"], "0.3 to 86400"),
        (["host", "other"], "other"),
        (["192.0.2.1", "-6"], "is an IPv4 address"),
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], words: str) -> None:
    done = qwave("probe", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_help_fits() -> None:
    done = qwave("probe", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("--quick", "--watch", "--json", "--samples", "--replay", "--off-link", "-4"):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_quick_probe_loads_no_more_than_it_needs() -> None:
    code = (
        "import json, sys\n"
        "from openqwave.cli.main import run\n"
        "sys.argv = ['qwave', 'probe', '--quick', 'fe80::1']\n"
        "try:\n"
        "    run()\n"
        "except SystemExit as left:\n"
        "    print(json.dumps([left.code, sorted(sys.modules)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    status, loaded = json.loads(done.stdout)
    assert status == 2
    assert "openqwave.probing.measurement" in loaded
    heavy = {"rich", "pyroute2", "asyncio", "matplotlib", "multiprocessing", "ssl"}
    assert set(loaded) & heavy == set()

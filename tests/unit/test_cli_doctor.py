"""`qwave doctor` as a command: pages, documents, statuses, and what happens when a step fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

import pytest
from typer.testing import CliRunner

from openqwave.cli.doctor import command
from openqwave.cli.doctor.command import CANNOT_LOOK, MISSING, NOTHING_MISSING, Options, run_doctor
from openqwave.cli.doctor.findings import Finding, limited, missing, ok, unknown
from openqwave.cli.doctor.report import Diagnosis
from openqwave.cli.overview.words import cells
from openqwave.cli.program import app

LONG = "because of something that takes a good many words to say, as such things do, and a bit more"
ALL = [
    ok("kernel", "Linux 9 has all that is used"),
    limited("queue", LONG, "tc qdisc replace dev eth0 root fq", "eth0"),
    missing("firewall", LONG, "open it"),
    unknown("program", "no right"),
]


def lines_of(findings: Sequence[Finding], width: int | None) -> list[str]:
    page = Diagnosis(findings).page(width)
    return ["".join(text for text, _ in line) for line in page.lines()]


def test_a_page_has_a_block_for_each() -> None:
    lines = lines_of(ALL, None)
    assert lines == [
        "kernel      ok       Linux 9 has all that is used",
        f"queue eth0  limited  {LONG}",
        "                     fix: tc qdisc replace dev eth0 root fq",
        f"firewall    missing  {LONG}",
        "                     fix: open it",
        "program     unknown  no right",
        "1 ok, 1 limited, 1 missing, 1 unknown",
    ]


@pytest.mark.parametrize("width", [80, 60, 40, 24])
def test_a_page_fits(width: int) -> None:
    lines = lines_of(ALL, width)
    assert max(map(cells, lines)) <= width
    words = " ".join(lines).split()
    assert [word for word in LONG.split() if word not in words] == []
    assert "1 ok, 1 limited, 1 missing, 1 unknown" in " ".join(lines)


def test_names_of_others_do_nothing_to_a_terminal() -> None:
    (line, _) = lines_of([ok("queue", "odd \x1b[2J", "e\x1b]0;x\x07")], 80)
    assert line.isprintable()
    assert "\\x1b[2J" in line


def test_a_document_has_it_all() -> None:
    told = Diagnosis(ALL, "tv").fields()
    assert json.loads(json.dumps(told)) == told
    assert told["host"] == "tv"
    assert told["counts"] == {"ok": 1, "limited": 1, "missing": 1, "unknown": 1}
    assert told["findings"][1] == {
        "topic": "queue",
        "subject": "eth0",
        "verdict": "limited",
        "reason": LONG,
        "fix": "tc qdisc replace dev eth0 root fq",
    }
    assert told["findings"][0]["subject"] is None
    assert told["findings"][0]["fix"] is None


class Steps:
    """An examination whose steps find what they are told."""

    def __init__(self, *_: object) -> None: ...

    def steps(self) -> Iterator[tuple[str, Callable[[], Sequence[Finding]]]]:
        yield "first", lambda: [ok("first", "well")]
        yield "second", self.fail
        yield "third", lambda: [ok("third", "well")]

    def fail(self) -> Sequence[Finding]:
        raise OSError(5, "Input/output error")


def test_a_step_that_fails_is_told_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "Examination", Steps)
    assert run_doctor(Options(as_json=True)) == NOTHING_MISSING
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["command"]) == (1, "doctor")
    assert [each["verdict"] for each in told["findings"]] == ["ok", "unknown", "ok"]
    assert "Input/output error" in told["findings"][1]["reason"]


def test_the_status_says_that_something_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "Examination", Steps)
    monkeypatch.setattr(Steps, "fail", lambda _: [missing("second", "not there", "get it")])
    assert run_doctor(Options()) == MISSING
    out = capsys.readouterr().out
    assert "second  missing  not there" in out
    assert "\x1b" not in out


def test_a_terminal_is_told_what_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "Examination", Steps)
    assert run_doctor(Options()) == NOTHING_MISSING
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(command, "_PROGRESS_S", -1.0)
    assert run_doctor(Options()) == NOTHING_MISSING
    assert capsys.readouterr().err.splitlines() == [
        "looking at: first",
        "looking at: second",
        "looking at: third",
    ]


def test_a_host_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_doctor(Options("no.such.host.invalid")) == CANNOT_LOOK
    told = capsys.readouterr()
    assert told.out == ""
    assert "no.such.host.invalid" in told.err


def test_the_options_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Options] = []

    def take(options: Options) -> int:
        given.append(options)
        return 1

    monkeypatch.setattr(command, "run_doctor", take)
    done = CliRunner().invoke(app, ["doctor", "--json", "tv"])
    assert done.exit_code == 1
    assert given == [Options("tv", as_json=True)]
    assert CliRunner().invoke(app, ["doctor", "a", "b"]).exit_code == 2

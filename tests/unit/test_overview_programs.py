"""Programs that are spoken for, below the flows: asked for, filtered, laid out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from openqwave.cli.overview.command import Options, run_flows
from openqwave.cli.overview.flows import page_of_flows
from openqwave.cli.overview.pages import Page
from openqwave.ipc import messages as ms
from tests.unit.fake_service import FakeService, Script, fake_service
from tests.unit.test_cli_overview import flow

RUN = ms.ProgramRow(
    kind="run",
    number=3,
    name="mumble",
    user="alice",
    uid=1000,
    pid=4711,
    cgroup="/user.slice/qwave-run-4711-0123abcd",
    traffic_type="voice",
    dscp=56,
    priority=6,
    rate_bps=2_000_000,
    excess="waits",
    sent_packets=1_200,
    sent_bytes=240_000,
    excess_packets=2,
    excess_bytes=3_000,
    dropped_packets=1,
    backend="kernel program",
    reason="cgroups tell runs",
)
RULE = ms.ProgramRow(
    kind="rule",
    number=1,
    name="games",
    cgroup="games.slice",
    asks="program wesnoth, udp",
    origin="/etc/qwave/policy.d/10.toml:7",
    dscp=46,
    reason="nobody of that name runs",
)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    with fake_service(tmp_path, Script(programs=[RUN, RULE])) as service:
        monkeypatch.setenv("QWAVE_SOCKET", str(service.path))
        yield service


def texts(page: Page) -> list[str]:
    return ["".join(text for text, _ in line) for line in page.lines()]


def page(*rows: ms.ProgramRow, flows: int = 0, width: int | None = 80) -> Page:
    return page_of_flows(
        [flow(number, backend_reason="cgroups tell runs") for number in range(1, flows + 1)],
        sees_all=True,
        is_filtered=False,
        width=width,
        spoken_for=rows,
    )


def test_a_run_and_a_rule_alone() -> None:
    assert texts(page(RUN, RULE)) == [
        "spoken for  user   program   pid  type   DSCP  rate  packets",
        "run 3       alice  mumble   4711  voice    56  2.00    1,200",
        "    cgroup /user.slice/qwave-run-4711-0123abcd; above the rate: waits;",
        "    sent 1,200 packets (240 kB); above the rate 2 packets (3 kB);",
        "    dropped 1 packet; queue 6; kernel program (a)",
        "rule 1      -      games       -  -        46     -        -",
        "    program wesnoth, udp; from /etc/qwave/policy.d/10.toml:7;",
        "    nothing marks it (b)",
        "(a) kernel program: cgroups tell runs.",
        "(b) nothing marks it: nobody of that name runs.",
        "Rates are in Mbit/s.",
    ]


def test_what_nobody_counts_is_not_known() -> None:
    (line,) = [
        line
        for line in texts(page(msgspec.structs.replace(RUN, sent_packets=None, backend="nftables")))
        if line.startswith("run 3")
    ]
    assert line.split()[-2:] == ["2.00", "?"]


def test_they_stand_below_the_flows_and_share_reasons() -> None:
    lines = texts(page(RUN, flows=1))
    assert lines[0].startswith("flow  user")
    at = lines.index("")
    assert lines[at + 1].startswith("spoken for")
    assert lines[-3:] == [
        "(a) socket options: cgroups tell runs.",
        "(b) kernel program: cgroups tell runs.",
        "Rates are in Mbit/s.",
    ]


def test_what_does_not_fit_is_counted() -> None:
    full = page(RUN, RULE, flows=2)
    lines = texts(full)
    assert texts(full.cropped(len(lines), "things")) == lines
    cropped = texts(full.cropped(len(lines) - 1, "things"))
    assert "... and 1 more things, which do not fit here" in cropped
    # A heading without rows says nothing.
    cropped = texts(full.cropped(len(lines) - 5, "things"))
    assert "... and 2 more things, which do not fit here" in cropped
    assert not any(line.startswith("spoken for") for line in cropped)


@pytest.mark.parametrize("width", [40, 60, 80])
def test_lines_fit(width: int) -> None:
    lines = texts(page(RUN, RULE, flows=1, width=width))
    assert max(map(len, lines)) <= width


def test_names_do_nothing_to_a_terminal() -> None:
    bad = "\x1b[2J"
    row = ms.ProgramRow(
        kind=bad,
        number=1,
        name=bad,
        user=bad,
        cgroup=bad,
        asks=bad,
        origin=bad,
        traffic_type=bad,
        excess=bad,
        backend=bad,
        reason=bad,
    )
    assert not any("\x1b" in line for line in texts(page(row)))


def printed(capsys: pytest.CaptureFixture[str]) -> Any:  # noqa: ANN401 - JSON is anything
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_all_pages_are_asked_for(served: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    served.script = Script(programs=[RUN, RULE, RULE], page_rows=1)
    assert run_flows(Options(as_json=True)) == 0
    document = printed(capsys)
    assert [row["kind"] for row in document["programs"]] == ["run", "rule", "rule"]
    assert document["programs"][0]["cgroup"] == RUN.cgroup
    lists = [request for request in served.asked if isinstance(request, ms.ListPrograms)]
    assert [request.after for request in lists] == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        (Options(), ["run", "rule"]),
        (Options(user="alice"), ["run"]),
        (Options(user="1000"), ["run"]),
        (Options(user="bob"), []),
        (Options(pid=4711), ["run"]),
        (Options(pid=4712), []),
        # Nobody knows where their traffic goes.
        (Options(host="127.0.0.1"), []),
    ],
)
def test_which_are_shown(
    served: FakeService, capsys: pytest.CaptureFixture[str], options: Options, kinds: list[str]
) -> None:
    del served
    assert run_flows(replace(options, as_json=True)) == 0
    assert [row["kind"] for row in printed(capsys)["programs"]] == kinds


def test_an_older_service_is_not_asked(
    served: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    served.script = Script(programs=[RUN], features=())
    assert run_flows(Options(as_json=True)) == 0
    assert printed(capsys)["programs"] == []

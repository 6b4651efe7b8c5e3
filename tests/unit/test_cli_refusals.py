"""`qwave refusals` against a fake service: pages, documents, filters, older services."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from openqwave.cli.overview.command import Options, run_refusals
from openqwave.cli.overview.refusals import page_of_refusals
from openqwave.cli.overview.words import cells, clock
from openqwave.ipc import messages as ms
from tests.unit.fake_service import FakeService, Script, fake_service

NOON_S = time.mktime((2026, 11, 26, 12, 0, 0, 0, 0, -1))
NS = 1_000_000_000


def refusal(number: int = 1, **fields: Any) -> ms.RefusalRow:  # noqa: ANN401 - any field of a row
    usual: dict[str, Any] = {
        "number": number,
        "time_ns": (int(NOON_S) + number) * NS,
        "pid": 4711,
        "program": "obs",
        "user": "alice",
        "uid": 1000,
        "request": "set_rate",
        "code": 54,
        "name": "ERROR_NETWORK_BUSY",
        "detail": "the path has 3.20 Mbit/s to give",
        "flow": number,
        "host": "192.0.2.7",
    }
    return ms.RefusalRow(**(usual | fields))


AGAIN = refusal(2, times=12, since_ns=int(NOON_S) * NS, flow=9)
TURNED_AWAY = refusal(3, request="hello", program="", flow=None, host=None, code=1450, uid=1001)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    script = Script(refusals=[refusal(1), AGAIN, TURNED_AWAY], page_rows=2)
    with fake_service(tmp_path, script) as service:
        monkeypatch.setenv("QWAVE_SOCKET", str(service.path))
        yield service


def lines(rows: list[ms.RefusalRow], width: int | None, *, sees_all: bool = True) -> list[str]:
    page = page_of_refusals(
        rows, sees_all=sees_all, is_filtered=False, width=width, now_s=NOON_S + 60
    )
    return ["".join([text for text, _ in line]) for line in page.lines()]


def test_as_a_table() -> None:
    assert lines([TURNED_AWAY, AGAIN, refusal(1)], 80) == [
        "time      user   program   pid  what      flow",
        "12:00:03  alice  ?        4711  connect      -",
        "    the path has 3.20 Mbit/s to give; ERROR_NETWORK_BUSY (1450)",
        "12:00:02  alice  obs      4711  set rate     9",
        "    the path has 3.20 Mbit/s to give; to 192.0.2.7; ERROR_NETWORK_BUSY (54);",
        "    12 times since 12:00:00",
        "12:00:01  alice  obs      4711  set rate     1",
        "    the path has 3.20 Mbit/s to give; to 192.0.2.7; ERROR_NETWORK_BUSY (54)",
    ]


def test_at_40_columns_the_reason_is_there() -> None:
    found = lines([refusal(1, request="set_traffic_type")], 40)
    assert found[0] == "time      program  what"
    assert found[1] == "12:00:01  obs      set traffic type"
    assert " ".join(line.strip() for line in found[2:]) == (
        "the path has 3.20 Mbit/s to give; to 192.0.2.7; ERROR_NETWORK_BUSY (54)"
    )


@pytest.mark.parametrize("width", [30, 40, 60, 80, 200])
def test_names_of_others_do_nothing_to_a_terminal(width: int) -> None:
    evil = "\x1b[2J漢字" * 30
    found = lines([refusal(1, program=evil, user=evil, detail=evil, host=evil, name=evil)], width)
    assert "\x1b" not in "".join(found)
    if width >= 40:
        assert max(map(cells, found)) <= width


def test_where_there_is_nothing_that_is_said() -> None:
    assert lines([], 80) == ["Nothing was refused."]
    assert lines([], 80, sees_all=False) == [
        "Nothing was refused.",
        "Showing only what you were refused; root sees all.",
    ]


def test_of_another_day_there_is_the_day() -> None:
    assert clock(NOON_S, NOON_S + 3_600) == "12:00:00"
    assert clock(NOON_S, NOON_S + 86_400) == "11-26 12:00"


def test_as_a_document(served: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_refusals(Options(as_json=True)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scope"] == "all"
    # The newest first, of all pages, with everything in them.
    assert [row["number"] for row in found["refusals"]] == [3, 2, 1]
    assert found["refusals"][1] == msgspec.structs.asdict(AGAIN)
    asked = [one.after for one in served.asked if isinstance(one, ms.ListRefusals)]
    assert asked == [0, 2]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"user": "1001"}, [3]),
        ({"user": "alice"}, [3, 2, 1]),
        ({"pid": 4711}, [3, 2, 1]),
        ({"pid": 9}, []),
        ({"host": "192.0.2.7"}, [2, 1]),
        ({"host": "192.0.2.8"}, []),
    ],
)
@pytest.mark.usefixtures("served")
def test_filters(
    capsys: pytest.CaptureFixture[str], wanted: dict[str, Any], expected: list[int]
) -> None:
    assert run_refusals(Options(as_json=True, **wanted)) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["number"] for row in found["refusals"]] == expected


def test_who_is_no_administrator_is_told(
    served: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    served.script = Script(is_administrator=False)
    assert run_refusals(Options(pid=9)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Nothing such was refused.",
        "Showing only what you were refused; root sees all.",
    ]


def test_an_earlier_service_is_not_asked(
    served: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    served.script.features = ()
    assert run_refusals(Options()) == 2
    assert capsys.readouterr().err == (
        "The service is an earlier one, and remembers no refusals.\n"
    )
    assert not any(isinstance(one, ms.ListRefusals) for one in served.asked)


def test_the_same_again_is_not_followed(
    served: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    page = msgspec.json.encode({"refusals": [refusal(1)], "more": True})
    served.script = Script(answers={ms.ListRefusals: page})
    assert run_refusals(Options()) == 2
    assert "lists the same refusals again" in capsys.readouterr().err

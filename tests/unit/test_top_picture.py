"""The lines that `qwave top` puts on a screen of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from openqwave.cli.overview.flows import page_of_flows
from openqwave.cli.overview.pages import Line, Page
from openqwave.cli.overview.words import cells
from openqwave.cli.top import picture, tables
from openqwave.cli.top.arranging import (
    FLOW_ORDERS,
    PATH_ORDERS,
    PROGRAM_ORDERS,
    REFUSAL_ORDERS,
    Arrangement,
)
from openqwave.cli.top.happenings import Happening
from openqwave.cli.top.looks import Away, Look
from openqwave.ipc import messages as ms
from tests.unit.fake_service import STATUS
from tests.unit.test_cli_overview import PATH, flow
from tests.unit.test_cli_refusals import NOON_S, refusal
from tests.unit.test_overview_programs import RULE, RUN

changed = msgspec.structs.replace

SIZES = [(width, height) for width in (40, 60, 80, 200) for height in (2, 3, 8, 12, 22, 60)]

EVIL = "\x1b[31m漢字" * 30
FLOWS = [flow(n, backend_reason=f"reason {n % 7}") for n in range(1, 90)]
FLOWS += [flow(n, program=EVIL, user=EVIL, backend_reason=EVIL) for n in range(90, 100)]
PATHS = [msgspec.structs.replace(PATH, host=f"10.0.1.{n}") for n in range(50)]
NOTICES = [Happening(0.0, f"{n} " + "something happened " * 8) for n in range(50)]
REFUSALS = [refusal(n, program="obs") for n in range(1, 40)]
REFUSALS += [refusal(n, program=EVIL, user=EVIL, detail=EVIL, host=EVIL) for n in range(40, 50)]
PROGRAMS = [changed(RUN, number=n) for n in range(1, 40)]
PROGRAMS += [
    changed(RULE, number=n, name=EVIL, asks=EVIL, origin=EVIL, reason=EVIL) for n in range(1, 9)
]
LOOK = Look(0.0, STATUS, FLOWS, PATHS, sees_all=False, refusals=REFUSALS, programs=PROGRAMS)
AWAY = Away(0.0, "nobody listens at " + "/somewhere" * 30)

BY_FLOW = Arrangement(FLOW_ORDERS)
BY_HOST = Arrangement(PATH_ORDERS)
BY_TIME = Arrangement(REFUSAL_ORDERS)
BY_NUMBER = Arrangement(PROGRAM_ORDERS)


def texts(lines: list[Line]) -> list[str]:
    return ["".join([text for text, _ in line]).rstrip() for line in lines]


def flow_lines(
    first: int, size: tuple[int, int], rows: list[ms.FlowRow], has_details: bool | None = None
) -> tuple[list[str], int]:
    seen = Look(0.0, STATUS, rows, [], sees_all=True)
    lines, begun = tables.table_lines(
        "flows", seen, BY_FLOW, "", first, size, has_details=has_details, is_current=True
    )
    return texts(lines), begun


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("first", [0, 7, 10**6])
@pytest.mark.parametrize("has_details", [None, True, False])
def test_no_line_is_too_long_and_none_too_many(
    size: tuple[int, int], first: int, has_details: bool | None
) -> None:
    panes = [
        tables.table_lines(
            "flows", LOOK, BY_FLOW, "", first, size, has_details=has_details, is_current=True
        ),
        tables.table_lines(
            "paths", LOOK, BY_HOST, "", first, size, has_details=has_details, is_current=False
        ),
        tables.table_lines(
            "programs", LOOK, BY_NUMBER, "", first, size, has_details=has_details, is_current=True
        ),
        tables.table_lines(
            "refused", LOOK, BY_TIME, "", first, size, has_details=has_details, is_current=True
        ),
        picture.notice_lines(NOTICES, first, size, is_current=True),
        picture.service_lines(LOOK, LOOK, first, size),
        picture.service_lines(AWAY, LOOK, first, size),
        picture.help_lines(first, size),
    ]
    for lines, begun in panes:
        assert 1 < len(lines) <= size[1]
        assert 0 <= begun <= first
        assert all(cells(text) <= size[0] for text in texts(lines)), texts(lines)
        assert "\x1b" not in "".join(texts(lines))
    for glance in (None, LOOK, AWAY):
        for frozen in ("", "FROZEN 10:20:30 +3"):
            lines = picture.head(glance, LOOK, frozen, size[0])
            assert all(cells(text) <= size[0] for text in texts(lines))
            assert len(lines) <= 4
    assert cells(texts([picture.keys(size[0])])[0]) <= size[0]


def test_at_40_by_10_there_is_what_matters() -> None:
    # A line above and one below are not the pane's.
    lines, _ = flow_lines(0, (40, 8), [flow(n, sending_bps=10**6) for n in range(1, 9)])
    assert lines[:3] == [
        "> flows 1-6 of 8 by flow",
        "flow  program  DSCP  contract  sends",
        "   1  ffmpeg     40         -   1.00",
    ]
    assert len(lines) == 8
    found, _ = tables.table_lines(
        "paths", LOOK, BY_HOST, "", 0, (40, 8), has_details=None, is_current=True
    )
    assert texts(found)[1:3] == [
        "host      capacity  free  held  state",
        "10.0.1.0      20.0  12.3  4.00  measured",
    ]
    troubled = Look(
        0.0,
        STATUS,
        [flow(1, marking="not admitted")],
        [msgspec.structs.replace(PATH, congested=True)],
        sees_all=True,
    )
    (line,) = texts(picture.head(troubled, troubled, "", 40))
    assert line.endswith("  1 flow  1 path  1 congested")
    assert texts([picture.keys(40)])[0].startswith("h help  q quit  / filter")


def test_rows_are_moved_through_to_the_last() -> None:
    rows = [flow(n) for n in range(1, 31)]
    lines, begun = flow_lines(10, (80, 8), rows)
    assert (lines[0], begun) == ("> flows 11-16 of 30 by flow", 10)
    assert lines[2].startswith("  11  ")
    lines, begun = flow_lines(1_000, (80, 8), rows)
    assert (lines[0], begun) == ("> flows 30-30 of 30 by flow", 29)


def test_details_have_their_reasons_below() -> None:
    rows = [flow(1), flow(2, backend_reason="another reason")]
    lines, _ = flow_lines(0, (80, 22), rows)
    assert lines[3].startswith("    udp [::]:5000 > ")
    assert "(b) socket options: another reason." in lines
    # A row whose lines have no room is not there, and neither is its reason.
    lines, _ = flow_lines(0, (80, 6), rows, has_details=True)
    assert lines[0] == "> flows 1-1 of 2 by flow"
    assert "(a) socket options: marks by IP_TOS." in lines
    assert "another" not in "".join(lines)
    lines, _ = flow_lines(0, (80, 8), rows)
    assert len(lines) == 4


def test_where_there_is_nothing_that_is_said() -> None:
    nothing = Look(0.0, STATUS, [], [], sees_all=True)
    for wanted, flows, paths in (
        ("", "No flows.", "No paths."),
        ("x", "No such flows.", "No such paths."),
    ):
        found, _ = tables.table_lines(
            "flows", nothing, BY_FLOW, wanted, 0, (80, 9), has_details=None, is_current=True
        )
        assert texts(found)[1:] == [flows]
        found, _ = tables.table_lines(
            "paths", nothing, BY_HOST, wanted, 0, (80, 9), has_details=None, is_current=True
        )
        assert texts(found)[1:] == [paths]
    found, _ = picture.notice_lines([], 0, (80, 9), is_current=False)
    assert texts(found)[1:] == ["Nothing has happened since this began."]


def refusal_lines(rows: list[ms.RefusalRow], size: tuple[int, int], wanted: str = "") -> list[str]:
    seen = Look(NOON_S + 60, STATUS, [], [], sees_all=True, refusals=rows)
    lines, _ = tables.table_lines(
        "refused", seen, BY_TIME, wanted, 0, size, has_details=None, is_current=True
    )
    return texts(lines)


def test_why_something_was_refused_is_there_on_every_screen() -> None:
    rows = [refusal(1, program="mumble"), refusal(2)]
    why = "    the path has 3.20 Mbit/s to give; to 192.0.2.7; ERROR_NETWORK_BUSY (54)"
    # The newest first; neither height nor width takes the reason away.
    assert refusal_lines(rows, (80, 22)) == [
        "> refused 1-2 of 2 by time",
        "time      user   program   pid  what      flow",
        "12:00:02  alice  obs      4711  set rate     2",
        why,
        "12:00:01  alice  mumble   4711  set rate     1",
        why,
    ]
    assert refusal_lines(rows, (40, 8)) == [
        "> refused 1-1 of 2 by time",
        "time      user   program  what      flow",
        "12:00:02  alice  obs      set rate     2",
        "    the path has 3.20 Mbit/s to give;",
        "    to 192.0.2.7;",
        "    ERROR_NETWORK_BUSY (54)",
    ]
    assert refusal_lines(rows, (80, 22), "mumble")[2].startswith("12:00:01  alice  mumble")
    assert refusal_lines(rows, (80, 22), "nobody")[1:] == ["Nothing such was refused."]
    assert refusal_lines([], (80, 22))[1:] == ["Nothing was refused."]


def test_what_is_higher_than_its_pane_says_so() -> None:
    found = refusal_lines([refusal(1, detail="why " * 100)], (40, 8))
    assert len(found) == 8
    assert found[-1].endswith("why…")
    notices, _ = picture.notice_lines(NOTICES, 0, (80, 5), is_current=False)
    assert [line[-1:] == "…" for line in texts(notices)] == [False] * 4 + [True]
    notices, _ = picture.notice_lines(NOTICES[:1], 0, (80, 4), is_current=False)
    assert "…" not in "".join(texts(notices))
    found = refusal_lines([refusal(1)], (40, 5))
    assert found[-1] == "    to 192.0.2.7;…"


def program_lines(rows: list[ms.ProgramRow], size: tuple[int, int], wanted: str = "") -> list[str]:
    seen = Look(0.0, STATUS, [], [], sees_all=True, programs=rows)
    lines, _ = tables.table_lines(
        "programs", seen, BY_NUMBER, wanted, 0, size, has_details=None, is_current=True
    )
    return texts(lines)


def test_programs_that_are_spoken_for_are_a_line_each() -> None:
    found = program_lines([RULE, RUN], (80, 8))
    assert found[0] == "> programs 1-2 of 2 by number"
    # Runs first, as the service lists them.
    assert [line.split()[:2] for line in found[2:]] == [["run", "3"], ["rule", "1"]]
    assert found[2].split()[-5:] == ["4711", "voice", "56", "2.00", "1,200"]
    found = program_lines([RULE, RUN], (40, 8))
    assert max(map(cells, found)) <= 40
    assert found[1].split()[-2:] == ["DSCP", "rate"]
    assert program_lines([RUN], (80, 22), "nobody")[1:] == ["No such programs are spoken for."]
    assert program_lines([], (80, 22))[1:] == ["No programs are spoken for."]


def test_that_the_service_is_away_is_said_above_everything() -> None:
    lines = texts(picture.head(Away(0.0, "nobody listens"), LOOK, "", 80))
    assert lines[1].startswith(
        "NO SERVICE: nobody listens; trying again. Below is what was seen at"
    )
    assert "NO SERVICE" not in "".join(texts(picture.head(LOOK, LOOK, "", 80)))


def test_a_hundred_thousand_flows_cost_no_more_to_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out: list[int] = []

    def counting(rows: Sequence[ms.FlowRow], **options: Any) -> Page:  # noqa: ANN401 - as they came
        laid_out.append(len(rows))
        return page_of_flows(rows, **options)

    monkeypatch.setattr(tables, "page_of_flows", counting)
    flow_lines(50_000, (80, 22), [flow(n) for n in range(1, 100_001)])
    assert sum(laid_out) < 100

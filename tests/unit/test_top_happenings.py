"""What `qwave top` says happened between two looks; and how it sorts and filters."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from openqwave.cli.top.arranging import (
    FLOW_ORDERS,
    PATH_ORDERS,
    Arrangement,
    flows_with,
    paths_with,
)
from openqwave.cli.top.happenings import MOST_AT_ONCE, happenings
from openqwave.cli.top.looks import Away, Look
from openqwave.ipc import messages as ms
from tests.unit.fake_service import STATUS
from tests.unit.test_cli_overview import PATH, flow

FFMPEG = "flow 1 of ffmpeg"

changed = msgspec.structs.replace


def look(
    flows: list[ms.FlowRow] | None = None,
    paths: list[ms.PathRow] | None = None,
    **status: Any,  # noqa: ANN401 - any field of a row
) -> Look:
    return Look(0.0, changed(STATUS, **status), flows or [], paths or [], sees_all=True)


def words(before: Look, now: Look) -> list[str]:
    return [each.words for each in happenings(before, before, now)]


def test_where_nothing_changes_nothing_is_said() -> None:
    rows = [flow(1, sending_bps=1), flow(2, sent_packets=3, excess_packets=1)]
    faster = [flow(1, sending_bps=2), flow(2, sent_packets=9, excess_packets=2)]
    assert words(look(rows, [PATH]), look(faster, [changed(PATH, rtt_ns=1, age_ns=2)])) == []


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({}, {"dscp": 0}, f"{FFMPEG}: DSCP 0, was 40"),
        ({}, {"dscp": None}, f"{FFMPEG}: DSCP as the program makes it, was 40"),
        ({}, {"traffic_type": "voice"}, f"{FFMPEG}: voice, was audio video"),
        ({}, {"contract_bps": 5_000_000}, f"{FFMPEG}: contract 5.00 Mbit/s, was none"),
        ({"contract_bps": 5_000_000}, {}, f"{FFMPEG}: contract none, was 5.00"),
        (
            {},
            {"marking": "not admitted", "backend_reason": "only 3 Mbit/s are free"},
            f"{FFMPEG}: not admitted: only 3 Mbit/s are free",
        ),
        ({"marking": "not admitted"}, {}, f"{FFMPEG}: admitted, marks by type"),
        ({}, {"marking": "exact DSCP"}, f"{FFMPEG}: marks exact DSCP, were by type"),
        (
            {"path_state": "measured"},
            {"path_state": "congested"},
            f"{FFMPEG}: path congested",
        ),
        ({}, {"backend": "none"}, f"{FFMPEG}: nothing is applied, was socket options"),
        (
            {"excess_packets": 0},
            {"excess_packets": 3},
            f"{FFMPEG}: sends more than its contract",
        ),
        (
            {},
            {"dropped_packets": 3},
            f"{FFMPEG}: packets are dropped, because too much waits for its turn",
        ),
    ],
)
def test_what_changes_of_a_flow(before: dict[str, Any], now: dict[str, Any], expected: str) -> None:
    assert words(look([flow(1, **before)]), look([flow(1, **now)])) == [expected]


def test_flows_begin_and_end() -> None:
    began, ended = flow(2, program="\x1b[2J"), flow(1)
    found = words(look([ended]), look([began]))
    assert found[0] == "flow 1 of ffmpeg ended"
    assert found[1].startswith(
        "flow 2 began: \\x1b[2J of alice, process 4711; audio video; DSCP 40"
    )
    assert len(found) == 2


def test_of_many_flows_the_rest_is_counted() -> None:
    found = words(look(), look([flow(n) for n in range(1, 1_000)]))
    assert len(found) == MOST_AT_ONCE + 1
    assert found[-1] == f"{999 - MOST_AT_ONCE} more flows began"


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (
            {},
            {"congested": True, "congestion_reason": "delay"},
            "path 10.0.1.2: congested: delay",
        ),
        ({"congested": True}, {}, "path 10.0.1.2: no longer congested"),
        ({}, {"obstacle": "nobody answers"}, "path 10.0.1.2: not measured: nobody answers"),
        ({"obstacle": "nobody answers"}, {}, "path 10.0.1.2: measured again"),
        (
            {"capacity_bps": None},
            {},
            "path 10.0.1.2: carries 20.0 Mbit/s, 12.3 free, 4.00 held, 1.2 s ago",
        ),
    ],
)
def test_what_changes_of_a_path(before: dict[str, Any], now: dict[str, Any], expected: str) -> None:
    assert words(look(paths=[changed(PATH, **before)]), look(paths=[changed(PATH, **now)])) == [
        expected
    ]


def test_paths_come_and_go() -> None:
    other = changed(PATH, host="10.0.1.9", congested=True, congestion_reason="delay")
    found = words(look(paths=[PATH]), look(paths=[other]))
    assert found[0].startswith("path 10.0.1.9 is new: congested; delay; carries 20.0 Mbit/s")
    assert found[1:] == ["path 10.0.1.2 is not of interest any more"]


def test_what_the_service_counts() -> None:
    before = look(counters={"protocol violations": 3, "too many handles": 1})
    now = look(counters={"protocol violations": 5, "too many handles": 1, "failed requests": 1})
    assert words(before, now) == [
        "service: 1 failed requests, 1 since it started",
        "service: 2 protocol violations, 5 since it started",
    ]


def test_the_service_goes_and_comes() -> None:
    seen = look([flow(1)], [PATH])
    away = Away(1.0, "nobody listens")
    assert [each.words for each in happenings(seen, seen, away)] == [
        "no service: nobody listens; trying again"
    ]
    # Said once, for as long as it is the same.
    assert happenings(away, seen, Away(2.0, "nobody listens")) == []
    assert [each.words for each in happenings(away, seen, seen)] == [
        "the service answers again: qwaved 0.1, process 4711; 1 flow, 1 path"
    ]
    # Another process has other flows, even if they have the same numbers.
    assert words(seen, look([flow(1)], [PATH], pid=9)) == [
        "the service was started again: qwaved 0.1, process 9; 1 flow, 1 path",
        "1 flow ended with the service",
        words(look(), look([flow(1)]))[0],
    ]
    assert [each.words for each in happenings(None, None, seen)] == [
        "service: qwaved 0.1, process 4711; 1 flow, 1 path"
    ]
    assert happenings(away, None, seen)[0].words.startswith("the service is there: qwaved")


# -- sorting and filtering --------------------------------------------------------------


def by(name: str) -> Arrangement[ms.FlowRow]:
    return Arrangement(FLOW_ORDERS, [order.name for order in FLOW_ORDERS].index(name))


@pytest.mark.parametrize(
    ("name", "expected", "turned"),
    [
        ("flow", [1, 2, 3, 4], [4, 3, 2, 1]),
        # What is not known is last both ways.
        ("sends", [3, 2, 1, 4], [2, 3, 1, 4]),
        ("contract", [4, 1, 2, 3], [1, 4, 2, 3]),
        ("trouble", [2, 3, 4, 1], [1, 4, 3, 2]),
        ("program", [1, 4, 2, 3], [3, 1, 4, 2]),
        ("user", [2, 1, 3, 4], [1, 3, 4, 2]),
    ],
)
def test_orders_of_flows(name: str, expected: list[int], turned: list[int]) -> None:
    rows = [
        flow(1, contract_bps=1, program="Alpha"),
        flow(2, sending_bps=1, marking="not admitted", program="beta", user="Aaron"),
        flow(3, sending_bps=2, path_state="congested", program="zeta"),
        flow(4, contract_bps=2, excess_packets=1, program="alpha"),
    ]
    assert [row.flow for row in by(name).of(rows)] == expected
    assert [row.flow for row in by(name).reversed().of(rows)] == (
        turned if name != "program" else [3, 2, 1, 4]
    )


def test_orders_come_round() -> None:
    order = Arrangement(PATH_ORDERS)
    names = []
    for _ in PATH_ORDERS:
        names.append(order.words)
        order = order.reversed().next()
    assert names == ["by host", "by free", "by held", "by trouble", "by RTT"]
    assert order == Arrangement(PATH_ORDERS)
    assert order.reversed().words == "by host, reversed"
    rows = [changed(PATH, host="10.0.1.10"), changed(PATH, host="10.0.1.9", available_bps=None)]
    assert [row.host for row in order.of(rows)] == ["10.0.1.9", "10.0.1.10"]
    assert [row.host for row in order.next().of(rows)] == ["10.0.1.10", "10.0.1.9"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("", [1, 2, 3]),
        ("  ", [1, 2, 3]),
        ("FFMPEG", [1, 3]),
        ("ffmpeg bob", [3]),
        ("2001:db8::2", [1, 2, 3]),
        ("not admitted", [2]),
        ("dscp 40", [1, 3]),
        ("nobody", []),
    ],
)
def test_filters(wanted: str, expected: list[int]) -> None:
    rows = [
        flow(1),
        flow(2, program="obs", dscp=None, marking="not admitted"),
        flow(3, user="bob"),
    ]
    assert [row.flow for row in flows_with(rows, wanted)] == expected


def test_filters_of_paths() -> None:
    rows = [PATH, changed(PATH, host="10.0.1.9", congested=True, interface="wlan0")]
    assert [row.host for row in paths_with(rows, "congested WLAN")] == ["10.0.1.9"]
    assert paths_with(rows, "") == rows
    assert paths_with(rows, "eth1") == []

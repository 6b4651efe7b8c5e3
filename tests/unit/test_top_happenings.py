"""What `qwave top` says happened between two looks; and how it sorts and filters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

from openqwave.cli.top.arranging import (
    FLOW_ORDERS,
    PATH_ORDERS,
    PROGRAM_ORDERS,
    REFUSAL_ORDERS,
    Arrangement,
    flows_with,
    paths_with,
    programs_with,
    refusals_with,
)
from openqwave.cli.top.happenings import MOST_AT_ONCE, contents, happenings
from openqwave.cli.top.looks import Away, Look, Refused
from openqwave.ipc import messages as ms
from tests.unit.fake_service import STATUS
from tests.unit.test_cli_overview import PATH, flow
from tests.unit.test_cli_refusals import NOON_S, refusal
from tests.unit.test_overview_programs import RULE, RUN

if TYPE_CHECKING:
    from openqwave.cli.overview.asking import Service

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


# -- programs that are spoken for --------------------------------------------------------


def spoken_for(*rows: ms.ProgramRow, **status: Any) -> Look:  # noqa: ANN401 - any field of a row
    return Look(0.0, changed(STATUS, **status), [], [], sees_all=True, programs=rows)


RUN_IN_FULL = (
    "of alice; process 4711; voice; DSCP 56; rate 2.00 Mbit/s; sent 1,200 packets; "
    "by kernel program"
)
RULE_IN_FULL = "program wesnoth, udp; DSCP 46; nothing marks it: nobody of that name runs"


def test_runs_and_rules_come_and_go() -> None:
    assert words(spoken_for(RULE), spoken_for(RUN)) == [
        f"run 3 of mumble is new: {RUN_IN_FULL}",
        "rule games ended",
    ]
    assert words(spoken_for(), spoken_for(RULE)) == [f"rule games is new: {RULE_IN_FULL}"]
    assert [each.words for each in contents(spoken_for(RUN, RULE))] == [
        f"run 3 of mumble: {RUN_IN_FULL}",
        f"rule games: {RULE_IN_FULL}",
    ]
    # A rule that has another place is the same one, and what is counted is no happening.
    same = changed(RULE, number=7), changed(RUN, sent_packets=9_999, excess_packets=7)
    assert words(spoken_for(RULE, RUN), spoken_for(*same)) == []


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({}, {"backend": "", "reason": "no BTF"}, "nothing marks it: no BTF"),
        ({"backend": "", "reason": "no BTF"}, {}, "by kernel program"),
        ({"excess_packets": 0}, {}, "sends more than its rate"),
        (
            {"dropped_packets": 0},
            {},
            "packets are dropped, because too much waits for its turn",
        ),
    ],
)
def test_what_changes_of_a_run(before: dict[str, Any], now: dict[str, Any], expected: str) -> None:
    found = words(spoken_for(changed(RUN, **before)), spoken_for(changed(RUN, **now)))
    assert found == [f"run 3 of mumble: {expected}"]


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, [3, 4, 1]), (1, [1, 4, 3]), (2, [1, 4, 3]), (3, [3, 4, 1]), (4, [4, 3, 1])],
    ids=[order.name for order in PROGRAM_ORDERS],
)
def test_orders_of_programs(number: int, expected: list[int]) -> None:
    rows = [changed(RUN, number=4, rate_bps=1), changed(RUN, number=3, sent_packets=1), RULE]
    found = Arrangement(PROGRAM_ORDERS, number).of(rows)
    assert [row.number for row in found] == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("", ["mumble", "games"]),
        ("run 3", ["mumble"]),
        ("WESNOTH", ["games"]),
        ("10.toml", ["games"]),
        ("dscp 56 alice", ["mumble"]),
        ("kernel program", ["mumble"]),
        ("nobody-here", []),
    ],
)
def test_filters_of_programs(wanted: str, expected: list[str]) -> None:
    assert [row.name for row in programs_with([RUN, RULE], wanted)] == expected


# -- what was refused -------------------------------------------------------------------


def refused(*rows: ms.RefusalRow, **status: Any) -> Look:  # noqa: ANN401 - any field of a row
    now = look(**status)
    return Look(NOON_S + 60, now.status, [], [], sees_all=True, refusals=rows)


WHY = "the path has 3.20 Mbit/s to give (ERROR_NETWORK_BUSY"
WHOSE = "refused to obs of alice, process 4711: set rate of flow"


def test_what_is_refused_is_told_with_its_time() -> None:
    before = refused(refusal(1))
    found = happenings(before, before, refused(refusal(1), refusal(2), refusal(3, flow=None)))
    assert [(each.at_s, each.words) for each in found] == [
        (NOON_S + 2, f"{WHOSE} 2, to 192.0.2.7: {WHY})"),
        (NOON_S + 3, f"{WHOSE[:-8]}, to 192.0.2.7: {WHY})"),
    ]
    assert {each.style for each in found} == {"red"}
    assert words(before, before) == []


def test_the_same_again_is_told_where_it_is_ten_times_as_often() -> None:
    told = []
    before = refused(refusal(1))
    for times in range(2, 1_101):
        again = refusal(times, flow=1, times=times, since_ns=int(NOON_S) * 10**9)
        now = refused(again)
        told += words(before, now)
        before = now
    assert told == [
        f"{WHOSE} 1, to 192.0.2.7: {WHY}; {times} times since 12:00:00)"
        for times in ("10", "100", "1,000")
    ]


def test_of_many_refusals_the_last_are_told_and_the_rest_is_counted() -> None:
    found = words(refused(), refused(*[refusal(n) for n in range(1, 101)]))
    assert len(found) == MOST_AT_ONCE + 1
    assert found[0] == f"{100 - MOST_AT_ONCE} more refusals, before those that follow"
    assert found[-1].startswith(f"{WHOSE} 100,")


def test_another_service_has_refused_other_things() -> None:
    found = words(refused(refusal(5)), refused(refusal(1), pid=9))
    assert found[-1].startswith(f"{WHOSE} 1,")
    # And what there was before the first look is no news, but is told where there are no panes.
    now = refused(refusal(1))
    assert not any("refused" in each.words for each in happenings(None, None, now))
    assert [each.words for each in contents(now)] == [f"{WHOSE} 1, to 192.0.2.7: {WHY})"]


def test_names_in_refusals_do_nothing_to_a_terminal() -> None:
    evil = "\x1b[2J"
    row = refusal(1, program=evil, user=evil, request=evil, host=evil, detail=evil, name=evil)
    (found,) = words(refused(), refused(row))
    assert found.count("\\x1b[2J") == 6
    assert "\x1b" not in found


class Teller:
    """A service that tells what a test wrote down."""

    def __init__(self, *rows: ms.RefusalRow) -> None:
        self.rows = list(rows)
        self.asked: list[int] = []

    def refusals(self, after: int = 0) -> list[ms.RefusalRow]:
        self.asked.append(after)
        return [row for row in self.rows if row.number > after]


def test_refusals_are_gathered_look_by_look() -> None:
    gathering = Refused()
    teller = Teller(refusal(1), refusal(2))

    def gathered(pid: int = 1) -> list[tuple[int, int]]:
        found = gathering.gathered(cast("Service", teller), pid)
        return [(row.number, row.times) for row in found]

    assert gathered() == [(1, 1), (2, 1)]
    assert gathered() == [(1, 1), (2, 1)]
    # Again in the same words it is the same one; what the service has forgotten stays.
    teller.rows = [refusal(3, flow=1, times=2)]
    assert gathered() == [(2, 1), (3, 2)]
    assert teller.asked == [0, 2, 2]
    # Another process is another service.
    assert gathered(pid=2) == [(3, 2)]
    assert teller.asked[-1] == 0
    teller.rows = [refusal(n) for n in range(4, 2_000)]
    assert len(gathered(pid=2)) == 1_000


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


def by_refusal(name: str) -> Arrangement[ms.RefusalRow]:
    return Arrangement(REFUSAL_ORDERS, [order.name for order in REFUSAL_ORDERS].index(name))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("time", [3, 2, 1]),
        ("program", [2, 3, 1]),
        ("user", [1, 3, 2]),
        ("reason", [2, 3, 1]),
        ("times", [1, 3, 2]),
    ],
)
def test_orders_of_refusals(name: str, expected: list[int]) -> None:
    rows = [
        refusal(3, user="Anna"),
        refusal(2, program="Mumble", user="zoe", name="ERROR_ACCESS_DENIED"),
        refusal(1, times=9),
    ]
    assert [row.number for row in by_refusal(name).of(rows)] == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("", [1, 2]),
        ("ALICE obs", [1, 2]),
        ("set rate", [1]),
        ("network_busy 54", [1]),
        ("set dscp", [2]),
        ("192.0.2.7 no right", [2]),
        ("nobody", []),
    ],
)
def test_filters_of_refusals(wanted: str, expected: list[int]) -> None:
    other = refusal(2, request="set_dscp", name="ERROR_ACCESS_DENIED", code=5, detail="No right.")
    assert [row.number for row in refusals_with([refusal(1), other], wanted)] == expected


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

"""`qwave demo adaptive` without a network: turns, verdicts, words, JSON, progress, chart.

`tests/traces/demo-adaptive.json.gz` is a performance: what the performer said, the link's books,
every tenth packet with its time and delay, and counts of all. Others are made of it by changes.
"""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from openqwave.cli.demo.adaptive.chart import draw
from openqwave.cli.demo.adaptive.command import Options, finish
from openqwave.cli.demo.adaptive.crossing import Crossing
from openqwave.cli.demo.adaptive.figures import Figures, Punctuality, figures_of
from openqwave.cli.demo.adaptive.recording import Belief, Call, Mark, Offered, Page, Visit, read
from openqwave.cli.demo.adaptive.report import print_report
from openqwave.cli.demo.adaptive.script import (
    DELAY_NS,
    LEAST_BPS,
    LINK_BPS,
    NAMES,
    OTHERS_BPS,
    PACKET_BYTES,
    PAYLOAD_BYTES,
    PEACE_S,
    QUEUE_BYTES,
    STEADY_S,
    WANTED_BPS,
    A,
    B,
    link,
    link_with_others,
)
from openqwave.cli.demo.adaptive.stage import Moment, Records
from openqwave.cli.demo.adaptive.turns import turns_of
from openqwave.cli.demo.adaptive.view import LineView, LiveView
from openqwave.lab.capture import CapturedPacket, Direction
from openqwave.lab.specs import HEADER, MAGIC
from tests.unit.commands import qwave

MBPS, MS = 1_000_000, 1_000_000
TRACE = Path(__file__).parents[1] / "traces" / "demo-adaptive.json.gz"
# Clocks of the performance: neither is 0, and they differ.
STARTED_NS, AHEAD_NS = 5_000_000_000, 10**18


@cache
def recorded() -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(gzip.decompress(TRACE.read_bytes()))
    return whole


def performance() -> Records:
    """The recorded performance; a new one each time."""
    whole = recorded()
    records = Records(
        ahead_ns=AHEAD_NS,
        started_ns=STARTED_NS,
        ended_ns=STARTED_NS + whole["ended_ns"],
        visit=Visit(*(STARTED_NS + time_ns for time_ns in whole["visit"])),
        waiting_share=whole["waiting_share"],
    )
    for since_ns, until_ns, own_bps, others_bps in whole["pages"]:
        page = Page(STARTED_NS + since_ns, STARTED_NS + until_ns, own_bps, others_bps)
        records.pages.append(page)
    for fields in whole["said"]:
        match read(dict(fields)):
            case Call() as call:
                began_ns, ended_ns = STARTED_NS + call.began_ns, STARTED_NS + call.ended_ns
                records.calls.append(replace(call, began_ns=began_ns, ended_ns=ended_ns))
            case Belief() as belief:
                records.beliefs.append(replace(belief, at_ns=STARTED_NS + belief.at_ns))
    for stream, track in records.crossing.tracks.items():
        name = str(stream)
        for arrived_us, delay_us in whole["packets_us"][name]:
            track.arrived_ns.append(AHEAD_NS + STARTED_NS + 1000 * arrived_us)
            track.delay_ns.append(1000 * delay_us)
            track.ip_bytes.append(10 * PACKET_BYTES)
        for phase, count in whole["left"][name].items():
            track.left[int(phase)] = count
        for phase, count in whole["came"][name].items():
            track.came[int(phase)] = count
        for phase, dscps in whole["dscps"][name].items():
            track.dscps[int(phase)] = Counter({int(dscp): n for dscp, n in dscps.items()})
    return records


def changed(change: Callable[[Records], object]) -> Figures:
    records = performance()
    change(records)
    return figures_of(records)


def broken(figures: Figures) -> list[str]:
    """The promises that were not kept."""
    return [verdict.name for verdict in figures.verdicts if not verdict.kept]


def each_call(change: Callable[[Call], Call | None]) -> Callable[[Records], None]:
    """A change of all calls; those that become None were not made."""

    def apply(records: Records) -> None:
        made = [change(call) for call in records.calls]
        records.calls[:] = [call for call in made if call is not None]

    return apply


# ---- The story


def test_the_numbers_of_the_story_go_together() -> None:
    # Neither fits twice, others overfill what is taken, and the way down makes room for them.
    assert WANTED_BPS < LINK_BPS < 2 * WANTED_BPS
    lower_bps = 2 / 3 * (LINK_BPS - WANTED_BPS)
    assert WANTED_BPS + lower_bps + OTHERS_BPS > 1.08 * LINK_BPS
    assert WANTED_BPS + LEAST_BPS + OTHERS_BPS < 0.9 * LINK_BPS
    assert PACKET_BYTES == PAYLOAD_BYTES + 28
    assert STEADY_S > PEACE_S
    (plain,), (shared,) = link().forward.stages, link_with_others().forward.stages
    assert (plain.rate_bps, plain.queue_bytes, plain.delay_ns) == (LINK_BPS, QUEUE_BYTES, DELAY_NS)
    assert replace(shared, cross=()) == plain
    assert link_with_others().backward.stages[0].cross == ()
    assert [cross.rate_bps for cross in shared.cross] == [OTHERS_BPS]


def test_what_the_performer_says_is_read() -> None:
    said = {"event": "call", "stream": B, "call": "fundamentals", "rate_bps": None, "phase": None}
    said |= {"began_ns": 1, "ended_ns": 3, "error": "", "detail": ""}
    told = {"answer": {"available_bps": 7_640_000, "rtt_ns": 1}}
    call = Call(B, "fundamentals", None, None, 1, 3, available_bps=7_640_000)
    assert read(said | told) == call
    assert call.sentence == "B: fundamentals: 7.6 Mbit/s available"
    refused = Call(B, "set_rate", 12 * MBPS, 1, 1, 3, "ERROR_NETWORK_BUSY", "no room")
    assert not refused.is_done
    assert refused.sentence == "B: set_rate 12 Mbit/s: ERROR_NETWORK_BUSY"
    assert read({"event": "begin", "at_ns": 4}) == Mark(4, is_end=False)
    assert read({"event": "end", "at_ns": 5}) == Mark(5, is_end=True)
    offered = {"event": "offered", "at_ns": 6, "rates_bps": {"A": 12, "B": 1}}
    assert read(offered) == Offered(6, {A: 12, B: 1})
    for nonsense in ({"event": "song"}, {}):
        with pytest.raises(ValueError, match="nobody understands"):
            read(nonsense)


def packet(time_ns: int, stream: int, phase: int, sequence: int, dscp: int = 0) -> CapturedPacket:
    payload = HEADER.pack(MAGIC, stream, phase, sequence, 0)
    ends = ("10.0.1.1", "10.0.1.2", 1, 2)
    return CapturedPacket(time_ns, Direction.INCOMING, 4, 17, *ends, dscp, 0, PACKET_BYTES, payload)


def test_packets_are_followed_across_the_link() -> None:
    crossing = Crossing(NAMES)
    left = [packet(1000, A, 0, 0), packet(2000, A, 0, 1), packet(3000, A, 2, 0)]
    arrived = [packet(1500, A, 0, 0), packet(3900, A, 2, 0, 40), packet(3950, 9, 0, 0)]
    stranger = replace(left[0], payload=b"probe")
    crossing.enter([*left, stranger], [*arrived, stranger])
    track = crossing.tracks[A]
    assert list(track.delay_ns) == [500, 900]
    assert (dict(track.left), dict(track.came)) == ({0: 2, 2: 1}, {0: 1, 2: 1})
    assert track.dscps == {0: Counter({0: 1}), 2: Counter({40: 1})}
    # What is on the way arrives at the next look, and is no loss then.
    assert track.lost == 1
    crossing.enter([], [packet(4000, A, 0, 1)])
    assert (track.lost, list(track.delay_ns)) == (0, [500, 900, 2000])
    passed = track.span(0, 2000)
    assert (passed.rate_bps, passed.delays_ns["p50"]) == (PACKET_BYTES * 8e9 / 2000, 500)
    assert track.span(5000, 6000).delays_ns == {}


# ---- Figures


def test_a_performance_as_it_should_be() -> None:
    figures = figures_of(performance())
    assert broken(figures) == []
    assert figures.kept
    assert not figures.punctuality.is_busy
    turns = figures.turns
    assert turns.refused is not None
    assert turns.refused.error == "ERROR_NETWORK_BUSY"
    assert turns.asked is not None
    assert turns.asked.available_bps == 8_431_350
    assert turns.lower is not None
    assert turns.back is not None
    assert turns.lower.rate_bps == turns.back.rate_bps == 5_600_000
    assert turns.down is not None
    assert turns.down.rate_bps == LEAST_BPS
    assert turns.whole is not None
    assert turns.whole.rate_bps == WANTED_BPS
    # As the lines of the run had them: told at 8.65 s, relief at 9.32, available at 15.85.
    assert figures.told_ns == pytest.approx(237 * MS, abs=1 * MS)
    assert figures.available_ns == pytest.approx(1_435 * MS, abs=1 * MS)
    assert figures.relief_ns is not None
    assert 100 * MS < figures.relief_ns < 500 * MS
    # 12 and 0.5 Mbit/s of streams, and experiments.
    assert figures.free_bps == pytest.approx(7_400_000, abs=150_000)
    assert (figures.needless, figures.without_others) == (0, 0)
    assert figures.marks[B][0].keys() == {0}
    assert figures.marks[B][1].keys() == figures.marks[A][1].keys() == {40}
    assert 30 * MS < figures.longest_ns < 105 * MS
    assert figures.punctuality.pace == pytest.approx(1, abs=0.01)


def test_nothing_at_all() -> None:
    figures = figures_of(Records())
    assert not figures.kept
    assert broken(figures) == [
        *("admitted", "refused", "marks", "available_told", "lower", "congested", "down"),
        *("relieved", "available", "back", "whole", "loss"),
    ]
    json.dumps(figures.to_json())


def test_an_answer_that_is_asked_for_again_is_no_refusal() -> None:
    retry = Call(B, "set_rate", WANTED_BPS, 1, 1, 2, "ERROR_RETRY")
    busy = replace(retry, error="ERROR_NETWORK_BUSY")
    assert turns_of([retry, busy, retry], None).refused is busy
    first = replace(retry, stream=A)
    admitted = replace(first, error="")
    assert turns_of([first, admitted], None).admitted is admitted


def grant_all(call: Call) -> Call:
    return replace(call, error="", detail="") if call.call == "set_rate" else call


def without(name: str) -> Callable[[Call], Call | None]:
    return lambda call: None if call.call == name else call


def told_much(call: Call) -> Call:
    return call if call.available_bps is None else replace(call, available_bps=11 * MBPS)


def later(name: str, by_ns: int) -> Callable[[Call], Call]:
    def move(call: Call) -> Call:
        return replace(call, ended_ns=call.ended_ns + by_ns) if call.call == name else call

    return move


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (grant_all, {"refused"}),
        (told_much, {"available_told"}),
        (without("wait_congested"), {"congested"}),
        (later("wait_congested", 900 * MS), {"congested"}),
        (later("wait_uncongested", 1_000 * MS), {"relieved"}),
        # While the queue stood.
        (later("wait_uncongested", -450 * MS), {"relieved"}),
        # Before others went, and long after.
        (later("wait_available", -2_000 * MS), {"available"}),
        (later("wait_available", 4_000 * MS), {"available"}),
    ],
)
def test_what_is_not_as_it_should_be(
    change: Callable[[Call], Call | None], names: set[str]
) -> None:
    assert names <= set(broken(changed(each_call(change))))


def test_a_notice_without_a_queue_is_needless() -> None:
    def tell(records: Records) -> None:
        at_ns = STARTED_NS + 7_000 * MS
        records.calls.insert(7, Call(B, "wait_congested", None, None, at_ns, at_ns))

    figures = changed(tell)
    assert (figures.needless, figures.without_others) == (1, 1)
    assert broken(figures) == ["needless"]


def test_a_notice_with_a_queue_is_none_whoever_makes_it() -> None:
    def tell_early(records: Records) -> None:
        assert records.visit is not None
        # The queue is there, and others came only after it.
        records.visit = replace(records.visit, came_ns=records.visit.came_ns + 1_000 * MS)

    figures = changed(tell_early)
    assert (figures.needless, figures.without_others) == (0, 1)
    assert "needless" not in broken(figures)
    assert "congested" in broken(figures)


@pytest.mark.parametrize(("stream", "phase", "dscp"), [(B, 0, 40), (B, 4, 0), (A, 2, 0), (A, 2, 8)])
def test_a_wrong_mark_is_found(stream: int, phase: int, dscp: int) -> None:
    def mark(records: Records) -> None:
        records.crossing.tracks[stream].dscps[phase][dscp] += 1

    assert broken(changed(mark)) == ["marks"]


def test_marks_while_a_call_is_under_way_are_nobodys() -> None:
    def mark(records: Records) -> None:
        records.crossing.tracks[B].dscps[3] = Counter({0: 1, 40: 1})

    assert broken(changed(mark)) == []


@pytest.mark.parametrize(("lost", "names"), [(33, []), (34, ["loss"])])
def test_losses_up_to_a_thousandth(lost: int, names: list[str]) -> None:
    def lose(records: Records) -> None:
        records.crossing.tracks[A].came[2] -= lost

    assert broken(changed(lose)) == names


@pytest.mark.parametrize(
    ("found", "is_busy"),
    [
        (Punctuality(5 * MS, 0.05, 0.95), False),
        (Punctuality(5 * MS + 1, 0.05, 0.95), True),
        (Punctuality(5 * MS, 0.051, 0.95), True),
        (Punctuality(5 * MS, 0.05, 0.949), True),
    ],
)
def test_what_is_too_busy_to_judge(found: Punctuality, is_busy: bool) -> None:
    assert found.is_busy is is_busy


def test_json() -> None:
    told = json.loads(json.dumps(figures_of(performance()).to_json()))
    assert (told["format"], told["kept"]) == (1, True)
    assert told["turns"]["lower"]["rate_bps"] == 5_600_000
    assert told["turns"]["lower"]["stream"] == "B"
    assert told["turns"]["admitted"]["began_ns"] < told["turns"]["admitted"]["ended_ns"] < 10**9
    assert told["others_came_ns"] < told["queue_drained_ns"] < told["others_went_ns"]
    assert told["wire_dscp"]["B"]["before_a_rate"].keys() == {"0"}
    assert told["wire_dscp"]["B"]["with_a_rate"].keys() == {"40"}
    assert told["lost_packets"] == {"A": 0, "B": 0}
    assert told["setup"]["link_bps"] == LINK_BPS
    assert all(verdict["kept"] for verdict in told["verdicts"].values())


# ---- Words


def printed(figures: Figures) -> str:
    output = io.StringIO()
    print_report(Console(file=output, width=80, highlight=False, markup=False), figures)
    return output.getvalue()


def test_the_report_tells_the_story() -> None:
    text = printed(figures_of(performance()))
    assert max(map(len, text.splitlines())) <= 80
    rows = [line.split() for line in text.splitlines()]
    assert ["4.4", "B", "set_rate", "12", "Mbit/s", "NETWORK_BUSY"] in rows
    assert ["8.4", "others", "come"] in rows
    (congested,) = [row for row in rows if "wait_congested" in row]
    assert congested[-4:] == ["ms", "after", "others", "came"]
    assert [row[0] for row in rows if row[:1] == ["NOT"]] == []
    assert "Neither stream knew the link." in text
    assert "qwave sink" in text


def test_the_report_of_what_failed() -> None:
    figures = changed(each_call(grant_all))
    text = " ".join(printed(figures).split())
    assert "NOT B asks for as much, and the network is busy: it was granted" in text
    assert "What happens again is an error." in text
    busy = replace(figures, punctuality=Punctuality(9 * MS, 0.2, 0.5))
    assert "This machine was too busy for it" in " ".join(printed(busy).split())


@pytest.mark.parametrize("as_json", [False, True])
def test_exit_statuses(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    good = figures_of(performance())
    bad = changed(each_call(grant_all))
    busy = Punctuality(9 * MS, 0.2, 0.5)
    why = (
        "This machine was too busy for a fair trial: the link handed one packet in a hundred over "
        "9.0 ms late, the link had no processor for 20 % of the time, A could send only 50 % of "
        "its rate.\n"
    )
    for figures, status, errors in (
        (good, 0, ""),
        (replace(good, punctuality=busy), 0, ""),
        (bad, 1, ""),
        (replace(bad, punctuality=busy), 2, why),
    ):
        options = Options(as_json=as_json)
        console = Console(highlight=False, markup=False, width=80, stderr=as_json)
        assert finish(options, console, performance(), figures, None) == status
        output = capsys.readouterr()
        assert output.err == errors
        if as_json:
            assert json.loads(output.out)["chart"] is None


# ---- Progress


def test_a_line_for_each_event_once() -> None:
    output = io.StringIO()
    records = performance()
    assert records.visit is not None
    calls, records.calls = records.calls, []
    with LineView(Console(file=output, width=20)) as view:
        for call in calls:
            records.calls.append(call)
            view.show(Moment(call.ended_ns), records)
            view.show(Moment(call.ended_ns + 1), records)
        view.show(Moment(records.ended_ns, is_over=True), records)
    lines = output.getvalue().splitlines()
    assert len(lines) == len(set(lines)) == len(calls) + 2
    assert lines[0] == "  0.1 s  A: add_socket: ok"
    assert "  4.4 s  B: set_rate 12 Mbit/s: ERROR_NETWORK_BUSY" in lines
    assert " 14.4 s  others are gone" in lines


def test_a_live_view_shows_rates_and_what_is_believed() -> None:
    output = io.StringIO()
    console = Console(file=output, width=100, height=30, force_terminal=True, color_system=None)
    records = performance()
    with LiveView(console) as view:
        view.show(Moment(STARTED_NS), Records())
        assert "nothing is known of the path yet" in output.getvalue()
        view.show(Moment(STARTED_NS + 20_000 * MS), records)
        shown = output.getvalue()
    # A tenth of the packets, so the rates are rough.
    assert re.search(r"stream A +█+·+ +1[12]\.\d Mbit/s", shown)
    assert re.search(r"stream B +█+·+ +[56]\.\d Mbit/s", shown)
    assert "Mbit/s available, not congested" in shown
    records.beliefs[-1] = replace(records.beliefs[-1], is_congested=True, reason="a queue")
    with LiveView(console) as view:
        view.show(Moment(STARTED_NS + 20_000 * MS), records)
    assert "congested: a queue" in output.getvalue()


# ---- The chart


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_chart_is_drawn(tmp_path: Path, suffix: str) -> None:
    records = performance()
    path = tmp_path / f"chart.{suffix}"
    draw(records, figures_of(records), path)
    data = path.read_bytes()
    if suffix == "png":
        assert data.startswith(b"\x89PNG")
        assert 60_000 < len(data) < 1_000_000
    else:
        # Each event has its label.
        for label in (b"NETWORK_BUSY", b"others come", b"others are gone", b"B uncongested"):
            assert data.count(label) == 1, label


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)
def test_a_chart_of_a_story_that_ended_early(tmp_path: Path) -> None:
    records = Records()
    draw(records, figures_of(records), tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 10_000


# ---- The command line


def test_help() -> None:
    done = qwave("demo", "adaptive", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("--chart", "--json", "--no-live", "Exit status", "qwave demo adaptive"):
        assert word in done.stdout
    assert "adaptive" in qwave("demo", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "--json", "adaptive"], "Options go after"),
        (["demo", "adaptive", "--seconds", "3"], "--seconds"),
        (["demo", "adaptive", "--chart", "chart.jpeg"], ".png or .svg"),
    ],
)
def test_wrong_options_are_told(arguments: list[str], words: str) -> None:
    done = qwave(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr

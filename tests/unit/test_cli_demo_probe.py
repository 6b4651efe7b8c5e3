"""`qwave demo probe` without a network: verdicts, words, JSON, exit statuses, progress, chart."""

from __future__ import annotations

import importlib.util
import io
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from openqwave.cli.demo.command import on_stage
from openqwave.cli.demo.probe.cases import CASES, Case
from openqwave.cli.demo.probe.chart import draw
from openqwave.cli.demo.probe.command import Options, finish
from openqwave.cli.demo.probe.figures import (
    Figures,
    Punctuality,
    Result,
    Standing,
    figures_of,
    punctuality_of,
)
from openqwave.cli.demo.probe.report import print_report
from openqwave.cli.demo.probe.stage import Moment, Record
from openqwave.cli.demo.probe.view import LineView, LiveView
from openqwave.cli.interruption import Interrupted
from openqwave.cli.probe.outcome import Outcome
from openqwave.cli.views import SilentView
from openqwave.estimate.samples import Gap, Sample, Train
from openqwave.lab.emulation import EmulatorCounters, WayCounters
from openqwave.lab.links import CrossKind
from openqwave.lab.pathmodel import Truth
from openqwave.lab.tally import Carried
from openqwave.model.estimates import Doubt, Estimate, Estimated, Inconclusive, PathReport
from tests.unit.commands import qwave

MBPS, US, MS = 1_000_000, 1_000, 1_000_000
HALF_USED, COALESCED, BUCKET = CASES
CALM = Punctuality(late_90_ns=32_768, late_99_ns=65_536, waiting_share=0.001, paced=17, held_up=0)
BUSY = replace(CALM, late_99_ns=8_388_608, held_up=9)
UNKNOWN = Inconclusive(Doubt.BURST_CREDIT)


def mbps(value: float, low: float, high: float) -> Estimate:
    return Estimate(round(value * MBPS), round(low * MBPS), round(high * MBPS), 0.95, "trains")


def made_outcome(capacity: Estimated, available: Estimated) -> Outcome:
    report = PathReport(
        capacity_bps=capacity,
        available_bps=available,
        rtt_ns=Estimate(20_300_000, 20_050_000, 25_700_000, 0.9, "echo"),
        jitter_there_ns=Estimate(5 * MS, 0, 6 * MS, 0.9, "delay variation"),
        jitter_back_ns=Estimate(60 * US, 0, 90 * US, 0.9, "delay variation"),
        loss_ppm=Estimate(0, 0, 3_000, 0.95, "echo"),
        supports_priority=True,
        link="a queue with a rate",
    )
    return Outcome(report, 2_790_000_000, 650_000, None, checked_priority=True)


def made_truth(capacity_bps: int, available_bps: int) -> Truth:
    books = Carried(0, 2_700_000_000, 2_000, 1_000_000, 3_375_000, 0, 0, 0)
    return Truth(
        100_000_000,
        2_800_000_000,
        capacity_bps,
        available_bps,
        available_bps,
        narrow=0,
        tight=0,
        carried=(books,),
    )


def result(
    case: Case = HALF_USED,
    capacity: Estimated | None = None,
    available: Estimated | None = None,
    punctuality: Punctuality = CALM,
) -> Result:
    return Result(
        case,
        made_outcome(capacity or mbps(20, 19.8, 20.3), available or mbps(9.9, 8.4, 11.4)),
        made_truth(20 * MBPS, 10 * MBPS),
        punctuality,
    )


KEPT = Figures((result(), result(COALESCED), result(BUCKET, available=UNKNOWN)))
WRONG = Figures((result(), result(COALESCED, available=mbps(8, 7, 9))))
UNJUDGED = Figures((result(), result(COALESCED, available=mbps(8, 7, 9), punctuality=BUSY)))


# ---- The links


def test_the_links_are_of_unlike_kind() -> None:
    stages = [case.spec.forward.stages[0] for case in CASES]
    half, coalesced, bucket = stages
    assert len(half.cross) == 1
    assert half.cross[0].kind is CrossKind.POISSON
    assert 2 * half.cross[0].rate_bps == half.rate_bps == 20 * MBPS
    assert (coalesced.rate_bps, coalesced.coalesce_ns, coalesced.cross) == (
        100 * MBPS,
        250 * US,
        (),
    )
    assert bucket.bucket is not None
    assert (bucket.rate_bps, bucket.bucket.rate_bps) == (1000 * MBPS, 20 * MBPS)
    assert len({case.name for case in CASES}) == len(CASES)
    # The way back is the one that tells whether the machine was punctual: nothing else is there.
    for case in CASES:
        back = case.spec.backward.stages[0]
        assert (back.cross, back.coalesce_ns, back.jitter_ns) == ((), 0, 0)
    assert [case.line_ns // MS for case in CASES] == [20, 4, 10]


# ---- Verdicts


@pytest.mark.parametrize(
    ("answer", "standing"),
    [
        (mbps(9.9, 8.4, 11.4), Standing.HOLDS),
        (mbps(9.0, 8.0, 10.0), Standing.HOLDS),
        (mbps(11.0, 10.0, 12.0), Standing.HOLDS),
        (mbps(9.0, 8.0, 9.999999), Standing.WRONG),
        (mbps(11.0, 10.000001, 12.0), Standing.WRONG),
        (UNKNOWN, Standing.NOT_KNOWN),
    ],
)
def test_an_answer_holds_up_to_its_bounds(answer: Estimated, standing: Standing) -> None:
    capacity, available = result(available=answer).judged
    assert (capacity.name, capacity.standing) == ("capacity_bps", Standing.HOLDS)
    assert (available.name, available.standing) == ("available_bps", standing)
    assert available.truth_bps == 10 * MBPS


@pytest.mark.parametrize(
    ("changed", "is_late", "is_busy"),
    [
        ({}, False, False),
        ({"late_90_ns": 100_000, "late_99_ns": 1 * MS, "waiting_share": 0.01}, False, False),
        ({"late_90_ns": 131_072}, True, True),
        ({"late_99_ns": 1_048_576}, True, True),
        ({"waiting_share": 0.0101}, True, True),
        # Trains that are late are left out: who claims something without them is to be right.
        ({"held_up": 8}, False, False),
        ({"held_up": 9}, False, True),
        ({"held_up": 0, "paced": 0}, False, False),
    ],
)
def test_what_is_too_late_to_judge(changed: dict[str, Any], is_late: bool, is_busy: bool) -> None:
    punctuality = replace(CALM, **changed)
    assert (punctuality.is_link_late, punctuality.is_busy) == (is_late, is_busy)
    one = result(available=mbps(8, 7, 9), punctuality=punctuality)
    assert one.judged[1].standing is (Standing.UNJUDGED if is_late else Standing.WRONG)
    # What holds, holds all the same.
    assert one.judged[0].standing is Standing.HOLDS


def test_everything_together() -> None:
    assert (KEPT.is_wrong, KEPT.is_unjudged, KEPT.is_busy) == (False, False, False)
    assert (WRONG.is_wrong, WRONG.is_unjudged, WRONG.is_busy) == (True, False, False)
    assert (UNJUDGED.is_wrong, UNJUDGED.is_unjudged, UNJUDGED.is_busy) == (False, True, True)


def counters(*lateness: int) -> EmulatorCounters:
    late = WayCounters(sum(lateness), sum(lateness), 0, 0, 40 * MS, lateness)
    calm = replace(late, lateness=(100,))
    return EmulatorCounters(late, calm, 0, 1, is_realtime=True)


def gaps(back_ns: Sequence[int]) -> list[Sample]:
    """Small probes with a clock that is ahead, and waits on the way back."""
    found: list[Sample] = []
    for number, wait_ns in enumerate(back_ns):
        sent_ns = 10**18 + number * MS
        there_ns = sent_ns + 5_000 * MS + 10 * MS
        back_at_ns = sent_ns + 20 * MS + wait_ns
        found.append(Gap(number, 60, sent_ns, there_ns, there_ns, back_at_ns))
    return found


def paced(*spans_ns: int) -> list[Sample]:
    """Paced trains of eleven packets that took so long to leave."""
    return [
        Train(1500, MS, tuple(10**18 + span_ns * turn // 10 for turn in range(11)), (MS,) * 10)
        for span_ns in spans_ns
    ]


def test_punctuality_is_the_worse_of_both_ways() -> None:
    # 1024 ns x 2^n: 85 frames within 1 us, 13 within 32, 2 within 16 ms.
    late = counters(85, 0, 0, 0, 0, 13, *[0] * 8, 2)
    found = punctuality_of(replace(made_record(HALF_USED), counters=late, waiting_share=0.25))
    assert (found.late_90_ns, found.late_99_ns) == (1024 << 5, 1024 << 14)
    assert (found.waiting_share, found.paced, found.held_up) == (0.25, 0, 0)


def test_trains_that_were_held_up_are_counted() -> None:
    back_to_back = Train(1500, 0, (0, 1, 2), (MS, MS))
    samples = [*paced(10 * MS, 10 * MS + MS // 5, 12 * MS, 40 * MS), back_to_back, *gaps([0])]
    found = punctuality_of(made_record(HALF_USED, samples))
    # By the estimator's measure: later than due by more than a twentieth of their time.
    assert (found.paced, found.held_up) == (4, 2)


# ---- JSON


def test_json() -> None:
    told = json.loads(json.dumps(KEPT.to_json()))
    assert told["format"] == 1
    assert set(told["versions"]) == {"openqwave", "python", "kernel"}
    assert (told["kept"], told["is_busy"]) == (True, False)
    assert [link["name"] for link in told["links"]] == [case.name for case in CASES]
    first, _, last = told["links"]
    assert first["truth"]["window_ns"] == 2_700_000_000
    assert (first["truth"]["capacity_bps"], first["truth"]["available_bps"]) == (
        20 * MBPS,
        10 * MBPS,
    )
    assert first["truth"]["carried"][0]["cross_bytes"] == 3_375_000
    assert first["link"]["forward"]["stages"][0]["rate_bps"] == 20 * MBPS
    assert first["measured"]["available_bps"]["value"] == 9_900_000
    assert first["punctuality"] == {
        "late_90_ns": 32_768,
        "late_99_ns": 65_536,
        "waiting_share": 0.001,
        "paced": 17,
        "held_up": 0,
        "is_link_late": False,
    }
    assert first["verdicts"] == {"capacity_bps": "holds", "available_bps": "holds"}
    assert last["verdicts"] == {"capacity_bps": "holds", "available_bps": "not_known"}
    assert last["measured"]["available_bps"]["doubt"] == "burst_credit"


@pytest.mark.parametrize(
    ("figures", "verdict"), [(WRONG, "wrong"), (UNJUDGED, "unjudged")], ids=["wrong", "unjudged"]
)
def test_json_of_what_was_not_kept(figures: Figures, verdict: str) -> None:
    told = figures.to_json()
    assert told["kept"] is False
    assert told["links"][1]["verdicts"]["available_bps"] == verdict


# ---- Words


def printed(figures: Figures) -> str:
    output = io.StringIO()
    print_report(Console(file=output, width=80, highlight=False, markup=False), figures)
    return output.getvalue()


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_the_report_fits_80_columns() -> None:
    text = printed(KEPT)
    assert max(map(len, text.splitlines())) <= 80
    rows = [line.split() for line in text.splitlines()]
    assert ["capacity", "20.00", "Mbit/s", "19.80", "to", "20.30", "20.000", "ok"] in rows
    assert ["available", "9.9", "Mbit/s", "8.4", "to", "11.4", "10.00", "ok"] in rows
    assert ["available", "-", "-", "10", "not", "known"] in rows
    assert ["round", "trip", "20.3", "ms", "20.0", "to", "25.7", "4", "or", "more"] in rows
    assert ["cost", "650", "kB", "sent", "in", "2.8", "s"] in rows
    for case in CASES:
        assert case.title in text
        assert case.lesson in one_line(text)
    assert Doubt.BURST_CREDIT.value in one_line(text)
    assert (
        "5 of 6 numbers are known, and each holds the truth in its bounds. What cannot be known "
        "is not claimed." in one_line(text)
    )
    assert "qwave sink" in text
    assert "qwave probe HOST" in text


def test_a_report_without_a_round_trip() -> None:
    one = result()
    report = replace(one.outcome.report, rtt_ns=Inconclusive(Doubt.TOO_FEW))
    text = printed(Figures((replace(one, outcome=replace(one.outcome, report=report)),)))
    assert "round trip" not in text
    assert "2 of 2 numbers are known, and each holds the truth in its bounds." in one_line(text)
    assert "cannot be known" not in text


def test_what_is_wrong_is_marked() -> None:
    text = printed(WRONG)
    rows = [line.split() for line in text.splitlines()]
    assert ["available", "8.0", "Mbit/s", "7.0", "to", "9.0", "10.00", "WRONG"] in rows
    assert "An answer is wrong" in one_line(text)
    assert "busy" not in text


def test_a_busy_machine_is_not_blamed_on_the_estimator() -> None:
    text = printed(UNJUDGED)
    assert "WRONG" not in text
    assert "not judged" in text
    assert "An answer could not be judged, because this machine was too busy." in one_line(text)


def test_a_busy_machine_is_told_where_all_holds() -> None:
    late = replace(CALM, waiting_share=0.25, late_90_ns=131_072)
    text = one_line(printed(Figures((result(punctuality=late),))))
    assert "each holds the truth" in text
    assert (
        "a link handed one packet in ten over 0.1 ms late, a link had no processor for 25 % of "
        "the time." in text
    )
    late = replace(CALM, held_up=9)
    text = one_line(printed(Figures((result(punctuality=late),))))
    assert "9 of 17 trains could not be sent in time." in text


# ---- Exit statuses


@pytest.mark.parametrize(
    ("figures", "status", "errors"),
    [
        (KEPT, 0, ""),
        (WRONG, 1, ""),
        (Figures((*WRONG.results, *UNJUDGED.results)), 1, ""),
        (
            UNJUDGED,
            2,
            "This machine was too busy for a fair trial: a link handed one packet in a hundred "
            "over 8.4 ms late, 9 of 17 trains could not be sent in time.\n",
        ),
    ],
    ids=["kept", "wrong", "wrong and unjudged", "unjudged"],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_exit_statuses(
    figures: Figures, status: int, errors: str, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Options(as_json=as_json)
    console = Console(highlight=False, markup=False, width=80, stderr=as_json)
    assert finish(options, console, [], figures, None) == status
    output = capsys.readouterr()
    assert output.err == errors
    if as_json:
        told = json.loads(output.out)
        assert (told["kept"], told["chart"]) == (status == 0, None)
    else:
        assert "Next, a path of your own:" in output.out


def test_an_interruption_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: Path | None) -> int:
        raise Interrupted(15)

    assert on_stage(None, interrupted) == 143
    assert capsys.readouterr().err == "Interrupted; everything is taken down.\n"


# ---- Progress


def made_record(case: Case, samples: Sequence[Sample] = ()) -> Record:
    outcome = made_outcome(mbps(20, 19.8, 20.3), mbps(9.9, 8.4, 11.4))
    return Record(
        case, outcome, tuple(samples), made_truth(20 * MBPS, 10 * MBPS), counters(100), 0.0
    )


def test_a_line_a_second() -> None:
    output = io.StringIO()
    said = "  1 s  connecting, 12 kB sent"
    view = LineView(Console(file=output, width=20))
    with view:
        view.show(Moment(HALF_USED, 0.0, ""), [])
        view.show(Moment(HALF_USED, 1.0, said), [])
        view.show(Moment(HALF_USED, 1.3, said), [])
        view.show(Moment(HALF_USED, 3.5, said, is_over=True), [made_record(HALF_USED)])
        view.show(Moment(COALESCED, 0.0, ""), [made_record(HALF_USED)])
        view.show(Moment(COALESCED, 1.0, said), [])
    assert output.getvalue().splitlines() == [
        f"{HALF_USED.title}:",
        said,
        "       20.00 Mbit/s, 9.9 of it free",
        f"{COALESCED.title}:",
        said,
    ]


def test_a_live_view_shows_all_links() -> None:
    output = io.StringIO()
    console = Console(file=output, width=100, height=30, force_terminal=True, color_system=None)
    unknown = replace(made_record(HALF_USED), outcome=made_outcome(UNKNOWN, UNKNOWN))
    with LiveView(console) as view:
        view.show(Moment(HALF_USED, 0.2, ""), [])
        before = output.getvalue()
        assert "starting" in before
        assert all(case.title in before for case in CASES)
        assert "of it free" not in before
        view.show(Moment(COALESCED, 99.0, "  1 s  lengthening trains"), [made_record(HALF_USED)])
        after = output.getvalue().removeprefix(before)
        assert "20.00 Mbit/s, 9.9 of it free" in after
        assert "1 s  lengthening trains" in after
        view.show(Moment(COALESCED, 1.0, ""), [unknown])
        assert "? Mbit/s, ? of it free" in output.getvalue()


def test_a_silent_view_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with SilentView() as view:
        view.show(Moment(HALF_USED, 1.0, "something"), [])
    assert capsys.readouterr() == ("", "")


# ---- The chart


def made_samples() -> list[Sample]:
    source = random.Random(7)
    waits = [source.choice((3 * US, 600 * US)) + round(source.random() * 5_000) for _ in range(300)]
    trains: list[Sample] = [
        Train(1496, 0, tuple(range(10**18, 10**18 + length)), (598_400,) * (length - 1))
        for length in (2, 13, 13)
    ]
    lost: list[Sample] = [Train(1496, 0, tuple(range(10**18, 10**18 + 40)))]
    return [*gaps(waits), *trains, *lost, *paced(10 * MS)]


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_chart_is_drawn(tmp_path: Path, suffix: str) -> None:
    records = [made_record(case, made_samples()) for case in CASES]
    records[1] = replace(records[1], outcome=made_outcome(UNKNOWN, UNKNOWN))
    # Nothing but small probes came back: there is still a panel.
    records[2] = replace(records[2], samples=tuple(gaps([0] * 20)))
    path = tmp_path / f"chart.{suffix}"
    draw(records, figures_of(records), path)
    data = path.read_bytes()
    if suffix == "png":
        assert data.startswith(b"\x89PNG")
        assert 50_000 < len(data) < 1_000_000
    else:
        assert data.count(b"not known") == 2
        assert b"diamond" in data


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)
def test_a_chart_that_cannot_be_written_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [made_record(HALF_USED, made_samples())]
    missing = tmp_path / "missing" / "chart.png"
    console = Console(stderr=True)
    assert finish(Options(as_json=True), console, records, Figures((result(),)), missing) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["chart"] is None
    assert output.err == (f"{missing}: the chart could not be written: No such file or directory\n")


# ---- The command line


def test_help() -> None:
    done = qwave("demo", "probe", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("--chart", "--json", "--no-live", "Exit status", "qwave demo probe"):
        assert word in done.stdout
    # And of the demo that it belongs to.
    assert "probe" in qwave("demo", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "nonsense"], "nonsense"),
        (["demo", "--json", "probe"], "Options go after"),
        (["demo", "--seconds", "3", "probe"], "Options go after"),
        (["demo", "probe", "--seconds", "3"], "--seconds"),
        (["demo", "probe", "--chart", "chart.jpeg"], ".png or .svg"),
        (["demo", "probe", "--chart", "/proc/chart.png"], "cannot be written"),
    ],
)
def test_wrong_options_are_told(arguments: list[str], words: str) -> None:
    done = qwave(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr

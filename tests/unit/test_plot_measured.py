"""What is in the picture of a measurement, by samples whose truth is known; and what it says."""

from __future__ import annotations

import html
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from openqwave.cli.plot.history import MOST_RESULTS, History, history_of, thinned
from openqwave.cli.plot.measured import COLUMNS, MOST_DOTS, Dots, columns, series
from openqwave.cli.plot.measured_chart import draw
from openqwave.cli.probe.outcome import Destination, Outcome
from openqwave.estimate.path import report
from openqwave.estimate.samples import Gap, Sample, Train
from openqwave.estimate.watch import PathWatch
from openqwave.model.estimates import Doubt, Estimate, Inconclusive, PathReport
from tests.traces import trace
from tests.unit import made_samples as made
from tests.unit.made_samples import MBIT, MS, OFFSET_NS, US, S

RATE_BPS = 20 * MBIT

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)


def history(samples: Sequence[Sample], found: PathReport | None = None) -> History:
    """Of a measurement that ended with these samples."""
    told = History()
    for sample in samples:
        told.add(sample)
    told.conclude(found or report(samples))
    return told


def train(packets: int, at_ns: float = 0, rate_bps: float = RATE_BPS, **more: int) -> Train:
    """A train that came through an empty link of a rate."""
    spacing_ns = made.packet_ns(rate_bps)
    return made.train([spacing_ns] * (packets - 1), at_ns=round(at_ns), **more)


# ---- delays


@pytest.mark.parametrize("drift_ppm", [0, 80, -500])
def test_delays_are_what_probes_waited(drift_ppm: int) -> None:
    random = Random(4)
    times_ns = [number * 10 * MS for number in range(300)]
    there = [random.choice([0, 300 * US, 3 * MS]) for _ in times_ns]
    back = [random.choice([0, 50 * US]) for _ in times_ns]
    gaps = [
        made.gap(number, at_ns, *waits, offset_ns=OFFSET_NS + at_ns * drift_ppm / 1e6)
        for number, (at_ns, *waits) in enumerate(zip(times_ns, there, back, strict=True))
    ]
    found = series(history(gaps))
    assert found.there.times_s == pytest.approx([at_ns / S for at_ns in times_ns])
    # The clocks' drift is found to some microseconds.
    assert found.there.values == pytest.approx([wait / MS for wait in there], abs=0.02)
    assert found.back.values == pytest.approx([wait / MS for wait in back], abs=0.02)
    assert found.behind == Dots()
    assert found.span_s == pytest.approx(2.99, abs=0.02)


def test_probes_behind_trains_of_the_measurement_are_told_apart() -> None:
    # 20 packets of 0.6 ms each are on their way for 12 ms, and under load for twice as long.
    trains = [train(20, at_ns=at_ns) for at_ns in (0, 500 * MS, 505 * MS, 2 * S)]
    times_ms = [5, 20, 40, 300, 499, 501, 530, 560, 1500, 2010, 2100]
    gaps = [made.gap(number, at * MS) for number, at in enumerate(times_ms)]
    found = series(history([*trains, *gaps], known_capacity(RATE_BPS)))
    assert [round(1000 * at) for at in found.behind.times_s] == [5, 20, 501, 530, 2010]
    assert [round(1000 * at) for at in found.there.times_s] == [40, 300, 499, 560, 1500, 2100]
    assert len(found.back.values) == len(times_ms)


def known_capacity(bps: int) -> PathReport:
    unknown = Inconclusive(Doubt.NO_SAMPLES)
    capacity = Estimate(bps, round(0.98 * bps), round(1.02 * bps), 0.95, "trains")
    return PathReport(capacity, *(unknown,) * 5, supports_priority=None, link="a queue with a rate")


def test_what_is_lost_is_counted_and_has_its_time() -> None:
    gaps = [
        made.lost_gap(number, number * 10 * MS)
        if number % 7 == 0
        else made.gap(number, number * 10 * MS)
        for number in range(50)
    ]
    found = series(history(gaps))
    assert found.lost_s == pytest.approx([0.07 * number for number in range(8)])
    assert found.probe_count == 50
    assert len(found.there.values) == 42


def test_clocks_are_straight_for_a_minute_only() -> None:
    # Quartz that warms up: 20 ppm more each minute. Of all at once, a line would be off by ms.
    gaps = [
        made.gap(
            number,
            at_ns := number * S / 5,
            offset_ns=OFFSET_NS + 20e-6 * (at_ns / S / 60) ** 2 * 60 * S,
        )
        for number in range(5 * 60 * 5)
    ]
    told = History()
    for gap in gaps[:5]:
        told.add(gap)
    told.conclude(report(gaps[:5]))
    for gap in gaps[5:]:
        told.add(gap)
    told.conclude(report(gaps))
    found = series(told)
    assert len(found.there.values) == len(gaps)
    assert max(found.there.values) < 0.5


# ---- rates


def test_rates_are_what_trains_arrived_at() -> None:
    samples: list[Sample] = [
        train(2, 0),
        train(10, 100 * MS),
        train(10, 200 * MS, rate_bps=10 * MBIT, gap_ns=600 * US),
        made.lost_train(10, at_ns=300 * MS),
        # All of it arrived at once.
        made.train([1 * US] * 9, at_ns=400 * MS),
        made.gap(1, 500 * MS),
    ]
    found = series(history(samples)).rates
    for dots, time_s, rate in (
        (found.pairs, 0.0, 20.0),
        (found.trains, 0.1, 20.0),
        (found.paced, 0.2, 10.0),
    ):
        assert dots.times_s == [time_s]
        assert dots.values == pytest.approx([rate])
    assert (found.lost_s, found.clumped_s) == ([0.3], [0.4])
    assert found.heads == Dots()


def test_a_burst_is_told_from_what_the_link_sustains() -> None:
    # A bucket: ten packets at 200 Mbit/s, then 20.
    deltas = [made.packet_ns(200 * MBIT)] * 10 + [made.packet_ns(RATE_BPS)] * 30
    trains = [made.train(deltas, at_ns=at_ns) for at_ns in range(0, 5 * S, S)]
    told = series(history(trains))
    assert told.report.link == "a token bucket"
    assert told.rates.heads.values == pytest.approx([200.0] * 5, rel=0.02)
    assert told.rates.trains.values == pytest.approx([20.0] * 5, rel=0.02)
    # On another link such a train is a train.
    other = series(history(trains, known_capacity(RATE_BPS))).rates
    assert other.heads == Dots()
    assert len(other.trains.values) == 5


# ---- results


def test_each_point_is_what_would_have_been_said_then() -> None:
    samples = made.measured(RATE_BPS, 0.4)
    found = series(history(samples))
    times = [belief.known_s for belief in found.beliefs]
    assert times == sorted(times)
    assert 10 < len(times) < 40
    first, last = found.beliefs[0], found.beliefs[-1]
    # At first it is not known what is free, at the end what is reported.
    assert first.available is None
    assert last.capacity == found.report.capacity_bps
    assert last.available == found.report.available_bps
    assert last.capacity is not None
    assert last.capacity.low <= RATE_BPS <= last.capacity.high
    start_ns = min(one.sent_ns if isinstance(one, Gap) else one.sent_ns[0] for one in samples)
    middle = found.beliefs[len(times) // 2]
    until = [
        sample
        for sample in samples
        if (
            sample.received_ns
            if isinstance(sample, Gap)
            else sample.sent_ns[-1] + sum(sample.deltas_ns)
        )
        <= start_ns + middle.known_s * S
    ]
    # Trains and probes of the same moment may stand either way in a row of so few.
    told = report(until).available_bps
    assert isinstance(told, Estimate)
    assert middle.available is not None
    assert middle.available.value == pytest.approx(told.value, rel=0.05)
    # Bounds grow narrower.
    widths = [one.available.high - one.available.low for one in found.beliefs if one.available]
    assert widths[-1] < widths[0]


def watched_samples() -> tuple[list[Sample], list[int]]:
    """A measurement, ten seconds of a watch, and after how many samples something was said."""
    random = Random(5)
    samples = made.measured(RATE_BPS, 0.4, seed=3)
    counts = [len(samples)]
    for second in range(3, 13):
        for number in range(60):
            samples.append(made.gap(0, second * S + number * 16 * MS, random.expovariate(1 / 9e4)))
        samples.append(train(8, second * S + 990 * MS))
        counts.append(len(samples))
    # What comes after the last result.
    samples += [made.gap(0, 13 * S + number * MS) for number in range(9)]
    return samples, counts


def test_a_recording_makes_the_same_as_the_watch_did() -> None:
    samples, counts = watched_samples()
    live = History()
    path = PathWatch(samples[: counts[0]], True)
    for number, sample in enumerate(samples, 1):
        live.add(sample)
        if number > counts[0]:
            path.observe(sample)
        if number == counts[0]:
            live.conclude(report(samples[:number], True))
        elif number in counts:
            live.conclude(path.report())
    replayed = history_of(samples, counts, True)
    assert replayed.last_report() == live.last_report()
    found = series(replayed)
    assert found == series(live)
    assert len(found.there.values) + len(found.behind.values) == sum(
        isinstance(sample, Gap) for sample in samples[: counts[-1]]
    )
    assert found.watched_from_s == pytest.approx(2.7, abs=0.1)
    assert [round(one.known_s) for one in found.beliefs[-10:]] == list(range(4, 14))
    assert found.report.available_bps == found.beliefs[-1].available


def test_of_very_many_results_some_are_left_and_the_last_is_among_them() -> None:
    assert thinned([]) == []
    assert thinned([7]) == [7]
    numbers = list(range(10 * MOST_RESULTS + 3))
    left = thinned(numbers)
    assert MOST_RESULTS // 2 < len(left) <= MOST_RESULTS
    assert left[-1] == numbers[-1]
    assert thinned(left) == left
    assert len({other - one for one, other in pairwise(left)}) == 1


def test_nothing_was_concluded() -> None:
    with pytest.raises(ValueError, match="nothing was concluded"):
        series(History())


# ---- very many dots


def test_few_dots_are_drawn_each() -> None:
    dots = Dots([0.0] * MOST_DOTS, [1.0] * MOST_DOTS)
    assert columns(dots, 1.0) is None
    dots.add(0.0, 1.0)
    assert columns(dots, 0.0) is None


def test_very_many_dots_are_columns() -> None:
    random = Random(2)
    dots = Dots()
    for number in range(100 * COLUMNS):
        # Uniform from 0 to 1 in the first half, from 10 to 11 in the second; some far off.
        value = random.random() + (10 if number >= 50 * COLUMNS else 0)
        dots.add(number / 100, 1000.0 if number % 50 == 0 else value)
    found = columns(dots, COLUMNS)
    assert found is not None
    assert found.times_s == pytest.approx([number + 0.5 for number in range(COLUMNS)])
    halves = COLUMNS // 2
    for values, wanted in ((found.low, 0.05), (found.middle, 0.5), (found.high, 0.95)):
        assert sum(values[:halves]) / halves == pytest.approx(wanted, abs=0.05)
        assert sum(values[halves:]) / halves == pytest.approx(10 + wanted, abs=0.05)


# ---- what is said in the picture


def outcome(found: PathReport, host: str = "sink.example") -> Outcome:
    return Outcome(found, 2_800_000_000, 867_000, Destination(host, "192.0.2.1", 4), True)


def words_of(path: Path) -> str:
    """All text of an SVG, line ends apart."""
    text = path.read_text(encoding="utf-8")
    return " ".join(map(html.unescape, re.findall(r"<text[^>]*>([^<]*)</text>", text)))


def drawn(told: History, path: Path, host: str = "sink.example") -> str:
    draw(told, outcome(told.last_report(), host), path)
    return words_of(path)


@needs_matplotlib
def test_the_picture_says_what_it_shows(tmp_path: Path) -> None:
    samples = [*made.measured(RATE_BPS, 0.4), made.lost_gap(9999, 2.71 * S)]
    words = drawn(history(samples), tmp_path / "picture.svg")
    for wanted in (
        "Path to sink.example (192.0.2.1), IPv4 capacity ",
        "Small probes: what each waited beyond the fastest",
        "to the sink, behind a train of this measurement",
        "from the sink",
        "lost (1 of ",
        "one-way delay, ms",
        "Packets sent together: the rate at which they arrived",
        "pair, sent at once",
        "train, spaced as the capacity is",
        "Results as they became known",
        "Mbit/s",
        "95 %",
        "time since the first packet, s",
        "867 kB sent in 2.8 s",
    ):
        assert wanted in words
    assert "not known" not in words


@needs_matplotlib
def test_why_something_is_not_known_is_said(tmp_path: Path) -> None:
    bucket = trace.read(trace.FOLDER / "real-bucket.jsonl.gz")
    words = drawn(history(bucket.samples), tmp_path / "bucket.svg")
    assert "available not known: bursts pass faster than the link can sustain" in words
    assert "burst at the head of a train" in words
    jitter = trace.read(trace.FOLDER / "jitter.jsonl.gz")
    words = drawn(history(jitter.samples), tmp_path / "jitter.svg")
    assert "capacity not known; available not known" in words
    assert "capacity not known: the samples contradict each other (packets arrive in " in words
    assert "nothing is known" in words


@needs_matplotlib
@pytest.mark.parametrize(
    "samples",
    [
        (),
        (made.lost_gap(1, 0), made.lost_train(2, at_ns=MS)),
        tuple(made.gap(number, number * MS) for number in range(3)),
        (train(2, 0), train(2, MS)),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_of_next_to_nothing_there_is_a_picture(
    samples: tuple[Sample, ...], suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"picture.{suffix}"
    told = history(samples)
    draw(told, outcome(told.last_report()), path)
    assert path.stat().st_size > 10_000
    if suffix == "svg":
        assert "nothing is known" in words_of(path)


@needs_matplotlib
def test_a_watch_says_where_it_begins(tmp_path: Path) -> None:
    samples, counts = watched_samples()
    told = history_of(samples, counts, True)
    words = drawn(told, tmp_path / "one.svg", host=f"{'long.' * 40}example")
    assert "the watch begins" in words
    assert "long.example" in words.replace("- ", "").replace(" ", "")
    # And the same makes the same.
    drawn(history_of(samples, counts, True), tmp_path / "other.svg", f"{'long.' * 40}example")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()


@needs_matplotlib
def test_hours_of_dots_are_areas(tmp_path: Path) -> None:
    told = history(made.measured(RATE_BPS, 0.2))
    for second in range(3, 600):
        for number in range(15):
            told.add(made.gap(0, second * S + number * 60 * MS, 40 * US * (number % 4)))
        told.conclude(told.last_report())
    words = drawn(told, tmp_path / "long.svg")
    assert "to the sink: median, and nine in ten" in words
    assert "time since the first packet, min" in words
    assert (tmp_path / "long.svg").stat().st_size < 1_500_000


@needs_matplotlib
def test_a_value_outside_of_its_bounds_is_drawn(tmp_path: Path) -> None:
    # As of a recording that somebody has changed.
    odd = replace(known_capacity(RATE_BPS), capacity_bps=Estimate(30 * MBIT, 1, 2, 0.95, "trains"))
    words = drawn(history([train(2), made.gap(1, MS)], odd), tmp_path / "odd.svg")
    assert "capacity 30" in words


def test_a_report_that_changes_its_mind_is_the_last() -> None:
    told = history(made.measured(RATE_BPS))
    other = replace(told.last_report(), link="shared by turns")
    told.add(made.gap(1, 5 * S))
    told.conclude(other)
    assert series(told).report == other

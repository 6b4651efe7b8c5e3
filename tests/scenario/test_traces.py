"""Recorded samples with a known truth: what the estimators say of them, and whether it moved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from openqwave.cli.probe import recording
from openqwave.estimate.samples import Gap, Train
from openqwave.model.estimates import Inconclusive
from tests.traces import answers, record
from tests.traces.trace import LARGEST_PLAIN_BYTES, Trace, paths, read, text_of

PATHS = {path.name.split(".")[0]: path for path in paths()}
LARGEST_BYTES = 110_000

each_trace = pytest.mark.parametrize("name", PATHS)


def trace_of(name: str) -> Trace:
    return read(PATHS[name])


# -- what is said of them -------------------------------------------------------------


@each_trace
def test_the_truth_is_within_the_bounds(name: str) -> None:
    trace = trace_of(name)
    found = trace.report()
    assert trace.truth
    for field, truth in trace.truth.items():
        one = getattr(found, field)
        if isinstance(one, Inconclusive):
            continue
        # Bounds are right nineteen times in twenty; of one trace a half more is demanded.
        low, high = 1.5 * one.low - 0.5 * one.value, 1.5 * one.high - 0.5 * one.value
        assert low <= truth <= high, f"{field}: {one}, and the truth is {truth}"


def test_nine_in_ten_bounds_hold_the_truth() -> None:
    held = [
        one.low <= truth <= one.high
        for trace in map(trace_of, PATHS)
        for found in [trace.report()]
        for field, truth in trace.truth.items()
        if not isinstance(one := getattr(found, field), Inconclusive)
    ]
    assert len(held) > len(PATHS)
    assert sum(held) >= 0.9 * len(held)


def test_nothing_moved_unseen() -> None:
    traces = {name: trace_of(name) for name in PATHS}
    now = {name: answers.answers_of(trace.report()) for name, trace in traces.items()}
    table = answers.table(answers.load(), now, traces)
    assert not table, (
        f"the estimators say something else of recorded traces:\n\n{table}\n\n"
        f"If that is better, accept it: {answers.HOW_TO_ACCEPT}"
    )


# -- the files ------------------------------------------------------------------------


def test_there_are_traces_of_all_kinds() -> None:
    assert len(PATHS) >= 12
    assert {name for name, _, _ in record.SIMULATED} <= set(PATHS)


@each_trace
def test_a_trace_is_whole_and_small(name: str) -> None:
    trace = trace_of(name)
    assert trace.description
    assert any(isinstance(one, Train) for one in trace.samples)
    assert any(isinstance(one, Gap) for one in trace.samples)
    assert PATHS[name].stat().st_size <= LARGEST_BYTES
    assert text_of(PATHS[name]) == trace.lines()


@each_trace
def test_a_trace_is_a_recording_that_probe_replays(name: str, tmp_path: Path) -> None:
    trace = trace_of(name)
    unpacked = tmp_path / "trace"
    unpacked.write_text(text_of(PATHS[name]), encoding="ascii")
    found = recording.read(unpacked)
    assert found.samples == trace.samples
    assert found.wish == trace.wish
    assert found.outcome().report == trace.report()


def test_a_recording_becomes_a_trace(tmp_path: Path) -> None:
    known = trace_of("idle-quick")
    source = tmp_path / "recording"
    source.write_text(known.lines(), encoding="ascii")
    made = record.recorded(source, "mine", "a cable", {"capacity_bps": 20_000_000})
    assert made.samples == known.samples
    again = read(made.write(tmp_path))
    assert again == made
    assert again.truth == {"capacity_bps": 20_000_000}


def test_large_traces_are_packed_and_always_the_same(tmp_path: Path) -> None:
    large, small = trace_of("poisson-half"), trace_of("idle-quick")
    assert len(large.lines()) > LARGEST_PLAIN_BYTES >= len(small.lines())
    first = large.write(tmp_path)
    data = first.read_bytes()
    assert first.name == "poisson-half.jsonl.gz"
    assert large.write(tmp_path).read_bytes() == data
    assert read(first) == large
    assert small.write(tmp_path).name == "idle-quick.jsonl"
    # What has become small is not there twice.
    assert replace(large, samples=large.samples[:9]).write(tmp_path).name == "poisson-half.jsonl"
    assert not first.exists()


# -- the comparison -------------------------------------------------------------------


def test_a_table_shows_what_moved() -> None:
    trace = trace_of("idle-quick")
    was = {"idle-quick": answers.answers_of(trace.report())}
    now = {"idle-quick": was["idle-quick"] | {"available_bps": "UNSTEADY", "boost_bps": 7_000_000}}
    assert answers.table(was, was, {}) == ""
    table = answers.table(was, now, {"idle-quick": trace})
    assert table.splitlines()[0].split() == ["trace", "number", "truth", "was", "is"]
    assert answers.moved(was, now) == [("idle-quick", "available_bps"), ("idle-quick", "boost_bps")]
    assert "20,000,000" in table
    assert "UNSTEADY" in table
    # A trace that has come, or gone.
    assert len(answers.moved({}, was)) == len(was["idle-quick"])
    assert len(answers.moved(was, {})) == len(was["idle-quick"])


@pytest.mark.parametrize("change", [-3, 3])
def test_a_small_move_is_a_move_and_the_last_digit_is_none(change: int) -> None:
    was = {"one": {"capacity_bps": [20_000_000, 19_000_000, 21_000_000], "link": "a queue"}}
    assert answers.moved(was, {"one": was["one"] | {"link": "a bucket"}})
    for place in range(3):
        numbers = [20_000_000, 19_000_000, 21_000_000]
        numbers[place] += change
        assert not answers.moved(was, {"one": was["one"] | {"capacity_bps": numbers}})
        numbers[place] += 100 * change
        assert answers.moved(was, {"one": was["one"] | {"capacity_bps": numbers}})


def test_answers_survive_their_file(tmp_path: Path) -> None:
    accepted = answers.load()
    copy = tmp_path / "answers.json"
    answers.store(accepted, copy)
    assert answers.load(copy) == accepted
    assert copy.read_text(encoding="ascii") == answers.FILE.read_text(encoding="ascii")

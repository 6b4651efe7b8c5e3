"""`qwave probe --plot` without a network: when there is a picture, of what, and what is told."""

from __future__ import annotations

import html
import importlib.util
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from openqwave.cli.plot import measured_chart, target
from openqwave.cli.probe import recording
from openqwave.cli.probe.command import Options, run_probe, run_replay
from openqwave.estimate.path import report
from openqwave.estimate.samples import Sample, Train
from openqwave.estimate.watch import PathWatch
from openqwave.model.errors import GeneralFailure
from openqwave.probing.measurement import Measured, Sampled
from openqwave.probing.outcomes import Failed, Failure
from openqwave.probing.session import Event
from tests.unit import made_samples as made
from tests.unit.commands import qwave
from tests.unit.made_samples import MS, S
from tests.unit.scripted_probe import (
    KNOWN,
    MEASURED,
    SAMPLES,
    Script,
    Scripted,
    Step,
    ctrl_c,
    progressed,
    scripted_by,
    watched,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)

Output = pytest.CaptureFixture[str]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return scripted_by(monkeypatch)


@pytest.fixture
def plot(tmp_path: Path) -> Path:
    return tmp_path / "picture.svg"


def here(plot: Path) -> Options:
    return Options("127.0.0.1", plot=plot)


def words_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return " ".join(map(html.unescape, re.findall(r"<text[^>]*>([^<]*)</text>", text)))


def files_beside(path: Path) -> list[str]:
    return sorted(one.name for one in path.parent.iterdir())


# ---- one measurement


def test_a_measurement_is_drawn(scripted: Scripted, capsys: Output, plot: Path) -> None:
    scripted(*map(Sampled, SAMPLES), MEASURED)
    assert run_probe(here(plot)) == 0
    output = capsys.readouterr()
    # What is drawn changes nothing of what is said.
    assert output.out.startswith("path to 127.0.0.1, IPv4\ncapacity         98.7 Mbit/s")
    assert output.err == f"Picture: {plot}\n"
    words = words_of(plot)
    assert "Path to 127.0.0.1, IPv4" in words
    assert "capacity 98.7 Mbit/s (97.9 to 99.6); available 44.1 Mbit/s (41.3 to 46.7)" in words
    assert files_beside(plot) == ["picture.svg"]


def test_beside_json_and_a_quick_one(scripted: Scripted, capsys: Output, plot: Path) -> None:
    png = plot.with_suffix(".png")
    scripted(*map(Sampled, SAMPLES), MEASURED)
    assert run_probe(replace(here(png), as_json=True, is_quick=True)) == 0
    assert json.loads(capsys.readouterr().out)["is_conclusive"] is True
    assert png.read_bytes().startswith(b"\x89PNG")


def test_why_it_is_inconclusive_is_in_the_picture(scripted: Scripted, plot: Path) -> None:
    scripted(*map(Sampled, SAMPLES), Measured(report(SAMPLES), S, 1000))
    assert run_probe(here(plot)) == 3
    assert "capacity not known: too few samples arrived" in words_of(plot)


@pytest.mark.parametrize("event", [ctrl_c, Failed(1, Failure.NO_SINK)])
def test_without_a_result_there_is_no_picture(event: Event, scripted: Scripted, plot: Path) -> None:
    plot.write_text("old", encoding="ascii")
    scripted(*map(Sampled, SAMPLES), progressed(S), event)
    assert run_probe(here(plot)) in (130, 4)
    assert plot.read_text(encoding="ascii") == "old"
    assert files_beside(plot) == ["picture.svg"]


# ---- what can be wrong


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("picture.pdf", "a picture's name ends in .png or .svg"),
        ("missing/picture.png", "cannot be written: No such file or directory"),
    ],
)
def test_it_is_told_before_anything_is_sent(
    name: str, words: str, scripted: Scripted, capsys: Output, tmp_path: Path
) -> None:
    script = scripted(MEASURED)
    samples = tmp_path / "samples"
    assert run_probe(replace(here(tmp_path / name), samples=samples)) == 2
    assert capsys.readouterr().err == f"{tmp_path / name}: {words}\n"
    assert script.peer is None
    assert not samples.exists()


def test_without_the_library_nothing_is_sent(
    scripted: Scripted, capsys: Output, plot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "can_draw", lambda: False)
    script = scripted(MEASURED)
    assert run_probe(here(plot)) == 2
    assert "pip install 'openqwave[plot]'" in capsys.readouterr().err
    assert script.peer is None
    assert files_beside(plot) == []


def test_a_disk_that_is_full_in_the_meantime(
    scripted: Scripted, capsys: Output, plot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(measured_chart, "draw", full)
    scripted(*map(Sampled, SAMPLES), MEASURED)
    assert run_probe(here(plot)) == 2
    output = capsys.readouterr()
    assert output.out.startswith("path to 127.0.0.1")
    assert output.err == f"{plot}: the picture could not be written: No space left on device\n"


# ---- a watch


def story() -> tuple[list[Sample], list[Event]]:
    """A measurement and three seconds of a watch: its samples, and what the driver tells."""
    samples = made.measured(20_000_000, 0.3)
    path = PathWatch(samples, True)
    events: list[Event] = [*map(Sampled, samples), Measured(report(samples, True), 2 * S, 77)]
    for second in range(3, 6):
        for number in range(60):
            sample: Sample = made.gap(0, second * S + number * 15 * MS, 3000 * (number % 5))
            events.append(Sampled(sample))
            samples.append(sample)
            path.observe(sample)
        events.append(watched(second - 2, path.report()))
    # After the last result; it belongs to the next.
    events.append(Sampled(made.gap(0, 6 * S)))
    samples.append(made.gap(0, 6 * S))
    return samples, events


@pytest.mark.parametrize(
    ("end", "wanted", "words"),
    [
        ((ctrl_c,), 0, ""),
        ((), 0, ""),
        # What went wrong is told last, after what there is.
        ((Failed(1, Failure.CLOSED),), 4, "127.0.0.1 closed the connection"),
        ((GeneralFailure("the experiment broke"),), 2, "127.0.0.1: the experiment broke"),
    ],
)
def test_a_watch_is_drawn_however_it_ends(
    end: Sequence[Step], wanted: int, words: str, scripted: Scripted, capsys: Output, plot: Path
) -> None:
    _, events = story()
    scripted(*events, *end, watched(99), watched(100))
    options = replace(here(plot), watches=True, watch_s=50.0)
    assert run_probe(options) == wanted
    output = capsys.readouterr()
    assert output.err.startswith(f"Picture: {plot}\n{words}")
    drawn = words_of(plot)
    assert "the watch begins" in drawn
    # The last line that was printed and the title say the same.
    last = output.out.splitlines()[-1].split()
    assert f"available {last[last.index('available') + 1]} Mbit/s (" in drawn


def test_a_recording_makes_the_same_picture(
    scripted: Scripted, capsys: Output, tmp_path: Path
) -> None:
    samples, events = story()
    record = tmp_path / "samples.jsonl"
    live, one, other = (tmp_path / f"{name}.svg" for name in ("live", "one", "other"))
    scripted(*events, ctrl_c)
    options = replace(here(live), watches=True, samples=record, as_json=True)
    assert run_probe(options) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = recording.read(record)
    assert found.samples == tuple(samples)
    assert found.results == tuple(len(samples) - 1 - 60 * number for number in (3, 2, 1, 0))
    for path in (one, other):
        assert run_replay(record, as_json=True, plot=path) == 0
        again = json.loads(capsys.readouterr().out)
        # The last result of the watch, to the digit.
        assert again == told[-1] | {"host": None, "address": None, "ip_version": None}
    assert one.read_bytes() == other.read_bytes()
    # Whom it went to is not in a recording; all else is the same.
    replayed, measured = words_of(one), words_of(live)
    assert "A recorded path" in replayed
    assert replayed == measured.replace("Path to 127.0.0.1, IPv4", "A recorded path")
    # Without a picture the result is the same, too.
    assert run_replay(record, as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == again


def test_a_sink_that_leaves_a_watch_leaves_a_whole_recording(
    scripted: Scripted, tmp_path: Path
) -> None:
    _, events = story()
    record = tmp_path / "samples.jsonl"
    scripted(*events, Failed(1, Failure.CLOSED))
    assert run_probe(Options("127.0.0.1", watches=True, samples=record)) == 4
    found = recording.read(record)
    assert len(found.results) == 4
    assert found.elapsed_ns == 5 * S


# ---- recordings of before


FIRST = '{"kind":"measurement","format":1,"openqwave":"1","wish":{"version":4}}\n'
GAP = '{"kind":"gap","sequence":1,"packet_bytes":60,"sent_ns":5}\n'
END = '{"kind":"end","supports_priority":true,"elapsed_ns":5,"sent_bytes":6}\n'


@pytest.mark.parametrize("text", [FIRST, FIRST + GAP, FIRST + GAP + END])
def test_an_older_recording_is_one_measurement(
    text: str, tmp_path: Path, plot: Path, capsys: Output
) -> None:
    path = tmp_path / "samples"
    path.write_text(text, encoding="ascii")
    assert recording.read(path).results == ()
    assert run_replay(path, as_json=True, plot=plot) == 3
    assert "nothing is known" in words_of(plot)
    assert capsys.readouterr().err.endswith(f"Picture: {plot}\n")


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ('"2"', "line 3: results are a list of whole numbers"),
        ("[true]", "line 3: results are a list of whole numbers"),
        ("[1, 2]", "line 3: results do not rest on more and more of 1 samples"),
        ("[1, 0]", "line 3: results do not rest on"),
        ("[-1]", "line 3: results do not rest on"),
    ],
)
def test_results_that_cannot_be_are_told(
    results: str, words: str, tmp_path: Path, plot: Path, capsys: Output
) -> None:
    path = tmp_path / "samples"
    end = END.replace("}", f',"results":{results}}}')
    path.write_text(FIRST + GAP + end, encoding="ascii")
    assert run_replay(path, as_json=True, plot=plot) == 2
    output = capsys.readouterr()
    assert words in output.err
    assert (output.out, plot.exists()) == ("", False)


def test_a_wrong_name_is_told_before_a_recording_is_read(tmp_path: Path, capsys: Output) -> None:
    assert run_replay(tmp_path / "none", as_json=True, plot=tmp_path / "picture.jpg") == 2
    assert "picture's name ends in" in capsys.readouterr().err


# ---- the command line


def test_the_options(tmp_path: Path) -> None:
    assert "--plot" in qwave("probe", "--help").stdout
    done = qwave("probe", "192.0.2.1", "--plot", "picture.jpeg")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "picture.jpeg: a picture's name ends in .png or .svg\n"
    record, plot = tmp_path / "samples", tmp_path / "picture.png"
    record.write_text(FIRST, encoding="ascii")
    done = qwave("probe", "--replay", str(record), "--plot", str(plot))
    assert (done.returncode, plot.exists()) == (3, True)


def test_what_a_script_tells_is_what_is_drawn(scripted: Scripted, plot: Path) -> None:
    # A pair that no estimator sees: it is in the picture all the same.
    pair = Train(1500, 0, (made.NOW_NS, made.NOW_NS + 1000), (600_000,))
    script: Script = scripted(Sampled(pair), Measured(KNOWN, S, 1))
    assert run_probe(here(plot)) == 0
    assert script.wish is not None
    assert "pair, sent at once" in words_of(plot)

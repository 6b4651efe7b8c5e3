"""`qwave paths HOST --plot` with a fake service: what the picture shows, when there is one."""

from __future__ import annotations

import html
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import msgspec
import pytest

from openqwave.cli.overview.command import Options, run_paths
from openqwave.cli.plot import looks_chart, target
from openqwave.cli.plot.looks import MOST_POINTS, Looks
from openqwave.ipc import messages as ms
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from tests.unit.fake_service import FakeService, Script, fake_service
from tests.unit.terminals import INTERRUPTIBLE, Terminal, environment

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)

Output = pytest.CaptureFixture[str]

PATH = ms.PathRow(
    host="10.0.1.2",
    interface="eth0",
    source="10.0.0.1",
    on_link=True,
    link_type="wired",
    capacity_bps=20_000_000,
    available_bps=12_340_000,
    available_low_bps=11_000_000,
    rtt_ns=2_340_000,
    confidence=0.95,
    age_ns=1_000_000_000,
    congested=False,
    held_bps=4_000_000,
    own_bps=3_900_000,
    flow_count=1,
)
CONGESTED = {"congested": True, "congestion_reason": "a queue stands on the way"}
OBSTACLE = {"obstacle": "nobody answers"}


def path(**fields: Any) -> ms.PathRow:  # noqa: ANN401 - any field of a row
    return msgspec.structs.replace(PATH, **fields)


def looked(*rows: ms.PathRow | None, every_s: float = 1.0) -> Looks:
    looks = Looks("10.0.1.2")
    for number, row in enumerate(rows):
        looks.add(number * every_s, row)
    return looks


# ---- series


def test_numbers_are_as_they_were_seen() -> None:
    looks = looked(path(), path(available_bps=5_000_000, available_low_bps=None, own_bps=None))
    one, other = looks.looks
    assert (one.time_s, one.capacity, one.available, one.low) == (0.0, 20.0, 12.34, 11.0)
    assert (one.held, one.own, one.rtt_ms, one.state) == (4.0, 3.9, 2.34, "measured")
    assert (other.time_s, other.available) == (1.0, 5.0)
    assert math.isnan(other.low)
    assert math.isnan(other.own)
    assert looks.span_s == 1.0


def test_what_is_not_known_is_no_number() -> None:
    unknown = path(
        capacity_bps=None, available_bps=None, available_low_bps=None, rtt_ns=None, age_ns=None
    )
    looks = looked(unknown, None)
    assert [look.state for look in looks.looks] == ["measuring", "gone"]
    for look in looks.looks:
        assert all(map(math.isnan, (look.capacity, look.available, look.low, look.rtt_ms)))
    assert looks.last == unknown


def test_congested_seconds_are_counted_until_the_next_look() -> None:
    bad, worse = path(**CONGESTED), path(congested=True, congestion_reason="probes are lost")
    looks = looked(path(), bad, bad, path(), worse, None, path(**OBSTACLE), path(), bad)
    assert looks.spans("congested") == [(1.0, 3.0), (4.0, 5.0), (8.0, 8.0)]
    assert looks.lasted_s("congested") == 3.0
    assert looks.spans("gone") == [(5.0, 6.0)]
    assert looks.spans("unmeasured") == [(6.0, 7.0)]
    assert looks.spans("remembered") == []
    assert looks.reasons == {
        ("congested", "a queue stands on the way"): 2.0,
        ("congested", "probes are lost"): 1.0,
        ("unmeasured", "nobody answers"): 1.0,
    }


def test_numbers_that_are_younger_than_before_are_new() -> None:
    ages_s = [5.0, 6.0, 0.4, 1.4, 2.4, 0.1, 0.1]
    rows = [path(age_ns=round(age_s * 1e9)) for age_s in ages_s]
    assert [look.is_new for look in looked(*rows).looks] == [
        False,
        False,
        True,
        False,
        False,
        True,
        True,
    ]
    # What comes first after nothing was known is new, too.
    unknown = path(age_ns=None)
    assert [look.is_new for look in looked(unknown, path(), None, path()).looks] == [
        False,
        True,
        False,
        True,
    ]


def test_of_very_many_looks_lines_go_through_some() -> None:
    looks = looked(*[path(**(CONGESTED if n == 7 else {})) for n in range(3 * MOST_POINTS + 1)])
    points = looks.points()
    assert MOST_POINTS // 2 < len(points) <= MOST_POINTS
    assert points[-1] == looks.looks[-1]
    # What is shaded is all of it.
    assert looks.spans("congested") == [(7.0, 8.0)]


# ---- what is said in the picture


def words_of(picture: Path) -> str:
    text = picture.read_text(encoding="utf-8")
    return " ".join(map(html.unescape, re.findall(r"<text[^>]*>([^<]*)</text>", text)))


def drawn(looks: Looks, picture: Path, host: str = "10.0.1.2") -> str:
    looks_chart.draw(looks, host, "2026-01-02 03:04:05", picture)
    return words_of(picture)


@needs_matplotlib
def test_the_picture_says_what_it_shows(tmp_path: Path) -> None:
    rows = [path(), path(**CONGESTED), path(**CONGESTED), path(**OBSTACLE), None, path(age_ns=1)]
    words = drawn(looked(*rows), tmp_path / "one.svg", "sink.lab")
    for wanted in (
        "Path to sink.lab (10.0.1.2): wired eth0, on the link",
        "at the end: 12.3 of 20.0 Mbit/s free, 4.00 held by contracts",
        "congested for 2.0 s of 5.0 s: a queue stands on the way",
        "unmeasured for 1.0 s of 5.0 s: nobody answers",
        "capacity 20.0",
        "free 12.3",
        "at least 11.0, 95 % sure",
        "held by contracts 4.00",
        "sent under contract 3.90",
        "measured anew",
        "congested (2.0 s)",
        "not measured (1.0 s)",
        "not known to the service",
        "Round-trip time",
        "round trip 2.34 ms",
        "time since 2026-01-02 03:04:05, s",
    ):
        assert wanted in words
    assert words.count("Mbit/s") == 2
    drawn(looked(*rows), tmp_path / "other.svg", "sink.lab")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()


@needs_matplotlib
@pytest.mark.parametrize(
    "rows",
    [
        (path(),),
        (ms.PathRow(host="10.0.1.2"),),
        (ms.PathRow(host="10.0.1.2"), ms.PathRow(host="10.0.1.2", obstacle="x" * 3_000)),
        (path(host="fe80::1%eth0", gateway="fe80::2", on_link=False), None),
        (path(capacity_bps=0, available_bps=0, available_low_bps=0, held_bps=0, rtt_ns=0),) * 3,
        tuple(path(**CONGESTED, own_bps=n) for n in range(500)),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_of_anything_there_is_a_picture(
    rows: tuple[ms.PathRow | None, ...], suffix: str, tmp_path: Path
) -> None:
    picture = tmp_path / f"picture.{suffix}"
    looks_chart.draw(looked(*rows), "a.b", "2026-01-02 03:04:05", picture)
    assert picture.stat().st_size > 10_000
    if suffix == "svg":
        assert "time since" in words_of(picture)


@needs_matplotlib
def test_names_do_nothing_to_a_picture(tmp_path: Path) -> None:
    evil = path(interface="\x1b]0;$x$", **{**OBSTACLE, "obstacle": "\u202e<b>\x07"})
    words = drawn(looked(evil, evil), tmp_path / "one.svg", "\x1bhost")
    assert "\\x1bhost" in words
    assert "$x$" in words
    assert "\\u202e<b>\\x07" in words


@needs_matplotlib
def test_of_many_reasons_the_longest_are_said(tmp_path: Path) -> None:
    rows = [path(obstacle=f"reason {n}") for n in range(6) for _ in range(n + 1)]
    words = drawn(looked(*rows), tmp_path / "one.svg")
    assert "reason 5" in words
    assert "reason 3" in words
    assert "reason 2" not in words
    assert "and for 3 other reasons" in words


def test_nothing_was_seen(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing was seen"):
        looks_chart.draw(looked(None), "a", "b", tmp_path / "one.svg")


# ---- a service


class Turns(Sequence[ms.PathRow]):
    """Paths that change with each list."""

    def __init__(self, of: Callable[[int], list[ms.PathRow]]) -> None:
        self.looks = 0
        self._of = of

    @overload
    def __getitem__(self, place: int) -> ms.PathRow: ...
    @overload
    def __getitem__(self, place: slice) -> list[ms.PathRow]: ...
    def __getitem__(self, place: int | slice) -> ms.PathRow | list[ms.PathRow]:
        assert isinstance(place, slice)
        self.looks += not place.start
        return self._of(self.looks - 1)[place]

    def __len__(self) -> int:
        return len(self._of(self.looks))


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    """A service whose script the test changes."""
    with fake_service(tmp_path, Script(paths=[PATH])) as service:
        monkeypatch.setenv("QWAVE_SOCKET", str(service.path))
        yield service


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return tmp_path / "picture.svg"


def wanted(picture: Path, **more: Any) -> Options:  # noqa: ANN401 - any option
    usual: dict[str, Any] = {"host": "10.0.1.2", "interval_s": 0.1, "watch_s": 0.3}
    return Options(**(usual | {"plot": picture} | more))


@needs_matplotlib
def test_a_path_is_looked_at_and_drawn(served: FakeService, capsys: Output, picture: Path) -> None:
    turns = Turns(lambda look: [path(held_bps=1_000_000 * look, **(CONGESTED if look else {}))])
    served.script = Script(paths=turns)
    assert run_paths(wanted(picture)) == 0
    output = capsys.readouterr()
    # A machine that is busy looks less often.
    last = turns.looks - 1
    assert 1 <= last <= 3
    lines = output.err.splitlines()
    assert lines[0] == "    0 s  measured, 12.3 of 20.0 Mbit/s free, 0 held"
    assert lines[last] == f"    0 s  congested, 12.3 of 20.0 Mbit/s free, {last}.00 held"
    assert lines[last + 1 :] == [f"Picture: {picture}"]
    # At the end it prints what `qwave paths` prints.
    assert output.out.splitlines()[1].split()[:4] == [
        "10.0.1.2",
        "20.0",
        "12.3",
        f"{last}.00",
    ]
    words = words_of(picture)
    assert f"held by contracts {last}.00" in words
    assert re.search(r"congested for 0\.\d s of 0\.\d s: a queue stands on the way", words)


@needs_matplotlib
@pytest.mark.usefixtures("served")
def test_documents_and_watches(capsys: Output, picture: Path) -> None:
    assert run_paths(wanted(picture, as_json=True)) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["paths"][0]["host"] == "10.0.1.2"
    assert output.err == f"Picture: {picture}\n"
    assert run_paths(wanted(picture, as_json=True, watches=True)) == 0
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert 2 <= len(documents) <= 4
    assert all(len(each["paths"]) == 1 for each in documents)
    assert run_paths(wanted(picture, watches=True)) == 0
    assert 2 <= capsys.readouterr().out.count("10.0.1.2") <= 4


@needs_matplotlib
def test_a_path_that_goes_away(served: FakeService, capsys: Output, picture: Path) -> None:
    served.script = Script(paths=Turns(lambda look: [] if look else [PATH]))
    assert run_paths(wanted(picture)) == 0
    output = capsys.readouterr()
    assert output.err.count("the service does not know it any more") >= 1
    assert output.out == "No such paths.\n"
    assert "not known to the service" in words_of(picture)


@pytest.mark.usefixtures("served")
def test_a_host_that_is_not_known(capsys: Output, picture: Path) -> None:
    assert run_paths(wanted(picture, host="10.0.1.9")) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == (
        "The service knows no path to 10.0.1.9: no adaptive flow goes there, and nobody tracks it. "
        "`qwave paths` lists those that it knows.\n"
    )
    assert not picture.exists()


@needs_matplotlib
@pytest.mark.parametrize(("flows", "status"), [((1, 0), 0), ((0, 1), 0), ((0, 0), 2), ((2, 3), 2)])
def test_of_several_paths_the_one_that_is_used(
    flows: tuple[int, int],
    status: int,
    served: FakeService,
    capsys: Output,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As of a name that has an IPv4 and an IPv6 address.
    names = ("10.0.1.2", "2001:db8::2")
    served.script = Script(
        paths=[path(host=host, flow_count=n) for host, n in zip(names, flows, strict=True)]
    )
    monkeypatch.setattr(
        "openqwave.cli.overview.command.addresses_of",
        lambda *_: [endpoint_of(host) for host in names],
    )
    assert run_paths(wanted(picture, host="sink", as_json=True)) == status
    output = capsys.readouterr()
    if status:
        assert "several paths to sink: 10.0.1.2, 2001:db8::2. Name one of them" in output.err
    else:
        used = names[flows.index(1)]
        assert json.loads(output.out)["paths"][0]["host"] == used
        assert f"Path to sink ({used})" in words_of(picture)


def endpoint_of(host: str) -> Any:  # noqa: ANN401 - what the command asks for
    from ipaddress import ip_address

    from openqwave.model.endpoint import Endpoint

    return Endpoint(ip_address(host).packed, 0)


@needs_matplotlib
def test_what_was_seen_before_the_service_failed_is_drawn(
    served: FakeService, capsys: Output, picture: Path
) -> None:
    def rows(look: int) -> list[ms.PathRow]:
        if look == 1:
            refusal = Refusal(ErrorCode.ERROR_NO_SYSTEM_RESOURCES, "too much is asked")
            served.script.answers[ms.ListPaths] = refusal
        return [PATH]

    served.script = Script(paths=Turns(rows))
    assert run_paths(wanted(picture, watch_s=5.0)) == 2
    output = capsys.readouterr()
    assert output.err.splitlines()[-2:] == [
        f"Picture: {picture}",
        "The service refuses: too much is asked.",
    ]
    assert "capacity 20.0" in words_of(picture)


@pytest.mark.parametrize("name", ["picture.jpg", "missing/picture.png"])
def test_a_file_that_cannot_be_is_told_before_it_looks(
    name: str, served: FakeService, capsys: Output, tmp_path: Path
) -> None:
    assert run_paths(wanted(tmp_path / name)) == 2
    assert name in capsys.readouterr().err
    assert served.connections == 0


def test_without_the_library_it_is_said_how_to_get_it(
    served: FakeService, capsys: Output, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "can_draw", lambda: False)
    assert run_paths(wanted(picture)) == 2
    assert "pip install 'openqwave[plot]'" in capsys.readouterr().err
    assert served.connections == 0


@needs_matplotlib
@pytest.mark.usefixtures("served")
def test_a_disk_that_is_full_in_the_meantime(
    capsys: Output, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(looks_chart, "draw", full)
    assert run_paths(wanted(picture)) == 2
    output = capsys.readouterr()
    assert "10.0.1.2" in output.out
    assert output.err.endswith("the picture could not be written: No space left on device\n")


# ---- as a program


@needs_matplotlib
def test_ctrl_c_draws_what_was_seen(served: FakeService, picture: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, "paths", "10.0.1.2", "--plot", str(picture)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(served),
        text=True,
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(2)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.splitlines()[-1]) == (0, f"Picture: {picture}")
    assert first.startswith("    0 s  measured, 12.3 of 20.0")
    assert output.startswith("host ")
    assert "capacity 20.0" in words_of(picture)
    assert [name for name in os.listdir(picture.parent) if name.startswith(".qwave")] == []


@needs_matplotlib
def test_a_terminal_gets_a_bar(served: FakeService, picture: Path) -> None:
    arguments = ["paths", "10.0.1.2", "--plot", str(picture), "--for", "0.4", "--interval", "0.2"]
    terminal = Terminal(arguments, environment(served))
    assert terminal.end() == 0
    assert "looking" in terminal.text
    assert "12.3 of 20.0 Mbit/s free" in terminal.text
    assert picture.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--plot", "picture.png"], "--plot goes with HOST"),
        (["10.0.1.2", "--for", "5"], "--for goes with --watch or --plot"),
        (["10.0.1.2", "--plot", "picture.gif"], "picture's name ends in .png or .svg"),
    ],
)
def test_wrong_options_are_told(arguments: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "openqwave.cli", "paths", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert words in " ".join(done.stderr.replace("│", " ").split())

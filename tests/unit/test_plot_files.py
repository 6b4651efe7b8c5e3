"""The file of a picture: told before, written whole or not at all; and what every picture is."""

from __future__ import annotations

import importlib.util
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openqwave.cli.plot import canvas, target

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)


# ---- before


@pytest.mark.parametrize("name", ["picture.png", "picture.svg", "PICTURE.PNG"])
def test_a_good_name_leaves_nothing(name: str, tmp_path: Path) -> None:
    assert target.refusal(tmp_path / name) == ""
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "old.svg"
    path.write_text("old", encoding="ascii")
    assert target.refusal(path) == ""
    assert path.read_text(encoding="ascii") == "old"


@pytest.mark.parametrize("name", ["picture", "picture.pdf", "png", ".png"])
def test_a_suffix_says_what_it_becomes(name: str, tmp_path: Path) -> None:
    assert target.refusal(tmp_path / name).endswith("a picture's name ends in .png or .svg")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing/picture.png", "No such file or directory"),
        ("folder.png", "Is a directory"),
        ("/proc/picture.png", "No such file or directory"),
        (f"{'x' * 300}.svg", "File name too long"),
    ],
)
def test_what_cannot_be_written_is_told(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    assert target.refusal(tmp_path / name) == f"{tmp_path / name}: cannot be written: {words}"


def test_without_the_library_it_is_said_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(target, "can_draw", lambda: False)
    path = tmp_path / "picture.png"
    wanted = f"{path}: matplotlib is not installed; pip install 'openqwave[plot]'"
    assert target.obstacle(path) == wanted
    # The first thing that is wrong is told first.
    assert "ends in" in target.obstacle(tmp_path / "picture.pdf")


# ---- writing


def test_a_picture_is_put_in_place_of_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")
    path.chmod(0o640)
    target.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_picture_stays_whose_it_was(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")
    os.chown(path, 1234, 4321)
    target.write(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


def test_a_new_picture_is_as_open_as_files_here_are(tmp_path: Path) -> None:
    path, other = tmp_path / "picture.png", tmp_path / "other"
    target.write(path, b"new")
    other.write_bytes(b"")
    assert path.stat().st_mode == other.stat().st_mode


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "picture.png", tmp_path / "link.png"
    path.write_bytes(b"old")
    link.symlink_to(path)
    target.write(link, b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("fails", ["write", "replace"])
def test_a_failure_leaves_the_old_one_and_nothing_else(
    fails: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if fails == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        monkeypatch.setattr(os, "fchmod", fail)
    with pytest.raises(OSError, match="No space left"):
        target.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_ctrl_c_while_it_is_written_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        target.write(tmp_path / "picture.svg", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_somebody_elses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"the old one, which is longer")
    opened = Path.open

    def closed(self: Path, mode: str = "r", **more: Any) -> Any:  # noqa: ANN401 - as Path.open
        if "x" in mode:
            raise PermissionError(13, "Permission denied")
        return opened(self, mode, **more)

    monkeypatch.setattr(Path, "open", closed)
    target.write(path, b"new")
    assert path.read_bytes() == b"new"


def test_what_is_no_file_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.svg"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        target.write(pipe, b"new")
        assert os.read(reader, 100) == b"new"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


# ---- what every picture is


def painted(path: Path, title: str = "A title") -> bytes:
    def paint(figure: Any) -> None:  # noqa: ANN401 - matplotlib has no types
        canvas.entitle(figure, title, "and what came of it")
        axes = figure.subplots()
        canvas.dress(axes, "A heading", "Mbit/s")
        axes.plot([0, 1], [0, 1], label="$a$ line")
        axes.fill_between([0, 1], [0, 0], [1, 2], **canvas.Style(canvas.BLUE).area())
        canvas.mark(axes, [0.5], 0.9, "v", "lost")
        canvas.explain(axes)

    canvas.draw(path, (6, 4), title, paint)
    return path.read_bytes()


@needs_matplotlib
def test_the_same_makes_the_same_bytes(tmp_path: Path) -> None:
    for suffix in target.SUFFIXES:
        assert painted(tmp_path / f"one{suffix}") == painted(tmp_path / f"other{suffix}")


@needs_matplotlib
def test_text_is_text_and_names_make_no_formulas(tmp_path: Path) -> None:
    text = painted(tmp_path / "one.svg", "Path to $x_1$ <&>").decode()
    for words in ("Path to $x_1$ &lt;&amp;&gt;", "A heading", "$a$ line", "Mbit/s", "lost"):
        assert f">{words}</text>" in text
    assert "<dc:title>Path to $x_1$ &lt;&amp;&gt;</dc:title>" in text
    assert "<dc:date>" not in text


@needs_matplotlib
def test_signs_that_no_font_has_trouble_nobody(tmp_path: Path) -> None:
    assert painted(tmp_path / "one.png", "\u2f00\u4e2d").startswith(b"\x89PNG")


@needs_matplotlib
def test_what_somebody_prefers_for_own_pictures_does_not_count(tmp_path: Path) -> None:
    import matplotlib

    wanted = painted(tmp_path / "one.svg")
    with matplotlib.rc_context(
        {"axes.facecolor": "black", "font.size": 30.0, "lines.linewidth": 9}
    ):
        assert painted(tmp_path / "other.svg") == wanted
        assert matplotlib.rcParams["font.size"] == 30.0


def test_times_are_in_the_unit_that_suits_them() -> None:
    spans_s = (0.3, 3.0, 299.0, 300.0, 10_799.0, 10_800.0, 86_400.0)
    units = [canvas.time_unit(span_s)[0] for span_s in spans_s]
    assert units == ["s", "s", "s", "min", "min", "h", "h"]
    assert canvas.time_unit(86_400.0) == ("h", 3600.0)


def test_legends_keep_their_lines_and_fold_long_ones() -> None:
    folded = canvas.in_legend("available 9.3 Mbit/s\n95 %, idle share and paced trains")
    assert folded.splitlines()[0] == "available 9.3 Mbit/s"
    assert max(map(len, folded.splitlines())) <= canvas.LEGEND_CHARACTERS
    assert max(map(len, canvas.in_legend("x" * 60).splitlines())) <= canvas.LEGEND_CHARACTERS


def test_nothing_loads_the_library_before_it_draws() -> None:
    code = (
        "import sys\n"
        "import openqwave.cli.plot.measured_chart, openqwave.cli.plot.target\n"
        "openqwave.cli.plot.target.can_draw()\n"
        "print('matplotlib' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False\n"

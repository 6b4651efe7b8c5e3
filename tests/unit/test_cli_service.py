"""`qwave service` into another root: what is placed, kept, refused and taken away, as any user."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from openqwave.cli.interruption import Interruption
from openqwave.cli.service import (
    asking,
    background,
    command,
    contents,
    installing,
    interpreters,
)
from openqwave.cli.service.command import Options, run_install, run_status, run_uninstall
from openqwave.cli.service.installing import install
from openqwave.cli.service.layout import Layout
from openqwave.cli.service.placing import Placing
from openqwave.cli.service.troubles import Trouble
from openqwave.ipc.rows import BackendRow, MemoryRow, SinkRow, StatusRow

PREFIX = Path("/usr/local")
CONFIG = "etc/qwave/qwaved.toml"
PROJECT = Path(__file__).parents[2]


class Image:
    """A file system to install into, and what the last command told."""

    def __init__(self, root: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self._capture = capture

    def install(self, prefix: Path = PREFIX) -> int:
        return self._do(run_install, prefix)

    def uninstall(self, prefix: Path = PREFIX) -> int:
        return self._do(run_uninstall, prefix)

    def status(self, prefix: Path = PREFIX) -> int:
        return self._do(run_status, prefix)

    def _do(self, run: Any, prefix: Path) -> int:  # noqa: ANN401 - one of three functions
        status: int = run(Options(self.root, prefix, as_json=True))
        output, self.errors = self._capture.readouterr()
        self.told = json.loads(output) if output else {}
        return status

    def paths(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*")}

    def files(self) -> set[str]:
        """Those outside the program's packages."""
        return {
            path for path in self.paths() if (self.root / path).is_file() and "/python/" not in path
        }


@pytest.fixture
def image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Image:
    # Copying, and trying interpreters, is slow and has tests of its own.
    monkeypatch.setattr(contents.Code, "copy_to", lambda _, directory: (directory / "x").touch())
    monkeypatch.setattr(interpreters, "find", lambda: "/usr/bin/python3")
    monkeypatch.setattr(interpreters, "fits", lambda _: True)
    return Image(tmp_path, capsys)


# -- what is placed ---------------------------------------------------------------------


def test_what_is_placed_and_taken_away(image: Image) -> None:
    assert (image.install(), image.errors) == (0, "")
    assert image.files() == {
        "usr/local/sbin/qwaved",
        "usr/local/lib/qwave/installed.json",
        "usr/local/lib/systemd/system/qwaved.service",
        "usr/local/lib/systemd/system/qwaved.socket",
        "usr/local/lib/sysusers.d/qwave.conf",
        "usr/local/share/man/man1/qwave.1",
        "usr/local/share/man/man8/qwaved.8",
        "usr/local/share/bash-completion/completions/qwave",
        "usr/local/share/zsh/site-functions/_qwave",
        "usr/local/share/fish/vendor_completions.d/qwave.fish",
        CONFIG,
    }
    assert image.told["supervisor"] is None
    # Files name one another as they will be found.
    unit = (image.root / "usr/local/lib/systemd/system/qwaved.service").read_text()
    assert "ExecStart=/usr/local/sbin/qwaved\n" in unit
    program = (image.root / "usr/local/sbin/qwaved").read_text()
    assert program.startswith("#!/usr/bin/python3 -IS\n")
    assert "'/usr/local/lib/qwave/python'" in program
    assert image.status() == 0
    assert image.told["installed"]["is_complete"]

    assert image.uninstall() == 0
    assert image.paths() == set()
    assert set(image.told["removed"]) > {str(image.root / CONFIG)}
    assert image.status() == 3
    assert (image.uninstall(), image.told["was_installed"]) == (0, False)


@pytest.mark.parametrize("umask", [0, 0o077])
def test_permissions_are_as_they_should_be(image: Image, umask: int) -> None:
    before = os.umask(umask)
    try:
        image.install()
    finally:
        os.umask(before)
    for path in image.root.rglob("*"):
        runs = path.is_dir() or path.name == "qwaved"
        if path.name != "x":
            assert stat.S_IMODE(path.stat().st_mode) == (0o755 if runs else 0o644), path


@pytest.mark.parametrize(
    ("prefix", "unit"),
    [
        ("/usr", "usr/lib/systemd/system/qwaved.service"),
        # Where systemd would not look.
        ("/opt/qwave", "etc/systemd/system/qwaved.service"),
    ],
)
def test_other_prefixes(image: Image, prefix: str, unit: str) -> None:
    assert image.install(Path(prefix)) == 0
    assert f"ExecStart={prefix}/sbin/qwaved\n" in (image.root / unit).read_text()
    assert (image.root / prefix[1:] / "sbin/qwaved").exists()
    # One prefix knows nothing of another.
    assert image.status() == 3
    assert image.uninstall(Path(prefix)) == 0
    assert image.paths() == set()


def test_again_nothing_is_done(image: Image) -> None:
    image.install()
    times = {path: path.stat().st_mtime_ns for path in image.root.rglob("*") if path.is_file()}
    assert image.install() == 0
    assert (image.told["is_changed"], image.told["placed"]) == (False, [])
    changed = {path.name for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed <= {"installed.json"}


def test_what_is_missing_or_changed_is_put_right(image: Image) -> None:
    image.install()
    unit = image.root / "usr/local/lib/systemd/system/qwaved.socket"
    unit.unlink()
    program = image.root / "usr/local/sbin/qwaved"
    good = program.read_text()
    program.write_text("broken")
    assert image.install() == 0
    assert image.told["placed"] == [str(program), str(unit)]
    assert program.read_text() == good
    image.uninstall()
    assert image.paths() == set()


def test_another_version_takes_its_place(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    image.install()
    monkeypatch.setattr(contents, "version", lambda: "9.9")
    monkeypatch.setattr(contents.Code, "_digest", lambda _: "another")
    monkeypatch.setattr(contents.Code, "copy_to", lambda _, directory: (directory / "y").touch())
    assert image.install() == 0
    assert os.listdir(image.root / "usr/local/lib/qwave/python") == ["y"]
    assert sorted(os.listdir(image.root / "usr/local/lib/qwave")) == ["installed.json", "python"]
    assert (image.status(), image.told["installed"]["version"]) == (0, "9.9")


def test_a_failed_change_of_version_leaves_the_first(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    image.install()
    before = {path: path.read_bytes() for path in image.root.rglob("*") if path.is_file()}

    def fail(_: object, directory: Path) -> None:
        (directory / "y").touch()
        raise OSError(28, "No space left on device", str(directory))

    monkeypatch.setattr(contents.Code, "_digest", lambda _: "another")
    monkeypatch.setattr(contents.Code, "copy_to", fail)
    assert image.install() == 1
    assert "No space left on device" in image.errors
    assert {path: path.read_bytes() for path in image.root.rglob("*") if path.is_file()} == before


class Pretended:
    """Starts nothing, and notes which version was in place when it should have.

    Attributes:
        fails: How often starting anew is to fail from now on.
        started: The versions.
    """

    name = "pretended"
    socket = Path("/run/qwave/qwaved.sock")

    def __init__(self, root: Path) -> None:
        self._code = root / "usr/local/lib/qwave/python"
        self.fails = 0
        self.started: list[list[str]] = []

    def pid(self) -> int | None:
        return 1 if self.started else None

    def start(self) -> None:
        self.started.append(os.listdir(self._code))

    def restart(self) -> None:
        self.start()
        if self.fails:
            self.fails -= 1
            raise Trouble("it does not start")

    def stop(self) -> None:
        self.started.clear()

    def forget(self) -> None:
        pass

    def log_tail(self) -> str:
        return "the last words"


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that answers as soon as it is asked."""
    status = StatusRow(
        service="qwaved",
        version="1",
        protocol=1,
        pid=1,
        uptime_ns=1,
        socket="",
        config_file="",
        handles=0,
        flows=0,
        paths=0,
        peers=0,
        lends=False,
        backend=BackendRow(name=""),
        sink=SinkRow(on=False),
        memory=MemoryRow(path="", state=""),
    )
    monkeypatch.setattr(asking, "ask", lambda _: asking.Answer(status))
    monkeypatch.setattr(installing, "_check_as_user", lambda _: None)


@pytest.mark.usefixtures("answering")
def test_what_ran_before_runs_again_when_its_successor_does_not(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, supervisor = Layout(image.root, PREFIX), Pretended(image.root)
    with Interruption() as interruption:
        done = install(layout, supervisor, interruption)
        assert (done.is_started, done.pid, supervisor.started) == (True, 1, [["x"]])
        done = install(layout, supervisor, interruption)
        assert (done.is_started, done.pid, supervisor.started) == (False, 1, [["x"]])
        monkeypatch.setattr(contents.Code, "_digest", lambda _: "another")
        monkeypatch.setattr(contents.Code, "copy_to", lambda _, place: (place / "y").touch())
        supervisor.fails = 1
        with pytest.raises(Trouble, match="does not start"):
            install(layout, supervisor, interruption)
        assert supervisor.started == [["x"], ["y"], ["x"]]
        # What fails before that disturbs nothing.
        monkeypatch.setattr(installing, "_check_as_user", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            install(layout, supervisor, interruption)
        assert supervisor.started == [["x"], ["y"], ["x"]]
        monkeypatch.setattr(installing, "_check_as_user", lambda _: None)
        done = install(layout, supervisor, interruption)
        assert (done.is_started, supervisor.started[3:]) == (True, [["y"]])


def test_what_cannot_be_undone_is_told(tmp_path: Path) -> None:
    def stick() -> None:
        raise OSError("it is stuck")

    def fail() -> None:
        with Placing() as placing:
            placing.file(tmp_path / "file", b"", 0o644)
            placing.undo_with(stick)
            raise Trouble("it failed")

    with pytest.raises(Trouble) as caught:
        fail()
    assert str(caught.value) == ("it failed\nNot all of what was done could be undone: it is stuck")
    assert not caught.value.is_undone
    # The rest is.
    assert os.listdir(tmp_path) == []


# -- the administrator's file -----------------------------------------------------------


def test_a_configuration_that_was_there_stays(image: Image) -> None:
    config = image.root / CONFIG
    config.parent.mkdir(parents=True)
    config.write_text("[limits]\nflows = 9\n")
    before = image.paths()
    assert (image.install(), image.told["keeps_config"]) == (0, True)
    assert image.uninstall() == 0
    assert config.read_text() == "[limits]\nflows = 9\n"
    assert (image.paths(), image.told["kept"]) == (before, [])


def test_a_configuration_that_was_changed_stays(image: Image) -> None:
    image.install()
    config = image.root / CONFIG
    config.write_text("[limits]\nflows = 9\n")
    assert (image.install(), image.told["keeps_config"]) == (0, True)
    assert config.read_text() == "[limits]\nflows = 9\n"
    assert (image.uninstall(), image.told["kept"]) == (0, [str(config)])
    assert image.files() == {CONFIG}


def test_a_configuration_that_nobody_changed_follows(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    image.install()
    monkeypatch.setattr(contents, "example_config", lambda: contents.Content(b"# newer\n"))
    assert image.install() == 0
    assert (image.root / CONFIG).read_bytes() == b"# newer\n"
    image.uninstall()
    assert image.paths() == set()


# -- what is others' --------------------------------------------------------------------


def test_files_of_others_are_not_replaced(image: Image) -> None:
    program = image.root / "usr/local/sbin/qwaved"
    program.parent.mkdir(parents=True)
    program.write_text("of somebody else")
    before = image.paths()
    assert image.install() == 2
    assert f"{program} is there and was not placed by this command" in image.errors
    assert (image.paths(), program.read_text()) == (before, "of somebody else")


def test_what_others_put_beside_it_stays(image: Image) -> None:
    image.install()
    other = image.root / "usr/local/lib/systemd/system/other.service"
    other.touch()
    assert image.uninstall() == 0
    assert image.files() == {str(other.relative_to(image.root))}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 1}', "is damaged"),
        ('{"format": 1, "nonsense": 2}', "is damaged"),
        ('{"format": 2}', "by another version"),
    ],
)
def test_a_record_that_cannot_be_read(image: Image, text: str, words: str) -> None:
    image.install()
    (image.root / "usr/local/lib/qwave/installed.json").write_text(text)
    before = image.paths()
    for do in (image.install, image.uninstall, image.status):
        assert do() == 2
        assert words in image.errors
    assert image.paths() == before


@pytest.mark.parametrize(
    ("root", "prefix", "words"),
    [
        ("image", "/usr/local", "--root has to be an absolute path, not 'image'"),
        ("/nonexistent", "/usr/local", "--root /nonexistent is no directory"),
        ("", "usr", "--prefix has to be an absolute path, not 'usr'"),
        ("", "/usr/../etc", "--prefix has to be an absolute path"),
    ],
)
def test_places_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], root: str, prefix: str, words: str
) -> None:
    # Never this host, lest it be changed when this fails.
    assert run_install(Options(Path(root) if root else tmp_path, Path(prefix))) == 2
    assert words in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["install", "uninstall"])
def test_this_host_wants_root(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", [".venv/bin/qwave", "service", name])

    def go_on(*_: object) -> None:
        raise AssertionError("it would be done")

    # If it did not ask, this host would be changed.
    monkeypatch.setattr(command, name, go_on)
    run = getattr(command, f"run_{name}")
    assert run(Options(Path("/"), PREFIX)) == 2
    error = capsys.readouterr().err
    assert error == f"qwave service {name} needs root: sudo .venv/bin/qwave service {name}\n"


# -- the program's own copy -------------------------------------------------------------


def test_the_copy_runs_by_itself(tmp_path: Path) -> None:
    contents.Code().copy_to(tmp_path)
    packages = {"openqwave", "msgspec", "pyroute2"}
    assert {path.name for path in tmp_path.iterdir() if "." not in path.name} == packages
    # Nothing of the rooms above, and all licences.
    assert not {"cli", "lab", "qos2"} & set(os.listdir(tmp_path / "openqwave"))
    for package in packages:
        (record,) = tmp_path.glob(f"{package}-*.dist-info")
        assert (record / "METADATA").is_file()
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from openqwave.service.daemon import run\n"
        "import openqwave, msgspec, pyroute2\n"
        "for one in (openqwave, msgspec, pyroute2): print(one.__file__)\n"
        "sys.exit(run(['--version']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-IS", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
        env={},
    )
    assert (done.returncode, done.stderr) == (0, "")
    *places, version = done.stdout.splitlines()
    assert all(place.startswith(f"{tmp_path}/") for place in places)
    assert version == f"qwaved {metadata.version('openqwave')}"


def test_the_copy_has_what_is_declared() -> None:
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split("[<>=]", each)[0] for each in declared}
    assert set(contents.PACKAGES) == {"openqwave", *names}


def test_the_digest_is_of_names_and_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest() -> str:
        sources = [(path.name, path) for path in tmp_path.iterdir()]
        monkeypatch.setattr(contents, "_sources", lambda: iter(sources))
        return contents.Code().digest

    file = tmp_path / "a.py"
    file.write_text("1")
    first = digest()
    (tmp_path / "a.pyc").write_text("compiled")
    assert digest() == first
    file.write_text("2")
    second = digest()
    file.rename(tmp_path / "b.py")
    assert len({first, second, digest()}) == 3


@pytest.mark.parametrize(
    ("path", "fits"),
    [
        ("/home/somebody/bin/python3", False),
        ("/root/.pyenv/bin/python3", False),
        ("/nonexistent/python3", False),
        ("/bin/true", False),
        ("/bin/false", False),
    ],
)
def test_pythons_that_do_not_fit(path: str, *, fits: bool) -> None:
    assert interpreters.fits(path) == fits


def test_the_units_capabilities_are_known() -> None:
    unit = contents.files(Layout(), "/usr/bin/python3")[Layout().units / "qwaved.service"]
    text = unit.data.decode()
    named = background.capabilities_of(text)
    assert "CAP_SYS_PTRACE" in named
    # What it gets is all that it can ever have.
    bounding = re.findall(r"^CapabilityBoundingSet=(.*)$", text, re.MULTILINE)
    assert named == [name for line in bounding for name in line.split()]
    assert set(background.missing_capabilities(named)) <= set(named)
    assert text.count("ExecStart=") == 1

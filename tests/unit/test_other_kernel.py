"""The runner of tests under another kernel: what it asks for, says and starts. Builds nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.other_kernel import build, guest
from tests.other_kernel.__main__ import ROOT, TIER, main, parser
from tests.other_kernel.build import READY, CannotBuildError, Recipe
from tests.other_kernel.guest import Clock
from tests.patience import until

# A "kernel" that does what the guest's init would: runs the command, leaves its status.
FAKE = f"""#!{sys.executable}
import subprocess, sys
(control,) = [one.split("=", 1)[1] for one in sys.argv if one.startswith("OPENQWAVE_CTL=")]
done = subprocess.run(["sh", control + "/command"])
{{ending}}
"""
LEAVES_STATUS = 'open(control + "/status", "w").write(str(done.returncode))'


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """The command line says what SIGTERM does; afterwards it does what it did."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def fake_kernel(folder: Path, ending: str = LEAVES_STATUS) -> Path:
    path = folder / "linux"
    path.write_text(FAKE.format(ending=ending), encoding="utf-8")
    path.chmod(0o755)
    return path


def test_what_the_tier_runs_exists() -> None:
    places = [place for named in TIER.values() for place in named]
    assert len(places) == len(set(places)) > 0
    assert [place for place in places if not (ROOT / place).exists()] == []


def test_every_file_of_the_tier_is_run() -> None:
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "tests/other_kernel").glob("test_*.py")}
    assert ours - {place for named in TIER.values() for place in named} == set()


def test_the_command_line() -> None:
    asked = parser().parse_args(["run", "--clock", "virtual", "--", "ls", "-l"])
    assert (asked.clock, asked.command, asked.linux) == ("virtual", ["ls", "-l"], "6.12")
    asked = parser().parse_args(["test", "--linux", "6.1", "--", "-k", "fq"])
    assert (asked.linux, asked.rest) == ("6.1", ["-k", "fq"])
    with pytest.raises(SystemExit):
        parser().parse_args(["build", "--linux", "2.4"])


def test_the_cache_is_where_caches_are(tmp_path: Path) -> None:
    assert build.cache_folder({"HOME": "/home/x"}) == Path("/home/x/.cache/openqwave")
    named = {"HOME": "/home/x", "XDG_CACHE_HOME": str(tmp_path)}
    assert build.cache_folder(named) == tmp_path / "openqwave"


def test_a_kernel_has_another_name_if_anything_about_it_differs() -> None:
    one = Recipe("6.12", "CONFIG_A=y\n", 2_696)
    others = [
        Recipe("6.1", "CONFIG_A=y\n", 2_696),
        Recipe("6.12", "CONFIG_B=y\n", 2_696),
        Recipe("6.12", "CONFIG_A=y\n", 11_008),
    ]
    assert one.name == Recipe("6.12", "CONFIG_A=y\n", 2_696).name
    assert len({one.name, *(other.name for other in others)}) == 4


def test_the_configuration_is_settings_and_remarks() -> None:
    text = build.CONFIGURATION.read_text(encoding="ascii")
    wanted = Recipe("6.12", text, 0).wanted
    assert {"CONFIG_NET_SCH_FQ=y", "CONFIG_MAC80211_HWSIM=y", "# CONFIG_MODULES is not set"} <= set(
        wanted
    )
    assert len(wanted) == len(set(wanted))
    left = [line for line in text.splitlines() if line not in wanted]
    assert all(not line or line.startswith("# ") for line in left)


def test_a_kernel_that_is_named_is_taken(tmp_path: Path) -> None:
    kernel = fake_kernel(tmp_path)
    assert build.build("6.12", 1, {READY: str(kernel)}) == kernel
    kernel.chmod(0o644)
    with pytest.raises(CannotBuildError, match=r"names .*, which is no program"):
        build.build("6.12", 1, {READY: str(kernel)})
    with pytest.raises(CannotBuildError, match="no program"):
        build.build("6.12", 1, {READY: str(tmp_path)})


def test_missing_tools_are_named_with_the_way_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(build, "HEADER", tmp_path / "none")
    monkeypatch.setattr(
        "shutil.which", lambda tool: None if tool in ("bc", "xz") else f"/usr/bin/{tool}"
    )
    assert build.obstacle(tmp_path) == (
        "missing: bc xz-utils libc6-dev (sudo apt-get install bc xz-utils libc6-dev)"
    )
    monkeypatch.setattr("shutil.which", {}.get)
    assert "no apt" in (build.obstacle(tmp_path) or "")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "aarch64" in (build.obstacle(tmp_path) or "")


def test_where_nothing_can_be_built_the_tier_is_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build_nothing(*_: object) -> Path:
        raise CannotBuildError("missing: flex")

    monkeypatch.setattr(build, "build", build_nothing)
    assert main(["test"]) == 0
    assert "skipped, nothing was tested: missing: flex" in capsys.readouterr().err
    # Who asks for the kernel itself is told that there is none.
    assert main(["build"]) == 1
    assert main(["run", "true"]) == 1


def test_what_should_have_worked_is_no_reason_to_skip(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(READY, "/etc/passwd")
    assert main(["test"]) == 1
    assert "no program" in capsys.readouterr().err


def test_an_interruption_is_said_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "build", interrupt)
    assert main(["build"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_output_and_status_come_through(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kernel = fake_kernel(tmp_path)
    status = guest.run(
        kernel,
        ["sh", "-c", 'echo "$1 $NAME"; exit 3', "sh", "two words"],
        environment={"NAME": "it's"},
    )
    assert status == 3
    assert capfd.readouterr().out == "two words it's\n"


def test_a_kernel_that_dies_is_told_from_a_command_that_fails(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kernel = fake_kernel(tmp_path, "pass")
    assert guest.run(kernel, ["true"]) == guest.LOST
    assert "no exit status: ended by itself" in capfd.readouterr().err


def test_a_guest_that_takes_too_long_is_ended(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "still here"
    kernel = fake_kernel(tmp_path)
    command = f"echo begun; sleep 60; touch '{mark}'"
    assert guest.run(kernel, [command], limit_s=0.5) == guest.LOST
    assert "ended after" in capfd.readouterr().err
    assert not mark.exists()


def test_a_guest_ends_with_who_started_it_however_that_ends(tmp_path: Path) -> None:
    # A program that leaves another behind, as a kernel does that is killed.
    kernel = tmp_path / "linux"
    kernel.write_text(
        f"#!/bin/sh\nsleep 60 &\necho $! >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; wait\n"
    )
    kernel.chmod(0o755)
    script = (
        "import sys; from pathlib import Path; from tests.other_kernel import guest; "
        "guest.run(Path(sys.argv[1]), ['true'])"
    )
    runner = subprocess.Popen([sys.executable, "-c", script, str(kernel)], cwd=ROOT)
    until((tmp_path / "pid").exists)
    left = int((tmp_path / "pid").read_text())
    runner.kill()
    runner.wait()
    until(lambda: not is_running(left))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_virtual_time_is_asked_for_and_always_the_same(tmp_path: Path) -> None:
    real = guest.kernel_command(Path("linux"), tmp_path, 7, Clock.REAL, "1G")
    virtual = guest.kernel_command(Path("linux"), tmp_path, 7, Clock.VIRTUAL, "1G")
    assert [one for one in virtual if one not in real] == [
        "time-travel=inf-cpu",
        "time-travel-start=1893499200000000000",
    ]
    assert virtual == guest.kernel_command(Path("linux"), tmp_path, 7, Clock.VIRTUAL, "1G")

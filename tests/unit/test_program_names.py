"""Names in rules: users by number, programs by their files, also after an update."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from openqwave.drivers.programs import inode_of, program_file
from openqwave.enforcement.claims import Executable
from openqwave.service.programs import conditions
from openqwave.service.programs.conditions import HostNames
from openqwave.service.programs.surveying import former_files


class Files:
    """Files by path, as a test has them."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}

    def __call__(self, path: str) -> tuple[int | None, str]:
        if path in self.found:
            return self.found[path], ""
        return None, f"there is no {path}"


@pytest.fixture
def files() -> Files:
    return Files()


@pytest.fixture
def names(files: Files) -> HostNames:
    return HostNames(files)


def test_users(names: HostNames) -> None:
    own = pwd.getpwuid(os.getuid()).pw_name
    assert names.users(own) == {os.getuid()}
    assert names.users("4711") == {4_711}
    assert names.users("nobody-has-this-name") == set()


def test_a_user_of_digits(names: HostNames, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = pwd.struct_passwd(("12", "x", 3_000, 3_000, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwnam", lambda _: entry)
    assert names.users("12") == {12, 3_000}


def test_a_bare_name_is_any_file_of_it(names: HostNames) -> None:
    assert names.programs("app") == {Executable("app")}
    assert names.why_missing("app") == ""


def test_a_path_is_the_file_there(names: HostNames, files: Files) -> None:
    files.found["/opt/app"] = 7
    assert names.programs("/opt/app") == {Executable("app", 7)}
    assert not names.look_again(0)


def test_a_file_that_comes_later(names: HostNames, files: Files) -> None:
    assert names.programs("/opt/app") == set()
    assert names.why_missing("/opt/app") == "there is no /opt/app"
    assert not names.look_again(0)
    files.found["/opt/app"] = 7
    assert names.look_again(0)
    assert names.programs("/opt/app") == {Executable("app", 7)}
    assert names.why_missing("/opt/app") == ""


def test_a_file_that_is_replaced_is_meant_with_the_former(names: HostNames, files: Files) -> None:
    files.found["/opt/app"] = 7
    names.programs("/opt/app")
    files.found["/opt/app"] = 8
    assert names.look_again(0)
    assert names.programs("/opt/app") == {Executable("app", 7), Executable("app", 8)}
    assert not names.look_again(0)
    # Back again, as after a downgrade: nothing new, but it is the one that is there.
    files.found["/opt/app"] = 7
    assert names.look_again(0)
    del files.found["/opt/app"]
    assert names.look_again(0)
    assert names.why_missing("/opt/app")
    assert names.programs("/opt/app") == {Executable("app", 7), Executable("app", 8)}


def test_former_files_have_an_end(names: HostNames, files: Files) -> None:
    for inode in range(20):
        files.found["/opt/app"] = inode
        names.programs("/opt/app")
        names.look_again(0)
    assert {one.inode for one in names.programs("/opt/app")} == set(range(12, 20))


def test_a_former_file_that_a_process_runs(names: HostNames, files: Files) -> None:
    files.found["/opt/app"] = 7
    names.programs("/opt/app")
    assert names.remember("/opt/app", 5)
    assert not names.remember("/opt/app", 5)
    assert not names.remember("/opt/app", 7)
    assert names.programs("/opt/app") == {Executable("app", 5), Executable("app", 7)}
    # What is there now is still known for that.
    assert not names.look_again(0)


def test_unknown_users_are_asked_for_again_once_a_minute(
    names: HostNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[str, frozenset[int]] = {}
    asked: list[str] = []

    def look_up(name: str) -> frozenset[int]:
        asked.append(name)
        return known.get(name, frozenset())

    monkeypatch.setattr(conditions, "_look_up", look_up)
    known["ann"] = frozenset({1_000})
    assert names.users("ann") == {1_000}
    assert names.users("bob") == set()
    assert not names.look_again(0)
    known["bob"] = frozenset({1_001})
    assert not names.look_again(59)
    assert names.look_again(61)
    assert names.users("bob") == {1_001}
    assert asked == ["ann", "bob", "bob", "bob"]


def test_what_no_rule_names_is_forgotten(names: HostNames, files: Files) -> None:
    files.found.update({"/opt/app": 7, "/opt/other": 8})
    names.programs("/opt/app")
    names.programs("/opt/other")
    del files.found["/opt/app"], files.found["/opt/other"]
    names.keep([], ["/opt/app"])
    # A former file, which processes may run.
    assert names.programs("/opt/app") == {Executable("app", 7)}
    assert names.programs("/opt/other") == set()


def test_a_path_that_is_kept_is_looked_at_before_a_former_file_is_known(
    names: HostNames, files: Files
) -> None:
    files.found["/opt/app"] = 7
    names.keep([], ["/opt/app"])
    assert names.remember("/opt/app", 5)
    assert names.programs("/opt/app") == {Executable("app", 5), Executable("app", 7)}


# -- files of the host ------------------------------------------------------------------


def test_the_number_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "app").touch()
    assert inode_of(str(tmp_path / "app")) == ((tmp_path / "app").stat().st_ino, "")
    assert inode_of(str(tmp_path / "none")) == (None, f"there is no {tmp_path}/none")


def test_a_link_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "app").touch()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "short").symlink_to("real/app")
    inode, why = inode_of(str(tmp_path / "link" / "app"))
    assert (inode, why) == (None, f"{tmp_path}/link is a link to real; name the file")
    assert inode_of(str(tmp_path / "short"))[0] is None


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A program of its own that runs."""
    program = tmp_path / "sleeper"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    process = subprocess.Popen([program, "60"])
    yield program, process
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_what_a_process_runs(sleeper: tuple[Path, subprocess.Popen[bytes]]) -> None:
    program, process = sleeper
    inode = program.stat().st_ino
    file = program_file(process.pid)
    assert file is not None
    assert (file.path, file.inode, file.is_deleted) == (str(program), inode, False)
    assert former_files({str(program)}) == []
    program.unlink()
    file = program_file(process.pid)
    assert file is not None
    assert (file.path, file.inode, file.is_deleted) == (str(program), inode, True)
    assert former_files({str(program)}) == [(str(program), inode)]
    assert former_files({"/somewhere/else"}) == []


def test_no_process_runs_nothing() -> None:
    assert program_file(2**22) is None

"""Runs in a file: what was written is read, and what is broken is as nothing."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from openqwave.service.programs.runfile import RunFile, SavedRun

ONE = SavedRun(number=1, program="player", pid=812, uid=1_000, cgroup="/a", group=77)
TWO = SavedRun(
    number=2,
    program="caf\u00e9",
    pid=9,
    uid=0,
    cgroup="/b c",
    group=(1 << 63) + 1,
    traffic_type=4,
    dscp=46,
    rate_bps=(1 << 64) - 1,
    hold_back=True,
    adopt=True,
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = RunFile(tmp_path / "runs")
    assert file.read() == ()
    file.write([ONE, TWO])
    assert RunFile(tmp_path / "runs").read() == (ONE, TWO)
    file.write([TWO])
    assert file.read() == (TWO,)
    assert file.complaint == ""
    assert stat.S_IMODE((tmp_path / "runs").stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"format":1,"runs":[{}]}', b"[" * 100_000, b"\xff", b"null"]
)
def test_what_is_broken_is_as_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "runs").write_bytes(data)
    file = RunFile(tmp_path / "runs")
    assert file.read() == ()
    assert str(tmp_path) in file.complaint


def test_a_file_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "runs").write_bytes(b'{"format":2,"runs":[]}')
    file = RunFile(tmp_path / "runs")
    assert file.read() == ()
    assert "another version" in file.complaint


def test_what_cannot_be_written_leaves_the_former(tmp_path: Path) -> None:
    file = RunFile(tmp_path / "runs")
    file.write([ONE])
    (tmp_path / "runs.new").mkdir()
    with pytest.raises(OSError, match=r"runs\.new"):
        file.write([TWO])
    assert file.read() == (ONE,)

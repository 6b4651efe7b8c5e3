"""What the demos have in common: a chart, and that nothing stays when one is interrupted."""

from __future__ import annotations

import os
import select
import signal
import struct
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TIMEOUT_S: Final = 100.0
_PNG: Final = b"\x89PNG\r\n\x1a\n"
# A shell's background job is born ignoring SIGINT, and so is what it starts.
_INTERRUPTIBLE: Final = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from openqwave.cli.main import run
run()
"""


def assert_chart(path: Path, least_bytes: int = 50_000) -> None:
    """It is a picture of a chart's size.

    Args:
        path: The file.
        least_bytes: What it has at least; less would be empty.
    """
    data = path.read_bytes()
    assert data.startswith(_PNG)
    # The first chunk, IHDR, begins with width and height.
    width, height = struct.unpack_from("!II", data, len(_PNG) + 8)
    assert 1000 <= width <= 4000
    assert 600 <= height <= 3000
    assert least_bytes < len(data) < 5_000_000


def _descendants(pid: int) -> list[int]:
    """Return the processes that have some process as their parent."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # After the name in brackets: state, parent.
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # Gone meanwhile.
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def _users(inodes: set[int]) -> Iterator[Path]:
    """Find the tasks that are in one of some network namespaces."""
    names = {f"net:[{inode}]" for inode in inodes}
    for path in Path("/proc").glob("[0-9]*/task/[0-9]*/ns/net"):
        try:
            if os.readlink(path) in names:
                yield path
        except OSError:  # Gone meanwhile, or another user's.
            continue


def assert_interruption_leaves_nothing(
    arguments: Sequence[str],
    number: signal.Signals,
    *,
    lines: Sequence[str],
    children: int,
    to_group: bool = False,
) -> None:
    """Interrupt a demo in the middle, and see that all that it made is gone.

    Args:
        arguments: Of `qwave`.
        number: The signal.
        lines: What its first lines have in them; when it has said so, it runs.
        children: How many processes it has then.
        to_group: They get the signal, too, as from a terminal.
    """
    with ExitStack() as resources:
        process = resources.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", _INTERRUPTIBLE, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        resources.callback(process.kill)
        assert process.stdout is not None
        for line in lines:
            assert line in process.stdout.readline()
        running = _descendants(process.pid)
        assert len(running) == children
        ends = [os.pidfd_open(child) for child in running]
        for end in ends:
            resources.callback(os.close, end)
        inodes = {Path(f"/proc/{child}/ns/net").stat().st_ino for child in running}
        assert len(inodes) == 2
        assert any(_users(inodes))

        if to_group:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 128 + number
        assert errors == "Interrupted; everything is taken down.\n"
        for end in ends:
            assert select.select([end], [], [], 0)[0], "a child lives on"
        assert list(_users(inodes)) == []

"""Runs as a file of the run directory: they outlive the service, and the next start has them again.

The file is written anew at each change and put in the place of the former, so a crash leaves one or
the other. It is in memory (tmpfs), as the groups are that it tells of. A reader believes only what
makes sense: a file that is broken is as one that is not there.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

_FORMAT: Final = 1


class SavedRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run, as it was asked for.

    Attributes:
        number: Its number for people.
        program: What runs in it.
        pid: Its process.
        uid: Whose run it is.
        cgroup: Where its group is, as ``/proc/PID/cgroup`` has it.
        group: The group's number; another one of that path is another group.
        traffic_type: 0 to 5, or None.
        dscp: An exact code point, or None.
        rate_bps: Or None.
        hold_back: What is above the rate waits.
        adopt: Sockets that were there before belong to it, too.
    """

    number: int
    program: str
    pid: int
    uid: int
    cgroup: str
    group: int
    traffic_type: int | None = None
    dscp: int | None = None
    rate_bps: int | None = None
    hold_back: bool = False
    adopt: bool = False


class _Saved(msgspec.Struct, frozen=True):
    format: int
    runs: tuple[SavedRun, ...]


class RunFile:
    """The file.

    Attributes:
        complaint: Why it could not be read; empty where it could, or is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.complaint = ""

    def read(self) -> tuple[SavedRun, ...]:
        """The runs that it tells of; none where it is not there, or broken."""
        try:
            saved = msgspec.json.decode(self._path.read_bytes(), type=_Saved)
        except FileNotFoundError:
            return ()
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            self.complaint = f"{self._path} cannot be read: {error}"
            return ()
        if saved.format != _FORMAT:
            self.complaint = f"{self._path} is of another version of the service"
            return ()
        return saved.runs

    def write(self, runs: Iterable[SavedRun]) -> None:
        """Put these in the place of the former.

        Raises:
            OSError: The file cannot be written.
        """
        new = self._path.with_suffix(".new")
        data = msgspec.json.encode(_Saved(_FORMAT, tuple(runs)))
        number = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with open(number, "wb") as file:
                file.write(data)
            os.replace(new, self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise

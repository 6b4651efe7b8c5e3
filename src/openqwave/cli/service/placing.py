"""Putting files in place so that every step can be undone.

A file is written beside its place and then moved there, so at no moment half of it is there, and a
program that runs keeps the file that it has open. What was there before is kept until all is done.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from openqwave.cli.service.troubles import Trouble

if TYPE_CHECKING:
    from collections.abc import Callable


class Placing:
    """Steps that were taken and how each is undone; undoes them all unless `keep` is called.

    Raises:
        Trouble: At the end of the block: not all could be undone.
    """

    def __init__(self) -> None:
        self._undo = contextlib.ExitStack()
        self._afterwards = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            self._undo.close()
        except (Trouble, OSError, subprocess.SubprocessError) as second:
            raise Trouble(
                f"{error}\nNot all of what was done could be undone: {second}", is_undone=False
            ) from error

    def keep(self) -> None:
        """All is done: leave it, and drop what was kept of before."""
        self._undo.pop_all()
        self._afterwards.close()

    def undo_with(self, action: Callable[[], object]) -> None:
        """Undo a step that was taken, by this."""
        self._undo.callback(action)

    def directory(self, path: Path, mode: int = 0o755) -> list[Path]:
        """Make a directory and those above it; return those that were not there."""
        missing = [each for each in (path, *path.parents) if not each.exists()]
        for each in reversed(missing):
            each.mkdir()
            self._undo.callback(_remove_empty, each)
            # Whatever the umask.
            each.chmod(mode if each == path else 0o755)
        return missing

    def file(self, path: Path, content: bytes, mode: int) -> None:
        """Write a file, in place of one that may be there."""
        before = _kept(path)
        self._undo.callback(_put_back, path, before)
        write_whole(path, content, mode)

    def tree(self, path: Path, fill: Callable[[Path], None]) -> None:
        """Make a directory with what is to be in it, in place of one that may be there."""
        fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        self._undo.callback(shutil.rmtree, fresh, ignore_errors=True)
        fill(fresh)
        fresh.chmod(0o755)
        if path.exists():
            former = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
            self._undo.callback(former.rename, path)
            path.rename(former)
            self._afterwards.callback(shutil.rmtree, former, ignore_errors=True)
        self._undo.callback(shutil.rmtree, path, ignore_errors=True)
        fresh.rename(path)


def write_whole(path: Path, content: bytes, mode: int) -> None:
    """Write a file, all of it or nothing.

    Raises:
        OSError: It cannot be written; whatever was there is as it was.
    """
    number, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _kept(path: Path) -> tuple[bytes, int] | None:
    try:
        return path.read_bytes(), path.stat().st_mode & 0o7777
    except FileNotFoundError:
        return None


def _put_back(path: Path, before: tuple[bytes, int] | None) -> None:
    if before is None:
        path.unlink(missing_ok=True)
    else:
        write_whole(path, *before)


def _remove_empty(path: Path) -> None:
    # What somebody else has put there since is theirs.
    with contextlib.suppress(OSError):
        path.rmdir()

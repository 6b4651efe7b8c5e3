"""The file of a picture: what can be wrong with it is told first, and it is written in one go.

A measurement takes seconds or hours, so a name that cannot be written must not be found out after
it. What is written is complete before the file is touched: it goes beside it under another name,
and then takes its place. So an end at any time leaves the old picture or the new one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import stat
from pathlib import Path
from typing import Final

SUFFIXES: Final = (".png", ".svg")
ADVICE: Final = "matplotlib is not installed; pip install 'openqwave[plot]'"


def refusal(path: Path) -> str:
    """Say why no picture could be written to a path; empty if it could. Leaves it as it is."""
    if path.suffix.lower() not in SUFFIXES:
        return f"{path}: a picture's name ends in {' or '.join(SUFFIXES)}"
    try:
        existed = path.exists()
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        return f"{path}: cannot be written: {error.strerror}"
    return ""


def can_draw() -> bool:
    """Tell whether the drawing library is installed, without loading it."""
    return importlib.util.find_spec("matplotlib") is not None


def obstacle(path: Path) -> str:
    """Say why there could be no picture in a file, for whatever reason; empty if there could."""
    return refusal(path) or ("" if can_draw() else f"{path}: {ADVICE}")


def write(path: Path, picture: bytes) -> None:
    """Put a picture in a file, in place of what is there.

    Where nothing can be made beside the file, as in a folder of somebody else's, it is written
    over.

    Raises:
        OSError: It cannot be written; nothing is left of the attempt.
    """
    # What a link leads to is replaced, not the link.
    path = path.resolve()
    try:
        old = path.stat()
    except FileNotFoundError:
        old = None
    beside = path.with_name(f".qwave-{os.urandom(8).hex()}{path.suffix}")
    try:
        if old is not None and not stat.S_ISREG(old.st_mode):
            raise PermissionError
        file = beside.open("xb")
    except PermissionError:
        path.write_bytes(picture)
        return
    try:
        with file:
            file.write(picture)
            if old is not None:
                # Whose it was, it stays, as far as this user may give it away.
                with contextlib.suppress(PermissionError):
                    os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise

"""The service's user: a name without a home, a shell or a password."""

from __future__ import annotations

import grp
import pwd
import shutil
import subprocess
from typing import TYPE_CHECKING

from openqwave.cli.service.layout import USER
from openqwave.cli.service.troubles import Trouble

if TYPE_CHECKING:
    from pathlib import Path

# The tools of Debian's passwd and of shadow elsewhere; a database is locked for a moment only.
_PATIENCE_S = 30.0


def is_there() -> bool:
    """Is there a user of the name?"""
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return False
    return True


def make(declaration: Path) -> None:
    """Make the user.

    Args:
        declaration: The file for systemd-sysusers, which is used where it is.

    Raises:
        Trouble: It cannot be made.
    """
    tool = shutil.which("systemd-sysusers")
    if tool is not None:
        _run([tool, str(declaration)])
    else:
        tool = shutil.which("useradd")
        if tool is None:
            raise Trouble(
                f"neither systemd-sysusers nor useradd is here: make a system user {USER!r} first"
            )
        shell = shutil.which("nologin") or "/usr/sbin/nologin"
        kind = ["--system", "--user-group", "--no-create-home", "--home-dir", "/"]
        _run([tool, *kind, "--shell", shell, USER])
    if not is_there():
        raise Trouble(f"{tool} ended well, and there is no user {USER!r}")


def remove() -> None:
    """Remove the user, and the group of its name.

    Raises:
        Trouble: It cannot be removed.
    """
    if is_there():
        _run([_tool("userdel"), USER])
    try:
        grp.getgrnam(USER)
    except KeyError:
        return
    _run([_tool("groupdel"), USER])


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Trouble(f"{name} is not here, which would remove the user {USER!r}")
    return found


def _run(argv: list[str]) -> None:
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=_PATIENCE_S, check=False, stdin=None
    )
    if done.returncode != 0:
        raise Trouble(f"{argv[0]} failed: {(done.stderr or done.stdout).strip()}")

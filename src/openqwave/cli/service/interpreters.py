"""A Python that the service's user may run.

The one that runs this command will do where everybody may run it. One that is in somebody's home
will not: others cannot enter, and the unit hides homes altogether. Compiled extensions fit every
Python of the same version, so one that the system has is as good.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from openqwave.cli.service.troubles import CANNOT_RUN, Trouble

# ProtectHome= of the unit hides these.
_HIDDEN: Final = ("/home", "/root", "/run/user")
# Debian's minimal Python has none of these.
_NEEDED: Final = "import argparse, ctypes, ipaddress, json, logging, socket, sqlite3, tomllib"
# Nobody in particular (Linux's overflowuid): who may run it this way, everybody may.
_ANYBODY: Final = 65_534
_PATIENCE_S: Final = 30.0


def find() -> str:
    """The path of a Python for the service.

    Raises:
        Trouble: There is none.
    """
    release = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = os.path.realpath(sys.executable)
    if own.startswith(sys.prefix + "/"):
        # A copy within a virtual environment.
        own = str(Path(sys.base_prefix) / "bin" / release)
    candidates = [own, f"/usr/bin/{release}", f"/usr/local/bin/{release}"]
    for candidate in dict.fromkeys(candidates):
        if fits(candidate):
            return candidate
    raise Trouble(
        f"the service's user cannot run {own}, and no other {release} is here that everybody may "
        f"run, with all of its standard library. Install one for all users (Debian: apt install "
        f"{release} lib{release}-stdlib), or make the environment of this command with the Python "
        "of the system",
        CANNOT_RUN,
    )


def fits(path: str) -> bool:
    """May everybody run this Python, and is it of the version and build that is needed?"""
    if any(path.startswith(hidden + "/") for hidden in _HIDDEN):
        return False
    told = f"{_NEEDED}; import sys; print(sys.implementation.cache_tag)"
    # Who is not root cannot try it as another; it is for an image then.
    anybody = _ANYBODY if os.geteuid() == 0 else None
    try:
        done = subprocess.run(
            [path, "-IS", "-c", told],
            user=anybody,
            group=anybody,
            extra_groups=None if anybody is None else [],
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.strip() == sys.implementation.cache_tag

"""Programs run as the user nobody, who may read the project and nothing of root's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest

import openqwave

USER = 65_534


def environment() -> dict[str, str]:
    """Where the project and its packages are, and nothing else of this process's environment."""
    source = Path(openqwave.__file__).parents[1]
    path = os.pathsep.join((str(source), sysconfig.get_paths()["purelib"]))
    return {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.defpath}


def interpreter(*modules: str) -> str:
    """Find a Python that nobody may run and that finds some modules; skips the test if none."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, shutil.which(version, path="/usr/local/bin:/usr/bin")):
        try:
            if candidate and not run([candidate, "-c", f"import {', '.join(modules)}"])[0]:
                return candidate
        except PermissionError:
            continue
    pytest.skip(f"no {version} that other users may run and that has the project's packages")


def run(argv: Sequence[str]) -> tuple[int, str, str]:
    """Run a program to its end; return its status, output and errors."""
    done = subprocess.run(
        argv,
        user=USER,
        group=USER,
        extra_groups=[],
        env=environment(),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr

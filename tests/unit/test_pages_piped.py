"""Lines of pages that put one program's JSON into another's hands, typed into a shell."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from openqwave.ipc import messages as ms
from tests.pages import blocks
from tests.unit.fake_service import Script, fake_service

# Where this Python's `qwave` is.
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.skipif(
    shutil.which("jq") is None, reason="needs jq (scripts/tools.sh installs it where it can)"
)


def piped(page: str) -> str:
    """The page's line that has a pipe in it."""
    (found,) = [block.text for block in blocks(page, "sh") if " | " in block.first]
    return found


def typed(line: str, socket: str) -> str:
    done = subprocess.run(
        ["bash", "-c", line],  # noqa: S607 - whichever is here
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "QWAVE_SOCKET": socket},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_doctor() -> None:
    line = piped("docs/doctor.md")
    command, _ = line.split(" | ", 1)
    findings = json.loads(typed(command, "/nowhere"))["findings"]
    missing = [each for each in findings if each["verdict"] == "missing"]
    assert typed(line, "/nowhere") == "".join(f"{one['topic']}: {one['fix']}\n" for one in missing)


def flow(number: int, program: str, sending_bps: int, contract_bps: int) -> ms.FlowRow:
    return ms.FlowRow(
        flow=number,
        pid=100 + number,
        program=program,
        user="anna",
        uid=1000,
        adaptive=True,
        traffic_type="voice",
        marking="by type",
        dscp=56,
        sending_bps=sending_bps,
        contract_bps=contract_bps,
    )


def test_flows(tmp_path: Path) -> None:
    rows = [flow(1, "keeps", 900_000, 1_000_000), flow(2, "exceeds", 2_000_000, 1_000_000)]
    with fake_service(tmp_path, Script(flows=lambda _: rows)) as service:
        assert typed(piped("docs/overview.md"), str(service.path)) == '"exceeds"\n'

"""The README's section on the service, typed as it stands, on a machine of its own."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from openqwave.lab.topology import Lab
from tests.kernel.machine import booted

pytestmark = [pytest.mark.kernel, pytest.mark.root]

ROOT = Path(__file__).parents[2]
# A package index may be slow.
INSTALLING_TIMEOUT_S = 300


def commands() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("\n## The service\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return str(block).splitlines(keepends=True)


def checkout(directory: Path) -> None:
    """The project as it is fetched, before anything is typed."""
    directory.mkdir()
    for path in ROOT.iterdir():
        if not path.name.startswith("."):
            (directory / path.name).symlink_to(path)


def make_environment(command: str, directory: Path) -> None:
    """Type what makes the environment; skips the test where no package index is reached.

    Not on the machine, which has no network but its own.
    """
    assert command.startswith("scripts/venv.sh ")
    done = subprocess.run(
        ["sh", "-c", command],  # noqa: S607 - as people do
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=INSTALLING_TIMEOUT_S,
        check=False,
    )
    if "Could not find a version" in done.stderr:
        pytest.skip("no package index is reached")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(2 * INSTALLING_TIMEOUT_S)
def test_as_it_stands(lab: Lab, tmp_path: Path) -> None:
    # It is for Debian and its like. The second line installs what is there already, as people do.
    if missing := [name for name in ("apt-get", "sudo", "tcpdump") if shutil.which(name) is None]:
        pytest.skip(f"needs {', '.join(missing)} (scripts/tools.sh installs what it can)")
    memory, directory = tmp_path / "memory", tmp_path / "openqwave"
    memory.mkdir()
    checkout(directory)
    environment, *typed = commands()
    make_environment(environment, directory)
    host = lab.host("alone")
    with booted(host, memory) as machine:
        before = machine.snapshot()
        with host.enter():
            watcher = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        with watcher:
            watcher.bind(("lo", 0x0800))
            script = f"cd {directory} && set -e\n{''.join(typed)}"
            # With the packages of the new environment, not with this one's.
            done = machine.run("sh", "-c", script, environment={"PYTHONPATH": ""})
            seen = set()
            watcher.setblocking(False)
            while True:
                try:
                    packet = watcher.recv(2_048)
                except BlockingIOError:
                    break
                if packet[9] == socket.IPPROTO_UDP and packet[22:24] == (5004).to_bytes(2):
                    seen.add(packet[1])
        assert done.status == 0, done.output + done.errors
        # What the section says is shown, and what was on the wire.
        assert "tos 0xe0" in done.output
        assert seen == {0xE0}
        assert "service: " in done.output
        assert "DSCP 56" in done.output
        # Nothing is left.
        assert "removed    the user qwave" in done.output
        assert machine.snapshot() == before
        assert machine.run("pgrep", "qwaved").output == ""
        # And the program says so.
        done = machine.run(sys.executable, str(ROOT / "examples" / "marked_voice.py"))
        assert (done.status, done.output) == (1, "")
        assert "/run/qwave/qwaved.sock" in done.errors

"""The README's section on the service, typed as it stands, on a machine of its own."""

from __future__ import annotations

import re
import shutil
import socket
import sys
from pathlib import Path

import pytest

from openqwave.lab.topology import Lab
from tests.kernel.machine import booted

pytestmark = [pytest.mark.kernel, pytest.mark.root]

ROOT = Path(__file__).parents[2]
# Stands in for commands that a machine of ours may not have; a fresh Debian has both a word away.
STANDS_IN = {
    # Its caller is root already.
    "sudo": '#!/bin/sh\nexec "$@"\n',
    # The first packet, in tcpdump's words as far as they are of interest.
    "tcpdump": f"""#!{sys.executable}
import socket
with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as sock:
    sock.bind(("lo", 0x0800))
    while True:
        packet = sock.recv(2_048)
        if packet[9] == 17 and packet[22:24] == (5004).to_bytes(2):
            print(f"IP (tos {{packet[1]:#x}}, ...)")
            break
""",
}


def commands() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("\n## The service\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    environment, tool, *lines = block.splitlines(keepends=True)
    # What these two bring, from package indexes, is here or stood in for.
    assert environment.startswith("scripts/venv.sh ")
    assert tool == "sudo apt-get install -y tcpdump\n"
    return "".join(lines)


def checkout(directory: Path) -> None:
    """The project with an environment, as the first command makes it from a package index."""
    for name in ("examples", "src"):
        (directory / name).symlink_to(ROOT / name)
    tools = directory / ".venv" / "bin"
    tools.mkdir(parents=True)
    (tools / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tools / "qwave").write_text(f'#!/bin/sh\nexec {sys.executable} -m openqwave.cli "$@"\n')
    for name, text in STANDS_IN.items():
        if shutil.which(name) is None:
            (tools / name).write_text(text)
    for tool in tools.iterdir():
        tool.chmod(0o755)


def test_as_it_stands(lab: Lab, tmp_path: Path) -> None:
    memory, directory = tmp_path / "memory", tmp_path / "openqwave"
    memory.mkdir()
    directory.mkdir()
    checkout(directory)
    host = lab.host("alone")
    with booted(host, memory) as machine:
        before = machine.snapshot()
        with host.enter():
            watcher = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        with watcher:
            watcher.bind(("lo", 0x0800))
            script = f"cd {directory} && PATH=$PWD/.venv/bin:$PATH && set -e\n{commands()}"
            done = machine.run("sh", "-c", script)
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

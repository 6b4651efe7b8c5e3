"""Pages typed as they stand, by somebody who has just fetched the project, on a machine of its own.

What is printed has to be what the page shows; what may differ is listed here, and the page says so.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kernel.machine import TIMEOUT_S, Machine, booted
from tests.kernel.service_stage import public_folder
from tests.kernel.typed import (
    INSTALLING_TIMEOUT_S,
    Shell,
    checkout,
    make_environment,
    needs,
    ordinary_user,
)
from tests.pages import ROOT, Command, blocks, is_as_shown, session, text_of

if TYPE_CHECKING:
    from openqwave.lab.hosts import Host
    from openqwave.lab.topology import Lab

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.root,
    pytest.mark.timeout(2 * INSTALLING_TIMEOUT_S),
]

HERE = Path(__file__).parent
# What the pages that name no place begin with.
ENVIRONMENT = "scripts/venv.sh cli"

# Times, ports and numbers of processes and packets differ, and what tcpdump counts.
DIFFERING = [
    (r"\b\d\d:\d\d:\d\d(\.\d+)?\b", "TIME"),
    (r"(\d+\.\d+\.\d+\.\d+)[.:](3[2-9]|[45]\d|6[0-5])\d{3}\b", r"\1 PORT"),
    (r"0\.0\.0\.0[.:]\d+", "0.0.0.0 PORT"),
    (r"^\[(\d)\] \d+$", r"[\1] PROCESS"),
    (r"\bid \d+", "id NUMBER"),
    (r"^\d+ packets (captured|received|dropped)", r"packets \1"),
    # Of one or two packets that were there when it ended.
    (r"^1 packet captured|^packets captured", "packets captured"),
    (r"process \d+", "process NUMBER"),
    # Not every mechanism counts.
    (r"; sent \d+ packets \(\d+ kB\)", ""),
    (r"^( +\d+) +\w+ +stream\.py +\d+", r"\1 USER stream.py PROCESS"),
    (r"^flow .*", "HEADING"),
    (r"( voice +56 +- +)[\d.?]+", r"\1 RATE"),
    # Here it may be root who asks.
    (r"^Showing only your flows; root sees all\.$", ""),
    # What marks depends on what a kernel or a container allows.
    (r"(kernel program|nftables|socket options) \(a\)", "MECHANISM"),
    (r"^\(a\) (kernel program|nftables|socket options): .*", "(a) MECHANISM"),
]


@pytest.fixture(scope="module")
def environment() -> Iterator[Path]:
    """Where the project is, with its environment as the pages have it made."""
    with public_folder() as folder:
        directory = folder / "openqwave"
        checkout(directory)
        make_environment(ENVIRONMENT, directory)
        yield directory


@pytest.fixture
def fetched(environment: Path) -> Iterator[Path]:
    """A copy of its own."""
    with public_folder() as folder:
        directory = folder / "openqwave"
        checkout(directory)
        (directory / ".venv").symlink_to(environment / ".venv")
        yield directory


@contextmanager
def on_a_machine(host: Host, fetched: Path) -> Iterator[Machine]:
    memory = fetched.parent / "memory"
    memory.mkdir()
    with booted(host, memory) as machine:
        yield machine


def readme_service() -> list[str]:
    section = text_of("README.md").split("\n## The service\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return str(block).splitlines(keepends=True)


def test_the_readmes_service(lab: Lab, fetched: Path) -> None:
    # It is for Debian and its like. The second line installs what is there already, as people do.
    needs("apt-get", "sudo", "tcpdump")
    environment, *typed = readme_service()
    assert environment.split("#")[0].strip() == ENVIRONMENT
    host = lab.host("alone")
    with on_a_machine(host, fetched) as machine:
        before = machine.snapshot()
        with host.enter():
            watcher = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        with watcher:
            watcher.bind(("lo", 0x0800))
            script = f"cd {fetched} && set -e\n{''.join(typed)}"
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


def test_the_tutorial(lab: Lab, environment: Path, fetched: Path) -> None:
    needs("apt-get", "sudo", "tcpdump", "dpkg")
    getting, *rest = blocks("docs/tutorial.md", "python", "console")
    installing, cloning, entering, making = session(getting)
    # Fetched is what is tested here, and not what has been published; its environment was made
    # before, where a package index is reached.
    assert cloning.typed == "git clone <where you found this> openqwave"
    assert entering == Command("cd openqwave", ())
    assert making.typed == ENVIRONMENT
    assert is_as_shown("Installing openqwave[cli] into .venv ...\n", making.shown)
    packages = installing.typed.removeprefix("sudo apt-get install -y ").split()
    there = subprocess.run(
        ["dpkg", "-s", *packages],  # noqa: S607 - whichever is here
        capture_output=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    host = lab.host("alone")
    with (
        on_a_machine(host, fetched) as machine,
        Shell(machine, fetched, user=ordinary_user(machine, fetched)) as shell,
    ):
        before = machine.snapshot()
        if there.returncode == 0:
            printed, status = shell.type(installing.typed)
            assert status == 0, printed
        for block in rest:
            if block.first.startswith("$ sudo .venv/bin/qwave run "):
                # The one thing that nothing else can do.
                printed, _ = shell.type(".venv/bin/qwave status")
                if "kernel program" not in printed:
                    continue
            shell.follow([block], DIFFERING)
        assert machine.snapshot() == before
        assert machine.run("pgrep", "qwaved").output == ""
    assert not fetched.exists()
    # Not what others use.
    assert (environment / ".venv/bin/qwave").exists()


def test_streaming_from_asyncio(lab: Lab, fetched: Path) -> None:
    needs("sudo", "tcpdump", "curl")
    host = lab.host("alone")
    with (
        on_a_machine(host, fetched) as machine,
        Shell(machine, fetched, user=ordinary_user(machine, fetched)) as shell,
    ):
        shell.follow(blocks("docs/asyncio.md", "python", "console"), DIFFERING)


def test_a_sink_for_windows(lab: Lab, fetched: Path) -> None:
    needs("sudo")
    windows, box = lab.host("windows"), lab.host("box")
    lab.link(windows, box)
    sink, service, firewall, capture = blocks("docs/windows-sink.md", "console")
    while_measured, at_the_end = blocks("docs/windows-sink.md", "text")

    def measure() -> None:
        for experiment in ("packet-pair --trains 2", "route-check", "probegap --count 10"):
            process = windows.popen(
                [
                    sys.executable,
                    str(HERE / "plain_initiator.py"),
                    box.ipv4,
                    *experiment.split(),
                ],
                stdout=subprocess.DEVNULL,
            )
            assert process.wait(TIMEOUT_S) == 0

    with on_a_machine(box, fetched) as machine, Shell(machine, fetched) as shell:
        (command,) = session(sink)
        # As it is born with a terminal, and not in a shell's background.
        interruptible = f"trap - INT; {command.typed} > lines 2>&1 & pid=$!"
        shell.type(interruptible)
        shell.type("until grep -q listening lines; do sleep 0.1; done")
        measure()
        shell.type("until grep -q 'route check: closed' lines; do sleep 0.1; done")
        shell.type("kill -TERM $pid; wait $pid")
        printed, _ = shell.type("cat lines")
        shown = while_measured.text + at_the_end.text
        assert is_as_shown(printed, shown.splitlines(), SINK), printed
        shell.follow([service, firewall], [*DIFFERING, (r"^firewall.*", "firewall"), WIDE])
        (command,) = session(capture)
        shell.type(f"{command.typed.replace('--for 10', '--for 4')} > lines 2>&1 &")
        shell.type("until grep -q 'looking at' lines; do sleep 0.1; done")
        measure()
        shell.type("wait %1")
        printed, _ = shell.type("cat lines")
        assert is_as_shown(printed, command.shown, SINK), printed
        shell.type("sudo .venv/bin/qwave service uninstall")


# Ports of the far end are other ones, and what takes how long.
SINK = [
    *DIFFERING,
    (r"[\d,]+\.\d+ (ms|us)", "SPREAD"),
]
# What else is said on the line is the host's own.
WIDE = (r"^sink +on.*", "sink on")


def test_installing_the_service(lab: Lab, fetched: Path) -> None:
    needs("sudo")
    (first, *_) = blocks("docs/service.md", "sh")
    (shown, *_) = blocks("docs/service.md", "text")
    install, status, uninstall = first.text.splitlines()
    host = lab.host("alone")
    with on_a_machine(host, fetched) as machine, Shell(machine, fetched) as shell:
        printed, _ = shell.type(install)
        # By systemd there, and in the background where none runs.
        manager = (r"^started .*", "started")
        assert is_as_shown(printed, shown.text.splitlines(), [manager]), printed
        assert shell.type(status)[1] == 0
        printed, done = shell.type(uninstall)
        assert (done, printed.splitlines()[-1]) == (0, "removed    the user qwave")


def test_a_service_by_hand(lab: Lab, fetched: Path) -> None:
    needs("curl")
    (_, foreground) = blocks("docs/service.md", "sh")
    (config, _) = blocks("docs/metrics.md", "toml")
    (asking,) = blocks("docs/metrics.md", "sh")
    command, told = foreground.text.split("#")
    (fetched / "my.toml").write_text(config.text, encoding="utf-8")
    host = lab.host("alone")
    with (
        on_a_machine(host, fetched) as machine,
        Shell(machine, fetched, [str(fetched / ".venv/bin")]) as shell,
    ):
        shell.type(f"{command} > said 2>&1 &")
        shell.type(f"export {told.split()[-1]}")
        shell.type("until qwave status > /dev/null; do sleep 0.1; done")
        printed, status = shell.type("qwave status")
        assert status == 0
        assert "my.toml" in printed
        printed, status = shell.type(asking.text.strip())
        assert status == 0
        assert "qwave_build_info{" in printed
        printed, status = shell.type("kill -INT %1; wait %1")
        assert status == 0, printed

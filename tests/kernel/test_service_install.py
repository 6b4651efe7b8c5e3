"""`qwave service` on a machine of its own: what it places, starts, undoes and takes away."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from openqwave.cli.service.contents import files
from openqwave.cli.service.layout import Layout
from openqwave.lab.topology import Lab
from tests.kernel.egress_stage import may_use_bpf
from tests.kernel.machine import SNAPSHOT, TIMEOUT_S, Done, Machine, booted

pytestmark = [pytest.mark.kernel, pytest.mark.root]

PROGRAM = "/usr/local/sbin/qwaved"
SOCKET = "/run/qwave/qwaved.sock"
CONFIG = "/etc/qwave/qwaved.toml"
UNITS = "/usr/local/lib/systemd/system"

# Capabilities of the unit, by their numbers in linux/capability.h: DAC_READ_SEARCH, NET_ADMIN,
# NET_RAW, SYS_PTRACE, PERFMON, BPF.
CAPABILITIES = sum(1 << number for number in (2, 12, 13, 19, 38, 39))


@pytest.fixture
def machine(lab: Lab, tmp_path: Path) -> Iterator[Machine]:
    with booted(lab.host("alone"), tmp_path) as found:
        yield found


def fields(status: str) -> dict[str, str]:
    """A file of /proc/PID/status."""
    return dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)


def test_installed_running_and_gone(machine: Machine) -> None:
    before = machine.snapshot()
    done = machine.service("install")
    assert (done.status, done.errors) == (0, "")
    lines = done.output.splitlines()
    assert f"placed     {PROGRAM}" in lines
    assert "made       the user qwave" in lines
    assert any("no service manager runs here" in line for line in lines)
    assert f"answers    at {SOCKET}" in lines

    status = machine.service("status", "--json").told
    assert (status["is_reachable"], status["supervisor"]) == (True, "qwave")
    assert status["installed"]["is_complete"]
    pid = status["pid"]
    assert status["status"]["pid"] == pid
    assert 0 < status["uptime_ns"] < TIMEOUT_S * 1e9
    words = machine.service("status").output
    assert re.search(rf"^running +process {pid}, since \d{{4}}-", words, re.MULTILINE)

    # Its user, the rights of the unit and no others.
    process = fields(machine.read(f"/proc/{pid}/status"))
    uid = machine.run("id", "-u", "qwave").output.strip()
    assert set(process["Uid"].split()) == {uid} != {"0"}
    assert process["NoNewPrivs"] == "1"
    bounding = int(fields(machine.read("/proc/self/status"))["CapBnd"], 16)
    for kind in ("CapPrm", "CapEff", "CapAmb", "CapBnd"):
        assert int(process[kind], 16) == CAPABILITIES & bounding
    assert machine.read(f"/proc/{pid}/comm").strip() == "qwaved"
    # Which suffice for the program in the kernel, whose object was placed, too.
    if may_use_bpf():
        assert status["status"]["backend"]["name"] == "kernel program"
    # Nobody but root can change what runs.
    look = f"find /usr/local/lib/qwave {PROGRAM} -perm /022 -o ! -user root"
    assert machine.run(*look.split()) == Done(0, "", "")

    # The rights suffice to reach a socket that only another user's process still has.
    assert machine.python(SURVIVING, KILLED) == Done(0, "held True\ngiven back\n", "")

    # What systemd thinks of the units, where it can be asked.
    if shutil.which("systemd-analyze") is not None:
        check_units(machine)

    # Again, nothing is done.
    again = machine.service("install", "--json")
    assert again.status == 0
    assert (again.told["is_changed"], again.told["is_started"], again.told["placed"]) == (
        False,
        False,
        [],
    )
    assert again.told["pid"] == pid

    done = machine.service("uninstall")
    assert (done.status, done.errors) == (0, "")
    assert "removed    the user qwave" in done.output.splitlines()
    assert machine.snapshot() == before
    assert machine.run("sh", "-c", f"ls /proc/{pid}/exe").status != 0

    done = machine.service("uninstall", "--json")
    assert (done.status, done.told["was_installed"]) == (0, False)
    done = machine.service("status", "--json")
    assert (done.status, done.told["is_reachable"], done.told["installed"]) == (3, False, None)
    assert done.told["reason"] == f"nothing listens: there is no {SOCKET}"


# Passes a connection on to a program, which has it held to a rate and is killed. A rate is an
# option of the socket (SO_MAX_PACING_RATE), whatever marks it.
SURVIVING = """
import socket, subprocess, sys, time
with socket.create_server(("127.0.0.1", 0)) as listener:
    with socket.create_connection(listener.getsockname()) as sock:
        program = [sys.executable, "-c", sys.argv[1], str(sock.fileno())]
        subprocess.run(program, pass_fds=[sock.fileno()])
        end_s = time.monotonic() + 20
        while sock.getsockopt(socket.SOL_SOCKET, 47, 8) != bytes([255] * 8):
            assert time.monotonic() < end_s
            time.sleep(0.01)
print("given back")
"""
KILLED = """
import os, signal, socket, sys
import openqwave as qw
sock = socket.socket(fileno=int(sys.argv[1]))
flow = qw.open(service=True).add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
flow.set_rate(8_000_000)
held = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, 47, 8), sys.byteorder)
print("held", 900_000 < held < 1_000_000, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def check_units(machine: Machine) -> None:
    verified = machine.run("systemd-analyze", "verify", "--man=no", f"{UNITS}/qwaved.socket")
    assert (verified.status, verified.output, verified.errors) == (0, "", "")
    judged = machine.run(
        "systemd-analyze", "security", "--offline=true", "--no-pager", f"{UNITS}/qwaved.service"
    )
    exposure = re.search(r"Overall exposure level for qwaved.service: ([0-9.]+)", judged.output)
    assert exposure is not None, judged.errors
    # Some state of its own.
    machine.run("rm", "-r", "/run/systemd")
    # Network, capabilities and other users' processes are what it is for; the rest is closed.
    assert float(exposure[1]) < 3.0


# Places without starting, as often as there are steps, and stops at each in turn.
STEPS = """
import contextlib, io, json, os, signal, sys
from pathlib import Path
from openqwave.cli.service import accounts, command, contents, installing, manifest, placing

SNAPSHOT
how = sys.argv[1]
calls = stop_at = 0
error = OSError(28, "No space left on device", "/somewhere")

def step(function):
    def stepped(*arguments, **more):
        global calls
        calls += 1
        if calls == stop_at and how == "error":
            raise error
        function(*arguments, **more)
        if calls == stop_at and how == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
    return stepped

class Pretended:
    name = "pretended"
    socket = Path("/run/qwave/qwaved.sock")
    is_started = False
    def pid(self): return None
    def start(self): self.is_started = True
    def stop(self): self.is_started = False
    def forget(self): pass
    def log_tail(self): return ""

placing.write_whole = manifest.write_whole = step(placing.write_whole)
accounts.make = step(accounts.make)
contents._sources = lambda: iter(())
contents.Code.copy_to = step(lambda self, directory: (directory / "file").write_text(""))
installing.interpreters.find = lambda: sys.executable
installing.interpreters.fits = lambda path: True
installing._check_as_user = step(lambda layout: None)
Pretended.start = step(Pretended.start)
pretended = Pretended()
command.supervisor_of = lambda *_: pretended

before = snapshot()
for stop_at in range(1, 100):
    calls = 0
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        status = command.run_install(command.Options(Path("/"), Path("/usr/local")))
    left = dict(before.items() ^ snapshot().items())
    print(json.dumps([status, errors.getvalue(), left, pretended.is_started]))
    if calls < stop_at:
        break
"""


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ("error", 1, "/somewhere: No space left on device\nAll is as it was before.\n"),
        ("signal", 143, "Interrupted; all is as it was before.\n"),
    ],
)
def test_what_stops_halfway_leaves_nothing(
    machine: Machine, how: str, status: int, words: str
) -> None:
    done = machine.python(STEPS.replace("SNAPSHOT", SNAPSHOT), how)
    assert done.status == 0, done.errors
    *stopped, last = [json.loads(line) for line in done.output.splitlines()]
    # The record, the copy, ten files, the user, the check, the start.
    assert len(stopped) == 15
    for found in stopped:
        assert found == [status, words, {}, False]
    # With nothing else in the way it comes to the question, and nobody answers.
    assert last[0] == 1
    assert "qwaved was started, and nothing listens" in last[1]
    assert last[2:] == [{}, False]


def test_a_mistake_in_the_configuration(machine: Machine) -> None:
    machine.run("sh", "-c", f"mkdir -p /etc/qwave; echo '[sink]\nsession = 1' > {CONFIG}")
    before = machine.snapshot()
    done = machine.service("install")
    assert done.status == 1
    assert f"{CONFIG}, line 2: sink.session is not known; is 'sessions' meant?" in done.errors
    assert done.errors.endswith("All is as it was before.\n")
    assert machine.snapshot() == before


# Is interrupted when the program has started, just before it is known.
IMPATIENT = """
import os, signal, sys
from pathlib import Path
from openqwave.cli.service import asking, background, command

def ask(path, patience_s):
    answer = asking.ask(path)
    if answer.status is None:
        return answer
    print(answer.status.pid, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    return asking.Answer(None)

background.ask = ask
sys.exit(command.run_install(command.Options(Path("/"), Path("/usr/local"))))
"""


def test_a_start_that_is_interrupted_leaves_no_process(machine: Machine) -> None:
    before = machine.snapshot()
    done = machine.python(IMPATIENT)
    assert (done.status, done.errors) == (143, "Interrupted; all is as it was before.\n")
    pid = int(done.output)
    assert machine.run("kill", "-0", str(pid)).status != 0
    assert machine.snapshot() == before


# Listens where the service would, until it is ended.
OTHER = f"""
import os, signal, socket
os.mkdir("/run/qwave")
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.bind("{SOCKET}")
sock.listen()
os.chmod("{SOCKET}", 0o666)
print("up", flush=True)
signal.pause()
"""


def test_another_service_is_in_the_way(machine: Machine) -> None:
    with machine.popen([sys.executable, "-c", OTHER]) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "up\n"
            before = machine.snapshot()
            done = machine.service("install")
            assert done.status == 1
            assert f"another qwaved answers at {SOCKET} already" in done.errors
            assert machine.snapshot() == before
        finally:
            other.kill()


# -- with systemd -----------------------------------------------------------------------

# Notes what it is asked, and does as asked where a file says so.
SYSTEMCTL = """\
#!/bin/sh
echo "$*" >> /run/asked
case "$*" in
*MainPID*) cat /run/pid 2>/dev/null || echo 0 ;;
*"enable --now"*)
    if [ -e /run/fails ]; then echo "Job for qwaved.service failed." >&2; exit 1; fi
    echo 1 > /run/pid ;;
*"disable --now"*) rm -f /run/pid ;;
esac
"""


@pytest.fixture
def systemd(machine: Machine) -> dict[str, str]:
    """The environment in which it finds systemd, as far as it looks."""
    script = (
        "mkdir -p /run/systemd/system /run/bin && cat > /run/bin/systemctl <<'X'\n"
        f"{SYSTEMCTL}X\n"
        "chmod 755 /run/bin/systemctl"
    )
    assert machine.run("sh", "-c", script).status == 0
    path = machine.run("sh", "-c", "echo $PATH").output.strip()
    return {"PATH": f"/run/bin:{path}"}


def asked(machine: Machine) -> list[str]:
    lines = machine.read("/run/asked").splitlines()
    return [line.removeprefix("--no-pager ") for line in lines if "MainPID" not in line]


def test_systemd_is_asked(machine: Machine, systemd: dict[str, str]) -> None:
    """Its part is played: that it starts the units is tried with systemd itself, by hand."""
    done = machine.service("install", environment=systemd)
    # What systemctl only claims to have started does not answer.
    assert done.status == 1
    assert "nothing listens" in done.errors
    assert asked(machine) == [
        "daemon-reload",
        "enable --now qwaved.socket qwaved.service",
        "disable --now qwaved.service qwaved.socket",
    ]


def test_units_that_do_not_start_are_undone(machine: Machine, systemd: dict[str, str]) -> None:
    machine.run("touch", "/run/fails", "/run/asked")
    before = machine.snapshot()
    done = machine.service("install", environment=systemd)
    assert done.status == 1
    assert "Job for qwaved.service failed." in done.errors
    assert {**machine.snapshot(), "/run/asked": ""} == {**before, "/run/asked": ""}


@pytest.mark.parametrize(
    "place", [Layout().page, Layout().command_page], ids=lambda path: path.name
)
@pytest.mark.parametrize(
    "reader",
    ["groff -man -t -ww -z -Tutf8", "mandoc -T lint -W warning"],
    ids=lambda line: line[:6],
)
def test_manual_pages_are_good(place: Path, reader: str) -> None:
    command = reader.split()
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    page = files(Layout(), "/usr/bin/python3")[place].data
    done = subprocess.run(command, input=page, capture_output=True, timeout=TIMEOUT_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")

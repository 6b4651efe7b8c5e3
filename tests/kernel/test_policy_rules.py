"""Rules of the administrator carried out: programs that were not changed, and what arrives.

Each packet of a program that a rule names carries the rule's mark, from the first to the last, and
none of anybody else's does. That ends with the rule and with the service, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

import openqwave as qw
from openqwave.model.flow import TrafficType
from tests.kernel.crash_stage import is_there
from tests.kernel.data_plane_stage import serving
from tests.kernel.exits import shown
from tests.kernel.run_stage import CONFIG as WITH_QUEUES
from tests.kernel.run_stage import Ground, programs_of
from tests.kernel.service_stage import NOBODY, Qwaved, public_folder, reaching, running
from tests.kernel.unchanged import (
    PATIENCE_S,
    PROGRAMS,
    Conversation,
    Program,
    Wire,
    skip_without,
)
from tests.patience import until

if TYPE_CHECKING:
    from openqwave.ipc.messages import ProgramRow
    from openqwave.lab.topology import Host

pytestmark = [pytest.mark.kernel, pytest.mark.root]

CONFIG = '[enforcement]\nbackend = "bpf"\n[sink]\nenabled = false\n'
VOICE, BACKGROUND = 56, 8
PORT, BESIDE, RECEIVER = 5400, 5401, 5404
PYTHON = os.path.realpath(sys.executable)

# Says something to an address and a port whenever a line comes, by one socket.
SPEAKER = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("ready", flush=True)
for line in sys.stdin:
    sock.sendto(line.strip().encode(), (sys.argv[1], int(sys.argv[2])))
"""


def rule(name: str, **said: object) -> str:
    """A rule as its file has it."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in said.items()]
    return "\n".join(["[[rule]]", f'name = "{name}"', *lines, ""])


@pytest.fixture(scope="module")
def shared(hosts: tuple[Host, Host]) -> Iterator[Qwaved]:
    with serving(hosts[0], CONFIG) as found:
        yield found


@pytest.fixture
def service(shared: Qwaved) -> Iterator[Qwaved]:
    """The service, which has no rules before and after."""
    shared.obey("")
    yield shared
    shared.obey("")


class Speaker:
    """A program that says what it is told, by a socket that stays."""

    def __init__(
        self,
        hosts: tuple[Host, Host],
        *wrapper: str,
        program: str = PYTHON,
        env: Mapping[str, str] | None = None,
        text: str = SPEAKER,
    ) -> None:
        left, right = hosts
        argv = [*wrapper, program, "-c", text, right.ipv4, str(RECEIVER)]
        self._process = left.popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | dict(env or {}),
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self.pid = self._process.pid
        self._said = 0

    def mark(self, wire: Wire) -> int:
        """Say something; the code point that it arrives with."""
        self._said += 1
        text = f"{self.pid} {self._said}"
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()

        def heard() -> list[int]:
            return [each.dscp for each in wire.of(RECEIVER) if each.payload.decode() == text]

        until(lambda: bool(heard()), f"{text} does not arrive")
        return heard()[0]

    def close(self) -> None:
        self._process.communicate("", timeout=PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def rules_of(service: Qwaved) -> dict[str, ProgramRow]:
    return {row.name: row for row in programs_of(service) if row.kind == "rule"}


# -- programs that were not changed -----------------------------------------------------


def path_of(name: str) -> str:
    """Where a program is, its links resolved."""
    found = subprocess.run(
        ["sh", "-c", f"PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin command -v {name}"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return os.path.realpath(found)


@dataclass(frozen=True)
class Named:
    """How a rule tells one side of a program; which other program speaks beside it.

    Attributes:
        client: What runs as the client.
        server: What runs as the server.
        beside: The other one, by its name.
    """

    client: str
    server: str
    beside: str


NAMED = {
    "iperf3": Named("iperf3", "iperf3", "curl"),
    "iperf3 --udp": Named("iperf3", "iperf3", "curl"),
    "curl": Named("curl", PYTHON, "iperf3"),
    "ssh": Named("ssh", "sshd", "iperf3"),
    "asyncio": Named(PYTHON, PYTHON, "iperf3"),
    "quic": Named(PYTHON, PYTHON, "iperf3"),
}
BY_NAME = {each.name: each for each in PROGRAMS}


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_each_packet_of_a_program_and_of_nobody_else(
    program: Program,
    side: str,
    hosts: tuple[Host, Host],
    service: Qwaved,
    wire: Wire,
    tmp_path: Path,
) -> None:
    named = NAMED[program.name]
    other = BY_NAME[named.beside]
    for each in (program, other):
        skip_without(each)
    program.prepare(tmp_path)
    left, right = hosts
    ends = (right, left) if side == "client" else (left, right)
    marked = Conversation(program, tmp_path, PORT, *ends, is_v6=program.name in ("curl", "asyncio"))
    # Another program, and the same one of a port that the rule does not name.
    beside = Conversation(other, tmp_path, BESIDE, *ends)
    runs = named.client if side == "client" else named.server
    path = runs if runs.startswith("/") else path_of(runs)
    service.obey(rule("one", program=path, traffic_type="voice"))
    servers = [marked.serve(), beside.serve()]
    try:
        for conversation, client in [(marked, marked.ask()), (beside, beside.ask())]:
            conversation.finish(client)
    finally:
        for server in servers:
            server.terminate()
            server.wait(PATIENCE_S)
    assert set(wire.marks(PORT)) == {VOICE}
    assert not set(wire.marks(BESIDE)) - {0} - other.own_marks
    assert {each.protocol for each in wire.of(PORT)} == program.protocols
    (row,) = rules_of(service).values()
    assert row.backend == "kernel program"
    assert row.sent_packets == len(wire.of(PORT))


@pytest.mark.parametrize("side", ["client", "server"])
def test_the_same_program_at_another_port_is_somebody_else(
    side: str, hosts: tuple[Host, Host], service: Qwaved, wire: Wire, tmp_path: Path
) -> None:
    left, right = hosts
    ends = (right, left) if side == "client" else (left, right)
    two = [Conversation(BY_NAME["asyncio"], tmp_path, port, *ends) for port in (PORT, BESIDE)]
    ports = {"remote_ports" if side == "client" else "local_ports": PORT}
    service.obey(rule("one", program=PYTHON, protocol="tcp", dscp=BACKGROUND, **ports))
    servers = [each.serve() for each in two]
    for each, client in [(each, each.ask()) for each in two]:
        each.finish(client)
    for server in servers:
        server.terminate()
        server.wait(PATIENCE_S)
    assert set(wire.marks(PORT)) == {BACKGROUND}
    assert set(wire.marks(BESIDE)) == {0}


# -- how long rules hold ----------------------------------------------------------------


def test_open_sockets_follow_each_reload(
    hosts: tuple[Host, Host], service: Qwaved, wire: Wire
) -> None:
    with Speaker(hosts) as speaker:
        assert speaker.mark(wire) == 0
        service.obey(rule("one", program=PYTHON, dscp=10))
        assert speaker.mark(wire) == 10
        service.obey(rule("one", program=PYTHON, traffic_type="voice"))
        assert speaker.mark(wire) == VOICE
        service.obey(
            "[marks]\nprofile = 'rfc8325'\n" + rule("one", program=PYTHON, traffic_type="voice")
        )
        assert speaker.mark(wire) == 46
        service.obey(rule("one", program=PYTHON, remote_ports=RECEIVER + 1, dscp=10))
        assert speaker.mark(wire) == 0
        service.obey(rule("one", program="/usr/bin/env", dscp=10))
        assert speaker.mark(wire) == 0
        service.obey(rule("one", dscp=11))
        assert speaker.mark(wire) == 11
        service.obey("")
        assert speaker.mark(wire) == 0


def test_files_with_a_mistake_change_nothing(
    hosts: tuple[Host, Host], service: Qwaved, wire: Wire
) -> None:
    service.obey(rule("one", program=PYTHON, dscp=10))
    with Speaker(hosts) as speaker:
        service.obey("[[rule]]\nname = 3\n")
        assert speaker.mark(wire) == 10


def end_in_order(service: Qwaved) -> None:
    assert service.stop() == 0


@pytest.mark.parametrize("end", [end_in_order, Qwaved.kill], ids=["stop", "kill"])
def test_marks_end_with_the_service_and_come_back_with_it(
    end: Callable[[Qwaved], object], hosts: tuple[Host, Host], wire: Wire
) -> None:
    left = hosts[0]
    before = shown(left)
    with public_folder() as folder, contextlib.closing(Qwaved(folder, left, CONFIG)) as own:
        own.obey(rule("one", program=PYTHON, dscp=10))
        with Speaker(hosts) as speaker:
            # It was there before.
            own.start()
            assert speaker.mark(wire) == 10
            with Speaker(hosts) as later:
                assert later.mark(wire) == 10
                made = made_by(own)
                assert {command for command, _ in made} == {_MAP, _PROGRAM, _LINK}
                end(own)
                assert speaker.mark(wire) == 0
                assert later.mark(wire) == 0
                until(lambda: not any(is_there(*each) for each in made), "something is left")
                assert shown(left) == before
                own.start()
                assert speaker.mark(wire) == 10
                assert later.mark(wire) == 10
                end(own)
                assert later.mark(wire) == 0
    assert shown(left) == before


# What makes each, in linux/bpf.h.
_MAP, _PROGRAM, _LINK = 0, 5, 28
_KINDS = {"map_id": _MAP, "prog_id": _PROGRAM, "link_id": _LINK}


def made_by(service: Qwaved) -> set[tuple[int, int]]:
    """What a service holds of the kernel's: what it was made by, and its number."""
    assert service.process is not None
    made: set[tuple[int, int]] = set()
    for each in Path(f"/proc/{service.process.pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            for line in each.read_text().splitlines():
                name, _, number = line.partition(":")
                if name in _KINDS:
                    made.add((_KINDS[name], int(number)))
    return made


# Makes a socket, and becomes a program that speaks by it.
HAND_ON = """
import os, socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
os.dup2(sock.fileno(), 9)
os.execv(sys.argv[1], sys.argv[1:])
"""
HANDED = SPEAKER.replace(
    "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", "socket.socket(fileno=9)"
)


def test_a_socket_that_is_handed_on_is_of_who_made_it(
    hosts: tuple[Host, Host], service: Qwaved, wire: Wire, tmp_path: Path
) -> None:
    other = tmp_path / "python-of-a-test"
    shutil.copy(PYTHON, other)
    environment = {"PYTHONHOME": sys.base_prefix}
    service.obey(rule("one", program="/usr/bin/env", dscp=9))
    made = [PYTHON, "-c", HAND_ON]
    with Speaker(hosts, *made, program=str(other), env=environment, text=HANDED) as speaker:
        assert os.path.realpath(f"/proc/{speaker.pid}/exe") == str(other)
        service.obey(rule("one", program=str(other), dscp=10))
        assert speaker.mark(wire) == 0
        service.obey(rule("one", program=PYTHON, dscp=11))
        assert speaker.mark(wire) == 11


LISTENER = """
import socket, sys
listener = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
held = []
while True:
    held.append(listener.accept()[0])
    for each in held:
        each.sendall(b"x")
"""


def test_connections_that_were_there_before_the_service(
    hosts: tuple[Host, Host], wire: Wire
) -> None:
    """A listener, what it has accepted, and what it accepts from now on."""
    left, right = hosts
    server = left.popen([PYTHON, "-c", LISTENER, str(PORT)], stdout=subprocess.PIPE)

    def connected() -> socket.socket:
        with right.enter():
            return socket.create_connection((left.ipv4, PORT))

    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        with connected() as first, public_folder() as folder:
            assert first.recv(1)
            assert set(wire.marks(PORT)) == {0}
            with contextlib.closing(Qwaved(folder, left, CONFIG)) as own:
                own.obey(rule("one", program=PYTHON, local_ports=PORT, dscp=10))
                own.start()
                before = len(wire.of(PORT))
                with connected() as second:
                    assert second.recv(1)
                    assert first.recv(1)
                    ports = {first.getsockname()[1], second.getsockname()[1]}
                after = wire.of(PORT)[before:]
                assert {each.destination_port for each in after} == ports
                # SYN-ACK of the second, and data of both.
                assert {each.dscp for each in after} == {10}
                assert "sockets that were there before" in own.log.read_text()
    finally:
        server.kill()
        server.communicate()


# -- conditions -------------------------------------------------------------------------


def test_rules_about_users(hosts: tuple[Host, Host], service: Qwaved, wire: Wire) -> None:
    service.obey(
        rule("theirs", user="nobody", dscp=10)
        + rule("mine", user="0", program=PYTHON, remote_ports=RECEIVER, dscp=20)
    )
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    with Speaker(hosts) as root, Speaker(hosts, *become, program="/usr/bin/python3") as nobody:
        assert nobody.mark(wire) == 10
        assert root.mark(wire) == 20


def test_a_unit_that_starts_later(
    hosts: tuple[Host, Host], service: Qwaved, wire: Wire, place: Ground
) -> None:
    service.obey(
        rule("unit", unit="speaks.service", dscp=10)
        + rule("inner", unit="inner.scope", dscp=11)
        + rule("cgroup", cgroup=f"/{place.path.name}", dscp=12)
    )
    assert rules_of(service)["unit"].reason == "for no traffic now: no unit speaks.service runs now"
    with Speaker(hosts) as outside, Speaker(hosts, *place.entering()) as top:
        for name in ("speaks.service", "speaks.service/inner.scope"):
            (place.path / name).mkdir()
            with Speaker(hosts, *place.entering(group=name)) as inside:
                assert inside.mark(wire) == (10 if name == "speaks.service" else 11)
        assert top.mark(wire) == 12
        assert outside.mark(wire) == 0
        assert rules_of(service)["unit"].backend == "kernel program"
    for name in ("speaks.service/inner.scope", "speaks.service"):
        (place.path / name).rmdir()


def test_the_rule_that_describes_it_most_closely_holds(
    hosts: tuple[Host, Host], service: Qwaved, wire: Wire
) -> None:
    each = [
        rule("user", user="root", dscp=1),
        rule("path", program=PYTHON, dscp=2),
        rule("name", program=os.path.basename(PYTHON), dscp=3),
        rule("cgroup", cgroup="/", dscp=4),
        rule("port", remote_ports=RECEIVER, dscp=5),
        rule("all", dscp=6),
    ]
    with Speaker(hosts) as speaker:
        for left_out in range(len(each)):
            service.obey("".join(each[left_out:][::-1]))
            assert speaker.mark(wire) == left_out + 1


def test_a_program_that_is_replaced(
    hosts: tuple[Host, Host], service: Qwaved, wire: Wire, tmp_path: Path
) -> None:
    """An update puts another file in its place; who runs the former is still that program."""
    program = tmp_path / "python-of-a-test"
    environment = {"PYTHONHOME": sys.base_prefix}

    def put() -> None:
        shutil.copy(PYTHON, tmp_path / "new")
        (tmp_path / "new").rename(program)

    put()
    with Speaker(hosts, program=str(program), env=environment) as before:
        put()
        service.obey(rule("one", program=str(program), dscp=10))
        assert before.mark(wire) == 10
        with Speaker(hosts, program=str(program), env=environment) as first:
            assert first.mark(wire) == 10
            put()
            second = Speaker(hosts, program=str(program), env=environment)
            with second:
                # Files are looked at once a second.
                until(lambda: second.mark(wire) == 10, "the new file is not seen")
                assert first.mark(wire) == 10
                assert before.mark(wire) == 10


def test_a_flow_of_its_own_comes_before_rules(
    hosts: tuple[Host, Host], service: Qwaved, wire: Wire
) -> None:
    left, right = hosts
    service.obey(rule("all", dscp=10))
    with left.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock, reaching(service.socket), qw.open(service=True) as qos:
        to = (right.ipv4, RECEIVER)

        def mark(text: bytes) -> int:
            sock.sendto(text, to)
            until(lambda: any(each.payload == text for each in wire.of(RECEIVER)), "it is lost")
            return next(each.dscp for each in wire.of(RECEIVER) if each.payload == text)

        assert mark(b"before") == 10
        with qos.add_socket(sock, to, traffic_type=TrafficType.VOICE, adaptive=False):
            assert mark(b"flow") == VOICE
        assert mark(b"after") == 10


# Offers some 8 Mbit/s for a time.
FLOOD = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    sock.sendto(bytes(972), (sys.argv[1], int(sys.argv[2])))
    time.sleep(0.001)
"""
RATE_KBPS, FLOOD_S = 2_000, 2.0


def test_all_traffic_of_a_rule_shares_its_rate(hosts: tuple[Host, Host], wire: Wire) -> None:
    left, right = hosts
    argv = [PYTHON, "-c", FLOOD, right.ipv4, str(RECEIVER), str(FLOOD_S)]
    with running(left, WITH_QUEUES) as own:
        own.obey(rule("one", program=PYTHON, remote_ports=RECEIVER, dscp=10, rate_kbps=RATE_KBPS))
        (row,) = rules_of(own).values()
        assert row.excess == "waits"
        assert "a queue that holds them to the rate" in row.reason
        both = [left.popen(argv) for _ in range(2)]
        for each in both:
            assert each.wait(PATIENCE_S) == 0
        packets = wire.of(RECEIVER)
    assert {each.dscp for each in packets} == {10}
    assert len({each.source_port for each in packets}) == 2
    spent_s = (packets[-1].time_ns - packets[0].time_ns) / 1e9
    rate_bps = sum(each.length_bytes for each in packets) * 8 / spent_s
    assert RATE_KBPS * 500 < rate_bps < RATE_KBPS * 1_250


# -- what is told -----------------------------------------------------------------------


def explained(service: Qwaved, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "openqwave.cli", "policy", *arguments, "--json"),
            *("--config", str(service.config), "--policy", str(service.policy)),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=os.environ | {"QWAVE_SOCKET": service.socket},
        check=False,
    )
    assert not done.stderr, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_the_command_says_what_is_carried_out(service: Qwaved) -> None:
    service.obey(rule("one", program=PYTHON, dscp=10) + rule("two", user="no-such-user", dscp=1))
    asked = ("explain", str(os.getpid()), "--to", "192.0.2.1:9")
    told = explained(service, *asked)
    assert told["winner"]["name"] == "one"
    assert told["winner"]["in_force"] is True
    assert told["rules_are_carried_out"] is True
    shown = {each["name"]: each for each in explained(service, "show")["rules"]}
    assert shown["one"]["in_force"] is True
    assert shown["two"]["in_force"] is False
    assert "there is no user no-such-user" in shown["two"]["how"]
    # Files that the service has not read yet.
    (service.policy / "50-test.toml").write_text(rule("one", program=PYTHON, dscp=11))
    told = explained(service, *asked)
    assert told["winner"]["in_force"] is False
    assert "reload" in told["winner"]["how"]
    status = service.show("status")
    assert status["programs"] == {"runs": 0, "rules": 2, "rules_in_force": 1, "reason": ""}


def test_where_programs_cannot_be_told_that_is_said(hosts: tuple[Host, Host]) -> None:
    config = CONFIG.replace('"bpf"', '"socket-options"')
    with running(hosts[0], config) as own:
        own.obey(rule("one", dscp=10))
        (row,) = rules_of(own).values()
        assert row.backend == ""
        assert "cannot tell whose they are" in row.reason
        assert "0 of 1 rules for programs are in force" in own.log.read_text()
        status = own.show("status")
        assert "cannot tell whose they are" in status["programs"]["reason"]

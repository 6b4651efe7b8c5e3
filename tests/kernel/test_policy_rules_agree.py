"""What the kernel does for packets is what `decide` says of them, for rules of all kinds.

Rules are drawn at random, always the same ones. Programs of two users, three executables and three
cgroups send from and to known ports; each datagram has the mark of the rule that holds for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from openqwave.admission.rules import Traffic, decide
from openqwave.drivers.programs import process_program
from openqwave.model.flow import Transport
from openqwave.service.config import load
from tests.kernel.data_plane_stage import serving
from tests.kernel.run_stage import Ground, ground
from tests.kernel.service_stage import NOBODY, Qwaved
from tests.kernel.unchanged import Wire, wire_from
from tests.patience import until

if TYPE_CHECKING:
    from openqwave.lab.topology import Host

pytestmark = [pytest.mark.kernel, pytest.mark.root]

CONFIG = '[enforcement]\nbackend = "bpf"\n[sink]\nenabled = false\n'
PYTHON = os.path.realpath(sys.executable)
SYSTEMS = os.path.realpath("/usr/bin/python3")
PORTS: Final = (5_600, 5_605)
SETS, MOST_RULES = 60, 10

SPEAKER = """
import socket, sys
sock = socket.socket(getattr(socket, sys.argv[1]), socket.SOCK_DGRAM)
sock.bind(("", int(sys.argv[2])))
print("ready", flush=True)
for line in sys.stdin:
    address, port, text = line.split(None, 2)
    sock.sendto(text.strip().encode(), (address, int(port)))
"""


@dataclass
class Speaker:
    """A program that sends what it is told.

    Attributes:
        process: It.
        traffic: What it sends, as rules see it, but for the far port.
        address: Where it sends, as its socket takes it.
    """

    process: subprocess.Popen[str]
    traffic: Traffic
    address: str

    def say(self, port: int, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{self.address} {port} {text}\n")
        self.process.stdin.flush()


@pytest.fixture(scope="module")
def service(hosts: tuple[Host, Host]) -> Iterator[Qwaved]:
    with serving(hosts[0], CONFIG) as found:
        yield found


@pytest.fixture
def place() -> Iterator[Ground]:
    with ground() as found:
        yield found
        for name in ("a.service/b.scope", "a.service"):
            until(partial(_is_removed, found.path / name))


def _is_removed(folder: Path) -> bool:
    """Remove a cgroup, once nobody is in it."""
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def version(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found


def address(host: Host, version: int) -> str:
    return host.ipv4 if version == 4 else host.ipv6


@pytest.fixture
def speakers(
    hosts: tuple[Host, Host], place: Ground, tmp_path: Path, version: int
) -> Iterator[tuple[Speaker, ...]]:
    if not os.path.exists(SYSTEMS):
        pytest.skip("needs a Python that every user may run")
    (place.path / "a.service" / "b.scope").mkdir(parents=True)
    copied = tmp_path / "other-program"
    shutil.copy(PYTHON, copied)
    become = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    kinds: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
        (PYTHON, "", (), "AF_INET"),
        (PYTHON, "a.service", (), "AF_INET6"),
        (str(copied), "a.service/b.scope", (), "AF_INET"),
        (SYSTEMS, "a.service", become, "AF_INET"),
        (SYSTEMS, "a.service/b.scope", become, "AF_INET6"),
    )
    left, right = hosts
    with contextlib.ExitStack() as stack:
        found = []
        for number, (program, group, wrapper, family4) in enumerate(kinds):
            family = family4 if version == 4 else "AF_INET6"
            argv = [*wrapper, program, "-c", SPEAKER, family, str(7_000 + number)]
            environment = {"PYTHONHOME": sys.base_prefix} if program == str(copied) else {}
            process = left.popen(
                place.entering(*argv, group=group),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | environment,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            traffic = Traffic(
                process_program(process.pid).program,
                Transport.UDP,
                ip_address(address(left, version)),
                ip_address(address(right, version)),
                7_000 + number,
            )
            assert traffic.program.path == program
            mapped = "::ffff:" if family == "AF_INET6" and version == 4 else ""
            found.append(Speaker(process, traffic, mapped + address(right, version)))
        yield tuple(found)


# For rules about addresses: all of a family, some that are near, and one that nobody has.
ALL: Final = {4: "0.0.0.0/0", 6: "::/0"}
NEAR: Final = {4: 24, 6: 64}
NOBODYS: Final = {4: "192.0.2.1", 6: "2001:db8::1"}


def drawn(dice: random.Random, hosts: tuple[Host, Host], place: Ground, version: int) -> str:
    """A policy file with some rules."""
    top = f"/{place.path.name}"
    ours, theirs = (address(host, version) for host in hosts)
    near = str(ip_network(f"{theirs}/{NEAR[version]}", strict=False))
    # Of the other family, and so for no traffic.
    other = ALL[10 - version]
    choices: dict[str, list[Any]] = {
        "user": ["root", "nobody", "0", str(NOBODY)],
        "program": [PYTHON, os.path.basename(PYTHON), SYSTEMS, "other-program", "/usr/bin/env"],
        "unit": ["a.service", "b.scope", "c.service"],
        "cgroup": ["/", top, f"{top}/a.service", f"{top}/a.service/b.scope"],
        "protocol": ["udp", "udp", "tcp"],
        "local": [ours, near, NOBODYS[version], ALL[version]],
        "remote": [theirs, near, NOBODYS[version], ALL[version]],
        "local_ports": [7_001, "7000-7003", "7002-7004", "1-65535"],
        "remote_ports": [PORTS[0], f"{PORTS[0]}-{PORTS[1]}", "5604-5610", 9],
    }
    lines = []
    for number in range(1, dice.randint(1, MOST_RULES) + 1):
        lines += ["[[rule]]", f'name = "rule {number}"', f"dscp = {number}"]
        keys = dice.sample(sorted(choices), dice.choice((0, 1, 1, 2, 2, 3)))
        lines += [f"{key} = {json.dumps(dice.choice(choices[key]))}" for key in keys]
        if not {"local", "remote"} & set(keys) and not dice.randrange(8):
            lines.append(f"remote = {json.dumps(other)}")
    return "\n".join(lines) + "\n"


def test_the_kernel_does_what_is_decided(
    hosts: tuple[Host, Host],
    service: Qwaved,
    place: Ground,
    speakers: tuple[Speaker, ...],
    version: int,
) -> None:
    dice = random.Random(8)
    holding = 0
    for number in range(SETS):
        policy = drawn(dice, hosts, place, version)
        service.obey(policy)
        rules = load(service.config, service.policy).policy.rules
        wanted: dict[str, int] = {}
        for at, speaker in enumerate(speakers):
            for port in PORTS:
                winner = decide(rules, replace(speaker.traffic, remote_port=port)).winner
                wanted[f"{number}-{at}-{port}"] = 0 if winner is None else winner.grant.dscp or 0
        found = heard(hosts, speakers, number)
        assert found == wanted, policy
        holding += sum(dscp != 0 for dscp in wanted.values())
    # Not all of them are for nobody.
    assert holding > SETS


def heard(hosts: tuple[Host, Host], speakers: tuple[Speaker, ...], number: int) -> dict[str, int]:
    """What arrives, and its marks."""
    with wire_from(*hosts) as wire:
        for at, speaker in enumerate(speakers):
            for port in PORTS:
                speaker.say(port, f"{number}-{at}-{port}")

        def found(wire: Wire = wire) -> dict[str, int]:
            packets = [each for port in PORTS for each in wire.of(port)]
            return {each.payload.decode(): each.dscp for each in packets}

        until(lambda: len(found()) == len(speakers) * len(PORTS), "something is lost")
        return found()

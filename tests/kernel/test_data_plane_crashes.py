"""Enforcement is killed before any of its steps in the kernel, and nothing of it stays.

After each crash a new one starts among what was left, is asked for the same, and has to hold the
same as one that was never disturbed; when that one has ended, all is byte for byte as it was before
the first. Other people's filters, queues, programs and tables stand there throughout, and the
applications' sockets outlive it all.
"""

from __future__ import annotations

import os
import random
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

import openqwave as qw
from openqwave.enforcement.bpf import syscalls
from openqwave.lab.hosts import Host
from openqwave.lab.topology import Lab
from tests.kernel.crash_stage import (
    BPF,
    LATE,
    VARIANTS,
    Scene,
    expect_same,
    is_there,
    leave,
    nft,
    shown,
)
from tests.kernel.exits import Foreign, tc
from tests.kernel.service_stage import Actor, Qwaved, public_folder
from tests.kernel.test_service_crashes import ask, hold, reopen
from tests.patience import until
from tests.unit.loopback import options_of

pytestmark = [pytest.mark.kernel, pytest.mark.root]

# A hundred together.
CRASHES = 20
KILLS = 20
CLIENTS = 3
# Up to some dozens of calls, and the beginning of a start.
MOMENT_S = 0.05
# Of those that start among what is left, some crash as well.
AGAIN = 0.25
# And some are of another configuration.
OTHERWISE = 0.4
PATIENCE_S = 30.0

FOREIGN_TABLES = """
table inet openqwave_not { chain c { type filter hook output priority 0; ip dscp 40 counter; }; }
table ip others { map m { type ipv4_addr : mark; elements = { 192.0.2.1 : 7 }; }; }
"""


def until_gone(made: list[tuple[int, int]], what: str) -> None:
    """Wait until the kernel has let go of what was made by bpf(2)."""
    until(lambda: not any(is_there(*one) for one in made), f"{what}: something of BPF is left")


def drawn(steps: list[str], chance: random.Random) -> int:
    """One of the steps, from 1; every other time of a kind that is drawn first."""
    if chance.random() < 0.5:
        return chance.randint(1, len(steps))
    kind = chance.choice(sorted(set(steps)))
    return chance.choice([place for place, step in enumerate(steps, 1) if step == kind])


@pytest.fixture
def seed() -> int:
    """Another one each time; of a run that failed, CRASH_SEED brings it back."""
    chosen = int(os.environ.get("CRASH_SEED", "0")) or int.from_bytes(os.urandom(4), "big")
    print(f"CRASH_SEED={chosen}")
    return chosen


@pytest.fixture
def hosts(lab: Lab, foreign: Foreign) -> Iterator[tuple[Host, Host]]:
    """Two hosts with three links between them; at one of them others have set things up."""
    left, right = lab.host("left"), lab.host("right")
    for _ in range(3):
        lab.link(left, right)
    tc(left, "qdisc add dev eth0 clsact")
    for place, priority in (("egress", 9), ("egress", 300), ("ingress", 177)):
        tc(left, f"filter add dev eth0 {place} prio {priority} protocol ip u32 match u32 0 0")
    tc(left, "qdisc add dev eth1 root handle 7: tbf rate 50mbit burst 10kb latency 50ms")
    tc(left, "qdisc add dev eth1 clsact")
    left.run(nft, FOREIGN_TABLES)
    link = left.run(
        syscalls.link_create, foreign.program, left.interfaces[0].index, syscalls.TCX_EGRESS
    )
    yield left, right
    os.close(link)


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_stays_of_a_crash_before_any_step(
    hosts: tuple[Host, Host], variant: str, seed: int, tmp_path: Path
) -> None:
    chance = random.Random(f"{seed} {variant}")
    scene = Scene(*hosts, tmp_path, variant)
    before = scene.kernel()
    wanted = scene.live()
    steps = scene.steps.taken
    leave(scene.host, LATE)
    expect_same(scene.kernel(), before)
    left_something = 0
    for _ in range(CRASHES):
        at = drawn(steps, chance)
        scene.live(at)
        where = f"step {at} of {len(steps)}: {scene.steps.last}"
        if variant == "BPF by TCX":
            # Nobody need come to clean up.
            until_gone(scene.steps.made, where)
        left_something += scene.kernel() != before
        while chance.random() < AGAIN:
            at = drawn(steps, chance)
            if scene.live(at) is not None:
                break
            where += f", then {at}: {scene.steps.last}"
        if chance.random() < OTHERWISE:
            # Of another configuration, which has no use for what was left.
            other = chance.choice(list(VARIANTS))
            scene.live(variant=other)
            where += f", then {other}"
        else:
            expect_same(scene.live(), wanted, where)
            assert bool(scene.steps.made) == (variant in BPF)
        made = scene.steps.made
        leave(scene.host, LATE)
        expect_same(scene.kernel(), before, where)
        until_gone(made, where)
    assert left_something, "no crash has left anything to be cleaned up"


# -- the service itself ------------------------------------------------------------------

POOLED = "eth2"
CONFIG = """
[enforcement]
backend = "bpf"
queues = "install"
interfaces = ["eth2"]
[sink]
enabled = false
"""
HERE = ("127.0.0.1", 9)
RATES = (4_000_000, 8_000_000)


def work(state: dict[str, Any], number: int, far: str, seed: int) -> None:
    """Make, change and end flows, and send, for as long as one lives."""
    chance = random.Random(seed)
    sock = socket.socket(fileno=os.dup(number))
    qos = state["qos"] = qw.open(service=True)
    kinds = [kind for kind in qw.TrafficType if kind is not qw.TrafficType.BEST_EFFORT]
    while True:
        try:
            flows = [
                qos.add_socket(sock, (far, 5004 + place), traffic_type=kind, adaptive=False)
                for place, kind in enumerate(kinds)
            ]
            for _ in range(20):
                flow = chance.choice(flows)
                if chance.random() < 0.2:
                    flow.set_rate(chance.choice(RATES), shaping=chance.choice(list(qw.Shaping)))
                flow.set_traffic_type(chance.choice(kinds))
                for place in range(len(kinds)):
                    sock.sendto(b"x", (far, 5004 + place))
            for flow in flows:
                flow.close()
        except qw.ReinitializationNeeded:
            reopen(qos)


def again(state: dict[str, Any], number: int) -> None:
    """Open anew and have the flow again."""
    reopen(state["qos"])
    kind = qw.TrafficType.VOICE
    # The test holds it, too.
    with socket.socket(fileno=os.dup(number)) as sock:
        state["flow"] = state["qos"].add_socket(sock, HERE, traffic_type=kind, adaptive=False)


def bpf_of(pid: int) -> list[tuple[int, int]]:
    """What a process holds of BPF: by which command it was made, and the kernel's number of it."""
    found = []
    text = ""
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        # Others are opened and closed all the time.
        with suppress(FileNotFoundError):
            text = entry.read_text(encoding="ascii")
        for word, number in re.findall(r"^(prog|map|link)_id:\s(\d+)", text, re.MULTILINE):
            found.append(({"map": 0, "prog": 5, "link": 28}[word], int(number)))
    return found


def arriving(sock: socket.socket, far: socket.socket) -> int:
    """The DSCP with which a packet arrives."""
    sock.sendto(b"x", HERE)
    _, ((_, _, octet),), _, _ = far.recvmsg(1, socket.CMSG_SPACE(1))
    return octet[0] >> 2


def test_a_service_that_is_killed_leaves_nothing(hosts: tuple[Host, Host], seed: int) -> None:
    chance = random.Random(seed)
    left, right = hosts
    before, others = left.run(shown), left.run(shown, POOLED)
    with ExitStack() as stack:
        with left.enter():
            far = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sockets = [
                stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                for _ in range(2)
            ]
        far.bind(HERE)
        far.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        far.settimeout(PATIENCE_S)
        options = [options_of(sock) for sock in sockets]
        service = Qwaved(stack.enter_context(public_folder()), left, CONFIG)
        stack.callback(service.close)
        service.start()
        fresh = service.descriptors()
        busy, *steady = (
            stack.enter_context(Actor(service=service.socket, host=left))
            for _ in range(CLIENTS + 1)
        )
        busy.begin(work, sockets[0].fileno(), right.interfaces[2].ipv4, seed)
        for client in steady:
            client.call(hold, sockets[1].fileno())
        held = None
        for _ in range(KILLS):
            assert arriving(sockets[1], far) == 56
            time.sleep(chance.random() * MOMENT_S)
            assert service.process is not None
            made = bpf_of(service.process.pid)
            assert made
            service.kill()
            for client in steady:
                assert client.call(ask) == "ReinitializationNeeded"
            until_gone(made, "the service was killed")
            assert arriving(sockets[1], far) == 0
            # The queue that was installed waits for the next start.
            expect_same(left.run(shown, POOLED), others)
            service.start()
            for client in steady:
                # Nothing was added again by itself.
                assert client.call(ask) == "ReinitializationNeeded"
                client.call(again, sockets[1].fileno())
            open_now = [len(os.listdir(f"/proc/{client.pid}/fd")) for client in steady]
            held = held or open_now
            assert open_now == held, "a client leaks descriptors"
        for client in (busy, *steady):
            client.kill()
        until(lambda: service.descriptors() <= fresh, "the service leaks descriptors")
        assert service.show("flows")["flows"] == []
        assert service.stop() == 0, service.log.read_text()
        expect_same(left.run(shown), before)
        assert [options_of(sock) for sock in sockets] == options
        assert "Traceback" not in service.log.read_text(), service.log.read_text()

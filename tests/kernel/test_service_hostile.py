"""Clients that mean harm: others are served, memory is bounded, all is counted, one line is logged.

How long others wait meanwhile is measured by `bench/service.py`; that they wait for one packet of
the hostile user and not for thousands is asserted in `tests/unit/test_service_turns.py`.
"""

from __future__ import annotations

import array
import contextlib
import os
import random
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import openqwave as qw
from tests.kernel.service_stage import DAEMON, NOBODY, TIMEOUT_S, Actor, Qwaved, running

pytestmark = [pytest.mark.kernel, pytest.mark.root]

CONNECTIONS, PER_USER = 2_000, 1_900
FLOWS = 2_000
HELLO = b'{"type":"hello","version":1,"features":[],"program":"hostile"}'
CONFIG = f"""
[sink]
enabled = false
[limits]
flows = {FLOWS}
handles = {CONNECTIONS}
connections_per_user = {PER_USER}
"""
# Seen: 45 MB with all of that.
MEMORY_BYTES = 200_000_000


@pytest.fixture(scope="module")
def service() -> Iterator[Qwaved]:
    with running(config=CONFIG) as service:
        yield service


@pytest.fixture
def hostile(service: Qwaved) -> Iterator[Actor]:
    with Actor(NOBODY, service=service.socket) as actor:
        yield actor


@pytest.fixture
def neighbour(service: Qwaved) -> Iterator[Actor]:
    """A client that wants nothing but to be served."""
    with Actor(DAEMON, service=service.socket) as actor:
        actor.call(settle)
        yield actor
        actor.call(change, 50)


def settle(state: dict[str, Any]) -> None:
    state["qos"] = qos = qw.open(service=True)
    state["far"] = far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    far.bind(("127.0.0.1", 0))
    far.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    far.settimeout(TIMEOUT_S)
    state["socket"] = sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(far.getsockname())
    state["flow"] = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)


def change(state: dict[str, Any], count: int) -> None:
    """Have a flow's marks changed, and see that they are, where packets arrive."""
    for number in range(count):
        kind, dscp = [(qw.TrafficType.VOICE, 56), (qw.TrafficType.BACKGROUND, 8)][number % 2]
        state["flow"].set_traffic_type(kind)
        state["socket"].send(b"x")
        _, ((_, _, octet),), _, _ = state["far"].recvmsg(1, socket.CMSG_SPACE(1))
        assert octet[0] >> 2 == dscp


def connect(hello: bytes = HELLO) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(os.environ["QWAVE_SOCKET"])
    sock.send(hello)
    return sock


def until_closed(sock: socket.socket) -> bytes:
    """The last packet before the service closed the connection."""
    last = b""
    with contextlib.suppress(ConnectionResetError):
        while packet := sock.recv(65_536):
            last = packet
    return last


def send_garbage(_: dict[str, Any]) -> set[bytes]:
    """Packets of all kinds of nonsense, each on a connection of its own; the farewells' ends."""
    randomness = random.Random(7)
    packets = [randomness.randbytes(randomness.randint(1, 300)) for _ in range(200)]
    packets += [
        b"[" * 4_000,
        b"{}",
        b"null",
        b'{"type":"hello"}',
        b'{"type":7}',
        b"\xff\xfe",
        HELLO,
    ]
    packets += [b'{"type":"check","id":%d}' % number for number in (-1, 1 << 70, 0)]
    said = set()
    for packet in packets:
        with connect() as sock:
            sock.send(packet)
            said.add(until_closed(sock)[:18])
    return said


def send_giants(_: dict[str, Any]) -> set[bytes]:
    said = set()
    for size in (4_097, 50_000, 150_000):
        with connect() as sock:
            sock.send(b'{"type":"check","id":1,"x":"' + b"y" * size + b'"}')
            said.add(until_closed(sock)[:18])
    return said


def pass_descriptors(_: dict[str, Any], count: int, packet: bytes) -> bytes:
    """Descriptors of pipes with a packet, or with none; what came last."""
    reading, writing = os.pipe()
    with connect() as sock:
        welcome = sock.recv(65_536)
        rights = array.array("i", [reading] * count)
        sock.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        os.close(reading)
        last = until_closed(sock)
    # Nobody holds the other end any more.
    poll = select.poll()
    poll.register(writing, 0)
    assert poll.poll(10_000), "the descriptor leaked"
    os.close(writing)
    return last or welcome


def never_read(state: dict[str, Any], connections: int) -> int:
    """Ask and never read, until nothing can be sent any more; how many packets went out."""
    sent = 0
    state["deaf"] = []
    for _ in range(connections):
        sock = connect()
        state["deaf"].append(sock)
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.send(b'{"type":"check","id":%d}' % (sent + 1))
                sent += 1
    return sent


def flood(state: dict[str, Any]) -> tuple[int, str]:
    """Make flows until none is to be had; how many, and what was said."""
    qos = state["flood"] = qw.open(service=True)
    count = 0
    while True:
        if count % 100 == 0:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            state.setdefault("sockets", []).append(sock)
        try:
            # One hundred destinations of each socket, all marked alike.
            to = ("127.0.0.1", 1_024 + count % 100)
            qos.add_socket(sock, to, traffic_type=qw.TrafficType.VOICE, adaptive=False)
        except qw.QosError as error:
            return count, type(error).__name__
        count += 1


def crowd(state: dict[str, Any], count: int) -> int:
    """Open connections; how many were turned away."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8_192), hard))
    away = 0
    state["crowd"] = []
    for _ in range(count):
        try:
            sock = connect()
        except OSError:
            away += 1
            continue
        state["crowd"].append(sock)
        away += b'"farewell"' in sock.recv(65_536)
    return away


def counters(service: Qwaved) -> dict[str, int]:
    found: dict[str, int] = service.show("status")["counters"]
    return found


def lines(service: Qwaved, kind: str) -> int:
    return sum(kind in line for line in service.log.read_text().splitlines())


def settled(service: Qwaved, descriptors: int) -> None:
    """Wait until no more descriptors are open; some are closed where closing may take long."""
    end = time.monotonic() + TIMEOUT_S
    while service.descriptors() > descriptors:
        assert time.monotonic() < end, "a descriptor leaked"
        time.sleep(0.005)


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize(
    ("attack", "kind", "least"),
    [(send_garbage, "protocol violation", 200), (send_giants, "protocol violation", 3)],
)
def test_nonsense_ends_its_connection(
    service: Qwaved,
    hostile: Actor,
    attack: Callable[..., Any],
    kind: str,
    least: int,
) -> None:
    before, descriptors = counters(service).get(kind, 0), service.descriptors()
    said = hostile.call(attack)
    assert said == {b'{"type":"farewell"'}
    assert counters(service)[kind] - before >= least
    assert lines(service, kind) == 1
    settled(service, descriptors)


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize(
    ("count", "packet"),
    [(1, b""), (100, b'{"type":"check","id":1}'), (3, b'{"type":"check","id":1}')],
)
def test_descriptors_do_not_stay(
    service: Qwaved, hostile: Actor, count: int, packet: bytes
) -> None:
    descriptors = service.descriptors()
    hostile.call(pass_descriptors, count, packet)
    settled(service, descriptors)


def test_who_never_reads_is_not_read(service: Qwaved, hostile: Actor, neighbour: Actor) -> None:
    before = service.resident_bytes()
    sent = hostile.call(never_read, 20)
    assert sent > 100
    neighbour.call(change, 200)
    assert service.resident_bytes() - before < MEMORY_BYTES // 4


def test_a_flood_of_flows_ends_at_the_quota(
    service: Qwaved, hostile: Actor, neighbour: Actor
) -> None:
    assert hostile.call(flood) == (FLOWS, "NoSystemResources")
    neighbour.call(change, 20)
    assert service.resident_bytes() < MEMORY_BYTES


@pytest.mark.usefixtures("neighbour")
def test_a_crowd_leaves_room_for_others(service: Qwaved, hostile: Actor) -> None:
    assert hostile.call(crowd, CONNECTIONS) >= CONNECTIONS - PER_USER
    with Actor(DAEMON, service=service.socket) as late:
        late.call(settle)
        late.call(change, 20)
    kind = "connections turned away"
    assert counters(service)[kind] >= CONNECTIONS - PER_USER
    assert lines(service, kind) == 1
    assert service.resident_bytes() < MEMORY_BYTES

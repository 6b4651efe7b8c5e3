"""Clients and the service are killed at random moments, and nothing is left of either.

The sockets belong to the test, which survives: every client is a fork that got them with the
fork, marks them and is killed. What the sockets hold afterwards is what they held before.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

import openqwave as qw
from tests.kernel.service_stage import Actor, Qwaved, public_folder
from tests.patience import until
from tests.unit.loopback import options_of

pytestmark = [pytest.mark.kernel, pytest.mark.root]

CLIENT_KILLS, SERVICE_KILLS = 100, 20
CLIENTS = 4
# Up to a few dozen calls after it began.
MOMENT_S = 0.01

MARKS = (qw.TrafficType.VOICE, qw.TrafficType.BACKGROUND, qw.TrafficType.AUDIO_VIDEO)
HERE = ("127.0.0.1", 9)


def work(state: dict[str, Any], numbers: list[int], seed: int) -> None:
    """Make, change and end flows for as long as one lives, of sockets with these numbers."""
    chance = random.Random(seed)
    sockets = [socket.socket(fileno=os.dup(number)) for number in numbers]
    qos = state["qos"] = qw.open(service=True)
    while True:
        try:
            flows = [
                qos.add_socket(sock, HERE, traffic_type=chance.choice(MARKS), adaptive=False)
                for sock in sockets
            ]
            for _ in range(chance.randrange(6)):
                flow = chance.choice(flows)
                if chance.random() < 0.5:
                    flow.set_traffic_type(chance.choice(MARKS))
                else:
                    flow.set_dscp(chance.randrange(64))
            for flow in flows:
                flow.close()
        except qw.ReinitializationNeeded:
            reopen(qos)


def reopen(qos: qw.Qos) -> None:
    """Open anew, once the service is back."""
    while True:
        try:
            qos.reopen()
        except qw.ServiceUnavailable:
            time.sleep(0.01)
        else:
            return


def hold(state: dict[str, Any], number: int) -> None:
    """Have a flow of a socket with the number; it is one the test has, too."""
    state["qos"] = qos = qw.open(service=True)
    sock = socket.socket(fileno=os.dup(number))
    state["flow"] = qos.add_socket(sock, HERE, traffic_type=qw.TrafficType.VOICE, adaptive=False)


def ask(state: dict[str, Any]) -> str:
    """Ask something; the name of what came of it."""
    try:
        state["flow"].packet_priority()
    except qw.QosError as error:
        return type(error).__name__
    return "answered"


def again(state: dict[str, Any], number: int) -> str:
    """Open anew and have the flow again, which nobody but the program does."""
    reopen(state["qos"])
    old = ask(state)
    sock = socket.socket(fileno=os.dup(number))
    kind = qw.TrafficType.VOICE
    state["flow"] = state["qos"].add_socket(sock, HERE, traffic_type=kind, adaptive=False)
    return old


@pytest.fixture
def service() -> Iterator[Qwaved]:
    with public_folder() as folder:
        # What is in the kernel is gone with the service; options are not. A sink opens its ports by
        # and by, and descriptors are counted here.
        config = '[enforcement]\nbackend = "socket-options"\n[sink]\nenabled = false\n'
        service = Qwaved(folder, config=config)
        try:
            yield service.start()
        finally:
            service.close()


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Three that all clients share with the test."""
    made = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
    yield made
    for sock in made:
        sock.close()


def test_killed_clients_leave_nothing(service: Qwaved, sockets: list[socket.socket]) -> None:
    chance = random.Random(11)
    watcher = service.open()
    descriptors = service.descriptors()
    before = [options_of(sock) for sock in sockets]
    numbers = [sock.fileno() for sock in sockets]
    for seed in range(CLIENT_KILLS):
        with Actor(service=service.socket) as client:
            client.begin(work, numbers, seed)
            until(lambda: watcher.flow_ids() != (), "nothing is done")
            time.sleep(chance.random() * MOMENT_S)
        until(lambda: watcher.flow_ids() == (), "a flow outlives its client")
        until(lambda: [options_of(sock) for sock in sockets] == before, "a mark outlives it")
    until(lambda: service.descriptors() <= descriptors, "a descriptor leaked")
    watcher.close()


def test_a_killed_service_leaves_nothing(service: Qwaved, sockets: list[socket.socket]) -> None:
    chance = random.Random(13)
    before = [options_of(sock) for sock in sockets]
    numbers = [sock.fileno() for sock in sockets]
    busy = Actor(service=service.socket)
    steady = [Actor(service=service.socket) for _ in range(CLIENTS)]
    busy.begin(work, numbers[:2], 17)
    for client in steady:
        client.call(hold, numbers[2])
    for _ in range(SERVICE_KILLS):
        time.sleep(chance.random() * MOMENT_S)
        service.kill()
        for client in steady:
            assert client.call(ask) == "ReinitializationNeeded"
        service.start()
        for client in steady:
            # The old flow stays lost, and nothing was added again by itself.
            assert client.call(ask) == "ReinitializationNeeded"
        assert options_of(sockets[2]) == before[2], "a mark outlives the service"
        for client in steady:
            assert client.call(again, numbers[2]) == "InvalidHandle"
        assert options_of(sockets[2]).tos == 56 << 2
    for client in [busy, *steady]:
        client.kill()
    until(lambda: [options_of(sock) for sock in sockets] == before, "a mark outlives them all")
    assert service.show("flows")["flows"] == []
    assert service.stop() == 0

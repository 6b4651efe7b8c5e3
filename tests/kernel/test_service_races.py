"""Two processes of different users, one path, room for one of them: one winner, every time."""

from __future__ import annotations

import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

import openqwave as qw
from openqwave.lab.shape import Bottleneck
from tests.kernel.qwave import Sink
from tests.kernel.service_stage import DAEMON, NOBODY, TIMEOUT_S, Actor, running

if TYPE_CHECKING:
    from openqwave.lab.hosts import Host
    from openqwave.lab.topology import Lab

pytestmark = [pytest.mark.kernel, pytest.mark.root]

MBPS = 1_000_000
RATE_BPS, WANTED_BPS = 20 * MBPS, 12 * MBPS
ROUNDS = 1_000
# Rounds that nobody wins, because the path looked full.
FULL = 50
PORT = 5_004


def begin(state: dict[str, Any], host: str) -> int:
    state["qos"] = qos = qw.open(service=True)
    state["socket"] = sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((host, PORT))
    state["flow"] = flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE)
    return flow.id


def wait_available(state: dict[str, Any], rate_bps: int) -> None:
    state["flow"].wait_available(rate_bps, TIMEOUT_S)


def ask(state: dict[str, Any], rate_bps: int) -> str:
    """Ask for a rate; the name of what came of it."""
    try:
        state["flow"].set_rate(rate_bps, self_paced=True)
    except qw.QosError as error:
        return type(error).__name__
    return "granted"


def test_of_two_for_more_than_half_one_wins(lab: Lab) -> None:
    near, far = lab.host("near"), lab.host("far")
    bottleneck = Bottleneck(RATE_BPS, RATE_BPS // 8 // 10)
    lab.link(near, far, a_to_b=bottleneck, b_to_a=bottleneck)
    with (
        Sink(far),
        running(near) as service,
        Actor(NOBODY, host=near, service=service.socket) as one,
        Actor(DAEMON, host=near, service=service.socket) as other,
    ):
        race(one, other, far)


def race(one: Actor, other: Actor, far: Host) -> None:
    """Let two ask at the same time, again and again."""
    actors = (one, other)
    for actor in actors:
        actor.call(begin, far.ipv4)
    one.call(wait_available, WANTED_BPS)
    outcomes: Counter[tuple[str, ...]] = Counter()
    while outcomes["NetworkBusy", "granted"] < ROUNDS:
        # Whoever is told first has a head start; they take turns at it.
        first = outcomes.total() % 2
        for actor in (actors[first], actors[1 - first]):
            actor.begin(ask, WANTED_BPS)
        outcome = [actor.end() for actor in actors]
        outcomes[tuple(sorted(outcome))] += 1
        if "granted" in outcome:
            assert outcome.count("granted") == 1, outcomes
            assert actors[outcome.index("granted")].call(ask, 0) == "granted"
        else:
            # A machine that stands still for a moment makes a path look full, but not for long.
            assert outcomes["NetworkBusy", "NetworkBusy"] <= FULL, outcomes
            one.call(wait_available, WANTED_BPS)
    assert set(outcomes) <= {("NetworkBusy", "granted"), ("NetworkBusy", "NetworkBusy")}

"""What policy lets users have through the real service, and marks that need a contract.

The kernel's word decides whose limits hold. Marks are looked for on the wire.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

import openqwave as qw
from tests.kernel.service_stage import DAEMON, NOBODY, TIMEOUT_S, Actor, Qwaved, running

if TYPE_CHECKING:
    from openqwave.lab.topology import Host

pytestmark = [pytest.mark.kernel, pytest.mark.root]

MBIT = 1_000_000
VOICE = 56
NO_SINK = "[sink]\nenabled = false\n"


@pytest.fixture
def service(pair: tuple[Host, Host]) -> Iterator[Qwaved]:
    with running(pair[0], NO_SINK) as service:
        yield service


@pytest.fixture
def port(pair: tuple[Host, Host]) -> Iterator[int]:
    """Where connections are taken at the far end; nobody reads them."""
    with pair[1].enter():
        server = socket.create_server((pair[1].ipv4, 0), backlog=64)
    with server:
        yield int(server.getsockname()[1])


def reload(service: Qwaved, config: str) -> None:
    service.write_config(NO_SINK + config)
    service.signal(signal.SIGHUP)
    service.wait_for(b"READY=1")


# -- what actors do -------------------------------------------------------------------


def add(state: dict[str, Any], host: str, port: int, adaptive: bool = False) -> int:
    """One flow more, of a connection of its own."""
    qos = state.setdefault("qos", None) or qw.open(service=True)
    state["qos"] = qos
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.connect((host, port))
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=adaptive)
    except OSError:
        sock.close()
        raise
    state.setdefault("flows", []).append((flow, sock))
    return int(flow.id)


def set_rate(state: dict[str, Any], rate_bps: int, number: int = -1) -> None:
    """Ask for a rate; as long as experiments find out, ask again."""
    until_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            state["flows"][number][0].set_rate(rate_bps)
        except qw.RetryLater:
            assert time.monotonic() < until_s
        else:
            return


def set_type(state: dict[str, Any], kind: int) -> None:
    state["flows"][-1][0].set_traffic_type(qw.TrafficType(kind))


def priority(state: dict[str, Any]) -> int:
    return int(state["flows"][-1][0].packet_priority().conformant_dscp)


def remove(state: dict[str, Any]) -> None:
    flow, sock = state["flows"].pop()
    flow.remove_socket(sock)
    sock.close()


def send(state: dict[str, Any]) -> None:
    state["flows"][-1][1].send(b"x" * 64)


def mark_on_the_wire(actor: Actor, pair: tuple[Host, Host], port: int) -> int:
    """The code point that what the actor sends next carries."""
    with pair[1].capture() as capture:
        actor.call(send)
        (packet, *_) = capture.wait_for(1, where=lambda seen: seen.destination_port == port)
    return packet.dscp


# -- limits ---------------------------------------------------------------------------


def test_flows_of_a_user(pair: tuple[Host, Host], service: Qwaved, port: int) -> None:
    reload(service, "[limits]\nflows_per_user = 3\n")
    with contextlib.ExitStack() as stack:

        def actor(uid: int = 0) -> Actor:
            return stack.enter_context(Actor(uid, host=pair[0], service=service.socket))

        where = pair[1].ipv4, port
        one, two = actor(NOBODY), actor(NOBODY)
        for each in (one, two, one):
            each.call(add, *where)
        with pytest.raises(qw.NoSystemResources, match="processes of this user hold 3 flows"):
            two.call(add, *where)
        for other in (actor(DAEMON), actor()):
            other.call(add, *where)
        root = actor()
        for _ in range(4):
            root.call(add, *where)
        # What ends makes room, and so does a process that is killed.
        one.call(remove)
        two.call(add, *where)
        with pytest.raises(qw.NoSystemResources):
            one.call(add, *where)
        two.kill()
        until_s = time.monotonic() + TIMEOUT_S
        while len(service.show("flows")["flows"]) > 7:
            assert time.monotonic() < until_s
        one.call(add, *where)
        counters = service.show("status")["counters"]
        assert counters["refused by limits.flows_per_user"] == 2
        reload(service, "")
        for _ in range(3):
            one.call(add, *where)


def test_contracts_of_a_user(pair: tuple[Host, Host], service: Qwaved, port: int) -> None:
    with (
        Actor(NOBODY, host=pair[0], service=service.socket) as one,
        Actor(NOBODY, host=pair[0], service=service.socket) as two,
        Actor(DAEMON, host=pair[0], service=service.socket) as other,
        Actor(host=pair[0], service=service.socket) as root,
    ):
        for actor in (one, two, other, root):
            actor.call(add, pair[1].ipv4, port)
        # From before the limit.
        one.call(set_rate, 6 * MBIT)
        reload(service, "[limits]\ncontracts_per_user_kbps = 10_000\n")
        with pytest.raises(qw.NoSystemResources, match="ask for 4000000 bit/s at most"):
            two.call(set_rate, 5 * MBIT)
        two.call(set_rate, 4 * MBIT)
        other.call(set_rate, 10 * MBIT)
        root.call(set_rate, 50 * MBIT)
        with pytest.raises(qw.NoSystemResources):
            one.call(set_rate, 7 * MBIT)
        # "a refused increase leaves the old contract in force"
        held = {row["pid"]: row["contract_bps"] for row in service.show("flows")["flows"]}
        assert held == {
            one.pid: 6 * MBIT,
            two.pid: 4 * MBIT,
            other.pid: 10 * MBIT,
            root.pid: 50 * MBIT,
        }
        two.call(set_rate, 0)
        one.call(set_rate, 10 * MBIT)
        counters = service.show("status")["counters"]
        assert counters["refused by limits.contracts_per_user_kbps"] == 2


def test_contracts_towards_a_host_and_through_an_interface(
    pair: tuple[Host, Host], service: Qwaved, port: int
) -> None:
    where = pair[1].ipv4, port, True
    # The driver says 10 Gbit/s of such an interface, whatever it is.
    for config, name in (
        ("contracts_per_host_kbps = 10_000", f"towards {pair[1].ipv4}"),
        ("contracts_per_interface_percent = 0.1", "through "),
    ):
        reload(service, f"[limits]\n{config}\n")
        with (
            Actor(NOBODY, host=pair[0], service=service.socket) as one,
            Actor(host=pair[0], service=service.socket) as root,
        ):
            for actor in (one, root):
                actor.call(add, *where)
            root.call(set_rate, 6 * MBIT)
            said = f"contracts {name}.* hold 6000000 of the 10000000 bit/s that policy allows"
            with pytest.raises(qw.NetworkBusy, match=said):
                one.call(set_rate, 5 * MBIT)
            assert mark_on_the_wire(one, pair, port) == 0
            one.call(set_rate, 4 * MBIT)
            assert mark_on_the_wire(one, pair, port) == VOICE


# -- priority -------------------------------------------------------------------------


def test_priority_only_with_a_contract(pair: tuple[Host, Host], service: Qwaved, port: int) -> None:
    with Actor(NOBODY, host=pair[0], service=service.socket) as user:
        user.call(add, pair[1].ipv4, port)
        assert mark_on_the_wire(user, pair, port) == VOICE
        reload(service, "[access]\npriority_needs_contract = true\n")
        assert mark_on_the_wire(user, pair, port) == 0
        (row,) = service.show("flows")["flows"]
        assert (row["marking"], row["dscp"], row["backend"]) == ("needs a rate", None, "none")
        assert "policy wants a rate" in row["backend_reason"]
        assert user.call(priority) == 0
        # What gives way may be marked.
        user.call(set_type, int(qw.TrafficType.BACKGROUND))
        assert mark_on_the_wire(user, pair, port) == 8
        user.call(set_type, int(qw.TrafficType.VOICE))
        assert mark_on_the_wire(user, pair, port) == 0
        user.call(set_rate, 10 * MBIT)
        assert mark_on_the_wire(user, pair, port) == VOICE
        assert user.call(priority) == VOICE
        (row,) = service.show("flows")["flows"]
        assert (row["marking"], row["dscp"], row["contract_bps"]) == ("by type", VOICE, 10 * MBIT)
        user.call(set_rate, 0)
        assert mark_on_the_wire(user, pair, port) == 0
        # A new flow is without from the start.
        user.call(add, pair[1].ipv4, port)
        assert mark_on_the_wire(user, pair, port) == 0
        reload(service, "")
        assert mark_on_the_wire(user, pair, port) == VOICE

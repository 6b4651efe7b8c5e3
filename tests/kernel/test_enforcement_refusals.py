"""What clients hear when an interface, a namespace or the room for flows is gone, and what goes on.

Refusals for which the kernel would have to be another one are in
`tests/unit/test_enforcement_refusals.py`.
"""

from __future__ import annotations

import socket
from typing import Any

import pytest

import openqwave as qw
from openqwave.lab.capture import Direction
from openqwave.lab.hosts import Host, Interface
from openqwave.lab.topology import Lab
from tests.kernel.egress_stage import may_use_bpf
from tests.kernel.exits import ip, tc
from tests.kernel.service_stage import TIMEOUT_S, Actor, running
from tests.patience import until

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.root,
    pytest.mark.skipif(not may_use_bpf(), reason="BPF wants root of the first user namespace"),
]

PORT = 5_004
RATE_BPS = 8_000_000
CONFIG = '[enforcement]\nbackend = "bpf"\nqueues = "install"\n'


def begin(state: dict[str, Any], name: str, host: str, rate_bps: int = 0) -> None:
    """Have a flow to a host, of a socket of its own."""
    if "qos" not in state:
        state["qos"] = qw.open(service=True)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    flow = state["qos"].add_socket(
        sock, (host, PORT), traffic_type=qw.TrafficType.VOICE, adaptive=False
    )
    state[name] = sock, flow
    if rate_bps:
        flow.set_rate(rate_bps)


def set_rate(state: dict[str, Any], name: str, rate_bps: int) -> None:
    state[name][1].set_rate(rate_bps)


def change(state: dict[str, Any], name: str) -> None:
    state[name][1].set_traffic_type(qw.TrafficType.AUDIO_VIDEO)


def end(state: dict[str, Any], name: str) -> None:
    state[name][1].close()


def send(state: dict[str, Any], name: str, host: str) -> None:
    state[name][0].sendto(b"x", (host, PORT))


def arriving(actor: Actor, name: str, far: Interface, address: str) -> int:
    """The code point that a flow's next packet carries at the other end."""
    with far.capture(Direction.INCOMING) as capture:
        actor.call(send, name, address)
        (packet,) = capture.wait_for(1, TIMEOUT_S, lambda seen: seen.destination_port == PORT)
    return packet.dscp


def test_an_interface_that_goes_takes_only_its_flows_along(lab: Lab) -> None:
    near, one, two = lab.host("near"), lab.host("one"), lab.host("two")
    lab.link(near, one)
    link = lab.link(near, two)
    address = link.b.ipv4
    with running(near, CONFIG) as service, Actor(host=near, service=service.socket) as user:

        def reason() -> str:
            """What is said of the flow to that address."""
            (row,) = (row for row in service.show("flows")["flows"] if address in str(row))
            return str(row["backend_reason"])

        user.call(begin, "stays", one.ipv4, RATE_BPS)
        user.call(begin, "goes", address, RATE_BPS)
        assert arriving(user, "goes", link.b, address) == 56
        assert "7177:" in tc(near, f"qdisc show dev {link.a.name}")
        held = reason()
        ip(near, f"link del {link.a.name}")
        until(lambda: len(service.show("status")["interfaces"]) == 2, "it is still shown")
        until(lambda: f"no route to {address}" in reason(), "nothing is said of the flow")
        with pytest.raises(qw.HostUnreachable, match=r"see that the host has one \(ip route get"):
            user.call(set_rate, "goes", 2 * RATE_BPS)
        # The other one is as it was, and can be changed.
        user.call(set_rate, "stays", 2 * RATE_BPS)
        user.call(change, "stays")
        assert arriving(user, "stays", one.interface, one.ipv4) == 40
        # Another takes its place, and the flow is held there.
        fresh = lab.link(near, two)
        ip(two, f"addr add {address}/32 dev {fresh.b.name}")
        ip(near, f"route add {address}/32 dev {fresh.a.name}")
        until(lambda: reason() == held, "it is not held again")
        assert "7177:" in tc(near, f"qdisc show dev {fresh.a.name}")
        assert "rate 8Mbit" in tc(near, f"class show dev {fresh.a.name}")
        assert arriving(user, "goes", fresh.b, address) == 56
        user.call(set_rate, "goes", 2 * RATE_BPS)
        assert "rate 16Mbit" in tc(near, f"class show dev {fresh.a.name}")
        user.call(end, "goes")
        user.call(end, "stays")


def test_a_full_table_refuses_one_more_and_keeps_the_others(pair: tuple[Host, Host]) -> None:
    near, far = pair
    config = '[enforcement]\nbackend = "bpf"\nmost_flows = 3\n'
    with running(near, config) as service, Actor(host=near, service=service.socket) as user:
        for name in ("one", "two", "three"):
            user.call(begin, name, far.ipv4)
        with pytest.raises(qw.NoSystemResources, match="raise most_flows under"):
            user.call(begin, "four", far.ipv4)
        assert service.show("status")["flows"] == 3
        user.call(change, "three")
        assert arriving(user, "three", far.interface, far.ipv4) == 40
        user.call(end, "one")
        user.call(begin, "four", far.ipv4)
        assert arriving(user, "four", far.interface, far.ipv4) == 56


def test_a_namespace_that_nobody_can_enter_any_more(pair: tuple[Host, Host]) -> None:
    near, far = pair
    with running(near, CONFIG) as service, Lab() as elsewhere:
        host, other = elsewhere.host("host"), elsewhere.host("other")
        elsewhere.link(host, other)
        with Actor(host=host, service=service.socket) as user:
            user.call(begin, "flow", other.ipv4)
            elsewhere.close()
            # Only the program and its socket are there now.
            user.call(change, "flow")
            (row,) = service.show("flows")["flows"]
            assert row["dscp"] == 40
            assert "another network namespace" in row["backend_reason"]
            with pytest.raises(qw.NotSupported, match="fq"):
                user.call(set_rate, "flow", RATE_BPS)
            user.call(end, "flow")
            user.call(begin, "again", far.ipv4)
        until(lambda: service.show("flows")["flows"] == [], "a flow outlives its program")

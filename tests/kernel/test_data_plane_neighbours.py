"""Other people's queues, filters, programs and tables, before, while and after the service runs."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pytest

import openqwave as qw
from openqwave.enforcement.bpf import syscalls
from openqwave.lab.capture import Direction
from tests.kernel.data_plane_stage import PATIENCE_S, open_socket, serving
from tests.kernel.exits import Foreign, loaded, shown, tc, tcx

if TYPE_CHECKING:
    from openqwave.lab.capture import Capture, CapturedPacket
    from openqwave.lab.topology import Host
    from tests.kernel.service_stage import Qwaved

pytestmark = [pytest.mark.kernel, pytest.mark.root]

PORT = 5_006
PACKETS = 50
OURS = "table inet openqwave"
ENFORCEMENT = '[enforcement]\nbackend = "{}"\nqueues = "install"\n'
# What each says that it lacks for a rate.
BACKENDS = {"bpf": "eth0", "nftables": "fq"}

RULES = """
table inet openqwave_neighbour {
    comment "somebody else's"
    map marks { type ipv4_addr : mark; elements = { 192.0.2.1 : 0x7 } }
    chain out {
        type filter hook output priority mangle; policy accept
        counter
        ip daddr 192.0.2.9 ip dscp set ef
    }
    chain after {
        type filter hook postrouting priority 300; policy accept
        udp dport 5006 counter
    }
}
table netdev edge {
    chain leaving { type filter hook egress device "eth0" priority 5; policy accept; counter; }
}
"""


def output(host: Host, argv: list[str], text: str = "") -> str:
    """What a program says on a host."""

    def run() -> str:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return host.run(run)


def nft(host: Host, words: str, text: str = "") -> str:
    """What nft says."""
    return output(host, ["/usr/sbin/nft", *words.split()], text)


def tables(host: Host) -> dict[str, str]:
    """All tables with all that is in them, without counts."""
    names = nft(host, "list tables").splitlines()
    return {name: nft(host, f"-s list {name}") for name in names}


def everything(host: Host) -> list[str]:
    """All that others may have put there, and what is ours of it."""
    classes = tc(host, "class show dev eth0").splitlines()
    return [*shown(host), *classes, *(f"{each}" for each in tables(host).items())]


def others(host: Host) -> list[str]:
    """All but our table, and the lists of programs, which have ours among others'."""
    return [line for line in everything(host) if " TCX: " not in line and f"('{OURS}'" not in line]


def furnish(host: Host) -> None:
    """A root queue with classes and filters, filters at both ends, and tables."""
    tc(host, "qdisc add dev eth0 root handle 7: htb default 10")
    tc(host, "class add dev eth0 parent 7: classid 7:1 htb rate 800mbit")
    for leaf in (10, 20):
        tc(host, f"class add dev eth0 parent 7:1 classid 7:{leaf} htb rate 400mbit ceil 800mbit")
    tc(host, "qdisc add dev eth0 parent 7:20 handle 20: pfifo limit 500")
    tc(host, "filter add dev eth0 parent 7: prio 4 protocol ip u32 match u32 0 0 flowid 7:20")
    tc(host, "qdisc add dev eth0 clsact")
    for place, priority in (("egress", 9), ("egress", 300), ("ingress", 177), ("ingress", 3)):
        words = f"filter add dev eth0 {place} prio {priority} protocol ip u32 match u32 0 0 "
        tc(host, words + "action mirred egress mirror dev lo")
    # A program of theirs among the filters, too; it matches nothing.
    words = "/sbin/tc filter add dev eth0 egress prio 7 bpf bytecode"
    output(host, [*words.split(), "1,6 0 0 0,"])
    nft(host, "-f -", RULES)


def refurnish(host: Host) -> None:
    """Something of each kind is added, changed and taken away."""
    tc(host, "class change dev eth0 classid 7:10 htb rate 300mbit ceil 700mbit")
    tc(host, "class add dev eth0 parent 7:1 classid 7:30 htb rate 10mbit")
    tc(host, "qdisc replace dev eth0 parent 7:20 handle 21: bfifo limit 500000")
    tc(host, "filter del dev eth0 egress prio 300")
    words = "filter add dev eth0 egress prio 1 protocol ipv6 u32 match u32 0 0 "
    tc(host, words + "action mirred egress mirror dev lo")
    nft(host, "delete table netdev edge")
    nft(host, "-f -", "table inet later { chain a { type filter hook output priority -1000; }; }")
    nft(host, "add rule inet openqwave_neighbour out counter")
    nft(host, "add element inet openqwave_neighbour marks { 192.0.2.2 : 0x8 }")


@pytest.fixture
def programs() -> Iterator[tuple[Foreign, Foreign]]:
    """Two of somebody else's."""
    loaded().close()
    first, second = Foreign(), Foreign()
    yield first, second
    first.close()
    second.close()


def attach(host: Host, program: Foreign, stack: contextlib.ExitStack) -> None:
    """Put somebody else's program at the exit of the interface, behind those that are there."""
    link = host.run(
        syscalls.link_create, program.program, host.interface.index, syscalls.TCX_EGRESS
    )
    stack.callback(os.close, link)


@dataclass
class Talk:
    """A socket of the left host, a flow of it, and what arrives."""

    sock: socket.socket
    flow: qw.Flow
    capture: Capture

    def marks(self) -> list[int]:
        for _ in range(PACKETS):
            self.sock.send(b"x")
        where = partial(_is_to, PORT)
        return [each.dscp for each in self.capture.wait_for(PACKETS, PATIENCE_S, where)]


def _is_to(port: int, packet: CapturedPacket) -> bool:
    return packet.destination_port == port


@contextlib.contextmanager
def talking(pair: tuple[Host, Host], service: Qwaved) -> Iterator[Talk]:
    left, right = pair
    with (
        open_socket(left) as sock,
        open_socket(right) as listener,
        right.capture(Direction.INCOMING) as capture,
        service.open() as qos,
    ):
        listener.bind((right.ipv4, PORT))
        sock.connect((right.ipv4, PORT))
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
        yield Talk(sock, flow, capture)


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_of_others_stays_as_it_is(
    pair: tuple[Host, Host], programs: tuple[Foreign, Foreign], backend: str
) -> None:
    left = pair[0]
    first, second = programs
    with contextlib.ExitStack() as stack:
        furnish(left)
        attach(left, first, stack)
        before = everything(left)
        with serving(left, ENFORCEMENT.format(backend)) as service:
            assert others(left) == [line for line in before if " TCX: " not in line]
            with talking(pair, service) as talk:
                seen = first.count
                assert talk.marks() == [56] * PACKETS
                # Their program, rules and classes get the packets as ever.
                assert first.count >= seen + PACKETS
                assert f"counter packets {PACKETS} " in nft(left, "list ruleset")
                assert f" {PACKETS} pkt" in tc(left, "-s qdisc show dev eth0 handle 20:")
                # Their root queue stays, and what it cannot do is refused.
                with pytest.raises(qw.NotSupported, match=BACKENDS[backend]):
                    talk.flow.set_rate(1_000_000)
                assert talk.marks() == [56] * PACKETS
                assert others(left) == [line for line in before if " TCX: " not in line]
                refurnish(left)
                attach(left, second, stack)
                changed = others(left)
                assert talk.marks() == [56] * PACKETS
                with pytest.raises(qw.NotSupported, match=BACKENDS[backend]):
                    talk.flow.set_rate(1_000_000)
                assert others(left) == changed
            # Ours is among theirs, which keep their order.
            order = tcx(left, left.interface.index)
            assert [each for each in order if each in (first.id, second.id)] == [
                first.id,
                second.id,
            ]
        assert others(left) == changed
        assert tcx(left, left.interface.index) == [first.id, second.id]
        assert OURS not in tables(left)


def test_a_default_queue_comes_back_below_others_filters(pair: tuple[Host, Host]) -> None:
    left = pair[0]
    before = everything(left)
    with serving(left) as service, talking(pair, service) as talk:
        talk.flow.set_rate(8_000_000)
        assert "htb 7177: root" in tc(left, "qdisc show dev eth0")
        tc(left, "qdisc add dev eth0 clsact")
        words = "filter add dev eth0 egress prio 4 protocol ip u32 match u32 0 0 "
        tc(left, words + "action mirred egress mirror dev lo")
        assert talk.marks() == [56] * PACKETS
    assert " pref 4 u32 " in tc(left, "filter show dev eth0 egress")
    tc(left, "qdisc del dev eth0 clsact")
    assert everything(left) == before


def test_a_root_queue_that_somebody_puts_over_ours_stays(pair: tuple[Host, Host]) -> None:
    left = pair[0]
    with serving(left) as service, talking(pair, service) as talk:
        talk.flow.set_rate(8_000_000)
        tc(left, "qdisc replace dev eth0 root handle 9: tbf rate 90mbit burst 100k latency 50ms")
        theirs = others(left)
        with pytest.raises(qw.NotSupported, match="eth0"):
            talk.flow.set_rate(4_000_000)
        assert talk.marks() == [56] * PACKETS
        assert others(left) == theirs
    assert others(left) == theirs

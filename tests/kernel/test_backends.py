"""What every mechanism that carries out plans has to do, on the wire.

Each case runs with each backend. It passes, or the backend declines it; which ones it declines, and
with what code, is said in `DECLINED`, and nothing else counts: neither a refusal that is not there
nor a case that passes though it should not.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import pytest

from openqwave.drivers.sockets import read_cookie
from openqwave.lab.namespaces import availability
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.flow import Treatment
from openqwave.subsystem.effects import SocketPlan
from tests.kernel.backend_stage import (
    BACKENDS,
    CLSACT,
    MEMORY,
    MOST_FLOWS,
    NFTABLES,
    OPTIONS,
    TCX,
    Declined,
    Stage,
    place,
    stage,
    tc,
)
from tests.kernel.egress_stage import Wire, may_use_bpf
from tests.patience import until

pytestmark = pytest.mark.kernel

PORT, OTHER_PORT, THIRD_PORT = 6_000, 6_001, 6_002
VOICE, VIDEO, BULK = Treatment(56, 6), Treatment(40, 6), Treatment(8, 1)
# RFC 3168: ECT(1).
ECN = 1
# What an application asks for itself: AF21.
OWN_DSCP = 18
UDP_HEADERS_BYTES = 28
NOT_SUPPORTED = ErrorCode.ERROR_NOT_SUPPORTED

Case = Callable[[Stage], None]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


# -- marks ------------------------------------------------------------------------------


def _marks_are_right(stage: Stage, network: str) -> None:
    sock, other = stage.udp(network), stage.udp(network)
    to = stage.address("v6" if network == "v6" else "v4", PORT)
    stage.apply(stage.plan(sock, (1, VOICE, (to,))))
    assert stage.backend.observe() == {read_cookie(sock): VOICE}
    if stage.has_wire:
        assert stage.marks(sock, PORT, 3) == [(56, 0)] * 3
        assert stage.marks(other, PORT) == [(0, 0)]


@case
def ipv4(stage: Stage) -> None:
    _marks_are_right(stage, "v4")


@case
def ipv6(stage: Stage) -> None:
    _marks_are_right(stage, "v6")


@case
def ipv4_of_an_ipv6_socket(stage: Stage) -> None:
    _marks_are_right(stage, "mapped")


@case
def a_socket_without_a_port(stage: Stage) -> None:
    """It gets one when it sends."""
    sock, other = stage.udp(is_bound=False), stage.udp(is_bound=False)
    stage.apply(stage.plan(sock, (1, VOICE, (stage.address("v4", PORT),))))
    assert stage.backend.observe() == {read_cookie(sock): VOICE}
    if stage.has_wire:
        assert stage.marks(sock, PORT, 2) == [(56, 0)] * 2
        assert stage.marks(other, PORT) == [(0, 0)]
    stage.apply(SocketPlan(read_cookie(sock), ()))
    assert stage.backend.observe() == {}
    if stage.has_wire:
        assert stage.marks(sock, PORT) == [(0, 0)]


@case
def tcp(stage: Stage) -> None:
    near, far, to = stage.tcp()
    stage.apply(stage.plan(near, (1, VIDEO, (to,))))
    assert stage.backend.observe() == {read_cookie(near): VIDEO}
    if stage.has_wire:
        near.sendall(b"x" * 100)
        assert len(far.recv(100)) == 100
        (packet, *_) = stage.arrived(to.port, 1, lambda packet: packet.length_bytes > 100)
        assert packet.dscp == 40


@case
def ecn_is_the_applications(stage: Stage) -> None:
    for network, level, option in (
        ("v4", socket.IPPROTO_IP, socket.IP_TOS),
        ("v6", socket.IPPROTO_IPV6, socket.IPV6_TCLASS),
    ):
        sock = stage.udp(network)
        sock.setsockopt(level, option, OWN_DSCP << 2 | ECN)
        stage.apply(stage.plan(sock, (1, VOICE, (stage.address(network, PORT),))))
        if stage.has_wire:
            assert stage.marks(sock, PORT) == [(56, ECN)]
        stage.apply(stage.plan(sock))


@case
def priority_in_the_queue(stage: Stage) -> None:
    """What is more important leaves first, where packets wait."""
    sock, other = stage.udp(), stage.udp()
    stage.apply(stage.plan(sock, (1, VOICE, (stage.address("v4", PORT),))))
    if not stage.has_wire:
        return
    name = stage.near.interface.name
    # 100 ms for what waits; pfifo_fast has a band for priority 6 before the one for 0.
    tc("qdisc", "add", "dev", name, "root", "handle", "7:", "tbf", *_SLOW)
    tc("qdisc", "add", "dev", name, "parent", "7:1", "handle", "8:", "pfifo_fast")
    stage.send(other, OTHER_PORT, 50, 500)
    stage.send(sock, PORT)
    ports = [OTHER_PORT, PORT]
    seen = stage.capture.wait_for(51, 20.0, lambda packet: packet.destination_port in ports)
    place_of = [packet.destination_port for packet in seen].index(PORT)
    assert place_of < 40, f"it was number {place_of} of {len(seen)}"


_SLOW: Final = ("rate", "2mbit", "burst", "2000", "limit", "100000")


@case
def flows_of_one_socket(stage: Stage) -> None:
    """An unconnected socket: by destination, and nothing for those who are in no flow."""
    sock = stage.udp()
    one, two = stage.address("v4", PORT), stage.address("v4", OTHER_PORT)
    stage.apply(stage.plan(sock, (1, VOICE, (one,)), (2, BULK, (two,))))
    if stage.has_wire:
        assert stage.marks(sock, PORT) == [(56, 0)]
        assert stage.marks(sock, OTHER_PORT) == [(8, 0)]
        assert stage.marks(sock, THIRD_PORT) == [(0, 0)]
    stage.apply(stage.plan(sock, (2, BULK, (two, one))))
    if stage.has_wire:
        assert stage.marks(sock, PORT) == [(8, 0)]
        assert stage.marks(sock, OTHER_PORT) == [(8, 0)]


@case
def others_of_the_socket_are_left_alone(stage: Stage) -> None:
    """What a socket in one flow sends to somebody else is not touched."""
    sock = stage.udp()
    stage.apply(stage.plan(sock, (1, VOICE, (stage.address("v4", PORT),))))
    if stage.has_wire and stage.marks(sock, OTHER_PORT) != [(0, 0)]:
        raise Declined(None, "all packets of the socket are marked")


@case
def a_destination_leaves(stage: Stage) -> None:
    """What goes there is not touched any more; the flow goes on."""
    sock = stage.udp()
    stays, leaves = stage.address("v4", PORT), stage.address("v4", OTHER_PORT)
    stage.apply(stage.plan(sock, (1, VOICE, (stays, leaves))))
    if stage.has_wire:
        assert stage.marks(sock, OTHER_PORT) == [(56, 0)]
    stage.apply(stage.plan(sock, (1, VOICE, (stays,))))
    if stage.has_wire:
        assert stage.marks(sock, PORT) == [(56, 0)]
        if stage.marks(sock, OTHER_PORT) != [(0, 0)]:
            raise Declined(None, "all packets of the socket are marked")


@case
def change_of_type(stage: Stage) -> None:
    sock, to = stage.udp(), stage.address("v4", PORT)
    for treatment, dscp in ((VOICE, 56), (BULK, 8), (Treatment(0, 0), 0), (VOICE, 56)):
        stage.apply(stage.plan(sock, (1, treatment, (to,))))
        if stage.has_wire:
            assert stage.marks(sock, PORT) == [(dscp, 0)]


@case
def end_of_a_flow(stage: Stage) -> None:
    """The application's own marks are back."""
    sock, to = stage.udp(), stage.address("v4", PORT)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, OWN_DSCP << 2)
    stage.apply(stage.plan(sock, (1, VOICE, (to,))))
    stage.apply(SocketPlan(read_cookie(sock), ()))
    assert stage.backend.observe() == {}
    if stage.has_wire:
        assert stage.marks(sock, PORT) == [(OWN_DSCP, 0)]


@case
def the_same_plan_again(stage: Stage) -> None:
    sock, to = stage.udp(), stage.address("v4", PORT)
    plan = stage.plan(sock, (1, VOICE, (to,)))
    stage.apply(plan)
    before = stage.backend.observe()
    for _ in range(3):
        stage.apply(plan)
        stage.apply(plan, plan)
    assert stage.backend.observe() == before == {read_cookie(sock): VOICE}
    if stage.has_wire:
        assert stage.marks(sock, PORT) == [(56, 0)]
    stage.apply(SocketPlan(read_cookie(sock), ()))
    assert stage.backend.observe() == {}


@case
def all_or_nothing(stage: Stage) -> None:
    """A plan that cannot be carried out for one socket changes no other."""
    one, two, to = stage.udp(), stage.udp(), stage.address("v4", PORT)
    stage.apply(stage.plan(one, (1, BULK, (to,))))
    before = stage.backend.observe()
    nowhere = Treatment(40, 6, rate_bps=1_000_000)
    impossible = stage.plan(two, (2, nowhere, (place("203.0.113.1", PORT),)))
    beside = (3, VOICE, (stage.address("v4", OTHER_PORT),))
    outcome = stage.backend.apply((stage.plan(one, (1, VOICE, (to,)), beside), impossible))
    if not isinstance(outcome, Refusal):
        raise Declined(None, "it refuses nothing")
    assert stage.backend.observe() == before
    if stage.has_wire:
        assert stage.marks(one, PORT) == [(8, 0)]
        assert stage.marks(two, PORT) == [(0, 0)]
        # Options mark all that the socket sends.
        beside_dscp = 8 if stage.kind == OPTIONS else 0
        assert stage.marks(one, OTHER_PORT) == [(beside_dscp, 0)]


# -- rates ------------------------------------------------------------------------------


@case
def excess_is_marked_otherwise(stage: Stage) -> None:
    """Twice the contract: half of it conforms, the rest is best effort, and nothing is lost."""
    sock, to = stage.udp(), stage.address("v4", PORT)
    metered = Treatment(40, 6, rate_bps=4_000_000, excess_is_remarked=True)
    stage.apply(stage.plan(sock, (1, metered, (to,))))
    assert stage.backend.observe() == {read_cookie(sock): metered}
    if not stage.has_wire:
        return
    size = 1_000 - UDP_HEADERS_BYTES
    # 1,000 bytes each millisecond are 8 Mbit/s.
    _paced(lambda: stage.send(sock, PORT, 1, size), 1_500, 0.001)
    seen = stage.arrived(PORT, 1_500)
    assert {packet.dscp for packet in seen} == {40, 0}
    span_s = (seen[-1].time_ns - seen[0].time_ns) / 1e9
    conformant = sum(packet.dscp == 40 for packet in seen)
    # 20 ms at the rate may come early, and a stall of the sender is lost to it.
    assert 0.85 * 500 * span_s < conformant <= 500 * (span_s + 0.02) + 2
    counted = stage.backend.traffic([1])[1]
    assert (counted.packets, counted.excess_packets) == (conformant, 1_500 - conformant)


@case
def one_rate_for_several_sockets(stage: Stage) -> None:
    socks, to = [stage.udp(), stage.udp()], stage.address("v4", PORT)
    metered = Treatment(40, 6, rate_bps=4_000_000, excess_is_remarked=True)
    stage.apply(*[stage.plan(sock, (1, metered, (to,)), sockets_in_flow=2) for sock in socks])
    if not stage.has_wire:
        return
    for _ in range(100):
        for sock in socks:
            stage.send(sock, PORT, 1, 972)
    seen = stage.arrived(PORT, 200)
    conformant = sum(packet.dscp == 40 for packet in seen)
    span_s = (seen[-1].time_ns - seen[0].time_ns) / 1e9
    assert 0 < conformant <= 500 * (span_s + 0.02) + 2


@case
def udp_is_held_to_a_rate(stage: Stage) -> None:
    """A burst comes out in even gaps, whole."""
    sock, to = stage.udp(), stage.address("v4", PORT)
    shaped = Treatment(40, 6, rate_bps=4_000_000)
    stage.apply(stage.plan(sock, (1, shaped, (to,))))
    assert stage.backend.observe() == {read_cookie(sock): shaped}
    if not stage.has_wire:
        return
    stage.send(sock, PORT, 100, 972)
    seen = stage.arrived(PORT, 100)
    assert {packet.dscp for packet in seen} == {40}
    gaps_ms = [(later.time_ns - sooner.time_ns) / 1e6 for sooner, later in itertools.pairwise(seen)]
    # 1,000 bytes at 4 Mbit/s are 2 ms.
    assert 180 < sum(gaps_ms) < 2_000
    assert 1 < statistics.median(gaps_ms) < 20
    stage.apply(stage.plan(sock, (1, VIDEO, (to,))))
    stage.send(sock, PORT, 100, 972)
    seen = stage.arrived(PORT, 100)
    assert (seen[-1].time_ns - seen[0].time_ns) / 1e6 < 180, "the rate is over"


@case
def one_rate_for_udp_and_tcp(stage: Stage) -> None:
    """Who joins a flow does not end the rate of those who are in it."""
    sock, to = stage.udp(), stage.address("v4", PORT)
    near, far, there = stage.tcp()
    shaped = Treatment(40, 6, rate_bps=4_000_000)
    stage.apply(stage.plan(sock, (1, shaped, (to,))))
    stage.apply(stage.plan(near, (1, shaped, (there,)), sockets_in_flow=2))
    if not stage.has_wire:
        return
    near.sendall(bytes(50_000))
    stage.send(sock, PORT, 50, 972)
    ports = (PORT, there.port)
    seen = stage.capture.wait_for(
        50 + 35, 20.0, lambda packet: packet.destination_port in ports and packet.dscp == 40
    )
    # 50 kB of each at 4 Mbit/s are 200 ms together.
    assert (seen[-1].time_ns - seen[0].time_ns) / 1e6 > 170
    assert len(far.recv(50_000)) > 0


@case
def tcp_is_held_to_a_rate(stage: Stage) -> None:
    near, far, to = stage.tcp()
    shaped = Treatment(40, 6, rate_bps=8_000_000)
    stage.apply(stage.plan(near, (1, shaped, (to,))))
    assert stage.backend.observe() == {read_cookie(near): shaped}
    if not stage.has_wire:
        return
    data = bytes(1_000_000)
    sender = threading.Thread(target=near.sendall, args=(data,))
    sender.start()
    left = len(data)
    while left:
        left -= len(far.recv(65_536))
    sender.join()
    seen = [packet for packet in stage.capture.packets() if packet.destination_port == to.port]
    full = [packet for packet in seen if packet.length_bytes > 500]
    assert {packet.dscp for packet in full} == {40}
    span_s = (full[-1].time_ns - full[0].time_ns) / 1e9
    assert 0.7 < span_s < 10, "a megabyte at 8 Mbit/s is a second"


def _paced(send: Callable[[], None], count: int, gap_s: float) -> None:
    """Call something at even times, late ones at once."""
    due = time.monotonic()
    for _ in range(count):
        send()
        due += gap_s
        wait_s = due - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)


# -- tags, counters, life ---------------------------------------------------------------


@case
def priority_tag(stage: Stage) -> None:
    sock, other, to = stage.udp(), stage.udp(), stage.address("v4", PORT)
    applied = stage.apply(stage.plan(sock, (1, Treatment(40, 6, pcp=5), (to,))))
    if applied.untagged:
        assert applied.untagged == {1}
        assert not stage.has_wire or stage.marks(sock, PORT) == [(40, 0)]
        raise Declined(None, "it tags nothing, and says so")
    if not stage.has_wire:
        return
    with contextlib.closing(Wire(stage.far)) as wire:
        stage.send(sock, PORT)
        stage.send(other, PORT)
        tags = [packet.pcp for packet in wire.take(2, lambda packet: packet.port == PORT)]
    assert tags == [5, None]


@case
def counters(stage: Stage) -> None:
    sock = stage.udp()
    one, two = stage.address("v4", PORT), stage.address("v4", OTHER_PORT)
    stage.apply(stage.plan(sock, (1, VOICE, (one,)), (2, VOICE, (two,))))
    if stage.has_wire:
        stage.marks(sock, PORT, 5)
        stage.marks(sock, OTHER_PORT, 2)
        stage.marks(sock, THIRD_PORT, 1)
    counted = stage.backend.traffic([1, 2, 99])
    if not counted:
        raise Declined(None, "it counts nothing")
    assert counted.keys() == {1, 2}
    size = UDP_HEADERS_BYTES + 100
    found = {flow: (each.packets, each.bytes) for flow, each in counted.items()}
    assert found == {1: (5, 5 * size), 2: (2, 2 * size)}
    # A change of the flow goes on counting.
    stage.apply(stage.plan(sock, (1, BULK, (one,)), (2, VOICE, (two,))))
    stage.marks(sock, PORT)
    assert stage.backend.traffic([1])[1].packets == 6


@case
def what_is_in_force_is_said(stage: Stage) -> None:
    one, two, to = stage.udp(), stage.udp("v6"), stage.address("v4", PORT)
    stage.apply(stage.plan(one, (1, VOICE, (to,))))
    stage.apply(stage.plan(two, (2, BULK, (stage.address("v6", PORT),))))
    assert stage.backend.observe() == {read_cookie(one): VOICE, read_cookie(two): BULK}
    for sock in (one, two):
        name, why = stage.backend.explain(read_cookie(sock))
        assert name
        assert why
    stage.apply(SocketPlan(read_cookie(one), ()))
    assert stage.backend.observe() == {read_cookie(two): BULK}


@case
def nothing_is_left(stage: Stage) -> None:
    """After `clean_up` the host is as before, and so are sockets."""
    before = _host_state(stage)
    sock, to = stage.udp(), stage.address("v4", PORT)
    stage.apply(stage.plan(sock, (1, VOICE, (to,))))
    with contextlib.suppress(Declined):
        stage.apply(stage.plan(sock, (1, Treatment(40, 6, rate_bps=4_000_000), (to,))))
    stage.backend.clean_up()
    assert stage.backend.observe() == {}
    if stage.has_wire:
        assert stage.marks(sock, PORT) == [(0, 0)]
    assert _host_state(stage, is_before=False) == before


def _host_state(stage: Stage, *, is_before: bool = True) -> list[str]:
    """Queues and filters of the host."""
    name = stage.near.interface.name
    # The filter on its own clsact is there from the start of that backend.
    if is_before and stage.kind == CLSACT:
        return ["qdisc noqueue 0: root refcnt 2 \n", ""]
    return [tc("qdisc", "show", "dev", name), tc("filter", "show", "dev", name, "egress")]


@case
def full_tables(stage: Stage) -> None:
    """The flow that is one too many is refused, and changes nothing."""
    socks = [stage.udp() for _ in range(MOST_FLOWS + 1)]
    to = stage.address("v4", PORT)
    for flow, sock in enumerate(socks[:-1], 1):
        stage.apply(stage.plan(sock, (flow, VOICE, (to,))))
    before = stage.backend.observe()
    outcome = stage.backend.apply((stage.plan(socks[-1], (99, VOICE, (to,))),))
    if not isinstance(outcome, Refusal):
        raise Declined(None, "its tables grow")
    assert outcome.code == ErrorCode.ERROR_NO_SYSTEM_RESOURCES
    assert "most_flows" in outcome.detail
    assert stage.backend.observe() == before
    assert stage.marks(socks[-1], PORT) == [(0, 0)]
    stage.apply(SocketPlan(read_cookie(socks[0]), ()))
    stage.apply(stage.plan(socks[-1], (99, VOICE, (to,))))
    assert stage.marks(socks[-1], PORT) == [(56, 0)]


@case
def closed_sockets(stage: Stage) -> None:
    """The kernel tells at once that a socket was closed."""
    sock, other, to = stage.udp(), stage.udp(), stage.address("v4", PORT)
    cookie = read_cookie(sock)
    stage.apply(stage.plan(sock, (1, VOICE, (to,))))
    stage.apply(stage.plan(other, (2, VOICE, (to,))))
    if stage.kind in (MEMORY, OPTIONS):
        sock.close()
        assert stage.backend.take_gone() == ()
        raise Declined(None, "nobody tells it")
    assert not stage.backend.take_gone()
    sock.close()
    gone: set[int] = set()

    def is_told() -> bool:
        gone.update(stage.backend.take_gone())
        return bool(gone)

    until(is_told)
    assert gone == {cookie}
    stage.apply(SocketPlan(cookie, ()))
    assert stage.backend.observe() == {read_cookie(other): VOICE}


# -- who declines what ------------------------------------------------------------------

# By backend and case: with which code it is refused, or None where it is let be.
DECLINED: Final[Mapping[str, Mapping[str, ErrorCode | None]]] = {
    MEMORY: {
        "all_or_nothing": None,
        "counters": None,
        "full_tables": None,
        "closed_sockets": None,
    },
    OPTIONS: {
        "flows_of_one_socket": NOT_SUPPORTED,
        "others_of_the_socket_are_left_alone": None,
        "a_destination_leaves": None,
        "excess_is_marked_otherwise": NOT_SUPPORTED,
        "one_rate_for_several_sockets": NOT_SUPPORTED,
        # Without the fq queue on the way.
        "one_rate_for_udp_and_tcp": NOT_SUPPORTED,
        "udp_is_held_to_a_rate": NOT_SUPPORTED,
        "priority_tag": None,
        "counters": None,
        "full_tables": None,
        "closed_sockets": None,
    },
    TCX: {},
    CLSACT: {},
    NFTABLES: {
        "excess_is_marked_otherwise": NOT_SUPPORTED,
        "one_rate_for_several_sockets": NOT_SUPPORTED,
        "one_rate_for_udp_and_tcp": NOT_SUPPORTED,
        "udp_is_held_to_a_rate": NOT_SUPPORTED,
        "priority_tag": None,
        "full_tables": None,
    },
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", BACKENDS)
def test_a_backend(kind: str, name: str) -> None:
    if kind in (TCX, CLSACT) and not may_use_bpf():
        pytest.skip("BPF wants root of the first user namespace")
    if not availability():
        pytest.skip("no network namespaces here")
    declined = DECLINED[kind]
    with stage(kind) as made:
        if name in declined:
            with pytest.raises(Declined) as caught:
                CASES[name](made)
            assert caught.value.code == declined[name], str(caught.value)
        else:
            CASES[name](made)


def test_the_table_names_cases() -> None:
    assert DECLINED.keys() == set(BACKENDS)
    for cases in DECLINED.values():
        assert cases.keys() <= CASES.keys()

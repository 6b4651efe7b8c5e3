"""The kernel's program at work, on packets of a wire and on packets that go nowhere."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

import pytest

from openqwave.admission.rules import Ports
from openqwave.enforcement.bpf import syscalls
from openqwave.enforcement.bpf.program import EgressProgram
from openqwave.enforcement.bpf.table import BURST_NS
from openqwave.enforcement.claims import Claim, RuleClaim
from openqwave.lab.topology import Host
from openqwave.model.endpoint import Endpoint, endpoint_at
from openqwave.model.flow import Transport, Treatment
from tests.kernel.egress_stage import Wire, attached, cookie_of, load, may_use_bpf

pytestmark = pytest.mark.kernel

DSCPS = (0, 8, 40, 46, 56, 34)
# A nonsense value that an application may have set, and ECT(0).
OWN_TOS = 0x18 << 2 | 2


@pytest.fixture
def program() -> Iterator[EgressProgram]:
    with load() as loaded:
        yield loaded


@pytest.fixture
def wire(pair: tuple[Host, Host]) -> Iterator[Wire]:
    made = Wire(pair[1])
    yield made
    made.close()


def flow(program: EgressProgram, treatment: Treatment) -> int:
    """A slot with a treatment."""
    slot = program.table.new_slot()
    program.table.write_treatment(slot, treatment)
    return slot


def udp(host: Host, family: socket.AddressFamily = socket.AF_INET6) -> socket.socket:
    """A UDP socket, for both families if it is IPv6, with marks of its own."""
    with host.enter():
        sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, OWN_TOS)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, OWN_TOS)
    return sock


def at(address: str, port: int) -> Endpoint:
    return endpoint_at(ip_address(address), port, 0)


# -- on the wire ---------------------------------------------------------------------


def test_one_socket_with_a_hundred_destinations(
    pair: tuple[Host, Host], program: EgressProgram, wire: Wire
) -> None:
    left, right = pair
    slots = [flow(program, Treatment(dscp=dscp, pcp=index % 8)) for index, dscp in enumerate(DSCPS)]
    with udp(left) as sock, udp(left) as other, udp(left, socket.AF_INET) as old:
        cookie = cookie_of(sock)
        wanted = {}
        for number in range(100):
            port = 20_000 + number
            address = right.ipv6 if number % 2 else right.ipv4
            program.table.put_destinations(cookie, {at(address, port): slots[number % 6]})
            wanted[address, port] = DSCPS[number % 6], number % 6
        program.table.put_socket(cookie, None, has_destinations=True)
        mapped = f"::ffff:{right.ipv4}"
        with attached(program, left):
            for _ in range(3):
                for address, port in wanted:
                    to = mapped if address == right.ipv4 else address
                    sock.sendto(b"ours", (to, port))
                    # What others send to the same places, and what ours sends elsewhere.
                    other.sendto(b"theirs", (to, port))
                    if address == right.ipv4:
                        old.sendto(b"theirs", (address, port))
                    sock.sendto(b"elsewhere", (to, port + 1_000))
            seen = wire.take(3 * (100 + 100 + 50 + 100), lambda packet: packet.port >= 20_000)
    assert len(seen) == 3 * 350
    ours = [packet for packet in seen if packet.data.endswith(b"ours")]
    assert len(ours) == 300
    for packet in ours:
        assert (packet.dscp, packet.pcp) == wanted[packet.destination, packet.port]
    for packet in seen:
        assert packet.ecn == 2
        assert packet.is_sum_right()
        assert packet.is_udp_sum_right()
        if packet not in ours:
            assert (packet.dscp, packet.pcp) == (0x18, None)
    counted = program.table.read_meters(slots)
    assert sum(each.packets for each in counted.values()) == 300
    # 150 packets of each family, 4 bytes of payload each.
    assert sum(each.bytes for each in counted.values()) == 150 * (20 + 12) + 150 * (40 + 12)


def test_a_change_of_type_is_one_write(
    pair: tuple[Host, Host], program: EgressProgram, wire: Wire
) -> None:
    left, right = pair
    slot = flow(program, Treatment(dscp=40))
    ports = range(20_000, 20_010)
    with udp(left) as sock, attached(program, left):
        cookie = cookie_of(sock)
        program.table.put_destinations(cookie, {at(right.ipv6, port): slot for port in ports})
        program.table.put_socket(cookie, None, has_destinations=True)
        for dscp in (56, 8, None):
            program.table.write_treatment(slot, Treatment(dscp=dscp))
            for port in ports:
                sock.sendto(b"x", (right.ipv6, port))
            seen = wire.take(10, lambda packet: packet.port in ports)
            assert {packet.dscp for packet in seen} == {0x18 if dscp is None else dscp}
            assert len(seen) == 10


def test_fragments_have_the_marks_of_the_first(
    pair: tuple[Host, Host], program: EgressProgram, wire: Wire
) -> None:
    left, right = pair
    slot = flow(program, Treatment(dscp=46, pcp=5))
    with udp(left) as sock, attached(program, left):
        cookie = cookie_of(sock)
        where = {at(right.ipv4, 20_000): slot, at(right.ipv6, 20_000): slot}
        program.table.put_destinations(cookie, where)
        program.table.put_socket(cookie, None, has_destinations=True)
        for address in (f"::ffff:{right.ipv4}", right.ipv6):
            sock.sendto(bytes(4_000), (address, 20_000))
            sock.sendto(bytes(4_000), (address, 20_001))
            seen = wire.take(6)
            assert [(packet.dscp, packet.pcp, packet.ecn) for packet in seen] == (
                [(46, 5, 2)] * 3 + [(0x18, None, 2)] * 3
            )
            assert all(packet.is_sum_right() for packet in seen)


def test_a_note_of_fragments_ends_with_the_next_of_that_number(
    pair: tuple[Host, Host], program: EgressProgram, wire: Wire
) -> None:
    """What was noted may lead to a slot that is another flow's by then."""
    left, right = pair
    slot, other = flow(program, Treatment(dscp=46)), flow(program, Treatment(dscp=8))
    to = at(right.ipv4, 20_000)
    with left.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def send() -> list[int]:
        """Send a datagram in two fragments, always of the same number."""
        for fragment in (0x2000, 2):
            head = struct.pack("!BBHHHBBH", 0x45, 0, 36, 7, fragment, 64, socket.IPPROTO_UDP, 0)
            body = struct.pack("!HHHH", 4_000, to.port, 24, 0) + bytes(8)
            sock.sendto(head + at(left.ipv4, 1).packed + to.packed + body, (right.ipv4, 0))
        return [packet.dscp for packet in wire.take(2, lambda packet: packet.version == 4)]

    with sock, attached(program, left):
        cookie = cookie_of(sock)
        program.table.put_destination(cookie, at(right.ipv4, 20_001), other)
        program.table.put_destination(cookie, to, slot)
        program.table.put_socket(cookie, None, has_destinations=True)
        assert send() == [46, 46]
        program.table.drop_destination(cookie, to)
        assert send() == [0, 0]


@pytest.mark.parametrize(("name", "pcp"), [("egress", 6), ("egress_untagged", None)])
def test_tags_only_where_they_may_be(
    pair: tuple[Host, Host], program: EgressProgram, wire: Wire, name: str, pcp: int | None
) -> None:
    left, right = pair
    slot = flow(program, Treatment(dscp=46, pcp=6))
    with udp(left) as sock, attached(program, left, name):
        program.table.put_socket(cookie_of(sock), slot)
        sock.sendto(b"x", (right.ipv6, 20_000))
        seen = wire.take(1, lambda packet: packet.port == 20_000)
    assert [(packet.dscp, packet.pcp) for packet in seen] == [(46, pcp)]


def test_tcp_is_marked_and_delivered(
    pair: tuple[Host, Host], program: EgressProgram, wire: Wire
) -> None:
    left, right = pair
    slot = flow(program, Treatment(dscp=40))
    with right.enter():
        listener = socket.create_server((right.ipv4, 20_000))
    with left.enter():
        sock = socket.socket()
    data = bytes(range(256)) * 1_000
    with listener, sock, attached(program, left):
        program.table.put_socket(cookie_of(sock), slot)
        sock.settimeout(10)
        sock.connect((right.ipv4, 20_000))
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(10)
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            got = b""
            while part := peer.recv(65_536):
                got += part
    assert got == data
    seen = wire.take(100, lambda packet: packet.port == 20_000)
    assert {packet.dscp for packet in seen} == {40}
    assert all(packet.is_sum_right() for packet in seen)


def test_excess_is_marked_otherwise(
    pair: tuple[Host, Host], program: EgressProgram, wire: Wire
) -> None:
    left, right = pair
    rate_bps, length, seconds = 8_000_000, 1_000, 2.0
    slot = flow(
        program,
        Treatment(dscp=40, queue_priority=5, rate_bps=rate_bps, excess_is_remarked=True, pcp=5),
    )
    gap = (length + 28) * 8 / (2 * rate_bps)
    with udp(left) as sock, attached(program, left):
        cookie = cookie_of(sock)
        program.table.put_destination(cookie, at(right.ipv4, 20_000), slot)
        program.table.put_socket(cookie, None, has_destinations=True)
        begun, sent, idle, last = time.monotonic(), 0, 0.0, 0.0
        while (now := time.monotonic() - begun) < seconds:
            # What was not offered for longer than a burst is not made up for.
            idle += max(0.0, now - last - BURST_NS / 1e9)
            last = now
            while sent * gap <= now:
                sock.sendto(bytes(length), (f"::ffff:{right.ipv4}", 20_000))
                sent += 1
            time.sleep(0.001)
        took = time.monotonic() - begun
        seen = wire.take(sent, lambda packet: packet.port == 20_000)
    assert len(seen) == sent
    assert {(packet.dscp, packet.pcp) for packet in seen} == {(40, 5), (0, 0)}
    counted = program.table.read_meters([slot])[slot]
    conformant = sum(packet.dscp == 40 for packet in seen)
    assert (counted.packets, counted.excess_packets) == (conformant, sent - conformant)
    assert counted.bytes == conformant * (length + 28)
    assert counted.bytes * 8 / (took - idle) == pytest.approx(rate_bps, rel=0.03)


# -- packets that go nowhere ----------------------------------------------------------

# struct __sk_buff up to gso_size, as BPF_PROG_TEST_RUN takes it.
CONTEXT_BYTES = 192
PRIORITY_AT, WIRE_LEN_AT, GSO_SEGS_AT, TC_INDEX_AT = 32, 160, 164, 44
NEXT = 0xFFFF_FFFF


def ipv4_packet(*, tos: int = 0, options: bytes = b"", port: int = 5_000, body: int = 8) -> bytes:
    """An Ethernet frame with UDP in IPv4."""
    ip_bytes = 20 + len(options) + 8 + body
    head = bytearray(
        struct.pack(
            "!BBHHHBBH4s4s",
            0x45 + len(options) // 4,
            tos,
            ip_bytes,
            1,
            0,
            64,
            17,
            0,
            bytes([192, 0, 2, 1]),
            bytes([192, 0, 2, 2]),
        )
        + options
    )
    total = sum(struct.unpack(f"!{len(head) // 2}H", head))
    total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!H", head, 10, ~total & 0xFFFF)
    return (
        bytes(12)
        + b"\x08\x00"
        + head
        + struct.pack("!HHHH", 4_000, port, 8 + body, 0)
        + bytes(body)
    )


def ipv6_packet(extensions: bytes = b"", first: int = 17, *, tclass: int = 0) -> bytes:
    """An Ethernet frame with UDP in IPv6."""
    ends = ip_address("2001:db8::1").packed + ip_address("2001:db8::2").packed
    body = extensions + struct.pack("!HHHH", 4_000, 5_000, 16, 0) + bytes(8)
    head = struct.pack("!IHBB", 6 << 28 | tclass << 20 | 0xABCDE, len(body), first, 64)
    return bytes(12) + b"\x86\xdd" + head + ends + body


def run(
    program: EgressProgram, packet: bytes, *, name: str = "egress", wire: int = 0, segments: int = 0
) -> tuple[int, bytes, int]:
    """Run a program; what it returned, the packet afterwards, and its priority."""
    context = bytearray(CONTEXT_BYTES)
    struct.pack_into("=I", context, PRIORITY_AT, 3)
    struct.pack_into("=I", context, WIRE_LEN_AT, wire)
    struct.pack_into("=I", context, GSO_SEGS_AT, segments)
    returned, out, after, _ = syscalls.run_program(
        getattr(program.programs, name), packet, bytes(context)
    )
    return returned & 0xFFFF_FFFF, out, struct.unpack_from("=I", after, PRIORITY_AT)[0]


ANY = RuleClaim(Claim(1, Treatment()))
V4 = replace(
    ANY,
    protocol=Transport.UDP,
    local=IPv4Network("192.0.2.1"),
    remote=IPv4Network("192.0.2.2"),
    local_ports=Ports(4_000, 4_000),
    remote_ports=Ports(5_000, 5_000),
)
V6 = replace(V4, local=IPv6Network("2001:db8::1"), remote=IPv6Network("2001:db8::2"))


def lead(program: EgressProgram, slot: int, *rules: RuleClaim) -> None:
    """Let traffic that meets the conditions of a rule lead to a slot."""
    program.claims.write([(rule, slot) for rule in rules], {})
    program.claims.bring_in_force()


@pytest.mark.parametrize(
    ("conditions", "is_met"),
    [
        ({}, True),
        ({"protocol": Transport.UDP}, True),
        ({"protocol": Transport.TCP}, False),
        ({"local": IPv4Network("192.0.2.0/31")}, True),
        ({"local": IPv4Network("192.0.2.0/32")}, False),
        ({"local": IPv4Network("0.0.0.0/0")}, True),
        ({"local": IPv4Network("128.0.0.0/1")}, True),
        ({"local": IPv4Network("0.0.0.0/1")}, False),
        ({"local": IPv6Network("::/0")}, False),
        ({"remote": IPv4Network("192.0.2.2/31")}, True),
        ({"remote": IPv4Network("192.0.2.0/31")}, False),
        ({"remote": IPv6Network("::ffff:0:0/96")}, False),
        ({"local": IPv4Network("192.0.2.2")}, False),
        ({"local_ports": Ports(4_000, 4_000)}, True),
        ({"local_ports": Ports(1, 4_000)}, True),
        ({"local_ports": Ports(4_000, 65_535)}, True),
        ({"local_ports": Ports(1, 3_999)}, False),
        ({"local_ports": Ports(4_001, 65_535)}, False),
        ({"remote_ports": Ports(4_999, 5_001)}, True),
        ({"remote_ports": Ports(5_001, 5_001)}, False),
        ({"remote_ports": Ports(1, 4_999)}, False),
        ({"local_ports": Ports(5_000, 5_000), "remote_ports": Ports(4_000, 4_000)}, False),
    ],
    ids=str,
)
def test_conditions_at_their_edges(
    program: EgressProgram, conditions: dict[str, Any], is_met: bool
) -> None:
    packet = ipv4_packet(tos=3)
    assert run(program, packet) == (NEXT, packet, 3)
    slot = flow(program, Treatment(dscp=46, queue_priority=5))
    lead(program, slot, replace(ANY, **conditions))
    marked = (NEXT, ipv4_packet(tos=46 << 2 | 3), 5)
    assert run(program, packet) == (marked if is_met else (NEXT, packet, 3))
    program.claims.switch_off()
    assert run(program, packet) == (NEXT, packet, 3)


@pytest.mark.parametrize(
    ("conditions", "is_met"),
    [
        ({"local": IPv6Network("2001:db8::/127")}, True),
        ({"local": IPv6Network("2001:db8::/128")}, False),
        ({"local": IPv6Network("::/0")}, True),
        ({"local": IPv4Network("0.0.0.0/0")}, False),
        ({"remote": IPv6Network("2001:db8::2/128")}, True),
        ({"remote": IPv6Network("2001:db8:0:0:8000::/65")}, False),
        ({"remote": IPv6Network("2001:db8::/65")}, True),
    ],
    ids=str,
)
def test_conditions_of_ipv6(
    program: EgressProgram, conditions: dict[str, Any], is_met: bool
) -> None:
    lead(program, flow(program, Treatment(dscp=46)), replace(ANY, **conditions))
    marked = ipv6_packet(tclass=46 << 2 if is_met else 0)
    assert run(program, ipv6_packet())[1] == marked


@pytest.mark.parametrize("first", [0, 1, 31, 32, 62, 63])
def test_the_first_of_the_rules_that_are_met_holds(program: EgressProgram, first: int) -> None:
    unmet = replace(ANY, remote_ports=Ports(9, 9))
    slots = [flow(program, Treatment(dscp=dscp)) for dscp in (8, 46, 34)]
    rules = [(unmet, slots[0])] * 64
    rules[first] = (V4, slots[1])
    rules[first + 1 :] = [(ANY, slots[2])] * (63 - first)
    program.claims.write(rules, {})
    program.claims.bring_in_force()
    assert run(program, ipv4_packet())[1] == ipv4_packet(tos=46 << 2)
    # And of the last bank, nothing is left.
    lead(program, slots[2], unmet)
    assert run(program, ipv4_packet())[1] == ipv4_packet()


def test_ipv4_options_are_stepped_over(program: EgressProgram) -> None:
    lead(program, flow(program, Treatment(dscp=8)), V4)
    options = bytes([1] * 8)
    assert run(program, ipv4_packet(options=options))[1] == ipv4_packet(options=options, tos=32)


HOP, ROUTE, TARGET = 0, 43, 60


@pytest.mark.parametrize(
    ("kinds", "is_found"),
    [
        ((HOP,), True),
        ((HOP, TARGET, ROUTE, TARGET), True),
        ((TARGET,) * 6, True),
        ((TARGET,) * 7, False),
    ],
)
def test_ipv6_extension_headers(
    program: EgressProgram, kinds: tuple[int, ...], is_found: bool
) -> None:
    lead(program, flow(program, Treatment(dscp=8)), V6)
    extensions = b"".join(
        bytes([following, index % 2]) + bytes(6 + 8 * (index % 2))
        for index, following in enumerate((*kinds[1:], 17))
    )
    out = run(program, ipv6_packet(extensions, kinds[0], tclass=2))[1]
    assert out == ipv6_packet(extensions, kinds[0], tclass=8 << 2 | 2 if is_found else 2)


def test_the_same_where_there_is_no_link_header(program: EgressProgram) -> None:
    lead(program, flow(program, Treatment(dscp=8, pcp=4)), V4)
    slot = flow(program, Treatment(dscp=8, pcp=4))
    lead(program, slot, V4)
    assert run(program, ipv4_packet(), name="egress_untagged")[1] == ipv4_packet(tos=32)
    assert program.table.read_meters([slot])[slot].bytes == len(ipv4_packet()) - 14


def test_trains_count_their_segments(program: EgressProgram) -> None:
    slot = flow(program, Treatment(dscp=8, rate_bps=8_000_000, excess_is_remarked=True))
    lead(program, slot, V4)
    # 40 segments of 1,000 bytes of IP take 40 ms, which overdraws; the second train is excess.
    for _ in range(2):
        run(program, ipv4_packet(body=1_000), wire=40 * 1_014, segments=40)
    counted = program.table.read_meters([slot])[slot]
    assert (counted.packets, counted.bytes) == (40, 40_000)
    assert (counted.excess_packets, counted.excess_bytes) == (40, 40_000)


def test_what_would_wait_too_long_is_dropped(program: EgressProgram) -> None:
    slot = program.table.new_slot()
    # A packet of 36 bytes takes 0.288 s.
    slow = Treatment(rate_bps=1_000)
    program.table.write_treatment(slot, slow, is_delayed=True, horizon_ns=1_000_000_000)
    lead(program, slot, V4)
    returned = [run(program, ipv4_packet())[0] for _ in range(10)]
    assert returned[:3] == [NEXT] * 3
    assert returned[-3:] == [2] * 3
    counted = program.table.read_meters([slot])[slot]
    assert counted.packets + counted.dropped_packets == 10
    assert counted.dropped_packets == returned.count(2)


def test_a_slot_begins_anew(program: EgressProgram) -> None:
    slot = flow(program, Treatment(dscp=8))
    lead(program, slot, V4)
    run(program, ipv4_packet())
    program.claims.switch_off()
    program.table.free_slot(slot)
    assert program.table.new_slot() == slot
    assert program.table.read_meters([slot])[slot].packets == 0


def test_what_is_in_the_tables(program: EgressProgram) -> None:
    table = program.table
    where = {at("192.0.2.1", port): 7 for port in range(1, 3_000)} | {
        Endpoint(ip_address("fe80::1").packed, 9, 3): 8
    }
    table.put_destinations(4, where)
    table.put_socket(4, None, has_destinations=True)
    table.put_socket(5, 3)
    found = table.entries()
    assert found.sockets == {4: (None, True), 5: (3, False)}
    assert found.destinations == {(4, endpoint): slot for endpoint, slot in where.items()}
    table.drop_destination(4, at("192.0.2.1", 77))
    table.drop_destinations(4, list(where))
    assert table.entries().destinations == {}
    table.clear()
    assert table.entries().sockets == {}


# -- rights ---------------------------------------------------------------------------

TRY = """
from openqwave.enforcement.bpf.program import EgressProgram, Sizes
from openqwave.enforcement.missing import MechanismMissing
try:
    EgressProgram.load(Sizes(16, 16, 16, 16, 16))
    print("loaded")
except MechanismMissing as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("rights", "said"),
    [
        ("+net_admin,+cap_39", "loaded"),
        ("+net_admin", "CAP_BPF is missing"),
        ("+cap_39", "CAP_NET_ADMIN is missing"),
        ("", "CAP_NET_ADMIN and CAP_BPF are missing"),
    ],
)
def test_two_rights_suffice_and_none_less(rights: str, said: str) -> None:
    if not may_use_bpf():
        pytest.skip("only root can give rights away")
    kept = "-all" + ("," + rights if rights else "")
    outcome = subprocess.run(
        [
            "/usr/bin/setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            f"--inh-caps={kept}",
            f"--ambient-caps={kept}",
            f"--bounding-set={kept}",
            sys.executable,
            "-c",
            TRY,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert said in outcome.stdout, outcome

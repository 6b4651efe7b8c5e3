"""UDP held to a rate by departure times: the egress program writes them, fq keeps them.

In virtual time what is seen is the mechanism itself: each packet leaves when it should. In real
time a busy machine is late, so only the slow rates are looked at there.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import pytest

from openqwave.model.flow import Treatment
from tests.other_kernel.devices import set_queue
from tests.other_kernel.program import BOTH_WAYS, endpoint
from tests.other_kernel.streams import PAYLOAD_BYTES, PORT, Arrived, gap_ns, stream
from tests.other_kernel.times import is_virtual

if TYPE_CHECKING:
    from openqwave.lab.topology import Host
    from tests.other_kernel.program import Program

pytestmark = pytest.mark.kernel

MBPS = 1_000_000
DSCP = 40
RATES = [1 * MBPS, 8 * MBPS, 20 * MBPS, 100 * MBPS, 500 * MBPS]
# Seen are 0.003 %; of real time, some percent.
TOLERANCE = 0.005 if is_virtual() else 0.1


def shaped(rate_bps: int, dscp: int | None = DSCP) -> Treatment:
    return Treatment(dscp=dscp, rate_bps=rate_bps)


def connected(left: Host, address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with left.enter():
        sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.connect((address, PORT))
    return sock


@pytest.fixture
def hosts(pair: tuple[Host, Host]) -> tuple[Host, Host]:
    """Two hosts, the left one with fq as it comes."""
    set_queue(pair[0].interface, "fq")
    return pair


def assert_even(found: Arrived, rate_bps: int, payload_bytes: int = PAYLOAD_BYTES) -> None:
    print(found)
    assert found.lost == 0
    assert found.rate_bps == pytest.approx(rate_bps, rel=TOLERANCE)
    if is_virtual():
        # fq's clock counts in 1,024 ns, and its timer may be late by a little.
        for gap in found.gaps_ns:
            assert gap == pytest.approx(gap_ns(rate_bps, payload_bytes), rel=TOLERANCE, abs=1_500)


@pytest.mark.parametrize("rate_bps", RATES)
def test_twice_the_rate_offered_arrives_at_the_rate(
    hosts: tuple[Host, Host], program: Program, rate_bps: int
) -> None:
    if not is_virtual() and rate_bps > 10 * MBPS:
        pytest.skip("a busy machine is late for so many packets")
    left, right = hosts
    program.attach(left, left.interface.name, "clsact")
    with connected(left, right.ipv4) as sock:
        slot = program.flow(sock, shaped(rate_bps), is_delayed=True)
        found = stream(right, sock, 2 * rate_bps, 400)
    assert_even(found, rate_bps)
    assert {packet.dscp for packet in found.packets} == {DSCP}
    counted = program.counted(slot)
    assert (counted.packets, counted.excess_packets, counted.dropped_packets) == (400, 0, 0)


@BOTH_WAYS
@pytest.mark.parametrize("version", [4, 6])
def test_each_way_and_each_family(
    hosts: tuple[Host, Host], program: Program, way: str, version: int
) -> None:
    left, right = hosts
    program.attach(left, left.interface.name, way)
    address = right.ipv4 if version == 4 else right.ipv6
    payload_bytes = PAYLOAD_BYTES if version == 4 else PAYLOAD_BYTES - 20
    with connected(left, address) as sock:
        program.flow(sock, shaped(8 * MBPS, None), is_delayed=True)
        found = stream(right, sock, 16 * MBPS, 400, payload_bytes=payload_bytes)
    assert_even(found, 8 * MBPS)
    # Shaped only.
    assert {packet.dscp for packet in found.packets} == {0}


def test_below_the_rate_nothing_waits(hosts: tuple[Host, Host], program: Program) -> None:
    left, right = hosts
    program.attach(left, left.interface.name, "clsact")
    with connected(left, right.ipv4) as sock:
        program.flow(sock, shaped(16 * MBPS), is_delayed=True)
        found = stream(right, sock, 8 * MBPS, 400)
    assert_even(found, 8 * MBPS)


def test_others_do_not_wait(hosts: tuple[Host, Host], program: Program) -> None:
    left, right = hosts
    program.attach(left, left.interface.name, "clsact")
    with right.enter():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, connected(left, right.ipv4) as slow, connected(left, right.ipv4) as other:
        receiver.bind((right.ipv4, PORT))
        program.flow(slow, shaped(MBPS), is_delayed=True)
        for _ in range(50):
            slow.send(bytes(PAYLOAD_BYTES))
        other.connect((right.ipv4, PORT + 1))
        found = stream(right, other, 8 * MBPS, 100)
    print(found)
    assert found.lost == 0
    assert {packet.dscp for packet in found.packets} == {0}
    # Not 12 ms, the slow one's; what the queue lets go of on the way takes its time, too.
    assert found.gaps_ns[2] < 2 * gap_ns(8 * MBPS)


# <linux/udp.h>
UDP_SEGMENT = 103
SEGMENTS = 20


def test_trains_keep_the_rate(hosts: tuple[Host, Host], program: Program) -> None:
    # The kernel cuts a train after the queue, so its segments leave together, and the next train
    # when all of them had their time, each with headers of its own.
    left, right = hosts
    program.attach(left, left.interface.name, "clsact")
    with right.enter():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with connected(left, right.ipv4) as sock, receiver, right.capture() as capture:
        receiver.bind((right.ipv4, PORT))
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, PAYLOAD_BYTES)
        slot = program.flow(sock, shaped(20 * MBPS), is_delayed=True)
        try:
            for _ in range(20):
                sock.send(bytes(SEGMENTS * PAYLOAD_BYTES))
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            pytest.skip("this kernel makes no trains for an interface that leaves sums to it")
        packets = capture.wait_for(
            20 * SEGMENTS, timeout_s=30, where=lambda packet: packet.destination_port == PORT
        )
    assert {packet.length_bytes for packet in packets} == {1_500}
    counted = program.counted(slot)
    assert (counted.packets, counted.bytes) == (20 * SEGMENTS, 20 * SEGMENTS * 1_500)
    starts = [packet.time_ns for packet in packets[::SEGMENTS]]
    took_ns = starts[-1] - starts[0]
    assert took_ns == pytest.approx(19 * SEGMENTS * gap_ns(20 * MBPS), rel=TOLERANCE)


@pytest.mark.parametrize("after_bps", [2 * MBPS, 32 * MBPS])
def test_a_changed_rate_loses_nothing(
    hosts: tuple[Host, Host], program: Program, after_bps: int
) -> None:
    left, right = hosts
    program.attach(left, left.interface.name, "clsact")
    with right.enter():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with connected(left, right.ipv4) as sock, receiver, right.capture() as capture:
        receiver.bind((right.ipv4, PORT))
        slot = program.flow(sock, shaped(8 * MBPS), is_delayed=True)
        # Less than the socket's buffer holds, so that all of it waits when the rate changes.
        for number in range(80):
            sock.send(number.to_bytes(2, "big") + bytes(PAYLOAD_BYTES - 2))
        program.table.write_treatment(slot, shaped(after_bps), is_delayed=True)
        for number in range(80, 400):
            sock.send(number.to_bytes(2, "big") + bytes(PAYLOAD_BYTES - 2))
        packets = capture.wait_for(
            400, timeout_s=30, where=lambda packet: packet.destination_port == PORT
        )
    assert len(packets) == 400
    assert [int.from_bytes(packet.payload[:2], "big") for packet in packets] == list(range(400))
    # What waits leaves as it was told; the rest at the new rate.
    before, after = Arrived(80, packets[:80]), Arrived(320, packets[80:])
    assert before.rate_bps == pytest.approx(8 * MBPS, rel=TOLERANCE)
    assert after.rate_bps == pytest.approx(after_bps, rel=TOLERANCE)
    assert program.counted(slot).dropped_packets == 0


def test_destinations_of_one_socket_have_rates_of_their_own(
    hosts: tuple[Host, Host], program: Program
) -> None:
    left, right = hosts
    program.attach(left, left.interface.name, "clsact")
    rates = {PORT: MBPS, PORT + 1: 4 * MBPS}
    with right.enter():
        receivers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in rates]
    with left.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock, receivers[0], receivers[1], right.capture() as capture:
        for receiver, port in zip(receivers, rates, strict=True):
            receiver.bind((right.ipv4, port))
            program.flow(sock, shaped(rates[port]), endpoint(right.ipv4, port), is_delayed=True)
        # The socket's buffer holds all of them, and fq takes a hundred of one socket.
        for _ in range(40):
            for port in rates:
                sock.sendto(bytes(PAYLOAD_BYTES), (right.ipv4, port))
        packets = capture.wait_for(
            80, timeout_s=30, where=lambda packet: packet.destination_port in rates
        )
    for port, rate_bps in rates.items():
        own = [packet for packet in packets if packet.destination_port == port]
        assert_even(Arrived(40, own), rate_bps)

"""Rates that a pool's leaves hold, by the kernel's stamps on the wire, with twice as much offered.

The bounds are those of the promise, 2 % of the rate; seen are 0.05 % at 1 and 8 Mbit/s and 0.2 %
above. A machine that is busy with other things makes timers and senders late, and lateness beyond a
leaf's burst is lost to the flow; so of the parts of a run the fastest counts, which is as well the
one that must not be too fast.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from pyroute2.ethtool.ioctl import IoctlEthtool

from openqwave.drivers.batches import SendBatch
from openqwave.enforcement.shaping.shapers import Leaf
from openqwave.lab.capture import Direction
from tests.kernel.shaping_stage import (
    HEADERS_BYTES,
    PATIENCE_S,
    PORT,
    Ground,
    WithoutFq,
    gaps_ns,
    ground_of,
    numbered,
    numbers,
    of_the_flow,
    rate_bps,
)

if TYPE_CHECKING:
    from openqwave.lab.capture import CapturedPacket
    from openqwave.lab.topology import Host

pytestmark = pytest.mark.kernel

FULL_BYTES = 1_500
TOLERANCE = 0.02
TRIES = 3
PARTS = 10
# Above this rate a sender is given a larger buffer, half of which has to be empty before it is
# woken: it may come a few milliseconds late without the queue running empty.
LATE_BPS = 50_000_000
BUFFER_BYTES = 1 << 20
BATCH = 64
# linux/udp.h
UDP_SEGMENT = 103


@pytest.fixture
def ground(pair: tuple[Host, Host]) -> Iterator[Ground]:
    with ground_of(*pair) as made:
        made.shapers = made.another(WithoutFq(made.netlink))
        yield made


def granted(ground: Ground, rate: int, flow_id: int = 1) -> int:
    outcome = ground.shapers.grant(flow_id, rate, [ground.peer])
    assert isinstance(outcome, Leaf)
    return outcome.classid


def send_twice_as_fast(sock: socket.socket, size: int, count: int, rate: int) -> None:
    """Offer twice the rate as long as the socket takes it; block where it does not."""
    interval_s = size * 8 / (2 * rate)
    start = time.monotonic()
    for number in range(count):
        ahead_s = start + number * interval_s - time.monotonic()
        # Sleeping for less takes longer than what is left.
        if ahead_s > 0.001:
            time.sleep(ahead_s)
        sock.send(numbered(number, size - HEADERS_BYTES))


def send_in_batches(sock: socket.socket, size: int, count: int) -> None:
    """Offer all that the socket takes: a call for each packet is too slow beside other work."""
    payloads = [numbered(number, size - HEADERS_BYTES) for number in range(count)]
    batch = SendBatch(payloads, b"", b"")
    sent = 0
    while sent < count:
        try:
            sent += batch.send(sock.fileno(), sent, min(count - sent, BATCH))
        except BlockingIOError:
            select.select([], [sock], [])


def held(ground: Ground, size: int, count: int, rate: int) -> list[CapturedPacket]:
    """What leaves, without the first tenth; all of it is seen to arrive.

    The order is that of leaving: two processors may deliver neighbours to the far end at once.
    """
    with (
        ground.sender(granted(ground, rate), BUFFER_BYTES if rate > LATE_BPS else 0) as sock,
        ground.left.capture(Direction.OUTGOING) as leaving,
        ground.right.capture() as arriving,
    ):
        if rate > LATE_BPS:
            send_in_batches(sock, size, count)
        else:
            send_twice_as_fast(sock, size, count, rate)
        arrived = arriving.wait_for(count, timeout_s=PATIENCE_S, where=of_the_flow)
        packets = leaving.wait_for(count, timeout_s=PATIENCE_S, where=of_the_flow)
        assert not leaving.dropped
        assert not arriving.dropped
    assert numbers(packets) == sorted(numbers(arrived)) == list(range(count))
    return packets[count // 10 :]


def fastest_bps(packets: list[CapturedPacket]) -> float:
    """The rate of the fastest part of a run, each of which begins with the last one's end."""
    step = len(packets) // PARTS
    return max(rate_bps(packets[part * step : (part + 1) * step + 1]) for part in range(PARTS))


@pytest.mark.parametrize(
    ("megabits", "size", "count"),
    [
        (1, FULL_BYTES, 200),
        (8, FULL_BYTES, 800),
        (8, 200, 4_000),
        (100, FULL_BYTES, 8_000),
        (500, FULL_BYTES, 15_000),
    ],
)
def test_a_leaf_holds_its_rate_in_ip_bytes_without_loss(
    ground: Ground, megabits: int, size: int, count: int
) -> None:
    rate = megabits * 1_000_000
    seen: list[float] = []
    for _ in range(TRIES):
        packets = held(ground, size, count, rate)
        seen.append(fastest_bps(packets) / rate)
        # Never more than was agreed; what the first gap may lack is little.
        assert seen[-1] < 1 + TOLERANCE
        if seen[-1] > 1 - TOLERANCE:
            break
    assert max(seen) > 1 - TOLERANCE, seen

    gaps = gaps_ns(packets)
    nominal_ns = size * 8_000_000_000 / rate
    assert gaps[len(gaps) // 2] == pytest.approx(nominal_ns, rel=0.1)
    if nominal_ns > 1_000_000:
        # Where timers are exact enough to tell: nine of ten gaps are within a tenth of it.
        assert gaps[len(gaps) // 20] > 0.9 * nominal_ns
        assert gaps[len(gaps) * 19 // 20] < 1.1 * nominal_ns


def test_several_flows_each_have_their_rate(ground: Ground) -> None:
    megabits = (1, 2, 4)
    # Fewer than one socket can have waiting, or the slowest would hold up the others.
    count = 50
    leaves = [granted(ground, rate * 1_000_000, rate) for rate in megabits]
    with ground.right.enter():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind((ground.right.ipv4, PORT))
    with receiver, ground.right.capture() as capture:
        with ground.left.enter():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
            for leaf in leaves * count:
                # One socket, as the program does it: packet by packet.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, leaf)
                payload = numbered(leaf, FULL_BYTES - HEADERS_BYTES)
                sock.sendto(payload, (ground.right.ipv4, PORT))
            packets = capture.wait_for(count * len(leaves), timeout_s=PATIENCE_S, where=of_the_flow)
    for rate, leaf in zip(megabits, leaves, strict=True):
        own = [each for each in packets if numbers([each]) == [leaf]]
        assert len(own) == count
        assert fastest_bps(own) == pytest.approx(rate * 1e6, rel=TOLERANCE)


def test_a_socket_as_it_comes_loses_nothing_however_small_its_packets_are(
    ground: Ground,
) -> None:
    # Its buffer holds 277 packets of this size.
    count = 400
    packets = held(ground, 60, count, 1_000_000)
    assert fastest_bps(packets) == pytest.approx(1_000_000, rel=TOLERANCE)


def test_a_train_of_segments_is_spread(ground: Ground) -> None:
    def segment_in_the_interface() -> None:
        ethtool = IoctlEthtool(ground.left.interface.name)
        features = ethtool.get_features()
        for name in (
            "tx-checksum-ip-generic",
            "tx-scatter-gather",
            "tx-generic-segmentation",
            "tx-udp-segmentation",
        ):
            features[name] = True
        ethtool.set_features(features)
        ethtool.close()

    ground.left.run(segment_in_the_interface)
    rate, size, segments, trains = 8_000_000, 1_200, 40, 8
    with ground.sender(granted(ground, rate)) as sock, ground.right.capture() as capture:
        sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, size - HEADERS_BYTES)
        for _ in range(trains):
            sock.send(bytes(segments * (size - HEADERS_BYTES)))
        packets = capture.wait_for(segments * trains, timeout_s=PATIENCE_S, where=of_the_flow)
    assert {packet.length_bytes for packet in packets} == {size}
    # Segments count with their link headers.
    counted = size / (size + 14)
    assert fastest_bps(packets) == pytest.approx(rate * counted, rel=TOLERANCE)
    gaps = gaps_ns(packets)
    assert gaps[len(gaps) // 20] > 0.9 * size * 8e9 / rate


def test_a_rate_is_changed_quickly_whatever_the_number_of_leaves(ground: Ground) -> None:
    for flow_id in range(200):
        granted(ground, 1_000_000, flow_id)
    took_ns = []
    for turn in range(200):
        start_ns = time.perf_counter_ns()
        granted(ground, 2_000_000 + turn, 7)
        took_ns.append(time.perf_counter_ns() - start_ns)
    # Seen: 30 us. With a process or a netlink library for each it takes many times as long.
    assert sorted(took_ns)[100] < 300_000


def test_a_higher_rate_holds_from_the_next_packet_on(ground: Ground) -> None:
    count = 400
    with (
        ground.sender(granted(ground, 1_000_000)) as sock,
        ground.left.capture(Direction.OUTGOING) as capture,
    ):
        for number in range(20):
            sock.send(numbered(number, FULL_BYTES - HEADERS_BYTES))
        granted(ground, 20_000_000)
        for number in range(20, count):
            sock.send(numbered(number, FULL_BYTES - HEADERS_BYTES))
        packets = capture.wait_for(count, timeout_s=PATIENCE_S, where=of_the_flow)
    assert numbers(packets) == list(range(count))
    assert fastest_bps(packets[40:]) == pytest.approx(20_000_000, rel=TOLERANCE)

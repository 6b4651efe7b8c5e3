"""Emulated links, with real packets: what the kernel's stamps and a capture say of them."""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import pytest

from openqwave.lab import taps
from openqwave.lab.capture import Direction
from openqwave.lab.emulation import EmulatorError
from openqwave.lab.links import (
    Contention,
    Cross,
    CrossKind,
    DuplexSpec,
    PathSpec,
    Stage,
    TokenBucket,
)
from openqwave.lab.specs import TcpSink, TcpSource, UdpSink, UdpSource
from openqwave.lab.topology import Host, Lab
from openqwave.lab.traffic import Agent

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(
        not os.access(taps.DEVICE, os.R_OK | os.W_OK), reason=f"{taps.DEVICE} is closed to us"
    ),
]

FAMILIES = (socket.AF_INET, socket.AF_INET6)
OVERHEAD_BYTES = {socket.AF_INET: 28, socket.AF_INET6: 48}
SO_TIMESTAMPNS = 35  # <asm-generic/socket.h>
SO_RCVBUFFORCE = 33
TIMEOUT_S = 10.0
MBIT = 1_000_000
MS = 1_000_000
# How late a busy machine may be, a hundred times what an idle one is.
LATE_NS = 10 * MS
# Each takes some ten milliseconds. A machine that disturbs all of them does nothing else.
ATTEMPTS = 300


class Wire:
    """Two hosts on an emulated link, and a UDP socket at each end of it."""

    def __init__(
        self, lab: Lab, spec: DuplexSpec, family: socket.AddressFamily = socket.AF_INET
    ) -> None:
        self.left, self.right = lab.host("left"), lab.host("right")
        self.link = lab.emulated_link(self.left, self.right, spec)
        self.family = family
        self._sockets = ExitStack()
        self.sender = self._socket(self.left)
        self._receiver = self._socket(self.right)
        self._receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._receiver.bind((self.address(self.right), 0))
        self.sender.connect(self._receiver.getsockname())

    def _socket(self, host: Host) -> socket.socket:
        with host.enter():
            sock = socket.socket(self.family, socket.SOCK_DGRAM)
        host.at_close(sock.close)
        return sock

    def address(self, host: Host) -> str:
        return host.ipv4 if self.family == socket.AF_INET else host.ipv6

    def send(self, numbers: range, ip_bytes: int = 1500, gap_ns: int = 0) -> list[int]:
        """Send numbered packets; return when each was sent."""
        room = ip_bytes - OVERHEAD_BYTES[self.family] - 4
        sent_ns = []
        due_ns = time.monotonic_ns()
        for number in numbers:
            while gap_ns and time.monotonic_ns() < due_ns:
                pass
            due_ns += gap_ns
            sent_ns.append(time.time_ns())
            self.sender.send(struct.pack("!I", number) + bytes(room))
        return sent_ns

    def receive(self, count: int, timeout_s: float = TIMEOUT_S) -> list[tuple[int, int]]:
        """Return the number and the kernel's time of packets, until there are so many."""
        self._receiver.settimeout(timeout_s)
        found: list[tuple[int, int]] = []
        while len(found) < count:
            try:
                data, ancillary, _, _ = self._receiver.recvmsg(2000, 100)
            except TimeoutError:
                break
            seconds, nanoseconds = struct.unpack("@ll", ancillary[0][2])
            found.append((struct.unpack_from("!I", data)[0], seconds * 10**9 + nanoseconds))
        return found

    def cross(self, count: int) -> list[int]:
        """Send packets together; return when they came, which all have to."""
        self.send(range(count))
        found = self.receive(count)
        assert [number for number, _ in found] == list(range(count))
        return [time_ns for _, time_ns in found]

    def cross_on_time(self, count: int, late_ns: int) -> list[int]:
        """As `cross`, once more as long as a busy machine kept us or the emulator from work."""
        tolerated = (late_ns >> 10).bit_length()
        for _ in range(ATTEMPTS):
            before = self.link.counters().forward.lateness[tolerated:]
            sent_ns = self.send(range(count))
            times_ns = [time_ns for _, time_ns in self.receive(count)]
            after = self.link.counters().forward.lateness[tolerated:]
            if before == after and sent_ns[-1] - sent_ns[0] < MS:
                return times_ns
        raise TimeoutError(f"{late_ns} ns late in each of {ATTEMPTS} attempts")


def one_way(*stages: Stage) -> DuplexSpec:
    return DuplexSpec(PathSpec(stages), PathSpec((Stage(),)))


# -- time -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_packets_take_the_link_s_time_and_hardly_more(
    lab: Lab, family: socket.AddressFamily
) -> None:
    wire = Wire(lab, one_way(Stage(rate_bps=10 * MBIT, delay_ns=20 * MS)), family)
    least_ns = 20 * MS + 1_200_000
    extra_ns = []
    for number in range(30):
        (sent_ns,) = wire.send(range(number, number + 1))
        ((_, arrived_ns),) = wire.receive(1)
        extra_ns.append(arrived_ns - sent_ns - least_ns)
    assert min(extra_ns) >= 0
    assert median(extra_ns) < LATE_NS


def test_the_rate_spaces_pairs(lab: Lab) -> None:
    wire = Wire(lab, one_way(Stage(rate_bps=10 * MBIT)))
    pairs = [wire.cross_on_time(2, late_ns=100_000) for _ in range(20)]
    assert median(second - first for first, second in pairs) == pytest.approx(1_200_000, rel=0.1)


def test_the_rate_spaces_trains(lab: Lab) -> None:
    # Short, so that a busy machine lets one pass undisturbed.
    wire = Wire(lab, one_way(Stage(rate_bps=50 * MBIT)))
    times_ns = wire.cross_on_time(16, late_ns=250_000)
    assert times_ns[-1] - times_ns[0] == pytest.approx(15 * 240_000, rel=0.1)


def test_both_ways_are_as_told(lab: Lab) -> None:
    left, right = lab.host("left"), lab.host("right")
    lab.emulated_link(
        left,
        right,
        DuplexSpec(PathSpec((Stage(delay_ns=30 * MS),)), PathSpec((Stage(delay_ns=10 * MS),))),
    )
    with left.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with right.enter():
        echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock, echo:
        echo.bind((right.ipv4, 0))
        echo.settimeout(TIMEOUT_S)
        sock.settimeout(TIMEOUT_S)
        times_ns = []
        for _ in range(10):
            begun_ns = time.monotonic_ns()
            sock.sendto(b"there", echo.getsockname())
            echo.sendto(b"back", echo.recvfrom(10)[1])
            half_ns = time.monotonic_ns()
            sock.recv(10)
            times_ns.append((half_ns - begun_ns, time.monotonic_ns() - half_ns))
    there_ns, back_ns = (min(each) for each in zip(*times_ns, strict=True))
    assert 30 * MS <= there_ns < 30 * MS + LATE_NS
    assert 9 * MS < back_ns < 10 * MS + LATE_NS


def test_a_bucket_lets_its_burst_through(lab: Lab) -> None:
    bucket = TokenBucket(50 * MBIT, burst_bytes=15_000)
    wire = Wire(lab, one_way(Stage(rate_bps=500 * MBIT, bucket=bucket)))
    times_ns = wire.cross_on_time(25, late_ns=250_000)
    # Eleven packets at 24 us, the others at 240 us.
    assert times_ns[24] - times_ns[12] == pytest.approx(12 * 240_000, rel=0.15)
    # By the median, because a busy machine may make one of them late.
    gaps_ns = [later - sooner for sooner, later in itertools.pairwise(times_ns[:11])]
    assert statistics.median(gaps_ns) < 120_000


def test_deliveries_are_coalesced(lab: Lab) -> None:
    wire = Wire(lab, one_way(Stage(rate_bps=2 * MBIT, coalesce_ns=50 * MS)))
    times_ns = wire.cross(60)
    gaps_ns = [later - sooner for sooner, later in itertools.pairwise(times_ns)]
    # One packet each 6 ms, nine in a clump: the one that starts the timer, and eight.
    assert 6 <= sum(gap_ns > 30 * MS for gap_ns in gaps_ns) <= 8
    assert sum(gap_ns < MS for gap_ns in gaps_ns) > 40


def test_a_shared_medium_carries_aggregates(lab: Lab) -> None:
    medium = Contention(access_ns=30 * MS, backoff_ns=10 * MS, aggregate_frames=8)
    wire = Wire(lab, one_way(Stage(rate_bps=100 * MBIT, contention=medium)))
    times_ns = wire.cross(33)
    gaps_ns = [later - sooner for sooner, later in itertools.pairwise(times_ns)]
    # What was there when the first access began, then eight each time.
    assert 4 <= sum(gap_ns > 15 * MS for gap_ns in gaps_ns) <= 6
    assert sum(gap_ns < MS for gap_ns in gaps_ns) > 20


# -- accidents ------------------------------------------------------------------------


def test_some_packets_are_lost(lab: Lab) -> None:
    wire = Wire(lab, one_way(Stage(loss=0.2)))
    since_ns = time.monotonic_ns()
    wire.send(range(1000), 100, gap_ns=20_000)
    found = wire.receive(1000, timeout_s=0.5)
    truth, _ = wire.link.truth(since_ns, time.monotonic_ns())
    assert 720 < len(found) < 880
    assert truth.carried[0].lost == pytest.approx(1000 - len(found), abs=2)


def test_some_packets_come_twice_and_some_are_overtaken(lab: Lab) -> None:
    wire = Wire(lab, one_way(Stage(duplicate=0.1, reorder=0.1, reorder_ns=2 * MS)))
    wire.send(range(1000), 100, gap_ns=50_000)
    numbers = [number for number, _ in wire.receive(1300, timeout_s=0.5)]
    assert set(numbers) == set(range(1000))
    assert 1050 < len(numbers) < 1150
    assert numbers != sorted(numbers)
    highest = list(itertools.accumulate(numbers, max))
    late = {number for number, most in zip(numbers, highest, strict=True) if number < most}
    assert 60 < len(late) < 140


def test_a_full_queue_drops_the_tail(lab: Lab) -> None:
    wire = Wire(lab, one_way(Stage(rate_bps=5 * MBIT, queue_bytes=30_000)))
    since_ns = time.monotonic_ns()
    wire.send(range(40))
    found = wire.receive(40, timeout_s=0.5)
    truth, _ = wire.link.truth(since_ns, time.monotonic_ns())
    # Twenty, and those that found room because sending took its time.
    assert 20 <= len(found) <= 30
    assert truth.carried[0].dropped == 40 - len(found)


# -- marks ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_router_rewrites_code_points_and_nothing_else(
    lab: Lab, family: socket.AddressFamily
) -> None:
    wire = Wire(lab, one_way(Stage(rewrite_dscp=8), Stage(rate_bps=50 * MBIT)), family)
    level, option = (
        (socket.IPPROTO_IP, socket.IP_TOS)
        if family == socket.AF_INET
        else (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
    )
    with wire.right.capture(Direction.INCOMING) as capture:
        for traffic_class in (0, 46 << 2 | 1, 8 << 2 | 2, 63 << 2 | 3):
            wire.sender.setsockopt(level, option, traffic_class)
            wire.send(range(1), 200)
        seen = capture.wait_for(4, where=lambda packet: packet.protocol == socket.IPPROTO_UDP)
    assert [(packet.dscp, packet.ecn) for packet in seen] == [(8, 0), (8, 1), (8, 2), (8, 3)]
    # The kernel would have thrown away a header with a wrong checksum.
    assert len(wire.receive(4)) == 4


SOL_PACKET = 263
PACKET_AUXDATA = 8
ETH_P_ALL = 3
TP_STATUS_VLAN_VALID = 0x10
TAG = bytes.fromhex("8100a000")  # Priority 5, VLAN 0.


@pytest.mark.parametrize(
    ("stage", "arrives"),
    [
        (Stage(), [("plain", None), ("tagged", 0xA000)]),
        (Stage(strip_tags=True), [("plain", None), ("tagged", None)]),
        (Stage(drop_tagged=True), [("plain", None)]),
    ],
)
def test_tags_pass_or_are_stripped_or_drop_their_frame(
    lab: Lab, stage: Stage, arrives: list[tuple[str, int | None]]
) -> None:
    left, right = lab.host("left"), lab.host("right")
    link = lab.emulated_link(left, right, one_way(stage))
    with left.enter():
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with right.enter():
        receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with sender, receiver:
        sender.bind((link.a.name, 0))
        receiver.bind((link.b.name, ETH_P_ALL))
        receiver.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        receiver.settimeout(TIMEOUT_S)
        addresses = b"\xff" * 6 + bytes.fromhex(link.a.mac.replace(":", ""))
        kind = b"\x88\xb5"  # For experiments (IEEE 802).
        for tag, payload in ((b"", b"plain"), (TAG, b"tagged"), (b"", b"last")):
            sender.send(addresses + tag + kind + payload.ljust(46, b"."))
        seen: list[tuple[str, int | None]] = []
        while not seen or seen[-1][0] != "last":
            frame, ancillary, _, _ = receiver.recvmsg(2000, 100)
            if frame[12:14] != kind:
                continue
            status, _, _, _, _, tci, _ = struct.unpack("=IIIHHHH", ancillary[0][2])
            tag_seen = tci if status & TP_STATUS_VLAN_VALID else None
            seen.append((frame[14:].rstrip(b".").decode(), tag_seen))
    assert seen[:-1] == arrives
    assert link.counters().forward.dropped_by_mark == (1 if stage.drop_tagged else 0)


# -- truth ----------------------------------------------------------------------------


def test_the_truth_is_what_a_capture_counts(lab: Lab) -> None:
    cross = Cross(CrossKind.POISSON, 6 * MBIT)
    wire = Wire(lab, one_way(Stage(rate_bps=20 * MBIT, cross=(cross,))))
    with (
        wire.right.capture(Direction.INCOMING) as capture,
        Agent(wire.right, UdpSink(wire.right.ipv4)) as sink,
    ):
        since_ns = time.monotonic_ns()
        spec = UdpSource(wire.right.ipv4, sink.port, 8 * MBIT, 1.0)
        with Agent(wire.left, spec) as source:
            sent = source.wait(TIMEOUT_S)
        capture.wait_for(1)
        (stream,) = sink.stop()["streams"]
        truth, back = wire.link.truth(since_ns, time.monotonic_ns())
        ours = truth.carried[0]
        assert stream["received"] == sent["sent"]
        # The hosts' own few packets besides.
        assert sent["ip_bytes"] <= ours.frame_bytes <= sent["ip_bytes"] + 2000
    assert (truth.capacity_bps, truth.narrow, truth.tight) == (20 * MBIT, 0, 0)
    assert truth.available_bps == 20 * MBIT - ours.cross_bps
    assert truth.available_bps == pytest.approx(14 * MBIT, rel=0.1)
    assert (ours.dropped, ours.cross_dropped, ours.lost) == (0, 0, 0)
    assert back.capacity_bps == 0


def test_cross_traffic_delays_real_packets(lab: Lab) -> None:
    cross = Cross(CrossKind.CONSTANT, 30 * MBIT)
    wire = Wire(lab, one_way(Stage(rate_bps=20 * MBIT, queue_bytes=50_000, cross=(cross,))))
    # A queue that is always full: 50 kB take 20 ms.
    delays_ns = []
    for number in range(20):
        (sent_ns,) = wire.send(range(number, number + 1), 60)
        for _, arrived_ns in wire.receive(1, timeout_s=0.1):
            delays_ns.append(arrived_ns - sent_ns)
    assert len(delays_ns) >= 10
    assert 18 * MS < median(delays_ns) < 20 * MS + LATE_NS


def test_a_link_can_be_made_another(lab: Lab) -> None:
    wire = Wire(lab, one_way(Stage(rate_bps=10 * MBIT, delay_ns=100 * MS)))
    before_ns = time.monotonic_ns()
    wire.send(range(10))
    begun_ns = wire.link.reshape(one_way(Stage(rate_bps=50 * MBIT)))
    wire.send(range(10, 20))
    found = wire.receive(20)
    # Those on their way are not overtaken.
    assert [number for number, _ in found] == list(range(20))
    times_ns = wire.cross_on_time(16, late_ns=250_000)
    assert times_ns[-1] - times_ns[0] == pytest.approx(15 * 240_000, rel=0.1)
    with pytest.raises(EmulatorError, match="the path is younger"):
        wire.link.truth(before_ns, time.monotonic_ns())
    truth, _ = wire.link.truth(begun_ns, time.monotonic_ns())
    assert truth.capacity_bps == 50 * MBIT
    assert truth.carried[0].frames >= 20


def test_an_idle_link_can_be_made_another(lab: Lab) -> None:
    wire = Wire(lab, one_way(Stage()))
    for _ in range(2):
        wire.link.reshape(one_way(Stage(delay_ns=MS)))
    assert wire.cross(10)


def test_wrong_questions_are_refused(lab: Lab) -> None:
    wire = Wire(lab, one_way(Stage(rate_bps=10 * MBIT)))
    now_ns = time.monotonic_ns()
    with pytest.raises(EmulatorError, match="ends after it begins"):
        wire.link.truth(now_ns, now_ns - MS)
    assert wire.cross(1)


# -- the rest -------------------------------------------------------------------------


def test_tcp_runs_well(lab: Lab) -> None:
    spec = DuplexSpec(PathSpec((Stage(rate_bps=20 * MBIT, delay_ns=10 * MS),)))
    left, right = lab.host("left"), lab.host("right")
    link = lab.emulated_link(left, right, spec)
    with Agent(right, TcpSink(right.ipv6)) as sink:
        since_ns = time.monotonic_ns()
        with Agent(left, TcpSource(right.ipv6, sink.port, 2.0)) as source:
            source.wait(TIMEOUT_S)
        until_ns = time.monotonic_ns()
        assert sink.stop()["received_bytes"] > 0.7 * 2 * 20 * MBIT / 8
    forward, backward = link.truth(since_ns, until_ns)
    assert backward.carried[0].frames > 100
    assert forward.carried[0].frame_bytes <= 20 * MBIT / 8 * (until_ns - since_ns) / 1e9 + 1500


def test_counters_tell_what_happened_at_the_ends(lab: Lab) -> None:
    wire = Wire(lab, one_way(Stage(rate_bps=100 * MBIT)))
    before = wire.link.counters()
    wire.cross(50)
    after = wire.link.counters()
    forward = after.forward
    assert forward.read - before.forward.read >= 50
    assert forward.written - before.forward.written >= 50
    assert sum(forward.lateness) == forward.written
    assert 0 < forward.late_ns(0.5) <= forward.late_ns(1.0) == forward.latest_ns
    assert after.cpu_ns > before.cpu_ns
    assert not after.is_realtime


@pytest.mark.parametrize("cross", [(), (Cross(CrossKind.POISSON, 10 * MBIT),)])
def test_silence_costs_little(lab: Lab, cross: tuple[Cross, ...]) -> None:
    wire = Wire(lab, one_way(Stage(rate_bps=100 * MBIT, cross=cross)))
    # Since Linux sends a few packets in the first second of an interface, the best of several.
    shares = []
    for _ in range(5):
        before, begun_ns = wire.link.counters().cpu_ns, time.monotonic_ns()
        assert wire.receive(1, timeout_s=0.2) == []
        spent_ns = wire.link.counters().cpu_ns - before
        shares.append(spent_ns / (time.monotonic_ns() - begun_ns))
    assert min(shares) < 0.3


def test_it_stays_on_its_processor_where_told(lab: Lab) -> None:
    cpu = min(os.sched_getaffinity(0))
    link = lab.emulated_link(lab.host("left"), lab.host("right"), one_way(Stage()), cpu=cpu)
    assert link.counters().cpu == cpu
    assert os.sched_getaffinity(link.emulator.pid) == {cpu}


def test_it_is_a_link_like_others_to_routers(lab: Lab) -> None:
    left, router, right = lab.host("left"), lab.router("router"), lab.host("right")
    lab.link(left, router)
    lab.emulated_link(router, right, one_way(Stage(delay_ns=MS)))
    with right.enter():
        listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    with left.enter():
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    with listener, sock:
        sock.settimeout(TIMEOUT_S)
        listener.settimeout(TIMEOUT_S)
        listener.bind((right.ipv6, 0))
        listener.listen()
        sock.connect(listener.getsockname())
        connection, peer = listener.accept()
        with connection:
            assert peer[0] == left.ipv6


def test_segments_are_cut_before_they_enter(lab: Lab) -> None:
    wire = Wire(lab, one_way(Stage(rate_bps=20 * MBIT)))
    wire.sender.setsockopt(socket.IPPROTO_UDP, 103, 1000)  # UDP_SEGMENT of <linux/udp.h>
    wire.sender.send(bytes(10_000))
    times_ns = [time_ns for _, time_ns in wire.receive(10)]
    assert len(set(times_ns)) == len(times_ns) == 10


@pytest.mark.usefixtures("fd_guard")
def test_no_descriptor_stays() -> None:
    with Lab() as lab:
        link = lab.emulated_link(lab.host("left"), lab.host("right"), one_way(Stage()))
        end = os.pidfd_open(link.emulator.pid)
    try:
        assert select.select([end], [], [], TIMEOUT_S)[0], "the emulator lives on"
    finally:
        os.close(end)
    with pytest.raises(EmulatorError, match="has ended"):
        link.counters()


def test_a_missing_device_is_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taps, "DEVICE", "/dev/net/none")
    with pytest.raises(FileNotFoundError, match="no emulated link without /dev/net/none"):
        lab.emulated_link(lab.host("left"), lab.host("right"), one_way(Stage()))


# Builds an emulated link, tells its processes and namespaces, and waits for what comes.
DOOMED = """
import json, signal
from openqwave.lab.links import DuplexSpec, PathSpec, Stage
from openqwave.lab.topology import Lab

with Lab() as lab:
    left, right = lab.host("left"), lab.host("right")
    link = lab.emulated_link(left, right, DuplexSpec(PathSpec((Stage(),))))
    inodes = [host.namespace.inode for host in lab.hosts.values()]
    print(json.dumps({"emulator": link.emulator.pid, "inodes": inodes}), flush=True)
    signal.pause()
"""


def test_nothing_survives_the_process() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DOOMED], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        end = os.pidfd_open(told["emulator"])
        process.kill()
        assert process.wait(TIMEOUT_S) == -signal.SIGKILL
    try:
        assert select.select([end], [], [], TIMEOUT_S)[0], "the emulator lives on"
    finally:
        os.close(end)
    names = {f"net:[{inode}]" for inode in told["inodes"]}
    for pattern in ("[0-9]*/task/[0-9]*/ns/net", "[0-9]*/fd/*"):
        for path in Path("/proc").glob(pattern):
            try:
                assert os.readlink(path) not in names, str(path)
            except OSError:  # Gone meanwhile, or another user's.
                continue

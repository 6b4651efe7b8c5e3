"""What the kernel counts for sockets whose packets wait, are lost, or are marked on their way."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from statistics import median

import pytest
from pyroute2 import IPRoute

from openqwave.drivers.sockdiag import SocketDiagnosis
from openqwave.drivers.sockets import SO_COOKIE
from openqwave.lab import taps
from openqwave.lab.links import DuplexSpec, PathSpec, Stage
from openqwave.lab.shape import Bottleneck
from openqwave.lab.topology import Host, Lab
from openqwave.model.estimates import FlowCounters

pytestmark = pytest.mark.kernel

TIMEOUT_S = 10.0
MS = 1_000_000
MBIT = 1_000_000
PORT = 5_004

needs_taps = pytest.mark.skipif(
    not os.access(taps.DEVICE, os.R_OK | os.W_OK), reason=f"{taps.DEVICE} is closed to us"
)


def cookie_of(sock: socket.socket) -> int:
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), sys.byteorder)


def made_on(host: Host, kind: socket.SocketKind, *, is_v6: bool = False) -> socket.socket:
    with host.enter():
        sock = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, kind)
    host.at_close(sock.close)
    sock.settimeout(TIMEOUT_S)
    return sock


class Transfer:
    """A TCP connection from one host to another, whose far end reads what comes, or waits."""

    def __init__(self, left: Host, right: Host, far: str | None = None) -> None:
        address = far or right.ipv4
        listening = made_on(right, socket.SOCK_STREAM, is_v6=":" in address)
        listening.bind((address, PORT))
        listening.listen()
        self.sock = made_on(left, socket.SOCK_STREAM, is_v6=":" in address)
        self.sock.connect((address, PORT))
        self.far, _ = listening.accept()
        right.at_close(self.far.close)
        self.cookie = cookie_of(self.sock)
        self._ended = threading.Event()

    def read_all(self) -> None:
        """Let the far end read from now on."""

        def read() -> None:
            self.far.settimeout(0.1)
            while not self._ended.is_set():
                with contextlib.suppress(TimeoutError):
                    if not self.far.recv(65_536):
                        return

        self._reader = threading.Thread(target=read)
        self._reader.start()

    def end(self) -> None:
        self._ended.set()
        self._reader.join()


def until(
    diagnosis: SocketDiagnosis, cookie: int, condition: Callable[[FlowCounters], bool]
) -> FlowCounters:
    """Ask until it is so."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        counters = diagnosis.counters([cookie])[cookie]
        if condition(counters):
            return counters
        time.sleep(0.01)
    raise AssertionError(f"it did not come: {counters}")


@pytest.fixture
def diagnosis(pair: tuple[Host, Host]) -> Iterator[SocketDiagnosis]:
    with on(pair[0]) as made:
        yield made


@contextlib.contextmanager
def on(host: Host) -> Iterator[SocketDiagnosis]:
    with SocketDiagnosis() as made:
        # The first question decides where it asks.
        host.run(made.counters, [1])
        yield made


# -- TCP ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_a_transfer_is_counted(
    pair: tuple[Host, Host], diagnosis: SocketDiagnosis, version: int
) -> None:
    transfer = Transfer(*pair, pair[1].ipv4 if version == 4 else pair[1].ipv6)
    fresh = diagnosis.counters([transfer.cookie])[transfer.cookie]
    assert fresh.sent_bytes == 0
    assert fresh.rtt_ns
    transfer.read_all()
    transfer.sock.sendall(bytes(100_000))
    counters = until(diagnosis, transfer.cookie, lambda one: one.delivered_packets >= 70)
    transfer.end()
    assert counters.sent_bytes == 100_000
    assert counters.lost_packets == 0
    assert counters.delivered_ce_packets == 0
    assert counters.waiting_bytes == 0
    assert counters.rtt_ns
    assert counters.least_rtt_ns
    assert counters.least_rtt_ns <= counters.rtt_ns


def test_a_mapped_connection_is_found(pair: tuple[Host, Host], diagnosis: SocketDiagnosis) -> None:
    left, right = pair
    listening = made_on(right, socket.SOCK_STREAM)
    listening.bind((right.ipv4, PORT))
    listening.listen()
    sock = made_on(left, socket.SOCK_STREAM, is_v6=True)
    sock.connect((f"::ffff:{right.ipv4}", PORT))
    for _ in range(3):
        assert diagnosis.counters([cookie_of(sock)])[cookie_of(sock)].sent_bytes == 0


def test_what_the_far_end_does_not_take_waits(
    pair: tuple[Host, Host], diagnosis: SocketDiagnosis
) -> None:
    transfer = Transfer(*pair)
    # Until neither the far end's buffer takes more nor this one's.
    transfer.sock.settimeout(0.3)
    written = 0
    with contextlib.suppress(TimeoutError):
        while True:
            written += transfer.sock.send(bytes(65_536))
    counters = diagnosis.counters([transfer.cookie])[transfer.cookie]
    assert counters.sent_bytes
    # Sent twice, at most, is what probed for room.
    sent_bytes = counters.sent_bytes - 1448 * counters.lost_packets
    assert 10_000 < counters.waiting_bytes <= written - sent_bytes


def test_a_queue_shows_in_the_round_trip(lab: Lab) -> None:
    left, router, right = lab.host("left"), lab.router("router"), lab.host("right")
    lab.link(left, router)
    # 200 ms of queue.
    lab.link(router, right, a_to_b=Bottleneck(4 * MBIT, 100_000))
    with on(left) as diagnosis:
        transfer = Transfer(left, right)
        transfer.read_all()
        transfer.sock.setblocking(False)
        # More than the queue holds.
        with contextlib.suppress(BlockingIOError):
            for _ in range(20):
                transfer.sock.send(bytes(65_536))
        counters = until(
            diagnosis, transfer.cookie, lambda one: one.rtt_ns is not None and one.rtt_ns > 50 * MS
        )
        transfer.end()
    assert counters.least_rtt_ns
    assert counters.least_rtt_ns < 20 * MS


@needs_taps
def test_losses_are_counted_and_what_is_sent_again(lab: Lab) -> None:
    left, right = lab.host("left"), lab.host("right")
    spec = DuplexSpec(
        PathSpec((Stage(rate_bps=20 * MBIT, delay_ns=5 * MS, loss=0.05),)),
        PathSpec((Stage(delay_ns=5 * MS),)),
    )
    lab.emulated_link(left, right, spec)
    size = 300_000
    with on(left) as diagnosis:
        transfer = Transfer(left, right)
        transfer.read_all()
        transfer.sock.sendall(bytes(size))
        counters = until(
            diagnosis,
            transfer.cookie,
            lambda one: one.lost_packets > 0 and one.delivered_packets >= size // 1448,
        )
        transfer.end()
    assert counters.sent_bytes
    assert size < counters.sent_bytes <= size + 1448 * counters.lost_packets
    assert counters.least_rtt_ns
    assert counters.least_rtt_ns >= 10 * MS


# -- marks ----------------------------------------------------------------------------


def relay_marked(ends: dict[int, int], stop: threading.Event) -> None:
    """Carry frames between two taps; IPv6 packets of ECN leave as having met congestion."""
    while not stop.is_set():
        for fd in select.select(list(ends), [], [], 0.05)[0]:
            frame = bytearray(os.read(fd, 65_536))
            # The two bits are the lower ones of the traffic class, past Ethernet's 14 bytes and
            # the version; IPv6 has no checksum over them.
            if frame[12:14] == b"\x86\xdd" and frame[15] & 0x30:
                frame[15] |= 0x30
            with contextlib.suppress(OSError):
                os.write(ends[fd], frame)


@needs_taps
def test_marks_of_congestion_are_counted(lab: Lab) -> None:
    hosts = lab.host("left"), lab.host("right")
    fds = [host.run(taps.open_tap, "tap0") for host in hosts]

    def set_up(number: int) -> None:
        index = socket.if_nametoindex("tap0")
        with IPRoute() as netlink:
            netlink.link("set", index=index, state="up")
            # IFA_F_NODAD
            netlink.addr("add", index=index, address=f"fd07::{number}", prefixlen=64, flags=2)

    stop = threading.Event()
    relay = threading.Thread(target=relay_marked, args=({fds[0]: fds[1], fds[1]: fds[0]}, stop))
    relay.start()
    try:
        for number, host in enumerate(hosts, 1):
            host.sysctl({"net/ipv4/tcp_ecn": 1})
            host.run(set_up, number)
        with on(hosts[0]) as diagnosis:
            transfer = Transfer(*hosts, "fd07::2")
            transfer.read_all()
            transfer.sock.sendall(bytes(50_000))
            counters = until(diagnosis, transfer.cookie, lambda one: one.delivered_packets >= 35)
            transfer.end()
        assert counters.delivered_ce_packets > 10
        assert counters.delivered_ce_packets <= counters.delivered_packets
        assert counters.lost_packets == 0
    finally:
        stop.set()
        relay.join()
        for fd in fds:
            os.close(fd)


# -- UDP ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_that_wait_are_seen(lab: Lab, version: int) -> None:
    left, right = lab.host("left"), lab.host("right")
    # 100 kbit/s: what is sent below waits for seconds.
    lab.link(left, right, a_to_b=Bottleneck(100_000, 100_000))
    with on(left) as diagnosis:
        far = made_on(right, socket.SOCK_DGRAM, is_v6=version == 6)
        far.bind((right.ipv4 if version == 4 else right.ipv6, PORT))
        sock = made_on(left, socket.SOCK_DGRAM, is_v6=version == 6)
        sock.connect(far.getsockname()[:2])
        cookie = cookie_of(sock)
        assert diagnosis.counters([cookie])[cookie] == FlowCounters()
        for _ in range(20):
            sock.send(bytes(1_000))
        waiting = diagnosis.counters([cookie])[cookie]
        assert 15_000 < waiting.waiting_bytes < 100_000
        assert waiting.sent_bytes is None


# -- finding --------------------------------------------------------------------------


def test_each_socket_has_its_own_numbers(
    pair: tuple[Host, Host], diagnosis: SocketDiagnosis
) -> None:
    left, right = pair
    listening = made_on(right, socket.SOCK_STREAM)
    listening.bind((right.ipv4, PORT))
    listening.listen(100)
    socks = [made_on(left, socket.SOCK_STREAM) for _ in range(70)]
    for number, sock in enumerate(socks):
        sock.connect((right.ipv4, PORT))
        sock.send(bytes(number + 1))
    for _ in range(2):
        found = diagnosis.counters([cookie_of(sock) for sock in socks])
        sent = [found[cookie_of(sock)].sent_bytes for sock in socks]
        assert sent == list(range(1, 71))


def test_sockets_that_share_a_port_are_told_apart(
    pair: tuple[Host, Host], diagnosis: SocketDiagnosis
) -> None:
    left, _ = pair
    socks = [made_on(left, socket.SOCK_DGRAM) for _ in range(4)]
    for sock in socks:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((left.ipv4, PORT))
    cookies = [cookie_of(sock) for sock in socks]
    for _ in range(3):
        assert sorted(diagnosis.counters(cookies)) == sorted(cookies)


def test_a_socket_that_is_bound_to_an_interface_is_found(
    pair: tuple[Host, Host], diagnosis: SocketDiagnosis
) -> None:
    left, right = pair
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        sock = made_on(left, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, left.interface.name.encode())
        if kind == socket.SOCK_STREAM:
            listening = made_on(right, kind)
            listening.bind((right.ipv4, PORT))
            listening.listen()
        sock.connect((right.ipv4, PORT))
        for _ in range(3):
            assert cookie_of(sock) in diagnosis.counters([cookie_of(sock)])


def test_a_socket_that_connects_anew_is_found_again(
    pair: tuple[Host, Host], diagnosis: SocketDiagnosis
) -> None:
    left, right = pair
    sock = made_on(left, socket.SOCK_DGRAM)
    for port in (PORT, PORT + 1, PORT + 2):
        sock.connect((right.ipv4, port))
        assert cookie_of(sock) in diagnosis.counters([cookie_of(sock)])


def test_a_closed_socket_is_found_no_more(
    pair: tuple[Host, Host], diagnosis: SocketDiagnosis
) -> None:
    transfer = Transfer(*pair)
    assert transfer.cookie in diagnosis.counters([transfer.cookie])
    transfer.sock.close()
    # Whatever is left of the connection (TIME_WAIT) counts nothing.
    transfer.far.close()
    assert diagnosis.counters([transfer.cookie]) == {}
    assert diagnosis.reason == ""


def test_a_socket_elsewhere_is_not_found(
    pair: tuple[Host, Host], diagnosis: SocketDiagnosis
) -> None:
    transfer = Transfer(*pair)
    assert diagnosis.counters([cookie_of(transfer.far)]) == {}
    assert transfer.cookie in diagnosis.counters([transfer.cookie])


def test_many_sockets_cost_little(pair: tuple[Host, Host], diagnosis: SocketDiagnosis) -> None:
    left, right = pair
    socks = [made_on(left, socket.SOCK_DGRAM) for _ in range(50)]
    for sock in socks:
        sock.connect((right.ipv4, PORT))
    cookies = [cookie_of(sock) for sock in socks]
    diagnosis.counters(cookies)
    taken = []
    for _ in range(51):
        began = time.perf_counter_ns()
        assert len(diagnosis.counters(cookies)) == len(cookies)
        taken.append(time.perf_counter_ns() - began)
    assert median(taken) < 10 * MS


@pytest.mark.usefixtures("fd_guard")
def test_nothing_stays_open(pair: tuple[Host, Host]) -> None:
    with on(pair[0]) as made:
        assert made.counters([]) == {}
    made.close()

"""What the kernel tells of sockets, by messages made by hand and by this host's own loopback."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys

import pytest

from openqwave.drivers import sockdiag
from openqwave.drivers.netlink import attribute
from openqwave.drivers.sockdiag import (
    SocketDiagnosis,
    cookie_in,
    counters_of_tcp,
    question_of,
    read_answer,
)
from openqwave.drivers.sockets import SO_COOKIE
from openqwave.model.estimates import FlowCounters

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
COOKIE = 0x1_2345_6789


def tcp_info() -> bytes:
    info = bytearray(232)
    for at, layout, number in (
        (68, "=I", 25_000),
        (100, "=I", 7),
        (144, "=I", 4_321),
        (148, "=I", 10_000),
        (192, "=I", 1_000),
        (196, "=I", 30),
        (200, "=Q", 1 << 40),
    ):
        struct.pack_into(layout, info, at, number)
    return bytes(info)


def socket_id(cookie: int = COOKIE, port: int = 5_004) -> bytes:
    ports = struct.pack("!HH", port, 9)
    ends = b"\x0a\0\0\1".ljust(16, b"\0") + b"\x0a\0\0\2".ljust(16, b"\0")
    return ports + ends + struct.pack("=III", 3, cookie & 0xFFFF_FFFF, cookie >> 32)


def answer(
    info: bytes | None, cookie: int = COOKIE, waiting_bytes: int = 0, port: int = 5_004
) -> bytes:
    fields = struct.pack("=BBxx", socket.AF_INET, 1) + socket_id(cookie, port)
    fields += struct.pack("=IIIII", 0, 11, waiting_bytes, 1000, 42)
    return fields if info is None else fields + attribute(2, info)


# -- decoding -------------------------------------------------------------------------


def test_everything_is_read() -> None:
    assert counters_of_tcp(tcp_info()) == FlowCounters(
        sent_bytes=1 << 40,
        delivered_packets=1_000,
        delivered_ce_packets=30,
        lost_packets=7,
        rtt_ns=25_000_000,
        least_rtt_ns=10_000_000,
        waiting_bytes=4_321,
    )


@pytest.mark.parametrize(
    ("size", "sent_bytes", "delivered", "least_rtt_ns", "lost"),
    [
        (207, None, 1_000, 10_000_000, 7),
        (192, None, 0, 10_000_000, 7),
        (148, None, 0, None, 7),
        (104, None, 0, None, 7),
        (8, None, 0, None, 0),
    ],
)
def test_what_an_older_kernel_lacks_is_unknown(
    size: int, sent_bytes: int | None, delivered: int, least_rtt_ns: int | None, lost: int
) -> None:
    counters = counters_of_tcp(tcp_info()[:size])
    assert counters.sent_bytes == sent_bytes
    assert counters.delivered_packets == delivered
    assert counters.least_rtt_ns == least_rtt_ns
    assert counters.lost_packets == lost


def test_round_trips_that_there_were_none_of() -> None:
    info = bytearray(tcp_info())
    struct.pack_into("=I", info, 68, 0)
    struct.pack_into("=I", info, 148, 0xFFFF_FFFF)
    counters = counters_of_tcp(bytes(info))
    assert (counters.rtt_ns, counters.least_rtt_ns) == (None, None)


def test_an_answer_is_read() -> None:
    family, found, counters = read_answer(TCP, answer(tcp_info(), waiting_bytes=5)) or (
        0,
        b"",
        None,
    )
    assert (family, found) == (socket.AF_INET, socket_id())
    assert cookie_in(found) == COOKIE
    assert counters == counters_of_tcp(tcp_info())
    # What has ended has no counters; and UDP counts nothing.
    assert read_answer(TCP, answer(None)) is None
    assert read_answer(TCP, answer(tcp_info())[:71]) is None
    read = read_answer(UDP, answer(None, waiting_bytes=5))
    assert read == (socket.AF_INET, socket_id(), FlowCounters(waiting_bytes=5))


def test_questions() -> None:
    tcp = question_of(socket.AF_INET, TCP, socket_id())
    assert tcp[:3] == bytes([socket.AF_INET, TCP, 2])
    assert tcp[8:] == socket_id()
    udp = question_of(socket.AF_INET6, UDP, socket_id())
    # The ends are turned.
    assert udp[8:12] == struct.pack("!HH", 9, 5_004)
    assert (udp[12:16], udp[28:32]) == (b"\x0a\0\0\2", b"\x0a\0\0\1")
    assert udp[44:] == socket_id()[36:]
    assert question_of(socket.AF_INET, TCP)[8:] == bytes(48)


# -- finding --------------------------------------------------------------------------


class Kernel:
    """Stands for `Netlink`: knows sockets, and counts what it is asked."""

    def __init__(self, protocol: int) -> None:
        assert protocol == 4
        self.listed: dict[tuple[int, int], list[bytes] | int] = {}
        self.exact: dict[bytes, bytes] = {}
        self.asked: list[int] = []
        self.dumps: list[tuple[int, int]] = []

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        assert kind == 20
        self.dumps.append((body[0], body[1]))
        found = self.listed.get((body[0], body[1]), [])
        if isinstance(found, int):
            raise OSError(found, os.strerror(found))
        return found

    def ask_each(self, _kind: int, bodies: list[bytes]) -> list[bytes | OSError]:
        self.asked.append(len(bodies))
        return [
            self.exact.get(body[8:], OSError(errno.ENOENT, os.strerror(errno.ENOENT)))
            for body in bodies
        ]

    def close(self) -> None:
        """There is nothing to close."""


class Clock:
    """Stands for the time module."""

    now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(sockdiag, "time", made)
    return made


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Kernel:
    assert clock.now_ns == 0
    made = Kernel(4)
    monkeypatch.setattr(sockdiag, "Netlink", lambda _protocol: made)
    return made


ALL_KINDS = [(socket.AF_INET, TCP), (socket.AF_INET6, TCP), (socket.AF_INET, UDP)]


def test_what_was_found_once_is_looked_up(kernel: Kernel) -> None:
    kernel.listed[socket.AF_INET, TCP] = [answer(tcp_info(), 5), answer(tcp_info())]
    kernel.exact[socket_id()] = answer(tcp_info())
    diagnosis = SocketDiagnosis()
    for _ in range(3):
        assert diagnosis.counters([COOKIE]) == {COOKIE: counters_of_tcp(tcp_info())}
    assert kernel.dumps == [(socket.AF_INET, TCP)]
    assert kernel.asked == [0, 1, 1]


def test_what_is_not_found_is_searched_for_seldom(kernel: Kernel, clock: Clock) -> None:
    diagnosis = SocketDiagnosis()
    for _ in range(10):
        assert diagnosis.counters([COOKIE]) == {}
    assert len(kernel.dumps) == 4
    clock.now_ns += sockdiag.SEARCH_NS
    kernel.listed[socket.AF_INET6, UDP] = [answer(None)]
    assert diagnosis.counters([COOKIE]) == {COOKIE: FlowCounters()}
    assert len(kernel.dumps) == 8


def test_what_connects_anew_is_found_at_once(kernel: Kernel) -> None:
    diagnosis = SocketDiagnosis()
    for port in (1, 2):
        kernel.listed[socket.AF_INET, TCP] = [answer(tcp_info(), port=port)]
        kernel.exact = {socket_id(port=port): answer(tcp_info(), port=port)}
        for _ in range(2):
            assert list(diagnosis.counters([COOKIE])) == [COOKIE]
    assert len(kernel.dumps) == 2


def test_another_socket_of_the_same_addresses_is_not_taken_for_it(kernel: Kernel) -> None:
    kernel.listed[socket.AF_INET, TCP] = [answer(tcp_info())]
    kernel.exact[socket_id()] = answer(bytes(232), cookie=5)
    diagnosis = SocketDiagnosis()
    for _ in range(4):
        assert diagnosis.counters([COOKIE]) == {COOKIE: counters_of_tcp(tcp_info())}
    # Once it was tried in vain.
    assert kernel.asked == [0, 1, 0, 0]
    assert len(kernel.dumps) == 4


def test_a_kernel_without_a_module_tells_the_rest(kernel: Kernel) -> None:
    for family in (socket.AF_INET, socket.AF_INET6):
        kernel.listed[family, TCP] = errno.ENOENT
    kernel.listed[socket.AF_INET, UDP] = [answer(None, waiting_bytes=9)]
    diagnosis = SocketDiagnosis()
    assert diagnosis.counters([COOKIE]) == {COOKIE: FlowCounters(waiting_bytes=9)}
    assert "TCP" in diagnosis.reason
    assert kernel.dumps == ALL_KINDS
    # Nobody knows whether this is one of TCP.
    assert diagnosis.closed([COOKIE + 1]) == set()


def test_which_sockets_there_are_no_more(kernel: Kernel) -> None:
    kernel.listed[socket.AF_INET, TCP] = [answer(tcp_info())]
    for family in (socket.AF_INET, socket.AF_INET6):
        kernel.listed[family, UDP] = errno.ENOENT
    diagnosis = SocketDiagnosis()
    assert diagnosis.closed([]) == set()
    assert diagnosis.closed([COOKIE, COOKIE + 1]) == {COOKIE + 1}
    kernel.listed[socket.AF_INET6, TCP] = errno.ENOENT
    for _ in range(2):
        # Known still when it was looked for a moment ago.
        assert diagnosis.closed([COOKIE, COOKIE + 2]) == set()


def test_a_kernel_that_cannot_be_asked_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_protocol: int) -> None:
        raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))

    monkeypatch.setattr(sockdiag, "Netlink", refuse)
    diagnosis = SocketDiagnosis()
    assert diagnosis.counters([COOKIE]) == {}
    assert diagnosis.closed([COOKIE]) == set()
    assert "Protocol not supported" in diagnosis.reason
    diagnosis.close()


# -- this host ------------------------------------------------------------------------


@pytest.mark.usefixtures("fd_guard")
def test_a_socket_of_this_host_is_found_without_rights() -> None:
    with SocketDiagnosis() as diagnosis, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", 9))
        cookie = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), sys.byteorder)
        for _ in range(2):
            assert diagnosis.counters([cookie]) == {cookie: FlowCounters()}
        assert diagnosis.reason == ""

"""From contracts to SO_MAX_PACING_RATE: figures, and everything that is refused."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from openqwave.drivers.sockets import SocketDirectory
from openqwave.enforcement.pacing import UNPACED, PacingRefused, tcp_pacing, udp_pacing
from openqwave.enforcement.socket_options import SocketOptions
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.flow import Treatment
from openqwave.subsystem.effects import Share, SocketPlan
from tests.unit.loopback import Bench, options_of, pacing_of, set_pacing

HERE = Endpoint(bytes([127, 0, 0, 1]), 9)
THERE = Endpoint(bytes([127, 0, 0, 2]), 9)
RATE_BPS = 8_000_000


class Queues:
    """An interface that runs fq, on a kernel of choice."""

    def __init__(
        self,
        *,
        is_fq: bool = True,
        version: tuple[int, int] = (6, 7),
        error: OSError | None = None,
    ) -> None:
        self.is_fq, self.version, self.error = is_fq, version, error
        self.asked: list[tuple[Endpoint, int]] = []

    def is_paced(self, destination: Endpoint, interface: int) -> bool:
        self.asked.append((destination, interface))
        if self.error is not None:
            raise self.error
        return self.is_fq

    def linux_version(self) -> tuple[int, int]:
        return self.version


class Paced:
    """The backend with one socket."""

    def __init__(self, sock: socket.socket, queues: Queues) -> None:
        directory = SocketDirectory()
        cookie = directory.cookie_of(sock)
        assert isinstance(cookie, int)
        directory.remember(cookie, sock)
        self.cookie, self.backend = cookie, SocketOptions(directory, queues)

    def hold(self, rate_bps: int | None, *destinations: Endpoint) -> Refusal | None:
        treatment = Treatment(56, 6, rate_bps)
        share = Share(1, treatment, 1, destinations or (HERE,))
        outcome = self.backend.apply((SocketPlan(self.cookie, (share,)),))
        return outcome if isinstance(outcome, Refusal) else None

    def end(self) -> None:
        assert not isinstance(self.backend.apply((SocketPlan(self.cookie, ()),)), Refusal)


# -- TCP ------------------------------------------------------------------------------


def payload_of(sock: socket.socket) -> tuple[int, int]:
    """Payload and options of a full segment, asked in another way than the code does."""
    payload = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return payload, 12 if info[5] & 1 else 0


@pytest.mark.parametrize("rate_bps", [1, 64_000, RATE_BPS, 10**9, (1 << 64) - 1])
@pytest.mark.parametrize(
    ("kind", "version", "headers"),
    [
        ("tcp4 connected", 4, 40),
        ("tcp6 connected", 6, 60),
        # Its packets are IPv4 packets.
        ("tcp6 to mapped", 4, 40),
    ],
)
def test_a_connected_socket_counts_its_segments(
    sockets: Bench, kind: str, version: int, headers: int, rate_bps: int
) -> None:
    sock = sockets.make(kind)
    payload, stamps = payload_of(sock)
    share = payload / (payload + headers + stamps)
    assert tcp_pacing(sock, rate_bps, version) == pytest.approx(
        max(1, rate_bps / 8 * share), rel=1e-9, abs=1
    )


@pytest.mark.parametrize(("kind", "version", "headers"), [("tcp4", 4, 52), ("tcp6", 6, 72)])
def test_an_unconnected_socket_counts_ethernets(
    sockets: Bench, kind: str, version: int, headers: int
) -> None:
    # Full packets of 1,500 bytes, with timestamps, as it will most likely send them.
    expected = 1_000_000 * (1_500 - headers) // 1_500
    assert tcp_pacing(sockets.make(kind), RATE_BPS, version) == expected


def test_a_socket_that_is_connecting_counts_ethernets(sockets: Bench) -> None:
    sock = sockets.make("tcp4")
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        listener.listen(0)
        fillers = [sockets.make("tcp4") for _ in range(2)]
        for one in (*fillers, sock):
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        assert state == 2, "SYN_SENT"
        assert tcp_pacing(sock, RATE_BPS, 4) == 1_000_000 * 1_448 // 1_500


def test_a_half_closed_peer_still_has_segments(sockets: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = sockets.make("tcp4")
        sock.connect(listener.getsockname())
        far, _ = listener.accept()
        standing = tcp_pacing(sock, RATE_BPS, 4)
        far.close()
        assert sock.recv(1) == b""
        # CLOSE_WAIT: the peer has nothing more to say, and may still be sent to.
        # Loopback segments grow a little meanwhile; as an unconnected one it would be 965,333.
        assert tcp_pacing(sock, RATE_BPS, 4) == pytest.approx(standing, rel=1e-3)


@pytest.mark.parametrize("kind", ["tcp4", "tcp4 connected", "tcp6", "tcp6 connected"])
def test_tcp_is_paced_without_fq(sockets: Bench, kind: str) -> None:
    queues = Queues(is_fq=False, version=(5, 10))
    sock = sockets.make(kind)
    paced = Paced(sock, queues)
    assert paced.hold(RATE_BPS) is None
    assert pacing_of(sock) == tcp_pacing(sock, RATE_BPS, 4)
    assert queues.asked == []
    # "Raising, lowering and ending all take effect."
    for rate_bps in (RATE_BPS * 2, RATE_BPS // 2):
        assert paced.hold(rate_bps) is None
        assert pacing_of(sock) == tcp_pacing(sock, rate_bps, 4)
    paced.end()
    assert pacing_of(sock) == UNPACED


def test_the_rate_ends_and_the_mark_stays(sockets: Bench) -> None:
    sock = sockets.make("tcp4 connected")
    paced = Paced(sock, Queues())
    assert paced.hold(RATE_BPS) is None
    assert paced.hold(None) is None
    assert (pacing_of(sock), options_of(sock).tos) == (UNPACED, 56 << 2)


@pytest.mark.parametrize("own", [1, 999_999, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40])
def test_eight_bytes_come_back(sockets: Bench, own: int) -> None:
    # Four bytes of all ones mean "no limit" to the kernel, so four could not tell these.
    sock = sockets.make("tcp4 connected")
    set_pacing(sock, own)
    assert pacing_of(sock) == own
    paced = Paced(sock, Queues())
    assert paced.hold(RATE_BPS) is None
    assert pacing_of(sock) == min(own, tcp_pacing(sock, RATE_BPS, 4))
    paced.end()
    assert pacing_of(sock) == own


def test_an_unpaced_socket_has_eight_bytes_of_ones(sockets: Bench) -> None:
    assert pacing_of(sockets.make("tcp4")) == UNPACED == (1 << 64) - 1


# -- UDP ------------------------------------------------------------------------------


def test_udp_with_fq(sockets: Bench) -> None:
    sock = sockets.make("udp4 connected")
    queues = Queues()
    paced = Paced(sock, queues)
    assert paced.hold(RATE_BPS) is None
    # fq counts the Ethernet header: 1,514 bytes for each 1,500 of the contract.
    assert pacing_of(sock) == 1_000_000 * 1_514 // 1_500
    assert queues.asked == [(HERE, 0)]
    paced.end()
    assert pacing_of(sock) == UNPACED


# Why a UDP socket is not paced, by kind of socket and queues.
REFUSED: dict[str, tuple[str, Queues]] = {
    # "Without fq the option is accepted and ignored. That would be a silent no-op".
    "no fq": ("udp4 connected", Queues(is_fq=False)),
    # "fq tells flows apart by socket only when the socket is connected".
    "unconnected": ("udp4", Queues()),
    "unconnected v6": ("udp6", Queues()),
    # "Ending the rate takes effect only since Linux 6.7".
    "Linux 6.6": ("udp4 connected", Queues(version=(6, 6))),
    "Linux 5.15": ("udp4 connected", Queues(version=(5, 15))),
}


@pytest.mark.parametrize("case", REFUSED)
def test_udp_is_refused(sockets: Bench, case: str) -> None:
    kind, queues = REFUSED[case]
    sock = sockets.make(kind)
    before = options_of(sock)
    refusal = Paced(sock, queues).hold(RATE_BPS)
    assert refusal is not None
    # "for lack of the mechanism: ERROR_NOT_SUPPORTED. Never a silent success".
    assert refusal.code is ErrorCode.ERROR_NOT_SUPPORTED
    assert "Flow.pacer()" in refusal.detail
    assert options_of(sock) == before


@pytest.mark.parametrize("version", [(6, 7), (6, 18), (7, 0)])
def test_newer_kernels_are_enough(sockets: Bench, version: tuple[int, int]) -> None:
    sock = sockets.make("udp4 connected")
    assert Paced(sock, Queues(version=version)).hold(RATE_BPS) is None


def test_several_destinations_are_refused(sockets: Bench) -> None:
    # fq gives each destination of a socket its own rate.
    sock = sockets.make("udp4 connected")
    refusal = Paced(sock, Queues()).hold(RATE_BPS, HERE, THERE)
    assert refusal is not None
    assert refusal.code is ErrorCode.ERROR_NOT_SUPPORTED
    assert pacing_of(sock) == UNPACED


def test_a_udp_rate_is_lowered_and_never_raised(sockets: Bench) -> None:
    # The kernel would read back the higher rate and keep the lower one on the wire.
    sock = sockets.make("udp4 connected")
    paced = Paced(sock, Queues())
    assert paced.hold(RATE_BPS) is None
    assert paced.hold(RATE_BPS // 2) is None
    held = pacing_of(sock)
    refusal = paced.hold(RATE_BPS)
    assert refusal is not None
    assert refusal.code is ErrorCode.ERROR_NOT_SUPPORTED
    assert pacing_of(sock) == held
    assert paced.hold(RATE_BPS // 2) is None
    # Nor in a later flow of the same socket.
    paced.end()
    assert paced.hold(RATE_BPS) is not None
    assert pacing_of(sock) == UNPACED
    assert paced.hold(RATE_BPS // 4) is None


def test_a_refused_rate_lowers_nothing(sockets: Bench) -> None:
    sock = sockets.make("udp4 connected")
    queues = Queues(is_fq=False)
    paced = Paced(sock, queues)
    assert paced.hold(RATE_BPS // 2) is not None
    queues.is_fq = True
    assert paced.hold(RATE_BPS) is None


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EPERM, ErrorCode.ERROR_ACCESS_DENIED),
        (errno.EACCES, ErrorCode.ERROR_ACCESS_DENIED),
        (errno.ENOPROTOOPT, ErrorCode.ERROR_NOT_SUPPORTED),
        (errno.EOPNOTSUPP, ErrorCode.ERROR_NOT_SUPPORTED),
        (errno.EIO, ErrorCode.ERROR_IO_DEVICE),
    ],
)
def test_what_the_kernel_says_when_asked(sockets: Bench, number: int, code: ErrorCode) -> None:
    # "Kernel refused the marks or shaping for lack of rights: ERROR_ACCESS_DENIED; for lack
    # of the mechanism: ERROR_NOT_SUPPORTED."
    sock = sockets.make("udp4 connected")
    refusal = Paced(sock, Queues(error=OSError(number, os.strerror(number)))).hold(RATE_BPS)
    assert refusal is not None
    assert refusal.code is code
    assert options_of(sock).tos == 0


@pytest.mark.parametrize("rate_bps", [1, 7, 8])
def test_tiny_rates_are_not_zero(sockets: Bench, rate_bps: int) -> None:
    # 0 would stop the socket for ever.
    assert tcp_pacing(sockets.make("tcp4"), rate_bps, 4) >= 1
    assert udp_pacing(sockets.make("udp4 connected"), rate_bps, HERE, Queues()) >= 1


def test_the_interface_of_the_socket_is_asked_about(sockets: Bench) -> None:
    sock = sockets.make("udp4 connected")
    sock.setsockopt(socket.SOL_SOCKET, 62, 1)  # SO_BINDTOIFINDEX, loopback
    queues = Queues(is_fq=False)
    with pytest.raises(PacingRefused):
        udp_pacing(sock, RATE_BPS, HERE, queues)
    assert queues.asked == [(HERE, 1)]

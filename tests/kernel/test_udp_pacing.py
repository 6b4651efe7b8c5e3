"""UDP held to a rate by the fq queue, as seen on the wire.

Runs where the kernel has fq, as ordinary distributions do. Under a kernel without it the
refusal is tested instead, on the same path.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

import openqwave as qw
from openqwave.drivers.links import Links

if TYPE_CHECKING:
    from openqwave.lab.capture import CapturedPacket
    from openqwave.lab.topology import Host

pytestmark = pytest.mark.kernel

PORT = 5004
RATE_BPS = 8_000_000
PAYLOAD_BYTES = 1_472
IP_BYTES = PAYLOAD_BYTES + 28
# Fewer than the hundred that fq queues for one flow before it drops.
PACKETS = 90


def connected(left: Host, right: Host) -> socket.socket:
    with left.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
    sock.connect((right.ipv4, PORT))
    return sock


def send_and_see(right: Host, sock: socket.socket) -> list[CapturedPacket]:
    with right.enter():
        # Somebody listens, or the far end would answer that the port is closed.
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, right.capture() as capture:
        receiver.bind((right.ipv4, PORT))
        for _ in range(PACKETS):
            sock.send(bytes(PAYLOAD_BYTES))
        return capture.wait_for(
            PACKETS, timeout_s=30, where=lambda packet: packet.destination_port == PORT
        )


def rate_of(packets: list[CapturedPacket]) -> float:
    """Bits per second of IP packets, past the burst that fq lets a new flow send."""
    later = packets[PACKETS // 4 :]
    return (len(later) - 1) * IP_BYTES * 8e9 / (later[-1].time_ns - later[0].time_ns)


def test_without_fq_the_rate_is_refused(pair: tuple[Host, Host]) -> None:
    left, right = pair
    with connected(left, right) as sock, left.enter(), qw.open() as qos:
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.AUDIO_VIDEO, adaptive=False)
        with pytest.raises(qw.NotSupported, match="fq"):
            flow.set_rate(RATE_BPS)
        # A failed call changes nothing: the marks of the type stay.
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 40 << 2


def test_with_fq_the_rate_holds_and_ends(pair: tuple[Host, Host]) -> None:
    left, right = pair
    if not left.interface.try_qdisc("fq"):
        pytest.skip("this kernel has no fq queue")
    with connected(left, right) as sock, left.enter(), qw.open() as qos:
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.AUDIO_VIDEO, adaptive=False)
        if Links().linux_version() < (6, 7):
            with pytest.raises(qw.NotSupported, match=r"6\.7"):
                flow.set_rate(RATE_BPS)
            return
        flow.set_rate(RATE_BPS)
        packets = send_and_see(right, sock)
        assert {packet.dscp for packet in packets} == {40}
        assert rate_of(packets) == pytest.approx(RATE_BPS, rel=0.05)

        flow.set_rate(RATE_BPS // 2, shaping=qw.Shaping.SHAPE_ONLY)
        packets = send_and_see(right, sock)
        assert {packet.dscp for packet in packets} == {0}
        assert rate_of(packets) == pytest.approx(RATE_BPS // 2, rel=0.05)

        with pytest.raises(qw.NotSupported, match="never raises"):
            flow.set_rate(RATE_BPS)
        assert flow.rate_bps() == RATE_BPS // 2

        flow.close()
        packets = send_and_see(right, sock)
        assert rate_of(packets) > 4 * RATE_BPS


def test_an_unconnected_socket_is_refused_under_fq(pair: tuple[Host, Host]) -> None:
    left, right = pair
    if not left.interface.try_qdisc("fq"):
        pytest.skip("this kernel has no fq queue")
    with left.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock, left.enter(), qw.open() as qos:
        flow = qos.add_socket(sock, (right.ipv4, PORT), adaptive=False)
        with pytest.raises(qw.NotSupported, match=r"connected|6\.7"):
            flow.set_rate(RATE_BPS)

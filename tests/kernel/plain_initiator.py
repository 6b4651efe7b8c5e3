"""An initiator of MS-QLPB made from the specification alone, to test other people's sinks.

It shares nothing with the package on purpose: no module, no table, no way of thinking. What the
sink answers is returned as it came, byte by byte, and judged by whoever asked.

    python plain_initiator.py ADDRESS packet-pair --trains 3 --packets 16
    python plain_initiator.py ADDRESS route-check --order 1,2,3,4,5 --order 1,5,2,3,4
    python plain_initiator.py ADDRESS probegap --count 10

prints one line of JSON: {"handshake": hex, "received": hex} or {"replies": [hex, ...]}. It ends
with the experiment, on SIGTERM, or after --seconds at the latest.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import struct
import time
from typing import Any

PORT = 2177

# From the kernel's headers; the socket module has no names for them.
SO_NO_CHECK = 11
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2
IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO = 23, 2

# 20 ms between groups; 1 ms between probegap probes (section 5). A handshake is to be answered
# in 250 ms; ten times that, because the machine may be busy with other tests.
HANDSHAKE_S = 2.5
GROUP_S = 0.02
GAP_S = 0.001


def resolved(address: str, kind: socket.SocketKind) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """Family and socket address of the sink."""
    flags = socket.AI_NUMERICHOST
    family, _, _, _, target = socket.getaddrinfo(address, PORT, type=kind, flags=flags)[0]
    return family, target


def udp_socket(family: socket.AddressFamily, port: int, *, priority: bool) -> socket.socket:
    """A UDP socket as section 4 wants it."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET:
        sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        if priority:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x28 << 2)
    else:
        # Over IPv6 a checksum of zero is not allowed.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO)
        if priority:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0x28 << 2)
    if priority:
        # After the marking, which resets it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 5)
    if port:
        sock.bind(("", port))
    return sock


class Experiment:
    """A connection that a sink has agreed to.

    Attributes:
        handshake: The sink's first answer.
        received: What it sent after that, all of it.
    """

    def __init__(self, address: str, number: int) -> None:
        family, target = resolved(address, socket.SOCK_STREAM)
        self.tcp = socket.socket(family, socket.SOCK_STREAM)
        self.tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tcp.settimeout(5)
        self.tcp.connect(target)
        self.tcp.sendall(bytes((number, 0, 0, 1)))
        self.handshake = b""
        self.tcp.settimeout(HANDSHAKE_S)
        while len(self.handshake) < 4:
            piece = self.tcp.recv(4 - len(self.handshake))
            if not piece:
                raise SystemExit("the sink does not agree")
            self.handshake += piece
        self.port = self.tcp.getsockname()[1]
        self.family, self.target = resolved(address, socket.SOCK_DGRAM)
        self.received = b""

    def read(self, enough: int, until_s: float) -> None:
        """Read until so much is there in all, the sink closes, or the time has come."""
        while len(self.received) < enough and (left_s := until_s - time.monotonic()) > 0:
            self.tcp.settimeout(left_s)
            try:
                piece = self.tcp.recv(65_536)
            except TimeoutError:
                return
            if not piece:
                return
            self.received += piece


def packet_pair(
    address: str,
    *,
    trains: int = 3,
    packets: int = 16,
    payload_bytes: int = 0,
    flag: int = 0x80,
    seconds: float = 1.5,
) -> Experiment:
    """Send trains, one after the other's summary; of the largest probes, if no size is given."""
    experiment = Experiment(address, 0x01)
    # An IP datagram of 1496 bytes.
    payload_bytes = payload_bytes or (1468 if experiment.family == socket.AF_INET else 1448)
    end_s = time.monotonic() + seconds
    sequence = 1
    with udp_socket(experiment.family, 0, priority=False) as udp:
        for train in range(1, trains + 1):
            probes = []
            for index in range(packets):
                flags = flag if index == 0 else 0
                probes.append(
                    struct.pack(
                        ">BBBBHHI", 1, flags, 0, 1, experiment.port, packets, sequence + index
                    )
                    + os.urandom(payload_bytes - 12)
                )
            sequence += packets
            for probe in probes:
                udp.sendto(probe, experiment.target)
            experiment.read(train * (16 + 8 * (packets - 1)), end_s)
    experiment.tcp.close()
    return experiment


def route_check(
    address: str,
    orders: list[list[int]],
    *,
    flag: int = 0x80,
    enough: int | None = None,
    seconds: float = 0.4,
) -> Experiment:
    """Send groups of five, each in its own order; a number that is left out is not sent.

    Args:
        address: The sink's.
        orders: Of each group the numbers 1 to 5 in the order of sending.
        flag: How the O flag is written.
        enough: How many bytes of summaries to wait for; by default four a group.
        seconds: How long to wait for them.
    """
    experiment = Experiment(address, 0x02)
    end_s = time.monotonic() + seconds
    v4 = experiment.family == socket.AF_INET
    # UDP payloads of IP datagrams of 1500, 1496 and 1496 bytes, and two without filler.
    sizes = [1472, 1468, 1468, 12, 12] if v4 else [1452, 1448, 1448, 12, 12]
    with (
        udp_socket(experiment.family, 0, priority=False) as plain,
        udp_socket(experiment.family, 0, priority=True) as prior,
    ):
        for group, order in enumerate(orders):
            # All of a group before the first of it is sent.
            probes = []
            for place in order:
                flags, train_size = (flag if place == 1 else 0), (5 if place == 5 else 0)
                sequence = group * 5 + place
                probes.append(
                    struct.pack(">BBBBHHI", 2, flags, 0, 1, experiment.port, train_size, sequence)
                    + os.urandom(sizes[place - 1] - 12)
                )
            for place, probe in zip(order, probes, strict=True):
                (prior if place in (1, 5) else plain).sendto(probe, experiment.target)
            if group + 1 < len(orders):
                time.sleep(GROUP_S)
    experiment.read(4 * len(orders) if enough is None else enough, end_s)
    experiment.tcp.close()
    return experiment


def probegap(
    address: str, *, count: int = 10, filler: bytes = b"", port: int = PORT, seconds: float = 2.0
) -> list[bytes]:
    """Send probes a millisecond apart; return what came back, as long as it took."""
    family, target = resolved(address, socket.SOCK_DGRAM)
    replies: list[bytes] = []
    with udp_socket(family, port, priority=False) as udp:
        start_s = time.monotonic()
        for sequence in range(1, count + 1):
            time.sleep(max(0.0, start_s + sequence * GAP_S - time.monotonic()))
            ticks = time.time_ns() // 100
            udp.sendto(struct.pack(">BBBBIQQQ", 5, 0, 0, 2, sequence, ticks, 0, 0) + filler, target)
        end_s = time.monotonic() + seconds
        while len(replies) < count and (left_s := end_s - time.monotonic()) > 0:
            udp.settimeout(left_s)
            try:
                data, sender = udp.recvfrom(65_536)
            except TimeoutError:
                break
            if sender[:2] == target[:2]:
                replies.append(data)
    return replies


def main() -> None:
    """Run one experiment and print what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("experiment", choices=["packet-pair", "route-check", "probegap"])
    parser.add_argument("--trains", type=int, default=3)
    parser.add_argument("--packets", type=int, default=16)
    parser.add_argument("--payload", type=int, default=0)
    parser.add_argument("--order", action="append", help="as 1,5,2,3,4; one for each group")
    parser.add_argument("--enough", type=int, help="bytes of summaries to wait for")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--port", type=int, default=PORT, help="of probegap, to send from")
    parser.add_argument("--flag", type=lambda text: int(text, 0), default=0x80)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    if given.experiment == "probegap":
        replies = probegap(given.address, count=given.count, port=given.port, seconds=given.seconds)
        print(json.dumps({"replies": [data.hex() for data in replies]}))
        return
    if given.experiment == "packet-pair":
        done = packet_pair(
            given.address,
            trains=given.trains,
            packets=given.packets,
            payload_bytes=given.payload,
            flag=given.flag,
            seconds=given.seconds,
        )
    else:
        orders = [
            [int(place) for place in order.split(",")] for order in given.order or ["1,2,3,4,5"] * 5
        ]
        done = route_check(
            given.address,
            orders,
            flag=given.flag,
            enough=given.enough,
            seconds=given.seconds,
        )
    print(json.dumps({"handshake": done.handshake.hex(), "received": done.received.hex()}))


if __name__ == "__main__":
    main()

"""UDP packets on a host's interface, with the fields that `openqwave.lab.capture` leaves out."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openqwave.lab.topology import Host


@dataclass(frozen=True)
class Seen:
    """A UDP packet on the wire."""

    hops: int
    dont_fragment: bool
    dscp: int
    source_port: int
    destination_port: int
    checksum: int
    ip_bytes: int
    payload: bytes


def watch(host: Host) -> socket.socket:
    """A socket that sees every packet of a host, from its IP header on."""
    with host.enter():
        every = socket.htons(3)  # ETH_P_ALL
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, every)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.setblocking(False)
    return sock


def seen_by(sock: socket.socket, source: str) -> list[Seen]:
    """What came from an address over UDP since the last look."""
    found: list[Seen] = []
    while True:
        try:
            data = sock.recv(65_536)
        except BlockingIOError:
            return found
        if data[0] >> 4 == 4 and data[9] == socket.IPPROTO_UDP:
            sender, udp = socket.inet_ntop(socket.AF_INET, data[12:16]), data[20:]
            hops, fragment, traffic_class = data[8], bool(data[6] & 0x40), data[1]
        elif data[0] >> 4 == 6 and data[6] == socket.IPPROTO_UDP:
            sender, udp = socket.inet_ntop(socket.AF_INET6, data[8:24]), data[40:]
            # IPv6 never fragments on the way.
            hops, fragment, traffic_class = data[7], True, (data[0] << 4 | data[1] >> 4) & 0xFF
        else:
            continue
        source_port, port, _, checksum = struct.unpack("!HHHH", udp[:8])
        if sender == source:
            found.append(
                Seen(
                    hops,
                    fragment,
                    traffic_class >> 2,
                    source_port,
                    port,
                    checksum,
                    len(data),
                    udp[8:],
                )
            )

"""Streams of equal datagrams, offered at a rate, and how they arrived."""

from __future__ import annotations

import socket
import statistics
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openqwave.lab.capture import CapturedPacket
    from openqwave.lab.topology import Host

PORT = 5004
# A full Ethernet frame's: with UDP's and IPv4's headers 1,500 bytes of IP.
PAYLOAD_BYTES = 1_472
HEADERS_BYTES = 28

# How many packets a receiver's buffer is asked to hold, and how long a stream may stand still.
ROOM_BYTES = 1 << 22
STILL_S = 5.0


@dataclass(frozen=True)
class Arrived:
    """What came, in order.

    Attributes:
        offered: How many were sent.
        packets: Those that arrived, as the far interface saw them.
    """

    offered: int
    packets: list[CapturedPacket]

    @property
    def lost(self) -> int:
        """How many did not come."""
        return self.offered - len(self.packets)

    @property
    def steady(self) -> list[CapturedPacket]:
        """Without the first quarter, in which a queue lets a new flow send its credit."""
        return self.packets[len(self.packets) // 4 :]

    @property
    def rate_bps(self) -> float:
        """IP bits a second, once steady."""
        steady = self.steady
        ns = steady[-1].time_ns - steady[0].time_ns
        return sum(packet.length_bytes for packet in steady[1:]) * 8e9 / ns

    @property
    def gaps_ns(self) -> tuple[float, float, float]:
        """Between two packets, once steady: what 5, 50 and 95 % are shorter than."""
        steady = self.steady
        gaps = [b.time_ns - a.time_ns for a, b in pairwise(steady)]
        every = statistics.quantiles(gaps, n=100)
        return every[4], statistics.median(gaps), every[94]

    def __str__(self) -> str:
        low, middle, high = self.gaps_ns
        return (
            f"{len(self.packets)}/{self.offered} packets, {self.rate_bps / 1e6:.3f} Mbit/s, "
            f"gaps {low / 1e3:.1f} {middle / 1e3:.1f} {high / 1e3:.1f} us"
        )


def gap_ns(rate_bps: float, payload_bytes: int = PAYLOAD_BYTES) -> float:
    """From one packet to the next, at a rate of IP bits."""
    return (payload_bytes + HEADERS_BYTES) * 8e9 / rate_bps


def stream(
    right: Host,
    sock: socket.socket,
    offered_bps: float,
    packets: int,
    *,
    payload_bytes: int = PAYLOAD_BYTES,
    destination: tuple[str, int] | None = None,
) -> Arrived:
    """Send evenly, and wait for what comes; a full socket makes the sender wait.

    Args:
        right: The host that is sent to; somebody listens there meanwhile.
        sock: What sends; connected, or with a destination.
        offered_bps: IP bits a second.
        packets: How many.
        payload_bytes: What UDP carries.
        destination: For a socket that is not connected.
    """
    address = destination or sock.getpeername()
    with right.enter():
        receiver = socket.socket(sock.family, socket.SOCK_DGRAM)
    with receiver, right.capture() as capture:
        receiver.bind((address[0], address[1]))
        interval_s = gap_ns(offered_bps, payload_bytes) / 1e9
        due_s = time.monotonic()
        for _ in range(packets):
            due_s += interval_s
            if destination is None:
                sock.send(bytes(payload_bytes))
            else:
                sock.sendto(bytes(payload_bytes), destination)
            if (wait_s := due_s - time.monotonic()) > 0:
                time.sleep(wait_s)
        found: list[CapturedPacket] = []
        still_s = time.monotonic()
        while len(found) < packets and time.monotonic() - still_s < STILL_S:
            fresh = [one for one in capture.packets() if one.destination_port == address[1]]
            if fresh:
                found += fresh
                still_s = time.monotonic()
            else:
                time.sleep(0.01)
        assert capture.dropped == 0
        return Arrived(packets, found)

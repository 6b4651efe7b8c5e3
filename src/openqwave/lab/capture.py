"""What passes an interface: DSCP, ECN, length and the kernel's time for each IP packet.

Model. A packet socket with a ring: the kernel writes the start of every packet into memory that
is shared with this process, with its true length and time, and goes on. No thread has to read
along, so no packet is lost to the interpreter being busy. The ring is not charged to the socket's
receive buffer, whose size an ordinary user cannot raise. When it is full, packets are dropped and
counted (`Capture.dropped`).

The kernel shows a packet on its way out after the queue has released it, and one on its way in
before anything else has looked at it. So a capture of a bottleneck's interface sees the traffic
as shaped, and a veth's both ends see the same packets at nearly the same time. A packet is in the
ring before the call that sent it returns, unless a queue holds it; `wait_for` covers that case.

Reported are whole IP packets. Fragments, which hide their ports, and other protocols such as ARP
are counted and left out. IPv6 extension headers are not followed: such packets are reported with
the extension's number as their protocol and without ports.

Sources: packet(7), Documentation/networking/packet_mmap.rst (version 2 of the ring; version 3
gathers packets in blocks and hands them over late).
"""

from __future__ import annotations

import enum
import mmap
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Self

# <linux/if_ether.h>, <linux/if_packet.h>
ETH_P_ALL = 0x0003
ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD
SOL_PACKET = 263
PACKET_RX_RING = 5
PACKET_STATISTICS = 6
PACKET_VERSION = 10
TPACKET_V2 = 1
PACKET_OUTGOING = 4
TP_STATUS_KERNEL = 0
TP_STATUS_USER = 1

# struct tpacket2_hdr: status, length, captured length, offsets of the frame and of the network
# header, seconds, nanoseconds. The socket address follows at the next multiple of 16.
_HEADER = struct.Struct("=IIIHHII")
# struct sockaddr_ll up to the packet type: family, protocol, interface, hardware type, type.
_ADDRESS = struct.Struct("=H2siHB")
_ADDRESS_OFFSET = 32

# One packet's place in the ring. The kernel's headers take 80 bytes of it; the rest holds the
# longest IP and transport headers that are looked at, and the start of the payload.
FRAME_BYTES = 256
# 16,384 packets: 6 s of 30 Mbit/s in full-sized packets between two looks.
FRAMES = 16_384
# The kernel allocates the ring in blocks of contiguous pages; 64 KiB is found on any machine.
BLOCK_BYTES = 65_536

# struct iphdr up to the addresses: version and header length, type of service, total length,
# fragment flags and offset, protocol.
_IPV4 = struct.Struct("!BBH2xHxB2x4s4s")
# struct ipv6hdr: version, traffic class and flow label, payload length, next header, addresses.
_IPV6 = struct.Struct("!IHBx16s16s")
_PORTS = struct.Struct("!HH")
IPV6_HEADER_BYTES = 40
UDP_HEADER_BYTES = 8
# More fragments follow, or an offset other than zero.
IPV4_FRAGMENT_MASK = 0x3FFF
IPV6_FRAGMENT_HEADER = 44


class Direction(enum.Enum):
    """Which way a packet passes the interface, seen from its host."""

    INCOMING = "incoming"
    OUTGOING = "outgoing"


@dataclass(frozen=True, slots=True)
class CapturedPacket:
    """One IP packet.

    Attributes:
        time_ns: When the kernel saw it, nanoseconds since 1970 (CLOCK_REALTIME).
        direction: Which way it passed.
        version: 4 or 6.
        protocol: The number of what IP carries: 6 is TCP, 17 is UDP.
        source: Its sender's address as text.
        destination: Its receiver's address as text.
        source_port: For TCP and UDP; else 0.
        destination_port: For TCP and UDP; else 0.
        dscp: Its differentiated services code point, 0 to 63.
        ecn: Its explicit congestion notification bits, 0 to 3.
        length_bytes: Its length from the IP header on.
        payload: What the transport carries, of long packets the first 100 bytes or more; empty
            for other protocols.
    """

    time_ns: int
    direction: Direction
    version: int
    protocol: int
    source: str
    destination: str
    source_port: int
    destination_port: int
    dscp: int
    ecn: int
    length_bytes: int
    payload: bytes


class Capture:
    """The packets of one interface since this was made; closed by `close` or as a context.

    Attributes:
        fragments: Fragments seen so far; left out.
        other: Packets seen so far that are not IP, or broken; left out.
    """

    def __init__(
        self, interface: str, direction: Direction | None = None, frames: int = FRAMES
    ) -> None:
        """Start to watch.

        Args:
            interface: Name of an interface in the calling thread's namespace.
            direction: Only what passes this way; None for both.
            frames: How many packets may wait to be looked at; rounded up to 256.

        Raises:
            OSError: No such interface, or no right to open packet sockets.
        """
        self.fragments = 0
        self.other = 0
        self._direction = direction
        self._dropped = 0
        self._position = 0
        self._pending: list[CapturedPacket] = []
        # Protocol 0 receives nothing, so nothing precedes the ring and the interface.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        try:
            blocks = -(-frames * FRAME_BYTES // BLOCK_BYTES)
            self._frames = blocks * BLOCK_BYTES // FRAME_BYTES
            self._socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
            self._socket.setsockopt(
                SOL_PACKET,
                PACKET_RX_RING,
                struct.pack("=IIII", BLOCK_BYTES, blocks, FRAME_BYTES, self._frames),
            )
            self._ring = mmap.mmap(self._socket.fileno(), blocks * BLOCK_BYTES)
            # A forked child has no use for it, and User Mode Linux 6.12 loses count of the pages
            # of a ring that was forked, and dies of it.
            self._ring.madvise(mmap.MADV_DONTFORK)
            self._socket.bind((interface, ETH_P_ALL))
        except BaseException:
            self._socket.close()
            raise

    @property
    def dropped(self) -> int:
        """Packets lost so far because the ring was full."""
        statistics = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        self._dropped += struct.unpack("=II", statistics)[1]  # Reading sets the kernel's to 0.
        return self._dropped

    def packets(self) -> list[CapturedPacket]:
        """Take what has arrived and was not taken before, in order of arrival."""
        self._drain()
        taken, self._pending = self._pending, []
        return taken

    def wait_for(
        self,
        count: int,
        timeout_s: float = 5.0,
        where: Callable[[CapturedPacket], bool] | None = None,
    ) -> list[CapturedPacket]:
        """Take packets until enough have come; what does not match is taken and left out.

        Args:
            count: How many are wanted. All that have arrived by then are returned.
            timeout_s: How long to wait.
            where: Which are wanted; None for all.

        Raises:
            TimeoutError: Fewer came; the message says how many.
        """
        deadline = time.monotonic() + timeout_s
        found: list[CapturedPacket] = []
        while True:
            found += [packet for packet in self.packets() if where is None or where(packet)]
            if len(found) >= count:
                return found
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError(
                    f"{len(found)} of {count} packets in {timeout_s} s ({self.dropped} dropped, "
                    f"{self.fragments} fragments, {self.other} other)"
                )
            select.select([self._socket], [], [], remaining)

    def _drain(self) -> None:
        ring = self._ring
        while True:
            start = self._position * FRAME_BYTES
            status, _, captured, _, network, seconds, nanoseconds = _HEADER.unpack_from(ring, start)
            if not status & TP_STATUS_USER:
                return
            kind = _ADDRESS.unpack_from(ring, start + _ADDRESS_OFFSET)
            outgoing = kind[4] == PACKET_OUTGOING
            direction = Direction.OUTGOING if outgoing else Direction.INCOMING
            if self._direction in (None, direction):
                protocol = int.from_bytes(kind[1], "big")
                data = ring[start + network : start + network + captured]
                self._keep(seconds * 1_000_000_000 + nanoseconds, direction, protocol, data)
            struct.pack_into("=I", ring, start, TP_STATUS_KERNEL)
            self._position = (self._position + 1) % self._frames

    def _keep(self, time_ns: int, direction: Direction, ethertype: int, data: bytes) -> None:
        source: IPv4Address | IPv6Address
        destination: IPv4Address | IPv6Address
        if ethertype == ETH_P_IP and len(data) >= _IPV4.size:
            first, traffic_class, length, fragment, protocol, *ends = _IPV4.unpack_from(data)
            header = (first & 0x0F) * 4
            is_fragment = fragment & IPV4_FRAGMENT_MASK != 0
            source, destination = IPv4Address(ends[0]), IPv4Address(ends[1])
        elif ethertype == ETH_P_IPV6 and len(data) >= _IPV6.size:
            first, length, protocol, *ends = _IPV6.unpack_from(data)
            traffic_class = first >> 20 & 0xFF
            header = IPV6_HEADER_BYTES
            length += header
            is_fragment = protocol == IPV6_FRAGMENT_HEADER
            source, destination = IPv6Address(ends[0]), IPv6Address(ends[1])
        else:
            self.other += 1
            return
        if is_fragment:
            self.fragments += 1
            return
        ports, payload = _transport(protocol, data[header:length])
        self._pending.append(
            CapturedPacket(
                time_ns=time_ns,
                direction=direction,
                version=source.version,
                protocol=protocol,
                source=str(source),
                destination=str(destination),
                source_port=ports[0],
                destination_port=ports[1],
                dscp=traffic_class >> 2,
                ecn=traffic_class & 3,
                length_bytes=length,
                payload=payload,
            )
        )

    def close(self) -> None:
        """Stop watching and release the ring; harmless when done before."""
        self._ring.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _transport(protocol: int, data: bytes) -> tuple[tuple[int, int], bytes]:
    """Return the ports and the payload of a transport's packet, as far as they are known."""
    if protocol == socket.IPPROTO_UDP and len(data) >= UDP_HEADER_BYTES:
        return _PORTS.unpack_from(data), data[UDP_HEADER_BYTES:]
    # Byte 12 of a TCP header holds its length, in words of four bytes, in its upper half.
    if protocol == socket.IPPROTO_TCP and len(data) >= 20:
        return _PORTS.unpack_from(data), data[(data[12] >> 4) * 4 :]
    return (0, 0), b""

"""A host whose packets pass the kernel's program, and what of them arrives at the other host."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from openqwave.enforcement.bpf import syscalls
from openqwave.enforcement.bpf.program import EgressProgram, Sizes
from openqwave.enforcement.missing import MechanismMissing

if TYPE_CHECKING:
    from openqwave.lab.topology import Host

SO_RCVBUFFORCE = 33
SO_COOKIE = 57
SOL_PACKET = 263
PACKET_AUXDATA = 8
# struct tpacket_auxdata: status, lengths, offsets of the headers, tag, its protocol.
_AUXDATA = struct.Struct("=IIIHHHH")
TP_STATUS_VLAN_VALID = 0x10
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Arrived:
    """One IP packet, as it was on the wire."""

    version: int
    dscp: int
    ecn: int
    destination: str
    port: int
    source_port: int
    pcp: int | None
    fragment: int
    data: bytes

    def is_sum_right(self) -> bool:
        """Is the header's checksum that of the header (there is none in IPv6)?"""
        if self.version == 6:
            return True
        total: int = sum(struct.unpack("!10H", self.data[:20]))
        return total % 0xFFFF == 0

    def is_udp_sum_right(self) -> bool:
        """Is UDP's checksum right, by the addresses that the packet has?"""
        at, addresses = (20, self.data[12:20]) if self.version == 4 else (40, self.data[8:40])
        udp = self.data[at:]
        padded = addresses + struct.pack("!HH", 17, len(udp)) + udp + bytes(len(udp) % 2)
        total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
        return total % 0xFFFF == 0


def arrived_from(data: bytes, pcp: int | None) -> Arrived | None:
    """What a packet is; None for what carries no UDP or TCP."""
    if data[0] >> 4 == 4:
        offset = (data[6] << 8 | data[7]) & 0x1FFF
        protocol, traffic_class = data[9], data[1]
        destination = socket.inet_ntop(socket.AF_INET, data[16:20])
        at, data = (data[0] & 15) * 4, data[: data[2] << 8 | data[3]]
    elif data[0] >> 4 == 6:
        protocol, traffic_class = data[6], (data[0] << 4 | data[1] >> 4) & 0xFF
        destination, offset, at = socket.inet_ntop(socket.AF_INET6, data[24:40]), 0, 40
        if protocol == 44:
            offset, protocol, at = (data[42] << 8 | data[43]) >> 3, data[40], 48
    else:
        return None
    if protocol not in (socket.IPPROTO_UDP, socket.IPPROTO_TCP):
        return None
    source_port, port = struct.unpack_from("!HH", data, at) if not offset else (0, 0)
    return Arrived(
        data[0] >> 4, traffic_class >> 2, traffic_class & 3, destination, port, source_port, pcp,
        offset, data,
    )  # fmt: skip


class Wire:
    """A socket that sees what arrives at a host, with its tags."""

    def __init__(self, host: Host) -> None:
        with host.enter():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 25)
        self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self._socket.settimeout(PATIENCE_S)

    def take(self, count: int, where: Callable[[Arrived], bool] = lambda _: True) -> list[Arrived]:
        """So many packets, or what came of them when patience ends."""
        found: list[Arrived] = []
        end = time.monotonic() + PATIENCE_S
        while len(found) < count and time.monotonic() < end:
            try:
                data, control, _, address = self._socket.recvmsg(65_536, 256)
            except TimeoutError:
                break
            if address[2] == 4:  # PACKET_OUTGOING: the host's own.
                continue
            pcp = None
            for _, kind, raw in control:
                status, *_, tag, _ = _AUXDATA.unpack(raw) if kind == PACKET_AUXDATA else (0, 0, 0)
                if status & TP_STATUS_VLAN_VALID:
                    pcp = tag >> 13
            packet = arrived_from(data, pcp) if len(data) >= 28 else None
            if packet is not None and where(packet):
                found.append(packet)
        return found

    def close(self) -> None:
        self._socket.close()


def cookie_of(sock: socket.socket) -> int:
    """The kernel's number of a socket."""
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")


def may_use_bpf() -> bool:
    """Is this root of the first user namespace, where the kernel asks for BPF's rights?"""
    everyone = Path("/proc/self/uid_map").read_text(encoding="ascii").split() == [
        "0",
        "0",
        "4294967295",
    ]
    return os.geteuid() == 0 and everyone


def load(sizes: Sizes | None = None) -> EgressProgram:
    """Load the program; skip where this user has no right to."""
    try:
        return EgressProgram.load(sizes or Sizes(1024, 1024, 4096, 64, 64))
    except MechanismMissing as error:
        if may_use_bpf():
            raise
        pytest.skip(str(error))


@contextmanager
def attached(program: EgressProgram, host: Host, name: str = "egress") -> Iterator[None]:
    """Let what leaves a host's interface pass the program."""
    with host.enter():
        try:
            link = syscalls.link_create(
                getattr(program.programs, name), host.interface.index, syscalls.TCX_EGRESS
            )
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            pytest.skip("this kernel has no TCX (Linux 6.6)")
    try:
        yield
    finally:
        os.close(link)

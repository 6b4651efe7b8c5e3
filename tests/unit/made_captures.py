"""Frames and capture files, made by hand from the formats' pages."""

from __future__ import annotations

import struct
from ipaddress import ip_address

PCAP = {
    "micro, little": ("<", 0xA1B2C3D4, 1_000),
    "micro, big": (">", 0xA1B2C3D4, 1_000),
    "nano, little": ("<", 0xA1B23C4D, 1),
    "nano, big": (">", 0xA1B23C4D, 1),
}


def pcap_file(variant: str, frames: list[tuple[int, bytes, int]], link_type: int = 1) -> bytes:
    """A classic file of (time in ns, bytes, length on the wire)."""
    order, magic, unit_ns = PCAP[variant]
    made = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 262_144, link_type)
    for time_ns, data, length in frames:
        seconds, rest = divmod(time_ns, 1_000_000_000)
        made += struct.pack(f"{order}IIII", seconds, rest // unit_ns, len(data), length) + data
    return made


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + size + body + size


def option(order: str, code: int, content: bytes) -> bytes:
    return struct.pack(f"{order}HH", code, len(content)) + content + bytes(-len(content) % 4)


def section(order: str) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str, link_type: int = 1, options: bytes = b"", snap: int = 0) -> bytes:
    return block(order, 1, struct.pack(f"{order}HHI", link_type, 0, snap) + options)


def enhanced(
    order: str, stamp: int, data: bytes, *, number: int = 0, kept: int | None = None
) -> bytes:
    kept = len(data) if kept is None else kept
    head = struct.pack(f"{order}IIIII", number, stamp >> 32, stamp & 0xFFFFFFFF, kept, len(data))
    return block(order, 6, head + data)


def ethernet(kind: int, content: bytes, *tags: tuple[int, int, int]) -> bytes:
    """A frame with tags of (TPID, priority, VLAN)."""
    made = bytes(12)
    for tpid, pcp, vlan in tags:
        made += struct.pack("!HH", tpid, pcp << 13 | vlan)
    return made + struct.pack("!H", kind) + content


def ip(
    content: bytes,
    *,
    protocol: int = 17,
    traffic_class: int = 0,
    source: str = "10.0.0.1",
    destination: str = "10.0.0.2",
    fragment: int = 0,
) -> bytes:
    """A packet of either version, without checksums."""
    ends = ip_address(source).packed + ip_address(destination).packed
    if ":" in source:
        head = struct.pack("!IHBB", 6 << 28 | traffic_class << 20, len(content), protocol, 1)
    else:
        total = 20 + len(content)
        head = struct.pack("!BBHHHBBH", 0x45, traffic_class, total, 0, fragment, 1, protocol, 0)
    return head + ends + content


def udp(content: bytes, source: int = 5000, destination: int = 5001) -> bytes:
    return struct.pack("!HHHH", source, destination, 8 + len(content), 0) + content


def tcp(
    content: bytes, source: int, destination: int, sequence: int = 0, flags: int = 0x10
) -> bytes:
    return (
        struct.pack("!HHIIBBHHH", source, destination, sequence, 0, 0x50, flags, 0, 0, 0) + content
    )

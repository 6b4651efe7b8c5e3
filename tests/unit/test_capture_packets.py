"""From frames to packets: links, tags, both versions, and what was not kept."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from openqwave.wire.frames import Frame
from openqwave.wire.packets import Packet, Tag, packet_of
from tests.unit.made_captures import ethernet, ip, tcp, udp

V4 = ip(udp(b"hello"), traffic_class=46 << 2 | 3)
V6 = ip(udp(b"hello"), traffic_class=46 << 2 | 3, source="fe80::1", destination="fe80::2")


def seen(data: bytes, link_type: int = 1) -> Packet | None:
    return packet_of(Frame(0, link_type, data, len(data)))


@pytest.mark.parametrize(
    ("link_type", "data", "tag"),
    [
        (1, ethernet(0x0800, V4), None),
        (1, ethernet(0x86DD, V6), None),
        (1, ethernet(0x0800, V4 + bytes(30)), None),
        (1, ethernet(0x0800, V4, (0x8100, 5, 0)), Tag(5, 0)),
        (1, ethernet(0x86DD, V6, (0x88A8, 7, 9), (0x8100, 1, 4095)), Tag(7, 9)),
        (0, b"\2\0\0\0" + V4, None),
        (108, b"\0\0\0\2" + V4, None),
        (101, V6, None),
        (228, V4, None),
        (229, V6, None),
        (113, bytes(14) + b"\x08\0" + V4, None),
        (113, bytes(14) + b"\x81\0" + b"\xa0\x01\x08\0" + V4, Tag(5, 1)),
        (276, b"\x86\xdd" + bytes(18) + V6, None),
    ],
)
def test_links(link_type: int, data: bytes, tag: Tag | None) -> None:
    packet = seen(data, link_type)
    assert packet is not None
    assert (packet.dscp, packet.ecn, packet.ttl, packet.protocol) == (46, 3, 1, 17)
    assert packet.ports == (5000, 5001)
    assert (packet.payload, packet.payload_bytes) == (b"hello", 5)
    assert packet.length_bytes == (33 if packet.source.version == 4 else 53)
    assert packet.tag == tag
    ends = ("10.0.0.1", "10.0.0.2") if packet.source.version == 4 else ("fe80::1", "fe80::2")
    assert (packet.source, packet.destination) == tuple(map(ip_address, ends))


@pytest.mark.parametrize(
    ("link_type", "data"),
    [
        (1, ethernet(0x0806, bytes(28))),
        (1, ethernet(0x0806, V4)),
        (1, b""),
        (1, ethernet(0x8100, b"\0")),
        (147, V4),
        (101, b"\x50" + bytes(40)),
        (101, b"\x45" + bytes(10)),
        (101, b"\x41" + V4[1:]),
        (101, V6[:39]),
    ],
)
def test_what_is_no_packet(link_type: int, data: bytes) -> None:
    assert seen(data, link_type) is None


def test_extension_headers() -> None:
    inner = udp(b"x")
    # Hop by hop, routing, authentication, first fragment, destination.
    chain = b"\x2b\0" + bytes(6) + b"\x33\0" + bytes(6) + b"\x2c\1" + bytes(10)
    chain += b"\x3c\0" + bytes(6) + b"\x11\0" + bytes(6)
    packet = seen(ip(chain + inner, protocol=0, source="::1", destination="::2"), 101)
    assert packet is not None
    assert (packet.protocol, packet.ports, packet.payload) == (17, (5000, 5001), b"x")


def test_fragments_have_no_ports() -> None:
    first, later = seen(ip(udp(b"x"), fragment=0x2000), 101), seen(ip(udp(b"x"), fragment=5), 101)
    assert first is not None
    assert later is not None
    assert (first.is_fragment, first.ports) == (False, (5000, 5001))
    assert (later.is_fragment, later.ports) == (True, None)
    six = b"\x11\0" + struct.pack("!HI", 8, 1) + udp(b"x")
    packet = seen(ip(six, protocol=44, source="::1", destination="::2"), 101)
    assert packet is not None
    assert (packet.is_fragment, packet.ports, packet.protocol) == (True, None, 17)


def test_a_packet_that_was_cut_says_how_long_it_was() -> None:
    whole = ip(tcp(b"0123456789", 1, 2, 77, 0x18), protocol=6)
    packet = seen(whole[:44], 101)
    assert packet is not None
    assert (packet.payload, packet.payload_bytes, packet.sequence) == (b"0123", 10, 77)
    packet = seen(whole[:30], 101)
    assert packet is not None
    assert (packet.ports, packet.length_bytes) == (None, 50)

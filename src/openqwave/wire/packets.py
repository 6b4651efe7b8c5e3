"""From a frame of a link to the IP packet in it: its marks, ends and content.

Tags of 802.1Q and 802.1ad are followed however many there are, and the outermost is told, which
is the one that the next switch goes by. IPv6 extension headers are followed too. Of a packet that
was not kept whole, as much is told as there is.

Sources: RFC 791, RFC 8200, RFC 9293, RFC 768, IEEE 802.1Q, linktypes of tcpdump.org.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

from openqwave.model.value import value
from openqwave.wire.frames import (
    LINK_ETHERNET,
    LINK_IPV4,
    LINK_IPV6,
    LINK_LOOP,
    LINK_NULL,
    LINK_RAW,
    LINK_SLL,
    LINK_SLL2,
    Frame,
)

TCP, UDP = 6, 17

# Before the number of what follows: two addresses; three fields and an address.
_ETHERTYPE_AT = {LINK_ETHERNET: 12, LINK_SLL: 14}
_SLL2_BYTES = 20
# A family as the writer's system numbers it. The packet itself says the same.
_FAMILY_BYTES = {LINK_NULL: 4, LINK_LOOP: 4, LINK_RAW: 0, LINK_IPV4: 0, LINK_IPV6: 0}
_IP, _IPV6 = 0x0800, 0x86DD
_TAGS = frozenset({0x8100, 0x88A8, 0x9100})

# Version and header length, traffic class, length, fragment, TTL, protocol, addresses.
_IPV4_HEADER = struct.Struct("!BBHxxHBBxx4s4s")
# Version, traffic class and flow label; length, next header, hop limit, addresses.
_IPV6_HEADER = struct.Struct("!IHBB16s16s")
_TCP_HEADER = struct.Struct("!HHIIBB")
_TCP_BYTES, _UDP_BYTES = 20, 8
_IPV4_OFFSET_MASK = 0x1FFF

# Extension headers whose second byte is their length in units of 8 bytes, the first not counted.
_OPTIONS = frozenset({0, 43, 60})
_FRAGMENT, _AUTHENTICATION = 44, 51
# More than any order of them makes sense for.
_MAX_EXTENSIONS = 8

Address: TypeAlias = IPv4Address | IPv6Address


@value
class Tag:
    """A tag of 802.1Q: the priority, 0 to 7, and the VLAN, 0 for none."""

    pcp: int
    vlan: int


@value
class Packet:
    """One IP packet, or its fragment.

    Attributes:
        source: Where it is from.
        destination: Where it is to go.
        protocol: What it carries: 6 is TCP, 17 UDP.
        dscp: Its code point, 0 to 63.
        ecn: Its two bits for explicit congestion notification.
        ttl: How many routers it may still pass.
        length_bytes: Of the IP packet.
        tag: The outermost one of its frame.
        is_fragment: Whether it is a later fragment, which has no ports.
        ports: Source's and destination's; None where there are none, or were not kept.
        payload: What the transport carries, as much as was kept.
        payload_bytes: How long that was on the wire.
        sequence: TCP's number of the first byte.
        flags: TCP's.
    """

    source: Address
    destination: Address
    protocol: int
    dscp: int
    ecn: int
    ttl: int
    length_bytes: int
    tag: Tag | None = None
    is_fragment: bool = False
    ports: tuple[int, int] | None = None
    payload: bytes = b""
    payload_bytes: int = 0
    sequence: int = 0
    flags: int = 0


def packet_of(frame: Frame) -> Packet | None:
    """The IP packet in a frame; None if there is none, or not enough of it to say."""
    data, link_type = frame.data, frame.link_type
    tag = None
    try:
        if link_type in _FAMILY_BYTES:
            start = _FAMILY_BYTES[link_type]
        elif link_type == LINK_SLL2:
            (kind,) = struct.unpack_from("!H", data)
            start, tag = _untagged(data, kind, _SLL2_BYTES)
        elif link_type in _ETHERTYPE_AT:
            start = _ETHERTYPE_AT[link_type]
            (kind,) = struct.unpack_from("!H", data, start)
            start, tag = _untagged(data, kind, start + 2)
        else:
            return None
        if not 0 <= start < len(data):
            return None
        if data[start] >> 4 == 4:
            return _ipv4(data, start, tag)
        return _ipv6(data, start, tag) if data[start] >> 4 == 6 else None
    except struct.error:
        return None


def _untagged(data: bytes, kind: int, start: int) -> tuple[int, Tag | None]:
    """Where the packet begins behind its tags, -1 if it is none of IP; and the first tag."""
    tag = None
    while kind in _TAGS:
        bits, kind = struct.unpack_from("!HH", data, start)
        tag = tag or Tag(bits >> 13, bits & 0xFFF)
        start += 4
    return start if kind in (_IP, _IPV6) else -1, tag


def _ipv4(data: bytes, start: int, tag: Tag | None) -> Packet | None:
    first, traffic_class, length, fragment, ttl, protocol, *ends = _IPV4_HEADER.unpack_from(
        data, start
    )
    header = (first & 15) * 4
    # An offloading sender leaves the length to the hardware.
    length = length or len(data) - start
    if header < _IPV4_HEADER.size or length < header:
        return None
    packet = Packet(
        IPv4Address(ends[0]),
        IPv4Address(ends[1]),
        protocol,
        traffic_class >> 2,
        traffic_class & 3,
        ttl,
        length,
        tag,
        bool(fragment & _IPV4_OFFSET_MASK),
    )
    return _with_transport(packet, data[start + header : start + length], length - header)


def _ipv6(data: bytes, start: int, tag: Tag | None) -> Packet:
    first, length, protocol, ttl, *ends = _IPV6_HEADER.unpack_from(data, start)
    at = start + _IPV6_HEADER.size
    length = length or len(data) - at
    end = at + length
    is_fragment = False
    try:
        for _ in range(_MAX_EXTENSIONS):
            if protocol in _OPTIONS:
                protocol, size = struct.unpack_from("!BB", data, at)
                at += size * 8 + 8
            elif protocol == _AUTHENTICATION:
                protocol, size = struct.unpack_from("!BB", data, at)
                at += size * 4 + 8
            elif protocol == _FRAGMENT:
                protocol, offset = struct.unpack_from("!BxH", data, at)
                is_fragment = is_fragment or offset >> 3 != 0
                at += 8
            else:
                break
            if is_fragment:
                break
    except struct.error:
        at = end
    packet = Packet(
        IPv6Address(ends[0]),
        IPv6Address(ends[1]),
        protocol,
        first >> 22 & 63,
        first >> 20 & 3,
        ttl,
        _IPV6_HEADER.size + length,
        tag,
        is_fragment,
    )
    return _with_transport(packet, data[at:end], max(0, end - at))


def _with_transport(packet: Packet, data: bytes, length_bytes: int) -> Packet:
    """The packet with its ports and content, if it has them and they were kept."""
    if packet.is_fragment:
        return packet
    if packet.protocol == UDP and len(data) >= _UDP_BYTES:
        return replace(
            packet,
            ports=struct.unpack_from("!HH", data),
            payload=data[_UDP_BYTES:],
            payload_bytes=length_bytes - _UDP_BYTES,
        )
    if packet.protocol == TCP and len(data) >= _TCP_BYTES:
        source, destination, sequence, _, offset, flags = _TCP_HEADER.unpack_from(data)
        header = (offset >> 4) * 4
        is_whole = _TCP_BYTES <= header <= length_bytes
        return replace(
            packet,
            ports=(source, destination),
            payload=data[header:] if is_whole else b"",
            payload_bytes=length_bytes - header if is_whole else 0,
            sequence=sequence,
            flags=flags,
        )
    return packet

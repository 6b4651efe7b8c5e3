"""Marks of frames, rewritten as a router does; checksums against the sum of the whole header."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest

from openqwave.lab.links import PathSpec, Stage
from openqwave.lab.remarking import Remarker, ip_bytes

ADDRESSES = bytes(range(12))


def remarker(**stage: object) -> Remarker:
    return Remarker(PathSpec((Stage(**stage),)))  # type: ignore[arg-type]  # one field at a time


def checksum(header: bytes | bytearray) -> int:
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(traffic_class: int, source: random.Random, tag: bytes = b"") -> bytes:
    header = bytearray(struct.pack("!BBHHHBBH", 0x45, traffic_class, 28, 7, 0x4000, 64, 17, 0))
    header += source.randbytes(8)
    header[10:12] = checksum(header).to_bytes(2)
    return ADDRESSES + tag + b"\x08\x00" + header + b"payload!"


def ipv6(traffic_class: int, source: random.Random, tag: bytes = b"") -> bytes:
    word = 6 << 28 | traffic_class << 20 | source.getrandbits(20)
    rest = struct.pack("!HBB", 8, 17, 64) + source.randbytes(32)
    return ADDRESSES + tag + b"\x86\xdd" + word.to_bytes(4) + rest + b"payload!"


TAG = bytes.fromhex("8100a000")  # Priority 5, VLAN 0.


@pytest.mark.parametrize("make", [ipv4, ipv6])
@pytest.mark.parametrize("tag", [b"", TAG])
def test_every_code_point_becomes_the_one_and_nothing_else_changes(
    make: Callable[..., bytes], tag: bytes
) -> None:
    source = random.Random(1)
    for wanted in (0, 8, 46, 63):
        apply = remarker(rewrite_dscp=wanted).apply
        for traffic_class in range(256):
            state = source.getstate()
            before = make(traffic_class, source, tag)
            source.setstate(state)
            # The same frame, made with the other class in the first place.
            assert apply(before) == make(wanted << 2 | traffic_class & 3, source, tag)


def test_the_checksum_is_right_for_many_headers() -> None:
    source = random.Random(2)
    apply = remarker(rewrite_dscp=33).apply
    for _ in range(5000):
        after = apply(ipv4(source.randrange(256), source))
        assert after is not None
        assert checksum(after[14:34]) == 0


@pytest.mark.parametrize("make", [ipv4, ipv6])
def test_tags_are_stripped_or_their_frames_dropped(make: Callable[..., bytes]) -> None:
    plain, tagged = (make(46 << 2, random.Random(3), tag) for tag in (b"", TAG))
    assert remarker(strip_tags=True).apply(tagged) == plain
    assert remarker(strip_tags=True).apply(plain) == plain
    assert remarker(drop_tagged=True).apply(tagged) is None
    assert remarker(drop_tagged=True).apply(plain) == plain
    assert remarker(rewrite_dscp=46).apply(tagged) == tagged


def test_what_is_not_ip_keeps_its_bytes() -> None:
    arp = ADDRESSES + b"\x08\x06" + bytes(28)
    short = ADDRESSES + b"\x08\x00" + b"\x45\x00"
    for frame in (arp, short):
        assert remarker(rewrite_dscp=46).apply(frame) == frame
    tagged = ADDRESSES + TAG + b"\x08\x06" + bytes(28)
    assert remarker(strip_tags=True).apply(tagged) == arp
    assert remarker(drop_tagged=True).apply(tagged) is None


def test_a_path_that_leaves_marks_alone_says_so() -> None:
    assert remarker().is_idle
    assert not remarker(rewrite_dscp=0).is_idle
    assert not remarker(drop_tagged=True).is_idle
    assert not remarker(strip_tags=True).is_idle


def test_the_size_is_that_of_the_ip_packet() -> None:
    source = random.Random(4)
    assert ip_bytes(ipv4(0, source)) == ip_bytes(ipv4(0, source, TAG)) == 28
    assert ip_bytes(ipv6(0, source)) == ip_bytes(ipv6(0, source, TAG)) == 48

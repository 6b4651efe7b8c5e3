"""Capture files, read in pieces and written: every variant, and what is wrong with hostile ones."""

from __future__ import annotations

import struct

import pytest

from openqwave.wire.frames import MAX_FRAME_BYTES, Direction, Frame, FrameReader, MalformedFile
from openqwave.wire.pcap import PcapReader
from openqwave.wire.pcapng import MAX_BLOCK_BYTES, MAX_INTERFACES, PcapngReader, PcapngWriter
from tests.unit.made_captures import (
    PCAP,
    block,
    enhanced,
    interface,
    option,
    pcap_file,
    section,
)

T_NS = 1_700_000_000_123_456_000
ORDERS = pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])


def frames_of(reader: FrameReader, data: bytes, piece: int = 7) -> list[Frame]:
    found: list[Frame] = []
    for at in range(0, len(data), piece):
        found += reader.feed(data[at : at + piece])
    reader.end()
    return found


@pytest.mark.parametrize("variant", PCAP)
def test_classic_files(variant: str) -> None:
    data = pcap_file(variant, [(T_NS, b"abc", 3), (T_NS + 2_000, b"defgh", 1500)], 113)
    assert frames_of(PcapReader(), data) == [
        Frame(T_NS, 113, b"abc", 3),
        Frame(T_NS + 2_000, 113, b"defgh", 1500),
    ]


def test_nanoseconds_of_classic_files() -> None:
    (frame,) = frames_of(PcapReader(), pcap_file("nano, big", [(T_NS + 789, b"", 0)]))
    assert frame.time_ns == T_NS + 789


@ORDERS
@pytest.mark.parametrize(
    ("options", "stamp", "expected"),
    [
        ([], T_NS // 1_000, T_NS),
        ([(9, b"\x09")], T_NS + 1, T_NS + 1),
        ([(9, b"\x00")], 1_700_000_000, 1_700_000_000 * 10**9),
        ([(9, b"\x8a")], 1024 + 512, 1_500_000_000),
        ([(9, b"\x09"), (14, 5)], 7, 5_000_000_007),
        ([(9, b"\x09"), (14, -1)], 7, None),
        ([(9, b"\x00")], 1 << 60, None),
        ([(9, b"\x7f")], 1 << 60, 0),
    ],
)
def test_units_of_time(
    order: str, options: list[tuple[int, bytes | int]], stamp: int, expected: int | None
) -> None:
    made = b"".join(
        option(order, code, what if isinstance(what, bytes) else struct.pack(f"{order}q", what))
        for code, what in options
    )
    data = section(order) + interface(order, 1, made) + enhanced(order, stamp, b"x")
    assert [frame.time_ns for frame in frames_of(PcapngReader(), data)] == [expected]


@ORDERS
def test_all_blocks_with_packets(order: str) -> None:
    other = ">" if order == "<" else "<"
    old = struct.pack(f"{order}HHIIII", 1, 0, 0, 5, 2, 9) + b"ab"
    simple = struct.pack(f"{order}I", 100) + b"wxyz"
    data = (
        section(order)
        + interface(order, 1, snap=3)
        + interface(order, 101, option(order, 2, b"eth7"))
        + block(order, 0x0BAD, b"passed over")
        + enhanced(order, 1, b"new", number=1)
        + block(order, 2, old)
        + block(order, 3, simple)
        # A new section, with interfaces of its own.
        + section(other)
        + interface(other, 276)
        + enhanced(other, 2, b"last")
    )
    assert frames_of(PcapngReader(), data) == [
        Frame(1_000, 101, b"new", 3, "eth7"),
        Frame(5_000, 101, b"ab", 9, "eth7"),
        Frame(None, 1, b"wxy", 100),
        Frame(2_000, 276, b"last", 4),
    ]


def test_what_is_written_is_read() -> None:
    frames = [
        Frame(T_NS + number, 1 + 100 * (number % 2), bytes(range(number)), 60, name, way)
        for number, (name, way) in enumerate(
            [("eth0", Direction.INCOMING), ("", None), ("lo", Direction.OUTGOING), ("eth0", None)]
        )
    ]
    writer = PcapngWriter("made by a test")
    data = writer.begin() + b"".join(writer.write(frame, "a comment") for frame in frames)
    assert frames_of(PcapngReader(), data) == frames
    # Each interface once: eth0 of both link types, lo, and one without a name.
    assert data.count(struct.pack("<HHB", 9, 1, 9)) == 4
    assert data.count(option("<", 1, b"a comment")) == 4


def test_long_comments_are_cut_between_characters() -> None:
    writer = PcapngWriter("")
    data = writer.begin() + writer.write(Frame(0, 1, b"", 0), "x" + "é" * 5_000)
    assert frames_of(PcapngReader(), data)
    assert ("x" + "é" * 2_047).encode() + b"\0" in data


NG = section("<") + interface("<")
HUGE = struct.pack("<I", 0x7FFFFFFC)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (bytes(24), "no capture file"),
        (struct.pack("<IHHiIII", 0xA1B2C3D4, 3, 0, 0, 0, 0, 1), "version 3"),
        (pcap_file("nano, big", []) + struct.pack(">IIII", 0, 0, 1 << 31, 0), "2,147,483,648"),
        (pcap_file("nano, big", [(0, b"abc", 3)])[:-1], "cut off at byte 42"),
        (pcap_file("nano, big", [])[:5], "cut off at byte 5"),
        (b"", "cut off at byte 0"),
    ],
)
def test_broken_classic_files(data: bytes, why: str) -> None:
    reader = PcapReader()
    with pytest.raises(MalformedFile, match=why):
        frames_of(reader, data)
    assert reader.pending_bytes < 64


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (bytes(12), "no capture file"),
        (b"\x0a\x0d\x0d\x0a" + bytes(8), "byte order"),
        (block("<", 0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 2, 0, -1)), "version 2"),
        (block("<", 0x0A0D0D0A, struct.pack("<I", 0x1A2B3C4D)), "too short for its kind"),
        (NG + struct.pack("<I", 6) + HUGE + bytes(4), "2,147,483,644"),
        (NG + struct.pack("<III", 6, 0, 0), "cannot have 0 bytes"),
        (NG + struct.pack("<III", 6, 13, 0), "cannot have 13 bytes"),
        (NG + struct.pack("<IIII", 99, 16, 0, 20), "lengths of a block differ"),
        (NG + block("<", 6, b""), "too short for its kind"),
        (NG + block("<", 2, b""), "too short for its kind"),
        (NG + block("<", 3, b""), "too short for its kind"),
        (NG + block("<", 1, b""), "too short for its kind"),
        (NG + enhanced("<", 0, b"x", number=1), "interface 1, which"),
        (section("<") + enhanced("<", 0, b"x"), "interface 0, which"),
        (NG + enhanced("<", 0, b"x", kept=5), "longer than its block"),
        (NG + enhanced("<", 0, b"x", kept=MAX_FRAME_BYTES + 1), "none is so long"),
        (NG + interface("<", 1, struct.pack("<HH", 2, 9)), "an option is longer"),
        (section("<") + interface("<") * (MAX_INTERFACES + 1), "more than 4,096 interfaces"),
        (NG + enhanced("<", 0, b"abc")[:-1], "cut off"),
        (NG[:-1], "cut off"),
    ],
)
def test_broken_files_of_today(data: bytes, why: str) -> None:
    reader = PcapngReader()
    with pytest.raises(MalformedFile, match=why):
        frames_of(reader, data, 4_096)
    assert reader.pending_bytes <= 4_096


def test_no_more_is_kept_than_one_block() -> None:
    reader = PcapngReader()
    list(reader.feed(NG + struct.pack("<II", 99, MAX_BLOCK_BYTES)))
    for _ in range(MAX_BLOCK_BYTES // 65_536 - 1):
        list(reader.feed(bytes(65_536)))
        assert reader.pending_bytes < MAX_BLOCK_BYTES
    with pytest.raises(MalformedFile, match="differ"):
        list(reader.feed(bytes(65_536)))


def test_what_was_good_comes_before_the_fault() -> None:
    reader, found = PcapngReader(), []
    with pytest.raises(MalformedFile):  # noqa: PT012 - where it comes is what is asked
        for frame in reader.feed(NG + enhanced("<", 0, b"good") + bytes(12)):
            found.append(frame)  # noqa: PERF402 - the list is looked at after the exception
    assert [frame.data for frame in found] == [b"good"]

"""Garbage for the readers of capture files: frames or `MalformedFile`, in bounded memory.

The target is a function of bytes that raises when something is wrong. It reads a file whole and
byte for byte, which has to be the same, and looks for a packet and its messages in each frame.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwave.cli.capture.conversations import Conversations
from openqwave.cli.capture.words import comment_of, line_of, packet_fields
from openqwave.wire import qlpb
from openqwave.wire.frames import MAX_FRAME_BYTES, Frame, FrameReader, MalformedFile
from openqwave.wire.packets import packet_of
from openqwave.wire.pcap import PcapReader
from openqwave.wire.pcapng import MAX_BLOCK_BYTES, PcapngReader, PcapngWriter
from tests.unit.made_captures import (
    PCAP,
    enhanced,
    ethernet,
    interface,
    ip,
    option,
    pcap_file,
    section,
    tcp,
    udp,
)

SUMMARY = qlpb.encode_stream(qlpb.PacketPairSummary(1, 10**9, (100, 200)))
PROBE = qlpb.encode_datagram(qlpb.ProbegapProbe(7, 1 << 60))
FRAMES = [
    ethernet(0x0800, ip(udp(PROBE, 2177, 2177)), (0x8100, 5, 1)),
    ethernet(0x0800, ip(tcp(SUMMARY, 2177, 49_200), protocol=6)),
    ethernet(
        0x86DD, ip(b"\x11\0" + bytes(6) + udp(b""), protocol=0, source="::1", destination="::2")
    ),
]
CORPUS = [
    *(pcap_file(variant, [(1, frame, 99) for frame in FRAMES]) for variant in PCAP),
    *(
        section(order)
        + interface(order, 1, option(order, 2, b"eth0") + option(order, 9, b"\x09"))
        + b"".join(enhanced(order, 1 << 60, frame) for frame in FRAMES)
        for order in "<>"
    ),
]


def _read(reader: FrameReader, pieces: list[bytes]) -> tuple[list[Frame], str]:
    found: list[Frame] = []
    try:
        for piece in pieces:
            for frame in reader.feed(piece):
                assert len(frame.data) <= min(MAX_FRAME_BYTES, frame.length_bytes)
                found.append(frame)
            assert reader.pending_bytes < MAX_BLOCK_BYTES
        reader.end()
    except MalformedFile as error:
        return found, error.detail
    return found, ""


def fuzz_file(data: bytes) -> None:
    """A file is the same in one piece and byte for byte, and its frames can be told and kept."""
    frames: list[Frame] = []
    for kind in (PcapReader, PcapngReader):
        whole = _read(kind(), [data])
        assert whole == _read(kind(), [data[at : at + 1] for at in range(len(data))])
        frames += whole[0]
    conversations, writer = Conversations(), PcapngWriter("")
    written = writer.begin()
    for frame in frames:
        packet = packet_of(frame)
        comment = ""
        if packet is not None:
            events = conversations.events_of(packet)
            line = line_of(frame, packet, events, 80)
            assert len(line) <= 80
            assert line.isprintable()
            packet_fields(frame, packet, events)
            comment = comment_of(packet, events)
        written += writer.write(frame, comment)
    again, fault = _read(PcapngReader(), [written])
    assert fault == ""
    assert [frame.data for frame in again] == [frame.data for frame in frames]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good file with some bytes changed, and some left out."""
    data = bytearray(draw(st.sampled_from(CORPUS)))
    for _ in range(draw(st.integers(0, 6))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        start = draw(st.integers(0, len(data) - 1))
        del data[start : start + draw(st.integers(1, 12))]
    return bytes(data)


@pytest.mark.parametrize("data", CORPUS, ids=range(len(CORPUS)))
def test_corpus(data: bytes) -> None:
    frames = [*_read(PcapReader(), [data])[0], *_read(PcapngReader(), [data])[0]]
    assert [frame.data for frame in frames] == FRAMES
    fuzz_file(data)
    for end in range(len(data)):
        fuzz_file(data[:end])


@given(data=mutated() | st.binary(max_size=200))
@settings(derandomize=True, deadline=None, database=None, max_examples=1500)
def test_garbage(data: bytes) -> None:
    fuzz_file(data)


@given(content=st.binary(max_size=120), link_type=st.sampled_from([0, 1, 101, 108, 113, 228, 276]))
@settings(derandomize=True, deadline=None, database=None, max_examples=1500)
def test_garbage_in_frames(content: bytes, link_type: int) -> None:
    for data in (
        content,
        FRAMES[0][:12] + content,
        FRAMES[0][:18] + content,
        FRAMES[2][:14] + content,
    ):
        packet = packet_of(Frame(0, link_type, data, len(data)))
        if packet is not None:
            Conversations().events_of(packet)

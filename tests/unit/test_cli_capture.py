"""`qwave capture` on files: lines, objects, messages put together, what is kept, and refusals."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from openqwave.cli.capture.conversations import (
    MOST,
    Conversations,
    Discarded,
    Event,
    Undecoded,
)
from openqwave.cli.capture.words import comment_of, fields_of, line_of, marks_of, sentence_of
from openqwave.drivers import packets
from openqwave.model.errors import AccessDenied, InvalidParameter
from openqwave.wire import qlpb
from openqwave.wire.frames import Frame
from openqwave.wire.packets import Packet, Tag, packet_of
from openqwave.wire.pcapng import PcapngReader
from tests.unit.commands import qwave
from tests.unit.made_captures import ethernet, ip, pcap_file, tcp, udp

SINK, INITIATOR = 2177, 49_200
T_NS = 1_700_000_000_123_456_789
SUMMARY = qlpb.PacketPairSummary(1, 10**9, (100_000, 200_000))
SUMMARY_BYTES = qlpb.encode_stream(SUMMARY)
WELCOME = qlpb.encode_stream(qlpb.HandshakeSuccess())


def packet(content: bytes, **fields: Any) -> Packet:  # noqa: ANN401 - those of `ip`
    found = packet_of(Frame(0, 101, ip(content, **fields), 0))
    assert found is not None
    return found


def segment(content: bytes, sequence: int, flags: int = 0x18, *, back: bool = True) -> Packet:
    ports = (SINK, INITIATOR) if back else (INITIATOR, SINK)
    return packet(tcp(content, *ports, sequence % (1 << 32), flags), protocol=6)


# ---- messages of connections


def test_a_message_that_is_cut_is_told_where_it_ends() -> None:
    talk = Conversations()
    start = (1 << 32) - 3  # Numbers go round within the message.
    assert talk.events_of(segment(b"", start, 0x12)) == []
    for at, byte in enumerate(SUMMARY_BYTES[:-1]):
        assert talk.events_of(segment(bytes((byte,)), start + 1 + at)) == []
    end = start + len(SUMMARY_BYTES)
    assert talk.events_of(segment(SUMMARY_BYTES[-1:], end)) == [SUMMARY]
    assert talk.events_of(segment(WELCOME + WELCOME, end + 1)) == [qlpb.HandshakeSuccess()] * 2


def test_repeated_bytes_count_once() -> None:
    talk = Conversations()
    assert talk.events_of(segment(WELCOME, 100)) == [qlpb.HandshakeSuccess()]
    assert talk.events_of(segment(WELCOME, 100)) == []
    assert talk.events_of(segment(WELCOME + SUMMARY_BYTES, 100)) == [SUMMARY]


def test_behind_a_gap_a_segment_begins_a_message() -> None:
    talk = Conversations()
    talk.events_of(segment(b"", 0, 0x12))
    assert talk.events_of(segment(SUMMARY_BYTES[:20], 1)) == []
    assert talk.events_of(segment(WELCOME, 500)) == [qlpb.HandshakeSuccess()]
    (lost,) = talk.events_of(segment(b"\xee" * 9, 900))
    assert isinstance(lost, Undecoded)
    assert "not in the capture" in lost.why
    # Said once, until there is a new beginning.
    assert talk.events_of(segment(b"\xee" * 9, 909)) == []
    talk.events_of(segment(b"", 5_000, 0x12))
    assert talk.events_of(segment(WELCOME, 5_001)) == [qlpb.HandshakeSuccess()]


def test_what_breaks_the_protocol_is_said() -> None:
    talk = Conversations()
    talk.events_of(segment(b"", 0, 0x02, back=False))
    (broken,) = talk.events_of(segment(b"\x96\1\0\0", 1, back=False))
    assert broken == Undecoded("a handshake of MS-QDP, which shares the port")
    assert talk.events_of(packet(udp(b"\1\2", 5, SINK))) == [
        Undecoded("shorter than its kind of message")
    ]


def test_what_is_discarded_is_counted() -> None:
    talk = Conversations()
    talk.events_of(segment(b"", 0, 0x02, back=False))
    discard = qlpb.encode_stream(qlpb.Discard())
    assert talk.events_of(segment(discard + b"xx", 1, back=False)) == [qlpb.Discard()]
    assert talk.events_of(segment(b"x" * 9, 7, back=False)) == [Discarded(9)]


def test_a_segment_that_was_not_kept_whole_is_a_gap() -> None:
    talk = Conversations()
    whole = ip(tcp(SUMMARY_BYTES, SINK, INITIATOR, 1), protocol=6)
    cut = packet_of(Frame(0, 101, whole[:-8], len(whole)))
    assert cut is not None
    assert talk.events_of(cut) == []
    assert talk.events_of(segment(WELCOME, 1 + len(SUMMARY_BYTES))) == [qlpb.HandshakeSuccess()]


def test_other_ports_say_nothing() -> None:
    talk = Conversations()
    assert talk.events_of(packet(udp(b"\1\2", 5, 6))) == []
    assert talk.events_of(packet(b"\1\2", protocol=1)) == []


def test_directions_that_are_kept_are_bounded() -> None:
    talk = Conversations()
    for number in range(MOST + 100):
        source = str(ip_address((10 << 24) + number))
        talk.events_of(packet(tcp(SUMMARY_BYTES[:9], SINK, 5, 1), protocol=6, source=source))
    assert len(talk._streams) == MOST  # noqa: SLF001 - nothing else shows it
    # The end of a connection is the end of what is kept of it.
    talk.events_of(packet(tcp(b"", SINK, 5, 10, 0x11), protocol=6, source=source))
    assert len(talk._streams) == MOST - 1  # noqa: SLF001


# ---- words

MESSAGES: list[tuple[Event, str, str | None]] = [
    (qlpb.PacketPairProbe(1, 16, 3, True), "train probe #3 first of 16", "packet pair probe"),
    (qlpb.PacketPairProbe(1, 16, 4), "train probe #4 (16)", "packet pair probe"),
    (qlpb.PacketPairProbe(1, 0, 4), "load probe #4", "packet pair probe"),
    (qlpb.RouteCheckProbe(1, 0, 1, True), "route probe #1 oversized", "route check probe"),
    (qlpb.RouteCheckProbe(1, 5, 5), "route probe #5 last of 5", "route check probe"),
    (qlpb.ProbegapProbe(7, 8), "small probe #7", "probegap probe"),
    (qlpb.ProbegapProbe(7, 8, 9, 10, b"", True), "small probe #7 answer", "probegap answer"),
    (qlpb.PacketPairHandshake(), "hello: trains", "packet pair handshake"),
    (qlpb.RouteCheckHandshake(), "hello: route check", "route check handshake"),
    (qlpb.HandshakeSuccess(), "hello: welcome", "handshake success"),
    (
        qlpb.RouteCheckSummary(qlpb.Observation.INVERSION),
        "route summary: priority overtook",
        "route check summary",
    ),
    (SUMMARY, "train summary #1 (3) 300.0 us", "packet pair summary"),
    (qlpb.Discard(), "discard what follows", "discard"),
    (Discarded(9), "9 to discard", "discarded"),
    (Undecoded("because"), "undecoded: because", None),
]


@pytest.mark.parametrize(("event", "sentence", "name"), MESSAGES)
def test_messages(event: Event, sentence: str, name: str | None) -> None:
    assert sentence_of(event) == sentence
    assert fields_of(event)["message"] == name


@pytest.mark.parametrize(
    ("traffic_class", "tag", "marks"),
    [
        (0, None, "-"),
        (46 << 2, None, "EF"),
        (34 << 2 | 3, Tag(5, 0), "AF41,CE,p5"),
        (40 << 2 | 1, None, "CS5,ECT1"),
        (2, Tag(0, 7), "-,ECT0,p0"),
        (63 << 2, None, "63"),
    ],
)
def test_marks(traffic_class: int, tag: Tag | None, marks: str) -> None:
    made = packet(udp(b""), traffic_class=traffic_class)
    made = type(made)(made.source, made.destination, 17, made.dscp, made.ecn, 1, 28, tag)
    assert marks_of(made) == marks


@pytest.mark.parametrize("width", [80, 100, 132])
def test_lines_fit(width: int) -> None:
    ends = {"source": "2001:db8:1111:2222::1", "destination": "fe80::aaaa:bbbb:cccc:dddd"}
    made = packet(udp(qlpb.encode_datagram(qlpb.ProbegapProbe(7, 8)), 2177, 2177), **ends)
    events = Conversations().events_of(made)
    frame = Frame(T_NS, 101, b"", 0)
    line = line_of(frame, made, events, width)
    assert len(line) <= width
    assert re.match(r"\d\d:\d\d:20\.123456 -      small probe #7 +\[20.*:2177 > .*:2177$", line)
    whole = line_of(frame, made, events, None)
    assert whole.endswith("[2001:db8:1111:2222::1]:2177 > [fe80::aaaa:bbbb:cccc:dddd]:2177")


def test_ordinary_addresses_are_whole_in_80_columns() -> None:
    made = packet(udp(b"", 49_200), source="192.168.1.10", destination="10.1.2.3")
    line = line_of(Frame(None, 101, b"", 0), made, [], 80)
    assert line.startswith("--:--:--.------ -      UDP 28 ")
    assert line.endswith("192.168.1.10:49200 > 10.1.2.3:5001")


def test_comments() -> None:
    probe = qlpb.encode_datagram(qlpb.RouteCheckProbe(1, 5, 5))
    frame = ethernet(0x0800, ip(udp(probe, 5, SINK), traffic_class=40 << 2), (0x8100, 5, 0))
    made = packet_of(Frame(0, 1, frame, 0))
    assert made is not None
    events = Conversations().events_of(made)
    said = "MS-QLPB: route probe #5 last of 5, DSCP 40 CS5, 802.1p 5"
    assert comment_of(made, events) == said
    assert comment_of(packet(udp(b"")), []) == ""


# ---- the command


def look(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run `qwave capture`, with something at its input."""
    if given:
        words = [sys.executable, "-m", "openqwave.cli", "capture", *arguments]
        environment = {**os.environ, "TZ": "UTC"}
        piped = subprocess.run(
            words, input=given, capture_output=True, timeout=60, check=False, env=environment
        )
        texts = piped.stdout.decode(), piped.stderr.decode()
        done = subprocess.CompletedProcess(words, piped.returncode, *texts)
    else:
        done = qwave("capture", *arguments, TZ="UTC")
    assert "Traceback" not in done.stderr, done.stderr
    return done


FRAMES = [
    ethernet(0x0800, ip(udp(b"12345678"), traffic_class=46 << 2)),
    ethernet(0x0800, ip(udp(b"1"), source="192.0.2.1"), (0x8100, 5, 0)),
    ethernet(0x0800, ip(udp(b"1", 9, 80))),
    ethernet(0x0806, bytes(28)),
    ethernet(0x0800, ip(udp(qlpb.encode_datagram(qlpb.ProbegapProbe(7, 8)), SINK, SINK))),
]
FILE = pcap_file("nano, little", [(T_NS + at, data, len(data)) for at, data in enumerate(FRAMES)])


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "made.pcap"
    path.write_bytes(FILE)
    return str(path)


def test_a_file_is_shown_and_counted(file: str) -> None:
    done = look("-r", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "22:13:20.123456 EF     UDP 36                 10.0.0.1:5000 > 10.0.0.2:5001",
        "22:13:20.123456 -,p5   UDP 29                 192.0.2.1:5000 > 10.0.0.2:5001",
        "22:13:20.123456 -      UDP 29                 10.0.0.1:9 > 10.0.0.2:80",
        "22:13:20.123456 -      small probe #7         10.0.0.1:2177 > 10.0.0.2:2177",
        "4 packets; 1 frame without IP",
        "DSCP        packets           bytes",
        "0                 3             118",
        "46 EF             1              36",
        "MS-QLPB:",
        "         1 probegap probe",
    ]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ((), [0, 1, 2, 4]),
        (("--host", "192.0.2.1"), [1]),
        (("--host", "192.0.0.0/16"), [1]),
        (("--host", "2001:db8::/32"), []),
        (("--port", "80"), [2]),
        (("--marked",), [0, 1]),
        (("--qlpb",), [4]),
        (("--marked", "--host", "10.0.0.1"), [0]),
        (("--count", "2"), [0, 1]),
    ],
)
def test_filters(file: str, options: tuple[str, ...], shown: list[int], tmp_path: Path) -> None:
    kept = tmp_path / "kept.pcapng"
    done = look("-r", file, "--json", "-w", str(kept), *options)
    assert (done.returncode, done.stderr) == (0, "")
    *told, final = map(json.loads, done.stdout.splitlines())
    assert [each["time_ns"] - T_NS for each in told] == shown
    assert final["packets"] == len(shown)
    reader = PcapngReader()
    frames = list(reader.feed(kept.read_bytes()))
    assert [frame.data for frame in frames] == [FRAMES[at] for at in shown]
    assert [(frame.time_ns or 0) - T_NS for frame in frames] == shown


def test_an_object_has_all_that_is_known(file: str) -> None:
    told = json.loads(look("-r", file, "--json", "--qlpb").stdout.splitlines()[0])
    assert told == {
        "event": "packet",
        "time_ns": T_NS + 4,
        "interface": None,
        "direction": None,
        "source": "10.0.0.1",
        "source_port": 2177,
        "destination": "10.0.0.2",
        "destination_port": 2177,
        "protocol": 17,
        "length_bytes": 60,
        "ttl": 1,
        "dscp": 0,
        "ecn": 0,
        "tag": None,
        "is_fragment": False,
        "qlpb": [
            {
                "message": "probegap probe",
                "sequence": 7,
                "initiator_sent_ticks": 8,
                "sink_received_ticks": 0,
                "sink_sent_ticks": 0,
            }
        ],
    }


def test_standard_input_is_read() -> None:
    assert look("-r", "-", given=FILE).stdout.count("UDP") == 3


@pytest.mark.parametrize(
    ("content", "why", "shown"),
    [
        (b"", "it is empty", 0),
        (b"\x0a", "neither a pcap nor a pcapng file", 0),
        (b"PK\3\4" * 9, "neither a pcap nor a pcapng file", 0),
        (FILE[:-1], "the file is cut off at byte", 3),
        (FILE + b"\xff" * 16, "a packet of 4,294,967,295 bytes; none is so long", 4),
    ],
)
def test_a_broken_file_is_told_in_a_line(
    tmp_path: Path, content: bytes, why: str, shown: int
) -> None:
    path = tmp_path / "broken"
    path.write_bytes(content)
    done = look("-r", str(path), "--json")
    assert done.returncode == 2
    assert done.stderr.startswith(f"{path}: ")
    assert why in done.stderr
    assert done.stderr.count("\n") == 1
    # What came before the fault is shown.
    assert json.loads(done.stdout.splitlines()[-1])["packets"] == shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-r", "/nonexistent/file"], "cannot be read: No such file"),
        (["-r", "/"], "cannot be read: Is a directory"),
        (["-r", "FILE", "-w", "/nonexistent/file"], "cannot be written: No such file"),
        (["-r", "FILE", "-w", "FILE"], "it is the file that is read"),
        (["-r", "FILE", "-w", "/dev/full"], "cannot be written: No space left"),
        (["-r", "FILE", "-i", "lo"], "exclude"),
        (["-r", "FILE", "--for", "1"], "not with -r"),
        (["-r", "FILE", "--host", "nobody"], "nobody"),
        (["-r", "FILE", "--port", "0"], "--port"),
        (["--for", "nan"], "--for"),
    ],
)
def test_what_cannot_be_done_is_told(file: str, arguments: list[str], words: str) -> None:
    done = look(*[file if each == "FILE" else each for each in arguments])
    assert done.returncode == 2
    assert words in done.stderr
    assert Path(file).read_bytes() == FILE


def test_without_the_right_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("openqwave.drivers.packets.socket.socket", refused)
    with pytest.raises(AccessDenied, match="CAP_NET_RAW"):
        packets.PacketSocket()


@pytest.mark.parametrize("name", ["nonexistent0", "a-name-that-is-much-too-long"])
def test_an_interface_that_is_not_there_is_named(name: str) -> None:
    try:
        with pytest.raises(InvalidParameter, match=name):
            packets.PacketSocket(name)
    except AccessDenied as error:
        pytest.skip(str(error))

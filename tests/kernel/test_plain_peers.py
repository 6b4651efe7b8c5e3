"""The independent initiator and sink, against each other: they have to be right to judge by."""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.raw_packets import seen_by, watch

if TYPE_CHECKING:
    from openqwave.lab.topology import Host

pytestmark = pytest.mark.kernel

HERE = Path(__file__).parent
INITIATOR, SINK = HERE / "plain_initiator.py", HERE / "plain_sink.py"
PORT = 2177
# Far longer than anything here takes.
TIMEOUT_S = 20.0


def address_of(host: Host, version: int) -> str:
    return host.ipv4 if version == 4 else host.ipv6


class Peers:
    """A plain sink on the right, and plain initiators on the left."""

    def __init__(self, left: Host, right: Host, version: int) -> None:
        self.left, self.right = left, right
        self.address = address_of(right, version)
        self.version = version
        self.sink: subprocess.Popen[str] | None = None

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Start the sink and wait until it listens."""
        self.sink = self.right.popen(
            [sys.executable, str(SINK), self.address, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.sink.stdout is not None
        assert self.sink.stdout.readline() == "ready\n"
        return self.sink

    def run(self, *arguments: str) -> Any:  # noqa: ANN401 - JSON
        """Run an initiator to its end; what it printed."""
        process = self.left.popen(
            [sys.executable, str(INITIATOR), self.address, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        output, _ = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0
        return json.loads(output)


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def peers(pair: tuple[Host, Host], request: pytest.FixtureRequest) -> Iterator[Peers]:
    """A sink that listens, of either family."""
    made = Peers(*pair, request.param)
    yield made
    if made.sink is not None:
        made.sink.kill()
        made.sink.wait(TIMEOUT_S)


# -- what is exchanged ----------------------------------------------------------------


def test_packet_pair(peers: Peers) -> None:
    peers.start("--speed-bps", "54000000")
    done = peers.run("packet-pair", "--trains", "3", "--packets", "16", "--payload", "1448")
    assert done["handshake"] == "1e000001"
    received = bytes.fromhex(done["received"])
    assert len(received) == 3 * 136
    for train in range(3):
        summary = received[train * 136 : (train + 1) * 136]
        assert summary[:16].hex(" ") == (
            f"0a 00 00 01 00 00 00 {1 + 16 * train:02x} 03 37 f9 80 00 00 00 0f"
        )
        deltas = struct.unpack("!15Q", summary[16:])
        # Ticks of 100 ns: more than none in all, and less than a second.
        assert 0 < sum(deltas) < 10_000_000


# The page's traces, and what the sink sends in all.
TRACES = [
    (["1,2,3,4,5"], "00"),
    (["1,5,2,3,4"], "40"),
    (["1,2,3,5,4"], "40"),
    (["2,3,4,5"], "80"),
    (["5"], "80"),
    (["5,2,3,4"], "80"),
    (["5,1,2,3,4"], "80"),
    (["1,2,4,5", "1,2,3,4,5"], "00"),
    (["1,2,3,4", "1,2,3,4,5"], "00"),
    (["1,2,4,5", "2,3,4,5"], "80"),
    (["2,3,4,5", "2,3,4,5"], "80 80"),
    (["1,2,3,4,5"] * 5, "00 00 00 00 00"),
]


def test_route_check(peers: Peers) -> None:
    peers.start()
    for orders, observations in TRACES:
        wanted = "".join(f"14{flags}0001" for flags in observations.split())
        options = [option for order in orders for option in ("--order", order)]
        done = peers.run("route-check", *options, "--enough", str(len(wanted) // 2))
        assert done == {"handshake": "1e000001", "received": wanted}, orders


def test_the_other_place_for_flags(peers: Peers) -> None:
    peers.start("--lsb-first")
    orders = ["--order", "2,3,4,5", "--order", "1,5,2,3,4"]
    done = peers.run("route-check", *orders, "--flag", "0x01")
    assert done["received"] == "14020001" + "14010001"


def test_probegap(peers: Peers) -> None:
    peers.start()
    replies = [bytes.fromhex(text) for text in peers.run("probegap", "--count", "20")["replies"]]
    assert [len(data) for data in replies] == [32] * 20
    assert [data[:8].hex() for data in replies] == [
        f"06000002{sequence:08x}" for sequence in range(1, 21)
    ]
    for data in replies:
        sent, received, returned = struct.unpack("!QQQ", data[8:])
        # One machine, one clock: a second at most from one to the next.
        assert sent <= received <= returned < sent + 10_000_000


def test_a_sink_by_the_letter_ends_after_a_summary(peers: Peers) -> None:
    peers.start("--once-per-connection")
    done = peers.run("packet-pair", "--trains", "2", "--packets", "4", "--payload", "100")
    assert len(bytes.fromhex(done["received"])) == 16 + 3 * 8


def test_who_is_not_agreed_with_is_told_so(peers: Peers) -> None:
    peers.start()
    with peers.left.enter():
        family = socket.AF_INET if peers.version == 4 else socket.AF_INET6
        tcp = socket.socket(family, socket.SOCK_STREAM)
    with tcp:
        tcp.settimeout(TIMEOUT_S)
        tcp.connect((peers.address, PORT))
        tcp.sendall(b"\x01\x00\x00\x01\x02\x00\x00\x01")
        assert tcp.recv(100) == b"\x1e\x00\x00\x01"
        assert tcp.recv(100) == b""


# -- how it is sent -------------------------------------------------------------------


def test_probes_on_the_wire(peers: Peers) -> None:
    peers.start()
    with watch(peers.right) as sock:
        peers.run("route-check")
        peers.run("packet-pair", "--trains", "1", "--packets", "4")
        peers.run("probegap", "--count", "3")
        probes = seen_by(sock, address_of(peers.left, peers.version))
    groups, trains, gaps = probes[:25], probes[25:29], probes[29:]
    assert len(gaps) == 3
    assert {probe.destination_port for probe in probes} == {PORT}
    assert {probe.hops for probe in probes} == {1}
    assert all(probe.dont_fragment for probe in probes)
    assert {probe.checksum == 0 for probe in probes} == {peers.version == 4}
    small = 12 + 8 + (20 if peers.version == 4 else 40)
    assert [probe.ip_bytes for probe in groups] == [1500, 1496, 1496, small, small] * 5
    assert [probe.dscp for probe in groups] == [40, 0, 0, 0, 40] * 5
    for index, probe in enumerate(groups):
        place = index % 5 + 1
        assert probe.payload[:4].hex() == f"02{'80' if place == 1 else '00'}0001"
        assert struct.unpack("!HI", probe.payload[6:12]) == (5 if place == 5 else 0, index + 1)
    assert {probe.dscp for probe in trains + gaps} == {0}
    assert {probe.payload[:4].hex() for probe in trains[1:]} == {"01000001"}
    assert trains[0].payload[:4].hex() == "01800001"
    assert PORT not in {probe.source_port for probe in groups + trains}
    assert {probe.source_port for probe in gaps} == {PORT}


def test_replies_on_the_wire(peers: Peers) -> None:
    peers.start()
    with watch(peers.left) as sock:
        peers.run("probegap", "--count", "3")
        replies = seen_by(sock, peers.address)
    assert len(replies) == 3
    assert {(reply.hops, reply.dont_fragment) for reply in replies} == {(1, True)}
    assert {reply.source_port for reply in replies} == {PORT}
    assert {reply.destination_port for reply in replies} == {PORT}
    assert {reply.checksum == 0 for reply in replies} == {peers.version == 4}


# -- programs -------------------------------------------------------------------------


def test_the_sink_ends_with_its_input(peers: Peers) -> None:
    sink = peers.start()
    assert sink.stdin is not None
    sink.stdin.close()
    assert sink.wait(TIMEOUT_S) == 0


def test_the_sink_ends_by_a_signal(peers: Peers) -> None:
    sink = peers.start()
    sink.send_signal(signal.SIGTERM)
    assert sink.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("program", [INITIATOR, SINK])
def test_they_share_nothing_with_the_package(program: Path) -> None:
    source = program.read_text(encoding="utf-8")
    imported = re.findall(r"^\s*(?:from|import) (\w+)", source, re.MULTILINE)
    assert imported
    assert set(imported) - {"__future__"} <= set(sys.stdlib_module_names)

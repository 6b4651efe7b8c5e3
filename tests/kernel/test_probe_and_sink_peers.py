"""`qwave sink` for initiators that are not ours, and `qwave probe` towards sinks that are not."""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from openqwave.lab.shape import Bottleneck
from tests.kernel import plain_initiator
from tests.kernel.qwave import BOTH, Sink, address_of, assert_capacity, measure, seen_to_end

if TYPE_CHECKING:
    from openqwave.lab.topology import Host, Lab

pytestmark = pytest.mark.kernel

PLAIN_SINK = Path(__file__).parent / "plain_sink.py"
MBPS = 1_000_000
RATE_BPS = 20 * MBPS
# One machine, one clock: ticks of 100 ns, a second at most from one stamp to the next.
SECOND = 10_000_000


@pytest.fixture
def hosts(lab: Lab) -> tuple[Host, Host]:
    """Two hosts with a bottleneck from left to right."""
    left, right = lab.host("left"), lab.host("right")
    lab.link(left, right, a_to_b=Bottleneck(RATE_BPS, RATE_BPS // 8 // 20))
    return left, right


# ---- an initiator made from the specification alone


@BOTH
@pytest.mark.parametrize("flag", [0x80, 0x01])
def test_packet_pair(hosts: tuple[Host, Host], version: int, flag: int) -> None:
    left, right = hosts
    with Sink(right) as sink:
        done = left.run(
            plain_initiator.packet_pair,
            address_of(right, version),
            trains=3,
            packets=16,
            flag=flag,
            seconds=20.0,
        )
        final, refused = seen_to_end(sink, signal.SIGINT)
    assert done.handshake == bytes.fromhex("1e000001")
    assert len(done.received) == 3 * 136
    payload_bytes = 1468 if version == 4 else 1448
    rates_bps = []
    for train in range(3):
        summary = done.received[train * 136 : (train + 1) * 136]
        first = 1 + 16 * train
        # Virtual Ethernet calls itself 10 Gbit/s, which is more than the field can say.
        assert summary[:16].hex(" ") == (
            f"0a 00 00 01 00 00 00 {first:02x} ff ff ff ff 00 00 00 0f"
        )
        deltas = struct.unpack("!15Q", summary[16:])
        rates_bps.append(15 * 1496 * 8 * SECOND / sum(deltas))
        event = [event for event in sink.events if event["event"] == "train"][train]
        assert (event["sequence"], event["packets"]) == (first, 16)
        assert event["payload_bytes"] == payload_bytes
        # Each delta is rounded to a tick, in the same way.
        assert event["spread_ns"] // 100 - 15 <= sum(deltas) <= event["spread_ns"] // 100 + 15
    # A sender that is held up spreads a train; nothing makes one faster than the link.
    assert abs(max(rates_bps) - RATE_BPS) < 0.25 * RATE_BPS
    assert (final["trains"], refused) == (3, {})


@BOTH
def test_route_check(hosts: tuple[Host, Host], version: int) -> None:
    left, right = hosts
    with Sink(right) as sink:
        done = left.run(
            plain_initiator.route_check,
            address_of(right, version),
            [[1, 2, 3, 4, 5]] * 5,
            seconds=20.0,
        )
        _, refused = seen_to_end(sink, signal.SIGINT)
    assert done.handshake == bytes.fromhex("1e000001")
    assert done.received == bytes.fromhex("14000001") * 5
    assert refused == {}


@BOTH
def test_probegap(hosts: tuple[Host, Host], version: int) -> None:
    left, right = hosts
    filler = bytes(range(100))
    with Sink(right) as sink:
        replies = left.run(
            plain_initiator.probegap,
            address_of(right, version),
            count=20,
            filler=filler,
            seconds=20.0,
        )
        final, refused = seen_to_end(sink, signal.SIGINT)
    assert [data[:8].hex() for data in replies] == [
        f"06000002{sequence:08x}" for sequence in range(1, 21)
    ]
    for data in replies:
        assert data[32:] == filler
        sent, received, returned = struct.unpack("!QQQ", data[8:32])
        assert sent <= received <= returned < sent + SECOND
    assert (final["small_probes"], refused) == (20, {})


def test_probegap_from_another_port_is_not_answered(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    with Sink(right) as sink:
        # Answers that are sent come within a millisecond.
        replies = left.run(plain_initiator.probegap, right.ipv4, count=5, port=4444, seconds=0.3)
        _, refused = seen_to_end(sink, signal.SIGINT)
    assert replies == []
    assert refused == {"reflection": 5}


# ---- a sink made from the specification alone


@pytest.mark.parametrize(
    ("version", "options"),
    [(4, ()), (6, ()), (4, ("--lsb-first",)), (6, ("--once-per-connection",))],
)
def test_a_plain_sink_satisfies_probe(
    hosts: tuple[Host, Host], version: int, options: tuple[str, ...]
) -> None:
    left, right = hosts
    address = address_of(right, version)
    sink = right.popen(
        [sys.executable, str(PLAIN_SINK), address, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert sink.stdout is not None
    assert sink.stdout.readline() == "ready\n"
    # A connection for each train takes its time.
    done, _ = measure(left, "--seconds", "2.5", address)
    told = done.told
    assert_capacity(told, RATE_BPS)
    assert told["loss_ppm"]["value"] < 50_000
    assert told["supports_priority"] is True

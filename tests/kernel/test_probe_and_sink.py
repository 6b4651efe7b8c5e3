"""`qwave probe` and `qwave sink`, as processes on two hosts: what they measure, say and leave."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import pty
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest

from openqwave.lab import taps
from openqwave.lab.links import Cross, CrossKind, DuplexSpec, PathSpec, Stage
from openqwave.lab.shape import Bottleneck
from tests.kernel.qwave import (
    BOTH,
    PORT,
    TIMEOUT_S,
    Sink,
    address_of,
    assert_capacity,
    finish,
    measure,
    run,
    seen_to_end,
    start,
)
from tests.kernel.raw_packets import Seen, seen_by, watch

if TYPE_CHECKING:
    from openqwave.lab.topology import Host, Lab

pytestmark = pytest.mark.kernel

MBPS, MS = 1_000_000, 1_000_000
# The bottleneck counts Ethernet's 14 bytes, estimates do not: 1 % of a full packet.
RATE_BPS = 20 * MBPS
QUEUE_BYTES = RATE_BPS // 8 // 20

# Enough for an answer, where the numbers are not looked at closely.
SHORT = ("--seconds", "0.8", "--no-priority")


@pytest.fixture
def hosts(lab: Lab) -> tuple[Host, Host]:
    """Two hosts with a bottleneck of `RATE_BPS` between them, both ways."""
    left, right = lab.host("left"), lab.host("right")
    bottleneck = Bottleneck(RATE_BPS, QUEUE_BYTES)
    lab.link(left, right, a_to_b=bottleneck, b_to_a=bottleneck)
    return left, right


# ---- it measures


@BOTH
def test_a_bottleneck_is_measured(hosts: tuple[Host, Host], version: int) -> None:
    left, right = hosts
    with Sink(right) as sink:
        done, tries = measure(left, address_of(right, version))
        told = done.told
        assert_capacity(told, RATE_BPS)
        assert told["is_conclusive"] is (done.status == 0)
        available = told["available_bps"]
        if done.status == 0:
            assert 0 < available["low"] <= available["value"] <= available["high"]
        else:
            assert available["reason"]
        assert told["rtt_ns"]["value"] > 0
        assert told["loss_ppm"]["value"] < 50_000
        assert told["supports_priority"] is True
        assert (told["address"], told["ip_version"]) == (address_of(right, version), version)
        assert 100_000 < told["sent_bytes"] < 2_000_000
        final, refused = seen_to_end(sink, signal.SIGINT)
    assert refused == {}
    assert final["connections"] == 2 * tries
    assert final["route_check_groups"] == 5 * tries
    assert final["trains"] > 10
    assert final["small_probes"] > 100
    names = {event["event"] for event in sink.events}
    assert names == {
        "listening",
        "session opened",
        "session closed",
        "train",
        "route check",
        "final",
    }
    trains = [event for event in sink.events if event["event"] == "train"]
    assert len(trains) == final["trains"]
    # Bytes of a train over its time: the link's rate, before any estimator. Of the median train,
    # because a busy machine is late for one or another.
    headers_bytes = 28 if version == 4 else 48
    rates_bps = [
        (event["packets"] - 1) * (event["payload_bytes"] + headers_bytes) * 8e9 / event["spread_ns"]
        for event in trains
        if event["packets"] >= 8
    ]
    rate_bps = median(rates_bps)
    assert abs(rate_bps - RATE_BPS) < 0.25 * RATE_BPS


@pytest.mark.skipif(
    not os.access(taps.DEVICE, os.R_OK | os.W_OK), reason=f"{taps.DEVICE} is closed to us"
)
def test_a_long_way_with_other_traffic_is_measured(lab: Lab) -> None:
    left, right = lab.host("left"), lab.host("right")
    stage = Stage(
        RATE_BPS,
        queue_bytes=QUEUE_BYTES,
        delay_ns=10 * MS,
        cross=(Cross(CrossKind.POISSON, RATE_BPS // 4),),
    )
    back = Stage(RATE_BPS, queue_bytes=QUEUE_BYTES, delay_ns=10 * MS)
    lab.emulated_link(left, right, DuplexSpec(PathSpec((stage,)), PathSpec((back,))))
    with Sink(right):
        done = run(left, "probe", "--json", right.ipv4)
    # A link that a program makes is uneven on a busy machine, so of the rates nothing is said
    # here; what is certain is that nothing comes sooner than the link allows.
    assert done.status in (0, 3)
    assert 20 * MS <= done.told["rtt_ns"]["low"] <= done.told["rtt_ns"]["value"]
    assert done.told["loss_ppm"]["value"] < 50_000
    assert 100_000 < done.told["sent_bytes"] < 2_000_000


def test_people_get_a_table(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    with Sink(right):
        done = run(left, "probe", "--seconds", "1.5", right.ipv6)
    assert done.status in (0, 3)
    lines = done.output.splitlines()
    assert lines[0] == f"path to {right.ipv6}, IPv6"
    assert [line[:17].strip() for line in lines if line[:1].strip()] == [
        lines[0][:17].strip(),
        "capacity",
        "available",
        "round-trip time",
        "jitter there",
        "jitter back",
        "loss",
        "priority tags",
        "kind of link",
        "cost",
    ]
    assert max(map(len, lines)) <= 80
    assert done.errors.startswith("  1 s  ")
    assert done.errors.count("\n") == 1


def test_quick_keeps_to_its_second(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    with Sink(right):
        done, _ = measure(left, "--quick", right.ipv4)
    assert_capacity(done.told, RATE_BPS)
    assert done.told["elapsed_ns"] < 1_000_000_000
    assert done.told["priority_reason"] == "it was not tried"
    assert done.errors == ""


def test_a_recording_says_the_same(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    left, right = hosts
    path = tmp_path / "samples.jsonl"
    with Sink(right):
        done = run(left, "probe", "--json", "--samples", str(path), "--seconds", "0.8", right.ipv4)
    again = run(left, "probe", "--json", "--replay", str(path))
    assert again.status == done.status in (0, 3)
    assert again.told == done.told | {"host": None, "address": None, "ip_version": None}
    assert len(path.read_text(encoding="ascii").splitlines()) > 100


def test_a_path_is_watched(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    with Sink(right) as sink:
        arguments = ("probe", "--json", "--watch", *SHORT, right.ipv4)
        process = start(left, *arguments, interruptible=True)
        assert process.stdout is not None
        told = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        done = finish(process)
        final, refused = seen_to_end(sink, signal.SIGINT)
    assert done.status in (0, 3)
    times_ns = [each["elapsed_ns"] for each in told]
    # The measurement's, and then one a second.
    assert times_ns[0] < 1_000_000_000
    assert all(after - before > 500 * MS for before, after in itertools.pairwise(times_ns))
    assert told[0]["sent_bytes"] < told[1]["sent_bytes"] < told[2]["sent_bytes"]
    for each in told:
        assert_capacity(each, RATE_BPS)
    assert final["connections"] == 2
    assert refused == {}


def link_local_of(host: Host) -> str:
    """The address that the kernel makes of an Ethernet address (RFC 4291 appendix A)."""
    octets = bytes.fromhex(host.interface.mac.replace(":", ""))
    modified = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return socket.inet_ntop(socket.AF_INET6, b"\xfe\x80" + bytes(6) + modified)


def test_a_link_local_address(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    with Sink(right) as sink:
        done = run(left, "probe", "--json", *SHORT, f"{link_local_of(right)}%eth0")
        _, refused = seen_to_end(sink, signal.SIGTERM)
    assert done.status in (0, 3)
    assert done.told["address"] == f"{link_local_of(right)}%eth0"
    assert done.told["loss_ppm"]["value"] < 50_000
    assert refused == {}


def add_address(host: Host, address: str, bits: int) -> None:
    # Here, because most tests of this file need no netlink library.
    from pyroute2 import IPRoute

    def add(index: int) -> None:
        with IPRoute() as netlink:
            netlink.addr("add", index=index, address=address, prefixlen=bits)

    host.run(add, host.interface.index)


@BOTH
def test_a_host_of_several_addresses_answers_from_the_one_that_was_asked(
    hosts: tuple[Host, Host], version: int
) -> None:
    left, right = hosts
    addresses = [address_of(right, version)]
    for number in (77, 78):
        another = addresses[0].removesuffix("2") + str(number)
        add_address(right, another, 24 if version == 4 else 64)
        addresses.append(another)
    with Sink(right):
        for address in addresses:
            told = run(left, "probe", "--json", "--quick", address).told
            assert told["loss_ppm"]["value"] < 500_000, address


def test_two_at_once_get_their_answers(lab: Lab) -> None:
    right = lab.host("right")
    probers = [lab.host("one"), lab.host("two")]
    for prober in probers:
        lab.link(prober, right, a_to_b=Bottleneck(RATE_BPS, QUEUE_BYTES))
    with Sink(right) as sink:
        at_work = [
            start(prober, "probe", "--json", *SHORT, link.seen_from(prober)[1].ipv4)
            for prober in probers
            for link in prober.links
        ]
        for process in at_work:
            done = finish(process)
            assert done.status in (0, 3)
            assert_capacity(done.told, RATE_BPS)
        final, refused = seen_to_end(sink, signal.SIGHUP)
    assert refused == {}
    assert final["connections"] == 2


# ---- who is not there, or not allowed


def test_no_sink(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    refused = run(left, "probe", right.ipv4)
    assert (refused.status, refused.output) == (4, "")
    assert refused.errors == (
        f"{right.ipv4} refuses connections to TCP port 2177: no sink runs there. "
        "Run `qwave sink` on that host.\n"
    )
    nobody = run(left, "probe", "--json", right.ipv6.removesuffix("2") + "99")
    assert (nobody.status, nobody.output) == (4, "")
    # The kernel gives up looking for a neighbour just before connecting takes too long.
    assert "cannot be reached" in nobody.errors or "is silent" in nobody.errors
    nowhere = run(left, "probe", "203.0.113.1")
    assert (nowhere.status, nowhere.output) == (4, "")
    assert "no route" in nowhere.errors


def test_a_host_that_takes_nothing_is_silent(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    with right.enter():
        full = socket.create_server((right.ipv4, PORT), backlog=0)
    with full, ExitStack() as queue:
        # The kernel completes one connection more than the backlog, then answers nobody.
        for _ in range(4):
            with left.enter():
                waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((right.ipv4, PORT))
        done = run(left, "probe", right.ipv4)
    assert (done.status, done.output) == (4, "")
    assert f"{right.ipv4} is silent" in done.errors


def test_what_is_no_sink(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    web = (
        "import socket\n"
        f"with socket.create_server(({right.ipv4!r}, {PORT})) as listener:\n"
        "    print(flush=True)\n"
        "    while True:\n"
        "        sock, _ = listener.accept()\n"
        "        sock.recv(100)\n"
        "        sock.sendall(b'HTTP/1.1 400 Bad Request\\r\\n\\r\\n')\n"
    )
    server = right.popen([sys.executable, "-c", web], stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline()
    done = run(left, "probe", right.ipv4)
    assert (done.status, done.output) == (4, "")
    assert "is no sink" in done.errors


@pytest.fixture
def far(lab: Lab) -> tuple[Host, Host, Host]:
    """Two hosts with a router between them, behind which is the bottleneck."""
    left, router, right = lab.host("left"), lab.router("router"), lab.host("right")
    lab.link(left, router)
    lab.link(router, right, a_to_b=Bottleneck(RATE_BPS, QUEUE_BYTES))
    return left, router, right


@BOTH
def test_beyond_a_router_needs_permission_here(far: tuple[Host, Host, Host], version: int) -> None:
    left, router, right = far
    with Sink(right) as sink, watch(left) as sock:
        done = run(left, "probe", address_of(right, version))
        assert seen_by(sock, address_of(left, version)) == []
        final, _ = seen_to_end(sink, signal.SIGINT)
    assert (done.status, done.output) == (2, "")
    gateway = left.links[0].seen_from(left)[1]
    assert gateway.host is router
    assert (gateway.ipv4 if version == 4 else gateway.ipv6) in done.errors
    assert "--off-link" in done.errors
    assert final["connections"] == 0


@BOTH
def test_and_there(far: tuple[Host, Host, Host], version: int) -> None:
    left, _, right = far
    with Sink(right) as sink:
        done = run(left, "probe", "--off-link", address_of(right, version))
        _, refused = seen_to_end(sink, signal.SIGINT)
    assert (done.status, done.output) == (4, "")
    assert "`--allow`" in done.errors
    assert set(refused) == {"off_link"}


@pytest.mark.parametrize(
    ("version", "allowed"), [(4, "network"), (6, "network"), (4, "any")], ids=str
)
def test_with_both_it_is_measured(far: tuple[Host, Host, Host], version: int, allowed: str) -> None:
    left, _, right = far
    link = left.links[0]
    network = link.ipv4_network if version == 4 else link.ipv6_network
    with Sink(right, "--allow", network if allowed == "network" else "any") as sink:
        done, _ = measure(left, "--seconds", "0.8", "--off-link", address_of(right, version))
        assert sink.events[0]["allowed"] == (
            [network] if allowed == "network" else ["0.0.0.0/0", "::/0"]
        )
        _, refused = seen_to_end(sink, signal.SIGINT)
    assert_capacity(done.told, RATE_BPS)
    assert done.told["loss_ppm"]["value"] < 500_000
    assert done.told["supports_priority"] is None
    assert refused == {}


# ---- one port, one process


def test_a_second_probe_on_a_host_is_told_of_the_first(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    with Sink(right) as sink:
        arguments = ("probe", "--json", "--seconds", "60", right.ipv4)
        first = start(left, *arguments, interruptible=True)
        # Small probes come before trains, so it has the port by now.
        sink.wait_for("train")
        second = run(left, "probe", "--json", right.ipv4)
        assert (second.status, second.output) == (2, "")
        assert "UDP port 2177 is held by" in second.errors
        assert f"(process {first.pid})" in second.errors
        first.send_signal(signal.SIGINT)
        assert finish(first).status == 130


def test_a_second_sink_on_a_host_is_told_of_the_first(hosts: tuple[Host, Host]) -> None:
    _, right = hosts
    with Sink(right) as sink:
        second = run(right, "sink")
        assert (second.status, second.output) == (2, "")
        assert second.errors.startswith("The sink cannot run: ")
        assert f"(process {sink.process.pid})" in second.errors
        local = run(right, "probe", right.ipv4)
        assert (local.status, local.output) == (2, "")
        assert f"(process {sink.process.pid})" in local.errors
    # Its port is free as soon as it has ended.
    with Sink(right):
        pass


# ---- the sink's options, and its end


def test_a_sink_at_one_address(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    with Sink(right, "--address", right.ipv6) as sink:
        assert (sink.events[0]["ip_versions"], sink.events[0]["address"]) == ([6], right.ipv6)
        assert run(left, "probe", "--quick", right.ipv4).status == 4
        assert run(left, "probe", "--quick", right.ipv6).status in (0, 3)
    done = run(right, "sink", "--address", "203.0.113.7")
    assert (done.status, done.output) == (2, "")
    assert "203.0.113.7" in done.errors


def test_limits_are_kept(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    with Sink(right, "--limit-peer-sessions", "1", "--limit-peer-rate", "1") as sink:
        done = run(left, "probe", "--json", "--seconds", "2", right.ipv4)
        _, refused = seen_to_end(sink, signal.SIGINT)
    # The route check's connection is one too many; the burst of datagrams passes.
    assert done.status in (0, 3)
    assert done.told["supports_priority"] is None
    assert refused == {"too_many_of_peer": 1}


def test_a_sink_ends_by_itself_and_tells_people(hosts: tuple[Host, Host]) -> None:
    _, right = hosts
    done = run(right, "sink", "--for", "0.5")
    assert (done.status, done.errors) == (0, "")
    lines = done.output.splitlines()
    assert lines[0][9:] == (
        "listening on port 2177, TCP and UDP, IPv4 and IPv6; for hosts on this host's links"
    )
    assert lines[1].startswith("done: 0 connections")
    assert lines[2:] == ["refused: nothing"]


def test_a_sink_whose_reader_leaves(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    process = start(right, "sink")
    assert process.stdout is not None
    assert "listening" in process.stdout.readline()
    process.stdout.close()
    # Something to tell.
    run(left, "probe", "--quick", right.ipv4)
    assert process.stderr is not None
    errors = process.stderr.read()
    assert process.wait(TIMEOUT_S) not in (0, 2)
    assert "Traceback" not in errors


# ---- ill will


def throw_garbage(host: Host, address: str, seed: int) -> Iterator[None]:
    """Send what is no experiment to both ports, one piece each time this is asked."""
    source = random.Random(seed)
    with ExitStack() as resources:
        with host.enter():
            udp = resources.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        while True:
            length = source.choice((0, 1, 3, 4, 12, 32, 100, 1400))
            data = source.randbytes(length)
            if source.random() < 0.7:
                # Looks like a message, up to its length.
                start_of = bytes([source.choice((1, 2, 5, 6)), 0, 0, source.choice((1, 2))])
                data = (start_of + data)[: max(4, length)]
            udp.sendto(data, (address, PORT))
            if source.random() < 0.1:
                with host.enter(), socket.socket() as tcp:
                    tcp.settimeout(TIMEOUT_S)
                    try:
                        tcp.connect((address, PORT))
                        tcp.sendall(source.randbytes(source.choice((1, 4, 5000))))
                    except ConnectionError:
                        pass
            yield


def test_garbage_is_survived_and_counted(lab: Lab) -> None:
    right, prober, vandal = lab.host("right"), lab.host("prober"), lab.host("vandal")
    lab.link(prober, right, a_to_b=Bottleneck(RATE_BPS, QUEUE_BYTES))
    other = lab.link(vandal, right)
    with Sink(right) as sink:
        process = start(prober, "probe", "--json", *SHORT, prober.links[0].b.ipv4)
        pieces = 0
        for _ in throw_garbage(vandal, other.b.ipv4, seed=5):
            pieces += 1
            if process.poll() is not None and pieces > 500:
                break
            time.sleep(0.001)
        done = finish(process)
        assert done.status in (0, 3)
        assert_capacity(done.told, RATE_BPS)
        final, refused = seen_to_end(sink, signal.SIGTERM)
    assert final["datagrams"] > pieces
    assert {"malformed_datagram", "no_session", "returned_probe", "reflection"} <= set(refused)
    assert "malformed_stream" in refused
    assert sum(refused.values()) <= 2 * pieces
    seen = [event for event in sink.events if event["event"] == "refused"]
    # One a second and reason, at most, not one for each.
    assert 5 <= len(seen) < 200


# ---- on the wire


def wire_of(
    left: Host, right: Host, version: int, at: Host, source: Host
) -> tuple[list[Seen], dict[str, Any]]:
    """What one of two hosts sent by UDP during a probe, as seen at a host; the sink's counts."""
    found: list[Seen] = []
    with Sink(right) as sink, watch(at) as sock:
        process = start(left, "probe", "--json", "--seconds", "0.8", address_of(right, version))
        while process.poll() is None:
            select.select([sock], [], [], 0.05)
            found += seen_by(sock, address_of(source, version))
        assert finish(process).status in (0, 3)
        found += seen_by(sock, address_of(source, version))
        return found, sink.end(signal.SIGINT)


@BOTH
def test_probes_on_the_wire(hosts: tuple[Host, Host], version: int) -> None:
    left, right = hosts
    probes, final = wire_of(left, right, version, at=right, source=left)
    assert len(probes) == final["datagrams"] > 200
    assert {probe.hops for probe in probes} == {1}
    assert {probe.destination_port for probe in probes} == {PORT}
    assert {probe.checksum == 0 for probe in probes} == {version == 4}
    assert all(probe.dont_fragment for probe in probes)
    kinds = {kind: [probe for probe in probes if probe.payload[0] == kind] for kind in (1, 2, 5)}
    assert sum(map(len, kinds.values())) == len(probes)
    headers = 28 if version == 4 else 48
    assert {(probe.dscp, probe.ip_bytes) for probe in kinds[1]} == {(0, 1496)}
    assert {(probe.dscp, probe.ip_bytes) for probe in kinds[5]} == {(0, 32 + headers)}
    assert [(probe.dscp, probe.ip_bytes) for probe in kinds[2]] == [
        (40, 1500),
        (0, 1496),
        (0, 1496),
        (0, 12 + headers),
        (40, 12 + headers),
    ] * 5
    assert {probe.source_port for probe in kinds[5]} == {PORT}
    assert PORT not in {probe.source_port for probe in kinds[1] + kinds[2]}


@BOTH
def test_answers_on_the_wire(hosts: tuple[Host, Host], version: int) -> None:
    left, right = hosts
    answers, final = wire_of(left, right, version, at=left, source=right)
    assert len(answers) == final["small_probes"] > 100
    assert {answer.hops for answer in answers} == {1}
    assert {(answer.source_port, answer.destination_port) for answer in answers} == {(PORT, PORT)}
    assert {answer.checksum == 0 for answer in answers} == {version == 4}
    assert {answer.dscp for answer in answers} == {0}
    assert {answer.payload[0] for answer in answers} == {6}


# ---- Ctrl-C, and terminals


def udp_ports(host: Host) -> set[int]:
    """UDP ports that anybody on a host has open."""

    def read() -> set[int]:
        found = set()
        for name in ("udp", "udp6"):
            lines = Path("/proc/thread-self/net", name).read_text(encoding="ascii").splitlines()
            found |= {int(line.split()[1].rpartition(":")[2], 16) for line in lines[1:]}
        return found

    return host.run(read)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(
    hosts: tuple[Host, Host], number: signal.Signals, tmp_path: Path
) -> None:
    left, right = hosts
    path = tmp_path / "samples"
    with Sink(right) as sink:
        arguments = ("probe", "--json", "--seconds", "60", "--samples", str(path), right.ipv4)
        process = start(left, *arguments, interruptible=True)
        sink.wait_for("train")
        assert PORT in udp_ports(left)
        process.send_signal(number)
        done = finish(process)
        assert (done.status, done.output) == (128 + number, "")
        assert done.errors.endswith("Interrupted.\n")
        assert udp_ports(left) == set()
        # The sink hears of it at once, and serves the next one.
        assert sink.wait_for("session closed")["reason"] is None
        assert run(left, "probe", "--quick", right.ipv4).status in (0, 3)
    # What was recorded until then can be read.
    assert run(left, "probe", "--json", "--replay", str(path)).status in (0, 3)


def test_a_terminal_gets_a_display_and_a_table(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    ours, theirs = pty.openpty()
    with Sink(right), ExitStack() as resources:
        resources.callback(os.close, ours)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        unwanted = ("NO_COLOR", "COLUMNS", "CI", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
        environment = {key: value for key, value in os.environ.items() if key not in unwanted}
        process = left.popen(
            [sys.executable, "-m", "openqwave.cli", "probe", *SHORT, right.ipv4],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment | {"TERM": "xterm-256color"},
        )
        os.close(theirs)
        written = bytearray()
        deadline = time.monotonic() + TIMEOUT_S
        while select.select([ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
            try:
                written += os.read(ours, 65_536)
            except OSError:  # Everybody has closed the other end.
                break
        assert process.wait(TIMEOUT_S) in (0, 3)
    text = written.decode()
    assert "measuring what is available" in text
    # The cursor is given back before the table comes.
    table = text[text.rfind("\x1b[?25h") :]
    assert f"path to {right.ipv4}, IPv4" in table
    assert "capacity" in table
    assert json.dumps(text).count("Traceback") == 0

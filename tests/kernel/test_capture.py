"""`qwave capture` on hosts of the lab: a measurement told by name, tags, rights, and the end."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.qwave import BOTH, TIMEOUT_S, Done, Sink, address_of, finish, run, start
from tests.unit.made_captures import ethernet, ip, udp

if TYPE_CHECKING:
    from openqwave.lab.topology import Host

pytestmark = pytest.mark.kernel

# Root, but for this one capability.
_WITHOUT_RAW = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"]


class Looking:
    """`qwave capture` on a host, which sees everything from now on."""

    def __init__(self, host: Host, *options: str) -> None:
        self.process = start(host, "capture", *options, interruptible=True)
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert "looking" in first, self.process.stderr and self.process.stderr.read()

    def take(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for a packet."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            told: dict[str, Any] = json.loads(line)
            if wanted(told):
                return told
        pytest.fail("it ended")

    def end(self) -> Done:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        done = finish(self.process)
        assert (done.status, done.errors) == (0, "")
        return done


def messages_of(told: list[dict[str, Any]]) -> Counter[str]:
    return Counter(message["message"] for each in told for message in each["qlpb"])


@BOTH
def test_a_measurement_is_told_by_name(
    pair: tuple[Host, Host], version: int, tmp_path: Path
) -> None:
    left, right = pair
    kept = tmp_path / "kept.pcapng"
    with Sink(right) as sink:
        looking = Looking(left, "-i", "eth0", "--json", "--qlpb", "-w", str(kept))
        probed = run(left, "probe", "--json", "--seconds", "0.8", address_of(right, version))
        assert probed.status in (0, 3), probed.errors
        done = looking.end()
        counted = sink.end(signal.SIGINT)
    *told, final = map(json.loads, done.output.splitlines())
    assert final["lost"] == 0
    assert final["packets"] == len(told)

    # All that the sink has seen and done, and nothing that has no name.
    found = messages_of(told)
    assert found == final["messages"]
    trains = found["packet pair summary"]
    assert trains == counted["trains"] > 5
    assert found["packet pair handshake"] == 1
    assert found["route check handshake"] == 1
    assert found["handshake success"] == counted["connections"] == 2
    assert found["route check probe"] == 25
    assert found["route check summary"] == counted["route_check_groups"] == 5
    assert found["probegap probe"] >= found["probegap answer"] == counted["small_probes"] > 10
    assert set(found) == {
        "handshake success",
        "packet pair handshake",
        "packet pair probe",
        "packet pair summary",
        "probegap answer",
        "probegap probe",
        "route check handshake",
        "route check probe",
        "route check summary",
    }
    # Every datagram is a message, and so is every segment with content.
    datagrams = [each for each in told if each["protocol"] == 17]
    assert all(len(each["qlpb"]) == 1 for each in datagrams)
    small = [each["qlpb"][0] for each in datagrams if "probegap" in each["qlpb"][0]["message"]]
    sent = {each["sequence"] for each in small if each["message"] == "probegap probe"}
    answered = [each["sequence"] for each in small if each["message"] == "probegap answer"]
    assert len(answered) == len(set(answered))
    assert set(answered) <= sent
    # Who sends what, and the marks of the two in five with priority.
    for each in datagrams:
        is_answer = each["qlpb"][0]["message"] == "probegap answer"
        assert each["direction"] == ("in" if is_answer else "out")
        assert each["source"] == address_of(right if is_answer else left, version)
    checks = [each for each in datagrams if each["qlpb"][0]["message"] == "route check probe"]
    assert Counter(each["dscp"] for each in checks) == {0: 15, 40: 10}
    assert final["by_dscp"]["40"]["packets"] == 10
    # In order but for what two processors stamp at the same time.
    times = [each["time_ns"] for each in told]
    assert all(later - sooner > -1_000_000 for sooner, later in itertools.pairwise(times))

    # The file says the same again.
    again = run(left, "capture", "--json", "-r", str(kept))
    assert again.status == 0, again.errors
    *told_again, final_again = map(json.loads, again.output.splitlines())
    assert told_again == told
    assert final_again["messages"] == final["messages"]
    _assert_tcpdump_agrees(kept, told)


def _assert_tcpdump_agrees(kept: Path, told: list[dict[str, Any]]) -> None:
    tcpdump = shutil.which("tcpdump", path="/usr/bin:/usr/sbin:/sbin")
    if tcpdump is None:
        return
    done = subprocess.run(
        [tcpdump, "-nn", "-tt", "--nano", "-r", str(kept)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0].replace(".", "") for line in lines] == [
        str(each["time_ns"]) for each in told
    ]
    for line, each in zip(lines, told, strict=True):
        ends = [f"{each[end]}.{each[f'{end}_port']}" for end in ("source", "destination")]
        assert f"{ends[0]} > {ends[1]}:" in line


def test_a_tag_is_seen_and_kept(pair: tuple[Host, Host], tmp_path: Path) -> None:
    left, right = pair
    kept = tmp_path / "kept.pcapng"
    packet = ip(udp(b"voice", 6_000, 6_001), traffic_class=46 << 2, destination=right.ipv4)
    frame = b"\xff" * 6 + ethernet(0x0800, packet, (0x8100, 6, 0))[6:]
    looking = Looking(right, "-i", "eth0", "--json", "--marked", "-w", str(kept))
    with left.enter():
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with sender:
        sender.bind(("eth0", 0))
        sender.send(frame)
    told = looking.take(lambda each: each["destination_port"] == 6_001)
    assert (told["tag"], told["dscp"]) == ({"pcp": 6, "vlan": 0}, 46)
    assert (told["interface"], told["direction"]) == ("eth0", "in")
    looking.end()
    data = kept.read_bytes()
    assert frame in data
    assert b"DSCP 46 EF, 802.1p 6" in data


def test_all_interfaces_and_loopback_once(pair: tuple[Host, Host]) -> None:
    left, right = pair
    looking = Looking(left, "--json", "--port", "7000", "--count", "2")
    with left.enter():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        for address in ("127.0.0.1", right.ipv4):
            sender.sendto(b"x", (address, 7000))
    done = finish(looking.process)
    assert (done.status, done.errors) == (0, "")
    *told, final = map(json.loads, done.output.splitlines())
    assert [each["interface"] for each in told] == ["lo", "eth0"]
    assert final["packets"] == 2


def test_it_ends_by_itself_and_by_a_signal(pair: tuple[Host, Host]) -> None:
    left, _ = pair
    done = run(left, "capture", "-i", "lo", "--for", "0.2")
    assert (done.status, done.errors) == (0, "")
    assert done.output.splitlines() == ["looking at lo; Ctrl-C ends it", "0 packets"]
    looking = Looking(left)
    assert "packets" in looking.end().output


@pytest.mark.root
def test_without_the_right_nothing_is_seen(pair: tuple[Host, Host]) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    process = pair[0].popen(
        [*_WITHOUT_RAW, sys.executable, "-m", "openqwave.cli", "capture"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ},
    )
    done = finish(process)
    assert (done.status, done.output) == (2, "")
    assert "CAP_NET_RAW" in done.errors
    assert done.errors.count("\n") == 1


def test_an_interface_that_goes_ends_it(pair: tuple[Host, Host]) -> None:
    left, _ = pair
    looking = Looking(left, "-i", "eth0")
    removing = left.popen(["ip", "link", "delete", "eth0"])
    assert removing.wait(TIMEOUT_S) == 0
    done = finish(looking.process)
    assert done.status == 2
    assert "eth0 is gone" in done.errors

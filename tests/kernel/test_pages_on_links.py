"""Python of pages that needs hosts and links, with what the page leaves to its reader."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from openqwave.drivers.filters import Filters
from openqwave.drivers.netlink import Netlink
from openqwave.drivers.qdiscs import Qdiscs
from openqwave.enforcement.bpf.attachment import NAME_WITH_CLSACT, PRIORITY
from openqwave.enforcement.bpf.program import EgressProgram, Sizes
from openqwave.enforcement.shaping.queues import OUR_ROOT
from openqwave.lab import taps
from openqwave.lab.shape import Bottleneck
from tests.kernel.egress_stage import may_use_bpf
from tests.kernel.qwave import TIMEOUT_S, Sink
from tests.pages import blocks

if TYPE_CHECKING:
    from openqwave.lab.hosts import Host
    from openqwave.lab.topology import Lab

pytestmark = pytest.mark.kernel

RATE_BPS = 20_000_000
PORT = 6_000
# Ordinary users do not look everywhere.
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
TAKER = f"""
import socket
with socket.create_server(("", {PORT})) as server:
    print("ready", flush=True)
    taken, _ = server.accept()
    while taken.recv(65_536):
        pass
"""
# What the page's function is called with; a machine that stood still knows nothing for a while.
ASKER = f"""
import json, socket, sys, time
with socket.create_connection((sys.argv[1], {PORT})) as sock, qw.open(embedded=True) as qos:
    flow = qos.add_socket(sock, traffic_type=qw.TrafficType.AUDIO_VIDEO)
    end_s = time.monotonic() + 30
    while True:
        try:
            granted_bps = ask(flow, 10 * {RATE_BPS})
            break
        except (qw.RetryLater, qw.NoData):
            assert time.monotonic() < end_s
            time.sleep(0.1)
    print(json.dumps([granted_bps, flow.rate_bps()]))
"""


def python(host: Host, script: str, *arguments: str) -> subprocess.Popen[str]:
    return host.popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def end(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, errors) == (0, "")
    return output


def test_a_rate_that_is_not_granted(lab: Lab) -> None:
    (block,) = blocks("docs/refusals.md", "python")
    bottleneck = Bottleneck(RATE_BPS, RATE_BPS // 8 // 10)
    near, far = lab.host("near"), lab.host("far")
    lab.link(near, far, a_to_b=bottleneck, b_to_a=bottleneck)
    with Sink(far):
        taker = python(far, TAKER)
        assert taker.stdout is not None
        assert taker.stdout.readline() == "ready\n"
        *told, rates = end(python(near, block.text + ASKER, far.ipv4)).splitlines()
        end(taker)
    # One of the sentences of the page's table.
    assert told
    assert all("the path can carry " in each or "is congested" in each for each in told)
    granted_bps, rate_bps = json.loads(rates)
    assert granted_bps == rate_bps
    assert 0 < granted_bps < RATE_BPS


@pytest.mark.skipif(not may_use_bpf(), reason="BPF wants root of the first user namespace")
def test_what_a_crash_has_left_is_taken_away_by_hand(pair: tuple[Host, Host]) -> None:
    near, _ = pair
    (block,) = blocks("docs/data-plane.md", "sh")
    if shutil.which("nft", path=PATH) is None:
        pytest.skip("needs nft (scripts/tools.sh installs it where it can)")
    index, name = near.interface.index, near.interface.name

    def state() -> str:
        shown = (
            f"tc qdisc show dev {name}",
            f"tc filter show dev {name} egress",
            "nft list tables",
        )
        return "".join(typed(line) for line in shown)

    with near.enter(), Netlink(socket.NETLINK_ROUTE) as netlink:
        before = state()
        with EgressProgram.load(Sizes(16, 16, 16, 16, 16)) as program:
            Filters(netlink).add_with_clsact(
                index, program.programs.egress, NAME_WITH_CLSACT, PRIORITY
            )
        Qdiscs(netlink).install_htb(index, OUR_ROOT, 14)
        typed("nft add table inet openqwave")
        assert state() != before
        for line in block.text.splitlines():
            typed(line.replace("eth0", name))
        assert state() == before


def typed(line: str) -> str:
    done = subprocess.run(
        ["bash", "-c", line],  # noqa: S607 - whichever is here
        env={**os.environ, "PATH": PATH},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), line
    return done.stdout


def test_a_lab(lab: Lab) -> None:
    # The page's own makes another one; two of them are no trouble.
    del lab
    first, _ = blocks("docs/lab.md", "python")
    names: dict[str, Any] = {"send_something": _send_something}
    exec(first.text, names)  # noqa: S102 - our own page
    assert names["packet"].destination_port == PORT


@pytest.mark.skipif(
    not os.access(taps.DEVICE, os.R_OK | os.W_OK), reason=f"{taps.DEVICE} is closed to us"
)
def test_a_link_as_a_model_says() -> None:
    _, second = blocks("docs/lab.md", "python")
    process = subprocess.run(
        [sys.executable, "-c", _WITH_MEASURE + second.text],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    rates, late = process.stdout.splitlines()
    capacity_bps, available_bps = map(int, rates.split())
    assert capacity_bps == RATE_BPS
    assert 8_000_000 < available_bps < 16_000_000
    assert int(late) >= 0


def _send_something(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"something", (address, PORT))


# As long as it takes for other traffic to be what it is on average.
_WITH_MEASURE = textwrap.dedent("""
    import time

    def measure(address):
        time.sleep(2)

""")

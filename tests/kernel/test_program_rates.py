"""The rates of programs that ask for nothing: metered, or held back by queues where they can."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from openqwave.enforcement.claims import Claim, RunClaim
from openqwave.lab.capture import CapturedPacket, Direction
from openqwave.lab.topology import Host, Lab
from openqwave.model.flow import Treatment
from tests.kernel.data_plane_stage import watching
from tests.kernel.egress_stage import may_use_bpf
from tests.kernel.program_marks_stage import Agent, Group, Marking, group, marking

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not may_use_bpf(), reason="only root may load programs into the kernel"),
]

RATE_BPS = 8_000_000
PAYLOAD = 972
PACKET_BITS = 8 * (PAYLOAD + 28)
SECONDS = 2.0
# Twice the rate, in ticks that a busy machine keeps.
OFFER = f"""
import time
begun, sent = time.monotonic(), 0
while (now := time.monotonic() - begun) < {SECONDS}:
    while sent * {PACKET_BITS / (2 * RATE_BPS)} <= now:
        u.sendto(bytes({PAYLOAD}), WHERE)
        sent += 1
    time.sleep(0.001)
"""


@pytest.fixture
def run() -> Iterator[Group]:
    with group() as made:
        yield made


def hold(marks: Marking, run: Group, *, may_delay: bool) -> None:
    claim = Claim(1, Treatment(dscp=40, rate_bps=RATE_BPS), may_delay)
    assert marks.programs.carry_out([], [RunClaim(claim, frozenset({run.number}))]) is None


def offer(agent: Agent, right: Host) -> list[CapturedPacket]:
    """Twice the rate, from two sockets; what comes of it."""
    with watching(right, Direction.INCOMING) as capture:
        agent.make_udp()
        agent.tell(f"exec({OFFER!r}.replace('WHERE', repr(({right.ipv4!r}, 20_000))))")
        wanted = int(agent.tell("out = sent"))
        # What waits in a queue comes as late again.
        end = time.monotonic() + 3 * SECONDS
        seen: list[CapturedPacket] = []
        while len(seen) < wanted and time.monotonic() < end:
            seen += [each for each in capture.packets() if each.destination_port == 20_000]
            time.sleep(0.01)
    assert len(seen) == wanted
    return seen


def rate_of(packets: list[CapturedPacket]) -> float:
    return PACKET_BITS * (len(packets) - 1) * 1e9 / (packets[-1].time_ns - packets[0].time_ns)


def test_what_is_above_the_rate_is_marked_otherwise(pair: tuple[Host, Host], run: Group) -> None:
    left, right = pair
    agent = Agent(left, run)
    with marking(left) as marks:
        hold(marks, run, may_delay=False)
        assert "marks otherwise" in marks.programs.explain_claim(1)[1]
        seen = offer(agent, right)
        counted = marks.programs.traffic_of([1])[1]
    within = [packet for packet in seen if packet.dscp == 40]
    above = [packet for packet in seen if packet.dscp == 0]
    assert len(within) + len(above) == len(seen)
    # The burst, once, is a hundredth of what is sent.
    assert rate_of(within) == pytest.approx(RATE_BPS, rel=0.05)
    assert (counted.packets, counted.excess_packets) == (len(within), len(above))


def test_a_queue_holds_all_sockets_to_one_rate(pair: tuple[Host, Host], run: Group) -> None:
    left, right = pair
    agent, other = Agent(left, run), Agent(left)
    with marking(left, None) as marks:
        hold(marks, run, may_delay=True)
        assert "queue" in marks.programs.explain_claim(1)[1]
        seen = offer(agent, right)
        assert {packet.dscp for packet in seen} == {40}
        assert rate_of(seen) == pytest.approx(RATE_BPS, rel=0.03)
        free = offer(other, right)
        assert {packet.dscp for packet in free} == {0}
        assert rate_of(free) == pytest.approx(2 * RATE_BPS, rel=0.1)
        # A connection, too.
        with right.enter():
            listener = socket.create_server((right.ipv4, 20_000))
        with listener:
            listener.settimeout(10)
            agent.tell(f"s = socket.create_connection(({right.ipv4!r}, 20_000))")
            peer, _ = listener.accept()
            begun, count = time.monotonic(), 0
            agent.process.stdin.write("s.sendall(bytes(2_000_000)); s.close()\n")  # type: ignore[union-attr]
            with peer:
                while part := peer.recv(65_536):
                    count += len(part)
            took = time.monotonic() - begun
        assert count == 2_000_000
        # Headers are paid for, and two buckets pass at the beginning.
        assert 8 * count / took == pytest.approx(RATE_BPS, rel=0.1)


def test_what_cannot_wait_is_marked_and_waits_when_it_can(lab: Lab, run: Group) -> None:
    left, right, third = (lab.host(name) for name in ("left", "right", "third"))
    lab.link(left, right)
    with marking(left, None) as marks:
        hold(marks, run, may_delay=True)
        assert "queue" in marks.programs.explain_claim(1)[1]
        lab.link(left, third)
        left.run(marks.plane.reconcile)
        how = marks.programs.explain_claim(1)[1]
        if "departure times" in how:
            # Both have fq, which holds them back together.
            assert not is_metered(marks)
        else:
            assert "marks otherwise" in how
            assert "2 interfaces" in how
            assert is_metered(marks)
        left.run(lambda: switch_off(left.interfaces[1].name))
        left.run(marks.plane.reconcile)
        assert "marks otherwise" not in marks.programs.explain_claim(1)[1]
        assert not is_metered(marks)
        assert marks.programs.carry_out([], []) is None
        assert marks.shapers.observe() == {}


def is_metered(marks: Marking) -> bool:
    """Is what is above the rate of the first slot's marked otherwise?"""
    return marks.presence.table.read_treatments([1])[1].excess_is_remarked


def switch_off(name: str) -> None:
    subprocess.run(["ip", "link", "set", name, "down"], check=True)  # noqa: S607


def test_what_the_host_tells_itself_belongs_to_no_rate(pair: tuple[Host, Host], run: Group) -> None:
    left, _ = pair
    agent = Agent(left, run)
    with marking(left) as marks:
        hold(marks, run, may_delay=False)
        with left.enter():
            sink = socket.socket(type=socket.SOCK_DGRAM)
            sink.bind(("127.0.0.1", 20_000))
        with sink:
            agent.make_udp()
            # A burst is 20 ms at the rate, which is 20 of these.
            agent.tell("for _ in range(200): u.sendto(bytes(972), ('127.0.0.1', 20_000))")
        counted = marks.programs.traffic_of([1])[1]
    assert (counted.packets, counted.excess_packets) == (200, 0)

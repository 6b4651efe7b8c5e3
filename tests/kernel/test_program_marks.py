"""Programs that ask for nothing are marked by who made their sockets: real ones, on a wire."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from openqwave.admission.rules import Ports
from openqwave.enforcement.bpf.creation import Creation
from openqwave.enforcement.claims import MOST_RULES, Claim, Executable, RuleClaim, RunClaim
from openqwave.lab.capture import Direction
from openqwave.lab.topology import Host
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import endpoint_at
from openqwave.model.flow import Transport, Treatment
from openqwave.model.traffic import FlowTraffic
from openqwave.subsystem.effects import Share, SocketPlan
from tests.kernel.data_plane_stage import watching
from tests.kernel.egress_stage import Arrived, Wire, cookie_of, may_use_bpf
from tests.kernel.nobody import USER
from tests.kernel.program_marks_stage import (
    ACK,
    FIN,
    RST,
    SYN,
    Agent,
    Group,
    Marking,
    flags_of,
    group,
    marking,
    marks_of,
    say,
    until,
)

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not may_use_bpf(), reason="only root may load programs into the kernel"),
]

BASH = "/bin/bash"
TELLS_TYPES = pytest.mark.skipif(
    not Path("/sys/kernel/btf/vmlinux").exists(), reason="the kernel does not describe its types"
)


@pytest.fixture
def marks(pair: tuple[Host, Host]) -> Iterator[Marking]:
    with marking(pair[0]) as made:
        yield made


@pytest.fixture
def wire(pair: tuple[Host, Host]) -> Iterator[Wire]:
    made = Wire(pair[1])
    yield made
    made.close()


@pytest.fixture
def run() -> Iterator[Group]:
    with group() as made:
        yield made


def rule(claim_id: int, dscp: int, **conditions: object) -> RuleClaim:
    return RuleClaim(Claim(claim_id, Treatment(dscp=dscp)), **conditions)  # type: ignore[arg-type]


# -- runs ------------------------------------------------------------------------------------


def test_a_run_has_all_datagrams_of_its_sockets_and_nobody_elses(
    pair: tuple[Host, Host], marks: Marking, wire: Wire, run: Group
) -> None:
    left, right = pair
    early, late, other = Agent(left, run), Agent(left, run), Agent(left)
    early.make_udp("AF_INET6")
    other.make_udp("AF_INET6")
    marks.run(run, dscp=46)
    late.make_udp("AF_INET6")
    for to in (right.ipv6, f"::ffff:{right.ipv4}"):
        for agent in (early, other, late):
            agent.send(to, times=3)
        assert marks_of(wire, 9) == [46] * 3 + [0] * 3 + [46] * 3
    late.make_udp("AF_INET", "v4")
    late.send(right.ipv4, name="v4")
    assert marks_of(wire, 1) == [46]
    counted = FlowTraffic(packets=13, bytes=6 * (40 + 9) + 7 * (20 + 9))
    assert marks.programs.traffic_of([1, 2]) == {1: counted}
    # What a child makes, and what it was given.
    late.tell("os.set_inheritable(v4.fileno(), True)")
    code = (
        "import socket; a = socket.socket(type=socket.SOCK_DGRAM); b = socket.socket(fileno={}); "
        f"[each.sendto(b'x', ({right.ipv4!r}, 20_000)) for each in (a, b)]"
    )
    late.tell(
        f"subprocess.run([sys.executable, '-c', {code!r}.format(v4.fileno())], check=True, "
        "close_fds=False)"
    )
    assert marks_of(wire, 2) == [46] * 2
    assert marks.programs.carry_out([], []) is None
    for agent in (early, other, late):
        agent.send(right.ipv6)
    assert marks_of(wire, 3) == [0] * 3
    assert marks.programs.traffic_of([1]) == {}


def test_fragments_of_a_rule_that_names_ports(
    pair: tuple[Host, Host], marks: Marking, wire: Wire
) -> None:
    left, right = pair
    agent = Agent(left)
    agent.make_udp()
    wanted = [rule(1, 46, remote_ports=Ports(20_000, 20_000)), rule(2, 8)]
    assert marks.programs.carry_out(wanted, []) is None
    agent.tell(f"[u.sendto(bytes(4_000), ({right.ipv4!r}, port)) for port in (20_000, 20_001)]")
    seen = wire.take(6, lambda packet: packet.version == 4)
    assert [packet.dscp for packet in seen] == [46] * 3 + [8] * 3


def test_the_deepest_run_holds(
    pair: tuple[Host, Host], marks: Marking, wire: Wire, run: Group
) -> None:
    left, right = pair
    inner = run.below().below()
    deep, shallow = Agent(left, inner.below()), Agent(left, run)
    outside, inside = Claim(1, Treatment(dscp=8)), Claim(2, Treatment(dscp=40))
    for agent in (deep, shallow):
        agent.make_udp()
    for runs in (
        [RunClaim(outside, frozenset({run.number})), RunClaim(inside, frozenset({inner.number}))],
        [RunClaim(inside, frozenset({inner.number})), RunClaim(outside, frozenset({run.number}))],
    ):
        assert marks.programs.carry_out([], runs) is None
        deep.send(right.ipv4)
        shallow.send(right.ipv4)
        assert marks_of(wire, 2) == [40, 8]
    assert marks.programs.carry_out([], runs[1:]) is None
    deep.send(right.ipv4)
    assert marks_of(wire, 1) == [8]


FAMILIES = pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])


def address_of(host: Host, family: str) -> str:
    return host.ipv4 if family == "AF_INET" else host.ipv6


def is_of_20000(packet: Arrived) -> bool:
    return 20_000 in (packet.port, packet.source_port)


def comes_from(port: int) -> Callable[[Arrived], bool]:
    return lambda packet: packet.source_port == port


def are_over(sent: Sequence[Arrived]) -> bool:
    """Has a FIN been sent, and then the acknowledgement of the peer's?"""
    flags = [flags_of(packet) for packet in sent]
    return any(each & FIN for each in flags[:-1]) and flags[-1] == ACK


def has_ended(sent: Sequence[Arrived]) -> bool:
    return any(flags_of(packet) & FIN for packet in sent)


def was_reset(sent: Sequence[Arrived]) -> bool:
    return any(flags_of(packet) & RST for packet in sent)


@FAMILIES
def test_a_connection_from_its_first_packet_to_the_last_without_a_socket(
    pair: tuple[Host, Host], marks: Marking, wire: Wire, run: Group, family: str
) -> None:
    left, right = pair
    agent = Agent(left, run)
    marks.run(run)
    where = address_of(right, family)
    with right.enter():
        listener = socket.create_server((where, 20_000), family=getattr(socket, family))
    with listener:
        listener.settimeout(10)
        agent.tell(
            f"s = socket.create_connection(({where!r}, 20_000))",
            "s.sendall(bytes(100_000))",
            "s.close()",
        )
        peer, _ = listener.accept()
        with peer:
            while peer.recv(65_536):
                pass
        sent = until(wire, are_over, is_of_20000)
    flags = [flags_of(packet) for packet in sent]
    assert flags[0] == SYN
    assert sum(len(packet.data) > 1_000 for packet in sent) > 1
    assert {packet.dscp for packet in sent} == {46}
    assert all(packet.is_sum_right() for packet in sent)
    counted = marks.programs.traffic_of([1])[1]
    assert counted.packets >= len(sent)


@FAMILIES
def test_what_a_listener_accepts_from_the_answer_on(
    pair: tuple[Host, Host], marks: Marking, wire: Wire, run: Group, family: str
) -> None:
    left, right = pair
    agent, other = Agent(left, run), Agent(left)
    where = address_of(left, family)
    for each, port in ((agent, 20_000), (other, 20_001)):
        each.tell(
            f"l = socket.create_server(({where!r}, {port}), family=socket.{family})",
        )
    marks.run(run)
    for each, port, dscp in ((agent, 20_000, 46), (other, 20_001, 0)):
        with right.enter():
            client = socket.create_connection((where, port), timeout=10)
        with client:
            each.tell("s, _ = l.accept()", "s.sendall(bytes(50_000))", "s.close()")
            while client.recv(65_536):
                pass
        # Its FIN is answered by a FIN, whose acknowledgement nobody's socket sends.
        sent = until(wire, are_over, comes_from(port))
        flags = [flags_of(packet) for packet in sent]
        assert flags[0] == SYN | ACK
        assert {packet.dscp for packet in sent} == {dscp}


@pytest.mark.parametrize("is_read", [True, False])
def test_a_reset(
    pair: tuple[Host, Host], marks: Marking, wire: Wire, run: Group, is_read: bool
) -> None:
    """With data that nobody has read the socket resets, else the kernel after it."""
    left, right = pair
    agent = Agent(left, run)
    marks.run(run)
    with right.enter():
        listener = socket.create_server((right.ipv4, 20_000))
    with listener:
        listener.settimeout(10)
        agent.tell(f"s = socket.create_connection(({right.ipv4!r}, 20_000))")
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"never")
            agent.tell("s.recv(5)" if is_read else "s.recv(5, socket.MSG_PEEK)", "s.close()")
            if is_read:
                assert peer.recv(1) == b""
                peer.sendall(b"too late")
            sent = until(wire, was_reset, is_of_20000)
    assert any(flags_of(packet) & FIN for packet in sent) == is_read
    assert {packet.dscp for packet in sent} == {46}


def states_of(port: int) -> set[str]:
    """The states of the connections from a port, as the kernel lists them: 04 for FIN_WAIT1."""
    lines = Path("/proc/thread-self/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    fields = [line.split() for line in lines]
    return {state for _, local, _, state, *_ in fields if local.endswith(f":{port:04X}")}


def test_the_same_ports_in_other_hands(
    pair: tuple[Host, Host], marks: Marking, wire: Wire, run: Group
) -> None:
    """What a connection has left goes to nobody who has its addresses and ports later."""
    left, right = pair
    ours, others = Agent(left, run), Agent(left)
    marks.run(run)
    with right.enter():
        listener = socket.create_server((right.ipv4, 20_000))
    with listener:
        listener.settimeout(10)
        for agent, dscp in ((ours, 46), (others, 0)):
            agent.tell(
                "s = socket.socket()",
                "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)",
                f"s.bind(({left.ipv4!r}, 30_000))",
                f"s.connect(({right.ipv4!r}, 20_000))",
            )
            peer, _ = listener.accept()
            with peer:
                agent.tell("s.shutdown(socket.SHUT_WR)" if agent is ours else "s.close()")
                assert peer.recv(1) == b""
                # Acknowledged by itself: the next packet is for a connection without a socket.
                while left.run(states_of, 30_000) & {"04"}:
                    time.sleep(0.01)
                if agent is ours:
                    # Reset by the far end, so that no side remembers the connection.
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0" + bytes(4))
            is_over = has_ended if agent is ours else are_over
            sent = until(wire, is_over, is_of_20000)
            assert {packet.dscp for packet in sent} == {dscp}


def test_stray_packets_are_answered_for_the_connection_that_was(
    pair: tuple[Host, Host], marks: Marking, wire: Wire, run: Group
) -> None:
    left, right = pair
    agent = Agent(left, run)
    marks.run(run)
    with right.enter():
        listener = socket.create_server((right.ipv4, 20_000))
        stray = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with listener, stray:
        listener.settimeout(10)
        agent.tell(f"s = socket.create_connection(({right.ipv4!r}, 20_000))")
        peer, (_, port) = listener.accept()
        with peer:
            peer.sendall(b"never read")
            agent.tell("s.recv(1, socket.MSG_PEEK)", "s.close()")
            until(wire, was_reset, is_of_20000)
        for known, dscp in ((port, 46), (port ^ 1, 0)):
            stray.sendto(segment(right.ipv4, left.ipv4, 20_000, known), (left.ipv4, 0))
            (reset,) = until(wire, bool, is_of_20000)
            assert (flags_of(reset), reset.dscp) == (RST, dscp)


def segment(source: str, destination: str, port: int, to: int) -> bytes:
    """An acknowledgement of TCP, of something that was never sent."""
    head = struct.pack("!HHIIBBHHH", port, to, 1, 1, 5 << 4, ACK, 1_000, 0, 0)
    ends = ip_address(source).packed + ip_address(destination).packed
    total = sum(struct.unpack("!16H", ends + struct.pack("!HH", socket.IPPROTO_TCP, 20) + head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:16] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[18:]


# -- sockets that were there before ------------------------------------------------------------


def test_sockets_are_put_in_a_run_one_by_one(
    pair: tuple[Host, Host], marks: Marking, wire: Wire, run: Group
) -> None:
    left, right = pair
    agent = Agent(left)
    for name in ("u", "v"):
        agent.make_udp(name=name)
    agent.tell(f"l = socket.create_server(({left.ipv4!r}, 20_001))")
    agent.send(right.ipv4)
    assert marks_of(wire, 1) == [0]
    marks.run(run)
    for name in ("u", "l"):
        with agent.borrow(name) as sock:
            marks.programs.claim_socket(sock.fileno(), 1)
    for name in ("u", "v"):
        agent.send(right.ipv4, name=name)
    assert marks_of(wire, 2) == [46, 0]
    with right.enter():
        client = socket.create_connection((left.ipv4, 20_001), timeout=10)
    with client:
        agent.tell("s, _ = l.accept()", "s.sendall(b'x')")
        assert client.recv(1) == b"x"
        taken = until(wire, lambda sent: len(sent) == 2, comes_from(20_001))
        assert {packet.dscp for packet in taken} == {46}
        # The run is over; another one of its number has nothing to do with its sockets.
        assert marks.programs.carry_out([], []) is None
        marks.run(run, dscp=8)
        agent.send(right.ipv4)
        assert marks_of(wire, 1) == [0]
        agent.tell("s.sendall(b'x')")
        taken = until(wire, lambda sent: len(sent) == 1, comes_from(20_001))
        assert {packet.dscp for packet in taken} == {0}
    with pytest.raises(OSError, match="no run of the number 2"), socket.socket() as sock:
        marks.programs.claim_socket(sock.fileno(), 2)
    with pytest.raises(OSError) as caught, open(os.devnull, "rb") as file:  # noqa: PT011
        marks.programs.claim_socket(file.fileno(), 1)
    assert caught.value.errno == errno.ENOTSOCK


# -- rules -------------------------------------------------------------------------------------


def test_rules_by_user(pair: tuple[Host, Host], marks: Marking, wire: Wire) -> None:
    left, right = pair
    nobody, root = Agent(left, uid=USER), Agent(left)
    for agent in (nobody, root):
        agent.make_udp()
    agents = (nobody, root)

    def sent() -> list[int]:
        for agent in agents:
            agent.send(right.ipv4)
        return marks_of(wire, 2)

    assert marks.programs.carry_out([rule(1, 46, users=frozenset({USER}))], []) is None
    assert sent() == [46, 0]
    both = [rule(1, 46, users=frozenset({USER})), rule(2, 8)]
    assert marks.programs.carry_out(both, []) is None
    assert sent() == [46, 8]
    assert marks.programs.carry_out([*reversed(both)], []) is None
    assert sent() == [8, 8]
    assert marks.programs.carry_out([rule(1, 46, users=frozenset())], []) is None
    assert sent() == [0, 0]


def test_who_accepts_owns_the_connection(
    pair: tuple[Host, Host], marks: Marking, wire: Wire
) -> None:
    """Servers listen as root and serve as somebody else."""
    left, right = pair
    agent = Agent(left)
    agent.tell(f"l = socket.create_server(({left.ipv4!r}, 20_001))")
    assert marks.programs.carry_out([rule(1, 46, users=frozenset({USER}))], []) is None
    with right.enter():
        client = socket.create_connection((left.ipv4, 20_001), timeout=10)
    with client:
        agent.tell(f"os.seteuid({USER})", "s, _ = l.accept()", "s.sendall(b'x')")
        assert client.recv(1) == b"x"
        (answer, data) = until(wire, lambda sent: len(sent) == 2, comes_from(20_001))
    assert flags_of(answer) == SYN | ACK
    assert (answer.dscp, data.dscp) == (0, 46)


def test_rules_by_group(pair: tuple[Host, Host], marks: Marking, wire: Wire, run: Group) -> None:
    left, right = pair
    deep, shallow, other = Agent(left, run.below()), Agent(left, run), Agent(left)
    for agent in (deep, shallow, other):
        agent.make_udp()
    rules = [rule(1, 46, groups=frozenset({run.number})), rule(2, 8, groups=frozenset())]
    assert marks.programs.carry_out(rules, []) is None
    for agent in (deep, shallow, other):
        agent.send(right.ipv4)
    assert marks_of(wire, 3) == [46, 46, 0]
    # A run comes before rules.
    inside = RunClaim(Claim(3, Treatment(dscp=40)), frozenset({run.number}))
    assert marks.programs.carry_out(rules, [inside]) is None
    shallow.send(right.ipv4)
    assert marks_of(wire, 1) == [40]


@TELLS_TYPES
def test_rules_by_executable(
    pair: tuple[Host, Host], marks: Marking, wire: Wire, tmp_path: Path
) -> None:
    left, right = pair
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        shutil.copy(BASH, folder / "streamer")
    shutil.copy(BASH, tmp_path / "other")
    one, two = (folder / "streamer" for folder in folders)
    link = tmp_path / "link"
    link.symlink_to(one)
    programs = [str(path) for path in (one, two, tmp_path / "other", link)]
    exact = frozenset({Executable("streamer", one.stat().st_ino)})
    named = frozenset({Executable("streamer")})

    def sent() -> list[int]:
        for path in programs:
            say(left, path, right.ipv4)
        return marks_of(wire, 4)

    assert marks.programs.program_conditions == ""
    rules = [rule(1, 46, programs=exact), rule(2, 8, programs=named)]
    assert marks.programs.carry_out(rules, []) is None
    assert sent() == [46, 8, 0, 46]
    assert marks.programs.carry_out([*reversed(rules)], []) is None
    assert sent() == [8, 8, 0, 8]
    wrong = frozenset({Executable("other", one.stat().st_ino)})
    assert marks.programs.carry_out([rule(1, 46, programs=wrong)], []) is None
    assert sent() == [0, 0, 0, 0]


@TELLS_TYPES
def test_a_long_name(pair: tuple[Host, Host], marks: Marking, wire: Wire, tmp_path: Path) -> None:
    left, right = pair
    names = ["x" * 63, "x" * 62, "x" * 200]
    for name in names:
        shutil.copy(BASH, tmp_path / name)
    wanted = [rule(1, 46, programs=frozenset({Executable("x" * 62)}))]
    assert marks.programs.carry_out(wanted, []) is None
    for name in names:
        say(left, str(tmp_path / name), right.ipv4)
    assert marks_of(wire, 3) == [0, 46, 0]


@TELLS_TYPES
def test_who_made_a_socket_before_is_said(
    pair: tuple[Host, Host], marks: Marking, wire: Wire
) -> None:
    left, right = pair
    agent = Agent(left)
    for name in ("u", "v"):
        agent.make_udp(name=name)
    path = Path(f"/proc/{agent.process.pid}/exe").resolve()
    executable = Executable(path.name, path.stat().st_ino)
    wanted = [rule(1, 46, programs=frozenset({executable}))]
    assert marks.programs.carry_out(wanted, []) is None
    with agent.borrow() as sock:
        marks.programs.know_socket(sock.fileno(), executable)
    agent.make_udp(name="w")
    for name in ("u", "v", "w"):
        agent.send(right.ipv4, name=name)
    assert marks_of(wire, 3) == [46, 0, 46]


def test_rules_with_conditions_of_all_kinds(
    pair: tuple[Host, Host], marks: Marking, wire: Wire, run: Group
) -> None:
    left, right = pair
    inside, outside = Agent(left, run), Agent(left, run, uid=USER)
    for agent in (inside, outside):
        agent.make_udp()
    wanted = rule(
        1,
        46,
        users=frozenset({0}),
        groups=frozenset({run.number}),
        protocol=Transport.UDP,
        remote=ip_network(right.ipv4),
        remote_ports=Ports(20_000, 20_001),
    )
    last = rule(2, 8, remote_ports=Ports(20_002, 20_002))
    assert marks.programs.carry_out([wanted, last], []) is None
    for agent in (inside, outside):
        for port in (19_999, 20_000, 20_001, 20_002):
            agent.send(right.ipv4, port)
    seen = wire.take(8, lambda packet: packet.version == 4)
    assert [packet.dscp for packet in seen] == [0, 46, 46, 8, 0, 0, 0, 8]


def test_all_rules_there_may_be_and_not_one_more(
    pair: tuple[Host, Host], marks: Marking, wire: Wire
) -> None:
    left, right = pair
    agent = Agent(left)
    agent.make_udp()
    rules = [
        rule(number, number % 64, remote_ports=Ports(20_000 + number, 20_000 + number))
        for number in range(1, MOST_RULES + 1)
    ]
    assert marks.programs.carry_out(rules, []) is None
    for number in range(1, MOST_RULES + 1):
        agent.send(right.ipv4, 20_000 + number)
    seen = wire.take(MOST_RULES, lambda packet: packet.port > 20_000)
    assert [packet.dscp for packet in seen] == [*range(1, MOST_RULES), 0]
    refusal = marks.programs.carry_out([*rules, rule(99, 1)], [])
    assert refusal is not None
    assert refusal.code is ErrorCode.ERROR_NO_SYSTEM_RESOURCES
    agent.send(right.ipv4, 20_001)
    assert [packet.dscp for packet in wire.take(1, lambda one: one.port == 20_001)] == [1]


# -- what is before, and what is as before -------------------------------------------------------


def test_a_sockets_own_flow_comes_before_its_run(
    pair: tuple[Host, Host], marks: Marking, wire: Wire, run: Group
) -> None:
    left, right = pair
    agent = Agent(left, run)
    agent.make_udp()
    marks.run(run)
    with agent.borrow() as sock:
        cookie = cookie_of(sock)
    share = Share(7, Treatment(dscp=8), 1, (endpoint_at(ip_address(right.ipv4), 20_000, 0),))
    marks.plane.apply((SocketPlan(cookie, (share,), Transport.UDP),))
    for port in (20_000, 20_001):
        agent.send(right.ipv4, port)
    assert [packet.dscp for packet in wire.take(2, lambda one: one.port >= 20_000)] == [8, 46]
    marks.plane.apply((SocketPlan(cookie, ()),))
    agent.send(right.ipv4)
    assert marks_of(wire, 1) == [46]


def test_what_does_not_fit_changes_nothing(
    pair: tuple[Host, Host], marks: Marking, wire: Wire, run: Group
) -> None:
    left, right = pair
    agent = Agent(left, run)
    agent.make_udp()
    marks.run(run)
    slots = marks.presence.table.totals.slots
    full = [rule(2, 8), rule(3, 40, users=frozenset(range(1_000_000, 1_000_300)))]
    other = RunClaim(Claim(1, Treatment(dscp=10)), frozenset({run.number}))
    refusal = marks.programs.carry_out(full, [other])
    assert refusal is not None
    assert refusal.code is ErrorCode.ERROR_NO_SYSTEM_RESOURCES
    agent.send(right.ipv4)
    assert marks_of(wire, 1) == [46]
    # Nor is anything lost by trying again.
    for _ in range(5):
        assert marks.programs.carry_out(full, [other]) == refusal
    assert marks.presence.table.totals.slots == slots + 2
    assert marks.programs.carry_out([rule(2, 8)], [other]) is None
    agent.send(right.ipv4)
    assert marks_of(wire, 1) == [10]


def test_there_is_no_moment_without_a_policy(
    pair: tuple[Host, Host], marks: Marking, run: Group
) -> None:
    """A program sends all the time, and rules that say the same of it in other words follow."""
    left, right = pair
    agent = Agent(left, run)
    agent.make_udp()
    # A mixture of any two has no rule for it.
    unused = Ports(9, 9)
    policies = (
        [rule(1, 8, groups=frozenset({run.number})), rule(2, 46, users=frozenset({USER}))],
        [rule(1, 8, remote_ports=unused), rule(2, 46, users=frozenset({0}))],
        [rule(2, 46, remote=ip_network(right.ipv4)), rule(1, 8, remote_ports=unused)],
    )
    assert marks.programs.carry_out(policies[0], []) is None
    with watching(right, Direction.INCOMING) as capture:
        agent.order(f"[u.sendto(bytes(8), ({right.ipv4!r}, 20_000)) for _ in range(50_000)]")
        changes = 0
        while not agent.has_answered():
            changes += 1
            assert marks.programs.carry_out(policies[changes % 3], []) is None
        seen = capture.wait_for(50_000, where=lambda packet: packet.destination_port == 20_000)
    assert changes > 20
    assert {packet.dscp for packet in seen} == {8, 46}
    counted = marks.programs.traffic_of([1, 2])
    assert sum(each.packets for each in counted.values()) == 50_000


def test_doing_it_twice_changes_nothing_and_counters_stay(
    pair: tuple[Host, Host], marks: Marking, wire: Wire, run: Group
) -> None:
    left, right = pair
    agent = Agent(left, run)
    agent.make_udp()
    for dscp in (46, 46, 8):
        marks.run(run, dscp=dscp)
        agent.send(right.ipv4)
        assert marks_of(wire, 1) == [dscp]
    assert marks.programs.traffic_of([1])[1].packets == 3
    with pytest.raises(ValueError, match="differ"):
        marks.programs.carry_out([rule(1, 1), rule(1, 2)], [])


def test_the_end(pair: tuple[Host, Host], wire: Wire, run: Group) -> None:
    left, right = pair
    agent = Agent(left, run)
    agent.make_udp()
    with marking(left) as marks:
        marks.run(run)
        agent.send(right.ipv4)
        assert marks_of(wire, 1) == [46]
        programs = marks.programs
    agent.send(right.ipv4)
    assert marks_of(wire, 1) == [0]
    refusal = programs.carry_out([], [RunClaim(Claim(1, Treatment()), frozenset())])
    assert refusal is not None
    assert refusal.code is ErrorCode.ERROR_NOT_SUPPORTED


def test_what_the_kernel_itself_sends_is_no_users(
    pair: tuple[Host, Host], marks: Marking, wire: Wire
) -> None:
    """Its own sockets are root's by name: answers to pings, refusals of connections."""
    left, right = pair
    assert marks.programs.carry_out([rule(1, 46, users=frozenset({0}))], []) is None
    with right.enter(), socket.socket() as sock, pytest.raises(ConnectionRefusedError):
        sock.connect((left.ipv4, 9))
    (reset,) = wire.take(1, lambda packet: packet.source_port == 9)
    assert (flags_of(reset) & RST, reset.dscp) == (RST, 0)
    ping = right.popen(["ping", "-c", "1", "-Q", "0", left.ipv4], stdout=-3)
    ping.wait(10)
    assert marks.programs.traffic_of([1])[1].packets == 0


def test_without_a_description_of_types_all_else_is_as_well() -> None:
    def nothing() -> bytes:
        return b""

    creation = Creation(-1, nothing)
    assert "cut off" in creation.begin()
    creation.close()


# -- rights ------------------------------------------------------------------------------------

TRY = """
from ipaddress import ip_network
from openqwave.enforcement.bpf.creation import Creation
from openqwave.enforcement.bpf.program import EgressProgram, Sizes
from openqwave.enforcement.claims import Claim, RuleClaim
from openqwave.model.flow import Treatment
import socket
with EgressProgram.load(Sizes(16, 16, 16, 16, 16)) as program, socket.socket() as sock:
    rule = RuleClaim(Claim(1, Treatment()), frozenset({1}), None, frozenset({2}))
    program.claims.write([(rule, 1)], {3: 1})
    program.claims.bring_in_force()
    program.claims.put_run(1, 1)
    program.claims.set_run(sock.fileno(), 1)
    print("all but executables")
    creation = Creation(program.owners)
    print(creation.begin() or "and executables")
    creation.close()
"""


@pytest.mark.parametrize(
    ("rights", "said"),
    [
        pytest.param("+net_admin,+cap_38,+cap_39", "and executables", marks=TELLS_TYPES),
        ("+net_admin,+cap_39", "CAP_PERFMON is missing"),
    ],
)
def test_two_rights_suffice_for_all_but_executables(rights: str, said: str) -> None:
    kept = f"-all,{rights}"
    caps = [f"--{kind}={kept}" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
    outcome = subprocess.run(
        [
            *("/usr/bin/setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *caps),
            *(sys.executable, "-c", TRY),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "all but executables" in outcome.stdout, outcome
    assert said in outcome.stdout, outcome

"""What is left behind: nothing, whoever ends and however; and what routes there are.

The sockets here outlive what marked them, because this process holds them too, so what is
left of a mark would be seen in their next packets.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv6Address

import pytest

import openqwave as qw
from openqwave.drivers.links import Links
from openqwave.lab.capture import Capture, CapturedPacket, Direction
from openqwave.lab.topology import Host, Lab
from tests.unit.loopback import UNPACED, options_of, pacing_of

pytestmark = pytest.mark.kernel

PATIENCE_S = 20.0
PORT = 9


@contextmanager
def udp(family: socket.AddressFamily = socket.AF_INET) -> Iterator[socket.socket]:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        yield sock


def sent(capture: Capture, sock: socket.socket, payload: bytes) -> CapturedPacket:
    """Send one packet and return it as it arrived."""
    sock.send(payload)
    (packet,) = capture.wait_for(1, PATIENCE_S, lambda one: one.payload == payload)
    return packet


# -- the end of a process -------------------------------------------------------------

PROGRAM = """
import os, signal, socket, sys, threading
import openqwave as qw
sock = socket.socket(fileno=int(sys.argv[1]))
qos = qw.open()
flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
if sock.type == socket.SOCK_STREAM:
    flow.set_rate(1_000_000)
sock.detach()
print("marked", flush=True)
sys.stdin.readline()
ENDING
"""
ENDINGS = {
    "falls off the end": "",
    "sys.exit": "sys.exit(3)",
    "exception": "raise ZeroDivisionError",
    "handle closed": "qos.close(); os._exit(0)",
    "interrupted": "signal.raise_signal(signal.SIGINT)",
    "ends in a thread's time": "threading.Thread(target=sys.exit).start()",
}


@pytest.mark.parametrize("how", ENDINGS)
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_process_that_ends_leaves_no_mark(
    pair: tuple[Host, Host], how: str, transport: str
) -> None:
    # "The death of the process does the same. No kernel state of the flow outlives it."
    left, right = pair
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    with ExitStack() as stack:
        capture = stack.enter_context(right.capture(Direction.INCOMING))
        with right.enter():
            sink = stack.enter_context(socket.socket(socket.AF_INET, kind))
        sink.bind((right.ipv4, 0))
        with left.enter():
            sock = stack.enter_context(socket.socket(socket.AF_INET, kind))
        if transport == "tcp":
            sink.listen()
        sock.connect(sink.getsockname())
        if transport == "tcp":
            stack.enter_context(sink.accept()[0])
        assert sent(capture, sock, b"before").dscp == 0
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM.replace("ENDING", ENDINGS[how]), str(sock.fileno())],
            pass_fds=[sock.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as program:
            assert program.stdin is not None
            assert program.stdout is not None
            assert program.stdout.readline() == "marked\n"
            assert sent(capture, sock, b"marked").dscp == 56
            program.stdin.write("\n")
            program.stdin.flush()
            program.wait(PATIENCE_S)
        assert sent(capture, sock, b"after").dscp == 0
        assert (options_of(sock).priority, pacing_of(sock)) == (0, UNPACED)


def test_a_killed_process_takes_its_own_sockets_along(pair: tuple[Host, Host]) -> None:
    # Nothing can give options back after SIGKILL. A socket that nobody shares is gone then,
    # and the next one on the same port starts without marks.
    left, right = pair
    program = """
import socket, sys, time
import openqwave as qw
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 5555))
sock.connect((sys.argv[2], 9))
qw.open().add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
sock.send(b"marked")
print("marked", flush=True)
sys.stdin.readline()
"""
    with right.capture(Direction.INCOMING) as capture:
        process = left.popen(
            [sys.executable, "-c", program, left.ipv4, right.ipv4],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "marked\n"
            (marked,) = capture.wait_for(1, PATIENCE_S, lambda one: one.payload == b"marked")
            os.kill(process.pid, signal.SIGKILL)
            process.wait(PATIENCE_S)
        with left.enter(), udp() as sock:
            sock.bind((left.ipv4, 5555))
            sock.connect((right.ipv4, PORT))
            after = sent(capture, sock, b"after")
    assert (marked.dscp, marked.source_port) == (56, 5555)
    assert (after.dscp, after.source_port) == (0, 5555)


def test_a_forked_child_that_ends_leaves_the_mark(pair: tuple[Host, Host]) -> None:
    left, right = pair
    with ExitStack() as stack:
        capture = stack.enter_context(right.capture(Direction.INCOMING))
        with right.enter():
            sink = stack.enter_context(udp())
        sink.bind((right.ipv4, 0))
        with left.enter():
            sock = stack.enter_context(udp())
        sock.connect(sink.getsockname())
        with qw.open() as qos:
            qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
            child = os.fork()
            if child == 0:
                qos.close()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert sent(capture, sock, b"still").dscp == 56
        assert sent(capture, sock, b"after").dscp == 0


# -- routes ---------------------------------------------------------------------------


def add(sock: socket.socket, *destinations: tuple[str, int] | tuple[str, int, int, int]) -> None:
    """Put a socket in a flow towards each of some destinations."""
    with qw.open() as qos:
        for destination in destinations:
            qos.add_socket(sock, destination, traffic_type=qw.TrafficType.VOICE, adaptive=False)
            assert options_of(sock).tos == 56 << 2


@pytest.mark.parametrize("network", ["v4", "v6"])
@pytest.mark.parametrize("first", ["loopback", "own address", "other host"])
def test_destinations_one_after_the_other(
    pair: tuple[Host, Host], network: str, first: str
) -> None:
    # Whatever was asked about before: a datagram socket that was connected to loopback has a
    # source address that leads nowhere else.
    left, right = pair
    family = socket.AF_INET if network == "v4" else socket.AF_INET6
    own, other = (left.ipv4, right.ipv4) if network == "v4" else (left.ipv6, right.ipv6)
    loopback = "127.0.0.1" if network == "v4" else "::1"
    hosts = {"loopback": loopback, "own address": own, "other host": other}
    with left.enter(), udp(family) as sock:
        add(sock, (hosts[first], PORT), *[(host, PORT) for host in hosts.values()])


@pytest.mark.parametrize("network", ["v4", "v6"])
def test_no_route(pair: tuple[Host, Host], network: str) -> None:
    # By contract: "No route: ERROR_HOST_UNREACHABLE."
    left, _ = pair
    family = socket.AF_INET if network == "v4" else socket.AF_INET6
    nowhere = "198.51.100.1" if network == "v4" else "2001:db8::1"
    with left.enter(), udp(family) as sock, qw.open() as qos:
        with pytest.raises(qw.HostUnreachable):
            qos.add_socket(sock, (nowhere, PORT), adaptive=False)
        with pytest.raises(qw.HostUnreachable):
            qos.track(nowhere)
        assert options_of(sock).tos == 0


def test_the_applications_interface_is_heeded(lab: Lab) -> None:
    # A socket that is bound to an interface reaches only what lies behind it. (IPv4 takes
    # every destination for on-link then, so there only IPv6 has an answer.)
    middle, left, right = lab.host("middle"), lab.host("left"), lab.host("right")
    lab.link(middle, left)
    lab.link(middle, right)
    towards_left, _ = middle.interfaces
    with middle.enter(), udp(socket.AF_INET6) as sock, qw.open() as qos:
        name = towards_left.name.encode() + b"\0"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name)
        qos.add_socket(sock, (left.ipv6, PORT), adaptive=False)
        with pytest.raises(qw.HostUnreachable):
            qos.add_socket(sock, (right.ipv6, PORT), adaptive=False)
    with middle.enter(), udp(socket.AF_INET6) as free:
        add(free, (left.ipv6, PORT), (right.ipv6, PORT))


def test_two_namespaces_in_turn(pair: tuple[Host, Host]) -> None:
    # One process, sockets of two namespaces; each is asked about in its own.
    left, right = pair
    with qw.open() as qos:
        for _ in range(2):
            for near, far in ((left, right), (right, left)):
                with near.enter(), udp() as sock:
                    qos.add_socket(sock, (far.ipv4, PORT), adaptive=False)
                    with pytest.raises(qw.HostUnreachable):
                        qos.add_socket(sock, ("198.51.100.1", PORT), adaptive=False)


def test_a_socket_of_another_namespace(pair: tuple[Host, Host]) -> None:
    # It cannot be asked about from here, so the question is left open.
    left, right = pair
    with left.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock, qw.open() as qos:
        qos.add_socket(sock, (right.ipv4, PORT), traffic_type=qw.TrafficType.VOICE, adaptive=False)
        assert options_of(sock).tos == 56 << 2


def link_local(host: Host) -> str:
    """The address that the kernel made from the interface's Ethernet address (RFC 4291)."""
    octets = [int(one, 16) for one in host.interface.mac.split(":")]
    octets[0] ^= 2
    numbers = [*octets[:3], 0xFF, 0xFE, *octets[3:]]
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + bytes(numbers)))


def test_link_local_destinations(pair: tuple[Host, Host]) -> None:
    left, right = pair
    scope = left.interface.index
    with right.capture(Direction.INCOMING) as capture, left.enter():
        with udp(socket.AF_INET6) as sock, qw.open() as qos:
            with pytest.raises(qw.InvalidParameter, match="scope"):
                qos.add_socket(sock, (link_local(right), PORT), adaptive=False)
            for destination in (
                (link_local(right), PORT, 0, scope),
                (f"{link_local(right)}%{scope}", PORT),
                (f"{link_local(right)}%{left.interface.name}", PORT),
            ):
                flow = qos.add_socket(
                    sock, destination, traffic_type=qw.TrafficType.VOICE, adaptive=False
                )
            assert flow.packet_priority().conformant_dscp == 56
        with udp(socket.AF_INET6) as sock, qw.open() as qos:
            sock.connect((link_local(right), PORT, 0, scope))
            qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
            packet = sent(capture, sock, b"marked")
    assert (packet.dscp, packet.destination) == (56, link_local(right))


def test_hosts_whose_sockets_are_ipv6_only_by_default(pair: tuple[Host, Host]) -> None:
    left, right = pair
    left.sysctl({"net/ipv6/bindv6only": 1})
    with left.enter(), udp(socket.AF_INET6) as sock, qw.open() as qos:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.connect((f"::ffff:{right.ipv4}", PORT))
        qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
        assert options_of(sock).tos == 56 << 2


def test_udp_is_refused_a_rate_without_fq(pair: tuple[Host, Host]) -> None:
    left, right = pair
    with left.enter(), udp() as sock, qw.open() as qos:
        sock.connect((right.ipv4, PORT))
        flow = qos.add_socket(sock, adaptive=False)
        with pytest.raises(qw.NotSupported, match="fq"):
            flow.set_rate(1_000_000)
        assert pacing_of(sock) == UNPACED


def test_udp_is_paced_where_fq_runs(pair: tuple[Host, Host]) -> None:
    left, right = pair
    if not left.interface.try_qdisc("fq"):
        pytest.skip("this kernel has no fq queue")
    if Links().linux_version() < (6, 7):
        pytest.skip("the rate is refused before Linux 6.7")
    with left.enter(), udp() as sock, qw.open() as qos:
        sock.connect((right.ipv4, PORT))
        flow = qos.add_socket(sock, adaptive=False)
        flow.set_rate(8_000_000)
        assert pacing_of(sock) == 1_000_000 * 1_514 // 1_500
        flow.close()
        assert pacing_of(sock) == UNPACED

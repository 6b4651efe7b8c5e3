"""What flows promise, seen where it counts: in the packets that reach the other host.

Every packet of the flow's socket has to carry the marks, and every packet of a socket beside
it has to be as its application made it. The capture stands at the receiving end, in another
network namespace.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

import openqwave as qw
from openqwave.lab.capture import Capture, CapturedPacket, Direction
from openqwave.lab.topology import Host
from tests.unit.loopback import set_tclass, set_tos

# `Wire.socket` makes them, and hides the module's name from annotations.
Socket = socket.socket

pytestmark = pytest.mark.kernel

PATIENCE_S = 20.0
COUNT = 3

# By contract, "Marks by traffic type".
TYPES = {
    qw.TrafficType.BEST_EFFORT: 0,
    qw.TrafficType.BACKGROUND: 8,
    qw.TrafficType.EXCELLENT_EFFORT: 40,
    qw.TrafficType.AUDIO_VIDEO: 40,
    qw.TrafficType.VOICE: 56,
    qw.TrafficType.CONTROL: 56,
}


@dataclass(frozen=True)
class Kind:
    """A way for a socket to send to the other host."""

    network: str  # v4, v6, or mapped: an IPv6 socket that speaks IPv4
    transport: str
    is_connected: bool
    is_bound: bool = False

    def __str__(self) -> str:
        words = [self.network, self.transport]
        words += ["connected" if self.is_connected else "unconnected"]
        words += ["bound"] if self.is_bound else []
        return "-".join(words)

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET if self.network == "v4" else socket.AF_INET6

    @property
    def type(self) -> socket.SocketKind:
        return socket.SOCK_DGRAM if self.transport == "udp" else socket.SOCK_STREAM

    def address(self, host: Host) -> str:
        """A host's address as this kind of socket writes it."""
        return {"v4": host.ipv4, "v6": host.ipv6, "mapped": f"::ffff:{host.ipv4}"}[self.network]


KINDS = [
    Kind(network, transport, is_connected, is_bound)
    for network, transport, is_connected, is_bound in itertools.product(
        ("v4", "v6", "mapped"), ("udp", "tcp"), (True, False), (False, True)
    )
    # Programs that serve IPv4 peers through an IPv6 socket have to connect it: the contract
    # takes no mapped destination.
    if network != "mapped" or is_connected
]
DATAGRAMS = [kind for kind in KINDS if kind.transport == "udp" and not kind.is_bound]
CONNECTED = [kind for kind in KINDS if kind.is_connected and not kind.is_bound]
by_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
by_type = pytest.mark.parametrize("traffic_type", TYPES, ids=lambda t: t.name)


@pytest.fixture(scope="module")
def capture(hosts: tuple[Host, Host]) -> Iterator[Capture]:
    # One for all tests, because closing one takes longer than most of them.
    with hosts[1].capture(Direction.INCOMING) as made:
        yield made


def echo(far: Socket) -> None:
    """Send everything back until the other end closes."""
    with far:
        far.settimeout(PATIENCE_S)
        while data := far.recv(1 << 16):
            far.sendall(data)


class Wire:
    """One sender's view: sockets on the left host, and what of them arrives on the right."""

    def __init__(
        self, left: Host, right: Host, capture: Capture, stack: contextlib.ExitStack
    ) -> None:
        self.left, self.right, self.capture, self.stack = left, right, capture, stack

    def listen(self, kind: Kind) -> int:
        """Somebody on the right host who takes what comes; returns the port."""
        with self.right.enter():
            sink = self.stack.enter_context(socket.socket(kind.family, kind.type))
        sink.bind((kind.address(self.right), 0))
        if kind.transport == "tcp":
            sink.listen()
            sink.settimeout(PATIENCE_S)
            thread = threading.Thread(target=self._take, args=(sink,), daemon=True)
            thread.start()
            self.stack.callback(thread.join, PATIENCE_S)
            self.stack.callback(sink.shutdown, socket.SHUT_RDWR)
        port = sink.getsockname()[1]
        assert isinstance(port, int)
        return port

    def _take(self, sink: Socket) -> None:
        echoes = []
        while True:
            try:
                far, _ = sink.accept()
            except OSError:
                break
            echoes.append(threading.Thread(target=echo, args=(far,), daemon=True))
            echoes[-1].start()
        for thread in echoes:
            thread.join(PATIENCE_S)

    def socket(self, kind: Kind, port: int) -> Socket:
        """A socket of a kind on the left host; TCP's connects later if it is unconnected."""
        sock = self.stack.enter_context(socket.socket(kind.family, kind.type))
        sock.settimeout(PATIENCE_S)
        if kind.transport == "tcp":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if kind.is_bound:
            sock.bind((kind.address(self.left), 0))
        if kind.is_connected:
            sock.connect((kind.address(self.right), port))
        return sock

    def destination(self, kind: Kind, port: int) -> tuple[str, int] | None:
        return None if kind.is_connected else (kind.address(self.right), port)

    def send(self, kind: Kind, sock: Socket, port: int, payload: bytes) -> None:
        target = kind.address(self.right), port
        if kind.transport == "udp" and not kind.is_connected:
            sock.sendto(payload, target)
            return
        with contextlib.suppress(OSError):
            if kind.transport == "tcp" and not kind.is_connected:
                # At the first packet; later ones find it connected.
                sock.connect(target)
        sock.sendall(payload)
        if kind.transport == "tcp":
            # The echo acknowledges it, so the next payload is not joined to this one.
            left = len(payload)
            while left:
                left -= len(sock.recv(left)) or left

    def seen(self, *payloads: bytes) -> list[list[CapturedPacket]]:
        """The packets that carried some payloads, `COUNT` times each."""
        wanted = set(payloads)
        packets = self.capture.wait_for(
            COUNT * len(payloads), PATIENCE_S, lambda packet: packet.payload in wanted
        )
        found = [[p for p in packets if p.payload == payload] for payload in payloads]
        assert [len(one) for one in found] == [COUNT] * len(payloads)
        return found


@pytest.fixture
def wire(hosts: tuple[Host, Host], capture: Capture) -> Iterator[Wire]:
    left, right = hosts
    capture.packets()
    with contextlib.ExitStack() as stack:
        stack.enter_context(left.enter())
        yield Wire(left, right, capture, stack)


def marks(packets: list[CapturedPacket]) -> set[tuple[int, int]]:
    """DSCP and ECN."""
    return {(packet.dscp, packet.ecn) for packet in packets}


@by_type
@by_kind
def test_marks_by_type(wire: Wire, kind: Kind, traffic_type: qw.TrafficType) -> None:
    # By contract: "Non-adaptive: marks apply from the call's return".
    port = wire.listen(kind)
    ours, beside = wire.socket(kind, port), wire.socket(kind, port)
    with qw.open() as qos:
        flow = qos.add_socket(
            ours, wire.destination(kind, port), traffic_type=traffic_type, adaptive=False
        )
        for _ in range(COUNT):
            wire.send(kind, ours, port, b"in the flow")
            wire.send(kind, beside, port, b"beside")
        in_flow, others = wire.seen(b"in the flow", b"beside")
        dscp = TYPES[traffic_type]
        assert marks(in_flow) == {(dscp, 0)}
        assert marks(others) == {(0, 0)}
        assert {packet.version for packet in in_flow} == {6 if kind.network == "v6" else 4}
        # "the four marks really applied"
        assert flow.packet_priority().conformant_dscp == dscp


# How a flow's marks can end.
ENDINGS: dict[str, Callable[[qw.Qos, qw.Flow, Socket], None]] = {
    "socket removed": lambda _, flow, sock: flow.remove_socket(sock),
    "flow closed": lambda _, flow, __: flow.close(),
    "handle closed": lambda qos, _, __: qos.close(),
    "type best effort": lambda _, flow, __: flow.set_traffic_type(qw.TrafficType.BEST_EFFORT),
    "rate 0": lambda _, flow, __: flow.set_rate(0),
    "taken over": lambda _, __, sock: take_over(sock),
}


def take_over(sock: Socket) -> None:
    with qw.open() as other:
        other.add_socket(sock, adaptive=False)


@pytest.mark.parametrize("how", ENDINGS)
@pytest.mark.parametrize("kind", CONNECTED, ids=str)
def test_marks_end(wire: Wire, kind: Kind, how: str) -> None:
    # By contract: "Unmarking is done before the call returns."
    port = wire.listen(kind)
    sock = wire.socket(kind, port)
    with qw.open() as qos:
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
        for _ in range(COUNT):
            wire.send(kind, sock, port, b"before")
        ENDINGS[how](qos, flow, sock)
        for _ in range(COUNT):
            wire.send(kind, sock, port, b"after")
    before, after = wire.seen(b"before", b"after")
    assert marks(before) == {(56, 0)}
    assert marks(after) == {(0, 0)}


@pytest.mark.parametrize("kind", CONNECTED, ids=str)
def test_types_change_between_two_packets(wire: Wire, kind: Kind) -> None:
    # By contract: "new type, new marks before the call returns".
    port = wire.listen(kind)
    sock = wire.socket(kind, port)
    order = list(itertools.permutations(TYPES, 2))
    with qw.open() as qos:
        flow = qos.add_socket(sock, adaptive=False)
        for number, (_, traffic_type) in enumerate(order):
            flow.set_traffic_type(traffic_type)
            wire.send(kind, sock, port, b"%d" % number)
    packets = wire.capture.wait_for(len(order), PATIENCE_S, lambda p: p.payload.isdigit())
    assert [packet.dscp for packet in packets] == [TYPES[after] for _, after in order]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.is_bound], ids=str)
def test_every_exact_dscp(wire: Wire, kind: Kind) -> None:
    # "exact mark on a non-adaptive flow", 0 to 63.
    port = wire.listen(kind)
    sock = wire.socket(kind, port)
    with qw.open() as qos:
        flow = qos.add_socket(
            sock,
            wire.destination(kind, port),
            traffic_type=qw.TrafficType.VOICE,
            adaptive=False,
        )
        for dscp in range(64):
            flow.set_dscp(dscp)
            wire.send(kind, sock, port, b"%d" % dscp)
        packets = wire.capture.wait_for(64, PATIENCE_S, lambda p: p.payload.isdigit())
        # "cancels an explicit DSCP"
        flow.set_traffic_type(qw.TrafficType.AUDIO_VIDEO)
        wire.send(kind, sock, port, b"typed")
        (typed,) = wire.capture.wait_for(1, PATIENCE_S, lambda p: p.payload == b"typed")
    assert [(packet.payload, packet.dscp) for packet in packets] == [
        (b"%d" % dscp, dscp) for dscp in range(64)
    ]
    assert typed.dscp == 40


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("ecn", range(4))
@pytest.mark.parametrize("kind", DATAGRAMS, ids=str)
def test_the_applications_ecn_is_kept(wire: Wire, kind: Kind, ecn: int, when: str) -> None:
    # "Marking never changes the two ECN bits of a packet."
    port = wire.listen(kind)
    sock = wire.socket(kind, port)

    def write(dscp: int) -> None:
        set_tos(sock, dscp << 2 | ecn)
        if kind.family == socket.AF_INET6:
            set_tclass(sock, dscp << 2 | ecn)

    if when == "before":
        write(0)
    with qw.open() as qos:
        qos.add_socket(
            sock,
            wire.destination(kind, port),
            traffic_type=qw.TrafficType.VOICE,
            adaptive=False,
        )
        if when == "meanwhile":
            # As programs do that set ECN alone: the octet is read, two bits are changed.
            write(56)
        for _ in range(COUNT):
            wire.send(kind, sock, port, b"marked")
    for _ in range(COUNT):
        wire.send(kind, sock, port, b"unmarked")
    marked, unmarked = wire.seen(b"marked", b"unmarked")
    assert marks(marked) == {(56, ecn)}
    assert marks(unmarked) == {(0, ecn)}


@pytest.mark.parametrize("network", ["v4", "v6"])
def test_one_socket_to_several_hosts(hosts: tuple[Host, Host], wire: Wire, network: str) -> None:
    # "one socket with several destinations": all of them get the flow's marks.
    kind = Kind(network, "udp", is_connected=False)
    ports = [wire.listen(kind) for _ in range(3)]
    sock = wire.socket(kind, ports[0])
    address = kind.address(hosts[1])
    with qw.open() as qos:
        flow = qos.add_socket(
            sock, (address, ports[0]), traffic_type=qw.TrafficType.VOICE, adaptive=False
        )
        for port in ports[1:]:
            flow.add_socket(sock, (address, port))
        for port in ports:
            wire.send(kind, sock, port, b"each")
        (packets,) = wire.seen(b"each")
    assert {packet.destination_port for packet in packets} == set(ports)
    assert marks(packets) == {(56, 0)}


def test_a_dual_stack_socket_to_both_worlds(hosts: tuple[Host, Host], wire: Wire) -> None:
    # An unconnected IPv6 socket sends IPv4 packets to mapped addresses; an option that marked
    # only one of the two families would show here.
    worlds = [Kind("v6", "udp", is_connected=False), Kind("mapped", "udp", is_connected=False)]
    ports = [wire.listen(kind) for kind in worlds]
    sock = wire.socket(worlds[0], ports[0])
    with qw.open() as qos:
        qos.add_socket(
            sock, (hosts[1].ipv6, ports[0]), traffic_type=qw.TrafficType.VOICE, adaptive=False
        )
        for kind, port in zip(worlds, ports, strict=True):
            for _ in range(COUNT):
                wire.send(kind, sock, port, kind.network.encode())
    six, four = wire.seen(b"v6", b"mapped")
    assert {packet.version for packet in four} == {4}
    assert {packet.version for packet in six} == {6}
    assert marks(six) == marks(four) == {(56, 0)}


def test_the_handshake_is_marked_too(wire: Wire) -> None:
    # A flow made before connect marks the connection from its first packet.
    kind = Kind("v4", "tcp", is_connected=False)
    port = wire.listen(kind)
    sock = wire.socket(kind, port)
    with qw.open() as qos:
        qos.add_socket(
            sock,
            wire.destination(kind, port),
            traffic_type=qw.TrafficType.VOICE,
            adaptive=False,
        )
        wire.send(kind, sock, port, b"data")
        packets = wire.capture.wait_for(3, PATIENCE_S, lambda p: p.destination_port == port)
    assert {packet.dscp for packet in packets} == {56}


# -- pacing ---------------------------------------------------------------------------

RATE_BPS = 20_000_000
# 0.8 s of that rate, so that the first packets, which leave without waiting, weigh little.
BULK_BYTES = 2_000_000
# Seen in 24 runs: 20.1 to 20.4 Mbit/s of IP packets. Ten times that deviation is allowed;
# without pacing the same transfer runs at hundreds of Mbit/s.
DEVIATION = 0.2


def transfer(wire: Wire, sock: Socket, reader: threading.Thread) -> list[CapturedPacket]:
    """Send bulk and return its packets as they arrived."""
    source_port = sock.getsockname()[1]
    sock.sendall(bytes(BULK_BYTES))
    sock.shutdown(socket.SHUT_WR)
    reader.join(PATIENCE_S)
    assert not reader.is_alive(), "the transfer is far too slow"
    return [
        packet
        for packet in wire.capture.packets()
        if packet.source_port == source_port and packet.payload
    ]


def rate_of(packets: list[CapturedPacket]) -> float:
    """Bits per second of IP packets, from the first packet's arrival to the last one's."""
    duration_ns = packets[-1].time_ns - packets[0].time_ns
    return sum(packet.length_bytes for packet in packets[1:]) * 8 * 1e9 / duration_ns


def drain(wire: Wire, kind: Kind) -> tuple[int, threading.Thread]:
    """A port on the right host, and a thread that reads one connection there to its end."""
    with wire.right.enter():
        sink = wire.stack.enter_context(socket.socket(kind.family, kind.type))
    sink.bind((kind.address(wire.right), 0))
    sink.listen()
    sink.settimeout(PATIENCE_S)

    def read() -> None:
        far, _ = sink.accept()
        with far:
            far.settimeout(PATIENCE_S)
            while far.recv(1 << 16):
                pass

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    port = sink.getsockname()[1]
    assert isinstance(port, int)
    return port, thread


@pytest.mark.parametrize("network", ["v4", "v6"])
@pytest.mark.parametrize(
    ("shaping", "dscp"),
    [(qw.Shaping.SHAPE_AND_MARK, 40), (qw.Shaping.SHAPE_ONLY, 0)],
    ids=["marked", "unmarked"],
)
@pytest.mark.parametrize("when", ["connected", "before connect"])
def test_tcp_is_held_to_its_rate(
    wire: Wire, network: str, shaping: qw.Shaping, dscp: int, when: str
) -> None:
    # "ShapeOnly: excess is delayed; packets go unmarked [...]. ShapeAndMark: excess is delayed,
    # every packet gets conformant marks."
    kind = Kind(network, "tcp", is_connected=when == "connected")
    port, reader = drain(wire, kind)
    sock = wire.socket(kind, port)
    with qw.open() as qos:
        flow = qos.add_socket(
            sock,
            wire.destination(kind, port),
            traffic_type=qw.TrafficType.AUDIO_VIDEO,
            adaptive=False,
        )
        flow.set_rate(RATE_BPS, shaping=shaping)
        if when != "connected":
            sock.connect((kind.address(wire.right), port))
        packets = transfer(wire, sock, reader)
    assert {packet.dscp for packet in packets} == {dscp}
    assert rate_of(packets) == pytest.approx(RATE_BPS, rel=DEVIATION)


def test_the_rate_ends_with_the_flow(wire: Wire) -> None:
    kind = Kind("v4", "tcp", is_connected=True)
    port, reader = drain(wire, kind)
    sock = wire.socket(kind, port)
    with qw.open() as qos:
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.AUDIO_VIDEO, adaptive=False)
        flow.set_rate(100_000)
    # At 100 kbit/s this would take minutes. Seen: 27 Mbit/s on average, because BBR, which
    # measured the paced path, needs some round trips to believe in a faster one.
    packets = transfer(wire, sock, reader)
    assert {packet.dscp for packet in packets} == {0}
    assert rate_of(packets) > 10 * 100_000

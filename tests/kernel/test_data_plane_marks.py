"""Marks by destination through the service, to the last packet: whose are marked, and whose not."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

import openqwave as qw
from openqwave.lab.capture import Direction
from tests.kernel.data_plane_stage import PATIENCE_S, open_socket, serving
from tests.kernel.exits import ip
from tests.kernel.programs import Family, disconnect

if TYPE_CHECKING:
    from openqwave.lab.capture import Capture, CapturedPacket
    from openqwave.lab.topology import Host
    from tests.kernel.service_stage import Qwaved

pytestmark = [pytest.mark.kernel, pytest.mark.root]

HOSTS = 10
PORTS = tuple(range(6_000, 6_010))
TYPES = tuple(qw.TrafficType)
# By type, as the table of the contract has it; None: packets stay as they are.
DSCPS = (None, 8, 40, 40, 56, 56)
# What the application itself has put on all that it sends.
OWN_DSCP = 10
ECNS = range(4)

Address = tuple[str, int]
# Where a packet went, and what the application says of it.
Key = tuple[str, int, bytes]


@pytest.fixture
def service(pair: tuple[Host, Host]) -> Iterator[Qwaved]:
    with serving(pair[0]) as made:
        yield made


@dataclass
class Town:
    """The right host, under many addresses, where somebody listens at each of `PORTS`."""

    addresses: dict[Family, list[str]]
    receivers: list[socket.socket]

    def destinations(self, *families: Family) -> list[Address]:
        """A hundred, the families in turns."""
        each = [self.addresses[families[number % len(families)]][number] for number in range(HOSTS)]
        return [(address, port) for port in PORTS for address in each]

    def heard(self) -> int:
        """How many datagrams came up to here since the last time: with sums that are right."""
        count = 0
        for receiver in self.receivers:
            with contextlib.suppress(BlockingIOError):
                while receiver.recv(64):
                    count += 1
        return count


@pytest.fixture
def town(pair: tuple[Host, Host]) -> Iterator[Town]:
    right = pair[1]
    v4 = [f"{right.ipv4.rpartition('.')[0]}.{number}" for number in range(101, 101 + HOSTS)]
    v6 = [f"{right.ipv6.rpartition(':')[0]}:{number:x}" for number in range(0x101, 0x101 + HOSTS)]
    for address in v4:
        ip(right, f"addr add {address}/24 dev eth0")
    for address in v6:
        ip(right, f"addr add {address}/64 dev eth0 nodad")
    receivers = []
    for port in PORTS:
        receiver = open_socket(right, socket.AF_INET6)
        receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        receiver.bind(("::", port))
        receiver.setblocking(False)
        receivers.append(receiver)
    mapped = [f"::ffff:{address}" for address in v4]
    yield Town({Family.V4: v4, Family.V6: v6, Family.MAPPED: mapped}, receivers)
    for receiver in receivers:
        receiver.close()


def write_octet(sock: socket.socket, octet: int) -> None:
    """The application's own code point and ECN bits, for both families."""
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, octet)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, octet)


def sender(host: Host, family: Family, port: int = 20_000) -> socket.socket:
    """A socket that is bound to a port by number, which it keeps when it is disconnected."""
    sock = open_socket(host, family.number)
    if family is Family.MAPPED:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    write_octet(sock, OWN_DSCP << 2)
    sock.bind(("::" if family is not Family.V4 else "0.0.0.0", port))  # noqa: S104 - in the lab
    return sock


def plain(address: str) -> str:
    """How a capture names it."""
    return address.removeprefix("::ffff:")


def is_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


def join(
    qos: qw.Qos, flow: qw.Flow | None, kind: qw.TrafficType, sock: socket.socket, to: Address
) -> qw.Flow:
    """Let a destination join a flow, or make one of it.

    A mapped address is refused as a destination, so the socket is connected for the call, as
    Sunshine does it.
    """
    named: Address | None = to
    if to[0].startswith("::ffff:"):
        sock.connect(to)
        named = None
    try:
        if flow is None:
            return qos.add_socket(sock, named, traffic_type=kind, adaptive=False)
        flow.add_socket(sock, named)
        return flow
    finally:
        if named is None:
            disconnect(sock)


class Wire:
    """What arrives of some sockets' packets, each told by its sender, receiver and words."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self.wanted: dict[tuple[int, Key], tuple[int, int]] = {}

    def send(self, sock: socket.socket, to: Address, words: bytes, dscp: int, ecn: int = 0) -> None:
        """Send, and say how the packet must look."""
        self.wanted[is_of(sock), (plain(to[0]), to[1], words)] = dscp, ecn
        sock.sendto(words, to)

    def differing(self) -> dict[tuple[int, Key], tuple[tuple[int, int], tuple[int, int]]]:
        """The packets that are not as they must be: how they must and how they are."""
        wanted, self.wanted = self.wanted, {}
        ports = {port for port, _ in wanted}

        def is_ours(packet: CapturedPacket) -> bool:
            return packet.protocol == socket.IPPROTO_UDP and packet.source_port in ports

        found = self._capture.wait_for(len(wanted), PATIENCE_S, is_ours)
        assert len(found) == len(wanted)
        seen = {
            (each.source_port, (each.destination, each.destination_port, each.payload)): (
                each.dscp,
                each.ecn,
            )
            for each in found
        }
        assert seen.keys() == wanted.keys()
        return {key: (look, seen[key]) for key, look in wanted.items() if look != seen[key]}


def send_rounds(
    wire: Wire, sock: socket.socket, to: Sequence[Address], dscps: Sequence[int | None]
) -> None:
    """To each destination a packet of each kind of ECN; the destinations in flows by turns."""
    for ecn in ECNS:
        write_octet(sock, OWN_DSCP << 2 | ecn)
        for number, each in enumerate(to):
            dscp = dscps[number % len(dscps)]
            wire.send(sock, each, b"%d" % ecn, OWN_DSCP if dscp is None else dscp, ecn)
    write_octet(sock, OWN_DSCP << 2)


FAMILIES = {
    "IPv4": (Family.V4, (Family.V4,)),
    "IPv6": (Family.V6, (Family.V6,)),
    "dual stack": (Family.MAPPED, (Family.V6, Family.MAPPED)),
}


@pytest.mark.parametrize("stack", FAMILIES)
def test_a_socket_with_a_hundred_destinations_in_six_flows(
    pair: tuple[Host, Host], service: Qwaved, town: Town, stack: str
) -> None:
    left, right = pair
    family, families = FAMILIES[stack]
    to = town.destinations(*families)
    assert len(set(to)) == 100
    with (
        sender(left, family) as sock,
        right.capture(Direction.INCOMING) as capture,
        service.open() as qos,
    ):
        wire = Wire(capture)

        def count_wrong(dscps: Sequence[int | None]) -> int:
            send_rounds(wire, sock, to, dscps)
            assert town.heard() == len(to) * len(ECNS)
            return len(wire.differing())

        flows: list[qw.Flow] = []
        for number, each in enumerate(to):
            kind = number % len(TYPES)
            if number < len(TYPES):
                flows.append(join(qos, None, TYPES[kind], sock, each))
            else:
                join(qos, flows[kind], TYPES[kind], sock, each)
        assert count_wrong(DSCPS) == 0
        counted = [flow.traffic() for flow in flows]
        assert [each.excess_packets + each.dropped_packets for each in counted] == [0] * len(flows)
        assert sum(each.packets for each in counted) == len(to) * len(ECNS)
        # Six marks that differ, so that no two flows can be taken for each other.
        exact = (1, 11, 22, 33, 44, 63)
        for flow, dscp in zip(flows, exact, strict=True):
            flow.set_dscp(dscp)
        assert count_wrong(exact) == 0
        # A new type is a new mark for all destinations.
        flows[0].set_traffic_type(qw.TrafficType.VOICE)
        assert count_wrong((56, *exact[1:])) == 0
        # Of each flow a destination leaves: the flow keeps the others.
        flows[1].close()
        assert count_wrong((56, None, *exact[2:])) == 0
        qos.close()
        assert count_wrong((None,)) == 0


def test_packets_of_other_sockets_are_as_they_were(
    pair: tuple[Host, Host], service: Qwaved, town: Town
) -> None:
    left, right = pair
    with contextlib.ExitStack() as stack:
        capture = stack.enter_context(right.capture(Direction.INCOMING))
        qos = stack.enter_context(service.open())
        kinds = [*Family] * 7
        marked, *others = [
            stack.enter_context(sender(left, kind, 20_000 + number))
            for number, kind in enumerate(kinds)
        ]
        assert len(others) == 20
        to = town.destinations(Family.V4)
        for each in to:
            join(qos, None, qw.TrafficType.VOICE, marked, each)
        wire = Wire(capture)
        number = 0
        for sock, kind in zip(others, kinds[1:], strict=True):
            # The same destinations, of the same families and others, and every octet there is.
            for each in town.destinations(kind):
                octet = number % 256
                write_octet(sock, octet)
                wire.send(sock, each, b"%d" % number, octet >> 2, octet & 3)
                number += 1
            for each in to[:: len(PORTS)]:
                wire.send(marked, each, b"%d" % number, 56)
                number += 1
            town.heard()
        differing = wire.differing()
        assert len(differing) == 0, differing


def test_a_flow_that_grows_while_it_is_sent(
    pair: tuple[Host, Host], service: Qwaved, town: Town
) -> None:
    """Chromium: one flow, and a new peer, of either family, before the first packet to it."""
    left, right = pair
    to = town.destinations(Family.V6, Family.MAPPED)
    with (
        sender(left, Family.MAPPED) as sock,
        right.capture(Direction.INCOMING) as capture,
        service.open() as qos,
    ):
        wire = Wire(capture)
        flow: qw.Flow | None = None
        for number, new in enumerate(to):
            # Whoever is next gets a packet as it is; all that joined before, marked ones.
            wire.send(sock, new, b"%d before" % number, OWN_DSCP)
            is_first = flow is None
            flow = join(qos, flow, qw.TrafficType.AUDIO_VIDEO, sock, new)
            if is_first:
                flow.set_dscp(34)
            for each in to[max(0, number - 4) : number + 1]:
                wire.send(sock, each, b"%d after" % number, 34)
        differing = wire.differing()
        assert len(differing) == 0, differing
        assert flow is not None
        assert flow.packet_priority() == qw.PacketPriority(34, 0, 0, 0)
        # Another code point is another flow for it: this one is removed with all its peers.
        flow.close()
        for each in to:
            wire.send(sock, each, b"over", OWN_DSCP)
        assert len(wire.differing()) == 0


@pytest.mark.parametrize("family", [Family.V4, Family.V6], ids=lambda family: family.value)
def test_a_flow_for_each_packet(
    pair: tuple[Host, Host], service: Qwaved, town: Town, family: Family
) -> None:
    """Mumble's server: add, send, remove for each packet; what is sent before and after is not."""
    left, right = pair
    users = town.destinations(family)
    with (
        sender(left, family) as sock,
        right.capture(Direction.INCOMING) as capture,
        service.open() as qos,
    ):
        wire = Wire(capture)
        for number in range(300):
            user, other = users[number % len(users)], users[(number + 1) % len(users)]
            wire.send(sock, user, b"%d before" % number, OWN_DSCP)
            flow = qos.add_socket(sock, user, traffic_type=qw.TrafficType.VOICE, adaptive=False)
            wire.send(sock, user, b"%d" % number, 56)
            wire.send(sock, other, b"%d to another" % number, OWN_DSCP)
            flow.close()
            wire.send(sock, user, b"%d after" % number, OWN_DSCP)
            if number % 50 == 0:
                town.heard()
        differing = wire.differing()
        assert len(differing) == 0, differing
        assert qos.flow_ids() == ()

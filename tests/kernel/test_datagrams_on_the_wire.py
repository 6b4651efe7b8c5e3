"""Probes and experiment hosts between two machines, seen where it counts: on the wire."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from openqwave.drivers import adjacency, stamps, trains
from openqwave.drivers.adjacency import Adjacency
from openqwave.drivers.datagrams import Marking, ProbeSocket
from openqwave.drivers.experiments import ExperimentHost, Running
from openqwave.drivers.rtnetlink import Route, read_routes
from openqwave.drivers.trains import SendFault, Unsent
from openqwave.lab.shape import Bottleneck
from openqwave.lab.topology import Host, Lab
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import DisabledByPolicy, HostUnreachable
from openqwave.probing.packet_pair import OPEN, PacketPairInitiator, Ready, TrainMeasured, TrainPlan
from openqwave.probing.probegap import GapReturned, ProbegapInitiator
from openqwave.probing.route_check import RouteChecked, RouteCheckInitiator
from openqwave.probing.session import Arrival, CloseReason, OpenStream
from openqwave.probing.sink import Sink
from openqwave.probing.sink_reports import RefusalsSeen, Refused, SessionClosed
from tests.kernel.raw_packets import Seen, seen_by, watch
from tests.unit.experiment_stage import Script, wait_for

if TYPE_CHECKING:
    from openqwave.lab.hosts import Link
    from openqwave.probing.session import Event

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("fd_guard")]

PORT = 2177
each_version = pytest.mark.parametrize("version", [4, 6])

# What IP and UDP add to a payload.
HEADERS = {4: 28, 6: 48}
# Far longer than anything here takes.
PATIENCE_S = 20.0
HOUR_NS = 3_600_000_000_000


@pytest.fixture(scope="module")
def link() -> Iterator[Link]:
    with Lab() as lab:
        left, right = lab.host("left"), lab.host("right")
        yield lab.link(left, right)


@pytest.fixture
def left(link: Link) -> Host:
    return link.a.host


@pytest.fixture
def right(link: Link) -> Host:
    return link.b.host


def address_of(host: Host, version: int) -> str:
    return host.ipv4 if version == 4 else host.ipv6


def endpoint(address: str, port: int) -> Endpoint:
    return Endpoint(ip_address(address).packed, port)


def probe_at(host: Host, version: int, **options: object) -> ProbeSocket:
    return host.run(lambda: ProbeSocket(version, **options))  # type: ignore[arg-type]  # as given


def receive(probe: ProbeSocket, count: int) -> list[tuple[bytes, Arrival]]:
    found: list[tuple[bytes, Arrival]] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(found) < count and time.monotonic() < deadline:
        found += [(data, arrival) for data, _, arrival in probe.receive_batch()]
    return found


def wait_seen(sock: socket.socket, source: str, count: int) -> list[Seen]:
    found: list[Seen] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(found) < count and time.monotonic() < deadline:
        found += seen_by(sock, source)
    return found


def udp6_checksum(source: str, destination: str, packet: Seen) -> int:
    """RFC 8200 section 8.1, computed from what was seen."""
    length = 8 + len(packet.payload)
    data = (
        ip_address(source).packed
        + ip_address(destination).packed
        + struct.pack("!II", length, socket.IPPROTO_UDP)
        + struct.pack("!HHHH", packet.source_port, packet.destination_port, length, 0)
        + packet.payload
    )
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


# -- single probes --------------------------------------------------------------------


@each_version
@pytest.mark.parametrize("marking", [None, Marking(40 << 2, 6)], ids=["best effort", "priority"])
def test_a_probe_on_the_wire(
    left: Host, right: Host, version: int, marking: Marking | None
) -> None:
    source, destination = address_of(left, version), address_of(right, version)
    with watch(right) as wire, probe_at(right, version) as far:
        with probe_at(left, version, marking=marking, receives=False) as near:
            departure = near.send_train([b"odd", bytes(100)], endpoint(destination, far.local_port))
            port = near.local_port
        assert departure.unsent is None
        packets = wait_seen(wire, source, 2)
    for packet, payload in zip(packets, (b"odd", bytes(100)), strict=True):
        assert packet.payload == payload
        assert packet.hops == 1
        assert packet.dont_fragment
        assert packet.dscp == (0 if marking is None else 40)
        assert packet.source_port == port
        if version == 4:
            assert packet.checksum == 0
        else:
            assert packet.checksum == udp6_checksum(source, destination, packet) != 0


@each_version
@pytest.mark.parametrize("mtu_bytes", [1496, 1500])
def test_a_probe_larger_than_the_interface_takes_is_not_sent(
    lab: Lab, version: int, mtu_bytes: int
) -> None:
    left, right = lab.host("left"), lab.host("right")
    lab.link(left, right, mtu_bytes=mtu_bytes)
    with watch(right) as wire, probe_at(left, version, receives=False) as near:
        to = endpoint(address_of(right, version), PORT)
        fitting = bytes(mtu_bytes - HEADERS[version])
        departure = near.send_train([fitting, fitting + b"\0", fitting], to)
        assert departure.unsent == Unsent(1, SendFault.TOO_LARGE)
        # The oversized probe of a route check: its IP packet has 1500 bytes.
        oversized = near.send_train([bytes(1500 - HEADERS[version])], to)
        if mtu_bytes == 1500:
            assert oversized.unsent is None
        else:
            assert oversized.unsent == Unsent(0, SendFault.TOO_LARGE)
        packets = wait_seen(wire, address_of(left, version), 1 + (mtu_bytes == 1500))
        assert {packet.ip_bytes for packet in packets} == {mtu_bytes}


@each_version
def test_what_routers_say_of_the_path_changes_nothing(lab: Lab, version: int) -> None:
    left, router, right = lab.host("left"), lab.router("router"), lab.host("right")
    near_link = lab.link(left, router)
    lab.link(router, right, mtu_bytes=1400)
    to = endpoint(address_of(right, version), PORT)
    with (
        watch(router) as wire,
        probe_at(left, version, hops=64) as near,
        probe_at(left, version, hops=64) as other,
    ):
        for probe in (near, near, other):
            # The router complains of each; the next is sent all the same, and whole.
            departure = probe.send_train([bytes(1500 - HEADERS[version])], to)
            assert departure.unsent is None
            (packet,) = wait_seen(wire, near_link.a.ipv4 if version == 4 else near_link.a.ipv6, 1)
            assert packet.ip_bytes == 1500
        assert near.receive_batch() == []


@each_version
def test_one_hop_ends_at_the_first_router(lab: Lab, version: int) -> None:
    left, router, right = lab.host("left"), lab.router("router"), lab.host("right")
    lab.link(left, router)
    lab.link(router, right)
    with probe_at(right, version) as far, probe_at(left, version) as near:
        to = endpoint(address_of(right, version), far.local_port)
        found: list[tuple[bytes, Arrival]] = []
        deadline = time.monotonic() + PATIENCE_S
        while not found and time.monotonic() < deadline:
            # A new IPv6 router may need a moment before it forwards.
            near.send_train([b"stays"], to)
            near.send_train([b"crosses"], to, hops=64)
            found = [(data, arrival) for data, _, arrival in far.receive_batch()]
    assert {(data, arrival.hop_limit) for data, arrival in found} == {(b"crosses", 63)}


# -- trains ---------------------------------------------------------------------------


@each_version
def test_a_train_arrives_in_order_with_stamps_of_both_kernels(
    left: Host, right: Host, version: int
) -> None:
    payloads = [struct.pack("!I", turn) + bytes(1396) for turn in range(100)]
    with probe_at(right, version) as far, probe_at(left, version, receives=False) as near:
        departure = near.send_train(payloads, endpoint(address_of(right, version), far.local_port))
        found = receive(far, 100)
        assert far.dropped == 0
    assert departure.is_kernel == (True,) * 100
    assert [data for data, _ in found] == payloads
    left_ns, arrived_ns = departure.stamps_ns, [arrival.stamp_ns for _, arrival in found]
    assert list(left_ns) == sorted(left_ns)
    assert arrived_ns == sorted(arrived_ns)
    # Both hosts have one clock, and nothing lies between them.
    assert all(sent < came for sent, came in zip(left_ns, arrived_ns, strict=True))


def test_stamps_are_the_kernels(left: Host, right: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoClock:
        """A clock of this process that stands still in 1970."""

        monotonic_ns = staticmethod(time.monotonic_ns)
        sleep = staticmethod(time.sleep)

        @staticmethod
        def time_ns() -> int:
            return 0

    monkeypatch.setattr(trains, "time", NoClock)
    gap_ns = 20_000_000
    with probe_at(right, 4) as far, probe_at(left, 4, receives=False) as near:
        before_ns = time.time_ns()
        departure = near.send_train([b"x"] * 4, endpoint(right.ipv4, far.local_port), gap_ns)
        after_ns = time.time_ns()
        # They have waited in the socket; when they came is known all the same.
        found = receive(far, 4)
    assert departure.is_kernel == (True,) * 4
    came_ns = [arrival.stamp_ns for _, arrival in found]
    for times_ns in (departure.stamps_ns, came_ns):
        assert before_ns < times_ns[0]
        assert times_ns[-1] < after_ns
        # The first may be late by what it takes to wake a path; the others are never early.
        assert times_ns[-1] - times_ns[0] > 3 * gap_ns - 5_000_000


def test_a_paced_train_on_the_wire(left: Host, right: Host) -> None:
    gap_ns, count = 3_000_000, 10
    with probe_at(right, 4) as far, probe_at(left, 4, receives=False) as near:
        departure = near.send_train(
            [bytes(1400)] * count, endpoint(right.ipv4, far.local_port), gap_ns
        )
        came_ns = [arrival.stamp_ns for _, arrival in receive(far, count)]
    for times_ns in (departure.stamps_ns, came_ns):
        offsets_ns = [when - times_ns[0] - turn * gap_ns for turn, when in enumerate(times_ns)]
        # 20 us were seen, 4 ms beside other work; a schedule that slips is late by a gap each.
        assert all(-5_000_000 < offset < 50_000_000 for offset in offsets_ns)
    assert departure.is_kernel == (True,) * count


def test_the_hosts_own_queue_is_part_of_the_path(lab: Lab) -> None:
    left, right = lab.host("left"), lab.host("right")
    # 12 packets of 1,496 bytes take 29 ms.
    lab.link(left, right, a_to_b=Bottleneck(rate_bps=5_000_000, queue_bytes=100_000))
    with probe_at(right, 4) as far, probe_at(left, 4, receives=False) as near:
        before_ns = time.time_ns()
        departure = near.send_train([bytes(1468)] * 12, endpoint(right.ipv4, far.local_port))
        after_ns = time.time_ns()
        came_ns = [arrival.stamp_ns for _, arrival in receive(far, 12)]
    assert departure.is_kernel == (True,) * 12
    assert before_ns < departure.stamps_ns[0] < departure.stamps_ns[-1] < after_ns
    assert came_ns[-1] - came_ns[0] > 20_000_000
    # The stamps are there before the packets are gone, and hide no queueing.
    assert came_ns[-1] - departure.stamps_ns[-1] > 15_000_000


def test_a_neighbour_that_is_not_there_is_waited_for_once(
    left: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Datagrams wait for its Ethernet address, and their stamps with them.
    patience_ms, count = 300, 10
    monkeypatch.setattr(stamps, "_PATIENCE_MS", patience_ms)
    nobody = endpoint(left.ipv4.rpartition(".")[0] + ".77", PORT)
    with probe_at(left, 4, receives=False) as near:
        start_ns = time.monotonic_ns()
        departures = [near.send_train([b"x"], nobody) for _ in range(count)]
        assert time.monotonic_ns() - start_ns < 3 * patience_ms * 1_000_000
    assert {departure.is_kernel for departure in departures} == {(False,)}
    assert all(abs(one.stamps_ns[0] - time.time_ns()) < PATIENCE_S * 1e9 for one in departures)


# -- experiment hosts -----------------------------------------------------------------


@pytest.fixture
def hosting() -> Iterator[Callable[..., ExperimentHost]]:
    """Makes experiment hosts on lab hosts."""
    made: list[ExperimentHost] = []

    def make(host: Host, *allowed: str) -> ExperimentHost:
        fresh = ExperimentHost(allowed)
        with host.enter():
            fresh.start()
        made.append(fresh)
        return fresh

    try:
        yield make
    finally:
        for host in made:
            host.close()


def next_of(running: Running, kind: type[Event]) -> Event:
    """The next event of a class; those before it are passed over."""
    while (event := running.next_event(PATIENCE_S)) is not None:
        if isinstance(event, kind):
            return event
    raise AssertionError(f"no {kind.__name__}")


@each_version
def test_all_experiments_between_two_hosts(
    left: Host, right: Host, version: int, hosting: Callable[..., ExperimentHost]
) -> None:
    serving = hosting(right).serve(Sink())
    host = hosting(left)
    address = address_of(right, version)
    with watch(right) as wire:
        pair = PacketPairInitiator(1, version, random=random.random, limits=OPEN)
        pairing = host.run(pair, address)
        pairing.do(lambda _: pair.queue_train(TrainPlan(16, 1496, 100_000)))
        next_of(pairing, Ready)
        measured = next_of(pairing, TrainMeasured)
        assert isinstance(measured, TrainMeasured)
        assert len(measured.train.deltas_ns) == 15
        # A veth says 10 Gbit/s of itself; the message cannot say more than 4.29.
        assert measured.interface_speed_bps == 0xFFFF_FFFF
        checked = next_of(
            host.run(RouteCheckInitiator(2, version, random=random.random), address), RouteChecked
        )
        assert isinstance(checked, RouteChecked)
        assert checked.supported
        gap = ProbegapInitiator(3, version, random=random.random)
        gapping = host.run(gap, address)
        for _ in range(10):
            next_of(gapping, GapReturned)
        gapping.cancel()
        packets = seen_by(wire, address_of(left, version))
        replies = seen_by(wire, address)
    assert {packet.hops for packet in packets + replies} == {1}
    assert {packet.dont_fragment for packet in packets + replies} == {True}
    assert {packet.destination_port for packet in packets} == {PORT}
    by_kind = {packet.payload[0]: packet for packet in packets}
    assert set(by_kind) == {1, 2, 5}
    assert by_kind[5].source_port == PORT
    assert PORT not in {packet.source_port for packet in packets if packet.payload[0] != 5}
    checks = [(packet.dscp, packet.ip_bytes) for packet in packets if packet.payload[0] == 2]
    bare = HEADERS[version] + 12
    assert checks[:5] == [(40, 1500), (0, 1496), (0, 1496), (0, bare), (40, bare)]
    if version == 4:
        assert {packet.checksum for packet in packets + replies} == {0}
    pairing.cancel()
    assert isinstance(next_of(serving, SessionClosed), SessionClosed)


def tcp_hops(sock: socket.socket, source: str) -> set[int]:
    """TTLs of the TCP packets from an IPv4 address."""
    found: set[int] = set()
    while True:
        try:
            data = sock.recv(65_536)
        except BlockingIOError:
            return found
        is_tcp = data[0] >> 4 == 4 and data[9] == socket.IPPROTO_TCP
        if is_tcp and socket.inet_ntoa(data[12:16]) == source:
            found.add(data[8])


def test_connections_stay_on_the_link_too(
    left: Host, right: Host, hosting: Callable[..., ExperimentHost]
) -> None:
    hosting(right).serve(Sink())
    with watch(right) as wire:
        running = hosting(left).run(Script(OpenStream(1), lasts_ns=HOUR_NS), right.ipv4)
        wait_for(running, "connected")
        # What the kernel answers for a connection that is closed has its own hop limit.
        assert tcp_hops(wire, left.ipv4) == {1}
        running.cancel()


class Beyond:
    """A near host and a far one, with a router between them."""

    def __init__(self, lab: Lab) -> None:
        self.near, self.router, self.far = lab.host("near"), lab.router("r"), lab.host("far")
        self.near_link = lab.link(self.near, self.router)
        self.far_link = lab.link(self.router, self.far)


@pytest.fixture
def beyond(lab: Lab) -> Beyond:
    return Beyond(lab)


@each_version
def test_experiments_stop_at_the_router(
    beyond: Beyond, version: int, hosting: Callable[..., ExperimentHost]
) -> None:
    serving = hosting(beyond.far).serve(Sink())
    host = hosting(beyond.near)
    far = address_of(beyond.far, version)
    gateway = beyond.near_link.b.ipv4 if version == 4 else beyond.near_link.b.ipv6
    with pytest.raises(DisabledByPolicy, match=rf"behind a router \({gateway}\)"):
        host.run(Script(), far)
    # The far sink refuses as well, whoever asks, and counts it.
    network = beyond.far_link.ipv4_network if version == 4 else beyond.far_link.ipv6_network
    insisting = hosting(beyond.near, network)
    running = insisting.run(Script(OpenStream(1)), far)
    assert wait_for(running, "closed").details == (1, CloseReason.BY_PEER)
    refused = next_of(serving, RefusalsSeen)
    assert isinstance(refused, RefusalsSeen)
    assert refused.reason is Refused.OFF_LINK
    assert refused.peer.host() == endpoint(address_of(beyond.near, version), 0)


@each_version
def test_allowed_networks_are_measured_across_the_router(
    beyond: Beyond, version: int, hosting: Callable[..., ExperimentHost]
) -> None:
    networks = beyond.near_link, beyond.far_link
    near_network, far_network = (
        one.ipv4_network if version == 4 else one.ipv6_network for one in networks
    )
    hosting(beyond.far, near_network).serve(Sink())
    host = hosting(beyond.near, far_network)
    far = address_of(beyond.far, version)
    with watch(beyond.far) as wire, watch(beyond.near) as back:
        gap = ProbegapInitiator(3, version, random=random.random)
        gapping = host.run(gap, far)
        next_of(gapping, GapReturned)
        pair = PacketPairInitiator(1, version, random=random.random, limits=OPEN)
        pairing = host.run(pair, far)
        pairing.do(lambda _: pair.queue_train(TrainPlan(4, 1496, 0)))
        next_of(pairing, TrainMeasured)
        gapping.cancel()
        pairing.cancel()
        # One hop fewer than they began with.
        assert {packet.hops for packet in seen_by(wire, address_of(beyond.near, version))} == {63}
        assert {packet.hops for packet in seen_by(back, far)} == {63}


def test_a_datagram_from_afar_is_refused(
    beyond: Beyond, hosting: Callable[..., ExperimentHost]
) -> None:
    serving = hosting(beyond.far).serve(Sink())
    with beyond.near.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.sendto(b"\x05\0\0\2" + bytes(28), (beyond.far.ipv4, PORT))
    refused = next_of(serving, RefusalsSeen)
    assert isinstance(refused, RefusalsSeen)
    assert refused.reason is Refused.OFF_LINK


def test_a_link_local_peer(
    left: Host, right: Host, link: Link, hosting: Callable[..., ExperimentHost]
) -> None:
    address = link_local_of(right)
    hosting(right).serve(Sink())
    host = hosting(left)
    gap = ProbegapInitiator(3, 6, random=random.random)
    gapping = host.run(gap, Endpoint(ip_address(address).packed, 0, link.a.index))
    next_of(gapping, GapReturned)
    gapping.cancel()
    pair = PacketPairInitiator(1, 6, random=random.random, limits=OPEN)
    pairing = host.run(pair, Endpoint(ip_address(address).packed, 0, link.a.index))
    pairing.do(lambda _: pair.queue_train(TrainPlan(4, 1496, 0)))
    next_of(pairing, TrainMeasured)


def link_local_of(host: Host) -> str:
    def read() -> str:
        with open("/proc/thread-self/net/if_inet6", encoding="ascii") as file:
            for line in file:
                packed = bytes.fromhex(line.split()[0])
                if packed[:2] == b"\xfe\x80":
                    return str(ip_address(packed))
        raise AssertionError("no link-local address")

    return host.run(read)


# -- who is near ----------------------------------------------------------------------


def test_routes_of_a_host(beyond: Beyond) -> None:
    def look() -> None:
        with Adjacency() as here:
            for version in (4, 6):
                far = endpoint(address_of(beyond.far, version), 0)
                far_link = beyond.near_link.b
                router = endpoint(far_link.ipv4 if version == 4 else far_link.ipv6, 0)
                own = endpoint(address_of(beyond.near, version), 0)
                assert here.is_on_link(router)
                assert here.is_on_link(own)
                assert not here.is_on_link(far)
                assert here.gateway_of(far) == str(router.address)
                # A veth says so of itself; this host's own addresses have no interface.
                assert here.interface_speed_bps(router) == 10_000_000_000
                assert here.interface_speed_bps(far) == 10_000_000_000
                assert here.interface_speed_bps(own) == 0

    beyond.near.run(look)


def attribute(kind: int, data: bytes) -> bytes:
    """A netlink attribute (rtnetlink(7))."""
    length = 4 + len(data)
    return (struct.pack("=HH", length, kind) + data).ljust(-(-length // 4) * 4, b"\0")


def hop(gateway: str | None, interface: int) -> bytes:
    """One of several next hops: struct rtnexthop."""
    data = b"" if gateway is None else attribute(5, ip_address(gateway).packed)
    return struct.pack("=HBBi", 8 + len(data), 0, 0, interface) + data


def add_route(network: str, attributes: bytes, kind: int = 1, table: int = 254) -> None:
    """Tell the kernel, by hand: the libraries do not know all of these."""
    address, _, bits = network.partition("/")
    packed = ip_address(address).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    # Family, lengths, TOS, table, RTPROT_BOOT, scope, type, flags.
    body = struct.pack("=BBBBBBBBI", family, int(bits), 0, 0, table, 3, 0, kind, 0)
    body += attribute(1, packed) + attributes
    # RTM_NEWROUTE; NLM_F_REQUEST, _ACK, _CREATE, _EXCL.
    header = struct.pack("=IHHII", 16 + len(body), 24, 0x605, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.send(header + body)
        (code,) = struct.unpack_from("=i", sock.recv(4096), 16)
    assert code == 0, f"{network}: error {-code}"


def test_routes_of_all_kinds(lab: Lab) -> None:
    left, right = lab.host("left"), lab.host("right")
    interface = lab.link(left, right).a
    router, router6 = right.ipv4, right.ipv6
    index = struct.pack("=i", interface.index)
    # LWTUNNEL_IP_ID and LWTUNNEL_IP_DST; LWTUNNEL_ENCAP_IP.
    tunnel = attribute(1, struct.pack("!Q", 4)) + attribute(2, ip_address(router).packed)

    def add_and_look() -> None:
        add_route("10.100.0.0/16", attribute(4, index))
        add_route("10.101.0.0/16", attribute(5, ip_address(router).packed))
        add_route("10.102.0.0/16", attribute(9, hop(router, interface.index) * 2))
        # Near by one way and far by the other is far: either may be taken.
        shared = hop(None, interface.index) + hop(router, interface.index)
        add_route("10.103.0.0/16", attribute(9, shared))
        add_route("10.104.0.0/16", b"", kind=7)
        by_ipv6 = struct.pack("=H", socket.AF_INET6) + ip_address(router6).packed
        add_route("10.105.0.0/16", attribute(18, by_ipv6) + attribute(4, index))
        add_route("10.106.0.0/16", attribute(5, ip_address(router).packed), table=100)
        encapsulated = attribute(21, struct.pack("=H", 2)) + attribute(22, tunnel)
        add_route("10.107.0.0/16", attribute(4, index) + encapsulated)
        # IPv6 wants them different.
        other6 = hop(router6.replace("::2", "::9"), interface.index)
        add_route("fd01::/64", attribute(9, hop(router6, interface.index) + other6))
        with Adjacency() as here:
            found = {
                host: (here.is_on_link(endpoint(host, 0)), here.gateway_of(endpoint(host, 0)))
                for host in [*(f"10.{network}.0.1" for network in range(100, 108)), "fd01::1"]
            }
        assert found == {
            "10.100.0.1": (True, ""),
            "10.101.0.1": (False, router),
            "10.102.0.1": (False, router),
            "10.103.0.1": (False, router),
            "10.104.0.1": (False, "none: the route leads nowhere"),
            "10.105.0.1": (False, router6),
            "10.106.0.1": (False, "none: no route leads there"),
            "10.107.0.1": (False, "a tunnel"),
            "fd01::1": (False, router6),
        }

    left.run(add_and_look)


@contextlib.contextmanager
def other_network(host: Host) -> Iterator[None]:
    """Give a host's interface an address of 198.51.100.0/24, for a while."""
    from pyroute2 import IPRoute

    where = {"index": host.interface.index, "address": "198.51.100.1", "prefixlen": 24}

    def change(verb: str) -> None:
        with IPRoute() as netlink:
            netlink.addr(verb, **where)

    host.run(change, "add")
    try:
        yield
    finally:
        host.run(change, "del")


def test_a_host_learns_of_a_new_network_at_once(
    left: Host, hosting: Callable[..., ExperimentHost]
) -> None:
    host = hosting(left)
    peer = "198.51.100.7"
    with pytest.raises(HostUnreachable):
        host.run(Script(), peer)
    with other_network(left):
        assert list(host.run(Script(), peer)) != []


def test_a_new_network_is_noticed(left: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adjacency, "LOOK_NS", 0)
    peer = endpoint("198.51.100.7", 0)

    reads = []

    def read() -> list[Route]:
        reads.append(True)
        return read_routes()

    # It hears of what happens in the network where it was made.
    with left.run(lambda: Adjacency(read=lambda: left.run(read))) as here:
        assert not here.is_on_link(peer)
        assert not here.is_on_link(peer)
        assert len(reads) == 1
        with other_network(left):
            assert here.is_on_link(peer)
            assert len(reads) == 2
        assert not here.is_on_link(peer)

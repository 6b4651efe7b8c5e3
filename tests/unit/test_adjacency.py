"""Who is on the link: decided from routes that the test writes down."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest

from openqwave.drivers import adjacency
from openqwave.drivers.adjacency import Adjacency, RouteTable, interface_speed_bps
from openqwave.drivers.rtnetlink import Route, RouteChanges, read_routes
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import AccessDenied, InvalidParameter

guarded = pytest.mark.usefixtures("fd_guard")

SIOCETHTOOL, SIOCGIWRATE = 0x8946, 0x8B21


def endpoint(host: str, scope_id: int = 0) -> Endpoint:
    return Endpoint(ip_address(host).packed, 2177, scope_id)


def route(network: str, gateway: str = "", metric: int = 0, interface: int = 0) -> Route:
    return Route(ip_network(network), metric, gateway, interface)


# A host on two links, one of them within a network that a router leads to.
ROUTES = [
    route("0.0.0.0/0", "192.0.2.1"),
    route("127.0.0.0/8"),
    route("192.0.2.0/24"),
    route("10.0.0.0/8", "192.0.2.7"),
    route("10.1.0.0/16"),
    route("10.1.9.0/24", "10.1.0.1"),
    route("10.2.0.0/16", "192.0.2.8", metric=10),
    route("10.2.0.0/16", metric=5),
    route("10.3.0.0/16", metric=10),
    route("10.3.0.0/16", "192.0.2.9", metric=5),
    route("192.0.2.255/32", "none: the route leads nowhere"),
    route("::1/128"),
    route("fd00:0:0:1::/64"),
    route("::/0", "fd00:0:0:1::1"),
]


def made(routes: list[Route] | None = None, allowed: tuple[str, ...] = ()) -> Adjacency:
    return Adjacency(allowed, read=lambda: ROUTES if routes is None else routes)


# -- the table ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "network", "gateway"),
    [
        ("192.0.2.9", "192.0.2.0/24", ""),
        ("192.0.3.9", "0.0.0.0/0", "192.0.2.1"),
        ("10.1.2.3", "10.1.0.0/16", ""),
        ("10.1.9.3", "10.1.9.0/24", "10.1.0.1"),
        ("10.9.2.3", "10.0.0.0/8", "192.0.2.7"),
        ("10.2.2.3", "10.2.0.0/16", ""),
        ("10.3.2.3", "10.3.0.0/16", "192.0.2.9"),
        ("fd00:0:0:1::5", "fd00:0:0:1::/64", ""),
        ("fd00:0:0:2::5", "::/0", "fd00:0:0:1::1"),
    ],
)
def test_the_longest_prefix_and_the_lowest_metric_decide(
    host: str, network: str, gateway: str
) -> None:
    found = RouteTable(ROUTES).best(ip_address(host).packed)
    assert found is not None
    assert (str(found.network), found.gateway) == (network, gateway)


def test_no_route_is_none() -> None:
    table = RouteTable([route("192.0.2.0/24")])
    assert table.best(ip_address("192.0.3.1").packed) is None
    assert table.best(ip_address("fd00::1").packed) is None


# -- on the link ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "is_on_link"),
    [
        ("192.0.2.9", True),
        ("::ffff:192.0.2.9", True),
        ("::ffff:198.51.100.1", False),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("198.51.100.1", False),
        ("10.1.9.3", False),
        ("10.2.0.1", True),
        ("10.3.0.1", False),
        ("192.0.2.255", False),
        ("::1", True),
        ("fd00:0:0:1::77", True),
        ("fd00:0:0:2::77", False),
        ("fe80::1", True),
    ],
)
def test_on_link_is_what_no_router_leads_to(host: str, is_on_link: bool) -> None:
    with made() as here:
        assert here.is_on_link(endpoint(host)) is is_on_link
        assert here.is_allowed(endpoint(host)) is is_on_link
        assert bool(here.gateway_of(endpoint(host))) is not is_on_link


@pytest.mark.parametrize("network", ["0.0.0.0/0", "0.0.0.0/1", "::/0", "fd00::/8"])
def test_a_default_route_is_no_link_whatever_it_names(network: str) -> None:
    with made([route(network)]) as here:
        host = endpoint("10.0.0.1" if "." in network else "fd00::1")
        assert not here.is_on_link(host)
        assert "default" in here.gateway_of(host)


def test_without_a_route_nobody_is_near() -> None:
    with made([]) as here:
        assert not here.is_on_link(endpoint("192.0.2.1"))
        assert here.gateway_of(endpoint("192.0.2.1")) == "none: no route leads there"


@guarded
def test_the_gateway_is_named() -> None:
    with made() as here:
        assert here.gateway_of(endpoint("198.51.100.1")) == "192.0.2.1"
        assert here.gateway_of(endpoint("::ffff:10.1.9.3")) == "10.1.0.1"


@pytest.mark.parametrize(
    ("allowed", "host", "is_allowed"),
    [
        ("198.51.100.0/24", "198.51.100.1", True),
        ("198.51.100.7/24", "198.51.100.1", True),
        ("198.51.100.0/24", "::ffff:198.51.100.1", True),
        ("198.51.100.0/24", "198.51.101.1", False),
        ("::ffff:198.51.100.0/120", "198.51.100.1", True),
        ("::ffff:198.51.100.0/120", "198.51.101.1", False),
        ("2001:db8::/32", "2001:db8:5::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("0.0.0.0/0", "8.8.8.8", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("::/0", "2001:db8::1", True),
        ("::/0", "8.8.8.8", False),
    ],
)
def test_allowed_networks(allowed: str, host: str, is_allowed: bool) -> None:
    with made(allowed=(allowed,)) as here:
        assert here.is_allowed(endpoint(host)) is is_allowed
        # Allowed is not near: the packets need more hops.
        assert not here.is_on_link(endpoint(host))


@guarded
def test_a_network_that_is_none() -> None:
    with pytest.raises(InvalidParameter, match="nonsense"):
        made(allowed=("nonsense",))


# -- freshness ------------------------------------------------------------------------


class Clock:
    """Stands for the time module."""

    now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns


class Readings:
    """Routes that change, and how often they were read."""

    def __init__(self) -> None:
        self.routes: list[Route] = []
        self.count = 0

    def __call__(self) -> list[Route]:
        self.count += 1
        return list(self.routes)


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Says whether the kernel has announced a change."""
    state = [False]

    def have_happened(_self: RouteChanges) -> bool:
        taken, state[0] = state[0], False
        return taken

    def announce(value: bool) -> None:
        state[0] = value

    monkeypatch.setattr(RouteChanges, "have_happened", have_happened)
    return announce


def test_a_change_is_noticed_and_nothing_else_is_read(
    monkeypatch: pytest.MonkeyPatch, announced: Callable[[bool], None]
) -> None:
    clock = Clock()
    monkeypatch.setattr(adjacency, "time", clock)
    readings = Readings()
    host = endpoint("192.0.2.1")
    with Adjacency(read=readings) as here:
        readings.routes = [route("192.0.2.0/24")]
        for _ in range(100):
            clock.now_ns += adjacency.LOOK_NS
            assert not here.is_on_link(host)
        assert readings.count == 1
        announced(True)
        assert not here.is_on_link(host), "it has just been looked"
        clock.now_ns += adjacency.LOOK_NS
        assert here.is_on_link(host)
        assert readings.count == 2
        readings.routes = []
        here.refresh()
        assert not here.is_on_link(host)


@guarded
def test_a_kernel_that_cannot_be_asked() -> None:
    def refuse() -> list[Route]:
        raise PermissionError(errno.EPERM, "no")

    with pytest.raises(AccessDenied, match="routes"):
        Adjacency(read=refuse)


# -- the kernel's word ----------------------------------------------------------------


@guarded
def test_loopback_is_on_the_link() -> None:
    with Adjacency() as here:
        assert here.is_on_link(endpoint("127.0.0.1"))
        assert here.is_on_link(endpoint("127.9.9.9"))
        assert here.is_on_link(endpoint("::1"))
        assert here.interface_speed_bps(endpoint("127.0.0.1")) == 0
    networks = {str(one.network) for one in read_routes()}
    assert "127.0.0.0/8" in networks


# -- speed ----------------------------------------------------------------------------


class Driver:
    """Answers ioctl as an interface's driver would."""

    def __init__(self, mbps: int | None = None, radio_bps: int | None = None) -> None:
        self.mbps, self.radio_bps = mbps, radio_bps
        self.names: set[bytes] = set()

    def __call__(self, _sock: socket.socket, request: int, data: bytes) -> bytes:
        self.names.add(data[:16].rstrip(b"\0"))
        assert len(data) == 40
        if request == SIOCGIWRATE and self.radio_bps is not None:
            return data[:16] + struct.pack("=i", self.radio_bps) + data[20:]
        if request == SIOCETHTOOL and self.mbps is not None:
            (where,) = struct.unpack_from("@P", data, 16)
            assert struct.unpack("=I", ctypes.string_at(where, 4)) == (1,)
            # struct ethtool_cmd: the speed's lower half at 12, its upper half at 28.
            ctypes.memmove(where + 12, struct.pack("=H", self.mbps & 0xFFFF), 2)
            ctypes.memmove(where + 28, struct.pack("=H", self.mbps >> 16), 2)
            return data
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


@pytest.mark.parametrize(
    ("driver", "speed_bps"),
    [
        (Driver(mbps=1000), 1_000_000_000),
        (Driver(mbps=100_000), 100_000_000_000),
        (Driver(mbps=0xFFFF_FFFF), 0),
        (Driver(radio_bps=433_300_000), 259_980_000),
        (Driver(radio_bps=-1), 0),
        (Driver(), 0),
    ],
)
def test_the_speed_of_an_interface(driver: Driver, speed_bps: int) -> None:
    index = socket.if_nametoindex("lo")
    assert interface_speed_bps(index, driver) == speed_bps
    assert driver.names == {b"lo"}


@guarded
def test_an_interface_that_is_gone_has_no_speed() -> None:
    assert interface_speed_bps(2**31 - 1, Driver(mbps=1000)) == 0


def test_the_speed_is_that_of_the_interface_towards_the_peer_and_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def speed(interface: int) -> int:
        asked.append(interface)
        return interface * 1000

    monkeypatch.setattr(adjacency, "interface_speed_bps", speed)
    routes = [route("192.0.2.0/24", interface=3), route("0.0.0.0/0", "192.0.2.1", interface=4)]
    with made(routes) as here:
        for _ in range(2):
            assert here.interface_speed_bps(endpoint("192.0.2.1")) == 3000
            assert here.interface_speed_bps(endpoint("::ffff:198.51.100.1")) == 4000
            assert here.interface_speed_bps(endpoint("fe80::1", 5)) == 5000
            assert here.interface_speed_bps(endpoint("2001:db8::1")) == 0
        assert asked == [3, 4, 5]
        here.refresh()
        assert here.interface_speed_bps(endpoint("192.0.2.1")) == 3000
        assert asked == [3, 4, 5, 3]

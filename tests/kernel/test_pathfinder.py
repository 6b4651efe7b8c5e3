"""How hosts are reached, asked of kernels whose routes, links and neighbours the test makes."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from statistics import median
from typing import Any

import pytest
from pyroute2 import IPRoute

from openqwave.drivers import pathfinder
from openqwave.drivers.pathchanges import EVERYTHING, Change
from openqwave.drivers.pathfinder import PathChanges, Pathfinder, read_links
from openqwave.lab import taps
from openqwave.lab.topology import Host, Lab
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import MAPPED_PREFIX, Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Unmeasurable
from openqwave.model.path import FirstHop, LinkType, PathFacts
from tests.patience import until

pytestmark = pytest.mark.kernel

TIMEOUT_S = 10.0
# What a veth says of itself.
VETH_BPS = 10_000_000_000
# Nobody has them.
DEAD, DEAD6 = "10.0.1.77", "fd00:0:0:1::77"
# An unanswered neighbour is given up after three times this.
RETRANS_MS = 20


def host(text: str, scope_id: int = 0) -> Endpoint:
    return Endpoint(ip_address(text).packed, 0, scope_id)


def change(where: Host, what: str, verb: str, **how: Any) -> None:  # noqa: ANN401 - pyroute2's
    """Have something changed by the netlink library: link, addr, route, rule, neigh."""

    def do() -> None:
        with IPRoute() as netlink:
            getattr(netlink, what)(verb, **how)

    where.run(do)


def set_link(where: Host, state: str) -> None:
    change(where, "link", "set", index=where.interface.index, state=state)


def send(where: Host, to: str) -> None:
    """Send a datagram; whether anybody gets it does not matter."""
    with where.enter():
        sock = socket.socket(
            socket.AF_INET6 if ":" in to else socket.AF_INET,
            socket.SOCK_DGRAM | socket.SOCK_NONBLOCK,
        )
    with sock:
        try:
            sock.sendto(b"?", (to, 9))
        except OSError as error:
            assert error.errno == errno.EHOSTUNREACH  # noqa: PT017 - told of the one before


def hasten(where: Host) -> None:
    """Let neighbours that do not answer fail soon."""
    for version in ("ipv4", "ipv6"):
        where.sysctl({f"net/{version}/neigh/{where.interface.name}/retrans_time_ms": RETRANS_MS})


def facts_of(found: object) -> PathFacts:
    assert isinstance(found, PathFacts), found
    return found


def code_of(found: object) -> ErrorCode:
    assert isinstance(found, Refusal), found
    return found.code


@pytest.fixture
def left(pair: tuple[Host, Host]) -> Host:
    return pair[0]


@pytest.fixture
def right(pair: tuple[Host, Host]) -> Host:
    return pair[1]


@pytest.fixture
def finder(left: Host) -> Iterator[Pathfinder]:
    with left.run(Pathfinder) as made:
        yield made


# -- ways -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_a_host_on_the_link(finder: Pathfinder, left: Host, right: Host, version: int) -> None:
    near, far = (left.ipv4, right.ipv4) if version == 4 else (left.ipv6, right.ipv6)
    facts = PathFacts(
        host(far),
        left.interface.index,
        left.interface.name,
        ip_address(near).packed,
        b"",
        1500,
        LinkType.WIRED,
        VETH_BPS,
    )
    # The port is nobody's business.
    assert finder.find(Endpoint(ip_address(far).packed, 5004)) == facts
    assert finder.find(host(far), interface=left.interface.index) == facts
    assert facts.is_on_link


def test_a_mapped_address_is_the_ipv4_host(finder: Pathfinder, right: Host) -> None:
    mapped = Endpoint(MAPPED_PREFIX + ip_address(right.ipv4).packed, 0)
    assert finder.find(mapped) == facts_of(finder.find(host(right.ipv4)))


def test_a_link_local_host_needs_a_scope(finder: Pathfinder, left: Host) -> None:
    index = left.interface.index
    assert code_of(finder.find(host("fe80::77"))) == ErrorCode.ERROR_INVALID_PARAMETER
    facts = facts_of(finder.find(host("fe80::77", index)))
    assert (facts.host, facts.interface) == (host("fe80::77", index), index)
    assert facts.is_on_link
    assert ip_address(facts.source).is_link_local
    assert facts_of(finder.find(host("fe80::77"), interface=index)).interface == index
    assert code_of(finder.find(host("fe80::77", 99))) == ErrorCode.ERROR_ADAP_HDW_ERR


@pytest.mark.parametrize("version", [4, 6])
def test_a_host_behind_a_router(lab: Lab, version: int) -> None:
    left, router, right = lab.host("left"), lab.router("router"), lab.host("right")
    near = lab.link(left, router)
    lab.link(router, right)
    far, gateway = (right.ipv4, near.b.ipv4) if version == 4 else (right.ipv6, near.b.ipv6)
    with left.run(Pathfinder) as finder:
        found = finder.find(host(far))
        assert isinstance(found, Unmeasurable)
        assert "router" in found.reason
    with left.run(Pathfinder, ["10.0.2.0/24", "fd00:0:0:2::/64"]) as finder:
        facts = facts_of(finder.find(host(far)))
        assert facts.gateway == ip_address(gateway).packed
        assert not facts.is_on_link
        assert facts.first_hop == FirstHop(near.a.index, ip_address(gateway).packed)
        # The router itself is on the link.
        assert facts_of(finder.find(host(gateway))).is_on_link


def test_a_gateway_of_the_other_ip_version(lab: Lab) -> None:
    left, router = lab.host("left"), lab.router("router")
    near = lab.link(left, router)
    change(left, "route", "add", dst="10.9.0.0/16", via={"family": 10, "addr": near.b.ipv6})
    with left.run(Pathfinder, ["10.9.0.0/16"]) as finder:
        assert facts_of(finder.find(host("10.9.0.1"))).gateway == ip_address(near.b.ipv6).packed


@pytest.mark.parametrize("network", ["0.0.0.0/0", "0.0.0.0/1", "96.0.0.0/7"])
def test_a_default_route_makes_nobody_a_neighbour(left: Host, network: str) -> None:
    change(left, "route", "add", dst=network, oif=left.interface.index)
    with left.run(Pathfinder) as finder:
        assert isinstance(finder.find(host("97.0.0.1")), Unmeasurable)
    with left.run(Pathfinder, ["97.0.0.0/8"]) as finder:
        assert facts_of(finder.find(host("97.0.0.1"))).interface == left.interface.index


def test_a_large_network_may_be_a_link(finder: Pathfinder, left: Host) -> None:
    change(left, "route", "add", dst="97.0.0.0/8", oif=left.interface.index)
    assert facts_of(finder.find(host("97.0.0.1"))).is_on_link


def test_the_mtu_is_the_routes_where_it_has_one(
    finder: Pathfinder, left: Host, right: Host
) -> None:
    index = left.interface.index
    change(left, "route", "add", dst="10.9.0.0/24", oif=index, metrics={"mtu": 1300})
    assert facts_of(finder.find(host("10.9.0.1"))).mtu_bytes == 1300
    change(left, "link", "set", index=index, mtu=1400)
    assert facts_of(finder.find(host("10.9.0.1"))).mtu_bytes == 1300
    assert facts_of(finder.find(host(right.ipv4))).mtu_bytes == 1400
    assert facts_of(finder.find(host(right.ipv6))).mtu_bytes == 1400


def test_policy_routing_is_honoured(finder: Pathfinder, left: Host) -> None:
    change(left, "route", "add", dst="10.9.0.0/24", oif=left.interface.index, table=100)
    assert code_of(finder.find(host("10.9.0.1"))) == ErrorCode.ERROR_HOST_UNREACHABLE
    change(left, "rule", "add", dst="10.9.0.0", dst_len=24, table=100)
    assert facts_of(finder.find(host("10.9.0.1"))).is_on_link


# -- no way ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unreachable", "blackhole", "prohibit"])
@pytest.mark.parametrize("network", ["10.9.0.0/24", "fd09::/64"])
def test_routes_that_lead_nowhere(finder: Pathfinder, left: Host, network: str, kind: str) -> None:
    far = host(network.partition("/")[0].replace("0.0", "0.1").replace("::", "::1"))
    found = finder.find(far)
    assert code_of(found) == ErrorCode.ERROR_HOST_UNREACHABLE
    change(left, "route", "add", dst=network, oif=left.interface.index, priority=2000)
    assert facts_of(finder.find(far)).is_on_link
    change(left, "route", "add", dst=network, type=kind, priority=1000)
    assert code_of(finder.find(far)) == ErrorCode.ERROR_HOST_UNREACHABLE


def test_a_forbidden_network(left: Host, right: Host) -> None:
    with left.run(Pathfinder, (), ["10.0.1.2/32", "10.99.0.0/16"]) as finder:
        for one in (right.ipv4, f"::ffff:{right.ipv4}", "10.99.0.1"):
            assert code_of(finder.find(host(one))) == ErrorCode.ERROR_ACCESS_DISABLED_BY_POLICY
        assert facts_of(finder.find(host(right.ipv6))).is_on_link


@pytest.mark.parametrize(
    ("far", "why"),
    [
        ("10.0.1.1", "own"),
        ("fd00:0:0:1::1", "own"),
        ("127.0.0.1", "own"),
        ("127.9.9.9", "own"),
        ("::1", "own"),
        ("10.0.1.255", "broadcast"),
        ("255.255.255.255", "no single host"),
        ("224.0.0.1", "no single host"),
        ("ff02::1", "no single host"),
        ("0.0.0.0", "no single host"),  # noqa: S104 - nothing is bound
        ("::", "no single host"),
    ],
)
def test_what_is_no_path(finder: Pathfinder, far: str, why: str) -> None:
    found = finder.find(host(far))
    assert isinstance(found, Unmeasurable)
    assert why in found.reason
    assert far in found.reason


# -- interfaces -----------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_an_interface_that_goes_down_and_comes_up(
    finder: Pathfinder, left: Host, right: Host, version: int
) -> None:
    far = host(right.ipv4 if version == 4 else right.ipv6)
    # Before it was ever found, nothing tells which interface would have been it.
    set_link(left, "down")
    assert code_of(finder.find(far)) == ErrorCode.ERROR_HOST_UNREACHABLE
    bound = finder.find(far, interface=left.interface.index)
    assert code_of(bound) == ErrorCode.ERROR_ADAP_HDW_ERR
    set_link(left, "up")
    if version == 6:
        # IPv6 addresses are lost with it.
        change(left, "addr", "add", index=left.interface.index, address=left.ipv6, prefixlen=64)
    until(lambda: isinstance(finder.find(far), PathFacts))
    set_link(left, "down")
    found = finder.find(far)
    assert code_of(found) == ErrorCode.ERROR_ADAP_HDW_ERR
    assert isinstance(found, Refusal)
    assert left.interface.name in found.detail


def test_a_cable_that_is_pulled(finder: Pathfinder, right: Host) -> None:
    assert facts_of(finder.find(host(right.ipv4))).is_on_link
    set_link(right, "down")
    # The kernel works it out in the background.
    until(lambda: isinstance(finder.find(host(right.ipv4)), Refusal))
    assert code_of(finder.find(host(right.ipv4))) == ErrorCode.ERROR_ADAP_HDW_ERR
    set_link(right, "up")
    until(lambda: isinstance(finder.find(host(right.ipv4)), PathFacts))


def test_an_interface_that_is_taken_out(finder: Pathfinder, left: Host, right: Host) -> None:
    index = left.interface.index
    assert facts_of(finder.find(host(right.ipv4))).interface == index
    change(left, "link", "del", index=index)
    for found in (finder.find(host(right.ipv4)), finder.find(host(right.ipv4), interface=index)):
        assert code_of(found) == ErrorCode.ERROR_ADAP_HDW_ERR
        assert isinstance(found, Refusal)
        assert "gone" in found.detail


def test_an_interface_that_is_down_may_be_taken_out(finder: Pathfinder, left: Host) -> None:
    index = left.interface.index
    for verb, how, word in (("set", {"state": "down"}, "down"), ("del", {}, "gone")):
        change(left, "link", verb, index=index, **how)
        found = finder.find(host("10.0.1.9"), interface=index)
        assert code_of(found) == ErrorCode.ERROR_ADAP_HDW_ERR
        assert isinstance(found, Refusal)
        assert word in found.detail


def test_another_way_is_taken_when_there_is_one(lab: Lab) -> None:
    left, right = lab.host("left"), lab.host("right")
    first, second = lab.link(left, right), lab.link(left, right)
    far = host("10.9.0.1")
    for metric, end in enumerate((first, second), 1):
        change(left, "route", "add", dst="10.9.0.0/24", oif=end.a.index, priority=metric)
    with left.run(Pathfinder) as finder:
        assert facts_of(finder.find(far)).interface == first.a.index
        assert facts_of(finder.find(far, interface=second.a.index)).interface == second.a.index
        change(left, "link", "set", index=first.a.index, state="down")
        assert facts_of(finder.find(far)).interface == second.a.index


def test_a_tunnel_is_known_and_its_speed_is_not(finder: Pathfinder, left: Host) -> None:
    if not os.access(taps.DEVICE, os.R_OK | os.W_OK):
        pytest.skip(f"{taps.DEVICE} is closed to us")
    # A device belongs to the namespace in which it was opened.
    fd = left.run(os.open, taps.DEVICE, os.O_RDWR)
    try:
        # TUNSETIFF; IFF_TUN, IFF_NO_PI.
        fcntl.ioctl(fd, taps.TUNSETIFF, struct.pack("16sH22x", b"tun7", 0x1001))
        index = left.run(socket.if_nametoindex, "tun7")
        change(left, "link", "set", index=index, state="up")
        change(left, "route", "add", dst="10.9.0.0/24", oif=index)
        facts = facts_of(finder.find(host("10.9.0.1")))
        assert (facts.link_type, facts.interface_name) == (LinkType.TUNNEL, "tun7")
        assert facts.speed_bps == 0
    finally:
        os.close(fd)


def test_links_are_read_with_what_left_them(left: Host, right: Host) -> None:
    def look() -> tuple[bool, int]:
        links = left.run(read_links)
        assert links[1].name == "lo"
        link = links[left.interface.index]
        assert (link.name, link.mtu_bytes, link.hardware) == (left.interface.name, 1500, 1)
        return link.is_up, link.tx_bytes

    is_up, before = look()
    assert is_up
    for _ in range(10):
        send(left, right.ipv4)
    # The payload, the headers of UDP and IP, Ethernet's; IPv6 says a word now and then.
    assert 10 * (1 + 8 + 20 + 14) <= look()[1] - before < 2_000
    set_link(left, "down")
    assert not look()[0]


# -- neighbours -----------------------------------------------------------------------


@pytest.mark.parametrize("dead", [DEAD, DEAD6])
def test_nobody_answers_on_the_link(
    finder: Pathfinder, left: Host, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasten(left)
    assert facts_of(finder.find(host(dead))).is_on_link
    assert not finder.neighbour_failed(host(dead))
    send(left, dead)
    until(lambda: finder.neighbour_failed(host(dead)))
    found = finder.find(host(dead))
    assert code_of(found) == ErrorCode.ERROR_BAD_NET_NAME
    assert isinstance(found, Refusal)
    assert dead in found.detail
    # What was long ago says nothing of now.
    time.sleep(0.05)
    monkeypatch.setattr(pathfinder, "FAILED_NS", 10_000_000)
    assert facts_of(finder.find(host(dead))).is_on_link


def test_a_router_that_does_not_answer(left: Host) -> None:
    hasten(left)
    change(left, "route", "add", dst="10.9.0.0/24", gateway=DEAD)
    with left.run(Pathfinder, ["10.9.0.0/24"]) as finder:
        assert facts_of(finder.find(host("10.9.0.1"))).gateway == ip_address(DEAD).packed
        send(left, "10.9.0.1")
        until(lambda: finder.neighbour_failed(host("10.9.0.1")))
        assert code_of(finder.find(host("10.9.0.1"))) == ErrorCode.ERROR_HOST_UNREACHABLE


def test_an_application_that_goes_on_sending_does_not_hide_the_failure(
    finder: Pathfinder, left: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The entry waits for an answer again, for three seconds.
    send(left, DEAD)
    assert facts_of(finder.find(host(DEAD))).is_on_link
    finder.hear_failures([(left.interface.index, ip_address(DEAD).packed)])
    assert code_of(finder.find(host(DEAD))) == ErrorCode.ERROR_BAD_NET_NAME
    monkeypatch.setattr(pathfinder, "FAILED_NS", 0)
    assert facts_of(finder.find(host(DEAD))).is_on_link


# -- changes --------------------------------------------------------------------------


def is_readable(changes: PathChanges, timeout_s: float = 0.0) -> bool:
    return bool(select.select([changes], [], [], timeout_s)[0])


def heard(changes: PathChanges, kind: Change) -> bool:
    """Wait until one kind was announced, whatever comes with it."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if is_readable(changes, 0.1) and kind in changes.read():
            return True
    return False


@pytest.fixture
def changes(left: Host) -> Iterator[PathChanges]:
    # Multicast groups are joined in the background, as IPv6 has it.
    with left.run(PathChanges) as made:
        time.sleep(0.1)
        made.read()
        yield made


def test_changes_are_announced(changes: PathChanges, left: Host, right: Host) -> None:
    index = left.interface.index
    assert changes.read() == frozenset()
    change(left, "route", "add", dst="10.9.0.0/24", oif=index)
    assert heard(changes, Change.ROUTES)
    change(left, "route", "add", dst="fd09::/64", oif=index)
    assert heard(changes, Change.ROUTES)
    change(left, "addr", "add", index=index, address="198.51.100.1", prefixlen=24)
    assert heard(changes, Change.ADDRESSES)
    change(left, "addr", "add", index=index, address="fd09::1", prefixlen=64)
    assert heard(changes, Change.ADDRESSES)
    change(left, "link", "set", index=index, mtu=1400)
    assert heard(changes, Change.LINKS)
    set_link(right, "down")
    assert heard(changes, Change.LINKS)
    assert changes.read() == frozenset()


def test_an_interface_that_comes_and_goes_is_announced(changes: PathChanges, left: Host) -> None:
    change(left, "link", "add", ifname="veth7", kind="veth", peer="veth8")
    assert heard(changes, Change.LINKS)
    changes.read()
    change(left, "link", "del", ifname="veth7")
    assert heard(changes, Change.LINKS)


def test_a_link_that_is_announced_and_the_same_has_not_changed(
    changes: PathChanges, left: Host
) -> None:
    # Its alias is nothing that a path depends on.
    change(left, "link", "set", index=left.interface.index, ifalias="uplink")
    until(lambda: is_readable(changes))
    assert changes.read() == frozenset()


@pytest.mark.usefixtures("fd_guard")
@pytest.mark.parametrize("dead", [DEAD, DEAD6])
def test_a_neighbour_that_fails_and_comes_back_is_announced(
    pair: tuple[Host, Host], dead: str
) -> None:
    left, right = pair
    hasten(left)
    neighbour = left.interface.index, ip_address(dead).packed
    with left.run(PathChanges) as changes:
        send(left, dead)
        assert heard(changes, Change.NEIGHBOURS)
        assert changes.take_failures() == [neighbour]
        assert changes.take_failures() == []
        # And again, under an application that goes on.
        send(left, dead)
        assert heard(changes, Change.NEIGHBOURS)
        assert changes.take_failures() == [neighbour]
        bits = 32 if "." in dead else 128
        address = {"index": right.interface.index, "address": dead, "prefixlen": bits}
        change(right, "addr", "add", **address, **({"flags": 2} if bits == 128 else {}))
        send(left, dead)
        assert heard(changes, Change.NEIGHBOURS)
        assert changes.take_failures() == []


def test_the_ordinary_turns_of_neighbours_wake_nobody(
    changes: PathChanges, left: Host, right: Host
) -> None:
    neighbour = {"dst": DEAD, "lladdr": right.interface.mac, "ifindex": left.interface.index}
    # NUD_STALE, _REACHABLE, _DELAY, _STALE
    for state in (4, 2, 8, 4):
        change(left, "neigh", "replace", **neighbour, state=state)
    assert not is_readable(changes, 0.2)
    hasten(left)
    send(left, DEAD6)
    assert heard(changes, Change.NEIGHBOURS)
    # From now on returns are awaited, but not those of others.
    for state in (4, 2, 8, 4):
        change(left, "neigh", "replace", **neighbour, state=state)
    assert changes.read() == frozenset()


def test_an_entry_that_is_taken_out_has_not_failed(
    changes: PathChanges, left: Host, right: Host
) -> None:
    where = {"dst": DEAD, "ifindex": left.interface.index}
    change(left, "neigh", "add", **where, lladdr=right.interface.mac, state=4)
    change(left, "neigh", "del", **where)
    until(lambda: is_readable(changes))
    changes.read()
    assert changes.take_failures() == []


def test_too_many_announcements_may_have_been_any(changes: PathChanges, left: Host) -> None:
    index = left.interface.index

    def flood() -> None:
        with IPRoute() as netlink:
            for number in range(1_500):
                where = f"10.9.{number >> 8}.{number & 255}/32"
                netlink.route("add", dst=where, oif=index)

    left.run(flood)
    assert changes.read() == EVERYTHING
    assert changes.read() == frozenset()


# -- the object -----------------------------------------------------------------------


@pytest.mark.usefixtures("fd_guard")
def test_it_stays_in_its_namespace_and_leaves_nothing_open(pair: tuple[Host, Host]) -> None:
    left, right = pair
    with left.run(Pathfinder) as finder:
        assert facts_of(right.run(finder.find, host(right.ipv4))).speed_bps == VETH_BPS
        assert isinstance(right.run(finder.find, host(left.ipv4)), Unmeasurable)
        assert code_of(finder.find(host("198.18.9.9"))) == ErrorCode.ERROR_HOST_UNREACHABLE
    finder.close()


def test_threads_get_their_own_answers(finder: Pathfinder, left: Host, right: Host) -> None:
    wrong: list[object] = []

    def ask(far: str, near: str) -> None:
        for _ in range(200):
            found = finder.find(host(far))
            if not isinstance(found, PathFacts) or found.source != ip_address(near).packed:
                wrong.append(found)

    threads = [
        threading.Thread(target=ask, args=ends)
        for ends in ((right.ipv4, left.ipv4), (right.ipv6, left.ipv6)) * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_it_costs_well_under_a_millisecond(finder: Pathfinder, right: Host) -> None:
    far, taken = host(right.ipv4), []
    for _ in range(301):
        began = time.perf_counter_ns()
        finder.find(far)
        taken.append(time.perf_counter_ns() - began)
    assert median(taken) < 500_000

"""How hosts are reached, where the kernel's answers are made by hand: what no test kernel has."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

import pytest

from openqwave.drivers import interfaces, pathfinder
from openqwave.drivers.adjacency import InterfaceSpeed
from openqwave.drivers.netlink import attribute
from openqwave.drivers.pathchanges import Change, PathChanges, neighbour_filter
from openqwave.drivers.pathfinder import Pathfinder
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import DeviceError, InvalidParameter, NoSystemResources, Refusal
from openqwave.model.estimates import Unmeasurable
from openqwave.model.path import LinkType, PathFacts

GETLINK, GETROUTE, GETNEIGH = 18, 26, 30
FIB_MATCH = 0x2000
PEER = "192.0.2.9"


def host(text: str = PEER) -> Endpoint:
    return Endpoint(ip_address(text).packed, 0)


def refusal(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def link(hardware: int = 1, flags: int = 0x1_0043, index: int = 3) -> bytes:
    fields = struct.pack("=BxHiII", 0, hardware, index, flags, 0)
    return fields + attribute(3, b"wlan0\0") + attribute(4, struct.pack("=I", 1500))


def route(bits: int = 32, kind: int = 1, extra: bytes = b"") -> bytes:
    fields = struct.pack("=BBBBBBBBI", socket.AF_INET, bits, 0, 0, 254, 3, 0, kind, 0)
    return fields + attribute(4, struct.pack("=i", 3)) + extra


def neighbour(state: int, age_ticks: int | None = 0) -> bytes:
    fields = struct.pack("=B3xiHBB", socket.AF_INET, 3, state, 0, 1)
    if age_ticks is None:
        return fields
    return fields + attribute(3, struct.pack("=4I", 1, 2, age_ticks, 1))


class Kernel:
    """Stands for `Netlink`."""

    def __init__(self) -> None:
        self.route: bytes | OSError = route()
        self.entry: bytes | OSError = route(24)
        self.neighbour: bytes | OSError = refusal(errno.ENOENT)
        self.link: bytes | OSError = link()
        self.asked: list[int] = []
        self.socket = object()

    def ask_each(self, kind: int, bodies: Sequence[bytes]) -> list[bytes | OSError]:
        self.asked.append(kind)
        if kind == GETROUTE:
            flags = [struct.unpack_from("=I", body, 8)[0] for body in bodies]
            assert flags == [0, FIB_MATCH]
            return [self.route, self.entry]
        (_,) = bodies
        return [{GETLINK: self.link, GETNEIGH: self.neighbour}[kind]]

    def close(self) -> None:
        """There is nothing to close."""


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(pathfinder, "Netlink", lambda _protocol: made)
    monkeypatch.setattr(interfaces, "interface_speed", lambda *_: InterfaceSpeed(5_000_000))
    return made


@pytest.fixture
def finder(kernel: Kernel) -> Iterator[Pathfinder]:
    assert kernel.asked == []
    with Pathfinder() as made:
        yield made


def facts_of(found: object) -> PathFacts:
    assert isinstance(found, PathFacts), found
    return found


# -- interfaces -----------------------------------------------------------------------


def test_a_radio_is_wireless_and_its_rate_is_asked_for_once(
    finder: Pathfinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask(_sock: socket.socket, name: str) -> InterfaceSpeed:
        asked.append(name)
        return InterfaceSpeed(60_000_000 * len(asked), is_wireless=True)

    monkeypatch.setattr(interfaces, "interface_speed", ask)
    for _ in range(3):
        facts = facts_of(finder.find(host()))
        assert (facts.link_type, facts.speed_bps) == (LinkType.WIRELESS, 60_000_000)
    assert asked == ["wlan0"]


@pytest.mark.parametrize(
    ("hardware", "link_type", "speed_bps"),
    [
        (1, LinkType.WIRED, 5_000_000),
        (772, LinkType.LOOPBACK, 0),
        (512, LinkType.TUNNEL, 0),
        (768, LinkType.TUNNEL, 0),
        (776, LinkType.TUNNEL, 0),
        (778, LinkType.TUNNEL, 0),
        (0xFFFE, LinkType.TUNNEL, 0),
    ],
)
def test_what_an_interface_is(
    finder: Pathfinder, kernel: Kernel, hardware: int, link_type: LinkType, speed_bps: int
) -> None:
    kernel.link = link(hardware)
    facts = facts_of(finder.find(host()))
    assert (facts.link_type, facts.speed_bps) == (link_type, speed_bps)


def test_an_interface_is_described_once(finder: Pathfinder, kernel: Kernel) -> None:
    for _ in range(3):
        assert isinstance(finder.find(host()), PathFacts)
    assert kernel.asked.count(GETLINK) == 1
    assert kernel.asked.count(GETROUTE) == kernel.asked.count(GETNEIGH) == 3


# -- routes ---------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [route(0), route(7), refusal(errno.EINVAL)])
def test_who_is_on_no_link(finder: Pathfinder, kernel: Kernel, entry: bytes | OSError) -> None:
    kernel.entry = entry
    assert isinstance(finder.find(host()), Unmeasurable)


def test_an_encapsulated_way_leads_to_no_neighbour(finder: Pathfinder, kernel: Kernel) -> None:
    kernel.route = route(extra=attribute(21, struct.pack("=H", 2)))
    assert isinstance(finder.find(host()), Unmeasurable)


@pytest.mark.parametrize("kind", [2, 3, 4, 5])
def test_routes_to_nobody_in_particular(finder: Pathfinder, kernel: Kernel, kind: int) -> None:
    kernel.route = route(kind=kind)
    assert isinstance(finder.find(host()), Unmeasurable)


@pytest.mark.parametrize("kind", [6, 7, 8, 9])
def test_routes_to_nowhere(finder: Pathfinder, kernel: Kernel, kind: int) -> None:
    # IPv6 answers with them; IPv4 refuses the question.
    kernel.route = route(kind=kind)
    found = finder.find(host())
    assert isinstance(found, Refusal)
    assert found.code == ErrorCode.ERROR_HOST_UNREACHABLE


def test_a_kernel_without_memory_has_not_said_that_there_is_no_route(
    finder: Pathfinder, kernel: Kernel
) -> None:
    kernel.route = refusal(errno.ENOBUFS)
    with pytest.raises(NoSystemResources):
        finder.find(host())


def test_a_kernel_that_cannot_be_asked(finder: Pathfinder, kernel: Kernel) -> None:
    kernel.link = refusal(errno.EIO)
    with pytest.raises(DeviceError):
        finder.find(host())


def test_hosts_are_not_remembered_without_end(
    finder: Pathfinder, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pathfinder, "_MOST_REMEMBERED", 2)
    for last in range(1, 4):
        assert isinstance(finder.find(host(f"192.0.2.{last}")), PathFacts)
    kernel.route = refusal(errno.ENETUNREACH)
    monkeypatch.setattr(interfaces.Interfaces, "is_usable", lambda *_: False)
    codes = [finder.find(host(f"192.0.2.{last}")) for last in range(1, 4)]
    assert [one.code for one in codes if isinstance(one, Refusal)] == [
        ErrorCode.ERROR_HOST_UNREACHABLE,
        ErrorCode.ERROR_ADAP_HDW_ERR,
        ErrorCode.ERROR_ADAP_HDW_ERR,
    ]


@pytest.mark.usefixtures("fd_guard")
def test_a_network_that_is_none() -> None:
    with pytest.raises(InvalidParameter, match="nonsense"):
        Pathfinder(["nonsense"])
    with pytest.raises(InvalidParameter, match="nonsense"):
        Pathfinder((), ["nonsense"])


# -- neighbours -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "has_failed"),
    [
        (neighbour(0x20), True),
        (neighbour(0x20, 1_000), True),
        (neighbour(0x20, 1_001), False),
        (neighbour(0x20, None), True),
        (neighbour(0x01), False),
        (neighbour(0x02), False),
        (neighbour(0x04), False),
        (neighbour(0x80), False),
        (refusal(errno.ENOENT), False),
        (refusal(errno.EOPNOTSUPP), False),
    ],
)
def test_when_a_neighbour_has_failed(
    finder: Pathfinder, kernel: Kernel, answer: bytes | OSError, has_failed: bool
) -> None:
    kernel.neighbour = answer
    assert finder.neighbour_failed(host()) is has_failed
    found = finder.find(host())
    assert isinstance(found, Refusal if has_failed else PathFacts)


class Clock:
    """Stands for the time module."""

    now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns


def test_a_failure_that_was_heard_of_holds_while_the_kernel_asks_again(
    finder: Pathfinder, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(pathfinder, "time", clock)
    peer = 3, host().packed
    kernel.neighbour = neighbour(0x01)
    finder.hear_failures([peer, (4, b"\0\0\0\0")])
    assert finder.neighbour_failed(host())
    clock.now_ns += pathfinder.FAILED_NS
    assert finder.neighbour_failed(host())
    # Once it has been found, what was before does not matter.
    kernel.neighbour = neighbour(0x02)
    assert not finder.neighbour_failed(host())
    kernel.neighbour = neighbour(0x01)
    clock.now_ns += 1
    assert not finder.neighbour_failed(host())
    finder.hear_failures([peer])
    assert finder.neighbour_failed(host())


# -- the filter -----------------------------------------------------------------------


def passes(instructions: bytes, kind: int, state: int = 0) -> bool:
    """Run classic BPF, as far as the filter uses it, on a message."""
    data = struct.pack("=IHHII", 28, kind, 0, 0, 0) + struct.pack("=B3xiHBB", 2, 3, state, 0, 1)
    program = list(struct.iter_unpack("@HBBI", instructions))
    at = loaded = 0
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        match code:
            case 0x28:
                (loaded,) = struct.unpack_from("!H", data, operand)
            case 0x15:
                at += if_true if loaded == operand else if_false
            case 0x45:
                at += if_true if loaded & operand else if_false
            case 0x06:
                return bool(operand)
            case _:
                raise AssertionError(code)


@pytest.mark.parametrize("awaits_return", [False, True])
def test_what_the_filter_lets_through(awaits_return: bool) -> None:
    instructions = neighbour_filter(awaits_return=awaits_return)
    for kind in (16, 17, 20, 21, 24, 25):
        assert passes(instructions, kind)
    for kind in (28, 29):
        assert passes(instructions, kind, 0x20)
        # Reachable, stale, needs no question, permanent; being asked, about to be, asked again.
        for state in (0x02, 0x04, 0x40, 0x80):
            assert passes(instructions, kind, state) is awaits_return
        for state in (0x00, 0x01, 0x08, 0x10):
            assert not passes(instructions, kind, state)


@pytest.mark.usefixtures("fd_guard")
def test_nothing_is_heard_where_nothing_happens() -> None:
    with PathChanges() as changes:
        assert changes.fileno() >= 0
        # Other tests of this machine may change something.
        assert changes.read() <= frozenset(Change)
    changes.close()


@pytest.mark.usefixtures("fd_guard")
def test_this_host_s_own_addresses_are_no_paths() -> None:
    with Pathfinder() as finder:
        for own in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
            assert isinstance(finder.find(host(own)), Unmeasurable)

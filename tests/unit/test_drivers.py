"""Routes, links, rights and clocks, asked of the kernel."""

from __future__ import annotations

import asyncio
import grp
import os
import time
from ipaddress import ip_address
from pathlib import Path

import pytest

from openqwave.drivers.clock import SystemClock
from openqwave.drivers.credentials import own_credentials
from openqwave.drivers.links import Links
from openqwave.drivers.routes import refuse_route
from openqwave.drivers.sockets import namespace_of
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from tests.unit.loopback import Bench


def endpoint(host: str, port: int = 9, scope_id: int = 0) -> Endpoint:
    return Endpoint(ip_address(host).packed, port, scope_id)


LOOPBACK, LOOPBACK6 = endpoint("127.0.0.1"), endpoint("::1")
MAPPED = endpoint("::ffff:127.0.0.1")


@pytest.fixture
def namespace(sockets: Bench) -> int:
    return namespace_of(sockets.make("udp4"))


# -- routes ---------------------------------------------------------------------------


@pytest.mark.usefixtures("fd_guard")
@pytest.mark.parametrize("host", [LOOPBACK, LOOPBACK6, MAPPED], ids=str)
@pytest.mark.parametrize("interface", [0, 1], ids=["anywhere", "bound to lo"])
def test_loopback_can_be_reached(host: Endpoint, namespace: int, interface: int) -> None:
    assert refuse_route(host, interface=interface) is None
    assert refuse_route(host, namespace=namespace, interface=interface) is None


@pytest.mark.usefixtures("fd_guard")
def test_another_namespace_cannot_be_asked(namespace: int) -> None:
    assert refuse_route(endpoint("fe80::1"), namespace=namespace + 1) is None


@pytest.mark.usefixtures("fd_guard")
def test_link_local_needs_a_scope() -> None:
    refusal = refuse_route(endpoint("fe80::1"))
    assert refusal is not None
    assert refusal.code is ErrorCode.ERROR_INVALID_PARAMETER
    assert "scope" in refusal.detail
    # With one it is a question of routes; loopback has none.
    refusal = refuse_route(endpoint("fe80::1", 9, 1))
    assert refusal is not None
    assert refusal.code is ErrorCode.ERROR_HOST_UNREACHABLE


@pytest.mark.usefixtures("fd_guard")
def test_an_interface_that_is_not_there() -> None:
    refusal = refuse_route(LOOPBACK, interface=10**6)
    assert refusal is not None
    assert refusal.code is ErrorCode.ERROR_HOST_UNREACHABLE


def test_a_broadcast_address_needs_no_rights() -> None:
    assert refuse_route(endpoint("127.255.255.255")) is None


def test_asking_sends_nothing(sockets: Bench) -> None:
    listener = sockets.make("udp4")
    listener.bind(("127.0.0.1", 0))
    listener.setblocking(False)
    assert refuse_route(endpoint("127.0.0.1", listener.getsockname()[1])) is None
    with pytest.raises(BlockingIOError):
        listener.recv(1)


# -- links ----------------------------------------------------------------------------


@pytest.mark.usefixtures("fd_guard")
@pytest.mark.parametrize("host", [LOOPBACK, LOOPBACK6], ids=str)
@pytest.mark.parametrize("interface", [0, 1])
def test_loopback_is_not_paced(host: Endpoint, interface: int) -> None:
    assert Links().is_paced(host, interface) is False


def test_links_can_be_asked_where_a_loop_runs() -> None:
    async def ask() -> bool:
        return Links().is_paced(LOOPBACK, 0)

    assert asyncio.run(ask()) is False


def test_a_link_that_is_not_there() -> None:
    with pytest.raises(OSError, match="netlink"):
        Links().is_paced(LOOPBACK, 10**6)


def test_linux_version() -> None:
    major, minor = Links().linux_version()
    assert os.uname().release.startswith(f"{major}.{minor}")


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.7.0", (6, 7)),
        ("5.15.0-91-generic", (5, 15)),
        ("6.18", (6, 18)),
        ("10.0-rc1", (10, 0)),
        ("strange", (0, 0)),
    ],
)
def test_releases(monkeypatch: pytest.MonkeyPatch, release: str, version: tuple[int, int]) -> None:
    name = os.uname()
    fake = os.uname_result((name.sysname, name.nodename, release, name.version, name.machine))
    monkeypatch.setattr(os, "uname", lambda: fake)
    assert Links().linux_version() == version


# -- credentials ----------------------------------------------------------------------


def status() -> dict[str, str]:
    text = Path("/proc/thread-self/status").read_text(encoding="ascii")
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def test_own_credentials_are_the_kernels() -> None:
    seen, said = own_credentials(), status()
    assert seen.effective_uid == int(said["Uid"].split()[1])
    assert seen.has_net_admin == bool(int(said["CapEff"], 16) >> 12 & 1)
    expected = set()
    for gid in {int(said["Gid"].split()[1]), *map(int, said["Groups"].split())}:
        try:
            expected.add(grp.getgrgid(gid).gr_name)
        except KeyError:
            continue
    assert seen.groups == expected


def in_child(body: object) -> int:
    """Exit status of something done by a child process; 99 where it raised."""
    assert callable(body)
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = int(body())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.root
def test_dropped_rights_are_seen_at_once() -> None:
    def body() -> int:
        own_credentials()
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        seen = own_credentials()
        return 10 * seen.is_administrator + (seen.effective_uid != 65534)

    assert in_child(body) == 0


@pytest.mark.root
def test_a_group_without_a_name_is_left_out() -> None:
    def body() -> int:
        os.setgroups([4_000_000_000])
        return len(own_credentials().groups - {grp.getgrgid(os.getegid()).gr_name})

    assert in_child(body) == 0


# -- clock ----------------------------------------------------------------------------


def test_the_clock_is_the_monotonic_one() -> None:
    clock = SystemClock()
    before, now, after = time.monotonic_ns(), clock.read()[0], time.monotonic_ns()
    assert before <= now <= after


def test_asleep_is_the_difference_of_the_clocks() -> None:
    clock = SystemClock()

    def once() -> tuple[int, int, int]:
        low = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
        middle = clock.read()[1]
        # Each reading can only be too small, by what lies between its two clocks.
        return low, middle, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()

    readings = [max(column) for column in zip(*(once() for _ in range(100)), strict=True)]
    # A hundred tries find one each that was not torn apart; seen: 1 us, allowed: 1 ms.
    assert max(readings) - min(readings) < 1_000_000

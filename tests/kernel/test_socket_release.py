"""The kernel says at once which sockets are closed; those with data to send stay marked."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from openqwave.drivers.netlink import Netlink
from openqwave.drivers.sockdiag import SocketDiagnosis
from openqwave.drivers.sockets import SO_COOKIE, read_cookie
from openqwave.enforcement.bpf import release, syscalls
from openqwave.enforcement.bpf.program import EgressProgram
from openqwave.enforcement.bpf.release import LINGER_NS, LOOK_NS, Lingering, Released
from openqwave.enforcement.missing import MechanismMissing
from openqwave.lab.hosts import Host
from openqwave.model.flow import Treatment
from tests.kernel.exits import Exits, loaded
from tests.patience import until

pytestmark = [pytest.mark.kernel, pytest.mark.root]

TIMEOUT_S = 20.0
PORT = 5_006
EF = 46


class Deaths:
    """The program, attached to the root of the control groups, and what it tells."""

    def __init__(self, program: EgressProgram) -> None:
        self.program = program
        self.link = release.attach(program.programs.release)
        self.released = Released(program.ring_fd, program.ring_bytes)
        self.slot = program.table.new_slot()
        program.table.write_treatment(self.slot, Treatment(EF, None, None, False))

    def follow(self, sock: socket.socket) -> int:
        """Want something of a socket."""
        cookie = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), sys.byteorder)
        self.program.table.put_socket(cookie, self.slot)
        return cookie

    def has(self, cookie: int) -> bool:
        return cookie in self.program.table.entries().sockets

    def wait(self) -> list[int]:
        ready, _, _ = select.select([self.released], [], [], TIMEOUT_S)
        assert ready
        return self.released.take()

    def close(self) -> None:
        self.released.close()
        os.close(self.link)


@pytest.fixture
def deaths() -> Iterator[Deaths]:
    with loaded() as program:
        try:
            deaths = Deaths(program)
        except MechanismMissing as missing:
            pytest.skip(str(missing))
        try:
            yield deaths
        finally:
            deaths.close()


def udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_kernel_itself_removes_what_a_udp_socket_leaves(
    deaths: Deaths, family: socket.AddressFamily
) -> None:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    cookie = deaths.follow(sock)
    with udp() as other:
        kept = deaths.follow(other)
        assert deaths.has(cookie)
        sock.close()
        # Nobody has read the ring.
        assert not deaths.has(cookie)
        assert deaths.has(kept)
        assert deaths.wait() == [cookie]
        assert deaths.released.take() == []


def test_sockets_of_which_nothing_is_wanted_are_not_told(deaths: Deaths) -> None:
    for _ in range(10):
        udp().close()
    with udp() as sock:
        cookie = deaths.follow(sock)
    assert deaths.wait() == [cookie]


def test_a_fork_that_holds_the_socket_keeps_it_alive(deaths: Deaths) -> None:
    sock = udp()
    cookie = deaths.follow(sock)
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(tell)
        os.read(told, 1)
        os._exit(0)
    sock.close()
    assert deaths.has(cookie)
    assert deaths.released.take() == []
    os.close(tell)
    os.waitpid(child, 0)
    os.close(told)
    assert deaths.wait() == [cookie]
    assert not deaths.has(cookie)


def test_the_death_of_the_owner_is_one_of_its_sockets(deaths: Deaths) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            sock = udp()
            os.write(writing, deaths.follow(sock).to_bytes(8, "little"))
            signal.pause()
        os._exit(1)
    cookie = int.from_bytes(os.read(reading, 8), "little")
    assert deaths.has(cookie)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert deaths.wait() == [cookie]
    assert not deaths.has(cookie)
    os.close(reading)
    os.close(writing)


def test_more_than_the_ring_holds_at_once_comes_in_order(deaths: Deaths) -> None:
    # Records are 16 bytes: several times around the ring.
    count = 3 * deaths.program.ring_bytes // 16
    for _ in range(count // 32):
        sockets = [udp() for _ in range(32)]
        cookies = [deaths.follow(sock) for sock in sockets]
        for sock in sockets:
            sock.close()
        assert deaths.released.take() == cookies
    assert deaths.program.table.missed_releases() == 0


def test_a_link_that_is_closed_tells_nothing(deaths: Deaths) -> None:
    sock = udp()
    cookie = deaths.follow(sock)
    os.close(deaths.link)
    deaths.link = os.open("/dev/null", os.O_RDONLY)
    sock.close()
    assert deaths.has(cookie)
    assert deaths.released.take() == []


def test_what_tcp_sends_after_close_is_still_marked(
    deaths: Deaths, pair: tuple[Host, Host]
) -> None:
    left, right = pair
    with right.enter():
        listening = socket.create_server((right.ipv4, PORT))
    right.at_close(listening.close)
    with left.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        diagnosis = SocketDiagnosis()
        assert diagnosis.counters([1]) == {}  # It asks in this namespace from now on.
    left.at_close(diagnosis.close)
    exits = Exits(left, deaths.program, with_tcx=None)
    exits.reconcile()
    sock.connect((right.ipv4, PORT))
    far, _ = listening.accept()
    far.settimeout(TIMEOUT_S)
    right.at_close(far.close)
    cookie = deaths.follow(sock)
    # More than the far end takes as long as nobody reads there.
    sock.setblocking(False)
    sent = 0
    with suppress(BlockingIOError):
        while True:
            sent += sock.send(bytes(65_536))
    sock.close()
    lingering = Lingering(diagnosis)
    lingering.add(deaths.wait(), now_ns=0)
    assert lingering.take(0) == []
    assert cookie in lingering
    assert deaths.has(cookie)
    with left.interface.capture() as capture:
        received = 0
        while data := far.recv(1 << 20):
            received += len(data)
        assert received == sent
        packets = [one for one in capture.packets() if one.destination == right.ipv4]
    assert len(packets) > 1
    assert {packet.dscp for packet in packets} == {EF}
    far.close()
    moment_ns = LOOK_NS
    found: list[int] = []

    def is_over() -> bool:
        nonlocal moment_ns
        moment_ns += LOOK_NS
        found.extend(lingering.take(moment_ns))
        return bool(found)

    assert moment_ns < LINGER_NS
    until(is_over)
    assert found == [cookie]
    assert cookie not in lingering
    exits.close()


def test_who_never_gets_rid_of_its_data_is_let_go_after_a_minute() -> None:
    class Everything:
        def closed(self, _: Collection[int]) -> Collection[int]:
            return ()

    lingering = Lingering(Everything())
    lingering.add([1], 5)
    lingering.add([1], LINGER_NS)
    assert lingering.take(6) == []
    assert lingering.take(LINGER_NS + 4) == []
    # Asked once in LOOK_NS.
    assert lingering.take(LINGER_NS + 6) == []
    assert lingering.take(LINGER_NS + 4 + LOOK_NS) == [1]


def test_who_cannot_be_asked_about_is_not_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = SocketDiagnosis()
    with diagnosis, socket.create_server(("127.0.0.1", 0)) as listening:
        lingering = Lingering(diagnosis)
        sock = socket.create_connection(listening.getsockname())
        cookie = read_cookie(sock)
        lingering.add([cookie], 0)

        def fail(*_: object) -> list[bytes]:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

        with monkeypatch.context() as without:
            without.setattr(Netlink, "dump", fail)
            assert lingering.take(0) == []
        assert "No buffer space" in diagnosis.reason
        with sock:
            assert lingering.take(LOOK_NS) == []
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        until(lambda: lingering.take(2 * LOOK_NS) == [cookie])


# -- where it cannot be had ------------------------------------------------------------------


def test_the_root_of_the_control_groups_is_found() -> None:
    tmpfs = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    hybrid = "41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw master:3 - cgroup2 cgroup2 rw\n"
    below = "40 31 0:38 /a/b /mnt rw shared:1 master:3 - cgroup2 cgroup2 rw\n"
    assert release.cgroup_root("") is None
    assert release.cgroup_root(tmpfs) is None
    assert release.cgroup_root(tmpfs + below) == "/mnt"
    assert release.cgroup_root(tmpfs + below + hybrid) == "/sys/fs/cgroup/uni fied"


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with loaded() as program:
        fd = program.programs.release
        with pytest.raises(MechanismMissing, match="mount one"):
            release.attach(fd, mounts="")
        gone = f"41 31 0:38 / {tmp_path}/gone rw - cgroup2 cgroup2 rw\n"
        with pytest.raises(MechanismMissing, match="let the service read it"):
            release.attach(fd, mounts=gone)
        # A directory that is none of a control group.
        other = f"41 31 0:38 / {tmp_path} rw - cgroup2 cgroup2 rw\n"
        with pytest.raises(MechanismMissing, match="cannot be attached"):
            release.attach(fd, mounts=other)


def test_a_place_that_another_program_has_for_itself_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Such a program at the root would be in everybody's way: the kernel's refusal is made up.
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(syscalls, "link_create", refuse)
    with pytest.raises(MechanismMissing, match="allows no second one"):
        release.attach(-1)


def test_another_program_at_the_same_place_is_left_there() -> None:
    with loaded() as ours, loaded() as theirs:
        try:
            link = release.attach(theirs.programs.release)
        except MechanismMissing as missing:
            pytest.skip(str(missing))
        where = release.cgroup_root(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
        assert where is not None
        group = os.open(where, os.O_RDONLY)
        before = syscalls.query(group, syscalls.SOCK_RELEASE)
        os.close(release.attach(ours.programs.release))
        assert syscalls.query(group, syscalls.SOCK_RELEASE) == before
        os.close(group)
        os.close(link)

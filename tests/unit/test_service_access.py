"""Who a client is: the kernel's word at the moment it connected, and never the client's own."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from openqwave.drivers.processes import process_of
from openqwave.service.access import Identity, credentials_of, group_name, identify, user_name

NOBODY = 65_534
PATIENCE_S = 20.0
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000


@contextmanager
def connected(become: Callable[[], None]) -> Iterator[tuple[socket.socket, int]]:
    """A connection from a child that became something first; its end here, and the child."""
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
    ):
        os.chmod(folder, 0o755)  # noqa: S103 - other users come in
        listener.settimeout(PATIENCE_S)
        listener.bind(f"{folder}/sock")
        os.chmod(f"{folder}/sock", 0o666)  # noqa: S103 - likewise
        listener.listen()
        pid = os.fork()
        if pid == 0:
            try:
                become()
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                    sock.connect(listener.getsockname())
                    signal.pause()
            finally:
                os._exit(1)
        try:
            with listener.accept()[0] as sock:
                yield sock, pid
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def identity_of(become: Callable[[], None]) -> Identity:
    with connected(become) as (sock, pid), process_of(sock) or pytest.fail("no process") as process:
        found = identify(sock, process)
        assert found.pid == pid
        return found


def stay() -> None:
    pass


def become_nobody(*groups: int) -> None:
    os.setgroups(groups)
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def unshare(flags: int) -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).unshare(flags):
        os._exit(3)


def test_who_connects_as_what_this_process_is() -> None:
    found = identity_of(stay)
    assert found.uid == os.geteuid()
    assert set(found.gids) == {os.getegid(), *os.getgroups()}
    assert found.program.startswith("python")


@pytest.mark.root
def test_root_is_an_administrator() -> None:
    assert credentials_of(identity_of(stay)).is_administrator
    assert identity_of(stay).has_net_admin


@pytest.mark.root
def test_an_ordinary_user_is_none() -> None:
    found = identity_of(become_nobody)
    assert (found.uid, found.gids, found.has_net_admin) == (NOBODY, (NOBODY,), False)
    assert not credentials_of(found).is_administrator


@pytest.mark.root
@pytest.mark.parametrize("count", [1, 300, 5_000])
def test_all_groups_count_however_many(count: int) -> None:
    gids = range(9, 9 + count)
    found = identity_of(lambda: become_nobody(*gids))
    assert set(found.gids) == {*gids, NOBODY}
    assert group_name(9) in credentials_of(found).groups or not group_name(9)


@pytest.mark.root
def test_a_capability_in_a_namespace_of_ones_own_is_none() -> None:
    def become() -> None:
        become_nobody()
        unshare(CLONE_NEWUSER)

    with connected(become) as (sock, _), process_of(sock) or pytest.fail("none") as process:
        found = identify(sock, process)
    assert found.uid == NOBODY
    assert not found.has_net_admin
    assert not credentials_of(found).is_administrator


@pytest.mark.root
def test_another_network_is_a_strange_one() -> None:
    here = identity_of(stay).namespace
    there = identity_of(lambda: unshare(CLONE_NEWNET)).namespace
    assert here
    assert there not in (0, here)


def test_of_a_process_that_ended_nothing_is_read() -> None:
    """Its number may be another's by now."""
    with connected(stay) as (sock, pid), process_of(sock) or pytest.fail("none") as process:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        found = identify(sock, process)
        assert (found.program, found.has_net_admin, found.namespace) == ("", False, 0)
        assert found.uid == os.geteuid()


def test_without_a_process_nobody_has_capabilities() -> None:
    with connected(stay) as (sock, _):
        found = identify(sock, None)
    assert (found.program, found.has_net_admin) == ("", False)


def test_names() -> None:
    assert user_name(0) == "root"
    assert user_name(4_000_000_000) == "4000000000"
    assert group_name(4_000_000_000) == ""

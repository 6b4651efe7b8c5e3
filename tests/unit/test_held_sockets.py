"""Sockets that another process has: each is given once, and what is no socket is not."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from openqwave.drivers.heldsockets import Reached, all_pids, each_socket
from openqwave.drivers.processes import Process
from openqwave.drivers.sockets import SO_COOKIE
from openqwave.model.sockets import OutOfReach
from tests.patience import until

HOLDER = """
import os, socket, sys
held = [
    socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
    socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
]
pipe = os.pipe()
cookies = [each.getsockopt(socket.SOL_SOCKET, 57, 8) for each in held]
print(*(int.from_bytes(each, "little") for each in cookies), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder() -> Iterator[tuple[int, list[int]]]:
    """A process with sockets: its number, and the cookies of those of the internet."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    cookies = [int(word) for word in process.stdout.readline().split()]
    yield process.pid, cookies[:2]
    process.communicate("")


def cookies_given(pids: list[int], *, is_meant: bool = True) -> tuple[list[int], Reached]:
    found: list[int] = []

    def give(_: int, number: int) -> None:
        with socket.socket(fileno=os.dup(number)) as sock:
            found.append(int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little"))

    return found, each_socket(pids, lambda _: is_meant, give)


def test_each_socket_of_the_internet_is_given(holder: tuple[int, list[int]]) -> None:
    pid, cookies = holder
    before = len(os.listdir("/proc/self/fd"))
    found, reached = cookies_given([pid])
    assert len(found) == 2
    assert reached == Reached(2, 0)
    # What may take long to close is closed by a thread.
    until(lambda: len(os.listdir("/proc/self/fd")) <= before)
    assert sorted(found) == sorted(cookies)


def test_who_is_not_meant_is_let_alone(holder: tuple[int, list[int]]) -> None:
    assert cookies_given([holder[0]], is_meant=False) == ([], Reached())


def test_what_takes_too_long_is_given_up(holder: tuple[int, list[int]]) -> None:
    def dawdle(_: int, __: int) -> None:
        select.select([], [], [], 0.2)

    pid = holder[0]
    assert each_socket([pid] * 3, lambda _: True, dawdle, 0.1) == Reached(1, 2)
    # Asked late, nobody is looked into.
    assert each_socket([pid] * 3, lambda _: True, dawdle, -1) == Reached(0, 1)


def test_who_is_gone_has_none() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert cookies_given([child.pid]) == ([], Reached())


def test_what_is_not_taken_counts_as_not_reached(holder: tuple[int, list[int]]) -> None:
    def refuse(_: int, __: int) -> None:
        raise OSError

    assert each_socket([holder[0]], lambda _: True, refuse) == Reached(0, 1)


def test_a_process_that_may_not_be_reached(
    holder: tuple[int, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Process, __: int) -> int:
        raise OutOfReach(1, "give qwaved CAP_SYS_PTRACE")

    monkeypatch.setattr(Process, "fetch", refuse)
    assert cookies_given([holder[0], holder[0]]) == ([], Reached(0, 2))


def test_all_processes_but_this_one(holder: tuple[int, list[int]]) -> None:
    pids = all_pids()
    assert holder[0] in pids
    assert os.getpid() not in pids

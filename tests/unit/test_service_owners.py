"""The processes at the other ends: held once, until the last of their connections has gone."""

from __future__ import annotations

import os
import select
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from openqwave.service.owners import Owners
from tests.conftest import open_descriptors

PATIENCE_S = 20.0


class Ends:
    """A listener, and a child that has connected to it twice."""

    def __init__(self, stack: ExitStack) -> None:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        self.listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        self.listener.settimeout(PATIENCE_S)
        self.listener.bind(f"{folder}/sock")
        self.listener.listen()
        self.epoll = stack.enter_context(select.epoll())
        self.owners = Owners(self.epoll)
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            ends = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
            for end in ends:
                end.connect(self.listener.getsockname())
            os.write(writing, b"x")
            signal.pause()
            os._exit(1)
        stack.callback(os.waitpid, self.pid, 0)
        stack.callback(os.kill, self.pid, signal.SIGKILL)
        os.read(reading, 1)
        os.close(reading)
        os.close(writing)
        self._stack = stack

    def accept(self) -> socket.socket:
        return self._stack.enter_context(self.listener.accept()[0])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)


@pytest.fixture
def ends() -> Iterator[Ends]:
    with ExitStack() as stack:
        yield Ends(stack)


def held() -> int:
    return sum("pidfd" in what for what in open_descriptors().values())


def peers(count: int) -> list[Any]:
    """Stand in for connections, of which nothing is asked here."""
    return [object() for _ in range(count)]


def test_a_process_is_held_once_for_all_its_connections(ends: Ends) -> None:
    before = held()
    one, other = peers(2)
    first = ends.owners.take_hold(ends.accept())
    assert first is not None
    ends.owners.add(first, one)
    assert ends.owners.take_hold(ends.accept()) is first
    ends.owners.add(first, other)
    assert held() == before + 1
    found = ends.owners.find(first.fileno())
    assert found is not None
    assert found[0] is first
    assert set(found[1]) == {one, other}
    ends.owners.let_go(first, one)
    assert held() == before + 1
    ends.owners.let_go(first, other)
    assert held() == before


def test_its_end_is_seen(ends: Ends) -> None:
    process = ends.owners.take_hold(ends.accept())
    assert process is not None
    ends.owners.add(process, *peers(1))
    assert ends.epoll.poll(0) == []
    ends.kill()
    assert ends.epoll.poll(PATIENCE_S) == [(process.fileno(), select.EPOLLIN)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_what_a_dead_process_left_is_held_beside_it(ends: Ends, order: tuple[int, int]) -> None:
    """It had connected once more, and that is accepted after its end."""
    before = held()
    processes = [ends.owners.take_hold(ends.accept())]
    ends.kill()
    processes.append(ends.owners.take_hold(ends.accept()))
    both = peers(2)
    for process, peer in zip(processes, both, strict=True):
        assert process is not None
        ends.owners.add(process, peer)
    for index in order:
        process = processes[index]
        assert process is not None
        ends.owners.let_go(process, both[index])
        ends.owners.let_go(process, both[index])
    assert held() == before

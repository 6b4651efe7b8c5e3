"""Waiting for descriptors: to the microsecond, for more than 1,023, and for what is still there."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from openqwave.drivers.readiness import READABLE, WRITABLE, Readiness, Wake

pytestmark = pytest.mark.usefixtures("fd_guard")


@pytest.fixture
def readiness() -> Iterator[Readiness]:
    made = Readiness()
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def ignore(_events: int) -> None:
    raise AssertionError("who waits calls the handlers")


def found(
    readiness: Readiness, timeout_ns: int | None
) -> list[tuple[object, Callable[[int], None], int]]:
    readiness.wait(timeout_ns)
    return list(readiness.ready())


def test_what_is_ready_is_told_with_its_owner(
    readiness: Readiness, pair: tuple[socket.socket, socket.socket]
) -> None:
    near, far = pair
    readiness.add(near.fileno(), "mine", ignore)
    assert found(readiness, 0) == []
    far.send(b"x")
    assert found(readiness, None) == [("mine", ignore, READABLE)]
    readiness.change(near.fileno(), WRITABLE)
    assert found(readiness, None) == [("mine", ignore, WRITABLE)]
    readiness.remove(near.fileno())
    readiness.remove(near.fileno())
    assert found(readiness, 0) == []


@pytest.mark.parametrize("timeout_ns", [50_000, 2_500_000])
def test_a_wait_is_not_shorter_than_asked(readiness: Readiness, timeout_ns: int) -> None:
    for _ in range(5):
        start_ns = time.monotonic_ns()
        assert found(readiness, timeout_ns) == []
        assert time.monotonic_ns() - start_ns >= timeout_ns


def test_short_waits_are_not_rounded_up_to_a_millisecond(readiness: Readiness) -> None:
    lengths_ns = []
    for _ in range(50):
        start_ns = time.monotonic_ns()
        found(readiness, 1_000)
        lengths_ns.append(time.monotonic_ns() - start_ns)
    # 60 us were seen, with the timer slack of an ordinary thread.
    assert min(lengths_ns) < 900_000


def test_what_a_handler_closes_is_not_told_any_more(readiness: Readiness) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    descriptors = [near.fileno() for near, _ in pairs]
    for near, far in pairs:
        readiness.add(near.fileno(), near.fileno(), ignore)
        far.send(b"x")
    told = []
    readiness.wait(None)
    for owner, _, _ in readiness.ready():
        told.append(owner)
        # Closes the other, and gives its number to somebody who is not ready.
        (other,) = {*descriptors} - {owner}
        readiness.remove(other)
        near, far = pairs[descriptors.index(other)]
        near.close()
        far.close()
        reader, writer = os.pipe()
        os.dup2(reader, other)
        readiness.add(other, "new", ignore)
        for fd in {reader, writer} - {other}:
            os.close(fd)
    assert len(told) == 1
    for fd in descriptors:
        readiness.remove(fd)
    os.close(next(iter({*descriptors} - {*told})))
    for near, far in pairs:
        near.close()
        far.close()


def test_descriptors_beyond_those_of_select(
    readiness: Readiness, pair: tuple[socket.socket, socket.socket]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2_000:
        pytest.skip("this process may not have so many descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2_000), hard))
    near, far = pair
    high = 1_500
    try:
        os.dup2(near.fileno(), high)
        readiness.add(high, "high", ignore)
        far.send(b"x")
        assert [owner for owner, _, _ in found(readiness, None)] == ["high"]
        readiness.remove(high)
    finally:
        os.close(high)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_another_thread_ends_a_wait(readiness: Readiness) -> None:
    wake = Wake()
    readiness.add(wake.fd, None, ignore)
    thread = threading.Thread(target=wake.send)
    thread.start()
    assert [owner for owner, _, _ in found(readiness, None)] == [None]
    thread.join()
    wake.take()
    wake.take()
    assert found(readiness, 0) == []
    readiness.remove(wake.fd)
    wake.close()

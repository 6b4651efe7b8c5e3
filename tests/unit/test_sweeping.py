"""Looking for closed sockets: a few at a time, each in its turn, and not too often."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from openqwave.runtime.sweeping import LONG_NS, Sweep

MS = 1_000_000


class Sockets:
    """Sockets of which some are gone; looking at one takes a time that the test sets."""

    def __init__(self, takes_ns: int) -> None:
        self.takes_ns = takes_ns
        self.now_ns = 10**12
        self.gone: set[int] = set()
        self.lost: set[int] = set()
        self.looked: list[int] = []

    def is_gone(self, cookie: int) -> bool:
        self.looked.append(cookie)
        self.now_ns += self.takes_ns
        if cookie in self.lost:
            raise OSError(24, "Too many open files")
        return cookie in self.gone

    def took(self) -> list[int]:
        taken, self.looked = self.looked, []
        return taken


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Sockets]:
    def made(takes_ns: int) -> Sockets:
        sockets = Sockets(takes_ns)
        monkeypatch.setattr(time, "monotonic_ns", lambda: sockets.now_ns)
        return sockets

    return made


def test_all_are_looked_at_in_their_turn(make: Callable[[int], Sockets]) -> None:
    sockets, sweep = make(2 * MS), Sweep(10 * MS)
    sockets.gone = {3, 9}
    found: list[int] = []
    for _ in range(3):
        found += sweep.look(sockets, 0, lambda: range(12))
    assert sorted(sockets.took()) == list(range(12))
    assert sorted(found) == [3, 9]
    # Then from the beginning, with those that are there now.
    sweep.look(sockets, 0, lambda: range(20, 22))
    assert sorted(sockets.took()) == [20, 21]


def test_a_look_is_not_longer_than_it_may_be(make: Callable[[int], Sockets]) -> None:
    sockets, sweep = make(3 * MS), Sweep(10 * MS)
    before_ns = sockets.now_ns
    sweep.look(sockets, 0, lambda: range(1_000))
    assert sockets.now_ns - before_ns == 12 * MS
    assert len(sockets.took()) == 4


def test_a_socket_that_cannot_be_looked_for_is_there(make: Callable[[int], Sockets]) -> None:
    sockets, sweep = make(1), Sweep(10 * MS)
    sockets.gone, sockets.lost = {1, 2}, {2}
    assert sweep.look(sockets, 0, lambda: range(3)) == [1]


def test_others_sockets_are_others(make: Callable[[int], Sockets]) -> None:
    sockets, sweep = make(6 * MS), Sweep(10 * MS)
    sweep.look(sockets, 1, lambda: range(10))
    assert len(sockets.took()) == 2
    sweep.look(sockets, 2, lambda: range(50, 60))
    assert all(cookie >= 50 for cookie in sockets.took())


def test_a_long_look_that_found_nothing_is_not_taken_again_at_once(
    make: Callable[[int], Sockets],
) -> None:
    sockets, sweep = make(LONG_NS), Sweep(10 * MS, 20)
    sweep.look(sockets, 0, lambda: range(5))
    assert len(sockets.took()) == 5
    sockets.gone = {1}
    sockets.now_ns += 20 * 5 * LONG_NS - 1
    assert sweep.look(sockets, 0, lambda: range(5)) == []
    assert sockets.took() == []
    sockets.now_ns += 1
    assert sweep.look(sockets, 0, lambda: range(5)) == [1]
    # One that found something is worth another.
    assert sweep.look(sockets, 0, lambda: range(5)) == [1]


def test_a_short_look_may_be_taken_at_any_time(make: Callable[[int], Sockets]) -> None:
    sockets, sweep = make(LONG_NS // 5 - 1), Sweep(10 * MS, 20)
    for _ in range(3):
        sweep.look(sockets, 0, lambda: range(5))
        assert len(sockets.took()) == 5

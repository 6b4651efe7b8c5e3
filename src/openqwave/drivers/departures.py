"""Whose train leaves when: one after another, so that none disturbs the spacing of another.

A fast train is sent to its end in one go. A slow one (at 2 Mbit/s there are 6 ms from packet to
packet) leaves time for everything else a thread has to do; between its datagrams the thread
attends to that, and comes back before the next is due.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from openqwave.drivers.trains import SPIN_NS, Departure, Train

# Fast trains of one go may take so long together before the thread looks at its descriptors.
_GO_NS = 20_000_000


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A train, whose it is, and who is told what became of it."""

    owner: object
    train: Train
    done: Callable[[Departure], None]


class Departures:
    """The trains of one thread, oldest first."""

    def __init__(self) -> None:
        self._queue: deque[_Waiting] = deque()

    def add(self, owner: object, train: Train, done: Callable[[Departure], None]) -> None:
        """Have a train sent when those before it are gone.

        Args:
            owner: Whose it is.
            train: The train.
            done: Told what became of it.
        """
        self._queue.append(_Waiting(owner, train, done))

    def has_of(self, owner: object) -> bool:
        """Does a train of somebody wait, or is it on its way?"""
        return any(waiting.owner is owner for waiting in self._queue)

    def forget(self, owner: object) -> None:
        """Send no more for somebody."""
        self._queue = deque(waiting for waiting in self._queue if waiting.owner is not owner)

    def next_ns(self) -> int | None:
        """When `run` has to be called, CLOCK_MONOTONIC; None if nothing waits."""
        return self._queue[0].train.due_ns - SPIN_NS if self._queue else None

    def run(self) -> None:
        """Send what is due; blocks for one fast train, or until one datagram's time has come."""
        gone: list[tuple[_Waiting, Departure]] = []
        start_ns = time.monotonic_ns()
        while self._queue and time.monotonic_ns() - start_ns < _GO_NS:
            waiting = self._queue[0]
            train = waiting.train
            if not train.is_slow:
                departure = train.run()
            elif train.due_ns - SPIN_NS > time.monotonic_ns():
                break
            else:
                train.send_due()
                if not train.is_over:
                    break
                departure = train.finish()
            self._queue.popleft()
            gone.append((waiting, departure))
        # Only now, so that trains that belong together leave together.
        for waiting, departure in gone:
            waiting.done(departure)

"""Results that are handed over to whoever waits for them, by whichever thread has them.

Who is told runs callbacks, which may come back with a call, and may take their time; so results
are handed over without any lock, one at a time, in the order in which they came. A call that
returns afterwards waits for those that another thread is just handing over, because a program
that was told of the one expects the other to be there: the end of a flow, and the event of what
was pending on it. One waits, and for a limited time, in case a callback waits for that very call.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

# What is handed over; done twice it is the same as done once, for it may be interrupted.
Work: TypeAlias = "Callable[[], object]"

# Setting a result takes microseconds; a callback that takes longer is not waited for.
_PATIENCE_S = 1.0


class _Delivery:
    """One that is under way."""

    __slots__ = ("is_over", "thread", "work")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.is_over = threading.Event()
        self.work: Work | None = None


class Deliveries:
    """See the module's text."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Work] = deque()
        self._under_way: list[_Delivery] = []

    def __bool__(self) -> bool:
        """Is there anything to hand over?"""
        return bool(self._waiting)

    def add(self, work: Work) -> None:
        """Have something handed over, by the next who settles."""
        self._waiting.append(work)

    def settle(self) -> None:
        """Return when everything that came before has been handed over."""
        if self._waiting:
            self.hand_over()
        if self._under_way:
            self._wait()

    def hand_over(self) -> None:
        """Hand over what there is."""
        if not self._waiting:
            return
        delivery = _Delivery()
        try:
            while self._waiting:
                with self._lock:
                    if not self._waiting:
                        break
                    if delivery not in self._under_way:
                        self._under_way.append(delivery)
                    delivery.work = self._waiting[0]
                    del self._waiting[0]
                delivery.work()
                delivery.work = None
        finally:
            with self._lock:
                if delivery.work is not None and delivery.work not in self._waiting:
                    # Interrupted: it is for the next.
                    self._waiting.appendleft(delivery.work)
                self._take_off(delivery)
            delivery.is_over.set()

    def _wait(self) -> None:
        me = threading.get_ident()
        with self._lock:
            others = list(self._under_way)
        if any(one.thread == me for one in others):
            # A callback's call: two of them would wait for each other.
            return
        for delivery in others:
            if not delivery.is_over.wait(_PATIENCE_S):
                # Nobody else waits for it.
                with self._lock:
                    self._take_off(delivery)

    def _take_off(self, delivery: _Delivery) -> None:
        if delivery in self._under_way:
            self._under_way.remove(delivery)

"""When the engine has to be woken: one time for each reason, the earliest first.

A heap with entries that may be outdated: setting a reason's time anew leaves its old entry, which
is recognised when it comes to the top. So setting costs the logarithm of how many there are, and
what is outdated is dropped when it is more than what is not.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator

# Below so many entries outdated ones are no trouble.
_FEW = 64


class Timers:
    """Times by reason; a reason is any hashable value."""

    def __init__(self) -> None:
        self._due_ns: dict[Hashable, int] = {}
        self._heap: list[tuple[int, int, Hashable]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._due_ns)

    @property
    def entry_count(self) -> int:
        """How many entries are kept, outdated ones included."""
        return len(self._heap)

    def set(self, reason: Hashable, due_ns: int | None) -> None:
        """Be woken for a reason at a time, and at no other; None for not at all."""
        if self._due_ns.get(reason) == due_ns:
            return
        if due_ns is None:
            del self._due_ns[reason]
        else:
            self._due_ns[reason] = due_ns
            # The number keeps reasons from being compared, and equal times in order.
            self._number += 1
            heapq.heappush(self._heap, (due_ns, self._number, reason))
        if len(self._heap) > _FEW + 2 * len(self._due_ns):
            self._heap = [entry for entry in self._heap if self._is_current(entry)]
            heapq.heapify(self._heap)

    def next_ns(self) -> int | None:
        """The earliest time; None where there is none."""
        while self._heap and not self._is_current(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take_due(self, now_ns: int) -> Iterator[Hashable]:
        """The reasons whose time has come; each is taken out."""
        while (due_ns := self.next_ns()) is not None and due_ns <= now_ns:
            _, _, reason = heapq.heappop(self._heap)
            del self._due_ns[reason]
            yield reason

    def _is_current(self, entry: tuple[int, int, Hashable]) -> bool:
        due_ns, _, reason = entry
        return self._due_ns.get(reason) == due_ns

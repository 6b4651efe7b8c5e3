"""Counts of requests: how many of which kind, how each ended, and how long it took.

The loop that serves programs counts, so that is made cheap: one look-up, one bisection and a few
additions, half a microsecond in all. Another thread reads whole copies, which takes no lock: copies
of lists and dictionaries are made in one go.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from openqwave.model.codes import ErrorCode

# A change of a type takes some 50 us, a page of a list 2 ms; whatever takes longer than a second
# has met a kernel or a disk in trouble.
BOUNDS_NS: Final = (
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    100_000_000,
    1_000_000_000,
)
# After the counts of the ranges come the sum of all times, and how many were done at once.
_SUM, _DONE = len(BOUNDS_NS) + 1, len(BOUNDS_NS) + 2


@dataclass(frozen=True, slots=True)
class Durations:
    """How long requests of a kind took.

    Attributes:
        counts: How many, by range: up to each of `BOUNDS_NS`, and above.
        sum_ns: All together.
    """

    counts: tuple[int, ...]
    sum_ns: int


class Requests:
    """Counts, by the name of a kind of request."""

    __slots__ = ("_kinds", "_refused")

    def __init__(self) -> None:
        self._kinds: dict[str, list[int]] = {}
        self._refused: dict[tuple[str, ErrorCode | None], int] = {}

    def took(self, kind: str, took_ns: int) -> None:
        """A request has its answer, or waits for an event.

        Args:
            kind: What the protocol calls it.
            took_ns: Since it was read.
        """
        counts = self._kinds.get(kind)
        if counts is None:
            counts = self._kinds[kind] = [0] * (_DONE + 1)
        counts[bisect_left(BOUNDS_NS, took_ns)] += 1
        counts[_SUM] += took_ns

    def ended(self, kind: str, refused: ErrorCode | None) -> None:
        """A request was answered.

        Args:
            kind: What the protocol calls it.
            refused: Why it was refused; None where it was done.
        """
        if refused is not None:
            key = kind, refused
            self._refused[key] = self._refused.get(key, 0) + 1
            return
        counts = self._kinds.get(kind)
        if counts is None:
            counts = self._kinds[kind] = [0] * (_DONE + 1)
        counts[_DONE] += 1

    # -- for any thread -----------------------------------------------------------------

    def durations(self) -> dict[str, Durations]:
        """How long requests took, by kind."""
        copies = {kind: counts.copy() for kind, counts in self._kinds.copy().items()}
        return {
            kind: Durations(tuple(counts[:_SUM]), counts[_SUM]) for kind, counts in copies.items()
        }

    def results(self) -> dict[tuple[str, ErrorCode | None], int]:
        """How many ended how, by kind and error; None for those that were done."""
        found: dict[tuple[str, ErrorCode | None], int] = {
            (kind, None): counts[_DONE] for kind, counts in self._kinds.copy().items()
        }
        found.update(self._refused.copy())
        return found

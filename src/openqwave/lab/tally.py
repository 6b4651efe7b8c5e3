"""What a stage has carried: running totals, and what they were at each millisecond gone by.

The traffic between two moments is the difference of the totals at both, whatever the length, so
asking costs nothing and the books are bounded: 60,000 moments. Packets are entered when they
leave the stage's rate; a dropped one is entered when it would have left.
"""

from __future__ import annotations

from dataclasses import dataclass

# Fine enough for a window of 100 ms, coarse enough to cost nothing beside the packets.
BIN_NS = 1_000_000
# A minute: longer than any experiment asks back.
BINS = 60_000

_Totals = tuple[int, int, int, int, int, int]
_NOTHING: _Totals = (0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Carried:
    """What one stage carried between two moments.

    Attributes:
        since_ns: The first moment, whole milliseconds from the start of the model.
        until_ns: The second, likewise.
        frames: Packets of the path's own that left the rate.
        frame_bytes: Their bytes, of IP.
        cross_bytes: The same of cross traffic.
        dropped: Own packets that found the queue full.
        cross_dropped: Packets of cross traffic that did.
        lost: Own packets lost on the line.
    """

    since_ns: int
    until_ns: int
    frames: int
    frame_bytes: int
    cross_bytes: int
    dropped: int
    cross_dropped: int
    lost: int

    @property
    def cross_bps(self) -> int:
        """Rate of the cross traffic that was carried; 0 for an empty window."""
        window_ns = self.until_ns - self.since_ns
        return self.cross_bytes * 8_000_000_000 // window_ns if window_ns else 0


class Tally:
    """The books of one stage.

    Whoever enters a packet calls `close_until` first if its time is not before `open_until_ns`,
    then adds to the totals; the times never go back.
    """

    __slots__ = (
        "_bin",
        "_then",
        "cross_bytes",
        "cross_dropped",
        "dropped",
        "frame_bytes",
        "frames",
        "lost",
        "open_until_ns",
    )

    def __init__(self) -> None:
        self.frames = self.frame_bytes = self.cross_bytes = 0
        self.dropped = self.cross_dropped = self.lost = 0
        self.open_until_ns = float(BIN_NS)
        self._bin = 0
        # The totals at the start of each bin, a ring.
        self._then: list[_Totals] = [_NOTHING] * BINS

    def _totals(self) -> _Totals:
        return (
            self.frames,
            self.frame_bytes,
            self.cross_bytes,
            self.dropped,
            self.cross_dropped,
            self.lost,
        )

    def close_until(self, time_ns: float) -> None:
        """Note the totals for every millisecond up to a time that lies ahead."""
        ahead = int(time_ns // BIN_NS)
        totals = self._totals()
        for number in range(max(self._bin, ahead - BINS) + 1, ahead + 1):
            self._then[number % BINS] = totals
        self._bin = ahead
        self.open_until_ns = float((ahead + 1) * BIN_NS)

    def between(self, since_ns: int, until_ns: int) -> Carried:
        """Return what was carried between two moments, each rounded down to a millisecond.

        Raises:
            ValueError: They are in the wrong order, or before what is remembered.
        """
        since, until = since_ns // BIN_NS, until_ns // BIN_NS
        if since > until:
            raise ValueError("a window ends after it begins")
        before, after = self._at(since), self._at(until)
        return Carried(
            since * BIN_NS, until * BIN_NS, *(b - a for a, b in zip(before, after, strict=True))
        )

    def _at(self, number: int) -> _Totals:
        if number > self._bin:
            return self._totals()
        if number <= 0:
            return _NOTHING
        if number <= self._bin - BINS:
            raise ValueError(f"a link remembers {BINS * BIN_NS // 10**9} s, not more")
        return self._then[number % BINS]

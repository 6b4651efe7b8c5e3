"""The queue and the rate of one stage, on a virtual clock.

Model. A packet's departure is computed when it arrives: the later of its arrival and the departure
before, plus its own time on the wire. Nothing is rounded to when somebody looked, so the next
stage sees the exact time, and a chain of stages is exact as well. Arrivals come in order of time;
cross traffic is entered up to each of them first (at the same moment, cross traffic goes first).

A shared medium cannot be computed ahead: which packets an access carries depends on what arrives
until it begins. It keeps its packets and is told to `advance`.

All times are nanoseconds from the start of the model, as floats (see `crosstraffic`).
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from openqwave.lab.links import Contention, Stage, TokenBucket
from openqwave.lab.tally import Tally

# Takes a packet at a time: (time_ns, frame, size_bytes).
Take: TypeAlias = Callable[[float, object, int], None]

NEVER = math.inf


class _Source:
    """One kind of cross traffic: when its next packet arrives, its size, and the times after."""

    __slots__ = ("next_ns", "size_bytes", "times")

    def __init__(self, times: Iterator[float], size_bytes: int) -> None:
        self.times = times
        self.size_bytes = size_bytes
        self.next_ns = next(times, NEVER)


def _when(source: _Source) -> float:
    return source.next_ns


class _Fifo:
    """One queue for all, first come, first served; subclasses say how fast."""

    def __init__(
        self, stage: Stage, cross: Sequence[Iterator[float]], tally: Tally, deliver: Take
    ) -> None:
        self._tally = tally
        self._deliver = deliver
        self._sources = [
            _Source(times, spec.packet_bytes)
            for times, spec in zip(cross, stage.cross, strict=True)
        ]
        self._sources.sort(key=_when)
        self._cross_ns = self._sources[0].next_ns if self._sources else NEVER

    def take(self, time_ns: float, frame: object, size_bytes: int) -> None:
        """Let a packet in, or drop it."""
        raise NotImplementedError

    def advance(self, now_ns: float) -> None:
        """Enter the cross traffic up to a time, that time included."""
        sources = self._sources
        while self._cross_ns <= now_ns:
            # The first one's packets up to the next of any other, in one go.
            until_ns = now_ns if len(sources) == 1 else min(now_ns, sources[1].next_ns)
            self._enter(sources[0], until_ns)
            if len(sources) > 1:
                sources.sort(key=_when)
            self._cross_ns = sources[0].next_ns

    def _enter(self, source: _Source, until_ns: float) -> None:
        raise NotImplementedError


class OpenGate:
    """A stage without a rate: nothing waits, everything is counted."""

    def __init__(self, tally: Tally, deliver: Take) -> None:
        self._tally = tally
        self._deliver = deliver

    def take(self, time_ns: float, frame: object, size_bytes: int) -> None:
        """Let a packet pass."""
        tally = self._tally
        if time_ns >= tally.open_until_ns:
            tally.close_until(time_ns)
        tally.frames += 1
        tally.frame_bytes += size_bytes
        self._deliver(time_ns, frame, size_bytes)


class RateQueue(_Fifo):
    """A queue in front of a constant rate: what waits is told by the clock alone."""

    def __init__(
        self, stage: Stage, cross: Sequence[Iterator[float]], tally: Tally, deliver: Take
    ) -> None:
        super().__init__(stage, cross, tally, deliver)
        self._ns_per_byte = 8e9 / stage.rate_bps
        self._room_ns = stage.queue_bytes * self._ns_per_byte
        self._free_ns = 0.0

    def take(self, time_ns: float, frame: object, size_bytes: int) -> None:
        """Let a packet in, or drop it."""
        if self._cross_ns <= time_ns:
            self.advance(time_ns)
        tally = self._tally
        free_ns = self._free_ns
        wire_ns = size_bytes * self._ns_per_byte
        if free_ns > time_ns:
            if free_ns - time_ns + wire_ns > self._room_ns:
                tally.dropped += 1
                return
            free_ns += wire_ns
        else:
            free_ns = time_ns + wire_ns
        self._free_ns = free_ns
        if free_ns >= tally.open_until_ns:
            tally.close_until(free_ns)
        tally.frames += 1
        tally.frame_bytes += size_bytes
        self._deliver(free_ns, frame, size_bytes)

    def _enter(self, source: _Source, until_ns: float) -> None:
        tally, times, size_bytes = self._tally, source.times, source.size_bytes
        wire_ns = size_bytes * self._ns_per_byte
        room_ns = self._room_ns - wire_ns
        time_ns, free_ns, open_until_ns = source.next_ns, self._free_ns, tally.open_until_ns
        while time_ns <= until_ns:
            if free_ns <= time_ns:
                free_ns = time_ns + wire_ns
            elif free_ns - time_ns <= room_ns:
                free_ns += wire_ns
            else:
                tally.cross_dropped += 1
                time_ns = next(times, NEVER)
                continue
            if free_ns >= open_until_ns:
                tally.close_until(free_ns)
                open_until_ns = tally.open_until_ns
            tally.cross_bytes += size_bytes
            time_ns = next(times, NEVER)
        source.next_ns, self._free_ns = time_ns, free_ns


class BucketQueue(_Fifo):
    """A queue in front of a token bucket: departures are spaced by tokens and by the peak."""

    def __init__(
        self,
        stage: Stage,
        bucket: TokenBucket,
        cross: Sequence[Iterator[float]],
        tally: Tally,
        deliver: Take,
    ) -> None:
        super().__init__(stage, cross, tally, deliver)
        self._bytes_per_ns = bucket.rate_bps / 8e9
        self._burst_bytes = float(bucket.burst_bytes)
        self._peak_ns_per_byte = 8e9 / stage.rate_bps if stage.rate_bps else 0.0
        self._queue_bytes = stage.queue_bytes
        self._waiting: deque[tuple[float, int]] = deque()  # Departure and size.
        self._waiting_bytes = 0
        self._free_ns = 0.0
        self._tokens = self._burst_bytes
        self._tokens_ns = 0.0

    def _departure_ns(self, time_ns: float, size_bytes: int) -> float | None:
        """Let a packet in and say when it leaves; None if it is dropped."""
        waiting = self._waiting
        while waiting and waiting[0][0] <= time_ns:
            self._waiting_bytes -= waiting.popleft()[1]
        if waiting and self._waiting_bytes + size_bytes > self._queue_bytes:
            return None
        start_ns = max(time_ns, self._free_ns)
        gained = (start_ns - self._tokens_ns) * self._bytes_per_ns
        tokens = min(self._burst_bytes, self._tokens + gained)
        if tokens < size_bytes:
            start_ns += (size_bytes - tokens) / self._bytes_per_ns
            tokens = size_bytes
        self._tokens, self._tokens_ns = tokens - size_bytes, start_ns
        self._free_ns = end_ns = start_ns + size_bytes * self._peak_ns_per_byte
        waiting.append((end_ns, size_bytes))
        self._waiting_bytes += size_bytes
        if end_ns >= self._tally.open_until_ns:
            self._tally.close_until(end_ns)
        return end_ns

    def take(self, time_ns: float, frame: object, size_bytes: int) -> None:
        """Let a packet in, or drop it."""
        if self._cross_ns <= time_ns:
            self.advance(time_ns)
        end_ns = self._departure_ns(time_ns, size_bytes)
        if end_ns is None:
            self._tally.dropped += 1
            return
        self._tally.frames += 1
        self._tally.frame_bytes += size_bytes
        self._deliver(end_ns, frame, size_bytes)

    def _enter(self, source: _Source, until_ns: float) -> None:
        while source.next_ns <= until_ns:
            if self._departure_ns(source.next_ns, source.size_bytes) is None:
                self._tally.cross_dropped += 1
            else:
                self._tally.cross_bytes += source.size_bytes
            source.next_ns = next(source.times, NEVER)


class _Station:
    """Cross traffic's station at a shared medium: all of its packets are equal, so it counts."""

    __slots__ = ("room", "source", "waiting")

    def __init__(self, source: _Source, queue_bytes: int) -> None:
        self.source = source
        self.room = max(1, queue_bytes // source.size_bytes)
        self.waiting = 0


class SharedMedium:
    """Stations that take turns, each with a queue; see `Contention`.

    An access begins when the medium is free and anybody has a packet. The path's own station has
    turn 0, cross traffic's the numbers after it.
    """

    def __init__(
        self,
        stage: Stage,
        contention: Contention,
        cross: Sequence[Iterator[float]],
        source: random.Random,
        tally: Tally,
        deliver: Take,
    ) -> None:
        self._tally = tally
        self._deliver = deliver
        self._uniform = source.random
        self._contention = contention
        self._ns_per_byte = 8e9 / stage.rate_bps
        self._queue_bytes = stage.queue_bytes
        self._own: deque[tuple[float, object, int]] = deque()  # Arrival, frame, size.
        self._own_bytes = 0
        self._stations = [
            _Station(_Source(times, spec.packet_bytes), stage.queue_bytes)
            for times, spec in zip(cross, stage.cross, strict=True)
        ]
        self._free_ns = 0.0
        self._last_turn = 0

    def take(self, time_ns: float, frame: object, size_bytes: int) -> None:
        """Let a packet in, or drop it."""
        while self._start_ns() < time_ns:
            self._access()
        if self._own and self._own_bytes + size_bytes > self._queue_bytes:
            self._tally.dropped += 1
            return
        self._own.append((time_ns, frame, size_bytes))
        self._own_bytes += size_bytes

    def advance(self, now_ns: float) -> None:
        """Carry out the accesses that begin up to a time, that time included."""
        while self._start_ns() <= now_ns:
            self._access()

    def next_ns(self) -> float:
        """Say when to call `advance`, for packets of the path's own; `NEVER` if none wait."""
        return self._start_ns() if self._own else NEVER

    def _start_ns(self) -> float:
        """When the next access begins."""
        ready_ns = self._own[0][0] if self._own else NEVER
        for station in self._stations:
            if station.waiting:
                return self._free_ns
            ready_ns = min(ready_ns, station.source.next_ns)
        return max(ready_ns, self._free_ns)

    def _access(self) -> None:
        start_ns = self._start_ns()
        for station in self._stations:
            self._gather(station, start_ns)
        start_ns += self._contention.access_ns + self._uniform() * self._contention.backoff_ns
        turn = self._next_turn()
        if turn:
            self._send_cross(self._stations[turn - 1], start_ns)
        else:
            self._send_own(start_ns)
        self._last_turn = turn

    def _gather(self, station: _Station, until_ns: float) -> None:
        """Let a station's packets up to a time in, that time included."""
        source = station.source
        while source.next_ns <= until_ns:
            if station.waiting < station.room:
                station.waiting += 1
            else:
                self._tally.cross_dropped += 1
            source.next_ns = next(source.times, NEVER)

    def _next_turn(self) -> int:
        """Whose turn it is among those that have packets; somebody has."""
        turns = 1 + len(self._stations)
        turn = self._last_turn
        while True:
            turn = (turn + 1) % turns
            if self._stations[turn - 1].waiting if turn else self._own:
                return turn

    def _end_ns(self, start_ns: float, sent_bytes: int) -> float:
        self._free_ns = end_ns = start_ns + sent_bytes * self._ns_per_byte
        if end_ns >= self._tally.open_until_ns:
            self._tally.close_until(end_ns)
        return end_ns

    def _send_cross(self, station: _Station, start_ns: float) -> None:
        count = min(station.waiting, self._contention.aggregate_frames)
        station.waiting -= count
        sent_bytes = count * station.source.size_bytes
        self._end_ns(start_ns, sent_bytes)
        self._tally.cross_bytes += sent_bytes

    def _send_own(self, start_ns: float) -> None:
        count = min(len(self._own), self._contention.aggregate_frames)
        aggregate = [self._own.popleft() for _ in range(count)]
        sent_bytes = sum(size_bytes for _, _, size_bytes in aggregate)
        self._own_bytes -= sent_bytes
        end_ns = self._end_ns(start_ns, sent_bytes)
        self._tally.frames += count
        self._tally.frame_bytes += sent_bytes
        for _, frame, size_bytes in aggregate:
            self._deliver(end_ns, frame, size_bytes)

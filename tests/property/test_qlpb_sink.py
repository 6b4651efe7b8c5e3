"""The sink's experiments against the specification's algorithms, line by line."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from openqwave.probing.sink_experiments import GroupWatch, TrainTimer
from openqwave.wire.qlpb import Observation, PacketPairProbe, RouteCheckProbe


@dataclass
class RouteCheckByTheBook:
    """MS-QLPB 3.2.5.4."""

    seq: int = 0
    consecutive: int = 0
    lhp_seq: int = 0
    lhp_train: int = 0
    oversized: int = 0

    def receive(self, msg: RouteCheckProbe) -> int | None:
        if self.seq + 1 != msg.sequence:
            self.consecutive = 1
        else:
            self.consecutive += 1
        self.seq = msg.sequence
        if msg.train_size == 0:
            if msg.sequence < self.lhp_seq and msg.sequence >= self.lhp_seq - self.lhp_train + 1:
                self.lhp_train = self.lhp_seq = self.consecutive = self.oversized = 0
                return 1
            if msg.is_oversized and msg.sequence > self.lhp_seq:
                self.oversized = msg.sequence
            return None
        if self.consecutive >= msg.train_size:
            self.lhp_train = self.lhp_seq = self.consecutive = self.oversized = 0
            return 0
        if self.oversized == 0 or self.oversized + msg.train_size <= msg.sequence:
            self.lhp_train = self.lhp_seq = self.consecutive = 0
            return 2
        self.lhp_seq, self.lhp_train = msg.sequence, msg.train_size
        return None


@dataclass
class PacketPairByTheBook:
    """MS-QLPB 3.2.5.5, but for the end of the session."""

    initial: int = 0
    latest: int = 0
    train_len: int = 0
    packet_size: int = 0
    timestamps: dict[int, int] = field(default_factory=dict)

    def receive(self, msg: PacketPairProbe, now_ns: int) -> list[int] | None:
        if msg.train_size in (0, 1):
            return None
        if msg.is_first:
            self.timestamps = {0: now_ns}
            self.initial = self.latest = msg.sequence
            self.train_len = msg.train_size
            self.packet_size = msg.size_bytes
            return None
        if (
            msg.sequence != self.latest + 1
            or msg.sequence >= self.initial + msg.train_size
            or msg.train_size != self.train_len
            or msg.size_bytes != self.packet_size
        ):
            return None
        self.latest += 1
        self.timestamps[self.latest - self.initial] = now_ns
        if self.latest - self.initial + 1 != self.train_len:
            return None
        times = [self.timestamps[index] for index in range(self.train_len)]
        return [times[index + 1] - times[index] for index in range(self.train_len - 1)]


# Mostly in order, so that what depends on several packets in order is reached; and two trains
# or groups can meet.
STEPS = st.sampled_from([1, 1, 1, 1, 0, 2, -1, -2, 3])
STARTS = st.sampled_from([0, 1, 7, 2**32 - 12])


def walk(start: int, steps: list[int]) -> list[int]:
    """Sequence numbers, each a step from the one before."""
    return [number % 2**32 for number in itertools.accumulate(steps, initial=start)]


GROUPS = st.builds(
    lambda start, fields: [
        RouteCheckProbe(1, train_size, sequence, flag)
        for sequence, (_, train_size, flag) in zip(
            walk(start, [step for step, _, _ in fields]), fields, strict=False
        )
    ],
    STARTS,
    st.lists(st.tuples(STEPS, st.sampled_from([0, 0, 0, 2, 3]), st.booleans()), max_size=60),
)
TRAINS = st.builds(
    lambda start, fields: [
        PacketPairProbe(1, train_size, sequence, flag, size)
        for sequence, (_, train_size, flag, size) in zip(
            walk(start, [step for step, _, _, _ in fields]), fields, strict=False
        )
    ],
    STARTS,
    st.lists(
        st.tuples(
            STEPS,
            st.sampled_from([0, 2, 2, 3, 3, 3]),
            st.sampled_from([True, False, False]),
            st.sampled_from([12, 12, 12, 12, 13]),
        ),
        max_size=60,
    ),
)


def shuffled(groups: int) -> st.SearchStrategy[list[RouteCheckProbe]]:
    """Groups of five as an initiator sends them, some lost, some out of place."""
    sent = [
        RouteCheckProbe(1, 5 if number % 5 == 0 else 0, number, number % 5 == 1)
        for number in range(1, 5 * groups + 1)
    ]
    return st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=25, max_size=25).map(
        lambda fates: [
            probe
            for _, probe in sorted(
                (
                    (probe.sequence + late, probe)
                    for probe, (late, kept) in zip(sent, fates, strict=False)
                    if kept
                ),
                key=lambda pair: pair[0],
            )
        ]
    )


@given(GROUPS | shuffled(5))
@settings(max_examples=500)
def test_route_check(probes: list[RouteCheckProbe]) -> None:
    watch, book = GroupWatch(), RouteCheckByTheBook()
    for probe in probes:
        expected = book.receive(probe)
        found = watch.receive(probe)
        assert found == (None if expected is None else Observation(expected))


def test_route_check_over_many_walks() -> None:
    # What needs five packets of the right kinds in a row is rare; short walks by the thousand
    # find it.
    choice = random.Random(1)
    seen = Counter[Observation | None]()
    for _ in range(20_000):
        watch, book, sequence = GroupWatch(), RouteCheckByTheBook(), 0
        for _ in range(9):
            sequence = max(0, sequence + choice.choice([1, 1, 1, 2, -1, -2]))
            train_size = choice.choice([0, 0, 0, 2, 3])
            probe = RouteCheckProbe(1, train_size, sequence, choice.random() < 0.5)
            expected, found = book.receive(probe), watch.receive(probe)
            assert found == (None if expected is None else Observation(expected))
            seen[found] += 1
    assert min(seen[one] for one in (None, *Observation)) > 1000


@given(TRAINS)
@settings(max_examples=500)
def test_packet_pair(probes: list[PacketPairProbe]) -> None:
    timer, book = TrainTimer(max_packets=3), PacketPairByTheBook()
    for index, probe in enumerate(probes):
        now_ns = 100 * index * index
        expected = book.receive(probe, now_ns)
        found = timer.receive(probe, now_ns)
        assert (list(found) if isinstance(found, tuple) else None) == expected

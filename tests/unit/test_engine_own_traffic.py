"""What flows under contract send, and what that says of the room that probes have found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from openqwave.model.endpoint import Endpoint
from openqwave.model.estimates import FlowCounters, Fundamentals
from openqwave.model.path import LinkType, PathFacts
from openqwave.subsystem import requests as rq
from openqwave.subsystem.usage import LinkLoad
from tests.unit.driven import A, Driven, add, facts, query, rate, view

MBIT = 1_000_000
S = 1_000_000_000
INTERFACE = 3
WAY = PathFacts(Endpoint(A.packed, 0), INTERFACE, "eth0", b"", b"", 1500, LinkType.WIRED)


class Counted(Driven):
    """An adaptive TCP flow of 8 Mbit/s on a path of 20, whose bytes are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.handle = self.open()
        request = replace(add(0, facts(), A, is_adaptive=True), path=WAY)
        flow_id = self.grant(self.handle, request)
        assert isinstance(flow_id, int)
        self.flow_id = flow_id
        self._sent_bytes = 0
        self.count(0, 0)
        self.see(A, view(bottleneck_bps=20 * MBIT, available_bps=20 * MBIT))
        self.grant(self.handle, rate(flow_id, 8 * MBIT))

    def count(self, rate_bps: int, elapsed_ns: int) -> None:
        """Let the flow send at a rate, and be counted every 200 ms."""
        end_ns = self.now_ns + elapsed_ns
        while True:
            counters = {1: FlowCounters(sent_bytes=self._sent_bytes)}
            loads = {INTERFACE: LinkLoad(self._sent_bytes)}
            self.carry_out(self.engine.receive_counters(counters, loads, now_ns=self.now_ns))
            if self.now_ns >= end_ns:
                return
            self.now_ns += S // 5
            self._sent_bytes += rate_bps // 8 // 5

    def free_bps(self) -> int | None:
        answer = self.grant(self.handle, query(self.flow_id, rq.Question.FUNDAMENTALS))
        assert isinstance(answer, Fundamentals)
        return answer.available_bps


@pytest.mark.parametrize(
    ("sent", "found", "free"),
    [
        # Nothing is sent yet: the contract is reserved.
        (0, 20, 12),
        # All of it is sent, and the probes saw it.
        (8, 12, 12),
        # They saw a part of it only: what was counted is certain.
        (8, 17, 12),
        # Others send as well.
        (8, 5, 5),
        # More than the contract is sent: what is above it is in nobody's books.
        (10, 9, 9),
    ],
)
def test_what_is_counted_is_not_free(sent: int, found: int, free: int) -> None:
    driven = Counted()
    driven.count(sent * MBIT, 10 * S)
    driven.see(A, view(bottleneck_bps=20 * MBIT, available_bps=found * MBIT))
    free_bps = driven.free_bps()
    assert free_bps is not None
    assert abs(free_bps - free * MBIT) <= MBIT // 20


def test_a_path_without_a_capacity_is_judged_by_what_was_found() -> None:
    driven = Counted()
    driven.count(8 * MBIT, 10 * S)
    driven.see(A, view(available_bps=17 * MBIT))
    free_bps = driven.free_bps()
    assert free_bps is not None
    assert abs(free_bps - 17 * MBIT) <= MBIT // 20

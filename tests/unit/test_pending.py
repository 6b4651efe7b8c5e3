"""Requests that wait: found by name, by flow and by path, in the order of their turns."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from openqwave.model.endpoint import Endpoint
from openqwave.model.flow import UNTOUCHED, NoticeKind, TrafficType
from openqwave.subsystem.flows import Flow, Marking, plain_settings
from openqwave.subsystem.pending import WANT_OF, Pending, PendingRequests, Want
from tests.unit.driven import OWNER, STRANGER, A, B

SETTINGS = plain_settings(TrafficType.VOICE, Marking.UNADMITTED)
NEAR, FAR = A.host(), B.host()


def flow(flow_id: int, host: Endpoint | None = NEAR, owner: int = OWNER) -> Flow:
    return Flow(flow_id, 1, owner, True, SETTINGS, UNTOUCHED, host=host)


def names(found: list[Pending]) -> list[int]:
    return [pending.request_id for pending in found]


def test_one_is_found_until_it_is_taken() -> None:
    pending, one = PendingRequests(), Pending(7, flow(1), Want.FRESH)
    assert pending.find(7) is None
    pending.add(one)
    assert pending.find(7) is one
    assert len(pending) == 1
    pending.take(one)
    assert pending.find(7) is None
    assert len(pending) == 0


def test_they_are_found_by_flow_and_by_path() -> None:
    pending = PendingRequests()
    first, second, third = flow(1), flow(2), flow(3, FAR)
    for request_id, on in enumerate((first, second, third, first), 1):
        pending.add(Pending(request_id, on, Want.CONGESTED))
    assert names(pending.of_flow(first)) == [1, 4]
    assert names(pending.of_flow(second)) == [2]
    assert names(pending.of_host(NEAR)) == [1, 2, 4]
    assert names(pending.of_host(FAR)) == [3]
    assert pending.of_flow(flow(9)) == []
    assert pending.of_host(Endpoint(b"\x0a\x00\x00\x01", 0)) == []


def test_rates_have_the_first_turns_and_else_who_came_first() -> None:
    pending, on = PendingRequests(), flow(1)
    wants = [Want.AVAILABLE, Want.FRESH, Want.RATE, Want.CONGESTED, Want.RATE, Want.UNCONGESTED]
    for request_id, want in enumerate(wants, 1):
        pending.add(Pending(request_id, on, want))
    assert names(pending.of_host(NEAR)) == [3, 5, 2, 4, 6, 1]


def test_what_is_found_may_be_taken_one_by_one() -> None:
    pending, on = PendingRequests(), flow(1)
    for request_id in range(1, 4):
        pending.add(Pending(request_id, on, Want.FRESH))
    for one in pending.of_flow(on):
        pending.take(one)
    assert not pending.waits_on(NEAR)
    for request_id in range(1, 4):
        pending.add(Pending(request_id, on, Want.FRESH))
    for one in pending.of_host(NEAR):
        pending.take(one)
    assert len(pending) == 0


def test_each_process_is_counted_by_itself() -> None:
    pending = PendingRequests()
    mine, theirs = flow(1), flow(2, owner=STRANGER)
    ones = [Pending(number, on, Want.RATE) for number, on in enumerate((mine, mine, theirs))]
    for one in ones:
        pending.add(one)
    assert (pending.count(OWNER), pending.count(STRANGER), pending.count(999)) == (2, 1, 0)
    pending.take(ones[0])
    assert (pending.count(OWNER), pending.count(STRANGER)) == (1, 1)
    pending.take(ones[1])
    assert pending.count(OWNER) == 0


@pytest.mark.parametrize("kind", NoticeKind)
def test_a_kind_is_one_flows_own(kind: NoticeKind) -> None:
    pending, on = PendingRequests(), flow(1)
    one = Pending(1, on, WANT_OF[kind])
    pending.add(one)
    assert [want for want in Want if pending.has_kind(on, want)] == [WANT_OF[kind]]
    assert not pending.has_kind(flow(2), WANT_OF[kind])
    pending.take(one)
    assert not pending.has_kind(on, WANT_OF[kind])


def test_a_path_is_waited_on_until_the_last_is_taken() -> None:
    pending = PendingRequests()
    ones = [Pending(1, flow(1), Want.RATE), Pending(2, flow(2), Want.CONGESTED)]
    for one in ones:
        pending.add(one)
    assert pending.waits_on(NEAR)
    assert not pending.waits_on(FAR)
    pending.take(ones[0])
    assert pending.waits_on(NEAR)
    pending.take(ones[1])
    assert not pending.waits_on(NEAR)


def test_one_without_a_path_cannot_wait() -> None:
    with pytest.raises(RuntimeError, match="without a path"):
        PendingRequests().add(Pending(1, flow(1, None), Want.RATE))


def test_a_thousand_come_and_go_and_nothing_is_left() -> None:
    """Against a plain list."""
    uniform = random.Random(3)
    flows = [
        flow(number, (NEAR, FAR)[number % 2], (OWNER, STRANGER)[number % 3 == 0])
        for number in range(6)
    ]
    pending, here = PendingRequests(), dict[int, Pending]()
    for request_id in range(1_000):
        one = Pending(request_id, uniform.choice(flows), uniform.choice(list(Want)))
        pending.add(one)
        here[request_id] = one
        while here and uniform.random() < 0.5:
            pending.take(here.pop(uniform.choice(list(here))))
        counts = Counter(one.flow.owner for one in here.values())
        assert all(pending.count(owner) == counts[owner] for owner in (OWNER, STRANGER))
        for on in flows:
            assert names(pending.of_flow(on)) == [r for r, p in here.items() if p.flow is on]
        for host in (NEAR, FAR):
            expected = sorted(
                (r for r, p in here.items() if p.flow.host == host),
                key=lambda request_id: (here[request_id].want, request_id),
            )
            assert names(pending.of_host(host)) == expected
    for one in here.values():
        pending.take(one)
    assert len(pending) == 0
    assert not any(pending.waits_on(host) for host in (NEAR, FAR))
    assert (pending.count(OWNER), pending.count(STRANGER)) == (0, 0)

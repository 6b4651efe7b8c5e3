"""Limits of users: flows, destinations and contracts of all their processes together."""

from __future__ import annotations

import pytest

from openqwave.admission.policy import Limits, Policy
from openqwave.admission.rights import limited_user
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Fundamentals
from openqwave.model.flow import NoticeKind, Shaping
from openqwave.subsystem import requests as rq
from tests.unit.driven import NO_MECHANISM, A, B, C, Driven, add, facts, notify, query, rate, view
from tests.unit.test_engine_operations import calls_of

# By contract: "Quota per client exceeded: ERROR_NO_SYSTEM_RESOURCES."
FULL = ErrorCode.ERROR_NO_SYSTEM_RESOURCES
ANN, BOB = 1000, 1001
MBIT = 1_000_000


class Shared(Driven):
    """An engine with processes of users."""

    def __init__(self, **limits: int) -> None:
        super().__init__(Policy(limits=Limits(**limits)))
        self.empty = self.engine.entry_count

    def process(self, owner: int, uid: int | None = ANN) -> int:
        """A handle of a process."""
        handle = self.engine.open_handle(owner, uid)
        assert isinstance(handle, int)
        return handle

    def limit(self, **limits: int) -> None:
        """Change the policy."""
        policy = Policy(limits=Limits(**limits))
        self.carry_out(self.engine.receive_policy(policy, now_ns=self.now_ns))

    def detail(self, handle: int, request: rq.Request) -> str:
        """The sentence of a refusal."""
        result = self.result(handle, request)
        assert isinstance(result, Refusal)
        assert result.code is FULL
        return result.detail

    def available(self, handle: int, flow: int) -> int | None:
        found = self.grant(handle, query(flow, rq.Question.FUNDAMENTALS))
        assert isinstance(found, Fundamentals)
        return found.available_bps


# -- who is limited -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uid", "has_net_admin", "expected"),
    [
        (0, False, None),
        (0, True, None),
        (ANN, True, None),
        (ANN, False, ANN),
        (65_534, False, 65_534),
    ],
)
def test_administrators_are_not(uid: int, has_net_admin: bool, expected: int | None) -> None:
    # By contract: "Administrator = effective uid 0 or CAP_NET_ADMIN"
    assert limited_user(uid, has_net_admin=has_net_admin) == expected


def test_by_default_no_user_fills_the_tables() -> None:
    limits = Limits()
    # One program alone does not reach them, and two users are two halves.
    assert limits.flows < limits.flows_per_user == 65_536 // 2
    assert limits.destinations < limits.destinations_per_user == 131_072 // 2
    assert limits.contracts_per_user_bps is None


# -- flows and destinations -----------------------------------------------------------


def test_flows_of_all_processes_count() -> None:
    driven = Shared(flows_per_user=3)
    first, second, third = (driven.process(owner) for owner in (1, 2, 3))
    flows = [driven.flow(first, 1), driven.flow(second, 2), driven.flow(first, 3)]
    said = driven.detail(third, add(0, facts(4)))
    assert (
        said
        == "the processes of this user hold 3 flows already; remove some (limits.flows_per_user)"
    )
    # What makes no flow is not concerned, nor are others, nor administrators.
    driven.join(first, flows[0], 4)
    driven.flow(driven.process(4, BOB), 5)
    root = driven.process(5, None)
    for cookie in range(10, 20):
        driven.flow(root, cookie)
    driven.grant(second, rq.RemoveSocket(flows[1], None))
    driven.flow(third, 6)
    assert driven.refusal(second, add(0, facts(7))) is FULL
    assert driven.engine.limits_reached == {"flows_per_user": 2}


def test_destinations_of_all_processes_count() -> None:
    driven = Shared(destinations_per_user=3)
    first, second = driven.process(1), driven.process(2)
    flow, other = driven.flow(first, 1, A), driven.flow(second, 2, A)
    driven.join(first, flow, 1, B)
    for handle, request in ((first, add(flow, facts(1), C)), (second, add(0, facts(3)))):
        said = driven.detail(handle, request)
        assert said == (
            "the processes of this user hold 3 destinations already; remove some "
            "(limits.destinations_per_user)"
        )
    # A pair that is there already is no new one.
    driven.join(first, flow, 1, B)
    driven.grant(first, rq.RemoveSocket(flow, 1))
    driven.join(second, other, 2, C)
    driven.flow(second, 3)
    assert driven.refusal(first, add(0, facts(4))) is FULL
    assert driven.engine.limits_reached == {"destinations_per_user": 3}


def test_a_process_that_ends_makes_room() -> None:
    driven = Shared(flows_per_user=2)
    first, second = driven.process(1), driven.process(2)
    driven.flow(first, 1)
    driven.flow(first, 2)
    assert driven.refusal(second, add(0, facts(3))) is FULL
    driven.grant(first, rq.CloseHandle())
    driven.flow(second, 3)
    driven.flow(driven.process(1), 4)
    assert driven.refusal(second, add(0, facts(5))) is FULL
    # Sockets that turn out to be closed make room as well.
    driven.forget(3)
    driven.flow(second, 5)


def test_what_is_refused_or_undone_takes_no_room() -> None:
    driven = Shared(flows_per_user=2, destinations_per_user=2)
    handle = driven.process(1)
    for _ in range(20):
        driven.mechanism.refusals.append(NO_MECHANISM)
        assert driven.refusal(handle, add(0, facts(1))) is NO_MECHANISM.code
    flow = driven.flow(handle, 1)
    driven.mechanism.refusals.append(NO_MECHANISM)
    assert driven.refusal(handle, rq.RemoveSocket(flow, None)) is NO_MECHANISM.code
    driven.flow(handle, 2)
    assert driven.refusal(handle, add(0, facts(3))) is FULL


@pytest.mark.parametrize("most", [1, 2, 7, 100])
def test_the_limit_is_exact_however_flows_come_and_go(most: int) -> None:
    driven = Shared(flows_per_user=most, flows=most)
    handles = [driven.process(owner) for owner in range(1, 6)]
    held: list[tuple[int, int]] = []
    for cookie in range(1, 6 * most + 1):
        handle = handles[cookie % len(handles)]
        if len(held) < most:
            held.append((handle, driven.flow(handle, cookie)))
        else:
            assert driven.refusal(handle, add(0, facts(cookie))) is FULL
            for _ in range(1 + cookie % 3):
                if held:
                    holder, flow = held.pop(0)
                    driven.grant(holder, rq.RemoveSocket(flow, None))
    assert driven.engine.flow_count == len(held) <= most


def test_a_limit_that_changes_takes_nothing_away() -> None:
    driven = Shared(flows_per_user=4)
    first, second = driven.process(1), driven.process(2)
    flows = [driven.flow(first, cookie) for cookie in (1, 2, 3)]
    driven.limit(flows_per_user=2)
    assert driven.refusal(second, add(0, facts(4))) is FULL
    assert driven.treatment(3).dscp == 56
    driven.limit(flows_per_user=4)
    driven.flow(second, 4)
    assert driven.refusal(second, add(0, facts(5))) is FULL
    for flow in flows[:2]:
        driven.grant(first, rq.RemoveSocket(flow, None))
    driven.flow(second, 5)


def test_a_process_has_one_user_until_it_has_no_handle() -> None:
    driven = Shared(flows_per_user=1)
    one = driven.process(1, ANN)
    two = driven.process(1, BOB)
    driven.flow(two, 1)
    assert driven.refusal(one, add(0, facts(2))) is FULL
    driven.flow(driven.process(2, BOB), 2)
    for handle in (one, two):
        driven.grant(handle, rq.CloseHandle())
    assert driven.refusal(driven.process(1, BOB), add(0, facts(3))) is FULL
    driven.flow(driven.process(3, ANN), 4)


def test_the_processes_of_a_user_are_not_added_up_at_every_call() -> None:
    costs = []
    for processes in (1, 1_000):
        driven = Shared()
        handles = [driven.process(owner) for owner in range(1, processes + 1)]

        def add_some(driven: Shared = driven, handles: list[int] = handles) -> None:
            for cookie in range(1, 101):
                driven.flow(handles[cookie % len(handles)], cookie)

        costs.append(calls_of(add_some))
    # One sum of each kind, and with a hundred of them it would be two hundred thousand more.
    assert costs[1] - costs[0] < 10 * 1_000


def test_a_process_that_closes_one_of_its_handles_is_there_still() -> None:
    driven = Shared(flows_per_user=2)
    first, second = driven.process(1), driven.process(1)
    driven.flow(first, 1)
    driven.flow(second, 2)
    driven.grant(second, rq.CloseHandle())
    other = driven.process(2)
    driven.flow(other, 3)
    assert driven.refusal(other, add(0, facts(4))) is FULL


def test_what_a_process_had_as_an_administrator_counts_once_it_is_none() -> None:
    driven = Shared(flows_per_user=4)
    root, other = driven.process(1, None), driven.process(2)
    driven.flow(other, 1)
    for cookie in (2, 3, 4):
        driven.flow(root, cookie)
    driven.process(1)
    assert driven.refusal(other, add(0, facts(5))) is FULL


def test_nothing_is_kept_of_who_is_gone() -> None:
    driven = Shared(contracts_per_user_bps=10 * MBIT)
    handles = [driven.process(owner, 1000 + owner % 3) for owner in range(1, 10)]
    for cookie, handle in enumerate(handles, 1):
        driven.grant(handle, rate(driven.flow(handle, cookie), MBIT))
    for handle in handles:
        driven.grant(handle, rq.CloseHandle())
    assert driven.engine.entry_count == driven.empty


def test_a_close_that_is_interrupted_keeps_its_user() -> None:
    driven = Shared(flows_per_user=1)
    handle = driven.process(1)
    driven.flow(handle, 1)
    assert driven.engine.receive_request(99, handle, rq.CloseHandle(), now_ns=driven.now_ns)
    driven.engine.abandon()
    assert driven.refusal(driven.process(2), add(0, facts(2))) is FULL
    driven.grant(handle, rq.CloseHandle())
    driven.flow(driven.process(2), 2)


# -- contracts ------------------------------------------------------------------------


def test_contracts_of_a_user_together() -> None:
    driven = Shared(contracts_per_user_bps=10 * MBIT)
    first, second = driven.process(1), driven.process(2)
    adaptive = driven.flow(first, 1, A, is_adaptive=True)
    plain = driven.flow(second, 2, B)
    driven.grant(first, rate(adaptive, 6 * MBIT))
    said = driven.detail(second, rate(plain, 5 * MBIT))
    assert said == (
        "contracts of this user hold 6000000 of the 10000000 bit/s that policy allows "
        "(limits.contracts_per_user_kbps); ask for 4000000 bit/s at most, or end contracts that "
        "are not needed"
    )
    assert driven.treatment(2).rate_bps is None
    driven.grant(second, rate(plain, 4 * MBIT))
    # Others are not concerned, nor are administrators.
    for owner, uid in ((3, BOB), (4, None)):
        handle = driven.process(owner, uid)
        driven.grant(handle, rate(driven.flow(handle, owner, C), 10 * MBIT))
    # "A decrease is always granted"; what is given back may be had again.
    driven.grant(second, rate(plain, MBIT))
    assert driven.refusal(first, rate(adaptive, 9 * MBIT + 1)) is FULL
    driven.grant(first, rate(adaptive, 9 * MBIT))
    assert "nothing is left" in driven.detail(second, rate(driven.flow(second, 5), 1))
    driven.grant(first, rq.RemoveSocket(adaptive, None))
    driven.grant(second, rate(plain, 10 * MBIT))
    assert driven.engine.limits_reached == {"contracts_per_user_kbps": 3}


def test_a_rate_above_the_limit_itself() -> None:
    driven = Shared(contracts_per_user_bps=MBIT)
    handle = driven.process(1)
    flow = driven.flow(handle)
    said = driven.detail(handle, rate(flow, MBIT + 1))
    # No waiting and no giving back would help.
    assert said.endswith("ask for 1000000 bit/s at most")
    driven.grant(handle, rate(flow, MBIT, Shaping.SHAPE_ONLY))


def test_a_refused_increase_leaves_the_old_contract() -> None:
    # "a refused increase leaves the old contract in force"
    driven = Shared(contracts_per_user_bps=2 * MBIT)
    handle = driven.process(1)
    flow = driven.flow(handle)
    driven.grant(handle, rate(flow, MBIT))
    assert driven.refusal(handle, rate(flow, 3 * MBIT)) is FULL
    assert driven.grant(handle, query(flow, rq.Question.OUTGOING_RATE)) == MBIT
    # And one that the kernel refuses takes no room.
    driven.mechanism.refusals.append(NO_MECHANISM)
    assert driven.refusal(handle, rate(flow, 2 * MBIT)) is NO_MECHANISM.code
    other = driven.flow(handle, 2)
    driven.grant(handle, rate(other, MBIT))


def test_what_is_said_to_be_available_may_be_had() -> None:
    driven = Shared(contracts_per_user_bps=10 * MBIT)
    handle, other = driven.process(1), driven.process(2)
    driven.see(A, view(bottleneck_bps=50 * MBIT, available_bps=40 * MBIT, is_congested=False))
    flow = driven.flow(handle, 1, A, is_adaptive=True)
    elsewhere = driven.flow(other, 2, B)
    driven.grant(other, rate(elsewhere, 7 * MBIT))
    # The recovery, where the user's share is what is used up.
    assert driven.refusal(handle, rate(flow, 8 * MBIT)) is FULL
    assert driven.available(handle, flow) == 3 * MBIT
    driven.grant(handle, rate(flow, 3 * MBIT))
    waiting = driven.waits(handle, notify(flow, NoticeKind.AVAILABLE, 8 * MBIT))
    driven.see(A, view(bottleneck_bps=50 * MBIT, available_bps=40 * MBIT, is_congested=False))
    assert waiting not in driven.answers
    driven.grant(other, rate(elsewhere, MBIT))
    driven.see(A, view(bottleneck_bps=50 * MBIT, available_bps=40 * MBIT, is_congested=False))
    assert driven.answers[waiting] is None
    driven.grant(handle, rate(flow, 8 * MBIT))
    assert driven.available(handle, flow) == MBIT


def test_nobody_waits_for_experiments_who_will_be_refused() -> None:
    driven = Shared(contracts_per_user_bps=MBIT)
    handle = driven.process(1)
    driven.see(A, view())
    flow = driven.flow(handle, is_adaptive=True)
    assert driven.refusal(handle, rate(flow, 2 * MBIT)) is FULL
    driven.waits(handle, rate(flow, MBIT))


def test_of_two_that_wait_for_the_last_of_it_one_wins() -> None:
    driven = Shared(contracts_per_user_bps=10 * MBIT)
    driven.see(A, view())
    handles = [driven.process(owner) for owner in (1, 2)]
    flows = [driven.flow(handle, n, A, is_adaptive=True) for n, handle in enumerate(handles, 1)]
    asked = [
        driven.waits(handle, rate(flow, 6 * MBIT))
        for handle, flow in zip(handles, flows, strict=True)
    ]
    driven.see(A, view(bottleneck_bps=50 * MBIT, available_bps=40 * MBIT))
    assert driven.answers[asked[0]] is None
    assert driven.code_of(asked[1]) is FULL


def test_contracts_of_before_the_limit_count() -> None:
    driven = Shared()
    handle = driven.process(1)
    adaptive, plain = driven.flow(handle, 1, A, is_adaptive=True), driven.flow(handle, 2, B)
    for flow in (adaptive, plain):
        driven.grant(handle, rate(flow, 3 * MBIT))
    driven.limit(contracts_per_user_bps=5 * MBIT)
    # Nobody loses what was granted, and nothing grows.
    assert driven.treatment(2).rate_bps == 3 * MBIT
    assert driven.refusal(handle, rate(plain, 3 * MBIT + 1)) is FULL
    driven.grant(handle, rate(plain, 2 * MBIT))
    assert driven.refusal(handle, rate(plain, 3 * MBIT)) is FULL
    driven.limit(contracts_per_user_bps=6 * MBIT)
    driven.grant(handle, rate(plain, 3 * MBIT))
    # Without it nothing is counted any more, and nothing is left of it.
    driven.limit()
    driven.grant(handle, rate(plain, 99 * MBIT))
    driven.grant(handle, rq.CloseHandle())
    driven.now_ns += 10**12
    driven.carry_out(driven.engine.handle_timer(now_ns=driven.now_ns))
    assert driven.engine.entry_count == driven.empty


def test_nothing_is_kept_of_a_limit_that_is_lifted() -> None:
    driven = Shared(contracts_per_user_bps=10 * MBIT)
    handle = driven.process(1)
    flow = driven.flow(handle)
    driven.grant(handle, rate(flow, MBIT))
    driven.limit()
    driven.grant(handle, rate(flow, 0))
    driven.grant(handle, rq.CloseHandle())
    assert driven.engine.entry_count == driven.empty


def test_rates_of_runs_count() -> None:
    driven = Shared(contracts_per_user_bps=10 * MBIT)
    handle = driven.process(1)
    flow = driven.flow(handle)

    def runs(rates: dict[int, tuple[int, int]]) -> None:
        driven.carry_out(driven.engine.receive_runs(rates, now_ns=driven.now_ns))

    runs({1: (ANN, 6 * MBIT), 2: (BOB, 9 * MBIT)})
    assert driven.refusal(handle, rate(flow, 5 * MBIT)) is FULL
    driven.grant(handle, rate(flow, 4 * MBIT))
    assert driven.engine.refuse_run(BOB, MBIT) is None
    refusal = driven.engine.refuse_run(ANN, 1)
    assert isinstance(refusal, Refusal)
    assert refusal.code is FULL
    # What is told is all there is, as often as it is told.
    for _ in range(2):
        runs({1: (ANN, 6 * MBIT), 3: (ANN, MBIT)})
    assert driven.refusal(handle, rate(flow, 4 * MBIT + 1)) is FULL
    runs({3: (ANN, MBIT)})
    driven.grant(handle, rate(flow, 9 * MBIT))
    driven.limit()
    assert driven.engine.refuse_run(ANN, 99 * MBIT) is None
    runs({})
    runs({4: (ANN, MBIT)})
    driven.limit(contracts_per_user_bps=10 * MBIT)
    assert driven.refusal(handle, rate(flow, 9 * MBIT + 1)) is FULL
    runs({})
    driven.grant(handle, rate(flow, 10 * MBIT))
    driven.grant(handle, rq.CloseHandle())
    assert driven.engine.entry_count == driven.empty


def test_a_contract_that_is_taken_over_is_given_back() -> None:
    driven = Shared(contracts_per_user_bps=2 * MBIT)
    handle = driven.process(1)
    flow = driven.flow(handle, 1, A)
    driven.grant(handle, rate(flow, 2 * MBIT))
    # "A pair held by another flow of the subsystem: the newer flow takes it over".
    newer = driven.flow(handle, 1, A)
    driven.grant(handle, rate(newer, 2 * MBIT))

"""The ledger: what is granted, what is spare, what is promised, what an undo leaves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from openqwave.admission.ledger import QUOTE_NS, Ledger, Link
from openqwave.model.endpoint import Endpoint
from openqwave.model.path import FirstHop

NEAR, FAR, OTHER = (Endpoint(bytes([192, 0, 2, last]), 0) for last in (1, 2, 3))
HOP, NEW_HOP = FirstHop(2), FirstHop(3, b"\x0a\x00\x00\x01")
LINKS = (NEAR, HOP)
A, B, C = 1, 2, 3
# When nothing depends on it.
NOW = 7


def seen(available_bps: int, own_bps: int = 0, *, hop_bps: int | None = None) -> Ledger:
    ledger = Ledger()
    ledger.see(NEAR, available_bps, own_bps)
    ledger.see(HOP, hop_bps, own_bps)
    return ledger


def ask(ledger: Ledger, holder: int, rate_bps: int, links: tuple[Link, ...] = LINKS) -> int | None:
    """Ask, and hold what is granted."""
    most_bps = ledger.refuse(holder, links, rate_bps, now_ns=NOW)
    if most_bps is None:
        ledger.hold(holder, links, rate_bps)
    return most_bps


# -- estimates ------------------------------------------------------------------------


def test_nothing_is_known_before_it_was_seen() -> None:
    ledger = Ledger()
    assert not ledger.is_known(NEAR)
    assert ledger.spare_bps(NEAR) is None
    assert ledger.spare_of(LINKS) is None
    assert (ledger.held_bps(A), ledger.total_held_bps(NEAR)) == (0, 0)


def test_what_is_free_of_an_unburdened_link_is_spare() -> None:
    ledger = seen(10)
    assert ledger.is_known(NEAR)
    assert ledger.spare_bps(NEAR) == 10


def test_contracts_that_are_not_in_use_count_as_used() -> None:
    ledger = seen(100)
    ledger.hold(A, LINKS, 30)
    assert ledger.spare_bps(NEAR) == 70
    ledger.see(NEAR, 100, 0)
    assert ledger.spare_bps(NEAR) == 70


def test_a_holder_s_own_traffic_is_not_counted_twice() -> None:
    ledger = seen(100)
    ledger.hold(A, LINKS, 30)
    ledger.see(NEAR, 70, 30)
    assert ledger.spare_bps(NEAR) == 70
    ledger.see(NEAR, 90, 10)
    assert ledger.spare_bps(NEAR) == 70


@pytest.mark.parametrize(("own", "spare"), [(31, 50), (10**9, 50), (-1, 20)])
def test_own_traffic_is_at_most_what_is_held_and_not_below_nothing(own: int, spare: int) -> None:
    ledger = seen(100)
    ledger.hold(A, LINKS, 30)
    ledger.see(NEAR, 50, own)
    assert ledger.spare_bps(NEAR) == spare


def test_an_estimate_below_what_was_granted_throws_nobody_out() -> None:
    ledger = seen(100)
    ledger.hold(A, LINKS, 80)
    ledger.see(NEAR, 50, 10)
    assert ledger.spare_bps(NEAR) == -20
    assert ledger.held_bps(A) == 80
    assert ask(ledger, A, 81) == 80
    assert ask(ledger, B, 1) == 0
    assert ask(ledger, A, 80) is None
    assert ask(ledger, A, 79) is None


def test_what_is_not_known_any_more() -> None:
    ledger = seen(100)
    ledger.hold(A, LINKS, 30)
    ledger.see(NEAR, None, 0)
    assert not ledger.is_known(NEAR)
    assert ledger.spare_of(LINKS) is None
    assert ledger.total_held_bps(NEAR) == 30
    ledger.see(NEAR, 100, 0)
    assert ledger.spare_bps(NEAR) == 70


def test_a_link_that_is_forgotten_keeps_its_contracts() -> None:
    ledger = seen(100)
    ledger.hold(A, LINKS, 30)
    ledger.see(NEAR, 70, 30)
    ledger.forget(NEAR)
    assert not ledger.is_known(NEAR)
    assert (ledger.held_bps(A), ledger.total_held_bps(NEAR)) == (30, 30)
    ledger.see(NEAR, 100, 0)
    assert ledger.spare_bps(NEAR) == 70


def test_another_belief_brings_back_nothing_that_was_given_up() -> None:
    ledger = seen(100)
    ledger.hold(A, LINKS, 30)
    ledger.hold(B, LINKS, 30)
    ledger.see(NEAR, 70, 30)
    ledger.release(A)
    assert ledger.spare_bps(NEAR) == 40
    ledger.revise(NEAR, 0)
    assert ledger.spare_bps(NEAR) == -30
    ledger.revise(NEAR, None)
    assert not ledger.is_known(NEAR)
    ledger.revise(NEAR, 70)
    assert ledger.spare_bps(NEAR) == 40


def test_a_change_is_undone_though_another_belief_came_in_between() -> None:
    ledger = seen(100)
    ledger.hold(A, LINKS, 30)
    ledger.see(NEAR, 70, 30)
    undo = ledger.release(A)
    ledger.revise(NEAR, 0)
    undo()
    assert ledger.spare_bps(NEAR) == 0


def test_nothing_is_believed_of_a_link_that_was_never_estimated() -> None:
    ledger = Ledger()
    ledger.revise(NEAR, 100)
    assert ledger.entry_count == 0
    ledger.hold(A, LINKS, 30)
    ledger.revise(NEAR, 100)
    assert not ledger.is_known(NEAR)
    ledger.see(NEAR, 100, 0)
    ledger.forget(NEAR)
    ledger.revise(NEAR, 100)
    assert not ledger.is_known(NEAR)


def test_rates_are_exact_to_the_largest() -> None:
    most = 2**64 - 1
    ledger = seen(most)
    assert ask(ledger, A, most - 1) is None
    assert ask(ledger, B, 2) == 1
    assert ask(ledger, B, 1) is None
    assert ledger.spare_bps(NEAR) == 0
    assert ledger.total_held_bps(NEAR) == most


# -- requests -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "available", "asked", "most"),
    [
        (0, 100, 100, None),
        (0, 100, 101, 100),
        (60, 40, 100, None),
        (60, 40, 101, 100),
        (60, 0, 60, None),
        (60, 0, 61, 60),
        (60, 0, 0, None),
        (0, 0, 1, 0),
        (0, 0, 0, None),
    ],
)
def test_what_is_free_and_what_the_flow_holds_have_to_cover_a_rate(
    held: int, available: int, asked: int, most: int | None
) -> None:
    ledger = Ledger()
    ledger.hold(A, LINKS, held)
    ledger.see(NEAR, available, held)
    assert ledger.refuse(A, LINKS, asked, now_ns=NOW) == most


def test_to_ask_changes_nothing() -> None:
    ledger = seen(100)
    for _ in range(3):
        assert ledger.refuse(A, LINKS, 100, now_ns=NOW) is None
        assert ledger.refuse(B, LINKS, 101, now_ns=NOW) == 100
    assert ledger.total_held_bps(NEAR) == 0


def test_two_requests_for_the_last_megabit_have_one_winner() -> None:
    ledger = seen(1_000_000)
    assert ask(ledger, A, 1_000_000) is None
    assert ask(ledger, B, 1_000_000) == 0
    assert ledger.total_held_bps(NEAR) == 1_000_000


def test_a_path_of_which_nothing_is_known_has_no_room_to_give() -> None:
    ledger = Ledger()
    ledger.see(HOP, 100, 0)
    assert ledger.spare_of(LINKS) is None
    assert ask(ledger, A, 1) == 0
    ledger.hold(A, LINKS, 30)
    assert ask(ledger, A, 31) == 30
    assert ask(ledger, A, 29) is None


# -- first hops -----------------------------------------------------------------------


def test_the_least_of_the_links_limits() -> None:
    ledger = seen(100, hop_bps=40)
    assert ledger.spare_of(LINKS) == 40
    assert ask(ledger, A, 41) == 40
    ledger.see(HOP, 400, 0)
    assert ledger.spare_of(LINKS) == 100
    assert ask(ledger, A, 101) == 100


def test_a_first_hop_of_which_nothing_is_known_limits_nothing() -> None:
    ledger = seen(100)
    assert ledger.spare_of(LINKS) == 100
    assert ask(ledger, A, 100) is None


def test_paths_share_their_first_hop() -> None:
    ledger = seen(100, hop_bps=120)
    ledger.see(FAR, 100, 0)
    assert ask(ledger, A, 100) is None
    assert ask(ledger, B, 100, (FAR, HOP)) == 20
    assert ask(ledger, B, 20, (FAR, HOP)) is None
    assert ledger.spare_bps(FAR) == 80
    assert ledger.total_held_bps(HOP) == 120
    assert ask(ledger, C, 100, (OTHER, NEW_HOP)) == 0


def test_on_a_new_way_what_a_holder_has_counts_where_it_has_it() -> None:
    ledger = seen(100)
    assert ask(ledger, A, 60) is None
    ledger.see(NEW_HOP, 70, 0)
    # 100 of the path, but the new first hop carries nothing of it yet.
    assert ledger.refuse(A, (NEAR, NEW_HOP), 71, now_ns=NOW) == 70
    assert ledger.refuse(A, (NEAR, NEW_HOP), 70, now_ns=NOW) is None
    ledger.see(NEW_HOP, 10, 0)
    assert ledger.refuse(A, (NEAR, NEW_HOP), 60, now_ns=NOW) is None
    assert ledger.refuse(A, (NEAR, NEW_HOP), 61, now_ns=NOW) == 60


def test_a_contract_moves_with_its_way() -> None:
    ledger = seen(100, hop_bps=100)
    ledger.hold(A, LINKS, 60)
    ledger.see(HOP, 40, 60)
    ledger.hold(A, (NEAR, NEW_HOP), 60)
    assert ledger.held_bps(A) == 60
    assert [ledger.total_held_bps(link) for link in (NEAR, HOP, NEW_HOP)] == [60, 0, 60]
    # What it sent there may still be on its way.
    assert ledger.spare_bps(HOP) == 40
    assert ledger.spare_bps(NEAR) == 40


# -- contracts that are lowered or end ------------------------------------------------


def test_room_that_may_have_been_in_use_is_found_by_the_next_estimate() -> None:
    ledger = seen(100)
    ledger.hold(A, LINKS, 60)
    ledger.see(NEAR, 40, 60)
    ledger.release(A)
    assert ledger.total_held_bps(NEAR) == 0
    assert ledger.spare_bps(NEAR) == 40
    ledger.see(NEAR, 100, 0)
    assert ledger.spare_bps(NEAR) == 100


def test_room_that_was_surely_unused_is_free_at_once() -> None:
    ledger = seen(100)
    ledger.hold(A, LINKS, 60)
    ledger.release(A)
    assert ledger.spare_bps(NEAR) == 100
    ledger.hold(A, LINKS, 60)
    ledger.see(NEAR, 90, 10)
    ledger.release(A)
    assert ledger.spare_bps(NEAR) == 90


def test_whose_traffic_it_was_is_not_guessed() -> None:
    ledger = seen(100)
    ledger.hold(A, LINKS, 20)
    ledger.hold(B, LINKS, 20)
    ledger.see(NEAR, 85, 15)
    # All 15 may be A's.
    ledger.release(A)
    assert ledger.spare_bps(NEAR) == 65
    # Or B's.
    ledger.release(B)
    assert ledger.spare_bps(NEAR) == 85


def test_a_contract_that_is_lowered_and_raised_is_one_that_is_not_in_use() -> None:
    ledger = seen(100)
    ledger.hold(A, LINKS, 60)
    ledger.see(NEAR, 5, 60)
    ledger.hold(A, LINKS, 20)
    assert ledger.spare_bps(NEAR) == 5
    assert ask(ledger, A, 60) == 25
    assert ask(ledger, A, 25) is None
    assert ledger.spare_bps(NEAR) == 0


def test_a_rate_of_nothing_ends_a_contract() -> None:
    ledger = seen(100)
    ledger.hold(A, LINKS, 60)
    ledger.hold(A, LINKS, 0)
    assert ledger.held_bps(A) == 0
    assert ledger.spare_bps(NEAR) == 100


def test_to_release_what_is_not_held_is_nothing() -> None:
    ledger = seen(100)
    before = ledger.entry_count
    ledger.release(A)()
    ledger.forget(OTHER)
    ledger.see(OTHER, None, 0)
    assert ledger.entry_count == before


# -- quotes ---------------------------------------------------------------------------


def quoted_bps(ledger: Ledger, *, after_ns: int = 0) -> Callable[[int], int]:
    """What a holder could be granted at most by a quote of this moment, later on."""
    quote = ledger.quote(LINKS, now_ns=NOW)

    def most(holder: int) -> int:
        asked = 2**64
        most_bps = ledger.refuse(holder, LINKS, asked, quote=quote, now_ns=NOW + after_ns)
        assert most_bps is not None
        return most_bps

    return most


def test_a_quote_is_honoured_when_the_estimate_falls() -> None:
    ledger = seen(100, hop_bps=100)
    most = quoted_bps(ledger)
    ledger.see(NEAR, 10, 0)
    ledger.see(HOP, 20, 0)
    assert most(B) == 100
    assert ledger.refuse(B, LINKS, 100, now_ns=NOW) == 10


def test_a_quote_holds_for_its_time() -> None:
    ledger = seen(100)
    in_time = quoted_bps(ledger, after_ns=QUOTE_NS)
    too_late = quoted_bps(ledger, after_ns=QUOTE_NS + 1)
    ledger.see(NEAR, 10, 0)
    assert in_time(B) == 100
    assert too_late(B) == 10


def test_a_quote_does_not_limit() -> None:
    ledger = seen(100)
    most = quoted_bps(ledger)
    ledger.see(NEAR, 150, 0)
    assert most(B) == 150


def test_what_another_took_is_no_longer_promised() -> None:
    ledger = seen(100)
    most = quoted_bps(ledger)
    undo = ledger.hold(A, LINKS, 70)
    ledger.see(NEAR, 10, 0)
    assert most(B) == 30
    ledger.hold(C, (FAR, HOP), 50)
    assert most(B) == 30
    ledger.release(C)
    undo()
    assert most(B) == 100


def test_two_quotes_for_the_last_megabit_have_one_winner() -> None:
    ledger = seen(10)
    first, second = quoted_bps(ledger), quoted_bps(ledger)
    ledger.see(NEAR, 0, 0)
    assert (first(A), second(B)) == (10, 10)
    ledger.hold(A, LINKS, 10)
    assert (first(A), second(B)) == (10, 0)


def test_a_quote_on_the_shared_hop_goes_with_what_the_other_path_takes() -> None:
    ledger = seen(100, hop_bps=100)
    most = quoted_bps(ledger)
    ledger.hold(A, (FAR, HOP), 70)
    ledger.see(HOP, 0, 0)
    assert most(B) == 30


def test_a_quote_is_for_more_than_what_is_held() -> None:
    ledger = seen(100)
    ledger.hold(B, LINKS, 40)
    most = quoted_bps(ledger)
    ledger.see(NEAR, 0, 0)
    assert most(B) == 100
    ledger.hold(B, LINKS, 90)
    assert most(B) == 100
    ledger.hold(B, LINKS, 100)
    assert most(B) == 100


def test_a_quote_is_of_what_was_known() -> None:
    ledger = seen(100)
    most = quoted_bps(ledger)
    ledger.forget(NEAR)
    assert most(B) == 0
    ledger.see(NEAR, 10, 0)
    assert most(B) == 10


def test_a_quote_ends_with_the_way_though_contracts_remain() -> None:
    ledger = seen(100)
    ledger.hold(A, LINKS, 30)
    most = quoted_bps(ledger)
    ledger.forget(NEAR)
    ledger.see(NEAR, 50, 0)
    assert most(B) == 20


def test_a_quote_lasts_while_the_path_is_unknown_in_between() -> None:
    ledger = seen(100)
    most = quoted_bps(ledger)
    ledger.see(NEAR, None, 0)
    assert most(B) == 0
    ledger.see(NEAR, 10, 0)
    assert most(B) == 100


def test_a_first_hop_that_becomes_known_does_not_break_a_promise() -> None:
    ledger = seen(100)
    most = quoted_bps(ledger)
    ledger.see(HOP, 10, 0)
    assert most(B) == 100
    # And one of another way is not promised.
    ledger.see(NEW_HOP, 10, 0)
    quote = ledger.quote(LINKS, now_ns=NOW)
    assert ledger.refuse(B, (NEAR, NEW_HOP), 11, quote=quote, now_ns=NOW) == 10


def test_nothing_is_promised_of_a_path_that_is_not_known() -> None:
    ledger = seen(0, hop_bps=100)
    ledger.forget(NEAR)
    quote = ledger.quote(LINKS, now_ns=NOW)
    assert quote.promises == ()
    ledger.see(NEAR, 10, 0)
    ledger.see(HOP, 5, 0)
    assert ledger.refuse(B, LINKS, 11, quote=quote, now_ns=NOW) == 5


# -- undoing --------------------------------------------------------------------------


def state(ledger: Ledger) -> tuple[object, ...]:
    links = NEAR, FAR, HOP, NEW_HOP
    return (
        ledger.entry_count,
        [ledger.held_bps(holder) for holder in (A, B, C)],
        [(ledger.spare_bps(link), ledger.total_held_bps(link)) for link in links],
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda ledger: ledger.hold(A, LINKS, 90),
        lambda ledger: ledger.hold(A, LINKS, 60),
        lambda ledger: ledger.hold(A, LINKS, 1),
        lambda ledger: ledger.hold(A, (NEAR, NEW_HOP), 60),
        lambda ledger: ledger.hold(A, (FAR,), 10),
        lambda ledger: ledger.hold(C, (FAR, NEW_HOP), 10),
        lambda ledger: ledger.hold(C, LINKS, 0),
        lambda ledger: ledger.release(A),
        lambda ledger: ledger.release(C),
    ],
)
def test_undoing_leaves_everything_as_it_was(
    change: Callable[[Ledger], Callable[[], None]],
) -> None:
    ledger = seen(100, hop_bps=200)
    ledger.hold(A, LINKS, 60)
    ledger.hold(B, LINKS, 30)
    ledger.see(NEAR, 30, 70)
    ledger.see(HOP, 130, 70)
    before = state(ledger)
    first = change(ledger)
    second = ledger.hold(B, (FAR, HOP), 5)
    third = ledger.release(A)
    for undo in (third, second, first):
        undo()
    assert state(ledger) == before


def test_an_estimate_in_between_stays_and_what_is_put_back_is_not_in_it() -> None:
    ledger = seen(100)
    ledger.hold(A, LINKS, 60)
    ledger.see(NEAR, 40, 60)
    undo = ledger.release(A)
    ledger.see(NEAR, 100, 0)
    undo()
    assert ledger.held_bps(A) == 60
    assert ledger.spare_bps(NEAR) == 40


@pytest.mark.parametrize(("own", "spare"), [(15, 80), (10, 75), (4, 75)])
def test_an_estimate_in_between_may_have_seen_what_is_taken_away(own: int, spare: int) -> None:
    ledger = seen(100)
    ledger.hold(A, LINKS, 10)
    undo = ledger.hold(B, LINKS, 10)
    ledger.see(NEAR, 85, own)
    undo()
    # As much as 10 of it were the traffic of B, which goes on without a contract.
    assert ledger.spare_bps(NEAR) == spare


def test_what_was_forgotten_in_between_stays_forgotten() -> None:
    ledger = seen(100)
    ledger.hold(A, (NEAR,), 60)
    ledger.see(NEAR, 40, 60)
    undo = ledger.release(A)
    ledger.forget(NEAR)
    undo()
    assert ledger.total_held_bps(NEAR) == 60
    assert not ledger.is_known(NEAR)
    ledger.see(NEAR, 100, 0)
    assert ledger.spare_bps(NEAR) == 40


# -- cost -----------------------------------------------------------------------------


def test_nothing_is_kept_of_what_is_over() -> None:
    ledger = Ledger()
    for holder in range(100):
        ledger.hold(holder, (holder, HOP), 10)
        ledger.see(holder, 10, 0)
    assert ledger.entry_count == 201
    for holder in range(100):
        ledger.forget(holder)
        ledger.release(holder)
    assert ledger.entry_count == 0
    ledger.see(NEAR, 5, 0)
    ledger.see(NEAR, None, 0)
    ledger.forget(NEAR)
    assert ledger.entry_count == 0
    ledger.hold(A, (NEAR,), 10)
    ledger.see(NEAR, None, 0)
    ledger.release(A)
    assert ledger.entry_count == 0


class Counted:
    """A link that counts how often it is looked up."""

    lookups = 0

    def __hash__(self) -> int:
        Counted.lookups += 1
        return 1


def test_a_decision_costs_the_same_whatever_the_number_of_flows() -> None:
    costs = []
    for flows in (1, 5_000):
        ledger, links = Ledger(), (Counted(), HOP)
        ledger.see(links[0], 10**9, 0)
        for holder in range(flows):
            ledger.hold(holder, links, 1)
        Counted.lookups = 0
        quote = ledger.quote(links, now_ns=NOW)
        assert ledger.refuse(flows, links, 2, quote=quote, now_ns=NOW) is None
        undo = ledger.hold(flows, links, 2)
        ledger.release(flows)()
        undo()
        costs.append(Counted.lookups)
    assert costs[0] == costs[1] < 20

"""What a path may cost: shares over a window, what is forgotten when, what lasts."""

from __future__ import annotations

import pytest

from openqwave.model.errors import InvalidParameter
from openqwave.probing.budget import SLOTS, UNKNOWN_BPS, Budget
from openqwave.probing.session import CloseStream, OpenStream, SendStream
from openqwave.probing.spending import LEAST_BYTES, PARTS, Purpose, Spending

MBIT = 1_000_000
S = 1_000_000_000
WINDOW_NS = 300 * S
# A slot's length more may pass until something is forgotten.
FORGOTTEN_NS = WINDOW_NS + WINDOW_NS // SLOTS


@pytest.mark.parametrize(
    ("rate", "whole"),
    [(0.5, 187_500), (1, 375_000), (20, 7_500_000), (100, 37_500_000), (1000, 37_500_000)],
)
def test_a_window_is_a_share_of_the_capacity_and_not_more_than_the_most(
    rate: float, whole: int
) -> None:
    assert Budget().whole_bytes(rate * MBIT) == whole
    assert Budget().allowed_bytes(rate * MBIT, now_ns=5) == whole


def test_policy_says_otherwise() -> None:
    budget = Budget(share_ppm=20_000, most_bps=300_000, window_ns=10 * S)
    assert budget.rate_bps(10 * MBIT) == 200_000
    assert budget.rate_bps(20 * MBIT) == 300_000
    assert budget.allowed_bytes(10 * MBIT, now_ns=0) == 250_000


@pytest.mark.parametrize(
    "wrong",
    [{"share_ppm": 0}, {"share_ppm": 1_000_001}, {"most_bps": 0}, {"burst_bytes": 0}],
)
def test_a_budget_of_nothing_is_an_error(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidParameter):
        Budget(**wrong)
    with pytest.raises(InvalidParameter):
        Budget(window_ns=1)


def test_what_is_spent_is_gone_until_the_window_has_passed() -> None:
    budget = Budget()
    budget.spend(100_000, MBIT, now_ns=10 * S)
    assert budget.allowed_bytes(MBIT, now_ns=10 * S) == 275_000
    assert budget.allowed_bytes(MBIT, now_ns=10 * S + WINDOW_NS) == 275_000
    assert budget.allowed_bytes(MBIT, now_ns=10 * S + FORGOTTEN_NS) == 375_000


def test_nothing_is_forgotten_too_soon() -> None:
    # Whatever the phase of the slots: no window of five minutes holds more than it may.
    budget, sent = Budget(), []
    for now_ns in range(0, 4 * WINDOW_NS, 7 * S):
        size = min(20_000, budget.allowed_bytes(MBIT, now_ns=now_ns))
        budget.spend(size, MBIT, now_ns=now_ns)
        sent.append((now_ns, size))
    for end_ns, _ in sent:
        inside = sum(size for at_ns, size in sent if end_ns - WINDOW_NS < at_ns <= end_ns)
        assert inside <= 375_000
    # And it is not careful beyond need.
    assert sum(size for _, size in sent) >= 0.95 * 4 * 375_000


def test_more_than_the_window_leaves_nothing() -> None:
    budget = Budget()
    budget.spend(400_000, MBIT, now_ns=0)
    assert budget.allowed_bytes(MBIT, now_ns=0) == 0
    assert budget.pace_bps(MBIT, now_ns=0) == 0


def test_memory_is_bounded() -> None:
    budget = Budget()
    for now_ns in range(0, 3 * WINDOW_NS, S // 10):
        budget.spend(60, MBIT, now_ns=now_ns)
    assert len(budget._slots) <= SLOTS + 2  # noqa: SLF001 - what is bounded


def test_an_unknown_path_is_taken_for_a_slow_one_until_it_is_known() -> None:
    budget = Budget()
    assert budget.allowed_bytes(None, now_ns=0) == budget.allowed_bytes(UNKNOWN_BPS, now_ns=0)
    budget.spend(100_000, now_ns=0)
    # Each belief opens what it allows, less what was sent before it.
    assert budget.allowed_bytes(20 * MBIT, now_ns=0) == pytest.approx(7_400_000, abs=1)
    assert budget.allowed_bytes(MBIT / 2, now_ns=0) == pytest.approx(87_500, abs=1)


def test_a_path_that_becomes_slower_does_not_owe_what_was_right_before() -> None:
    budget = Budget()
    budget.spend(3_750_000, 20 * MBIT, now_ns=0)
    # Half of the window was used, and half of it is left at any capacity.
    assert budget.allowed_bytes(20 * MBIT, now_ns=S) == pytest.approx(3_750_000, abs=1)
    assert budget.allowed_bytes(5 * MBIT, now_ns=S) == pytest.approx(1_875_000 / 2, abs=1)


# -- what lasts -----------------------------------------------------------------------


def test_after_a_lump_a_pace_lasts_until_the_lump_is_forgotten() -> None:
    budget = Budget()
    assert budget.pace_bps(MBIT, now_ns=0) == pytest.approx(10_000)
    budget.spend(175_000, MBIT, now_ns=0)
    paces = []
    for second in range(300):
        pace_bps = budget.pace_bps(MBIT, now_ns=second * S)
        paces.append(pace_bps)
        budget.spend(int(pace_bps / 8), MBIT, now_ns=second * S)
    assert paces[0] == pytest.approx(200_000 * 8 / 300, rel=0.05)
    # It neither dries up nor leaves half of the budget unused.
    assert min(paces) > 0.35 * paces[0]
    assert budget.allowed_bytes(MBIT, now_ns=299 * S) < 75_000


def test_a_pace_in_the_long_run_leaves_something_to_measure_with() -> None:
    budget = Budget()
    for second in range(3000):
        pace_bps = budget.pace_bps(MBIT, now_ns=second * S)
        budget.spend(int(pace_bps / 8), MBIT, now_ns=second * S)
        if second > 600:
            assert 5_000 < pace_bps < 10_000
            assert budget.allowed_bytes(MBIT, now_ns=second * S) > 50_000


# -- what is for what -----------------------------------------------------------------


def spending(capacity_bps: int | None = 20 * MBIT, spent_bytes: int = 0) -> Spending:
    books = Spending(Budget())
    books.capacity_bps = capacity_bps
    books.note(spent_bytes, [], now_ns=0)
    return books


@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_measurement_takes_a_part_of_what_is_left(purpose: Purpose) -> None:
    allowed = spending(spent_bytes=1_500_000).allowance(purpose, None, 0, now_ns=0)
    reserve = 0.15 * 7_500_000 if purpose is Purpose.CHANGE else 0
    assert allowed == pytest.approx(PARTS[purpose] * (6_000_000 - reserve), abs=1)


def test_what_a_measurement_has_sent_is_not_taken_from_it_again() -> None:
    books = spending()
    before = books.allowance(Purpose.CHANGE, 20 * MBIT, 0, now_ns=0)
    books.note(200_000, [], now_ns=0)
    assert books.allowance(Purpose.CHANGE, 20 * MBIT, 200_000, now_ns=0) == pytest.approx(
        before, abs=1
    )


def test_a_belief_opens_what_it_allows() -> None:
    books = spending(None)
    careful = books.allowance(Purpose.FIRST, None, 0, now_ns=0)
    assert careful == PARTS[Purpose.FIRST] * 375_000
    assert books.allowance(Purpose.FIRST, 100 * MBIT, 0, now_ns=0) == 100 * careful


def test_changes_are_not_measured_from_the_reserve() -> None:
    books = spending(spent_bytes=6_300_000)
    assert not books.can_measure(Purpose.CHANGE, now_ns=0)
    assert books.can_measure(Purpose.THOROUGH, now_ns=0)
    assert not spending(spent_bytes=7_450_000).can_measure(Purpose.THOROUGH, now_ns=0)
    assert spending(MBIT).can_measure(Purpose.CHANGE, now_ns=0)
    assert LEAST_BYTES > 4 * 2 * 1496 + 3 * 3 * 1496 - 10_000


def test_segments_of_connections_are_counted() -> None:
    books = spending()
    books.note(0, [OpenStream(1), SendStream(1, bytes(40)), CloseStream(1)], now_ns=0)
    books.note_heard(now_ns=0)
    left = books.allowance(Purpose.THOROUGH, None, 0, now_ns=0) / PARTS[Purpose.THOROUGH]
    assert 7_500_000 - left == pytest.approx(4 * 60 + 100 + 60, abs=4)

"""How long a train's report is waited for."""

from __future__ import annotations

import pytest

from openqwave.probing.patience import FIRST_WAIT_NS, MAX_WAIT_NS, MIN_WAIT_NS, Patience
from openqwave.probing.trains import TrainPlan

MS = 1_000_000
SHORT, LONG = TrainPlan(10, 1_000), TrainPlan(100, 1_000)


def learned(*reports: tuple[TrainPlan, int, int]) -> Patience:
    patience = Patience()
    for report in reports:
        patience.learn(*report)
    return patience


def test_before_the_first_report_it_is_a_second() -> None:
    assert Patience().wait_ns(LONG) == FIRST_WAIT_NS == 1_000 * MS


def test_it_is_four_times_the_longest_delay() -> None:
    patience = learned((SHORT, 20 * MS, 0), (SHORT, 100 * MS, 0), (SHORT, 30 * MS, 0))
    assert patience.wait_ns(SHORT) == 400 * MS


def test_it_grows_with_the_train_at_the_slowest_spreading() -> None:
    # 10 kB over 20 ms are 2 us a byte.
    patience = learned((SHORT, 30 * MS, 20 * MS), (SHORT, 10 * MS, 1 * MS))
    assert patience.wait_ns(SHORT) == 4 * (30 + 20) * MS
    assert patience.wait_ns(LONG) == 4 * (30 + 200) * MS


def test_what_a_train_was_spread_by_us_is_not_the_paths_doing() -> None:
    paced = TrainPlan(11, 1_000, gap_ns=2 * MS)
    assert learned((paced, 30 * MS, 20 * MS)).wait_ns(LONG) == 120 * MS
    # Nor is it a merit when a train is pushed together.
    assert learned((paced, 30 * MS, 1 * MS)).wait_ns(LONG) == 120 * MS


@pytest.mark.parametrize(
    ("delay_ns", "wait_ns"), [(0, MIN_WAIT_NS), (12 * MS, MIN_WAIT_NS), (5_000 * MS, MAX_WAIT_NS)]
)
def test_it_has_bounds(delay_ns: int, wait_ns: int) -> None:
    assert learned((SHORT, delay_ns, 0)).wait_ns(SHORT) == wait_ns

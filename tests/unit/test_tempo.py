"""How much a watch sends, by effort and by what the budget allows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from openqwave.probing.tempo import SLOWEST, WANTED, Effort, Tempo, affordable

S = 1_000_000_000


def tempo(pace_bps: float, effort: Effort = Effort.ALERT, train_bytes: int = 11_968) -> Tempo:
    return affordable(effort, pace_bps, probe_bytes=60, train_bytes=train_bytes)


def cost_bps(found: Tempo, train_bytes: int) -> float:
    return 8 * (found.probes * 60 + train_bytes * S / found.train_ns)


@pytest.mark.parametrize("effort", list(Effort))
def test_what_is_wanted_is_done_where_it_can_be_paid(effort: Effort) -> None:
    assert tempo(1_000_000, effort) == WANTED[effort]
    assert cost_bps(WANTED[Effort.ALERT], 11_968) < 200_000 * 3 / 4, "on 20 Mbit/s, in the long run"


@pytest.mark.parametrize("pace_bps", [1_500, 5_000, 10_000, 50_000, 100_000, 150_000])
@pytest.mark.parametrize("train_bytes", [4_488, 11_968])
@pytest.mark.parametrize("effort", list(Effort))
def test_no_more_is_sent_than_is_allowed(pace_bps: float, train_bytes: int, effort: Effort) -> None:
    found = tempo(pace_bps, effort, train_bytes)
    least_bps = cost_bps(SLOWEST, train_bytes)
    assert cost_bps(found, train_bytes) <= max(pace_bps, least_bps) + 0.5 * least_bps
    assert found.probes <= WANTED[effort].probes
    assert found.train_ns >= WANTED[effort].train_ns


def test_most_is_for_small_probes_where_it_is_little() -> None:
    found = tempo(7_500, train_bytes=4_488)
    assert found.probes == 10
    assert 13 * S < found.train_ns < 15 * S


def test_nothing_left_is_what_keeps_the_connection() -> None:
    assert tempo(0) == replace(SLOWEST, report_ns=S)
    assert tempo(0).train_ns < 60 * S


def test_nobody_waiting_costs_less_on_any_path() -> None:
    for pace_bps in (10_000, 50_000, 200_000, 1_000_000):
        light, alert = tempo(pace_bps, Effort.LIGHT), tempo(pace_bps)
        assert light.probes < alert.probes
        assert light.train_ns > alert.train_ns


def test_small_differences_are_not_worth_a_new_tempo() -> None:
    base = Tempo(50, S, S)
    assert Tempo(58, S, S).is_about(base)
    assert not Tempo(61, S, S).is_about(base)
    assert not Tempo(50, 2 * S, S).is_about(base)
    assert not Tempo(50, S, 5 * S).is_about(base)

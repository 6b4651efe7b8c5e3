"""Pacing by the sender."""

from __future__ import annotations

import itertools

import pytest

from openqwave import InvalidParameter, Pacer

MS = 1_000_000
TOLERANCE_NS = 2 * MS
# One 1,250-byte packet each millisecond.
RATE_BPS, PACKET_BYTES, GAP_NS = 10_000_000, 1_250, MS
START_NS = 1_000 * MS


def send(pacer: Pacer, now_ns: int, count: int) -> list[int]:
    """Departure times of a sender that waits as told and is otherwise in no hurry."""
    times = []
    for _ in range(count):
        now_ns += pacer.reserve(PACKET_BYTES, now_ns=now_ns)
        times.append(now_ns)
    return times


def test_the_first_packet_leaves_at_once() -> None:
    assert Pacer(RATE_BPS).reserve(PACKET_BYTES, now_ns=START_NS) == 0


def test_a_greedy_sender_is_held_to_its_rate() -> None:
    times = send(Pacer(RATE_BPS), START_NS, 1_000)
    # From any packet to any later one no more than the tolerance may be made up for.
    assert all(
        (times[-1] - times[i]) >= (len(times) - 1 - i) * GAP_NS - TOLERANCE_NS
        for i in range(len(times))
    )
    assert times[-1] - START_NS <= 1_000 * GAP_NS
    steady = [b - a for a, b in itertools.pairwise(times[10:])]
    assert set(steady) == {GAP_NS}


def test_a_pause_is_not_followed_by_a_burst() -> None:
    pacer = Pacer(RATE_BPS)
    times = send(pacer, START_NS, 10)
    after = send(pacer, times[-1] + 1_000 * MS, 10)
    at_once = sum(1 for time in after if time == after[0])
    assert at_once <= 1 + TOLERANCE_NS // GAP_NS


def test_a_late_sender_catches_up_within_the_tolerance() -> None:
    pacer = Pacer(RATE_BPS)
    send(pacer, START_NS, 5)
    last = send(pacer, START_NS + 5 * GAP_NS, 1)[0]
    # Late by half a millisecond: the next one is due at its own time, not later.
    wait_ns = pacer.reserve(PACKET_BYTES, now_ns=last + GAP_NS + MS // 2)
    assert wait_ns == 0


@pytest.mark.parametrize("packet_bytes", [28, 1_500, 65_535])
def test_large_packets_take_more_time(packet_bytes: int) -> None:
    pacer = Pacer(8_000_000)
    for _ in range(100):
        wait_ns = pacer.reserve(packet_bytes, now_ns=START_NS)
    # A byte each microsecond, 99 packets before the last one.
    assert wait_ns == 99 * packet_bytes * 1_000 - TOLERANCE_NS


def test_waiting_takes_as_long_as_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.monotonic_ns", lambda: START_NS)
    monkeypatch.setattr("time.sleep", slept.append)
    pacer = Pacer(RATE_BPS)
    for _ in range(5):
        pacer.wait(PACKET_BYTES)
    assert slept == [0.001, 0.002]


@pytest.mark.parametrize("rate_bps", [0, -1])
def test_a_rate_is_positive(rate_bps: int) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Pacer(rate_bps)


def test_a_wrong_rate_is_an_error_of_ours() -> None:
    # Every refusal of the Python face is a QosError, so `except QosError` catches it.
    with pytest.raises(InvalidParameter):
        Pacer(0)

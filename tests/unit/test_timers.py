"""Times by reason: the earliest first, each once, whatever was set before."""

from __future__ import annotations

import random

from openqwave.subsystem.timers import Timers


def test_nothing_is_due_where_nothing_is_set() -> None:
    timers = Timers()
    assert timers.next_ns() is None
    assert list(timers.take_due(10**18)) == []


def test_the_earliest_comes_first_and_once() -> None:
    timers = Timers()
    for reason, due_ns in (("late", 30), ("soon", 10), ("then", 20)):
        timers.set(reason, due_ns)
    assert timers.next_ns() == 10
    assert list(timers.take_due(20)) == ["soon", "then"]
    assert timers.next_ns() == 30
    assert len(timers) == 1
    assert list(timers.take_due(29)) == []
    assert list(timers.take_due(30)) == ["late"]
    assert timers.next_ns() is None


def test_the_same_time_keeps_the_order() -> None:
    timers = Timers()
    for reason in ("c", "a", "b"):
        timers.set(reason, 5)
    assert list(timers.take_due(5)) == ["c", "a", "b"]


def test_a_reason_has_the_time_it_was_given_last() -> None:
    timers = Timers()
    timers.set("one", 10)
    timers.set("one", 30)
    assert timers.next_ns() == 30
    timers.set("one", 20)
    assert timers.next_ns() == 20
    assert list(timers.take_due(100)) == ["one"]
    timers.set("one", 10)
    timers.set("one", None)
    assert timers.next_ns() is None
    # What is not set can be taken back as well.
    timers.set("other", None)


def test_one_that_is_due_may_be_set_again_at_once() -> None:
    timers = Timers()
    timers.set("again", 10)
    for reason in timers.take_due(10):
        timers.set(reason, 40)
    assert timers.next_ns() == 40


def test_what_is_set_anew_for_ever_costs_no_memory() -> None:
    timers = Timers()
    for turn in range(10_000):
        timers.set("moving", turn)
        timers.set(("fixed", turn % 3), 10**6 + turn)
    assert timers.entry_count < 200
    assert timers.next_ns() == 9_999


def test_any_order_of_setting_is_as_a_sorted_list() -> None:
    uniform = random.Random(7)
    timers, expected = Timers(), dict[int, int]()
    now_ns = 0
    for _ in range(5_000):
        reason = uniform.randrange(40)
        if uniform.random() < 0.2:
            timers.set(reason, None)
            expected.pop(reason, None)
        else:
            expected[reason] = now_ns + uniform.randrange(1_000)
            timers.set(reason, expected[reason])
        if uniform.random() < 0.1:
            now_ns += uniform.randrange(500)
            taken = [expected.pop(one) for one in timers.take_due(now_ns) if isinstance(one, int)]
            assert taken == sorted(taken)
            assert all(due_ns <= now_ns for due_ns in taken)
            assert all(due_ns > now_ns for due_ns in expected.values())
        assert timers.next_ns() == min(expected.values(), default=None)
        assert len(timers) == len(expected)

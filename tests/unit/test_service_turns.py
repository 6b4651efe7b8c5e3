"""Whose packet is read next: fair between users, processes and connections."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from openqwave.service.turns import Turns


def order_of(*waiting: tuple[int, int, str]) -> list[str]:
    turns: Turns[str] = Turns()
    for uid, pid, name in waiting:
        turns.add(uid, pid, name)
    return list(iter(turns.take, None))


def test_nobody_waits() -> None:
    turns: Turns[str] = Turns()
    assert not turns
    assert turns.take() is None


def test_one_of_another_user_waits_for_one_of_many() -> None:
    many = [(1, 10, f"m{number}") for number in range(2_000)]
    assert order_of(*many, (2, 20, "other")).index("other") == 1


def test_one_of_another_process_waits_for_one_of_many() -> None:
    many = [(1, 10, f"m{number}") for number in range(2_000)]
    assert order_of(*many, (1, 11, "other")).index("other") == 1


def test_within_a_process_the_first_is_first() -> None:
    assert order_of((1, 10, "a"), (1, 10, "b"), (1, 10, "c")) == ["a", "b", "c"]


def test_many_processes_of_a_user_are_one_user() -> None:
    many = [(1, pid, f"p{pid}") for pid in range(100, 200)]
    order = order_of(*many, (2, 20, "x"), (2, 20, "y"))
    assert (order.index("x"), order.index("y")) == (1, 3)


def test_who_comes_back_waits_behind_the_others() -> None:
    turns: Turns[str] = Turns()
    turns.add(1, 10, "a")
    turns.add(2, 20, "b")
    assert turns.take() == "a"
    turns.add(1, 10, "a")
    assert [turns.take(), turns.take(), turns.take()] == ["b", "a", None]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=60))
def test_everybody_has_a_turn_and_no_user_has_two_while_another_waits(
    keys: list[tuple[int, int]],
) -> None:
    turns: Turns[tuple[int, int, int]] = Turns()
    for number, (uid, pid) in enumerate(keys):
        turns.add(uid, pid, (uid, pid, number))
    left = Counter(uid for uid, _ in keys)
    served: list[int] = []
    seen = set()
    while (taken := turns.take()) is not None:
        uid = taken[0]
        seen.add(taken)
        waiting = {other for other, count in left.items() if count}
        left[uid] -= 1
        # Since its last turn everybody who waits all along had one.
        if uid in served:
            since = served[len(served) - served[::-1].index(uid) :]
            assert waiting - {uid} <= set(since)
        served.append(uid)
    assert len(seen) == len(keys)
    assert not turns

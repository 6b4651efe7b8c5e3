"""What a forked child must not take over.

A child has a copy of every table and lock of its parent, and none of it is its own: the
handles belong to the parent, and a lock may be held by a thread that does not exist here.
Tables are therefore emptied and locks made anew in the child.
"""

from __future__ import annotations

import os
from collections.abc import Callable

_watched: set[Callable[[], None]] = set()


def reset_in_children(reset: Callable[[], None]) -> None:
    """Have a function called in every child that is forked from now on; once is enough.

    Args:
        reset: Makes its module as new.
    """
    if reset not in _watched:
        _watched.add(reset)
        os.register_at_fork(after_in_child=reset)


_forks = 0


def _count() -> None:
    global _forks  # noqa: PLW0603 - a fact about the process
    _forks += 1


def watch_forks() -> int:
    """Have forks counted from now on; what the count is."""
    reset_in_children(_count)
    return _forks


def fork_count() -> int:
    """How many forks lie between this process and the one that first watched.

    Compared at each call, where the pid would be a system call.
    """
    return _forks

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

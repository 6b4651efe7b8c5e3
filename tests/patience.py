"""Waiting for what will be so: tests ask until it is, and tell what did not come."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# Longer than any machine needs; a test that reaches it has failed.
PATIENCE_S: Final = 30.0
# What is waited for takes milliseconds.
_REST_S: Final = 0.002


def until(holds: Callable[[], object], what: str = "it did not happen") -> None:
    """Wait until something is so.

    Args:
        holds: Says whether it is.
        what: What the test says where it never is.
    """
    end_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end_s, what
        time.sleep(_REST_S)

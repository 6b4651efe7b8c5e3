"""Calls that may take long, made for an event loop by another thread.

A thread cannot be stopped: when the task that waits for it is cancelled, the call goes on, and
nobody takes its result. It leaves the result before it looks whether that is still wanted, and
whoever withdraws the call says so before looking for the result: one of the two finds the other,
and undoes what was done.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from openqwave.model.errors import error_of
from openqwave.subsystem.notices import ABORTED

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


class _Asking(Generic[_T]):
    """One call."""

    def __init__(self, call: Callable[[], _T], undo: Callable[[_T], object]) -> None:
        self._call = call
        self._undo = undo
        self._results: deque[_T] = deque()
        self._withdrawn = threading.Event()

    def ask(self) -> _T:
        """Make the call; in the other thread."""
        if self._withdrawn.is_set():
            raise error_of(ABORTED)
        result = self._call()
        self._results.append(result)
        if self._withdrawn.is_set():
            self._take_back()
        return result

    def withdraw(self) -> None:
        """Want no result any more."""
        self._withdrawn.set()
        self._take_back()

    def _take_back(self) -> None:
        # Of two threads that come here, one gets it.
        with contextlib.suppress(IndexError):
            self._undo(self._results.pop())


def leave(result: object) -> None:
    """Undo nothing: the result is no matter, or what was done is what was wanted."""
    del result


async def in_thread(
    call: Callable[[], _T], undo: Callable[[_T], object] = leave, *, is_quick: bool
) -> _T:
    """Make a call in another thread.

    Args:
        call: Makes it.
        undo: What to do with its result if the task is cancelled before it has got it.
        is_quick: Undoing takes no longer than to have it done by yet another thread.
    """
    asking = _Asking(call, undo)
    try:
        return await asyncio.to_thread(asking.ask)
    except asyncio.CancelledError:
        if is_quick:
            asking.withdraw()
        else:
            do_without_waiting(asking.withdraw)
        raise


def do_without_waiting(work: Callable[[], object]) -> None:
    """Have something done by another thread, which the end of the loop waits for."""
    try:
        asyncio.get_running_loop().run_in_executor(None, work)
    except RuntimeError:
        # The loop is ending, and has no threads any more.
        work()

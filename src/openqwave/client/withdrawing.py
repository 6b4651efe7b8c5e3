"""Calls that may take long, made for an event loop by another thread.

A thread cannot be stopped: when the task that waits for it is cancelled, the call goes on. It
leaves its result before it looks whether that is still wanted, and whoever withdraws the call says
so before looking for the result: one of the two finds the other, and undoes what was done.

A cancelled task ends when that is over, so that whoever goes on finds nothing of it: a notice that
was waited for can be waited for anew. To undo takes a round trip, or, where a service hangs, as
long as that takes to be noticed; cancelled once more, the task ends at once, and the rest is done
without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

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
            self.take_back()
        return result

    def withdraw(self) -> None:
        """Want no result any more; one that is there is to be taken back."""
        self._withdrawn.set()

    def take_back(self) -> None:
        """Undo what was done, if anything was and nobody has."""
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
        is_quick: Undoing takes no longer than to have it done by yet another thread, and nobody
            notices when it happens.
    """
    asking = _Asking(call, undo)
    calling = asyncio.get_running_loop().run_in_executor(None, asking.ask)
    # Where nobody waits to the end, nobody hears of its error, either.
    calling.add_done_callback(_hear)
    try:
        # This does not cancel what it waits for.
        await asyncio.wait([calling])
    except asyncio.CancelledError:
        asking.withdraw()
        if is_quick:
            asking.take_back()
        else:
            await asyncio.wait([calling])
            await to_the_end(asking.take_back)
        raise
    return calling.result()


def _hear(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


async def to_the_end(work: Callable[[], object]) -> None:
    """Have something done by another thread, even if the task is cancelled meanwhile."""
    await asyncio.wait([asyncio.get_running_loop().run_in_executor(None, work)])

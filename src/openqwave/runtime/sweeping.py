"""Looking for sockets that applications have closed without a word.

Flows keep their sockets' cookies and hold no socket open, so a program that closes one without
taking it out of its flow leaves an entry behind. Such entries are looked for in turn, and when a
quota is full: looking costs system calls, and calls wait meanwhile, so it is done for a few
milliseconds at a time, and goes on where it stopped. A large quota that is full of sockets which
are all there is not gone through at every request that is refused for it.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Nobody notices so long a wait, and some hundred sockets are found in it.
LONGEST_NS = 10_000_000
# Longer where somebody is refused otherwise: all sockets of a program that has its own subsystem.
LONGEST_FOR_QUOTA_NS = 50_000_000
# After a look at a full quota that took long and found nothing, none is taken for so many times as
# long: a hostile program slows others down by a twentieth.
REST_PART, LONG_NS = 20, 1_000_000


class Looks(Protocol):
    """Tells whether a socket is gone; see `steps.Directory`."""

    def is_gone(self, cookie: int) -> bool:
        """Has the application closed the last descriptor of the socket?"""


class Sweep:
    """Goes through sockets, a few at a time; see the module's text."""

    def __init__(self, longest_ns: int, rest_part: int = 0) -> None:
        """Begin with nothing.

        Args:
            longest_ns: How long one look takes.
            rest_part: After one that took long and found nothing, none is taken for so many times
                as long.
        """
        self._longest_ns = longest_ns
        self._rest_part = rest_part
        self._rests_until_ns = 0
        self._whose = 0
        self._left: list[int] = []

    def look(self, directory: Looks, whose: int, sockets: Callable[[], Iterable[int]]) -> list[int]:
        """Look at the next sockets.

        Args:
            directory: Finds them.
            whose: Which sockets they are; where others were looked at before, from the first on.
            sockets: Their cookies.

        Returns:
            Those that are gone.
        """
        now_ns = began_ns = time.monotonic_ns()
        if now_ns < self._rests_until_ns:
            return []
        if whose != self._whose or not self._left:
            self._whose, self._left = whose, list(sockets())
        gone: list[int] = []
        while self._left and now_ns - began_ns < self._longest_ns:
            cookie = self._left.pop()
            # Without descriptors to look with, a socket counts as being there.
            with contextlib.suppress(OSError):
                if directory.is_gone(cookie):
                    gone.append(cookie)
            now_ns = time.monotonic_ns()
        if not gone and now_ns - began_ns >= LONG_NS:
            self._rests_until_ns = now_ns + self._rest_part * (now_ns - began_ns)
        return gone

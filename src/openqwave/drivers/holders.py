"""Who holds a socket: looked up in /proc, a piece at a time.

Every descriptor of a socket reads as a link ``socket:[INODE]`` in ``/proc/PID/fd``. The inode is
only a hint (the numbers wrap around); whoever finds one asks the socket for its cookie.

**Rounds.** Sockets are shared by fork and passed on by SCM_RIGHTS, so after its process is gone a
socket can be anywhere. One round looks through the descriptors of every process. A socket that a
round did not meet was held by nobody when the round began, and nobody can get hold of it later: it
is gone, for good and without another look. Only one that was met and is not there any more wants
a new round. So the death of a process with ten thousand sockets costs one round, not ten thousand.
(What lies in a queue between two processes, or is passed on against the direction of the round, is
not seen.)

**Pieces.** A host may have millions of descriptors, at a microsecond or two each, and whoever
wants to can see to that. A round therefore goes on for `_PIECE_NS` at most, and not again before
nine times as long: never more than a tenth of the time is spent on it.

Processes that may not be looked into are passed over; `is_blind` tells that there were some.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Iterator, Sequence

# Longer than that nobody else shall wait; some ten thousand descriptors.
_PIECE_NS = 20_000_000
# The part of all time that searching may take, as its reciprocal.
_SHARE = 10
# Between two looks at the clock.
_STRIDE = 64
# Of one socket; more places would not help whoever cannot have it from these.
_MOST_PLACES = 4

_PREFIX = "socket:["
_AT = len(_PREFIX)

# What is found: where an inode is held, as pids and numbers.
Places = dict[int, list[tuple[int, int]]]


class Sought:
    """The inodes of all sockets that a search is to look for, as they are at each moment."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def __contains__(self, inode: object) -> bool:
        return inode in self._counts

    def add(self, inode: int) -> None:
        """One more socket is looked for by this inode."""
        self._counts[inode] = self._counts.get(inode, 0) + 1

    def drop(self, inode: int) -> None:
        """One less."""
        left = self._counts[inode] - 1
        if left:
            self._counts[inode] = left
        else:
            del self._counts[inode]


def _walk(pid: int, sought: Container[int], places: Places) -> Iterator[None]:
    """Look through the descriptors of one process, with a pause after every few.

    Raises:
        OSError: It is gone, or may not be looked into.
    """
    folder = os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.scandir(folder) as entries:
            for count, entry in enumerate(entries, 1):
                if not count % _STRIDE:
                    yield
                try:
                    link = os.readlink(entry.name, dir_fd=folder)
                except OSError:
                    # Closed since it was listed.
                    continue
                if not link.startswith(_PREFIX):
                    continue
                inode = int(link[_AT:-1])
                if inode in sought:
                    found = places.setdefault(inode, [])
                    if len(found) < _MOST_PLACES:
                        found.append((pid, int(entry.name)))
    finally:
        os.close(folder)


def search_process(
    pid: int, inode: int, clock: Callable[[], int] = time.monotonic_ns
) -> tuple[list[int], bool]:
    """Look for a socket in one process.

    Args:
        pid: The process.
        inode: The socket's.
        clock: Monotonic nanoseconds.

    Returns:
        The file numbers that it has there, and whether all were looked at before time ran out. The
        search ends with the first few.
    """
    places: Places = {}
    end_ns = clock() + _PIECE_NS
    try:
        for _ in _walk(pid, (inode,), places):
            if places:
                break
            if clock() >= end_ns:
                return [], False
    except OSError:
        # Gone, or closed to this one; who fetches from it hears which.
        pass
    return [number for _, number in places.get(inode, ())], True


def is_held(pid: int, number: int, inode: int) -> bool:
    """Is a descriptor of a process still of that inode?"""
    try:
        return os.readlink(f"/proc/{pid}/fd/{number}") == f"{_PREFIX}{inode}]"
    except OSError:
        return False


class Rounds:
    """One round after the other through all processes but this one.

    Attributes:
        begun: How many have begun.
        done: The number of the last that was completed.
        is_blind: It passed over processes that may not be looked into.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """Start without any.

        Args:
            clock: Monotonic nanoseconds.
        """
        self.begun = 0
        self.done = 0
        self._found: Places = {}
        self.is_blind = False
        self._clock = clock
        self._next_ns = 0
        self._at_work: Iterator[None] | None = None
        self._places: Places = {}
        self._is_blind = False

    def go_on(self, sought: Container[int], *, is_patient: bool = False) -> bool:
        """Do a piece of the present round, or of a new one.

        Args:
            sought: The inodes to look for.
            is_patient: Complete it, however long that takes.

        Returns:
            Whether the round is done with that.
        """
        started_ns = self._clock()
        if started_ns < self._next_ns and not is_patient:
            return False
        if self._at_work is None:
            self.begun += 1
            self._places, self._is_blind = {}, False
            self._at_work = self._round(sought)
        end_ns = started_ns + _PIECE_NS
        is_done = True
        for _ in self._at_work:
            if not is_patient and self._clock() >= end_ns:
                is_done = False
                break
        ended_ns = self._clock()
        self._next_ns = ended_ns + (_SHARE - 1) * (ended_ns - started_ns)
        if is_done:
            self._at_work = None
            self.done = self.begun
            self._found, self.is_blind = self._places, self._is_blind
        return is_done

    def places_of(self, inode: int) -> Sequence[tuple[int, int]]:
        """Where the last round that was completed met a socket: pids and numbers."""
        return self._found.get(inode, ())

    def _round(self, sought: Container[int]) -> Iterator[None]:
        own = os.getpid()
        for name in os.listdir("/proc"):
            if not name.isdecimal() or int(name) == own:
                continue
            try:
                yield from _walk(int(name), sought, self._places)
            except PermissionError:
                self._is_blind = True
            except OSError:
                # It has ended.
                pass
            yield

"""All control groups (version 2) of the host, by name and by number, followed as they come and go.

The kernel knows a group by a number, which is the inode of its folder and never given again.
Rules know it by its path, and systemd names the group of a unit after that. Processes are put into
a group after it was made, so whoever hears of it at once (inotify) is there before their first
packet, nearly always.

Groups that have gone and matter keep their numbers for a while: sockets that were made in them may
still have something to send.

Where as many folders are watched as the kernel allows, the whole tree is looked at again by
`look_again` instead, and `trouble` says so; and so it is where more happened than the kernel could
queue. However many there are, that takes a tenth of the time at most.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from openqwave.drivers.inotify import Ended, Inotify, Overflow

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from openqwave.drivers.inotify import Happened
    from openqwave.model.cgroups import GroupMount

# What a socket still sends of its own after its process has ended: the retransmissions of a FIN
# come at most so late that somebody still cares.
_REMEMBERED_NS: Final = 30_000_000_000
# Between two looks at the whole tree, that many times as long as the former took.
_REST_FACTOR: Final = 9


class GroupTree:
    """Every group below a mount, by path as ``/proc/PID/cgroup`` has it.

    Attributes:
        trouble: Why not all can be watched; empty where they are.
    """

    def __init__(
        self,
        mount: GroupMount,
        matters: Callable[[str], bool] = lambda _: True,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Look at all, and watch them.

        Args:
            mount: Where they are.
            matters: Is anybody to be told that the group at a path has come or gone?
            clock: Monotonic nanoseconds.

        Raises:
            OSError: There is no inotify to be had.
        """
        self._mount = mount
        self._matters = matters
        self._clock = clock
        self._rest_until_ns = 0
        self._inotify = Inotify()
        self._ids: dict[str, int] = {}
        self._named: defaultdict[str, set[str]] = defaultdict(set)
        # The paths right below each.
        self._below: defaultdict[str, set[str]] = defaultdict(set)
        self._has_lost = False
        self._watches: dict[int, str] = {}
        self._gone: dict[str, list[tuple[int, int]]] = {}
        self.trouble = ""
        self._enter(self._mount.root)

    def fileno(self) -> int:
        """Readable while groups have come or gone; -1 after `close`."""
        return self._inotify.fileno()

    def named(self, names: Iterable[str]) -> Mapping[str, Collection[str]]:
        """The paths of the groups of each name, also of those that have gone just now."""
        wanted = {name: set(self._named.get(name, ())) for name in names}
        for path in self._gone:
            name = path.rpartition("/")[2]
            if name in wanted:
                wanted[name].add(path)
        return wanted

    def ids_of(self, path: str) -> frozenset[int]:
        """The numbers of the group at a path, and of those that have gone there just now."""
        known = self._ids.get(path)
        past = [number for number, _ in self._gone.get(path, ())]
        return frozenset(past if known is None else [known, *past])

    def take(self) -> bool:
        """Hear what has come and gone; whether anything that matters has."""
        changed = False
        try:
            for event in self._inotify.take():
                if isinstance(event, Ended):
                    self._watches.pop(event.watch, None)
                else:
                    changed = self._hear(event) or changed
        except Overflow:
            self._has_lost = True
            changed = self._catch_up() or changed
        return changed

    def look_again(self) -> bool:
        """Once in a while: forget those that have gone long ago, and look where nobody tells.

        Returns:
            Whether anything has changed.
        """
        before_ns = self._clock() - _REMEMBERED_NS
        changed = False
        for path, past in list(self._gone.items()):
            left = [each for each in past if each[1] > before_ns]
            if len(left) != len(past):
                changed = True
                if left:
                    self._gone[path] = left
                else:
                    del self._gone[path]
        return self._catch_up() or changed

    def close(self) -> None:
        """Watch nothing any more; harmless when done before."""
        self._inotify.close()

    # -- inside -----------------------------------------------------------------------

    def _hear(self, event: Happened) -> bool:
        above = self._watches.get(event.watch)
        if above is None:
            return False
        path = f"{above.rstrip('/')}/{event.name}"
        return self._enter(path) if event.is_new else self._leave(path)

    def _catch_up(self) -> bool:
        """Look at all where not all is told, if it is time; whether anything has changed."""
        if not (self.trouble or self._has_lost) or self._clock() < self._rest_until_ns:
            return False
        known = self._ids
        self._look_at_all()
        return known != self._ids

    def _look_at_all(self) -> None:
        """Begin anew; watches that are there already are found again by the kernel."""
        began_ns, known = self._clock(), self._ids
        self._ids, self._watches, self.trouble = {}, {}, ""
        self._has_lost = False
        self._named.clear()
        self._below.clear()
        self._enter(self._mount.root)
        for path, number in known.items():
            if self._ids.get(path) != number:
                self._remember(path, number)
        ended_ns = self._clock()
        self._rest_until_ns = ended_ns + _REST_FACTOR * (ended_ns - began_ns)

    def _enter(self, top: str) -> bool:
        """Take a group in with all below it; whether one of them matters.

        Each is watched before its folder is read: what appears in between is met twice.
        """
        matters = False
        waiting = [top]
        while waiting:
            path = waiting.pop()
            folder = self._mount.folder_of(path)
            if folder is None:
                continue
            try:
                self._watch(path, folder)
                number = os.stat(folder).st_ino
                with os.scandir(folder) as entries:
                    below = [each.name for each in entries if each.is_dir(follow_symlinks=False)]
            except OSError:
                # It has gone again.
                continue
            known = self._ids.get(path)
            if known is not None and known != number:
                self._remember(path, known)
            self._ids[path] = number
            self._named[path.rpartition("/")[2]].add(path)
            self._below[path.rpartition("/")[0]].add(path)
            waiting += [f"{path.rstrip('/')}/{name}" for name in below]
            matters = matters or self._matters(path)
        return matters

    def _watch(self, path: str, folder: str) -> None:
        if self.trouble:
            return
        try:
            self._watches[self._inotify.watch(folder)] = path
        except FileNotFoundError:
            raise
        except OSError as error:
            self.trouble = error.strerror or str(error)

    def _leave(self, top: str) -> bool:
        matters = False
        waiting = [top]
        while waiting:
            path = waiting.pop()
            number = self._ids.pop(path, None)
            if number is None:
                continue
            waiting += self._below.pop(path, ())
            above, _, name = path.rpartition("/")
            _take_out(self._below, above, path)
            _take_out(self._named, name, path)
            self._remember(path, number)
            matters = matters or self._matters(path)
        return matters

    def _remember(self, path: str, number: int) -> None:
        # Any user may make and remove as many as he likes.
        if self._matters(path):
            self._gone.setdefault(path, []).append((number, self._clock()))


def _take_out(sets: dict[str, set[str]], name: str, path: str) -> None:
    """Take a path out of one of several sets, which goes when it is empty."""
    found = sets.get(name, set())
    found.discard(path)
    if not found:
        sets.pop(name, None)

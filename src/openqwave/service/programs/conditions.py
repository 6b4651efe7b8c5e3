"""What the names in rules come to on this host: users by number, programs by their files.

A file that is replaced, as by an update, is another one of the same name; processes that run the
former go on to, so both are meant. Files are looked at again once a second. Users are looked up
when rules come into force; of one that is not known the directory is asked again once a minute,
because it may be a server that takes its time.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from openqwave.drivers.programs import inode_of
from openqwave.enforcement.claims import Executable

if TYPE_CHECKING:
    from collections.abc import Iterable

_ASK_AGAIN_S: Final = 60.0
# Former files of a program: as many updates as one process outlives.
_MOST_FORMER: Final = 8


class HostNames:
    """Looks names up, and remembers what they came to."""

    def __init__(self, find: Callable[[str], tuple[int | None, str]] = inode_of) -> None:
        """Begin with nothing.

        Args:
            find: The number of a program's file, or why it has none.
        """
        self._find = find
        self._users: dict[str, frozenset[int]] = {}
        self._files: dict[str, list[int]] = {}
        self._missing: dict[str, str] = {}
        self._ask_at_s = 0.0

    def users(self, name: str) -> frozenset[int]:
        """The numbers of a user; empty if the host knows none of that name."""
        found = self._users.get(name)
        if found is None:
            found = self._users[name] = _look_up(name)
        return found

    def programs(self, name: str) -> frozenset[Executable]:
        """The executables that a path or a bare name means; empty where there is none."""
        if not name.startswith("/"):
            return frozenset({Executable(name)})
        if name not in self._files:
            self._files[name] = []
            self._look_at(name)
        last = os.path.basename(name)
        return frozenset(Executable(last, inode) for inode in self._files[name])

    def why_missing(self, name: str) -> str:
        """Why a path means no file now; empty where it does."""
        return self._missing.get(name, "")

    def remember(self, path: str, inode: int) -> bool:
        """A process runs a file that was at a path once; whether that is news."""
        known = self._files.setdefault(path, [])
        if inode in known:
            return False
        known.insert(0, inode)
        del known[:-_MOST_FORMER]
        return True

    def look_again(self, now_s: float) -> bool:
        """Look at files again, and for users that were not known; whether anything has changed.

        Args:
            now_s: Monotonic time.
        """
        changed = False
        for path in self._files:
            changed = self._look_at(path) or changed
        if now_s < self._ask_at_s:
            return changed
        self._ask_at_s = now_s + _ASK_AGAIN_S
        for name in [each for each, found in self._users.items() if not found]:
            self._users[name] = _look_up(name)
            changed = changed or bool(self._users[name])
        return changed

    def keep(self, users: Iterable[str], programs: Iterable[str]) -> None:
        """Forget all other names, and ask anew what these are.

        Args:
            users: By name or number.
            programs: By path.
        """
        self._users.clear()
        self._files = {path: self._files.get(path, []) for path in programs}
        self._missing.clear()
        for path in self._files:
            self._look_at(path)
        for name in users:
            self.users(name)

    def _look_at(self, path: str) -> bool:
        inode, why = self._find(path)
        known = self._files[path]
        was_missing = self._missing.pop(path, "")
        if inode is None:
            self._missing[path] = why
            return not was_missing
        if known and known[-1] == inode:
            return bool(was_missing)
        if inode in known:
            known.remove(inode)
        known.append(inode)
        del known[:-_MOST_FORMER]
        return True


def _look_up(name: str) -> frozenset[int]:
    found: set[int] = {int(name)} if name.isascii() and name.isdecimal() else set()
    with contextlib.suppress(KeyError):
        # A user's name may be of digits, too.
        found.add(pwd.getpwnam(name).pw_uid)
    return frozenset(found)

"""Being told of folders that appear and go (inotify(7)), by ctypes: Python has no call for it.

Only folders are asked for, and only those right below what is watched; whoever wants a whole tree
watches each. What the kernel could not queue it says so (`Overflow`), and then everything has to be
looked at again.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# linux/inotify.h.
_IN_CREATE: Final = 0x0000_0100
_IN_DELETE: Final = 0x0000_0200
_IN_Q_OVERFLOW: Final = 0x0000_4000
_IN_IGNORED: Final = 0x0000_8000
_IN_ONLYDIR: Final = 0x0100_0000
_IN_DONT_FOLLOW: Final = 0x0200_0000
_IN_ISDIR: Final = 0x4000_0000

# struct inotify_event without the name behind it.
_EVENT: Final = struct.Struct("=iIII")
# Some hundred events; what does not fit comes with the next read.
_READ_BYTES: Final = 16_384
# Reads in a row: who makes folders faster than they are looked at has no end.
_MOST_READS: Final = 4

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]


@dataclass(frozen=True, slots=True)
class Happened:
    """A folder appeared or went.

    Attributes:
        watch: Below which watched one, by its number.
        name: What it is called there.
        is_new: It appeared.
    """

    watch: int
    name: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """A watched folder is no more, and its number may be given again."""

    watch: int


class Overflow(Exception):
    """More happened than the kernel could queue."""


class Inotify:
    """One queue of the kernel's."""

    def __init__(self) -> None:
        """Ask for one.

        Raises:
            OSError: EMFILE where this user has as many as allowed (fs.inotify.max_user_instances).
        """
        self._fd: int = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            raise _last_error()

    def fileno(self) -> int:
        """Readable while something has happened that was not taken; -1 after `close`."""
        return self._fd

    def watch(self, folder: str) -> int:
        """Be told of folders that appear and go right below one; its number.

        Raises:
            OSError: There is no such folder, or ENOSPC where this user watches as many as allowed
                (fs.inotify.max_user_watches).
        """
        mask = _IN_CREATE | _IN_DELETE | _IN_ONLYDIR | _IN_DONT_FOLLOW
        number: int = _libc.inotify_add_watch(self._fd, os.fsencode(folder), mask)
        if number < 0:
            raise _last_error()
        return number

    def take(self) -> Iterator[Happened | Ended]:
        """What has happened, in order; all of it, or some two thousand, and the next call has more.

        Raises:
            Overflow: And more, of which nothing is known.
        """
        has_overflowed = False
        with contextlib.suppress(BlockingIOError):
            for _ in range(_MOST_READS):
                data = os.read(self._fd, _READ_BYTES)
                at = 0
                while at < len(data):
                    watch, mask, _, length = _EVENT.unpack_from(data, at)
                    name = data[at + _EVENT.size : at + _EVENT.size + length]
                    at += _EVENT.size + length
                    if mask & _IN_Q_OVERFLOW:
                        has_overflowed = True
                    elif mask & _IN_IGNORED:
                        yield Ended(watch)
                    elif mask & _IN_ISDIR:
                        text = os.fsdecode(name.rstrip(b"\0"))
                        yield Happened(watch, text, bool(mask & _IN_CREATE))
        if has_overflowed:
            raise Overflow

    def close(self) -> None:
        """Watch nothing any more; harmless when done before."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _last_error() -> OSError:
    code = ctypes.get_errno()
    if code == errno.ENOSPC:
        # What the kernel means, which its usual text does not say.
        return OSError(code, "too many folders are watched; raise fs.inotify.max_user_watches")
    return OSError(code, os.strerror(code))

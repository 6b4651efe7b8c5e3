"""Waiting for many descriptors at once, to the microsecond, with any number of them.

`select.epoll` and `select.poll` round time-outs up to a millisecond, which is a whole period of
the small probes; `select.select` is exact and refuses descriptors above 1023, which a media
server has. So the epoll descriptor itself is waited for with ppoll(2), whose time-out is in
nanoseconds; the wait is as exact as the thread's timer slack.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import struct
from collections.abc import Callable, Iterator
from typing import TypeAlias

Handler: TypeAlias = "Callable[[int], None]"

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT

# struct pollfd, struct timespec.
_POLL = struct.Struct("@ihh")
_TIME = struct.Struct("@ll")
_NS_PER_S = 1_000_000_000

# Lets go of the interpreter's lock while it waits.
_ppoll = ctypes.CDLL(None, use_errno=True).ppoll
_ppoll.argtypes = (ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p)


class Readiness:
    """The descriptors of one thread, whose they are, and what to call when they are ready."""

    def __init__(self) -> None:
        self._handlers: dict[int, tuple[object, Handler]] = {}
        self._epoll = select.epoll()
        self._waited_for = ctypes.create_string_buffer(
            _POLL.pack(self._epoll.fileno(), select.POLLIN, 0), _POLL.size
        )
        self._time = ctypes.create_string_buffer(_TIME.size)

    def add(self, fd: int, owner: object, handler: Handler, events: int = READABLE) -> None:
        """Wait for a descriptor.

        Args:
            fd: The descriptor; it is removed before it is closed.
            owner: Whose it is.
            handler: To be called with what it is ready for.
            events: `READABLE`, `WRITABLE` or both; errors always count.
        """
        self._epoll.register(fd, events)
        self._handlers[fd] = owner, handler

    def change(self, fd: int, events: int) -> None:
        """Wait for other events of a descriptor."""
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Forget a descriptor, before it is closed; harmless when done before."""
        if self._handlers.pop(fd, None) is not None and not self._epoll.closed:
            self._epoll.unregister(fd)

    def wait(self, timeout_ns: int | None) -> None:
        """Wait until something is ready.

        Args:
            timeout_ns: How long at most; 0 does not wait, None waits for ever.
        """
        if timeout_ns == 0:
            return
        where = None
        if timeout_ns is not None:
            _TIME.pack_into(self._time, 0, *divmod(timeout_ns, _NS_PER_S))
            where = self._time
        if _ppoll(self._waited_for, 1, where, None) < 0:
            code = ctypes.get_errno()
            if code != errno.EINTR:
                raise OSError(code, os.strerror(code))

    def ready(self) -> Iterator[tuple[object, Handler, int]]:
        """Owner, handler, and what to call it with, of each descriptor that is ready now."""
        found = [(fd, events, self._handlers[fd]) for fd, events in self._epoll.poll(0)]
        for fd, events, entry in found:
            # One of those before may have closed it, and another may have its number.
            if self._handlers.get(fd) is entry:
                yield *entry, events

    def close(self) -> None:
        """Close what is waited with, not what is waited for; harmless when done before."""
        self._epoll.close()


class Wake:
    """Ends the wait of another thread."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def send(self) -> None:
        """End it, now or the next one."""
        os.eventfd_write(self.fd, 1)

    def take(self) -> None:
        """Take note, so that it ends one wait only."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self.fd)

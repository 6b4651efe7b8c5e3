"""Closing what strangers handed over, which can take as long as they like.

close(2) is not always quick. A file system in user space (FUSE) is told of every close and is
waited for; the last descriptor of a TCP socket waits for its unsent data where SO_LINGER asks for
it; other kinds of sockets have waits of their own. A service that closes such a descriptor in its
loop stands still for everybody.

So only what cannot wait is closed on the spot: UDP, and TCP that does not linger. The rest goes to
a few threads that have nothing else to do. Who turns lingering on in the microsecond between the
question and the close still gets the service to wait; a watchdog ends that.

The threads are daemons: the end of the process ends them, whatever they wait for.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from queue import Empty, SimpleQueue

# Each descriptor whose close never ends takes one thread for good.
_MOST_THREADS = 8
# More than this in the queue is many, and where not one was closed for so long, the threads are
# stuck: an honest close takes microseconds, however many somebody passes.
_MOST_WAITING = 64
_STUCK_S = 0.1
# A thread that had nothing to close for so long ends.
_IDLE_S = 5.0

_INET = frozenset({int(socket.AF_INET), int(socket.AF_INET6)})

# struct linger: two ints, the first tells whether it is on.
_LINGER_BYTES = 8
_ON_BYTES = 4


class Closer:
    """Threads that close descriptors; started when they are needed."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[int] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._open_count = 0
        self._closed_s = float("-inf")

    @property
    def open_count(self) -> int:
        """How many descriptors were handed over and are not closed yet."""
        return self._open_count

    @property
    def is_jammed(self) -> bool:
        """Do descriptors pile up, because some cannot be closed?"""
        return self._open_count > _MOST_WAITING and time.monotonic() - self._closed_s > _STUCK_S

    def close(self, number: int) -> bool:
        """Have a descriptor closed soon.

        Args:
            number: An open file number of this process.

        Returns:
            False if they pile up; it is closed all the same, once that is possible.
        """
        with self._lock:
            self._open_count += 1
            self._waiting.put(number)
            # In a forked child they do not run.
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            if len(self._threads) < min(self._open_count, _MOST_THREADS):
                thread = threading.Thread(target=self._work, name="closer", daemon=True)
                # Where no thread is to be had, another one, or the next call, sees to it.
                with contextlib.suppress(RuntimeError):
                    thread.start()
                    self._threads.append(thread)
        return not self.is_jammed

    def _work(self) -> None:
        while True:
            try:
                number = self._waiting.get(timeout=_IDLE_S)
            except Empty:
                with self._lock:
                    if not self._waiting.empty():
                        continue
                    self._threads.remove(threading.current_thread())
                    return
            # A close that fails has closed it all the same (close(2)).
            with contextlib.suppress(OSError):
                os.close(number)
            with self._lock:
                self._open_count -= 1
                self._closed_s = time.monotonic()


_closer = Closer()


def close_safely(number: int) -> bool:
    """Have a descriptor closed that may be of anything, without waiting for it.

    Args:
        number: An open file number of this process.

    Returns:
        False if such descriptors pile up: somebody means harm.
    """
    return _closer.close(number)


def open_count() -> int:
    """How many descriptors were handed over and are not closed yet."""
    return _closer.open_count


def is_jammed() -> bool:
    """Do descriptors pile up that cannot be closed?"""
    return _closer.is_jammed


def close_socket(sock: socket.socket) -> None:
    """Close a stranger's socket: here if that cannot wait, otherwise as `close_safely`."""
    number = sock.fileno()
    if number < 0:
        return
    if _is_closed_at_once(sock):
        # Not the method, which a subclass may have sent here.
        socket.socket.close(sock)
    else:
        close_safely(sock.detach())


def _is_closed_at_once(sock: socket.socket) -> bool:
    protocol = sock.proto
    if protocol not in (socket.IPPROTO_UDP, socket.IPPROTO_TCP) or sock.family not in _INET:
        return False
    if protocol == socket.IPPROTO_UDP:
        return True
    linger = sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_BYTES)
    return not any(linger[:_ON_BYTES])

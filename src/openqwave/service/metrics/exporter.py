"""The thread that serves collectors, and looks once a second at what is summed up over time.

It shares nothing with the loop that serves programs but the runtime's lock, for a page at a time,
and the interpreter, of which it lets go after each page. Numbers are read at most once a second:
whoever asks in between gets those that were read.

Collectors cost `CONNECTIONS` descriptors at most and some kilobytes each. One that is slow to ask
or to read is closed after `PATIENCE_S`, and earlier where others wait: an honest one is done in
milliseconds, so the oldest makes room.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import threading
import time
from typing import TYPE_CHECKING, Final

from openqwave.drivers.readiness import Wake
from openqwave.service.metrics.collecting import Collecting
from openqwave.service.metrics.exposition import text_of, whole
from openqwave.service.metrics.places import Listener
from openqwave.service.metrics.web import Answer, Connection, answer_to

if TYPE_CHECKING:
    from openqwave.service.metrics.collecting import Sources
    from openqwave.service.metrics.exposition import Reading
    from openqwave.service.metrics.places import Wanted

_log = logging.getLogger("openqwave.service")

CONNECTIONS: Final = 32
PATIENCE_S: Final = 5.0
# From when on the oldest makes room for others: a hundred times what an honest one takes.
_ROOM_S: Final = 1.0
# Numbers are as fresh as this.
FRESH_S: Final = 1.0
_LOOK_S: Final = 1.0
# Long enough for the loop that serves programs to have its turn (the interpreter's lock is not
# handed over to who waits, but to who comes first).
_PAUSE_S: Final = 0.0001
# When descriptors ran out, accepting rests.
_REST_S: Final = 0.5
# A page is the longest that it goes on with when it is told to end.
_END_S: Final = 10.0


class _Ended(Exception):
    """Nobody wants to know any more."""


class Exporter:
    """Serves collectors, from its making to its end."""

    def __init__(self, wanted: Wanted, sources: Sources) -> None:
        """Begin to serve.

        Args:
            wanted: Where, and how much.
            sources: Where numbers are from.

        Raises:
            OSError: It cannot listen there.
            RuntimeError: There is no thread to be had.
        """
        self._names_matter = not wanted.place.path and wanted.place.is_of_this_host
        self._collecting = Collecting(sources, wanted.paths, self._pause)
        self._readings: list[Reading] = []
        self._texts: dict[str, bytes] = {}
        self._read_s = float("-inf")
        self._has_failed = False
        self._is_ending = False
        self._connections: dict[int, Connection] = {}
        self._accepts_from_s = 0.0
        with contextlib.ExitStack() as undo:
            self._listener = undo.enter_context(contextlib.closing(Listener(wanted.place)))
            self._wake = undo.enter_context(contextlib.closing(Wake()))
            self._selector = undo.enter_context(selectors.DefaultSelector())
            self._selector.register(self._wake.fd, selectors.EVENT_READ)
            self._is_listening = False
            self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
            self._thread.start()
            undo.pop_all()

    def close(self) -> None:
        """Serve no more; harmless if done already."""
        if self._is_ending:
            return
        self._is_ending = True
        self._wake.send()
        self._thread.join(_END_S)
        if self._thread.is_alive():
            # It waits for the kernel, and is left to it.
            _log.error("the thread that serves metrics does not end")
            return
        self._listener.close()
        self._selector.close()
        self._wake.close()

    @property
    def is_running(self) -> bool:
        """Does it serve? Only a mistake in it ends that."""
        return self._thread.is_alive()

    # -- the thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._serve()
        except _Ended:
            pass
        except Exception:  # noqa: BLE001 - logged with its traceback
            _log.exception("metrics are served no more")
        finally:
            # Whoever comes now is to be refused, and not to wait.
            self._listener.close()
            for connection in self._connections.values():
                connection.sock.close()

    def _serve(self) -> None:
        look_s = time.monotonic()
        while not self._is_ending:
            now_s = time.monotonic()
            if now_s >= look_s:
                look_s = now_s + _LOOK_S
                with contextlib.suppress(OSError):
                    self._collecting.look()
                self._end_slow(now_s)
            self._see_to_listening(now_s)
            for key, mask in self._selector.select(max(0.0, min(look_s - now_s, _REST_S))):
                connection = self._connections.get(key.fd)
                if connection is not None:
                    self._go_on(connection, mask)
                elif key.fd == self._listener.sock.fileno():
                    self._accept()

    def _pause(self) -> None:
        if self._is_ending:
            raise _Ended
        time.sleep(_PAUSE_S)

    # -- connections --------------------------------------------------------------------

    def _see_to_listening(self, now_s: float) -> None:
        """Listen while there is room, or somebody who can make some."""
        wanted = now_s >= self._accepts_from_s and (
            len(self._connections) < CONNECTIONS
            or now_s - min(each.since_s for each in self._connections.values()) >= _ROOM_S
        )
        if wanted == self._is_listening:
            return
        self._is_listening = wanted
        if wanted:
            self._selector.register(self._listener.sock, selectors.EVENT_READ)
        else:
            self._selector.unregister(self._listener.sock)

    def _accept(self) -> None:
        now_s = time.monotonic()
        if len(self._connections) >= CONNECTIONS:
            oldest = min(self._connections.values(), key=lambda each: each.since_s)
            if now_s - oldest.since_s < _ROOM_S:
                return
            self._end(oldest)
        try:
            sock, _ = self._listener.sock.accept()
        except BlockingIOError:
            return
        except OSError:
            self._accepts_from_s = now_s + _REST_S
            return
        sock.setblocking(False)
        self._connections[sock.fileno()] = Connection(sock, now_s)
        self._selector.register(sock, selectors.EVENT_READ)

    def _go_on(self, connection: Connection, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            connection.write()
        if mask & selectors.EVENT_READ:
            found = connection.read()
            if isinstance(found, bytes):
                found = self._answer_to(found)
            if found is not None:
                connection.answer(found, time.monotonic())
        if connection.is_over:
            self._end(connection)
            return
        events = selectors.EVENT_READ
        if connection.wants_to_write:
            events |= selectors.EVENT_WRITE
        self._selector.modify(connection.sock, events)

    def _end_slow(self, now_s: float) -> None:
        for connection in list(self._connections.values()):
            if now_s - connection.since_s >= PATIENCE_S:
                self._end(connection)

    def _end(self, connection: Connection) -> None:
        del self._connections[connection.sock.fileno()]
        self._selector.unregister(connection.sock)
        connection.sock.close()

    def _answer_to(self, head: bytes) -> Answer:
        try:
            return answer_to(head, self._numbers, names_matter=self._names_matter)
        except _Ended:
            raise
        except Exception:  # noqa: BLE001 - logged with its traceback
            if not self._has_failed:
                self._has_failed = True
                _log.exception("metrics cannot be collected")
            return Answer(500, b"the numbers cannot be collected; the service's log says why\n")

    # -- numbers ------------------------------------------------------------------------

    def _numbers(self, content_type: str) -> bytes:
        if time.monotonic() - self._read_s >= FRESH_S:
            self._texts.clear()
            self._readings = list(self._collecting.read())
            self._read_s = time.monotonic()
        text = self._texts.get(content_type)
        if text is None:
            parts = []
            for reading in self._readings:
                parts.append(text_of(reading, content_type))
                self._pause()
            text = self._texts[content_type] = whole(parts, content_type)
        return text

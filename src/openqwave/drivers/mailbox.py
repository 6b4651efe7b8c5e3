"""Where the events of an experiment wait for whoever wants them, in another thread.

Nobody has to read. What is kept is bounded; once it is full, new events are counted and dropped,
so a reader that comes late finds the beginning, and the end.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openqwave.model.errors import GeneralFailure, OperationAborted, QosError, TimedOut

if TYPE_CHECKING:
    from openqwave.probing.session import Event

# Half a minute of the fastest small probes (2,000 a second): a reader that is stopped in a
# terminal for a moment misses nothing.
_KEPT_EVENTS = 65_536


@dataclass(frozen=True, slots=True)
class _End:
    """The last thing in a mailbox: in order, or by an error."""

    error: BaseException | None


class Mailbox:
    """Events of one experiment.

    Attributes:
        lost_events: How many were dropped because nobody read.
    """

    def __init__(self) -> None:
        self.lost_events = 0
        self._pid = os.getpid()
        self._queue: queue.SimpleQueue[Event | _End] = queue.SimpleQueue()
        self._is_closed = False

    def put(self, event: Event) -> None:
        """Add an event; called by one thread, as is `close`."""
        if self._queue.qsize() < _KEPT_EVENTS:
            self._queue.put(event)
        else:
            self.lost_events += 1

    def close(self, error: BaseException | None = None) -> None:
        """There will be no more; with an error, readers get it after the events."""
        if not self._is_closed:
            self._is_closed = True
            self._queue.put(_End(error))

    @property
    def is_closed(self) -> bool:
        """Has the last event been put?"""
        return self._is_closed

    def take(self, timeout_s: float | None = None) -> Event | None:
        """Take the oldest event, waiting for one if need be.

        Args:
            timeout_s: How long to wait; None for as long as it takes.

        Returns:
            The event; None when there will be no more.

        Raises:
            TimedOut: None came in time.
            OperationAborted: The process was forked, and the experiment runs in its parent.
            QosError: The experiment failed.
        """
        if self._pid != os.getpid():
            raise OperationAborted("the experiment runs in the process that began it")
        try:
            item = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            raise TimedOut(f"nothing happened in {timeout_s} s") from None
        if not isinstance(item, _End):
            return item
        # For the next one who asks.
        self._queue.put(item)
        if item.error is None:
            return None
        if isinstance(item.error, QosError):
            raise item.error
        raise GeneralFailure(f"the experiment broke: {item.error!r}") from item.error

    def __iter__(self) -> Iterator[Event]:
        """Every event until the last; errors as with `take`."""
        while (event := self.take()) is not None:
            yield event

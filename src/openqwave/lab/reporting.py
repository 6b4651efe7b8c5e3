"""What an agent's generator needs of its process: a way to be stopped, and a way to be heard."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from typing import Self


class Stop:
    """A request to end, which may come from a signal's handler or another thread.

    Attributes:
        requested: Whether it has come.
        fd: Becomes readable when it comes, for a generator's own select.
    """

    def __init__(self) -> None:
        self.requested = False
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def request(self, *_: object) -> None:
        """Ask for the end; takes and ignores what a signal's handler is given."""
        self.requested = True
        os.eventfd_write(self.fd, 1)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the request; tell whether it has come."""
        return bool(select.select([self.fd], [], [], timeout_s)[0])

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Reporter:
    """Writes reports to standard output, one JSON object a line.

    Each has "event" and "time_ns" (CLOCK_REALTIME). Events are "ready", "progress", "final" and
    "error", and of a sender's timeline "marked", "flow", "left" and "phase".
    """

    def report(self, event: str, **fields: object) -> None:
        """Write one report, at once."""
        line = json.dumps({"event": event, "time_ns": time.time_ns()} | fields)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

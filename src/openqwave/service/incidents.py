"""What went wrong with clients: counted every time, logged once.

A client that misbehaves does so thousands of times a second, and a log that repeats it is its
second victim. Each kind of incident is logged with the first user that caused it, and again when
`_QUIET_NS` have passed since; every single one is counted.
"""

from __future__ import annotations

import logging
from collections import Counter

_log = logging.getLogger("openqwave.service")

# An hour: often enough to see that something goes on, seldom enough to read around it.
_QUIET_NS = 3_600_000_000_000
# Kinds are few, users are not; when more are remembered the oldest is forgotten.
_REMEMBERED = 1_024


class Incidents:
    """Counts by kind.

    Attributes:
        counts: How often each kind has happened.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._logged_ns: dict[tuple[str, int], int] = {}

    def note(self, kind: str, uid: int, detail: str, *, now_ns: int) -> None:
        """One incident.

        Args:
            kind: A word for it; the name of its counter.
            uid: Whose process caused it.
            detail: What happened, for the log.
            now_ns: Monotonic time.
        """
        self.counts[kind] += 1
        logged_ns = self._logged_ns.pop((kind, uid), None)
        if logged_ns is not None and now_ns - logged_ns < _QUIET_NS:
            self._logged_ns[kind, uid] = logged_ns
            return
        self._logged_ns[kind, uid] = now_ns
        if len(self._logged_ns) > _REMEMBERED:
            del self._logged_ns[next(iter(self._logged_ns))]
        _log.warning(
            "%s: uid %d: %s (%d so far; further ones are counted only)",
            kind,
            uid,
            # What a client says may hold anything; the log is one line each.
            detail.encode("unicode_escape").decode("ascii")[:200],
            self.counts[kind],
        )

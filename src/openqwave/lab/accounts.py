"""A sink's books on one phase of a stream: what came, what did not, how late, and how marked.

A packet is *lost* as long as a higher sequence number has come and it has not; a straggler that
comes after all stops being lost and counts as *reordered* (RFC 4737's type P-reordered); one that
came before is a *duplicate*. Losses at the very end of a stream cannot be seen here; compare with
the sender's count.

Memory is bounded: of the missing, the newest `REMEMBERED_LOSSES` are known by number. One that
comes later still counts as a duplicate.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

# More than any queue or reordering network holds back: 40 s of a link of 20 Mbit/s.
REMEMBERED_LOSSES = 65_536
# 8 MiB of delays a stream; beyond, packets are counted and no longer kept for the quantiles.
KEPT_DELAYS = 1_048_576


class StreamAccount:
    """Counts of one stream.

    Attributes:
        received: Distinct packets.
        duplicates: Packets that had come before.
        reordered: Packets that came after one with a higher number.
        ip_bytes: Bytes of IP packets, duplicates included.
        dscps: Packets by code point, likewise.
    """

    def __init__(self) -> None:
        self.received = 0
        self.duplicates = 0
        self.reordered = 0
        self.ip_bytes = 0
        self._next = 0
        self._missing: dict[int, None] = {}  # A set that remembers the order.
        self._forgotten = 0
        self.dscps: Counter[int] = Counter()
        self._ecn: Counter[int] = Counter()
        self._delays_ns = array("q")
        self._arrivals_ns = array("q")
        self._recent_delays_ns: list[int] = []

    @property
    def lost(self) -> int:
        """Packets missing before the highest number that came."""
        return len(self._missing) + self._forgotten

    def add(
        self, sequence: int, sent_ns: int, arrived_ns: int, traffic_class: int, ip_bytes: int
    ) -> None:
        """Enter one packet."""
        self.ip_bytes += ip_bytes
        self.dscps[traffic_class >> 2] += 1
        self._ecn[traffic_class & 3] += 1
        if sequence >= self._next:
            self._note_gap(sequence)
            self._next = sequence + 1
        elif sequence in self._missing:
            del self._missing[sequence]
            self.reordered += 1
        else:
            self.duplicates += 1
            return
        self.received += 1
        delay_ns = arrived_ns - sent_ns
        self._recent_delays_ns.append(delay_ns)
        if len(self._delays_ns) < KEPT_DELAYS:
            self._delays_ns.append(delay_ns)
            self._arrivals_ns.append(arrived_ns)

    def _note_gap(self, sequence: int) -> None:
        first = max(self._next, sequence - REMEMBERED_LOSSES)
        self._forgotten += first - self._next
        self._missing.update(dict.fromkeys(range(first, sequence)))
        while len(self._missing) > REMEMBERED_LOSSES:
            del self._missing[next(iter(self._missing))]
            self._forgotten += 1

    def _counts(self) -> dict[str, Any]:
        return {
            "received": self.received,
            "lost": self.lost,
            "duplicates": self.duplicates,
            "reordered": self.reordered,
            "ip_bytes": self.ip_bytes,
        }

    def progress(self) -> dict[str, Any]:
        """Return the counts so far and the delays since the last call."""
        recent, self._recent_delays_ns = self._recent_delays_ns, []
        return self._counts() | {"delay_ns": quantiles(recent)}

    def final(self, samples: int) -> dict[str, Any]:
        """Return everything, with evenly spread samples (time of arrival, delay)."""
        step = max(1, -(-len(self._delays_ns) // max(1, samples)))
        return self._counts() | {
            "dscp": {str(dscp): count for dscp, count in sorted(self.dscps.items())},
            "ecn": {str(ecn): count for ecn, count in sorted(self._ecn.items())},
            "delay_ns": quantiles(self._delays_ns),
            "samples": list(zip(self._arrivals_ns[::step], self._delays_ns[::step], strict=True)),
        }


def quantiles(values: Sequence[int]) -> dict[str, int]:
    """Return least, median, 95 %, 99 % and greatest of some values; empty for none."""
    if not values:
        return {}
    ordered = sorted(values)
    last = len(ordered) - 1
    return {
        "min": ordered[0],
        "p50": ordered[last // 2],
        "p95": ordered[last * 95 // 100],
        "p99": ordered[last * 99 // 100],
        "max": ordered[-1],
    }

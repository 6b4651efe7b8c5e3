"""What TCP sockets send, for whoever looks: their bytes counted twice, and the difference.

Whoever lists flows looks at their sockets. From then on a thread asks the kernel what it has
counted for them (sock_diag, as `ss -i` does), soon again and then once a second, until nobody has
looked for a while; then it ends. So a list costs no question to the kernel, the first one knows no
rates, and one that follows a moment later does. The addresses that sockets have on this side are
learnt by the way, also those of UDP.

**What a rate is.** Payload that TCP handed to the network in the last second or so, repetitions
included. UDP counts nothing that can be read without rights. A socket in another network namespace
than the service's is not found. The same is done for flows of which a program in the kernel counts
the IP packets (`flowcounts`); then ids of flows stand for cookies.

**Cost.** A socket that was found costs some microseconds each time; one that is new, or not there,
has all sockets of the host listed, which is done once a second at most. With many sockets counting
takes long, and the pause after it is several times that. At most `MOST_SOCKETS` are counted, those
that were looked at last.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from openqwave.drivers.sockdiag import SocketDiagnosis
from openqwave.subsystem.usage import Meter

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from openqwave.model.endpoint import Endpoint
    from openqwave.model.estimates import FlowCounters

_NS_PER_S = 1_000_000_000

# Forty milliseconds of counting, at most, in which other threads have their turns.
MOST_SOCKETS = 4_096
# The second count comes soon, because somebody waits for it; the rate is one of a quarter second.
FIRST_PAUSE_S, PAUSE_S = 0.25, 1.0
# Counting takes a tenth of the time at most.
_COUNT_PART = 10
# Who watches looks each second, or each few.
LINGER_NS = 10 * _NS_PER_S


class Counters(Protocol):
    """Reads what the kernel counted; see `openqwave.drivers.sockdiag`."""

    def counters(self, cookies: Collection[int]) -> Mapping[int, FlowCounters]:
        """For each socket that was found its counters."""

    def local_of(self, cookie: int) -> Endpoint | None:
        """The address on this side of a socket that was found."""

    def close(self) -> None:
        """Let go of the kernel."""


@dataclass(slots=True)
class _Watched:
    """One socket that somebody has looked at."""

    looked_ns: int
    meter: Meter | None = None
    local: Endpoint | None = None


class SendingRates:
    """Counts for those who look; see the module's text. For any thread."""

    def __init__(
        self, kernel: Counters | None = None, read_clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Start without a thread.

        Args:
            kernel: Reads counters; the kernel's own when None.
            read_clock: Tells monotonic time, nanoseconds.
        """
        self._kernel = kernel or SocketDiagnosis()
        self._read_clock = read_clock
        self._lock = threading.Lock()
        # The last one was looked at last.
        self._watched: dict[int, _Watched] = {}
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closed = threading.Event()

    def look(self, cookies: Iterable[int]) -> None:
        """Somebody looks at sockets: count them for a while."""
        now_ns = self._read_clock()
        with self._lock:
            watched = self._watched
            has_new = False
            for cookie in cookies:
                known = watched.pop(cookie, None)
                if known is None:
                    has_new = True
                    known = _Watched(now_ns)
                known.looked_ns = now_ns
                watched[cookie] = known
            while len(watched) > MOST_SOCKETS:
                del watched[next(iter(watched))]
            if has_new:
                self._wake.set()
            if watched and self._thread is None and not self._closed.is_set():
                self._begin()

    def _begin(self) -> None:
        thread = threading.Thread(target=self._run, name="openqwave-rates", daemon=True)
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:
            # There is no thread to be had: nothing is known then.
            self._thread = None

    def rate_bps(self, cookies: Iterable[int]) -> int | None:
        """What some sockets send together, now; None where it is not known of each."""
        now_ns = self._read_clock()
        total_bps = 0
        with self._lock:
            for cookie in cookies:
                watched = self._watched.get(cookie)
                meter = None if watched is None else watched.meter
                one_bps = None if meter is None else meter.now_bps(now_ns)
                if one_bps is None:
                    return None
                total_bps += one_bps
        return total_bps

    def local_of(self, cookie: int) -> Endpoint | None:
        """The address on this side of a socket; None where it is not known."""
        watched = self._watched.get(cookie)
        return None if watched is None else watched.local

    @property
    def is_counting(self) -> bool:
        """Is there a thread?"""
        return self._thread is not None

    def close(self) -> None:
        """Count no more; harmless when done before."""
        with self._lock:
            self._closed.set()
            self._watched.clear()
            thread = self._thread
            self._wake.set()
        if thread is not None:
            thread.join()
        self._kernel.close()

    # -- the thread -------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (cookies := self._wanted()) is not None:
                began_s = time.monotonic()
                self.count(cookies)
                least_s = _COUNT_PART * (time.monotonic() - began_s)
                self._closed.wait(least_s)
                self._wake.wait(max(0.0, self._pause_s() - least_s))
        finally:
            with self._lock:
                if self._thread is threading.current_thread():
                    self._thread = None

    def _wanted(self) -> Collection[int] | None:
        """What is to be counted; None where the thread is to end, and has done so."""
        with self._lock:
            self._wake.clear()
            since_ns = self._read_clock() - LINGER_NS
            self._watched = {
                cookie: one for cookie, one in self._watched.items() if one.looked_ns >= since_ns
            }
            if self._watched and not self._closed.is_set():
                return frozenset(self._watched)
            self._kernel.close()
            self._thread = None
            return None

    def _pause_s(self) -> float:
        with self._lock:
            meters = [one.meter for one in self._watched.values() if one.meter is not None]
        return PAUSE_S if all(meter.is_known for meter in meters) else FIRST_PAUSE_S

    def count(self, cookies: Collection[int]) -> None:
        """Count once."""
        found = self._kernel.counters(cookies)
        now_ns = self._read_clock()
        locals_ = {cookie: self._kernel.local_of(cookie) for cookie in found}
        with self._lock:
            for cookie in cookies:
                watched = self._watched.get(cookie)
                if watched is None:
                    continue
                counted = found.get(cookie)
                watched.local = locals_.get(cookie)
                sent_bytes = None if counted is None else counted.sent_bytes
                if sent_bytes is None:
                    watched.meter = None
                elif watched.meter is None:
                    watched.meter = Meter(sent_bytes, now_ns)
                else:
                    watched.meter.read(sent_bytes, now_ns)

"""What is known of paths, kept from one run of the service to the next.

All of it is in memory; a thread of its own writes what is new to a file every few seconds, and at
the end. So nobody who asks or tells waits for a disk, and a disk that is full, or may not be
written, costs the next run its memory and this one nothing. It is said once, and tried again.

**Ages.** A number is worth something for as long as policy says (half a minute), and for people to
look at for longer. Its age is exact within one run of the machine: by CLOCK_BOOTTIME, which goes on
while the machine sleeps. Across runs of the machine only the clock on the wall is left, which
anybody may have set; a number from then is shown, and grants nothing.

**What is kept** of a path that is congested is not what was free before it was.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from openqwave.model.endpoint import Endpoint, address_text
from openqwave.model.estimates import Fundamentals, PathView
from openqwave.model.value import value
from openqwave.service.estimatefile import MOST, EstimateFile, NotOurs, Row, Way

if TYPE_CHECKING:
    from openqwave.model.path import PathFacts

_log = logging.getLogger("openqwave.service")

_NS_PER_S = 1_000_000_000
# Paths that are remembered: a row takes half a kilobyte, and no host talks to more of its link.
MOST_ROWS: Final = 10_000
# What is older tells nobody anything.
LONGEST_NS: Final = 30 * 24 * 3_600 * _NS_PER_S
# A path that is measured tells something every second; what of it a crash may lose is written this
# often. More often, and a disk would never sleep.
WRITE_S: Final = 5.0
# After the file could not be written.
RETRY_S: Final = 60.0
# How long the end of the service waits for a disk.
_END_S = 5.0

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@value
class Moment:
    """One moment by three clocks, nanoseconds.

    Attributes:
        monotonic_ns: CLOCK_MONOTONIC, which the engine goes by.
        boottime_ns: CLOCK_BOOTTIME.
        wall_ns: CLOCK_REALTIME.
    """

    monotonic_ns: int
    boottime_ns: int
    wall_ns: int


class Clocks(Protocol):
    """What tells the time."""

    def boot_id(self) -> str:
        """The name of this run of the machine; empty if it is not known."""

    def now(self) -> Moment:
        """This moment."""


class SystemClocks:
    """The kernel's."""

    def boot_id(self) -> str:
        """See `Clocks.boot_id`."""
        try:
            return _BOOT_ID.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return ""

    def now(self) -> Moment:
        """See `Clocks.now`."""
        boottime_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return Moment(time.monotonic_ns(), boottime_ns, time.time_ns())


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is remembered of one path, to be shown.

    Attributes:
        host: The far end; port 0, without a scope.
        interface_name: The outgoing interface.
        source: The local address, packed; empty if unknown.
        gateway: The next router's address, packed; empty where the host is on the link.
        link_type: What the interface is, in a word.
        fundamentals: The estimates.
        available_low_bps: The available bandwidth was claimed to be at least this.
        confidence: How often such claims are right, 0 to 1.
        age_ns: How old that is; by the clock on the wall where it is of an earlier run of the
            machine.
        is_of_this_boot: It is of this run.
    """

    host: Endpoint
    interface_name: str
    source: bytes
    gateway: bytes
    link_type: str
    fundamentals: Fundamentals
    available_low_bps: int | None
    confidence: float
    age_ns: int
    is_of_this_boot: bool


class EstimateStore:
    """Remembers paths; see the module's text. For any thread."""

    def __init__(self, path: Path, *, clocks: Clocks | None = None) -> None:
        """Read what is there; whatever is wrong with it is logged, and no error.

        Args:
            path: The file.
            clocks: Tells the time; the kernel's clocks when None.
        """
        self.path = path
        self._clocks = clocks or SystemClocks()
        self._boot_id = self._clocks.boot_id()
        self._file = EstimateFile(path)
        # The one that was kept the longest ago comes first.
        self._rows: dict[Way, Row] = {}
        # What the file does not have as it is here.
        self._unwritten: dict[Way, None] = {}
        self._trouble = ""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_ending = False
        self._load()

    @property
    def state(self) -> str:
        """How it goes, as words for people."""
        return f"not written: {self._trouble}" if self._trouble else "in use"

    # -- for who measures -------------------------------------------------------------

    def recall(self, facts: PathFacts) -> PathView | None:
        """What was known of a path; see `runtime.pathmemory.PathMemory`."""
        with self._changed:
            row = self._rows.get(_way_of(facts))
        if row is None or not self._is_of_this_boot(row):
            return None
        now = self._clocks.now()
        age_ns = now.boottime_ns - row.boottime_ns
        if age_ns < 0:
            return None
        return PathView(
            _fundamentals(row),
            available_low_bps=row.available_low_bps,
            confidence=row.confidence,
            since_ns=now.monotonic_ns - age_ns,
        )

    def keep(self, facts: PathFacts, view: PathView) -> None:
        """Remember what was found out of a path just now."""
        known = view.fundamentals
        if known == Fundamentals():
            return
        is_free = not view.congestion.is_congested
        now = self._clocks.now()
        row = Row(
            _way_of(facts),
            facts.link_type.value,
            _bounded(known.bottleneck_bps),
            _bounded(known.available_bps) if is_free else None,
            _bounded(view.available_low_bps) if is_free else None,
            _bounded(known.rtt_ns),
            min(1.0, max(0.0, float(view.confidence))) if is_free else 0.0,
            self._boot_id,
            now.boottime_ns,
            now.wall_ns,
        )
        with self._changed:
            self._put(row)
            self._prune(now)
            if self._thread is None and not self._is_ending:
                self._begin_thread()
            self._changed.notify_all()

    # -- for who looks ----------------------------------------------------------------

    def remembered(self, after: int = 0, limit: int | None = None) -> tuple[Remembered, ...]:
        """Everything that is remembered, what was kept last first.

        Args:
            after: How many are left out at the beginning.
            limit: How many at most; all when None.
        """
        now = self._clocks.now()
        with self._changed:
            end = None if limit is None else after + limit
            rows = list(islice(reversed(self._rows.values()), after, end))
        return tuple([self._shown(row, now) for row in rows])

    def _shown(self, row: Row, now: Moment) -> Remembered:
        is_ours = self._is_of_this_boot(row)
        age_ns = now.boottime_ns - row.boottime_ns if is_ours else now.wall_ns - row.wall_ns
        return Remembered(
            Endpoint(_packed(row.way.host), 0),
            row.way.interface,
            _packed(row.way.source),
            _packed(row.way.gateway),
            row.link_type,
            _fundamentals(row),
            row.available_low_bps,
            row.confidence,
            max(0, age_ns),
            is_ours,
        )

    def _is_of_this_boot(self, row: Row) -> bool:
        return row.boot_id == self._boot_id != ""

    # -- what is in memory ------------------------------------------------------------

    def _put(self, row: Row) -> None:
        self._rows.pop(row.way, None)
        self._rows[row.way] = row
        self._unwritten[row.way] = None

    def _prune(self, now: Moment) -> None:
        """Forget what is too old, and of too much the oldest."""
        while self._rows:
            oldest = next(iter(self._rows.values()))
            if len(self._rows) <= MOST_ROWS and now.wall_ns - oldest.wall_ns <= LONGEST_NS:
                return
            del self._rows[oldest.way]
            self._unwritten[oldest.way] = None

    # -- the file ---------------------------------------------------------------------

    def _load(self) -> None:
        try:
            try:
                rows = self._file.load(MOST_ROWS)
            except NotOurs as error:
                self._set_aside(error)
                rows = self._file.load(MOST_ROWS)
        except (OSError, NotOurs) as error:
            self._note(str(error))
            return
        finally:
            self._file.close()
        self._rows = {row.way: row for row in reversed(rows)}
        self._prune(self._clocks.now())

    def _set_aside(self, error: NotOurs) -> None:
        aside = self._file.set_aside()
        _log.warning("%s: %s; it is set aside as %s", self.path, error, aside.name)

    def _note(self, trouble: str) -> None:
        """Say what is wrong with the file, once."""
        if trouble and not self._trouble:
            _log.warning("paths are not remembered in %s: %s", self.path, trouble)
        elif self._trouble and not trouble:
            _log.info("paths are remembered in %s again", self.path)
        self._trouble = trouble

    def _begin_thread(self) -> None:
        thread = threading.Thread(target=self._write_on, name="openqwave-estimates", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            # The next path that tells something tries again.
            self._note(str(error))
        else:
            self._thread = thread

    def _write_on(self) -> None:
        """Write what is new, until the end; in a thread of its own."""
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._unwritten or self._is_ending)
                    is_last = self._is_ending
                self.write()
                if is_last:
                    return
                pause_s = RETRY_S if self._trouble else WRITE_S
                with self._changed:
                    self._changed.wait_for(lambda: self._is_ending, pause_s)
        finally:
            self._file.close()

    def write(self) -> None:
        """Write what is new now; for the thread, and tests that have none."""
        with self._changed:
            ways, self._unwritten = list(self._unwritten), {}
            rows = [self._rows[way] for way in ways if way in self._rows]
            gone = [way for way in ways if way not in self._rows]
        try:
            try:
                self._file.write(rows, gone)
            except NotOurs as error:
                self._set_aside(error)
                with self._changed:
                    rows = list(self._rows.values())
                self._file.write(rows, ())
        except (OSError, NotOurs) as error:
            with self._changed:
                self._unwritten = dict.fromkeys(ways) | self._unwritten
            self._note(str(error))
        else:
            self._note("")

    def close(self) -> None:
        """Write what is left, and close the file; a disk that hangs is waited for a few seconds."""
        with self._changed:
            self._is_ending = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(_END_S)
            if thread.is_alive():
                _log.warning("%s: the disk does not answer; the last estimates are lost", self.path)


def _way_of(facts: PathFacts) -> Way:
    return Way(
        str(facts.host.address),
        facts.interface_name,
        address_text(facts.source),
        address_text(facts.gateway),
    )


def _packed(text: str) -> bytes:
    return ip_address(text).packed if text else b""


def _bounded(number: int | None) -> int | None:
    return None if number is None else max(0, min(number, MOST))


def _fundamentals(row: Row) -> Fundamentals:
    return Fundamentals(row.capacity_bps, row.available_bps, row.rtt_ns)

"""The file in which estimates of paths are kept: an SQLite database of one table.

The file is the administrator's to look at (``sqlite3 paths.sqlite3 'select * from path'``), and
anything may have happened to it since it was written: the disk was full, the machine lost power,
somebody put another file there. So nothing that is read is believed before it was looked at. A file
that is none of ours, or is damaged, is set aside under another name, where somebody can look at it,
and a new one is begun. Rows that make no sense are left out one by one.

It is written in WAL mode without waiting for the disk (``synchronous=NORMAL``): a loss of power
may lose the last rows, and damages nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

from openqwave.model.value import value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# "qwav": what SQLite keeps for programs to know their files by (PRAGMA application_id).
_APPLICATION_ID: Final = 0x71776176
_VERSION: Final = 1

_SCHEMA: Final = (
    "CREATE TABLE path (host TEXT NOT NULL, interface TEXT NOT NULL, source TEXT NOT NULL, "
    "gateway TEXT NOT NULL, link_type TEXT NOT NULL, capacity_bps INTEGER, "
    "available_bps INTEGER, available_low_bps INTEGER, rtt_ns INTEGER, confidence REAL NOT NULL, "
    "boot_id TEXT NOT NULL, boottime_ns INTEGER NOT NULL, wall_ns INTEGER NOT NULL, "
    "PRIMARY KEY (host, interface, source, gateway)) WITHOUT ROWID"
)
_SELECT: Final = "SELECT * FROM path ORDER BY wall_ns DESC LIMIT ?"
_INSERT: Final = "INSERT OR REPLACE INTO path VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DELETE: Final = "DELETE FROM path WHERE host = ? AND interface = ? AND source = ? AND gateway = ?"

# SQLite's integers are signed and have 64 bits.
MOST: Final = (1 << 63) - 1
# Longer texts than any name of an interface (15 bytes), of a boot (36) or of a link are none.
_LONGEST_TEXT: Final = 64
# Copies of damaged files that are kept; the last gives way.
_MOST_ASIDE: Final = 9
# Another program that has the file open: somebody who looks at it.
_BUSY_S: Final = 1.0

# sqlite3.h: SQLITE_CORRUPT and SQLITE_NOTADB, in the low byte of an extended code.
_DAMAGED: Final = frozenset({11, 26})


@value
class Way:
    """Which path a row is of.

    Attributes:
        host: The far end's address, as text without a scope.
        interface: The name of the outgoing interface.
        source: The local address; empty if unknown.
        gateway: The next router; empty where the host is on the link.
    """

    host: str
    interface: str
    source: str
    gateway: str


@value
class Row:
    """What was found out about a path, and when.

    Attributes:
        way: Which.
        link_type: What the interface is, in a word.
        capacity_bps: Of the narrowest link.
        available_bps: What of it was free.
        available_low_bps: It was claimed to be at least this.
        rtt_ns: Round-trip time.
        confidence: How often such claims are right, 0 to 1.
        boot_id: Of the machine's run in which that was.
        boottime_ns: When, by CLOCK_BOOTTIME of that run.
        wall_ns: When, by the clock on the wall.
    """

    way: Way
    link_type: str
    capacity_bps: int | None
    available_bps: int | None
    available_low_bps: int | None
    rtt_ns: int | None
    confidence: float
    boot_id: str
    boottime_ns: int
    wall_ns: int


class NotOurs(Exception):
    """The file is damaged, or another program's; the text says how."""


class EstimateFile:
    """The file; see the module's text. One thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open nothing yet.

        Args:
            path: Where it is, or will be.
        """
        self.path = path
        self._connection: sqlite3.Connection | None = None

    def load(self, most: int) -> list[Row]:
        """Read it, or begin it.

        Args:
            most: How many rows; the newest.

        Returns:
            The rows that make sense, the newest first.

        Raises:
            NotOurs: It has to be set aside.
            OSError: It is not to be had now.
        """
        with self._telling():
            rows = self._open().execute(_SELECT, (most,)).fetchall()
        return [row for row in map(_row_of, rows) if row is not None]

    def write(self, rows: Iterable[Row], gone: Iterable[Way]) -> None:
        """Write rows, in place of those of the same ways, and take others out; all or nothing.

        Raises:
            NotOurs: It has to be set aside.
            OSError: It is not to be had now; the disk may be full, or not to be written.
        """
        with self._telling():
            connection = self._open()
            with connection:
                connection.executemany(_DELETE, map(_key, gone))
                connection.executemany(_INSERT, map(_values, rows))

    def set_aside(self) -> Path:
        """Give it another name; returns that.

        Raises:
            OSError: It cannot be renamed.
        """
        self.close()
        for number in itertools.count(1):
            aside = self.path.with_name(f"{self.path.name}.corrupt-{number}")
            if number == _MOST_ASIDE or not os.path.lexists(aside):
                break
        os.replace(self.path, aside)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self.path}{suffix}", f"{aside}{suffix}")
        return aside

    def close(self) -> None:
        """Close it; harmless when done before."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Whom this host talks to is nobody's business, and a link is somebody else's doing.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        os.close(os.open(self.path, flags, 0o600))
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, check_same_thread=False)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        # A strange file's views and triggers do nothing of their own.
        connection.execute("PRAGMA trusted_schema = OFF")
        found = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if not found and not application_id:
            connection.execute("PRAGMA journal_mode = WAL")
            # In one go, or what a crash leaves would be nobody's.
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {_VERSION}")
                connection.execute(_SCHEMA)
        elif (application_id, version, found) != (_APPLICATION_ID, _VERSION, [(_SCHEMA,)]):
            raise NotOurs(f"it is of another program or version ({application_id}, {version})")
        connection.execute("PRAGMA synchronous = NORMAL")

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Raise what this module's callers expect, with nothing left open."""
        try:
            yield
        except sqlite3.Error as error:
            self.close()
            if error.sqlite_errorcode & 0xFF in _DAMAGED:
                raise NotOurs(str(error)) from error
            raise OSError(str(error)) from error


def _key(way: Way) -> tuple[str, str, str, str]:
    return way.host, way.interface, way.source, way.gateway


def _values(row: Row) -> tuple[str | int | float | None, ...]:
    return (
        *_key(row.way),
        row.link_type,
        row.capacity_bps,
        row.available_bps,
        row.available_low_bps,
        row.rtt_ns,
        row.confidence,
        row.boot_id,
        row.boottime_ns,
        row.wall_ns,
    )


def _row_of(read: Sequence[object]) -> Row | None:
    """One row, if it makes sense."""
    host, interface, source, gateway, link_type, *numbers, confidence, boot_id, boottime, wall = (
        read
    )
    try:
        capacity, available, low, rtt = [None if one is None else _number(one) for one in numbers]
        return Row(
            Way(_address(host), _text(interface), _maybe(source), _maybe(gateway)),
            _text(link_type),
            capacity,
            available,
            low,
            rtt,
            _part(confidence),
            _text(boot_id),
            _number(boottime),
            _number(wall),
        )
    except (TypeError, ValueError):
        return None


def _text(read: object) -> str:
    if isinstance(read, str) and len(read) <= _LONGEST_TEXT:
        return read
    raise ValueError("no such text was written")


def _address(read: object) -> str:
    return str(ip_address(_text(read)))


def _maybe(read: object) -> str:
    return "" if read == "" else _address(read)


def _number(read: object) -> int:
    if isinstance(read, int) and read >= 0:
        return read
    raise ValueError("no such number was written")


def _part(read: object) -> float:
    # What is no number is neither.
    if isinstance(read, float) and 0 <= read <= 1:
        return read
    raise ValueError("no such part was written")

"""What is known of one socket whose options are not as the application made them.

Its marks (`openqwave.enforcement.marks`) and its pacing come and go together, and each time what
is owed is written down first, where there is a journal.

An application that paces itself more slowly than its contract keeps its rate, and what it writes
itself is its last word here, too.
"""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openqwave.enforcement.marks import (
    NotKept,
    Options,
    SocketMarks,
    as_far_as_written,
    read_options,
)
from openqwave.model.flow import UNTOUCHED, Treatment

if TYPE_CHECKING:
    from openqwave.enforcement.journal import Entry, Record

# asm-generic/socket.h; the socket module has no name for it. Eight bytes, bytes a second.
SO_MAX_PACING_RATE = 47

_PACING_BYTES = 8


@dataclass(slots=True)
class Hold:
    """One socket.

    Attributes:
        marks: Its marks.
        treatment: How its packets are treated.
        pacing_bytes_per_s: What its contract asks for; None for no rate.
        original_pacing: What to give back; None while its pacing is not touched.
        written_pacing: What was written last.
        entry: Its record; None where there is no journal.
        is_stream: It is of TCP.
    """

    marks: SocketMarks
    treatment: Treatment = UNTOUCHED
    pacing_bytes_per_s: int | None = None
    original_pacing: int | None = None
    written_pacing: int | None = None
    entry: Entry | None = None
    is_stream: bool = False

    def note_marks(self, original: Options, before: Options, written: Options) -> None:
        """Write down that the marks are about to be changed."""
        if self.entry is not None:
            self.entry.begin(
                (original, self.original_pacing),
                (before, self.written_pacing),
                (written, self.written_pacing),
            )

    def note_pacing(self, original: int, before: int, written: int) -> None:
        """Write down that the pacing is about to be changed."""
        if self.entry is not None:
            marks = self.marks.written
            self.entry.begin((self.marks.original, original), (marks, before), (marks, written))


def read_pacing(sock: socket.socket) -> int:
    """The rate that a socket is held to, in bytes per second."""
    value = sock.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, _PACING_BYTES)
    return int.from_bytes(value, sys.byteorder)


def _write_pacing(sock: socket.socket, bytes_per_s: int) -> None:
    value = bytes_per_s.to_bytes(_PACING_BYTES, sys.byteorder)
    sock.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, value)
    held = read_pacing(sock)
    if held != bytes_per_s:
        raise NotKept(f"asked for {bytes_per_s} bytes/s of pacing, the kernel holds {held}")


def bring(
    sock: socket.socket, hold: Hold, treatment: Treatment, pacing_bytes_per_s: int | None
) -> None:
    """Write what a treatment asks for, or give back what it does not.

    Args:
        sock: The socket.
        hold: What is known of it; changed along with it.
        treatment: How its packets are to be treated.
        pacing_bytes_per_s: The rate to hold it to; None for its own.

    Raises:
        OSError: The kernel refused, or the journal has no room; some options may be written.
        NotKept: The kernel reads back otherwise; likewise.
    """
    entry = hold.entry
    if entry is None:
        _bring(sock, hold, treatment, pacing_bytes_per_s)
        return
    had_marks, had_pacing = hold.marks.original is not None, hold.original_pacing is not None
    _bring(sock, hold, treatment, pacing_bytes_per_s)
    original = hold.marks.original, hold.original_pacing
    if original != (None, None):
        if (had_marks and original[0] is None) or (had_pacing and original[1] is None):
            written = hold.marks.written, hold.written_pacing
            entry.begin(original, written, written)
        entry.finish()


def give_back(sock: socket.socket, record: Record) -> None:
    """Let a socket have what the application gave it, by what was written down.

    Args:
        sock: The socket.
        record: What it is owed, by another run or by this one. It stays as it is; doing the same
            again does no harm.

    Raises:
        OSError: The kernel refused.
        NotKept: It reads back otherwise.
    """
    marks, pacing = record.original
    before, written = record.before, record.written
    if marks is not None and before[0] is not None and written[0] is not None:
        is_v6 = marks[1] is not None
        reached = written[0]
        if record.is_under_way:
            now = read_options(sock, is_v6=is_v6)
            reached = as_far_as_written(before[0], written[0], now)
        SocketMarks(is_v6=is_v6, original=marks, written=reached).give_back(sock)
    if pacing is not None:
        held = read_pacing(sock)
        is_ours = held == written[1] or (record.is_under_way and held == before[1])
        if is_ours and held != pacing:
            _write_pacing(sock, pacing)


def _bring(
    sock: socket.socket, hold: Hold, treatment: Treatment, pacing_bytes_per_s: int | None
) -> None:
    dscp, priority = treatment.dscp, treatment.queue_priority
    if dscp is None or priority is None:
        hold.marks.give_back(sock)
    else:
        hold.marks.write(sock, dscp, priority, None if hold.entry is None else hold.note_marks)
    if pacing_bytes_per_s is not None or hold.original_pacing is not None:
        _bring_pacing(sock, hold, pacing_bytes_per_s)


def _bring_pacing(sock: socket.socket, hold: Hold, pacing_bytes_per_s: int | None) -> None:
    now = read_pacing(sock)
    if hold.original_pacing is None or now != hold.written_pacing:
        hold.original_pacing = now
    if pacing_bytes_per_s is None:
        if now != hold.original_pacing:
            _write_pacing(sock, hold.original_pacing)
        hold.original_pacing = hold.written_pacing = None
    else:
        wanted = min(pacing_bytes_per_s, hold.original_pacing)
        hold.note_pacing(hold.original_pacing, now, wanted)
        hold.written_pacing = wanted
        try:
            _write_pacing(sock, wanted)
        except (OSError, NotKept):
            # An earlier rate that is still there is not the application's word.
            hold.written_pacing = read_pacing(sock)
            raise

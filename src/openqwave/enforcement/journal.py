"""What sockets are owed, written down where the death of this process does not reach.

A process that is killed cannot give options back. So before a socket is touched, its record says
what it had and what it is about to get; when all was given back the record is free again. Whoever
starts next finds the file and does what was left (`openqwave.service.recovery`). The same is done
in the run itself for sockets that could not be reached when their flow ended.

**The file** is mapped into memory: writing a record is a copy of fifty bytes, and what was copied
is in the file whatever becomes of the process. (Not of the host; cookies mean nothing after a
restart, and a file of another boot is begun anew. Its place is a tmpfs.) A header is followed by
records of one size; the file doubles when they are used up.

**Torn records.** A process can be killed between any two instructions. A record therefore holds
two versions, of which one byte tells the one in force: the other is written whole, then the byte.
That byte also tells whether the options were being changed when it was written (`is_under_way`):
then each of them may still be as it was before.

One process at a time has the file (`openqwave.enforcement.possession`).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Self, TypeAlias

from openqwave.enforcement.marks import Options
from openqwave.enforcement.possession import open_alone, possess
from openqwave.model.value import value

# The options of marks, and bytes per second of SO_MAX_PACING_RATE; None where they are not ours.
State: TypeAlias = "tuple[Options | None, int | None]"

_MAGIC = b"qwmarks\n"
_VERSION = 1
# Magic, version, size of a record, boot id; then the process that has it.
_HEADER = struct.Struct("=8sII16s")
_OWNER_AT = 32
_HEADER_BYTES = 128

# Phase, cookie, inode.
_NAMES = struct.Struct("=B7xQQ")
# What there is of it (`_HAS_...`); then TOS, traffic class (-1 for none), priority and pacing:
# the originals, before the change, after it.
_VERSION_OF_RECORD = struct.Struct("=B" + "BhiQ" * 3)
_HAS_MARKS = 1
_HAS_PACING = 2
_FIRST_AT = 32
_SECOND_AT = 80
_RECORD_BYTES = 128

# The byte that tells what is in force: nothing, or one of the versions, finished or under way.
_FREE = 0
_FINISHED = {_FIRST_AT: 1, _SECOND_AT: 2}
_UNDER_WAY = {_FIRST_AT: 3, _SECOND_AT: 4}
_MEANINGS = {
    phase: (at, is_under_way)
    for phases, is_under_way in ((_FINISHED, False), (_UNDER_WAY, True))
    for at, phase in phases.items()
}

# 32 KiB.
_FIRST_CAPACITY = 255
# Sockets that could not be reached and may be gone; the oldest is written off when there are more.
_MOST_LEFT = 65_536

_NO_MARKS: Options = (0, None, 0)


@value
class Record:
    """What one socket is owed.

    Attributes:
        slot: Where it stands in the file.
        cookie: The socket.
        inode: By which /proc names it.
        original: What to give back.
        before: What the options were before the last change.
        written: What the last change made of them.
        is_under_way: It may have been cut off: each option is as in `before` or in `written`.
    """

    slot: int
    cookie: int
    inode: int
    original: State
    before: State
    written: State
    is_under_way: bool


class Entry:
    """The record of one socket, for whoever changes its options."""

    __slots__ = ("_at", "_journal", "_phase_at", "cookie", "slot")

    def __init__(self, journal: Journal, cookie: int, slot: int) -> None:
        self.cookie = cookie
        self.slot = slot
        self._journal = journal
        self._phase_at = _place_of(slot)
        self._at = 0

    def begin(self, original: State, before: State, written: State) -> None:
        """Options are about to be changed, or something else is to be given back.

        Args:
            original: What to give back.
            before: What they are.
            written: What they are to become.
        """
        # The version that is not in force.
        at = _SECOND_AT if self._at == _FIRST_AT else _FIRST_AT
        file = self._journal.file
        _VERSION_OF_RECORD.pack_into(
            file,
            self._phase_at + at,
            (_HAS_MARKS if original[0] is not None else 0)
            | (_HAS_PACING if original[1] is not None else 0),
            *_packed(original),
            *_packed(before),
            *_packed(written),
        )
        file[self._phase_at] = _UNDER_WAY[at]
        self._at = at

    def finish(self) -> None:
        """The options are as they were to become."""
        if self._at:
            self._journal.file[self._phase_at] = _FINISHED[self._at]

    def free(self) -> None:
        """Nothing is owed any more."""
        self._at = 0
        self._journal.free(self.slot)

    def leave(self) -> None:
        """It is owed, but cannot be given back now."""
        if self._at:
            self._journal.leave(self.slot)
        else:
            self.free()


class Journal:
    """All records.

    Attributes:
        file: The mapped file.
        complaint: Why an earlier file was set aside; empty where none was.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the file, or begin it.

        Args:
            path: Where it is; its folder must be there.

        Raises:
            OSError: It cannot be had, or another process has it (EAGAIN).
        """
        self.complaint = ""
        self._path = Path(path)
        self._descriptor = open_alone(self._path, _OWNER_AT)
        try:
            reason = self._look()
            if reason is None:
                self._start_over()
            elif reason:
                self.complaint = f"{self._path} was set aside: {reason}"
                os.replace(self._path, f"{self._path}.corrupt")
                os.close(self._descriptor)
                self._descriptor = open_alone(self._path, _OWNER_AT)
                self._start_over()
            possess(self._descriptor, _OWNER_AT)
            self._map()
        except BaseException:
            os.close(self._descriptor)
            raise
        self._left: dict[int, Record] = {}
        self._unused: list[int] = []
        for slot in range(self._capacity - 1, -1, -1):
            if self.file[_place_of(slot)] == _FREE:
                self._unused.append(slot)
            else:
                self.leave(slot)

    @property
    def left(self) -> Mapping[int, Record]:
        """What is owed to sockets of no flow, by cookie: by an earlier run, or out of reach."""
        return self._left

    @property
    def count(self) -> int:
        """How many sockets are owed something."""
        return self._capacity - len(self._unused)

    def enter(self, cookie: int, inode: int) -> Entry:
        """A record for a socket that is about to be touched; nothing is owed before `begin`.

        Args:
            cookie: The socket.
            inode: By which /proc names it.

        Raises:
            OSError: The file cannot grow.
        """
        if not self._unused:
            self._grow()
        slot = self._unused.pop()
        _NAMES.pack_into(self.file, _place_of(slot), _FREE, cookie, inode)
        return Entry(self, cookie, slot)

    def leave(self, slot: int) -> None:
        """Keep a record for later, with what else is left."""
        record = self._read(slot)
        self._left[record.cookie] = record
        if len(self._left) > _MOST_LEFT:
            self.settle(next(iter(self._left)))

    def settle(self, cookie: int) -> None:
        """Nothing is owed any more to a socket of `left`."""
        record = self._left.pop(cookie, None)
        if record is not None:
            self.free(record.slot)

    def free(self, slot: int) -> None:
        """Use a record no more."""
        self.file[_place_of(slot)] = _FREE
        self._unused.append(slot)

    def close(self) -> None:
        """Let go of the file; harmless when done before. What is owed stays in it."""
        if self._descriptor >= 0:
            self.file.close()
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the file -----------------------------------------------------------------------

    def _look(self) -> str | None:
        """What is wrong with the file; empty for nothing, None for one to be begun."""
        size = os.fstat(self._descriptor).st_size
        header = os.pread(self._descriptor, _HEADER.size, 0)
        if not any(header):
            # It was never completed.
            return None
        if len(header) < _HEADER.size:
            return "it is cut off"
        magic, version, record_bytes, boot = _HEADER.unpack(header)
        if magic != _MAGIC:
            return "it is something else"
        if (version, record_bytes) != (_VERSION, _RECORD_BYTES):
            return f"it is of version {version}, and this is {_VERSION}"
        if boot != _boot_id():
            return None
        # Whoever was killed while the file grew may have left a piece of a record.
        capacity = (size - _HEADER_BYTES) // _RECORD_BYTES
        if capacity < 1:
            return "it is cut off"
        for slot in range(capacity):
            raw = os.pread(self._descriptor, _RECORD_BYTES, _place_of(slot))
            if raw[0] != _FREE and not _is_sound(raw):
                return f"record {slot} makes no sense"
        return ""

    def _start_over(self) -> None:
        os.ftruncate(self._descriptor, 0)
        self._set_size(_FIRST_CAPACITY)
        header = _HEADER.pack(_MAGIC, _VERSION, _RECORD_BYTES, _boot_id())
        os.pwrite(self._descriptor, header, 0)

    def _grow(self) -> None:
        before = self._capacity
        self._set_size(2 * before + 1)
        self.file.close()
        self._map()
        self._unused.extend(range(self._capacity - 1, before - 1, -1))

    def _set_size(self, capacity: int) -> None:
        # Not by ftruncate: a page that the file system has no room for kills whoever writes it.
        os.posix_fallocate(self._descriptor, 0, _place_of(capacity))

    def _map(self) -> None:
        size = os.fstat(self._descriptor).st_size
        self._capacity = (size - _HEADER_BYTES) // _RECORD_BYTES
        self.file = mmap.mmap(self._descriptor, size)

    def _read(self, slot: int) -> Record:
        start = _place_of(slot)
        phase, cookie, inode = _NAMES.unpack_from(self.file, start)
        at, is_under_way = _MEANINGS[phase]
        what, *numbers = _VERSION_OF_RECORD.unpack_from(self.file, start + at)
        original, before, written = (
            _unpacked(what, *numbers[one : one + 4]) for one in range(0, 12, 4)
        )
        return Record(slot, cookie, inode, original, before, written, is_under_way)


def _boot_id() -> bytes:
    with contextlib.suppress(OSError, ValueError):
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return uuid.UUID(text.strip()).bytes
    return bytes(16)


def _place_of(slot: int) -> int:
    return _HEADER_BYTES + slot * _RECORD_BYTES


def _is_sound(raw: bytes) -> bool:
    """Can this be a record in use?"""
    phase, cookie, _ = _NAMES.unpack_from(raw)
    if phase not in _MEANINGS or not cookie:
        return False
    what, *numbers = _VERSION_OF_RECORD.unpack_from(raw, _MEANINGS[phase][0])
    classes = numbers[1::4]
    return (
        0 < what <= _HAS_MARKS | _HAS_PACING
        and all(-1 <= one <= 255 for one in classes)
        and len({one < 0 for one in classes}) == 1
    )


def _packed(state: State) -> tuple[int, int, int, int]:
    marks, pacing = state
    tos, tclass, priority = marks or _NO_MARKS
    return tos, -1 if tclass is None else tclass, priority, pacing or 0


def _unpacked(what: int, tos: int, tclass: int, priority: int, pacing: int) -> State:
    marks = (tos, None if tclass < 0 else tclass, priority)
    return (
        marks if what & _HAS_MARKS else None,
        pacing if what & _HAS_PACING else None,
    )

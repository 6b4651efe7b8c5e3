"""What sockets are owed survives the process that owes it, whenever that is killed."""

from __future__ import annotations

import errno
import mmap
import os
import random
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openqwave.enforcement import journal as journal_module
from openqwave.enforcement.journal import Entry, Journal, Record, State
from tests.patience import until
from tests.unit.strangers import strangers

PLAIN: State = ((0, None, 0), None)
MARKED: State = ((0xE0, None, 6), None)
# Whatever the options can hold: an IPv6 socket's, ECN bits, a priority of somebody with rights,
# no pacing and the least.
STATES: list[State] = [
    PLAIN,
    MARKED,
    ((0xFF, 0xFF, (1 << 31) - 1), (1 << 64) - 1),
    ((0, 0, -1), 0),
    (None, 125_000),
    ((0x48, 0x92, 0x10010), 1),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "marks"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal(path) as opened:
        yield opened


def left_at(path: Path) -> dict[int, Record]:
    """What the next one finds."""
    with Journal(path) as opened:
        return dict(opened.left)


def owe(journal: Journal, cookie: int, original: State = PLAIN, written: State = MARKED) -> Entry:
    entry = journal.enter(cookie, cookie + 1_000)
    entry.begin(original, original, written)
    entry.finish()
    return entry


# -- what is written is found ---------------------------------------------------------


def test_a_new_file_is_empty_and_the_owners(path: Path) -> None:
    with Journal(path) as journal:
        assert (journal.count, journal.left, journal.complaint) == (0, {}, "")
        assert path.stat().st_mode & 0o777 == 0o600
    assert left_at(path) == {}


PAIRS = [
    (one, other)
    for one in STATES
    for other in STATES
    if [part is None for part in one] == [part is None for part in other]
]


@pytest.mark.parametrize(("original", "written"), PAIRS)
def test_a_record_is_found_as_it_was_written(
    path: Path, journal: Journal, original: State, written: State
) -> None:
    entry = journal.enter(1 << 63, 77)
    entry.begin(original, original, written)
    assert journal.left == {}, "it is of a flow, and nobody's to give back"
    journal.close()
    record = left_at(path)[1 << 63]
    assert (record.cookie, record.inode, record.is_under_way) == (1 << 63, 77, True)
    assert (record.original, record.before, record.written) == (original, original, written)


def test_a_record_knows_three_times(path: Path, journal: Journal) -> None:
    entry = journal.enter(5, 6)
    states: list[State] = [((one, one, one), one) for one in (1, 2, 3)]
    entry.begin(*states)
    entry.finish()
    journal.close()
    record = left_at(path)[5]
    assert [record.original, record.before, record.written] == states
    assert not record.is_under_way


def test_the_newest_version_is_in_force(journal: Journal) -> None:
    entry = journal.enter(5, 6)
    for number in range(7):
        state: State = ((number, None, 0), None)
        entry.begin(PLAIN, PLAIN, state)
        if number % 2:
            entry.finish()
        entry.leave()
        assert journal.left[5].written == state
        assert journal.left[5].is_under_way == (not number % 2)


def test_nothing_is_owed_before_the_first_word(path: Path, journal: Journal) -> None:
    entry = journal.enter(5, 6)
    assert journal.count == 1
    entry.finish()
    entry.leave()
    assert (journal.count, journal.left) == (0, {})
    journal.close()
    assert left_at(path) == {}


def test_freed_records_are_used_again(path: Path, journal: Journal) -> None:
    first = owe(journal, 1)
    slot = first.slot
    first.free()
    assert journal.count == 0
    # Nothing of the one before shows.
    second = journal.enter(2, 3)
    assert second.slot == slot
    journal.close()
    assert left_at(path) == {}


def test_left_ones_are_settled(path: Path, journal: Journal) -> None:
    for cookie in (1, 2, 3):
        owe(journal, cookie).leave()
    assert list(journal.left) == [1, 2, 3]
    journal.settle(2)
    journal.settle(2)
    journal.settle(9)
    assert list(journal.left) == [1, 3]
    assert journal.count == 2
    journal.close()
    assert set(left_at(path)) == {1, 3}


def test_it_grows(path: Path, journal: Journal) -> None:
    for cookie in range(1, 2_001):
        owe(journal, cookie)
    for cookie in range(3_001, 3_004):
        journal.enter(cookie, 1)
    assert journal.count == 2_003
    assert len({entry.slot for entry in [owe(journal, cookie) for cookie in (4_000, 4_001)]}) == 2
    journal.close()
    left = left_at(path)
    assert set(left) == {*range(1, 2_001), 4_000, 4_001}
    assert all(record.inode == cookie + 1_000 for cookie, record in left.items())
    # The slots that were never used are there for those who come.
    with Journal(path) as again:
        owe(again, 9)
        assert again.count == 2_003


def test_an_entry_from_before_it_grew(path: Path, journal: Journal) -> None:
    entry = owe(journal, 1)
    for cookie in range(2, 1_000):
        owe(journal, cookie)
    later: State = ((8, None, 1), None)
    entry.begin(PLAIN, MARKED, later)
    journal.close()
    assert left_at(path)[1].written == later


def test_a_file_system_without_room(
    path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An error that can be refused with, not a signal.
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for cookie in range(1, 256):
        owe(journal, cookie)
    with pytest.raises(OSError, match="full"):
        journal.enter(256, 1)
    assert journal.count == 255
    journal.close()
    assert len(left_at(path)) == 255


def test_what_is_left_is_bounded(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_MOST_LEFT", 3)
    for cookie in range(1, 6):
        owe(journal, cookie).leave()
    assert list(journal.left) == [3, 4, 5]
    assert journal.count == 3


# -- whose file it is -----------------------------------------------------------------


def test_one_at_a_time(path: Path, journal: Journal) -> None:
    owe(journal, 1)
    with pytest.raises(BlockingIOError) as raised:
        Journal(path)
    assert str(path) in str(raised.value)
    assert "another process" in str(raised.value)
    journal.close()
    journal.close()
    assert set(left_at(path)) == {1}


def test_one_that_cannot_come_to_its_end(path: Path, journal: Journal) -> None:
    # "can be kept from its end by a file system that does not answer, and keeps all it had"
    owe(journal, 1)
    with strangers() as people:
        # Ended and not waited for; the lock is this test's.
        ended = people.start().run("result = os.fork()\nif not result: os._exit(0)")
        until(lambda: " (zombie)" in Path(f"/proc/{ended}/status").read_text())
        with path.open("r+b") as file:
            file.seek(32)
            file.write(struct.pack("=I", ended))
        with Journal(path) as taken:
            assert set(taken.left) == {1}
            assert taken.complaint == ""
            owe(journal, 2)
            assert taken.count == 1, "whatever that one still wrote, it writes to another file"
            with pytest.raises(BlockingIOError):
                Journal(path)
    assert set(left_at(path)) == {1}
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.usefixtures("fd_guard")
def test_nothing_is_left_open(path: Path) -> None:
    with Journal(path) as journal:
        owe(journal, 1)
    path.write_bytes(b"x" * 300)
    with Journal(path):
        pass
    path.unlink()
    path.symlink_to(path.parent / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        Journal(path)
    assert not (path.parent / "elsewhere").exists()


def test_a_file_of_another_boot_means_nothing(path: Path) -> None:
    # "cookies mean nothing after a restart"
    with Journal(path) as journal:
        owe(journal, 1)
    raw = bytearray(path.read_bytes())
    raw[20] ^= 1
    path.write_bytes(raw)
    with Journal(path) as journal:
        assert (journal.left, journal.complaint, journal.count) == ({}, "", 0)
        owe(journal, 2)
    assert set(left_at(path)) == {2}
    assert not Path(f"{path}.corrupt").exists()


@pytest.mark.parametrize("content", [b"", bytes(10), bytes(40_000)], ids=["no", "few", "many"])
def test_a_file_that_was_never_begun(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with Journal(path) as journal:
        assert journal.complaint == ""
        owe(journal, 1)
    assert set(left_at(path)) == {1}


def spoil(raw: bytearray, at: int, value: bytes) -> bytes:
    raw[at : at + len(value)] = value
    return bytes(raw)


# The header is 128 bytes, and so is each record: the phase, names at 8, versions at 32 and 80.
SPOILED: dict[str, Callable[[bytearray], bytes]] = {
    "foreign": lambda _: b"SQLite format 3\0" * 100,
    "text": lambda _: b"hello\n",
    "cut in the header": lambda raw: bytes(raw[:20]),
    "cut before a record": lambda raw: bytes(raw[:128]),
    "another version": lambda raw: spoil(raw, 8, struct.pack("=I", 99)),
    "another size of record": lambda raw: spoil(raw, 12, struct.pack("=I", 64)),
    "a phase that is none": lambda raw: spoil(raw, 128, b"\x09"),
    "no cookie": lambda raw: spoil(raw, 136, bytes(8)),
    "nothing of it": lambda raw: spoil(raw, 128 + 32, b"\0"),
    "a class that is none": lambda raw: spoil(raw, 128 + 32 + 2, struct.pack("=h", 256)),
    "a class of one version": lambda raw: spoil(raw, 128 + 32 + 2, struct.pack("=h", 7)),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_file_is_set_aside(path: Path, how: str) -> None:
    with Journal(path) as journal:
        owe(journal, 1)
    spoiled = SPOILED[how](bytearray(path.read_bytes()))
    path.write_bytes(spoiled)
    with Journal(path) as journal:
        assert str(path) in journal.complaint
        assert journal.left == {}
        owe(journal, 2)
        with pytest.raises(BlockingIOError):
            Journal(path)
    assert Path(f"{path}.corrupt").read_bytes() == spoiled
    with Journal(path) as journal:
        assert journal.complaint == ""
        assert set(journal.left) == {2}


def test_a_cut_tail_costs_only_itself(path: Path) -> None:
    # Killed while it grew, or cut off: what is whole is owed all the same.
    with Journal(path) as journal:
        for cookie in range(1, 300):
            owe(journal, cookie)
    with path.open("r+b") as file:
        file.truncate(128 + 128 * 280 + 17)
    with Journal(path) as journal:
        assert set(journal.left) == set(range(1, 281))
        for cookie in range(1_000, 1_100):
            owe(journal, cookie)
    assert set(left_at(path)) == {*range(1, 281), *range(1_000, 1_100)}


def test_garbage_is_set_aside_or_makes_sense(path: Path) -> None:
    # Whatever stands in the file, opening it raises nothing.
    with Journal(path) as journal:
        for cookie in range(1, 6):
            owe(journal, cookie)
    whole = path.read_bytes()
    rng = random.Random(1)
    for _ in range(200):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            raw[rng.randrange(900)] = rng.randrange(256)
        path.write_bytes(raw[: rng.choice([len(raw), rng.randrange(1, 2_000)])])
        for record in left_at(path).values():
            assert record.cookie
            for state in (record.original, record.before, record.written):
                assert len(state) == 2


# -- killed ---------------------------------------------------------------------------

ROUNDS = 40
WRITER = """
import itertools
from openqwave.enforcement.journal import Journal
pid = os.fork()
if pid == 0:
    journal = Journal(given_path)
    entries = []
    for number in itertools.count(1):
        # All of a version is of one number, so that a torn one shows.
        state = ((number % 256, number % 256, number), number)
        if len(entries) < 40:
            entries.append(journal.enter(1 << 40 | number, number))
        entry = entries[number % len(entries)]
        entry.begin(state, state, state)
        if number % 3:
            entry.finish()
        if number % 7 == 0:
            entries.remove(entry)
            entry.free()
result = pid
"""


class Killed(BaseException):
    """The process ends here."""


class Halfway:
    """Packs half of a version; then the process is killed."""

    def __init__(self, real: struct.Struct) -> None:
        self.unpack_from = real.unpack_from
        self._real = real

    def pack_into(self, file: mmap.mmap, at: int, *values: int) -> None:
        packed = self._real.pack(*values)
        half = len(packed) // 2
        file[at : at + half] = packed[:half]
        raise Killed


def test_killed_in_the_middle_of_a_version(
    path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[State] = [((one, one, one), one) for one in range(1, 4)]
    entries = [owe(journal, cookie) for cookie in (1, 2)]
    entries[1].begin(*states)
    new = journal.enter(3, 4)
    real = journal_module._VERSION_OF_RECORD  # noqa: SLF001 - cut off in the middle
    monkeypatch.setattr(journal_module, "_VERSION_OF_RECORD", Halfway(real))
    for entry in (*entries, new):
        with pytest.raises(Killed):
            entry.begin(*[((99, 99, 99), 99)] * 3)
    journal.close()
    left = left_at(path)
    assert set(left) == {1, 2}
    assert (left[1].written, left[1].is_under_way) == (MARKED, False)
    assert [left[2].original, left[2].before, left[2].written] == states
    assert left[2].is_under_way


def test_a_writer_that_is_killed_tears_nothing(path: Path) -> None:
    # "A process can be killed between any two instructions."
    rng = random.Random(2)
    seen = 0
    with strangers() as people:
        writer = people.start()
        for _ in range(ROUNDS):
            path.unlink(missing_ok=True)
            pid = writer.run(f"given_path = {str(path)!r}" + WRITER)
            until(lambda: path.exists() and path.read_bytes()[:8] == b"qwmarks\n")
            # The moment is the point: any.
            time.sleep(rng.random() * 0.004)
            os.kill(pid, signal.SIGKILL)
            writer.run(f"os.waitpid({pid}, 0)")
            with Journal(path) as journal:
                assert journal.complaint == ""
                assert len(journal.left) <= 40
                for record in journal.left.values():
                    number = record.written[1]
                    assert number
                    state = ((number % 256, number % 256, number), number)
                    assert [record.original, record.before, record.written] == [state] * 3
                    assert record.cookie == 1 << 40 | record.inode
                seen += bool(journal.left)
    assert seen > ROUNDS / 2

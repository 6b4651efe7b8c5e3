"""What is remembered of paths from one run of the service to the next, whatever befalls the file.

Time is set by the test, in a machine that can sleep and start anew. Most tests write when they say
so and have no thread; those that are about the thread say it.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwave.model.endpoint import Endpoint
from openqwave.model.estimates import Congestion, CongestionReason, Fundamentals, PathView
from openqwave.model.path import LinkType, PathFacts
from openqwave.service import estimates
from openqwave.service.estimatefile import EstimateFile, NotOurs, Row, Way
from openqwave.service.estimates import LONGEST_NS, EstimateStore, Moment, SystemClocks
from tests.patience import until

S = 1_000_000_000
DAY_NS = 24 * 3_600 * S
MBIT = 1_000_000
PATIENCE_S = 20.0


def host(text: str, scope_id: int = 0) -> Endpoint:
    return Endpoint(ip_address(text).packed, 0, scope_id)


def way(
    to: str = "192.0.2.1", name: str = "eth0", source: str = "192.0.2.100", gateway: str = ""
) -> PathFacts:
    return PathFacts(
        host(to),
        2,
        name,
        ip_address(source).packed if source else b"",
        ip_address(gateway).packed if gateway else b"",
        1500,
        LinkType.WIRED,
    )


WAY = way()
KNOWN = Fundamentals(20 * MBIT, 12 * MBIT, 2_000_000)
VIEW = PathView(KNOWN, Congestion(False), 11 * MBIT, 0.9, 5 * S, 4_711)


class Machine:
    """A machine whose clocks the test sets."""

    def __init__(self) -> None:
        self.boot = "f1e4a6d0"
        self.awake_ns = 1_000 * S
        self.asleep_ns = 7 * S
        self.wall_ns = 1_700_000_000 * S

    def boot_id(self) -> str:
        return self.boot

    def now(self) -> Moment:
        return Moment(self.awake_ns, self.awake_ns + self.asleep_ns, self.wall_ns)

    def passes(self, elapsed_ns: int) -> None:
        self.awake_ns += elapsed_ns
        self.wall_ns += elapsed_ns

    def sleeps(self, elapsed_ns: int) -> None:
        self.asleep_ns += elapsed_ns
        self.wall_ns += elapsed_ns

    def starts_anew(self) -> None:
        self.boot += "'"
        self.awake_ns, self.asleep_ns = 20 * S, 0
        self.wall_ns += 60 * S


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "paths.sqlite3"


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EstimateStore, "_begin_thread", lambda _: None)


@pytest.fixture
def reopen(
    fd_guard: None, no_thread: None, file: Path, machine: Machine
) -> Iterator[Callable[[], EstimateStore]]:
    """The store as the next run of the service has it."""
    del fd_guard, no_thread
    opened: list[EstimateStore] = []

    def end() -> None:
        for store in opened:
            store.write()
            store._file.close()  # noqa: SLF001 - as its thread does
        opened.clear()

    def make() -> EstimateStore:
        end()
        opened.append(EstimateStore(file, clocks=machine))
        return opened[-1]

    yield make
    end()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


# -- what is remembered ---------------------------------------------------------------


def test_what_was_kept_is_recalled_with_its_age(
    reopen: Callable[[], EstimateStore], machine: Machine
) -> None:
    store = reopen()
    assert store.recall(WAY) is None
    store.keep(WAY, VIEW)
    machine.passes(3 * S)
    for each in (store, reopen()):
        found = each.recall(WAY)
        # The verdict is not remembered, nor what was sent: both are of the run that was.
        assert found == PathView(KNOWN, Congestion(), 11 * MBIT, 0.9, machine.awake_ns - 3 * S)
    machine.passes(4 * S)
    found = reopen().recall(WAY)
    assert found is not None
    assert found.since_ns == machine.awake_ns - 7 * S


def test_time_asleep_is_part_of_the_age(
    reopen: Callable[[], EstimateStore], machine: Machine
) -> None:
    reopen().keep(WAY, VIEW)
    machine.passes(S)
    machine.sleeps(1_000 * S)
    store = reopen()
    found = store.recall(WAY)
    assert found is not None
    assert found.since_ns == machine.awake_ns - 1_001 * S
    (shown,) = store.remembered()
    assert (shown.age_ns, shown.is_of_this_boot) == (1_001 * S, True)


def test_what_an_earlier_run_of_the_machine_knew_is_only_shown(
    reopen: Callable[[], EstimateStore], machine: Machine
) -> None:
    reopen().keep(WAY, VIEW)
    machine.starts_anew()
    store = reopen()
    assert store.recall(WAY) is None
    (shown,) = store.remembered()
    assert (shown.age_ns, shown.is_of_this_boot) == (60 * S, False)
    # Somebody set the clock back: it is no older than now.
    machine.wall_ns -= DAY_NS
    assert store.remembered()[0].age_ns == 0
    store.keep(WAY, VIEW)
    assert store.recall(WAY) is not None
    assert store.remembered()[0].is_of_this_boot


def test_a_run_of_the_machine_without_a_name_is_no_other_ones(
    reopen: Callable[[], EstimateStore], machine: Machine
) -> None:
    machine.boot = ""
    store = reopen()
    store.keep(WAY, VIEW)
    assert store.recall(WAY) is None
    assert not store.remembered()[0].is_of_this_boot


def test_what_comes_from_the_future_is_not_recalled(
    reopen: Callable[[], EstimateStore], machine: Machine
) -> None:
    # Another time namespace has another CLOCK_BOOTTIME.
    reopen().keep(WAY, VIEW)
    machine.awake_ns -= S
    assert reopen().recall(WAY) is None


def test_what_is_shown(reopen: Callable[[], EstimateStore], machine: Machine) -> None:
    store = reopen()
    facts = way("fe80::1", "wlan0", "fe80::2", "fe80::3")
    store.keep(replace(facts, host=host("fe80::1", 7), link_type=LinkType.WIRELESS), VIEW)
    machine.passes(S)
    store.keep(way(source=""), replace(VIEW, fundamentals=Fundamentals(None, None, 1)))
    for each in (store, reopen()):
        latest, first = each.remembered()
        assert (latest.host, latest.source, latest.gateway) == (WAY.host, b"", b"")
        assert latest.fundamentals == Fundamentals(None, None, 1)
        assert (latest.link_type, latest.age_ns) == ("wired", 0)
        # The scope is the number of an interface, which is known by its name here.
        assert first.host == host("fe80::1")
        assert (first.interface_name, first.link_type) == ("wlan0", "wireless")
        assert (first.source, first.gateway) == (facts.source, facts.gateway)
        assert (first.fundamentals, first.available_low_bps) == (KNOWN, 11 * MBIT)
        assert (first.confidence, first.age_ns) == (0.9, S)
        assert each.remembered(0, 1) == (latest,)
        assert each.remembered(1, 5) == (first,)
        assert each.remembered(2) == ()


def test_another_way_is_another_path(reopen: Callable[[], EstimateStore]) -> None:
    store = reopen()
    store.keep(WAY, VIEW)
    others = [
        way("192.0.2.2"),
        way(name="eth1"),
        way(source="192.0.2.101"),
        way(gateway="192.0.2.254"),
    ]
    assert [store.recall(other) for other in others] == [None] * 4
    # Which number the interface has is of one run, and what else is learnt of a way is the same's.
    same = replace(WAY, interface=9, mtu_bytes=1400, speed_bps=10**9)
    assert store.recall(same) is not None


def test_what_was_free_before_a_congestion_is_not_kept(
    reopen: Callable[[], EstimateStore],
) -> None:
    store = reopen()
    store.keep(WAY, VIEW)
    store.keep(WAY, replace(VIEW, congestion=Congestion(True, CongestionReason.DELAY)))
    for each in (store, reopen()):
        found = each.recall(WAY)
        assert found is not None
        assert found.fundamentals == Fundamentals(20 * MBIT, None, 2_000_000)
        assert (found.available_low_bps, found.confidence) == (None, 0.0)


def test_what_tells_nothing_is_not_kept(reopen: Callable[[], EstimateStore]) -> None:
    store = reopen()
    store.keep(WAY, PathView(Fundamentals()))
    assert store.remembered() == ()
    store.keep(WAY, VIEW)
    store.keep(WAY, PathView(Fundamentals()))
    found = store.recall(WAY)
    assert found is not None
    assert found.fundamentals == KNOWN


RATES = st.none() | st.integers(0, 1 << 70)
ADDRESSES = st.ip_addresses().map(str)


@settings(max_examples=40)
@given(
    kept=st.lists(
        st.tuples(ADDRESSES, st.text("abc0@.", min_size=1, max_size=15), RATES, RATES, RATES),
        max_size=5,
    ),
    confidence=st.floats(0, 1),
)
def test_whatever_is_kept_is_there_in_the_next_run(
    kept: list[tuple[str, str, int | None, int | None, int | None]],
    confidence: float,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("any") / "paths"
    most = (1 << 63) - 1
    expected: dict[tuple[bytes, str], Fundamentals] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EstimateStore, "_begin_thread", lambda _: None)
        store = EstimateStore(path, clocks=Machine())
        for to, name, *numbers in kept:
            known = Fundamentals(*numbers)
            store.keep(way(to, name), PathView(known, confidence=confidence))
            if known != Fundamentals():
                bounded = Fundamentals(*[one if one is None else min(one, most) for one in numbers])
                expected[ip_address(to).packed, name] = bounded
        store.write()
        store._file.close()  # noqa: SLF001 - as its thread does
        again = EstimateStore(path, clocks=Machine())
    for each in (store, again):
        shown = each.remembered()
        found = {(one.host.packed, one.interface_name): one.fundamentals for one in shown}
        assert found == expected
        assert all(one.confidence == confidence for one in shown)


# -- what is forgotten ----------------------------------------------------------------


def hosts(store: EstimateStore) -> list[str]:
    return [str(one.host.address) for one in store.remembered()]


def test_the_oldest_make_way(
    reopen: Callable[[], EstimateStore], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "MOST_ROWS", 3)
    store = reopen()
    for number in (1, 2, 3, 1, 4, 5):
        store.keep(way(f"192.0.2.{number}"), VIEW)
        machine.passes(S)
        store.write()
    expected = ["192.0.2.5", "192.0.2.4", "192.0.2.1"]
    assert hosts(store) == expected
    assert hosts(reopen()) == expected
    # A file that holds more is read from its newest on.
    monkeypatch.setattr(estimates, "MOST_ROWS", 2)
    assert hosts(reopen()) == expected[:2]


def test_a_month_is_the_longest(reopen: Callable[[], EstimateStore], machine: Machine) -> None:
    store = reopen()
    store.keep(way("192.0.2.1"), VIEW)
    machine.passes(LONGEST_NS)
    store.keep(way("192.0.2.2"), VIEW)
    assert hosts(store) == ["192.0.2.2", "192.0.2.1"]
    machine.passes(1)
    store.keep(way("192.0.2.3"), VIEW)
    assert hosts(store) == ["192.0.2.3", "192.0.2.2"]
    assert hosts(reopen()) == ["192.0.2.3", "192.0.2.2"]
    machine.passes(LONGEST_NS + 1)
    assert hosts(reopen()) == []


def test_what_is_forgotten_is_taken_out_of_the_file(
    reopen: Callable[[], EstimateStore], machine: Machine, file: Path
) -> None:
    store = reopen()
    store.keep(WAY, VIEW)
    store.write()
    machine.passes(LONGEST_NS + 1)
    store.keep(way("192.0.2.2"), VIEW)
    store.write()
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT host FROM path").fetchall() == [("192.0.2.2",)]


# -- files that are not as they should be ---------------------------------------------


def an_sqlite_file(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def of_another_program(path: Path) -> None:
    an_sqlite_file(path, "CREATE TABLE path (host)", "INSERT INTO path VALUES ('mine')")


def of_a_later_version(path: Path) -> None:
    EstimateStore(path)
    an_sqlite_file(path, "PRAGMA user_version = 2")


def with_more_in_it(path: Path) -> None:
    EstimateStore(path)
    an_sqlite_file(path, "CREATE VIEW spy AS SELECT * FROM path")


def with_damage(path: Path) -> None:
    """The pages of the table are overwritten, the first one, with what is in it, is not."""
    file = EstimateFile(path)
    numbers = [row(way(f"192.0.2.{number}")) for number in range(1, 255)]
    file.write(numbers, ())
    file.close()
    data = bytearray(path.read_bytes())
    assert len(data) > 3 * 4096
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)


def row(facts: PathFacts) -> Row:
    texts = [str(ip_address(packed)) if packed else "" for packed in (facts.source, facts.gateway)]
    return Row(
        Way(str(facts.host.address), facts.interface_name, *texts),
        "wired",
        *(1, 2, 3, 4),
        0.5,
        "boot",
        *(5, 6),
    )


STRANGE: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("not a database at all\n" * 100),
    "half a header": lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(200)),
    "another program's": of_another_program,
    "a later version": of_a_later_version,
    "more in it": with_more_in_it,
    "damaged pages": with_damage,
}


@pytest.mark.parametrize("what", STRANGE)
def test_a_strange_file_is_set_aside(
    reopen: Callable[[], EstimateStore],
    file: Path,
    what: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    STRANGE[what](file)
    before = file.read_bytes()
    store = reopen()
    aside = file.with_name("paths.sqlite3.corrupt-1")
    assert aside.read_bytes() == before
    (told,) = warnings_of(caplog)
    assert aside.name in told
    assert store.remembered() == ()
    # Another one takes its place.
    store.keep(WAY, VIEW)
    assert hosts(reopen()) == ["192.0.2.1"]
    assert len(warnings_of(caplog)) == 1
    assert store.state == "in use"


def test_files_that_are_set_aside_are_numbered(
    reopen: Callable[[], EstimateStore], file: Path, tmp_path: Path
) -> None:
    for number in range(1, 12):
        file.write_text(f"damage {number}\n" * 50)
        reopen()
    asides = {path.name for path in tmp_path.glob("*.corrupt-*")}
    assert asides == {f"paths.sqlite3.corrupt-{number}" for number in range(1, 10)}
    assert "damage 1\n" in file.with_name("paths.sqlite3.corrupt-1").read_text()
    # The last of them gives way, so that a bad disk is not filled.
    assert "damage 11\n" in file.with_name("paths.sqlite3.corrupt-9").read_text()


def test_what_belongs_to_a_file_goes_with_it(file: Path, tmp_path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{file}{suffix}").write_text(f"of it{suffix}")
    assert EstimateFile(file).set_aside() == file.with_name("paths.sqlite3.corrupt-1")
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {
        f"paths.sqlite3.corrupt-1{suffix}": f"of it{suffix}" for suffix in ("", "-wal", "-shm")
    }


def test_an_empty_file_is_a_new_one(
    reopen: Callable[[], EstimateStore], file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.touch()
    reopen().keep(WAY, VIEW)
    assert hosts(reopen()) == ["192.0.2.1"]
    assert warnings_of(caplog) == []


def test_the_file_is_nobody_elses_to_read(
    reopen: Callable[[], EstimateStore], file: Path, machine: Machine
) -> None:
    store = reopen()
    store.keep(WAY, VIEW)
    store.write()
    for path in (file, Path(f"{file}-wal")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    deep = file.parent / "state" / "openqwave" / "paths"
    EstimateStore(deep, clocks=machine)
    assert stat.S_IMODE(deep.parent.stat().st_mode) == 0o700


def a_directory(path: Path) -> Path:
    path.mkdir()
    return path


def a_link(path: Path) -> Path:
    path.symlink_to(path.with_name("elsewhere"))
    return path


UNUSABLE: dict[str, Callable[[Path], Path]] = {
    "a directory": a_directory,
    "a link": a_link,
    "where nothing can be made": lambda _: Path("/proc/self/paths.sqlite3"),
    "below a file": lambda _: Path("/proc/version/paths.sqlite3"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_without_a_file_there_is_memory(
    fd_guard: None,
    no_thread: None,
    file: Path,
    machine: Machine,
    what: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    del fd_guard, no_thread
    store = EstimateStore(UNUSABLE[what](file), clocks=machine)
    for _ in range(3):
        store.keep(WAY, VIEW)
        store.write()
    assert store.recall(WAY) is not None
    # Said once, and not at every try.
    assert len(warnings_of(caplog)) == 1
    assert store.state.startswith("not written: ")
    assert not file.with_name("elsewhere").exists()


def test_a_full_disk_is_said_once_and_tried_again(
    reopen: Callable[[], EstimateStore], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = reopen()
    store.keep(WAY, VIEW)
    store.write()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        for number in range(2, 250):
            store.keep(way(f"192.0.2.{number}"), VIEW)
        store.write()
        store.keep(way("192.0.2.251"), VIEW)
        store.write()
        assert store.state.startswith("not written: ")
        assert len(warnings_of(caplog)) == 1
        assert store.recall(way("192.0.2.99")) is not None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    store.write()
    assert store.state == "in use"
    assert "again" in caplog.messages[-1]
    assert len(reopen().remembered()) == 250


def test_damage_that_is_found_while_writing(
    reopen: Callable[[], EstimateStore],
    machine: Machine,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    reopen().keep(WAY, VIEW)
    store = reopen()
    machine.passes(S)
    store.keep(way("192.0.2.2"), VIEW)
    write = EstimateFile.write

    def fail(self: EstimateFile, *_: object) -> None:
        monkeypatch.setattr(EstimateFile, "write", write)
        self.close()
        raise NotOurs("database disk image is malformed")

    monkeypatch.setattr(EstimateFile, "write", fail)
    store.write()
    assert len(warnings_of(caplog)) == 1
    assert file.with_name("paths.sqlite3.corrupt-1").exists()
    # All that is in memory is in the new one.
    assert hosts(reopen()) == ["192.0.2.2", "192.0.2.1"]


NONSENSE: dict[str, tuple[object, ...]] = {
    "host": ("nobody", "eth0", "", "", "wired", 1, 1, 1, 1, 0.5, "b", 1, 9),
    "no text": (b"\1\2", "eth0", "", "", "wired", 1, 1, 1, 1, 0.5, "b", 1, 9),
    "interface": ("192.0.2.9", "e" * 65, "", "", "wired", 1, 1, 1, 1, 0.5, "b", 1, 9),
    "source": ("192.0.2.9", "eth0", "here", "", "wired", 1, 1, 1, 1, 0.5, "b", 1, 9),
    "gateway": ("192.0.2.9", "eth0", "", "there", "wired", 1, 1, 1, 1, 0.5, "b", 1, 9),
    "negative": ("192.0.2.9", "eth0", "", "", "wired", 1, -1, 1, 1, 0.5, "b", 1, 9),
    "no number": ("192.0.2.9", "eth0", "", "", "wired", "much", 1, 1, 1, 0.5, "b", 1, 9),
    "a fraction": ("192.0.2.9", "eth0", "", "", "wired", 1, 1, 1, 1.5, 0.5, "b", 1, 9),
    "confidence": ("192.0.2.9", "eth0", "", "", "wired", 1, 1, 1, 1, 1.5, "b", 1, 9),
    "no confidence": ("192.0.2.9", "eth0", "", "", "wired", 1, 1, 1, 1, "sure", "b", 1, 9),
    "boot": ("192.0.2.9", "eth0", "", "", "wired", 1, 1, 1, 1, 0.5, "b" * 65, 1, 9),
    "time": ("192.0.2.9", "eth0", "", "", "wired", 1, 1, 1, 1, 0.5, "b", -1, 9),
    "wall": ("192.0.2.9", "eth0", "", "", "wired", 1, 1, 1, 1, 0.5, "b", 1, "noon"),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_rows_that_make_no_sense_are_left_out(
    reopen: Callable[[], EstimateStore], file: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    reopen().keep(WAY, VIEW)
    reopen()
    good = ("192.0.2.8", "eth0", "", "", "wired", None, 1, None, 1, 0.5, "b", 1, 1_700_000_000 * S)
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        for values in (NONSENSE[what], good):
            connection.execute(f"INSERT INTO path VALUES ({', '.join('?' * 13)})", values)  # noqa: S608
    assert sorted(hosts(reopen())) == ["192.0.2.1", "192.0.2.8"]
    assert warnings_of(caplog) == []


# -- the thread that writes -----------------------------------------------------------


def writers() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "openqwave-estimates"]


def written(file: Path) -> int:
    """How many rows another program finds in the file."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return len(connection.execute("SELECT * FROM path").fetchall())


def test_what_is_kept_is_written_soon(
    fd_guard: None, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del fd_guard
    monkeypatch.setattr(estimates, "WRITE_S", 0.01)
    store = EstimateStore(file)
    assert writers() == []
    for number in (1, 2):
        store.keep(way(f"192.0.2.{number}"), VIEW)
        until(lambda count=number: written(file) == count)  # type: ignore[misc]
        assert len(writers()) == 1
    store.close()
    assert writers() == []


def test_writing_is_seldom(fd_guard: None, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del fd_guard
    writes: list[int] = []
    write = EstimateFile.write

    def count(self: EstimateFile, rows: list[Row], gone: list[Way]) -> None:
        writes.append(len(rows))
        write(self, rows, gone)

    monkeypatch.setattr(EstimateFile, "write", count)
    store = EstimateStore(file)
    store.keep(WAY, VIEW)
    until(lambda: writes == [1])
    for _ in range(50):
        store.keep(WAY, VIEW)
        store.keep(way("192.0.2.2"), VIEW)
    # Within `WRITE_S`, seconds from now; at the end at once.
    assert writes == [1]
    store.close()
    assert writes == [1, 2]
    store.close()
    assert writes == [1, 2]


def test_a_disk_that_hangs_holds_nobody_up(
    fd_guard: None, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    del fd_guard
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        hangs.set()
        goes_on.wait(PATIENCE_S)

    monkeypatch.setattr(EstimateFile, "write", hang)
    monkeypatch.setattr(estimates, "_END_S", 0.01)
    store = EstimateStore(file)
    store.keep(WAY, VIEW)
    assert hangs.wait(PATIENCE_S)
    store.keep(way("192.0.2.2"), VIEW)
    assert store.recall(way("192.0.2.2")) is not None
    assert len(store.remembered()) == 2
    store.close()
    assert "does not answer" in warnings_of(caplog)[0]
    goes_on.set()
    until(lambda: writers() == [])


def test_a_thread_that_cannot_be_had(
    fd_guard: None, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    del fd_guard

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    store = EstimateStore(file)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        store.keep(WAY, VIEW)
        store.keep(WAY, VIEW)
    assert len(warnings_of(caplog)) == 1
    assert store.state == "not written: can't start new thread"
    store.keep(way("192.0.2.2"), VIEW)
    store.close()
    assert written(file) == 2


WRITER = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from openqwave.service import estimates
from tests.unit.test_estimates_memory import VIEW, way
estimates.WRITE_S = 0.0
store = estimates.EstimateStore(Path({file!r}))
number = 0
while True:
    for last in range(200):
        store.keep(way(f"192.0.{{number % 250}}.{{last}}"), VIEW)
    number += 1
    if number == 3:
        print("writing", flush=True)
"""


def test_a_service_that_is_killed_leaves_a_file_that_can_be_read(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = str(Path(__file__).parents[2])
    program = WRITER.format(root=root, file=str(file))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        until(lambda: file.exists() and written(file) > 0)
        writer.send_signal(signal.SIGKILL)
    store = EstimateStore(file)
    assert len(store.remembered()) > 0
    # The same run of the machine: it still counts.
    newest = store.remembered(0, 1)[0]
    assert newest.is_of_this_boot
    assert newest.age_ns < PATIENCE_S * S
    assert warnings_of(caplog) == []


def test_the_kernels_clocks() -> None:
    clocks = SystemClocks()
    now = clocks.now()
    assert 0 <= time.monotonic_ns() - now.monotonic_ns < PATIENCE_S * S
    assert 0 <= time.clock_gettime_ns(time.CLOCK_BOOTTIME) - now.boottime_ns < PATIENCE_S * S
    assert 0 <= time.time_ns() - now.wall_ns < PATIENCE_S * S
    assert clocks.boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip() != ""

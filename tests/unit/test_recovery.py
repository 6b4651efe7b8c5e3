"""Killed at any moment, the service gives back later what it could not then: exactly that.

The service is "killed" by an exception before one of its writes to a socket or to the journal;
what stands in the kernel and in the file then is what a killed one leaves. Beside a socket stands
a twin that is never marked. What the application writes to the one it writes to the other, so in
the end both have to look alike.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from openqwave.enforcement.journal import Entry, Journal
from openqwave.enforcement.marks import as_far_as_written
from openqwave.enforcement.socket_options import SocketOptions
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.flow import UNTOUCHED, Treatment
from openqwave.model.sockets import Elsewhere, OutOfReach
from openqwave.service.recovery import Recovered, recover, retry
from openqwave.subsystem.effects import Applied, Share, SocketPlan
from tests.unit.loopback import (
    KINDS,
    PORT,
    Bench,
    options_of,
    set_pacing,
    set_priority,
    set_tclass,
    set_tos,
)

VOICE, BULK = Treatment(56, 6), Treatment(8, 2)
PACED, PACED_ONLY = Treatment(56, 6, 8_000_000), Treatment(None, None, 4_000_000)
HERE = Endpoint(bytes([127, 0, 0, 1]), PORT)


class Killed(BaseException):
    """The process ends here."""


class Life:
    """How many writes are left to the service."""

    left = 1 << 30

    @classmethod
    def spend(cls) -> None:
        cls.left -= 1
        if cls.left < 0:
            raise Killed


class Mortal(socket.socket):
    """A copy of a socket; whoever writes to it is killed before one of the writes."""

    def setsockopt(self, *args: Any) -> None:  # noqa: ANN401 - whatever is written
        Life.spend()
        super().setsockopt(*args)


def make_mortal(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    real = getattr(owner, name)

    def write(*args: Any) -> Any:  # noqa: ANN401 - whatever is written
        Life.spend()
        return real(*args)

    monkeypatch.setattr(owner, name, write)


class PacedEverywhere:
    """Every way out runs fq."""

    def is_paced(self, destination: Endpoint, interface: int) -> bool:
        return bool(destination.port) and interface >= 0

    def linux_version(self) -> tuple[int, int]:
        return (6, 18)


class Local:
    """Reaches sockets of this process; some of them worse than others."""

    def __init__(self) -> None:
        self.sockets: dict[int, socket.socket] = {}
        self.trouble: dict[int, OSError] = {}
        self.sought: Mapping[int, int] = {}
        self.searches = 0
        self.lent = 0

    def seek(self, owed: Mapping[int, int]) -> None:
        self.sought = owed

    def search_everywhere(self) -> None:
        self.searches += 1

    def borrow(self, cookie: int) -> socket.socket | None:
        if cookie in self.trouble:
            raise self.trouble[cookie]
        sock = self.sockets.get(cookie)
        if sock is None:
            return None
        self.lent += 1
        return Mortal(fileno=os.dup(sock.fileno()))

    def give_back(self, sock: socket.socket | None) -> None:
        if sock is not None:
            self.lent -= 1
            sock.close()


class Rig:
    """Sockets, the journal's file, and a service that can be killed."""

    def __init__(self, sockets: Bench, path: Path) -> None:
        self.bench = sockets
        self.local = Local()
        self.path = path
        self.journal = Journal(path)
        self.backend = SocketOptions(self.local, PacedEverywhere(), self.journal)

    def socket(self, kind: str) -> tuple[socket.socket, int]:
        sock = self.bench.make(kind)
        cookie = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, 57, 8), "little")
        self.local.sockets[cookie] = sock
        return sock, cookie

    def bring(self, cookie: int, *treatments: Treatment) -> Applied | Refusal:
        return self.backend.apply((plan(cookie, *treatments),))

    def restart(self) -> Recovered:
        """The next service, up to where it would serve."""
        Life.left = 1 << 30
        self.journal.close()
        self.journal = Journal(self.path)
        self.backend = SocketOptions(self.local, PacedEverywhere(), self.journal)
        return recover(self.journal, self.local)


def plan(cookie: int, *treatments: Treatment) -> SocketPlan:
    shares = tuple(
        Share(number, treatment, 1, (HERE,)) for number, treatment in enumerate(treatments, 1)
    )
    return SocketPlan(cookie, shares)


@pytest.fixture
def rig(sockets: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    for name in ("begin", "finish", "free", "leave"):
        make_mortal(monkeypatch, Entry, name)
    for name in ("enter", "settle", "free"):
        make_mortal(monkeypatch, Journal, name)
    made = Rig(sockets, tmp_path / "marks")
    yield made
    Life.left = 1 << 30
    made.journal.close()
    assert made.local.lent == 0


def until_it_survives(act: Callable[[int], bool]) -> int:
    """Do something again and again, killed a write later each time; how many there were."""
    for lives in range(100):
        if act(lives):
            return lives
    raise AssertionError("it never survives")


# -- killed at each write -------------------------------------------------------------

# What is asked of a socket, one after the other; nothing is the end of its flow.
LIVES: dict[str, list[list[Treatment]]] = {
    "marked": [[VOICE]],
    "marked otherwise": [[VOICE], [BULK]],
    "marked and over": [[VOICE], []],
    "and again": [[BULK], [], [VOICE]],
    "untouched": [[VOICE], [UNTOUCHED]],
    "paced": [[PACED]],
    "paced, then marked only": [[PACED], [VOICE]],
    "paced only": [[PACED], [PACED_ONLY], []],
    "lower": [[PACED], [Treatment(8, 2, 1_000_000)], []],
}


def both(tos: int, priority: int) -> Callable[[socket.socket], None]:
    def write(sock: socket.socket) -> None:
        set_tos(sock, tos)
        set_priority(sock, priority)

    return write


STARTS: dict[str, Callable[[socket.socket], None]] = {
    "plain": lambda _: None,
    "with its own": both(0x29, 4),
    "like the mark": both(0xE0, 6),
}


@pytest.mark.parametrize("life", LIVES)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("kind", ["udp4 connected", "udp6 connected", "tcp4 connected", "tcp6"])
def test_what_the_application_had_comes_back(rig: Rig, kind: str, start: str, life: str) -> None:
    def live(lives: int) -> bool:
        sock, cookie = rig.socket(kind)
        STARTS[start](sock)
        before = options_of(sock)
        Life.left = lives
        survived = True
        try:
            for treatments in LIVES[life]:
                assert not isinstance(rig.bring(cookie, *treatments), Refusal)
        except Killed:
            survived = False
        recovered = rig.restart()
        assert recovered.gone == recovered.failed == 0
        assert options_of(sock) == before, f"killed at write {lives}"
        assert (rig.journal.count, rig.journal.left) == (0, {})
        return survived

    assert until_it_survives(live) >= 3


APPLICATION: dict[str, Callable[[socket.socket], None]] = {
    "tos": lambda sock: set_tos(sock, 0x48),
    "tos and priority": both(0x48, 5),
    "priority": lambda sock: set_priority(sock, 1),
    "tos with a priority": lambda sock: set_tos(sock, 0x08),
    "ecn": lambda sock: set_tos(sock, options_of(sock).tos | 1),
    "pacing": lambda sock: set_pacing(sock, 77_000),
    "class": lambda sock: set_tclass(sock, 0x48) if sock.family == socket.AF_INET6 else None,
}


@pytest.mark.parametrize("write", APPLICATION)
@pytest.mark.parametrize("start", ["plain", "with its own"])
@pytest.mark.parametrize("kind", ["udp4 connected", "udp6 connected"])
def test_what_it_writes_before_the_restart_is_its_last_word(
    rig: Rig, kind: str, start: str, write: str
) -> None:
    def live(lives: int) -> bool:
        sock, cookie = rig.socket(kind)
        twin = rig.bench.make(kind)
        for one in (sock, twin):
            STARTS[start](one)
        Life.left = lives
        survived = True
        try:
            for treatment in (PACED, BULK):
                rig.bring(cookie, treatment)
        except Killed:
            survived = False
        for one in (sock, twin):
            APPLICATION[write](one)
        rig.restart()
        assert options_of(sock) == options_of(twin), f"killed at write {lives}"
        return survived

    assert until_it_survives(live) > 3


def test_what_it_wrote_while_it_was_marked_is_known_after_the_crash(rig: Rig) -> None:
    # "whenever what is to be given back changes"
    for write in APPLICATION.values():
        sock, cookie = rig.socket("udp4 connected")
        twin = rig.bench.make("udp4 connected")
        rig.bring(cookie, PACED)
        for one in (sock, twin):
            write(one)
        rig.bring(cookie, Treatment(8, 2, 400_000))
        assert rig.restart().given_back == 1
        assert options_of(sock) == options_of(twin)


def test_what_was_given_back_in_part_is_the_applications(rig: Rig) -> None:
    # The same value as ours, but written when none of ours was there any more.
    sock, cookie = rig.socket("tcp4 connected")
    rig.bring(cookie, PACED)
    ours = options_of(sock)
    rig.bring(cookie, VOICE)
    set_pacing(sock, ours.pacing)
    rig.restart()
    assert options_of(sock).pacing == ours.pacing
    rig.bring(cookie, PACED)
    rig.bring(cookie, PACED_ONLY)
    set_tos(sock, ours.tos)
    set_priority(sock, ours.priority)
    rig.restart()
    assert (options_of(sock).tos, options_of(sock).priority) == (ours.tos, ours.priority)


def test_a_recovery_that_is_killed_goes_on(rig: Rig) -> None:
    # "it does no harm to be cut off and begin again"
    def live(lives: int) -> bool:
        made = [rig.socket(kind) for kind in KINDS]
        for sock, _ in made:
            set_tos(sock, 0x28)
        before = [options_of(sock) for sock, _ in made]
        for _, cookie in made:
            rig.bring(cookie, VOICE)
        rig.journal.close()
        rig.journal = Journal(rig.path)
        Life.left = lives
        survived = True
        try:
            recover(rig.journal, rig.local)
        except Killed:
            survived = False
        rig.restart()
        assert [options_of(sock) for sock, _ in made] == before
        assert rig.journal.count == 0
        return survived

    assert until_it_survives(live) > 2 * len(KINDS)


@pytest.mark.parametrize(
    ("before", "written", "now", "reached"),
    [
        # Not begun, the octet alone, all but the priority, done.
        ((0, 0, 0), (224, 224, 6), (0, 0, 0), (0, 0, 0)),
        ((0, 0, 5), (224, 224, 6), (224, 0, 0), (224, 0, 0)),
        ((0, 0, 5), (32, 32, 2), (32, 32, 0), (32, 32, 0)),
        ((0, 0, 0), (224, 224, 6), (224, 224, 6), (224, 224, 6)),
        # Another wrote 72, a class, a priority.
        ((0, 0, 0), (224, 224, 6), (72, 0, 0), (224, 0, 0)),
        ((0, 0, 0), (224, 224, 6), (224, 72, 6), (224, 224, 6)),
        ((0, 0, 0), (224, 224, 6), (224, 224, 3), (224, 224, 6)),
        # ECN is no word on the rest.
        ((0, 0, 0), (224, 224, 6), (1, 2, 0), (0, 0, 0)),
        ((0, None, 0), (224, None, 6), (226, None, 0), (224, None, 0)),
    ],
)
def test_how_far_a_change_got(
    before: tuple[int, int | None, int],
    written: tuple[int, int | None, int],
    now: tuple[int, int | None, int],
    reached: tuple[int, int | None, int],
) -> None:
    assert as_far_as_written(before, written, now) == reached


# -- what becomes of each -------------------------------------------------------------


def test_each_is_counted(rig: Rig) -> None:
    made = [rig.socket("udp4") for _ in range(5)]
    for _, cookie in made:
        rig.bring(cookie, VOICE)
    rig.local.sockets.pop(made[0][1])
    rig.local.trouble[made[1][1]] = Elsewhere(errno.ENOBUFS, "still looked for")
    rig.local.trouble[made[2][1]] = OutOfReach(errno.EPERM, "not allowed")
    recovered = rig.restart()
    assert recovered == Recovered(2, 1, 1, 1, "[Errno 1] not allowed")
    assert rig.local.searches == 1
    assert set(rig.journal.left) == set(rig.local.sought) == {made[1][1], made[2][1]}
    assert rig.journal.count == 2
    assert [options_of(sock).tos for sock, _ in made] == [0xE0, 0xE0, 0xE0, 0, 0]
    # They are tried again, without looking at everybody at once.
    rig.local.trouble.clear()
    assert retry(rig.journal, rig.local) == Recovered(given_back=2)
    assert options_of(made[1][0]).tos == 0
    assert (rig.journal.count, rig.local.searches, rig.local.sought) == (0, 1, {})


def test_nothing_to_do(rig: Rig) -> None:
    assert rig.restart() == Recovered()
    assert rig.local.searches == 0


def test_inodes_are_those_of_the_sockets(rig: Rig) -> None:
    sock, cookie = rig.socket("udp4")
    rig.bring(cookie, VOICE)
    rig.local.trouble[cookie] = Elsewhere(errno.ENOBUFS, "still looked for")
    rig.restart()
    assert rig.local.sought == {cookie: os.fstat(sock.fileno()).st_ino}


def test_a_kernel_that_refuses_is_asked_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    sock, cookie = rig.socket("udp4")
    rig.bring(cookie, VOICE)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no")

    with monkeypatch.context() as patch:
        patch.setattr(Mortal, "setsockopt", refuse)
        recovered = rig.restart()
    assert (recovered.failed, recovered.reason) == (1, "[Errno 1] no")
    assert options_of(sock).tos == 0xE0
    assert rig.restart().given_back == 1
    assert options_of(sock).tos == 0


# -- in the run -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble", [Elsewhere(errno.ENOBUFS, "looked for"), OutOfReach(errno.EPERM, "not allowed")]
)
def test_a_flow_that_ends_out_of_reach(rig: Rig, trouble: OSError) -> None:
    sock, cookie = rig.socket("udp4")
    rig.bring(cookie, VOICE)
    rig.local.trouble[cookie] = trouble
    # It ends all the same, and what is owed is kept.
    assert isinstance(rig.bring(cookie), Applied)
    assert rig.backend.observe() == {}
    assert set(rig.journal.left) == {cookie}
    rig.local.trouble.clear()
    assert retry(rig.journal, rig.local).given_back == 1
    assert options_of(sock).tos == 0
    assert rig.journal.count == 0


def test_a_socket_that_its_process_has_not_is_gone_from_its_flow(rig: Rig) -> None:
    marked, plain = rig.socket("udp4"), rig.socket("udp4")
    rig.bring(marked[1], VOICE)
    for _, cookie in (marked, plain):
        rig.local.trouble[cookie] = Elsewhere(errno.ENOBUFS, "looked for")
        assert rig.bring(cookie, BULK) == Applied(frozenset({cookie}))
    assert set(rig.journal.left) == {marked[1]}, "nothing is owed to the other"


def test_a_mark_out_of_reach_is_refused(rig: Rig) -> None:
    sock, cookie = rig.socket("udp4")
    rig.bring(cookie, VOICE)
    rig.local.trouble[cookie] = OutOfReach(errno.EPERM, "give qwaved what it needs")
    refusal = rig.bring(cookie, BULK)
    assert isinstance(refusal, Refusal)
    assert refusal.code is ErrorCode.ERROR_ACCESS_DENIED
    assert "give qwaved what it needs" in refusal.detail
    assert options_of(sock).tos == 0xE0
    assert rig.backend.observe() == {cookie: VOICE}
    assert rig.journal.left == {}


@pytest.mark.parametrize("again", [[BULK], [UNTOUCHED], [PACED]])
def test_one_that_is_owed_and_comes_into_a_flow_again(rig: Rig, again: list[Treatment]) -> None:
    # Its old marks must not be taken for the application's own.
    sock, cookie = rig.socket("udp4 connected")
    set_tos(sock, 0x28)
    before = options_of(sock)
    rig.bring(cookie, PACED)
    rig.local.trouble[cookie] = Elsewhere(errno.ENOBUFS, "looked for")
    rig.bring(cookie)
    rig.local.trouble.clear()
    assert rig.bring(cookie, *again) == Applied()
    assert rig.journal.left == {}
    assert options_of(sock).tos == {BULK: 0x20, UNTOUCHED: 0x28, PACED: 0xE0}[again[0]]
    rig.bring(cookie)
    assert options_of(sock) == before
    assert rig.journal.count == 0


def test_without_a_journal_it_is_kept_for_the_end(rig: Rig) -> None:
    backend = SocketOptions(rig.local, PacedEverywhere())
    sock, cookie = rig.socket("udp4")
    backend.apply((plan(cookie, VOICE),))
    rig.local.trouble[cookie] = OutOfReach(errno.EPERM, "not allowed")
    assert backend.apply((plan(cookie),)) == Applied()
    assert backend.observe() == {cookie: VOICE}
    rig.local.trouble.clear()
    backend.clean_up()
    assert options_of(sock).tos == 0


def test_records_come_and_go_with_the_marks(rig: Rig) -> None:
    first, second, third = (rig.socket("udp4") for _ in range(3))
    rig.bring(first[1], UNTOUCHED)
    assert rig.journal.count == 0
    rig.bring(first[1], VOICE)
    rig.bring(second[1], VOICE)
    assert rig.journal.count == 2
    # The first loses its mark and gets it back, because another refuses.
    outcome = rig.backend.apply(
        (plan(first[1], UNTOUCHED), plan(second[1], BULK), plan(third[1], VOICE, BULK))
    )
    assert isinstance(outcome, Refusal)
    assert rig.journal.count == 2
    assert rig.restart() == Recovered(given_back=2)
    assert [options_of(sock).tos for sock, _ in (first, second, third)] == [0, 0, 0]


def test_a_socket_that_is_gone_is_owed_nothing(rig: Rig) -> None:
    _, cookie = rig.socket("udp4")
    rig.bring(cookie, VOICE)
    del rig.local.sockets[cookie]
    assert rig.bring(cookie, BULK) == Applied(frozenset({cookie}))
    assert (rig.journal.count, rig.journal.left) == (0, {})


def test_a_journal_without_room_is_a_refusal(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    sock, cookie = rig.socket("udp4")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "enter", full)
        refusal = rig.bring(cookie, VOICE)
    assert isinstance(refusal, Refusal)
    assert "no room" in refusal.detail
    assert options_of(sock).tos == 0
    assert rig.backend.observe() == {}
    assert isinstance(rig.bring(cookie, VOICE), Applied)


def test_a_kernel_that_refuses_the_mark(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    sock, cookie = rig.socket("udp6")
    real = Mortal.setsockopt

    def refuse(self: Mortal, level: int, option: int, value: int) -> None:
        if option == socket.SO_PRIORITY and value == VOICE.queue_priority:
            raise PermissionError(errno.EPERM, "no")
        real(self, level, option, value)

    with monkeypatch.context() as patch:
        patch.setattr(Mortal, "setsockopt", refuse)
        assert isinstance(rig.bring(cookie, VOICE), Refusal)
        assert options_of(sock).tos == 0
        assert rig.journal.count == 0
        rig.bring(cookie, BULK)
        assert isinstance(rig.bring(cookie, VOICE), Refusal)
    assert (options_of(sock).tos, options_of(sock).tclass) == (0x20, 0x20)
    assert rig.restart().given_back == 1
    assert (options_of(sock).tos, options_of(sock).tclass) == (0, 0)

"""Sockets of other processes: fetched when they are needed, proved to be the ones, never kept."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, cast

import pytest

from openqwave.drivers import closing, processes
from openqwave.drivers.closing import Closer, close_safely, close_socket
from openqwave.drivers.holders import Rounds, Sought, search_process
from openqwave.drivers.passing import LentSocket
from openqwave.drivers.processes import Process, process_of, refuse_tracing
from openqwave.drivers.reaching import ReachableSockets
from openqwave.drivers.sockets import SocketDirectory, own_namespace
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.sockets import Elsewhere, OutOfReach, SocketFacts
from tests.patience import until
from tests.unit.loopback import KINDS, Bench, bench, set_tos
from tests.unit.strangers import Stranger, Strangers, needs_fetching, strangers

MS = 1_000_000


@pytest.fixture
def people() -> Iterator[Strangers]:
    with strangers() as made:
        yield made


@pytest.fixture
def client(people: Strangers) -> Stranger:
    stranger = people.start()
    needs_fetching(stranger.process)
    return stranger


@pytest.fixture
def own() -> Iterator[Process]:
    process = Process.of_pid(os.getpid())
    assert process is not None
    needs_fetching(process)
    with process:
        yield process


class Clock:
    """Moves on by itself as much at each look as it is told to."""

    def __init__(self, step_ns: int = 0) -> None:
        self.now = 10**12
        self.step = step_ns

    def __call__(self) -> int:
        self.now += self.step
        return self.now


@pytest.fixture
def reachable() -> ReachableSockets:
    # On a clock that stands still nothing takes too long.
    return ReachableSockets(Clock())


def pass_(sock: socket.socket, process: Process | None, number: int | None = None) -> LentSocket:
    """What a client would have passed of a socket of this process."""
    return LentSocket(os.dup(sock.fileno()), process, sock.fileno() if number is None else number)


def add(reachable: ReachableSockets, lent: LentSocket) -> int:
    """Name a socket in a request, and be done with that."""
    with lent:
        reachable.take_in_hand(lent.cookie, lent)
        reachable.put_down()
        return lent.cookie


@contextmanager
def borrowed(reachable: ReachableSockets, cookie: int) -> Iterator[socket.socket | None]:
    sock = reachable.borrow(cookie)
    try:
        yield sock
    finally:
        reachable.give_back(sock)


def cookie_of(sock: socket.socket) -> int:
    cookie = SocketDirectory().cookie_of(sock)
    assert isinstance(cookie, int)
    return cookie


def finds(reachable: ReachableSockets, cookie: int) -> bool:
    with borrowed(reachable, cookie) as found:
        return found is not None and cookie_of(found) == cookie


def is_open(number: int) -> bool:
    return os.path.lexists(f"/proc/self/fd/{number}")


# -- what a client passes -------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_facts_are_those_of_the_kernel(
    reachable: ReachableSockets, sockets: Bench, kind: str
) -> None:
    sock = sockets.make(kind)
    facts = SocketDirectory().describe(sock)
    assert isinstance(facts, SocketFacts)
    with pass_(sock, None) as lent:
        told = reachable.describe(lent)
        assert isinstance(told, SocketFacts)
        # Also of a connected one, because it may be of another network namespace.
        assert told.namespace == own_namespace()
        assert (told.cookie, told.transport, told.version, told.peer, told.interface) == (
            facts.cookie,
            facts.transport,
            facts.version,
            facts.peer,
            facts.interface,
        )
        assert reachable.cookie_of(lent) == lent.cookie == facts.cookie


def test_what_did_not_come_is_no_socket(reachable: ReachableSockets, sockets: Bench) -> None:
    # Above all, a number or an object of the service's own is nothing that a client may name.
    closed = pass_(sockets.make("udp4"), None)
    closed.close()
    for thing in (-1, sockets.make("udp4"), sockets.make("udp4").fileno(), closed):
        for answer in (reachable.describe(thing), reachable.cookie_of(thing)):
            assert isinstance(answer, Refusal), thing
            assert answer.code is ErrorCode.ERROR_INVALID_PARAMETER
    with pytest.raises(TypeError):
        reachable.take_in_hand(1, sockets.make("udp4"))


def test_other_protocols_are_not_supported(reachable: ReachableSockets) -> None:
    left, right = socket.socketpair()
    with left, right, pass_(left, None) as lent:
        refusal = reachable.describe(lent)
    assert isinstance(refusal, Refusal)
    assert refusal.code is ErrorCode.ERROR_NOT_SUPPORTED


def test_what_is_no_socket_stays_the_callers_to_close() -> None:
    reader, writer = os.pipe()
    try:
        for number in (reader, 10**6, -1):
            with pytest.raises(OSError, match=r"."):
                LentSocket(number)
        assert is_open(reader)
    finally:
        os.close(reader)
        os.close(writer)


def test_the_one_in_hand_is_used_as_it_is(
    reachable: ReachableSockets, sockets: Bench, own: Process
) -> None:
    sock = sockets.make("udp4")
    with pass_(sock, own) as lent:
        reachable.take_in_hand(lent.cookie, lent)
        assert reachable.borrow(lent.cookie) is lent
        reachable.give_back(lent)
        assert lent.fileno() >= 0, "the request may need it again"
        reachable.put_down()
        again = reachable.borrow(lent.cookie)
        assert again is not lent
        reachable.give_back(again)


def test_lent_ones_are_used_until_they_are_taken_back(
    reachable: ReachableSockets, sockets: Bench
) -> None:
    # Nobody knows the process, so that there is no other way.
    sock = sockets.make("udp4")
    cookie = add(reachable, pass_(sock, None))
    with pytest.raises(OutOfReach, match="process"):
        reachable.borrow(cookie)
    with pass_(sock, None) as first, pass_(sock, None) as second:
        reachable.lend([first])
        reachable.lend([second])
        assert reachable.borrow(cookie) is first
        reachable.give_back(first)
        assert first.fileno() >= 0
        reachable.take_back([first])
        assert reachable.borrow(cookie) is second
        reachable.take_back([first, second])
        with pytest.raises(OutOfReach):
            reachable.borrow(cookie)
        reachable.lend([first, second])
        first.close()
        assert reachable.borrow(cookie) is second, "one that is closed is of no use"


def test_nobody_lends_anothers_socket(
    reachable: ReachableSockets, sockets: Bench, own: Process
) -> None:
    # What a client lends stands for itself only, whatever flow it came with.
    cookie = add(reachable, pass_(sockets.make("udp4"), own))
    with pass_(sockets.make("udp4"), own) as other:
        reachable.lend([other])
        with borrowed(reachable, cookie) as found:
            assert found is not None
            assert found is not other


# -- reaching them in their process ---------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_fetched_under_its_number(
    reachable: ReachableSockets, sockets: Bench, own: Process, kind: str
) -> None:
    sock = sockets.make(kind)
    cookie = add(reachable, pass_(sock, own))
    with borrowed(reachable, cookie) as found:
        assert found is not None
        assert cookie_of(found) == cookie
        is_udp = kind.startswith("udp")
        protocol = socket.IPPROTO_UDP if is_udp else socket.IPPROTO_TCP
        assert (found.family, found.type, found.proto) == (sock.family, sock.type, protocol)
        set_tos(found, 0x48)
    assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 0x48
    assert not reachable.is_gone(cookie)
    reachable.forget(cookie)
    assert reachable.borrow(cookie) is None


@pytest.mark.parametrize("named", ["not at all", "wrongly", "by a number that was moved"])
def test_found_under_another_number(
    reachable: ReachableSockets, sockets: Bench, own: Process, named: str
) -> None:
    sock = sockets.make("udp4")
    if named == "by a number that was moved":
        moved = sock.dup()
        cookie = add(reachable, pass_(sock, own))
        sock.close()
    else:
        moved = sock
        cookie = add(reachable, pass_(sock, own, -1 if named == "not at all" else 10**6))
    with moved:
        assert finds(reachable, cookie)
        # Looked for once: the second time it is where it was found.
        own.rest_until_ns = 1 << 62
        assert finds(reachable, cookie)


def test_a_number_that_names_another_socket(
    reachable: ReachableSockets, sockets: Bench, own: Process
) -> None:
    sock, other = sockets.make("udp4"), sockets.make("udp4")
    cookie = add(reachable, pass_(sock, own, other.fileno()))
    assert finds(reachable, cookie)
    assert cookie_of(other) != cookie


@pytest.mark.usefixtures("fd_guard")
def test_a_number_that_is_used_again(reachable: ReachableSockets, own: Process) -> None:
    # "File numbers are reused within microseconds; a cookie is never."
    with ExitStack() as stack:
        first = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        number = first.fileno()
        cookie = add(reachable, pass_(first, own))
        first.close()
        second = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        assert second.fileno() == number
        assert reachable.is_gone(cookie)
        assert second.fileno() == number
        second.close()
        reader, writer = os.pipe()
        stack.callback(os.close, reader)
        stack.callback(os.close, writer)
        assert number in (reader, writer)
        assert reachable.is_gone(cookie)
        assert is_open(number)
        until(lambda: closing.open_count() == 0)


@pytest.mark.usefixtures("fd_guard")
def test_reaching_leaves_nothing_open(reachable: ReachableSockets, own: Process) -> None:
    with bench() as made:
        for kind in ("udp4", "tcp4 connected"):
            sock = made.make(kind)
            cookie = add(reachable, pass_(sock, own))
            for _ in range(3):
                assert finds(reachable, cookie)
            copy = sock.dup()
            sock.close()
            with copy:
                assert finds(reachable, cookie)
            assert reachable.is_gone(cookie)
        until(lambda: closing.open_count() == 0)


def test_the_peer_sees_the_end(reachable: ReachableSockets, client: Stranger) -> None:
    # "a copy that is kept would hold the application's connection open"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        number = client.make(f"socket.create_connection(('127.0.0.1', {port}))")
        far, _ = listener.accept()
    with far:
        far.settimeout(10)
        cookie = add(reachable, client.lend(number))
        assert finds(reachable, cookie)
        client.close(number)
        assert far.recv(1) == b""


def test_a_socket_that_comes_again_is_where_it_came_from_last(
    reachable: ReachableSockets, people: Strangers, client: Stranger
) -> None:
    number = client.make_udp()
    other = people.fork(client)
    add(reachable, client.lend(number))
    moved = other.move(number)
    cookie = add(reachable, other.lend(moved))
    client.kill()
    other.process.rest_until_ns = 1 << 62
    assert finds(reachable, cookie)
    # Named again without a number, as by a request that takes it out of a flow.
    add(reachable, other.lend(moved, is_named=False))
    assert finds(reachable, cookie)
    assert reachable.rounds.begun == 0
    reachable.forget(cookie)
    assert reachable.borrow(cookie) is None


# -- in other processes ---------------------------------------------------------------


def test_a_socket_that_a_child_has(
    reachable: ReachableSockets, people: Strangers, client: Stranger
) -> None:
    number = client.make_udp()
    cookie = add(reachable, client.lend(number))
    child = people.fork(client)
    client.kill()
    assert finds(reachable, cookie)
    moved = child.move(number)
    assert finds(reachable, cookie), "it is looked for anew when it has moved"
    child.close(moved)
    assert reachable.borrow(cookie) is None
    assert reachable.is_gone(cookie)


def test_a_socket_that_was_passed_on(
    reachable: ReachableSockets, people: Strangers, client: Stranger
) -> None:
    number = client.make_udp()
    with client.lend(number) as lent:
        cookie = add(reachable, client.lend(number))
        people.start().run("given", [lent.fileno()])
    client.close(number)
    assert finds(reachable, cookie)


def test_a_dead_process_costs_one_search(
    reachable: ReachableSockets, people: Strangers, client: Stranger
) -> None:
    numbers = [client.make_udp() for _ in range(30)]
    cookies = [add(reachable, client.lend(number)) for number in numbers]
    child = people.fork(client)
    child.close(*numbers[10:])
    client.kill()
    rounds = reachable.rounds
    assert reachable.find_gone(cookies) == set(cookies[10:])
    assert rounds.begun == 1
    assert not any(reachable.is_gone(cookie) for cookie in cookies[:10])
    child.kill()
    assert reachable.find_gone(cookies) == set(cookies)
    assert rounds.begun == 2


def test_what_moved_after_a_search_wants_another(
    reachable: ReachableSockets, people: Strangers, client: Stranger
) -> None:
    first, second = client.make_udp(), client.make_udp()
    cookies = [add(reachable, client.lend(number)) for number in (first, second)]
    child = people.fork(client)
    client.kill()
    assert finds(reachable, cookies[0])
    child.move(second)
    assert finds(reachable, cookies[1])
    assert reachable.rounds.begun == 2


def test_what_was_on_its_way_during_a_search(
    reachable: ReachableSockets, people: Strangers, client: Stranger
) -> None:
    # Sent and not received, it was nobody's; but it was seen after that.
    number, other = client.make_udp(), client.make_udp()
    cookie, gone = (add(reachable, client.lend(one)) for one in (number, other))
    client.run(
        "left, right = socket.socketpair();"
        f"socket.send_fds(left, [b'!'], [{number}]); os.close({number}); os.close({other})"
    )
    assert reachable.borrow(gone) is None
    assert client.run("result = socket.recv_fds(right, 1, 1)[1]") == [number]
    assert finds(reachable, cookie)
    people.fork(client)
    client.kill()
    assert finds(reachable, cookie)


def test_own_descriptors_are_nobodys(reachable: ReachableSockets, client: Stranger) -> None:
    # What the service happens to have open is no use of the application's.
    number = client.make_udp()
    with client.lend(number) as kept:
        cookie = add(reachable, client.lend(number))
        client.kill()
        assert kept.fileno() >= 0
        assert reachable.borrow(cookie) is None


def test_what_is_added_during_a_search_wants_another(people: Strangers, client: Stranger) -> None:
    clock = Clock()
    reachable = ReachableSockets(clock)
    first, second = client.make_udp(), client.make_udp()
    gone = add(reachable, client.lend(first))
    client.close(first)
    assert reachable.borrow(gone) is None
    # Brought after that search, so its result says nothing of it.
    cookie = add(reachable, client.lend(second))
    people.fork(client)
    client.kill()
    assert finds(reachable, cookie)


def test_searching_takes_a_tenth_of_the_time(people: Strangers, client: Stranger) -> None:
    # "never more than a tenth of the time is spent on it"
    clock = Clock()
    reachable = ReachableSockets(clock)
    number = client.make_udp()
    cookie = add(reachable, client.lend(number))
    people.fork(client)
    client.kill()
    # Every look at the clock is a millisecond later: not one piece is enough.
    clock.step = MS
    with pytest.raises(Elsewhere):
        reachable.borrow(cookie)
    assert reachable.is_gone(cookie), "its process does not have it"
    pieces = 1
    begun = clock.now
    while True:
        try:
            sock = reachable.borrow(cookie)
        except Elsewhere:
            clock.now += 10 * MS
            pieces += 1
        else:
            break
    assert sock is not None
    reachable.give_back(sock)
    assert pieces > 3
    assert reachable.rounds.begun == 1, "a search goes on where it was"
    assert clock.now > begun


def test_a_process_of_many_descriptors_is_not_searched_at_once_again(
    sockets: Bench, own: Process
) -> None:
    clock = Clock()
    reachable = ReachableSockets(clock)
    one, other = (
        add(reachable, pass_(sockets.make("udp4"), own, -1)),
        add(reachable, pass_(sockets.make("udp4"), own, -1)),
    )
    # Two milliseconds at each look.
    clock.step = 2 * MS
    assert finds(reachable, one)
    with pytest.raises(OutOfReach, match="try again") as raised:
        reachable.borrow(other)
    assert not isinstance(raised.value, Elsewhere), "it may well be there"
    clock.now += 40 * MS
    assert finds(reachable, other)


def test_a_process_of_very_many_descriptors(own: Process, sockets: Bench) -> None:
    clock = Clock()
    reachable = ReachableSockets(clock)
    cookie = add(reachable, pass_(sockets.make("udp4"), own, -1))
    with ExitStack() as stack:
        for _ in range(300):
            stack.callback(os.close, os.dup(0))
        stack.enter_context(sockets.make("udp4").dup())
        clock.step = 10 * MS
        numbers, has_looked = search_process(os.getpid(), 1, clock)
        assert (numbers, has_looked) == ([], False)
        cookie = add(reachable, pass_(stack.enter_context(sockets.make("udp4").dup()), own, -1))
        with pytest.raises(OutOfReach, match="try again"):
            reachable.borrow(cookie)


# -- rounds ---------------------------------------------------------------------------


def test_a_round_finds_every_holder(people: Strangers, client: Stranger) -> None:
    number = client.make_udp()
    child = people.fork(client)
    with client.lend(number) as lent:
        inode = os.fstat(lent.fileno()).st_ino
        sought = Sought()
        sought.add(inode)
        rounds = Rounds(Clock())
        assert rounds.go_on(sought)
        assert sorted(rounds.places_of(inode)) == sorted(
            [(client.process.pid, number), (child.process.pid, number)]
        )
        sought.add(inode)
        sought.drop(inode)
        assert inode in sought
        sought.drop(inode)
        assert rounds.go_on(sought)
        assert rounds.places_of(inode) == ()


def test_a_round_that_is_patient_is_done_at_once() -> None:
    clock = Clock(MS * 100)
    rounds = Rounds(clock)
    assert not rounds.go_on(Sought())
    begun = clock.now + clock.step
    assert rounds.go_on(Sought(), is_patient=True)
    assert (rounds.begun, rounds.done) == (1, 1)
    # The next waits its turn, which is nine times as long.
    ended = clock.now
    took, clock.step = ended - begun, 0
    clock.now = ended + 9 * took - 2
    assert not rounds.go_on(Sought())
    clock.now += 2
    assert rounds.go_on(Sought())


def test_processes_that_end_during_a_round(
    people: Strangers, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = os.listdir("/proc")
    ended = people.start()
    monkeypatch.setattr(os, "listdir", lambda _: [*pids, str(ended.process.pid), "4194304"])
    ended.kill()
    assert Rounds(Clock()).go_on(Sought())


# -- owed without a flow --------------------------------------------------------------


def test_owed_sockets_are_found_by_their_inode(
    reachable: ReachableSockets, client: Stranger
) -> None:
    number, other = client.make_udp(), client.make_udp()
    with client.lend(number) as lent, client.lend(other) as lost:
        owed = {one.cookie: os.fstat(one.fileno()).st_ino for one in (lent, lost)}
        # Gone, and its inode's number is another socket's.
        owed[1] = owed[lent.cookie]
    client.close(other)
    reachable.seek(owed)
    reachable.search_everywhere()
    assert finds(reachable, lent.cookie)
    if not reachable.rounds.is_blind:
        assert reachable.borrow(lost.cookie) is None
        assert reachable.borrow(1) is None
    assert reachable.rounds.begun == 1
    reachable.seek({})
    assert reachable.borrow(lent.cookie) is None


def test_owed_and_in_a_flow_at_once(reachable: ReachableSockets, client: Stranger) -> None:
    number = client.make_udp()
    with client.lend(number) as lent:
        owed = {lent.cookie: os.fstat(lent.fileno()).st_ino}
    reachable.seek(owed)
    cookie = add(reachable, client.lend(number))
    reachable.seek({})
    assert finds(reachable, cookie)
    reachable.seek(owed)
    reachable.forget(cookie)
    assert finds(reachable, cookie)


def test_where_not_everybody_may_be_looked_into(
    reachable: ReachableSockets, client: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = client.make_udp()
    with client.lend(number) as lent:
        owed = {lent.cookie: os.fstat(lent.fileno()).st_ino}
    cookie = add(reachable, client.lend(number))
    client.kill()
    really_open = os.open

    def refuse(path: str, *arguments: Any) -> int:  # noqa: ANN401 - whatever is asked
        if path == "/proc/1/fd":
            raise PermissionError(errno.EACCES, "no")
        return really_open(path, *arguments)

    monkeypatch.setattr(os, "open", refuse)
    # Of a flow's socket it was known who has it, and that one is dead.
    assert reachable.borrow(cookie) is None
    reachable.forget(cookie)
    reachable.seek(owed)
    with pytest.raises(OutOfReach, match="looked into"):
        reachable.borrow(cookie)


# -- processes ------------------------------------------------------------------------


def test_a_process_is_told_by_its_end(client: Stranger) -> None:
    process = client.process
    assert process.is_alive()
    assert select.select([process], [], [], 0)[0] == []
    client.kill()
    assert not process.is_alive()
    assert select.select([process], [], [], 0)[0] == [process]
    assert process.fetch(0) is None
    assert process.refuse_fetching() == ""
    number = process.fileno()
    process.close()
    process.close()
    assert process.fileno() == -1
    assert not process.is_alive()
    assert not is_open(number)


def test_a_process_that_let_go_of_its_connection_is_reached_by_its_pid(
    reachable: ReachableSockets, client: Stranger
) -> None:
    number = client.make_udp()
    cookie = add(reachable, client.lend(number))
    client.process.close()
    assert finds(reachable, cookie)


def test_nothing_under_a_number(own: Process) -> None:
    assert own.fetch(10**6) is None
    assert own.fetch((1 << 31) - 1) is None


class Peer:
    """A connection whose kernel answers as it is told."""

    def __init__(self, pid: int, answer: int | OSError) -> None:
        self._pid = pid
        self._answer = answer

    def getsockopt(self, level: int, option: int, size: int = 0) -> int | bytes:
        assert level == socket.SOL_SOCKET
        if option == socket.SO_PEERCRED:
            assert size == 12
            return struct.pack("3i", self._pid, 0, 0)
        if isinstance(self._answer, OSError):
            raise self._answer
        return self._answer


def told(pid: int, code: int) -> Process | None:
    return process_of(cast("socket.socket", Peer(pid, OSError(code, "told"))))


def test_a_peer_whose_process_cannot_be_held() -> None:
    # Of another pid namespace, though it might be held.
    assert process_of(cast("socket.socket", Peer(0, 10**6))) is None
    # Gone already.
    for code in (errno.ESRCH, errno.EINVAL, errno.ENODATA):
        assert told(os.getpid(), code) is None
    # Before Linux 6.5.
    older = told(os.getpid(), errno.ENOPROTOOPT)
    assert older is not None
    with older:
        assert older.pid == os.getpid()
        assert older.is_alive()
    assert told((1 << 22) + 1, errno.ENOPROTOOPT) is None
    with pytest.raises(OSError, match="told"):
        told(os.getpid(), errno.EMFILE)


@pytest.mark.parametrize(
    ("code", "found", "text"),
    [
        (errno.EPERM, errno.EPERM, "CAP_SYS_PTRACE"),
        (errno.ENOSYS, errno.EOPNOTSUPP, "Linux 5.6"),
    ],
)
def test_why_nothing_can_be_fetched(
    reachable: ReachableSockets,
    sockets: Bench,
    own: Process,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    found: int,
    text: str,
) -> None:
    cookie = add(reachable, pass_(sockets.make("udp4"), own))
    assert reachable.cannot_reach(own) == ""
    refuse_with(monkeypatch, code)
    with pytest.raises(OutOfReach, match=text) as raised:
        reachable.borrow(cookie)
    assert raised.value.errno == found
    assert text in reachable.cannot_reach(own)
    with pytest.raises(OutOfReach):
        reachable.is_gone(cookie)
    assert reachable.find_gone([cookie]) == set(), "nobody knows"


def refuse_with(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(*_: object) -> int:
        ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(processes, "_syscall", fail)


def test_out_of_descriptors_is_not_gone(
    reachable: ReachableSockets, sockets: Bench, own: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    cookie = add(reachable, pass_(sockets.make("udp4"), own))
    refuse_with(monkeypatch, errno.EMFILE)
    with pytest.raises(OSError, match="files") as raised:
        reachable.borrow(cookie)
    assert not isinstance(raised.value, OutOfReach)


def test_a_process_that_nobody_knows(reachable: ReachableSockets) -> None:
    assert "process" in reachable.cannot_reach(None)
    assert reachable.cannot_reach_all() == refuse_tracing()


def test_a_process_that_refuses_while_others_do_not(
    reachable: ReachableSockets, people: Strangers, client: Stranger
) -> None:
    number = client.make_udp()
    cookie = add(reachable, client.lend(number))
    pids = {people.fork(client).process.pid, people.fork(client).process.pid}
    client.kill()
    real = Process.fetch

    def fetch(self: Process, wanted: int) -> int | None:
        if self.pid in pids:
            raise OutOfReach(errno.EPERM, "a stranger")
        return real(self, wanted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Process, "fetch", fetch)
        with pytest.raises(OutOfReach, match="a stranger"):
            reachable.borrow(cookie)
        # One of them can be asked.
        pids.remove(max(pids))
        assert finds(reachable, cookie)


# -- closing --------------------------------------------------------------------------


def lingering(stack: ExitStack) -> socket.socket:
    """A socket with unsent data whose last close waits for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = stack.enter_context(socket.create_connection(listener.getsockname()))
        far, _ = listener.accept()
    stack.enter_context(far)
    near.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            near.send(bytes(1 << 16))
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    # Whoever has the other end decides when the close is over.
    stack.callback(far.setsockopt, socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return near


def in_time(act: Callable[[], object]) -> None:
    started = time.monotonic()
    act()
    assert time.monotonic() - started < 2


def test_a_socket_that_lingers_keeps_nobody() -> None:
    with ExitStack() as stack:
        lent = LentSocket(lingering(stack).detach())
        number = lent.fileno()
        in_time(lent.close)
        assert lent.fileno() == -1
        until(lambda: not is_open(number))
        # It is taken off the table first; the thread is what waits.
        assert closing.open_count() == 1
    until(lambda: closing.open_count() == 0)


def test_a_fetched_socket_that_lingers_keeps_nobody(
    reachable: ReachableSockets, own: Process
) -> None:
    with ExitStack() as stack:
        near = lingering(stack)
        cookie = add(reachable, pass_(near, own))
        found = reachable.borrow(cookie)
        # Not the last of them, so this does not wait.
        near.close()
        in_time(lambda: reachable.give_back(found))
    until(lambda: closing.open_count() == 0)


def test_the_stuck_do_not_stop_the_others() -> None:
    closer = Closer()
    with ExitStack() as stack:
        for _ in range(4):
            assert closer.close(lingering(stack).detach())
        reader, writer = os.pipe()
        stack.callback(os.close, writer)
        assert closer.close(reader)
        until(lambda: not is_open(reader))
        until(lambda: closer.open_count == 4)
    until(lambda: closer.open_count == 0)


def test_threads_are_few_and_jams_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "_MOST_THREADS", 2)
    monkeypatch.setattr(closing, "_MOST_WAITING", 3)
    monkeypatch.setattr(closing, "_IDLE_S", 0.01)
    before = threading.active_count()
    closer = Closer()
    with ExitStack() as stack:
        told = [closer.close(lingering(stack).detach()) for _ in range(5)]
        assert told == [True, True, True, False, False]
        assert closer.is_jammed
        assert threading.active_count() <= before + 2
    until(lambda: closer.open_count == 0)
    assert closer.open_count == 0
    # Threads with nothing to do end, and another starts when it is needed.
    until(lambda: threading.active_count() <= before)
    number = os.dup(0)
    assert closer.close(number)
    until(lambda: not is_open(number))


def test_nothing_is_fetched_while_closing_is_jammed(
    reachable: ReachableSockets, sockets: Bench, own: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    cookie = add(reachable, pass_(sockets.make("udp4"), own))
    monkeypatch.setattr(closing, "_MOST_WAITING", -1)
    monkeypatch.setattr(closing, "_STUCK_S", -1)
    with pytest.raises(OutOfReach, match="cannot be closed"):
        reachable.borrow(cookie)


@pytest.mark.parametrize("kind", ["udp4", "udp6", "tcp4 connected", "tcp6"])
def test_what_cannot_wait_is_closed_at_once(sockets: Bench, kind: str) -> None:
    lent = pass_(sockets.make(kind), None)
    number = lent.fileno()
    before = closing.open_count()
    close_socket(lent)
    close_socket(lent)
    assert not is_open(number)
    assert closing.open_count() == before


def test_other_sockets_are_closed_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each kind of socket has waits of its own.
    sent: list[int] = []
    monkeypatch.setattr(closing, "close_safely", sent.append)
    left, right = socket.socketpair()
    with right:
        number = left.fileno()
        close_socket(left)
        assert sent == [number]
        os.close(number)


def test_a_descriptor_that_is_closed_already() -> None:
    close_safely(10**6)
    until(lambda: closing.open_count() == 0)

"""The service kills itself, its clients are killed: no socket keeps a mark that was ours.

Real processes: clients with sockets of their own, also as other users, and a service that fetches
them, marks them and is killed with SIGKILL. What the sockets hold is read by other copies of them.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from openqwave.drivers import closing
from openqwave.drivers.closing import close_safely
from openqwave.drivers.passing import LentSocket
from openqwave.drivers.processes import refuse_tracing
from openqwave.drivers.reaching import ReachableSockets
from openqwave.enforcement.journal import Journal
from openqwave.enforcement.socket_options import SocketOptions
from openqwave.model.endpoint import Endpoint
from openqwave.model.flow import Treatment
from openqwave.service.recovery import recover, retry
from openqwave.subsystem.effects import Applied, Share, SocketPlan
from tests.patience import until
from tests.unit.loopback import Options, options_of, set_pacing, set_priority, set_tclass, set_tos
from tests.unit.strangers import Stranger, Strangers, needs_fetching, strangers

VOICE = Treatment(56, 6)
HERE = Endpoint(bytes([127, 0, 0, 1]), 9)
NOBODY = "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)"


class NoQueues:
    """Answers as an ordinary interface does."""

    def is_paced(self, destination: Endpoint, interface: int) -> bool:
        return not destination.port and not interface

    def linux_version(self) -> tuple[int, int]:
        return (6, 18)


class Service:
    """What of the service has to do with sockets."""

    def __init__(self, path: Path) -> None:
        self.sockets = ReachableSockets()
        self.journal = Journal(path)
        self.backend = SocketOptions(self.sockets, NoQueues(), self.journal)

    def add(self, client: Stranger, number: int) -> int:
        """As a request does that puts a socket into a flow."""
        with client.lend(number) as lent:
            self.sockets.take_in_hand(lent.cookie, lent)
            try:
                assert self.mark(lent.cookie, VOICE) == Applied()
            finally:
                self.sockets.put_down()
            return lent.cookie

    def mark(self, cookie: int, *treatments: Treatment) -> object:
        shares = tuple(Share(1, treatment, 1, (HERE,)) for treatment in treatments)
        outcome = self.backend.apply((SocketPlan(cookie, shares),))
        if not shares:
            self.sockets.forget(cookie)
        return outcome

    def settle(self) -> None:
        """Give back what is owed: at once, or a piece at a time on a busy host."""
        until(lambda: retry(self.journal, self.sockets).searched == 0)
        assert self.journal.count == 0


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
def path(tmp_path: Path) -> Path:
    return tmp_path / "marks"


@pytest.fixture
def service(path: Path) -> Iterator[Service]:
    made = Service(path)
    yield made
    made.journal.close()


def copy_of(client: Stranger, number: int) -> socket.socket:
    """A copy by which the test reads what the socket holds, and the application writes."""
    return socket.socket(fileno=client.lend(number).detach())


# -- the service is killed ------------------------------------------------------------

MARKER = """
import itertools, random
from openqwave.drivers.passing import LentSocket
from openqwave.drivers.processes import Process
from openqwave.drivers.reaching import ReachableSockets
from openqwave.enforcement.journal import Journal
from openqwave.enforcement.socket_options import SocketOptions
from openqwave.model.flow import Treatment
from openqwave.subsystem.effects import Share, SocketPlan
from tests.kernel.test_reaching import HERE, NoQueues

def work(pid, numbers, path, seed):
    rng = random.Random(seed)
    sockets = ReachableSockets()
    backend = SocketOptions(sockets, NoQueues(), Journal(path))
    process = Process.of_pid(pid)
    cookies = []
    for number in numbers:
        with LentSocket(process.fetch(number), process, number) as lent:
            sockets.take_in_hand(lent.cookie, lent)
            sockets.put_down()
            cookies.append(lent.cookie)
    while True:
        dscp, priority = rng.choice([(56, 6), (8, 2), (40, 5), (None, None)])
        index = rng.randrange(len(cookies))
        # The last is of TCP, which is paced anywhere.
        rate = rng.choice([None, 8_000_000]) if index == len(cookies) - 1 else None
        treatment = Treatment(dscp, priority, rate)
        shares = () if dscp is rate is None else (Share(1, treatment, 1, (HERE,)),)
        backend.apply((SocketPlan(cookies[index], shares),))

def begin(*args):
    pid = os.fork()
    if pid == 0:
        work(*args)
    return pid
"""
ROUNDS = 50
# What an application may have set: what no treatment above writes, and no octet brings with it.
OCTETS, PRIORITIES = [0x00, 0x29, 0x48, 0x92], [1, 3, 4]


def differ(sockets: list[socket.socket], before: list[Options]) -> bool:
    """Are the sockets' options others than before?"""
    return [options_of(one) for one in sockets] != before


def test_a_service_that_is_killed_leaves_nothing_behind(
    people: Strangers, client: Stranger, path: Path
) -> None:
    rng = random.Random(3)
    marker = people.start()
    marker.run(MARKER)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        numbers = [
            client.make_udp(),
            client.make("socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)"),
            client.make(f"socket.create_connection({listener.getsockname()})"),
        ]
        copies = [stack.enter_context(copy_of(client, number)) for number in numbers]
        twins = [stack.enter_context(socket.socket(one.family, one.type)) for one in copies]
        begun = marked = 0
        for number in range(ROUNDS):
            for pair in zip(copies, twins, strict=True):
                write(rng, pair)
            wanted = [options_of(one) for one in twins]
            assert [options_of(one) for one in copies] == wanted
            pid = marker.run(
                f"result = begin({client.process.pid}, {numbers}, {str(path)!r}, {number})"
            )
            until(partial(differ, copies, wanted))
            # The moment is the point: any.
            time.sleep(rng.random() * 0.005)
            os.kill(pid, signal.SIGKILL)
            marker.run(f"os.waitpid({pid}, 0)")
            if number % 2:
                # Its last words, while nobody is there.
                for pair in zip(copies, twins, strict=True):
                    write(rng, pair)
            begun += differ(copies, wanted)
            with Journal(path) as journal:
                assert journal.complaint == ""
                marked += len(journal.left)
                recovered = recover(journal, ReachableSockets())
                assert recovered.gone == recovered.failed == recovered.searched == 0
                assert journal.count == 0
            assert [options_of(one) for one in copies] == [options_of(one) for one in twins]
        assert begun > ROUNDS // 2
        assert marked > ROUNDS


def write(rng: random.Random, pair: tuple[socket.socket, ...]) -> None:
    """What an application writes to its socket, and to the socket's twin."""
    tos, priority, pacing = rng.choice(OCTETS), rng.choice(PRIORITIES), rng.choice([1 << 20, 77])
    for one in pair:
        set_tos(one, tos)
        set_priority(one, priority)
        if one.family == socket.AF_INET6:
            set_tclass(one, tos)
        if one.type == socket.SOCK_STREAM:
            set_pacing(one, pacing)


def test_after_a_crash_sockets_are_found_wherever_they_are(
    people: Strangers, client: Stranger, service: Service, path: Path
) -> None:
    moved, inherited, passed, closed = numbers = [client.make_udp() for _ in range(4)]
    for number in numbers:
        service.add(client, number)
    with ExitStack() as stack:
        copies = [stack.enter_context(copy_of(client, number)) for number in numbers[:3]]
        assert [options_of(one).tos for one in copies] == [0xE0] * 3
        service.journal.close()
        people.start().run("pass", [copies[2].fileno()])
        people.fork(client).close(moved, passed, closed)
        client.close(inherited, passed, closed)
        client.move(moved)
        with Journal(path) as journal:
            recovered = recover(journal, ReachableSockets())
        assert recovered.given_back == 3
        # Nobody knows where not everybody may be looked into.
        assert recovered.gone + recovered.failed == 1
        assert [options_of(one).tos for one in copies] == [0] * 3


# -- clients are killed ---------------------------------------------------------------


def test_a_socket_shared_by_a_fork_is_unmarked_when_the_first_owner_is_killed(
    people: Strangers, client: Stranger, service: Service
) -> None:
    number = client.make_udp()
    with copy_of(client, number) as copy:
        set_tos(copy, 0x28)
        cookie = service.add(client, number)
        survivor = people.fork(client)
        client.kill()
        assert options_of(copy).tos == 0xE0
        # What the end of its handle asks for.
        assert isinstance(service.mark(cookie), Applied)
        service.settle()
        assert options_of(copy).tos == 0x28
        assert survivor.process.is_alive()


def test_the_death_of_a_client_costs_one_search(
    people: Strangers, client: Stranger, service: Service
) -> None:
    numbers = client.run(
        "made = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(200)];"
        "result = [one.fileno() for one in made]"
    )
    cookies = [service.add(client, number) for number in numbers]
    with copy_of(client, numbers[0]) as first, copy_of(client, numbers[-1]) as last:
        people.fork(client).close(*numbers[1:])
        client.kill()
        plans = tuple(SocketPlan(cookie, ()) for cookie in cookies)
        assert isinstance(service.backend.apply(plans), Applied)
        service.settle()
        assert service.sockets.rounds.begun == 1
        assert options_of(first).tos == 0
        assert options_of(last).tos == 0xE0, "this test has it, and no application any more"


# -- other users ----------------------------------------------------------------------


@pytest.mark.root
def test_a_service_with_rights_reaches_other_users(
    people: Strangers, client: Stranger, service: Service
) -> None:
    client.run(NOBODY)
    assert refuse_tracing() == ""
    assert service.sockets.cannot_reach(client.process) == ""
    number = client.make_udp()
    with copy_of(client, number) as copy:
        cookie = service.add(client, number)
        assert service.mark(cookie, Treatment(8, 2)) == Applied()
        assert options_of(copy).tos == 0x20
        people.fork(client)
        client.kill()
        assert isinstance(service.mark(cookie), Applied)
        service.settle()
        assert options_of(copy).tos == 0


@pytest.fixture
def nobodys() -> Iterator[Path]:
    """A file in a folder of nobody's."""
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65_534, 65_534)
        yield Path(folder) / "marks"


WITHOUT_RIGHTS = """
from openqwave.drivers.processes import Process
from openqwave.model.sockets import OutOfReach
from tests.kernel.test_reaching import *
client = Process.of_pid(client_pid)
service = Service(Path(where))
with LentSocket(given.pop(), client, number) as lent:
    service.sockets.take_in_hand(lent.cookie, lent)
    service.mark(lent.cookie, VOICE)
    service.sockets.put_down()
    cookie = lent.cookie
why = service.sockets.cannot_reach(client), service.sockets.cannot_reach_all()
refusal = service.mark(cookie, Treatment(8, 2))
try:
    service.sockets.is_gone(cookie)
except OutOfReach as error:
    unknown = str(error)
result = [*why, refusal.detail, unknown]
"""
LENDING = """
with LentSocket(given.pop(), client, number) as lent:
    service.sockets.lend([lent])
    service.mark(cookie, Treatment(8, 2))
    service.sockets.take_back([lent])
"""
GOING_AND_COMING = """
ended = service.mark(cookie)
left = len(service.journal.left)
tried = retry(service.journal, service.sockets)
with LentSocket(given.pop(), client, number) as lent:
    service.sockets.take_in_hand(cookie, lent)
    service.mark(cookie, Treatment(40, 5))
    service.mark(cookie)
result = [ended == Applied(), left, tried.failed, service.journal.count]
"""


@pytest.mark.root
def test_a_service_without_rights_lives_on_what_is_lent(
    people: Strangers, client: Stranger, nobodys: Path
) -> None:
    number = client.make_udp()
    service = people.start()
    # What it will need of the interpreter, which nobody may not read.
    service.run("import codecs, tests.kernel.test_reaching; codecs.lookup('ascii')")
    service.run(NOBODY)
    with copy_of(client, number) as copy:
        set_tos(copy, 0x28)
        names = f"client_pid, number = {client.process.pid}, {number}; where = {str(nobodys)!r}"
        told = service.run(names + WITHOUT_RIGHTS, [copy.fileno()])
        assert [("CAP_SYS_PTRACE" in one) for one in told] == [True] * 4
        assert options_of(copy).tos == 0xE0, "the mark was set by what came with the request"
        service.run(LENDING, [copy.fileno()])
        assert options_of(copy).tos == 0x20
        # The flow ends without help; what is owed is kept, and given with the next.
        assert service.run(GOING_AND_COMING, [copy.fileno()]) == [True, 1, 1, 0]
        assert options_of(copy).tos == 0x28


# -- those who mean harm --------------------------------------------------------------

# A file system that answers everything but that a file is closed (linux/fuse.h).
FUSE = """
import ctypes, threading
libc = ctypes.CDLL(None, use_errno=True)
device = os.open("/dev/fuse", os.O_RDWR)
CLONE_NEWNS, MS_REC_PRIVATE = 0x20000, 0x44000
good = libc.unshare(CLONE_NEWNS) == 0 and libc.mount(b"", b"/", None, MS_REC_PRIVATE, None) == 0
options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
good = good and libc.mount(b"harm", folder.encode(), b"fuse", 0, options) == 0
FLUSH, LOOKUP, GETATTR, OPEN, INIT = 25, 1, 3, 14, 26
def attributes(inode):
    mode = 0o040755 if inode == 1 else 0o100644
    return struct.pack("=6Q10I", inode, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
def answer():
    while True:
        request = os.read(device, 1 << 17)
        _, kind, unique, inode = struct.unpack_from("=IIQQ", request)
        body, error = b"", 0
        if kind == INIT:
            body = struct.pack("=4I2H2I2H8I", 7, 26, 0, 0, 0, 0, 4096, 0, 0, 0, *[0] * 8)
        elif kind == LOOKUP:
            body = struct.pack("=4Q2I", 2, 0, 0, 0, 0, 0) + attributes(2)
        elif kind == GETATTR:
            body = struct.pack("=QII", 0, 0, 0) + attributes(inode)
        elif kind == OPEN:
            body = struct.pack("=QII", 0, 0, 0)
        elif kind == FLUSH:
            os.write(told, b"!")
            continue
        else:
            error = -38
        os.write(device, struct.pack("=IiQ", 16 + len(body), error, unique) + body)
if good:
    # The one who answers is another process, so that this one can wait for it. Nobody else has the
    # device: its death answers whatever waits, and it does not live long, whatever happens here.
    flushed, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        answer()
    os.close(device)
    blocking = os.open(folder + "/file", os.O_RDONLY)
result = pid if good else 0
"""


def block(client: Stranger, folder: Path) -> int:
    """Give a client a file `blocking` whose close never ends; who has to die for it to end."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("this kernel has no FUSE")
    server: int = client.run(f"folder = {str(folder)!r}" + FUSE)
    if not server:
        pytest.skip("FUSE cannot be mounted here")
    return server


@pytest.mark.root
def test_a_file_that_cannot_be_closed_keeps_nobody(
    client: Stranger, service: Service, tmp_path: Path
) -> None:
    server = block(client, tmp_path)
    try:
        # Passed in a socket's place, and moved to where a socket was.
        _, (descriptor,) = client.run_and_get("passing = [blocking]")
        started = time.monotonic()
        with pytest.raises(OSError, match="socket"):
            LentSocket(descriptor)
        close_safely(descriptor)
        number = client.make_udp()
        cookie = service.add(client, number)
        client.run(f"os.dup2(blocking, {number})")
        assert service.sockets.is_gone(cookie)
        assert time.monotonic() - started < 5
        assert closing.open_count() == 2
    finally:
        os.kill(server, signal.SIGKILL)
    until(lambda: closing.open_count() == 0)


STUCK = """
from openqwave.drivers.closing import close_safely
from openqwave.drivers.processes import Process
from openqwave.drivers.passing import LentSocket
from tests.kernel.test_reaching import VOICE, Path, Service
close_safely(given[1])
service = Service(Path(where))
with LentSocket(given[0], Process.of_pid(client_pid), number) as lent:
    service.sockets.take_in_hand(lent.cookie, lent)
    service.mark(lent.cookie, VOICE)
"""


@pytest.mark.root
def test_a_service_that_is_kept_from_its_end_keeps_nothing_from_the_next(
    people: Strangers, client: Stranger, tmp_path: Path, path: Path
) -> None:
    # Before there is a file that a new process would have to close.
    service = people.start()
    server = block(client, tmp_path)
    try:
        _, (descriptor,) = client.run_and_get("passing = [blocking]")
        number = client.make_udp()
        with copy_of(client, number) as copy:
            names = f"client_pid, number = {client.process.pid}, {number}; where = {str(path)!r}"
            service.run(names + STUCK, [copy.fileno(), descriptor])
            # Nothing ends a wait for who knows that he is waited for.
            client.run("os.read(flushed, 1)")
            close_safely(descriptor)
            os.kill(service.process.pid, signal.SIGKILL)
            until(lambda: is_zombie(service.process.pid))
            assert service.process.is_alive(), "it has not come to its end"
            assert options_of(copy).tos == 0xE0
            with Journal(path) as journal:
                assert recover(journal, ReachableSockets()).given_back == 1
            assert options_of(copy).tos == 0
    finally:
        os.kill(server, signal.SIGKILL)
    until(lambda: not service.process.is_alive())
    until(lambda: closing.open_count() == 0)


def is_zombie(pid: int) -> bool:
    return "(zombie)" in Path(f"/proc/{pid}/status").read_text(encoding="ascii")

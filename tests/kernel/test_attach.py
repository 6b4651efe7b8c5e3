"""`qwave attach`: processes that run already, the sockets that they have, and the end of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from openqwave.drivers.families import family_of
from tests.kernel.data_plane_stage import open_socket
from tests.kernel.run_stage import (
    BACKGROUND,
    CONFIG,
    QWAVE,
    VOICE,
    Ground,
    as_user,
    finished,
    programs_of,
    start,
    until_none,
)
from tests.kernel.service_stage import NOBODY, Qwaved, public_folder
from tests.kernel.unchanged import PATIENCE_S, Wire
from tests.patience import until

if TYPE_CHECKING:
    from openqwave.lab.topology import Host

pytestmark = [pytest.mark.kernel, pytest.mark.root]

STREAM, LISTENER, DATAGRAMS = 5310, 5311, 5312

# Has a connection, a listener and a socket for datagrams, and does with them what it is told.
HOLDER = """
import os, socket, sys
address, stream_port, listener_port, datagrams_port = sys.argv[1], *map(int, sys.argv[2:5])
to = (address, datagrams_port)
old = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
stream = socket.create_connection((address, stream_port))
listener = socket.create_server(("", listener_port))
accepted = []
print("ready", flush=True)
for line in sys.stdin:
    what, _, word = line.strip().partition(" ")
    word = word.encode()
    if what == "old":
        old.sendto(word, to)
    elif what == "new":
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(word, to)
    elif what == "stream":
        stream.sendall(word)
        assert stream.recv(100) == b"yes"
    elif what == "accept":
        accepted.append(listener.accept()[0])
        accepted[-1].sendall(word)
    elif what == "child":
        if os.fork() == 0:
            old.sendto(word + b" by the old", to)
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(word, to)
            os._exit(0)
        os.wait()
    print("done", flush=True)
"""


class Holder:
    """The program, and the other ends of what it has.

    Attributes:
        process: It.
    """

    def __init__(self, hosts: tuple[Host, Host], service: Qwaved, wrapper: list[str]) -> None:
        left, right = hosts
        self._left, self._right = left, right
        self._resources = contextlib.ExitStack()
        listener = self._resources.enter_context(open_socket(right, kind=socket.SOCK_STREAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((right.ipv4, STREAM))
        listener.listen()
        ports = (STREAM, LISTENER, DATAGRAMS)
        argv = [*wrapper, sys.executable, "-c", HOLDER, right.ipv4, *map(str, ports)]
        self.process = start(left, argv, service, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.stream = self._resources.enter_context(listener.accept()[0])
        self.stream.settimeout(PATIENCE_S)
        self._read("ready")

    def _read(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{word}\n"

    def tell(self, line: str) -> None:
        """Have it do something, and wait until it is done."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        if line.startswith("stream"):
            assert self.stream.recv(100)
            self.stream.sendall(b"yes")
        elif line.startswith("accept"):
            sock = self._resources.enter_context(open_socket(self._right, kind=socket.SOCK_STREAM))
            sock.connect((self._left.ipv4, LISTENER))
            assert sock.recv(100)
        self._read("done")

    def do_everything(self) -> None:
        """Send by everything that it has, and by what is new."""
        for line in ("old a", "new b", "stream c", "accept d", "child e"):
            self.tell(line)

    def close(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.communicate()
        self._resources.close()


@contextlib.contextmanager
def holding(hosts: tuple[Host, Host], service: Qwaved, wrapper: list[str]) -> Iterator[Holder]:
    holder = Holder(hosts, service, wrapper)
    try:
        yield holder
    finally:
        holder.close()


def since(wire: Wire, count: int) -> dict[int, set[int]]:
    """The marks of what came after the first so many packets, by port."""
    wire.look()
    found: dict[int, set[int]] = {}
    for each in wire.seen[count:]:
        ports = {each.source_port, each.destination_port} & {STREAM, LISTENER, DATAGRAMS}
        found.setdefault(ports.pop(), set()).add(each.dscp)
    return found


def everywhere(dscp: int) -> dict[int, set[int]]:
    return {port: {dscp} for port in (STREAM, LISTENER, DATAGRAMS)}


def attach(host: Host, service: Qwaved, *arguments: str) -> dict[str, Any]:
    """What `qwave attach` says of its success."""
    status, out, err = finished(host, [*QWAVE, "attach", "--json", *arguments], service)
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def cgroup_of(pid: int) -> str:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line for line in lines if line.startswith("0::"))


def test_all_that_a_process_has_and_opens(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground, wire: Wire
) -> None:
    left, _ = hosts
    with (
        holding(hosts, service, place.entering()) as holder,
    ):
        pid = holder.process.pid
        before = cgroup_of(pid)
        holder.do_everything()
        assert since(wire, 0) == everywhere(0)
        seen = wire.count()
        told = attach(left, service, "--type=voice", str(pid))
        # The datagrams' socket, the connection, the listener, and what that has accepted.
        assert (told["adopted"], told["unreachable"], told["processes"]) == (4, 0, [pid])
        assert told["dscp"] == VOICE
        (name,) = place.below()
        assert cgroup_of(pid) == f"{before}/{name}"
        holder.do_everything()
        assert since(wire, seen) == everywhere(VOICE)
        (row,) = programs_of(service)
        assert (row.kind, row.number, row.pid) == ("attach", told["run"], pid)
        seen = wire.count()
        assert attach(left, service, "--end", str(told["run"]))["stays"] is None
        assert cgroup_of(pid) == before
        assert place.below() == []
        assert not programs_of(service)
        holder.do_everything()
        assert since(wire, seen) == everywhere(0)


def test_its_end_is_the_end_of_the_run(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground, wire: Wire
) -> None:
    with holding(hosts, service, place.entering()) as holder:
        attach(hosts[0], service, "--dscp=46", str(holder.process.pid))
        seen = wire.count()
        holder.tell("stream a")
        holder.process.kill()
        holder.process.wait()
        # With its last word: what the kernel says when a process is gone.
        assert holder.stream.recv(100) == b""
        assert since(wire, seen) == {STREAM: {46}}
    until_none(service)
    until(lambda: not place.below())


def test_a_run_within_which_is_attached(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground, wire: Wire
) -> None:
    left, _ = hosts
    with holding(hosts, service, place.run("--type=background")) as holder:
        holder.do_everything()
        assert since(wire, 0) == everywhere(BACKGROUND)
        seen = wire.count()
        told = attach(left, service, "--type=voice", str(holder.process.pid))
        holder.do_everything()
        assert since(wire, seen) == everywhere(VOICE)
        seen = wire.count()
        attach(left, service, "--end", str(told["run"]))
        holder.do_everything()
        # What was before is so again.
        assert since(wire, seen) == everywhere(BACKGROUND)
    until_none(service)


# Starts others all the time, which start others and end.
BROOD = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
while True:
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.05)
        time.sleep(0.02)
        os._exit(0)
    time.sleep(0.003)
"""


def test_those_who_start_others_all_the_time(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground
) -> None:
    left, _ = hosts
    argv = place.entering(sys.executable, "-c", BROOD)
    process = start(left, argv, service, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        told = attach(left, service, "--type=voice", str(process.pid))
        (name,) = place.below()
        inside = {cgroup_of(process.pid)}
        for pid in family_of(process.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, StopIteration):
                inside.add(cgroup_of(pid))
        assert len(inside) == 1
        assert inside.pop().endswith(name)
        # They are moved back, too, while they go on.
        assert attach(left, service, "--end", str(told["run"]))["stays"] is None
        assert place.below() == []
    finally:
        process.kill()
        process.communicate()


# Ends its first thread, and goes on in another one, which sends what it is told.
HEADLESS = """
import ctypes, socket, sys, threading
def work():
    for line in sys.stdin:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.sendto(line.strip().encode(), (sys.argv[1], int(sys.argv[2])))
        print("sent", flush=True)
threading.Thread(target=work).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_that_has_lost_its_first_thread(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground, wire: Wire
) -> None:
    left, right = hosts
    argv = place.entering(sys.executable, "-c", HEADLESS, right.ipv4, str(DATAGRAMS))
    process = start(left, argv, service, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def say(word: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{word}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "sent\n"

    try:
        say("before")
        stat = Path(f"/proc/{process.pid}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z")
        told = attach(left, service, "--type=voice", str(process.pid))
        say("attached")
        assert attach(left, service, "--end", str(told["run"]))["stays"] is None
        assert place.below() == []
        say("after")
    finally:
        process.kill()
        process.communicate()
    assert [(each.payload, each.dscp) for each in wire.of(DATAGRAMS)] == [
        (b"before", 0),
        (b"attached", VOICE),
        (b"after", 0),
    ]


# A process with a child in a cgroup of its own, as a manager has it, and one beside.
MANAGER = """
import os, sys, time
pids = []
for folder in (sys.argv[1], ""):
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    if folder:
        open(folder + "/cgroup.procs", "w").write(str(pid))
    pids.append(pid)
print(*pids, flush=True)
time.sleep(600)
"""


def test_who_has_a_cgroup_of_their_own_stays_there(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground
) -> None:
    left, _ = hosts
    other = place.make("container")
    argv = place.entering(sys.executable, "-c", MANAGER, str(other))
    process = start(left, argv, service, stdout=subprocess.PIPE)
    pids: list[int] = []
    try:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        apart, beside = pids
        told = attach(left, service, "--type=voice", str(process.pid))
        assert told["processes"] == [process.pid, beside]
        assert told["elsewhere"] == [apart]
        assert cgroup_of(apart).endswith("/container")
    finally:
        for pid in (*pids, process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate()
    until_none(service)


def test_everything_is_killed_and_nothing_is_left(
    hosts: tuple[Host, Host], place: Ground, wire: Wire
) -> None:
    left, _ = hosts
    with public_folder() as folder:
        service = Qwaved(folder, left, CONFIG)
        try:
            service.start()
            with holding(hosts, service, place.entering()) as holder:
                attach(left, service, "--type=voice", str(holder.process.pid))
                holder.do_everything()
                assert since(wire, 0)[STREAM] >= {VOICE}
                service.kill()
                seen = wire.count()
                holder.do_everything()
                assert since(wire, seen) == everywhere(0)
            service.start()
            assert not programs_of(service)
            until(lambda: not place.below())
            with holding(hosts, service, place.entering()) as holder:
                seen = wire.count()
                holder.do_everything()
                assert since(wire, seen) == everywhere(0)
            assert service.stop() == 0
        finally:
            service.close()


def test_a_service_that_comes_back_claims_the_sockets_again(
    hosts: tuple[Host, Host], place: Ground, wire: Wire
) -> None:
    left, _ = hosts
    with public_folder() as folder:
        service = Qwaved(folder, left, CONFIG)
        try:
            service.start()
            with holding(hosts, service, place.entering()) as holder:
                told = attach(left, service, "--type=voice", str(holder.process.pid))
                service.kill()
                service.start()
                seen = wire.count()
                holder.do_everything()
                assert since(wire, seen) == everywhere(VOICE)
                (row,) = programs_of(service)
                seen = wire.count()
                attach(left, service, "--end", str(row.number))
                holder.do_everything()
                assert since(wire, seen) == everywhere(0)
                assert row.number == told["run"]
            assert service.stop() == 0
        finally:
            service.close()


# -- who may ----------------------------------------------------------------------------


def test_a_user_attaches_to_processes_of_theirs(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground, wire: Wire
) -> None:
    left, _ = hosts
    place.make("theirs", NOBODY)
    wrapper = place.entering(*as_user(NOBODY), group="theirs")
    with holding(hosts, service, wrapper) as holder:
        pid = str(holder.process.pid)
        argv = place.entering(
            *as_user(NOBODY, *QWAVE, "attach", "--json", "--type=voice", pid), group="theirs"
        )
        status, out, err = finished(left, argv, service)
        assert (status, err) == (0, "")
        assert json.loads(out)["adopted"] == 3
        seen = wire.count()
        holder.tell("old a")
        assert since(wire, seen) == {DATAGRAMS: {VOICE}}
    until_none(service)
    until(lambda: not place.below())


def refusal(host: Host, service: Qwaved, *argv: str) -> str:
    """What a command says that fails."""
    status, out, err = finished(host, [*argv], service)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    return err


def test_whom_users_do_not_attach_to(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground
) -> None:
    left, _ = hosts
    call = (*QWAVE, "attach", "--type=voice")
    sleeper = start(left, place.entering("sleep", "600"), service)
    theirs = start(left, place.entering(*as_user(NOBODY, "sleep", "600")), service)
    try:
        until(lambda: Path(f"/proc/{sleeper.pid}/comm").read_text() == "sleep\n")
        until(lambda: Path(f"/proc/{theirs.pid}/comm").read_text() == "sleep\n")
        told = refusal(left, service, *as_user(NOBODY, *call, str(sleeper.pid)))
        assert f"process {sleeper.pid} is another user's (0), and only root attaches" in told
        # Their own, in a cgroup that is root's.
        told = refusal(left, service, *as_user(NOBODY, *call, str(theirs.pid)))
        assert f"no cgroup can be made below {place.path}" in told
        assert "run `sudo qwave attach`" in told
        assert "everything descends from" in refusal(left, service, *call, "1")
        assert "there is no process" in refusal(left, service, *call, "999999999")
        assert place.below() == []
        assert not programs_of(service)
    finally:
        for process in (sleeper, theirs):
            process.kill()
            process.wait()

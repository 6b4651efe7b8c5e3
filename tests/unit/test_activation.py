"""Where clients come in: listeners that are passed on, and our own file."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openqwave.service import activation
from openqwave.service.activation import CannotListen, Listeners, OwnFile, listeners_for


def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(path))
    return sock


def listen(path: Path, environment: dict[str, str] | None = None) -> Listeners:
    return listeners_for(str(path), {} if environment is None else environment)


@pytest.fixture
def place(tmp_path: Path, fd_guard: None) -> Path:
    del fd_guard
    return tmp_path / "run" / "qwaved.sock"


# -- our own ----------------------------------------------------------------------------


def test_clients_come_in(place: Path) -> None:
    with listen(place) as listeners:
        assert (listeners.path, listeners.are_passed) == (str(place), False)
        (listener,) = listeners.sockets
        with pytest.raises(BlockingIOError):
            listener.accept()
        assert not listener.get_inheritable()
        with connect(place), listener.accept()[0] as sock:
            assert (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET)


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_everybody_may_connect(place: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with listen(place):
            assert stat.S_IMODE(place.stat().st_mode) == 0o666
            assert stat.S_IMODE(place.parent.stat().st_mode) == 0o755
    finally:
        os.umask(before)


def test_nothing_is_left(place: Path) -> None:
    listeners = listen(place)
    listeners.close()
    assert not place.parent.exists()
    listeners.close()


def test_what_was_there_stays(place: Path) -> None:
    place.parent.mkdir(mode=0o700)
    place.parent.joinpath("marks").write_bytes(b"")
    listen(place).close()
    assert os.listdir(place.parent) == ["marks"]
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700


def test_a_directory_of_our_own_stays_while_something_is_in_it(place: Path) -> None:
    with listen(place):
        place.parent.joinpath("marks").write_bytes(b"")
    assert os.listdir(place.parent) == ["marks"]


def leave_dead(place: Path) -> int:
    """What a crash leaves; the number of the file."""
    place.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(place))
        sock.listen()
    return place.lstat().st_ino


def test_a_dead_socket_is_replaced(place: Path) -> None:
    leave_dead(place)
    with listen(place), connect(place):
        pass
    assert not place.exists()


def test_another_service_is_left_alone(place: Path) -> None:
    with listen(place) as first:
        with pytest.raises(
            CannotListen, match=f"answers at {place} already .process {os.getpid()}"
        ):
            listen(place)
        with connect(place), first.sockets[0].accept()[0]:
            pass


def test_a_busy_service_is_left_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation, "_BACKLOG", 0)
    # One more than the backlog fits.
    with listen(place), connect(place):
        with pytest.raises(CannotListen, match="is busy"):
            listen(place)
        assert place.exists()


def make_file(place: Path) -> None:
    place.write_bytes(b"precious")


def make_directory(place: Path) -> None:
    place.mkdir()


def make_link(place: Path) -> None:
    place.symlink_to(place.parent / "elsewhere")


@pytest.mark.parametrize("make", [make_file, make_directory, make_link])
def test_what_is_no_socket_is_left_alone(place: Path, make: Callable[[Path], None]) -> None:
    place.parent.mkdir()
    make(place)
    before = place.lstat().st_ino
    with pytest.raises(CannotListen, match="is no socket"):
        listen(place)
    assert place.lstat().st_ino == before


def test_sockets_of_others_are_left_alone(place: Path) -> None:
    place.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(place))
        other.listen()
        with pytest.raises(CannotListen, match="socket of something else"):
            listen(place)
    assert place.exists()


def test_only_our_own_file_is_removed_at_the_end(place: Path) -> None:
    listeners = listen(place)
    place.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind(str(place))
        listeners.close()
        assert place.exists()


@pytest.mark.parametrize(
    ("path", "words"),
    [("run/qwaved.sock", "no absolute path"), ("/" + "x" * 107, "too long"), ("", "no absolute")],
)
def test_paths_that_cannot_be(path: str, words: str) -> None:
    with pytest.raises(CannotListen, match=words):
        listeners_for(path, {})


def test_a_path_of_the_greatest_length(place: Path) -> None:
    longest = place.parent / ("x" * (107 - len(str(place.parent)) - 1))
    with listen(longest), connect(longest):
        pass


def test_a_directory_that_cannot_be_made(tmp_path: Path, fd_guard: None) -> None:
    del fd_guard
    with pytest.raises(FileNotFoundError):
        listen(tmp_path / "no" / "such" / "qwaved.sock")
    assert os.listdir(tmp_path) == []


def test_a_failure_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, mode: int) -> None:
        if path == place:
            raise PermissionError(1, "no")
        os.chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", fail)
    with pytest.raises(PermissionError):
        listen(place)
    assert not place.parent.exists()


def test_of_many_that_start_at_once_one_listens(place: Path) -> None:
    leave_dead(place)
    count = 8
    barrier = threading.Barrier(count)
    won: list[Listeners] = []
    lost: list[str] = []

    def start() -> None:
        barrier.wait()
        try:
            won.append(listen(place))
        except CannotListen as error:
            lost.append(str(error))

    for _ in range(20):
        threads = [threading.Thread(target=start) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(lost)) == (1, count - 1)
        with connect(place), won[0].sockets[0].accept()[0]:
            pass
        # As after a crash: the file stays.
        won.pop().sockets[0].close()
        lost.clear()


def test_the_lock_is_held_from_the_look_to_the_listening(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes the race above impossible, rather than unlikely."""
    place.parent.mkdir()
    held: list[bool] = []

    def look(self: OwnFile) -> None:
        del self
        number = os.open(place.parent, os.O_RDONLY)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held.append(False)
        except BlockingIOError:
            held.append(True)
        finally:
            os.close(number)

    monkeypatch.setattr(OwnFile, "_remove_dead", look)
    listen(place).close()
    assert held == [True]


# -- passed on --------------------------------------------------------------------------

# Puts listeners at descriptors 3 and on, as a service manager does, and tells what came of it.
ACTIVATED = """
import os, socket, sys
from openqwave.service.activation import listeners_for
environment = dict(os.environ, LISTEN_PID=str(os.getpid()))
try:
    with listeners_for(sys.argv[1], environment) as listeners:
        print(listeners.are_passed, listeners.path, len(listeners.sockets))
        print(*(sock.fileno() for sock in listeners.sockets))
        print(*(sock.get_inheritable() for sock in listeners.sockets))
        print(*(sock.getblocking() for sock in listeners.sockets))
        print(sorted(name for name in environment if name.startswith("LISTEN")))
except OSError as error:
    print(error)
"""


def activated(passed: list[socket.socket], environment: dict[str, str], path: Path) -> list[str]:
    """Run a process with sockets passed on to it; what it told."""
    numbers = [sock.fileno() for sock in passed]
    moves = "".join(
        f"os.dup2({number}, {100 + index}); " for index, number in enumerate(numbers)
    ) + "".join(f"os.dup2({100 + index}, {3 + index}); " for index in range(len(numbers)))
    # What was used for moving is not passed on.
    moves += f"os.closerange({3 + len(numbers)}, 200)"
    done = subprocess.run(
        [sys.executable, "-c", f"import os; {moves}\n{ACTIVATED}", str(path)],
        env={**os.environ, **environment},
        pass_fds=numbers,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def passed(tmp_path: Path) -> Iterator[list[socket.socket]]:
    made = []
    for name in ("first", "second"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.bind(str(tmp_path / name))
        sock.listen()
        made.append(sock)
    yield made
    for sock in made:
        sock.close()


def test_passed_listeners_are_taken(passed: list[socket.socket], tmp_path: Path) -> None:
    told = activated(passed, {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "qwaved:more"}, tmp_path / "own")
    assert told == [f"True {tmp_path / 'first'} 2", "3 4", "False False", "False False", "[]"]
    # They are the service manager's, and so are their files.
    assert (tmp_path / "first").exists()
    assert not (tmp_path / "own").exists()


def test_an_abstract_name_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind("")
        sock.listen()
        name = sock.getsockname()[1:].decode()
        assert activated([sock], {"LISTEN_FDS": "1"}, tmp_path / "own")[0] == f"True @{name} 1"


@pytest.mark.parametrize("kind", ["stream", "internet", "silent", "file", "closed"])
def test_what_is_no_listener_is_named(tmp_path: Path, kind: str) -> None:
    words = {
        "stream": "is no AF_UNIX SOCK_SEQPACKET socket",
        "internet": "is no AF_UNIX SOCK_SEQPACKET socket",
        "silent": "does not listen",
        "file": "is no socket",
        "closed": "cannot be used (Bad file descriptor)",
    }
    made = {
        "stream": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
        "internet": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "silent": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET),
        "file": lambda: socket.socket(fileno=None),
        "closed": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET),
    }[kind]()
    with made:
        if kind == "file":
            # A pipe where a socket was.
            reading, writing = os.pipe()
            os.dup2(reading, made.fileno())
            os.close(reading)
            os.close(writing)
        passed = [] if kind == "closed" else [made]
        environment = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "qwaved"}
        (told,) = activated(passed, environment, tmp_path / "own")
    assert told.startswith(f"descriptor 3 ('qwaved') that was passed on {words[kind]}")
    assert "ListenSequentialPacket=" in told
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize("count", ["two", "-1", "1.5"])
def test_a_count_that_is_none(place: Path, count: str) -> None:
    with pytest.raises(CannotListen, match="LISTEN_FDS"):
        listen(place, {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})


@pytest.mark.parametrize(
    "environment",
    [
        {"LISTEN_PID": "1", "LISTEN_FDS": "2"},
        {"LISTEN_FDS": "2"},
        {"LISTEN_PID": str(os.getpid())},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"},
        {"LISTEN_PID": "nonsense", "LISTEN_FDS": "nonsense"},
    ],
)
def test_what_was_passed_to_nobody_here(place: Path, environment: dict[str, str]) -> None:
    given = dict(environment)
    with listen(place, given) as listeners:
        assert not listeners.are_passed
    assert given == {}

"""Where clients come in: listeners that a service manager passed on, or one of our own.

Passed on (sd_listen_fds(3)): descriptors from 3 on, their number in LISTEN_FDS, for the process
that LISTEN_PID names. They belong to the service manager, which keeps them open while the service
is down or starts again, so clients that come meanwhile wait instead of being refused. Anything
among them that is not what clients connect to is a mistake in a unit file and is told as one.

Our own: a socket file in a directory that everybody may enter. A file that a crash has left is
told from a live one by connecting to it, and nothing is removed but a socket on which nobody
answers. Two services that start at once could both find the same dead file, and the second remove
what the first has made in its place; so whoever looks and binds holds a lock on the directory
(flock(2)), which ends with its holder and leaves no file. At the end the file goes only if it is
still the one that was made here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

# SD_LISTEN_FDS_START of systemd/sd-daemon.h: after the three that every process has.
FIRST_PASSED: Final = 3

# What a service manager writes for one process; a child is not to take it for its own.
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")

# Everybody may connect (write), as everybody may call qWAVE; what they may do there is judged by
# who they are.
SOCKET_MODE: Final = 0o666
DIRECTORY_MODE: Final = 0o755

# SOMAXCONN of the kernel since 5.4: a host's programs that all start at once.
_BACKLOG: Final = 4_096

# sun_path of unix(7) with its terminating zero.
_LONGEST_PATH_BYTES: Final = 107

_UCRED: Final = struct.Struct("3i")


class CannotListen(OSError):
    """There is no place for clients to come in; the text says what is in the way."""


class Listeners:
    """Listening AF_UNIX SOCK_SEQPACKET sockets that do not block; close them at the end.

    Attributes:
        sockets: The sockets, at least one.
        path: Where clients find the first.
        are_passed: A service manager made them, and keeps them.
    """

    def __init__(
        self, sockets: tuple[socket.socket, ...], path: str, made: OwnFile | None = None
    ) -> None:
        self.sockets = sockets
        self.path = path
        self.are_passed = made is None
        self._made = made

    def close(self) -> None:
        """Take nobody in any more, and remove what was made for it; harmless if done already."""
        if self._made is not None:
            self._made.remove()
        for each in self.sockets:
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def listeners_for(path: str, environment: MutableMapping[str, str] | None = None) -> Listeners:
    """Take the listeners that were passed on, or else make one.

    Args:
        path: Where to make one.
        environment: Says what was passed on, and forgets it; this process's when None.

    Raises:
        CannotListen: What was passed on is something else, another service answers at the path,
            or something is there that is not ours to remove.
        OSError: The directory or the socket cannot be made.
    """
    passed = _take_passed(os.environ if environment is None else environment)
    if passed:
        return Listeners(passed, _path_of(passed[0]))
    made = OwnFile(path)
    return Listeners((made.listen(),), path, made)


# -- passed on --------------------------------------------------------------------------


def _take_passed(environment: MutableMapping[str, str]) -> tuple[socket.socket, ...]:
    pid, count, names = (environment.pop(name, "") for name in _VARIABLES)
    # Without a number it was for nobody, and with another's it was inherited from its process.
    if pid != str(os.getpid()) or not count:
        return ()
    if not count.isdecimal():
        raise CannotListen(f"LISTEN_FDS is {count!r}, which is no number of descriptors")
    called = names.split(":") if names else []
    with contextlib.ExitStack() as undo:
        sockets: list[socket.socket] = []
        for number in range(FIRST_PASSED, FIRST_PASSED + int(count)):
            index = number - FIRST_PASSED
            name = called[index] if index < len(called) else "unknown"
            sockets.append(undo.enter_context(_adopt(number, name)))
        undo.pop_all()
    return tuple(sockets)


def _adopt(number: int, name: str) -> socket.socket:
    """Make a passed descriptor a socket of ours."""

    def wrong(what: str) -> CannotListen:
        return CannotListen(
            f"descriptor {number} ({name!r}) that was passed on {what}; the socket unit has to "
            "say ListenSequentialPacket= and Accept=no"
        )

    try:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            raise wrong("is no socket")
        os.set_inheritable(number, False)
        adopted = socket.socket(fileno=number)
    except OSError as error:
        if isinstance(error, CannotListen):
            raise
        raise wrong(f"cannot be used ({error.strerror})") from error
    with contextlib.ExitStack() as undo:
        undo.callback(adopted.close)
        if adopted.family != socket.AF_UNIX or adopted.type != socket.SOCK_SEQPACKET:
            raise wrong("is no AF_UNIX SOCK_SEQPACKET socket")
        if not adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise wrong("does not listen")
        adopted.setblocking(False)
        undo.pop_all()
    return adopted


def _path_of(listener: socket.socket) -> str:
    name = listener.getsockname()
    # An abstract name comes as bytes, and begins with a zero; "@" is how people write it.
    return "@" + os.fsdecode(name[1:]) if isinstance(name, bytes) else str(name)


# -- our own ----------------------------------------------------------------------------


class OwnFile:
    """A socket file of ours."""

    def __init__(self, path: str) -> None:
        """Choose the place; nothing is made yet.

        Raises:
            CannotListen: No socket can be there.
        """
        if not path.startswith("/"):
            raise CannotListen(f"{path!r} is no absolute path for a socket")
        if len(os.fsencode(path)) > _LONGEST_PATH_BYTES:
            raise CannotListen(
                f"{path!r} is too long for a socket: {_LONGEST_PATH_BYTES} bytes at most"
            )
        self._path = Path(path)
        self._has_made_directory = False
        self._identity: tuple[int, int] | None = None

    def listen(self) -> socket.socket:
        """Make it, and listen.

        Raises:
            CannotListen: Another service answers there, or something else is there.
            OSError: It cannot be made.
        """
        with contextlib.ExitStack() as undo:
            undo.callback(self.remove)
            self._make_directory()
            with _locked(self._path.parent):
                self._remove_dead()
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                undo.callback(listener.close)
                listener.bind(str(self._path))
                made = self._path.lstat()
                self._identity = made.st_dev, made.st_ino
                # Before it listens, so that nobody is refused whom the umask would shut out.
                self._path.chmod(SOCKET_MODE)
                listener.listen(_BACKLOG)
            listener.setblocking(False)
            undo.pop_all()
        return listener

    def remove(self) -> None:
        """Remove the file, if it is still the one that was made, and then its directory."""
        with contextlib.suppress(OSError):
            there = self._path.lstat()
            if (there.st_dev, there.st_ino) == self._identity:
                self._path.unlink()
        self._identity = None
        if self._has_made_directory:
            # What must outlive this process may be in it, too.
            with contextlib.suppress(OSError):
                self._path.parent.rmdir()
            self._has_made_directory = False

    def _make_directory(self) -> None:
        directory = self._path.parent
        try:
            directory.mkdir()
        except FileExistsError:
            return
        self._has_made_directory = True
        # Whatever the umask: clients have to get through.
        directory.chmod(DIRECTORY_MODE)

    def _remove_dead(self) -> None:
        """Make room, where a socket is left on which nobody answers."""
        try:
            mode = self._path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise CannotListen(
                f"{self._path} is there and is no socket; it is not removed, since it is not ours"
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asked:
            # A service whose backlog is full would let us wait.
            asked.setblocking(False)
            code = asked.connect_ex(str(self._path))
            if code == 0:
                pid, *_ = _UCRED.unpack(
                    asked.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
                )
                raise CannotListen(
                    f"another qwaved answers at {self._path} already (process {pid})"
                )
        if code == errno.EAGAIN:
            raise CannotListen(f"another qwaved listens at {self._path} already, and is busy")
        if code != errno.ECONNREFUSED:
            raise CannotListen(
                f"{self._path} is a socket of something else ({os.strerror(code)}); it is not "
                "removed"
            )
        self._path.unlink()


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Look and bind with nobody between the two."""
    number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)

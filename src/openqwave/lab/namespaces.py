"""Anonymous network namespaces, and the user namespace that lets an ordinary user make them.

Model. A network namespace lives as long as something refers to it: a thread inside it, a socket
made in it, a mount of its file, or an open descriptor of its file. Tools that give it a name use
the mount, which survives the tool. Here there is only the descriptor, so a namespace ends with
the process that made it, also after SIGKILL. The kernel takes it apart asynchronously: its
interfaces disappear some milliseconds after the last reference.

`unshare` and `setns` act on the calling thread alone. A namespace is therefore made by a thread
of its own that ends at once, and code enters one either for a while (`Namespace.enter`) or in a
thread made for it (`Namespace.run`). A socket belongs for ever to the namespace it was made in,
so entering is needed only to create sockets, never to use them. Threads and processes started
inside inherit the namespace. `/proc/sys/net` shows the namespace of the thread that opens it.

Rights. Making a network namespace takes CAP_SYS_ADMIN. An ordinary user gets it inside a user
namespace of his own, where his one id is mapped to 0 (`user_namespaces(7)`). A process may enter
one only while it has a single thread, and cannot go back. Inside, everything the lab does works;
refused is what the kernel ties to the first user namespace, such as SO_RCVBUFFORCE and SO_MARK
values of other namespaces.

Sources: namespaces(7), network_namespaces(7), user_namespaces(7), setns(2), unshare(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import os
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path
from socket import AF_INET, SOCK_DGRAM, socket
from typing import ParamSpec, Self, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# <sched.h>; the standard library has these, and the two calls, from Python 3.12 on.
CLONE_NEWNET = 0x4000_0000
CLONE_NEWUSER = 0x1000_0000

# <linux/sockios.h>, <net/if.h>: read and write an interface's flags.
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1

_libc = ctypes.CDLL(None, use_errno=True)


class Rights(enum.Enum):
    """How network namespaces can be had."""

    ROOT = "root"  # Or what counts: CAP_SYS_ADMIN, also inside a user namespace.
    USER_NAMESPACE = "user namespaces"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a lab can be built here.

    Attributes:
        rights: The way to it.
        reason: Why not and how to allow it; empty where it can.
    """

    rights: Rights
    reason: str = ""

    def __bool__(self) -> bool:
        """Whether a lab can be built, as things stand or after `enter_user_namespace`."""
        return self.rights is not Rights.NONE


def _checked(result: int, call: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{call}: {os.strerror(error)}")


def _unshare(flags: int) -> None:
    _checked(_libc.unshare(flags), "unshare")


def _setns(fd: int) -> None:
    _checked(_libc.setns(fd, CLONE_NEWNET), "setns")


def _open_current() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def in_own_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function in a thread that ends with it; its result or exception is the caller's.

    The thread is a daemon: a caller that is interrupted while waiting is not held by it.
    """
    results: list[R] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - handed to the caller, who raises it
            errors.append(error)

    thread = threading.Thread(target=body, name="lab-namespace", daemon=True)
    thread.start()
    thread.join()
    if errors:
        try:
            raise errors[0]
        finally:
            errors.clear()  # Else the traceback holds this frame, and the frame the traceback.
    return results[0]


class Namespace:
    """One network namespace, held by an open descriptor and by nothing else.

    Closing it, by `close` or as a context manager, lets go; sockets and threads inside keep it
    alive until they end too.

    Attributes:
        inode: The namespace's identity, as `/proc/PID/ns/net` shows it.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.inode = os.fstat(fd).st_ino

    @classmethod
    def create(cls) -> Self:
        """Make a new, empty namespace: one loopback interface, down.

        Raises:
            PermissionError: Neither root nor inside a user namespace of one's own; see
                `availability`.
        """

        def make() -> int:
            _unshare(CLONE_NEWNET)
            return _open_current()

        return cls(in_own_thread(make))

    @classmethod
    def current(cls) -> Self:
        """Hold the calling thread's namespace."""
        return cls(_open_current())

    def fileno(self) -> int:
        """Return the descriptor that holds the namespace; ValueError once closed."""
        if self._fd < 0:
            raise ValueError("the namespace is closed")
        return self._fd

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """Put the calling thread into the namespace for the length of a `with` block."""
        home = _open_current()
        try:
            _setns(self.fileno())
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function in a thread that lives in the namespace; see `in_own_thread`."""

        def body() -> R:
            _setns(self.fileno())
            return function(*args, **kwargs)

        return in_own_thread(body)

    def close(self) -> None:
        """Let go of the namespace; harmless when done before."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def loopback_up() -> None:
    """Bring up the loopback interface of the calling thread's namespace."""
    with socket(AF_INET, SOCK_DGRAM) as control:
        request = struct.pack("16sH22x", b"lo", 0)
        flags = struct.unpack_from("16xH", ioctl(control, SIOCGIFFLAGS, request))[0]
        ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | IFF_UP))


def enter_user_namespace() -> None:
    """Move this process into a new user namespace, as its root, with a network of its own.

    The caller's user and group become 0 inside; no other id exists there. Loopback is up. There
    is no way back, and the network outside can no longer be reached by new sockets.

    Raises:
        RuntimeError: The process has more than one thread; the kernel would refuse.
        OSError: User namespaces are not allowed; `availability` says how to allow them.
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(
            f"a user namespace can be entered with one thread only, this process has {threads}: "
            "enter it before anything starts threads"
        )
    uid, gid = os.geteuid(), os.getegid()
    _unshare(CLONE_NEWUSER | CLONE_NEWNET)
    # An unprivileged process may map its group only after giving up setgroups(2).
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1", encoding="ascii")
    loopback_up()


# The switches that forbid user namespaces, the value that forbids, and the way to allow them.
_SWITCHES = (
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
    ("/proc/sys/user/max_net_namespaces", "0", "sysctl -w user.max_net_namespaces=15000"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)


def _forbidden_by() -> str:
    for path, forbids, remedy in _SWITCHES:
        with contextlib.suppress(OSError):
            if Path(path).read_text(encoding="ascii").strip() == forbids:
                return f"{path} is {forbids}; as root: {remedy}"
    return "a security policy of this system (seccomp or a container's) forbids it; run as root"


def _attempt(attempt: Callable[[], None]) -> str:
    """Try something that changes the process for good in a child; return the error, or ""."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        message = ""
        try:
            attempt()
        except Exception as error:  # noqa: BLE001 - reported through the pipe
            message = str(error) or repr(error)
        finally:
            os.write(writer, message.encode()[:4096])
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        message = pipe.read().decode(errors="replace")
    os.waitpid(child, 0)
    return message


def _unshare_network() -> None:
    _unshare(CLONE_NEWNET)
    _check_settings()


def _unshare_user() -> None:
    enter_user_namespace()
    _check_settings()


def _check_settings() -> None:
    """Raise OSError where /proc/sys is mounted read-only, as in many containers."""
    os.close(os.open("/proc/sys/net/ipv4/ip_forward", os.O_WRONLY))


def availability() -> Availability:
    """Tell whether namespaces can be had: directly, by `enter_user_namespace`, or not at all.

    Both ways are tried, not guessed, in a forked child, so that this process keeps its one
    thread. A process with several threads tries the first only: it could not use the second.
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads == 1:
        refusal = _attempt(_unshare_network)
    else:
        try:
            in_own_thread(_unshare_network)
        except OSError as error:
            refusal = str(error)
        else:
            refusal = ""
    if not refusal:
        return Availability(Rights.ROOT)
    if threads != 1:
        return Availability(
            Rights.NONE,
            f"no right to it ({refusal}), and a process with {threads} threads cannot enter a user "
            "namespace: enter it before anything starts threads",
        )
    refusal = _attempt(_unshare_user)
    if not refusal:
        return Availability(Rights.USER_NAMESPACE)
    return Availability(
        Rights.NONE,
        f"no right to it, and user namespaces are refused ({refusal}): {_forbidden_by()}",
    )

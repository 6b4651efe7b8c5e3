"""How the death of a socket is learnt, at once and whoever owned it.

**The program** `release` runs when the last descriptor of a socket is closed: by `close`, by exit,
by SIGKILL; a fork that still holds it keeps it alive. It tells cookies of sockets of which
something is wanted, through a ring that is read without a library. It runs for the control groups
below the one it is attached to, so it is attached to the root of what can be seen of cgroup v2; a
hybrid hierarchy serves as well. Sockets of processes outside (a container's service sees only the
container) are not heard of. The link ends with its descriptor.

**TCP goes on.** A socket that is closed may have data to send, and the kernel keeps it until that
is done. `Lingering` holds its cookie back until the kernel does not list it any more, at most
`LINGER_NS`. UDP has nothing left to do: what it sent has passed the program before; the program
removes its entry itself.

**The ring** (BPF_MAP_TYPE_RINGBUF) is a page with the reader's position, one with the writer's, and
the data, mapped twice in a row so that no record is broken. A record begins with eight bytes: its
length, with a bit that says "being written", and a bit that says "given up". Those of one socket
are eight bytes more. A full ring loses cookies; the program counts how many. Between writer and
reader the wait for the descriptor is the barrier; what is still seen as unfinished is read next
time.

Sources: kernel/bpf/ringbuf.c, cgroups(7), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from typing import TYPE_CHECKING, Final, Protocol

from openqwave.enforcement.bpf import syscalls
from openqwave.enforcement.bpf.rights import missing_right
from openqwave.enforcement.missing import MechanismMissing
from openqwave.model.cgroups import group_mount

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# A closed TCP socket whose data nobody acknowledges is retried for minutes (tcp_orphan_retries).
# Media that is a minute old is of no use to anybody.
LINGER_NS: Final = 60_000_000_000
# Lists of sockets cost the kernel a millisecond; who closes has usually sent all.
LOOK_NS: Final = 1_000_000_000

_POSITION: Final = struct.Struct("=Q")
_LENGTH: Final = struct.Struct("=I")
_COOKIE: Final = struct.Struct("=Q")
# BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT, BPF_RINGBUF_HDR_SZ.
_IS_BUSY, _IS_DISCARDED = 1 << 31, 1 << 30
_RECORD_HEADER_BYTES: Final = 8

_MOUNTS: Final = "/proc/self/mountinfo"


def cgroup_root(mounts: str) -> str | None:
    """Where the root of the control groups (version 2) is mounted, as far as it can be seen.

    Args:
        mounts: What /proc/self/mountinfo says.

    Returns:
        The path; of several the one nearest to the root. None if there is none.
    """
    mount = group_mount(mounts)
    return None if mount is None else mount.point


def attach(program: int, mounts: str | None = None, *, where: int = syscalls.SOCK_RELEASE) -> int:
    """Let a program hear of all sockets that close, or that are made.

    Args:
        program: Its descriptor.
        mounts: What /proc/self/mountinfo says; None for what it says now.
        where: `SOCK_RELEASE` or `SOCK_CREATE` of `openqwave.enforcement.bpf.syscalls`.

    Returns:
        A descriptor; the program is detached when it is closed.

    Raises:
        MechanismMissing: It cannot be; the text says why, and what would help.
    """
    if mounts is None:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            mounts = file.read()
    root = cgroup_root(mounts)
    if root is None:
        raise MechanismMissing(
            "no cgroup v2 hierarchy is mounted, so closed sockets are found by looking for them; "
            "mount one (mount -t cgroup2 none /sys/fs/cgroup/unified) to hear of them at once"
        )
    try:
        group = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise MechanismMissing(
            f"the cgroup v2 hierarchy at {root} cannot be opened ({error.strerror}); let the "
            "service read it (ProtectControlGroups=yes in its unit does)"
        ) from error
    try:
        return syscalls.link_create(program, group, where)
    except OSError as error:
        raise MechanismMissing(_why(root, error)) from error
    finally:
        os.close(group)


def _why(where: str, error: OSError) -> str:
    text = error.strerror or str(error)
    if error.errno == errno.EPERM and not missing_right():
        return (
            f"the program cannot be attached to {where} ({text}): another program stands there "
            "and allows no second one (bpftool cgroup show), or a container forbids it"
        )
    if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
        return (
            f"the program cannot be attached to {where} ({text}): the kernel needs "
            "CONFIG_CGROUP_BPF, and Linux 5.9 or later"
        )
    return f"the program cannot be attached to {where} ({text}); closed sockets are looked for"


class Released:
    """Reads the cookies of closed sockets from the program's ring."""

    def __init__(self, ring_fd: int, ring_bytes: int) -> None:
        """Begin with what has not been read yet.

        Args:
            ring_fd: The ring's descriptor; stays open as long as this is used.
            ring_bytes: Its size, a power of two.

        Raises:
            OSError: The kernel does not let it be mapped.
        """
        self._fd = ring_fd
        self._size = ring_bytes
        page = mmap.PAGESIZE
        self._reader = mmap.mmap(ring_fd, page)
        try:
            self._writer = mmap.mmap(
                ring_fd, page + 2 * ring_bytes, prot=mmap.PROT_READ, offset=page
            )
        except BaseException:
            self._reader.close()
            raise

    def fileno(self) -> int:
        """Readable where a socket has been closed."""
        return self._fd

    def take(self) -> list[int]:
        """The cookies of sockets that were closed since the last call, the oldest first."""
        data, page = self._writer, mmap.PAGESIZE
        cookies: list[int] = []
        (at,) = _POSITION.unpack_from(self._reader)
        (end,) = _POSITION.unpack_from(data)
        while at < end:
            place = page + (at & self._size - 1)
            (length,) = _LENGTH.unpack_from(data, place)
            if length & _IS_BUSY:
                break
            size = length & ~_IS_DISCARDED
            if size == length and size >= _COOKIE.size:
                cookies += _COOKIE.unpack_from(data, place + _RECORD_HEADER_BYTES)
            at += size + _RECORD_HEADER_BYTES + 7 & -8
        _POSITION.pack_into(self._reader, 0, at)
        return cookies

    def close(self) -> None:
        """Read no more; harmless when done before."""
        self._reader.close()
        self._writer.close()


class Sockets(Protocol):
    """Knows which sockets the kernel still has; see `openqwave.drivers.sockdiag`."""

    def closed(self, cookies: Collection[int]) -> Collection[int]:
        """Those of some TCP sockets that it has no more; none where it does not say."""


class Lingering:
    """Holds back the cookies of closed TCP sockets until the kernel has let go of them."""

    def __init__(self, sockets: Sockets) -> None:
        """Hold nothing yet.

        Args:
            sockets: Asked for nobody else's sockets.
        """
        self._sockets = sockets
        self._until_ns: dict[int, int] = {}
        self._look_ns = 0

    def __contains__(self, cookie: int) -> bool:
        """Is this one held back?"""
        return cookie in self._until_ns

    def add(self, cookies: Iterable[int], now_ns: int) -> None:
        """Hold some back; those that are held already stay as they are."""
        for cookie in cookies:
            self._until_ns.setdefault(cookie, now_ns + LINGER_NS)
            self._look_ns = min(self._look_ns, now_ns)

    def take(self, now_ns: int) -> list[int]:
        """Those that need not be held any longer; the kernel is asked once in `LOOK_NS`."""
        if not self._until_ns or now_ns < self._look_ns:
            return []
        self._look_ns = now_ns + LOOK_NS
        closed = self._sockets.closed(tuple(self._until_ns))
        over = [
            cookie
            for cookie, until_ns in self._until_ns.items()
            if cookie in closed or now_ns >= until_ns
        ]
        for cookie in over:
            del self._until_ns[cookie]
        return over

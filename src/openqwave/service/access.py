"""Who a client is, in the kernel's words.

The kernel wrote down the credentials of whoever connected, at that moment (SO_PEERCRED,
SO_PEERGROUPS; unix(7)), and translates ids into this process's user namespace. A capability is
not among them, so it is read from ``/proc/PID/status``, and counts only if

* the process still lives (its pidfd says so), so that the file was not another process's, and
* it is in this service's user namespace: anybody can be root, with every capability, in a user
  namespace of their own, and has no rights here by that.

Names of users and groups may come from a directory service and take long; they are looked up
when somebody asks for them, and remembered.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pwd
import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from openqwave.admission.rights import Credentials
from openqwave.drivers import credentials
from openqwave.drivers.processes import holds_capability, peer_ids
from openqwave.drivers.sockets import own_namespace

if TYPE_CHECKING:
    from openqwave.drivers.processes import Process

# asm-generic/socket.h; the socket module has no name for it (Linux 4.13).
_SO_PEERGROUPS = 59
_GID_BYTES = 4
# Nearly everybody is in fewer.
_USUAL_GROUPS = 256

_getsockopt = ctypes.CDLL(None, use_errno=True).getsockopt

# More users and groups than a host has, nearly always.
_REMEMBERED_NAMES = 1_024

# A namespace that is certainly not the service's own; cookies count up from 1.
_STRANGE_NAMESPACE = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Identity:
    """What the kernel wrote down of a peer when it connected.

    Attributes:
        pid: Its process; 0 if that is not in this pid namespace.
        uid: Its effective user.
        gids: Its groups.
        has_net_admin: It has CAP_NET_ADMIN here.
        program: What its process is called.
        namespace: Its network namespace, as far as can be told; 0 where nothing can.
    """

    pid: int
    uid: int
    gids: tuple[int, ...]
    has_net_admin: bool
    program: str
    namespace: int


def identify(sock: socket.socket, process: Process | None) -> Identity:
    """Who is at the other end.

    Args:
        sock: A connected AF_UNIX socket.
        process: The process there, if it could be taken hold of.

    Raises:
        OSError: The kernel does not say.
    """
    pid, uid, gid = peer_ids(sock)
    gids = {gid, *_groups_of(sock)}
    has_net_admin, program, namespace = False, "", 0
    if process is not None:
        read = (_has_net_admin(pid), _program(pid), _namespace(pid))
        if process.is_alive():
            has_net_admin, program, namespace = read
    return Identity(pid, uid, tuple(sorted(gids)), has_net_admin, program, namespace)


def credentials_of(identity: Identity) -> Credentials:
    """What rights are judged by."""
    names = frozenset(filter(None, map(group_name, identity.gids)))
    return Credentials(identity.uid, identity.has_net_admin, names)


@lru_cache(maxsize=_REMEMBERED_NAMES)
def group_name(gid: int) -> str:
    """A group's name; empty for one without."""
    return credentials.group_name(gid)


@lru_cache(maxsize=_REMEMBERED_NAMES)
def user_name(uid: int) -> str:
    """A user's name, or the number of one without."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _groups_of(sock: socket.socket) -> list[int]:
    """Supplementary groups; by ctypes, because the socket module takes 1,024 bytes at most."""
    room = _USUAL_GROUPS
    while True:
        gids = (ctypes.c_uint32 * room)()
        size = ctypes.c_uint32(ctypes.sizeof(gids))
        status = _getsockopt(
            sock.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, ctypes.byref(gids), ctypes.byref(size)
        )
        count = size.value // _GID_BYTES
        if status == 0:
            return list(gids[:count])
        code = ctypes.get_errno()
        if code != errno.ERANGE or count <= room:
            raise OSError(code, os.strerror(code))
        # The kernel says how many there are.
        room = count


def _has_net_admin(pid: int) -> bool:
    try:
        if os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user"):
            return False
        return holds_capability(pid, credentials.CAP_NET_ADMIN)
    except OSError:
        # What may not be looked at has no rights that could be seen.
        return False


def _program(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(os.readlink(f"/proc/{pid}/exe")).name
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    return ""


def _namespace(pid: int) -> int:
    """The network namespace of a process: the service's own, or one that experiments cannot reach.

    Where the link may not be read it is taken for the service's own, which nearly all are; what
    a flow's socket is in, the socket itself says.
    """
    with contextlib.suppress(OSError):
        if os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net"):
            return _STRANGE_NAMESPACE
    return own_namespace()

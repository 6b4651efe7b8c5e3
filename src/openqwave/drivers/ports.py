"""Port 2177, which everybody in one process shares, and who holds it otherwise.

Initiators send small probes from UDP port 2177 and the sink answers there (MS-QLPB 3.1.1, 3.2.1),
so a process has one UDP socket for each family, opened when first needed. Sockets of two
processes on one port would steal each other's datagrams; the second process is refused, and told
who the first one is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from openqwave.drivers.datagrams import ProbeSocket
from openqwave.drivers.streams import listen
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import QosSystemError, error_of, refusal_of_os_error

if TYPE_CHECKING:
    from openqwave.model.endpoint import Endpoint

_T = TypeVar("_T")

# Connections that wait to be accepted: more than a sink serves at once is of no use.
_BACKLOG = 64

# Fields of a line of /proc/net/udp and the like (proc_net(5)).
_LOCAL, _UID, _INODE = 1, 7, 9


class PortTaken(QosSystemError):
    """Another socket holds the experiments' port."""

    code = ErrorCode.ERROR_BUSY
    posix_errno = errno.EADDRINUSE


def _sockets_on(protocol: str, port: int) -> Iterator[tuple[str, str]]:
    """Inode and user id of the sockets on a port, in the calling thread's namespace."""
    for table in (protocol, protocol + "6"):
        with contextlib.suppress(FileNotFoundError):  # Without IPv6 there is no table of it.
            lines = Path("/proc/thread-self/net", table).read_text(encoding="ascii").splitlines()
            for fields in map(str.split, lines[1:]):
                if int(fields[_LOCAL].rpartition(":")[2], 16) == port:
                    yield fields[_INODE], fields[_UID]


def _processes_with(inodes: set[str]) -> Iterator[int]:
    """Ids of the processes that have one of the sockets open, as far as they may be looked at."""
    links = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*"):
        # Another user's process, or one that has just ended.
        with contextlib.suppress(OSError), os.scandir(process / "fd") as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if os.readlink(entry.path) in links:
                        yield int(process.name)
                        break


def holder_of(protocol: str, port: int) -> str:
    """Who has sockets on a port, as words for a message.

    Args:
        protocol: "udp" or "tcp".
        port: The port.

    Returns:
        Program and process id; if they may not be seen, the user's id; empty if nobody has any.
    """
    found = dict(_sockets_on(protocol, port))
    names = []
    for pid in _processes_with(set(found)):
        if pid == os.getpid():
            names.append("this process itself")
            continue
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
            names.append(f"{name} (process {pid})")
    if names:
        return " and ".join(names)
    return f"a process of user {next(iter(found.values()))}" if found else ""


def _translated(
    protocol: str, port: int, address: Endpoint | None, opening: Callable[[], _T]
) -> _T:
    try:
        return opening()
    except OSError as error:
        what = f"{protocol.upper()} port {port}"
        if address is not None:
            what += f" of {address.address}"
        if error.errno != errno.EADDRINUSE:
            raise error_of(refusal_of_os_error(error, f"{what} cannot be opened")) from error
        holder = holder_of(protocol, port) or "a socket that this process may not see"
        raise PortTaken(
            f"{what} is held by {holder}; one process at a time can measure and answer on a host: "
            "end that one, or let it do both"
        ) from error


def open_datagrams(version: int, port: int, address: Endpoint | None = None) -> ProbeSocket:
    """The UDP socket of a port.

    Args:
        version: 4 or 6.
        port: The port.
        address: The one address of this host that it is opened at; None for all.

    Raises:
        PortTaken: Another socket has it; the message says whose.
        QosError: The kernel refused otherwise.
    """
    return _translated(
        "udp", port, address, lambda: ProbeSocket(version, port=port, address=address)
    )


def open_listener(
    version: int, port: int, hops: int, address: Endpoint | None = None
) -> socket.socket:
    """The TCP listener of a port; arguments as with `listen`, errors as with `open_datagrams`."""
    return _translated("tcp", port, address, lambda: listen(version, port, hops, _BACKLOG, address))


def has_ipv6() -> bool:
    """Does the kernel have IPv6?"""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        return False
    return True

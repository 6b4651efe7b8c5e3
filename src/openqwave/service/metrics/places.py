"""Where collectors connect to: an address with a port, or a socket file.

An address is of this host alone (127.0.0.0/8, ::1) unless the configuration says that others may
ask, too: what is told here is of all users, and nobody is asked for a name. A file may be opened by
the service's user and group only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final

# What the configuration says where nobody is to ask.
NOWHERE: Final = "none"

# sun_path of unix(7), without the zero at its end.
_LONGEST_PATH_BYTES: Final = 107
_FILE_MODE: Final = 0o660
_BACKLOG: Final = 128
_HIGHEST_PORT: Final = 65_535


@dataclass(frozen=True, slots=True)
class Place:
    """Where to listen.

    Attributes:
        path: The socket file; empty for an address.
        address: The address; empty for a file.
        port: Its port.
    """

    path: str = ""
    address: str = ""
    port: int = 0

    @property
    def is_of_this_host(self) -> bool:
        """Can nobody connect but programs of this host?"""
        return bool(self.path) or ip_address(self.address).is_loopback

    def __str__(self) -> str:
        """As the configuration has it."""
        if self.path:
            return self.path
        return (
            f"[{self.address}]:{self.port}"
            if ":" in self.address
            else f"{self.address}:{self.port}"
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the configuration says of metrics.

    Attributes:
        place: Where collectors connect to.
        paths: Of how many paths single numbers are given, at most.
    """

    place: Place
    paths: int = 64


def place_of(text: str) -> Place:
    """Read where to listen.

    Raises:
        ValueError: It is no place; the text says what one is.
    """
    if text.startswith("/"):
        if text.endswith("/") or "\0" in text or len(os.fsencode(text)) > _LONGEST_PATH_BYTES:
            raise ValueError("has to be an absolute path of at most 107 bytes, to a file")
        return Place(path=text)
    address, _, port = text.rpartition(":")
    bare = address[1:-1] if address[:1] == "[" and address[-1:] == "]" else address
    try:
        known = ip_address(bare)
        number = int(port) if port.isascii() and port.isdecimal() else 0
        if isinstance(known, IPv6Address) == (bare == address) or not 0 < number <= _HIGHEST_PORT:
            raise ValueError(text)
    except ValueError:
        raise ValueError(
            'has to be an address with a port, as "127.0.0.1:9177" or "[::1]:9177", or the path '
            'of a socket, as "/run/qwave/metrics.sock", or "none"'
        ) from None
    return Place(address=str(known), port=number)


class Listener:
    """A listening socket; close it at the end.

    Attributes:
        sock: It; does not block.
    """

    def __init__(self, place: Place) -> None:
        """Begin to listen.

        Raises:
            OSError: It cannot be.
        """
        self._path: Path | None = None
        self._identity: tuple[int, int] | None = None
        with contextlib.ExitStack() as undo:
            if place.path:
                self.sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                self._bind_file(Path(place.path))
                undo.callback(self._remove)
            else:
                is_6 = ":" in place.address
                family = socket.AF_INET6 if is_6 else socket.AF_INET
                self.sock = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if is_6:
                    self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                self.sock.bind((place.address, place.port))
            self.sock.listen(_BACKLOG)
            self.sock.setblocking(False)
            undo.pop_all()

    def close(self) -> None:
        """Listen no more."""
        self._remove()
        self.sock.close()

    def _bind_file(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                detail = "something else than a socket is there"
                raise FileExistsError(errno.EEXIST, detail, str(path))
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
                asked.setblocking(False)
                if asked.connect_ex(str(path)) != errno.ECONNREFUSED:
                    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), str(path))
            # Of a run that was killed.
            path.unlink()
        self.sock.bind(str(path))
        made = path.lstat()
        self._path, self._identity = path, (made.st_dev, made.st_ino)
        path.chmod(_FILE_MODE)

    def _remove(self) -> None:
        """Remove the file, if it is still the one that was made."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                there = self._path.lstat()
                if (there.st_dev, there.st_ino) == self._identity:
                    self._path.unlink()
            self._path = None

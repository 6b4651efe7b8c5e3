"""What shells complete beside commands and options: names of hosts, users, interfaces, processes.

Each Tab starts the command anew, so what is asked here costs a few milliseconds at most: no name
server, no service, no directory of users that is elsewhere and may not answer.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_HOSTS: Final = Path("/etc/hosts")
_USERS: Final = Path("/etc/passwd")
_PROCESSES: Final = Path("/proc")
# Anything else would have to be quoted, each shell in its own way; and bash takes what is after a
# colon, as in addresses of IPv6, for a word of its own.
_PLAIN: Final = re.compile(r"[\w.@%+-]+", re.ASCII)


def hosts(incomplete: str) -> list[str]:
    """Names and addresses of hosts that this host's own list has."""
    lines = (line.partition("#")[0].split() for line in _lines(_HOSTS))
    return _beginning((word for words in lines for word in words), incomplete)


def users(incomplete: str) -> list[str]:
    """Names of users that are listed on this host itself."""
    return _beginning((line.partition(":")[0] for line in _lines(_USERS)), incomplete)


def interfaces(incomplete: str) -> list[str]:
    """Names of this host's interfaces."""
    try:
        found = socket.if_nameindex()
    except OSError:
        return []
    return _beginning((name for _, name in found), incomplete)


def processes(incomplete: str) -> list[tuple[str, str]]:
    """Numbers of processes, with what they call themselves."""
    found = (path for path in _PROCESSES.iterdir() if path.name.isdecimal())
    wanted = sorted(
        (path for path in found if path.name.startswith(incomplete)),
        key=lambda path: int(path.name),
    )
    return [(path.name, _program(path)) for path in wanted]


def _program(process: Path) -> str:
    words = " ".join(_lines(process / "comm"))
    return " ".join(_PLAIN.findall(words))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # Or a process that has just ended.
        return []


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    """Those that begin like this, each once, in the order in which they came."""
    return [
        name
        for name in dict.fromkeys(names)
        if name.startswith(incomplete) and _PLAIN.fullmatch(name)
    ]

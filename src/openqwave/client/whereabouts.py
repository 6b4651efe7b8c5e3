"""Where the service is looked for, and whether anything is there.

``QWAVE_SOCKET`` names the socket. Unset, it is where the service's unit puts it; empty, no service
is wanted. What it takes to speak with a service is imported where there is one, and not before:
most programs that only mark run where there is none.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

SOCKET_VARIABLE: Final = "QWAVE_SOCKET"
DEFAULT_SOCKET: Final = "/run/qwave/qwaved.sock"


@dataclass(frozen=True, slots=True)
class NoService:
    """Why there is no service to be had."""

    reason: str


def socket_path() -> str:
    """Where the service is looked for; empty for nowhere."""
    return os.environ.get(SOCKET_VARIABLE, DEFAULT_SOCKET)


def look(path: str) -> NoService | None:
    """Is anything there that could be dialled? None means yes.

    Args:
        path: Its socket; empty for none.
    """
    if not path:
        return NoService(f"{SOCKET_VARIABLE} is empty, which means that no service is wanted")
    try:
        os.stat(path)
    except (OSError, ValueError) as error:
        return NoService(f"no service answers at {path} ({words_of(error)})")
    return None


def words_of(error: Exception) -> str:
    """What the kernel says of an error, without its number."""
    return (isinstance(error, OSError) and error.strerror) or str(error)

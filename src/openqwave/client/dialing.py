"""The way to the service: it is connected to, and says welcome."""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from openqwave.client.packets import READ_BYTES, send_packet, set_patience
from openqwave.client.whereabouts import NoService, words_of
from openqwave.ipc.asking import ClientEnd, Farewelled, Welcomed
from openqwave.ipc.errors import ProtocolError
from openqwave.ipc.messages import Welcome
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal

# A service that is being started by its socket reads its configuration first; five seconds are
# a busy machine, and nobody waits longer for what can be done without it.
CONNECT_PATIENCE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connection that was welcomed.

    Attributes:
        sock: It.
        end: Its state.
        welcome: What the service said.
        path: Where it is.
    """

    sock: socket.socket
    end: ClientEnd
    welcome: Welcome
    path: str


def dial(path: str, patience_s: float = CONNECT_PATIENCE_S) -> Dialled | NoService | Refusal:
    """Connect to the service.

    Args:
        path: Its socket.
        patience_s: How long each step may take.

    Returns:
        The connection; `NoService`; or the refusal of a service that is there and has no room
        for another handle (ERROR_NO_SYSTEM_RESOURCES), which is not to be got round by doing
        without it.
    """
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        return NoService(f"there is no socket for the service to be had ({words_of(error)})")
    kept = False
    try:
        set_patience(sock, patience_s)
        result = _greet(sock, path, patience_s)
        kept = isinstance(result, Dialled)
        return result
    finally:
        if not kept:
            sock.close()


def _greet(sock: socket.socket, path: str, patience_s: float) -> Dialled | NoService | Refusal:
    end = ClientEnd(program_name())
    try:
        sock.connect(path)
        send_packet(sock, end.hello())
        end.receive_packet(sock.recv(READ_BYTES))
    except BlockingIOError:
        return NoService(f"the service at {path} did not say welcome within {patience_s:g} s")
    except ProtocolError as error:
        return NoService(f"the service at {path} cannot be understood: {error.reason}")
    except (OSError, ValueError) as error:
        return NoService(f"no service answers at {path} ({words_of(error)})")
    match end.next_event():
        case Welcomed(welcome):
            return Dialled(sock, end, welcome, path)
        case Farewelled(refusal) if refusal.code is ErrorCode.ERROR_NO_SYSTEM_RESOURCES:
            return refusal
        case Farewelled(refusal):
            return NoService(f"the service at {path} said: {refusal.detail}")
        case _:
            return NoService(f"the service at {path} did not say welcome")


def program_name() -> str:
    """What this program calls itself."""
    called = Path(sys.argv[0] if getattr(sys, "argv", None) else "")
    name = called.parent.name if called.name == "__main__.py" else called.name
    if name.startswith("-"):
        # Of ``python -c`` nothing else is known.
        return "python"
    # A file's name may hold anything, and the protocol is UTF-8.
    return name.encode("utf-8", "replace").decode("utf-8") or "python"

"""Whether the service answers: connect, say hello, ask how it is."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from openqwave.ipc import messages as ms
from openqwave.ipc.asking import Answered, ClientEnd, Farewelled, Refusing
from openqwave.ipc.errors import ProtocolError
from openqwave.ipc.rows import StatusRow

if TYPE_CHECKING:
    from openqwave.cli.service.layout import Layout

# It answers within milliseconds; one that takes seconds is as good as none.
PATIENCE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service said of itself, or why it did not.

    Attributes:
        status: What it said; None if it did not.
        reason: Why not.
    """

    status: StatusRow | None
    reason: str = ""


def socket_of(layout: Layout) -> Path:
    """Where the service of this host listens, as its configuration has it."""
    # Here, because it loads the whole service.
    from openqwave.service.config import Config, ConfigError, load

    try:
        return Path(load(layout.config).socket)
    except ConfigError:
        return Path(Config().socket)


def ask(path: Path, patience_s: float = PATIENCE_S) -> Answer:
    """Ask the service that listens at a path.

    Args:
        path: Its socket.
        patience_s: How long to wait for each answer.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(patience_s)
            sock.connect(str(path))
            return _talk(sock)
    except TimeoutError:
        return Answer(None, f"it takes connections at {path} and does not answer")
    except OSError as error:
        return Answer(None, _why(error, path))
    except (ProtocolError, msgspec.ValidationError) as error:
        return Answer(None, f"what answers at {path} is no qwaved: {error}")


def _talk(sock: socket.socket) -> Answer:
    end = ClientEnd("qwave service")
    sock.send(end.hello())
    end.receive_packet(sock.recv(ms.MAX_ANSWER_BYTES))
    is_asked = False
    while True:
        match end.next_event():
            case None if not is_asked and end.refusal is None:
                sock.send(end.request(ms.AskStatus(end.next_id())))
                is_asked = True
            case None:
                end.receive_packet(sock.recv(ms.MAX_ANSWER_BYTES))
            case Answered(raw=raw):
                return Answer(msgspec.json.decode(raw, type=StatusRow))
            case Refusing(refusal=refusal) | Farewelled(refusal=refusal):
                return Answer(None, f"it refuses: {refusal.detail}")
            case _:
                continue


def _why(error: OSError, path: Path) -> str:
    match error.errno:
        case errno.ENOENT:
            return f"nothing listens: there is no {path}"
        case errno.ECONNREFUSED:
            return f"nothing listens at {path}, which somebody has left there"
        case errno.EPROTOTYPE:
            return f"something else listens at {path}"
        case code:
            return f"{path}: {os.strerror(code) if code else error}"

"""Netlink, the kernel's language for questions about the network: framing, and asking.

Spoken here rather than by the netlink library, whose import alone takes longer than a quick
measurement has (0.2 s), and whose questions need a thread each. Layouts: netlink(7),
linux/netlink.h; all in the host's byte order.

The kernel answers while it is being asked: when `send` returns, the answer waits in the socket.
So several questions can leave together and cost one system call, and whoever waits for an answer
waits for one that was lost; `_PATIENCE` ends that.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from typing import Self, TypeAlias

Attributes: TypeAlias = dict[int, bytes]

# struct nlmsghdr: length, type, flags, sequence, port. struct nlattr: length, type.
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_INT = struct.Struct("=i")
_ALIGN = 4
HEADER_BYTES = _HEADER.size

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_REQUEST = 0x1
_NLM_F_ACK = 0x4
_NLM_F_DUMP = 0x300
# Of changes: put it in the place of what is there, only if nothing is there, if nothing is there.
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
# What was listed changed meanwhile.
_NLM_F_DUMP_INTR = 0x10
# The upper bits of an attribute's type are flags.
_ATTRIBUTE_MASK = 0x3FFF

# The kernel fills up to 32 KiB at once if there is room for it.
_BUFFER_BYTES = 65_536
# What changes every time it is listed is used as it is.
_TRIES = 3
# So many questions leave together: their answers, a kilobyte each with the kernel's own account
# of them, have to fit into the socket (208 KiB unless the administrator wants less).
_BATCH = 32
# struct timeval: a second. Answers are there at once or not at all.
_PATIENCE = struct.pack("@ll", 1, 0)


def attributes(data: bytes) -> Attributes:
    """The attributes that follow a message's own fields, by type."""
    found: Attributes = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _ATTRIBUTE_MASK] = data[at + _ATTRIBUTE.size : at + length]
        at += length + _ALIGN - 1 & -_ALIGN
    return found


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, to be sent."""
    length = _ATTRIBUTE.size + len(data)
    return _ATTRIBUTE.pack(length, kind) + data + bytes(-length % _ALIGN)


def number(found: Attributes, kind: int) -> int:
    """An attribute of 32 bits, signed; 0 where it is missing."""
    data = found.get(kind)
    if data is None or len(data) < _INT.size:
        return 0
    value: int = _INT.unpack_from(data)[0]
    return value


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """One message, to be sent, alone or before others."""
    header = _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0)
    return header + body + bytes(-len(body) % _ALIGN)


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence and body of each message that came together."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, flags, sequence, data[at + _HEADER.size : at + length]
        at += length + _ALIGN - 1 & -_ALIGN


def _error(body: bytes) -> OSError:
    code = -_INT.unpack_from(body)[0]
    return OSError(code, os.strerror(code))


def _outcome(body: bytes) -> bytes | OSError:
    """A refusal, or nothing: an error of 0 says that what was asked for is done."""
    return _error(body) if _INT.unpack_from(body)[0] else b""


class Netlink:
    """A socket for questions; for any thread, one at a time.

    It belongs to the network namespace of the thread that made it, and stays there.
    """

    def __init__(self, protocol: int) -> None:
        """Open it.

        Args:
            protocol: Which part of the kernel is asked, such as NETLINK_ROUTE.

        Raises:
            OSError: The kernel has no such part, or no descriptor is to be had.
        """
        self._lock = threading.Lock()
        self._sequence = 0
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _PATIENCE)

    def ask(self, kind: int, body: bytes) -> bytes:
        """Ask for one thing.

        Returns:
            The body of the answer.

        Raises:
            OSError: The kernel's refusal, or it could not be asked.
        """
        (answer,) = self.ask_each(kind, [body])
        if isinstance(answer, OSError):
            raise answer
        return answer

    def ask_each(self, kind: int, bodies: Sequence[bytes]) -> list[bytes | OSError]:
        """Ask for one thing after the other.

        Returns:
            For each question the body of its answer, or the kernel's refusal.

        Raises:
            OSError: The kernel could not be asked.
        """
        answers: list[bytes | OSError] = []
        with self._lock:
            for at in range(0, len(bodies), _BATCH):
                answers += self._ask_some(kind, bodies[at : at + _BATCH])
        return answers

    def change(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Have something changed.

        Args:
            kind: The message's type.
            body: What is to be changed, and how.
            flags: Those of changes, such as NLM_F_CREATE.

        Raises:
            OSError: The kernel's refusal, or it could not be asked.
        """
        with self._lock:
            (answer,) = self._ask_some(kind, [body], flags | _NLM_F_ACK)
        if isinstance(answer, OSError):
            raise answer

    def change_together(self, changes: Sequence[tuple[int, bytes, int]]) -> list[OSError | None]:
        """Have several things changed, one after the other, though an earlier one is refused.

        They leave together, and the kernel has dealt with all of them when `send` returns: no end
        of this process comes between two of them.

        Args:
            changes: The type, the body and the flags of each.

        Returns:
            For each change the kernel's refusal, or None.

        Raises:
            OSError: The kernel could not be asked.
        """
        acknowledged = [(kind, body, flags | _NLM_F_ACK) for kind, body, flags in changes]
        with self._lock:
            answers = self._converse(acknowledged)
        return [answer if isinstance(answer, OSError) else None for answer in answers]

    def _ask_some(
        self, kind: int, bodies: Sequence[bytes], flags: int = 0
    ) -> list[bytes | OSError]:
        return self._converse([(kind, body, flags) for body in bodies])

    def _converse(self, questions: Sequence[tuple[int, bytes, int]]) -> list[bytes | OSError]:
        """Send questions together: the type, the body and the flags of each; get the answers."""
        first = self._sequence + 1
        self._sequence += len(questions)
        self.socket.send(
            b"".join(
                message(kind, _NLM_F_REQUEST | flags, first + place, body)
                for place, (kind, body, flags) in enumerate(questions)
            )
        )
        answers: dict[int, bytes | OSError] = {}
        while len(answers) < len(questions):
            for answer, _, sequence, body in split(self.socket.recv(_BUFFER_BYTES)):
                # What an interrupted question left behind has another number.
                if first <= sequence <= self._sequence:
                    answers[sequence] = _outcome(body) if answer == _NLMSG_ERROR else body
        return [answers[first + place] for place in range(len(questions))]

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Ask for all there is.

        Returns:
            The body of each message of the answer.

        Raises:
            OSError: The kernel's refusal, or it could not be asked.
        """
        found: list[bytes] = []
        with self._lock:
            for _ in range(_TRIES):
                self._sequence += 1
                question = message(kind, _NLM_F_REQUEST | _NLM_F_DUMP, self._sequence, body)
                self.socket.send(question)
                found, was_interrupted = self._listed()
                if not was_interrupted:
                    break
        return found

    def _listed(self) -> tuple[list[bytes], bool]:
        """The bodies of an answer, and whether what they list changed meanwhile."""
        found: list[bytes] = []
        was_interrupted = False
        while True:
            for kind, flags, sequence, body in split(self.socket.recv(_BUFFER_BYTES)):
                if sequence != self._sequence:
                    continue
                was_interrupted |= bool(flags & _NLM_F_DUMP_INTR)
                if kind == _NLMSG_DONE:
                    # Its body is the error that ended the list early.
                    if len(body) >= _INT.size and _INT.unpack_from(body)[0] < 0:
                        raise _error(body)
                    return found, was_interrupted
                if kind == _NLMSG_ERROR:
                    raise _error(body)
                found.append(body)

    def close(self) -> None:
        """Ask no more; harmless when done before."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def drain(sock: socket.socket, size: int = _BUFFER_BYTES) -> Iterator[bytes | None]:
    """What was announced to a non-blocking socket, until there is no more.

    Args:
        sock: Member of the groups that are of interest.
        size: How much of each announcement is wanted.

    Yields:
        Announcements; None where more was announced than the socket holds, and is lost.

    Raises:
        OSError: The kernel could not be asked.
    """
    while True:
        try:
            data = sock.recv(size)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            yield None
        else:
            yield data

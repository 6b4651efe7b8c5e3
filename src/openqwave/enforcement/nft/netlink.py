"""The part of nftables' netlink protocol that elements need: one batch, one question, one list.

A batch is one message that holds several, between a begin and an end; the kernel carries out all
of them or none, and packets see the change at one moment. Answers are there when `send` returns,
because the kernel works within it. Only the last is asked to be confirmed; errors come before.

Every batch that was carried out moves the *generation* of the namespace's tables by one, whoever
sent it. So whoever counts the own ones knows whether somebody else changed anything.

Layouts: linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h. Numbers in
attributes are in network order there, in the heads in the host's.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Final

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10 << 8
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_REQUEST, _MULTI, _ACK, _INTERRUPTED, _DUMP, _CREATE = 0x1, 0x2, 0x4, 0x10, 0x300, 0x400
_ERROR, _DONE = 2, 3
_SOL_NETLINK, _CAP_ACK = 270, 10
_SNDBUFFORCE, _RCVBUFFORCE = 32, 33

# Message numbers of nftables.
GET_TABLE, DELETE_TABLE, GET_GENERATION = 1, 2, 16
GET_RULE = 7
NEW_ELEMENT, GET_ELEMENT, DELETE_ELEMENT = 12, 13, 14
_INET = 1  # NFPROTO_INET

_HEAD = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_FAMILY = struct.pack(">BBH", _INET, 0, 0)
_BATCH_FAMILY = struct.pack(">BBH", 0, 0, 10)
_NESTED = 0x8000
_TYPE = 0x3FFF

# A batch of a hundred thousand elements is 16 MB; where the kernel gives less room than that, one
# that does not fit is refused whole.
_ROOM_BYTES: Final = 64 << 20
# The kernel fills at most 32 KiB at once (net/netlink/af_netlink.c).
_ANSWER_BYTES: Final = 1 << 16
# A list that others change while it is read is asked for again; who changes tables ten times
# within milliseconds does it all the time.
_MOST_TRIES: Final = 10


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def nest(kind: int, *inner: bytes) -> bytes:
    """An attribute made of attributes."""
    return attribute(kind | _NESTED, b"".join(inner))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in some bytes; ends where they are no attributes any more."""
    at = 0
    while at + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not 4 <= length <= len(data) - at:
            return
        yield kind & _TYPE, data[at + 4 : at + length]
        at += length + 3 & ~3


def text(value: str) -> bytes:
    """A string as the kernel takes it."""
    return value.encode() + b"\0"


class Netfilter:
    """A netlink socket for nftables, of the network namespace in which it was opened."""

    def __init__(self) -> None:
        """Open it; needs no rights yet.

        Raises:
            OSError: The kernel has no nftables (EPROTONOSUPPORT), or no descriptor is left.
        """
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER)
        self._sequence = 0
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        for forced, option in ((_SNDBUFFORCE, socket.SO_SNDBUF), (_RCVBUFFORCE, socket.SO_RCVBUF)):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, forced, _ROOM_BYTES)
            except PermissionError:
                # Root of a user namespace is not asked; the system's limit holds.
                self._socket.setsockopt(socket.SOL_SOCKET, option, _ROOM_BYTES)

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def change(self, messages: Iterable[tuple[int, bytes]]) -> None:
        """Carry out messages as one transaction.

        Args:
            messages: Their numbers and attributes; at least one.

        Raises:
            OSError: All is as before. ENOENT and EEXIST: the tables are not as was thought.
        """
        parts = [self._message(_BATCH_BEGIN, 0, _BATCH_FAMILY)]
        batch = list(messages)
        last = len(batch) - 1
        for index, (number, body) in enumerate(batch):
            flags = (_CREATE if number == NEW_ELEMENT else 0) | (_ACK if index == last else 0)
            parts.append(self._message(_SUBSYSTEM | number, flags, _FAMILY + body))
        confirmed = self._sequence
        parts.append(self._message(_BATCH_END, 0, _BATCH_FAMILY))
        self._send(b"".join(parts))
        for kind, sequence, _, body in self._answers():
            if kind == _ERROR:
                _raise(body)
                if sequence == confirmed:
                    return
        raise OSError(errno.EIO, "the kernel did not say what became of a transaction")

    def ask(self, number: int, body: bytes = b"") -> list[bytes]:
        """Ask for one thing.

        Returns:
            The attributes of each message of the answer.

        Raises:
            OSError: ENOENT where there is none.
        """
        self._send(self._message(_SUBSYSTEM | number, _ACK, _FAMILY + body))
        found: list[bytes] = []
        for kind, _, _, answer in self._answers():
            if kind == _ERROR:
                _raise(answer)
                return found
            found.append(answer[4:])
        return found

    def list_all(self, number: int, body: bytes = b"") -> list[bytes]:
        """Ask for all there are, as they were at one moment.

        Raises:
            OSError: ENOENT where the table is not there; EINTR where others change it all the time.
        """
        for _ in range(_MOST_TRIES):
            found = self._list_once(number, body)
            if found is not None:
                return found
        raise OSError(errno.EINTR, "the tables change faster than they can be listed")

    def generation(self) -> int:
        """The number of the newest transaction of anybody."""
        for answer in self.ask(GET_GENERATION):
            for kind, value in attributes(answer):
                if kind == 1:
                    return int.from_bytes(value, "big")
        raise OSError(errno.EIO, "the kernel did not tell the generation of its tables")

    def _list_once(self, number: int, body: bytes) -> list[bytes] | None:
        self._send(self._message(_SUBSYSTEM | number, _DUMP, _FAMILY + body))
        found: list[bytes] = []
        is_torn = False
        for kind, _, flags, answer in self._answers():
            is_torn |= bool(flags & _INTERRUPTED)
            if kind == _ERROR:
                _raise(answer)
            if kind == _DONE:
                # Its number is the error that ended the list, if one did.
                _raise(answer)
                return None if is_torn else found
            found.append(answer[4:])
        return None

    def _message(self, kind: int, flags: int, body: bytes) -> bytes:
        self._sequence = self._sequence + 1 & 0xFFFF_FFFF
        return _HEAD.pack(16 + len(body), kind, flags | _REQUEST, self._sequence, 0) + body

    def _send(self, data: bytes) -> None:
        self._forget()
        try:
            self._socket.sendto(data, (0, 0))
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                detail = "more at once than the kernel takes; raise net.core.wmem_max"
                raise OSError(errno.ENOBUFS, detail) from None
            raise

    def _forget(self) -> None:
        """Throw away what came to a question that was given up."""
        while True:
            try:
                self._socket.recv(_ANSWER_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    def _answers(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Kind, sequence, flags and body of each message that is there."""
        while True:
            try:
                data = self._socket.recv(_ANSWER_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            at = 0
            while at + 16 <= len(data):
                length, kind, flags, sequence, _ = _HEAD.unpack_from(data, at)
                yield kind, sequence, flags, data[at + 16 : at + length]
                at += max(16, length) + 3 & ~3


def _raise(body: bytes) -> None:
    """Raise the error that a message tells; none for a confirmation."""
    number = -struct.unpack_from("=i", body)[0]
    if number:
        raise OSError(number, os.strerror(number))

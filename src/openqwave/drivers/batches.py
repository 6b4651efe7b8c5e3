"""Memory for recvmmsg and sendmmsg: many datagrams for one system call, and their control data.

The kernel's structures (struct mmsghdr, struct iovec, struct cmsghdr; recvmmsg(2), sendmmsg(2),
cmsg(3)) are laid out in byte arrays once, with the addresses of the parts in them, and read with
`struct`: ten times faster than through objects of ctypes.

The calls are made without letting go of the interpreter's lock. They never wait (MSG_DONTWAIT),
and last a microsecond for each datagram; giving the lock away would let any other thread keep it
for 5 ms, in the middle of a train whose spacing is counted in microseconds.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence

# struct msghdr: name, its length, iovec, their number, control, its length, flags; struct
# mmsghdr adds the length of the datagram. Native sizes and alignment.
MESSAGE = struct.Struct("@PIPNPNi0PI0P")
_IOVEC = struct.Struct("@PN")
# struct cmsghdr: its length with this header, level, type. Header and data are each filled up to
# a multiple of a word (CMSG_ALIGN).
CONTROL = struct.Struct("@Nii")
WORD = struct.calcsize("@N")
CONTROL_DATA = -(-CONTROL.size // WORD) * WORD

# struct sockaddr_in6, the longest address of these sockets.
NAME_BYTES = 28
# A stamp (64 or 80), traffic class and hop limit (24 each), or an error with its sender (64).
CONTROL_BYTES = 256

_SOCKADDR_IN = struct.Struct("=H2s4s8x")
_SOCKADDR_IN6 = struct.Struct("=H2s4x16sI")
_INT = struct.Struct("=i")

# linux/socket.h, UIO_MAXIOV: sendmmsg and recvmmsg take no more at once.
MAX_MESSAGES = 1024

_libc = ctypes.PyDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_sendmmsg = _libc.sendmmsg
_sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)


def _address_of(array: bytearray) -> int:
    """Where an array lies; true as long as its length is left alone."""
    return ctypes.addressof(ctypes.c_char.from_buffer(array)) if array else 0


def _os_error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))


def socket_address(packed: bytes, port: int, scope_id: int) -> bytes:
    """The kernel's form of an address: struct sockaddr_in or sockaddr_in6."""
    network_port = port.to_bytes(2, "big")
    if len(packed) == 4:
        return _SOCKADDR_IN.pack(socket.AF_INET, network_port, packed)
    return _SOCKADDR_IN6.pack(socket.AF_INET6, network_port, packed, scope_id)


def address_parts(name: bytes) -> tuple[bytes, int, int]:
    """Packed address, port and scope of the kernel's form."""
    if int.from_bytes(name[:2], sys.byteorder) == socket.AF_INET:
        _, port, packed = _SOCKADDR_IN.unpack(name)
        return packed, int.from_bytes(port, "big"), 0
    _, port, packed, scope_id = _SOCKADDR_IN6.unpack(name)
    return packed, int.from_bytes(port, "big"), scope_id


def integer_control(level: int, kind: int, number: int) -> bytes:
    """A control message that carries one int, padded for another to follow."""
    header = CONTROL.pack(CONTROL_DATA + _INT.size, level, kind).ljust(CONTROL_DATA, b"\0")
    return header + _INT.pack(number).ljust(WORD, b"\0")


class ReceiveBatch:
    """Room for the datagrams of one recvmmsg.

    Attributes:
        data: Payloads, `payload_bytes` for each message.
        names: Senders' addresses, `NAME_BYTES` each.
        control: Control messages, `CONTROL_BYTES` each.
    """

    def __init__(self, slots: int, payload_bytes: int) -> None:
        """Lay out the room.

        Args:
            slots: How many messages one call can take, at most `MAX_MESSAGES`.
            payload_bytes: How much of each; what is longer is cut and flagged (MSG_TRUNC).
        """
        self.slots = slots
        self.data = bytearray(slots * payload_bytes)
        self.names = bytearray(slots * NAME_BYTES)
        self.control = bytearray(slots * CONTROL_BYTES)
        self._vectors = bytearray(slots * _IOVEC.size)
        self._headers = bytearray(slots * MESSAGE.size)
        data, names = _address_of(self.data), _address_of(self.names)
        control, vectors = _address_of(self.control), _address_of(self._vectors)
        for slot in range(slots):
            _IOVEC.pack_into(
                self._vectors, slot * _IOVEC.size, data + slot * payload_bytes, payload_bytes
            )
            MESSAGE.pack_into(
                self._headers,
                slot * MESSAGE.size,
                names + slot * NAME_BYTES,
                NAME_BYTES,
                vectors + slot * _IOVEC.size,
                1,
                control + slot * CONTROL_BYTES,
                CONTROL_BYTES,
                0,
                0,
            )
        # The kernel writes what it used over what there was room for.
        self._fresh = bytes(self._headers)
        self._address = _address_of(self._headers)
        self._view = memoryview(self._headers)

    def receive(self, fd: int, limit: int, flags: int = 0) -> int:
        """Take what waits, without waiting for it.

        Args:
            fd: The socket.
            limit: How many at most; never more than there are slots.
            flags: MSG_ERRQUEUE, or 0.

        Returns:
            How many were taken.

        Raises:
            OSError: An error was pending on the socket; it is no more.
        """
        self._headers[:] = self._fresh
        count: int = _recvmmsg(
            fd, self._address, min(limit, self.slots), flags | socket.MSG_DONTWAIT, None
        )
        if count < 0:
            error = _os_error()
            if isinstance(error, BlockingIOError):
                return 0
            raise error
        return count

    def headers(self, count: int) -> Iterator[tuple[int, ...]]:
        """The fields of `MESSAGE` of the first messages."""
        return MESSAGE.iter_unpack(self._view[: count * MESSAGE.size])

    def control_messages(self, slot: int, used_bytes: int) -> Iterator[tuple[int, int, int]]:
        """Level, type, and where in `control` the data begins, of one message's control data."""
        at = slot * CONTROL_BYTES
        end = at + used_bytes
        while at + CONTROL.size <= end:
            length, level, kind = CONTROL.unpack_from(self.control, at)
            yield level, kind, at + CONTROL_DATA
            at += max(CONTROL_DATA, -(-length // WORD) * WORD)


class SendBatch:
    """Datagrams to one address, laid out before any of them leaves."""

    def __init__(self, payloads: Sequence[bytes], name: bytes, control: bytes) -> None:
        """Lay them out.

        Args:
            payloads: What UDP carries, for each.
            name: From `socket_address`.
            control: Control messages that go with every one; may be empty.
        """
        self.count = len(payloads)
        self._data = bytearray().join(payloads)
        self._name = bytearray(name)
        self._control = bytearray(control)
        self._vectors = bytearray(self.count * _IOVEC.size)
        self._headers = bytearray(self.count * MESSAGE.size)
        data, vectors = _address_of(self._data), _address_of(self._vectors)
        where, what = _address_of(self._name), _address_of(self._control)
        for turn, payload in enumerate(payloads):
            _IOVEC.pack_into(self._vectors, turn * _IOVEC.size, data, len(payload))
            MESSAGE.pack_into(
                self._headers,
                turn * MESSAGE.size,
                where,
                len(name),
                vectors + turn * _IOVEC.size,
                1,
                what,
                len(control),
                0,
                0,
            )
            data += len(payload)
        self._address = _address_of(self._headers)

    def send(self, fd: int, first: int, count: int) -> int:
        """Send some of them, in order, without waiting for room.

        Args:
            fd: The socket.
            first: Index of the first.
            count: How many.

        Returns:
            How many were sent; fewer than `count` when the one after them failed.

        Raises:
            OSError: The first could not be sent; `BlockingIOError` for lack of room.
        """
        sent: int = _sendmmsg(
            fd,
            self._address + first * MESSAGE.size,
            min(count, MAX_MESSAGES),
            socket.MSG_DONTWAIT,
        )
        if sent < 0:
            raise _os_error()
        return sent

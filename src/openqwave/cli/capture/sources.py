"""Frames of an interface, or of a file; whoever takes them is not held up by a signal."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from openqwave.cli.interruption import Interrupted
from openqwave.wire import pcap, pcapng
from openqwave.wire.frames import Frame, FrameReader, MalformedFile
from openqwave.wire.pcap import PcapReader
from openqwave.wire.pcapng import PcapngReader

if TYPE_CHECKING:
    from openqwave.cli.interruption import Interruption
    from openqwave.drivers.packets import PacketSocket

# What a file is read in, and so what its reader has to look at before a signal is seen.
_PIECE_BYTES = 65_536
_MAGIC_BYTES = 4
# Who presses Ctrl-C waits no longer for what is still to be shown.
_LEFT_S = 1.0
# The name of standard input.
STANDARD_INPUT = "-"


class Unreadable(Exception):
    """The file cannot be read, and why."""


def live(
    socket: PacketSocket, interruption: Interruption, seconds: float | None
) -> Iterator[Frame | None]:
    """Frames as they come, None when there is none at the moment; until the time is over.

    Raises:
        Interrupted: A signal has come, and what had come before it was given.
        AdapterFailed: The interface is gone.
    """
    end = None if seconds is None else time.monotonic() + seconds
    try:
        while end is None or time.monotonic() < end:
            interruption.check()
            frame = socket.take()
            yield frame
            if frame is None:
                left = None if end is None else max(0.0, end - time.monotonic())
                interruption.wait_readable(socket.fileno(), left)
    except Interrupted:
        yield from _left(socket)
        raise
    yield from _left(socket)


def _left(socket: PacketSocket) -> Iterator[Frame]:
    """Frames that waited when the end came, as far as there is time for them."""
    end_ns, end = time.time_ns(), time.monotonic() + _LEFT_S
    while time.monotonic() < end and (frame := socket.take()) is not None:
        if frame.time_ns is None or frame.time_ns > end_ns:
            return
        yield frame


def stored(path: str, interruption: Interruption) -> Iterator[Frame]:
    """Frames of a file, or of standard input.

    Raises:
        Interrupted: A signal has come.
        MalformedFile: It is no capture, or cut off; after the frames before that place.
        Unreadable: The system does not let it be read.
    """
    with contextlib.ExitStack() as stack:
        if path == STANDARD_INPUT:
            fd = sys.stdin.fileno()
        else:
            # One that nobody writes to is waited for where a signal is seen.
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError as error:
                raise Unreadable(error.strerror or str(error)) from error
            stack.callback(os.close, fd)
        data = b""
        while len(data) < _MAGIC_BYTES and (piece := _piece(fd, interruption)):
            data += piece
        reader = _reader_of(data)
        while data:
            yield from reader.feed(data)
            data = _piece(fd, interruption)
        reader.end()


def _piece(fd: int, interruption: Interruption) -> bytes:
    while True:
        interruption.wait_readable(fd)
        try:
            return os.read(fd, _PIECE_BYTES)
        except BlockingIOError:
            continue
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from error


def _reader_of(data: bytes) -> FrameReader:
    """The reader for a file that begins so.

    Raises:
        MalformedFile: There is none.
    """
    magic = data[:_MAGIC_BYTES]
    if magic in pcap.MAGIC:
        return PcapReader()
    if magic == pcapng.MAGIC:
        return PcapngReader()
    raise MalformedFile("it is empty" if not data else "it is neither a pcap nor a pcapng file")

"""The whole of `qwave capture`, in order: open, show and keep until the end, count; exit status."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from openqwave.cli.capture.conversations import Conversations
from openqwave.cli.capture.filters import Filter
from openqwave.cli.capture.reporting import Counts, Reporter
from openqwave.cli.capture.sources import STANDARD_INPUT, Unreadable, live, stored
from openqwave.cli.capture.words import comment_of
from openqwave.cli.interruption import Interrupted, Interruption
from openqwave.drivers.packets import PacketSocket
from openqwave.model.errors import QosError
from openqwave.wire.frames import Frame
from openqwave.wire.packets import packet_of
from openqwave.wire.pcapng import PcapngWriter

ENDED, CANNOT = 0, 2


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for.

    Attributes:
        interface: Where to look; None for all interfaces.
        read: The file to read instead; None to look.
        write: The file to keep packets in; None for none.
        as_json: One object a line.
        count: When to end, in packets shown; None for never.
        seconds: When to end; None for when it is asked to.
        wanted: Which packets are shown and kept.
    """

    interface: str | None = None
    read: str | None = None
    write: str | None = None
    as_json: bool = False
    count: int | None = None
    seconds: float | None = None
    wanted: Filter = field(default_factory=Filter)


class _CannotWrite(Exception):
    """The file to keep packets in failed."""


class _Kept:
    """The file that packets are kept in, or none."""

    def __init__(self, file: IO[bytes] | None) -> None:
        self._file = file
        self._writer = PcapngWriter("openqwave")
        self._write(self._writer.begin())

    def add(self, frame: Frame, comment: str) -> None:
        if self._file is not None:
            self._write(self._writer.write(frame, comment))

    def flush(self) -> None:
        if self._file is not None:
            try:
                self._file.flush()
            except OSError as error:
                raise _CannotWrite(error.strerror or str(error)) from error

    def _write(self, data: bytes) -> None:
        if self._file is not None:
            try:
                self._file.write(data)
            except OSError as error:
                raise _CannotWrite(error.strerror or str(error)) from error


def run_capture(options: Options) -> int:
    """Show packets until the end; return the exit status. All else is on standard output."""
    reporter, counts = Reporter(as_json=options.as_json), Counts()
    status = ENDED
    with contextlib.ExitStack() as stack:
        interruption = stack.enter_context(Interruption())
        socket = None
        try:
            if options.read is None:
                socket = stack.enter_context(PacketSocket(options.interface))
            kept = _Kept(_opened(options, stack))
        except QosError as error:
            return _refuse(f"Nothing can be captured: {error.detail or error}.")
        except _CannotWrite as error:
            return _refuse(f"{options.write}: cannot be written: {error}")
        frames: Iterator[Frame | None]
        if socket is None:
            frames = stored(options.read or "", interruption)
        else:
            reporter.begin(options.interface)
            frames = live(socket, interruption, options.seconds)
        try:
            _follow(frames, options, reporter, kept, counts)
        except Interrupted as interrupted:
            # What looks is ended so in order; what reads a file has not come to its end.
            status = ENDED if options.read is None else interrupted.status
        except _CannotWrite as error:
            status = _refuse(f"{options.write}: cannot be written: {error}")
        except QosError as error:
            where = "" if options.read is None else f"{options.read}: "
            reporter.flush()
            status = _refuse(f"{where}{error.detail or error}")
        except Unreadable as error:
            status = _refuse(f"{options.read}: cannot be read: {error}")
        if socket is not None:
            counts.other += socket.other
            counts.lost = socket.dropped
        try:
            kept.flush()
        except _CannotWrite as error:
            status = _refuse(f"{options.write}: cannot be written: {error}")
    reporter.end(counts)
    return status


def _opened(options: Options, stack: contextlib.ExitStack) -> IO[bytes] | None:
    if options.write is None:
        return None
    try:
        if options.read not in (None, STANDARD_INPUT):
            with contextlib.suppress(FileNotFoundError):
                if os.path.samefile(options.read or "", options.write):
                    raise _CannotWrite("it is the file that is read")
        file = open(options.write, "wb")  # noqa: SIM115 - the stack closes it
    except OSError as error:
        raise _CannotWrite(error.strerror or str(error)) from error
    stack.callback(_close, file)
    return file


def _close(file: IO[bytes]) -> None:
    # What could not be written was told by `flush`.
    with contextlib.suppress(OSError):
        file.close()


def _follow(
    frames: Iterator[Frame | None],
    options: Options,
    reporter: Reporter,
    kept: _Kept,
    counts: Counts,
) -> None:
    """Show packets until there are no more, or enough."""
    conversations = Conversations()
    for frame in frames:
        if frame is None:
            # Nothing to do: what was done is to be seen.
            reporter.flush()
            kept.flush()
            continue
        packet = packet_of(frame)
        if packet is None:
            counts.other += 1
            continue
        # Asked of every packet, so that no byte of a connection is missing.
        events = conversations.events_of(packet)
        if not options.wanted.takes(packet):
            counts.left_out += 1
            continue
        counts.add(packet, events)
        reporter.tell(frame, packet, events)
        kept.add(frame, comment_of(packet, events))
        if counts.shown == options.count:
            return


def _refuse(sentence: str) -> int:
    sys.stderr.write(sentence + "\n")
    return CANNOT

"""What a capture is made of: frames of a link, and how a file that holds them is read.

A file comes in pieces of any size and frames go out as soon as they are whole, so a file may be
of any length, or a pipe. Whoever wrote it is not trusted: each length is compared with a bound
before anything is kept for it, and the one exception that leaves a reader is `MalformedFile`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

from openqwave.model.codes import ErrorCode
from openqwave.model.errors import QosError
from openqwave.model.value import value

# MAXIMUM_SNAPLEN of libpcap: no tool writes more of one frame.
MAX_FRAME_BYTES = 262_144
# Times beyond (the year 2262) are nonsense, and calendars end somewhere.
MAX_TIME_NS = (1 << 63) - 1

# LINKTYPE_*, https://www.tcpdump.org/linktypes.html
LINK_NULL = 0
LINK_ETHERNET = 1
LINK_RAW = 101
LINK_LOOP = 108
LINK_SLL = 113
LINK_IPV4 = 228
LINK_IPV6 = 229
LINK_SLL2 = 276


class Direction(enum.Enum):
    """Which way a frame passed the interface, seen from its host."""

    INCOMING = "in"
    OUTGOING = "out"


@value
class Frame:
    """What one interface saw at one moment.

    Attributes:
        time_ns: When, nanoseconds since 1970; None if the file does not say, or says nonsense.
        link_type: What its first bytes are, one of the numbers of LINKTYPE.
        data: Its bytes, as many as were kept.
        length_bytes: How long it was.
        interface: The interface's name; empty if not known.
        direction: Which way it passed; None if not known.
    """

    time_ns: int | None
    link_type: int
    data: bytes
    length_bytes: int
    interface: str = ""
    direction: Direction | None = None


class MalformedFile(QosError, ValueError):
    """A file is not what it says it is."""

    code = ErrorCode.ERROR_INVALID_PARAMETER


class FrameReader:
    """Puts frames together from pieces of a file; one subclass for each format."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._passed_bytes = 0

    @property
    def pending_bytes(self) -> int:
        """How many bytes of what is not whole yet are kept."""
        return len(self._pending)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take the next piece of the file; give the frames that it completes.

        Raises:
            MalformedFile: While frames are taken, after those that came before the fault.
        """
        self._pending += data
        start = 0
        try:
            while True:
                size, frame = self._take_at(start)
                if not size:
                    return
                start += size
                if frame is not None:
                    yield frame
        finally:
            del self._pending[:start]
            self._passed_bytes += start

    def end(self) -> None:
        """Say that the file ends here.

        Raises:
            MalformedFile: In the middle of something.
        """
        if self._pending or not self._passed_bytes:
            at = self._passed_bytes + len(self._pending)
            raise MalformedFile(f"the file is cut off at byte {at:,}")

    def _take_at(self, start: int) -> tuple[int, Frame | None]:
        """The size of what begins there, 0 while it is not whole; and the frame in it, if any."""
        raise NotImplementedError

    def _malformed(self, start: int, what: str) -> MalformedFile:
        return MalformedFile(f"at byte {self._passed_bytes + start:,}: {what}")


def time_of(time_ns: int) -> int | None:
    """A time that a file states, if a calendar has it."""
    return time_ns if 0 <= time_ns <= MAX_TIME_NS else None

"""The capture file of today: blocks, each with its length at both ends.

Read are sections of either byte order, interfaces with their units of time, and the three kinds
of blocks that hold packets; other blocks are passed over. Written is one section, the least
significant byte first, with stamps of nanoseconds and comments.

Source: draft-ietf-opsawg-pcapng, sections 3 and 4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from openqwave.model.value import value
from openqwave.wire.frames import MAX_FRAME_BYTES, Direction, Frame, FrameReader, time_of

# The first four bytes of a file, the same in both byte orders.
MAGIC = bytes.fromhex("0a0d0d0a")

_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_ORDERS = {_BYTE_ORDER_MAGIC.to_bytes(4, "little"): "<", _BYTE_ORDER_MAGIC.to_bytes(4, "big"): ">"}
# Type, length, and the length again.
_EMPTY_BLOCK_BYTES = 12
# Wireshark's bound: nothing that holds one packet, or tells of one interface, is longer.
MAX_BLOCK_BYTES = 16 * 1024 * 1024
# More than a machine has; each costs memory for as long as its section lasts.
MAX_INTERFACES = 4_096

_END, _COMMENT, _IF_NAME, _FLAGS, _IF_TSRESOL, _IF_TSOFFSET = 0, 1, 2, 2, 9, 14
# An option's length is 16 bits; a comment is for people.
MAX_COMMENT_BYTES = 4_096
# Microseconds, where an interface does not say.
_USUAL_RESOLUTION = 6
_NANOSECONDS = 9
# The longest name of an interface in Linux has 15 bytes; other systems have long ones.
_MAX_NAME_BYTES = 256
_DIRECTIONS = {1: Direction.INCOMING, 2: Direction.OUTGOING}
_DIRECTION_BITS = {direction: bits for bits, direction in _DIRECTIONS.items()}


@value
class _Interface:
    link_type: int
    snap_bytes: int
    name: str
    units_per_s: int
    offset_s: int


class PcapngReader(FrameReader):
    """Reads a file that begins with `MAGIC`."""

    def __init__(self) -> None:
        super().__init__()
        self._order = ""
        self._interfaces: list[_Interface] = []

    def _take_at(self, start: int) -> tuple[int, Frame | None]:
        pending = self._pending
        have = len(pending) - start
        if have < _EMPTY_BLOCK_BYTES:
            return 0, None
        is_section = pending[start : start + 4] == MAGIC
        if is_section:
            order = _ORDERS.get(bytes(pending[start + 8 : start + 12]))
            if order is None:
                raise self._malformed(start + 8, "a section of no byte order")
        elif self._order:
            order = self._order
        else:
            raise self._malformed(start, "this is no capture file")
        kind, size = struct.unpack_from(f"{order}II", pending, start)
        if size < _EMPTY_BLOCK_BYTES or size % 4 or size > MAX_BLOCK_BYTES:
            raise self._malformed(start + 4, f"a block cannot have {size:,} bytes")
        if have < size:
            return 0, None
        if struct.unpack_from(f"{order}I", pending, start + size - 4) != (size,):
            raise self._malformed(start + size - 4, "the two lengths of a block differ")
        body = memoryview(pending)[start + 8 : start + size - 4]
        try:
            return size, self._read(kind, order, bytes(body), start)
        except struct.error:
            raise self._malformed(start, "a block is too short for its kind") from None
        finally:
            body.release()

    def _read(self, kind: int, order: str, body: bytes, start: int) -> Frame | None:
        if kind == _SECTION:
            (major,) = struct.unpack_from(f"{order}4xH", body)
            if major != 1:
                raise self._malformed(start + 12, f"version {major} of the format is not known")
            self._order, self._interfaces = order, []
        elif kind == _INTERFACE:
            if len(self._interfaces) >= MAX_INTERFACES:
                raise self._malformed(start, f"more than {MAX_INTERFACES:,} interfaces")
            self._interfaces.append(self._interface(order, body, start))
        elif kind == _PACKET:
            number, high, low, kept, length = struct.unpack_from(f"{order}IIIII", body)
            return self._frame(order, body, 20, (number, high << 32 | low, kept, length), start)
        elif kind == _OLD_PACKET:
            number, _, high, low, kept, length = struct.unpack_from(f"{order}HHIIII", body)
            return self._frame(order, body, 20, (number, high << 32 | low, kept, length), start)
        elif kind == _SIMPLE_PACKET:
            (length,) = struct.unpack_from(f"{order}I", body)
            kept = min(length, len(body) - 4)
            if self._interfaces and self._interfaces[0].snap_bytes:
                kept = min(kept, self._interfaces[0].snap_bytes)
            return self._frame(order, body, 4, (0, None, kept, length), start)
        return None

    def _interface(self, order: str, body: bytes, start: int) -> _Interface:
        link_type, snap_bytes = struct.unpack_from(f"{order}HxxI", body)
        name, resolution, offset_s = "", _USUAL_RESOLUTION, 0
        for code, content in self._options(order, body, 8, start):
            if code == _IF_NAME:
                name = content[:_MAX_NAME_BYTES].decode("utf-8", "replace")
            elif code == _IF_TSRESOL and len(content) == 1:
                resolution = content[0]
            elif code == _IF_TSOFFSET and len(content) == 8:
                (offset_s,) = struct.unpack(f"{order}q", content)
        units = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
        return _Interface(link_type, snap_bytes, name, units, offset_s)

    def _frame(
        self,
        order: str,
        body: bytes,
        at: int,
        fields: tuple[int, int | None, int, int],
        start: int,
    ) -> Frame:
        number, stamp, kept, length = fields
        if number >= len(self._interfaces):
            raise self._malformed(
                start, f"a packet of interface {number:,}, which is not described"
            )
        if kept > MAX_FRAME_BYTES:
            raise self._malformed(start, f"a packet of {kept:,} bytes; none is so long")
        if at + kept > len(body):
            raise self._malformed(start, "a packet is longer than its block")
        interface = self._interfaces[number]
        time_ns = None
        if stamp is not None:
            passed_ns = stamp * 1_000_000_000 // interface.units_per_s
            time_ns = time_of(passed_ns + interface.offset_s * 1_000_000_000)
        direction = None
        for code, content in self._options(order, body, at + kept + -kept % 4, start):
            if code == _FLAGS and len(content) == 4:
                direction = _DIRECTIONS.get(struct.unpack(f"{order}I", content)[0] & 3)
        data = body[at : at + kept]
        return Frame(
            time_ns, interface.link_type, data, max(length, kept), interface.name, direction
        )

    def _options(self, order: str, body: bytes, at: int, start: int) -> Iterator[tuple[int, bytes]]:
        while at + 4 <= len(body):
            code, size = struct.unpack_from(f"{order}HH", body, at)
            at += 4
            if code == _END:
                return
            if at + size > len(body):
                raise self._malformed(start, "an option is longer than its block")
            yield code, body[at : at + size]
            at += size + -size % 4


class PcapngWriter:
    """Makes the bytes of a file: `begin` first, then what `write` gives.

    Interfaces are described when their first frame comes.

    Args:
        application: Who writes the file, for people.
    """

    def __init__(self, application: str) -> None:
        self._application = application
        self._numbers: dict[tuple[int, str], int] = {}

    def begin(self) -> bytes:
        """The section's header."""
        # Of a length that is not told, since it is not known.
        head = struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1)
        return _block(_SECTION, head + _option(4, self._application.encode()) + _NO_MORE)

    def write(self, frame: Frame, comment: str = "") -> bytes:
        """The block of a frame, behind that of its interface if the file has not described it.

        Args:
            frame: One without a time gets that of 1970.
            comment: For people; empty for none. Cut at `MAX_COMMENT_BYTES`.
        """
        key = frame.link_type, frame.interface
        described = b""
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._numbers)
            described = self._describe(*key)
        stamp, data = frame.time_ns or 0, frame.data
        head = struct.pack(
            "=IIIII", number, stamp >> 32, stamp & 0xFFFFFFFF, len(data), frame.length_bytes
        )
        options = b""
        if comment:
            text = comment.encode("utf-8", "replace")[:MAX_COMMENT_BYTES]
            options += _option(_COMMENT, text.decode("utf-8", "ignore").encode())
        if frame.direction is not None:
            options += _option(_FLAGS, struct.pack("<I", _DIRECTION_BITS[frame.direction]))
        if options:
            options += _NO_MORE
        return described + _block(_PACKET, head + _padded(data) + options)

    def _describe(self, link_type: int, name: str) -> bytes:
        options = _option(_IF_NAME, name.encode()[:_MAX_NAME_BYTES]) if name else b""
        options += _option(_IF_TSRESOL, bytes((_NANOSECONDS,))) + _NO_MORE
        head = struct.pack("<HHI", link_type, 0, MAX_FRAME_BYTES)
        return _block(_INTERFACE, head + options)


_NO_MORE = bytes(4)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _option(code: int, content: bytes) -> bytes:
    return struct.pack("<HH", code, len(content)) + _padded(content)


def _block(kind: int, body: bytes) -> bytes:
    size = struct.pack("<I", len(body) + _EMPTY_BLOCK_BYTES)
    return struct.pack("<I", kind) + size + body + size

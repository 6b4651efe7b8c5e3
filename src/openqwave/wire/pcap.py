"""The classic capture file: one header, then one for each frame.

It is in the byte order of whoever wrote it, and stamps are seconds and micro- or nanoseconds; its
first four bytes tell. Source: draft-ietf-opsawg-pcap.
"""

from __future__ import annotations

import struct

from openqwave.wire.frames import MAX_FRAME_BYTES, Frame, FrameReader, time_of

# The first four bytes: the byte order, and nanoseconds in the unit of a stamp's second half.
MAGIC = {
    bytes.fromhex("d4c3b2a1"): ("<", 1_000),
    bytes.fromhex("a1b2c3d4"): (">", 1_000),
    bytes.fromhex("4d3cb2a1"): ("<", 1),
    bytes.fromhex("a1b23c4d"): (">", 1),
}
# All that had the present layout.
_MAJOR = 2
_HEADER_BYTES, _RECORD_BYTES = 24, 16
# The upper bits of the link type's field tell of checksums at a frame's end.
_LINK_TYPE_MASK = 0xFFFF


class PcapReader(FrameReader):
    """Reads a file that begins with one of `MAGIC`."""

    def __init__(self) -> None:
        super().__init__()
        self._record: struct.Struct | None = None
        self._unit_ns = 1
        self._link_type = 0

    def _take_at(self, start: int) -> tuple[int, Frame | None]:
        if self._record is None:
            return self._take_header(start), None
        have = len(self._pending) - start
        if have < _RECORD_BYTES:
            return 0, None
        seconds, fraction, kept, length = self._record.unpack_from(self._pending, start)
        if kept > MAX_FRAME_BYTES:
            raise self._malformed(start, f"a packet of {kept:,} bytes; none is so long")
        size = _RECORD_BYTES + kept
        if have < size:
            return 0, None
        time_ns = time_of(seconds * 1_000_000_000 + fraction * self._unit_ns)
        data = bytes(self._pending[start + _RECORD_BYTES : start + size])
        return size, Frame(time_ns, self._link_type, data, max(length, kept))

    def _take_header(self, start: int) -> int:
        if len(self._pending) - start < _HEADER_BYTES:
            return 0
        magic = bytes(self._pending[start : start + 4])
        if magic not in MAGIC:
            raise self._malformed(start, "this is no capture file")
        order, self._unit_ns = MAGIC[magic]
        fields = struct.unpack_from(f"{order}HHiIII", self._pending, start + 4)
        if fields[0] != _MAJOR:
            raise self._malformed(start + 4, f"version {fields[0]} of the format is not known")
        self._link_type = fields[5] & _LINK_TYPE_MASK
        self._record = struct.Struct(f"{order}IIII")
        return _HEADER_BYTES

"""What routers do to the marks of a frame: tags dropped or stripped, DSCP rewritten.

An Ethernet frame carries an 802.1Q tag as four bytes before its type; the three upper bits of the
tag's second half are the priority. The code point is in the IP header: in IPv4 the upper six bits
of the second byte, covered by the header's checksum, which is corrected by RFC 1624 without a
look at the rest; in IPv6 four bits into the first byte, covered by none. TCP and UDP leave the
byte out of their checksums. The ECN bits below the code point stay.
"""

from __future__ import annotations

from openqwave.lab.links import Marks, PathSpec

ETHERNET_BYTES = 14
TAG_BYTES = 4
# Where a frame's type is, and the type that announces a tag (IEEE 802.1Q), IPv4 and IPv6.
TYPE_AT = 12
_TAG = b"\x81\x00"
_IPV4 = b"\x08\x00"
_IPV6 = b"\x86\xdd"
# Where an IPv4 header has its checksum.
_CHECKSUM_AT = 10


def ip_bytes(frame: bytes) -> int:
    """Return how much of a frame is behind its Ethernet header and tag."""
    header = ETHERNET_BYTES
    # 0x81 alone also begins types that nobody uses; one comparison of a number is what it costs.
    if frame[TYPE_AT] == _TAG[0] and frame[TYPE_AT + 1] == _TAG[1]:
        header += TAG_BYTES
    return len(frame) - header


class Remarker:
    """What a path does to marks, as a table of all that can come.

    Attributes:
        is_idle: Whether it changes nothing and drops nothing.
    """

    def __init__(self, spec: PathSpec) -> None:
        marks = [Marks(dscp, is_tagged=tagged) for tagged in (False, True) for dscp in range(64)]
        self._after = {before: spec.marks_after(before) for before in marks}
        self.is_idle = all(before == after for before, after in self._after.items())

    def apply(self, frame: bytes) -> bytes | None:
        """Return a frame as it comes out; None if it is dropped.

        A frame that is not IP has no code point; its tag is treated as any.
        """
        is_tagged = frame[TYPE_AT : TYPE_AT + 2] == _TAG
        start = ETHERNET_BYTES + (TAG_BYTES if is_tagged else 0)
        kind = frame[start - 2 : start]
        is_ip = kind in (_IPV4, _IPV6) and len(frame) >= start + _CHECKSUM_AT + 2
        dscp = 0
        if is_ip:
            # Twelve bits: version and header length, then the byte; or version, then the byte.
            word = frame[start] << 8 | frame[start + 1]
            dscp = word >> 2 & 63 if kind == _IPV4 else word >> 6 & 63
        after = self._after[Marks(dscp, is_tagged=is_tagged)]
        if after is None:
            return None
        if is_ip and after.dscp != dscp:
            changed = bytearray(frame)
            if kind == _IPV4:
                _rewrite_ipv4(changed, start, after.dscp)
            else:
                word = word & ~(63 << 6) | after.dscp << 6
                changed[start : start + 2] = word.to_bytes(2)
            frame = bytes(changed)
        if is_tagged and not after.is_tagged:
            frame = frame[:TYPE_AT] + frame[TYPE_AT + TAG_BYTES :]
        return frame


def _rewrite_ipv4(frame: bytearray, start: int, dscp: int) -> None:
    old = frame[start + 1]
    new = dscp << 2 | old & 3
    at = start + _CHECKSUM_AT
    # HC' = ~(~HC + ~m + m'), in one's complement; the changed word's other byte cancels out.
    total = (~int.from_bytes(frame[at : at + 2]) & 0xFFFF) + (~old & 0xFFFF) + new
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    frame[start + 1] = new
    frame[at : at + 2] = (~total & 0xFFFF).to_bytes(2)

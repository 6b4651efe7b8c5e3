"""What fills the probes: their sizes, and bytes that nothing on the way can compress.

The specification gives sizes for IPv4 and says nothing of IPv6. Packets of both versions are
taken to be of the same size on the wire, so the larger header makes the payload smaller.
"""

from __future__ import annotations

from collections.abc import Callable

from openqwave.model.errors import InvalidParameter
from openqwave.model.flow import Transport
from openqwave.model.overhead import header_overhead_bytes
from openqwave.wire.qlpb import PROBE_MIN_BYTES, PROBEGAP_MIN_BYTES

# Twice the longest filler and a bit: each probe gets another part of it, and parts that begin
# apart have nothing in common that a compressor could find in one packet.
_POOL_BYTES = 4096

# How many bytes one random number gives; a float has 53 random bits.
_BYTES_A_DRAW = 4

# Where the next probe's part begins. Odd and far from any filler's size, so that it is long
# before a beginning returns.
_STRIDE_BYTES = 1039


def headers_bytes(version: int) -> int:
    """IP and UDP header of each probe: 28 bytes for IPv4, 48 for IPv6.

    Args:
        version: 4 or 6.

    Raises:
        InvalidParameter: Another version.
    """
    if version not in (4, 6):
        raise InvalidParameter(f"the version of IP is 4 or 6, not {version}")
    return header_overhead_bytes(version, Transport.UDP)


def smallest_packet_bytes(version: int) -> int:
    """The IP packet of a probe of packet pair or route check without filler."""
    return headers_bytes(version) + PROBE_MIN_BYTES


def probegap_packet_bytes(version: int) -> int:
    """The IP packet of a probegap probe without filler, each way."""
    return headers_bytes(version) + PROBEGAP_MIN_BYTES


class Filler:
    """Pseudo-random bytes, made once a session because the bytes of a train must cost nothing.

    Args:
        random: Uniform in [0, 1).
    """

    def __init__(self, random: Callable[[], float]) -> None:
        scale = 1 << (8 * _BYTES_A_DRAW)
        self._pool = b"".join(
            int(random() * scale).to_bytes(_BYTES_A_DRAW)
            for _ in range(_POOL_BYTES // _BYTES_A_DRAW)
        )
        self._start = 0

    def take(self, size_bytes: int) -> bytes:
        """Another part of the pool, of at most half its size."""
        start = self._start
        self._start = (start + _STRIDE_BYTES) % (_POOL_BYTES // 2)
        return self._pool[start : start + size_bytes]

"""A program that holds itself to a rate.

Where the kernel cannot delay a flow's excess (UDP without the fq queue and without
rights), the sender can. This is the virtual scheduling form of the generic cell rate
algorithm (ITU-T I.371 annex A): each packet is due one packet time after the one before,
and one that comes early by more than the tolerance waits.
"""

from __future__ import annotations

import time

from openqwave.model.errors import InvalidParameter

_NS_PER_S = 1_000_000_000

# A timer is late by up to a tenth of a millisecond on a busy machine; a packet may make
# up for it, but not for more than this, or a pause would be followed by a burst.
_TOLERANCE_NS = 2_000_000


class Pacer:
    """Tells a sender how long to wait before each packet."""

    def __init__(self, rate_bps: int) -> None:
        """Start with the first packet due at once.

        Args:
            rate_bps: Bits per second of IP packets; above 0.

        Raises:
            InvalidParameter: The rate is not above 0.
        """
        if rate_bps <= 0:
            raise InvalidParameter(f"a rate to pace at is above 0 bit/s, not {rate_bps}")
        self._rate_bps = rate_bps
        self._due_ns = 0

    def reserve(self, packet_bytes: int, *, now_ns: int) -> int:
        """Take the place of one packet.

        Args:
            packet_bytes: Its size with IP and transport headers.
            now_ns: Monotonic time.

        Returns:
            Nanoseconds to wait before sending it; 0 means now.
        """
        due_ns = max(self._due_ns, now_ns - _TOLERANCE_NS)
        self._due_ns = due_ns + packet_bytes * 8 * _NS_PER_S // self._rate_bps
        return max(0, due_ns - now_ns)

    def wait(self, packet_bytes: int) -> None:
        """Take the place of one packet and sleep until it is due."""
        wait_ns = self.reserve(packet_bytes, now_ns=time.monotonic_ns())
        if wait_ns:
            time.sleep(wait_ns / _NS_PER_S)

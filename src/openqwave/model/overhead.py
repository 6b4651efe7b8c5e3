"""Headers on top of payload: from the rate of the content to the rate on the network.

A contract counts IP and transport headers. A program knows the rate of its content and
the size of its packets. These are the inline helpers of qos2.h, to the bit: the products
are taken left to right in IEEE double precision and truncated, because programs compare
the results for equality.
"""

from __future__ import annotations

from openqwave.model.flow import Transport

_BITS_PER_BYTE = 8

# IP header without options or extensions plus transport header without options, in bytes
# (RFC 791 section 3.1, RFC 8200 section 3, RFC 9293 section 3.1, RFC 768).
_HEADER_BYTES = {
    (4, Transport.TCP): 20 + 20,
    (4, Transport.UDP): 20 + 8,
    (6, Transport.TCP): 40 + 20,
    (6, Transport.UDP): 40 + 8,
}


def header_overhead_bytes(version: int, transport: Transport) -> int:
    """Bytes of IP and transport header on each packet.

    Args:
        version: 4 or 6.
        transport: TCP or UDP.

    Returns:
        28 to 60 bytes.
    """
    return _HEADER_BYTES[version, transport]


def add_overhead(content_bps: int, packet_bytes: int, overhead_bytes: int) -> int:
    """The rate on the network of content sent in packets of one size.

    Args:
        content_bps: Rate of the content, bits per second.
        packet_bytes: Content in each packet; above 0.
        overhead_bytes: Headers on each packet.

    Returns:
        Bits per second with headers.

    Raises:
        ZeroDivisionError: `packet_bytes` is 0.
    """
    overhead_bits = overhead_bytes * _BITS_PER_BYTE
    packet_bits = packet_bytes * _BITS_PER_BYTE
    return content_bps + int(overhead_bits / packet_bits * content_bps)


def subtract_overhead(network_bps: int, packet_bytes: int, overhead_bytes: int) -> int:
    """The rate of the content that a rate on the network leaves room for.

    Args:
        network_bps: Bits per second with headers.
        packet_bytes: Content in each packet.
        overhead_bytes: Headers on each packet; above 0 or `packet_bytes` is.

    Returns:
        Rate of the content, bits per second.

    Raises:
        ZeroDivisionError: Both sizes are 0.
    """
    overhead_bits = overhead_bytes * _BITS_PER_BYTE
    packet_bits = packet_bytes * _BITS_PER_BYTE
    return network_bps - int(overhead_bits / (packet_bits + overhead_bits) * network_bps)

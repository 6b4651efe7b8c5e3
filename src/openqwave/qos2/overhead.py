"""The inline helpers of qos2.h: from the rate of the content to the rate on the network.

As in the header, any address family other than AF_INET counts as IPv6 and any protocol
other than TCP as UDP; so Linux's AF_INET6 and Windows' mean the same here.
"""

from __future__ import annotations

from openqwave.model.flow import Transport
from openqwave.model.overhead import add_overhead, header_overhead_bytes, subtract_overhead
from openqwave.qos2.constants import AF_INET, IPPROTO_TCP

# UINT64 arithmetic wraps around (C standard, unsigned types).
_UINT64 = (1 << 64) - 1


def QOS_HEADER_OVERHEAD(af: int, protocol: int) -> int:
    """Bytes of IP and transport header on each packet.

    Args:
        af: AF_INET, or anything else for IPv6.
        protocol: IPPROTO_TCP, or anything else for UDP.

    Returns:
        28 to 60.
    """
    transport = Transport.TCP if protocol == IPPROTO_TCP else Transport.UDP
    return header_overhead_bytes(4 if af == AF_INET else 6, transport)


def QOS_ADD_OVERHEAD(af: int, protocol: int, targetDataPacketSize: int, dataRate: int) -> int:
    """The rate on the network of content sent in packets of one size.

    Args:
        af: AF_INET, or anything else for IPv6.
        protocol: IPPROTO_TCP, or anything else for UDP.
        targetDataPacketSize: Bytes of content in each packet; above 0.
        dataRate: Rate of the content, bits per second.

    Returns:
        Bits per second with IP and transport headers.

    Raises:
        ZeroDivisionError: `targetDataPacketSize` is 0.
    """
    overhead_bytes = QOS_HEADER_OVERHEAD(af, protocol)
    return add_overhead(dataRate, targetDataPacketSize, overhead_bytes) & _UINT64


def QOS_SUBTRACT_OVERHEAD(af: int, protocol: int, targetDataPacketSize: int, dataRate: int) -> int:
    """The rate of the content that a rate on the network leaves room for.

    Args:
        af: AF_INET, or anything else for IPv6.
        protocol: IPPROTO_TCP, or anything else for UDP.
        targetDataPacketSize: Bytes of content in each packet.
        dataRate: Rate on the network, bits per second with headers.

    Returns:
        Bits per second of content.
    """
    return subtract_overhead(dataRate, targetDataPacketSize, QOS_HEADER_OVERHEAD(af, protocol))


__all__ = ["QOS_ADD_OVERHEAD", "QOS_HEADER_OVERHEAD", "QOS_SUBTRACT_OVERHEAD"]

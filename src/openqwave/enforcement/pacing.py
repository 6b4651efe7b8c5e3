"""From a contract's rate to SO_MAX_PACING_RATE.

A contract counts the bytes of IP packets; the kernel counts something else. Measured on
Linux 6.1, 6.12 and 6.18, over virtual Ethernet:

* **TCP** paces itself with or without fq and counts payload (tcp_update_skb_after_send,
  net/ipv4/tcp_output.c): 1,000,000 bytes/s asked were 1,035,912 bytes/s of IP packets at
  a segment of 1,448 bytes. Raising, lowering and ending all take effect; after the end a
  congestion control that models its path (BBR) needs some round trips to unlearn it.
* **UDP** is paced only by the fq qdisc, which counts frames with their link header
  (qdisc_pkt_len, net/sched/sch_fq.c). Without fq the option is accepted and ignored.
  That would be a silent no-op, so it is refused.

UDP has three more traps, each of which is a refusal here:

* fq tells flows apart by socket only when the socket is connected; an unconnected one got
  its rate once for each of four destinations.
* The kernel only ever lowers the rate of a UDP socket: sk_setsockopt takes the minimum
  of the old and the new value (net/core/sock.c), and nothing but TCP raises it again.
  Asked for 16 Mbit/s after 8, the option read back 16 and the wire showed 8.
* Ending the rate takes effect only since Linux 6.7, whose fq lets packets of a socket
  without a limit pass by (fq_fastpath_check). Before, the socket would stay slow for
  ever, long after the flow.
"""

from __future__ import annotations

import errno
import socket
import sys
from typing import TYPE_CHECKING, Protocol

from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.flow import Transport
from openqwave.model.overhead import header_overhead_bytes

if TYPE_CHECKING:
    from openqwave.model.endpoint import Endpoint

# The value of SO_MAX_PACING_RATE that means "no limit".
UNPACED = (1 << 64) - 1

# Full packets of an Ethernet path: what a busy UDP sender makes, and what a TCP
# connection will make that does not stand yet and still has the protocol's minimum.
# Senders of smaller packets get a little less than their contract, never more.
_PACKET_BYTES = 1500

# An Ethernet header, which fq counts.
_LINK_HEADER_BYTES = 14

# struct tcp_info (linux/tcp.h): the state is byte 0, the options byte 5, tcpi_snd_mss is
# at 16 and leaves the options out. Timestamps take 12 bytes of every segment (RFC 7323
# appendix A).
_TCP_INFO_BYTES = 104
_STATE_AT = 0
_OPTIONS_AT = 5
_SND_MSS_AT = 16
_HAS_TIMESTAMPS = 1
_TIMESTAMP_BYTES = 12

# TCP_ESTABLISHED and TCP_CLOSE_WAIT: the states that send data (net/tcp_states.h).
_CONNECTED_STATES = frozenset({1, 8})

# asm-generic/socket.h; the socket module has no name for it.
SO_BINDTOIFINDEX = 62


# The first Linux on which ending a UDP socket's rate takes effect (see above).
_FIRST_LINUX_THAT_FORGETS = (6, 7)


class OutgoingQueues(Protocol):
    """Tells what lies on the way out; see `openqwave.drivers.links`."""

    def is_paced(self, destination: Endpoint, interface: int) -> bool:
        """Does the interface towards the destination run fq?

        Raises:
            OSError: The kernel could not be asked.
        """

    def linux_version(self) -> tuple[int, int]:
        """Major and minor version of the running kernel."""


class PacingRefused(Exception):
    """The rate cannot be enforced; `refusal` says why and what to do."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.refusal = Refusal(
            ErrorCode.ERROR_NOT_SUPPORTED,
            f"{detail}; a program that paces itself can use Flow.pacer()",
        )


def tcp_pacing(sock: socket.socket, rate_bps: int, version: int) -> int:
    """SO_MAX_PACING_RATE for a contract of a TCP socket.

    Args:
        sock: The application's socket.
        rate_bps: The contract: bits per second of IP packets; above 0.
        version: 4 or 6: what its packets are.

    Returns:
        Bytes of payload per second, at least 1.
    """
    headers = header_overhead_bytes(version, Transport.TCP)
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    if info[_STATE_AT] in _CONNECTED_STATES:
        if info[_OPTIONS_AT] & _HAS_TIMESTAMPS:
            headers += _TIMESTAMP_BYTES
        payload = int.from_bytes(info[_SND_MSS_AT : _SND_MSS_AT + 4], sys.byteorder)
    else:
        headers += _TIMESTAMP_BYTES
        payload = _PACKET_BYTES - headers
    return max(1, rate_bps * payload // ((payload + headers) * 8))


def udp_pacing(
    sock: socket.socket, rate_bps: int, destination: Endpoint, queues: OutgoingQueues
) -> int:
    """SO_MAX_PACING_RATE for a contract of a UDP socket.

    Args:
        sock: The application's socket.
        rate_bps: The contract: bits per second of IP packets; above 0.
        destination: Where the flow goes.
        queues: Tells what lies on the way.

    Returns:
        Bytes of frames per second, at least 1.

    Raises:
        PacingRefused: Nothing paces this socket, or nothing could undo it.
        OSError: The kernel could not be asked.
    """
    interface = sock.getsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX)
    if not queues.is_paced(destination, interface):
        raise PacingRefused(
            "an option of the socket holds UDP to a rate only where the outgoing interface runs "
            "the fq queue, and this one does not (tc qdisc replace dev DEV root fq)"
        )
    if queues.linux_version() < _FIRST_LINUX_THAT_FORGETS:
        raise PacingRefused(
            "before Linux 6.7 the rate of a UDP socket outlives its flow, so none is set"
        )
    try:
        sock.getpeername()
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        raise PacingRefused(
            "the fq queue holds a UDP socket to one rate only if it is connected"
        ) from None
    frame_bytes = _PACKET_BYTES + _LINK_HEADER_BYTES
    return max(1, rate_bps * frame_bytes // (_PACKET_BYTES * 8))

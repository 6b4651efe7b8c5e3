"""Packets on an AF_UNIX SOCK_SEQPACKET socket: sent and received whole, descriptors along."""

from __future__ import annotations

import array
import errno
import select
import socket
import struct
from typing import TYPE_CHECKING, Final

from openqwave.ipc.messages import MAX_ANSWER_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

# One byte more than an answer may have: what fills it was cut.
READ_BYTES: Final = MAX_ANSWER_BYTES + 1

# A struct timeval, as SO_RCVTIMEO takes it.
_TIMEVAL = struct.Struct("@ll")
_US_PER_S = 1_000_000
_MS_PER_S = 1_000


def set_patience(sock: socket.socket, patience_s: float) -> None:
    """How long a blocking call on a socket may take before it fails with EAGAIN.

    The kernel counts it, so that a call is one system call; with Python's own timeouts it is two.
    """
    whole_s, part_s = divmod(patience_s, 1)
    # Zero would mean for ever.
    limit = _TIMEVAL.pack(int(whole_s), max(1, int(part_s * _US_PER_S)))
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, limit)


def send_packet(sock: socket.socket, data: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one packet.

    Descriptors of which one is none stay behind: the other end judges the packet without them.

    Raises:
        OSError: The kernel does not take it.
    """
    if descriptors:
        rights = array.array("i", descriptors)
        ancillary = (socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)
        try:
            sock.sendmsg((data,), (ancillary,), socket.MSG_NOSIGNAL)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
        else:
            return
    sock.send(data, socket.MSG_NOSIGNAL)


def is_readable(sock: socket.socket, patience_s: float) -> bool:
    """Is there a packet, or the end of the connection, within so long?"""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(_MS_PER_S * patience_s))

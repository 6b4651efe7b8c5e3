"""When the kernel saw a datagram: SO_TIMESTAMPING, both ways.

**Arriving.** The kernel stamps a packet when the driver hands it over, before anything waits for
a program (RX_SOFTWARE). The time at which Python reads it says nothing: it may have waited for
the end of a train that this process was sending.

**Leaving.** Asked for is the stamp of the queue's entrance (TX_SCHED), not that of its exit
(TX_SOFTWARE). Where no queue stands they differ by half a microsecond. Where the host's own
interface is the bottleneck, the entrance is what is wanted: the queue behind it is part of the
path, and its stamps are there when the call returns, where those of the exit come as late as the
queue is long (measured: 26 ms for 12 packets at 5 Mbit/s, with stamps that hide the queue). It
also works on interfaces whose drivers give no stamps of their own (tunnels, bridges).

The kernel answers on the socket's error queue, with a number that counts the socket's datagrams
(OPT_ID) and without their content (OPT_TSONLY). Numbers are followed here; where a send failed
it is not certain that it took none, so counting then starts again.

Stamps are CLOCK_REALTIME in nanoseconds, as are the user's own that stand in for missing ones.

Sources: Documentation/networking/timestamping.rst, linux/net_tstamp.h, linux/errqueue.h.
"""

from __future__ import annotations

import select
import socket
import struct

from openqwave.drivers.batches import ReceiveBatch

# asm-generic/socket.h: the option, and the type of the control messages.
SO_TIMESTAMPING = 37

# SOF_TIMESTAMPING_*, linux/net_tstamp.h
_RX_SOFTWARE = 1 << 3
_SOFTWARE = 1 << 4
_OPT_ID = 1 << 7
_TX_SCHED = 1 << 8
_OPT_TSONLY = 1 << 11
_LEAVING = _TX_SCHED | _OPT_ID | _OPT_TSONLY

# struct scm_timestamping begins with the software stamp: seconds, nanoseconds.
STAMP = struct.Struct("@qq")
_NS_PER_S = 1_000_000_000

# struct sock_extended_err: errno, origin, type, code, info, data.
_ERROR = struct.Struct("=IBBBxII")
_ORIGIN_TIMESTAMPING = 4
# linux/in.h, linux/in6.h: the control messages that carry it.
_ERROR_MESSAGES = frozenset({(socket.IPPROTO_IP, 11), (socket.IPPROTO_IPV6, 25)})
_MSG_ERRQUEUE = 0x2000

# The queue's entrance is passed within the call, so one look is enough. A datagram that has to
# wait for its neighbour's Ethernet address is later; two milliseconds cover that on a quiet link.
# If none has come by then, the next trains are not waited for: nobody may answer at all.
_PATIENCE_MS = 2
_SLOTS = 64
_KEYS = 1 << 32


class Stamping:
    """The stamps of one socket's datagrams, in and out."""

    def __init__(self, sock: socket.socket, *, arriving: bool) -> None:
        """Ask for stamps.

        Args:
            sock: A UDP socket.
            arriving: Whether what it receives is to be stamped.

        Raises:
            OSError: The kernel has no such stamps.
        """
        self._sock = sock
        self._flags = _SOFTWARE | (_RX_SOFTWARE if arriving else 0)
        self._is_leaving = False
        # The kernel's number of the next datagram, and of the one that has index 0.
        self._next_key = 0
        self._base = 0
        self._found: dict[int, int] = {}
        self._is_patient = True
        self._batch: ReceiveBatch | None = None
        self._write(self._flags)

    def _write(self, flags: int) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, flags)

    def begin(self, *, wanted: bool) -> None:
        """Datagrams are about to be sent, indexed from 0.

        Args:
            wanted: Whether `collect` is to find stamps of them.
        """
        if wanted != self._is_leaving:
            # Numbers start at 0 whenever they are switched on.
            self._write(self._flags | _LEAVING if wanted else self._flags)
            self._is_leaving, self._next_key = wanted, 0
        self._found = {}
        self._base = self._next_key

    def sent(self, count: int) -> None:
        """So many more have been sent."""
        if self._is_leaving:
            self._next_key = (self._next_key + count) % _KEYS

    def stumbled(self, index: int) -> None:
        """Sending the one at `index` failed; it may have taken a number, or not."""
        self.drain()
        if self._is_leaving:
            self._write(self._flags)
            self._write(self._flags | _LEAVING)
            self._next_key, self._base = 0, -index

    def collect(self, count: int) -> dict[int, int]:
        """The stamps of the first `count` datagrams since `begin`, by index; some may lack."""
        self.drain()
        if len(self._found) < count and self._is_leaving and self._is_patient:
            poll = select.poll()
            poll.register(self._sock, 0)  # Errors are always waited for.
            while len(self._found) < count and poll.poll(_PATIENCE_MS):
                if not self.drain():
                    break
        found = {index: stamp for index, stamp in self._found.items() if 0 <= index < count}
        self._is_patient = len(found) == count
        self._found = {}
        return found

    def drain(self) -> int:
        """Empty the error queue, so that nobody is woken by it; returns what was in it."""
        if self._batch is None:
            self._batch = ReceiveBatch(_SLOTS, 0)
        batch = self._batch
        fd = self._sock.fileno()
        taken = 0
        while count := batch.receive(fd, _SLOTS, _MSG_ERRQUEUE):
            taken += count
            for slot, header in enumerate(batch.headers(count)):
                self._take(batch, slot, header[5])
            if count < _SLOTS:
                break
        return taken

    def _take(self, batch: ReceiveBatch, slot: int, used_bytes: int) -> None:
        stamp_ns = key = None
        for level, kind, at in batch.control_messages(slot, used_bytes):
            if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPING):
                seconds, nanoseconds = STAMP.unpack_from(batch.control, at)
                stamp_ns = seconds * _NS_PER_S + nanoseconds
            elif (level, kind) in _ERROR_MESSAGES:
                _, origin, _, _, _, number = _ERROR.unpack_from(batch.control, at)
                if origin == _ORIGIN_TIMESTAMPING:
                    key = number
        # Anything else in the queue is a router's or a far host's complaint of an earlier
        # datagram: what became of that is for the experiment to find out.
        if stamp_ns and key is not None:
            index = (key - self._base + _KEYS // 2) % _KEYS - _KEYS // 2
            self._found.setdefault(index, stamp_ns)

"""Receivers: UDP streams counted and timed, each phase apart; TCP counted.

Times of arrival are the kernel's (SO_TIMESTAMPNS), not those of the read. The traffic class comes
with each packet. What the socket itself had to drop is reported apart from what the network lost
(SO_RXQ_OVFL), so a sink that is too slow does not pass for a lossy path.
"""

from __future__ import annotations

import contextlib
import select
import selectors
import socket
import struct
import time
from collections.abc import Iterable
from typing import Any

from openqwave.lab.accounts import StreamAccount
from openqwave.lab.reporting import Reporter, Stop
from openqwave.lab.sources import address_family
from openqwave.lab.specs import HEADER, MAGIC, OVERHEAD_BYTES, TcpSink, UdpSink

# <asm-generic/socket.h>; the control messages have the options' numbers.
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
SO_RXQ_OVFL = 40
# struct timespec of this machine.
_TIMESPEC = struct.Struct("@ll")
_INT = struct.Struct("=i")

# 2 s of 30 Mbit/s in full-sized packets, which the kernel books at over 2 kB each.
RECEIVE_BUFFER_BYTES = 16 << 20
# How many packets are read between two looks at the clock.
BATCH = 256
DATAGRAM_BYTES = 65_535
# Room for the time stamp, the traffic class and the drop count.
ANCILLARY_BYTES = 256
BACKLOG = 16


def _receiver(address: str, port: int) -> socket.socket:
    sock = socket.socket(address_family(address), socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        with contextlib.suppress(
            PermissionError
        ):  # Only the machine's own root may exceed rmem_max.
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        sock.setblocking(False)
        sock.bind((address, port))
    except BaseException:
        sock.close()
        raise
    return sock


class _Streams:
    """The accounts of all streams of one socket."""

    def __init__(self, overhead_bytes: int) -> None:
        self._accounts: dict[tuple[int, int], StreamAccount] = {}
        self._overhead_bytes = overhead_bytes
        self.strangers = 0
        self.socket_drops = 0

    def take(self, data: bytes, ancillary: Iterable[tuple[int, int, bytes]]) -> None:
        """Enter one datagram with its control messages."""
        arrived_ns = traffic_class = 0
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack_from(value)
                arrived_ns = seconds * 1_000_000_000 + nanoseconds
            elif level == socket.SOL_SOCKET and kind == SO_RXQ_OVFL:
                self.socket_drops = _INT.unpack_from(value)[0]
            elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_TCLASS:
                traffic_class = _INT.unpack_from(value)[0]
            elif level == socket.IPPROTO_IP and kind == socket.IP_TOS:
                traffic_class = value[0]
        if len(data) < HEADER.size or not data.startswith(MAGIC):
            self.strangers += 1
            return
        _, stream, phase, sequence, sent_ns = HEADER.unpack_from(data)
        account = self._accounts.get((stream, phase))
        if account is None:
            account = self._accounts[stream, phase] = StreamAccount()
        account.add(sequence, sent_ns, arrived_ns, traffic_class, len(data) + self._overhead_bytes)

    def progress(self) -> list[dict[str, Any]]:
        """Return the progress of each phase of each stream."""
        return [
            {"stream": stream, "phase": phase} | account.progress()
            for (stream, phase), account in self._accounts.items()
        ]

    def final(self, samples: int) -> list[dict[str, Any]]:
        """Return the whole account of each phase of each stream."""
        return [
            {"stream": stream, "phase": phase} | account.final(samples)
            for (stream, phase), account in self._accounts.items()
        ]


def receive_streams(spec: UdpSink, stop: Stop, reporter: Reporter) -> None:
    """Count streams until stopped, then once more what has arrived by then."""
    with _receiver(spec.address, spec.port) as sock:
        address, port = sock.getsockname()[:2]
        streams = _Streams(OVERHEAD_BYTES[4 if sock.family == socket.AF_INET else 6])
        reporter.report("ready", address=address, port=port)
        report_ns = time.monotonic_ns() + spec.progress_ms * 1_000_000
        while not stop.requested:
            now_ns = time.monotonic_ns()
            if now_ns >= report_ns:
                report_ns = now_ns + spec.progress_ms * 1_000_000
                reporter.report("progress", streams=streams.progress())
            select.select([sock.fileno(), stop.fd], [], [], max(0, report_ns - now_ns) / 1e9)
            _drain(sock, streams)
        while _drain(sock, streams):
            pass
        reporter.report(
            "final",
            streams=streams.final(spec.samples),
            strangers=streams.strangers,
            socket_drops=streams.socket_drops,
        )


def _drain(sock: socket.socket, streams: _Streams) -> bool:
    """Read up to a batch; tell whether there may be more."""
    for _ in range(BATCH):
        try:
            data, ancillary, _, _ = sock.recvmsg(DATAGRAM_BYTES, ANCILLARY_BYTES)
        except BlockingIOError:
            return False
        streams.take(data, ancillary)
    return True


def receive_bulk(spec: TcpSink, stop: Stop, reporter: Reporter) -> None:
    """Count the bytes of every connection until stopped."""
    received = connections = 0
    buffer = bytearray(DATAGRAM_BYTES)
    with contextlib.ExitStack() as resources:
        listener = socket.socket(address_family(spec.address), socket.SOCK_STREAM)
        resources.enter_context(listener)
        selector = resources.enter_context(selectors.DefaultSelector())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((spec.address, spec.port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(stop.fd, selectors.EVENT_READ)
        address, port = listener.getsockname()[:2]
        reporter.report("ready", address=address, port=port)
        report_ns = time.monotonic_ns() + spec.progress_ms * 1_000_000
        while not stop.requested:
            now_ns = time.monotonic_ns()
            if now_ns >= report_ns:
                report_ns = now_ns + spec.progress_ms * 1_000_000
                reporter.report("progress", received_bytes=received)
            for key, _ in selector.select((report_ns - now_ns) / 1e9):
                sock = key.fileobj
                if sock is listener:
                    connection = resources.enter_context(listener.accept()[0])
                    connection.setblocking(False)
                    selector.register(connection, selectors.EVENT_READ)
                    connections += 1
                elif isinstance(sock, socket.socket):
                    count = _receive(sock, buffer)
                    received += count
                    if not count:
                        selector.unregister(sock)
                        sock.close()
    reporter.report("final", received_bytes=received, connections=connections)


def _receive(sock: socket.socket, buffer: bytearray) -> int:
    """Return how much was read of a readable connection; 0 at its end, however it came."""
    try:
        return sock.recv_into(buffer)
    except ConnectionError:
        return 0

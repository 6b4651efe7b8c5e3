"""Senders: a paced UDP stream, and TCP as fast as it goes.

The stream keeps to absolute times: packet n is due n intervals after the first, so a late timer
costs one packet's punctuality and none of the rate. A process that was not run at all for longer
than `MAX_LAG_NS` does not send what it owes in one burst; its schedule slips, and the report says
by how much.

Pauses end by the kernel's timer. Its slack, 50 us for ordinary threads, is set to 1 ns.
"""

from __future__ import annotations

import ctypes
import select
import socket
import time
from collections.abc import Iterator
from ipaddress import ip_address

from openqwave.lab.reporting import Reporter, Stop
from openqwave.lab.specs import HEADER, MAGIC, OVERHEAD_BYTES, Marking, TcpSource, UdpSource

# <linux/prctl.h>, <asm-generic/socket.h>
PR_SET_TIMERSLACK = 29
SO_MAX_PACING_RATE = 47

# Two packets' time at the slowest rates of interest, and 50 packets' at 30 Mbit/s: a burst that
# ordinary queues hold.
MAX_LAG_NS = 20_000_000
# Pauses longer than this wait for the stop too; shorter ones sleep, which is more exact.
INTERRUPTIBLE_NS = 5_000_000
PROGRESS_NS = 200_000_000
# One system call's worth of TCP: large enough for any rate here, small enough to stop soon.
CHUNK_BYTES = 65_536
CONNECT_TIMEOUT_S = 5.0


def set_traffic_class(sock: socket.socket, dscp: int, ecn: int = 0) -> None:
    """Mark what a socket sends from now on."""
    traffic_class = dscp << 2 | ecn
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, traffic_class)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, traffic_class)


def address_family(address: str) -> socket.AddressFamily:
    """Return the family of an address given as text; ValueError if it is none."""
    return socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6


def send_stream(spec: UdpSource, stop: Stop, reporter: Reporter) -> None:
    """Send a stream to its end or until stopped."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    with socket.socket(address_family(spec.destination), socket.SOCK_DGRAM) as sock:
        sock.connect((spec.destination, spec.port))
        address, port = sock.getsockname()[:2]
        reporter.report("ready", address=address, port=port)
        _send_packets(spec, sock, stop, reporter)


def _send_packets(spec: UdpSource, sock: socket.socket, stop: Stop, reporter: Reporter) -> None:
    version = 4 if sock.family == socket.AF_INET else 6
    packet_bits = 8 * (spec.payload_bytes + OVERHEAD_BYTES[version])
    packet = bytearray(spec.payload_bytes)
    steps = _Steps(spec.markings, sock, reporter)
    sequence = turn = slipped_ns = unsent = 0
    start_ns = time.monotonic_ns()
    end_ns = start_ns + round(spec.duration_s * 1e9)
    report_ns = start_ns + PROGRESS_NS
    while not stop.requested:
        due_ns = start_ns + slipped_ns + turn * packet_bits * 1_000_000_000 // spec.rate_bps
        if due_ns >= end_ns:
            break
        _pause_until(due_ns, spec.spin_us * 1000, stop)
        now_ns = time.monotonic_ns()
        if now_ns - due_ns > MAX_LAG_NS:
            slipped_ns += now_ns - due_ns
        steps.take_until(now_ns - start_ns)
        turn += 1
        HEADER.pack_into(packet, 0, MAGIC, spec.stream, sequence, time.time_ns())
        try:
            sock.send(packet)
        except ConnectionRefusedError:
            unsent += 1  # An earlier packet found no sink; the kernel says so in place of sending.
        else:
            sequence += 1
        if now_ns >= report_ns:
            report_ns = now_ns + PROGRESS_NS
            reporter.report("progress", sent=sequence)
    reporter.report(
        "final",
        sent=sequence,
        unsent=unsent,
        ip_bytes=sequence * packet_bits // 8,
        slipped_ns=slipped_ns,
        elapsed_ns=time.monotonic_ns() - start_ns,
    )


class _Steps:
    """What is to happen to the socket while it sends, in order of time."""

    def __init__(
        self, markings: tuple[Marking, ...], sock: socket.socket, reporter: Reporter
    ) -> None:
        self._sock = sock
        self._reporter = reporter
        self._coming: Iterator[Marking] = iter(sorted(markings, key=lambda step: step.at_s))
        self._next = next(self._coming, None)

    def take_until(self, elapsed_ns: int) -> None:
        """Take every step that is due."""
        while self._next is not None and elapsed_ns >= self._next.at_s * 1e9:
            set_traffic_class(self._sock, self._next.dscp, self._next.ecn)
            self._reporter.report("marked", dscp=self._next.dscp, ecn=self._next.ecn)
            self._next = next(self._coming, None)


def _pause_until(due_ns: int, spin_ns: int, stop: Stop) -> None:
    while (pause_ns := due_ns - spin_ns - time.monotonic_ns()) > 0:
        if pause_ns > INTERRUPTIBLE_NS:
            if stop.wait((pause_ns - INTERRUPTIBLE_NS / 2) / 1e9):
                return
        else:
            time.sleep(pause_ns / 1e9)
    while time.monotonic_ns() < due_ns:
        pass


def send_bulk(spec: TcpSource, stop: Stop, reporter: Reporter) -> None:
    """Send over one connection until its time is over or it is stopped."""
    chunk = bytes(CHUNK_BYTES)
    sent = 0
    with socket.socket(address_family(spec.destination), socket.SOCK_STREAM) as sock:
        if spec.congestion:
            sock.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_CONGESTION, spec.congestion.encode("ascii")
            )
        if spec.rate_bps:
            sock.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, spec.rate_bps // 8)
        set_traffic_class(sock, spec.dscp)
        sock.settimeout(CONNECT_TIMEOUT_S)
        sock.connect((spec.destination, spec.port))
        sock.setblocking(False)
        address, port = sock.getsockname()[:2]
        reporter.report("ready", address=address, port=port)
        start_ns = time.monotonic_ns()
        end_ns = start_ns + round(spec.duration_s * 1e9)
        report_ns = start_ns
        while not stop.requested and (now_ns := time.monotonic_ns()) < end_ns:
            if now_ns >= report_ns:
                report_ns = now_ns + spec.progress_ms * 1_000_000
                reporter.report("progress", sent_bytes=sent)
            wait_ns = min(end_ns, report_ns) - now_ns
            if select.select([stop.fd], [sock], [], wait_ns / 1e9)[1]:
                sent += sock.send(chunk)
        elapsed_ns = time.monotonic_ns() - start_ns
    reporter.report("final", sent_bytes=sent, elapsed_ns=elapsed_ns)

"""Senders: a paced UDP stream, and TCP as fast as it goes.

The stream keeps to absolute times: packet n is due n intervals after the first (intervals of
various lengths, if it is random or comes in bursts), so a late timer costs one packet's
punctuality and none of the rate. A process that was not run at all for longer than `MAX_LAG_NS`
does not send what it owes in one burst; its schedule slips, and the report says by how much.

Pauses end by the kernel's timer. Its slack, 50 us for ordinary threads, is set to 1 ns.
"""

from __future__ import annotations

import ctypes
import itertools
import random
import select
import socket
import time
from collections.abc import Iterator
from ipaddress import ip_address

from openqwave.lab.crosstraffic import arrivals
from openqwave.lab.links import Cross, CrossKind
from openqwave.lab.reporting import Reporter, Stop
from openqwave.lab.specs import HEADER, MAGIC, OVERHEAD_BYTES, TcpSource, UdpSource
from openqwave.lab.steps import Steps, set_traffic_class

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


def address_family(address: str) -> socket.AddressFamily:
    """Return the family of an address given as text; ValueError if it is none."""
    return socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6


def send_stream(spec: UdpSource, stop: Stop, reporter: Reporter) -> None:
    """Send a stream to its end or until stopped."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    with socket.socket(address_family(spec.destination), socket.SOCK_DGRAM) as sock:
        sock.connect((spec.destination, spec.port))
        address, port = sock.getsockname()[:2]
        with Steps(spec, sock, reporter) as steps:
            reporter.report("ready", address=address, port=port)
            _send_packets(spec, sock, steps, stop, reporter)


def _send_packets(
    spec: UdpSource, sock: socket.socket, steps: Steps, stop: Stop, reporter: Reporter
) -> None:
    version = 4 if sock.family == socket.AF_INET else 6
    packet_bits = 8 * (spec.payload_bytes + OVERHEAD_BYTES[version])
    packet = bytearray(spec.payload_bytes)
    sent = [0]  # By phase.
    slipped_ns = unsent = 0
    start_ns = spec.start_monotonic_ns or time.monotonic_ns()
    end_ns = start_ns + round(spec.duration_s * 1e9)
    report_ns = start_ns + PROGRESS_NS
    for offset_ns in _offsets_ns(spec, packet_bits):
        due_ns = start_ns + slipped_ns + offset_ns
        if stop.requested or due_ns >= end_ns:
            break
        _pause_until(due_ns, spec.spin_us * 1000, stop)
        now_ns = time.monotonic_ns()
        if now_ns - due_ns > MAX_LAG_NS:
            slipped_ns += now_ns - due_ns
        steps.take_until(now_ns - start_ns)
        sent += [0] * (steps.phase + 1 - len(sent))
        HEADER.pack_into(packet, 0, MAGIC, spec.stream, steps.phase, sent[-1], time.time_ns())
        try:
            sock.send(packet)
        except ConnectionRefusedError:
            unsent += 1  # An earlier packet found no sink; the kernel says so in place of sending.
        else:
            sent[-1] += 1
        if now_ns >= report_ns:
            report_ns = now_ns + PROGRESS_NS
            reporter.report("progress", sent=sum(sent), sent_by_phase=sent)
    reporter.report(
        "final",
        sent=sum(sent),
        sent_by_phase=sent,
        unsent=unsent,
        ip_bytes=sum(sent) * packet_bits // 8,
        slipped_ns=slipped_ns,
        elapsed_ns=time.monotonic_ns() - start_ns,
    )


def _offsets_ns(spec: UdpSource, packet_bits: int) -> Iterator[int]:
    """Yield without end when each packet is due, from the start.

    What is random comes at the same times for one stream, so that runs can be compared.
    """
    if spec.bursts:
        traffic = Cross(
            CrossKind.PARETO_ONOFF if spec.bursts.is_heavy_tailed else CrossKind.ONOFF,
            spec.rate_bps,
            packet_bytes=packet_bits // 8,
            peak_bps=spec.bursts.peak_bps,
            on_ns=round(spec.bursts.on_ms * 1e6),
        )
        yield from map(int, arrivals(traffic, f"stream {spec.stream}"))
    elif spec.is_random:
        intervals = random.Random(spec.stream)  # noqa: S311 - nobody gains by guessing them
        offset_ns = 0.0
        while True:
            yield int(offset_ns)
            offset_ns += intervals.expovariate(spec.rate_bps / (packet_bits * 1e9))
    else:
        for turn in itertools.count():
            yield turn * packet_bits * 1_000_000_000 // spec.rate_bps


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

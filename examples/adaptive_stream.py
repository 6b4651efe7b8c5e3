"""A stream that adapts to its path: Microsoft's sample for the QOS2 API, told again in Python.

::

    qwave sink &                                         # there: lets the path be measured
    python examples/adaptive_stream.py receive           # there: counts, and knows of no QoS
    python examples/adaptive_stream.py send ADDRESS 8000000          # here

The sender asks what the path can carry, has its rate admitted, and streams with priority. When
the path is congested it goes down to a tenth and asks to be told when its rate is there again.
Where the path cannot be measured (no sink, another network) it streams with marks only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import socket
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor

import openqwave as qw
from openqwave.model.flow import Transport
from openqwave.model.overhead import add_overhead, header_overhead_bytes

PORT = 40_007
PAYLOAD = bytes(1_400)
BURSTS_PER_S = 40
MBIT = 1_000_000


class Teller:
    """Prints what happens: a sentence for people, or an object a line for programs."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._start_s = time.monotonic()

    def __call__(self, event: str, sentence: str, **fields: object) -> None:
        """Print one event."""
        if self._as_json:
            print(json.dumps({"event": event, "time_ns": time.time_ns(), **fields}), flush=True)
        else:
            print(f"{time.monotonic() - self._start_s:5.1f} s  {sentence}", flush=True)


class Sender:
    """One stream; `run` is the whole of it.

    Args:
        sock: A connected UDP socket.
        flow: The flow that it is in.
        content_bps: What the stream has to carry, without headers.
        tell: Is told what happens.
    """

    def __init__(self, sock: socket.socket, flow: qw.Flow, content_bps: int, tell: Teller) -> None:
        self.sock, self.flow, self.tell = sock, flow, tell
        version = 4 if sock.family == socket.AF_INET else 6
        headers_bytes = header_overhead_bytes(version, Transport.UDP)
        self.packet_bytes = len(PAYLOAD) + headers_bytes
        # Contracts count IP and transport headers.
        self.wanted_bps = add_overhead(content_bps, len(PAYLOAD), headers_bytes)
        self.least_bps = max(1, self.wanted_bps // 10)
        # Until a rate is granted: the least, as an ordinary stream.
        self.granted_bps = 0
        self.pacer: qw.Pacer | None = qw.Pacer(self.least_bps)

    def run(self, background: ThreadPoolExecutor, end_s: float) -> None:
        """Stream until a moment of `time.monotonic`."""
        found = self.estimates(end_s)
        if time.monotonic() >= end_s:
            return
        self.begin(self.wanted_bps if found is None else found.available_bps or 0)
        notice = None if found is None else self.next_notice(background)
        sent_packets, second_s = 0, time.monotonic()
        while (now_s := time.monotonic()) < end_s:
            sent_packets += self.send_burst()
            if notice is not None and notice.done():
                notice = self.react(notice, background)
            if now_s >= second_s + 1:
                self.tell_second(sent_packets, now_s - second_s)
                sent_packets, second_s = 0, now_s

    def estimates(self, end_s: float) -> qw.Fundamentals | None:
        """What the path can carry, once it is known; None where nobody can tell."""
        while time.monotonic() < end_s:
            try:
                found = self.flow.fundamentals()
                if found.bottleneck_bps is not None and found.available_bps is not None:
                    return found
            except (qw.NoData, qw.RetryLater):
                pass
            except qw.NotSupported as error:
                self.tell("unmeasured", f"marks only: {error}", reason=str(error))
                return None
            self.tell("waiting", "the path is being measured")
            time.sleep(1)
        return None

    def begin(self, free_bps: int) -> None:
        """Ask for the whole rate, or for what the path has of it; less than a tenth is no use."""
        while (rate_bps := min(self.wanted_bps, free_bps)) >= self.least_bps:
            try:
                self.set_rate(rate_bps, qw.RateReason.NOT_APPLICABLE)
            except (qw.NetworkBusy, qw.RetryLater) as error:
                self.tell("refused", f"refused: {error}", rate_bps=rate_bps, reason=str(error))
                free_bps = rate_bps * 9 // 10
                with contextlib.suppress(qw.NoData, qw.RetryLater):
                    free_bps = min(free_bps, self.flow.fundamentals().available_bps or 0)
            else:
                return
        self.tell("full", "the path is full: a tenth of the rate, without priority")

    def set_rate(self, rate_bps: int, reason: qw.RateReason) -> None:
        """Have a rate admitted. From here on the shaper, or the pacer, is the stream's clock."""
        pacer = None
        try:
            self.flow.set_rate(rate_bps, shaping=qw.Shaping.SHAPE_AND_MARK, reason=reason)
        except qw.NotSupported:
            # The kernel cannot hold UDP to this rate here, so the program does.
            self.flow.set_rate(rate_bps, reason=reason, self_paced=True)
            pacer = self.flow.pacer()
        self.granted_bps, self.pacer = rate_bps, pacer
        clock = "the kernel" if pacer is None else "the program"
        dscp = self.flow.packet_priority().conformant_dscp
        text = f"granted {rate_bps / MBIT:.2f} Mbit/s, DSCP {dscp}, paced by {clock}"
        why = reason.name
        self.tell("rate", text, rate_bps=rate_bps, reason=why, dscp=dscp, paced_by=clock)

    def next_notice(self, background: ThreadPoolExecutor) -> Future[None]:
        """Wait for congestion with the whole rate, for the whole rate without it."""
        if self.granted_bps >= self.wanted_bps:
            return background.submit(self.flow.wait_congested)
        return background.submit(self.flow.wait_available, self.wanted_bps)

    def react(self, notice: Future[None], background: ThreadPoolExecutor) -> Future[None] | None:
        """What was waited for has come; returns what is waited for next."""
        try:
            notice.result()
            if self.granted_bps >= self.wanted_bps:
                self.tell("congested", "congested: down to a tenth")
                self.set_rate(self.least_bps, qw.RateReason.CONGESTION)
            else:
                self.tell("available", "the whole rate is there")
                self.set_rate(self.wanted_bps, qw.RateReason.CONGESTION)
        except (qw.NetworkBusy, qw.RetryLater) as error:
            self.tell("refused", f"another was faster: {error}", reason=str(error))
        except qw.QosError as error:
            self.tell("lost", f"the path is measured no more: {error}", reason=str(error))
            return None
        return self.next_notice(background)

    def send_burst(self) -> int:
        """Send a fortieth of a second's packets; returns how many."""
        rate_bps = self.granted_bps or self.least_bps
        packets = max(1, rate_bps // (8 * self.packet_bytes * BURSTS_PER_S))
        for _ in range(packets):
            if self.pacer is not None:
                self.pacer.wait(self.packet_bytes)
            self.sock.send(PAYLOAD)
        return packets

    def tell_second(self, packets: int, elapsed_s: float) -> None:
        """Print what was sent, and what is known of the path."""
        sent_bps = round(8 * packets * self.packet_bytes / elapsed_s)
        known = qw.Fundamentals()
        with contextlib.suppress(qw.QosError):
            known = self.flow.fundamentals()
        capacity_bps, free_bps = known.bottleneck_bps, known.available_bps
        text = f"sent {sent_bps / MBIT:.2f} Mbit/s"
        if capacity_bps is not None and free_bps is not None:
            text += f"; of {capacity_bps / MBIT:.1f} Mbit/s {free_bps / MBIT:.1f} are free"
        numbers = {"capacity_bps": capacity_bps, "available_bps": free_bps}
        self.tell("second", text, sent_bps=sent_bps, granted_bps=self.granted_bps, **numbers)


def send(address: str, port: int, content_bps: int, end_s: float, tell: Teller) -> None:
    """Stream to a receiver."""
    family, _, _, _, destination = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(destination)
        # Ctrl-C is how a stream ends. Whatever waits in the background ends with the handle.
        ctrl_c = contextlib.suppress(KeyboardInterrupt)
        with ctrl_c, ThreadPoolExecutor(1) as pool, qw.open() as qos:
            flow = qos.add_socket(sock, traffic_type=qw.TrafficType.EXCELLENT_EFFORT)
            Sender(sock, flow, content_bps, tell).run(pool, end_s)
        # The socket is as it was: the end of the stream is an ordinary packet.
        sock.send(b"")
        tell("end", "the flow is over")


def receive(port: int, end_s: float, tell: Teller) -> None:
    """Count what comes."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", port))
        sock.settimeout(0.1)
        tell("listening", f"receiving on UDP port {port}", port=port)
        packets, bits, second_s = 0, 0, time.monotonic()
        with contextlib.suppress(KeyboardInterrupt):
            while (now_s := time.monotonic()) < end_s:
                if now_s >= second_s + 1:
                    rate_bps = round(bits / (now_s - second_s))
                    text = f"{packets} packets, {rate_bps / MBIT:.2f} Mbit/s"
                    tell("second", text, packets=packets, rate_bps=rate_bps)
                    packets, bits, second_s = 0, 0, now_s
                with contextlib.suppress(TimeoutError):
                    bits += 8 * len(sock.recv(65_535))
                    packets += 1


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"a whole number above 0, not {text!r}")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--seconds", type=positive, metavar="N", help="end by itself")
    shared.add_argument("--json", action="store_true", help="an object a line")
    parser = argparse.ArgumentParser(description="A stream that adapts to its path.")
    modes = parser.add_subparsers(dest="mode", required=True)
    receiver = modes.add_parser("receive", parents=[shared], help="count what comes")
    sender = modes.add_parser("send", parents=[shared], help="stream to a receiver")
    sender.add_argument("address", help="a host's name or address")
    sender.add_argument("bitrate", type=positive, help="of the content, bits a second")
    for mode in (receiver, sender):
        mode.add_argument("port", type=positive, nargs="?", default=PORT)
    asked = parser.parse_args(arguments)
    end_s = time.monotonic() + (asked.seconds or math.inf)
    tell = Teller(as_json=asked.json)
    try:
        if asked.mode == "receive":
            receive(asked.port, end_s, tell)
        else:
            send(asked.address, asked.port, asked.bitrate, end_s, tell)
    except ConnectionRefusedError:
        return fail(f"nobody receives at {asked.address}, port {asked.port}: start it there first")
    except (OSError, OverflowError, qw.QosError) as error:
        return fail(str(error))
    return 0


def fail(why: str) -> int:
    """Say in a line why it ends."""
    print(f"adaptive_stream: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

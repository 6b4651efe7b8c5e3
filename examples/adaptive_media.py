"""A media stream that steps its bitrate with the path; for asyncio.

::

    qwave sink &                                         # there: lets the path be measured
    python examples/adaptive_media.py receive            # there
    python examples/adaptive_media.py send ADDRESS       # here

The sender makes sound files of its own, the same piece for 1, 2, 4 and 8 loudspeakers, and sends
them as RTP (RFC 3550) with the payload L16 (RFC 3551). It begins with one channel and no priority;
is granted more, step by step, where the path has it; and falls back to one channel when the path is
congested. The receiver counts by the sequence numbers what was lost, and computes the jitter.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import contextlib
import functools
import json
import math
import random
import socket
import struct
import sys
import tempfile
import time
import wave
from dataclasses import dataclass, field
from pathlib import Path

import openqwave as qw
from openqwave import aio
from openqwave.model.flow import Transport
from openqwave.model.overhead import add_overhead, header_overhead_bytes

PORT = 5_004
SAMPLES_PER_S = 48_000
SAMPLE_BYTES = 2
# Of one packet: with all headers less than Ethernet's 1500, over IPv6 and tunnels too.
MOST_PAYLOAD_BYTES = 1_400
# The piece is so long; then it is played again.
PIECE_S = 2

# RFC 3550 section 5.1: version and flags, marker and payload type, sequence number, timestamp,
# source. Section 6.6: BYE with one source, which may stand alone (RFC 5506) and come to the port
# of the media (RFC 5761).
RTP, BYE = struct.Struct("!BBHII"), struct.Struct("!BBHI")
RTP_VERSION, BYE_TYPE = 0x80, 203
FIRST_DYNAMIC_TYPE = 96
# A sequence number that jumps by this much is another stream's (RFC 3550 appendix A.1).
MAX_DROPOUT = 3_000


@dataclass(frozen=True, slots=True)
class Rung:
    """One bitrate of the ladder.

    Attributes:
        number: Its place, from 0; also says its payload type.
        channels: How many loudspeakers it is for.
    """

    number: int
    channels: int

    @property
    def payload_type(self) -> int:
        """What its packets are called."""
        return FIRST_DYNAMIC_TYPE + self.number

    @property
    def packet_samples(self) -> int:
        """Samples of each channel in a packet."""
        return MOST_PAYLOAD_BYTES // (SAMPLE_BYTES * self.channels)

    def rate_bps(self, version: int) -> int:
        """What it takes on the network, with all headers."""
        content_bps = 8 * SAMPLE_BYTES * self.channels * SAMPLES_PER_S
        payload_bytes = SAMPLE_BYTES * self.channels * self.packet_samples
        headers_bytes = header_overhead_bytes(version, Transport.UDP) + RTP.size
        return add_overhead(content_bps, payload_bytes, headers_bytes)


LADDER = tuple(Rung(number, channels) for number, channels in enumerate((1, 2, 4, 8)))


def write_piece(path: Path, channels: int) -> None:
    """Make a sound file with another tone for each loudspeaker."""
    # Multiples of 10 Hz, so that a tenth of a second is repeated without a click.
    tones_hz = [200 + 40 * channel for channel in range(channels)]
    block = array.array(
        "h",
        [
            round(8_000 * math.sin(2 * math.pi * tone_hz * sample / SAMPLES_PER_S))
            for sample in range(SAMPLES_PER_S // 10)
            for tone_hz in tones_hz
        ],
    )
    if sys.byteorder == "big":
        block.byteswap()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(SAMPLE_BYTES)
        file.setframerate(SAMPLES_PER_S)
        file.writeframes(block.tobytes() * (10 * PIECE_S))


class Piece:
    """A sound file, read as what RTP carries."""

    def __init__(self, path: Path) -> None:
        with wave.open(str(path), "rb") as file:
            self.channels = file.getnchannels()
            samples = array.array("h", file.readframes(file.getnframes()))
        # A file's samples begin with their low byte, the network's with the high one.
        samples.byteswap()
        self._octets = samples.tobytes()
        self.samples = len(self._octets) // (SAMPLE_BYTES * self.channels)

    def payload(self, position: int, samples: int) -> bytes:
        """So many samples of all channels; from its end it goes on with its beginning."""
        size = SAMPLE_BYTES * self.channels
        start = position % self.samples * size
        taken = self._octets[start : start + samples * size]
        return taken + self._octets[: samples * size - len(taken)]


@dataclass(slots=True)
class Packetiser:
    """Puts RTP headers before payloads, with random beginnings (RFC 3550 section 5.1)."""

    source: int = field(default_factory=lambda: random.getrandbits(32))
    sequence: int = field(default_factory=lambda: random.getrandbits(16))
    first_timestamp: int = field(default_factory=lambda: random.getrandbits(32))
    is_first: bool = True

    def packet(self, rung: Rung, position: int, payload: bytes) -> bytes:
        """The next packet; `position` is its first sample's since the beginning."""
        marker, self.is_first = self.is_first << 7, False
        timestamp = (self.first_timestamp + position) % (1 << 32)
        kind = marker | rung.payload_type
        header = RTP.pack(RTP_VERSION, kind, self.sequence, timestamp, self.source)
        self.sequence = (self.sequence + 1) % (1 << 16)
        return header + payload

    def goodbye(self) -> bytes:
        """What ends the stream."""
        return BYE.pack(RTP_VERSION | 1, BYE_TYPE, 1, self.source)


@dataclass(slots=True)
class Reception:
    """What came of one stream (RFC 3550 appendix A).

    Attributes:
        received: Packets.
        jitter_s: Interarrival jitter.
        rung: Of the last packet; None before the first, and where it is none of the ladder.
        is_over: Whether the sender said so.
    """

    received: int = 0
    jitter_s: float = 0.0
    rung: Rung | None = None
    is_over: bool = False
    _source: int | None = None
    _first: int = 0
    _highest: int = 0
    _transit: int | None = None

    @property
    def lost(self) -> int:
        """Packets that did not come; duplicates count against them, as the RFC has it."""
        return self._highest - self._first + 1 - self.received if self.received else 0

    def take(self, datagram: bytes, now_s: float) -> bool:
        """Take a packet; returns whether another rung began with it."""
        if len(datagram) == BYE.size and datagram[1] == BYE_TYPE:
            self.is_over = True
            return False
        if len(datagram) <= RTP.size or datagram[0] != RTP_VERSION:
            return False
        _, kind, sequence, timestamp, source = RTP.unpack_from(datagram)
        number = (kind & 0x7F) - FIRST_DYNAMIC_TYPE
        if not 0 <= number < len(LADDER):
            return False
        # The distance from the highest number so far, around the circle of 16 bits.
        ahead = (sequence - self._highest + (1 << 15)) % (1 << 16) - (1 << 15)
        if source != self._source or abs(ahead) > MAX_DROPOUT:
            self.received, self.jitter_s, self._transit = 0, 0.0, None
            self._source, self._first, self._highest = source, sequence, sequence
        else:
            self._highest += max(0, ahead)
        self.received += 1
        transit = (round(now_s * SAMPLES_PER_S) - timestamp) % (1 << 32)
        if self._transit is not None:
            change = abs((transit - self._transit + (1 << 31)) % (1 << 32) - (1 << 31))
            self.jitter_s += (change / SAMPLES_PER_S - self.jitter_s) / 16
        self._transit = transit
        is_step = self.rung is not LADDER[number]
        self.rung = LADDER[number]
        return is_step


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


class Player:
    """Sends a piece in the tempo of the music; the rung can be changed at any time."""

    def __init__(self, transport: asyncio.DatagramTransport, pieces: list[Piece]) -> None:
        self.rung = LADDER[0]
        self.sent_packets = 0
        self.packetiser = Packetiser()
        self._transport, self._pieces = transport, pieces

    async def play(self) -> None:
        """Send for ever."""
        clock = asyncio.get_running_loop().time
        position, start_s = 0, clock()
        while True:
            rung = self.rung
            payload = self._pieces[rung.number].payload(position, rung.packet_samples)
            self._transport.sendto(self.packetiser.packet(rung, position, payload))
            self.sent_packets += 1
            position += rung.packet_samples
            early_s = start_s + position / SAMPLES_PER_S - clock()
            if early_s < -0.1:
                # Held up: to catch up would be a burst.
                start_s -= early_s
            await asyncio.sleep(max(0.0, early_s))


class Adaptation:
    """Decides about the rung: up when more is available, down when the path is congested."""

    def __init__(self, flow: aio.Flow, player: Player, version: int, tell: Teller) -> None:
        self.flow, self.player, self.version, self.tell = flow, player, version, tell

    async def follow(self) -> None:
        """Follow the path for as long as it is measured."""
        try:
            await self.flow.wait_available(LADDER[0].rate_bps(self.version))
            await self.step(LADDER[0], qw.RateReason.NOT_APPLICABLE)
            async with asyncio.TaskGroup() as tasks:
                climbing = tasks.create_task(self.climb())
                async for notice in self.flow.notices():
                    # What a cancelled task was waiting for is withdrawn.
                    climbing.cancel()
                    if notice is qw.NoticeKind.CONGESTED:
                        self.tell("congested", "congested")
                        await self.step(LADDER[0], qw.RateReason.CONGESTION)
                    else:
                        self.tell("relieved", "no longer congested")
                        climbing = tasks.create_task(self.climb())
        except* qw.NotSupported as errors:
            reason = str(errors.exceptions[0])
            self.tell("unmeasured", f"marks only: {reason}", reason=reason)
            await self.step(LADDER[0], qw.RateReason.NOT_APPLICABLE)
        except* qw.QosError as errors:
            reason = str(errors.exceptions[0])
            self.tell("lost", f"the path is measured no more: {reason}", reason=reason)

    async def climb(self) -> None:
        """Up, a step at a time, as far as it goes."""
        while self.player.rung is not LADDER[-1]:
            rung = LADDER[self.player.rung.number + 1]
            await self.flow.wait_available(rung.rate_bps(self.version))
            self.tell("available", f"{rung.channels}-channel sound is possible", rung=rung.number)
            # Another may have been faster; then there is a next time.
            with contextlib.suppress(qw.NetworkBusy, qw.RetryLater):
                await self.step(rung, qw.RateReason.HIGHER_CONTENT_ENCODING)
            # Nobody wants to hear two steps in a second.
            await asyncio.sleep(1)

    async def step(self, rung: Rung, reason: qw.RateReason) -> None:
        """Have a rung's rate admitted, then play it. The music is the pacer."""
        rate_bps = rung.rate_bps(self.version)
        await self.flow.set_rate(rate_bps, reason=reason, self_paced=True)
        self.player.rung = rung
        dscp = (await self.flow.packet_priority()).conformant_dscp
        text = f"{rung.channels}-channel sound, {rate_bps / 1e6:.2f} Mbit/s, DSCP {dscp}"
        self.tell("step", text, rung=rung.number, rate_bps=rate_bps, reason=reason.name, dscp=dscp)


async def send(address: str, port: int, tell: Teller) -> None:
    """Play to a receiver."""
    with tempfile.TemporaryDirectory() as folder:
        pieces = []
        for rung in LADDER:
            path = Path(folder, f"piece-{rung.channels}.wav")
            write_piece(path, rung.channels)
            pieces.append(Piece(path))
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[None] = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(
        functools.partial(Errors, failed), remote_addr=(address, port)
    )
    player = Player(transport, pieces)
    try:
        async with aio.open() as qos, asyncio.TaskGroup() as tasks:
            sock = transport.get_extra_info("socket")
            flow = await qos.add_socket(sock, traffic_type=qw.TrafficType.AUDIO_VIDEO)
            version = 6 if ":" in sock.getpeername()[0] else 4
            tasks.create_task(player.play())
            tasks.create_task(Adaptation(flow, player, version, tell).follow())
            while not failed.done():
                await asyncio.wait([failed], timeout=1)
                tell("second", f"{player.sent_packets} packets", packets=player.sent_packets)
            failed.result()
    finally:
        # The flow is over, and so are its marks.
        transport.sendto(player.packetiser.goodbye())
        transport.close()
        tell("end", "the flow is over")


class Errors(asyncio.DatagramProtocol):
    """Takes what the network answers to a sender: that nobody receives."""

    def __init__(self, failed: asyncio.Future[None]) -> None:
        self._failed = failed

    def error_received(self, error: Exception) -> None:
        """Keep the first."""
        if not self._failed.done():
            self._failed.set_exception(error)


class Receiver(asyncio.DatagramProtocol):
    """Takes a stream."""

    def __init__(self, tell: Teller) -> None:
        self.reception = Reception()
        self.is_over = asyncio.Event()
        self._tell = tell

    def datagram_received(self, data: bytes, address: object) -> None:
        """One packet."""
        del address
        if self.reception.take(data, time.monotonic()) and self.reception.rung is not None:
            rung = self.reception.rung
            self._tell("step", f"{rung.channels}-channel sound", rung=rung.number)
        if self.reception.is_over:
            self.is_over.set()

    def tell_second(self) -> None:
        """Print what came so far."""
        seen = self.reception
        text = f"{seen.received} packets, {seen.lost} lost, jitter {1e3 * seen.jitter_s:.2f} ms"
        jitter_ns = round(1e9 * seen.jitter_s)
        self._tell("second", text, received=seen.received, lost=seen.lost, jitter_ns=jitter_ns)


async def receive(port: int, tell: Teller) -> None:
    """Take a stream to its end."""
    transport, receiver = await asyncio.get_running_loop().create_datagram_endpoint(
        functools.partial(Receiver, tell), sock=dual_stack(port)
    )
    try:
        tell("listening", f"receiving on UDP port {port}", port=port)
        while not receiver.is_over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(receiver.is_over.wait(), 1)
            receiver.tell_second()
        tell("end", "the sender says goodbye")
    finally:
        transport.close()


def dual_stack(port: int) -> socket.socket:
    """A socket for IPv4 and IPv6."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", port))
    except BaseException:
        sock.close()
        raise
    return sock


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"a whole number above 0, not {text!r}")
    return int(text)


async def run(asked: argparse.Namespace) -> None:
    """Do what was asked for, for as long."""
    tell = Teller(as_json=asked.json)
    job = (
        receive(asked.port, tell)
        if asked.mode == "receive"
        else send(asked.address, asked.port, tell)
    )
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(asked.seconds):
            await job


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--seconds", type=positive, metavar="N", help="end by itself")
    shared.add_argument("--json", action="store_true", help="an object a line")
    parser = argparse.ArgumentParser(description="A media stream that steps its bitrate.")
    modes = parser.add_subparsers(dest="mode", required=True)
    receiver = modes.add_parser("receive", parents=[shared], help="take a stream")
    sender = modes.add_parser("send", parents=[shared], help="play to a receiver")
    sender.add_argument("address", help="a host's name or address")
    for mode in (receiver, sender):
        mode.add_argument("port", type=positive, nargs="?", default=PORT)
    asked = parser.parse_args(arguments)
    why = ""
    try:
        # Ctrl-C is how a stream ends.
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run(asked))
    except* ConnectionRefusedError:
        why = f"nobody receives at {asked.address}, port {asked.port}: start it there first"
    except* (OSError, OverflowError, qw.QosError) as errors:
        why = str(errors.exceptions[0])
    if why:
        print(f"adaptive_media: {why}", file=sys.stderr)
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main())

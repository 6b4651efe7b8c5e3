"""A sink of MS-QLPB made from the specification alone, to test other people's initiators.

It shares nothing with the package on purpose, like `plain_initiator`, and is simple rather than
safe: no limits, no time-outs, whoever asks is answered.

    python plain_sink.py ADDRESS [--speed-bps N] [--lsb-first] [--once-per-connection]

listens on port 2177 of TCP and UDP, prints "ready" when it does, and ends on SIGTERM or at the
end of its standard input.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

PORT = 2177

# From the kernel's headers; the socket module has no names for them.
SO_NO_CHECK = 11
SO_TIMESTAMPNS = 35
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2
IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO = 23, 2
# struct timespec
TIMESPEC = struct.Struct("@ll")

STDIN = 0

PACKET_PAIR, ROUTE_CHECK = 1, 2


@dataclass
class Session:
    """The data model of section 8.1."""

    tcp: socket.socket
    address: str
    port: int
    kind: str = "unknown"
    pending: bytes = b""
    # Route check.
    seq: int = 0
    consecutive: int = 0
    lhp_seq: int = 0
    lhp_train: int = 0
    oversized: int = 0
    # Packet pair.
    initial: int = 0
    latest: int = 0
    train_len: int = 0
    packet_size: int = 0
    timestamps: list[int] = field(default_factory=list)


class PlainSink:
    """Both sockets and the sessions."""

    def __init__(
        self, address: str, speed_bps: int, *, lsb_first: bool = False, once: bool = False
    ) -> None:
        self.speed_bps = speed_bps
        self.lsb_first = lsb_first
        self.once = once
        self.sessions: list[Session] = []
        self.selector = selectors.SelectSelector()
        family, _, _, _, where = socket.getaddrinfo(
            address, PORT, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )[0]
        self.udp = socket.socket(family, socket.SOCK_DGRAM)
        self.udp.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        if family == socket.AF_INET:
            self.udp.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
            self.udp.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
            self.udp.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        else:
            self.udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)
            self.udp.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO)
        self.udp.bind(where)
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(where)
        self.listener.listen()
        self.selector.register(self.udp, selectors.EVENT_READ, None)
        self.selector.register(self.listener, selectors.EVENT_READ, None)

    def serve(self) -> None:
        """Answer until the standard input ends."""
        self.selector.register(STDIN, selectors.EVENT_READ, None)
        print("ready", flush=True)
        while True:
            for key, _ in self.selector.select():
                if key.fileobj == STDIN:
                    if not os.read(STDIN, 4096):
                        return
                elif key.fileobj is self.udp:
                    self.receive_datagram()
                elif key.fileobj is self.listener:
                    self.accept()
                else:
                    self.receive_stream(key.data)

    # -- TCP (8.2) --------------------------------------------------------------------

    def accept(self) -> None:
        """Make a session of a connection."""
        tcp, peer = self.listener.accept()
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session = Session(tcp, peer[0].partition("%")[0], peer[1])
        self.sessions.append(session)
        self.selector.register(tcp, selectors.EVENT_READ, session)

    def destroy(self, session: Session) -> None:
        """End a session and its connection."""
        self.sessions.remove(session)
        self.selector.unregister(session.tcp)
        session.tcp.close()

    def receive_stream(self, session: Session) -> None:
        """Read what a connection has."""
        try:
            data = session.tcp.recv(65_536)
        except ConnectionError:
            data = b""
        if not data:
            self.destroy(session)
            return
        session.pending += data
        while len(session.pending) >= 4 and session in self.sessions:
            if session.kind == "discard":
                session.pending = b""
                return
            number, version = session.pending[0], session.pending[3]
            session.pending = session.pending[4:]
            if session.kind != "unknown" or number > ROUTE_CHECK or version != 1:
                self.destroy(session)
            elif number == 0:
                session.kind = "discard"
            else:
                session.kind = "packet pair" if number == PACKET_PAIR else "route check"
                self.send(session, b"\x1e\x00\x00\x01")

    def send(self, session: Session, data: bytes) -> None:
        """Send a message in one piece; a peer that is gone is noticed when it is read."""
        with contextlib.suppress(ConnectionError):
            session.tcp.sendall(data)

    # -- UDP (8.3) --------------------------------------------------------------------

    def receive_datagram(self) -> None:
        """Take one datagram with the kernel's time of its arrival."""
        data, controls, _, sender = self.udp.recvmsg(65_536, 128)
        now_ns = 0
        for level, kind, content in controls:
            if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                seconds, nanoseconds = TIMESPEC.unpack_from(content)
                now_ns = seconds * 1_000_000_000 + nanoseconds
        if len(data) < 12:
            return
        if data[0] == 5 and data[3] == 2 and len(data) >= 32:
            self.return_probe(data, sender, now_ns)
            return
        if data[3] != 1:
            return
        number, flags, _, _, port, train_size, seq = struct.unpack(">BBBBHHI", data[:12])
        address = sender[0].partition("%")[0]
        wanted = {PACKET_PAIR: "packet pair", ROUTE_CHECK: "route check"}.get(number)
        for session in self.sessions:
            if (session.kind, session.address, session.port) == (wanted, address, port):
                if number == PACKET_PAIR:
                    self.packet_pair(session, flags, train_size, seq, len(data), now_ns)
                elif train_size != 1:
                    self.route_check(session, flags, train_size, seq)
                return

    def return_probe(self, data: bytes, sender: tuple[Any, ...], now_ns: int) -> None:
        """Section 8.6."""
        with contextlib.suppress(OSError):
            self.udp.sendto(
                b"\x06\x00\x00\x02"
                + data[4:16]
                + struct.pack(">QQ", now_ns // 100, time.time_ns() // 100)
                + data[32:],
                sender,
            )

    def route_check(self, session: Session, flags: int, train_size: int, seq: int) -> None:
        """Section 8.4."""
        if session.seq + 1 != seq:
            session.consecutive = 1
        else:
            session.consecutive += 1
        session.seq = seq
        if train_size == 0:
            if seq < session.lhp_seq and seq >= session.lhp_seq - session.lhp_train + 1:
                session.lhp_train = session.lhp_seq = session.consecutive = session.oversized = 0
                self.summarise(session, 1)
            elif flags and seq > session.lhp_seq:
                session.oversized = seq
        elif session.consecutive >= train_size:
            session.lhp_train = session.lhp_seq = session.consecutive = session.oversized = 0
            self.summarise(session, 0)
        elif session.oversized == 0 or session.oversized + train_size <= seq:
            session.lhp_train = session.lhp_seq = session.consecutive = 0
            self.summarise(session, 2)
        else:
            session.lhp_seq, session.lhp_train = seq, train_size

    def summarise(self, session: Session, observation: int) -> None:
        """Section 3.1, the last message."""
        flags = observation if self.lsb_first else observation * 0x40
        self.send(session, bytes((0x14, flags, 0, 1)))

    def packet_pair(
        self, session: Session, flags: int, train_size: int, seq: int, size: int, now_ns: int
    ) -> None:
        """Section 8.5."""
        if train_size in (0, 1):
            return
        if flags:
            session.timestamps = [now_ns]
            session.initial = session.latest = seq
            session.train_len = train_size
            session.packet_size = size
            return
        if (
            seq != session.latest + 1
            or seq >= session.initial + train_size
            or train_size != session.train_len
            or size != session.packet_size
        ):
            return
        session.latest += 1
        session.timestamps.append(now_ns)
        if session.latest - session.initial + 1 != session.train_len:
            return
        ticks = [stamp // 100 for stamp in session.timestamps]
        deltas = [ticks[index + 1] - ticks[index] for index in range(len(ticks) - 1)]
        message = struct.pack(
            ">BBBBIIBBH", 0x0A, 0, 0, 1, session.initial, self.speed_bps, 0, 0, len(deltas)
        )
        self.send(session, message + struct.pack(f">{len(deltas)}Q", *deltas))
        # The letter of 3.2.5.5; the example of 4.1 goes on.
        if self.once:
            self.destroy(session)


def main() -> None:
    """Serve one address."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--speed-bps", type=int, default=100_000_000)
    parser.add_argument("--lsb-first", action="store_true", help="the other place for Obs")
    parser.add_argument(
        "--once-per-connection", action="store_true", help="close after a train's summary"
    )
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    PlainSink(
        given.address,
        given.speed_bps,
        lsb_first=given.lsb_first,
        once=given.once_per_connection,
    ).serve()


if __name__ == "__main__":
    main()

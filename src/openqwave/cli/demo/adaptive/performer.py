"""The program that streams: one process, two flows to one receiver.

::

    python -m openqwave.cli.demo.adaptive.performer ADDRESS PORT

It knows an address and how much it wants, and nothing of the link; all that it does follows from
what the library answers. What it does and sees it writes to standard output, an object a line
(`recording` reads them): each call with its answer, what the streams have offered ten times a
second, and what is believed of the path five times a second. Times are CLOCK_MONOTONIC.

Packets carry the number of their stream's phase. A call that may change marks has a phase of its
own, an odd one, of whose packets nothing is known; all others are of one mark each.

Each stream is a thread that holds itself to its rate (`Flow.pacer`), since the kernel cannot delay
UDP for an ordinary user where the interface has another queue than fq.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import openqwave as qw
from openqwave.cli.demo.adaptive.script import (
    LEAST_BPS,
    LEVEL_S,
    NAMES,
    PACKET_BYTES,
    PAYLOAD_BYTES,
    SHORT_S,
    STEADY_S,
    WANTED_BPS,
    A,
    B,
)
from openqwave.lab.specs import HEADER, MAGIC

if TYPE_CHECKING:
    from collections.abc import Callable

MBPS = 1_000_000

OFFERED_EVERY_S = 0.1
# Each so many looks at what is offered, the path is looked at too.
LOOKS_A_BELIEF = 2
# How long a notice is waited for, without which the story is over.
PATIENCE_S = 10.0
# How often the second stream goes down and up again, at most.
ROUNDS = 3
# A path of which too little is known answers "ask again shortly"; each time it was asked takes up
# to two seconds.
TRIES = 5
# What is believed to be there is an estimate. A third of it is left: for its error, and for
# experiments, which send up to 2 Mbit/s for the better part of a second when much has changed.
TAKEN_PARTS, OF_PARTS = 2, 3


class Teller:
    """Writes objects, a line each, from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, event: str, **fields: object) -> None:
        """Write one."""
        line = json.dumps({"event": event, **fields}) + "\n"
        with self._lock:
            sys.stdout.write(line)
            sys.stdout.flush()


class Stream:
    """A socket, its flow, and the thread that sends.

    Attributes:
        number: Which stream.
        flow: Its flow.
        sent_bytes: IP packets so far.
    """

    def __init__(self, number: int, flow: qw.Flow, sock: socket.socket) -> None:
        self.number = number
        self.flow = flow
        self.sent_bytes = 0
        self._socket = sock
        self._phase = 0
        self._sequence = 0
        self._pacer: qw.Pacer | None = None
        self._is_over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._send, name=NAMES[number], daemon=True)
        self._thread.start()

    def next_phase(self) -> int:
        """Begin the next phase, at the rate of this one; return its number."""
        with self._changed:
            self._phase += 1
            self._sequence = 0
            return self._phase

    def send_at(self, pacer: qw.Pacer) -> None:
        """Go on at the pace of a pacer."""
        with self._changed:
            self._pacer = pacer
            self._changed.notify()

    def _send(self) -> None:
        packet = bytearray(PAYLOAD_BYTES)
        with self._changed:
            self._changed.wait_for(lambda: self._pacer is not None or self._is_over)
        while not self._is_over and (pacer := self._pacer) is not None:
            pacer.wait(PACKET_BYTES)
            # A phase that ends meanwhile waits for this packet.
            with self._changed:
                HEADER.pack_into(
                    packet, 0, MAGIC, self.number, self._phase, self._sequence, time.time_ns()
                )
                self._sequence += 1
                # The kernel says so in place of sending, if nobody listened an instant ago.
                with contextlib.suppress(ConnectionRefusedError):
                    self._socket.send(packet)
                    self.sent_bytes += PACKET_BYTES

    def end(self) -> None:
        """Send no more."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
        self._thread.join()


class Performer:
    """The whole program; `play` is the story."""

    def __init__(self, address: str, port: int, qos: qw.Qos, tell: Teller) -> None:
        self._address, self._port = address, port
        self._qos = qos
        self._tell = tell
        self._resources = contextlib.ExitStack()
        self._streams: dict[int, Stream] = {}
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self._watcher.start()

    def play(self) -> None:
        """The story, as far as it goes."""
        first = self._open(A)
        if not self._set_rate(first, WANTED_BPS):
            return
        time.sleep(LEVEL_S)

        second = self._open(B)
        second.send_at(second.flow.pacer(LEAST_BPS))
        time.sleep(SHORT_S)
        if self._set_rate(second, WANTED_BPS):
            return
        time.sleep(SHORT_S)
        lower_bps = self._take_what_is_there(second)
        if not lower_bps:
            return

        # It streams, and goes down when it has to, until it has not had to for a while.
        for _ in range(ROUNDS):
            if not self._wait(second, "wait_congested", timeout_s=STEADY_S):
                break
            self._set_rate(second, LEAST_BPS, qw.RateReason.CONGESTION)
            if not self._wait(second, "wait_uncongested"):
                return
            if not self._raise(second, lower_bps):
                return

        self._close(first)
        if self._raise(second, WANTED_BPS):
            time.sleep(LEVEL_S)

    def _open(self, number: int) -> Stream:
        sock = self._resources.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.connect((self._address, self._port))
        _, flow = self._call(
            number,
            "add_socket",
            lambda: self._qos.add_socket(sock, traffic_type=qw.TrafficType.AUDIO_VIDEO),
        )
        if flow is None:
            raise RuntimeError("no flow could be had")
        stream = self._streams[number] = Stream(number, flow, sock)
        self._resources.callback(stream.end)
        return stream

    def _close(self, stream: Stream) -> None:
        stream.end()
        self._call(stream.number, "close", stream.flow.close)
        del self._streams[stream.number]

    def _set_rate(
        self,
        stream: Stream,
        rate_bps: int,
        reason: qw.RateReason = qw.RateReason.NOT_APPLICABLE,
    ) -> bool:
        """Ask for a rate until there is an answer, and go on at it if it is granted."""
        for _ in range(TRIES):
            phase = stream.next_phase()
            error, _ = self._call(
                stream.number,
                "set_rate",
                lambda: stream.flow.set_rate(rate_bps, reason=reason, self_paced=True),
                rate_bps=rate_bps,
                phase=phase,
            )
            stream.next_phase()
            if error is None:
                stream.send_at(stream.flow.pacer())
                return True
            if not isinstance(error, qw.RetryLater):
                return False
        return False

    def _take_what_is_there(self, stream: Stream) -> int:
        """Ask what the path can carry, and for most of it; the rate that was granted, or 0."""
        for _ in range(TRIES):
            _, found = self._call(stream.number, "fundamentals", stream.flow.fundamentals)
            if isinstance(found, qw.Fundamentals) and found.available_bps:
                # To a tenth of a megabit, as coders have it.
                taken_bps = found.available_bps * TAKEN_PARTS // OF_PARTS
                rate_bps = taken_bps // (MBPS // 10) * (MBPS // 10)
                if rate_bps > LEAST_BPS and self._set_rate(stream, rate_bps):
                    return rate_bps
            time.sleep(SHORT_S)
        return 0

    def _raise(self, stream: Stream, rate_bps: int) -> bool:
        """Wait until a rate is there and take it; once more if another was faster."""
        for _ in range(2):
            if not self._wait(stream, "wait_available", rate_bps=rate_bps):
                return False
            if self._set_rate(stream, rate_bps, qw.RateReason.HIGHER_CONTENT_ENCODING):
                return True
        return False

    def _wait(
        self,
        stream: Stream,
        call: str,
        *,
        rate_bps: int | None = None,
        timeout_s: float = PATIENCE_S,
    ) -> bool:
        """Wait for a notice; False where it did not come."""
        wait: Callable[..., None] = getattr(stream.flow, call)
        asked = () if rate_bps is None else (rate_bps,)
        error, _ = self._call(
            stream.number, call, lambda: wait(*asked, timeout_s), rate_bps=rate_bps
        )
        return error is None

    def _call(
        self,
        number: int,
        call: str,
        function: Callable[[], Any],
        *,
        rate_bps: int | None = None,
        phase: int | None = None,
    ) -> tuple[qw.QosError | None, Any]:
        """Call something and tell of it; its error, or its answer."""
        began_ns = time.monotonic_ns()
        error: qw.QosError | None = None
        answer: Any = None
        try:
            answer = function()
        except qw.QosError as raised:
            error = raised
        self._tell(
            "call",
            stream=number,
            call=call,
            rate_bps=rate_bps,
            phase=phase,
            began_ns=began_ns,
            ended_ns=time.monotonic_ns(),
            error="" if error is None else error.code.name,
            detail="" if error is None else error.detail,
            answer=_fields(answer) if isinstance(answer, qw.Fundamentals) else None,
        )
        return error, answer

    def _watch(self) -> None:
        """Tell what is offered and believed, until the end."""
        before, looks = dict.fromkeys(NAMES, 0), 0
        before_ns = time.monotonic_ns()
        while not self._is_over.wait(OFFERED_EVERY_S):
            streams = dict(self._streams)
            now = {number: stream.sent_bytes for number, stream in streams.items()}
            now_ns = time.monotonic_ns()
            rates = {
                NAMES[number]: round((sent - before.get(number, 0)) * 8e9 / (now_ns - before_ns))
                for number, sent in now.items()
            }
            self._tell("offered", at_ns=now_ns, rates_bps=rates)
            before, before_ns = now, now_ns
            looks += 1
            if not looks % LOOKS_A_BELIEF:
                self._tell_belief(streams)

    def _tell_belief(self, streams: dict[int, Stream]) -> None:
        """Tell what is believed of the path, which both flows share."""
        for stream in streams.values():
            # A flow that was closed an instant ago has no path.
            with contextlib.suppress(qw.QosError):
                status = stream.flow.path()
                self._tell(
                    "belief",
                    at_ns=time.monotonic_ns(),
                    **_fields(status.fundamentals),
                    available_low_bps=status.available_low_bps,
                    is_congested=status.congestion.is_congested,
                    reason=(status.congestion.reason.value if status.congestion.reason else ""),
                    held_bps=status.held_bps,
                    sent_bytes=status.sent_bytes,
                )
                return

    def close(self) -> None:
        """End all streams and say so."""
        self._is_over.set()
        self._watcher.join()
        self._resources.close()
        self._tell("end", at_ns=time.monotonic_ns())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fields(found: qw.Fundamentals) -> dict[str, int | None]:
    return {
        "capacity_bps": found.bottleneck_bps,
        "available_bps": found.available_bps,
        "rtt_ns": found.rtt_ns,
    }


def main(address: str, port: int) -> None:
    """Play to a receiver."""
    tell = Teller()
    tell("begin", at_ns=time.monotonic_ns())
    with qw.open() as qos, Performer(address, port, qos, tell) as performer:
        performer.play()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

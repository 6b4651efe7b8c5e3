"""The demo's network and traffic, played through once.

Two hosts and a router between them::

    sender ---- router ==== 20 Mbit/s ==== receiver

The router's way to the receiver has an ordinary queue that holds 100 ms, as home routers' do,
and a small one that goes first, for the code points from 32 up: those that the usual tables of
access routers and Wi-Fi put above best effort (RFC 8325). The sender's video program sends
8 Mbit/s in even intervals, and a flood of 30 Mbit/s at random ones goes the same way, so the
ordinary queue is always full and what waits in it waits 100 ms. The flood loses half, the stream
somewhat less, because its packets do not come in bunches.

Both streams run through two halves, which are phases of their timelines (see `lab.steps`). At the
start of the second half the video program, and nobody else, does something: it puts its socket in
a flow. The flood goes on as before.

How it stays exact on a busy machine: senders stamp each packet right before the call that sends
it, arrival is the kernel's time, both streams' timelines have one common start, and each stream
has a receiving program of its own, so neither's socket buffer is filled by the other.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from openqwave.cli.demo.wire import Wire
from openqwave.cli.interruption import Interruption
from openqwave.lab.capture import Direction
from openqwave.lab.shape import Bottleneck, PriorityQueue
from openqwave.lab.specs import FlowStep, UdpSink, UdpSource
from openqwave.lab.topology import Lab
from openqwave.lab.traffic import Agent, Report
from openqwave.model.flow import TrafficType

LINK_BPS = 20_000_000
STREAM_BPS = 8_000_000
BULK_BPS = 30_000_000
# 100 ms of the link.
QUEUE_BYTES = LINK_BPS // 8 // 10
# 24 ms of the link, of which the stream has less than half: room for what a sender that was not
# run for 20 ms sends at once.
PRIORITY_QUEUE_BYTES = 60_000
LEAST_PRIORITY_DSCP = 32
# The same for both streams: a queue that counts bytes favours small packets.
PAYLOAD_BYTES = 1200

STREAM = 1
BULK = 2
BEFORE = 0
AFTER = 1

# How often what was captured is looked at: ten times more often than the ring fills up.
TICK_S = 0.1
# The sources' start is put off by so many times what the first program took to start, so that
# both are ready for it; less than half a second is not worth saving.
START_MARGIN = 5
LEAST_START_S = 0.5
# After the end: reports, the queue's 100 ms, and a busy machine.
PATIENCE_S = 15.0


@dataclass(frozen=True, slots=True)
class Moment:
    """How far it is.

    Attributes:
        elapsed_s: Seconds since the first packets; negative before.
        half_s: How long each half lasts.
        flow: The video program's report on its flow, from then on.
    """

    elapsed_s: float
    half_s: float
    flow: Report | None


@dataclass(frozen=True, slots=True)
class Records:
    """What the programs and the wire say when all is over.

    Attributes:
        half_s: How long each half lasted.
        started_ns: When the first packets were due, CLOCK_REALTIME.
        flow: The video program's report on its flow.
        sent: Final reports of the senders, by stream.
        received: Final reports of the receivers, by stream.
        wire: What was captured.
        uncaptured: Packets that the capture had no room for.
    """

    half_s: float
    started_ns: int
    flow: Report
    sent: dict[int, Report]
    received: dict[int, Report]
    wire: Wire
    uncaptured: int


class Stage:
    """One performance, from building to taking down; a context manager.

    Attributes:
        wire: What was captured so far.
    """

    def __init__(self, half_s: float, interruption: Interruption) -> None:
        """Build the network; `moments` starts the traffic.

        Raises:
            OSError: The kernel refuses a namespace, a device or a queue.
            Interrupted: A signal came.
        """
        self.wire = Wire((STREAM, BULK))
        self._half_s = half_s
        self._interruption = interruption
        self._resources = contextlib.ExitStack()
        self._sinks: dict[int, Agent] = {}
        self._sources: dict[int, Agent] = {}
        self._started_ns = 0
        try:
            self._build()
        except BaseException:
            self._resources.close()
            raise

    def _build(self) -> None:
        lab = self._resources.enter_context(Lab())
        self._sender, router, self._receiver = (
            lab.host("sender"),
            lab.router("router"),
            lab.host("receiver"),
        )
        lab.link(self._sender, router)
        lab.link(
            router,
            self._receiver,
            a_to_b=Bottleneck(
                LINK_BPS,
                QUEUE_BYTES,
                PriorityQueue(frozenset(range(LEAST_PRIORITY_DSCP, 64)), PRIORITY_QUEUE_BYTES),
            ),
        )
        self._queue = router.interfaces[1]
        self._capture = self._receiver.capture(Direction.INCOMING)
        self._interruption.check()

    def moments(self) -> Iterator[Moment]:
        """Run the traffic to its end; each moment, `wire` is up to date.

        Raises:
            AgentError: A program failed; the message is its own.
            TimeoutError: A program does not come to its end.
            Interrupted: A signal came.
        """
        start_ns = self._start()
        flow: Report | None = None
        seen = 0
        while True:
            self._interruption.pause(TICK_S)
            self.wire.enter(self._capture.packets())
            reports = self._sources[STREAM].reports(seen)
            seen += len(reports)
            for report in reports:
                if report["event"] == "flow":
                    flow = report
            elapsed_s = (time.monotonic_ns() - start_ns) / 1e9
            yield Moment(elapsed_s, self._half_s, flow)
            if any(source.ended for source in self._sources.values()):
                return
            if elapsed_s > 2 * self._half_s + PATIENCE_S:
                raise TimeoutError("the sending programs do not come to an end")

    def _start(self) -> int:
        """Start receivers and senders; return the common start, CLOCK_MONOTONIC."""
        begun_ns = time.monotonic_ns()
        for stream in (STREAM, BULK):
            sink = Agent(self._receiver, UdpSink(self._receiver.ipv4, samples=0))
            self._sinks[stream] = self._resources.enter_context(sink)
            self._interruption.check()
        now_ns = time.monotonic_ns()
        one_start_ns = (now_ns - begun_ns) // len(self._sinks)
        start_ns = now_ns + max(START_MARGIN * one_start_ns, round(LEAST_START_S * 1e9))
        self._started_ns = time.time_ns() + start_ns - now_ns
        flow = FlowStep(self._half_s, TrafficType.AUDIO_VIDEO)
        sources = ((BULK, BULK_BPS, True, ()), (STREAM, STREAM_BPS, False, (flow,)))
        for stream, rate_bps, is_random, flows in sources:
            source = UdpSource(
                self._receiver.ipv4,
                self._sinks[stream].port,
                rate_bps,
                2 * self._half_s,
                payload_bytes=PAYLOAD_BYTES,
                stream=stream,
                flows=flows,
                phases=(self._half_s,),
                start_monotonic_ns=start_ns,
                is_random=is_random,
            )
            self._sources[stream] = self._resources.enter_context(Agent(self._sender, source))
            self._interruption.check()
        return start_ns

    def records(self) -> Records:
        """Gather what everybody has to say, after the last of the `moments`.

        Raises:
            AgentError, TimeoutError, Interrupted: As for `moments`.
        """
        sent = {stream: source.wait(PATIENCE_S) for stream, source in self._sources.items()}
        deadline = time.monotonic() + PATIENCE_S
        while any(queue.waiting_bytes for queue in self._queue.queues().values()):
            if time.monotonic() > deadline:
                raise TimeoutError("the router's queues do not empty")
            self._interruption.pause(TICK_S / 10)
        received = {stream: sink.stop() for stream, sink in self._sinks.items()}
        self.wire.enter(self._capture.packets())
        flow = self._sources[STREAM].wait_for("flow", 0)
        return Records(
            half_s=self._half_s,
            started_ns=self._started_ns,
            flow=flow,
            sent=sent,
            received=received,
            wire=self.wire,
            uncaptured=self._capture.dropped,
        )

    def close(self) -> None:
        """Take everything down."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def setup() -> dict[str, Any]:
    """Return the demo's parameters, for the record."""
    return {
        "link_bps": LINK_BPS,
        "queue_bytes": QUEUE_BYTES,
        "priority_queue_bytes": PRIORITY_QUEUE_BYTES,
        "least_priority_dscp": LEAST_PRIORITY_DSCP,
        "stream_bps": STREAM_BPS,
        "bulk_bps": BULK_BPS,
        "payload_bytes": PAYLOAD_BYTES,
    }

"""The hosts and the link between them, and the story played through once.

::

    near ==== 20 Mbit/s, a queue of 100 ms ==== far

On the far host run `qwave sink` and a plain receiver; on the near one runs the performer, which
streams to the receiver (`performer`). It is let alone: the stage changes the link under it, and
looks on. Others come when the second stream has sent for a while at its lower rate, and go after
some seconds. They are the link's own (`lab.links.Cross`), so it has books on them.

Looked at are both ends of the link, as captured (`crossing`), the link's books, a page each tenth
of a second, and what the performer says.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

from openqwave.cli.demo.adaptive.crossing import Crossing
from openqwave.cli.demo.adaptive.recording import (
    Belief,
    Call,
    Mark,
    Offered,
    Page,
    Visit,
    read,
)
from openqwave.cli.demo.adaptive.script import (
    LEAST_BPS,
    LINK_BPS,
    NAMES,
    OTHERS_S,
    PEACE_S,
    B,
    link,
    link_with_others,
)
from openqwave.cli.demo.backstage import (
    QWAVE,
    Program,
    between,
    give_up_a_cpu,
    processor_wait_ns,
)
from openqwave.cli.interruption import Interruption
from openqwave.lab.capture import Direction
from openqwave.lab.emulation import EmulatorCounters
from openqwave.lab.specs import UdpSink
from openqwave.lab.topology import Lab
from openqwave.lab.traffic import Agent

# A page of the books; often enough for a picture of what lasts for seconds.
TICK_S = 0.1
# While a program starts there is nothing to disturb.
STARTING_S = 0.02
# The story takes 27 s; each of its waits ends by itself (`performer`), and all together after so
# long.
PATIENCE_S = 75.0

_PERFORMER = (sys.executable, "-m", "openqwave.cli.demo.adaptive.performer")


@dataclass(slots=True)
class Records:
    """What was heard and counted, in order of time.

    Attributes:
        crossing: The streams' packets.
        ahead_ns: By how much CLOCK_REALTIME, which captures have, is ahead of CLOCK_MONOTONIC.
        started_ns: When the performer began.
        ended_ns: When it ended, or was last heard of.
        calls: What it called.
        offered: What it offered.
        beliefs: What the library believed.
        pages: The link's books.
        visit: When others came and went; None if they did not come.
        counters: How punctual the link was; None before the end.
        waiting_share: Part of the time in which the link's emulator could run and did not.
        uncaptured: Packets that the captures had no room for.
        received: Packets that the receiving program got, by stream.
    """

    crossing: Crossing = field(default_factory=lambda: Crossing(NAMES))
    ahead_ns: int = 0
    started_ns: int = 0
    ended_ns: int = 0
    calls: list[Call] = field(default_factory=list)
    offered: list[Offered] = field(default_factory=list)
    beliefs: list[Belief] = field(default_factory=list)
    pages: list[Page] = field(default_factory=list)
    visit: Visit | None = None
    counters: EmulatorCounters | None = None
    waiting_share: float = 0.0
    uncaptured: int = 0
    received: dict[int, int] = field(default_factory=dict)

    def story_s(self, time_ns: int) -> float:
        """A time of CLOCK_MONOTONIC as seconds since the performer began."""
        return (time_ns - self.started_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Moment:
    """How far it is.

    Attributes:
        now_ns: CLOCK_MONOTONIC.
        is_over: Whether the performer has ended.
    """

    now_ns: int
    is_over: bool = False


class Stage:
    """One performance, from building to taking down; a context manager.

    Attributes:
        records: What was heard and counted so far.
    """

    def __init__(self, interruption: Interruption) -> None:
        """Build everything and wait for sink and receiver; `moments` plays.

        Raises:
            OSError: The kernel refuses a namespace or a tap.
            RuntimeError: An emulator, the sink or the receiver did not start; the message is its
                own.
            Interrupted: A signal came.
        """
        self.records = Records()
        self._interruption = interruption
        self._resources = contextlib.ExitStack()
        self._heard_bytes = 0
        try:
            self._build()
        except BaseException:
            self._resources.close()
            raise

    def _build(self) -> None:
        emulator_cpu = give_up_a_cpu(self._resources)
        lab = self._resources.enter_context(Lab())
        self._near, self._far = lab.host("near"), lab.host("far")
        self._link = lab.emulated_link(self._near, self._far, link(), cpu=emulator_cpu)
        self._interruption.check()
        # After the link: whom it answers is decided by that.
        self._sink = Program(self._far, self._resources, (*QWAVE, "sink"))
        receiver = Agent(self._far, UdpSink(self._far.ipv4, samples=0))
        self._receiver = self._resources.enter_context(receiver)
        while not self._sink.output():
            if self._sink.status is not None:
                raise RuntimeError(self._sink.last_error())
            self._interruption.pause(STARTING_S)
        self._leaving = self._near.capture(Direction.OUTGOING)
        self._arriving = self._far.capture(Direction.INCOMING)

    def moments(self) -> Iterator[Moment]:
        """Play the story; `records` has grown at each moment.

        Raises:
            RuntimeError: A program or the link failed; the message is its own.
            TimeoutError: The performer does not come to its end.
            Interrupted: A signal came.
        """
        records = self.records
        begun_ns = self._page_ns = time.monotonic_ns()
        records.ahead_ns = time.time_ns() - time.monotonic_ns()
        records.started_ns = records.ended_ns = begun_ns
        counters, waited_ns = self._link.counters(), processor_wait_ns(self._link.emulator.pid)
        port = str(self._receiver.port)
        performer = Program(self._near, self._resources, (*_PERFORMER, self._far.ipv4, port))
        while performer.status is None:
            self._interruption.pause(TICK_S)
            self._look(performer)
            self._send_others()
            now_ns = time.monotonic_ns()
            if now_ns - begun_ns > PATIENCE_S * 1e9:
                raise TimeoutError("the performer does not come to its end")
            yield Moment(now_ns)
        # What is on the link arrives.
        self._interruption.pause(TICK_S)
        self._look(performer)
        if performer.status != 0:
            raise RuntimeError(performer.last_error() or "the performer failed")
        waited_ns = processor_wait_ns(self._link.emulator.pid) - waited_ns
        records.waiting_share = waited_ns / (time.monotonic_ns() - begun_ns)
        records.counters = between(counters, self._link.counters())
        records.uncaptured = self._leaving.dropped + self._arriving.dropped
        for told in self._receiver.stop()["streams"]:
            number = told["stream"]
            records.received[number] = records.received.get(number, 0) + told["received"]
        yield Moment(time.monotonic_ns(), is_over=True)

    def _look(self, performer: Program) -> None:
        """Take what has been captured, counted and said since the last time."""
        # In this order: what has arrived has left.
        arrived = self._arriving.packets()
        self.records.crossing.enter(self._leaving.packets(), arrived)
        self._turn_page()
        text = performer.output(self._heard_bytes)
        whole = text[: text.rfind("\n") + 1]
        self._heard_bytes += len(whole.encode())
        for line in whole.splitlines():
            self._hear(line)

    def _hear(self, line: str) -> None:
        records = self.records
        match read(json.loads(line)):
            case Call() as call:
                records.calls.append(call)
                records.ended_ns = call.ended_ns
            case Offered() as offered:
                records.offered.append(offered)
                records.ended_ns = offered.at_ns
            case Belief() as belief:
                records.beliefs.append(belief)
            case Mark(at_ns, is_end):
                records.ended_ns = at_ns
                if not is_end:
                    records.started_ns = at_ns

    def _turn_page(self) -> None:
        now_ns = time.monotonic_ns()
        forward, _ = self._link.truth(self._page_ns, now_ns)
        carried = forward.carried[0]
        length_ns = carried.until_ns - carried.since_ns
        if not length_ns:
            return
        self.records.pages.append(
            Page(
                self._page_ns,
                now_ns,
                own_bps=carried.frame_bytes * 8_000_000_000 // length_ns,
                others_bps=carried.cross_bps,
                dropped=carried.dropped,
                others_dropped=carried.cross_dropped,
            )
        )
        self._page_ns = now_ns

    def _send_others(self) -> None:
        """Have others come, once, when it is time."""
        if self.records.visit is not None:
            return
        rates = [
            call
            for call in self.records.calls
            if call.stream == B and call.call == "set_rate" and call.is_done
        ]
        if not rates or (rates[-1].rate_bps or 0) <= LEAST_BPS:
            return
        if time.monotonic_ns() < rates[-1].ended_ns + PEACE_S * 1e9:
            return
        # The books begin anew.
        came_ns = self._page_ns = self._link.reshape(link_with_others())
        self.records.visit = Visit(came_ns, came_ns + round(OTHERS_S * 1e9))

    def close(self) -> None:
        """Take everything down."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def setup() -> dict[str, int | float]:
    """The demo's parameters, for the record."""
    spec = link_with_others().forward.stages[0]
    return {
        "link_bps": LINK_BPS,
        "queue_bytes": spec.queue_bytes,
        "delay_ns": spec.delay_ns,
        "others_bps": spec.cross[0].rate_bps,
        "others_s": OTHERS_S,
    }

"""How soon congestion is told, how soon relief, and how often without cause: beside four rules.

On simulated paths, by the lab's model of a link of 20 Mbit/s, our rule and those of others judge
the same small probes (`congestion_rules`). A stream holds 8 Mbit/s; now and then others overfill
the link to 105, 120, 150 or 200 % for three seconds, at random moments of sending. Told times
count from the onset, relief from when the queue was empty again. Then the link is used to 85 % for
a long time, all of it at random.

On an emulated link (`openqwave.lab.emulator`) the same is done with real packets and the whole
library: `qwave sink` on the far host, and on the near one a program with an adaptive flow that
holds 8 Mbit/s, sends it self-paced, and tells when it was told (`congestion_stream`). Captures at
both ends show when the queue was empty, and each of the library's own probes; from these the rules
are replayed as well. What the link carries at 85 % is the stream and others at random.

The others' rules are given true one-way delays, by one clock; ours gets stamps of two, as it does
everywhere, and takes no advantage of their agreeing.

Needs root (taps), a machine with nothing else to do, and for all of it a quarter of an hour.
Run: python -m bench.congestion [--onsets N] [--minutes N] [--simulated | --real] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import socket
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.congestion_paths import (
    LINK_BPS,
    LOADS,
    LOST_AFTER_NS,
    OVERLOAD_NS,
    STEADY_LOAD,
    between,
    emptied_ns,
    others,
    overloads,
    stage,
    steady,
)
from bench.congestion_rules import MS, S, Sample, rules
from bench.congestion_score import Change, Onset, Score, by_load, changes_of, score, table
from bench.congestion_stream import MAGIC, NUMBER
from openqwave.cli.demo.backstage import (
    QWAVE,
    Program,
    give_up_a_cpu,
    processor_wait_ns,
)
from openqwave.cli.demo.backstage import (
    between as counters_between,
)
from openqwave.estimate.samples import Gap
from openqwave.lab.capture import Capture, CapturedPacket, Direction
from openqwave.lab.emulation import EmulatedLink
from openqwave.lab.links import Cross, DuplexSpec, PathSpec
from openqwave.lab.namespaces import Rights, availability, enter_user_namespace
from openqwave.lab.topology import Host, Lab
from openqwave.wire.faults import MalformedMessage
from openqwave.wire.qlpb import PORT, ProbegapProbe, decode_datagram

# What is aimed at, in ms: told in the median and at worst, relief at worst; and no false notice.
TOLD_AIM_MS, WORST_AIM_MS, RELIEF_AIM_MS = 200, 500, 400
FURTHER_AIM_MS = 1.0

# Of simulated time there is more for the same money.
SIMULATED_RUNS, SIMULATED_MINUTES = 5, 6
# How often captures are emptied: they hold several seconds.
TICK_S = 0.5
START_TIMEOUT_S = 60.0
# An overload begins so long after the link was reshaped for it.
LEAD_NS = 200 * MS
SETTLE_S = 4.0
CALM_S, MORE_CALM_S = 4.0, 2.0
MINUTE_S = 60.0
# A machine that hands frames over later than this, or lets the emulator wait for more of the time,
# was too busy to judge by.
LATE_AIM_NS, WAITING_AIM = 5 * MS, 0.05


@dataclass(slots=True)
class Found:
    """What one part found.

    Attributes:
        onsets: The overloads.
        scores: By rule, of the onsets and of the steady load; ours first.
        told: One line about ours by load.
        minutes: How long the steady load was.
        notes: What else there is to say.
        further_ns: How long further flows took.
    """

    onsets: list[Onset] = field(default_factory=list)
    scores: dict[str, tuple[Score, Score]] = field(default_factory=dict)
    told: str = ""
    minutes: float = 0.0
    notes: list[str] = field(default_factory=list)
    further_ns: list[int] = field(default_factory=list)


# -- simulated ------------------------------------------------------------------------


def simulate(onsets: int, minutes: float, seed: int) -> Found:
    """All rules on simulated paths."""
    found = Found(minutes=minutes)
    names = list(rules(LINK_BPS))
    found.scores = {name: (Score(), Score()) for name in names}
    ours: list[Change] = []
    shift_ns = 0
    for run in range(SIMULATED_RUNS):
        samples, planned, calm = overloads(onsets, seed + run)
        for name in names:
            changes = changes_of(rules(LINK_BPS)[name], samples)
            score(changes, planned, calm, found.scores[name][0])
            if name == names[0]:
                ours += [Change(one.at_ns + shift_ns, one.is_congested) for one in changes]
        found.onsets += [
            Onset(
                one.load,
                one.onset_ns + shift_ns,
                one.stop_ns + shift_ns,
                one.emptied_ns + shift_ns,
            )
            for one in planned
        ]
        shift_ns += calm[-1][1] + S
        _progress(f"simulated onsets: {len(found.onsets)} of {onsets * SIMULATED_RUNS}")
    found.told = by_load(found.onsets, ours)
    samples, calm = steady(minutes, seed)
    for name in names:
        score(changes_of(rules(LINK_BPS)[name], samples), (), calm, found.scores[name][1])
    return found


# -- real packets ---------------------------------------------------------------------


class Books:
    """What captures at both ends say: each packet's delay there, and the probes as samples.

    Attributes:
        times: When packets of stream and probes left, and what they took, CLOCK_MONOTONIC.
        samples: The probes that are complete.
        dropped: Packets that the captures had no room for.
    """

    def __init__(self, near: Host, far: Host) -> None:
        self._near_out = near.capture(Direction.OUTGOING)
        self._far_in = far.capture(Direction.INCOMING)
        self._far_out = far.capture(Direction.OUTGOING)
        self._near_in = near.capture(Direction.INCOMING)
        self._ahead_ns = time.time_ns() - time.monotonic_ns()
        self._left: dict[tuple[bytes, int], int] = {}
        # Of each probe that is under way: when it left, came, left again.
        self._probes: dict[int, list[int]] = {}
        self.times: list[tuple[int, int]] = []
        self.samples: list[Sample] = []

    @property
    def dropped(self) -> int:
        """Packets that the captures had no room for."""
        captures: tuple[Capture, ...] = (
            self._near_out,
            self._far_in,
            self._far_out,
            self._near_in,
        )
        return sum(capture.dropped for capture in captures)

    def look(self) -> None:
        """Enter what has been captured. What came is taken before what left."""
        back, returned = self._near_in.packets(), self._far_out.packets()
        came, left = self._far_in.packets(), self._near_out.packets()
        for packet in left:
            key = _key(packet)
            if key is not None:
                self._left[key] = packet.time_ns
        for packet in came:
            key = _key(packet)
            left_ns = None if key is None else self._left.pop(key, None)
            if key is None or left_ns is None:
                continue
            self.times.append((left_ns - self._ahead_ns, packet.time_ns - left_ns))
            if not key[0]:
                self._probes[key[1]] = [left_ns, packet.time_ns]
        for packet in returned:
            key = _key(packet)
            if key is not None and key[1] in self._probes and not key[0]:
                self._probes[key[1]].append(packet.time_ns)
        for packet in back:
            key = _key(packet)
            if key is not None and not key[0]:
                self._complete(key[1], packet)

    def _complete(self, number: int, packet: CapturedPacket) -> None:
        times = self._probes.pop(number, [])
        if len(times) != 3:
            return
        sent_ns, reached_ns, returned_ns = times
        gap = Gap(number, packet.length_bytes, sent_ns, reached_ns, returned_ns, packet.time_ns)
        self.samples.append(
            Sample(
                packet.time_ns - self._ahead_ns,
                sent_ns - self._ahead_ns,
                reached_ns - sent_ns,
                gap,
            )
        )

    def close(self) -> None:
        """Enter the probes that did not come back, in the order of the samples."""
        self.look()
        for (kind, number), left_ns in self._left.items():
            if not kind:
                sent_ns = left_ns - self._ahead_ns
                gap = Gap(number, 60, left_ns)
                self.samples.append(Sample(sent_ns + LOST_AFTER_NS, sent_ns, 0, gap))
        self.samples.sort(key=lambda one: one.at_ns)
        self.times.sort()


def _key(packet: CapturedPacket) -> tuple[bytes, int] | None:
    """Which packet of the stream, or which small probe, with nothing for its kind."""
    payload = packet.payload
    if payload.startswith(MAGIC):
        return NUMBER.unpack_from(payload)
    if packet.protocol == socket.IPPROTO_UDP and PORT in (
        packet.source_port,
        packet.destination_port,
    ):
        with contextlib.suppress(MalformedMessage):
            message = decode_datagram(payload)
            if isinstance(message, ProbegapProbe):
                return b"", message.sequence
    return None


class Stage:
    """The hosts, the link, the sink, the stream and the captures."""

    def __init__(self, resources: contextlib.ExitStack) -> None:
        cpu = give_up_a_cpu(resources)
        lab = resources.enter_context(Lab())
        near, far = lab.host("near"), lab.host("far")
        self.link: EmulatedLink = lab.emulated_link(near, far, _link(), cpu=cpu)
        self._sink = Program(far, resources, (*QWAVE, "sink"))
        with far.enter():
            # Nobody reads it; without it the far host would answer each packet.
            receiver = resources.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            receiver.bind((far.ipv4, 0))
        self.books = Books(near, far)
        self._await(self._sink, "")
        script = str(Path(__file__).with_name("congestion_stream.py"))
        port = str(receiver.getsockname()[1])
        self._stream = Program(near, resources, (sys.executable, script, far.ipv4, port))
        (self.sending,) = self._await(self._stream, "sending")[:1]
        self._waited_ns = processor_wait_ns(self.link.emulator.pid)
        self._counters = self.link.counters()
        self._begun_ns = time.monotonic_ns()

    def _await(self, program: Program, event: str) -> list[dict[str, Any]]:
        deadline = time.monotonic() + START_TIMEOUT_S
        while event not in program.output() or not program.output():
            if program.status is not None:
                raise RuntimeError(program.last_error())
            if time.monotonic() > deadline:
                raise TimeoutError("the stream was not admitted; is the machine busy?")
            time.sleep(0.1)
        return _lines(program) if event else []

    def told(self) -> list[Change]:
        """The notices so far."""
        if self._stream.status is not None:
            raise RuntimeError(self._stream.last_error())
        return [
            Change(line["at_ns"], line["is_congested"])
            for line in _lines(self._stream)
            if line["event"] == "told"
        ]

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(TICK_S, left))
            self.books.look()

    def punctuality(self) -> str:
        """How far all of this can be believed, as a sentence."""
        elapsed_ns = time.monotonic_ns() - self._begun_ns
        waiting = (processor_wait_ns(self.link.emulator.pid) - self._waited_ns) / elapsed_ns
        late_ns = counters_between(self._counters, self.link.counters()).forward.late_ns(0.99)
        is_busy = late_ns > LATE_AIM_NS or waiting > WAITING_AIM
        return (
            f"99 of 100 frames were late by less than {late_ns / MS:.2f} ms, the emulator waited "
            f"for a processor {waiting:.1%} of the time"
            + (": THE MACHINE WAS TOO BUSY" if is_busy else "")
            + (f"; {self.books.dropped} packets not captured" if self.books.dropped else "")
        )


def _lines(program: Program) -> list[dict[str, Any]]:
    text = program.output()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _link(*cross: Cross) -> DuplexSpec:
    return DuplexSpec(PathSpec((stage(*cross),)))


def run_real(onsets: int, minutes: float, seed: int) -> Found:
    """The library and all rules on an emulated link."""
    found = Found(minutes=minutes)
    source = random.Random(f"real {seed}")
    with contextlib.ExitStack() as resources:
        stage_ = Stage(resources)
        found.further_ns = stage_.sending["further_ns"]
        _progress("the stream is admitted")
        stage_.wait(SETTLE_S)
        begun_ns = time.monotonic_ns()
        planned = [
            _overload(stage_, LOADS[number % len(LOADS)], source, f"{number + 1}/{onsets}")
            for number in range(onsets)
        ]
        stage_.wait(CALM_S)
        ended_ns = time.monotonic_ns()
        steady_ns = stage_.link.reshape(_link(others(STEADY_LOAD)))
        stage_.wait(SETTLE_S)
        calm_ns = [(steady_ns + round(SETTLE_S * S), steady_ns + round(SETTLE_S * S))]
        for minute in _minutes(minutes):
            stage_.wait(minute)
            calm_ns = [(calm_ns[0][0], time.monotonic_ns())]
            count = sum(one.is_congested for one in stage_.told() if one.at_ns > calm_ns[0][0])
            _progress(f"at {STEADY_LOAD:.0%}, {_since_s(calm_ns[0][0]):.0f} s: {count} notices")
        stage_.wait(1.0)
        told = stage_.told()
        stage_.books.close()
        found.notes.append(stage_.punctuality())
        books = stage_.books
    found.onsets = [_onset(load, at_ns, books.times) for load, at_ns in planned]
    calm = between(found.onsets, begun_ns, ended_ns)
    changes = {"openqwave, the library": told}
    for name, rule in rules(LINK_BPS).items():
        label = f"{name}, its rule" if name == "openqwave" else name
        changes[label] = changes_of(rule, books.samples)
    for name, one in changes.items():
        found.scores[name] = (score(one, found.onsets, calm), score(one, (), calm_ns))
    found.told = by_load(found.onsets, told)
    return found


def _minutes(minutes: float) -> Iterator[float]:
    left_s = minutes * MINUTE_S
    while left_s > 0:
        yield min(MINUTE_S, left_s)
        left_s -= MINUTE_S


def _since_s(time_ns: int) -> float:
    return (time.monotonic_ns() - time_ns) / S


def _overload(stage_: Stage, load: float, source: random.Random, number: str) -> tuple[float, int]:
    """Have others come and go; returns the load and when it began."""
    stage_.wait(CALM_S + MORE_CALM_S * source.random())
    cross = others(load, LEAD_NS, LEAD_NS + OVERLOAD_NS)
    onset_ns = stage_.link.reshape(_link(cross)) + LEAD_NS
    stage_.wait((LEAD_NS + OVERLOAD_NS) / S)
    times = [one.at_ns for one in stage_.told() if one.is_congested and one.at_ns > onset_ns]
    told = f"{(times[0] - onset_ns) / MS:.0f} ms" if times else "not told"
    _progress(f"{number} {load:.0%}: {told}")
    return load, onset_ns


def _onset(load: float, onset_ns: int, times: Sequence[tuple[int, int]]) -> Onset:
    before = [delay_ns for sent_ns, delay_ns in times if onset_ns - S <= sent_ns < onset_ns]
    if not before:
        raise RuntimeError("the stream stood still before an overload; is the machine busy?")
    stop_ns = onset_ns + OVERLOAD_NS
    ended_ns = emptied_ns(times, min(before), stop_ns)
    if ended_ns is None:
        raise RuntimeError("the queue did not drain; is the machine busy?")
    return Onset(load, onset_ns, stop_ns, ended_ns)


# -- what is printed ------------------------------------------------------------------


def _progress(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def report(title: str, found: Found) -> Iterator[str]:
    """The table and the aims, line by line."""
    yield f"{title}: {len(found.onsets)} onsets, {found.minutes:g} minutes at {STEADY_LOAD:.0%}"
    yield ""
    yield table(found.scores)
    yield ""
    if found.onsets:
        yield found.told
    yield from found.notes
    onsets, calm = next(iter(found.scores.values()))

    def aim(what: str, value: float, most: float, unit: str, form: str = ".0f") -> str:
        is_met = value <= most
        return f"{'met' if is_met else 'MISSED'}: {what} {value:{form}}{unit} (aim: {most:g})"

    if onsets.told:
        yield aim("told, median", statistics.median(onsets.told), TOLD_AIM_MS, " ms")
        yield aim("told, worst", max(onsets.told), WORST_AIM_MS, " ms")
        yield aim("relief, worst", max(onsets.relief, default=0), RELIEF_AIM_MS, " ms")
    yield aim("onsets not told", onsets.missed + onsets.early, 0, "")
    if calm.calm_s:
        in_minutes = f" in {calm.calm_s / 60:.1f} min"
        yield aim("false notices at a steady load", calm.false, 0, in_minutes)
    if found.further_ns:
        median_ms = statistics.median(found.further_ns) / 1e6
        yield aim(
            "a further flow, add_socket and set_rate", median_ms, FURTHER_AIM_MS, " ms", ".2f"
        )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--onsets", type=int, default=20, help="on the real link (default 20)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of steady load (default 10)")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is random")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times there")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--simulated", action="store_true", help="simulated paths alone")
    part.add_argument("--real", action="store_true", help="real packets alone")
    options = parser.parse_args()
    if options.onsets < 0 or options.minutes < 0:
        parser.error("no less than no onsets and no minutes")
    return options


def main() -> int:
    """Run the parts."""
    options = arguments()
    found: dict[str, Found] = {}
    if not options.real:
        found["simulated"] = simulate(
            options.onsets, SIMULATED_MINUTES * options.minutes, options.seed
        )
    if not options.simulated:
        rights = availability()
        if not rights:
            sys.stderr.write(f"{rights.reason}\n")
            return 2
        if rights.rights is Rights.USER_NAMESPACE:
            enter_user_namespace()
        found["real packets"] = run_real(options.onsets, options.minutes, options.seed)
    for title, one in found.items():
        sys.stdout.write("\n".join(report(title, one)) + "\n\n")
    if options.json:
        fields = {title: asdict(one) for title, one in found.items()}
        options.json.write_text(json.dumps(fields) + os.linesep, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

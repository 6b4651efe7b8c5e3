"""A link of real packets as a program: `python -m openqwave.lab.emulator`, two taps its ends.

Frames are read from one tap, put on the path's model at the time they were read, and written to
the other tap when the model says that they are due. The model's clock is exact and only its ends
are not: a frame counts as sent when this process reads it, and arrives when this process writes
it. So lateness does not add up, and a frame that is read late within a busy period leaves on time
all the same. How late frames were written is counted; who measures can tell whether the emulator
was the limit.

While frames come in or are due soon the process is awake and looks around without a pause, which
takes a processor; else it sleeps in select(2), whose time-outs are exact to microseconds, unlike
those of poll(2). Waking up takes tens of microseconds, by which the first frame after a silence is
late on its way in; bound to a processor, it sleeps only after a long one. No garbage is collected:
what the loop makes has no cycles.

The first line of standard input is a JSON object: "link" (see `links`), "seed", "taps" (two
descriptors), "cpu" (a number, or null) and "is_realtime". Every line after it is a question, and
is answered by one line on standard output; see `_ANSWERS`. The end of standard input is the end.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import os
import select
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from openqwave.lab.links import PathSpec, from_fields
from openqwave.lab.pathmodel import PathModel
from openqwave.lab.remarking import Remarker, ip_bytes

# <linux/prctl.h>
PR_SET_TIMERSLACK = 29

# More than the largest packet of an emulated link and an Ethernet header with a tag.
FRAME_BYTES = 2048
# Reads of one tap between two looks at what is due: some ten microseconds' worth.
READS = 4
# What waking up from select takes on a busy machine, from above; less than that is spent awake.
AWAKE_NS = 150_000
# How long after a frame the next is waited for awake: a train's spacing at a few Mbit/s.
ALERT_NS = 2_000_000
# And on a processor of its own, where being awake costs nobody anything: longer than the pauses
# between small probes, so that none of them has to wake it.
BOUND_ALERT_NS = 200_000_000
# Questions are looked for, and cross traffic is made, this often at least while frames pass.
ASIDE_NS = 1_000_000
# And this often while there is silence: catching up takes a tenth of a millisecond.
SILENCE_S = 0.005
# Twenty classes of lateness, each twice as wide as the one before: to half a second and beyond.
LATENESS_CLASSES = 20


class _Way:
    """One direction at work.

    Attributes:
        path: The model that new frames are put on.
        counts: What happened to frames at the ends; the model's books say what the path did.
    """

    def __init__(self, source: int, target: int, path: PathModel) -> None:
        self.path = path
        self.counts = {"read": 0, "written": 0, "refused": 0, "dropped_by_mark": 0, "latest_ns": 0}
        # Frames written by how late they were: class n holds less than 1024 ns x 2^n.
        self.lateness = [0] * LATENESS_CLASSES
        self._source = source
        self._target = target
        self._remark = _remark(path.spec)
        self._former: list[PathModel] = []
        self._last_due_ns = 0

    def reshape(self, path: PathModel) -> None:
        """Put frames on a new path from now on; what is on its way arrives before them."""
        if self.path.next_due_ns() is not None:
            self._former.append(self.path)
        self.path = path
        self._remark = _remark(path.spec)

    def read(self) -> None:
        """Put what has come on the path, up to `READS` frames."""
        counts = self.counts
        for _ in range(READS):
            try:
                frame = os.read(self._source, FRAME_BYTES)
            except BlockingIOError:
                return
            now_ns = time.monotonic_ns()
            counts["read"] += 1
            size_bytes = ip_bytes(frame)
            if self._remark is not None:
                marked = self._remark(frame)
                if marked is None:
                    counts["dropped_by_mark"] += 1
                    continue
                frame = marked
            self.path.offer(now_ns, frame, size_bytes)

    def next_due_ns(self) -> int | None:
        """When to call `write`."""
        return (self._former[0] if self._former else self.path).next_due_ns()

    def write(self, now_ns: int) -> None:
        """Write what is due."""
        while self._former:
            self._write(self._former[0].deliver(now_ns))
            if self._former[0].next_due_ns() is not None:
                return
            del self._former[0]
        self._write(self.path.deliver(now_ns))

    def _write(self, due: Sequence[tuple[int, Any]]) -> None:
        counts, lateness = self.counts, self.lateness
        for due_ns, frame in due:
            if due_ns > self._last_due_ns:
                self._last_due_ns = due_ns
            try:
                os.write(self._target, frame)
            except OSError:  # The interface is down, or the host has no memory: as on any wire.
                counts["refused"] += 1
                continue
            # Afterwards, so that nothing can delay the frame that is not seen here.
            late_ns = time.monotonic_ns() - self._last_due_ns
            counts["written"] += 1
            lateness[min((late_ns >> 10).bit_length(), LATENESS_CLASSES - 1)] += 1
            if late_ns > counts["latest_ns"]:
                counts["latest_ns"] = late_ns


def _remark(spec: PathSpec) -> Callable[[bytes], bytes | None] | None:
    remarker = Remarker(spec)
    return None if remarker.is_idle else remarker.apply


class _Emulator:
    """Both directions, and the one who asks about them."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._seed = int(order["seed"])
        self._taps = [int(fd) for fd in order["taps"]]
        self.start_ns = time.monotonic_ns()
        a, b = self._taps
        forward, backward = self._paths(order["link"])
        self._ways = {"forward": _Way(a, b, forward), "backward": _Way(b, a, backward)}
        self.alert_ns = ALERT_NS
        self._asked = b""
        self._is_over = False

    def _paths(self, link: dict[str, Any]) -> tuple[PathModel, PathModel]:
        spec = from_fields(link)
        # Two directions with one seed would lose the same packets.
        return (
            PathModel(spec.forward, 2 * self._seed, self.start_ns),
            PathModel(spec.backward, 2 * self._seed + 1, self.start_ns),
        )

    def run(self) -> None:
        """Carry frames until standard input ends."""
        ways = list(self._ways.values())
        sources = dict(zip(self._taps, ways, strict=True))
        clock = time.monotonic_ns
        active_ns = aside_ns = clock()
        # Half the price of a read that finds nothing. Its time-outs are whole milliseconds.
        look = select.epoll()
        for fd in self._taps:
            look.register(fd, select.EPOLLIN)
        while not self._is_over:
            is_active = False
            for fd, _ in look.poll(0):
                sources[fd].read()
                is_active = True
            now_ns = clock()
            next_ns = now_ns + 10**9
            for way in ways:
                due_ns = way.next_due_ns()
                if due_ns is None:
                    continue
                if due_ns <= now_ns:
                    way.write(now_ns)
                    is_active = True
                elif due_ns < next_ns:
                    next_ns = due_ns
            if is_active:
                active_ns = now_ns
            if now_ns >= aside_ns:
                aside_ns = now_ns + ASIDE_NS
                for way in ways:
                    way.path.advance(now_ns)
                self._listen(0.0)
            elif next_ns - now_ns > AWAKE_NS and now_ns - active_ns > self.alert_ns:
                self._listen(min(SILENCE_S, (next_ns - now_ns - AWAKE_NS) / 1e9))

    def _listen(self, timeout_s: float) -> None:
        """Wait for a frame or a question; answer the questions."""
        if 0 not in select.select([0, *self._taps], [], [], timeout_s)[0]:
            return
        chunk = os.read(0, 65_536)
        self._is_over = not chunk
        *questions, self._asked = (self._asked + chunk).split(b"\n")
        for question in questions:
            print(json.dumps(self._answer(json.loads(question))), flush=True)

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            return _ANSWERS[question.pop("ask")](self, **question)
        except ValueError as error:
            return {"error": str(error)}

    def _carried(self, since_ns: int, until_ns: int) -> dict[str, Any]:
        """Return the books of each stage of each direction for a window of CLOCK_MONOTONIC."""
        return {
            name: [
                dataclasses.asdict(way.path.carried(number, since_ns, until_ns))
                for number in range(len(way.path.spec.stages))
            ]
            for name, way in self._ways.items()
        }

    def _counters(self) -> dict[str, Any]:
        """Return what happened at the ends since the start."""
        return {
            name: way.counts | {"lateness": way.lateness} for name, way in self._ways.items()
        } | {"cpu_ns": time.process_time_ns()}

    def _reshape(self, link: dict[str, Any]) -> dict[str, Any]:
        """Give the link another model; the books begin anew."""
        self.start_ns = time.monotonic_ns()
        for way, path in zip(self._ways.values(), self._paths(link), strict=True):
            way.reshape(path)
        return {"start_ns": self.start_ns}


_ANSWERS: dict[str, Callable[..., dict[str, Any]]] = {
    "carried": _Emulator._carried,  # noqa: SLF001 - its own
    "counters": _Emulator._counters,  # noqa: SLF001
    "reshape": _Emulator._reshape,  # noqa: SLF001
}


def _settle(cpu: int | None, *, is_realtime: bool) -> dict[str, Any]:
    """Ask the kernel for punctuality; return what it granted.

    Real-time priority is good only for a process that has its processor for itself: the kernel
    takes 50 ms of each second from one that spins while others wait there (the fair server of
    deadline scheduling, and kernel.sched_rt_runtime_us before Linux 6.8).
    """
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    granted: dict[str, Any] = {"cpu": None, "is_realtime": False}
    if cpu is not None:
        with suppress(OSError):
            os.sched_setaffinity(0, {cpu})
            granted["cpu"] = cpu
    if is_realtime:
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            granted["is_realtime"] = True
    return granted


def main() -> int:
    """Emulate one link; return the exit status."""
    gc.disable()
    order = json.loads(_first_line())
    try:
        emulator = _Emulator(order)
    except ValueError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 2
    granted = _settle(order["cpu"], is_realtime=order["is_realtime"])
    if granted["cpu"] is not None:
        emulator.alert_ns = BOUND_ALERT_NS
    print(json.dumps({"start_ns": emulator.start_ns} | granted), flush=True)
    emulator.run()
    return 0


def _first_line() -> bytes:
    # Byte by byte: what follows is read as it comes, past Python's buffers.
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            raise EOFError("no order came")
        line += byte
    return line


if __name__ == "__main__":
    sys.exit(main())

"""An emulated link, asked from the process that built it: what it carried, and how punctually.

The link itself runs in a process of its own (see `emulator`); this is the other end of its pipes.
A question waits for its answer, at most a millisecond of the emulator's while frames pass. Times
are of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any, cast

from openqwave.lab.hosts import Host, Link
from openqwave.lab.links import DuplexSpec, to_fields
from openqwave.lab.pathmodel import Truth, truth
from openqwave.lab.tally import Carried

# Starting an interpreter takes 0.1 s; a machine with other work, several times that. Answers
# come within milliseconds.
ANSWER_TIMEOUT_S = 20.0


class EmulatorError(RuntimeError):
    """The emulator failed, refused a question, or is gone."""


@dataclass(frozen=True, slots=True)
class WayCounters:
    """What happened at the ends of one direction, since the link was made.

    Attributes:
        read: Frames that the emulator took.
        written: Frames that it handed over.
        refused: Frames that the receiving interface refused.
        dropped_by_mark: Frames dropped because of a tag.
        latest_ns: The most that a frame was handed over after it was due; to hand it over takes
            some microseconds itself.
        lateness: How many frames were late by less than 1024 ns x 2^n, and not less than half.
    """

    read: int
    written: int
    refused: int
    dropped_by_mark: int
    latest_ns: int
    lateness: tuple[int, ...]

    def late_ns(self, share: float) -> int:
        """Return a lateness that so great a share of the frames did not exceed, from above."""
        left = share * sum(self.lateness)
        for number, count in enumerate(self.lateness):
            left -= count
            if left <= 0:
                return min(self.latest_ns, 1024 << number)
        return self.latest_ns


@dataclass(frozen=True, slots=True)
class EmulatorCounters:
    """What an emulator did since it was started, and where it ran.

    Attributes:
        forward: The direction from the host named first.
        backward: The other.
        cpu_ns: Processor time.
        cpu: The processor that it is bound to; None for any.
        is_realtime: Whether it goes before ordinary processes.
    """

    forward: WayCounters
    backward: WayCounters
    cpu_ns: int
    cpu: int | None
    is_realtime: bool


class Emulator:
    """The process of one link; it ends with its lab."""

    def __init__(
        self,
        host: Host,
        taps: Sequence[int],
        spec: DuplexSpec,
        seed: int,
        cpu: int | None,
        *,
        is_realtime: bool,
    ) -> None:
        """Start it and wait until it carries frames.

        Args:
            host: Whose processes it is one of.
            taps: Descriptors of its two ends; they may be closed afterwards.
            spec: What the link is like.
            seed: Of what is random.
            cpu: The processor to stay on; None for any.
            is_realtime: Whether to go before ordinary processes.

        Raises:
            EmulatorError: It did not start; the message is its own.
        """
        self._spec = spec
        self._lock = threading.Lock()
        self._process = host.popen(
            [sys.executable, "-m", "openqwave.lab.emulator"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=taps,
        )
        # They are pipes, as asked; the type of Popen cannot say so.
        self._input = cast("IO[str]", self._process.stdin)
        self._output = cast("IO[str]", self._process.stdout)
        self._granted = self._ask(
            link=to_fields(spec), seed=seed, taps=list(taps), cpu=cpu, is_realtime=is_realtime
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def _ask(self, **question: object) -> dict[str, Any]:
        with self._lock:
            line = "" if self._output.closed else self._exchange(json.dumps(question))
        if not line:
            raise EmulatorError("the link's emulator has ended")
        answer = cast("dict[str, Any]", json.loads(line))
        if "error" in answer:
            raise EmulatorError(f"the link's emulator: {answer['error']}")
        return answer

    def _exchange(self, question: str) -> str:
        """Return the line that answers a line; nothing if nobody is there."""
        try:
            self._input.write(question + "\n")
        except BrokenPipeError:
            return ""
        # One question at a time, so nothing of an answer waits in Python's buffer.
        waiter = select.poll()
        waiter.register(self._output, select.POLLIN)
        if not waiter.poll(ANSWER_TIMEOUT_S * 1000):
            raise EmulatorError("the link's emulator does not answer")
        return self._output.readline()

    def truth(self, since_ns: int, until_ns: int) -> tuple[Truth, Truth]:
        """See `EmulatedLink.truth`."""
        spec = self._spec
        answer = self._ask(ask="carried", since_ns=since_ns, until_ns=until_ns)
        return (
            truth(spec.forward, [Carried(**books) for books in answer["forward"]]),
            truth(spec.backward, [Carried(**books) for books in answer["backward"]]),
        )

    def counters(self) -> EmulatorCounters:
        """See `EmulatedLink.counters`."""
        answer = self._ask(ask="counters")
        forward, backward = (
            WayCounters(**answer[name] | {"lateness": tuple(answer[name]["lateness"])})
            for name in ("forward", "backward")
        )
        return EmulatorCounters(
            forward,
            backward,
            answer["cpu_ns"],
            self._granted["cpu"],
            self._granted["is_realtime"],
        )

    def reshape(self, spec: DuplexSpec) -> int:
        """See `EmulatedLink.reshape`."""
        answer = self._ask(ask="reshape", link=to_fields(spec))
        self._spec = spec
        return int(answer["start_ns"])


@dataclass(frozen=True, slots=True)
class EmulatedLink(Link):
    """Two interfaces joined by a link that behaves as its model says."""

    emulator: Emulator

    def truth(self, since_ns: int, until_ns: int) -> tuple[Truth, Truth]:
        """Return what the link could and did carry between two moments, forward and backward.

        Args:
            since_ns: The first moment, CLOCK_MONOTONIC, a minute ago at most.
            until_ns: The second, not in the future.

        Raises:
            EmulatorError: The window is wrong, or begins before the link or its last reshaping.
        """
        return self.emulator.truth(since_ns, until_ns)

    def counters(self) -> EmulatorCounters:
        """Return what happened at the ends, and how late."""
        return self.emulator.counters()

    def reshape(self, spec: DuplexSpec) -> int:
        """Make it another link at once; return when, CLOCK_MONOTONIC.

        What is on its way arrives as it would have, and nothing passes it. The queues are empty
        then, the buckets full, and the books new.

        Raises:
            EmulatorError: The emulator is gone.
        """
        return self.emulator.reshape(spec)

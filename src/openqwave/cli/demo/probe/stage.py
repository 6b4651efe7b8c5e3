"""The demo's hosts, and one measurement of each link by the programs themselves.

Two hosts with a link between them, which becomes another for each case::

    near ==== half used, then coalesced, then a token bucket ==== far

On the far host runs `qwave sink`, on the near one `qwave probe`, once for each case, as they come:
processes of their own, which know of the link no more than an address. What they say is
written to files in memory, the samples too, so that nothing is on a disk if all of this is killed.

How it stays exact: the link's emulator has a processor for itself where there are two, and all else
of the demo keeps off it. The truth is asked of the link for the time from the measurement's first
sample to its last, so both speak of the same packets of others.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from openqwave.cli.demo.backstage import (
    QWAVE,
    Program,
    between,
    give_up_a_cpu,
    memory,
    processor_wait_ns,
)
from openqwave.cli.demo.probe.cases import CASES, Case
from openqwave.cli.interruption import Interruption
from openqwave.cli.probe.failures import INCONCLUSIVE, MEASURED
from openqwave.cli.probe.outcome import Outcome
from openqwave.cli.probe.recording import read
from openqwave.estimate.samples import Sample, Train
from openqwave.lab.emulation import EmulatedLink, EmulatorCounters
from openqwave.lab.pathmodel import Truth
from openqwave.lab.topology import Lab

# Often enough for a view that seems alive, seldom enough not to be in the measurement's way.
TICK_S = 0.25
# While a program starts there is nothing to disturb.
STARTING_S = 0.02
# A measurement takes 3 s and its program's start less than one; the rest is a busy machine.
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Moment:
    """How far it is.

    Attributes:
        case: The link that is measured.
        elapsed_s: Since its measurement's program was started.
        said: The last line that this program wrote; empty before.
        is_over: Whether it has ended.
    """

    case: Case
    elapsed_s: float
    said: str
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """One link, measured.

    Attributes:
        case: Which.
        outcome: What was measured.
        samples: From which.
        truth: What the link carried meanwhile, on the way that was measured.
        counters: How punctual the link was with this measurement's frames.
        waiting_share: Part of the time in which the link's emulator could run and did not.
    """

    case: Case
    outcome: Outcome
    samples: tuple[Sample, ...]
    truth: Truth
    counters: EmulatorCounters
    waiting_share: float


def sent_ns(sample: Sample) -> int:
    """When a sample's first packet left, CLOCK_REALTIME."""
    return sample.sent_ns[0] if isinstance(sample, Train) else sample.sent_ns


class Stage:
    """One performance, from building to taking down; a context manager.

    Attributes:
        records: What was measured so far, in the order of the cases.
    """

    def __init__(self, interruption: Interruption) -> None:
        """Build everything and wait for the sink; `moments` measures.

        Raises:
            OSError: The kernel refuses a namespace or a tap.
            RuntimeError: An emulator or the sink did not start; the message is its own.
            Interrupted: A signal came.
        """
        self.records: list[Record] = []
        self._interruption = interruption
        self._resources = contextlib.ExitStack()
        try:
            self._build()
        except BaseException:
            self._resources.close()
            raise

    def _build(self) -> None:
        emulator_cpu = give_up_a_cpu(self._resources)
        lab = self._resources.enter_context(Lab())
        self._near, self._far = lab.host("near"), lab.host("far")
        # Not before ordinary processes: the kernel would take it off its processor for 50 ms each
        # second, for whatever little waits there.
        self._link = lab.emulated_link(self._near, self._far, CASES[0].spec, cpu=emulator_cpu)
        self._interruption.check()
        # After the link: whom it answers is decided by that.
        self._sink = Program(self._far, self._resources, (*QWAVE, "sink"))
        while not self._sink.output():
            if self._sink.status is not None:
                raise RuntimeError(self._sink.last_error())
            self._interruption.pause(STARTING_S)

    def moments(self) -> Iterator[Moment]:
        """Measure one link after the other; `records` grows before a moment that is over.

        Raises:
            RuntimeError: A program or a link failed; the message is its own.
            TimeoutError: A measurement does not come to its end.
            Interrupted: A signal came.
        """
        for case in CASES:
            self._link.reshape(case.spec)
            yield from self._measure(case, self._link)

    def _measure(self, case: Case, link: EmulatedLink) -> Iterator[Moment]:
        started_s = time.monotonic()
        counters, waited_ns = link.counters(), processor_wait_ns(link.emulator.pid)
        with contextlib.ExitStack() as resources:
            samples = memory(resources)
            probe = Program(
                self._near,
                resources,
                (*QWAVE, "probe", "--samples", f"/proc/self/fd/{samples}", link.b.ipv4),
                pass_fd=samples,
            )
            while probe.status is None:
                elapsed_s = time.monotonic() - started_s
                if elapsed_s > PATIENCE_S:
                    raise TimeoutError(f"the measurement of {case.title} does not end")
                yield Moment(case, elapsed_s, probe.last_error())
                self._interruption.pause(TICK_S)
            if probe.status not in (MEASURED, INCONCLUSIVE):
                raise RuntimeError(probe.last_error() or f"qwave probe ended by {probe.status}")
            waited_ns = processor_wait_ns(link.emulator.pid) - waited_ns
            recording = read(Path(f"/proc/self/fd/{samples}"))
            record = Record(
                case,
                recording.outcome(),
                recording.samples,
                _truth(case, recording.samples, link),
                between(counters, link.counters()),
                waited_ns / 1e9 / (time.monotonic() - started_s),
            )
            self.records.append(record)
            yield Moment(case, time.monotonic() - started_s, probe.last_error(), is_over=True)

    def close(self) -> None:
        """Take everything down."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _truth(case: Case, samples: Sequence[Sample], link: EmulatedLink) -> Truth:
    """What a link carried from the first sample to the last."""
    times_ns = [sent_ns(sample) for sample in samples]
    if not times_ns:
        raise RuntimeError(f"nothing was measured of {case.title}")
    # Samples are of one clock, a link's books of another; this is their difference now.
    ahead_ns = time.time_ns() - time.monotonic_ns()
    forward, _ = link.truth(min(times_ns) - ahead_ns, max(times_ns) - ahead_ns)
    return forward

"""Paths for measurements in virtual time, and what a measurement of one found."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from openqwave.estimate.samples import Gap, Sample, Train
from openqwave.lab.links import Cross, CrossKind, DuplexSpec, PathSpec, Stage
from openqwave.lab.pathmodel import Truth
from openqwave.model.estimates import PathReport
from openqwave.probing.measurement import Measurement
from openqwave.probing.outcomes import Failed
from openqwave.probing.progress import Measured, Sampled, Wish
from openqwave.probing.sink import Sink
from tests.scenario.virtual import EPOCH_NS, MS, Hosts, VirtualWorld

MBIT = 1_000_000


def cross(rate_bps: int, load: float, kind: CrossKind = CrossKind.POISSON) -> tuple[Cross, ...]:
    """Traffic of others at a link, as a part of its rate; bursts at its rate for 20 ms."""
    if not load:
        return ()
    if kind in (CrossKind.ONOFF, CrossKind.PARETO_ONOFF):
        return (Cross(kind, int(rate_bps * load), peak_bps=rate_bps, on_ns=20 * MS),)
    return (Cross(kind, int(rate_bps * load)),)


def link(
    rate_bps: int,
    load: float = 0.0,
    kind: CrossKind = CrossKind.POISSON,
    *,
    delay_ns: int = 5 * MS,
    queue_ms: int = 50,
) -> Stage:
    """A queue with a rate, others' traffic in it, and the line behind; the queue holds so much."""
    return Stage(
        rate_bps=rate_bps,
        queue_bytes=max(15_000, rate_bps // 8000 * queue_ms),
        delay_ns=delay_ns,
        cross=cross(rate_bps, load, kind),
    )


def path(*stages: Stage, back: Stage | None = None) -> DuplexSpec:
    """A path of some stages; the way back is plain unless it is given."""
    if back is None:
        return DuplexSpec(PathSpec(stages))
    return DuplexSpec(PathSpec(stages), PathSpec((back,)))


ORDINARY = Hosts()
WHOLE = Wish()


@dataclass(frozen=True)
class Case:
    """A path, two hosts and a wish.

    Attributes:
        name: For people.
        spec: The path.
        hosts: What they do to timing.
        make_sink: The far end.
        wish: What is wanted; its version is the path's.
    """

    name: str
    spec: DuplexSpec
    hosts: Hosts = ORDINARY
    make_sink: Callable[[], Sink] = Sink
    wish: Wish = WHOLE

    def __str__(self) -> str:
        """The name, for tests that are run for many."""
        return self.name


@dataclass(frozen=True)
class Found:
    """What came of a measurement.

    Attributes:
        end: Its last event.
        samples: In the order in which they were complete.
        truth: Of the time between the first and the last sample.
        elapsed_ns: Until the last event.
        world: As it was left.
    """

    end: Measured | Failed
    samples: tuple[Sample, ...]
    truth: Truth
    elapsed_ns: int
    world: VirtualWorld

    @property
    def measured(self) -> Measured:
        """The last event, which is a result."""
        assert isinstance(self.end, Measured), self.end
        return self.end

    @property
    def report(self) -> PathReport:
        """The numbers."""
        return self.measured.report


def world_of(case: Case, seed: int) -> VirtualWorld:
    """A world that is about to measure."""
    uniform = random.Random(seed).random
    return VirtualWorld(
        Measurement(case.wish, random=uniform),
        case.spec,
        seed=seed,
        hosts=case.hosts,
        sink=case.make_sink(),
        version=case.wish.version,
    )


def finish(world: VirtualWorld) -> Found:
    """Run a world's measurement to its end."""
    end = world.run(last=(Measured, Failed))
    assert isinstance(end, (Measured, Failed))
    samples = tuple(event.sample for event in world.events if isinstance(event, Sampled))
    times = [sent_of(sample) - EPOCH_NS for sample in samples] or [0]
    truth = world.truth(min(times), max(*times, min(times) + MS))
    return Found(end, samples, truth, world.now_ns, world)


def sent_of(sample: Sample) -> int:
    """When a sample began."""
    return sample.sent_ns if isinstance(sample, Gap) else sample.sent_ns[0]


@functools.cache
def measure(case: Case, seed: int = 1) -> Found:
    """Measure a path; what was measured before is not measured again."""
    return finish(world_of(case, seed))


def quick(case: Case, wish: Wish) -> Case:
    """The same path with another wish."""
    return replace(case, wish=wish)


def trains_of(found: Found) -> list[Train]:
    """The trains among the samples."""
    return [one for one in found.samples if isinstance(one, Train)]


def gaps_of(found: Found) -> list[Gap]:
    """The small probes among them."""
    return [one for one in found.samples if isinstance(one, Gap)]

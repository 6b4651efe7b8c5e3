"""The links that `estimate.py` measures: rates, loads, and everything that misleads estimators.

Rates are of IP packets. A queue holds 50 ms of its link, and 100 kB at least. The name of a case
says what it is: rate in Mbit/s, kind of cross traffic and its share of the rate, or the trap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from openqwave.lab.links import (
    Contention,
    Cross,
    CrossKind,
    DuplexSpec,
    PathSpec,
    Stage,
    TokenBucket,
)

MBIT = 1_000_000
MS = 1_000_000
US = 1_000

RATES_MBIT = (2, 10, 20, 50, 100, 300, 1000)
LOADS = (0.25, 0.5, 0.75)
KINDS = (CrossKind.CONSTANT, CrossKind.POISSON, CrossKind.ONOFF)


@dataclass(frozen=True, slots=True)
class Case:
    """One link.

    Attributes:
        name: What the table calls it.
        link: What it is like.
        is_trap: Whether a wrong number stated with confidence counts as a failure here.
        shares: Whether stations take turns, so that the truth is what a new flow would get.
        tcp: Whether a TCP connection runs beside, which gives way: the truth is what it left while
            it was measured.
        version: Of IP.
    """

    name: str
    link: DuplexSpec
    is_trap: bool = False
    shares: bool = False
    tcp: bool = False
    version: int = 4

    @property
    def rate_bps(self) -> int:
        """The narrow link's sustained rate."""
        stages = self.link.forward.stages
        return min(one.bucket.rate_bps if one.bucket else one.rate_bps for one in stages)

    @property
    def is_loaded(self) -> bool:
        """Is there other traffic?"""
        return self.tcp or any(stage.cross for stage in self.link.forward.stages)


def queue_bytes(rate_mbit: int) -> int:
    """50 ms of the link, or 100 kB."""
    return max(100_000, rate_mbit * MBIT * 50 // 1000 // 8)


def stage(rate_mbit: int, *cross: Cross) -> Stage:
    """A queue with a rate and a line of 1 ms."""
    return Stage(
        rate_bps=rate_mbit * MBIT,
        queue_bytes=queue_bytes(rate_mbit),
        delay_ns=MS,
        cross=cross,
    )


def other(kind: CrossKind, mbit: float, packet_bytes: int = 1500) -> Cross:
    """Cross traffic; bursts go at twice the average for 50 ms in the mean."""
    rate_bps = round(mbit * MBIT)
    is_bursty = kind in (CrossKind.ONOFF, CrossKind.PARETO_ONOFF)
    return Cross(kind, rate_bps, packet_bytes, peak_bps=2 * rate_bps if is_bursty else 0)


def path(*stages: Stage) -> DuplexSpec:
    """Stages one way, and a plain way back."""
    return DuplexSpec(PathSpec(stages))


def poisson(rate_mbit: int, mbit: float) -> Stage:
    """A queue with Poisson traffic in it."""
    return stage(rate_mbit, other(CrossKind.POISSON, mbit))


def plain_cases() -> list[Case]:
    """Every rate, idle and with each kind and share of cross traffic."""
    cases = []
    for rate in RATES_MBIT:
        cases.append(Case(f"{rate} idle", path(stage(rate))))
        for kind in KINDS:
            cases += [
                Case(f"{rate} {kind} {load:.0%}", path(stage(rate, other(kind, load * rate))))
                for load in LOADS
            ]
    return cases


def line_cases() -> list[Case]:
    """Delays, loss, reordering, jitter, IPv6, TCP beside."""
    half = poisson(20, 10)
    cases = [
        Case(f"20 poisson 50% delay {ms} ms", path(replace(half, delay_ns=ms * MS)))
        for ms in (10, 30, 100)
    ]
    cases += [
        Case(f"20 poisson 50% loss {loss:.1%}", path(replace(half, loss=loss)))
        for loss in (0.001, 0.005, 0.02)
    ]
    cases += [
        Case("100 poisson 50% loss 1.0%", path(replace(poisson(100, 50), loss=0.01))),
        Case("20 poisson 50% reordering 1%", path(replace(half, reorder=0.01)), is_trap=True),
        Case("20 poisson 50% duplicates 1%", path(replace(half, duplicate=0.01)), is_trap=True),
        Case("20 idle jitter 8 ms", path(replace(stage(20), jitter_ns=8 * MS)), is_trap=True),
        Case("20 poisson 50% IPv6", path(half), version=6),
        Case("20 poisson 50% queue of 10 packets", path(replace(half, queue_bytes=15_000))),
        Case("20 poisson 90%", path(poisson(20, 18))),
        Case("20 pareto 50%", path(stage(20, other(CrossKind.PARETO_ONOFF, 10)))),
        Case("20 poisson 50% small packets", path(stage(20, other(CrossKind.POISSON, 10, 300)))),
        Case("20 TCP", path(stage(20)), is_trap=True, tcp=True),
        Case("100 TCP", path(stage(100)), is_trap=True, tcp=True),
    ]
    return cases


def trap_cases() -> list[Case]:
    """Links that are no simple queue, receivers that stamp in clumps, queues elsewhere."""

    def bucket(sustained: int, burst_bytes: int, peak: int, *cross: Cross) -> Stage:
        return replace(
            stage(peak, *cross),
            bucket=TokenBucket(sustained * MBIT, burst_bytes),
            queue_bytes=200_000,
        )

    ten = other(CrossKind.POISSON, 10)

    def wifi(*cross: Cross) -> DuplexSpec:
        return path(replace(stage(60, *cross), contention=Contention()))

    def clumps(base: Stage, microseconds: int) -> DuplexSpec:
        return path(replace(base, coalesce_ns=microseconds * US))

    cases = [
        Case("bucket 20, 64 kB at 1000, idle", path(bucket(20, 64_000, 1000))),
        Case("bucket 20, 64 kB at 1000, poisson 50%", path(bucket(20, 64_000, 1000, ten))),
        Case("bucket 20, 32 kB at 100, idle", path(bucket(20, 32_000, 100))),
        Case("100 idle clumps of 250 us", clumps(stage(100), 250)),
        Case("100 poisson 50% clumps of 50 us", clumps(poisson(100, 50), 50)),
        Case("100 poisson 50% clumps of 250 us", clumps(poisson(100, 50), 250)),
        Case("100 poisson 50% clumps of 1000 us", clumps(poisson(100, 50), 1000)),
        Case("20 poisson 50% clumps of 250 us", clumps(poisson(20, 10), 250)),
        Case("Wi-Fi 60, idle", wifi(), shares=True),
        Case("Wi-Fi 60, poisson 15", wifi(other(CrossKind.POISSON, 15)), shares=True),
        Case("Wi-Fi 60, poisson 35", wifi(other(CrossKind.POISSON, 35)), shares=True),
        Case("50 half used, then 20", path(poisson(50, 25), stage(20))),
        Case("20, then 50 half used", path(stage(20), poisson(50, 25))),
        Case("50 half used, then 20 half used", path(poisson(50, 25), poisson(20, 10))),
        Case(
            "50 and 20 and 50, all half used",
            path(poisson(50, 25), poisson(20, 10), poisson(50, 25)),
        ),
        Case("narrow 20 behind tight 50 (10 left)", path(poisson(50, 40), stage(20))),
        Case("narrow 20 before tight 50 (10 left)", path(stage(20), poisson(50, 40))),
    ]
    return [replace(case, is_trap=True) for case in cases]


def all_cases() -> list[Case]:
    """Everything, the plain ones first."""
    return plain_cases() + line_cases() + trap_cases()

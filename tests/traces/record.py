"""Make traces, and accept what the estimators say of them.

::

    python -m tests.traces.record            write the traces of simulated paths anew
    python -m tests.traces.record --accept   accept what the estimators say of all traces today
    python -m tests.traces.record --add FILE NAME --description TEXT --capacity-bps N ...
                                             take a recording of `qwave probe --samples`

Traces of simulated paths change when the measurement does; whoever writes them anew loses the
comparison with what was before, so that is not done when an estimator changes.
"""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path

from openqwave.cli.probe import recording
from openqwave.lab.links import Contention, CrossKind, Stage, TokenBucket
from openqwave.model.estimates import Estimate, PathReport
from openqwave.probing.progress import QUICK, Measured, Wish
from tests.scenario.virtual import MS, Hosts
from tests.scenario.virtual_paths import MBIT, Case, cross, finish, link, path, world_of
from tests.traces import answers
from tests.traces.trace import Trace, paths, read

POISSON, CONSTANT, ONOFF = CrossKind.POISSON, CrossKind.CONSTANT, CrossKind.ONOFF
R = 20 * MBIT
HALF = link(R, 0.5)

# Name, what it is, and the seed.
SIMULATED: list[tuple[str, Case, int]] = [
    ("idle-quick", Case("20 Mbit/s, idle, measured quickly", path(link(R)), wish=QUICK), 1),
    (
        "idle-slow-far",
        Case("2 Mbit/s, idle, 100 ms away", path(link(2 * MBIT, delay_ns=100 * MS))),
        1,
    ),
    ("poisson-half", Case("20 Mbit/s, half of it taken by packets at random", path(HALF)), 1),
    (
        "constant-most-ipv6",
        Case(
            "10 Mbit/s, three quarters taken evenly, IPv6",
            path(link(10 * MBIT, 0.75, CONSTANT)),
            wish=Wish(version=6),
        ),
        1,
    ),
    (
        "bursts-half",
        Case("100 Mbit/s, half of it taken by bursts", path(link(100 * MBIT, 0.5, ONOFF))),
        1,
    ),
    (
        "fast-quarter",
        Case(
            "300 Mbit/s, a quarter taken evenly",
            path(link(300 * MBIT, 0.25, CONSTANT)),
            wish=replace(Wish(), fast_duration_ns=2_500 * MS),
        ),
        1,
    ),
    (
        "lossy",
        Case(
            "20 Mbit/s, half taken, 1 % lost, 1 % reordered, 1 % twice",
            path(replace(HALF, loss=0.01, reorder=0.01, duplicate=0.01)),
        ),
        1,
    ),
    (
        "bucket",
        Case(
            "a bucket of 20 Mbit/s and 64 KiB before 1 Gbit/s, half taken",
            path(
                Stage(
                    rate_bps=1000 * MBIT,
                    queue_bytes=200_000,
                    delay_ns=5 * MS,
                    bucket=TokenBucket(R, 65_536),
                    cross=cross(R, 0.5),
                )
            ),
        ),
        1,
    ),
    (
        "clumps",
        Case(
            "100 Mbit/s, half taken, the receiver stamps in clumps of 250 us",
            path(replace(link(100 * MBIT, 0.5), coalesce_ns=250_000)),
        ),
        1,
    ),
    (
        "turns",
        Case(
            "a shared medium of 60 Mbit/s with up to 32 packets a turn",
            path(
                Stage(
                    rate_bps=60 * MBIT,
                    queue_bytes=300_000,
                    delay_ns=2 * MS,
                    contention=Contention(aggregate_frames=32),
                )
            ),
        ),
        1,
    ),
    (
        "behind",
        Case(
            "20 Mbit/s, idle, and behind it 100 Mbit/s of which half is taken",
            path(link(R), link(100 * MBIT, 0.5, delay_ns=0)),
        ),
        1,
    ),
    (
        "clock-set",
        Case(
            "20 Mbit/s, half taken; the sink's clock is 500 ppm slow and set by 50 ms on the way",
            path(HALF),
            hosts=Hosts(drift_ppm=-500, step_at_ns=1500 * MS, step_ns=50 * MS),
        ),
        1,
    ),
    (
        "jitter",
        Case("20 Mbit/s, idle, packets up to 8 ms late", path(replace(link(R), jitter_ns=8 * MS))),
        1,
    ),
    (
        "busy-hosts",
        Case(
            "20 Mbit/s, half taken; the sender stops in one train of three, stamps are late",
            path(HALF),
            hosts=Hosts(held_up=0.3, stall=0.03, stall_ns=2 * MS, lateness_ns=20_000),
        ),
        1,
    ),
]


def simulated(name: str, case: Case, seed: int) -> Trace:
    """Measure a simulated path."""
    found = finish(world_of(case, seed))
    end = found.measured
    assert isinstance(end, Measured)
    shares = any(stage.contention for stage in case.spec.forward.stages)
    truth = found.truth
    loss = 1.0
    for stage in (*case.spec.forward.stages, *case.spec.backward.stages):
        loss *= 1 - stage.loss
    return Trace(
        name=name,
        description=f"{case.name}; simulated, seed {seed}, truth by the path's own books",
        truth={
            "capacity_bps": truth.capacity_bps,
            "available_bps": truth.fair_share_bps if shares else truth.available_bps,
            "loss_ppm": round(1e6 * (1 - loss)),
        },
        wish=case.wish,
        samples=found.samples,
        supports_priority=end.report.supports_priority,
        elapsed_ns=end.elapsed_ns,
        sent_bytes=end.sent_bytes,
    )


def recorded(file: Path, name: str, description: str, truth: dict[str, int]) -> Trace:
    """Make a trace of a recording.

    Raises:
        BadRecordingError: The file is no recording.
    """
    found = recording.read(file)
    return Trace(
        name=name,
        description=description,
        truth=truth,
        wish=found.wish,
        samples=found.samples,
        supports_priority=found.supports_priority,
        elapsed_ns=found.elapsed_ns,
        sent_bytes=found.sent_bytes,
    )


def accept() -> str:
    """Store what the estimators say of all traces today; what moved by it."""
    traces = {trace.name: trace for trace in map(read, paths())}
    now = {name: answers.answers_of(trace.report()) for name, trace in traces.items()}
    before = answers.load() if answers.FILE.exists() else {}
    answers.store(now)
    return answers.table(before, now, traces)


# What a recording's truth may say: the numbers of a report.
TRUTHS = [field.name for field in fields(PathReport) if field.name in answers.NUMBERS]


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.traces.record", description=__doc__)
    parser.add_argument("--accept", action="store_true", help="store today's answers")
    parser.add_argument("--add", nargs=2, metavar=("FILE", "NAME"), help="take a recording")
    parser.add_argument("--description", default="", help="what the path was like")
    for name in TRUTHS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="the truth, if known")
    asked = parser.parse_args()
    if asked.add:
        truth = {name: value for name in TRUTHS if (value := getattr(asked, name)) is not None}
        if not asked.description or not truth:
            parser.error("a trace has a description and some truth")
        trace = recorded(Path(asked.add[0]), asked.add[1], asked.description, truth)
        print(trace.write())
    elif not asked.accept:
        for name, case, seed in SIMULATED:
            trace = simulated(name, case, seed)
            written, found = trace.write(), trace.report()
            capacity = found.capacity_bps
            value = capacity.value if isinstance(capacity, Estimate) else capacity.doubt.name
            print(f"{written.name}: {written.stat().st_size:,} bytes, capacity {value}")
    if asked.accept:
        print(accept() or "nothing moved")


if __name__ == "__main__":
    main()

"""`qwave probe` without a network: a driver that tells what a test wrote down."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeAlias

import pytest

from openqwave.cli.probe import command
from openqwave.estimate.samples import Gap, Sample, Train
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import QosError, TimedOut
from openqwave.model.estimates import Estimate, PathReport
from openqwave.probing import watching
from openqwave.probing.measurement import Measured, Measurement, Phase, Progressed, Wish
from openqwave.probing.session import Event
from openqwave.probing.watching import Watch, Watched

MS, S = 1_000_000, 1_000_000_000

KNOWN = PathReport(
    capacity_bps=Estimate(98_734_000, 97_902_000, 99_511_000, 0.95, "trains"),
    available_bps=Estimate(44_120_000, 41_300_000, 46_700_000, 0.95, "idle share and paced trains"),
    rtt_ns=Estimate(1_234_567, 1_100_000, 1_400_000, 0.9, "echo"),
    jitter_there_ns=Estimate(110_000, 2_000, 110_000, 0.9, "delay variation"),
    jitter_back_ns=Estimate(90_000, 2_000, 95_000, 0.9, "delay variation"),
    loss_ppm=Estimate(0, 0, 7_600, 0.95, "echo"),
    supports_priority=True,
    link="a queue with a rate",
)
# An event, a failure, or something that happens between two events.
Step: TypeAlias = Event | QosError | Callable[[], object]


class Script:
    """Stands in for the driver: tells events, or fails, and notes what it was asked for."""

    def __init__(self, steps: Sequence[Step], refusal: QosError | None = None) -> None:
        self.steps = deque(steps)
        self.refusal = refusal
        self.allowed: list[str] = []
        self.wish: Wish | None = None
        self.peer: Endpoint | None = None
        self.watched_from: list[Sample] = []
        self.is_open = False

    def __call__(self, allowed: Sequence[str]) -> Script:
        self.allowed = list(allowed)
        return self

    def __enter__(self) -> Self:
        self.is_open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.is_open = False

    def run(self, session: Measurement | Watch, peer: Endpoint) -> Self:
        if isinstance(session, Measurement):
            self.wish = session._wish  # noqa: SLF001 - what was asked for
        self.peer = peer
        if self.refusal is not None:
            raise self.refusal
        return self

    def next_event(self, timeout_s: float | None) -> Event | None:
        assert timeout_s is not None, "nothing may be waited for without an end"
        if not self.steps:
            raise TimedOut
        step = self.steps.popleft()
        if isinstance(step, QosError):
            raise step
        if isinstance(step, Event):
            return step
        step()
        raise TimedOut


GAPS: tuple[Sample, ...] = tuple(
    Gap(n, 60, S + n * MS, 5 * S + n * MS, 5 * S + n * MS + 1000, S + n * MS + 300_000)
    for n in range(1, 40)
)
SAMPLES: tuple[Sample, ...] = (
    Train(1496, 0, (S, S + 1000, S + 2000), (120_000, 120_000)),
    Train(1496, 0, (2 * S, 2 * S + 1000, 2 * S + 2000)),
    *GAPS,
)
MEASURED = Measured(KNOWN, 2_790_000_000, 1_016_000)


def progressed(elapsed_ns: int) -> Progressed:
    return Progressed(Phase.LOAD, elapsed_ns, 400_000, 98_700_000, 1_230_000)


Scripted: TypeAlias = Callable[..., Script]


def scripted_by(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """Make scripts that stand in for the driver."""

    def make(*steps: Step, refusal: QosError | None = None) -> Script:
        script = Script(steps, refusal)
        monkeypatch.setattr(command, "ExperimentHost", script)

        def watch(samples: Sequence[Sample], *arguments: Any, **more: Any) -> Watch:  # noqa: ANN401
            script.watched_from = list(samples)
            return Watch(samples, *arguments, **more)

        monkeypatch.setattr(watching, "Watch", watch)
        return script

    return make


def watched(second: int, report: PathReport = KNOWN) -> Watched:
    return Watched(report, second * S, second * 1000)


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)

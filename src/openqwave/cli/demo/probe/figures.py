"""Each answer held against the link's own books.

An answer *holds* if the truth lies within its bounds, and an honest "not known" is no error. An
answer whose bounds do not hold the truth is wrong, unless the link itself was not what it should
have been: its emulator is a program, and one that is not run in time makes a jitter that no link
of the demo has. Then nothing is proven either way. An emulator counts how late it hands packets
over, and cannot know how late it takes them; the kernel knows how long it waited to be run.
"""

from __future__ import annotations

import enum
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from openqwave.cli.demo.probe.cases import Case
from openqwave.cli.demo.probe.stage import Record
from openqwave.cli.probe.outcome import Outcome
from openqwave.estimate.samples import Train
from openqwave.estimate.strain import is_punctual
from openqwave.lab.links import to_fields
from openqwave.lab.pathmodel import Truth
from openqwave.model.estimates import Estimated, Inconclusive

# The version of the JSON object; grows when a field changes its meaning or goes away.
FORMAT = 1

# An emulator that has its processor for itself hands nine frames of ten over within 60 us of
# their time, of which most is writing the frames of a clump one after the other, and all but one
# of a hundred within 150 us. More than this is the machine's doing.
MOST_LATE_90_NS = 100_000
MOST_LATE_99_NS = 1_000_000
# The part of the time in which an emulator may wait for its processor. Whatever comes meanwhile
# waits with it, so it is a part of the time in which the link looks busy; bounds of the idle share
# are two times this on either side at least.
MOST_WAITING = 0.01
# So many of the paced trains may be held up by their own sender before it is worth a remark: with
# two processors, of which the link has one, the sink often is in its way. They are left out, so no
# answer is excused by it.
MOST_HELD_UP = 0.5


class Standing(enum.Enum):
    """How an answer stands beside the truth; the value is for people."""

    HOLDS = "ok"
    NOT_KNOWN = "not known"
    UNJUDGED = "not judged"
    WRONG = "WRONG"


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer and the truth.

    Attributes:
        name: As the report names it.
        answer: What the measurement says.
        truth_bps: What the link says.
        standing: How the one stands beside the other.
    """

    name: str
    answer: Estimated
    truth_bps: int
    standing: Standing


@dataclass(frozen=True, slots=True)
class Punctuality:
    """How punctual the machine was.

    Attributes:
        late_90_ns: Nine of ten frames were handed over no later than this, from above.
        late_99_ns: And 99 of a hundred.
        waiting_share: Part of the time in which the emulator could run and did not.
        paced: Paced trains that were sent.
        held_up: Of these, how many their own sender was too slow for.
    """

    late_90_ns: int
    late_99_ns: int
    waiting_share: float
    paced: int
    held_up: int

    @property
    def is_link_late(self) -> bool:
        """Was the link not what it should be?"""
        return (
            self.late_90_ns > MOST_LATE_90_NS
            or self.late_99_ns > MOST_LATE_99_NS
            or self.waiting_share > MOST_WAITING
        )

    @property
    def is_busy(self) -> bool:
        """Was anything late: the link, or who measured it?"""
        return self.is_link_late or self.held_up > MOST_HELD_UP * self.paced


@dataclass(frozen=True, slots=True)
class Result:
    """One link.

    Attributes:
        case: Which.
        outcome: What was measured.
        truth: What the link carried meanwhile.
        punctuality: How far both can be believed.
    """

    case: Case
    outcome: Outcome
    truth: Truth
    punctuality: Punctuality

    @property
    def judged(self) -> tuple[Judged, ...]:
        """The answers that are held against the truth."""
        report, truth = self.outcome.report, self.truth
        return tuple(
            Judged(name, answer, truth_bps, self._standing(answer, truth_bps))
            for name, answer, truth_bps in (
                ("capacity_bps", report.capacity_bps, truth.capacity_bps),
                ("available_bps", report.available_bps, truth.available_bps),
            )
        )

    def _standing(self, answer: Estimated, truth_bps: int) -> Standing:
        if isinstance(answer, Inconclusive):
            return Standing.NOT_KNOWN
        if answer.low <= truth_bps <= answer.high:
            return Standing.HOLDS
        return Standing.UNJUDGED if self.punctuality.is_link_late else Standing.WRONG

    def to_json(self) -> dict[str, Any]:
        """Return it with JSON's types."""
        truth = asdict(self.truth)
        window_ns = truth.pop("until_ns") - truth.pop("since_ns")
        return {
            "name": self.case.name,
            "title": self.case.title,
            "link": to_fields(self.case.spec),
            "measured": self.outcome.to_json(),
            "truth": {"window_ns": window_ns} | truth,
            "punctuality": asdict(self.punctuality)
            | {"is_link_late": self.punctuality.is_link_late},
            "verdicts": {each.name: each.standing.name.lower() for each in self.judged},
        }


@dataclass(frozen=True, slots=True)
class Figures:
    """All links."""

    results: tuple[Result, ...]

    def _has(self, standing: Standing) -> bool:
        return any(each.standing is standing for one in self.results for each in one.judged)

    @property
    def is_wrong(self) -> bool:
        """Is any answer wrong?"""
        return self._has(Standing.WRONG)

    @property
    def is_unjudged(self) -> bool:
        """Could any answer not be judged?"""
        return self._has(Standing.UNJUDGED)

    @property
    def is_busy(self) -> bool:
        """Was the machine late anywhere?"""
        return any(one.punctuality.is_busy for one in self.results)

    def to_json(self) -> dict[str, Any]:
        """Return it with JSON's types."""
        return {
            "format": FORMAT,
            "versions": {
                "openqwave": version("openqwave"),
                "python": platform.python_version(),
                "kernel": platform.release(),
            },
            "links": [one.to_json() for one in self.results],
            "kept": not self.is_wrong and not self.is_unjudged,
            "is_busy": self.is_busy,
        }


def figures_of(records: Iterable[Record]) -> Figures:
    """Work the numbers out."""
    return Figures(
        tuple(
            Result(
                record.case,
                record.outcome,
                record.truth,
                punctuality_of(record),
            )
            for record in records
        )
    )


def punctuality_of(record: Record) -> Punctuality:
    """Tell how punctual a link and its measurement were."""
    ways = (record.counters.forward, record.counters.backward)
    paced = [sample for sample in record.samples if isinstance(sample, Train) and sample.gap_ns]
    return Punctuality(
        late_90_ns=max(way.late_ns(0.90) for way in ways),
        late_99_ns=max(way.late_ns(0.99) for way in ways),
        waiting_share=record.waiting_share,
        paced=len(paced),
        held_up=sum(not is_punctual(train) for train in paced),
    )

"""When congestion was told and when relief, beside when it was so."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.congestion_rules import MS, Rule, Sample

# After a queue has gone, notices are false from here on: a rule may come back once while it ends.
SETTLED_NS = 1_000 * MS


@dataclass(frozen=True, slots=True)
class Onset:
    """One overload.

    Attributes:
        load: Of the link, 1.05 for 105 %.
        onset_ns: When it began.
        stop_ns: When it ended.
        emptied_ns: When the queue had gone after it.
    """

    load: float
    onset_ns: int
    stop_ns: int
    emptied_ns: int


@dataclass(frozen=True, slots=True)
class Change:
    """What is told from a moment on."""

    at_ns: int
    is_congested: bool


@dataclass(slots=True)
class Score:
    """How a rule did; times in ms.

    Attributes:
        told: From the onset, for each that was told.
        relief: From the empty queue, likewise; 0 where relief was told before.
        missed: Onsets that were not told.
        early: Onsets at which it was congested already.
        held: Of the time from telling to the empty queue, the share in which it said so.
        false: Notices of congestion where there was none.
        calm_s: The time that they are counted in.
    """

    told: list[float] = field(default_factory=list)
    relief: list[float] = field(default_factory=list)
    missed: int = 0
    early: int = 0
    held: list[float] = field(default_factory=list)
    false: int = 0
    calm_s: float = 0.0

    @property
    def false_a_minute(self) -> float | None:
        """Rate of false notices."""
        return 60 * self.false / self.calm_s if self.calm_s else None


def changes_of(rule: Rule, samples: Sequence[Sample]) -> list[Change]:
    """What a rule tells of samples."""
    changes = []
    is_congested = False
    for sample in samples:
        rule.observe(sample)
        if rule.is_congested is not is_congested:
            is_congested = rule.is_congested
            changes.append(Change(sample.at_ns, is_congested))
    return changes


def score(
    changes: Sequence[Change],
    onsets: Sequence[Onset],
    calm: Sequence[tuple[int, int]],
    into: Score | None = None,
) -> Score:
    """Compare what was told with what was so.

    Args:
        changes: In order of time; not congested before the first.
        onsets: What should be told.
        calm: From when until when nothing should.
        into: What to add to.
    """
    into = into or Score()
    times = [change.at_ns for change in changes]

    def state(at_ns: int) -> bool:
        place = bisect_right(times, at_ns)
        return place > 0 and changes[place - 1].is_congested

    for onset in onsets:
        _score_onset(onset, changes, state(onset.onset_ns), state(onset.emptied_ns), into)
    for since_ns, until_ns in calm:
        into.calm_s += max(0, until_ns - since_ns) / 1e9
        into.false += sum(
            change.is_congested and since_ns <= change.at_ns < until_ns for change in changes
        )
    return into


def _score_onset(
    onset: Onset,
    changes: Sequence[Change],
    was_congested: bool,
    is_held: bool,
    into: Score,
) -> None:
    if was_congested:
        into.early += 1
        return
    during = [one for one in changes if onset.onset_ns < one.at_ns < onset.emptied_ns]
    told_ns = next(
        (one.at_ns for one in during if one.is_congested and one.at_ns < onset.stop_ns), None
    )
    if told_ns is None:
        into.missed += 1
        return
    into.told.append((told_ns - onset.onset_ns) / MS)
    ended_ns = next(
        (one.at_ns for one in changes if one.at_ns >= onset.emptied_ns and not one.is_congested),
        None,
    )
    if is_held and ended_ns is not None:
        into.relief.append((ended_ns - onset.emptied_ns) / MS)
    elif not is_held:
        into.relief.append(0.0)
    true_ns, since_ns = 0, told_ns
    is_true = True
    for one in during:
        if one.at_ns <= told_ns:
            continue
        if is_true:
            true_ns += one.at_ns - since_ns
        is_true, since_ns = one.is_congested, one.at_ns
    if is_true:
        true_ns += onset.emptied_ns - since_ns
    into.held.append(true_ns / max(1, onset.emptied_ns - told_ns))


HEADINGS = (
    "rule",
    "told, ms",
    ": ours",
    "worst",
    ": ours",
    "missed",
    "early",
    "relief, ms",
    ": ours",
    "worst",
    "held, %",
    "false a minute, calm",
    "at 85 %",
)


def table(named: dict[str, tuple[Score, Score]]) -> str:
    """All rules as Markdown, the first being ours; scores of onsets, and of the steady load."""
    ours = next(iter(named.values()))[0]
    lines = ["| " + " | ".join(HEADINGS) + " |", "| --- " * len(HEADINGS) + "|"]
    for name, (onsets, steady) in named.items():
        cells = [
            name,
            _text(_median(onsets.told)),
            _ratio(_median(onsets.told), _median(ours.told)),
            _text(max(onsets.told, default=None)),
            _ratio(max(onsets.told, default=None), max(ours.told, default=None)),
            str(onsets.missed),
            str(onsets.early),
            _text(_median(onsets.relief)),
            _ratio(_median(onsets.relief), _median(ours.relief)),
            _text(max(onsets.relief, default=None)),
            _text(100 * statistics.fmean(onsets.held) if onsets.held else None),
            _text(onsets.false_a_minute, ".2f"),
            _text(steady.false_a_minute, ".2f"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_load(onsets: Sequence[Onset], changes: Sequence[Change]) -> str:
    """One line with the medians of ours for each load."""
    parts = []
    for load in sorted({one.load for one in onsets}):
        found = score(changes, [one for one in onsets if one.load == load], ())
        if found.told:
            parts.append(
                f"{load:.0%}: {statistics.median(found.told):.0f} (worst {max(found.told):.0f})"
            )
    return "told after ms, at a load of " + ", ".join(parts)


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _text(value: float | None, form: str = ".0f") -> str:
    return "-" if value is None else format(value, form)


def _ratio(value: float | None, ours: float | None) -> str:
    return "-" if value is None or not ours else f"{value / ours:.2f}"

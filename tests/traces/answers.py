"""What the estimators said of each trace when somebody last looked and agreed.

The answers are in `answers.json`: for each trace and each number of its report the value and its
bounds, or the doubt. When an estimator changes, what it says of other people's paths changes too,
and a table shows which.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from openqwave.model.estimates import Estimate, PathReport
from tests.traces.trace import FOLDER, Trace

FILE = FOLDER / "answers.json"
HOW_TO_ACCEPT = "python -m tests.traces.record --accept"
NUMBERS = (
    "capacity_bps",
    "available_bps",
    "rtt_ns",
    "jitter_there_ns",
    "jitter_back_ns",
    "loss_ppm",
)
# Sums of floats differ in their last digits between machines; answers are whole numbers.
EQUAL = 1e-6

# Value, low, high; or the name of a doubt.
Answer: TypeAlias = list[int] | str
Answers: TypeAlias = dict[str, Any]


def answers_of(found: PathReport) -> Answers:
    """A report as it is stored."""
    answers: Answers = {}
    for name in NUMBERS:
        one = getattr(found, name)
        answers[name] = (
            [one.value, one.low, one.high] if isinstance(one, Estimate) else one.doubt.name
        )
    answers["link"] = found.link
    answers["boost_bps"] = found.boost_bps
    answers["drift_ppm"] = round(found.drift_ppm, 2)
    return answers


def load(path: Path = FILE) -> dict[str, Answers]:
    """All that was accepted."""
    found = json.loads(path.read_text(encoding="ascii"))
    assert isinstance(found, dict)
    return found


def store(answers: Mapping[str, Answers], path: Path = FILE) -> None:
    """Accept answers: one line for each number, so that a diff shows what moved."""
    traces = []
    for name in sorted(answers):
        fields = ",\n".join(
            f"    {json.dumps(field)}: {json.dumps(value)}"
            for field, value in answers[name].items()
        )
        traces.append(f"  {json.dumps(name)}: {{\n{fields}\n  }}")
    path.write_text("{\n" + ",\n".join(traces) + "\n}\n", encoding="ascii")


def moved(accepted: Mapping[str, Answers], now: Mapping[str, Answers]) -> list[tuple[str, str]]:
    """Which number of which trace is not what was accepted."""
    return [
        (name, field)
        for name in sorted(accepted.keys() | now.keys())
        for field in _fields(accepted.get(name, {}), now.get(name, {}))
        if not _is_equal(accepted.get(name, {}).get(field), now.get(name, {}).get(field))
    ]


def _fields(one: Answers, other: Answers) -> Iterator[str]:
    yield from dict.fromkeys([*one, *other])


def _is_equal(one: object, other: object) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=EQUAL, abs_tol=1)
    return one == other


def table(
    accepted: Mapping[str, Answers], now: Mapping[str, Answers], traces: Mapping[str, Trace]
) -> str:
    """What moved from where to where, beside the truth; empty if nothing did."""
    rows = [("trace", "number", "truth", "was", "is")]
    for name, field in moved(accepted, now):
        truth = traces[name].truth.get(field) if name in traces else None
        rows.append(
            (
                name,
                field,
                "" if truth is None else f"{truth:,}",
                _shown(accepted.get(name, {}).get(field)),
                _shown(now.get(name, {}).get(field)),
            )
        )
    if len(rows) == 1:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _shown(answer: object) -> str:
    if isinstance(answer, list):
        value, low, high = answer
        return f"{value:,} [{low:,}, {high:,}]"
    if isinstance(answer, (int, float)):
        return f"{answer:,}"
    return "nothing" if answer is None else str(answer)

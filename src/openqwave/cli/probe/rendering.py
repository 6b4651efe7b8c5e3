"""What was measured, as text for people: a table, and one line for a path that is watched.

A number is shown with as many digits as its bounds justify: the last digit is the one that half
the distance between the bounds begins to decide, by the rule of the Particle Data Group (two
digits of an uncertainty that begins with 100 to 354, one of one that begins with 355 to 949).
Bounds are rounded outward, so that the text never claims more than the estimate does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from openqwave.cli.probe.outcome import Outcome, reason_of
from openqwave.model.estimates import Estimate, Estimated, Inconclusive

# The rule's limit: an uncertainty of 0.354 is shown with two digits, one of 0.355 with one.
_TWO_DIGITS_UP_TO = 3.55
# However narrow the bounds, nobody reads more digits than this.
_MOST_DIGITS = 4

# Widths of the table's columns: a name, a value with its unit, bounds, a confidence, a method.
# The last one takes what an ordinary terminal has left, and what does not fit is folded.
_NAME, _VALUE, _BOUNDS, _SURE, _METHOD = 17, 14, 17, 6, 26


@dataclass(frozen=True, slots=True)
class _Unit:
    """A unit that people read.

    Attributes:
        name: After the number.
        size: In the unit of the report.
    """

    name: str
    size: int


_MBPS = _Unit("Mbit/s", 1_000_000)
_MS = _Unit("ms", 1_000_000)
_PERCENT = _Unit("%", 10_000)


@dataclass(frozen=True, slots=True)
class Shown:
    """An estimate as text, in one unit.

    Attributes:
        value: The number.
        low: The lower bound.
        high: The upper bound.
    """

    value: str
    low: str
    high: str


def shown(estimate: Estimate, size: int) -> Shown:
    """Round an estimate by its bounds; see the module's text.

    Args:
        estimate: What is to be shown.
        size: One of the unit that it is to be shown in, in the estimate's.
    """
    value, low, high = (number / size for number in (estimate.value, estimate.low, estimate.high))
    margin = (high - low) / 2
    place = _first_place(value) - _MOST_DIGITS + 1
    if margin > 0:
        place = max(place, math.ceil(math.log10(margin / _TWO_DIGITS_UP_TO)) - 1)
    if value:
        # The value itself does not become nothing, however wide the bounds are.
        place = min(place, _first_place(value))
    digits = max(0, -place)
    step = 10.0**place
    return Shown(
        f"{round(value, -place):.{digits}f}",
        # A hair's breadth off, or 0.3 / 0.1 would be rounded down to 0.2.
        f"{math.floor(low / step + 1e-9) * step:.{digits}f}",
        f"{math.ceil(high / step - 1e-9) * step:.{digits}f}",
    )


def _first_place(value: float) -> int:
    """The power of ten of a number's first digit; that of 1 for nothing."""
    return math.floor(math.log10(abs(value))) if value else 0


def table(outcome: Outcome) -> str:
    """Everything that was found, a line each, with bounds, confidence and method."""
    report = outcome.report
    lines = [
        *_row("capacity", report.capacity_bps, _MBPS),
        *_row("available", report.available_bps, _MBPS),
        *_row("round-trip time", report.rtt_ns, _MS),
        *_row("jitter there", report.jitter_there_ns, _MS),
        *_row("jitter back", report.jitter_back_ns, _MS),
        *_row("loss", report.loss_ppm, _PERCENT),
        *_words("priority tags", _priority(outcome)),
        *_words("kind of link", _link(outcome)),
        *_words("cost", cost(outcome)),
    ]
    if outcome.destination is not None:
        lines.insert(0, f"path to {outcome.destination}, IPv{outcome.destination.version}")
    return "\n".join(lines) + "\n"


def _row(name: str, estimated: Estimated, unit: _Unit) -> list[str]:
    if isinstance(estimated, Inconclusive):
        return _words(name, f"not known: {reason_of(estimated)}")
    text = shown(estimated, unit.size)
    start = (
        f"{name:<{_NAME}}"
        f"{f'{text.value} {unit.name}':<{_VALUE}}"
        f"{f'{text.low} to {text.high}':<{_BOUNDS}}"
        f"{f'{100 * estimated.confidence:.0f} %':<{_SURE}}"
    )
    return _beside(start, estimated.method, _METHOD)


def _words(name: str, text: str) -> list[str]:
    """A row without numbers."""
    return _beside(f"{name:<{_NAME}}", text, _VALUE + _BOUNDS + _SURE + _METHOD)


def _beside(start: str, text: str, width: int) -> list[str]:
    """Put words beside the start of a line, in as many lines as they need."""
    folded: list[str] = []
    for word in text.split():
        if folded and len(folded[-1]) + 1 + len(word) <= width:
            folded[-1] += f" {word}"
        else:
            folded.append(word)
    starts = [start, *[" " * len(start)] * (len(folded) - 1)]
    return [f"{before}{words}" for before, words in zip(starts, folded, strict=True)]


def _priority(outcome: Outcome) -> str:
    match outcome.supports_priority:
        case True:
            return "supported"
        case False:
            return "not supported"
        case None:
            return f"not known: {outcome.priority_doubt}"


def _link(outcome: Outcome) -> str:
    report = outcome.report
    if isinstance(report.capacity_bps, Inconclusive):
        return "not known"
    if report.boost_bps:
        return f"{report.link}; bursts pass at {report.boost_bps / _MBPS.size:.3g} Mbit/s"
    return report.link


def cost(outcome: Outcome) -> str:
    """Bytes and time that it took."""
    return f"{bytes_sent(outcome.sent_bytes)} sent in {outcome.elapsed_ns / 1e9:.1f} s"


def bytes_sent(count: int) -> str:
    """A number of bytes in kB or MB, thousands each."""
    return f"{count / 1e6:.2f} MB" if count >= 1_000_000 else f"{count / 1e3:.0f} kB"


def line(outcome: Outcome) -> str:
    """The state of a path that is watched, in one line."""
    report = outcome.report
    return (
        f"{outcome.elapsed_ns / 1e9:5.0f} s  "
        f"available {_brief(report.available_bps, _MBPS)} "
        f"of {_brief(report.capacity_bps, _MBPS)}, "
        f"round trip {_brief(report.rtt_ns, _MS)}, "
        f"loss {_brief(report.loss_ppm, _PERCENT)}"
    )


def _brief(estimated: Estimated, unit: _Unit) -> str:
    if isinstance(estimated, Inconclusive):
        return "?"
    return f"{shown(estimated, unit.size).value} {unit.name}"

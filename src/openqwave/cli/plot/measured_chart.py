"""The picture of `qwave probe --plot`: delays, dispersion and results over one axis of time.

Delays are on a logarithmic axis: a probe that finds the link idle waits for microseconds, one that
does not for as long as a packet takes, or a queue. Rates are on a linear one, unless a burst's is
many times that of the link. What lies beyond an axis is drawn as an arrow at its end.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from openqwave.cli.plot import canvas
from openqwave.cli.plot.canvas import BLACK, BLUE, GREY, VERMILION, Style
from openqwave.cli.plot.measured import MBPS, Dots, columns, series
from openqwave.cli.probe.outcome import reason_of
from openqwave.cli.probe.rendering import cost, shown
from openqwave.model.estimates import Estimate, Inconclusive

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from openqwave.cli.plot.history import History
    from openqwave.cli.plot.measured import Columns, Series
    from openqwave.cli.probe.outcome import Outcome
    from openqwave.model.estimates import Estimated, PathReport

HEIGHT_IN = 9.5
# Below, a probe met an idle path, and stamps are no finer.
LEAST_MS, MOST_MS = 0.001, 60_000.0
# Where marks of what has no value stand, as a part of the panel's height.
NEAR_TOP, NEAR_BOTTOM = 0.965, 0.035
# The axis of rates goes this far beyond what is on it.
ROOM = 1.15
# A rate this many times that of the link's capacity may be an accident of two packets, and is drawn
# at the axis' end.
FAR = 1.6
# Where rates differ by more than this, a linear axis shows the small ones as nothing.
MOST_LINEAR = 8.0
# More results have no markers of their own.
MOST_MARKED = 60

CAPACITY = Style(BLUE)
AVAILABLE = Style(VERMILION, marker="s", line="--", hatch="\\\\")


def draw(history: History, outcome: Outcome, path: Path) -> None:
    """Write the picture.

    Args:
        history: What was measured.
        outcome: What came of it.
        path: The file.

    Raises:
        OSError: The file cannot be written.
    """
    drawn = series(history)
    title, verdict = _title(outcome), _verdict(outcome)

    def paint(figure: Any) -> None:  # noqa: ANN401 - matplotlib has no types
        canvas.entitle(figure, title, verdict)
        delays, rates, results = figure.subplots(3, 1, sharex=True)
        unit, unit_s = canvas.time_unit(drawn.span_s)
        _paint_delays(delays, drawn, unit_s)
        _paint_rates(rates, drawn, unit_s)
        _paint_results(results, drawn, outcome, unit_s)
        for axes in (delays, rates, results):
            canvas.span(axes, drawn.span_s / unit_s)
            if drawn.watched_from_s is not None:
                axes.axvline(
                    drawn.watched_from_s / unit_s,
                    color=GREY,
                    linewidth=1.2,
                    linestyle=(0, (4, 3)),
                    label="the watch begins" if axes is delays else None,
                )
            canvas.explain(axes)
        results.set_xlabel(f"time since the first packet, {unit}", fontsize=canvas.LABEL)
        figure.supxlabel(_footer(outcome), fontsize=canvas.SMALL, color=GREY, x=0.01, ha="left")

    canvas.draw(path, (canvas.WIDTH_IN, HEIGHT_IN), title, paint)


# -- words ----------------------------------------------------------------------------


def _title(outcome: Outcome) -> str:
    to = outcome.destination
    return "A recorded path" if to is None else f"Path to {to}, IPv{to.version}"


def _verdict(outcome: Outcome) -> str:
    capacity, available = outcome.report.capacity_bps, outcome.report.available_bps
    return f"capacity {_in_words(capacity)}; available {_in_words(available)}"


def _in_words(estimated: Estimated) -> str:
    if isinstance(estimated, Inconclusive):
        return "not known"
    text = shown(estimated, round(MBPS))
    return f"{text.value} Mbit/s ({text.low} to {text.high})"


def _footer(outcome: Outcome) -> str:
    report = outcome.report
    parts = []
    if isinstance(report.rtt_ns, Estimate):
        parts.append(f"round trip {shown(report.rtt_ns, 1_000_000).value} ms")
    if isinstance(report.loss_ppm, Estimate):
        parts.append(f"loss {shown(report.loss_ppm, 10_000).value} %")
    if isinstance(report.capacity_bps, Estimate):
        parts.append(report.link)
    parts.append(cost(outcome))
    return "; ".join(parts)


def _heading_of_results(outcome: Outcome) -> str:
    lines = ["Results as they became known, with their bounds"]
    for name, estimated in (
        ("capacity", outcome.report.capacity_bps),
        ("available", outcome.report.available_bps),
    ):
        if isinstance(estimated, Inconclusive):
            lines.append(f"{name} not known: {reason_of(estimated)}")
    return "\n".join(lines)


def _in_key(name: str, estimated: Estimated) -> str:
    if isinstance(estimated, Inconclusive):
        return canvas.in_legend(f"{name}: not known at the end")
    text = shown(estimated, round(MBPS))
    sure = f"{100 * estimated.confidence:.0f} %, {estimated.method}"
    return canvas.in_legend(f"{name} {text.value} Mbit/s\n{text.low} to {text.high}\n{sure}")


# -- delays ---------------------------------------------------------------------------


def _paint_delays(axes: Any, drawn: Series, unit_s: float) -> None:  # noqa: ANN401 - matplotlib has no types
    kinds = (
        (drawn.there, Style(BLUE), 6, "to the sink"),
        (
            drawn.behind,
            Style(BLACK, marker="s", hatch="..", line=":", is_hollow=True),
            11,
            "to the sink, behind a train of this measurement",
        ),
        (drawn.back, Style(VERMILION, marker="x", line="--", hatch="\\\\"), 8, "from the sink"),
    )
    values = sorted([value for dots, *_ in kinds for value in dots.values])
    heading = "Small probes: what each waited beyond the fastest"
    canvas.dress(axes, heading, "one-way delay, ms")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    floor_ms, top_ms = _limits_of_delays(values)
    axes.set_ylim(floor_ms, top_ms)
    if not values:
        canvas.leave_empty(axes, "no probe came back")
    for order, (dots, style, size, name) in enumerate(kinds):
        most = columns(dots, drawn.span_s)
        if most is not None:
            _paint_columns(axes, most, floor_ms, unit_s, style, name)
        elif dots.values:
            found = axes.scatter(
                [time_s / unit_s for time_s in dots.times_s],
                [max(floor_ms, value) for value in dots.values],
                zorder=4 - order,
                label=canvas.in_legend(name),
                **style.dots(size, 0.6),
            )
            found.set_rasterized(True)  # In an .svg too: there are thousands.
    lost = [time_s / unit_s for time_s in drawn.lost_s]
    canvas.mark(axes, lost, NEAR_TOP, "v", f"lost ({len(lost):,} of {drawn.probe_count:,})")


def _limits_of_delays(ordered: Sequence[float]) -> tuple[float, float]:
    """Between which delays the axis is, ms; what is below lies on its lower end."""
    if not ordered or not ordered[-1]:
        return LEAST_MS, 10.0
    low_ms = ordered[len(ordered) // 20]
    floor_ms = 10.0 ** math.floor(math.log10(low_ms)) if low_ms > LEAST_MS else LEAST_MS
    # Room for a row of marks above the highest.
    return floor_ms, max(10 * floor_ms, 2.0 * ordered[-1])


def _paint_columns(
    axes: Any,  # noqa: ANN401 - matplotlib has no types
    most: Columns,
    floor_ms: float,
    unit_s: float,
    style: Style,
    name: str,
) -> None:
    """Of very many dots: where nine in ten are, as an area, and their median as a line."""
    times = [time_s / unit_s for time_s in most.times_s]
    low, middle, high = (
        [max(floor_ms, value) for value in values] for values in (most.low, most.middle, most.high)
    )
    axes.fill_between(times, low, high, **style.area())
    axes.plot(
        times,
        middle,
        color=style.colour,
        linestyle=style.line,
        linewidth=1.5,
        label=canvas.in_legend(f"{name}: median, and nine in ten"),
    )


# -- rates ----------------------------------------------------------------------------


def _paint_rates(axes: Any, drawn: Series, unit_s: float) -> None:  # noqa: ANN401 - matplotlib has no types
    rates, capacity = drawn.rates, drawn.report.capacity_bps
    kinds = (
        (rates.trains, Style(BLUE), 34, "train, sent at once"),
        (rates.heads, Style(BLACK, marker="^"), 34, "burst at the head of a train"),
        (rates.pairs, Style(GREY, marker="D", is_hollow=True), 24, "pair, sent at once"),
        (
            rates.paced,
            Style(VERMILION, marker="s", is_hollow=True),
            24,
            "train, spaced as the capacity is",
        ),
    )
    values = [value for dots, *_ in kinds for value in dots.values]
    heading = "Packets sent together: the rate at which they arrived"
    canvas.dress(axes, heading, "Mbit/s")
    low, top = _limits_of_rates(values, drawn.report)
    if low:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda *_: "")
    axes.set_ylim(low, top)
    if not values:
        canvas.leave_empty(axes, "no train told a rate")
    beyond: list[float] = []
    for dots, style, size, name in kinds:
        inside = Dots()
        for time_s, value in zip(dots.times_s, dots.values, strict=True):
            if value <= top:
                inside.add(time_s / unit_s, value)
            else:
                beyond.append(time_s / unit_s)
        if dots.values:
            axes.scatter(
                inside.times_s,
                inside.values,
                zorder=3,
                label=canvas.in_legend(name),
                **style.dots(size),
            )
    if isinstance(capacity, Estimate):
        axes.axhspan(capacity.low / MBPS, capacity.high / MBPS, **CAPACITY.area())
        axes.axhline(
            capacity.value / MBPS,
            color=CAPACITY.colour,
            linewidth=1.2,
            label=canvas.in_legend("capacity, with its bounds"),
        )
    canvas.mark(axes, beyond, NEAR_TOP, "^", f"faster than this axis ({len(beyond):,})")
    for times_s, marker, name in (
        (rates.clumped_s, "|", "arrived all at once, which tells no rate"),
        (rates.lost_s, "v", f"lost ({len(rates.lost_s):,})"),
    ):
        canvas.mark(axes, [time_s / unit_s for time_s in times_s], NEAR_BOTTOM, marker, name)


def _limits_of_rates(values: Sequence[float], report: PathReport) -> tuple[float, float]:
    """Between which rates the axis is, Mbit/s; from 0 if it is linear."""
    if not values:
        return 0.0, 1.0
    ordered = sorted(values)
    most = ordered[len(ordered) * 19 // 20]
    if isinstance(report.capacity_bps, Estimate):
        # A pair may have any rate by accident.
        fair_bps = max(report.capacity_bps.value, report.boost_bps)
        most = max(report.capacity_bps.high / MBPS, min(ordered[-1], FAR * fair_bps / MBPS))
    least = ordered[len(ordered) // 20]
    is_far = report.boost_bps > 0 and most > MOST_LINEAR * least > 0
    return (least / 2, 2 * most) if is_far else (0.0, ROOM * most)


# -- results --------------------------------------------------------------------------


def _paint_results(axes: Any, drawn: Series, outcome: Outcome, unit_s: float) -> None:  # noqa: ANN401 - matplotlib has no types
    canvas.dress(axes, _heading_of_results(outcome), "Mbit/s")
    report = drawn.report
    courses = (
        (CAPACITY, "capacity", report.capacity_bps, [one.capacity for one in drawn.beliefs]),
        (AVAILABLE, "available", report.available_bps, [one.available for one in drawn.beliefs]),
    )
    values = sorted(one.value / MBPS for *_, course in courses for one in course if one is not None)
    # Early results may be far off: those that are further than all others end at the axis.
    most = values[len(values) * 9 // 10 :][:1]
    most += [last.high / MBPS for _, _, last, _ in courses if isinstance(last, Estimate)]
    axes.set_ylim(0, ROOM * max(most, default=1.0))
    if not values:
        canvas.leave_empty(axes, "nothing is known")
    times = [one.known_s / unit_s for one in drawn.beliefs]
    end = drawn.span_s / unit_s
    for style, name, last, course in courses:
        if any(course):
            _paint_course(axes, times, end, course, style, _in_key(name, last))


def _paint_course(
    axes: Any,  # noqa: ANN401 - matplotlib has no types
    times: Sequence[float],
    end: float,
    course: Sequence[Estimate | None],
    style: Style,
    name: str,
) -> None:
    """A number and its bounds, each for as long as nothing newer was known."""
    value, low, high = (
        [math.nan if one is None else getattr(one, field) / MBPS for one in course]
        for field in ("value", "low", "high")
    )
    across, lows = canvas.steps(times, low, end)
    axes.fill_between(across, lows, canvas.steps(times, high, end)[1], **style.area())
    axes.plot(
        across,
        canvas.steps(times, value, end)[1],
        color=style.colour,
        linestyle=style.line,
        linewidth=1.8,
        marker=style.marker if len(times) <= MOST_MARKED else None,
        markersize=4,
        # Where each began to hold.
        markevery=2,
        label=name,
    )
    last = course[-1]
    if last is not None:
        axes.errorbar(
            end,
            value[-1],
            yerr=[[max(0.0, value[-1] - low[-1])], [max(0.0, high[-1] - value[-1])]],
            color=style.colour,
            marker=style.marker,
            markersize=7,
            capsize=5,
            linewidth=1.8,
        )

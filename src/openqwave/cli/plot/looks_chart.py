"""The picture of `qwave paths HOST --plot`: what the service believed of a path, over time.

Above, rates: what the path carries, what of it is free and surely free, what contracts hold, and
what flows under contract send. Below, the round-trip time. Shaded in both is when the path was
congested, or not measured.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from openqwave.cli.overview.words import clean, duration, figure, rate
from openqwave.cli.plot import canvas
from openqwave.cli.plot.canvas import BLACK, BLUE, GREEN, GREY, VERMILION, Style
from openqwave.cli.plot.looks import GONE, NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from openqwave.cli.plot.looks import Look, Looks
    from openqwave.ipc.messages import PathRow

HEIGHT_IN = 7.5
# The axes go this far beyond what is on them.
ROOM = 1.15
# Reasons that are said in the picture; those that held the longest.
MOST_REASONS = 3
NEAR_BOTTOM = 0.03

CAPACITY = Style(BLUE)
FREE = Style(VERMILION, line="--", hatch="\\\\")
HELD = Style(GREEN, line="-.")
SENT = Style(BLACK, line=":")
ROUND_TRIP = Style(BLUE)

# States that are shaded, in which hatch, and what they are called in the legend.
SHADES = (
    ("congested", Style(VERMILION, hatch="xx"), "congested"),
    ("unmeasured", Style(GREY, hatch=".."), "not measured"),
    ("remembered", Style(GREY, hatch="--"), "numbers of earlier experiments"),
    ("measuring", Style(GREY, hatch="||"), "no number yet"),
    (GONE, Style(BLACK, hatch="++"), "not known to the service"),
)


def draw(looks: Looks, host: str, began: str, path: Path) -> None:
    """Write the picture.

    Args:
        looks: What was seen; at least once something.
        host: Whom was asked for, by name or address.
        began: When the first look was, in words.
        path: The file.

    Raises:
        OSError: The file cannot be written.
        ValueError: Nothing was ever seen.
    """
    row = looks.last
    if row is None:
        raise ValueError("nothing was seen")
    title = _title(looks.host, host, row)

    def paint(figure_: Any) -> None:  # noqa: ANN401 - matplotlib has no types
        canvas.entitle(figure_, title, _verdict(row))
        rates, trips = figure_.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        unit, unit_s = canvas.time_unit(looks.span_s)
        _paint_rates(rates, looks, row, unit_s)
        _paint_trips(trips, looks, row, unit_s)
        for axes in (rates, trips):
            _shade(axes, looks, unit_s, is_named=axes is trips)
            canvas.span(axes, looks.span_s / unit_s)
            canvas.explain(axes)
        trips.set_xlabel(f"time since {began}, {unit}", fontsize=canvas.LABEL)

    canvas.draw(path, (canvas.WIDTH_IN, HEIGHT_IN), title, paint)


# -- words ----------------------------------------------------------------------------


def _title(address: str, host: str, row: PathRow) -> str:
    to = clean(address) if host == address else f"{clean(host)} ({clean(address)})"
    if not row.interface:
        return f"Path to {to}"
    way = "on the link" if row.on_link else f"by {clean(row.gateway or '?')}"
    return f"Path to {to}: {f'{clean(row.link_type)} {clean(row.interface)}'.strip()}, {way}"


def _verdict(row: PathRow) -> str:
    if row.capacity_bps is None:
        return "at the end: capacity not known"
    return (
        f"at the end: {rate(row.available_bps)} of {rate(row.capacity_bps)} Mbit/s free, "
        f"{rate(row.held_bps)} held by contracts"
    )


def _heading(looks: Looks) -> str:
    lines = ["What the service believed of it"]
    longest = sorted(looks.reasons.items(), key=lambda item: -item[1])
    for (state, reason), lasted_s in longest[:MOST_REASONS]:
        lines.append(f"{state} for {_length(lasted_s)} of {_length(looks.span_s)}: {reason}")
    if len(longest) > MOST_REASONS:
        lines.append(f"and for {len(longest) - MOST_REASONS:,} other reasons")
    return "\n".join(lines)


def _length(seconds: float) -> str:
    return duration(round(seconds * NS_PER_S))


# -- panels ---------------------------------------------------------------------------


def _paint_rates(axes: Any, looks: Looks, row: PathRow, unit_s: float) -> None:  # noqa: ANN401 - matplotlib has no types
    canvas.dress(axes, _heading(looks), "Mbit/s")
    points = looks.points()
    low = "" if row.available_low_bps is None else f"\nat least {rate(row.available_low_bps)}"
    sure = f", {100 * row.confidence:.0f} % sure" if low else ""
    lines: Sequence[tuple[Style, str, Callable[[Look], float]]] = (
        (CAPACITY, f"capacity {rate(row.capacity_bps)}", lambda look: look.capacity),
        (FREE, f"free {rate(row.available_bps)}{low}{sure}", lambda look: look.available),
        (HELD, f"held by contracts {rate(row.held_bps)}", lambda look: look.held),
        (SENT, f"sent under contract {rate(row.own_bps)}", lambda look: look.own),
    )
    times = [look.time_s / unit_s for look in points]
    most = 0.0
    for style, name, of in lines:
        values = [of(look) for look in points]
        known = [value for value in values if not math.isnan(value)]
        if not known:
            continue
        most = max(most, *known)
        _paint_line(axes, times, values, style, name)
    across, lows = canvas.steps(times, [look.low for look in points], times[-1])
    _, free = canvas.steps(times, [look.available for look in points], times[-1])
    axes.fill_between(across, lows, free, **FREE.area())
    axes.set_ylim(0, ROOM * most or 1.0)
    new = [look.time_s / unit_s for look in points if look.is_new]
    canvas.mark(axes, new, NEAR_BOTTOM, "|", "measured anew")


def _paint_trips(axes: Any, looks: Looks, row: PathRow, unit_s: float) -> None:  # noqa: ANN401 - matplotlib has no types
    canvas.dress(axes, "Round-trip time", "ms")
    points = looks.points()
    values = [look.rtt_ms for look in points]
    known = [value for value in values if not math.isnan(value)]
    if not known:
        axes.set_ylim(0, 1)
        canvas.leave_empty(axes, "not known")
        return
    last = "?" if row.rtt_ns is None else figure(row.rtt_ns / 1e6)
    times = [look.time_s / unit_s for look in points]
    _paint_line(axes, times, values, ROUND_TRIP, f"round trip {last} ms")
    axes.set_ylim(0, ROOM * max(known) or 1.0)


def _paint_line(
    axes: Any,  # noqa: ANN401 - matplotlib has no types
    times: Sequence[float],
    values: Sequence[float],
    style: Style,
    name: str,
) -> None:
    """A number over time, each for as long as nobody knew another; a dot where it is one look."""
    axes.plot(
        *canvas.steps(times, values, times[-1]),
        color=style.colour,
        linestyle=style.line,
        linewidth=1.8,
        label=canvas.in_legend(name),
    )
    if len(times) == 1:
        axes.plot(times, values, color=style.colour, marker=style.marker)


def _shade(axes: Any, looks: Looks, unit_s: float, *, is_named: bool) -> None:  # noqa: ANN401 - matplotlib has no types
    for state, style, name in SHADES:
        label: str | None = canvas.in_legend(f"{name} ({_length(looks.lasted_s(state))})")
        for from_s, until_s in looks.spans(state):
            axes.axvspan(
                from_s / unit_s,
                until_s / unit_s,
                zorder=0.5,
                label=label if is_named else None,
                **style.area(),
            )
            label = None

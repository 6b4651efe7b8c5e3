"""The demo as a picture: what arrived, and how late, before and after QOSSetFlow.

Two panels over one axis of time. The streams differ in line style as well as in colour, for a
printer without colours. The delay is on a logarithmic axis: it changes by two powers of ten.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openqwave.cli.demo.stage import BULK, BULK_BPS, LINK_BPS, STREAM, STREAM_BPS, Records
from openqwave.cli.plot import canvas
from openqwave.cli.plot.canvas import BLUE, GREY, VERMILION

if TYPE_CHECKING:
    from openqwave.cli.demo.figures import Figures, Half
    from openqwave.cli.demo.wire import Span

# Some 80 packets of the stream a point; short enough to show the change as a step.
BIN_S = 0.1
# Below, a packet met an empty link, and the axis is better used for the rest.
LEAST_DELAY_MS = 0.02
SIZE_IN = 10.0, 7.0


def draw(records: Records, figures: Figures, path: Path) -> None:
    """Write the chart.

    Raises:
        OSError: The file cannot be written.
    """
    title = (
        f"A {STREAM_BPS // 10**6} Mbit/s video stream beside {BULK_BPS // 10**6} Mbit/s of bulk "
        f"traffic on a {LINK_BPS // 10**6} Mbit/s link"
    )
    canvas.draw(path, SIZE_IN, title, lambda figure: _paint(figure, title, records, figures))


def _paint(figure: Any, title: str, records: Records, figures: Figures) -> None:  # noqa: ANN401 - matplotlib has no types
    figure.suptitle(title, fontsize=14, fontweight="bold")
    rate, delay = figure.subplots(2, 1, sharex=True)
    half_s = records.half_s
    changed_s = (records.flow["time_ns"] - records.started_ns) / 1e9
    _draw_rates(rate, records)
    _draw_delays(delay, records)
    for axes in (rate, delay):
        axes.set_xlim(0, 2 * half_s)
        axes.axvline(changed_s, color=GREY, linewidth=1.5, linestyle=(0, (4, 3)))
        axes.grid(visible=True, color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=11)
    for middle_s, name, half in (
        (0.5 * half_s, "without a flow", figures.before),
        (1.5 * half_s, "in a flow", figures.after),
    ):
        _write_above(rate, middle_s, f"{name}\n{_in_words(half)}", "normal")
    _write_above(rate, changed_s, "QOSSetFlow", "bold")
    delay.set_xlabel("time, s", fontsize=12)


def _in_words(half: Half) -> str:
    lost = f"{100 * half.lost_share:.3g} % lost" if half.lost else "nothing lost"
    return lost if half.p99_ns is None else f"{lost}, 99 % within {half.p99_ns / 1e6:.3g} ms"


def _write_above(axes: Any, time_s: float, words: str, weight: str) -> None:  # noqa: ANN401 - matplotlib has no types
    """Write on the line above a panel, centred at a time."""
    axes.annotate(
        words,
        (time_s, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
        fontsize=11,
        fontweight=weight,
        color=GREY,
    )


def _spans(records: Records, stream: int) -> tuple[list[float], list[Span]]:
    """Return the middles of the bins, in seconds, and what arrived in each."""
    count = math.floor(2 * records.half_s / BIN_S)
    width_ns = round(BIN_S * 1e9)
    track = records.wire.tracks[stream]
    starts_ns = [records.started_ns + number * width_ns for number in range(count)]
    return (
        [(number + 0.5) * BIN_S for number in range(count)],
        [track.span(start_ns, start_ns + width_ns) for start_ns in starts_ns],
    )


def _draw_rates(axes: Any, records: Records) -> None:  # noqa: ANN401 - matplotlib has no types
    for stream, colour, style, name in (
        (BULK, VERMILION, "--", "bulk"),
        (STREAM, BLUE, "-", "video stream"),
    ):
        times_s, spans = _spans(records, stream)
        rates = [span.rate_bps / 1e6 for span in spans]
        axes.plot(times_s, rates, color=colour, linestyle=style, linewidth=2, label=name)
    axes.axhline(
        STREAM_BPS / 1e6, color=BLUE, linewidth=1, linestyle=":", label="video stream, sent"
    )
    # Room for the legend above what the link can carry.
    axes.set_ylim(0, 1.2 * LINK_BPS / 1e6)
    axes.set_ylabel("delivered rate, Mbit/s", fontsize=12)
    axes.legend(loc="upper right", ncols=3, fontsize=11, framealpha=1)


def _draw_delays(axes: Any, records: Records) -> None:  # noqa: ANN401 - matplotlib has no types
    track = records.wire.tracks[STREAM]
    times_s = [(arrived_ns - records.started_ns) / 1e9 for arrived_ns in track.arrived_ns]
    delays_ms = [delay_ns / 1e6 for delay_ns in track.delay_ns]
    dots = axes.scatter(times_s, delays_ms, s=4, color=BLUE, alpha=0.15, linewidths=0)
    dots.set_rasterized(True)  # In an .svg too: there are thousands.
    times_s, spans = _spans(records, STREAM)
    medians = [math.nan if span.median_ns is None else span.median_ns / 1e6 for span in spans]
    (line,) = axes.plot(times_s, medians, color=BLUE, linewidth=2)
    axes.set_yscale("log")
    axes.set_ylim(bottom=LEAST_DELAY_MS)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylabel("one-way delay, ms", fontsize=12)
    key = axes.legend(
        [line, dots],
        ["video stream, median of 0.1 s", "each packet"],
        loc="upper right",
        fontsize=11,
        framealpha=1,
        markerscale=3,
    )
    key.legend_handles[1].set_alpha(0.5)

"""The story as a picture: calls, rates and delays over one axis of time.

Above, each call with its answer, and others' coming and going; a line leads from each down through
the panels. Then what arrived of the streams and was carried of others, and what is free of the
link: as it is by the link's books, and as it is believed. Below, how long each packet of the
streams was on the link. Grey is the time that the library takes the path for congested.

Colours are Okabe and Ito's, which colour-blind people tell apart, and lines differ in style as
well, for a printer without colours.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from openqwave.cli.demo.adaptive.report import answer, turns
from openqwave.cli.demo.adaptive.script import LINK_BPS, MBPS, NAMES, A, B
from openqwave.cli.plot import canvas
from openqwave.cli.plot.canvas import BLUE, GREEN, GREY, VERMILION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from openqwave.cli.demo.adaptive.figures import Figures
    from openqwave.cli.demo.adaptive.recording import Belief
    from openqwave.cli.demo.adaptive.stage import Records

PURPLE = "#CC79A7"
COLOURS = {A: BLUE, B: GREEN}
SIZE_IN = 11.0, 9.0
TITLE = f"Two streams of 12 Mbit/s that adapt to a link of {LINK_BPS // MBPS} Mbit/s"
# Some 100 packets of the first stream a point.
BIN_S = 0.1
# What is free is smoothed over ten pages of the books: a tenth of a second is random, a second is
# what estimates look back on.
PAGES = 10
# Labels stand in so many rows, and no two in a row are nearer than a letter's share of the axis
# times their length.
ROWS = 6
LETTER_SHARE = 0.0083
SHORT_NAMES = {
    "add_socket": "add",
    "set_rate": "rate",
    "fundamentals": "available?",
    "wait_congested": "congested",
    "wait_uncongested": "uncongested",
    "wait_available": "available",
    "close": "end",
}


def draw(records: Records, figures: Figures, path: Path) -> None:
    """Write the chart.

    Raises:
        OSError: The file cannot be written.
    """
    canvas.draw(path, SIZE_IN, TITLE, lambda figure: _paint(figure, records, figures))


def _paint(figure: Any, records: Records, figures: Figures) -> None:  # noqa: ANN401 - matplotlib has no types
    figure.suptitle(TITLE, fontsize=14, fontweight="bold")
    labels, rates, delays = figure.subplots(3, 1, sharex=True, height_ratios=(2, 5, 3))
    end_s = max(1.0, records.story_s(records.ended_ns))
    _draw_rates(rates, records)
    _draw_delays(delays, records)
    _draw_labels(labels, _events(records, figures), end_s)
    for axes in (rates, delays):
        for time_s, _, colour in _events(records, figures):
            axes.axvline(time_s, color=colour, linewidth=0.9, alpha=0.5)
        for from_s, until_s in _congested(records, end_s):
            axes.axvspan(from_s, until_s, color=GREY, alpha=0.15, linewidth=0)
        axes.grid(visible=True, color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=11)
    delays.set_xlim(0, end_s)
    delays.set_xlabel("time, s", fontsize=12)


def _events(records: Records, figures: Figures) -> list[tuple[float, str, str]]:
    """When, in words, and in which colour; in order of time."""
    known = [
        (
            records.story_s(call.ended_ns),
            f"{NAMES[call.stream]} {SHORT_NAMES[call.call]}"
            + ("" if call.rate_bps is None else f" {call.rate_bps / 1e6:g}")
            + f": {answer(call)}",
            COLOURS[call.stream],
        )
        for _, call in turns(figures.turns)
    ]
    for time_ns, words in ((figures.came_ns, "others come"), (figures.went_ns, "others are gone")):
        if time_ns is not None:
            known.append((records.story_s(time_ns), words, VERMILION))
    return sorted(known)


def _draw_labels(axes: Any, events: list[tuple[float, str, str]], end_s: float) -> None:  # noqa: ANN401 - matplotlib has no types
    """Write each event above its moment, in the highest row where there is room."""
    # Where each row is free from.
    free_s = [0.0] * ROWS
    for time_s, words, colour in events:
        width_s = (len(words) + 2) * LETTER_SHARE * end_s
        # Near the end they stand to the left of their line.
        is_left = time_s + width_s > end_s
        from_s = time_s - width_s if is_left else time_s
        row = next(
            (number for number in range(ROWS) if free_s[number] <= from_s),
            min(range(ROWS), key=free_s.__getitem__),
        )
        free_s[row] = from_s + width_s
        height = ROWS - row - 0.5
        axes.plot([time_s, time_s], [0, height + 0.35], color=colour, linewidth=0.9, alpha=0.6)
        axes.annotate(
            words,
            (time_s, height),
            xytext=(-4 if is_left else 4, 0),
            textcoords="offset points",
            ha="right" if is_left else "left",
            va="center",
            fontsize=9.5,
            color=colour,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )
    axes.set_ylim(0, ROWS)
    axes.axis("off")


def _congested(records: Records, end_s: float) -> Iterator[tuple[float, float]]:
    """From when until when the path was taken for congested."""
    since_s: float | None = None
    for belief in records.beliefs:
        at_s = records.story_s(belief.at_ns)
        if belief.is_congested and since_s is None:
            since_s = at_s
        elif not belief.is_congested and since_s is not None:
            yield since_s, at_s
            since_s = None
    if since_s is not None:
        yield since_s, end_s


def _bins(records: Records, stream: int) -> tuple[list[float], list[float], list[float]]:
    """The middles of the bins in seconds, and rates and median delays in each."""
    track = records.crossing.tracks[stream]
    started_ns = records.started_ns + records.ahead_ns
    width_ns = round(BIN_S * 1e9)
    times_s, rates, delays = [], [], []
    for number in range(int(records.story_s(records.ended_ns) / BIN_S)):
        from_ns = started_ns + number * width_ns
        passed = track.span(from_ns, from_ns + width_ns)
        times_s.append((number + 0.5) * BIN_S)
        rates.append(passed.rate_bps / MBPS)
        delays.append(passed.delays_ns["p50"] / 1e6 if passed.delays_ns else float("nan"))
    return times_s, rates, delays


def _draw_rates(axes: Any, records: Records) -> None:  # noqa: ANN401 - matplotlib has no types
    axes.axhline(LINK_BPS / MBPS, color=GREY, linewidth=1)
    for stream, name in NAMES.items():
        times_s, rates, _ = _bins(records, stream)
        axes.plot(times_s, rates, color=COLOURS[stream], linewidth=2, label=f"stream {name}")
    middles_s = [records.story_s((page.since_ns + page.until_ns) // 2) for page in records.pages]
    axes.plot(
        middles_s,
        [page.others_bps / MBPS for page in records.pages],
        color=VERMILION,
        linestyle="--",
        linewidth=1.5,
        label="others",
    )
    axes.plot(
        middles_s,
        [free_bps / MBPS for free_bps in _free(records)],
        color=GREY,
        linestyle="-",
        linewidth=1.2,
        label="free, by the link's books",
    )
    known = [(belief, belief.available_bps) for belief in records.beliefs if belief.available_bps]
    axes.step(
        [records.story_s(belief.at_ns) for belief, _ in known],
        [available_bps / MBPS for _, available_bps in known],
        where="post",
        color=PURPLE,
        linestyle=":",
        linewidth=2.2,
        label="free, as believed",
    )
    _draw_measured(axes, records, [belief for belief, _ in known])
    axes.set_ylim(0, 1.25 * LINK_BPS / MBPS)
    axes.set_ylabel("Mbit/s", fontsize=12)
    axes.legend(loc="upper right", ncols=5, fontsize=9.5, framealpha=1)


def _draw_measured(axes: Any, records: Records, known: list[Belief]) -> None:  # noqa: ANN401 - matplotlib has no types
    """Mark where a belief is new."""
    new = [
        now
        for before, now in pairwise(known)
        if (before.available_bps, before.available_low_bps)
        != (now.available_bps, now.available_low_bps)
    ]
    axes.plot(
        [records.story_s(belief.at_ns) for belief in new],
        [(belief.available_bps or 0) / MBPS for belief in new],
        color=PURPLE,
        marker="o",
        markersize=4,
        linestyle="none",
    )


def _free(records: Records) -> Iterator[int]:
    """What was free of the link about each page of its books."""
    pages = records.pages
    for number in range(len(pages)):
        near = pages[max(0, number - PAGES + 1) : number + 1]
        length_ns = sum(page.until_ns - page.since_ns for page in near)
        carried = sum(
            (page.own_bps + page.others_bps) * (page.until_ns - page.since_ns) for page in near
        )
        yield LINK_BPS - carried // max(1, length_ns)


def _draw_delays(axes: Any, records: Records) -> None:  # noqa: ANN401 - matplotlib has no types
    for stream, name in NAMES.items():
        track = records.crossing.tracks[stream]
        times_s = [records.story_s(at_ns - records.ahead_ns) for at_ns in track.arrived_ns]
        dots = axes.scatter(
            times_s,
            [delay_ns / 1e6 for delay_ns in track.delay_ns],
            s=3,
            color=COLOURS[stream],
            alpha=0.15,
            linewidths=0,
        )
        dots.set_rasterized(True)  # In an .svg too: there are thousands.
        times_s, _, medians = _bins(records, stream)
        axes.plot(
            times_s,
            medians,
            color=COLOURS[stream],
            linewidth=1.6,
            label=f"stream {name}, median of {BIN_S:g} s",
        )
    axes.set_ylim(bottom=0)
    axes.set_ylabel("one-way delay, ms", fontsize=12)
    axes.legend(loc="upper right", fontsize=9.5, framealpha=1)

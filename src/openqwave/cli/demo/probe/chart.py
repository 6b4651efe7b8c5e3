"""What was measured as a picture: a column for each link, and three rows.

Delays: of each small probe the time that it waited on its way there, clocks taken out; those that
waited behind a train of the measurement itself are among them. The axis is logarithmic, because a
probe that finds the link idle waits for microseconds, and one that does not for as long as a
packet takes. Dispersion: the arrivals of the longest trains that were sent back to back, beside
the line that the link's true rate draws. Below, each number with its bounds, and the truth.

Truth is a dashed line and a diamond as well as another colour, for a printer without colours.
"""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openqwave.cli.demo.probe.figures import Judged
from openqwave.cli.demo.probe.stage import sent_ns
from openqwave.cli.plot import canvas
from openqwave.cli.plot.canvas import BLUE, GREY, VERMILION
from openqwave.cli.probe.rendering import shown
from openqwave.estimate.clocks import align
from openqwave.estimate.samples import Gap, Train
from openqwave.lab.links import FULL_PACKET_BYTES
from openqwave.model.estimates import Estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openqwave.cli.demo.probe.figures import Figures, Result
    from openqwave.cli.demo.probe.stage import Record

MBPS, MS, NS_PER_S = 1_000_000, 1_000_000, 1_000_000_000

SIZE_IN = 10.0, 8.0
TITLE = "Three links: what small probes waited, how trains arrived, the results and the truth"
# The longest; more lines lie over each other.
MOST_TRAINS = 4
# Below, a probe met an idle link, and stamps are no finer.
LEAST_WAIT_MS, MOST_WAIT_MS = 0.001, 100.0
# The part of the axis of rates that lies beyond the capacity.
BEYOND = 0.25
NAMES = {"capacity_bps": "capacity", "available_bps": "available"}


def draw(records: Sequence[Record], figures: Figures, path: Path) -> None:
    """Write the chart.

    Raises:
        OSError: The file cannot be written.
    """
    canvas.draw(path, SIZE_IN, TITLE, lambda figure: _paint(figure, records, figures))


def _paint(figure: Any, records: Sequence[Record], figures: Figures) -> None:  # noqa: ANN401 - matplotlib has no types
    panels = figure.subplots(3, len(records), squeeze=False, height_ratios=(4, 4, 2))
    for column, (record, result) in enumerate(zip(records, figures.results, strict=True)):
        delays, trains, numbers = panels[:, column]
        delays.set_title(_folded(record.case.title), fontsize=12, fontweight="bold")
        _draw_delays(delays, record)
        _draw_trains(trains, record)
        _draw_numbers(numbers, result)
        for axes in (delays, trains, numbers):
            axes.grid(visible=True, color="#dddddd", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=10)
    panels[0, 0].set_ylabel("small probes waited, ms", fontsize=11)
    panels[1, 0].set_ylabel("packets of a train that arrived", fontsize=11)


def _folded(title: str) -> str:
    """Break a title in two, at its comma or about in the middle."""
    first, comma, second = title.partition(", ")
    if comma:
        return f"{first},\n{second}"
    words = title.split()
    return " ".join(words[: len(words) // 2]) + "\n" + " ".join(words[len(words) // 2 :])


def _draw_delays(axes: Any, record: Record) -> None:  # noqa: ANN401 - matplotlib has no types
    waits = align([sample for sample in record.samples if isinstance(sample, Gap)]).waits
    start_ns = min(sent_ns(sample) for sample in record.samples)
    dots = axes.scatter(
        [(wait.sent_ns - start_ns) / NS_PER_S for wait in waits],
        [max(LEAST_WAIT_MS, wait.there_ns / MS) for wait in waits],
        s=5,
        color=BLUE,
        alpha=0.35,
        linewidths=0,
    )
    dots.set_rasterized(True)  # In an .svg too: there are thousands.
    packet_ms = FULL_PACKET_BYTES * 8e3 / record.truth.capacity_bps
    axes.axhline(packet_ms, color=GREY, linewidth=1.5, linestyle=":")
    axes.set_yscale("log")
    axes.set_ylim(LEAST_WAIT_MS, MOST_WAIT_MS)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    # At the top, where the fewest dots are.
    axes.annotate(
        f"dotted: one full packet, {packet_ms:.2g} ms",
        (1, 1),
        xycoords="axes fraction",
        ha="right",
        va="top",
        fontsize=9.5,
        color=GREY,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )
    axes.set_xlim(left=0)
    axes.set_xlabel("time, s", fontsize=11)


def _draw_trains(axes: Any, record: Record) -> None:  # noqa: ANN401 - matplotlib has no types
    arrived = [
        sample
        for sample in record.samples
        if isinstance(sample, Train) and not sample.gap_ns and not sample.is_lost
    ]
    arrived.sort(key=lambda train: -len(train.sent_ns))
    trains = arrived[:MOST_TRAINS]
    for number, train in enumerate(trains):
        times_ms = [0.0, *(time_ns / MS for time_ns in accumulate(train.deltas_ns))]
        axes.step(
            times_ms,
            range(1, len(times_ms) + 1),
            where="post",
            color=BLUE,
            linewidth=1.3,
            alpha=0.6,
            label="trains" if not number else None,
        )
    if trains:
        # Through the end of the longest: what came sooner than it should lies above.
        longest = len(trains[0].sent_ns)
        end_ms = sum(trains[0].deltas_ns) / MS
        packet_ms = trains[0].packet_bytes * 8e3 / record.truth.capacity_bps
        axes.plot(
            [end_ms - (longest - 1) * packet_ms, end_ms],
            [1, longest],
            color=VERMILION,
            linestyle="--",
            linewidth=1.8,
            label=f"{record.truth.capacity_bps / MBPS:g} Mbit/s, the truth",
        )
        axes.legend(loc="lower right", fontsize=9.5, framealpha=1)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("time since the first, ms", fontsize=11)


def _draw_numbers(axes: Any, result: Result) -> None:  # noqa: ANN401 - matplotlib has no types
    most = (1 + BEYOND) * result.truth.capacity_bps / MBPS
    names = []
    for place, judged in enumerate(reversed(result.judged)):
        names.append(NAMES[judged.name])
        _draw_number(axes, place, judged, most)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.5, len(names) - 0.2)
    axes.set_xlim(0, most)
    axes.set_xlabel("Mbit/s (diamond: the truth)", fontsize=11)


def _draw_number(axes: Any, place: int, judged: Judged, most: float) -> None:  # noqa: ANN401 - matplotlib has no types
    truth = judged.truth_bps / MBPS
    answer = judged.answer
    words = "not known"
    if isinstance(answer, Estimate):
        value, low, high = (number / MBPS for number in (answer.value, answer.low, answer.high))
        axes.errorbar(
            value,
            place,
            xerr=[[value - low], [high - value]],
            color=BLUE,
            fmt="o",
            capsize=5,
            linewidth=2,
        )
        text = shown(answer, MBPS)
        words = f"{text.value} ({text.low} to {text.high})"
    axes.plot(truth, place, color=VERMILION, marker="D", fillstyle="none", markersize=9)
    axes.annotate(
        words,
        (min(truth, most / 2), place),
        xytext=(0, 10),
        textcoords="offset points",
        ha="center",
        fontsize=9.5,
        color=GREY,
    )

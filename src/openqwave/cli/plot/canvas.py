"""How pictures look, and the one place that renders them.

Colours are Okabe and Ito's, which colour-blind people tell apart; nothing is said by colour alone,
so that a printer without colours serves: kinds differ in markers, lines in style, areas in hatch.
Text of an SVG is text, which can be searched and read aloud. The same numbers make the same bytes:
an SVG holds no date, and its names inside are not drawn by lot.
"""

from __future__ import annotations

import io
import logging
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from openqwave.cli.plot import target

BLUE, VERMILION, GREEN, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#555555", "#000000"
# Sharp in a page that is 800 pixels wide, when there are two to one of its.
WIDTH_IN, DPI = 10.0, 160
# Sizes of text in points.
TITLE, HEADING, LABEL, SMALL = 13, 11, 10.5, 9.5

# Of text that goes across the picture at `HEADING` and `TITLE`, in characters.
HEADING_CHARACTERS, TITLE_CHARACTERS = 118, 92
# Of a legend's line; the legends stand beside the panels.
LEGEND_CHARACTERS = 26

_SETTINGS: Final[dict[Any, Any]] = {
    # Text of others may hold the sign that formulas begin with.
    "text.parse_math": False,
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "svg.fonttype": "none",
    "svg.hashsalt": "openqwave",
    "hatch.linewidth": 0.5,
}


@dataclass(frozen=True, slots=True)
class Style:
    """How one kind of thing is drawn, so that it is known without its colour.

    Attributes:
        colour: Of all of it.
        marker: Of a single one.
        line: The style of what connects several.
        hatch: Of an area.
        is_hollow: Its markers are not filled.
    """

    colour: str
    marker: str = "o"
    line: Any = "-"
    hatch: str = "//"
    is_hollow: bool = False

    def dots(self, size: float, alpha: float = 0.85) -> dict[str, Any]:
        """For a scatter of markers, of a size in square points."""
        # These have no inside, and are all edge.
        is_line = self.marker in "x+|"
        colours = (
            {"color": self.colour}
            if is_line
            else {
                "edgecolors": self.colour,
                "facecolors": "none" if self.is_hollow else self.colour,
            }
        )
        return {"s": size, "marker": self.marker, "linewidths": 0.9, "alpha": alpha} | colours

    def area(self) -> dict[str, Any]:
        """For an area between two bounds, through which the grid is seen."""
        from matplotlib.colors import to_rgba

        return {
            "facecolor": to_rgba(self.colour, 0.12),
            "edgecolor": to_rgba(self.colour, 0.5),
            "hatch": self.hatch,
            "linewidth": 0.6,
        }


# Units of time, with what they last in seconds and from how many on they are used.
_TIME_UNITS: Final = (("h", 3600.0, 3 * 3600.0), ("min", 60.0, 5 * 60.0), ("s", 1.0, 0.0))


def draw(
    path: Path, size_in: tuple[float, float], title: str, paint: Callable[[Any], None]
) -> None:
    """Paint a picture and put it in a file.

    Args:
        path: The file; its suffix says what it becomes.
        size_in: Its width and height, inches.
        title: What it shows, for programs that read it.
        paint: Called with an empty figure.

    Raises:
        OSError: The file cannot be written.
    """
    # It tells of its font cache where nobody asked.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib import rc_context, rcdefaults, rcParams
    from matplotlib.figure import Figure

    kind = path.suffix.lower().removeprefix(".")
    about = {"Title": title} | ({"Date": None} if kind == "svg" else {})
    buffer = io.BytesIO()
    with rc_context(), warnings.catch_warnings():
        # What somebody prefers for pictures of their own may hide half of this one.
        rcdefaults()
        rcParams.update(_SETTINGS)
        # A name may hold signs that no font here has; a box stands for them then.
        warnings.filterwarnings("ignore", message=r"Glyph \d+")
        figure = Figure(figsize=size_in, dpi=DPI, layout="constrained")
        paint(figure)
        figure.savefig(buffer, format=kind, metadata=about)
    target.write(path, buffer.getvalue())


def entitle(figure: Any, title: str, verdict: str) -> None:  # noqa: ANN401 - matplotlib has no types
    """Write on top what is shown, and what came of it."""
    lines = [*folded(title, TITLE_CHARACTERS), *folded(verdict, TITLE_CHARACTERS)]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=TITLE, fontweight="bold")


def dress(axes: Any, heading: str, unit: str) -> None:  # noqa: ANN401 - matplotlib has no types
    """Give a panel its grid, its heading above it and the unit of its values."""
    axes.grid(visible=True, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=LABEL)
    axes.set_ylabel(unit, fontsize=LABEL)
    lines = [line for part in heading.split("\n") for line in folded(part, HEADING_CHARACTERS)]
    axes.set_title("\n".join(lines), loc="left", fontsize=HEADING, pad=6)


def explain(axes: Any) -> None:  # noqa: ANN401 - matplotlib has no types
    """Put the legend of a panel beside it, where nothing is drawn, if anything has a name."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(1.01, 1.0),
            borderaxespad=0,
            fontsize=SMALL,
            frameon=False,
            handlelength=2.4,
            labelspacing=0.8,
        )


def leave_empty(axes: Any, words: str) -> None:  # noqa: ANN401 - matplotlib has no types
    """Say in a panel why there is nothing in it."""
    axes.set_yticks([])
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", fontsize=HEADING)


def mark(axes: Any, times: Sequence[float], height: float, marker: str, name: str) -> None:  # noqa: ANN401 - matplotlib has no types
    """Mark when something was that has no value.

    Args:
        axes: The panel.
        times: When.
        height: Where the marks stand, as a part of the panel's height.
        marker: What they look like.
        name: For the legend.
    """
    if times:
        axes.plot(
            times,
            [height] * len(times),
            transform=axes.get_xaxis_transform(),
            linestyle="none",
            marker=marker,
            markersize=5,
            color=BLACK,
            label=in_legend(name),
        )


def span(axes: Any, end: float) -> None:  # noqa: ANN401 - matplotlib has no types
    """Let the axis of time go from 0 to an end, with room for what is drawn at both."""
    room = 0.01 * end or 1.0
    axes.set_xlim(-room, end + room)
    if not end:
        axes.set_xticks([0.0])


def steps(
    times: Sequence[float], values: Sequence[float], end: float
) -> tuple[list[float], list[float]]:
    """The corners of a line on which each value holds until the next one.

    Args:
        times: Since when each holds, in order.
        values: What; NaN leaves a gap until the next.
        end: Until when the last one holds.
    """
    across = [time for one, other in pairwise([*times, end]) for time in (one, other)]
    return across, [value for value in values for _ in range(2)]


def time_unit(span_s: float) -> tuple[str, float]:
    """The unit that suits a length of time: its name, and what it lasts in seconds."""
    return next((name, size_s) for name, size_s, from_s in _TIME_UNITS if span_s >= from_s)


def folded(text: str, width: int) -> list[str]:
    """A text in lines of a width; what is longer than a line is broken."""
    return textwrap.wrap(text, width) or [""]


def in_legend(text: str) -> str:
    """A text as it fits into a legend; its own line ends are kept."""
    return "\n".join(line for part in text.split("\n") for line in folded(part, LEGEND_CHARACTERS))

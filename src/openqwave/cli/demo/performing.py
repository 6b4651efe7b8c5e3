"""What all demos do alike: choose a view, redraw a picture, say and draw what was found."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVarTuple

from rich.live import Live

from openqwave.cli.views import SilentView, View

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from rich.console import Console, RenderableType

Seen = TypeVarTuple("Seen")


class Picture:
    """A picture that is redrawn in place, once a moment and from no thread of its own."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def redraw(self, picture: RenderableType) -> None:
        """Replace the picture."""
        self._live.update(picture, refresh=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)


class Asked(Protocol):
    """The options that all demos have."""

    @property
    def as_json(self) -> bool:
        """One JSON object on standard output, and nothing else there."""

    @property
    def live(self) -> bool:
        """A live view where output is a terminal."""


def view_for(
    asked: Asked,
    console: Console,
    lines: Callable[[Console], View[*Seen]],
    pictures: Callable[[Console], View[*Seen]],
) -> View[*Seen]:
    """Choose how to show a performance: nothing, lines, or pictures on a terminal that can."""
    if asked.as_json and not console.is_terminal:
        return SilentView()
    if asked.live and console.is_terminal and not console.is_dumb_terminal:
        return pictures(console)
    return lines(console)


def tell(message: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(message + "\n")


def say(
    asked: Asked,
    console: Console,
    figures: dict[str, Any],
    print_report: Callable[[], None],
    draw: Callable[[Path], None],
    target: Path | None,
) -> None:
    """Print what was found, as a report or as JSON, and draw it.

    Args:
        asked: How it is wanted.
        console: Where a report goes.
        figures: What JSON is made of; "chart" is added.
        print_report: Prints the report.
        draw: Draws the chart; may raise OSError, which is told.
        target: Where to draw; None for nowhere.
    """
    if asked.as_json:
        drawn = _drawn(draw, target)
        whole = figures | {"chart": None if drawn is None else str(drawn)}
        sys.stdout.write(json.dumps(whole, indent=2) + "\n")
        sys.stdout.flush()
        return
    print_report()
    drawn = _drawn(draw, target)
    if drawn is not None:
        console.print(f"\nChart: {drawn}", soft_wrap=True)


def _drawn(draw: Callable[[Path], None], target: Path | None) -> Path | None:
    """Draw the chart; return where, or None if there is none."""
    if target is None:
        return None
    try:
        draw(target)
    except OSError as error:
        tell(f"{target}: the chart could not be written: {error.strerror}")
        return None
    return target

"""A part of the screen that consists of lines, each of pieces with a style.

Colours are the terminal's own sixteen, or none.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from openqwave.cli.overview.showing import encodable

if TYPE_CHECKING:
    from collections.abc import Callable

    from openqwave.cli.overview.pages import Line


class Lines(Widget):
    """Lines that are drawn for the size there is.

    Args:
        draw: Draws them for a width and a height.
        name: The widget's id.
    """

    def __init__(self, draw: Callable[[tuple[int, int]], list[Line]], name: str) -> None:
        super().__init__(id=name)
        self._draw = draw
        self._drawn: list[Line] = []
        self._drawn_for: tuple[int, int] | None = None
        # That is what the library draws on.
        self._encoding = getattr(sys.__stderr__, "encoding", None) or "ascii"

    def redraw(self) -> None:
        """Draw anew before it is shown next."""
        self._drawn_for = None
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """One line of it, for the library."""
        size = (self.size.width, self.size.height)
        if self._drawn_for != size:
            self._drawn, self._drawn_for = self._draw(size), size
        plain = self.rich_style
        pieces = self._drawn[y] if y < len(self._drawn) else []
        segments = [
            Segment(encodable(text, self._encoding), plain + Style.parse(style) if style else plain)
            for text, style in pieces
            if text
        ]
        return Strip(segments).crop_extend(0, size[0], plain)

"""Tables for terminals of any width: what is cut, what is left out, and what goes below.

Each row is one line of columns, and lines below it for what has no column. Columns are as wide as
what is in them. Where that is too wide, columns of text are cut, the widest first, down to what
still tells things apart; then columns are left out, by their rank. Lines below are folded. Where
nobody says how wide it may be, as in a file, nothing is cut, left out or folded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from openqwave.cli.overview.words import cells, cut

# Between columns, and before lines below a row.
_GAP = "  "
_INDENT = "    "

# What is written, and in which style of the terminal library; empty for none.
Piece: TypeAlias = tuple[str, str]
Line: TypeAlias = list[Piece]


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        heading: What stands above it.
        is_number: Numbers end at one place; text begins at one.
        least: It may be cut to so many cells; 0 if it may not be.
        rank: Columns of the highest rank are left out first; those of rank 0 never.
    """

    heading: str
    is_number: bool = False
    least: int = 0
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        cells: A piece for each column.
        below: What goes below it: phrases, which are put in lines with semicolons between them.
    """

    cells: Sequence[Piece]
    below: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """Lines that are ready to be written.

    Attributes:
        head: Above the rows.
        blocks: The lines of each row.
        foot: Below the rows.
    """

    head: list[Line] = field(default_factory=list)
    blocks: list[list[Line]] = field(default_factory=list)
    foot: list[Line] = field(default_factory=list)

    def lines(self) -> list[Line]:
        """All of them, in order."""
        return [*self.head, *[line for block in self.blocks for line in block], *self.foot]

    def cropped(self, height: int, thing: str) -> Page:
        """The page with as many rows as fit, and how many do not.

        Args:
            height: How many lines there may be.
            thing: What rows are of, as a word for several.
        """
        left = height - len(self.head) - len(self.foot)
        if sum(map(len, self.blocks)) <= left:
            return self
        shown: list[list[Line]] = []
        # The line that says how many do not fit.
        left -= 1
        for block in self.blocks:
            left -= len(block)
            if left < 0:
                break
            shown.append(block)
        hidden = len(self.blocks) - len(shown)
        more: list[Line] = [[(f"... and {hidden:,} more {thing}, which do not fit here", "dim")]]
        return Page(self.head, [*shown, more], self.foot)


def lay_out(
    columns: Sequence[Column], rows: Sequence[Row], notes: Sequence[str], width: int | None
) -> Page:
    """Put rows on a page.

    Args:
        columns: What they consist of.
        rows: They.
        notes: What stands below all of them, each on lines of its own.
        width: How many cells a line may have; None where that does not matter.
    """
    natural = [
        max([cells(column.heading), *[cells(row.cells[place][0]) for row in rows]])
        for place, column in enumerate(columns)
    ]
    widths = natural if width is None else _fitted(columns, natural, width)
    page = Page()
    if rows:
        heading = [(column.heading, "bold") for column in columns]
        page.head.append(_line(columns, heading, widths))
    for row in rows:
        block = [_line(columns, row.cells, widths)]
        block += [[(line, "dim")] for line in _joined(row.below, width)]
        page.blocks.append(block)
    for note in notes:
        page.foot.extend([[(line, "")] for line in folded(note, width)])
    return page


def stacked(upper: Page, lower: Page) -> Page:
    """One table below another; both are cropped as one, and the notes of both stand below.

    Args:
        upper: The first one.
        lower: The other, with a row at least.
    """
    foot = [*upper.foot, *lower.foot]
    if not upper.blocks:
        return Page(lower.head, lower.blocks, foot)
    # What stands above its rows goes where the first of them goes, and away with it.
    first, *rest = lower.blocks
    return Page(upper.head, [*upper.blocks, [[], *lower.head, *first], *rest], foot)


def _fitted(columns: Sequence[Column], natural: Sequence[int], width: int) -> list[int]:
    """Widths that fit into a line, if any do; 0 for a column that is left out."""
    widths = list(natural)
    for rank in sorted({column.rank for column in columns if column.rank}, reverse=True):
        if _excess(widths, width) <= sum(map(_can_lose, columns, widths)):
            break
        for place, column in enumerate(columns):
            if column.rank == rank:
                widths[place] = 0
    for _ in range(_excess(widths, width)):
        places = [each for each in range(len(widths)) if _can_lose(columns[each], widths[each])]
        if not places:
            break
        widths[max(places, key=widths.__getitem__)] -= 1
    return widths


def _excess(widths: Sequence[int], width: int) -> int:
    """By how many cells a line of columns is too long."""
    shown = [one for one in widths if one]
    return sum(shown) + len(_GAP) * (len(shown) - 1) - width


def _can_lose(column: Column, width: int) -> int:
    """By how many cells a column can be cut."""
    return max(0, width - column.least) if column.least else 0


def _line(columns: Sequence[Column], pieces: Sequence[Piece], widths: Sequence[int]) -> Line:
    line: Line = []
    for column, (text, style), width in zip(columns, pieces, widths, strict=True):
        if not width:
            continue
        shown = cut(text, width)
        padding = " " * (width - cells(shown))
        if line:
            line.append((_GAP, ""))
        if column.is_number:
            line.append((padding, ""))
        line.append((shown, style))
        if not column.is_number:
            line.append((padding, ""))
    while line and not line[-1][0].strip():
        # Nothing is written at the end of a line.
        line.pop()
    return line


def _joined(phrases: Sequence[str], width: int | None) -> list[str]:
    """Phrases in lines, each on one as a whole if it fits there."""
    lines: list[str] = []
    for number, phrase in enumerate(phrases, 1):
        text = phrase if number == len(phrases) else f"{phrase};"
        if lines and (width is None or cells(lines[-1]) + 1 + cells(text) <= width):
            lines[-1] += f" {text}"
        else:
            lines += folded(text, width, _INDENT)
    return lines


def folded(text: str, width: int | None, indent: str = "") -> list[str]:
    """Words in lines of some width, longer ones cut in two; one line where the width is None."""
    if not text:
        return []
    if width is None:
        return [indent + text]
    room = max(1, width - len(indent))
    lines = [""]
    for word in text.split():
        rest = word
        if lines[-1] and cells(lines[-1]) + 1 + cells(rest) <= room:
            lines[-1] += f" {rest}"
            continue
        if lines[-1]:
            lines.append("")
        while cells(rest) > room:
            # Nobody's words are that long but those of someone who means harm.
            part = cut(rest, room + 1)[:-1] or rest[0]
            lines[-1], rest = part, rest[len(part) :]
            lines.append("")
        lines[-1] = rest
    return [indent + line for line in lines if line]

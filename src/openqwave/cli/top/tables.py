"""Panes of rows that are sorted and filtered: flows, paths, programs, what was refused.

Rows are laid out as far as they are seen, so a hundred thousand flows cost as much as fifty. What
does not fit is left out, not squeezed: columns by their rank, and rows at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from openqwave.cli.overview.flows import page_of_flows
from openqwave.cli.overview.pages import Page
from openqwave.cli.overview.paths import page_of_paths
from openqwave.cli.overview.refusals import page_of_refusals
from openqwave.cli.top.arranging import (
    Arrangement,
    flows_with,
    paths_with,
    programs_with,
    refusals_with,
)
from openqwave.cli.top.picture import cropped, title

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from openqwave.cli.overview.pages import Line
    from openqwave.cli.top.looks import Look
    from openqwave.ipc.messages import FlowRow, PathRow, ProgramRow, RefusalRow

_T = TypeVar("_T")

# A pane that is as high has room for what stands below rows; lower ones have more rows instead.
DETAILS_FROM_LINES: Final = 12


def shows_details(name: str, height: int) -> bool:
    """Does a pane have what stands below its rows, unless somebody wants it otherwise?"""
    return name == "refused" or height >= DETAILS_FROM_LINES


def flow_lines(
    look: Look,
    arrangement: Arrangement[FlowRow],
    wanted: str,
    first: int,
    size: tuple[int, int],
    *,
    has_details: bool | None,
    is_current: bool,
) -> tuple[list[Line], int]:
    """The pane of flows.

    Args:
        look: What was seen.
        arrangement: In which order.
        wanted: The filter; empty for none.
        first: Begin with this row.
        size: Width and height.
        has_details: With what stands below rows; None where that depends on the height.
        is_current: Whether keys move this pane.

    Returns:
        Its lines, and the row that it really begins with: not one beyond the last.
    """
    rows = arrangement.of(flows_with(look.flows, wanted))

    def page(part: Sequence[FlowRow], width: int) -> Page:
        return page_of_flows(part, sees_all=True, is_filtered=bool(wanted), width=width)

    words = f"flows {{}} {arrangement.words}{_filter_words(wanted)}"
    return _table(rows, page, words, first, size, has_details, is_current=is_current)


def path_lines(
    look: Look,
    arrangement: Arrangement[PathRow],
    wanted: str,
    first: int,
    size: tuple[int, int],
    *,
    has_details: bool | None,
    is_current: bool,
) -> tuple[list[Line], int]:
    """The pane of paths; see `flow_lines`."""
    rows = arrangement.of(paths_with(look.paths, wanted))

    def page(part: Sequence[PathRow], width: int) -> Page:
        return page_of_paths(part, is_filtered=bool(wanted), width=width)

    words = f"paths {{}} {arrangement.words}{_filter_words(wanted)}"
    return _table(rows, page, words, first, size, has_details, is_current=is_current)


def program_lines(
    look: Look,
    arrangement: Arrangement[ProgramRow],
    wanted: str,
    first: int,
    size: tuple[int, int],
    *,
    has_details: bool | None,
    is_current: bool,
) -> tuple[list[Line], int]:
    """The pane of programs that are spoken for; see `flow_lines`."""
    rows = arrangement.of(programs_with(look.programs, wanted))

    def page(part: Sequence[ProgramRow], width: int) -> Page:
        if not part:
            return Page(foot=[[(f"No{' such' if wanted else ''} programs are spoken for.", "")]])
        return page_of_flows((), sees_all=True, is_filtered=False, width=width, spoken_for=part)

    words = f"programs {{}} {arrangement.words}{_filter_words(wanted)}"
    return _table(rows, page, words, first, size, has_details, is_current=is_current)


def refusal_lines(
    look: Look,
    arrangement: Arrangement[RefusalRow],
    wanted: str,
    first: int,
    size: tuple[int, int],
    *,
    has_details: bool | None,
    is_current: bool,
) -> tuple[list[Line], int]:
    """The pane of what was refused, the newest first; see `flow_lines`.

    What stands below rows is why, so it is there however low the pane is.
    """
    rows = arrangement.of(refusals_with(reversed(look.refusals), wanted))

    def page(part: Sequence[RefusalRow], width: int) -> Page:
        return page_of_refusals(
            part, sees_all=True, is_filtered=bool(wanted), width=width, now_s=look.at_s
        )

    words = f"refused {{}} {arrangement.words}{_filter_words(wanted)}"
    if has_details is None:
        has_details = shows_details("refused", size[1])
    return _table(rows, page, words, first, size, has_details, is_current=is_current)


def _filter_words(wanted: str) -> str:
    return f', with "{wanted}"' if wanted else ""


def _table(
    rows: Sequence[_T],
    page_of: Callable[[Sequence[_T], int], Page],
    words: str,
    first: int,
    size: tuple[int, int],
    has_details: bool | None,
    *,
    is_current: bool,
) -> tuple[list[Line], int]:
    width, height = size
    if has_details is None:
        has_details = shows_details("", height)
    first = max(0, min(first, len(rows) - 1))
    # What is below the pane's title.
    room = max(1, height - 1)
    page = _bare(page_of(rows[first : first + room], width), has_details=has_details)
    shown = len(page.blocks)
    while shown > 1 and len(page.lines()) > room:
        # Notes are about the rows that are there, so fewer rows have fewer notes.
        shown = min(shown - 1, _blocks_in(page, room - len(page.foot)))
        page = _bare(page_of(rows[first : first + shown], width), has_details=has_details)
    place = f"{first + 1}-{first + len(page.blocks)} of {len(rows):,}" if rows else "0"
    top = title(words.format(place), is_current=is_current, width=width)
    # A row may be higher than the pane.
    return cropped([top, *page.lines()], size), first


def _bare(page: Page, *, has_details: bool) -> Page:
    """The page, without what stands below rows where that is not wanted."""
    if has_details or not page.blocks:
        return page
    return Page(page.head, [block[:1] for block in page.blocks])


def _blocks_in(page: Page, room: int) -> int:
    """How many of its rows fit, and at least one."""
    left = room - len(page.head)
    for number, block in enumerate(page.blocks):
        left -= len(block)
        if left < 0:
            return max(1, number)
    return len(page.blocks)

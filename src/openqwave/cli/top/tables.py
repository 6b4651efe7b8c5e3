"""Panes of rows that are sorted and filtered: flows, paths, programs, what was refused.

Rows are laid out as far as they are seen, so a hundred thousand flows cost as much as fifty. What
does not fit is left out, not squeezed: columns by their rank, and rows at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from openqwave.cli.overview.flows import page_of_flows
from openqwave.cli.overview.pages import Page
from openqwave.cli.overview.paths import page_of_paths
from openqwave.cli.overview.refusals import page_of_refusals
from openqwave.cli.top.arranging import (
    Arrangement,
    R,
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

# A pane that is as high has room for what stands below rows; lower ones have more rows instead.
DETAILS_FROM_LINES: Final = 12


@dataclass(frozen=True, slots=True)
class _Table:
    """What is particular to one pane.

    Attributes:
        rows: All that are wanted, of a look and a filter.
        page: Lays some of them out: the rows, the look, whether there is a filter, the width.
    """

    rows: Callable[[Look, str], list[Any]]
    page: Callable[[Sequence[Any], Look, bool, int], Page]


def shows_details(name: str, height: int) -> bool:
    """Does a pane have what stands below its rows, unless somebody wants it otherwise?

    Below what was refused stands why, so it is there however low the pane is.
    """
    return name == "refused" or height >= DETAILS_FROM_LINES


def table_lines(
    name: str,
    look: Look,
    arrangement: Arrangement[R],
    wanted: str,
    first: int,
    size: tuple[int, int],
    *,
    has_details: bool | None,
    is_current: bool,
) -> tuple[list[Line], int]:
    """One of the panes of `TABLES`.

    Args:
        name: Which.
        look: What was seen.
        arrangement: In which order.
        wanted: The filter; empty for none.
        first: Begin with this row.
        size: Width and height.
        has_details: With what stands below rows; None where that depends on the pane.
        is_current: Whether keys move this pane.

    Returns:
        Its lines, and the row that it really begins with: not one beyond the last.
    """
    width, height = size
    table = TABLES[name]
    rows = arrangement.of(table.rows(look, wanted))
    if has_details is None:
        has_details = shows_details(name, height)
    first = max(0, min(first, len(rows) - 1))

    def page_of(count: int) -> Page:
        page = table.page(rows[first : first + count], look, bool(wanted), width)
        return page if has_details else _bare(page)

    # What is below the pane's title.
    room = max(1, height - 1)
    page: Page = page_of(room)
    shown = len(page.blocks)
    while shown > 1 and len(page.lines()) > room:
        # Notes are about the rows that are there, so fewer rows have fewer notes.
        shown = min(shown - 1, _blocks_in(page, room - len(page.foot)))
        page = page_of(shown)
    place = f"{first + 1}-{first + len(page.blocks)} of {len(rows):,}" if rows else "0"
    words = f"{name} {place} {arrangement.words}{_filter_words(wanted)}"
    # A row may be higher than the pane.
    top = title(words, is_current=is_current, width=width)
    return cropped([top, *page.lines()], size), first


def _filter_words(wanted: str) -> str:
    return f', with "{wanted}"' if wanted else ""


def _bare(page: Page) -> Page:
    """The page without what stands below rows."""
    return Page(page.head, [block[:1] for block in page.blocks]) if page.blocks else page


def _blocks_in(page: Page, room: int) -> int:
    """How many of its rows fit, and at least one."""
    left = room - len(page.head)
    for number, block in enumerate(page.blocks):
        left -= len(block)
        if left < 0:
            return max(1, number)
    return len(page.blocks)


def _flows(part: Sequence[FlowRow], _: Look, is_filtered: bool, width: int) -> Page:
    return page_of_flows(part, sees_all=True, is_filtered=is_filtered, width=width)


def _paths(part: Sequence[PathRow], _: Look, is_filtered: bool, width: int) -> Page:
    return page_of_paths(part, is_filtered=is_filtered, width=width)


def _programs(part: Sequence[ProgramRow], _: Look, is_filtered: bool, width: int) -> Page:
    if not part:
        return Page(foot=[[(f"No{' such' if is_filtered else ''} programs are spoken for.", "")]])
    return page_of_flows((), sees_all=True, is_filtered=False, width=width, spoken_for=part)


def _refusals(part: Sequence[RefusalRow], look: Look, is_filtered: bool, width: int) -> Page:
    return page_of_refusals(
        part, sees_all=True, is_filtered=is_filtered, width=width, now_s=look.at_s
    )


# Of what was refused the newest stands first.
TABLES: Final[dict[str, _Table]] = {
    "flows": _Table(lambda look, wanted: flows_with(look.flows, wanted), _flows),
    "paths": _Table(lambda look, wanted: paths_with(look.paths, wanted), _paths),
    "refused": _Table(
        lambda look, wanted: refusals_with(reversed(look.refusals), wanted), _refusals
    ),
    "programs": _Table(lambda look, wanted: programs_with(look.programs, wanted), _programs),
}

"""What the screen shows, as lines for any width and height; knows nothing of terminals.

Panes whose rows are sorted and filtered are in `tables`. Nothing is said by colour alone.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from openqwave.cli.overview.looking import ADVICE
from openqwave.cli.overview.pages import Page, folded
from openqwave.cli.overview.status import page_of_status, page_without_service
from openqwave.cli.overview.words import cells, counted, cut
from openqwave.cli.top.looks import Away, Look

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from openqwave.cli.overview.pages import Line, Piece
    from openqwave.cli.top.happenings import Happening
    from openqwave.cli.top.looks import Glance

# Why there is no service, in the lines that may be spent on it.
_MOST_AWAY_LINES = 3
_GAP = "  "
# Before the words of a notice: its time.
_CLOCK_INDENT = " " * 9

# Keys with what they do, the ones first that a small screen must still name.
_KEYS: Final = (
    "h help",
    "q quit",
    "/ filter",
    "s sort",
    "Tab next",
    "space freeze",
    "r reverse",
    "d details",
    "z zoom",
)


def clock(at_s: float) -> str:
    """A time of the day."""
    return time.strftime("%H:%M:%S", time.localtime(at_s))


# -- above and below the panes ----------------------------------------------------------


def head(glance: Glance | None, seen: Look | None, frozen: str, width: int) -> list[Line]:
    """The lines above everything: when, how much, how many are in trouble.

    Args:
        glance: The last one; None before the first.
        seen: What is shown; None where no service was seen yet.
        frozen: Since when the picture stands, and what was missed; empty where it moves.
        width: How many cells a line may have.
    """
    pieces: list[Piece] = []
    if frozen:
        pieces.append((frozen, "bold reverse"))
    elif glance is not None:
        pieces.append((clock(glance.at_s), "bold"))
    else:
        pieces.append(("asking the service", "bold"))
    if seen is not None:
        pieces += _counts(seen)
    lines = [_fitting(pieces, width)]
    if isinstance(glance, Away):
        told = f"NO SERVICE: {glance.reason}; trying again."
        if seen is not None:
            told += f" Below is what was seen at {clock(seen.at_s)}."
        away = folded(told, width)
        if len(away) > _MOST_AWAY_LINES:
            away = away[:_MOST_AWAY_LINES]
            away[-1] = cut(away[-1], width - 1) + "…"
        lines += [[(line, "bold red")] for line in away]
    return lines


def _counts(seen: Look) -> list[Piece]:
    congested = sum(bool(row.congested) for row in seen.paths)
    unadmitted = sum(row.marking == "not admitted" for row in seen.flows)
    refused = sum(row.times for row in seen.refusals)
    pieces: list[Piece] = [(counted(len(seen.flows), "flow"), "")]
    pieces.append((counted(len(seen.paths), "path"), ""))
    if congested:
        pieces.append((f"{congested:,} congested", "bold red"))
    if unadmitted:
        pieces.append((f"{unadmitted:,} not admitted", "bold red"))
    if refused:
        pieces.append((f"{refused:,} refused", ""))
    if not seen.sees_all:
        pieces.append(("yours only", ""))
    return pieces


def keys(width: int) -> Line:
    """The line below everything: as many keys as there is room for."""
    return _fitting([(words, "dim") for words in _KEYS], width)


def _fitting(pieces: Iterable[Piece], width: int) -> Line:
    """Pieces with gaps between them, without those that there is no room for."""
    line: Line = []
    left = width
    for text, style in pieces:
        needed = cells(text) + (len(_GAP) if line else 0)
        if needed > left:
            continue
        if line:
            line.append((_GAP, ""))
        line.append((text, style))
        left -= needed
    return line


# -- panes ------------------------------------------------------------------------------


def title(words: str, *, is_current: bool, width: int) -> Line:
    """The line above a pane; that of the current one says so."""
    text = cut(f"{'>' if is_current else ' '} {words}", width)
    return [(text + " " * (width - cells(text)), "bold reverse" if is_current else "underline")]


def cropped(lines: list[Line], size: tuple[int, int]) -> list[Line]:
    """As many lines as there is room for; a mark at the end says that there are more."""
    width, height = size
    if len(lines) <= height:
        return lines
    *kept, last = lines[:height]
    text = "".join([piece for piece, _ in last])
    style = last[-1][1] if last else ""
    return [*kept, [(cut(text, width - 1).removesuffix("…") + "…", style)]]


def notice_lines(
    notices: Sequence[Happening], first: int, size: tuple[int, int], *, is_current: bool
) -> tuple[list[Line], int]:
    """The pane of notices, the newest first; see `tables.table_lines`."""
    width, height = size
    first = max(0, min(first, len(notices) - 1))
    lines: list[Line] = []
    shown = 0
    for each in notices[first:]:
        if len(lines) >= height - 1:
            break
        parts = folded(f"{each.words}.", width, _CLOCK_INDENT)
        at: Piece = (clock(each.at_s), "dim")
        lines.append([at, (parts[0][len(_CLOCK_INDENT) - 1 :], each.style)])
        lines += [[(part, each.style)] for part in parts[1:]]
        shown += 1
    if not lines:
        lines = [[("Nothing has happened since this began.", "")]]
    place = f"{first + 1}-{first + shown} of {len(notices):,}" if notices else "0"
    top = title(f"notices {place}, newest first", is_current=is_current, width=width)
    return cropped([top, *lines], size), first


def service_lines(
    glance: Glance | None, seen: Look | None, first: int, size: tuple[int, int]
) -> tuple[list[Line], int]:
    """The pane of the service; see `tables.table_lines`."""
    width, _ = size
    if isinstance(glance, Away):
        page = page_without_service(glance.reason, ADVICE, width)
    elif seen is not None:
        page = page_of_status(seen.status, width)
    else:
        page = Page()
    return text_lines("service", page.lines(), first, size)


def text_lines(
    words: str, lines: Sequence[Line], first: int, size: tuple[int, int]
) -> tuple[list[Line], int]:
    """A pane of lines that can be moved through."""
    width, height = size
    room = max(1, height - 1)
    first = max(0, min(first, len(lines) - room))
    more = f", line {first + 1} of {len(lines)}" if len(lines) > room else ""
    top = title(f"{words}{more}", is_current=True, width=width)
    return [top, *lines[first : first + room]], first


# -- help -------------------------------------------------------------------------------

_HELP: Final = (
    ("q, Ctrl-C", "end"),
    ("Tab, 1 to 6", "go to flows, paths, what was refused, notices, the service, programs"),
    ("up, down", "move by a row; PgUp, PgDn by ten; Home, End"),
    ("/", "show only rows with some words; Enter keeps them, Escape drops them"),
    ("s", "sort by something else"),
    ("r", "turn the order round"),
    ("space", "freeze the picture, or let it go on; notices are kept meanwhile"),
    ("d", "show or hide what stands below rows"),
    ("z", "give the whole screen to this pane, or let others in"),
    ("h, ?", "this help; Escape leaves it"),
)
_HELP_NOTES: Final = (
    "Rates are in Mbit/s. A ? is what nobody knows, a - what there is not.",
    "On a screen of fewer than 20 lines there is one pane at a time.",
    "`qwave top --plain` says the same in lines, for screen readers.",
)
# The longest of the keys, and a gap.
_HELP_KEY = 14


def help_lines(first: int, size: tuple[int, int]) -> tuple[list[Line], int]:
    """The help; see `tables.table_lines`."""
    width, _ = size
    lines: list[Line] = []
    for key, words in _HELP:
        parts = folded(words, width, " " * _HELP_KEY)
        lines.append([(f"{key:<{_HELP_KEY}}", "bold"), (parts[0][_HELP_KEY:], "")])
        lines += [[(part, "")] for part in parts[1:]]
    for note in _HELP_NOTES:
        lines += [[(part, "")] for part in folded(note, width)]
    return text_lines("help", lines, first, size)

"""What was refused as a table: when, to whom, what; and below each why, in the service's words."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from openqwave.cli.overview.pages import Column, Page, Row, lay_out
from openqwave.cli.overview.words import clean, clock, name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openqwave.ipc.messages import RefusalRow

# At 40 columns there is when, whose and what; the reason stands below and is folded.
COLUMNS: Final = (
    Column("time"),
    Column("user", least=5, rank=2),
    Column("program", least=8),
    Column("pid", is_number=True, rank=3),
    Column("what"),
    Column("flow", is_number=True, rank=1),
)
ONLY_YOURS: Final = "Showing only what you were refused; root sees all."

# What a program asked for that has no word of its own in the protocol: to be taken in.
_HELLO, _CONNECT = "hello", "connect"

_NS_PER_S = 1_000_000_000


def page_of_refusals(
    rows: Sequence[RefusalRow],
    *,
    sees_all: bool,
    is_filtered: bool,
    width: int | None,
    now_s: float | None = None,
) -> Page:
    """Refusals as a page; see `flows.page_of_flows`.

    Args:
        rows: They, in the order in which they are shown.
        sees_all: Whether the service shows this user all.
        is_filtered: Whether some were left out because they were not wanted.
        width: As for `pages.lay_out`.
        now_s: CLOCK_REALTIME; by the clock when None.
    """
    now_s = time.time() if now_s is None else now_s
    notes = []
    if not rows:
        notes.append("Nothing such was refused." if is_filtered else "Nothing was refused.")
    if not sees_all:
        notes.append(ONLY_YOURS)
    return lay_out(COLUMNS, [_row(row, now_s) for row in rows], notes, width)


def request_words(row: RefusalRow) -> str:
    """What was asked for, as people say it."""
    return _CONNECT if row.request == _HELLO else clean(row.request).replace("_", " ")


def again_words(row: RefusalRow, now_s: float) -> str:
    """How often it was refused, and since when; empty for once."""
    if row.times < 2 or row.since_ns is None:
        return ""
    return f"{row.times:,} times since {clock(row.since_ns / _NS_PER_S, now_s)}"


def _row(row: RefusalRow, now_s: float) -> Row:
    cells = [
        (clock(row.time_ns / _NS_PER_S, now_s), ""),
        (name(row.user), ""),
        (name(row.program), "bold"),
        (str(row.pid), ""),
        (request_words(row), ""),
        ("-" if row.flow is None else str(row.flow), ""),
    ]
    below = [clean(row.detail)]
    if row.host is not None:
        below.append(f"to {clean(row.host)}")
    below.append(f"{clean(row.name)} ({row.code})")
    if again := again_words(row, now_s):
        below.append(again)
    return Row(cells, below)

"""Paths as a table: how each is reached, what it carries, what is free and held, how it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from openqwave.cli.overview.pages import Column, Page, Row, lay_out
from openqwave.cli.overview.words import bytes_sent, clean, counted, duration, figure, rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openqwave.cli.overview.pages import Piece
    from openqwave.ipc.messages import PathRow

# Addresses that are cut look alike, so a long one leaves room for less beside it. What is free and
# the state stay.
COLUMNS: Final = (
    Column("host"),
    Column("capacity", is_number=True, rank=1),
    Column("free", is_number=True),
    Column("held", is_number=True, rank=2),
    Column("RTT", is_number=True, rank=4),
    Column("flows", is_number=True, rank=5),
    Column("age", is_number=True, rank=3),
    Column("state", least=10),
)
UNITS: Final = "Rates are in Mbit/s; free is what nobody used when it was measured."

_NS_PER_MS = 1_000_000


def page_of_paths(rows: Sequence[PathRow], *, is_filtered: bool, width: int | None) -> Page:
    """Paths as a page; see `flows.page_of_flows`."""
    nothing = "No such paths." if is_filtered else "No paths."
    return lay_out(COLUMNS, [_row(row) for row in rows], [UNITS if rows else nothing], width)


def state_of(row: PathRow) -> tuple[str, str]:
    """How it stands with a path, in a word or two, and the style of that."""
    if row.obstacle:
        return "unmeasured", "yellow"
    if row.congested:
        return "congested", "red"
    if row.age_ns is None:
        return "measuring", ""
    return ("remembered", "yellow") if row.is_remembered else ("measured", "green")


def _row(row: PathRow) -> Row:
    round_trip = "?" if row.rtt_ns is None else f"{figure(row.rtt_ns / _NS_PER_MS)} ms"
    cells: list[Piece] = [
        (clean(row.host), "bold"),
        (rate(row.capacity_bps), ""),
        (rate(row.available_bps), ""),
        (rate(row.held_bps), ""),
        (round_trip, ""),
        (str(row.flow_count), ""),
        (duration(row.age_ns), ""),
        state_of(row),
    ]
    return Row(cells, _below(row))


def _below(row: PathRow) -> list[str]:
    phrases = []
    if row.obstacle:
        phrases.append(clean(row.obstacle))
    if row.congestion_reason:
        phrases.append(clean(row.congestion_reason))
    if row.interface:
        way = "on the link" if row.on_link else f"by {clean(row.gateway or '?')}"
        link = f"{clean(row.link_type)} {clean(row.interface)}".strip()
        phrases.append(f"{link}, {way}, from {clean(row.source) or '?'}")
    if row.available_low_bps is not None:
        sure = f"{100 * row.confidence:.0f} % sure"
        phrases.append(f"at least {rate(row.available_low_bps)} free, {sure}")
    if row.own_bps is not None and row.held_bps:
        phrases.append(f"flows under contract send {rate(row.own_bps)}")
    if row.tracker_count:
        phrases.append(f"tracked by {counted(row.tracker_count, 'handle')}")
    if row.sent_bytes:
        phrases.append(f"experiments sent {bytes_sent(row.sent_bytes)}")
    if row.is_remembered:
        phrases.append("the numbers are of earlier experiments")
    return phrases

"""Flows as a table: who, what, the marks really applied, the contract, the rate now, the path.

What has no column stands below: sockets with destinations, the other marks, the mechanism. Why it
is that mechanism is said once for all flows with the same reason, at the end. Programs that are
spoken for have a table of their own on the same page (`programs`).
"""

from __future__ import annotations

from functools import partial
from string import ascii_lowercase
from typing import TYPE_CHECKING, Final

from openqwave.cli.overview import programs
from openqwave.cli.overview.pages import Column, Page, Row, lay_out, stacked
from openqwave.cli.overview.traffic import phrases_of
from openqwave.cli.overview.words import clean, counted, name, rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openqwave.cli.overview.pages import Piece
    from openqwave.ipc.messages import FlowRow, ProgramRow, SocketRow

# At 80 columns everything is there, names cut. Below that the user goes, then the process, then
# what can be worked out from the rest.
COLUMNS: Final = (
    Column("flow", is_number=True),
    Column("user", least=5, rank=4),
    Column("program", least=8),
    Column("pid", is_number=True, rank=3),
    Column("type", least=11, rank=2),
    Column("DSCP", is_number=True),
    Column("contract", is_number=True),
    Column("sends", is_number=True),
    Column("path", least=10, rank=1),
)
UNITS: Final = "Rates are in Mbit/s."
ONLY_YOURS: Final = "Showing only your flows; root sees all."

# As many sockets, and destinations of each, as can be read at a glance; `--json` has more.
_SOCKETS_SHOWN, _DESTINATIONS_SHOWN = 3, 2

_STYLES: Final = {"congested": "red", "measured": "green", "in trouble": "yellow"}

# What marks follow nearly always, and what need not be said.
_USUAL_MARKING, _USUAL_SHAPING = "by type", "shape and mark"
_NO_PATH, _NO_BACKEND = "none", "none"


def page_of_flows(
    rows: Sequence[FlowRow],
    *,
    sees_all: bool,
    is_filtered: bool,
    width: int | None,
    spoken_for: Sequence[ProgramRow] = (),
) -> Page:
    """Flows as a page, and below them the programs that are spoken for.

    Args:
        rows: They.
        sees_all: Whether the service shows this user all flows.
        is_filtered: Whether some were left out because they were not wanted.
        width: As for `pages.lay_out`.
        spoken_for: Runs and rules.
    """
    reasons: dict[tuple[str, str], str] = {}
    found = [_row(row, reasons) for row in rows]
    others = [programs.row_of(row, partial(_sign, reasons)) for row in spoken_for]
    notes = [f"({sign}) {backend}: {why}." for (backend, why), sign in reasons.items()]
    if rows or others:
        notes.append(UNITS)
    elif is_filtered:
        notes.append("No such flows.")
    else:
        notes.append("No flows.")
    if not sees_all:
        notes.append(ONLY_YOURS)
    page = lay_out(COLUMNS, found, notes, width)
    return stacked(page, lay_out(programs.COLUMNS, others, (), width)) if others else page


def _row(row: FlowRow, reasons: dict[tuple[str, str], str]) -> Row:
    path = "-" if row.path_state == _NO_PATH else clean(row.path_state)
    cells: list[Piece] = [
        (str(row.flow), ""),
        (name(row.user), ""),
        (name(row.program), "bold"),
        (str(row.pid), ""),
        (clean(row.traffic_type), ""),
        ("-" if row.dscp is None else str(row.dscp), "cyan"),
        (rate(row.contract_bps, "-"), ""),
        (rate(row.sending_bps), ""),
        (path, _STYLES.get(row.path_state, "")),
    ]
    return Row(cells, _below(row, reasons))


def _below(row: FlowRow, reasons: dict[tuple[str, str], str]) -> list[str]:
    phrases = [_socket(one) for one in row.sockets[:_SOCKETS_SHOWN]]
    hidden = row.socket_count - len(phrases)
    if hidden > 0:
        phrases.append(f"and {counted(hidden, 'more socket')}")
    named = sum(len(one.destinations) for one in row.sockets)
    if row.destination_count > named or hidden > 0:
        phrases.append(f"{counted(row.destination_count, 'destination')} in all")
    if row.host is not None:
        phrases.append(f"path to {clean(row.host)}")
    phrases += phrases_of(row, "contract")
    if row.marking != _USUAL_MARKING:
        phrases.append(clean(row.marking))
    if row.pcp is not None:
        phrases.append(f"802.1p {row.pcp}")
    if row.priority is not None:
        phrases.append(f"queue {row.priority}")
    if row.shaping is not None and row.shaping != _USUAL_SHAPING:
        phrases.append(clean(row.shaping))
    backend = clean(row.backend)
    sign = _sign(reasons, (backend, clean(row.backend_reason)))
    phrases.append(f"{'no backend' if backend == _NO_BACKEND else backend} ({sign})")
    return phrases


def _socket(row: SocketRow) -> str:
    shown = [clean(one) for one in row.destinations[:_DESTINATIONS_SHOWN]]
    hidden = len(row.destinations) - len(shown)
    where = ", ".join(shown) + (f" and {hidden} more" if hidden else "")
    local = "" if row.local is None else f"{clean(row.local)} "
    return f"{clean(row.protocol)} {local}> {where or '...'}"


def _sign(reasons: dict[tuple[str, str], str], reason: tuple[str, str]) -> str:
    """The letter of a reason: a, b, and so on; numbers where letters run out."""
    if reason not in reasons:
        number = len(reasons)
        reasons[reason] = ascii_lowercase[number] if number < len(ascii_lowercase) else str(number)
    return reasons[reason]

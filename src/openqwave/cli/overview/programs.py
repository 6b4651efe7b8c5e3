"""Programs that ask for nothing and are spoken for: runs, and rules of the policy, as a table.

It stands below that of flows, and shares the reasons at the end of the page with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from openqwave.cli.overview.pages import Column, Row
from openqwave.cli.overview.traffic import phrases_of
from openqwave.cli.overview.words import clean, name, rate

if TYPE_CHECKING:
    from collections.abc import Callable

    from openqwave.cli.overview.pages import Piece
    from openqwave.ipc.messages import ProgramRow

# As with flows: at 80 columns everything is there, and then the user goes first.
COLUMNS: Final = (
    Column("spoken for"),
    Column("user", least=5, rank=3),
    Column("program", least=8),
    Column("pid", is_number=True, rank=2),
    Column("type", least=11, rank=1),
    Column("DSCP", is_number=True),
    Column("rate", is_number=True),
    Column("packets", is_number=True, rank=1),
)

_RULE: Final = "rule"
_NOBODY: Final = "nothing marks it"


def row_of(row: ProgramRow, sign_of: Callable[[tuple[str, str]], str]) -> Row:
    """One run or one rule.

    Args:
        row: It.
        sign_of: The letter of what marks it and why.
    """
    cells: list[Piece] = [
        (f"{clean(row.kind)} {row.number}", ""),
        (name(row.user) if row.user else "-", ""),
        (name(row.name), "bold"),
        ("-" if row.pid is None else str(row.pid), ""),
        ("-" if row.traffic_type is None else clean(row.traffic_type), ""),
        ("-" if row.dscp is None else str(row.dscp), "cyan"),
        (rate(row.rate_bps, "-"), ""),
        (_packets(row), ""),
    ]
    return Row(cells, _below(row, sign_of))


def _packets(row: ProgramRow) -> str:
    """How many were sent; what nothing marks is not counted."""
    if row.sent_packets is not None:
        return f"{row.sent_packets:,}"
    return "?" if row.backend else "-"


def _below(row: ProgramRow, sign_of: Callable[[tuple[str, str]], str]) -> list[str]:
    phrases = [clean(row.asks)] if row.asks else []
    if row.cgroup and row.kind != _RULE:
        phrases.append(f"cgroup {clean(row.cgroup)}")
    if row.excess:
        phrases.append(f"above the rate: {clean(row.excess)}")
    phrases += phrases_of(row, "rate")
    if row.priority is not None:
        phrases.append(f"queue {row.priority}")
    if row.origin:
        phrases.append(f"from {clean(row.origin)}")
    sign = sign_of((clean(row.backend) or _NOBODY, clean(row.reason)))
    phrases.append(f"{clean(row.backend) or _NOBODY} ({sign})")
    return phrases

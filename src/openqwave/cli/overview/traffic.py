"""What was counted of a flow, a run or a rule, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openqwave.cli.overview.words import bytes_sent, counted

if TYPE_CHECKING:
    from openqwave.ipc.messages import FlowRow, ProgramRow


def phrases_of(row: FlowRow | ProgramRow, limit: str) -> list[str]:
    """What has been sent; nothing where nobody counts.

    Args:
        row: It.
        limit: What it was to stay below, as a word.
    """
    if row.sent_packets is None:
        return []
    phrases = [f"sent {_packets(row.sent_packets, row.sent_bytes)}"]
    if row.excess_packets:
        phrases.append(f"above the {limit} {_packets(row.excess_packets, row.excess_bytes)}")
    if row.dropped_packets:
        phrases.append(f"dropped {counted(row.dropped_packets, 'packet')}")
    return phrases


def _packets(packets: int, octets: int | None) -> str:
    return f"{counted(packets, 'packet')} ({bytes_sent(octets or 0)})"

"""Lines or objects on standard output, and what was counted, at the end."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from openqwave.cli.capture.words import dscp_name, fields_of, line_of, packet_fields
from openqwave.cli.overview.words import counted

if TYPE_CHECKING:
    from openqwave.cli.capture.conversations import Event
    from openqwave.wire.frames import Frame
    from openqwave.wire.packets import Packet

# What a narrower terminal wraps.
_LEAST_WIDTH = 80


@dataclass(slots=True)
class Counts:
    """What has passed.

    Attributes:
        packets: Shown ones, by DSCP.
        packet_bytes: Their IP bytes, by DSCP.
        messages: Messages of MS-QLPB in them, by name.
        left_out: IP packets that were not asked for.
        other: Frames without an IP packet.
        lost: Frames that the kernel had no room for.
    """

    packets: Counter[int] = field(default_factory=Counter)
    packet_bytes: Counter[int] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    left_out: int = 0
    other: int = 0
    lost: int = 0

    @property
    def shown(self) -> int:
        """All packets shown."""
        return self.packets.total()

    def add(self, packet: Packet, events: list[Event]) -> None:
        """Count a packet that is shown."""
        self.packets[packet.dscp] += 1
        self.packet_bytes[packet.dscp] += packet.length_bytes
        for event in events:
            self.messages[fields_of(event)["message"] or "undecoded"] += 1


def final_fields(counts: Counts) -> dict[str, Any]:
    """What has passed, as the last object."""
    return {
        "event": "final",
        "packets": counts.shown,
        "by_dscp": {
            str(dscp): {"packets": packets, "bytes": counts.packet_bytes[dscp]}
            for dscp, packets in sorted(counts.packets.items())
        },
        "messages": dict(sorted(counts.messages.items())),
        "left_out": counts.left_out,
        "other": counts.other,
        "lost": counts.lost,
    }


def final_lines(counts: Counts) -> list[str]:
    """What has passed."""
    rest = []
    if counts.left_out:
        rest.append(f"{counts.left_out:,} not asked for")
    if counts.other:
        rest.append(f"{counted(counts.other, 'frame')} without IP")
    if counts.lost:
        rest.append(f"{counts.lost:,} lost, because they came too fast")
    lines = ["; ".join([counted(counts.shown, "packet"), *rest])]
    if counts.packets:
        lines.append(f"{'DSCP':8} {'packets':>10} {'bytes':>15}")
    for dscp, packets in sorted(counts.packets.items()):
        name = f"{dscp} {dscp_name(dscp)}" if dscp else "0"
        lines.append(f"{name:8} {packets:>10,} {counts.packet_bytes[dscp]:>15,}")
    if counts.messages:
        lines.append("MS-QLPB:")
        lines += [f"  {count:>8,} {name}" for name, count in sorted(counts.messages.items())]
    return lines


class Reporter:
    """Writes to standard output.

    Args:
        as_json: Objects instead of lines.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._width = None
        if sys.stdout.isatty():
            self._width = max(_LEAST_WIDTH, shutil.get_terminal_size().columns)

    def begin(self, interface: str | None) -> None:
        """Write that all packets are seen from now on."""
        if self._as_json:
            text = json.dumps({"event": "looking", "interface": interface})
        else:
            text = f"looking at {interface or 'all interfaces'}; Ctrl-C ends it"
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def tell(self, frame: Frame, packet: Packet, events: list[Event]) -> None:
        """Write a packet; it may wait for `flush`."""
        if self._as_json:
            text = json.dumps(packet_fields(frame, packet, events))
        else:
            text = line_of(frame, packet, events, self._width)
        sys.stdout.write(text + "\n")

    def flush(self) -> None:
        """Show what was written."""
        sys.stdout.flush()

    def end(self, counts: Counts) -> None:
        """Write what has passed."""
        text = json.dumps(final_fields(counts)) if self._as_json else "\n".join(final_lines(counts))
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

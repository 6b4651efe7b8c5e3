"""Progress for people: a picture that changes on a terminal, or one line a second elsewhere.

Both show the last half second as the receiver's interface saw it. Losses are gaps in the stream's
numbers so far; what the queue still holds is not yet one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from openqwave.cli.demo.performing import Picture
from openqwave.cli.demo.stage import BULK, LINK_BPS, STREAM, Moment
from openqwave.cli.demo.wire import Wire
from openqwave.cli.views import PlainView

# Long enough for the rate of 400 packets, short enough to call it now.
WINDOW_NS = 500_000_000
# Cells of the delay's history; with its label, it fits 80 columns.
HISTORY_CELLS = 54
BARS = "▁▂▃▄▅▆▇█"
# The full height of the history: what a full queue holds, and a little.
HISTORY_TOP_NS = 110_000_000

NAMES = {STREAM: "video stream", BULK: "bulk"}
STYLES = {STREAM: "bold cyan", BULK: "yellow"}


@dataclass(frozen=True, slots=True)
class Now:
    """One stream at present, as text that is ready to be shown."""

    dscp: str
    rate: str
    lost: str
    delay: str


def _now(moment: Moment, wire: Wire, stream: int) -> Now:
    track = wire.tracks[stream]
    # Not of the time after the end, when nobody sends.
    over_ns = round(max(0.0, moment.elapsed_s - 2 * moment.half_s) * 1e9)
    now_ns = time.time_ns() - over_ns
    span = track.span(now_ns - WINDOW_NS, now_ns)
    account = wire.accounts.get((stream, track.phase))
    expected = account.received + account.lost if account else 0
    return Now(
        dscp="-" if track.dscp is None else str(track.dscp),
        rate=f"{span.rate_bps / 1e6:.1f}",
        lost=f"{100 * account.lost / expected:.1f}" if account and expected else "-",
        delay="-" if span.median_ns is None else f"{span.median_ns / 1e6:.1f}",
    )


def _half_name(moment: Moment) -> str:
    return "without a flow" if moment.flow is None else "in a flow"


class LineView(PlainView):
    """Writes one line a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._second = 0
        self._in_flow = False

    def show(self, moment: Moment, wire: Wire) -> None:
        """Write a line if a second has begun since the last, or the flow has."""
        second = int(moment.elapsed_s)
        if moment.flow and not self._in_flow:
            self._in_flow = True
            # In place of this second's line: it would tell of the time before.
            self._second = second
            self._console.print(f"{second:3d} s {_flow_line(moment)}", soft_wrap=True)
        if second <= self._second or moment.elapsed_s > 2 * moment.half_s:
            return
        self._second = second
        stream, bulk = _now(moment, wire, STREAM), _now(moment, wire, BULK)
        self._console.print(
            f"{second:3d} s {_half_name(moment):14} stream {stream.rate:>4} Mbit/s, "
            f"{stream.lost:>4} % lost, {stream.delay:>5} ms, DSCP {stream.dscp:>2}, "
            f"bulk {bulk.rate}",
            soft_wrap=True,
        )


class LiveView(Picture):
    """Redraws a picture in place, once a moment and from no thread of its own."""

    def show(self, moment: Moment, wire: Wire) -> None:
        """Redraw."""
        self.redraw(_picture(moment, wire))


def _picture(moment: Moment, wire: Wire) -> RenderableType:
    total_s = 2 * moment.half_s
    elapsed_s = min(max(moment.elapsed_s, 0.0), total_s)
    clock = Table.grid(padding=(0, 2, 0, 0))
    clock.add_row(
        Text(f"{_half_name(moment):14}", style="bold green" if moment.flow else "bold red"),
        ProgressBar(total=total_s, completed=elapsed_s, width=36),
        f"{elapsed_s:.0f} of {total_s:.0f} s",
    )
    return Group(
        f"sender ---- router ==== {LINK_BPS // 1_000_000} Mbit/s ==== receiver",
        "",
        clock,
        "",
        _table(moment, wire),
        "",
        _history(moment, wire),
        Text(_flow_line(moment), style="dim"),
    )


def _table(moment: Moment, wire: Wire) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    for heading in ("DSCP on the wire", "Mbit/s", "lost, %", "delay, ms"):
        table.add_column(heading, justify="right", header_style="dim")
    for stream, name in NAMES.items():
        now = _now(moment, wire, stream)
        table.add_row(Text(name, style=STYLES[stream]), now.dscp, now.rate, now.lost, now.delay)
    return table


def _history(moment: Moment, wire: Wire) -> Text:
    """Draw the stream's delay over the whole run, one cell a bar."""
    now_ns = time.time_ns()
    started_ns = now_ns - round(moment.elapsed_s * 1e9)
    cell_ns = round(2e9 * moment.half_s / HISTORY_CELLS)
    cells = []
    for number in range(HISTORY_CELLS):
        from_ns = started_ns + number * cell_ns
        if from_ns > now_ns:
            cells.append(" ")
            continue
        median_ns = wire.tracks[STREAM].span(from_ns, from_ns + cell_ns).median_ns
        height = 0 if median_ns is None else median_ns * len(BARS) // HISTORY_TOP_NS
        cells.append(" " if median_ns is None else BARS[min(max(height, 0), len(BARS) - 1)])
    middle = HISTORY_CELLS // 2
    line = Text("delay 0-110 ms ", style="dim")
    line.append("".join(cells[:middle]), style="red")
    line.append("|", style="dim")
    line.append("".join(cells[middle:]), style="green")
    return line


def _flow_line(moment: Moment) -> str:
    if moment.flow is None:
        return "In the middle, the video program calls QOSAddSocketToFlow and QOSSetFlow."
    took_ns = moment.flow["add_socket_ns"] + moment.flow["set_flow_ns"]
    return (
        f"QOSAddSocketToFlow, QOSSetFlow: flow {moment.flow['flow_id']}, "
        f"DSCP {moment.flow['dscp']}, in {took_ns / 1e6:.1f} ms"
    )

"""Progress for people: a picture that changes on a terminal, or a line for each event elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from openqwave.cli.demo.adaptive.script import LINK_BPS, NAMES, A
from openqwave.cli.demo.performing import Picture
from openqwave.cli.views import PlainView

if TYPE_CHECKING:
    from openqwave.cli.demo.adaptive.crossing import Passed
    from openqwave.cli.demo.adaptive.stage import Moment, Records

# Long enough for a rate, short enough to call it now. What is on the link is not counted yet.
WINDOW_NS = 300_000_000
BAR_CELLS = 40
BARS = "▁▂▃▄▅▆▇█"
# The full height of the delay's history: what a full queue holds, and a little.
HISTORY_TOP_NS = 110_000_000
HISTORY_CELLS, CELL_NS = 56, 500_000_000
EVENTS = 8
STYLES = {1: "bold cyan", 2: "bold green"}
OTHERS_STYLE = "yellow"


class LineView(PlainView):
    """Writes a line for each call that returned, and for others' coming and going."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: set[str] = set()

    def show(self, moment: Moment, records: Records) -> None:
        """Write what is new."""
        for line in _events(moment, records):
            if line not in self._told:
                self._console.print(line, soft_wrap=True)
                self._told.add(line)


class LiveView(Picture):
    """Redraws a picture in place, once a moment and from no thread of its own."""

    def show(self, moment: Moment, records: Records) -> None:
        """Redraw."""
        self.redraw(_picture(moment, records))


def _events(moment: Moment, records: Records) -> list[str]:
    """What has happened, as far as it is known, in order of time."""
    known = [(call.ended_ns, call.sentence) for call in records.calls]
    if records.visit is not None:
        known.append((records.visit.came_ns, "others come"))
        if moment.now_ns >= records.visit.went_ns:
            known.append((records.visit.went_ns, "others are gone"))
    known.sort()
    return [f"{max(0.0, records.story_s(at_ns)):5.1f} s  {words}" for at_ns, words in known]


def _now(moment: Moment, records: Records, stream: int) -> Passed:
    until_ns = moment.now_ns + records.ahead_ns
    return records.crossing.tracks[stream].span(until_ns - WINDOW_NS, until_ns)


def _picture(moment: Moment, records: Records) -> RenderableType:
    bars = Table.grid(padding=(0, 2, 0, 0))
    bars.add_column(width=9)
    bars.add_column(width=BAR_CELLS)
    bars.add_column(justify="right", width=12)
    bars.add_column(justify="right", width=9)
    for stream, name in NAMES.items():
        now = _now(moment, records, stream)
        delay = f"{now.delays_ns['p50'] / 1e6:.0f} ms" if now.delays_ns else "-"
        bars.add_row(
            Text(f"stream {name}", style=STYLES[stream]),
            _bar(now.rate_bps, STYLES[stream]),
            f"{now.rate_bps / 1e6:.1f} Mbit/s",
            delay,
        )
    others_bps = records.pages[-1].others_bps if records.pages else 0
    bars.add_row(
        Text("others", style=OTHERS_STYLE),
        _bar(others_bps, OTHERS_STYLE),
        f"{others_bps / 1e6:.1f} Mbit/s",
    )
    return Group(
        f"near ==== {LINK_BPS // 1_000_000} Mbit/s ==== far",
        "",
        bars,
        "",
        _history(moment, records),
        _belief(records),
        "",
        *_events(moment, records)[-EVENTS:],
    )


def _bar(rate_bps: float, style: str) -> Text:
    """A bar whose whole length is the link."""
    cells = min(BAR_CELLS, round(BAR_CELLS * rate_bps / LINK_BPS))
    return Text("█" * cells, style=style) + Text("·" * (BAR_CELLS - cells), style="dim")


def _history(moment: Moment, records: Records) -> Text:
    """Draw the first stream's delay over the whole run, one cell a bar."""
    line = Text("delay 0-110 ms ", style="dim")
    track = records.crossing.tracks[A]
    started_ns = records.started_ns + records.ahead_ns
    cells = min(HISTORY_CELLS, (moment.now_ns - records.started_ns) // CELL_NS + 1)
    for number in range(max(0, cells)):
        from_ns = started_ns + number * CELL_NS
        delays = track.span(from_ns, from_ns + CELL_NS).delays_ns
        height = delays["max"] * len(BARS) // HISTORY_TOP_NS if delays else -1
        line.append(" " if height < 0 else BARS[min(height, len(BARS) - 1)], style="cyan")
    return line


def _belief(records: Records) -> Text:
    if not records.beliefs:
        return Text("nothing is known of the path yet", style="dim")
    belief = records.beliefs[-1]
    available = "?" if belief.available_bps is None else f"{belief.available_bps / 1e6:.1f}"
    words = f"believed: {available} Mbit/s available, "
    if belief.is_congested:
        return Text(words + f"congested: {belief.reason}", style="bold red")
    return Text(words + ("not congested" if belief.is_congested is False else "nothing else yet"))

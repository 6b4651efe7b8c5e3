"""Progress for people: a picture that changes on a terminal, or one line a second elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from openqwave.cli.demo.performing import Picture
from openqwave.cli.demo.probe.cases import CASES, Case
from openqwave.cli.probe.rendering import shown
from openqwave.cli.views import PlainView
from openqwave.model.estimates import Estimate, Estimated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openqwave.cli.demo.probe.stage import Moment, Record

MBPS = 1_000_000
# What one measurement takes with its program's start, for the bar; it may take longer.
USUAL_S = 3.8
BAR_CELLS = 24


class LineView(PlainView):
    """Writes what the measuring program says, which is a line a second, and what came out."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._case: Case | None = None
        self._said = ""

    def show(self, moment: Moment, records: Sequence[Record]) -> None:
        """Write a line if there is a new one, the link's name before its first, and its result."""
        if moment.case is not self._case:
            self._case, self._said = moment.case, ""
            self._console.print(f"{moment.case.title}:", soft_wrap=True)
        if moment.said != self._said:
            self._said = moment.said
            self._console.print(moment.said, soft_wrap=True)
        if moment.is_over:
            self._console.print(f"       {_answer(records[-1])}", soft_wrap=True)


class LiveView(Picture):
    """Redraws a picture in place, once a moment and from no thread of its own."""

    def show(self, moment: Moment, records: Sequence[Record]) -> None:
        """Redraw."""
        self.redraw(_picture(moment, records))


def _picture(moment: Moment, records: Sequence[Record]) -> RenderableType:
    known = {record.case: record for record in records}
    table = Table.grid(padding=(0, 2, 0, 0))
    for case in CASES:
        if case in known:
            table.add_row(Text(case.title, style="green"), _answer(known[case]))
        elif case is moment.case:
            bar = ProgressBar(USUAL_S, min(moment.elapsed_s, USUAL_S), BAR_CELLS)
            table.add_row(Text(case.title, style="bold"), bar)
        else:
            table.add_row(Text(case.title, style="dim"), "")
    said = moment.said.strip() or "starting"
    return Group("near ==== link ==== far, one after the other", "", table, "", said)


def _answer(record: Record) -> str:
    report = record.outcome.report
    capacity, available = _brief(report.capacity_bps), _brief(report.available_bps)
    return f"{capacity} Mbit/s, {available} of it free"


def _brief(answer: Estimated) -> str:
    return shown(answer, MBPS).value if isinstance(answer, Estimate) else "?"

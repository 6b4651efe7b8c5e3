"""The whole of `qwave demo adaptive`, in order: can it run, play, table, chart, exit status."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from openqwave.cli.demo.command import CANNOT_RUN, KEPT, NOT_KEPT, could_not_run, on_stage
from openqwave.cli.demo.performing import say, tell, view_for
from openqwave.cli.interruption import Interruption

if TYPE_CHECKING:
    from openqwave.cli.demo.adaptive.figures import Figures
    from openqwave.cli.demo.adaptive.stage import Records


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for.

    Attributes:
        chart: Where to draw; None for nowhere.
        as_json: One JSON object on standard output, and nothing else there.
        live: A live view where output is a terminal.
    """

    chart: Path | None = None
    as_json: bool = False
    live: bool = True


def run_demo(options: Options) -> int:
    """Run it; return the exit status. Everything else is on standard output and error."""
    return on_stage(options.chart, lambda target: _perform(options, target))


def _perform(options: Options, target: Path | None) -> int:
    # Here, because these load the netlink library, which nothing before has any use for.
    from openqwave.cli.demo.adaptive.figures import figures_of
    from openqwave.cli.demo.adaptive.stage import Stage
    from openqwave.cli.demo.adaptive.view import LineView, LiveView

    console = Console(highlight=False, markup=False, emoji=False, stderr=options.as_json)
    try:
        with Interruption() as interruption:
            with Stage(interruption) as stage:
                with view_for(options, console, LineView, LiveView) as view:
                    for moment in stage.moments():
                        view.show(moment, stage.records)
                records = stage.records
            interruption.check()
    except (OSError, RuntimeError) as error:
        return could_not_run(error)
    return finish(options, console, records, figures_of(records), target)


def finish(
    options: Options, console: Console, records: Records, figures: Figures, target: Path | None
) -> int:
    """Print and draw what was found; return the exit status."""
    from openqwave.cli.demo.adaptive.report import excuse, print_report

    def draw(path: Path) -> None:
        from openqwave.cli.demo.adaptive.chart import draw as draw_chart

        draw_chart(records, figures, path)

    say(options, console, figures.to_json(), lambda: print_report(console, figures), draw, target)
    if figures.kept:
        return KEPT
    if figures.punctuality.is_busy:
        tell(excuse(figures))
        return CANNOT_RUN
    return NOT_KEPT

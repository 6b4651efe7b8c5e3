"""The whole of `qwave demo`, in order: can it run, play, table, chart, exit status.

`on_stage` is what every demo needs: a chart that can be written, namespaces, and an end in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from openqwave.cli.demo import chart
from openqwave.cli.demo.figures import figures_of
from openqwave.cli.demo.performing import say, tell, view_for
from openqwave.cli.demo.view import LineView, LiveView
from openqwave.cli.interruption import Interrupted, Interruption
from openqwave.cli.plot import target as plot_target
from openqwave.lab.namespaces import Rights, availability, enter_user_namespace

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT, NOT_KEPT, CANNOT_RUN = 0, 1, 2
# 128 and SIGINT's number, as a shell tells it.
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for.

    Attributes:
        half_s: Length of each half.
        chart: Where to draw; None for nowhere.
        as_json: One JSON object on standard output, and nothing else there.
        live: A live view where output is a terminal.
    """

    half_s: float
    chart: Path | None = None
    as_json: bool = False
    live: bool = True


def run_demo(options: Options) -> int:
    """Run it; return the exit status. Everything else is on standard output and error."""
    return on_stage(options.chart, lambda target: _perform(options, target))


def on_stage(chart_path: Path | None, perform: Callable[[Path | None], int]) -> int:
    """Let a demo perform where network namespaces can be had; return the exit status.

    Args:
        chart_path: Where to draw; None for nowhere.
        perform: The demo, called with where to draw, if it can be drawn.
    """
    try:
        return _on_stage(chart_path, perform)
    except Interrupted as interrupted:
        tell("Interrupted; everything is taken down.")
        return interrupted.status
    except KeyboardInterrupt:
        tell("Interrupted.")
        return INTERRUPTED


def _on_stage(target: Path | None, perform: Callable[[Path | None], int]) -> int:
    if target is not None and (refusal := plot_target.refusal(target)):
        tell(refusal)
        return CANNOT_RUN
    if target is not None and not plot_target.can_draw():
        tell(f"No chart: {plot_target.ADVICE}.")
        target = None
    # Before anything starts a thread: a process with several cannot enter a user namespace.
    available = availability()
    if not available:
        tell(f"The demo needs network namespaces: {available.reason}")
        return CANNOT_RUN
    if available.rights is Rights.USER_NAMESPACE:
        enter_user_namespace()
    return perform(target)


def could_not_run(error: OSError | RuntimeError) -> int:
    """Say why a performance came to nothing; return the exit status."""
    # Only the kernel's errors have a strerror.
    tell(f"The demo could not run: {getattr(error, 'strerror', None) or error}")
    return CANNOT_RUN


def _perform(options: Options, target: Path | None) -> int:
    # Here, because these load the netlink library, which nothing before has any use for.
    from openqwave.cli.demo.report import print_report
    from openqwave.cli.demo.stage import Stage

    console = Console(highlight=False, markup=False, emoji=False, stderr=options.as_json)
    try:
        with Interruption() as interruption:
            with Stage(options.half_s, interruption) as stage:
                with view_for(options, console, LineView, LiveView) as view:
                    for moment in stage.moments():
                        view.show(moment, stage.wire)
                records = stage.records()
            interruption.check()
    except (OSError, RuntimeError) as error:
        return could_not_run(error)
    figures = figures_of(records)
    say(
        options,
        console,
        figures.to_json(),
        lambda: print_report(console, figures),
        lambda path: chart.draw(records, figures, path),
        target,
    )
    return KEPT if figures.kept else NOT_KEPT

"""`qwave top`, in order: what the terminal can, looks, and a screen or lines; exit statuses."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass

from openqwave.cli.interruption import Interrupted, Interruption
from openqwave.cli.overview.showing import DUMB
from openqwave.cli.top.looks import looks
from openqwave.cli.top.plain import write_changes

ENDED, CANNOT_RUN = 0, 2


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for.

    Attributes:
        is_plain: Lines instead of a screen.
        has_colour: Colours where the terminal has them.
        interval_s: How often to look.
        for_s: For how long; None for until it is ended.
    """

    is_plain: bool = False
    has_colour: bool = True
    interval_s: float = 1.0
    for_s: float | None = None


def run_top(options: Options) -> int:
    """Show it; return the exit status."""
    with Interruption() as interruption:
        if options.is_plain:
            with contextlib.suppress(Interrupted):
                write_changes(looks(interruption, options.interval_s, options.for_s))
            return ENDED
        obstacle = _obstacle()
        if obstacle:
            sys.stderr.write(f"{obstacle}\n")
            return CANNOT_RUN
        # Here, because it takes longer to load than all other commands take in all.
        from openqwave.cli.top.screen import TopApp

        if not options.has_colour:
            # Where the library looks for it.
            os.environ["NO_COLOR"] = "1"
        for name in ("LINES", "COLUMNS"):
            # They would count for more than the terminal's size, which may change.
            os.environ.pop(name, None)
        app = TopApp(interruption, options.interval_s, options.for_s)
        try:
            app.run(mouse=False)
        finally:
            interruption.interrupt()
        return ENDED if app.return_code is None else app.return_code


def _obstacle() -> str:
    """Why there can be no full screen, and what to use instead; empty where there can."""
    # The library draws on standard error and reads keys from standard input.
    streams = (sys.stdin, "input"), (sys.stdout, "output"), (sys.stderr, "error")
    missing = [name for stream, name in streams if stream is None or not stream.isatty()]
    if missing:
        return (
            f"`qwave top` needs a terminal, and standard {missing[0]} is none: use "
            "`qwave flows --watch` or `qwave top --plain`, which write lines."
        )
    if os.environ.get("TERM", "") in DUMB:
        return (
            "This terminal (TERM) cannot move its cursor: use `qwave top --plain`, which writes "
            "lines."
        )
    return ""

"""The options of `qwave top`; what it does is in `command`."""

from typing import Annotated

import typer

from openqwave.cli.bounds import check_seconds

top_app = typer.Typer(rich_markup_mode="markdown")


@top_app.command()
def top(
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Lines that say what changes, as for a screen reader."),
    ] = False,
    no_colour: Annotated[
        bool,
        typer.Option(
            "--no-colour", "--no-color", help="No colours; as where NO_COLOR is in the environment."
        ),
    ] = False,
    interval: Annotated[
        float,
        typer.Option(
            "--interval", metavar="SECONDS", help="Look this often.", callback=check_seconds
        ),
    ] = 1.0,
    for_seconds: Annotated[
        float | None,
        typer.Option(
            "--for",
            metavar="SECONDS",
            help="End after so long; otherwise at q or Ctrl-C.",
            callback=check_seconds,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show flows, paths, what was refused and what happens, live, on a full screen.

    Keys sort, filter and freeze; h has them all. Goes on while the service is away. Who is not
    root sees only their own flows.

    Exit status: 0 at the end, or 2 where there is no terminal.
    """
    from openqwave.cli.top.command import Options, run_top

    raise typer.Exit(run_top(Options(plain, not no_colour, interval, for_seconds)))

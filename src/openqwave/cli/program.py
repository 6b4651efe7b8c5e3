"""The options of `qwave` and of its subcommands; what they do is elsewhere."""

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

# A median and a 99th percentile of a few hundred packets mean something; fewer do not.
SHORTEST_S = 0.5
# Longer shows nothing new; every packet's time is kept, which makes 12 MB a minute.
LONGEST_S = 60.0
# Both halves, with building and drawing, in less than half a minute.
DEFAULT_S = 9.0

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain text, except that the lines of a paragraph are joined.
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"qwave {version('openqwave')}")
        raise typer.Exit


def _check_seconds(seconds: float) -> float:
    # Not by the parser's own bounds, which let "nan" pass.
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise typer.BadParameter(f"{seconds:g} is not from {SHORTEST_S:g} to {LONGEST_S:g}.")
    return seconds


@app.callback()
def qwave(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Windows' qWAVE QoS subsystem, open, for Linux."""
    # The version has been printed, by its callback, before this is called.
    del show_version


@app.command()
def demo(
    chart: Annotated[
        Path | None,
        typer.Option(
            "--chart",
            metavar="PATH",
            help="Draw delay and rate over time, as .png or .svg.",
        ),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds",
            metavar="N",
            help=f"Length of each half, {SHORTEST_S:g} to {LONGEST_S:g}.",
            callback=_check_seconds,
        ),
    ] = DEFAULT_S,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all figures as one JSON object.")
    ] = False,
    live: Annotated[
        bool,
        typer.Option(
            "--live/--no-live",
            help="A live view where output is a terminal; else one line a second.",
        ),
    ] = True,
) -> None:
    """Show a video stream on a full link, first without a flow, then in one.

    Builds two hosts with a router between them, in network namespaces of its own. The link
    carries 20 Mbit/s; the stream wants 8 and a flood beside it 30. Halfway, the stream's program
    calls QOSAddSocketToFlow and QOSSetFlow. Needs root or user namespaces; touches nothing
    outside, and leaves nothing behind.

    Exit status: 0 if the stream in its flow lost at most 0.1 %, was delayed less than a quarter
    as long as before and carried its mark; 1 if not; 2 if the demo cannot run here.
    """
    from openqwave.cli.demo.command import Options, run_demo

    raise typer.Exit(run_demo(Options(seconds, chart, as_json=as_json, live=live)))

"""The options of `qwave` and of its subcommands; what they do is elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from openqwave.cli.bounds import check_range, check_run_seconds
from openqwave.cli.capture.options import capture_app
from openqwave.cli.completing import hosts
from openqwave.cli.doctor.options import doctor_app
from openqwave.cli.overview.options import overview_app
from openqwave.cli.policy.options import policy_app
from openqwave.cli.run.options import run_app
from openqwave.cli.service.options import service_app
from openqwave.cli.sink.options import sink_app
from openqwave.cli.top.options import top_app

# A median and a 99th percentile of a few hundred packets mean something; fewer do not.
SHORTEST_S = 0.5
# Longer shows nothing new; every packet's time is kept, which makes 12 MB a minute.
LONGEST_S = 60.0
# Both halves, with building and drawing, in less than half a minute.
DEFAULT_S = 9.0

# A measurement that is shorter has no samples; one that is longer is `--watch`.
SHORTEST_PROBE_S, LONGEST_PROBE_S = 0.3, 60.0

# Options of all demos.
FiguresAsJson = Annotated[
    bool, typer.Option("--json", help="Print all figures as one JSON object.")
]
Live = Annotated[
    bool,
    typer.Option(
        "--live/--no-live", help="A live view where output is a terminal; else lines as it goes."
    ),
]

demo_app = typer.Typer(rich_markup_mode="markdown")


def _program() -> typer.Typer:
    program = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        # Plain text, except that the lines of a paragraph are joined.
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    program.add_typer(demo_app, name="demo")
    program.add_typer(sink_app)
    program.add_typer(overview_app)
    program.add_typer(run_app)
    program.add_typer(capture_app)
    program.add_typer(top_app)
    program.add_typer(doctor_app)
    program.add_typer(policy_app, name="policy")
    program.add_typer(service_app, name="service")
    return program


app = _program()


def _print_version(wanted: bool) -> None:
    if wanted:
        # Here, because it takes longer to load than anything else of this module.
        from importlib.metadata import version

        typer.echo(f"qwave {version('openqwave')}")
        raise typer.Exit


def _check_seconds(seconds: float) -> float:
    return check_range(seconds, SHORTEST_S, LONGEST_S)


def _check_probe_seconds(seconds: float | None) -> float | None:
    return None if seconds is None else check_range(seconds, SHORTEST_PROBE_S, LONGEST_PROBE_S)


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


@demo_app.callback(invoke_without_command=True)
def demo(
    context: typer.Context,
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
    as_json: FiguresAsJson = False,
    live: Live = True,
) -> None:
    """Show a video stream on a full link, first without a flow, then in one.

    Builds two hosts with a router between them, in network namespaces of its own. The link
    carries 20 Mbit/s; the stream wants 8 and a flood beside it 30. Halfway, the stream's program
    calls QOSAddSocketToFlow and QOSSetFlow. Needs root or user namespaces; touches nothing
    outside, and leaves nothing behind.

    `qwave demo probe` shows how paths are measured, `qwave demo adaptive` what programs make of it.

    Exit status: 0 if the stream in its flow lost at most 0.1 %, was delayed less than a quarter
    as long as before and carried its mark; 1 if not; 2 if the demo cannot run here.
    """
    if context.invoked_subcommand is not None:
        sources = (context.get_parameter_source(name) for name in context.params)
        if any(source is not None and source.name == "COMMANDLINE" for source in sources):
            raise typer.BadParameter("Options go after the name of the other demo.")
        return
    from openqwave.cli.demo.command import Options, run_demo

    raise typer.Exit(run_demo(Options(seconds, chart, as_json=as_json, live=live)))


@demo_app.command("probe")
def demo_probe(
    chart: Annotated[
        Path | None,
        typer.Option(
            "--chart",
            metavar="PATH",
            help="Draw delays, dispersion and results, as .png or .svg.",
        ),
    ] = None,
    as_json: FiguresAsJson = False,
    live: Live = True,
) -> None:
    """Measure three links of unlike kind, and show the estimates beside the truth.

    Builds two hosts in network namespaces of its own, and between them one link after the other:
    one that is half full, one whose receiver stamps packets in clumps, and a token bucket.
    `qwave sink` runs on one host and `qwave probe` on the other; what the links carried
    meanwhile, they say themselves. Takes 15 seconds. Needs root or user namespaces, and
    /dev/net/tun; touches nothing outside, and leaves nothing behind.

    Exit status: 0 if every number holds the truth within its bounds, or is said not to be known;
    1 if not; 2 if the demo cannot run here, or the machine was too busy to judge.
    """
    from openqwave.cli.demo.probe.command import Options, run_demo

    raise typer.Exit(run_demo(Options(chart, as_json=as_json, live=live)))


@demo_app.command("adaptive")
def demo_adaptive(
    chart: Annotated[
        Path | None,
        typer.Option(
            "--chart",
            metavar="PATH",
            help="Draw rates, delays and calls over time, as .png or .svg.",
        ),
    ] = None,
    as_json: FiguresAsJson = False,
    live: Live = True,
) -> None:
    """Show two streams that adapt to a path which others fill, and what they are told of it.

    Builds two hosts with a link of 20 Mbit/s between them, in network namespaces of its own.
    `qwave sink` runs on one host; a program on the other has two streams of 12 Mbit/s admitted.
    The second is refused and takes what is there; others come and it is told of congestion; they
    go, and it is told that its rate is there again. Takes 30 seconds. Needs root or user
    namespaces, and /dev/net/tun; touches nothing outside, and leaves nothing behind.

    Exit status: 0 if everything happened that should, when it should; 1 if not; 2 if the demo
    cannot run here, or the machine was too busy to judge.
    """
    from openqwave.cli.demo.adaptive.command import Options, run_demo

    raise typer.Exit(run_demo(Options(chart, as_json=as_json, live=live)))


@app.command()
def probe(
    host: Annotated[
        str | None,
        typer.Argument(
            metavar="HOST",
            help="Name or address of a host that runs `qwave sink`.",
            autocompletion=hosts,
            show_default=False,
        ),
    ] = None,
    ipv4: Annotated[bool, typer.Option("-4", help="Use IPv4.")] = False,
    ipv6: Annotated[bool, typer.Option("-6", help="Use IPv6.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A first idea: the whole command within a second.")
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            metavar="N",
            help=f"How long to measure, {SHORTEST_PROBE_S:g} to {LONGEST_PROBE_S:g}; "
            "otherwise 3 at most, and 5 above 120 Mbit/s.",
            callback=_check_probe_seconds,
            show_default=False,
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Go on after the result, with a line a second, until Ctrl-C."),
    ] = False,
    for_seconds: Annotated[
        float | None,
        typer.Option(
            "--for",
            metavar="SECONDS",
            help="With --watch: end after so long.",
            callback=check_run_seconds,
            show_default=False,
        ),
    ] = None,
    priority: Annotated[
        bool, typer.Option("--no-priority", help="Do not try 802.1p priority.")
    ] = False,
    off_link: Annotated[
        bool,
        typer.Option(
            "--off-link",
            help="HOST may be beyond a router: ordinary TTL, no priority check. The sink has to "
            "allow this host.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; with --watch, one a line.")
    ] = False,
    samples: Annotated[
        Path | None,
        typer.Option(
            "--samples",
            metavar="FILE",
            help="Record every sample, as lines of JSON.",
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay",
            metavar="FILE",
            help="Compute the result of such a file again, without a network.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Draw delays, rates and results over time, as .png or .svg.",
        ),
    ] = None,
) -> None:
    """Measure the path to a host that runs `qwave sink`.

    Says what its narrowest link carries, what of that is free, round-trip time, jitter, loss,
    whether priority tags survive and what kind of link it is, each with the bounds that the
    samples support, or why it is not known. Sends about 1 MB in 3 seconds.

    Exit status: 0 if capacity and available bandwidth are known; 3 if one of them is not; 4 if
    there is no sink; 2 if it cannot be measured at all; 130 if it was interrupted.
    """
    if (host is None) == (replay is None):
        raise typer.BadParameter("Name a host, or a file to --replay.")
    if ipv4 and ipv6:
        raise typer.BadParameter("-4 and -6 exclude each other.")
    if quick and seconds is not None:
        raise typer.BadParameter("--quick and --seconds exclude each other.")
    if for_seconds is not None and not watch:
        raise typer.BadParameter("--for goes with --watch.")
    from openqwave.cli.probe.command import Options, run_probe, run_replay

    if replay is not None:
        raise typer.Exit(run_replay(replay, as_json=as_json, plot=plot))
    options = Options(
        host or "",
        version=4 if ipv4 else 6 if ipv6 else None,
        seconds=seconds,
        is_quick=quick,
        is_off_link=off_link,
        checks_priority=not priority,
        watches=watch,
        watch_s=for_seconds,
        as_json=as_json,
        samples=samples,
        plot=plot,
    )
    raise typer.Exit(run_probe(options))

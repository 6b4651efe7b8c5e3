"""The options of `qwave flows`, `paths`, `refusals` and `status`; what they do is in `command`."""

from pathlib import Path
from typing import Annotated

import typer

from openqwave.cli.bounds import check_seconds
from openqwave.cli.completing import hosts, processes, users

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document; with --watch, one a line.")
]
Watches = Annotated[bool, typer.Option("--watch", help="Look again each second, until Ctrl-C.")]
Interval = Annotated[
    float | None,
    typer.Option(
        "--interval",
        metavar="SECONDS",
        help="With --watch: look this often.",
        callback=check_seconds,
        show_default=False,
    ),
]
ForSeconds = Annotated[
    float | None,
    typer.Option(
        "--for",
        metavar="SECONDS",
        help="With --watch: end after so long.",
        callback=check_seconds,
        show_default=False,
    ),
]

User = Annotated[
    str | None,
    typer.Option(
        "--user",
        metavar="USER",
        help="Only those of this user.",
        autocompletion=users,
        show_default=False,
    ),
]
Pid = Annotated[
    int | None,
    typer.Option(
        "--pid",
        metavar="PID",
        help="Only those of this process.",
        autocompletion=processes,
        show_default=False,
    ),
]

overview_app = typer.Typer(rich_markup_mode="markdown")


def _check_watching(
    watches: bool, interval: float | None, for_seconds: float | None, needed: str = "--watch"
) -> None:
    for value, name in ((interval, "--interval"), (for_seconds, "--for")):
        if value is not None and not watches:
            raise typer.BadParameter(f"{name} goes with {needed}.")


@overview_app.command()
def flows(
    user: User = None,
    pid: Pid = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            metavar="HOST",
            help="Only flows that go to this host.",
            autocompletion=hosts,
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    watch: Watches = False,
    interval: Interval = None,
    for_seconds: ForSeconds = None,
) -> None:
    """Show the flows of all programs of this host.

    Each with its program and user, its sockets and where they send, its type, the marks that its
    packets really carry, its contract, what it sends now, how it stands with its path, and what
    marks it and why. Asks the service, qwaved. Who is not root sees only their own flows.

    Exit status: 0, or 2 if there is no service; 130 if it was interrupted, but watching ends so
    with 0.
    """
    _check_watching(watch, interval, for_seconds)
    from openqwave.cli.overview.command import Options, run_flows

    options = Options(user, pid, host, as_json, watch, interval or 1.0, for_seconds)
    raise typer.Exit(run_flows(options))


@overview_app.command()
def paths(
    host: Annotated[
        str | None,
        typer.Argument(
            metavar="HOST",
            help="Only the path to this host.",
            autocompletion=hosts,
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    watch: Watches = False,
    interval: Interval = None,
    for_seconds: ForSeconds = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Look at the path to HOST each second, for a minute or as --for says, and draw "
            "it over time, as .png or .svg.",
        ),
    ] = None,
) -> None:
    """Show the paths to all hosts that programs of this host take an interest in.

    Each with the way there, what it carries, what of it is free and what contracts hold, and
    whether it is congested; or why it is not measured. Asks the service, qwaved.

    With --plot Ctrl-C ends it early, and what was seen until then is drawn; --watch shows the path
    meanwhile.

    Exit status: as for `qwave flows`.
    """
    if plot is not None and host is None:
        raise typer.BadParameter("--plot goes with HOST.")
    _check_watching(watch or plot is not None, interval, for_seconds, "--watch or --plot")
    from openqwave.cli.overview.command import Options, run_paths

    options = Options(None, None, host, as_json, watch, interval or 1.0, for_seconds, plot)
    raise typer.Exit(run_paths(options))


@overview_app.command()
def refusals(
    user: User = None,
    pid: Pid = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            metavar="HOST",
            help="Only what was to go to this host.",
            autocompletion=hosts,
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    watch: Watches = False,
    interval: Interval = None,
    for_seconds: ForSeconds = None,
) -> None:
    """Show what programs of this host were refused last, and why.

    Each with the time, the program and user, what was asked for and the reason that the program
    was told; the newest first. Asks the service, qwaved, which forgets them when it ends. Who is
    not root sees only what their own programs were refused.

    Exit status: as for `qwave flows`.
    """
    _check_watching(watch, interval, for_seconds)
    from openqwave.cli.overview.command import Options, run_refusals

    options = Options(user, pid, host, as_json, watch, interval or 1.0, for_seconds)
    raise typer.Exit(run_refusals(options))


@overview_app.command()
def status(
    as_json: AsJson = False,
    watch: Watches = False,
    interval: Interval = None,
    for_seconds: ForSeconds = None,
) -> None:
    """Show how the service is; or that there is none, and what programs do then.

    Exit status: 0, or 3 if there is no service; watching ends with 0.
    """
    _check_watching(watch, interval, for_seconds)
    from openqwave.cli.overview.command import Options, run_status

    options = Options(None, None, None, as_json, watch, interval or 1.0, for_seconds)
    raise typer.Exit(run_status(options))

"""The options of `qwave service`; what it does is in `command`, which loads more."""

from pathlib import Path
from typing import Annotated

import typer

Root = Annotated[
    Path,
    typer.Option(
        "--root", metavar="DIR", help="Another file system, as for an image; nothing is started."
    ),
]
Prefix = Annotated[
    Path, typer.Option("--prefix", metavar="DIR", help="What the program goes below.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

ROOT, PREFIX = Path("/"), Path("/usr/local")

service_app = typer.Typer(rich_markup_mode="markdown", no_args_is_help=True)


@service_app.callback()
def service() -> None:
    """Put qwaved, the service for all programs of this host, in place; or take it away."""


@service_app.command()
def install(root: Root = ROOT, prefix: Prefix = PREFIX, as_json: AsJson = False) -> None:
    """Install the service and start it.

    Copies the program with what it needs below the prefix, makes the user qwave, and has systemd
    start it, now and with the host; where no systemd runs, starts it in the background. All or
    nothing: what goes wrong is undone. Again, it brings what is there up to date. Needs root.

    Exit status: 0 if it runs and answers; 1 if that failed and was undone; 2 if nothing was tried.
    """
    from openqwave.cli.service.command import Options, run_install

    raise typer.Exit(run_install(Options(root, prefix, as_json=as_json)))


@service_app.command()
def status(root: Root = ROOT, prefix: Prefix = PREFIX, as_json: AsJson = False) -> None:
    """Say whether the service is installed, runs and answers, and why not.

    Exit status: 0 if it answers; 3 if not.
    """
    from openqwave.cli.service.command import Options, run_status

    raise typer.Exit(run_status(Options(root, prefix, as_json=as_json)))


@service_app.command()
def uninstall(root: Root = ROOT, prefix: Prefix = PREFIX, as_json: AsJson = False) -> None:
    """Stop the service and remove all that was installed, and what it has learnt.

    A configuration that was changed is kept, and named. Needs root.

    Exit status: 0 if nothing is left; 1 if something could not be removed; 2 if nothing was tried.
    """
    from openqwave.cli.service.command import Options, run_uninstall

    raise typer.Exit(run_uninstall(Options(root, prefix, as_json=as_json)))

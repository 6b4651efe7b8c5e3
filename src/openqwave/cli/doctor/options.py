"""The options of `qwave doctor`; what it does is in `command`."""

from typing import Annotated

import typer

from openqwave.cli.completing import hosts

doctor_app = typer.Typer(rich_markup_mode="markdown")


@doctor_app.command()
def doctor(
    host: Annotated[
        str | None,
        typer.Argument(
            metavar="HOST",
            help="Look at the way to this host, and at nothing but the interface that leads there.",
            autocompletion=hosts,
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what this host can and cannot do, why, and what would help.

    Looks at the kernel, rights, queues, the program that marks packets, the firewall, the clock,
    what interfaces do to packets, QoS that others have set up, and the service. Tries for real what
    can be tried, and changes nothing; as root it sees more. With HOST it also connects to port
    2177 there.

    Exit status: 0 if nothing is missing, 1 if something is, 2 if it cannot look; 130 if it was
    interrupted.
    """
    from openqwave.cli.doctor.command import Options, run_doctor

    raise typer.Exit(run_doctor(Options(host, as_json)))

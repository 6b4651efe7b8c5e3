"""The options of `qwave policy`; what it does is in `command`, which loads more."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from openqwave.cli.completing import processes, users

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Another configuration than /etc/qwave/qwaved.toml, and no policy files beside it.",
        show_default=False,
    ),
]
PolicyDirectory = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="DIR",
        help="Another directory of policy files than /etc/qwave/policy.d.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


class Protocol(StrEnum):
    """What --protocol takes."""

    TCP = "tcp"
    UDP = "udp"


policy_app = typer.Typer(rich_markup_mode="markdown", no_args_is_help=True)


@policy_app.callback()
def policy() -> None:
    """Read the administrator's files: check them, show what holds, explain which rule would."""


@policy_app.command()
def check(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILES]",
            help="Policy files, in their order, instead of those of the host.",
            show_default=False,
        ),
    ] = None,
    config: ConfigFile = None,
    directory: PolicyDirectory = None,
) -> None:
    """Say what is wrong with the configuration and its policy files.

    Reads them as the service does, and tells every mistake with its file, line and what would be
    right; then what is no mistake and may not be meant.

    Exit status: 0 if they are good; 1 if the service would refuse them.
    """
    if files and directory is not None:
        raise typer.BadParameter("Name files, or a directory with --policy.")
    for each in files or ():
        if each.is_dir():
            raise typer.BadParameter(f"{each} is a directory: name its files, or use --policy.")
    from openqwave.cli.policy.command import Where, run_check

    raise typer.Exit(run_check(Where(config, files or directory)))


@policy_app.command()
def show(
    config: ConfigFile = None, directory: PolicyDirectory = None, as_json: AsJson = False
) -> None:
    """Show each value of the policy, and the file and line that it comes from.

    That is what the files say; a service that runs has it from its last start or reload on.

    Exit status: 0; 1 if the service would refuse the files.
    """
    from openqwave.cli.policy.command import Where, run_show

    raise typer.Exit(run_show(Where(config, directory), as_json=as_json))


@policy_app.command()
def explain(
    who: Annotated[
        str,
        typer.Argument(
            metavar="PID|PROGRAM",
            help="A process, or a program by its path or name.",
            autocompletion=processes,
        ),
    ],
    to: Annotated[
        str,
        typer.Option("--to", metavar="ADDR:PORT", help="Where it sends; IPv6 as [ADDR]:PORT."),
    ],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="ADDR[:PORT]",
            help="From where; otherwise the address that this host would choose, and any port.",
            show_default=False,
        ),
    ] = None,
    protocol: Annotated[
        Protocol, typer.Option("--protocol", help="What it sends by.")
    ] = Protocol.UDP,
    user: Annotated[
        str | None,
        typer.Option(
            "--user",
            metavar="USER",
            help="Who would run PROGRAM, by name or number.",
            autocompletion=users,
            show_default=False,
        ),
    ] = None,
    cgroup: Annotated[
        str | None,
        typer.Option(
            "--cgroup",
            metavar="PATH",
            help="Where PROGRAM would run, as /proc/PID/cgroup has it.",
            show_default=False,
        ),
    ] = None,
    config: ConfigFile = None,
    directory: PolicyDirectory = None,
    as_json: AsJson = False,
) -> None:
    """Say which rule would hold for a program's traffic, and why no other one.

    One rule at most does. The service carries it out, where one runs: whether it does is told, too.

    Exit status: 0 if a rule would hold; 3 if none; 1 if the service would refuse the files; 2 if
    there is no such process.
    """
    if who.isdecimal() and (user is not None or cgroup is not None):
        raise typer.BadParameter("--user and --cgroup go with a program, not with a process.")
    from openqwave.cli.policy.command import Where, run_explain
    from openqwave.cli.policy.question import BadPlace, Question, place_of

    try:
        remote = place_of(to, needs_port=True)
        local = None if source is None else place_of(source, needs_port=False)
    except BadPlace as error:
        raise typer.BadParameter(str(error)) from error
    if local is not None and local.address.version != remote.address.version:
        raise typer.BadParameter("--from and --to are of two families, and no packet is.")
    question = Question(who, remote, local, protocol.value, user, cgroup)
    raise typer.Exit(run_explain(Where(config, directory), question, as_json=as_json))

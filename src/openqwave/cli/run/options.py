"""The options of `qwave run` and `qwave attach`; what they do is in `starting` and `attaching`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from openqwave.cli.completing import processes

if TYPE_CHECKING:
    from openqwave.cli.run.wishes import Wish

# As env(1), timeout(1) and the like end where they fail themselves; 2 may be the command's.
FAILED = 125
_TYPES = ("voice", "audio-video", "control", "excellent-effort", "best-effort", "background")


def _types(incomplete: str) -> list[str]:
    return [each for each in _TYPES if each.startswith(incomplete)]


Kind = Annotated[
    str | None,
    typer.Option(
        "--type",
        metavar="TYPE",
        help=f"Mark as this type of traffic: {', '.join(_TYPES)}.",
        autocompletion=_types,
        show_default=False,
    ),
]
Dscp = Annotated[
    int | None,
    typer.Option(
        "--dscp",
        metavar="N",
        min=0,
        max=63,
        help="Mark with exactly this code point. It takes the right to set code points.",
        show_default=False,
    ),
]
Rate = Annotated[
    str | None,
    typer.Option(
        "--rate",
        metavar="RATE",
        help="Hold everything together to this rate: 2mbit, 500kbit, 8M, or bit/s.",
        show_default=False,
    ),
]
HoldBack = Annotated[
    bool | None,
    typer.Option(
        "--hold-back/--remark",
        help="What is above the rate waits, where queues can have it wait; or it is sent at once, "
        "marked as best effort. It waits unless --remark is said.",
        show_default=False,
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="What `qwave flows` calls it; otherwise the program's own name.",
        show_default=False,
    ),
]

run_app = typer.Typer(rich_markup_mode="markdown")


class _Wrapper(TyperCommand):
    """A command that another one follows, whose options are its own."""

    def make_context(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - the parser's
        try:
            return super().make_context(*arguments, **named)
        except Exception as error:
            if getattr(error, "exit_code", 0):
                # What is wrong with the options is no failure of the command's.
                vars(error)["exit_code"] = FAILED
            raise


def _wish_of(
    kind: str | None, dscp: int | None, rate: str | None, hold_back: bool | None, name: str | None
) -> "Wish":
    from openqwave.cli.run.wishes import BadWish, Wish, rate_of, type_of

    if kind is None and dscp is None and rate is None:
        raise typer.BadParameter("Say what it is to get: --type, --dscp or --rate.")
    if hold_back is not None and rate is None:
        raise typer.BadParameter("--hold-back and --remark go with --rate.")
    try:
        return Wish(
            None if kind is None else type_of(kind),
            dscp,
            None if rate is None else rate_of(rate),
            hold_back is not False,
            name or "",
        )
    except BadWish as error:
        raise typer.BadParameter(str(error)) from error


@run_app.command(cls=_Wrapper, context_settings={"allow_interspersed_args": False})
def run(
    command: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND", help="What to run, with its arguments."),
    ],
    kind: Kind = None,
    dscp: Dscp = None,
    rate: Rate = None,
    hold_back: HoldBack = None,
    name: Name = None,
    verbose: Annotated[
        bool,
        typer.Option("-v", "--verbose", help="Say on standard error how it is carried out."),
    ] = False,
    in_scope: Annotated[bool, typer.Option("--in-scope", hidden=True)] = False,
) -> None:
    """Run a program, unchanged, whose traffic is marked and held to a rate.

    As `qwave run --type voice --rate 2mbit -- COMMAND`. Every socket that the program or what it
    starts opens is treated so, by TCP, UDP or anything above, until the last of them has ended.
    Asks the service, qwaved, which needs its program in the kernel. Everything else is as without:
    terminal, signals, exit status.

    Exit status: that of the command; 125 if this one failed, 126 if the command cannot be executed,
    127 if there is none.
    """
    try:
        wish = _wish_of(kind, dscp, rate, hold_back, name)
    except typer.BadParameter as error:
        error.exit_code = FAILED
        raise
    from openqwave.cli.run.starting import run_command

    raise typer.Exit(run_command(wish, command, is_verbose=verbose, is_in_scope=in_scope))


@run_app.command()
def attach(
    pid: Annotated[
        int | None,
        typer.Argument(
            metavar="PID",
            min=1,
            help="A process.",
            autocompletion=processes,
            show_default=False,
        ),
    ] = None,
    kind: Kind = None,
    dscp: Dscp = None,
    rate: Rate = None,
    hold_back: HoldBack = None,
    name: Name = None,
    end: Annotated[
        int | None,
        typer.Option(
            "--end",
            metavar="RUN",
            min=1,
            help="End this run instead; `qwave flows` has the numbers.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Do what `qwave run` does for a process that runs already, with its descendants.

    Its sockets are treated so, those that are open and those to come, until all of these processes
    have ended, or --end. A listener hands it on to what it accepts.

    Exit status: 0; 2 if it cannot be done.
    """
    if (pid is None) == (end is None):
        raise typer.BadParameter("Name a process, or a run to --end.")
    from openqwave.cli.run.attaching import run_attach, run_end

    if pid is not None:
        wish = _wish_of(kind, dscp, rate, hold_back, name)
        raise typer.Exit(run_attach(pid, wish, as_json=as_json))
    if any(each is not None for each in (kind, dscp, rate, hold_back, name)):
        raise typer.BadParameter("--end takes nothing but --json.")
    if end is not None:
        raise typer.Exit(run_end(end, as_json=as_json))

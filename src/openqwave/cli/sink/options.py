"""The options of `qwave sink`; what it does is in `command`."""

from ipaddress import ip_address
from typing import Annotated

import typer

from openqwave.cli.bounds import check_network, check_run_seconds
from openqwave.probing.sink_limits import SinkLimits

# What a sink grants unless told otherwise; shown in its help.
LIMITS = SinkLimits()

sink_app = typer.Typer(rich_markup_mode="markdown")


def _check_networks(networks: list[str] | None) -> list[str] | None:
    for each in networks or ():
        if each != "any":
            check_network(each)
    return networks


def _check_address(address: str | None) -> str | None:
    if address is not None:
        try:
            ip_address(address)
        except ValueError as error:
            raise typer.BadParameter(f"{error}.") from error
    return address


@sink_app.command()
def sink(
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="CIDR",
            help="Serve hosts of this network too, though they are beyond a router; can be "
            'repeated. "any" serves whoever can send packets here, the senders of forged ones '
            "included: only behind a firewall that passes port 2177 from hosts you know.",
            callback=_check_networks,
            show_default=False,
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="ADDRESS",
            help="Answer at this address of this host only; otherwise at all, IPv4 and IPv6.",
            callback=_check_address,
            show_default=False,
        ),
    ] = None,
    for_seconds: Annotated[
        float | None,
        typer.Option(
            "--for",
            metavar="SECONDS",
            help="End after so long; otherwise at Ctrl-C, SIGTERM or SIGHUP.",
            callback=check_run_seconds,
            show_default=False,
        ),
    ] = None,
    limit_sessions: Annotated[
        int, typer.Option("--limit-sessions", metavar="N", min=1, help="Connections in all.")
    ] = LIMITS.sessions,
    limit_peer_sessions: Annotated[
        int,
        typer.Option("--limit-peer-sessions", metavar="N", min=1, help="Connections of one host."),
    ] = LIMITS.sessions_per_peer,
    limit_rate: Annotated[
        int, typer.Option("--limit-rate", metavar="N", min=1, help="Datagrams a second in all.")
    ] = LIMITS.datagrams_per_s,
    limit_peer_rate: Annotated[
        int,
        typer.Option(
            "--limit-peer-rate", metavar="N", min=1, help="Datagrams a second of one host."
        ),
    ] = LIMITS.peer_datagrams_per_s,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object for each event, one a line.")
    ] = False,
) -> None:
    """Answer the experiments of `qwave probe`, and of Windows hosts.

    Listens on port 2177 of TCP and UDP and serves hosts on this host's links. Prints what it
    does and refuses, and at the end how often.

    Exit status: 0 at the end; 2 if it cannot run, as when another process has the port.
    """
    from openqwave.cli.sink.command import Options, run_sink

    limits = SinkLimits(
        sessions=limit_sessions,
        sessions_per_peer=limit_peer_sessions,
        datagrams_per_s=limit_rate,
        peer_datagrams_per_s=limit_peer_rate,
    )
    raise typer.Exit(run_sink(Options(allow or (), limits, address, for_seconds, as_json=as_json)))

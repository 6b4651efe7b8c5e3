"""The options of `qwave capture`; what it does is in `command`."""

from ipaddress import ip_network
from typing import Annotated

import typer

from openqwave.cli.bounds import check_network, check_seconds
from openqwave.cli.completing import hosts, interfaces

capture_app = typer.Typer(rich_markup_mode="markdown")


def _check_host(host: str | None) -> str | None:
    return None if host is None else check_network(host)


@capture_app.command()
def capture(
    interface: Annotated[
        str | None,
        typer.Option(
            "-i",
            "--interface",
            metavar="IFACE",
            help="Look at this interface; otherwise at all.",
            autocompletion=interfaces,
            show_default=False,
        ),
    ] = None,
    read: Annotated[
        str | None,
        typer.Option(
            "-r",
            "--read",
            metavar="FILE",
            help="Read a pcap or pcapng file instead; - is standard input.",
            show_default=False,
        ),
    ] = None,
    write: Annotated[
        str | None,
        typer.Option(
            "-w",
            "--write",
            metavar="FILE",
            help="Keep what is shown as pcapng, with what is said of each packet as its comment.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object for each packet, one a line.")
    ] = False,
    count: Annotated[
        int | None,
        typer.Option(
            "--count", metavar="N", min=1, help="End after so many packets.", show_default=False
        ),
    ] = None,
    for_seconds: Annotated[
        float | None,
        typer.Option(
            "--for",
            metavar="SECONDS",
            help="End after so long; otherwise at Ctrl-C.",
            callback=check_seconds,
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Only packets from or to this address, or network as 10.0.0.0/8.",
            autocompletion=hosts,
            callback=_check_host,
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            metavar="N",
            min=1,
            max=65_535,
            help="Only packets from or to this port.",
            show_default=False,
        ),
    ] = None,
    marked: Annotated[
        bool, typer.Option("--marked", help="Only packets with a DSCP or an 802.1p priority.")
    ] = False,
    qlpb: Annotated[
        bool, typer.Option("--qlpb", help="Only the experiments of `qwave probe` and Windows.")
    ] = False,
) -> None:
    """Show packets with their marks, and measurements in words.

    One line for each IP packet: when, DSCP, ECN and 802.1p priority, what it is, and its ends.
    Messages of MS-QLPB, on port 2177, are told by name. Packets that leave are seen as the wire
    gets them. At the end packets are counted by DSCP. Looking at an interface takes root or
    CAP_NET_RAW; reading a file takes nothing.

    Exit status: 0 at the end; 2 if it cannot look, read or write; 130 if reading was interrupted.
    """
    if interface is not None and read is not None:
        raise typer.BadParameter("-i and -r exclude each other.")
    if for_seconds is not None and read is not None:
        raise typer.BadParameter("--for goes with looking, not with -r.")
    from openqwave.cli.capture.command import Options, run_capture
    from openqwave.cli.capture.filters import Filter

    network = None if host is None else ip_network(host, strict=False)
    wanted = Filter(network, port, marked, qlpb)
    options = Options(interface, read, write, as_json, count, for_seconds, wanted)
    raise typer.Exit(run_capture(options))

"""What was measured, as a table, and what it means, in words."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from openqwave.cli.demo.figures import Figures, Half
from openqwave.cli.demo.stage import AFTER, BEFORE, BULK, STREAM

ROWS = (
    ("stream, without a flow", STREAM, BEFORE),
    ("stream, in a flow", STREAM, AFTER),
    ("bulk, meanwhile", BULK, BEFORE),
    ("bulk, then", BULK, AFTER),
)


def print_report(console: Console, figures: Figures) -> None:
    """Print the table, what became of the promises, and what to do next."""
    console.print(_table(figures))
    console.print()
    for verdict in figures.verdicts:
        mark, style = ("ok ", "green") if verdict.kept else ("NOT", "bold red")
        line = Text(f"{mark} ", style=style)
        line.append(f"{verdict.promise}: {verdict.measured}", style="default")
        console.print(line)
    console.print()
    console.print(conclusion(figures))
    console.print(EXAMPLE, soft_wrap=True)


def _table(figures: Figures) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("")
    for heading in (
        "sent\npackets",
        "arrived\n",
        "lost\n",
        "lost\n%",
        "delay ms\nmedian",
        "\n99 %",
        "DSCP on\nthe wire",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, stream, phase in ROWS:
        half = figures.halves[stream, phase]
        table.add_row(
            name,
            str(half.sent),
            str(half.received),
            str(half.lost),
            f"{100 * half.lost_share:.1f}",
            _ms(half.median_ns),
            _ms(half.p99_ns),
            _dscps(half),
            style="bold" if (stream, phase) == (STREAM, AFTER) else None,
        )
    return table


def _ms(delay_ns: int | None) -> str:
    return "-" if delay_ns is None else f"{delay_ns / 1e6:.1f}"


def _dscps(half: Half) -> str:
    """Name the one code point that was seen, or each with its packets."""
    if len(half.dscps) == 1:
        return str(next(iter(half.dscps)))
    return ", ".join(f"{dscp}: {count}" for dscp, count in sorted(half.dscps.items())) or "-"


def conclusion(figures: Figures) -> str:
    """Say in plain words what happened, and what to try next."""
    before, after, flow = figures.before, figures.after, figures.flow
    took_ms = (flow["add_socket_ns"] + flow["set_flow_ns"]) / 1e6
    if figures.kept:
        told = (
            f"On the full link the stream lost {100 * before.lost_share:.0f} % of its packets, and "
            f"the rest came up to {_ms(before.max_ns)} ms late. Then its program made two calls, "
            f"QOSAddSocketToFlow and QOSSetFlow, which took {took_ms:.1f} ms. From the next packet "
            f"on it lost {after.lost} of {after.sent}, and 99 in 100 came within "
            f"{_ms(after.p99_ns)} ms: the router sends packets with that mark first. Nothing else "
            "was changed."
        )
    else:
        told = (
            "The demo did not show what it promises; see the line marked NOT. "
            + (
                f"This machine was busy: a sender fell {figures.slipped_ns / 1e6:.0f} ms behind. "
                if figures.slipped_ns
                else ""
            )
            + "Try again when the machine has less to do, or with --seconds 20."
        )
    return f"{told}\n\nNext, put a socket of your own in a flow:"


# Fits 80 columns, so that it can be copied in one piece.
EXAMPLE = """\
  import openqwave as qw
  qos = qw.open()
  qos.add_socket(sock, traffic_type=qw.TrafficType.AUDIO_VIDEO, adaptive=False)"""

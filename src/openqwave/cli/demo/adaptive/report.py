"""What happened as a table, what became of the promises, and what it means, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from openqwave.cli.demo.adaptive.figures import (
    LEAST_PACE,
    MOST_LATE_99_NS,
    MOST_WAITING,
    Figures,
)
from openqwave.cli.demo.adaptive.script import NAMES

if TYPE_CHECKING:
    from openqwave.cli.demo.adaptive.recording import Call
    from openqwave.cli.demo.adaptive.turns import Turns

# What the turns mean, in the order of the story.
MEANINGS = {
    "admitted": "admitted",
    "refused": "refused",
    "asked": "what is there?",
    "lower": "admitted",
    "congested": "congested",
    "down": "down",
    "relieved": "relief",
    "available": "available again",
    "back": "back",
    "ended": "A has ended",
    "whole_available": "available",
    "whole": "all that it wanted",
}


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
    console.print(NEXT, soft_wrap=True)


def _table(figures: Figures) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("s", justify="right", no_wrap=True)
    for heading in ("", "call", "answer", ""):
        table.add_column(heading, no_wrap=heading != "")
    for time_ns, row in sorted(_rows(figures), key=lambda row: row[0]):
        table.add_row(f"{(time_ns - figures.began_ns) / 1e9:.1f}", *row)
    return table


def _rows(figures: Figures) -> list[tuple[int, tuple[str, str, str, str]]]:
    """The events: when, who, what, the answer, and what there is to say."""
    rows = [
        (call.ended_ns, (NAMES[call.stream], _called(call), answer(call), _remark(figures, name)))
        for name, call in turns(figures.turns)
    ]
    for time_ns, words in (
        (figures.came_ns, "others come"),
        (figures.went_ns, "others are gone"),
        (figures.drained_ns, "the queue has drained"),
    ):
        if time_ns is not None:
            rows.append((time_ns, ("", words, "", "")))
    return rows


def turns(of: Turns) -> list[tuple[str, Call]]:
    """The turns that there were, by name."""
    calls = ((name, getattr(of, name)) for name in MEANINGS)
    return [(name, call) for name, call in calls if call is not None]


def _called(call: Call) -> str:
    return call.call if call.rate_bps is None else f"{call.call} {call.rate_bps / 1e6:g} Mbit/s"


def answer(call: Call) -> str:
    """What came of a call, in a word or two."""
    if call.available_bps is not None:
        return f"{call.available_bps / 1e6:.1f} Mbit/s"
    return call.error.removeprefix("ERROR_") or "ok"


def _remark(figures: Figures, name: str) -> str:
    after = {
        "congested": (figures.told_ns, "others came"),
        "relieved": (figures.relief_ns, "that"),
        "available": (figures.available_ns, "that"),
    }.get(name, (None, ""))
    if after[0] is not None:
        return f"{after[0] / 1e6:.0f} ms after {after[1]}"
    return "" if MEANINGS[name] in ("admitted", "refused") else MEANINGS[name]


def conclusion(figures: Figures) -> str:
    """Say in plain words what it comes to."""
    if not figures.kept:
        return "The demo did not show what it promises; see the lines marked NOT. " + (
            "This machine was too busy for it; try again when it has less to do."
            if figures.punctuality.is_busy
            else "What happens again is an error."
        )
    told = (figures.told_ns or 0) / 1e6
    words = (
        f"Neither stream knew the link. Congestion was told {told:.0f} ms after others came, so no "
        f"packet was on the way for more than {figures.longest_ns / 1e6:.0f} ms; a full queue "
        f"takes 105. Experiments sent {figures.sent_bytes / 1000:.0f} kB for that."
    )
    return f"{words} {excuse(figures)}" if figures.punctuality.is_busy else words


def excuse(figures: Figures) -> str:
    """Say how busy the machine was, where it was too busy."""
    found = figures.punctuality
    words = []
    if found.late_99_ns > MOST_LATE_99_NS:
        words.append(
            f"the link handed one packet in a hundred over {found.late_99_ns / 1e6:.1f} ms late"
        )
    if found.waiting_share > MOST_WAITING:
        words.append(f"the link had no processor for {100 * found.waiting_share:.0f} % of the time")
    if found.pace < LEAST_PACE:
        words.append(f"A could send only {100 * found.pace:.0f} % of its rate")
    return f"This machine was too busy for a fair trial: {', '.join(words)}."


NEXT = """
Next, streams of your own:
  there:  qwave sink
  here:   python examples/adaptive_stream.py send ADDRESS 8000000"""

"""What was measured beside what is true, as a table, and what it means, in words."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from openqwave.cli.demo.probe.figures import (
    MOST_LATE_90_NS,
    MOST_LATE_99_NS,
    MOST_WAITING,
    Figures,
    Judged,
    Punctuality,
    Result,
    Standing,
)
from openqwave.cli.probe.outcome import reason_of
from openqwave.cli.probe.rendering import cost, shown
from openqwave.model.estimates import Estimate, Inconclusive

MBPS, MS = 1_000_000, 1_000_000

NAMES = {"capacity_bps": "capacity", "available_bps": "available"}
STYLES = {
    Standing.HOLDS: "green",
    Standing.NOT_KNOWN: "yellow",
    Standing.UNJUDGED: "yellow",
    Standing.WRONG: "bold red",
}


def print_report(console: Console, figures: Figures) -> None:
    """Print a table for each link, what it comes to, and what to do next."""
    for result in figures.results:
        console.print(Text(result.case.title, style="bold"))
        console.print(_table(result))
        for judged in result.judged:
            if isinstance(judged.answer, Inconclusive):
                reason = f"{NAMES[judged.name]} is not known: {reason_of(judged.answer)}."
                console.print(reason, style="dim")
        console.print(result.case.lesson, style="dim")
        console.print()
    console.print(conclusion(figures))
    console.print(NEXT, soft_wrap=True)


def _table(result: Result) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", width=11)
    for heading, width in (("measured", 14), ("bounds", 18), ("truth", 9)):
        table.add_column(heading, width=width, no_wrap=True)
    table.add_column("")
    for judged in result.judged:
        table.add_row(
            NAMES[judged.name],
            *_figures(judged),
            Text(judged.standing.value, style=STYLES[judged.standing]),
        )
    trip = result.outcome.report.rtt_ns
    if isinstance(trip, Estimate):
        text = shown(trip, MS)
        # Not judged: the link does not know what else was in its packets' way.
        least = f"{result.case.line_ns / MS:g} or more"
        table.add_row("round trip", f"{text.value} ms", f"{text.low} to {text.high}", "", least)
    link = result.outcome.report.link
    return _with_words(table, ("kind", link), ("cost", cost(result.outcome)))


def _with_words(table: Table, *rows: tuple[str, str]) -> Table:
    """Put a table and rows of words below each other, in the same columns."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=11)
    grid.add_column()
    for row in rows:
        grid.add_row(*row)
    both = Table.grid()
    both.add_row(table)
    both.add_row(grid)
    return both


def _figures(judged: Judged) -> tuple[str, str, str]:
    """An answer, its bounds and the truth, in Mbit/s."""
    answer = judged.answer
    if isinstance(answer, Inconclusive):
        return "-", "-", f"{judged.truth_bps / MBPS:.3g}"
    text = shown(answer, MBPS)
    # As many digits as the answer has, and one more: it is known better.
    digits = len(text.value.partition(".")[2]) + 1
    return (
        f"{text.value} Mbit/s",
        f"{text.low} to {text.high}",
        f"{judged.truth_bps / MBPS:.{digits}f}",
    )


def conclusion(figures: Figures) -> str:
    """Say in plain words what it comes to."""
    if figures.is_wrong:
        return (
            "An answer is wrong: its bounds, in the line marked WRONG, do not hold the truth. They "
            "claim to do so 95 times of 100. Run it once more; what is wrong again is an error."
        )
    if figures.is_unjudged:
        return (
            "An answer could not be judged, because this machine was too busy. Try again when it "
            "has less to do."
        )
    told = [judged.standing for result in figures.results for judged in result.judged]
    count = told.count(Standing.HOLDS)
    words = f"{count} of {len(told)} numbers are known, and each holds the truth in its bounds."
    if count < len(told):
        words += " What cannot be known is not claimed."
    return f"{words} {excuse(figures)}" if figures.is_busy else words


def excuse(figures: Figures) -> str:
    """Say how late the machine was, where it was too late."""
    late = [result.punctuality for result in figures.results if result.punctuality.is_busy]
    return f"This machine was too busy for a fair trial: {_how_late(late)}."


def _how_late(late: list[Punctuality]) -> str:
    words = []
    for share, most_ns, late_ns in (
        ("one packet in ten", MOST_LATE_90_NS, max(each.late_90_ns for each in late)),
        ("one packet in a hundred", MOST_LATE_99_NS, max(each.late_99_ns for each in late)),
    ):
        if late_ns > most_ns:
            words.append(f"a link handed {share} over {late_ns / MS:.1f} ms late")
    waiting = max(each.waiting_share for each in late)
    if waiting > MOST_WAITING:
        words.append(f"a link had no processor for {100 * waiting:.0f} % of the time")
    held_up, paced = sum(each.held_up for each in late), sum(each.paced for each in late)
    if held_up:
        words.append(f"{held_up} of {paced} trains could not be sent in time")
    return ", ".join(words)


NEXT = """
Next, a path of your own:
  there:  qwave sink
  here:   qwave probe HOST"""

"""The service's status, a line for each thing; and what there is to say where no service is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from openqwave.cli.overview.pages import Line, Page, folded
from openqwave.cli.overview.words import clean, counted, duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openqwave.ipc.messages import SpokenForRow, StatusRow

# The longest name of a line, and a gap.
_NAME: Final = 15


def page_of_status(row: StatusRow, width: int | None) -> Page:
    """The status as a page."""
    return _page(_of_service(row), width)


def page_without_service(reason: str, advice: str, width: int | None) -> Page:
    """What programs do where no service is, and why."""
    return _page(
        [
            ("service", "none"),
            ("programs run", "embedded: each by itself, as an ordinary user"),
            ("because", reason),
            ("to change that", advice),
        ],
        width,
    )


def _page(things: Iterator[tuple[str, str]] | list[tuple[str, str]], width: int | None) -> Page:
    page = Page()
    for name, text in things:
        lines = folded(text, width, " " * _NAME) or [""]
        first: Line = [(f"{name:<{_NAME}}", "dim"), (lines[0][_NAME:], "")]
        page.blocks.append([first, *[[(line, "")] for line in lines[1:]]])
    return page


def _of_service(row: StatusRow) -> Iterator[tuple[str, str]]:
    yield "service", f"{clean(row.service)}, process {row.pid}, for {duration(row.uptime_ns)}"
    yield "version", f"{clean(row.version)}, control protocol {row.protocol}"
    yield "socket", clean(row.socket)
    yield "configuration", clean(row.config_file) or "none: the defaults"
    yield "marks by", _with_reason(row.backend.name, row.backend.reason)
    for place in row.interfaces:
        where = f"{clean(place.name)}, queue {clean(place.queue) or 'unknown'}"
        yield "leaving by", _with_reason(where, place.words)
    yield "clients", f"{counted(row.peers, 'connection')}, {counted(row.handles, 'handle')}"
    yield "flows", f"{row.flows:,}"
    yield "paths", f"{row.paths:,}"
    if row.programs is not None:
        yield "spoken for", _spoken_for(row.programs)
    yield "sockets", _LENT if row.lends else _FETCHED
    yield "sink", _with_reason("on" if row.sink.on else "off", row.sink.reason)
    yield "memory", _with_reason(row.memory.path or "none", row.memory.state)
    for name, count in sorted(row.counters.items()):
        yield "counted", f"{count:,} {clean(name)}"


_LENT: Final = "programs send their descriptors along with each request"
_FETCHED: Final = "descriptors are fetched from the programs when they are needed"


def _spoken_for(programs: SpokenForRow) -> str:
    """Programs that ask for nothing."""
    count = counted(programs.runs, "run")
    if programs.rules:
        count += f", {programs.rules_in_force} of {counted(programs.rules, 'rule')} in force"
    return _with_reason(count, programs.reason)


def _with_reason(name: str, reason: str) -> str:
    return f"{clean(name)}: {clean(reason)}" if reason else clean(name)

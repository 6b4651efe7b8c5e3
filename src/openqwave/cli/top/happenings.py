"""What happened between two looks, in sentences: notices for the screen, and lines for `--plain`.

The service is asked how things are; that something changed is seen by comparing. What came and
went between two looks is not seen. Rates change at each look and are no happening.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from openqwave.cli.overview.paths import state_of
from openqwave.cli.overview.refusals import again_words, request_words
from openqwave.cli.overview.words import bytes_sent, clean, counted, duration, name, rate
from openqwave.cli.top.looks import Away, Look, same_refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from openqwave.cli.top.looks import Glance
    from openqwave.ipc.messages import FlowRow, PathRow, ProgramRow, RefusalRow, StatusRow

# Of more than so many flows that begin or end at once, or that many refusals, the rest is only
# counted: nobody reads it.
MOST_AT_ONCE: Final = 20
# How a row says that a flow's marks follow nothing; in `openqwave.service.views`.
_NOT_ADMITTED, _ENDED = "not admitted", "ended"

GOOD, BAD, PLAIN = "green", "red", ""

_NS_PER_S: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened.

    Attributes:
        at_s: When it was seen, or was where that is known, CLOCK_REALTIME.
        words: What, without a full stop.
        style: Of the terminal library: good, bad or neither.
    """

    at_s: float
    words: str
    style: str = PLAIN


def contents(look: Look) -> Iterator[Happening]:
    """What a look saw, a line for each flow, path, program that is spoken for, and refusal."""
    for flow in look.flows:
        yield Happening(look.at_s, f"flow {flow.flow}: {_flow_in_full(flow)}")
    for path in look.paths:
        yield Happening(look.at_s, f"path {clean(path.host)}: {_path_in_full(path)}")
    for row in look.programs:
        yield Happening(look.at_s, f"{_spoken_for(row)}: {_program_in_full(row)}")
    yield from _refusals((), look)


def happenings(last: Glance | None, seen: Look | None, glance: Glance) -> list[Happening]:
    """What happened.

    Args:
        last: The last glance; None for the first.
        seen: The last one that saw a service; None for none.
        glance: The present one.
    """
    found: list[tuple[str, str]] = []
    refused: Iterable[Happening] = ()
    if isinstance(glance, Away):
        if not isinstance(last, Away) or last.reason != glance.reason:
            found.append((f"no service: {glance.reason}; trying again", BAD))
    else:
        if seen is None or seen.status.pid != glance.status.pid or isinstance(last, Away):
            found.append((_service(last, seen, glance), GOOD))
        if seen is not None:
            found += _between(seen, glance)
            is_same = seen.status.pid == glance.status.pid
            refused = _refusals(seen.refusals if is_same else (), glance)
    return [*[Happening(glance.at_s, words, style) for words, style in found], *refused]


def _service(last: Glance | None, seen: Look | None, now: Look) -> str:
    status = now.status
    there = f"{clean(status.service)}, process {status.pid}"
    counts = f"{counted(len(now.flows), 'flow')}, {counted(len(now.paths), 'path')}"
    scope = "" if now.sees_all else ", yours only"
    if seen is not None and seen.status.pid == status.pid:
        return f"the service answers again: {there}; {counts}{scope}"
    if last is None:
        return f"service: {there}; {counts}{scope}"
    word = "the service is there" if seen is None else "the service was started again"
    return f"{word}: {there}; {counts}{scope}"


def _between(before: Look, now: Look) -> Iterator[tuple[str, str]]:
    if before.status.pid == now.status.pid:
        flows = {row.flow: row for row in before.flows}
    else:
        # Another service has other flows, whatever their numbers.
        flows = {}
        if before.flows:
            yield f"{counted(len(before.flows), 'flow')} ended with the service", BAD
    present = {row.flow: row for row in now.flows}
    yield from _few(
        [row for row in before.flows if row.flow in flows and row.flow not in present],
        lambda row: f"flow {row.flow} of {name(row.program)} ended",
        "flow",
        "ended",
    )
    yield from _few(
        [row for row in now.flows if row.flow not in flows],
        lambda row: f"flow {row.flow} began: {_flow_in_full(row)}",
        "flow",
        "began",
    )
    for number, row in present.items():
        if number in flows:
            yield from _of_flow(flows[number], row)
    yield from _of_paths(before.paths, now.paths)
    yield from _of_programs(before.programs, now.programs)
    yield from _of_service(before.status, now.status)


def _few(
    rows: Sequence[FlowRow], words: Callable[[FlowRow], str], thing: str, verb: str
) -> Iterator[tuple[str, str]]:
    for row in rows[:MOST_AT_ONCE]:
        yield words(row), PLAIN
    if len(rows) > MOST_AT_ONCE:
        yield f"{counted(len(rows) - MOST_AT_ONCE, f'more {thing}')} {verb}", PLAIN


def _refusals(before: Sequence[RefusalRow], now: Look) -> Iterator[Happening]:
    """What was refused since; the same again where it has become ten times as often."""
    last = before[-1].number if before else 0
    new = [row for row in now.refusals if row.number > last]
    if not new:
        return
    known = {same_refusal(row): row.times for row in before}
    told = [row for row in new if _is_news(known.get(same_refusal(row), 0), row.times)]
    if len(told) > MOST_AT_ONCE:
        words = f"{counted(len(told) - MOST_AT_ONCE, 'more refusal')}, before those that follow"
        yield Happening(now.at_s, words, BAD)
    for row in told[-MOST_AT_ONCE:]:
        yield Happening(row.time_ns / _NS_PER_S, _refusal_in_full(row, now.at_s), BAD)


def _is_news(times_before: int, times: int) -> bool:
    return not times_before or len(str(times)) > len(str(times_before))


def _of_flow(before: FlowRow, now: FlowRow) -> Iterator[tuple[str, str]]:
    """What changed of a flow."""
    which = f"flow {now.flow} of {name(now.program)}"
    if before.marking != now.marking:
        if now.marking in (_NOT_ADMITTED, _ENDED):
            yield f"{which}: {clean(now.marking)}: {clean(now.backend_reason)}", BAD
        elif before.marking == _NOT_ADMITTED:
            yield f"{which}: admitted, marks {clean(now.marking)}", GOOD
        else:
            yield f"{which}: marks {clean(now.marking)}, were {clean(before.marking)}", PLAIN
    if before.traffic_type != now.traffic_type:
        yield f"{which}: {clean(now.traffic_type)}, was {clean(before.traffic_type)}", PLAIN
    if before.dscp != now.dscp:
        yield f"{which}: DSCP {_number(now.dscp)}, was {_number(before.dscp)}", PLAIN
    if before.contract_bps != now.contract_bps:
        was = rate(before.contract_bps, "none")
        yield f"{which}: contract {_mbps(now.contract_bps)}, was {was}", PLAIN
    if before.path_state != now.path_state:
        is_bad = now.path_state in ("congested", "in trouble")
        yield f"{which}: path {clean(now.path_state)}", BAD if is_bad else PLAIN
    if before.backend != now.backend:
        yield f"{which}: {_backend(now)}, was {clean(before.backend)}", PLAIN
    if now.excess_packets and not before.excess_packets:
        yield f"{which}: sends more than its contract", BAD
    if now.dropped_packets and not before.dropped_packets:
        yield f"{which}: packets are dropped, because too much waits for its turn", BAD


def _of_paths(before: Iterable[PathRow], now: Iterable[PathRow]) -> Iterator[tuple[str, str]]:
    paths = {(row.host, row.interface): row for row in before}
    for row in now:
        was = paths.pop((row.host, row.interface), None)
        which = f"path {clean(row.host)}"
        if was is None:
            yield f"{which} is new: {_path_in_full(row)}", PLAIN
            continue
        if bool(was.congested) != bool(row.congested):
            if row.congested:
                yield f"{which}: congested: {clean(row.congestion_reason) or '?'}", BAD
            else:
                yield f"{which}: no longer congested", GOOD
        if was.obstacle != row.obstacle:
            if row.obstacle:
                yield f"{which}: not measured: {clean(row.obstacle)}", BAD
            else:
                yield f"{which}: measured again", GOOD
        if was.capacity_bps is None and row.capacity_bps is not None:
            yield f"{which}: {_numbers(row)}", GOOD
    for row in paths.values():
        yield f"path {clean(row.host)} is not of interest any more", PLAIN


def _of_programs(
    before: Iterable[ProgramRow], now: Iterable[ProgramRow]
) -> Iterator[tuple[str, str]]:
    # The number of a rule is its place, which goes to another one when the policy is read again.
    programs = {_spoken_for(row): row for row in before}
    for row in now:
        which = _spoken_for(row)
        was = programs.pop(which, None)
        if was is None:
            yield f"{which} is new: {_program_in_full(row)}", PLAIN
            continue
        if (was.backend, was.reason) != (row.backend, row.reason):
            yield f"{which}: {_marked_by(row)}", PLAIN if row.backend else BAD
        if row.excess_packets and not was.excess_packets:
            yield f"{which}: sends more than its rate", BAD
        if row.dropped_packets and not was.dropped_packets:
            yield f"{which}: packets are dropped, because too much waits for its turn", BAD
    for which in programs:
        yield f"{which} ended", PLAIN


def _of_service(before: StatusRow, now: StatusRow) -> Iterator[tuple[str, str]]:
    if before.pid == now.pid:
        for kind, count in sorted(now.counters.items()):
            more = count - before.counters.get(kind, 0)
            if more > 0:
                yield f"service: {more:,} {clean(kind)}, {count:,} since it started", BAD
    if before.backend.name != now.backend.name:
        yield f"service: marks by {clean(now.backend.name)}: {clean(now.backend.reason)}", PLAIN
    for place in set(now.interfaces) - set(before.interfaces):
        yield f"service: leaving by {clean(place.name)}: {clean(place.words)}", PLAIN


# -- things in full ---------------------------------------------------------------------


def _flow_in_full(row: FlowRow) -> str:
    phrases = [f"{name(row.program)} of {name(row.user)}, process {row.pid}"]
    phrases.append(clean(row.traffic_type))
    phrases.append("marks as the program makes them" if row.dscp is None else f"DSCP {row.dscp}")
    if row.marking in (_NOT_ADMITTED, _ENDED):
        phrases.append(f"{clean(row.marking)}: {clean(row.backend_reason)}")
    if row.contract_bps is not None:
        phrases.append(f"contract {_mbps(row.contract_bps)}")
    if row.sending_bps is not None:
        phrases.append(f"sends {_mbps(row.sending_bps)}")
    ends = [end for one in row.sockets for end in one.destinations]
    if ends:
        more = row.destination_count - 1
        others = f" and {more:,} more" if more > 0 else ""
        phrases.append(f"to {clean(ends[0])}{others}")
    if row.adaptive:
        phrases.append(f"path {clean(row.path_state)}")
    phrases.append(_backend(row))
    return "; ".join(phrases)


def _path_in_full(row: PathRow) -> str:
    phrases = [state_of(row)[0]]
    if row.obstacle or row.congestion_reason:
        phrases.append(clean(row.obstacle or row.congestion_reason))
    if row.capacity_bps is not None:
        phrases.append(_numbers(row))
    phrases.append(f"{counted(row.flow_count, 'flow')}")
    if row.sent_bytes:
        phrases.append(f"experiments sent {bytes_sent(row.sent_bytes)}")
    return "; ".join(phrases)


def _refusal_in_full(row: RefusalRow, now_s: float) -> str:
    flow = "" if row.flow is None else f" of flow {row.flow}"
    where = "" if row.host is None else f", to {clean(row.host)}"
    whose = f"{name(row.program)} of {name(row.user)}, process {row.pid}"
    again = again_words(row, now_s)
    return (
        f"refused to {whose}: {request_words(row)}{flow}{where}: {clean(row.detail)} "
        f"({clean(row.name)}{f'; {again}' if again else ''})"
    )


def _spoken_for(row: ProgramRow) -> str:
    if row.kind == "rule":
        return f"rule {name(row.name)}"
    return f"{clean(row.kind)} {row.number} of {name(row.name)}"


def _program_in_full(row: ProgramRow) -> str:
    phrases = []
    if row.asks:
        phrases.append(clean(row.asks))
    if row.user:
        phrases.append(f"of {name(row.user)}")
    if row.pid is not None:
        phrases.append(f"process {row.pid}")
    if row.traffic_type is not None:
        phrases.append(clean(row.traffic_type))
    phrases.append("marks as the program makes them" if row.dscp is None else f"DSCP {row.dscp}")
    if row.rate_bps is not None:
        phrases.append(f"rate {_mbps(row.rate_bps)}")
    if row.sent_packets is not None:
        phrases.append(f"sent {counted(row.sent_packets, 'packet')}")
    return "; ".join([*phrases, _marked_by(row)])


def _marked_by(row: ProgramRow) -> str:
    return f"by {clean(row.backend)}" if row.backend else f"nothing marks it: {clean(row.reason)}"


def _numbers(row: PathRow) -> str:
    age = "" if row.age_ns is None else f", {duration(row.age_ns)} ago"
    free = f"{rate(row.available_bps)} free, {rate(row.held_bps)} held"
    return f"carries {_mbps(row.capacity_bps)}, {free}{age}"


def _backend(row: FlowRow) -> str:
    return "nothing is applied" if row.backend == "none" else f"by {clean(row.backend)}"


def _mbps(bps: int | None) -> str:
    return "none" if bps is None else f"{rate(bps)} Mbit/s"


def _number(number: int | None) -> str:
    return "as the program makes it" if number is None else str(number)

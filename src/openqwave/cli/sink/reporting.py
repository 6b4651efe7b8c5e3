"""What a sink tells: lines for people, or objects for programs, one a line.

Each object has "event" and "time_ns" (CLOCK_REALTIME). Events are "listening", "session opened",
"session closed", "train", "route check", "refused" and, last, "final". Names of experiments,
observations and reasons are those of the enumerations, in lower case.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openqwave.probing.sink_reports import (
    Experiment,
    RefusalsSeen,
    RouteCheckSummarised,
    SessionClosed,
    SessionOpened,
    SinkCounts,
    TrainTimed,
)
from openqwave.wire.qlpb import PORT, Observation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openqwave.model.endpoint import Endpoint
    from openqwave.probing.session import Event

_OBSERVATIONS = {
    Observation.NO_ISSUE: "everything arrived in order",
    Observation.INVERSION: "priority overtook",
    Observation.LOSS: "a full-sized probe was lost",
}


@dataclass(frozen=True, slots=True)
class Listening:
    """The sink answers from now on.

    Attributes:
        versions: The IP versions that it answers.
        address: The one address that it answers at; None for all of this host's.
        allowed: Networks that are served beyond this host's links.
    """

    versions: Sequence[int]
    address: str | None
    allowed: Sequence[str]


def fields_of(event: Event | Listening) -> dict[str, Any] | None:
    """An event as an object; None for one that nobody is told."""
    match event:
        case Listening(versions=versions, address=address, allowed=allowed):
            return {
                "event": "listening",
                "port": PORT,
                "ip_versions": list(versions),
                "address": address,
                "allowed": list(allowed),
            }
        case SessionOpened(connection=connection, peer=peer, experiment=experiment):
            return {
                "event": "session opened",
                **_whose(connection, peer),
                "experiment": experiment.name.lower(),
            }
        case SessionClosed(connection=connection, peer=peer):
            return {
                "event": "session closed",
                **_whose(connection, peer),
                "experiment": event.experiment.name.lower(),
                "reason": None if event.reason is None else event.reason.name.lower(),
                "results": event.results,
                "discarded_bytes": event.discarded_bytes,
            }
        case TrainTimed(connection=connection, peer=peer):
            return {
                "event": "train",
                **_whose(connection, peer),
                "sequence": event.sequence,
                "packets": event.packets,
                "payload_bytes": event.payload_bytes,
                "spread_ns": event.spread_ns,
            }
        case RouteCheckSummarised(connection=connection, peer=peer, observation=observation):
            return {
                "event": "route check",
                **_whose(connection, peer),
                "observation": observation.name.lower(),
            }
        case RefusalsSeen(reason=reason, peer=peer, count=count, detail=detail):
            return {
                "event": "refused",
                "reason": reason.name.lower(),
                "peer": str(peer),
                "count": count,
                "detail": detail,
            }
        case _:
            return None


def _whose(connection: int, peer: Endpoint) -> dict[str, Any]:
    return {"connection": connection, "peer": str(peer)}


def final_fields(counts: SinkCounts) -> dict[str, Any]:
    """What a sink did, as the last object."""
    return {
        "event": "final",
        "connections": counts.connections,
        "datagrams": counts.datagrams,
        "trains": counts.trains,
        "route_check_groups": counts.groups,
        "small_probes": counts.gaps,
        "discarded_bytes": counts.discarded_bytes,
        "lost_events": counts.lost_events,
        "refused": {reason.name.lower(): count for reason, count in counts.refused.items()},
    }


def sentence_of(event: Event | Listening) -> str | None:
    """An event as a line; None for one that nobody is told."""
    match event:
        case Listening(versions=versions, address=address, allowed=allowed):
            return (
                f"listening on port {PORT}, TCP and UDP, "
                f"{address or ' and '.join(f'IPv{version}' for version in versions)}; "
                f"for hosts on this host's links{''.join(f', {each}' for each in allowed)}"
            )
        case SessionOpened(peer=peer, experiment=experiment):
            return f"{peer} {experiment.value}: opened"
        case SessionClosed(peer=peer, experiment=experiment):
            what = (
                f"{event.discarded_bytes:,} bytes thrown away"
                if experiment is Experiment.DISCARD
                else f"{event.results} {'result' if event.results == 1 else 'results'}"
            )
            why = "" if event.reason is None else f": {event.reason.value}"
            return f"{peer} {experiment.value}: closed after {what}{why}"
        case TrainTimed(peer=peer):
            return (
                f"{peer} train: {event.packets} packets of {event.payload_bytes} bytes "
                f"in {event.spread_ns / 1e6:.3f} ms"
            )
        case RouteCheckSummarised(peer=peer, observation=observation):
            return f"{peer} route check: {_OBSERVATIONS[observation]}"
        case RefusalsSeen(reason=reason, peer=peer, count=count, detail=detail):
            times = "" if count == 1 else f" {count:,} times"
            more = f" ({detail})" if detail else ""
            return f"{peer} refused{times}: {reason.value}{more}"
        case _:
            return None


def final_lines(counts: SinkCounts) -> list[str]:
    """What a sink did, and what it refused, by reason."""
    done = [
        f"{counts.connections:,} connections",
        f"{counts.trains:,} trains timed",
        f"{counts.groups:,} groups of route checks",
        f"{counts.gaps:,} small probes answered",
        f"{counts.discarded_bytes:,} bytes thrown away",
    ]
    lines = [f"done: {', '.join(done)}"]
    refused = {reason: count for reason, count in counts.refused.items() if count}
    lines.append(f"refused: {sum(refused.values()):,}" if refused else "refused: nothing")
    for reason, count in sorted(refused.items(), key=lambda each: -each[1]):
        lines.append(f"  {count:>9,}  {reason.value}")
    if counts.lost_events:
        lines.append(f"not told, because they came too fast: {counts.lost_events:,} events")
    return lines


class Reporter:
    """Writes to standard output, at once.

    Args:
        as_json: Objects instead of lines.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def tell(self, event: Event | Listening) -> None:
        """Write an event, if it is one that is told."""
        if self._as_json:
            fields = fields_of(event)
            if fields is not None:
                self._write_fields(fields)
        else:
            sentence = sentence_of(event)
            if sentence is not None:
                self._write(f"{time.strftime('%H:%M:%S')} {sentence}")

    def end(self, counts: SinkCounts) -> None:
        """Write what was done and refused."""
        if self._as_json:
            self._write_fields(final_fields(counts))
        else:
            self._write("\n".join(final_lines(counts)))

    def _write_fields(self, fields: dict[str, Any]) -> None:
        self._write(json.dumps({"event": fields["event"], "time_ns": time.time_ns()} | fields))

    def _write(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

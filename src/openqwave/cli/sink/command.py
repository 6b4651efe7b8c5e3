"""The whole of `qwave sink`, in order: open, answer until the end, count; and the exit status."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from openqwave.cli.interruption import Interrupted, Interruption
from openqwave.cli.sink.reporting import Listening, Reporter
from openqwave.drivers.experiments import ExperimentHost, parse_peer
from openqwave.model.errors import QosError, TimedOut
from openqwave.probing.sink import Sink
from openqwave.probing.sink_limits import SinkLimits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openqwave.drivers.experiments import Serving

ENDED, CANNOT_RUN = 0, 2

# The word of `--allow` for everybody, and what it stands for.
ANY = "any"
EVERYWHERE = ("0.0.0.0/0", "::/0")

# Events are fetched in bunches, so that the thread that answers is not disturbed by each.
FETCH_S = 0.1


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for.

    Attributes:
        allowed: Networks that are served beyond this host's links, in CIDR notation.
        limits: What is granted at most.
        address: The one address to answer at; None for all of this host's.
        seconds: When to end; None for when it is asked to.
        as_json: One object a line.
    """

    allowed: Sequence[str] = ()
    limits: SinkLimits = field(default_factory=SinkLimits)
    address: str | None = None
    seconds: float | None = None
    as_json: bool = False


def networks_of(allowed: Sequence[str]) -> list[str]:
    """The networks of `--allow`, its word for everybody resolved."""
    found: list[str] = []
    for each in allowed:
        found.extend(EVERYWHERE if each == ANY else (each,))
    return found


def run_sink(options: Options) -> int:
    """Answer until the end; return the exit status. All else is on standard output and error."""
    networks = networks_of(options.allowed)
    reporter = Reporter(as_json=options.as_json)
    sink = Sink(options.limits)
    try:
        address = None if options.address is None else parse_peer(options.address).unmapped()
        with Interruption() as interruption, ExperimentHost(networks, address) as host:
            serving = host.serve(sink)
            reporter.tell(Listening(serving.versions, options.address, networks))
            # A signal is what ends a sink in order.
            with contextlib.suppress(Interrupted):
                _follow(serving, reporter, interruption, options.seconds)
            serving.cancel()
            _drain(serving, reporter)
    except QosError as error:
        sys.stderr.write(f"The sink cannot run: {error.detail or error}\n")
        return CANNOT_RUN
    reporter.end(sink.counts)
    return ENDED


def _follow(
    serving: Serving, reporter: Reporter, interruption: Interruption, seconds: float | None
) -> None:
    """Tell what happens until the time is over."""
    end = None if seconds is None else time.monotonic() + seconds
    while end is None or time.monotonic() < end:
        interruption.pause(FETCH_S)
        if not _drain(serving, reporter):
            return


def _drain(serving: Serving, reporter: Reporter) -> bool:
    """Tell what has happened; whether more can."""
    try:
        while (event := serving.next_event(0)) is not None:
            reporter.tell(event)
    except TimedOut:
        return True
    return False

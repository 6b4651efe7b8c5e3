"""What is wanted of a measurement, how far it is, and what it found.

Values of `measurement`, and of `tracking`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from openqwave.model.estimates import Congestion, PathReport
from openqwave.probing import schedule
from openqwave.probing.session import Event

if TYPE_CHECKING:
    from collections.abc import Callable

    from openqwave.estimate.samples import Sample


class Phase(enum.Enum):
    """Where a measurement stands; the value is for people."""

    CONNECT = "connecting"
    RAMP = "lengthening trains"
    STEADY = "measuring the capacity"
    LOAD = "measuring what is available"
    SETTLE = "waiting for the last replies"
    OVER = "done"


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of a measurement.

    Attributes:
        version: Of IP towards the sink, 4 or 6.
        duration_ns: When the result is to be there, from the start, on links to 120 Mbit/s.
        fast_duration_ns: And on faster ones, whose noise needs more trains.
        is_quick: Fewer trains, for a first idea.
        checks_priority: Whether 802.1p is tried; it has no meaning beyond the first router.
    """

    version: int = 4
    duration_ns: int = 2_800_000_000
    fast_duration_ns: int = 4_700_000_000
    is_quick: bool = False
    checks_priority: bool = True


# The whole command takes less than a second, the interpreter's start included.
QUICK = Wish(
    duration_ns=700_000_000, fast_duration_ns=700_000_000, is_quick=True, checks_priority=False
)


@dataclass(frozen=True, slots=True)
class Restraint:
    """How far a measurement goes.

    Attributes:
        longest_packets: Of a train.
        drain_factor: A train back to back does not leave before the one before has left the
            narrow link so many times over.
        allowance: What all of it may cost, bytes of IP packets, by the capacity that is believed,
            None before the first belief; None for no limit.
    """

    longest_packets: int = schedule.LONGEST
    drain_factor: float = 2.0
    allowance: Callable[[float | None], float] | None = None


# For a path that is tracked: a first answer within 0.9 s, the connection's set-up included, and a
# better one on fast links as well within 4.5 s.
TRACKED_QUICK_NS, TRACKED_FAST_NS = 750_000_000, 3_500_000_000


def tracked(wish: Wish) -> tuple[Wish, Wish]:
    """The quick and the thorough measurement of a path that is tracked, for what is wanted."""
    thorough = replace(wish, fast_duration_ns=min(wish.fast_duration_ns, TRACKED_FAST_NS))
    quick = replace(
        QUICK,
        version=wish.version,
        duration_ns=TRACKED_QUICK_NS,
        fast_duration_ns=TRACKED_QUICK_NS,
    )
    return quick, thorough


@dataclass(frozen=True, slots=True)
class Sampled(Event):
    """A train or a small probe is complete, or lost."""

    sample: Sample


@dataclass(frozen=True, slots=True)
class Progressed(Event):
    """How far the measurement is.

    Attributes:
        phase: What it does.
        elapsed_ns: Since its start.
        sent_bytes: Of IP packets.
        capacity_bps: As it is believed now; None before the first train.
        rtt_ns: The last round trip; None before.
    """

    phase: Phase
    elapsed_ns: int
    sent_bytes: int
    capacity_bps: int | None
    rtt_ns: int | None


@dataclass(frozen=True, slots=True)
class Measured(Event):
    """What was found. The last event of a measurement.

    Attributes:
        report: The numbers.
        elapsed_ns: Since the start.
        sent_bytes: Of IP packets, to the sink.
    """

    report: PathReport
    elapsed_ns: int
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class Estimated(Event):
    """What is believed of the path now.

    Attributes:
        report: The numbers.
        since_ns: All that they rest on was measured after this time (`now_ns`).
        sent_bytes: Of IP packets, since the beginning.
    """

    report: PathReport
    since_ns: int
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class CongestionTold(Event):
    """The verdict has changed, or is the first."""

    congestion: Congestion

"""Available bandwidth from trains offered near the capacity: what came between their packets.

**One train.** A train that is offered at a rate `r` above the available bandwidth leaves the narrow
link at ``r_out = r C / (r + X)``, where X is the rate of the other traffic while the train passed
(the fluid queue of TOPP, Melander, Bjorkman and Gunningberg, GLOBECOM 2000). Turned around::

    X = r (C / r_out - 1)        A = C - X

A train offered at the capacity itself keeps the link busy from its first packet to its last, and
then this is not a model but a count: what left between them is what arrived between them. Below
the capacity the link may fall idle inside the train, and X is no longer all that came. So trains
are offered at the capacity, or slightly below where the harm has to be smaller, and the queue that
they leave behind is X times their length.

**Late stamps.** A queue that other traffic fills while a train passes only grows, as long as the
train keeps the link busy, and stamps are late at times, never early. So the least that some
packets in a row are behind is what the first of them is behind, with the lateness taken out. That
is done at both ends of a train alike, so that a noise that all packets have cancels. It also reads
clumps of a receiver's timer rightly, whose last packets are the punctual ones.

**Many trains.** X of one train is the traffic of some milliseconds. The mean over trains that start
at random times is the mean over the time (Poisson arrivals see time averages); its standard error
follows from their spread, whatever the traffic is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean, stdev

from openqwave.estimate.arrivals import spread_of
from openqwave.estimate.samples import Train
from openqwave.model.estimates import Doubt, Inconclusive

# A train of which a packet left later than due by this part of the train's time was held up by its
# own sender, which was not run. The link fell idle, and what was caught up afterwards looks like as
# much other traffic: a twentieth of the capacity, at this limit.
MOST_LATE_PART = 0.05
# Fewer trains have no spread to take an error from.
LEAST_TRAINS = 4
# This part of a train's packets at each of its ends says how late they were. Trains of a few
# packets are those of slow links, where lateness is nothing.
ENDS_PART = 4
# Bursts of other traffic come at up to a few times the capacity, and fill its queue; a train that
# saw more saw its receiver stand still.
MOST_CROSS = 3
# Trains are offered at this part of the capacity or above where their count is to be exact.
EXACT_PART = 0.9


@dataclass(frozen=True, slots=True)
class Load:
    """What trains say of the other traffic.

    Attributes:
        available_bps: Capacity less the mean of what came between; not negative.
        error_bps: Standard error of that mean.
        train_count: How many trains it rests on.
    """

    available_bps: float
    error_bps: float
    train_count: int


def offered_bps(train: Train) -> float:
    """The rate at which a train left its sender, bits a second of IP packets."""
    span_ns = train.sent_ns[-1] - train.sent_ns[0]
    return (len(train.sent_ns) - 1) * train.packet_bytes * 8e9 / max(1, span_ns)


def cross_bps(train: Train, capacity_bps: int) -> float | None:
    """The other traffic's rate while a train passed.

    None if the train's sender was not punctual, if it arrived in one clump, or if its receiver was
    later than traffic explains.
    """
    if not is_punctual(train) or spread_of(train) is None:
        return None
    offered = offered_bps(train)
    packet_ns = train.packet_bytes * 8e9 / capacity_bps
    # How much later than by the capacity alone each packet came than the first.
    behind = [
        time - number * packet_ns for number, time in enumerate([0, *accumulate(train.deltas_ns)])
    ]
    ends = len(behind) // ENDS_PART or 1
    grown_ns = min(behind[-ends:]) - min(behind[:ends])
    cross = offered * grown_ns / ((len(behind) - ends) * packet_ns)
    return None if cross > MOST_CROSS * capacity_bps else cross


def is_punctual(train: Train) -> bool:
    """Did every packet leave about when it was due after the first?"""
    span_ns = train.sent_ns[-1] - train.sent_ns[0]
    late_ns = max(
        sent - train.sent_ns[0] - number * train.gap_ns for number, sent in enumerate(train.sent_ns)
    )
    return late_ns <= MOST_LATE_PART * max(span_ns, train.gap_ns * (len(train.sent_ns) - 1))


def load(trains: Sequence[Train], capacity_bps: int) -> Load | Inconclusive:
    """Find the available bandwidth from trains that were paced near the capacity.

    Args:
        trains: Lost ones, and those offered far from the capacity, are left out.
        capacity_bps: Of the narrow link.
    """
    found = [
        cross
        for train in trains
        if not train.is_lost
        and train.gap_ns
        and EXACT_PART * capacity_bps <= offered_bps(train)
        and (cross := cross_bps(train, capacity_bps)) is not None
    ]
    if len(found) < LEAST_TRAINS:
        return Inconclusive(Doubt.TOO_FEW, f"{len(found)} paced trains can be used")
    available = max(0.0, min(float(capacity_bps), capacity_bps - fmean(found)))
    return Load(available, stdev(found) / math.sqrt(len(found)), len(found))

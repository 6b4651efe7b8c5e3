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

**Many trains.** X of one train is the traffic of some milliseconds. The mean over trains that start
at random times is the mean over the time (Poisson arrivals see time averages); its standard error
follows from their spread, whatever the traffic is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from openqwave.estimate.arrivals import Spread, spread_of
from openqwave.estimate.dispersion import COALESCED_SHARE
from openqwave.estimate.samples import Train
from openqwave.model.estimates import Doubt, Inconclusive

# A train that left at less than this part of the wanted rate was held up by its own sender, which
# was not run in time: it measured the sender.
LEAST_PUNCTUALITY = 0.85
# Fewer trains have no spread to take an error from.
LEAST_TRAINS = 4
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
    """The other traffic's rate while a train passed; None if the train was not punctual."""
    spread = spread_of(train)
    if spread is None:
        return None
    offered = offered_bps(train)
    wanted = train.packet_bytes * 8e9 / train.gap_ns if train.gap_ns else offered
    if offered < LEAST_PUNCTUALITY * wanted:
        return None
    return offered * (capacity_bps / _left_at_bps(spread) - 1)


def _left_at_bps(spread: Spread) -> float:
    """The rate at which a train left the narrow link, clumps of a receiver's timer taken out."""
    return spread.timed_bps if spread.clumped_share > COALESCED_SHARE else spread.rate_bps


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

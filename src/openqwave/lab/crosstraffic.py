"""When the packets of cross traffic arrive: one endless generator of times for each kind.

Times are nanoseconds from the start of the model, as floats: rounding each interval to whole
nanoseconds would shift the rate of small packets on fast links by a part in ten thousand, and a
float keeps a hundredth of a nanosecond over a day.

On-off traffic counts the time that it is on and sends a packet each time that makes one at the
peak rate, over the pauses. So its average is exact however short the bursts are.

Pareto lengths have the shape 1.5: a finite mean, an infinite variance, and Hurst parameter
(3 - 1.5) / 2 = 0.75 for the sum of many such sources, near what was measured on Ethernet
(Willinger et al., "Self-Similarity Through High-Variability", 1997). A run sees few of the long
ones, so its average strays from the rate by far more than that of the other kinds.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from math import log

from openqwave.lab.links import Cross, CrossKind

PARETO_SHAPE = 1.5


def arrivals(cross: Cross, seed: str) -> Iterator[float]:
    """Yield when each packet of some cross traffic arrives, in order.

    Args:
        cross: What it is like.
        seed: The same times come for the same seed.
    """
    source = random.Random(seed)  # noqa: S311 - nobody gains by guessing them
    times = _KINDS[cross.kind](cross, source)
    stop_ns = cross.stop_ns
    if stop_ns is None:
        return times
    return itertools.takewhile(lambda time_ns: time_ns < stop_ns, times)


def _interval_ns(packet_bytes: int, rate_bps: int) -> float:
    return packet_bytes * 8e9 / rate_bps


def _constant(cross: Cross, source: random.Random) -> Iterator[float]:
    interval_ns = _interval_ns(cross.packet_bytes, cross.rate_bps)
    first_ns = cross.start_ns + source.random() * interval_ns
    for turn in itertools.count():
        yield first_ns + turn * interval_ns


def _poisson(cross: Cross, source: random.Random) -> Iterator[float]:
    uniform = source.random
    scale_ns = -_interval_ns(cross.packet_bytes, cross.rate_bps)
    time_ns = float(cross.start_ns)
    while True:
        time_ns += log(1.0 - uniform()) * scale_ns
        yield time_ns


def _onoff(cross: Cross, source: random.Random) -> Iterator[float]:
    def length_ns(mean_ns: float) -> float:
        return source.expovariate(1 / mean_ns)

    return _bursts(cross, source, length_ns)


def _pareto_onoff(cross: Cross, source: random.Random) -> Iterator[float]:
    def length_ns(mean_ns: float) -> float:
        # paretovariate has the mean shape / (shape - 1).
        return source.paretovariate(PARETO_SHAPE) * mean_ns * (PARETO_SHAPE - 1) / PARETO_SHAPE

    return _bursts(cross, source, length_ns)


def _bursts(
    cross: Cross, source: random.Random, length_ns: Callable[[float], float]
) -> Iterator[float]:
    interval_ns = _interval_ns(cross.packet_bytes, cross.peak_bps)
    time_ns = float(cross.start_ns)
    until_packet_ns = source.random() * interval_ns
    if source.random() * cross.peak_bps > cross.rate_bps:
        time_ns += length_ns(cross.off_ns)
    while True:
        left_ns = length_ns(cross.on_ns)
        while left_ns >= until_packet_ns:
            time_ns += until_packet_ns
            left_ns -= until_packet_ns
            until_packet_ns = interval_ns
            yield time_ns
        until_packet_ns -= left_ns
        time_ns += left_ns + length_ns(cross.off_ns)


_KINDS: dict[CrossKind, Callable[[Cross, random.Random], Iterator[float]]] = {
    CrossKind.CONSTANT: _constant,
    CrossKind.POISSON: _poisson,
    CrossKind.ONOFF: _onoff,
    CrossKind.PARETO_ONOFF: _pareto_onoff,
}

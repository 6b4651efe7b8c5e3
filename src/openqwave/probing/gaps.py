"""Probegap's probes: what is known of one, and whether its reply can be true.

A reply carries two times of the sink's clock, about which nothing is known but that the sink
cannot have kept the probe for longer than the round trip. The round trip is the difference of two
kernel stamps of this host, which must fit into the time that has passed.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from openqwave.estimate.samples import Gap
from openqwave.probing.session import Event
from openqwave.wire.qlpb import TICK_NS, ProbegapProbe

# What two clocks of 100 ns each, and their rates (500 ppm each when slewed, adjtimex), may make
# of an honest report.
_SLACK_NS = 2 * TICK_NS
_DRIFT = 1_000

# A round trip by two stamps may be longer by this than by the driver's clock, which reads the time
# when it gets round to it. A clock that was set by less does no more harm than a late stamp.
_STEP_NS = 1_000_000

# When a probe is lost: 1 s before anything came back (RFC 6298 section 2.1), then four round
# trips, because queues grow; not below 200 ms, under which a busy host looks like loss, and not
# above 2 s, which no usable path takes.
_FIRST_WAIT_NS = 1_000_000_000
_MIN_WAIT_NS = 200_000_000
MAX_WAIT_NS = 2_000_000_000
_WAIT_ROUND_TRIPS = 4

# Weight of one round trip in the smoothed one (RFC 6298 section 2.3: alpha of 1/8).
_SMOOTHING = 8


class Discount(enum.Enum):
    """What is no sample; counted."""

    MALFORMED = "no probe at all"
    NOT_RETURNED = "a probe, but not one on its way back"
    UNKNOWN = "of a sequence number that is not waited for"
    REPEATED = "answered before"
    ALTERED = "changed in what the sink must not change"
    LATE = "came back after it was given up"
    IMPLAUSIBLE = "with times that cannot be true"
    UNSTAMPED = "this host never learned when it left"
    SKIPPED = "not sent, because it was due long ago"


@dataclass(frozen=True, slots=True)
class GapReturned(Event):
    """A probe came back."""

    gap: Gap


@dataclass(frozen=True, slots=True)
class GapLost(Event):
    """A probe did not come back in time; its gap has no times but that of sending."""

    gap: Gap


class Fate(enum.Enum):
    """What became of a probe."""

    WAITING = "it may come back"
    RETURNED = "it came back"
    LOST = "it was given up"


@dataclass(slots=True)
class GapProbe:
    """A probe that was sent.

    Attributes:
        sequence: Its number; on the wire only the lower 32 bits.
        packet_bytes: Size of the IP packet, each way.
        ticks: When it was due, as it says itself.
        released_ns: When it was handed to the driver.
        sent_ns: The transmit stamp; None until the driver has it.
        reply: What the sink sent back; None until then.
        received_ns: The receive stamp of the reply.
        replied_ns: When the driver brought the reply.
        fate: What became of it.
    """

    sequence: int
    packet_bytes: int
    ticks: int
    released_ns: int
    sent_ns: int | None = None
    reply: ProbegapProbe | None = None
    received_ns: int = 0
    replied_ns: int = 0
    fate: Fate = Fate.WAITING

    @property
    def gap(self) -> Gap | None:
        """The sample, with what is known so far; None without a transmit stamp."""
        if self.sent_ns is None:
            return None
        if self.reply is None:
            return Gap(self.sequence, self.packet_bytes, self.sent_ns)
        return Gap(
            self.sequence,
            self.packet_bytes,
            self.sent_ns,
            self.reply.sink_received_ticks * TICK_NS,
            self.reply.sink_sent_ticks * TICK_NS,
            self.received_ns,
        )

    def can_be_true(self, gap: Gap) -> bool:
        """Do the times of a sample with a reply fit together?"""
        round_trip_ns = gap.received_ns - gap.sent_ns
        return (
            # 0 is how a sink says that it has no stamp (MS-QLPB 2.2.2.6).
            gap.sink_received_ns > 0
            and 0 <= gap.sink_sent_ns - gap.sink_received_ns <= _at_most(round_trip_ns)
            and 0 <= round_trip_ns <= _at_most(self.replied_ns - self.released_ns) + _STEP_NS
        )


def _at_most(duration_ns: int) -> int:
    """What another clock may make of a duration."""
    return duration_ns + duration_ns // _DRIFT + _SLACK_NS


class LossTimer:
    """How long a probe may take, learned from those that came back."""

    def __init__(self) -> None:
        self._round_trip_ns: int | None = None

    def learn(self, round_trip_ns: int) -> None:
        """A probe came back, in time or not: a path that becomes slow must not stay dead."""
        if self._round_trip_ns is None:
            self._round_trip_ns = round_trip_ns
        else:
            self._round_trip_ns += (round_trip_ns - self._round_trip_ns) // _SMOOTHING

    @property
    def wait_ns(self) -> int:
        """After this long a probe is given up."""
        if self._round_trip_ns is None:
            return _FIRST_WAIT_NS
        return min(max(_WAIT_ROUND_TRIPS * self._round_trip_ns, _MIN_WAIT_NS), MAX_WAIT_NS)

"""Trains of packet pair: what is wanted of one, what came of it, and whether that can be true.

A sink's report is a claim. It can be checked against what this host knows by itself: how many
packets were sent, how long ago, and when the last of them was due. What fails these checks is
no sample; what passes may still be wrong, and is the estimator's to weigh.
"""

from __future__ import annotations

import enum
import itertools
from dataclasses import dataclass

from openqwave.estimate.samples import Train
from openqwave.model.errors import InvalidParameter
from openqwave.probing.session import Event

# Train_Size is 16 bits, and a single packet has no dispersion (MS-QLPB 2.2.2.3).
MIN_PACKETS = 2
MAX_PACKETS = 0xFFFF

# Spacing within a train, wanted or reported. Packets 10 s apart are no train on any link that
# is worth measuring.
MAX_GAP_NS = 10_000_000_000

# How far two honest clocks may differ over one train: crystals are within 100 ppm, a clock that
# is being slewed within 500 (adjtimex), and a timer may be read up to this late.
_DRIFT = 1_000
_SLACK_NS = 1_000_000

# Sequence numbers are 32 bits and are not used twice.
_SEQUENCES = 1 << 32


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """A train that is to be sent.

    Attributes:
        packets: How many, 2 to 65535.
        packet_bytes: Size of each IP packet, headers included, to 1496.
        gap_ns: Spacing of the packets, to 10 s; 0 for back to back.
        not_before_ns: The earliest time, on the clock of ``now_ns``.
    """

    packets: int
    packet_bytes: int
    gap_ns: int = 0
    not_before_ns: int = 0

    @property
    def span_ns(self) -> int:
        """From the first packet to the last, as wanted."""
        return self.gap_ns * (self.packets - 1)

    @property
    def size_bytes(self) -> int:
        """All its packets together."""
        return self.packets * self.packet_bytes


@dataclass(frozen=True, slots=True)
class PairLimits:
    """How far one packet pair session goes.

    Attributes:
        handshake_ns: How long the sink may take to agree.
        session_ns: From the agreement to the session's end.
        spacing_ns: From the end of one train to the next.
        trains: How many may be sent in all.
        train_packets: Longest train.
        in_flight: How many trains may wait for their summaries; the next waits for one of them.
        reconnects: How often to come back to a sink that closes after a summary.

    Raises:
        InvalidParameter: Trains of that length cannot be, or their packets not have a number each.
    """

    handshake_ns: int
    session_ns: int
    spacing_ns: int
    trains: int
    train_packets: int
    in_flight: int
    reconnects: int

    def __post_init__(self) -> None:
        if not MIN_PACKETS <= self.train_packets <= MAX_PACKETS:
            raise InvalidParameter(f"a train has {MIN_PACKETS} to {MAX_PACKETS} packets")
        if self.trains * self.train_packets >= _SEQUENCES:
            raise InvalidParameter("32 bits cannot number that many packets")


# The specification's numbers (MS-QLPB 3.1.4.2, 3.1.5.1.2, 3.1.6.4): up to three trains of any
# length, 20 ms apart, whether or not they are answered. A sink that takes it at its word closes
# after each.
PAGE = PairLimits(
    handshake_ns=250_000_000,
    session_ns=1_500_000_000,
    spacing_ns=20_000_000,
    trains=3,
    train_packets=MAX_PACKETS,
    in_flight=3,
    reconnects=2,
)

# For measurements of our own, which know by themselves when to send what; the limits only end
# what was forgotten. Two seconds let a lost segment of the handshake be repeated. 1024 packets
# are 1.5 MB at once, more than a whole measurement may cost; 64 trains under way are more than
# any path holds at the pace of measurements.
OPEN = PairLimits(
    handshake_ns=2_000_000_000,
    session_ns=60_000_000_000,
    spacing_ns=0,
    trains=4_096,
    train_packets=1_024,
    in_flight=64,
    reconnects=64,
)


class TrainFate(enum.Enum):
    """Why a train came to nothing; the value is a sentence for people."""

    OVERTAKEN = "a later train was reported, this one was not"
    TIMED_OUT = "no report came in time"
    DISCONNECTED = "the sink closed the connection before it reported the train"
    IMPLAUSIBLE = "the report cannot be true"
    UNSTAMPED = "this host never learned when the packets left"
    CLOCK_STEPPED = "the clock of the transmit stamps was set while the train was sent"


@dataclass(frozen=True, slots=True)
class Ready(Event):
    """The sink agreed; trains are sent from now on. Once a session, reconnects aside.

    Attributes:
        stream: The session's key.
        local_port: Of the first connection; probes carry it.
    """

    stream: int
    local_port: int


@dataclass(frozen=True, slots=True)
class TrainMeasured(Event):
    """A train arrived whole, and this is how.

    Attributes:
        number: As `queue_train` gave it.
        plan: What was wanted.
        train: What came of it.
        interface_speed_bps: Of the sink's interface, as the sink says; 2**32 - 1 or less.
    """

    number: int
    plan: TrainPlan
    train: Train
    interface_speed_bps: int


@dataclass(frozen=True, slots=True)
class TrainLost(Event):
    """A train came to nothing.

    Attributes:
        number: As `queue_train` gave it.
        plan: What was wanted.
        train: When its packets left, as far as that is known; without deltas.
        reason: Why.
        detail: The figures behind the reason, as a sentence; may be empty.
    """

    number: int
    plan: TrainPlan
    train: Train
    reason: TrainFate
    detail: str = ""


@dataclass(slots=True)
class Flight:
    """A train that was sent, until everything about it is known.

    Attributes:
        number: As `queue_train` gave it.
        plan: What was wanted.
        first: Sequence number of its first packet.
        released_ns: When it was handed to the driver.
        reported_sent_ns: When the driver said that all of it had left; None until then.
        sent_ns: The transmit stamps, likewise.
        deltas_ns: What the sink reported; empty until then.
        interface_speed_bps: Likewise.
    """

    number: int
    plan: TrainPlan
    first: int
    released_ns: int
    reported_sent_ns: int | None = None
    sent_ns: tuple[int, ...] = ()
    deltas_ns: tuple[int, ...] = ()
    interface_speed_bps: int = 0

    @property
    def train(self) -> Train:
        """The sample, as far as it is known."""
        return Train(self.plan.packet_bytes, self.plan.gap_ns, self.sent_ns, self.deltas_ns)

    def doubt_of_deltas(self, deltas_ns: tuple[int, ...], *, now_ns: int) -> str | None:
        """Why a report that came now cannot be true, as a sentence; None if it can."""
        if len(deltas_ns) != self.plan.packets - 1:
            return f"{len(deltas_ns)} spacings of {self.plan.packets} packets"
        # The wire's numbers are unsigned, so none is negative.
        longest_ns = max(deltas_ns)
        if longest_ns > MAX_GAP_NS:
            return f"two packets {longest_ns} ns apart"
        elapsed_ns = now_ns - self.released_ns
        if elapsed_ns + _SLACK_NS < self.plan.span_ns:
            return f"reported after {elapsed_ns} ns, before it was sent"
        total_ns = sum(deltas_ns)
        if total_ns > elapsed_ns + elapsed_ns // _DRIFT + _SLACK_NS:
            return f"arrived over {total_ns} ns within {elapsed_ns} ns"
        return None

    def has_stepped_clock(self, *, now_ns: int) -> bool:
        """Do the stamps run backwards, or over more time than has passed?"""
        elapsed_ns = now_ns - self.released_ns
        return any(later < sooner for sooner, later in itertools.pairwise(self.sent_ns)) or (
            self.sent_ns[-1] - self.sent_ns[0] > elapsed_ns + elapsed_ns // _DRIFT + _SLACK_NS
        )

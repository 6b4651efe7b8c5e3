"""What a sink tells: what it refused and why, what happened, and how often.

Events are for people and logs: a session, a train, a group. What comes by the thousands (probes,
answers, refusals) is counted; of refusals, one event a second and reason says how many there were.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openqwave.probing.session import Event

if TYPE_CHECKING:
    from openqwave.model.endpoint import Endpoint
    from openqwave.wire.qlpb import Observation


class Refused(enum.Enum):
    """Why something was not served; the value is a sentence for people."""

    # Before the sink looks at it; the driver decides.
    OFF_LINK = "the peer is neither on this link nor in an allowed network"

    # Connections.
    TOO_MANY_SESSIONS = "all sessions are in use"
    TOO_MANY_OF_PEER = "the peer has as many sessions as one may have"
    NO_HANDSHAKE = "the peer connected and did not say what for"
    IDLE = "the session was silent for too long"
    MALFORMED_STREAM = "the connection carried what is no message"
    OTHER_PROTOCOL = "the peer asked for MS-QDP, which shares the port"
    UNEXPECTED_MESSAGE = "a message where the protocol has no place for it"
    TOO_MUCH_TO_DISCARD = "the peer sent more than is thrown away on one connection"

    # Datagrams.
    PEER_TOO_FAST = "the peer sends more datagrams than one may"
    ALL_TOO_FAST = "more datagrams come than are answered in all"
    MALFORMED_DATAGRAM = "a datagram is no probe"
    RETURNED_PROBE = "a probe on its way back, which is an initiator's"
    REFLECTION = "a probe from another port than 2177, which could be forged to hit a third party"
    NO_SESSION = "a probe belongs to no connection"
    WRONG_EXPERIMENT = "a probe is of another experiment than its connection"

    # Packets of a train.
    TRAIN_TOO_LONG = "a train is longer than is timed"
    OUT_OF_TRAIN = "a packet is not the next of its train: one was lost, late or repeated"
    MIXED_SIZES = "the packets of a train differ in size"
    CLOCK_STEPPED = "the clock was set during a train"


class Experiment(enum.Enum):
    """What a connection is for; UNKNOWN until its handshake."""

    UNKNOWN = "unknown"
    PACKET_PAIR = "packet pair"
    ROUTE_CHECK = "route check"
    DISCARD = "discard"


@dataclass(frozen=True, slots=True)
class SessionOpened(Event):
    """A peer said what its connection is for, and the sink agreed."""

    connection: int
    peer: Endpoint
    experiment: Experiment


@dataclass(frozen=True, slots=True)
class SessionClosed(Event):
    """Such a connection is over.

    Attributes:
        connection: The driver's key.
        peer: The other end.
        experiment: What it was for.
        reason: Why the sink ended it; None if the peer did.
        results: How many summaries were sent.
        discarded_bytes: What was thrown away.
    """

    connection: int
    peer: Endpoint
    experiment: Experiment
    reason: Refused | None
    results: int
    discarded_bytes: int


@dataclass(frozen=True, slots=True)
class TrainTimed(Event):
    """A train arrived whole, and its summary was sent.

    Attributes:
        connection: The driver's key.
        peer: The other end.
        sequence: The train's first number.
        packets: How many they were.
        payload_bytes: What each carried over UDP.
        spread_ns: From the first arrival to the last.
    """

    connection: int
    peer: Endpoint
    sequence: int
    packets: int
    payload_bytes: int
    spread_ns: int


@dataclass(frozen=True, slots=True)
class RouteCheckSummarised(Event):
    """A group of a route check came to a result, which was sent."""

    connection: int
    peer: Endpoint
    observation: Observation


@dataclass(frozen=True, slots=True)
class RefusalsSeen(Event):
    """Something was refused; at most one such event a second and reason.

    Attributes:
        reason: Why.
        peer: Who was refused last.
        count: How many times since the last such event.
        detail: What is known beyond the reason, or empty.
    """

    reason: Refused
    peer: Endpoint
    count: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SinkCounts:
    """What a sink has done since it began.

    Attributes:
        connections: Connections that were offered to it.
        open_sessions: Those that are there now.
        datagrams: Datagrams that were given to it.
        trains: Summaries of trains sent.
        groups: Summaries of groups sent.
        gaps: Probegap probes answered.
        discarded_bytes: What was thrown away by wish.
        lost_events: Events that nobody fetched in time.
        refused: How many times each thing was refused; all reasons are there.
    """

    connections: int
    open_sessions: int
    datagrams: int
    trains: int
    groups: int
    gaps: int
    discarded_bytes: int
    lost_events: int
    refused: Mapping[Refused, int]

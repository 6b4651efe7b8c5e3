"""How a session ends: in order, or by one of the failures here."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from openqwave.probing.session import CloseReason, Event


class Failure(enum.Enum):
    """Why a session came to nothing; the value is a sentence for people."""

    NO_SINK = "nothing listens on the sink's port"
    UNREACHABLE = "no route, or nobody answers to the address"
    CONNECT_TIMED_OUT = "connecting took too long"
    DECLINED = "the sink closed the connection instead of agreeing"
    NO_AGREEMENT = "the sink did not answer the handshake in time"
    CLOSED = "the sink closed the connection before the experiment was over"
    MALFORMED = "the sink sent what the protocol does not allow"
    UNEXPECTED = "the sink sent what nobody asked for"
    UNSENT = "this host could not send a probe"
    NO_SUMMARY = "the sink never said how probes arrived"


# Why a connection did not come about. A connection that ended while it was being made was
# accepted and given up at once.
FAILURE_TO_CONNECT = {
    CloseReason.REFUSED: Failure.NO_SINK,
    CloseReason.UNREACHABLE: Failure.UNREACHABLE,
    CloseReason.TIMED_OUT: Failure.CONNECT_TIMED_OUT,
    CloseReason.BY_PEER: Failure.DECLINED,
    CloseReason.BROKEN: Failure.DECLINED,
}


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """A session is over without what it was for. It is the session's last event.

    Attributes:
        stream: The session's key.
        reason: Why.
        detail: What was seen, as a sentence; may be empty.
    """

    stream: int
    reason: Failure
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Ended(Event):
    """A session is over in order. It is the session's last event."""

    stream: int

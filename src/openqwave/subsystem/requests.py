"""What a client can ask of the subsystem, one value each.

The caller's edge turns arguments into these: it reads the socket, the address, the route
and its own credentials *before* the engine is asked. Where that reading failed, the field
holds the `Refusal` instead, so that the engine can report it in its proper turn: the
order of checks (handle, flags, enumerations, flow id, rights, state) is the engine's.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from openqwave.model.value import value

if TYPE_CHECKING:
    from openqwave.admission.rights import Credentials
    from openqwave.model.endpoint import Endpoint
    from openqwave.model.errors import Refusal
    from openqwave.model.estimates import Unmeasurable
    from openqwave.model.flow import NoticeKind, RateReason, Shaping, TrafficType
    from openqwave.model.path import PathFacts
    from openqwave.model.sockets import SocketFacts

    # How the host is reached; why its path cannot be measured; what is wrong with it now.
    Found: TypeAlias = PathFacts | Unmeasurable | Refusal


@value
class AddSocket:
    """Put a socket, towards one destination, into a flow.

    Attributes:
        flow_id: 0 makes a flow; otherwise the flow to join.
        socket: The socket as the kernel describes it.
        destination: Where its packets go; None for a connected socket's peer.
        traffic_type: For a new flow; ignored when joining one.
        is_adaptive: Whether the flow is admitted against its path.
        route: The refusal when no route leads there.
        path: The way there; None where the flow is not adaptive, or it could not be told.
    """

    flow_id: int
    socket: SocketFacts | Refusal
    destination: Endpoint | Refusal | None
    traffic_type: TrafficType
    is_adaptive: bool
    route: Refusal | None
    path: Found | None = None


@value
class RemoveSocket:
    """Take a socket out of a flow; `cookie` None takes them all and ends the flow."""

    flow_id: int
    cookie: int | Refusal | None


@value
class SetTrafficType:
    """Change what kind of traffic the flow carries."""

    flow_id: int
    traffic_type: TrafficType


@value
class SetRate:
    """Change the flow's contract; a rate of 0 ends it, None asks for the default share.

    While too little is known of the path the request waits; one that is not overlapped for a
    limited time. A program that paces itself asks for admission and marks, and for nothing that
    holds it to the rate.
    """

    flow_id: int
    rate_bps: int | None
    shaping: Shaping
    reason: RateReason
    is_overlapped: bool = False
    is_self_paced: bool = False


@value
class SetDscp:
    """Mark the flow with one exact code point."""

    flow_id: int
    dscp: int
    caller: Credentials


class Question(Enum):
    """What can be asked about a flow."""

    FUNDAMENTALS = 0
    PACKET_PRIORITY = 1
    OUTGOING_RATE = 2
    PATH = 3
    TRAFFIC = 4


@value
class QueryFlow:
    """Ask about a flow.

    Attributes:
        flow_id: Which.
        question: What.
        caller: Matters only for flows of other processes.
        is_fresh: Only what is measured from now on will do; the request waits for it, one that
            is not overlapped for a limited time. For fundamentals of own flows.
        is_overlapped: See there.
    """

    flow_id: int
    question: Question
    caller: Credentials
    is_fresh: bool = False
    is_overlapped: bool = False


@value
class NotifyFlow:
    """Be told once when a condition holds; `rate_bps` goes with AVAILABLE only."""

    flow_id: int
    kind: NoticeKind
    rate_bps: int | None = None


@value
class StartTracking:
    """Take an interest in the path to a host; `path` as for `AddSocket`."""

    host: Endpoint | Refusal
    route: Refusal | None
    path: Found | None = None


@value
class StopTracking:
    """Lose the interest."""

    host: Endpoint | Refusal


@value
class EnumerateFlows:
    """List the ids of all flows of the subsystem."""

    caller: Credentials


@value
class Cancel:
    """Abort a pending request of the same handle."""

    request_id: int


@value
class CloseHandle:
    """End the handle and everything made through it."""


Request: TypeAlias = (
    AddSocket
    | RemoveSocket
    | SetTrafficType
    | SetRate
    | SetDscp
    | QueryFlow
    | NotifyFlow
    | StartTracking
    | StopTracking
    | EnumerateFlows
    | Cancel
    | CloseHandle
)

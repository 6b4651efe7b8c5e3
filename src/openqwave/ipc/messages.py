"""Every packet of the control protocol, and bytes to packets and back.

A packet is one JSON object; its ``type`` is the class's name in small letters. What each one
means, with examples, is in ``docs/control-protocol.md``; this module is the same as types.

What makes a packet unreadable (no JSON, an unknown type, a field that is missing or of another
JSON type, an id out of range) breaks the protocol. What is readable and makes no sense, such as
a port of 70,000 or traffic type 9, is a request like others, which is refused in its turn; so
numbers are plain integers here. Unknown fields are ignored, which lets later versions add some.

The optional parts of the protocol, `FEATURES`, have modules of their own beside it.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec

from openqwave.ipc.errors import ProtocolError, reason_of
from openqwave.ipc.packets import MAX_ANSWER_BYTES as MAX_ANSWER_BYTES
from openqwave.ipc.packets import MAX_DESCRIPTORS as MAX_DESCRIPTORS
from openqwave.ipc.packets import MAX_ID as MAX_ID
from openqwave.ipc.packets import MAX_PROGRAM_CHARS as MAX_PROGRAM_CHARS
from openqwave.ipc.packets import MAX_REQUEST_BYTES as MAX_REQUEST_BYTES
from openqwave.ipc.packets import Id, Packet
from openqwave.ipc.packets import encode_packet as encode_packet
from openqwave.ipc.programs import PROGRAMS
from openqwave.ipc.programs import EndRun as EndRun
from openqwave.ipc.programs import ListPrograms as ListPrograms
from openqwave.ipc.programs import ProgramRow as ProgramRow
from openqwave.ipc.programs import StartedRun as StartedRun
from openqwave.ipc.programs import StartRun as StartRun
from openqwave.ipc.refusals import REFUSALS
from openqwave.ipc.refusals import ListRefusals as ListRefusals
from openqwave.ipc.refusals import RefusalRow as RefusalRow
from openqwave.ipc.rows import BackendRow as BackendRow
from openqwave.ipc.rows import FlowRow as FlowRow
from openqwave.ipc.rows import InterfaceRow as InterfaceRow
from openqwave.ipc.rows import MemoryRow as MemoryRow
from openqwave.ipc.rows import PathRow as PathRow
from openqwave.ipc.rows import SinkRow as SinkRow
from openqwave.ipc.rows import SocketRow as SocketRow
from openqwave.ipc.rows import SpokenForRow as SpokenForRow
from openqwave.ipc.rows import StatusRow as StatusRow

PROTOCOL_VERSION: Final = 1
# Optional parts of the protocol that this code knows.
FEATURES: Final[tuple[str, ...]] = (PROGRAMS, REFUSALS)

# A descriptor's number is an int of C.
_MAX_NUMBER: Final = (1 << 31) - 1

# -- from the program ------------------------------------------------------------------


class Hello(Packet, frozen=True):
    """The first packet, exactly once.

    Attributes:
        version: The highest version that the program speaks, 1 or more.
        features: The optional parts that it can make use of.
        program: What it calls itself, for people; 64 characters at most.
    """

    version: Annotated[int, msgspec.Meta(ge=1)]
    features: tuple[str, ...]
    program: Annotated[str, msgspec.Meta(max_length=MAX_PROGRAM_CHARS)]


class AddSocket(Packet, frozen=True):
    """Put a socket into a flow; the answer is the flow's id.

    One descriptor comes along, or none where the program's could not be read as a socket.

    Attributes:
        id: Names the request.
        flow: 0 makes a flow; otherwise the flow to join.
        traffic_type: 0 to 5, as `openqwave.model.flow.TrafficType`.
        adaptive: Whether the flow is admitted against its path.
        address: Where packets go, as text; None for a connected socket's peer.
        port: 0 to 65535.
        scope_id: Interface index for an IPv6 link-local address.
        number: The program's own number of the descriptor, as a hint where to find it again;
            -1 for none.
    """

    id: Id
    flow: int
    traffic_type: int
    adaptive: bool
    address: str | None
    port: int
    scope_id: int = 0
    number: Annotated[int, msgspec.Meta(ge=-1, le=_MAX_NUMBER)] = -1


class RemoveSocket(Packet, frozen=True):
    """Take a socket out of a flow, or all of them, which ends it; the answer is null.

    Attributes:
        id: Names the request.
        flow: The flow.
        whole: All sockets. Otherwise the one whose descriptor comes along.
    """

    id: Id
    flow: int
    whole: bool


class SetTrafficType(Packet, frozen=True):
    """Change the flow's traffic type; the answer is null."""

    id: Id
    flow: int
    traffic_type: int


class SetRate(Packet, frozen=True):
    """Change the flow's contract; the answer is null.

    Attributes:
        id: Names the request.
        flow: The flow.
        rate_bps: Bit/s with IP and transport headers; 0 ends the contract, None asks for the
            default share.
        shaping: 0 to 2, as `openqwave.model.flow.Shaping`.
        reason: 0 to 4, as `openqwave.model.flow.RateReason`.
        overlapped: Wait for the path to be known as long as it takes.
        self_paced: The program holds itself to the rate.
    """

    id: Id
    flow: int
    rate_bps: int | None
    shaping: int
    reason: int
    overlapped: bool = False
    self_paced: bool = False


class SetDscp(Packet, frozen=True):
    """Mark the flow with one exact code point, 0 to 63; the answer is null."""

    id: Id
    flow: int
    dscp: int


class Query(Packet, frozen=True):
    """Ask about a flow.

    Attributes:
        id: Names the request.
        flow: The flow.
        question: ``fundamentals``, ``packet_priority``, ``outgoing_rate``, ``path`` or
            ``traffic``.
        fresh: Only what is measured from now on will do.
        overlapped: Wait for it as long as it takes.
    """

    id: Id
    flow: int
    question: str
    fresh: bool = False
    overlapped: bool = False


class Notify(Packet, frozen=True):
    """Be told once when a condition holds; the answer is null, then.

    Attributes:
        id: Names the request.
        flow: The flow.
        kind: 0 to 2, as `openqwave.model.flow.NoticeKind`.
        rate_bps: The rate that is waited for, where the kind is 2; else None.
    """

    id: Id
    flow: int
    kind: int
    rate_bps: int | None


class StartTracking(Packet, frozen=True):
    """Take an interest in the path to a host; the answer is null."""

    id: Id
    address: str
    scope_id: int = 0


class StopTracking(Packet, frozen=True):
    """Lose the interest; the answer is null."""

    id: Id
    address: str
    scope_id: int = 0


class EnumerateFlows(Packet, frozen=True):
    """A page of the ids of all flows, ascending, those above `after`; for administrators."""

    id: Id
    after: int = 0


class Cancel(Packet, frozen=True):
    """Abort a request that is pending; `request` is its id. The answer is null."""

    id: Id
    request: int


class Check(Packet, frozen=True):
    """Is the handle fit for use? The answer is null."""

    id: Id


class Close(Packet, frozen=True):
    """End the handle; the answer is null, and nothing follows it."""

    id: Id


class ListFlows(Packet, frozen=True):
    """A page of `FlowRow`, those with ids above `after`."""

    id: Id
    after: int = 0


class ListPaths(Packet, frozen=True):
    """A page of `PathRow`, those that come after the first `after`."""

    id: Id
    after: int = 0


class AskStatus(Packet, frozen=True, tag="status"):
    """How the service is: a `StatusRow`."""

    id: Id


Request: TypeAlias = (
    AddSocket
    | RemoveSocket
    | SetTrafficType
    | SetRate
    | SetDscp
    | Query
    | Notify
    | StartTracking
    | StopTracking
    | EnumerateFlows
    | Cancel
    | Check
    | Close
    | ListFlows
    | ListPaths
    | AskStatus
    | StartRun
    | EndRun
    | ListPrograms
    | ListRefusals
)

# -- from the service --------------------------------------------------------------------


class Welcome(Packet, frozen=True):
    """The answer to `Hello`.

    Attributes:
        version: What is spoken from here on: the lower one of both ends' highest.
        features: The optional parts that both know.
        service: What the service is, for people.
        lends: Send descriptors of the flow's sockets along with each request about a flow.
    """

    version: Annotated[int, msgspec.Meta(ge=1)]
    features: tuple[str, ...]
    service: str
    lends: bool


class Farewell(Packet, frozen=True):
    """The service closes the connection, and says why; the last packet."""

    code: int
    name: str
    detail: str


class Answer(Packet, frozen=True):
    """A request was done.

    Attributes:
        id: The request.
        value: What it was asked for, as JSON; see `openqwave.ipc.values`.
    """

    id: Id
    value: msgspec.Raw


class Refused(Packet, frozen=True):
    """A request was not done.

    Attributes:
        id: The request.
        code: The Win32 error number.
        name: Its name.
        detail: A sentence that says what to do.
    """

    id: Id
    code: int
    name: str
    detail: str


class Pending(Packet, frozen=True):
    """A request waits; `Answer` or `Refused` of the same id follows."""

    id: Id


class Lost(Packet, frozen=True):
    """The handle is lost; all that can be done with it is to close it."""

    code: int
    name: str
    detail: str


Reply: TypeAlias = Welcome | Farewell | Answer | Refused | Pending | Lost

# -- bytes and packets -------------------------------------------------------------------

_REQUESTS: Final[msgspec.json.Decoder[Hello | Request]] = msgspec.json.Decoder(Hello | Request)
_REPLIES: Final[msgspec.json.Decoder[Reply]] = msgspec.json.Decoder(Reply)


def decode_request(data: bytes) -> Hello | Request:
    """What a program said.

    Raises:
        ProtocolError: It is none of the packets that programs send.
    """
    try:
        return _REQUESTS.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        # Bytes that are no UTF-8 are a ValueError, nesting without end a RecursionError.
        raise ProtocolError(reason_of(error)) from None


def decode_reply(data: bytes) -> Reply:
    """What the service said.

    Raises:
        ProtocolError: It is none of the packets that services send.
    """
    try:
        return _REPLIES.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(reason_of(error)) from None

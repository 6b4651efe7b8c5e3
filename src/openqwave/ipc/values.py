"""What answers hold: values of the model as JSON, and back.

The service writes with `value_to_json` and the pages, the program reads with the functions that
end in ``_of``. Objects are flat, addresses are text, enumerations are words; what is not known is
null or left out. A program may be spoken to by a service that is newer or broken, so everything
is checked when it is read, and what is wrong ends in `ProtocolError`. Lists have a module of their
own, `openqwave.ipc.pages`.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final, TypeAlias, TypeVar

import msgspec

from openqwave.ipc.errors import ProtocolError, reason_of
from openqwave.ipc.packets import encode_packet, read_value
from openqwave.ipc.pages import flow_id_page
from openqwave.ipc.rows import StatusRow
from openqwave.model.endpoint import Endpoint, address_text
from openqwave.model.estimates import Congestion, CongestionReason, Fundamentals
from openqwave.model.flow import PacketPriority
from openqwave.model.path import LinkType, PathFacts, PathStatus
from openqwave.model.traffic import FlowTraffic

# What the engine answers requests with.
Value: TypeAlias = (
    "int | tuple[int, ...] | Fundamentals | PacketPriority | PathStatus | FlowTraffic | None"
)

_T = TypeVar("_T")

_NULL: Final = b"null"


class _FundamentalsValue(msgspec.Struct, frozen=True, gc=False):
    bottleneck_bps: int | None = None
    available_bps: int | None = None
    rtt_ns: int | None = None


class _PriorityValue(msgspec.Struct, frozen=True, gc=False):
    conformant_dscp: int
    non_conformant_dscp: int
    conformant_pcp: int
    non_conformant_pcp: int


class _PathValue(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """`PathStatus`, flat; `interface` is there where the way is known."""

    host: str
    scope_id: int = 0
    interface: int | None = None
    interface_name: str = ""
    source: str = ""
    gateway: str = ""
    mtu_bytes: int = 0
    link_type: str = ""
    speed_bps: int = 0
    bottleneck_bps: int | None = None
    available_bps: int | None = None
    rtt_ns: int | None = None
    available_low_bps: int | None = None
    confidence: float = 0.0
    age_ns: int | None = None
    congested: bool | None = None
    congestion_reason: str | None = None
    congestion_detail: str = ""
    held_bps: int = 0
    own_bps: int | None = None
    sent_bytes: int = 0
    obstacle: str = ""


_FUNDAMENTALS: Final = msgspec.json.Decoder(_FundamentalsValue)
_PRIORITY: Final = msgspec.json.Decoder(_PriorityValue)
_PATH: Final = msgspec.json.Decoder(_PathValue)
_TRAFFIC: Final = msgspec.json.Decoder(FlowTraffic)
_NUMBER: Final = msgspec.json.Decoder(int)
_STATUS: Final = msgspec.json.Decoder(StatusRow)
_REASON_BY_WORD: Final = {reason.name.lower(): reason for reason in CongestionReason}
_LINK_BY_WORD: Final = {link.value: link for link in LinkType}


# -- the service writes --------------------------------------------------------------------


def value_to_json(value: Value) -> bytes:
    """An engine's answer as the `value` of a packet.

    Args:
        value: What the engine answered; ids of flows become the first page of them.

    Returns:
        JSON, `MAX_ANSWER_BYTES` at most with its packet.
    """
    if value is None:
        return _NULL
    match value:
        case int() | FlowTraffic():
            return encode_packet(value)
        case tuple():
            return flow_id_page(value)
        case Fundamentals():
            return encode_packet(
                _FundamentalsValue(value.bottleneck_bps, value.available_bps, value.rtt_ns)
            )
        case PacketPriority():
            return encode_packet(
                _PriorityValue(
                    value.conformant_dscp,
                    value.non_conformant_dscp,
                    value.conformant_pcp,
                    value.non_conformant_pcp,
                )
            )
        case PathStatus():
            return encode_packet(_path_value(value))


def _path_value(status: PathStatus) -> _PathValue:
    facts, found, verdict = status.facts, status.fundamentals, status.congestion
    return _PathValue(
        host=str(status.host.address),
        scope_id=status.host.scope_id,
        interface=None if facts is None else facts.interface,
        interface_name="" if facts is None else facts.interface_name,
        source="" if facts is None else address_text(facts.source),
        gateway="" if facts is None else address_text(facts.gateway),
        mtu_bytes=0 if facts is None else facts.mtu_bytes,
        link_type="" if facts is None else facts.link_type.value,
        speed_bps=0 if facts is None else facts.speed_bps,
        bottleneck_bps=found.bottleneck_bps,
        available_bps=found.available_bps,
        rtt_ns=found.rtt_ns,
        available_low_bps=status.available_low_bps,
        confidence=status.confidence,
        age_ns=status.age_ns,
        congested=verdict.is_congested,
        congestion_reason=None if verdict.reason is None else verdict.reason.name.lower(),
        congestion_detail=verdict.detail,
        held_bps=status.held_bps,
        own_bps=status.own_bps,
        sent_bytes=status.sent_bytes,
        obstacle=status.obstacle,
    )


def status_to_json(row: StatusRow) -> bytes:
    """The value of an answer to ``status``."""
    return encode_packet(row)


# -- the program reads ---------------------------------------------------------------------


def fundamentals_of(raw: bytes) -> Fundamentals:
    """Read an answer to the question ``fundamentals``.

    Raises:
        ProtocolError: It is none.
    """
    read = read_value(_FUNDAMENTALS, raw)
    return Fundamentals(read.bottleneck_bps, read.available_bps, read.rtt_ns)


def packet_priority_of(raw: bytes) -> PacketPriority:
    """Read an answer to the question ``packet_priority``.

    Raises:
        ProtocolError: It is none.
    """
    read = read_value(_PRIORITY, raw)
    return PacketPriority(
        read.conformant_dscp,
        read.non_conformant_dscp,
        read.conformant_pcp,
        read.non_conformant_pcp,
    )


def path_status_of(raw: bytes) -> PathStatus:
    """Read an answer to the question ``path``.

    Raises:
        ProtocolError: It is none.
    """
    read = read_value(_PATH, raw)
    host = Endpoint(_packed(read.host), 0, read.scope_id)
    facts = None
    if read.interface is not None:
        facts = PathFacts(
            host=host,
            interface=read.interface,
            interface_name=read.interface_name,
            source=_packed(read.source) if read.source else b"",
            gateway=_packed(read.gateway) if read.gateway else b"",
            mtu_bytes=read.mtu_bytes,
            link_type=_word(_LINK_BY_WORD, read.link_type, "kind of link"),
            speed_bps=read.speed_bps,
        )
    reason = read.congestion_reason
    return PathStatus(
        host=host,
        facts=facts,
        fundamentals=Fundamentals(read.bottleneck_bps, read.available_bps, read.rtt_ns),
        available_low_bps=read.available_low_bps,
        confidence=read.confidence,
        age_ns=read.age_ns,
        congestion=Congestion(
            read.congested,
            None if reason is None else _word(_REASON_BY_WORD, reason, "reason of congestion"),
            read.congestion_detail,
        ),
        held_bps=read.held_bps,
        own_bps=read.own_bps,
        sent_bytes=read.sent_bytes,
        obstacle=read.obstacle,
    )


def traffic_of(raw: bytes) -> FlowTraffic:
    """Read an answer to the question ``traffic``.

    Raises:
        ProtocolError: It is none.
    """
    return read_value(_TRAFFIC, raw)


def rate_of(raw: bytes) -> int:
    """Read an answer to the question ``outgoing_rate``: bit/s.

    Raises:
        ProtocolError: It is none.
    """
    if (rate_bps := read_value(_NUMBER, raw)) < 0:
        raise ProtocolError("a rate is below 0")
    return rate_bps


def flow_id_of(raw: bytes) -> int:
    """Read the answer to ``add_socket``.

    Raises:
        ProtocolError: It is none.
    """
    flow_id = read_value(_NUMBER, raw)
    if flow_id < 1:
        raise ProtocolError("the id of a flow is below 1")
    return flow_id


def nothing_of(raw: bytes) -> None:
    """Read an answer that holds nothing.

    Raises:
        ProtocolError: It holds something.
    """
    if bytes(raw) != _NULL:
        raise ProtocolError("an answer that should be null is not")


def status_of(raw: bytes) -> StatusRow:
    """Read the answer to ``status``.

    Raises:
        ProtocolError: It is none.
    """
    return read_value(_STATUS, raw)


def _packed(text: str) -> bytes:
    try:
        return ip_address(text).packed
    except ValueError as error:
        raise ProtocolError(reason_of(error)) from None


def _word(words: dict[str, _T], word: str, what: str) -> _T:
    found = words.get(word)
    if found is None:
        raise ProtocolError(f"{reason_of(ValueError(word))!r} is no {what}")
    return found

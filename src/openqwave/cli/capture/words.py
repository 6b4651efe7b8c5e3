"""A packet and what it says, in words and as fields."""

from __future__ import annotations

import time
from typing import Any

from openqwave.cli.capture.conversations import Discarded, Event, Undecoded
from openqwave.cli.overview.words import clean
from openqwave.wire import qlpb
from openqwave.wire.frames import Frame
from openqwave.wire.packets import TCP, UDP, Packet, Tag

# RFC 2474, 2597, 3246, 5865, 8622: names of code points.
DSCP_NAMES = {
    **{8 * number: f"CS{number}" for number in range(1, 8)},
    **{
        8 * number + 2 * drop: f"AF{number}{drop}" for number in range(1, 5) for drop in range(1, 4)
    },
    1: "LE",
    44: "VA",
    46: "EF",
}
_ECN_NAMES = ("", "ECT1", "ECT0", "CE")
_PROTOCOLS = {1: "ICMP", TCP: "TCP", UDP: "UDP", 58: "ICMPv6"}
_FLAGS = ((0x02, "SYN"), (0x01, "FIN"), (0x04, "RST"))
_OBSERVATIONS = {
    qlpb.Observation.NO_ISSUE: "in order",
    qlpb.Observation.INVERSION: "priority overtook",
    qlpb.Observation.LOSS: "one was lost",
}

# The widths of what is before the addresses: a time of day, usual marks, usual words.
_MARKS_WIDTH, _WHAT_WIDTH = 6, 22


def dscp_name(dscp: int) -> str:
    """A code point as people know it, "-" for 0."""
    return DSCP_NAMES.get(dscp, str(dscp)) if dscp else "-"


def marks_of(packet: Packet) -> str:
    """DSCP, ECN and the priority of 802.1p, as far as there are any."""
    marks = [dscp_name(packet.dscp)]
    if packet.ecn:
        marks.append(_ECN_NAMES[packet.ecn])
    if packet.tag is not None:
        marks.append(f"p{packet.tag.pcp}")
    return ",".join(marks)


def what_of(packet: Packet, events: list[Event]) -> str:
    """What a packet is: its messages, or its protocol and length."""
    if events:
        return "; ".join(map(sentence_of, events))
    name = _PROTOCOLS.get(packet.protocol, f"protocol {packet.protocol}")
    words = [name, str(packet.length_bytes)]
    if packet.is_fragment:
        words.append("fragment")
    words += [flag for bit, flag in _FLAGS if packet.protocol == TCP and packet.flags & bit]
    return " ".join(words)


def sentence_of(event: Event) -> str:
    """A message in few words."""
    match event:
        case qlpb.PacketPairProbe():
            if not event.train_size:
                return f"load probe #{event.sequence}"
            size = f"first of {event.train_size}" if event.is_first else f"({event.train_size})"
            return f"train probe #{event.sequence} {size}"
        case qlpb.RouteCheckProbe():
            size = " oversized" if event.is_oversized else ""
            last = f" last of {event.train_size}" if event.train_size else ""
            return f"route probe #{event.sequence}{size}{last}"
        case qlpb.ProbegapProbe():
            return f"small probe #{event.sequence}{' answer' if event.is_returned else ''}"
        case qlpb.PacketPairHandshake():
            return "hello: trains"
        case qlpb.RouteCheckHandshake():
            return "hello: route check"
        case qlpb.HandshakeSuccess():
            return "hello: welcome"
        case qlpb.RouteCheckSummary():
            return f"route summary: {_OBSERVATIONS[event.observation]}"
        case qlpb.PacketPairSummary():
            packets = len(event.deltas_ns) + 1
            spread_us = sum(event.deltas_ns) / 1_000
            return f"train summary #{event.sequence} ({packets}) {spread_us:,.1f} us"
        case qlpb.Discard():
            return "discard what follows"
        case Discarded():
            return f"{event.length_bytes} to discard"
        case Undecoded():
            return f"undecoded: {event.why}"


def fields_of(event: Event) -> dict[str, Any]:
    """A message as an object."""
    match event:
        case qlpb.PacketPairProbe():
            return {
                "message": "packet pair probe",
                "sequence": event.sequence,
                "train_size": event.train_size,
                "is_first": event.is_first,
                "initiator_port": event.initiator_port,
            }
        case qlpb.RouteCheckProbe():
            return {
                "message": "route check probe",
                "sequence": event.sequence,
                "train_size": event.train_size,
                "is_oversized": event.is_oversized,
                "initiator_port": event.initiator_port,
            }
        case qlpb.ProbegapProbe():
            return {
                "message": "probegap answer" if event.is_returned else "probegap probe",
                "sequence": event.sequence,
                "initiator_sent_ticks": event.initiator_sent_ticks,
                "sink_received_ticks": event.sink_received_ticks,
                "sink_sent_ticks": event.sink_sent_ticks,
            }
        case qlpb.PacketPairHandshake():
            return {"message": "packet pair handshake"}
        case qlpb.RouteCheckHandshake():
            return {"message": "route check handshake"}
        case qlpb.HandshakeSuccess():
            return {"message": "handshake success"}
        case qlpb.RouteCheckSummary():
            return {
                "message": "route check summary",
                "observation": event.observation.name.lower(),
            }
        case qlpb.PacketPairSummary():
            return {
                "message": "packet pair summary",
                "sequence": event.sequence,
                "interface_speed_bps": event.interface_speed_bps,
                "deltas_ns": list(event.deltas_ns),
            }
        case qlpb.Discard():
            return {"message": "discard"}
        case Discarded():
            return {"message": "discarded", "length_bytes": event.length_bytes}
        case Undecoded():
            return {"message": None, "why": event.why}


def packet_fields(frame: Frame, packet: Packet, events: list[Event]) -> dict[str, Any]:
    """A packet as an object."""
    ports = packet.ports or (None, None)
    return {
        "event": "packet",
        "time_ns": frame.time_ns,
        "interface": frame.interface or None,
        "direction": None if frame.direction is None else frame.direction.value,
        "source": str(packet.source),
        "source_port": ports[0],
        "destination": str(packet.destination),
        "destination_port": ports[1],
        "protocol": packet.protocol,
        "length_bytes": packet.length_bytes,
        "ttl": packet.ttl,
        "dscp": packet.dscp,
        "ecn": packet.ecn,
        "tag": None if packet.tag is None else _tag_fields(packet.tag),
        "is_fragment": packet.is_fragment,
        "qlpb": list(map(fields_of, events)),
    }


def _tag_fields(tag: Tag) -> dict[str, int]:
    return {"pcp": tag.pcp, "vlan": tag.vlan}


def line_of(frame: Frame, packet: Packet, events: list[Event], width: int | None) -> str:
    """A packet as a line.

    Args:
        frame: Where it was.
        packet: It.
        events: Its messages.
        width: How long the line may be, 80 or more; None for any length. Addresses that do not
            fit are shortened in their middle.
    """
    head = f"{_clock(frame.time_ns)} {marks_of(packet):{_MARKS_WIDTH}} "
    what = what_of(packet, events)
    source_port, destination_port = packet.ports or (None, None)
    source = _end(str(packet.source), source_port)
    destination = _end(str(packet.destination), destination_port)
    if width is None:
        return f"{head}{what:{_WHAT_WIDTH}} {source} > {destination}"
    # A column gives way before an address does.
    room = width - len(head) - len("  > ")
    what += " " * min(_WHAT_WIDTH - len(what), room - len(what + source + destination))
    room -= len(what)
    # One that is short leaves more to the other.
    rooms = max(room // 2, room - len(destination)), max(room - room // 2, room - len(source))
    source, destination = _fit(source, rooms[0]), _fit(destination, rooms[1])
    return f"{head}{what} {source} > {destination}"[:width].rstrip()


def _end(address: str, port: int | None) -> str:
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _fit(text: str, room: int) -> str:
    """A text in so many characters, its middle left out."""
    if len(text) <= room:
        return text
    kept = max(0, room - 2)
    return text[: kept // 2] + ".." + text[len(text) - (kept - kept // 2) :]


def _clock(time_ns: int | None) -> str:
    if time_ns is None:
        return "--:--:--.------"
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{rest // 1_000:06}"


def comment_of(packet: Packet, events: list[Event]) -> str:
    """What a packet is, to be kept beside it; empty for an ordinary one."""
    words = [f"MS-QLPB: {sentence_of(event)}" for event in events]
    if packet.dscp:
        words.append(f"DSCP {packet.dscp} {DSCP_NAMES.get(packet.dscp, '')}".rstrip())
    if packet.tag is not None and packet.tag.pcp:
        words.append(f"802.1p {packet.tag.pcp}")
    return clean(", ".join(words))

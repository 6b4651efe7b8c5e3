"""What every initiator session takes and gives, so that one driver can run them all.

A session never touches a socket or a clock. Its driver tells it what happened, with the time;
the session answers with *effects*, which the driver carries out in order, and *events*, which
whoever wanted the experiment reads. A session that consists of others (`measurement`) has the
same face.

The verbs, all with ``now_ns`` (CLOCK_MONOTONIC of the driver) as keyword:

* ``start``, then ``receive_connected`` / ``receive_stream`` / ``receive_closed`` for its TCP
  streams, ``receive_datagram`` for replies, ``receive_sent`` / ``receive_unsent`` for what became
  of a `SendTrain`;
* ``effects_to_send`` and ``next_event`` to be called until they are empty after each of the above;
* ``next_timer_ns`` and ``handle_timer``.

Stamps of packets (`Arrival.stamp_ns`, the stamps of ``receive_sent``) are the kernel's, on
CLOCK_REALTIME; they are never compared with ``now_ns``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from openqwave.model.value import value


class Channel(enum.Enum):
    """The socket a datagram leaves by; every one sends to the sink's port.

    Attributes:
        BEST_EFFORT: Any local port; unmarked.
        PRIORITY: Any local port; DSCP 40 and the queue priority of 802.1p 5.
        GAP: Local port 2177, shared with a sink in the same process.
    """

    BEST_EFFORT = "best effort"
    PRIORITY = "priority"
    GAP = "gap"


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Connect to the sink's TCP port; answer with `receive_connected` or `receive_closed`."""

    stream: int


@dataclass(frozen=True, slots=True)
class SendStream:
    """Write bytes, in one call."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CloseStream:
    """Close a stream; nothing is to be answered for it any more."""

    stream: int


@dataclass(frozen=True, slots=True)
class SendTrain:
    """Send datagrams in order: back to back, or each `gap_ns` after the one before.

    Attributes:
        stream: The session's key, so that the answer finds it.
        number: Names the train in the answer, unique in its session.
        channel: The socket.
        payloads: What UDP carries.
        gap_ns: The spacing; 0 for as fast as possible.
        wants_stamps: Whether `receive_sent` is to be called, with the kernel's transmit stamps.
    """

    stream: int
    number: int
    channel: Channel
    payloads: tuple[bytes, ...]
    gap_ns: int = 0
    wants_stamps: bool = True


Effect: TypeAlias = OpenStream | SendStream | CloseStream | SendTrain


@value
class Arrival:
    """What the kernel says of a datagram.

    Attributes:
        stamp_ns: When it arrived, CLOCK_REALTIME.
        traffic_class: Its DSCP and ECN byte.
        hop_limit: Its TTL or hop limit on arrival; 0 if unknown.
        local: The address of this host that it came to, packed; empty if unknown.
    """

    stamp_ns: int
    traffic_class: int = 0
    hop_limit: int = 0
    local: bytes = b""


class CloseReason(enum.Enum):
    """Why a stream is no longer there."""

    REFUSED = "the sink's port is closed"
    UNREACHABLE = "no route, or nobody answers to the address"
    TIMED_OUT = "connecting took too long"
    BY_PEER = "the sink closed the connection"
    BROKEN = "the connection broke"


class Event:
    """Something that happened; each session defines its own, in the past tense."""

    __slots__ = ()


class Session(Protocol):
    """The face of an initiator session. See the module's text."""

    def start(self, *, now_ns: int) -> None:
        """Begin."""

    def receive_connected(self, stream: int, local_port: int, *, now_ns: int) -> None:
        """A stream that was to be opened is open."""

    def receive_stream(self, stream: int, data: bytes, *, now_ns: int) -> None:
        """Bytes came over a stream, cut anywhere."""

    def receive_closed(self, stream: int, reason: CloseReason, *, now_ns: int) -> None:
        """A stream could not be opened, or has ended."""

    def receive_datagram(self, data: bytes, arrival: Arrival, *, now_ns: int) -> None:
        """A datagram came from the sink's address and port to local port 2177."""

    def receive_sent(self, train: SendTrain, stamps_ns: tuple[int, ...], *, now_ns: int) -> None:
        """All of a train has left; `stamps_ns` is when each datagram did."""

    def receive_unsent(self, train: SendTrain, index: int, reason: str, *, now_ns: int) -> None:
        """The datagram at `index` could not be sent, nor those after it."""

    def effects_to_send(self, *, now_ns: int) -> list[Effect]:
        """Take what is to be done now, in order."""

    def next_event(self) -> Event | None:
        """Take the oldest event; None when there is none."""

    def next_timer_ns(self) -> int | None:
        """When `handle_timer` is due; None for never. Not in the past twice for one reason."""

    def handle_timer(self, *, now_ns: int) -> None:
        """The time has come, or passed."""

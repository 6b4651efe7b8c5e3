"""Initiator of the route check: does the path carry 802.1p tags, and does priority help?

Groups of five probes are sent, at most five groups 20 ms apart (MS-QLPB 3.1.6.2)::

    1   1500 bytes, priority      with a tag it is longer than Ethernet once allowed: a path
                                  that cannot carry tags drops it
    2   1496 bytes, best effort   a queue for the last one to overtake
    3   1496 bytes, best effort
    4   headers only, best effort
    5   headers only, priority    the sink judges the group when this one comes

The sink says of a group that all came in order, that the last overtook others, or that the first
was lost. Overtaking proves that priority works. Two losses in a row prove that tagged packets
do not pass. Otherwise the last summary decides when five have come or 400 ms are over: in order
is good enough, because nothing was in the queue to be overtaken.

Where the specification contradicts itself, this is what is done: the fifth summary means
"supported" if everything came in order (3.1.5.2 against 4.1), and a summary counts whenever it
comes after the first group was sent (3.1.5.2). A first probe that this host cannot send means
"not supported", any other ends the session with a failure (3.1.6.2).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from openqwave.probing.handshake import State, StreamSession
from openqwave.probing.outcomes import Failure
from openqwave.probing.payloads import Filler, headers_bytes, smallest_packet_bytes
from openqwave.probing.session import Channel, CloseReason, Event, SendTrain
from openqwave.wire.qlpb import (
    PACKET_PAIR_MAX_IP_BYTES,
    ROUTE_CHECK_MAX_IP_BYTES,
    FlagOrder,
    Observation,
    RouteCheckHandshake,
    RouteCheckProbe,
    RouteCheckSummary,
    StreamMessage,
    encode_datagram,
)

# MS-QLPB 3.1.4.1, 3.1.5.1.1, 3.1.6.2, 3.1.5.2.
HANDSHAKE_NS = 250_000_000
SESSION_NS = 400_000_000
SPACING_NS = 20_000_000
MAX_GROUPS = 5
MAX_SUMMARIES = 5

# The probe that the sink judges a group by carries the group's size, the others 0.
GROUP = 5

# 1500 bytes are a full frame before the tag, 1496 with it (3.1.6.2); 0 is headers only.
_OVERSIZED_BYTES = ROUTE_CHECK_MAX_IP_BYTES
_FULL_BYTES = PACKET_PAIR_MAX_IP_BYTES
_BARE_BYTES = 0

# A group leaves in three parts, in this order: channel, and the sizes of its packets.
_PARTS: tuple[tuple[Channel, tuple[int, ...]], ...] = (
    (Channel.PRIORITY, (_OVERSIZED_BYTES,)),
    (Channel.BEST_EFFORT, (_FULL_BYTES, _FULL_BYTES, _BARE_BYTES)),
    (Channel.PRIORITY, (_BARE_BYTES,)),
)


class Verdict(enum.Enum):
    """What a route check came to; the value is a sentence for people."""

    OVERTOOK = "a packet with priority overtook others"
    IN_ORDER = "packets with priority arrived, in order with the others"
    LOST_TWICE = "full-sized packets with priority were lost twice in a row"
    LOST_LAST = "a full-sized packet with priority was lost in the last group that was reported"
    SILENT = "the sink reported nothing"
    UNSENT = "this host cannot send a full-sized packet with priority"


_SUPPORTED = frozenset({Verdict.OVERTOOK, Verdict.IN_ORDER})

# What a summary decides at once, by the one before it (None for the first) and itself.
DECISIONS: Mapping[tuple[Observation | None, Observation], Verdict | None] = MappingProxyType(
    {
        (None, Observation.NO_ISSUE): None,
        (None, Observation.INVERSION): Verdict.OVERTOOK,
        (None, Observation.LOSS): None,
        (Observation.NO_ISSUE, Observation.NO_ISSUE): None,
        (Observation.NO_ISSUE, Observation.INVERSION): Verdict.OVERTOOK,
        (Observation.NO_ISSUE, Observation.LOSS): None,
        (Observation.LOSS, Observation.NO_ISSUE): None,
        (Observation.LOSS, Observation.INVERSION): Verdict.OVERTOOK,
        (Observation.LOSS, Observation.LOSS): Verdict.LOST_TWICE,
    }
)

# What the last summary decides when time or groups have run out.
LAST_DECISIONS: Mapping[Observation | None, Verdict] = MappingProxyType(
    {
        None: Verdict.SILENT,
        Observation.NO_ISSUE: Verdict.IN_ORDER,
        Observation.LOSS: Verdict.LOST_LAST,
    }
)


@dataclass(frozen=True, slots=True)
class RouteChecked(Event):
    """The check is over, in order. It is the session's last event.

    Attributes:
        supported: Whether the path carries priority.
        summaries: What the sink said of each group, in order.
        verdict: Why.
    """

    supported: bool
    summaries: tuple[Observation, ...]
    verdict: Verdict

    @property
    def reason(self) -> str:
        """Why, as a sentence."""
        return self.verdict.value


class RouteCheckInitiator(StreamSession):
    """One route check. See the module's text.

    Args:
        stream: The session's key in effects and events.
        version: Of IP towards the sink, 4 or 6.
        random: Uniform in [0, 1), for the filler.
        order: Where the O flag goes in its byte.

    Raises:
        InvalidParameter: No such version of IP.
    """

    def __init__(
        self,
        stream: int,
        version: int,
        *,
        random: Callable[[], float],
        order: FlagOrder = FlagOrder.MSB_FIRST,
    ) -> None:
        # A summary of packet pair is refused whatever its length; 1 keeps the decoder small.
        super().__init__(stream, RouteCheckHandshake(), handshake_ns=HANDSHAKE_NS, max_deltas=1)
        self._order = order
        self._headers_bytes = headers_bytes(version)
        self._smallest_bytes = smallest_packet_bytes(version)
        self._filler = Filler(random)
        # The first sequence number is 1 (3.1.4.1).
        self._sequence = 1
        self._groups = 0
        self._next_send_ns = 0
        self._end_ns: int | None = None
        self._summaries: list[Observation] = []

    # -- what the handshake leads to --------------------------------------------------

    def _begin(self, now_ns: int) -> None:
        self._end_ns = now_ns + SESSION_NS

    def _give_up(self, train: SendTrain, reason: str) -> None:
        if train.number % len(_PARTS) == 0:
            self._conclude(Verdict.UNSENT)
        else:
            self._fail(Failure.UNSENT, reason)

    def _lose_connection(self, reason: CloseReason, _now_ns: int) -> None:
        self._fail(Failure.CLOSED, reason.value)

    def _receive_summary(self, message: StreamMessage, _now_ns: int) -> None:
        if not isinstance(message, RouteCheckSummary):
            self._fail(Failure.UNEXPECTED, "a summary of another experiment")
            return
        if not self._groups:
            self._fail(Failure.UNEXPECTED, "a summary came before any probe was sent")
            return
        previous = self._summaries[-1] if self._summaries else None
        self._summaries.append(message.observation)
        verdict = DECISIONS[previous, message.observation]
        if verdict is not None:
            self._conclude(verdict)
        elif len(self._summaries) == MAX_SUMMARIES:
            self._conclude(LAST_DECISIONS[message.observation])

    def _conclude(self, verdict: Verdict) -> None:
        self._end(RouteChecked(verdict in _SUPPORTED, tuple(self._summaries), verdict))

    # -- sending ----------------------------------------------------------------------

    def _due_ns(self) -> int | None:
        """When the next group is to be sent; None if there is none."""
        if self._state is not State.OPEN or self._groups == MAX_GROUPS:
            return None
        return self._next_send_ns

    def _release(self, now_ns: int) -> None:
        due_ns = self._due_ns()
        if due_ns is None or due_ns > now_ns or self._end_ns is None or now_ns >= self._end_ns:
            return
        for part, (channel, sizes) in enumerate(_PARTS):
            self._effects.append(
                SendTrain(
                    self._stream,
                    self._groups * len(_PARTS) + part,
                    channel,
                    tuple(self._payload(size_bytes) for size_bytes in sizes),
                    wants_stamps=False,
                )
            )
        self._groups += 1
        self._next_send_ns = now_ns + SPACING_NS

    def _payload(self, packet_bytes: int) -> bytes:
        sequence = self._sequence
        self._sequence += 1
        size_bytes = max(packet_bytes, self._smallest_bytes) - self._headers_bytes
        probe = RouteCheckProbe(
            self._local_port,
            0 if sequence % GROUP else GROUP,
            sequence,
            packet_bytes == _OVERSIZED_BYTES,
            size_bytes,
        )
        return encode_datagram(probe, self._filler.take(size_bytes), self._order)

    # -- time -------------------------------------------------------------------------

    def _timers_ns(self) -> Iterator[int]:
        if self._end_ns is not None:
            yield self._end_ns
        due_ns = self._due_ns()
        if due_ns is not None:
            yield due_ns

    def _expire(self, now_ns: int) -> None:
        if self._end_ns is not None and now_ns >= self._end_ns:
            self._conclude(LAST_DECISIONS[self._summaries[-1] if self._summaries else None])

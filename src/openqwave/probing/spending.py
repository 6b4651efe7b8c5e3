"""What a tracked path has cost, and what its experiments may cost next: the rules over a `Budget`.

Measurements are lumps, a watch goes on. A lump takes a part of what is left, so that there is
always something left, and one for a change leaves a reserve alone: a watch that has lost its pace
to measurements would miss the next change.

Counted are the IP packets that are sent: probes as they are, and TCP's segments about as they
are, which is a thousandth of the whole. What comes back is not counted: replies to small probes,
each as large as its probe, and the sink's reports.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import TYPE_CHECKING

from openqwave.probing import schedule
from openqwave.probing.session import Effect, OpenStream, SendStream

if TYPE_CHECKING:
    from openqwave.probing.budget import Budget

# Not touched for changes: this part of the whole.
RESERVED_PART = 0.15
# A measurement that may cost less says nothing: four pairs, three trains of three, and probes.
LEAST_BYTES = 30_000
# A segment without data, with the options that Linux sets.
SEGMENT_BYTES = 60
# To connect and to close: SYN, ACK, FIN, and the ACK of the other side's FIN.
STREAM_SEGMENTS = 4


class Purpose(enum.Enum):
    """What a measurement is for.

    Attributes:
        FIRST: Nothing is known yet.
        THOROUGH: A first answer is known and a better one is wanted. It is not worth much on slow
            paths, where the first is good already and all measurements are dear.
        CHANGE: Something seems to have changed, or is wanted afresh.
    """

    FIRST = "a first answer"
    THOROUGH = "a better answer"
    CHANGE = "a change"


# Of what is left, for each.
PARTS = {Purpose.FIRST: 0.5, Purpose.THOROUGH: 0.25, Purpose.CHANGE: 0.25}


class Spending:
    """The books of one path; see the module's text.

    Args:
        budget: Used by nobody else.

    Attributes:
        capacity_bps: As it is believed now; None before it was.
    """

    def __init__(self, budget: Budget) -> None:
        self.capacity_bps: int | None = None
        self._budget = budget

    @property
    def longest_packets(self) -> int:
        """How long a train may be that leaves as one burst."""
        longest = self._budget.burst_bytes // schedule.PACKET_BYTES
        return max(schedule.SHORTEST, min(schedule.LONGEST, longest))

    def note(self, sent_bytes: int, effects: Iterable[Effect], *, now_ns: int) -> None:
        """Something is sent: so many bytes of probes, and what else is among the effects."""
        for effect in effects:
            if isinstance(effect, OpenStream):
                sent_bytes += STREAM_SEGMENTS * SEGMENT_BYTES
            elif isinstance(effect, SendStream):
                sent_bytes += SEGMENT_BYTES + len(effect.data)
        if sent_bytes:
            self._budget.spend(sent_bytes, self.capacity_bps, now_ns=now_ns)

    def note_heard(self, *, now_ns: int) -> None:
        """Bytes came over TCP, which are acknowledged."""
        self._budget.spend(SEGMENT_BYTES, self.capacity_bps, now_ns=now_ns)

    def pace_bps(self, *, now_ns: int) -> float:
        """What a watch may send, bits a second."""
        return self._budget.pace_bps(self.capacity_bps, now_ns=now_ns)

    def can_measure(self, purpose: Purpose, *, now_ns: int) -> bool:
        """Is there enough left for a measurement that says something?"""
        return self.allowance(purpose, None, 0, now_ns=now_ns) >= LEAST_BYTES

    def allowance(
        self, purpose: Purpose, belief_bps: float | None, own_bytes: int, *, now_ns: int
    ) -> float:
        """What a measurement may cost in all, in bytes.

        Args:
            purpose: What it is for.
            belief_bps: The capacity as it sees it; None for what was known before.
            own_bytes: What it has sent already.
            now_ns: When it began, or will.
        """
        capacity_bps = self.capacity_bps if belief_bps is None else belief_bps
        left: float = self._budget.allowed_bytes(capacity_bps, now_ns=now_ns) + own_bytes
        if purpose is Purpose.CHANGE:
            left -= RESERVED_PART * self._budget.whole_bytes(capacity_bps)
        return PARTS[purpose] * max(0.0, left)

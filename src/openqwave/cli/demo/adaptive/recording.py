"""What was heard and counted while the story was played, as values.

Times are CLOCK_MONOTONIC, except where they are said to be of the story: those begin with the
performer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from openqwave.cli.demo.adaptive.script import NAMES


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the performer's to the library.

    Attributes:
        stream: For which stream.
        call: Its name in the Python interface.
        rate_bps: The rate that it names; None where it names none.
        phase: Of the stream's packets meanwhile; None where marks stay as they are.
        began_ns: When it was made.
        ended_ns: When it returned.
        error: The name of its Win32 error; empty if it succeeded.
        detail: The error in words; likewise.
        available_bps: What it said to be available; None where that was not asked, or is unknown.
    """

    stream: int
    call: str
    rate_bps: int | None
    phase: int | None
    began_ns: int
    ended_ns: int
    error: str = ""
    detail: str = ""
    available_bps: int | None = None

    @property
    def is_done(self) -> bool:
        """Did it succeed?"""
        return not self.error

    @property
    def sentence(self) -> str:
        """What was called and what came of it, in a line."""
        asked = "" if self.rate_bps is None else f" {self.rate_bps / 1e6:g} Mbit/s"
        said = self.error or "ok"
        if self.available_bps is not None:
            said = f"{self.available_bps / 1e6:.1f} Mbit/s available"
        return f"{NAMES[self.stream]}: {self.call}{asked}: {said}"


@dataclass(frozen=True, slots=True)
class Offered:
    """What the streams have sent since the last of these.

    Attributes:
        at_ns: When it was looked at.
        rates_bps: By stream; those that there are.
    """

    at_ns: int
    rates_bps: dict[int, int]


@dataclass(frozen=True, slots=True)
class Belief:
    """What the library believes of the path.

    Attributes:
        at_ns: When it was asked.
        capacity_bps: Of the link; None while unknown.
        available_bps: Measured to be free of it, likewise.
        available_low_bps: What is claimed to be free at least, likewise.
        rtt_ns: Round-trip time, likewise.
        is_congested: The verdict; None while there is none.
        reason: What it rests on; empty unless congested.
        held_bps: What contracts hold.
        sent_bytes: What experiments have sent.
    """

    at_ns: int
    capacity_bps: int | None
    available_bps: int | None
    available_low_bps: int | None
    rtt_ns: int | None
    is_congested: bool | None
    reason: str
    held_bps: int
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class Mark:
    """The performer's first or last line.

    Attributes:
        at_ns: When it was written.
        is_end: Which of the two.
    """

    at_ns: int
    is_end: bool


Said: TypeAlias = Call | Offered | Belief | Mark


def read(fields: dict[str, Any]) -> Said:
    """Read one of the performer's objects; ValueError for what is none."""
    numbers = {name: number for number, name in NAMES.items()}
    match fields.pop("event", None):
        case "call":
            answer = fields.pop("answer", None) or {}
            return Call(**fields, available_bps=answer.get("available_bps"))
        case "offered":
            rates = {numbers[name]: rate for name, rate in fields["rates_bps"].items()}
            return Offered(fields["at_ns"], rates)
        case "belief":
            return Belief(**fields)
        case "begin" | "end" as event:
            return Mark(fields["at_ns"], event == "end")
    raise ValueError("the performer says what nobody understands")


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the link's own books.

    Attributes:
        since_ns: From when.
        until_ns: To when.
        own_bps: What hosts sent there, streams and experiments, and the link carried.
        others_bps: What it carried of others.
        dropped: Packets of hosts that found its queue full.
        others_dropped: Packets of others that did.
    """

    since_ns: int
    until_ns: int
    own_bps: int
    others_bps: int
    dropped: int = 0
    others_dropped: int = 0


@dataclass(frozen=True, slots=True)
class Visit:
    """When others came and went.

    Attributes:
        came_ns: Their first packet could come then.
        went_ns: And their last one then; it may lie ahead.
    """

    came_ns: int
    went_ns: int

"""The calls that make the story, found among all that were made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from openqwave.cli.demo.adaptive.script import A

if TYPE_CHECKING:
    from collections.abc import Iterable

    from openqwave.cli.demo.adaptive.recording import Call

RETRY = "ERROR_RETRY"


@dataclass(frozen=True, slots=True)
class Turns:
    """The calls that make the story; None for those to which it did not come.

    Attributes:
        admitted: The first stream's rate is granted.
        refused: The second stream's first answer.
        asked: What is there is asked for.
        lower: The lower rate is granted.
        congested: The notice of congestion.
        down: The second stream goes down.
        relieved: The notice of its end.
        available: The notice that the lower rate is there again.
        back: It is granted.
        ended: The first stream ends.
        whole_available: The notice that all that was wanted is there.
        whole: It is granted.
    """

    admitted: Call | None = None
    refused: Call | None = None
    asked: Call | None = None
    lower: Call | None = None
    congested: Call | None = None
    down: Call | None = None
    relieved: Call | None = None
    available: Call | None = None
    back: Call | None = None
    ended: Call | None = None
    whole_available: Call | None = None
    whole: Call | None = None


def turns_of(calls: Iterable[Call], came_ns: int | None) -> Turns:
    """Find the calls of the story.

    Args:
        calls: All calls, in order of time.
        came_ns: When others came. A notice of congestion before that is of another story.
    """
    found: dict[str, Call] = {}
    for call in calls:
        name = _turn(call, found)
        if name == "congested" and (came_ns is None or call.ended_ns < came_ns):
            continue
        # Of questions the last before the rate was granted; of all else the first.
        if name == "asked" or (name and name not in found):
            found[name] = call
    return Turns(**found)


# Of the second stream's granted rates: the turn that each follows, and its own name.
_RATES = (
    ("whole_available", "whole"),
    ("available", "back"),
    ("congested", "down"),
    ("refused", "lower"),
)


def _turn(call: Call, found: dict[str, Call]) -> str:
    """Name a call's place in the story, by those before; nothing if it has none."""
    name = ""
    match call.call:
        case "close" if call.stream == A:
            name = "ended"
        case "fundamentals" if "lower" not in found and call.available_bps is not None:
            name = "asked"
        case "wait_congested" if call.is_done:
            name = "congested"
        case "wait_uncongested" if call.is_done and "congested" in found:
            name = "relieved"
        case "wait_available" if call.is_done and "ended" in found:
            name = "whole_available"
        case "wait_available" if call.is_done and "relieved" in found:
            name = "available"
        case "set_rate" if call.stream == A:
            name = "admitted" if call.is_done else ""
        case "set_rate" if call.error != RETRY and "refused" not in found:
            name = "refused"
        case "set_rate" if call.is_done:
            name = next((own for before, own in _RATES if before in found), "")
    return name

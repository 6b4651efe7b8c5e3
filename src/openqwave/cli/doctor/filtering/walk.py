"""What becomes of a packet in the chains of a firewall, where some rules are only half understood.

Each rule says whether it matches a packet: yes, no or maybe. All that may happen is followed. One
base chain that drops is enough; a packet passes when all let it pass (nft(8), "chains").
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from openqwave.model.value import value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Jumps that are deeper than the kernel allows are none.
_DEEPEST: Final = 16


class Truth(Enum):
    """Whether a rule matches; of two, the lesser holds for both together."""

    NO = 0
    MAYBE = 1
    YES = 2


class Act(Enum):
    """What a rule does with what it matches."""

    ACCEPT = "accept"
    DROP = "drop"
    RETURN = "return"
    JUMP = "jump"
    GOTO = "goto"


@value
class Packet:
    """A packet that begins a conversation with this host.

    Attributes:
        protocol: "udp" or "tcp".
        port: Its destination.
        interface: Where it arrives.
        version: 4 or 6.
    """

    protocol: str
    port: int
    interface: str
    version: int


@value
class Step:
    """One rule, as far as it concerns a packet.

    Attributes:
        truth: Whether it matches.
        act: What it does then.
        target: Where a jump goes.
        words: The rule, for people.
    """

    truth: Truth
    act: Act
    target: str = ""
    words: str = ""


@value
class Base:
    """A chain that the kernel begins with.

    Attributes:
        chain: Its name among the chains.
        words: What it is called, for people.
        drops: Whether it drops what no rule decides.
    """

    chain: str
    words: str
    drops: bool = False


@value
class Fate:
    """What becomes of a packet.

    Attributes:
        passes: Whether it does.
        why: The rules or the policy that drop it, or may; empty where nothing does.
    """

    passes: Truth
    why: tuple[str, ...] = ()


def both(one: Truth, other: Truth) -> Truth:
    """Whether two conditions hold together."""
    return min(one, other, key=lambda each: each.value)


def fate_of(bases: Sequence[Base], chains: Mapping[str, Sequence[Step]]) -> Fate:
    """Follow a packet through base chains, in their order."""
    passes, why = Truth.YES, []
    for base in bases:
        ends = _follow(base.chain, chains, 0)
        if Act.RETURN in ends:
            end = Act.DROP if base.drops else Act.ACCEPT
            ends.setdefault(end, f"policy drop of {base.words}")
        if Act.DROP not in ends:
            continue
        why.append(ends[Act.DROP])
        if Act.ACCEPT not in ends:
            return Fate(Truth.NO, tuple(why))
        passes = Truth.MAYBE
    return Fate(passes, tuple(why))


def _follow(chain: str, chains: Mapping[str, Sequence[Step]], depth: int) -> dict[Act, str]:
    """How a chain may end, each with the rule that makes it so; RETURN where no rule decides."""
    ends: dict[Act, str] = {}
    if depth > _DEEPEST:
        return {Act.RETURN: ""}
    for step in chains.get(chain, ()):
        if step.truth is Truth.NO:
            continue
        goes_on = step.truth is Truth.MAYBE
        if step.act in (Act.JUMP, Act.GOTO):
            inner = _follow(step.target, chains, depth + 1)
            has_returned = inner.pop(Act.RETURN, None) is not None
            for act, words in inner.items():
                ends.setdefault(act, words)
            if has_returned and step.act is Act.GOTO:
                ends.setdefault(Act.RETURN, "")
            goes_on |= has_returned and step.act is Act.JUMP
        else:
            ends.setdefault(step.act, step.words)
        if not goes_on:
            return ends
    ends.setdefault(Act.RETURN, "")
    return ends

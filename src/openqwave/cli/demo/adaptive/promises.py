"""What the demo promises, each promise beside what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openqwave.cli.demo.adaptive.script import LINK_BPS, MARKED_DSCP, A, B
from openqwave.cli.demo.figures import Verdict

if TYPE_CHECKING:
    from openqwave.cli.demo.adaptive.recording import Call

MS = 1_000_000

# Congestion of this kind is told within 0.3 s in the median; a busy machine has its own delays.
MOST_TOLD_NS = 1_000 * MS
# A measurement after relief takes 0.9 s, and the watch's reports come about once a second.
MOST_AVAILABLE_NS = 5_000 * MS
# Part of the link by which what is told to be available may be off.
MOST_OFF = 0.15
MOST_LOST = 0.001

BUSY = "ERROR_NETWORK_BUSY"


def granted(name: str, promise: str, call: Call | None) -> Verdict:
    """A rate is granted; `call` is None where it was not."""
    if call is None:
        return Verdict(name, promise, "that was not granted", kept=False)
    took_ms = (call.ended_ns - call.began_ns) / 1e6
    rate = f"{(call.rate_bps or 0) / 1e6:g} Mbit/s"
    return Verdict(name, promise, f"{rate}, answered in {took_ms:.1f} ms", kept=True)


def refused(call: Call | None) -> Verdict:
    """The second stream's first wish is refused."""
    said = "it was not asked" if call is None else call.error or "it was granted"
    return Verdict(
        "refused",
        "B asks for as much, and the network is busy",
        said,
        kept=call is not None and call.error == BUSY,
    )


def marked(marks: dict[int, tuple[dict[int, int], dict[int, int]]]) -> Verdict:
    """Packets carry what they should: by stream, code points before a rate and with one."""
    before, after = marks[B]
    seen = [" and ".join(map(str, sorted(each))) or "none" for each in (before, after, marks[A][1])]
    return Verdict(
        "marks",
        f"what is refused has DSCP 0, what is granted {MARKED_DSCP}",
        f"B {seen[0]}, then {seen[1]}; A {seen[2]}",
        kept=set(before) == {0} and set(after) == set(marks[A][1]) == {MARKED_DSCP},
    )


def told_free(call: Call | None, free_bps: int | None) -> Verdict:
    """What is told to be available is what is free."""
    promise = f"B is told what is free, within {MOST_OFF * LINK_BPS / 1e6:g} Mbit/s"
    if call is None or call.available_bps is None or free_bps is None:
        return Verdict("available_told", promise, "nothing was told", kept=False)
    return Verdict(
        "available_told",
        promise,
        f"{call.available_bps / 1e6:.1f}, and {free_bps / 1e6:.1f} by the link's books",
        kept=abs(call.available_bps - free_bps) <= MOST_OFF * LINK_BPS,
    )


def within(name: str, promise: str, after_ns: int | None, since: str, most_ns: int) -> Verdict:
    """Something is told after something else, and soon."""
    promise = f"{promise} within {most_ns // 1_000_000_000} s"
    if after_ns is None:
        return Verdict(name, promise, "it was not told", kept=False)
    words = f"{abs(after_ns) / 1e6:.0f} ms {'after' if after_ns >= 0 else 'before'} {since}"
    return Verdict(name, promise, words, kept=0 <= after_ns <= most_ns)


def needless(count: int, without_others: int) -> Verdict:
    """Congestion is told only where a queue stands, whoever makes it."""
    return Verdict(
        "needless",
        "congestion is not told while the queue is empty",
        f"it was {f'{count} times' if count else 'not'}"
        + (f"; told without others: {without_others}" if without_others else ""),
        kept=not count,
    )


def loss(sent: dict[int, int], lost: dict[int, int]) -> Verdict:
    """Few of the streams' packets are lost."""
    all_sent, all_lost = sum(sent.values()), sum(lost.values())
    return Verdict(
        "loss",
        f"at most {100 * MOST_LOST:g} % of the streams' packets are lost",
        f"{all_lost:,} of {all_sent:,}",
        kept=all_sent > 0 and all_lost <= MOST_LOST * all_sent,
    )

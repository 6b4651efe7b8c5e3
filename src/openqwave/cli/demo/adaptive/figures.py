"""What happened when, beside what is true; `promises` says whether that is what should be.

What the library told is held against the link's own books and against the streams' packets at both
ends of it. "The queue has drained" is the first twentieth of a second, after the second stream
went down, in which a packet of the first one was not delayed by more than two of its kind.

A promise that is not kept proves nothing on a machine that does not run the link, or the streams,
when it should: see `Punctuality`.
"""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from openqwave.cli.demo.adaptive import promises
from openqwave.cli.demo.adaptive.script import LINK_BPS, MS, NAMES, PACKET_BYTES, WANTED_BPS, A
from openqwave.cli.demo.adaptive.stage import setup
from openqwave.cli.demo.adaptive.turns import turns_of

if TYPE_CHECKING:
    from openqwave.cli.demo.adaptive.recording import Call
    from openqwave.cli.demo.adaptive.stage import Records
    from openqwave.cli.demo.adaptive.turns import Turns
    from openqwave.cli.demo.figures import Verdict

# The version of the JSON object; grows when a field changes its meaning or goes away.
FORMAT = 1

# What was carried is looked at for so long, as the estimates do.
LOOK_BACK_NS = 1_000 * MS

# The queue is looked for in slices of this length: sixty packets of the first stream.
SLICE_NS = 50 * MS
# So long before a notice its cause is looked for; a notice takes a tenth of a second at least.
QUEUE_BEFORE_NS = 300 * MS
EMPTY_NS = 2 * PACKET_BYTES * 8_000_000_000 // LINK_BPS

# More than this is the machine's doing: a queue that is told lasts for 8 ms at least.
MOST_LATE_99_NS = 5 * MS
MOST_WAITING = 0.05
# A stream that is not run when it should be sends less than it holds.
LEAST_PACE = 0.95


@dataclass(frozen=True, slots=True)
class Punctuality:
    """How punctual the machine was.

    Attributes:
        late_99_ns: 99 of a hundred packets were handed over by the link no later than this.
        waiting_share: Part of the time in which the link's emulator could run and did not.
        pace: What the first stream sent, of what it meant to.
    """

    late_99_ns: int
    waiting_share: float
    pace: float

    @property
    def is_busy(self) -> bool:
        """Was it too busy to judge?"""
        return (
            self.late_99_ns > MOST_LATE_99_NS
            or self.waiting_share > MOST_WAITING
            or self.pace < LEAST_PACE
        )


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that was found.

    Attributes:
        turns: The calls of the story.
        began_ns: When it began, CLOCK_MONOTONIC.
        came_ns: When others came; None if they did not.
        went_ns: When they had gone; likewise.
        drained_ns: When the queue had drained; None if it did not.
        free_bps: What was free of the link when what is there was asked for; None if it was not.
        needless: Notices of congestion while the queue was empty.
        without_others: Notices of congestion before others came, or after they had gone; what
            experiments send can make a queue that stands where streams leave little room.
        longest_ns: The longest that a packet was on the link.
        marks: By stream, the code points of its packets before a rate was granted, and after.
        sent: Packets that left, by stream.
        lost: Of these, how many did not arrive.
        sent_bytes: What experiments have sent.
        uncaptured: Packets that the captures had no room for.
        punctuality: How far all of this can be believed.
    """

    turns: Turns
    began_ns: int
    came_ns: int | None
    went_ns: int | None
    drained_ns: int | None
    free_bps: int | None
    needless: int
    without_others: int
    longest_ns: int
    marks: dict[int, tuple[dict[int, int], dict[int, int]]]
    sent: dict[int, int]
    lost: dict[int, int]
    sent_bytes: int
    uncaptured: int
    punctuality: Punctuality

    @property
    def told_ns(self) -> int | None:
        """From the others' coming to the notice of congestion."""
        return _after(self.turns.congested, self.came_ns)

    @property
    def relief_ns(self) -> int | None:
        """From the end of the queue to the notice of relief."""
        return _after(self.turns.relieved, self.drained_ns)

    @property
    def available_ns(self) -> int | None:
        """From the others' going to the notice that the rate is there."""
        return _after(self.turns.available, self.went_ns)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The demo's promises, in the order of the story."""
        turns = self.turns
        return (
            promises.granted("admitted", "A gets the 12 Mbit/s that are free", turns.admitted),
            promises.refused(turns.refused),
            promises.marked(self.marks),
            promises.told_free(turns.asked, self.free_bps),
            promises.granted("lower", "B gets the lower rate that it was told of", turns.lower),
            promises.within(
                "congested",
                "congestion is told",
                self.told_ns,
                "others came",
                promises.MOST_TOLD_NS,
            ),
            promises.needless(self.needless, self.without_others),
            promises.granted("down", "B may go down at once", turns.down),
            promises.within(
                "relieved",
                "relief is told",
                self.relief_ns,
                "the queue had drained",
                promises.MOST_TOLD_NS,
            ),
            promises.within(
                "available",
                "the rate is told to be there",
                self.available_ns,
                "others went",
                promises.MOST_AVAILABLE_NS,
            ),
            promises.granted("back", "asked for at once, it is granted", turns.back),
            promises.granted("whole", "when A has ended, B gets its 12 Mbit/s", turns.whole),
            promises.loss(self.sent, self.lost),
        )

    @property
    def kept(self) -> bool:
        """Whether every promise was kept."""
        return all(verdict.kept for verdict in self.verdicts)

    def to_json(self) -> dict[str, Any]:
        """Return it with JSON's types; times are nanoseconds since the story began."""

        def since(time_ns: int | None) -> int | None:
            return None if time_ns is None else time_ns - self.began_ns

        return {
            "format": FORMAT,
            "versions": {
                "openqwave": version("openqwave"),
                "python": platform.python_version(),
                "kernel": platform.release(),
            },
            "setup": setup(),
            "turns": {
                name: None
                if call is None
                else call
                | {
                    "stream": NAMES[call["stream"]],
                    "began_ns": since(call["began_ns"]),
                    "ended_ns": since(call["ended_ns"]),
                }
                for name, call in asdict(self.turns).items()
            },
            "others_came_ns": since(self.came_ns),
            "others_went_ns": since(self.went_ns),
            "queue_drained_ns": since(self.drained_ns),
            "congested_told_after_ns": self.told_ns,
            "relief_told_after_ns": self.relief_ns,
            "available_told_after_ns": self.available_ns,
            "needless_notices": self.needless,
            "notices_without_others": self.without_others,
            "free_bps": self.free_bps,
            "longest_delay_ns": self.longest_ns,
            "wire_dscp": {
                NAMES[stream]: {
                    "before_a_rate": {str(dscp): count for dscp, count in before.items()},
                    "with_a_rate": {str(dscp): count for dscp, count in after.items()},
                }
                for stream, (before, after) in self.marks.items()
            },
            "sent_packets": {NAMES[stream]: count for stream, count in self.sent.items()},
            "lost_packets": {NAMES[stream]: count for stream, count in self.lost.items()},
            "experiments_sent_bytes": self.sent_bytes,
            "measurement": asdict(self.punctuality)
            | {"uncaptured_packets": self.uncaptured, "is_busy": self.punctuality.is_busy},
            "verdicts": {
                verdict.name: {
                    "promise": verdict.promise,
                    "measured": verdict.measured,
                    "kept": verdict.kept,
                }
                for verdict in self.verdicts
            },
            "kept": self.kept,
        }


def _after(call: Call | None, since_ns: int | None) -> int | None:
    return None if call is None or since_ns is None else call.ended_ns - since_ns


def figures_of(records: Records) -> Figures:
    """Work the numbers out."""
    tracks = records.crossing.tracks
    visit = records.visit
    turns = turns_of(records.calls, None if visit is None else visit.came_ns)
    told = [
        call.ended_ns for call in records.calls if call.call == "wait_congested" and call.is_done
    ]
    return Figures(
        turns=turns,
        began_ns=records.started_ns,
        came_ns=None if visit is None else visit.came_ns,
        went_ns=None if visit is None else visit.went_ns,
        drained_ns=None if turns.down is None else _drained_ns(records, turns.down.ended_ns),
        free_bps=None if turns.asked is None else _free_bps(records, turns.asked.ended_ns),
        needless=sum(not _has_queue(records, told_ns) for told_ns in told),
        without_others=sum(
            visit is None or not visit.came_ns <= told_ns <= visit.went_ns for told_ns in told
        ),
        longest_ns=max((max(track.delay_ns, default=0) for track in tracks.values()), default=0),
        marks={stream: _marks_of(records, stream) for stream in tracks},
        sent={stream: track.left.total() for stream, track in tracks.items()},
        lost={stream: track.lost for stream, track in tracks.items()},
        sent_bytes=max((belief.sent_bytes for belief in records.beliefs), default=0),
        uncaptured=records.uncaptured,
        punctuality=_punctuality(records, turns),
    )


def _free_bps(records: Records, at_ns: int) -> int | None:
    """What nobody used of the link over the time before a moment."""
    pages = [
        page
        for page in records.pages
        if at_ns - LOOK_BACK_NS <= page.since_ns < page.until_ns <= at_ns
    ]
    length_ns = sum(page.until_ns - page.since_ns for page in pages)
    if not length_ns:
        return None
    carried = sum(
        (page.own_bps + page.others_bps) * (page.until_ns - page.since_ns) for page in pages
    )
    return LINK_BPS - carried // length_ns


def _is_empty(records: Records, from_ns: int) -> bool | None:
    """Was the queue empty at some time in a slice? None where nothing arrived in it."""
    track = records.crossing.tracks[A]
    from_ns += records.ahead_ns
    delays = track.span(from_ns, from_ns + SLICE_NS).delays_ns
    return delays["min"] <= min(track.delay_ns) + EMPTY_NS if delays else None


def _drained_ns(records: Records, since_ns: int) -> int | None:
    """When the queue was first empty after a moment."""
    slices = range(since_ns, records.ended_ns, SLICE_NS)
    return next((from_ns for from_ns in slices if _is_empty(records, from_ns)), None)


def _has_queue(records: Records, until_ns: int) -> bool:
    """Did a queue stand shortly before a moment?"""
    slices = range(until_ns - QUEUE_BEFORE_NS, until_ns, SLICE_NS)
    # One by itself may be a train of the experiments.
    return any(
        _is_empty(records, from_ns) is False and _is_empty(records, from_ns + SLICE_NS) is False
        for from_ns in slices
    )


def _marks_of(records: Records, stream: int) -> tuple[dict[int, int], dict[int, int]]:
    """Count a stream's code points before its first rate was granted, and after."""
    first = next(
        (
            call.phase
            for call in records.calls
            if call.stream == stream and call.phase is not None and call.is_done
        ),
        None,
    )
    counts: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for phase, dscps in records.crossing.tracks[stream].dscps.items():
        # Of odd phases nothing is known.
        if phase % 2:
            continue
        seen = counts[first is not None and phase > first]
        for dscp, count in dscps.items():
            seen[dscp] = seen.get(dscp, 0) + count
    return counts


def _punctuality(records: Records, turns: Turns) -> Punctuality:
    counters = records.counters
    late_ns = (
        0
        if counters is None
        else max(way.late_ns(0.99) for way in (counters.forward, counters.backward))
    )
    pace = 1.0
    if turns.admitted is not None:
        until_ns = records.ended_ns if turns.ended is None else turns.ended.began_ns
        meant_bytes = WANTED_BPS * (until_ns - turns.admitted.ended_ns) / 8e9
        pace = records.crossing.tracks[A].left.total() * PACKET_BYTES / max(1.0, meant_bytes)
    return Punctuality(late_ns, round(records.waiting_share, 4), round(pace, 4))

"""What an emulated link is made of: values that `pathmodel` runs and `emulator` takes as JSON.

A *path* is one direction, a chain of stages. A *stage* is a queue with a rate and the line behind
it. In the order in which a packet meets them::

    marks      tags dropped or stripped, DSCP rewritten
    queue      tail drop beyond so many bytes, shared with the stage's cross traffic
    rate       a constant rate, a token bucket, or accesses to a shared medium
    line       loss, duplicates, delay, jitter, reordering
    delivery   coalesced into clumps, or at once

Cross traffic enters the queue of one stage and leaves behind its rate, so a path with cross
traffic before, at and behind its bottleneck has three stages with cross traffic each.

Rates count bytes of IP packets, as estimates do: the emulator takes the Ethernet header away.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from dataclasses import dataclass
from typing import Any

# Ethernet's largest IP packet. A queue or a bucket that does not hold one passes nothing.
FULL_PACKET_BYTES = 1500


class CrossKind(enum.StrEnum):
    """How the packets of cross traffic are spaced.

    Attributes:
        CONSTANT: Equally, from a random moment on.
        POISSON: At random, independent of each other.
        ONOFF: Bursts at the peak rate; lengths of bursts and pauses are exponential.
        PARETO_ONOFF: The same with lengths of infinite variance, as of files: the sum of many is
            bursty on every scale of time.
    """

    CONSTANT = "constant"
    POISSON = "poisson"
    ONOFF = "onoff"
    PARETO_ONOFF = "pareto_onoff"


@dataclass(frozen=True, slots=True)
class Cross:
    """Traffic of others in the queue of a stage, made by the model itself.

    It does not react to loss or delay. What the full queue refuses is gone.

    Attributes:
        kind: How it is spaced.
        rate_bps: Average rate of IP packets.
        packet_bytes: Size of each IP packet.
        peak_bps: For the on-off kinds: the rate within a burst, above the average.
        on_ns: For the on-off kinds: mean length of a burst. The pauses follow; see `off_ns`.
        start_ns: When it begins, from the start of the model.
        stop_ns: When it ends; None for never.
    """

    kind: CrossKind
    rate_bps: int
    packet_bytes: int = FULL_PACKET_BYTES
    peak_bps: int = 0
    on_ns: int = 50_000_000
    start_ns: int = 0
    stop_ns: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", CrossKind(self.kind))
        if self.rate_bps <= 0:
            raise ValueError(f"cross traffic needs a rate, not {self.rate_bps}")
        if not 1 <= self.packet_bytes <= 65_535:
            raise ValueError(f"an IP packet has 1 to 65535 bytes, not {self.packet_bytes}")
        if self.is_bursty and self.peak_bps <= self.rate_bps:
            raise ValueError(
                f"bursts at {self.peak_bps} bit/s do not make {self.rate_bps} on average: "
                "the peak lies above"
            )
        if not self.is_bursty and self.peak_bps:
            raise ValueError(f"{self.kind} traffic has no peak rate")
        if self.on_ns <= 0 or self.start_ns < 0:
            raise ValueError("a burst has a length, and nothing starts before the model")
        if self.stop_ns is not None and self.stop_ns <= self.start_ns:
            raise ValueError("cross traffic stops after it has started")

    @property
    def is_bursty(self) -> bool:
        """Is it one of the on-off kinds?"""
        return self.kind in (CrossKind.ONOFF, CrossKind.PARETO_ONOFF)

    @property
    def off_ns(self) -> float:
        """Mean length of a pause, such that the average is `rate_bps`; 0 without pauses."""
        return self.on_ns * (self.peak_bps / self.rate_bps - 1) if self.is_bursty else 0.0


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A sustained rate, and credit for bursts that go faster.

    A packet leaves when the bucket holds its size in bytes, which it takes out. What cannot leave
    waits: a shaper, not a policer.

    Attributes:
        rate_bps: How fast the bucket fills.
        burst_bytes: How much it holds; it is full at the start.
    """

    rate_bps: int
    burst_bytes: int

    def __post_init__(self) -> None:
        if self.rate_bps <= 0:
            raise ValueError(f"a token bucket needs a rate, not {self.rate_bps}")
        if self.burst_bytes < FULL_PACKET_BYTES:
            raise ValueError(f"a bucket of {self.burst_bytes} bytes does not hold one full packet")


@dataclass(frozen=True, slots=True)
class Contention:
    """A shared medium, of the kind of Wi-Fi: who sends has to gain access first.

    The path's own packets are one station, each `Cross` of the stage is another, with a queue of
    its own. Stations that have packets take turns. An access takes a fixed and a random time and
    then carries up to so many packets, those that were waiting when it began, at the stage's rate;
    they arrive together at its end, as an aggregate does that is acknowledged as a block.

    Attributes:
        access_ns: Fixed cost of an access: interframe spaces, preamble, acknowledgement.
        backoff_ns: Longest random wait; evenly distributed from 0.
        aggregate_frames: How many packets one access carries at most.
    """

    access_ns: int = 100_000
    backoff_ns: int = 135_000
    aggregate_frames: int = 32

    def __post_init__(self) -> None:
        if self.access_ns < 0 or self.backoff_ns < 0:
            raise ValueError("an access does not take less than no time")
        if self.aggregate_frames < 1:
            raise ValueError("an access carries one packet at least")


@dataclass(frozen=True, slots=True)
class Marks:
    """What of a packet routers read and write to tell its class.

    Attributes:
        dscp: Its code point, 0 to 63.
        is_tagged: Whether it carries an 802.1Q tag.
    """

    dscp: int
    is_tagged: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """One queue with its rate, and the line behind it.

    Attributes:
        rate_bps: Bits a second of IP packets; 0 for no limit. With a bucket it is the peak, with
            contention the rate within an access.
        queue_bytes: How much may wait, the rest of the packet under way included; what comes then
            is dropped. A packet that finds the link idle always passes.
        delay_ns: Of the line, one way.
        jitter_ns: Largest addition to it, evenly distributed from 0. The order is kept: a packet
            waits for the one before.
        loss: Share of packets lost on the line, behind the rate.
        duplicate: Share of packets that arrive twice.
        reorder: Share of packets that are held back on the line, so that others overtake.
        reorder_ns: How long they are held back.
        bucket: A sustained rate below the peak.
        contention: A shared medium; excludes a bucket.
        coalesce_ns: Deliveries come in clumps: the first packet starts a timer of this length, and
            all that have come when it ends are delivered then. 0 for each at its own time.
        cross: Traffic of others.
        rewrite_dscp: The code point that every packet gets; None leaves it.
        drop_tagged: Packets with an 802.1Q tag are dropped.
        strip_tags: The tag is taken away.
    """

    rate_bps: int = 0
    queue_bytes: int = 100_000
    delay_ns: int = 0
    jitter_ns: int = 0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_ns: int = 1_000_000
    bucket: TokenBucket | None = None
    contention: Contention | None = None
    coalesce_ns: int = 0
    cross: tuple[Cross, ...] = ()
    rewrite_dscp: int | None = None
    drop_tagged: bool = False
    strip_tags: bool = False

    def __post_init__(self) -> None:
        for name in ("rate_bps", "delay_ns", "jitter_ns", "coalesce_ns"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is not negative, as {getattr(self, name)} is")
        for name in ("loss", "duplicate", "reorder"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, not {getattr(self, name)}")
        if self.queue_bytes < FULL_PACKET_BYTES:
            raise ValueError(f"a queue of {self.queue_bytes} bytes does not hold one full packet")
        if self.reorder and self.reorder_ns <= 0:
            raise ValueError("reordered packets are held back for some time")
        if self.bucket and self.contention:
            raise ValueError("a stage has a bucket or a shared medium, not both")
        if self.bucket and self.rate_bps and self.rate_bps <= self.bucket.rate_bps:
            raise ValueError("the peak rate lies above the bucket's")
        if self.contention and not self.rate_bps:
            raise ValueError("a shared medium needs a rate")
        if self.cross and not self.has_queue:
            raise ValueError("cross traffic needs a rate to compete for")
        if self.rewrite_dscp is not None and not 0 <= self.rewrite_dscp <= 63:
            raise ValueError(f"a code point is from 0 to 63, not {self.rewrite_dscp}")

    @property
    def has_queue(self) -> bool:
        """Is there any rate that packets wait for?"""
        return bool(self.rate_bps or self.bucket)


@dataclass(frozen=True, slots=True)
class PathSpec:
    """One direction: stages in the order in which packets pass them, one at least."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("a path has one stage at least")

    def marks_after(self, marks: Marks) -> Marks | None:
        """Return how packets come out that go in with some marks; None if they are dropped."""
        for stage in self.stages:
            if marks.is_tagged and stage.drop_tagged:
                return None
            marks = Marks(
                marks.dscp if stage.rewrite_dscp is None else stage.rewrite_dscp,
                marks.is_tagged and not stage.strip_tags,
            )
        return marks

    def plain_way_back(self) -> PathSpec:
        """Return the opposite direction: the same rates, queues and delays, and nothing else."""
        return PathSpec(
            tuple(
                Stage(
                    rate_bps=stage.rate_bps,
                    queue_bytes=stage.queue_bytes,
                    delay_ns=stage.delay_ns,
                    bucket=stage.bucket,
                    contention=stage.contention,
                )
                for stage in reversed(self.stages)
            )
        )


# Stands for the plain way back; known by identity, so that a spec like it can be given.
PLAIN_WAY_BACK = PathSpec((Stage(),))


@dataclass(frozen=True, slots=True)
class DuplexSpec:
    """Both directions of a link; they share nothing.

    Attributes:
        forward: From the host named first.
        backward: To it; where it is left out, `PathSpec.plain_way_back` of the other.
    """

    forward: PathSpec
    backward: PathSpec = PLAIN_WAY_BACK

    def __post_init__(self) -> None:
        if self.backward is PLAIN_WAY_BACK:
            object.__setattr__(self, "backward", self.forward.plain_way_back())


def to_fields(spec: DuplexSpec) -> dict[str, Any]:
    """Return a link as an object of JSON."""
    return dataclasses.asdict(spec)


def from_fields(fields: dict[str, Any]) -> DuplexSpec:
    """Make a link of an object of JSON.

    Raises:
        ValueError: A field that is missing or does not exist, or values that do not make a link.
    """
    try:
        return DuplexSpec(_path(**fields["forward"]), _path(**fields["backward"]))
    except (TypeError, KeyError) as error:
        raise ValueError(f"not a link: {error}") from error


def to_json(spec: DuplexSpec) -> str:
    """Write a link as one line of JSON."""
    return json.dumps(to_fields(spec))


def from_json(text: str) -> DuplexSpec:
    """Read a link; ValueError as with `from_fields`, and for what is not JSON."""
    return from_fields(json.loads(text))


def _path(stages: list[dict[str, Any]]) -> PathSpec:
    return PathSpec(tuple(_stage(**stage) for stage in stages))


def _stage(**fields: Any) -> Stage:  # noqa: ANN401 - JSON; the constructor refuses what is wrong
    for name, cls in (("bucket", TokenBucket), ("contention", Contention)):
        if fields.get(name) is not None:
            fields[name] = cls(**fields[name])
    fields["cross"] = tuple(Cross(**cross) for cross in fields.get("cross", ()))
    return Stage(**fields)

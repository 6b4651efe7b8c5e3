"""The links of the demo: one that is ordinary, and two that measurements are known to fall for."""

from __future__ import annotations

from dataclasses import dataclass

from openqwave.lab.links import Cross, CrossKind, DuplexSpec, PathSpec, Stage, TokenBucket

MBPS, US, MS = 1_000_000, 1_000, 1_000_000

# Of the bottleneck's rate: a usual home router's, and more than any train of a measurement.
QUEUE_NS = 50 * MS


@dataclass(frozen=True, slots=True)
class Case:
    """One link.

    Attributes:
        name: A word for programs.
        title: What it is, for people.
        lesson: What is to be seen there, in a sentence.
        spec: The link itself.
    """

    name: str
    title: str
    lesson: str
    spec: DuplexSpec

    @property
    def line_ns(self) -> int:
        """What a round trip takes at least, queues and sending apart."""
        ways = (self.spec.forward, self.spec.backward)
        return sum(stage.delay_ns for way in ways for stage in way.stages)


def _queue_bytes(rate_bps: int) -> int:
    return rate_bps * QUEUE_NS // 8_000_000_000


CASES = (
    Case(
        name="half_used",
        title="20 Mbit/s, half of it used by others",
        lesson="Probes that meet others' packets wait. The share that does not wait is what is "
        "free.",
        spec=DuplexSpec(
            PathSpec(
                (
                    Stage(
                        20 * MBPS,
                        _queue_bytes(20 * MBPS),
                        delay_ns=10 * MS,
                        cross=(Cross(CrossKind.POISSON, 10 * MBPS),),
                    ),
                )
            )
        ),
    ),
    Case(
        name="coalesced",
        title="100 Mbit/s, received in clumps of 250 us",
        lesson="The receiver's interrupts are coalesced, so several packets get one stamp. Only "
        "the time from clump to clump is the link's.",
        spec=DuplexSpec(
            PathSpec(
                (
                    Stage(
                        100 * MBPS,
                        _queue_bytes(100 * MBPS),
                        delay_ns=2 * MS,
                        coalesce_ns=250 * US,
                    ),
                )
            )
        ),
    ),
    Case(
        name="token_bucket",
        title="20 Mbit/s after bursts of 64 kB at 1 Gbit/s",
        lesson="A token bucket lets a burst pass at a rate that it cannot sustain. Trains longer "
        "than the burst have a knee; what follows it is the link's rate.",
        spec=DuplexSpec(
            PathSpec(
                (
                    Stage(
                        1000 * MBPS,
                        _queue_bytes(20 * MBPS),
                        delay_ns=5 * MS,
                        bucket=TokenBucket(20 * MBPS, 64_000),
                    ),
                )
            )
        ),
    ),
)

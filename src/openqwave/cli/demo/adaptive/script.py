"""The rates and the times of the story.

Two streams want 12 Mbit/s each on a link that carries 20. The first gets them. The second is
refused, asks what is there, and takes two thirds of it, which is about 5. So the link is seven
eighths full when others come: their 5 Mbit/s overfill it by an eighth, and its queue, which holds
100 ms, would be full 0.8 s later. With the second stream down to 0.5 Mbit/s it drains, though the
others are still there, and there is room for what experiments send to find out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openqwave.lab.links import Cross, CrossKind, DuplexSpec, PathSpec, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

MBPS, MS = 1_000_000, 1_000_000

LINK_BPS = 20 * MBPS
# 100 ms of the link, as home routers' queues are.
QUEUE_BYTES = LINK_BPS // 8 // 10
DELAY_NS = 5 * MS
WANTED_BPS = 12 * MBPS
# What a stream sends that has been promised nothing, or was told to go down.
LEAST_BPS = 500_000
OTHERS_BPS = 5 * MBPS

# Streams by number, in their packets, and by name, for people.
A, B = 1, 2
NAMES: Mapping[int, str] = {A: "A", B: "B"}

# With IP and UDP headers, which rates count.
PAYLOAD_BYTES, PACKET_BYTES = 1_200, 1_228

# Long enough to see a rate as a level in a picture, and for a report of the path to look back on
# nothing else.
SHORT_S, LEVEL_S = 1.0, 2.5
# From the second stream's beginning at its lower rate until others come, and how long they stay.
PEACE_S, OTHERS_S = 3.0, 6.0
# After so long without a notice the second stream takes its path for steady. It has to be longer
# than the peace.
STEADY_S = 5.0

PLAIN = Stage(rate_bps=LINK_BPS, queue_bytes=QUEUE_BYTES, delay_ns=DELAY_NS)


def link(*cross: Cross) -> DuplexSpec:
    """The link, with or without others' traffic on the way that is looked at."""
    stage = Stage(
        rate_bps=PLAIN.rate_bps,
        queue_bytes=PLAIN.queue_bytes,
        delay_ns=PLAIN.delay_ns,
        cross=cross,
    )
    return DuplexSpec(PathSpec((stage,)))


def link_with_others() -> DuplexSpec:
    """The link to which others come at once, and from which they go by themselves."""
    # At random moments, as the sum of many is.
    return link(Cross(CrossKind.POISSON, OTHERS_BPS, stop_ns=round(OTHERS_S * 1e9)))


# Windows' code point for audio and video, once a rate is admitted.
MARKED_DSCP = 40

"""What is known of a path right after a congestion, when word of its end took some time."""

from __future__ import annotations

from tests.scenario.stories import MS, S, Story
from tests.scenario.virtual_paths import MBIT


def relieved() -> Story:
    """A path that was congested, and was measured anew from the end of it on."""
    story = Story()
    story.program.tracks(story.path).is_granted()
    story.path.says(available=20 * MBIT)
    story.path.is_congested()
    story.passes(S)
    return story


def test_a_measurement_that_began_before_its_reason_was_heard_counts() -> None:
    story = relieved()
    began_ns = story.now_ns
    story.passes(MS)
    story.path.is_calm()
    story.passes(S)
    story.path.says(available=12 * MBIT, measured_since_ns=began_ns)
    story.flow().asks(12 * MBIT).is_granted()


def test_a_measurement_that_began_while_the_queue_stood_does_not() -> None:
    story = relieved()
    began_ns = story.now_ns
    story.passes(S)
    story.path.is_calm()
    story.passes(S)
    story.path.says(available=12 * MBIT, measured_since_ns=began_ns)
    flow = story.flow()
    assert flow.free_bps == 0
    # For a while: an old measurement is better than none for ever.
    story.passes(5 * S)
    story.path.says(available=12 * MBIT, measured_since_ns=began_ns)
    assert flow.free_bps == 12 * MBIT

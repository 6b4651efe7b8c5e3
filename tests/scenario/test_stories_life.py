"""Stories of a long life: interfaces that go and come back, other addresses, other policies, and
what was known before a restart."""

from __future__ import annotations

import pytest

from openqwave.admission.policy import WINDOWS_MARKS, Experiments, Marks, Policy
from openqwave.model.codes import ErrorCode
from openqwave.model.estimates import Unmeasurable
from openqwave.model.flow import TrafficType
from openqwave.subsystem.effects import StartExperiments, StopExperiments
from tests.scenario.stories import S, Story, StoryFlow
from tests.scenario.virtual_paths import MBIT

LOST = ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED
BUSY = ErrorCode.ERROR_NETWORK_BUSY
ADAPTER = ErrorCode.ERROR_ADAP_HDW_ERR
FORBIDDEN = ErrorCode.ERROR_ACCESS_DISABLED_BY_POLICY
NO_DATA = ErrorCode.ERROR_NO_DATA


def held(story: Story, rate_bps: int = 12 * MBIT) -> StoryFlow:
    """A flow that holds some of 20 Mbit/s."""
    flow = story.flow()
    story.path.says(available=20 * MBIT, congested=False)
    flow.asks(rate_bps).is_granted()
    return flow


# -- an interface that is made anew ---------------------------------------------------


# "After [...] the interface was re-created, the first call on an old handle answers
# ERROR_DEVICE_REINITIALIZATION_NEEDED, and so does every later one but QOSCloseHandle, which
# succeeds. Pending operations of such a handle complete with ERROR_OPERATION_ABORTED."
def test_what_used_an_interface_is_lost_with_it() -> None:
    story = Story()
    flow = held(story)
    waiting = [
        flow.wants_to_hear_of_congestion().waits(),
        flow.queries(fresh=True).waits(),
        flow.asks(19 * MBIT, is_overlapped=True),
    ]
    story.makes_anew(1)
    for one in waiting[:2]:
        one.is_aborted()
    assert flow.is_untouched
    assert not story.path.runs()
    assert story.engine.take_lost() == (story.program.handle_id,)
    assert story.engine.take_lost() == ()
    for _ in ("the first", "a later"):
        flow.asks(MBIT).is_refused(LOST)
        flow.queries().is_refused(LOST)
        story.program.tracks(story.path).is_refused(LOST)
        story.program.adds(story.paths[1], is_adaptive=False).is_refused(LOST)
    story.program.closes()
    assert story.living == ()
    assert story.engine.next_timer_ns() is None


# The same: "an old handle" is one that used it.
def test_who_used_another_interface_goes_on() -> None:
    story = Story()
    story.paths[1].is_reached_by(2)
    held(story)
    other = story.another_program()
    theirs = other.flow(story.paths[1])
    story.paths[1].says(available=10 * MBIT, congested=False)
    theirs.asks(6 * MBIT).is_granted()
    notice = theirs.wants_to_hear_of_congestion().waits()
    only_marks = story.another_program()
    marked = only_marks.flow(is_adaptive=False)
    watcher = story.another_program()
    watcher.tracks(story.paths[1]).is_granted()
    story.makes_anew(1)
    assert story.engine.take_lost() == (story.program.handle_id,)
    assert (theirs.contract_bps, theirs.dscp) == (6 * MBIT, 40)
    notice.waits()
    assert story.paths[1].runs()
    theirs.asks(10 * MBIT).is_granted()
    # Marks are on its socket, whatever becomes of an interface; nothing else was agreed.
    assert marked.dscp == 40
    marked.becomes(TrafficType.VOICE)
    watcher.stops_tracking(story.paths[1]).is_granted()


# "Everything that a client made through it dies with it": all of a lost handle is.
def test_a_lost_handle_loses_what_it_had_on_other_interfaces_too() -> None:
    story = Story()
    story.paths[1].is_reached_by(2)
    flow = held(story)
    elsewhere = story.flow(story.paths[1])
    story.paths[1].says(available=10 * MBIT, congested=False)
    elsewhere.asks(6 * MBIT).is_granted()
    marked = story.flow(story.paths[2], is_adaptive=False)
    story.program.tracks(story.paths[1]).is_granted()
    story.makes_anew(1)
    assert flow.is_untouched
    assert elsewhere.is_untouched
    assert marked.is_untouched
    # The path over the other interface is as good as it was, and warm for a while.
    assert story.paths[1].runs()
    late = story.another_program().flow(story.paths[1])
    late.asks(4 * MBIT).is_granted()
    assert story.paths[1].counts_of(StartExperiments) == 1
    # And no longer than for a while.
    late.ends()
    story.passes(121 * S)
    assert not story.paths[1].runs()


# "flows or tracked hosts"
def test_who_only_tracks_is_lost_too() -> None:
    story = Story()
    tracker = story.another_program()
    tracker.tracks(story.path).is_granted()
    story.makes_anew(1)
    assert story.engine.take_lost() == (tracker.handle_id,)
    tracker.stops_tracking(story.path).is_refused(LOST)
    assert story.engine.tracked_hosts() == ()
    # Whom it does not concern is not told.
    story.makes_anew(1)
    story.makes_anew(7)
    assert story.engine.take_lost() == ()
    story.program.tracks(story.path).is_granted()


# What was known was of the old one.
def test_nothing_known_outlives_an_interface() -> None:
    story = Story()
    held(story)
    closed = story.another_program()
    closed.tracks(story.paths[1]).is_granted()
    story.paths[1].says(available=20 * MBIT)
    closed.closes()
    story.makes_anew(1)
    # Not even for those that are only warm.
    assert not any(path.runs() for path in story.paths)
    program = story.another_program()
    for path in story.paths[:2]:
        flow = program.flow(path)
        assert path.counts_of(StartExperiments) == 2
        flow.queries().is_refused(NO_DATA)
        # Nor what a memory kept of it.
        path.was_remembered(available=20 * MBIT, seconds_ago=1)
        flow.queries().is_refused(NO_DATA)
        asked = flow.asks(20 * MBIT).waits()
        path.says(available=20 * MBIT)
        asked.is_granted()


# Closing is told to nobody: who closed it knows.
def test_a_lost_handle_that_is_closed_is_no_news() -> None:
    story = Story()
    held(story)
    story.makes_anew(1)
    story.program.closes()
    assert story.engine.take_lost() == ()


def test_a_suspend_names_who_is_lost() -> None:
    story = Story()
    held(story)
    other = story.another_program()
    story.sleeps()
    assert story.engine.take_lost() == (story.program.handle_id, other.handle_id)
    # They are lost once.
    story.sleeps()
    story.makes_anew(1)
    assert story.engine.take_lost() == ()
    late = story.another_program()
    story.sleeps()
    assert story.engine.take_lost() == (late.handle_id,)


# -- an interface that is down --------------------------------------------------------


# "Adapter failing or removed: ERROR_ADAP_HDW_ERR": the handle is good, and so is what it holds.
def test_a_link_that_is_down_for_a_while() -> None:
    story = Story()
    flow = held(story)
    notice = flow.wants_to_hear_when(18 * MBIT).is_told()
    relief = flow.wants_to_hear_of_congestion().waits()
    story.path.fails(ADAPTER)
    assert not story.path.runs()
    flow.asks(13 * MBIT).is_refused(ADAPTER)
    flow.queries(fresh=True).is_refused(ADAPTER)
    # What is known stays known for its age, and what is held is held.
    assert flow.free_bps == 8 * MBIT
    assert (flow.contract_bps, flow.dscp) == (12 * MBIT, 40)
    flow.asks(11 * MBIT).is_granted()
    story.program.tracks(story.path).is_refused(ADAPTER)
    story.passes(40 * S)
    flow.queries().is_refused(ADAPTER)
    story.path.is_reached_by(1)
    assert story.path.runs()
    assert story.path.is_alert()
    relief.waits()
    story.path.says(available=20 * MBIT, congested=True)
    relief.is_told()
    assert notice.is_answered
    assert story.engine.take_lost() == ()


# The same, for whom it keeps waiting.
def test_who_waits_for_a_rate_is_told_of_the_link() -> None:
    story = Story()
    flow = story.flow()
    asked = flow.asks(MBIT).waits()
    overlapped = flow.asks(2 * MBIT, is_overlapped=True).waits()
    story.path.fails(ADAPTER)
    asked.is_refused(ADAPTER)
    overlapped.is_refused(ADAPTER)


# -- another address ------------------------------------------------------------------


# By contract: "path: (outgoing interface, local address, destination address, family)"
def test_another_address_is_another_path() -> None:
    story = Story()
    flow = held(story)
    notice = flow.wants_to_hear_of_congestion().waits()
    flow.wants_to_hear_when(18 * MBIT).is_told()
    story.path.is_reached_from("192.0.2.101")
    assert story.path.counts_of(StopExperiments) == 1
    assert story.path.counts_of(StartExperiments) == 2
    # The handle is good, contracts stay, who waits goes on; what was promised was of the other.
    assert story.engine.take_lost() == ()
    assert (flow.contract_bps, flow.dscp) == (12 * MBIT, 40)
    notice.waits()
    flow.queries().is_refused(NO_DATA)
    story.path.says(available=5 * MBIT)
    flow.asks(18 * MBIT).is_refused(BUSY)
    story.path.is_congested()
    notice.is_told()


# The same, where there is none for a while: routes went with it.
def test_no_address_for_a_while() -> None:
    story = Story()
    flow = held(story)
    story.path.fails(ErrorCode.ERROR_HOST_UNREACHABLE)
    flow.asks(13 * MBIT).is_refused(ErrorCode.ERROR_HOST_UNREACHABLE)
    assert flow.contract_bps == 12 * MBIT
    story.path.is_reached_by(1)
    story.path.says(available=20 * MBIT)
    flow.asks(13 * MBIT).is_granted()


# -- what was known before a restart --------------------------------------------------


# "Cached data has an age limit set by policy; older is as if unknown." A restart changes nothing.
def test_what_is_remembered_counts_for_its_age() -> None:
    story = Story()
    flow = story.flow()
    story.path.was_remembered(available=8 * MBIT, seconds_ago=20)
    assert flow.sees().bottleneck_bps == 20 * MBIT
    assert flow.free_bps == 8 * MBIT
    assert story.path.status(flow).age_ns == 20 * S
    (seen,), _ = story.engine.path_views(0, 1, now_ns=story.now_ns)
    assert seen.is_remembered
    flow.asks(9 * MBIT).is_refused(BUSY)
    flow.asks(5 * MBIT).is_granted()
    # Nobody gets it twice.
    other = story.flow()
    other.asks(4 * MBIT).is_refused(BUSY)
    other.asks(3 * MBIT).is_granted()
    story.passes(10 * S)
    assert story.path.status(flow).age_ns == 30 * S
    story.passes(1)
    flow.queries().is_refused(NO_DATA)
    flow.asks(6 * MBIT).waits()


# The same.
def test_what_is_remembered_may_be_too_old() -> None:
    story = Story()
    flow = story.flow()
    story.path.was_remembered(available=8 * MBIT, seconds_ago=30.1)
    flow.queries().is_refused(NO_DATA)
    flow.asks(MBIT).waits()
    # "age limit set by policy"
    story.obeys(Policy(experiments=Experiments(estimate_age_ns=60 * S)))
    story.path.was_remembered(available=8 * MBIT, seconds_ago=31)
    assert flow.free_bps == 7 * MBIT


# Who waited already is answered.
def test_what_is_remembered_answers_who_waits() -> None:
    story = Story()
    flow = story.flow()
    asked = flow.asks(5 * MBIT).waits()
    fresh = flow.queries(fresh=True).waits()
    relief = flow.wants_to_hear_of_relief().waits()
    story.path.was_remembered(available=8 * MBIT, seconds_ago=1)
    asked.is_granted()
    # "only data measured after the call", and of congestion nothing is known.
    fresh.waits()
    relief.waits()
    story.path.says(available=20 * MBIT, congested=False)
    fresh.is_granted()
    relief.is_told()


# What is held now was not on the wire then, for all that is known.
def test_contracts_that_are_held_are_not_in_what_is_remembered() -> None:
    story = Story()
    flow = held(story, 6 * MBIT)
    # Another way, and back again.
    story.path.is_reached_by(2)
    story.path.is_reached_by(1)
    story.path.was_remembered(available=8 * MBIT, seconds_ago=1)
    assert flow.free_bps == 2 * MBIT
    story.flow().asks(3 * MBIT).is_refused(BUSY)
    # A contract that is there stays.
    flow.asks(8 * MBIT).is_granted()


# What experiments tell is of now.
def test_what_is_measured_is_believed_and_not_what_is_remembered() -> None:
    story = Story()
    flow = story.flow()
    story.path.was_remembered(available=18 * MBIT, seconds_ago=1)
    story.path.says(available=5 * MBIT)
    (seen,), _ = story.engine.path_views(0, 1, now_ns=story.now_ns)
    assert not seen.is_remembered
    story.path.was_remembered(available=18 * MBIT, seconds_ago=1)
    assert flow.free_bps == 5 * MBIT
    flow.asks(6 * MBIT).is_refused(BUSY)


def test_nothing_is_remembered_of_a_path_that_nobody_measures() -> None:
    story = Story()
    story.path.was_remembered(available=18 * MBIT, seconds_ago=1)
    assert story.engine.tracked_hosts() == ()
    story.path.is_not_to_be_measured()
    flow = story.flow()
    story.path.was_remembered(available=18 * MBIT, seconds_ago=1)
    flow.queries().is_refused(ErrorCode.ERROR_NOT_SUPPORTED)


# What was found before the machine slept is of another time, however short that was.
def test_what_is_remembered_does_not_outlive_sleep() -> None:
    story = Story()
    story.passes(10 * S)
    story.sleeps()
    program = story.another_program()
    flow = program.flow()
    story.path.was_remembered(available=18 * MBIT, seconds_ago=0.5)
    flow.queries().is_refused(NO_DATA)
    story.passes(S)
    story.path.was_remembered(available=18 * MBIT, seconds_ago=0.5)
    assert flow.free_bps == 18 * MBIT


# -- another policy -------------------------------------------------------------------


# By contract: "Path forbidden by policy: ERROR_ACCESS_DISABLED_BY_POLICY"
def test_a_path_that_policy_closes() -> None:
    story = Story()
    flow = held(story)
    story.obeys(Policy(experiments=Experiments(forbidden=("192.0.2.0/24",))))
    story.path.fails(FORBIDDEN)
    assert not story.path.runs()
    flow.asks(13 * MBIT).is_refused(FORBIDDEN)
    flow.wants_to_hear_of_congestion().is_refused(FORBIDDEN)
    # Nobody is thrown out.
    assert (flow.contract_bps, flow.dscp) == (12 * MBIT, 40)
    flow.asks(11 * MBIT).is_granted()
    story.obeys(Policy())
    story.path.is_reached_by(1)
    assert story.path.runs()
    story.path.says(available=20 * MBIT)
    flow.asks(13 * MBIT).is_granted()


# "Off-link while policy forbids experiments there", until it does not.
def test_a_path_that_policy_opens() -> None:
    story = Story()
    story.path.is_not_to_be_measured()
    flow = story.flow()
    flow.asks(100 * MBIT).is_granted()
    flow.queries().is_refused(ErrorCode.ERROR_NOT_SUPPORTED)
    story.obeys(Policy(experiments=Experiments(allowed=("192.0.2.0/24",))))
    story.path.is_reached_by(1)
    assert story.path.runs()
    story.passes(S)
    story.path.says(available=20 * MBIT)
    assert flow.free_bps == 0
    # What was granted while nothing was known stays, and counts.
    assert flow.contract_bps == 100 * MBIT
    story.flow().asks(MBIT).is_refused(BUSY)
    # And closes again.
    story.path.is_not_to_be_measured()
    assert not story.path.runs()
    story.flow().asks(MBIT).is_granted()


# By contract: "An administrator may replace it [...], and `QOSQueryPacketPriority` reports what is
# really applied."
@pytest.mark.parametrize("is_adaptive", [False, True])
def test_other_marks_for_what_streams_already(is_adaptive: bool) -> None:
    story = Story()
    flow = held(story) if is_adaptive else story.flow(is_adaptive=False)
    video = TrafficType.AUDIO_VIDEO
    story.obeys(Policy(marks={**WINDOWS_MARKS, video: Marks(34, 4)}))
    assert flow.dscp == 34
    if is_adaptive:
        assert flow.contract_bps == 12 * MBIT
        waiting = story.flow()
        # Not before it is admitted.
        assert waiting.is_untouched
        waiting.asks(5 * MBIT).is_granted()
        assert waiting.dscp == 34


# -- callers whose packets leave another way -------------------------------------------

ELSEWHERE = Unmeasurable("the socket is bound to another interface", is_of_caller=True)


# "Hostile clients cost bounded memory and nobody else's service": nor does a bound socket.
@pytest.mark.parametrize("how", ["flow", "tracking"])
def test_a_path_is_none_the_worse_for_who_uses_another_way(how: str) -> None:
    story = Story()
    flow = held(story)
    notice = flow.wants_to_hear_of_congestion().waits()
    story.path.found = ELSEWHERE
    other = story.another_program()
    if how == "flow":
        other.adds(story.path).is_granted()
    else:
        other.tracks(story.path).is_refused(ErrorCode.ERROR_NOT_SUPPORTED)
        other.stops_tracking(story.path).is_refused(ErrorCode.ERROR_INVALID_PARAMETER)
    assert story.path.counts_of(StopExperiments) == 0
    assert story.path.runs()
    notice.waits()
    assert flow.free_bps == 8 * MBIT


# By contract: "cannot be measured [...]: only what needs estimates answers ERROR_NOT_SUPPORTED"
def test_who_uses_another_way_alone_has_no_measured_path() -> None:
    story = Story()
    story.path.found = ELSEWHERE
    flow = story.flow()
    flow.queries().is_refused(ErrorCode.ERROR_NOT_SUPPORTED)
    flow.asks(100 * MBIT).is_granted()
    assert story.path.wanted == []
    # Until somebody comes whose way it is.
    story.path.is_reached_by(1)
    story.another_program().adds(story.path).is_granted()
    assert story.path.runs()

"""Stories of interest in paths: what is measured, for how long, how closely, and by which way."""

from __future__ import annotations

import itertools

import pytest

from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.subsystem.effects import MeasureAfresh, SetEffort, StartExperiments, StopExperiments
from tests.scenario.stories import Asked, S, Story, StoryFlow, StoryPath
from tests.scenario.virtual_paths import MBIT

INVALID = ErrorCode.ERROR_INVALID_PARAMETER
LOST = ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED


def begins(path: StoryPath) -> int:
    return path.counts_of(StartExperiments)


def ends(path: StoryPath) -> int:
    return path.counts_of(StopExperiments)


# "Starting begins light experiments on the path"
def test_tracking_begins_experiments_and_they_are_light() -> None:
    story = Story()
    story.program.tracks(story.path).is_granted()
    assert story.path.runs()
    assert not story.path.is_alert()
    assert not story.paths[1].runs()


# By contract: "Adaptive: [...] experiments start if the client was not tracked."
def test_a_flow_begins_experiments_once() -> None:
    story = Story()
    story.program.tracks(story.path).is_granted()
    story.flow()
    story.flow()
    assert begins(story.path) == 1
    story.flow(story.paths[1])
    assert begins(story.paths[1]) == 1
    # "Non-adaptive: marks apply", and nothing is measured.
    story.flow(story.paths[2], is_adaptive=False)
    assert story.paths[2].wanted == []


# By contract: "Starting twice on one handle is counted once [decision]"
def test_tracking_is_counted_once_for_each_handle() -> None:
    story = Story()
    first, second = story.another_program(), story.another_program()
    for program in (first, first, second):
        program.tracks(story.path).is_granted()
    assert begins(story.path) == 1
    first.stops_tracking(story.path).is_granted()
    # By contract: "Stopping a client that this handle does not track [...]:
    # ERROR_INVALID_PARAMETER [decision]"
    first.stops_tracking(story.path).is_refused(INVALID)
    # The other's interest is left.
    story.passes(300 * S)
    assert story.path.runs()
    second.stops_tracking(story.path).is_granted()
    story.passes(121 * S)
    assert not story.path.runs()


# By contract: "lets go of its tracked clients, which stay warm for a limited time [decision:
# 120 s]"
def test_a_program_that_restarts_finds_its_paths_measured() -> None:
    story = Story()
    program = story.another_program()
    program.tracks(story.path).is_granted()
    program.flow().asks(MBIT).waits()
    story.path.says(available=20 * MBIT)
    assert story.path.is_alert()
    program.closes()
    assert story.path.runs()
    assert not story.path.is_alert()
    for _ in range(11):
        story.passes(10 * S)
        story.path.says(available=20 * MBIT)
    story.passes(9 * S)
    story.flow().asks(12 * MBIT).is_granted()
    assert begins(story.path) == 1
    # With an interest again it is not the old one's end that counts.
    story.passes(100 * S)
    assert story.path.runs()


# The same: and not for longer.
def test_after_two_minutes_experiments_end() -> None:
    story = Story()
    program = story.another_program()
    program.tracks(story.path).is_granted()
    program.closes()
    story.passes(120 * S - 1)
    assert story.path.runs()
    story.passes(1)
    assert not story.path.runs()
    assert story.engine.tracked_hosts() == ()
    assert story.engine.next_timer_ns() is None
    story.program.tracks(story.path).is_granted()
    assert begins(story.path) == 2
    # Of what was known nothing is left.
    story.flow().queries().is_refused(ErrorCode.ERROR_NO_DATA)


# "Stopping never affects flows.": nor what is measured for them.
def test_stopping_leaves_flows_alone() -> None:
    story = Story()
    story.program.tracks(story.path).is_granted()
    story.path.says(available=20 * MBIT)
    flow = story.flow()
    flow.asks(12 * MBIT).is_granted()
    notice = flow.wants_to_hear_of_congestion().waits()
    story.program.stops_tracking(story.path).is_granted()
    story.passes(300 * S)
    assert story.path.runs()
    assert (flow.contract_bps, flow.dscp) == (12 * MBIT, 40)
    notice.waits()


# "slow down when nobody needs them": while flows hold contracts or requests wait they are alert.
@pytest.mark.parametrize("need", ["contract", "notice", "fresh", "rate"])
def test_effort_follows_need(need: str) -> None:
    story = Story()
    flow = story.flow()
    if need != "rate":
        story.path.says(available=20 * MBIT, congested=False)
    assert not story.path.is_alert()
    asked: Asked | None = None
    match need:
        case "contract":
            flow.asks(MBIT).is_granted()
        case "notice":
            asked = flow.wants_to_hear_of_congestion()
        case "fresh":
            asked = flow.queries(fresh=True)
        case "rate":
            asked = flow.asks(MBIT)
    assert story.path.is_alert()
    if asked is None:
        flow.gives_up_its_contract()
    else:
        asked.waits().is_cancelled().is_granted()
    assert not story.path.is_alert()
    assert story.path.counts_of(SetEffort) == 2


# The same with several: told when it changes only.
def test_effort_is_told_when_it_changes() -> None:
    story = Story()
    flows = [story.flow() for _ in range(4)]
    story.path.says(available=20 * MBIT, congested=False)
    for flow in flows:
        flow.asks(MBIT).is_granted()
        flow.wants_to_hear_of_congestion().waits()
    assert story.path.counts_of(SetEffort) == 1
    for flow in flows:
        assert story.path.is_alert()
        flow.ends()
    assert not story.path.is_alert()
    assert story.path.counts_of(SetEffort) == 2


# "Address of a bad family or malformed [...] No route: ERROR_HOST_UNREACHABLE. On-link but address
# resolution fails: ERROR_BAD_NET_NAME. Off-link while policy forbids experiments there:
# ERROR_NOT_SUPPORTED."
@pytest.mark.parametrize(
    "code", [ErrorCode.ERROR_HOST_UNREACHABLE, ErrorCode.ERROR_BAD_NET_NAME, None]
)
def test_what_cannot_be_tracked(code: ErrorCode | None) -> None:
    story = Story()
    if code is None:
        story.path.is_not_to_be_measured()
    else:
        story.path.fails(code)
    story.program.tracks(story.path).is_refused(code or ErrorCode.ERROR_NOT_SUPPORTED)
    story.program.stops_tracking(story.path).is_refused(INVALID)
    assert story.path.wanted == []


# -- other ways -----------------------------------------------------------------------


def held(story: Story) -> StoryFlow:
    """A flow that holds 12 of 20 Mbit/s."""
    flow = story.flow()
    story.path.says(available=20 * MBIT, congested=False)
    flow.asks(12 * MBIT).is_granted()
    return flow


# By contract: "path: (outgoing interface, local address, destination address, family)"
def test_another_interface_is_another_path() -> None:
    story = Story()
    flow = held(story)
    notice = flow.wants_to_hear_of_congestion().waits()
    story.path.is_reached_by(2)
    assert (begins(story.path), ends(story.path)) == (2, 1)
    assert story.path.is_alert()
    flow.queries().is_refused(ErrorCode.ERROR_NO_DATA)
    # Contracts stay, and who waits goes on waiting.
    assert (flow.contract_bps, flow.dscp) == (12 * MBIT, 40)
    notice.waits()
    flow.asks(13 * MBIT).waits()
    story.path.says(available=5 * MBIT, capacity=5 * MBIT, congested=True)
    notice.is_told()
    assert flow.sees().bottleneck_bps == 5 * MBIT


# The same: what was told to be free is of the path that was.
def test_promises_do_not_outlive_the_way() -> None:
    story = Story()
    flow = held(story)
    flow.wants_to_hear_when(18 * MBIT).is_told()
    story.path.is_reached_by(2)
    story.path.says(available=5 * MBIT)
    flow.asks(18 * MBIT).is_refused(ErrorCode.ERROR_NETWORK_BUSY)


# The same facts are no news.
def test_routes_that_did_not_change_change_nothing() -> None:
    story = Story()
    flow = held(story)
    for _ in range(3):
        story.path.is_reached_by(1)
    assert (begins(story.path), ends(story.path)) == (1, 0)
    assert flow.sees().available_bps == 8 * MBIT


# "Adapter failing or removed: ERROR_ADAP_HDW_ERR": and when it is there again, it is measured.
def test_an_adapter_that_is_taken_out_and_put_back() -> None:
    story = Story()
    flow = held(story)
    asked = flow.queries(fresh=True).waits()
    story.path.fails(ErrorCode.ERROR_ADAP_HDW_ERR)
    asked.is_refused(ErrorCode.ERROR_ADAP_HDW_ERR)
    assert ends(story.path) == 1
    flow.asks(13 * MBIT).is_refused(ErrorCode.ERROR_ADAP_HDW_ERR)
    story.passes(5 * S)
    story.path.is_reached_by(1)
    assert begins(story.path) == 2
    story.passes(S)
    story.path.says(available=20 * MBIT)
    flow.asks(13 * MBIT).is_granted()


# -- what fails -----------------------------------------------------------------------

BROKEN = Refusal(ErrorCode.ERROR_UNEXP_NET_ERR, "the connection broke")


# By contract: "the sink's connection broke: ERROR_UNEXP_NET_ERR"
def test_experiments_that_fail_are_begun_again_after_longer_and_longer_pauses() -> None:
    story = Story()
    flow = held(story)
    times: list[int] = []
    while len(times) < 9:
        if story.path.runs():
            times.append(story.now_ns // S)
            story.path.breaks(BROKEN)
            flow.asks(13 * MBIT).is_refused(ErrorCode.ERROR_UNEXP_NET_ERR)
        story.passes(S)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert flow.contract_bps == 12 * MBIT
    # What is told again starts from the shortest pause.
    story.passes(60 * S)
    story.path.says(available=20 * MBIT)
    flow.asks(13 * MBIT).is_granted()
    story.path.breaks(BROKEN)
    story.passes(S)
    assert story.path.runs()
    assert story.path.is_alert()


# "stop when nobody tracks the path": not even to try again.
def test_what_failed_is_not_begun_again_for_nobody() -> None:
    story = Story()
    flow = held(story)
    story.path.breaks(BROKEN)
    flow.ends()
    story.passes(200 * S)
    assert begins(story.path) == 1
    assert story.engine.tracked_hosts() == ()


# "completes [...] with ERROR_OPERATION_ABORTED" and "the machine slept": everything is lost, and
# nothing is measured any more.
def test_sleep_ends_everything() -> None:
    story = Story()
    flow = held(story)
    other = story.another_program()
    other.tracks(story.paths[1]).is_granted()
    asked = [flow.wants_to_hear_of_congestion().waits(), flow.queries(fresh=True).waits()]
    story.sleeps()
    for one in asked:
        one.is_aborted()
    assert flow.is_untouched
    assert not any(path.runs() for path in story.paths)
    # "and so does every later one but QOSCloseHandle, which succeeds"
    flow.asks(MBIT).is_refused(LOST)
    story.program.tracks(story.path).is_refused(LOST)
    other.stops_tracking(story.paths[1]).is_refused(LOST)
    story.program.closes()
    other.closes()
    assert story.living == ()
    assert story.engine.next_timer_ns() is None


# The same: what was known before is of another time.
def test_nothing_known_outlives_sleep() -> None:
    story = Story()
    held(story)
    story.sleeps()
    program = story.another_program()
    flow = program.flow()
    assert begins(story.path) == 2
    flow.queries().is_refused(ErrorCode.ERROR_NO_DATA)
    asked = flow.asks(20 * MBIT).waits()
    story.path.says(available=20 * MBIT)
    # Nor do contracts: all of it is free.
    asked.is_granted()


# "Experiments [...] stop when nobody tracks the path": of what is not measured nothing is asked.
def test_nobody_measures_afresh_what_is_not_measured() -> None:
    story = Story()
    flow = held(story)
    story.path.breaks(BROKEN)
    flow.queries(fresh=True).is_refused(ErrorCode.ERROR_UNEXP_NET_ERR)
    assert story.path.counts_of(MeasureAfresh) == 0

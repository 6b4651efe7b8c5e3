"""Stories of notices: when they come, that each comes once, and what they promise."""

from __future__ import annotations

import pytest

from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.estimates import CongestionReason
from openqwave.model.flow import NoticeKind, Transport
from openqwave.subsystem import requests as rq
from tests.scenario.stories import MS, Asked, S, Story, StoryFlow
from tests.scenario.virtual_paths import MBIT

BUSY = ErrorCode.ERROR_NETWORK_BUSY
INVALID = ErrorCode.ERROR_INVALID_PARAMETER


def calm(available: int = 8 * MBIT) -> Story:
    """A scripted path that is known, and not congested."""
    story = Story()
    story.program.tracks(story.path).is_granted()
    story.path.says(available=available, congested=False)
    return story


def wanted(flow: StoryFlow, kind: NoticeKind) -> Asked:
    match kind:
        case NoticeKind.CONGESTED:
            return flow.wants_to_hear_of_congestion()
        case NoticeKind.UNCONGESTED:
            return flow.wants_to_hear_of_relief()
        case NoticeKind.AVAILABLE:
            return flow.wants_to_hear_when(12 * MBIT)


# "One-shot.": and "the path is, or becomes, congested".
def test_each_notice_comes_once() -> None:
    story = calm()
    flow = story.flow()
    notice = flow.wants_to_hear_of_congestion().waits()
    story.path.is_congested()
    notice.is_told()
    # What is so already is told at once.
    flow.wants_to_hear_of_congestion().is_told()
    relief = flow.wants_to_hear_of_relief().waits()
    # Nobody waits for congestion now, and the same is no news.
    story.path.says(available=0)
    relief.waits()
    story.path.is_calm()
    relief.is_told()
    flow.wants_to_hear_of_relief().is_told()


# By contract: "A second pending request of the same kind on the flow: ERROR_ALREADY_EXISTS."
@pytest.mark.parametrize("kind", list(NoticeKind))
def test_one_of_a_kind_waits(kind: NoticeKind) -> None:
    story = calm()
    flow, other = story.flow(), story.flow()
    if kind is NoticeKind.UNCONGESTED:
        story.path.is_congested()
    first = wanted(flow, kind).waits()
    wanted(flow, kind).is_refused(ErrorCode.ERROR_ALREADY_EXISTS)
    # On another flow, and of another kind, one may.
    wanted(other, kind).waits()
    first.is_cancelled().is_granted()
    first.is_aborted()
    wanted(flow, kind).waits()


# The same: all three of one flow at a time.
def test_each_kind_has_its_own_place() -> None:
    story = Story()
    flow = story.flow()
    notices = [wanted(flow, kind).waits() for kind in NoticeKind]
    story.path.says(available=12 * MBIT, congested=False)
    notices[NoticeKind.UNCONGESTED].is_told()
    notices[NoticeKind.AVAILABLE].is_told()
    notices[NoticeKind.CONGESTED].waits()


# By contract: "Available with a rate at or below the present contract: ERROR_INVALID_PARAMETER"
def test_available_is_for_more() -> None:
    flow = calm().flow()
    flow.wants_to_hear_when(0).is_refused(INVALID)
    flow.asks(5 * MBIT).is_granted()
    flow.wants_to_hear_when(5 * MBIT).is_refused(INVALID)
    flow.wants_to_hear_when(MBIT).is_refused(INVALID)
    flow.wants_to_hear_when(5 * MBIT + 1).is_told()


# "the flow could be raised to that rate": what it holds is its own.
def test_available_counts_what_the_flow_holds() -> None:
    story = calm()
    flow = story.flow()
    flow.asks(5 * MBIT).is_granted()
    flow.wants_to_hear_when(8 * MBIT).is_told()
    notice = flow.wants_to_hear_when(9 * MBIT).waits()
    story.passes(S)
    story.path.says(available=9 * MBIT - 1)
    notice.waits()
    story.path.says(available=9 * MBIT)
    notice.is_told()


# "An Available notification promises that the same SetFlow, made at once, is granted": though the
# estimate wavers between the two.
def test_what_was_told_to_be_available_is_granted() -> None:
    story = calm()
    flow = story.flow()
    notice = flow.wants_to_hear_when(12 * MBIT).waits()
    story.path.says(available=12 * MBIT)
    notice.is_told()
    story.passes(500 * MS)
    story.path.says(available=11 * MBIT)
    flow.asks(12 * MBIT + 1).is_refused(BUSY)
    flow.asks(12 * MBIT).is_granted()


# The same, for what is told by a query; "made at once", so not for long.
@pytest.mark.parametrize(("later_ns", "is_granted"), [(0, True), (S, True), (1100 * MS, False)])
def test_what_was_queried_is_granted_for_a_moment(later_ns: int, is_granted: bool) -> None:
    story = calm()
    flow = story.flow()
    assert flow.free_bps == 8 * MBIT
    story.passes(later_ns)
    story.path.says(available=7 * MBIT)
    asked = flow.asks(8 * MBIT)
    if is_granted:
        asked.is_granted()
    else:
        asked.is_refused(BUSY)


# "unless another flow took the bandwidth in between."
def test_what_another_flow_took_is_not_granted() -> None:
    story = calm()
    first, second = story.flow(), story.flow()
    notices = [flow.wants_to_hear_when(12 * MBIT).waits() for flow in (first, second)]
    story.path.says(available=12 * MBIT)
    for notice in notices:
        notice.is_told()
    second.asks(12 * MBIT).is_granted()
    first.asks(12 * MBIT).is_refused(BUSY)
    # The same promise is not kept twice either.
    second.gives_up_its_contract()
    first.asks(12 * MBIT).is_granted()


# "the path is, or becomes": who gives something up makes room for who waits.
@pytest.mark.parametrize("how", ["ends", "lowers", "closes"])
def test_room_that_others_leave_is_told_with_the_next_numbers(how: str) -> None:
    story = calm(available=20 * MBIT)
    other = story.another_program()
    first, second = other.flow(), story.flow()
    first.asks(12 * MBIT).is_granted()
    notice = second.wants_to_hear_when(12 * MBIT).waits()
    story.passes(S)
    story.path.says(available=20 * MBIT)
    notice.waits()
    match how:
        case "ends":
            first.ends()
        case "lowers":
            first.asks(8 * MBIT).is_granted()
        case "closes":
            other.closes()
    story.path.says(available=20 * MBIT)
    notice.is_told()
    second.asks(12 * MBIT).is_granted()


# "Available": not on a path that is congested, whatever the last numbers say ...
def test_nothing_is_available_while_the_path_is_congested() -> None:
    story = calm()
    flow = story.flow()
    story.path.is_congested()
    notice = flow.wants_to_hear_when(5 * MBIT).waits()
    story.path.says(available=20 * MBIT)
    notice.waits()
    flow.asks(MBIT).is_refused(BUSY)
    assert flow.free_bps == 0
    # ... nor by those from before it ended.
    before_ns = story.now_ns
    story.passes(S)
    story.path.is_calm()
    notice.waits()
    story.path.says(available=20 * MBIT, measured_since_ns=before_ns)
    notice.waits()
    story.passes(200 * MS)
    story.path.says(available=20 * MBIT)
    notice.is_told()


# "Notifications have hysteresis: a path that hovers at the threshold must not make them alternate
# at every sample.": whoever asks again and again is told of changes of the verdict only.
def test_numbers_that_hover_are_no_congestion() -> None:
    story = calm()
    flow = story.flow()
    notice = flow.wants_to_hear_of_congestion().waits()
    for turn in range(20):
        story.passes(200 * MS)
        story.path.says(available=8 * MBIT if turn % 2 else 0)
    notice.waits()


# "Congested and uncongested come from measurements: [...] the flow's own loss and queueing, ECN
# marks. The state has a reason that can be shown."
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"loss": 0.2}, CongestionReason.FLOW_LOSS),
        ({"marks": 0.3}, CongestionReason.ECN),
        ({"rtt_ns": 80 * MS}, CongestionReason.FLOW_QUEUE),
    ],
)
def test_a_flow_s_own_packets_tell_of_congestion(
    how: dict[str, float], reason: CongestionReason
) -> None:
    story = calm()
    flow, other = story.flow(transport=Transport.TCP), story.flow()
    flow.asks(5 * MBIT).is_granted()
    flow.sends(5 * MBIT)
    notice, elsewhere = (one.wants_to_hear_of_congestion().waits() for one in (flow, other))
    story.passes(5 * S)
    story.path.says(available=3 * MBIT)
    notice.waits()
    flow.sender.suffer(**how)  # type: ignore[arg-type]  # a round trip is whole
    notice.is_told(within_ns=1500 * MS)
    found = story.path.status(flow).congestion
    assert (found.is_congested, found.reason) == (True, reason)
    # It is this flow's trouble, and no verdict on the path.
    elsewhere.waits()
    assert story.path.status(other).congestion.is_congested is False
    flow.sender.suffer(rtt_ns=11 * MS)
    relief = flow.wants_to_hear_of_relief().waits()
    relief.is_told(within_ns=5 * S)


# "Without OVERLAPPED the call blocks until its condition holds.": a path that is not measured for a
# moment, or a minute of experiments, is no reason to give up.
def test_a_notice_outlives_a_sink_s_restart() -> None:
    story = calm()
    flow = story.flow()
    notice = flow.wants_to_hear_of_congestion().waits()
    story.path.breaks(Refusal(ErrorCode.ERROR_UNEXP_NET_ERR, "the connection broke"))
    notice.waits()
    story.passes(3 * S)
    assert story.path.runs()
    notice.waits()
    story.path.says(available=8 * MBIT, congested=True)
    notice.is_told()


# "the sink's connection broke: ERROR_UNEXP_NET_ERR": when it stays so, nobody is left waiting.
def test_a_notice_ends_when_experiments_fail_for_long() -> None:
    story = calm()
    flow = story.flow()
    notice = flow.wants_to_hear_of_congestion().waits()
    why = Refusal(ErrorCode.ERROR_UNEXP_NET_ERR, "the connection broke")
    for _ in range(100):
        if story.path.runs():
            story.path.breaks(why)
        story.passes(S)
    notice.is_refused(ErrorCode.ERROR_UNEXP_NET_ERR)
    assert 30 * S <= notice.took_ns <= 70 * S


# "Non-adaptive or unmeasurable: ERROR_NOT_SUPPORTED", also when that turns out while one waits.
@pytest.mark.parametrize("kind", [NoticeKind.CONGESTED, NoticeKind.AVAILABLE])
def test_a_notice_ends_when_the_path_is_not_measured_any_more(kind: NoticeKind) -> None:
    story = calm()
    notice = wanted(story.flow(), kind).waits()
    story.path.is_not_to_be_measured()
    notice.is_refused(ErrorCode.ERROR_NOT_SUPPORTED)


# -- cancelling, ending ---------------------------------------------------------------


# "The cancelled operation completes in the normal way with ERROR_OPERATION_ABORTED.", "Null or not
# a pending operation of this handle: ERROR_INVALID_PARAMETER."
def test_what_is_cancelled_is_aborted_once() -> None:
    story = calm()
    notice = story.flow().wants_to_hear_of_congestion().waits()
    # By contract: "change, notify on, remove a flow of another handle: never"
    story.another_program().puts(rq.Cancel(notice.request_id)).is_refused(INVALID)
    notice.waits()
    notice.is_cancelled().is_granted()
    notice.is_aborted()
    notice.is_cancelled().is_refused(INVALID)
    story.path.is_congested()


# "A completion that is already under way wins, and exactly one of the two happens."
def test_a_notice_that_came_cannot_be_cancelled() -> None:
    story = calm()
    notice = story.flow().wants_to_hear_of_congestion().waits()
    story.path.is_congested()
    notice.is_cancelled().is_refused(INVALID)
    notice.is_told()


# The same for a rate: what is cancelled is not granted afterwards, and holds nothing.
def test_a_rate_that_waited_and_was_cancelled_holds_nothing() -> None:
    story = Story()
    first, second = story.flow(), story.flow()
    asked = first.asks(12 * MBIT, is_overlapped=True).waits()
    asked.is_cancelled().is_granted()
    asked.is_aborted()
    story.path.says(available=20 * MBIT)
    assert first.is_untouched
    second.asks(20 * MBIT).is_granted()


# QOSCloseHandle "completes its pending operations with ERROR_OPERATION_ABORTED"
def test_closing_aborts_everything() -> None:
    story = calm()
    program = story.another_program()
    flow, other = program.flow(story.paths[1]), program.flow()
    asked = [
        flow.asks(MBIT, is_overlapped=True).waits(),
        flow.queries(fresh=True, is_overlapped=True).waits(),
        flow.wants_to_hear_of_congestion().waits(),
        flow.wants_to_hear_of_relief().waits(),
        other.wants_to_hear_when(12 * MBIT).waits(),
    ]
    mine = story.flow().wants_to_hear_of_congestion().waits()
    program.closes()
    for one in asked:
        one.is_aborted()
    mine.waits()
    # Nothing of it is left to be woken for but the paths' own ends.
    story.passes(10 * S)


# The same for a flow that ends, by its program or by its last socket.
@pytest.mark.parametrize("how", ["removed", "socket closed", "slept"])
def test_what_waits_on_a_flow_ends_with_it(how: str) -> None:
    story = calm()
    flow = story.flow()
    asked = [
        flow.wants_to_hear_of_congestion().waits(),
        flow.wants_to_hear_when(12 * MBIT).waits(),
        flow.queries(fresh=True).waits(),
    ]
    match how:
        case "removed":
            flow.ends()
        case "socket closed":
            gone = story.engine.receive_sockets_gone([flow.cookie], now_ns=story.now_ns)
            story.carry_out(gone)
        case "slept":
            story.sleeps()
    for one in asked:
        one.is_aborted()

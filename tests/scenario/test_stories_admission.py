"""Stories of who is granted what, and of what happens to those who hold it."""

from __future__ import annotations

import pytest

from openqwave.admission.policy import Experiments, Policy
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.flow import Shaping, TrafficType
from tests.scenario.stories import MS, S, Story
from tests.scenario.virtual_paths import MBIT

BUSY = ErrorCode.ERROR_NETWORK_BUSY


def known(available: int = 20 * MBIT) -> Story:
    """A scripted path of which something is known already, because it is tracked."""
    story = Story()
    story.program.tracks(story.path).is_granted()
    story.path.says(available=available)
    return story


# "reservations that are admitted but not yet in use count as used."
def test_what_is_granted_is_reserved_before_the_first_packet() -> None:
    story = known()
    first, second = story.flow(), story.flow()
    first.asks(12 * MBIT).is_granted()
    second.asks(12 * MBIT).is_refused(BUSY)
    second.asks(8 * MBIT).is_granted()
    # Nor is it forgotten with the next estimate, which knows nothing of what is not sent.
    story.passes(2 * S)
    story.path.says(available=20 * MBIT)
    story.flow().asks(MBIT).is_refused(BUSY)


# "granted when the path's available bandwidth, plus what this flow already holds there, covers the
# request"
def test_to_the_last_bit() -> None:
    story = known()
    flow = story.flow()
    flow.asks(20 * MBIT + 1).is_refused(BUSY)
    flow.asks(20 * MBIT).is_granted()


# The same: what a flow holds is its own.
def test_what_a_flow_holds_counts_for_its_increase() -> None:
    story = known()
    first, second = story.flow(), story.flow()
    first.asks(12 * MBIT).is_granted()
    first.asks(20 * MBIT).is_granted()
    first.asks(10 * MBIT).is_granted()
    second.asks(10 * MBIT).is_granted()
    first.asks(11 * MBIT).is_refused(BUSY)


# The same; and what it sends is part of what was measured, so it is not subtracted twice.
def test_own_traffic_is_part_of_the_measurement() -> None:
    story = known()
    first, second = story.flow(), story.flow()
    first.asks(12 * MBIT).is_granted()
    first.sends(12 * MBIT)
    story.passes(8 * S)
    story.path.says(available=8 * MBIT)
    assert first.free_bps == pytest.approx(8 * MBIT, rel=0.02)
    second.asks(7 * MBIT).is_granted()
    second.asks(9 * MBIT).is_refused(BUSY)
    first.asks(12 * MBIT).is_granted()


# The same: a stream that pauses keeps its place, from the first estimate that misses it.
@pytest.mark.parametrize("pause_ns", [600 * MS, S, 2 * S, 8 * S])
def test_a_pause_gives_nothing_away(pause_ns: int) -> None:
    story = known()
    first, second = story.flow(), story.flow()
    first.asks(12 * MBIT).is_granted()
    first.sends(12 * MBIT)
    story.passes(6 * S)
    first.stops()
    story.passes(pause_ns)
    story.path.says(available=20 * MBIT)
    second.asks(9 * MBIT).is_refused(BUSY)
    second.asks(8 * MBIT).is_granted()


# "A decrease is always granted."
@pytest.mark.parametrize("available", [0, MBIT, 20 * MBIT])
@pytest.mark.parametrize("congested", [False, True])
def test_a_decrease_is_always_granted(available: int, congested: bool) -> None:
    story = known()
    flow = story.flow()
    flow.asks(12 * MBIT).is_granted()
    story.path.says(available=available, congested=congested)
    for rate_bps in (12 * MBIT, 11 * MBIT, MBIT, 1):
        flow.asks(rate_bps).is_granted()
        assert flow.contract_bps == rate_bps


# The same, when nothing is known any more, and when the host is gone.
def test_a_decrease_is_granted_on_a_path_that_failed() -> None:
    story = known()
    flow = story.flow()
    flow.asks(12 * MBIT).is_granted()
    story.passes(40 * S)
    flow.asks(11 * MBIT).is_granted()
    story.path.fails(ErrorCode.ERROR_HOST_UNREACHABLE)
    flow.asks(10 * MBIT).is_granted()
    assert flow.contract_bps == 10 * MBIT


# By contract: "a refused increase leaves the old contract in force [decision]"
def test_a_refused_increase_keeps_the_contract() -> None:
    story = known()
    flow = story.flow()
    flow.asks(12 * MBIT).is_granted()
    before = flow.treatment
    assert before.rate_bps == 12 * MBIT
    flow.asks(24 * MBIT).is_refused(BUSY)
    assert flow.contract_bps == 12 * MBIT
    assert flow.treatment == before
    # And what it holds is still nobody else's.
    story.flow().asks(9 * MBIT).is_refused(BUSY)


# "A first request that is refused leaves the flow running unmarked and unshaped"
def test_a_refused_first_request_leaves_the_flow_unmarked() -> None:
    story = known()
    flow = story.flow()
    flow.asks(24 * MBIT).is_refused(BUSY)
    assert flow.is_untouched
    assert flow.contract_bps is None
    assert flow.flow_id in story.living
    # It can be asked for less at once.
    flow.asks(5 * MBIT).is_granted()
    assert flow.dscp == 40


# By contract: "Granted: contract and marks apply before success is returned."
def test_a_grant_marks_and_shapes() -> None:
    story = known()
    flow = story.flow(traffic_type=TrafficType.VOICE)
    assert flow.is_untouched
    flow.asks(MBIT).is_granted()
    assert (flow.dscp, flow.treatment.rate_bps) == (56, MBIT)


# "Kernel refused the marks or shaping for lack of rights: ERROR_ACCESS_DENIED [...] Never a silent
# success": and then nothing is reserved.
def test_what_the_kernel_refuses_is_not_reserved() -> None:
    story = known()
    first, second = story.flow(), story.flow()
    denied = Refusal(ErrorCode.ERROR_ACCESS_DENIED, "not without rights")
    story.mechanism.refusals.append(denied)
    first.asks(12 * MBIT).is_refused(ErrorCode.ERROR_ACCESS_DENIED)
    assert first.contract_bps is None
    second.asks(20 * MBIT).is_granted()


# The same for a raise, of which the old part stays.
def test_a_raise_that_the_kernel_refuses_leaves_the_books_as_they_were() -> None:
    story = known()
    first, second = story.flow(), story.flow()
    first.asks(5 * MBIT).is_granted()
    story.mechanism.refusals.append(Refusal(ErrorCode.ERROR_ACCESS_DENIED, "not without rights"))
    first.asks(12 * MBIT).is_refused(ErrorCode.ERROR_ACCESS_DENIED)
    assert first.contract_bps == 5 * MBIT
    second.asks(16 * MBIT).is_refused(BUSY)
    second.asks(15 * MBIT).is_granted()


# "Bandwidth 0 ends the contract: no shaping and no marking": what was not in use is free at once.
@pytest.mark.parametrize("how", ["zero", "remove", "close", "socket"])
def test_what_a_contract_held_is_free_when_it_ends(how: str) -> None:
    story = known()
    other = story.another_program()
    first, second = other.flow(), story.flow()
    first.asks(12 * MBIT).is_granted()
    second.asks(12 * MBIT).is_refused(BUSY)
    match how:
        case "zero":
            first.gives_up_its_contract()
            assert first.is_untouched
        case "remove":
            first.ends()
        case "close":
            other.closes()
        case "socket":
            gone = story.engine.receive_sockets_gone([first.cookie], now_ns=story.now_ns)
            story.carry_out(gone)
    second.asks(12 * MBIT).is_granted()


# The same; but what was on the wire may go on without a contract: the room is found by the next
# estimate and never assumed.
def test_what_was_sent_is_not_free_until_it_is_measured_to_be() -> None:
    story = known()
    first, second = story.flow(), story.flow()
    first.asks(12 * MBIT).is_granted()
    first.sends(12 * MBIT)
    story.passes(8 * S)
    story.path.says(available=8 * MBIT)
    first.gives_up_its_contract()
    second.asks(12 * MBIT).is_refused(BUSY)
    first.stops()
    story.passes(S)
    story.path.says(available=20 * MBIT)
    second.asks(12 * MBIT).is_granted()


# "granted when [...] available [...] covers the request": two that ask at once are not both told
# the same room.
def test_of_two_for_the_last_megabit_one_wins() -> None:
    story = known(available=MBIT)
    first, second = story.another_program().flow(), story.another_program().flow()
    first.asks(MBIT).is_granted()
    second.asks(MBIT).is_refused(BUSY)
    first.ends()
    second.asks(MBIT).is_granted()


# The same for requests that waited together, and are answered by one view, in their order.
def test_of_two_that_waited_for_the_same_room_the_first_wins() -> None:
    story = Story()
    first, second, third = story.flow(), story.flow(), story.flow()
    asked = [flow.asks(12 * MBIT).waits() for flow in (first, second)]
    small = third.asks(8 * MBIT).waits()
    story.passes(900 * MS)
    story.path.says(available=20 * MBIT)
    asked[0].is_granted(within_ns=S)
    asked[1].is_refused(BUSY, within_ns=S)
    small.is_granted(within_ns=S)


# "An estimate that falls": nobody is thrown out, who holds a contract is told of congestion, and
# nothing grows until there is room. "Congested and uncongested come from measurements".
def test_an_estimate_below_what_is_granted_throws_nobody_out() -> None:
    story = known()
    flows = [story.flow(), story.flow()]
    for flow in flows:
        flow.asks(8 * MBIT).is_granted()
        flow.sends(8 * MBIT)
    notices = [flow.wants_to_hear_of_congestion().waits() for flow in flows]
    story.passes(5 * S)
    story.path.is_congested()
    story.path.says(available=2 * MBIT, capacity=10 * MBIT)
    for flow, notice in zip(flows, notices, strict=True):
        notice.is_told(within_ns=6 * S)
        assert flow.contract_bps == 8 * MBIT
        assert flow.dscp == 40
        flow.asks(9 * MBIT).is_refused(BUSY)
        flow.asks(4 * MBIT).is_granted()
        assert flow.free_bps == 0


# "QOS_OUTGOING_DEFAULT_MINIMUM_BANDWIDTH (4294967295) asks for a small default share [decision:
# 64 kbit/s, set by policy]": that is asked of the path as any other.
def test_the_default_share_is_admitted_as_well() -> None:
    story = known(available=64_000)
    first, second = story.flow(), story.flow()
    first.asks(None).is_granted()
    assert first.contract_bps == 64_000
    second.asks(None).is_refused(BUSY)


# "UseNonConformantMarkings: nothing is delayed", and is admitted all the same.
@pytest.mark.parametrize("shaping", list(Shaping))
def test_every_kind_of_contract_is_admitted(shaping: Shaping) -> None:
    story = known()
    first, second = story.flow(), story.flow()
    first.asks(24 * MBIT, shaping=shaping).is_refused(BUSY)
    first.asks(12 * MBIT, shaping=shaping).is_granted()
    second.asks(12 * MBIT, shaping=shaping).is_refused(BUSY)


# By contract: "new type, new marks before the call returns [...] an admitted rate stays"
def test_another_type_keeps_the_contract() -> None:
    story = known()
    flow = story.flow()
    flow.asks(12 * MBIT).is_granted()
    flow.becomes(TrafficType.VOICE)
    assert (flow.dscp, flow.contract_bps) == (56, 12 * MBIT)
    story.flow().asks(9 * MBIT).is_refused(BUSY)


# The same: without an admitted rate a type changes nothing on the wire.
def test_another_type_admits_nothing() -> None:
    flow = known().flow()
    flow.becomes(TrafficType.VOICE)
    assert flow.is_untouched


# "Adaptive towards a destination that cannot be measured [...]: the call succeeds, and [...]
# shaping and marking work without admission [decision]"
def test_where_nothing_can_be_measured_rates_are_granted_unasked() -> None:
    story = Story()
    story.path.is_not_to_be_measured()
    flow = story.flow()
    flow.asks(900 * MBIT).is_granted()
    assert flow.dscp == 40
    assert story.path.wanted == []
    flow.queries().is_refused(ErrorCode.ERROR_NOT_SUPPORTED)
    flow.wants_to_hear_of_congestion().is_refused(ErrorCode.ERROR_NOT_SUPPORTED)
    flow.wants_to_hear_when(901 * MBIT).is_refused(ErrorCode.ERROR_NOT_SUPPORTED)


# The same when it turns out later: who waited is granted.
def test_who_waited_for_what_cannot_be_measured_is_granted() -> None:
    story = Story()
    flow = story.flow()
    asked = flow.asks(900 * MBIT).waits()
    story.passes(S)
    story.path.is_not_to_be_measured()
    asked.is_granted(within_ns=S)
    assert flow.dscp == 40


# By contract: "non-adaptive flow: marking and shaping only"
def test_flows_that_do_not_adapt_are_not_asked() -> None:
    story = known(available=0)
    flow = story.flow(is_adaptive=False)
    flow.asks(12 * MBIT).is_granted()
    flow.queries().is_refused(ErrorCode.ERROR_NOT_SUPPORTED)
    story.path.says(available=12 * MBIT)
    # And their contracts take nothing from those who are.
    story.flow().asks(12 * MBIT).is_granted()


# "Paths to the same destination are measured once": other destinations have room of their own ...
def test_paths_have_room_of_their_own() -> None:
    story = known()
    other = story.paths[1]
    far = story.flow(other)
    other.says(available=5 * MBIT)
    story.flow().asks(20 * MBIT).is_granted()
    far.asks(6 * MBIT).is_refused(BUSY)
    far.asks(5 * MBIT).is_granted()


# ... but for the first hop, which they share where its speed is known.
def test_the_first_hop_is_shared() -> None:
    story = Story()
    paths = story.paths[:2]
    flows = []
    for path in paths:
        path.is_reached_by(1, speed_bps=10 * MBIT)
        flows.append(story.flow(path))
        path.says(available=50 * MBIT, capacity=50 * MBIT)
    story.passes(500 * MS)
    flows[0].asks(8 * MBIT).is_granted()
    story.passes(500 * MS)
    flows[1].asks(8 * MBIT).is_refused(BUSY)
    flows[1].asks(2 * MBIT).is_granted()


# "Path forbidden by policy: ERROR_ACCESS_DISABLED_BY_POLICY. Host gone: ERROR_HOST_UNREACHABLE;
# [...] Adapter failing or removed: ERROR_ADAP_HDW_ERR."
@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.ERROR_ACCESS_DISABLED_BY_POLICY,
        ErrorCode.ERROR_HOST_UNREACHABLE,
        ErrorCode.ERROR_ADAP_HDW_ERR,
        ErrorCode.ERROR_BAD_NET_NAME,
    ],
)
def test_why_a_way_is_no_way(code: ErrorCode) -> None:
    story = known()
    holder, other = story.flow(), story.flow()
    holder.asks(MBIT).is_granted()
    story.path.fails(code)
    holder.asks(2 * MBIT).is_refused(code)
    other.asks(MBIT).is_refused(code)
    assert holder.contract_bps == MBIT
    assert other.is_untouched


# By contract: "Path forbidden by policy: ERROR_ACCESS_DISABLED_BY_POLICY."
def test_nothing_is_ever_told_of_a_path_that_policy_forbids() -> None:
    story = known()
    flow = story.flow()
    story.path.fails(ErrorCode.ERROR_ACCESS_DISABLED_BY_POLICY)
    for asked in (
        flow.wants_to_hear_of_congestion(),
        flow.wants_to_hear_of_relief(),
        flow.wants_to_hear_when(MBIT),
    ):
        asked.is_refused(ErrorCode.ERROR_ACCESS_DISABLED_BY_POLICY)


# "policy; default at most 1 % [...]": what is said of experiments is also the administrator's.
def test_a_policy_that_does_not_wait() -> None:
    story = Story(policy=Policy(experiments=Experiments(answer_ns=0)))
    story.flow().asks(MBIT).is_refused(ErrorCode.ERROR_RETRY)


# "A failed call changes nothing.": nor does it leave interest in a path.
def test_a_flow_that_is_refused_leaves_no_interest() -> None:
    story = Story()
    denied = Refusal(ErrorCode.ERROR_ACCESS_DENIED, "not without rights")
    story.mechanism.refusals.append(denied)
    story.program.adds(story.path).is_refused(ErrorCode.ERROR_ACCESS_DENIED)
    assert story.path.wanted == []
    assert story.living == ()
    # What was looked up for it is forgotten in time.
    story.passes(121 * S)
    assert story.engine.tracked_hosts() == ()

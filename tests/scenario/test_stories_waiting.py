"""Stories of requests that wait for what is not known yet, and of what is not known any more."""

from __future__ import annotations

import pytest

from openqwave.admission.policy import Experiments, Policy
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Fundamentals, Unmeasurable
from openqwave.subsystem.effects import MeasureAfresh
from tests.scenario.stories import MS, S, Story
from tests.scenario.virtual_paths import MBIT

BUSY = ErrorCode.ERROR_NETWORK_BUSY
NO_DATA = ErrorCode.ERROR_NO_DATA
RETRY = ErrorCode.ERROR_RETRY
TIMEOUT = ErrorCode.ERROR_TIMEOUT


# "a synchronous call waits for the running experiments up to a limit [decision: 2 s] and then
# answers ERROR_RETRY"
def test_a_call_waits_for_two_seconds() -> None:
    story = Story()
    flow = story.flow()
    asked = flow.asks(MBIT).waits()
    story.passes(2 * S - 1)
    asked.waits()
    story.passes(1)
    asked.is_refused(RETRY)
    assert flow.is_untouched
    # What comes later is for the next call.
    story.path.says(available=20 * MBIT)
    assert flow.contract_bps is None
    flow.asks(MBIT).is_granted()


# The same: and is answered as soon as something is known.
@pytest.mark.parametrize(("available", "is_granted"), [(20 * MBIT, True), (MBIT, False)])
def test_a_call_is_answered_when_it_is_known(available: int, is_granted: bool) -> None:
    story = Story()
    flow = story.flow()
    asked = flow.asks(12 * MBIT).waits()
    story.passes(700 * MS)
    story.path.says(available=available)
    if is_granted:
        asked.is_granted()
        assert (flow.dscp, flow.contract_bps) == (40, 12 * MBIT)
    else:
        asked.is_refused(BUSY)
        assert flow.is_untouched
    assert asked.took_ns == 700 * MS
    # Nothing is left of the wait.
    story.passes(10 * S)


# "an overlapped one completes when known"
def test_an_overlapped_call_waits_until_it_is_known() -> None:
    story = Story()
    flow = story.flow()
    asked = flow.asks(12 * MBIT, is_overlapped=True).waits()
    story.passes(60 * S)
    asked.waits()
    story.path.says(available=20 * MBIT)
    asked.is_granted()
    assert flow.dscp == 40


# "Not enough known yet": a capacity without what is free of it is not enough.
def test_a_capacity_alone_admits_nothing() -> None:
    story = Story()
    flow = story.flow()
    asked = flow.asks(MBIT).waits()
    story.path.says(available=None)
    asked.waits()
    # By contract: "Known in part: success with the Set flags telling which."
    assert flow.sees() == Fundamentals(20 * MBIT, None, 10 * MS)
    story.path.says(available=20 * MBIT)
    asked.is_granted()


# The same when it ends otherwise: "Host gone: ERROR_HOST_UNREACHABLE; the sink's connection broke:
# ERROR_UNEXP_NET_ERR. Adapter failing or removed: ERROR_ADAP_HDW_ERR."
@pytest.mark.parametrize(
    ("why", "code"),
    [
        (ErrorCode.ERROR_TIMEOUT, ErrorCode.ERROR_HOST_UNREACHABLE),
        (ErrorCode.ERROR_HOST_UNREACHABLE, ErrorCode.ERROR_HOST_UNREACHABLE),
        (ErrorCode.ERROR_UNEXP_NET_ERR, ErrorCode.ERROR_UNEXP_NET_ERR),
        (ErrorCode.ERROR_ADAP_HDW_ERR, ErrorCode.ERROR_ADAP_HDW_ERR),
    ],
)
@pytest.mark.parametrize("is_overlapped", [False, True])
def test_experiments_that_fail_answer_who_waits(
    why: ErrorCode, code: ErrorCode, is_overlapped: bool
) -> None:
    story = Story()
    flow = story.flow()
    asked = flow.asks(MBIT, is_overlapped=is_overlapped).waits()
    story.passes(500 * MS)
    story.path.breaks(Refusal(why, "it failed"))
    asked.is_refused(code)
    assert flow.is_untouched


# "Adaptive towards a destination that cannot be measured (off-link under the default policy, no
# sink [...]): [...] marking work without admission"
def test_a_host_without_a_sink_grants_who_waits() -> None:
    story = Story()
    flow = story.flow()
    asked, notice = flow.asks(MBIT).waits(), flow.wants_to_hear_of_congestion().waits()
    story.path.breaks(Unmeasurable("no sink answers"))
    asked.is_granted()
    assert flow.dscp == 40
    notice.is_refused(ErrorCode.ERROR_NOT_SUPPORTED)
    # "No sink answers: ERROR_HOST_UNREACHABLE from the call when it is known at once".
    story.program.tracks(story.path).is_refused(ErrorCode.ERROR_HOST_UNREACHABLE)


# The same, of a host that had one a moment ago: it may come back, and nothing is given away.
def test_a_sink_that_is_restarted_is_not_taken_for_none() -> None:
    story = Story()
    flow = story.flow()
    story.path.says(available=20 * MBIT)
    story.path.breaks(Unmeasurable("nothing listens"))
    flow.asks(MBIT).is_refused(ErrorCode.ERROR_UNEXP_NET_ERR)
    assert flow.is_untouched
    story.passes(S)
    assert story.path.runs()


# -- what is known --------------------------------------------------------------------


# "Nothing known yet: ERROR_NO_DATA (the sample waits on this). Experiments under way but not
# enough: ERROR_RETRY."
def test_nothing_known_is_no_data() -> None:
    story = Story()
    flow = story.flow()
    flow.queries().is_refused(NO_DATA)
    story.path.says(available=None, capacity=None, rtt_ns=None)
    flow.queries().is_refused(RETRY)
    story.path.says(available=20 * MBIT)
    assert flow.sees() == Fundamentals(20 * MBIT, 20 * MBIT, 10 * MS)


# By contract: "Fundamentals on a non-adaptive flow or an unmeasurable path: ERROR_NOT_SUPPORTED."
@pytest.mark.parametrize("fresh", [False, True])
def test_fundamentals_that_cannot_be_had(fresh: bool) -> None:
    story = Story()
    story.flow(is_adaptive=False).queries(fresh=fresh).is_refused(ErrorCode.ERROR_NOT_SUPPORTED)
    story.path.is_not_to_be_measured()
    story.flow().queries(fresh=fresh).is_refused(ErrorCode.ERROR_NOT_SUPPORTED)


# "Cached data has an age limit set by policy; older is as if unknown."
@pytest.mark.parametrize("age_s", [5, 30])
def test_what_is_too_old_is_not_known(age_s: int) -> None:
    story = Story(policy=Policy(experiments=Experiments(estimate_age_ns=age_s * S)))
    flow = story.flow()
    story.path.says(available=20 * MBIT)
    story.passes(age_s * S)
    assert flow.free_bps == 20 * MBIT
    story.passes(1)
    flow.queries().is_refused(NO_DATA)
    flow.wants_to_hear_when(MBIT).waits()
    # Who asks for a rate has it measured again, and waits for that.
    asked = flow.asks(MBIT).waits()
    assert story.path.counts_of(MeasureAfresh) == 1
    story.path.says(available=20 * MBIT)
    asked.is_granted()


# "QOS_QUERYFLOW_FRESH [...]: only data measured after the call; not to be had in time: ERROR_RETRY,
# experiments timed out: ERROR_TIMEOUT."
def test_fresh_is_measured_after_the_call() -> None:
    story = Story()
    flow = story.flow()
    story.path.says(available=20 * MBIT)
    story.passes(S)
    before_ns = story.now_ns - 1
    asked = flow.queries(fresh=True).waits()
    assert story.path.counts_of(MeasureAfresh) == 1
    story.passes(500 * MS)
    story.path.says(available=MBIT, measured_since_ns=before_ns)
    asked.waits()
    story.path.says(available=2 * MBIT, measured_since_ns=before_ns + 1)
    result = asked.result()
    assert isinstance(result, Fundamentals)
    assert result.available_bps == 2 * MBIT


# The same: in vain.
@pytest.mark.parametrize(("knows", "code"), [(True, RETRY), (False, TIMEOUT)])
def test_fresh_that_is_not_to_be_had(knows: bool, code: ErrorCode) -> None:
    story = Story()
    flow = story.flow()
    if knows:
        story.path.says(available=20 * MBIT)
    asked = flow.queries(fresh=True).waits()
    overlapped = flow.queries(fresh=True, is_overlapped=True).waits()
    story.passes(2 * S)
    asked.is_refused(code)
    overlapped.waits()
    story.path.says(available=20 * MBIT)
    overlapped.is_granted()


# "fundamentals only, ignored for flows of others": and theirs needs rights.
def test_what_others_may_ask() -> None:
    story = Story()
    flow = story.flow()
    stranger = story.another_program()
    story.path.says(available=20 * MBIT)
    stranger.asks_about(flow).is_refused(ErrorCode.ERROR_NOT_FOUND)
    # An administrator is answered at once, by what is known, and is promised nothing.
    stranger.asks_about(flow, is_root=True).is_granted()
    story.path.says(available=MBIT)
    flow.asks(20 * MBIT).is_refused(BUSY)


# "waits for the running experiments up to a limit [decision: 2 s]": set by policy.
def test_the_limit_is_the_administrator_s() -> None:
    story = Story(policy=Policy(experiments=Experiments(answer_ns=500 * MS)))
    asked = story.flow().asks(MBIT).waits()
    asked.is_refused(RETRY, within_ns=500 * MS)
    assert asked.took_ns == 500 * MS


# "A decrease is always granted", and does not wait for what is not known; nor does another increase
# that waits disturb it.
def test_a_later_call_does_not_wait_for_an_earlier_one() -> None:
    story = Story()
    flow = story.flow()
    story.path.says(available=20 * MBIT)
    flow.asks(5 * MBIT).is_granted()
    story.passes(31 * S)
    asked = flow.asks(12 * MBIT, is_overlapped=True).waits()
    flow.asks(4 * MBIT).is_granted()
    assert flow.contract_bps == 4 * MBIT
    story.path.says(available=20 * MBIT)
    asked.is_granted()
    assert flow.contract_bps == 12 * MBIT


# "Kernel refused the marks or shaping": also for who waited, and the room is the next one's.
def test_a_kernel_that_refuses_who_waited() -> None:
    story = Story()
    first, second = story.flow(), story.flow()
    asked = [flow.asks(12 * MBIT).waits() for flow in (first, second)]
    story.mechanism.refusals.append(Refusal(ErrorCode.ERROR_ACCESS_DENIED, "not without rights"))
    story.path.says(available=20 * MBIT)
    asked[0].is_refused(ErrorCode.ERROR_ACCESS_DENIED)
    asked[1].is_granted()
    assert first.is_untouched
    assert second.contract_bps == 12 * MBIT


# "Quota per client exceeded: ERROR_NO_SYSTEM_RESOURCES": what waits is counted for each process.
def test_what_waits_is_counted() -> None:
    limits = Policy().limits
    story = Story(policy=Policy(limits=type(limits)(pending_operations=2)))
    flow = story.flow()
    asked = flow.asks(MBIT).waits()
    flow.wants_to_hear_of_congestion().waits()
    flow.asks(MBIT).is_refused(ErrorCode.ERROR_NO_SYSTEM_RESOURCES)
    story.another_program().flow().asks(MBIT).waits()
    asked.is_cancelled().is_granted()
    flow.asks(MBIT).waits()

"""Stories in which the real measurement, in virtual time, tells the engine of the path."""

from __future__ import annotations

from dataclasses import replace

import pytest

from openqwave.lab.links import Stage, TokenBucket
from openqwave.model.codes import ErrorCode
from openqwave.model.flow import Transport
from openqwave.subsystem.effects import MeasureAfresh, StartExperiments, StopExperiments
from tests.scenario.stories import MS, FarEnd, S, Story
from tests.scenario.virtual import Hosts
from tests.scenario.virtual_paths import MBIT, link, path

R = 20 * MBIT
BUSY = ErrorCode.ERROR_NETWORK_BUSY
RETRY = ErrorCode.ERROR_RETRY


def tracked(stage: Stage | None = None, *, seed: int = 1, hosts: Hosts | None = None) -> Story:
    """A measured path that is tracked for a while."""
    story = Story(stage or link(R), seed=seed, hosts=hosts or Hosts())
    story.program.tracks(story.path).is_granted()
    story.passes(5 * S)
    return story


# -- the first answer -----------------------------------------------------------------


# "If the client was not tracked, the call starts the experiments.", "a synchronous call waits for
# the running experiments up to a limit [decision: 2 s]"
@pytest.mark.parametrize("rate", [1, 5, 20, 100])
def test_a_first_answer_comes_within_two_seconds(rate: int) -> None:
    story = Story(link(rate * MBIT, 0.2))
    flow = story.flow()
    flow.asks(rate * MBIT // 2).is_granted(within_ns=2 * S)
    assert flow.dscp == 40


# The same, and the answer is right.
def test_a_first_answer_can_be_no() -> None:
    story = Story(link(R, 0.4))
    flow = story.flow()
    asked = flow.asks(17 * MBIT).is_refused(BUSY, within_ns=2 * S)
    assert asked.took_ns > 0
    assert flow.is_untouched
    # "query the available bandwidth"
    assert flow.free_bps == pytest.approx(12 * MBIT, abs=2 * MBIT)


# "Starting begins light experiments on the path": what was tracked for three seconds is known.
def test_an_answer_is_there_at_once_where_the_host_was_tracked() -> None:
    story = Story(link(R))
    story.program.tracks(story.path).is_granted()
    story.passes(3 * S)
    story.flow().asks(12 * MBIT).is_granted()
    story.flow().asks(12 * MBIT).is_refused(BUSY)


# "Not enough known yet: [...] and then answers ERROR_RETRY" where the sink is silent.
def test_where_nobody_answers_a_call_ends_with_retry() -> None:
    story = Story(link(R))
    story.world.sink_ends(FarEnd.IS_DARK)
    flow = story.flow()
    asked = flow.asks(12 * MBIT).is_refused(RETRY, within_ns=2 * S)
    assert asked.took_ns == 2 * S
    assert flow.is_untouched
    # "Host gone: ERROR_HOST_UNREACHABLE", once that is known.
    story.passes(2 * S)
    flow.asks(12 * MBIT).is_refused(ErrorCode.ERROR_HOST_UNREACHABLE)


# "no sink [...]: the call succeeds, and only what needs estimates answers ERROR_NOT_SUPPORTED;
# shaping and marking work without admission"
def test_a_host_without_a_sink() -> None:
    story = Story(link(R))
    story.world.sink_ends()
    flow = story.flow()
    flow.asks(900 * MBIT).is_granted(within_ns=100 * MS)
    assert flow.dscp == 40
    flow.queries().is_refused(ErrorCode.ERROR_NOT_SUPPORTED)
    flow.wants_to_hear_of_congestion().is_refused(ErrorCode.ERROR_NOT_SUPPORTED)
    # By contract: "No sink answers: ERROR_HOST_UNREACHABLE from the call when it is known at once"
    story.program.tracks(story.path).is_refused(ErrorCode.ERROR_HOST_UNREACHABLE)
    # It is asked again from time to time, and measured when there is one.
    story.passes(20 * S)
    story.world.sink_begins()
    story.passes(60 * S)
    assert flow.sees().bottleneck_bps == pytest.approx(R, rel=0.05)
    flow.asks(901 * MBIT).is_refused(BUSY)
    assert flow.contract_bps == 900 * MBIT


# -- the recovery ---------------------------------------------------------------------


# "The recovery that must work, end to end, after ERROR_NETWORK_BUSY: query the available bandwidth,
# stream at the lower rate with priority, ask QOSNotifyAvailable for the wanted rate, and when it
# fires set that rate again."
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("load", [0.0, 0.15])
def test_the_recovery_after_a_busy_network(seed: int, load: float) -> None:
    wanted = 11 * MBIT
    story = Story(link(R, load), seed=seed)
    first, second = story.flow(), story.flow()
    first.asks(wanted).is_granted(within_ns=2 * S)
    first.sends(wanted)
    story.passes(4 * S)
    second.asks(wanted).is_refused(BUSY)
    lower = second.free_bps
    assert lower == pytest.approx((1 - load) * R - wanted, abs=2 * MBIT)
    second.asks(lower).is_granted()
    second.sends(lower)
    assert second.dscp == 40
    notice = second.wants_to_hear_when(wanted).waits()
    # It does not come while there is no room.
    story.passes(8 * S)
    notice.waits()
    first.ends()
    notice.is_told(within_ns=3 * S)
    # "the same SetFlow, made at once, is granted"
    second.asks(wanted).is_granted()
    assert second.contract_bps == wanted


# "Available [...] the flow could be raised to that rate": the others may be on other hosts.
def test_available_is_told_when_others_stop() -> None:
    story = tracked()
    others = story.path.others(15 * MBIT)
    # Experiments that nobody waits for see it with the next train or the one after.
    story.passes(8 * S)
    flow = story.flow()
    flow.asks(12 * MBIT).is_refused(BUSY)
    notice = flow.wants_to_hear_when(12 * MBIT).waits()
    story.passes(5 * S)
    notice.waits()
    others.stop()
    notice.is_told(within_ns=8 * S)
    flow.asks(12 * MBIT).is_granted()


# "query the available bandwidth": where the flow itself sends, what it could have more.
def test_what_a_flow_sends_is_not_held_against_it() -> None:
    story = tracked()
    flow = story.flow()
    flow.asks(12 * MBIT).is_granted()
    flow.sends(12 * MBIT)
    story.passes(8 * S)
    assert flow.free_bps == pytest.approx(8 * MBIT, abs=2 * MBIT)
    assert story.path.status(flow).own_bps == pytest.approx(12 * MBIT, rel=0.05)
    flow.asks(17 * MBIT).is_granted()


# The same for TCP, whose bytes are counted for each socket.
def test_what_a_tcp_flow_sends_is_not_held_against_it() -> None:
    story = tracked()
    flow = story.flow(transport=Transport.TCP)
    flow.asks(12 * MBIT).is_granted()
    flow.sends(12 * MBIT)
    story.passes(8 * S)
    assert story.path.status(flow).own_bps == pytest.approx(12 * MBIT, rel=0.05)
    assert flow.free_bps == pytest.approx(8 * MBIT, abs=2 * MBIT)


# "reservations that are admitted but not yet in use count as used": so does one that is not in use
# any more, at every moment. The bounds are what others' packets, of the probes, are taken for.
@pytest.mark.parametrize(
    ("transport", "most"), [(Transport.TCP, 9 * MBIT), (Transport.UDP, 11 * MBIT)]
)
def test_what_a_flow_that_pauses_holds_is_never_sold(transport: Transport, most: int) -> None:
    story = tracked()
    flow, other = story.flow(transport=transport), story.flow(transport=transport)
    flow.asks(12 * MBIT).is_granted()
    flow.sends(12 * MBIT)
    story.passes(6 * S)
    flow.stops()
    for _ in range(25):
        story.passes(200 * MS)
        assert other.free_bps < most
    assert other.free_bps == pytest.approx(8 * MBIT, abs=MBIT)


# -- congestion -----------------------------------------------------------------------


# "Congested: the path is, or becomes, congested"; "Congested and uncongested come from
# measurements: rising one-way delay, loss on probes [...] The state has a reason".
@pytest.mark.parametrize("seed", [1, 2])
def test_congestion_and_relief_are_told_within_half_a_second(seed: int) -> None:
    story = tracked(link(R, 0.2), seed=seed)
    flow = story.flow()
    flow.asks(5 * MBIT).is_granted()
    flow.sends(5 * MBIT)
    story.passes(3 * S)
    notice = flow.wants_to_hear_of_congestion().waits()
    story.passes(5 * S)
    notice.waits()
    others = story.path.others(14 * MBIT)
    notice.is_told(within_ns=500 * MS)
    found = story.path.status(flow).congestion
    assert found.is_congested
    assert found.reason is not None
    # It stays so while the queue is full, and nothing grows meanwhile.
    relief = flow.wants_to_hear_of_relief().waits()
    story.passes(6 * S)
    relief.waits()
    flow.asks(6 * MBIT).is_refused(BUSY)
    assert flow.contract_bps == 5 * MBIT
    others.stop()
    # The full queue has to drain first: 50 ms of others at 20 Mbit/s, with 9 Mbit/s still coming.
    relief.is_told(within_ns=500 * MS)
    assert story.path.status(flow).congestion.is_congested is False
    # And what is free is measured at once, with numbers from after it.
    flow.wants_to_hear_when(12 * MBIT).waits().is_told(within_ns=2 * S)
    flow.asks(12 * MBIT).is_granted()


# "An Available notification promises that the same SetFlow, made at once, is granted": so it is not
# told by numbers from before the congestion.
def test_after_a_congestion_only_new_numbers_count() -> None:
    story = tracked(link(R, 0.1))
    flow = story.flow()
    flow.asks(4 * MBIT).is_granted()
    others = story.path.others(22 * MBIT)
    story.passes(4 * S)
    notice = flow.wants_to_hear_when(8 * MBIT).waits()
    others.stop()
    story.path.others(12 * MBIT)
    story.passes(12 * S)
    # 10 % and 12 Mbit/s of others leave 6 beside what the flow may still begin to send.
    notice.waits()
    assert flow.free_bps == pytest.approx(2 * MBIT, abs=2 * MBIT)


UNSTEADY = {
    "set forward": Hosts(step_at_ns=8 * S, step_ns=2 * S),
    "set back": Hosts(step_at_ns=8 * S, step_ns=-2 * S),
    "drifting": Hosts(drift_ppm=500.0),
    "late": Hosts(lateness_ns=200_000, stall=0.05, stall_ns=3 * MS),
    "held up": Hosts(held_up=0.1),
}


# "Notifications have hysteresis: a path that hovers at the threshold must not make them alternate
# at every sample."; and clocks are no congestion.
@pytest.mark.parametrize("name", UNSTEADY)
def test_no_clock_makes_a_false_notice(name: str) -> None:
    story = Story(link(R, 0.3), hosts=UNSTEADY[name])
    flow = story.flow()
    flow.asks(4 * MBIT).is_granted(within_ns=2 * S)
    flow.sends(4 * MBIT)
    notice = flow.wants_to_hear_of_congestion().waits()
    higher = flow.wants_to_hear_when(18 * MBIT).waits()
    story.passes(20 * S)
    notice.waits()
    higher.waits()


PATHS = {
    "jittery": replace(link(R, 0.3), jitter_ns=8 * MS),
    "lossy": replace(link(R, 0.3), loss=0.01),
    "in clumps": replace(link(R, 0.3), coalesce_ns=5 * MS),
    "a token bucket": replace(link(0, 0.0), bucket=TokenBucket(R, 60_000)),
}


# The same for what paths do.
@pytest.mark.parametrize("name", PATHS)
def test_no_unsteady_path_makes_a_false_notice(name: str) -> None:
    story = Story(PATHS[name])
    flow = story.flow()
    story.passes(2 * S)
    flow.sends(2 * MBIT)
    notice = flow.wants_to_hear_of_congestion().waits()
    story.passes(20 * S)
    notice.waits()


# -- what it costs --------------------------------------------------------------------


# "Experiments never take more than a small share of the path ([...] default at most 1 % of the
# capacity and at most 1 Mbit/s on average, bursts at most 100 kB [decision])"
def test_five_minutes_cost_a_hundredth() -> None:
    rate_bps = 2 * MBIT
    story = Story(link(rate_bps))
    flow = story.flow()
    flow.asks(MBIT).is_granted(within_ns=2 * S)
    for _ in range(10):
        story.passes(30 * S)
        # Whoever asks afresh does not open the budget.
        flow.queries(fresh=True, is_overlapped=True)
    assert 100_000 < story.path.probe_bytes <= rate_bps // 100 * 300 // 8


# "slow down when nobody needs them, and stop when nobody tracks the path"; "stay warm for a limited
# time [decision: 120 s]".
def test_nothing_is_sent_when_nobody_has_wanted_it_for_two_minutes() -> None:
    story = tracked()
    story.program.stops_tracking(story.path).is_granted()
    began = story.path.probe_bytes
    story.passes(119 * S)
    assert story.path.runs()
    assert not story.path.is_alert()
    # Twenty small probes a second at most, and a train each five seconds.
    assert 10_000 < story.path.probe_bytes - began < 600_000
    story.passes(2 * S)
    assert not story.path.runs()
    sent = story.path.probe_bytes
    story.passes(120 * S)
    assert story.path.probe_bytes == sent
    # And no connection is left.
    assert story.world.sink.counts.open_sessions == 0


# "Paths to the same destination are measured once, however many flows or processes use them."
def test_many_flows_cost_no_more_than_one() -> None:
    costs = []
    for count in (1, 10):
        story = Story(link(R))
        for _ in range(count):
            story.another_program().flow().asks(100_000).is_granted(within_ns=2 * S)
        story.passes(5 * S)
        assert story.path.counts_of(StartExperiments) == 1
        costs.append(story.path.probe_bytes)
    assert costs[1] < 1.1 * costs[0]


# -- fresh ----------------------------------------------------------------------------


# By contract: "QOS_QUERYFLOW_FRESH (fundamentals only [...]): only data measured after the call"
@pytest.mark.parametrize("changes", [False, True])
def test_fresh_is_what_was_measured_after_the_call(changes: bool) -> None:
    story = tracked()
    flow = story.flow()
    story.passes(5 * S)
    if changes:
        story.path.others(10 * MBIT)
    flow.queries(fresh=True).is_granted(within_ns=2 * S)
    free_bps = R - 10 * MBIT * changes
    assert flow.free_bps == pytest.approx(free_bps, abs=2 * MBIT)
    assert story.path.counts_of(MeasureAfresh) == 1


# -- sinks that go --------------------------------------------------------------------


# "the sink's connection broke: ERROR_UNEXP_NET_ERR": and what was known stays known for its age.
def test_a_sink_that_ends_and_comes_back() -> None:
    story = tracked()
    flow = story.flow()
    flow.asks(5 * MBIT).is_granted()
    notice = flow.wants_to_hear_of_congestion().waits()
    story.world.sink_ends()
    story.passes(S)
    assert flow.contract_bps == 5 * MBIT
    flow.asks(6 * MBIT).is_refused(ErrorCode.ERROR_UNEXP_NET_ERR)
    flow.asks(4 * MBIT).is_granted()
    assert flow.sees().bottleneck_bps == pytest.approx(R, rel=0.05)
    notice.waits()
    story.passes(4 * S)
    story.world.sink_begins()
    story.passes(9 * S)
    flow.asks(6 * MBIT).is_granted()
    assert story.path.status(flow).obstacle == ""


# "Host gone: ERROR_HOST_UNREACHABLE": nobody says so, it is silent.
def test_a_host_that_goes_dark() -> None:
    story = tracked()
    flow = story.flow()
    flow.asks(5 * MBIT).is_granted()
    story.world.sink_ends(FarEnd.IS_DARK)
    story.passes(15 * S)
    code = ErrorCode.ERROR_HOST_UNREACHABLE
    flow.asks(6 * MBIT).is_refused(code)
    assert flow.contract_bps == 5 * MBIT
    story.world.sink_begins()
    story.passes(20 * S)
    flow.asks(6 * MBIT).is_granted()


# "Cached data has an age limit set by policy; older is as if unknown."
def test_what_was_known_of_a_host_that_is_gone_is_forgotten() -> None:
    story = tracked()
    flow = story.flow()
    story.world.sink_ends(FarEnd.IS_DARK)
    story.passes(10 * S)
    flow.sees()
    story.passes(40 * S)
    flow.queries().is_refused(ErrorCode.ERROR_TIMEOUT)


# -- another way ----------------------------------------------------------------------


# "path: (outgoing interface, local address, destination address, family)": another interface is
# another path, and is measured anew.
def test_another_interface_is_measured_anew() -> None:
    story = tracked()
    flow = story.flow()
    flow.asks(12 * MBIT).is_granted()
    story.passes(2 * S)
    story.world.change(path(link(5 * MBIT)))
    story.path.is_reached_by(2)
    assert story.path.counts_of(StopExperiments) == 1
    assert story.path.counts_of(StartExperiments) == 2
    # Nothing that was known is of this path.
    flow.queries().is_refused(ErrorCode.ERROR_NO_DATA)
    assert flow.contract_bps == 12 * MBIT
    story.passes(2 * S)
    assert flow.sees().bottleneck_bps == pytest.approx(5 * MBIT, rel=0.1)
    flow.asks(13 * MBIT).is_refused(BUSY)


# "After [...] the machine slept [...] the first call on an old handle answers
# ERROR_DEVICE_REINITIALIZATION_NEEDED"
def test_after_sleep_a_new_handle_measures_anew() -> None:
    story = tracked()
    flow = story.flow()
    notice = flow.wants_to_hear_of_congestion().waits()
    story.sleeps()
    notice.is_aborted()
    flow.asks(MBIT).is_refused(ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED)
    sent = story.path.probe_bytes
    story.passes(10 * S)
    assert story.path.probe_bytes == sent
    again = story.another_program().flow()
    again.asks(12 * MBIT).is_granted(within_ns=2 * S)

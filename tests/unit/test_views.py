"""What can be seen of all flows and paths: pages, words, and that looking changes nothing."""

from __future__ import annotations

import pytest

from openqwave.admission.policy import Limits, Policy
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.estimates import (
    Congestion,
    CongestionReason,
    FlowCounters,
    Unmeasurable,
)
from openqwave.model.flow import Contract, Shaping, TrafficType, Transport
from openqwave.model.path import LinkType, PathFacts
from openqwave.subsystem import requests as rq
from openqwave.subsystem.flows import Marking
from openqwave.subsystem.usage import STALE_NS, LinkLoad
from openqwave.subsystem.views import (
    DESTINATIONS_NAMED,
    SOCKETS_NAMED,
    SOCKETS_OF_A_PAGE,
    FlowView,
    PathOverview,
    PathState,
)
from tests.unit.driven import (
    NO_MECHANISM,
    OWNER,
    ROOT,
    STRANGER,
    A,
    B,
    C,
    Driven,
    add,
    endpoint,
    facts,
    query,
    rate,
    view,
)

MBIT, S = 1_000_000, 1_000_000_000
WAY = PathFacts(A.host(), 1, "eth0", b"", b"", 1500, LinkType.WIRED)


class Seen(Driven):
    """An engine that is looked at."""

    def page(
        self, after: int = 0, limit: int = 50, owners: set[int] | None = None
    ) -> tuple[list[int], bool]:
        found, more = self.engine.flow_views(after, limit, now_ns=self.now_ns, owners=owners)
        return [flow.flow_id for flow in found], more

    def all_pages(self, limit: int, owners: set[int] | None = None) -> list[int]:
        found: list[int] = []
        more = True
        while more:
            page, more = self.page(found[-1] if found else 0, limit, owners)
            assert page or not more
            found += page
        return found

    def flow_view(self, flow_id: int) -> FlowView:
        (found,), _ = self.engine.flow_views(flow_id - 1, 1, now_ns=self.now_ns)
        assert found.flow_id == flow_id
        return found

    def path_view(self) -> PathOverview:
        (found,), more = self.engine.path_views(0, 9, now_ns=self.now_ns)
        assert not more
        return found

    def adaptive(self, handle: int, cookie: int = 1, *, transport: Transport) -> int:
        socket = facts(cookie, transport=transport)
        request = rq.AddSocket(0, socket, A, TrafficType.VOICE, True, None, WAY)
        flow_id = self.grant(handle, request)
        assert isinstance(flow_id, int)
        return flow_id


# -- pages ----------------------------------------------------------------------------


def test_without_flows_there_is_an_empty_page() -> None:
    seen = Seen()
    assert seen.page() == ([], False)
    seen.open()
    assert seen.page() == ([], False)
    assert seen.engine.path_views(0, 5, now_ns=0) == ((), False)


def test_pages_follow_the_ids_whoever_owns_the_flows() -> None:
    seen = Seen()
    handles = [seen.open(OWNER), seen.open(STRANGER), seen.open(OWNER)]
    made = [seen.flow(handles[n % 3], n + 1, A) for n in range(10)]
    assert seen.page(0, 4) == (made[:4], True)
    assert seen.page(made[3], 4) == (made[4:8], True)
    assert seen.page(made[7], 4) == (made[8:], False)
    assert seen.page(made[5], 4) == (made[6:], False)
    assert seen.page(made[-1]) == ([], False)
    for limit in (1, 3, 10, 11):
        assert seen.all_pages(limit) == made


def test_a_page_can_be_of_some_processes_only() -> None:
    seen = Seen()
    mine, other, again = seen.open(OWNER), seen.open(STRANGER), seen.open(OWNER)
    made = [seen.flow(handle, n + 1, A) for n, handle in enumerate([mine, other, again, other])]
    assert seen.all_pages(1, {OWNER}) == [made[0], made[2]]
    assert seen.all_pages(1, {STRANGER}) == [made[1], made[3]]
    assert seen.all_pages(1, {OWNER, STRANGER, 999}) == made
    assert seen.page(owners={999}) == ([], False)
    assert seen.page(owners=set()) == ([], False)


def test_flows_that_ended_are_not_seen_and_not_kept() -> None:
    seen = Seen(Policy(limits=Limits(flows=10_000)))
    handle = seen.open()
    made = [seen.flow(handle, n + 1, A) for n in range(2_000)]
    for flow_id in made[:-2]:
        seen.grant(handle, rq.RemoveSocket(flow_id, None))
    assert seen.page() == (made[-2:], False)
    held = seen.engine._registry.holdings_of(OWNER)  # noqa: SLF001 - what is kept is the point
    assert len(held.flow_ids) < 100
    for flow_id in made[-2:]:
        seen.grant(handle, rq.RemoveSocket(flow_id, None))
    assert seen.page() == ([], False)
    seen.grant(handle, rq.CloseHandle())
    assert seen.engine.entry_count == 0


def test_ids_that_began_anew_are_seen_in_order() -> None:
    last = (1 << 32) - 2
    seen = Seen(first_flow_id=last - 1)
    handle, other = seen.open(OWNER), seen.open(STRANGER)
    made = [seen.flow(handle, n + 1, A) for n in range(4)]
    assert made == [last - 1, last, 1, 2]
    assert seen.all_pages(1) == [1, 2, last - 1, last]
    # An id that one process had is another's later.
    seen.grant(handle, rq.RemoveSocket(1, None))
    seen.engine._registry._next_flow_id = 1  # noqa: SLF001 - four thousand million flows later
    assert seen.flow(other, 9, A) == 1
    assert seen.all_pages(1) == [1, 2, last - 1, last]
    assert seen.all_pages(9, {OWNER}) == [2, last - 1, last]
    assert seen.all_pages(9, {STRANGER}) == [1]


def test_what_was_undone_is_seen_as_before() -> None:
    seen = Seen()
    handle = seen.open()
    made = [seen.flow(handle, n + 1, A) for n in range(3)]
    # The newer flow takes over the pair of the first one, which ends; and all that is undone.
    seen.mechanism.refusals = [NO_MECHANISM]
    assert seen.refusal(handle, add(0, facts(1), A)) is ErrorCode.ERROR_NOT_SUPPORTED
    assert seen.all_pages(1) == made
    seen.mechanism.refusals = [NO_MECHANISM]
    assert seen.refusal(handle, add(0, facts(9), A)) is ErrorCode.ERROR_NOT_SUPPORTED
    assert seen.all_pages(1) == made
    assert seen.engine.flow_count == 3


def test_an_interrupted_close_leaves_flows_to_be_seen() -> None:
    seen = Seen()
    handle = seen.open()
    made = [seen.flow(handle, n + 1, A) for n in range(3)]
    seen.engine.receive_request(99, handle, rq.CloseHandle(), now_ns=seen.now_ns)
    seen.engine.abandon()
    assert seen.all_pages(2) == made
    seen.grant(handle, rq.CloseHandle())
    assert seen.page() == ([], False)


def test_a_page_is_short_where_flows_have_very_many_sockets() -> None:
    seen = Seen()
    handle = seen.open()
    made = [seen.flow(handle, 1, A), seen.flow(handle, 2, A), seen.flow(handle, 3, A)]
    for cookie in range(10, 10 + SOCKETS_OF_A_PAGE):
        seen.join(handle, made[0], cookie)
    assert seen.page() == (made[:1], True)
    assert seen.page(made[0]) == (made[1:], False)


def test_looking_changes_nothing() -> None:
    seen = Seen()
    handle = seen.open()
    flow_id = seen.adaptive(handle, transport=Transport.TCP)
    seen.see(A, view(bottleneck_bps=20 * MBIT, available_bps=20 * MBIT))
    seen.engine.flow_views(0, 9, now_ns=seen.now_ns)
    seen.engine.path_views(0, 9, now_ns=seen.now_ns)
    # A quote would be honoured after the path filled up; a look gives none.
    seen.see(A, view(bottleneck_bps=20 * MBIT, available_bps=0))
    assert seen.refusal(handle, rate(flow_id, 10 * MBIT)) is ErrorCode.ERROR_NETWORK_BUSY


# -- flows ----------------------------------------------------------------------------


def test_a_flow_as_it_is() -> None:
    seen = Seen()
    handle = seen.open()
    flow_id = seen.flow(handle, 1, A, TrafficType.AUDIO_VIDEO)
    seen.grant(handle, add(flow_id, facts(2, transport=Transport.TCP), B))
    seen.grant(handle, add(flow_id, facts(1), C))
    found = seen.flow_view(flow_id)
    assert (found.owner, found.handle_id, found.is_adaptive) == (OWNER, handle, False)
    assert found.settings.traffic_type is TrafficType.AUDIO_VIDEO
    assert found.settings.marking is Marking.BY_TYPE
    assert found.settings.contract is None
    assert found.treatment == seen.treatment(1)
    assert [(one.cookie, one.transport, one.destinations) for one in found.sockets] == [
        (1, Transport.UDP, (A, C)),
        (2, Transport.TCP, (B,)),
    ]
    assert (found.socket_count, found.destination_count) == (2, 3)
    assert (found.host, found.path, found.sending_bps) == (None, PathState.NONE, None)


def test_marks_are_what_a_query_says() -> None:
    seen = Seen()
    handle = seen.open()
    flow_id = seen.flow(handle, 1, A, TrafficType.VOICE)
    for change in (
        rq.SetDscp(flow_id, 46, ROOT),
        rate(flow_id, 5 * MBIT),
        rate(flow_id, 0),
        rq.SetTrafficType(flow_id, TrafficType.BEST_EFFORT),
        rq.SetTrafficType(flow_id, TrafficType.CONTROL),
    ):
        seen.grant(handle, change)
        found = seen.flow_view(flow_id)
        assert found.marks == seen.grant(handle, query(flow_id, rq.Question.PACKET_PRIORITY))
        assert found.treatment == seen.treatment(1)


def test_a_contract_is_seen() -> None:
    seen = Seen()
    handle = seen.open()
    flow_id = seen.flow(handle)
    seen.grant(handle, rate(flow_id, 5 * MBIT, Shaping.SHAPE_ONLY))
    assert seen.flow_view(flow_id).settings.contract == Contract(5 * MBIT, Shaping.SHAPE_ONLY)
    assert seen.flow_view(flow_id).marks.conformant_dscp == 0


def test_of_many_sockets_and_destinations_a_few_are_named_and_all_are_counted() -> None:
    seen = Seen()
    handle = seen.open()
    flow_id = seen.flow(handle, 1, A)
    for port in range(40):
        seen.join(handle, flow_id, 1, endpoint("192.0.2.9", 1 + port))
    for cookie in range(2, 32):
        seen.join(handle, flow_id, cookie)
    found = seen.flow_view(flow_id)
    assert (found.socket_count, found.destination_count) == (31, 71)
    assert [one.cookie for one in found.sockets] == list(range(1, 1 + SOCKETS_NAMED))
    assert [len(one.destinations) for one in found.sockets] == [DESTINATIONS_NAMED] + [0] * 15
    assert found.sockets[0].destinations[0] == A


@pytest.mark.parametrize(
    ("transports", "count", "expected"),
    [
        ([Transport.TCP], 1, (1,)),
        ([Transport.TCP, Transport.TCP], 2, (1, 2)),
        ([Transport.TCP, Transport.UDP], 2, ()),
        ([Transport.UDP], 1, ()),
        ([Transport.TCP] * SOCKETS_NAMED, SOCKETS_NAMED, tuple(range(1, 1 + SOCKETS_NAMED))),
        ([Transport.TCP] * SOCKETS_NAMED, SOCKETS_NAMED + 1, ()),
    ],
)
def test_streams_are_all_sockets_or_none(
    transports: list[Transport], count: int, expected: tuple[int, ...]
) -> None:
    seen = Seen()
    handle = seen.open()
    kinds = (transports + [Transport.TCP] * count)[:count]
    flow_id = 0
    for number, kind in enumerate(kinds):
        flow_id = seen.grant(  # type: ignore[assignment]  # the value of an addition is an id
            handle, add(flow_id, facts(number + 1, transport=kind), A)
        )
    assert seen.flow_view(flow_id).streams == expected


# -- what flows send ------------------------------------------------------------------


def test_what_a_stream_on_a_measured_path_sends_is_known_for_a_while() -> None:
    seen = Seen()
    handle = seen.open()
    tcp = seen.adaptive(handle, 1, transport=Transport.TCP)
    udp = seen.adaptive(handle, 2, transport=Transport.UDP)
    seen.see(A, view(available_bps=20 * MBIT))

    def count(sent_bytes: int) -> None:
        counters = {1: FlowCounters(sent_bytes=sent_bytes), 2: FlowCounters()}
        loads = {1: LinkLoad(0)}
        seen.carry_out(seen.engine.receive_counters(counters, loads, now_ns=seen.now_ns))

    count(1_000)
    assert seen.flow_view(tcp).sending_bps is None
    seen.now_ns += S // 5
    count(1_000 + 200_000)
    assert seen.flow_view(tcp).sending_bps == 8 * MBIT
    assert seen.flow_view(udp).sending_bps is None
    # A mean of what was counted, which soon forgets.
    seen.now_ns += S // 5
    count(1_000 + 200_000)
    assert 2 * MBIT < (seen.flow_view(tcp).sending_bps or 0) < 5 * MBIT
    seen.now_ns += S
    count(1_000 + 200_000 + 125_000)
    assert seen.flow_view(tcp).sending_bps == MBIT
    seen.now_ns += STALE_NS
    assert seen.flow_view(tcp).sending_bps == MBIT
    seen.now_ns += 1
    assert seen.flow_view(tcp).sending_bps is None


def test_a_count_that_began_anew_is_no_rate() -> None:
    seen = Seen()
    flow_id = seen.adaptive(seen.open(), 1, transport=Transport.TCP)
    seen.see(A, view(available_bps=20 * MBIT))
    for sent_bytes in (0, 50_000, 10):
        counters = {1: FlowCounters(sent_bytes=sent_bytes)}
        seen.now_ns += S // 5
        seen.carry_out(seen.engine.receive_counters(counters, {}, now_ns=seen.now_ns))
    assert seen.flow_view(flow_id).sending_bps is None


# -- paths ----------------------------------------------------------------------------


def test_states_of_a_path_in_words() -> None:
    seen = Seen()
    handle = seen.open()
    flow_id = seen.adaptive(handle, transport=Transport.UDP)

    def states() -> set[PathState]:
        return {seen.flow_view(flow_id).path, seen.path_view().state}

    assert states() == {PathState.BEGINNING}
    seen.see(A, view(available_bps=20 * MBIT))
    assert states() == {PathState.MEASURED}
    congested = Congestion(True, CongestionReason.DELAY)
    seen.carry_out(seen.engine.receive_congestion(A, congested, now_ns=seen.now_ns))
    assert states() == {PathState.CONGESTED}
    lost = Refusal(ErrorCode.ERROR_UNEXP_NET_ERR, "broke off")
    seen.carry_out(seen.engine.receive_experiments_ended(A, lost, now_ns=seen.now_ns))
    assert states() == {PathState.TROUBLED}
    away = Unmeasurable("beyond a router")
    seen.carry_out(seen.engine.receive_path(A, away, now_ns=seen.now_ns))
    assert states() == {PathState.UNMEASURABLE}
    seen.carry_out(seen.engine.receive_path(A, WAY, now_ns=seen.now_ns))
    assert states() == {PathState.BEGINNING}
    seen.see(A, view(available_bps=20 * MBIT))
    # What is too old is as if unknown.
    seen.now_ns += 31 * S
    assert states() == {PathState.BEGINNING}


def test_a_flow_whose_own_packets_are_lost_is_congested_and_its_path_is_not() -> None:
    seen = Seen()
    flow_id = seen.adaptive(seen.open(), transport=Transport.TCP)
    seen.see(A, view(available_bps=20 * MBIT))
    for step in range(40):
        counted = FlowCounters(
            sent_bytes=step * 100_000, delivered_packets=step * 100, lost_packets=step * 30
        )
        seen.now_ns += S // 5
        seen.carry_out(seen.engine.receive_counters({1: counted}, {}, now_ns=seen.now_ns))
    assert seen.flow_view(flow_id).path is PathState.CONGESTED
    assert seen.path_view().state is PathState.MEASURED
    assert seen.flow_view(flow_id).host == A.host()


def test_a_path_as_it_is() -> None:
    seen = Seen()
    handle, other = seen.open(), seen.open(STRANGER)
    flow_id = seen.adaptive(handle, 1, transport=Transport.UDP)
    seen.adaptive(other, 2, transport=Transport.UDP)
    seen.grant(other, rq.StartTracking(A.host(), None, WAY))
    seen.see(A, view(bottleneck_bps=20 * MBIT, available_bps=15 * MBIT, rtt_ns=3_000_000))
    seen.grant(handle, rate(flow_id, 4 * MBIT))
    seen.now_ns += 2 * S
    found = seen.path_view()
    assert (found.flow_count, found.tracker_count) == (2, 1)
    status = found.status
    assert status.host == A.host()
    assert status.facts == WAY
    assert status.fundamentals.available_bps == 15 * MBIT
    assert (status.age_ns, status.held_bps, status.obstacle) == (2 * S, 4 * MBIT, "")
    # The same as the flow's owner is told.
    assert status == seen.grant(handle, query(flow_id, rq.Question.PATH))


def test_paths_come_in_pages() -> None:
    seen = Seen()
    handle = seen.open()
    hosts = [endpoint(f"192.0.2.{n}", 0) for n in range(1, 6)]
    for number, host in enumerate(hosts):
        seen.flow(handle, number + 1, endpoint(str(host.address)), is_adaptive=True)
    assert seen.engine.path_count == 5

    def page(after: int, limit: int) -> tuple[list[int], bool]:
        found, more = seen.engine.path_views(after, limit, now_ns=seen.now_ns)
        return [hosts.index(one.status.host) for one in found], more

    assert page(0, 2) == ([0, 1], True)
    assert page(2, 2) == ([2, 3], True)
    assert page(4, 2) == ([4], False)
    assert page(5, 2) == ([], False)
    assert page(3, 2) == ([3, 4], False)
    assert page(99, 2) == ([], False)

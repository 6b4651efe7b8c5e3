"""What flows under contract send, from what the kernel counts: shares, meters, first hops."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from openqwave.admission.ledger import Ledger
from openqwave.admission.policy import Policy
from openqwave.model.endpoint import Endpoint
from openqwave.model.estimates import FlowCounters, Unmeasurable
from openqwave.model.flow import Contract, RateReason, Shaping, TrafficType, Transport
from openqwave.model.path import FirstHop, LinkType, PathFacts
from openqwave.model.sockets import SocketFacts
from openqwave.model.traffic import FlowTraffic
from openqwave.subsystem.flows import Flow, Marking, plain_settings
from openqwave.subsystem.path import Path
from openqwave.subsystem.paths import Paths
from openqwave.subsystem.pending import PendingRequests
from openqwave.subsystem.quotas import Quotas
from openqwave.subsystem.registry import Registry
from openqwave.subsystem.timers import Timers
from openqwave.subsystem.usage import LEAST_NS, LONGEST_NS, LinkLoad, Usage
from tests.unit.driven import OWNER, A, B, C, view

MBIT, MS, S = 1_000_000, 1_000_000, 1_000_000_000
# As often as a driver reads counters.
READING_NS = 200 * MS
HERE, THERE = 1, 2


def way(host: Endpoint, interface: int = HERE, gateway: bytes = b"") -> PathFacts:
    return PathFacts(host.host(), interface, "eth", b"", gateway, 1500, LinkType.WIRED)


class Counted:
    """Flows on paths; what each sends is counted five times a second.

    Attributes:
        sends: The rate of each flow of TCP now, by its cookie.
        leaves: What leaves each interface now, flows included.
        speeds: What an interface can carry, where that is known.
        lost: What each flow of TCP has lost.
        passing: What the kernel's program counts of each flow of UDP now, by its id.
        told: The paths of flows whose own verdict has changed.
    """

    def __init__(self) -> None:
        policy = Policy()
        self.now_ns = 10**12
        self.registry = Registry(policy, 1)
        self.ledger = Ledger()
        pending, timers = PendingRequests(), Timers()
        quotas = Quotas(self.registry, self.ledger, policy.limits)
        self.paths = Paths(self.registry, pending, self.ledger, quotas, timers, policy.experiments)
        self.usage = Usage(self.registry, self.paths, self.ledger)
        self._handle = self.registry.open_handle(OWNER)
        self.sends: dict[int, int] = {}
        self.leaves: dict[int, int] = {}
        self.speeds: dict[int, int] = {}
        self.lost: dict[int, int] = {}
        self.passing: dict[int, int] = {}
        self._passed: dict[int, int] = {}
        self.told: list[Path] = []
        self._udp: set[int] = set()
        self._sent: dict[int, int] = {}
        self._left: dict[int, int] = {}
        self._cookies = 0

    def path(self, host: Endpoint, interface: int = HERE, gateway: bytes = b"") -> Path:
        """A path that is measured."""
        self.paths.locate(host, way(host, interface, gateway))
        return self.paths.see(host, view(available_bps=100 * MBIT), now_ns=self.now_ns)

    def flow(self, path: Path, held_bps: int = 0, *, is_udp: bool = False) -> Flow:
        settings = plain_settings(TrafficType.VOICE, Marking.UNADMITTED)
        flow = self.registry.new_flow(self._handle, settings, is_adaptive=True)
        self._cookies += 1
        transport = Transport.UDP if is_udp else Transport.TCP
        facts = SocketFacts(self._cookies, transport, path.host.version, path.host)
        self.registry.put(flow, facts, path.host)
        if held_bps:
            contract = Contract(held_bps, Shaping.SHAPE_AND_MARK, RateReason.NOT_APPLICABLE)
            self.registry.change(flow, settings.with_contract(contract))
            self.ledger.hold(flow.flow_id, path.links, held_bps)
        if is_udp:
            self._udp.add(self._cookies)
        return flow

    def cookie(self, flow: Flow) -> int:
        return next(iter(flow.sockets))

    def end(self, flow: Flow) -> None:
        self.ledger.release(flow.flow_id)
        self.registry.end_flow(flow)
        self.usage.forget_flow(flow)

    def counters(self) -> Mapping[int, FlowCounters]:
        found: dict[int, FlowCounters] = {}
        for cookie in self.usage.sockets():
            if cookie in self._udp:
                found[cookie] = FlowCounters()
                continue
            sent = self._sent.setdefault(cookie, 0)
            found[cookie] = FlowCounters(
                sent, sent // 1500, lost_packets=self.lost.get(cookie, 0), rtt_ns=MS
            )
        return found

    def take(self) -> None:
        loads = {
            interface: LinkLoad(self._left.setdefault(interface, 0), self.speeds.get(interface, 0))
            for interface in self.leaves
        }
        traffic = {
            # What is above a contract has left, too.
            flow_id: FlowTraffic(bytes=sent - sent // 3, excess_bytes=sent // 3)
            for flow_id in self.usage.datagram_flows()
            if (sent := self._passed.setdefault(flow_id, 0)) or flow_id in self.passing
        }
        changed = self.usage.take(self.counters(), loads, traffic, now_ns=self.now_ns)
        self.told += changed

    def passes(self, elapsed_ns: int, *, every_ns: int = READING_NS) -> None:
        """Let time pass, counting at its beginning, on its way and at its end."""
        end_ns = self.now_ns + elapsed_ns
        self.take()
        while self.now_ns < end_ns:
            self.now_ns += every_ns
            for count, rates in (
                (self._sent, self.sends),
                (self._left, self.leaves),
                (self._passed, self.passing),
            ):
                for key, rate_bps in rates.items():
                    count[key] = count.get(key, 0) + rate_bps * every_ns // (8 * S)
            self.take()

    def wraps(self, flow: Flow) -> None:
        """Another count begins under the same name."""
        self._sent[self.cookie(flow)] = 0


def about(rate_bps: float) -> object:
    return pytest.approx(rate_bps, rel=0.02, abs=2_000)


# -- TCP: counted for each socket -----------------------------------------------------


@pytest.mark.parametrize(
    ("held", "sent", "own"), [(8, 0, 0), (8, 3, 3), (8, 8, 8), (8, 20, 8), (0, 20, 0)]
)
def test_a_stream_uses_its_contract_and_not_more(held: int, sent: int, own: int) -> None:
    counted = Counted()
    path = counted.path(A)
    flow = counted.flow(path, held * MBIT)
    counted.sends = {counted.cookie(flow): sent * MBIT}
    counted.passes(8 * S)
    assert path.own_bps == about(own * MBIT)


def test_streams_of_a_path_add_up_and_others_do_not() -> None:
    counted = Counted()
    near, far = counted.path(A), counted.path(B)
    flows = [
        counted.flow(near, 4 * MBIT),
        counted.flow(near, 6 * MBIT),
        counted.flow(far, 9 * MBIT),
    ]
    counted.sends = dict(zip(map(counted.cookie, flows), (MBIT, 7 * MBIT, 2 * MBIT), strict=True))
    counted.passes(8 * S)
    # One cannot use the contract of another.
    assert near.own_bps == about(7 * MBIT)
    assert far.own_bps == about(2 * MBIT)


def test_what_stopped_is_not_used_any_more() -> None:
    counted = Counted()
    path = counted.path(A)
    flow = counted.flow(path, 8 * MBIT)
    counted.sends = {counted.cookie(flow): 8 * MBIT}
    counted.passes(8 * S)
    counted.sends.clear()
    counted.passes(2 * READING_NS)
    assert path.own_bps == about(0)


def test_a_rate_is_a_mean_over_about_a_second() -> None:
    counted = Counted()
    path = counted.path(A)
    flow = counted.flow(path, 8 * MBIT)
    counted.passes(READING_NS)
    counted.sends = {counted.cookie(flow): 8 * MBIT}
    counted.passes(READING_NS)
    assert path.own_bps == about(8 * MBIT / 5)
    counted.passes(800 * MS)
    assert path.own_bps is not None
    assert 5 * MBIT < path.own_bps < 6 * MBIT


def test_nothing_is_known_of_the_time_before_the_first_reading() -> None:
    counted = Counted()
    path = counted.path(A)
    flow = counted.flow(path, 8 * MBIT)
    counted._sent[counted.cookie(flow)] = 10**9  # noqa: SLF001 - the helper's own
    counted.take()
    assert path.own_bps == 0
    counted.passes(8 * S)
    assert path.own_bps == 0


def test_a_count_that_falls_is_of_another_socket() -> None:
    counted = Counted()
    path = counted.path(A)
    flow = counted.flow(path, 8 * MBIT)
    counted.sends = {counted.cookie(flow): 4 * MBIT}
    counted.passes(8 * S)
    counted.wraps(flow)
    counted.now_ns += READING_NS
    counted.take()
    assert path.own_bps == 0
    counted.passes(8 * S)
    assert path.own_bps == about(4 * MBIT)


def test_readings_that_are_too_close_say_nothing() -> None:
    counted = Counted()
    path = counted.path(A)
    flow = counted.flow(path, 8 * MBIT)
    counted.sends = {counted.cookie(flow): 4 * MBIT}
    counted.passes(8 * S)
    counted.now_ns += LEAST_NS - 1
    counted.take()
    assert path.own_bps == about(4 * MBIT)
    # And are made up for by the next: the bytes are not lost.
    counted.passes(400 * MS, every_ns=LEAST_NS // 2)
    assert path.own_bps == pytest.approx(4 * MBIT, rel=0.25)


def test_readings_that_are_too_far_apart_say_nothing() -> None:
    counted = Counted()
    path = counted.path(A)
    flow = counted.flow(path, 8 * MBIT)
    counted.sends = {counted.cookie(flow): 4 * MBIT}
    counted.passes(8 * S)
    counted.passes(LONGEST_NS + 1, every_ns=LONGEST_NS + 1)
    assert path.own_bps == 0
    counted.passes(8 * S)
    assert path.own_bps == about(4 * MBIT)


# -- UDP: what is left of what leaves the interface -------------------------------------


@pytest.mark.parametrize(("left", "first", "second"), [(0, 0, 0), (3, 1, 2), (9, 3, 6), (50, 3, 6)])
def test_datagrams_are_what_is_left_by_contract(left: int, first: int, second: int) -> None:
    counted = Counted()
    near, far = counted.path(A), counted.path(B)
    counted.flow(near, 3 * MBIT, is_udp=True)
    counted.flow(far, 6 * MBIT, is_udp=True)
    counted.leaves = {HERE: left * MBIT}
    counted.passes(8 * S)
    assert near.own_bps == about(first * MBIT)
    assert far.own_bps == about(second * MBIT)


def test_what_streams_send_is_not_taken_for_datagrams() -> None:
    """Not even what they send above their contracts, or without one."""
    counted = Counted()
    path = counted.path(A)
    flows = [counted.flow(path, 4 * MBIT), counted.flow(path)]
    counted.flow(path, 8 * MBIT, is_udp=True)
    counted.sends = {counted.cookie(flows[0]): 6 * MBIT, counted.cookie(flows[1]): 5 * MBIT}
    counted.leaves = {HERE: 14 * MBIT}
    counted.passes(8 * S)
    assert path.own_bps == about((4 + 14 - 6 - 5) * MBIT)


def test_datagrams_without_a_contract_have_no_share() -> None:
    counted = Counted()
    path = counted.path(A)
    counted.flow(path, is_udp=True)
    counted.flow(path, 2 * MBIT, is_udp=True)
    other = counted.path(B, THERE)
    counted.flow(other, is_udp=True)
    counted.leaves = {HERE: 8 * MBIT, THERE: 8 * MBIT}
    counted.passes(8 * S)
    assert path.own_bps == about(2 * MBIT)
    assert other.own_bps == 0


def test_each_interface_is_counted_by_itself() -> None:
    counted = Counted()
    near, far = counted.path(A, HERE), counted.path(B, THERE)
    counted.flow(near, 8 * MBIT, is_udp=True)
    counted.flow(far, 8 * MBIT, is_udp=True)
    stream = counted.flow(far, 8 * MBIT)
    counted.sends = {counted.cookie(stream): 8 * MBIT}
    counted.leaves = {HERE: 5 * MBIT, THERE: 9 * MBIT}
    counted.passes(8 * S)
    assert near.own_bps == about(5 * MBIT)
    assert far.own_bps == about(9 * MBIT)


def test_an_interface_that_nobody_counts_carries_nothing() -> None:
    counted = Counted()
    path = counted.path(A, THERE)
    counted.flow(path, 8 * MBIT, is_udp=True)
    counted.leaves = {HERE: 8 * MBIT}
    counted.passes(8 * S)
    assert path.own_bps == 0


def test_an_interface_that_is_made_anew_counts_anew() -> None:
    counted = Counted()
    path = counted.path(A)
    counted.flow(path, 8 * MBIT, is_udp=True)
    counted.leaves = {HERE: 4 * MBIT}
    counted.passes(8 * S)
    counted._left[HERE] = 0  # noqa: SLF001 - the helper's own
    counted.now_ns += READING_NS
    counted.take()
    assert path.own_bps == 0


# -- UDP: counted for each flow ---------------------------------------------------------


@pytest.mark.parametrize(("held", "sent", "own"), [(8, 0, 0), (8, 3, 3), (8, 20, 8), (0, 20, 0)])
def test_datagrams_that_are_counted_are_not_guessed(held: int, sent: int, own: int) -> None:
    counted = Counted()
    path = counted.path(A)
    flow = counted.flow(path, held * MBIT, is_udp=True)
    counted.passing = {flow.flow_id: sent * MBIT}
    counted.leaves = {HERE: 50 * MBIT}
    counted.passes(8 * S)
    assert path.own_bps == about(own * MBIT)
    assert counted.usage.sending_bps(flow, counted.now_ns) == about(sent * MBIT)


def test_what_is_counted_is_not_taken_for_what_is_not() -> None:
    counted = Counted()
    near, far = counted.path(A), counted.path(B)
    flow = counted.flow(near, 8 * MBIT, is_udp=True)
    counted.flow(far, 8 * MBIT, is_udp=True)
    counted.passing = {flow.flow_id: 3 * MBIT}
    counted.leaves = {HERE: 8 * MBIT}
    counted.passes(8 * S)
    assert near.own_bps == about(3 * MBIT)
    assert far.own_bps == about(5 * MBIT)


def test_only_flows_of_datagrams_are_asked_for() -> None:
    counted = Counted()
    path = counted.path(A)
    counted.flow(path, 8 * MBIT)
    flow = counted.flow(path, 8 * MBIT, is_udp=True)
    assert counted.usage.datagram_flows() == (flow.flow_id,)


# -- first hops -------------------------------------------------------------------------


def test_what_is_free_of_a_first_hop_is_its_speed_less_what_leaves() -> None:
    counted = Counted()
    near, far = counted.path(A), counted.path(B)
    flows = [counted.flow(near, 10 * MBIT), counted.flow(far, 20 * MBIT)]
    counted.speeds = {HERE: 100 * MBIT}
    counted.sends = {counted.cookie(flows[0]): 4 * MBIT}
    counted.leaves = {HERE: 40 * MBIT}
    counted.passes(8 * S)
    # 60 are free; of the contracts 26 are not in use, and may be at any time.
    assert counted.ledger.spare_bps(FirstHop(HERE)) == about((60 - 6 - 20) * MBIT)
    counted.leaves = {HERE: 150 * MBIT}
    counted.passes(8 * S)
    assert counted.ledger.spare_bps(FirstHop(HERE)) == about((0 - 6 - 20) * MBIT)


def test_a_first_hop_of_unknown_speed_limits_nothing() -> None:
    counted = Counted()
    counted.flow(counted.path(A), 10 * MBIT)
    counted.leaves = {HERE: 40 * MBIT}
    counted.passes(8 * S)
    assert not counted.ledger.is_known(FirstHop(HERE))


def test_hops_through_one_interface_share_its_speed() -> None:
    """Each router's share of the flows is its own; the wire to them is one."""
    counted = Counted()
    paths = [counted.path(A), counted.path(B, HERE, b"gate"), counted.path(C, THERE)]
    flows = [counted.flow(path, 10 * MBIT) for path in paths]
    counted.speeds = {HERE: 100 * MBIT, THERE: 50 * MBIT}
    counted.sends = {counted.cookie(flows[1]): 10 * MBIT}
    counted.leaves = {HERE: 30 * MBIT, THERE: 0}
    counted.passes(8 * S)
    assert counted.ledger.spare_bps(FirstHop(HERE)) == about((70 - 10) * MBIT)
    assert counted.ledger.spare_bps(FirstHop(HERE, b"gate")) == about(70 * MBIT)
    assert counted.ledger.spare_bps(FirstHop(THERE)) == about((50 - 10) * MBIT)


# -- whose counters are wanted --------------------------------------------------------


def test_counters_are_wanted_of_measured_paths_only() -> None:
    counted = Counted()
    measured, unknown, hopeless = counted.path(A), counted.path(B), counted.path(C)
    first = counted.flow(measured)
    counted.flow(hopeless)
    counted.flow(unknown)
    unknown.facts = None
    counted.paths.locate(C, Unmeasurable("it is this host"))
    assert counted.usage.sockets() == (counted.cookie(first),)


def test_a_flow_that_was_not_counted_uses_nothing() -> None:
    counted = Counted()
    path = counted.path(A)
    counted.flow(path, 8 * MBIT)
    counted.usage.take({}, {}, now_ns=counted.now_ns)
    assert path.own_bps == 0


def test_a_path_without_flows_is_counted_by_nobody() -> None:
    counted = Counted()
    path = counted.path(A)
    counted.passes(S)
    assert path.own_bps is None


def test_a_flows_own_losses_are_told_when_they_begin_and_end() -> None:
    counted = Counted()
    near, far = counted.path(A), counted.path(B)
    flow, other = counted.flow(near), counted.flow(far)
    counted.sends = dict.fromkeys((counted.cookie(flow), counted.cookie(other)), 10 * MBIT)
    packets = 10 * MBIT // 8 // 5 // 1500

    def goes_on(share: int) -> list[Path]:
        counted.told.clear()
        for _ in range(25):
            cookie = counted.cookie(flow)
            counted.lost[cookie] = counted.lost.get(cookie, 0) + packets * share // 100
            counted.passes(READING_NS)
        return counted.told

    # At first that it is known at all.
    assert goes_on(0) == [near, far]
    assert goes_on(30) == [near]
    assert counted.paths.congestion_of(flow).is_congested
    assert not counted.paths.congestion_of(other).is_congested
    # Once it is known, it is no news.
    assert goes_on(30) == []
    assert goes_on(0) == [near]
    assert not counted.paths.congestion_of(flow).is_congested


# -- what is kept ---------------------------------------------------------------------


def test_nothing_is_kept_of_flows_that_ended() -> None:
    counted = Counted()
    path = counted.path(A)
    stream, datagrams = counted.flow(path, MBIT), counted.flow(path, MBIT, is_udp=True)
    counted.leaves = {HERE: MBIT, THERE: MBIT}
    counted.passes(S)
    # The stream and the interface that flows leave by.
    assert counted.usage.entry_count == 2
    counted.end(stream)
    assert counted.usage.entry_count == 1
    counted.end(datagrams)
    assert counted.usage.entry_count == 0
    counted.passes(S)
    assert counted.usage.entry_count == 0


def test_the_end_of_a_stream_leaves_what_datagrams_use() -> None:
    counted = Counted()
    path = counted.path(A)
    stream = counted.flow(path, MBIT)
    counted.flow(path, 8 * MBIT, is_udp=True)
    counted.leaves = {HERE: 4 * MBIT}
    counted.passes(8 * S)
    counted.end(stream)
    counted.passes(READING_NS)
    assert path.own_bps == about(4 * MBIT)

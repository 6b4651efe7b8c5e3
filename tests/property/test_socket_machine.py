"""Any sequence of calls on real sockets: in the end each has what its application gave it.

Beside every socket in flows stands a twin that no flow ever holds. What the application
writes to the one it writes to the other, so the twin shows what the socket has to look like
once the flows are gone: the kernel's own word, side effects included (writing IP_TOS resets
SO_PRIORITY). Values that flows write are not among those of the application, because nobody
could tell them apart.

Every call may fail only with an error that the contract lists for it.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import openqwave as qw
from openqwave.admission.policy import Experiments, Policy
from openqwave.client.embedded import Embedded
from tests.unit.driven import endpoint, view
from tests.unit.loopback import (
    KINDS,
    PORT,
    Bench,
    options_of,
    set_pacing,
    set_priority,
    set_tclass,
    set_tos,
)
from tests.unit.own_subsystem import FakeClock, open_in, own_subsystem

SOCKETS = st.integers(0, 2)
PICK = st.integers(0, 63)
TYPES = st.sampled_from(qw.TrafficType)
# Two destinations of each family; one is not routed anywhere.
HOSTS4 = ["127.0.0.1", "127.0.0.2"]
HOSTS6 = ["::1"]

# Octets of the application: code points that no traffic type has, with all ECN bits.
OCTETS = st.sampled_from([0x00, 0x02, 0x28, 0x29, 0x48, 0x92, 0xB8, 0xBB])
PRIORITIES = [1, 3, 4, 5]
DSCPS = st.sampled_from([1, 16, 34, 63])
RATES = st.sampled_from([0, 1, 64_000, 8_000_000, None])

# By contract, what each call may answer, beside ERROR_INVALID_HANDLE and
# ERROR_DEVICE_REINITIALIZATION_NEEDED, which all may.
LISTED: dict[str, tuple[type[qw.QosError], ...]] = {
    "add": (
        qw.InvalidParameter,
        qw.NotSupported,
        qw.HostUnreachable,
        qw.NoSystemResources,
        qw.AccessDenied,
    ),
    "remove": (qw.FlowNotFound, qw.InvalidParameter),
    "type": (qw.FlowNotFound, qw.NotSupported, qw.AccessDenied),
    "dscp": (qw.FlowNotFound, qw.NotSupported, qw.AccessDenied),
    "rate": (
        qw.FlowNotFound,
        qw.NotSupported,
        qw.AccessDenied,
        qw.NetworkBusy,
        qw.RetryLater,
    ),
    "query": (qw.FlowNotFound, qw.NoData, qw.NotSupported),
    "notify": (
        qw.FlowNotFound,
        qw.NotSupported,
        qw.InvalidParameter,
        qw.AlreadyExists,
        qw.TimedOut,
    ),
    "track": (qw.InvalidParameter, qw.HostUnreachable, qw.NotSupported),
}
EVERYWHERE = (qw.InvalidHandle, qw.ReinitializationNeeded)


class SocketMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.clock = FakeClock()
        # On a clock that stands still nobody waits for numbers.
        policy = Policy(experiments=Experiments(answer_ns=0))
        self.host: Embedded = self.stack.enter_context(own_subsystem(policy, clock=self.clock))
        self.bench = Bench()
        self.stack.callback(self.bench.close)
        self.kinds: list[str] = []
        self.sockets: list[socket.socket] = []
        self.twins: list[socket.socket] = []
        self.handles: list[qw.Qos] = []
        self.flows: list[qw.Flow] = []

    def listed(self, call: str, error: qw.QosError) -> None:
        assert isinstance(error, (*LISTED[call], *EVERYWHERE)), (call, error)
        assert str(error)

    def flow(self, pick: int) -> qw.Flow | None:
        # Ended ones stay in the list: calls on them must fail well, too.
        return self.flows[-1 - pick % min(len(self.flows), 6)] if self.flows else None

    @initialize(
        kinds=st.lists(st.sampled_from(list(KINDS)), min_size=3, max_size=3),
        traffic_type=TYPES,
        adaptive=st.booleans(),
    )
    def begin(self, kinds: list[str], traffic_type: qw.TrafficType, adaptive: bool) -> None:
        self.kinds = kinds
        self.sockets = [self.bench.make(kind) for kind in kinds]
        self.twins = [self.bench.make(kind) for kind in kinds]
        self.open_handle()
        for number in range(3):
            self.add(number, number, traffic_type, adaptive, by_number=False, is_given=True)

    # -- calls ----------------------------------------------------------------------

    @rule()
    def open_handle(self) -> None:
        if len(self.handles) < 3:
            self.handles.append(open_in(self.host))

    @rule(
        pick=PICK,
        number=SOCKETS,
        kind=TYPES,
        adaptive=st.booleans(),
        by_number=st.booleans(),
        is_given=st.sampled_from([True, True, True, False]),
    )
    def add(
        self,
        pick: int,
        number: int,
        kind: qw.TrafficType,
        adaptive: bool,
        by_number: bool,
        is_given: bool,
    ) -> None:
        qos = self.handles[pick % len(self.handles)]
        sock = self.sockets[number]
        try:
            flow = qos.add_socket(
                sock.fileno() if by_number else sock,
                self.destination(number, pick) if is_given else None,
                traffic_type=kind,
                adaptive=adaptive,
            )
        except qw.QosError as error:
            self.listed("add", error)
        else:
            self.flows.append(flow)

    def destination(self, number: int, pick: int) -> tuple[str, int] | None:
        if KINDS[self.kinds[number]][2] is not None and pick % 4:
            return None
        hosts = HOSTS6 if "6" in self.kinds[number] else HOSTS4
        return hosts[pick % len(hosts)], PORT + pick % 2

    @rule(pick=PICK, number=SOCKETS)
    def join(self, pick: int, number: int) -> None:
        flow = self.flow(pick)
        if flow is None:
            return
        try:
            flow.add_socket(self.sockets[number], self.destination(number, pick))
        except qw.QosError as error:
            self.listed("add", error)

    @rule(pick=PICK, number=SOCKETS)
    def leave(self, pick: int, number: int) -> None:
        flow = self.flow(pick)
        if flow is None:
            return
        try:
            flow.remove_socket(self.sockets[number])
        except qw.QosError as error:
            self.listed("remove", error)

    @rule(pick=PICK)
    def close_flow(self, pick: int) -> None:
        flow = self.flow(pick)
        if flow is not None:
            flow.close()

    @rule(pick=PICK, kind=TYPES)
    def set_type(self, pick: int, kind: qw.TrafficType) -> None:
        flow = self.flow(pick)
        if flow is None:
            return
        try:
            flow.set_traffic_type(kind)
        except qw.QosError as error:
            self.listed("type", error)

    @rule(pick=PICK, dscp=DSCPS)
    def set_dscp(self, pick: int, dscp: int) -> None:
        flow = self.flow(pick)
        if flow is None:
            return
        try:
            flow.set_dscp(dscp)
        except qw.QosError as error:
            self.listed("dscp", error)

    @rule(pick=PICK, rate_bps=RATES, shaping=st.sampled_from(qw.Shaping))
    def set_rate(self, pick: int, rate_bps: int | None, shaping: qw.Shaping) -> None:
        flow = self.flow(pick)
        if flow is None:
            return
        try:
            flow.set_rate(rate_bps, shaping=shaping)
        except qw.QosError as error:
            self.listed("rate", error)

    @rule(pick=PICK)
    def ask(self, pick: int) -> None:
        flow = self.flow(pick)
        if flow is None:
            return
        for question in (flow.rate_bps, flow.packet_priority, flow.fundamentals):
            try:
                question()
            except qw.QosError as error:
                self.listed("query", error)

    @rule(pick=PICK, kind=st.sampled_from(["congested", "uncongested", "available"]))
    def wait(self, pick: int, kind: str) -> None:
        flow = self.flow(pick)
        if flow is None:
            return
        try:
            match kind:
                case "congested":
                    flow.wait_congested(0)
                case "uncongested":
                    flow.wait_uncongested(0)
                case "available":
                    flow.wait_available(100_000, 0)
        except qw.QosError as error:
            self.listed("notify", error)

    @rule(pick=PICK, host=st.sampled_from(["127.0.0.1", "127.0.0.2", "::1"]))
    def track(self, pick: int, host: str) -> None:
        qos = self.handles[pick % len(self.handles)]
        for call in (qos.track, qos.untrack):
            try:
                call(host)
            except qw.QosError as error:
                self.listed("track", error)

    @rule(
        host=st.sampled_from(["127.0.0.1", "::1"]),
        available=st.sampled_from([None, 0, 100_000]),
        is_congested=st.sampled_from([None, False, True]),
    )
    def path_view(self, host: str, available: int | None, is_congested: bool | None) -> None:
        seen = view(available_bps=available, is_congested=is_congested)
        self.host.receive_path_view(endpoint(host, 0), seen)

    @rule(happens=st.sampled_from([False] * 7 + [True]))
    def suspend(self, happens: bool) -> None:
        if happens:
            self.clock.sleep()
            # The first call on any handle notices; then old handles are no use any more.
            self.handles[0].close()
            self.reopen()

    @rule(pick=PICK, happens=st.sampled_from([False] * 7 + [True]))
    def close_handle(self, pick: int, happens: bool) -> None:
        if happens:
            self.handles.pop(pick % len(self.handles)).close()
            if not self.handles:
                self.reopen()

    def reopen(self) -> None:
        for qos in self.handles:
            qos.close()
        self.handles = [open_in(self.host)]

    # -- the application ------------------------------------------------------------

    @rule(number=SOCKETS, octet=OCTETS)
    def application_writes_tos(self, number: int, octet: int) -> None:
        sock, twin = self.sockets[number], self.twins[number]
        before = options_of(twin).tos
        set_tos(twin, octet)
        unmarked, marked = options_of(twin), options_of(sock)
        if unmarked.tos == before != marked.tos and marked.priority in PRIORITIES:
            # Without marks the octet would not change, and the kernel would let the priority
            # be that the application has just written; with them it does change, and the
            # kernel wipes that priority out before anybody could have seen it.
            return
        set_tos(sock, octet)

    @rule(number=SOCKETS, octet=OCTETS)
    def application_writes_class(self, number: int, octet: int) -> None:
        if "6" in self.kinds[number]:
            for sock in (self.sockets[number], self.twins[number]):
                set_tclass(sock, octet)

    @rule(number=SOCKETS, priority=st.sampled_from(PRIORITIES))
    def application_writes_priority(self, number: int, priority: int) -> None:
        for sock in (self.sockets[number], self.twins[number]):
            set_priority(sock, priority)

    @rule(number=SOCKETS, bytes_per_s=st.sampled_from([77_777, 7_777_777, 1 << 40]))
    def application_paces(self, number: int, bytes_per_s: int) -> None:
        for sock in (self.sockets[number], self.twins[number]):
            set_pacing(sock, bytes_per_s)

    @rule(number=SOCKETS)
    def application_closes(self, number: int) -> None:
        for row in (self.sockets, self.twins):
            row[number].close()
            row[number] = self.bench.make(self.kinds[number])

    def teardown(self) -> None:
        try:
            for qos in self.handles:
                qos.close()
            seen = [options_of(sock) for sock in self.sockets]
            wanted = [options_of(twin) for twin in self.twins]
            assert seen == wanted, self.kinds
        finally:
            self.stack.close()


SocketMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=40)
TestSockets = SocketMachine.TestCase

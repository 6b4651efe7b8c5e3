"""Rows for lists and the status: words for what the engine keeps, and rates that are counted."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

import pytest

from openqwave.admission.policy import Limits, Policy
from openqwave.drivers.sockdiag import SocketDiagnosis, local_in
from openqwave.drivers.sockets import SO_COOKIE
from openqwave.enforcement.backend import Backend
from openqwave.ipc.messages import FlowRow, PathRow
from openqwave.ipc.pages import flow_page, page_of
from openqwave.ipc.values import status_of, status_to_json
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Congestion, CongestionReason, FlowCounters
from openqwave.model.flow import RateReason, Shaping, TrafficType, Transport
from openqwave.model.path import LinkType, PathFacts
from openqwave.model.traffic import FlowTraffic
from openqwave.runtime.runtime import Runtime
from openqwave.service import sending
from openqwave.service.flowcounts import FlowCounts
from openqwave.service.sending import LINGER_NS, MOST_SOCKETS, Counters, SendingRates
from openqwave.service.shownflows import Rates
from openqwave.service.views import (
    AT_ONCE,
    OwnerView,
    flow_rows,
    host_text,
    path_rows,
    status_row,
)
from openqwave.subsystem import requests as rq
from openqwave.subsystem.engine import Engine
from tests.patience import until
from tests.unit.driven import (
    OWNER,
    ROOT,
    STRANGER,
    A,
    B,
    Driven,
    Mechanism,
    add,
    endpoint,
    facts,
    rate,
    view,
)

_T = TypeVar("_T")
MBIT, S, MS = 1_000_000, 1_000_000_000, 1_000_000
WHO = {
    OWNER: OwnerView(OWNER, 1000, "alice", "ffmpeg"),
    STRANGER: OwnerView(STRANGER, 1001, "bob", "mumble"),
}


class Shown(Driven):
    """An engine whose flows and paths are shown, with an account of who was asked for."""

    def __init__(self, policy: Policy | None = None) -> None:
        super().__init__(policy)
        self.asked_owners: list[int] = []
        self.looks = 0

    def look(self, ask: Callable[[Engine], _T]) -> _T:
        self.looks += 1
        return ask(self.engine)

    def look_beside(self, ask: Callable[[Engine, Backend], _T]) -> _T:
        self.looks += 1
        return ask(self.engine, self.mechanism)

    def describe(self, owner: int) -> OwnerView:
        self.asked_owners.append(owner)
        return WHO[owner]

    def rows(
        self,
        after: int = 0,
        *,
        owners: Collection[int] | None = None,
        sending: SendingRates | None = None,
        flows: SendingRates | None = None,
    ) -> Iterator[FlowRow]:
        return flow_rows(
            cast("Runtime", self),
            self.describe,
            after,
            now_ns=self.now_ns,
            owners=owners,
            rates=Rates(sending, flows),
        )

    def row(self, **options: Any) -> FlowRow:  # noqa: ANN401 - as for rows
        (row,) = self.rows(**options)
        return row

    def path_row(self) -> PathRow:
        (row,) = path_rows(cast("Runtime", self), 0, now_ns=self.now_ns)
        return row


# -- flows ----------------------------------------------------------------------------


def test_a_flow_in_words() -> None:
    shown = Shown()
    handle = shown.open()
    flow_id = shown.flow(handle, 1, A, TrafficType.AUDIO_VIDEO)
    shown.grant(handle, add(flow_id, facts(2, version=6), endpoint("2001:db8::1")))
    shown.grant(handle, rate(flow_id, 5 * MBIT))
    row = shown.row()
    assert (row.flow, row.pid, row.uid) == (flow_id, OWNER, 1000)
    assert (row.user, row.program) == ("alice", "ffmpeg")
    assert (row.adaptive, row.traffic_type, row.marking) == (False, "audio video", "by type")
    assert (row.dscp, row.pcp, row.priority) == (40, None, 6)
    assert (row.contract_bps, row.shaping, row.sending_bps) == (5 * MBIT, "shape and mark", None)
    assert [(one.cookie, one.protocol, one.local) for one in row.sockets] == [
        (1, "udp", None),
        (2, "udp", None),
    ]
    assert row.sockets[0].destinations == ("192.0.2.1:5004",)
    assert row.sockets[1].destinations == ("[2001:db8::1]:5004",)
    assert (row.socket_count, row.destination_count) == (2, 2)
    assert (row.host, row.path_state) == (None, "none")


def rated(
    flow_id: int,
    rate_bps: int,
    shaping: Shaping = Shaping.SHAPE_AND_MARK,
    *,
    is_self_paced: bool = False,
) -> rq.SetRate:
    return rq.SetRate(
        flow_id, rate_bps, shaping, RateReason.NOT_APPLICABLE, is_self_paced=is_self_paced
    )


HOW = "nothing is asked of the kernel"


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        (TrafficType.VOICE, [], ("by type", 56, "memory", HOW)),
        (
            TrafficType.BEST_EFFORT,
            [],
            (
                "by type",
                None,
                "none",
                "this traffic type leaves packets as the program makes them",
            ),
        ),
        (
            TrafficType.VOICE,
            [lambda flow: rq.SetDscp(flow, 0, ROOT)],
            # A code point of 0 is written, too.
            ("exact DSCP", 0, "memory", HOW),
        ),
        (
            TrafficType.VOICE,
            [lambda flow: rated(flow, MBIT)],
            ("by type", 56, "memory", HOW),
        ),
        (
            TrafficType.VOICE,
            [lambda flow: rated(flow, MBIT, Shaping.SHAPE_ONLY)],
            ("by type", None, "memory", HOW),
        ),
        (
            TrafficType.VOICE,
            [lambda flow: rated(flow, MBIT, is_self_paced=True)],
            ("by type", 56, "memory", f"{HOW}; the program paces itself"),
        ),
        (
            TrafficType.VOICE,
            [lambda flow: rated(flow, MBIT, Shaping.SHAPE_ONLY, is_self_paced=True)],
            ("by type", None, "none", "the program paces itself, and these packets get no marks"),
        ),
        (
            TrafficType.VOICE,
            [lambda flow: rated(flow, 0)],
            ("ended", None, "none", "a rate of 0 ended marking and shaping"),
        ),
    ],
)
def test_what_marks_a_flow_and_why(
    kind: TrafficType,
    changes: list[Callable[[int], rq.Request]],
    expected: tuple[str, int | None, str, str],
) -> None:
    shown = Shown()
    handle = shown.open()
    flow_id = shown.flow(handle, 1, A, kind)
    for change in changes:
        shown.grant(handle, change(flow_id))
    row = shown.row()
    assert (row.marking, row.dscp, row.backend, row.backend_reason) == expected
    assert (row.priority is None) == (row.dscp is None)


class Telling(Mechanism):
    """Says which socket it was asked about, and has counted some flows."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: dict[int, FlowTraffic] = {}
        self.is_deaf = False

    def explain(self, cookie: int) -> tuple[str, str]:
        return "telling", f"of {cookie}"

    def traffic(self, flow_ids: Collection[int]) -> Mapping[int, FlowTraffic]:
        if self.is_deaf:
            raise OSError
        return {one: self.counted[one] for one in flow_ids if one in self.counted}


def test_the_mechanism_is_asked_about_the_socket() -> None:
    shown = Shown()
    shown.mechanism = Telling()
    handle = shown.open()
    shown.flow(handle, 17, A)
    shown.flow(handle, 4, B)
    assert [(row.backend, row.backend_reason) for row in shown.rows()] == [
        ("telling", "of 17"),
        ("telling", "of 4"),
    ]


def test_what_is_counted_of_a_flow() -> None:
    shown, told = Shown(), Telling()
    shown.mechanism = told
    handle = shown.open()
    flow_id = shown.flow(handle, 1, A)
    shown.flow(handle, 2, A)
    told.counted = {flow_id: FlowTraffic(10, 1_000, 3, 300, 1)}
    row, other = shown.rows()
    assert (row.sent_packets, row.sent_bytes) == (10, 1_000)
    assert (row.excess_packets, row.excess_bytes, row.dropped_packets) == (3, 300, 1)
    # Nobody counts the other.
    assert (other.sent_packets, other.excess_bytes, other.dropped_packets) == (None, None, None)
    told.is_deaf = True
    assert [row.sent_packets for row in shown.rows()] == [None, None]


def test_rates_of_flows_that_are_counted() -> None:
    shown, told, clock = Shown(), Telling(), Clock()
    shown.mechanism = told
    handle = shown.open()
    flow_id, other = shown.flow(handle, 1, A), shown.flow(handle, 2, A)
    rates = Counted(FlowCounts(cast("Runtime", told)), clock)
    told.counted = {flow_id: FlowTraffic()}
    assert [row.sending_bps for row in shown.rows(flows=rates)] == [None, None]
    for count in (0, 125_000):
        # What is above a contract is sent, too.
        told.counted = {flow_id: FlowTraffic(0, count, 0, count)}
        rates.count({flow_id, other})
        clock.now_ns += S
    assert [row.sending_bps for row in shown.rows(flows=rates)] == [2 * MBIT, None]
    told.is_deaf = True
    rates.count({flow_id, other})
    assert [row.sending_bps for row in shown.rows(flows=rates)] == [None, None]


def test_an_adaptive_flow_that_is_not_admitted() -> None:
    shown = Shown()
    shown.flow(shown.open(), 1, A, is_adaptive=True)
    row = shown.row()
    assert (row.adaptive, row.marking, row.dscp) == (True, "not admitted", None)
    assert (row.host, row.path_state) == ("192.0.2.1", "unmeasured")
    assert (row.backend, row.backend_reason) == (
        "none",
        "no rate is admitted yet, so nothing is changed",
    )


def test_rows_are_made_as_they_are_taken() -> None:
    shown = Shown(Policy(limits=Limits(flows=1_000)))
    handle, other = shown.open(), shown.open(STRANGER)
    for number in range(3 * AT_ONCE):
        shown.flow(other if number % 2 else handle, number + 1, A)
    rows = shown.rows()
    assert [next(rows).flow for _ in range(AT_ONCE)] == list(range(1, AT_ONCE + 1))
    # One page was looked at, and nobody was asked for twice.
    assert (shown.looks, shown.asked_owners) == (1, [OWNER, STRANGER])
    assert [row.flow for row in rows] == list(range(AT_ONCE + 1, 3 * AT_ONCE + 1))
    assert (shown.looks, shown.asked_owners) == (3, [OWNER, STRANGER])
    assert [row.user for row in shown.rows(140)] == ["alice", "bob"] * 5
    assert {row.user for row in shown.rows(owners={STRANGER})} == {"bob"}
    assert list(shown.rows(owners=set())) == []


def test_a_page_of_the_protocol_looks_at_no_more_than_it_holds() -> None:
    shown = Shown(Policy(limits=Limits(flows=10_000)))
    handle = shown.open()
    for number in range(1_000):
        shown.flow(handle, number + 1, A)
    found: list[int] = []
    more = True
    while more:
        before = shown.looks
        rows, more = page_of(flow_page(shown.rows(found[-1] if found else 0)), FlowRow)
        assert shown.looks - before <= len(rows) // AT_ONCE + 1
        found += [row.flow for row in rows]
    assert found == list(range(1, 1_001))


# -- paths ----------------------------------------------------------------------------


def test_a_path_in_words() -> None:
    shown = Shown()
    handle = shown.open()
    gateway = bytes([192, 0, 2, 254])
    way = PathFacts(A.host(), 3, "eth0", bytes([10, 0, 0, 1]), gateway, 1500, LinkType.WIRED)
    shown.grant(handle, rq.AddSocket(0, facts(1), A, TrafficType.VOICE, True, None, way))
    shown.grant(handle, rq.StartTracking(A.host(), None, way))
    shown.see(A, view(bottleneck_bps=20 * MBIT, available_bps=15 * MBIT, rtt_ns=3 * MS))
    shown.now_ns += S
    reason = CongestionReason.PROBE_LOSS
    told = Congestion(True, reason)
    shown.carry_out(shown.engine.receive_congestion(A, told, now_ns=shown.now_ns))
    assert shown.path_row() == PathRow(
        host="192.0.2.1",
        interface="eth0",
        source="10.0.0.1",
        gateway="192.0.2.254",
        link_type="wired",
        on_link=False,
        capacity_bps=20 * MBIT,
        available_bps=15 * MBIT,
        rtt_ns=3 * MS,
        age_ns=S,
        congested=True,
        congestion_reason="small probes are lost",
        flow_count=1,
        tracker_count=1,
    )
    why = Refusal(ErrorCode.ERROR_UNEXP_NET_ERR, "broke off")
    shown.carry_out(shown.engine.receive_experiments_ended(A, why, now_ns=shown.now_ns))
    assert shown.path_row().obstacle == "broke off"


def test_what_is_remembered_of_a_path_is_said_to_be_so() -> None:
    shown = Shown()
    handle = shown.open()
    way = PathFacts(A.host(), 3, "eth0", b"", b"", 1500, LinkType.WIRED)
    shown.grant(handle, rq.AddSocket(0, facts(1), A, TrafficType.VOICE, True, None, way))
    old = replace(view(available_bps=MBIT), since_ns=shown.now_ns - S)
    shown.carry_out(shown.engine.receive_recalled(A, old, now_ns=shown.now_ns))
    assert (shown.path_row().is_remembered, shown.path_row().age_ns) == (True, S)
    shown.see(A, view(available_bps=MBIT))
    assert shown.path_row().is_remembered is False


def test_a_path_of_which_nothing_is_known() -> None:
    shown = Shown()
    shown.flow(shown.open(), 1, A, is_adaptive=True)
    row = shown.path_row()
    assert row == PathRow(host="192.0.2.1", obstacle=row.obstacle, flow_count=1)
    assert row.obstacle


def test_all_paths_are_shown() -> None:
    shown = Shown()
    handle = shown.open()
    for number in range(2 * AT_ONCE + 1):
        shown.flow(handle, number + 1, endpoint(f"10.0.{number}.1"), is_adaptive=True)
    rows = path_rows(cast("Runtime", shown), 99, now_ns=shown.now_ns)
    assert [row.host for row in rows] == ["10.0.99.1", "10.0.100.1"]
    assert len(list(path_rows(cast("Runtime", shown), 0, now_ns=0))) == 2 * AT_ONCE + 1


def test_link_local_hosts_have_their_interface() -> None:
    host = Endpoint(endpoint("fe80::1").packed, 0, 3)
    way = PathFacts(host, 3, "eth0", b"", b"", 1500, LinkType.WIRED)
    other = PathFacts(host, 4, "eth1", b"", b"", 1500, LinkType.WIRED)
    assert host_text(host) == "fe80::1%3"
    assert host_text(host, way) == "fe80::1%eth0"
    assert host_text(host, other) == "fe80::1%3"


# -- the service ----------------------------------------------------------------------


def test_the_status() -> None:
    shown = Shown()
    shown.flow(shown.open(), 1, A, is_adaptive=True)
    row = status_row(
        cast("Runtime", shown),
        service="qwaved 0.1",
        version="0.1",
        started_ns=S,
        now_ns=5 * S,
        socket="/run/q",
        config_file="",
        handles=2,
        peers=3,
        lends=True,
        backend=("socket options", "why"),
        sink=(False, "switched off"),
        memory=("/var/lib/q", "good"),
        counters={"violations": 2},
    )
    assert (row.flows, row.paths, row.handles, row.peers) == (1, 1, 2, 3)
    assert row.uptime_ns == 4 * S
    assert (row.sink.on, row.sink.reason) == (False, "switched off")
    assert status_of(status_to_json(row)) == row


# -- what sockets send ----------------------------------------------------------------


class Kernel:
    """Counts what the test says.

    Attributes:
        sent: By cookie; None for a socket of which nothing is counted.
        counts: How often it was asked, with what.
        is_open: Asked since it was closed.
    """

    def __init__(self) -> None:
        self.sent: dict[int, int | None] = {}
        self.counts: list[frozenset[int]] = []
        self.is_open = False
        self.fails = False
        self.asked = threading.Condition()

    def counters(self, cookies: Collection[int]) -> Mapping[int, FlowCounters]:
        with self.asked:
            self.counts.append(frozenset(cookies))
            self.is_open = True
            self.asked.notify_all()
        if self.fails:
            raise RuntimeError("the kernel speaks in tongues")
        return {one: FlowCounters(self.sent[one]) for one in cookies if one in self.sent}

    def local_of(self, cookie: int) -> Endpoint | None:
        return Endpoint(bytes([10, 0, 0, 1]), cookie) if cookie in self.sent else None

    def close(self) -> None:
        self.is_open = False

    def wait_for(self, count: int) -> None:
        with self.asked:
            assert self.asked.wait_for(lambda: len(self.counts) >= count, 20)


class Clock:
    now_ns = 10**12

    def __call__(self) -> int:
        return self.now_ns


class Counted(SendingRates):
    """Counts when the test wants it, in no thread."""

    def __init__(self, kernel: Counters, clock: Clock) -> None:
        super().__init__(kernel, clock)
        self.begun = 0

    def _begin(self) -> None:
        self.begun += 1


def test_a_rate_is_known_from_the_second_count_on() -> None:
    kernel, clock = Kernel(), Clock()
    rates = Counted(kernel, clock)
    kernel.sent = {1: 1_000, 2: 5_000, 3: None}
    rates.look([1, 2, 3])
    assert rates.begun == 1
    assert (rates.rate_bps([1]), rates.local_of(1)) == (None, None)
    rates.count({1, 2, 3})
    assert rates.rate_bps([1]) is None
    assert rates.local_of(1) == rates.local_of(1) == Endpoint(bytes([10, 0, 0, 1]), 1)
    kernel.sent = {1: 126_000, 2: 5_000, 3: None}
    clock.now_ns += S // 2
    rates.count({1, 2, 3})
    assert (rates.rate_bps([1]), rates.rate_bps([2]), rates.rate_bps([1, 2])) == (
        2 * MBIT,
        0,
        2 * MBIT,
    )
    # Nothing is counted of the third, and nobody has looked at the fourth.
    assert (rates.rate_bps([3]), rates.rate_bps([1, 3]), rates.rate_bps([4])) == (None, None, None)
    assert rates.local_of(3) is not None
    # A socket that is gone, and another that has its name later.
    kernel.sent = {}
    rates.count({1, 2, 3})
    assert (rates.rate_bps([1]), rates.local_of(1)) == (None, None)
    clock.now_ns += S
    kernel.sent = {1: 10**9}
    rates.count({1})
    assert rates.rate_bps([1]) is None


def test_an_old_rate_is_none() -> None:
    kernel, clock = Kernel(), Clock()
    rates = Counted(kernel, clock)
    rates.look([1])
    for sent_bytes in (0, 1_000):
        kernel.sent = {1: sent_bytes}
        rates.count({1})
        clock.now_ns += S
    assert rates.rate_bps([1]) == 8_000
    clock.now_ns += 3 * S
    assert rates.rate_bps([1]) is None


def test_only_so_many_sockets_are_counted() -> None:
    kernel, clock = Kernel(), Clock()
    kernel.sent = dict.fromkeys(range(MOST_SOCKETS + 10), 0)
    rates = Counted(kernel, clock)
    rates.look(range(MOST_SOCKETS))
    rates.look([0])
    rates.look(range(MOST_SOCKETS, MOST_SOCKETS + 3))
    rates.count(kernel.sent)
    # Those that were looked at longest ago went.
    known = [cookie for cookie in kernel.sent if rates.local_of(cookie) is not None]
    assert known == [0, *range(4, MOST_SOCKETS + 3)]


def test_a_new_socket_is_not_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for pause in ("FIRST_PAUSE_S", "PAUSE_S"):
        monkeypatch.setattr(sending, pause, 600.0)
    kernel = Kernel()
    kernel.sent = {1: 0, 2: 0}
    rates = SendingRates(kernel, Clock())
    rates.look([1])
    kernel.wait_for(1)
    rates.look([2])
    kernel.wait_for(2)
    assert kernel.counts == [{1}, {1, 2}]
    # The end does not wait, either.
    rates.close()
    assert not rates.is_counting


def test_a_thread_counts_while_somebody_looks_and_ends_then() -> None:
    kernel, clock = Kernel(), Clock()
    kernel.sent = {1: 0, 2: 0}
    rates = SendingRates(kernel, clock)
    assert not rates.is_counting
    rates.look([1, 2])
    kernel.wait_for(2)
    clock.now_ns += LINGER_NS + 1
    rates.look([2])
    rates.look([3])
    until(lambda: kernel.counts[-1] == {2, 3})
    clock.now_ns += LINGER_NS + 1
    until(lambda: not rates.is_counting)
    assert not kernel.is_open
    assert rates.local_of(2) is None
    rates.look([1])
    until(lambda: kernel.counts[-1] == {1})
    rates.close()
    assert not rates.is_counting
    rates.close()
    rates.look([1])
    assert not rates.is_counting


def test_counting_survives_a_thread_that_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    kernel = Kernel()
    kernel.fails = True
    rates = SendingRates(kernel, Clock())
    rates.look([1])
    until(lambda: bool(kernel.counts) and not rates.is_counting)
    kernel.fails = False
    rates.look([1])
    kernel.wait_for(2)
    rates.close()


def test_no_thread_is_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    rates = SendingRates(Kernel(), Clock())
    rates.look([1])
    assert not rates.is_counting
    assert rates.rate_bps([1]) is None


def test_rows_say_what_streams_send() -> None:
    shown, kernel, clock = Shown(), Kernel(), Clock()
    handle = shown.open()
    flow_id = shown.grant(handle, add(0, facts(1, transport=Transport.TCP)))
    assert isinstance(flow_id, int)
    shown.grant(handle, add(flow_id, facts(2, transport=Transport.TCP), B))
    shown.flow(handle, 3, A)
    rates = Counted(kernel, clock)
    stream, datagrams = shown.rows(sending=rates)
    assert (stream.sending_bps, datagrams.sending_bps) == (None, None)
    for count in (0, 125_000):
        kernel.sent = {1: count, 2: count, 3: None}
        rates.count({1, 2, 3})
        clock.now_ns += S
    stream, datagrams = shown.rows(sending=rates)
    assert (stream.sending_bps, datagrams.sending_bps) == (2 * MBIT, None)
    assert stream.sockets[1].local == "10.0.0.1:2"
    assert datagrams.sockets[0].local == "10.0.0.1:3"


def test_the_kernel_tells_bytes_and_local_addresses() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as stream,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as datagrams,
        SocketDiagnosis() as kernel,
    ):
        accepted = listener.accept()[0]
        datagrams.bind(("::1", 0))
        cookies = [
            int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")
            for sock in (stream, datagrams)
        ]
        rates = SendingRates(kernel)
        kernel.counters(cookies)
        if kernel.reason:
            pytest.skip(kernel.reason)
        try:
            rates.look(cookies)
            until(lambda: rates.local_of(cookies[1]) is not None)
            assert str(rates.local_of(cookies[0])) == f"127.0.0.1:{stream.getsockname()[1]}"
            assert str(rates.local_of(cookies[1])) == f"[::1]:{datagrams.getsockname()[1]}"
            stream.sendall(bytes(100_000))
            until(lambda: bool(rates.rate_bps(cookies[:1])))
            assert rates.rate_bps(cookies) is None
        finally:
            rates.close()
            accepted.close()


def test_local_addresses_as_packets_carry_them() -> None:
    def socket_id(address: bytes, interface: int = 0) -> bytes:
        return (
            b"\x13\x8c"
            + bytes(2)
            + address.ljust(16, b"\0")
            + bytes(16)
            + (interface.to_bytes(4, "little") + bytes(8))
        )

    mapped = bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1])
    local = endpoint("fe80::1").packed
    assert str(local_in(socket.AF_INET, socket_id(bytes([192, 0, 2, 1])))) == "192.0.2.1:5004"
    assert str(local_in(socket.AF_INET6, socket_id(mapped))) == "192.0.2.1:5004"
    assert str(local_in(socket.AF_INET6, socket_id(local, 3))) == "[fe80::1%3]:5004"
    assert str(local_in(socket.AF_INET6, socket_id(bytes(16), 3))) == "[::]:5004"

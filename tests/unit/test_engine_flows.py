"""Flows: made, joined, taken over, changed, asked about, removed."""

from __future__ import annotations

import pytest

from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.flow import (
    UNTOUCHED,
    NoticeKind,
    PacketPriority,
    Shaping,
    TrafficType,
    Treatment,
)
from openqwave.subsystem import requests as rq
from tests.unit.driven import (
    A6,
    NO_MECHANISM,
    OWNER,
    ROOT,
    STRANGER,
    USER,
    A,
    B,
    C,
    Driven,
    add,
    endpoint,
    facts,
    notify,
    query,
    rate,
    view,
)

NO_ROUTE = Refusal(ErrorCode.ERROR_HOST_UNREACHABLE, "no route")
MAPPED = endpoint("::ffff:192.0.2.1")


@pytest.fixture
def driven() -> Driven:
    return Driven()


@pytest.fixture
def handle(driven: Driven) -> int:
    return driven.open()


# -- destinations --------------------------------------------------------------------

# "DestAddr: needed when the socket is not connected; must name host and port. When connected
# it may be null, and if given must equal the peer. An IPv4-mapped IPv6 address, an IPv4
# address on an IPv6 socket, an unspecified address or port 0: ERROR_INVALID_PARAMETER."
BAD_DESTINATIONS: dict[str, tuple[int, Endpoint | None, Endpoint | None]] = {
    "unconnected, none given": (4, None, None),
    "unconnected v6, none given": (6, None, None),
    "not the peer's host": (4, A, B),
    "not the peer's port": (4, A, endpoint("192.0.2.1", 5005)),
    "v4 on a v6 socket": (6, None, A),
    "v6 on a v4 socket": (4, None, A6),
    "mapped": (6, None, MAPPED),
    "mapped, though it is the peer": (6, MAPPED, MAPPED),
    "v4 on a v6 socket with that mapped peer": (6, MAPPED, A),
    "unspecified": (4, None, endpoint("0.0.0.0")),  # noqa: S104 - nothing binds to it
    "unspecified v6": (6, None, endpoint("::")),
    "port 0": (4, None, endpoint("192.0.2.1", 0)),
    "port 0 v6": (6, None, endpoint("2001:db8::1", 0)),
}


@pytest.mark.parametrize("case", BAD_DESTINATIONS)
def test_bad_destination(driven: Driven, handle: int, case: str) -> None:
    version, peer, given = BAD_DESTINATIONS[case]
    request = add(0, facts(version=version, peer=peer), given)
    assert driven.refusal(handle, request) is ErrorCode.ERROR_INVALID_PARAMETER
    assert driven.enumerated(handle) == ()


# What is captured: version of the socket, its peer, what is given, what the flow keeps.
GOOD_DESTINATIONS: dict[str, tuple[int, Endpoint | None, Endpoint | None, Endpoint]] = {
    "unconnected": (4, None, A, A),
    "unconnected v6": (6, None, A6, A6),
    "connected, none given": (4, A, None, A),
    "connected, the peer given": (4, A, A, A),
    # "A socket connected to an IPv4-mapped peer with null DestAddr is an IPv4 flow."
    "mapped peer, none given": (6, MAPPED, None, A),
    "multicast": (4, None, endpoint("224.0.0.251"), endpoint("224.0.0.251")),
}


@pytest.mark.parametrize("case", GOOD_DESTINATIONS)
def test_captured_destination(driven: Driven, handle: int, case: str) -> None:
    version, peer, given, kept = GOOD_DESTINATIONS[case]
    flow = driven.grant(handle, add(0, facts(version=version, peer=peer), given))
    assert isinstance(flow, int)
    # A rate makes the plan show where the flow goes.
    driven.grant(handle, rate(flow, 1_000))
    (share,) = driven.mechanism.plans[1].shares
    assert share.destinations == (kept,)


def test_the_edges_word_on_a_socket_is_passed_on(driven: Driven, handle: int) -> None:
    # "TCP and UDP over IPv4 and IPv6. Anything else: ERROR_NOT_SUPPORTED. Not a socket:
    # ERROR_INVALID_PARAMETER."
    for code in (ErrorCode.ERROR_NOT_SUPPORTED, ErrorCode.ERROR_INVALID_PARAMETER):
        assert driven.refusal(handle, add(0, Refusal(code, "edge"))) is code
    bad = Refusal(ErrorCode.ERROR_INVALID_PARAMETER, "edge")
    assert driven.refusal(handle, add(0, facts(), bad)) is bad.code
    # By contract: "No route: ERROR_HOST_UNREACHABLE."
    assert driven.refusal(handle, add(0, facts(), route=NO_ROUTE)) is NO_ROUTE.code
    assert driven.enumerated(handle) == ()
    assert driven.mechanism.applied == []


# -- joining --------------------------------------------------------------------------


def test_another_socket_joins(driven: Driven, handle: int) -> None:
    flow = driven.flow(handle)
    driven.join(handle, flow, 2)
    assert driven.treatment(2) == driven.treatment(1) == Treatment(56, 6)
    assert driven.enumerated(handle) == (flow,)


def test_the_type_is_ignored_when_joining(driven: Driven, handle: int) -> None:
    # "TrafficType is then ignored."
    flow = driven.flow(handle, traffic_type=TrafficType.VOICE)
    driven.grant(handle, add(flow, facts(2), A, TrafficType.BACKGROUND))
    assert driven.treatment(2) == Treatment(56, 6)


def test_another_destination_of_the_same_socket_joins(driven: Driven, handle: int) -> None:
    flow = driven.flow(handle)
    driven.join(handle, flow, 1, B)
    driven.grant(handle, rate(flow, 1_000))
    (share,) = driven.mechanism.plans[1].shares
    assert set(share.destinations) == {A, B}


def test_the_same_pair_again_changes_nothing(driven: Driven, handle: int) -> None:
    # "Adding a (socket, destination) pair that the same flow already holds succeeds and
    # changes nothing".
    flow = driven.flow(handle)
    applied = len(driven.mechanism.applied)
    driven.join(handle, flow, 1, A)
    assert len(driven.mechanism.applied) == applied
    driven.grant(handle, rq.RemoveSocket(flow, 1))
    assert driven.enumerated(handle) == ()


# "it must exist on this handle and be non-adaptive, and Flags must hold
# QOS_NON_ADAPTIVE_FLOW, else ERROR_INVALID_PARAMETER."
@pytest.mark.parametrize("case", ["unknown", "another handle's", "adaptive flow", "adaptive call"])
def test_what_cannot_be_joined(driven: Driven, handle: int, case: str) -> None:
    flow = driven.flow(handle, is_adaptive=case == "adaptive flow")
    target = flow + 1 if case == "unknown" else flow
    through = driven.open() if case == "another handle's" else handle
    request = add(target, facts(2), B, is_adaptive=case == "adaptive call")
    assert driven.refusal(through, request) is ErrorCode.ERROR_INVALID_PARAMETER
    assert driven.treatment(2) == UNTOUCHED


# -- taking over ----------------------------------------------------------------------


@pytest.mark.parametrize("owner", [OWNER, STRANGER], ids=["same process", "other process"])
def test_the_newer_flow_takes_a_pair_over(driven: Driven, handle: int, owner: int) -> None:
    # "A pair held by another flow of the subsystem: the newer flow takes it over".
    old = driven.flow(handle)
    other = driven.open(owner)
    new = driven.flow(other, traffic_type=TrafficType.BACKGROUND)
    assert driven.treatment() == Treatment(8, 2)
    # The old flow held only that pair, so it has ended.
    assert driven.enumerated(handle) == (new,)
    assert (
        driven.refusal(handle, rq.SetTrafficType(old, TrafficType.VOICE))
        is ErrorCode.ERROR_NOT_FOUND
    )


def test_a_flow_keeps_what_was_not_taken(driven: Driven, handle: int) -> None:
    old = driven.flow(handle)
    driven.join(handle, old, 1, B)
    driven.join(handle, old, 2, A)
    new = driven.flow(driven.open(), 2, A, TrafficType.BACKGROUND)
    assert driven.enumerated(handle) == (old, new)
    assert driven.treatment(1) == Treatment(56, 6)
    assert driven.treatment(2) == Treatment(8, 2)
    assert driven.refusal(handle, rq.RemoveSocket(old, 2)) is ErrorCode.ERROR_INVALID_PARAMETER


def test_joining_takes_over_too(driven: Driven, handle: int) -> None:
    voice = driven.flow(handle, 1, A)
    other = driven.flow(handle, 1, B, TrafficType.VOICE)
    driven.join(handle, voice, 1, B)
    assert driven.enumerated(handle) == (voice,)
    assert driven.refusal(handle, rq.RemoveSocket(other, None)) is ErrorCode.ERROR_NOT_FOUND


def test_a_takeover_aborts_what_waited(driven: Driven, handle: int) -> None:
    driven.see(A, view(is_congested=False))
    old = driven.flow(handle, is_adaptive=True)
    waiting = driven.waits(handle, notify(old, NoticeKind.CONGESTED))
    driven.flow(driven.open())
    assert driven.code_of(waiting) is ErrorCode.ERROR_OPERATION_ABORTED


def test_another_destination_is_not_taken(driven: Driven, handle: int) -> None:
    old = driven.flow(handle, 1, A)
    new = driven.flow(handle, 1, B)
    assert driven.enumerated(handle) == (old, new)


# -- removing -------------------------------------------------------------------------


def test_the_whole_flow_goes(driven: Driven, handle: int) -> None:
    # By contract: "Socket null (0 in C, None in Python): the whole flow goes."
    flow = driven.flow(handle)
    driven.join(handle, flow, 2, B)
    driven.grant(handle, rq.RemoveSocket(flow, None))
    assert driven.mechanism.plans == {}
    assert driven.enumerated(handle) == ()


def test_a_socket_leaves_with_all_its_pairs(driven: Driven, handle: int) -> None:
    # By contract: "A socket: its pairs leave, and the flow ends with the last one."
    flow = driven.flow(handle)
    driven.join(handle, flow, 1, B)
    driven.join(handle, flow, 2, C)
    driven.grant(handle, rq.RemoveSocket(flow, 1))
    assert driven.treatment(1) == UNTOUCHED
    assert driven.treatment(2) == Treatment(56, 6)
    driven.grant(handle, rq.RemoveSocket(flow, 2))
    assert driven.enumerated(handle) == ()
    assert driven.mechanism.plans == {}


# "Unknown flow, flow id 0: ERROR_NOT_FOUND. A socket that is not in the flow:
# ERROR_INVALID_PARAMETER".
def test_removing_what_is_not_there(driven: Driven, handle: int) -> None:
    flow = driven.flow(handle)
    assert driven.refusal(handle, rq.RemoveSocket(0, None)) is ErrorCode.ERROR_NOT_FOUND
    assert driven.refusal(handle, rq.RemoveSocket(flow + 1, None)) is ErrorCode.ERROR_NOT_FOUND
    assert driven.refusal(handle, rq.RemoveSocket(flow, 2)) is ErrorCode.ERROR_INVALID_PARAMETER
    no_socket = Refusal(ErrorCode.ERROR_INVALID_PARAMETER, "no socket")
    assert driven.refusal(handle, rq.RemoveSocket(flow, no_socket)) is no_socket.code
    assert driven.treatment() == Treatment(56, 6)


def test_closing_a_handle_removes_its_flows_only(driven: Driven, handle: int) -> None:
    # "Removes the handle's flows at once (traffic unmarked, unshaped)".
    driven.flow(handle, 1)
    other = driven.open()
    kept = driven.flow(other, 2)
    driven.grant(handle, rq.CloseHandle())
    assert driven.treatment(1) == UNTOUCHED
    assert driven.enumerated(other) == (kept,)
    assert driven.engine.handle_ids() == (other,)
    assert driven.engine.sockets() == (2,)


def test_closing_succeeds_though_the_kernel_refuses(driven: Driven, handle: int) -> None:
    driven.flow(handle)
    driven.mechanism.refusals.append(NO_MECHANISM)
    assert driven.result(handle, rq.CloseHandle()) is None
    assert driven.engine.sockets() == ()
    assert driven.refusal(handle, rq.CloseHandle()) is ErrorCode.ERROR_INVALID_HANDLE


# -- other handles' flows -------------------------------------------------------------


# "change, notify on, remove a flow of another handle | never: ERROR_NOT_FOUND", of the same
# process or of another one, whatever the rights.
@pytest.mark.parametrize("owner", [OWNER, STRANGER], ids=["same process", "other process"])
@pytest.mark.parametrize(
    "request_of",
    [
        lambda flow: rq.SetTrafficType(flow, TrafficType.VOICE),
        lambda flow: rate(flow, 1_000),
        lambda flow: rq.SetDscp(flow, 1, ROOT),
        lambda flow: notify(flow, NoticeKind.CONGESTED),
        lambda flow: rq.RemoveSocket(flow, None),
        lambda flow: rq.RemoveSocket(flow, 1),
    ],
    ids=["type", "rate", "dscp", "notify", "remove", "remove socket"],
)
def test_flows_of_other_handles_are_not_there(
    driven: Driven, handle: int, owner: int, request_of: object
) -> None:
    assert callable(request_of)
    flow = driven.flow(handle)
    request = request_of(flow)
    assert driven.refusal(driven.open(owner), request) is ErrorCode.ERROR_NOT_FOUND
    assert driven.treatment() == Treatment(56, 6)


# "query own flow | none", "query a flow of another process | administrator, else
# ERROR_NOT_FOUND".
@pytest.mark.parametrize("question", rq.Question, ids=lambda q: q.name)
def test_who_may_query(driven: Driven, handle: int, question: rq.Question) -> None:
    flow = driven.flow(handle, is_adaptive=True)
    driven.see(A, view(bottleneck_bps=10_000, available_bps=10_000))
    driven.grant(handle, rate(flow, 1_000))
    mine = driven.grant(handle, query(flow, question))
    assert mine == driven.grant(driven.open(), query(flow, question))
    stranger = driven.open(STRANGER)
    assert driven.refusal(stranger, query(flow, question)) is ErrorCode.ERROR_NOT_FOUND
    assert driven.grant(stranger, query(flow, question, ROOT)) == mine


def test_who_may_enumerate(driven: Driven, handle: int) -> None:
    # "QOSEnumerateFlows | administrator, else ERROR_ACCESS_DENIED"; "All flows of the
    # subsystem, ascending ids."
    flows = [driven.flow(driven.open(owner), n, B) for n, owner in enumerate((200, 100, 300), 2)]
    assert driven.enumerated(handle) == tuple(sorted(flows))
    assert driven.refusal(handle, rq.EnumerateFlows(USER)) is ErrorCode.ERROR_ACCESS_DENIED


# -- setting --------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1, 64, 255, 1 << 40])
def test_a_dscp_has_six_bits(driven: Driven, handle: int, value: int) -> None:
    # By contract: "above 63: ERROR_INVALID_PARAMETER"
    flow = driven.flow(handle)
    request = rq.SetDscp(flow, value, ROOT)
    assert driven.refusal(handle, request) is ErrorCode.ERROR_INVALID_PARAMETER
    assert driven.treatment() == Treatment(56, 6)


@pytest.mark.parametrize("value", range(64))
def test_every_dscp_can_be_set(driven: Driven, handle: int, value: int) -> None:
    flow = driven.flow(handle)
    driven.grant(handle, rq.SetDscp(flow, value, ROOT))
    assert driven.treatment().dscp == value
    marks = driven.grant(handle, query(flow, rq.Question.PACKET_PRIORITY))
    assert marks == PacketPriority(value, 0, 0, 0)


def test_a_dscp_needs_rights(driven: Driven, handle: int) -> None:
    # "else ERROR_ACCESS_DENIED and the flow keeps its present marks"
    flow = driven.flow(handle)
    request = rq.SetDscp(flow, 46, USER)
    refusal = driven.result(handle, request)
    assert isinstance(refusal, Refusal)
    assert refusal.code is ErrorCode.ERROR_ACCESS_DENIED
    assert refusal.detail.endswith("; the flow keeps the marks of its traffic type")
    assert driven.treatment() == Treatment(56, 6)


def test_an_adaptive_flow_has_no_exact_dscp(driven: Driven, handle: int) -> None:
    # "(adaptive: ERROR_NOT_SUPPORTED)"; rights come before state.
    flow = driven.flow(handle, is_adaptive=True)
    assert driven.refusal(handle, rq.SetDscp(flow, 46, ROOT)) is ErrorCode.ERROR_NOT_SUPPORTED
    assert driven.refusal(handle, rq.SetDscp(flow, 46, USER)) is ErrorCode.ERROR_ACCESS_DENIED


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_a_rate_fits_64_bits(driven: Driven, handle: int, value: int) -> None:
    flow = driven.flow(handle)
    assert driven.refusal(handle, rate(flow, value)) is ErrorCode.ERROR_INVALID_PARAMETER
    assert driven.refusal(handle, query(flow, rq.Question.OUTGOING_RATE)) is ErrorCode.ERROR_NO_DATA


@pytest.mark.parametrize("value", [1, 64_000, 10**9, (1 << 64) - 1])
def test_the_rate_reads_back(driven: Driven, handle: int, value: int) -> None:
    flow = driven.flow(handle)
    driven.grant(handle, rate(flow, value))
    assert driven.grant(handle, query(flow, rq.Question.OUTGOING_RATE)) == value


def test_the_default_share(driven: Driven, handle: int) -> None:
    # "asks for a small default share [decision: 64 kbit/s, set by policy]".
    flow = driven.flow(handle)
    driven.grant(handle, rate(flow, None))
    assert driven.grant(handle, query(flow, rq.Question.OUTGOING_RATE)) == 64_000


@pytest.mark.parametrize("how", ["never set", "ended"])
def test_no_rate_no_data(driven: Driven, handle: int, how: str) -> None:
    # By contract: "the contract's rate, layer 3; none set: ERROR_NO_DATA"
    flow = driven.flow(handle)
    if how == "ended":
        driven.grant(handle, rate(flow, 5))
        driven.grant(handle, rate(flow, 0))
    assert driven.refusal(handle, query(flow, rq.Question.OUTGOING_RATE)) is ErrorCode.ERROR_NO_DATA


def test_packet_priority_is_what_is_applied(driven: Driven, handle: int) -> None:
    # "the four marks really applied"
    flow = driven.flow(handle, traffic_type=TrafficType.AUDIO_VIDEO)
    ask = query(flow, rq.Question.PACKET_PRIORITY)
    assert driven.grant(handle, ask) == PacketPriority(40, 0, 0, 0)
    driven.grant(handle, rate(flow, 1_000, Shaping.SHAPE_ONLY))
    assert driven.grant(handle, ask) == PacketPriority(0, 0, 0, 0)
    driven.grant(handle, rate(flow, 1_000))
    assert driven.grant(handle, ask) == PacketPriority(40, 0, 0, 0)
    driven.grant(handle, rate(flow, 0))
    assert driven.grant(handle, ask) == PacketPriority(0, 0, 0, 0)


# -- handles and ids ------------------------------------------------------------------

ALL_REQUESTS: dict[str, rq.Request] = {
    "add": add(0, facts()),
    "remove": rq.RemoveSocket(1, None),
    "type": rq.SetTrafficType(1, TrafficType.VOICE),
    "rate": rate(1, 1),
    "dscp": rq.SetDscp(1, 1, ROOT),
    "query": query(1, rq.Question.FUNDAMENTALS),
    "notify": notify(1, NoticeKind.CONGESTED),
    "track": rq.StartTracking(A, None),
    "untrack": rq.StopTracking(A),
    "enumerate": rq.EnumerateFlows(ROOT),
    "cancel": rq.Cancel(1),
    "close": rq.CloseHandle(),
    # "Arguments are checked in this order: handle, ...": whatever else is wrong.
    "add, no socket": add(0, NO_MECHANISM),
    "track, no host": rq.StartTracking(NO_MECHANISM, None),
    "enumerate without rights": rq.EnumerateFlows(USER),
}


def test_every_request_is_in_the_table() -> None:
    kinds = rq.AddSocket | rq.RemoveSocket | rq.SetTrafficType | rq.SetRate | rq.SetDscp
    kinds |= rq.QueryFlow | rq.NotifyFlow | rq.StartTracking | rq.StopTracking
    kinds |= rq.EnumerateFlows | rq.Cancel | rq.CloseHandle
    assert {type(request) for request in ALL_REQUESTS.values()} == set(kinds.__args__)


@pytest.mark.parametrize("name", ALL_REQUESTS)
@pytest.mark.parametrize("how", ["never opened", "closed"])
def test_unknown_handle(driven: Driven, name: str, how: str) -> None:
    # By contract: "Unknown handle: ERROR_INVALID_HANDLE"
    handle = 999
    if how == "closed":
        handle = driven.open()
        driven.grant(handle, rq.CloseHandle())
    assert driven.refusal(handle, ALL_REQUESTS[name]) is ErrorCode.ERROR_INVALID_HANDLE


def test_flow_ids_wrap_past_the_reserved_ones() -> None:
    # 0 means "none", and all ones is what C programs use for "invalid".
    driven = Driven(first_flow_id=(1 << 32) - 3)
    handle = driven.open()
    ids = [driven.flow(handle, cookie) for cookie in range(1, 5)]
    assert ids == [(1 << 32) - 3, (1 << 32) - 2, 1, 2]


def test_flow_ids_in_use_are_passed_over() -> None:
    driven = Driven(first_flow_id=(1 << 32) - 3)
    handle = driven.open()
    first = [driven.flow(handle, cookie) for cookie in (1, 2, 3)]
    driven.grant(handle, rq.RemoveSocket(first[1], None))
    again = Driven(first_flow_id=1)
    other = again.open()
    held = [again.flow(other, cookie) for cookie in (1, 2)]
    assert held == [1, 2]
    assert driven.flow(handle, 4) not in (first[0], first[2])


def test_plans_name_the_interface_that_a_socket_is_bound_to_now(
    driven: Driven, handle: int
) -> None:
    bound = driven.grant(handle, add(0, facts(1, interface=3), A))
    assert isinstance(bound, int)
    assert driven.mechanism.plans[1].interface == 3
    driven.mechanism.refusals.append(NO_MECHANISM)
    driven.refusal(handle, add(bound, facts(1, interface=4), B))
    driven.grant(handle, rate(bound, 5_000))
    assert driven.mechanism.plans[1].interface == 3
    driven.grant(handle, add(bound, facts(1, interface=4), B))
    assert driven.mechanism.plans[1].interface == 4


def test_ids_are_not_reused_at_once(driven: Driven, handle: int) -> None:
    flow = driven.flow(handle)
    driven.grant(handle, rq.RemoveSocket(flow, None))
    assert driven.flow(handle) != flow

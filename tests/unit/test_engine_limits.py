"""Quotas, tracked hosts, and what a suspend does."""

from __future__ import annotations

import pytest

from openqwave.admission.policy import Experiments, Limits, Policy
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.flow import UNTOUCHED, NoticeKind
from openqwave.subsystem import requests as rq
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
    notify,
    query,
    rate,
    view,
)
from tests.unit.test_engine_flows import ALL_REQUESTS

FULL = ErrorCode.ERROR_NO_SYSTEM_RESOURCES
INVALID = ErrorCode.ERROR_INVALID_PARAMETER
HOST = A.host()


# -- quotas ---------------------------------------------------------------------------


def test_handles_are_limited_per_process() -> None:
    # By contract: "Quota per client exceeded: ERROR_NO_SYSTEM_RESOURCES."
    driven = Driven(Policy(limits=Limits(handles=2)))
    first, _ = driven.open(), driven.open()
    refusal = driven.engine.open_handle(OWNER)
    assert isinstance(refusal, Refusal)
    assert refusal.code is FULL
    driven.open(STRANGER)
    driven.grant(first, rq.CloseHandle())
    driven.open()


def test_flows_are_limited_per_process() -> None:
    driven = Driven(Policy(limits=Limits(flows=2)))
    first, second = driven.open(), driven.open()
    flow = driven.flow(first, 1)
    driven.flow(second, 2)
    for handle in (first, second):
        assert driven.refusal(handle, add(0, facts(3))) is FULL
    # Others, and what makes no flow, are not concerned.
    driven.flow(driven.open(STRANGER), 4)
    driven.join(first, flow, 3)
    driven.grant(first, rq.RemoveSocket(flow, None))
    driven.flow(second, 3)


def test_destinations_of_a_socket_are_limited() -> None:
    driven = Driven(Policy(limits=Limits(destinations_per_flow=2)))
    handle = driven.open()
    flow = driven.flow(handle, 1, A)
    driven.join(handle, flow, 1, B)
    assert driven.refusal(handle, add(flow, facts(1), C)) is FULL
    # A pair that is there already is no new one.
    driven.join(handle, flow, 1, B)


def test_destinations_of_a_process_are_limited() -> None:
    driven = Driven(Policy(limits=Limits(destinations=3)))
    first, second = driven.open(), driven.open()
    flow = driven.flow(first, 1, A)
    driven.join(first, flow, 1, B)
    other = driven.flow(second, 2, A)
    for request in (add(flow, facts(1), C), add(0, facts(3))):
        assert driven.refusal(first, request) is FULL
    driven.flow(driven.open(STRANGER), 4)
    # What ends makes room: one socket of a flow, all of it, a closed one, a handle.
    driven.grant(second, rq.RemoveSocket(other, None))
    driven.join(first, flow, 5, A)
    assert driven.refusal(second, add(0, facts(2))) is FULL
    driven.grant(first, rq.RemoveSocket(flow, 5))
    driven.flow(second, 2, A)
    assert driven.refusal(second, add(0, facts(3))) is FULL
    driven.grant(second, rq.CloseHandle())
    driven.join(first, flow, 1, C)
    assert driven.refusal(first, add(flow, facts(6), A)) is FULL


def test_refused_destinations_use_no_quota() -> None:
    driven = Driven(Policy(limits=Limits(destinations=2)))
    handle = driven.open()
    flow = driven.flow(handle, 1, A)
    for request in (add(flow, facts(1), B), add(0, facts(2)), add(0, facts(1), A)):
        driven.mechanism.refusals.append(NO_MECHANISM)
        assert driven.refusal(handle, request) is NO_MECHANISM.code
    driven.mechanism.refusals.append(NO_MECHANISM)
    assert driven.refusal(handle, rq.RemoveSocket(flow, None)) is NO_MECHANISM.code
    driven.join(handle, flow, 1, B)
    assert driven.refusal(handle, add(flow, facts(1), C)) is FULL


def test_a_refused_flow_uses_no_quota() -> None:
    driven = Driven(Policy(limits=Limits(flows=1)))
    handle = driven.open()
    driven.mechanism.refusals.append(NO_MECHANISM)
    assert driven.refusal(handle, add(0, facts())) is NO_MECHANISM.code
    driven.flow(handle)


def test_tracked_hosts_are_limited() -> None:
    driven = Driven(Policy(limits=Limits(tracked_hosts=1)))
    handle = driven.open()
    for host in (A, B):
        driven.see(host, view())
    driven.grant(handle, rq.StartTracking(HOST, None))
    assert driven.refusal(handle, rq.StartTracking(B.host(), None)) is FULL
    driven.grant(handle, rq.StartTracking(HOST, None))
    driven.grant(handle, rq.StopTracking(HOST))
    driven.grant(handle, rq.StartTracking(B.host(), None))


def test_each_limit_that_was_in_the_way_is_counted() -> None:
    limits = Limits(
        handles=1,
        flows=1,
        destinations=2,
        destinations_per_flow=1,
        tracked_hosts=1,
        pending_operations=1,
    )
    driven = Driven(Policy(limits=limits))
    handle = driven.open()
    for host in (A, B):
        driven.see(host, view())
    driven.grant(handle, rq.StartTracking(HOST, None))
    assert driven.engine.limits_reached == {}
    assert isinstance(driven.engine.open_handle(OWNER), Refusal)
    assert driven.refusal(handle, rq.StartTracking(B.host(), None)) is FULL
    flow = driven.flow(handle, 1, A)
    assert driven.refusal(handle, add(0, facts(2))) is FULL
    assert driven.refusal(handle, add(flow, facts(1), B)) is FULL
    driven.join(handle, flow, 2, A)
    assert driven.refusal(handle, add(flow, facts(3), A)) is FULL
    driven.grant(handle, rq.RemoveSocket(flow, None))
    flow = driven.flow(handle, 1, A, is_adaptive=True)
    driven.waits(handle, notify(flow, NoticeKind.CONGESTED))
    assert driven.refusal(handle, notify(flow, NoticeKind.UNCONGESTED)) is FULL
    # A limit of each name, once.
    assert driven.engine.limits_reached == dict.fromkeys(
        [
            "handles",
            "tracked_hosts",
            "flows",
            "destinations_per_flow",
            "destinations",
            "pending_operations",
        ],
        1,
    )


# -- tracking -------------------------------------------------------------------------

# By contract: "Address of a bad family or malformed, unspecified, or multicast:
# ERROR_INVALID_PARAMETER."
NO_HOSTS = ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "::ffff:192.0.2.1"]  # noqa: S104


@pytest.mark.parametrize("text", NO_HOSTS)
def test_no_host(text: str) -> None:
    driven = Driven()
    handle, host = driven.open(), endpoint(text, 0)
    driven.see(host, view())
    assert driven.refusal(handle, rq.StartTracking(host, None)) is INVALID
    assert driven.refusal(handle, rq.StopTracking(host)) is INVALID


def test_the_edges_word_on_a_host_is_passed_on() -> None:
    driven = Driven()
    handle = driven.open()
    driven.see(A, view())
    bad = Refusal(INVALID, "malformed")
    assert driven.refusal(handle, rq.StartTracking(bad, None)) is INVALID
    assert driven.refusal(handle, rq.StopTracking(bad)) is INVALID
    # By contract: "No route: ERROR_HOST_UNREACHABLE."
    no_route = Refusal(ErrorCode.ERROR_HOST_UNREACHABLE, "no route")
    assert driven.refusal(handle, rq.StartTracking(HOST, no_route)) is no_route.code


def test_a_path_that_cannot_be_measured_is_not_tracked() -> None:
    # By contract: "Off-link while policy forbids experiments there: ERROR_NOT_SUPPORTED."
    driven = Driven()
    handle = driven.open()
    assert driven.refusal(handle, rq.StartTracking(HOST, None)) is ErrorCode.ERROR_NOT_SUPPORTED
    assert driven.refusal(handle, rq.StopTracking(HOST)) is INVALID


def tracking() -> tuple[Driven, int]:
    driven = Driven()
    handle = driven.open()
    driven.see(A, view())
    driven.grant(handle, rq.StartTracking(HOST, None))
    return driven, handle


def test_tracking_twice_counts_once() -> None:
    # "Starting twice on one handle is counted once".
    driven, handle = tracking()
    driven.grant(handle, rq.StartTracking(HOST, None))
    driven.grant(handle, rq.StopTracking(HOST))
    assert driven.refusal(handle, rq.StopTracking(HOST)) is INVALID


@pytest.mark.parametrize("ports", [(1, 2), (0, 9), (9, 0)])
def test_the_port_is_ignored(ports: tuple[int, int]) -> None:
    # "Port ignored."
    driven = Driven()
    handle = driven.open()
    driven.see(A, view())
    start, stop = (endpoint("192.0.2.1", port) for port in ports)
    driven.grant(handle, rq.StartTracking(start, None))
    driven.grant(handle, rq.StopTracking(stop))


def test_tracking_belongs_to_a_handle() -> None:
    # By contract: "Stopping a client that this handle does not track [...]:
    # ERROR_INVALID_PARAMETER".
    driven, _ = tracking()
    assert driven.refusal(driven.open(), rq.StopTracking(HOST)) is INVALID


def test_stopping_never_affects_flows() -> None:
    # "Stopping never affects flows."
    driven, handle = tracking()
    flow = driven.flow(handle, is_adaptive=True)
    driven.see(A, view(available_bps=1_000))
    driven.grant(handle, rate(flow, 1_000))
    before = driven.treatment()
    driven.grant(handle, rq.StopTracking(HOST))
    assert driven.treatment() == before
    assert before.dscp == 56


# "lets go of its tracked clients, which stay warm for a limited time [decision: 120 s]".
@pytest.mark.parametrize(
    ("later_ns", "is_warm"),
    [(0, True), (119_999_999_999, True), (120_000_000_000, False), (10**15, False)],
)
def test_hosts_of_a_closed_handle_stay_warm(later_ns: int, is_warm: bool) -> None:
    driven, handle = tracking()
    driven.grant(handle, rq.CloseHandle())
    driven.now_ns += later_ns
    other = driven.open()
    if is_warm:
        # "Stopping a client that this handle does not track, and no closed handle left warm:
        # ERROR_INVALID_PARAMETER": so a warm one may be stopped, once.
        driven.grant(other, rq.StopTracking(HOST))
    assert driven.refusal(other, rq.StopTracking(HOST)) is INVALID


def test_warm_time() -> None:
    assert Experiments().warm_ns == 120 * 10**9


def test_a_host_that_was_stopped_is_not_warm() -> None:
    driven, handle = tracking()
    driven.grant(handle, rq.StopTracking(HOST))
    driven.grant(handle, rq.CloseHandle())
    assert driven.refusal(driven.open(), rq.StopTracking(HOST)) is INVALID


def test_warmth_counts_from_the_last_close() -> None:
    driven, first = tracking()
    second = driven.open()
    driven.grant(second, rq.StartTracking(HOST, None))
    driven.grant(first, rq.CloseHandle())
    driven.now_ns += 100 * 10**9
    driven.grant(second, rq.CloseHandle())
    driven.now_ns += 100 * 10**9
    driven.grant(driven.open(), rq.StopTracking(HOST))


def test_another_closing_handle_does_not_cool_hosts() -> None:
    driven, handle = tracking()
    driven.grant(handle, rq.CloseHandle())
    driven.now_ns += 60 * 10**9
    driven.grant(driven.open(), rq.CloseHandle())
    driven.grant(driven.open(), rq.StopTracking(HOST))


# -- interruption ---------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in ALL_REQUESTS if name != "close"])
def test_a_lost_handle_says_so_to_everything(name: str) -> None:
    # "the first call on an old handle answers ERROR_DEVICE_REINITIALIZATION_NEEDED, and so
    # does every later one but QOSCloseHandle, which succeeds."
    driven = Driven()
    handle = driven.open()
    driven.interrupt()
    for _ in range(2):
        assert (
            driven.refusal(handle, ALL_REQUESTS[name])
            is ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED
        )
    assert driven.grant(handle, rq.CloseHandle()) is None
    assert driven.refusal(handle, ALL_REQUESTS[name]) is ErrorCode.ERROR_INVALID_HANDLE


def test_an_interruption_ends_every_flow() -> None:
    driven = Driven()
    handles: list[tuple[int, Endpoint]] = [(driven.open(), A), (driven.open(STRANGER), B)]
    for cookie, (handle, destination) in enumerate(handles, 1):
        driven.flow(handle, cookie, destination)
    driven.interrupt()
    assert driven.mechanism.plans == {}
    assert driven.engine.sockets() == ()
    assert [driven.treatment(cookie) for cookie in (1, 2)] == [UNTOUCHED] * 2


def test_a_handle_opened_afterwards_is_alive() -> None:
    driven = Driven()
    old = driven.open()
    driven.flow(old, 1)
    driven.interrupt()
    new = driven.open()
    flow = driven.flow(new, 1)
    driven.grant(old, rq.CloseHandle())
    assert driven.enumerated(new) == (flow,)
    assert driven.treatment().dscp == 56


def test_an_interruption_with_nothing_open() -> None:
    driven = Driven()
    driven.interrupt()
    driven.interrupt()
    handle = driven.open()
    flow = driven.flow(handle)
    assert driven.grant(handle, query(flow, rq.Question.PACKET_PRIORITY, ROOT)) is not None


def test_an_interruption_cannot_be_refused() -> None:
    driven = Driven()
    driven.see(A, view(is_congested=False))
    handle = driven.open()
    flow = driven.flow(handle, is_adaptive=True)
    waiting = driven.waits(handle, notify(flow, NoticeKind.CONGESTED))
    driven.mechanism.refusals.append(NO_MECHANISM)
    driven.interrupt()
    assert driven.engine.sockets() == ()
    assert driven.code_of(waiting) is ErrorCode.ERROR_OPERATION_ABORTED

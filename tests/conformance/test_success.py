"""Calls that succeed, in every form of argument: the last error stays as it was."""

from __future__ import annotations

import socket
from ctypes import byref, c_byte, pointer, sizeof
from typing import Any

import pytest

from openqwave.qos2 import (
    DWORD,
    HANDLE,
    QOS_OUTGOING_DEFAULT_MINIMUM_BANDWIDTH,
    SOCKET,
    TRUE,
    UINT64,
    ULONG,
    GetLastError,
    QOSCancel,
    QOSCloseHandle,
    QOSEnumerateFlows,
    QOSTrafficTypeExcellentEffort,
    SetLastError,
)
from tests.conformance.calls import (
    ADMINISTRATOR_ONLY,
    FUNDAMENTALS,
    PRIORITY,
    RATE,
    VERSION_1_0,
    Call,
    adaptive,
    add,
    connected,
    create,
    enumerate_flows,
    foreign,
    here,
    in_use,
    measured,
    notify,
    plain,
    query,
    remove,
    set_dscp,
    set_flow,
    set_rate,
    track,
    unconnected,
    untrack,
    zero,
)
from tests.conformance.world import (
    AVAILABLE_BPS,
    HELD_BPS,
    MEASURED,
    SENTINEL,
    UNMEASURED,
    World,
    open_world,
    sockaddr,
)

# A call that waits where it should not is stopped soon.
pytestmark = pytest.mark.timeout(30)

GOOD: dict[str, Call] = {
    "create": create(VERSION_1_0, byref(HANDLE())),
    "close": lambda w: QOSCloseHandle(w.other),
    "track": track(byref(sockaddr(MEASURED))),
    # The contract's words: "Starting twice on one handle is counted once [decision]."
    "track twice": lambda w: (
        track(byref(sockaddr(MEASURED)))(w)
        and track(byref(sockaddr(MEASURED)))(w)
        and untrack(byref(sockaddr(MEASURED)))(w)
    ),
    "track another port": lambda w: (
        track(byref(sockaddr(MEASURED, 1)))(w) and untrack(byref(sockaddr(MEASURED, 2)))(w)
    ),
    "enumerate": enumerate_flows(byref(ULONG(20)), (ULONG * 5)()),
    "add connected": add(connected),
    "add with the peer named": add(connected, here()),
    "add by number": add(lambda w: w.connected.fileno()),
    "add by ctypes number": add(lambda w: SOCKET(w.connected.fileno())),
    "add unconnected": add(lambda w: w.foreign_socket, byref(sockaddr(UNMEASURED))),
    "add adaptive": add(connected, flags=0),
    "add TCP": add(lambda w: w.tcp, kind=QOSTrafficTypeExcellentEffort),
    "add IPv6, Windows' family": add(lambda w: w.unconnected6, byref(sockaddr("::1"))),
    "add IPv6, Linux's family": add(
        lambda w: w.unconnected6, byref(sockaddr("::1", family=socket.AF_INET6))
    ),
    "add bytes": add(lambda w: w.foreign_socket, bytes(sockaddr(UNMEASURED))),
    # The contract: "Adding a (socket, destination) pair that the same flow already holds
    # succeeds and changes nothing [decision; Chromium and oRTP rely on it]"
    "join again": add(unconnected, here(), flow=plain),
    "join with a destination": add(unconnected, byref(sockaddr(UNMEASURED)), flow=plain),
    # The contract says of this case that the traffic type is then ignored.
    "join with any type": add(unconnected, byref(sockaddr(UNMEASURED)), kind=99, flow=plain),
    # The contract: "A pair held by another flow: the newer flow takes it over [decision]"
    "take over": add(lambda w: w.foreign_socket, here()),
    "remove socket": remove(unconnected, plain),
    "remove number": remove(lambda w: w.unconnected.fileno(), plain),
    "remove flow": remove(zero, plain),
    "remove flow with None": remove(lambda _: None, plain),
    "set type": set_flow(plain, 0, 4, byref(DWORD(1))),
    "set type in an array": set_flow(plain, 0, 4, (DWORD * 1)(1)),
    "set type by pointer": set_flow(plain, 0, 4, pointer(DWORD(1))),
    "set rate": set_rate(measured, HELD_BPS + AVAILABLE_BPS),
    "set rate without estimates": set_rate(adaptive, 0),
    "set default rate": set_rate(measured, QOS_OUTGOING_DEFAULT_MINIMUM_BANDWIDTH),
    "end rate": set_rate(measured, 0),
    "set DSCP": set_dscp(plain, 63),
    "set type overlapped": set_flow(
        plain, 0, 4, byref(DWORD(1)), 0, lambda w: byref(w.overlapped())
    ),
    "query fundamentals": query(measured, *FUNDAMENTALS, (c_byte * 40)()),
    "query priority": query(plain, *PRIORITY, (c_byte * 16)()),
    "query rate": query(measured, *RATE, (c_byte * 8)()),
    "query priority of another handle": query(foreign, *PRIORITY, (c_byte * 16)()),
    "notify uncongested": notify(measured, 1),
    "notify available": notify(measured, 2, 8, byref(UINT64(HELD_BPS + AVAILABLE_BPS))),
    "cancel": lambda w: QOSCancel(w.handle, in_use_untouched(w)),
}


def in_use_untouched(w: World) -> object:
    overlapped = in_use(w)
    SetLastError(SENTINEL)
    return overlapped


@ADMINISTRATOR_ONLY
def test_enumeration_calls_twice() -> None:
    # The contract: "Call-twice: too small a buffer gives ERROR_INSUFFICIENT_BUFFER and the
    # needed size; success sets the bytes written. All flows of the subsystem, ascending ids."
    with open_world() as w:
        size: Any = ULONG(0)
        assert not QOSEnumerateFlows(w.handle, byref(size), None)
        assert size.value == 20
        flows = (ULONG * 8)()
        size.value = sizeof(flows)
        assert QOSEnumerateFlows(w.handle, byref(size), flows)
        assert size.value == 20
        held = [w.plain, w.adaptive, w.blank, w.measured, w.foreign]
        assert list(flows) == [*sorted(held), 0, 0, 0]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            id=name.replace(" ", "-"),
            marks=[ADMINISTRATOR_ONLY] if name in ("enumerate", "set DSCP") else [],
        )
        for name in GOOD
    ],
)
def test_success_leaves_the_last_error_untouched(name: str) -> None:
    # "A success leaves the last error untouched."
    with open_world() as w:
        SetLastError(SENTINEL)
        assert (GOOD[name](w), GetLastError()) == (TRUE, SENTINEL)

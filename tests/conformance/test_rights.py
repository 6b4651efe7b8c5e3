"""What needs rights and what does not; what a host without routes answers."""

from __future__ import annotations

import grp
import os
from ctypes import byref, c_byte

import pytest

from openqwave.admission.policy import Policy
from openqwave.qos2 import (
    DWORD,
    ERROR_ACCESS_DENIED,
    ERROR_HOST_UNREACHABLE,
    ERROR_NOT_FOUND,
    FALSE,
    TRUE,
    ULONG,
)
from tests.conformance.calls import (
    PRIORITY,
    Call,
    Row,
    adaptive,
    add,
    check,
    connected,
    enumerate_flows,
    foreign,
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
    zero,
)
from tests.conformance.contract import ADMINISTRATOR, DSCP_RIGHT, FACTS, NAMES, NO_ROUTE, ORDER
from tests.conformance.world import (
    IMPATIENT,
    MEASURED,
    SENTINEL,
    enter_empty_network,
    in_child,
    open_world,
    sockaddr,
)

# nobody, on every distribution that has it.
NOBODY = 65_534


def some_group() -> tuple[int, str]:
    """Any group but root's and nobody's."""
    found = next(group for group in grp.getgrall() if group.gr_gid not in (0, NOBODY))
    return found.gr_gid, found.gr_name


def without_rights(row: Row, groups: list[int], operators: str) -> tuple[int, int, bool]:
    """Make the row's call as an ordinary user, in another process."""

    def work() -> tuple[int, int, bool]:
        os.setgroups(groups)
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with open_world(Policy(operators_group=operators, experiments=IMPATIENT)) as w:
            return check(row, w)

    result, error, has_changed = in_child(work)
    return result, error, has_changed


DENIED = [
    Row("QOSSetFlow", "DSCP without rights", set_dscp(plain, 46), ERROR_ACCESS_DENIED, DSCP_RIGHT),
    Row(
        "QOSSetFlow",
        "DSCP of an adaptive flow without rights",
        set_dscp(adaptive, 46),
        ERROR_ACCESS_DENIED,
        ORDER,
    ),
    Row("QOSSetFlow", "DSCP of another handle", set_dscp(foreign, 46), ERROR_NOT_FOUND, ORDER),
    Row(
        "QOSEnumerateFlows",
        "without rights",
        enumerate_flows(byref(ULONG(400)), (ULONG * 100)()),
        ERROR_ACCESS_DENIED,
        ADMINISTRATOR,
    ),
    Row(
        "QOSEnumerateFlows",
        "small buffer without rights",
        enumerate_flows(byref(ULONG(0)), None),
        ERROR_ACCESS_DENIED,
        ORDER,
    ),
]


@pytest.mark.root
@pytest.mark.parametrize("row", DENIED, ids=lambda row: row.id)
def test_call_without_rights(row: Row) -> None:
    _, operators = some_group()
    assert without_rights(row, [], operators) == (FALSE, row.error, False), row.source


@pytest.mark.root
def test_operators_may_choose_a_dscp_and_no_more() -> None:
    gid, operators = some_group()
    dscp, _, _, enumeration, _ = DENIED
    assert without_rights(dscp, [gid], operators)[:2] == (TRUE, SENTINEL), DSCP_RIGHT
    assert without_rights(enumeration, [gid], operators) == (FALSE, ERROR_ACCESS_DENIED, False)


@pytest.mark.root
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(add(connected), id="add"),
        pytest.param(remove(zero, plain), id="remove"),
        pytest.param(set_flow(plain, 0, 4, byref(DWORD(1))), id="type"),
        pytest.param(set_rate(measured, 1_000_000), id="rate"),
        pytest.param(query(plain, *PRIORITY, (c_byte * 64)()), id="query"),
        pytest.param(notify(measured, 1), id="notify"),
        pytest.param(track(byref(sockaddr(MEASURED))), id="track"),
    ],
)
def test_what_needs_no_rights(call: Call) -> None:
    # "create, add, remove, set type, set rate, query own flow, notify, track | none"
    row = Row("", "", call, 0, "")
    assert without_rights(row, [], "netdev")[:2] == (TRUE, SENTINEL)


@pytest.mark.kernel
@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize("function", ["QOSStartTrackingClient", "QOSAddSocketToFlow"])
def test_no_route(function: str, host: str) -> None:
    address = byref(sockaddr(host))
    call = track(address) if function == "QOSStartTrackingClient" else None
    if call is None:
        call = add((lambda w: w.unconnected6) if ":" in host else unconnected, address)
    row = Row(function, "no route", call, ERROR_HOST_UNREACHABLE, NO_ROUTE)

    def work() -> tuple[int, int, bool]:
        enter_empty_network()
        with open_world() as w:
            return check(row, w)

    assert in_child(work) == [FALSE, row.error, False], row.source
    assert NAMES[row.error] in FACTS["errors_by_function"][function]

"""Calls of the Windows face, in short forms for tables of rows."""

from __future__ import annotations

import os
from collections.abc import Callable
from ctypes import byref, create_string_buffer, sizeof
from dataclasses import dataclass
from typing import Any

import pytest

from openqwave.admission.policy import Limits
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Unmeasurable
from openqwave.qos2 import (
    DWORD,
    ERROR_INVALID_HANDLE,
    ERROR_IO_PENDING,
    ERROR_NOT_FOUND,
    HANDLE,
    INVALID_HANDLE_VALUE,
    OVERLAPPED,
    QOS_FLOW_FUNDAMENTALS,
    QOS_FLOWID,
    QOS_FLOWRATE_OUTGOING,
    QOS_NON_ADAPTIVE_FLOW,
    QOS_PACKET_PRIORITY,
    QOS_VERSION,
    UINT64,
    ULONG,
    GetLastError,
    QOSAddSocketToFlow,
    QOSCancel,
    QOSCreateHandle,
    QOSEnumerateFlows,
    QOSNotifyCongested,
    QOSNotifyFlow,
    QOSQueryFlow,
    QOSQueryFlowFundamentals,
    QOSQueryOutgoingRate,
    QOSQueryPacketPriority,
    QOSRemoveSocketFromFlow,
    QOSSetFlow,
    QOSSetOutgoingDSCPValue,
    QOSSetOutgoingRate,
    QOSStartTrackingClient,
    QOSStopTrackingClient,
    QOSTrafficTypeVoice,
    SetLastError,
)
from tests.conformance.contract import NAMES
from tests.conformance.world import SENTINEL, World, sockaddr

Call = Callable[[World], int]

SINKLESS = Unmeasurable("no sink answers")


# For the rows that get past the check of rights; an ordinary user may run the others.
ADMINISTRATOR_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs effective uid 0")


@dataclass(frozen=True)
class Row:
    """One call that fails.

    Attributes:
        function: Its name.
        case: What is wrong.
        call: Makes it.
        error: The last error afterwards.
        source: The line that asks for it.
        limits: Of the policy, where the row is about them.
    """

    function: str
    case: str
    call: Call
    error: int
    source: str
    limits: Limits | None = None

    @property
    def needs_rights(self) -> bool:
        """Does the error lie behind a check of rights?"""
        if self.error in (ERROR_INVALID_HANDLE, ERROR_NOT_FOUND):
            return False
        return self.function == "QOSEnumerateFlows" or self.case.startswith("DSCP of a")

    @property
    def id(self) -> str:
        return f"{self.function}-{self.case.replace(' ', '-')}-{NAMES[self.error]}"


# -- short forms of the calls ---------------------------------------------------------


def create(version: object, target: object) -> Call:
    return lambda _: QOSCreateHandle(version, target)


def track(address: object, flags: object = 0) -> Call:
    return lambda w: QOSStartTrackingClient(w.handle, address, flags)


def untrack(address: object, flags: object = 0) -> Call:
    return lambda w: QOSStopTrackingClient(w.handle, address, flags)


def enumerate_flows(size: object, buffer: object) -> Call:
    # A call writes the needed size there, and a row's call is made more than once.
    cell: Any = getattr(size, "_obj", None)
    first = getattr(cell, "value", None)

    def call(w: World) -> int:
        if first is not None:
            cell.value = first
        return QOSEnumerateFlows(w.handle, size, buffer)

    return call


def add(
    sock: Callable[[World], object],
    address: object = None,
    *,
    kind: object = QOSTrafficTypeVoice,
    flags: object = QOS_NON_ADAPTIVE_FLOW,
    flow: Callable[[World], int] = lambda _: 0,
) -> Call:
    def call(w: World) -> int:
        flow_id: Any = QOS_FLOWID(flow(w))
        before = flow_id.value
        result = QOSAddSocketToFlow(w.handle, sock(w), address, kind, flags, byref(flow_id))
        assert result or flow_id.value == before
        return result

    return call


def remove(
    sock: Callable[[World], object], flow: Callable[[World], object], flags: object = 0
) -> Call:
    return lambda w: QOSRemoveSocketFromFlow(w.handle, sock(w), flow(w), flags)


def set_flow(
    flow: Callable[[World], object],
    operation: object,
    size: object,
    buffer: object,
    flags: object = 0,
    overlapped: Callable[[World], object] = lambda _: None,
) -> Call:
    return lambda w: QOSSetFlow(w.handle, flow(w), operation, size, buffer, flags, overlapped(w))


def set_rate(flow: Callable[[World], object], bps: int, shaping: int = 1, reason: int = 0) -> Call:
    return set_flow(
        flow, QOSSetOutgoingRate, 16, byref(QOS_FLOWRATE_OUTGOING(bps, shaping, reason))
    )


def set_dscp(flow: Callable[[World], object], dscp: int) -> Call:
    return set_flow(flow, QOSSetOutgoingDSCPValue, 4, byref(DWORD(dscp)))


def query(
    flow: Callable[[World], object],
    operation: object,
    size: int | None,
    buffer: object,
    flags: object = 0,
    *,
    needed: int | None = None,
) -> Call:
    def call(w: World) -> int:
        cell: Any = None if size is None else ULONG(size)
        target = None if cell is None else byref(cell)
        result = QOSQueryFlow(w.handle, flow(w), operation, target, buffer, flags, None)
        # In the contract's words: "Small buffer: ... and the needed size."
        assert cell is None or cell.value == (size if needed is None else needed)
        return result

    return call


def notify(
    flow: Callable[[World], object],
    operation: object,
    size: int | None = None,
    buffer: object = None,
    flags: object = 0,
    overlapped: Callable[[World], object] = lambda _: None,
) -> Call:
    return lambda w: QOSNotifyFlow(
        w.handle,
        flow(w),
        operation,
        None if size is None else byref(ULONG(size)),
        buffer,
        flags,
        overlapped(w),
    )


def after(first: Callable[[World], object], call: Call) -> Call:
    """Something that works, then the call."""

    def both(w: World) -> int:
        first(w)
        SetLastError(SENTINEL)
        return call(w)

    return both


def both(
    first: Callable[[World], object], second: Callable[[World], object]
) -> Callable[[World], object]:
    """One after the other."""
    return lambda w: (first(w), second(w))


def refusing(host: str, code: ErrorCode) -> Callable[[World], object]:
    """The way to a host, which was good, is no way any more."""

    def act(w: World) -> None:
        w.lead(host)
        w.lead(host, Refusal(code, "the way is closed"))

    return act


def breaking(host: str, code: ErrorCode | None) -> Callable[[World], object]:
    """The experiments on a path, which ran, end; without a code because no sink answers."""
    why = SINKLESS if code is None else Refusal(code, "the experiments ended")

    def act(w: World) -> None:
        w.lead(host)
        w.stop(host, why)

    return act


def aged(w: World) -> None:
    """Let what was measured become too old to be known."""
    w.clock.now += 31_000_000_000


def again(kind: int, size: int | None = None, buffer: object = None) -> Call:
    """The second pending request of a kind."""
    one = notify(measured, kind, size, buffer, overlapped=lambda w: byref(w.overlapped()))

    def both(w: World) -> int:
        assert not one(w)
        assert GetLastError() == ERROR_IO_PENDING
        return one(w)

    return both


def plain(w: World) -> int:
    return w.plain


def adaptive(w: World) -> int:
    return w.adaptive


def blank(w: World) -> int:
    return w.blank


def measured(w: World) -> int:
    return w.measured


def foreign(w: World) -> int:
    return w.foreign


def unknown(_: World) -> int:
    return 0xFFFF_FFF0


def zero(_: World) -> int:
    return 0


def unconnected(w: World) -> object:
    return w.unconnected


def connected(w: World) -> object:
    return w.connected


def misused(_: World) -> object:
    """An OVERLAPPED whose event is none."""
    return byref(OVERLAPPED(hEvent=0xDEAD_0000))


def in_use(w: World) -> object:
    """An OVERLAPPED that holds a pending operation."""
    return byref(w.pending(w.handle, w.measured, QOSNotifyCongested))


def cut(host: str, size: int) -> object:
    """A sockaddr in too small an object."""
    return byref(create_string_buffer(bytes(sockaddr(host))[:size], size))


def here() -> object:
    return byref(sockaddr("127.0.0.1"))


def there(host: str) -> object:
    return byref(sockaddr(host))


BAD_HANDLES: dict[str, Callable[[World], object]] = {
    "null handle": lambda _: 0,
    "handle None": lambda _: None,
    "closed handle": lambda w: w.closed,
    "never opened": lambda _: 0x0BAD_CAFC,
    "INVALID_HANDLE_VALUE": lambda _: INVALID_HANDLE_VALUE,
    "event handle": lambda w: w.event(),
    "handle by reference": lambda w: byref(HANDLE(w.handle)),
}

ON_HANDLES: dict[str, Callable[[World, object], int]] = {
    "QOSStartTrackingClient": lambda _, h: QOSStartTrackingClient(h, here(), 0),
    "QOSStopTrackingClient": lambda _, h: QOSStopTrackingClient(h, here(), 0),
    "QOSEnumerateFlows": lambda _, h: QOSEnumerateFlows(h, byref(ULONG(400)), (ULONG * 100)()),
    "QOSAddSocketToFlow": lambda w, h: QOSAddSocketToFlow(
        h, w.connected, None, QOSTrafficTypeVoice, 2, byref(QOS_FLOWID())
    ),
    "QOSRemoveSocketFromFlow": lambda w, h: QOSRemoveSocketFromFlow(h, 0, w.plain, 0),
    "QOSSetFlow": lambda w, h: QOSSetFlow(h, w.plain, 0, 4, byref(DWORD(1)), 0, None),
    "QOSQueryFlow": lambda w, h: QOSQueryFlow(
        h, w.plain, 1, byref(ULONG(16)), byref(QOS_PACKET_PRIORITY()), 0, None
    ),
    "QOSNotifyFlow": lambda w, h: QOSNotifyFlow(h, w.measured, 1, None, None, 0, None),
    "QOSCancel": lambda w, h: QOSCancel(h, in_use(w)),
}

# The same functions with everything else wrong too.
ALL_WRONG: dict[str, Callable[[object], int]] = {
    "QOSStartTrackingClient": lambda h: QOSStartTrackingClient(h, None, 1),
    "QOSStopTrackingClient": lambda h: QOSStopTrackingClient(h, None, 1),
    "QOSEnumerateFlows": lambda h: QOSEnumerateFlows(h, None, None),
    "QOSAddSocketToFlow": lambda h: QOSAddSocketToFlow(h, None, None, 9, 9, None),
    "QOSRemoveSocketFromFlow": lambda h: QOSRemoveSocketFromFlow(h, "x", "x", 1),
    "QOSSetFlow": lambda h: QOSSetFlow(h, 0, 9, 0, None, 1, None),
    "QOSQueryFlow": lambda h: QOSQueryFlow(h, 0, 9, None, None, 9, None),
    "QOSNotifyFlow": lambda h: QOSNotifyFlow(h, 0, 9, None, None, 1, None),
    "QOSCancel": lambda h: QOSCancel(h, None),
}


def on(function: str, handle: Callable[[World], object]) -> Call:
    return lambda w: ON_HANDLES[function](w, handle(w))


def all_wrong(function: str) -> Call:
    return lambda w: ALL_WRONG[function](w.closed)


VERSION_1_0 = byref(QOS_VERSION(1, 0))
FUNDAMENTALS = (QOSQueryFlowFundamentals, sizeof(QOS_FLOW_FUNDAMENTALS))
PRIORITY = (QOSQueryPacketPriority, sizeof(QOS_PACKET_PRIORITY))
RATE = (QOSQueryOutgoingRate, sizeof(UINT64))


def check(row: Row, w: World) -> tuple[int, int, bool]:
    """Make the call; returns its result, the last error, and whether anything changed."""
    before = w.state()
    SetLastError(SENTINEL)
    result = row.call(w)
    error = GetLastError()
    return result, error, w.state() != before

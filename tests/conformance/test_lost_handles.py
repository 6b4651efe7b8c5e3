"""Handles that a suspended machine has lost."""

from __future__ import annotations

import socket
from ctypes import byref

import pytest

from openqwave.qos2 import (
    ERROR_DEVICE_REINITIALIZATION_NEEDED,
    ERROR_OPERATION_ABORTED,
    FALSE,
    QOS_FLOWID,
    TRUE,
    WAIT_OBJECT_0,
    GetLastError,
    GetOverlappedResult,
    QOSAddSocketToFlow,
    QOSCancel,
    QOSCloseHandle,
    QOSNotifyCongested,
    QOSNotifyFlow,
    QOSTrafficTypeVoice,
    SetLastError,
    WaitForSingleObject,
)
from tests.conformance.calls import ALL_WRONG, ON_HANDLES, in_use
from tests.conformance.contract import LOST
from tests.conformance.world import SENTINEL, open_world


@pytest.mark.parametrize("is_wrong", [False, True], ids=["good-arguments", "all-wrong"])
@pytest.mark.parametrize("function", ON_HANDLES)
def test_lost_handle(function: str, is_wrong: bool) -> None:
    with open_world() as w:
        if function == "QOSCancel" and not is_wrong:
            # Made before the machine slept; every later call needs a good handle.
            overlapped = in_use(w)

            def call() -> int:
                return QOSCancel(w.handle, overlapped)
        else:

            def call() -> int:
                if is_wrong:
                    return ALL_WRONG[function](w.handle)
                return ON_HANDLES[function](w, w.handle)

        w.sleep()
        for _ in ("the first", "a later"):
            SetLastError(SENTINEL)
            outcome = call(), GetLastError()
            assert outcome == (FALSE, ERROR_DEVICE_REINITIALIZATION_NEEDED), LOST
        # "which succeeds"
        SetLastError(SENTINEL)
        assert (QOSCloseHandle(w.handle), GetLastError()) == (TRUE, SENTINEL)
        w.handle = w.new_handle()
        assert QOSAddSocketToFlow(
            w.handle, w.connected, None, QOSTrafficTypeVoice, 2, byref(QOS_FLOWID())
        )


def test_sleep_unmarks_and_aborts() -> None:
    with open_world() as w:
        overlapped = w.pending(w.handle, w.measured, QOSNotifyCongested)
        w.sleep()
        assert not QOSNotifyFlow(w.handle, w.measured, QOSNotifyCongested, None, None, 0, None)
        # "Pending operations of such a handle complete with ERROR_OPERATION_ABORTED."
        assert WaitForSingleObject(overlapped.hEvent, 0) == WAIT_OBJECT_0
        assert not GetOverlappedResult(w.handle, byref(overlapped), None, 0)
        assert GetLastError() == ERROR_OPERATION_ABORTED
        assert w.unconnected.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 0

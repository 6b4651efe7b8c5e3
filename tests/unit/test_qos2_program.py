"""Programs as they are written for Windows, with their import lines changed."""

from __future__ import annotations

import ctypes
import socket
from ctypes import POINTER, Structure, byref, c_ubyte, c_ushort, sizeof
from typing import Any

import pytest

from openqwave.client.embedded import process_subsystem
from openqwave.model.endpoint import Endpoint
from openqwave.model.estimates import Congestion, Fundamentals, PathView

# What the programs below import. On Windows the first line would come from ctypes, the
# second from ctypes.wintypes and the rest from the program's own declarations.
from openqwave.qos2 import WinDLL, WinError, get_last_error, windll

from openqwave.qos2 import BOOL, DWORD, HANDLE, ULONG  # isort: skip
from openqwave.qos2 import (
    ERROR_IO_PENDING,
    ERROR_NETWORK_BUSY,
    INFINITE,
    OVERLAPPED,
    QOS_ADD_OVERHEAD,
    QOS_FLOW_FUNDAMENTALS,
    QOS_FLOWRATE_OUTGOING,
    QOS_NON_ADAPTIVE_FLOW,
    QOS_VERSION,
    UINT64,
    WAIT_OBJECT_0,
    WAIT_TIMEOUT,
    QOSFlowRateCongestion,
    QOSFlowRateNotApplicable,
    QOSNotifyAvailable,
    QOSNotifyCongested,
    QOSQueryFlowFundamentals,
    QOSSetOutgoingDSCPValue,
    QOSSetOutgoingRate,
    QOSShapeAndMark,
    QOSTrafficTypeExcellentEffort,
    QOSTrafficTypeVoice,
)

CS7, EF = 56 << 2, 46 << 2


def tos_of(sock: socket.socket) -> int:
    return sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS)


class sockaddr_in(Structure):
    """The program's own declaration."""

    _fields_ = (
        ("sin_family", c_ushort),
        ("sin_port", c_ushort),
        ("sin_addr", c_ubyte * 4),
        ("sin_zero", c_ubyte * 8),
    )


def test_voice_client_with_declared_types() -> None:
    """One socket, several peers, an exact mark if it may be had; as Chromium does it."""
    qwave = WinDLL("qwave.dll", use_last_error=True)
    qwave.QOSCreateHandle.argtypes = [POINTER(QOS_VERSION), POINTER(HANDLE)]
    qwave.QOSCreateHandle.restype = BOOL
    qwave.QOSAddSocketToFlow.argtypes = [
        HANDLE,
        ctypes.c_size_t,
        ctypes.c_void_p,
        ctypes.c_int,
        DWORD,
        POINTER(ULONG),
    ]
    qwave.QOSAddSocketToFlow.restype = BOOL

    handle: Any = HANDLE()
    if not qwave.QOSCreateHandle(byref(QOS_VERSION(1, 0)), byref(handle)):
        raise WinError(get_last_error())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        flow: Any = ULONG(0)
        for last in (2, 3, 2):
            peer = sockaddr_in(socket.AF_INET, socket.htons(5_004), (127, 0, 0, last))
            if not qwave.QOSAddSocketToFlow(
                handle,
                sock.fileno(),
                byref(peer),
                QOSTrafficTypeVoice,
                QOS_NON_ADAPTIVE_FLOW,
                byref(flow),
            ):
                raise WinError(get_last_error())
        assert tos_of(sock) == CS7
        dscp = DWORD(46)
        if qwave.QOSSetFlow(
            handle, flow, QOSSetOutgoingDSCPValue, sizeof(dscp), byref(dscp), 0, None
        ):
            assert tos_of(sock) == EF
        else:
            # Without the right the mark of the type stays.
            assert tos_of(sock) == CS7
        assert qwave.QOSRemoveSocketFromFlow(handle, 0, flow, 0)
        assert tos_of(sock) == 0
    assert qwave.QOSCloseHandle(handle)


def test_adaptive_client_recovers_from_congestion() -> None:
    """Microsoft's sample: stream, step down when told so, step up when told so."""
    qwave, kernel32 = windll.qwave, windll.kernel32
    host = Endpoint(socket.inet_aton("127.0.0.9"), 0)
    subsystem = process_subsystem()

    def measure(available_bps: int, *, is_congested: bool) -> None:
        fundamentals = Fundamentals(100_000_000, available_bps, 300_000)
        subsystem.receive_path_view(host, PathView(fundamentals, Congestion(is_congested)))

    def set_rate(bits_per_second: int, reason: int) -> bool:
        rate = QOS_FLOWRATE_OUTGOING()
        rate.Bandwidth = bits_per_second
        rate.ShapingBehavior = QOSShapeAndMark
        rate.Reason = reason
        return bool(
            qwave.QOSSetFlow(handle, flow, QOSSetOutgoingRate, sizeof(rate), byref(rate), 0, None)
        )

    handle: Any = HANDLE()
    assert qwave.QOSCreateHandle(byref(QOS_VERSION(1, 0)), byref(handle))
    measure(10_000_000, is_congested=False)
    with (
        socket.create_server(("127.0.0.9", 0)) as server,
        socket.create_connection(server.getsockname()) as sock,
        server.accept()[0],
    ):
        flow: Any = ULONG(0)
        assert qwave.QOSAddSocketToFlow(
            handle, sock.fileno(), None, QOSTrafficTypeExcellentEffort, 0, byref(flow)
        )
        fundamentals = QOS_FLOW_FUNDAMENTALS()
        size = ULONG(sizeof(fundamentals))
        assert qwave.QOSQueryFlow(
            handle, flow, QOSQueryFlowFundamentals, byref(size), byref(fundamentals), 0, None
        )
        assert fundamentals.AvailableBandwidthSet
        target = QOS_ADD_OVERHEAD(2, 6, 1_400, 8_000_000)
        assert fundamentals.AvailableBandwidth >= target
        assert tos_of(sock) == 0
        assert set_rate(target, QOSFlowRateNotApplicable)
        assert tos_of(sock) == 40 << 2

        congestion = OVERLAPPED()
        congestion.hEvent = kernel32.CreateEventW(None, False, False, None)
        available = OVERLAPPED()
        available.hEvent = kernel32.CreateEventW(None, False, False, None)
        events = (HANDLE * 2)(congestion.hEvent, available.hEvent)

        for _ in range(2):
            assert not qwave.QOSNotifyFlow(
                handle, flow, QOSNotifyCongested, None, None, 0, byref(congestion)
            )
            assert get_last_error() == ERROR_IO_PENDING
            assert kernel32.WaitForMultipleObjects(2, events, False, 0) == WAIT_TIMEOUT
            measure(0, is_congested=True)
            assert kernel32.WaitForMultipleObjects(2, events, False, INFINITE) == WAIT_OBJECT_0
            assert set_rate(target // 10, QOSFlowRateCongestion)
            assert not set_rate(target, QOSFlowRateCongestion)
            assert get_last_error() == ERROR_NETWORK_BUSY
            wanted = UINT64(target)
            size = ULONG(sizeof(wanted))
            assert not qwave.QOSNotifyFlow(
                handle, flow, QOSNotifyAvailable, byref(size), byref(wanted), 0, byref(available)
            )
            assert get_last_error() == ERROR_IO_PENDING
            measure(10_000_000, is_congested=False)
            assert kernel32.WaitForMultipleObjects(2, events, False, INFINITE) == WAIT_OBJECT_0 + 1
            assert kernel32.GetOverlappedResult(handle, byref(available), byref(DWORD()), False)
            assert set_rate(target, QOSFlowRateCongestion)

        assert qwave.QOSCloseHandle(handle)
        assert tos_of(sock) == 0
        assert kernel32.CloseHandle(congestion.hEvent)
        assert kernel32.CloseHandle(available.hEvent)
    subsystem.receive_path_view(host, None)


def test_absent_function_is_found_out_as_on_windows() -> None:
    with pytest.raises(AttributeError):
        _ = windll.qwave.QOSNoSuchFunction

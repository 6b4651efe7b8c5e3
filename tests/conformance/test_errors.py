"""Each function's documented errors: the call, the error, and the line that asks for it.

A row's source is the line of the contract that it tests: a sentence of the semantics, with
[decision] where the contract itself decided, or "documented" for an error that is named in
the interface's own list for the function. Every error of a row must be in that list or in
`BEYOND_THE_LIST`, which says what the contract adds to it.

After a failing call the options of all sockets, all flows, their marks and rates are as
before. A success leaves the last error untouched.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import byref, c_byte, c_double, c_uint16, c_uint32, c_void_p, pointer
from dataclasses import replace

import pytest

from openqwave.admission.policy import Limits, Policy
from openqwave.model.codes import ErrorCode
from openqwave.model.estimates import Unmeasurable
from openqwave.qos2 import (
    DWORD,
    ERROR_ACCESS_DISABLED_BY_POLICY,
    ERROR_ADAP_HDW_ERR,
    ERROR_ALREADY_EXISTS,
    ERROR_BAD_NET_NAME,
    ERROR_HOST_UNREACHABLE,
    ERROR_INSUFFICIENT_BUFFER,
    ERROR_INVALID_HANDLE,
    ERROR_INVALID_PARAMETER,
    ERROR_IO_DEVICE,
    ERROR_IO_PENDING,
    ERROR_NETWORK_BUSY,
    ERROR_NO_DATA,
    ERROR_NO_SYSTEM_RESOURCES,
    ERROR_NOT_FOUND,
    ERROR_NOT_SUPPORTED,
    ERROR_RETRY,
    ERROR_TIMEOUT,
    ERROR_UNEXP_NET_ERR,
    FALSE,
    HANDLE,
    INVALID_HANDLE_VALUE,
    INVALID_SOCKET,
    LPOVERLAPPED,
    PHANDLE,
    PQOS_FLOWID,
    PQOS_VERSION,
    PSOCKADDR,
    PULONG,
    QOS_FLOW_FUNDAMENTALS,
    QOS_FLOWRATE_OUTGOING,
    QOS_PACKET_PRIORITY,
    QOS_QUERYFLOW_FRESH,
    QOS_VERSION,
    UINT64,
    ULONG,
    QOSAddSocketToFlow,
    QOSCancel,
    QOSCloseHandle,
    QOSStartTrackingClient,
    QOSTrafficTypeBackground,
)
from tests.conformance.calls import (
    ADMINISTRATOR_ONLY,
    ALL_WRONG,
    BAD_HANDLES,
    FUNDAMENTALS,
    ON_HANDLES,
    PRIORITY,
    RATE,
    VERSION_1_0,
    Row,
    adaptive,
    add,
    after,
    again,
    aged,
    all_wrong,
    blank,
    both,
    breaking,
    check,
    connected,
    create,
    cut,
    enumerate_flows,
    foreign,
    here,
    in_use,
    measured,
    misused,
    notify,
    on,
    plain,
    query,
    refusing,
    remove,
    set_dscp,
    set_flow,
    set_rate,
    there,
    track,
    unconnected,
    unknown,
    untrack,
    zero,
)
from tests.conformance.contract import (
    ADAPTER,
    AGE,
    BROKEN,
    BUSY,
    BUSY_INCREASE,
    CALL_TWICE,
    CANCEL,
    CLOSE_HANDLE,
    DESTINATION,
    DOCUMENTED,
    DSCP_ADAPTIVE,
    DSCP_LIMIT,
    FLAGS,
    FORBIDDEN,
    FOREIGN_FLOW,
    FRESH,
    FRESH_ONLY,
    FRESH_TIMEOUT,
    HOST,
    HOST_GONE,
    JOIN,
    MAPPED,
    NAMES,
    NO_ANSWER,
    NO_BUFFER,
    NO_MECHANISM,
    NO_NEIGHBOUR,
    NO_RATE,
    NO_ROUTE,
    NO_SINK,
    NO_SOCKET,
    NOT_ENOUGH,
    NOT_ENOUGH_YET,
    NOT_MEMBER,
    NOTHING_KNOWN,
    NOTIFY_PATH,
    NOTIFY_RATE,
    NOTIFY_SIZE,
    ONE_SHOT,
    ORDER,
    PEER,
    PENDING,
    PROTOCOLS,
    QUOTA,
    SET_SIZE,
    UNKNOWN_FLOW,
    UNKNOWN_HANDLE,
    UNMEASURABLE,
    UNTRACKED,
    VERSION,
    errors_of,
)
from tests.conformance.world import (
    AVAILABLE_BPS,
    BLANK,
    HELD_BPS,
    IMPATIENT,
    MEASURED,
    PORT,
    UNMEASURED,
    World,
    open_world,
    sockaddr,
)

HOST_UNREACHABLE = ErrorCode.ERROR_HOST_UNREACHABLE
BAD_NET_NAME = ErrorCode.ERROR_BAD_NET_NAME
ADAPTER_FAILED = ErrorCode.ERROR_ADAP_HDW_ERR
DISABLED = ErrorCode.ERROR_ACCESS_DISABLED_BY_POLICY
UNEXPECTED = ErrorCode.ERROR_UNEXP_NET_ERR
TIMEOUT = ErrorCode.ERROR_TIMEOUT
# What the thread that measures answers with when it has broken itself.
BROKEN_HOST = ErrorCode.ERROR_GEN_FAILURE


def refused(code: ErrorCode) -> Callable[[str], Callable[[World], object]]:
    return lambda host: refusing(host, code)


def broken(code: ErrorCode) -> Callable[[str], Callable[[World], object]]:
    return lambda host: breaking(host, code)


ROWS = [
    # -- handles --
    *(
        Row(function, case, on(function, handle), ERROR_INVALID_HANDLE, UNKNOWN_HANDLE)
        for function in ON_HANDLES
        for case, handle in BAD_HANDLES.items()
    ),
    *(
        Row(function, "all wrong", all_wrong(function), ERROR_INVALID_HANDLE, ORDER)
        for function in ALL_WRONG
    ),
    *(
        Row("QOSCloseHandle", case, call, ERROR_INVALID_PARAMETER, CLOSE_HANDLE)
        for case, call in (
            ("null handle", lambda _: QOSCloseHandle(0)),
            ("handle None", lambda _: QOSCloseHandle(None)),
            ("closed handle", lambda w: QOSCloseHandle(w.closed)),
            ("never opened", lambda _: QOSCloseHandle(0x0BAD_CAFC)),
            ("INVALID_HANDLE_VALUE", lambda _: QOSCloseHandle(INVALID_HANDLE_VALUE)),
            ("event handle", lambda w: QOSCloseHandle(w.event())),
            ("string", lambda _: QOSCloseHandle("handle")),
            ("float", lambda _: QOSCloseHandle(1.5)),
        )
    ),
    # -- QOSCreateHandle --
    *(
        Row("QOSCreateHandle", case, call, ERROR_INVALID_PARAMETER, VERSION)
        for case, call in (
            ("both null", create(None, None)),
            ("version null", create(None, byref(HANDLE()))),
            ("version null pointer", create(PQOS_VERSION(), byref(HANDLE()))),
            ("handle null", create(VERSION_1_0, None)),
            ("handle null pointer", create(VERSION_1_0, PHANDLE())),
            ("version 0.0", create(byref(QOS_VERSION(0, 0)), byref(HANDLE()))),
            ("version 0.1", create(byref(QOS_VERSION(0, 1)), byref(HANDLE()))),
            ("version 1.1", create(byref(QOS_VERSION(1, 1)), byref(HANDLE()))),
            ("version 1.5", create(byref(QOS_VERSION(1, 5)), byref(HANDLE()))),
            ("version 2.0", create(byref(QOS_VERSION(2, 0)), byref(HANDLE()))),
            ("version 65535.65535", create(byref(QOS_VERSION(65535, 65535)), byref(HANDLE()))),
            ("version too small", create(byref(c_uint16(1)), byref(HANDLE()))),
            ("version string", create("1.0", byref(HANDLE()))),
            ("version number", create(1, byref(HANDLE()))),
            ("handle too small", create(VERSION_1_0, byref(c_uint16()))),
            ("handle float", create(VERSION_1_0, 1.5)),
        )
    ),
    Row(
        "QOSCreateHandle",
        "too many handles",
        after(lambda w: w.new_handle(), create(VERSION_1_0, byref(HANDLE()))),
        ERROR_NO_SYSTEM_RESOURCES,
        DOCUMENTED,
        # The world holds two, and its construction a third for a moment.
        Limits(handles=3),
    ),
    # -- QOSStartTrackingClient and QOSStopTrackingClient --
    *(
        Row(function, case, make(address), ERROR_INVALID_PARAMETER, HOST)
        for function, make in (
            ("QOSStartTrackingClient", track),
            ("QOSStopTrackingClient", untrack),
        )
        for case, address in (
            ("address null", None),
            ("address null pointer", PSOCKADDR()),
            ("family 0", byref(sockaddr("127.0.0.1", family=0))),
            ("family 1", byref(sockaddr("127.0.0.1", family=1))),
            ("family 30", byref(sockaddr("::1", family=30))),
            ("family 65535", byref(sockaddr("127.0.0.1", family=65535))),
            ("one byte", cut("127.0.0.1", 1)),
            ("IPv4 cut short", cut("127.0.0.1", 15)),
            ("IPv6 cut short", cut("::1", 27)),
            ("IPv6 family in an IPv4 address", byref(sockaddr("127.0.0.1", family=23))),
            ("text", "127.0.0.1"),
            ("bytes cut short", b"\x02\x00\x9c"),
            ("unspecified IPv4", byref(sockaddr("0.0.0.0"))),  # noqa: S104 - not bound to
            ("unspecified IPv6", byref(sockaddr("::"))),
            ("multicast IPv4", byref(sockaddr("239.1.2.3"))),
            ("multicast IPv6", byref(sockaddr("ff02::1%1"))),
            ("IPv4-mapped", byref(sockaddr("::ffff:127.0.0.1"))),
        )
    ),
    Row("QOSStartTrackingClient", "flags", track(here(), 1), ERROR_INVALID_PARAMETER, FLAGS),
    Row("QOSStopTrackingClient", "flags", untrack(here(), 2), ERROR_INVALID_PARAMETER, FLAGS),
    Row("QOSStartTrackingClient", "unmeasurable", track(here()), ERROR_NOT_SUPPORTED, NO_SINK),
    Row(
        "QOSStartTrackingClient",
        "unmeasurable IPv6",
        track(byref(sockaddr("::1"))),
        ERROR_NOT_SUPPORTED,
        NO_SINK,
    ),
    Row(
        "QOSStartTrackingClient",
        "too many clients",
        after(track(byref(sockaddr(MEASURED))), track(byref(sockaddr(BLANK)))),
        ERROR_NO_SYSTEM_RESOURCES,
        DOCUMENTED,
        Limits(tracked_hosts=1),
    ),
    Row(
        "QOSStopTrackingClient",
        "never tracked",
        untrack(here()),
        ERROR_INVALID_PARAMETER,
        UNTRACKED,
    ),
    Row(
        "QOSStopTrackingClient",
        "stopped before",
        after(
            lambda w: (
                track(byref(sockaddr(MEASURED)))(w),
                untrack(byref(sockaddr(MEASURED)))(w),
            ),
            untrack(byref(sockaddr(MEASURED))),
        ),
        ERROR_INVALID_PARAMETER,
        UNTRACKED,
    ),
    Row(
        "QOSStopTrackingClient",
        "tracked by an open handle",
        after(
            lambda w: QOSStartTrackingClient(w.other, byref(sockaddr(MEASURED)), 0),
            untrack(byref(sockaddr(MEASURED))),
        ),
        ERROR_INVALID_PARAMETER,
        UNTRACKED,
    ),
    *(
        Row("QOSStartTrackingClient", case, after(first, track(there(BLANK))), error, source)
        for case, first, error, source in (
            ("no route", refusing(BLANK, HOST_UNREACHABLE), ERROR_HOST_UNREACHABLE, NO_ROUTE),
            ("sink is silent", breaking(BLANK, TIMEOUT), ERROR_HOST_UNREACHABLE, NO_ANSWER),
            ("sink broke off", breaking(BLANK, UNEXPECTED), ERROR_HOST_UNREACHABLE, NO_ANSWER),
            ("no neighbour", refusing(BLANK, BAD_NET_NAME), ERROR_BAD_NET_NAME, NO_NEIGHBOUR),
            ("adapter gone", refusing(BLANK, ADAPTER_FAILED), ERROR_ADAP_HDW_ERR, DOCUMENTED),
            ("forbidden", refusing(BLANK, DISABLED), ERROR_NOT_SUPPORTED, NO_SINK),
        )
    ),
    Row(
        "QOSStartTrackingClient",
        "no sink",
        after(breaking(UNMEASURED, None), track(there(UNMEASURED))),
        ERROR_HOST_UNREACHABLE,
        NO_ANSWER,
    ),
    Row(
        "QOSStartTrackingClient",
        "no experiments here",
        after(
            both(
                lambda w: w.lead(UNMEASURED),
                lambda w: w.stop(UNMEASURED, Unmeasurable("held", is_of_this_host=True)),
            ),
            track(there(UNMEASURED)),
        ),
        ERROR_NOT_SUPPORTED,
        NO_SINK,
    ),
    # -- QOSEnumerateFlows --
    *(
        Row("QOSEnumerateFlows", case, call, ERROR_INVALID_PARAMETER, DOCUMENTED)
        for case, call in (
            ("size null", enumerate_flows(None, (ULONG * 100)())),
            ("size null pointer", enumerate_flows(PULONG(), (ULONG * 100)())),
            ("size too small", enumerate_flows(byref(c_uint16(400)), (ULONG * 100)())),
            ("size text", enumerate_flows("400", (ULONG * 100)())),
            ("buffer null", enumerate_flows(byref(ULONG(400)), None)),
            ("buffer smaller than said", enumerate_flows(byref(ULONG(400)), (ULONG * 4)())),
            ("buffer float", enumerate_flows(byref(ULONG(400)), c_double(1.5).value)),
        )
    ),
    *(
        Row(
            "QOSEnumerateFlows",
            f"room for {size} bytes of 20",
            enumerate_flows(byref(ULONG(size)), (ULONG * 100)() if size else None),
            ERROR_INSUFFICIENT_BUFFER,
            CALL_TWICE,
        )
        for size in (0, 3, 16, 19)
    ),
    # -- QOSAddSocketToFlow --
    *(
        Row("QOSAddSocketToFlow", case, call, ERROR_INVALID_PARAMETER, NO_SOCKET)
        for case, call in (
            ("socket None", add(lambda _: None, here())),
            ("file number", add(lambda w: w.file.fileno(), here())),
            ("closed socket", add(lambda w: w.gone, here())),
            ("closed number", add(lambda _: 1_000_000, here())),
            ("INVALID_SOCKET", add(lambda _: INVALID_SOCKET, here())),
            ("negative number", add(lambda _: -1, here())),
            ("file", add(lambda w: w.file, here())),
            ("text", add(lambda _: "socket", here())),
            ("float", add(lambda _: 3.0, here())),
        )
    ),
    *(
        Row("QOSAddSocketToFlow", case, call, ERROR_NOT_SUPPORTED, PROTOCOLS)
        for case, call in (
            ("Unix socket", add(lambda w: w.local, here())),
            ("netlink socket", add(lambda w: w.netlink, here())),
        )
    ),
    *(
        Row("QOSAddSocketToFlow", case, call, ERROR_INVALID_PARAMETER, source)
        for case, call, source in (
            ("no destination", add(lambda w: w.foreign_socket), DESTINATION),
            ("no destination pointer", add(lambda w: w.foreign_socket, PSOCKADDR()), DESTINATION),
            ("family 0", add(unconnected, byref(sockaddr("127.0.0.1", family=0))), DESTINATION),
            ("family 99", add(unconnected, byref(sockaddr("127.0.0.1", family=99))), DESTINATION),
            ("address cut short", add(unconnected, cut("127.0.0.1", 8)), DESTINATION),
            ("address text", add(unconnected, "127.0.0.1:5004"), DESTINATION),
            ("unspecified", add(unconnected, byref(sockaddr("0.0.0.0"))), MAPPED),  # noqa: S104
            ("unspecified IPv6", add(lambda w: w.unconnected6, byref(sockaddr("::"))), MAPPED),
            ("port 0", add(unconnected, byref(sockaddr("127.0.0.1", 0))), MAPPED),
            (
                "all zero",
                add(unconnected, byref(sockaddr("0.0.0.0", 0))),  # noqa: S104 - not bound to
                MAPPED,
            ),
            (
                "mapped address",
                add(lambda w: w.unconnected6, byref(sockaddr("::ffff:127.0.0.1"))),
                MAPPED,
            ),
            ("IPv4 on IPv6", add(lambda w: w.unconnected6, here()), MAPPED),
            ("IPv6 on IPv4", add(unconnected, byref(sockaddr("::1"))), MAPPED),
            ("another peer", add(connected, byref(sockaddr(UNMEASURED))), PEER),
            ("another port", add(connected, byref(sockaddr("127.0.0.1", PORT + 1))), PEER),
            ("type 6", add(connected, kind=6), DOCUMENTED),
            ("type -1", add(connected, kind=-1), DOCUMENTED),
            ("type 4294967295", add(connected, kind=0xFFFF_FFFF), DOCUMENTED),
            ("type text", add(connected, kind="voice"), DOCUMENTED),
            ("flags 1", add(connected, flags=1), FLAGS),
            ("flags 3", add(connected, flags=3), FLAGS),
            ("flags 2147483648", add(connected, flags=0x8000_0000), FLAGS),
            ("flags -1", add(connected, flags=-1), FLAGS),
            ("flags text", add(connected, flags="2"), FLAGS),
            ("join unknown", add(connected, flow=unknown), JOIN),
            ("join adaptive", add(connected, flow=adaptive), JOIN),
            ("join without the flag", add(connected, flags=0, flow=plain), JOIN),
            ("join of another handle", add(connected, flow=foreign), JOIN),
        )
    ),
    *(
        Row("QOSAddSocketToFlow", case, call, ERROR_INVALID_PARAMETER, DOCUMENTED)
        for case, call in (
            (
                "flow id null",
                lambda w: QOSAddSocketToFlow(w.handle, w.connected, None, 4, 2, None),
            ),
            (
                "flow id null pointer",
                lambda w: QOSAddSocketToFlow(w.handle, w.connected, None, 4, 2, PQOS_FLOWID()),
            ),
            (
                "flow id too small",
                lambda w: QOSAddSocketToFlow(w.handle, w.connected, None, 4, 2, byref(c_uint16())),
            ),
            (
                "flow id past the end",
                lambda w: QOSAddSocketToFlow(
                    w.handle, w.connected, None, 4, 2, byref(c_uint32(), 2)
                ),
            ),
            (
                "flow id by value",
                lambda w: QOSAddSocketToFlow(w.handle, w.connected, None, 4, 2, 7),
            ),
        )
    ),
    Row(
        "QOSAddSocketToFlow",
        "bad address of a Unix socket",
        add(lambda w: w.local, byref(sockaddr("127.0.0.1", family=0))),
        ERROR_INVALID_PARAMETER,
        ORDER,
    ),
    Row(
        "QOSAddSocketToFlow",
        "too many flows",
        add(connected),
        ERROR_NO_SYSTEM_RESOURCES,
        QUOTA,
        Limits(flows=5),
    ),
    Row(
        "QOSAddSocketToFlow",
        "too many destinations",
        add(unconnected, byref(sockaddr(UNMEASURED)), flow=plain),
        ERROR_NO_SYSTEM_RESOURCES,
        QUOTA,
        Limits(destinations_per_flow=1),
    ),
    Row(
        "QOSAddSocketToFlow",
        "other marks on the same socket",
        add(unconnected, byref(sockaddr(UNMEASURED)), kind=QOSTrafficTypeBackground),
        ERROR_NOT_SUPPORTED,
        "Kernel refused the marks or shaping ... for lack of the mechanism: ERROR_NOT_SUPPORTED",
    ),
    # -- QOSRemoveSocketFromFlow --
    *(
        Row("QOSRemoveSocketFromFlow", case, call, ERROR_NOT_FOUND, source)
        for case, call, source in (
            ("unknown flow", remove(zero, unknown), UNKNOWN_FLOW),
            ("flow 0", remove(zero, zero), UNKNOWN_FLOW),
            ("flow None", remove(zero, lambda _: None), UNKNOWN_FLOW),
            ("socket of flow 0", remove(unconnected, zero), UNKNOWN_FLOW),
            ("no socket of flow 0", remove(lambda w: w.file, zero), ORDER),
            ("flow of another handle", remove(zero, foreign), FOREIGN_FLOW),
            ("its socket too", remove(lambda w: w.foreign_socket, foreign), FOREIGN_FLOW),
        )
    ),
    *(
        Row("QOSRemoveSocketFromFlow", case, call, ERROR_INVALID_PARAMETER, source)
        for case, call, source in (
            ("socket of no flow", remove(connected, plain), NOT_MEMBER),
            ("socket of another flow", remove(lambda w: w.tcp, plain), NOT_MEMBER),
            ("closed socket", remove(lambda w: w.gone, plain), NOT_MEMBER),
            ("file", remove(lambda w: w.file, plain), NOT_MEMBER),
            ("negative number", remove(lambda _: -1, plain), NOT_MEMBER),
            ("socket text", remove(lambda _: "socket", plain), NOT_MEMBER),
            ("flow text", remove(zero, lambda _: "flow"), DOCUMENTED),
            ("flags", remove(zero, plain, 1), FLAGS),
            ("flags of flow 0", remove(zero, zero, 1), ORDER),
        )
    ),
    # -- QOSSetFlow --
    *(
        Row("QOSSetFlow", case, call, ERROR_INVALID_PARAMETER, source)
        for case, call, source in (
            ("operation 3", set_flow(plain, 3, 4, byref(DWORD(1))), DOCUMENTED),
            ("operation -1", set_flow(plain, -1, 4, byref(DWORD(1))), DOCUMENTED),
            ("operation text", set_flow(plain, "0", 4, byref(DWORD(1))), DOCUMENTED),
            ("type of 0 bytes", set_flow(plain, 0, 0, byref(DWORD(1))), SET_SIZE),
            ("type of 3 bytes", set_flow(plain, 0, 3, byref(DWORD(1))), SET_SIZE),
            ("type of 8 bytes", set_flow(plain, 0, 8, byref(UINT64(1))), SET_SIZE),
            ("type of -4 bytes", set_flow(plain, 0, -4, byref(DWORD(1))), SET_SIZE),
            ("size text", set_flow(plain, 0, "4", byref(DWORD(1))), SET_SIZE),
            ("size by reference", set_flow(plain, 0, byref(ULONG(4)), byref(DWORD(1))), SET_SIZE),
            ("rate of 8 bytes", set_flow(plain, 1, 8, byref(UINT64(1))), SET_SIZE),
            (
                "rate of 15 bytes",
                set_flow(plain, 1, 15, byref(QOS_FLOWRATE_OUTGOING(1, 1, 0))),
                SET_SIZE,
            ),
            (
                "rate of 17 bytes",
                set_flow(plain, 1, 17, byref(QOS_FLOWRATE_OUTGOING(1, 1, 0))),
                SET_SIZE,
            ),
            ("DSCP of 1 byte", set_flow(plain, 2, 1, byref(c_byte(8))), SET_SIZE),
            ("DSCP of 8 bytes", set_flow(plain, 2, 8, byref(UINT64(8))), SET_SIZE),
            ("type null", set_flow(plain, 0, 4, None), SET_SIZE),
            ("rate null", set_flow(plain, 1, 16, None), SET_SIZE),
            ("DSCP null", set_flow(plain, 2, 4, c_void_p()), SET_SIZE),
            ("type in 2 bytes", set_flow(plain, 0, 4, byref(c_uint16(1))), SET_SIZE),
            ("rate in 8 bytes", set_flow(plain, 1, 16, pointer(UINT64(1))), SET_SIZE),
            ("DSCP as a number", set_flow(plain, 2, 4, 46), SET_SIZE),
            ("DSCP as a float", set_flow(plain, 2, 4, 46.0), SET_SIZE),
            ("flags", set_flow(plain, 0, 4, byref(DWORD(1)), 1), FLAGS),
            ("type 6", set_flow(plain, 0, 4, byref(DWORD(6))), DOCUMENTED),
            ("type 4294967295", set_flow(plain, 0, 4, byref(DWORD(0xFFFF_FFFF))), DOCUMENTED),
            ("shaping 3", set_rate(measured, 1_000_000, 3), DOCUMENTED),
            ("shaping -1", set_rate(measured, 1_000_000, -1), DOCUMENTED),
            ("reason 5", set_rate(measured, 1_000_000, 1, 5), DOCUMENTED),
            ("DSCP 64", set_dscp(plain, 64), DSCP_LIMIT),
            ("DSCP 4294967295", set_dscp(plain, 0xFFFF_FFFF), DSCP_LIMIT),
            ("flags of flow 0", set_flow(zero, 0, 4, byref(DWORD(1)), 1), ORDER),
            ("type 6 of flow 0", set_flow(zero, 0, 4, byref(DWORD(6))), ORDER),
            (
                "overlapped too small",
                set_flow(plain, 0, 4, byref(DWORD(1)), 0, lambda _: byref(UINT64())),
                DOCUMENTED,
            ),
            ("overlapped in use", set_flow(plain, 0, 4, byref(DWORD(1)), 0, in_use), DOCUMENTED),
        )
    ),
    *(
        Row("QOSSetFlow", f"{what} of {which} flow", call, ERROR_NOT_FOUND, source)
        for which, flow, source in (
            ("unknown", unknown, UNKNOWN_FLOW),
            ("no", zero, UNKNOWN_FLOW),
            ("another handle's", foreign, FOREIGN_FLOW),
        )
        for what, call in (
            ("type", set_flow(flow, 0, 4, byref(DWORD(1)))),
            ("rate", set_rate(flow, 1_000_000)),
            ("DSCP", set_dscp(flow, 46)),
        )
    ),
    *(
        Row("QOSSetFlow", case, call, ERROR_NOT_SUPPORTED, source)
        for case, call, source in (
            ("DSCP of an adaptive flow", set_dscp(adaptive, 46), DSCP_ADAPTIVE),
            ("DSCP of a measured flow", set_dscp(measured, 46), DSCP_ADAPTIVE),
            ("excess re-marked", set_rate(measured, 1_000_000, 2), NO_MECHANISM),
            ("rate of an unconnected UDP socket", set_rate(plain, 1_000_000), NO_MECHANISM),
        )
    ),
    Row(
        "QOSSetFlow",
        "increase refused",
        set_rate(measured, HELD_BPS + AVAILABLE_BPS + 1),
        ERROR_NETWORK_BUSY,
        BUSY_INCREASE,
    ),
    Row(
        "QOSSetFlow",
        "first rate refused",
        after(
            lambda w: w.see(BLANK, AVAILABLE_BPS, is_congested=False),
            set_rate(blank, AVAILABLE_BPS + 1),
        ),
        ERROR_NETWORK_BUSY,
        BUSY,
    ),
    Row(
        "QOSSetFlow",
        "not enough known",
        set_rate(blank, 1_000_000),
        ERROR_RETRY,
        NOT_ENOUGH,
    ),
    *(
        Row("QOSSetFlow", f"{case} of {which}", after(first(host), call), error, source)
        for which, host, call in (
            ("a first rate", BLANK, set_rate(blank, 1_000_000)),
            ("an increase", MEASURED, set_rate(measured, HELD_BPS + 1)),
        )
        for case, first, error, source in (
            ("no route", refused(HOST_UNREACHABLE), ERROR_HOST_UNREACHABLE, HOST_GONE),
            ("silence", broken(TIMEOUT), ERROR_HOST_UNREACHABLE, HOST_GONE),
            ("no neighbour", refused(BAD_NET_NAME), ERROR_HOST_UNREACHABLE, HOST_GONE),
            ("broken off", broken(UNEXPECTED), ERROR_UNEXP_NET_ERR, BROKEN),
            ("forbidden", refused(DISABLED), ERROR_ACCESS_DISABLED_BY_POLICY, FORBIDDEN),
            ("adapter gone", refused(ADAPTER_FAILED), ERROR_ADAP_HDW_ERR, ADAPTER),
            ("host broken", broken(BROKEN_HOST), ERROR_IO_DEVICE, DOCUMENTED),
        )
    ),
    Row("QOSSetFlow", "too old", after(aged, set_rate(measured, 5_000_000)), ERROR_RETRY, AGE),
    Row(
        "QOSSetFlow",
        "event is none",
        set_flow(plain, 0, 4, byref(DWORD(1)), 0, misused),
        ERROR_INVALID_HANDLE,
        DOCUMENTED,
    ),
    # -- QOSQueryFlow --
    *(
        Row("QOSQueryFlow", case, call, ERROR_INVALID_PARAMETER, source)
        for case, call, source in (
            ("operation 3", query(plain, 3, 64, (c_byte * 64)()), DOCUMENTED),
            ("operation -1", query(plain, -1, 64, (c_byte * 64)()), DOCUMENTED),
            ("size null", query(plain, 1, None, byref(QOS_PACKET_PRIORITY())), DOCUMENTED),
            ("fundamentals null", query(plain, *FUNDAMENTALS, None), DOCUMENTED),
            ("priority null", query(plain, *PRIORITY, None), DOCUMENTED),
            ("rate null", query(plain, *RATE, None), DOCUMENTED),
            ("buffer smaller than said", query(plain, *PRIORITY, byref(UINT64())), DOCUMENTED),
            ("buffer number", query(plain, *RATE, 8), DOCUMENTED),
            ("buffer text", query(plain, *RATE, "buffer"), DOCUMENTED),
            ("flags 2", query(plain, *PRIORITY, byref(QOS_PACKET_PRIORITY()), 2), FLAGS),
            (
                "fresh priority",
                query(plain, *PRIORITY, byref(QOS_PACKET_PRIORITY()), 1),
                FRESH_ONLY,
            ),
            ("fresh rate", query(measured, *RATE, byref(UINT64()), 1), FRESH_ONLY),
            (
                "flags 3 of fundamentals",
                query(measured, *FUNDAMENTALS, byref(QOS_FLOW_FUNDAMENTALS()), 3),
                FLAGS,
            ),
            ("flags of flow 0", query(zero, *RATE, byref(UINT64()), 4), ORDER),
        )
    ),
    *(
        Row(
            "QOSQueryFlow",
            f"{what} in {size} bytes of {which} flow",
            query(flow, operation, size, (c_byte * 64)() if size else None, needed=needed),
            ERROR_INSUFFICIENT_BUFFER,
            source,
        )
        for which, flow, source in (("a", measured, CALL_TWICE), ("no", zero, ORDER))
        for what, (operation, needed) in (
            ("fundamentals", FUNDAMENTALS),
            ("priority", PRIORITY),
            ("rate", RATE),
        )
        for size in (0, needed - 1)
    ),
    *(
        Row(
            "QOSQueryFlow",
            f"{what} of {which} flow",
            query(flow, operation, size, (c_byte * 64)()),
            ERROR_NOT_FOUND,
            UNKNOWN_FLOW,
        )
        for which, flow in (("unknown", unknown), ("no", zero))
        for what, (operation, size) in (
            ("fundamentals", FUNDAMENTALS),
            ("priority", PRIORITY),
            ("rate", RATE),
        )
    ),
    *(
        Row("QOSQueryFlow", case, call, error, source)
        for case, call, error, source in (
            (
                "fundamentals of a non-adaptive flow",
                query(plain, *FUNDAMENTALS, (c_byte * 64)()),
                ERROR_NOT_SUPPORTED,
                UNMEASURABLE,
            ),
            (
                "fundamentals of an unmeasurable path",
                query(adaptive, *FUNDAMENTALS, (c_byte * 64)()),
                ERROR_NOT_SUPPORTED,
                UNMEASURABLE,
            ),
            (
                "nothing known yet",
                query(blank, *FUNDAMENTALS, (c_byte * 64)()),
                ERROR_NO_DATA,
                NOTHING_KNOWN,
            ),
            ("no rate set", query(plain, *RATE, (c_byte * 64)()), ERROR_NO_DATA, NO_RATE),
            (
                "fresh fundamentals",
                query(measured, *FUNDAMENTALS, (c_byte * 64)(), QOS_QUERYFLOW_FRESH),
                ERROR_RETRY,
                FRESH,
            ),
        )
    ),
    *(
        Row("QOSQueryFlow", f"{case} of {which}", after(first, call), error, source)
        for which, call, before in (
            (
                "fresh fundamentals",
                query(measured, *FUNDAMENTALS, (c_byte * 64)(), QOS_QUERYFLOW_FRESH),
                lambda _: None,
            ),
            (
                "fundamentals that are too old",
                query(measured, *FUNDAMENTALS, (c_byte * 64)()),
                aged,
            ),
        )
        for case, trouble, error, source in (
            ("no route", refused(HOST_UNREACHABLE), ERROR_HOST_UNREACHABLE, DOCUMENTED),
            ("no neighbour", refused(BAD_NET_NAME), ERROR_HOST_UNREACHABLE, DOCUMENTED),
            ("silence", broken(TIMEOUT), ERROR_TIMEOUT, FRESH_TIMEOUT),
            ("broken off", broken(UNEXPECTED), ERROR_RETRY, NOT_ENOUGH_YET),
            ("forbidden", refused(DISABLED), ERROR_ACCESS_DISABLED_BY_POLICY, DOCUMENTED),
            ("adapter gone", refused(ADAPTER_FAILED), ERROR_ADAP_HDW_ERR, DOCUMENTED),
            ("host broken", broken(BROKEN_HOST), ERROR_IO_DEVICE, DOCUMENTED),
        )
        for first in [both(before, trouble(MEASURED))]
    ),
    Row(
        "QOSQueryFlow",
        "fundamentals too old",
        after(aged, query(measured, *FUNDAMENTALS, (c_byte * 64)())),
        ERROR_NO_DATA,
        AGE,
    ),
    # -- QOSNotifyFlow --
    *(
        Row("QOSNotifyFlow", case, call, ERROR_INVALID_PARAMETER, source)
        for case, call, source in (
            ("operation 3", notify(measured, 3), DOCUMENTED),
            ("operation text", notify(measured, "congested"), DOCUMENTED),
            ("congested with a size", notify(measured, 0, 8), NO_BUFFER),
            ("congested with a buffer", notify(measured, 0, None, byref(UINT64(1))), NO_BUFFER),
            ("uncongested with a size", notify(measured, 1, 0), NO_BUFFER),
            ("uncongested with both", notify(measured, 1, 8, byref(UINT64(1))), NO_BUFFER),
            ("available without size", notify(measured, 2, None, byref(UINT64(1))), DOCUMENTED),
            ("available without rate", notify(measured, 2, 8, None), DOCUMENTED),
            ("rate in 4 bytes", notify(measured, 2, 8, byref(DWORD(1))), DOCUMENTED),
            ("flags", notify(measured, 0, None, None, 1), FLAGS),
            ("flags of flow 0", notify(zero, 0, None, None, 1), ORDER),
            ("rate 0", notify(measured, 2, 8, byref(UINT64(0))), NOTIFY_RATE),
            ("rate below", notify(measured, 2, 8, byref(UINT64(HELD_BPS - 1))), NOTIFY_RATE),
            ("rate equal", notify(measured, 2, 8, byref(UINT64(HELD_BPS))), NOTIFY_RATE),
            ("overlapped in use", notify(measured, 1, overlapped=in_use), DOCUMENTED),
            ("overlapped text", notify(measured, 1, overlapped=lambda _: "o"), DOCUMENTED),
        )
    ),
    *(
        Row(
            "QOSNotifyFlow",
            f"rate in {size} bytes",
            notify(measured, 2, size, byref(UINT64(HELD_BPS + 1))),
            ERROR_INSUFFICIENT_BUFFER,
            NOTIFY_SIZE,
        )
        for size in (0, 4, 7)
    ),
    *(
        Row("QOSNotifyFlow", f"{what} of {which}", call, error, source)
        for which, flow, error, source in (
            ("unknown flow", unknown, ERROR_NOT_FOUND, UNKNOWN_FLOW),
            ("flow 0", zero, ERROR_NOT_FOUND, UNKNOWN_FLOW),
            ("another handle's flow", foreign, ERROR_NOT_FOUND, FOREIGN_FLOW),
            ("a non-adaptive flow", plain, ERROR_NOT_SUPPORTED, NOTIFY_PATH),
            ("an unmeasurable path", adaptive, ERROR_NOT_SUPPORTED, NOTIFY_PATH),
        )
        for what, call in (
            ("congested", notify(flow, 0)),
            ("uncongested", notify(flow, 1)),
            ("available", notify(flow, 2, 8, byref(UINT64(1_000_000)))),
        )
    ),
    Row("QOSNotifyFlow", "second congested", again(0), ERROR_ALREADY_EXISTS, ONE_SHOT),
    Row(
        "QOSNotifyFlow",
        "second uncongested",
        after(lambda w: w.see(MEASURED, AVAILABLE_BPS, is_congested=True), again(1)),
        ERROR_ALREADY_EXISTS,
        ONE_SHOT,
    ),
    Row(
        "QOSNotifyFlow",
        "second available",
        again(2, 8, byref(UINT64(HELD_BPS + AVAILABLE_BPS + 1))),
        ERROR_ALREADY_EXISTS,
        ONE_SHOT,
    ),
    Row(
        "QOSNotifyFlow",
        "too many pending",
        after(in_use, notify(blank, 0)),
        ERROR_NO_SYSTEM_RESOURCES,
        DOCUMENTED,
        Limits(pending_operations=1),
    ),
    Row(
        "QOSNotifyFlow",
        "event is none",
        notify(measured, 0, overlapped=misused),
        ERROR_INVALID_HANDLE,
        DOCUMENTED,
    ),
    Row(
        "QOSNotifyFlow",
        "congested later",
        notify(measured, 0, overlapped=lambda w: byref(w.overlapped())),
        ERROR_IO_PENDING,
        PENDING,
    ),
    Row(
        "QOSNotifyFlow",
        "available later",
        notify(
            measured,
            2,
            8,
            byref(UINT64(HELD_BPS + AVAILABLE_BPS + 1)),
            overlapped=lambda w: byref(w.overlapped()),
        ),
        ERROR_IO_PENDING,
        PENDING,
    ),
    # -- QOSCancel --
    *(
        Row("QOSCancel", case, call, ERROR_INVALID_PARAMETER, CANCEL)
        for case, call in (
            ("null", lambda w: QOSCancel(w.handle, None)),
            ("null pointer", lambda w: QOSCancel(w.handle, LPOVERLAPPED())),
            ("never begun", lambda w: QOSCancel(w.handle, byref(w.overlapped()))),
            ("of another handle", lambda w: QOSCancel(w.other, in_use(w))),
            ("too small", lambda w: QOSCancel(w.handle, byref(UINT64()))),
            ("text", lambda w: QOSCancel(w.handle, "overlapped")),
        )
    ),
]


def test_there_are_rows_enough_and_no_two_are_alike() -> None:
    assert len(ROWS) >= 120
    assert len({row.id for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_error_is_in_the_functions_list(row: Row) -> None:
    assert NAMES[row.error] in errors_of(row.function)
    assert row.source


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.id, marks=[ADMINISTRATOR_ONLY] if row.needs_rights else [])
        for row in ROWS
    ],
)
def test_failing_call(row: Row) -> None:
    policy = Policy(experiments=IMPATIENT)
    if row.limits is not None:
        policy = replace(policy, limits=row.limits)
    with open_world(policy) as w:
        assert check(row, w) == (FALSE, row.error, False), row.source

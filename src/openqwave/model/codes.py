"""Numbers of the QOS2 interface: Win32 error codes, Winsock codes, flags and limits.

They are the values of qos2.h, winerror.h and winsock2.h, compiled with a Windows
compiler for both architectures and printed. A program written for qwave.dll compares
against these numbers, so they may never change.

This module and `openqwave.qos2` are the only places with Windows spelling.
"""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """Win32 error numbers that QOS2 texts name or that its clients meet (winerror.h)."""

    ERROR_SUCCESS = 0
    ERROR_ACCESS_DENIED = 5
    ERROR_INVALID_HANDLE = 6
    ERROR_NOT_ENOUGH_MEMORY = 8
    ERROR_INVALID_DATA = 13
    ERROR_NOT_READY = 21
    ERROR_GEN_FAILURE = 31
    ERROR_NOT_SUPPORTED = 50
    ERROR_NETWORK_BUSY = 54
    ERROR_DEV_NOT_EXIST = 55
    ERROR_ADAP_HDW_ERR = 57
    ERROR_BAD_NET_RESP = 58
    ERROR_UNEXP_NET_ERR = 59
    ERROR_BAD_NET_NAME = 67
    ERROR_INVALID_PARAMETER = 87
    ERROR_SEM_TIMEOUT = 121
    ERROR_INSUFFICIENT_BUFFER = 122
    ERROR_MOD_NOT_FOUND = 126
    ERROR_PROC_NOT_FOUND = 127
    ERROR_BUSY = 170
    ERROR_ALREADY_EXISTS = 183
    ERROR_NO_DATA = 232
    ERROR_MORE_DATA = 234
    ERROR_OPERATION_ABORTED = 995
    ERROR_IO_INCOMPLETE = 996
    ERROR_IO_PENDING = 997
    ERROR_INVALID_FLAGS = 1004
    ERROR_SERVICE_ALREADY_RUNNING = 1056
    ERROR_SERVICE_DISABLED = 1058
    ERROR_SERVICE_NOT_ACTIVE = 1062
    ERROR_SERVICE_DEPENDENCY_FAIL = 1068
    ERROR_IO_DEVICE = 1117
    ERROR_DEVICE_REINITIALIZATION_NEEDED = 1164
    ERROR_DEVICE_NOT_CONNECTED = 1167
    ERROR_NOT_FOUND = 1168
    ERROR_CANCELLED = 1223
    ERROR_CONNECTION_REFUSED = 1225
    ERROR_NETWORK_UNREACHABLE = 1231
    ERROR_HOST_UNREACHABLE = 1232
    ERROR_PROTOCOL_UNREACHABLE = 1233
    ERROR_PORT_UNREACHABLE = 1234
    ERROR_REQUEST_ABORTED = 1235
    ERROR_CONNECTION_ABORTED = 1236
    ERROR_RETRY = 1237
    ERROR_ACCESS_DISABLED_BY_POLICY = 1260
    ERROR_REVISION_MISMATCH = 1306
    ERROR_NO_SYSTEM_RESOURCES = 1450
    ERROR_TIMEOUT = 1460
    ERROR_PRODUCT_VERSION = 1638
    ERROR_RESOURCE_DISABLED = 4309


class WinsockCode(IntEnum):
    """What WSAGetLastError reports; the WSA_ forms share their numbers with Win32 errors.

    A program that asks WSAGetLastError after a QOS2 call reads the same slot as
    GetLastError, so both vocabularies are needed (winsock2.h, winerror.h).
    """

    WSAEWOULDBLOCK = 10035
    WSAENOTCONN = 10057
    WSAENOTSOCK = 10038
    WSAEINVAL = 10022
    WSA_IO_PENDING = 997
    WSA_OPERATION_ABORTED = 995
    WSA_INVALID_HANDLE = 6
    WSA_INVALID_PARAMETER = 87
    WSA_NOT_ENOUGH_MEMORY = 8
    WSA_IO_INCOMPLETE = 996


# Flags of QOSAddSocketToFlow and QOSQueryFlow; every other bit is reserved (qos2.h).
QOS_NON_ADAPTIVE_FLOW = 0x00000002
QOS_QUERYFLOW_FRESH = 0x00000001

# A rate that asks for "a small default share" instead of a number of bits (qos2.h).
QOS_OUTGOING_DEFAULT_MINIMUM_BANDWIDTH = 0xFFFFFFFF

# The only documented interface version.
QOS_VERSION_MAJOR = 1
QOS_VERSION_MINOR = 0

# Windows' own family numbers: AF_INET6 is 23 there and 10 on Linux, so a sockaddr that
# was built for Windows must have its family translated.
AF_INET = 2
AF_INET6 = 23

IPPROTO_TCP = 6
IPPROTO_UDP = 17

# Differentiated services code points are six bits wide (RFC 2474 section 3).
DSCP_MIN = 0
DSCP_MAX = 63

# What a function returns (windef.h).
TRUE = 1
FALSE = 0

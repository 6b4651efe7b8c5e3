"""Types and structures of qos2.h and of what it uses, as ctypes has them.

Sizes and layouts are those of Windows (see `openqwave.qos2.layout`). The names of ctypes
itself are a trap here: ``ctypes.c_ulong`` and ``ctypes.wintypes.DWORD`` are 8 bytes on
64-bit Linux. A program that takes its types from this package has the right ones.

Addresses are Windows' ``sockaddr``: ports and addresses in network order, the family of
IPv6 is 23. The family numbers of Linux are understood too.
"""

from __future__ import annotations

from ctypes import POINTER, Structure

from openqwave.qos2.layout import NATIVE

# Numbers.
BOOL = NATIVE.type_of("BOOL")
USHORT = NATIVE.type_of("USHORT")
WORD = NATIVE.type_of("WORD")
DWORD = NATIVE.type_of("DWORD")
ULONG = NATIVE.type_of("ULONG")
UINT32 = NATIVE.type_of("UINT32")
UINT64 = NATIVE.type_of("UINT64")
ULONG_PTR = NATIVE.type_of("ULONG_PTR")
HANDLE = NATIVE.type_of("HANDLE")
SOCKET = NATIVE.type_of("SOCKET")
PVOID = LPVOID = NATIVE.type_of("PVOID")
QOS_FLOWID = NATIVE.type_of("QOS_FLOWID")

IN_ADDR: type[Structure] = NATIVE.type_of("IN_ADDR")
IN6_ADDR: type[Structure] = NATIVE.type_of("IN6_ADDR")
SOCKADDR: type[Structure] = NATIVE.type_of("SOCKADDR")
SOCKADDR_IN: type[Structure] = NATIVE.type_of("SOCKADDR_IN")
SOCKADDR_IN6: type[Structure] = NATIVE.type_of("SOCKADDR_IN6")
SOCKADDR_STORAGE: type[Structure] = NATIVE.type_of("SOCKADDR_STORAGE")


class QOS_VERSION(Structure):
    """The interface version that a program was written for; {1, 0} is the only one."""

    _fields_ = NATIVE.fields("QOS_VERSION")


class QOS_PACKET_PRIORITY(Structure):
    """The four marks of a flow's packets: DSCP 0 to 63, 802.1p 0 to 7."""

    _fields_ = NATIVE.fields("QOS_PACKET_PRIORITY")


class QOS_FLOW_FUNDAMENTALS(Structure):
    """Three numbers of a path, each with its Set flag: bits per second, microseconds."""

    _fields_ = NATIVE.fields("QOS_FLOW_FUNDAMENTALS")


class QOS_FLOWRATE_OUTGOING(Structure):
    """A rate contract: bits per second with headers, what becomes of the excess, and why."""

    _fields_ = NATIVE.fields("QOS_FLOWRATE_OUTGOING")


class OVERLAPPED(Structure):
    """One operation that may complete later.

    ``Internal`` holds STATUS_PENDING until then and the Win32 error afterwards,
    ``InternalHigh`` the bytes transferred; ``hEvent`` is an event that is set at the
    completion, or 0.
    """

    _anonymous_ = ("DUMMYUNIONNAME",)
    _fields_ = NATIVE.fields("OVERLAPPED")


PQOS_VERSION = POINTER(QOS_VERSION)
PQOS_PACKET_PRIORITY = POINTER(QOS_PACKET_PRIORITY)
PQOS_FLOW_FUNDAMENTALS = POINTER(QOS_FLOW_FUNDAMENTALS)
PQOS_FLOWRATE_OUTGOING = POINTER(QOS_FLOWRATE_OUTGOING)
PQOS_FLOWID = POINTER(QOS_FLOWID)
LPOVERLAPPED = POINTER(OVERLAPPED)
PSOCKADDR = POINTER(SOCKADDR)
PHANDLE = POINTER(HANDLE)
PULONG = POINTER(ULONG)
LPDWORD = POINTER(DWORD)

__all__ = [
    "BOOL",
    "DWORD",
    "HANDLE",
    "IN6_ADDR",
    "IN_ADDR",
    "LPDWORD",
    "LPOVERLAPPED",
    "LPVOID",
    "OVERLAPPED",
    "PHANDLE",
    "PQOS_FLOWID",
    "PQOS_FLOWRATE_OUTGOING",
    "PQOS_FLOW_FUNDAMENTALS",
    "PQOS_PACKET_PRIORITY",
    "PQOS_VERSION",
    "PSOCKADDR",
    "PULONG",
    "PVOID",
    "QOS_FLOWID",
    "QOS_FLOWRATE_OUTGOING",
    "QOS_FLOW_FUNDAMENTALS",
    "QOS_PACKET_PRIORITY",
    "QOS_VERSION",
    "SOCKADDR",
    "SOCKADDR_IN",
    "SOCKADDR_IN6",
    "SOCKADDR_STORAGE",
    "SOCKET",
    "UINT32",
    "UINT64",
    "ULONG",
    "ULONG_PTR",
    "USHORT",
    "WORD",
]

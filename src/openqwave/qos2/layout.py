"""Windows' rules for laying out structures, applied to tables of fields.

A table is a tuple of (name, type name) pairs; a `DataModel` turns it into ctypes fields.
The rules are those of the Windows compilers: a member stands at the next multiple of its
own alignment, a structure is as aligned as its most aligned member and padded to a
multiple of that, and the alignment of a number is its size. On 64-bit Linux the system's
own rules give the same. On 32-bit x86 they do not: Linux aligns 64-bit numbers to 4 bytes
there and Windows to 8, so where the system would place a member elsewhere a reserved
filler goes before it. The one thing that a filler cannot give back is the alignment of
the whole structure, which matters to arrays of them only; this interface has none.

The types depend on the width of a pointer alone: `DataModel(8)` is 64-bit Windows,
`DataModel(4)` 32-bit Windows, and `NATIVE` is what this process needs. Both Windows ones
can be built everywhere, so that tests see the layout of the other kind too.
"""

from __future__ import annotations

import ctypes
import types
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

Fields: TypeAlias = tuple[tuple[str, str], ...]
CType: TypeAlias = type[Any]

# Fixed-width types only: ctypes.c_ulong is 8 bytes on 64-bit Linux, ULONG is 4 everywhere.
_FIXED: dict[str, CType] = {
    "BOOL": ctypes.c_int32,
    "CHAR": ctypes.c_char,
    "UCHAR": ctypes.c_ubyte,
    "USHORT": ctypes.c_uint16,
    "WORD": ctypes.c_uint16,
    "DWORD": ctypes.c_uint32,
    "ULONG": ctypes.c_uint32,
    "UINT32": ctypes.c_uint32,
    "UINT64": ctypes.c_uint64,
    "LONGLONG": ctypes.c_int64,
    "QOS_FLOWID": ctypes.c_uint32,
    # An enumeration of C is an int.
    "QOS_TRAFFIC_TYPE": ctypes.c_int32,
    "QOS_SET_FLOW": ctypes.c_int32,
    "QOS_QUERY_FLOW": ctypes.c_int32,
    "QOS_NOTIFY_FLOW": ctypes.c_int32,
    "QOS_SHAPING": ctypes.c_int32,
    "QOS_FLOWRATE_REASON": ctypes.c_int32,
}

# As wide as a pointer: the number types, and the types that are pointers.
_POINTER_SIZED_NUMBERS = ("SOCKET", "ULONG_PTR")
_POINTERS = ("HANDLE", "PVOID")

STRUCTURES: dict[str, Fields] = {
    "QOS_VERSION": (("MajorVersion", "USHORT"), ("MinorVersion", "USHORT")),
    "QOS_PACKET_PRIORITY": (
        ("ConformantDSCPValue", "ULONG"),
        ("NonConformantDSCPValue", "ULONG"),
        ("ConformantL2Value", "ULONG"),
        ("NonConformantL2Value", "ULONG"),
    ),
    "QOS_FLOW_FUNDAMENTALS": (
        ("BottleneckBandwidthSet", "BOOL"),
        ("BottleneckBandwidth", "UINT64"),
        ("AvailableBandwidthSet", "BOOL"),
        ("AvailableBandwidth", "UINT64"),
        ("RTTSet", "BOOL"),
        ("RTT", "UINT32"),
    ),
    "QOS_FLOWRATE_OUTGOING": (
        ("Bandwidth", "UINT64"),
        ("ShapingBehavior", "QOS_SHAPING"),
        ("Reason", "QOS_FLOWRATE_REASON"),
    ),
    "OVERLAPPED_OFFSETS": (("Offset", "DWORD"), ("OffsetHigh", "DWORD")),
    "OVERLAPPED": (
        ("Internal", "ULONG_PTR"),
        ("InternalHigh", "ULONG_PTR"),
        ("DUMMYUNIONNAME", "OVERLAPPED_POSITION"),
        ("hEvent", "HANDLE"),
    ),
    "SOCKADDR": (("sa_family", "USHORT"), ("sa_data", "CHAR[14]")),
    "IN_ADDR_BYTES": (
        ("s_b1", "UCHAR"),
        ("s_b2", "UCHAR"),
        ("s_b3", "UCHAR"),
        ("s_b4", "UCHAR"),
    ),
    "IN_ADDR_WORDS": (("s_w1", "USHORT"), ("s_w2", "USHORT")),
    "IN_ADDR": (("S_un", "IN_ADDR_UNION"),),
    "IN6_ADDR": (("u", "IN6_ADDR_UNION"),),
    "SOCKADDR_IN": (
        ("sin_family", "USHORT"),
        ("sin_port", "USHORT"),
        ("sin_addr", "IN_ADDR"),
        ("sin_zero", "CHAR[8]"),
    ),
    "SOCKADDR_IN6": (
        ("sin6_family", "USHORT"),
        ("sin6_port", "USHORT"),
        ("sin6_flowinfo", "ULONG"),
        ("sin6_addr", "IN6_ADDR"),
        ("sin6_scope_id", "ULONG"),
    ),
    "SOCKADDR_STORAGE": (
        ("ss_family", "USHORT"),
        ("__ss_pad1", "CHAR[6]"),
        ("__ss_align", "LONGLONG"),
        ("__ss_pad2", "CHAR[112]"),
    ),
}

UNIONS: dict[str, Fields] = {
    "OVERLAPPED_POSITION": (("DUMMYSTRUCTNAME", "OVERLAPPED_OFFSETS"), ("Pointer", "PVOID")),
    "IN_ADDR_UNION": (
        ("S_un_b", "IN_ADDR_BYTES"),
        ("S_un_w", "IN_ADDR_WORDS"),
        ("S_addr", "ULONG"),
    ),
    "IN6_ADDR_UNION": (("Byte", "UCHAR[16]"), ("Word", "USHORT[8]")),
}

# Members whose own members are reached as if they stood in the outer structure.
TRANSPARENT = frozenset({"DUMMYUNIONNAME", "DUMMYSTRUCTNAME", "S_un", "u"})


@dataclass(frozen=True, slots=True)
class DataModel:
    """The types of one kind of Windows.

    Attributes:
        pointer_bytes: 8 for 64-bit Windows, 4 for 32-bit.
    """

    pointer_bytes: int

    def type_of(self, name: str) -> CType:
        """The ctypes type of a Windows type name.

        Args:
            name: A number type, a structure or union of this module, or ``NAME[n]``.

        Raises:
            KeyError: There is no such type here.
        """
        element, bracket, count = name.rstrip("]").partition("[")
        if bracket:
            array: CType = self.type_of(element) * int(count)
            return array
        if name in _FIXED:
            return _FIXED[name]
        is_native = self.pointer_bytes == ctypes.sizeof(ctypes.c_void_p)
        if name in _POINTERS and is_native:
            return ctypes.c_void_p
        if name in _POINTERS or name in _POINTER_SIZED_NUMBERS:
            return ctypes.c_uint64 if self.pointer_bytes == 8 else ctypes.c_uint32
        return _compound(self, name)

    def alignment_of(self, name: str) -> int:
        """The Windows alignment of a type, bytes; see the module's text."""
        element = name.partition("[")[0]
        members = STRUCTURES.get(element) or UNIONS.get(element)
        if members is None:
            return ctypes.sizeof(self.type_of(element))
        return max(self.alignment_of(member) for _, member in members)

    def fields(self, name: str) -> list[tuple[str, CType]]:
        """The ctypes fields of a structure, with fillers where this system needs them."""
        members = [
            (member, self.type_of(kind), self.alignment_of(kind))
            for member, kind in STRUCTURES[name]
        ]
        return padded(members, self.alignment_of(name))


def padded(members: list[tuple[str, CType, int]], alignment: int) -> list[tuple[str, CType]]:
    """Place members at multiples of their Windows alignments.

    Args:
        members: Name, type and Windows alignment of each.
        alignment: Windows alignment of the whole.

    Returns:
        Fields for ctypes; fillers, named ``_filler0`` and on, only where this system
        would place the next member elsewhere or end the structure earlier.
    """
    fields: list[tuple[str, CType]] = []
    end = native_alignment = 0

    def fill(to: int, native: int) -> None:
        # The system's own padding and the filler come to the same place.
        if -(-end // native) * native != to:
            fields.append((f"_filler{len(fields)}", ctypes.c_ubyte * (to - end)))

    for name, kind, windows in members:
        native = ctypes.alignment(kind)
        native_alignment = max(native_alignment, native)
        start = -(-end // windows) * windows
        fill(start, native)
        fields.append((name, kind))
        end = start + ctypes.sizeof(kind)
    fill(-(-end // alignment) * alignment, native_alignment)
    return fields


@cache
def _compound(model: DataModel, name: str) -> CType:
    """A structure or union of a data model; made once, because ctypes compares by identity."""
    if name in UNIONS:
        fields = [(member, model.type_of(kind)) for member, kind in UNIONS[name]]
    else:
        fields = model.fields(name)
    body: dict[str, Any] = {
        "_anonymous_": tuple(member for member, _ in fields if member in TRANSPARENT)
    }
    body["_fields_"] = fields
    # Their metaclasses make the layout; type() finds them through the bases.
    base: CType = ctypes.Union if name in UNIONS else ctypes.Structure
    made: CType = types.new_class(name, (base,), exec_body=lambda namespace: namespace.update(body))
    return made


WINDOWS_X86_64 = DataModel(8)
WINDOWS_I686 = DataModel(4)
NATIVE = DataModel(ctypes.sizeof(ctypes.c_void_p))

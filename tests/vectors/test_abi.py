"""The binary interface against what Windows compilers make of the headers."""

from __future__ import annotations

import ctypes
import enum
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from openqwave import qos2
from openqwave.qos2 import abi, enumerations, layout

FACTS: dict[str, Any] = json.loads(
    Path(__file__).with_name("qos2_abi.json").read_text(encoding="utf-8")
)
MODELS = {"windows-x86_64": layout.WINDOWS_X86_64, "windows-i686": layout.WINDOWS_I686}
LAYOUTS = [
    pytest.param(name, architecture, id=f"{name}-{architecture}")
    for name, layouts in FACTS["structs"].items()
    for architecture in layouts
]
# The C face of these is a pointer or a class of the same size; the rest are ctypes numbers.
NATIVE = {8: "windows-x86_64", 4: "windows-i686"}[ctypes.sizeof(ctypes.c_void_p)]


def offsets_of(structure: layout.CType) -> dict[str, tuple[int, int]]:
    """Offset and size of each member, the members of transparent unions included."""
    found: dict[str, tuple[int, int]] = {}
    for name, kind, *_ in structure._fields_:
        start = getattr(structure, name).offset
        found[name] = (start, ctypes.sizeof(kind))
        if name in layout.TRANSPARENT:
            for inner, (offset, size) in offsets_of(kind).items():
                found[inner] = (start + offset, size)
    return found


def assert_layout(structure: layout.CType, facts: dict[str, Any]) -> None:
    assert ctypes.sizeof(structure) == facts["size"]
    assert ctypes.alignment(structure) == facts["align"]
    members = offsets_of(structure)
    assert {name: members[name][0] for name in facts["offsets"]} == facts["offsets"]
    assert {name: members[name][1] for name in facts["field_sizes"]} == facts["field_sizes"]


@pytest.mark.parametrize(("name", "architecture"), LAYOUTS)
def test_structure_layout(name: str, architecture: str) -> None:
    structure = MODELS[architecture].type_of(name)
    assert_layout(structure, FACTS["structs"][name][architecture])
    assert MODELS[architecture].alignment_of(name) == ctypes.alignment(structure)


@pytest.mark.parametrize("name", FACTS["structs"])
def test_public_structure_has_this_machines_windows_layout(name: str) -> None:
    assert_layout(getattr(qos2, name), FACTS["structs"][name][NATIVE])


@pytest.mark.parametrize("architecture", MODELS)
def test_type_sizes(architecture: str) -> None:
    model = MODELS[architecture]
    sizes = {name: ctypes.sizeof(model.type_of(name)) for name in FACTS["type_sizes"][architecture]}
    assert sizes == FACTS["type_sizes"][architecture]


@pytest.mark.parametrize("name", sorted(set(FACTS["type_sizes"][NATIVE]) - set(FACTS["enums"])))
def test_public_type_has_this_machines_windows_size(name: str) -> None:
    assert ctypes.sizeof(getattr(abi, name)) == FACTS["type_sizes"][NATIVE][name]


def test_fillers_stand_in_where_the_system_aligns_less() -> None:
    # What 32-bit Linux does to QOS_FLOW_FUNDAMENTALS, said with bytes: a 64-bit number
    # that the system would not align at all.
    loose = ctypes.c_ubyte * 8
    fields = layout.padded(
        [("flag", ctypes.c_int32, 4), ("number", loose, 8), ("last", ctypes.c_int32, 4)], 8
    )

    class Padded(ctypes.Structure):
        _fields_ = fields

    structure: layout.CType = Padded
    assert (structure.flag.offset, structure.number.offset, structure.last.offset) == (0, 8, 16)
    assert ctypes.sizeof(structure) == 24
    assert [name for name, _ in fields if name.startswith("_filler")] == ["_filler1", "_filler4"]


def test_no_fillers_where_the_system_does_it_itself() -> None:
    model = layout.NATIVE
    if ctypes.alignment(ctypes.c_uint64) == 8:
        for name, members in layout.STRUCTURES.items():
            assert [member for member, _ in model.fields(name)] == [m for m, _ in members]
    else:
        assert ctypes.sizeof(abi.QOS_FLOW_FUNDAMENTALS) == 40


def test_overlapped_position_is_a_union() -> None:
    overlapped: Any = abi.OVERLAPPED()
    overlapped.Offset, overlapped.OffsetHigh = 0x1_0000, 2
    assert overlapped.Pointer & 0xFFFF_FFFF == 0x1_0000


def test_in_addr_is_reached_as_windows_programs_do() -> None:
    address: Any = abi.SOCKADDR_IN(sin_family=2)
    address.sin_addr.S_un.S_addr = int.from_bytes(b"\x7f\0\0\1", "little")
    assert address.sin_addr.S_addr == address.sin_addr.S_un.S_addr
    assert bytes(address)[4:8] == address.sin_addr.S_addr.to_bytes(4, "little")


@pytest.mark.parametrize("name", FACTS["enums"])
def test_enumeration(name: str) -> None:
    enumeration: type[enum.IntEnum] = getattr(enumerations, name)
    assert {member.name: member.value for member in enumeration} == FACTS["enums"][name]
    for member, value in FACTS["enums"][name].items():
        assert getattr(qos2, member) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for kind in ("error_codes", "winsock_codes", "constants")
        for name, value in FACTS[kind].items()
        # The version and the DSCP limits are facts of the text, not names of the header.
        if not name.startswith(("QOS_VERSION_", "DSCP_"))
    ],
)
def test_number(name: str, value: int) -> None:
    assert getattr(qos2, name) == value


@pytest.mark.parametrize(("name", "count"), FACTS["parameter_counts"].items())
def test_function_takes_what_the_header_says(name: str, count: int) -> None:
    assert len(inspect.signature(getattr(qos2, name)).parameters) == count


@pytest.mark.parametrize(("af", "protocol", "overhead_bytes"), FACTS["header_overhead_bytes"])
def test_header_overhead(af: int, protocol: int, overhead_bytes: int) -> None:
    assert qos2.QOS_HEADER_OVERHEAD(af, protocol) == overhead_bytes


def test_header_overhead_of_other_families_and_protocols() -> None:
    # "any address family other than AF_INET counts as IPv6, any protocol other than TCP
    # counts as UDP"
    assert qos2.QOS_HEADER_OVERHEAD(10, 6) == qos2.QOS_HEADER_OVERHEAD(0, 6) == 60
    assert qos2.QOS_HEADER_OVERHEAD(2, 0) == qos2.QOS_HEADER_OVERHEAD(2, 132) == 28


@pytest.mark.parametrize(FACTS["overhead_columns"], FACTS["overhead"])
def test_overhead(
    af: int, protocol: int, packet_bytes: int, rate_bps: int, added: int, subtracted: int
) -> None:
    assert qos2.QOS_ADD_OVERHEAD(af, protocol, packet_bytes, rate_bps) == added
    assert qos2.QOS_SUBTRACT_OVERHEAD(af, protocol, packet_bytes, rate_bps) == subtracted


def test_star_import_gives_everything_and_nothing_private() -> None:
    names: dict[str, object] = {}
    exec("from openqwave.qos2 import *", names)  # noqa: S102 - what a program writes
    del names["__builtins__"]
    assert set(names) == set(qos2.__all__)
    assert not [name for name in names if name.startswith("_")]
    assert set(FACTS["errors_by_function"]) <= set(names)

"""The kernel's description of its types: one made by hand, broken ones, and the kernel's own."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwave.enforcement.bpf import btf, layout, syscalls
from openqwave.enforcement.bpf.btf import BrokenTypes, Field
from openqwave.enforcement.bpf.creation import PLACES

INT, ARRAY, STRUCT, UNION, ENUM, FUNC_PROTO, VAR, DATASEC, ENUM64 = 1, 3, 4, 5, 6, 13, 14, 15, 19


class Description:
    """A description of types, made by hand; numbers begin at 1."""

    def __init__(self) -> None:
        self.types, self.names = b"", b"\0"

    def name(self, text: str) -> int:
        """Where a name stands, once for each."""
        if not text:
            return 0
        at = self.names.find(b"\0" + text.encode() + b"\0") + 1
        if not at:
            at = len(self.names)
            self.names += text.encode() + b"\0"
        return at

    def add(self, kind: int, name: str = "", rest: bytes = b"", number: int = 0) -> None:
        """One type; `number` is its count of members, with the flag of bit fields."""
        self.types += struct.pack("<III", self.name(name), kind << 24 | number, 0) + rest

    def group(
        self, kind: int, name: str, *members: tuple[str, int, int], has_bits: bool = False
    ) -> None:
        """A structure or union of (name, type, bits from the beginning)."""
        rest = b"".join(struct.pack("<III", self.name(text), *where) for text, *where in members)
        self.add(kind, name, rest, len(members) | has_bits << 31)

    def packed(self) -> bytes:
        """As the kernel hands it out."""
        sizes = (0, len(self.types), len(self.types), len(self.names))
        return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, *sizes) + self.types + self.names


@pytest.fixture
def made() -> Description:
    """Each kind of type, and fields in unnamed structures and unions."""
    found = Description()
    found.add(INT, "long", bytes(4))  # 1
    found.add(ARRAY, "", bytes(12))  # 2
    found.add(ENUM, "colour", bytes(16), 2)  # 3
    found.add(FUNC_PROTO, "", bytes(24), 3)  # 4
    found.add(VAR, "jiffies", bytes(4))  # 5
    found.add(DATASEC, ".data", bytes(24), 2)  # 6
    found.add(ENUM64, "large", bytes(12), 1)  # 7
    found.group(STRUCT, "", ("deep", 1, 64), ("deeper", 1, 128))  # 8
    found.group(UNION, "", ("flat", 1, 0), ("", 8, 0))  # 9
    found.group(STRUCT, "named", ("inner", 1, 0))  # 10
    found.group(STRUCT, "file", ("first", 1, 0), ("", 9, 192), ("part", 10, 512))  # 11
    found.group(STRUCT, "flags", ("one", 1, 1 << 24), ("all", 1, 32), has_bits=True)  # 12
    found.group(STRUCT, "twice", ("left", 1, 8))  # 13
    found.group(STRUCT, "twice", ("right", 1, 16))  # 14
    found.group(STRUCT, "last", ("end", 1, 8_000))  # 15
    return found


@pytest.mark.parametrize(
    ("field", "offset"),
    [
        (Field("file", "first"), 0),
        (Field("file", "flat"), 24),
        (Field("file", "deep"), 32),
        (Field("file", "deeper"), 40),
        (Field("file", "part"), 64),
        (Field("named", "inner"), 0),
        (Field("flags", "all"), 4),
        (Field("twice", "left"), 1),
        (Field("twice", "right"), 2),
        (Field("last", "end"), 1_000),
    ],
)
def test_where_fields_are(made: Description, field: Field, offset: int) -> None:
    assert btf.offsets(made.packed(), [field]) == {field: offset}


@pytest.mark.parametrize(
    "field",
    [
        Field("file", "inner"),
        Field("file", "nowhere"),
        Field("nothing", "first"),
        Field("long", "first"),
        Field("", "first"),
        Field("flags", ""),
    ],
)
def test_what_is_not_there_is_said(made: Description, field: Field) -> None:
    with pytest.raises(BrokenTypes, match=f"no {field.structure}.{field.member}"):
        btf.offsets(made.packed(), [field])


def test_a_structure_in_itself_ends() -> None:
    made = Description()
    made.group(STRUCT, "", ("", 1, 0), ("x", 1, 0))
    made.group(STRUCT, "file", ("", 1, 0), ("y", 1, 0))
    with pytest.raises(BrokenTypes, match="without an end"):
        btf.offsets(made.packed(), [Field("file", "y")])


def test_more_members_than_there_can_be_end() -> None:
    made = Description()
    made.group(STRUCT, "", ("a", 5, 0))
    for below in range(1, 5):
        made.group(STRUCT, "", *[("", below, 0)] * 1_000)
    made.group(STRUCT, "file", ("", 5, 0), ("y", 1, 0))
    with pytest.raises(BrokenTypes, match="without an end"):
        btf.offsets(made.packed(), [Field("file", "y")])


def test_another_kind_of_file_is_refused(made: Description) -> None:
    data = made.packed()
    for other, word in (
        (b"", "cut off"),
        (bytes(64), "no description"),
        (struct.pack(">H", 0xEB9F) + data[2:], "no description"),
        (data[:2] + b"\2" + data[3:], "no description"),
    ):
        with pytest.raises(BrokenTypes, match=word):
            btf.offsets(other, [Field("file", "first")])


def test_a_kind_of_another_time_is_refused(made: Description) -> None:
    made.add(31, "new")
    with pytest.raises(BrokenTypes, match=r"not known \(31\)"):
        btf.offsets(made.packed(), [Field("file", "first")])


@given(st.data())
def test_whatever_is_read_ends_and_is_told(data: st.DataObject) -> None:
    made = Description()
    made.group(STRUCT, "", ("deep", 2, 64))
    made.group(STRUCT, "file", ("", 1, 8), ("x", 1, 0))
    whole = bytearray(made.packed())
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    with contextlib.suppress(BrokenTypes):
        found = btf.offsets(bytes(whole[:cut]), [Field("file", "deep"), Field("file", "x")])
        assert all(0 <= offset < 1 << 29 for offset in found.values())


def test_the_running_kernels() -> None:
    path = Path("/sys/kernel/btf/vmlinux")
    if not path.exists():
        pytest.skip("this kernel has no description of its types")
    data = path.read_bytes()
    begun = time.process_time()
    found = btf.offsets(data, [field for way in PLACES for field in way])
    # 0.07 s are seen; whoever waits for it has asked for rules that name programs.
    assert time.process_time() - begun < 2
    assert all(0 <= offset < 1 << 14 for offset in found.values())
    # The list of tasks begins with the thread's own data, and names with their lengths.
    assert found[Field("qstr", "name")] == 8
    assert found[Field("task_struct", "mm")] > 0


@pytest.mark.parametrize("size", [4, 112, 4_096])
def test_what_storage_looks_like(size: int) -> None:
    """It is read as it was made; the kernel reads it in tests that load the program."""
    made = btf.description(size)
    assert btf.offsets(made, [Field("value", "value")]) == {Field("value", "value"): 0}


def test_the_kernel_takes_the_description() -> None:
    try:
        fd = syscalls.btf_load(btf.description(layout.OWNER.size))
    except PermissionError:
        pytest.skip("only root may load descriptions of types")
    storage = syscalls.storage_create(layout.OWNER.size, fd, "test")
    for each in (fd, storage):
        os.close(each)

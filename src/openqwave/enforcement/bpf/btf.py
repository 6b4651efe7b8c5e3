"""BTF, the kernel's description of types: as much of it as is needed.

**Where fields are.** The program that notes who makes a socket reads the kernel's own structures,
which are laid out differently in every build. The running kernel describes them in
/sys/kernel/btf/vmlinux (5 MB, 150,000 types). `offsets` finds some fields there: it walks over the
heads of all types, because a type's number is its place in the list, and reads the members of the
few structures that are asked for. Members of structures and unions without a name count as those of
the structure around; newer kernels have put fields into such.

**What storage looks like.** The kernel keeps nothing with a socket whose type it has not been told.
`description` makes that: a key and a value of so many bytes.

What is read comes from the kernel, or from a file in its place; nothing in it is believed. Numbers
that point outside, and nests without an end, are a `BrokenTypes`.

Source: Documentation/bpf/btf.rst, linux/btf.h.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

# struct btf_header.
_HEAD: Final = struct.Struct("<HBBIIIII")
_MAGIC: Final = 0xEB9F
_VERSION: Final = 1
# struct btf_type, and struct btf_member: name, type, offset; in words of four bytes.
_WORD: Final = 4
_TYPE_WORDS: Final = 3
_MEMBER_WORDS: Final = 3
_INT, _ARRAY, _STRUCT, _UNION = 1, 3, 4, 5
# What follows the head of each kind, in words: always, and for each of its members.
_FIXED: Final = {1: 1, 3: 3, 14: 1, 17: 1}
_EACH: Final = {4: 3, 5: 3, 6: 2, 13: 2, 15: 3, 19: 3}
_MOST_KIND: Final = 19
# Where bit fields are, offsets have this many bits, and the width is above them.
_OFFSET_BITS: Final = 24
# The kernel nests unnamed structures three deep.
_MOST_NESTED: Final = 8
# Members that are looked at for one field. The kernel's largest structure has 300.
_MOST_MEMBERS: Final = 100_000
# More than any kernel has: twenty times.
_MOST_BYTES: Final = 100 << 20


class BrokenTypes(ValueError):
    """The description is not whole, or what is looked for is not in it; the text says which."""


class Field(NamedTuple):
    """A field of a structure, as C writes it: ``structure.member``."""

    structure: str
    member: str


def offsets(data: bytes, wanted: Iterable[Field]) -> dict[Field, int]:
    """Where fields are in their structures, in bytes.

    Args:
        data: What /sys/kernel/btf/vmlinux holds.
        wanted: Which; their structures have names.

    Raises:
        BrokenTypes: One of them is not there, or this is no description of types.
    """
    try:
        return _offsets(data, tuple(wanted))
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise BrokenTypes("the description of the kernel's types is cut off") from error


def description(value_bytes: int) -> bytes:
    """A description in which type 1 is a word of four bytes, and type 3 so many bytes.

    Args:
        value_bytes: A multiple of four.
    """
    names = b"\0word\0value\0"
    word, value = names.index(b"word"), names.index(b"value")
    types = struct.pack("<IIII", word, _INT << 24, _WORD, 8 * _WORD)
    types += struct.pack("<IIIIII", 0, _ARRAY << 24, 0, 1, 1, value_bytes // _WORD)
    types += struct.pack("<IIIIII", value, _STRUCT << 24 | 1, value_bytes, value, 2, 0)
    head = _HEAD.pack(
        *(_MAGIC, _VERSION, 0, _HEAD.size, 0, len(types), len(types), len(names)),
    )
    return head + types + names


def _offsets(data: bytes, wanted: tuple[Field, ...]) -> dict[Field, int]:
    if len(data) > _MOST_BYTES:
        raise BrokenTypes("the description of the kernel's types is too large to be one")
    magic, version, _, head_bytes, types_at, types_bytes, names_at, names_bytes = _HEAD.unpack_from(
        data
    )
    if magic != _MAGIC or version != _VERSION:
        raise BrokenTypes("this is no description of types (BTF, version 1, little-endian)")
    types = data[head_bytes + types_at :][:types_bytes]
    names = data[head_bytes + names_at :][:names_bytes]
    if len(types) != types_bytes or len(names) != names_bytes or types_bytes % _WORD:
        raise BrokenTypes("the description of the kernel's types is cut off")
    table = _Types(memoryview(types).cast("I"), names)
    found: dict[Field, int] = {}
    for field in wanted:
        offset = table.offset(field)
        if offset is None:
            raise BrokenTypes(f"the kernel's types have no {field.structure}.{field.member}")
        found[field] = offset
    return found


class _Types:
    """All types, by number."""

    def __init__(self, words: memoryview, names: bytes) -> None:
        self._words = words
        self._names = names
        self._left = 0
        # Number 0 is void.
        self._places = [-1, *_walk(words)]
        # Drivers may have one of the same name.
        self._structures: dict[int, list[int]] = {}
        for at in self._places[1:]:
            if words[at + 1] >> 24 & 0x1F == _STRUCT:
                self._structures.setdefault(words[at], []).append(at)

    def offset(self, field: Field) -> int | None:
        structure, member = self._name_at(field.structure), self._name_at(field.member)
        if not structure or not member:
            return None
        self._left = _MOST_MEMBERS
        for at in self._structures.get(structure, ()):
            bits = self._find(at, member, _MOST_NESTED)
            if bits is not None and not bits % 8:
                return bits // 8
        return None

    def _name_at(self, text: str) -> int:
        """Where a name stands; 0 if there is none. The kernel's tools write each once."""
        return self._names.find(b"\0" + text.encode("ascii") + b"\0") + 1

    def _find(self, at: int, name: int, depth: int) -> int | None:
        """Where a member is in the structure or union at a place, in bits."""
        words = self._words
        info = words[at + 1]
        self._left -= info & 0xFFFF
        if self._left < 0 or depth < 0:
            raise BrokenTypes("the kernel's types are nested without an end")
        mask = (1 << _OFFSET_BITS) - 1 if info >> 31 else 0xFFFF_FFFF
        for member in range(info & 0xFFFF):
            begin = at + _TYPE_WORDS + member * _MEMBER_WORDS
            bits = words[begin + 2] & mask
            if words[begin] == name:
                return bits
            inner = None if words[begin] else self._unnamed(words[begin + 1])
            if inner is not None:
                below = self._find(inner, name, depth - 1)
                if below is not None:
                    return bits + below
        return None

    def _unnamed(self, number: int) -> int | None:
        """The place of a structure or union; None for any other type."""
        at = self._places[number]
        is_group = at >= 0 and self._words[at + 1] >> 24 & 0x1F in (_STRUCT, _UNION)
        return at if is_group else None


def _walk(words: memoryview) -> list[int]:
    """Where each type begins, in words."""
    step = [_TYPE_WORDS + _FIXED.get(kind, 0) for kind in range(_MOST_KIND + 1)]
    each = [_EACH.get(kind, 0) for kind in range(_MOST_KIND + 1)]
    places: list[int] = []
    add, at, end = places.append, 0, len(words)
    while at < end:
        info = words[at + 1]
        kind = info >> 24 & 0x1F
        if not 0 < kind <= _MOST_KIND:
            raise BrokenTypes(f"the kernel's types have one of a kind that is not known ({kind})")
        add(at)
        at += step[kind] + each[kind] * (info & 0xFFFF)
    if at != end:
        raise BrokenTypes("the description of the kernel's types is cut off")
    return places

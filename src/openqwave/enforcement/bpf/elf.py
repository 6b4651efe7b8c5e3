"""What is in the object that clang makes of the kernel's program.

An ELF file (elf(5), System V ABI) for little-endian eBPF, and of it only what a loader needs: each
program is a section of instructions and the symbol of its function; the maps are symbols in one
section of descriptions; a relocation (R_BPF_64_64, Documentation/bpf/llvm_reloc.rst) says which
instruction takes the descriptor of which map. Debug information and BTF are not read.

The object is a part of this package and not of an enemy, but a broken one is refused with a word on
what is wrong, rather than handed to the kernel.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

# struct Elf64_Ehdr, Elf64_Shdr, Elf64_Sym, Elf64_Rel.
_HEAD: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_RELOCATION: Final = struct.Struct("<QQ")
# 64 bits, little-endian.
_IDENTITY: Final = b"\x7fELF\x02\x01"
_MACHINE_BPF: Final = 247
_SYMBOL_TABLE, _RELOCATIONS = 2, 9
_FUNCTION: Final = 2
_R_BPF_64_64: Final = 1

INSTRUCTION_BYTES: Final = 8
# The first half of a load of 64 bits, and what its source register says for a map's descriptor.
_LOAD_64: Final = 0x18
_PSEUDO_MAP_FD: Final = 1
# The kernel's kind of map, bytes of a key and of a value, as the source describes them.
_MAP: Final = struct.Struct("<III")


class BrokenObject(ValueError):
    """The object is not one that this module reads; the text says why."""


@dataclass(frozen=True, slots=True)
class MapShape:
    """How a map is made, but for its number of entries.

    Attributes:
        kind: A BPF_MAP_TYPE_ of linux/bpf.h.
        key_bytes: 0 for a ring buffer.
        value_bytes: The same.
    """

    kind: int
    key_bytes: int
    value_bytes: int


@dataclass(frozen=True, slots=True)
class Code:
    """One program.

    Attributes:
        section: The section it is in, for example ``tc/egress``.
        instructions: Eight bytes each.
        maps: By the index of an instruction, the name of the map whose descriptor it takes.
    """

    section: str
    instructions: bytes
    maps: dict[int, str]

    def linked(self, descriptors: dict[str, int]) -> bytes:
        """The instructions with the maps' descriptors in them."""
        code = bytearray(self.instructions)
        for index, name in self.maps.items():
            at = index * INSTRUCTION_BYTES
            code[at + 1] = code[at + 1] & 0x0F | _PSEUDO_MAP_FD << 4
            struct.pack_into("<i", code, at + 4, descriptors[name])
        return bytes(code)


@dataclass(frozen=True, slots=True)
class Object:
    """What is in it.

    Attributes:
        programs: By the name of their function.
        maps: By name.
        layout: Sizes and offsets of the structures, as the compiler laid them out.
        license: What the programs' licence is.
    """

    programs: dict[str, Code]
    maps: dict[str, MapShape]
    layout: tuple[int, ...]
    license: str


def read(data: bytes) -> Object:
    """Read an object.

    Raises:
        BrokenObject: It is none, or not whole.
    """
    try:
        return _read(data)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise BrokenObject(f"the object ends early or points outside of itself: {error}") from error


def _text(data: bytes, at: int) -> str:
    end = data.index(b"\0", at) if b"\0" in data[at:] else len(data)
    return data[at:end].decode("ascii")


def _read(data: bytes) -> Object:
    head = _HEAD.unpack_from(data)
    if not head[0].startswith(_IDENTITY) or head[2] != _MACHINE_BPF:
        raise BrokenObject("this is no little-endian eBPF object")
    at, size, count, names_index = head[6], head[11], head[12], head[13]
    heads = [_SECTION.unpack_from(data, at + index * size) for index in range(count)]
    bodies = [data[each[4] : each[4] + each[5]] for each in heads]
    names = [_text(bodies[names_index], each[0]) for each in heads]
    by_name = dict(zip(names, bodies, strict=True))
    for wanted in ("maps", "layout", "license"):
        if wanted not in by_name:
            raise BrokenObject(f"the section {wanted!r} is missing")
    table = next((index for index, each in enumerate(heads) if each[1] == _SYMBOL_TABLE), None)
    if table is None:
        raise BrokenObject("there is no table of symbols")
    symbol_names = bodies[heads[table][6]]
    symbols = [
        (_text(symbol_names, name), info & 0xF, section, value)
        for name, info, _, section, value, _ in _SYMBOL.iter_unpack(bodies[table])
    ]
    maps_section = names.index("maps")
    map_at = {
        value: name for name, _, section, value in symbols if section == maps_section and name
    }
    maps = {
        name: MapShape(*_MAP.unpack_from(by_name["maps"], value)) for value, name in map_at.items()
    }
    programs = {
        name: Code(names[section], bodies[section], {})
        for name, kind, section, _ in symbols
        if kind == _FUNCTION
    }
    of_section = {code.section: code for code in programs.values()}
    for each, body in zip(heads, bodies, strict=True):
        code = of_section.get(names[each[7]]) if each[1] == _RELOCATIONS else None
        if code is not None:
            _relocate(code, body, symbols, maps_section)
    layout = struct.unpack(f"<{len(by_name['layout']) // 4}I", by_name["layout"])
    return Object(programs, maps, layout, _text(by_name["license"], 0))


def _relocate(
    code: Code, body: bytes, symbols: list[tuple[str, int, int, int]], maps_section: int
) -> None:
    """Note which instructions take which map."""
    for offset, info in _RELOCATION.iter_unpack(body):
        name, _, section, _ = symbols[info >> 32]
        is_map = info & 0xFFFF_FFFF == _R_BPF_64_64 and section == maps_section
        if not is_map or offset % INSTRUCTION_BYTES or code.instructions[offset] != _LOAD_64:
            raise BrokenObject(f"the instruction at {offset} of {code.section} wants {name!r}")
        code.maps[offset // INSTRUCTION_BYTES] = name

"""The numbers and structures of the Windows face, as Markdown."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from enum import IntEnum
from inspect import getdoc, isclass

from openqwave import qos2

# What in docs/reference-qos2.md stands for them.
NUMBERS_MARK, STRUCTURES_MARK = "<!-- every number -->", "<!-- every structure -->"


def numbers() -> str:
    """Every constant, enumerations first."""
    return "\n".join(_numbers())


def structures() -> str:
    """Every structure with its fields."""
    return "\n".join(_structures())


def _numbers() -> Iterator[str]:
    named = {name: getattr(qos2, name) for name in qos2.__all__}
    told: set[str] = set()
    for name, kind in named.items():
        if isclass(kind) and issubclass(kind, IntEnum):
            yield f"**{name}**: {getdoc(kind)}\n\n| | |\n| --- | --- |"
            yield from (f"| `{one.name}` | {one.value} |" for one in kind)
            yield ""
            told |= set(kind.__members__)
    yield "**Errors, flags and what waits answer**\n\n| | |\n| --- | --- |"
    for name, number in named.items():
        if isinstance(number, int) and name not in told:
            shown = f"{number:#x}" if number > 0xFFFF else str(number)
            yield f"| `{name}` | {shown} |"


def _structures() -> Iterator[str]:
    for name in qos2.__all__:
        kind = getattr(qos2, name)
        if isclass(kind) and issubclass(kind, ctypes.Structure):
            # Of structures of Windows itself ctypes knows the layout only.
            words = "" if kind.__doc__ is None else f": {getdoc(kind)}".replace("``", "`")
            yield f"**{name}**, {ctypes.sizeof(kind)} bytes{words}\n"
            yield "| field | at byte | bytes |\n| --- | --- | --- |"
            for field, *_ in kind._fields_:
                place = getattr(kind, field)
                yield f"| `{field}` | {place.offset} | {place.size} |"
            yield ""

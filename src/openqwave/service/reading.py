"""Tables of a configuration file against the Structs that say what may be in them.

msgspec converts a whole document and stops at its first mistake. Whoever wrote a file wants all of
them, each where it is and in words that say what would be right. So tables are walked here, msgspec
judges one value at a time, and the words come from the same annotations that it judges by.
"""

from __future__ import annotations

import difflib
import math
import re
import typing
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from msgspec import inspect

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from openqwave.service.toml_lines import Place

_T = TypeVar("_T", bound=msgspec.Struct)

# As much of a wrong value as is needed to find it.
_SHOWN: Final = 40
# Where in a list msgspec found a mistake, at the end of what it says.
_ELEMENT: Final = re.compile(r"`\$\[(\d+)\]`$")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a file that has to be put right.

    Attributes:
        place: Where: keys, and positions in arrays.
        reason: What is wrong, and what would be right.
    """

    place: Place
    reason: str


def read(kind: type[_T], table: Mapping[str, object]) -> tuple[_T, list[Problem]]:
    """Convert a file's table.

    Args:
        kind: What it has to be; every key of it has a default.
        table: As `tomllib` reads it.

    Returns:
        The table, with defaults in place of what is wrong, and all that is wrong.
    """
    problems: list[Problem] = []
    return kind(**_fields(kind, table, (), problems)), problems


def name_of(place: Place) -> str:
    """A place as people write it: ``marks.voice.dscp``, ``experiments.allowed #2``."""
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f" #{part + 1}"
        else:
            text += f".{shown(part, _BARE)}" if text else shown(part, _BARE)
    return text


# What need not be quoted in a key.
_BARE: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")


def shown(value: object, bare: re.Pattern[str] | None = None) -> str:
    """A value in a sentence, in one line and not long."""
    match value:
        case bool():
            return str(value).lower()
        case str() if bare is not None and bare.fullmatch(value):
            return value
        case str():
            cut = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
            # What is no printable character, as it is written in a program.
            return '"' + cut.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'
        case dict():
            return "a table"
        case list():
            return "a list"
        case int() if value.bit_length() > 4 * _SHOWN:
            return "a number of many digits"
        case _:
            return str(value)


def _fields(
    kind: type[msgspec.Struct], table: Mapping[str, object], place: Place, problems: list[Problem]
) -> dict[str, Any]:
    """The good fields of a table; what is wrong goes to the problems."""
    hints = _hints(kind)
    found: dict[str, Any] = {}
    for key, value in table.items():
        here = (*place, key)
        hint = hints.get(key)
        if hint is None:
            problems.append(Problem(here, _unknown(here, list(hints))))
            continue
        row = _row_of(hint)
        if row is not None and isinstance(value, list):
            found[key] = tuple(_rows(row, value, here, problems))
            continue
        inner = _struct_of(hint)
        if inner is not None and isinstance(value, dict):
            made = _made(inner, value, here, problems)
            if made is not None:
                found[key] = made
            continue
        problem = _judge(value, hint, here)
        if problem is None:
            found[key] = msgspec.convert(value, hint)
        else:
            problems.append(problem)
    return found


def _rows(
    kind: type[_T], values: list[object], place: Place, problems: list[Problem]
) -> Iterator[_T]:
    """The good ones of an array of tables; what is wrong goes to the problems."""
    for index, value in enumerate(values):
        here = (*place, index)
        if not isinstance(value, dict):
            problems.append(
                Problem(here, f"{name_of(here)} is {shown(value)} and has to be a table")
            )
        elif (made := _made(kind, value, here, problems)) is not None:
            yield made


def _made(
    kind: type[_T], table: Mapping[str, object], place: Place, problems: list[Problem]
) -> _T | None:
    """A table within another; None where something of it is wrong."""
    before = len(problems)
    fields = _fields(kind, table, place, problems)
    problems += _missing(kind, table, place)
    return kind(**fields) if len(problems) == before else None


@lru_cache
def _hints(kind: type[msgspec.Struct]) -> Mapping[str, object]:
    """The keys of a table and what each may be."""
    return typing.get_type_hints(kind, include_extras=True)


def _missing(
    kind: type[msgspec.Struct], table: Mapping[str, object], place: Place
) -> list[Problem]:
    names = [
        field.name
        for field in msgspec.structs.fields(kind)
        if field.required and field.name not in table
    ]
    return [Problem(place, f"{name_of(place)} needs {' and '.join(names)}")] if names else []


def _row_of(hint: object) -> type[msgspec.Struct] | None:
    """The kind of table that a value may be an array of, if it may be one."""
    return _struct_in(typing.get_args(hint)) if typing.get_origin(hint) is tuple else None


def _struct_of(hint: object) -> type[msgspec.Struct] | None:
    """The kind of table that a value may be, if it may be one."""
    if typing.get_origin(hint) is tuple:
        return None
    return _struct_in((hint, *typing.get_args(hint)))


def _struct_in(hints: tuple[object, ...]) -> type[msgspec.Struct] | None:
    for each in hints:
        if isinstance(each, type) and issubclass(each, msgspec.Struct):
            return each
    return None


def _judge(value: object, hint: object, place: Place) -> Problem | None:
    """What is wrong with a value that is no table."""
    info = inspect.type_info(hint)
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        element = _ELEMENT.search(str(error))
        array = _array_of(info)
        if element is not None and array is not None and isinstance(value, list):
            place, value = (*place, int(element[1])), value[int(element[1])]
            info = array.item_type
    else:
        # Not a number is neither below a bound nor above it.
        if not isinstance(value, float) or math.isfinite(value):
            return None
    return Problem(place, f"{name_of(place)} is {shown(value)} and has to be {_expected(info)}")


def _array_of(info: inspect.Type) -> inspect.VarTupleType | None:
    """The list that a value may be, if it may be one."""
    options = info.types if isinstance(info, inspect.UnionType) else (info,)
    return next((each for each in options if isinstance(each, inspect.VarTupleType)), None)


def _expected(info: inspect.Type) -> str:
    """What would be right, in words."""
    match info:
        case inspect.Metadata(extra={"is": str(words)}):
            return words
        case inspect.UnionType(types=types):
            options = [_expected(each) for each in types if not isinstance(each, inspect.NoneType)]
            return " or ".join(options)
        case inspect.LiteralType(values=values):
            return " or ".join(shown(each) for each in values)
        case inspect.IntType(ge=least, le=most):
            return f"a whole number from {least} to {most}"
        case inspect.FloatType(ge=least, le=most):
            return f"a number from {least:g} to {most:g}"
        case inspect.BoolType():
            return "true or false"
        case inspect.StructType():
            return "a table"
        case inspect.VarTupleType(item_type=item):
            return f"a list, each of which is {_expected(item)}"
        case _:
            raise AssertionError(f"no words for {info}")


def _unknown(place: Place, known: list[str]) -> str:
    """That nothing of this name can be there, and what can."""
    key = str(place[-1])
    likely = difflib.get_close_matches(key[:_SHOWN], known, n=1)
    guess = f"is {likely[0]!r} meant? " if likely else ""
    where = f"in [{name_of(place[:-1])}]" if len(place) > 1 else "at the top"
    return f"{name_of(place)} is not known; {guess}known {where}: {', '.join(known)}"

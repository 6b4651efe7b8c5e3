"""Where in a TOML file each value stands.

`tomllib` reads a file into values and forgets where they were, and whoever is told that a number
is too large wants to know in which line. This walks over a text that `tomllib` has accepted, so it
need not ask whether the text is TOML, and has only to tell its pieces apart (TOML 1.0): tables,
arrays of tables, dotted and quoted keys, strings of four kinds, arrays and tables within a value.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

# Keys, and positions in arrays, from the top down.
Place: TypeAlias = "tuple[str | int, ...]"

# Deeper than any configuration goes; what is further down has the place of what it is in. A key of
# thousands of parts would cost the square of them.
DEEPEST: Final = 8

_SPACE: Final = re.compile(r"[ \t]*")
# What may stand between statements, and between the elements of an array.
_BLANK: Final = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
# The opening and closing quotes belong to it; a closing one may have two more of its kind before.
_STRING: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")'
    r"|'''.*?'{3,5}(?!')"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
# Numbers, truth values and dates, one of which has a space in it.
_PLAIN: Final = re.compile(r"[^,\]}#\n]+")
# What can hold a bracket that is none, or is one; each a piece, and the rest a character each.
_PIECES: Final = re.compile(rf"{_STRING.pattern}|#[^\n]*|.", re.DOTALL)


def places_of(text: str) -> dict[Place, int]:
    """The line of each table and value of a text that is TOML; lines count from 1."""
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.scan()
    return scanner.lines


def line_of(lines: Mapping[Place, int], place: Place) -> int | None:
    """The line of a value, or of what it is missing in; None for the whole file."""
    while place:
        if place in lines:
            return lines[place]
        place = place[:-1]
    return None


def line_of_depth(text: str, depth: int) -> int | None:
    """The line in which arrays and tables are first so deep in one another, TOML or not."""
    now, line = 0, 1
    for piece in _PIECES.finditer(text):
        now += {"[": 1, "{": 1, "]": -1, "}": -1}.get(piece[0], 0)
        if now == depth:
            return line
        line += piece[0].count("\n")
    return None


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._breaks = [each.start() for each in re.finditer("\n", text)]
        # How many tables each array of tables has so far.
        self._counts: dict[Place, int] = {}
        self.lines: dict[Place, int] = {}

    def scan(self) -> None:
        table: Place = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _header(self) -> Place:
        is_array = self._text.startswith("[[", self._at)
        line = self._line()
        self._at += 2 if is_array else 1
        keys = self._keys()
        self._at += 2 if is_array else 1
        place: Place = ()
        for index, key in enumerate(keys):
            place = self._note(place, key, line)
            if is_array and index == len(keys) - 1:
                self._counts[place] = self._counts.get(place, 0) + 1
            # Further down it goes in the last table of an array.
            if place in self._counts:
                place = self._note(place, self._counts[place] - 1, line)
        # A table may be named after those in it.
        self.lines[place] = line
        return place

    def _pair(self, table: Place) -> None:
        line = self._line()
        place = table
        for key in self._keys():
            place = self._note(place, key, line)
        self._at += 1
        self._value(place)

    def _keys(self) -> list[str]:
        """A key, dotted or not; what comes after it is "=" or "]"."""
        keys = []
        while True:
            self._skip(_SPACE)
            if self._text[self._at] in "\"'":
                keys.append(str(tomllib.loads(f"key = {self._take(_STRING)}")["key"]))
            else:
                keys.append(self._take(_BARE_KEY))
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return keys
            self._at += 1

    def _value(self, place: Place) -> None:
        self._skip(_SPACE)
        first = self._text[self._at]
        if first == "[":
            self._array(place)
        elif first == "{":
            self._inline_table(place)
        else:
            self._take(_STRING if first in "\"'" else _PLAIN)

    def _array(self, place: Place) -> None:
        self._at += 1
        for index in range(len(self._text)):
            self._skip(_BLANK)
            if self._text[self._at] == "]":
                break
            self._value(self._note(place, index, self._line()))
            self._skip(_BLANK)
            if self._text[self._at] == ",":
                self._at += 1
        self._at += 1

    def _inline_table(self, place: Place) -> None:
        self._at += 1
        self._skip(_BLANK)
        while self._text[self._at] != "}":
            self._pair(place)
            self._skip(_BLANK)
            if self._text[self._at] == ",":
                self._at += 1
                self._skip(_BLANK)
        self._at += 1

    def _note(self, place: Place, part: str | int, line: int) -> Place:
        """The place of a part of a place, which is in a line unless it has begun before."""
        if len(place) == DEEPEST:
            return place
        place += (part,)
        self.lines.setdefault(place, line)
        return place

    def _line(self) -> int:
        return bisect_left(self._breaks, self._at) + 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        self._take(pattern)

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise ValueError(f"no TOML at line {self._line()}")
        self._at = found.end()
        return found[0]

"""Numbers and names as people read them, and names that must not do anything to a terminal.

What programs and users are called is theirs to choose, so it may hold what moves a cursor, turns
writing round or rings a bell. Whatever does not print is written as its number.
"""

from __future__ import annotations

import time
import unicodedata

_NS_PER_S = 1_000_000_000
# As much of a name as anybody reads.
LONGEST_NAME = 64

_MBPS = 1_000_000

# Each unit of time, with what it lasts, and from which time on it is used.
_UNITS = ((86_400, "d", 172_800), (3_600, "h", 7_200), (60, "min", 120))


def clean(text: str, most: int | None = None) -> str:
    r"""Text of others, made harmless: what does not print becomes ``\x1b`` and the like.

    Args:
        text: It.
        most: How many characters may be left; None for all.
    """
    if not text.isprintable():
        text = "".join([one if one.isprintable() else _escaped(one) for one in text])
    return text if most is None or len(text) <= most else text[: most - 1] + "…"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def name(text: str) -> str:
    """A program's or a user's name; "?" for one without."""
    return clean(text, LONGEST_NAME) if text else "?"


def cells(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_cells_of, text))


def _cells_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """A text in so many columns at most, with a mark where something is missing."""
    if cells(text) <= width:
        return text
    taken, left = "", width - 1
    for character in text:
        left -= _cells_of(character)
        if left < 0:
            break
        taken += character
    return taken + "…"


def figure(number: float) -> str:
    """A number of anything: three digits, and more for whole ones."""
    if number >= 100:
        return f"{number:.0f}"
    if number >= 10:
        return f"{number:.1f}"
    if number >= 0.01:
        return f"{number:.2f}"
    return "<0.01" if number else "0"


def rate(bps: int | None, unknown: str = "?") -> str:
    """A rate in Mbit/s, without the unit."""
    return unknown if bps is None else figure(bps / _MBPS)


def duration(time_ns: int | None, unknown: str = "?") -> str:
    """A time in the unit that suits it."""
    if time_ns is None:
        return unknown
    time_s = time_ns / _NS_PER_S
    for length_s, unit, from_s in _UNITS:
        if time_s >= from_s:
            return f"{time_s // length_s:.0f} {unit}"
    return f"{time_s:.0f} s" if time_s >= 10 else f"{time_s:.1f} s"


def clock(at_s: float, now_s: float) -> str:
    """When something was: the time of the day, or month, day and minute of another day.

    Args:
        at_s: When, CLOCK_REALTIME.
        now_s: Now, likewise.
    """
    at, now = time.localtime(at_s), time.localtime(now_s)
    return time.strftime("%H:%M:%S" if at[:3] == now[:3] else "%m-%d %H:%M", at)


def counted(count: int, thing: str) -> str:
    """A number of things: ``1 flow``, ``2 flows``."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def bytes_sent(count: int) -> str:
    """A number of bytes in the unit that suits it, thousands each."""
    for size, unit in ((1_000_000_000, "GB"), (1_000_000, "MB")):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count / 1e3:.0f} kB"

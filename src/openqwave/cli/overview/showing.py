"""What was seen, where output goes: a document for programs, or a page for people.

A terminal gets colours, unless the user wants none (NO_COLOR), and lines that fit it. While it
watches, the page changes in place and as many rows are shown as there is room for. A file or a
pipe gets the same lines as they are, and nothing in them that moves a cursor.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from openqwave.cli.views import PlainView, View

if TYPE_CHECKING:
    from types import TracebackType

    from rich.text import Text

    from openqwave.cli.overview.pages import Line, Page

# What documents are in; raised when a reader of the present ones would read another wrongly.
FORMAT: Final = 1

# The line that the cursor is left on.
_CURSOR_LINES = 1
# Terminals that say that they can do nothing.
DUMB = frozenset({"", "dumb", "unknown"})


class Seen(Protocol):
    """What a look at the service has found.

    Attributes:
        things: What its rows are of, as a word for several.
    """

    @property
    def things(self) -> str:
        """What its rows are of, as a word for several."""

    def fields(self) -> dict[str, Any]:
        """All of it, as JSON."""

    def page(self, width: int | None) -> Page:
        """What of it people are shown, in lines of a width."""


class DocumentView(PlainView):
    """Writes one JSON document; on one line where others follow.

    Args:
        is_followed: Whether others follow.
    """

    def __init__(self, *, is_followed: bool) -> None:
        self._indent = None if is_followed else 2

    def show(self, seen: Seen) -> None:
        """Write it."""
        document = {"format": FORMAT, "time_ns": time.time_ns()} | seen.fields()
        write_out(json.dumps(document, indent=self._indent) + "\n")


class PageView(PlainView):
    """Writes pages one after the other, for a file or a terminal that can nothing else.

    Args:
        is_followed: Whether others follow; then each begins with the time.
    """

    def __init__(self, *, is_followed: bool) -> None:
        self._is_followed = is_followed

    def show(self, seen: Seen) -> None:
        """Write one."""
        lines = ["".join([text for text, _ in line]) for line in seen.page(_width()).lines()]
        if self._is_followed:
            lines = [time.strftime("%H:%M:%S"), *lines, ""]
        write_out(encodable("\n".join(lines) + "\n"))


class ColouredView(PlainView):
    """Writes one page to a terminal."""

    def show(self, seen: Seen) -> None:
        """Write it."""
        from rich.console import Console

        console = Console(highlight=False, markup=False, emoji=False)
        page = seen.page(console.width)
        console.print(_painted(page.lines()), soft_wrap=True)


class LiveView:
    """Changes a page in place, at each look and from no thread of its own."""

    def __init__(self) -> None:
        # Here, because this takes longer to load than a document takes to write.
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")

    def show(self, seen: Seen) -> None:
        """Redraw."""
        width, height = self._console.size
        page = seen.page(width).cropped(height - _CURSOR_LINES, seen.things)
        self._live.update(_painted(page.lines()), refresh=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)


def view(*, as_json: bool, watches: bool) -> View[Seen]:
    """Choose how to show what is seen."""
    if as_json:
        return DocumentView(is_followed=watches)
    if not is_capable():
        return PageView(is_followed=watches)
    return LiveView() if watches else ColouredView()


def is_capable() -> bool:
    """Is standard output a terminal that can do more than show one character after the other?"""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in DUMB


def _width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _painted(lines: list[Line]) -> Text:
    from rich.text import Text

    painted = Text(no_wrap=True, overflow="crop", end="")
    for number, line in enumerate(lines):
        if number:
            painted.append("\n")
        for text, style in line:
            painted.append(encodable(text), style or None)
    return painted


def encodable(text: str, encoding: str | None = None) -> str:
    """The text, with what an encoding lacks written as its number.

    Args:
        text: It.
        encoding: That of standard output when None.
    """
    encoding = encoding or sys.stdout.encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace("…", "~").encode(encoding, "backslashreplace").decode(encoding)
    return text


def write_out(text: str) -> None:
    """Write to standard output, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()
